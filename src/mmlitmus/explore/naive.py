"""The reference: every schedule and every choice value, one after the other, with no reduction at all.

It shares with the other explorers only the primitives and the loop that runs one execution. What it says about an
execution (who precedes whom) is computed from ``ops.conflict`` alone, the long way. Tests compare E1 with it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from .ops import CHOOSE, add_read, conflict
from .races import plain_races
from .runtime import Op
from .scheduler import Scheduler, Setup, canonical


class Naive(Scheduler):
    """Depth-first enumeration of all (task, value) sequences."""

    def __init__(
        self, build: Callable[[], Setup], *, max_executions: int | None = None, keep_traces: bool = False
    ) -> None:
        super().__init__(build, max_executions=max_executions)
        self.keep_traces = keep_traces
        self.untried: list[list[tuple[int, int]]] = []  # for each event, what else could happen in its place
        self.ops: list[Op] = []
        self.clock: list[tuple[int, ...]] = []

    def _run(self) -> None:
        while True:
            self.execute()
            while self.untried and not self.untried[-1]:
                self.untried.pop()
            if not self.untried:
                break
            if self.max_executions is not None and self.results.counts.executions >= self.max_executions:
                self.results.stopped = f"{self.max_executions} executions"
                return
            if self.limits is not None and (why := self.limits.exceeded()):
                self.results.stopped = why
                return
            self.k = len(self.untried) - 1  # the last event is another one now
            for books in (self.choice, self.value, self.ops, self.clock):
                del books[self.k :]
        if self.results.counts.truncated:
            self.results.stopped = f"{self.max_events} events in one execution"
        else:
            self.results.exhausted = True

    def _pick(self) -> int:
        i = self.i
        if i == len(self.untried):
            enabled = self.enabled()
            if not enabled:
                self.status = self._ending()
                return -1
            if i >= self.max_events:
                self.status = "truncated"
                return -1
            options = []
            for t in range(self.n):
                if enabled >> t & 1:
                    op = self.pending[t]
                    options += [(t, v) for v in range(op[3] if op[0] == CHOOSE else 1)]
            options.reverse()
            self.untried.append(options)
        task, value = self.untried[i].pop()
        self.choice.append(task)
        self.value.append(value)
        self.ops.append(self.pending[task])
        self.i = i + 1
        return task

    def also_reads(self, oid: int) -> None:
        j = self.i - 1
        if j >= self.k:
            self.ops[j] = add_read(self.ops[j], oid)

    def _ended(self, setup: Setup) -> None:
        for f in plain_races(self):
            self.found(f)
        if self.keep_traces and self.status != "truncated":
            self._clocks()
            self.results.traces.add(self.trace())
        super()._ended(setup)

    def _clocks(self) -> None:
        """The vector clock of each event: the join over every earlier event of its task or in conflict with it."""
        for j in range(len(self.clock), len(self.ops)):
            p, op = self.choice[j], self.ops[j]
            clock = [0] * self.n
            for i in range(j):
                if self.choice[i] == p or conflict(self.ops[i], op):
                    clock = [max(a, b) for a, b in zip(clock, self.clock[i], strict=True)]
            clock[p] += 1
            self.clock.append(tuple(clock))

    def trace(self) -> Hashable:
        """The execution's Mazurkiewicz trace in canonical form."""
        return canonical(self, self.clock)
