"""Does UNMAP_DMA unmap what was mapped, when a VMM takes everything away?

A VMM that is reset, or hands its container over, unmaps all it has mapped. VFIO_DMA_UNMAP_FLAG_ALL (5.12) does that
without knowing what there is. Up to 6.17 the end of a range is its first byte behind, which is 0 at the very end of the
address space: a mapping there is found by nobody, and a request that ends there finds nothing. It succeeds all the
same, with 0 bytes, and the device goes on reaching the pages. Up to 5.19 only the process that has mapped may unmap.
"""

from mmlitmus.api import PAGE_SIZE, Machine, Process, always, case, folios_at_rest, never, releases
from mmlitmus.kernel.drivers.vfio.type1 import IOMMU_READ, IOMMU_WRITE, VfioIommu, vfio_dma_do_map
from mmlitmus.kernel.drivers.vfio.type1_unmap import VFIO_DMA_UNMAP_FLAG_ALL, vfio_iommu_type1_unmap_dma

SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")
RW = IOMMU_READ | IOMMU_WRITE
TOP = 1 << 64


def container(m: Machine, app: Process, *at: int) -> VfioIommu:
    """A page at each IOVA, of memory of the process's own."""
    iommu = VfioIommu(m)
    m.check(lambda: folios_at_rest(m, (iommu.held(),)))
    ram = app.mmap_anon(len(at))
    for n, iova in enumerate(at):
        got = vfio_dma_do_map(iommu, app, iova, ram + n * PAGE_SIZE, PAGE_SIZE, RW)
        m.require(got == 0, "map-failed", f"MAP_DMA at {iova:#x} gives {got}")
    return iommu


def unmapped(m: Machine, iommu: VfioIommu, told: int, *at: int) -> None:
    """Does the device reach nothing any more, and was the VMM told of all that went?"""
    m.reached("unmapped")
    for iova in at:
        m.require(iommu.iova_to_phys(iova) is None, "still-mapped", f"UNMAP_DMA gives {told}, and {iova:#x} is mapped")
    m.require(told == len(at) * PAGE_SIZE, "unmap-failed", f"UNMAP_DMA of {len(at)} pages gives {told}")


@case(
    "vfio/type1-unmap/all",
    asks=("map-failed", "still-mapped", "unmap-failed"),
    reach=("unmapped",),
    expect={
        **releases("v5.10", "deb-5.10.262", always("still-mapped", "unmap-failed")),
        "v5.14": never,
        **releases("v6.1", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def everything(m: Machine) -> None:
    """VFIO_DMA_UNMAP_FLAG_ALL of three mappings. 5.10 has no such flag: -EINVAL."""
    app = m.process("qemu")
    iommu = container(m, app, 0, 0x10000, 0xFE000000)

    @m.task
    def qemu() -> None:
        told = vfio_iommu_type1_unmap_dma(iommu, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL)
        unmapped(m, iommu, told, 0, 0x10000, 0xFE000000)


@case(
    "vfio/type1-unmap/top",
    asks=("map-failed", "still-mapped", "unmap-failed"),
    reach=("unmapped",),
    expect={
        **releases("v5.10", "deb-6.16.12", always("still-mapped", "unmap-failed")),
        **releases("v6.18", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def last_page(m: Machine) -> None:
    """The last page that an IOMMU of 64 bits has, by its own address."""
    app = m.process("qemu")
    iommu = container(m, app, TOP - PAGE_SIZE)

    @m.task
    def qemu() -> None:
        told = vfio_iommu_type1_unmap_dma(iommu, TOP - PAGE_SIZE, PAGE_SIZE)
        unmapped(m, iommu, told, TOP - PAGE_SIZE)


@case(
    "vfio/type1-unmap/up-to-the-top",
    asks=("map-failed", "still-mapped", "unmap-failed"),
    reach=("unmapped",),
    expect={
        **releases("v5.10", "deb-6.16.12", always("still-mapped", "unmap-failed")),
        **releases("v6.18", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def upper_half(m: Machine) -> None:
    """An ordinary mapping in the upper half of the addresses, by a request for all of that half.

    A VMM that cannot ask for 2^64 bytes at once asks for two halves.
    """
    app = m.process("qemu")
    iommu = container(m, app, TOP - (1 << 30))

    @m.task
    def qemu() -> None:
        told = vfio_iommu_type1_unmap_dma(iommu, TOP // 2, TOP // 2)
        unmapped(m, iommu, told, TOP - (1 << 30))


@case(
    "vfio/type1-unmap/another-process",
    asks=("map-failed", "still-mapped", "unmap-failed"),
    reach=("unmapped",),
    expect={
        **releases("v5.10", "deb-5.10.262", always("still-mapped", "unmap-failed")),
        "v5.14": always("still-mapped", "unmap-failed"),
        "v6.0": never,
        **releases("v6.1", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def another(m: Machine) -> None:
    """A helper process that was given the container unmaps what QEMU has mapped: 0 bytes and no error, up to 5.19."""
    app, helper = m.process("qemu"), m.process("helper")
    iommu = container(m, app, 0x10000)

    @m.task(process=helper)
    def unmap() -> None:
        told = vfio_iommu_type1_unmap_dma(iommu, 0x10000, PAGE_SIZE, process=helper)
        unmapped(m, iommu, told, 0x10000)
