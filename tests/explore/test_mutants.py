"""Take one rule of the engine away, and the default suite must notice.

Each mutant replaces one thing. ``first_problem`` runs what the default suite runs, the cheapest first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore import dpor, ops, races, scheduler, state
from mmlitmus.explore import runtime as rt
from mmlitmus.explore.dpor import Dpor, Event
from mmlitmus.explore.primitives import rcu, rwsem, wait
from mmlitmus.explore.primitives.irq import Cpu

from .suite import first_problem

MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}
Patch = pytest.MonkeyPatch


def mutant(f: Callable[[Patch], None]) -> Callable[[Patch], None]:
    MUTANTS[f.__name__] = f
    return f


def _filter_races(patch: Patch, keep: Callable[[Any, Any], bool]) -> None:
    """Keep only the races (earlier event's op, later op) that ``keep`` likes."""
    original = Dpor._immediate_races

    def filtered(self: Dpor, races: list[Event], j: int, q: int, op: Any, previous: list[int]) -> None:
        original(self, [a for a in races if keep(a.op, op)], j, q, op, previous)

    patch.setattr(Dpor, "_immediate_races", filtered)


# -- races --------------------------------------------------------------------------------------------------------
@mutant
def read_then_write_is_no_race(patch: Patch) -> None:
    _filter_races(patch, lambda a, b: not (ops.READ_LIKE[a[0]] and not ops.READ_LIKE[b[0]]))


@mutant
def write_then_read_is_no_race(patch: Patch) -> None:
    _filter_races(patch, lambda a, b: not (not ops.READ_LIKE[a[0]] and ops.READ_LIKE[b[0]]))


@mutant
def write_then_write_is_no_race(patch: Patch) -> None:
    _filter_races(patch, lambda a, b: ops.READ_LIKE[a[0]] or ops.READ_LIKE[b[0]])


@mutant
def locks_do_not_race(patch: Patch) -> None:
    patch.setattr(Dpor, "_rival", lambda *args: None)


@mutant
def only_the_last_event_before_a_lock_races_with_it(patch: Patch) -> None:
    def rival(self: Dpor, op: Any, q: int, previous: list[int]) -> Event | None:
        for a, before in reversed(self.objects[op[1]].history):
            if ops.writes(a.op, op[1]):
                enabled = self.prims[op[1]].enabled(before, op, q)
                return a if a.index > previous[a.task] and enabled else None
        return None

    patch.setattr(Dpor, "_rival", rival)


def _no_pending_races(patch: Patch, status: str) -> None:
    original = Dpor._pending_races

    def pending_races(self: Dpor, tasks: list[int]) -> None:
        if self.status != status:
            original(self, tasks)

    patch.setattr(Dpor, "_pending_races", pending_races)


@mutant
def a_blocked_operation_does_not_race_at_a_deadlock(patch: Patch) -> None:
    _no_pending_races(patch, "deadlock")


@mutant
def a_blocked_operation_does_not_race_when_the_sleep_set_cuts(patch: Patch) -> None:
    _no_pending_races(patch, "blocked")


@mutant
def a_pending_operation_does_not_race_at_a_truncation(patch: Patch) -> None:
    _no_pending_races(patch, "truncated")


@mutant
def a_task_that_spins_keeps_the_others_out(patch: Patch) -> None:
    original = Dpor._pending_races

    def pending_races(self: Dpor, tasks: list[int]) -> None:
        original(self, tasks)
        self.enabled_at_end = 0

    patch.setattr(Dpor, "_pending_races", pending_races)


@mutant
def only_the_racing_task_counts_as_tried(patch: Patch) -> None:
    def reverse(self: Dpor, a: Event, j: int, q: int, op: Any, previous: list[int]) -> None:
        if a.enabled >> q & 1:
            a.backtrack |= 1 << q

    patch.setattr(Dpor, "_reverse", reverse)


# -- footprints ---------------------------------------------------------------------------------------------------
@mutant
def extra_objects_are_ignored(patch: Patch) -> None:
    original = Dpor._record

    def record(self: Dpor, e: Event, p: int, value: int) -> int:
        op = self.pending[p]
        self.pending[p] = (*op[:2], (), *op[3:])
        return original(self, e, p, value)

    patch.setattr(Dpor, "_record", record)


@mutant
def extra_objects_do_not_conflict_with_extra_objects(patch: Patch) -> None:
    def conflict(a: Any, b: Any) -> bool:
        return ops.conflict((*a[:2], ()), b) or ops.conflict(a, (*b[:2], ()))

    patch.setattr(dpor, "conflict", conflict)


@mutant
def an_extra_object_does_not_conflict_with_the_other_events_own(patch: Patch) -> None:
    def conflict(a: Any, b: Any) -> bool:
        return ops.conflict((*a[:2], ()), (*b[:2], ())) or ops.conflict((a[0], -1, a[2]), (b[0], -1, b[2]))

    patch.setattr(dpor, "conflict", conflict)


@mutant
def freeing_does_not_write_the_fields(patch: Patch) -> None:
    def free(self: state.Model) -> None:
        rt.point((ops.FREE, self.id, ()))
        if self._freed:
            state.report("use-after-free", "double free", "")
        self._freed = True

    patch.setattr(state.Model, "free", free)


@mutant
def guarded_accesses_do_not_read_the_lifetime(patch: Patch) -> None:
    patch.setattr(Dpor, "also_reads", lambda *args: None)


@mutant
def a_trylock_is_read_like(patch: Patch) -> None:
    read_like = [x or n == ops.TRYLOCK for n, x in enumerate(ops.READ_LIKE)]
    patch.setattr(ops, "READ_LIKE", tuple(read_like))
    for module in (ops, dpor):
        patch.setattr(module, "WRITES", tuple(not x for x in read_like))


@mutant
def a_creation_does_not_precede_what_it_creates(patch: Patch) -> None:
    original = scheduler.Scheduler.spawn

    def spawn(self: scheduler.Scheduler, *args: Any) -> int:
        t = original(self, *args)
        self.pending[t] = (ops.LOOK, ops.NONE, ())
        return t

    patch.setattr(scheduler.Scheduler, "spawn", spawn)


# -- sleep sets and choices ---------------------------------------------------------------------------------------
@mutant
def sleepers_never_wake(patch: Patch) -> None:
    patch.setattr(Dpor, "_still_asleep", lambda self, e: list(e.asleep))


@mutant
def sleepers_wake_at_once(patch: Patch) -> None:
    patch.setattr(Dpor, "_still_asleep", lambda self, e: [])


@mutant
def a_choice_is_one_event_whatever_its_value(patch: Patch) -> None:
    patch.setattr(dpor, "CHOOSE", -2)


# -- primitives ---------------------------------------------------------------------------------------------------
@mutant
def readers_do_not_wait_behind_queued_writers(patch: Patch) -> None:
    original = rwsem.RwSem.enabled

    def enabled(self: rwsem.RwSem, s: Any, op: Any, task: int) -> bool:
        return original(self, s, op, task) or (op[0] == ops.DOWN_READ and bool(s[1]))

    patch.setattr(rwsem.RwSem, "enabled", enabled)


@mutant
def a_downgrade_lets_no_readers_in(patch: Patch) -> None:
    def downgrade_write(self: rwsem.RwSem) -> None:
        self.release("write")
        self._share("")

    def up_read(self: rwsem.RwSem) -> None:
        self._leave()
        original(self)

    original = rwsem.RwSem.up_read
    patch.setattr(rwsem.RwSem, "downgrade_write", downgrade_write)
    patch.setattr(rwsem.RwSem, "up_read", up_read)


@mutant
def a_grace_period_waits_for_all_readers(patch: Patch) -> None:
    patch.setattr(rcu.ReadSide, "enabled", lambda self, s, op, task: s[0] == 0)


@mutant
def a_grace_period_waits_for_nobody(patch: Patch) -> None:
    patch.setattr(rcu.ReadSide, "enabled", lambda self, s, op, task: True)


@mutant
def finish_wait_stays_on_the_queue(patch: Patch) -> None:
    patch.setattr(wait.WaitQueue, "finish_wait", lambda self: rt.point((ops.FINISH_WAIT, self.id, ())))


@mutant
def a_wakeup_is_remembered(patch: Patch) -> None:
    original = wait.WaitQueue.prepare_to_wait

    def prepare_to_wait(self: wait.WaitQueue) -> None:
        original(self)
        if (-1, True) in self.state:
            self.state = tuple((t, True) for t, _ in self.state)

    def wake_up(self: wait.WaitQueue) -> None:
        rt.point((ops.WAKE_UP, self.id, ()))
        self.state = (*((t, True) for t, _ in self.state if t >= 0), (-1, True))

    patch.setattr(wait.WaitQueue, "prepare_to_wait", prepare_to_wait)
    patch.setattr(wait.WaitQueue, "wake_up", wake_up)


@mutant
def a_wakeup_takes_effect_before_its_event(patch: Patch) -> None:
    def wake_up(self: wait.WaitQueue) -> None:
        self.state = tuple((t, True) for t, _ in self.state)
        rt.point((ops.WAKE_UP, self.id, ()))

    patch.setattr(wait.WaitQueue, "wake_up", wake_up)


@mutant
def an_ipi_does_not_wait_for_interrupts(patch: Patch) -> None:
    patch.setattr(Cpu, "enabled", lambda self, s, op, task: True)


@mutant
def a_marked_write_orders_like_an_atomic(patch: Patch) -> None:
    sync = [x or n in (ops.READ_ONCE, ops.WRITE_ONCE) for n, x in enumerate(ops.SYNC)]
    patch.setattr(races, "SYNC", tuple(sync))


# -- the tests ----------------------------------------------------------------------------------------------------
# (That the engine as it is has no problem is what test_engine.py and test_oracle.py say, part by part.)
@pytest.mark.pure
@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    assert first_problem() is not None
