"""A BAR of 1G or more is one huge leaf: what happens when a VMA is split within it?

vma_adjust_trans_huge looks for 2M leaves only. mm_find_pmd, which it asks for the PMD entry, tests whether the upper
levels are present, and not whether one is a leaf. So a split off a 2M boundary takes the BAR's first frame for a table
of PMD entries, and oopses on the lock that such a table has: with stock vfio-pci, for whoever may open the device. At a
2M boundary nothing is looked for, and the leaf stays across both VMAs. Observed on 6.12.117 and 7.3.4 under emulation;
the fix, as a replacement of the function, mends both. Who says MADV_NOHUGEPAGE before the first touch gets pages.

mremap never splits: get_old_pud takes the leaf for a bad entry, says so and clears it, without a flush, and who unmaps
the old place then finds nothing to flush for. That is read in the source, and was not run.
"""

from collections.abc import Callable
from typing import Any

from mmlitmus.api import (
    MADV_DONTFORK,
    MADV_NOHUGEPAGE,
    PAGE_SIZE,
    PMD_SIZE,
    PROT_READ,
    PUD_SIZE,
    Machine,
    always,
    case,
    leaves_are_sound,
    never,
    releases,
)
from mmlitmus.kernel.drivers.vfio.pci import VfioPciCoreDevice, open_device
from mmlitmus.kernel.uapi import Process

PAGES = PUD_SIZE // PAGE_SIZE
PMD_PAGES = PMD_SIZE // PAGE_SIZE
ADDRESS = 0x7F80_0000_0000  # a multiple of 1G, as a VMM that aligns its mappings takes it
OBSERVED = {**dict.fromkeys(("deb-6.12.117", "deb-7.3.4"), "recorded"), "v6.12": "source"}
SOURCE = dict.fromkeys(("v6.12", "deb-6.12.117", "deb-7.3.4"), "source")
NEVER = {**releases("v6.12", "deb-7.3.4", never), **releases("v6.12", "deb-7.3.4", never, "+split-pud-leaf")}
OOPS = {
    **releases("v6.12", "deb-7.3.4", always("walk-through-leaf")),
    **releases("v6.12", "deb-7.3.4", never, "+split-pud-leaf"),
}


def scene(m: Machine, do: Callable[[Process, int], Any]) -> tuple[VfioPciCoreDevice, Process]:
    """A BAR of 1G that is mapped and touched, of which a task does something with a part."""
    dev = open_device(m, pages=PAGES)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, PAGES, at=ADDRESS)
    m.check(lambda: leaves_are_sound(m))

    @m.task
    def task() -> None:
        qemu.read(bar)
        error = do(qemu, bar)
        m.require(not isinstance(error, int) or error >= 0, "call-failed", f"the call gives {error}")
        m.require(not isinstance(qemu.read(bar), str), "bar-gone", "what is still mapped cannot be read")
        m.reached("went on")

    return dev, qemu


def part(bar: int) -> int:
    """An address in the midst of the leaf that begins a page, and no 2M."""
    return bar + 2 * PMD_SIZE + 5 * PAGE_SIZE


@case("vfio/split-1g", reach=("huge leaf inserted",), expect=OOPS, evidence=OBSERVED)
def munmap(m: Machine) -> None:
    """One page of the BAR is unmapped."""
    scene(m, lambda qemu, bar: qemu.munmap(part(bar), 1))


@case("vfio/split-1g/mprotect", reach=("huge leaf inserted",), expect=OOPS, evidence=OBSERVED)
def mprotect(m: Machine) -> None:
    """One page becomes read-only."""
    scene(m, lambda qemu, bar: qemu.mprotect(part(bar), 1, PROT_READ))


@case("vfio/split-1g/fixed", reach=("huge leaf inserted",), expect=OOPS, evidence=OBSERVED)
def fixed(m: Machine) -> None:
    """Anonymous memory takes the place of one page."""
    scene(m, lambda qemu, bar: qemu.mmap_anon(1, at=part(bar)))


@case("vfio/split-1g/dontfork", reach=("huge leaf inserted",), expect=OOPS, evidence=OBSERVED)
def dontfork(m: Machine) -> None:
    """One page is not to be inherited."""
    scene(m, lambda qemu, bar: qemu.madvise(part(bar), 1, MADV_DONTFORK))


@case(
    "vfio/split-1g/whole",
    control="vfio/split-1g",
    reach=("huge leaf inserted", "went on"),
    expect=NEVER,
    evidence=OBSERVED,
)
def whole(m: Machine) -> None:
    """All of it is unmapped, and mapped again."""

    def again(qemu: Process, bar: int) -> int:
        qemu.munmap(bar, PAGES)
        return qemu.mmap(dev.file, PAGES, at=ADDRESS)

    dev, _ = scene(m, again)


@case(
    "vfio/split-1g/protect-whole",
    control="vfio/split-1g/mprotect",
    reach=("huge leaf inserted", "went on"),
    expect=NEVER,
    evidence=SOURCE,
)
def protect_whole(m: Machine) -> None:
    """All of it becomes read-only: nothing is split. Can it still be written?"""

    def protect(qemu: Process, bar: int) -> int:
        error = qemu.mprotect(bar, PAGES, PROT_READ)
        m.require(qemu.write(bar) == "SIGSEGV", "still-writable", "the BAR is read-only, and is written")
        return error

    scene(m, protect)


@case(
    "vfio/split-1g/aligned",
    control="vfio/split-1g",
    reach=("huge leaf inserted", "went on"),
    expect=NEVER,
    evidence=OBSERVED,
)
def aligned(m: Machine) -> None:
    """2M at a multiple of 2M are unmapped: the leaf goes with them, and is faulted again in smaller ones."""
    scene(m, lambda qemu, bar: qemu.munmap(bar + 2 * PMD_SIZE, PMD_PAGES))


@case("vfio/split-1g/nohugepage", control="vfio/split-1g", reach=("went on",), expect=NEVER, evidence=OBSERVED)
def nohugepage(m: Machine) -> None:
    """MADV_NOHUGEPAGE before the first touch: one page is unmapped."""
    dev = open_device(m, pages=PAGES)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, PAGES, at=ADDRESS)
    qemu.madvise(bar, PAGES, MADV_NOHUGEPAGE)

    @m.task
    def task() -> None:
        qemu.read(part(bar))
        m.require(qemu.munmap(part(bar), 1) == 0, "call-failed", "munmap fails")
        m.require(qemu.read(part(bar)) == "SIGSEGV", "still-mapped", "what is unmapped can be read")
        m.reached("went on")


@case(
    "vfio/split-1g/aligned-dontfork",
    reach=("huge leaf inserted", "went on"),
    expect={
        **releases("v6.12", "deb-7.3.4", always("read-without-a-vma")),
        **releases("v6.12", "deb-7.3.4", never, "+split-pud-leaf"),
    },
    evidence=OBSERVED,
)
def aligned_dontfork(m: Machine) -> None:
    """2M at a multiple of 2M are not to be inherited: can a child read them?"""

    def fork(qemu: Process, bar: int) -> int:
        error = qemu.madvise(bar + 2 * PMD_SIZE, PMD_PAGES, MADV_DONTFORK)
        child = qemu.fork("child")
        assert isinstance(child, Process)
        seen = child.read(bar + 2 * PMD_SIZE)
        m.require(seen == "SIGSEGV", "read-without-a-vma", f"a child without a VMA there reads {seen}")
        return error

    scene(m, fork)


@case(
    "vfio/split-1g/mremap",
    reach=("huge leaf inserted", "went on"),
    expect=releases("v6.12", "deb-7.3.4", always("bad-pud", "still-mapped")),
    evidence=SOURCE,
)
def mremap(m: Machine) -> None:
    """All of it is moved, to a multiple of 1G or not. It is faulted again where it has gone; but nobody has flushed
    what was cleared, and a CPU goes on reading where it was.
    """
    dev = open_device(m, pages=PAGES)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, PAGES, at=ADDRESS)
    m.check(lambda: leaves_are_sound(m))

    @m.task
    def task() -> None:
        qemu.read(bar)
        to = ADDRESS + 4 * PUD_SIZE
        m.require(qemu.mremap(bar, PAGES, PAGES, to=to) == to, "call-failed", "mremap fails")
        m.require(qemu.read(bar) == "SIGSEGV", "still-mapped", "it can be read where it was")
        m.require(not isinstance(qemu.read(to), str), "bar-gone", "it cannot be read where it has gone")
        m.reached("went on")
