"""Faults at entries that are neither none nor present: a page in swap, one that is being moved, one that a device has
for itself.

Source: mm/memory.c, functions of the same name; where a docstring does not say otherwise. Of the model's own:
swap_in, restore, restored_in_fault, lock_referenced, restored_entry.
"""

from __future__ import annotations

from mmlitmus.explore.findings import reached, report
from mmlitmus.explore.runtime import current
from mmlitmus.explore.state import look
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY,
    PAGE_SIZE,
    RW,
    SOFT_DIRTY,
    PteTable,
    mk_pte,
    pte_offset_map_lock,
    pte_unmap_unlock,
    set_pte_at,
    stop_writing,
)
from mmlitmus.kernel.mm.device_exclusive import design
from mmlitmus.kernel.mm.filemap import folio_lock_or_retry
from mmlitmus.kernel.mm.memory_mkwrite import locked_entry
from mmlitmus.kernel.mm.memory_pages import do_wp_page
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
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_CLEAR,
    MMU_NOTIFY_EXCLUSIVE,
    MmuNotifierRange,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init_owner,
)
from mmlitmus.kernel.mm.page_alloc import Folio, folio_put, page_tables, try_get_folio
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
from mmlitmus.kernel.mm.swapops import (
    SWP_DEVICE_EXCLUSIVE_WRITE,
    SWP_EXCLUSIVE,
    SWP_SOFT_DIRTY,
    TYPE_SHIFT,
    is_device_exclusive_entry,
    is_migration_entry,
    migration_pfn,
    swp_offset,
)
from mmlitmus.kernel.mm.writable import can_change_pte_writable
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_trylock, folio_unlock

map_swapped = Seam("do_swap_page", "whose page it is that comes back from swap, and whether it may be written at once")

remove_device_exclusive = Seam(
    "remove_device_exclusive_entry", "how a fault gets a page back that a device has for itself, and who hears of it"
)
restore_exclusive_pte = Seam("restore_exclusive_pte", "how a page that a device had for itself is mapped again")

A_FAULT = "a fault"

#: the entry to map; is the page the process's own; has the store been taken care of
Swapped = tuple[int, bool, bool]


def do_swap_page(vmf: VmFault, table: PteTable, orig: int) -> int:
    """A fault at an entry that is neither none nor present: VM_FAULT_* bits."""
    if is_migration_entry(orig):
        return migration_entry_wait(vmf, vmf.vma.vm_mm.machine.pages[migration_pfn(orig)])
    if is_device_exclusive_entry(orig):
        result: int = remove_device_exclusive(vmf, table, orig, vmf.vma.vm_mm.machine.pages[swp_offset(orig)])
        return result
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


# -- pages that a device has for itself -------------------------------------------------------------------------------
def restore(vma: VmArea, table: PteTable, address: int, orig: int, folio: Folio) -> None:
    """Map the page again that a device had for itself. It is locked, and so is the page table."""
    entry: int = restore_exclusive_pte(vma, address, folio, orig)
    if not design().counted:
        folio.add_return("mapcount", 1)
    set_pte_at(table, address, entry)
    reached("a device's page was restored")


def try_restore_exclusive_pte(vma: VmArea, table: PteTable, address: int, orig: int) -> bool:
    """... by fork, which may not wait: False if somebody has locked the page. Its notifiers have been called already.

    Source: none (5.10); mm/memory.c try_restore_exclusive_pte (from 6.1).
    """
    folio: Folio = vma.vm_mm.machine.pages[swp_offset(orig)]
    if not folio_trylock(folio.lock):
        return False
    restore(vma, table, address, orig, folio)
    folio_unlock(folio.lock)
    return True


def restored_in_fault(vmf: VmFault, table: PteTable, orig: int, folio: Folio, event: int) -> MmuNotifierRange:
    """Whoever has the page is told to do without; then it is mapped, if the entry is still there. It is locked. The
    range comes back, of which the caller says that it is over.
    """
    range = mmu_notifier_range_init_owner(vmf.vma.vm_mm, event, vmf.address, vmf.address + PAGE_SIZE, None)
    mmu_notifier_invalidate_range_start(range)
    ptl = pte_offset_map_lock(table)
    if locked_entry(table, vmf.address) == orig:
        restore(vmf.vma, table, vmf.address, orig, folio)
    pte_unmap_unlock(ptl)
    return range


@remove_device_exclusive.alternative("unreferenced", source="dossier D.5; before 7c7b962938dd", releases="v5.14 - v6.2")
def lock_without_a_reference(vmf: VmFault, table: PteTable, orig: int, folio: Folio) -> int:
    """The page is locked as it is found, and may be another's by then."""
    if not folio_lock_or_retry(vmf, folio):
        return VM_FAULT_RETRY
    range = restored_in_fault(vmf, table, orig, folio, MMU_NOTIFY_EXCLUSIVE)
    look((folio.id,))
    if folio.freed:
        report("use-after-free", "free-page-locked", f"{current().name} has locked {folio.name}, which is free")
    folio_unlock(folio.lock)
    mmu_notifier_invalidate_range_end(range)
    return 0


@remove_device_exclusive.alternative(
    "referenced",
    source="7c7b962938dd 'mm: take a page reference when removing device exclusive entries'; "
    "mm/memory.c remove_device_exclusive_entry, 6.1.192, 6.12.117",
    releases="v6.3 - v6.18, deb-6.1.192",
)
def lock_with_a_reference(vmf: VmFault, table: PteTable, orig: int, folio: Folio) -> int:
    """A reference first; a page that is free has left the entry already."""
    return lock_referenced(vmf, table, orig, folio, MMU_NOTIFY_EXCLUSIVE)


@remove_device_exclusive.alternative(
    "referenced-clear",
    source="mm/memory.c remove_device_exclusive_entry, 7.3.4",
    releases="v7.3; unknown after v6.12",
)
def lock_with_a_reference_and_clear(vmf: VmFault, table: PteTable, orig: int, folio: Folio) -> int:
    """And the notifier is called for an entry that is cleared, as if nobody had had the page for himself."""
    return lock_referenced(vmf, table, orig, folio, MMU_NOTIFY_CLEAR)


def lock_referenced(vmf: VmFault, table: PteTable, orig: int, folio: Folio, event: int) -> int:
    """What both do."""
    if not try_get_folio(folio, A_FAULT):
        return 0
    if not folio_lock_or_retry(vmf, folio):
        folio_put(folio, A_FAULT)
        return VM_FAULT_RETRY
    range = restored_in_fault(vmf, table, orig, folio, event)
    folio_unlock(folio.lock)
    folio_put(folio, A_FAULT)
    mmu_notifier_invalidate_range_end(range)
    return 0


@restore_exclusive_pte.alternative(
    "by-type", source="none (5.10); mm/memory.c restore_exclusive_pte (6.1 - 6.12)", releases="v5.14 - v6.14"
)
def as_the_entry_says(vma: VmArea, address: int, folio: Folio, orig: int) -> int:
    """Old, and writable and dirty if the entry says so and the VMA allows it."""
    entry = restored_entry(vma, folio, orig)
    return written_entry(vma, entry) if orig >> TYPE_SHIFT == SWP_DEVICE_EXCLUSIVE_WRITE else entry


@restore_exclusive_pte.alternative("by-vma", source="mm/memory.c restore_exclusive_pte, 7.3.4", releases=">= v6.15")
def as_the_vma_says(vma: VmArea, address: int, folio: Folio, orig: int) -> int:
    """Old, and writable if the VMA is and mprotect would make it so; then dirty if the page is, which it has been since
    it was given to the device.
    """
    entry = restored_entry(vma, folio, orig)
    if vma.vm_flags & VM_WRITE and can_change_pte_writable(vma, address, entry):
        entry |= RW | DIRTY | SOFT_DIRTY
    return entry


def restored_entry(vma: VmArea, folio: Folio, orig: int) -> int:
    """What both map: the VMA's protection, and soft-dirty."""
    return mk_pte(folio.pfn, vma.vm_page_prot & ~ACCESSED) | (SOFT_DIRTY if orig & SWP_SOFT_DIRTY else 0)
