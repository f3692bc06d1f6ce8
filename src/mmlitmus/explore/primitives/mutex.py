"""Mutual exclusion: spinlock, mutex and folio lock. To the search they are one thing; their rules differ.

A spinlock may not be held across a sleep; that is checked where the model sleeps (``contexts.might_sleep``).

Who takes a lock twice waits for himself, for ever. Source: kernel/locking/mutex.c mutex_lock.
"""

from __future__ import annotations

from .. import runtime as rt
from ..contexts import might_sleep
from ..ops import LOCK, TRYLOCK, UNLOCK
from ..runtime import Op
from .base import Primitive, ask


class Mutex(Primitive):
    """A lock with one holder. ``state`` is the index of the task that holds it, or None."""

    __slots__ = ()

    def enabled(self, state: int | None, op: Op, task: int) -> bool:
        return state is None

    def waits_for(self, op: Op, task: int) -> list[int]:
        return [] if self.state is None else [self.state]

    def lock(self, subclass: int = 0) -> None:
        """Wait for the lock and take it."""
        if self.sleeps:
            might_sleep("mutex_lock")
        cls = ask(self, "lock", subclass)
        rt.point((LOCK, self.id, ()))
        engine = rt.engine
        self.state = engine.cur
        engine.tasks[engine.cur].held.append((self, "lock", cls))

    def trylock(self) -> bool:
        """Take the lock if it is free; never waits."""
        rt.point((TRYLOCK, self.id, ()))
        if self.state is not None:
            return False
        self.state = rt.engine.cur
        rt.current().held.append((self, "lock", self.lock_class))
        return True

    def unlock(self) -> None:
        """Give the lock back. A finding (bad unlock balance) when the caller does not hold it."""
        rt.point((UNLOCK, self.id, ()))
        self.state = None
        self.release("lock")


class Spinlock(Mutex):
    """A Mutex under which nothing may sleep."""

    __slots__ = ()
    sleeps = False
