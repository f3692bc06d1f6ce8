"""Creating tasks while the machine runs, and waiting for their end."""

from __future__ import annotations

from collections.abc import Callable

from .. import runtime as rt
from ..contexts import might_sleep
from ..ops import JOIN, SPAWN, TASK_START, UNLOCK
from ..runtime import Op
from ..scheduler import ran
from .base import Primitive


class Thread(Primitive):
    """``state`` is "absent", "running" or "ended". Start and end are events of this object."""

    __slots__ = ("index",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.state = "absent"
        self.index = -1

    def enabled(self, state: str, op: Op, task: int) -> bool:
        return state != "absent" if op[0] == TASK_START else state == "ended"

    def waits_for(self, op: Op, task: int) -> list[int]:
        return [self.index]

    def join(self) -> None:
        """Wait for the task's end."""
        might_sleep("wait_for_completion")
        rt.point((JOIN, self.id, ()))


def spawn(name: str, fn: Callable[[], object]) -> Thread:
    """Create a task that runs ``fn``. Its name gets its creator's name and number, so it is the same in every order."""
    me = rt.current()
    thread = Thread(f"{name}@{me.name}.{me.count(name)}")
    rt.point((SPAWN, thread.id, ()))

    def body() -> None:
        ran(fn())
        rt.point((UNLOCK, thread.id, ()))
        thread.state = "ended"

    thread.state = "running"
    if rt.engine.cur < 0:  # set-up: nobody schedules, so it runs at once
        ran(fn())
        thread.state = "ended"
    else:
        thread.index = rt.engine.spawn(thread.name, body, thread.id)
    return thread
