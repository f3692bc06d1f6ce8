"""Locks that code *may* take: what tells lockdep about a wait that did not happen this time; and whether it may sleep.

might_fault() is what copy_to_user does before it copies: the copy may fault, and a fault takes mmap_lock. might_alloc()
is what every GFP_KERNEL allocation does: it may enter reclaim, and reclaim walks the reverse map. Source: mm/memory.c
__might_fault; include/linux/sched/mm.h, functions of the same name; mm/page_alloc.c fs_reclaim_acquire;
drivers/dma-buf/dma-resv.c dma_resv_lockdep. The last one primes fs_reclaim > i_mmap_rwsem at boot.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.contexts import might_sleep
from mmlitmus.explore.primitives.base import Primitive, ask

__all__ = ["PseudoLock", "fs_reclaim", "might_alloc", "might_fault", "might_sleep"]


class PseudoLock(Primitive):
    """A lock that exists for lockdep only."""

    __slots__ = ()


def fs_reclaim() -> PseudoLock:
    """The reclaim pseudo-lock, with what reclaim takes already known to lockdep.

    Source: mm/page_alloc.c fs_reclaim_acquire; drivers/dma-buf/dma-resv.c dma_resv_lockdep.
    """
    why = "reclaim takes i_mmap_rwsem while holding fs_reclaim (primed at boot)"
    rt.engine.lockdep.prime("fs_reclaim", "i_mmap_rwsem", why)
    return PseudoLock("fs_reclaim", "fs_reclaim")


def might_alloc(machine: Any) -> None:
    """A GFP_KERNEL allocation is about to be made: it may sleep.

    Source: include/linux/sched/mm.h might_alloc.
    """
    if rt.engine.cur >= 0:
        might_sleep("might_alloc")
        ask(machine.fs_reclaim, "alloc", 0)


def might_fault(mm: Any) -> None:
    """User memory of ``mm`` is about to be copied: mmap_lock may be taken for reading.

    Source: mm/memory.c __might_fault.
    """
    if rt.engine.cur >= 0:
        might_sleep("might_fault")
        ask(mm.mmap_lock, "read", 0)
