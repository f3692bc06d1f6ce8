"""One search in parts, which need not run in one process, nor one after the other, nor without a break.

Between two executions, all that E1 (``dpor``) knows is its *path*: who was chosen at each state of the current
execution, who was tried there before, who is to be tried. A **slice** sets up a path again by running it once, goes on
from there for a while, and hands back the path that it stopped at and what it found. Slices one after the other are the
search; so a search can be stopped, written down and gone on with elsewhere.

They need not run one after the other. What is explored below a state depends on the path to it and on who sleeps there,
and on nothing else. What that exploration asks of the states *above* (a race that is to be reversed there) it writes
down, in its order: ``Dpor.asked``. So the part below a state may be searched before its turn comes, as a **branch**;
when its turn comes and the search does arrive there with these sleepers, its results are appended and what it asked is
done, as though it had been searched now. If the search arrives with others, the branch is thrown away. In either case
the whole is what one uninterrupted search is: the same executions in the same order, counts and findings.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from .dpor import Dpor, Event, Sleepers, leave, try_one
from .findings import Finding
from .lockdep import Edge, Lockdep, Recording, Seen, lock_classes
from .ops import DONE
from .runtime import Op
from .scheduler import MAX_EVENTS, Counts, Found, Results, Setup, SetupError

#: a slice ends after this many executions, or as soon as it has taken so many seconds
SLICE_EXECUTIONS = 512
SLICE_SECONDS = 0.5
#: a state is worth a branch when so many executions were needed below it so far
GRAIN = 24

Asked = dict[tuple[int, int], None]


@dataclass(slots=True)
class Node:
    """A state of the path: what ``dpor.Event`` knows between two executions."""

    task: int  # who was chosen, and with which value
    value: int
    op: Op  # the event; DONE while it has not happened yet
    enabled: int
    backtrack: int
    sleep: int
    asleep: Sleepers
    extra: tuple[int, ...]
    below: int = 0  # executions so far with this state on their path, roughly

    def following(self) -> Node | None:
        """The same state with whoever is to be tried there after all of this; None when that is nobody."""
        other = replace(self, below=0)
        follows = leave(other, self.task, self.value, self.op)
        if follows is None:
            return None
        other.task, other.value = follows
        other.op = DONE
        return other


@dataclass
class Slice:
    """An order to search: go on at the end of ``path``, and no higher than ``base``, for so long."""

    path: list[Node]
    base: int
    executions: int
    seconds: float
    max_events: int = MAX_EVENTS
    keep_traces: bool = False

    def run(self, build: Callable[[], Setup]) -> Searched:
        """Do it."""
        return Part(build, self).search()


@dataclass
class Searched:
    """What came of a slice."""

    results: Results
    edges: dict[Edge, Seen]
    asked: list[Asked]  # of the states before ``base``
    path: list[Node]  # from ``base`` on; empty when all below is explored
    op: Op  # of the event before ``base``, as it turned out


class Part(Dpor):
    """E1, from a path on and for a while."""

    def __init__(self, build: Callable[[], Setup], order: Slice) -> None:
        super().__init__(build, keep_traces=order.keep_traces)
        self.order = order
        self.max_events = order.max_events
        self.lockdep = self.recording = Recording()

    def search(self) -> Searched:
        """Do what the order says."""
        self.run()
        base = self.base
        path = [
            Node(p, v, e.op, e.enabled, e.backtrack, e.sleep, e.asleep, e.extra)
            for p, v, e in zip(self.choice[base:], self.value[base:], self.events[base:], strict=False)
        ]
        op: Op = self.events[base - 1].op if base else DONE
        if len(self.events) > base:  # the last is the state at which the next execution will leave this one
            e = self.events[-1]
            path.append(Node(self.forced, self.forced_value, DONE, e.enabled, e.backtrack, e.sleep, e.asleep, e.extra))
        return Searched(self.results, self.recording.seen, self.asked, path, op)

    def _run(self) -> None:
        order, counts = self.order, self.results.counts
        if order.path:
            self._arrive(order.path)
        self.base = order.base
        self.asked = [{} for _ in range(order.base)]
        until = time.thread_time() + order.seconds  # of CPU, so that a loaded machine does not mean small slices
        while True:
            start = self.k
            self.execute()
            self._races(start)
            if not self._backtrack():
                break
            if counts.executions >= order.executions or time.thread_time() >= until:
                break

    def _arrive(self, path: list[Node]) -> None:
        """Run once along the path and give up at its end: everything is then as it was when the path was written."""
        steps = iter(path[:-1])

        def _pick() -> int:  # by this name the scheduler knows its own errors
            node = next(steps, None)
            if node is None:
                self.status = "truncated"
                return -1
            if self.pending[node.task][:2] != node.op[:2]:
                raise SetupError("the program does not do the same twice")
            e = Event(self.i, node.enabled)
            _restore(e, node)
            self.events.append(e)
            return self._record(e, node.task, node.value)

        kept, self.results = self.results, Results()
        self.__dict__["_pick"] = _pick
        try:
            self.execute()
        finally:
            del self.__dict__["_pick"]
        self.results = kept
        last = path[-1]
        self.k = len(path) - 1
        e = Event(self.k, last.enabled)
        _restore(e, last)
        self.events.append(e)
        self.forced, self.forced_value = last.task, last.value


def _restore(e: Event, node: Node) -> None:
    e.backtrack, e.sleep, e.asleep, e.extra = node.backtrack, node.sleep, node.asleep, node.extra


@dataclass(eq=False)
class Branch:
    """A part of the search: all below one state, or (``base`` 0) the whole."""

    path: list[Node]
    base: int
    results: Results = field(default_factory=Results)
    edges: dict[Edge, Seen] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)  # of the states before ``base``
    done: bool = False
    boundary: int = -1  # while a slice is under way: it searches from here on; -1 while none is

    def __post_init__(self) -> None:
        self.asked = self.asked or [{} for _ in range(self.base)]

    @property
    def executions(self) -> int:
        """How many were run."""
        return self.results.counts.executions


Key = tuple[object, ...]


class Search:
    """Hands out slices and puts together what comes of them. Whoever runs the slices owns this."""

    def __init__(
        self,
        *,
        max_executions: int | None = None,
        max_events: int = MAX_EVENTS,
        keep_traces: bool = False,
        executions: int = SLICE_EXECUTIONS,
        seconds: float = SLICE_SECONDS,
        grain: int = GRAIN,
    ) -> None:
        self.max_executions = max_executions
        self.max_events = max_events
        self.keep_traces = keep_traces
        self.executions = executions
        self.seconds = seconds
        self.grain = grain
        self.root = Branch([], 0)
        self.branches: dict[Key, Branch] = {}
        self.stopped = ""
        self.wasted = 0  # executions of branches that were thrown away

    @property
    def over(self) -> bool:
        """Is there nothing left to do?"""
        return self.root.done or bool(self.stopped)

    def stop(self, why: str) -> None:
        """End the search here; ``why`` is what its verdict says."""
        self.stopped = why

    # -- handing out ---------------------------------------------------------------------------------------------
    def order(self, alone: bool = False) -> tuple[Branch, Slice] | None:
        """A slice to be run now, and the branch that waits for it; None while there is none.

        ``alone``: nobody else is free to run another, so that nothing need be left for branches.
        """
        self._adopt(self.root)
        return None if self.over else self._order(self.root, alone)

    def _order(self, branch: Branch, alone: bool) -> tuple[Branch, Slice] | None:
        self._adopt(branch)
        if branch.done:
            return None
        if branch.boundary < 0 and not self._early(branch):
            left = self._left(branch)
            if left > 0:
                branch.boundary = branch.base if alone or not branch.executions else self._boundary(branch)
                limit = min(self.executions, left)
                return branch, Slice(
                    branch.path, branch.boundary, limit, self.seconds, self.max_events, self.keep_traces
                )
        top = branch.boundary if branch.boundary >= 0 else len(branch.path) - 1
        early = self._early(branch)
        if early is not None:
            found = self._order(early, False)
            if found:
                return found
        for at, node in self._left_to_try(branch, top):
            path = [*branch.path[:at], node]
            key = _key(path)
            if key not in self.branches:
                self.branches[key] = Branch(path, at + 1)
            found = self._order(self.branches[key], False)
            if found:
                return found
        return None

    def _left(self, branch: Branch) -> int:
        """How many executions may still be run there. A branch need not know more than the whole may use."""
        if self.max_executions is None:
            return sys.maxsize
        done = self.root.executions + (branch.executions if branch is not self.root else 0)
        return self.max_executions - done

    def _early(self, branch: Branch) -> Branch | None:
        """The branch that was begun early for what comes next."""
        if not branch.path or branch.path[-1].op[0] >= 0 or len(branch.path) == branch.base:
            return None
        return self.branches.get(_key(branch.path))

    def _boundary(self, branch: Branch) -> int:
        """From where on a slice searches: what is left to try above it is for other slices, at the same time."""
        for at, _ in self._left_to_try(branch, len(branch.path) - 1):
            return at + 1
        return branch.base

    def _left_to_try(self, branch: Branch, top: int) -> Iterator[tuple[int, Node]]:
        """The states before ``top`` that are worth a branch, the deepest first, with what is to be tried there."""
        for at in range(top - 1, branch.base - 1, -1):
            node = branch.path[at]
            if node.below >= self.grain:
                following = node.following()
                if following is not None:
                    yield at, following

    # -- putting together ----------------------------------------------------------------------------------------
    def take(self, branch: Branch, done: Searched) -> None:
        """A slice is done."""
        boundary, branch.boundary = branch.boundary, -1
        self._append(branch, boundary, done)
        self._adopt(self.root)
        self._forget()

    def lost(self, branch: Branch) -> None:
        """A slice will not be done: hand it out again."""
        branch.boundary = -1

    def _append(self, branch: Branch, start: int, done: Searched) -> None:
        """``done`` was searched from ``start`` on, and comes next in this branch."""
        add(branch.results, done.results)
        for edge, seen in done.edges.items():
            branch.edges.setdefault(edge, seen)
        for at, asked in enumerate(done.asked):
            if at < branch.base:
                branch.asked[at].update(asked)
            else:
                for initials, q in asked:
                    try_one(branch.path[at], initials, q)
        n = done.results.counts.executions
        for node in branch.path[branch.base : start]:
            node.below += n
        for node, old in zip(done.path, branch.path[start:], strict=False):  # those that were not left since
            if (node.task, node.value, node.sleep) != (old.task, old.value, old.sleep):
                break
            node.below = old.below + n
        if start:
            branch.path[start - 1].op = done.op
        branch.path = branch.path[:start] + done.path
        if not done.path:
            self._climb(branch)

    def _climb(self, branch: Branch) -> None:
        """All is explored at the end of the path: go back to the deepest state with something left to try."""
        while len(branch.path) > branch.base:
            node = branch.path.pop()
            following = node.following()
            if following is not None:
                following.below = node.below
                branch.path.append(following)
                return
        branch.done = True

    def _adopt(self, branch: Branch) -> None:
        """Take over what was searched early, as far as the search has come."""
        while not branch.done and branch.boundary < 0:
            if branch is self.root and self._full():
                self.stopped = f"{self.max_executions} executions"
                return
            early = self._early(branch)
            if early is None or early.boundary >= 0 or not early.executions:
                return
            if self._left(branch) < early.executions:
                self._drop(early)
                return
            del self.branches[_key(branch.path)]
            at = early.base
            done = Searched(early.results, early.edges, early.asked, early.path[at:], early.path[at - 1].op)
            below = [node.below for node in done.path]
            self._append(branch, at, done)
            for node, n in zip(done.path, below, strict=True):
                node.below = n

    def _full(self) -> bool:
        return self.max_executions is not None and self.root.executions >= self.max_executions

    def _drop(self, branch: Branch) -> None:
        self.wasted += branch.executions
        self.branches = {key: one for key, one in self.branches.items() if one is not branch}

    def _forget(self) -> None:
        """Throw away the branches at which the search will not arrive: others were asked for first."""
        if not self.branches:
            return
        wanted: set[Key] = set()
        waiting = [self.root]
        while waiting:
            branch = waiting.pop()
            top = branch.boundary if branch.boundary >= 0 else len(branch.path) - 1
            paths = [[*branch.path[:at], node] for at, node in self._left_to_try(branch, top)]
            if branch.boundary < 0 and self._early(branch):
                paths.append(branch.path)
            for path in paths:
                key = _key(path)
                if key in self.branches and key not in wanted:
                    wanted.add(key)
                    waiting.append(self.branches[key])
        for key, branch in list(self.branches.items()):
            if key not in wanted:
                self.wasted += branch.executions
                del self.branches[key]

    # -- the end -------------------------------------------------------------------------------------------------
    def results(self) -> Results:
        """What was found, as an uninterrupted search says it."""
        results = Results()
        add(results, self.root.results)
        lockdep = self.lockdep()
        for f in lockdep.findings:
            if f not in results.found:
                results.found[f] = Found(f, lockdep.schedules[f])
        if self.stopped:
            results.stopped = self.stopped
        elif results.counts.truncated:
            results.stopped = f"{self.max_events} events in one execution"
        else:
            results.exhausted = self.root.done
        return results

    def lockdep(self) -> Lockdep:
        """The lock-class graph of all the slices."""
        return lock_classes(self.root.edges)


def add(to: Results, more: Results) -> None:
    """Append what came later to what came before."""
    a, b = to.counts, more.counts
    to.counts = Counts(**{name: getattr(a, name) + getattr(b, name) for name in Counts.__dataclass_fields__})
    found: dict[Finding, Found] = to.found
    for f, one in more.found.items():
        if f in found:
            found[f].executions += one.executions
        else:
            found[f] = Found(one.finding, one.choices, one.executions)
    to.outcomes |= more.outcomes
    to.deadlocks |= more.deadlocks
    to.traces |= more.traces
    to.reached |= more.reached


def _key(path: list[Node]) -> Key:
    """What decides all that is found below the end of the path."""
    last = path[-1]
    return (tuple((n.task, n.value) for n in path), last.sleep, tuple(last.asleep), last.extra)


def run(build: Callable[[], Setup], search: Search) -> Results:
    """The whole search here, slice after slice."""
    while (given := search.order(alone=True)) is not None:
        branch, order = given
        search.take(branch, order.run(build))
    return search.results()
