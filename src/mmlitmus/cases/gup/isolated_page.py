"""What does a long-term pin do about a page that may not stay, and cannot be moved just now, or never?

A page in a CMA area has to be moved before it is pinned for long. To be moved it has to be isolated from its LRU
list. Somebody else may have isolated it for a moment; and a page that a driver has allocated and mapped is on no list
at all. The kernel cannot tell the two apart. It may wait (and never come back for a driver's page), it may fail
(beside somebody who has the page for a moment), it may pin the page where it is (and CMA cannot be emptied then).
Each of the three has been done.
"""

from collections.abc import Callable

from mmlitmus.api import (
    DRIVER,
    FOLL_LONGTERM,
    FOLL_WRITE,
    MAP_SHARED,
    MIGRATE_CMA,
    AddressSpace,
    File,
    Folio,
    Machine,
    Process,
    VmArea,
    VmOperations,
    always,
    case,
    folio_isolate_lru,
    folio_putback_lru,
    folios_at_rest,
    never,
    new_folio,
    releases,
    sometimes,
    vm_insert_page,
)
from mmlitmus.kernel.mm.page_alloc import folio_put, try_get_folio

SOURCE = {f"{k} CMA": "source" for k in ("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4")}
SOURCE["deb-7.3.4"] = "source"  # the stock build has CONFIG_CMA
ENOMEM, EINVAL = -12, -22
LIVELOCK = always("hard livelock of pin")
IN_CMA = always("pinned-in-cma")


class Heap(VmOperations):
    """A driver that hands out pages of a CMA area: it has allocated them itself, and they are on no LRU list."""

    def __init__(self, m: Machine) -> None:
        self.folio = new_folio(m, DRIVER, "the driver", migratetype=MIGRATE_CMA)
        self.file = File("/dev/heap", self, AddressSpace("heap:mapping"))

    def mmap(self, file: File, vma: VmArea) -> int:
        vma.vm_ops = self
        return vm_insert_page(vma, vma.vm_start, self.folio)


def pin_task(m: Machine, app: Process, a: int) -> Callable[[], None]:
    """One thread pins the page at ``a`` for writing and for long."""
    m.check(lambda: folios_at_rest(m, ("pin",)))

    @m.task
    def pin() -> None:
        got, pages = app.pin(a, 1, FOLL_LONGTERM | FOLL_WRITE)
        m.require(got != EINVAL, "pin-failed-einval", "a page could not be isolated, and the pin fails with -EINVAL")
        m.require(got != ENOMEM, "pin-failed-enomem", "a page could not be migrated, and the pin fails with -ENOMEM")
        if got == 1:
            (folio,) = pages.folios
            m.require(
                folio is None or folio.migratetype != MIGRATE_CMA, "pinned-in-cma", "a page in a CMA area is pinned"
            )

    return pin


def cma_page(m: Machine) -> tuple[Process, int, Folio]:
    """A process with one page of its own, which lies in a CMA area."""
    m.user_migratetype = MIGRATE_CMA
    app = m.process("app")
    a = app.mmap_anon(1)
    app.write(a)
    (folio,) = (folio for folio in m.pages.values() if folio.anon)
    return app, a, folio


@case(
    "gup/isolated-page",
    engine="auto",
    scenario="Z6",
    thread="001",
    asks=("hard livelock of pin", "pin-failed-einval", "pinned-in-cma", "pin-leak"),
    reach=("a page could not be isolated", "a page was migrated"),
    expect={
        "v5.10 CMA": sometimes("pinned-in-cma"),
        **releases("deb-5.10.262", "deb-7.3.4", never, "CMA"),
        "deb-7.3.4": never,
        **dict.fromkeys(("v5.14 CMA", "v5.19 CMA", "v6.0 CMA"), never),
        "v6.0 +longterm-isolation-errno CMA": sometimes("pin-failed-einval"),
        "v6.12 +longterm-isolation-errno CMA": sometimes("pin-failed-einval"),
        "v6.14 CMA": sometimes("pinned-in-cma"),
        "v6.1 +longterm-list-empty CMA": sometimes("pinned-in-cma"),
    },
    evidence=SOURCE,
)
def isolated_page(m: Machine) -> None:
    """A page in a CMA area is isolated by somebody for a moment: what does a long-term pin beside it do?

    Compaction goes by frames, and a frame may be free by now: it takes a reference before it looks at the page
    (mm/compaction.c isolate_migratepages_block: get_page_unless_zero, later folio_get_nontail_page; 5.10:
    mm/vmscan.c __isolate_lru_page).
    """
    app, a, folio = cma_page(m)
    pin_task(m, app, a)

    @m.task
    def compact() -> None:
        if not try_get_folio(folio, "compaction"):
            return
        isolated = folio_isolate_lru(folio)
        folio_put(folio, "compaction")
        if isolated:
            folio_putback_lru(m, folio)


@case(
    "gup/isolated-page/put-back",
    engine="auto",
    scenario="Z6",
    thread="001",
    asks=("pin-failed-enomem",),
    reach=("a page was migrated",),
    expect={
        "v5.10 CMA": never,
        **releases("deb-5.10.262", "deb-7.3.4", sometimes("pin-failed-enomem"), "CMA"),
        "deb-7.3.4": sometimes("pin-failed-enomem"),
        **dict.fromkeys(("v5.14 CMA", "v5.19 CMA", "v6.0 CMA", "v6.14 CMA"), sometimes("pin-failed-enomem")),
    },
    evidence=SOURCE,
)
def put_back(m: Machine) -> None:
    """... and may it fail with -ENOMEM, with memory to spare?

    Who puts the page back puts it on its list first, and gives his reference back then. In between it can be isolated,
    and not be migrated. The kernel tries ten times, the model twice; each of them may come too early.
    """
    isolated_page.build(m)


@case(
    "gup/isolated-page/driver",
    engine="auto",
    scenario="Z7",
    thread="001",
    asks=("hard livelock of pin", "pin-failed-einval", "pinned-in-cma"),
    expect={
        "v5.10 CMA": IN_CMA,
        **releases("deb-5.10.262", "deb-7.3.4", LIVELOCK, "CMA"),
        **dict.fromkeys(("v5.14 CMA", "v5.19 CMA", "v6.0 CMA"), LIVELOCK),
        "v6.0 +longterm-isolation-errno CMA": always("pin-failed-einval"),
        "v6.12 +longterm-isolation-errno CMA": always("pin-failed-einval"),
        "v6.14 CMA": IN_CMA,
        "v6.12 +longterm-list-empty CMA": IN_CMA,
        **releases("v5.10", "v7.3", never),
        "deb-7.3.4": LIVELOCK,
    },
    evidence=SOURCE,
)
def page_of_a_driver(m: Machine) -> None:
    """... and of a page that a driver has mapped, and that is on no list at all? (Without CONFIG_CMA nobody asks.)"""
    m.user_migratetype = MIGRATE_CMA
    heap = Heap(m)
    if not m.kernel.has("CMA"):
        heap.folio.migratetype = "unmovable"
    app = m.process("app")
    pin_task(m, app, app.mmap(heap.file, 1, flags=MAP_SHARED))


@case(
    "gup/isolated-page/driver-killed",
    engine="auto",
    scenario="Z7",
    thread="001",
    asks=("hard livelock of pin",),
    expect={
        "deb-5.10.262 CMA": sometimes("hard livelock of pin"),
        **dict.fromkeys(("v5.14 CMA", "v6.0 CMA"), never),
        **releases("v6.1", "deb-7.3.4", never, "CMA"),
        "deb-7.3.4": never,
    },
    evidence=SOURCE,
)
def driver_killed(m: Machine) -> None:
    """... and does SIGKILL end that? (5.10.262 tries again without unpinning, and asks for no signal.)"""
    page_of_a_driver.build(m)
    kill = m.killable("pin")

    @m.task(name="kill")
    def sigkill() -> None:
        kill()
