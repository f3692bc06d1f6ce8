"""The designs that were proposed, tried or feared, each as the smallest change to the design it was proposed for.

The 2024 thread on taking the mmap write lock for io_remap_pfn_range, and what its participants had on the table. None
was merged. Sources are the mails; the rules they run into are those of the kernels they would have changed.
"""

from __future__ import annotations

from mmlitmus.api import (
    NONE,
    PAGE_SHIFT,
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    File,
    MmStruct,
    Process,
    VmArea,
    VmFault,
    down_read,
    down_write,
    i_mmap_lock_read,
    i_mmap_unlock_read,
    io_remap_pfn_range,
    might_fault,
    mmap_read_unlock,
    mmap_write_downgrade,
    mmap_write_lock,
    mmap_write_unlock,
    mmget_not_zero,
    mmput,
    mutex_lock,
    mutex_unlock,
    pgprot_writecombine,
    pmd_offset,
    ptep_get,
    reached,
    track_pfn_remap,
    unmap_mapping_range,
    up_read,
    up_write,
    vma_lookup,
    vma_tree,
)
from mmlitmus.kernel.drivers.vfio.designs import VfioPci514, VfioPci610, VfioPci612, vfio_pci
from mmlitmus.kernel.drivers.vfio.pci import vfio_pci_index_to_offset


# -- take the write lock in the fault handler ---------------------------------------------------------------------
@vfio_pci.alternative(
    "write-lock-in-fault",
    source="'vfio/pci: take mmap write lock for io_remap_pfn_range', May 2023",
    releases="proposal",
)
class WriteLockInFault(VfioPci514):
    """Drop mmap_lock R in the handler, take it W, go on with the same VMA, and hand R back."""

    revalidate = False

    def fault(self, vmf: VmFault) -> int:
        vma, mm = vmf.vma, vmf.vma.vm_mm
        mmap_read_unlock(mm)
        mmap_write_lock(mm)
        if self.revalidate and vma_lookup(mm, vmf.address) is not vma:
            reached("the VMA was gone")
            mmap_write_downgrade(mm)
            return VM_FAULT_NOPAGE  # the access is run again, and finds what is there now
        result = super().fault(vmf)
        mmap_write_downgrade(mm)
        return result


@vfio_pci.alternative(
    "write-lock-in-fault-revalidate", source="the same with a second look-up; not proposed", releases="proposal"
)
class WriteLockInFaultRevalidate(WriteLockInFault):
    """... and look the VMA up again before going on with it."""

    revalidate = True


@vfio_pci.alternative(
    "insert-loop", source="the vmf_insert_pfn loop of May 2023, on the list of VMAs", releases="proposal"
)
class InsertLoop(VfioPci514):
    """5.14's list, but the handler populates with vmf_insert_pfn: no flag is written under mmap_lock R."""

    def populate(self, vma: VmArea) -> int:
        return self.insert_all(vma)


# -- populate when mapping ---------------------------------------------------------------------------------------
@vfio_pci.alternative("populate-in-mmap", source="a test branch discussed in May 2024", releases="proposal")
class PopulateInMmap(VfioPci612):
    """If memory is enabled, ->mmap fills the VMA right away, before it is linked anywhere; faults do the rest."""

    def mmap(self, file: File, vma: VmArea) -> int:
        error = super().mmap(file, vma)
        if error:
            return error
        down_read(self.memory_lock)
        if self.memory_enabled():
            error = self.insert_all(vma)
        up_read(self.memory_lock)
        return error


class RemapInMmap(VfioPci612):
    """->mmap maps the VMA with remap_pfn_range if memory is enabled; if not, a sub-class says what it does instead."""

    def mmap(self, file: File, vma: VmArea) -> int:
        error = super().mmap(file, vma)
        if error:
            return error
        down_read(self.memory_lock)
        if self.memory_enabled():
            size = vma.vm_end - vma.vm_start
            error = io_remap_pfn_range(vma, vma.vm_start, self.vma_to_pfn(vma), size, vma.vm_page_prot)
        else:
            error = self.mmap_disabled(vma)
        up_read(self.memory_lock)
        return error

    def mmap_disabled(self, vma: VmArea) -> int:
        """Memory is disabled; the flags are set already. 0 or an errno.

        Source: none; a proposal.
        """
        raise NotImplementedError


@vfio_pci.alternative("cond-remap", source="the test branch quoted in July 2024", releases="proposal")
class CondRemap(RemapInMmap):
    """... nothing: flags only. Faults look the type up, and nobody reserves it for the VMA."""

    def mmap_disabled(self, vma: VmArea) -> int:
        return 0


@vfio_pci.alternative("manual-track", source="'manually invoke track_pfn_remap() here', July 2024", releases="proposal")
class ManualTrack(RemapInMmap):
    """... reserve for the whole VMA, as remap_pfn_range would have, and let faults map."""

    def mmap_disabled(self, vma: VmArea) -> int:
        size = vma.vm_end - vma.vm_start
        error, _ = track_pfn_remap(vma, vma.vm_start, self.vma_to_pfn(vma), size, vma.vm_page_prot)
        return error


@vfio_pci.alternative(
    "write-combining", source="what a VFIO with WC BAR mappings would be, July 2024", releases="proposal"
)
class WriteCombining(VfioPci612):
    """BAR mappings ask for write-combining; the BAR itself is reserved UC- as ever."""

    def bar_page_prot(self, prot: int) -> int:
        return pgprot_writecombine(prot)


@vfio_pci.alternative(
    "populate-in-mmap-listed", source="the same on the list of VMAs; not proposed", releases="proposal"
)
class PopulateInMmapListed(VfioPci514):
    """The same on 5.14's list: ->mmap fills the VMA and lists it. The zapper finds it by the list, and waits for
    mmap_lock.
    """

    def mmap(self, file: File, vma: VmArea) -> int:
        error = super().mmap(file, vma)
        if error:
            return error
        mutex_lock(self.vma_lock)
        down_read(self.memory_lock)
        self.fault_locked(vma)
        up_read(self.memory_lock)
        mutex_unlock(self.vma_lock)
        return 0


@vfio_pci.alternative(
    "populate-after-link", source="'another fop to call after vma_link_file', May 2024", releases="proposal"
)
class PopulateAfterLink(VfioPci612):
    """The same from a hook that runs once the VMA is linked, the check and the filling under memory_lock R."""

    def mapped(self, vma: VmArea) -> None:
        """Fill the VMA if memory is enabled."""
        down_read(self.memory_lock)
        if self.memory_enabled():
            self.insert_all(vma)
        up_read(self.memory_lock)


@vfio_pci.alternative("populate-after-link-check-early", source="dossier S-VFIO-06", releases="proposal")
class PopulateAfterLinkCheckEarly(VfioPci612):
    """The same, but whether memory is enabled was looked up in ->mmap."""

    def mmap(self, file: File, vma: VmArea) -> int:
        error = super().mmap(file, vma)
        down_read(self.memory_lock)
        vma.vm_private_data = "fill" if self.memory_enabled() else "leave"
        up_read(self.memory_lock)
        return error

    def mapped(self, vma: VmArea) -> None:
        """Fill the VMA if memory was enabled."""
        if vma.vm_private_data == "fill":
            self.insert_all(vma)


# -- no fault at all: remap on enable ----------------------------------------------------------------------------
@vfio_pci.alternative(
    "remap-on-enable", source="the 'ideally we wouldn't use the fault handler' mail, May 2024", releases="proposal"
)
class RemapOnEnable(VfioPci610):
    """A fault is SIGBUS. Whoever makes memory available walks every VMA of the device and fills it.

    The attributes are the sub-choices; as they stand here the design holds. ``mm_ref``: does the walk become a user of
    each mm ("get"), or only keep its struct ("grab")? ``hold_memory_lock``: is the walk under memory_lock W?
    ``revalidate``: is memory looked at again under memory_lock before a VMA is filled? ``alloc_under_i_mmap``: is
    filling done under i_mmap_rwsem R? ``populated``: how is it told what to fill: "all" (page by page), "page0",
    "none" (fill all without looking)?
    """

    mm_ref = "get"
    hold_memory_lock = False
    revalidate = True
    alloc_under_i_mmap = False
    populated = "all"

    def fault(self, vmf: VmFault) -> int:
        return VM_FAULT_SIGBUS

    def mapped(self, vma: VmArea) -> None:
        """A mapping made while memory is enabled is filled once it is linked."""
        down_read(self.memory_lock)
        if self.memory_enabled():
            self.insert_all(vma)
        up_read(self.memory_lock)

    def up_write_memory_lock(self) -> None:
        """With ``hold_memory_lock`` the walk comes before the lock is given up."""
        if self.hold_memory_lock and self.memory_enabled():
            self.remap_every_vma()
        up_write(self.memory_lock)

    def memory_became_available(self) -> None:
        """Fill every VMA of every mm."""
        if not self.hold_memory_lock:
            self.remap_every_vma()

    def remap_every_vma(self) -> None:
        """The walk: pick an mm with something to fill, take its mmap_lock W, fill all its VMAs; until there is none."""
        done: list[MmStruct] = []
        while True:
            mm = self.pick_mm(done)
            if mm is None:
                return
            done.append(mm)
            mmap_write_lock(mm)
            gate = self.revalidate and not self.hold_memory_lock
            if gate:
                down_read(self.memory_lock)
            if not gate or self.memory_enabled():
                self.fill_mm(mm)
            if gate:
                up_read(self.memory_lock)
            mmap_write_unlock(mm)
            if self.mm_ref == "get":
                mmput(mm)

    def pick_mm(self, done: list[MmStruct]) -> MmStruct | None:
        """An mm that maps the device and has not been done, referenced; None when there is none."""
        picked = None
        i_mmap_lock_read(self.mapping)
        for vma in self.mapping.i_mmap:
            mm = vma.vm_mm
            if mm not in done and (self.mm_ref == "grab" or mmget_not_zero(mm)):
                picked = mm
                break
        i_mmap_unlock_read(self.mapping)
        return picked

    def fill_mm(self, mm: MmStruct) -> None:
        """Fill the device's VMAs of one mm. Holds its mmap_lock W."""
        if self.alloc_under_i_mmap:
            i_mmap_lock_read(self.mapping)
            for vma in self.mapping.i_mmap:
                if vma.vm_mm is mm:
                    self.fill_vma(vma)
            i_mmap_unlock_read(self.mapping)
            return
        for vma in vma_tree(mm):
            if vma.vm_file is self.file:
                self.fill_vma(vma)

    def fill_vma(self, vma: VmArea) -> None:
        """Fill what is not filled, as far as ``populated`` can tell."""
        reached("a VMA was filled on enable")
        if self.populated == "all":
            self.insert_all(vma)
        elif self.populated == "none" or not self.page_present(vma, vma.vm_start):
            size = vma.vm_end - vma.vm_start
            io_remap_pfn_range(vma, vma.vm_start, self.vma_to_pfn(vma), size, vma.vm_page_prot)

    def page_present(self, vma: VmArea, address: int) -> bool:
        """A lockless look at one page's entry."""
        table = pmd_offset(vma.vm_mm, address)
        return table.entry != NONE and ptep_get(table, address) != NONE


@vfio_pci.alternative("remap-on-enable-mmgrab", source="the loop as posted, this choice of it", releases="proposal")
class RemapOnEnableMmgrab(RemapOnEnable):
    """mmgrab() where it takes mmget(): the mm may be half torn down when it is filled."""

    mm_ref = "grab"


@vfio_pci.alternative(
    "remap-on-enable-mmgrab-remap", source="the loop as posted, these two choices of it", releases="proposal"
)
class RemapOnEnableMmgrabRemap(RemapOnEnableMmgrab):
    """... filled with remap_pfn_range, which reserves: for an mm whose teardown may be past giving back."""

    populated = "page0"


@vfio_pci.alternative("remap-on-enable-hold-memory-lock", source="dossier S-VFIO-11", releases="proposal")
class RemapOnEnableHoldMemoryLock(RemapOnEnable):
    """The walk under memory_lock W: mmap_lock inside memory_lock, against every fault and mmap."""

    hold_memory_lock = True


@vfio_pci.alternative("remap-on-enable-no-revalidate", source="dossier S-VFIO-08", releases="proposal")
class RemapOnEnableNoRevalidate(RemapOnEnable):
    """Nobody looks again whether memory is still enabled when a VMA is filled."""

    revalidate = False


@vfio_pci.alternative(
    "remap-on-enable-under-i_mmap", source="the loop as posted, this choice of it", releases="proposal"
)
class RemapOnEnableUnderImmap(RemapOnEnable):
    """Page tables are allocated under i_mmap_rwsem, which reclaim takes."""

    alloc_under_i_mmap = True


@vfio_pci.alternative("remap-on-enable-page0", source="vma_populated() as posted, alone", releases="proposal")
class RemapOnEnablePage0(RemapOnEnable):
    """A VMA counts as filled when its first page is present."""

    populated = "page0"


@vfio_pci.alternative("remap-on-enable-no-check", source="dossier S-VFIO-10", releases="proposal")
class RemapOnEnableNoCheck(RemapOnEnable):
    """Every VMA is filled, filled already or not."""

    populated = "none"


# -- copy_to_user under memory_lock -------------------------------------------------------------------------------
@vfio_pci.alternative("copy-user-under-memory-lock", source="dossier S-VFIO-13", releases="proposal")
class CopyUserUnderMemoryLock(VfioPci612):
    """read() of a register copies to user space before it gives memory_lock back."""

    def read_register(self, process: Process, page: int) -> int:
        down_read(self.memory_lock)
        value = self.read_hardware(page) if self.memory_enabled() else -5
        might_fault(process.mm)
        up_read(self.memory_lock)
        return value


# -- hot reset that waits ----------------------------------------------------------------------------------------
@vfio_pci.alternative("blocking-hot-reset", source="dossier S-VFIO-12", releases="proposal")
class BlockingHotReset(VfioPci612):
    """Hot reset waits for each device's memory_lock."""

    def hot_reset_zap(self) -> bool:
        down_write(self.memory_lock)
        self.zap_bars()
        return True


@vfio_pci.alternative("blocking-hot-reset-vma-list", source="dossier S-VFIO-12", releases="proposal")
class BlockingHotResetVmaList(VfioPci514):
    """Hot reset on the list of VMAs, waiting for every lock."""

    def hot_reset_zap(self) -> bool:
        return self.zap_and_vma_lock(try_only=False)

    def hot_reset_lock(self) -> bool:
        down_write(self.memory_lock)
        mutex_unlock(self.vma_lock)
        return True


# -- several BARs -------------------------------------------------------------------------------------------------
@vfio_pci.alternative("zap-first-bar", source="negative control", releases="never")
class ZapFirstBar(VfioPci612):
    """The zap ends where BAR 0 does."""

    def zap_bars(self) -> None:
        """Every translation of BAR 0."""
        unmap_mapping_range(self.mapping, 0, vfio_pci_index_to_offset(1) << PAGE_SHIFT)
