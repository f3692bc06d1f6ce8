"""mremap. Source: mm/mremap.c, functions of the same name (rewritten around a struct since, same order)."""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SIZE,
    SOFT_DIRTY,
    TABLE,
    pmd_leaf,
    pmd_offset,
    pmdp_huge_get_and_clear,
    pte_present,
    ptep_get,
    ptep_get_and_clear,
    pud_leaf,
    pud_offset,
    pud_populate,
    set_pte_at,
)
from mmlitmus.kernel.arch.x86.tlb import flush_tlb_range
from mmlitmus.kernel.errno import EAGAIN, EFAULT, EINVAL, ENOMEM
from mmlitmus.kernel.mm.huge_memory import pud_clear_bad, split_huge_pmd
from mmlitmus.kernel.mm.mlock import mm_populate
from mmlitmus.kernel.mm.mm_types import (
    VM_DONTEXPAND,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SHARED,
    VM_SPECIAL,
    MmStruct,
    VmArea,
    VmOperations,
)
from mmlitmus.kernel.mm.mmap import do_munmap, get_unmapped_area
from mmlitmus.kernel.mm.mmap_lock import mmap_read_unlock, mmap_write_lock, mmap_write_unlock, vma_start_write
from mmlitmus.kernel.mm.mmu_gather import TASK_SIZE, ULONG_MAX
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_UNMAP,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_range_init,
)
from mmlitmus.kernel.mm.pfnmap_track import design as tracking
from mmlitmus.kernel.mm.pgalloc import pte_alloc, walk_to_pmd
from mmlitmus.kernel.mm.rmap import i_mmap_lock_write, i_mmap_unlock_write
from mmlitmus.kernel.mm.swapops import SWP_SOFT_DIRTY
from mmlitmus.kernel.mm.vma import (
    isolate_range,
    store_in_tree,
    vm_area_dup,
    vma_expand,
    vma_link_file,
    vma_lookup,
    vmas_in_range,
)
from mmlitmus.kernel.mm.vma_flags import vm_flags_clear
from mmlitmus.kernel.mm.vma_merge import merge_with_next, own_memory, vma_merge_new_range
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.spinlock import SINGLE_DEPTH_NESTING, spin_lock, spin_lock_nested, spin_unlock

MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4

mremap_dontunmap = Seam("mremap_dontunmap", "which mappings MREMAP_DONTUNMAP refuses")
prep_move_vma = Seam("prep_move_vma", "what mremap asks a driver before it moves part of his mapping")
unlock_source = Seam("mremap_dontunmap_locked", "what MREMAP_DONTUNMAP unlocks where a part of locked memory moves")
unlink_source = Seam("mremap_dontunmap_anon_vma", "whether what MREMAP_DONTUNMAP leaves has an anon_vma still")
move_back = Seam("move_vma", "how a move that fails is taken back")
expand_in_place = Seam("expand_in_place", "which mappings mremap grows where they are")
do_mremap = Seam("do_mremap", "what mremap looks at before it takes away what is mapped at its target")


def sys_mremap(mm: MmStruct, addr: int, old_len: int, new_len: int, flags: int, new_addr: int) -> int:
    """mremap(2), lengths in bytes: the new address, or an errno. A length that wraps is none. What a locked mapping has
    grown by is faulted in at once.
    """
    old_len = old_len + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1) & ULONG_MAX
    new_len = new_len + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1) & ULONG_MAX
    if flags & ~7 or (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) and not flags & MREMAP_MAYMOVE):
        return -EINVAL
    if (flags & MREMAP_DONTUNMAP and old_len != new_len) or addr & PAGE_SIZE - 1 or not new_len:
        return -EINVAL
    mmap_write_lock(mm)
    result, downgraded = do_mremap(mm, addr, old_len, new_len, flags, new_addr)
    grown = vma_lookup(mm, result) if new_len > old_len and result >= 0 else None
    populates = grown is not None and grown.vm_flags & VM_LOCKED
    if downgraded:
        mmap_read_unlock(mm)
    else:
        mmap_write_unlock(mm)
    if populates:
        mm_populate(mm, result + old_len, result + new_len)
    return int(result)


@do_mremap.alternative("target-first", source="mm/mremap.c sys_mremap, v5.10", releases="<= v5.13")
def mremap_target_first(
    mm: MmStruct, addr: int, old_len: int, new_len: int, flags: int, new_addr: int
) -> tuple[int, bool]:
    """Where nothing is mapped, a move fails when its target is gone; to shrink what is not there is a success."""
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return mremap_to(mm, addr, old_len, new_addr, new_len, flags), False
    return mremap_at(mm, addr, old_len, new_len, flags)


@do_mremap.alternative("address-first", source="mm/mremap.c sys_mremap, 6.1.192, 6.12.117", releases="v6.1 - v6.16")
def mremap_address_first(
    mm: MmStruct, addr: int, old_len: int, new_len: int, flags: int, new_addr: int
) -> tuple[int, bool]:
    """Something has to be mapped at ``addr``; all else is looked at when the target is gone."""
    if vma_lookup(mm, addr) is None:
        return -EFAULT, False
    return mremap_target_first(mm, addr, old_len, new_len, flags, new_addr)


@do_mremap.alternative(
    "all-first",
    source="mm/mremap.c do_mremap, check_mremap_params, check_prep_vma, remap_move, v6.17; recorded: 7.3.4",
    releases=">= v6.17",
)
def mremap_all_first(
    mm: MmStruct, addr: int, old_len: int, new_len: int, flags: int, new_addr: int
) -> tuple[int, bool]:
    """A move that cannot be leaves its target alone; one of unchanged length may be of several VMAs."""
    moves = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)
    if moves and overlaps(addr, old_len, new_addr, new_len):
        return -EINVAL, False
    if flags & MREMAP_FIXED and old_len == new_len:
        return remap_move(mm, addr, old_len, new_addr, flags), False
    error = -EFAULT if vma_lookup(mm, addr) is None else 0
    if moves or new_len > old_len:
        error = vma_to_resize(mm, addr, min(old_len, new_len), new_len, flags)
    if error:
        return error, False
    return mremap_target_first(mm, addr, old_len, new_len, flags, new_addr)


def remap_move(mm: MmStruct, addr: int, length: int, new_addr: int, flags: int) -> int:
    """Move every VMA in a range, gaps between them kept: the new address, or an errno. What was moved before one that
    cannot be stays moved.

    Source: mm/mremap.c remap_move (7.3); none (to 6.12).
    """
    result = -EFAULT
    target, last_end = new_addr, addr
    for vma in vmas_in_range(mm, addr, addr + length):
        first, end = max(vma.vm_start, addr), min(vma.vm_end, addr + length)
        if result < 0 and first > addr:
            return -EFAULT
        target += first - last_end
        last_end = end
        error = vma_to_resize(mm, first, end - first, end - first, flags)
        if error:
            return error
        moved = mremap_to(mm, first, end - first, target, end - first, flags)
        if moved < 0:
            return moved
        result = moved if result < 0 else result
        target = moved + end - first
    return result


def mremap_at(mm: MmStruct, addr: int, old_len: int, new_len: int, flags: int) -> tuple[int, bool]:
    """A change of length where it is: the address, or an errno, and whether mmap_lock was downgraded.

    Source: mm/mremap.c sys_mremap (to 6.12), mremap_at (7.3).
    """
    if old_len == new_len:
        return addr, False
    if old_len > new_len:
        result = do_munmap(mm, addr + new_len, old_len - new_len, downgrade=True)
        return (addr, True) if result == 1 else (result or addr, False)
    error = vma_to_resize(mm, addr, old_len, new_len, flags)
    if error:
        return error, False
    vma = vma_lookup(mm, addr)
    assert vma is not None, "vma_to_resize has looked"
    if old_len == vma.vm_end - addr and vma_expandable(vma, new_len - old_len):
        if not expand_in_place(vma, addr + new_len):
            return -ENOMEM, False
        mm.total_vm = mm.total_vm + (new_len - old_len >> PAGE_SHIFT)
        if vma.vm_flags & VM_LOCKED:
            mm.locked_vm = mm.locked_vm + (new_len - old_len >> PAGE_SHIFT)
        return addr, False
    if not flags & MREMAP_MAYMOVE:
        return -ENOMEM, False
    new_addr = get_unmapped_area(mm, new_len)
    return (move_vma(vma, addr, old_len, new_len, new_addr, flags) if new_addr >= 0 else new_addr), False


def vma_expandable(vma: VmArea, delta: int) -> bool:
    """Is nothing mapped in the ``delta`` bytes behind the VMA?"""
    end: int = vma.vm_end + delta
    return end <= TASK_SIZE and not vmas_in_range(vma.vm_mm, vma.vm_end, end)


@expand_in_place.alternative("adjust", source="mm/mremap.c sys_mremap, 5.10.262", releases="<= v5.19")
def any_may_expand(vma: VmArea, end: int) -> bool:
    """Whatever may grow at all. One that has grown up to a neighbour stays for itself."""
    vma_expand(vma, end)
    return True


@expand_in_place.alternative(
    "merge-or-adjust", source="mm/mremap.c sys_mremap, 6.1.192", releases="v6.2 - v6.3, backported to 6.1"
)
def special_may_not_without_close(vma: VmArea, end: int) -> bool:
    """What has ->close is adjusted; all else is merged with what it grows by, and nothing that is special merges."""
    if type(vma.vm_ops).close is VmOperations.close:
        return special_may_not(vma, end)
    vma_expand(vma, end)
    return True


@expand_in_place.alternative(
    "merge",
    source="mm/mremap.c sys_mremap (6.12), expand_vma_in_place (7.3), mm/vma.c vma_merge_new_range (6.12, 7.3)",
    releases="v6.0 - v6.1, >= v6.4",
)
def special_may_not(vma: VmArea, end: int) -> bool:
    """A VMA is merged with what it grows by, and with a neighbour that it grows up to. Nothing that is special merges:
    a VM_MIXEDMAP is -ENOMEM, even where it might move.
    """
    if vma.vm_flags & VM_SPECIAL:
        return False
    vma_expand(vma, end)
    merge_with_next(vma)
    return True


def overlaps(addr: int, old_len: int, new_addr: int, new_len: int) -> bool:
    """May a move not go there: an address within a page or beyond all, or one in the range that is moved?

    Source: mm/mremap.c mremap_to (to 6.12), vrm_overlaps, check_mremap_params (7.3).
    """
    if new_addr & PAGE_SIZE - 1 or new_len > TASK_SIZE or new_addr > TASK_SIZE - new_len:
        return True
    return addr < new_addr + new_len and new_addr < addr + old_len


def mremap_to(mm: MmStruct, addr: int, old_len: int, new_addr: int, new_len: int, flags: int) -> int:
    """A move to a given address. What is mapped there goes first, before the source is even looked at."""
    if overlaps(addr, old_len, new_addr, new_len):
        return -EINVAL
    if flags & MREMAP_FIXED and vmas_in_range(mm, new_addr, new_addr + new_len):
        error = do_munmap(mm, new_addr, new_len, downgrade=False)
        if error:
            return error
    if old_len > new_len:
        error = do_munmap(mm, addr + new_len, old_len - new_len, downgrade=False)
        if error:
            return error
        old_len = new_len
    error = vma_to_resize(mm, addr, old_len, new_len, flags)
    if error:
        return error
    vma = vma_lookup(mm, addr)
    assert vma is not None, "vma_to_resize has looked"
    if not flags & MREMAP_FIXED:
        new_addr = get_unmapped_area(mm, new_len, new_addr)
    return move_vma(vma, addr, old_len, new_len, new_addr, flags) if new_addr >= 0 else new_addr


@mremap_dontunmap.alternative("anonymous", source="mm/mremap.c vma_to_resize, 5.10.262", releases="<= v5.12")
def refused_for_files(vma: VmArea) -> bool:
    """Every mapping of a file, and what is shared."""
    return not vma.vm_ops.anonymous or bool(vma.has(VM_SHARED))


@mremap_dontunmap.alternative(
    "not-pfnmap", source="mm/mremap.c vma_to_resize (6.1 - 6.12), check_prep_vma (7.3)", releases=">= v5.13"
)
def refused_for_pfnmap(vma: VmArea) -> bool:
    """What may not grow, and device memory: a VM_MIXEDMAP may stay mapped where it was, without its translations."""
    return bool(vma.vm_flags & (VM_DONTEXPAND | VM_PFNMAP))


def vma_to_resize(mm: MmStruct, addr: int, old_len: int, new_len: int, flags: int) -> int:
    """May [addr, addr + old_len) become ``new_len`` bytes long? 0 or an errno. A PFNMAP never grows.

    Source: mm/mremap.c vma_to_resize (to 6.12), check_prep_vma (7.3).
    """
    vma = vma_lookup(mm, addr)
    if vma is None:
        return -EFAULT
    vm_flags = vma.vm_flags
    if not old_len and not vm_flags & (VM_SHARED | VM_MAYSHARE):
        return -EINVAL
    if flags & MREMAP_DONTUNMAP and mremap_dontunmap(vma):
        return -EINVAL
    if old_len > vma.vm_end - addr:
        return -EFAULT
    if new_len == old_len:
        return 0
    if vma.vm_pgoff + (addr - vma.vm_start >> PAGE_SHIFT) + (new_len >> PAGE_SHIFT) > ULONG_MAX:
        return -EINVAL
    if vm_flags & (VM_DONTEXPAND | VM_PFNMAP):
        return -EFAULT
    limit = mm.lock_limit if vm_flags & VM_LOCKED else None
    if limit is not None and mm.locked_vm + (new_len - old_len >> PAGE_SHIFT) > limit:
        return -EAGAIN
    return 0


def move_vma(vma: VmArea, old_addr: int, length: int, new_len: int, new_addr: int, flags: int) -> int:
    """Move ``length`` bytes: copy the VMA, ``new_len`` bytes long (->open sees an empty one), move the translations,
    unmap the old range; with MREMAP_DONTUNMAP the old VMA stays, empty and unlocked.

    Where page tables cannot be had for all of it, or the driver's ->mremap, which is told of the copy, says no, what
    was moved is moved back, and the copy is what is unmapped, accounted for like the source until then.
    """
    mm = vma.vm_mm
    refused: int = prep_move_vma(vma, old_addr, length)
    if not refused and flags & MREMAP_DONTUNMAP and vma.vm_flags & VM_LOCKED:
        refused = unlock_source(vma, old_addr, length)
    if refused:
        return refused
    vma_start_write(vma)
    new_pgoff = vma.vm_pgoff + (old_addr - vma.vm_start >> PAGE_SHIFT)
    new = copy_vma(vma, new_addr, new_len, new_pgoff)
    if new is None:
        return -ENOMEM
    locked = vma.vm_flags & VM_LOCKED
    moved = move_page_tables(vma, old_addr, new_addr, length, need_rmap_locks=False)
    error = -ENOMEM if moved < length else 0
    if not error and vma.vm_ops.mremap is not None:
        error = vma.vm_ops.mremap(new)
    untracks = move_back(new, new_addr, old_addr, moved) if error else True
    gone, at, size = (new, new_addr, new_len) if error else (vma, old_addr, length)
    mm.total_vm = mm.total_vm + (new_len >> PAGE_SHIFT)
    if gone.has(VM_PFNMAP) and untracks:
        tracking().moved(gone)
    if flags & MREMAP_DONTUNMAP and not error:
        vm_flags_clear(vma, VM_LOCKED | VM_LOCKONFAULT)
        unlink_source(vma, old_addr, length)
        return new_addr
    do_munmap(mm, at, size, downgrade=False)
    if locked:
        mm.locked_vm = mm.locked_vm + (new_len >> PAGE_SHIFT)
    return error or new_addr


@unlink_source.alternative("kept", source="mm/mremap.c move_vma, 5.10.262; recorded", releases="<= v5.11")
def source_stays_linked(vma: VmArea, old_addr: int, length: int) -> None:
    """It has: fork copies what is mapped there later, be it the zero page only."""


@unlink_source.alternative(
    "unlinked",
    source="'mm: mremap: unlink anon_vmas when mremap with MREMAP_DONTUNMAP success'; mm/rmap.c unlink_anon_vmas; "
    "mm/mremap.c move_vma (6.1 - 6.12), dontunmap_complete (7.3)",
    releases=">= v5.12",
)
def source_is_unlinked(vma: VmArea, old_addr: int, length: int) -> None:
    """Not where all of the VMA has moved: no page of a process's own is left in it."""
    if vma.anon_vma and vma.vm_start == old_addr and vma.vm_end == old_addr + length:
        vma.anon_vma = ()


@prep_move_vma.alternative("not-asked", source="mm/mremap.c move_vma, v5.10, 5.10.262", releases="<= v5.10")
def moves_before_it_splits(vma: VmArea, old_addr: int, length: int) -> int:
    """Nothing: that the source cannot be split is found out when it is to be unmapped. It stays, without translations,
    and the move is a success.
    """
    return 0


@prep_move_vma.alternative(
    "may_split",
    source="'mremap: check if it's possible to split original vma'; mm/mremap.c move_vma (6.1 - 6.12), prep_move_vma "
    "(7.3)",
    releases=">= v5.11",
)
def asks_before_it_moves(vma: VmArea, old_addr: int, length: int) -> int:
    """->may_split, at each end of the part that is not an end of the mapping: 0, or the driver's errno."""
    error = 0
    ops = vma.vm_ops
    if ops.may_split is not None and vma.vm_start != old_addr:
        error = ops.may_split(vma, old_addr)
    if ops.may_split is not None and not error and vma.vm_end != old_addr + length:
        error = ops.may_split(vma, old_addr + length)
    return error


@unlock_source.alternative("whole", source="mm/mremap.c move_vma, 5.10.262", releases="<= v6.18")
def unlock_the_whole_vma(vma: VmArea, old_addr: int, length: int) -> int:
    """All of the VMA, which is not split; what has not moved goes on being counted in VmLck, for ever."""
    return 0


@unlock_source.alternative(
    "moved-part",
    source="mm/mremap.c move_vma (6.1 - 6.12), needs_pre_split (7.3), prep_move_vma (7.3)",
    releases=">= v7.3, deb-6.1.192, deb-6.12.117",
)
def unlock_what_moves(vma: VmArea, old_addr: int, length: int) -> int:
    """What has moved: it is split off first. 0 or an errno."""
    return isolate_range(vma, old_addr, old_addr + length)


@move_back.alternative(
    "locked",
    source="mm/mremap.c move_vma (to 6.12), copy_vma_and_data (7.3); arch/x86/mm/pat/memtype.c untrack_pfn_moved "
    "(5.10), untrack_pfn_clear (6.1 - 6.12); none (7.3)",
    releases="all",
)
def move_back_locked(new: VmArea, new_addr: int, old_addr: int, moved: int) -> bool:
    """With the reverse map locked: the copy is behind its source in it, so a walk would come from where the entries are
    going to where they were. The copy is no longer the one that tracks frames (True).
    """
    move_page_tables(new, new_addr, old_addr, moved, need_rmap_locks=True)
    return True


@move_back.alternative("unlocked", source="negative control", releases="never")
def move_back_unlocked(new: VmArea, new_addr: int, old_addr: int, moved: int) -> bool:
    """As on the way there."""
    move_page_tables(new, new_addr, old_addr, moved, need_rmap_locks=False)
    return True


@move_back.alternative("still-tracked", source="negative control", releases="never")
def move_back_and_track(new: VmArea, new_addr: int, old_addr: int, moved: int) -> bool:
    """The copy says on that it tracks the frames, which are back at its source."""
    move_page_tables(new, new_addr, old_addr, moved, need_rmap_locks=True)
    return False


def copy_vma(vma: VmArea, addr: int, length: int, pgoff: int) -> VmArea | None:
    """A VMA like ``vma`` at another address, opened and linked, its page tables empty; None without memory. Of memory
    of the process's own it may be a neighbour there that has become longer.

    Source: mm/mmap.c copy_vma (to 6.1), mm/vma.c copy_vma (from 6.12).
    """
    if own_memory(vma):
        pgoff = pgoff if vma.anon_vma else addr >> PAGE_SHIFT
        merged = vma_merge_new_range(vma.vm_mm, addr, addr + length, vma.vm_flags, pgoff, vma.anon_vma)
        if merged is not None:
            return merged
    new = vm_area_dup(vma, vma.vm_mm)
    if new is None:
        return None
    new.vm_start = addr
    new.vm_end = addr + length
    new.vm_pgoff = pgoff
    pud_populate(new.vm_mm, addr, addr + length)
    vma.vm_mm.machine.get_file(new.vm_file)
    new.vm_ops.open(new)
    vma_start_write(new)
    store_in_tree(new)
    vma_link_file(new)
    return new


def take_rmap_locks(vma: VmArea) -> None:
    """Nobody walks the reverse map of the VMA's file. (Of a process's own pages there is none with a lock here.)"""
    if not vma.vm_ops.anonymous:
        i_mmap_lock_write(vma.vm_file.f_mapping)


def drop_rmap_locks(vma: VmArea) -> None:
    """Undo ``take_rmap_locks``."""
    if not vma.vm_ops.anonymous:
        i_mmap_unlock_write(vma.vm_file.f_mapping)


def move_page_tables(vma: VmArea, old_addr: int, new_addr: int, length: int, *, need_rmap_locks: bool) -> int:
    """Move the translations page by page (or leaf by leaf); returns the bytes done (short when memory ran out).
    ``need_rmap_locks``: does the reverse map come to the VMA at ``new_addr`` before ``vma``? Whoever walks it could
    then miss an entry that is under way.

    A 2M leaf that cannot be moved whole is cleared, and faulted again where it is needed. A 1G leaf never gets so far:
    who looks for a table of PMD entries (get_old_pud, get_old_pmd) finds a bad entry, says so, and clears it. The table
    of a whole 2M block goes as it is.
    """
    mm = vma.vm_mm
    if not length:
        return 0
    range = mmu_notifier_range_init(mm, MMU_NOTIFY_UNMAP, old_addr, old_addr + length)
    mmu_notifier_invalidate_range_start(range)
    done = 0
    while done < length:
        pud = pud_offset(mm, old_addr + done)
        if pud is not None and pud_leaf(pud.entry):
            pud_clear_bad(mm, pud)
        src = pmd_offset(mm, old_addr + done)
        entry = src.entry
        step = min(length - done, PMD_SIZE - (old_addr + done & PMD_SIZE - 1))
        step = min(step, PMD_SIZE - (new_addr + done & PMD_SIZE - 1))
        dst = walk_to_pmd(mm, new_addr + done) if entry != NONE else src
        if pmd_leaf(entry):
            if step < PMD_SIZE or not move_pgt_entry(vma, old_addr + done, new_addr + done, need_rmap_locks):
                split_huge_pmd(mm, src)
        elif entry != NONE and step == PMD_SIZE and move_normal_pmd(vma, old_addr + done, new_addr + done):
            pass
        elif entry != NONE:
            if pte_alloc(mm, dst) < 0:
                break
            move_ptes(vma, old_addr + done, new_addr + done, step, need_rmap_locks)
        done += step
    mmu_notifier_invalidate_range_end(range)
    return done


def move_pgt_entry(vma: VmArea, old_addr: int, new_addr: int, need_rmap_locks: bool) -> bool:
    """``move_huge_pmd``, under the reverse map's lock if the caller needs it.

    Source: mm/mremap.c move_page_tables (5.10), move_pgt_entry (from 6.1).
    """
    if need_rmap_locks:
        take_rmap_locks(vma)
    moved = move_huge_pmd(vma.vm_mm, old_addr, new_addr)
    if need_rmap_locks:
        drop_rmap_locks(vma)
    return moved


def move_ptes(vma: VmArea, old_addr: int, new_addr: int, length: int, need_rmap_locks: bool) -> None:
    """Move the PTEs of one table: the old one is flushed before either lock is dropped, if a CPU can have cached any of
    it; moved entries are soft-dirty.
    """
    mm = vma.vm_mm
    if need_rmap_locks:
        take_rmap_locks(vma)
    src, dst = pmd_offset(mm, old_addr), pmd_offset(mm, new_addr)
    spin_lock(src.ptl)
    if dst is not src:
        spin_lock_nested(dst.ptl, SINGLE_DEPTH_NESTING)
    force_flush = False
    for offset in range(0, length, PAGE_SIZE):
        if ptep_get(src, old_addr + offset) == NONE:
            continue
        entry = ptep_get_and_clear(src, old_addr + offset)
        set_pte_at(dst, new_addr + offset, entry | (SOFT_DIRTY if pte_present(entry) else SWP_SOFT_DIRTY))
        force_flush = force_flush or pte_present(entry)
    if force_flush:
        flush_tlb_range(mm, old_addr, old_addr + length)
    if dst is not src:
        spin_unlock(dst.ptl)
    spin_unlock(src.ptl)
    if need_rmap_locks:
        drop_rmap_locks(vma)


def move_normal_pmd(vma: VmArea, old_addr: int, new_addr: int) -> bool:
    """Move the PTE table of a 2M block from one slot to another, under the reverse map's lock: no entry changes, nor
    becomes soft-dirty. False (nothing done) where there is something already.

    Source: mm/mremap.c move_normal_pmd, move_page_tables (5.10), move_pgt_entry (from 6.1); recorded: 6.1.192.
    """
    mm = vma.vm_mm
    src, dst = pmd_offset(mm, old_addr), pmd_offset(mm, new_addr)
    take_rmap_locks(vma)
    if dst.entry != NONE:
        drop_rmap_locks(vma)
        return False
    spin_lock(src.pmd_lock)
    spin_lock_nested(dst.pmd_lock, SINGLE_DEPTH_NESTING)
    for offset in range(0, PMD_SIZE, PAGE_SIZE):
        if src.peek_pte(old_addr + offset) != NONE:
            set_pte_at(dst, new_addr + offset, ptep_get_and_clear(src, old_addr + offset))
    src.entry = NONE
    dst.entry = TABLE
    flush_tlb_range(mm, old_addr, old_addr + PMD_SIZE)
    spin_unlock(dst.pmd_lock)
    spin_unlock(src.pmd_lock)
    drop_rmap_locks(vma)
    return True


def move_huge_pmd(mm: MmStruct, old_addr: int, new_addr: int) -> bool:
    """Move a 2M leaf whole; False (nothing done) when there is a table in the way or the leaf is gone.

    Source: mm/huge_memory.c move_huge_pmd.
    """
    src, dst = pmd_offset(mm, old_addr), pmd_offset(mm, new_addr)
    if dst.entry != NONE:
        return False
    spin_lock(src.pmd_lock)
    if not pmd_leaf(src.entry):
        spin_unlock(src.pmd_lock)
        return False
    spin_lock_nested(dst.pmd_lock, SINGLE_DEPTH_NESTING)
    entry = pmdp_huge_get_and_clear(src)
    dst.entry = entry | SOFT_DIRTY
    flush_tlb_range(mm, old_addr, old_addr + PMD_SIZE)
    spin_unlock(dst.pmd_lock)
    spin_unlock(src.pmd_lock)
    return True
