"""mmu_gather: what was unmapped and still has to be flushed, and when that is done.

Source: mm/mmu_gather.c, include/asm-generic/tlb.h, functions of the same name. A gather announces itself in
``mm.tlb_flush_pending``; whoever finishes while another gather is open flushes the whole mm, because it may have found
entries already cleared by the other one that are not flushed yet (mm_tlb_flush_nested).
"""

from __future__ import annotations

from typing import Any

from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.mm.mm_types import VM_MIXEDMAP, VM_PFNMAP, MmStruct, VmArea
from mmlitmus.kernel.mm.page_alloc import Folio, folio_put, page_tables
from mmlitmus.kernel.mm.swapfile import free_swap_cache
from mmlitmus.kernel.policy import Seam

TASK_SIZE = 1 << 47
ULONG_MAX = (1 << 64) - 1

pfnmap_flush = Seam("pfnmap_flush", "when the flush for an unmapped PFNMAP VMA comes, relative to its unlinking")


class MmuGather:
    """One unmapping in progress: the byte range cleared since the last flush, and the pages to be given back.
    ``vma_pfn``: was any of its VMAs one whose frames nobody counts? ``reclaim_pt``: would the kernel free page tables
    that it empties, too? ``even_cows``: what the kernel has in zap_details, are private copies of a file's pages to go?
    """

    __slots__ = ("end", "even_cows", "fullmm", "mm", "pages", "reclaim_pt", "start", "vma_pfn")

    def __init__(self, mm: MmStruct, fullmm: bool) -> None:
        self.mm = mm
        self.fullmm = fullmm
        self.start, self.end = TASK_SIZE, 0
        self.pages: list[Folio] = []
        self.vma_pfn = False
        self.reclaim_pt = False
        self.even_cows = True


def tlb_gather_mmu(mm: MmStruct) -> MmuGather:
    """Begin unmapping part of ``mm``."""
    mm.add("tlb_flush_pending", 1)
    return MmuGather(mm, False)


def tlb_gather_mmu_fullmm(mm: MmStruct) -> MmuGather:
    """Begin unmapping everything of an ``mm`` that nobody uses any more.

    Source: mm/mmu_gather.c tlb_gather_mmu (5.10), tlb_gather_mmu_fullmm (from 6.1).
    """
    mm.add("tlb_flush_pending", 1)
    return MmuGather(mm, True)


def tlb_remove_tlb_entries(tlb: MmuGather, start: int, end: int) -> None:
    """Note that entries in [start, end) bytes were cleared.

    Source: include/asm-generic/tlb.h tlb_remove_tlb_entry (to 6.1), tlb_remove_tlb_entries (from 6.12).
    """
    tlb.start = min(tlb.start, start)
    tlb.end = max(tlb.end, end)


def tlb_flush_mmu_tlbonly(tlb: MmuGather) -> None:
    """Flush what was noted, on every CPU that runs the mm."""
    if tlb.start < tlb.end:
        flush_tlb_range(tlb.mm, tlb.start, tlb.end)
        tlb.start, tlb.end = TASK_SIZE, 0


def tlb_finish_mmu(tlb: MmuGather) -> None:
    """Flush the rest; the whole mm if another gather is open on it. Then no CPU can reach the pages any more."""
    if tlb.mm.tlb_flush_pending > 1:
        tlb.start, tlb.end = 0, TASK_SIZE
    tlb_flush_mmu_tlbonly(tlb)
    for folio in tlb.pages:
        for part in folio.parts():
            free_swap_cache(tlb.mm.machine, part)
            folio_put(part, page_tables(tlb.mm))
    tlb.mm.add("tlb_flush_pending", -1)


def tlb_end_vma(tlb: MmuGather, vma: VmArea) -> None:
    """The last page of ``vma`` has been unmapped."""
    pfnmap_flush("end_vma", tlb, vma)


def tlb_free_vmas(tlb: MmuGather) -> None:
    """The gather's VMAs are about to be unlinked from the reverse map.

    Source: include/asm-generic/tlb.h tlb_free_vmas (7.3); none (to 6.12).
    """
    pfnmap_flush("free_vmas", tlb, None)


@pfnmap_flush.alternative("none", source="include/asm-generic/tlb.h tlb_end_vma, v5.10", releases="<= v5.18")
def flush_at_finish_only(when: str, tlb: MmuGather, vma: Any) -> None:
    """Only tlb_finish_mmu flushes, after the VMA has left the reverse map: unmap_mapping_range can miss a live TLB
    entry.
    """


@pfnmap_flush.alternative("end_vma", source="include/asm-generic/tlb.h tlb_end_vma, 6.12.117", releases="v5.19 - v6.15")
def flush_at_end_of_vma(when: str, tlb: MmuGather, vma: Any) -> None:
    """Each PFNMAP or MIXEDMAP VMA is flushed when it has been unmapped."""
    if when == "end_vma" and not tlb.fullmm and vma.has(VM_PFNMAP | VM_MIXEDMAP):
        tlb_flush_mmu_tlbonly(tlb)


@pfnmap_flush.alternative("before_unlink", source="include/asm-generic/tlb.h tlb_free_vmas, 7.3.4", releases=">= v6.16")
def flush_before_unlink(when: str, tlb: MmuGather, vma: Any) -> None:
    """One flush for all VMAs, at the head of free_pgtables, if one of them is a PFNMAP or MIXEDMAP."""
    if when == "end_vma":
        tlb.vma_pfn = tlb.vma_pfn or bool(vma.has(VM_PFNMAP | VM_MIXEDMAP))
    elif tlb.vma_pfn and not tlb.fullmm:
        tlb_flush_mmu_tlbonly(tlb)
