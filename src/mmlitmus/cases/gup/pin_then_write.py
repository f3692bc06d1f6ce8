"""Memory is pinned for reading, then written: does the device see what the process writes?

It does as long as the page that was pinned is the one that the process goes on writing to. A store may put another
page in its place: in that of the zero page always, in that of a page that a child shares, and before 5.19 in that of
any page that is mapped read-only and that somebody else holds. From 5.19 on a pin for reading has a shared page made
the process's own first, from 6.2 on, if it is for long, the zero page too.
"""

from mmlitmus.api import (
    FOLL_LONGTERM,
    PROT_READ,
    PROT_WRITE,
    Machine,
    Process,
    always,
    case,
    folios_at_rest,
    never,
    pin_is_coherent,
    releases,
)

RECORDED = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded")
SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")
DIVERGED = always("pin-diverged")


def pin_then_write(m: Machine, app: Process, a: int, prepare: tuple[int, ...] = ()) -> None:
    """One thread pins a page for reading and for long; then the process writes to it."""
    m.check(lambda: folios_at_rest(m, ("pin_and_write",)))

    @m.task
    def pin_and_write() -> None:
        got, pinned = app.pin(a, 1, FOLL_LONGTERM)
        m.require(got == 1, "pin-failed", f"the pin gives {got}")
        for prot in prepare:
            app.mprotect(a, 1, prot)
        app.write(a)
        for finding in pin_is_coherent(m, app.mm, a, pinned.pfns[0]):
            m.require(False, finding.name, finding.message)
        m.reached("the page was written")


@case(
    "gup/pin-then-write",
    scenario="Z4",
    thread="001",
    reach=("the page was written",),
    expect={
        **releases("v5.10", "deb-6.1.192", DIVERGED),
        **dict.fromkeys(("v5.14", "v5.19", "v6.0"), DIVERGED),
        **releases("v6.6", "deb-7.3.4", never),
    },
    evidence=RECORDED,
)
def zero_page_then_write(m: Machine) -> None:
    """Memory that was never written is pinned for reading, then written: does the device see it?

    Not as long as the zero page is what was pinned: the store puts another page in its place.
    """
    app = m.process("app")
    pin_then_write(m, app, app.mmap_anon(1))


@case(
    "gup/pin-then-write/shared",
    scenario="Z4",
    thread="001",
    reach=("the page was written",),
    expect={
        **releases("v5.10", "deb-5.10.262", DIVERGED),
        "v5.14": DIVERGED,
        **dict.fromkeys(("v5.19-rc1", "v5.19", "v6.0-rc1", "v6.0"), never),
        **releases("v6.1", "deb-7.3.4", never),
    },
    evidence=RECORDED,
)
def shared_page_then_write(m: Machine) -> None:
    """... and a page that a child shares? (From 5.19 on the pin has it made the process's own first.)"""
    app = m.process("app")
    a = app.mmap_anon(1)
    app.write(a)
    app.fork("child")
    pin_then_write(m, app, a)


@case(
    "gup/pin-then-write/exclusive",
    scenario="Z4",
    thread="001",
    reach=("the page was written",),
    expect={
        **releases("v5.10", "deb-5.10.262", DIVERGED),
        "v5.14": DIVERGED,
        **dict.fromkeys(("v5.19-rc1", "v5.19", "v6.0-rc1", "v6.0"), never),
        **releases("v6.1", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def own_page_then_write(m: Machine) -> None:
    """... and a page of its own, that was made read-only and writable again?

    Before 5.19 a store to a read-only page that is pinned is always a copy: the pin is one reference too many.
    """
    app = m.process("app")
    a = app.mmap_anon(1)
    app.write(a)
    pin_then_write(m, app, a, (PROT_READ, PROT_READ | PROT_WRITE))
