"""2M leaves for device memory. Source: mm/huge_memory.c, 6.12, functions of the same name."""

from __future__ import annotations

from mmlitmus.explore.findings import bug
from mmlitmus.kernel.arch.x86 import pat
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    NONE,
    PMD_SIZE,
    PSE,
    SPECIAL,
    PteTable,
    mk_pte,
    pmd_leaf,
    pmdp_huge_get_and_clear,
    pte_modify,
)
from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.mm.mm_types import VM_MAYWRITE, VM_MIXEDMAP, VM_PFNMAP, VM_SHARED, MmStruct, VmArea
from mmlitmus.kernel.mm.mmu_gather import MmuGather, tlb_remove_tlb_entries
from mmlitmus.kernel.sync.spinlock import SINGLE_DEPTH_NESTING, spin_lock, spin_lock_nested, spin_unlock

VM_FAULT_NOPAGE, VM_FAULT_SIGBUS = 0x100, 0x2


def vmf_insert_pfn_pmd(vma: VmArea, table: PteTable, address: int, pfn: int) -> int:
    """Map a 2M leaf if the PMD slot is free; NOPAGE either way. The caller has checked fit and alignment."""
    flags = vma.vm_flags
    if flags & (VM_PFNMAP | VM_MIXEDMAP) not in (VM_PFNMAP, VM_MIXEDMAP):
        bug("insert-pfn-vma-type", f"vmf_insert_pfn_pmd into {vma.name}, which must be PFNMAP or MIXEDMAP, not both")
    if flags & VM_PFNMAP and flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE:
        bug("insert-pfn-cow", f"vmf_insert_pfn_pmd into {vma.name}, a private writable PFNMAP mapping")
    start = address & ~(PMD_SIZE - 1)
    if not vma.vm_start <= start < vma.vm_end:
        return VM_FAULT_SIGBUS
    prot = pat.track_pfn_insert(vma.vm_page_prot, pfn)
    spin_lock(table.pmd_lock)
    if table.entry == NONE:
        table.entry = mk_pte(pfn, prot | SPECIAL | PSE)
    spin_unlock(table.pmd_lock)
    return VM_FAULT_NOPAGE


def zap_huge_pmd(tlb: MmuGather, table: PteTable) -> None:
    """Clear a 2M leaf that is unmapped whole; the gather flushes it."""
    spin_lock(table.pmd_lock)
    if pmd_leaf(table.entry):
        pmdp_huge_get_and_clear(table)
        tlb_remove_tlb_entries(tlb, table.address, table.address + PMD_SIZE)
    spin_unlock(table.pmd_lock)


def split_huge_pmd(mm: MmStruct, table: PteTable) -> None:
    """A leaf of device memory has no pages to go on with: it is cleared and flushed at once, and faulted again."""
    spin_lock(table.pmd_lock)
    if pmd_leaf(table.entry):
        pmdp_huge_get_and_clear(table)
        flush_tlb_range(mm, table.address, table.address + PMD_SIZE)
    spin_unlock(table.pmd_lock)


def change_huge_pmd(tlb: MmuGather, table: PteTable, prot: int) -> None:
    """mprotect of a whole leaf: like a PTE, in two steps between which it reads as none."""
    spin_lock(table.pmd_lock)
    if pmd_leaf(table.entry):
        entry = pmdp_huge_get_and_clear(table)
        table.entry = pte_modify(entry & ~PSE, prot) | PSE
        tlb_remove_tlb_entries(tlb, table.address, table.address + PMD_SIZE)
    spin_unlock(table.pmd_lock)


def copy_huge_pmd(dst: PteTable, src: PteTable) -> None:
    """fork: the child gets the leaf with the accessed bit cleared; dirty stays."""
    spin_lock(dst.pmd_lock)
    spin_lock_nested(src.pmd_lock, SINGLE_DEPTH_NESTING)
    entry = src.entry
    if pmd_leaf(entry):
        dst.entry = entry & ~ACCESSED
    spin_unlock(src.pmd_lock)
    spin_unlock(dst.pmd_lock)
