"""What the objects of a machine are called in E2's states, and what their values are there.

An object of the set-up has the same ids in every execution. One that a task makes on the way has too, within a search:
they go with its name, which tells it apart from whatever else is made, in whatever order (``allocate``). So each object
has its *place* in the list of values, and what is not there in a state has the value ``ABSENT``.

A value is a number: that of a form in which it compares with those of other executions (``values``), looked up
in a dict. Of the objects only those are looked at again that an event has named, or a Guarded access has touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .primitives.base import Primitive
from .scheduler import Scheduler, Setup, SetupError
from .state import Atomic, Cells, Const, Counter, GuardedList, Model
from .steps import LISTS
from .values import Item, Opaque, Values

#: the value of an object that is not there
ABSENT: Final = -1


class Objects(Scheduler):
    """The objects of the running execution, each with its place and the number of its value."""

    def __init__(self, build: Callable[[], Setup], *, max_executions: int | None = None, checked: bool = False) -> None:
        super().__init__(build, max_executions=max_executions)
        self.checked = checked
        self.built = False  # does the machine stand, so that what is made now is made by tasks?
        self.set_up = 0  # how many objects there are before the first event
        self.bases: list[int] = []  # the first id of each object
        self.places: dict[tuple[str, int], int] = {}  # of what tasks make: by name, and how many there were before
        self.sizes: dict[int, int] = {}  # by place: how many ids
        self.ids = 0  # ... that have been given away
        self.made: dict[str, int] = {}  # in this execution, by name
        self.lists: list[GuardedList | None] = []
        self.list_places: dict[tuple[str, int], int] = {}
        self.latest: dict[int, Primitive] = {}  # by place: the primitive of the last execution that had it
        self.view = Values(self.key_of)

    def forget(self) -> None:
        """For a new search. Ids stay what they are."""
        self.numbers: dict[Item, int] = {}  # of values, local states, shared states
        self.nothing = self.number(None)
        self.values: list[int] = []
        self.list_values: list[int] = []
        self.dirty: set[int] = set()  # which are to be looked at again; -1: the lists
        self.tokens = 0
        self.first_values: dict[int, int] = {}  # of what is made on first use
        self.primitive_states: dict[tuple[int, int], Any] = {}  # by (place, number of its value)
        self.renumberings: dict[tuple[int, int, tuple[int, ...]], int] = {}  # see ``Sights._renumbered_primitive``
        self.uncounted: dict[tuple[int, int], tuple[int, list[tuple[str, int]]]] = {}  # see ``projected``

    # -- places --------------------------------------------------------------------------------------------------
    def execute(self) -> None:
        """One execution."""
        self.built = False
        self.lists = []
        self.made = {}
        super().execute()

    def _before_tasks(self) -> None:
        """The machine is built: keep the places of what tasks will make."""
        if not self.bases:
            self.bases = [base for base, _ in self.owners]
            self.set_up = len(self.bases)
            self.ids = len(self.prims)
        elif len(self.owners) != self.set_up:
            raise SetupError("the set-up does not do the same twice")
        self.owners += [(base, None) for base in self.bases[self.set_up :]]
        self.prims += [None] * (self.ids - len(self.prims))
        self.lists += [None] * len(self.list_places)
        self.built = True

    def allocate(self, n: int, owner: Any, *, primitive: bool = False) -> int:
        """Ids for an object (Scheduler.allocate): the same ones whenever it is made."""
        if not self.built:
            return super().allocate(n, owner, primitive=primitive)
        name = owner.name if hasattr(owner, "name") else owner.object_name(0)
        at = self._place(self.places, name, len(self.bases))
        if at == len(self.bases):
            self.bases.append(self.ids)
            self.owners.append((self.ids, owner))
            self.prims += [None] * n
            self.sizes[at] = n
            self.ids += n
        base = self.bases[at]
        if self.sizes[at] != n:
            raise SetupError(f"{name} is the name of objects of different kinds")
        self.owners[at] = (base, owner)
        if primitive:
            self.prims[base : base + n] = [owner] * n
            self.updated.update(range(base, base + n))
            self.latest[at] = owner
        self.dirty.add(at)
        return base

    def _place(self, places: dict[tuple[str, int], int], name: str, next_one: int) -> int:
        nth = self.made[name] = self.made.get(name, 0) + 1
        return places.setdefault((name, nth), next_one)

    def list_made(self, items: GuardedList) -> None:
        """A guarded list has been made."""
        if not self.built:
            self.lists.append(items)
            return
        at = self._place(self.list_places, items.name, len(self.lists))
        self.lists += [None] * (at + 1 - len(self.lists))
        self.lists[at] = items
        self.dirty.add(LISTS)

    def key_of(self, obj: Any) -> Item:
        """What a declared object is called in states."""
        return obj.name if isinstance(obj, GuardedList) else obj.id

    # -- values --------------------------------------------------------------------------------------------------
    def look_again(self) -> None:
        """Work out the values of what has been named or touched."""
        values = self.values
        values += [ABSENT] * (len(self.bases) - len(values))
        for at in sorted(self.dirty):
            if at != LISTS:
                values[at] = n = self._number_at(at)
                owner = self.owners[at][1]
                if self._is_primitive(at):
                    self.primitive_states[at, n] = owner.state
                elif isinstance(owner, Model) and n != ABSENT:
                    self._without_counters(at, owner, n)
        if LISTS in self.dirty:
            self.list_values = trimmed(
                [ABSENT if items is None else self.number(self.form(items.items)) for items in self.lists]
            )
        if self.checked:
            for at in range(len(values)):
                if self._number_at(at) != values[at]:
                    raise SetupError(f"{self.object_name(self.bases[at])} changes outside events that name it")
        self.dirty.clear()

    def _is_primitive(self, at: int) -> bool:
        """Is it the state of a primitive that has this place? What else it owns (a CPU its TLB) has its own."""
        owner = self.owners[at][1]
        return isinstance(owner, Primitive) and owner.id == self.bases[at]

    def _number_at(self, at: int) -> int:
        """The number of an object's value."""
        owner = self.owners[at][1]
        return ABSENT if owner is None else self._normal(at, owner, self.number(self._value(at)))

    def _normal(self, at: int, owner: Any, n: int) -> int:
        """An object that tasks make counts only if it has a value; and if whoever comes first makes it, only once it is
        no longer what it was then."""
        if at < self.set_up:
            return n
        if n == self.nothing:
            return ABSENT
        if isinstance(owner, Model) and owner.made_on_first_use and self.first_values.setdefault(at, n) == n:
            return ABSENT
        return n

    def _value(self, at: int) -> Item:
        """The declared value of the object at a place."""
        base, owner = self.owners[at]
        if isinstance(owner, Model):
            fields = owner.fields.values()
            constant = at < self.set_up
            return (
                owner._freed,
                *[
                    self.form(v)
                    for v, f in zip(owner._values, fields, strict=True)
                    if not (constant and type(f) is Const)
                ],
            )
        if self._is_primitive(at):
            return self.form(owner.state)
        if isinstance(owner, Cells):
            return self.form(owner.values)
        return self.value_at(at, base)

    def value_at(self, at: int, o: int) -> Item:
        """The value of the data object ``o``, which is one of the object at a place."""
        base, owner = self.owners[at]
        if isinstance(owner, Model):
            if o == base:
                return owner._freed
            return self.form(owner._values[owner.fields[owner._layout[o - base]].at])
        if isinstance(owner, Cells):
            return self.form(owner.values[o - base])
        for name, where in getattr(type(owner), "declared_as", {}).items():
            if getattr(owner, where) == base:
                return self.form(getattr(owner, name))
        if hasattr(owner, "object_value"):
            return self.form(owner.object_value(o - base))
        raise SetupError(f"{type(owner).__name__} has footprint objects but no object_value()")

    def form(self, value: Any) -> Item:
        """The value in a form that compares; one that has none is like nothing else."""
        try:
            return self.view.canonical(value)
        except Opaque:
            self.tokens += 1
            return ("token", self.tokens)

    def number(self, item: Item) -> int:
        """The number of a form."""
        return self.numbers.setdefault(item, len(self.numbers))

    def _shared(self, values: list[int]) -> int:
        """The number of the declared state of all objects."""
        return self.number((tuple(trimmed(values)), tuple(self.list_values)))

    def _without_counters(self, at: int, owner: Model, n: int) -> None:
        """Note what the object's value ``n`` is without its counters; and these."""
        if (at, n) in self.uncounted:
            return
        counters: list[tuple[str, int]] = []
        rest: list[Item] = []
        for (name, field), v in zip(owner.fields.items(), owner._values, strict=True):
            if isinstance(field, (Atomic, Counter)) and type(v) is int:
                counters.append((f"{owner.name}.{name}", v))
            else:
                rest.append(self.form(v))
        if counters:
            self.uncounted[at, n] = (self.number(("but for counters", *rest)), counters)

    def projected(self, locals_: list[int]) -> tuple[int, tuple[tuple[str, int], ...]]:
        """The state without the values of its counters; and these."""
        values = list(self.values)
        counters: list[tuple[str, int]] = []
        for at, n in enumerate(values):
            known = self.uncounted.get((at, n))
            if known is not None:
                values[at] = known[0]
                counters += known[1]
        return self.number((*locals_, tuple(trimmed(values)), tuple(self.list_values))), tuple(counters)


def trimmed(values: list[int]) -> list[int]:
    """The values without those at the end that are not there: there are more places later."""
    n = len(values)
    while n and values[n - 1] == ABSENT:
        n -= 1
    return values[:n]
