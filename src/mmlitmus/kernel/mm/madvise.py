"""madvise on mappings of device memory, and MADV_PAGEOUT of a process's own. The
refusals are also what the kernel's own tests check (selftests/mm/pfnmap.c).

Source: mm/madvise.c, functions of the same name. Of the model's own: populate_vma, has_huge_block.
"""

from __future__ import annotations

from mmlitmus.kernel.absent import not_modelled
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SIZE,
    PteTable,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pte_unmap_unlock,
    ptep_get,
)
from mmlitmus.kernel.errno import EACCES, EAGAIN, EINVAL, ENODEV, ENOMEM, EPERM
from mmlitmus.kernel.mm.gup import FOLL_TOUCH, FOLL_WRITE, __get_user_pages, check_vma_flags
from mmlitmus.kernel.mm.memory_pages import vm_normal_page
from mmlitmus.kernel.mm.memory_zap import zap_page_range_single, zap_page_range_single_batched
from mmlitmus.kernel.mm.mm_types import (
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_IO,
    VM_LOCKED,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_WIPEONFORK,
    MmStruct,
    VmArea,
)
from mmlitmus.kernel.mm.mmap_lock import (
    lock_vma_under_rcu,
    mmap_read_lock,
    mmap_read_unlock,
    mmap_write_lock,
    mmap_write_unlock,
    vma_end_read,
    vma_start_write,
)
from mmlitmus.kernel.mm.mmu_gather import MmuGather, tlb_finish_mmu, tlb_gather_mmu
from mmlitmus.kernel.mm.page_alloc import LRU_ON, Folio
from mmlitmus.kernel.mm.pgalloc import pmd_chunks
from mmlitmus.kernel.mm.swap import folio_isolate_lru, lru_add_drain
from mmlitmus.kernel.mm.vma import isolate_range, vma_lookup, vmas_in_range
from mmlitmus.kernel.mm.vma_flags import vm_flags_reset
from mmlitmus.kernel.mm.vmscan import reclaim_pages
from mmlitmus.kernel.policy import Seam, running

(
    MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_DONTFORK,
    MADV_DOFORK, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP,
    MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
    MADV_DONTNEED_LOCKED, MADV_COLLAPSE, MADV_HWPOISON, MADV_SOFT_OFFLINE,
) = (0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 100, 101)  # fmt: skip

#: advice that a mapping of a device never takes, for it is no anonymous memory and no file that can have huge pages
#: (madvise_free_single_vma; MADV_FREE of a MIXEDMAP is EINVAL on 5.10.262, 6.1.192, 6.12.117 and 7.3.4)
NEVER = (MADV_FREE, MADV_COLLAPSE)
#: advice that a locked VMA does not take
NOT_LOCKED = (MADV_DONTNEED, MADV_FREE, MADV_COLD, MADV_PAGEOUT)
#: advice that is refused for a PFNMAP, with mmap_lock R
REFUSED = (
    MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
    MADV_COLLAPSE,
)  # fmt: skip
#: other advice with mmap_lock R
READS = (*REFUSED, MADV_WILLNEED, MADV_REMOVE)
#: advice that changes flags, with mmap_lock W: (bits cleared, bits set)
FLAGS = {
    MADV_NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    MADV_RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    MADV_SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    MADV_MERGEABLE: (0, 0),
    MADV_UNMERGEABLE: (0, 0),
    MADV_HUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    MADV_NOHUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
    MADV_WIPEONFORK: (0, VM_WIPEONFORK),
    MADV_KEEPONFORK: (VM_WIPEONFORK, 0),
    MADV_DONTFORK: (0, VM_DONTCOPY),
    MADV_DOFORK: (VM_DONTCOPY, 0),
    MADV_DONTDUMP: (0, VM_DONTDUMP),
    MADV_DODUMP: (VM_DONTDUMP, 0),
}
POPULATES = (MADV_POPULATE_READ, MADV_POPULATE_WRITE)
#: advice that takes pages away
ZAPS = (MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE)

madvise_behavior_valid = Seam("madvise_behavior_valid", "which advice the kernel knows")
madvise_lock = Seam("madvise_lock", "what is locked while pages are taken away, and when the TLBs are flushed")
madvise_dofork = Seam("madvise_dofork", "which mappings MADV_DOFORK refuses")
madvise_populate = Seam("madvise_populate", "what MADV_POPULATE says of a range that begins in a hole")


def sys_madvise(mm: MmStruct, start: int, length: int, advice: int) -> int:
    """madvise(2) by an unprivileged caller, bytes: 0 or an errno. A hole is -ENOMEM after the rest was done.

    Which advice exists is that of a build with transparent huge pages and KSM.
    """
    poisons = advice in (MADV_HWPOISON, MADV_SOFT_OFFLINE)
    if start & PAGE_SIZE - 1 or not (poisons or madvise_behavior_valid(advice)):
        return -EINVAL
    end = start + (length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1))
    if start == end:
        return 0
    if poisons:
        return -EPERM
    if advice in ZAPS:
        result: int = madvise_lock(mm, start, end, advice)
        return result
    writes = advice in FLAGS
    (mmap_write_lock if writes else mmap_read_lock)(mm)
    if advice in POPULATES:
        error: int = madvise_populate(mm, start, end, advice)
    else:
        error = madvise_walk_vmas(mm, start, end, advice)
    (mmap_write_unlock if writes else mmap_read_unlock)(mm)
    return error


@madvise_lock.alternative(
    "mmap_lock",
    source="mm/madvise.c do_madvise, madvise_need_mmap_write (to 6.12); mm/memory.c zap_page_range (5.10), "
    "zap_page_range_single (6.1 - 6.12)",
    releases="<= v6.15",
)
def zap_under_mmap_lock(mm: MmStruct, start: int, end: int, advice: int) -> int:
    """mmap_lock R throughout; each VMA is flushed before the next is looked at."""
    mmap_read_lock(mm)
    error = madvise_walk_vmas(mm, start, end, advice)
    mmap_read_unlock(mm)
    return error


@madvise_lock.alternative(
    "mmap_lock-one-flush",
    source="'mm/madvise: batch tlb flushes for MADV_DONTNEED and MADV_FREE' (2025); mm/madvise.c madvise_init_tlb "
    "(7.3), madvise_finish_tlb (7.3)",
    releases="v6.16",
)
def zap_and_flush_once(mm: MmStruct, start: int, end: int, advice: int) -> int:
    """... and all of them are flushed at once, before mmap_lock is given up."""
    mmap_read_lock(mm)
    tlb = tlb_gather_mmu(mm)
    error = madvise_walk_vmas(mm, start, end, advice, tlb)
    tlb_finish_mmu(tlb)
    mmap_read_unlock(mm)
    return error


@madvise_lock.alternative(
    "vma_lock",
    source="'mm: use per_vma lock for MADV_DONTNEED', '... for MADV_FREE' (2025); mm/madvise.c get_lock_mode, "
    "try_vma_read_lock, madvise_walk_vmas, madvise_finish_tlb, 7.3.4",
    releases=">= v6.17",
)
def zap_under_vma_lock(mm: MmStruct, start: int, end: int, advice: int) -> int:
    """The VMA's own read lock, if one VMA holds the whole range and it can be had at once; it is given up before the
    flush. Else mmap_lock.
    """
    tlb = tlb_gather_mmu(mm)
    vma = lock_vma_under_rcu(mm, start) if running().has("PER_VMA_LOCK") else None
    if vma is not None and end <= vma.vm_end:
        error = madvise_vma_behavior(vma, start, end, advice, tlb)
        vma_end_read(vma)
        tlb_finish_mmu(tlb)
        return error
    if vma is not None:
        vma_end_read(vma)
    mmap_read_lock(mm)
    error = madvise_walk_vmas(mm, start, end, advice, tlb)
    tlb_finish_mmu(tlb)
    mmap_read_unlock(mm)
    return error


@madvise_behavior_valid.alternative(
    "to-pageout", source="mm/madvise.c madvise_behavior_valid, v5.10; recorded: 5.10.262", releases="<= v5.13"
)
def advice_to_pageout(advice: int) -> bool:
    """Without MADV_POPULATE (5.14), MADV_DONTNEED_LOCKED (5.18), MADV_COLLAPSE (6.1)."""
    return advice in (*READS, *FLAGS) and advice <= MADV_PAGEOUT


@madvise_behavior_valid.alternative(
    "to-collapse", source="mm/madvise.c madvise_behavior_valid, 6.1.192, 6.12.117", releases=">= v6.1"
)
def advice_to_collapse(advice: int) -> bool:
    """All of it."""
    return advice in (*READS, *FLAGS)


@madvise_populate.alternative(
    "by-vma", source="mm/madvise.c madvise_vma (5.10), madvise_vma_behavior (6.1)", releases="<= v6.8"
)
def populate_each_vma(mm: MmStruct, start: int, end: int, advice: int) -> int:
    """As any other advice: what the first VMA says comes before the hole in front of it."""
    return madvise_walk_vmas(mm, start, end, advice)


@madvise_populate.alternative("from-start", source="mm/madvise.c madvise_populate, 6.12.117", releases=">= v6.9")
def populate_from_start(mm: MmStruct, start: int, end: int, advice: int) -> int:
    """From the range's first page on, up to the first that cannot be populated: a hole is -ENOMEM at once."""
    return -ENOMEM if vma_lookup(mm, start) is None else madvise_walk_vmas(mm, start, end, advice)


@madvise_dofork.alternative(
    "not-io", source="mm/madvise.c madvise_behavior (5.10), madvise_vma_behavior (6.1 - 6.12)", releases="<= v6.18"
)
def refused_for_io(flags: int) -> bool:
    """Device memory stays out of children once it is; a VM_MIXEDMAP may go in again."""
    return bool(flags & VM_IO)


@madvise_dofork.alternative("not-special", source="mm/madvise.c madvise_vma_behavior, 7.3.4", releases=">= v7.3")
def refused_for_special(flags: int) -> bool:
    """No special VMA goes in again."""
    return bool(flags & VM_SPECIAL)


def populate_vma(vma: VmArea, start: int, end: int, advice: int) -> int:
    """MADV_POPULATE of one VMA's part: 0, -EINVAL where the VMA does not allow it, or -EFAULT.

    Source: mm/madvise.c madvise_populate; mm/gup.c faultin_vma_page_range (6.1), faultin_page_range (from 6.12).
    """
    flags = FOLL_TOUCH | (FOLL_WRITE if advice == MADV_POPULATE_WRITE else 0)
    if check_vma_flags(vma, flags):
        return -EINVAL
    while start < end:
        got = __get_user_pages(vma.vm_mm, start, end - start >> PAGE_SHIFT, flags, None, None)
        if got <= 0:
            return got
        start += got << PAGE_SHIFT
    return 0


def has_huge_block(vma: VmArea) -> bool:
    """Is there room in the VMA for a 2M page? Where there is none, MADV_COLLAPSE is -EINVAL.

    Source: include/linux/huge_mm.h transhuge_vma_suitable (to 6.1), thp_vma_suitable_order (from 6.12).
    """
    first: int = vma.vm_start + PMD_SIZE - 1 & -PMD_SIZE
    return first + PMD_SIZE <= vma.vm_end


def madvise_pageout(vma: VmArea, start: int, end: int) -> None:
    """Page out what is the process's own and mapped by nobody else; where there is no swap, and in mappings of files,
    nothing happens. Entries stay young.
    """
    machine = vma.vm_mm.machine
    if machine.swap is None or not vma.vm_ops.anonymous:
        return
    lru_add_drain(machine)
    for first, last in pmd_chunks(start, end):
        table = pmd_offset(vma.vm_mm, first)
        entry = table.entry
        if entry != NONE and not pmd_leaf(entry):
            reclaim_pages(machine, madvise_pageout_pte_range(vma, table, first, last))


def madvise_pageout_pte_range(vma: VmArea, table: PteTable, start: int, end: int) -> list[Folio]:
    """The pages of one table that are to be reclaimed, isolated.

    Source: mm/madvise.c madvise_cold_or_pageout_pte_range.
    """
    folios = []
    ptl = pte_offset_map_lock(table)
    for address in range(start, end, PAGE_SIZE):
        folio = vm_normal_page(vma.vm_mm, ptep_get(table, address))
        if folio is not None and folio.lru == LRU_ON and folio.mapcount == 1 and folio_isolate_lru(folio):
            folios.append(folio)
    pte_unmap_unlock(ptl)
    return folios


def madvise_walk_vmas(mm: MmStruct, start: int, end: int, advice: int, tlb: MmuGather | None = None) -> int:
    """Give the advice to every VMA in [start, end): 0 or an errno. The first that refuses ends it. ``tlb``: who flushes
    for them all.

    Source: mm/madvise.c do_madvise (5.10), madvise_walk_vmas (from 6.1).
    """
    error = 0
    at = start
    for vma in vmas_in_range(mm, start, end):
        if vma.vm_start > at:
            error = -ENOMEM
        first, at = max(start, vma.vm_start), min(end, vma.vm_end)
        result = madvise_vma_behavior(vma, first, at, advice, tlb)
        if result:
            error = result
            break
    if not error and at < end:
        error = -ENOMEM
    return error


def madvise_vma_behavior(vma: VmArea, start: int, end: int, advice: int, tlb: MmuGather | None = None) -> int:
    """One VMA's part of the advice: 0 or an errno.

    Source: mm/madvise.c madvise_vma, madvise_behavior (5.10), madvise_vma_behavior (from 6.1), madvise_dontneed_free.
    """
    flags = vma.vm_flags
    if advice in REFUSED:
        if flags & (VM_PFNMAP | VM_IO if advice in POPULATES else VM_PFNMAP):
            return -EINVAL
        if advice == MADV_COLLAPSE and vma.vm_ops.anonymous and has_huge_block(vma):
            not_modelled("MADV_COLLAPSE")
        if advice in NEVER or (advice in NOT_LOCKED and flags & VM_LOCKED):
            return -EINVAL
        if advice in (MADV_DONTNEED, MADV_DONTNEED_LOCKED):
            if tlb is None:
                zap_page_range_single(vma, start, end - start, reclaim_pt=True)
            else:
                zap_page_range_single_batched(tlb, vma, start, end - start, reclaim_pt=True)
        if advice == MADV_PAGEOUT:
            madvise_pageout(vma, start, end)
        return populate_vma(vma, start, end, advice) if advice in POPULATES else 0
    if advice == MADV_WIPEONFORK or (advice == MADV_DOFORK and madvise_dofork(flags)):
        return -EINVAL
    if advice == MADV_DODUMP and flags & VM_SPECIAL:
        return -EINVAL
    if advice == MADV_WILLNEED:
        return 0
    if advice == MADV_REMOVE:
        return -ENODEV if flags & VM_SHARED and flags & VM_MAYWRITE else -EACCES
    clear, set_ = FLAGS[advice]
    new = flags & ~clear | set_
    if new == flags:
        return 0
    error = isolate_range(vma, start, end)
    if error:
        return -EAGAIN if error == -ENOMEM else error
    vma_start_write(vma)
    vm_flags_reset(vma, new, flags)
    return 0
