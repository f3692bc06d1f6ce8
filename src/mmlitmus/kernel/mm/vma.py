"""VMAs as objects and in the trees: lookup, allocation, linking, splitting, freeing.

Source: mm/vma.c (from 6.12), mm/mmap.c (to 6.1), mm/memory.c, functions of the same name. Of the model's own: vma_tree,
vmas_in_range, store_in_tree, erase_from_tree, vm_area_free_at_once, release_vma.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import report
from mmlitmus.explore.primitives.choice import may_fail
from mmlitmus.explore.runtime import current
from mmlitmus.explore.state import touch
from mmlitmus.kernel.arch.x86.pat import MemtypeOwner
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PMD_SHIFT,
    PMD_SIZE,
    PUD_SIZE,
    TABLE,
    PteTable,
    pmd_leaf,
    pmd_offset,
    pud_leaf,
    pud_offset,
    pud_populate,
)
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.mm.huge_memory import split_huge_pmd, split_huge_pud
from mmlitmus.kernel.mm.mm_types import File, MmStruct, VmArea
from mmlitmus.kernel.mm.mmap_lock import vma_start_write
from mmlitmus.kernel.mm.mmu_gather import MmuGather, tlb_free_vmas
from mmlitmus.kernel.mm.pfnmap_track import design as tracking
from mmlitmus.kernel.mm.pgalloc import pmd_batches, pmd_page, pmd_page_free, pud_chunks, walks_through
from mmlitmus.kernel.policy import Seam, running
from mmlitmus.kernel.sync.might import might_alloc
from mmlitmus.kernel.sync.rwsem import down_write, up_write

find_vma_assert = Seam("find_vma", "who notices that find_vma is called without mmap_lock")
vma_lookup_assert = Seam("vma_lookup", "who notices that vma_lookup is")
adjust_trans_huge = Seam("vma_adjust_trans_huge", "which huge leaves the split of a VMA splits")


class VmaLineage(MemtypeOwner):
    """Ghost: a VMA and whatever is split off or moved from it, as somebody who reserves frames."""


def vma_tree(mm: MmStruct) -> tuple[VmArea, ...]:
    """The VMAs by address, for a holder of mmap_lock (whom the tree's writers exclude: no event). Who does not hold it
    has a look at a tree that changes, and at VMAs that go; that is a finding on every kernel.
    """
    if mm.mmap_lock.held() is None:
        report("precondition", "mm_mt read without mmap_lock", f"{current().name} looks for VMAs of {mm.name} unlocked")
        unlocked: tuple[VmArea, ...] = mm.mm_mt
        return unlocked
    tree: tuple[VmArea, ...] = mm.peek("mm_mt")
    return tree


def find_vma(mm: MmStruct, address: int) -> VmArea | None:
    """The first VMA that ends behind ``address``, or None. Needs mmap_lock.

    Source: mm/mmap.c find_vma.
    """
    find_vma_assert(mm)
    return next((v for v in vma_tree(mm) if address < v.vm_end), None)


@find_vma_assert.alternative("unasserted", source="mm/mmap.c find_vma, 5.10.262", releases="<= v5.14")
def find_vma_unasserted(mm: MmStruct) -> None:
    """Nobody looks."""


@find_vma_assert.alternative(
    "lockdep",
    source="mm/mmap.c find_vma, include/linux/mmap_lock.h mmap_assert_locked, 6.1.192",
    releases="v5.15 - v6.9",
)
def find_vma_with_lockdep(mm: MmStruct) -> None:
    """A lockdep build looks whether the task holds the lock. (One with DEBUG_VM asks whether anybody does, and BUGs;
    that is not modelled.)
    """
    if running().has("lockdep"):
        mmap_assert_locked(mm)


@find_vma_assert.alternative(
    "always",
    source="ba168b52bf8e; mm/mmap.c find_vma, include/linux/mmap_lock.h mmap_assert_locked, 6.12.117",
    releases=">= v6.10",
)
def mmap_assert_locked(mm: MmStruct) -> None:
    """Every build looks. (One without lockdep is content if anybody holds the lock; here it has to be the task.)"""
    if mm.mmap_lock.held() is None:
        report("WARN", "mmap_assert_locked", f"{current().name} does not hold {mm.mmap_lock.name}")


def vma_lookup(mm: MmStruct, address: int) -> VmArea | None:
    """The VMA that contains ``address``, or None. Needs mmap_lock.

    Source: mm/mmap.c find_vma (to 5.10), include/linux/mm.h vma_lookup (from 6.1).
    """
    vma_lookup_assert(mm)
    return next((v for v in vma_tree(mm) if v.vm_start <= address < v.vm_end), None)


@vma_lookup_assert.alternative("find_vma", source="mm/mmap.c find_vma, 5.10.262", releases="<= v6.0")
def lookup_asserts_like_find_vma(mm: MmStruct) -> None:
    """It is done by find_vma."""
    find_vma_assert(mm)


@vma_lookup_assert.alternative("mtree_load", source="include/linux/mm.h vma_lookup, 6.1.192", releases=">= v6.1")
def lookup_asserts_nothing(mm: MmStruct) -> None:
    """The tree looks after itself: nobody notices."""


def vmas_in_range(mm: MmStruct, start: int, end: int) -> list[VmArea]:
    """The VMAs that overlap [start, end) bytes, by address. Needs mmap_lock."""
    return [v for v in vma_tree(mm) if v.vm_start < end and start < v.vm_end]


def vm_area_alloc(
    mm: MmStruct, file: File, start: int, end: int, pgoff: int, owner: MemtypeOwner | None = None, **values: Any
) -> VmArea | None:
    """A new VMA that nobody can see yet; None when memory is short. ``owner``: who reserves frames for it, if it is
    not the first of its line.

    Source: kernel/fork.c vm_area_alloc (to 6.12), mm/vma_init.c vm_area_alloc (7.3).
    """
    might_alloc(mm.machine)
    if may_fail("vm_area_alloc", mm.machine.failures):
        return None
    task = current()
    name = f"vma#{task.name}.{task.count('vma')}" if task.index >= 0 else mm.machine.boot_name("vma")
    return VmArea(name, mm, file, start, end, pgoff, memtype_owner=owner or VmaLineage(name), **values)


def vm_area_dup(orig: VmArea, mm: MmStruct) -> VmArea | None:
    """A copy of ``orig`` (flags included) for ``mm``; None when memory is short.

    Source: kernel/fork.c vm_area_dup (to 6.12), mm/vma_init.c vm_area_dup (7.3).
    """
    new = vm_area_alloc(
        mm,
        orig.vm_file,
        orig.vm_start,
        orig.vm_end,
        orig.vm_pgoff,
        orig.memtype_owner if mm is orig.vm_mm else None,
        vm_flags=orig.vm_flags,
        vm_page_prot=orig.vm_page_prot,
        vm_ops=orig.vm_ops,
        vm_private_data=orig.vm_private_data,
        anon_vma=anon_vma_of_copy(orig, mm),
    )
    if new is not None and tracking().dup(orig, new):
        new.free()
        return None
    return new


def anon_vma_of_copy(orig: VmArea, mm: MmStruct) -> tuple[str, ...]:
    """The anon_vmas of a copy: its source's within a process; a child has one of its own before them.

    Source: mm/rmap.c anon_vma_clone, anon_vma_fork.
    """
    chain: tuple[str, ...] = orig.peek("anon_vma")  # only faults change it, and mmap_lock W keeps them out
    if not chain:
        return ()
    return chain if mm is orig.vm_mm else (f"{mm.name}:{orig.vm_start:#x}", *chain)


def vm_area_free(vma: VmArea) -> None:
    """Free the VMA: after a grace period where faults find VMAs under RCU, at once where they do not.

    Source: kernel/fork.c vm_area_free (to 6.12), mm/vma_init.c vm_area_free (7.3).
    """
    tracking().area_free(vma)
    if running().has("PER_VMA_LOCK"):
        vma.vm_mm.machine.rcu.free("free_vma", vma)
    else:
        vma.free()


def vm_area_free_at_once(vma: VmArea) -> None:
    """Free a VMA that nobody can be looking at any more."""
    tracking().area_free(vma)
    vma.free()


def store_in_tree(vma: VmArea) -> None:
    """Put the VMA where lookups find it. Needs mmap_lock W."""
    mm = vma.vm_mm
    others = mm.peek("mm_mt")
    mm.mm_mt = tuple(sorted((*others, vma), key=lambda v: v.peek("vm_start")))
    vma.attach()


def erase_from_tree(mm: MmStruct, gone: list[VmArea]) -> None:
    """Take VMAs out of the tree. Needs mmap_lock W."""
    mm.mm_mt = tuple(v for v in mm.peek("mm_mt") if v not in gone)


def vma_link_file(vma: VmArea) -> None:
    """Make the VMA visible to the reverse map: behind every VMA of the same page offset.

    Source: mm/mmap.c __vma_link_file (to 6.1), mm/vma.c vma_link_file (from 6.12).
    """
    mapping = vma.vm_file.f_mapping
    down_write(mapping.i_mmap_rwsem)
    vma_interval_tree_insert(vma)
    up_write(mapping.i_mmap_rwsem)


def vma_interval_tree_insert(vma: VmArea) -> None:
    """Insert by page offset, behind equals. Needs i_mmap_rwsem W.

    Source: mm/interval_tree.c vma_start_pgoff, vma_last_pgoff (to 6.12), mapping_rmap_tree_insert (7.3).
    INTERVAL_TREE_DEFINE makes the tree of them.
    """
    i_mmap = vma.vm_file.f_mapping.i_mmap
    i_mmap.insert(sum(1 for other in i_mmap if other.vm_pgoff <= vma.vm_pgoff), vma)


def vma_interval_tree_insert_after(vma: VmArea, prev: VmArea) -> None:
    """Insert directly behind ``prev``, so that a walk visits it later (fork). Needs i_mmap_rwsem W.

    Source: mm/interval_tree.c vma_interval_tree_insert_after (to 6.12), mapping_rmap_tree_insert_after (7.3).
    """
    i_mmap = vma.vm_file.f_mapping.i_mmap
    i_mmap.insert(i_mmap.index(prev) + 1, vma)


def unlink_file_vma(vma: VmArea) -> None:
    """Take the VMA out of the reverse map.

    Source: mm/mmap.c unlink_file_vma (to 6.1), mm/vma.c unlink_file_vma (6.12), unlink_file_vma_batch_process (7.3).
    """
    mapping = vma.vm_file.f_mapping
    down_write(mapping.i_mmap_rwsem)
    if vma in mapping.i_mmap:
        mapping.i_mmap.remove(vma)
    up_write(mapping.i_mmap_rwsem)


def free_pgtables(tlb: MmuGather, vmas: list[VmArea]) -> None:
    """Unlink the VMAs from the reverse map, then free the PTE tables that no remaining VMA needs."""
    tlb_free_vmas(tlb)
    for vma in vmas:
        unlink_file_vma(vma)
    others = [v for v in tlb.mm.peek("mm_mt") if v not in vmas]
    for vma in vmas:
        free_pgd_range(tlb, vma, others)


def free_pgd_range(tlb: MmuGather, vma: VmArea, others: list[VmArea]) -> None:
    """Free the PTE tables under ``vma`` in 2M blocks that hold none of the ``others``.

    A table that still maps something when it goes is the finding ``populated-table-freed``: whoever filled it came too
    late, and its entries are never taken back.
    """
    mm = tlb.mm
    for first, last in pud_chunks(vma.vm_start & -PUD_SIZE, vma.vm_end + PUD_SIZE - 1 & -PUD_SIZE):
        if not any(v.vm_start < last and first < v.vm_end for v in others):
            pmd_page_free(mm, first)
    for start, stop in pmd_batches(mm, vma.vm_start, vma.vm_end):
        if stop - start == PMD_SIZE and start >> PMD_SHIFT not in mm.pgd:
            continue  # nobody has ever had anything here
        first, last = start & -PMD_SIZE, stop + PMD_SIZE - 1 & -PMD_SIZE
        if any(v.vm_start < last and first < v.vm_end for v in others):
            continue
        table = pmd_offset(mm, start, stop - start >> PAGE_SHIFT)
        if table.entry != NONE:
            touch(table.oid("entry"), reads=table.cells.values())
            table.set_entry(NONE)
            left = table.populated()
            if left:
                report(
                    "invariant",
                    "populated-table-freed",
                    f"{current().name} frees a PTE table of {mm.name} that still maps {left} pages",
                )


def split_vma(vma: VmArea, addr: int, new_below: bool) -> tuple[int, VmArea | None]:
    """Split at ``addr``: (0, the new VMA) or (errno, None). ``new_below``: the new one is the lower part.

    The driver's ->may_split is asked first (up to 5.10 it is called ->split). The new VMA's ->open runs before either
    is changed; both change in one i_mmap_rwsem W section, so that the reverse map never sees the pair half split. Needs
    mmap_lock W.
    """
    mm = vma.vm_mm
    if vma.vm_ops.may_split is not None:
        error = vma.vm_ops.may_split(vma, addr)
        if error:
            return error, None
    new = vm_area_dup(vma, mm)
    if new is None:
        return -ENOMEM, None
    delta = addr - vma.vm_start >> PAGE_SHIFT
    if new_below:
        new.vm_end = addr
    else:
        new.vm_start = addr
        new.vm_pgoff = vma.vm_pgoff + delta
    new.vm_ops.open(new)
    vma_start_write(vma)
    vma_start_write(new)
    mapping = vma.vm_file.f_mapping
    down_write(mapping.i_mmap_rwsem)
    vma_interval_tree_insert(new)
    mapping.i_mmap.remove(vma)
    adjust_trans_huge(vma, addr)
    if new_below:
        vma.vm_start = addr
        vma.vm_pgoff = vma.vm_pgoff + delta
    else:
        vma.vm_end = addr
    vma_interval_tree_insert(vma)
    store_in_tree(new)
    up_write(mapping.i_mmap_rwsem)
    return 0, new


def isolate_range(vma: VmArea, start: int, end: int) -> int:
    """Split so that ``vma`` is exactly [start, end) bytes; the outer parts are the new VMAs. 0 or an errno.

    Source: mm/mprotect.c mprotect_fixup (to 6.1), mm/vma.c vma_modify_flags (from 6.12).
    """
    if vma.vm_start < start:
        error, _ = split_vma(vma, start, new_below=True)
        if error:
            return error
    if vma.vm_end > end:
        error, _ = split_vma(vma, end, new_below=False)
        if error:
            return error
    return 0


def vma_expand(vma: VmArea, end: int) -> None:
    """The VMA ends at ``end`` from now on, where nothing is mapped. Needs mmap_lock W.

    Source: mm/mmap.c __vma_adjust (5.10), vma_expand (6.1), mm/vma.c vma_expand (from 6.12).
    """
    vma_start_write(vma)
    pud_populate(vma.vm_mm, vma.vm_end, end)
    mapping = vma.vm_file.f_mapping
    down_write(mapping.i_mmap_rwsem)
    vma.vm_end = end
    vma.vm_mm.mm_mt = vma.vm_mm.peek("mm_mt")
    up_write(mapping.i_mmap_rwsem)


def split_huge_pmd_if_needed(vma: VmArea, addr: int) -> None:
    """A 2M leaf of ``vma`` may not lie across two VMAs: clear the one that lies across ``addr``.

    Who listens is told of the whole block, be there a leaf or not. (Without listeners only a leaf's is an event.)

    Source: mm/huge_memory.c vma_adjust_trans_huge (5.10), split_huge_pmd_if_needed (from 6.1), __split_huge_pmd;
    recorded: 5.10.262, 6.1.192, 6.12.117, 7.3.4.
    """
    block = addr & ~(PMD_SIZE - 1)
    if addr == block or block < vma.vm_start or vma.vm_end < block + PMD_SIZE:
        return
    table = mm_find_pmd(vma.vm_mm, addr)
    if table is None:
        return
    listened = bool(vma.vm_mm.notifier_subscriptions) and pmd_page(vma.vm_mm, addr).there
    if listened or pmd_leaf(table.entry):
        split_huge_pmd(vma.vm_mm, table)


def mm_find_pmd(mm: MmStruct, addr: int) -> PteTable | None:
    """The slot of the PMD entry for ``addr``, None if there is no table that it is in. Whether the PUD entry is a leaf
    is not asked: the frame that it maps is taken for that table.

    Source: mm/huge_memory.c split_huge_pmd_address (5.10), mm/rmap.c mm_find_pmd (from 6.1).
    """
    pud = pud_offset(mm, addr)
    entry = TABLE if pud is None else pud.entry
    if pud_leaf(entry):
        walks_through(mm, addr, "a 1G leaf for a table of PMD entries")
    return None if entry == NONE else pmd_offset(mm, addr)


@adjust_trans_huge.alternative(
    "pmd-only",
    source="mm/huge_memory.c vma_adjust_trans_huge, 6.12.117, 7.3.4; observed on both with stock vfio-pci",
    releases="all",
)
def split_pmd_leaf(vma: VmArea, addr: int) -> None:
    """Only of 2M leaves. Off a 2M boundary a 1G leaf is walked through; at one it stays, across both VMAs."""
    split_huge_pmd_if_needed(vma, addr)


@adjust_trans_huge.alternative("pud-too", source="proposal", releases="proposal")
def split_leaves(vma: VmArea, addr: int) -> None:
    """A 1G leaf of the VMA first, wherever in it the split is."""
    block = addr & ~(PUD_SIZE - 1)
    pud = pud_offset(vma.vm_mm, addr)
    inside = vma.vm_start <= block and block + PUD_SIZE <= vma.vm_end
    if addr != block and inside and pud is not None and pud_leaf(pud.entry):
        split_huge_pud(vma.vm_mm, pud)
    split_huge_pmd_if_needed(vma, addr)


def remove_vma(vma: VmArea, unreachable: bool) -> None:
    """The end of a VMA: ->close, then free (at once when nobody can be looking at it any more)."""
    close_vma(vma)
    release_vma(vma, unreachable)


def close_vma(vma: VmArea) -> None:
    """->close, when nobody else can reach the VMA any more; what the driver keeps in it is his to change.

    Source: mm/mmap.c remove_vma (to 6.1), mm/internal.h vma_close (from 6.12).
    """
    vma.retire()
    vma.vm_ops.close(vma)


def release_vma(vma: VmArea, unreachable: bool) -> None:
    """Free a VMA that has been closed."""
    mm = vma.vm_mm
    mm.machine.fput(vma.vm_file)
    if unreachable:
        vm_area_free_at_once(vma)
    else:
        vm_area_free(vma)
