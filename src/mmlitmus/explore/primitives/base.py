"""What every synchronisation object has: a name, a lock class, ids, and an immutable state."""

from __future__ import annotations

from typing import Any

from .. import runtime as rt
from ..findings import report
from ..runtime import Op


class Primitive:
    """A synchronisation object of ``ids`` footprint objects; ``parts`` names them."""

    __slots__ = ("id", "lock_class", "name", "state")
    parts: tuple[str, ...] = ("",)
    #: may a task that holds it sleep?
    sleeps = True

    def __init__(self, name: str, lock_class: str | None = None) -> None:
        self.name = name
        self.lock_class = lock_class or name.split("#")[0]
        self.id = rt.engine.allocate(len(self.parts), self, primitive=True)
        self.state: Any = None

    def object_name(self, offset: int) -> str:
        """The printable name of one of the footprint objects."""
        return self.name + self.parts[offset]

    def enabled(self, state: Any, op: Op, task: int) -> bool:
        """Could ``op`` of ``task`` happen in ``state``?"""
        raise NotImplementedError

    def waits_for(self, op: Op, task: int) -> list[int]:
        """The tasks whose doing a blocked ``task`` waits for; empty when it is nobody's in particular."""
        return []

    def release(self, mode: str) -> None:
        """Drop the newest hold of this lock from the current task's list; a finding if there is none."""
        held = rt.current().held
        for n in range(len(held) - 1, -1, -1):
            if held[n][0] is self and held[n][1] == mode:
                del held[n]
                return
        report("BUG", "bad unlock balance", f"{rt.current().name} releases {self.name} ({mode}) which it does not hold")

    def held(self) -> str | None:
        """How the current task holds this lock: its mode, or None."""
        best = None
        engine = rt.engine
        for prim, mode, _ in engine.tasks[engine.cur].held:
            if prim is self:
                if mode == "write":
                    return mode
                best = mode
        return best


def ask(prim: Primitive, mode: str, subclass: int) -> str:
    """Tell lockdep that the current task is about to wait for ``prim``; returns the class it is asked for as."""
    cls = prim.lock_class if not subclass else f"{prim.lock_class}/{subclass}"
    engine = rt.engine
    task = engine.tasks[engine.cur]
    if task.held and engine.i >= engine.k:
        engine.lockdep.acquire(task.held, prim, mode, cls, task.name)
    return cls
