"""E2 against E1: on random programs, on every shipped case, and with one rule of E2 taken away at a time.

Its reductions have tests of their own (test_reductions.py); random programs run without them here, cases with them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mmlitmus.checker.load import select
from mmlitmus.checker.many import Job, jobs_for
from mmlitmus.checker.run import Builder, How
from mmlitmus.explore import clocks, ops, stateful, steps, values
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.history import Scopes, functions_of
from mmlitmus.explore.limits import Limits
from mmlitmus.explore.movers import REDUCTIONS
from mmlitmus.explore.primitives.base import Primitive
from mmlitmus.explore.primitives.choice import choose
from mmlitmus.explore.primitives.irq import Cpu
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.primitives.rcu import Rcu
from mmlitmus.explore.primitives.task import spawn
from mmlitmus.explore.primitives.wait import WaitQueue
from mmlitmus.explore.runtime import current, loop_point
from mmlitmus.explore.scheduler import Results, Scheduler, Setup, SetupError
from mmlitmus.explore.state import Guarded, GuardedList, Model, Once, touch
from mmlitmus.explore.stateful import Stateful
from mmlitmus.explore.stategraph import StateGraph
from mmlitmus.explore.verdict import completeness, mode

from .oracle import compare_full, compare_states, explain, sweep_states
from .pinned import PROGRAMS
from .programs import FAMILIES, MIXED, Program, build, generate
from .semantics import code

ALL = [*FAMILIES, MIXED]
#: random programs a family in the default suite
PROGRAMS_A_FAMILY = 20


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    assert compare_states(PROGRAMS[name]).problems == []


@pytest.mark.parametrize("family", ALL)
def test_family(family: str) -> None:
    summary = sweep_states(family, range(500, 500 + PROGRAMS_A_FAMILY), compare=compare_full)
    assert not summary.mismatches, explain(summary, compare_full)
    assert summary.skipped <= 2, summary


@pytest.mark.fuzz
@pytest.mark.parametrize("family", ALL)
def test_fuzz(family: str, fuzz_runs: int, capfd: pytest.CaptureFixture[str]) -> None:
    runs = int(os.environ.get("MMLITMUS_FUZZ_N", fuzz_runs))
    first = int(os.environ.get("MMLITMUS_FUZZ_SEED", 1_000_000))
    summary = sweep_states(family, range(first, first + runs), checked_every=5)
    report = explain(summary, compare_states)
    with capfd.disabled():
        print(f"\nby states: {report}", file=sys.stderr, flush=True)
    assert not summary.mismatches, report


# -- cases ------------------------------------------------------------------------------------------------------------
def _answers(results: Results) -> tuple[object, ...]:
    found = {(f.kind, f.name, mode(one, results)) for f, one in results.found.items()}
    return results.exhausted, found, results.reached


def _edges(engine: Scheduler) -> set[tuple[str, str]]:
    return set(engine.lockdep.edges)


def _jobs(patterns: list[str], kernels: list[str]) -> Iterator[Job]:
    for job in jobs_for(select(patterns).cases, kernels, How()):
        expected = job.case.expected(job.spec)
        if expected is None or expected.reason is None:
            yield job


def _compare_case(job: Job, limit: int | None = None) -> bool:
    """Do both engines say the same? False where E1 takes more executions than ``limit``."""
    builder = Builder(job.case, job.spec)
    try:
        reference = Dpor(builder, max_executions=limit)
        want = reference.run()
    except builder.not_applicable:
        return False
    if not want.exhausted:
        return False
    engine = Stateful(builder)
    got = engine.run()
    assert _answers(got) == _answers(want), f"{job.case.id} on {job.spec}"
    assert _edges(engine) == _edges(reference), f"{job.case.id} on {job.spec}"
    return True


#: by kernel: the executions of E1 up to which the default suite compares a row, and how many rows that are at least
ROWS = {"v5.10": (8, 100), "v6.12": (2_000, 190)}


@pytest.mark.parametrize("kernel", ROWS)
def test_every_case(kernel: str) -> None:
    limit, least = ROWS[kernel]
    assert sum(_compare_case(job, limit) for job in _jobs([], [kernel])) >= least


def test_a_case_with_a_patch() -> None:
    (job,) = _jobs(["vfio/populate-in-mmap"], ["v6.12 +populate-in-mmap"])
    assert _compare_case(job)


# -- what a task is in the middle of ---------------------------------------------------------------------------------
class Place(Model):
    __slots__ = ()
    x = Once()


def enters(where: Rcu | Cpu | WaitQueue, place: Place) -> None:
    """Nothing that the caller gets tells whether it did."""
    if place.x:
        if isinstance(where, Rcu):
            where.read_lock()
        elif isinstance(where, Cpu):
            where.local_irq_disable()
        else:
            where.prepare_to_wait()


@pytest.mark.parametrize("what", [lambda: Rcu(2), lambda: Cpu("cpu0", 0), lambda: WaitQueue("q")])
def test_where_a_task_is_belongs_to_its_state(what: Callable[[], Any]) -> None:
    """What a step finds depends on where the task is, though it looks at no object to know it."""

    def setup() -> Setup:
        where, place, other, lock = what(), Place("place", x=0), Place("other", x=0), Mutex("lock")

        def one() -> None:
            enters(where, place)
            other.x = 1
            lock.lock()
            lock.unlock()

        def two() -> None:
            place.x = 1
            place.x = 0

        return Setup({"one": one, "two": two})

    for reduce, checked in (((), True), ((), False), (REDUCTIONS, False)):  # checked: each step is run, and compared
        want, got = Dpor(setup).run(), Stateful(setup, reduce=reduce, checked=checked).run()
        assert _answers(want) == _answers(got)
        assert ("sleep-in-atomic", "sometimes") in {(kind, how) for kind, _, how in _answers(got)[1]}  # type: ignore[attr-defined]


# -- the same on every Python -----------------------------------------------------------------------------------------
#: states of the first dozen programs of each family
STATES = {
    "data": 436, "spinlock": 519, "mutex": 420, "folio": 348, "rwsem": 621, "wait": 495, "rcu": 458, "irq": 496,
    "choice": 459, "ghost": 613, "lifetime": 188, "spawn": 634, "mixed": 438,
    "balance": 623, "context": 396, "tlb": 752,
}  # fmt: skip


@pytest.mark.parametrize("family", STATES)
def test_the_number_of_states(family: str) -> None:
    assert sum(Stateful(build(generate(family, seed)), reduce=()).run().states for seed in range(12)) == STATES[family]


def test_the_number_of_states_is_the_same_for_other_hash_seeds() -> None:
    program = "import sys; sys.path[:0] = sys.argv[1:]; " + (
        "from tests.explore.programs import build, generate; from mmlitmus.explore.stateful import Stateful; "
        "print([Stateful(build(generate(f, 7))).run().states for f in ('rcu', 'spawn', 'mixed')])"
    )
    root = Path(__file__).resolve().parents[2]
    said = {
        subprocess.run(
            [sys.executable, "-c", program, str(root), str(root / "src")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


# -- histories --------------------------------------------------------------------------------------------------------
class Page(Model):
    """A page-table entry."""

    __slots__ = ()
    entry = Once()


def visit(page: Page) -> int:
    """Look twice; what is seen in between is forgotten on return."""
    found = 0
    if page.entry:
        found = 1
    page.entry = 1
    return found * 0


def pages(n: int, tasks: int, walk: Callable[[list[Page]], Any]) -> Callable[[], Setup]:
    def setup() -> Setup:
        table = [Page(f"page#{i}", entry=0) for i in range(n)]
        return Setup({f"t{t}": lambda: walk(table) for t in range(tasks)}, context=table)

    return setup


def each(table: list[Page]) -> None:
    for page in table:
        visit(page)


def each_inline(table: list[Page]) -> None:
    for page in table:
        if page.entry:
            pass
        page.entry = 1


def each_with_a_loop_point(table: list[Page]) -> None:
    for n, page in enumerate(table):
        loop_point(table, n, page)
        if page.entry:
            pass
        page.entry = 1


def test_what_a_function_saw_is_forgotten_when_it_returns() -> None:
    growth = [Stateful(pages(n, 2, each), reduce=()).run().states for n in (3, 6)]
    assert growth[1] < 5 * growth[0]  # states grow as the square of the pages ...
    inline = [Stateful(pages(n, 2, each_inline), reduce=()).run().states for n in (3, 6)]
    assert inline[1] > 8 * inline[0]  # ... and exponentially, if what was seen of each stays


def test_a_loop_point_forgets_as_well() -> None:
    growth = [Stateful(pages(n, 2, each_with_a_loop_point), reduce=()).run().states for n in (3, 6)]
    assert growth[1] < 5 * growth[0]


def leaves_it_in_a_list(page: Page, seen: list[int]) -> None:
    seen.append(page.entry)


def test_what_a_function_leaves_in_its_arguments_counts() -> None:
    ends: set[tuple[int, ...]] = set()

    def reader(table: list[Page]) -> None:
        seen: list[int] = []
        leaves_it_in_a_list(table[0], seen)
        leaves_it_in_a_list(table[0], seen)
        touch(table[1].oid("entry"))
        ends.add(tuple(seen))

    def setup() -> Setup:
        table = [Page("a", entry=0), Page("b", entry=0)]

        def writer() -> None:
            table[0].entry = 1

        return Setup({"r": lambda: reader(table), "w": writer}, context=table)

    Stateful(setup, reduce=()).run()
    assert ends == {(0, 0), (0, 1), (1, 1)}


def test_functions_are_themselves_again_afterwards() -> None:
    before = visit.__code__
    Stateful(pages(2, 2, each)).run()
    assert visit.__code__ is before
    assert not [name for name in globals() if name.startswith("__mmlitmus")]


def test_only_functions_that_see_something_get_a_scope() -> None:
    import_module("mmlitmus.kernel.machine")
    names = {f.__name__ for f in Scopes(["mmlitmus.kernel"]).functions}
    assert {"vmf_insert_pfn", "zap_pte_range", "ptep_get", "vma_lookup"} <= names
    assert not names & {"mk_pte", "pte_pfn", "spin_lock", "__init__"}
    assert len(functions_of(["mmlitmus.kernel"])) > len(names)


def test_a_change_that_no_event_names_is_refused_when_checked() -> None:
    def setup() -> Setup:
        a, b = Page("a", entry=0), Page("b", entry=0)

        def sneaky() -> None:
            touch(a.oid("entry"))
            b._values[0] = 7
            touch(a.oid("entry"))

        return Setup({"sneaky": sneaky}, context=(a, b))

    with pytest.raises(SetupError, match="changes outside events that name it"):
        Stateful(setup, checked=True).run()


def test_a_limit_makes_it_bounded() -> None:
    results = Stateful(build(generate("rwsem", 3)), max_executions=2).run()
    assert not results.exhausted
    assert completeness(results) == "bounded(2 executions)"


def test_steps_are_not_run_twice_and_ways_that_are_looked_up_count() -> None:
    program = build(generate("rwsem", 5, large=True))
    run, known = Stateful(program, checked=True).run(), Stateful(program).run()
    assert (known.states, known.outcomes, _answers(known)) == (run.states, run.outcomes, _answers(run))
    assert known.counts.executions < run.counts.executions / 2
    cut = Stateful(program, max_executions=run.counts.executions // 2).run()
    assert completeness(cut) == f"bounded({run.counts.executions // 2} executions)"
    assert Stateful(program, max_executions=run.counts.executions + 1).run().exhausted


def test_a_search_that_is_looked_up_ends_when_its_memory_does() -> None:
    engine = Stateful(build(generate("rwsem", 3, large=True)), reduce=())
    engine.limits = Limits(memory=1)
    assert engine.run().stopped == "1 bytes of memory"


# -- small programs, each of which needs one rule ---------------------------------------------------------------------
class Words(Model):
    """Marked words, and one under a lock."""

    __slots__ = ("lock",)
    x = Once()
    y = Once()
    z = Once()
    guarded = Guarded("lock")

    def __init__(self, name: str) -> None:
        super().__init__(name, x=0, y=0, z=0, guarded=0)
        self.lock = Mutex(f"{name}.lock")


def a_choice_is_remembered(w: Words) -> None:
    v = choose("which", ("a", "b"))
    w.z = 0
    w.y = int(v == "b")


def a_value_read_is_remembered(w: Words) -> None:
    v = w.x
    w.z = 0
    w.y = v


def x_of(w: Words) -> int:
    return int(w.x)


def a_result_is_remembered(w: Words) -> None:
    v = x_of(w)
    w.z = 0
    w.y = v


def one_of(w: Words, v: Words) -> Words:
    return v if w.x else w


def an_object_returned_is_remembered(w: Words) -> None:
    which = one_of(w, SECOND[0])
    w.z = 0
    which.y = 1


def a_trylock_is_remembered(w: Words) -> None:
    got = w.lock.trylock()
    if got:
        w.lock.unlock()
    else:
        w.lock.lock()
        w.lock.unlock()
    w.z = 0
    w.y = int(got)


def a_guarded_read_is_remembered(w: Words) -> None:
    w.lock.lock()
    v = w.guarded
    w.lock.unlock()
    w.z = 0
    w.y = v


def a_guarded_write_counts(w: Words) -> None:
    v = choose("which", ("a", "b"))
    w.lock.lock()
    w.guarded = int(v == "b") * 2
    w.lock.unlock()


def put(w: Words, v: int) -> None:
    w.y = v


def a_created_task_knows_why(w: Words) -> None:
    v = int(choose("which", ("a", "b")) == "b")
    spawn("child", lambda: put(w, v))


def an_object_that_was_made_counts(w: Words) -> None:
    v = int(choose("which", ("a", "b")) == "b")
    made = Words(f"made.{current().name}")
    made.x = v
    SECOND[1:] = [made]


#: the second object of a machine, and what was made on the way
SECOND: list[Words] = []

LOCALS = {
    f.__name__: f
    for f in (
        a_choice_is_remembered,
        a_value_read_is_remembered,
        a_result_is_remembered,
        an_object_returned_is_remembered,
        a_trylock_is_remembered,
        a_guarded_read_is_remembered,
        a_guarded_write_counts,
        a_created_task_knows_why,
        an_object_that_was_made_counts,
    )
}


def small(task: Callable[[Words], None]) -> Callable[[], Setup]:
    """The task beside one that changes what it looks at."""

    def setup() -> Setup:
        w = Words("w")
        SECOND[:] = [Words("v")]

        def other() -> None:
            w.lock.lock()
            w.guarded = 1
            w.x = 1
            w.lock.unlock()

        def outcome() -> object:
            return tuple((o.name, o.peek("y"), o.peek("guarded"), o.peek("x")) for o in (w, *SECOND))

        return Setup({"t": lambda: task(w), "other": other}, outcome=outcome, spawn_slots=1, context=w)

    return setup


def what_a_task_leaves_in_a_list() -> Setup:
    w = Words("w")
    seen: list[int] = []
    return Setup(
        {"t": lambda: seen.append(w.x), "other": lambda: setattr(w, "x", 1)}, outcome=lambda: tuple(seen), context=w
    )


def what_stands_in_a_guarded_list() -> Setup:
    w = Words("w")
    items = GuardedList("items", w.lock)

    def t() -> None:
        w.lock.lock()
        v = len(items)
        w.lock.unlock()
        w.z = 0
        w.y = v

    def other() -> None:
        w.lock.lock()
        items.append(1)
        w.lock.unlock()

    return Setup({"t": t, "other": other}, outcome=lambda: w.peek("y"), context=w)


def _same(setup: Callable[[], Setup]) -> bool:
    want = Dpor(setup).run()
    return all(
        want.outcomes == got.outcomes and _answers(want) == _answers(got)
        for got in (Stateful(setup, reduce=(), checked=checked).run() for checked in (False, True))
    )


@pytest.mark.parametrize("name", LOCALS)
def test_both_see_the_same(name: str) -> None:
    assert _same(small(LOCALS[name]))


def test_lists() -> None:
    assert _same(what_a_task_leaves_in_a_list)
    assert _same(what_stands_in_a_guarded_list)


#: races that depend on what came first, though the state is the same
RACES = {
    "the order of two critical sections": Program(
        "pinned", 0, (code("w p0 1; lock 0; unlock 0; w o0 1"), code("lock 0; unlock 0; r o0; skip 0 1; r p0"))
    ),
    "whether a lock was taken at all": Program(
        "pinned",
        0,
        (
            code("w p0 1; choose 2; skip 1 2; lock 0; unlock 0; r o1; w o0 1"),
            code("r o0; skip 0 3; lock 0; unlock 0; r p0"),
        ),
    ),
}


@pytest.mark.parametrize("name", RACES)
def test_race(name: str) -> None:
    assert compare_states(RACES[name]).problems == []


# -- take one rule away -----------------------------------------------------------------------------------------------
MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}
Patch = pytest.MonkeyPatch


def mutant(f: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MUTANTS[f.__name__] = f
    return f


@mutant
def what_an_event_shows_is_forgotten(patch: Patch) -> None:
    original = Stateful._observation

    def observation(self: Stateful, op: Any, value: int) -> Any:
        seen = original(self, op, value)
        return value if op[0] == ops.CHOOSE else seen and ()

    patch.setattr(Stateful, "_observation", observation)


@mutant
def the_value_of_a_choice_is_forgotten(patch: Patch) -> None:
    original = Stateful._observation
    patch.setattr(Stateful, "_observation", lambda self, op, v: 0 if op[0] == ops.CHOOSE else original(self, op, v))


@mutant
def a_trylock_shows_nothing(patch: Patch) -> None:
    more = {ops.TRYLOCK, ops.DOWN_READ_TRYLOCK, ops.DOWN_WRITE_TRYLOCK}
    original = Stateful._observation

    def observation(self: Stateful, op: Any, value: int) -> Any:
        seen = original(self, op, value)
        return () if op[0] in more else seen

    patch.setattr(Stateful, "_observation", observation)
    patch.setattr(stateful.Stateful, "_local", _without(1, 2))


def _without(*parts: int) -> Any:
    """Local states without what the task holds or is about to do."""

    def local(self: Stateful, t: int) -> int:
        if self.pending[t] is ops.DONE:
            return _local(self, t)
        return self.number((self.stacks[t], self.tasks[t].name))

    return local


_local = Stateful._local


@mutant
def results_are_forgotten(patch: Patch) -> None:
    original = Stateful.left
    patch.setattr(
        Stateful, "left", lambda self, me, args, result, keep=False: original(self, me, args, None, keep=keep)
    )


@mutant
def what_changes_in_arguments_is_forgotten(patch: Patch) -> None:
    original = Stateful.left
    patch.setattr(
        Stateful, "left", lambda self, me, args, result, keep=False: original(self, me, (), result, keep=keep)
    )


@mutant
def guarded_reads_are_forgotten(patch: Patch) -> None:
    patch.setattr(Stateful, "saw", lambda self, value: None)


@mutant
def guarded_writes_are_not_looked_at(patch: Patch) -> None:
    patch.setattr(Stateful, "accessed", lambda *args: None)


@mutant
def only_an_events_own_object_is_looked_at(patch: Patch) -> None:
    original = Stateful._observation
    patch.setattr(Stateful, "_observation", lambda self, op, v: original(self, (op[0], op[1], (), *op[3:]), v))


@mutant
def shared_state_does_not_count(patch: Patch) -> None:
    patch.setattr(Stateful, "_shared", lambda self, values: 0)


@mutant
def objects_made_on_the_way_do_not_count(patch: Patch) -> None:
    patch.setattr(Stateful, "_shared", lambda self, values: self.number(tuple(values[: self.set_up])))


@mutant
def clocks_do_not_count(patch: Patch) -> None:
    patch.setattr(clocks.Clocks, "form", lambda self, engine, place: ())


@mutant
def what_locks_know_does_not_count(patch: Patch) -> None:
    original = clocks.Clocks.form

    def form(self: clocks.Clocks, engine: Stateful, place: Any) -> Any:
        return original(clocks.Clocks(self.now, {}, self.accesses), engine, place)

    patch.setattr(clocks.Clocks, "form", form)


@mutant
def the_first_run_will_do_for_races(patch: Patch) -> None:
    original = Stateful._access

    def access(self: Stateful, op: Any, t: int) -> None:
        original(self, op, t)
        self.restart = False

    patch.setattr(Stateful, "_access", access)


@mutant
def a_choice_has_one_value(patch: Patch) -> None:
    patch.setattr(stateful, "CHOOSE", -2)


@mutant
def a_created_task_begins_like_any_other(patch: Patch) -> None:
    original = Stateful.spawn

    def spawn(self: Stateful, *args: Any) -> int:
        t = original(self, *args)
        self.moved.update(self.newborn)
        self.newborn.clear()
        return t

    patch.setattr(Stateful, "spawn", spawn)


@mutant
def who_has_ended_has_nothing_to_say(patch: Patch) -> None:
    def local(self: Stateful, t: int) -> int:
        return self.number(("done",)) if self.pending[t] is ops.DONE else _local(self, t)

    patch.setattr(Stateful, "_local", local)


@mutant
def where_a_task_is_does_not_matter(patch: Patch) -> None:
    def local(self: Stateful, t: int) -> int:
        task = self.tasks[t]
        where = task.rcu, task.irqs_off, task.waiting
        task.rcu, task.irqs_off, task.waiting = 0, 0, ""
        n = _local(self, t)
        task.rcu, task.irqs_off, task.waiting = where
        return n

    patch.setattr(Stateful, "_local", local)


@mutant
def what_a_primitive_owns_besides_is_its_state(patch: Patch) -> None:
    def is_primitive(self: Stateful, at: int) -> bool:
        return isinstance(self.owners[at][1], Primitive)

    patch.setattr(Stateful, "_is_primitive", is_primitive)
    patch.setattr(Stateful, "_believed", lambda self: None)


@mutant
def every_finding_can_be_avoided(patch: Patch) -> None:
    patch.setattr(StateGraph, "_avoiding", lambda self, finding: len(self.terminals))


@mutant
def no_finding_can_be_avoided(patch: Patch) -> None:
    patch.setattr(StateGraph, "_avoiding", lambda self, finding: 0)


# -- steps that are known
@mutant
def a_step_does_not_look_at_lists(patch: Patch) -> None:
    original = steps.looked_at

    def looked_at(view: steps.View, values: list[int], lists: list[int]) -> steps.Seen:
        return original(view, values, [])

    def learn(self: steps.Steps, t: int, local: int, value: int, view: Any, seen: Any, step: steps.Step) -> steps.Step:
        known = self.known.setdefault((t, local, value), {}).setdefault(view, {})
        return known.setdefault((seen[0], ()), step)

    patch.setattr(steps, "looked_at", looked_at)
    patch.setattr(steps.Steps, "learn", learn)


@mutant
def a_known_step_does_what_the_task_did_last(patch: Patch) -> None:
    original = steps.Steps.find

    def find(self: steps.Steps, t: int, local: int, value: int, values: list[int], lists: list[int]) -> Any:
        for view, known in self.known.get((t, local, value), {}).items():
            return view, list(known.values())[-1]
        return original(self, t, local, value, values, lists)

    patch.setattr(steps.Steps, "find", find)


@mutant
def a_known_step_shows_nothing(patch: Patch) -> None:
    def step(local: int, values: Any, lists: Any, findings: Any, *more: Any) -> steps.Step:
        return steps.Step(local, values, lists, [], *more)

    patch.setattr(stateful, "Step", step)


@mutant
def a_known_step_orders_nothing(patch: Patch) -> None:
    original = Stateful._repeat

    def repeat(self: Stateful, t: int, value: int) -> bool:
        clocks = self.clocks
        done = original(self, t, value)
        self.clocks = clocks
        return done

    patch.setattr(Stateful, "_repeat", repeat)


@mutant
def the_value_of_a_choice_does_not_matter_to_a_step(patch: Patch) -> None:
    original = steps.Steps.find
    patch.setattr(
        steps.Steps, "find", lambda self, t, local, value, *more: original(self, t, local, min(value, 0), *more)
    )


# -- names
@mutant
def all_objects_have_one_name(patch: Patch) -> None:
    patch.setattr(values.Values, "_of", _one_name(values.Values._of))


def _one_name(original: Any) -> Any:
    def of(self: values.Values, v: Any) -> Any:
        return "@" if isinstance(v, Model) else original(self, v)

    return of


def first_problem() -> str | None:
    """One thing wrong with E2, or None; the cheap questions first."""
    for name, setup in (
        *((name, small(task)) for name, task in LOCALS.items()),
        ("what a task leaves in a list", what_a_task_leaves_in_a_list),
        ("what stands in a guarded list", what_stands_in_a_guarded_list),
    ):
        try:
            if not _same(setup):
                return name
        except SetupError as e:
            return f"{name}: {e}"
    for check in (
        test_what_a_function_leaves_in_its_arguments_counts,
        test_what_a_function_saw_is_forgotten_when_it_returns,
    ):
        try:
            check()
        except AssertionError as e:
            return f"{check.__name__} {e}"
    try:
        test_where_a_task_is_belongs_to_its_state(lambda: Rcu(2))
    except (AssertionError, SetupError) as e:
        return f"where a task is: {e}"
    for name, program in {**RACES, **PROGRAMS}.items():
        try:
            problems = compare_full(program).problems
        except Exception as e:
            problems = [f"{type(e).__name__} {e}"]
        if problems:
            return f"{name}: {problems}"
    for family in ALL:
        try:
            summary = sweep_states(family, range(20), stop_after=1, compare=compare_full)
        except Exception as e:
            return f"{family}: {type(e).__name__} {e}"
        if summary.mismatches:
            return str(summary.mismatches[0][1])
    return None


@pytest.mark.pure
@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    assert first_problem() is not None
