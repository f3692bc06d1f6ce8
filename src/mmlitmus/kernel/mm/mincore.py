"""mincore. Source: mm/mincore.c, functions of the same name."""

from __future__ import annotations

from mmlitmus.kernel.absent import not_modelled
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PteTable,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pte_present,
    pte_unmap_unlock,
    ptep_get,
    pud_leaf,
    pud_offset,
)
from mmlitmus.kernel.errno import EINVAL, ENOMEM
from mmlitmus.kernel.mm.huge_memory import split_huge_pud
from mmlitmus.kernel.mm.mm_types import VM_PFNMAP, MmStruct, VmArea
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.mmu_gather import TASK_SIZE
from mmlitmus.kernel.mm.pgalloc import pmd_chunks
from mmlitmus.kernel.mm.vma import vma_lookup
from mmlitmus.kernel.policy import Seam

mincore_walk = Seam("mincore_walk", "whether mincore looks into the page tables of a PFNMAP")


def sys_mincore(mm: MmStruct, start: int, length: int) -> tuple[int, list[bool]]:
    """mincore(2) by who may write to what is mapped, bytes: (0 or an errno, for each page up to the hole whether it is
    in memory). What is not mapped by an entry is asked of the page cache, and a device has none.
    """
    if start & PAGE_SIZE - 1:
        return -EINVAL, []
    if start + length > TASK_SIZE:
        return -ENOMEM, []
    end = start + (length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1))
    resident: list[bool] = []
    while start < end:
        mmap_read_lock(mm)
        vma = vma_lookup(mm, start)
        if vma is None:
            mmap_read_unlock(mm)
            return -ENOMEM, resident
        stop = min(vma.vm_end, end)
        walks = mincore_walk(vma)
        resident += do_mincore(vma, start, stop) if walks else [False] * (stop - start >> PAGE_SHIFT)
        mmap_read_unlock(mm)
        start = stop
    return 0, resident


def do_mincore(vma: VmArea, start: int, end: int) -> list[bool]:
    """The page tables of a VMA's part. The walk has nothing for 1G leaves: it splits one to go on below it, and it is
    gone (mm/pagewalk.c walk_pud_range).
    """
    resident: list[bool] = []
    for first, last in pmd_chunks(start, end):
        pud = pud_offset(vma.vm_mm, first)
        if pud is not None and pud_leaf(pud.entry):
            split_huge_pud(vma.vm_mm, pud)
        table = pmd_offset(vma.vm_mm, first)
        entry = table.entry
        if entry == NONE or pmd_leaf(entry):
            resident += [entry != NONE] * (last - first >> PAGE_SHIFT)
        else:
            resident += mincore_pte_range(table, first, last)
    return resident


def mincore_pte_range(table: PteTable, start: int, end: int) -> list[bool]:
    """One table's entries. A page in swap is in memory while the swap cache has it; one under way always is."""
    ptl = pte_offset_map_lock(table)
    entries = [ptep_get(table, address) for address in range(start, end, PAGE_SIZE)]
    pte_unmap_unlock(ptl)
    for entry in entries:
        if entry != NONE and not pte_present(entry):
            not_modelled("mincore of what is not present")
    return [entry != NONE for entry in entries]


@mincore_walk.alternative(
    "not-pfnmap", source="mm/pagewalk.c walk_page_test (to 6.12); mm/mincore.c do_mincore", releases="<= v6.18"
)
def pfnmap_is_a_hole(vma: VmArea) -> bool:
    """A PFNMAP counts as not mapped, whatever it maps."""
    return not vma.has(VM_PFNMAP)


@mincore_walk.alternative("any", source="mm/mincore.c do_mincore, 7.3.4", releases=">= v7.3")
def pfnmap_is_walked(vma: VmArea) -> bool:
    """What is mapped is in memory, a device's registers too."""
    return True
