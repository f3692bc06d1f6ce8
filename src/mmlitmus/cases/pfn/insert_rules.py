"""What may be inserted into which VMA?

A frame number goes into a VMA that is VM_PFNMAP or VM_MIXEDMAP, and not both, for the kernel must be able to tell
afterwards what has a page to count. Into a private writable VM_PFNMAP only remap_pfn_range may put one, which leaves
the offset behind that copies are told by. A VM_MIXEDMAP takes no frame number that has a page. All of that is BUG_ON;
an address outside the VMA is SIGBUS.
"""

from mmlitmus.api import (
    EINVAL,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE_SIZE,
    SIGBUS,
    SIGSEGV,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    File,
    Machine,
    VmArea,
    VmFault,
    VmOperations,
    always,
    case,
    memtypes_at_rest,
    never,
    releases,
    remap_pfn_range,
    vm_flags_set,
    vmf_insert_mixed,
    vmf_insert_pfn,
)
from mmlitmus.kernel.drivers.misc.probe import Probe, open_probe

SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


class Inserts(VmOperations):
    """A driver that gives its mappings some flags, and inserts page 0 of a region into them when they are touched."""

    def __init__(self, probe: Probe, flags: int, region: str = "bar", where: int = 0, mixed: bool = False) -> None:
        self.flags = flags
        self.pfn = probe.regions[region][0]
        self.where = where
        self.insert = vmf_insert_mixed if mixed else vmf_insert_pfn
        self.file = File("/dev/inserts", self, probe.mapping)

    def mmap(self, file: File, vma: VmArea) -> int:
        vm_flags_set(vma, self.flags)
        vma.vm_ops = self
        return 0

    def fault(self, vmf: VmFault) -> int:
        return self.insert(vmf.vma, vmf.address + self.where, self.pfn)


class Remaps(VmOperations):
    """A driver whose ->mmap remaps ``size`` bytes from ``where`` bytes behind the VMA's beginning."""

    def __init__(self, probe: Probe, where: int, size: int) -> None:
        self.pfn = probe.regions["bar"][0]
        self.where, self.size = where, size
        self.file = File("/dev/remaps", self, probe.mapping)

    def mmap(self, file: File, vma: VmArea) -> int:
        vma.vm_ops = self
        return remap_pfn_range(vma, vma.vm_start + self.where, self.pfn, self.size, vma.vm_page_prot)


def touch_one(m: Machine, driver: Inserts, flags: int = MAP_SHARED) -> None:
    """One thread reads one page of the driver's."""
    app = m.process("app")
    a = app.mmap(driver.file, 1, flags=flags)

    @m.task
    def touch() -> None:
        m.saw(app.read(a))


@case(
    "pfn/insert-rules",
    scenario="S-PFN-07",
    expect={**releases("v5.10", "deb-7.3.4", always("insert-pfn-vma-type"))},
    evidence=SOURCE,
)
def neither(m: Machine) -> None:
    """May a frame number be inserted into a VMA that is neither VM_PFNMAP nor VM_MIXEDMAP?"""
    touch_one(m, Inserts(open_probe(m), VM_IO))


@case(
    "pfn/insert-rules/both",
    scenario="S-PFN-07",
    expect={**releases("v5.10", "deb-7.3.4", always("insert-pfn-vma-type"))},
    evidence=SOURCE,
)
def both(m: Machine) -> None:
    """... into one that is both?"""
    touch_one(m, Inserts(open_probe(m), VM_PFNMAP | VM_MIXEDMAP))


@case(
    "pfn/insert-rules/private",
    scenario="S-PFN-07",
    expect={**releases("v5.10", "deb-7.3.4", always("insert-pfn-cow"))},
    evidence=SOURCE,
)
def private(m: Machine) -> None:
    """... into a private VM_PFNMAP?"""
    touch_one(m, Inserts(open_probe(m), VM_PFNMAP), MAP_PRIVATE)


@case(
    "pfn/insert-rules/private-mixed",
    control="pfn/insert-rules/private",
    scenario="S-PFN-07",
    reach=("touch got through",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def private_mixed(m: Machine) -> None:
    """... into a private VM_MIXEDMAP?"""
    touch_one(m, Inserts(open_probe(m), VM_MIXEDMAP), MAP_PRIVATE)


@case(
    "pfn/insert-rules/page",
    scenario="S-PFN-07",
    expect={**releases("v5.10", "deb-7.3.4", always("insert-pfn-valid-mixed"))},
    evidence=SOURCE,
)
def page(m: Machine) -> None:
    """... the number of a frame that has a page, into a VM_MIXEDMAP?"""
    touch_one(m, Inserts(open_probe(m), VM_MIXEDMAP, "reserved"))


@case(
    "pfn/insert-rules/page-pfnmap",
    control="pfn/insert-rules/page",
    scenario="S-PFN-07",
    reach=("touch got through",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def page_into_pfnmap(m: Machine) -> None:
    """... the same into a VM_PFNMAP?"""
    touch_one(m, Inserts(open_probe(m), VM_PFNMAP, "reserved"))


@case(
    "pfn/insert-rules/mixed",
    control="pfn/insert-rules/mixed-into-pfnmap",
    scenario="S-PFN-07",
    reach=("touch got through",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def mixed(m: Machine) -> None:
    """... with vmf_insert_mixed, into a VM_MIXEDMAP, page or no page?"""
    touch_one(m, Inserts(open_probe(m), VM_MIXEDMAP, "reserved", mixed=True))


@case(
    "pfn/insert-rules/mixed-into-pfnmap",
    scenario="S-PFN-07",
    asks=("insert-mixed-vma-type", "sigbus"),
    expect={
        **releases("v5.10", "v6.10", always("insert-mixed-vma-type")),
        **releases("v6.12", "deb-7.3.4", always("sigbus")),
    },
    evidence=SOURCE,
)
def mixed_into_pfnmap(m: Machine) -> None:
    """... with vmf_insert_mixed, into a VM_PFNMAP? (A BUG, and later an error.)"""
    driver = Inserts(open_probe(m), VM_PFNMAP, mixed=True)
    app = m.process("app")
    a = app.mmap(driver.file, 1)

    @m.task
    def touch() -> None:
        m.require(app.read(a) != SIGBUS, "sigbus", "vmf_insert_mixed says VM_FAULT_SIGBUS")


@case(
    "pfn/insert-rules/outside",
    control="pfn/insert-rules/remap-outside",
    scenario="S-PFN-07",
    reach=("touch got SIGBUS",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def outside(m: Machine) -> None:
    """... at an address outside the VMA?"""
    touch_one(m, Inserts(open_probe(m), VM_PFNMAP, where=PAGE_SIZE))


@case(
    "pfn/insert-rules/remap-unaligned",
    scenario="S-PFN-07",
    expect={**releases("v5.10", "deb-7.3.4", always("remap-unaligned"))},
    evidence=SOURCE,
)
def remap_unaligned(m: Machine) -> None:
    """May remap_pfn_range begin in the middle of a page?"""
    m.check(lambda: memtypes_at_rest(m))
    driver = Remaps(open_probe(m), 0x800, PAGE_SIZE)
    app = m.process("app")

    @m.task
    def mmap() -> None:
        got = app.mmap(driver.file, 2)
        m.require(got == -EINVAL, "wrong-errno", f"remap_pfn_range in the middle of a page gives {got}")


@case(
    "pfn/insert-rules/remap-nothing",
    scenario="S-PFN-07",
    expect={**releases("v5.10", "deb-7.3.4", always("remap-empty-range"))},
    evidence=SOURCE,
)
def remap_nothing(m: Machine) -> None:
    """May remap_pfn_range be asked for no bytes at all?"""
    driver = Remaps(open_probe(m), 0, 0)
    app = m.process("app")

    @m.task
    def mmap() -> None:
        app.mmap(driver.file, 2)


@case(
    "pfn/insert-rules/remap-outside",
    scenario="S-PFN-07",
    reach=("no mapping there: SIGSEGV",),
    expect={**releases("v5.10", "deb-6.16.12", always("access-without-vma"))},
    evidence=SOURCE,
)
def remap_outside(m: Machine) -> None:
    """May remap_pfn_range go beyond the VMA? (Nobody looks; munmap then leaves the page behind.)"""
    probe = open_probe(m)
    app = m.process("app")
    app.mmap(probe.file("fault_pfn"), 1, at=m.slot("a") + 3 * PAGE_SIZE)  # a neighbour: the page table stays

    @m.task
    def mmap_munmap_read() -> None:
        beyond = m.slot("a") + PAGE_SIZE
        if app.read(beyond) == SIGSEGV:
            m.reached("no mapping there: SIGSEGV")
        app.mmap(Remaps(probe, PAGE_SIZE, PAGE_SIZE).file, 1)
        app.munmap(m.slot("a"), 1)
        got = app.read(beyond)
        m.require(got == SIGSEGV, "access-without-vma", "no VMA is there, and an access gets through")
