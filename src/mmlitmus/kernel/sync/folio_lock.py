"""The folio lock under the kernel's names. Semantics: explore/primitives/folio_lock.py."""

from __future__ import annotations

from mmlitmus.explore.primitives.folio_lock import FolioLock


def folio_lock(lock: FolioLock) -> None:
    """Wait for the folio's lock bit and set it.

    Source: include/linux/pagemap.h lock_page (5.10), folio_lock (from 6.1).
    """
    lock.lock()


def folio_trylock(lock: FolioLock) -> bool:
    """Set the folio's lock bit if it is clear.

    Source: include/linux/pagemap.h trylock_page (5.10), folio_trylock (from 6.1).
    """
    return lock.trylock()


def folio_unlock(lock: FolioLock) -> None:
    """Clear the folio's lock bit, whoever set it.

    Source: mm/filemap.c unlock_page (5.10), folio_unlock (from 6.1).
    """
    lock.unlock()
