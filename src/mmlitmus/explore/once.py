"""One execution and no more: of the tasks that can go on always the first does, and every choice has its first value.

For programs of one task, where there is nothing to search. Races are not looked for.

``Unscheduled`` leaves the events out as well: its one task runs from beginning to end as it is started. What is checked
where a field is touched (locks that are held, objects that are freed) is checked all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import runtime as rt
from .ops import BLOCKS
from .scheduler import Results, Scheduler, Setup, collecting_rarely


class Once(Scheduler):
    """The first execution of the naive enumeration."""

    def _run(self) -> None:
        self.execute()
        self.results.stopped = "1 execution"

    def _pick(self) -> int:
        if self.i < self.max_events:
            for t, op in enumerate(self.pending):
                kind = op[0]
                if kind < 0:
                    continue
                if not BLOCKS[kind] or (prim := self.prims[op[1]]).enabled(prim.state, op, t):
                    self.choice.append(t)
                    self.value.append(0)
                    self.i += 1
                    return t
            self.status = self._ending()
        else:
            self.status = "truncated" if self.enabled() else self._ending()
        return -1

    def also_reads(self, oid: int) -> None:
        """Nothing depends on it."""


class Unscheduled(Once):
    """One task, no scheduling points, and however long it takes. Raises what the task raises."""

    def __init__(self, build: Callable[[], Setup]) -> None:
        super().__init__(lambda: _alone(build()))

    def run(self) -> Results:
        """Run the task."""
        try:
            with collecting_rarely():
                self._run()
        finally:
            self._dismiss()
        if self.last_exception is not None:
            raise self.last_exception
        return self.results


def _alone(setup: Setup) -> Setup:
    """The set-up, with its one task run where there are no events."""
    ((name, task),) = setup.tasks.items()

    def run() -> Any:
        rt.point = rt.quiet
        return task()

    setup.tasks = {name: run}
    setup.spawn_slots = 0
    return setup
