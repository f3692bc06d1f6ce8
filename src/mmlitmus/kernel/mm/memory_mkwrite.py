"""The first store to a shared page: whom it asks, and what it does to the page.

A frame without a page asks ->pfn_mkwrite, a page ->page_mkwrite; either may say no. Whoever is asked for a page may
lock it (LOCKED); else it is locked here, and if it has no mapping by then it has been taken from its file: the fault is
in vain, and comes again. A driver's own page has a mapping only if the driver gives it one.

Source: mm/memory.c, functions of the same name. Of the model's own: locked_entry.
"""

from __future__ import annotations

from mmlitmus.explore.findings import reached
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY,
    NONE,
    RW,
    SOFT_DIRTY,
    PteTable,
    may_write,
    pte_offset_map_lock,
    pte_unmap_unlock,
    ptep_get,
    set_pte_at,
)
from mmlitmus.kernel.mm.mm_types import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_MKWRITE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_VMA_LOCK,
    FAULT_FLAG_WRITE,
    VM_FAULT_ERROR,
    VM_FAULT_LOCKED,
    VM_FAULT_NOPAGE,
    VM_FAULT_RETRY,
    VmFault,
)
from mmlitmus.kernel.mm.mmap_lock import mmap_read_unlock, vma_end_read
from mmlitmus.kernel.mm.page_alloc import Folio, folio_get, folio_mark_dirty, folio_put
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_unlock

FAULT = "a fault"


def locked_entry(table: PteTable, address: int) -> int:
    """The entry, read under the page-table lock: none if there is no table any more."""
    return ptep_get(table, address) if table.entry != NONE else NONE


def wp_pfn_shared(vmf: VmFault, table: PteTable, orig: int) -> int:
    """The first store to a shared page of device memory: the driver may object, then the entry becomes writable."""
    ops = vmf.vma.vm_ops
    if ops.pfn_mkwrite is not None:
        if vmf.flags & FAULT_FLAG_VMA_LOCK:
            vma_end_read(vmf.vma)
            return VM_FAULT_RETRY
        vmf.flags |= FAULT_FLAG_MKWRITE
        result: int = ops.pfn_mkwrite(vmf)
        if result & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
            return result
    finish_mkwrite_fault(vmf, table, orig)
    return 0


def wp_page_shared(vmf: VmFault, table: PteTable, orig: int, folio: Folio) -> int:
    """The first store to a shared page that is counted, which is held meanwhile: ->page_mkwrite is asked, never
    ->pfn_mkwrite. What has changed while it was asked is left alone.
    """
    ops = vmf.vma.vm_ops
    ptl = pte_offset_map_lock(table)
    if locked_entry(table, vmf.address) != orig:
        pte_unmap_unlock(ptl)
        return 0
    folio_get(folio, FAULT)
    if ops.page_mkwrite is None:
        set_pte_at(table, vmf.address, may_write(orig | RW | ACCESSED | DIRTY | SOFT_DIRTY))
        pte_unmap_unlock(ptl)
        folio_lock(folio.lock)
    else:
        pte_unmap_unlock(ptl)
        if vmf.flags & FAULT_FLAG_VMA_LOCK:
            vma_end_read(vmf.vma)
            folio_put(folio, FAULT)
            return VM_FAULT_RETRY
        result = do_page_mkwrite(vmf, folio)
        if not result or result & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
            folio_put(folio, FAULT)
            return result
        if not finish_mkwrite_fault(vmf, table, orig):
            reached("the entry has changed while ->page_mkwrite was asked")
            folio_unlock(folio.lock)
            folio_put(folio, FAULT)
            return VM_FAULT_NOPAGE
    result = fault_dirty_shared_page(vmf, folio)
    folio_put(folio, FAULT)
    return result


def finish_mkwrite_fault(vmf: VmFault, table: PteTable, orig: int) -> bool:
    """The entry becomes writable and dirty, if it is still ``orig``.

    Source: mm/memory.c finish_mkwrite_fault, wp_page_reuse.
    """
    ptl = pte_offset_map_lock(table)
    same: bool = locked_entry(table, vmf.address) == orig
    if same:
        set_pte_at(table, vmf.address, may_write(orig | RW | ACCESSED | DIRTY | SOFT_DIRTY))
    pte_unmap_unlock(ptl)
    return same


def do_page_mkwrite(vmf: VmFault, folio: Folio) -> int:
    """Ask ->page_mkwrite: LOCKED, and the page is locked; what else the driver says; 0 if the page has no mapping, and
    the fault is to come again.
    """
    flags = vmf.flags
    vmf.page = folio
    vmf.flags = FAULT_FLAG_WRITE | FAULT_FLAG_MKWRITE
    result: int = vmf.vma.vm_ops.page_mkwrite(vmf)
    vmf.flags = flags
    if result & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
        return result
    if not result & VM_FAULT_LOCKED:
        folio_lock(folio.lock)
        if folio.mapping is None:
            folio_unlock(folio.lock)
            reached("->page_mkwrite was asked about a page without a mapping, and asked again")
            return 0
    return result | VM_FAULT_LOCKED


def fault_dirty_shared_page(vmf: VmFault, folio: Folio) -> int:
    """The page is dirty, and unlocked. If it has a mapping, whoever dirties pages waits for those who write them, and
    gives mmap_lock, or the VMA's, back for that: RETRY, and the fault is found spurious. (From 6.0 on it says
    COMPLETED, which spares that.)
    """
    dirtied = not folio.dirty
    folio_mark_dirty(folio)
    mapping = folio.mapping
    folio_unlock(folio.lock)
    waits = mapping is not None and (dirtied or vmf.vma.vm_ops.page_mkwrite is not None)
    first = vmf.flags & (FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_TRIED) == FAULT_FLAG_ALLOW_RETRY
    if not waits or not first:
        return 0
    if vmf.flags & FAULT_FLAG_VMA_LOCK:
        vma_end_read(vmf.vma)
    else:
        mmap_read_unlock(vmf.vma.vm_mm)
    return VM_FAULT_RETRY
