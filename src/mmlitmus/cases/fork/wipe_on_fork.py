"""Does a child share a page that MADV_WIPEONFORK has been said of?

No, on every kernel from 4.14 on: the mapping is there in the child, without an entry, and its first touch gets
another page. So what a device has pinned stays the parent's, whatever is written to after a fork. MADV_DONTFORK does
the same by leaving the mapping out; without either, a store by the parent gets a copy and the pin is left with the
old page, where the release does not copy for the child (up to 5.18; O_DIRECT up to 6.2, which pins nothing).
"""

from mmlitmus.api import Machine, always, case, never, releases
from mmlitmus.kernel.mm.madvise import MADV_KEEPONFORK, MADV_WIPEONFORK

LOST = "the parent writes to another page than the device"


def program(m: Machine, wiped: bool) -> None:
    """Somebody gets a page of a process that then forks and writes to it."""
    app = m.process("app")
    a = app.mmap_anon(1)
    app.write(a)
    app.madvise(a, 1, MADV_WIPEONFORK)
    if not wiped:
        app.madvise(a, 1, MADV_KEEPONFORK)

    @m.task
    def task() -> None:
        _, pages = app.get(a, 1, 1, how="fast")
        child = app.fork("child")
        assert not isinstance(child, int)
        app.write(a)
        m.require(app.pte(a) >> 12 & 0xFFFFF == pages.pfns[0], LOST, f"{pages.pfns[0]:#x} is mapped no more")
        child.write(a)
        m.reached("the child has a page of its own" if child.pte(a) != app.pte(a) else "both have one page")
        app.put(pages)
        child.exit()


@case(
    "fork/wipe-on-fork",
    control="fork/wipe-on-fork/kept",
    reach=("the child has a page of its own",),
    expect=releases("v5.10", "deb-7.3.4", never),
)
def wiped(m: Machine) -> None:
    """Does a page that somebody holds stay the parent's after a fork, with MADV_WIPEONFORK?"""
    program(m, wiped=True)


@case(
    "fork/wipe-on-fork/kept",
    reach=("the child has a page of its own",),
    expect=releases("v5.10", "deb-7.3.4", always(LOST)),
)
def kept(m: Machine) -> None:
    """And without it?"""
    program(m, wiped=False)
