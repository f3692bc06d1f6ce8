"""mlock on mappings of device memory, and what VmLck counts. Source: mm/mlock.c, functions of the same name."""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.mm.mm_types import VM_LOCKED, VM_SPECIAL, MmStruct
from mmlitmus.kernel.mm.mmap_lock import mmap_write_lock, mmap_write_unlock, vma_start_write
from mmlitmus.kernel.mm.mprotect import isolate_range
from mmlitmus.kernel.mm.vma import vmas_in_range
from mmlitmus.kernel.mm.vma_flags import vm_flags_reset


def sys_mlock(mm: MmStruct, start: int, length: int, lock: bool) -> int:
    """mlock(2) and munlock(2), bytes: 0 or an errno. A special VMA is skipped in silence: success, not locked, and not
    counted in ``locked_vm``.
    """
    length += start & PAGE_SIZE - 1
    start &= ~(PAGE_SIZE - 1)
    end = start + (length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1))
    if end == start:
        return 0
    mmap_write_lock(mm)
    error = 0
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
    return error
