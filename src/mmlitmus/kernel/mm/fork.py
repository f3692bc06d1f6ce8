"""fork: duplicating an mm.

Source: kernel/fork.c dup_mmap (to 6.12), mm/mmap.c dup_mmap (7.3), mm/memory.c, functions of the same name.
"""

from __future__ import annotations

from mmlitmus.explore.findings import reached
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY,
    DIRTY_BITS,
    NONE,
    PAGE_SIZE,
    RW,
    SOFT_DIRTY,
    PteTable,
    mk_pte,
    pmd_leaf,
    pmd_offset,
    pte_present,
    ptep_get,
    ptep_set_wrprotect,
    pud_inherit,
    pud_leaf,
    pud_offset,
    pud_populate,
    set_pte_at,
    stop_writing,
)
from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.errno import EAGAIN, EBUSY, ENOMEM
from mmlitmus.kernel.mm.huge_memory import copy_huge_pmd, copy_huge_pud
from mmlitmus.kernel.mm.memory_pages import map_anon_folio, vm_normal_page
from mmlitmus.kernel.mm.memory_swap import try_restore_exclusive_pte
from mmlitmus.kernel.mm.mm_types import (
    VM_DONTCOPY,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    MmStruct,
    VmArea,
    is_cow_mapping,
    vma_pages,
)
from mmlitmus.kernel.mm.mmap_lock import mmap_write_lock, mmap_write_lock_nested, mmap_write_unlock, vma_start_write
from mmlitmus.kernel.mm.mmu_gather import TASK_SIZE
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_PROTECTION_PAGE,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.page_alloc import Folio, alloc_folio, folio_get, folio_maybe_dma_pinned, folio_put, page_tables
from mmlitmus.kernel.mm.pfnmap_track import design as tracking
from mmlitmus.kernel.mm.pgalloc import pmd_chunks, pmd_page, pte_alloc, pte_batches, pud_chunks, walk_to_pmd
from mmlitmus.kernel.mm.swapfile import slot_of, swap_duplicate
from mmlitmus.kernel.mm.swapops import (
    SWP_EXCLUSIVE,
    SWP_MIGRATION_READ,
    SWP_SOFT_DIRTY,
    is_device_exclusive_entry,
    is_swap_entry,
    make_migration_entry,
    migration_pfn,
    migration_type,
)
from mmlitmus.kernel.mm.vma import store_in_tree, vm_area_dup, vma_interval_tree_insert_after, vma_tree
from mmlitmus.kernel.policy import Seam, running
from mmlitmus.kernel.sync.rwsem import down_write, up_write
from mmlitmus.kernel.sync.spinlock import SINGLE_DEPTH_NESTING, spin_lock, spin_lock_nested, spin_unlock

dup_mmap_vma = Seam("dup_mmap", "in what order a child's VMA is linked, its page tables copied, and ->open called")
copy_present_page = Seam("copy_present_page", "which pages fork copies at once, because they look pinned")
write_protect = Seam("write_protect_seq", "how fast GUP learns that fork write-protects beside it")


def dup_mmap(mm: MmStruct, oldmm: MmStruct) -> int:
    """Give the new ``mm`` a copy of every VMA of ``oldmm``: 0 or an errno. Holds both mmap_locks W throughout."""
    mmap_write_lock(oldmm)
    mmap_write_lock_nested(mm, 1)
    pud_inherit(mm, oldmm)
    error = 0
    for mpnt in vma_tree(oldmm):
        vma_start_write(mpnt)
        flags = mpnt.vm_flags
        if flags & VM_DONTCOPY:
            continue
        tmp = vm_area_dup(mpnt, mm)
        if tmp is None:
            error = -ENOMEM
            break
        tmp.vm_flags = flags & ~(VM_LOCKED | VM_LOCKONFAULT)
        if flags & VM_WIPEONFORK:
            tmp.anon_vma = ()
        if flags & VM_PFNMAP:
            tracking().fork_dup(tmp)
        pud_populate(mm, tmp.vm_start, tmp.vm_end)
        mm.total_vm = mm.total_vm + vma_pages(mpnt)
        mm.machine.get_file(tmp.vm_file)
        error = dup_mmap_vma(tmp, mpnt)
        if error:
            break
    flush_tlb_range(oldmm, 0, TASK_SIZE)
    mmap_write_unlock(mm)
    mmap_write_unlock(oldmm)
    return error


def i_mmap_insert_after(tmp: VmArea, mpnt: VmArea) -> None:
    """Link the child's VMA into the reverse map directly behind its parent's.

    Source: mm/interval_tree.c vma_interval_tree_insert_after (to 6.12), mapping_rmap_tree_insert_after (7.3).
    """
    mapping = tmp.vm_file.f_mapping
    down_write(mapping.i_mmap_rwsem)
    vma_interval_tree_insert_after(tmp, mpnt)
    up_write(mapping.i_mmap_rwsem)


@dup_mmap_vma.alternative("open-after-copy", source="kernel/fork.c dup_mmap, v5.10 - v6.8", releases="<= v6.8")
def link_copy_open(tmp: VmArea, mpnt: VmArea) -> int:
    """Reverse map, tree, page tables, ->open last (a failed copy's too): a driver's ->open sees the copied
    translations.
    """
    i_mmap_insert_after(tmp, mpnt)
    store_in_tree(tmp)
    error = copy_page_range(tmp, mpnt)
    tmp.vm_ops.open(tmp)
    return error


@dup_mmap_vma.alternative(
    "open-before-copy",
    source="35e351780fa9 'fork: defer linking file vma until fully initialized'; kernel/fork.c dup_mmap (6.1 - 6.12), "
    "mm/mmap.c dup_mmap (7.3)",
    releases=">= v6.9, deb-6.1.192",
)
def open_link_copy(tmp: VmArea, mpnt: VmArea) -> int:
    """Tree, ->open, reverse map, page tables last: a driver's ->open sees an empty VMA that is then filled."""
    store_in_tree(tmp)
    tmp.vm_ops.open(tmp)
    i_mmap_insert_after(tmp, mpnt)
    return copy_page_range(tmp, mpnt)


@dup_mmap_vma.alternative("link-after-copy", source="negative control, dossier S-FORK-01", releases="never")
def open_copy_link(tmp: VmArea, mpnt: VmArea) -> int:
    """Page tables before the reverse map: what is copied can be missed by unmap_mapping_range."""
    store_in_tree(tmp)
    tmp.vm_ops.open(tmp)
    error = copy_page_range(tmp, mpnt)
    i_mmap_insert_after(tmp, mpnt)
    return error


@dup_mmap_vma.alternative("link-before-parent", source="negative control, dossier S-FORK-01", releases="never")
def open_link_before_copy(tmp: VmArea, mpnt: VmArea) -> int:
    """The child in front of its parent: unmap_mapping_range has passed the child when the parent's page is copied."""
    store_in_tree(tmp)
    tmp.vm_ops.open(tmp)
    mapping = tmp.vm_file.f_mapping
    down_write(mapping.i_mmap_rwsem)
    mapping.i_mmap.insert(mapping.i_mmap.index(mpnt), tmp)
    up_write(mapping.i_mmap_rwsem)
    return copy_page_range(tmp, mpnt)


def copy_page_range(dst_vma: VmArea, src_vma: VmArea) -> int:
    """Copy every translation of a PFNMAP or MIXEDMAP VMA, eagerly: nothing would fill the child's later. 0 or an errno.

    A VMA whose pages are counted is copied if it has a page of its own; one that has only been read is left to the
    child's faults, as are all others, and gets no page table; so is what MADV_WIPEONFORK keeps from the child.
    Source: kernel/fork.c dup_mmap (to 6.12), mm/mmap.c dup_mmap (7.3); mm/memory.c copy_page_range (5.10),
    vma_needs_copy (from 6.1).
    """
    if not src_vma.has(VM_PFNMAP | VM_MIXEDMAP) and not src_vma.anon_vma:
        return 0
    if src_vma.vm_ops.anonymous and not dst_vma.peek("anon_vma"):
        return 0
    pfn = 0
    if src_vma.has(VM_PFNMAP):
        error, pfn = tracking().copy(dst_vma, src_vma)
        if error:
            return int(error)
    cow = is_cow_mapping(src_vma.has(VM_SHARED | VM_MAYWRITE))
    mm = src_vma.vm_mm
    range = mmu_notifier_range_init(mm, MMU_NOTIFY_PROTECTION_PAGE, src_vma.vm_start, src_vma.vm_end)
    if cow:
        mmu_notifier_invalidate_range_start(range)
        running().chosen(write_protect).begin(mm)
    error = copy_pud_range(dst_vma, src_vma)
    if cow:
        running().chosen(write_protect).end(mm)
        mmu_notifier_invalidate_range_end(range)
    if error and src_vma.has(VM_PFNMAP):
        tracking().copy_failed(dst_vma, pfn)
    return error


def copy_pud_range(dst_vma: VmArea, src_vma: VmArea) -> int:
    """``copy_page_range`` without the tracking: 0 or an errno."""
    for first, last in pud_chunks(src_vma.vm_start, src_vma.vm_end):
        pud = pud_offset(src_vma.vm_mm, first)
        dst_pud = pud_offset(dst_vma.vm_mm, first)
        if pud is not None and dst_pud is not None:
            upper = pud.entry
            if pud_leaf(upper):
                copy_huge_pud(dst_vma, dst_pud, pud)
            if pud_leaf(upper) or upper == NONE:
                continue
        if src_vma.vm_mm.notifier_subscriptions and pmd_page(src_vma.vm_mm, first).there:
            pmd_page(dst_vma.vm_mm, first).there = True
        error = copy_pmd_range(dst_vma, src_vma, first, last)
        if error:
            return error
    return 0


def copy_pmd_range(dst_vma: VmArea, src_vma: VmArea, first: int, last: int) -> int:
    """The part below the 1G leaves: 0 or an errno."""
    for start, stop in pmd_chunks(first, last):
        src = pmd_offset(src_vma.vm_mm, start)
        entry = src.entry
        if entry == NONE:
            continue
        dst = walk_to_pmd(dst_vma.vm_mm, start)
        if pmd_leaf(entry):
            copy_huge_pmd(dst, src, entry)
        elif copy_pte_range(dst_vma, src_vma, dst, src, start, stop):
            return -ENOMEM
    return 0


def copy_pte_range(dst_vma: VmArea, src_vma: VmArea, dst: PteTable, src: PteTable, addr: int, end: int) -> int:
    """Copy the PTEs of one table, the child's lock outside the parent's: 0 or an errno. Absent entries stay absent.

    A page that has to be copied now needs memory, for which both locks are dropped; then it goes on from there. -EBUSY:
    somebody has locked a page that a device has for itself. (The callers say -ENOMEM of any error.)
    """
    mm = dst_vma.vm_mm
    if pte_alloc(mm, dst) < 0:
        return -ENOMEM
    prealloc: Folio | None = None
    while addr < end:
        addr, used, error = copy_pte_batch(dst_vma, src_vma, dst, src, addr, end, prealloc)
        prealloc = None if used else prealloc
        if error == -EBUSY:
            if prealloc is not None:
                folio_put(prealloc, page_tables(mm))
            return error
        if addr < end:
            prealloc = alloc_folio(mm, "fork's copy")
            if prealloc is None:
                return -ENOMEM
    if prealloc is not None:
        folio_put(prealloc, page_tables(mm))
    return 0


def copy_pte_batch(
    dst_vma: VmArea, src_vma: VmArea, dst: PteTable, src: PteTable, addr: int, end: int, prealloc: Folio | None
) -> tuple[int, bool, int]:
    """``copy_pte_range`` as far as ``prealloc`` will do: where it stopped, whether that page was used, and an errno.

    Source: mm/memory.c copy_pte_range.
    """
    used = False
    spin_lock(dst.ptl)
    spin_lock_nested(src.ptl, SINGLE_DEPTH_NESTING)
    for start, nr in pte_batches(addr, end, dst_vma.vm_mm.machine.batch):
        for page in range(start, start + nr * PAGE_SIZE, PAGE_SIZE):
            entry = ptep_get(src, page)
            if entry == NONE:
                continue
            if is_device_exclusive_entry(entry):
                if not try_restore_exclusive_pte(src_vma, src, page, entry):
                    spin_unlock(src.ptl)
                    spin_unlock(dst.ptl)
                    return page, used, -EBUSY
                entry = ptep_get(src, page)
            elif not pte_present(entry):
                copy_nonpresent_pte(dst_vma.vm_mm, dst, src, page, entry)
                continue
            done = copy_present_pte(dst_vma, src_vma, dst, src, page, entry, None if used else prealloc)
            if done == -EAGAIN:
                spin_unlock(src.ptl)
                spin_unlock(dst.ptl)
                return page, used, 0
            used = used or done == 1
    spin_unlock(src.ptl)
    spin_unlock(dst.ptl)
    return end, used, 0


def copy_nonpresent_pte(mm: MmStruct, dst: PteTable, src: PteTable, addr: int, entry: int) -> None:
    """The entry of a page under migration or in swap: neither may write afterwards, and nobody has it for himself. A
    slot is counted once more.
    """
    if is_swap_entry(entry):
        swap_duplicate(slot_of(mm.machine, entry))
        if entry & SWP_EXCLUSIVE:
            entry &= ~SWP_EXCLUSIVE
            set_pte_at(src, addr, entry)
    elif migration_type(entry) != SWP_MIGRATION_READ:
        soft_dirty = SOFT_DIRTY if entry & SWP_SOFT_DIRTY else 0
        entry = make_migration_entry(migration_pfn(entry), SWP_MIGRATION_READ, soft_dirty)
        set_pte_at(src, addr, entry)
    set_pte_at(dst, addr, entry)


def copy_present_pte(
    dst_vma: VmArea, src_vma: VmArea, dst: PteTable, src: PteTable, addr: int, entry: int, prealloc: Folio | None
) -> int:
    """One present entry: 0 when it is shared, 1 when the child got ``prealloc`` as a copy, -EAGAIN to ask for one.

    A shared mapping's child entry is clean and old; a private one is write-protected on both sides.

    Source: mm/memory.c copy_present_pte (to 6.1), copy_present_ptes (from 6.12).
    """
    flags = src_vma.has(VM_SHARED | VM_MAYWRITE)
    folio = vm_normal_page(src_vma, addr, entry)
    if folio is not None:
        if folio.anon and is_cow_mapping(flags) and copy_present_page(src_vma.vm_mm, folio):
            if prealloc is None:
                return -EAGAIN
            new = mk_pte(prealloc.pfn, dst_vma.vm_page_prot) | DIRTY | SOFT_DIRTY | RW
            new = new if dst_vma.vm_flags & VM_WRITE else stop_writing(new)
            map_anon_folio(dst_vma.vm_mm, dst, addr, prealloc, new)
            reached("fork copied a pinned page")
            return 1
        folio_get(folio, page_tables(dst_vma.vm_mm))
        folio.anon_exclusive = False
        folio.add_return("mapcount", 1)
    if is_cow_mapping(flags) and entry & RW:
        ptep_set_wrprotect(src, addr)
        entry = src.peek_pte(addr)
    if flags & VM_SHARED:
        entry &= ~DIRTY_BITS
    set_pte_at(dst, addr, entry & ~ACCESSED)
    return 0


@copy_present_page.alternative("pinned", source="mm/memory.c copy_present_page, v5.10", releases="<= v5.18")
def if_it_looks_pinned(mm: MmStruct, folio: Folio) -> bool:
    """If the mm has pinned anything, and this page looks pinned."""
    return bool(mm.has_pinned) and folio_maybe_dma_pinned(folio)


@copy_present_page.alternative(
    "exclusive-and-pinned",
    source="include/linux/rmap.h page_try_dup_anon_rmap (6.1), folio_try_dup_anon_rmap_pte (from 6.12)",
    releases=">= v5.19",
)
def if_it_is_exclusive_and_looks_pinned(mm: MmStruct, folio: Folio) -> bool:
    """And if it is exclusive: a shared page's pin was made for reading it as it is, and it stays shared."""
    return bool(folio.anon_exclusive) and bool(mm.has_pinned) and folio_maybe_dma_pinned(folio)


# -- against fast GUP -------------------------------------------------------------------------------------------------
@write_protect.alternative("unseen", source="mm/memory.c copy_page_range, v5.10", releases="<= v5.10")
class Unseen:
    """Fast GUP is not told: a page that it pins beside fork is write-protected and shared all the same."""

    @staticmethod
    def begin(mm: MmStruct) -> None:
        """Nothing."""

    @staticmethod
    def end(mm: MmStruct) -> None:
        """Nothing."""

    @staticmethod
    def read(mm: MmStruct) -> int:
        """The same, always."""
        return 0

    @staticmethod
    def retry(mm: MmStruct, seen: int) -> bool:
        """Never."""
        return False


@write_protect.alternative(
    "seqcount",
    source="57efa1fe5957 'mm/gup: prevent gup_fast from racing with COW during fork'; mm/memory.c copy_page_range, "
    "6.1.192; mm/gup.c lockless_pages_from_mm (to 6.1), gup_fast (from 6.12)",
    releases=">= v5.11, deb-5.10.262",
)
class SeqCount:
    """fork makes ``write_protect_seq`` odd while it goes through a private mapping; fast GUP that has seen it odd, or
    changed, gives its pins back and takes mmap_lock.
    """

    @staticmethod
    def begin(mm: MmStruct) -> None:
        """fork begins."""
        mm.add_return("write_protect_seq", 1)

    @staticmethod
    def end(mm: MmStruct) -> None:
        """fork is through."""
        mm.add_return("write_protect_seq", 1)

    @staticmethod
    def read(mm: MmStruct) -> int:
        """What fast GUP compares with afterwards."""
        seen: int = mm.write_protect_seq
        return seen

    @staticmethod
    def retry(mm: MmStruct, seen: int) -> bool:
        """Has fork been there in the meantime?"""
        changed: bool = mm.write_protect_seq != seen
        return changed
