"""Values in a form in which they can be compared across executions.

This module may run compiled (see ``compiled``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from mypy_extensions import mypyc_attr

from . import runtime as rt
from .primitives.base import Primitive
from .scheduler import Task
from .state import Cells, GuardedList, Model

Item = Hashable

_ATOMS: Final = frozenset((int, str, bool, float, bytes, type(None), range, complex))
#: a value with more parts than this is not compared
LARGE: Final = 5_000


@mypyc_attr(native_class=False)
class Opaque(Exception):
    """A value that cannot be compared with one of another execution."""


class Values:
    """Values in a form in which they can be compared across executions.

    Declared objects go by their key (``key_of``), the set-up's ``context`` is one thing. Everything else goes by its
    content, so two of equal content are taken for one: objects that are neither declared nor made by the set-up are
    values in this sense, and what the set-up made and did not declare does not change (``audit`` looks for it).
    """

    def __init__(self, key_of: Callable[[Any], Item]) -> None:
        self.key_of = key_of
        self.context: Any = None
        self.codes: dict[CodeType, int] = {}
        self.kinds: dict[type, bool] = {}  # is it a declared object?
        self.slots: dict[type, list[str]] = {}
        self.seen: dict[int, int] = {}
        self.parts = 0

    def canonical(self, value: Any) -> Item:
        """The value's form; Opaque when it has none."""
        if type(value) in _ATOMS:
            return value  # type: ignore[no-any-return]
        self.seen.clear()
        self.parts = 0
        return self._of(value)

    def or_token(self, value: Any, token: Item) -> Item:
        """The value's form, or ``token``."""
        try:
            return self.canonical(value)
        except Opaque:
            return token

    def _of(self, v: Any) -> Item:
        t = type(v)
        if t in _ATOMS:
            return v  # type: ignore[no-any-return]
        declared = self.kinds.get(t)
        if declared is None:
            declared = self.kinds[t] = issubclass(t, (Model, Primitive, Cells, GuardedList))
        if declared:
            return ("@", self.key_of(v))
        if v is self.context:
            return ("context",)
        self.parts += 1
        if self.parts > LARGE:
            raise Opaque
        if isinstance(v, Enum):
            return (t.__name__, v.name)
        if isinstance(v, int):
            return int(v)
        if isinstance(v, tuple):
            return ("tuple", *[self._of(x) for x in v])
        if id(v) in self.seen:
            return ("again", self.seen[id(v)])
        self.seen[id(v)] = len(self.seen)
        return self._content(t, v)

    def _content(self, t: type, v: Any) -> Item:
        if isinstance(v, (list, bytearray)):
            return ("list", *[self._of(x) for x in v])
        if isinstance(v, dict):
            return ("dict", *[(self._of(k), self._of(x)) for k, x in v.items()])
        if isinstance(v, (set, frozenset)):
            return ("set", *sorted((self._of(x) for x in v), key=repr))
        if isinstance(v, FunctionType):
            cells = tuple(self._cell(c) for c in v.__closure__ or ())
            return ("function", v.__module__, v.__qualname__, self._code(v), cells, self._of(v.__defaults__))
        if isinstance(v, MethodType):
            return ("method", v.__func__.__qualname__, self._of(v.__self__))
        if isinstance(v, (type, ModuleType, BuiltinFunctionType)):
            return (t.__name__, getattr(v, "__qualname__", v.__name__))
        if isinstance(v, Task):
            return ("task", v.index)
        slots = self.slots.get(t)
        if slots is None:
            slots = self.slots[t] = _slots(t)
        names = [*getattr(v, "__dict__", ()), *slots]
        if v is rt.engine or (not names and t.__module__ == "builtins") or hasattr(v, "__next__"):
            raise Opaque
        return (t.__module__, t.__qualname__, *[(n, self._of(getattr(v, n))) for n in names if hasattr(v, n)])

    def _code(self, v: FunctionType) -> int:
        """Two functions of one name are told apart by their code (which is equal if it stands at the same place)."""
        return self.codes.setdefault(v.__code__, len(self.codes))

    def _cell(self, cell: CellType) -> Item:
        try:
            return (self._of(cell.cell_contents),)
        except ValueError:  # not assigned yet
            return ()


def _slots(t: type) -> list[str]:
    """The slots of a class, inherited ones included."""
    names: list[str] = []
    for cls in t.__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return [n for n in names if n not in ("__dict__", "__weakref__")]
