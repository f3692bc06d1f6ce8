"""Neighbouring mappings of a process's own memory become one.

A VMA and a new mapping, or two VMAs one of which has changed, are merged if they have the same flags (VM_SOFTDIRTY
aside), one goes on where the other ends (``vm_pgoff``: of such memory the address where it was mapped, until it moves
with pages), and they do not belong to different anon_vmas.

Source: mm/vma.c (from 6.12), mm/mmap.c (to 6.1), functions of the same name. Of the model's own: own_memory,
neighbours, can_merge, joined, adjust, commit_merge, merge_with_next.
"""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, pud_populate
from mmlitmus.kernel.mm.mm_types import VM_SHARED, VM_SOFTDIRTY, MmStruct, VmArea, vma_pages
from mmlitmus.kernel.mm.mmap_lock import vma_start_write
from mmlitmus.kernel.mm.vma import isolate_range, release_vma, unlink_file_vma, vma_tree
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.rwsem import down_write, up_write

is_mergeable_anon_vma = Seam("is_mergeable_anon_vma", "whether a mapping without pages takes one with pages in")

mmap_expands = Seam("mmap_expands", "which neighbour a new mapping joins that can join either, and not both")


def own_memory(vma: VmArea) -> bool:
    """Is it private memory without a file? (Mappings of a file that are not special merge, too, in the kernel.)"""
    return bool(vma.vm_ops.anonymous) and not vma.has(VM_SHARED)


def neighbours(mm: MmStruct, start: int, end: int) -> tuple[VmArea | None, VmArea | None]:
    """The VMAs of the process's own memory that end at ``start`` and begin at ``end``. Needs mmap_lock."""
    prev = next((v for v in vma_tree(mm) if v.vm_end == start), None)
    after = next((v for v in vma_tree(mm) if v.vm_start == end), None)
    return (
        prev if prev is not None and own_memory(prev) else None,
        after if after is not None and own_memory(after) else None,
    )


def can_merge(vma: VmArea, flags: int, anon_vma: tuple[str, ...]) -> bool:
    """May the VMA take in a neighbour of these flags and pages?

    Source: mm/mmap.c can_vma_merge_before, can_vma_merge_after (to 6.1), mm/vma.c can_vma_merge_left,
    can_vma_merge_right (from 6.12).
    """
    return not (vma.vm_flags ^ flags) & ~VM_SOFTDIRTY and bool(is_mergeable_anon_vma(vma.anon_vma, anon_vma))


@is_mergeable_anon_vma.alternative(
    "singular", source="is_mergeable_anon_vma, mm/mmap.c (to 6.1), mm/vma.c (6.12)", releases="<= v6.15"
)
def with_pages_takes_one_without(target: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """A VMA with pages takes one without in, unless it came by fork; not the other way round."""
    return target == other or (not other and len(target) == 1)


@is_mergeable_anon_vma.alternative("not-forked", source="mm/vma.c is_mergeable_anon_vma, 7.3.4", releases=">= v6.16")
def either_takes_the_other(target: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Either way, unless the one with pages came by fork."""
    return target[:1] == other[:1] or (not (target and other) and len(target or other) == 1)


def vma_merge_new_range(
    mm: MmStruct, start: int, end: int, flags: int, pgoff: int, anon_vma: tuple[str, ...] = (), new: bool = False
) -> VmArea | None:
    """Let a neighbour take in [start, end) bytes, where nothing is mapped: the VMA that has them now, or None. ``new``:
    for mmap. Needs mmap_lock W.

    Source: mm/mmap.c vma_merge (to 6.1), mm/vma.c vma_merge_new_range (from 6.12).
    """
    prev, after = neighbours(mm, start, end)
    if prev is not None and (prev.vm_pgoff + vma_pages(prev) != pgoff or not can_merge(prev, flags, anon_vma)):
        prev = None
    begins = pgoff + (end - start >> PAGE_SHIFT)
    if after is not None and (after.vm_pgoff != begins or not can_merge(after, flags, anon_vma)):
        after = None
    if prev is not None and after is not None and not joined(prev, after):
        prev, after = mmap_expands(prev, after) if new else (prev, None)
    if prev is not None:
        absorbed = [] if after is None else [after]
        commit_merge(prev, prev.vm_start, end if after is None else after.vm_end, prev.vm_pgoff, *absorbed)
        return prev
    if after is not None:
        commit_merge(after, start, after.vm_end, pgoff)
    return after


@mmap_expands.alternative(
    "previous",
    source="mm/mmap.c vma_merge (5.10); mm/vma.c vma_merge_new_range (from 6.12); recorded: 5.10.262, 6.12.117, 7.3.4",
    releases="<= v6.0, >= v6.12",
)
def the_one_before(prev: VmArea, after: VmArea) -> tuple[VmArea | None, VmArea | None]:
    """The one before it."""
    return prev, None


@mmap_expands.alternative("next", source="mm/mmap.c mmap_region, 6.1.192; recorded: 6.1.192", releases="v6.1 - v6.11")
def the_one_behind(prev: VmArea, after: VmArea) -> tuple[VmArea | None, VmArea | None]:
    """The one behind it, which is looked at first."""
    return None, after


def joined(prev: VmArea, after: VmArea) -> bool:
    """May what lies between two VMAs make them one?"""
    return not (prev.anon_vma and after.anon_vma) or prev.anon_vma == after.anon_vma


def vma_modify(vma: VmArea, start: int, end: int, flags: int) -> tuple[int, VmArea]:
    """Find, or make, the VMA that is to have ``flags`` for [start, end) bytes of ``vma``: (0 or an errno, that VMA). It
    is a neighbour that has them already, or what is left of ``vma`` when the rest is split off. Needs mmap_lock W.

    Source: mm/mmap.c vma_merge (to 6.1), mm/vma.c vma_modify (from 6.12).
    """
    mm = vma.vm_mm
    if not own_memory(vma):
        return isolate_range(vma, start, end), vma
    prev, after = neighbours(mm, start, end)
    first, last = start == vma.vm_start, end == vma.vm_end
    pgoff = vma.vm_pgoff + (start - vma.vm_start >> PAGE_SHIFT)
    anon_vma = vma.anon_vma
    if prev is not None and (
        not first or prev.vm_pgoff + vma_pages(prev) != pgoff or not can_merge(prev, flags, anon_vma)
    ):
        prev = None
    begins = pgoff + (end - start >> PAGE_SHIFT)
    if after is not None and (not last or after.vm_pgoff != begins or not can_merge(after, flags, anon_vma)):
        after = None
    if prev is not None and after is not None and not joined(prev, after):
        after = None
    if prev is not None:
        if not last:
            adjust(vma, end, vma.vm_end)
        absorbed = [vma] if last else []
        absorbed += [] if after is None else [after]
        commit_merge(prev, prev.vm_start, end if after is None else after.vm_end, prev.vm_pgoff, *absorbed, like=vma)
        return 0, prev
    if after is not None:
        if not first:
            adjust(vma, vma.vm_start, start)
        commit_merge(after, start, after.vm_end, pgoff, *([vma] if first else []), like=vma)
        return 0, after
    return isolate_range(vma, start, end), vma


def merge_with_next(vma: VmArea) -> None:
    """A VMA has grown up to its neighbour: they may become one.

    Source: mm/mmap.c vma_merge (6.1), mm/vma.c vma_merge_extend (from 6.12).
    """
    _, after = neighbours(vma.vm_mm, vma.vm_start, vma.vm_end)
    if not own_memory(vma) or after is None or after.vm_pgoff != vma.vm_pgoff + vma_pages(vma):
        return
    if can_merge(after, vma.vm_flags, vma.anon_vma) and joined(vma, after):
        commit_merge(vma, vma.vm_start, after.vm_end, vma.vm_pgoff, after)


def adjust(vma: VmArea, start: int, end: int) -> None:
    """The VMA is [start, end) bytes from now on, and what that means for ``vm_pgoff``."""
    mapping = vma.vm_file.f_mapping
    vma_start_write(vma)
    down_write(mapping.i_mmap_rwsem)
    vma.vm_pgoff = vma.vm_pgoff + (start - vma.vm_start >> PAGE_SHIFT)
    vma.vm_start = start
    vma.vm_end = end
    up_write(mapping.i_mmap_rwsem)


def commit_merge(
    target: VmArea, start: int, end: int, pgoff: int, *absorbed: VmArea, like: VmArea | None = None
) -> None:
    """``target`` is [start, end) bytes from now on, and the ``absorbed`` are no more. It takes over the anon_vma of one
    of them, or of ``like``, if it has none.
    """
    mm = target.vm_mm
    pud_populate(mm, start, end)
    anon_vma = next((v.anon_vma for v in (target, *absorbed, *([like] if like else [])) if v.anon_vma), ())
    for vma in absorbed:
        vma_start_write(vma)
        vma.detached = True
    if absorbed:
        mm.mm_mt = tuple(v for v in mm.peek("mm_mt") if v not in absorbed)
    adjust(target, start, end)
    assert target.vm_pgoff == pgoff, "adjust has moved it by as many pages"
    if anon_vma and not target.anon_vma:
        target.anon_vma = anon_vma
    mm.mm_mt = tuple(sorted(mm.peek("mm_mt"), key=lambda v: v.peek("vm_start")))
    for vma in absorbed:
        unlink_file_vma(vma)
        release_vma(vma, unreachable=False)
