"""Coverage: what a step reached, which classes there are, and what is named unreachable."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from click.testing import CliRunner

from mmlitmus.conform.coverage import (
    CORPUS,
    ENOUGH,
    UNREACHABLE,
    Reached,
    classes,
    errnos,
    modelled,
    rare,
    unnamed,
)
from mmlitmus.conform.execute import execute
from mmlitmus.conform.generate import MACHINES
from mmlitmus.conform.live import header_of
from mmlitmus.conform.rules import sensible
from mmlitmus.conform.schema import Advise, Fork, Limit, Map, Program, Remap, Step, Switch, Touch, Unmap
from mmlitmus.kernel import eras
from mmlitmus.report.schemas import SCHEMAS
from schema_check import valid

from .test_campaign import IDENTITY, MACHINE, MODEL

MOVE = ("maymove", "fixed")


def mapped(**more: Any) -> Map:
    return Map(**{"slot": "a", "pages": 4, "backing": "pfnmap", "region": "bar", **more})


def kinds(*steps: tuple[Step, str | None]) -> list[str]:
    return [str(one) for one in classes(steps)]


def test_a_class_is_the_operation_what_it_is_done_to_and_how_it_ended() -> None:
    assert kinds(
        (mapped(), "ok"),
        (Touch(slot="a", page=1, access="write"), "SIGBUS"),
        (Touch(slot="b"), "SIGSEGV"),
        (Advise(slot="a", pages=2, advice="cold"), "-EINVAL"),
        (Unmap(slot="a", page=2, pages=1), "ok"),
        (Touch(slot="a", page=2), "SIGSEGV"),
    ) == [
        "map remap shared ok", "touch write remap SIGBUS", "touch read nothing SIGSEGV", "advise cold remap -EINVAL",
        "unmap remap ok", "touch read nothing SIGSEGV",
    ]  # fmt: skip


def test_where_a_failed_call_may_have_changed_something_nothing_is_counted() -> None:
    assert kinds(
        (mapped(), "ok"),
        (mapped(insert="fault_pfn", sharing="private", flags=("fixed",)), "-EINVAL"),
        (Touch(slot="a"), "SIGSEGV"),
        (mapped(slot="b"), "ok"),
        (Remap(slot="b", pages=4, new_pages=5, to="c", flags=MOVE), "-EFAULT"),
        (Touch(slot="b"), "ok"),
        (mapped(flags=("fixed",)), "ok"),
        (Touch(slot="a"), "ok"),
    ) == [
        "map remap shared ok", "map fault_pfn private -EINVAL", "map remap shared ok", "remap remap -EFAULT",
        "map remap shared ok", "touch read remap ok",
    ]  # fmt: skip


def test_a_child_has_what_it_is_given_and_none_is_there_if_fork_failed() -> None:
    both = ((mapped(), "ok"), (mapped(slot="b"), "ok"), (Advise(slot="b", pages=4, advice="dontfork"), "ok"))
    after = ((Switch(process=1), None), (Touch(slot="a"), "ok"), (Touch(slot="b"), "SIGSEGV"))
    assert kinds(*both, (Fork(child=1), "ok"), *after)[3:] == [
        "fork - ok", "touch read remap ok", "touch read nothing SIGSEGV",
    ]  # fmt: skip
    assert kinds(*both, (Fork(child=1), "-ENOMEM"), *after)[3:] == ["fork - -ENOMEM"]


def test_rare_are_classes_that_a_corpus_should_have() -> None:
    often, seldom, met = (Reached("map", "remap", outcome) for outcome in ("ok", "-EBUSY", "-EINVAL"))
    known = {often: 40, seldom: 1, met: 9}
    assert rare({often: ENOUGH - 1, met: ENOUGH}, known, 2 * CORPUS) == [(often, ENOUGH - 1)]


def test_errnos_are_read_in_the_models_source() -> None:
    found = errnos()
    assert {("map", "-EEXIST"), ("remap", "-EFAULT"), ("fork", "-ENOMEM"), ("advise", "-EAGAIN")} <= found
    for rule in UNREACHABLE:
        assert (rule.operation, rule.outcome) in found, "a rule for what cannot be returned"
        assert rule.why


def test_an_option_makes_an_errno_reachable() -> None:
    (rule,) = (one for one in UNREACHABLE if one.unless == "ANON_INODE_NOEXEC")
    assert rule.applies("deb-6.12.117")
    assert not rule.applies("deb-7.3.4")
    assert (rule.operation, rule.outcome) in unnamed((), "deb-7.3.4")
    assert (rule.operation, rule.outcome) not in unnamed((), "deb-6.12.117")
    assert eras.kernel("deb-7.3.4").has(rule.unless)


def test_a_choice_and_the_module_make_errnos_reachable() -> None:
    assert ("fork", "-ENOMEM") in unnamed((), "deb-6.12.117")
    assert ("fork", "-ENOMEM") not in unnamed((), "deb-7.3.4")
    assert ("map", "-EACCES") in unnamed((), "deb-6.18.15")
    assert ("map", "-EACCES") not in unnamed((), "deb-6.18.15", probe=False)


def test_a_few_programs_reach_every_errno_that_is_not_named_unreachable() -> None:
    found: Counter[Reached] = Counter()
    for machine, header in (("pc", header_of(MACHINE, IDENTITY)), ("q35", q35())):
        for language in ("mapping", "gup"):
            found += modelled(MODEL, header, MACHINES[machine], 5, 60, language)
    assert unnamed(found, MODEL) == [("remap", "-EAGAIN")], "memory grows in the language calls only"
    memory = Map(slot="a", pages=2, backing="anonymous", sharing="private", flags=("locked",))
    steps = (memory, Limit(locked=2), Remap(slot="a", pages=2, new_pages=3))
    assert sensible(steps, "calls") == steps
    execution = execute(Program(id="calls", steps=steps), header_of(MACHINE, IDENTITY), MODEL)
    found.update(classes(zip(steps, (seen.outcome for seen in execution.steps), strict=True)))
    assert unnamed(found, MODEL) == []
    assert {"SIGBUS", "SIGSEGV", "ok"} <= {one.outcome for one in found if one.operation.startswith("touch")}


def q35() -> Any:
    edu = {"name": "edu", "pci": "1234:11e8", "bars": [{"bar": 0, "pages": 256, "pfn": "0xfea00"}]}
    return header_of({**MACHINE, "devices": [edu]}, IDENTITY, "q35")


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["deb-5.10.262", "deb-6.1.192", MODEL, "deb-7.3.4"])
def test_a_corpus_reaches_every_class_often_enough(kernel: str) -> None:
    """But for a few that chance leaves one or two short: none is far off, and none has no scene."""
    corpus: Counter[Reached] = Counter()
    known: Counter[Reached] = Counter()
    for machine, header, share in (("pc", header_of(MACHINE, IDENTITY), 834), ("q35", q35(), 166)):
        corpus += modelled(kernel, header, MACHINES[machine], 1, share)
        known += modelled(kernel, header, MACHINES[machine], 2, share)
    lacking = rare(corpus, {one: hits for one, hits in known.items() if hits >= ENOUGH}, CORPUS)
    assert len(lacking) <= 5, lacking
    assert all(hits >= 2 for _, hits in lacking), lacking


# -- the command ------------------------------------------------------------------------------------------------------
def coverage(*words: str) -> Any:
    from mmlitmus.cli.coverage_ import command

    return CliRunner().invoke(command, list(words), standalone_mode=False)


def test_the_command_counts_what_was_recorded() -> None:
    result = coverage("--kernel", MODEL, "--against", "0", "--json")
    valid(json.loads(result.stdout), SCHEMAS["coverage"])
    said = json.loads(result.stdout)[MODEL]
    assert said["programs"] >= 100
    assert said["classes"]["touch read remap ok"] >= ENOUGH
    assert said["rare"] == {}
    assert "named unreachable" in coverage("--kernel", "deb-6.18.15", "--against", "0").stdout


def test_a_kernel_without_recordings() -> None:
    assert coverage("--kernel", "v6.6").exception.exit_code == 2
