"""The smallest execution that shows a finding: fewest preemptions first, as a person would want to tell it.

A *preemption* switches away from a task that could have gone on. Executions with few show most bugs, and read best
(M. Musuvathi, S. Qadeer, "Iterative Context Bounding for Systematic Testing of Multithreaded Programs", PLDI 2007). The
search goes through the beginnings of executions in the order (preemptions, context switches, choices that are not the
ordinary ones) and lets each go on without preemption. So no execution has fewer preemptions than the first that it
meets with the finding.

Three things are left out, and none of them can hide an execution with fewer preemptions:

* *A preemption before an event that commutes with all that others do meanwhile.* The task may as well perform the event
  and be preempted after it. What others do is what they have been seen to announce so far, by task and object; what was
  left out is put back as soon as somebody announces something in conflict with it. An event in conflict cannot stay
  unseen: up to it, the others run alike whether the task is preempted before or after.
* *A beginning equivalent to one that was gone on from already*, at no higher price and with the same task running.
  Equivalent: the same events, each preceded in its past by the same conflicting ones (compared by a 64 bit hash).
* *What can no longer be better* than what was found.

Dynamic objects go by their name here, because their ids depend on the interleaving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import groupby
from typing import Any, NamedTuple, cast

from .findings import Finding
from .lockdep import Lockdep
from .ops import BLOCKS, CHOOSE, DONE, READ_LIKE
from .races import plain_races
from .runtime import Op
from .scheduler import MAX_EVENTS, Scheduler, Setup, Watchdog

BUDGET = 20_000
#: executions for an inversion, which it may take several executions to show, so that the search would be in vain
INVERSION_BUDGET = 200
#: executions without progress after which, the preemptions being the fewest, the context switches are few enough
POLISH = 300
#: ... and, these being the fewest as well, the rest is good enough
POLISH_EQUALS = 50
#: executions spent on shrinking what was found when the budget ran out
SHRINK = 1_000
#: all executions together may have this many events per execution of the budget
EVENTS_EACH = 100


class Minimal(NamedTuple):
    """A small execution: its choices, how many preemptions it has, and whether no execution has fewer."""

    choices: list[tuple[str, int]]
    preemptions: int
    proved: bool


#: (preemptions, context switches, choices not the ordinary ones)
Price = tuple[int, int, int]


class _Shown(NamedTuple):
    """An execution that shows the finding, in the order of preference."""

    price: Price
    events: int
    order: tuple[int, ...]  # of the segments' tasks
    lengths: tuple[int, ...]  # of the segments: the first switch as early as may be
    moves: list[tuple[int, int]]
    choices: list[tuple[str, int]]


class _Segment(NamedTuple):
    """Let a task run for so many events; None: until it ends or blocks. ``values``: of its n-th event in here."""

    task: str
    length: int | None
    values: dict[int, int]


class _Item:
    """A beginning: that of an execution, up to an event, and then another event."""

    __slots__ = ("base", "before", "move", "pushed", "rank", "upto")

    def __init__(
        self,
        rank: tuple[Any, ...],
        base: list[tuple[int, int]],
        upto: int,
        move: tuple[int, int],
        before: list[_Item] | None = None,
    ) -> None:
        self.before = before  # another value of a choice: the preemptions before it that were left out
        self.rank = rank
        self.base = base
        self.upto = upto
        self.move = move
        self.pushed = False


class Minimiser(Scheduler):
    """The search for one finding. Use ``minimise``."""

    ops: list[Op]
    moves: list[tuple[int, int]]  # the execution so far, as (task index, value)
    order: tuple[int, ...]
    ident: list[int]  # task index -> a number that goes with its name
    past: list[int]  # hash of each task's last event and all that precedes it
    written: dict[int, int]  # object -> hash of its last write
    readings: dict[int, int]  # object -> sum of the hashes of its reads since
    dynamic: dict[int, int]  # object id of this execution -> key
    also: set[tuple[int, int]]  # (event, object) that turned out to be read as well
    before: list[_Item]  # the preemptions before the event under way that were parked

    def __init__(self, build: Callable[[], Setup], finding: Finding, budget: int) -> None:
        super().__init__(build)
        self.finding = finding
        self.budget = budget
        self.best: _Shown | None = None
        self.heap: list[tuple[tuple[Any, ...], int, _Item]] = []
        self.pushes = 0
        self.visited: dict[tuple[int, int], tuple[int, int, int, tuple[int, ...]]] = {}
        self.idents: dict[str, int] = {}
        self.keys: dict[str, int] = {}
        self.static = 0  # objects that the set-up made; their ids are the same in every execution
        self.footprints: dict[Op, tuple[tuple[int, bool], ...]] = {}
        self.announced: set[tuple[int, Op]] = set()
        self.readers: dict[int, int] = {}  # object -> mask of the tasks that were seen to read it
        self.writers: dict[int, int] = {}
        self.parked: dict[int, list[tuple[bool, int, _Item]]] = {}  # object -> (written, task, preemption before that)
        self.cut_short = False  # was an execution cut that the search would have followed further?

    # -- the search ------------------------------------------------------------------------------------------------
    def minimise(self, start: Sequence[tuple[str, int]]) -> Minimal:
        """See the function ``minimise``."""
        try:
            with Watchdog(self):
                return self._minimise(start)
        finally:
            self._dismiss()

    def _minimise(self, start: Sequence[tuple[str, int]]) -> Minimal:
        if self.finding.kind == "never-ends":  # every execution that shows it takes seconds
            return self._as_it_is(start)
        self.max_events = min(MAX_EVENTS, 200 + 10 * len(start))
        plain = self._try()
        if plain is not None:
            return Minimal(plain.choices, 0, True)
        self.best = self._try(start=list(start))
        proved = self._search()
        if self.best is None:
            return self._as_it_is(start)
        if not proved:
            self._shrink()
        self._open_early()
        return Minimal(self.best.choices, self.best.price[0], proved and not self.cut_short)

    def _as_it_is(self, start: Sequence[tuple[str, int]]) -> Minimal:
        self.max_events = MAX_EVENTS
        shown = self._try(start=list(start))
        if shown is None and self.finding.kind != "inversion":
            raise ValueError(f"the execution does not show {self.finding.name}")
        return Minimal(self.choices(), self.price[0], False)

    def _search(self) -> bool:
        """Go through the heap; True when nothing in it can have fewer preemptions than what was found."""
        counts = self.results.counts
        budget = min(self.budget, INVERSION_BUDGET) if self.finding.kind == "inversion" else self.budget
        improved = counts.executions
        while self.heap:
            rank, _, item = self.heap[0]
            best = self.best
            if best is not None and rank[:3] > best.price:
                return True
            fewest = best is not None and rank[0] >= best.price[0]
            if fewest and best is not None:
                enough = POLISH if rank[:2] < best.price[:2] else POLISH_EQUALS
                if counts.executions - improved >= enough:
                    return True
            if counts.executions >= budget or counts.events >= budget * EVENTS_EACH:
                return fewest
            heappop(self.heap)
            shown = self._try(plan=[*item.base[: item.upto], item.move], before=item.before)
            if shown is not None and (best is None or shown < best):
                self.best = shown
                improved = counts.executions
        return self.best is not None

    def _try(
        self,
        *,
        plan: list[tuple[int, int]] | None = None,
        before: list[_Item] | None = None,
        start: list[tuple[str, int]] | None = None,
        segments: list[_Segment] | None = None,
    ) -> _Shown | None:
        """Run one execution: on from ``plan``, or exactly ``start``, or roughly ``segments``."""
        self.plan = plan or []
        self.plan_before = before or []
        self.start = start
        self.guide = segments
        self.expand = start is None and segments is None
        self.guide_at = self.guide_ran = 0
        self.choice.clear()
        self.value.clear()
        self.ops = []
        self.moves = []
        self.order = ()
        self.price: Price = (0, 0, 0)
        self.hash = 0
        self.ident = []
        self.past = []
        self.written = {}
        self.readings = {}
        self.dynamic = {}
        self.also = set()
        self.before = []
        if self.finding.kind == "inversion":
            self.lockdep = Lockdep()
        self.results.found.clear()
        self.execute()
        self.cut_short |= self.status == "truncated" and self.max_events < MAX_EVENTS
        if self.finding not in self.findings and self.finding not in self.lockdep.findings:
            return None
        if self.status == "cut":  # what it is equivalent to was judged
            return None
        lengths = tuple(len(list(run)) for _, run in groupby(self.choice))
        return _Shown(self.price, len(self.moves), self.order, lengths, self.moves, self.choices())

    def _before_tasks(self) -> None:
        self.static = len(self.prims)

    def _ended(self, setup: Setup) -> None:
        if self.finding.kind == "race":
            for f in plain_races(cast(Any, self)):
                self.found(f)
        super()._ended(setup)

    # -- one event ---------------------------------------------------------------------------------------------------
    def _pick(self) -> int:
        i = self.i
        me = self.cur
        pending = self.pending
        ident = self.ident
        while len(ident) < self.nlive:
            t = len(ident)
            ident.append(self.idents.setdefault(self.tasks[t].name, len(self.idents)))
            self.past.append(ident[t] + 1)
            self._announce(t, pending[t])
        if i and pending[me] is not DONE:
            self._announce(me, pending[me])
        if i < len(self.plan):  # this far it is known to be possible
            p, v = self.plan[i]
            self.before = self.plan_before if i == len(self.plan) - 1 else []
            self._record(p, v, p != me and me >= 0 and self._can_go_on(me))
            return p
        enabled = self.enabled()
        if not enabled:
            self.status = self._ending()
            return -1
        if i >= self.max_events:
            self.status = "truncated"
            return -1
        going = me >= 0 and bool(enabled >> me & 1)
        p, v = me if going else (enabled & -enabled).bit_length() - 1, 0
        self.before = []
        if self.expand:
            if self._seen(me if going else -1):
                self.status = "cut"
                return -1
            self._branch(enabled, p, going)
        elif self.start is not None:
            if i < len(self.start):
                p, v = self._given(enabled, *self.start[i])
        elif self.guide is not None:
            p, v = self._guided(enabled, p)
        self._record(p, v, going)
        return p

    def _can_go_on(self, t: int) -> bool:
        op = self.pending[t]
        if op is DONE:
            return False
        return not BLOCKS[op[0]] or bool(self.prims[op[1]].enabled(self.prims[op[1]].state, op, t))

    def _record(self, p: int, v: int, going: bool) -> None:
        op = self.pending[p]
        if p != self.cur:
            preemptions, switches, unusual = self.price
            self.order += (self.ident[p],)
            self.price = (preemptions + going, switches + (self.i > 0), unusual + (v > 0))
        elif v:
            preemptions, switches, unusual = self.price
            self.price = (preemptions, switches, unusual + 1)
        if self.expand:
            self._remember(p, v, op)
        self.ops.append(op)
        self.moves.append((p, v))
        self.choice.append(p)
        self.value.append(v)
        self.i += 1

    def _remember(self, p: int, v: int, op: Op) -> None:
        """Put the event and all that precedes it into one number, and the execution into the sum of these."""
        kind, o, extra = op[0], op[1], op[2]
        written, readings = self.written, self.readings
        h = hash((self.past[p], v))
        if o >= 0:
            h = hash((h, written.get(o, 0)) if READ_LIKE[kind] else (h, written.get(o, 0), readings.get(o, 0)))
        for x in extra:
            n = x >> 1
            h = hash((h, written.get(n, 0), readings.get(n, 0)) if x & 1 else (h, written.get(n, 0)))
        if o >= 0:
            if READ_LIKE[kind]:
                readings[o] = readings.get(o, 0) + h
            else:
                written[o] = h
                readings[o] = 0
        for x in extra:
            n = x >> 1
            if x & 1:
                written[n] = h
                readings[n] = 0
            else:
                readings[n] = readings.get(n, 0) + h
        self.past[p] = h
        self.hash += h

    def also_reads(self, oid: int) -> None:
        j = self.i - 1
        if j < 0 or (j, oid) in self.also:
            return
        self.also.add((j, oid))
        p = self.choice[j]
        op = self.ops[j]
        if op[1] == oid or oid << 1 in op[2] or oid << 1 | 1 in op[2]:
            return
        if self.expand:
            h = hash((self.past[p], self.written.get(oid, 0)))
            self.readings[oid] = self.readings.get(oid, 0) + h
            self.hash += h - self.past[p]
            self.past[p] = h
        key, who = self._key(oid), 1 << self.ident[p]
        self._learn(who, key, False)
        if self.before:
            feet = ((key, False),)
            met = self._met(feet, who)
            for item in self.before:
                self._push_or_park(item, feet, who, met)

    def _seen(self, running: int) -> bool:
        """Was an equivalent beginning, with the same task running, gone on from at no higher a price?"""
        node = (self.hash, running)
        price = (*self.price, self.order)
        old = self.visited.get(node)
        if old is not None and old <= price:
            return True
        self.visited[node] = price
        return False

    def _given(self, enabled: int, name: str, value: int) -> tuple[int, int]:
        for t in range(self.nlive):
            if self.tasks[t].name == name and enabled >> t & 1:
                op = self.pending[t]
                if not value or (op[0] == CHOOSE and value < op[3]):
                    return t, value
        raise ValueError(f"event {self.i + 1}: {name} cannot go on as it did in the given execution")

    def _guided(self, enabled: int, otherwise: int) -> tuple[int, int]:
        guide = self.guide or []
        while self.guide_at < len(guide):
            name, length, values = guide[self.guide_at]
            t = next((t for t in range(self.nlive) if self.tasks[t].name == name), -1)
            if t >= 0 and enabled >> t & 1 and (length is None or self.guide_ran < length):
                op = self.pending[t]
                v = values.get(self.guide_ran, 0)
                self.guide_ran += 1
                return t, v if op[0] == CHOOSE and v < op[3] else 0
            self.guide_at += 1
            self.guide_ran = 0
        return otherwise, 0

    # -- what else could happen --------------------------------------------------------------------------------------
    def _branch(self, enabled: int, p: int, going: bool) -> None:
        """Note every other move from here: another task, or another value of a choice."""
        pending = self.pending
        op = pending[p]
        others = enabled & ~(1 << p)
        if not others and op[0] != CHOOSE:
            return
        me = self.cur
        preemptions, switches, unusual = self.price
        waiting = sum(1 for o in pending if o[0] >= 0 and not BLOCKS[o[0]])  # each of these has to run yet
        if op[0] == CHOOSE:
            least = switches + (p != me and me >= 0) + waiting - 1
            order = self.order if p == me else (*self.order, self.ident[p])
            for v in range(1, op[3]):
                rank = preemptions, least, unusual + 1, order
                self._push(_Item(rank, self.moves, self.i, (p, v), self.before))
        if not others:
            return
        feet = self._footprint(op) if going else ()
        here = 1 << self.ident[p]
        met = not going or self._met(feet, here)
        for q in range(self.nlive):
            if others >> q & 1:
                qop = pending[q]
                least = switches + (me >= 0) + waiting - (not BLOCKS[qop[0]])
                order = (*self.order, self.ident[q])
                for v in range(qop[3] if qop[0] == CHOOSE else 1):
                    rank = preemptions + going, least, unusual + (v > 0), order
                    if self.best is None or rank[:3] <= self.best.price:
                        item = _Item(rank, self.moves, self.i, (q, v))
                        self._push_or_park(item, feet, here, met)
                        if not item.pushed:
                            self.before.append(item)

    def _push_or_park(self, item: _Item, feet: tuple[tuple[int, bool], ...], here: int, met: bool) -> None:
        """``feet`` and ``here``: what is touched by the event before which this is a preemption, and its task."""
        if item.pushed:
            return
        if met:
            self._push(item)
        else:
            for key, written in feet:
                self.parked.setdefault(key, []).append((written, here, item))

    def _push(self, item: _Item) -> None:
        if self.best is not None and item.rank[:3] > self.best.price:
            return
        item.pushed = True
        self.pushes += 1
        heappush(self.heap, (item.rank, self.pushes, item))

    def _met(self, feet: tuple[tuple[int, bool], ...], here: int) -> bool:
        """Was another task seen to announce something in conflict with this footprint?"""
        for key, written in feet:
            if self.writers.get(key, 0) & ~here or (written and self.readers.get(key, 0) & ~here):
                return True
        return False

    def _announce(self, t: int, op: Op) -> None:
        """Learn what a task may do, and put back the preemptions that this makes worth trying."""
        who = self.ident[t]
        if (who, op) in self.announced:
            return
        feet = self._footprint(op)
        if op in self.footprints:
            self.announced.add((who, op))
        for key, written in feet:
            self._learn(1 << who, key, written)

    def _learn(self, who: int, key: int, written: bool) -> None:
        masks = self.writers if written else self.readers
        known = masks.get(key, 0)
        if known & who:
            return
        masks[key] = known | who
        kept = []
        for entry in self.parked.get(key, ()):
            its, here, item = entry
            if here != who and (written or its):
                if not item.pushed:
                    self._push(item)
            elif not item.pushed:
                kept.append(entry)
        if key in self.parked:
            self.parked[key] = kept

    def _footprint(self, op: Op) -> tuple[tuple[int, bool], ...]:
        """What the event touches, by keys that mean the same object in every execution."""
        feet = self.footprints.get(op)
        if feet is None:
            touched = [(op[1], not READ_LIKE[op[0]])] if op[1] >= 0 else []
            touched += [(x >> 1, bool(x & 1)) for x in op[2]]
            feet = tuple((self._key(o), written) for o, written in touched)
            if all(o < self.static for o, _ in touched):
                self.footprints[op] = feet
        return feet

    def _key(self, o: int) -> int:
        if o < self.static:
            return o
        key = self.dynamic.get(o)
        if key is None:
            key = self.dynamic[o] = self.keys.setdefault(self.object_name(o), -1 - len(self.keys))
        return key

    # -- when the budget is spent --------------------------------------------------------------------------------------
    def _shrink(self) -> None:
        """Take out of the best execution what the finding does not need, one thing at a time, until nothing goes."""
        last = self.results.counts.executions + SHRINK
        again = True
        while again and self.best is not None:
            again = False
            for candidate in _smaller(_segments(self.best.choices)):
                if self.results.counts.executions >= last:
                    return
                shown = self._try(segments=candidate)
                if shown is not None and shown < self.best:
                    self.best = shown
                    again = True
                    break

    # -- where the window opens ----------------------------------------------------------------------------------------
    def _open_early(self) -> None:
        """Move each preemption to as early a moment as shows the finding at the same price.

        The search preempts at the last moment that does. What a reader wants to see is after what it becomes possible.
        """
        at = 0
        while self.best is not None and at < len(self.best.lengths):
            candidate = _earlier(_segments(self.best.choices), at)
            shown = self._try(segments=candidate) if candidate else None
            if shown is not None and shown < self.best:
                self.best = shown
            else:
                at += 1


def _earlier(segments: list[_Segment], at: int) -> list[_Segment] | None:
    """The last event of a segment given to the next one of the same task."""
    task, length, values = segments[at]
    back = next((n for n in range(at + 1, len(segments)) if segments[n].task == task), None)
    if back is None or length is None or length < 2:
        return None
    out = list(segments)
    out[at] = _Segment(task, length - 1, {n: v for n, v in values.items() if n < length - 1})
    later = {n + 1: v for n, v in segments[back].values.items()}
    if length - 1 in values:
        later[0] = values[length - 1]
    out[back] = _Segment(task, (segments[back].length or 0) + 1, later)
    return out


def _segments(choices: list[tuple[str, int]]) -> list[_Segment]:
    runs = [list(run) for _, run in groupby(choices, key=lambda c: c[0])]
    return [_Segment(run[0][0], len(run), {n: v for n, (_, v) in enumerate(run) if v}) for run in runs]


def _smaller(segments: list[_Segment]) -> list[list[_Segment]]:
    """Without a segment; with one that runs on; with a choice made the ordinary way."""
    out = []
    for n, (name, length, values) in enumerate(segments):
        out.append(segments[:n] + segments[n + 1 :])
        out.append([*segments[:n], _Segment(name, None, values), *segments[n + 1 :]])
        for at in values:
            fewer = {k: v for k, v in values.items() if k != at}
            out.append([*segments[:n], _Segment(name, length, fewer), *segments[n + 1 :]])
    return out


def minimise(
    build: Callable[[], Setup],
    finding: Finding,
    start_choices: Sequence[tuple[str, int]],
    budget: int = BUDGET,
) -> Minimal:
    """The execution with the fewest preemptions that shows ``finding`` (its kind and name).

    ``start_choices`` is an execution that does. Among equals: fewest context switches, then fewest choices that are not
    the ordinary ones, then fewest events, then the earliest tasks first, then the earliest switch; as far as a few
    hundred executions can tell. When the plain first schedule shows it, it is that.

    ``proved`` is False when ``budget`` executions did not settle it, or some of them did not end; the execution is then
    *locally minimal*: nothing can be taken out of it. The result depends on the arguments only, never on time.

    An inversion may be a matter of several executions; then the result is the execution that ``start_choices`` begins.

    ValueError: the given execution is none of this program's, or does not show the finding.
    """
    return Minimiser(build, finding, budget).minimise(start_choices)
