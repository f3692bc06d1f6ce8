"""Page tables where they are missing, and address ranges cut at their boundaries.

Source: mm/memory.c, include/linux/mm.h, functions of the same name; where a docstring does not say otherwise. Of the
model's own: pmd_page, pmd_page_alloc, pmd_page_free, pte_batches, batch_at, Touched, fault_batch, pmd_chunks,
pmd_batches, pud_chunks, walks_through.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import bug, reached
from mmlitmus.explore.primitives.choice import may_fail
from mmlitmus.explore.runtime import current
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PMD_SIZE,
    PUD_SHIFT,
    PUD_SIZE,
    TABLE,
    PmdPage,
    PteTable,
    PudEntry,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pud_leaf,
    pud_offset,
)
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.mm.mm_types import MmStruct, VmArea
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.might import might_alloc
from mmlitmus.kernel.sync.spinlock import spin_lock, spin_unlock

no_pte_table = Seam("pte_offset_map_lock", "what who wants a PTE table finds where a huge leaf is")


def walk_to_pmd(mm: MmStruct, address: int, nr: int = 1) -> PteTable:
    """The slot of the PMD entry for ``address``, with whatever is missing above it. ``nr``: of a batch of so many
    pages.

    Nobody asks whether the PUD entry is a leaf: it is taken for a table, and the frame that it maps is read as one.
    Source: mm/memory.c walk_to_pmd, remap_pmd_range.
    """
    pud = pud_offset(mm, address)
    if pud is not None and pud_leaf(pmd_alloc(pud)):
        walks_through(mm, address, "a 1G leaf for a table of PMD entries")
    pmd_page_alloc(mm, address)
    return pmd_offset(mm, address, nr)


def walks_through(mm: MmStruct, address: int, what: str) -> None:
    """The kernel goes on through the frame that a leaf maps. A BAR has neither a direct map nor struct pages: an
    oops. Of memory it would take whatever is in it for entries, or the frame's lock for the table's.
    """
    where = f"{mm.name}'s page {mm.machine.page_label(address)}"
    bug("walk-through-leaf", f"{current().name} takes {what} at {where}: what it reads or locks is none")


def pte_alloc(mm: MmStruct, table: PteTable) -> int:
    """Make sure that something is there under the PMD entry, a PTE table if it was none: the entry then (a huge leaf
    stays), or -ENOMEM. Sleeps.
    """
    entry: int = table.entry
    if entry != NONE:
        return entry
    might_alloc(mm.machine)
    if may_fail("pte_alloc_one", mm.machine.failures):
        return -ENOMEM
    spin_lock(table.pmd_lock)
    entry = table.entry
    if entry == NONE:
        entry = table.entry = TABLE
    spin_unlock(table.pmd_lock)
    return entry


def pte_alloc_map_lock(mm: MmStruct, table: PteTable, address: int) -> Any:
    """The PTE table under a PMD entry, locked, made if there was none. None without memory, and where there can be no
    table (``no_pte_table``). The callers say -ENOMEM or VM_FAULT_OOM of either.
    """
    entry = pte_alloc(mm, table)
    if entry < 0:
        return None
    return no_pte_table(mm, table, address) if pmd_leaf(entry) else pte_offset_map_lock(table)


@no_pte_table.alternative(
    "through-leaf",
    source="include/linux/mm.h pte_offset_map_lock, pte_lockptr, v6.1",
    releases="<= v6.4",
)
def lock_of_no_table(mm: MmStruct, table: PteTable, address: int) -> Any:
    """It locks the table that the leaf's frame would be."""
    walks_through(mm, address, "a 2M leaf for a PTE table")


@no_pte_table.alternative("unseen", source="negative control", releases="never")
def the_table_of_before(mm: MmStruct, table: PteTable, address: int) -> Any:
    """Nobody looks: a PTE goes where the table would be."""
    return pte_offset_map_lock(table)


@no_pte_table.alternative(
    "none",
    source="'mm/pgtable: allow pte_offset_map[_lock]() to fail' (6.5); mm/pgtable-generic.c __pte_offset_map, 6.12.117",
    releases=">= v6.5",
)
def there_is_no_table(mm: MmStruct, table: PteTable, address: int) -> Any:
    """It finds that there is none, and says so."""
    reached("no PTE table where a huge leaf is")
    return None


def pte_prealloc(mm: MmStruct, table: PteTable) -> int:
    """Have memory at hand for a PTE table before a driver is asked: 0, or -ENOMEM. Sleeps.

    Only a driver that returns a page has it put in place; one that says no leaves the PMD entry as it was. Source:
    mm/memory.c __do_fault.
    """
    if table.entry != NONE:
        return 0
    might_alloc(mm.machine)
    return -ENOMEM if may_fail("pte_alloc_one", mm.machine.failures) else 0


def pmd_alloc(pud: PudEntry) -> int:
    """Make sure that there is something under the PUD entry, a PMD table if it was none: the entry then (a leaf stays).
    Memory is never short for it.
    """
    entry: int = pud.entry
    if entry != NONE:
        return entry
    spin_lock(pud.pud_lock)
    entry = pud.entry
    if entry == NONE:
        entry = pud.entry = TABLE
    spin_unlock(pud.pud_lock)
    return entry


def pmd_page(mm: MmStruct, address: int) -> PmdPage:
    """The page of PMD entries for ``address``, which may not be there."""
    n = address >> PUD_SHIFT
    page = mm.pmd_pages.get(n)
    if page is None:
        page = mm.pmd_pages[n] = PmdPage(f"{mm.name}:pmd_page[{n:#x}]")
    return page


def pmd_page_alloc(mm: MmStruct, address: int) -> None:
    """There is a page of PMD entries from now on. No event where nobody listens to the mm's notifiers, for whom alone
    it is asked.
    """
    if mm.notifier_subscriptions and not pmd_page(mm, address).there:
        pmd_page(mm, address).there = True


def pmd_page_free(mm: MmStruct, address: int) -> None:
    """It goes, with the last VMA in its 1G."""
    page = mm.pmd_pages.get(address >> PUD_SHIFT)
    if page is not None and page.there:
        page.there = False


def pte_batches(start: int, end: int, nr: int) -> list[tuple[int, int]]:
    """[start, end) bytes as (address, pages) runs of at most ``nr`` pages, cut where ``batch_at`` cuts."""
    size = nr << PAGE_SHIFT
    blocks = range(start & -size, end, size)
    return [(max(start, a), min(end, a + size) - max(start, a) >> PAGE_SHIFT) for a in blocks]


def batch_at(mm: MmStruct, address: int, pages: int) -> int:
    """How many of ``pages`` pages from ``address`` on a leaf loop handles at once: one in a search.

    Elsewhere up to ``machine.batch``, a power of two, and no batch reaches beyond a multiple of its size.
    """
    batch: int = mm.machine.batch
    return 1 if batch == 1 else min(pages, batch - (address >> PAGE_SHIFT & batch - 1))


class Touched:
    """``nr`` pages that somebody touches one after the other; of which he hears how many went like the first."""

    __slots__ = ("nr",)

    def __init__(self, nr: int) -> None:
        self.nr = nr


def fault_batch(vma: VmArea, address: int, nr: int) -> int:
    """How many of ``nr`` pages can be served at once: those in blocks of 2M and 1G that are inside the VMA, or outside
    of it in part, like the first page's. What begins within a block ends with it.
    """
    if nr == 1:
        return 1
    end = min(address + (nr << PAGE_SHIFT), vma.vm_end)
    for size in (PUD_SIZE, PMD_SIZE):
        block = address & -size
        whole = block == address and block + size <= vma.vm_end
        end = min(end, vma.vm_end & -size if whole else block + size)
    return end - address >> PAGE_SHIFT


def pmd_chunks(start: int, end: int) -> list[tuple[int, int]]:
    """[start, end) bytes cut at PMD boundaries, as (start, end) pairs."""
    blocks = range(start & ~(PMD_SIZE - 1), end, PMD_SIZE)
    return [(max(start, block), min(end, block + PMD_SIZE)) for block in blocks]


def pmd_batches(mm: MmStruct, start: int, end: int) -> list[tuple[int, int]]:
    """``pmd_chunks``; where batches are larger than a page table, tables in the same state are one."""
    if mm.machine.batch == 1:
        return pmd_chunks(start, end)
    batches: list[tuple[int, int]] = mm.machine.pmd_batches(mm, start, end)
    return batches


def pud_chunks(start: int, end: int) -> list[tuple[int, int]]:
    """[start, end) bytes cut at PUD boundaries, as (start, end) pairs."""
    blocks = range(start & ~(PUD_SIZE - 1), end, PUD_SIZE)
    return [(max(start, block), min(end, block + PUD_SIZE)) for block in blocks]
