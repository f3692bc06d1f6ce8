"""The one link between model code and whichever explorer is running it.

Model code calls ``runtime.point(op)`` at every scheduling point. While a machine is being built, and while
invariants look at it afterwards, ``point`` does nothing: only tasks are scheduled.

One process explores one machine at a time, so this is module state and not an argument handed through every kernel
function: kernel code has to read like the kernel.
"""

from __future__ import annotations

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
