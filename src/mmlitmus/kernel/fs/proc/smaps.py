"""What a mapping has in memory: the numbers of /proc/PID/smaps, for an observer outside the machine (no events).

Counted is what an entry maps as a page. Special entries, the zero page's among them, count nothing; nor does anything
of a VM_PFNMAP, which the walk leaves out, a private copy included. Proportional sizes are kept in 1/4096 of a byte, as
in the kernel. Left out: Pss_Dirty, Referenced, KSM, LazyFree, and what huge pages of other kinds have.

Source: fs/proc/task_mmu.c, functions of the same name; mm/pagewalk.c walk_page_test. Of the model's own: MemSizeStats,
account_present, lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmlitmus.kernel.arch.x86.pgtable import DIRTY_BITS, pte_present
from mmlitmus.kernel.mm.memory_pages import vm_normal_page
from mmlitmus.kernel.mm.mm_types import VM_LOCKED, VM_PFNMAP, VmArea
from mmlitmus.kernel.mm.page_alloc import Folio
from mmlitmus.kernel.mm.swapfile import slot_of
from mmlitmus.kernel.mm.swapops import is_device_exclusive_entry, is_migration_entry, is_swap_entry, swp_offset
from mmlitmus.kernel.policy import Seam

PSS_SHIFT = 12

not_present = Seam("smaps_account", "what smaps takes a page for whose entry is not present")


@dataclass
class MemSizeStats:
    """mem_size_stats: bytes; those whose name begins with ``pss`` or ends with it in 1/4096 of a byte."""

    resident: int = 0
    pss: int = 0
    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    anonymous: int = 0
    swap: int = 0
    swap_pss: int = 0
    pss_locked: int = 0


#: the fields in smaps' order, and how far each is to be shifted to become bytes
FIELDS = (
    ("Rss", "resident", 0),
    ("Pss", "pss", PSS_SHIFT),
    ("Shared_Clean", "shared_clean", 0),
    ("Shared_Dirty", "shared_dirty", 0),
    ("Private_Clean", "private_clean", 0),
    ("Private_Dirty", "private_dirty", 0),
    ("Anonymous", "anonymous", 0),
    ("Swap", "swap", 0),
    ("SwapPss", "swap_pss", PSS_SHIFT),
    ("Locked", "pss_locked", PSS_SHIFT),
)


def smap_gather_stats(vma: VmArea) -> MemSizeStats:
    """All of one mapping.

    Source: fs/proc/task_mmu.c smap_gather_stats, smaps_pte_range.
    """
    stats = MemSizeStats()
    if vma.peek("vm_flags") & VM_PFNMAP:
        return stats
    start, end = vma.peek("vm_start"), vma.peek("vm_end")
    for address, entry, shift in vma.vm_mm.machine.leaves(vma.vm_mm):
        if start <= address < end:
            smaps_pte_entry(stats, vma, address, entry, 1 << shift)
    return stats


def smaps_pte_entry(stats: MemSizeStats, vma: VmArea, address: int, entry: int, size: int) -> None:
    """One entry, of ``size`` bytes."""
    machine, locked = vma.vm_mm.machine, bool(vma.peek("vm_flags") & VM_LOCKED)
    if pte_present(entry):
        folio = vm_normal_page(vma, address, entry)
        if folio is not None:
            account_present(stats, folio, size, bool(entry & DIRTY_BITS), locked)
    elif is_swap_entry(entry):
        stats.swap += size
        stats.swap_pss += (size << PSS_SHIFT) // max(1, slot_of(machine, entry).peek("count"))
    elif is_migration_entry(entry) or is_device_exclusive_entry(entry):
        folio = machine.pages[swp_offset(entry)]
        not_present(stats, folio, size, locked, is_migration_entry(entry))


def smaps_page_accumulate(
    stats: MemSizeStats, folio: Folio, size: int, pss: int, *, dirty: bool, locked: bool, private: bool
) -> None:
    """``size`` bytes of a page, of which ``pss`` are this mapping's share."""
    stats.resident += size
    stats.pss += pss
    if folio.anon:
        stats.anonymous += size
    if locked:
        stats.pss_locked += pss
    name = f"{'private' if private else 'shared'}_{'dirty' if dirty or folio.peek('dirty') else 'clean'}"
    setattr(stats, name, getattr(stats, name) + size)


def account_present(stats: MemSizeStats, folio: Folio, size: int, dirty: bool, locked: bool) -> None:
    """A page is private if nothing else maps it, whoever holds it besides; else this mapping has its share of it.

    Source: fs/proc/task_mmu.c smaps_account.
    """
    maps = 1 if folio.peek("refcount") == 1 else folio.peek("mapcount")
    pss = (size << PSS_SHIFT) // max(1, maps)
    smaps_page_accumulate(stats, folio, size, pss, dirty=dirty, locked=locked, private=maps < 2)


@not_present.alternative(
    "as-mapped",
    source="fs/proc/task_mmu.c smaps_account, smaps_pte_entry, 5.10.262, 6.1.192",
    releases="<= v6.10",
)
def as_if_it_were_mapped(stats: MemSizeStats, folio: Folio, size: int, locked: bool, migrates: bool) -> None:
    """One that migrates is private; another is asked how often it is mapped. Whether it is dirty the page says."""
    if migrates:
        smaps_page_accumulate(stats, folio, size, size << PSS_SHIFT, dirty=folio.anon, locked=locked, private=True)
    else:
        account_present(stats, folio, size, folio.anon, locked)


@not_present.alternative(
    "maybe-shared",
    source="'fs/proc/task_mmu: account non-present entries as \\'maybe shared, but no idea how often\\''; "
    "fs/proc/task_mmu.c smaps_account, smaps_pte_entry, 6.12.117",
    releases=">= v6.11",
)
def maybe_shared(stats: MemSizeStats, folio: Folio, size: int, locked: bool, migrates: bool) -> None:
    """Shared, and all of it this mapping's."""
    smaps_page_accumulate(stats, folio, size, size << PSS_SHIFT, dirty=folio.anon, locked=locked, private=False)


def lines(vma: VmArea) -> list[str]:
    """The fields of one mapping as smaps prints them.

    Source: fs/proc/task_mmu.c __show_smap.
    """
    stats = smap_gather_stats(vma)
    return [f"{name + ':':16}{getattr(stats, field) >> by >> 10:8d} kB" for name, field, by in FIELDS]
