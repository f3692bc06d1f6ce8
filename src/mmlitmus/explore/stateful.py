"""E2: depth-first search over states, for long page loops and for loops that need not end.

A *state* is what decides how things go on:

* each task's local state: its scoped history (``history``), what it holds, its counters, and what it is about to do;
* the declared state of every object (``state``, the primitives, whatever else has ids), of each object by its name;
* what data races still to come depend on (``clocks``), as far as there are accesses that can race at all.

A state that was seen before is not gone on from. What an event does from a state is an edge of the state graph, with
the findings it shows. Findings, outcomes and marks are then the same as E1's: a finding is *always* there when no way
through the graph from the first state to one where everything has ended avoids it.

Greenlets cannot be copied, so a state is come back to by replaying the events that led to it. Most of the time it need
not be: once a step has been seen (``steps``), what it leads to from another state is looked up. A step is run if it has
not been seen before, or if it leads to where all has ended, where checks want the machine itself. The order of the
search, and with it every answer, is the same as if everything were run.

An object's values are looked at again only when an event has named it, or a Guarded access has touched it; ``checked``
looks at everything each time and compares, and runs every step and compares that, too (tests do it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Final

from .clocks import Clocks
from .findings import Finding
from .history import Histories, Scopes, observed
from .livelock import livelocks
from .movers import REDUCTIONS, SYMMETRY, Movers
from .objects import ABSENT
from .ops import CHOOSE, DONE, SYNC
from .primitives.base import Primitive
from .races import ACCESSES
from .scheduler import Found, Results, Setup, SetupError
from .sights import Sights
from .stategraph import StateGraph
from .steps import LISTS, Seen, Standing, Step, Steps, View, looked_at
from .symmetry import NAMED, alike
from .values import Item

#: limits are looked at every so many steps that need not be run
ASK: Final = 256
#: after so many executions that did not end it is not worth while to go on: each of them has to be replayed
TRUNCATED: Final = 8


class Frame:
    """A state of the current path: what is left to try, and all that has to be put back when it is come back to."""

    __slots__ = (
        "at", "branches", "clocks", "counters", "cur", "lists", "locals", "mover", "nlive", "projection", "stacks",
        "state", "todo", "values",
    )  # fmt: skip

    def __init__(self, engine: Stateful, todo: list[tuple[int, int]]) -> None:
        self.at = engine.i  # how many events lead to it
        self.cur = engine.cur  # whose was the last
        self.state = engine.state
        self.todo = todo
        self.branches = len(todo) > 1
        self.mover = engine.mover
        self.stacks = engine.stacks[:]
        self.locals = engine.locals[:]
        self.values = engine.values[:]
        self.lists = engine.list_values[:]
        self.nlive = engine.nlive
        self.clocks = engine.clocks
        self.projection = engine.projection
        self.counters = engine.counters


class Stateful(Sights):
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
        self.looked_up = 0  # ways to a known state that did not have to be run
        self.scopes = ExitStack()
        self.scoped = -1  # of how many modules the functions have scopes now
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
        self.graph = StateGraph()
        self.heads: dict[int, list[Frame]] = {}  # the path's states at loops' heads, by all but their counters
        self.projection = -1  # of a state at a loop's head: all but its counters, and these
        self.counters: tuple[tuple[str, int], ...] = ()
        self.stacks = []
        self.locals = []
        self.clocks = None
        self.ways = {}
        self.state = -1
        self.edge: tuple[int, int, int] | None = None
        self.branched = True  # has the last move been one of several?
        self.mover = False  # ... and left others out?
        self.moved: set[int] = set()  # the tasks whose local state is to be looked at again
        self.event = None
        self.behind = {}
        self.fresh_findings: list[Finding] = []
        self.looped = None
        self.restart = False
        self.steps = Steps()
        self.new = False  # has the last known step led to a state that is a new one?
        self.primitives: list[tuple[int, Primitive]] = []  # with their places
        self.standing: dict[int, Standing] = {}  # by local state
        self.taken: tuple[int, int, int] | None = None  # the step under way: task, its local state, value of a choice
        self.shown_before = 0  # findings on this edge before the step
        self.tokens_before = 0

    # -- the search ----------------------------------------------------------------------------------------------
    def _run(self) -> None:
        with observed(self), self.scopes:
            while not self._search():
                self._start_over()
        complete = not self.results.stopped
        if self.graph.drifts and complete:
            names = dict.fromkeys(name for grown in self.graph.drifts.values() for name, _ in grown)
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
            if self._in_vain():
                return False
            if counts.truncated == TRUNCATED:
                break
            why = self._follow()
            if self._in_vain():
                return False
            frames = self.frames
            if not frames:
                break
            if why := why or self._exceeded():
                self.results.stopped = why
                return True
            self.k = frames[-1].at
            del self.choice[self.k :]
            del self.value[self.k :]
        if counts.truncated:
            self.results.stopped = f"{self.max_events} events in one execution"
        return True

    def _in_vain(self) -> bool:
        """Has the search to be made again? Without reductions, once it comes back to where it was: a reduced move could
        be taken round and round, and others for ever left for later; and what a livelock is depends on every state and
        on whoever could go on there.
        """
        if self.cyclic and (self.reducing or self.groups):
            self.reducing = self.symmetric = False
            return True
        return self.restart or self.movers.wrong

    def execute(self) -> None:
        """Build the machine, replay, and go on until a state that was seen before, or the end."""
        self.recording = False
        self.threads: dict[int, int] = {}
        self.newborn: list[int] = []
        super().execute()

    def _before_tasks(self) -> None:
        super()._before_tasks()
        setup = self.setup
        self.view.context = setup.context
        self.groups = alike(setup) if self.symmetric else []
        self.in_order = tuple(range(self.n))
        self.group_of = {t: f"alike {members[0]}" for members in self.groups for t in members}
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
            self._come_back(frame)
            self._believed()
            self.recording = True
            return self._step(*self._leave(frame))
        self._settle()
        enabled = self.enabled()
        alone = self._alone(enabled)
        if alone >= 0 and self._passing(alone):
            return self._step(alone, 0)
        new = self._arrive(self._key())
        if not new or self.restart:
            self.status = "blocked"
            return -1
        if not enabled:
            self.status = self._ending()
            return -1
        if self.i >= self.max_events:
            self.status = "truncated"
            return -1
        return self._step(*self._leave(self._keep(enabled, alone)))

    def _follow(self) -> str:
        """Go on with what is left to try at the states of the path, as far as the steps are known. It ends when nothing
        is left, at a state from which a step has to be run, or when something has run out; says what."""
        frames = self.frames
        for at, owner in self.latest.items():
            base = self.bases[at]
            self.owners[at] = (base, owner)
            self.prims[base : base + self.sizes[at]] = [owner] * self.sizes[at]
        self.primitives = [(at, o) for at, (_, o) in enumerate(self.owners) if self._is_primitive(at)]
        here: Frame | None = None
        why = ""
        steps = 0
        while frames and not self.movers.wrong:
            frame = frames[-1]
            if not frame.todo:
                self._done_with(frames.pop())
                continue
            steps += 1
            if steps % ASK == 0:
                why = self._exceeded()
            if why or self.checked:
                break
            if frame is not here:
                self._come_back(frame)
                self._impersonate(frame)
            if not self._go_known(frame):
                break
            if self.new:
                here = frames[-1]
            else:
                here = None
                self.looked_up += 1
        self.cur = -1
        return why

    def _exceeded(self) -> str:
        """What has run out, if anything; an execution counts whether it was run or only looked up."""
        if self.max_executions is not None and self.results.counts.executions + self.looked_up >= self.max_executions:
            return f"{self.max_executions} executions"
        return self.limits.exceeded() if self.limits is not None else ""

    def _go_known(self, frame: Frame) -> bool:
        """Do the next thing that is left to try at the state, without running it; False if that cannot be done."""
        t, value = frame.todo[-1]
        self._begin(frame, t, value)
        while True:
            if not self._repeat(t, value):
                return False
            enabled = self.enabled()
            alone = self._alone(enabled)
            if alone < 0 or not self._passing(alone):
                break
            t, value = alone, 0
        key = self._key()
        if key not in self.states and (not enabled or self.i >= self.max_events):
            return False
        frame.todo.pop()
        self.new = self._arrive(key)
        if self.new:
            self._keep(enabled, alone)
        return True

    def _repeat(self, t: int, value: int) -> bool:
        """Have the task's next event happen as it has before; False if it has not."""
        known = self.steps.find(t, self.locals[t], value, self.values, self.list_values)
        if known is None:
            return False
        view, step = known
        op = self.pending[t]
        clocks = self.clocks
        if clocks is not None and (SYNC[op[0]] or op[0] in ACCESSES):
            self.clocks, races = clocks.after(self, t, op)
            if any(race not in self.results.found for race in races):
                return False
            self.fresh_findings += races
        if self.mover and self.reducing:
            self.movers.rely_behind(t, step.behind)
        self.fresh_findings += step.findings
        self.looped = step.looped
        self.cur = t
        self.i += 1
        self.choice.append(t)
        self.value.append(value)
        self.locals[t] = step.local
        self._stand(t)
        values = self.values
        first = len(view) - len(step.values)  # 1 if it has looked at lists
        for i, n in enumerate(step.values):
            at = view[first + i]
            if values[at] != n:
                values[at] = n
                if self._is_primitive(at):
                    self.owners[at][1].state = self.primitive_states[at, n]
        if first:
            self.list_values = list(step.lists)
        return True

    def _moves(self, tasks: list[int]) -> list[tuple[int, int]]:
        """What these tasks may do next: each once, and a choice with each of its values."""
        moves = []
        for t in tasks:
            op = self.pending[t]
            moves += [(t, v) for v in range(op[3] if op[0] == CHOOSE else 1)]
        return moves

    def _settle(self) -> None:
        """Take note of what the last event has brought: tasks, objects and their values, what tasks are about to do."""
        alone = not self.newborn  # to make a task concerns others than who does it
        for t in self.newborn:  # its history begins with what it was created with
            self.stacks[t] = self.histories.stack(self.histories.chain("root", self.form(self.fns[t])), -1, None)
            self.moved.add(t)
        self.newborn.clear()
        if self.edge is None:
            self.moved.update(range(self.n))
            self.dirty.update(range(LISTS, self.set_up))
            if self.contested:
                self.clocks = Clocks.at_the_start(self.n)
        if self.reducing:
            for t in sorted(self.moved):
                if self.pending[t] is not DONE:
                    self.movers.announced(t, self.pending[t])
        seen: tuple[View, Seen] | None = None
        if self.taken is not None and alone:
            self.values += [ABSENT] * (len(self.bases) - len(self.values))
            view = tuple(sorted(self.dirty))
            seen = view, looked_at(view, self.values, self.list_values)
        self.look_again()
        for t in sorted(self.moved):
            self.locals[t] = n = self._local(t)
            if n not in self.standing:
                task = self.tasks[t]
                self.standing[n] = Standing(self.pending[t], task.held, self.stacks[t], task.name, self.threads.get(t))
        self.moved.clear()
        if seen is not None and self.tokens == self.tokens_before:
            self._learn(*seen)

    def _learn(self, view: View, seen: Seen) -> None:
        """Remember the step that has just been run."""
        assert self.taken is not None
        t = self.taken[0]
        values, lists = looked_at(view, self.values, self.list_values)
        findings = self.fresh_findings[self.shown_before :]
        step = Step(self.locals[t], values, lists, findings, self.looped, tuple(self.behind))
        if not self.steps.learn(*self.taken, view, seen, step).same(step) and self.checked:
            raise SetupError(f"{self.tasks[t].name} does not do the same twice: what it looks at is not all declared")

    def _alone(self, enabled: int) -> int:
        """The task that may go on without anybody else being tried; the running one rather than another, or -1."""
        self.mover = False
        if not self.reducing or not enabled:
            return -1
        if not enabled & (enabled - 1):
            last = int(enabled).bit_length() - 1
            return last if len(self._moves([last])) == 1 else -1
        t: int
        for t in (self.cur, *range(self.n)):
            if t >= 0 and enabled >> t & 1 and self.movers.may_go(t, self.pending[t]):
                self.mover = True
                return t
        return -1

    def _passing(self, alone: int) -> bool:
        """Need the state at which this task goes on alone not be kept?"""
        kept = self.branched or self.looped is not None or self.i >= self.max_events
        return not kept and len(self._moves([alone])) == 1

    def _keep(self, enabled: int, alone: int) -> Frame:
        """The state is a new one: what is to be tried there?"""
        if alone >= 0:
            tasks = [alone]
        else:
            cur = self.cur  # the running task goes first, the others in their order
            tasks = [t for t in range(self.n) if enabled >> t & 1 and t != cur]
            if cur >= 0 and enabled >> cur & 1:
                tasks.insert(0, cur)
        todo = self._moves(tasks)
        todo.reverse()
        frame = Frame(self, todo)
        self.frames.append(frame)
        self.on_path.add(self.state)
        if frame.projection >= 0:
            self.heads.setdefault(frame.projection, []).append(frame)
        return frame

    def _done_with(self, frame: Frame) -> None:
        """All has been tried at the state, the last one of the path."""
        self.on_path.discard(frame.state)
        if frame.projection >= 0:
            self.heads[frame.projection].pop()

    def _come_back(self, frame: Frame) -> None:
        """All that is known of the state is again what it was there."""
        self.stacks = frame.stacks[:]
        self.locals = frame.locals[:]
        self.values = frame.values + [ABSENT] * (len(self.bases) - len(frame.values))
        self.list_values = frame.lists[:]
        self.clocks = frame.clocks

    def _believed(self) -> None:
        """The machine stands at a state again, replayed: did those steps that were only looked up tell the truth of
        locks and the like? They decide who can go on."""
        for at, owner in enumerate(self.owners):
            if self._is_primitive(at) and self._number_at(at) != self.values[at]:
                raise SetupError(f"{owner[1].name} is not in the state that E2 takes it to be in: a bug of the search")

    def _impersonate(self, frame: Frame) -> None:
        """Have the machine of the last execution stand at the state, as far as anybody looks before the next one."""
        self.cur = frame.cur
        self.i = frame.at
        self.nlive = frame.nlive
        del self.choice[frame.at :], self.value[frame.at :]
        for t in range(self.n):
            self._stand(t)
        for at, owner in self.primitives:
            owner.state = self.primitive_states.get((at, self.values[at]))

    def _stand(self, t: int) -> None:
        standing = self.standing[self.locals[t]]
        self.pending[t] = standing.op
        self.stacks[t] = standing.stack
        task = self.tasks[t]
        task.held = standing.held
        if standing.thread is not None:
            task.name = standing.name
            self.threads[t] = standing.thread
        elif self.threads:
            self.threads.pop(t, None)

    def _leave(self, frame: Frame) -> tuple[int, int]:
        """Let the next thing happen that is left to try at the state."""
        t, value = frame.todo.pop()
        self._begin(frame, t, value)
        return t, value

    def _begin(self, frame: Frame, t: int, value: int) -> None:
        """An edge of the graph begins."""
        self.edge = (frame.state, t, value)
        self.fresh_findings = []
        self.dirty.clear()
        self.moved.clear()
        self.looped = None
        self.branched = frame.branches
        self.mover = frame.mover

    def _step(self, t: int, value: int) -> int:
        """Let the task go on."""
        op = self.pending[t]
        if op[0] in NAMED and t in self.group_of:
            self._told_apart()
        if self.reducing:
            movers = self.movers
            self.event = (movers.event(t, op), movers.held(t), movers.holding(t, op), self.mover)
        self.behind.clear()
        self.taken = (t, self.locals[t], value)
        self.tokens_before = self.tokens
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
        self.shown_before = len(self.fresh_findings)
        return t

    def spawn(self, name: str, fn: Callable[[], Any], oid: int) -> int:
        """Create a task (Scheduler.spawn)."""
        t = super().spawn(name, fn, oid)
        self.threads[t] = oid
        if self.recording:
            self.newborn.append(t)
        return t

    def found(self, finding: Finding) -> None:
        super().found(finding)
        if self.recording:
            self.fresh_findings.append(finding)

    # -- states --------------------------------------------------------------------------------------------------
    def _arrive(self, key: Item) -> bool:
        """The last event has led to this state; is it a new one?"""
        graph = self.graph
        known = self.states.get(key)
        self.projection = -1
        if known is None and self.looped is not None:
            known = self._drifting()
        self.state = len(self.states) if known is None else known
        if known is None:
            self.states[key] = self.state
            graph.add_state(tuple(self.locals[: self.nlive]))
        if self.edge is None:
            graph.at_once = self.fresh_findings
        else:
            source, t, value = self.edge
            graph.edges[source].append((t, value, self.state))
            if self.fresh_findings:
                graph.shown[self.edge] = self.fresh_findings
            if self.looped is not None:
                graph.loops.setdefault(self.state, {})[t] = self.looped
        self.fresh_findings = []
        self.cyclic = self.cyclic or self.state in self.on_path
        return known is None

    def _drifting(self) -> int | None:
        """The state at the head of the same loop that differs from this one in its counters only, if they have grown
        by the same for two turns."""
        self.projection, self.counters = self.projected(self.locals)
        found = self.heads.get(self.projection, [])[:-3:-1]
        if len(found) < 2:
            return None
        turns = [self.counters, found[0].counters, found[1].counters]
        grown = [
            [(name, b - a) for (name, a), (_, b) in zip(before, after, strict=True) if a != b]
            for after, before in zip(turns, turns[1:], strict=False)
        ]
        if grown[0] != grown[1] or self.edge is None:
            return None
        self.graph.drifts[self.edge] = grown[0]
        return found[0].state

    def _livelocks(self) -> None:
        self.results.livelocks = livelocks(self)
        for live in self.results.livelocks:
            self.results.found[live.finding] = Found(live.finding, live.choices)

    # -- what it all says ----------------------------------------------------------------------------------------
    def _ended(self, setup: Setup) -> None:
        self.fresh_findings = []
        super()._ended(setup)
        self.recording = False
        if self.status in ("complete", "deadlock") and not self.restart:
            self.graph.terminals[self.state] = self.fresh_findings

    def tasks_in(self, state: int) -> tuple[list[str], int]:
        """The names of the tasks that there are in a state, and which of them have ended, as bits."""
        standings = [self.standing[n] for n in self.graph.locals[state]]
        ended = sum(1 << t for t, standing in enumerate(standings) if standing.op is DONE)
        return [*self.setup.tasks, *[standing.name for standing in standings[len(self.setup.tasks) :]]], ended

    def _judge(self) -> None:
        """How many of the states in which all has ended can be come to only by way of each finding?"""
        for finding, found in self.results.found.items():
            found.executions = self.graph.always(finding)
