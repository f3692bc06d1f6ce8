"""Waiting for a page's lock in a fault.

Source: mm/filemap.c, include/linux/pagemap.h, functions of the same name.
"""

from __future__ import annotations

from mmlitmus.explore.findings import reached
from mmlitmus.kernel.mm.mm_types import FAULT_FLAG_ALLOW_RETRY, FAULT_FLAG_TRIED, FAULT_FLAG_VMA_LOCK, VmFault
from mmlitmus.kernel.mm.mmap_lock import mmap_read_unlock, vma_end_read
from mmlitmus.kernel.mm.page_alloc import Folio
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_trylock, folio_unlock


def release_fault_lock(vmf: VmFault) -> None:
    """Give back what the fault is served under.

    Source: none (to 6.1); include/linux/mm.h release_fault_lock (from 6.12).
    """
    if vmf.flags & FAULT_FLAG_VMA_LOCK:
        vma_end_read(vmf.vma)
    else:
        mmap_read_unlock(vmf.vma.vm_mm)


def folio_lock_or_retry(vmf: VmFault, folio: Folio) -> bool:
    """Lock the page: True. Who may try again, and has not yet, does not wait with mmap_lock (or the VMA's) in his
    hands: he gives it back, waits, and it is False. The page is held.

    Who waits here takes the lock for a moment. Source: include/linux/pagemap.h lock_page_or_retry (5.10),
    folio_lock_or_retry (from 6.1); mm/filemap.c __lock_page_or_retry (5.10), __folio_lock_or_retry (from 6.1).
    """
    if folio_trylock(folio.lock):
        return True
    if vmf.flags & (FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_VMA_LOCK) and not vmf.flags & FAULT_FLAG_TRIED:
        release_fault_lock(vmf)
        folio_lock(folio.lock)
        folio_unlock(folio.lock)
        reached("a fault waited for a page's lock")
        return False
    folio_lock(folio.lock)
    return True
