"""What does vmf_insert_pfn say to an entry that is there already?

Nothing: VM_FAULT_NOPAGE, as if it had made the entry itself, and whatever is there stays there, be it another frame.
That is what makes a fault handler that inserts safe against another fault of the same page; and it means that a driver
cannot exchange a frame without zapping the old one.
"""

from mmlitmus.api import (
    DRIVER,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    AddressSpace,
    File,
    Finding,
    Machine,
    Process,
    VmArea,
    VmFault,
    VmOperations,
    always,
    case,
    current,
    never,
    new_folio,
    pte_pfn,
    releases,
    sometimes,
    unmap_mapping_range,
    vm_flags_set,
    vm_insert_page,
    vmf_insert_pfn,
)


class Undecided(VmOperations):
    """A driver that maps page 0 of its BAR for one thread, and page 1 for any other, at the same address."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.bar = machine.pci_device("dev", pages=2).bars[0]
        self.file = File("/dev/undecided", self, AddressSpace("undecided:mapping"))

    def mmap(self, file: File, vma: VmArea) -> int:
        vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP)
        vma.vm_ops = self
        return 0

    def fault(self, vmf: VmFault) -> int:
        result = vmf_insert_pfn(vmf.vma, vmf.address, self.bar.pfn + (current().name != "one"))
        self.machine.require(result == VM_FAULT_NOPAGE, "wrong-result", f"vmf_insert_pfn gives {result:#x}")
        return result


class InsertTwice(Undecided):
    """A driver whose handler inserts page 0, then page 1 over it."""

    def fault(self, vmf: VmFault) -> int:
        for pfn in (self.bar.pfn, self.bar.pfn + 1):
            result = vmf_insert_pfn(vmf.vma, vmf.address, pfn)
            self.machine.require(result == VM_FAULT_NOPAGE, "wrong-result", f"vmf_insert_pfn gives {result:#x}")
        return result


class ZapsBetween(InsertTwice):
    """... and takes the first away before it inserts the second."""

    def fault(self, vmf: VmFault) -> int:
        vmf_insert_pfn(vmf.vma, vmf.address, self.bar.pfn)
        unmap_mapping_range(self.file.f_mapping, 0, 0)
        return vmf_insert_pfn(vmf.vma, vmf.address, self.bar.pfn + 1)


class OfAPage(Undecided):
    """A driver that has a page with a count, which vm_insert_page refuses to put where something is."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.folio = new_folio(machine, DRIVER, "the driver")

    def mmap(self, file: File, vma: VmArea) -> int:
        vm_flags_set(vma, VM_MIXEDMAP)
        vma.vm_ops = self
        return 0

    def fault(self, vmf: VmFault) -> int:
        error = vm_insert_page(vmf.vma, vmf.address, self.folio)
        self.machine.require(not error, "wrong-result", f"vm_insert_page gives {error}")
        return VM_FAULT_SIGBUS if error else VM_FAULT_NOPAGE


@case(
    "pfn/insert-over-populated",
    control="pfn/insert-over-populated/zapped",
    scenario="S-PFN-01",
    thread="000",
    claims=("C000-35",),
    reach=("vmf_insert_pfn found the PTE populated", "touch got through"),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def insert_over_populated(m: Machine) -> None:
    """What does vmf_insert_pfn say to an entry that is there already, of another frame?"""
    touch_once(m, InsertTwice(m))


@case(
    "pfn/insert-over-populated/zapped",
    scenario="S-PFN-01",
    thread="000",
    reach=("touch got through",),
    expect=releases("v5.10", "deb-7.3.4", always("replaced")),
)
def zapped_in_between(m: Machine) -> None:
    """... and if the driver has taken that away? (Then the other is there: the control.)"""
    touch_once(m, ZapsBetween(m))


def touch_once(m: Machine, dev: Undecided) -> None:
    """One thread reads one page: which frame is it?"""
    app = m.process("app")
    a = app.mmap(dev.file, 1)

    @m.task
    def touch() -> None:
        m.saw(app.read(a))
        m.require(pte_pfn(app.pte(a)) == dev.bar.pfn, "replaced", "the second frame has taken the place of the first")


@case(
    "pfn/insert-over-populated/concurrent",
    control="pfn/insert-over-populated/page",
    scenario="S-PFN-01",
    thread="000",
    claims=("C000-15", "C004-06"),
    reach=("vmf_insert_pfn found the PTE populated", "the first frame stayed", "the second frame stayed"),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def concurrent_inserts(m: Machine) -> None:
    """... and if two threads fault on it at once, each with a frame of its own?"""
    dev, app, a = two_faults(m, Undecided)

    @m.check
    def one_of_them() -> list[Finding]:
        pfn = pte_pfn(app.pte(a))
        m.reached("the first frame stayed" if pfn == dev.bar.pfn else "the second frame stayed")
        return []


@case(
    "pfn/insert-over-populated/page",
    scenario="S-PFN-01",
    thread="000",
    reach=("one got through", "two got SIGBUS"),
    expect=releases("v5.10", "deb-7.3.4", sometimes("wrong-result")),
)
def concurrent_inserts_of_a_page(m: Machine) -> None:
    """... and if each inserts a page, with vm_insert_page? (It says -EBUSY to the second: the control.)"""
    two_faults(m, OfAPage)


def two_faults(m: Machine, driver: type[Undecided]) -> tuple[Undecided, Process, int]:
    """Two threads read one page at once."""
    m.faults = 1
    dev = driver(m)
    app = m.process("app")
    a = app.mmap(dev.file, 1)

    @m.task
    def one() -> None:
        m.saw(app.read(a))

    @m.task
    def two() -> None:
        m.saw(app.read(a))

    return dev, app, a
