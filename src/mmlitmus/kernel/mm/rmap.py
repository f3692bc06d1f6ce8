"""The reverse map: its lock, where a page is mapped, and how reclaim unmaps one.

The lock order that the kernel documents is at the head of mm/rmap.c. The reverse map of a process's own pages has no
lock here: where a page is mapped is one look at all page tables, and each entry is looked at again under its own lock.

Source: include/linux/fs.h, mm/rmap.c, functions of the same name. Of the model's own: mappings_of.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import reached
from mmlitmus.explore.state import look
from mmlitmus.kernel.arch.x86.pgtable import (
    PAGE_SIZE,
    SOFT_DIRTY,
    PteTable,
    pte_offset_map_lock,
    pte_present,
    pte_unmap_unlock,
    ptep_get,
    ptep_get_and_clear,
    set_pte_at,
)
from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.mm.device_exclusive import counts_as_mapping
from mmlitmus.kernel.mm.mm_types import AddressSpace, MmStruct
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_CLEAR,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.page_alloc import Folio, folio_maybe_dma_pinned, folio_put, page_tables
from mmlitmus.kernel.mm.swapfile import SwapSlot, swap_duplicate, swap_free
from mmlitmus.kernel.mm.swapops import (
    SWP_EXCLUSIVE,
    SWP_SOFT_DIRTY,
    is_device_exclusive_entry,
    is_migration_entry,
    make_swap_entry,
)
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.rwsem import down_read, down_write, up_read, up_write

try_share_anon_rmap = Seam(
    "folio_try_share_anon_rmap_pte", "whether reclaim leaves a page pinned, and its entry remembers whose page it was"
)

Mapping = tuple[MmStruct, PteTable, int]


def i_mmap_lock_read(mapping: AddressSpace) -> None:
    """Walk ``i_mmap``: what is linked stays linked, and its VMAs stay alive."""
    down_read(mapping.i_mmap_rwsem)


def i_mmap_unlock_read(mapping: AddressSpace) -> None:
    """Undo ``i_mmap_lock_read``."""
    up_read(mapping.i_mmap_rwsem)


def i_mmap_lock_write(mapping: AddressSpace) -> None:
    """Change ``i_mmap``."""
    down_write(mapping.i_mmap_rwsem)


def i_mmap_unlock_write(mapping: AddressSpace) -> None:
    """Undo ``i_mmap_lock_write``."""
    up_write(mapping.i_mmap_rwsem)


def mappings_of(machine: Any, folio: Folio) -> list[Mapping]:
    """Where the page is mapped, or its migration is waited for: one look at all page tables. Each has to be looked at
    again under its lock.

    Source: mm/rmap.c rmap_walk_anon, page_vma_mapped_walk; mm/page_vma_mapped.c.
    """
    look(machine.entry_ids())
    found: list[Mapping] = []
    for mm in machine.mms:
        for n in sorted(mm.pgd):
            table = mm.pgd[n]
            for page in sorted(table.values):
                if counts_as_mapping(table.values[page]) == folio.pfn:
                    found.append((mm, table, table.address + page * PAGE_SIZE))
    return found


# -- unmapping for reclaim --------------------------------------------------------------------------------------------
def try_to_unmap(machine: Any, folio: Folio) -> None:
    """Put entries of its slot of swap in the place of those that map the page, which is locked and in the swap cache.
    ``mapcount`` says whether that has worked.
    """
    for mm, table, address in mappings_of(machine, folio):
        range = mmu_notifier_range_init(mm, MMU_NOTIFY_CLEAR, address, address + PAGE_SIZE)
        mmu_notifier_invalidate_range_start(range)
        gone = try_to_unmap_one(mm, table, address, folio)
        mmu_notifier_invalidate_range_end(range)
        if not gone:
            return


def try_to_unmap_one(mm: MmStruct, table: PteTable, address: int, folio: Folio) -> bool:
    """... one entry, flushed before anything else is asked; False if it has to stay. One of a page that a device has
    for itself is no different, where it counts as a mapping, but for the flush.
    """
    ptl = pte_offset_map_lock(table)
    entry = ptep_get(table, address)
    if is_migration_entry(entry) or counts_as_mapping(entry) != folio.pfn:
        pte_unmap_unlock(ptl)
        return True
    entry = ptep_get_and_clear(table, address)
    if pte_present(entry):
        flush_tlb_range(mm, address, address + PAGE_SIZE)
    slot: SwapSlot = folio.swap
    swap_duplicate(slot)
    mark = try_share_anon_rmap(folio)
    if mark is None:
        swap_free(slot)
        set_pte_at(table, address, entry)
        pte_unmap_unlock(ptl)
        reached("reclaim met a pin")
        return False
    mark |= SWP_SOFT_DIRTY if entry & (SWP_SOFT_DIRTY if is_device_exclusive_entry(entry) else SOFT_DIRTY) else 0
    set_pte_at(table, address, make_swap_entry(slot.offset, mark))
    folio.add_return("mapcount", -1)
    pte_unmap_unlock(ptl)
    folio_put(folio, page_tables(mm))
    return True


@try_share_anon_rmap.alternative("unmarked", source="mm/rmap.c try_to_unmap_one, v5.10", releases="<= v5.18")
def forget_whose_it_was(folio: Folio) -> int | None:
    """Nobody looks for pins, and an entry of a slot says nothing of whose page it is. (The model's own flag goes.)"""
    folio.anon_exclusive = False
    return 0


@try_share_anon_rmap.alternative(
    "exclusive",
    source="include/linux/rmap.h page_try_share_anon_rmap (6.1), folio_try_share_anon_rmap_pte (from 6.12); "
    "mm/rmap.c try_to_unmap_one (6.1 - 6.12), ttu_anon_folio (7.3)",
    releases=">= v5.19",
)
def remember_whose_it_was(folio: Folio) -> int | None:
    """An exclusive page that looks pinned, now that its entry is cleared, stays; of one that is not pinned the slot's
    entry says that it was exclusive.
    """
    if not folio.anon_exclusive:
        return 0
    if folio_maybe_dma_pinned(folio):
        return None
    folio.anon_exclusive = False
    return SWP_EXCLUSIVE
