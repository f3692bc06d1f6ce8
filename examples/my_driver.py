"""Can user space reach the device once revoke() has switched it off?

The driver maps the device's registers page by page, when they are touched. revoke() takes them away for good. One
rw_semaphore holds the two together: a fault looks at ``alive`` and inserts under it for reading, revoke() clears
``alive``, unmaps and powers down under it for writing.
"""

from mmlitmus.api import (
    EINVAL,
    PAGE_SHIFT,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_PFNMAP,
    AddressSpace,
    File,
    Guarded,
    Machine,
    Model,
    RwSem,
    VmArea,
    VmFault,
    VmOperations,
    case,
    down_read,
    down_write,
    pgprot_noncached,
    stale_translations,
    unmap_mapping_range,
    up_read,
    up_write,
    vm_flags_set,
    vma_pages,
    vmf_insert_pfn,
)


class MyState(Model):
    """What the tasks share: each field says which lock is its own."""

    __slots__ = ("sem",)
    alive = Guarded("sem")

    def __init__(self, sem: RwSem) -> None:
        super().__init__("my:state", alive=True)
        self.sem = sem


class MyDriver(VmOperations):
    """The driver: its file's ->mmap, its mappings' ->fault, and revoke()."""

    def __init__(self, machine: Machine, pages: int) -> None:
        self.pdev = machine.pci_device("my", pages)
        self.sem = RwSem("my:sem", "my_sem")
        self.state = MyState(self.sem)
        self.mapping = AddressSpace("my:mapping")
        self.file = File("/dev/my", self, self.mapping)

    def mmap(self, file: File, vma: VmArea) -> int:
        if vma.vm_pgoff + vma_pages(vma) > self.pdev.bars[0].pages:
            return -EINVAL
        vma.vm_page_prot = pgprot_noncached(vma.vm_page_prot)
        vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP)
        vma.vm_ops = self
        return 0

    def fault(self, vmf: VmFault) -> int:
        down_read(self.sem)
        result = VM_FAULT_SIGBUS
        if self.state.alive:
            result = vmf_insert_pfn(vmf.vma, vmf.address, self.pdev.bars[0].pfn + vmf.pgoff)
        up_read(self.sem)
        return result

    def revoke(self) -> None:
        down_write(self.sem)
        self.state.alive = False
        unmap_mapping_range(self.mapping, 0, self.pdev.bars[0].pages << PAGE_SHIFT)
        self.pdev.power("revoked", False)
        up_write(self.sem)


@case(reach=("my is off", "touch got through", "touch got SIGBUS"))
def revoke_vs_touch(m: Machine) -> None:
    ask(m, MyDriver(m, pages=1))


def ask(m: Machine, dev: MyDriver) -> None:
    """One thread touches the mapping while another revokes it; at the end nothing may lead to the device."""
    app = m.process("app")
    address = app.mmap(dev.file, 1)
    m.check(lambda: stale_translations(m))

    @m.task
    def touch() -> None:
        m.saw(app.read(address))

    @m.task
    def revoke() -> None:
        dev.revoke()
