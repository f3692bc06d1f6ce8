"""E2: depth-first search over states, for long page loops and for loops that need not end.

A *state* is what decides how things go on:

* each task's local state: its scoped history (``history``), what it holds, its counters, and what it is about to do;
* the declared state of every object (``state``, the primitives, whatever else has ids), of each object by its name;
* what data races still to come depend on (``clocks``), as far as there are accesses that can race at all.

A state that was seen before is not gone on from. Greenlets cannot be copied, so a state is come back to by replaying
the events that led to it. What an event does from a state is an edge of the state graph, with the findings it shows.
Findings, outcomes and marks are then the same as E1's: a finding is *always* there when no way through the graph from
the first state to one where everything has ended avoids it.

An object's values are looked at again only when an event has named it, or a Guarded access has touched it; ``checked``
looks at everything each time and compares (tests do that).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from types import CodeType
from typing import Any

from . import ops
from .clocks import Clocks
from .findings import Finding
from .history import Histories, Item, Opaque, Scopes, observed
from .livelock import livelocks
from .looppoints import check_loop_points
from .movers import REDUCTIONS, SYMMETRY, Held, Movers
from .objects import Objects
from .ops import BLIND, CHOOSE, DONE, SILENT, SYNC
from .primitives.base import Primitive
from .races import ACCESSES, could_race
from .runtime import Op
from .scheduler import Found, Results, Setup, SetupError
from .state import GuardedList, Model
from .symmetry import NAMED, alike, places, renumbered, shows_tasks

#: after so many executions that did not end it is not worth while to go on: each of them has to be replayed
TRUNCATED = 8


class Frame:
    """A state of the current path: what is left to try, and all that has to be put back when it is come back to."""

    __slots__ = (
        "at", "branches", "clocks", "counters", "lists", "locals", "mover", "owners", "projection", "stacks", "state",
        "todo", "values",
    )  # fmt: skip

    def __init__(self, engine: Stateful, todo: list[tuple[int, int]]) -> None:
        self.at = engine.i  # how many events lead to it
        self.state = engine.state
        self.todo = todo
        self.branches = len(todo) > 1
        self.mover = engine.mover
        self.stacks = engine.stacks[:]
        self.locals = engine.locals[:]
        self.values = engine.values[:]
        self.lists = engine.list_values[:]
        self.owners = len(engine.keys)
        self.clocks = engine.clocks
        self.projection = engine.projection
        self.counters = engine.counters


class Stateful(Objects):
    """Visits every state once."""

    def __init__(
        self,
        build: Callable[[], Setup],
        *,
        max_executions: int | None = None,
        checked: bool = False,
        reduce: Iterable[str] = REDUCTIONS,
    ) -> None:
        super().__init__(build, max_executions=max_executions, checked=checked)
        self.movers = Movers(self, reduce)
        self.reducing = self.movers.releases or self.movers.guarded
        self.symmetric = SYMMETRY in reduce
        self.groups: list[list[int]] = []  # of tasks that are alike
        self.group_of: dict[int, str] = {}
        self.modules: dict[str, None] = {}  # whose functions get scopes
        self.scopes = ExitStack()
        self.scoped = -1  # of how many modules the functions have scopes now
        self.recording = False
        self.contested: set[Item] = set()  # what accesses that may race are about
        self.accessors: dict[Item, set[tuple[str, int]]] = {}
        self._start_over()

    def _start_over(self) -> None:
        self.forget()
        counts = self.results.counts
        self.results = Results()
        self.results.counts.executions = counts.executions
        self.results.counts.events, self.results.counts.replayed = counts.events, counts.replayed
        self.movers.start_over()
        self.choice.clear()
        self.value.clear()
        self.k = 0
        self.histories = Histories()
        self.states: dict[Item, int] = {}
        self.frames: list[Frame] = []
        self.on_path: set[int] = set()
        self.cyclic = False
        self.edges: list[list[tuple[int, int, int]]] = []  # by state: (task, value, the state after)
        self.shown: dict[tuple[int, int, int], list[Finding]] = {}  # by (state, task, value)
        self.terminals: dict[int, list[Finding]] = {}
        self.at_once: list[Finding] = []  # before the first event
        self.loops: dict[int, dict[int, str]] = {}  # by state: the loop that a task has just come round in
        self.tasks_at: list[tuple[tuple[str, ...], int]] = []  # by state: the tasks' names, and who has ended
        self.drifts: dict[tuple[int, int, int], list[tuple[str, int]]] = {}  # by edge: what has grown in a turn
        self.projection = -1  # of a state at a loop's head: all but its counters, and these
        self.counters: tuple[tuple[str, int], ...] = ()
        self.stacks: list[int] = []
        self.locals: list[int] = []
        self.clocks: Clocks | None = None
        self.state = -1
        self.edge: tuple[int, int, int] | None = None
        self.branched = True  # has the last move been one of several?
        self.mover = False  # ... and left others out?
        self.moved: set[int] = set()  # the tasks whose local state is to be looked at again
        self.event: tuple[Item, Held, Held, bool] | None = None  # the one under way, for Movers.read_behind
        self.behind: set[int] = set()
        self.fresh_findings: list[Finding] = []
        self.looped: str | None = None
        self.restart = False

    # -- the search ----------------------------------------------------------------------------------------------
    def _run(self) -> None:
        with observed(self), self.scopes:
            while not self._search():
                self._start_over()
        complete = not self.results.stopped
        if self.drifts and complete:
            names = dict.fromkeys(name for grown in self.drifts.values() for name, _ in grown)
            self.results.stopped = f"{', '.join(names)} grows for ever"
        self.results.exhausted = not self.results.stopped
        self.results.states = len(self.states)
        self._judge()
        if complete and self.cyclic:
            self._livelocks()

    def _search(self) -> bool:
        """One search; False if it has to be made again: an access turned out to be one that may race, a decision not
        to branch was wrong, or the search comes back to where it was and may not be reduced."""
        counts = self.results.counts
        while True:
            self.execute()
            if self.restart or self.movers.wrong:
                return False
            if self._must_not_be_reduced():
                self.reducing = self.symmetric = False
                return False
            if counts.truncated == TRUNCATED:
                break
            frames = self.frames
            while frames and not frames[-1].todo:
                self.on_path.discard(frames.pop().state)
            if not frames:
                break
            if self.max_executions is not None and counts.executions >= self.max_executions:
                self.results.stopped = f"{self.max_executions} executions"
                return True
            if self.limits is not None and (why := self.limits.exceeded()):
                self.results.stopped = why
                return True
            self.k = frames[-1].at
            del self.choice[self.k :]
            del self.value[self.k :]
        if counts.truncated:
            self.results.stopped = f"{self.max_events} events in one execution"
        return True

    def _must_not_be_reduced(self) -> bool:
        """Once a search comes back to where it was: a reduced move could be taken round and round, and others for ever
        left for later; and what a livelock is depends on every state and on whoever could go on there.
        """
        return self.cyclic and (self.reducing or bool(self.groups))

    def execute(self) -> None:
        """Build the machine, replay, and go on until a state that was seen before, or the end."""
        self.recording = False
        self.lists = []
        self.threads: dict[int, int] = {}
        self.newborn: list[int] = []
        super().execute()

    def _before_tasks(self) -> None:
        setup = self.setup
        self.view.context = setup.context
        self.groups = alike(setup) if self.symmetric else []
        self.group_of = {t: f"alike {members[0]}" for members in self.groups for t in members}
        self.set_up = len(self.owners)
        if not self.modules:
            own = [getattr(f, "__module__", None) or type(f).__module__ for f in setup.tasks.values()]
            self.modules = dict.fromkeys((*setup.modules, *own))
        if self.scoped != len(self.modules):
            self.scoped = len(self.modules)
            self.scopes.close()
            self.scopes.enter_context(Scopes(self.modules).installed(self))
        if not self.frames:
            root = self.histories.stack(self.histories.chain("root"), -1, None)
            self.stacks = [root] * self.n
            self.locals = [-1] * self.n
            self.recording = True

    def _pick(self) -> int:
        if not self.recording:  # the state that is come back to
            frame = self.frames[-1]
            self._restore(frame)
            return self._go(frame)
        self._look_round()
        alone = -1
        self.mover = False
        enabled = self.enabled()
        if self.reducing and enabled:
            alone = self._alone(enabled)
            kept = self.branched or self.looped is not None or self.i >= self.max_events
            if alone >= 0 and not kept and len(self._moves([alone])) == 1:
                return self._step(alone, 0)  # the state before it need not be kept
        new = self._arrive()
        if self.restart:
            self.status = "blocked"
            return -1
        if not new:
            self.cyclic = self.cyclic or self.state in self.on_path
            self.status = "blocked"
            return -1
        if not enabled:
            self.status = self._ending()
            return -1
        if self.i >= self.max_events:
            self.status = "truncated"
            return -1
        todo = self._moves([alone] if alone >= 0 else [t for t in range(self.n) if enabled >> t & 1])
        todo.sort(key=lambda move: (move[0] != self.cur, move), reverse=True)  # the running task goes first
        frame = Frame(self, todo)
        self.frames.append(frame)
        self.on_path.add(self.state)
        return self._go(frame)

    def _moves(self, tasks: list[int]) -> list[tuple[int, int]]:
        """What these tasks may do next: each once, and a choice with each of its values."""
        moves = []
        for t in tasks:
            op = self.pending[t]
            moves += [(t, v) for v in range(op[3] if op[0] == CHOOSE else 1)]
        return moves

    def _look_round(self) -> None:
        """Take note of what the last event has brought: tasks, objects, and what they are about to do."""
        self.adopt()
        for t in self.newborn:  # its history begins with what it was created with
            self.stacks[t] = self.histories.stack(self.histories.chain("root", self.form(self.fns[t])), -1, None)
            self.moved.add(t)
        self.newborn.clear()
        if self.edge is None:
            self.moved.update(range(self.n))
        if self.reducing:
            for t in sorted(self.moved):
                if self.pending[t] is not DONE:
                    self.movers.announced(t, self.pending[t])

    def _alone(self, enabled: int) -> int:
        """The task that may go on without anybody else being tried; the running one rather than another, or -1."""
        if not enabled & (enabled - 1):
            last = int(enabled).bit_length() - 1
            return last if len(self._moves([last])) == 1 else -1
        t: int
        for t in (self.cur, *range(self.n)):
            if t >= 0 and enabled >> t & 1 and self.movers.may_go(t, self.pending[t]):
                self.mover = True
                return t
        return -1

    def _restore(self, frame: Frame) -> None:
        self.stacks = frame.stacks[:]
        self.locals = frame.locals[:]
        self.values = frame.values[:]
        self.list_values = frame.lists[:]
        self.clocks = frame.clocks
        for key in self.keys[frame.owners :]:
            self.names[key[0]] -= 1  # type: ignore[index]
        del self.keys[frame.owners :], self.bases[frame.owners :]
        self.recording = True

    def _go(self, frame: Frame) -> int:
        """Let the next thing happen that is left to try at the state."""
        t, value = frame.todo.pop()
        self.edge = (frame.state, t, value)
        self.fresh_findings = []
        self.dirty = set()
        self.moved = set()
        self.looped = None
        self.branched = frame.branches
        self.mover = frame.mover
        return self._step(t, value)

    def _step(self, t: int, value: int) -> int:
        """Let the task go on."""
        op = self.pending[t]
        if op[0] in NAMED and t in self.group_of:
            self._told_apart()
        if self.reducing:
            movers = self.movers
            self.event = (movers.event(t, op), movers.held(t), movers.holding(t, op), self.mover)
            self.behind.clear()
        self.moved.add(t)
        self.choice.append(t)
        self.value.append(value)
        self.stacks[t] = self.histories.append(self.stacks[t], self._observation(op, value))
        self.i += 1
        if op[0] in ACCESSES:
            self._access(op, t)
        if self.clocks is not None and (SYNC[op[0]] or op[0] in ACCESSES):
            self.clocks, races = self.clocks.after(self, t, op)
            for f in races:
                self.found(f)
        return t

    def _observation(self, op: Op, value: int) -> Item:
        """What the event lets its task see, as far as it may use it; and note what the event names."""
        kind, own, extra = op[0], op[1], op[2]
        if kind == CHOOSE:
            return value
        seen: list[Item] = []
        if own >= 0:
            prim = self.prims[own]
            at = bisect_right(self.bases, own) - 1
            self.dirty.add(at)
            if kind in BLIND:
                pass
            elif prim is None:
                seen.append(self.value_at(at, own))
            elif kind == ops.TRYLOCK:
                seen.append(prim.state is None)
            elif kind == ops.DOWN_READ_TRYLOCK:
                seen.append(not prim.state[0])
            elif kind == ops.DOWN_WRITE_TRYLOCK:
                seen.append(prim.state == ((), ()))
            elif kind not in SILENT:
                seen.append(self._looked_at(prim))
        for x in extra:
            o = x >> 1
            at = bisect_right(self.bases, o) - 1
            self.dirty.add(at)
            if self.prims[o] is None:
                if kind != ops.FREE:
                    seen.append(self.value_at(at, o))
            elif kind not in SILENT:
                seen.append(self._looked_at(self.prims[o]))
        return tuple(seen)

    def _looked_at(self, prim: Primitive) -> Item:
        if self.groups and shows_tasks(prim):
            self._told_apart()
        return self.view.canonical(prim.state)

    def _access(self, op: Op, t: int) -> None:
        """Note who accesses what; an access that may race turns up only now and then, and is then always watched."""
        what = self.key_of_id(op[1])
        if what in self.contested:
            return
        accessors = self.accessors.setdefault(what, set())
        who = (self.called(t), op[0])
        if who not in accessors:
            accessors.add(who)
            several = self.several(who[0])
            if any((several or other != who[0]) and could_race(kind, op[0]) for other, kind in accessors):
                self.contested.add(what)
                self.restart = True

    def spawn(self, name: str, fn: Callable[[], Any], oid: int) -> int:
        """Create a task (Scheduler.spawn)."""
        t = super().spawn(name, fn, oid)
        self.threads[t] = oid
        if self.recording:
            self.newborn.append(t)
        return t

    def called(self, t: int) -> str:
        """What the task is called in the books: all that are alike by one name."""
        return self.group_of.get(t) or self.tasks[t].name

    def several(self, who: str) -> bool:
        """Are there several tasks that are called so?"""
        return who in self.group_of.values()

    def identified(self, module: str) -> None:
        if self.recording and self.cur in self.group_of and not module.startswith("mmlitmus.explore."):
            self._told_apart()

    def _told_apart(self) -> None:
        """Tasks that are alike may have been told apart: search again without symmetry."""
        self.symmetric = False
        self.restart = True

    # -- what tasks see, beside their events ---------------------------------------------------------------------
    def entered(self, me: int, code: CodeType) -> None:
        """The task enters a function."""
        if self.recording:
            self.stacks[me] = self.histories.enter(self.stacks[me], code)

    def left(self, me: int, args: tuple[Any, ...], result: Any, *, keep: bool = False) -> None:
        """The task leaves a function; ``keep``: with all that it has seen there."""
        if not self.recording:
            return
        stack = self.stacks[me]
        item: Item
        try:
            if keep:
                raise Opaque
            changed = [self.view.canonical(a) for a in args if not isinstance(a, (int, str, Model, Primitive))]
            item = (self.view.canonical(result), *changed)
        except Opaque:
            item = ("history", self.histories.nodes[stack][0])
        self.stacks[me] = self.histories.leave(stack, item)

    def saw(self, value: Any) -> None:
        """The running task has read a value without an event."""
        me = self.cur
        self.stacks[me] = self.histories.append(self.stacks[me], self.form(value))

    def saw_list(self, items: GuardedList) -> None:
        """The running task looks at, or changes, a guarded list."""
        self.saw(items.items)
        self.dirty.add(-1)

    def accessed(self, obj: Any, field: str, written: bool) -> None:
        if self.recording:
            if self.event is not None and obj.id not in self.behind:
                self.behind.add(obj.id)
                event, before, holding, mover = self.event
                self.movers.read_behind(event, obj.id, self.called(self.cur), before, holding, mover)
            self.dirty.add(bisect_right(self.bases, obj.id) - 1)
            if not written:
                self.saw(obj._values[obj.fields[field].at])

    def loop_point(self, code: CodeType, module: str, line: int, live: tuple[Any, ...]) -> None:
        if not self.recording:
            return
        me = self.cur
        check_loop_points(code)
        _, below, scope = self.histories.nodes[self.stacks[me]]
        fn: Any = None
        if below < 0:
            fn = self.fns[me]
            scope = getattr(fn if hasattr(fn, "__code__") else type(fn).__call__, "__code__", None)
        if scope is not code and not self.restart:
            self._needs_scope(code, module, line)
        if self.restart:
            return
        self.looped = f"{code.co_name}:{line}"
        try:
            item = ("loop", code.co_name, line, self.view.canonical(live), self.view.canonical(fn))
        except Opaque:
            return
        self.stacks[me] = self.histories.replace(self.stacks[me], item)

    def _needs_scope(self, code: CodeType, module: str, line: int) -> None:
        """A loop_point in a function that is not seen entered: look at its module too, from the beginning."""
        if module in self.modules:
            raise SetupError(
                f"{code.co_filename}:{line}: a loop_point must stand in a task's own function, or in one that is "
                f"neither a generator nor inside another, and {code.co_name} is"
            )
        self.modules[module] = None
        self.restart = True

    def found(self, finding: Finding) -> None:
        super().found(finding)
        if self.recording:
            self.fresh_findings.append(finding)

    # -- states --------------------------------------------------------------------------------------------------
    def _arrive(self) -> bool:
        """Work out the state that the last event has led to; is it a new one?"""
        self.look_again()
        for t in sorted(self.moved):
            self.locals[t] = self._local(t)
        if self.contested and self.edge is None:
            self.clocks = Clocks.at_the_start(self.n)
        key = self._key()
        known = self.states.get(key)
        self.projection = -1
        if known is None and self.looped is not None:
            known = self._drifting()
        self.state = len(self.states) if known is None else known
        if known is None:
            self.states[key] = self.state
            self.edges.append([])
            ended = sum(1 << t for t in range(self.nlive) if self.pending[t] is DONE)
            self.tasks_at.append((tuple(task.name for task in self.tasks[: self.nlive]), ended))
        if self.edge is None:
            self.at_once = self.fresh_findings
        else:
            source, t, value = self.edge
            self.edges[source].append((t, value, self.state))
            if self.fresh_findings:
                self.shown[self.edge] = self.fresh_findings
            if self.looped is not None:
                self.loops.setdefault(self.state, {})[t] = self.looped
        self.fresh_findings = []
        return known is None

    def _drifting(self) -> int | None:
        """The state at the head of the same loop that differs from this one in its counters only, if they have grown
        by the same for two turns."""
        found: list[Frame] = []
        self.projection, self.counters = self.projected(self.locals)
        for frame in reversed(self.frames):
            if frame.projection == self.projection:
                found.append(frame)
                if len(found) == 2:
                    break
        else:
            return None
        turns = [self.counters, found[0].counters, found[1].counters]
        grown = [
            [(name, b - a) for (name, a), (_, b) in zip(before, after, strict=True) if a != b]
            for after, before in zip(turns, turns[1:], strict=False)
        ]
        if grown[0] != grown[1] or self.edge is None:
            return None
        self.drifts[self.edge] = grown[0]
        return found[0].state

    def _livelocks(self) -> None:
        self.results.livelocks = livelocks(self)
        for live in self.results.livelocks:
            self.results.found[live.finding] = Found(live.finding, live.choices)

    def _key(self) -> Item:
        """The state; the same for states that differ by exchanging tasks that are alike."""
        if not self.groups:
            return (tuple(self.locals), self._shared(self.values), self._past(range(self.n)))
        return min(map(self._renumbered, places(self.groups, self.locals)))

    def _renumbered(self, place: list[int]) -> tuple[int, ...]:
        states = [0] * self.n
        for t, p in enumerate(place):
            states[p] = self.locals[t]
        values = self.values[:]
        for at, (base, owner) in enumerate(self.owners):
            if isinstance(owner, Primitive) and owner.id == base:
                values[at] = self.number(self.form(renumbered(owner, place)))
        return (*states, self.number(self._shared(values)), self.number(self._past(place)))

    def _past(self, place: Sequence[int]) -> Item:
        return self.clocks.form(self, place) if self.clocks is not None else ()

    @property
    def empty(self) -> int:
        """The local state of a task slot that nobody is in."""
        return self.number(("empty",))

    def _local(self, t: int) -> int:
        op = self.pending[t]
        task = self.tasks[t]
        held = tuple((self.key_of(prim), mode) for prim, mode, _ in task.held)
        if op is DONE:
            if t >= self.nlive:
                return self.empty
            rest = self.view.or_token(self.fns[t], self.stacks[t])  # what checks may ask of it
            return self.number(("done", self.called(t), task.dead, held, rest, self.form(task.data)))
        about = (op[0], self.key_of_id(op[1]), *[(self.key_of_id(x >> 1), x & 1) for x in op[2]], *op[3:])
        counters = tuple(sorted(task.counters.items()))
        return self.number((self.stacks[t], self.called(t), held, counters, self.form(task.data), about))

    # -- what it all says ----------------------------------------------------------------------------------------
    def _ended(self, setup: Setup) -> None:
        self.fresh_findings = []
        super()._ended(setup)
        self.recording = False
        if self.status in ("complete", "deadlock") and not self.restart:
            self.terminals[self.state] = self.fresh_findings

    def _judge(self) -> None:
        """How many of the states in which all has ended can be come to only by way of each finding?"""
        at_once = set(self.at_once)
        for finding, found in self.results.found.items():
            found.executions = len(self.terminals) - (0 if finding in at_once else self._avoiding(finding))

    def _avoiding(self, finding: Finding) -> int:
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
