"""Entries that are neither none nor present: so far, those that stand for a page under migration.

Laid out as x86-64 has them: the type in the five highest bits, the frame inverted in bits 14 to 58 shifted down by
those five, bit 1 for soft-dirty. Which number a type has depends on the build; these are those of one with memory
failure handling, device memory and markers.

Source: include/linux/swapops.h, include/linux/swap.h; arch/x86/include/asm/pgtable_64.h __swp_entry. Of the model's
own: make_migration_entry, migration_pfn.
"""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import NONE, RW, SOFT_DIRTY, pte_present

TYPE_SHIFT, OFFSET_SHIFT, TYPE_BITS = 59, 14, 5
WORD = (1 << 64) - 1
SWP_SOFT_DIRTY = RW

SWP_MIGRATION_READ, SWP_MIGRATION_READ_EXCLUSIVE, SWP_MIGRATION_WRITE = 24, 25, 26


def make_migration_entry(pfn: int, kind: int, entry: int) -> int:
    """The entry that takes the place of ``entry``, which maps frame ``pfn``, while the page migrates."""
    offset = ((~pfn & WORD) << OFFSET_SHIFT & WORD) >> TYPE_BITS
    return offset | kind << TYPE_SHIFT | (SWP_SOFT_DIRTY if entry & SOFT_DIRTY else 0)


def is_migration_entry(entry: int) -> bool:
    """Does the entry stand for a page under migration?

    Source: include/linux/swapops.h is_migration_entry (to 6.12), include/linux/leafops.h softleaf_is_migration (7.3).
    """
    kinds = (SWP_MIGRATION_READ, SWP_MIGRATION_READ_EXCLUSIVE, SWP_MIGRATION_WRITE)
    return entry != NONE and not pte_present(entry) and entry >> TYPE_SHIFT in kinds


def migration_type(entry: int) -> int:
    """Which of the three it is.

    Source: include/linux/swapops.h swp_type (to 6.12), include/linux/leafops.h softleaf_type (7.3).
    """
    return entry >> TYPE_SHIFT


def migration_pfn(entry: int) -> int:
    """The frame under migration."""
    return ((~entry & WORD) << TYPE_BITS & WORD) >> OFFSET_SHIFT
