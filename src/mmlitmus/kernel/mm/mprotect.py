"""mprotect. Source: mm/mprotect.c, functions of the same name."""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import (
    CACHE_MASK,
    DIRTY_BITS,
    NONE,
    PAGE_SIZE,
    PMD_SIZE,
    PUD_SIZE,
    RW,
    SOFT_DIRTY,
    TABLE,
    PteTable,
    may_write,
    pmd_leaf,
    pmd_offset,
    pte_modify,
    pte_offset_map_lock,
    pte_present,
    pte_unmap_unlock,
    ptep_get,
    ptep_modify_prot_commit,
    ptep_modify_prot_start,
    pud_leaf,
    pud_offset,
    set_pte_at,
)
from mmlitmus.kernel.errno import EACCES, EINVAL, ENOMEM
from mmlitmus.kernel.mm.device_exclusive import design
from mmlitmus.kernel.mm.huge_memory import change_huge_pmd, change_huge_pud, split_huge_pmd, split_huge_pud
from mmlitmus.kernel.mm.memory_pages import vm_normal_page
from mmlitmus.kernel.mm.mm_types import (
    VM_ACCOUNT,
    VM_EXEC,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WRITE,
    MmStruct,
    VmArea,
)
from mmlitmus.kernel.mm.mmap import vm_get_page_prot, vma_set_page_prot
from mmlitmus.kernel.mm.mmap_lock import mmap_write_lock, mmap_write_unlock, vma_start_write
from mmlitmus.kernel.mm.mmu_gather import MmuGather, tlb_end_vma, tlb_finish_mmu, tlb_gather_mmu, tlb_remove_tlb_entries
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_PROTECTION_VMA,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmlitmus.kernel.mm.pgalloc import pmd_chunks, pud_chunks
from mmlitmus.kernel.mm.swapops import (
    SWP_MIGRATION_READ_EXCLUSIVE,
    SWP_MIGRATION_WRITE,
    is_device_exclusive_entry,
    is_migration_entry,
    make_migration_entry,
    migration_pfn,
    migration_type,
)
from mmlitmus.kernel.mm.vma import split_vma, vmas_in_range
from mmlitmus.kernel.mm.vma_flags import vm_flags_reset
from mmlitmus.kernel.policy import Seam

can_change_pte_writable = Seam(
    "can_change_pte_writable", "may mprotect make an entry writable at once, where the VMA's protection does not"
)

mprotect_account = Seam("mprotect_account", "what an anonymous mapping counts for when it loses its write permission")


def sys_mprotect(mm: MmStruct, start: int, length: int, prot: int) -> int:
    """mprotect(2), bytes: 0 or an errno. What came before a hole stays changed."""
    if start & PAGE_SIZE - 1 or prot & ~7:
        return -EINVAL
    if not length:
        return 0
    end = start + (length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1))
    mmap_write_lock(mm)
    tlb = tlb_gather_mmu(mm)
    error = 0
    at = start
    for vma in vmas_in_range(mm, start, end):
        if vma.vm_start > at:
            break
        seen = vma.vm_flags
        if prot & ~(seen >> 4):
            error = -EACCES
            break
        flags = seen & ~(VM_READ | VM_WRITE | VM_EXEC) | prot
        if flags & (VM_SHARED | VM_WRITE) == VM_WRITE:
            flags |= VM_ACCOUNT
        elif not flags & VM_WRITE and flags != seen:
            flags = mprotect_account(vma, flags)
        at = min(vma.vm_end, end)
        error = mprotect_fixup(tlb, vma, max(start, vma.vm_start), at, flags, seen)
        if error:
            break
    if not error and at < end:
        error = -ENOMEM
    tlb_finish_mmu(tlb)
    mmap_write_unlock(mm)
    return error


def mprotect_fixup(tlb: MmuGather, vma: VmArea, start: int, end: int, newflags: int, seen: int) -> int:
    """Give [start, end) bytes of ``vma`` new flags: split off what is outside (it gets ->open), then change."""
    if vma.vm_flags == newflags:
        return 0
    error = isolate_range(vma, start, end)
    if error:
        return error
    vma_start_write(vma)
    vm_flags_reset(vma, newflags, seen)
    vma.vm_page_prot = vma.vm_page_prot & CACHE_MASK | vm_get_page_prot(newflags)
    vma_set_page_prot(vma)
    change_protection(tlb, vma, start, end)
    return 0


def isolate_range(vma: VmArea, start: int, end: int) -> int:
    """Split so that ``vma`` is exactly [start, end) bytes; the outer parts are the new VMAs. 0 or an errno.

    Source: mm/mprotect.c mprotect_fixup (to 6.1), mm/vma.c vma_modify_flags (from 6.12).
    """
    if vma.vm_start < start:
        error, _ = split_vma(vma, start, new_below=True)
        if error:
            return error
    if vma.vm_end > end:
        error, _ = split_vma(vma, end, new_below=False)
        if error:
            return error
    return 0


def change_protection(tlb: MmuGather, vma: VmArea, start: int, end: int) -> None:
    """Rewrite the present entries for the VMA's new protection; a huge leaf that is only partly covered goes."""
    mmu_notifier_invalidate_range_start(vma.vm_mm, start, end, MMU_NOTIFY_PROTECTION_VMA)
    for first, last in pud_chunks(start, end):
        pud = pud_offset(vma.vm_mm, first)
        entry = TABLE if pud is None else pud.entry
        if pud is not None and pud_leaf(entry) and last - first < PUD_SIZE:
            split_huge_pud(vma.vm_mm, pud)
        elif pud is not None and pud_leaf(entry):
            change_huge_pud(tlb, pud, vma.vm_page_prot)
        elif entry != NONE:
            change_pmd_range(tlb, vma, first, last)
    mmu_notifier_invalidate_range_end(vma.vm_mm, start, end)
    tlb_end_vma(tlb, vma)


def change_pmd_range(tlb: MmuGather, vma: VmArea, start: int, end: int) -> None:
    """``change_protection`` below the 1G leaves."""
    for addr, stop in pmd_chunks(start, end):
        table = pmd_offset(vma.vm_mm, addr)
        entry = table.entry
        if pmd_leaf(entry) and stop - addr < PMD_SIZE:
            split_huge_pmd(vma.vm_mm, table)
        elif pmd_leaf(entry):
            change_huge_pmd(tlb, table, vma.vm_page_prot)
        elif entry != NONE:
            change_pte_range(tlb, vma, table, addr, stop)


def change_pte_range(tlb: MmuGather, vma: VmArea, table: PteTable, addr: int, end: int) -> None:
    """One table's PTEs, each in two steps between which it reads as none."""
    prot = vma.vm_page_prot
    try_writable = vma.vm_flags & VM_WRITE and not prot & RW
    ptl = pte_offset_map_lock(table)
    for page in range(addr, end, PAGE_SIZE):
        seen = ptep_get(table, page)
        if seen == NONE:
            continue
        if not pte_present(seen):
            if is_migration_entry(seen) and migration_type(seen) == SWP_MIGRATION_WRITE:
                set_pte_at(table, page, make_migration_entry(migration_pfn(seen), SWP_MIGRATION_READ_EXCLUSIVE, 0))
            elif is_device_exclusive_entry(seen) and design().protected(seen) != seen:
                set_pte_at(table, page, design().protected(seen))
            continue
        entry = ptep_modify_prot_start(table, page)
        new = pte_modify(entry, prot)
        if try_writable and not new & RW and can_change_pte_writable(vma, new):
            new = may_write(new | RW)
        ptep_modify_prot_commit(table, page, new)
        tlb_remove_tlb_entries(tlb, page, page + PAGE_SIZE)
    pte_unmap_unlock(ptl)


def shared_and_dirty(vma: VmArea, entry: int) -> bool:
    """Has the driver heard of a store to this page?

    Source: mm/mprotect.c change_pte_range (5.10), can_change_pte_writable (from 6.1).
    """
    return bool(vma.has(VM_SHARED) and entry & DIRTY_BITS)


@mprotect_account.alternative("kept", source="mm/mprotect.c mprotect_fixup, v6.1", releases="<= v6.1")
def accounted_for_ever(vma: VmArea, flags: int) -> int:
    """What it was accounted for it stays accounted for: its pages may have been written."""
    return flags


@mprotect_account.alternative("given-back", source="mm/mprotect.c mprotect_fixup, 6.12.117", releases=">= v6.12")
def accounted_while_it_may_be_written(vma: VmArea, flags: int) -> int:
    """Nothing has been written to an anonymous mapping that has no anon_vma yet. (After 6.1, by 6.12.)"""
    return flags & ~VM_ACCOUNT if vma.vm_ops.anonymous and not vma.anon_vma else flags


@can_change_pte_writable.alternative("shared", source="mm/mprotect.c change_pte_range, v5.10", releases="<= v5.18")
def if_the_driver_knows(vma: VmArea, entry: int) -> bool:
    """A shared page whose driver has heard of its first store: the entry is dirty, and soft-dirty where the VMA is."""
    return shared_and_dirty(vma, entry) and bool(entry & SOFT_DIRTY or not vma.vm_flags & VM_SOFTDIRTY)


@can_change_pte_writable.alternative(
    "or-exclusive-and-dirty",
    source="mm/mprotect.c can_change_pte_writable, 6.1.192; recorded: 6.1.192",
    releases="v5.19 - v6.1",
)
def if_the_driver_knows_or_nobody_shares_what_is_dirty(vma: VmArea, entry: int) -> bool:
    """Such a page, or a private anonymous one that no other process maps, if it is dirty: one that somebody has forced
    a store to need not be.
    """
    return bool(entry & DIRTY_BITS) and if_the_driver_knows_or_nobody_shares(vma, entry)


@can_change_pte_writable.alternative(
    "or-exclusive", source="mm/mprotect.c can_change_pte_writable, 6.12.117", releases=">= v6.2"
)
def if_the_driver_knows_or_nobody_shares(vma: VmArea, entry: int) -> bool:
    """Such a page, or a private anonymous one that no other process maps; where soft-dirty is tracked, only one that is
    soft-dirty.
    """
    if not vma.vm_flags & VM_SOFTDIRTY and not entry & SOFT_DIRTY:
        return False
    if vma.has(VM_SHARED):
        return shared_and_dirty(vma, entry)
    page = vm_normal_page(vma.vm_mm, entry)
    return page is not None and page.anon and bool(page.anon_exclusive)
