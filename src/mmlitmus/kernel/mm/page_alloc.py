"""Folios: what the kernel counts of a page of memory, who holds it, and when it is freed.

A reference counts 1; an entry of a page table holds one, and so does a CPU's batch of pages that are to go to the LRU
lists, and whoever has isolated the page from them. A pin counts GUP_PIN_COUNTING_BIAS on a folio of one page; on a
larger one it counts 1, and 1 in ``pincount`` as well. At 0 the folio is freed, and whoever touches it afterwards is a
finding; only ``try_get_folio`` may look at it still, for a struct page is always there.

Who holds each reference is a ghost, the *ledger*: it changes in the events that change the count. A holder that gives
back more than it has is reported in that event.

Source: mm/page_alloc.c, include/linux/mm.h, include/linux/page_ref.h, include/linux/page-flags.h, mm/internal.h,
functions of the same name. Of the model's own: Folio, ByFrame, Frames, new_folio, alloc_folio, make_zero_page,
driver_folio, page_tables, free_folio, take_frames, in_pin_context.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.findings import reached, report
from mmlitmus.explore.ops import ATOMIC_RMW
from mmlitmus.explore.primitives.choice import may_fail
from mmlitmus.explore.primitives.folio_lock import FolioLock
from mmlitmus.explore.state import Atomic, Const, Ghost, Model, Once
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.might import might_alloc

GUP_PIN_COUNTING_BIAS = 1024

ZONE_DMA32, ZONE_NORMAL, ZONE_MOVABLE, ZONE_DEVICE = "DMA32", "NORMAL", "MOVABLE", "DEVICE"
ZONES = (ZONE_DMA32, ZONE_NORMAL, ZONE_MOVABLE, ZONE_DEVICE)
MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_CMA, MIGRATE_ISOLATE = "unmovable", "movable", "CMA", "ISOLATE"
MIGRATETYPES = (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_CMA, MIGRATE_ISOLATE)

#: where a folio is, as far as the LRU lists go
LRU_NEVER, LRU_BATCH, LRU_ON, LRU_ISOLATED = "never", "batch", "on", "isolated"

#: what a folio is
ANON, ZERO, DRIVER, COHERENT = "anon", "zero", "driver", "coherent"

ISOLATION = "isolation"
THE_DRIVER = "the driver"

FIRST_FRAME = 0x1000  # where memory comes from: a run of frames for each task
FRAMES_A_TASK = 0x100
FIRST_LARGE, LARGEST = 0x10000, 16  # ... and a larger run for what is larger than a page
ZERO_PFN = 0x2A0  # in the kernel's image, which is below what is handed out

alloc_context = Seam("memalloc_pin_save", "where the pages come from that a long-term pin faults in")


class Folio(Model):
    """struct folio: one page, or 1 << ``order`` of them from frame ``pfn`` on.

    ``anon_exclusive`` is PG_anon_exclusive: one process maps the page, and may write to it in place. Kernels before
    5.19 have no such flag; what the model keeps of it there nobody looks at. ``zone`` is where it was handed out;
    ``migratetype`` that of its pageblock, which isolation changes.
    """

    __slots__ = ("lock",)
    alike = 1  # how many folios in a row this one stands for: more only outside of a search (``mmlitmus.scale``)
    refcount = Atomic()
    pincount = Atomic()  # of a large folio
    mapcount = Atomic()
    lru = Atomic()
    anon_exclusive = Once()  # under the page-table lock of whoever maps the page
    migratetype = Once()
    dirty = Once()  # of a driver's page; of others nobody asks
    mapping = Once()  # the file that a driver has given his page to; its other pages have none
    swap = Once()  # its slot, while it is in the swap cache; under the folio lock
    holders = Ghost()  # ((holder, references), ...), sorted
    pfn = Const()
    order = Const()
    kind = Const()
    zone = Const()
    reserved = Const()

    def __init__(self, pfn: int, holder: str, count: int, **values: Any) -> None:
        super().__init__(
            f"page[{pfn:#x}]", pfn=pfn, refcount=count, dirty=False, mapping=None, swap=None,
            holders=((holder, count),), **values,
        )  # fmt: skip
        self.lock = FolioLock(f"page[{pfn:#x}]:lock", "folio_lock")

    def parts(self) -> tuple[Folio, ...]:
        """What it stands for, in parts that are in the same state now."""
        return (self,)

    @property
    def anon(self) -> bool:
        """PageAnon: private memory of a process."""
        anon: bool = self.kind == ANON
        return anon

    def ref_add(self, holder: str, delta: int) -> int:
        """Add ``delta`` references of one holder: the new count. One event, the ledger's change among it."""
        rt.point((ATOMIC_RMW, self.oid("refcount"), (self.oid("holders") << 1 | 1,), "add" if delta > 0 else "sub"))
        if self.freed:
            self._used_after_free("refcount")
        return self.count(holder, delta)

    def ref_add_unless_zero(self, holder: str, delta: int) -> bool:
        """``ref_add``, unless nobody holds the folio any more; then it may be free, and nothing is wrong about it."""
        rt.point((ATOMIC_RMW, self.oid("refcount"), (self.oid("holders") << 1 | 1,), "add" if delta > 0 else "sub"))
        if self.freed or self.peek("refcount") <= 0:
            return False
        self.count(holder, delta)
        return True

    def held_by(self, holder: str) -> int:
        """Ghost: how many references the holder has; no event."""
        return int(dict(self.peek("holders")).get(holder, 0))

    def set_swap(self, slot: Any) -> None:
        """Note the slot, or that there is none; the caller has announced the event."""
        self._values[self.fields["swap"].at] = slot

    def count(self, holder: str, delta: int) -> int:
        """``ref_add``, the caller having announced the event."""
        ledger: dict[str, int] = dict(self.peek("holders"))
        ledger[holder] = ledger.get(holder, 0) + delta
        if ledger[holder] < 0:
            report(
                "invariant",
                "reference-stolen",
                f"{rt.current().name}: {holder} gives back a reference to {self.name} that it does not have",
            )
            ledger[holder] = 0
        self._values[self.fields["holders"].at] = tuple(sorted((h, n) for h, n in ledger.items() if n))
        self._values[self.fields["refcount"].at] += delta
        count: int = self.peek("refcount")
        return count


class ByFrame:
    """What has a counted page, by frame number: however it is kept."""

    def first(self, pfn: int, nr: int) -> tuple[Folio | None, int]:
        """The folio of a frame, and how many of ``nr`` frames from it on it stands for, with those like it."""
        raise NotImplementedError

    def runs(self, pfn: int, nr: int) -> list[tuple[int, int, Folio | None]]:
        """All of ``nr`` frames: (first frame, frames, folio) each time."""
        found = []
        end = pfn + nr
        while pfn < end:
            folio, n = self.first(pfn, end - pfn)
            found.append((pfn, n, folio))
            pfn += n
        return found


class Frames(dict[int, Folio], ByFrame):
    """... as a search keeps it: each frame for itself."""

    def make(self, pfn: int, nr: int, holder: str, **values: Any) -> Folio:
        """``nr`` new folios in a row, held once each. In a search it is one."""
        folio = Folio(pfn, holder, 1, **values)
        for n in range(1 << folio.order):
            self[pfn + n] = folio
        return folio

    def first(self, pfn: int, nr: int) -> tuple[Folio | None, int]:
        """The folio of a frame stands for itself."""
        return self.get(pfn), 1


def page_tables(mm: MmStruct) -> str:
    """The holder's name of the references that an mm's page tables have."""
    return f"page tables of {mm.name}"


# -- memory that is handed out ----------------------------------------------------------------------------------------
def alloc_folio(mm: MmStruct, label: str, order: int = 0, nr: int = 1) -> Folio | None:
    """A page for a process's own memory, held once by its page tables, mapped by none yet; None when memory is short.
    ``nr``: so many, in a row.

    Of the zone and kind of block that the machine gives user pages, unless the task allocates for a long-term pin.
    """
    machine = mm.machine
    might_alloc(machine)
    if may_fail(label, machine.failures):
        return None
    zone, migratetype = alloc_context(machine.user_zone, machine.user_migratetype)
    return new_folio(
        machine, ANON, page_tables(mm), zone=zone, migratetype=migratetype, order=order, exclusive=True, nr=nr
    )


def new_folio(
    machine: Any,
    kind: str,
    holder: str,
    *,
    zone: str = ZONE_NORMAL,
    migratetype: str = MIGRATE_MOVABLE,
    order: int = 0,
    exclusive: bool = False,
    nr: int = 1,
) -> Folio:
    """A folio of frames that nobody has had before, held once. No frame is used a second time: each task has its own
    run of them. ``nr``: so many, in a row.
    """
    folio: Folio = machine.pages.make(
        take_frames(machine, 1 << order, nr), nr, holder, pincount=0, mapcount=0, lru=LRU_NEVER,
        anon_exclusive=exclusive, migratetype=migratetype, order=order, kind=kind, zone=zone, reserved=False,
    )  # fmt: skip
    return folio


def driver_folio(machine: Any, pfn: int) -> Folio:
    """A page that a driver has allocated when it was loaded, at a frame of its own; it holds it for ever."""
    folio = Folio(
        pfn, THE_DRIVER, 1, pincount=0, mapcount=0, lru=LRU_NEVER, anon_exclusive=False,
        migratetype=MIGRATE_UNMOVABLE, order=0, kind=DRIVER, zone=ZONE_NORMAL, reserved=False,
    )  # fmt: skip
    machine.pages[pfn] = folio
    return folio


def take_frames(machine: Any, pages: int, nr: int = 1) -> int:
    """The first of ``nr`` times ``pages`` frames, aligned to ``pages``."""
    task = rt.current()
    counters = machine.boot_counters if task.index < 0 else task.counters
    what = "frame" if pages == 1 else "large frame"
    at: int = counters.get(what, 0) + pages
    counters[what] = at + pages * (nr - 1)
    if pages == 1:
        return FIRST_FRAME + (task.index + 1) * FRAMES_A_TASK + at
    first: int = machine.first_large + (task.index + 1) * FRAMES_A_TASK * LARGEST
    return first + (at + pages - 1 & ~(pages - 1))


def make_zero_page(machine: Any) -> Folio:
    """The page of zeros that read faults map: the kernel's own, reserved, never on an LRU list, never freed.

    Which zone it lies in depends on the boot (with kernelcore= it has been seen in ZONE_MOVABLE): ``zero_zone``.
    """
    folio = Folio(
        ZERO_PFN, "the kernel", 1, pincount=0, mapcount=0, lru=LRU_NEVER, anon_exclusive=False,
        migratetype=machine.zero_migratetype, order=0, kind=ZERO, zone=machine.zero_zone, reserved=True,
    )  # fmt: skip
    machine.pages[ZERO_PFN] = folio
    return folio


def is_zero_pfn(pfn: int) -> bool:
    """Is this the frame of the zero page?

    Source: include/linux/pgtable.h is_zero_pfn.
    """
    return pfn == ZERO_PFN


def in_pin_context(on: bool) -> None:
    """Begin or end allocating for a long-term pin. The task's own flag: no event.

    Source: include/linux/sched/mm.h memalloc_nocma_save, memalloc_nocma_restore (5.10), memalloc_pin_save,
    memalloc_pin_restore (from 6.1).
    """
    counters = rt.current().counters
    counters["allocates for a pin"] = counters.get("allocates for a pin", 0) + (1 if on else -1)


@alloc_context.alternative("no-cma", source="include/linux/sched/mm.h memalloc_nocma_save, v5.10", releases="<= v5.12")
def anywhere_but_cma(zone: str, migratetype: str) -> tuple[str, str]:
    """Anywhere but in a CMA area; ZONE_MOVABLE will do."""
    if rt.current().counters.get("allocates for a pin", 0) and migratetype == MIGRATE_CMA:
        return zone, MIGRATE_MOVABLE
    return zone, migratetype


@alloc_context.alternative(
    "unmovable", source="include/linux/sched/mm.h memalloc_pin_save, 6.1.192", releases=">= v5.13"
)
def nowhere_movable(zone: str, migratetype: str) -> tuple[str, str]:
    """Neither in a CMA area nor in ZONE_MOVABLE: where a page may stay for ever."""
    if rt.current().counters.get("allocates for a pin", 0):
        return ZONE_NORMAL if zone == ZONE_MOVABLE else zone, MIGRATE_MOVABLE
    return zone, migratetype


# -- references -------------------------------------------------------------------------------------------------------
def folio_get(folio: Folio, holder: str) -> None:
    """Take a reference to a folio that somebody holds already.

    Source: include/linux/mm.h get_page (5.10), folio_get (from 6.1).
    """
    if folio.ref_add(holder, 1) <= 1:
        report("WARN", "reference-to-a-free-page", f"{rt.current().name} takes the first reference to {folio.name}")


def try_get_folio(folio: Folio, holder: str) -> bool:
    """Take a reference to a folio that may be free already. False: it is.

    Source: mm/gup.c try_get_compound_head (5.10), try_get_folio (from 6.1).
    """
    return folio.ref_add_unless_zero(holder, 1)


def folio_put(folio: Folio, holder: str, references: int = 1) -> None:
    """Give references back; with the last the folio is freed.

    Source: include/linux/mm.h put_page (5.10), folio_put, folio_put_refs (from 6.1).
    """
    if folio.ref_add(holder, -references) == 0:
        free_folio(folio)


def free_folio(folio: Folio) -> None:
    """Nobody holds the folio: it goes back to the allocator.

    Source: mm/swap.c __put_page (5.10), __folio_put (from 6.1); mm/page_alloc.c free_unref_page.
    """
    mapped = folio.mapcount
    if mapped:
        report("BUG", "page-freed-mapped", f"{rt.current().name} frees {folio.name}, which {mapped} entries map")
    reached("a page was freed")
    folio.free()


def folio_mark_dirty(folio: Folio) -> None:
    """The page differs from what it was made from, if from anything. Kept of a driver's pages only: whether they are
    mapped dirty depends on it (``set_pte_range``).

    Source: mm/page-writeback.c set_page_dirty (5.10), folio_mark_dirty (from 6.1).
    """
    if folio.kind == DRIVER and not folio.dirty:
        folio.dirty = True


def folio_maybe_dma_pinned(folio: Folio) -> bool:
    """Is the folio pinned? Of one page that is a guess: 1024 references look like a pin.

    Source: include/linux/mm.h page_maybe_dma_pinned (5.10), folio_maybe_dma_pinned (from 6.1).
    """
    if folio.order:
        return bool(folio.pincount > 0)
    return bool(folio.refcount >= GUP_PIN_COUNTING_BIAS)
