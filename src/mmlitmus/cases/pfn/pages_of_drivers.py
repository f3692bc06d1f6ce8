"""Pages that a driver puts into a mapping: what the kernel asks of it, and what becomes of what it forgets.

vm_insert_page makes the VMA a VM_MIXEDMAP, for which mmap_lock has to be held for writing: a fault has it for reading,
so ->mmap has to have set the flag (BUG_ON(mmap_read_trylock()), in every release). A ->fault may answer with a page
instead, with a reference for the page tables. The first store to a page that is counted does not ask ->pfn_mkwrite,
which is for frames without a page. And a special entry where neither VM_PFNMAP nor VM_MIXEDMAP says that there may be
one is a bad page map.
"""

from typing import Any

from mmlitmus.api import (
    DRIVER,
    PAGE_SIZE,
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    VM_MIXEDMAP,
    VM_PFNMAP,
    AddressSpace,
    File,
    Machine,
    VmArea,
    VmFault,
    VmOperations,
    always,
    case,
    folio_get,
    folios_at_rest,
    never,
    new_folio,
    page_tables,
    releases,
    remap_pfn_range,
    vm_flags_clear,
    vm_flags_set,
    vm_insert_page,
    vmf_insert_pfn,
)

SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")


class Pages(VmOperations):
    """A driver with one page. ``how``: what ->fault does with it; ``mixed``: has ->mmap said that it is coming?"""

    def __init__(self, m: Machine, how: str, mixed: bool = True) -> None:
        self.folio = new_folio(m, DRIVER, "the driver")
        self.file = File("/dev/pages", self, AddressSpace("pages:mapping"))
        self.how, self.mixed = how, mixed

    def mmap(self, file: File, vma: VmArea) -> int:
        """Nothing is mapped yet."""
        vma.vm_ops = self
        if self.mixed:
            vm_flags_set(vma, VM_MIXEDMAP)
        return 0

    def fault(self, vmf: VmFault) -> int:
        """Insert the page, answer with it, or with nothing."""
        if self.how == "insert":
            return VM_FAULT_SIGBUS if vm_insert_page(vmf.vma, vmf.address, self.folio) else VM_FAULT_NOPAGE
        if self.how != "nothing":
            vmf.page = self.folio
        if self.how == "answer":
            folio_get(self.folio, page_tables(vmf.vma.vm_mm))
        return 0


class Watchful(Pages):
    """... and with ->pfn_mkwrite, which says no."""

    def pfn_mkwrite(self, vmf: VmFault) -> int:
        """Never."""
        return VM_FAULT_SIGBUS


def use(m: Machine, dev: Pages) -> None:
    """The page is read, written and unmapped; the driver has it still."""
    app = m.process("app")
    m.check(lambda: folios_at_rest(m, ["the driver"]))

    @m.task
    def task() -> None:
        a = app.mmap(dev.file, 1)
        for access in (app.read, app.write):
            m.require(access(a) == 0, "access-failed", "an access to the page fails")
        app.munmap(a, 1)
        m.reached("unmapped")


@case(
    "pfn/pages-of-drivers",
    expect=releases("v5.10", "deb-7.3.4", always("insert-page-read-locked")),
    evidence=SOURCE,
)
def inserted_too_late(m: Machine) -> None:
    """vm_insert_page in a fault, and ->mmap has not set VM_MIXEDMAP."""
    use(m, Pages(m, "insert", mixed=False))


@case(
    "pfn/pages-of-drivers/mixed",
    control="pfn/pages-of-drivers",
    reach=("unmapped",),
    expect=releases("v5.10", "deb-7.3.4", never),
    evidence=SOURCE,
)
def inserted_in_time(m: Machine) -> None:
    """... and it has. (``pfn/pages-of-drivers`` shows that it can fail.)"""
    use(m, Pages(m, "insert"))


@case(
    "pfn/pages-of-drivers/mkwrite",
    control="pfn/pages-of-drivers/mkwrite-of-a-frame",
    reach=("unmapped",),
    expect=releases("v5.10", "deb-7.3.4", never),
    evidence=SOURCE,
)
def stored_to(m: Machine) -> None:
    """... and the driver has a ->pfn_mkwrite that refuses: is it asked for a counted page?
    (``pfn/pages-of-drivers/mkwrite-of-a-frame`` shows that it can be.)
    """
    use(m, Watchful(m, "insert"))


@case(
    "pfn/pages-of-drivers/mkwrite-of-a-frame",
    expect=releases("v5.10", "deb-7.3.4", always("access-failed")),
    evidence=SOURCE,
)
def stored_to_a_frame(m: Machine) -> None:
    """... and for a frame without a page?"""

    class Frame(Watchful):
        def __init__(self, m: Machine) -> None:
            super().__init__(m, "nothing", mixed=False)
            self.pdev = m.pci_device("dev", 1)

        def mmap(self, file: File, vma: VmArea) -> int:
            vma.vm_ops = self
            vm_flags_set(vma, VM_PFNMAP)
            return 0

        def fault(self, vmf: VmFault) -> Any:
            return vmf_insert_pfn(vmf.vma, vmf.address, self.pdev.bars[0].pfn)

    dev = Frame(m)
    app = m.process("app")

    @m.task
    def task() -> None:
        a = app.mmap(dev.file, 1)
        m.require(app.write(a) == 0, "access-failed", "->pfn_mkwrite refuses")


@case(
    "pfn/pages-of-drivers/answer",
    control="pfn/pages-of-drivers/no-reference",
    reach=("unmapped",),
    expect=releases("v5.10", "deb-7.3.4", never),
    evidence=SOURCE,
)
def answered(m: Machine) -> None:
    """->fault answers with the page, and a reference. (``pfn/pages-of-drivers/no-reference`` shows that it can fail.)
    """
    use(m, Pages(m, "answer", mixed=False))


@case(
    "pfn/pages-of-drivers/no-reference",
    asks=("reference-stolen",),
    expect=releases("v5.10", "deb-7.3.4", always("reference-stolen")),
    evidence=SOURCE,
)
def without_a_reference(m: Machine) -> None:
    """... and without one: the page tables give back the driver's own."""
    use(m, Pages(m, "no reference", mixed=False))


@case(
    "pfn/pages-of-drivers/no-page",
    expect=releases("v5.10", "deb-7.3.4", always("fault-without-page")),
    evidence=SOURCE,
)
def without_a_page(m: Machine) -> None:
    """->fault says that it answers with a page, and does not."""
    use(m, Pages(m, "nothing", mixed=False))


@case(
    "pfn/pages-of-drivers/bad-page-map",
    reach=("unmapped",),
    expect=releases("v5.10", "deb-7.3.4", always("bad-page-map")),
    evidence=SOURCE,
)
def bad_page_map(m: Machine) -> None:
    """A driver takes back the VM_PFNMAP that remap_pfn_range has set."""

    class Loses(VmOperations):
        def __init__(self) -> None:
            self.pdev = m.pci_device("dev", 1)
            self.file = File("/dev/loses", self, AddressSpace("loses:mapping"))

        def mmap(self, file: File, vma: VmArea) -> Any:
            error = remap_pfn_range(vma, vma.vm_start, self.pdev.bars[0].pfn, PAGE_SIZE, vma.vm_page_prot)
            vm_flags_clear(vma, VM_PFNMAP)
            return error

    dev = Loses()
    app = m.process("app")

    @m.task
    def task() -> None:
        app.munmap(app.mmap(dev.file, 1), 1)
        m.reached("unmapped")
