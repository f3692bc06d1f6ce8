"""What a task is in the middle of, and what it may not do there: spinlocks, RCU sections, interrupts off.

One checker for all sleeping primitives. A task's context is its own: nobody else changes it, and asking for it is no
event. So a finding of these comes whether or not the task would have had to wait this time, as in a kernel that is
built to look (CONFIG_DEBUG_ATOMIC_SLEEP, CONFIG_PROVE_LOCKING, CONFIG_DEBUG_IRQFLAGS).

Source: kernel/sched/core.c ___might_sleep (5.10), __might_resched (from 6.1), __might_sleep, schedule_debug;
kernel/rcu/tree_plugin.h rcu_note_context_switch; kernel/locking/lockdep.c lockdep_sys_exit; kernel/smp.c
smp_call_function_many_cond; kernel/locking/irqflag-debug.c warn_bogus_irq_restore (from 6.1). Of the model's own:
atomic, leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import runtime as rt
from .findings import HELD_AT_END, SLEEP_IN_ATOMIC, report

if TYPE_CHECKING:
    from .scheduler import Task

INVALID_CONTEXT = "sleeping function called from invalid context"
SCHEDULING = "scheduling while atomic"
IN_RCU = "Voluntary context switch within RCU read-side critical section"
NOT_RUNNING = "do not call blocking ops when !TASK_RUNNING"
LOCK_HELD = "lock held when returning to user space"
IRQS_LEFT = "syscall left IRQs disabled"
IRQS_ON = "raw_local_irq_restore() called with IRQs enabled"
IPI_WITHOUT_IRQS = "IPI sent with IRQs disabled"


def atomic(task: Task) -> str:
    """Why the task may not sleep where it is, in words; empty if it may."""
    why = [f"holding {prim.name}" for prim, _, _ in task.held if not prim.sleeps]
    if task.rcu:
        why.append("in an RCU read section")
    if task.irqs_off:
        why.append("with interrupts off")
    return ", ".join(why)


def might_sleep(what: str) -> None:
    """The running task calls something that may sleep: ``what``, the function's name. Findings if it may not.

    Between ``prepare_to_wait`` and ``schedule`` a task must not sleep for another reason either: it would lose the
    state in which it waits. (That it has been woken meanwhile, so that it would not, is not looked at.)
    """
    engine = rt.engine
    task = engine.tasks[engine.cur]
    if task.waiting:
        report(SLEEP_IN_ATOMIC, NOT_RUNNING, f"{task.name} calls {what} after prepare_to_wait({task.waiting})")
    if task.held or task.rcu or task.irqs_off:
        why = atomic(task)
        if why:
            report(SLEEP_IN_ATOMIC, INVALID_CONTEXT, f"{task.name} calls {what} {why}")


def might_schedule() -> None:
    """The running task gives up its CPU by itself (``schedule``).

    Interrupts off alone are no finding: the scheduler has them off, and on again in whoever goes on.
    """
    engine = rt.engine
    task = engine.tasks[engine.cur]
    spinning = [prim.name for prim, _, _ in task.held if not prim.sleeps]
    if spinning:
        report(SLEEP_IN_ATOMIC, SCHEDULING, f"{task.name} calls schedule holding {', '.join(spinning)}")
    if task.rcu:
        report(SLEEP_IN_ATOMIC, IN_RCU, f"{task.name} calls schedule in an RCU read section")


def leaves(task: Task) -> None:
    """The task has come to its end: what has it kept? What it holds after a BUG is no finding of its own.

    A folio lock is none of lockdep's: whoever finishes with the folio may release it.
    """
    held = [f"{prim.name} ({mode})" for prim, mode, _ in task.held]
    if task.rcu:
        held.append("rcu_read_lock")
    if held:
        report(HELD_AT_END, LOCK_HELD, f"{task.name} ends holding {', '.join(held)}")
    if task.irqs_off:
        report(HELD_AT_END, IRQS_LEFT, f"{task.name} ends with interrupts off")
