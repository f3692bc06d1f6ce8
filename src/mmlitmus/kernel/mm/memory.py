"""Faults, inserting and removing translations of device memory.

Source, unless a docstring says otherwise: mm/memory.c, functions of the same name.
"""

from __future__ import annotations

from mmlitmus.explore.findings import bug, reached, report
from mmlitmus.explore.primitives.choice import may_fail
from mmlitmus.kernel.arch.x86 import pat
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PMD_SIZE,
    SPECIAL,
    TABLE,
    PteTable,
    mk_pte,
    pmd_leaf,
    pte_offset_map_lock,
    pte_unmap_unlock,
    ptep_get,
    ptep_get_and_clear,
    set_ptes,
)
from mmlitmus.kernel.errno import EINVAL, ENOMEM
from mmlitmus.kernel.mm.huge_memory import split_huge_pmd, zap_huge_pmd
from mmlitmus.kernel.mm.mm_types import (
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_IO,
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_SHARED,
    AddressSpace,
    MmStruct,
    VmArea,
    vma_pages,
)
from mmlitmus.kernel.mm.mmap_lock import vma_end_read
from mmlitmus.kernel.mm.mmu_gather import (
    MmuGather,
    tlb_end_vma,
    tlb_finish_mmu,
    tlb_gather_mmu,
    tlb_remove_tlb_entries,
)
from mmlitmus.kernel.mm.vma_flags import vm_flags_set
from mmlitmus.kernel.sync.might import might_alloc
from mmlitmus.kernel.sync.rwsem import down_read, up_read
from mmlitmus.kernel.sync.spinlock import spin_lock, spin_unlock

VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV = 0x1, 0x2, 0x40
VM_FAULT_NOPAGE, VM_FAULT_RETRY, VM_FAULT_FALLBACK = 0x100, 0x400, 0x800
VM_FAULT_ERROR = VM_FAULT_OOM | VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV

ULONG_MAX = (1 << 64) - 1

FAULT_FLAG_WRITE, FAULT_FLAG_ALLOW_RETRY, FAULT_FLAG_VMA_LOCK = 0x1, 0x4, 0x1000


class VmFault:
    """vm_fault: one fault in progress. ``address`` is page aligned; ``pgoff`` is in pages of the file."""

    __slots__ = ("address", "flags", "pgoff", "vma")

    def __init__(self, vma: VmArea, address: int, flags: int) -> None:
        self.vma = vma
        self.address = address & ~(PAGE_SIZE - 1)
        self.flags = flags
        self.pgoff = vma.vm_pgoff + (self.address - vma.vm_start >> PAGE_SHIFT)


# -- page tables ------------------------------------------------------------------------------------------------
def pmd_offset(mm: MmStruct, address: int) -> PteTable:
    """The slot of the PMD entry for ``address``. Upper levels are always there in this model."""
    n = address >> PMD_SHIFT
    table = mm.pgd.get(n)
    if table is None:
        table = mm.pgd[n] = PteTable(mm.name, n << PMD_SHIFT, mm.machine.page_label)
    return table


def pte_alloc(mm: MmStruct, table: PteTable) -> int:
    """Make sure that there is a PTE table under the PMD entry: 0, or -ENOMEM. Sleeps."""
    if table.entry != NONE:
        return 0
    might_alloc(mm.machine)
    if may_fail("pte_alloc_one", mm.machine.failures):
        return -ENOMEM
    spin_lock(table.pmd_lock)
    if table.entry == NONE:
        table.entry = TABLE
    spin_unlock(table.pmd_lock)
    return 0


def pte_batches(start: int, end: int, nr: int) -> list[tuple[int, int]]:
    """[start, end) bytes as (address, pages) runs of at most ``nr`` pages."""
    return [(a, min(nr, end - a >> PAGE_SHIFT)) for a in range(start, end, nr << PAGE_SHIFT)]


def pmd_chunks(start: int, end: int) -> list[tuple[int, int]]:
    """[start, end) bytes cut at PMD boundaries, as (start, end) pairs."""
    blocks = range(start & ~(PMD_SIZE - 1), end, PMD_SIZE)
    return [(max(start, block), min(end, block + PMD_SIZE)) for block in blocks]


def is_cow_mapping(flags: int) -> bool:
    """Private and possibly writable."""
    return flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE


# -- faults -----------------------------------------------------------------------------------------------------
def handle_mm_fault(vma: VmArea, address: int, flags: int) -> int:
    """Serve a fault in ``vma``; returns VM_FAULT_* bits. Holds mmap_lock R, or the VMA's read lock with VMA_LOCK."""
    mm = vma.vm_mm
    vmf = VmFault(vma, address, flags)
    table = pmd_offset(mm, address)
    huge_fault = vma.vm_ops.huge_fault
    if huge_fault is not None and thp_suitable(vma, vmf.address) and table.entry == NONE:
        result: int = huge_fault(vmf, PMD_SHIFT - PAGE_SHIFT)
        if not result & VM_FAULT_FALLBACK:
            return result
    return handle_pte_fault(vmf, table)


def thp_suitable(vma: VmArea, address: int) -> bool:
    """May ``address`` get a 2M leaf: its block lies inside the VMA, and nobody has said MADV_NOHUGEPAGE?

    Source: include/linux/huge_mm.h thp_vma_suitable_order, mm/huge_memory.c __thp_vma_allowable_orders.
    """
    start = address & ~(PMD_SIZE - 1)
    inside: bool = vma.vm_start <= start and start + PMD_SIZE <= vma.vm_end
    return inside and not vma.vm_flags & VM_NOHUGEPAGE


def handle_pte_fault(vmf: VmFault, table: PteTable) -> int:
    """The driver is asked only for what is absent: an entry that somebody else has made meanwhile is simply tried
    again.

    Not modelled: a store to a present read-only entry of a writable VMA (after clear_refs, or a private mapping's
    copy).
    """
    entry = table.entry
    if pmd_leaf(entry) or (entry != NONE and ptep_get(table, vmf.address) != NONE):
        reached("the fault was spurious")
        return 0
    return do_fault(vmf, table)


def do_fault(vmf: VmFault, table: PteTable) -> int:
    """An absent PTE of a mapping of a device file: the driver's ->fault, never under the VMA lock alone.

    ``vmf_can_call_fault``: a driver without ->map_pages is called under mmap_lock only, so a fault that came in with
    the VMA lock gives it back and is retried. A driver without ->fault has filled its VMA when it was mapped: SIGBUS,
    unless the entry only was none for the moment of a change.
    """
    if vmf.vma.vm_ops.fault is None:
        ptl = pte_offset_map_lock(table)
        gone = table.entry == NONE or ptep_get(table, vmf.address) == NONE
        pte_unmap_unlock(ptl)
        return VM_FAULT_SIGBUS if gone else VM_FAULT_NOPAGE
    if vmf.flags & FAULT_FLAG_VMA_LOCK:
        vma_end_read(vmf.vma)
        return VM_FAULT_RETRY
    if pte_alloc(vmf.vma.vm_mm, table) < 0:
        return VM_FAULT_OOM
    result: int = vmf.vma.vm_ops.fault(vmf)
    return result


# -- inserting --------------------------------------------------------------------------------------------------
def remap_pfn_range(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> int:
    """Map ``size`` bytes of consecutive frames at ``addr``: 0 or an errno. Needs mmap_lock W.

    The frames' memtype is reserved first, then flags and pgoff are written, then the PTEs; an entry that is already
    there is a BUG. A range left half mapped by a failing allocation is left so (later kernels zap it; not modelled).
    """
    if addr & PAGE_SIZE - 1:
        report("WARN", "remap-unaligned", f"remap_pfn_range at {addr:#x}, which is no page's beginning")
        return -EINVAL
    end = addr + (size + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1))
    error, prot = pat.track_pfn_remap(vma, prot, pfn, addr, size)
    if error:
        return -EINVAL
    error = remap_pfn_range_notrack(vma, addr, end, pfn, prot)
    if error:
        pat.untrack_pfn(vma, pfn, size)
    return error


def remap_pfn_range_notrack(vma: VmArea, addr: int, end: int, pfn: int, prot: int) -> int:
    """The mapping half of ``remap_pfn_range``; the caller vouches for the cache mode."""
    if addr >= end:
        bug("remap-empty-range", f"remap_pfn_range of an empty range at {addr:#x}")
    if is_cow_mapping(vma.vm_flags):
        if addr != vma.vm_start or end != vma.vm_end:
            return -EINVAL
        vma.vm_pgoff = pfn
    vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP)
    for start, stop in pmd_chunks(addr, end):
        error = remap_pte_range(vma.vm_mm, start, stop, pfn + (start - addr >> PAGE_SHIFT), prot)
        if error:
            return error
    return 0


def remap_pte_range(mm: MmStruct, addr: int, end: int, pfn: int, prot: int) -> int:
    """Fill the PTEs of one table with special entries; a PTE that is not none is a BUG."""
    table = pmd_offset(mm, addr)
    if pte_alloc(mm, table) < 0:
        return -ENOMEM
    ptl = pte_offset_map_lock(table)
    for address, nr in pte_batches(addr, end, mm.machine.batch):
        if ptep_get(table, address) != NONE:
            bug("remap-over-populated", f"remap_pfn_range finds a populated PTE at {mm.machine.page_label(address)}")
        set_ptes(table, address, mk_pte(pfn + (address - addr >> PAGE_SHIFT), prot | SPECIAL), nr)
    pte_unmap_unlock(ptl)
    return 0


def io_remap_pfn_range(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> int:
    """``remap_pfn_range`` of device memory (decrypted, where memory can be encrypted; x86 here has none)."""
    return remap_pfn_range(vma, addr, pfn, size, prot)


def vmf_insert_pfn(vma: VmArea, addr: int, pfn: int) -> int:
    """Map one frame if the slot is free; NOPAGE either way. Needs mmap_lock R or the VMA's read lock."""
    return vmf_insert_pfn_prot(vma, addr, pfn, vma.vm_page_prot)


def vmf_insert_pfn_prot(vma: VmArea, addr: int, pfn: int, prot: int) -> int:
    """``vmf_insert_pfn`` with another protection. A slot in use is left as it is, whatever it maps, and is no error."""
    flags = vma.vm_flags
    if not flags & (VM_PFNMAP | VM_MIXEDMAP) or flags & (VM_PFNMAP | VM_MIXEDMAP) == VM_PFNMAP | VM_MIXEDMAP:
        bug("insert-pfn-vma-type", f"vmf_insert_pfn into {vma.name}, which must be PFNMAP or MIXEDMAP, and not both")
    if flags & VM_PFNMAP and is_cow_mapping(flags):
        bug("insert-pfn-cow", f"vmf_insert_pfn into {vma.name}, a private writable PFNMAP mapping")
    if not vma.vm_start <= addr < vma.vm_end:
        return VM_FAULT_SIGBUS
    prot = pat.track_pfn_insert(prot, pfn)
    mm = vma.vm_mm
    table = pmd_offset(mm, addr)
    if pte_alloc(mm, table) < 0:
        return VM_FAULT_OOM
    ptl = pte_offset_map_lock(table)
    if ptep_get(table, addr) == NONE:
        set_ptes(table, addr, mk_pte(pfn, prot | SPECIAL), 1)
    else:
        reached("vmf_insert_pfn found the PTE populated")
    pte_unmap_unlock(ptl)
    return VM_FAULT_NOPAGE


# -- removing ---------------------------------------------------------------------------------------------------
def zap_pte_range(tlb: MmuGather, table: PteTable, addr: int, end: int) -> None:
    """Clear the PTEs of one table under its lock, noting what has to be flushed. No rmap or page work: PFNMAP."""
    mm = tlb.mm
    ptl = pte_offset_map_lock(table)
    for address, nr in pte_batches(addr, end, mm.machine.batch):
        for page in range(address, address + nr * PAGE_SIZE, PAGE_SIZE):
            if ptep_get(table, page) != NONE:
                ptep_get_and_clear(table, page)
                tlb_remove_tlb_entries(tlb, page, page + PAGE_SIZE)
    pte_unmap_unlock(ptl)


def unmap_page_range(tlb: MmuGather, vma: VmArea, addr: int, end: int) -> None:
    """Clear every translation of [addr, end) bytes; a 2M leaf that is only partly covered goes whole
    (``split_huge_pmd``).
    """
    for start, stop in pmd_chunks(addr, end):
        table = pmd_offset(tlb.mm, start)
        entry = table.entry
        if pmd_leaf(entry) and stop - start < PMD_SIZE:
            split_huge_pmd(tlb.mm, table)
        elif pmd_leaf(entry):
            zap_huge_pmd(tlb, table)
        elif entry != NONE:
            zap_pte_range(tlb, table, start, stop)
    tlb_end_vma(tlb, vma)


def unmap_single_vma(tlb: MmuGather, vma: VmArea, start_addr: int, end_addr: int) -> None:
    """Unmap what [start_addr, end_addr) bytes and ``vma`` have in common."""
    start = max(vma.vm_start, start_addr)
    end = min(vma.vm_end, end_addr)
    if start >= end:
        return
    if vma.vm_flags & VM_PFNMAP:
        pat.untrack_pfn(vma, 0, 0)
    unmap_page_range(tlb, vma, start, end)


def unmap_vmas(tlb: MmuGather, vmas: list[VmArea], start_addr: int, end_addr: int) -> None:
    """Unmap every VMA of a teardown. mmap_lock W, or R after a downgrade and in exit."""
    for vma in vmas:
        unmap_single_vma(tlb, vma, start_addr, end_addr)


def zap_page_range_single(vma: VmArea, address: int, size: int) -> None:
    """Unmap ``size`` bytes of one VMA and flush before returning. Any of mmap_lock, i_mmap_rwsem keeps the VMA
    alive.
    """
    tlb = tlb_gather_mmu(vma.vm_mm)
    unmap_single_vma(tlb, vma, address, address + size)
    tlb_finish_mmu(tlb)


def zap_vma_ptes(vma: VmArea, address: int, size: int) -> None:
    """``zap_page_range_single`` for drivers: silently does nothing for a range outside the VMA, or no PFNMAP VMA."""
    if address < vma.vm_start or address + size > vma.vm_end or not vma.vm_flags & VM_PFNMAP:
        return
    zap_page_range_single(vma, address, size)


def unmap_mapping_range(mapping: AddressSpace, holebegin: int, holelen: int) -> None:
    """Unmap [holebegin, holebegin + holelen) bytes of the file from every VMA of every mm that maps them.

    ``holelen`` 0 is up to the end of the file. Each VMA is flushed before the next, all under i_mmap_rwsem R. A VMA
    that is not (or no longer) linked in ``i_mmap`` is not seen.
    """
    first = holebegin >> PAGE_SHIFT
    last = first + (holelen + PAGE_SIZE - 1 >> PAGE_SHIFT) - 1 if holelen else ULONG_MAX
    down_read(mapping.i_mmap_rwsem)
    for vma in mapping.i_mmap:
        start = max(first, vma.vm_pgoff)
        stop = min(last, vma.vm_pgoff + vma_pages(vma) - 1)
        if start <= stop:
            address = vma.vm_start + (start - vma.vm_pgoff << PAGE_SHIFT)
            zap_page_range_single(vma, address, stop - start + 1 << PAGE_SHIFT)
    up_read(mapping.i_mmap_rwsem)
