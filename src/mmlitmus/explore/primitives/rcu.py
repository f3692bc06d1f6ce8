"""RCU: read-side sections, grace periods that wait for the sections running at their start only, deferred frees.

Each task's read side is an object of its own, so that readers commute with each other; a grace period's start reads all
of them, its end waits for them one by one (each is one event that waits on one object).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import runtime as rt
from ..contexts import might_sleep
from ..findings import report
from ..ops import GP_START, GP_WAIT, NONE, RCU_READ_LOCK, RCU_READ_UNLOCK
from ..runtime import Op
from ..scheduler import ran
from .base import Primitive
from .task import spawn

if TYPE_CHECKING:
    from ..state import Model


class ReadSide(Primitive):
    """One task's read side. ``state`` = (nesting, outermost sections ended so far)."""

    __slots__ = ("task",)

    def __init__(self, task: int, name: str) -> None:
        super().__init__(f"rcu[{name}]", "rcu")
        self.task = task
        self.state: tuple[int, int] = (0, 0)

    def enabled(self, state: tuple[int, int], op: Op, task: int) -> bool:
        return state[1] > op[3] or state[0] == 0

    def waits_for(self, op: Op, task: int) -> list[int]:
        return [self.task]


class Rcu:
    """The machine's RCU. Build one in the set-up, before the tasks run; it covers every task and task slot."""

    __slots__ = ("slots",)

    def __init__(self, slots: int = 8) -> None:
        self.slots = [ReadSide(t, str(t)) for t in range(slots)]

    def _mine(self) -> ReadSide:
        return self.slots[rt.engine.cur]

    def read_lock(self) -> None:
        """Enter a read-side section; nests."""
        side = self._mine()
        rt.point((RCU_READ_LOCK, side.id, ()))
        nesting, ended = side.state
        side.state = (nesting + 1, ended)
        rt.current().rcu += 1

    def read_unlock(self) -> None:
        """Leave a read-side section; a finding (bad unlock balance) when the task is in none."""
        side = self._mine()
        rt.point((RCU_READ_UNLOCK, side.id, ()))
        nesting, ended = side.state
        task = rt.current()
        if not nesting:
            report("BUG", "bad unlock balance", f"{task.name} releases rcu_read_lock which it does not hold")
            return
        task.rcu -= 1
        side.state = (nesting - 1, ended + (nesting == 1))

    def in_read_section(self) -> bool:
        """Is the current task inside a read-side section? (no event: only the task itself changes this)"""
        return self._mine().state[0] > 0

    def synchronize(self) -> None:
        """Wait for every section that runs now; sections that start later are not waited for."""
        might_sleep("synchronize_rcu")
        for side, ended in self._snapshot():
            rt.point((GP_WAIT, side.id, (), ended))

    def _snapshot(self) -> list[tuple[ReadSide, int]]:
        me = rt.engine.cur
        sides = [s for s in self.slots if s.task != me]
        rt.point((GP_START, NONE, tuple(s.id << 1 for s in sides)))
        return [(s, s.state[1]) for s in sides if s.state[0]]

    def call(self, name: str, fn: Callable[[], object]) -> None:
        """call_rcu(): run ``fn`` at the earliest legal moment, or any later one, in a task of its own."""
        self._defer(name, fn, self._snapshot())

    def free(self, name: str, obj: Model) -> None:
        """kfree_rcu(): free ``obj`` once no reader that runs now is left.

        With no reader to wait for that is now, and no later moment can show more: freeing takes no lock and wakes
        nobody.
        """
        waited = self._snapshot()
        if waited:
            self._defer(name, obj.free, waited)
        else:
            obj.free()

    def _defer(self, name: str, fn: Callable[[], object], waited: list[tuple[ReadSide, int]]) -> None:
        def deferred() -> None:
            for side, ended in waited:
                rt.point((GP_WAIT, side.id, (), ended))
            ran(fn())

        spawn(name, deferred)
