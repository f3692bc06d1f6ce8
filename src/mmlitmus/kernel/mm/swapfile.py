"""Swap: slots, who uses them, and the swap cache.

A machine has a swap device only if its case asks for one (``swapon``). A slot counts the entries of page tables that
stand for it; beside that it may be in the swap cache, where a page is found that is on its way out or back. The cache
holds a reference to the page. A slot that nobody counts and that is not in the cache is free. No slot is used a second
time.

What a page contains is not modelled, and nor is how long writing and reading it takes: the device has written a page
when the task that pages it out looks again, and a page that is read comes with no neighbours (no readahead). Memory and
slots do not run short.

Each critical section of the device's lock is one event; so is finding a page in the cache, whose look at the cache is
repeated after the reference is taken in the kernel.

Source: mm/swapfile.c, mm/swap_state.c, include/linux/swap.h, functions of the same name. Of the model's own: SwapSlot,
SwapInfo, swapon, slot_of, in_swap_cache, put_in_cache, take_from_cache, replace_in_cache.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.findings import reached, report
from mmlitmus.explore.state import Atomic, Model, Once, touch
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.page_alloc import Folio, alloc_folio, folio_put, page_tables
from mmlitmus.kernel.mm.swap import folio_add_lru
from mmlitmus.kernel.mm.swapops import swp_offset
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_trylock, folio_unlock

SWAP_CACHE = "the swap cache"
SLOTS_A_TASK = 0x100


class SwapSlot(Model):
    """A slot: how many entries stand for it, and the page in the swap cache, if any."""

    __slots__ = ("offset",)
    count = Atomic()
    cache = Once()

    def __init__(self, offset: int) -> None:
        super().__init__(f"swap[{offset:#x}]", count=0, cache=None)
        self.offset = offset

    def set_cache(self, folio: Folio | None) -> None:
        """Change what is in the cache; the caller has announced the event."""
        self._values[self.fields["cache"].at] = folio


class SwapInfo:
    """The swap device: its slots that have been used."""

    __slots__ = ("slots",)

    def __init__(self) -> None:
        self.slots: dict[int, SwapSlot] = {}


def swapon(machine: Any) -> None:
    """Give the machine a swap device. For the set-up."""
    if machine.swap is None:
        machine.swap = SwapInfo()


def slot_of(machine: Any, entry: int) -> SwapSlot:
    """The slot that an entry stands for."""
    slot: SwapSlot = machine.swap.slots[swp_offset(entry)]
    return slot


def in_swap_cache(machine: Any, folio: Folio) -> bool:
    """Is the page in the swap cache? No event where there is no swap.

    Source: include/linux/page-flags.h PageSwapCache (5.10), folio_test_swapcache (from 6.1).
    """
    return machine.swap is not None and folio.swap is not None


# -- the cache --------------------------------------------------------------------------------------------------------
def put_in_cache(slot: SwapSlot, folio: Folio) -> None:
    """One event: the page is in the cache, which holds a reference. The page is locked."""
    touch(folio.oid("refcount"), (folio.oid("holders"), folio.oid("swap"), slot.oid("cache")))
    folio.count(SWAP_CACHE, 1)
    folio.set_swap(slot)
    slot.set_cache(folio)


def take_from_cache(folio: Folio) -> None:
    """One event: it is not any more, and the cache's reference goes. The page is locked, and held by the caller.

    Source: mm/swap_state.c delete_from_swap_cache (to 6.12), swap_cache_del_folio (7.3).
    """
    slot: SwapSlot = folio.peek("swap")
    touch(folio.oid("refcount"), (folio.oid("holders"), folio.oid("swap"), slot.oid("cache")))
    folio.count(SWAP_CACHE, -1)
    folio.set_swap(None)
    slot.set_cache(None)


def replace_in_cache(old: Folio, new: Folio) -> None:
    """One event: another page takes its place. Both are locked.

    Source: mm/migrate.c migrate_page_move_mapping (5.10), folio_migrate_mapping (from 6.1).
    """
    slot: SwapSlot = old.peek("swap")
    writes = [one.oid(field) for one in (old, new) for field in ("refcount", "holders", "swap")]
    touch(writes[0], (*writes[1:], slot.oid("cache")))
    for one, delta in ((old, -1), (new, 1)):
        one.count(SWAP_CACHE, delta)
        one.set_swap(slot if one is new else None)
    slot.set_cache(new)


def swap_cache_get_folio(slot: SwapSlot, holder: str) -> Folio | None:
    """The page in the cache, with a reference; None if there is none.

    Source: mm/swap_state.c lookup_swap_cache (5.10), swap_cache_get_folio (from 6.1).
    """
    folio: Folio | None = slot.cache
    if folio is None:
        return None
    touch(folio.oid("refcount"), (folio.oid("holders"),), (folio.id, slot.oid("cache")))
    if slot.peek("cache") is not folio:
        return None
    folio.count(holder, 1)
    return folio


def read_swap_cache_async(mm: MmStruct, slot: SwapSlot) -> Folio | None:
    """A page in the cache for the slot, with a reference for ``mm``'s page tables: a new one, read in and unlocked, or
    what somebody else has put there meanwhile. None: memory is short, or nobody uses the slot any more.

    Source: mm/swap_state.c __read_swap_cache_async, read_swap_cache_async (to 6.12), swap_cache_alloc_folio (7.3).
    """
    new = alloc_folio(mm, "the page from swap")
    if new is None:
        return None
    folio_lock(new.lock)
    fields = [new.oid("refcount"), new.oid("holders"), new.oid("swap")]
    touch(slot.oid("cache"), fields, (slot.oid("count"),))
    found: Folio | None = slot.peek("cache")
    if found is None and slot.peek("count"):
        new.count(SWAP_CACHE, 1)
        new.set_swap(slot)
        slot.set_cache(new)
        reached("a page was read from swap")
        folio_add_lru(mm.machine, new)
        folio_unlock(new.lock)
        return new
    folio_unlock(new.lock)
    folio_put(new, page_tables(mm))
    return None if found is None else swap_cache_get_folio(slot, page_tables(mm))


# -- slots ------------------------------------------------------------------------------------------------------------
def add_to_swap(machine: Any, folio: Folio) -> SwapSlot:
    """Give a page a slot, and put it in the swap cache. The page is locked.

    Source: mm/swap_state.c add_to_swap (to 6.12), mm/swapfile.c folio_alloc_swap (7.3).
    """
    task = rt.current()
    counters = machine.boot_counters if task.index < 0 else task.counters
    n = counters["swap slot"] = counters.get("swap slot", 0) + 1
    offset = (task.index + 1) * SLOTS_A_TASK + n
    slot = machine.swap.slots[offset] = SwapSlot(offset)
    put_in_cache(slot, folio)
    return slot


def swap_duplicate(slot: SwapSlot) -> None:
    """One more entry stands for the slot.

    Source: mm/swapfile.c swap_duplicate (to 6.12), folio_dup_swap, swap_dup_entry_direct (7.3).
    """
    slot.add_return("count", 1)


def swap_free(slot: SwapSlot) -> bool:
    """One less does: is it the last? Giving back what nobody has is what the kernel calls an unused swap offset.

    Source: mm/swapfile.c swap_free (to 6.1), swap_free_nr (6.12), folio_put_swap, swap_put_entries_direct (7.3).
    """
    left = slot.add_return("count", -1)
    if left < 0:
        report("invariant", "unused-swap-slot", f"{rt.current().name} gives back {slot.name}, which nobody uses")
    return left <= 0


def free_swap_and_cache(machine: Any, entry: int) -> None:
    """An entry goes: its slot is given back, and a page that is in the cache for nobody any more.

    Source: mm/swapfile.c free_swap_and_cache (to 6.1), free_swap_and_cache_nr (6.12), swap_put_entries_direct (7.3);
    __try_to_reclaim_swap.
    """
    slot = slot_of(machine, entry)
    if not swap_free(slot):
        return
    holder = f"{rt.current().name}, who gives a slot back"
    folio = swap_cache_get_folio(slot, holder)
    if folio is None:
        return
    if folio_trylock(folio.lock):
        if not folio.mapcount and folio.swap is slot:
            folio_free_swap(folio)
        folio_unlock(folio.lock)
    folio_put(folio, holder)


def folio_free_swap(folio: Folio) -> bool:
    """Take a page out of the cache, if no entry stands for its slot. The page is locked, and in the cache.

    Source: mm/swapfile.c try_to_free_swap (5.10), folio_free_swap (from 6.1).
    """
    slot = folio.swap
    if slot is None or slot.count:
        return False
    take_from_cache(folio)
    return True


def free_swap_cache(machine: Any, folio: Folio) -> None:
    """Whoever gives a page back takes it out of the cache, if that is all that it is there for.

    Source: mm/swap_state.c free_swap_cache.
    """
    if not in_swap_cache(machine, folio) or folio.mapcount or not folio_trylock(folio.lock):
        return
    folio_free_swap(folio)
    folio_unlock(folio.lock)


def reuse_swap_page(folio: Folio) -> bool:
    """Does nobody but who asks map the page, or have an entry for its slot? Then it leaves the cache. The page is
    locked, and not mapped by who asks yet.

    Source: mm/swapfile.c reuse_swap_page (5.10); none (from 6.1).
    """
    slot = folio.swap
    users = folio.mapcount + (0 if slot is None else slot.count)
    if users == 1 and slot is not None:
        take_from_cache(folio)
    return bool(users <= 1)
