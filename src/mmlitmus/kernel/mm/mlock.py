"""mlock, what VmLck counts, and what is faulted in at once. Source: mm/mlock.c, functions of the same name. Of the
model's own: may_lock.
"""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmlitmus.kernel.errno import EAGAIN, EFAULT, ENOMEM, EPERM
from mmlitmus.kernel.mm.gup import FOLL_FORCE, FOLL_TOUCH, FOLL_WRITE, __get_user_pages
from mmlitmus.kernel.mm.mm_types import (
    VM_EXEC,
    VM_IO,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_WRITE,
    MmStruct,
    VmArea,
)
from mmlitmus.kernel.mm.mmap_lock import (
    mmap_read_lock,
    mmap_read_unlock,
    mmap_write_lock,
    mmap_write_unlock,
    vma_start_write,
)
from mmlitmus.kernel.mm.vma import isolate_range, vmas_in_range
from mmlitmus.kernel.mm.vma_flags import vm_flags_reset


def sys_mlock(mm: MmStruct, start: int, length: int, lock: bool) -> int:
    """mlock(2) and munlock(2), bytes: 0 or an errno. A special VMA is skipped in silence: success, not locked, and not
    counted in ``locked_vm``.
    """
    length += start & PAGE_SIZE - 1
    start &= ~(PAGE_SIZE - 1)
    end = start + (length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1))
    if lock and mm.lock_limit == 0:
        return -EPERM
    if end == start:
        return 0
    mmap_write_lock(mm)
    error = 0
    if lock and mm.lock_limit is not None and not may_lock(mm, start, end):
        mmap_write_unlock(mm)
        return -ENOMEM
    at = start
    for vma in vmas_in_range(mm, start, end):
        if vma.vm_start > at:
            break
        first, last = max(start, vma.vm_start), min(vma.vm_end, end)
        at = last
        flags = vma.vm_flags
        new = flags | VM_LOCKED if lock else flags & ~VM_LOCKED
        if new == flags or flags & VM_SPECIAL:
            continue
        error = isolate_range(vma, first, at)
        if error:
            break
        vma_start_write(vma)
        vm_flags_reset(vma, new, flags)
        mm.locked_vm = mm.locked_vm + (last - first >> PAGE_SHIFT) * (1 if lock else -1)
    if not error and at < end:
        error = -ENOMEM
    mmap_write_unlock(mm)
    if error or not lock:
        return error
    error = mm_populate(mm, start, end, ignore_errors=False)
    return {0: 0, -EFAULT: -ENOMEM, -ENOMEM: -EAGAIN}.get(error, error)  # __mlock_posix_error_return


def may_lock(mm: MmStruct, start: int, end: int) -> bool:
    """May the process lock this many more pages? What is locked already is not counted twice. mmap_lock W is held.

    Source: mm/mlock.c do_mlock, count_mm_mlocked_page_nr.
    """
    locked: int = mm.locked_vm + (end - start >> PAGE_SHIFT)
    for vma in vmas_in_range(mm, start, end):
        if vma.vm_flags & VM_LOCKED:
            locked -= min(end, vma.vm_end) - max(start, vma.vm_start) >> PAGE_SHIFT
    return locked <= (mm.lock_limit or 0)


def mm_populate(mm: MmStruct, start: int, end: int, *, ignore_errors: bool = True) -> int:
    """Fault in what is mapped in [start, end), up to the first page that cannot be: 0 or an errno. Takes mmap_lock R.

    Source: mm/gup.c __mm_populate.
    """
    mmap_read_lock(mm)
    error = 0
    for vma in vmas_in_range(mm, start, end):
        if vma.has(VM_IO | VM_PFNMAP):
            continue
        error = populate_vma_page_range(vma, max(start, vma.vm_start), min(end, vma.vm_end))
        if error and not ignore_errors:
            break
    mmap_read_unlock(mm)
    return 0 if ignore_errors else error


def populate_vma_page_range(vma: VmArea, start: int, end: int) -> int:
    """One VMA's part of it: stored to where it is private and writable, so that no store faults later. Nothing of one
    that is locked as it is touched.

    Source: mm/gup.c populate_vma_page_range.
    """
    flags = vma.vm_flags
    if flags & VM_LOCKONFAULT:
        return 0
    foll = FOLL_TOUCH
    foll |= FOLL_WRITE if flags & (VM_WRITE | VM_SHARED) == VM_WRITE else 0
    foll |= FOLL_FORCE if flags & (VM_READ | VM_WRITE | VM_EXEC) else 0
    while start < end:
        got = __get_user_pages(vma.vm_mm, start, end - start >> PAGE_SHIFT, foll, None, None)
        if got <= 0:
            return got
        start += got << PAGE_SHIFT
    return 0
