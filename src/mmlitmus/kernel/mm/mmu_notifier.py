"""MMU notifiers: who has a page table of his own for an mm (KVM, a device) hears before and after translations go.

Where nobody subscribes nothing happens. A subscriber is called with the mm, the range, what for, and whose doing it is;
he may sleep, and may not refuse. Told are zaps, unmapping, copies of pages, protections, moves, fork, migration,
reclaim, and what a device is given for itself. Sequence numbers of intervals are not modelled.

Source: include/linux/mmu_notifier.h, functions of the same name.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.kernel.mm.mm_types import MmStruct

MMU_NOTIFY_UNMAP, MMU_NOTIFY_CLEAR, MMU_NOTIFY_PROTECTION_VMA, MMU_NOTIFY_PROTECTION_PAGE = 0, 1, 2, 3
MMU_NOTIFY_EXCLUSIVE = 7  # from 5.14 on


def mmu_notifier_register(subscriber: Any, mm: MmStruct) -> None:
    """``subscriber.invalidate_range_start(mm, start, end, event, owner)`` and ``invalidate_range_end`` of the same are
    called from now on. For the set-up; who subscribes has to know children's mms for himself.

    Source: mm/mmu_notifier.c mmu_notifier_register.
    """
    mm.notifier_subscriptions = (*mm.notifier_subscriptions, subscriber)


def mmu_notifier_invalidate_range_start(
    mm: MmStruct, start: int, end: int, event: int = MMU_NOTIFY_CLEAR, owner: Any = None
) -> None:
    """The translations of [start, end) bytes are about to change: whoever has copies of them drops them now. ``owner``:
    on whose behalf a device is given a page for itself.
    """
    for subscriber in mm.notifier_subscriptions:
        subscriber.invalidate_range_start(mm, start, end, event, owner)


def mmu_notifier_invalidate_range_end(
    mm: MmStruct, start: int, end: int, event: int = MMU_NOTIFY_CLEAR, owner: Any = None
) -> None:
    """They have changed."""
    for subscriber in mm.notifier_subscriptions:
        subscriber.invalidate_range_end(mm, start, end, event, owner)
