"""Does a model declare its state? The search is sound only if what tasks share changes within events that say so.

An audit is a search that stops and looks around at every scheduling point. It walks over everything that can be reached
from the set-up's ``context`` and from its tasks (attributes, slots, containers, closures) and reports, as findings of
kind ``undeclared``,

* a list, dict, set, attribute or closure variable that more than one task can reach and that changed;
* a declared value (Once, Plain, Atomic, Ghost, Cells, a primitive's ``state``) that changed although the event under
  way does not name it as written;
* a Ghost read or written within an event whose footprint does not name it.

It treats every access of a Guarded field as a plain access as well, so that a declaration that names the wrong locks is
a ``race``. A class whose attribute is shared state of its own kind, touched only within events on some object, says so:
``declared_as = {"tlb": "tlb_id"}``, the second being the attribute that holds the object's id.

Not looked at: module globals, and state kept in iterators or in C. It is slow, and meant for a few dozen executions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from greenlet import greenlet

from . import runtime as rt
from .dpor import Dpor, Event
from .findings import Finding
from .ops import PLAIN_READ, PLAIN_WRITE, footprint
from .primitives.base import Primitive
from .races import Access, plain_races
from .runtime import Op
from .scheduler import Results, Scheduler, Setup, Task
from .state import Cells, Declared, Ghost, Guarded, GuardedList, Model

_ATOMS = (int, float, complex, str, bytes, bool, type(None), range, frozenset, BuiltinFunctionType, CodeType)
_OUTSIDE = (type, ModuleType, greenlet, Scheduler, Task, Declared)
_CONTAINERS = (list, dict, set, bytearray, deque)

#: what a place holds, where it is, and the ids of the objects that it belongs to (empty: undeclared; None: guarded)
Place = tuple[Any, str, "range | None"]


class Audit(Dpor):
    """E1 that looks around at every scheduling point."""

    def __init__(self, build: Callable[[], Setup], *, max_executions: int | None = 20) -> None:
        super().__init__(build, max_executions=max_executions)
        self.before: dict[object, Place] | None = None
        self.guarded: list[list[Access]] = []  # for each event, the guarded fields that its task then accessed

    def run(self) -> Results:
        get, put = Ghost.__get__, Ghost.__set__

        def audited_get(field: Ghost, obj: Any, cls: type) -> Any:
            if obj is not None:
                self._ghost(obj, field, written=False)
            return get(field, obj, cls)

        def audited_set(field: Ghost, obj: Any, value: Any) -> None:
            self._ghost(obj, field, written=True)
            put(field, obj, value)

        Ghost.__get__, Ghost.__set__ = audited_get, audited_set  # type: ignore[method-assign, assignment]
        try:
            return super().run()
        finally:
            Ghost.__get__, Ghost.__set__ = get, put  # type: ignore[method-assign]

    # -- hooks into the search -----------------------------------------------------------------------------------
    def _before_tasks(self) -> None:
        super()._before_tasks()
        self.before = None
        self.plain = True  # guarded accesses count

    def _pick(self) -> int:
        now = self._look_around()
        if self.before is not None:
            self._judge(self.before, now)
        self.before = now
        return super()._pick()

    def _record(self, e: Event, p: int, value: int) -> int:
        del self.guarded[e.at :]
        self.guarded.append([])
        return super()._record(e, p, value)

    def accessed(self, obj: Any, field: str, written: bool) -> None:
        super().accessed(obj, field, written)
        if self.i > self.k:
            self.guarded[self.i - 1].append((f"{obj.name}.{field}", PLAIN_WRITE if written else PLAIN_READ))

    def _data_races(self) -> Iterable[Finding]:
        return plain_races(self, self.guarded)

    # -- what is there -------------------------------------------------------------------------------------------
    def _look_around(self) -> dict[object, Place]:
        """Everything that may change and that more than one task can reach."""
        found: dict[object, Place] = {}
        reached: dict[object, int] = {}
        roots = [("context", self.setup.context)] * 2 + list(self.setup.tasks.items())
        for name, root in roots:
            for key, place in _walk(name, root):
                reached[key] = reached.get(key, 0) + 1
                found.setdefault(key, place)
        return {key: place for key, place in found.items() if reached[key] > 1}

    def _judge(self, before: dict[object, Place], now: dict[object, Place]) -> None:
        op = self.events[-1].op
        written = _written(op)
        for key, (value, path, ids) in now.items():
            if ids is None or key not in before or _same(before[key][0], value):
                continue
            if not ids:
                self._undeclared(f"{path} changes but is not declared", self.events[-1])
            elif not written.intersection(ids):
                self._undeclared(f"{path} changes outside events on it", self.events[-1])

    def _ghost(self, obj: Any, field: Ghost, *, written: bool) -> None:
        if self.cur < 0 or self.i == 0 or self.i < self.k:
            return
        e = self.events[self.i - 1]
        named = _written(e.op) if written else {o for o, _ in footprint(e.op)}
        if obj.id + field.offset not in named:
            what = "written" if written else "read"
            self._undeclared(f"{type(obj).__name__}.{field.name} {what} outside events that name it", e)

    def _undeclared(self, what: str, e: Event) -> None:
        self.found(Finding("undeclared", what, f"by {self.tasks[e.task].name}"))


def audit(build: Callable[[], Setup], *, max_executions: int = 20) -> list[Finding]:
    """What the first executions of the program show to be undeclared or insufficiently guarded."""
    found = Audit(build, max_executions=max_executions).run().found
    return [f for f in found if f.kind in ("undeclared", "race")]


def _written(op: Op) -> set[int]:
    # Read-like events may change their own object (up_read), in a way that commutes.
    return {o for o, w in footprint(op) if w} | {op[1]}


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, (*_ATOMS, tuple)) and bool(a == b))


def _walk(name: str, root: Any) -> Iterator[tuple[object, Place]]:
    """Every place that can be reached from ``root``, each with a key that stays the same while its owner lives."""
    seen: dict[int, Any] = {}
    todo = [(name, root)]
    while todo:
        path, obj = todo.pop()
        if isinstance(obj, (*_ATOMS, *_OUTSIDE)) or id(obj) in seen or obj is rt.engine:
            continue
        seen[id(obj)] = obj
        for part, value, ids in _places(obj):
            where = path + part
            yield (id(obj), part), (value, where, ids)
            for child in value if isinstance(value, tuple) else (value,):
                todo.append((where, child))


def _places(obj: Any) -> Iterator[tuple[str, Any, range | None]]:
    """The parts of one object: (name, value, ids of the objects they belong to)."""
    if isinstance(obj, tuple):
        yield from ((f"[{n}]", x, None) for n, x in enumerate(obj))
    elif isinstance(obj, _CONTAINERS):
        yield "", _contents(obj), range(0)
    elif isinstance(obj, CellType):
        try:
            yield "", obj.cell_contents, range(0)
        except ValueError:  # not assigned yet
            return
    elif isinstance(obj, FunctionType):
        names = obj.__code__.co_freevars
        yield from ((f".{n}", cell, None) for n, cell in zip(names, obj.__closure__ or (), strict=True))
        yield ".defaults", (*(obj.__defaults__ or ()), *(obj.__kwdefaults__ or {}).values()), None
    elif isinstance(obj, MethodType):
        yield "", obj.__self__, None
    elif isinstance(obj, Cells):
        yield from ((f"[{n}]", x, range(obj.id + n, obj.id + n + 1)) for n, x in enumerate(obj.values))
    elif isinstance(obj, GuardedList):
        yield "", tuple(obj.items), None
    else:
        yield from _attributes(obj)


def _attributes(obj: Any) -> Iterator[tuple[str, Any, range | None]]:
    declared: dict[str, str] = getattr(type(obj), "declared_as", {})
    skip = {"__dict__", "__weakref__"}
    if isinstance(obj, Model):
        for name, field in obj.fields.items():
            at = obj.id + field.offset
            ids = None if isinstance(field, Guarded) else range(at, at + 1) if field.events else range(0)
            yield f".{name}", obj.peek(name), ids
        yield ".freed", obj.freed, range(obj.id, obj.id + 1)
        skip |= set(Model.__slots__)
    elif isinstance(obj, Primitive):
        yield ".state", obj.state, range(obj.id, obj.id + len(obj.parts))
        for cls in type(obj).__mro__:
            if cls.__module__.startswith(Primitive.__module__.rpartition(".")[0]):
                skip |= set(cls.__dict__.get("__slots__", ()))
    names = list(getattr(obj, "__dict__", ()))
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    for name in names:
        if name in skip or not hasattr(obj, name):
            continue
        if name in declared:
            at = getattr(obj, declared[name])
            value = getattr(obj, name)
            yield f".{name}", _contents(value) if isinstance(value, _CONTAINERS) else value, range(at, at + 1)
        else:
            yield f".{name}", getattr(obj, name), range(0)


def _contents(container: Any) -> tuple[Any, ...]:
    """A container's contents as a tuple, to compare by."""
    if isinstance(container, dict):
        return tuple(x for item in container.items() for x in item)
    return tuple(container)
