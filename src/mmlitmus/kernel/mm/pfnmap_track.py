"""Who remembers which frames a PFNMAP VMA has reserved, and who gives them back.

Up to 6.15 a flag on the VMA says "reserved" and the page tables say what (``VmPat``); from 6.16 on the VMA, and each
copy of it, holds a reference to an object that says both (``TrackCtx``). What a reservation *is* is in
``arch.x86.pat``, which knows no VMAs.

Source: arch/x86/mm/pat/memtype.c track_pfn_remap, untrack_pfn (to 6.12), pfnmap_setup_cachemode, pfnmap_track,
pfnmap_untrack (7.3); include/linux/mm_types.h pfnmap_track_ctx (7.3); read in 6.1.192, 6.12.117 and 7.3.4. The newer
design came with "mm: rewrite pfnmap tracking and remove VM_PAT". Of the model's own: design,
track_pfn_inserts.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import reached, report
from mmlitmus.explore.primitives.choice import may_fail
from mmlitmus.explore.runtime import current
from mmlitmus.explore.state import Atomic, Const, Model
from mmlitmus.kernel.arch.x86 import pat
from mmlitmus.kernel.arch.x86.pgtable import (
    CACHE_MASK,
    NONE,
    NX,
    PAGE_SHIFT,
    SPECIAL,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pte_pfn,
    pte_present,
    pte_unmap_unlock,
    ptep_get,
    pud_leaf,
    pud_offset,
)
from mmlitmus.kernel.errno import EINVAL, ENOMEM
from mmlitmus.kernel.mm.mm_types import VM_IO, VM_MAYWRITE, VM_PAT, VM_PFNMAP, VM_SHARED, VmArea, is_cow_mapping
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.vma_flags import __vm_flags_mod, vm_flags_clear, vm_flags_set
from mmlitmus.kernel.policy import Seam, running
from mmlitmus.kernel.sync.might import might_alloc
from mmlitmus.kernel.sync.spinlock import spin_lock, spin_unlock

#: what of an entry is its protection, cache type included
PROT_MASK = CACHE_MASK | NX | 0x7F

pfnmap_track = Seam("pfnmap_track", "who remembers the frames that remap_pfn_range has reserved for a VMA")
untrack_site = Seam("untrack_site", "where a VMA with VM_PAT gives its reservation back")
get_pat_info = Seam("get_pat_info", "how a VMA with VM_PAT finds out which frames it has reserved")
track_pfn_copy = Seam("track_pfn_copy", "what becomes of VM_PAT and of the reservation in a child")
follow_pte_assert = Seam("follow_pte_assert", "which locks a walk for the frame behind an address asks for")
untrack_clear = Seam("untrack_clear", "how VM_PAT is cleared where mmap_lock W may not be held")


def design() -> Any:
    """The running kernel's way of tracking."""
    return running().chosen(pfnmap_track)


def setup_cachemode(vma: VmArea, pfn: int, size: int, prot: int) -> tuple[int, int]:
    """The type that ``size`` bytes of frames have already, put into ``prot``: -EINVAL if they have several.

    One look-up a page. Source: arch/x86/mm/pat/memtype.c track_pfn_remap (to 6.12), pfnmap_setup_cachemode (7.3).
    """
    machine = vma.vm_mm.machine
    if not pat.pat_enabled(machine):
        return 0, prot
    pages = max(1, size >> PAGE_SHIFT)
    mode, done = pat.lookup_memtypes(machine, pfn << PAGE_SHIFT, min(pages, machine.batch))
    while done < pages:
        other, same = pat.lookup_memtypes(machine, pfn + done << PAGE_SHIFT, min(pages - done, machine.batch))
        if other != mode:
            return -EINVAL, prot
        done += same
    return 0, prot & ~CACHE_MASK | pat.cachemode2protval(mode, machine.memtypes.pat)


def track_pfn_remap(vma: VmArea, addr: int, pfn: int, size: int, prot: int) -> tuple[int, int]:
    """Reserve as remap_pfn_range does, and map nothing: (errno, the protection to map with).

    For drivers that were to reserve in ->mmap and map in ->fault (proposed in July 2024). No kernel exports it. Source:
    arch/x86/mm/pat/memtype.c track_pfn_remap (to 6.12), pfnmap_track (7.3).
    """
    error, prot, ctx = design().remap(vma, prot, pfn, addr, size)
    if not error:
        design().remap_done(vma, ctx)
    return error, prot


def track_pfn_insert(vma: VmArea, prot: int, pfn: int) -> int:
    """The protection that an inserted frame gets: the type looked up, whatever ``prot`` asked for. Cannot fail.

    A huge leaf's type is that of its first frame. Source: arch/x86/mm/pat/memtype.c track_pfn_insert (to 6.12),
    include/linux/pgtable.h pfnmap_setup_cachemode_pfn (7.3).
    """
    return track_pfn_inserts(vma, prot, pfn, 1)[0]


def track_pfn_inserts(vma: VmArea, prot: int, pfn: int, nr: int, step: int = 1) -> tuple[int, int]:
    """``track_pfn_insert`` of a batch, every ``step``-th frame of it: (the first one's protection, how many get it)."""
    machine = vma.vm_mm.machine
    if not pat.pat_enabled(machine):
        return prot, nr
    mode, same = pat.lookup_memtypes(machine, pfn << PAGE_SHIFT, nr, step)
    return prot & ~CACHE_MASK | pat.cachemode2protval(mode, machine.memtypes.pat), same


@pfnmap_track.alternative(
    "vm_pat", source="arch/x86/mm/pat/memtype.c track_pfn_remap, untrack_pfn, 6.12.117", releases="<= v6.15"
)
class VmPat:
    """VM_PAT says that the VMA has reserved its frames; which ones is read from its page tables.

    One reservation is one entry without an owner: whoever frees a range takes one that matches.
    """

    @staticmethod
    def remap(vma: VmArea, prot: int, pfn: int, addr: int, size: int) -> tuple[int, int, Any]:
        """Reserve for a mapping of the whole VMA, look up for any other: (errno, prot, None).

        Source: arch/x86/mm/pat/memtype.c track_pfn_remap (to 6.12); none (7.3).
        """
        if addr != vma.vm_start or size != vma.vm_end - vma.vm_start:
            error, prot = setup_cachemode(vma, pfn, size, prot)
            return error, prot, None
        machine = vma.vm_mm.machine
        error, prot = pat.reserve_pfn_range(machine, pfn << PAGE_SHIFT, size, prot, False, vma.memtype_owner)
        if not error:
            vm_flags_set(vma, VM_PAT)
        return (-EINVAL if error else 0), prot, None

    @staticmethod
    def remap_done(vma: VmArea, ctx: None) -> None:
        """Nothing: VM_PAT is set already."""

    @staticmethod
    def remap_failed(vma: VmArea, ctx: None, pfn: int, size: int) -> None:
        """Give back what ``remap`` reserved."""
        untrack_pfn(vma, pfn, size, True)

    @staticmethod
    def unmapping(vma: VmArea, site: str, mm_wr_locked: bool) -> None:
        """The VMA is being unmapped, in part or whole, at ``site``. Before its entries go."""
        untrack_site(vma, site, mm_wr_locked)

    @staticmethod
    def dup(orig: VmArea, new: VmArea) -> int:
        """Nothing: the copied flags have VM_PAT in them."""
        return 0

    @staticmethod
    def area_free(vma: VmArea) -> None:
        """Nothing: whoever has not untracked by now never will."""

    @staticmethod
    def moved(vma: VmArea) -> None:
        """The copy that mremap has made tracks the frames from now on; all of them.

        Source: arch/x86/mm/pat/memtype.c untrack_pfn_moved (5.10), untrack_pfn_clear (6.1 - 6.12); none (7.3).
        """
        vm_flags_clear(vma, VM_PAT)

    @staticmethod
    def fork_dup(tmp: VmArea) -> None:
        """The child's VMA has been made, flags copied."""
        running().chosen(track_pfn_copy).fork_dup(tmp)

    @staticmethod
    def copy(dst: VmArea, src: VmArea) -> tuple[int, int]:
        """Reserve again for the child, strictly, what the parent has: (errno, the first frame).

        Source: arch/x86/mm/pat/memtype.c track_pfn_copy (to 6.12); none (7.3).
        """
        if not src.vm_flags & VM_PAT:
            return 0, 0
        error, paddr, prot = get_pat_info(src, True)
        if error:
            return -EINVAL, 0
        size = src.vm_end - src.vm_start
        error, _ = pat.reserve_pfn_range(src.vm_mm.machine, paddr, size, prot, True, dst.memtype_owner)
        if error:
            return error, 0
        running().chosen(track_pfn_copy).reserved(dst)
        return 0, paddr >> PAGE_SHIFT

    @staticmethod
    def copy_failed(dst: VmArea, pfn: int) -> None:
        """The child's page tables could not be copied after ``copy`` had reserved for it."""
        running().chosen(track_pfn_copy).failed(dst, pfn)


def untrack_pfn(vma: VmArea, pfn: int, size: int, mm_wr_locked: bool) -> None:
    """Free the VMA's reservation and clear VM_PAT: of ``size`` bytes from ``pfn``, or of the whole VMA when both are 0.

    Where the frames cannot be found out, nothing happens and VM_PAT stays. ``mm_wr_locked``: does the caller hold
    mmap_lock W? Source: arch/x86/mm/pat/memtype.c untrack_pfn (to 6.12); none (7.3).
    """
    if not vma.vm_flags & VM_PAT:
        return
    paddr = pfn << PAGE_SHIFT
    if not paddr and not size:
        error, paddr, _ = get_pat_info(vma, False)
        if error:
            return
        size = vma.vm_end - vma.vm_start
    pat.free_pfn_range(vma.vm_mm.machine, paddr, size, vma.memtype_owner)
    untrack_clear(vma, mm_wr_locked)


# -- where a reservation is given back -----------------------------------------------------------------------------
@untrack_site.alternative(
    "unmap_single_vma", source="mm/memory.c unmap_single_vma (to 6.12); none (7.3)", releases="<= v6.15"
)
def untrack_in_unmap_single_vma(vma: VmArea, site: str, mm_wr_locked: bool) -> None:
    """In every unmapping of any part of the VMA: a zap of one page gives the whole reservation back."""
    if site == "unmap_single_vma":
        untrack_pfn(vma, 0, 0, mm_wr_locked)


@untrack_site.alternative(
    "unmap_vmas",
    source="'mm/x86/pat: Only untrack the pfn range if unmap region' (2024); as before f5cc4eef9987 (3.6)",
    releases="proposal",
)
def untrack_in_unmap_vmas(vma: VmArea, site: str, mm_wr_locked: bool) -> None:
    """Only where VMAs are torn down, and before their entries are: by then a zap may have taken those away."""
    if site == "unmap_vmas":
        untrack_pfn(vma, 0, 0, mm_wr_locked)


@untrack_clear.alternative(
    "by-lock", source="arch/x86/mm/pat/memtype.c untrack_pfn (to 6.12); none (7.3)", releases="all"
)
def clear_by_lock(vma: VmArea, mm_wr_locked: bool) -> None:
    """Ask for mmap_lock W only of a caller who says that he has it; write without it for the others."""
    if mm_wr_locked:
        vm_flags_clear(vma, VM_PAT)
    else:
        __vm_flags_mod(vma, 0, VM_PAT)


@untrack_clear.alternative("asserting", source="negative control, dossier S-LOCK-03", releases="never")
def clear_asserting(vma: VmArea, mm_wr_locked: bool) -> None:
    """As every other writer of vm_flags."""
    vm_flags_clear(vma, VM_PAT)


# -- which frames they were ----------------------------------------------------------------------------------------
def follow_phys(vma: VmArea) -> tuple[bool, int]:
    """The leaf entry behind the VMA's first address, if there is one: (found, entry). Only that address is looked at.

    Source: mm/memory.c follow_phys, follow_pte (to 6.1), arch/x86/mm/pat/memtype.c follow_phys (6.12), mm/memory.c
    follow_pfnmap_start (6.12); none (7.3). The one of 6.12 understands huge leaves.
    """
    follow_pte_assert(vma)
    if not vma.has(VM_IO | VM_PFNMAP):
        return False, NONE
    mm, address = vma.vm_mm, vma.vm_start
    pud = pud_offset(mm, address)
    if pud is not None:
        spin_lock(pud.pud_lock)
        entry = pud.entry
        spin_unlock(pud.pud_lock)
        if pud_leaf(entry):
            return True, entry
    table = pmd_offset(mm, address)
    entry = table.entry
    if entry == NONE:
        return False, NONE
    if pmd_leaf(entry):
        return True, entry
    ptl = pte_offset_map_lock(table)
    entry = ptep_get(table, address)
    pte_unmap_unlock(ptl)
    return pte_present(entry), entry


def _found(entry: int) -> tuple[int, int, int]:
    return 0, pte_pfn(entry) << PAGE_SHIFT, entry & PROT_MASK


def _nothing_at(vma: VmArea) -> tuple[int, int, int]:
    report(
        "WARN",
        "untrack-walk-failed",
        f"{current().name} looks for the frames that {vma.name} has reserved, and its first page is not mapped",
    )
    return -EINVAL, 0, 0


@get_pat_info.alternative("walk", source="arch/x86/mm/pat/memtype.c untrack_pfn, v5.10", releases="<= v6.8, v6.9")
def first_page_whatever_it_is(vma: VmArea, want_prot: bool) -> tuple[int, int, int]:
    """The frame behind the first page, be it a copied page of a private mapping: (errno, bytes, protection)."""
    found, entry = follow_phys(vma)
    return _found(entry) if found else _nothing_at(vma)


@get_pat_info.alternative(
    "walk-not-anon",
    source="arch/x86/mm/pat/memtype.c get_pat_info (to 6.12); none (7.3)",
    releases="v6.9 - v6.15, LTS",
)
def first_page_unless_copied(vma: VmArea, want_prot: bool) -> tuple[int, int, int]:
    """The frame behind the first page if it is the device's; for a private mapping vm_pgoff says it otherwise.

    The protection cannot be had that way: fork() of a mapping whose first page was copied fails.
    """
    found, entry = follow_phys(vma)
    if found and entry & SPECIAL:
        return _found(entry)
    if is_cow_mapping(vma.has(VM_SHARED | VM_MAYWRITE)):
        reached("the frames were found by vm_pgoff" if not want_prot else "the first page was copied")
        return (-EINVAL, 0, 0) if want_prot else (0, vma.vm_pgoff << PAGE_SHIFT, 0)
    return _nothing_at(vma)


@get_pat_info.alternative(
    "walk-under-mmap-lock", source="'mm: Fix mmap_assert_locked() in follow_pte()' (July 2024)", releases="proposal"
)
def first_page_under_mmap_lock(vma: VmArea, want_prot: bool) -> tuple[int, int, int]:
    """The same, taking the lock that the walk's assertion asks for; where it is for untracking, and not fork's."""
    if want_prot:
        return first_page_unless_copied(vma, want_prot)
    mmap_read_lock(vma.vm_mm)
    result = first_page_unless_copied(vma, want_prot)
    mmap_read_unlock(vma.vm_mm)
    return result


@follow_pte_assert.alternative("none", source="mm/memory.c follow_pte, v6.1", releases="<= v6.9")
def walk_unasserted(vma: VmArea) -> None:
    """Nobody looks."""


@follow_pte_assert.alternative("mmap_lock", source="mm/memory.c follow_pte, v6.10", releases="v6.10 - v6.11")
def walk_needs_mmap_lock(vma: VmArea) -> None:
    """mmap_lock, in any mode: a reverse-map zap, which holds i_mmap_rwsem only, is a warning."""
    _assert_held(vma, vma.vm_mm.mmap_lock)


@follow_pte_assert.alternative(
    "mmap_lock-or-i_mmap", source="mm/memory.c pfnmap_lockdep_assert, 6.12.117", releases=">= v6.12"
)
def walk_needs_either(vma: VmArea) -> None:
    """mmap_lock or the file's i_mmap_rwsem, in any mode: either keeps the VMA. Only lockdep builds look."""
    if running().has("lockdep"):
        _assert_held(vma, vma.vm_mm.mmap_lock, vma.rmap_lock)


def _assert_held(vma: VmArea, *locks: Any) -> None:
    if all(lock.held() is None for lock in locks):
        names = " or ".join(lock.name for lock in locks)
        report("WARN", "mmap_assert_locked", f"{current().name} walks for {vma.name}'s frames without {names}")


# -- fork ------------------------------------------------------------------------------------------------------------
@track_pfn_copy.alternative("inherit", source="mm/memory.c copy_page_range, 5.10.262, v6.12", releases="<= v6.14")
class Inherit:
    """The child has VM_PAT because its flags were copied, whether a reservation of its own succeeds or not."""

    @staticmethod
    def fork_dup(tmp: VmArea) -> None:
        """VM_PAT stays."""

    @staticmethod
    def reserved(dst: VmArea) -> None:
        """VM_PAT is there already."""

    @staticmethod
    def failed(dst: VmArea, pfn: int) -> None:
        """The child's teardown will untrack."""


@track_pfn_copy.alternative(
    "clear-then-set",
    source="kernel/fork.c dup_mmap (6.1 - 6.12), arch/x86/mm/pat/memtype.c track_pfn_copy, untrack_pfn_copy "
    "(6.1 - 6.12); none (7.3)",
    releases="v6.15, deb-6.1.192, deb-6.12.117",
)
class ClearThenSet:
    """The child gets VM_PAT with a reservation of its own, and gives both back if its page tables cannot be copied."""

    @staticmethod
    def fork_dup(tmp: VmArea) -> None:
        """Clear it; nobody else sees the VMA yet."""
        vm_flags_clear(tmp, VM_PAT)

    @staticmethod
    def reserved(dst: VmArea) -> None:
        """Set it. fork holds the child's mmap_lock W."""
        vm_flags_set(dst, VM_PAT)

    @staticmethod
    def failed(dst: VmArea, pfn: int) -> None:
        """Give it back. Source: arch/x86/mm/pat/memtype.c untrack_pfn_copy (6.1 - 6.12); none (5.10); none (7.3)."""
        untrack_pfn(dst, pfn, dst.vm_end - dst.vm_start, True)


# -- 6.16 ------------------------------------------------------------------------------------------------------------
class PfnmapTrackCtx(Model):
    """A reservation of ``size`` bytes from ``pfn``, shared by a VMA and its copies: the last to go gives it back."""

    __slots__ = ("machine", "owner")
    kref = Atomic()
    pfn = Const()
    size = Const()

    def __init__(self, name: str, machine: Any, pfn: int, size: int, owner: Any) -> None:
        super().__init__(name, kref=1, pfn=pfn, size=size)
        self.machine = machine
        self.owner = owner


def kref_put(ctx: PfnmapTrackCtx) -> None:
    """Drop a reference; the last one gives the frames back.

    Source: mm/memory.c pfnmap_track_ctx_release (7.3), include/linux/kref.h kref_put (7.3); none (to 6.12).
    """
    if ctx.add_return("kref", -1) == 0:
        pat.free_pfn_range(ctx.machine, ctx.pfn << PAGE_SHIFT, ctx.size, ctx.owner)
        ctx.free()


@pfnmap_track.alternative(
    "ctx",
    source="'mm: rewrite pfnmap tracking and remove VM_PAT'; mm/memory.c remap_pfn_range_track, "
    "pfnmap_track_ctx_alloc, pfnmap_track_ctx_release, 7.3.4",
    releases=">= v6.16",
)
class TrackCtx:
    """The VMA refers to an object that knows the frames; unmapping has no part in it."""

    @staticmethod
    def remap(vma: VmArea, prot: int, pfn: int, addr: int, size: int) -> tuple[int, int, Any]:
        """Reserve for a mapping of the whole VMA, which can have only one; look up for any other."""
        if addr != vma.vm_start or size != vma.vm_end - vma.vm_start:
            error, prot = setup_cachemode(vma, pfn, size, prot)
            return error, prot, None
        if vma.pfnmap_track_ctx is not None:
            reached("the VMA was tracked already")
            return -EINVAL, prot, None
        machine = vma.vm_mm.machine
        owner = vma.memtype_owner
        error, prot = pat.reserve_pfn_range(machine, pfn << PAGE_SHIFT, size, prot, False, owner)
        if error:
            return -EINVAL, prot, None
        might_alloc(machine)
        if may_fail("pfnmap_track_ctx", machine.failures):
            pat.free_pfn_range(machine, pfn << PAGE_SHIFT, size, owner)
            return -ENOMEM, prot, None
        return 0, prot, PfnmapTrackCtx(f"{vma.name}:track_ctx", machine, pfn, size, owner)

    @staticmethod
    def remap_done(vma: VmArea, ctx: PfnmapTrackCtx | None) -> None:
        """The frames are mapped: the VMA has them."""
        if ctx is not None:
            vma.pfnmap_track_ctx = ctx

    @staticmethod
    def remap_failed(vma: VmArea, ctx: PfnmapTrackCtx | None, pfn: int, size: int) -> None:
        """Give back what ``remap`` reserved."""
        if ctx is not None:
            kref_put(ctx)

    @staticmethod
    def unmapping(vma: VmArea, site: str, mm_wr_locked: bool) -> None:
        """Nothing."""

    @staticmethod
    def dup(orig: VmArea, new: VmArea) -> int:
        """Split, mremap and fork share the reservation. 0 or an errno.

        Source: mm/vma_init.c vma_pfnmap_track_ctx_dup (7.3); none (to 6.12).
        """
        ctx = orig.pfnmap_track_ctx
        if ctx is not None:
            ctx.add_return("kref", 1)
            new.pfnmap_track_ctx = ctx
        return 0

    @staticmethod
    def area_free(vma: VmArea) -> None:
        """After page tables are gone and TLBs are flushed.

        Source: mm/vma_init.c vma_pfnmap_track_ctx_release (7.3); none (to 6.12).
        """
        ctx = vma.pfnmap_track_ctx
        if ctx is not None:
            kref_put(ctx)

    @staticmethod
    def moved(vma: VmArea) -> None:
        """Nothing: the source keeps its reference until it is freed."""

    @staticmethod
    def fork_dup(tmp: VmArea) -> None:
        """Nothing: ``dup`` has done it."""

    @staticmethod
    def copy(dst: VmArea, src: VmArea) -> tuple[int, int]:
        """Nothing is reserved for a child: it cannot fail."""
        return 0, 0

    @staticmethod
    def copy_failed(dst: VmArea, pfn: int) -> None:
        """Nothing."""
