"""Waitqueues: enqueue, check, sleep, with the lost wake-up that comes from doing it in another order."""

from __future__ import annotations

from collections.abc import Callable

from .. import runtime as rt
from ..contexts import might_schedule, might_sleep
from ..ops import FINISH_WAIT, PREPARE_TO_WAIT, SCHEDULE, WAKE_UP
from ..runtime import Op
from .base import Primitive


class WaitQueue(Primitive):
    """``state`` = tuple of (task, woken) in queue order."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.state: tuple[tuple[int, bool], ...] = ()

    def enabled(self, state: tuple[tuple[int, bool], ...], op: Op, task: int) -> bool:
        return (task, False) not in state

    def prepare_to_wait(self) -> None:
        """Put the current task on the queue, asleep as of now."""
        rt.point((PREPARE_TO_WAIT, self.id, ()))
        me = rt.engine.cur
        self.state = (*(e for e in self.state if e[0] != me), (me, False))
        rt.current().waiting = self.name

    def schedule(self) -> None:
        """Sleep until woken (or go straight on if already woken since ``prepare_to_wait``)."""
        might_schedule()
        rt.point((SCHEDULE, self.id, ()))
        rt.current().waiting = ""

    def finish_wait(self) -> None:
        """Leave the queue."""
        rt.point((FINISH_WAIT, self.id, ()))
        rt.current().waiting = ""
        me = rt.engine.cur
        self.state = tuple(e for e in self.state if e[0] != me)

    def wake_up(self) -> None:
        """Wake everybody on the queue at this moment; whoever comes later sleeps on."""
        rt.point((WAKE_UP, self.id, ()))
        self.state = tuple((t, True) for t, _ in self.state)

    def wait_event(self, condition: Callable[[], bool]) -> None:
        """Sleep until ``condition()`` holds, re-checking it each time after having queued.

        If it holds at once, the queue is not touched. Source: include/linux/wait.h wait_event, ___wait_event.
        """
        might_sleep("wait_event")
        if condition():
            return
        while True:
            self.prepare_to_wait()
            if condition():
                break
            self.schedule()
        self.finish_wait()
