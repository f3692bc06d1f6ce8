"""A row whose case asks for what the model has not got is no answer, on every engine and in every report."""

import json

import pytest

from mmlitmus.api import Machine
from mmlitmus.checker.case import always, case, never
from mmlitmus.checker.run import How, run
from mmlitmus.kernel.mm.mmap import MAP_SHARED
from mmlitmus.report.jsonout import dump
from mmlitmus.report.ktap import ktap
from mmlitmus.report.table import table, totals

ENGINES = ("dpor", "naive", "stateful", "auto", "sample")
SHMEM = "not modelled: shared anonymous memory"


@case("t/task", reach=("never reached",), asks=("mine",), expect={"v6.12": never})
def in_a_task(m: Machine) -> None:
    """Is memory that two processes share the same for both?"""
    app = m.process("app")
    shared = app.mmap_anon(1, at="a", flags=MAP_SHARED)

    @m.task
    def store() -> None:
        app.write(shared)
        m.reached("never reached")

    m.check(lambda: [])

    @m.task
    def other() -> None:
        m.require(False, "mine", "it does not hold")


@case("t/setup")
def while_it_is_set_up(m: Machine) -> None:
    """Where is the page?"""
    app = m.process("app")
    app.mbind(0, 1)

    @m.task
    def task() -> None:
        m.reached("it ran")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_task_that_asks_for_it(engine):
    row = run(in_a_task, "v6.12", How(engine, walks=20))
    assert (row.result, row.text, row.status, row.ok) == ("not-modelled", SHMEM, "no answer", False)
    assert [v.kind for v in row.violations] == ["not-modelled"]
    assert [n.name for n in row.notes] == ["mine"]  # true or not, it answers nothing
    assert row.unreached == []


@pytest.mark.parametrize("engine", ENGINES)
def test_the_set_up_asks_for_it(engine):
    row = run(while_it_is_set_up, "v6.12", How(engine, walks=20))
    assert (row.result, row.text, row.ok) == ("not-modelled", "not modelled: mbind", False)
    assert len(row.violations) == 1


def test_a_case_may_expect_it():
    row = run(while_it_is_set_up, "v6.12")
    row.judge(always("not modelled: mbind"))
    assert (row.ok, row.status) == (True, "ok (expected)")
    row.judge(always("not modelled: move_pages"))
    assert not row.ok


def test_reports_say_so():
    row = run(in_a_task, "v6.12")
    (_, line, *below) = table([row])
    assert SHMEM in line
    assert line.endswith("no answer")
    assert "expected: never" in below[0]
    assert "1 not modelled" in totals([row])
    assert "0 surprises" in totals([row])
    told = json.loads(dump([row]))[0]
    assert (told["result"], told["violations"][0]["name"]) == ("not-modelled", SHMEM)
    lines = ktap([row])
    assert any(one.endswith("not ok 1 v6.12") for one in lines)
    assert any(SHMEM in one for one in lines)
