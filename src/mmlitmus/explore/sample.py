"""Random walks, for programs that no engine can exhaust: what they find is *seen*, and what they miss is *not seen*.

**PCT** (S. Burckhardt, P. Kothari, M. Musuvathi, S. Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees
of Finding Bugs", ASPLOS 2010): tasks get random priorities, the first that can go on does, and at depth - 1 random
places the one that is running falls behind all others. Of n tasks and at most k events, a walk shows a bug of depth d
(one that d ordering constraints suffice to bring about) with a probability of at least 1/(n k^(d-1)).

**POS** (X. Yuan, J. Yang, R. Gu, "Partial Order Aware Concurrency Sampling", CAV 2018): every event gets a random
priority when its task comes to it, and a new one whenever an event happens that it conflicts with. It spreads over
traces better than a walk that draws a task at each step, and has no such bound. What is given instead is an *estimate*
(I. J. Good, 1953, after A. Turing): the chance that one more walk shows a trace that none has shown is about the share
of the walks whose trace came up once.

Choices are not part of either. Half of the walks take the ordinary value everywhere; the others draw, so that on
average about one choice is another. Where there are choices, PCT's bound is therefore halved, and speaks of bugs that
need ordinary values only.

Each walk is drawn from the seed and its own number: the same seed gives the same walks, however they are divided up.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from .dpor import Dpor, Event
from .lockdep import Edge, Recording, Seen, lock_classes
from .ops import CHOOSE, conflict
from .runtime import Op
from .scheduler import MAX_EVENTS, Found, Results, Setup
from .split import add

STRATEGIES = ("pct", "pos")
#: walks that are run first and not counted, to learn how many events and choices an execution has
PROBES = 32
#: walks in one order
CHUNK = 256


@dataclass(frozen=True)
class Plan:
    """How to walk."""

    walks: int = 1000
    strategy: str = "pct"
    depth: int = 3
    seed: int = 0
    max_events: int = MAX_EVENTS


@dataclass(frozen=True)
class Size:
    """What the probes saw at most."""

    tasks: int = 0
    events: int = 0
    choices: int = 0


@dataclass
class Walked:
    """What came of some walks."""

    results: Results
    edges: dict[Edge, Seen]
    traces: dict[bytes, int]  # how often each trace came up, by its digest
    size: Size
    longest: int


class Walker(Dpor):
    """Runs single executions, each from the start. E1's books give their traces and data races."""

    def __init__(self, build: Callable[[], Setup], plan: Plan) -> None:
        super().__init__(build)
        self.plan = plan
        self.max_events = plan.max_events
        self.size = Size()
        self.lockdep = self.recording = Recording()
        self.digests: dict[bytes, int] = {}
        self.longest = 0
        self.strategy = "pos"
        self.first, self.last = 0, 0

    def walk(self, first: int, last: int, size: Size | None = None) -> Walked:
        """The walks ``first`` to ``last`` - 1; without ``size``, after the probes that find it out."""
        self.first, self.last = first, last
        self.size = size or Size()
        self.probe = size is None
        self.run()
        return Walked(self.results, self.recording.seen, self.digests, self.size, self.longest)

    def _run(self) -> None:
        if self.probe:
            for n in range(PROBES):
                self._once(f"probe {n}", STRATEGIES[n % 2])
            self.results = Results()
            self.digests.clear()
            self.longest = 0
        for n in range(self.first, self.last):
            self._once(f"{n}", self.plan.strategy)

    def _once(self, name: str, strategy: str) -> None:
        plan, size = self.plan, self.size
        self.random = random.Random(f"{plan.strategy} {plan.depth} {plan.seed} {name}")
        self.strategy = strategy
        self.events, self.choice, self.value = [], [], []
        self.objects = []
        self.now = []
        self.k = 0
        self.priority: list[float] = []
        self.chosen = 0
        self.odds = 1 / max(1, size.choices) if self.random.random() < 0.5 else 0.0
        self.drops: dict[int, int] = {}  # before which event whoever would run falls how far behind
        if strategy == "pct" and size.events:
            places = self.random.sample(range(size.events), min(plan.depth - 1, size.events))
            self.drops = {place: -1 - n for n, place in enumerate(places)}
        self.execute()
        self.longest = max(self.longest, len(self.events))
        if self.probe and name.startswith("probe"):
            events = max(size.events, len(self.events))
            self.size = Size(self.n, events, max(size.choices, self.chosen))
        if self.status in ("complete", "deadlock"):
            digest = self._digest()
            self.digests[digest] = self.digests.get(digest, 0) + 1

    def _pick(self) -> int:
        i = self.i
        enabled = self.enabled()
        if not enabled:
            self.status = self._ending()
            return -1
        if i >= self.max_events:
            self.status = "truncated"
            return -1
        p = self._draw(i, enabled)
        op = self.pending[p]
        value = 0
        if op[0] == CHOOSE:
            self.chosen += 1
            if self.random.random() < self.odds:
                value = self.random.randrange(1, op[3]) if op[3] > 1 else 0
        e = Event(i, enabled)
        e.backtrack = 0
        self.events.append(e)
        return self._record(e, p, value)

    def _draw(self, i: int, enabled: int) -> int:
        priority, draw = self.priority, self.random.random
        if not priority:
            priority += [draw() for _ in range(self.n)]
        able = [t for t in range(self.n) if enabled >> t & 1]
        if self.strategy == "pct":
            if i in self.drops:
                priority[max(able, key=priority.__getitem__)] = self.drops[i]
            return max(able, key=priority.__getitem__)
        if i:
            last = self.events[-1]
            priority[last.task] = draw()
            for t in range(self.n):
                op = self.pending[t]
                if t != last.task and op[0] >= 0 and conflict(op, last.op):
                    priority[t] = draw()
        return max(able, key=priority.__getitem__)

    def _rival(self, op: Op, q: int, previous: list[int]) -> Event | None:
        return None  # nothing is reversed

    def _digest(self) -> bytes:
        """The execution's trace, as few bytes; tasks by name, for the slot of a spawned one depends on the order."""
        order = sorted(range(self.n), key=lambda t: self.tasks[t].name)
        lines: list[list[str]] = [[] for _ in order]
        for e, value in zip(self.events, self.value, strict=True):
            lines[e.task].append(f"{value}:{','.join([str(e.clock[t]) for t in order])}")
        text = "\n".join(f"{self.tasks[t].name} {' '.join(lines[t])}" for t in order if lines[t])
        return blake2b(text.encode(), digest_size=12).digest()


@dataclass(frozen=True)
class Order:
    """Walks to be run; ``size``: as the first order found it."""

    plan: Plan
    first: int
    last: int
    size: Size | None

    def run(self, build: Callable[[], Setup]) -> Walked:
        """Do it."""
        return Walker(build, self.plan).walk(self.first, self.last, self.size)


@dataclass
class Walks:
    """Hands out walks and puts them together in their order, as ``split.Search`` does with slices."""

    plan: Plan
    chunk: int = CHUNK
    whole: Results = field(default_factory=Results)
    edges: dict[Edge, Seen] = field(default_factory=dict)
    traces: dict[bytes, int] = field(default_factory=dict)
    size: Size | None = None
    longest: int = 0
    done: int = 0  # walks that were put together
    stopped: str = ""

    def __post_init__(self) -> None:
        self.given: dict[int, Order] = {}
        self.early: dict[int, Walked] = {}

    @property
    def over(self) -> bool:
        """Is there nothing left to do?"""
        return bool(self.stopped) or self.done >= self.plan.walks

    def stop(self, why: str) -> None:
        """End the walks here; ``why`` is what the verdict says."""
        self.stopped = why

    def order(self, alone: bool = False) -> tuple[int, Order] | None:
        """Walks to be run now, and what to call them when they are done; None while there are none."""
        if self.over or (self.size is None and self.given):
            return None
        first = self.done
        while first in self.given or first in self.early:
            first = self.given[first].last if first in self.given else first + self._length(first)
        if first >= self.plan.walks or len(self.early) > 64:
            return None
        order = Order(self.plan, first, min(first + self.chunk, self.plan.walks), self.size)
        self.given[first] = order
        return first, order

    def _length(self, first: int) -> int:
        return min(self.chunk, self.plan.walks - first)

    def take(self, first: int, walked: Walked) -> None:
        """Those walks are done."""
        if self.given.pop(first, None) is None:
            return
        self.early[first] = walked
        while self.done in self.early:
            one = self.early.pop(self.done)
            self.done += self._length(self.done)
            add(self.whole, one.results)
            for edge, seen in one.edges.items():
                self.edges.setdefault(edge, seen)
            for digest, times in one.traces.items():
                self.traces[digest] = self.traces.get(digest, 0) + times
            self.size = self.size or one.size
            self.longest = max(self.longest, one.longest)

    def lost(self, first: int) -> None:
        """Those walks will not be done: hand them out again."""
        self.given.pop(first, None)

    def results(self) -> Results:
        """What was found. Never exhausted: walks prove nothing."""
        results = Results()
        add(results, self.whole)
        lockdep = lock_classes(self.edges)
        for f in lockdep.findings:
            results.found.setdefault(f, Found(f, lockdep.schedules[f]))
        results.stopped = self.stopped or f"{self.done} walks"
        return results

    def told(self) -> dict[str, int | float | str]:
        """What these walks are worth, for the report."""
        plan, size = self.plan, self.size or Size()
        told: dict[str, int | float | str] = {"strategy": plan.strategy, "walks": self.done, "seed": plan.seed}
        if plan.strategy == "pct":
            told |= {"depth": plan.depth, "tasks": size.tasks, "events": size.events, "longest": self.longest}
            told["bound"] = bound(size, plan.depth)
        told["distinct"] = len(self.traces)
        told["unseen"] = unseen(self.traces)
        return told


def bound(size: Size, depth: int) -> float:
    """PCT's least probability that one walk shows a bug of this depth."""
    try:
        least = 1 / (max(1, size.tasks) * float(max(1, size.events)) ** (depth - 1))
    except OverflowError:  # of a depth of hundreds: nothing that could be told from nothing
        least = 0.0
    return least / 2 if size.choices else least


def unseen(traces: dict[bytes, int]) -> float:
    """The Good-Turing estimate of the chance that one more walk shows a trace that none has shown; 1 without walks."""
    total = sum(traces.values())
    return sum(times == 1 for times in traces.values()) / total if total else 1.0


def sample(
    build: Callable[[], Setup], plan: Plan, until: Callable[[Results], bool] | None = None, chunk: int = CHUNK
) -> Walks:
    """All the walks, here; ``until`` may end them early (asked after every ``chunk``)."""
    walks = Walks(plan, chunk)
    while (given := walks.order()) is not None:
        first, order = given
        walks.take(first, order.run(build))
        if until is not None and until(walks.results()):
            walks.stop(f"{walks.done} walks")
    return walks
