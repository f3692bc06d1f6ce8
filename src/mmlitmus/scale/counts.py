"""What is counted on a whole machine, and where: in what is stored, so that no function of the kernel counts for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmlitmus.kernel.arch.x86.pgtable import NONE, TABLE, PudEntry, pmd_leaf
from mmlitmus.kernel.mm.page_alloc import GUP_PIN_COUNTING_BIAS, Folio
from mmlitmus.kernel.mm.pfnmap_track import PfnmapTrackCtx  # noqa: F401 (loaded before a kernel is resolved)

#: what is counted, in the order of reports
COUNTS: dict[str, str] = {
    "faults": "page faults that the kernel served, those of get_user_pages and those tried twice among them",
    "ptes_set": "PTEs written that were to map something",
    "ptes_cleared": "PTEs that were set to none",
    "pmd_leaves_set": "2M leaves written",
    "pmd_leaves_cleared": "2M leaves that were set to none",
    "pud_leaves_set": "1G leaves written",
    "pud_leaves_cleared": "1G leaves that were set to none",
    "pte_tables": "page tables of PTEs that were put in place",
    "pmd_tables": "page tables of PMD entries that were put in place, below PUD entries that can hold a leaf",
    "folios_allocated": "folios that were handed out",
    "pages_allocated": "pages of 4K in them",
    "references_taken": "what was added to reference counts; a pin of a small page adds 1024",
    "references_dropped": "what was taken off them",
    "pages_pinned": "pins taken, a page each",
    "pages_unpinned": "pins given back",
    "memtype_lookups": "look-ups of a frame's memory type (PAT)",
    "notifier_calls": "invalidate_range_start calls that a subscriber to MMU notifiers gets",
    "iommu_maps": "runs of frames that were mapped in the IOMMU",
    "iommu_unmaps": "runs of frames that were unmapped there",
}

_FIELDS = Folio.fields
REFCOUNT, HOLDERS, ORDER, PFN = (_FIELDS[name].at for name in ("refcount", "holders", "order", "pfn"))
ENTRY = PudEntry.fields["entry"].at


class Counts(dict[str, int]):
    """A number for each of ``COUNTS``."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COUNTS, 0))

    def folio(self, values: Any, alike: int, at: int, old: Any, new: Any) -> None:
        """A field of ``alike`` folios goes from ``old`` to ``new``."""
        if at == REFCOUNT:
            self["references_taken" if new > old else "references_dropped"] += abs(new - old) * alike
        elif at == HOLDERS:
            pin = 1 if values[ORDER] else GUP_PIN_COUNTING_BIAS
            pins = sum(n for who, n in new if who.startswith("pins of ")) - sum(
                n for who, n in old if who.startswith("pins of ")
            )
            if pins:
                self["pages_pinned" if pins > 0 else "pages_unpinned"] += abs(pins) // pin * alike

    def made(self, alike: int, order: int) -> None:
        """``alike`` folios are handed out, with a reference each."""
        self["folios_allocated"] += alike
        self["pages_allocated"] += alike << order
        self["references_taken"] += alike

    def slot(self, level: str, leaves: int, old: int, new: int) -> None:
        """``leaves`` entries of a level above the PTEs change."""
        if new == TABLE:
            self["pte_tables" if level == "pmd" else "pmd_tables"] += leaves
        elif pmd_leaf(new):
            self[f"{level}_leaves_set"] += leaves
        elif new == NONE and pmd_leaf(old):
            self[f"{level}_leaves_cleared"] += leaves


class Watched(list[Any]):
    """The values of a model object, which tell before one of them changes."""

    __slots__ = ("told",)

    def __init__(self, values: list[Any], told: Callable[[Any, int, Any, Any], None]) -> None:
        super().__init__(values)
        self.told = told

    def __setitem__(self, at: Any, value: Any) -> None:
        self.told(self, at, self[at], value)
        super().__setitem__(at, value)
