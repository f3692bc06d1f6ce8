"""The one link between model code and whichever explorer is running it.

Model code calls ``runtime.point(op)`` at every scheduling point. While a machine is being built, and while
invariants look at it afterwards, ``point`` does nothing: only tasks are scheduled.

One process explores one machine at a time, so this is module state and not an argument handed through every kernel
function: kernel code has to read like the kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .scheduler import Scheduler, Task

Op = tuple[Any, ...]


def quiet(op: Op) -> None:
    """The scheduling point of code that nobody schedules (set-up, invariants)."""


point: Callable[[Op], None] = quiet
engine: Scheduler = None  # type: ignore[assignment]


def current() -> Task:
    """The task whose code is running; the set-up pseudo-task outside an execution."""
    return engine.tasks[engine.cur]


def current_observed() -> Task:
    """``current`` while E2 searches: it wants to know who asks (its code takes the place of ``current``'s)."""
    engine.identified(sys._getframe(1).f_globals["__name__"])
    return engine.tasks[engine.cur]


def loop_point(*live: Any) -> None:
    """The head of a loop that may go round for long: nothing matters any more but the values of ``live``.

    ``live`` names every local variable (parameters too) whose value is used from here on before it is set again. E2
    takes two arrivals with equal values, and equal shared state, for one; ``looppoints`` checks that no name is
    missing. No event. To the other engines it says only how often a task comes by.
    """
    if engine is not None and engine.cur >= 0:
        frame = sys._getframe(1)  # for the place only
        engine.loop_point(frame.f_code, frame.f_globals["__name__"], frame.f_lineno, live)
