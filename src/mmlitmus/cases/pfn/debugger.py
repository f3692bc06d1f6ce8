"""What does a debugger reach, or a reader of /proc/PID/mem, when the memory is a device's?

get_user_pages has no page for it. The driver's ->access copies instead; most that have one use generic_access_phys
(UIO, /dev/mem, PCI's resource files), which looks the frame up, maps it for itself and copies. Up to 5.11 it does not
look again: who revokes the mapping and switches the device off meanwhile does not keep it from the device. And a copy
that begins within a page goes on into the next frame, whatever the process has mapped there, up to at least 6.12.
"""

from mmlitmus.api import (
    PAGE_SIZE,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_IO,
    VM_PFNMAP,
    AddressSpace,
    File,
    Machine,
    VmArea,
    VmFault,
    VmOperations,
    always,
    case,
    generic_access_phys,
    never,
    releases,
    sometimes,
    unmap_mapping_range,
    vm_flags_set,
    vmf_insert_pfn,
)

SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")
EIO = -5


class Uio(VmOperations):
    """A device's registers, mapped page by page, with the usual ->access."""

    def __init__(self, m: Machine) -> None:
        self.pdev = m.pci_device("uio", 1)
        self.mapping = AddressSpace("uio:mapping")
        self.file = File("/dev/uio0", self, self.mapping)

    def mmap(self, file: File, vma: VmArea) -> int:
        vma.vm_ops = self
        vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP)
        return 0

    def fault(self, vmf: VmFault) -> int:
        return vmf_insert_pfn(vmf.vma, vmf.address, self.pdev.bars[0].pfn + vmf.pgoff)

    def access(self, vma: VmArea, address: int, length: int, write: bool) -> int:
        return generic_access_phys(vma, address, length, write)


@case(
    "pfn/debugger",
    asks=("access-after-disable", "read-although-revoked"),
    reach=("debugger got -5", "debugger got 4096", "uio is off"),
    expect={
        **releases("v5.10", "deb-5.10.262", sometimes("access-after-disable")),
        "v5.14": never,
        **releases("v6.1", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def revoked(m: Machine) -> None:
    """A debugger reads a register that was touched, beside a revocation."""
    uio = Uio(m)
    app = m.process("app")
    a = app.mmap(uio.file, 1)
    app.read(a)

    @m.task
    def debugger() -> None:
        m.reached(f"debugger got {app.ptrace_peek(a)}")

    @m.task
    def revoke() -> None:
        unmap_mapping_range(uio.mapping, 0, 0)
        uio.pdev.power("revoked", False)
        got = app.ptrace_peek(a)
        m.require(got == EIO, "read-although-revoked", f"the mapping is gone, and ptrace reads {got}")


@case(
    "pfn/debugger/next-frame",
    asks=("access-to-nowhere",),
    reach=("read",),
    expect={
        **releases("v5.10", "deb-6.18.15", always("access-to-nowhere")),
        **releases("v7.3", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def next_frame(m: Machine) -> None:
    """A page's length is read from the middle of a mapping of one page on: the frame behind it is read, too."""
    uio = Uio(m)
    app = m.process("app")
    a = app.mmap(uio.file, 1)
    app.read(a)

    @m.task
    def reader() -> None:
        got = app.proc_mem_read(a + PAGE_SIZE // 2)
        m.reached("read")
        m.require(got in (PAGE_SIZE, PAGE_SIZE // 2), "unread", f"/proc/PID/mem gives {got}")
