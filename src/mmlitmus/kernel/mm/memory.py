"""Faults, and inserting translations of device memory. Removing them is in ``memory_zap.py``.

Source: mm/memory.c, include/linux/mm.h, functions of the same name; where a docstring does not say otherwise. Of the
model's own: remap_pgoff, remap_entries.
"""

from __future__ import annotations

from collections.abc import Callable

from mmlitmus.explore.findings import bug, reached, report
from mmlitmus.kernel.absent import not_modelled
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PMD_SIZE,
    PRESENT,
    PUD_SHIFT,
    RW,
    SPECIAL,
    TABLE,
    PteTable,
    mk_pte,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pte_pfn,
    pte_present,
    pte_range_none,
    pte_run,
    pte_unmap_unlock,
    ptep_get,
    pud_leaf,
    pud_offset,
    set_ptes,
    small_page,
)
from mmlitmus.kernel.errno import EBUSY, EINVAL, ENOMEM
from mmlitmus.kernel.mm.huge_memory import (
    check_insert,
    do_huge_pmd_anonymous_page,
    split_huge_pmd,
    split_huge_pud,
)
from mmlitmus.kernel.mm.memory_pages import (
    __do_fault,
    do_anonymous_page,
    do_wp_page,
    vm_insert_page,
)
from mmlitmus.kernel.mm.memory_swap import do_swap_page
from mmlitmus.kernel.mm.memory_zap import zap_page_range_single
from mmlitmus.kernel.mm.mm_types import (
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_VMA_LOCK,
    FAULT_FLAG_WRITE,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_FAULT_FALLBACK,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_SHARED,
    VM_SPECIAL,
    VM_WRITE,
    MmStruct,
    VmArea,
    VmFault,
    is_cow_mapping,
)
from mmlitmus.kernel.mm.mmap_lock import vma_end_read
from mmlitmus.kernel.mm.page_alloc import is_zero_pfn
from mmlitmus.kernel.mm.pfnmap_track import design as tracking
from mmlitmus.kernel.mm.pfnmap_track import track_pfn_insert, track_pfn_inserts
from mmlitmus.kernel.mm.pgalloc import (
    Touched,
    fault_batch,
    pmd_alloc,
    pmd_batches,
    pmd_page_alloc,
    pte_alloc_map_lock,
    pte_batches,
    pte_prealloc,
    walk_to_pmd,
)
from mmlitmus.kernel.mm.vma_flags import vm_flags_set, vma_set_flags
from mmlitmus.kernel.policy import Seam, running

#: what remap_pfn_range writes to vm_flags
REMAP_FLAGS = VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP

thp_of_special = Seam("thp_of_special", "whether ->huge_fault of a mapping of device memory is asked")
vm_mixed_ok = Seam("vm_mixed_ok", "what vmf_insert_mixed says to a VMA that is no MIXEDMAP, and to the zero page")
remap_flags = Seam("remap_flags", "when remap_pfn_range writes the VMA's flags, and who checks that it may")
remap_error = Seam("remap_error", "what becomes of the entries that a failing remap_pfn_range has written already")


# -- faults -----------------------------------------------------------------------------------------------------
def handle_mm_fault(vma: VmArea, address: int, flags: int, touched: Touched | None = None) -> int:
    """Serve a fault in ``vma``; returns VM_FAULT_* bits. Holds mmap_lock R, or the VMA's read lock with VMA_LOCK.

    ``touched``: outside of a search, the pages that are touched, if they are more than one.
    """
    machine = vma.vm_mm.machine
    vmf = VmFault(vma, address, flags, 1 if touched is None else fault_batch(vma, address, touched.nr))
    result = __handle_mm_fault(vmf)
    machine.count("pgfault", vmf.faults or vmf.nr)
    if touched is not None:
        touched.nr = vmf.nr
    return result


def __handle_mm_fault(vmf: VmFault) -> int:
    """The levels of the page table, from above."""
    vma, mm, address = vmf.vma, vmf.vma.vm_mm, vmf.address
    huge_fault = vma.vm_ops.huge_fault
    pud = pud_offset(mm, address)
    while pud is not None:
        entry = pud.entry
        if pud_leaf(entry):
            return leaf_fault(vmf, entry, PUD_SHIFT, lambda: split_huge_pud(mm, pud))
        if entry == NONE and huge_fault is not None and thp_suitable(vma, vmf.address, PUD_SHIFT):
            result: int = huge_fault(vmf, PUD_SHIFT - PAGE_SHIFT)
            if not result & VM_FAULT_FALLBACK:
                return result
        if not pud_leaf(pmd_alloc(pud)):
            break
        reached("a 1G leaf came in between")
    pmd_page_alloc(mm, address)
    table = pmd_offset(mm, address, vmf.nr)
    if vmf.nr > 1:
        vmf.nr = min(vmf.nr, table.pages_from(address))
    if huge_fault is not None and thp_suitable(vma, vmf.address, PMD_SHIFT):
        entry = table.entry
        if pmd_leaf(entry):
            return leaf_fault(vmf, entry, PMD_SHIFT, lambda: split_huge_pmd(mm, table))
        if entry == NONE:
            vmf.nr = vmf.nr if vma.vm_ops.batches else min(vmf.nr, PMD_SIZE - (address & PMD_SIZE - 1) >> PAGE_SHIFT)
            result = huge_fault(vmf, PMD_SHIFT - PAGE_SHIFT)
            if not result & VM_FAULT_FALLBACK:
                return result
    elif mm.machine.thp and vma.vm_ops.anonymous and thp_suitable(vma, vmf.address, PMD_SHIFT):
        if table.entry == NONE:
            result = do_huge_pmd_anonymous_page(vmf, table)
            if not result & VM_FAULT_FALLBACK:
                return result
    return handle_pte_fault(vmf, table)


def leaf_fault(vmf: VmFault, entry: int, shift: int, split: Callable[[], None]) -> int:
    """A fault at a huge leaf that is there: spurious, or the first store to one that is read-only.

    The driver is asked again if the mapping is shared; if it falls back, or is not asked, the leaf goes, and the access
    faults again. Source: mm/memory.c wp_huge_pmd, wp_huge_pud.
    """
    vma = vmf.vma
    vmf.nr = 1
    if not vmf.flags & FAULT_FLAG_WRITE or entry & RW or not entry & PRESENT:
        reached("the fault was spurious")
        return 0
    if vma.has(VM_SHARED):
        result: int = vma.vm_ops.huge_fault(vmf, shift - PAGE_SHIFT)
        if not result & VM_FAULT_FALLBACK:
            return result
    split()
    return 0


def thp_suitable(vma: VmArea, address: int, shift: int) -> bool:
    """May ``address`` get a leaf of 1 << ``shift`` bytes: its block lies inside the VMA, and nobody has said
    MADV_NOHUGEPAGE?

    Source: include/linux/huge_mm.h transhuge_vma_suitable (to 6.1), thp_vma_suitable_order (from 6.12),
    mm/huge_memory.c __thp_vma_allowable_orders (from 6.12).
    """
    start = address & ~((1 << shift) - 1)
    inside: bool = vma.vm_start <= start and start + (1 << shift) <= vma.vm_end
    return inside and not vma.vm_flags & VM_NOHUGEPAGE and thp_of_special(vma)


@thp_of_special.alternative(
    "any",
    source="include/linux/huge_mm.h __transparent_hugepage_enabled (5.10); mm/huge_memory.c "
    "__thp_vma_allowable_orders (from 6.12); recorded: 5.10.262, 6.12.117, 7.3.4",
    releases="<= v5.19, >= v6.12",
)
def special_or_not(vma: VmArea) -> bool:
    """A fault in device memory is one like another."""
    return True


@thp_of_special.alternative(
    "not-special",
    source="mm/huge_memory.c hugepage_vma_check, 6.1.192; recorded: 6.1.192; read up to 6.11: 'mm: thp: kill "
    "__transhuge_page_enabled()' (6.0) to the huge PFN mappings of 6.12",
    releases="v6.0 - v6.11",
)
def not_of_a_special_one(vma: VmArea) -> bool:
    """What khugepaged leaves alone gets no leaf by a fault either: ->huge_fault is not asked (but for DAX)."""
    return not vma.vm_flags & VM_SPECIAL


def handle_pte_fault(vmf: VmFault, table: PteTable) -> int:
    """The driver is asked only for what is absent. A store to a present entry that is not writable is a copy of a
    private page, or the first store to a shared one; an entry that somebody else has made meanwhile is tried again.
    """
    pmd = table.entry
    if pmd_leaf(pmd):
        vmf.nr = 1
        if vmf.flags & FAULT_FLAG_WRITE and not pmd & (RW | SPECIAL):
            not_modelled("a store to a huge page of a process's own that is read-only")
        if vmf.vma.vm_ops.huge_fault is not None:  # a leaf that is there, whatever a new one would need
            return leaf_fault(vmf, pmd, PMD_SHIFT, lambda: split_huge_pmd(vmf.vma.vm_mm, table))
        reached("the fault was spurious")
        return 0
    entry, nr = pte_run(table, vmf.address, vmf.nr) if pmd != NONE else (NONE, vmf.nr)
    vmf.nr = nr if entry == NONE else 1
    if entry == NONE:
        untouched = vmf.vma.vm_ops.anonymous and vmf.vma.vm_ops.fault is None
        return do_anonymous_page(vmf, table) if untouched else do_fault(vmf, table)
    if not pte_present(entry):
        return do_swap_page(vmf, table, entry)
    if vmf.flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE) and not entry & RW:
        return do_wp_page(vmf, table, entry, bool(vmf.vma.vm_flags & VM_WRITE))
    reached("the fault was spurious")
    return 0


def do_fault(vmf: VmFault, table: PteTable) -> int:
    """An absent PTE of a mapping of a device file: the driver's ->fault, never under the VMA lock alone.

    ``vmf_can_call_fault``: a driver without ->map_pages is called under mmap_lock only, so a fault that came in with
    the VMA lock gives it back and is retried. A driver without ->fault has filled its VMA when it was mapped: SIGBUS,
    unless the entry only was none for the moment of a change.
    """
    if vmf.vma.vm_ops.fault is None:
        vmf.nr = 1
        ptl = pte_offset_map_lock(table)
        gone = table.entry == NONE or ptep_get(table, vmf.address) == NONE
        pte_unmap_unlock(ptl)
        return VM_FAULT_SIGBUS if gone else VM_FAULT_NOPAGE
    if vmf.flags & FAULT_FLAG_VMA_LOCK:
        vma_end_read(vmf.vma)
        return VM_FAULT_RETRY
    if pte_prealloc(vmf.vma.vm_mm, table) < 0:
        return VM_FAULT_OOM
    vmf.nr = vmf.nr if vmf.vma.vm_ops.batches else 1
    return __do_fault(vmf, table)


def page_align(size: int) -> int:
    """Bytes made whole pages. Source: include/linux/mm.h PAGE_ALIGN."""
    return size + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1)


def follow_pte(vma: VmArea, address: int) -> tuple[int, int, bool]:
    """What is mapped at ``address``, under the page-table lock and for as long as it is held: (0 or -EINVAL, frame, may
    it be written). For frames that have no page to hold.

    Source: mm/memory.c follow_pte (to 6.1), follow_pfnmap_start (from 6.12).
    """
    pud = pud_offset(vma.vm_mm, address)
    upper = TABLE if pud is None else pud.entry
    if pud_leaf(upper):
        entry = small_page(upper, PUD_SHIFT, address)
        return 0, pte_pfn(entry), bool(entry & RW)
    table = pmd_offset(vma.vm_mm, address)
    pmd = table.entry if upper != NONE else NONE
    if pmd_leaf(pmd):
        entry = small_page(pmd, PMD_SHIFT, address)
        return 0, pte_pfn(entry), bool(entry & RW)
    if pmd == NONE:
        return -EINVAL, 0, False
    ptl = pte_offset_map_lock(table)
    entry = ptep_get(table, address)
    pte_unmap_unlock(ptl)
    if not pte_present(entry):
        return -EINVAL, 0, False
    return 0, pte_pfn(entry), bool(entry & RW)


# -- inserting --------------------------------------------------------------------------------------------------
def remap_pfn_range(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> int:
    """Map ``size`` bytes of consecutive frames at ``addr``: 0 or an errno. Needs mmap_lock W.

    A mapping of the whole VMA reserves the frames' memtype; any other takes the type that they have. Then flags and
    pgoff are written, then the PTEs; an entry that is already there is a BUG. ``size`` need not be whole pages.
    """
    result: int = remap_flags(vma, addr, pfn, size, prot)
    return result


@remap_flags.alternative("with-entries", source="mm/memory.c remap_pfn_range_notrack, v6.1", releases="<= v6.18")
def track_then_flags(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> int:
    """The memtype first; flags and pgoff with the entries, and the flags as every writer of them has to."""
    error, prot, ctx = tracking().remap(vma, prot, pfn, addr, page_align(size))
    if error:
        result: int = error
        return result
    error = remap_pfn_range_notrack(vma, addr, pfn, size, prot)
    if error:
        tracking().remap_failed(vma, ctx, pfn, page_align(size))
        return error
    tracking().remap_done(vma, ctx)
    return 0


@remap_flags.alternative(
    "first",
    source="mm/memory.c remap_pfn_range_prepare_vma, include/linux/mm.h vma_set_flags_mask, v7.3",
    releases="v7.3",
)
def flags_then_track(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> int:
    """Pgoff and flags before anything else, and nobody asks whether the caller may write them: a remap in ->fault,
    under mmap_lock R, is silent. They stay when the memtype is refused.
    """
    error = remap_pgoff(vma, addr, pfn, size)
    if error:
        return error
    vma_set_flags(vma, REMAP_FLAGS)
    size = page_align(size)
    error, prot, ctx = tracking().remap(vma, prot, pfn, addr, size)
    if error:
        result: int = error
        return result
    error = remap_entries(vma, addr, pfn, size, prot)
    if error:
        remap_error(vma, addr, size)
        tracking().remap_failed(vma, ctx, pfn, size)
        return error
    tracking().remap_done(vma, ctx)
    return 0


def remap_pfn_range_notrack(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> int:
    """The mapping half of ``remap_pfn_range``; the caller vouches for the cache mode."""
    error = remap_pfn_range_internal(vma, addr, pfn, size, prot)
    if error:
        remap_error(vma, addr, size)
    return error


def remap_pfn_range_internal(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> int:
    """Flags, pgoff (a private mapping's becomes the frame number) and entries: 0 or an errno."""
    if addr & PAGE_SIZE - 1:
        return remap_entries(vma, addr, pfn, size, prot)  # before anything is written, it is refused
    error = remap_pgoff(vma, addr, pfn, size)
    if error:
        return error
    vm_flags_set(vma, REMAP_FLAGS)
    return remap_entries(vma, addr, pfn, size, prot)


def remap_pgoff(vma: VmArea, addr: int, pfn: int, size: int) -> int:
    """A private mapping's pgoff becomes the frame number, which needs all of it to be remapped: 0 or -EINVAL."""
    if is_cow_mapping(vma.has(VM_SHARED | VM_MAYWRITE)):
        if addr != vma.vm_start or addr + page_align(size) != vma.vm_end:
            return -EINVAL
        vma.vm_pgoff = pfn
    return 0


def remap_entries(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> int:
    """The entries of all tables: 0 or an errno."""
    if addr & PAGE_SIZE - 1:
        report("WARN", "remap-unaligned", f"remap_pfn_range at {addr:#x}, which is no page's beginning")
        return -EINVAL
    end = addr + page_align(size)
    if addr >= end:
        bug("remap-empty-range", f"remap_pfn_range of an empty range at {addr:#x}")
    for start, stop in pmd_batches(vma.vm_mm, addr, end):
        error = remap_pte_range(vma.vm_mm, start, stop, pfn + (start - addr >> PAGE_SHIFT), prot)
        if error:
            return error
    return 0


@remap_error.alternative("leave", source="mm/memory.c remap_pfn_range_notrack, v6.10", releases="<= v6.10")
def leave_what_is_mapped(vma: VmArea, addr: int, size: int) -> None:
    """They stay, and the driver's ->mmap is expected to fail; the VMA goes with them in it."""


@remap_error.alternative(
    "zap", source="mm/memory.c remap_pfn_range_notrack, 6.1.192, 6.12.117", releases="v6.11 - v6.15, LTS"
)
def zap_what_is_mapped(vma: VmArea, addr: int, size: int) -> None:
    """They go at once: nothing keeps the frames from being used for something else after the error.

    The size is the caller's, whole pages or not. The loop over a page table, if there is one, ends where it meets the
    zap's end exactly, so with half a page it does not: what follows in memory is taken for page tables. It prints Bad
    page map, and oopses.
    """
    if size & PAGE_SIZE - 1 and pmd_offset(vma.vm_mm, addr + size).entry != NONE:
        bug("zap-past-the-end", f"remap_pfn_range of {size:#x} bytes fails, and its zap runs past its end")
    zap_page_range_single(vma, addr, size)


@remap_error.alternative("zap-pages", source="mm/memory.c remap_pfn_range_notrack, v7.3", releases=">= v6.16")
def zap_whole_pages(vma: VmArea, addr: int, size: int) -> None:
    """... and the size has been made whole pages before (remap_pfn_range_track, with pfnmap_track_ctx)."""
    zap_page_range_single(vma, addr, page_align(size))


def remap_pte_range(mm: MmStruct, addr: int, end: int, pfn: int, prot: int) -> int:
    """Fill the PTEs of one table with special entries; a PTE that is not none is a BUG. -ENOMEM also where there can be
    no table, for there is a huge leaf.
    """
    table = walk_to_pmd(mm, addr, end - addr >> PAGE_SHIFT)
    ptl = pte_alloc_map_lock(mm, table, addr)
    if ptl is None:
        return -ENOMEM
    for address, nr in pte_batches(addr, end, mm.machine.batch):
        if not pte_range_none(table, address, nr):
            bug("remap-over-populated", f"remap_pfn_range finds a populated PTE at {mm.machine.page_label(address)}")
        set_ptes(table, address, mk_pte(pfn + (address - addr >> PAGE_SHIFT), prot | SPECIAL), nr)
    pte_unmap_unlock(ptl)
    return 0


def io_remap_pfn_range(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> int:
    """``remap_pfn_range`` of device memory (decrypted, where memory can be encrypted; x86 here has none)."""
    return remap_pfn_range(vma, addr, pfn, size, prot)


def vmf_insert_pfn(vma: VmArea, addr: int, pfn: int, nr: int = 1) -> int:
    """Map one frame if the slot is free; NOPAGE either way. Needs mmap_lock R or the VMA's read lock.

    ``nr``: of a batch, whose pages one 1G block holds, that many calls for one page and frame after the other.
    """
    return vmf_insert_pfn_prot(vma, addr, pfn, vma.vm_page_prot, nr)


def vmf_insert_pfn_prot(vma: VmArea, addr: int, pfn: int, prot: int, nr: int = 1) -> int:
    """``vmf_insert_pfn`` with another protection. A slot in use is left as it is, whatever it maps, and is no error."""
    check_insert("vmf_insert_pfn", vma)
    if vma.has(VM_MIXEDMAP) and vma.vm_mm.machine.e820.pfn_valid(pfn):
        bug("insert-pfn-valid-mixed", f"vmf_insert_pfn of frame {pfn:#x}, which has a page, into a MIXEDMAP")
    if not vma.vm_start <= addr < vma.vm_end:
        return VM_FAULT_SIGBUS
    result, done = VM_FAULT_NOPAGE, 0
    while done < nr and result == VM_FAULT_NOPAGE:
        typed, same = track_pfn_inserts(vma, prot, pfn + done, nr - done)
        result = insert_pfn(vma, addr + (done << PAGE_SHIFT), pfn + done, typed, same)
        done += same
    return result


def insert_pfn(vma: VmArea, addr: int, pfn: int, prot: int, nr: int = 1) -> int:
    """Fill one free slot; NOPAGE, or OOM: without memory for a table, or where there can be none, for there is a huge
    leaf. ``nr`` slots, of a batch.
    """
    mm = vma.vm_mm
    while nr:
        table = walk_to_pmd(mm, addr, nr)
        ptl = pte_alloc_map_lock(mm, table, addr)
        if ptl is None:
            return VM_FAULT_OOM
        entry, same = pte_run(table, addr, 1 if nr == 1 else min(nr, table.pages_from(addr)))
        if entry == NONE:
            set_ptes(table, addr, mk_pte(pfn, prot | SPECIAL), same)
        else:
            reached("vmf_insert_pfn found the PTE populated")
        pte_unmap_unlock(ptl)
        addr, pfn, nr = addr + (same << PAGE_SHIFT), pfn + same, nr - same
    return VM_FAULT_NOPAGE


def vmf_insert_mixed(vma: VmArea, addr: int, pfn: int) -> int:
    """Map one frame into a MIXEDMAP, special, whether there is a page to it or not. The type is looked up first.

    Where entries cannot be special, a frame with a page is counted, as vm_insert_page does.
    """
    error: int = vm_mixed_ok(vma, pfn)
    if error:
        return error
    if not vma.vm_start <= addr < vma.vm_end:
        return VM_FAULT_SIGBUS
    prot = track_pfn_insert(vma, vma.vm_page_prot, pfn)
    if running().has("NO_PTE_SPECIAL") and pfn in vma.vm_mm.machine.pages:
        error = vm_insert_page(vma, addr, vma.vm_mm.machine.pages[pfn])
        return VM_FAULT_NOPAGE if error in (0, -EBUSY) else VM_FAULT_OOM if error == -ENOMEM else VM_FAULT_SIGBUS
    return insert_pfn(vma, addr, pfn, prot)


@vm_mixed_ok.alternative("bug", source="mm/memory.c __vm_insert_mixed, 6.1.192", releases="<= v6.10")
def bug_unless_mixed(vma: VmArea, pfn: int) -> int:
    """Any VMA but a MIXEDMAP is a BUG; the zero page may be mapped anywhere."""
    if not vma.has(VM_MIXEDMAP) and not is_zero_pfn(pfn):
        bug("insert-mixed-vma-type", f"vmf_insert_mixed into {vma.name}, which is no MIXEDMAP")
    return 0


@vm_mixed_ok.alternative(
    "sigbus", source="mm/memory.c vm_mixed_ok, vm_mixed_zeropage_allowed, 6.12.117", releases=">= v6.11"
)
def sigbus_unless_mixed(vma: VmArea, pfn: int) -> int:
    """Any VMA but a MIXEDMAP is SIGBUS. So is the zero page where somebody could pin it, and a store put another in its
    place that he does not have: in a shared mapping that may be written, but a VM_IO with ->pfn_mkwrite (or DAX).
    """
    if not is_zero_pfn(pfn):
        return 0 if vma.has(VM_MIXEDMAP) else VM_FAULT_SIGBUS
    if is_cow_mapping(vma.has(VM_SHARED | VM_MAYWRITE)) or not vma.has(VM_WRITE | VM_MAYWRITE):
        return 0
    return 0 if vma.vm_ops.pfn_mkwrite is not None and vma.has(VM_IO) else VM_FAULT_SIGBUS
