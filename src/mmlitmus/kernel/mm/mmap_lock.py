"""mmap_lock, the per-VMA lock, and what asserts them.

Source: include/linux/mmap_lock.h, functions of the same name.
Per-VMA locks exist where the build has PER_VMA_LOCK (6.4 on). From 6.15 the VMA lock is a reference count with the same
rules; it is modelled as the read-write semaphore of 6.4 to 6.14 everywhere.
"""

from __future__ import annotations

from mmlitmus.kernel.mm.mm_types import MmStruct, VmArea
from mmlitmus.kernel.policy import running
from mmlitmus.kernel.sync.rwsem import (
    down_read,
    down_read_trylock,
    down_write,
    down_write_nested,
    downgrade_write,
    up_read,
    up_write,
)


def mmap_read_lock(mm: MmStruct) -> None:
    """Share mmap_lock."""
    down_read(mm.mmap_lock)


def mmap_read_trylock(mm: MmStruct) -> bool:
    """Share mmap_lock if no writer holds or waits."""
    return down_read_trylock(mm.mmap_lock)


def mmap_read_unlock(mm: MmStruct) -> None:
    """Stop sharing mmap_lock."""
    up_read(mm.mmap_lock)


def mmap_write_lock(mm: MmStruct) -> None:
    """Own mmap_lock."""
    down_write(mm.mmap_lock)


def mmap_write_lock_nested(mm: MmStruct, subclass: int) -> None:
    """Own a second mm's mmap_lock (fork: the child's inside the parent's)."""
    down_write_nested(mm.mmap_lock, subclass)


def mmap_write_unlock(mm: MmStruct) -> None:
    """Give up mmap_lock W; every VMA that was write-locked under it becomes readable again."""
    vma_end_write_all(mm)
    up_write(mm.mmap_lock)


def mmap_write_downgrade(mm: MmStruct) -> None:
    """mmap_lock W to R with nobody in between; write-locked VMAs become readable too."""
    vma_end_write_all(mm)
    downgrade_write(mm.mmap_lock)


def vma_end_write_all(mm: MmStruct) -> None:
    """Unlock all write-locked VMAs at once, by changing the sequence number they were stamped with: a release, which
    the second look of ``vma_start_read`` acquires.

    Source: include/linux/mmap_lock.h vma_end_write_all (from 6.12); none (to 6.1).
    """
    if running().has("PER_VMA_LOCK"):
        mm.mm_lock_seq = mm.peek("mm_lock_seq") + 1  # only mmap_lock W holders change it


def vma_start_write(vma: VmArea) -> None:
    """Write-lock the VMA until mmap_lock W is given up: wait for its readers, then stamp it.

    The caller must hold mmap_lock W. Where it holds R only (VFIO's fault handler, 6.3 to 6.9), the stamp makes the VMA
    look write-locked until the next writer comes along.

    Source: include/linux/mm.h vma_start_write (6.12), include/linux/mmap_lock.h vma_start_write (7.3), mm/mmap_lock.c
    __vma_start_write (7.3); none (to 6.1).
    """
    if not running().has("PER_VMA_LOCK"):
        return
    mm = vma.vm_mm
    seq = mm.peek("mm_lock_seq")
    if vma.peek("vm_lock_seq") == seq:
        return
    down_write(vma.vm_lock)
    vma.vm_lock_seq = seq
    up_write(vma.vm_lock)


def vma_start_read(vma: VmArea) -> bool:
    """Read-lock the VMA unless it is, or is becoming, write-locked. Never waits.

    Source: include/linux/mm.h vma_start_read (6.12), mm/mmap_lock.c vma_start_read (7.3); none (to 6.1).
    """
    mm = vma.vm_mm
    if vma.vm_lock_seq == mm.mm_lock_seq:
        return False
    if not down_read_trylock(vma.vm_lock):
        return False
    if vma.vm_lock_seq == mm.mm_lock_seq:
        up_read(vma.vm_lock)
        return False
    return True


def vma_end_read(vma: VmArea) -> None:
    """Undo ``vma_start_read``.

    Source: include/linux/mm.h vma_end_read (6.12), include/linux/mmap_lock.h vma_end_read (7.3); none (to 6.1).
    """
    up_read(vma.vm_lock)


def lock_vma_under_rcu(mm: MmStruct, address: int) -> VmArea | None:
    """The VMA that contains ``address``, read-locked, found without mmap_lock; None when that cannot be had.

    Source: mm/memory.c lock_vma_under_rcu (6.12), mm/mmap_lock.c lock_vma_under_rcu (7.3); none (to 6.1).
    """
    rcu = mm.machine.rcu
    rcu.read_lock()
    vma = next((v for v in mm.mm_mt if v.peek("vm_start") <= address < v.peek("vm_end")), None)
    if vma is not None and not vma_start_read(vma):
        vma = None
    if vma is not None and (vma.detached or not vma.vm_start <= address < vma.vm_end):
        vma_end_read(vma)
        vma = None
    rcu.read_unlock()
    return vma
