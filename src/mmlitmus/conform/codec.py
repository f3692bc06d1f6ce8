"""Dataclasses to JSON and back, field by field, with errors that say which field.

A dataclass declares each field with ``of(kind)``; a kind reads one JSON value (or says what is wrong with it) and
writes it again. What a dataclass does not know it keeps in ``extra`` and writes back unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, TypeVar

T = TypeVar("T")

EXTRA = "extra"


class BadValueError(ValueError):
    """A JSON value that does not fit. ``path`` is the way to it, such as ``steps[3].pages``."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message

    def within(self, path: str) -> BadValueError:
        """The same, of a value that is part of another, and there at ``path``. So a way is spelt out only where
        something does not fit.
        """
        dot = "." if path and self.path and not self.path.startswith("[") else ""
        return BadValueError(f"{path}{dot}{self.path}", self.message)


@dataclass(frozen=True)
class Kind:
    """How one sort of value is read from JSON (``read(value)``, raising BadValueError) and written to it."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]

    def read_at(self, value: Any, path: str) -> Any:
        """``read`` of a value that is at ``path`` in another."""
        try:
            return self.read(value)
        except BadValueError as e:
            raise e.within(path) from None


def of(kind: Kind, **default: Any) -> Any:
    """A dataclass field of ``kind``; optional when ``default`` or ``default_factory`` is given, and then not written
    while it has that value."""
    return field(metadata={"kind": kind}, **default)


def extra() -> Any:
    """The dataclass field that keeps what the schema does not know."""
    return field(default_factory=dict)


# -- kinds ------------------------------------------------------------------------------------------------------------
def text(*, one_of: tuple[str, ...] = (), matching: Any = None, called: str = "") -> Kind:
    """A string; one of a few, or one that a compiled pattern matches whole (``called`` describes it in errors)."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise BadValueError("", f"a string is wanted, not {shown(value)}")
        if one_of and value not in one_of:
            raise BadValueError("", f"{value!r} is none of {', '.join(one_of)}")
        if matching is not None and not matching.fullmatch(value):
            raise BadValueError("", f"{value!r} is not {called}")
        return value

    return Kind(read, _same)


def number(least: int, most: int | None = None) -> Kind:
    """A JSON integer of at least ``least`` and at most ``most``."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadValueError("", f"a whole number is wanted, not {shown(value)}")
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise BadValueError("", f"{value} is out of range ({limits})")
        return value

    return Kind(read, _same)


def _read_bits(value: Any) -> int:
    digits = value[2:] if isinstance(value, str) and value.startswith("0x") else ""
    if not 1 <= len(digits) <= 16 or digits.strip("0123456789abcdef"):
        raise BadValueError("", f'up to 64 bits as "0x..." in lower case are wanted, not {shown(value)}')
    return int(digits, 16)


def remembered(kind: Kind) -> Kind:
    """``kind`` for strings that come again and again: each is read once, and what is read is one object."""
    known = lru_cache(1 << 16)(kind.read)
    return Kind(lambda value: known(value) if isinstance(value, str) else kind.read(value), kind.write)


#: a bit pattern of up to 64 bits, written in hex because JSON numbers are read as doubles by many
BITS = remembered(Kind(_read_bits, hex))


def nested(cls: type[Any]) -> Kind:
    """An object of another dataclass."""
    return Kind(lambda value: decode(cls, value), encode)


def optional(kind: Kind) -> Kind:
    """Null, or a value of ``kind``. Null says that somebody looked for it and did not see it."""
    return Kind(
        lambda value: None if value is None else kind.read(value),
        lambda value: None if value is None else kind.write(value),
    )


def many(kind: Kind) -> Kind:
    """A list (a tuple in Python) of values of ``kind``."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise BadValueError("", f"a list is wanted, not {shown(value)}")
        got = []
        try:
            for v in value:
                got.append(kind.read(v))
        except BadValueError as e:
            raise e.within(f"[{len(got)}]") from None
        return tuple(got)

    return Kind(read, lambda values: [kind.write(v) for v in values])


def mapping(key: Kind, kind: Kind) -> Kind:
    """An object whose keys are data too."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise BadValueError("", f"an object is wanted, not {shown(value)}")
        got = {}
        for k, v in value.items():
            name = key.read(k)
            try:
                got[name] = kind.read(v)
            except BadValueError as e:
                raise e.within(f"[{k!r}]") from None
        return got

    return Kind(read, lambda values: {k: kind.write(v) for k, v in values.items()})


# -- dataclasses ------------------------------------------------------------------------------------------------------
@cache
def _fields(cls: type[Any]) -> tuple[tuple[str, Kind, bool], ...]:
    """Each field's name and kind, and whether it has to be there."""
    none = dataclasses.MISSING
    return tuple(
        (f.name, f.metadata["kind"], f.default is none and f.default_factory is none)
        for f in dataclasses.fields(cls)
        if f.name != EXTRA
    )


def decode(cls: type[T], value: Any) -> T:
    """The dataclass ``cls`` from a JSON object. BadValueError for a missing field or a value that does not fit."""
    if not isinstance(value, dict):
        raise BadValueError("", f"an object is wanted, not {shown(value)}")
    rest = dict(value)
    got: dict[str, Any] = {}
    for name, kind, needed in _fields(cls):  # type: ignore[arg-type]
        if name in rest:
            try:
                got[name] = kind.read(rest.pop(name))
            except BadValueError as e:
                raise e.within(name) from None
        elif needed:
            raise BadValueError("", f"the field {name!r} is missing")
    if rest:
        got[EXTRA] = rest
    return cls(**got)


def encode(value: Any) -> dict[str, Any]:
    """The JSON object of a dataclass: its fields, without optional ones that have their default, then what is extra."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        if f.name == EXTRA:
            continue
        got = getattr(value, f.name)
        if f.default is not dataclasses.MISSING and got == f.default:
            continue
        if f.default_factory is not dataclasses.MISSING and got == f.default_factory():
            continue
        out[f.name] = f.metadata["kind"].write(got)
    return {**out, **value.extra}


def shown(value: Any) -> str:
    """A JSON value for an error message, cut short."""
    words = repr(value)
    return words if len(words) <= 40 else words[:37] + "..."


def _same(value: Any) -> Any:
    return value
