"""The probe module's device: mappings of device memory, filled in every way that a driver can fill them.

A file of ``Probe.file`` says how: what is mapped (``region``, from page ``frame`` of it), how it gets there
(``insert``), with which cache type (``cache``). All files of a device share one address_space, so that
``unmap_mapping_range`` reaches them by file offset, as it does on a real kernel.

Of the model's own: Probe, ProbeOps, ProbeMkwrite, open_probe.

======== =======================================================================================
region   bar (a device's), reserved (RAM kept back at boot: a struct page, no System RAM), hole
         (the same without struct pages), ram
insert   remap (all of the VMA, in ->mmap; a fault is SIGBUS), remap_refill (the same, and faults put pages back
         with vmf_insert_pfn), remap_partial (its first half), remap_fault (all of it, by the first fault),
         fault_pfn (vmf_insert_pfn), fault_pfn_prot (the same with the cache type in the protection that ->fault
         inserts with, not in the VMA's), huge (vmf_insert_pfn_pmd and _pud where they fit), mixed (vmf_insert_mixed),
         track (only reserve, in ->mmap; faults as fault_pfn), none; of ram, whose pages are counted: insert_page
         (vm_insert_page of all of it, in ->mmap), fault_page (->fault answers with the page)
cache    "" (what the VMA has: write-back), wc, uc-, wt, wp
======== =======================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from mmlitmus.api import (
    CACHE_MASK,
    EBUSY,
    EFAULT,
    EINVAL,
    ENOMEM,
    FAULT_FLAG_WRITE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_ORDER,
    PMD_SHIFT,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_FAULT_FALLBACK,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    AddressSpace,
    CacheMode,
    File,
    Folio,
    Machine,
    MmStruct,
    PciDevice,
    VmArea,
    VmFault,
    VmOperations,
    cachemode2protval,
    driver_folio,
    folio_get,
    is_cow_mapping,
    mmap_write_lock,
    mmap_write_unlock,
    page_tables,
    pmd_leaf,
    pmd_offset,
    pud_offset,
    remap_pfn_range,
    track_pfn_remap,
    unmap_mapping_range,
    vm_flags_set,
    vm_insert_page,
    vma_lookup,
    vmf_insert_mixed,
    vmf_insert_pfn,
    vmf_insert_pfn_pmd,
    vmf_insert_pfn_prot,
    vmf_insert_pfn_pud,
)

#: first frame and pages of what the module maps, as the recorded machines had it
RESERVED = (0x10000, 0x1000)
HOLE = (0x20000, 0x8000)
RAM = (0x5600, 0x200)
BAR_PFN = 0xFD000

INSERTS = (
    "remap",
    "remap_refill",
    "remap_partial",
    "remap_fault",
    "fault_pfn",
    "fault_pfn_prot",
    "huge",
    "mixed",
    "track",
    "none",
    "insert_page",
    "fault_page",
)
#: ways to insert pages that the kernel counts
OF_PAGES = ("insert_page", "fault_page")
CACHES = {
    "": CacheMode.WB,
    "wc": CacheMode.WC,
    "uc-": CacheMode.UC_MINUS,
    "uc": CacheMode.UC,
    "wt": CacheMode.WT,
    "wp": CacheMode.WP,
}


@dataclass(frozen=True)
class Fill:
    """What a file's mappings map, and how."""

    insert: str
    cache: str
    region: str
    frame: int


class Probe:
    """The device: its regions, its address_space, and the files that map it."""

    def __init__(self, machine: Machine, pages: int, pfn: int, mkwrite: bool) -> None:
        self.machine = machine
        self.pdev = PciDevice("probe", pfn, pages)
        machine.add_device(self.pdev)
        for first, length in (RESERVED, HOLE):
            machine.e820.reserve(first, length)
        self.mapping = AddressSpace("probe:mapping")
        self.regions = {"bar": (pfn, pages), "reserved": RESERVED, "hole": HOLE, "ram": RAM}
        self.mkwrite = mkwrite
        self.moved = 0

    def file(
        self, insert: str = "remap", cache: str = "", region: str = "bar", frame: int = 0, *, writable: bool = True
    ) -> File:
        """A file whose mappings of page offset N begin at page ``frame + N`` of the region."""
        if insert not in INSERTS or cache not in CACHES or region not in self.regions:
            raise ValueError(f"no way to map {region!r} as {insert!r} with {cache!r}")
        if insert in OF_PAGES and region != "ram":
            raise ValueError(f"{insert} is of pages that the kernel counts: of ram, not of {region}")
        fill = Fill(insert, cache, region, frame)
        mkwrite = self.mkwrite and insert not in OF_PAGES
        ops = (ProbeMkwrite if mkwrite else ProbeOps)(self, fill)
        return File(f"/dev/probe ({insert} {region})", ops, self.mapping, fill, writable)

    def pfn(self, fill: Fill) -> int:
        """The frame at page offset 0 of a file."""
        return self.regions[fill.region][0] + fill.frame

    def page(self, pfn: int) -> Folio:
        """The page of a frame of ram, which the module has allocated and holds."""
        folio: Folio | None = self.machine.pages.get(pfn)
        return folio if folio is not None else driver_folio(self.machine, pfn)

    def move(self, pages: int) -> None:
        """From now on faults find every page ``pages`` further on: the device has changed what backs its mappings.

        For set-up, or between two things that one task does; no event.
        """
        self.moved = pages

    def unmap_mapping_range(self, page: int, pages: int, even_cows: bool = True) -> int:
        """Take ``pages`` pages from page offset ``page`` of the file away from everybody, with ``even_cows`` private
        copies, too. 0.
        """
        unmap_mapping_range(self.mapping, page << PAGE_SHIFT, pages << PAGE_SHIFT, even_cows)
        return 0

    def put(self, mm: MmStruct, address: int, pages: int, *, remap: bool) -> int:
        """Put entries into a mapping of huge leaves from outside a fault: the first by vmf_insert_pfn, or so many by
        remap_pfn_range. 0, -EFAULT (no such mapping), -EINVAL (it is filled in another way), -EBUSY (remap_pfn_range
        over a PTE would be a BUG), or what these functions make of it.
        """
        mmap_write_lock(mm)
        error = self._put(mm, address, pages, remap)
        mmap_write_unlock(mm)
        return error

    def _put(self, mm: MmStruct, address: int, pages: int, remap: bool) -> int:
        vma = vma_lookup(mm, address)
        size = pages << PAGE_SHIFT
        if vma is None or address + size > vma.vm_end:
            return -EFAULT
        ops = vma.vm_ops
        if not isinstance(ops, ProbeOps) or ops.fill.insert != "huge" or not vma.vm_flags & VM_PFNMAP:
            return -EINVAL
        pfn = ops.frame_of(vma) + (address - vma.vm_start >> PAGE_SHIFT)
        if not remap:
            fault = vmf_insert_pfn(vma, address, pfn)
            return 0 if fault == VM_FAULT_NOPAGE else -ENOMEM if fault == VM_FAULT_OOM else -EFAULT
        for n in range(pages):
            at = address + (n << PAGE_SHIFT)
            table = mm.pgd.get(at >> PMD_SHIFT)
            if table is not None and not pmd_leaf(table.peek("entry")) and self.machine.translation(mm, at):
                return -EBUSY
        return remap_pfn_range(vma, address, pfn, size, vma.vm_page_prot)


class ProbeOps(VmOperations):
    """The operations of one file's mappings."""

    def __init__(self, probe: Probe, fill: Fill) -> None:
        self.probe = probe
        self.fill = fill
        if fill.insert == "huge":
            self.huge_fault = self._huge_fault

    def mmap(self, file: File, vma: VmArea) -> int:
        """The module's ->mmap: 0 or an errno. What would be a BUG later on is -EINVAL here, as in the module."""
        how = self.fill.insert
        if how not in ("remap", "remap_partial", "mixed", "none", *OF_PAGES) and is_cow_mapping(vma.vm_flags):
            return -EINVAL
        vma.vm_ops = self
        if self.fill.cache and how != "fault_pfn_prot":
            vma.vm_page_prot = vma.vm_page_prot | cachemode2protval(CACHES[self.fill.cache])
        size = vma.vm_end - vma.vm_start
        if how in ("remap", "remap_refill"):
            return remap_pfn_range(vma, vma.vm_start, self.frame_of(vma), size, vma.vm_page_prot)
        if how == "remap_partial":
            return remap_pfn_range(vma, vma.vm_start, self.frame_of(vma), size // 2, vma.vm_page_prot)
        if how == "track":
            error, _ = track_pfn_remap(vma, vma.vm_start, self.frame_of(vma), size, vma.vm_page_prot)
            if error:
                return error
        if how == "insert_page":
            return self._insert_pages(vma)
        if how == "mixed":
            vm_flags_set(vma, VM_MIXEDMAP)
        elif how not in ("none", "fault_page"):
            vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP)
        return 0

    def _insert_pages(self, vma: VmArea) -> int:
        for n in range(vma.vm_end - vma.vm_start >> PAGE_SHIFT):
            error = vm_insert_page(vma, vma.vm_start + (n << PAGE_SHIFT), self.probe.page(self.frame_of(vma) + n))
            if error:
                return error
        return 0

    def frame_of(self, vma: VmArea) -> int:
        """The frame that belongs to the VMA's first page."""
        return self.probe.pfn(self.fill) + vma.vm_pgoff

    def fault(self, vmf: VmFault) -> int:
        """The module's ->fault."""
        vma = vmf.vma
        pfn = self.probe.pfn(self.fill) + vmf.pgoff + self.probe.moved
        if self.fill.insert in ("fault_pfn", "huge", "track", "remap_refill"):
            return vmf_insert_pfn(vma, vmf.address, pfn)
        if self.fill.insert == "fault_pfn_prot":
            prot = vma.vm_page_prot & ~CACHE_MASK | cachemode2protval(CACHES[self.fill.cache])
            return vmf_insert_pfn_prot(vma, vmf.address, pfn, prot)
        if self.fill.insert == "mixed":
            return vmf_insert_mixed(vma, vmf.address, pfn)
        if self.fill.insert == "fault_page":
            vmf.page = self.probe.page(pfn)
            folio_get(vmf.page, page_tables(vma.vm_mm))
            return 0
        if self.fill.insert == "remap_fault":
            size = vma.vm_end - vma.vm_start
            error = remap_pfn_range(vma, vma.vm_start, self.frame_of(vma), size, vma.vm_page_prot)
            return VM_FAULT_SIGBUS if error else VM_FAULT_NOPAGE
        return VM_FAULT_SIGBUS

    def _huge_fault(self, vmf: VmFault, order: int) -> int:
        vma = vmf.vma
        start = vmf.address & ~((PAGE_SIZE << order) - 1)
        pfn = self.frame_of(vma) + (start - vma.vm_start >> PAGE_SHIFT) + self.probe.moved
        if start < vma.vm_start or start + (PAGE_SIZE << order) > vma.vm_end or pfn & (1 << order) - 1:
            return VM_FAULT_FALLBACK
        write = bool(vmf.flags & FAULT_FLAG_WRITE)
        if order == PMD_ORDER:
            return vmf_insert_pfn_pmd(vma, pmd_offset(vma.vm_mm, start), start, pfn, write)
        pud = pud_offset(vma.vm_mm, start)
        return VM_FAULT_FALLBACK if pud is None else vmf_insert_pfn_pud(vma, pud, start, pfn, write)


class ProbeMkwrite(ProbeOps):
    """The same with ->pfn_mkwrite: the first store to a shared page faults."""

    def pfn_mkwrite(self, vmf: VmFault) -> int:
        """Nothing against it."""
        return 0


def open_probe(machine: Machine, pages: int = 4, *, pfn: int = BAR_PFN, mkwrite: bool = False) -> Probe:
    """Load the module. ``pages``: how long its BAR is; ``pfn``: where that begins.

    ``mkwrite``: does it have ->pfn_mkwrite (the lab's module does)?
    """
    return Probe(machine, pages, pfn, mkwrite)
