"""Who may write vm_flags, and what a kernel does about those who may not.

vm_flags is a plain word under mmap_lock W (and the VMA's write lock). Source: include/linux/mm.h vm_flags_set
(from 6.12); the wrappers and their assertion came with 6.3, before that every writer was a bare ``|=``. ba168b52bf8e
(6.10) made mmap_assert_write_locked check the lock without lockdep too.
"""

from __future__ import annotations

from mmlitmus.explore.findings import report
from mmlitmus.explore.runtime import current
from mmlitmus.kernel.mm.mm_types import VM_LASTING, VmArea
from mmlitmus.kernel.mm.mmap_lock import vma_start_write
from mmlitmus.kernel.policy import Seam, running

vma_flags_write = Seam("vma_flags_write", "what a kernel checks before a vm_flags word is changed")


def vm_flags_set(vma: VmArea, flags: int) -> None:
    """Set bits in vm_flags: a plain read, then a plain write. The caller must hold mmap_lock W.

    Source: include/linux/mm.h vm_flags_set (from 6.12); none (to 6.1).
    """
    vma_flags_write(vma)
    seen = vma.vm_flags
    _store(vma, seen | flags, seen)


def vm_flags_clear(vma: VmArea, flags: int) -> None:
    """Clear bits in vm_flags. The caller must hold mmap_lock W.

    Source: include/linux/mm.h vm_flags_clear (from 6.12); none (to 6.1).
    """
    vma_flags_write(vma)
    seen = vma.vm_flags
    _store(vma, seen & ~flags, seen)


def vm_flags_reset(vma: VmArea, flags: int, seen: int) -> None:
    """Replace vm_flags by what was worked out from ``seen`` (mprotect, madvise, mlock).

    The caller must hold mmap_lock W and have write-locked the VMA. Source: include/linux/mm.h vm_flags_reset (from
    6.12); none (to 6.1).
    """
    vma_flags_write(vma)
    _store(vma, flags, seen)


def __vm_flags_mod(vma: VmArea, set_: int, clear: int) -> None:
    """Change bits and ask nobody: for the one caller that may be without mmap_lock W, ``untrack_pfn`` (6.3 on)."""
    seen = vma.vm_flags
    _store(vma, (seen | set_) & ~clear, seen)


def vma_set_flags(vma: VmArea, flags: int) -> None:
    """Set bits and ask nobody. Source: include/linux/mm.h vma_set_flags_mask (7.3); none (to 6.12)."""
    seen = vma.vm_flags
    _store(vma, seen | flags, seen)


def _store(vma: VmArea, flags: int, seen: int) -> None:
    changed = (flags ^ seen) & VM_LASTING
    if changed and not vma.peek("private") and not (vma.peek("late") and vma.vm_mm.mmap_lock.held() == "write"):
        report(
            "precondition",
            "lasting flag changed",
            f"{current().name} changes bits {changed:#x} of {vma.name}.vm_flags, which others rely on by now",
        )
    vma.store("vm_flags", flags, seen, "lost-flags-update")


@vma_flags_write.alternative("unchecked", source="mm/memory.c remap_pfn_range_notrack, v6.1", releases="<= v6.2")
def unchecked(vma: VmArea) -> None:
    """Nobody looks: a store under the wrong lock is silent."""


@vma_flags_write.alternative("lockdep", source="include/linux/mm.h vm_flags_set, v6.6", releases="v6.3 - v6.9")
def assert_with_lockdep(vma: VmArea) -> None:
    """The VMA is write-locked; mmap_lock W is asserted, which only a lockdep build notices."""
    if running().has("lockdep"):
        _assert_mmap_write_locked(vma)
    vma_start_write(vma)


@vma_flags_write.alternative(
    "always", source="ba168b52bf8e; include/linux/mmap_lock.h mmap_assert_write_locked", releases=">= v6.10"
)
def assert_always(vma: VmArea) -> None:
    """The VMA is write-locked; mmap_lock W is asserted in every build."""
    _assert_mmap_write_locked(vma)
    vma_start_write(vma)


def _assert_mmap_write_locked(vma: VmArea) -> None:
    if vma.peek("private"):
        return  # a VMA that nobody else can reach: the wrappers are used under mmap_lock W here anyway
    mode = vma.vm_mm.mmap_lock.held()
    if mode != "write":
        report(
            "WARN",
            "flags-without-lock",
            f"mmap_assert_write_locked: {current().name} writes vm_flags of {vma.name} "
            f"holding mmap_lock for {mode or 'nothing'}",
        )
