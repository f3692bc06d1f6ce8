"""Kernels as text: all of them, or what makes one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmlitmus.checker.case import canonical
from mmlitmus.checker.kernels import Provider, spell

from .text import wrap


def overview(known: Provider, width: int) -> list[str]:
    """Releases, patches and config options."""
    lines = ["releases:"]
    lines += _two(((name, known.about(name)) for name in known.releases()), width)
    apart = known.apart()
    if apart:
        lines += ["", "known in part:", *_two(((name, known.about(name)) for name in apart), width)]
    for title, table in (("patches:", known.patches()), ("config options:", known.configs())):
        if table:
            lines += ["", title, *_two(((name, _about(table[name])) for name in table), width)]
    return lines


def portrait(known: Provider, name: str, width: int) -> list[str]:
    """One patch or option, or one kernel: its choice at every seam with its source and evidence."""
    for what, table in (("patch", known.patches()), ("config option", known.configs())):
        bare = name.removeprefix("+")
        if bare in table:
            thing = table[bare]
            facts = [(key, _text(value)) for key, value in _facts(thing) if key != "name"]
            return [f"{bare}: {what}", *_two(facts, width)]
    kernel = known.kernel(name)
    release, _, _ = canonical(name)
    lines = [spell(name), *wrap(f"  {known.about(release)}", width, "  ")]
    on = ", ".join(sorted(getattr(kernel, "config", ()))) or "nothing that the model knows"
    lines += wrap(f"  configured with {on} ({known.configured(release)})", width, "  ")
    return lines + _two(known.choices(kernel).items(), width)


def _two(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Two columns."""
    pairs = list(rows)
    left = min(max((len(a) for a, _ in pairs), default=0), 34)
    return [line for a, b in pairs for line in wrap(f"  {a:{left}}  {b}".rstrip(), width, " " * (left + 4))]


def _about(thing: Any) -> str:
    """One line on a patch or option: what it is about, and what became of it."""
    if isinstance(thing, str):
        return thing
    parts = [getattr(thing, key, "") for key in ("subject", "about", "fate")]
    return "; ".join(_text(part) for part in parts if part)


def _facts(thing: Any) -> list[tuple[str, Any]]:
    if isinstance(thing, str):
        return [("about", thing)]
    names = getattr(thing, "__dataclass_fields__", None) or vars(thing)
    return [(key, getattr(thing, key)) for key in names if not key.startswith("_")]


def _text(value: Any) -> str:
    """Data as words."""
    if isinstance(value, dict):
        return ", ".join(f"{k} = {_text(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(sorted(map(_text, value)) if isinstance(value, set | frozenset) else map(_text, value)) or "-"
    return getattr(value, "__name__", None) or str(value)
