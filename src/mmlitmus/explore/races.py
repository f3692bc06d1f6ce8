"""Data races, as the LKMM and KCSAN use the word: two conflicting accesses, one of them plain, that nothing orders.

DPOR's own clocks order every conflict, so they can never report one. Here clocks hold synchronisation edges only: a
task's own order, and the order of synchronisation events (``ops.SYNC``) that meet on an object. READ_ONCE and
WRITE_ONCE are marked, so they race with plain accesses but not with each other, and they order nothing. Atomics are
marked too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .findings import Finding
from .ops import (
    ATOMIC_READ,
    ATOMIC_RMW,
    NAME,
    PLAIN,
    PLAIN_READ,
    PLAIN_WRITE,
    READ_LIKE,
    READ_ONCE,
    SYNC,
    WRITE_ONCE,
)

if TYPE_CHECKING:
    from .dpor import Dpor
    from .naive import Naive
    from .runtime import Op
    from .scheduler import Scheduler

#: what is accessed (an object id, or the name of a field that has none), and how (a kind)
Access = tuple[int | str, int]

ACCESSES = frozenset((PLAIN_READ, PLAIN_WRITE, READ_ONCE, WRITE_ONCE, ATOMIC_READ, ATOMIC_RMW))


Clock = list[int]


def could_race(a: int, b: int) -> bool:
    """Do accesses of these two kinds, to one object and by two tasks, race if nothing orders them?"""
    return (PLAIN[a] or PLAIN[b]) and not (READ_LIKE[a] and READ_LIKE[b])


class Step:
    """What one event changed in the books, so that it can be taken back, and the races that it closes."""

    __slots__ = ("accesses", "clock", "found", "released", "task")

    def __init__(self, task: int, clock: Clock) -> None:
        self.task = task
        self.clock = clock  # of the task, before the event
        self.released: list[tuple[int, tuple[Clock, Clock] | None]] = []
        self.accesses: list[int | str] = []
        self.found: list[Finding] = []


class DataRaces:
    """The data races of the current execution, kept up from one execution to the next: only new events cost."""

    def __init__(self, engine: Dpor | Naive) -> None:
        self.engine = engine
        self.zero = [0] * engine.n
        self.now: list[Clock] = [self.zero] * engine.n
        self.released: dict[int, tuple[Clock, Clock]] = {}  # object -> clock of its writes, of its reads since
        self.accesses: dict[int | str, list[tuple[int, int, int]]] = {}  # what -> (task, its clock, kind)
        self.steps: list[Step] = []

    def follow(self, start: int, more: Sequence[Sequence[Access]] = ()) -> Iterator[Finding]:
        """Every race of the execution that has just ended and shares its first ``start`` events with the last one."""
        while len(self.steps) > start:
            self._take_back()
        ops = self.engine.ops
        for j in range(start, len(ops)):
            self._take(self.engine.choice[j], ops[j], more[j] if more else ())
        for step in self.steps:
            yield from step.found

    def _take(self, p: int, op: Op, more: Sequence[Access]) -> None:
        kind, o = op[0], op[1]
        step = Step(p, self.now[p])
        self.steps.append(step)
        clock = step.clock[:]
        clock[p] += 1
        if SYNC[kind]:
            touched = [(o, not READ_LIKE[kind])] + [
                (x >> 1, bool(x & 1)) for x in op[2] if self.engine.prims[x >> 1] is not None
            ]
            for obj, written in touched:
                before = self.released.get(obj)
                step.released.append((obj, before))
                writes, reads = before or (self.zero, self.zero)
                clock = list(map(max, clock, writes))
                if written:
                    clock = list(map(max, clock, reads))
                    self.released[obj] = (clock, reads)
                else:
                    self.released[obj] = (writes, list(map(max, reads, clock)))
        self.now[p] = clock
        for what, how in [(o, kind)] * (kind in ACCESSES) + list(more):
            earlier = self.accesses.setdefault(what, [])
            for q, at, was in earlier:
                if q != p and clock[q] < at and could_race(was, how):
                    step.found.append(race(self.engine, what, q, was, p, how))
            earlier.append((p, clock[p], how))
            step.accesses.append(what)

    def _take_back(self) -> None:
        step = self.steps.pop()
        self.now[step.task] = step.clock
        for obj, before in reversed(step.released):
            if before is None:
                del self.released[obj]
            else:
                self.released[obj] = before
        for what in step.accesses:
            self.accesses[what].pop()


def plain_races(engine: Dpor | Naive, more: Sequence[Sequence[Access]] = ()) -> Iterator[Finding]:
    """Every data race of the execution that has just ended; ``more`` are accesses besides those of each event's own."""
    return DataRaces(engine).follow(0, more)


def race(engine: Scheduler, what: int | str, q: int, was: int, p: int, how: int) -> Finding:
    """The finding: an access by ``q`` of kind ``was``, and one by ``p`` of kind ``how``, that nothing orders."""
    name = what if isinstance(what, str) else engine.object_name(what)
    return Finding(
        "race",
        f"race on {name.split('.')[-1]}",
        f"{NAME[was]} of {name} by {engine.tasks[q].name} and {NAME[how]} of it by {engine.tasks[p].name}, "
        "ordered by no synchronisation",
    )
