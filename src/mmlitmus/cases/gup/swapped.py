"""A page is paged out, before it is pinned, after that, or meanwhile: does the process go on with the same page?

Reclaim unmaps a page, and puts the slot's entry in its place. If somebody holds the page it cannot be freed, and stays
in the swap cache, where the next fault finds it. But is it the process's own then? Up to 5.18 nothing tells: a load
maps it read-only, and the next store makes a copy, because the page is held. From 5.19 on the slot's entry remembers
that the page was exclusive, and what is pinned is not unmapped at all; from 5.11 on, and in 5.10's stable, reclaim
looks for a pin before it begins.
"""

from mmlitmus.api import (
    FOLL_LONGTERM,
    FOLL_WRITE,
    MADV_PAGEOUT,
    Machine,
    Process,
    always,
    case,
    folios_at_rest,
    never,
    pin_is_coherent,
    releases,
    sometimes,
)

SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")
FROM_5_19 = {**dict.fromkeys(("v5.19", "v6.0"), never), **releases("v6.1", "deb-7.3.4", never)}
TO_5_18 = ("v5.10", "deb-5.10.262", "v5.14")
DIVERGED = always("pin-diverged")


def own_page(m: Machine) -> tuple[Process, int]:
    """A machine with swap, and a process with a page of its own."""
    m.swapon()
    app = m.process("app")
    a = app.mmap_anon(1)
    app.write(a)
    return app, a


def read_and_write(m: Machine, app: Process, a: int, pfn: int | None) -> None:
    """The process loads from the page, stores to it, and is asked whether it is still the one that somebody holds."""
    app.read(a)
    app.write(a)
    for finding in pin_is_coherent(m, app.mm, a, pfn):
        m.require(False, finding.name, finding.message)
    m.reached("the page was written")


@case(
    "gup/swapped",
    reach=("a page was paged out", "the page was written"),
    expect={**dict.fromkeys(TO_5_18, DIVERGED), **FROM_5_19},
    evidence=SOURCE,
)
def pin_of_a_swapped_page(m: Machine) -> None:
    """A page in swap is pinned for reading and for long, then written: does the device see it?"""
    app, a = own_page(m)
    m.check(lambda: folios_at_rest(m, ("pin",)))

    @m.task
    def pin() -> None:
        app.madvise(a, 1, MADV_PAGEOUT)
        got, pages = app.pin(a, 1, FOLL_LONGTERM)
        m.require(got == 1, "pin-failed", f"the pin gives {got}")
        read_and_write(m, app, a, pages.pfns[0])


@case(
    "gup/swapped/for-writing",
    control="gup/swapped",
    reach=("a page was paged out", "the page was written"),
    expect={**dict.fromkeys(TO_5_18, never), **FROM_5_19},
    evidence=SOURCE,
)
def pin_of_a_swapped_page_for_writing(m: Machine) -> None:
    """... and if it is pinned for writing?"""
    app, a = own_page(m)
    m.check(lambda: folios_at_rest(m, ("pin",)))

    @m.task
    def pin() -> None:
        app.madvise(a, 1, MADV_PAGEOUT)
        got, pages = app.pin(a, 1, FOLL_LONGTERM | FOLL_WRITE, how="fast")
        m.require(got == 1, "pin-failed", f"the pin gives {got}")
        read_and_write(m, app, a, pages.pfns[0])


@case(
    "gup/swapped/pinned",
    reach=("the page was written",),
    expect={"v5.10": DIVERGED, **dict.fromkeys(TO_5_18[1:], never), **FROM_5_19},
    evidence=SOURCE,
)
def pageout_of_a_pinned_page(m: Machine) -> None:
    """A page is pinned for writing, then paged out, read and written: is it still the one that is pinned?"""
    app, a = own_page(m)
    m.check(lambda: folios_at_rest(m, ("pin",)))

    @m.task
    def pin() -> None:
        _, pages = app.pin(a, 1, FOLL_WRITE)
        app.madvise(a, 1, MADV_PAGEOUT)
        read_and_write(m, app, a, pages.pfns[0])


@case(
    "gup/swapped/held",
    reach=("a page stayed in the swap cache", "the page was written"),
    expect={**dict.fromkeys(TO_5_18, DIVERGED), **FROM_5_19},
    evidence=SOURCE,
)
def pageout_of_a_held_page(m: Machine) -> None:
    """... and if only a reference is held, as O_DIRECT does up to 6.2?"""
    app, a = own_page(m)
    m.check(lambda: folios_at_rest(m, ("get",)))

    @m.task
    def get() -> None:
        _, pages = app.get(a, 1, FOLL_WRITE)
        app.madvise(a, 1, MADV_PAGEOUT)
        read_and_write(m, app, a, pages.pfns[0])


@case(
    "gup/swapped/beside",
    reach=("a page was paged out", "the page was written"),
    expect={**dict.fromkeys(TO_5_18, sometimes("pin-diverged")), **FROM_5_19},
    engine="stateful",  # too many traces up to 5.18
    evidence=SOURCE,
)
def pageout_beside_a_pin(m: Machine) -> None:
    """... and if it is pinned, by the fast path, while another thread pages it out?

    Up to 5.18 reclaim looks for a pin, and unmaps the page later; the pin may come in between. From 5.19 on it clears
    the entry, and looks then: a fast pin that comes later sees that the entry has changed.
    """
    app, a = own_page(m)
    m.check(lambda: folios_at_rest(m, ("pin",)))

    @m.task
    def pin() -> None:
        got, pages = app.pin(a, 1, FOLL_WRITE, how="fast")
        m.require(got == 1, "pin-failed", f"the pin gives {got}")
        read_and_write(m, app, a, pages.pfns[0])

    @m.task
    def pageout() -> None:
        app.madvise(a, 1, MADV_PAGEOUT)
