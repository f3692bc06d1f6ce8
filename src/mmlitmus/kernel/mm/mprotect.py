"""mprotect. Source: mm/mprotect.c, functions of the same name."""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import (
    CACHE_MASK,
    NONE,
    PAGE_SIZE,
    PMD_SIZE,
    PUD_SIZE,
    RW,
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
from mmlitmus.kernel.mm.mlock import populate_vma_page_range
from mmlitmus.kernel.mm.mm_types import (
    VM_ACCOUNT,
    VM_EXEC,
    VM_LOCKED,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    MmStruct,
    VmArea,
)
from mmlitmus.kernel.mm.mmap import vm_get_page_prot, vma_set_page_prot
from mmlitmus.kernel.mm.mmap_lock import mmap_write_lock, mmap_write_unlock, vma_start_write
from mmlitmus.kernel.mm.mmu_gather import MmuGather, tlb_end_vma, tlb_finish_mmu, tlb_gather_mmu, tlb_remove_tlb_entries
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_PROTECTION_VMA,
    MmuNotifierRange,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.pgalloc import pmd_chunks, pmd_page, pud_chunks
from mmlitmus.kernel.mm.swapops import (
    SWP_MIGRATION_READ_EXCLUSIVE,
    SWP_MIGRATION_WRITE,
    is_device_exclusive_entry,
    is_migration_entry,
    make_migration_entry,
    migration_pfn,
    migration_type,
)
from mmlitmus.kernel.mm.vma import vma_lookup
from mmlitmus.kernel.mm.vma_flags import vm_flags_reset
from mmlitmus.kernel.mm.vma_merge import vma_modify
from mmlitmus.kernel.mm.writable import can_change_pte_writable
from mmlitmus.kernel.policy import Seam, running

change_notify = Seam("change_notify", "of which range mprotect tells MMU notifiers")

PROT_SEM = 8  # accepted, and means nothing here

driver_objects = Seam("do_mprotect_pkey", "is a driver asked before mprotect changes his mapping")
mprotect_account = Seam("mprotect_account", "what an anonymous mapping counts for when it loses its write permission")


def sys_mprotect(mm: MmStruct, start: int, length: int, prot: int) -> int:
    """mprotect(2), bytes: 0 or an errno. What came before a hole stays changed."""
    if start & PAGE_SIZE - 1 or prot & ~(7 | PROT_SEM):
        return -EINVAL
    prot &= 7
    if not length:
        return 0
    end = start + (length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1))
    mmap_write_lock(mm)
    tlb = tlb_gather_mmu(mm)
    error = 0
    at = start
    while at < end:
        vma = vma_lookup(mm, at)
        if vma is None:
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
        stop = min(vma.vm_end, end)
        error = driver_objects(vma, at, stop, seen & ~(VM_READ | VM_WRITE | VM_EXEC) | prot)
        if error:
            break
        error = mprotect_fixup(tlb, vma, at, stop, flags, seen)
        if error:
            break
        at = stop
    if not error and at < end:
        error = -ENOMEM
    tlb_finish_mmu(tlb)
    mmap_write_unlock(mm)
    return error


@driver_objects.alternative("not-asked", source="mm/mprotect.c do_mprotect_pkey, v5.10, 5.10.262", releases="<= v5.10")
def has_no_say(vma: VmArea, start: int, end: int, newflags: int) -> int:
    """There is no such hook."""
    return 0


@driver_objects.alternative("asked", source="mm/mprotect.c do_mprotect_pkey (from 6.1)", releases=">= v5.11")
def is_asked(vma: VmArea, start: int, end: int, newflags: int) -> int:
    """->mprotect, of each VMA before anything of it changes: 0, or the driver's errno."""
    return 0 if vma.vm_ops.mprotect is None else int(vma.vm_ops.mprotect(vma, start, end, newflags))


def mprotect_fixup(tlb: MmuGather, vma: VmArea, start: int, end: int, newflags: int, seen: int) -> int:
    """Give [start, end) bytes of ``vma`` new flags: split off what is outside (it gets ->open), or join a
    neighbour that has them, then change.

    Locked memory of the process's own that may be written from now on is copied, or made, at once, so that no store
    faults later; whether that succeeds nobody asks.
    """
    if vma.vm_flags == newflags:
        return 0
    was = vma
    error, vma = vma_modify(vma, start, end, newflags)
    if error:
        return error
    vma_start_write(vma)
    vm_flags_reset(vma, newflags, seen if vma is was else vma.vm_flags)
    vma.vm_page_prot = vma.vm_page_prot & CACHE_MASK | vm_get_page_prot(newflags)
    vma_set_page_prot(vma)
    change_protection(tlb, vma, start, end)
    if seen & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and newflags & VM_WRITE:
        populate_vma_page_range(vma, start, end)
    return 0


def change_protection(tlb: MmuGather, vma: VmArea, start: int, end: int) -> None:
    """Rewrite the present entries for the VMA's new protection; a huge leaf that is only partly covered goes."""
    told = None
    for first, last in pud_chunks(start, end):
        pud = pud_offset(vma.vm_mm, first)
        entry = TABLE if pud is None else pud.entry
        told = told or running().chosen(change_notify).at_pud(vma.vm_mm, first, end, entry)
        if pud is not None and pud_leaf(entry) and last - first < PUD_SIZE:
            split_huge_pud(vma.vm_mm, pud)
        elif pud is not None and pud_leaf(entry):
            change_huge_pud(tlb, pud, vma.vm_page_prot)
        elif entry != NONE:
            change_pmd_range(tlb, vma, first, last)
    if told is not None:
        mmu_notifier_invalidate_range_end(told)
    tlb_end_vma(tlb, vma)


def change_pmd_range(tlb: MmuGather, vma: VmArea, start: int, end: int) -> None:
    """``change_protection`` below the 1G leaves."""
    told = None
    for addr, stop in pmd_chunks(start, end):
        table = pmd_offset(vma.vm_mm, addr)
        entry = table.entry
        told = told or running().chosen(change_notify).at_pmd(vma.vm_mm, addr, end, entry)
        if pmd_leaf(entry) and stop - addr < PMD_SIZE:
            split_huge_pmd(vma.vm_mm, table)
        elif pmd_leaf(entry):
            change_huge_pmd(tlb, vma, table)
        elif entry != NONE:
            change_pte_range(tlb, vma, table, addr, stop)
    if told is not None:
        mmu_notifier_invalidate_range_end(told)


@change_notify.alternative("by-pmd", source="mm/mprotect.c change_pmd_range, 5.10.262, 6.1.192", releases="<= v6.11")
class NotifyByPmd:
    """Once a block of 1G, from the first 2M of it that have a table or a leaf on."""

    @staticmethod
    def at_pud(mm: MmStruct, addr: int, end: int, entry: int) -> None:
        """Nobody is told here."""

    @staticmethod
    def at_pmd(mm: MmStruct, addr: int, end: int, entry: int) -> MmuNotifierRange | None:
        """The range that is told of, from ``addr`` to ``end`` of the block, if there is something at ``addr``."""
        return begin(mm, addr, end) if entry != NONE else None


@change_notify.alternative(
    "by-pud",
    source="mm/mprotect.c change_pud_range, 6.12.117, 7.3.4; 'mm/mprotect: Push mmu notifier to PUDs' (2024)",
    releases=">= v6.12",
)
class NotifyByPud:
    """Once, from the first block of 1G that has a table or a leaf on, whether or not it has anything in the range."""

    @staticmethod
    def at_pud(mm: MmStruct, addr: int, end: int, entry: int) -> MmuNotifierRange | None:
        """The range that is told of, from ``addr`` to ``end`` of it all, if there is something in the block."""
        if not mm.notifier_subscriptions:
            return None
        return begin(mm, addr, end) if entry != NONE and pmd_page(mm, addr).there else None

    @staticmethod
    def at_pmd(mm: MmStruct, addr: int, end: int, entry: int) -> None:
        """Nobody is told here."""


def begin(mm: MmStruct, addr: int, end: int) -> MmuNotifierRange:
    """Tell that the protection of [addr, end) bytes is about to change.

    Source: mm/mprotect.c change_pmd_range (to 6.1), change_pud_range (from 6.12).
    """
    range = mmu_notifier_range_init(mm, MMU_NOTIFY_PROTECTION_VMA, addr, end)
    mmu_notifier_invalidate_range_start(range)
    return range


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
        if try_writable and not new & RW and can_change_pte_writable(vma, page, new):
            new = may_write(new | RW)
        ptep_modify_prot_commit(table, page, new)
        tlb_remove_tlb_entries(tlb, page, page + PAGE_SIZE)
    pte_unmap_unlock(ptl)


@mprotect_account.alternative("kept", source="mm/mprotect.c mprotect_fixup, v6.1", releases="<= v6.1")
def accounted_for_ever(vma: VmArea, flags: int) -> int:
    """What it was accounted for it stays accounted for: its pages may have been written."""
    return flags


@mprotect_account.alternative("given-back", source="mm/mprotect.c mprotect_fixup, 6.12.117", releases=">= v6.12")
def accounted_while_it_may_be_written(vma: VmArea, flags: int) -> int:
    """Nothing has been written to an anonymous mapping that has no anon_vma yet. (After 6.1, by 6.12.)"""
    return flags & ~VM_ACCOUNT if vma.vm_ops.anonymous and not vma.anon_vma else flags
