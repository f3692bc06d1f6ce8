"""cxl (the POWER CAPI driver): a fault handler whose backend can be another one tomorrow.

What of it matters on x86 is its shape: ->mmap sets flags only, and ->fault asks which physical area backs the context
*now*. Reserving one contiguous range for a VMA cannot cover that; the driver has to own a reservation for each backend.

Source: drivers/misc/cxl/context.c cxl_mmap_fault, cxl_context_iomap (to 6.12); none (7.3); removed in 2025. Of the
model's own: Cxl, open_cxl.
"""

from __future__ import annotations

from mmlitmus.api import (
    PAGE_SHIFT,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_PFNMAP,
    AddressSpace,
    Bar,
    File,
    Guarded,
    Machine,
    Model,
    Mutex,
    PciDevice,
    VmArea,
    VmFault,
    VmOperations,
    mutex_lock,
    mutex_unlock,
    remap_pfn_range,
    vm_flags_set,
    vmf_insert_pfn,
)

PENDING, STARTED = "pending", "started"


class Context(Model):
    """A context's state: has it been started, and which area of the adapter does it use?"""

    __slots__ = ("status_mutex",)
    status = Guarded("status_mutex")
    backend = Guarded("status_mutex")

    def __init__(self, name: str, status_mutex: Mutex) -> None:
        super().__init__(name, status=STARTED, backend=0)
        self.status_mutex = status_mutex


class Cxl(VmOperations):
    """An adapter with two areas of ``pages`` pages, either of which may back a context's mapping.

    ``remap``: does ->mmap map the area in use with remap_pfn_range, as a driver would that wants its frames tracked?
    """

    def __init__(self, machine: Machine, pages: int, remap: bool) -> None:
        self.machine = machine
        self.remap = remap
        self.areas = [PciDevice(f"area{n}", machine.free_pfn() + n * 0x800, pages) for n in range(2)]
        for area in self.areas:
            machine.add_device(area)
        self.status_mutex = Mutex("ctx:status_mutex", "status_mutex")
        self.ctx = Context("ctx", self.status_mutex)
        self.mapping = AddressSpace("cxl:mapping")
        self.file = File("/dev/cxl/afu0.0s", self, self.mapping, self)

    def bar(self, n: int) -> Bar:
        """An area's frames."""
        found: Bar = self.areas[n].bars[0]
        return found

    def mmap(self, file: File, vma: VmArea) -> int:
        """cxl_context_iomap(): flags only; 0 or an errno."""
        vma.vm_ops = self
        if self.remap:
            size = vma.vm_end - vma.vm_start
            return remap_pfn_range(vma, vma.vm_start, self.bar(0).pfn + vma.vm_pgoff, size, vma.vm_page_prot)
        vm_flags_set(vma, VM_IO | VM_PFNMAP)
        return 0

    def fault(self, vmf: VmFault) -> int:
        """cxl_mmap_fault(): under status_mutex, SIGBUS unless started, else one page of the area in use."""
        mutex_lock(self.status_mutex)
        if self.ctx.status != STARTED:
            mutex_unlock(self.status_mutex)
            return VM_FAULT_SIGBUS
        result = vmf_insert_pfn(vmf.vma, vmf.address, self.bar(self.ctx.backend).pfn + vmf.pgoff)
        mutex_unlock(self.status_mutex)
        return result

    def use(self, backend: int) -> None:
        """The context is given another area."""
        mutex_lock(self.status_mutex)
        self.ctx.backend = backend
        mutex_unlock(self.status_mutex)

    def bytes_of(self, n: int) -> tuple[int, int]:
        """An area's (first byte, length in bytes), for whoever reserves it."""
        return self.bar(n).pfn << PAGE_SHIFT, self.bar(n).pages << PAGE_SHIFT


def open_cxl(machine: Machine, pages: int = 1, *, remap: bool = False) -> Cxl:
    """An adapter with a started context on its first area."""
    return Cxl(machine, pages, remap)
