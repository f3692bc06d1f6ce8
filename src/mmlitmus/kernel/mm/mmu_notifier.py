"""MMU notifiers: who has a page table of his own for an mm (KVM, a device) hears before and after translations go.

Nobody subscribes in a search, and nothing happens. Told are zaps, the unmapping of VMAs, and copies of pages; not (not
modelled) mprotect, mremap, fork and migration. Source: include/linux/mmu_notifier.h, functions of the same name.
"""

from __future__ import annotations

from mmlitmus.kernel.mm.mm_types import MmStruct


def mmu_notifier_invalidate_range_start(mm: MmStruct, start: int, end: int) -> None:
    """The translations of [start, end) bytes are about to change: whoever has copies of them drops them now."""
    for subscriber in mm.notifier_subscriptions:
        subscriber.invalidate_range_start(mm, start, end)


def mmu_notifier_invalidate_range_end(mm: MmStruct, start: int, end: int) -> None:
    """They have changed."""
    for subscriber in mm.notifier_subscriptions:
        subscriber.invalidate_range_end(mm, start, end)
