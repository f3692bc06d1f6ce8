"""Three handlers in one year: which of them puts the right frames behind a BAR, and lets a fault beside another one be?

6.12's vfio_pci_mmap_huge_fault asks whether the faulting address begins a leaf and the VMA has room for it. It does not
ask where the frame is: a mapping that begins within a BAR gets a leaf for frames that begin nowhere, which a CPU takes
for others, or refuses. 09dfc8a5f2ce (6.13, and stable) asks.

What both leave is that a fault at any other address of the block falls back to a page. Beside one at its first byte,
which puts a leaf there, the page finds no table to go into: VM_FAULT_OOM. A CPU runs its instruction again; who faults
for somebody else (KVM, VFIO's pinning) hands out -ENOMEM with memory to spare. c1d9dac0db16 (6.15, and stable, and so
6.12.117) rounds the address down: whoever comes first, it is a leaf.
"""

from mmlitmus.api import (
    PMD_SIZE,
    Machine,
    always,
    case,
    leaves_are_sound,
    never,
    pte_pfn,
    releases,
    sometimes,
    stale_translations,
)
from mmlitmus.kernel.drivers.vfio.pci import VfioPciCoreDevice, open_device
from mmlitmus.kernel.uapi import Process

PMD_PAGES = 512
SOURCE = dict.fromkeys(("v6.12", "v6.14", "deb-6.12.117", "v7.3", "deb-7.3.4"), "source")
PARTS = {
    **releases("deb-6.12.117", "deb-7.3.4", never),
    "v6.12 +vfio-align-to-order": never,
    "v6.14 +vfio-align-to-order": never,
}


def map_bar(m: Machine, pages: int, offset: int = 0) -> tuple[VfioPciCoreDevice, Process, int]:
    """A device whose BAR is mapped from page ``offset`` on at a multiple of 2M."""
    dev = open_device(m, pages=2 * PMD_PAGES)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, pages, offset=offset)
    assert bar % PMD_SIZE == 0
    m.check(lambda: leaves_are_sound(m))
    m.check(lambda: stale_translations(m))
    return dev, qemu, bar


@case(
    "vfio/huge-handlers",
    reach=("touched",),
    expect={
        "v6.12": always("unaligned-leaf", "wrong-frame"),
        "v6.14": never,
        "v6.12 +vfio-align-pfn": never,
        **PARTS,
    },
    evidence=SOURCE,
)
def second_page(m: Machine) -> None:
    """A BAR is mapped from its second page on. Does a load reach that page?

    The frame's lowest bit is where a leaf has its PAT bit: the CPU takes the 2M before, and another memory type.
    """
    dev, qemu, bar = map_bar(m, PMD_PAGES, offset=1)

    @m.task
    def touch() -> None:
        qemu.read(bar)
        m.reached("touched")
        frame, wanted = pte_pfn(qemu.pte(bar)) & ~1, dev.pdev.bars[0].pfn + 1
        leaf = qemu.pte(bar) >> 7 & 1
        m.require(not leaf or frame == wanted, "wrong-frame", f"frame {frame:#x} is mapped, and {wanted:#x} was meant")


@case(
    "vfio/huge-handlers/third-page",
    reach=("touching",),
    expect={
        "v6.12": always("corrupted-page-table", "unaligned-leaf"),
        "v6.14": never,
        "v6.12 +vfio-align-pfn": never,
        **PARTS,
    },
    evidence=SOURCE,
)
def third_page(m: Machine) -> None:
    """... and from the third on? Its frame's bits are reserved in a leaf."""
    _, qemu, bar = map_bar(m, PMD_PAGES, offset=2)

    @m.task
    def touch() -> None:
        m.reached("touching")
        qemu.read(bar)


@case(
    "vfio/huge-handlers/pin-beside-touch",
    asks=("pin-failed", "entry-under-leaf", "stale-translation"),
    reach=("huge leaf inserted", "pinned"),
    expect={
        "v6.12": sometimes("pin-failed"),
        "v6.14": sometimes("pin-failed"),
        "v6.12 +vfio-align-pfn": sometimes("pin-failed"),
        "v6.12 +pte-under-leaf": sometimes("entry-under-leaf"),
        **PARTS,
    },
    evidence=SOURCE,
)
def pin_beside_touch(m: Machine) -> None:
    """One thread touches the first byte of a block, another has a page of it faulted in (as VFIO does to pin a BAR, and
    KVM for a guest): may that fail?
    """
    _, qemu, bar = map_bar(m, PMD_PAGES)

    @m.task
    def touch() -> None:
        qemu.read(bar)

    @m.task
    def pin() -> None:
        error = qemu.pin_mmio(bar + 4096)
        m.require(not error, "pin-failed", f"the fault gives {error}, and memory is not short")
        m.reached("pinned")


@case(
    "vfio/huge-handlers/two-touches",
    asks=("oom-leaked", "entry-under-leaf"),
    reach=("huge leaf inserted", "second got through"),
    expect={
        "v6.12": sometimes("oom-leaked"),
        "v6.14": sometimes("oom-leaked"),
        **PARTS,
    },
    evidence=SOURCE,
)
def two_touches(m: Machine) -> None:
    """... and two CPUs that touch the block themselves? Both get through; one leaves a line in the log."""
    _, qemu, bar = map_bar(m, PMD_PAGES)

    @m.task
    def first() -> None:
        m.saw(qemu.read(bar))

    @m.task
    def second() -> None:
        m.saw(qemu.read(bar + 4096))
