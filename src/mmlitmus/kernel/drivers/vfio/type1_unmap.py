"""VFIO's type1 IOMMU: what UNMAP_DMA takes away.

Whole mappings only: a range that would cut one in two is refused, one that has none in it unmaps 0 bytes. Sizes and
addresses are bytes. Source: drivers/vfio/vfio_iommu_type1.c, functions of the same name.
"""

from __future__ import annotations

from mmlitmus.api import EINVAL, PAGE_SIZE, Process, Seam, mutex_lock, mutex_unlock, not_modelled
from mmlitmus.kernel.drivers.vfio.type1 import U64_MAX, VfioIommu, dma_ranges, vfio_remove_dma

VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, VFIO_DMA_UNMAP_FLAG_ALL, VFIO_DMA_UNMAP_FLAG_VADDR = 1, 2, 4

unmap_flags = Seam("vfio_iommu_type1_unmap_dma", "which flags UNMAP_DMA has")
may_unmap = Seam("vfio_dma_do_unmap", "whose mappings UNMAP_DMA unmaps")


@unmap_flags.alternative(
    "dirty-bitmap", source="drivers/vfio/vfio_iommu_type1.c vfio_iommu_type1_unmap_dma, v5.10", releases="<= v5.11"
)
def knows_the_dirty_bitmap() -> int:
    """Only to be told what was written to."""
    return VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP


@unmap_flags.alternative(
    "all-and-vaddr",
    source="drivers/vfio/vfio_iommu_type1.c vfio_iommu_type1_unmap_dma (from 6.1)",
    releases=">= v5.12",
)
def knows_all_and_vaddr() -> int:
    """To unmap all there is, or to keep it with addresses that are no longer good."""
    return VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR


def vfio_iommu_type1_unmap_dma(
    iommu: VfioIommu, iova: int, size: int, flags: int = 0, process: Process | None = None
) -> int:
    """VFIO_IOMMU_UNMAP_DMA by ``process`` (default: by who has mapped): the bytes that were unmapped, or an errno.

    With VFIO_DMA_UNMAP_FLAG_ALL all there is goes, and ``iova`` and ``size`` are 0. Dirty tracking is never on here, so
    who asks for the bitmap is refused.
    """
    if flags & ~unmap_flags():
        return -EINVAL
    others = VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR
    if flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP and flags & others:
        return -EINVAL
    if flags & VFIO_DMA_UNMAP_FLAG_VADDR:
        not_modelled("VFIO_DMA_UNMAP_FLAG_VADDR")
    return vfio_dma_do_unmap(iommu, iova, size, flags, process)


def vfio_dma_do_unmap(iommu: VfioIommu, iova: int, size: int, flags: int = 0, process: Process | None = None) -> int:
    """What is inside of a range goes: the bytes that were unmapped; -EINVAL if the range cuts a mapping in two."""
    ranges = dma_ranges()
    everything = flags & VFIO_DMA_UNMAP_FLAG_ALL
    if iova & PAGE_SIZE - 1 or (everything and (iova or size)):
        return -EINVAL
    if not everything and (not size or size & PAGE_SIZE - 1):
        return -EINVAL
    if iova + size - 1 > U64_MAX:
        return -int(ranges.wrapped)
    if flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP:
        return -EINVAL
    size = U64_MAX if everything else size
    mutex_lock(iommu.lock)
    edges = () if everything else (iova, iova + size - 1)
    at_edges = [one for one in iommu.dma_list if any(ranges.overlap(one, edge, 1) for edge in edges)]
    if any(one.iova < iova or one.iova + one.size > iova + size for one in at_edges):
        mutex_unlock(iommu.lock)
        return -EINVAL
    inside = [one for one in iommu.dma_list if ranges.overlap(one, iova, size)]
    unmapped = 0
    for dma in sorted(inside, key=lambda one: one.iova):
        if process is not None and not may_unmap(dma.mm is process.mm):
            break
        unmapped += dma.size
        vfio_remove_dma(iommu, dma)
    mutex_unlock(iommu.lock)
    return unmapped


@may_unmap.alternative(
    "who-mapped", source="drivers/vfio/vfio_iommu_type1.c vfio_dma_do_unmap, v5.10, 5.10.262", releases="<= v5.19"
)
def only_who_has_mapped(own: bool) -> bool:
    """Only who has mapped it. At the first mapping of another's it ends, without an error."""
    return own


@may_unmap.alternative(
    "anybody", source="drivers/vfio/vfio_iommu_type1.c vfio_dma_do_unmap (from 6.1)", releases=">= v6.0"
)
def anybody_with_the_container(own: bool) -> bool:
    """Whoever has the container."""
    return True
