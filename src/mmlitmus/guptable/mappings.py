"""The rows: mappings of every kind that the model has, each in a state that matters to who wants its pages.

A driver that inserts frames has ->pfn_mkwrite, as the lab's module has, where nothing else is said; one that inserts
pages has not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmlitmus.api import (
    DRIVER,
    MADV_PAGEOUT,
    MAP_PRIVATE,
    MAP_SHARED,
    MIGRATE_CMA,
    PROT_READ,
    PROT_WRITE,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    AddressSpace,
    File,
    Folio,
    Machine,
    Pages,
    Process,
    VmArea,
    VmFault,
    VmOperations,
    give_back,
    make_device_exclusive,
    mmap_read_lock,
    mmap_read_unlock,
    new_folio,
    vm_flags_set,
    vm_insert_page,
    vmf_insert_mixed,
    vmf_insert_pfn,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.drivers.vfio.pci import open_device
from mmlitmus.kernel.mm.page_alloc import MIGRATE_UNMOVABLE

#: PROT_NONE
NOTHING = 0
#: pages of a 2M leaf
HUGE = 512

#: makes the mapping, when the machine is set up: its address; None where this kernel refuses to make it
Build = Callable[[Machine, Process], int | None]


@dataclass(frozen=True)
class Mapping:
    """A row. ``build`` None: the model has no such mapping, and ``about`` says what is missing."""

    id: str
    about: str
    build: Build | None


class Memory(VmOperations):
    """A driver that has allocated the pages that it maps: each frame of them has a page, which it holds."""

    def __init__(self, m: Machine, insert: str, flags: int, cma: bool = False) -> None:
        self.insert = insert
        self.flags = flags
        migratetype = MIGRATE_CMA if cma else MIGRATE_UNMOVABLE
        self.folio: Folio = new_folio(m, DRIVER, "the driver", migratetype=migratetype)
        self.file = File("/dev/memory", self, AddressSpace("memory:mapping"))

    def mmap(self, file: File, vma: VmArea) -> int:
        """Fill it now by vm_insert_page, or leave that to ->fault."""
        vma.vm_ops = self
        vm_flags_set(vma, self.flags)
        return vm_insert_page(vma, vma.vm_start, self.folio) if self.insert == "page" else 0

    def fault(self, vmf: VmFault) -> int:
        """Insert the frame by its number."""
        insert = vmf_insert_mixed if self.insert == "mixed" else vmf_insert_pfn
        return insert(vmf.vma, vmf.address, self.folio.pfn)

    def pfn_mkwrite(self, vmf: VmFault) -> int:
        """Nothing against it."""
        return 0


class QuietMemory(Memory):
    """... without ->pfn_mkwrite."""

    pfn_mkwrite = None  # type: ignore[assignment]


#: what a state adds to the id and to the words: (id, words, sharing, protection, what the process does first)
STATES = {
    "shared": ("shared, written", MAP_SHARED, PROT_READ | PROT_WRITE, "rw"),
    "untouched": ("shared, untouched", MAP_SHARED, PROT_READ | PROT_WRITE, ""),
    "readonly": ("shared, PROT_READ, read", MAP_SHARED, PROT_READ, "r"),
    "private": ("private, read", MAP_PRIVATE, PROT_READ | PROT_WRITE, "r"),
    "copied": ("private, written, so copied", MAP_PRIVATE, PROT_READ | PROT_WRITE, "rw"),
}
REGIONS = {
    "ram": "RAM",
    "reserved": "reserved RAM",
    "hole": "frames without a struct page",
    "bar": "a BAR",
}


def touch(app: Process, address: int, accesses: str) -> None:
    """Loads and stores, by their letters."""
    for access in accesses:
        (app.read if access == "r" else app.write)(address)


def mapped(app: Process, file: File, state: str) -> int | None:
    """One page of a file, in a state of ``STATES``."""
    _, flags, prot, accesses = STATES[state]
    address = app.mmap(file, 1, flags=flags, prot=prot)
    if address < 0:
        return None
    touch(app, address, accesses)
    return address


def probe(insert: str, region: str, state: str) -> Build:
    """The probe module's device."""

    def build(m: Machine, app: Process) -> int | None:
        file = open_probe(m, 1, mkwrite=True).file(insert, "", region, writable=STATES[state][2] & PROT_WRITE != 0)
        return mapped(app, file, state)

    return build


def memory(insert: str, state: str, flags: int, driver: type[Memory] = Memory, cma: bool = False) -> Build:
    """A driver's own pages."""

    def build(m: Machine, app: Process) -> int | None:
        return mapped(app, driver(m, insert, flags, cma).file, state)

    return build


def anonymous(
    accesses: str, prot: int = PROT_READ | PROT_WRITE, then: Callable[[Process, int], object] | None = None
) -> Build:
    """Memory of the process's own."""

    def build(m: Machine, app: Process) -> int | None:
        address = app.mmap_anon(1, prot=prot)
        touch(app, address, accesses)
        if then is not None:
            then(app, address)
        return address

    return build


def swapped(m: Machine, app: Process) -> int | None:
    """A page of the process's own that is in swap."""
    m.swapon()
    return anonymous("rw", then=lambda app, a: app.madvise(a, 1, MADV_PAGEOUT))(m, app)


def devices_page(m: Machine, app: Process) -> int | None:
    """A page of the process's own that a device has for itself (and is not told of anything)."""
    address = anonymous("rw")(m, app)
    assert address is not None
    pages = Pages("the device")
    mmap_read_lock(app.mm)
    got = make_device_exclusive(app.mm, address, 1, pages, None)
    mmap_read_unlock(app.mm)
    if got < 0:
        return None
    (folio,) = pages.folios
    assert folio is not None
    give_back(folio, "references of the device")
    return address


def huge(m: Machine, app: Process) -> int | None:
    """A 2M leaf of device memory."""
    file = open_probe(m, HUGE, pfn=0x100000, mkwrite=True).file("huge", "", "bar")
    address = app.mmap(file, HUGE)
    touch(app, address, "rw")
    return address


def vfio_bar(accesses: str, prot: int = PROT_READ | PROT_WRITE) -> Build:
    """A BAR, mapped by VFIO: a driver that inserts when faulted, and has no ->pfn_mkwrite."""

    def build(m: Machine, app: Process) -> int | None:
        address = app.mmap(open_device(m, 1).file, 1, prot=prot)
        touch(app, address, accesses)
        return address

    return build


def _rows() -> list[Mapping]:
    rows = [
        Mapping("anon-untouched", "anonymous, never touched", anonymous("")),
        Mapping("anon-zero", "anonymous, read: the zero page", anonymous("r")),
        Mapping("anon-written", "anonymous, written", anonymous("rw")),
        Mapping("anon-forked", "anonymous, written, shared with a child",
                anonymous("rw", then=lambda app, a: app.fork("child"))),
        Mapping("anon-readonly", "anonymous, PROT_READ, never touched", anonymous("", PROT_READ)),
        Mapping("anon-protected", "anonymous, written, then PROT_READ",
                anonymous("rw", then=lambda app, a: app.mprotect(a, 1, PROT_READ))),
        Mapping("anon-none", "anonymous, PROT_NONE", anonymous("", NOTHING)),
        Mapping("anon-swapped", "anonymous, written, then paged out", swapped),
        Mapping("anon-device", "anonymous, written, then a device's for itself", devices_page),
        Mapping("anon-unmapped", "nothing: no VMA", anonymous("r", then=lambda app, a: app.munmap(a, 1))),
    ]  # fmt: skip
    for region, what in REGIONS.items():
        for state in STATES:
            words = f"remap_pfn_range of {what}, {STATES[state][0]}"
            rows.append(Mapping(f"remap-{region}-{state}", words, probe("remap", region, state)))
    for region, what in REGIONS.items():
        for state in ("shared", "untouched", "readonly"):
            words = f"vmf_insert_pfn of {what}, {STATES[state][0]}"
            rows.append(Mapping(f"pfn-{region}-{state}", words, probe("fault_pfn", region, state)))
    for region, what in REGIONS.items():
        for state in STATES if region != "hole" else ():
            words = f"vmf_insert_mixed of {what}, {STATES[state][0]}"
            build = memory("mixed", state, VM_MIXEDMAP) if region == "ram" else probe("mixed", region, state)
            rows.append(Mapping(f"mixed-{region}-{state}", words, build))
    for state in STATES:
        words = f"vm_insert_page, {STATES[state][0]}"
        rows.append(Mapping(f"page-{state}", words, memory("page", state, VM_MIXEDMAP, QuietMemory)))
    rows += [
        Mapping("mixed-quiet", "vmf_insert_mixed of RAM by a driver without ->pfn_mkwrite, shared, written",
                memory("mixed", "shared", VM_MIXEDMAP, QuietMemory)),
        Mapping("mixed-io", "vmf_insert_mixed of RAM into a VM_IO, shared, written",
                memory("mixed", "shared", VM_MIXEDMAP | VM_IO)),
        Mapping("page-io", "vm_insert_page into a VM_IO, shared, written",
                memory("page", "shared", VM_MIXEDMAP | VM_IO, QuietMemory)),
        Mapping("page-cma", "vm_insert_page of a page of a CMA area, shared, written",
                memory("page", "shared", VM_MIXEDMAP, QuietMemory, cma=True)),
        Mapping("pfn-plain", "vmf_insert_pfn of RAM that the driver holds, into a VM_PFNMAP without VM_IO, shared, "
                "written", memory("pfn", "shared", VM_PFNMAP)),
        Mapping("pfn-huge", "vmf_insert_pfn_pmd of a BAR, shared, written", huge),
        Mapping("vfio-bar", "VFIO's mapping of a BAR, shared, read", vfio_bar("r")),
        Mapping("vfio-bar-untouched", "VFIO's mapping of a BAR, shared, untouched", vfio_bar("")),
        Mapping("vfio-bar-readonly", "VFIO's mapping of a BAR, shared, PROT_READ, untouched", vfio_bar("", PROT_READ)),
        Mapping("file-shared", "a file of tmpfs, shared: the model has no page cache", None),
        Mapping("file-private", "a file of tmpfs, private, read: the model has no page cache", None),
        Mapping("fault-page", "->fault that returns a page, shared, written", probe("fault_page", "ram", "shared")),
        Mapping("fault-page-copied", "->fault that returns a page, private, written, so copied",
                probe("fault_page", "ram", "copied")),
        Mapping("udmabuf", "udmabuf, shared, read: the model has no exporter", None),
        Mapping("dma-heap", "the system DMA heap's buffer, shared, read: the model has no exporter", None),
    ]  # fmt: skip
    return rows


MAPPINGS: dict[str, Mapping] = {row.id: row for row in _rows()}
