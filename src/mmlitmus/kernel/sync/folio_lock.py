"""The folio lock under the kernel's names (mm/filemap.c). Semantics: explore/primitives/folio_lock.py."""

from __future__ import annotations

from mmlitmus.explore.primitives.folio_lock import FolioLock


def folio_lock(lock: FolioLock) -> None:
    """Wait for the folio's lock bit and set it."""
    lock.lock()


def folio_trylock(lock: FolioLock) -> bool:
    """Set the folio's lock bit if it is clear."""
    return lock.trylock()


def folio_unlock(lock: FolioLock) -> None:
    """Clear the folio's lock bit, whoever set it."""
    lock.unlock()
