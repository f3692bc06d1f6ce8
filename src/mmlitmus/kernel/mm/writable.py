"""Which entries the kernel makes writable without a fault: where the VMA may be written, and its protection waits for
the first store all the same.

Source: mm/mprotect.c. Faults that give a page back to the process that a device had for itself ask the same.
"""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import DIRTY_BITS, SOFT_DIRTY
from mmlitmus.kernel.mm.memory_pages import vm_normal_page
from mmlitmus.kernel.mm.mm_types import VM_SHARED, VM_SOFTDIRTY, VmArea
from mmlitmus.kernel.policy import Seam

can_change_pte_writable = Seam(
    "can_change_pte_writable", "may mprotect make an entry writable at once, where the VMA's protection does not"
)


def shared_and_dirty(vma: VmArea, entry: int) -> bool:
    """Has the driver heard of a store to this page?

    Source: mm/mprotect.c change_pte_range (5.10), can_change_pte_writable (from 6.1).
    """
    return bool(vma.has(VM_SHARED) and entry & DIRTY_BITS)


@can_change_pte_writable.alternative("shared", source="mm/mprotect.c change_pte_range, v5.10", releases="<= v5.18")
def if_the_driver_knows(vma: VmArea, address: int, entry: int) -> bool:
    """A shared page whose driver has heard of its first store: the entry is dirty, and soft-dirty where the VMA is."""
    return shared_and_dirty(vma, entry) and bool(entry & SOFT_DIRTY or not vma.vm_flags & VM_SOFTDIRTY)


@can_change_pte_writable.alternative(
    "or-exclusive-and-dirty",
    source="mm/mprotect.c can_change_pte_writable, 6.1.192; recorded: 6.1.192",
    releases="v5.19 - v6.1",
)
def if_the_driver_knows_or_nobody_shares_what_is_dirty(vma: VmArea, address: int, entry: int) -> bool:
    """Such a page, or a private anonymous one that no other process maps, if it is dirty: one that somebody has forced
    a store to need not be.
    """
    return bool(entry & DIRTY_BITS) and if_the_driver_knows_or_nobody_shares(vma, address, entry)


@can_change_pte_writable.alternative(
    "or-exclusive", source="mm/mprotect.c can_change_pte_writable, 6.12.117", releases=">= v6.2"
)
def if_the_driver_knows_or_nobody_shares(vma: VmArea, address: int, entry: int) -> bool:
    """Such a page, or a private anonymous one that no other process maps; where soft-dirty is tracked, only one that is
    soft-dirty.
    """
    if not vma.vm_flags & VM_SOFTDIRTY and not entry & SOFT_DIRTY:
        return False
    if vma.has(VM_SHARED):
        return shared_and_dirty(vma, entry)
    page = vm_normal_page(vma, address, entry)
    return page is not None and page.anon and bool(page.anon_exclusive)
