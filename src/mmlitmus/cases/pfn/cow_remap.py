"""What is different when a private mapping is filled with remap_pfn_range?

A store to it makes a copy, and the kernel must then tell copied pages from the device's. It does so by the offset:
vm_pgoff becomes the frame number, and the page at index N of the VMA is the device's if it maps frame vm_pgoff + N.
So a private writable mapping can be filled as a whole only, in one piece. A shared one keeps its offset, and may be
filled in parts.
"""

from mmlitmus.api import (
    EINVAL,
    MAP_PRIVATE,
    MAP_SHARED,
    Machine,
    Process,
    always,
    case,
    memtypes_at_rest,
    never,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, open_probe

RECORDED = ("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4")


def offset_of(process: Process) -> int:
    """The offset of the process's only mapping, in pages, as /proc/PID/smaps has it."""
    return int(process.smaps().split()[2], 16) >> 12


@case(
    "pfn/cow-remap",
    scenario="S-PFN-03",
    expect={**releases("v5.10", "deb-7.3.4", always("offset-is-pfn"))},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def cow_remap(m: Machine) -> None:
    """Does a private mapping keep its file offset?"""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def mmap() -> None:
        a = app.mmap(probe.file("remap"), 2, offset=1, flags=MAP_PRIVATE)
        m.require(offset_of(app) != BAR_PFN + 1, "offset-is-pfn", "vm_pgoff is the frame number, and not the offset")
        app.munmap(a, 2)


@case(
    "pfn/cow-remap/copied",
    scenario="S-PFN-03",
    thread="000",
    claims=("C000-34",),
    fix="04c35ab3bdae",
    reach=("a private page was copied",),
    expect={
        "v5.10": always("memtype-leak"),
        "deb-5.10.262": never,
        "v6.1": always("memtype-leak"),
        "deb-6.1.192": never,
        "v6.6": always("memtype-leak"),
        **releases("v6.9", "deb-7.3.4", never),
        **{f"{k} +cow-walk-fix": never for k in ("v5.10", "v6.1", "v6.6")},
        **{f"{k} +pfnmap-track-ctx": never for k in ("v5.10", "v6.1", "v6.6")},
        **{f"{k} +untrack-in-unmap-vmas": always("memtype-leak") for k in ("v5.10", "v6.1", "v6.6")},
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def copied_then_unmapped(m: Machine) -> None:
    """Is the reservation of a private mapping given back when its first page has been copied?

    munmap looks for the frames at the first page. Before 6.9 it took the copy's frame for the device's; that is RAM,
    which is not reserved, so nothing was freed. Since then vm_pgoff tells, where the first page is a copy.
    """
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def write_and_unmap() -> None:
        a = app.mmap(probe.file("remap"), 2, flags=MAP_PRIVATE)
        m.require(app.read(a) != "SIGBUS" and app.write(a) == 0, "wrong-result", "an access does not get through")
        app.munmap(a, 2)


@case(
    "pfn/cow-remap/shared",
    control="pfn/cow-remap",
    scenario="S-PFN-03",
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def shared_remap(m: Machine) -> None:
    """... and a shared one?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def mmap() -> None:
        app.mmap(probe.file("remap"), 2, offset=1, flags=MAP_SHARED)
        m.require(offset_of(app) == 1, "offset-is-pfn", "vm_pgoff is not the offset")


@case(
    "pfn/cow-remap/partial",
    control="pfn/cow-remap/partial-shared",
    scenario="S-PFN-03",
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(RECORDED, "recorded"),
)
def partial_cow_remap(m: Machine) -> None:
    """Can a private mapping be filled in parts?"""
    fill_half(m, MAP_PRIVATE)


@case(
    "pfn/cow-remap/partial-shared",
    scenario="S-PFN-03",
    expect=releases("v5.10", "deb-7.3.4", always("wrong-errno")),
)
def partial_shared_remap(m: Machine) -> None:
    """... and a shared one? (It can: the control.)"""
    fill_half(m, MAP_SHARED)


def fill_half(m: Machine, flags: int) -> None:
    """Map four pages, of which the driver fills two."""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def mmap() -> None:
        got = app.mmap(probe.file("remap_partial", "wc"), 4, flags=flags)
        m.require(got == -EINVAL, "wrong-errno", f"half a mapping is filled: {got}")
