"""mprotect. Source: mm/mprotect.c, functions of the same name."""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import (
    CACHE_MASK,
    NONE,
    PAGE_SIZE,
    PMD_SIZE,
    PteTable,
    pmd_leaf,
    pte_modify,
    pte_offset_map_lock,
    pte_unmap_unlock,
    ptep_get,
    ptep_modify_prot_commit,
    ptep_modify_prot_start,
)
from mmlitmus.kernel.errno import EACCES, EINVAL, ENOMEM
from mmlitmus.kernel.mm.huge_memory import change_huge_pmd, split_huge_pmd
from mmlitmus.kernel.mm.memory import pmd_chunks, pmd_offset
from mmlitmus.kernel.mm.mm_types import VM_EXEC, VM_READ, VM_WRITE, MmStruct, VmArea
from mmlitmus.kernel.mm.mmap import vm_get_page_prot
from mmlitmus.kernel.mm.mmap_lock import mmap_write_lock, mmap_write_unlock, vma_start_write
from mmlitmus.kernel.mm.mmu_gather import MmuGather, tlb_end_vma, tlb_finish_mmu, tlb_gather_mmu, tlb_remove_tlb_entries
from mmlitmus.kernel.mm.vma import split_vma, vmas_in_range
from mmlitmus.kernel.mm.vma_flags import vm_flags_reset


def sys_mprotect(mm: MmStruct, start: int, length: int, prot: int) -> int:
    """mprotect(2), bytes: 0 or an errno. What came before a hole stays changed."""
    if start & PAGE_SIZE - 1 or prot & ~7:
        return -EINVAL
    if not length:
        return 0
    end = start + (length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1))
    mmap_write_lock(mm)
    tlb = tlb_gather_mmu(mm)
    error = 0
    at = start
    for vma in vmas_in_range(mm, start, end):
        if vma.vm_start > at:
            break
        flags = vma.vm_flags & ~(VM_READ | VM_WRITE | VM_EXEC) | prot
        if prot & ~(flags >> 4):
            error = -EACCES
            break
        at = min(vma.vm_end, end)
        error = mprotect_fixup(tlb, vma, max(start, vma.vm_start), at, flags)
        if error:
            break
    if not error and at < end:
        error = -ENOMEM
    tlb_finish_mmu(tlb)
    mmap_write_unlock(mm)
    return error


def mprotect_fixup(tlb: MmuGather, vma: VmArea, start: int, end: int, newflags: int) -> int:
    """Give [start, end) bytes of ``vma`` new flags: split off what is outside (it gets ->open), then change."""
    if vma.vm_flags == newflags:
        return 0
    error = isolate_range(vma, start, end)
    if error:
        return error
    vma_start_write(vma)
    vm_flags_reset(vma, newflags)
    vma.vm_page_prot = vma.vm_page_prot & CACHE_MASK | vm_get_page_prot(newflags)
    change_protection(tlb, vma, start, end)
    return 0


def isolate_range(vma: VmArea, start: int, end: int) -> int:
    """Split so that ``vma`` is exactly [start, end) bytes; the outer parts are the new VMAs. 0 or an errno."""
    if vma.vm_start < start:
        error, _ = split_vma(vma, start, new_below=True)
        if error:
            return error
    if vma.vm_end > end:
        error, _ = split_vma(vma, end, new_below=False)
        if error:
            return error
    return 0


def change_protection(tlb: MmuGather, vma: VmArea, start: int, end: int) -> None:
    """Rewrite the present entries for the VMA's new protection; a 2M leaf that is only partly covered goes."""
    for addr, stop in pmd_chunks(start, end):
        table = pmd_offset(vma.vm_mm, addr)
        entry = table.entry
        if pmd_leaf(entry) and stop - addr < PMD_SIZE:
            split_huge_pmd(vma.vm_mm, table)
        elif pmd_leaf(entry):
            change_huge_pmd(tlb, table, vma.vm_page_prot)
        elif entry != NONE:
            change_pte_range(tlb, table, addr, stop, vma.vm_page_prot)
    tlb_end_vma(tlb, vma)


def change_pte_range(tlb: MmuGather, table: PteTable, addr: int, end: int, prot: int) -> None:
    """One table's PTEs, each in two steps between which it reads as none."""
    ptl = pte_offset_map_lock(table)
    for page in range(addr, end, PAGE_SIZE):
        if ptep_get(table, page) == NONE:
            continue
        entry = ptep_modify_prot_start(table, page)
        ptep_modify_prot_commit(table, page, pte_modify(entry, prot))
        tlb_remove_tlb_entries(tlb, page, page + PAGE_SIZE)
    pte_unmap_unlock(ptl)
