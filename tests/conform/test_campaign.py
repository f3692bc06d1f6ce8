"""Campaigns: what a guest answers is kept, compared, counted, shrunk and shown. The guest here is the model itself."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mmlitmus.conform import campaign as campaigns
from mmlitmus.conform import explained
from mmlitmus.conform.campaign import Answers, Campaign, Compared, Kernel, answers_at, run
from mmlitmus.conform.codec import encode
from mmlitmus.conform.compare import Field
from mmlitmus.conform.execute import Seen, execute
from mmlitmus.conform.explained import Explained
from mmlitmus.conform.generate import programs
from mmlitmus.conform.live import header_of
from mmlitmus.conform.schema import Message, Observed, Program, Step, read_step
from mmlitmus.conform.shrink import shrink, signature
from mmlitmus.report import conform as report

from .test_live import IDENTITY, READY

MODEL = "deb-6.12.117"
REGIONS = [
    {"name": "bar", "pfn": "0xfd000", "pages": 4096, "valid": False},
    {"name": "reserved", "pfn": "0x10000", "pages": 4096, "valid": True, "reserved": True},
    {"name": "hole", "pfn": "0x20000", "pages": 32768, "valid": False},
    {"name": "ram", "pfn": "0x5600", "pages": 512, "valid": True, "reserved": False},
]
MACHINE = {**READY, "regions": REGIONS, "devices": [], "version": "Debian 6.12.117-1"}


@dataclass(frozen=True)
class Ran:
    kind: str
    lines: tuple[str, ...]
    console: tuple[str, ...] = ()
    why: str = ""


@dataclass
class Echo:
    """A guest that answers what the model of ``spec`` says, changed by ``lies`` (step, observed as JSON)."""

    spec: str = MODEL
    lies: Callable[[Step, dict[str, Any]], None] = lambda step, seen: None
    dies: Callable[[Step], str] = lambda step: ""
    texts: list[str] = field(default_factory=list)

    def run(self, program: str, timeout: float = 0) -> Ran:
        self.texts.append(program)
        ident, steps = parsed(program)
        header = header_of(MACHINE, IDENTITY)
        execution = execute(Program(id=ident, steps=steps), header, self.spec)
        said: list[dict[str, Any]] = [{"begin": ident, "memtypes": []}]
        for n, (step, seen) in enumerate(zip(steps, execution.steps, strict=False)):
            if self.dies(step):
                return Ran(self.dies(step), tuple(map(json.dumps, said)), ("[1] BUG: dead",), "BUG: dead")
            observed = answer(step, seen)
            self.lies(step, observed)
            said.append({"step": n, "observed": observed})
        log = [line if isinstance(line, str) else printed(line) for line in execution.log]
        said.append({"end": ident, "log": log, "stopped": None, "clean": True})
        return Ran("ended", tuple(map(json.dumps, said)))


def parsed(text: str) -> tuple[str, tuple[Step, ...]]:
    """The agent's reading of a program, places included."""
    ident, steps = "", []
    for line in text.splitlines():
        word, *fields = line.split(" ")
        if word == "program":
            ident = fields[0]
        elif line.startswith("places="):
            places = line.removeprefix("places=").split(",")
            seen = Observed(entries=dict.fromkeys(places), vm_flags=dict.fromkeys(places), memtypes=())
            steps[-1] = replace(steps[-1], observed=seen)
        elif word != "end":
            given: dict[str, Any] = {"op": word}
            for name, _, value in (f.partition("=") for f in fields):
                given[name] = [f for f in value.split(",") if f] if name == "flags" else value
                if re.fullmatch(r"\d+", value):
                    given[name] = int(value)
            steps.append(read_step(given, line))
    return ident, tuple(steps)


def printed(message: Message) -> str:
    """The line that the kernel prints."""
    at = f"[mem {message.start:#x}-{message.end - 1:#x}]"
    return {
        "freeing-invalid-memtype": f"x86/PAT: process:9 freeing invalid memtype {at}",
        "expected-mapping-type": f"x86/PAT: process:9 map pfn expected mapping type write-back for {at}, got uncached",
        "ram-range-type": f"x86/PAT: process:9 map pfn RAM range req uncached for {at}, got write-back",
    }[message.message]


def answer(step: Step, seen: Seen) -> dict[str, Any]:
    """What an agent would say of what the model did."""
    observed: dict[str, Any] = {
        "entries": {place: str(replace(e, ram=False)) for place, e in seen.entries.items()},
        "vm_flags": dict(seen.vm_flags),
        "memtypes": [encode(m) for m in seen.memtypes or ()],
    }
    if step.has_result and seen.outcome is not None:
        how = "ok" if seen.outcome == "ok" else "errno" if seen.outcome.startswith("-") else "signal"
        observed["result"] = {how: True if how == "ok" else seen.outcome.lstrip("-")}
        if how == "signal" and seen.code is not None:
            observed["result"]["code"] = seen.code
    return observed


def kernel_of(guest: Any, answers: Answers | None = None, model: str = MODEL) -> Kernel:
    return Kernel(guest, MACHINE, IDENTITY, "pc", model, answers or Answers(None))


def ram_apart(step: Step, seen: dict[str, Any]) -> None:
    """The model's RAM frames are not at a place that the header does not give to something else."""
    for place, entry in seen["entries"].items():
        level, bits = entry.split(":")
        if level == "pte" and int(bits, 16) & 1 and not int(bits, 16) & 0x000F_FFFF_FFFF_F000:
            seen["entries"][place] = f"pte:{int(bits, 16) | 0x7777000:#x}"


def no_unmap(step: Step, seen: dict[str, Any]) -> None:
    """A kernel whose munmap fails."""
    ram_apart(step, seen)
    if step.op == "unmap":
        seen["result"] = {"errno": "EPERM"}


def test_a_kernel_that_does_what_the_model_does_agrees() -> None:
    campaign = run(kernel_of(Echo(lies=ram_apart)), programs(11, 25), Campaign("6.12", MODEL))
    counts = campaign.counts
    assert campaign.refused == []
    assert counts["programs"] == 25
    assert counts["unexplained"] == counts["explained"] == 0
    assert counts["fields"] == counts["agreed"] + counts["excluded"] + counts["unobserved"]
    assert counts["agreed"] > 10_000
    assert campaign.good


def test_a_kernel_of_another_age_does_not_agree() -> None:
    campaign = run(kernel_of(Echo("deb-5.10.262", ram_apart)), programs(1, 60), Campaign("5.10", MODEL))
    assert campaign.unexplained
    assert not campaign.good


def test_a_difference_is_counted_at_its_operation_and_shrunk_to_it() -> None:
    kernel = kernel_of(Echo(lies=no_unmap))
    campaign = Campaign("6.12", MODEL)
    found: list[tuple[Compared, Field]] = []
    run(kernel, programs(11, 15), campaign, lambda one, left: found.extend((one, f) for f in left[:1]))
    assert campaign.operations["unmap"].fields["unexplained"] > 0
    assert sum(t.fields["unexplained"] for op, t in campaign.operations.items() if op != "unmap") == 0
    one, difference = found[0]
    assert len(one.program.steps) > 3
    smallest = shrink(one.program, signature(difference), kernel.compare, lambda c: c.different)
    assert smallest is not None
    assert [s.op for s in smallest[0].program.steps] == ["unmap"]
    assert (smallest[1].recorded, smallest[1].model) == ("-EPERM", "ok")
    lines = report.difference("6.12", MODEL, report.Difference(smallest[0], (smallest[1],), 3, True))
    text = "\n".join(lines)
    assert "and 2 more like it" in lines[0]
    assert "outcome: kernel -EPERM" in text
    assert "         model  ok" in text


def test_a_difference_that_does_not_come_again_is_not_shrunk() -> None:
    (program,) = programs(11, 1)
    kernel = kernel_of(Echo(lies=ram_apart))
    assert shrink(program, ("unmap", "outcome", "-EPERM", "ok"), kernel.compare, lambda c: c.different) is None


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    guest = Echo(lies=ram_apart)
    for _ in range(2):
        campaign = run(
            kernel_of(guest, answers_at(tmp_path, "6.12", IDENTITY)), programs(5, 6), Campaign("6.12", MODEL)
        )
        assert campaign.counts["programs"] == 6
        assert campaign.good
    assert len(guest.texts) == 6
    other = answers_at(tmp_path, "6.12", {**IDENTITY, "agent": "2" * 64})
    assert other.known == {}, "another agent is asked afresh"


def test_a_broken_off_write_loses_nothing_but_itself(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "answers")
    for text in ("one", "two"):
        answers.put(text, Ran("ended", ("{}",)), MACHINE)
    raw = (tmp_path / "answers").read_bytes()
    (tmp_path / "answers").write_bytes(raw[:-3])
    again = Answers(tmp_path / "answers")
    assert again.get("one") is not None
    assert again.get("two") is None
    again.put("two", Ran("ended", ("{}",)), MACHINE)
    assert Answers(tmp_path / "answers").get("two") is not None


def test_ctrl_c_keeps_what_was_counted(tmp_path: Path) -> None:
    class Stops(Echo):
        def run(self, program: str, timeout: float = 0) -> Ran:
            if len(self.texts) == 3:
                raise KeyboardInterrupt
            return super().run(program, timeout)

    campaign = Campaign("6.12", MODEL)
    with pytest.raises(KeyboardInterrupt):
        run(kernel_of(Stops(lies=ram_apart), Answers(tmp_path / "a")), programs(5, 6), campaign)
    assert campaign.counts["programs"] == 3
    assert len(Answers(tmp_path / "a").known) == 3


def test_a_guest_that_dies_is_a_difference_and_the_rest_goes_on() -> None:
    guest = Echo(lies=ram_apart, dies=lambda step: "oops" if step.op == "unmap" else "")
    campaign = run(kernel_of(guest), programs(5, 12), Campaign("6.12", MODEL))
    assert campaign.counts["programs"] == 12
    assert 0 < campaign.died["oops"] < 12
    assert len(campaign.unexplained) == campaign.died["oops"]
    assert "ended the guest (oops)" in "\n".join(report.notes(campaign))


def test_a_death_that_does_not_come_again_is_the_emulators() -> None:
    class Trips(Echo):
        def run(self, program: str, timeout: float = 0) -> Ran:
            again = program in self.texts
            ran = super().run(program, timeout)
            return ran if again else Ran("died", (), (), "QEMU ended")

    campaign = run(kernel_of(Trips(lies=ram_apart)), programs(5, 3), Campaign("6.12", MODEL))
    assert campaign.good
    assert not campaign.died


def test_what_cannot_be_compared_is_said_and_is_not_good() -> None:
    def refuses(step: Step, seen: dict[str, Any]) -> None:
        seen["result"] = {"ok": True, "errno": "EIO"}

    campaign = run(kernel_of(Echo(lies=refuses)), programs(5, 2), Campaign("6.12", MODEL))
    assert len(campaign.refused) == 2
    assert campaign.counts["programs"] == 0
    assert not campaign.good
    assert "could not be compared" in report.notes(campaign)[0]


def test_an_explanation_covers_its_fields_up_to_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Explained("no-unmap", "munmap fails", 100, lambda kernel, f: f.step.op == "unmap")
    for cap, good in ((100.0, True), (1.0, False)):
        entries = (replace(one, cap=cap),)
        monkeypatch.setattr(explained, "EXPLAINED", entries)
        monkeypatch.setattr(campaigns, "EXPLAINED", entries)
        monkeypatch.setattr(report, "EXPLAINED", entries)
        campaign = run(kernel_of(Echo(lies=no_unmap)), programs(11, 15), Campaign("6.12", MODEL))
        assert campaign.counts["unexplained"] == 0
        assert campaign.counts["explained"] > 0
        assert campaign.good == good
        assert ("more than" in "\n".join(report.notes(campaign))) == (not good)


def test_every_explanation_has_a_reason_and_a_small_cap() -> None:
    for one in explained.EXPLAINED:
        assert one.reason
        assert 0 < one.cap <= 2


# -- the report -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def differing() -> tuple[Campaign, dict[str, list[report.Difference]]]:
    campaign = Campaign("6.12", MODEL)
    shown: list[report.Difference] = []
    kernel = kernel_of(Echo(lies=no_unmap))
    run(
        kernel,
        programs(11, 6),
        campaign,
        lambda one, left: shown.append(report.Difference(one, tuple(left))) if left else None,
    )
    return campaign, {"6.12": shown}


def test_the_table_adds_up(differing: tuple[Campaign, dict[str, list[report.Difference]]]) -> None:
    campaign, _ = differing
    head, *rows = report.table([campaign])
    assert head.split() == ["kernel", "operation", "done", "fields", *report.VERDICTS]
    numbers = [[int(n) for n in row.split()[-7:]] for row in rows]
    for column in range(len(numbers[0])):
        assert sum(row[column] for row in numbers[:-1]) == numbers[-1][column]


def test_json(differing: tuple[Campaign, dict[str, list[report.Difference]]]) -> None:
    campaign, differences = differing
    said = json.loads(report.as_json([campaign], differences))["6.12"]
    for name in ("programs", "operations", "fields", "agreed", "explained", "unexplained"):
        assert said[name] == campaign.counts[name]
    assert said["differences"][0]["fields"][0]["kernel"] == "-EPERM"
    assert said["differences"][0]["steps"]


def test_ktap(differing: tuple[Campaign, dict[str, list[report.Difference]]]) -> None:
    campaign, differences = differing
    lines = report.ktap([campaign], differences)
    assert lines[:2] == ["KTAP version 1", "1..1"]
    assert lines[-1] == "not ok 1 6.12"
    results = [line for line in lines if re.match(r"  (not )?ok ", line)]
    assert [line for line in results if line.startswith("  not ok")] == [r for r in results if r.endswith(" unmap")]
    assert f"  1..{len(results)}" in lines


# -- the command ------------------------------------------------------------------------------------------------------
def mmlitmus(*words: str, **env: str) -> Any:
    from mmlitmus.cli.conform_ import command

    return CliRunner().invoke(command, list(words), env=env, standalone_mode=False)


def test_without_qemu_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mmlitmus.conform.lab import Lab

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Lab, "kernel", lambda *a: None)
    result = mmlitmus("--kernel", "6.12", MMLITMUS_LAB=str(tmp_path))
    assert result.exception is not None
    assert result.exception.exit_code == 2
    assert "qemu-system-x86" in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_kernel_that_is_not_fetched_or_not_known(tmp_path: Path) -> None:
    for name, said in (("6.12", "mmlitmus lab fetch 6.12"), ("2.4", "knows no kernel '2.4'")):
        result = mmlitmus("--kernel", name, MMLITMUS_LAB=str(tmp_path))
        assert result.exception.exit_code == 2
        assert said in str(result.exception)


def test_recorded_needs_no_guest(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmlitmus.conform.__main__.packaged", lambda: [])
    assert mmlitmus("--recorded").return_value == 0
    assert mmlitmus("--recorded", "--kernel", "6.12").exception is not None


def test_programs_of_a_run() -> None:
    from mmlitmus.cli.conform_ import SEED, Choice

    both = Choice(60, None, None)
    assert [len(both.of(m)) for m in ("pc", "q35")] == [50, 10]
    assert both.unseen is not None
    assert {p.seed for p in both.of("pc")} == {SEED, both.unseen}
    one = Choice(60, 9, None)
    assert one.unseen is None
    assert {p.seed for p in one.of("pc")} == {9}
    only = Choice(20, 9, "q35")
    assert [len(only.of(m)) for m in ("pc", "q35")] == [0, 20]


# -- a real kernel ----------------------------------------------------------------------------------------------------
def why_no_lab() -> str:
    """Why no kernel can be booted here; empty if one can."""
    if shutil.which("qemu-system-x86_64") is None:
        return "there is no qemu-system-x86_64"
    from mmlitmus.conform.lab import Lab, LabError

    try:
        Lab().kernel("6.12")
    except LabError as e:
        return str(e)
    return ""


@pytest.mark.slow
def test_six_twelve_agrees_with_the_model() -> None:
    why = why_no_lab()
    if why:
        pytest.skip(why)
    result = mmlitmus("--kernel", "6.12", "--programs", "24", "--seed", "2", "--json", **os.environ)
    said = json.loads(result.stdout)["6.12"]
    assert said["programs"] == 24
    assert said["unexplained"] == 0
    assert said["not_compared"] == {}
    assert result.return_value == 0
