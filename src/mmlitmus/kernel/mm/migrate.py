"""Moving a page: isolate it, put entries of its migration in the place of those that map it, copy, and map the copy.

Only pages of processes are moved. Whoever else holds the page (a pin, a reference, a batch) makes it fail, and the
entries come back as they were.

Source: mm/migrate.c, functions of the same name.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import reached
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY,
    NX,
    PAGE_SIZE,
    PRESENT,
    RW,
    SOFT_DIRTY,
    USER,
    PteTable,
    mk_pte,
    pte_offset_map_lock,
    pte_present,
    pte_unmap_unlock,
    ptep_get,
    ptep_get_and_clear,
    set_pte_at,
)
from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.mm.device_exclusive import counts_as_mapping
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_CLEAR,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.page_alloc import Folio, alloc_folio, folio_maybe_dma_pinned, folio_put, page_tables
from mmlitmus.kernel.mm.rmap import mappings_of
from mmlitmus.kernel.mm.swap import folio_add_lru, folio_putback_lru
from mmlitmus.kernel.mm.swapfile import in_swap_cache, replace_in_cache
from mmlitmus.kernel.mm.swapops import (
    SWP_MIGRATION_READ,
    SWP_MIGRATION_READ_EXCLUSIVE,
    SWP_MIGRATION_WRITE,
    SWP_SOFT_DIRTY,
    is_migration_entry,
    make_migration_entry,
    migration_pfn,
    migration_type,
)
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_unlock

#: how often a page is tried before it is given up (the kernel: ten times)
MIGRATE_TRIES = 2


def migrate_pages(machine: Any, folios: list[Folio]) -> list[Folio]:
    """Move isolated pages to where the task's context allocates; returns those that could not be moved."""
    left = list(folios)
    for _ in range(MIGRATE_TRIES):
        again = [folio for folio in left if not unmap_and_move(machine, folio)]
        left = again
        if not left:
            break
    return left


def unmap_and_move(machine: Any, folio: Folio) -> bool:
    """Move one page; False if memory is short, or somebody else holds the page.

    Source: mm/migrate.c unmap_and_move (5.10), migrate_folio_unmap, migrate_folio_move (from 6.1).
    """
    if folio.refcount == 1:  # unmapped and unpinned meanwhile: nobody needs the copy
        folio_put(folio, "isolation")
        return True
    mappings = mappings_of(machine, folio)
    if not mappings:
        return False
    new = alloc_folio(mappings[0][0], "the new page")
    if new is None:
        return False
    folio_lock(folio.lock)
    for mm, table, address in mappings:
        range = mmu_notifier_range_init(mm, MMU_NOTIFY_CLEAR, address, address + PAGE_SIZE)
        mmu_notifier_invalidate_range_start(range)
        try_to_migrate(mm, table, address, folio)
        mmu_notifier_invalidate_range_end(range)
    cached = in_swap_cache(machine, folio)
    moved = folio.mapcount == 0 and folio.refcount == 1 + cached
    if moved:
        reached("a page was migrated")
    if moved and cached:
        folio_lock(new.lock)
        replace_in_cache(folio, new)
    for mm, table, address in mappings_of(machine, folio):
        remove_migration_pte(mm, table, address, folio, new if moved else folio)
    if moved and cached:
        folio_unlock(new.lock)
    folio_unlock(folio.lock)
    if moved:
        folio_add_lru(machine, new)
        folio_put(folio, "isolation")
    folio_put(new, page_tables(mappings[0][0]))
    return moved


def try_to_migrate(mm: MmStruct, table: PteTable, address: int, folio: Folio) -> None:
    """Put the entry of a migration in the place of one that maps the page: flushed, mapped and held once less. Not if
    the page is exclusive and looks pinned. A page that a device has for itself comes back as one that may not be
    written to, where it can be moved at all.

    Source: mm/rmap.c try_to_migrate_one (from 6.1); mm/rmap.c try_to_unmap_one (5.10).
    """
    ptl = pte_offset_map_lock(table)
    entry = ptep_get(table, address)
    if is_migration_entry(entry) or counts_as_mapping(entry) != folio.pfn:
        pte_unmap_unlock(ptl)
        return
    entry = ptep_get_and_clear(table, address)
    present = pte_present(entry)
    if present:
        flush_tlb_range(mm, address, address + PAGE_SIZE)
    if folio.anon_exclusive and folio_maybe_dma_pinned(folio):
        set_pte_at(table, address, entry)
        pte_unmap_unlock(ptl)
        return
    exclusive = SWP_MIGRATION_READ_EXCLUSIVE if folio.anon_exclusive else SWP_MIGRATION_READ
    kind = SWP_MIGRATION_WRITE if present and entry & RW else exclusive
    folio.anon_exclusive = False
    soft_dirty = entry & SOFT_DIRTY if present else SOFT_DIRTY if entry & SWP_SOFT_DIRTY else 0
    set_pte_at(table, address, make_migration_entry(folio.pfn, kind, soft_dirty))
    folio.add_return("mapcount", -1)
    pte_unmap_unlock(ptl)
    folio_put(folio, page_tables(mm))


def remove_migration_pte(mm: MmStruct, table: PteTable, address: int, old: Folio, new: Folio) -> None:
    """Map ``new`` where the entry of the migration of ``old`` is. Dirty with the write bit, old otherwise."""
    ptl = pte_offset_map_lock(table)
    entry = ptep_get(table, address)
    if not is_migration_entry(entry) or migration_pfn(entry) != old.pfn:
        pte_unmap_unlock(ptl)
        return
    kind = migration_type(entry)
    prot = PRESENT | USER | NX | (SOFT_DIRTY if entry & SWP_SOFT_DIRTY else 0)
    prot |= ACCESSED | DIRTY | RW if kind == SWP_MIGRATION_WRITE else 0
    new.ref_add(page_tables(mm), 1)
    new.add_return("mapcount", 1)
    new.anon_exclusive = kind != SWP_MIGRATION_READ
    set_pte_at(table, address, mk_pte(new.pfn, prot))
    pte_unmap_unlock(ptl)


def putback_movable_pages(machine: Any, folios: list[Folio]) -> None:
    """Give back what was isolated and has not been moved."""
    for folio in folios:
        folio_putback_lru(machine, folio)
