"""2M and 1G leaves for device memory.

Source: mm/huge_memory.c, include/linux/huge_mm.h, 6.12, functions of the same name.

The protection of a leaf is put together in the layout of a 4K entry, where bit 7 is PAT; in a leaf bit 7 says "leaf",
and PAT is bit 12. Whether anybody moves the bit is ``huge_pgprot``.
"""

from __future__ import annotations

from collections.abc import Callable

from mmlitmus.explore.findings import bug, report
from mmlitmus.explore.runtime import current
from mmlitmus.kernel.absent import not_modelled
from mmlitmus.kernel.arch.x86.pat import pgprot_4k_2_large
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY,
    DIRTY_BITS,
    NONE,
    PAGE_SHIFT,
    PMD_SHIFT,
    PMD_SIZE,
    PSE,
    PTRS_PER_PTE,
    PUD_SIZE,
    RW,
    SOFT_DIRTY,
    SPECIAL,
    LeafSlot,
    PteTable,
    PudEntry,
    leaf_pfn,
    may_write,
    mk_pte,
    pmd_leaf,
    pmd_modify,
    pmd_offset,
    pmdp_huge_get_and_clear,
    stop_writing,
)
from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.mm.memory_pages import anon_vma_prepare, vm_normal_pages
from mmlitmus.kernel.mm.mm_types import (
    VM_FAULT_FALLBACK,
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    VM_LASTING,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WRITE,
    MmStruct,
    VmArea,
    VmFault,
    is_cow_mapping,
)
from mmlitmus.kernel.mm.mmu_gather import MmuGather, tlb_remove_tlb_entries
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_CLEAR,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.page_alloc import alloc_folio, folio_put, page_tables
from mmlitmus.kernel.mm.pfnmap_track import track_pfn_insert, track_pfn_inserts
from mmlitmus.kernel.mm.swap import folio_add_lru
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.spinlock import SINGLE_DEPTH_NESTING, spin_lock, spin_lock_nested, spin_unlock

PMD_ORDER = PMD_SHIFT - PAGE_SHIFT

shown_leaf = Seam("shown_leaf", "whether a huge leaf of frames has a bit that says so")
huge_pgprot = Seam("huge_pgprot", "how a protection in 4K layout gets into a huge leaf")
can_change_pmd_writable = Seam(
    "can_change_pmd_writable", "may mprotect make a 2M leaf writable at once, where the VMA's protection does not"
)
copy_pmd_leaf = Seam("copy_huge_pmd", "whether fork copies a 2M leaf of device memory, and which one")
copy_pud_leaf = Seam("copy_huge_pud", "whether fork makes 1G leaves read-only")
pud_insert_prot = Seam("pud_insert_prot", "the cache type of a 1G leaf: looked up, or what the VMA asks for")


def vmf_insert_pfn_pmd(vma: VmArea, table: PteTable, address: int, pfn: int, write: bool = False) -> int:
    """Map a 2M leaf if the PMD slot is free; NOPAGE either way. The caller has checked fit and alignment.

    ``write``: the leaf becomes writable (if the VMA is) and dirty, also one that is there already. A batch has as many
    leaves as ``table`` stands for slots.
    """
    check_insert("vmf_insert_pfn_pmd", vma)
    start = address & ~(PMD_SIZE - 1)
    if not vma.vm_start <= start < vma.vm_end:
        return VM_FAULT_SIGBUS
    done, leaves = 0, table.leaves
    while done < leaves:
        prot, same = track_pfn_inserts(vma, vma.vm_page_prot, pfn + done * PTRS_PER_PTE, leaves - done, PTRS_PER_PTE)
        slots = table if same == leaves else pmd_offset(vma.vm_mm, start + done * PMD_SIZE, same * PTRS_PER_PTE)
        _insert_leaf(vma, slots, pfn + done * PTRS_PER_PTE, prot, write)
        done += same
    return VM_FAULT_NOPAGE


def vmf_insert_pfn_pud(vma: VmArea, pud: PudEntry, address: int, pfn: int, write: bool = False) -> int:
    """Map a 1G leaf, as ``vmf_insert_pfn_pmd`` does a 2M one."""
    check_insert("vmf_insert_pfn_pud", vma)
    start = address & ~(PUD_SIZE - 1)
    if not vma.vm_start <= start < vma.vm_end:
        return VM_FAULT_SIGBUS
    prot = pud_insert_prot(vma, pfn)
    _insert_leaf(vma, pud, pfn, prot, write)
    return VM_FAULT_NOPAGE


def _insert_leaf(vma: VmArea, slot: LeafSlot, pfn: int, prot: int, write: bool) -> None:
    if pfn & (1 << slot.leaf_shift - PAGE_SHIFT) - 1:
        where = f"{vma.vm_mm.name}'s page {vma.vm_mm.machine.page_label(slot.address)}"
        report("invariant", "unaligned-leaf", f"{current().name} maps frame {pfn:#x} and on by a huge leaf at {where}")
    dirty = ACCESSED | DIRTY | SOFT_DIRTY | (RW if vma.vm_flags & VM_WRITE else 0) if write else 0
    spin_lock(slot.leaf_lock)
    entry = slot.entry
    if entry == NONE:
        slot.entry = mk_pte(pfn, 0) | huge_pgprot(prot | SPECIAL) | dirty
    elif write and leaf_pfn(entry, slot.leaf_shift) == pfn:
        slot.entry = may_write(entry | dirty)
    elif write:
        report("WARN", "insert-other-leaf", f"{current().name} finds another frame's leaf where {pfn:#x} is to go")
    spin_unlock(slot.leaf_lock)


def check_insert(who: str, vma: VmArea) -> None:
    """What every insertion of a frame is a BUG without: exactly one of PFNMAP and MIXEDMAP, and no private PFNMAP.

    Source: mm/memory.c vmf_insert_pfn_prot.
    """
    flags = vma.has(VM_LASTING)
    if flags & (VM_PFNMAP | VM_MIXEDMAP) not in (VM_PFNMAP, VM_MIXEDMAP):
        bug("insert-pfn-vma-type", f"{who} into {vma.name}, which must be PFNMAP or MIXEDMAP, and not both")
    if flags & VM_PFNMAP and is_cow_mapping(flags):
        bug("insert-pfn-cow", f"{who} into {vma.name}, a private writable PFNMAP mapping")


def do_huge_pmd_anonymous_page(vmf: VmFault, table: PteTable) -> int:
    """The first touch of a 2M block of anonymous memory: a huge page, if there is one. FALLBACK: a small one.

    As with use_zero_page=0: a load gets a page too. What comes after (a split, a copy, fork) is not modelled.
    """
    vma, mm = vmf.vma, vmf.vma.vm_mm
    if vma.has(VM_SHARED):
        return VM_FAULT_FALLBACK
    retry = anon_vma_prepare(vmf)
    if retry:
        return retry
    pages = vmf.nr
    slots = pmd_offset(mm, vmf.address, pages)
    folio = alloc_folio(mm, "the huge page", PMD_ORDER, slots.leaves)
    if folio is None:
        vmf.nr = 1
        return VM_FAULT_FALLBACK
    vmf.nr, vmf.faults = min(pages, slots.pages_from(vmf.address)), slots.leaves
    entry = mk_pte(folio.pfn, vma.vm_page_prot) | PSE | DIRTY | SOFT_DIRTY
    entry = entry | RW if vma.vm_flags & VM_WRITE else stop_writing(entry)
    spin_lock(slots.pmd_lock)
    if slots.entry != NONE:
        spin_unlock(slots.pmd_lock)
        folio_put(folio, page_tables(mm))
        return 0
    folio.add_return("mapcount", 1)
    folio_add_lru(mm.machine, folio)
    slots.entry = entry
    spin_unlock(slots.pmd_lock)
    return 0


@shown_leaf.alternative(
    "unmarked",
    source="mm/huge_memory.c insert_pfn_pmd, 5.10.262, 6.1.192; recorded: 5.10.262",
    releases="<= v6.11",
)
def without_a_mark(entry: int) -> int:
    """No: pmd_special is of 6.12. (The model marks it all the same, for its own use.)"""
    return entry & ~SPECIAL


@shown_leaf.alternative(
    "special",
    source="arch/x86/include/asm/pgtable.h pmd_mkspecial, 6.12.117, 7.3.4; recorded: 6.12.117, 7.3.4",
    releases=">= v6.12",
)
def with_a_mark(entry: int) -> int:
    """Yes, as a PTE's."""
    return entry


@huge_pgprot.alternative(
    "as-4k", source="mm/huge_memory.c insert_pfn_pmd (to 6.12), insert_pmd, insert_pud (7.3)", releases=">= v6.12"
)
def leave_pat_where_it_is(prot: int) -> int:
    """Bit 7 is swallowed by PSE: WT becomes the type of its other two bits (UC), and WP becomes WC."""
    return prot | PSE


@huge_pgprot.alternative(
    "shifted", source="'mm/x86/pat: Fix PAT bit missing for PFN mappings' (RFC, 2024)", releases="proposal"
)
def move_pat_to_bit_12(prot: int) -> int:
    """pgprot_4k_2_large(): what was asked for is what is mapped."""
    return pgprot_4k_2_large(prot) | PSE


@pud_insert_prot.alternative("vma", source="mm/huge_memory.c vmf_insert_pfn_pud, 6.12.117", releases="v6.4 - v6.16")
def look_up_and_forget(vma: VmArea, pfn: int) -> int:
    """The type is looked up, and the leaf is made from the VMA's protection all the same."""
    track_pfn_insert(vma, vma.vm_page_prot, pfn)
    prot: int = vma.vm_page_prot
    return prot


@pud_insert_prot.alternative(
    "lookup",
    source="mm/huge_memory.c vmf_insert_pfn_pud_prot (to 6.1), vmf_insert_pfn_pud (7.3); ce147c7e9508 (6.17)",
    releases="<= v6.3, >= v6.17",
)
def look_up(vma: VmArea, pfn: int) -> int:
    """As a page and a 2M leaf."""
    return track_pfn_insert(vma, vma.vm_page_prot, pfn)


# -- what becomes of a leaf: the same for both sizes ------------------------------------------------------------------
def zap_huge_pmd(tlb: MmuGather, vma: VmArea, table: PteTable) -> bool:
    """Clear a 2M leaf that is unmapped whole; the gather flushes it. False if it is none by now."""
    return _zap_leaf(tlb, vma, table)


def zap_huge_pud(tlb: MmuGather, vma: VmArea, pud: PudEntry) -> bool:
    """Clear a 1G leaf that is unmapped whole; the gather flushes it. False if it is none by now."""
    return _zap_leaf(tlb, vma, pud)


def split_huge_pmd(mm: MmStruct, table: PteTable) -> None:
    """A leaf of device memory has no pages to go on with: it is cleared and flushed at once, and faulted again."""
    _split_leaf(mm, table)


def split_huge_pud(mm: MmStruct, pud: PudEntry) -> None:
    """As ``split_huge_pmd``."""
    _split_leaf(mm, pud)


def change_huge_pmd(tlb: MmuGather, vma: VmArea, table: PteTable) -> None:
    """mprotect of a whole leaf: like a PTE, in two steps between which it reads as none."""
    _change_leaf(tlb, table, vma.vm_page_prot, lambda entry: can_change_pmd_writable(vma, entry))


@can_change_pmd_writable.alternative(
    "never", source="mm/huge_memory.c change_huge_pmd, 5.10.262, 6.1.192; recorded: 5.10.262", releases="<= v6.1"
)
def not_before_a_store(vma: VmArea, entry: int) -> bool:
    """The next store faults, whatever the driver has heard of."""
    return False


@can_change_pmd_writable.alternative(
    "shared-and-dirty",
    source="mm/huge_memory.c can_change_pmd_writable, 6.12.117, 7.3.4; recorded: 6.12.117, 7.3.4; 'mm/autonuma: use "
    "can_change_(pte|pmd)_writable() to replace savedwrite' (6.2)",
    releases=">= v6.2",
)
def if_the_driver_has_heard(vma: VmArea, entry: int) -> bool:
    """A shared leaf that is dirty, in a VMA that may be written and waits for the first store; where soft-dirty is
    tracked, only one that is soft-dirty. A private one of device memory is never writable.
    """
    waits = vma.vm_flags & VM_WRITE and not vma.vm_page_prot & RW
    if not waits or (not vma.vm_flags & VM_SOFTDIRTY and not entry & SOFT_DIRTY):
        return False
    return bool(vma.has(VM_SHARED) and entry & DIRTY_BITS)


def change_huge_pud(tlb: MmuGather, pud: PudEntry, prot: int) -> None:
    """As ``change_huge_pmd``.

    Source: mm/huge_memory.c change_huge_pud (from 6.12); none (to 6.1).
    """
    _change_leaf(tlb, pud, prot, lambda entry: False)


def pud_clear_bad(mm: MmStruct, pud: PudEntry) -> None:
    """A leaf where a table is wanted: it is called bad, and goes, without a flush.

    Source: mm/pgtable-generic.c pud_clear_bad; arch/x86/include/asm/pgtable.h pud_bad; include/linux/pgtable.h
    pud_none_or_clear_bad.
    """
    report("printk", "bad-pud", f"bad pud: {current().name} finds a 1G leaf of {mm.name} where a table should be")
    pud.entry = NONE


def copy_huge_pmd(dst: PteTable, src: PteTable, seen: int) -> None:
    """fork: the child gets the 2M leaf ``seen`` with the accessed bit cleared; dirty stays. (Or it does not.)"""
    if not seen & SPECIAL:
        not_modelled("fork of a process that has huge pages of its own")
    copy_pmd_leaf(dst, src, seen)


@copy_pmd_leaf.alternative("refilled", source="mm/huge_memory.c copy_huge_pmd, 6.1.192", releases="<= v6.11")
def leave_it_to_the_child(dst: PteTable, src: PteTable, seen: int) -> None:
    """What a fault can bring back is not copied: the child asks the driver for itself."""


@copy_pmd_leaf.alternative(
    "special", source="mm/huge_memory.c copy_huge_pmd, 6.12.117, 7.3.4; bc02afbd4d73 (6.12)", releases=">= v6.12"
)
def copy_what_was_seen(dst: PteTable, src: PteTable, seen: int) -> None:
    """It is copied as it was seen before its lock was taken. A zap through the reverse map does not need mmap_lock: it
    can have been to both since.
    """
    spin_lock(dst.leaf_lock)
    spin_lock_nested(src.leaf_lock, SINGLE_DEPTH_NESTING)
    dst.entry = seen & ~ACCESSED
    spin_unlock(src.leaf_lock)
    spin_unlock(dst.leaf_lock)


@copy_pmd_leaf.alternative("locked", source="proposal", releases="proposal")
def copy_what_is_there(dst: PteTable, src: PteTable, seen: int) -> None:
    """It is copied if it is there still, now that its lock is held."""
    _copy_leaf(dst, src, lambda entry: entry)


def copy_huge_pud(dst_vma: VmArea, dst: PudEntry, src: PudEntry) -> None:
    """fork: the child gets the 1G leaf, looked at under its lock, with the accessed bit cleared."""
    _copy_leaf(dst, src, lambda entry: copy_pud_leaf(dst_vma, src, entry))


@copy_pud_leaf.alternative("read-only", source="mm/huge_memory.c copy_huge_pud, 5.10.262, 6.1.192", releases="<= v6.11")
def both_read_only(dst_vma: VmArea, src: PudEntry, entry: int) -> int:
    """Parent's and child's are both write-protected, of shared memory, too."""
    src.entry = stop_writing(entry)
    return stop_writing(entry)


@copy_pud_leaf.alternative("as-it-is", source="mm/huge_memory.c copy_huge_pud, 6.12.117, 7.3.4", releases=">= v6.12")
def as_it_is(dst_vma: VmArea, src: PudEntry, entry: int) -> int:
    """Only those of a private mapping that may be written are."""
    return both_read_only(dst_vma, src, entry) if is_cow_mapping(dst_vma.has(VM_LASTING)) and entry & RW else entry


def _zap_leaf(tlb: MmuGather, vma: VmArea, slot: LeafSlot) -> bool:
    spin_lock(slot.leaf_lock)
    found = pmd_leaf(slot.entry)
    if found:
        entry = pmdp_huge_get_and_clear(slot)
        size = slot.leaves << slot.leaf_shift
        nr = 1 if slot.leaves == 1 else size >> PAGE_SHIFT
        for folio in vm_normal_pages(vma, slot.address, entry & ~PSE, nr):
            folio.add_return("mapcount", -1)
            tlb.pages.append(folio)
        tlb_remove_tlb_entries(tlb, slot.address, slot.address + size)
    spin_unlock(slot.leaf_lock)
    return found


def _split_leaf(mm: MmStruct, slot: LeafSlot) -> None:
    range = mmu_notifier_range_init(
        mm, MMU_NOTIFY_CLEAR, slot.address, slot.address + (slot.leaves << slot.leaf_shift)
    )
    mmu_notifier_invalidate_range_start(range)
    spin_lock(slot.leaf_lock)
    if pmd_leaf(slot.entry):
        if not slot.peek("entry") & SPECIAL:
            not_modelled("a huge page of a process's own that is split")
        pmdp_huge_get_and_clear(slot)
        flush_tlb_range(mm, range.start, range.end)
    spin_unlock(slot.leaf_lock)
    mmu_notifier_invalidate_range_end(range)


def _change_leaf(tlb: MmuGather, slot: LeafSlot, prot: int, writable: Callable[[int], bool]) -> None:
    spin_lock(slot.leaf_lock)
    if pmd_leaf(slot.entry):
        entry = pmdp_huge_get_and_clear(slot)
        entry = pmd_modify(entry, prot, slot.leaf_shift)
        slot.entry = may_write(entry | RW) if not entry & RW and writable(entry) else entry
        tlb_remove_tlb_entries(tlb, slot.address, slot.address + (1 << slot.leaf_shift))
    spin_unlock(slot.leaf_lock)


def _copy_leaf(dst: LeafSlot, src: LeafSlot, change: Callable[[int], int]) -> None:
    spin_lock(dst.leaf_lock)
    spin_lock_nested(src.leaf_lock, SINGLE_DEPTH_NESTING)
    entry = src.entry
    if pmd_leaf(entry):
        dst.entry = change(entry) & ~ACCESSED
    spin_unlock(src.leaf_lock)
    spin_unlock(dst.leaf_lock)
