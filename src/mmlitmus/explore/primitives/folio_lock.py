"""The folio lock: a bit that whoever finishes with the folio clears, not only who set it.

Source: mm/filemap.c folio_lock, folio_unlock (I/O completion unlocks folios that another task locked). Having no owner
it is not known to lockdep either, in the kernel as here: it takes part in deadlocks, not in inversions.
"""

from __future__ import annotations

from .. import runtime as rt
from ..contexts import might_sleep
from ..findings import report
from ..ops import LOCK, TRYLOCK, UNLOCK
from .mutex import Mutex


class FolioLock(Mutex):
    """A lock that any task may release. ``state`` is the task that took it, or None."""

    __slots__ = ()

    def lock(self, subclass: int = 0) -> None:
        """Wait for the lock bit and set it."""
        might_sleep("folio_lock")
        rt.point((LOCK, self.id, ()))
        self.state = rt.engine.cur

    def trylock(self) -> bool:
        """Set the lock bit if it is clear; never waits."""
        rt.point((TRYLOCK, self.id, ()))
        if self.state is not None:
            return False
        self.state = rt.engine.cur
        return True

    def unlock(self) -> None:
        """Clear the lock bit, whoever set it. A BUG finding when it is clear (VM_BUG_ON_FOLIO in folio_unlock)."""
        rt.point((UNLOCK, self.id, ()))
        if self.state is None:
            report("BUG", "folio not locked", f"{rt.current().name} unlocks {self.name}, which is not locked")
        self.state = None

    def held(self) -> str | None:
        """Did the current task take the lock, and has nobody released it since?"""
        return "lock" if self.state == rt.engine.cur else None
