"""Pages at rest: every reference has a holder, nothing is left pinned that nobody answers for, nothing is lost.

``folios_at_rest`` asks when everything has ended. Its findings:

* ``refcount-imbalance``: the ledger does not add up to the reference count;
* ``mapcount-imbalance``: the entries that map a page are not as many as are counted;
* ``page-table-reference-leak``: page tables hold a page that they do not map (or map what they do not hold);
* ``pin-leak``: a pin or reference of somebody who is not named as one who still has it;
* ``isolated-for-ever``: a page that somebody has isolated and not given back;
* ``locked-for-ever``: a page whose lock somebody has taken and not given back;
* ``swap-count-imbalance``: a slot of swap is counted otherwise than entries stand for it;
* ``swap-cache-imbalance``: the swap cache holds a page that it does not have.

``pin_is_coherent`` asks, for one page that somebody has pinned: is what he holds still what the process sees at that
address? A device that reads the one and a CPU that writes the other do not hear of each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mmlitmus.explore.findings import Finding
from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, SPECIAL, pte_pfn, pte_present
from mmlitmus.kernel.mm.device_exclusive import design
from mmlitmus.kernel.mm.gup import Pages
from mmlitmus.kernel.mm.page_alloc import ISOLATION, page_tables
from mmlitmus.kernel.mm.swapfile import SWAP_CACHE
from mmlitmus.kernel.mm.swapops import is_device_exclusive_entry, is_swap_entry, swp_offset

#: what the ledger calls those who get pages for somebody
BORROWED = ("pins of ", "references of ")


def _mapped(machine: Any) -> dict[int, dict[str, int]]:
    """By frame: how often each mm's page tables map it, by entries that count."""
    found: dict[int, dict[str, int]] = {}
    for mm in machine.mms:
        for _, entry, shift in machine.leaves(mm):
            if shift == PAGE_SHIFT and pte_present(entry) and not entry & SPECIAL:
                by_mm = found.setdefault(pte_pfn(entry), {})
                by_mm[page_tables(mm)] = by_mm.get(page_tables(mm), 0) + 1
    return found


def _devices(machine: Any) -> dict[int, dict[str, int]]:
    """... and by entries of pages that a device has for itself, which hold the page, too."""
    found: dict[int, dict[str, int]] = {}
    for mm in machine.mms:
        for _, entry, shift in machine.leaves(mm):
            if shift == PAGE_SHIFT and is_device_exclusive_entry(entry):
                by_mm = found.setdefault(swp_offset(entry), {})
                by_mm[page_tables(mm)] = by_mm.get(page_tables(mm), 0) + 1
    return found


def folios_at_rest(machine: Any, held: Iterable[Pages | str] = ()) -> Iterator[Finding]:
    """Every page that is not as it should be. ``held``: arrays whose pages are still held, and rightly so; or
    holders, by name, of whatever they hold.
    """
    mapped, given = _mapped(machine), _devices(machine)
    still: dict[tuple[str, str], None] = {}
    held = list(held)
    names = [kind + one for one in held if isinstance(one, str) for kind in BORROWED]
    for pages in held:
        if isinstance(pages, str):
            continue
        for folio in pages.folios:
            if folio is not None:
                still.update(dict.fromkeys((folio.name, kind + pages.holder) for kind in BORROWED))
    for folio in dict.fromkeys(machine.pages.values()):
        entries: dict[str, int] = {}
        for n in range(1 << folio.order):
            for who, count in mapped.get(folio.pfn + n, {}).items():
                entries[who] = entries.get(who, 0) + count
        holders: dict[str, int] = dict(folio.peek("holders"))
        yield from _counts(folio, holders, entries, given.get(folio.pfn, {}))
        for who, count in holders.items():
            if who.startswith(BORROWED) and who not in names and (folio.name, who) not in still:
                yield Finding("invariant", "pin-leak", f"{folio.name} is left with {count} of its references: {who}")
        if ISOLATION in holders:
            yield Finding("invariant", "isolated-for-ever", f"{folio.name} is still off its LRU list")
        if folio.lock.state is not None:
            yield Finding("invariant", "locked-for-ever", f"{folio.lock.name} is still held")
        slot = folio.peek("swap")
        if holders.get(SWAP_CACHE, 0) != (slot is not None and slot.peek("cache") is folio):
            yield Finding("invariant", "swap-cache-imbalance", f"{folio.name}: {holders}, slot {slot and slot.name}")
    if machine.swap is not None:
        yield from _slots(machine)


def _slots(machine: Any) -> Iterator[Finding]:
    entries: dict[int, int] = {}
    for mm in machine.mms:
        for _, entry, shift in machine.leaves(mm):
            if shift == PAGE_SHIFT and is_swap_entry(entry):
                entries[swp_offset(entry)] = entries.get(swp_offset(entry), 0) + 1
    for offset, slot in sorted(machine.swap.slots.items()):
        if slot.peek("count") != entries.get(offset, 0):
            yield Finding(
                "invariant", "swap-count-imbalance",
                f"{slot.name} is counted {slot.peek('count')} times, and {entries.get(offset, 0)} entries stand for it",
            )  # fmt: skip


def _counts(folio: Any, holders: dict[str, int], entries: dict[str, int], given: dict[str, int]) -> Iterator[Finding]:
    count = folio.peek("refcount")
    if count != sum(holders.values()):
        who = ", ".join(f"{who}: {n}" for who, n in holders.items()) or "nobody"
        yield Finding("invariant", "refcount-imbalance", f"{folio.name} has {count} references; who holds it: {who}")
    total = sum(entries.values()) + (sum(given.values()) if given and design().counted else 0)
    entries = {who: entries.get(who, 0) + given.get(who, 0) for who in dict.fromkeys([*entries, *given])}
    if folio.peek("mapcount") != total:
        yield Finding(
            "invariant", "mapcount-imbalance",
            f"{folio.name} is counted as mapped {folio.peek('mapcount')} times, and {total} entries map it",
        )  # fmt: skip
    for who in dict.fromkeys([*entries, *(w for w in holders if w.startswith("page tables of "))]):
        if holders.get(who, 0) != entries.get(who, 0):
            yield Finding(
                "invariant", "page-table-reference-leak",
                f"{who} map {folio.name} {entries.get(who, 0)} times, and hold it {holders.get(who, 0)} times",
            )  # fmt: skip


def pin_is_coherent(machine: Any, mm: Any, address: int, pfn: int | None) -> Iterator[Finding]:
    """Is frame ``pfn``, which somebody has pinned for ``address``, what the mm maps there now? No answer, if nothing is
    mapped there any more.
    """
    entry = machine.translation(mm, address)
    if pte_present(entry) and pfn is not None and pte_pfn(entry) != pfn:
        yield Finding(
            "invariant", "pin-diverged",
            f"{mm.name} sees frame {pte_pfn(entry):#x} at {machine.page_label(address)}, and {pfn:#x} is pinned",
        )  # fmt: skip
