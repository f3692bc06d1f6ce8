"""vfio-pci: mmap of BARs, the memory-enable gate, and everything that closes and opens it.

This is what every design shares; how a design fills a BAR mapping and how it takes it away is in ``designs``. Source:
drivers/vfio/pci/vfio_pci.c (5.10), drivers/vfio/pci/vfio_pci_core.c (from 6.1), drivers/vfio/pci/vfio_pci_config.c,
drivers/vfio/pci/vfio_pci_rdwr.c, functions of the same name. Of the model's own:
VfioPciCoreDevice.up_write_memory_lock, VfioPciCoreDevice.memory_became_available, VfioPciCoreDevice.read_hardware,
open_device and share_dev_set.

The gate is ``memory_lock``: whoever looks at "is memory enabled?" and acts on it holds it for reading, whoever changes
it for writing. It nests inside mmap_lock, so nothing that can fault may run under it.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmlitmus.api import (
    EBUSY,
    EINVAL,
    EIO,
    ENOMEM,
    PAGE_SHIFT,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_FAULT_NOPAGE,
    VM_IO,
    VM_PFNMAP,
    VM_SHARED,
    AddressSpace,
    Atomic,
    Const,
    File,
    Guarded,
    Machine,
    Model,
    Mutex,
    Once,
    Process,
    RwSem,
    VmArea,
    VmFault,
    VmOperations,
    down_read,
    ioremap,
    iounmap,
    might_fault,
    mutex_lock,
    mutex_unlock,
    pci_iomap,
    pgprot_noncached,
    pte_batches,
    reached,
    running,
    stale_translations,
    up_read,
    up_write,
    vm_flags_set,
    vma_pages,
    vmf_insert_pfn,
)

D0, D3HOT = 0, 3

#: how far regions of the device's file are apart, in pages (VFIO_PCI_OFFSET_SHIFT); the first that is no BAR
REGION_PAGES = 1 << 40 - PAGE_SHIFT
VFIO_PCI_ROM_REGION_INDEX = 6

#: set for BAR mappings from 6.9 on; has no letters in smaps (prints as ??)
VM_ALLOW_ANY_UNCACHED = 1 << 39


class VdevState(Model):
    """The software state of the device that the gate consists of."""

    __slots__ = ("memory_lock",)
    vconfig_memory = Guarded("memory_lock")  # the virtual COMMAND.MEMORY bit, which decides
    current_state = Guarded("memory_lock")  # D0 or D3HOT
    pm_runtime_engaged = Guarded("memory_lock")
    design = Const()

    def __init__(self, name: str, memory_lock: RwSem) -> None:
        super().__init__(name, vconfig_memory=True, current_state=D0, pm_runtime_engaged=False)
        self.memory_lock = memory_lock


class BarState(Model):
    """What the kernel itself has of a BAR."""

    __slots__ = ()
    region_requested = Atomic()  # pci_request_selected_regions
    barmap = Once()  # the kernel's own mapping of the BAR

    def __init__(self, name: str) -> None:
        super().__init__(name, region_requested=False, barmap=None)


def vfio_pci_index_to_offset(index: int, page: int = 0) -> int:
    """Where a BAR's page is in the device's file, in pages, as mmap's ``offset``.

    Source: drivers/vfio/pci/vfio_pci_private.h VFIO_PCI_INDEX_TO_OFFSET (5.10); include/linux/vfio_pci_core.h
    VFIO_PCI_INDEX_TO_OFFSET (from 6.1).
    """
    return index * REGION_PAGES + page


class VfioPciCoreDevice(VmOperations):
    """A device bound to vfio-pci, and the operations of its mappings. ``pdev`` is the hardware."""

    #: does ->mmap turn vm_pgoff into the BAR's frame number (up to 6.9), or leave the file offset in it?
    pgoff_is_pfn = False
    batches = True
    bar_vm_flags = VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP | VM_ALLOW_ANY_UNCACHED

    def __init__(self, machine: Machine, pages: int, name: str, more: Mapping[int, int] | None = None) -> None:
        self.machine = machine
        self.name = name
        self.pdev = machine.pci_device(name, pages, more)
        self.memory_lock = RwSem(f"{name}:memory_lock", "memory_lock")
        self.state = VdevState(f"{name}:vdev", self.memory_lock)
        self.bars = {bar.index: BarState(f"{name}:vdev:BAR{bar.index}") for bar in self.pdev.bars}
        self.mapping = AddressSpace(f"{name}:mapping")
        self.file = File(f"anon_inode:[vfio-device {name}]", self, self.mapping, self)
        self.dev_set = DevSet([self])

    # -- the gate ------------------------------------------------------------------------------------------------
    def memory_enabled(self) -> bool:
        """May a mapping be filled? By ``register_access_enabled``, and not in low power. Holds memory_lock.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_mmap_fault (5.10),
        drivers/vfio/pci/vfio_pci_core.c vfio_pci_mmap_fault (6.1), vfio_pci_mmap_huge_fault (from 6.12).
        """
        enabled = self.register_access_enabled() and not self.state.pm_runtime_engaged
        reached("memory found enabled" if enabled else "memory found disabled")
        return enabled

    def register_access_enabled(self) -> bool:
        """__vfio_pci_memory_enabled(): by the virtual command bit and the power state. Holds memory_lock.

        read() and write() ask only this: they wake a device that is in low power.
        """
        state = self.state
        return bool(state.current_state < D3HOT and state.vconfig_memory)

    def down_write_memory_lock(self, *, zap: bool) -> None:
        """Close the gate for everybody else; with ``zap``, leave no translation of any BAR anywhere.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_zap_and_down_write_memory_lock (5.10),
        drivers/vfio/pci/vfio_pci_core.c vfio_pci_zap_and_down_write_memory_lock (from 6.1).
        """
        raise NotImplementedError

    def up_write_memory_lock(self) -> None:
        """Open the gate again (whether anything gets through depends on what was changed meanwhile)."""
        up_write(self.memory_lock)

    # Hot reset closes the gates of several devices, in two passes and without waiting for any lock.
    def hot_reset_zap(self) -> bool:
        """First pass: leave no translation of any BAR, and keep it so; False if a lock was held.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_try_zap_and_vma_lock_cb (5.10),
        drivers/vfio/pci/vfio_pci_core.c vfio_pci_dev_set_hot_reset (from 6.1).
        """
        raise NotImplementedError

    def hot_reset_lock(self) -> bool:
        """Second pass: own memory_lock; False if it was held.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_ioctl (5.10), drivers/vfio/pci/vfio_pci_core.c
        vfio_pci_dev_set_hot_reset (from 6.1).
        """
        raise NotImplementedError

    def hot_reset_unlock(self) -> None:
        """Give back whatever of it was taken.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_ioctl (5.10), drivers/vfio/pci/vfio_pci_core.c
        vfio_pci_dev_set_hot_reset (from 6.1).
        """
        raise NotImplementedError

    # -- mmap ----------------------------------------------------------------------------------------------------
    def mmap(self, file: File, vma: VmArea) -> int:
        """Check and set up; populates nothing. 0 or an errno. Succeeds while memory is disabled.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_mmap (5.10), drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_mmap
        (from 6.1).
        """
        index, page = divmod(vma.vm_pgoff, REGION_PAGES)
        if not vma.vm_flags & VM_SHARED:
            return -EINVAL
        bar = self.pdev.bar(index) if index < VFIO_PCI_ROM_REGION_INDEX else None
        if bar is None or page + vma_pages(vma) > bar.pages:
            return -EINVAL
        error = self.setup_barmap(index)
        if error:
            return error
        if self.pgoff_is_pfn:
            vma.vm_pgoff = bar.pfn + page
        vma.vm_private_data = self
        vma.vm_page_prot = self.bar_page_prot(vma.vm_page_prot)
        vm_flags_set(vma, self.bar_vm_flags)
        vma.vm_ops = self
        return 0

    def bar_page_prot(self, prot: int) -> int:
        """The protection of a BAR mapping.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_mmap (5.10), drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_mmap
        (from 6.1).
        """
        return pgprot_noncached(prot)

    def setup_barmap(self, index: int = 0) -> int:
        """The kernel maps a BAR itself, once, and reserves it UC-. 0 or an errno.

        It stays so until the device is closed. Two first mmaps at once: the second finds the region requested. 7.3 does
        it for every BAR when the device is opened, which is not modelled. Source: drivers/vfio/pci/vfio_pci.c
        vfio_pci_mmap (5.10), drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_mmap (6.1),
        drivers/vfio/pci/vfio_pci_rdwr.c vfio_pci_core_setup_barmap (6.12),
        drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_map_bars (7.3).
        """
        state = self.bars[index]
        if state.barmap is not None:
            return 0
        if state.cmpxchg("region_requested", False, True):
            return -EBUSY
        mapping = pci_iomap(self.machine, self.pdev, index)
        if mapping is None:
            state.region_requested = False
            return -ENOMEM
        state.barmap = mapping
        return 0

    def close_device(self) -> None:
        """The last reference to the device file is gone, so no VMA is left.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_disable (5.10), drivers/vfio/pci/vfio_pci_core.c
        vfio_pci_core_disable (from 6.1).
        """
        for state in self.bars.values():
            barmap = state.barmap
            if barmap is not None:
                iounmap(self.machine, barmap)
                state.barmap = None
                state.region_requested = False

    def vga_read(self, process: Process) -> int:
        """vfio_pci_vga_rw(): of legacy memory, mapped for each access, in the range that PAT does not track. 0."""
        mapping = ioremap(self.machine, 0xA0000, 0x20000)
        if mapping is None:
            return -ENOMEM
        might_fault(process.mm)
        iounmap(self.machine, mapping)
        return 0

    def vma_to_pfn(self, vma: VmArea) -> int:
        """The frame that the VMA's first page maps.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_mmap (5.10), drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_mmap
        (6.1), vma_to_pfn (from 6.12).
        """
        if self.pgoff_is_pfn:
            return int(vma.vm_pgoff)
        index, page = divmod(vma.vm_pgoff, REGION_PAGES)
        bar = self.pdev.bar(index)
        assert bar is not None, "checked when it was mapped"
        return int(bar.pfn + page)

    def fault(self, vmf: VmFault) -> int:
        raise NotImplementedError

    def insert_all(self, vma: VmArea) -> int:
        """Map every page, stopping in silence at the first that does not work. Always 0.

        Source: none; 'vfio/pci: Insert full vma on mmap'd MMIO fault' (d71a989cf5d9), 6.10 and 6.11 only.
        """
        for address, nr in pte_batches(vma.vm_start, vma.vm_end, self.machine.batch):
            if self.insert(vma, address, nr) != VM_FAULT_NOPAGE:
                break
        return 0

    def insert(self, vma: VmArea, address: int, nr: int = 1) -> int:
        """Map one page; VM_FAULT_NOPAGE when it is mapped afterwards. ``nr``: so many, of a batch.

        Source: drivers/vfio/pci/vfio_pci_core.c vfio_pci_mmap_page_fault (from 6.12); none (to 6.1).
        """
        pfn = self.vma_to_pfn(vma) + (address - vma.vm_start >> PAGE_SHIFT)
        return vmf_insert_pfn(vma, address, pfn, nr)

    # -- what changes the gate ----------------------------------------------------------------------------------
    def write_command(self, *, memory: bool) -> int:
        """vfio_basic_config_write(): of COMMAND, hardware first, then the virtual bit, both under memory_lock W."""
        self.down_write_memory_lock(zap=not memory)
        self.pdev.power("memory decode off", memory)
        self.state.vconfig_memory = memory
        self.up_write_memory_lock()
        if memory:
            self.memory_became_available()
        return 0

    def memory_became_available(self) -> None:
        """A hook for designs that do something when the gate has been opened. Nothing is: pages fault back in."""

    def write_pm_state(self, state: int) -> int:
        """vfio_pm_config_write(), vfio_pci_set_power_state(): D3hot revokes, D0 lets faults refill."""
        self.down_write_memory_lock(zap=state >= D3HOT)
        self.pdev.power("D3hot", state < D3HOT)
        self.state.current_state = state
        self.up_write_memory_lock()
        if state < D3HOT:
            self.memory_became_available()
        return 0

    def low_power_entry(self, *, engage: bool) -> int:
        """VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY / _EXIT: 0 or an errno.

        Source: drivers/vfio/pci/vfio_pci_core.c vfio_pci_runtime_pm_entry, vfio_pci_runtime_pm_exit (from 6.1); none
        (5.10).
        """
        self.down_write_memory_lock(zap=engage)
        if engage and self.state.pm_runtime_engaged:
            self.up_write_memory_lock()
            return -EINVAL
        self.state.pm_runtime_engaged = engage
        self.up_write_memory_lock()
        return 0

    def reset(self) -> int:
        """VFIO_DEVICE_RESET: revoke, reset, and leave the command bits as they were. Faults refill.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_ioctl (5.10), drivers/vfio/pci/vfio_pci_core.c vfio_pci_ioctl_reset
        (from 6.1).
        """
        self.down_write_memory_lock(zap=True)
        self.set_d0()
        self.pdev.power("in reset", False)
        self.pdev.power("in reset", True)
        self.up_write_memory_lock()
        self.memory_became_available()
        return 0

    def set_d0(self) -> None:
        """vfio_pci_set_power_state(): to D0, which every reset does first. Holds memory_lock W."""
        if self.state.current_state != D0:
            self.pdev.power("D3hot", True)
            self.state.current_state = D0

    def hot_reset(self) -> int:
        """VFIO_DEVICE_PCI_HOT_RESET of every device in the set: 0, or -EBUSY if one of them is in use.

        Source: drivers/vfio/pci/vfio_pci.c vfio_pci_ioctl (5.10), drivers/vfio/pci/vfio_pci_core.c
        vfio_pci_ioctl_pci_hot_reset (from 6.1).
        """
        return vfio_pci_dev_set_hot_reset(self.dev_set)

    # -- register access through read() and write() -------------------------------------------------------------
    def read_register(self, process: Process, page: int) -> int:
        """One register of BAR 0 by read(2): its value, or -EIO while memory is disabled. Nothing faults under the
        lock.

        Source: drivers/vfio/pci/vfio_pci_rdwr.c vfio_pci_bar_rw.
        """
        if page >= self.pdev.bars[0].pages:
            return -EINVAL
        down_read(self.memory_lock)
        if not self.register_access_enabled():
            up_read(self.memory_lock)
            return -EIO
        value = self.read_hardware(page)
        up_read(self.memory_lock)
        might_fault(process.mm)  # copy_to_user
        return value

    def read_hardware(self, page: int) -> int:
        """One event: a read by the CPU through the kernel's own mapping of the BAR."""
        self.machine.look_at_device(self.pdev)
        bar = self.pdev.bars[0]
        value: int = self.pdev.access(bar.pfn + page, 0, False)
        return value


class DevSet:
    """The devices that a bus reset takes down together, and the lock that serialises it."""

    def __init__(self, devices: list[VfioPciCoreDevice]) -> None:
        self.devices = devices
        self.lock = Mutex("dev_set:lock", "dev_set.lock")


def vfio_pci_dev_set_hot_reset(dev_set: DevSet) -> int:
    """Take every device's gate without waiting, revoke, reset all, give the gates back in reverse: 0 or -EBUSY.

    A device that is busy makes the whole reset fail; what was revoked until then stays revoked, and faults back in.
    Source: drivers/vfio/pci/vfio_pci.c vfio_pci_ioctl (5.10), drivers/vfio/pci/vfio_pci_core.c
    vfio_pci_dev_set_hot_reset (from 6.1).
    """
    mutex_lock(dev_set.lock)
    taken = all(vdev.hot_reset_zap() for vdev in dev_set.devices)
    taken = taken and all(vdev.hot_reset_lock() for vdev in dev_set.devices)
    if taken:
        for vdev in dev_set.devices:
            vdev.set_d0()
        for vdev in dev_set.devices:
            vdev.pdev.power("in reset", False)
        for vdev in dev_set.devices:
            vdev.pdev.power("in reset", True)
    for vdev in reversed(dev_set.devices):
        vdev.hot_reset_unlock()
    mutex_unlock(dev_set.lock)
    reached("hot reset went through" if taken else "hot reset was busy")
    return 0 if taken else -EBUSY


def open_device(
    machine: Machine, pages: int = 2, name: str = "dev", more: Mapping[int, int] | None = None
) -> VfioPciCoreDevice:
    """Bind a device with a BAR 0 of ``pages`` pages to vfio-pci, in the design that the running kernel has.

    ``more``: the pages of its other BARs, by number; ``vfio_pci_index_to_offset`` says where in the file they are.

    Memory decode is on. The machine is asked about revocation when it comes to rest.
    """
    design: type[VfioPciCoreDevice] = running().driver("vfio_pci")
    if not machine.devices:
        machine.check(lambda: stale_translations(machine))
    return design(machine, pages, name, more)


def share_dev_set(devices: list[VfioPciCoreDevice]) -> DevSet:
    """Put devices behind one bus, so that a hot reset takes them all."""
    dev_set = DevSet(devices)
    for vdev in devices:
        vdev.dev_set = dev_set
    return dev_set
