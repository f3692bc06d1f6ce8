"""Entries of pages that a device has for itself: what they say, and what they count for.

Such an entry is not present, so that every access of a CPU faults, and gets the page back (``memory_swap``). It holds a
reference to the page, as the present one did that it has replaced. Made they are in ``rmap_exclusive``.

Source: include/linux/swapops.h, mm/rmap.c, mm/memory.c. Of the model's own: design.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.kernel.arch.x86.pgtable import RW, SOFT_DIRTY
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.page_alloc import Folio, folio_put, page_tables
from mmlitmus.kernel.mm.swapops import (
    SWP_DEVICE_EXCLUSIVE,
    SWP_DEVICE_EXCLUSIVE_READ,
    SWP_DEVICE_EXCLUSIVE_WRITE,
    SWP_SOFT_DIRTY,
    TYPE_SHIFT,
    entry_pfn,
    is_device_exclusive_entry,
    non_present_entry,
    swp_offset,
)
from mmlitmus.kernel.policy import Seam, running

exclusive_entry = Seam("make_device_exclusive_entry", "what an entry of a page that a device has for itself says")


@exclusive_entry.alternative(
    "two-types",
    source="none (5.10); include/linux/swapops.h make_writable_device_exclusive_entry, "
    "make_readable_device_exclusive_entry (6.1 - 6.12); mm/mprotect.c change_pte_range (6.1 - 6.12); mm/rmap.c "
    "page_make_device_exclusive_one (6.1 - 6.12)",
    releases="v5.14 - v6.14",
)
class TwoTypes:
    """Whether the page could be written to; any change of protection makes it one that could not. The page counts as
    mapped once less: reclaim and migration do not find it, and its reference is in their way.
    """

    counted = False

    @staticmethod
    def entry(pfn: int, present: int) -> int:
        """The entry that replaces ``present``."""
        kind = SWP_DEVICE_EXCLUSIVE_WRITE if present & RW else SWP_DEVICE_EXCLUSIVE_READ
        return non_present_entry(kind, pfn, SWP_SOFT_DIRTY if present & SOFT_DIRTY else 0)

    @staticmethod
    def protected(entry: int) -> int:
        """... after mprotect has come by."""
        if entry >> TYPE_SHIFT != SWP_DEVICE_EXCLUSIVE_WRITE:
            return entry
        return non_present_entry(SWP_DEVICE_EXCLUSIVE_READ, swp_offset(entry), entry & SWP_SOFT_DIRTY)


@exclusive_entry.alternative(
    "one-type",
    source="include/linux/swapops.h make_device_exclusive_entry; mm/rmap.c make_device_exclusive, try_to_unmap_one, "
    "try_to_migrate_one, 7.3.4",
    releases=">= v6.15",
)
class OneType:
    """Nothing: whether the page may be written to its VMA says. The page counts as mapped, and can be reclaimed and
    moved, of which the device is told.
    """

    counted = True

    @staticmethod
    def entry(pfn: int, present: int) -> int:
        """The entry that replaces ``present``."""
        return non_present_entry(SWP_DEVICE_EXCLUSIVE, pfn, SWP_SOFT_DIRTY if present & SOFT_DIRTY else 0)

    @staticmethod
    def protected(entry: int) -> int:
        """... after mprotect has come by: the same."""
        return entry


def design() -> Any:
    """What this kernel's entries say."""
    return running().chosen(exclusive_entry)


def counts_as_mapping(entry: int) -> int | None:
    """The frame of which an entry counts as a mapping, for who walks the reverse map; None for no frame.

    Source: mm/page_vma_mapped.c check_pte.
    """
    if is_device_exclusive_entry(entry):
        return swp_offset(entry) if design().counted else None
    return entry_pfn(entry)


def zap_device_exclusive(mm: MmStruct, folio: Folio) -> None:
    """The entry of a page that a device has for itself has been cleared: what it counted for goes. The page-table lock
    is held, the page is not locked.

    Source: mm/memory.c zap_pte_range (to 6.12), zap_nonpresent_ptes (7.3).
    """
    if design().counted:
        folio.add_return("mapcount", -1)
    folio_put(folio, page_tables(mm))
