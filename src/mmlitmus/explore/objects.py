"""What the objects of a machine are called in E2's states, and what their values are there.

A value is a number: that of a form in which it compares with those of other executions (``history.Values``), looked up
in a dict. Of the objects only those are looked at again that an event has named, or a Guarded access has touched.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from .history import Item, Opaque, Values
from .primitives.base import Primitive
from .scheduler import Scheduler, Setup, SetupError
from .state import Atomic, Cells, Const, Counter, GuardedList, Model
from .steps import LISTS


class Objects(Scheduler):
    """The objects of the running execution, each with its key and the number of its value."""

    def __init__(self, build: Callable[[], Setup], *, max_executions: int | None = None, checked: bool = False) -> None:
        super().__init__(build, max_executions=max_executions)
        self.checked = checked
        self.set_up = 0  # how many objects there are before the first event
        self.lists: list[GuardedList] = []
        self.set_up_keys: dict[int, Item] = {}
        self.view = Values(self.key_of)

    def forget(self) -> None:
        """For a new search."""
        self.numbers: dict[Item, int] = {}  # of values, local states, shared states
        self.keys: list[Item] = []
        self.bases: list[int] = []
        self.names: dict[str, int] = {}
        self.values: list[int] = []
        self.list_values: list[int] = []
        self.dirty: set[int] = set()  # which are to be looked at again; -1: the lists
        self.tokens = 0
        self.primitive_states: dict[tuple[int, int], Any] = {}  # by (owner, number of its value)
        self.uncounted: dict[tuple[Item, int], tuple[int, list[tuple[str, int]]]] = {}  # see ``projected``

    def adopt(self) -> None:
        """Give objects that are new their keys: unique names, the same in every execution that makes them."""
        for base, owner in self.owners[len(self.keys) :]:
            name = owner.name if hasattr(owner, "name") else owner.object_name(0)
            count = self.names[name] = self.names.get(name, 0) + 1
            self.keys.append((name, count))
            self.bases.append(base)

    def look_again(self) -> None:
        """Work out the values of what has been named or touched."""
        values = self.values
        for at in range(len(values), len(self.keys)):
            values.append(-1)
            self.dirty.add(at)
        for at in sorted(self.dirty):
            if at >= 0:
                values[at] = n = self.number(self._value(at))
                owner = self.owners[at][1]
                if isinstance(owner, Primitive):
                    self.primitive_states[at, n] = owner.state
                elif isinstance(owner, Model):
                    self._without_counters(at, owner, n)
        if LISTS in self.dirty or len(self.list_values) != len(self.lists):
            self.list_values = [self.number(self.form(items.items)) for items in self.lists]
        if self.checked:
            for at in range(len(values)):
                if self.number(self._value(at)) != values[at]:
                    raise SetupError(f"{self.keys[at]} changes outside events that name it")
        self.dirty.clear()

    def _value(self, at: int) -> Item:
        """The declared value of the owner ``at``."""
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
        if isinstance(owner, Primitive) and owner.id == base:
            return self.form(owner.state)
        if isinstance(owner, Cells):
            return self.form(owner.values)
        return self.value_at(at, base)

    def value_at(self, at: int, o: int) -> Item:
        """The value of the data object ``o``, which is one of the owner ``at``."""
        if at >= len(self.keys):
            self.adopt()
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
        try:
            return self.view.canonical(value)
        except Opaque:  # like nothing else
            self.tokens += 1
            return ("token", self.tokens)

    def number(self, item: Item) -> int:
        return self.numbers.setdefault(item, len(self.numbers))

    def key_of(self, obj: Any) -> Item:
        """What a declared object is called in states."""
        if isinstance(obj, GuardedList):
            return obj.name
        return self.key_of_id(obj.id)

    def key_of_id(self, o: int) -> Item:
        """What a footprint object is called in states."""
        known = self.set_up_keys.get(o)
        if known is not None or o < 0:
            return known
        if len(self.keys) < len(self.owners):
            self.adopt()
        at = bisect_right(self.bases, o) - 1
        key = (self.keys[at], o - self.bases[at])
        if at < self.set_up:  # these are the same in every execution
            self.set_up_keys[o] = key
        return key

    def _shared(self, values: list[int]) -> int:
        n = self.set_up
        nothing = self.number(None)
        made = frozenset((key, v) for key, v in zip(self.keys[n:], values[n:], strict=True) if v != nothing)
        return self.number((tuple(values[:n]), made, tuple(self.list_values)))

    def _without_counters(self, at: int, owner: Model, n: int) -> None:
        """Note what the object's value ``n`` is without its counters; and these."""
        key = (self.keys[at], n)
        if key in self.uncounted:
            return
        counters: list[tuple[str, int]] = []
        rest: list[Item] = []
        for (name, field), v in zip(owner.fields.items(), owner._values, strict=True):
            if isinstance(field, (Atomic, Counter)) and type(v) is int:
                counters.append((f"{owner.name}.{name}", v))
            else:
                rest.append(self.form(v))
        if counters:
            self.uncounted[key] = (self.number(("but for counters", *rest)), counters)

    def projected(self, locals_: list[int]) -> tuple[int, tuple[tuple[str, int], ...]]:
        """The state without the values of its counters; and these."""
        values = list(self.values)
        counters: list[tuple[str, int]] = []
        for at, n in enumerate(values):
            known = self.uncounted.get((self.keys[at], n))
            if known is not None:
                values[at] = known[0]
                counters += known[1]
        return self.number((*locals_, *values, *self.list_values)), tuple(counters)
