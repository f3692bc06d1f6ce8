"""A BAR mapping by VFIO is split by mprotect of its second half: is what it had reserved given back in the end?

Up to 6.9 VFIO's ->open zaps every VMA that is a copy, so that it has to fault to be used. In a split the copy has
VM_PAT, and the zap untracks its half. Which half that is depends on who splits. mprotect of the second half copies the
first: no entry has a head to give back, VM_PAT is cleared all the same, and when the second half goes the entry is
shortened to a head that nobody has any more. mprotect of the first half copies the second, whose tail can be given
back. munmap copies what goes up to 6.2, and what stays from 6.3 on. From 6.10 on VFIO has no ->open, and no VM_PAT.
"""

from mmlitmus.api import PAGE_SIZE, PROT_READ, Machine, always, case, memtypes_at_rest, never, releases
from mmlitmus.kernel.drivers.vfio.pci import open_device
from mmlitmus.kernel.uapi import Process

ASKS = (
    "freeing-invalid-memtype",
    "memtype-alias",
    "memtype-double-free",
    "memtype-leak",
    "memtype-steal",
    "spurious-sigbus",
    "untrack-walk-failed",
    "untracked-live",
)
SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")
LEAK = always("freeing-invalid-memtype", "memtype-leak")
#: v6.10's vm_flags_set asserts mmap_lock for writing, and a remap in a fault has it for reading (locks/flags-writers)
WARNS = always("flags-without-lock")
HALF = 2 * PAGE_SIZE


def touch(m: Machine, qemu: Process, address: int) -> None:
    """Memory is enabled: no touch may fail."""
    m.require(m.saw(qemu.read(address)) != "SIGBUS", "spurious-sigbus", f"SIGBUS at {m.page_label(address)}")


def map_bar(m: Machine) -> tuple[Process, int]:
    """A process that has mapped and touched a BAR of four pages; memtypes are asked about at rest."""
    dev = open_device(m, pages=4)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 4)
    qemu.read(bar)
    m.check(lambda: memtypes_at_rest(m))
    return qemu, bar


@case(
    "pat/vfio-split",
    scenario="S-PAT-13",
    thread="000",
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "v6.9", LEAK),
        **releases("v6.10", "deb-7.3.4", never),
        **releases("v5.10", "v6.9", never, "+unmap-mapping-range"),
        "v6.10 +revert-unmap-mapping-range": LEAK & WARNS,
        "v6.6 +pfnmap-track-ctx": always("spurious-sigbus"),
    },
    evidence=SOURCE,
)
def vfio_split(m: Machine) -> None:
    qemu, bar = map_bar(m)

    @m.task
    def task() -> None:
        qemu.mprotect(bar + HALF, 2, PROT_READ)
        touch(m, qemu, bar)
        touch(m, qemu, bar + HALF)
        if qemu.munmap(bar, 4) == 0:
            m.reached("unmapped")


@case(
    "pat/vfio-split/first-half",
    scenario="S-PAT-13",
    thread="000",
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.10 +revert-unmap-mapping-range": WARNS},
    evidence=SOURCE,
)
def vfio_split_first_half(m: Machine) -> None:
    """... and by mprotect of its first half?"""
    qemu, bar = map_bar(m)

    @m.task
    def task() -> None:
        qemu.mprotect(bar, 2, PROT_READ)
        touch(m, qemu, bar)
        touch(m, qemu, bar + HALF)
        if qemu.munmap(bar, 4) == 0:
            m.reached("unmapped")


@case(
    "pat/vfio-split/tail-first",
    scenario="S-PAT-13",
    thread="000",
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-6.1.192", never),
        **releases("v6.6", "v6.9", LEAK),
        **releases("v6.10", "deb-7.3.4", never),
        "v6.6 +unmap-mapping-range": never,
        "v6.10 +revert-unmap-mapping-range": LEAK & WARNS,
    },
    evidence=SOURCE,
)
def vfio_tail_first(m: Machine) -> None:
    """... and if it is unmapped in two parts, the tail first?"""
    qemu, bar = map_bar(m)

    @m.task
    def task() -> None:
        qemu.munmap(bar + HALF, 2)
        touch(m, qemu, bar)
        if qemu.munmap(bar, 2) == 0:
            m.reached("unmapped")


@case(
    "pat/vfio-split/head-first",
    scenario="S-PAT-13",
    thread="000",
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-6.1.192", LEAK),
        **releases("v6.6", "deb-7.3.4", never),
        "v6.1 +unmap-mapping-range": never,
        "v6.10 +revert-unmap-mapping-range": WARNS,
    },
    evidence=SOURCE,
)
def vfio_head_first(m: Machine) -> None:
    """... and the head first?"""
    qemu, bar = map_bar(m)

    @m.task
    def task() -> None:
        qemu.munmap(bar, 2)
        touch(m, qemu, bar + HALF)
        if qemu.munmap(bar + HALF, 2) == 0:
            m.reached("unmapped")
