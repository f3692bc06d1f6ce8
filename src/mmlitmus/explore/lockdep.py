"""Lock inversion by class, as the kernel's lockdep judges it: what *would* be warned about, reached or not.

An edge A -> B means that B was asked for while A was held. A trylock adds no incoming edge (it cannot wait), but what
is taken under a lock had by trylock counts. A cycle is an ``inversion``; a ``deadlock`` is one that was reached. Read
acquisitions count like write ones, as they do for every lock behind which a writer can queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import runtime as rt
from .findings import Finding

Edge = tuple[str, str]
#: how an edge came about, in words and as a schedule
Seen = tuple[str, list[tuple[str, int]]]


class Lockdep:
    """The lock-class graph over every execution of a search."""

    def __init__(self) -> None:
        self.edges: dict[Edge, str] = {}
        self.findings: list[Finding] = []
        self.schedules: dict[Finding, list[tuple[str, int]]] = {}

    def acquire(self, held: list[tuple[Any, str, str]], lock: Any, mode: str, new: str, task: str) -> None:
        """Task ``task``, holding ``held``, asks for ``lock`` as class ``new`` (class or class/subclass)."""
        for prim, _, old in held:
            if (old, new) in self.edges:
                continue
            self.edges[old, new] = f"{task} takes {lock.name} ({mode}) while holding {prim.name}"
            self._check(old, new)

    def prime(self, old: str, new: str, why: str) -> None:
        """The edge is known before anything runs."""
        self.edges.setdefault((old, new), why)

    def _check(self, old: str, new: str) -> None:
        self.close(old, new, rt.engine.choices)

    def close(self, old: str, new: str, choices: Callable[[], list[tuple[str, int]]]) -> None:
        """Report the cycle that the edge ``old`` -> ``new`` closes, if it does; ``choices``: how it came about."""
        path = self._path(new, old)
        if path is None:
            return
        cycle = [old, *path]
        first = cycle.index(min(cycle[:-1]))
        ring = cycle[first:-1] + cycle[:first]
        why = "; ".join(self.edges[a, b] for a, b in zip(ring, [*ring[1:], ring[0]], strict=True))
        f = Finding("inversion", "inversion " + " -> ".join([*ring, ring[0]]), why)
        if f not in self.schedules:
            self.findings.append(f)
            self.schedules[f] = choices()

    def _path(self, a: str, b: str) -> list[str] | None:
        """The shortest chain of classes from ``a`` to ``b``, or None."""
        if a == b:
            return [a]
        paths = [[a]]
        seen = {a}
        while paths:
            longer = []
            for path in paths:
                for x, y in self.edges:
                    if x == path[-1] and y not in seen:
                        if y == b:
                            return [*path, y]
                        seen.add(y)
                        longer.append([*path, y])
            paths = longer
        return None


class Recording(Lockdep):
    """The graph of a part of a search. Its cycles are looked for when the parts are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[Edge, Seen] = {}

    def prime(self, old: str, new: str, why: str) -> None:
        super().prime(old, new, why)
        self.seen.setdefault((old, new), (why, []))

    def _check(self, old: str, new: str) -> None:
        self.seen[old, new] = (self.edges[old, new], rt.engine.choices())


def lock_classes(seen: dict[Edge, Seen]) -> Lockdep:
    """The graph with these edges, in this order."""
    whole = Lockdep()
    for (old, new), (why, choices) in seen.items():
        whole.edges[old, new] = why
        whole.close(old, new, lambda choices=choices: choices)  # type: ignore[misc]
    return whole
