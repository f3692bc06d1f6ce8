"""Faults at entries that are neither none nor present: a page in swap, or one that is being moved.

Source: mm/memory.c, functions of the same name; where a docstring does not say otherwise. Of the model's own:
swap_in.
"""

from __future__ import annotations

from mmlitmus.explore.findings import reached
from mmlitmus.kernel.arch.x86.pgtable import (
    DIRTY,
    RW,
    SOFT_DIRTY,
    PteTable,
    mk_pte,
    pte_offset_map_lock,
    pte_unmap_unlock,
    set_pte_at,
    stop_writing,
)
from mmlitmus.kernel.mm.filemap import folio_lock_or_retry
from mmlitmus.kernel.mm.memory_pages import do_wp_page, locked_entry
from mmlitmus.kernel.mm.mm_types import (
    FAULT_FLAG_VMA_LOCK,
    FAULT_FLAG_WRITE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_WRITE,
    VM_SOFTDIRTY,
    VM_WRITE,
    VmArea,
    VmFault,
)
from mmlitmus.kernel.mm.mmap_lock import vma_end_read
from mmlitmus.kernel.mm.page_alloc import Folio, folio_put, page_tables
from mmlitmus.kernel.mm.swap import lru_add_drain
from mmlitmus.kernel.mm.swapfile import (
    SwapSlot,
    folio_free_swap,
    read_swap_cache_async,
    reuse_swap_page,
    slot_of,
    swap_cache_get_folio,
    swap_free,
)
from mmlitmus.kernel.mm.swapops import SWP_EXCLUSIVE, SWP_SOFT_DIRTY, is_migration_entry, migration_pfn
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_unlock

map_swapped = Seam("do_swap_page", "whose page it is that comes back from swap, and whether it may be written at once")

#: the entry to map; is the page the process's own; has the store been taken care of
Swapped = tuple[int, bool, bool]


def do_swap_page(vmf: VmFault, table: PteTable, orig: int) -> int:
    """A fault at an entry that is neither none nor present: VM_FAULT_* bits."""
    if is_migration_entry(orig):
        return migration_entry_wait(vmf, vmf.vma.vm_mm.machine.pages[migration_pfn(orig)])
    return swap_in(vmf, table, orig, slot_of(vmf.vma.vm_mm.machine, orig))


def migration_entry_wait(vmf: VmFault, folio: Folio) -> int:
    """... of a page under migration: wait until whoever migrates it unlocks it, and look again.

    Source: mm/migrate.c migration_entry_wait (to 6.12), mm/filemap.c softleaf_entry_wait_on_locked (7.3).
    """
    if vmf.flags & FAULT_FLAG_VMA_LOCK:
        vma_end_read(vmf.vma)
        return VM_FAULT_RETRY
    folio_lock(folio.lock)
    folio_unlock(folio.lock)
    reached("a fault waited for a migration")
    return 0


# -- pages in swap ----------------------------------------------------------------------------------------------------
def swap_in(vmf: VmFault, table: PteTable, orig: int, slot: SwapSlot) -> int:
    """... of a page in swap: it is looked for in the cache, or read; locked; and mapped, if the entry is still there
    and the page still that of the slot. A store to a page that is not the process's own is done as any other.

    Source: mm/memory.c do_swap_page.
    """
    vma, mm = vmf.vma, vmf.vma.vm_mm
    folio = swap_cache_get_folio(slot, page_tables(mm))
    if folio is None:
        folio = read_swap_cache_async(mm, slot)
    if folio is None:
        ptl = pte_offset_map_lock(table)
        same = locked_entry(table, vmf.address) == orig
        pte_unmap_unlock(ptl)
        return VM_FAULT_OOM if same else 0
    if not folio_lock_or_retry(vmf, folio):
        folio_put(folio, page_tables(mm))
        return VM_FAULT_RETRY
    if folio.swap is not slot:
        folio_unlock(folio.lock)
        folio_put(folio, page_tables(mm))
        return 0
    ptl = pte_offset_map_lock(table)
    if locked_entry(table, vmf.address) != orig:
        pte_unmap_unlock(ptl)
        folio_unlock(folio.lock)
        folio_put(folio, page_tables(mm))
        return 0
    swapped: Swapped = map_swapped(vmf, folio, slot, orig)
    entry, exclusive, written = swapped
    folio.anon_exclusive = exclusive
    folio.add_return("mapcount", 1)
    set_pte_at(table, vmf.address, entry)
    reached("a page came back from swap")
    pte_unmap_unlock(ptl)
    folio_unlock(folio.lock)
    write = bool(vma.vm_flags & VM_WRITE)
    if written:
        return 0 if write else VM_FAULT_WRITE
    if vmf.flags & FAULT_FLAG_WRITE and not entry & RW:
        return do_wp_page(vmf, table, entry, write)
    return 0


def written_entry(vma: VmArea, entry: int) -> int:
    """The entry after a store: writable, if the VMA may be written to. (Otherwise somebody forces the store.)

    Source: include/linux/mm.h maybe_mkwrite; arch/x86/include/asm/pgtable.h pte_mkdirty.
    """
    entry |= RW | DIRTY | SOFT_DIRTY
    return entry if vma.vm_flags & VM_WRITE else stop_writing(entry & ~RW)


@map_swapped.alternative("reuse_swap_page", source="mm/memory.c do_swap_page, v5.10", releases="<= v5.17")
def if_nobody_else_maps_or_has_the_slot(vmf: VmFault, folio: Folio, slot: SwapSlot, orig: int) -> Swapped:
    """A store finds the page writable if nobody else maps it or has an entry for its slot, whoever holds it besides. A
    load maps it read-only, and it stays in the cache: which makes the next store a copy.
    """
    entry = mk_pte(folio.pfn, vmf.vma.vm_page_prot) | (SOFT_DIRTY if orig & SWP_SOFT_DIRTY else 0)
    alone = bool(vmf.flags & FAULT_FLAG_WRITE) and reuse_swap_page(folio)
    swap_free(slot)
    return (written_entry(vmf.vma, entry) if alone else entry), alone, alone


def exclusive_now(vmf: VmFault, folio: Folio, slot: SwapSlot, orig: int) -> bool:
    """The slot is given back, and for a store the page leaves the cache if nobody else holds it. Is it the process's
    own: the entry says so, or nobody else has it any more?

    Source: mm/memory.c do_swap_page (5.10), do_swap_page, should_try_to_free_swap (from 6.1).
    """
    machine = vmf.vma.vm_mm.machine
    if vmf.flags & FAULT_FLAG_WRITE and folio.lru == "batch":
        lru_add_drain(machine)
    swap_free(slot)
    if vmf.flags & FAULT_FLAG_WRITE and folio.refcount == 2:
        folio_free_swap(folio)
    return bool(orig & SWP_EXCLUSIVE) or bool(folio.refcount == 1)


@map_swapped.alternative(
    "exclusive", source="mm/memory.c do_swap_page, should_try_to_free_swap, 6.1.192", releases="v5.19 - v6.10"
)
def if_it_is_exclusive_when_written(vmf: VmFault, folio: Folio, slot: SwapSlot, orig: int) -> Swapped:
    """The page is the process's own if its entry says so, or if nobody else holds it. A store finds it writable then; a
    load maps it read-only, and the next store is done in place.
    """
    entry = mk_pte(folio.pfn, vmf.vma.vm_page_prot) | (SOFT_DIRTY if orig & SWP_SOFT_DIRTY else 0)
    exclusive = exclusive_now(vmf, folio, slot, orig)
    written = exclusive and bool(vmf.flags & FAULT_FLAG_WRITE)
    return (written_entry(vmf.vma, entry) if written else entry), exclusive, written


@map_swapped.alternative("exclusive-writable", source="mm/memory.c do_swap_page, 6.12.117", releases=">= v6.11")
def if_it_is_exclusive(vmf: VmFault, folio: Folio, slot: SwapSlot, orig: int) -> Swapped:
    """Then a load finds it writable as well; not in a VMA that may not be written to, nor where the first store has to
    be seen (soft-dirty).
    """
    vma = vmf.vma
    entry = mk_pte(folio.pfn, vma.vm_page_prot) | (SOFT_DIRTY if orig & SWP_SOFT_DIRTY else 0)
    exclusive = exclusive_now(vmf, folio, slot, orig)
    flags = vma.vm_flags
    seen = flags & VM_SOFTDIRTY or entry & SOFT_DIRTY
    if not exclusive or not flags & VM_WRITE or not seen:
        return entry, exclusive, False
    written = bool(vmf.flags & FAULT_FLAG_WRITE)
    return entry | RW | (DIRTY | SOFT_DIRTY if written else 0), True, written
