"""The kill matrix: every choice that a task can see is seen by a recorded program, and what survives has a reason."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mmlitmus.conform import kill
from mmlitmus.conform.campaign import Campaign, Compared, run
from mmlitmus.conform.compare import Field, compare_program
from mmlitmus.conform.execute import execute
from mmlitmus.conform.generate import programs
from mmlitmus.conform.kill import (
    KILLED,
    NEVER,
    OTHERS,
    REASONS,
    RULES,
    SAME,
    UNREACHABLE,
    Flip,
    Killers,
    Recorded,
    Verdict,
    consulted,
    derive,
    files,
    flips,
    kills,
    matrix,
    named,
    recorded,
    survivor,
)
from mmlitmus.conform.shrink import shrink, signature
from mmlitmus.conform.store import RECORDINGS, load
from mmlitmus.kernel import eras
from mmlitmus.kernel.policy import HOMES
from mmlitmus.report import kills as report
from mmlitmus.report.schemas import SCHEMAS
from schema_check import valid

from .test_campaign import MODEL, Echo, kernel_of

#: some programs of MODEL with the probe module, generated, and its recorded revocations
SOME = ("live/live-6.12-pc.jsonl.gz", "vfiorev/vfiorev-6.12.jsonl")
#: kernels without a probe module
BARE = ("deb-6.16.12", "deb-6.18.15")


# -- the packaged recordings ------------------------------------------------------------------------------------------
#: one killer in so many is asked by default
SOME_KILLERS = 6


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, SOME_KILLERS))])
def test_each_killer_kills(part: int) -> None:
    """That there is none for the others is a slow test: every recorded program on every flip."""
    everyone = Killers.load().killed
    killed = {flip: everyone[flip] for flip in [*everyone][part::SOME_KILLERS]}
    programs = named(killed.values())
    for flip, name in killed.items():
        assert name in programs, f"{name} is not recorded any more: mmlitmus kills --write"
        assert kills(programs[name], flip), f"{name} no longer tells {flip.spec} from {flip.kernel}"


def test_the_file_speaks_of_every_flip_of_every_recorded_kernel() -> None:
    found = Killers.load()
    every = {flip for kernel in files() for flip in flips(kernel)}
    assert set(found.killed) | set(found.survived) == every, "mmlitmus kills --write"
    assert set(found.survived.values()) <= set(REASONS)


def test_what_survives_with_a_reason_of_its_own_has_it_by_rule() -> None:
    for flip, reason in Killers.load().survived.items():
        if reason in (OTHERS, UNREACHABLE):
            assert survivor(flip, 1, flip.kernel not in BARE).reason == reason, flip


def test_every_rule_is_needed() -> None:
    survived = [flip for flip, reason in Killers.load().survived.items() if reason in (OTHERS, UNREACHABLE, NEVER)]
    for rule in RULES:
        assert rule.reason in (OTHERS, UNREACHABLE)
        assert any(
            rule.applies(flip, eras.kernel(flip.kernel).choices, probe) for flip in survived for probe in (True, False)
        ), rule.name


def test_what_is_known_is_not_asked_again() -> None:
    found = derive(MODEL, [], Killers.load())
    assert Killers.of(found).killed == {f: n for f, n in Killers.load().killed.items() if f.kernel == MODEL}


@pytest.mark.slow
def test_what_survives_is_killed_by_none_of_some_programs_of_each_recording() -> None:
    kept = Killers.load()
    found = Killers.of(matrix(list(files()), jobs=2, most=12, known=kept))
    assert found.killed == kept.killed
    assert set(found.survived) == set(kept.survived)


# -- how it works -----------------------------------------------------------------------------------------------------
def test_flips_are_every_other_alternative_of_every_seam() -> None:
    own = eras.kernel(MODEL).choices
    found = flips(MODEL)
    assert {flip.seam for flip in found} == {seam for seam in HOMES if len(eras.alternatives(seam)) > 1}
    assert all(flip.alternative != own[flip.seam] for flip in found)
    assert eras.kernel(found[0].spec).choices[found[0].seam] == found[0].alternative


@cache
def programs_in(file: str) -> list[Recorded]:
    recording = load(RECORDINGS / file)
    return [Recorded(file, program, recording.header) for program in recording.programs]


def generated() -> list[Recorded]:
    return programs_in(SOME[0])


def test_what_was_recorded_on_a_kernel() -> None:
    assert recorded(BARE[0]) == [
        one for path in files()[BARE[0]] for one in programs_in(str(path.relative_to(RECORDINGS)))
    ]


def test_what_a_program_asks() -> None:
    one = next(one for one in generated() if any(step.op == "fork" for step in one.program.steps))
    asked = consulted(one, MODEL)
    assert "dup_mmap" in asked
    assert "huge_pgprot" not in asked
    assert asked <= set(HOMES)


def test_a_program_kills_a_flip_that_it_sees_and_no_other() -> None:
    killers = Killers.load()
    flip, name = next((f, n) for f, n in killers.killed.items() if f.kernel == MODEL and f.seam == "saved_dirty")
    one = named([name])[name]
    assert kills(one, flip).startswith("step ")
    assert kills(one, Flip(MODEL, "pfnmap_flush", "none")) == ""


def test_a_warning_of_the_kernels_is_compared() -> None:
    found = [one for one in generated() if one.program.warned]
    assert found, "6.12 warns of a remap_pfn_range in ->fault"
    assert kills(found[0], Flip(MODEL, "vma_flags_write", "unchecked")).endswith(": warned")
    quiet = next(one for one in generated() if not one.program.warned and one.program.log is not None)
    assert not quiet.program.warned
    unlogged = next(one for one in programs_in(SOME[1]) if one.program.log is None)
    for one, names in ((quiet, {"warned"}), (unlogged, set())):
        fields = compare_program(one.program, execute(one.program, one.header, MODEL), one.layout)
        assert {f.name for f in fields if f.name == "warned"} == names


def test_a_program_by_name() -> None:
    one = generated()[7]
    assert named([one.name, "live/no-such.jsonl:1", f"{one.file}:no-such"]) == {one.name: one}


def test_without_programs_everything_survives_and_is_never_asked() -> None:
    verdicts = derive(MODEL, [])
    assert {v.reason for v in verdicts} == {NEVER}
    assert all(v.why for v in verdicts)


def test_a_survivor_without_a_rule_is_a_gap() -> None:
    assert survivor(Flip(MODEL, "saved_dirty", "dirty-stays"), 9, True).reason == SAME
    assert survivor(Flip(MODEL, "pfnmap_flush", "none"), 9, True).reason == OTHERS


def test_the_file_is_the_same_bytes_for_the_same_matrix(tmp_path: Path) -> None:
    flip = Flip(MODEL, "saved_dirty", "dirty-stays")
    other = Flip("deb-5.10.262", "pfnmap_flush", "none")
    found = Killers.of([Verdict(flip, KILLED, "live/x:1", "step 0: entry"), Verdict(other, OTHERS)])
    for name in ("one", "two"):
        found.dump(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert Killers.load(tmp_path / "one") == found


def test_a_spec_with_a_flip() -> None:
    from mmlitmus.kernel.policy import KernelSpecError

    assert eras.kernel("v6.1 saved_dirty=saved lockdep").spec == "v6.1 saved_dirty=saved lockdep"
    for wrong in ("v6.1 nothing=x", "v6.1 saved_dirty=x", "v6.1 saved_dirty=saved saved_dirty=saved"):
        with pytest.raises(KernelSpecError):
            eras.kernel(wrong)


# -- shrinking --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "planted", ["saved_dirty=dirty-stays", "do_mremap=target-first", "madvise_behavior_valid=to-pageout"]
)
def test_a_planted_bug_shrinks_to_four_steps(planted: str) -> None:
    """The model has it; the kernel, here the model without it, has not."""
    kernel = kernel_of(Echo(MODEL), model=f"{MODEL} {planted}")
    found: list[tuple[Compared, Field]] = []
    campaign = Campaign("6.12", kernel.model)
    for program in programs(3, 60):
        run(kernel, [program], campaign, lambda one, left: found.extend((one, f) for f in left[:1]))
        if found:
            break
    one, difference = found[0]
    smallest = shrink(one.program, signature(difference), kernel.compare, lambda c: c.different)
    assert smallest is not None
    assert len(smallest[0].program.steps) <= 4, [str(step) for step in smallest[0].program.steps]


# -- the report and the command ---------------------------------------------------------------------------------------
def test_the_report_names_what_survives() -> None:
    flip = Flip(MODEL, "saved_dirty", "dirty-stays")
    verdicts = [
        Verdict(flip, SAME, why="whoever asked saw the same", asked=3),
        Verdict(Flip(MODEL, "pfnmap_flush", "none"), KILLED, "live/x:1", "warning"),
    ]
    head, row = report.table(verdicts)
    assert row.split() == [MODEL, "2", "1", "0", "0", "0", "1"]
    assert len(head) == len(row)
    assert report.survivors(verdicts) == [f"{flip.spec}: {SAME} (asked by 3 programs): whoever asked saw the same"]
    valid(json.loads(report.as_json(verdicts)), SCHEMAS["kills"])
    assert json.loads(report.as_json(verdicts))[1]["killer"] == "live/x:1"


def mmlitmus_kills(*words: str) -> Any:
    from mmlitmus.cli.kills_ import command

    return CliRunner().invoke(command, list(words), standalone_mode=False)


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "flips", lambda kernel: [Flip(kernel, "vfio_pci", "v5.14")])
    result = mmlitmus_kills("--kernel", "deb-6.16.12", "--all")
    assert result.return_value == 0
    assert "deb-6.16.12 vfio_pci=v5.14: vfiorev/" in result.stdout


def test_the_command_is_told_what_there_is() -> None:
    assert mmlitmus_kills("--kernel", "v6.6").exception.exit_code == 2
    assert "--write" in str(mmlitmus_kills("--kernel", MODEL, "--write").exception)
