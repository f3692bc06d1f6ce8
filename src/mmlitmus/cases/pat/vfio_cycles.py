"""VFIO, three times around: memory off, memory on, a touch. Does a reservation stay behind, or a touch fail?

Up to 6.9 every touch after a disable remaps the BAR, and so reserves it, and every disable zaps it, and so gives it
back: with the untracking in unmap_single_vma that is balanced. With the patch of July 2024 the zap gives nothing back,
and munmap only once. With 6.16's tracking the second remap of a VMA is refused: SIGBUS while memory is enabled. From
6.10 on VFIO inserts pages one by one and reserves nothing for a VMA: none of it matters.
"""

from mmlitmus.api import Machine, always, case, memtypes_at_rest, never, pat_memtype_list, releases
from mmlitmus.kernel.drivers.vfio.pci import VfioPciCoreDevice, open_device
from mmlitmus.kernel.uapi import Process

CYCLES = 3
ASKS = (
    "freeing-invalid-memtype",
    "memtype-alias",
    "memtype-leak",
    "memtype-steal",
    "spurious-sigbus",
    "untrack-walk-failed",
    "untracked-live",
    "wrong-count",
)
SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


def go_round(m: Machine, dev: VfioPciCoreDevice, qemu: Process, bar: int) -> None:
    """Touch, disable, enable, as often as there are cycles."""
    for _ in range(CYCLES):
        m.require(m.saw(qemu.read(bar)) != "SIGBUS", "spurious-sigbus", "SIGBUS while memory is enabled")
        dev.write_command(memory=False)
        dev.write_command(memory=True)


def count(m: Machine, left_over: int) -> None:
    """After munmap: one entry is pci_iomap's. Others must be none, or as many as that."""
    extra = len(pat_memtype_list(m)) - 2
    m.require(extra in (0, left_over), "wrong-count", f"{extra} entries are left over")


@case(
    "pat/vfio-cycles",
    scenario="S-PAT-09",
    thread="000",
    claims=("C000-01", "C000-11", "C000-14", "C000-20", "C000-22", "C000-27", "C004-09", "N5", "N6"),
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "v6.9", always("memtype-leak"), "+untrack-in-unmap-vmas"),
        **releases("v6.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "v6.9", always("spurious-sigbus"), "+pfnmap-track-ctx"),
        **releases("v6.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
        "v6.10 +revert-unmap-mapping-range": always("flags-without-lock"),
        "v6.10 +revert-unmap-mapping-range +untrack-in-unmap-vmas": always("flags-without-lock", "memtype-leak"),
        "v6.16 +revert-unmap-mapping-range": always("flags-without-lock", "spurious-sigbus"),
    },
    evidence=SOURCE,
)
def vfio_cycles(m: Machine) -> None:
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        go_round(m, dev, qemu, bar)
        m.saw(qemu.read(bar))
        if qemu.munmap(bar, 1) == 0:
            m.reached("unmapped")
        count(m, CYCLES)


@case(
    "pat/vfio-cycles/unpopulated",
    scenario="S-PAT-09",
    thread="000",
    claims=("N5",),
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "v6.9", always("memtype-leak", "untrack-walk-failed"), "+untrack-in-unmap-vmas"),
        **releases("v6.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "v6.9", always("spurious-sigbus"), "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def vfio_cycles_unpopulated(m: Machine) -> None:
    """... and if nobody touches it between the last disable and munmap?"""
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        go_round(m, dev, qemu, bar)
        if qemu.munmap(bar, 1) == 0:
            m.reached("unmapped")
        count(m, CYCLES)


@case(
    "pat/vfio-cycles/closed",
    control="pat/vfio-cycles",
    scenario="S-PAT-09",
    thread="000",
    claims=("C000-22",),
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def vfio_cycles_closed(m: Machine) -> None:
    """... and is nothing reserved once the device is closed?"""
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        go_round(m, dev, qemu, bar)
        m.saw(qemu.read(bar))
        if qemu.munmap(bar, 1) == 0:
            m.reached("unmapped")
        dev.close_device()
        m.require(len(pat_memtype_list(m)) == 1, "wrong-count", f"{pat_memtype_list(m)}")
