"""Designs of the threads whole, with every choice as it was posted, where ``proposals`` changes one choice of one that
holds.

Sources are the mails. What a mail leaves open (a helper that is named and not shown) is taken in the sense that its own
text gives it.
"""

from __future__ import annotations

from mmlitmus.api import (
    File,
    MmStruct,
    VmArea,
    i_mmap_lock_read,
    i_mmap_unlock_read,
    io_remap_pfn_range,
    loop_point,
    mmap_write_lock,
    mmap_write_unlock,
    reached,
    report,
    zap_vma_ptes,
)
from mmlitmus.kernel.drivers.vfio.designs import VfioPci612, vfio_pci
from mmlitmus.kernel.drivers.vfio.proposals import RemapOnEnable


@vfio_pci.alternative(
    "remap-on-enable-as-posted",
    source="the loop of the 'ideally we wouldn't use the fault handler' mail, 22 May 2024, whole",
    releases="proposal",
)
class RemapOnEnableAsPosted(RemapOnEnable):
    """Again and again: under i_mmap_rwsem R every VMA that is not populated (page 0 says so, looked at without a lock)
    has its mm's struct held, and the last one is taken; under its mmap_lock W and i_mmap_rwsem R every VMA of that mm
    is remapped, populated or not; until all are populated. Memory is not looked at again. mmdrop() gives back one of
    however many mmgrab() took.
    """

    def remap_every_vma(self) -> None:
        """The loop.

        Source: none; a mail's.
        """
        while True:
            loop_point(self)
            cur_mm: MmStruct | None = None
            i_mmap_lock_read(self.mapping)
            grabbed = 0
            for vma in self.mapping.i_mmap:
                if self.page_present(vma, vma.vm_start):
                    continue
                cur_mm = vma.vm_mm
                grabbed += 1
            i_mmap_unlock_read(self.mapping)
            if cur_mm is None:
                return
            mmap_write_lock(cur_mm)
            i_mmap_lock_read(self.mapping)
            for vma in self.mapping.i_mmap:
                if vma.vm_mm is cur_mm:
                    self.vfio_remap_vma(vma)
            i_mmap_unlock_read(self.mapping)
            mmap_write_unlock(cur_mm)
            if grabbed > 1:
                report("invariant", "mm-struct-leak", f"{cur_mm.name} was grabbed {grabbed} times and is dropped once")

    def vfio_remap_vma(self, vma: VmArea) -> None:
        """Remap the whole VMA; what came of it nobody looks at.

        Source: none; named in the mail, and not shown.
        """
        reached("a VMA was filled on enable")
        size = vma.vm_end - vma.vm_start
        io_remap_pfn_range(vma, vma.vm_start, self.vma_to_pfn(vma), size, vma.vm_page_prot)


@vfio_pci.alternative(
    "remap-then-zap", source="'even with an immediate unmap after mmap()', July 2024", releases="proposal"
)
class RemapThenZap(VfioPci612):
    """->mmap remaps the whole VMA, whatever the state of memory, to have its type reserved; and takes the translations
    away again at once, so that faults may map.
    """

    def mmap(self, file: File, vma: VmArea) -> int:
        error = super().mmap(file, vma)
        if error:
            return error
        size = vma.vm_end - vma.vm_start
        error = io_remap_pfn_range(vma, vma.vm_start, self.vma_to_pfn(vma), size, vma.vm_page_prot)
        if not error:
            zap_vma_ptes(vma, vma.vm_start, size)
        return error
