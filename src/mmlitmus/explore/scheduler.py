"""Tasks as greenlets, and the loop that runs one execution.

A primitive calls ``point(op)``; the scheduler runs inside that call, in the greenlet of the task that just stopped, and
switches only when another task goes on. Explorers derive from ``Scheduler`` and supply ``_pick``: which task's pending
event happens next at a state not seen before. Everything before event ``k`` is replayed from ``choice``.

This module, ``dpor`` and ``ops`` may run compiled (see ``compiled``). What is pickled, looked into or derived from
exceptions stays an ordinary class there (``native_class=False``).
"""

from __future__ import annotations

import gc
import signal
import threading
import traceback
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet
from mypy_extensions import mypyc_attr

from . import runtime as rt
from .contexts import leaves
from .findings import Abandon, Finding, Oops, where_raised
from .limits import Limits
from .lockdep import Lockdep
from .ops import BLOCKS, DONE, DOWN_WRITE_ACQUIRE, NAME, TASK_START
from .runtime import Op

if TYPE_CHECKING:
    from .livelock import Livelock

#: an execution that has not ended after this many events is cut, and the verdict says so
MAX_EVENTS = 5_000
#: CPU seconds without a single event before a task is declared stuck outside the model
STUCK_SECONDS: float = 4
#: the collector's thresholds while searching
RARELY = (1_000_000, 50, 100)
#: the one task of a machine that could not be made
NOT_MADE = "the machine"

#: what calling a function gives, where that does not run its body
DEFERRED: dict[type, str] = {
    GeneratorType: "a generator (there is a yield in it)",
    CoroutineType: "async",
    AsyncGeneratorType: "an async generator",
}

#: what the code called whose event of waiting has a name of its own
ASKED_BY = {DOWN_WRITE_ACQUIRE: "down_write"}


@mypyc_attr(native_class=False)
@dataclass
class Setup:
    """One freshly built machine: what runs on it and what is asked of it.

    ``tasks`` maps a task's name to its code. ``checks`` are called when every task has ended (or none can go on) and
    yield findings. ``outcome`` gives the observable result of the execution, for comparing explorers.
    ``daemons`` may be left waiting at the end without that being a deadlock. ``spawn_slots`` bounds the tasks that may
    be created on the way (deferred frees).
    """

    tasks: dict[str, Callable[[], Any]]
    checks: Sequence[Callable[[], Iterable[Finding]]] = ()
    outcome: Callable[[], Hashable] | None = None
    daemons: frozenset[str] = frozenset()
    spawn_slots: int = 0
    watch: Callable[[], dict[str, str]] | None = None  # what `show` prints when it changes
    modules: tuple[str, ...] = ()  # whose functions the stateful engine gives a scope (see ``history``)
    context: Any = None


@mypyc_attr(native_class=False)
class Task:
    """A schedulable thread of control: its name, what it holds, and what the kernel hangs on it.

    ``rcu``: how deep it is in RCU read sections; ``irqs_off``: how often it has turned interrupts off; ``waiting``: the
    waitqueue that it has prepared to wait on, or "".
    """

    __slots__ = ("counters", "data", "dead", "held", "index", "irqs_off", "name", "rcu", "started", "waiting")

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name
        self.held: list[tuple[Any, str, str]] = []
        self.dead = False
        self.started = False
        self.rcu = 0
        self.irqs_off = 0
        self.waiting = ""
        self.data: Any = None
        self.counters: dict[str, int] = {}

    def count(self, what: str) -> int:
        """The next number for a thing that this task creates, so that names do not depend on the interleaving."""
        n = self.counters[what] = self.counters.get(what, 0) + 1
        return n


@mypyc_attr(native_class=False)
@dataclass
class Found:
    """A finding with the first execution that showed it and the number of complete executions that do."""

    finding: Finding
    choices: list[tuple[str, int]]
    executions: int = 0


@mypyc_attr(native_class=False)
class SetupError(Exception):
    """The set-up does not fit what its tasks do. It ends the search: it is no finding about the model."""


@mypyc_attr(native_class=False)
class Stuck(BaseException):
    """Raised into a task that computes for ever without reaching a scheduling point; its text is where it was."""


@mypyc_attr(native_class=False)
@dataclass
class Counts:
    """What a search did, in executions and events."""

    executions: int = 0
    complete: int = 0
    blocked: int = 0
    deadlocks: int = 0
    truncated: int = 0
    events: int = 0
    replayed: int = 0


@mypyc_attr(native_class=False)
@dataclass
class Results:
    """What a search found."""

    counts: Counts = field(default_factory=Counts)
    found: dict[Finding, Found] = field(default_factory=dict)
    outcomes: set[Hashable] = field(default_factory=set)
    deadlocks: set[Hashable] = field(default_factory=set)
    traces: set[Hashable] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    exhausted: bool = False
    stopped: str = ""
    states: int = 0  # of the stateful engine, as are these
    livelocks: list[Livelock] = field(default_factory=list)
    handed_over: str = ""  # why another engine gave way to it


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler:
    """Runs executions of a program one after the other; a subclass decides their order."""

    def __init__(self, build: Callable[[], Setup], *, max_executions: int | None = None) -> None:
        self.build = build
        self.max_executions = max_executions
        self.max_events = MAX_EVENTS
        self.limits: Limits | None = None  # of time and memory; looked at between executions
        self.results = Results()
        self.lockdep = Lockdep()
        self.main = getcurrent()
        self.pool: list[greenlet] = []
        self.choice: list[int] = []  # task of each event of the current execution
        self.value: list[int] = []  # the value taken, for choice events
        self.k = 0  # events before this one are replayed
        self.i = 0  # events so far
        self.cur = -1
        self.tasks: list[Task] = []
        self.pending: list[Op] = []
        self.prims: list[Any] = []  # object id -> primitive with .state, or None for data
        self.owners: list[tuple[int, Any]] = []
        self.updated: set[int] = set()  # ids whose read-like events change them, in ways that commute with each other
        self.fns: list[Callable[[], Any]] = []
        self.nlive = 0  # tasks that exist
        self.n = 0  # ... and slots for those that will
        self.findings: dict[Finding, Finding] = {}
        self.reached: set[str] = set()
        self.status = ""  # how the execution ended: complete, deadlock, blocked (by the sleep set), truncated
        self.last_exception: Exception | None = None
        self.crash: Exception | None = None  # what the explorer itself raised
        self.aborting = self.launching = False

    # -- what model code asks of the engine ----------------------------------------------------------------------
    def allocate(self, n: int, owner: Any, *, primitive: bool = False) -> int:
        """Hand out ``n`` consecutive object ids to ``owner``; returns the first."""
        base = len(self.prims)
        self.prims += [owner if primitive else None] * n
        self.owners.append((base, owner))
        if primitive:
            self.updated.update(range(base, base + n))
        return base

    def object_name(self, oid: int) -> str:
        """The printable name of a shared object."""
        if oid < 0:
            return ""
        base, owner = self.owners[bisect_right(self.owners, oid, key=lambda x: x[0]) - 1]
        name: str = owner.object_name(oid - base)
        return name

    def found(self, finding: Finding) -> None:
        """Record a finding of the running execution, once."""
        self.findings.setdefault(finding, finding)

    def spawn(self, name: str, fn: Callable[[], Any], oid: int) -> int:
        """Create a task in the next free slot; it starts when its start event is scheduled. Returns its index."""
        t = self.nlive
        if t >= self.n:
            raise SetupError(f"no task slot left for {name}: raise spawn_slots in the set-up")
        self.nlive = t + 1
        self.tasks[t].name = name
        self.fns[t] = fn
        self.pending[t] = (TASK_START, oid, ())
        return t

    def accessed(self, obj: Any, field: str, written: bool) -> None:
        """The running task accesses a field without events (Guarded). It still conflicts with freeing the object."""
        self.also_reads(obj.id)

    def also_reads(self, oid: int) -> None:
        """The event under way reads ``oid`` too, which shows only now that its task runs on after it."""

    def identified(self, module: str) -> None:
        """Code of ``module`` asks which task it runs in (told to E2 only)."""

    def loop_point(self, code: CodeType, module: str, line: int, live: tuple[Any, ...]) -> None:
        """The running task is at the head of a loop (``runtime.loop_point``)."""

    @property
    def fresh(self) -> bool:
        """Is the event about to happen a new one (not part of a replayed prefix)?"""
        return self.i >= self.k

    # -- scheduling point ----------------------------------------------------------------------------------------
    def point(self, op: Op) -> None:
        """Announce ``op``; return when the task is scheduled to perform it."""
        me = self.cur
        self.pending[me] = op
        i = self.i
        if i < self.k:
            self.i = i + 1
            p = self.choice[i]
        else:
            p = self._pick()
        if p != me:
            self.cur = p
            if p < 0:
                self.main.switch()
            else:
                self.pool[p].switch()
            if self.aborting:
                raise Abandon

    def _launch_point(self, op: Op) -> None:
        """The first scheduling point of a task: remember the op and go back to the launcher."""
        self.pending[self.cur] = op
        self.main.switch()
        if self.aborting:
            raise Abandon

    def _abandoned(self, op: Op) -> None:
        raise Abandon

    def _pick(self) -> int:
        raise NotImplementedError

    def _worker(self, t: int) -> None:
        while True:
            try:
                self.tasks[t].started = True
                result = self.fns[t]()
                if result is not None:
                    ran(result)
                leaves(self.tasks[t])
            except Abandon:
                self.main.switch()
                continue
            except Oops:
                self.tasks[t].dead = True
            except Stuck as stuck:  # a name of its own: compiled, a variable has one type
                self.tasks[t].dead = True
                message = f"{self.tasks[t].name} computes without a scheduling point at {stuck}"
                self.found(Finding("never-ends", "never-ends", message))
            except Exception as e:
                # compiled, isinstance would not know a class that is derived from it elsewhere
                if SetupError in type(e).__mro__ or raised_by_engine(e):
                    self.crash = e
                    self.main.switch()
                    continue
                self.tasks[t].dead = True
                self.found(Finding("raised", f"raised {type(e).__name__}", where_raised(e)))
                self.last_exception = e
            self.pending[t] = DONE
            if self.launching:
                self.main.switch()
                continue
            i = self.i
            if i < self.k:
                self.i = i + 1
                p = self.choice[i]
            else:
                p = self._pick()
            self.cur = p
            if p < 0:
                self.main.switch()
            else:
                self.pool[p].switch()

    # -- one execution -------------------------------------------------------------------------------------------
    def execute(self) -> None:
        """Build the machine, replay the prefix, let ``_pick`` go on from there, and judge how it ended."""
        rt.engine = self
        rt.point = rt.quiet
        self._forget()
        try:
            setup = self.build()
        except Oops:  # what it is has been reported; nothing runs on a machine that was not made
            setup = Setup(tasks={NOT_MADE: _nothing})
        self.setup = setup
        self.nlive = len(setup.tasks)
        self.n = n = self.nlive + setup.spawn_slots
        self.fns = [*setup.tasks.values(), *[_never] * setup.spawn_slots]
        names = [*setup.tasks, *(f"slot{t}" for t in range(self.nlive, n))]
        self.tasks = [*map(Task, range(n), names), *self.tasks]  # the last one is the set-up's
        self.pending = [DONE] * n
        while len(self.pool) < n:
            self.pool.append(greenlet(partial(self._worker, len(self.pool))))
        self._before_tasks()
        rt.point = self._launch_point
        self.launching = True
        self.i = 0
        k, self.k = self.k, 1  # nothing that happens while launching is fresh
        for t in range(self.nlive):
            self.cur = t
            self.pool[t].switch()
        self.launching = False
        self.cur = -1
        self.k = k
        rt.point = self.point
        if k:
            self.i = 1
            p = self.choice[0]
        else:
            p = self._pick()
        self.cur = p
        if p >= 0:
            self.pool[p].switch()
        if self.crash is not None:
            raise self.crash
        self._ended(setup)

    def _forget(self) -> None:
        """Nothing is left of the execution before this one."""
        self.findings = {}
        self.reached = set()
        self.last_exception = self.crash = None
        self.aborting = self.launching = False
        self.status = ""
        self.prims.clear()
        self.owners.clear()
        self.updated.clear()
        self.cur = -1
        self.tasks = [Task(-1, "setup")]

    def _before_tasks(self) -> None:
        """A hook between building the machine and launching its tasks."""

    def _ended(self, setup: Setup) -> None:
        rt.point = rt.quiet
        self.cur = -1
        counts = self.results.counts
        counts.executions += 1
        counts.replayed += self.k
        counts.events += len(self.choice) - self.k
        blocked = [t for t in range(self.n) if self.pending[t] is not DONE] if self.status != "complete" else []
        judged = self.status in ("complete", "deadlock")
        if judged:
            counts.complete += 1
            if blocked:
                self._deadlock(blocked)
            for check in setup.checks:
                for f in check():
                    self.found(f)
            if setup.outcome is not None:
                self.results.outcomes.add(setup.outcome())
        elif self.status == "blocked":
            counts.blocked += 1
        else:
            counts.truncated += 1
        if self.findings or self.reached:
            self._collect(judged)
        if blocked:
            self.aborting = True
            rt.point = self._abandoned
            for t in blocked:
                if self.tasks[t].started:
                    self.cur = t
                    self.pool[t].switch()
            self.aborting = False
            rt.point = rt.quiet
            self.cur = -1

    def _collect(self, judged: bool) -> None:
        """Fold this execution's findings into the results."""
        found = self.results.found
        for f in self.findings:
            if f not in found:
                found[f] = Found(self.findings[f], self.choices())
            if judged:
                found[f].executions += 1
        self.results.reached |= self.reached

    def choices(self) -> list[tuple[str, int]]:
        """The execution so far as (task, choice value) pairs."""
        return [(self.tasks[p].name, v) for p, v in zip(self.choice, self.value, strict=True)]

    # -- how it ended --------------------------------------------------------------------------------------------
    def enabled(self) -> int:
        """Bit mask of the tasks whose pending event can happen now."""
        enabled = 0
        for t, op in enumerate(self.pending):
            kind: int = op[0]
            if kind >= 0:
                if BLOCKS[kind]:
                    o: int = op[1]
                    prim = self.prims[o]
                    if not prim.enabled(prim.state, op, t):
                        continue
                enabled |= 1 << t
        return enabled

    def _ending(self) -> str:
        """The status of an execution in which no task can go on."""
        for op in self.pending:
            if op is not DONE:
                return "deadlock"
        return "complete"

    def _deadlock(self, blocked: list[int]) -> None:
        """Report a deadlock, unless everybody waits for a task that is gone or for work that need not come."""
        waits = {t: self.prims[self.pending[t][1]].waits_for(self.pending[t], t) for t in blocked}
        excused = {t for t in range(self.n) if self.tasks[t].dead}
        anyone_dead = bool(excused)
        excused |= {t for t in blocked if self.tasks[t].name in self.setup.daemons}
        changed = True
        while changed:
            changed = False
            for t in blocked:
                if t not in excused and (any(w in excused for w in waits[t]) or (not waits[t] and anyone_dead)):
                    excused.add(t)
                    changed = True
        left = [t for t in blocked if t not in excused]
        if not left:
            return
        self.results.counts.deadlocks += 1
        self.results.deadlocks.add(tuple(self.tasks[t].name for t in left))
        lines = []
        names = []
        for t in left:
            op = self.pending[t]
            what = self.object_name(op[1])
            held = ", ".join(f"{p.name} ({m})" for p, m, _ in self.tasks[t].held) or "nothing"
            by = ", ".join(self.tasks[w].name for w in waits[t] if w >= 0)
            lines.append(
                f"{self.tasks[t].name} waits in {ASKED_BY.get(op[0], NAME[op[0]])}({self.prims[op[1]].name})"
                f"{' held by ' + by if by else ''}, holding {held}"
            )
            names.append(lock_class(self.prims[op[1]], what))
        slug = "deadlock " + " / ".join(sorted(dict.fromkeys(names)))
        self.found(Finding("deadlock", slug, "; ".join(lines)))

    # -- the whole search ----------------------------------------------------------------------------------------
    def run(self) -> Results:
        """Explore until exhausted or a limit is met."""
        try:
            with collecting_rarely(), Watchdog(self):
                self._run()
        finally:
            self._dismiss()
        for f in self.lockdep.findings:
            if f not in self.results.found:
                self.results.found[f] = Found(f, self.lockdep.schedules[f])
        return self.results

    def _run(self) -> None:
        raise NotImplementedError

    def _dismiss(self) -> None:
        """End the tasks' stacks: a parked one keeps all that it knows, this engine too, and no collector sees it."""
        rt.point = self._abandoned
        for stack in self.pool:
            stack.throw()
        self.pool.clear()
        rt.point = rt.quiet


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Hardly anything that a search leaves behind is garbage that only the collector can find.

    Around many searches it also spares each of them a collection when it ends.
    """
    before = gc.get_threshold()
    if before[0] >= RARELY[0]:
        yield
        return
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def canonical(engine: Scheduler, clocks: Sequence[Sequence[int]]) -> Hashable:
    """The Mazurkiewicz trace of the execution: per event its task and value, and how much of every task precedes it.

    Tasks are named, not numbered: which slot a spawned task gets depends on the interleaving.
    """
    names = [task.name for task in engine.tasks]
    return frozenset(
        (names[p], v, frozenset((names[t], n) for t, n in enumerate(clock) if n))
        for p, v, clock in zip(engine.choice, engine.value, clocks, strict=True)
    )


def _nothing() -> None:
    """The only task of a machine that was not made."""


def ran(result: Any) -> None:
    """A task's function has returned: SetupError if what it returned is what had to be run.

    The body of a generator function does not run when it is called, nor does that of an ``async`` one. The error is
    raised at its beginning, so that whoever shows it can name the place.
    """
    what = DEFERRED.get(type(result))
    if what is None:
        return
    wrong = SetupError(f"{result.__qualname__} is {what}: as a task it would run nothing; write a plain function")
    if isinstance(result, AsyncGeneratorType):
        result.athrow(wrong).send(None)
    else:
        result.throw(wrong)


def _never() -> None:
    raise RuntimeError("an empty task slot was started")


def lock_class(prim: Any, what: str) -> str:
    """The class name of what a task waits for, for a finding's name."""
    return getattr(prim, "lock_class", None) or what.split("#")[0]


def raised_by_engine(e: BaseException) -> bool:
    """Did the exception come out of the explorer's own code, which runs inside the task's scheduling points?"""
    return any(f.f_code.co_name == "_pick" for f, _ in traceback.walk_tb(e.__traceback__))


class Watchdog:
    """Breaks a task that spins without ever reaching a scheduling point (a driver under test may)."""

    def __init__(self, engine: Scheduler) -> None:
        self.engine = engine
        self.seen = (-1, -1)
        self.ticks = 0
        self.armed = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Watchdog:
        if self.armed:
            self.old = signal.signal(signal.SIGVTALRM, self._tick)
            signal.setitimer(signal.ITIMER_VIRTUAL, 1, 1)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.armed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, self.old)

    def _tick(self, signum: int, frame: Any) -> None:
        now = (self.engine.results.counts.executions, self.engine.i)
        self.ticks = self.ticks + 1 if now == self.seen else 0
        self.seen = now
        if self.ticks >= STUCK_SECONDS and self.engine.cur >= 0:
            self.ticks = 0
            raise Stuck(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
