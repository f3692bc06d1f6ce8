"""A driver says that its mapping may not be split, moved, or made writable. Does the kernel heed it?

A ring of descriptors that the device writes to must stay in one piece, where it is, and read-only. ->may_split
(->split up to 5.10), ->mremap and ->mprotect (5.11) are what a driver has to say so. Who says it by ->mremap must know
that the entries have been moved by then, and are moved back.
"""

from mmlitmus.api import (
    EACCES,
    EBUSY,
    EINVAL,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
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
    never,
    releases,
    sometimes,
    stale_translations,
    unmap_mapping_range,
    vm_flags_set,
    vmf_insert_pfn,
)

SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")


class Ring(VmOperations):
    """A device's ring, mapped page by page."""

    def __init__(self, m: Machine) -> None:
        self.pdev = m.pci_device("ring", 2)
        self.mapping = AddressSpace("ring:mapping")
        self.file = File("/dev/ring", self, self.mapping)

    def mmap(self, file: File, vma: VmArea) -> int:
        vma.vm_ops = self
        vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP)
        return 0

    def fault(self, vmf: VmFault) -> int:
        return vmf_insert_pfn(vmf.vma, vmf.address, self.pdev.bars[0].pfn + vmf.pgoff)


class OnePiece(Ring):
    """... that may not be split."""

    def may_split(self, vma: VmArea, addr: int) -> int:
        return -EBUSY


class Unmoved(Ring):
    """... nor moved."""

    def mremap(self, vma: VmArea) -> int:
        return -EINVAL


class ReadOnly(Ring):
    """... nor written to, once it has been mapped for reading."""

    def mprotect(self, vma: VmArea, start: int, end: int, newflags: int) -> int:
        return -EACCES


@case(
    "pfn/driver-hooks/may-split",
    asks=("torn", "split-allowed"),
    reach=("looked",),
    expect={
        **releases("v5.10", "deb-5.10.262", always("torn")),
        "v5.14": never,
        **releases("v6.1", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def may_split(m: Machine) -> None:
    """munmap and mremap of half of a mapping whose driver allows no split: what is left?

    5.10 asks when the half has been moved already, and is to be unmapped: mremap succeeds, the old mapping stays whole,
    and the half has gone from it.
    """
    ring = OnePiece(m)
    app = m.process("app")
    a = app.mmap(ring.file, 2)
    app.read(a)
    app.read(a + PAGE_SIZE)

    @m.task
    def move() -> None:
        m.require(app.munmap(a, 1) == -EBUSY, "split-allowed", "munmap of half of it succeeds")
        moved = app.mremap(a, 1, 1, to="b")
        there = app.pte(a) != 0 and app.pte(a + PAGE_SIZE) != 0
        m.reached("looked")
        m.require(there and moved == -EBUSY, "torn", f"mremap of half of it gives {moved:#x}")


@case(
    "pfn/driver-hooks/mremap",
    asks=("moved", "stale-translation", "access-after-disable"),
    reach=("refused", "ring is off"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.12 +mremap-back-unlocked": sometimes("stale-translation", "access-after-disable"),
    },
    evidence=SOURCE,
)
def refused_move(m: Machine) -> None:
    """A move that ->mremap refuses, beside a revocation by unmap_mapping_range: are entries missed on the way back?"""
    m.faults = 0
    ring = Unmoved(m)
    m.check(lambda: stale_translations(m))
    app = m.process("app")
    a = app.mmap(ring.file, 1)
    app.read(a)

    @m.task
    def move() -> None:
        got = app.mremap(a, 1, 1, to="b")
        m.require(got == -EINVAL, "moved", f"mremap gives {got}")
        m.reached("refused")
        m.saw(app.read(a))

    @m.task
    def revoke() -> None:
        unmap_mapping_range(ring.mapping, 0, 0)
        ring.pdev.power("revoked", False)


@case(
    "pfn/driver-hooks/mprotect",
    asks=("writable",),
    reach=("asked",),
    expect={
        **releases("v5.10", "deb-5.10.262", always("writable")),
        "v5.14": never,
        **releases("v6.1", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def read_only(m: Machine) -> None:
    """mprotect of a mapping whose driver refuses every change: 5.10 has no such hook, and the process writes."""
    ring = ReadOnly(m)
    app = m.process("app")
    a = app.mmap(ring.file, 1, prot=PROT_READ)

    @m.task
    def write() -> None:
        got = app.mprotect(a, 1, PROT_READ | PROT_WRITE)
        m.reached("asked")
        m.require(isinstance(app.write(a), str), "writable", f"mprotect gives {got}, and the process writes")
