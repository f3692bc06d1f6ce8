"""Loops that need not end, in the state graph of a search that visited all of it.

A task's *progress* here is its end. A strongly connected part of the graph, with more than one state or an edge to
itself, is what an execution that never ends comes to and stays in. Of a task that goes on taking steps there:

* **hard**: its end cannot be reached from there, whatever is scheduled;
* **fair**: it can, but there is a way round that treats everybody fairly (weak fairness: who could always go on gets a
  turn now and then), so a reasonable scheduler may stay in it for ever;
* **unfair-only**: every way round keeps somebody out who could have gone on all the time. Ordinary spinning, no defect
  as long as the scheduler is fair.

To look at the whole part is enough for fairness: whoever could go on in all of its states, and takes no step in it,
is kept out on every way round in it; and a way through all of its states is fair if nobody is such.

Counters (Counter and Atomic fields) that grow by the same amount in each turn, references that leak, would make every
turn a new state. Where a task comes back to the head of a loop for the third time, and nothing differs but counters,
twice by the same amount, the search takes the turn for one that leads back: the growth is the livelock's **drift**, and
the search is *bounded*, for a counter that somebody looks at may yet end the loop.

The ways round that are shown are short, not always the shortest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .findings import LIVELOCK, NO_DEFECT, Finding
from .schedule import label, value_name
from .scheduler import Scheduler, Setup

if TYPE_CHECKING:
    from .stateful import Stateful

HARD, FAIR, UNFAIR = "hard", "fair", "unfair-only"

Move = tuple[int, int]  # (task, value)


@dataclass
class Livelock:
    """A way round that a task may stay in: the moves that lead to it, and those of one turn."""

    how: str
    task: str
    where: str  # the loop_point that the task comes by, or nothing
    stem: list[Move]
    turn: list[Move]
    waiting: tuple[str, ...] = ()  # who has not ended and takes no step in it
    drift: tuple[tuple[str, int], ...] = ()  # of counters: by how much a turn
    steps: list[str] = field(default_factory=list)  # of the turn, one line each
    choices: list[tuple[str, int]] = field(default_factory=list)  # of stem and turn, by task name

    @property
    def finding(self) -> Finding:
        """What reports say."""
        name = f"{self.how} {'loop' if self.how == UNFAIR else 'livelock'} of {self.task}"
        return Finding(NO_DEFECT if self.how == UNFAIR else LIVELOCK, name, self.message)

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "how": self.how,
            "task": self.task,
            "loop": self.where or None,
            "turn": self.steps,
            "drift": dict(self.drift),
            "kept_out": list(self.waiting),
        }

    @property
    def message(self) -> str:
        """In one line."""
        how = {
            HARD: "goes round for ever, and no schedule lets it end",
            FAIR: "may go round for ever under a fair scheduler",
            UNFAIR: "may go round for ever if the scheduler keeps somebody out",
        }[self.how]
        text = f"{self.task} {how}: {len(self.turn)} events a turn"
        if self.where:
            text += f", at {self.where}"
        if self.waiting:
            text += f"; not going on: {', '.join(self.waiting)}"
        if self.drift:
            text += "; " + ", ".join(f"{name} {by:+} a turn" for name, by in self.drift)
        return text


class Walk(Scheduler):
    """One execution by its moves, with a line for each event from ``first`` on."""

    def __init__(self, build: Callable[[], Setup], moves: Sequence[Move], first: int) -> None:
        super().__init__(build)
        self.moves = moves
        self.first = first
        self.steps: list[str] = []
        self.names: list[tuple[str, int]] = []

    def _run(self) -> None:
        self.execute()

    def _pick(self) -> int:
        i = self.i
        if i == len(self.moves):
            self.status = "blocked"
            return -1
        t, value = self.moves[i]
        op = self.pending[t]
        self.names.append((self.tasks[t].name, value))
        if i >= self.first:
            made = value_name(op, value)
            self.steps.append(f"{self.tasks[t].name}: {label(self, op)}{'=' + made if made else ''}")
        self.choice.append(t)
        self.value.append(value)
        self.i = i + 1
        return t


def livelocks(engine: Stateful) -> list[Livelock]:
    """Every (task, kind) of livelock in the graph, with a way round each; the worst kind for each task."""
    found: dict[str, Livelock] = {}
    order = (HARD, FAIR, UNFAIR)
    for live in Graph(engine).livelocks():
        before = found.get(live.task)
        if before is None or (order.index(live.how), len(live.turn)) < (order.index(before.how), len(before.turn)):
            found[live.task] = live
    result = [found[name] for name in sorted(found)]
    for live in result:
        walk = Walk(engine.build, live.stem + live.turn, len(live.stem))
        walk.run()
        live.steps, live.choices = walk.steps, walk.names
    return result


class Graph:
    """The state graph of a finished search."""

    def __init__(self, engine: Stateful) -> None:
        self.engine = engine
        self.edges = engine.graph.edges
        self.came: dict[int, tuple[int, Move]] = {}  # the shortest way to each state: from where, by what
        self._ways()

    def _ways(self) -> None:
        seen = {0}
        level = [0]
        while level:
            further = []
            for s in level:
                for t, value, to in self.edges[s]:
                    if to not in seen:
                        seen.add(to)
                        self.came[to] = (s, (t, value))
                        further.append(to)
            level = further

    def stem(self, state: int) -> list[Move]:
        """The moves of a shortest way to the state."""
        moves = []
        while state:
            state, move = self.came[state]
            moves.append(move)
        return moves[::-1]

    def components(self) -> Iterator[set[int]]:
        """The strongly connected parts that one can stay in (Tarjan, without recursion)."""
        edges = self.edges
        index: dict[int, int] = {}
        low: dict[int, int] = {}
        stack: list[int] = []
        on_stack: set[int] = set()
        todo: list[tuple[int, int]] = [(0, 0)]
        while todo:
            s, n = todo.pop()
            if n == 0:
                index[s] = low[s] = len(index)
                stack.append(s)
                on_stack.add(s)
            else:
                low[s] = min(low[s], low[edges[s][n - 1][2]])
            while n < len(edges[s]):
                to = edges[s][n][2]
                n += 1
                if to not in index:
                    todo += [(s, n), (to, 0)]
                    break
                if to in on_stack:
                    low[s] = min(low[s], index[to])
            else:
                if low[s] == index[s]:
                    part = set()
                    while True:
                        x = stack.pop()
                        on_stack.discard(x)
                        part.add(x)
                        if x == s:
                            break
                    if len(part) > 1 or any(to == s for _, _, to in edges[s]):
                        yield part

    def ending(self, name: str) -> set[int]:
        """The states from which the task can come to its end."""
        back: dict[int, list[int]] = {}
        for s, out in enumerate(self.edges):
            for _, _, to in out:
                back.setdefault(to, []).append(s)
        seen = set()
        for s, (names, ended) in enumerate(map(self.engine.tasks_in, range(len(self.edges)))):
            if name in names and ended >> names.index(name) & 1:
                seen.add(s)
        todo = sorted(seen)
        while todo:
            for s in back.get(todo.pop(), ()):
                if s not in seen:
                    seen.add(s)
                    todo.append(s)
        return seen

    def livelocks(self) -> Iterator[Livelock]:
        """One of each part and task."""
        engine = self.engine
        endings: dict[str, set[int]] = {}
        for part in self.components():
            inside = {s: [e for e in self.edges[s] if e[2] in part] for s in sorted(part)}
            moving = sorted({t for out in inside.values() for t, _, _ in out})
            kept_out = self._kept_out(part, moving)
            for t in moving:
                name = engine.tasks_in(min(part))[0][t]
                if name in engine.setup.daemons:
                    continue
                if name not in endings:
                    endings[name] = self.ending(name)
                if not part & endings[name]:
                    how = HARD
                elif kept_out:
                    how = UNFAIR
                else:
                    how = FAIR
                start, turn = self._round(inside, t, moving if how == FAIR else [t])
                states = self._along(start, turn)
                where = next((engine.graph.loops[s][t] for s in states if t in engine.graph.loops.get(s, ())), "")
                steps = {u for u, _ in turn}
                names, ended = engine.tasks_in(start)
                waiting = tuple(n for u, n in enumerate(names) if u not in steps and not ended >> u & 1)
                drift: dict[str, int] = {}
                for s, (u, value) in zip(states, turn, strict=False):
                    for e in self.edges[s]:
                        if e[:2] == (u, value):
                            for counter, by in engine.graph.drifts.get((s, u, value), ()):
                                drift[counter] = drift.get(counter, 0) + by
                yield Livelock(how, name, where, self.stem(start), turn, waiting, tuple(drift.items()))

    def _kept_out(self, part: set[int], moving: list[int]) -> list[int]:
        """The tasks that could go on in every state of the part and never do in it."""
        always: set[int] | None = None
        for s in part:
            enabled = {t for t, _, _ in self.edges[s]}
            always = enabled if always is None else always & enabled
        return sorted((always or set()) - set(moving))

    def _round(
        self, inside: dict[int, list[tuple[int, int, int]]], t: int, movers: list[int]
    ) -> tuple[int, list[Move]]:
        """A short way round within a part in which ``t`` and all of ``movers`` take a step, and where it starts."""
        best: tuple[int, list[Move]] | None = None
        starts = sorted((len(self.stem(s)), s) for s, out in inside.items() if any(e[0] == t for e in out))
        for _, start in starts[:8]:
            turn: list[Move] = []
            at = start
            for u in (t, *[u for u in movers if u != t]):
                if u in {m for m, _ in turn}:
                    continue
                way, at = self._way(inside, at, lambda s, e, u=u: e[0] == u)  # type: ignore[misc]
                turn += way
            if at != start:
                way, at = self._way(inside, at, lambda s, e, start=start: e[2] == start)  # type: ignore[misc]
                turn += way
            if best is None or len(turn) < len(best[1]):
                best = (start, turn)
        assert best is not None
        return best

    def _way(
        self,
        inside: dict[int, list[tuple[int, int, int]]],
        start: int,
        wanted: Callable[[int, tuple[int, int, int]], bool],
    ) -> tuple[list[Move], int]:
        """The shortest way from ``start`` whose last edge is ``wanted``; and where that ends."""
        came: dict[int, tuple[int, Move]] = {}
        seen = {start}
        level = [start]
        while level:
            further = []
            for s in level:
                for e in inside[s]:
                    if wanted(s, e):
                        moves = [(e[0], e[1])]
                        at = s
                        while at != start:
                            at, move = came[at]
                            moves.append(move)
                        return moves[::-1], e[2]
                    if e[2] not in seen:
                        seen.add(e[2])
                        came[e[2]] = (s, (e[0], e[1]))
                        further.append(e[2])
            level = further
        raise AssertionError("the part is not strongly connected")

    def _along(self, state: int, moves: list[Move]) -> list[int]:
        states = [state]
        for move in moves:
            state = next(to for t, value, to in self.edges[state] if (t, value) == move)
            states.append(state)
        return states
