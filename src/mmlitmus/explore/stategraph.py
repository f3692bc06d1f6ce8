"""The graph of the states that E2 has been to, and what it says of findings."""

from __future__ import annotations

from .findings import Finding

#: (state, task, value of its choice)
Edge = tuple[int, int, int]


class StateGraph:
    """States by their numbers, the first is 0; an edge is what one event, or several of one task, leads to."""

    def __init__(self) -> None:
        self.edges: list[list[tuple[int, int, int]]] = []  # by state: (task, value, the state after)
        self.shown: dict[Edge, list[Finding]] = {}
        self.terminals: dict[int, list[Finding]] = {}  # where all has ended, and what checks found there
        self.at_once: list[Finding] = []  # before the first event
        self.loops: dict[int, dict[int, str]] = {}  # by state: the loop that a task has just come round in
        self.locals: list[tuple[int, ...]] = []  # by state: of each task that there is, its local state
        self.drifts: dict[Edge, list[tuple[str, int]]] = {}  # what has grown in a turn

    def add_state(self, locals_: tuple[int, ...]) -> None:
        """A new state."""
        self.edges.append([])
        self.locals.append(locals_)

    def always(self, finding: Finding) -> int:
        """From how many of the states in which all has ended can nobody say that the finding was not shown?"""
        return len(self.terminals) - (0 if finding in self.at_once else self._avoiding(finding))

    def _avoiding(self, finding: Finding) -> int:
        """How many of them can be come to without it?"""
        showing = {edge for edge, shown in self.shown.items() if finding in shown}
        seen = {0}
        todo = [0]
        while todo:
            state = todo.pop()
            for t, value, to in self.edges[state]:
                if to not in seen and (state, t, value) not in showing:
                    seen.add(to)
                    todo.append(to)
        return sum(1 for state, shown in self.terminals.items() if state in seen and finding not in shown)
