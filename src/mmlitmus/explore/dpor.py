"""E1: stateless source-set DPOR with sleep sets and vector clocks.

After P. Abdulla, S. Aronis, B. Jonsson, K. Sagonas, "Source Sets: A Foundation for Optimal Dynamic Partial Order
Reduction", J. ACM 64(4), 2017 (source-DPOR), with three things of our own:

* an event may touch several objects (``ops.footprint``);
* what an event touches may show only after it has happened (``also_reads``), so a task sleeps with the footprint that
  its event turned out to have;
* blocking events: the race of a blocking event with an earlier one on its object is reversible iff the event was
  enabled in the object's state just before that one. Each synchronisation object therefore keeps the state it had
  before each of its events. This asks three things of a primitive, and `explore/primitives` keeps to them: a blocking
  event waits on its own object only; whether it is enabled depends on that object's state only; and no read-like event
  can disable a blocking event that is not read-like itself.

What a *blocked* task waits for is race-checked too, at the end of every execution however it ended: at a deadlock, in
executions that the sleep set cuts, and at a truncation. Without it traces are lost.

It is not optimal: a few executions are cut by the sleep set (``Counts.blocked``). No two complete ones are equivalent,
unless one value of a choice leads straight to an access without event and another does not: a choice sleeps with all of
its values, and wakes with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol

from mypy_extensions import mypyc_attr

from .findings import Finding
from .ops import BLOCKS, CHOOSE, DONE, PLAIN, WRITES, add_read, conflict, writes
from .races import DataRaces
from .runtime import Op
from .scheduler import Results, Scheduler, Setup, canonical

Sleepers = Sequence[tuple[int, Op]]

#: in the place of the preferred task: try all of them
EVERYBODY = -1


class Event:
    """One event of the current execution, and the state before it: who could go on, who sleeps, what is to be tried."""

    __slots__ = (
        "asleep", "at", "backtrack", "clock", "enabled", "extra", "index", "op", "previous", "races", "rival", "sleep",
        "task", "undo",
    )  # fmt: skip

    task: int
    op: Op
    index: int  # its number within its task
    clock: list[int]  # how many events of each task happen before it, itself included
    previous: list[int]  # the clock of the event before it in its task
    races: list[Event]  # the latest of those that it comes after only because they conflict
    rival: Event | None  # of a blocking event: see Dpor._rival
    undo: list[tuple[Object, Event | None, list[Event] | None]]
    backtrack: int  # the tasks to be tried here

    def __init__(self, at: int, enabled: int) -> None:
        self.at = at  # its place in the execution
        self.enabled = enabled  # the tasks that could go on, as bits (so are backtrack and sleep)
        self.asleep: Sleepers = ()  # (bit of the task, its event): tried before, and no conflict with it since
        self.sleep = 0
        self.extra: tuple[int, ...] = ()  # of a choice: what the values tried so far touched


class Object:
    """What the explorer remembers of one shared object along the current execution."""

    __slots__ = ("history", "reads", "write")

    def __init__(self) -> None:
        self.write: Event | None = None  # the last event that wrote it
        self.reads: list[Event] = []  # the read-like events since
        self.history: list[tuple[Event, object]] = []  # (event, state before it), synchronisation objects only


def join(a: list[int], b: list[int]) -> list[int]:
    """The clock of what comes after both."""
    return [x if x > y else y for x, y in zip(a, b)]  # noqa: B905


@mypyc_attr(allow_interpreted_subclasses=True)
class Dpor(Scheduler):
    """Explores every Mazurkiewicz trace of the program once, plus a few cut executions."""

    def __init__(
        self,
        build: Callable[[], Setup],
        *,
        max_executions: int | None = None,
        keep_traces: bool = False,
        stop_at_first: bool = False,
    ) -> None:
        super().__init__(build, max_executions=max_executions)
        self.keep_traces = keep_traces
        self.stop_at_first = stop_at_first
        self.events: list[Event] = []
        self.objects: list[Object] = []  # by id
        self.now: list[list[int]] = []  # the clock of each task's last event
        self.forced = -1  # the task with which this execution leaves the one before
        self.forced_value = 0
        self.base = 0  # events before this one belong to another search: see explore/split.py
        self.asked: list[dict[tuple[int, int], None]] = []  # what is to be tried at them: (tasks, the preferred one)
        self.plain = False  # has there ever been an unmarked access?
        self.races: DataRaces | None = None

    @property
    def ops(self) -> list[Op]:
        """The execution's ops."""
        return [e.op for e in self.events]

    # -- the search ----------------------------------------------------------------------------------------------
    def _run(self) -> None:
        counts = self.results.counts
        while True:
            start = self.k
            self.execute()
            self._races(start)
            if self.stop_at_first and self.results.found:
                self.results.stopped = "first finding"
                return
            if not self._backtrack():
                break
            if self.max_executions is not None and counts.executions >= self.max_executions:
                self.results.stopped = f"{self.max_executions} executions"
                return
            if self.limits is not None and (why := self.limits.exceeded()):
                self.results.stopped = why
                return
        if counts.truncated:
            self.results.stopped = f"{self.max_events} events in one execution"
        else:
            self.results.exhausted = True

    def _before_tasks(self) -> None:
        if not self.now:
            self.now = [[0] * self.n for _ in range(self.n)]

    def _pick(self) -> int:
        i = self.i
        events = self.events
        if i < len(events):  # the event at which this execution leaves the previous one
            return self._record(events[i], self.forced, self.forced_value)
        enabled = self.enabled()
        if not enabled:
            self.status = self._ending()
            return -1
        if i >= self.max_events:
            self.status = "truncated"
            return -1
        e = Event(i, enabled)
        if i and events[-1].sleep:
            e.asleep = self._still_asleep(events[-1])
            for bit, _ in e.asleep:
                e.sleep |= bit
        candidates = enabled & ~e.sleep
        if not candidates:
            self.status = "blocked"
            return -1
        me = self.cur  # prefer the running task: no switch, and counterexamples with few preemptions
        p = me if me >= 0 and candidates >> me & 1 else (candidates & -candidates).bit_length() - 1
        e.backtrack = 1 << p
        events.append(e)
        return self._record(e, p, 0)

    def _still_asleep(self, e: Event) -> Sleepers:
        """Who sleeps after ``e`` of those who slept before it."""
        return [(bit, op) for bit, op in e.asleep if not conflict(op, e.op)]

    def _record(self, e: Event, p: int, value: int) -> int:
        """``e`` is the pending event of ``p``: note its clock, and its place in the history of what it touches."""
        op = self.pending[p]
        kind: int = op[0]
        own: int = op[1]
        touched: tuple[int, ...] = op[2]
        objects, prims = self.objects, self.prims
        if len(objects) < len(prims):
            self._meet()
        if own >= 0:
            first = own << 1 | WRITES[kind]
            touched = (first, *touched) if touched else (first,)
        previous = self.now[p]
        clock = previous[:]
        clock[p] = index = previous[p] + 1
        races: list[Event] = []
        undo: list[tuple[Object, Event | None, list[Event] | None]] = []
        if PLAIN[kind]:
            self.plain = True
        blocks = BLOCKS[kind]
        e.rival = self._rival(op, p, previous) if blocks else None
        for x in touched:
            o = x >> 1
            obj = objects[o]
            write = obj.write
            reads = obj.reads
            if x & 1:
                if reads:
                    for r in reversed(reads):  # the latest first: those that it already comes after then drop out
                        if r.index > clock[r.task]:
                            clock = join(clock, r.clock)
                            races.append(r)
                undo.append((obj, write, reads))
                obj.write = e
                obj.reads = []
            else:
                undo.append((obj, write, None))
                reads.append(e)
            if write is not None and write.index > clock[write.task]:
                clock = join(clock, write.clock)
                races.append(write)
            prim = prims[o]
            if prim is not None:
                obj.history.append((e, prim.state))
            if blocks:  # on the object that it waits for, it has a rival and no races
                races.clear()
                blocks = False
        e.task = p
        e.op = op
        e.index = index
        e.clock = self.now[p] = clock
        e.previous = previous
        e.races = races
        e.undo = undo
        self.choice.append(p)
        self.value.append(value)
        self.i = e.at + 1
        return p

    def _meet(self) -> None:
        """Have something to remember of every shared object that there is now."""
        self.objects += [Object() for _ in range(len(self.prims) - len(self.objects))]

    def _rival(self, op: Op, q: int, previous: list[int]) -> Event | None:
        """The last event before which the blocking ``op`` of ``q`` could have happened, if any need not precede it."""
        o: int = op[1]
        prim = self.prims[o]
        for a, state in reversed(self.objects[o].history):
            if writes(a.op, o):  # else both are read-like and commute, or it cannot disable one that is not
                if a.index <= previous[a.task]:
                    return None
                if prim.enabled(state, op, q):
                    return a
        return None

    def also_reads(self, oid: int) -> None:
        if self.i <= self.k:
            return  # in the books from an earlier execution
        e = self.events[self.i - 1]
        op = add_read(e.op, oid)
        if op is e.op:
            return
        e.op = op
        self._meet()
        obj = self.objects[oid]
        write = obj.write
        if write is not None and write.index > e.clock[write.task]:
            e.clock = self.now[e.task] = join(e.clock, write.clock)
            e.races.append(write)
        e.undo.append((obj, write, None))
        obj.reads.append(e)

    def _backtrack(self) -> bool:
        """Go back to the deepest state with something left to try; False when there is none."""
        events, choice, values, now = self.events, self.choice, self.value, self.now
        base = self.base
        while len(events) > base:
            e = events[-1]
            p, op = choice.pop(), e.op
            value = values.pop()
            now[p] = e.previous
            for obj, write, reads in reversed(e.undo):
                if reads is None:
                    obj.reads.pop()
                else:
                    obj.write = write
                    obj.reads = reads
                if obj.history and obj.history[-1][0] is e:
                    obj.history.pop()
            if e.backtrack != 1 << p or op[0] == CHOOSE:
                follows = leave(e, p, value, op)
                if follows is not None:
                    self.forced, self.forced_value = follows
                    break
            events.pop()
        else:
            return False
        self.k = len(choice)
        return True

    # -- races ---------------------------------------------------------------------------------------------------
    def _races(self, start: int) -> None:
        """Find every reversible race of the new events, and of what tasks that did not go on were about to do."""
        events = self.events
        for e in events[start:]:
            if e.races:
                self._immediate_races(e.races, e.at, e.task, e.op, e.previous)
            if e.rival is not None:
                self._reverse(e.rival, e.at, e.task, e.op, e.previous)
        if self.status != "complete":
            cut = self.status == "truncated"
            left = [q for q, op in enumerate(self.pending_at_end) if op is not DONE]
            self._pending_races([q for q in left if cut or not self.enabled_at_end >> q & 1])
            if cut:  # whoever could go on gets a turn, or a task that spins would keep the others out for ever
                last = events[-1]
                if last.at < self.base:
                    self.asked[last.at].setdefault((self.enabled_at_end & last.enabled, EVERYBODY))
                else:
                    last.backtrack |= self.enabled_at_end & last.enabled
        if self.keep_traces and self.status in ("complete", "deadlock"):
            self.results.traces.add(self.trace())

    def _pending_races(self, tasks: list[int]) -> None:
        """The races of what these tasks were about to do when the execution ended."""
        n = len(self.events)
        self._meet()
        for q in tasks:
            op = self.pending_at_end[q]
            previous = self.now[q]
            rival = self._rival(op, q, previous) if BLOCKS[op[0]] else None
            if rival is not None:
                self._reverse(rival, n, q, op, previous)
            if self.enabled_at_end >> q & 1:  # else it has no further races here: it cannot happen before it is let in
                races: list[Event] = []
                for x in op[2] if op[1] < 0 or BLOCKS[op[0]] else (op[1] << 1 | WRITES[op[0]], *op[2]):
                    obj = self.objects[x >> 1]
                    races += [obj.write] if obj.write is not None else []
                    races += obj.reads if x & 1 else []
                self._immediate_races([a for a in races if a.index > previous[a.task]], n, q, op, previous)

    def _ended(self, setup: Setup) -> None:
        if self.status != "complete":  # aborting the tasks will overwrite both
            self.pending_at_end = self.pending[:]
            self.enabled_at_end = self.enabled()
        if self.plain:
            for f in self._data_races():
                self.found(f)
        super()._ended(setup)

    def _data_races(self) -> Iterable[Finding]:
        if self.races is None:
            self.races = DataRaces(self)
            return self.races.follow(0)
        return self.races.follow(self.k)

    def trace(self) -> Hashable:
        """The execution's Mazurkiewicz trace in canonical form."""
        return canonical(self, [e.clock for e in self.events])

    def _immediate_races(self, races: list[Event], j: int, q: int, op: Op, previous: list[int]) -> None:
        """Reverse the races of event ``j`` (``op`` of task ``q``; ``j`` may be one past the end: not happened)."""
        for a in races:
            if not a.enabled & ~(a.backtrack | a.sleep):
                continue  # everybody who could go on there is tried anyway
            for b in races:  # not immediate: something in between is ordered after it
                if b is not a and b.clock[a.task] >= a.index:
                    break
            else:
                self._reverse(a, j, q, op, previous)

    def _reverse(self, a: Event, j: int, q: int, op: Op, previous: list[int]) -> None:
        """Make sure that at the state before ``a`` something is tried that lets ``op`` of ``q`` come before it.

        Something: the first event of any task that is first in what does not come after ``a``, ``op`` last.
        """
        pa, ia = a.task, a.index
        known = a.backtrack | a.sleep
        initials = 0
        firsts: list[tuple[int, int]] = []
        seen = 0
        clock = previous  # of op, if it comes right after what does not come after a
        for e in self.events[a.at + 1 : j]:
            after = e.clock
            if after[pa] >= ia:
                continue
            p = e.task
            if not seen >> p & 1:
                seen |= 1 << p
                for t, first in firsts:
                    if after[t] >= first:
                        break
                else:
                    if known >> p & 1:
                        return
                    initials |= 1 << p
                firsts.append((p, e.index))
            if conflict(e.op, op):
                clock = join(clock, after)
        if not seen >> q & 1:
            for t, first in firsts:
                if clock[t] >= first:
                    break
            else:
                initials |= 1 << q
        if a.at < self.base:
            self.asked[a.at].setdefault((initials, q))
        else:
            try_one(a, initials, q)


class State(Protocol):
    """What is known at a state of who was tried there and who is to be."""

    enabled: int
    backtrack: int
    sleep: int
    asleep: Sleepers
    extra: tuple[int, ...]


def try_one(e: State, initials: int, q: int) -> None:
    """See to it that one of ``initials`` is tried at ``e``, best ``q``; or with ``EVERYBODY``, all of them."""
    if q == EVERYBODY:
        e.backtrack |= initials
        return
    if initials & (e.backtrack | e.sleep):
        return
    candidates = initials & e.enabled
    if not candidates:  # no program is known that comes here; to try everything is sound
        e.backtrack |= e.enabled
    elif candidates >> q & 1:
        e.backtrack |= 1 << q
    else:
        e.backtrack |= candidates & -candidates


def leave(e: State, p: int, value: int, op: Op) -> tuple[int, int] | None:
    """All is explored of ``e`` with event ``op`` of ``p``: the (task, value) to be tried next there, if any is left."""
    if op[0] == CHOOSE:
        # Every value of a choice is tried before the task goes to sleep here: the value is part of the event.
        e.extra = tuple(dict.fromkeys((*e.extra, *op[2])))
        op = (*op[:2], e.extra, *op[3:])
        if value + 1 < op[3]:
            return p, value + 1
    bit = 1 << p
    todo = e.backtrack & ~(e.sleep | bit)
    if not todo:
        return None
    e.sleep |= bit
    e.asleep = [*e.asleep, (bit, op)]
    return (todo & -todo).bit_length() - 1, 0


def explore(build: Callable[[], Setup], *, max_executions: int | None = None) -> Results:
    """Run E1 over a program and return what it found."""
    return Dpor(build, max_executions=max_executions).run()
