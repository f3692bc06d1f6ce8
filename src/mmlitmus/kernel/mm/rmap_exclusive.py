"""Giving a device a page of a process's own for itself, so that it can do atomics: the process's entry is replaced.

Who gets it has the page locked and holds a reference. Until he unlocks it nobody else gets the page back; but the entry
may be zapped meanwhile, for which the lock is not needed: then a notifier has told. mmap_lock R is held.

Source: mm/rmap.c, functions of the same name. Of the model's own: give_back, replace_entry, make_one_exclusive,
still_mapped_writable.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import reached
from mmlitmus.explore.runtime import loop_point
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    RW,
    PteTable,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pte_pfn,
    pte_present,
    pte_unmap_unlock,
    ptep_get,
    ptep_get_and_clear,
    set_pte_at,
)
from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.errno import EOPNOTSUPP
from mmlitmus.kernel.mm.device_exclusive import design
from mmlitmus.kernel.mm.gup import FOLL_WRITE, Pages
from mmlitmus.kernel.mm.gup_fast import get_user_pages_remote
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_EXCLUSIVE,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init_owner,
)
from mmlitmus.kernel.mm.page_alloc import Folio, folio_put
from mmlitmus.kernel.mm.rmap import mappings_of
from mmlitmus.kernel.policy import Seam, running
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_trylock, folio_unlock

make_exclusive = Seam("make_device_exclusive", "how a device gets a page for itself")


def make_device_exclusive(mm: MmStruct, start: int, nr_pages: int, pages: Pages, owner: Any) -> int:
    """Give ``owner`` (who hears of it as such by his notifier) the pages from ``start`` on for himself: how many were
    found, or an errno. Each that he has got is locked in ``pages``; a slot of a page that he has not is None. Without
    CONFIG_DEVICE_PRIVATE it is not built.

    Source: mm/rmap.c make_device_exclusive_range (6.1 - 6.12), make_device_exclusive (7.3); none (5.10).
    """
    if not running().has("DEVICE_PRIVATE"):
        return -EOPNOTSUPP
    result: int = make_exclusive(mm, start, nr_pages, pages, owner)
    return result


def give_back(folio: Folio, holder: str) -> None:
    """Whoever has the page for a device has told it, or does without: the page is unlocked, and let go."""
    folio_unlock(folio.lock)
    folio_put(folio, holder)


@make_exclusive.alternative("absent", source="dossier D.2", releases="<= v5.13")
def there_is_none(mm: MmStruct, start: int, nr_pages: int, pages: Pages, owner: Any) -> int:
    """There is no such function. (A driver that wants it would not build; here it is refused.)"""
    return -EOPNOTSUPP


# -- by the reverse map -----------------------------------------------------------------------------------------------
@make_exclusive.alternative(
    "range",
    source="mm/rmap.c make_device_exclusive_range, folio_make_device_exclusive, 6.1.192, 6.12.117",
    releases="v5.14 - v6.14",
)
def make_device_exclusive_range(mm: MmStruct, start: int, nr_pages: int, pages: Pages, owner: Any) -> int:
    """All pages are got first; then every entry that maps one of them is replaced. Without waiting: a page that
    somebody has locked, that is not where it was, or that could not be written to is given back, and its slot is None;
    entries that have been replaced stay so.
    """
    found = get_user_pages_remote(mm, start, nr_pages, FOLL_WRITE, pages)
    for n in range(max(found, 0)):
        folio = pages.folios[n]
        if folio is None:
            continue
        if not folio_trylock(folio.lock):
            folio_put(folio, f"references of {pages.holder}")
            reached("a page was locked, and not given")
        elif folio_make_device_exclusive(mm, start + n * PAGE_SIZE, folio, owner):
            reached("a device has a page for itself")
            continue
        else:
            give_back(folio, f"references of {pages.holder}")
            reached("a page was not given")
        pages.folios[n] = None
    return found


def folio_make_device_exclusive(mm: MmStruct, address: int, folio: Folio, owner: Any) -> bool:
    """Replace every entry that maps the page, which is locked: True if none does any more, and one of them was the
    writable one at ``address``.

    Source: none (5.10, from 6.16); mm/rmap.c folio_make_device_exclusive (6.1 - 6.12).
    """
    if not folio.anon:
        return False
    valid = False
    for where, table, at in mappings_of(mm.machine, folio):
        range = mmu_notifier_range_init_owner(where, MMU_NOTIFY_EXCLUSIVE, at, at + PAGE_SIZE, owner)
        mmu_notifier_invalidate_range_start(range)
        was = page_make_device_exclusive_one(where, table, at, folio)
        mmu_notifier_invalidate_range_end(range)
        valid = valid or (where is mm and at == address and bool(was & RW))
    return valid and folio.mapcount == 0


def page_make_device_exclusive_one(mm: MmStruct, table: PteTable, address: int, folio: Folio) -> int:
    """... one entry: what it was; none, if the page is not mapped there any more.

    Source: none (5.10, from 6.16); mm/rmap.c page_make_device_exclusive_one (6.1 - 6.12).
    """
    ptl = pte_offset_map_lock(table)
    entry = ptep_get(table, address)
    if not pte_present(entry) or pte_pfn(entry) != folio.pfn:
        pte_unmap_unlock(ptl)
        return NONE
    entry = replace_entry(mm, table, address, folio)
    pte_unmap_unlock(ptl)
    return entry


def replace_entry(mm: MmStruct, table: PteTable, address: int, folio: Folio) -> int:
    """Clear and flush an entry, and put that of a device in its place: what was there. The page-table lock is held."""
    entry = ptep_get_and_clear(table, address)
    flush_tlb_range(mm, address, address + PAGE_SIZE)
    set_pte_at(table, address, design().entry(folio.pfn, entry))
    if not design().counted:
        folio.add_return("mapcount", -1)
    return entry


# -- by the page tables -----------------------------------------------------------------------------------------------
@make_exclusive.alternative("single", source="mm/rmap.c make_device_exclusive, 7.3.4", releases=">= v6.15")
def make_device_exclusive_single(mm: MmStruct, start: int, nr_pages: int, pages: Pages, owner: Any) -> int:
    """One page at a time (the callers loop): got, and its lock waited for; and if its entry is then not what it was, or
    cannot be written to, all over again. -EOPNOTSUPP of what is not a process's own.
    """
    for n in range(nr_pages):
        error = make_one_exclusive(mm, start + (n << PAGE_SHIFT), pages, owner)
        if error:
            return n or error
    return nr_pages


def make_one_exclusive(mm: MmStruct, address: int, pages: Pages, owner: Any) -> int:
    """... one page: 0 or an errno."""
    holder = f"references of {pages.holder}"
    while True:
        loop_point(mm, address, pages, owner, holder)
        got = get_user_pages_remote(mm, address, 1, FOLL_WRITE, pages)
        if got <= 0:
            return got
        folio = pages.folios[-1]
        if folio is None or not folio.anon:
            pages.cut(len(pages) - 1)
            if folio is not None:
                folio_put(folio, holder)
            return -EOPNOTSUPP
        folio_lock(folio.lock)
        range = mmu_notifier_range_init_owner(mm, MMU_NOTIFY_EXCLUSIVE, address, address + PAGE_SIZE, owner)
        mmu_notifier_invalidate_range_start(range)
        replaced = still_mapped_writable(mm, address, folio)
        mmu_notifier_invalidate_range_end(range)
        if replaced:
            reached("a device has a page for itself")
            return 0
        pages.cut(len(pages) - 1)
        give_back(folio, holder)
        reached("a page had been replaced, and was looked for again")


def still_mapped_writable(mm: MmStruct, address: int, folio: Folio) -> bool:
    """Replace the entry, if it still maps the page, writable."""
    table = pmd_offset(mm, address)
    pmd = table.entry
    if pmd == NONE or pmd_leaf(pmd):
        return False
    ptl = pte_offset_map_lock(table)
    entry = ptep_get(table, address)
    same = pte_present(entry) and pte_pfn(entry) == folio.pfn and bool(entry & RW)
    if same:
        replace_entry(mm, table, address, folio)
    pte_unmap_unlock(ptl)
    return same
