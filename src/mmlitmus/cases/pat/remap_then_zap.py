"""If ->mmap remaps to have the type of a BAR reserved, and unmaps at once: is it reserved, and is there a window?

There is: what was remapped is there until it is unmapped, and memory may be off meanwhile. And reserved it is not for
long: up to 6.15 the zap that takes the translations away gives back what was reserved. With the patch of July 2024
(untrack in unmap_vmas) it stays reserved until munmap, whose walk then finds no page to tell the frames from. From
6.16 on it is reserved as long as the VMA exists.
"""

from mmlitmus.api import Machine, always, case, memtypes_at_rest, never, pat_memtype_list, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "pat/remap-then-zap",
    thread="000",
    claims=("C000-23",),
    reach=("unmapped",),
    expect={
        **releases("v6.10", "deb-6.12.117", always("not-reserved"), "+remap-then-zap"),
        **releases(
            "v6.10",
            "deb-6.12.117",
            always("memtype-leak", "untrack-walk-failed"),
            "+untrack-in-unmap-vmas +remap-then-zap",
        ),
        **releases("v6.16", "deb-7.3.4", never, "+remap-then-zap"),
        "v6.12": always("not-reserved"),
    },
)
def remap_then_zap(m: Machine) -> None:
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        bar = qemu.mmap(dev.file, 2)
        n = len(pat_memtype_list(m)) - 1
        m.require(n != 1, "not-reserved", f"after ->mmap the list has {n} entries, and pci_iomap's is one of them")
        if qemu.munmap(bar, 2) == 0:
            m.reached("unmapped")


@case(
    "pat/remap-then-zap/window",
    thread="000",
    claims=("C000-23",),
    asks=("access-after-disable", "stale-translation"),
    reach=("touch got SIGBUS",),
    expect={
        **releases("v6.10", "deb-7.3.4", sometimes("access-after-disable"), "+remap-then-zap"),
        "v6.12": never,
    },
)
def window(m: Machine) -> None:
    """... memory is off: can another thread reach the device in between?"""
    m.faults = 1
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    dev.write_command(memory=False)

    @m.task
    def mmap() -> None:
        qemu.mmap(dev.file, 1, at="a")

    @m.task
    def touch() -> None:
        m.saw(qemu.read(m.slot("a")))
