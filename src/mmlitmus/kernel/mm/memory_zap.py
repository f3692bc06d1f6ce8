"""Removing translations: the walk that clears entries, teardowns, and the reverse map.

What mm/memory.c does when it fills is in ``memory.py``.

Source: mm/memory.c, include/linux/mm.h, functions of the same name; where a docstring does not say otherwise.
"""

from __future__ import annotations

from mmlitmus.explore.runtime import loop_point
from mmlitmus.kernel.absent import not_modelled
from mmlitmus.kernel.arch.x86.pgtable import (
    DIRTY_BITS,
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SIZE,
    PUD_SIZE,
    PteTable,
    PudEntry,
    get_and_clear_full_ptes,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pte_present,
    pte_run,
    pte_unmap_unlock,
    pud_leaf,
    pud_offset,
)
from mmlitmus.kernel.mm.device_exclusive import zap_device_exclusive
from mmlitmus.kernel.mm.huge_memory import pud_clear_bad, split_huge_pmd, split_huge_pud, zap_huge_pmd, zap_huge_pud
from mmlitmus.kernel.mm.memory_pages import vm_normal_page, vm_normal_pages
from mmlitmus.kernel.mm.mm_types import VM_PFNMAP, AddressSpace, MmStruct, VmArea, vma_pages
from mmlitmus.kernel.mm.mmu_gather import (
    ULONG_MAX,
    MmuGather,
    tlb_end_vma,
    tlb_finish_mmu,
    tlb_flush_mmu_tlbonly,
    tlb_gather_mmu,
    tlb_remove_tlb_entries,
)
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_CLEAR,
    MMU_NOTIFY_UNMAP,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.page_alloc import Folio, folio_mark_dirty
from mmlitmus.kernel.mm.pfnmap_track import design as tracking
from mmlitmus.kernel.mm.pgalloc import batch_at, pmd_batches, pud_chunks
from mmlitmus.kernel.mm.swapfile import free_swap_and_cache
from mmlitmus.kernel.mm.swapops import is_device_exclusive_entry, is_swap_entry, swp_offset
from mmlitmus.kernel.policy import Seam, running
from mmlitmus.kernel.sync.rwsem import down_read, up_read

should_keep = Seam("should_zap_folio", "which pages unmap_mapping_range leaves mapped without even_cows")


def zap_pte_range(tlb: MmuGather, vma: VmArea, table: PteTable, addr: int, end: int) -> None:
    """Clear the PTEs of one table under its lock, noting what has to be flushed. What was counted is given
    back after the flush. That comes before the lock is dropped where a page that is not the process's own was dirty:
    who cleans it must not miss a store.
    """
    mm = tlb.mm
    batch = mm.machine.batch
    force_flush = False
    ptl = pte_offset_map_lock(table)
    while addr < end:
        loop_point(tlb, vma, table, addr, end, mm, batch, ptl, force_flush)
        entry, nr = pte_run(table, addr, 1 if batch == 1 else batch_at(mm, addr, end - addr >> PAGE_SHIFT))
        if entry != NONE and (tlb.even_cows or not zap_spares(vma, addr, entry)):
            cleared = get_and_clear_full_ptes(table, addr, nr)
            for folio in vm_normal_pages(vma, addr, cleared, nr):
                if cleared & DIRTY_BITS and not folio.anon:
                    folio_mark_dirty(folio)
                    force_flush = True
                folio.add_return("mapcount", -1)
                tlb.pages.append(folio)
            zap_nonpresent(mm, cleared)
            tlb_remove_tlb_entries(tlb, addr, addr + (nr << PAGE_SHIFT))
        addr += nr << PAGE_SHIFT
    if force_flush:
        tlb_flush_mmu_tlbonly(tlb)
    pte_unmap_unlock(ptl)


def zap_spares(vma: VmArea, address: int, entry: int) -> bool:
    """Is this entry left alone where private copies are to stay? One that maps no page is not.

    Source: mm/memory.c zap_pte_range; should_zap_page (6.1), should_zap_folio (from 6.12).
    """
    if not pte_present(entry):
        return True
    folio = vm_normal_page(vma, address, entry)
    return folio is not None and bool(should_keep(folio))


@should_keep.alternative("other-mapping", source="mm/memory.c zap_pte_range, 5.10.262", releases="<= v5.17")
def keep_what_has_another_mapping(folio: Folio) -> bool:
    """Every page that does not say that it is the file's; a page that a driver has inserted does not."""
    return True


@should_keep.alternative(
    "anon", source="mm/memory.c should_zap_page (6.1), should_zap_folio (from 6.12)", releases=">= v5.18"
)
def keep_copies(folio: Folio) -> bool:
    """A process's own."""
    return folio.anon


def zap_nonpresent(mm: MmStruct, entry: int) -> None:
    """What an entry that was not present stood for is given back, under the page-table lock. (The kernel does not
    flush for these, the model does: nothing is cached for them.)

    Source: mm/memory.c zap_pte_range (to 6.12), zap_nonpresent_ptes (7.3).
    """
    if is_swap_entry(entry):
        free_swap_and_cache(mm.machine, entry)
    elif is_device_exclusive_entry(entry):
        zap_device_exclusive(mm, mm.machine.pages[swp_offset(entry)])


def unmap_page_range(tlb: MmuGather, vma: VmArea, addr: int, end: int) -> None:
    """Clear every translation of [addr, end) bytes; a huge leaf that is only partly covered goes whole
    (``split_huge_pmd``, ``split_huge_pud``). Source: mm/memory.c unmap_page_range (to 6.12), __zap_vma_range (7.3).
    """
    for first, last in pud_chunks(addr, end):
        pud = pud_offset(tlb.mm, first)
        if pud is None or not unmap_pud_leaf(tlb, vma, pud, last - first):
            unmap_pmd_range(tlb, vma, first, last)
    tlb_end_vma(tlb, vma)


def unmap_pud_leaf(tlb: MmuGather, vma: VmArea, pud: PudEntry, size: int) -> bool:
    """What a PUD entry has for the ``size`` bytes of it that are unmapped: True if there is no table below it to go
    through. What comes in the place of a leaf meanwhile is looked at once more.

    Source: mm/memory.c zap_pud_range.
    """
    entry = pud.entry
    if pud_leaf(entry):
        if size < PUD_SIZE:
            split_huge_pud(tlb.mm, pud)
        elif zap_huge_pud(tlb, vma, pud):
            return True
        entry = pud.entry
    if pud_leaf(entry):
        pud_clear_bad(tlb.mm, pud)
        return True
    return bool(entry == NONE)


def unmap_pmd_range(tlb: MmuGather, vma: VmArea, addr: int, end: int) -> None:
    """``unmap_page_range`` below the 1G leaves. A leaf is taken away until something else is in its place. (Up to 6.4
    one that comes back at once stays. Whoever must not leave it keeps faults out, so nobody can tell.)

    Source: mm/memory.c zap_pmd_range; pte_table_reclaim_possible (7.3).
    """
    for start, stop in pmd_batches(tlb.mm, addr, end):
        table = pmd_offset(tlb.mm, start, stop - start >> PAGE_SHIFT)
        entry = table.entry
        while pmd_leaf(entry):
            if stop - start < PMD_SIZE:
                split_huge_pmd(tlb.mm, table)
            elif zap_huge_pmd(tlb, vma, table):
                entry = NONE
                break
            entry = table.entry
        if entry != NONE:
            zap_pte_range(tlb, vma, table, start, stop)
            if tlb.reclaim_pt and stop - start >= PMD_SIZE:
                not_modelled("MADV_DONTNEED of all that a page table has, with CONFIG_PT_RECLAIM")


def unmap_single_vma(tlb: MmuGather, vma: VmArea, start_addr: int, end_addr: int, mm_wr_locked: bool) -> None:
    """Unmap what [start_addr, end_addr) bytes and ``vma`` have in common.

    Source: mm/memory.c unmap_single_vma (to 6.12), __zap_vma_range (7.3).
    """
    start = max(vma.vm_start, start_addr)
    end = min(vma.vm_end, end_addr)
    if start >= end:
        return
    if vma.has(VM_PFNMAP):
        tracking().unmapping(vma, "unmap_single_vma", mm_wr_locked)
    unmap_page_range(tlb, vma, start, end)


def unmap_vmas(tlb: MmuGather, vmas: list[VmArea], start_addr: int, end_addr: int, mm_wr_locked: bool) -> None:
    """Unmap every VMA of a teardown. mmap_lock W, or R after a downgrade and in exit (``mm_wr_locked`` False). In exit
    notifiers' subscribers have been taken off already.
    """
    range = mmu_notifier_range_init(tlb.mm, MMU_NOTIFY_UNMAP, start_addr, end_addr)
    if not tlb.fullmm:
        mmu_notifier_invalidate_range_start(range)
    for vma in vmas:
        if vma.has(VM_PFNMAP):
            tracking().unmapping(vma, "unmap_vmas", mm_wr_locked)
        unmap_single_vma(tlb, vma, start_addr, end_addr, mm_wr_locked)
    if not tlb.fullmm:
        mmu_notifier_invalidate_range_end(range)


def zap_page_range_single(
    vma: VmArea, address: int, size: int, reclaim_pt: bool = False, even_cows: bool = True
) -> None:
    """Unmap ``size`` bytes of one VMA and flush before returning. Any of mmap_lock, i_mmap_rwsem keeps the VMA
    alive. ``reclaim_pt``: a page table that it empties may go, too. ``even_cows`` False: all but private copies.

    Source: mm/memory.c zap_page_range_single (to 6.12), zap_vma_range (7.3).
    """
    tlb = tlb_gather_mmu(vma.vm_mm)
    tlb.even_cows = even_cows
    zap_page_range_single_batched(tlb, vma, address, size, reclaim_pt)
    tlb_finish_mmu(tlb)


def zap_page_range_single_batched(
    tlb: MmuGather, vma: VmArea, address: int, size: int, reclaim_pt: bool = False
) -> None:
    """... and leave the flush to whoever finishes the gather.

    Source: mm/memory.c zap_page_range_single (to 6.12), zap_vma_range_batched (7.3).
    """
    range = mmu_notifier_range_init(vma.vm_mm, MMU_NOTIFY_CLEAR, address, address + size)
    tlb.reclaim_pt = reclaim_pt and running().has("PT_RECLAIM")
    mmu_notifier_invalidate_range_start(range)
    unmap_single_vma(tlb, vma, address, address + size, False)
    mmu_notifier_invalidate_range_end(range)


def zap_vma_ptes(vma: VmArea, address: int, size: int) -> None:
    """``zap_page_range_single`` for drivers: silently does nothing for a range outside the VMA, or no PFNMAP VMA.

    Source: mm/memory.c zap_vma_ptes (to 6.12), zap_special_vma_range (7.3).
    """
    if address < vma.vm_start or address + size > vma.vm_end or not vma.has(VM_PFNMAP):
        return
    zap_page_range_single(vma, address, size)


def unmap_mapping_range(mapping: AddressSpace, holebegin: int, holelen: int, even_cows: bool = True) -> None:
    """Unmap [holebegin, holebegin + holelen) bytes of the file from every VMA of every mm that maps them; with
    ``even_cows`` private copies, too.

    ``holelen`` 0 is up to the end of the file. Each VMA is flushed before the next, all under i_mmap_rwsem R. A VMA
    that is not (or no longer) linked in ``i_mmap`` is not seen.
    """
    first = holebegin >> PAGE_SHIFT
    last = first + (holelen + PAGE_SIZE - 1 >> PAGE_SHIFT) - 1 if holelen else ULONG_MAX
    down_read(mapping.i_mmap_rwsem)
    for vma in mapping.i_mmap:
        start = max(first, vma.vm_pgoff)
        stop = min(last, vma.vm_pgoff + vma_pages(vma) - 1)
        if start <= stop:
            address = vma.vm_start + (start - vma.vm_pgoff << PAGE_SHIFT)
            zap_page_range_single(vma, address, stop - start + 1 << PAGE_SHIFT, even_cows=even_cows)
    up_read(mapping.i_mmap_rwsem)
