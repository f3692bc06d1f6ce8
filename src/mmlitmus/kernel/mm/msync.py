"""msync. Source: mm/msync.c, functions of the same name."""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import PAGE_SIZE
from mmlitmus.kernel.errno import EBUSY, EINVAL, ENOMEM
from mmlitmus.kernel.mm.mm_types import VM_LOCKED, VM_SHARED, MmStruct
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.mmu_gather import ULONG_MAX
from mmlitmus.kernel.mm.vma import vmas_in_range

MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4


def sys_msync(mm: MmStruct, start: int, length: int, flags: int) -> int:
    """msync(2), bytes: 0 or an errno. A hole is -ENOMEM after the rest was done.

    What MS_SYNC waits for is the file's own business (a device file without ->fsync is -EINVAL), with mmap_lock given
    back meanwhile.
    """
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or start & PAGE_SIZE - 1:
        return -EINVAL
    if flags & MS_ASYNC and flags & MS_SYNC:
        return -EINVAL
    end = start + (length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1) & ULONG_MAX)
    if end > ULONG_MAX:
        return -ENOMEM
    missing = 0
    at = start
    mmap_read_lock(mm)
    while at < end:
        vma = next(iter(vmas_in_range(mm, at, end)), None)
        if vma is None:
            mmap_read_unlock(mm)
            return -ENOMEM
        if at < vma.vm_start:
            missing = -ENOMEM
        if flags & MS_INVALIDATE and vma.vm_flags & VM_LOCKED:
            mmap_read_unlock(mm)
            return -EBUSY
        at = vma.vm_end
        if flags & MS_SYNC and not vma.vm_ops.anonymous and vma.has(VM_SHARED):
            mmap_read_unlock(mm)
            return -EINVAL
    mmap_read_unlock(mm)
    return missing
