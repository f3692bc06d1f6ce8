"""One execution and no more: of the tasks that can go on always the first does, and every choice has its first value.

For programs of one task, where there is nothing to search. Races are not looked for.
"""

from __future__ import annotations

from .ops import BLOCKS
from .scheduler import Scheduler


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
