"""The storage of a search, one object a folio and a table, with what is counted on it. Arrays are compared with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmlitmus.kernel.arch.x86.pgtable import NONE, PAGE_SHIFT, PTRS_PER_PTE, PteTable, PudEntry
from mmlitmus.kernel.mm.page_alloc import Folio, Frames

from .counts import ENTRY, Counts, Watched


def watch_slot(slot: Any, level: str, counts: Counts) -> None:
    """Count what becomes of an entry above the PTEs."""

    def told(values: Any, at: int, old: Any, new: Any) -> None:
        if at == ENTRY:
            counts.slot(level, slot.leaves, old, new)

    slot._values = Watched(slot._values, told)


class CountedPudEntry(PudEntry):
    """A PUD entry that is counted."""

    __slots__ = ()

    def __init__(self, counts: Counts, mm_name: str, address: int, label: Callable[[int], str]) -> None:
        super().__init__(mm_name, address, label)
        watch_slot(self, "pud", counts)


class CountedTable(PteTable):
    """A page table whose entries are counted."""

    __slots__ = ("counts",)

    def __init__(self, counts: Counts, mm_name: str, address: int, label: Callable[[int], str]) -> None:
        super().__init__(mm_name, address, label)
        self.counts = counts
        watch_slot(self, "pmd", counts)

    def put(self, address: int, entry: int) -> None:
        """Change the entry, and count."""
        if entry != NONE:
            self.counts["ptes_set"] += 1
        elif address >> PAGE_SHIFT & PTRS_PER_PTE - 1 in self.values:
            self.counts["ptes_cleared"] += 1
        super().put(address, entry)


class CountedFrames(Frames):
    """Frames whose folios are counted."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def make(self, pfn: int, nr: int, holder: str, **values: Any) -> Folio:
        """A new folio, and count it."""
        folio = super().make(pfn, nr, holder, **values)
        folio._values = Watched(folio._values, lambda v, at, old, new: self.counts.folio(v, 1, at, old, new))
        self.counts.made(1, folio.order)
        return folio
