"""What tasks see, as E2 keeps the books: a scoped history for each of them (see ``history``), and so the state."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from . import ops
from .clocks import Clocks
from .history import Histories
from .looppoints import check_loop_points
from .movers import Held, Movers
from .objects import ABSENT, Objects
from .ops import BLIND, CHOOSE, DONE, SILENT
from .primitives.base import Primitive
from .races import could_race
from .runtime import Op
from .scheduler import Setup, SetupError
from .state import GuardedList, Model
from .steps import LISTS
from .symmetry import places, renumbered, shows_tasks
from .values import Item, Opaque


class Sights(Objects):
    """Follows the tasks of the running execution."""

    def __init__(self, build: Callable[[], Setup], *, max_executions: int | None = None, checked: bool = False) -> None:
        super().__init__(build, max_executions=max_executions, checked=checked)
        self.modules: dict[str, None] = {}  # whose functions get scopes
        self.recording = False
        self.restart = False
        self.symmetric = False
        self.groups: list[list[int]] = []  # of tasks that are alike
        self.group_of: dict[int, str] = {}
        self.movers: Movers
        self.histories = Histories()
        self.stacks: list[int] = []
        self.locals: list[int] = []  # of each task, the number of its local state
        self.clocks: Clocks | None = None
        self.ways: dict[tuple[int, ...], list[tuple[int, ...]]] = {}  # to exchange tasks, by their local states
        self.in_order: tuple[int, ...] = ()  # nobody is exchanged
        self.contested: set[int] = set()  # what accesses that may race are about
        self.accessors: dict[int, set[tuple[str, int]]] = {}
        self.looped: str | None = None
        self.event: tuple[Item, Held, Held, bool] | None = None  # the one under way, for Movers.read_behind
        self.behind: dict[int, None] = {}

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

    # -- in their events -----------------------------------------------------------------------------------------
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
        what = op[1]
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

    # -- beside them ---------------------------------------------------------------------------------------------
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

    def peeked(self, obj: Model, value: Any) -> None:
        """The running task has read one of the object's fields by ``peek``."""
        self.dirty.add(bisect_right(self.bases, obj.id) - 1)
        self.saw(value)

    def saw_list(self, items: GuardedList) -> None:
        """The running task looks at, or changes, a guarded list."""
        self.saw(items.items)
        self.dirty.add(LISTS)

    def accessed(self, obj: Any, field: str, written: bool) -> None:
        if self.recording:
            if self.event is not None and obj.id not in self.behind:
                self.behind[obj.id] = None
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

    # -- states --------------------------------------------------------------------------------------------------
    def _key(self) -> Item:
        """The state; the same for states that differ by exchanging tasks that are alike."""
        if not self.groups:
            return (tuple(self.locals), self._shared(self.values), self._past(range(self.n)))
        ways = self.ways.get(locals_ := tuple(self.locals))
        if ways is None:
            ways = self.ways[locals_] = [tuple(place) for place in places(self.groups, self.locals)]
        if len(ways) == 1:
            return self._renumbered(ways[0])
        return min([self._renumbered(place) for place in ways])

    def _renumbered(self, place: tuple[int, ...]) -> tuple[int, ...]:
        states = [0] * self.n
        for t, p in enumerate(place):
            states[p] = self.locals[t]
        values = self.values[:]
        if place != self.in_order:
            for at, n in enumerate(values):
                if (at, n) in self.primitive_states and n != ABSENT:
                    values[at] = self._renumbered_primitive(at, n, place)
        return (*states, self.number(self._shared(values)), self.number(self._past(place)))

    def _renumbered_primitive(self, at: int, n: int, place: tuple[int, ...]) -> int:
        """The number of the primitive's value ``n`` with the tasks renumbered."""
        known = self.renumberings.get((at, n, place))
        if known is None:
            owner = self.owners[at][1]
            known = n
            if shows_tasks(owner):
                state = renumbered(owner, self.primitive_states[at, n], place)
                known = self._normal(at, owner, self.number(self.form(state)))
            self.renumberings[at, n, place] = known
        return known

    def _past(self, place: Sequence[int]) -> Item:
        return self.clocks.form(self, place) if self.clocks is not None else ()

    @property
    def empty(self) -> int:
        """The local state of a task slot that nobody is in."""
        return self.number(("empty",))

    def _local(self, t: int) -> int:
        op = self.pending[t]
        task = self.tasks[t]
        held = tuple((prim.id, mode) for prim, mode, _ in task.held)
        if op is DONE:
            if t >= self.nlive:
                return self.empty
            rest = self.view.or_token(self.fns[t], self.stacks[t])  # what checks may ask of it
            return self.number(("done", self.called(t), task.dead, held, rest, self.form(task.data)))
        counters = tuple(sorted(task.counters.items()))
        context = (task.rcu, task.irqs_off, task.waiting)  # what is a finding later depends on it
        return self.number((self.stacks[t], self.called(t), held, counters, context, self.form(task.data), op))
