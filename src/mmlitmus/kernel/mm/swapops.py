"""Entries that are neither none nor present: a page that is in swap, one that is being moved, one that a device has for
itself.

Laid out as x86-64 has them: the type in the five highest bits; the offset, which is that of a slot or a frame, inverted
in bits 14 to 58 shifted down by those five; bit 1 for soft-dirty, and bit 3 for a page in swap that one process had for
itself. Which number a type has depends on the build; these are those of one with memory failure handling, device memory
and markers (from 6.15 on there is one type less, and those of migration are 25 to 27). Types below MAX_SWAPFILES are
swap devices.

Source: include/linux/swapops.h, include/linux/swap.h; arch/x86/include/asm/pgtable_64.h __swp_entry. Of the model's
own: non_present_entry, make_swap_entry, make_migration_entry, migration_pfn, entry_pfn.
"""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import NONE, PWT, RW, SOFT_DIRTY, pte_pfn, pte_present

TYPE_SHIFT, OFFSET_SHIFT, TYPE_BITS = 59, 14, 5
WORD = (1 << 64) - 1
SWP_SOFT_DIRTY = RW
SWP_EXCLUSIVE = PWT

MAX_SWAPFILES = 23
SWP_MIGRATION_READ, SWP_MIGRATION_READ_EXCLUSIVE, SWP_MIGRATION_WRITE = 24, 25, 26
SWP_DEVICE_EXCLUSIVE_WRITE, SWP_DEVICE_EXCLUSIVE_READ = 29, 30
SWP_DEVICE_EXCLUSIVE = 30  # from 6.15 on, where there is one


def non_present_entry(kind: int, offset: int, bits: int = 0) -> int:
    """An entry of a type, over a slot or a frame, with the bits that are beside it.

    Source: arch/x86/include/asm/pgtable_64.h __swp_entry.
    """
    return ((~offset & WORD) << OFFSET_SHIFT & WORD) >> TYPE_BITS | kind << TYPE_SHIFT | bits


def swp_offset(entry: int) -> int:
    """The slot, or the frame.

    Source: include/linux/swapops.h swp_offset (to 6.12), include/linux/leafops.h softleaf_to_pfn (7.3).
    """
    return ((~entry & WORD) << TYPE_BITS & WORD) >> OFFSET_SHIFT


# -- pages in swap ----------------------------------------------------------------------------------------------------
def make_swap_entry(slot: int, bits: int) -> int:
    """The entry of a page in a slot of the one swap device that there is."""
    return non_present_entry(0, slot, bits)


def is_swap_entry(entry: int) -> bool:
    """Does the entry stand for a page in swap?

    Source: include/linux/swapops.h non_swap_entry (to 6.12), include/linux/leafops.h softleaf_is_swap (7.3).
    """
    return entry != NONE and not pte_present(entry) and entry >> TYPE_SHIFT < MAX_SWAPFILES


# -- pages under migration --------------------------------------------------------------------------------------------
def make_migration_entry(pfn: int, kind: int, entry: int) -> int:
    """The entry that takes the place of ``entry``, which maps frame ``pfn``, while the page migrates."""
    return non_present_entry(kind, pfn, SWP_SOFT_DIRTY if entry & SOFT_DIRTY else 0)


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
    return swp_offset(entry)


# -- pages that a device has for itself -------------------------------------------------------------------------------
def is_device_exclusive_entry(entry: int) -> bool:
    """Does the entry stand for a page that a device has for itself?

    Source: include/linux/swapops.h is_device_exclusive_entry (6.1 - 6.12), include/linux/leafops.h
    softleaf_is_device_exclusive (7.3); none (5.10).
    """
    kinds = (SWP_DEVICE_EXCLUSIVE_WRITE, SWP_DEVICE_EXCLUSIVE_READ)
    return entry != NONE and not pte_present(entry) and entry >> TYPE_SHIFT in kinds


def entry_pfn(entry: int) -> int | None:
    """The frame that an entry maps, or that is under migration where it stands; None for anything else.

    Source: mm/page_vma_mapped.c check_pte.
    """
    if pte_present(entry):
        return pte_pfn(entry)
    return migration_pfn(entry) if is_migration_entry(entry) else None
