"""MMU notifiers: who has a page table of his own for an mm (KVM, a device) hears before and after translations go.

Where nobody subscribes nothing happens. Whoever changes translations makes a range, and gives the same one to the start
and to the end; so both say the same event. A subscriber may sleep, and may not refuse. Told are zaps, unmapping, copies
of pages, protections, moves, splits of leaves, clear_refs, fork, migration, reclaim, and what a device is given for
itself. Sequence numbers of intervals are not modelled.

Source: include/linux/mmu_notifier.h, functions of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmlitmus.kernel.arch.x86.pgtable import NONE
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.pgalloc import pmd_page_alloc
from mmlitmus.kernel.sync.might import might_sleep

MMU_NOTIFY_UNMAP = 0
MMU_NOTIFY_CLEAR = 1
MMU_NOTIFY_PROTECTION_VMA = 2
MMU_NOTIFY_PROTECTION_PAGE = 3
MMU_NOTIFY_SOFT_DIRTY = 4
MMU_NOTIFY_EXCLUSIVE = 7  # from 5.14 on

#: every event that somebody is told of, by its name in a recording
EVENTS = {
    MMU_NOTIFY_UNMAP: "unmap",
    MMU_NOTIFY_CLEAR: "clear",
    MMU_NOTIFY_PROTECTION_VMA: "protection-vma",
    MMU_NOTIFY_PROTECTION_PAGE: "protection-page",
    MMU_NOTIFY_SOFT_DIRTY: "soft-dirty",
    MMU_NOTIFY_EXCLUSIVE: "exclusive",
}


@dataclass(frozen=True)
class MmuNotifierRange:
    """What is about to change, and has changed: [start, end) bytes of an mm. ``event``: one of MMU_NOTIFY_*. ``owner``:
    on whose behalf a device is given a page for itself.

    Source: include/linux/mmu_notifier.h mmu_notifier_range.
    """

    mm: MmStruct
    start: int
    end: int
    event: int
    owner: Any = None


def mmu_notifier_range_init(mm: MmStruct, event: int, start: int, end: int) -> MmuNotifierRange:
    """The range [start, end) bytes of an mm, about which nobody in particular is asked."""
    return MmuNotifierRange(mm, start, end, event)


def mmu_notifier_range_init_owner(mm: MmStruct, event: int, start: int, end: int, owner: Any) -> MmuNotifierRange:
    """The same on behalf of ``owner``, who will know himself by it.

    Source: none (5.10); include/linux/mmu_notifier.h mmu_notifier_range_init_owner (from 6.1).
    """
    return MmuNotifierRange(mm, start, end, event, owner)


def mmu_notifier_register(subscriber: Any, mm: MmStruct) -> None:
    """``subscriber.invalidate_range_start(range)`` and ``invalidate_range_end(range)`` are called from now on, each
    with a ``MmuNotifierRange``; and ``release(mm)``, where it has one, when the mm goes. For the set-up; who subscribes
    has to know children's mms for himself.

    Source: mm/mmu_notifier.c mmu_notifier_register.
    """
    mm.notifier_subscriptions = (*mm.notifier_subscriptions, subscriber)
    for n in sorted(mm.pgd):
        if mm.pgd[n].entry != NONE:
            pmd_page_alloc(mm, mm.pgd[n].address)


def mmu_notifier_invalidate_range_start(range: MmuNotifierRange) -> None:
    """The translations of the range are about to change: whoever has copies of them drops them now, and may sleep."""
    might_sleep("mmu_notifier_invalidate_range_start")
    for subscriber in range.mm.notifier_subscriptions:
        subscriber.invalidate_range_start(range)


def mmu_notifier_invalidate_range_end(range: MmuNotifierRange) -> None:
    """They have changed."""
    might_sleep("mmu_notifier_invalidate_range_end")
    for subscriber in range.mm.notifier_subscriptions:
        subscriber.invalidate_range_end(range)


def mmu_notifier_release(mm: MmStruct) -> None:
    """The address space goes. Its subscribers are told so, and then are none any more: of the unmapping that comes
    (a gather of the whole mm) they hear nothing.

    Not modelled: that they hear nothing either of who zaps through the reverse map meanwhile.

    Source: include/linux/mmu_notifier.h mmu_notifier_release; mm/mmu_notifier.c mn_hlist_release.
    """
    for subscriber in mm.notifier_subscriptions:
        release = getattr(subscriber, "release", None)
        if release is not None:
            release(mm)
