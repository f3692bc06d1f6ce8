"""Cache modes in page protections, and the seams that PAT tracking will fill.

Only what mapping a BAR needs: the cache bits of a protection, and the type looked up when a pfn is inserted. The
memtype tree, its owners and its printers are not modelled yet; an unreserved non-RAM pfn looks up as UC-, which is
also what the ``pci_iomap`` of every mapped BAR reserves, so the bits in the entries are those of a real kernel.
Source: arch/x86/mm/pat/memtype.c (lookup_memtype, cachemode2protval), arch/x86/include/asm/pgtable.h.
"""

from __future__ import annotations

from typing import Any

from .pgtable import CACHE_MASK, PCD, PWT

WB, WC, UC_MINUS, UC = 0, PWT, PCD, PCD | PWT


def pgprot_noncached(prot: int) -> int:
    """OR in UC- (it does not replace: noncached over write-combining is UC)."""
    return prot | UC_MINUS


def pgprot_writecombine(prot: int) -> int:
    """OR in WC."""
    return prot | WC


def track_pfn_remap(vma: Any, prot: int, pfn: int, addr: int, size: int) -> tuple[int, int]:
    """The seam at which remap_pfn_range reserves the memtype: (errno, protection to use). Bytes."""
    return 0, prot


def track_pfn_insert(prot: int, pfn: int) -> int:
    """The protection an inserted pfn gets: the type looked up, whatever the VMA asked for (unreserved MMIO: UC-)."""
    return prot & ~CACHE_MASK | UC_MINUS


def untrack_pfn(vma: Any, pfn: int, size: int) -> None:
    """The seam at which a zap gives the reservation back."""


def track_pfn_copy(dst: Any, src: Any) -> int:
    """The seam at which fork reserves for the child: 0 or an errno."""
    return 0


def untrack_pfn_clear(vma: Any) -> None:
    """The seam at which mremap clears the source's VM_PAT."""
