"""Writing to /proc/PID/clear_refs: soft-dirty tracking begins anew, or every page counts as not used lately.

Source: fs/proc/task_mmu.c, functions of the same name; include/linux/pgtable.h ptep_test_and_clear_young. A PFNMAP is
left out. Pages that look pinned stay writable, and so soft-dirty: who has pinned them may write to them at any time.
"""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    NONE,
    PAGE_SIZE,
    RW,
    SOFT_DIRTY,
    TABLE,
    PteTable,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pte_present,
    pte_unmap_unlock,
    ptep_get,
    ptep_modify_prot_commit,
    ptep_modify_prot_start,
    pud_leaf,
    pud_offset,
    set_pte_at,
    stop_writing,
)
from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.errno import EINVAL
from mmlitmus.kernel.mm.huge_memory import split_huge_pud
from mmlitmus.kernel.mm.memory_pages import vm_normal_page
from mmlitmus.kernel.mm.memory_zap import ULONG_MAX
from mmlitmus.kernel.mm.mm_types import (
    VM_MAYWRITE,
    VM_PFNMAP,
    VM_SHARED,
    VM_SOFTDIRTY,
    MmStruct,
    VmArea,
    is_cow_mapping,
)
from mmlitmus.kernel.mm.mmap import vma_set_page_prot
from mmlitmus.kernel.mm.mmap_lock import mmap_write_lock, mmap_write_unlock, vma_start_write
from mmlitmus.kernel.mm.mmu_gather import TASK_SIZE
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_SOFT_DIRTY,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.page_alloc import folio_maybe_dma_pinned
from mmlitmus.kernel.mm.pgalloc import pmd_chunks, pud_chunks
from mmlitmus.kernel.mm.swapops import SWP_SOFT_DIRTY
from mmlitmus.kernel.mm.vma import vma_tree
from mmlitmus.kernel.mm.vma_flags import vm_flags_clear

CLEAR_REFS_ALL, CLEAR_REFS_ANON, CLEAR_REFS_MAPPED, CLEAR_REFS_SOFT_DIRTY, CLEAR_REFS_MM_HIWATER_RSS = 1, 2, 3, 4, 5


def clear_refs_write(mm: MmStruct, kind: int) -> int:
    """What is written is one of CLEAR_REFS_*: 0, else -EINVAL. mmap_lock W is taken; the high-water mark of a process's
    memory is not kept, so that forgetting it is no more than that.
    """
    if not CLEAR_REFS_ALL <= kind <= CLEAR_REFS_MM_HIWATER_RSS:
        return -EINVAL
    mmap_write_lock(mm)
    if kind == CLEAR_REFS_MM_HIWATER_RSS:
        mmap_write_unlock(mm)
        return 0
    range = mmu_notifier_range_init(mm, MMU_NOTIFY_SOFT_DIRTY, 0, ULONG_MAX)
    if kind == CLEAR_REFS_SOFT_DIRTY:
        for vma in vma_tree(mm):
            if vma.vm_flags & VM_SOFTDIRTY:
                vma_start_write(vma)
                vm_flags_clear(vma, VM_SOFTDIRTY)
                vma_set_page_prot(vma)
        mmu_notifier_invalidate_range_start(range)
    for vma in vma_tree(mm):
        if not clear_refs_test_walk(vma, kind):
            continue
        for first, last in pud_chunks(vma.vm_start, vma.vm_end):
            pud = pud_offset(mm, first)
            upper = TABLE if pud is None else pud.entry
            if pud is not None and pud_leaf(upper):
                split_huge_pud(mm, pud)
            elif upper != NONE:
                clear_refs_pmd_range(vma, first, last, kind)
    if kind == CLEAR_REFS_SOFT_DIRTY:
        mmu_notifier_invalidate_range_end(range)
        flush_tlb_range(mm, 0, TASK_SIZE)
    mmap_write_unlock(mm)
    return 0


def clear_refs_pmd_range(vma: VmArea, first: int, last: int, kind: int) -> None:
    """Below the 1G leaves, which do not survive a walk that looks for smaller ones: they are faulted again. (A 2M leaf
    of a VM_MIXEDMAP stays as it is here; the kernel ages it, and takes its write permission away.)

    Source: mm/pagewalk.c walk_pud_range, walk_pmd_range.
    """
    for start, end in pmd_chunks(first, last):
        table = pmd_offset(vma.vm_mm, start)
        entry = table.entry
        if entry != NONE and not pmd_leaf(entry):
            clear_refs_pte_range(vma, table, start, end, kind)


def clear_refs_test_walk(vma: VmArea, kind: int) -> bool:
    """Are the VMA's pages meant?"""
    if vma.has(VM_PFNMAP):
        return False
    anonymous = vma.vm_ops.anonymous
    return not (kind == CLEAR_REFS_ANON and not anonymous) and not (kind == CLEAR_REFS_MAPPED and anonymous)


def clear_refs_pte_range(vma: VmArea, table: PteTable, start: int, end: int, kind: int) -> None:
    """One table's entries."""
    ptl = pte_offset_map_lock(table)
    for address in range(start, end, PAGE_SIZE):
        entry = ptep_get(table, address)
        if entry == NONE:
            continue
        if kind == CLEAR_REFS_SOFT_DIRTY:
            clear_soft_dirty(vma, table, address, entry)
        elif pte_present(entry) and vm_normal_page(vma, address, entry) is not None and entry & ACCESSED:
            set_pte_at(table, address, entry & ~ACCESSED)
    pte_unmap_unlock(ptl)


def clear_soft_dirty(vma: VmArea, table: PteTable, address: int, entry: int) -> None:
    """The next store faults, and is seen; unless the page looks pinned."""
    if not pte_present(entry):
        set_pte_at(table, address, entry & ~SWP_SOFT_DIRTY)
        return
    if pte_is_pinned(vma, address, entry):
        return
    old = ptep_modify_prot_start(table, address)
    ptep_modify_prot_commit(table, address, stop_writing(old) & ~SOFT_DIRTY)


def pte_is_pinned(vma: VmArea, address: int, entry: int) -> bool:
    """Does a writable entry map a page that looks pinned, in a private mapping of an mm that has pinned anything?"""
    if not entry & RW or not is_cow_mapping(vma.has(VM_SHARED | VM_MAYWRITE)) or not vma.vm_mm.has_pinned:
        return False
    folio = vm_normal_page(vma, address, entry)
    return folio is not None and folio_maybe_dma_pinned(folio)
