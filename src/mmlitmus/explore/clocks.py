"""What data races still to come depend on, in a form that can be part of a state.

A data race is a matter of the past: which accesses does a task's next one come after? E1 asks that of an execution's
clocks (``races``). Clocks count events, so they would never be equal in two executions. But all that is ever asked is
whether a task's clock has reached a certain access by another one. So two histories are equal for this purpose if, of
the accesses that may still race, each task and each synchronisation object knows the same ones. ``form`` says that: a
clock's component becomes the number of those accesses that it has reached.

An access drops out once every task that can still run knows it: tasks created later know what their creator knows. Of
one task's accesses to one field the latest of each kind stands for the earlier ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .findings import Finding
from .ops import DONE, READ_LIKE, SYNC
from .races import could_race, race
from .runtime import Op

if TYPE_CHECKING:
    from .sights import Sights
    from .values import Item

Clock = tuple[int, ...]
#: (object id, task, kind) -> the task's clock then
Accesses = dict[tuple[int, int, int], int]


class Clocks:
    """Vector clocks after some events; never changed."""

    __slots__ = ("accesses", "now", "released")

    def __init__(self, now: tuple[Clock, ...], released: dict[int, tuple[Clock, Clock]], accesses: Accesses) -> None:
        self.now = now
        self.released = released  # object -> the clock of its writes, of its reads since
        self.accesses = accesses

    @classmethod
    def at_the_start(cls, n: int) -> Clocks:
        """Of ``n`` tasks that have done nothing."""
        return cls(((0,) * n,) * n, {}, {})

    def after(self, engine: Sights, p: int, op: Op) -> tuple[Clocks, list[Finding]]:
        """The clocks after ``op`` of ``p``, and the races that it closes. The same rules as ``DataRaces``."""
        kind, o = op[0], op[1]
        mine = list(self.now[p])
        mine[p] += 1
        clock = tuple(mine)
        released, accesses = self.released, self.accesses
        if SYNC[kind]:
            zero = (0,) * len(clock)
            released = dict(released)
            touched = [(o, not READ_LIKE[kind])] + [
                (x >> 1, bool(x & 1)) for x in op[2] if engine.prims[x >> 1] is not None
            ]
            for obj, written in touched:
                writes, reads = released.get(obj, (zero, zero))
                clock = tuple(map(max, clock, writes))
                if written:
                    clock = tuple(map(max, clock, reads))
                    released[obj] = (clock, reads)
                else:
                    released[obj] = (writes, tuple(map(max, reads, clock)))
        found = []
        if o in engine.contested:
            for (what, q, was), at in accesses.items():
                if what == o and q != p and clock[q] < at and could_race(was, kind):
                    found.append(race(engine, what, q, was, p, kind))
            accesses = dict(accesses)
            accesses[o, p, kind] = clock[p]
        now = (*self.now[:p], clock, *self.now[p + 1 :])
        return Clocks(now, released, accesses), found

    def form(self, engine: Sights, place: Sequence[int]) -> Item:
        """What of it matters from here on, with task ``t`` renumbered as ``place[t]``."""
        running = sorted([(place[t], t) for t in range(engine.nlive) if engine.pending[t] is not DONE])
        now = self.now
        left: Accesses = {}
        for access, at in self.accesses.items():
            q = access[1]
            for _, t in running:
                if t != q and now[t][q] < at:
                    left[access] = at
                    break
        if not left:
            return ()
        by_task: dict[int, list[int]] = {}
        for (_, q, _), at in left.items():
            by_task.setdefault(q, []).append(at)
        reached = [(q, sorted(set(by_task[q]))) for q in sorted(by_task, key=place.__getitem__)]
        known: dict[Clock, tuple[int, ...]] = {}  # many objects have the same clock
        released = []
        for o, (writes, reads) in self.released.items():
            for clock in (writes, reads):
                if clock not in known:
                    known[clock] = _reached(clock, reached)
            if any(known[writes]) or any(known[reads]):
                released.append((o, (known[writes], known[reads])))
        ranks = dict(reached)
        return (
            tuple([(p, _reached(now[t], reached)) for p, t in running]),
            frozenset(released),
            frozenset([(o, place[q], kind, bisect_right(ranks[q], at)) for (o, q, kind), at in left.items()]),
        )


def _reached(clock: Clock, accesses: list[tuple[int, list[int]]]) -> tuple[int, ...]:
    """How many of each task's accesses the clock has reached."""
    return tuple([bisect_right(ats, clock[q]) for q, ats in accesses])
