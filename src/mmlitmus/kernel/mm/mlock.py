"""mlock, what VmLck counts, and what is faulted in at once. Source: mm/mlock.c, functions of the same name. Of the
model's own: may_lock.
"""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmlitmus.kernel.errno import EAGAIN, EFAULT, EINVAL, ENOMEM, EPERM
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
from mmlitmus.kernel.mm.mmu_gather import TASK_SIZE, ULONG_MAX
from mmlitmus.kernel.mm.vma import vma_lookup, vmas_in_range
from mmlitmus.kernel.mm.vma_flags import vm_flags_reset
from mmlitmus.kernel.mm.vma_merge import vma_modify

MLOCK_ONFAULT = 1
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
VM_LOCKED_MASK = VM_LOCKED | VM_LOCKONFAULT


def sys_mlock(mm: MmStruct, start: int, length: int, lock: bool, flags: int = 0) -> int:
    """mlock2(2), which is mlock(2) without ``flags``, and munlock(2), bytes: 0 or an errno. A special VMA is skipped in
    silence: success, not locked, and not counted in ``locked_vm``.
    """
    if flags & ~MLOCK_ONFAULT:
        return -EINVAL
    if lock and mm.lock_limit == 0:
        return -EPERM
    length = length + (start & PAGE_SIZE - 1) & ULONG_MAX
    start &= ~(PAGE_SIZE - 1)
    length = length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1) & ULONG_MAX
    if not length:
        return 0
    mmap_write_lock(mm)
    if lock and mm.lock_limit is not None and not may_lock(mm, start, start + length):
        mmap_write_unlock(mm)
        return -ENOMEM
    bits = (VM_LOCKED if lock else 0) | (VM_LOCKONFAULT if flags & MLOCK_ONFAULT else 0)
    error = apply_vma_lock_flags(mm, start, length, bits)
    mmap_write_unlock(mm)
    if error or not lock:
        return error
    error = mm_populate(mm, start, start + length, ignore_errors=False)
    return {0: 0, -EFAULT: -ENOMEM, -ENOMEM: -EAGAIN}.get(error, error)  # __mlock_posix_error_return


def apply_vma_lock_flags(mm: MmStruct, start: int, length: int, bits: int) -> int:
    """Lock every VMA in ``length`` bytes from ``start`` on as ``bits`` say: 0 or an errno. The first hole ends it; a
    range that wraps is none. mmap_lock W is held.
    """
    end = start + length
    if end > ULONG_MAX:
        return -EINVAL
    at = start
    while at < end:
        vma = vma_lookup(mm, at)
        if vma is None:
            return -ENOMEM
        stop = min(vma.vm_end, end)
        error = mlock_fixup(vma, at, stop, bits)
        if error:
            return error
        at = stop
    return 0


def mlock_fixup(vma: VmArea, start: int, end: int, bits: int) -> int:
    """Lock, or unlock, a part of a VMA: 0 or an errno. What is locked already is not counted twice."""
    flags = vma.vm_flags
    new = flags & ~VM_LOCKED_MASK | bits
    if new == flags or flags & VM_SPECIAL:
        return 0
    was = vma
    error, vma = vma_modify(vma, start, end, new)
    if error:
        return error
    mm = vma.vm_mm
    more = int(bool(new & VM_LOCKED)) - int(bool(flags & VM_LOCKED))
    vma_start_write(vma)
    vm_flags_reset(vma, new, flags if vma is was else vma.vm_flags)
    mm.locked_vm = mm.locked_vm + (end - start >> PAGE_SHIFT) * more
    return 0


def sys_mlockall(mm: MmStruct, flags: int) -> int:
    """mlockall(2): 0 or an errno. MCL_FUTURE locks what is mapped from now on."""
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        return -EINVAL
    if mm.lock_limit == 0:
        return -EPERM
    mmap_write_lock(mm)
    if flags & MCL_CURRENT and mm.lock_limit is not None and mm.total_vm > mm.lock_limit:
        mmap_write_unlock(mm)
        return -ENOMEM
    apply_mlockall_flags(mm, flags)
    mmap_write_unlock(mm)
    if flags & MCL_CURRENT:
        mm_populate(mm, 0, TASK_SIZE)
    return 0


def sys_munlockall(mm: MmStruct) -> int:
    """munlockall(2): 0."""
    mmap_write_lock(mm)
    apply_mlockall_flags(mm, 0)
    mmap_write_unlock(mm)
    return 0


def apply_mlockall_flags(mm: MmStruct, flags: int) -> None:
    """Lock what is mapped, or what will be, or nothing any more. mmap_lock W is held. A VMA that cannot be is left."""
    bits = VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)
    mm.def_flags = mm.def_flags & ~VM_LOCKED_MASK | (bits if flags & MCL_FUTURE else 0)
    if flags & (MCL_CURRENT | MCL_FUTURE) == MCL_FUTURE:
        return
    at = 0
    while vmas := vmas_in_range(mm, at, TASK_SIZE):
        vma, at = vmas[0], vmas[0].vm_end
        mlock_fixup(vma, vma.vm_start, at, bits if flags & MCL_CURRENT else 0)


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
