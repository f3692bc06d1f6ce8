"""What may mremap do to a mapping of frame numbers?

Move it, and shrink it. It may not grow, for nothing says that the frames behind the last one are the device's too; and
what would make a second mapping (an old length of 0) or leave an empty one behind (MREMAP_DONTUNMAP) is refused, for
nothing could fill it. What becomes of the reservation of the frames is asked in pat/mremap-move and its neighbours.
"""

from mmlitmus.api import (
    EFAULT,
    EINVAL,
    MREMAP_DONTUNMAP,
    MREMAP_MAYMOVE,
    SIGSEGV,
    Machine,
    always,
    case,
    memtypes_at_rest,
    never,
    pte_cachemode,
    pte_pfn,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, open_probe


@case(
    "pfn/mremap",
    control="pfn/mremap/mixedmap",
    scenario="S-PFN-06",
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def grow(m: Machine) -> None:
    """May a mapping of frame numbers grow?"""
    grow_it(m, "remap")


@case(
    "pfn/mremap/mixedmap",
    scenario="S-PFN-06",
    expect=releases("v5.10", "deb-7.3.4", always("wrong-errno")),
)
def grow_a_mixedmap(m: Machine) -> None:
    """... and a VM_MIXEDMAP of the same frames? (It may: the control.)"""
    grow_it(m, "mixed")


def grow_it(m: Machine, insert: str) -> None:
    """Four pages are to become eight."""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=8)
    app = m.process("app")

    @m.task
    def mremap() -> None:
        a = app.mmap(probe.file(insert), 4)
        got = app.mremap(a, 4, 8, flags=MREMAP_MAYMOVE)
        m.require(got == -EFAULT, "wrong-errno", f"growing gives {got}")


@case(
    "pfn/mremap/second",
    control="pfn/mremap/second/mixedmap",
    scenario="S-PFN-06",
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def second(m: Machine) -> None:
    """... or be mapped a second time, or be left behind empty?"""
    map_again(m, "remap")


@case(
    "pfn/mremap/second/mixedmap",
    scenario="S-PFN-06",
    expect=releases("v5.10", "deb-7.3.4", always("wrong-errno")),
)
def second_of_a_mixedmap(m: Machine) -> None:
    """... and a VM_MIXEDMAP of the same frames? (It may: the control.)"""
    map_again(m, "mixed")


def map_again(m: Machine, insert: str) -> None:
    """mremap with an old length of 0, and MREMAP_DONTUNMAP."""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def mremap() -> None:
        a = app.mmap(probe.file(insert), 4)
        got = app.mremap(a, 0, 4, to="b")
        m.require(got == -EFAULT, "wrong-errno", f"an old length of 0 gives {got}")
        got = app.mremap(a, 4, 4, flags=MREMAP_MAYMOVE | MREMAP_DONTUNMAP)
        m.require(got == -EINVAL, "wrong-errno", f"MREMAP_DONTUNMAP gives {got}")


@case(
    "pfn/mremap/move",
    control="pat/mremap-part",
    scenario="S-PFN-06",
    reach=("moved got through", "the old place is empty"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def move(m: Machine) -> None:
    """Does a mapping that is moved keep its frames and their type, and give them back once?"""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=2)
    app = m.process("app")

    @m.task
    def moved() -> None:
        a = app.mmap(probe.file("remap", "wc"), 2)
        mode = pte_cachemode(app.pte(a))
        b = app.mremap(a, 2, 2, to="b")
        m.require(b == m.slot("b"), "wrong-result", f"moving gives {b}")
        frames = [pte_pfn(app.pte(b)), pte_pfn(app.pte(b + 0x1000))]
        m.require(frames == [BAR_PFN, BAR_PFN + 1], "wrong-result", "the frames are not the ones that were mapped")
        m.require(pte_cachemode(app.pte(b)) == mode, "wrong-type", "the type is not the one that was mapped")
        m.saw(app.read(b))
        if app.read(a) == SIGSEGV and not app.pte(a):
            m.reached("the old place is empty")
        app.munmap(b, 2)


@case(
    "pfn/mremap/shrink",
    control="pat/split-head-first",
    scenario="S-PFN-06",
    reach=("shrunk got through", "the tail is gone"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def shrink(m: Machine) -> None:
    """Does a mapping that is shrunk lose its tail, and no more?"""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=2)
    app = m.process("app")

    @m.task
    def shrunk() -> None:
        a = app.mmap(probe.file("remap", "wc"), 2)
        m.require(app.mremap(a, 2, 1) == a, "wrong-result", "shrinking fails")
        m.saw(app.read(a))
        if app.read(a + 0x1000) == SIGSEGV:
            m.reached("the tail is gone")
        app.munmap(a, 1)
