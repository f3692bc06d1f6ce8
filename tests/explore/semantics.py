"""What each primitive means, and what the search must find: small programs with their exact results.

Each check is a function that raises AssertionError. ``test_engine.py`` runs them, and so does the test of the engine
mutants, which asks that every mutant fails something here or in the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import Any

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.primitives.task import spawn
from mmlitmus.explore.scheduler import Results, Setup
from mmlitmus.explore.state import Model, Once

from .programs import Program, build

CHECKS: dict[str, Callable[[], None]] = {}


def check(f: Callable[[], None]) -> Callable[[], None]:
    CHECKS[f.__name__] = f
    return f


def code(text: str) -> tuple[Any, ...]:
    """``"lock 0; r o0"`` as instructions."""
    return tuple(
        tuple(int(word) if word.isdigit() else word for word in ins.split()) for ins in text.split(";") if ins.strip()
    )


def explore(*tasks: str | tuple[Any, ...], family: str = "pinned") -> Results:
    """All executions of these tasks; ``family``: what kind of locks there are."""
    program = Program(family, 0, tuple(code(t) if isinstance(t, str) else t for t in tasks))
    return Dpor(build(program), keep_traces=True, max_executions=20_000).run()


def logs(results: Results, task: str = "t0") -> set[tuple[Any, ...]]:
    """What the task saw, over all executions."""
    return {dict(outcome[0])[task] for outcome in results.outcomes}  # type: ignore[index]


def names(results: Results, kind: str) -> set[str]:
    """The findings of one kind."""
    return {f.name for f in results.found if f.kind == kind}


def want(got: object, expected: object) -> None:
    if got != expected:
        raise AssertionError(f"{got} instead of {expected}")


# -- counts -------------------------------------------------------------------------------------------------------
class Counter(Model):
    """One shared number."""

    __slots__ = ()
    x = Once()


def increments(tasks: int, times: int) -> Callable[[], Setup]:
    """Unlocked increments of one number."""

    def setup() -> Setup:
        v = Counter("v", x=0)

        def increment() -> None:
            for _ in range(times):
                v.x = v.x + 1

        return Setup({f"t{n}": increment for n in range(tasks)}, outcome=lambda: v.peek("x"))

    return setup


def sections(tasks: int, times: int) -> Callable[[], Setup]:
    """Faults that take one page-table lock so often each, against one zap that takes it once."""

    def setup() -> Setup:
        ptl = Mutex("ptl")

        def section(n: int) -> Callable[[], None]:
            def run() -> None:
                for _ in range(n):
                    ptl.lock()
                    ptl.unlock()

            return run

        return Setup({**{f"fault{n}": section(times) for n in range(tasks)}, "zap": section(1)})

    return setup


INCREMENTS = {(2, 1): 4, (2, 2): 34, (2, 3): 328, (3, 1): 36, (3, 2): 7134}


@check
def count_increments() -> None:
    for (tasks, times), traces in INCREMENTS.items():
        if traces > 1000:  # test_engine has this one
            continue
        r = Dpor(increments(tasks, times), max_executions=2 * traces).run()
        want((r.counts.complete, r.counts.executions), (traces, traces))


@check
def count_sections() -> None:
    for tasks, times in ((1, 3), (2, 2), (2, 3), (3, 1)):
        traces = factorial(tasks * times + 1) // factorial(times) ** tasks
        r = Dpor(sections(tasks, times), max_executions=2 * traces).run()
        want((r.counts.complete, r.counts.executions), (traces, traces))


# -- locks --------------------------------------------------------------------------------------------------------
@check
def a_lock_excludes() -> None:
    want(explore("lock 0; inc o0; unlock 0", "lock 0; inc o0").outcomes, explore("inc o0; inc o0", "").outcomes)
    r = explore("dw 0; inc o0; up 0", "dw 0; inc o0", "dr 0; r o0; r o0")
    want(logs(r, "t2"), {(0, 0), (1, 1), (2, 2)})


@check
def readers_share() -> None:
    want(logs(explore("dr 0; r o0; r o0", "dr 0; w o0 1")), {(0, 0), (0, 1), (1, 1)})


@check
def a_reader_waits_behind_a_queued_writer() -> None:
    r = explore("dr 0; dr 0", "dw 0")
    want(r.deadlocks, {("t0", "t1")})
    want(names(r, "deadlock"), {"deadlock s0"})
    want(logs(explore("dr 0; tr 0", "dw 0")), {(True,), (False,)})


@check
def downgrade_lets_readers_in_and_writers_not() -> None:
    r = explore("dw 0; w o1 1; downgrade 0; w o0 1; up 0", "dr 0; r o1; r o0")
    want(logs(r, "t1"), {(0, 0), (1, 0), (1, 1)})
    r = explore("dw 0; downgrade 0; r o0; up 0", "dw 0; w o0 1; w o0 0")
    want(logs(r), {(0,)})


@check
def a_trylock_may_fail() -> None:
    want(logs(explore("trylock 0", "lock 0")), {(True,), (False,)})
    want(logs(explore("tw 0", "dr 0")), {(True,), (False,)})
    want(logs(explore("tr 0", "dr 0")), {(True,)})


@check
def two_locks_deadlock() -> None:
    r = explore("lock 0; lock 1", "lock 1; lock 0")
    want(r.deadlocks, {("t0", "t1")})
    want((names(r, "deadlock"), names(r, "inversion")), ({"deadlock l0 / l1"}, {"inversion l0 -> l1 -> l0"}))


@check
def an_inversion_need_not_be_reached() -> None:
    r = explore("dw 0; lock 0; lock 1; unlock 1; unlock 0", "dw 0; lock 1; lock 0; unlock 0; unlock 1")
    want((r.deadlocks, names(r, "inversion")), (set(), {"inversion l0 -> l1 -> l0"}))
    r = explore("lock 0; trylock 1", "lock 1; trylock 0")
    want((r.deadlocks, names(r, "inversion")), (set(), set()))


@check
def a_bug_keeps_its_locks_and_blames_nobody() -> None:
    r = explore("lock 0; bugif 0", "lock 0; w o0 1")
    want((names(r, "BUG"), names(r, "deadlock"), r.deadlocks), ({"oops"}, set(), set()))
    want({o[1][0] for o in r.outcomes}, {0, 1})  # type: ignore[index]


@check
def a_bad_unlock_is_found() -> None:
    want(names(explore("steal 0", "lock 0"), "BUG"), {"bad unlock balance"})


@check
def who_takes_a_lock_twice_waits_for_himself() -> None:
    """The holder of a lock is no exception to it, whatever he holds it for."""
    for twice, lock in (
        ("dw 0; dw 0", "s0"),
        ("dw 0; dr 0", "s0"),
        ("dr 0; dw 0", "s0"),
        ("tw 0; dw 0", "s0"),
        ("dw 0; downgrade 0; dw 0", "s0"),
        ("lock 0; lock 0", "l0"),
        ("trylock 0; lock 0", "l0"),
        ("spin 0; spin 0", "sp0"),
    ):
        r = explore(twice)
        want((twice, r.deadlocks, names(r, "deadlock")), (twice, {("t0",)}, {f"deadlock {lock}"}))
    r = explore("dw 0; dw 0")
    (found,) = [f for f in r.found if f.kind == "deadlock"]
    want(found.message, "t0 waits in down_write(s0) held by t0, holding s0 (write)")
    # whoever comes later waits behind him
    want(explore("dw 0; dw 0", "dw 0").deadlocks, {("t0",), ("t0", "t1")})
    want(explore("dw 0; up 0; dw 0; up 0", "dw 0").deadlocks, set())


@check
def a_try_by_the_holder() -> None:
    for held, tried, got in (
        ("dw 0", "tw 0", False), ("dw 0", "tr 0", False), ("dr 0", "tw 0", False), ("dr 0", "tr 0", True),
        ("lock 0", "trylock 0", False),
    ):  # fmt: skip
        want((held, tried, logs(explore(f"{held}; {tried}"))), (held, tried, {(got,)}))


@check
def a_bad_unlock_of_a_semaphore_is_found_and_changes_nothing() -> None:
    for bad in ("badup read 0", "badup write 0", "baddowngrade 0", "dr 0; badup write 0", "dw 0; badup read 0"):
        want((bad, names(explore(bad), "BUG")), (bad, {"bad unlock balance"}))
    # t1 gets in only when t0 has let go
    for bad in ("badup write 0", "baddowngrade 0", "badup read 0"):
        want(logs(explore("dw 0; w o0 1; w o0 2; up 0", f"{bad}; dr 0; r o0"), "t1"), {(0,), (2,)})
    # and who has downgraded what he did not hold does not hold it now
    want(names(explore("baddowngrade 0; dw 0"), "deadlock"), set())
    want(names(explore("dr 0; badup read 0; dr 0; badup read 0"), "BUG"), set())


@check
def a_folio_is_unlocked_by_whoever_has_done_with_it() -> None:
    r = explore("steal 0", family="folio")
    want((names(r, "BUG"), names(explore("lock 0; steal 0", family="folio"), "BUG")), ({"folio not locked"}, set()))
    r = explore("lock 0; w o0 1; lock 0; w o0 2", "r o0; skip 0 1; steal 0", family="folio")
    want((r.deadlocks, {o[1][0] for o in r.outcomes}), ({("t0",)}, {1, 2}))  # type: ignore[index]
    want(names(explore("lock 0", "r o0; steal 0", family="folio"), "BUG"), {"folio not locked"})
    want(explore("lock 0; lock 0", family="folio").deadlocks, {("t0",)})
    want(logs(explore("lock 0; trylock 0", family="folio")), {(False,)})
    want(names(explore("keep; lock 0", family="folio"), "held-at-end"), set())


# -- contexts -----------------------------------------------------------------------------------------------------
def sleeps(*tasks: str) -> set[str]:
    """What is said of sleeping where one must not."""
    return names(explore(*tasks), "sleep-in-atomic")


NOT_RUNNING = "do not call blocking ops when !TASK_RUNNING"
INVALID = "sleeping function called from invalid context"
#: what may sleep, and what takes it to come to an end
SLEEPING = ("lock 0", "dr 0", "dw 0", "sync", "wait o0 0", "folio 0", "alloced")
#: what never does
AWAKE = ("trylock 0", "tr 0", "tw 0", "spin 1", "prepare; finish", "wake", "r o0", "cas a0 0 1", "call", "ipi 0 0 1")


@check
def a_task_sleeps_where_it_must_not() -> None:
    for inside in ("spin 0", "rl", "cli"):
        for what in SLEEPING:
            want((inside, what, sleeps(f"{inside}; {what}")), (inside, what, {INVALID}))
    for inside, after in (("spin 0", "unspin 0"), ("rl", "ru"), ("cli", "sti")):
        for what in SLEEPING:
            want((inside, what, sleeps(f"{inside}; {after}; {what}")), (inside, what, set()))
    for nested in ("rl; rl; ru", "cli; cli; sti", "spin 0; spin 1; unspin 1", "spin 0; rl; ru"):
        want((nested, sleeps(f"{nested}; lock 0")), (nested, {INVALID}))
    for inside in ("lock 1", "dr 1", "dw 1", "tr 1", ""):  # locks that sleep themselves
        for what in SLEEPING:
            want((inside, what, sleeps(f"{inside}; {what}")), (inside, what, set()))
    (found,) = [f for f in explore("spin 0; rl; cli; dr 0").found if f.kind == "sleep-in-atomic"]
    want(found.message, "t0 calls down_read holding sp0, in an RCU read section, with interrupts off")


@check
def what_does_not_sleep_may_be_done_anywhere() -> None:
    for what in AWAKE:
        code_ = (("spin", 0), ("rl",), *((("call", code("w o0 1")),) if what == "call" else code(what)))
        want((what, names(explore(code_), "sleep-in-atomic")), (what, set()))


@check
def to_join_is_to_sleep() -> None:
    child = ("spawn", code("w o0 1"))
    want(names(explore((child, ("spin", 0), ("join",))), "sleep-in-atomic"), {INVALID})
    want(names(explore((child, ("join",))), "sleep-in-atomic"), set())


@check
def schedule_has_rules_of_its_own() -> None:
    want(sleeps("spin 0; schedule"), {"scheduling while atomic"})
    want(sleeps("rl; schedule"), {"Voluntary context switch within RCU read-side critical section"})
    want(sleeps("cli; schedule"), set())
    want(sleeps("lock 0; schedule"), set())


@check
def nothing_else_is_slept_on_between_prepare_to_wait_and_schedule() -> None:
    running = {NOT_RUNNING}
    for what in SLEEPING:
        want((what, sleeps(f"prepare; {what}", "wake")), (what, running))
        want((what, sleeps(f"prepare; schedule; {what}", "wake")), (what, set()))
        want((what, sleeps(f"prepare; finish; {what}", "wake")), (what, set()))


@check
def what_is_held_at_the_end() -> None:
    kept = {"lock held when returning to user space"}
    for held in ("lock 0", "spin 0", "dr 0", "dw 0", "tr 0", "trylock 0", "rl"):
        want((held, names(explore(f"keep; {held}"), "held-at-end")), (held, kept))
        want((held, names(explore(held), "held-at-end")), (held, set()))
    want(names(explore("keep; cli"), "held-at-end"), {"syscall left IRQs disabled"})
    want(names(explore("keep; lock 0; bugif 0"), "held-at-end"), set())
    want(names(explore("keep; lock 0; lock 0"), "held-at-end"), set())  # it never comes to its end
    (found,) = [f for f in explore("keep; dw 0; rl").found if f.kind == "held-at-end"]
    want(found.message, "t0 ends holding s0 (write), rcu_read_lock")


@check
def what_is_given_back_must_be_there() -> None:
    want(names(explore("badru"), "BUG"), {"bad unlock balance"})
    want(names(explore("rl; badru"), "BUG"), set())
    want(names(explore("badsti"), "WARN"), {"raw_local_irq_restore() called with IRQs enabled"})
    want(names(explore("cli; badsti"), "WARN"), set())
    # and nothing is less than nothing: a section entered then is one, and an interrupt comes through
    want(logs(explore("badru; rl; r o0; r o1; ru", "w o0 1; sync; w o1 1")), {(0, 0), (1, 0), (1, 1)})
    want(explore("badsti", "ipi 0 0 3").deadlocks, set())
    want(logs(explore("badsti; cli; fill 0 1; fill 0 2; sti", "ipi 0 0 3")), {(0, 1), (3, 1)})


@check
def an_ipi_is_not_sent_with_interrupts_off() -> None:
    r = explore("cli; ipi 1 0 1; sti", "cli; ipi 0 0 1; sti")
    want((names(r, "WARN"), r.deadlocks), ({"IPI sent with IRQs disabled"}, {("t0", "t1")}))
    want(names(explore("ipi 1 0 1; cli; sti", "cli; sti; ipi 0 0 1"), "WARN"), set())


# -- sleeping -----------------------------------------------------------------------------------------------------
@check
def a_wakeup_can_be_lost() -> None:
    r = explore("r o0; skip 1 2; prepare; schedule; finish", "w o0 1; wake")
    want(r.deadlocks, {("t0",)})
    # nothing of the queue is touched if it holds at once: still prepared to wait, one must not sleep
    want(names(explore("w o0 1; prepare; wait o0 1; lock 0"), "sleep-in-atomic"), {NOT_RUNNING})
    want(explore("w o0 1; prepare; wait o0 1; schedule").deadlocks, {("t0",)})
    r = explore("wait o0 1", "w o0 1; wake")
    want((r.deadlocks, r.counts.complete > 1), (set(), True))


@check
def a_wakeup_is_for_those_on_the_queue() -> None:
    r = explore("prepare; schedule; r o0", "wake; w o0 1")
    want((r.deadlocks, logs(r)), ({("t0",)}, {(), (0,), (1,)}))
    r = explore("prepare; schedule", "prepare; schedule", "wake")
    want((r.counts.complete > r.counts.deadlocks, ("t0",) in r.deadlocks, ("t1",) in r.deadlocks), (True, True, True))
    for again in ("prepare; schedule; prepare; schedule", "prepare; prepare; schedule; prepare; schedule"):
        r = explore(f"{again}; r o0", "wake")
        want((r.deadlocks, logs(r), r.counts.complete), ({("t0",)}, {()}, r.counts.deadlocks))
    r = explore("prepare; schedule; finish; prepare; schedule", "wake")
    want((r.deadlocks, r.counts.complete), ({("t0",)}, r.counts.deadlocks))


@check
def finish_wait_leaves_the_queue() -> None:
    r = explore("prepare; finish; schedule", "wake")
    want(r.deadlocks, set())


@check
def finish_wait_leaves_the_others_on_the_queue() -> None:
    """Whoever leaves takes nobody along: the others sleep on until they are woken."""
    r = explore("prepare; w o0 1; schedule; w o1 1", "r o0; skip 0 3; prepare; finish; w o0 2")
    want((r.deadlocks, {o[1][1] for o in r.outcomes}), ({("t0",)}, {0}))  # type: ignore[index]
    want(r.counts.deadlocks, r.counts.complete)
    want(explore("prepare; schedule", "prepare; finish; wake").deadlocks, {("t0",)})
    want(explore("prepare; schedule; r o0", "prepare; schedule; r o0", "wake").counts.deadlocks > 0, True)


# -- RCU ----------------------------------------------------------------------------------------------------------
@check
def a_grace_period_waits_for_readers() -> None:
    want(logs(explore("rl; r o0; r o1; ru", "w o0 1; sync; w o1 1")), {(0, 0), (1, 0), (1, 1)})
    want(logs(explore("rl; r o0; r o1; ru", "w o0 1; w o1 1")), {(0, 0), (0, 1), (1, 0), (1, 1)})


@check
def a_deferred_call_comes_after_a_grace_period() -> None:
    deferred = (*code("w o0 1"), ("call", code("w o1 1")))
    want(logs(explore("rl; r o0; r o1; ru", deferred)), {(0, 0), (1, 0), (1, 1)})


@check
def a_grace_period_does_not_wait_for_later_readers() -> None:
    # When t1 sees o1 = 1 and t0 sees o0 = 1, the grace period has started within t0's first section. So it ends
    # although t0's second section waits for what comes after it.
    r = explore(
        "rl; w o1 1; r o0; skip 0 4; ru; rl; wait a0 1; ru",
        (*code("r o1; skip 0 2"), ("call", code("w a0 1; wake")), *code("w o0 1")),
    )
    want(r.deadlocks, set())
    want((1, 1) in {(log[-1], len(log)) for log in logs(r)}, True)


# -- interrupts ---------------------------------------------------------------------------------------------------
@check
def an_ipi_waits_for_interrupts() -> None:
    want(logs(explore("cli; fill 0 1; fill 0 2; sti", "ipi 0 0 3")), {(0, 1), (3, 1)})
    want(logs(explore("fill 0 1; fill 0 2", "ipi 0 0 3")), {(0, 1), (3, 1), (0, 7)})


# -- choices ------------------------------------------------------------------------------------------------------
@check
def every_value_is_tried() -> None:
    want(logs(explore("choose 3; choose 2", "")), {(a, b) for a in range(3) for b in range(2)})
    bits = (0, 1)
    want(logs(explore("choose 2; r o0; choose 2", "w o0 1")), {(a, b, c) for a in bits for b in bits for c in bits})
    want(logs(explore("alloc 1; alloc 1", "")), {(False, False), (False, True), (True, False)})


# -- tasks --------------------------------------------------------------------------------------------------------
@check
def a_task_starts_after_its_creation_and_ends_before_its_join() -> None:
    child = ("spawn", code("r p0; w p0 2"))
    want(names(explore((("w", "p0", 1), child, ("join",), ("r", "p0"))), "race"), set())
    want(names(explore((child, ("w", "p0", 1), ("join",))), "race"), {"race on p0"})
    want(logs(explore((child, ("join",), ("r", "p0")))), {(2,)})


@check
def a_dead_child_is_no_deadlock_for_its_parent() -> None:
    r = explore((("spawn", code("bugif 0")), ("join",)))
    want((r.deadlocks, names(r, "BUG")), (set(), {"oops"}))


# -- data races ---------------------------------------------------------------------------------------------------
@check
def data_races() -> None:
    want(names(explore("w p0 1", "w p0 2"), "race"), {"race on p0"})
    want(names(explore("r p0", "w p0 2"), "race"), {"race on p0"})
    want(names(explore("r p0", "r p0"), "race"), set())
    want(names(explore("w p0 1", "marked p0 2"), "race"), {"race on p0"})
    want(names(explore("w p0 1", "marked p0 0"), "race"), {"race on p0"})
    want(names(explore("r p0", "marked p0 0"), "race"), set())
    want(names(explore("marked p0 1", "marked p0 0"), "race"), set())
    want(names(explore("w p0 1", "xchg p0 2"), "race"), {"race on p0"})
    want(names(explore("w o0 1", "w o0 2; r o0"), "race"), set())
    want(names(explore("lock 0; w p0 1; unlock 0", "lock 0; w p0 2"), "race"), set())
    want(names(explore("dr 0; r p0; up 0", "dw 0; w p0 2"), "race"), set())
    want(names(explore("dr 0; w p0 1; up 0", "dr 0; w p0 2"), "race"), {"race on p0"})


@check
def message_passing_needs_an_atomic() -> None:
    want(names(explore("w p0 1; w o0 1", "r o0; skip 0 1; r p0"), "race"), {"race on p0"})
    want(names(explore("w p0 1; w a0 1", "r a0; skip 0 1; r p0"), "race"), set())


# -- object lifetime ----------------------------------------------------------------------------------------------
@check
def use_after_free() -> None:
    want(names(explore("free 0", "get 0 once"), "use-after-free"), {"use-after-free Thing"})
    want(names(explore("get 0 once", "free 0"), "use-after-free"), {"use-after-free Thing"})
    want(names(explore("put 0 plain 1", "free 0"), "use-after-free"), {"use-after-free Thing"})
    want(names(explore("get 0 once; w o0 1", "r o0; skip 0 1; free 0"), "use-after-free"), set())
    want(names(explore("free 0", "free 0"), "use-after-free"), {"double free"})


@check
def use_after_free_of_a_guarded_field() -> None:
    r = explore("lockthing 0; guarded 0 0; unlockthing 0", "free 0")
    want(names(r, "use-after-free"), {"use-after-free Thing"})
    want(names(explore("guarded 0 0"), "precondition"), {"guarded read without mutex"})


# -- executions that are cut --------------------------------------------------------------------------------------
@check
def what_waits_at_a_truncation_still_gets_its_turn() -> None:
    def setup() -> Setup:
        v = Counter("v", x=0)

        def spin() -> None:
            while v.x != 7:
                pass

        def stop() -> None:
            v.x = 7

        # "stop" first would run first, and there would be nothing to find
        return Setup({"spin": spin, "stop": stop}, outcome=lambda: v.peek("x"))

    engine = Dpor(setup, max_executions=100)
    engine.max_events = 6
    r = engine.run()
    want((r.outcomes, r.counts.truncated > 0, r.exhausted), ({7}, True, False))


@check
def a_task_that_spins_does_not_keep_the_others_out() -> None:
    def setup() -> Setup:
        v, w = Counter("v", x=0), Counter("w", x=0)

        def spin() -> None:
            while v.x != 7:
                pass

        def stop() -> None:  # its first event conflicts with nothing
            w.x = 1
            v.x = 7

        return Setup({"spin": spin, "stop": stop}, outcome=lambda: v.peek("x"))

    engine = Dpor(setup, max_executions=100)
    engine.max_events = 8
    want(engine.run().outcomes, {7})


@check
def a_task_started_by_a_cut_execution_starts_anew() -> None:
    def setup() -> Setup:
        v = Counter("v", x=0)

        def parent() -> None:
            thread = spawn("child", lambda: setattr(v, "x", v.x + 1))
            v.x = v.x + 1
            thread.join()

        return Setup({"parent": parent}, outcome=lambda: v.peek("x"), spawn_slots=1)

    r = Dpor(setup).run()
    want((r.outcomes, r.counts.complete), ({1, 2}, 4))
