"""madvise on mappings of device memory, and MADV_PAGEOUT of a process's own. The
refusals are also what the kernel's own tests check (selftests/mm/pfnmap.c).

Source: mm/madvise.c, functions of the same name. Of the model's own: populate_vma, has_huge_block,
madvise_cold_or_pageout, madvise_pages.
"""

from __future__ import annotations

from mmlitmus.kernel.absent import not_modelled
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY_BITS,
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
    ptep_get_and_clear,
    set_pte_at,
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
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
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
from mmlitmus.kernel.mm.mmu_gather import ULONG_MAX, MmuGather, tlb_finish_mmu, tlb_gather_mmu, tlb_remove_tlb_entries
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_CLEAR,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.page_alloc import LRU_ON, Folio
from mmlitmus.kernel.mm.pgalloc import pmd_chunks
from mmlitmus.kernel.mm.swap import folio_isolate_lru, lru_add_drain
from mmlitmus.kernel.mm.vma import vma_lookup, vmas_in_range
from mmlitmus.kernel.mm.vma_flags import vm_flags_reset
from mmlitmus.kernel.mm.vma_merge import vma_modify
from mmlitmus.kernel.mm.vmscan import reclaim_pages
from mmlitmus.kernel.policy import Seam, running

(
    MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_DONTFORK,
    MADV_DOFORK, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP,
    MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
    MADV_DONTNEED_LOCKED, MADV_COLLAPSE, MADV_HWPOISON, MADV_SOFT_OFFLINE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE,
) = (*range(5), *range(8, 26), *range(100, 104))  # fmt: skip

#: advice that a mapping of a device never takes, for it is no anonymous memory and no file that can have huge pages
#: (madvise_free_single_vma; MADV_FREE of a MIXEDMAP is EINVAL on 5.10.262, 6.1.192, 6.12.117 and 7.3.4)
ANONYMOUS = (MADV_FREE, MADV_COLLAPSE)
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
    MADV_MERGEABLE: (0, VM_MERGEABLE),
    MADV_UNMERGEABLE: (VM_MERGEABLE, 0),
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
GUARDS = (MADV_GUARD_INSTALL, MADV_GUARD_REMOVE)
#: what KSM never merges: MADV_MERGEABLE of it is a success that does nothing
NOT_MERGEABLE = VM_SHARED | VM_MAYSHARE | VM_SPECIAL

madvise_behavior_valid = Seam("madvise_behavior_valid", "which advice the kernel knows")
madvise_lock = Seam("madvise_lock", "what is locked while pages are taken away, and when the TLBs are flushed")
madvise_dofork = Seam("madvise_dofork", "which mappings MADV_DOFORK refuses")
madvise_pageout_young = Seam("madvise_pageout_young", "whether MADV_PAGEOUT makes the entries old")
madvise_populate = Seam("madvise_populate", "what MADV_POPULATE does where there is a hole")


def sys_madvise(mm: MmStruct, start: int, length: int, advice: int) -> int:
    """madvise(2) by an unprivileged caller, bytes: 0 or an errno. A hole is -ENOMEM after the rest was done.

    Which advice exists is that of a build with transparent huge pages and KSM.
    """
    poisons = advice in (MADV_HWPOISON, MADV_SOFT_OFFLINE)
    if start & PAGE_SIZE - 1 or not (poisons or madvise_behavior_valid(advice)):
        return -EINVAL
    end = start + (length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1) & ULONG_MAX)
    if end > ULONG_MAX or (length and start == end):
        return -EINVAL
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
    "to-collapse", source="mm/madvise.c madvise_behavior_valid, 6.1.192, 6.12.117", releases="v6.1 - v6.12"
)
def advice_to_collapse(advice: int) -> bool:
    """Without guard regions."""
    return advice in (*READS, *FLAGS)


@madvise_behavior_valid.alternative(
    "to-guard", source="mm/madvise.c madvise_behavior_valid, 7.3.4", releases=">= v6.13"
)
def advice_to_guard(advice: int) -> bool:
    """All of it."""
    return advice in (*READS, *FLAGS, *GUARDS)


@madvise_populate.alternative(
    "by-vma", source="mm/madvise.c madvise_vma (5.10), madvise_vma_behavior (6.1)", releases="<= v6.8"
)
def populate_each_vma(mm: MmStruct, start: int, end: int, advice: int) -> int:
    """As any other advice: what the first VMA says comes before the hole in front of it."""
    return madvise_walk_vmas(mm, start, end, advice)


@madvise_populate.alternative("from-start", source="mm/madvise.c madvise_populate, 6.12.117", releases=">= v6.9")
def populate_from_start(mm: MmStruct, start: int, end: int, advice: int) -> int:
    """From the range's first page on, up to the first that cannot be populated: behind a hole nothing is."""
    while start < end:
        vma = vma_lookup(mm, start)
        if vma is None:
            return -ENOMEM
        upto = min(end, vma.vm_end)
        error = populate_vma(vma, start, upto, advice)
        if error:
            return error
        start = upto
    return 0


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


def madvise_cold_or_pageout(vma: VmArea, start: int, end: int, pageout: bool) -> None:
    """Make entries old, or page out what is the process's own; both only of pages that nobody else maps. Where there is
    no swap nothing goes out; nor does what a mapping of a device has copied (the kernel would page it out, too).

    Source: mm/madvise.c madvise_cold, madvise_pageout.
    """
    machine, mm = vma.vm_mm.machine, vma.vm_mm
    lru_add_drain(machine)
    reclaims = pageout and machine.swap is not None and vma.vm_ops.anonymous
    ages = not pageout or madvise_pageout_young()
    if not (reclaims or ages):
        return
    tlb = tlb_gather_mmu(mm)
    for first, last in pmd_chunks(start, end):
        table = pmd_offset(mm, first)
        entry = table.entry
        if pmd_leaf(entry):
            not_modelled("advice about a huge page of a process's own")
        if entry != NONE:
            folios = madvise_cold_or_pageout_pte_range(tlb, vma, table, first, last, ages, reclaims)
            reclaim_pages(machine, folios)
    tlb_finish_mmu(tlb)


def madvise_cold_or_pageout_pte_range(
    tlb: MmuGather, vma: VmArea, table: PteTable, start: int, end: int, ages: bool, reclaims: bool
) -> list[Folio]:
    """The pages of one table that are to be reclaimed, isolated; their entries made old if ``ages``."""
    folios = []
    ptl = pte_offset_map_lock(table)
    for address in range(start, end, PAGE_SIZE):
        entry = ptep_get(table, address)
        folio = vm_normal_page(vma, address, entry)
        if folio is None or folio.lru != LRU_ON or folio.mapcount != 1:
            continue
        if ages and entry & ACCESSED:
            set_pte_at(table, address, ptep_get_and_clear(table, address) & ~ACCESSED)
            tlb_remove_tlb_entries(tlb, address, address + PAGE_SIZE)
        if reclaims and folio_isolate_lru(folio):
            folios.append(folio)
    pte_unmap_unlock(ptl)
    return folios


@madvise_pageout_young.alternative(
    "cleared", source="mm/madvise.c madvise_cold_or_pageout_pte_range, 5.10.262, 6.1.192", releases="<= v6.8"
)
def pageout_makes_old() -> bool:
    """As MADV_COLD does, or reclaim would take the page for used."""
    return True


@madvise_pageout_young.alternative(
    "kept", source="mm/madvise.c madvise_cold_or_pageout_pte_range, 6.12.117", releases=">= v6.9"
)
def pageout_ignores_references() -> bool:
    """Reclaim is told to ignore it."""
    return False


def madvise_free_single_vma(vma: VmArea, start: int, end: int, shared: MmuGather | None) -> int:
    """MADV_FREE of memory of the process's own: its entries become old and clean, and the pages may be thrown away
    before somebody writes to them again. Nobody does so by himself here: 0.
    ``shared``: who flushes, where it is not done at once.
    """
    mm = vma.vm_mm
    if mm.machine.swap is not None:
        not_modelled("MADV_FREE beside swap")
    lru_add_drain(mm.machine)
    tlb = tlb_gather_mmu(mm) if shared is None else shared
    range = mmu_notifier_range_init(mm, MMU_NOTIFY_CLEAR, start, end)
    mmu_notifier_invalidate_range_start(range)
    for first, last in pmd_chunks(start, end):
        table = pmd_offset(mm, first)
        entry = table.entry
        if pmd_leaf(entry):
            not_modelled("advice about a huge page of a process's own")
        if entry != NONE:
            madvise_free_pte_range(tlb, vma, table, first, last)
    mmu_notifier_invalidate_range_end(range)
    if shared is None:
        tlb_finish_mmu(tlb)
    return 0


def madvise_free_pte_range(tlb: MmuGather, vma: VmArea, table: PteTable, start: int, end: int) -> None:
    """One table's entries. What is not present, and what is no page, stays."""
    ptl = pte_offset_map_lock(table)
    for address in range(start, end, PAGE_SIZE):
        entry = ptep_get(table, address)
        if vm_normal_page(vma, address, entry) is not None and entry & (ACCESSED | DIRTY_BITS):
            set_pte_at(table, address, ptep_get_and_clear(table, address) & ~(ACCESSED | DIRTY_BITS))
            tlb_remove_tlb_entries(tlb, address, address + PAGE_SIZE)
    pte_unmap_unlock(ptl)


def madvise_walk_vmas(mm: MmStruct, start: int, end: int, advice: int, tlb: MmuGather | None = None) -> int:
    """Give the advice to every VMA in [start, end): 0 or an errno. The first that refuses ends it. ``tlb``: who flushes
    for them all.

    Source: mm/madvise.c do_madvise (5.10), madvise_walk_vmas (from 6.1).
    """
    error = 0
    at = start
    while at < end and (vmas := vmas_in_range(mm, at, end)):
        vma = vmas[0]
        if vma.vm_start > at:
            error = -ENOMEM
        first, at = max(at, vma.vm_start), min(end, vma.vm_end)
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
    anonymous = vma.vm_ops.anonymous and not flags & VM_SHARED
    if advice in GUARDS:
        if flags & (VM_SPECIAL | (VM_LOCKED if advice == MADV_GUARD_INSTALL else 0)):
            return -EINVAL
        not_modelled("guard regions")
    if advice in REFUSED:
        if flags & (VM_PFNMAP | VM_IO if advice in POPULATES else VM_PFNMAP):
            return -EINVAL
        if advice in NOT_LOCKED and flags & VM_LOCKED:
            return -EINVAL
        if advice in ANONYMOUS and not anonymous:
            return -EINVAL
        return madvise_pages(vma, start, end, advice, tlb)
    if advice == MADV_WIPEONFORK and not anonymous:
        return -EINVAL
    if advice == MADV_DOFORK and madvise_dofork(flags):
        return -EINVAL
    if advice == MADV_DODUMP and flags & VM_SPECIAL:
        return -EINVAL
    if advice == MADV_WILLNEED:
        return madvise_willneed(vma)
    if advice == MADV_REMOVE:
        return madvise_remove(vma, flags)
    if advice == MADV_MERGEABLE and flags & NOT_MERGEABLE:
        return 0
    clear, set_ = FLAGS[advice]
    new = flags & ~clear | set_
    if new == flags:
        return 0
    was = vma
    error, vma = vma_modify(vma, start, end, new)
    if error:
        return -EAGAIN if error == -ENOMEM else error
    vma_start_write(vma)
    vm_flags_reset(vma, new, flags if vma is was else vma.vm_flags)
    return 0


def madvise_pages(vma: VmArea, start: int, end: int, advice: int, tlb: MmuGather | None) -> int:
    """Advice that does something to pages: 0 or an errno. ``tlb``: who flushes what is taken away.

    Source: mm/madvise.c madvise_dontneed_free, madvise_cold, madvise_pageout, madvise_populate.
    """
    if advice in POPULATES:
        return populate_vma(vma, start, end, advice)
    if advice == MADV_FREE:
        return madvise_free_single_vma(vma, start, end, tlb)
    if advice == MADV_COLLAPSE:
        if has_huge_block(vma):
            not_modelled("MADV_COLLAPSE")
        return -EINVAL
    if advice in (MADV_COLD, MADV_PAGEOUT):
        madvise_cold_or_pageout(vma, start, end, advice == MADV_PAGEOUT)
    elif tlb is None:
        zap_page_range_single(vma, start, end - start, reclaim_pt=True)
    else:
        zap_page_range_single_batched(tlb, vma, start, end - start, reclaim_pt=True)
    return 0


def madvise_willneed(vma: VmArea) -> int:
    """Read ahead what is in swap, or in a file. A device has nothing to read ahead, and nobody waits for it here: 0."""
    return 0


def madvise_remove(vma: VmArea, flags: int) -> int:
    """Punch a hole into the file, which a device file has not: an errno."""
    if vma.vm_ops.anonymous and flags & VM_SHARED:
        not_modelled("shared anonymous memory")
    if flags & VM_LOCKED or vma.vm_ops.anonymous:
        return -EINVAL
    return -ENODEV if flags & VM_SHARED and flags & VM_MAYWRITE else -EACCES
