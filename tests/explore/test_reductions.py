"""E2's reductions against E1: on random programs, on programs each of which needs one rule, and without each rule."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from mmlitmus.explore import movers, ops, sights, stateful, symmetry, values
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.findings import report
from mmlitmus.explore.movers import GUARDED, REDUCTIONS, RELEASES, SYMMETRY, Movers
from mmlitmus.explore.primitives.choice import choose
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.primitives.rwsem import RwSem
from mmlitmus.explore.primitives.task import spawn
from mmlitmus.explore.runtime import current, loop_point
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Counter, Model, Once, Plain, look
from mmlitmus.explore.stateful import Stateful
from mmlitmus.explore.symmetry import same
from mmlitmus.explore.verdict import mode

from .oracle import compare_alike, compare_logged, compare_states, explain, state_differences, sweep_states
from .pinned import PROGRAMS
from .programs import FAMILIES, MIXED, Program
from .semantics import code

ALL = [*FAMILIES, MIXED]
COMPARISONS: dict[str, Any] = {"each": compare_states, "logged": compare_logged, "alike": compare_alike}
#: random programs a family in the default suite
PROGRAMS_A_FAMILY = {"each": 2, "logged": 4, "alike": 3}


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("how", COMPARISONS)
def test_family(how: str, family: str) -> None:
    summary = sweep_states(family, range(700, 700 + PROGRAMS_A_FAMILY[how]), compare=COMPARISONS[how])
    assert not summary.mismatches, explain(summary, COMPARISONS[how])


@pytest.mark.fuzz
@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("how", ["logged", "alike"])  # "each" is what test_stateful.py runs
def test_fuzz(how: str, family: str, fuzz_runs: int, capfd: pytest.CaptureFixture[str]) -> None:
    runs = int(os.environ.get("MMLITMUS_FUZZ_N", fuzz_runs))
    first = int(os.environ.get("MMLITMUS_FUZZ_SEED", 1_000_000))
    summary = sweep_states(family, range(first, first + runs), compare=COMPARISONS[how], checked_every=5)
    said = explain(summary, COMPARISONS[how])
    with capfd.disabled():
        print(f"\nby states, {how}: {said}", file=sys.stderr, flush=True)
    assert not summary.mismatches, said


# -- random programs' language: each of these needs one rule ----------------------------------------------------------
def _program(*tasks: str) -> Program:
    return Program("pinned", 0, tuple(map(code, tasks)))


TRAPS = {
    "a trylock fails while the lock is held": _program("lock 0; unlock 0", "trylock 0; skip 0 1; w o0 1"),
    "a writer that queues before an up_write orders what came before": _program(
        "dw 0; w o0 1; up 0; r p0", "w p0 1; r o0; skip 0 2; dw 0; up 0"
    ),
    "a reader writes what another reader reads": _program(
        "dr 0; w o0 1; w o0 2; up 0", "dr 0; r o0; skip 1 1; w o1 1; up 0"
    ),
    "a word without a lock is read in between": _program("w o0 1; w o0 2", "r o0; skip 1 1; w o1 1"),
    "a word is written under a lock and read without": _program(
        "lock 0; w o0 1; w o0 2; unlock 0", "r o0; skip 1 1; w o1 1"
    ),
    "two locks are not one lock": _program(
        "lock 0; w o0 1; w o0 2; unlock 0", "lock 1; r o0; skip 1 1; w o1 1; unlock 1"
    ),
    "who waits for ever would have been first": _program("lock 0; lock 0", "lock 0; w o0 1"),
    "somebody else unlocks": _program(
        "lock 0; w o0 1; w o0 2; unlock 0", "lock 0; r o0; skip 1 1; w o1 1; unlock 0", "steal 0"
    ),
    "somebody looks at the lock": _program("lock 0; unlock 0", "peeklock 0; skip 1 1; w o0 1"),
    "somebody looks at the readers": _program("dr 0; up 0", "tw 0; skip 0 1; w o0 1"),
    "a downgrade lets a reader in": _program("dw 0; downgrade 0; w o0 1; up 0", "dr 0; r o0; skip 0 1; w o1 1; up 0"),
    "a grace period starts in a read-side section": _program("rl; w o0 1; ru; w o0 2", "sync; r o0; skip 1 1; w o1 1"),
    **PROGRAMS,
}


@pytest.mark.parametrize("name", TRAPS)
def test_trap(name: str) -> None:
    assert compare_states(TRAPS[name]).problems == []
    assert compare_logged(TRAPS[name]).problems == []


# -- programs of their own --------------------------------------------------------------------------------------------
class Words(Model):
    """Marked words, a plain one, and locks."""

    __slots__ = ("lock", "sem")
    x = Once()
    y = Once()
    z = Once()
    p = Plain()
    c = Counter()

    def __init__(self, name: str) -> None:
        super().__init__(name, x=0, y=0, z=0, p=0, c=0)
        self.lock = Mutex(f"{name}.lock")
        self.sem = RwSem(f"{name}.sem")


def machine(tasks: Callable[[Words], dict[str, Callable[[], Any]]], **more: Any) -> Callable[[], Setup]:
    def setup() -> Setup:
        w = Words("w")
        return Setup(tasks(w), outcome=lambda: tuple(w.peek(f) for f in ("x", "y", "z", "p")), context=w, **more)

    return setup


def claims(w: Words, k: int) -> None:
    if w.x:
        w.z = k
    w.x = k


def claimant(w: Words, k: int) -> Callable[[], None]:
    return lambda: claims(w, k)


def claims_by_number(w: Words) -> None:
    claims(w, current().index + 1)


def waits_unless_first(w: Words) -> None:
    if not w.lock.trylock():
        w.lock.lock()


def counts(w: Words) -> None:
    w.x = w.x + 1


def counts_under_a_lock(w: Words) -> None:
    w.sem.down_write()
    w.p = w.p + 1
    w.sem.up_write()
    w.x = w.x + 1


def counts_if_alone(w: Words) -> None:
    w.lock.lock()
    w.p = w.p + 1
    w.lock.unlock()
    if w.x:
        w.p = 0
    w.x = 1


def looks_who_is_in(w: Words) -> None:
    w.lock.lock()
    w.lock.unlock()
    look([w.lock.id])
    if w.lock.state == 0:
        w.z = 1


def creates(w: Words) -> None:
    spawn("child", lambda: counts(w))


def two(fn: Callable[[Words], None], n: int = 2) -> Callable[[Words], dict[str, Callable[[], Any]]]:
    """Tasks that are alike."""
    return lambda w: {f"t{t}": lambda: fn(w) for t in range(n)}


def one_of_two(w: Words) -> None:
    spawn("child", (lambda: counts(w)) if choose("which", ("a", "b")) == "a" else (lambda: claims(w, 7)))


MACHINES: dict[str, Callable[[], Setup]] = {
    "the same code over other values": machine(lambda w: {f"t{k}": claimant(w, k) for k in (1, 2)}),
    "tasks that ask who they are": machine(two(claims_by_number)),
    "one that may be left waiting and one that may not": machine(two(waits_unless_first), daemons=frozenset(("t0",))),
    "two that count": machine(two(counts)),
    "three that count": machine(two(counts, 3)),
    "three under a lock": machine(two(counts_under_a_lock, 3)),
    "races of tasks that are alike": machine(two(counts_if_alone, 3)),
    "one looks at who holds the lock": machine(two(looks_who_is_in)),
    "two that create": machine(two(creates), spawn_slots=2),
    "one or the other is created": machine(lambda w: {"t": lambda: one_of_two(w)}, spawn_slots=1),
}


def differences(setup: Callable[[], Setup], reduce: Iterable[str] = REDUCTIONS) -> list[str]:
    reference, engine = Dpor(setup), Stateful(setup, reduce=reduce, checked=True)
    reference.run()
    engine.run()
    return list(state_differences(reference, engine))


@pytest.mark.parametrize("name", MACHINES)
def test_machine(name: str) -> None:
    for reduce in ((), (SYMMETRY,), REDUCTIONS):
        assert differences(MACHINES[name], reduce) == []


def spins(w: Words) -> None:
    while True:
        loop_point(w)
        w.lock.lock()
        w.lock.unlock()


def leaks(w: Words) -> None:
    while True:
        loop_point(w)
        w.add("c", 1)


def is_there(w: Words) -> None:
    report("invariant", "there", "")
    w.y = 1
    report("invariant", "there-again", "")


def leaves_for_ever(w: Words) -> dict[str, Callable[[], Any]]:
    return {"spins": lambda: spins(w), "is there": lambda: is_there(w)}


def livelocks(setup: Callable[[], Setup], reduce: Iterable[str]) -> object:
    engine = Stateful(setup, reduce=reduce, checked=True)
    engine.max_events = 300
    results = engine.run()
    found = {(f.kind, f.name, f.message, mode(one, results)) for f, one in results.found.items()}
    return found, results.exhausted, results.states, [live.told() for live in results.livelocks]


def grows_for_ever(w: Words) -> dict[str, Callable[[], Any]]:
    return {"leaks": lambda: leaks(w), "is there": lambda: is_there(w)}


FOR_EVER = {"one": leaves_for_ever, "two alike": two(spins), "one that grows": grows_for_ever}


@pytest.mark.parametrize("tasks", FOR_EVER.values(), ids=FOR_EVER)
def test_nobody_is_left_out_by_who_goes_round_for_ever(tasks: Any) -> None:
    want = livelocks(machine(tasks), ())
    assert want == livelocks(machine(tasks), REDUCTIONS)
    assert len(want[0]) >= 2  # type: ignore[index]


def states(setup: Callable[[], Setup], *reduce: str) -> int:
    return Stateful(setup, reduce=reduce).run().states


def test_how_many_states_are_left() -> None:
    for name, numbers in SIZES.items():
        setup = MACHINES[name]
        got = [states(setup, *reduce) for reduce in ((), (RELEASES,), (GUARDED,), (SYMMETRY,), REDUCTIONS)]
        assert tuple(got) == numbers, name


#: states with no reduction, with each, with all
SIZES = {
    "two that count": (12, 10, 10, 8, 7),
    "three that count": (59, 56, 56, 20, 19),
    "three under a lock": (1087, 1075, 916, 201, 169),
    "races of tasks that are alike": (1023, 978, 1017, 182, 173),
    "tasks that ask who they are": (16, 12, 12, 16, 12),
}


def test_what_is_the_same_to_run() -> None:
    w, v = [1], [1]

    def made(a: object) -> Callable[[], object]:
        return lambda: a

    assert same(made(w), made(w))
    assert same(made((w, 1, "x")), made((w, 1, "x")))
    assert not same(made(w), made(v))
    assert not same(made(1), made(True))
    assert not same(made(w), lambda: w)


# -- take one rule away -----------------------------------------------------------------------------------------------
MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}
Patch = pytest.MonkeyPatch


def mutant(f: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MUTANTS[f.__name__] = f
    return f


@mutant
def a_trylock_waits_for_the_lock(patch: Patch) -> None:
    patch.setattr(movers, "TAKES", {**movers.TAKES, ops.TRYLOCK: True})


@mutant
def a_trylock_of_a_semaphore_waits_for_it(patch: Patch) -> None:
    patch.setattr(movers, "TAKES", {**movers.TAKES, ops.DOWN_WRITE_TRYLOCK: True})


@mutant
def a_writer_joins_the_queue_when_nobody_writes(patch: Patch) -> None:
    patch.setattr(movers, "TAKES", {**movers.TAKES, ops.DOWN_WRITE: True})


@mutant
def who_looks_at_a_lock_waits_for_it(patch: Patch) -> None:
    patch.setattr(movers, "TAKES", {**movers.TAKES, ops.LOOK: True, ops.TOUCH: True})
    holding = Movers.holding

    def only_locks(self: Movers, t: int, op: Any) -> Any:
        return holding(self, t, op) if self.engine.prims[op[1]] is not None else self.held(t)

    patch.setattr(Movers, "holding", only_locks)


@mutant
def readers_exclude_readers(patch: Patch) -> None:
    patch.setattr(movers, "excluded", lambda a, b: bool({x for x, _ in a} & {y for y, _ in b}))


@mutant
def any_lock_excludes(patch: Patch) -> None:
    patch.setattr(movers, "excluded", lambda a, b: bool(a and b))


@mutant
def the_others_need_no_lock(patch: Patch) -> None:
    patch.setattr(movers, "excluded", lambda a, b: any(alone for _, alone in a))


@mutant
def reads_do_not_matter_to_a_write(patch: Patch) -> None:
    clash = Movers._clash
    patch.setattr(Movers, "_clash", lambda self, a, b: a[1] and b[1] and clash(self, a, b))


@mutant
def only_what_has_happened_counts(patch: Patch) -> None:
    announced, step = Movers.announced, Stateful._step
    patch.setattr(Movers, "announced", lambda self, t, op: None)

    def stepped(self: Stateful, t: int, value: int) -> int:
        announced(self.movers, t, self.pending[t])
        return step(self, t, value)

    patch.setattr(Stateful, "_step", stepped)


@mutant
def decisions_are_never_wrong(patch: Patch) -> None:
    patch.setattr(Movers, "wrong", property(lambda self: False, lambda self, value: None), raising=False)


@mutant
def what_is_read_behind_an_event_is_not_its_own(patch: Patch) -> None:
    patch.setattr(Movers, "read_behind", lambda *args: None)


@mutant
def nobody_unlocks_what_another_has_locked(patch: Patch) -> None:
    patch.setattr(Movers, "_release", lambda *args: None)


@mutant
def only_an_events_own_object_counts(patch: Patch) -> None:
    patch.setattr(movers, "footprint", lambda op: ops.footprint((*op[:2], ())))


@mutant
def a_release_is_never_in_the_way(patch: Patch) -> None:
    may_go = Movers.may_go
    patch.setattr(Movers, "may_go", lambda self, t, op: op[0] in movers.RELEASE or may_go(self, t, op))


@mutant
def a_reduced_move_may_be_taken_for_ever(patch: Patch) -> None:
    patch.setattr(Stateful, "_in_vain", lambda self: self.restart or self.movers.wrong)


@mutant
def a_choice_that_others_wait_for_has_one_value(patch: Patch) -> None:
    moves = Stateful._moves
    patch.setattr(Stateful, "_moves", lambda self, tasks: moves(self, tasks)[: 1 if len(tasks) == 1 else None])


@mutant
def a_state_in_between_is_not_kept_if_its_task_comes_round(patch: Patch) -> None:
    pick = Stateful._pick

    def without(self: Stateful) -> int:
        self.looped = None
        return pick(self)

    patch.setattr(Stateful, "_pick", without)


@mutant
def the_same_code_is_the_same_task(patch: Patch) -> None:
    patch.setattr(symmetry, "_inside", lambda f: ())


@mutant
def who_may_be_left_waiting_does_not_matter(patch: Patch) -> None:
    alike = symmetry.alike
    patch.setattr(stateful, "alike", lambda setup: alike(Setup(setup.tasks)))


@mutant
def tasks_may_ask_who_they_are(patch: Patch) -> None:
    patch.setattr(Stateful, "identified", lambda self, module: None)


@mutant
def whoever_looks_sees_no_number(patch: Patch) -> None:
    patch.setattr(sights, "shows_tasks", lambda prim: False)


@mutant
def tasks_that_are_alike_do_not_disturb_each_other(patch: Patch) -> None:
    patch.setattr(Stateful, "several", lambda self, who: False)


@mutant
def locks_are_not_renumbered(patch: Patch) -> None:
    patch.setattr(sights, "renumbered", lambda prim, state, place: state)


@mutant
def clocks_are_not_renumbered(patch: Patch) -> None:
    past = Stateful._past
    patch.setattr(Stateful, "_past", lambda self, place: past(self, range(self.n)))


@mutant
def one_way_of_exchanging_is_enough(patch: Patch) -> None:
    patch.setattr(symmetry, "WAYS", 0)


@mutant
def functions_of_one_name_are_one(patch: Patch) -> None:
    patch.setattr(values.Values, "_code", lambda self, v: 0)


def first_problem() -> str | None:
    """One thing wrong with a reduction, or None; the cheap questions first."""
    for name in MACHINES:
        if found := differences(MACHINES[name], ()) + differences(MACHINES[name]):
            return f"{name}: {found}"
    try:
        test_what_is_the_same_to_run()
        test_how_many_states_are_left()
        for tasks in FOR_EVER.values():
            test_nobody_is_left_out_by_who_goes_round_for_ever(tasks)
    except AssertionError as e:
        return str(e) or "an assertion"
    for name, program in TRAPS.items():
        for compare in (compare_states, compare_logged):
            if problems := compare(program, checked=False).problems:
                return f"{name}: {problems}"
    for how, compare in COMPARISONS.items():
        for family in ALL:
            seeds = range(700, 700 + PROGRAMS_A_FAMILY[how])
            summary = sweep_states(family, seeds, stop_after=1, compare=compare, checked_every=1_000)
            if summary.mismatches:
                return str(summary.mismatches[0][1])
    return None


@pytest.mark.pure
@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    try:
        found = first_problem()
    except Exception as e:  # an engine without a rule may also break down
        found = f"{type(e).__name__} {e}"
    assert found is not None
