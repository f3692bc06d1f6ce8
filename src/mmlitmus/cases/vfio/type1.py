"""What does a device reach through the IOMMU, when a VMM maps its guest's memory as QEMU does?

QEMU maps every block of the guest's memory that a device might reach: RAM for reading and writing, the option ROMs at
0xc0000 for reading only, the BARs of other devices. A block that was never written is the zero page, and up to 6.1 the
device goes on reading zeros after the block was written. A BAR is mapped by its frame number. No reference is held, and
nobody tells the IOMMU when decode goes off or the process unmaps: the device still gets there.
"""

from mmlitmus.api import (
    PAGE_SIZE,
    Machine,
    Process,
    always,
    case,
    folios_at_rest,
    never,
    pin_is_coherent,
    pte_pfn,
    releases,
)
from mmlitmus.kernel.drivers.vfio.pci import open_device
from mmlitmus.kernel.drivers.vfio.type1 import IOMMU_READ, IOMMU_WRITE, VfioIommu, vfio_dma_do_map
from mmlitmus.kernel.drivers.vfio.type1_unmap import vfio_dma_do_unmap

RECORDED = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded")
SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")
RW = IOMMU_READ | IOMMU_WRITE
ROM_AT, BAR_AT, EFAULT, ENOMEM = 0xC0000, 0xFE000000, -14, -12
LEAK = always("pin-leak")


def container(m: Machine, app: Process, limit: int | None = None) -> VfioIommu:
    """An IOMMU; in the end nothing is pinned but what it maps."""
    iommu = VfioIommu(m, limit=limit)
    m.check(lambda: folios_at_rest(m, (iommu.held(),)))
    return iommu


@case(
    "vfio/type1",
    engine="auto",
    scenario="S-PIN",
    thread="001",
    asks=("hard livelock of qemu", "map-failed", "pin-leak"),
    expect={
        "v5.10": LEAK,
        "v5.14": LEAK,
        "v5.19-rc1": always("hard livelock of qemu"),
        "v5.19-rc1 +longterm-isolation-errno": always("map-failed"),
        "v5.19": LEAK,
        "v6.0-rc1": always("hard livelock of qemu"),
        "v6.0": never,
        **releases("deb-5.10.262", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def guest(m: Machine) -> None:
    """A guest's RAM, pc.rom at 0xc0000 and a BAR are mapped for a device, and unmapped: what stays?"""
    app = m.process("qemu")
    iommu = container(m, app)
    ram = app.mmap_anon(2, at="a")
    rom = app.mmap_anon(4, at="b")
    bar = app.mmap(open_device(m).file, 2, at="c")

    @m.task
    def qemu() -> None:
        for at, vaddr, pages, prot in ((0, ram, 2, RW), (ROM_AT, rom, 4, IOMMU_READ), (BAR_AT, bar, 2, RW)):
            got = vfio_dma_do_map(iommu, app, at, vaddr, pages * PAGE_SIZE, prot)
            m.require(got == 0, "map-failed", f"MAP_DMA of the region at {at:#x} gives {got}")
        vfio_dma_do_unmap(iommu, 0, BAR_AT + 2 * PAGE_SIZE)


@case(
    "vfio/type1/zero-pages",
    scenario="Z5",
    thread="001",
    reach=("all is unmapped",),
    expect={
        "v5.10": LEAK,
        "v5.14": LEAK,
        "v5.19": LEAK,
        "v6.0": never,
        **releases("deb-5.10.262", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def zero_pages(m: Machine) -> None:
    """Memory that was never written is mapped for reading, 32 pages, and unmapped: what is left of the pins?

    5.10 leaves 63 pins of the zero page: it pins page by page, and each that does not continue a run twice. With
    batches it was 32, and 873aefb376bb ended it.
    """
    app = m.process("qemu")
    iommu = container(m, app)
    a = app.mmap_anon(32)

    @m.task
    def qemu() -> None:
        got = vfio_dma_do_map(iommu, app, ROM_AT, a, 32 * PAGE_SIZE, IOMMU_READ)
        m.require(got == 0, "map-failed", f"MAP_DMA gives {got}")
        left = vfio_dma_do_unmap(iommu, ROM_AT, 32 * PAGE_SIZE)
        m.require(left == 32 * PAGE_SIZE, "unmap-failed", f"UNMAP_DMA gives {left}")
        m.reached("all is unmapped")


@case(
    "vfio/type1/written",
    scenario="Z4",
    thread="001",
    asks=("pin-diverged",),
    reach=("the ROM was written",),
    expect={
        **releases("v5.10", "deb-6.1.192", always("pin-diverged")),
        **dict.fromkeys(("v5.14", "v5.19", "v6.0"), always("pin-diverged")),
        **releases("v6.6", "deb-7.3.4", never),
    },
    evidence=RECORDED,
)
def written(m: Machine) -> None:
    """... and if it is written after it was mapped: does the device see it?"""
    app = m.process("qemu")
    iommu = container(m, app)
    a = app.mmap_anon(1)

    @m.task
    def qemu() -> None:
        vfio_dma_do_map(iommu, app, ROM_AT, a, PAGE_SIZE, IOMMU_READ)
        app.write(a)
        m.reached("the ROM was written")
        for finding in pin_is_coherent(m, app.mm, a, iommu.iova_to_phys(ROM_AT)):
            m.require(False, finding.name, finding.message)


@case(
    "vfio/type1/unmapped",
    control="vfio/type1/unmapped/dma-first",
    scenario="S-PIN",
    reach=("the device still gets there",),
    expect={**releases("v5.10", "deb-7.3.4", never), **dict.fromkeys(("v5.14", "v5.19", "v6.0"), never)},
    evidence=RECORDED,
)
def unmapped(m: Machine) -> None:
    """RAM is mapped for a device, then the process unmaps it: is the page kept as long as the device has it?"""
    unmap_both(m, dma_first=False)


@case(
    "vfio/type1/unmapped/dma-first",
    scenario="S-PIN",
    expect=releases("v5.10", "deb-7.3.4", always("iova-lost", "not-accounted", "page-freed-under-dma")),
)
def dma_unmapped_first(m: Machine) -> None:
    """... and if it is unmapped for the device before? (Then it is not: the control.)"""
    unmap_both(m, dma_first=True)


def unmap_both(m: Machine, dma_first: bool) -> None:
    """Two pages are mapped for a device; the process unmaps them."""
    app = m.process("qemu")
    iommu = container(m, app)
    a = app.mmap_anon(2)

    @m.task
    def qemu() -> None:
        vfio_dma_do_map(iommu, app, 0, a, 2 * PAGE_SIZE, RW)
        frames = [pte_pfn(app.pte(a + n * PAGE_SIZE)) for n in range(2)]
        if dma_first:
            vfio_dma_do_unmap(iommu, 0, 2 * PAGE_SIZE)
        app.munmap(a, 2)
        m.require(app.locked() == 2, "not-accounted", f"{app.locked()} pages are accounted for")
        for n, frame in enumerate(frames):
            m.require(iommu.iova_to_phys(n * PAGE_SIZE) == frame, "iova-lost", "the device reaches another frame")
            m.require(not m.pages[frame].freed, "page-freed-under-dma", "the device reaches a page that is free")
        m.reached("the device still gets there")
        vfio_dma_do_unmap(iommu, 0, 2 * PAGE_SIZE)
        m.require(all(m.pages[frame].freed for frame in frames), "page-kept", "a page is kept by nobody")
        m.require(app.locked() == 0, "not-accounted", f"{app.locked()} pages are still accounted for")


@case(
    "vfio/type1/bar-off",
    scenario="S-PIN",
    asks=("iova-of-disabled-device",),
    expect={**releases("v5.10", "deb-7.3.4", always("iova-of-disabled-device"))},
    evidence=RECORDED,
)
def bar_off(m: Machine) -> None:
    """A BAR is mapped for another device, then its memory decode goes off: can that device still get there?"""
    app = m.process("qemu")
    iommu = container(m, app)
    dev = open_device(m)
    a = app.mmap(dev.file, 1)

    @m.task
    def qemu() -> None:
        got = vfio_dma_do_map(iommu, app, BAR_AT, a, PAGE_SIZE, RW)
        m.require(got == 0, "map-failed", f"MAP_DMA gives {got}")
        dev.write_command(memory=False)
        frame = iommu.iova_to_phys(BAR_AT)
        m.require(
            frame is None or dev.pdev.responds, "iova-of-disabled-device", "the IOMMU leads to a device that is off"
        )


@case(
    "vfio/type1/bar-disabled",
    control="vfio/type1/bar-disabled/enabled",
    scenario="S-PIN",
    reach=("MAP_DMA was refused",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def bar_disabled(m: Machine) -> None:
    """... and if decode is off before it is mapped? (The fault is SIGBUS, and MAP_DMA -EFAULT.)"""
    map_bar(m, memory=False)


@case(
    "vfio/type1/bar-disabled/enabled",
    scenario="S-PIN",
    expect=releases("v5.10", "deb-7.3.4", always("wrong-errno")),
)
def bar_enabled(m: Machine) -> None:
    """... and if it is on? (The control.)"""
    map_bar(m, memory=True)


def map_bar(m: Machine, memory: bool) -> None:
    """A BAR with its memory decode on or off is mapped for another device."""
    app = m.process("qemu")
    iommu = container(m, app)
    dev = open_device(m)
    a = app.mmap(dev.file, 1)

    @m.task
    def qemu() -> None:
        dev.write_command(memory=memory)
        got = vfio_dma_do_map(iommu, app, BAR_AT, a, PAGE_SIZE, RW)
        m.require(got == EFAULT, "wrong-errno", f"MAP_DMA gives {got}")
        m.reached("MAP_DMA was refused")


@case(
    "vfio/type1/limit",
    control="vfio/type1/limit/enough",
    scenario="S-PIN",
    reach=("MAP_DMA was refused",),
    expect={**releases("v5.10", "deb-7.3.4", never), **dict.fromkeys(("v5.14", "v5.19", "v6.0"), never)},
    evidence=SOURCE,
)
def limit(m: Machine) -> None:
    """RLIMIT_MEMLOCK ends in the middle of a range: is anything left of it?"""
    map_four(m, 3)


@case(
    "vfio/type1/limit/enough",
    scenario="S-PIN",
    expect=releases("v5.10", "deb-7.3.4", always("left-mapped", "not-accounted", "wrong-errno")),
)
def enough(m: Machine) -> None:
    """... and if it does not? (It is mapped: the control.)"""
    map_four(m, 4)


def map_four(m: Machine, pages: int) -> None:
    """Four pages are to be mapped for a device, with a limit of ``pages``."""
    app = m.process("qemu")
    iommu = container(m, app, limit=pages)
    a = app.mmap_anon(4)

    @m.task
    def qemu() -> None:
        got = vfio_dma_do_map(iommu, app, 0, a, 4 * PAGE_SIZE, RW)
        m.require(got == ENOMEM, "wrong-errno", f"MAP_DMA gives {got}")
        m.require(app.locked() == 0, "not-accounted", f"{app.locked()} pages are accounted for")
        m.require(len(iommu.held()) == 0, "left-mapped", "something is left in the IOMMU")
        m.reached("MAP_DMA was refused")
