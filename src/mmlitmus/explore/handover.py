"""``auto``: E1 as long as it promises to come to an end, then E2.

E1 is the faster one as long as there are few traces. It gives way when there are too many, and when a task comes by
the same ``loop_point`` again and again with the same values: that loop need not end, and E1 would only cut it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

from .dpor import Dpor
from .movers import REDUCTIONS
from .scheduler import Results, Setup
from .stateful import Stateful

#: executions of E1 after which E2 takes over
TRACES = 10_000
#: how often a task may come by a loop_point with the same values in one execution of E1
ROUNDS = 16


class Auto(Dpor):
    """E1, and E2 where E1 would not come to an end. ``results`` are those of the one that spoke last."""

    def __init__(
        self,
        build: Callable[[], Setup],
        *,
        max_executions: int | None = None,
        traces: int = TRACES,
        reduce: Iterable[str] = REDUCTIONS,
    ) -> None:
        few = traces if max_executions is None else min(traces, max_executions)
        super().__init__(build, max_executions=few)
        self.bound = max_executions
        self.rounds: dict[tuple[Any, ...], int] = {}
        self.why = ""
        self.reduce = tuple(reduce)
        self.stateful: Stateful | None = None

    def run(self) -> Results:
        results = super().run()
        if results.exhausted:
            return results
        if not self.why:
            if self.max_executions == self.bound or results.stopped != f"{self.max_executions} executions":
                return results  # told to stop, or out of time or memory
            self.why = f"{self.max_executions} executions of dpor did not do"
        self.stateful = second = Stateful(self.build, max_executions=self.bound, reduce=self.reduce)
        second.limits = self.limits
        self.results = second.run()
        self.results.handed_over = self.why
        return self.results

    def execute(self) -> None:
        """One execution; the rounds count anew."""
        self.rounds.clear()
        super().execute()

    def loop_point(self, code: CodeType, module: str, line: int, live: tuple[Any, ...]) -> None:
        try:
            at = (self.cur, code, line, live)
            n = self.rounds[at] = self.rounds.get(at, 0) + 1
        except TypeError:  # a list, say: compare by what is in it
            self.loop_point(code, module, line, tuple(map(repr, live)))
            return
        if n > ROUNDS and not self.why:
            self.reduce = ()  # E2 would find the loop, and then do without
            self.why = f"{self.tasks[self.cur].name} came by the loop in {code.co_name} {n} times"

    def _pick(self) -> int:
        if self.why:
            self.status = "truncated"
            return -1
        return super()._pick()

    def _backtrack(self) -> bool:
        return not self.why and super()._backtrack()
