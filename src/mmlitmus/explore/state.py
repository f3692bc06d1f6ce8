"""Declared state: every shared field of a model object says what it is.

======== =========================================================================== ==================
Const    set at construction, never again                                            no event
Guarded  protected by locks; each access is checked against what the task holds     no event
Plain    an unmarked C access; racy use is a data race finding                       an event each
Once     READ_ONCE / WRITE_ONCE                                                      an event each
Atomic   atomic_t and friends; orders tasks                                          an event each
Counter  an atomic counter whose adds commute                                        an event each
Ghost    what the model knows and the machine does not                               no event of its own
======== =========================================================================== ==================

``vma.vm_flags`` is an access of the declared kind; an attribute that was not declared cannot be set at all. A Guarded
field is no scheduling point, which is sound only where every lock that allows reading excludes every set of locks that
allows writing; the class is refused where this is not so.

A Ghost field may be touched only within an event whose footprint names it (``look`` and ``touch``), or while nobody is
scheduled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import runtime as rt
from .findings import report
from .ops import (
    ATOMIC_READ,
    ATOMIC_RMW,
    COUNTER_ADD,
    COUNTER_READ,
    FREE,
    LOOK,
    PLAIN_READ,
    PLAIN_WRITE,
    READ_ONCE,
    TOUCH,
    WRITE_ONCE,
)

_UNSET: Any = "<unset>"


class Declared:
    """Base of the field declarations. ``events`` says whether the field is a footprint object of its own."""

    events = False
    name = ""
    at = 0  # index among the owner's values
    offset = 0  # offset of the object id from the owner's

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Const(Declared):
    """Set once, at construction."""

    def __get__(self, obj: Any, cls: type) -> Any:
        return self if obj is None else obj._values[self.at]

    def __set__(self, obj: Any, value: Any) -> None:
        if obj._values[self.at] is not _UNSET:
            raise AttributeError(f"{type(obj).__name__}.{self.name} is Const and already set")
        obj._values[self.at] = value


class Ghost(Declared):
    """Known to the model only. Has an object id, so that events can name it in their footprint."""

    events = True

    def __get__(self, obj: Any, cls: type) -> Any:
        return self if obj is None else obj._values[self.at]

    def __set__(self, obj: Any, value: Any) -> None:
        obj._values[self.at] = value


class _Event(Declared):
    events = True
    read_kind = READ_ONCE
    write_kind = WRITE_ONCE

    def __get__(self, obj: Any, cls: type) -> Any:
        if obj is None:
            return self
        rt.point((self.read_kind, obj.id + self.offset, ()))
        if obj._freed:
            obj._used_after_free(self.name)
        return obj._values[self.at]

    def __set__(self, obj: Any, value: Any) -> None:
        if obj._values[self.at] is not _UNSET:
            rt.point((self.write_kind, obj.id + self.offset, ()))
            if obj._freed:
                obj._used_after_free(self.name)
        obj._values[self.at] = value


class Once(_Event):
    """READ_ONCE and WRITE_ONCE: marked, but ordering nothing."""


class Plain(_Event):
    """An ordinary C access: a data race if anything conflicting is unordered with it."""

    read_kind = PLAIN_READ
    write_kind = PLAIN_WRITE


class Atomic(_Event):
    """An atomic variable. A read is an acquire, a write a release; see ``cmpxchg``, ``xchg`` and ``add_return``."""

    read_kind = ATOMIC_READ
    write_kind = ATOMIC_RMW


class Counter(Declared):
    """An atomic counter that is mostly added to: adds commute with each other (``Model.add``), a read with none."""

    events = True

    def __get__(self, obj: Any, cls: type) -> Any:
        if obj is None:
            return self
        rt.point((COUNTER_READ, obj.id + self.offset, ()))
        if obj._freed:
            obj._used_after_free(self.name)
        return obj._values[self.at]


class Guarded(Declared):
    """A field under locks: ``read`` = any one of these (in any mode), ``write`` = all of these (in write mode).

    A lock is named by its path from the object (``"vm_mm.mmap_lock"``). Without ``write`` the first of the locks guards
    writing. ``or_under``: further locks under which it may be read, which a writer does not hold but excludes by a
    protocol of its own. ``unless`` names a Ghost or Const field that, when true, lifts the rule (an object nobody else
    can see yet).
    """

    def __init__(
        self, *read: str, write: Iterable[str] | None = None, or_under: tuple[str, ...] = (), unless: str | None = None
    ) -> None:
        self.write = tuple(write) if write is not None else read[:1]
        self.unless = unless
        outside = [lock for lock in read if lock not in self.write]
        if outside:
            raise TypeError(f"reading under {outside[0]} does not exclude writing under {', '.join(self.write)}")
        self.read = (*read, *or_under)
        self._paths = {lock: tuple(lock.split(".")) for lock in (*self.read, *self.write)}

    def __get__(self, obj: Any, cls: type) -> Any:
        if obj is None:
            return self
        if obj._freed:
            obj._used_after_free(self.name)
        if rt.engine.cur >= 0:
            rt.engine.accessed(obj, self.name, False)
            for lock in self.read:
                if self._held(obj, lock):
                    break
            else:
                self._unlocked(obj, "read", " or ".join(self.read))
        return obj._values[self.at]

    def __set__(self, obj: Any, value: Any) -> None:
        if obj._values[self.at] is not _UNSET:
            if obj._freed:
                obj._used_after_free(self.name)
            if rt.engine.cur >= 0:
                rt.engine.accessed(obj, self.name, True)
                missing = [lock for lock in self.write if self._held(obj, lock) not in ("write", "lock")]
                if missing:
                    self._unlocked(obj, "written", " and ".join(missing))
        obj._values[self.at] = value

    def _held(self, obj: Any, lock: str) -> str | None:
        for part in self._paths[lock]:
            obj = getattr(obj, part)
        mode: str | None = obj.held()
        return mode

    def _unlocked(self, obj: Any, what: str, needs: str) -> None:
        if self.unless is not None and obj._values[type(obj).fields[self.unless].at]:
            return
        report(
            "precondition",
            f"{self.name} {what} without {needs.split('.')[-1]}",
            f"{rt.current().name}: {type(obj).__name__}.{self.name} of {obj.name} {what} without {needs}",
        )


class Model:
    """Base of every object of a model: its fields are declared, and nothing else can be stored on it."""

    __slots__ = ("_freed", "_values", "id", "name")
    fields: dict[str, Declared] = {}
    _layout: tuple[str, ...] = ()
    _nids = 1
    _counters: tuple[int, ...] = ()
    #: whoever comes first makes such an object, and nobody can tell a fresh one from none
    made_on_first_use = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__slots__" not in cls.__dict__ and cls.__dictoffset__:
            raise TypeError(f"{cls.__name__} must declare __slots__ = () so that nothing undeclared can be stored")
        fields = dict(cls.fields)
        for name, value in cls.__dict__.items():
            if isinstance(value, Declared):
                value.at = len(fields)
                fields[name] = value
        offset = 1  # 0 is the object's lifetime
        for f in fields.values():
            if f.events:
                f.offset = offset
                offset += 1
        cls.fields = fields
        cls._nids = offset
        cls._counters = tuple(f.offset for f in fields.values() if isinstance(f, Counter))
        cls._layout = ("",) + tuple(n for n, f in fields.items() if f.events)

    def __init__(self, name: str, **values: Any) -> None:
        self.name = name
        self._freed = False
        self.id = rt.engine.allocate(self._nids, self)
        if self._counters:
            rt.engine.updated.update(self.id + offset for offset in self._counters)
        self._values = [_UNSET] * len(self.fields)
        for key, value in values.items():
            self._values[self.fields[key].at] = value

    def object_name(self, offset: int) -> str:
        """The printable name of a footprint object of this one."""
        return f"{self.name}.{self._layout[offset]}" if offset else self.name

    def oid(self, field: str) -> int:
        """The footprint id of one of the object's fields, for ``look`` and ``touch``."""
        return self.id + self.fields[field].offset

    def peek(self, field: str) -> Any:
        """The field's value without an event: for printers, checks and names only, never for model decisions."""
        return self._values[self.fields[field].at]

    def store(self, field: str, value: int, seen: int, lost_update: str = "lost-update") -> None:
        """An ordinary store of a word of flags that was worked out from ``seen``, read earlier.

        Where somebody has changed the word in between and the store puts his bits back, his update is lost: the
        finding ``lost_update``.
        """
        f = self.fields[field]
        rt.point((PLAIN_WRITE, self.id + f.offset, ()))
        if self._freed:
            self._used_after_free(field)
        now = self._values[f.at]
        lost = (now ^ seen) & (value ^ now)
        if lost:
            report(
                "invariant",
                lost_update,
                f"{rt.current().name} writes {self.name}.{field} from a value read before another task changed it: "
                f"bits {lost:#x} go back to {seen & lost:#x}",
            )
        self._values[f.at] = value

    def free(self) -> None:
        """End the object's life. Whoever touches it from now on is a use-after-free finding."""
        rt.point((FREE, self.id, tuple(x << 1 | 1 for x in range(self.id + 1, self.id + self._nids))))
        if self._freed:
            report("use-after-free", "double free", f"{rt.current().name} frees {self.name} again")
        self._freed = True

    @property
    def freed(self) -> bool:
        """Ghost: has the object been freed?"""
        return self._freed

    def _used_after_free(self, field: str) -> None:
        report(
            "use-after-free",
            f"use-after-free {type(self).__name__}",
            f"{rt.current().name} touches {self.name}.{field} after it was freed",
        )

    # -- atomics -------------------------------------------------------------------------------------------------
    def xchg(self, field: str, value: Any) -> Any:
        """Atomically store ``value``; returns what was there."""
        f = self._rmw(field)
        old, self._values[f.at] = self._values[f.at], value
        return old

    def cmpxchg(self, field: str, old: Any, new: Any) -> Any:
        """Atomically store ``new`` if ``old`` is there; returns what was there."""
        f = self._rmw(field)
        was = self._values[f.at]
        if was == old:
            self._values[f.at] = new
        return was

    def add_return(self, field: str, delta: int) -> int:
        """Atomically add; returns the new value."""
        f = self._rmw(field)
        self._values[f.at] += delta
        value: int = self._values[f.at]
        return value

    def add(self, field: str, delta: int) -> None:
        """Add to a Counter without looking at the result."""
        f = self.fields[field]
        rt.point((COUNTER_ADD, self.id + f.offset, ()))
        if self._freed:
            self._used_after_free(field)
        self._values[f.at] += delta

    def _rmw(self, field: str) -> Declared:
        f = self.fields[field]
        rt.point((ATOMIC_RMW, self.id + f.offset, ()))
        if self._freed:
            self._used_after_free(field)
        return f


class Cells:
    """A declared array of shared cells, each a footprint object: page-table entries, TLB slots.

    Only whole events touch it: give ``point`` the op, then use ``values`` directly.
    """

    __slots__ = ("id", "label", "name", "values")

    def __init__(self, name: str, values: list[Any], label: Callable[[int], str] | None = None) -> None:
        self.name = name
        self.label = label
        self.values = values
        self.id = rt.engine.allocate(len(values), self)

    def object_name(self, offset: int) -> str:
        return f"{self.name}[{self.label(offset) if self.label else offset}]"

    def __len__(self) -> int:
        return len(self.values)


class GuardedList:
    """A declared list under a lock: reading needs it in any mode, changing needs it in write mode. No events."""

    __slots__ = ("items", "lock", "name")

    def __init__(self, name: str, lock: Any, items: Iterable[Any] = ()) -> None:
        self.name = name
        self.lock = lock
        self.items = list(items)

    def _check(self, modes: tuple[str, ...], what: str) -> None:
        if rt.engine.cur >= 0 and self.lock.held() not in modes:
            report(
                "precondition",
                f"{self.name.split('#')[0]} {what} without {self.lock.lock_class}",
                f"{rt.current().name}: {self.name} {what} without {self.lock.name}",
            )

    def __iter__(self) -> Iterator[Any]:
        self._check(("read", "write", "lock"), "walked")
        return iter(list(self.items))

    def __len__(self) -> int:
        self._check(("read", "write", "lock"), "walked")
        return len(self.items)

    def __contains__(self, item: Any) -> bool:
        self._check(("read", "write", "lock"), "walked")
        return item in self.items

    def insert(self, at: int, item: Any) -> None:
        """Put ``item`` at position ``at``."""
        self._check(("write", "lock"), "changed")
        self.items.insert(at, item)

    def append(self, item: Any) -> None:
        """Put ``item`` at the end."""
        self._check(("write", "lock"), "changed")
        self.items.append(item)

    def index(self, item: Any) -> int:
        """The position of ``item``; ValueError if absent."""
        self._check(("read", "write", "lock"), "walked")
        return self.items.index(item)

    def remove(self, item: Any) -> None:
        """Take ``item`` out; ValueError if absent."""
        self._check(("write", "lock"), "changed")
        self.items.remove(item)


def look(reads: Iterable[int], own: int | None = None) -> None:
    """One event that reads everything in ``reads`` (object ids): an invariant at a point, a ghost observation."""
    ids = list(dict.fromkeys(reads if own is None else [own, *reads]))
    updated = rt.engine.updated  # two up_read commute with each other, but not with looking at the lock
    rt.point((TOUCH if ids[0] in updated else LOOK, ids[0], tuple(x << 1 | (x in updated) for x in ids[1:])))


def touch(own: int, writes: Iterable[int] = (), reads: Iterable[int] = ()) -> None:
    """One event that writes ``own`` and ``writes`` and reads ``reads`` (object ids)."""
    updated = rt.engine.updated
    bits = {x: x in updated for x in reads} | dict.fromkeys(writes, True)
    bits.pop(own, None)
    rt.point((TOUCH, own, tuple(x << 1 | bit for x, bit in bits.items())))
