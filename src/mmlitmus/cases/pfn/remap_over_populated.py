"""What does remap_pfn_range say to an entry that is there already?

It does not look before it writes: each page-table entry must be none, and one that is not is a BUG, in every release. A
driver may therefore map a range once; again only after it was zapped; and never what somebody else may be filling at
the same moment. From 6.16 on a VMA that has been mapped as a whole keeps its tracking object, and remap_pfn_range
refuses to map it as a whole again, zapped or not.
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
    VmOperations,
    always,
    case,
    never,
    releases,
    remap_pfn_range,
    vm_flags_set,
    vmf_insert_pfn,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe

#: v6.10's vm_flags_set asserts mmap_lock for writing, and a remap in a fault has it for reading (locks/flags-writers)
WARNS = always("flags-without-lock")


class Twice(VmOperations):
    """A driver whose ->mmap inserts page 1, or remaps the whole VMA, before it remaps the whole VMA."""

    def __init__(self, machine: Machine, first: str) -> None:
        self.bar = machine.pci_device("dev", pages=2).bars[0]
        self.first = first
        self.file = File("/dev/twice", self, AddressSpace("twice:mapping"))

    def mmap(self, file: File, vma: VmArea) -> int:
        vma.vm_ops = self
        if self.first == "insert":
            vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP)
            vmf_insert_pfn(vma, vma.vm_start + PAGE_SIZE, self.bar.pfn + 1)
        elif self.remap(vma):
            raise AssertionError("nothing is in the way of the first")
        return self.remap(vma)

    def remap(self, vma: VmArea) -> int:
        """Map all of the VMA: 0 or an errno."""
        return remap_pfn_range(vma, vma.vm_start, self.bar.pfn, vma.vm_end - vma.vm_start, vma.vm_page_prot)


@case(
    "pfn/remap-over-populated",
    scenario="S-PFN-01",
    thread="000",
    claims=("C000-15",),
    asks=("remap-over-populated",),
    expect={
        **releases("v5.10", "deb-7.3.4", always("remap-over-populated")),
        "v6.12 +pfnmap-track-ctx": always("remap-over-populated"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def remap_over_populated(m: Machine) -> None:
    """What does remap_pfn_range say to an entry that is there already, of the very frame that belongs there?"""
    dev = Twice(m, "insert")
    app = m.process("app")

    @m.task
    def mmap() -> None:
        app.mmap(dev.file, 2)


@case(
    "pfn/remap-over-populated/twice",
    scenario="S-PFN-01",
    thread="000",
    claims=("C000-15", "C000-27"),
    asks=("remap-over-populated", "remap-refused"),
    expect={
        **releases("v5.10", "deb-6.12.117", always("remap-over-populated")),
        **releases("v6.16", "deb-7.3.4", always("remap-refused")),
        "v6.12 +pfnmap-track-ctx": always("remap-refused"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def remap_twice(m: Machine) -> None:
    """... and to a second mapping of the whole VMA, nothing zapped in between?"""
    dev = Twice(m, "remap")
    app = m.process("app")

    @m.task
    def mmap() -> None:
        m.require(app.mmap(dev.file, 2) > 0, "remap-refused", "the VMA was mapped, and is not mapped again")


@case(
    "pfn/remap-over-populated/after-zap",
    scenario="S-PFN-01",
    thread="000",
    claims=("C000-27",),
    asks=("remap-over-populated", "remap-refused"),
    reach=("first touch got through",),
    expect={
        **releases("v5.10", "v6.9", never),
        "v6.10": WARNS & always("mmap_assert_locked"),
        **releases("v6.12", "deb-6.12.117", WARNS),
        **releases("v6.16", "deb-6.18.15", WARNS & always("remap-refused")),
        **releases("v7.3", "deb-7.3.4", always("remap-refused")),
        **releases("v6.1", "v6.9", always("remap-refused"), "+pfnmap-track-ctx"),
        **releases("v6.10", "deb-6.12.117", WARNS & always("remap-refused"), "+pfnmap-track-ctx"),
        **releases("v6.1", "v6.9", never, "+untrack-in-unmap-vmas"),
        **releases("v6.10", "deb-6.12.117", WARNS, "+untrack-in-unmap-vmas"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def remap_after_zap(m: Machine) -> None:
    """... and to a second mapping after all of the first was zapped? (The handler remaps, right or wrong.)"""
    probe = open_probe(m, pages=2)
    app = m.process("app")
    a = app.mmap(probe.file("remap_fault"), 2)

    @m.task
    def touch_zap_touch() -> None:
        if app.read(a) != "SIGBUS":
            m.reached("first touch got through")
        probe.unmap_mapping_range(0, 2)
        again = app.read(a)
        m.require(again != "SIGBUS", "remap-refused", "the VMA was zapped, and is not mapped again")
