"""What the search finds and counts, to the last trace, and how it deals with tasks that misbehave."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mmlitmus.explore import runtime as rt
from mmlitmus.explore import scheduler
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.minimise import minimise
from mmlitmus.explore.naive import Naive
from mmlitmus.explore.once import Unscheduled
from mmlitmus.explore.ops import conflict
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.primitives.task import spawn
from mmlitmus.explore.primitives.wait import WaitQueue
from mmlitmus.explore.scheduler import Scheduler, Setup, SetupError
from mmlitmus.explore.state import Cells, Ghost, Guarded, GuardedList, Model, Once, look, touch
from mmlitmus.explore.stateful import Stateful

from . import suite
from .programs import build, generate
from .semantics import CHECKS, INCREMENTS, Counter, explore, increments, names, sections

EXPLORERS = [Dpor, Naive]


@pytest.mark.parametrize("name", CHECKS)
def test_semantics(name: str) -> None:
    suite.semantics(name)


@pytest.mark.parametrize(("tasks", "times"), INCREMENTS)
def test_increments(tasks: int, times: int) -> None:
    r = Dpor(increments(tasks, times), keep_traces=True).run()
    traces = INCREMENTS[tasks, times]
    assert (r.counts.complete, r.counts.executions, len(r.traces)) == (traces, traces, traces)
    assert r.outcomes == set(range(2 if times > 1 else 1, tasks * times + 1))
    assert r.exhausted


@pytest.mark.parametrize(("faults", "times", "traces"), [(2, 2, 30), (2, 3, 140), (2, 4, 630), (3, 2, 630)])
def test_sections_under_one_lock(faults: int, times: int, traces: int) -> None:
    r = Dpor(sections(faults, times)).run()
    assert (r.counts.complete, r.counts.executions) == (traces, traces)


# -- determinism --------------------------------------------------------------------------------------------------
DETERMINISM = """
from mmlitmus.explore.dpor import Dpor
from tests.explore.programs import FAMILIES, MIXED, build, generate
for family in [*FAMILIES, MIXED]:
    for seed in range(4):
        r = Dpor(build(generate(family, seed)), max_executions=300).run()
        print(family, seed, r.counts, sorted(map(str, r.outcomes)), sorted(r.deadlocks), r.stopped)
        for found in r.found.values():
            print(found)
"""


def test_results_do_not_depend_on_the_hash_seed() -> None:
    root = Path(__file__).parents[2]

    def output(seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
        return subprocess.run(
            [sys.executable, "-c", DETERMINISM], env=env, capture_output=True, text=True, check=True
        ).stdout

    first = output("1")
    assert first
    assert output("2") == first


def test_the_same_search_twice_gives_the_same_results() -> None:
    program = build(generate("mixed", 3))
    assert repr(Dpor(program).run()) == repr(Dpor(program).run())


# -- tasks that misbehave -----------------------------------------------------------------------------------------
def machine(*tasks: Callable[[Counter], Any], **options: Any) -> Callable[[], Setup]:
    """Tasks over one counter."""

    def setup() -> Setup:
        v = Counter("v", x=0)
        return Setup({f"t{n}": (lambda f=f: f(v)) for n, f in enumerate(tasks)}, outcome=lambda: v.peek("x"), **options)

    return setup


def write(v: Counter) -> None:
    v.x = 1


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_a_task_that_never_reaches_a_scheduling_point(
    explorer: type[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "STUCK_SECONDS", 0.2)

    def spin(v: Counter) -> None:
        if v.x == 1:
            while True:
                pass

    r = explorer(machine(write, spin)).run()
    assert {(f.kind, f.name) for f in r.found} == {("never-ends", "never-ends")}
    assert r.exhausted


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_an_exception_is_a_finding(explorer: type[Scheduler]) -> None:
    def fail(v: Counter) -> None:
        if v.x == 1:
            raise ValueError("no such page")

    r = explorer(machine(write, fail)).run()
    (found,) = r.found
    assert (found.kind, found.name) == ("raised", "raised ValueError")
    assert "no such page" in found.message
    assert "test_engine.py" in found.message
    assert r.found[found].executions == 1
    assert r.counts.complete == 2


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_an_exception_before_the_first_scheduling_point(explorer: type[Scheduler]) -> None:
    r = explorer(machine(lambda v: 1 // 0, write)).run()
    assert {f.name for f in r.found} == {"raised ZeroDivisionError"}
    assert r.outcomes == {1}


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_an_error_of_the_explorer_is_no_finding(explorer: type[Scheduler]) -> None:
    class Broken(explorer):  # type: ignore[misc,valid-type]
        def enabled(self) -> int:
            raise KeyError("a bug of ours")

    with pytest.raises(KeyError, match="a bug of ours"):
        Broken(machine(write, write)).run()


def generator(v: Counter) -> Any:
    yield v.x


async def coroutine(v: Counter) -> None:
    v.x = 1


async def asynchronous_generator(v: Counter) -> Any:
    yield v.x


class Callable_:
    def __call__(self, v: Counter) -> Any:
        yield v.x


DEFERRED = {
    "a generator": generator,
    "async": coroutine,
    "an async generator": asynchronous_generator,
}


@pytest.mark.parametrize("explorer", [*EXPLORERS, Stateful])
@pytest.mark.parametrize("what", DEFERRED)
def test_a_task_whose_body_a_call_does_not_run_is_refused(
    explorer: type[Scheduler], what: str, recwarn: pytest.WarningsRecorder
) -> None:
    f = DEFERRED[what]

    def later(v: Counter) -> Any:
        return f(v) if v.x == 1 else None

    def creates(v: Counter) -> None:
        spawn("child", lambda: f(v))

    for tasks, slots in (((f,), 0), ((lambda v: f(v),), 0), ((partial(f),), 0), ((write, later), 0), ((creates,), 1)):
        with pytest.raises(SetupError, match=f"^{f.__name__} is {what}") as caught:
            explorer(machine(*tasks, spawn_slots=slots)).run()
        assert caught.traceback[-1].frame.code.path == Path(__file__)  # it can be told where that is
        assert caught.traceback[-1].frame.code.name == f.__name__
    assert not recwarn.list  # nobody was to await it


def test_an_object_that_is_called_as_a_generator_is_refused_too() -> None:
    with pytest.raises(SetupError, match="Callable_.__call__ is a generator"):
        Dpor(machine(Callable_())).run()


def test_too_few_slots_are_an_error_of_the_setup() -> None:
    def parent(v: Counter) -> None:
        spawn("child", lambda: None)

    with pytest.raises(SetupError, match="spawn_slots"):
        Dpor(machine(parent)).run()


def test_cleaning_up_after_an_abandoned_execution_schedules_nothing() -> None:
    def guarded(v: Counter) -> None:
        try:
            v.x = v.x + 1
        finally:
            v.x = v.x + 1

    r = Dpor(machine(guarded, guarded)).run()
    assert r.counts.complete == 34
    assert r.exhausted


def test_an_endless_execution_is_cut_and_said() -> None:
    def spin(v: Counter) -> None:
        while v.x != 1:
            pass

    engine = Dpor(machine(spin, write), max_executions=50)
    engine.max_events = 20
    r = engine.run()
    assert r.counts.truncated
    assert not r.exhausted
    assert r.outcomes == {1}


# -- deadlocks ----------------------------------------------------------------------------------------------------
def test_a_daemon_may_wait_for_ever() -> None:
    def setup(daemons: frozenset[str]) -> Callable[[], Setup]:
        def build() -> Setup:
            queue = WaitQueue("q")

            def worker() -> None:
                queue.prepare_to_wait()
                queue.schedule()

            return Setup({"worker": worker}, daemons=daemons)

        return build

    assert Dpor(setup(frozenset())).run().deadlocks == {("worker",)}
    assert Dpor(setup(frozenset({"worker"}))).run().deadlocks == set()


def test_the_deadlock_finding_says_who_waits_for_what() -> None:
    (found,) = [f for f in explore("lock 0; lock 1", "lock 1; lock 0").found if f.kind == "deadlock"]
    assert found.message == (
        "t0 waits in lock(l1) held by t1, holding l0 (lock); t1 waits in lock(l0) held by t0, holding l1 (lock)"
    )


def test_behind_a_dead_task_there_is_no_deadlock_but_beside_it_there_is() -> None:
    r = explore("lock 0; bugif 0", "lock 0", "prepare; schedule")
    assert r.deadlocks == set()  # nobody is left who might have woken it
    r = explore("bugif 0", "lock 0; lock 1", "lock 1; lock 0")
    assert r.deadlocks == {("t1", "t2")}
    assert names(r, "BUG") == {"oops"}


# -- declared state -----------------------------------------------------------------------------------------------
class Thing(Model):
    """One field of each kind that has no event."""

    __slots__ = ("lock",)
    guarded = Guarded("lock")
    ghost = Ghost()


def things(*tasks: Callable[[Thing], Any]) -> Callable[[], Setup]:
    """Tasks over one Thing."""

    def setup() -> Setup:
        thing = Thing("thing", guarded=0, ghost=0)
        thing.lock = Mutex("lock")
        return Setup({f"t{n}": (lambda f=f: f(thing)) for n, f in enumerate(tasks)})

    return setup


def test_looking_at_one_object_twice_is_looking_at_it_once() -> None:
    def task(thing: Thing) -> None:
        ghost = thing.oid("ghost")
        touch(ghost, [ghost, ghost], [ghost])
        look([ghost, ghost])

    r = Dpor(things(task, task), keep_traces=True).run()
    assert r.counts.complete == len(r.traces) == len(Naive(things(task, task), keep_traces=True).run().traces) == 4


def test_looking_at_a_lock_conflicts_with_taking_it() -> None:
    def task(thing: Thing) -> None:
        look([thing.oid("ghost"), thing.lock.id])

    def taker(thing: Thing) -> None:
        thing.lock.lock()

    assert Dpor(things(task, taker)).run().counts.complete == 2


def test_a_guarded_field_needs_its_lock() -> None:
    def task(thing: Thing) -> None:
        thing.guarded = thing.guarded + 1

    def locker(thing: Thing) -> None:
        thing.lock.lock()
        thing.guarded = thing.guarded + 1
        thing.lock.unlock()

    assert {f.name for f in Dpor(things(task)).run().found} == {
        "guarded read without lock",
        "guarded written without lock",
    }
    r = Dpor(things(locker, locker)).run()
    assert not r.found
    assert r.counts.complete == 2


def test_undeclared_attributes_are_refused() -> None:
    with pytest.raises(TypeError, match="__slots__"):
        type("Sloppy", (Model,), {})
    with pytest.raises(TypeError, match="does not exclude"):
        Guarded("a", "b", write=("a",))


def test_a_guarded_list_needs_its_lock() -> None:
    def setup() -> Setup:
        lock = Mutex("lock")
        items = GuardedList("items", lock, [1])

        def task() -> None:
            items.append(len(items))

        return Setup({"t": task})

    assert {f.name for f in Dpor(setup).run().found} == {"items walked without lock", "items changed without lock"}


# -- the events ---------------------------------------------------------------------------------------------------
def test_conflict_is_symmetric_and_agrees_with_the_footprints() -> None:
    def objects(op: Any) -> dict[int, bool]:
        from mmlitmus.explore.ops import footprint

        out: dict[int, bool] = {}
        for o, written in footprint(op):
            out[o] = out.get(o, False) or written
        return out

    seen = []
    for family in ("ghost", "irq", "rwsem", "lifetime", "choice"):
        engine = Naive(build(generate(family, 1)), max_executions=3)
        engine.run()
        seen += engine.ops
    assert len(seen) > 20
    for a in seen:
        for b in seen:
            fa, fb = objects(a), objects(b)
            expected = any(o in fb and (fa[o] or fb[o]) for o in fa)
            assert conflict(a, b) == conflict(b, a) == expected


def test_names_of_objects() -> None:
    def setup() -> Setup:
        cells = Cells("pte", [0, 0], label=lambda n: f"{n:#x}")
        thing = Thing("vma#1", guarded=0, ghost=0)
        thing.lock = Mutex("ptl#3")
        engine = rt.engine
        assert engine.object_name(cells.id + 1) == "pte[0x1]"
        assert engine.object_name(thing.oid("ghost")) == "vma#1.ghost"
        assert engine.object_name(thing.id) == "vma#1"
        assert engine.object_name(thing.lock.id) == "ptl#3"
        assert engine.object_name(-1) == ""
        return Setup({"t": lambda: None})

    assert Dpor(setup).run().counts.complete == 1


def test_set_up_code_may_use_everything() -> None:
    class Box(Model):
        __slots__ = ()
        x = Once()

    def setup() -> Setup:
        box = Box("box", x=0)
        lock = Mutex("lock")
        lock.lock()
        box.x = 3
        lock.unlock()
        return Setup({"t": lambda: None}, outcome=lambda: box.x)

    assert Dpor(setup).run().outcomes == {3}


# -- what is left ---------------------------------------------------------------------------------------------------
class Known:
    """What the tasks of a search know."""


def knowing(wrong: type[BaseException]) -> Callable[[], Setup]:
    """A task that ends, one that waits for ever, and one that goes wrong."""
    known = Known()

    def build() -> Setup:
        lock, counter = Mutex("lock"), Counter("counter", x=0)

        def ends(_: Known = known) -> None:
            counter.x += 1

        def waits(_: Known = known) -> None:
            lock.lock()
            lock.lock()

        def fails(_: Known = known) -> None:
            counter.x += 1
            raise wrong

        return Setup({"ends": ends, "waits": waits, "fails": fails})

    return build


def remembered() -> int:
    """How many are known still, but to the last search, which the runtime keeps."""
    Dpor(increments(1, 1)).run()
    gc.collect()
    return sum(isinstance(o, Known) for o in gc.get_objects())


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_nothing_is_left_of_a_search(explorer: type[Scheduler]) -> None:
    """A stack that is parked in a search keeps the search, and no collector finds the two."""
    assert explorer(knowing(TypeError)).run().counts.executions > 1
    assert remembered() == 0


def without_events() -> None:
    known = Known()

    def ends() -> None:
        assert known

    Unscheduled(lambda: Setup({"ends": ends})).run()


def test_nothing_is_left_of_a_task_that_ran_without_events() -> None:
    without_events()
    assert remembered() == 0


def shortened() -> None:
    build = knowing(TypeError)
    found = next(one for one in Dpor(build).run().found.values() if one.finding.kind == "raised")
    minimise(build, found.finding, found.choices)


def test_nothing_is_left_of_a_schedule_that_was_shortened() -> None:
    shortened()
    assert remembered() == 0


def test_nothing_is_left_of_a_search_that_is_broken_off() -> None:
    try:
        Dpor(knowing(KeyboardInterrupt)).run()
    except KeyboardInterrupt:
        pass
    else:
        pytest.fail("it is broken off")
    assert remembered() == 0
