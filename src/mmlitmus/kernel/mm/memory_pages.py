"""Counted pages in page tables: anonymous memory and the zero page, private copies, pages that a driver has inserted.

What mm/memory.c does with a special entry, which maps a frame and no page, is in ``memory.py``.

Source: mm/memory.c, functions of the same name; where a docstring does not say otherwise. Of the model's own:
map_anon_folio and wp_counted_page.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import bug, reached, report
from mmlitmus.explore.runtime import current
from mmlitmus.kernel.absent import not_modelled
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY,
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    RW,
    SOFT_DIRTY,
    SPECIAL,
    PteTable,
    may_write,
    mk_pte,
    pmd_leaf,
    pte_offset_map_lock,
    pte_pfn,
    pte_present,
    pte_range_none,
    pte_unmap_unlock,
    ptep_get,
    ptep_get_and_clear,
    ptep_walked,
    set_pte_at,
    set_ptes,
    stop_writing,
)
from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.errno import EBUSY, EFAULT, EINVAL, ENOMEM
from mmlitmus.kernel.mm.memory_mkwrite import (
    do_page_mkwrite,
    fault_dirty_shared_page,
    locked_entry,
    wp_page_shared,
    wp_pfn_shared,
)
from mmlitmus.kernel.mm.mm_types import (
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_VMA_LOCK,
    FAULT_FLAG_WRITE,
    VM_EXEC,
    VM_FAULT_ERROR,
    VM_FAULT_LOCKED,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_WRITE,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WRITE,
    MmStruct,
    VmArea,
    VmFault,
)
from mmlitmus.kernel.mm.mmap_lock import mmap_read_trylock, vma_end_read
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_CLEAR,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.page_alloc import (
    ZERO_PFN,
    Folio,
    alloc_folio,
    folio_get,
    folio_put,
    is_zero_pfn,
    page_tables,
)
from mmlitmus.kernel.mm.pgalloc import pte_alloc, pte_alloc_map_lock, walk_to_pmd
from mmlitmus.kernel.mm.swap import folio_add_lru, lru_add_drain
from mmlitmus.kernel.mm.swapfile import folio_free_swap, free_swap_cache, in_swap_cache
from mmlitmus.kernel.mm.vma_flags import vm_flags_set
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_trylock, folio_unlock

wp_can_reuse_anon_folio = Seam(
    "wp_can_reuse_anon_folio", "when a store to a read-only page of a process's own is done in place"
)
set_pte_range = Seam("set_pte_range", "whether a load maps a page dirty that may be written to")
fault_unshare = Seam("fault_unshare", "what a fault with FAULT_FLAG_UNSHARE copies")
copied_from = Seam("wp_page_copy", "what becomes of a page in the swap cache that has been copied")


def vm_normal_page(vma: VmArea, address: int, entry: int) -> Folio | None:
    """The page that an entry maps and counts; None for a special entry, the zero page's among them, and for what is not
    present.
    """
    pages = vm_normal_pages(vma, address, entry, 1)
    return pages[0] if pages else None


def vm_normal_pages(vma: VmArea, address: int, entry: int, nr: int) -> list[Folio]:
    """... and of a batch of entries all that they map and count.

    Source: mm/memory.c vm_normal_page.
    """
    if not pte_present(entry):
        return []
    if entry & SPECIAL:
        if not vma.has(VM_PFNMAP | VM_MIXEDMAP) and not is_zero_pfn(pte_pfn(entry)):
            print_bad_pte(vma, address, entry)
        return []
    frames = vma.vm_mm.machine.pages
    if nr == 1:
        folio = frames.get(pte_pfn(entry))
        return [] if folio is None else [folio]
    return [folio for _, _, folio in frames.runs(pte_pfn(entry), nr) if folio is not None]


def print_bad_pte(vma: VmArea, address: int, entry: int) -> None:
    """An entry that maps no page, in a mapping where each has to: it is left out, and the kernel tainted.

    Source: mm/memory.c print_bad_pte (to 6.12), print_bad_page_map (7.3).
    """
    where = f"{vma.vm_mm.name}'s page {vma.vm_mm.machine.page_label(address)}"
    report("BUG", "bad-page-map", f"Bad page map: {current().name} finds {entry:#x} at {where}, in {vma.name}")


# -- the first touch --------------------------------------------------------------------------------------------------
def anon_vma_prepare(vmf: VmFault) -> int:
    """Make the VMA one that has pages of a process's own: 0, or RETRY where only the VMA is locked, which will not do.

    Source: include/linux/rmap.h anon_vma_prepare (to 6.12); mm/memory.c __vmf_anon_prepare (from
    6.12); mm/rmap.c.
    """
    vma = vmf.vma
    if vma.anon_vma:
        return 0
    if vmf.flags & FAULT_FLAG_VMA_LOCK:
        vmf.nr = 1
        vma_end_read(vma)
        return VM_FAULT_RETRY
    vma.anon_vma = find_mergeable_anon_vma(vma) or (vma.name,)
    return 0


def find_mergeable_anon_vma(vma: VmArea) -> tuple[str, ...]:
    """The anon_vma of a neighbour with which this VMA might become one if their protections were the same, if there is
    one. Needs mmap_lock.

    Source: mm/mmap.c find_mergeable_anon_vma, reusable_anon_vma, anon_vma_compatible (to 6.1), mm/vma.c
    find_mergeable_anon_vma (from 6.12).
    """
    if not vma.vm_ops.anonymous:
        return ()
    for near in reversed(vma.vm_mm.peek("mm_mt")):
        before, after = (near, vma) if near.vm_start < vma.vm_start else (vma, near)
        if near is vma or before.vm_end != after.vm_start or not near.vm_ops.anonymous:
            continue
        if after.vm_pgoff != before.vm_pgoff + (after.vm_start - before.vm_start >> PAGE_SHIFT):
            continue
        if (near.vm_flags ^ vma.vm_flags) & ~(VM_READ | VM_WRITE | VM_EXEC | VM_SOFTDIRTY):
            continue
        found: tuple[str, ...] = near.anon_vma
        if len(found) == 1:
            return found
    return ()


def do_anonymous_page(vmf: VmFault, table: PteTable) -> int:
    """The first touch of a page of anonymous memory: a load maps the zero page, by a special entry that counts nothing;
    a store maps a page of its own, which nobody else maps.
    """
    vma, mm = vmf.vma, vmf.vma.vm_mm
    if vma.has(VM_SHARED):
        not_modelled("shared anonymous memory")
    pmd = pte_alloc(mm, table)
    if pmd < 0:
        return VM_FAULT_OOM
    if pmd_leaf(pmd):
        vmf.nr = 1
        return 0  # somebody has mapped a huge page meanwhile
    if not vmf.flags & FAULT_FLAG_WRITE:
        vmf.nr = 1
        ptl = pte_offset_map_lock(table)
        if ptep_get(table, vmf.address) == NONE:
            set_pte_at(table, vmf.address, mk_pte(ZERO_PFN, vma.vm_page_prot | SPECIAL))
            reached("the zero page was mapped")
        pte_unmap_unlock(ptl)
        return 0
    retry = anon_vma_prepare(vmf)
    if retry:
        return retry
    folio = alloc_folio(mm, "the page", nr=vmf.nr)
    if folio is None:
        return VM_FAULT_OOM
    entry = mk_pte(folio.pfn, vma.vm_page_prot | ACCESSED)
    if vma.vm_flags & VM_WRITE:
        entry |= RW | DIRTY | SOFT_DIRTY
    ptl = pte_offset_map_lock(table)
    if pte_range_none(table, vmf.address, vmf.nr):
        map_anon_folio(mm, table, vmf.address, folio, entry)
        pte_unmap_unlock(ptl)
        return 0
    pte_unmap_unlock(ptl)
    folio_put(folio, page_tables(mm))
    return 0


def map_anon_folio(mm: MmStruct, table: PteTable, address: int, folio: Folio, entry: int) -> None:
    """Map a new page for the first time, and put it on its LRU list. The PTL is held.

    Source: mm/rmap.c page_add_new_anon_rmap (to 6.1), folio_add_new_anon_rmap (from 6.12); mm/swap.c
    lru_cache_add_inactive_or_unevictable (to 6.1), folio_add_lru_vma (from 6.12).
    """
    folio.add_return("mapcount", 1)
    folio_add_lru(mm.machine, folio)
    set_ptes(table, address, entry, folio.alike)


# -- stores to what is mapped read-only -------------------------------------------------------------------------------
def do_wp_page(vmf: VmFault, table: PteTable, orig: int, write: bool) -> int:
    """A store to a page that is mapped read-only; or, with UNSHARE, somebody who wants it to be this process's own
    before he pins it. ``write``: may the VMA be written? If not, somebody forces a store to a private mapping.
    """
    unshare = bool(vmf.flags & FAULT_FLAG_UNSHARE)
    folio = vm_normal_page(vmf.vma, vmf.address, orig)
    if vmf.vma.has(VM_SHARED):
        if unshare:
            return 0
        return wp_pfn_shared(vmf, table, orig) if folio is None else wp_page_shared(vmf, table, orig, folio)
    if unshare and not fault_unshare(folio):
        reached("unsharing did nothing")
        return 0
    if folio is None:
        return wp_page_copy(vmf, table, orig, None, write)
    return wp_counted_page(vmf, table, orig, folio, write)


def wp_counted_page(vmf: VmFault, table: PteTable, orig: int, folio: Folio, write: bool) -> int:
    """... to a counted page: in place, if it is this process's own; else it is copied, and held meanwhile.

    Source: mm/memory.c do_wp_page, wp_page_reuse.
    """
    ptl = pte_offset_map_lock(table)
    if locked_entry(table, vmf.address) != orig:
        pte_unmap_unlock(ptl)
        return 0
    if not folio.anon or not wp_can_reuse_anon_folio(vmf.vma.vm_mm.machine, folio):
        folio_get(folio, "a fault")
        pte_unmap_unlock(ptl)
        return wp_page_copy(vmf, table, orig, folio, write)
    if not vmf.flags & FAULT_FLAG_UNSHARE:
        new = orig | RW | ACCESSED | DIRTY | SOFT_DIRTY
        set_pte_at(table, vmf.address, may_write(new) if write else stop_writing(new))
        reached("a private page was written in place")
    pte_unmap_unlock(ptl)
    return 0 if write else VM_FAULT_WRITE


def sole_reference(folio: Folio, cached: bool = False) -> bool:
    """Does nobody but one entry hold the folio? Asked with the folio locked, which must not be waited for. ``cached``:
    it is in the swap cache, which it leaves if nobody needs it there.

    Source: mm/memory.c do_wp_page (to 6.1), wp_can_reuse_anon_folio (from 6.12).
    """
    if not folio_trylock(folio.lock):
        return False
    if cached:
        folio_free_swap(folio)
    alone: bool = folio.refcount == 1
    if alone:
        folio.anon_exclusive = True
    folio_unlock(folio.lock)
    return alone


@wp_can_reuse_anon_folio.alternative("sole-reference", source="mm/memory.c do_wp_page, v5.10", releases="<= v5.18")
def if_nobody_else_holds_it(machine: Any, folio: Folio) -> bool:
    """Only if nobody else holds it: any reference, a pin, a batch of this very CPU's, the swap cache, makes it a copy.
    """
    return bool(folio.refcount == 1) and sole_reference(folio)


@wp_can_reuse_anon_folio.alternative(
    "exclusive",
    source="mm/memory.c do_wp_page (6.1), wp_can_reuse_anon_folio (from 6.12)",
    releases=">= v5.19",
)
def if_it_is_exclusive(machine: Any, folio: Folio) -> bool:
    """If it is exclusive, whoever holds it besides; or if nobody else holds it, this CPU's batch emptied first."""
    if folio.anon_exclusive:
        return True
    if folio.refcount > 3:
        return False
    if folio.lru == "batch":
        lru_add_drain(machine)
    cached = in_swap_cache(machine, folio)
    return bool(folio.refcount == 1 + cached) and sole_reference(folio, cached)


@fault_unshare.alternative("anon", source="mm/memory.c do_wp_page, 6.1.192", releases="v5.19 - v6.1; not asked before")
def unshare_pages_of_processes(folio: Folio | None) -> bool:
    """A page of a process's own that it shares with another; nothing else, the zero page not."""
    return folio is not None and folio.anon


@fault_unshare.alternative("any", source="mm/memory.c do_wp_page, 6.12.117", releases=">= v6.2")
def unshare_anything(folio: Folio | None) -> bool:
    """Whatever is mapped there: the zero page, a page of a file."""
    return True


def copy_user_page(mm: MmStruct, table: PteTable, address: int, orig: int) -> None:
    """What is copied has no struct page, so it is read where the user has it mapped; and the CPU, which walks there,
    marks the entry accessed. One that was not is then no longer ``orig``: the page is copied by the next fault.

    A process that the CPU does not run is not walked (the kernel copies what the one that it runs has at that address).
    Not modelled: the translation that stays in the CPU's TLB.

    Source: mm/memory.c cow_user_page (5.10), __wp_page_copy_user (from 6.1); recorded: 5.10.262, 6.1.192, 6.12.117,
    7.3.4.
    """
    if orig & ACCESSED or not pte_present(orig) or mm.machine.this_cpu() not in mm.cpus:
        return
    ptep_walked(table, address)
    reached("a frame was read before it was copied")


def wp_page_copy(vmf: VmFault, table: PteTable, orig: int, old: Folio | None, write: bool) -> int:
    """A page of the process's own takes the place of ``orig``: mapped as the VMA is, and not special. ``old``: the
    counted page that ``orig`` maps, which is held for this.

    The old entry is flushed before the new one is there, so that no CPU goes on reading what was there. Who only wants
    the page unshared gets a read-only entry.
    """
    vma, mm = vmf.vma, vmf.vma.vm_mm
    retry = anon_vma_prepare(vmf)
    new = None if retry else alloc_folio(mm, "the copy")
    if new is None:
        if old is not None:
            folio_put(old, "a fault")
        return retry or VM_FAULT_OOM
    if old is None and orig != NONE:
        copy_user_page(mm, table, vmf.address, orig)
    copied = VM_FAULT_WRITE if not write and not vmf.flags & FAULT_FLAG_UNSHARE else 0
    range = mmu_notifier_range_init(mm, MMU_NOTIFY_CLEAR, vmf.address, vmf.address + PAGE_SIZE)
    mmu_notifier_invalidate_range_start(range)
    ptl = pte_offset_map_lock(table)
    if locked_entry(table, vmf.address) == orig:
        entry = mk_pte(new.pfn, vma.vm_page_prot | ACCESSED)
        if vmf.flags & FAULT_FLAG_UNSHARE:
            entry |= orig & SOFT_DIRTY
            reached("a page was unshared")
        else:
            entry |= RW | DIRTY | SOFT_DIRTY
            entry = entry if write else stop_writing(entry)
            reached("a private page was copied")
        ptep_get_and_clear(table, vmf.address)
        flush_tlb_range(mm, vmf.address, vmf.address + PAGE_SIZE)
        map_anon_folio(mm, table, vmf.address, new, entry)
        if old is not None:
            old.add_return("mapcount", -1)
        pte_unmap_unlock(ptl)
        if old is not None:
            copied_from(mm.machine, old)
            folio_put(old, page_tables(mm))
    else:
        copied = 0
        pte_unmap_unlock(ptl)
        folio_put(new, page_tables(mm))
    mmu_notifier_invalidate_range_end(range)
    if old is not None:
        folio_put(old, "a fault")
    return copied


@copied_from.alternative("left", source="mm/memory.c wp_page_copy, v5.10", releases="<= v5.13")
def left_in_the_cache(machine: Any, old: Folio) -> None:
    """It stays there until somebody reclaims it."""


@copied_from.alternative(
    "freed",
    source="f4c4a3f48480 'mm: free idle swap cache page after COW'; mm/memory.c wp_page_copy, 6.1.192",
    releases=">= v5.14",
)
def taken_from_the_cache(machine: Any, old: Folio) -> None:
    """It leaves, if nobody needs it there."""
    free_swap_cache(machine, old)


# -- pages of drivers -----------------------------------------------------------------------------------------------
def __do_fault(vmf: VmFault, table: PteTable) -> int:
    """Ask the driver, which maps the page itself (NOPAGE), says no, or answers with the page, and a reference to it for
    the page tables: that is mapped, with its lock held (LOCKED: the driver has it already). A store to a private
    mapping gets a copy instead, which is allocated before the driver is asked; one to a shared mapping asks
    ->page_mkwrite too. An answer without a page is an oops.

    Source: mm/memory.c __do_fault, do_read_fault, do_cow_fault, do_shared_fault.
    """
    vma, mm = vmf.vma, vmf.vma.vm_mm
    stores = vmf.flags & FAULT_FLAG_WRITE
    cow: Folio | None = None
    if stores and not vma.has(VM_SHARED):
        anon_vma_prepare(vmf)
        cow = alloc_folio(mm, "the copy")
        if cow is None:
            return VM_FAULT_OOM
    result: int = vma.vm_ops.fault(vmf)
    if result & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        if cow is not None:
            folio_put(cow, page_tables(mm))
        return result
    folio: Folio | None = vmf.page
    if folio is None:
        bug("fault-without-page", f"->fault of {vma.name} says {result:#x}, which is a page, and there is none")
    if not result & VM_FAULT_LOCKED:
        folio_lock(folio.lock)
    if stores and cow is None and vma.vm_ops.page_mkwrite is not None:
        folio_unlock(folio.lock)
        asked = do_page_mkwrite(vmf, folio)
        if not asked or asked & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
            folio_put(folio, page_tables(mm))
            return asked
    mapped = finish_fault(vmf, table, cow if cow is not None else folio)
    if stores and cow is None and mapped:
        return fault_dirty_shared_page(vmf, folio)
    folio_unlock(folio.lock)
    if cow is not None or not mapped:
        folio_put(folio, page_tables(mm))
    if cow is not None and not mapped:
        folio_put(cow, page_tables(mm))
    return 0


@set_pte_range.alternative(
    "clean", source="mm/memory.c alloc_set_pte (5.10), do_set_pte (6.1), set_pte_range (6.12)", releases="<= v6.12"
)
def mapped_clean(folio: Folio) -> bool:
    """No: the first store will say so."""
    return False


@set_pte_range.alternative(
    "as-the-page", source="mm/memory.c set_pte_range, 7.3.4", releases="v7.3; unknown after v6.12"
)
def mapped_as_the_page_is(folio: Folio) -> bool:
    """If the page is."""
    return bool(folio.dirty)


def finish_fault(vmf: VmFault, table: PteTable, folio: Folio) -> bool:
    """Map what a fault has found; False if somebody else has mapped something meanwhile."""
    vma, mm = vmf.vma, vmf.vma.vm_mm
    pmd = pte_alloc(mm, table)
    if pmd < 0:
        return False
    if pmd_leaf(pmd):
        reached("no PTE table where a huge leaf is")
        return False
    entry = mk_pte(folio.pfn, vma.vm_page_prot)
    if vmf.flags & FAULT_FLAG_WRITE:
        entry |= ACCESSED | DIRTY | SOFT_DIRTY
        entry = entry | RW if vma.vm_flags & VM_WRITE else stop_writing(entry)
    elif entry & RW and set_pte_range(folio):
        entry |= DIRTY | SOFT_DIRTY
    ptl = pte_offset_map_lock(table)
    free: bool = ptep_get(table, vmf.address) == NONE
    if free and folio.anon:
        map_anon_folio(mm, table, vmf.address, folio, entry)
    elif free:
        folio.add_return("mapcount", 1)
        set_pte_at(table, vmf.address, entry)
    pte_unmap_unlock(ptl)
    return free


def vm_insert_page(vma: VmArea, addr: int, folio: Folio) -> int:
    """Map a page that a driver has allocated and holds: 0 or an errno. The entry counts it. Needs mmap_lock W the first
    time, when the VMA becomes a VM_MIXEDMAP: whoever can read-lock it then has it for reading at most, and is a BUG.
    """
    if not vma.vm_start <= addr < vma.vm_end:
        return -EFAULT
    if not vma.has(VM_MIXEDMAP):
        if mmap_read_trylock(vma.vm_mm):
            bug("insert-page-read-locked", f"vm_insert_page into {vma.name}, no MIXEDMAP yet, without mmap_lock W")
        if vma.has(VM_PFNMAP):
            bug("insert-page-pfnmap", f"vm_insert_page into {vma.name}, which is a PFNMAP")
        vm_flags_set(vma, VM_MIXEDMAP)
    if folio.anon:
        return -EINVAL
    mm = vma.vm_mm
    table = walk_to_pmd(mm, addr)
    ptl = pte_alloc_map_lock(mm, table, addr)
    if ptl is None:
        return -ENOMEM
    if ptep_get(table, addr) != NONE:
        pte_unmap_unlock(ptl)
        return -EBUSY
    folio_get(folio, page_tables(mm))
    folio.add_return("mapcount", 1)
    set_pte_at(table, addr, mk_pte(folio.pfn, vma.vm_page_prot))
    pte_unmap_unlock(ptl)
    return 0
