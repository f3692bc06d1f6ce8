"""The syscall surface: typed operations on symbolic handles; an errno (negative) or a signal's name comes back.

Case tasks, recorded programs and the guest agent all speak this. Lengths and addresses are in bytes unless a name says
pages; a process's regions live in fixed slots (``kernel.machine``).
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.runtime import current
from mmlitmus.kernel.arch.x86.fault import fixup_user_fault, user_access
from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.fs.proc import task_mmu
from mmlitmus.kernel.mm.fork import dup_mmap
from mmlitmus.kernel.mm.madvise import sys_madvise
from mmlitmus.kernel.mm.mlock import sys_mlock
from mmlitmus.kernel.mm.mm_types import File, MmStruct
from mmlitmus.kernel.mm.mmap import MAP_SHARED, PROT_READ, PROT_WRITE, do_mmap, mmput, vm_munmap
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from mmlitmus.kernel.mm.mprotect import sys_mprotect
from mmlitmus.kernel.mm.mremap import MREMAP_FIXED, MREMAP_MAYMOVE, sys_mremap


class Process:
    """A process: what its threads may ask of the kernel. Runs on the CPU of whichever task calls."""

    def __init__(self, machine: Any, mm: MmStruct) -> None:
        self.machine = machine
        self.mm = mm
        self.name = mm.name

    # -- mappings ------------------------------------------------------------------------------------------------
    def mmap(
        self,
        file: File,
        pages: int,
        *,
        at: str | int = "a",
        offset: int = 0,
        prot: int = PROT_READ | PROT_WRITE,
        flags: int = MAP_SHARED,
    ) -> int:
        """mmap ``pages`` pages of ``file`` from page ``offset`` at a slot or address: the address, or an errno."""
        address = self.machine.slot(at) if isinstance(at, str) else at
        mmap_write_lock(self.mm)
        result = do_mmap(self.mm, file, address, pages << PAGE_SHIFT, prot, flags, offset)
        mmap_write_unlock(self.mm)
        return result

    def munmap(self, address: int, pages: int) -> int:
        """munmap(2): 0 or an errno."""
        return vm_munmap(self.mm, address, pages << PAGE_SHIFT)

    def mremap(
        self,
        address: int,
        old_pages: int,
        new_pages: int,
        *,
        to: str | int | None = None,
        flags: int | None = None,
    ) -> int:
        """mremap(2), to a slot or address when ``to`` is given (MAYMOVE | FIXED): the new address, or an errno."""
        target = self.machine.slot(to) if isinstance(to, str) else to or 0
        if flags is None:
            flags = MREMAP_MAYMOVE | MREMAP_FIXED if to is not None else 0
        return sys_mremap(self.mm, address, old_pages << PAGE_SHIFT, new_pages << PAGE_SHIFT, flags, target)

    def mprotect(self, address: int, pages: int, prot: int) -> int:
        """mprotect(2): 0 or an errno."""
        return sys_mprotect(self.mm, address, pages << PAGE_SHIFT, prot)

    def madvise(self, address: int, pages: int, advice: int) -> int:
        """madvise(2): 0 or an errno."""
        return sys_madvise(self.mm, address, pages << PAGE_SHIFT, advice)

    def mlock(self, address: int, pages: int) -> int:
        """mlock(2): 0 or an errno."""
        return sys_mlock(self.mm, address, pages << PAGE_SHIFT, True)

    def munlock(self, address: int, pages: int) -> int:
        """munlock(2): 0 or an errno."""
        return sys_mlock(self.mm, address, pages << PAGE_SHIFT, False)

    # -- processes -----------------------------------------------------------------------------------------------
    def fork(self, name: str) -> Process | int:
        """fork(2): the child, or -ENOMEM. The child runs on the calling task's CPU."""
        mm = self.machine.new_mm(name)
        if current().index >= 0:
            mm.cpus.append(self.machine.this_cpu())
        if dup_mmap(mm, self.mm):
            mmput(mm)
            return -ENOMEM  # whatever went wrong (kernel/fork.c copy_mm)
        return Process(self.machine, mm)

    def exit(self) -> None:
        """The last thread exits: the mm goes when nobody else uses it."""
        mmput(self.mm)

    # -- access --------------------------------------------------------------------------------------------------
    def read(self, address: int) -> Any:
        """A load: what the device gave, or the signal's name."""
        return user_access(self.mm, self.machine.this_cpu(), address, write=False)

    def write(self, address: int) -> Any:
        """A store: 0, or the signal's name."""
        result = user_access(self.mm, self.machine.this_cpu(), address, write=True)
        return result if isinstance(result, str) else 0

    def pin_mmio(self, address: int) -> int:
        """What VFIO type1 does to pin MMIO: fault the page in on the process's behalf. 0 or an errno."""
        mmap_read_lock(self.mm)
        result = fixup_user_fault(self.mm, address, write=True)
        mmap_read_unlock(self.mm)
        return result

    # -- observation ---------------------------------------------------------------------------------------------
    def pte(self, address: int) -> int:
        """The raw leaf entry (what the probe module reads); no event."""
        entry: int = self.machine.translation(self.mm, address)
        return entry

    def vm_flags(self, address: int) -> str:
        """The VmFlags line of smaps for the VMA at ``address``, in the kernel's letters."""
        return task_mmu.vm_flags_letters(self.mm, address)

    def smaps(self) -> str:
        """/proc/PID/smaps, the lines that the model knows."""
        return task_mmu.smaps(self.mm)

    def pagemap(self, address: int) -> int:
        """The 64-bit /proc/PID/pagemap entry for ``address``."""
        return task_mmu.pagemap(self.mm, address)

    def locked(self) -> int:
        """VmLck of /proc/PID/status, in pages."""
        return task_mmu.locked(self.mm)
