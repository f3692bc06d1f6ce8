"""Every design of vfio-pci's BAR mappings: the merged ones by release, and the proposals.

One class a design. The merged ones: 5.8 (first), 5.14 (concurrent faults), 6.10 (vmf_insert_pfn and
unmap_mapping_range), 6.12, 6.13, 6.15 (huge faults). The proposals are in ``proposals``.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmlitmus.api import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_ORDER,
    PUD_ORDER,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_FAULT_FALLBACK,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_PFNMAP,
    GuardedList,
    Machine,
    MmStruct,
    Mutex,
    Seam,
    VmArea,
    VmFault,
    down_read,
    down_write,
    down_write_trylock,
    io_remap_pfn_range,
    may_fail,
    might_alloc,
    mmap_read_lock,
    mmap_read_trylock,
    mmap_read_unlock,
    mmget_not_zero,
    mmput,
    mutex_lock,
    mutex_trylock,
    mutex_unlock,
    pmd_offset,
    pud_offset,
    reached,
    unmap_mapping_range,
    up_read,
    up_write,
    vmf_insert_pfn_pmd,
    vmf_insert_pfn_pud,
    zap_vma_ptes,
)
from mmlitmus.kernel.drivers.vfio.pci import (
    VFIO_PCI_ROM_REGION_INDEX,
    VfioPciCoreDevice,
    vfio_pci_index_to_offset,
)

vfio_pci = Seam("vfio_pci", "how vfio-pci fills a BAR mapping and how it takes it away")


@vfio_pci.alternative(
    "v5.8", source="drivers/vfio/pci/vfio_pci.c vfio_pci_mmap_fault, v5.8; abafbc551fdd", releases="v5.8 - v5.13"
)
class VfioPci58(VfioPciCoreDevice):
    """The fault handler maps the whole VMA with remap_pfn_range; a list of used VMAs says what to zap.

    ``vma_list`` under ``vma_lock``. The handler puts the VMA on the list and drops the lock *before* it populates.
    """

    pgoff_is_pfn = True
    bar_vm_flags = VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP

    def __init__(self, machine: Machine, pages: int, name: str, more: Mapping[int, int] | None = None) -> None:
        super().__init__(machine, pages, name, more)
        self.vma_lock = Mutex(f"{name}:vma_lock", "vma_lock")
        self.vma_list = GuardedList(f"{name}:vma_list", self.vma_lock)

    def open(self, vma: VmArea) -> None:
        """Empty the copy, so that it faults and gets listed. True only if its PTEs exist by now.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_mmap_open (5.10), drivers/vfio/pci/vfio_pci_core.c
        vfio_pci_mmap_open (6.1); none (from 6.12).
        """
        zap_vma_ptes(vma, vma.vm_start, vma.vm_end - vma.vm_start)

    def close(self, vma: VmArea) -> None:
        """Off the list.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_mmap_close (5.10), drivers/vfio/pci/vfio_pci_core.c
        vfio_pci_mmap_close (6.1); none (from 6.12).
        """
        mutex_lock(self.vma_lock)
        if vma in self.vma_list:
            self.vma_list.remove(vma)
        mutex_unlock(self.vma_lock)

    def fault(self, vmf: VmFault) -> int:
        vma = vmf.vma
        vmf.nr = 1
        mutex_lock(self.vma_lock)
        down_read(self.memory_lock)
        if not self.memory_enabled():
            mutex_unlock(self.vma_lock)
            up_read(self.memory_lock)
            return VM_FAULT_SIGBUS
        might_alloc(self.machine)
        if may_fail("vma_list entry", self.machine.failures):
            mutex_unlock(self.vma_lock)
            up_read(self.memory_lock)
            return VM_FAULT_OOM
        self.vma_list.append(vma)
        mutex_unlock(self.vma_lock)
        result = VM_FAULT_NOPAGE
        if self.populate(vma):
            result = VM_FAULT_SIGBUS
        up_read(self.memory_lock)
        return result

    def populate(self, vma: VmArea) -> int:
        """Map all of the VMA: 0 or an errno."""
        size = vma.vm_end - vma.vm_start
        return io_remap_pfn_range(vma, vma.vm_start, self.vma_to_pfn(vma), size, vma.vm_page_prot)

    # -- zap -----------------------------------------------------------------------------------------------------
    def zap_and_vma_lock(self, *, try_only: bool) -> bool:
        """Zap every listed VMA, mm by mm; returns holding vma_lock with the list empty.

        False (holding nothing) only when ``try_only`` and a lock was held. VMAs of a dying mm are dropped from the list
        without a zap: the mm's own teardown has emptied them or will.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_zap_and_vma_lock (5.10), drivers/vfio/pci/vfio_pci_core.c
        vfio_pci_zap_and_vma_lock (6.1); none (from 6.12).
        """
        while True:
            if not self._vma_lock(try_only):
                return False
            mm = self._first_live_mm()
            if mm is None:
                return True
            mutex_unlock(self.vma_lock)
            if try_only and not mmap_read_trylock(mm):
                mmput(mm)
                return False
            if not try_only:
                mmap_read_lock(mm)
            if not self._vma_lock(try_only):
                mmap_read_unlock(mm)
                mmput(mm)
                return False
            for vma in self.vma_list:
                if vma.vm_mm is mm:
                    self.vma_list.remove(vma)
                    zap_vma_ptes(vma, vma.vm_start, vma.vm_end - vma.vm_start)
            mutex_unlock(self.vma_lock)
            mmap_read_unlock(mm)
            mmput(mm)

    def _vma_lock(self, try_only: bool) -> bool:
        if try_only:
            return mutex_trylock(self.vma_lock)
        mutex_lock(self.vma_lock)
        return True

    def _first_live_mm(self) -> MmStruct | None:
        for vma in self.vma_list:
            mm: MmStruct = vma.vm_mm
            if mmget_not_zero(mm):
                return mm
            self.vma_list.remove(vma)
        return None

    def down_write_memory_lock(self, *, zap: bool) -> None:
        if not zap:
            down_write(self.memory_lock)
            return
        self.zap_and_vma_lock(try_only=False)
        down_write(self.memory_lock)
        mutex_unlock(self.vma_lock)

    def hot_reset_zap(self) -> bool:
        return self.zap_and_vma_lock(try_only=True)

    def hot_reset_lock(self) -> bool:
        if not down_write_trylock(self.memory_lock):
            return False
        mutex_unlock(self.vma_lock)
        return True

    def hot_reset_unlock(self) -> None:
        if self.memory_lock.held():
            up_write(self.memory_lock)
        elif self.vma_lock.held():
            mutex_unlock(self.vma_lock)


@vfio_pci.alternative(
    "v5.14",
    source="6a45ece4c9af 'vfio/pci: Handle concurrent vma faults'; drivers/vfio/pci/vfio_pci.c vfio_pci_mmap_fault, "
    "__vfio_pci_add_vma (5.10); drivers/vfio/pci/vfio_pci_core.c vfio_pci_mmap_fault, __vfio_pci_add_vma (6.1)",
    releases="v5.14 - v6.8, deb-5.10.262, deb-6.1.192",
)
class VfioPci514(VfioPci58):
    """5.8 with vma_lock held across the population: a VMA is on the list iff it is populated, or so it is meant."""

    def fault(self, vmf: VmFault) -> int:
        vma = vmf.vma
        vmf.nr = 1
        mutex_lock(self.vma_lock)
        down_read(self.memory_lock)
        result = self.fault_locked(vma)
        up_read(self.memory_lock)
        mutex_unlock(self.vma_lock)
        return result

    def fault_locked(self, vma: VmArea) -> int:
        """The handler's body, under vma_lock and memory_lock R."""
        if not self.memory_enabled():
            return VM_FAULT_SIGBUS
        if vma in self.vma_list:
            reached("the VMA was on the list already")
            return VM_FAULT_NOPAGE
        if self.populate(vma):
            zap_vma_ptes(vma, vma.vm_start, vma.vm_end - vma.vm_start)
            return VM_FAULT_SIGBUS
        might_alloc(self.machine)
        if may_fail("vma_list entry", self.machine.failures):
            zap_vma_ptes(vma, vma.vm_start, vma.vm_end - vma.vm_start)
            return VM_FAULT_OOM
        self.vma_list.insert(0, vma)
        return VM_FAULT_NOPAGE


@vfio_pci.alternative(
    "v6.9",
    source="drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_mmap, v6.9; 5.14's handler with VM_ALLOW_ANY_UNCACHED",
    releases="v6.9",
)
class VfioPci69(VfioPci514):
    """5.14, and BAR mappings carry VM_ALLOW_ANY_UNCACHED."""

    bar_vm_flags = VfioPciCoreDevice.bar_vm_flags


@vfio_pci.alternative(
    "v6.10",
    source="aac6db75a9fc 'vfio/pci: Use unmap_mapping_range()', d71a989cf5d9 'Insert full vma on mmap'd MMIO fault'; "
    "drivers/vfio/pci/vfio_pci_core.c vfio_pci_zap_bars, v6.10",
    releases="v6.10 - v6.11",
)
class VfioPci610(VfioPciCoreDevice):
    """No list: the device's own address_space says who maps it. The handler inserts page by page, and changes no
    flags.
    """

    def fault(self, vmf: VmFault) -> int:
        down_read(self.memory_lock)
        result = self.fault_locked(vmf)
        up_read(self.memory_lock)
        return result

    def fault_locked(self, vmf: VmFault) -> int:
        """The handler's body, under memory_lock R: the faulting page, then as many of the others as work."""
        vma = vmf.vma
        if not self.memory_enabled():
            return VM_FAULT_SIGBUS
        vmf.nr = 1
        result = self.insert(vma, vmf.address)
        if result == VM_FAULT_NOPAGE:
            self.insert_all(vma)
        return result

    # -- zap -----------------------------------------------------------------------------------------------------
    def zap_bars(self) -> None:
        """Every translation of every BAR, wherever it is mapped. Holds memory_lock W.

        Source: drivers/vfio/pci/vfio_pci_core.c vfio_pci_zap_bars (from 6.12); none (to 6.1).
        """
        unmap_mapping_range(self.mapping, 0, vfio_pci_index_to_offset(VFIO_PCI_ROM_REGION_INDEX) << PAGE_SHIFT)

    def down_write_memory_lock(self, *, zap: bool) -> None:
        down_write(self.memory_lock)
        if zap:
            self.zap_bars()

    def hot_reset_zap(self) -> bool:
        if not down_write_trylock(self.memory_lock):
            return False
        self.zap_bars()
        return True

    def hot_reset_lock(self) -> bool:
        return True  # the first pass has it already

    def hot_reset_unlock(self) -> None:
        if self.memory_lock.held():
            up_write(self.memory_lock)


@vfio_pci.alternative(
    "v6.15",
    source="c1d9dac0db16 'vfio/pci: Align huge faults to order'; "
    "drivers/vfio/pci/vfio_pci_core.c vfio_pci_mmap_huge_fault, 6.12.117, 7.3.4",
    releases=">= v6.15, deb-6.12.117",
)
class VfioPci612(VfioPci610):
    """6.10 with huge_fault: a leaf for a fault anywhere in it, if VMA and frame fit. Whether a block has a leaf or a
    table is so no matter of who was first.
    """

    def fault_locked(self, vmf: VmFault) -> int:
        """The handler's body, under memory_lock R: the faulting page only."""
        if not self.memory_enabled():
            return VM_FAULT_SIGBUS
        return self.insert(vmf.vma, vmf.address, vmf.nr)

    def fits(self, vmf: VmFault, order: int, pfn: int) -> bool:
        """May the fault be served by a leaf of ``order``, whose first frame is ``pfn``? Asked before any lock is taken.

        Source: drivers/vfio/pci/vfio_pci_core.c vfio_pci_mmap_huge_fault (from 6.12); none (to 6.1).
        """
        vma, size = vmf.vma, PAGE_SIZE << order
        start = vmf.address & -size
        return not pfn & (1 << order) - 1 and vma.vm_start <= start and start + size <= vma.vm_end

    def huge_fault(self, vmf: VmFault, order: int) -> int:
        """One leaf under memory_lock R; FALLBACK where none fits.

        Source: drivers/vfio/pci/vfio_pci_core.c vfio_pci_mmap_huge_fault (from 6.12); none (to 6.1).
        """
        vma = vmf.vma
        start = vmf.address & ~((PAGE_SIZE << order) - 1)
        pfn = self.vma_to_pfn(vma) + (start - vma.vm_start >> PAGE_SHIFT)
        if order not in (PMD_ORDER, PUD_ORDER) or not self.fits(vmf, order, pfn):
            return VM_FAULT_FALLBACK
        down_read(self.memory_lock)
        result = VM_FAULT_SIGBUS
        if self.memory_enabled():
            pud = pud_offset(vma.vm_mm, start)
            if order == PMD_ORDER:
                table = pmd_offset(vma.vm_mm, start, vmf.nr)
                result = vmf_insert_pfn_pmd(vma, table, start, pfn)
                vmf.nr, vmf.faults = min(vmf.nr, table.pages_from(vmf.address)), table.leaves
            elif pud is not None:
                result = vmf_insert_pfn_pud(vma, pud, start, pfn)
                vmf.faults = 1
            reached("huge leaf inserted")
        up_read(self.memory_lock)
        return result


@vfio_pci.alternative(
    "v6.12",
    source="f9e54c3a2f5b 'vfio/pci: implement huge_fault support'; drivers/vfio/pci/vfio_pci_core.c "
    "vfio_pci_mmap_huge_fault, v6.12",
    releases="v6.12",
)
class VfioPci612Released(VfioPci612):
    """A leaf only for a fault at its first byte, if the VMA has room for it, whatever the frame."""

    def fits(self, vmf: VmFault, order: int, pfn: int) -> bool:
        return not vmf.address & (PAGE_SIZE << order) - 1 and vmf.address + (PAGE_SIZE << order) <= vmf.vma.vm_end


@vfio_pci.alternative(
    "v6.13",
    source="09dfc8a5f2ce 'vfio/pci: Fallback huge faults for unaligned pfn', v6.13",
    releases="v6.13 - v6.14, stable of early 2025",
)
class VfioPci613(VfioPci612Released):
    """... and if the frame is aligned as the leaf is."""

    def fits(self, vmf: VmFault, order: int, pfn: int) -> bool:
        return super().fits(vmf, order, pfn) and not pfn & (1 << order) - 1
