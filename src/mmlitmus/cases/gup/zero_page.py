"""Does a long-term pin of memory that was never written come to an end?

QEMU maps the guest's memory for a device. Its block pc.rom, 128 KiB at 0xc0000 of the guest, is private memory that
nobody has ever written, and is mapped for reading only. VFIO pins it for reading, for long. Each read fault maps the
zero page, and the pin gets the zero page 32 times. Up to 5.18 the zero page may be pinned for long wherever it lies.
A condition that was rearranged in 5.19-rc says that it may not: so it has to be moved, it cannot be isolated, for it
is on no LRU list, and everything is unpinned and tried again, for ever, with mmap_lock held. 6.0-rc1 did it once
more.

From 6.2 on such a pin has the page made the process's own first, and never gets the zero page.
"""

from mmlitmus.api import (
    DRIVER,
    FOLL_FORCE,
    FOLL_LONGTERM,
    FOLL_WRITE,
    MAP_SHARED,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    PAGE_SIZE,
    PROT_READ,
    ZONE_MOVABLE,
    AddressSpace,
    File,
    Machine,
    Process,
    VmArea,
    VmOperations,
    always,
    case,
    folios_at_rest,
    never,
    new_folio,
    releases,
    vm_insert_page,
)

PAGES = 32
RECORDED = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded")
SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")
CMA_SOURCE = {f"{kernel} CMA": "source" for kernel in SOURCE}

ZERO = always("zero-page-pinned")
COUNTED = always("zero-page-pinned", "zero-page-counted")
LIVELOCK = always("hard livelock of pin")
BEFORE_519 = ("v5.10", "deb-5.10.262", "v5.14")


class Heap(VmOperations):
    """A driver that hands out a page that it has allocated."""

    def __init__(self, m: Machine) -> None:
        self.folio = new_folio(m, DRIVER, "the driver")
        self.file = File("/dev/heap", self, AddressSpace("heap:mapping"))

    def mmap(self, file: File, vma: VmArea) -> int:
        vma.vm_ops = self
        return vm_insert_page(vma, vma.vm_start, self.folio)


def pin_all(m: Machine, flags: int, how: str = "slow", pages: int = PAGES) -> Process:
    """One thread pins untouched memory, and unpins it again."""
    app = m.process("app")
    a = app.mmap_anon(pages)
    zero = m.zero_page()
    m.check(lambda: folios_at_rest(m))

    @m.task
    def pin() -> None:
        got, pinned = app.pin(a, pages, flags, how=how)
        m.require(got == pages, "pin-failed", f"the pin gives {got}")
        if got <= 0:
            return
        m.require(zero not in pinned.folios, "zero-page-pinned", "what is pinned is the zero page")
        counted = zero.held_by("pins of pin")
        m.require(not counted, "zero-page-counted", f"the zero page's count has grown by {counted}")
        own = len(set(pinned.pfns))
        m.reached("all pages are the same" if own == 1 else f"{own} pages of its own")
        app.unpin(pinned)

    return app


@case(
    "gup/zero-page",
    engine="auto",
    scenario="Z1",
    thread="001",
    expect={
        **dict.fromkeys((*BEFORE_519, "v5.19", "v6.0", "v6.1"), COUNTED),
        "v5.19-rc1": LIVELOCK,
        "v6.0-rc1": LIVELOCK,
        "deb-6.1.192": ZERO,
        **releases("v6.6", "deb-7.3.4", never),
        "v6.14": never,
        "v5.19-rc1 +longterm-isolation-errno": always("pin-failed"),
        "v6.0-rc1 +longterm-isolation-errno": always("pin-failed"),
        "v5.14 +longterm-isolation-errno": COUNTED,
        "v6.1 +longterm-list-empty": COUNTED,
        "v6.1 +zero-page-negated": LIVELOCK,
        "v6.12 +zero-page-negated": never,
    },
    evidence=RECORDED,
)
def for_reading(m: Machine) -> None:
    """Does a long-term pin, for reading, of memory that was never written come to an end?"""
    pin_all(m, FOLL_LONGTERM)


@case(
    "gup/zero-page/write",
    control="gup/zero-page",
    scenario="Z1w",
    thread="001",
    reach=(f"{PAGES} pages of its own",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **dict.fromkeys(("v5.14", "v5.19-rc1", "v5.19", "v6.0-rc1", "v6.0", "v6.14"), never),
    },
    evidence=RECORDED,
)
def for_writing(m: Machine) -> None:
    """... and for writing? (The fault gives each page a frame of its own.)"""
    pin_all(m, FOLL_LONGTERM | FOLL_WRITE)


@case(
    "gup/zero-page/short",
    scenario="Z1s",
    thread="001",
    reach=("all pages are the same",),
    expect={
        **releases("v5.10", "v6.1", COUNTED),
        **dict.fromkeys(("v5.14", "v5.19-rc1", "v5.19", "v6.0-rc1", "v6.0"), COUNTED),
        **releases("deb-6.1.192", "deb-7.3.4", ZERO),
    },
    evidence=RECORDED,
)
def for_a_while(m: Machine) -> None:
    """... and a pin for a while? (It gets the zero page in every release.)"""
    pin_all(m, 0)


@case(
    "gup/zero-page/fast",
    engine="auto",
    scenario="Z1f",
    thread="001",
    reach=("the zero page was mapped",),
    expect={
        **dict.fromkeys((*BEFORE_519, "v5.19", "v6.0", "v6.1"), COUNTED),
        "v5.19-rc1": LIVELOCK,
        "v6.0-rc1": LIVELOCK,
        "deb-6.1.192": ZERO,
        **releases("v6.6", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def by_the_fast_path(m: Machine) -> None:
    """... and by pin_user_pages_fast, of pages that have been read? (It stops at a special entry, and falls back.)"""
    app = pin_all(m, FOLL_LONGTERM, "fast", 4)
    for n in range(4):
        app.read(m.slot("a") + n * PAGE_SIZE)


@case(
    "gup/zero-page/forced",
    control="gup/zero-page",
    scenario="Z1w",
    thread="001",
    reach=("1 pages of its own", "a shared mapping is refused"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **dict.fromkeys(("v5.14", "v5.19-rc1", "v5.19", "v6.0-rc1", "v6.0"), never),
    },
    evidence=SOURCE,
)
def forced(m: Machine) -> None:
    """... and if a read-only mapping is pinned as if to be written (FORCE with WRITE)? Then a page takes the place of
    the zero page, as for a store. In a shared mapping that may not be: -EFAULT.
    """
    app = m.process("app")
    a = app.mmap_anon(1, prot=PROT_READ)
    driver = Heap(m)
    shared = app.mmap(driver.file, 1, at="b", prot=PROT_READ, flags=MAP_SHARED)
    zero = m.zero_page()
    m.check(lambda: folios_at_rest(m))

    @m.task
    def pin() -> None:
        got, pinned = app.pin(a, 1, FOLL_LONGTERM | FOLL_WRITE | FOLL_FORCE)
        m.require(got == 1, "pin-failed", f"the pin gives {got}")
        m.require(zero not in pinned.folios, "zero-page-pinned", "what is pinned is the zero page")
        m.reached(f"{len(set(pinned.pfns))} pages of its own")
        app.unpin(pinned)
        got, _ = app.pin(shared, 1, FOLL_LONGTERM | FOLL_WRITE | FOLL_FORCE)
        m.require(got == -14, "pin-failed", f"the pin of the shared mapping gives {got}")
        m.reached("a shared mapping is refused")


@case(
    "gup/zero-page/killed",
    control="gup/zero-page",
    engine="auto",
    scenario="Z1",
    thread="001",
    reach=("the pin ended with -EINTR",),
    expect={"v5.19-rc1": never, "v6.0-rc1": never, "v6.1 +zero-page-negated": never},
)
def killed(m: Machine) -> None:
    """Does SIGKILL end it?"""
    app = m.process("app")
    a = app.mmap_anon(1)
    kill = m.killable("pin")
    m.check(lambda: folios_at_rest(m))

    @m.task
    def pin() -> None:
        got, _ = app.pin(a, 1, FOLL_LONGTERM)
        if got == -4:
            m.reached("the pin ended with -EINTR")

    @m.task(name="kill")
    def sigkill() -> None:
        kill()


@case(
    "gup/zero-page/movable",
    engine="auto",
    scenario="Z3",
    thread="001",
    asks=("hard livelock of pin",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v5.14": never,
        "v5.14 +zero-page-not-excepted": LIVELOCK,
        "v5.19": never,
        "v6.0": never,
    },
    evidence=SOURCE,
)
def in_zone_movable(m: Machine) -> None:
    """... and if this boot has put the zero page into ZONE_MOVABLE?"""
    m.zero_zone = ZONE_MOVABLE
    pin_all(m, FOLL_LONGTERM, pages=2)


@case(
    "gup/zero-page/isolated-block",
    engine="auto",
    scenario="Z3i",
    thread="001",
    asks=("hard livelock of pin",),
    expect={
        **releases("v5.10", "deb-5.10.262", never, "CMA"),
        "v5.14 CMA": never,
        "v5.19 CMA": LIVELOCK,
        "v6.0 CMA": LIVELOCK,
        **releases("v6.1", "deb-6.1.192", LIVELOCK, "CMA"),
        **releases("v6.6", "deb-7.3.4", never, "CMA"),
        **releases("v5.10", "deb-7.3.4", never),
    },
    evidence={**SOURCE, **CMA_SOURCE},
)
def in_an_isolated_block(m: Machine) -> None:
    """... and if the zero page's block is isolated, for as long as the pin goes on?"""
    m.zero_migratetype = MIGRATE_ISOLATE
    pin_all(m, FOLL_LONGTERM, pages=2)


@case(
    "gup/zero-page/isolated-block/for-a-while",
    control="gup/zero-page/isolated-block",
    engine="auto",
    scenario="Z3i",
    thread="001",
    asks=("hard livelock of pin", "pin-failed"),
    reach=("the block is no longer isolated",),
    expect={
        **releases("v5.10", "deb-7.3.4", never, "CMA"),
        **dict.fromkeys(("v5.14 CMA", "v5.19 CMA", "v6.0 CMA"), never),
    },
    evidence=CMA_SOURCE,
)
def isolated_for_a_while(m: Machine) -> None:
    """... and if somebody ends the isolation meanwhile?"""
    m.zero_migratetype = MIGRATE_ISOLATE
    pin_all(m, FOLL_LONGTERM, pages=1)
    zero = m.zero_page()

    @m.task
    def undo_isolation() -> None:
        zero.migratetype = MIGRATE_MOVABLE
        m.reached("the block is no longer isolated")
