"""The audit of declared state: what it catches, and that it has nothing to say about what is declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.audit import audit
from mmlitmus.explore.ops import TOUCH
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.primitives.rwsem import RwSem
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Atomic, Cells, Const, Ghost, Guarded, GuardedList, Model, Once, Plain, look, touch

from .programs import FAMILIES, MIXED, build, generate


class Page(Model):
    """A field of every kind; ``wrong`` is declared under a lock that its users do not mean."""

    __slots__ = ("lru",)
    lock = Const()
    sem = Const()
    once = Once()
    plain = Plain()
    atomic = Atomic()
    ghost = Ghost()
    guarded = Guarded("lock")
    wrong = Guarded("sem", write=("sem",))


class Machine:
    """What two tasks share."""

    def __init__(self) -> None:
        self.page = Page(
            "page", lock=Mutex("lock"), sem=RwSem("sem"), once=0, plain=0, atomic=0, ghost=0, guarded=0, wrong=0
        )
        self.page.lru = None
        self.cells = Cells("pte", [0, 0])
        self.sneaky: list[int] = []
        self.vmas = GuardedList("vmas", self.page.lock)


def two(*tasks: Callable[[Machine], Any]) -> Callable[[], Setup]:
    """Tasks that share a machine."""

    def setup() -> Setup:
        m = Machine()
        return Setup({f"t{n}": (lambda f=f: f(m)) for n, f in enumerate(tasks)}, context=m)

    return setup


def names(*tasks: Callable[[Machine], Any]) -> set[str]:
    return {f.name for f in audit(two(*tasks))}


def clean(m: Machine) -> None:
    page = m.page
    page.lock.lock()
    page.guarded = page.guarded + 1
    m.vmas.append(1)
    page.plain = page.plain + 1
    page.lock.unlock()
    page.once = page.once + 1
    page.add_return("atomic", 1)
    touch(page.oid("ghost"), [m.cells.id])
    page.ghost += 1
    m.cells.values[0] += 1
    look([page.oid("ghost")])
    local = [page.ghost]
    page.sem.down_read()
    local.append(page.wrong)
    page.sem.up_read()


def other(m: Machine) -> None:
    m.page.once = 1


def test_a_declared_model_has_nothing_to_report() -> None:
    assert names(clean, clean, other) == set()


def sneaky_list(m: Machine) -> None:
    m.page.once = 1
    m.sneaky.append(1)


def sneaky_attribute(m: Machine) -> None:
    m.page.once = 1
    m.page.lru = object()


def silent_cell(m: Machine) -> None:
    m.page.once = 1
    m.cells.values[1] = 3


def silent_field(m: Machine) -> None:
    m.page.plain = 1
    m.page._values[type(m.page).fields["once"].at] = 9


def silent_lock(m: Machine) -> None:
    m.page.once = 1
    m.page.lock.state = 1


def unnamed_ghost(m: Machine) -> None:
    m.page.once = m.page.ghost
    m.page.ghost = 3


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (sneaky_list, {"context.sneaky changes but is not declared"}),
        (sneaky_attribute, {"context.page.lru changes but is not declared"}),
        (silent_cell, {"context.cells[1] changes outside events on it"}),
        (silent_field, {"context.page.once changes outside events on it"}),
        (silent_lock, {"context.page.lock.state changes outside events on it"}),
        (
            unnamed_ghost,
            {"Page.ghost written outside events that name it", "context.page.ghost changes outside events on it"},
        ),
    ],
)
def test_what_is_not_declared_is_found(task: Callable[[Machine], Any], expected: set[str]) -> None:
    assert names(task, other) == expected


def test_a_closure_variable_that_two_tasks_share() -> None:
    def setup() -> Setup:
        m = Machine()
        count = 0

        def task() -> None:
            nonlocal count
            m.page.once = 1
            count += 1

        return Setup({"a": task, "b": task})

    assert {f.name for f in audit(setup)} == {"a.count changes but is not declared"}


def test_a_list_of_ones_own_is_nobodys_business() -> None:
    def setup() -> Setup:
        m = Machine()

        def task(log: list[int]) -> Callable[[], None]:
            def run() -> None:
                log.append(m.page.once)

            return run

        return Setup({"a": task([]), "b": task([])})

    assert audit(setup) == []


def test_a_guard_that_does_not_exclude_is_a_race() -> None:
    def reader(m: Machine) -> None:
        m.page.sem.down_read()
        assert m.page.wrong >= 0
        m.page.sem.up_read()

    def writer(m: Machine) -> None:  # under another lock than the readers'
        m.page.lock.lock()
        m.page.wrong = 1
        m.page.lock.unlock()

    assert "race on wrong" in names(reader, writer)
    assert "race on wrong" not in names(reader, reader)


class Tlb(Mutex):
    """A primitive with state of its own, touched within events on an object that it names."""

    __slots__ = ("entries", "entries_id")
    declared_as = {"entries": "entries_id"}

    def __init__(self) -> None:
        super().__init__("tlb")
        self.entries: dict[int, int] = {}
        self.entries_id = rt.engine.allocate(1, self)

    def object_name(self, offset: int) -> str:
        return self.name


def test_a_class_may_declare_an_attribute_as_an_object_of_its_own() -> None:
    def setup(named: bool) -> Callable[[], Setup]:
        def build() -> Setup:
            tlb = Tlb()
            page = Page("page", once=0)

            def fill() -> None:
                rt.point((TOUCH, tlb.entries_id if named else page.oid("once"), ()))
                tlb.entries[1] = 2

            return Setup({"a": fill, "b": fill}, context=tlb)

        return build

    assert audit(setup(True)) == []
    assert {f.name for f in audit(setup(False))} == {"context.entries changes outside events on it"}


@pytest.mark.parametrize("family", [*FAMILIES, MIXED])
def test_the_oracles_programs_declare_their_state(family: str) -> None:
    for seed in range(6):
        found = [f for f in audit(build(generate(family, seed)), max_executions=5) if f.kind == "undeclared"]
        assert found == []
