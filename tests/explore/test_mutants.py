"""Take one rule of the engine away, and the default suite must notice.

Each mutant replaces one thing. ``first_problem`` runs what the default suite runs, the cheapest first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore import contexts, dpor, ops, races, scheduler, state
from mmlitmus.explore import runtime as rt
from mmlitmus.explore.dpor import Dpor, Event
from mmlitmus.explore.findings import report
from mmlitmus.explore.primitives import base, folio_lock, irq, mutex, rcu, rwsem, task, wait
from mmlitmus.explore.primitives.choice import may_fail
from mmlitmus.explore.primitives.irq import Cpu

from . import programs
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
def the_holder_gets_in_again(patch: Patch) -> None:
    def enabled(self: rwsem.RwSem, s: Any, op: Any, task: int) -> bool:
        return not s[0] if op[0] == ops.DOWN_READ else s[0][:1] == (task,) and not s[1]

    patch.setattr(rwsem.RwSem, "enabled", enabled)


@mutant
def who_asks_again_waits_for_nobody(patch: Patch) -> None:
    patch.setattr(rwsem, "last", lambda queue, task: queue.index(task))


@mutant
def readers_do_not_wait_for_the_writer_who_holds_the_lock_if_it_is_themselves(patch: Patch) -> None:
    original = rwsem.RwSem.enabled

    def enabled(self: rwsem.RwSem, s: Any, op: Any, task: int) -> bool:
        return original(self, s, op, task) or (op[0] == ops.DOWN_READ and s[0][:1] == (task,))

    patch.setattr(rwsem.RwSem, "enabled", enabled)


@mutant
def a_writer_does_not_wait_for_his_own_reading(patch: Patch) -> None:
    original = rwsem.RwSem.enabled

    def enabled(self: rwsem.RwSem, s: Any, op: Any, task: int) -> bool:
        return original(self, s, op, task) or (op[0] != ops.DOWN_READ and s == ((task,), (task,)))

    patch.setattr(rwsem.RwSem, "enabled", enabled)


@mutant
def a_mutex_lets_its_holder_in(patch: Patch) -> None:
    patch.setattr(mutex.Mutex, "enabled", lambda self, s, op, task: s is None or s == task)


@mutant
def a_try_by_the_holder_succeeds(patch: Patch) -> None:
    def trylock(self: mutex.Mutex) -> bool:
        rt.point((ops.TRYLOCK, self.id, ()))
        if self.state not in (None, rt.engine.cur):
            return False
        self.state = rt.engine.cur
        rt.current().held.append((self, "lock", self.lock_class))
        return True

    patch.setattr(mutex.Mutex, "trylock", trylock)


@mutant
def a_reader_may_try_while_a_writer_queues(patch: Patch) -> None:
    def down_read_trylock(self: rwsem.RwSem) -> bool:
        rt.point((ops.DOWN_READ_TRYLOCK, self.id, ()))
        queue, readers = self.state
        if queue and not readers:
            return False
        self._share(self.lock_class)
        return True

    patch.setattr(rwsem.RwSem, "down_read_trylock", down_read_trylock)


@mutant
def a_writer_who_tries_does_not_mind_readers(patch: Patch) -> None:
    def down_write_trylock(self: rwsem.RwSem) -> bool:
        rt.point((ops.DOWN_WRITE_TRYLOCK, self.id, (self.id + 1 << 1 | 1,)))
        if self.state[0]:
            return False
        self.state = ((rt.engine.cur,), self.state[1])
        rt.current().held.append((self, "write", self.lock_class))
        return True

    patch.setattr(rwsem.RwSem, "down_write_trylock", down_write_trylock)


@mutant
def who_gives_back_what_he_does_not_hold_gives_back_the_holders(patch: Patch) -> None:
    def leave(self: rwsem.RwSem) -> None:
        self.state = (self.state[0][1:], self.state[1])

    patch.setattr(rwsem.RwSem, "_leave", leave)


@mutant
def who_downgrades_what_he_does_not_hold_shares_it(patch: Patch) -> None:
    def downgrade_write(self: rwsem.RwSem) -> None:
        rt.point((ops.DOWNGRADE_WRITE, self.id, (self.id + 1 << 1 | 1,)))
        self._leave()
        self.release("write")
        self._share(self.lock_class)

    patch.setattr(rwsem.RwSem, "downgrade_write", downgrade_write)


@mutant
def a_bad_unlock_goes_unnoticed(patch: Patch) -> None:
    patch.setattr(base, "report", lambda *args: None)


@mutant
def a_folio_that_is_not_locked_may_be_unlocked(patch: Patch) -> None:
    patch.setattr(folio_lock, "report", lambda *args: None)


@mutant
def a_folio_lock_is_its_takers_alone(patch: Patch) -> None:
    patch.setattr(folio_lock.FolioLock, "unlock", mutex.Mutex.unlock)


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
def finish_wait_takes_the_others_along(patch: Patch) -> None:
    def finish_wait(self: wait.WaitQueue) -> None:
        rt.point((ops.FINISH_WAIT, self.id, ()))
        rt.current().waiting = ""
        self.state = tuple(e for e in self.state if e[0] == rt.engine.cur)

    patch.setattr(wait.WaitQueue, "finish_wait", finish_wait)


@mutant
def finish_wait_empties_the_queue(patch: Patch) -> None:
    def finish_wait(self: wait.WaitQueue) -> None:
        rt.point((ops.FINISH_WAIT, self.id, ()))
        rt.current().waiting = ""
        self.state = ()

    patch.setattr(wait.WaitQueue, "finish_wait", finish_wait)


@mutant
def a_wakeup_is_for_the_first_alone(patch: Patch) -> None:
    def wake_up(self: wait.WaitQueue) -> None:
        rt.point((ops.WAKE_UP, self.id, ()))
        sleeping = [t for t, woken in self.state if not woken]
        self.state = tuple((t, woken or t == sleeping[0]) for t, woken in self.state)

    patch.setattr(wait.WaitQueue, "wake_up", wake_up)


@mutant
def who_prepares_again_is_still_woken(patch: Patch) -> None:
    def prepare_to_wait(self: wait.WaitQueue) -> None:
        rt.point((ops.PREPARE_TO_WAIT, self.id, ()))
        me = rt.engine.cur
        if all(t != me for t, _ in self.state):
            self.state = (*self.state, (me, False))
        rt.current().waiting = self.name

    patch.setattr(wait.WaitQueue, "prepare_to_wait", prepare_to_wait)


@mutant
def wait_event_sleeps_without_looking_again(patch: Patch) -> None:
    def wait_event(self: wait.WaitQueue, condition: Callable[[], bool]) -> None:
        while not condition():
            self.prepare_to_wait()
            self.schedule()
        self.finish_wait()

    patch.setattr(wait.WaitQueue, "wait_event", wait_event)


@mutant
def wait_event_looks_once(patch: Patch) -> None:
    def wait_event(self: wait.WaitQueue, condition: Callable[[], bool]) -> None:
        self.prepare_to_wait()
        if not condition():
            self.schedule()
        self.finish_wait()

    patch.setattr(wait.WaitQueue, "wait_event", wait_event)


@mutant
def rcu_sections_do_not_nest(patch: Patch) -> None:
    def read_lock(self: rcu.Rcu) -> None:
        side = self._mine()
        rt.point((ops.RCU_READ_LOCK, side.id, ()))
        side.state = (1, side.state[1])
        rt.current().rcu = 1

    patch.setattr(rcu.Rcu, "read_lock", read_lock)


@mutant
def an_rcu_section_that_is_not_there_is_left(patch: Patch) -> None:
    def read_unlock(self: rcu.Rcu) -> None:
        side = self._mine()
        rt.point((ops.RCU_READ_UNLOCK, side.id, ()))
        nesting, ended = side.state
        rt.current().rcu -= 1
        side.state = (nesting - 1, ended + (nesting == 1))

    patch.setattr(rcu.Rcu, "read_unlock", read_unlock)


@mutant
def a_deferred_call_does_not_wait(patch: Patch) -> None:
    def call(self: rcu.Rcu, name: str, fn: Callable[[], object]) -> None:
        self._snapshot()
        self._defer(name, fn, [])

    patch.setattr(rcu.Rcu, "call", call)


@mutant
def interrupts_do_not_nest(patch: Patch) -> None:
    def local_irq_disable(self: Cpu) -> None:
        rt.point((ops.LOCAL_IRQ_DISABLE, self.id, ()))
        self.state = 1
        rt.current().irqs_off = 1

    patch.setattr(Cpu, "local_irq_disable", local_irq_disable)


@mutant
def interrupts_that_are_on_are_turned_on(patch: Patch) -> None:
    def local_irq_enable(self: Cpu) -> None:
        rt.point((ops.LOCAL_IRQ_ENABLE, self.id, ()))
        rt.current().irqs_off -= 1
        self.state -= 1

    patch.setattr(Cpu, "local_irq_enable", local_irq_enable)


@mutant
def an_ipi_may_be_sent_with_interrupts_off(patch: Patch) -> None:
    patch.setattr(irq, "report", lambda kind, name, why: name == contexts.IPI_WITHOUT_IRQS or report(kind, name, why))


@mutant
def allocations_fail_for_ever(patch: Patch) -> None:
    patch.setattr(programs, "may_fail", lambda label, budget: may_fail(label, 9))


@mutant
def a_join_does_not_wait(patch: Patch) -> None:
    patch.setattr(task.Thread, "join", lambda self: rt.point((ops.LOOK, self.id, ())))


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


# -- contexts -----------------------------------------------------------------------------------------------------
def _unasked(module: Any, *what: str) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        original = module.might_sleep
        patch.setattr(module, "might_sleep", lambda name: None if name in what else original(name))

    return apply


for module, what in (
    (mutex, "mutex_lock"), (rwsem, "down_read"), (rwsem, "down_write"), (folio_lock, "folio_lock"),
    (rcu, "synchronize_rcu"), (wait, "wait_event"), (task, "wait_for_completion"),
):  # fmt: skip
    MUTANTS[f"{what}_sleeps_anywhere"] = _unasked(module, what)


@mutant
def a_spinlock_is_a_mutex(patch: Patch) -> None:
    patch.setattr(mutex.Spinlock, "sleeps", True)


@mutant
def a_mutex_is_a_spinlock(patch: Patch) -> None:
    patch.setattr(mutex.Mutex, "sleeps", False)


@mutant
def one_may_sleep_in_an_rcu_section(patch: Patch) -> None:
    original = rcu.Rcu.read_lock

    def read_lock(self: rcu.Rcu) -> None:
        original(self)
        rt.current().rcu = 0

    patch.setattr(rcu.Rcu, "read_lock", read_lock)


@mutant
def one_may_sleep_with_interrupts_off(patch: Patch) -> None:
    patch.setattr(contexts, "atomic", lambda t: "holding" * any(not p.sleeps for p, _, _ in t.held) or "rcu" * t.rcu)


@mutant
def one_may_sleep_after_prepare_to_wait(patch: Patch) -> None:
    patch.setattr(contexts, "NOT_RUNNING", contexts.INVALID_CONTEXT)


@mutant
def schedule_is_like_any_sleep(patch: Patch) -> None:
    patch.setattr(wait, "might_schedule", lambda: contexts.might_sleep("schedule"))


@mutant
def one_may_schedule_anywhere(patch: Patch) -> None:
    patch.setattr(wait, "might_schedule", lambda: None)


@mutant
def a_lock_may_be_kept(patch: Patch) -> None:
    patch.setattr(contexts, "LOCK_HELD", contexts.IRQS_LEFT)


@mutant
def nobody_asks_what_is_kept(patch: Patch) -> None:
    patch.setattr(scheduler, "leaves", lambda task: None)


@mutant
def who_died_is_asked_what_he_kept(patch: Patch) -> None:
    original = scheduler.Scheduler._ended

    def ended(self: scheduler.Scheduler, setup: Any) -> None:
        for t in self.tasks[: self.nlive]:
            if t.dead:
                contexts.leaves(t)
        original(self, setup)

    patch.setattr(scheduler.Scheduler, "_ended", ended)


# -- the tests ----------------------------------------------------------------------------------------------------
# (That the engine as it is has no problem is what test_engine.py and test_oracle.py say, part by part.)
@pytest.mark.pure
@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    assert first_problem() is not None
