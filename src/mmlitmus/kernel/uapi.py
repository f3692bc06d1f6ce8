"""The syscall surface: typed operations on symbolic handles; an errno (negative) or a signal's name comes back.

Case tasks, recorded programs and the guest agent all speak this. Lengths and addresses are in bytes unless a name says
pages; a process's regions live in fixed slots (``kernel.machine``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from mmlitmus.explore.runtime import current
from mmlitmus.kernel.absent import ABSENT, not_modelled
from mmlitmus.kernel.arch.x86.fault import Unlocked, fixup_user_fault, user_access
from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmlitmus.kernel.errno import EFAULT, EINVAL, ENOMEM
from mmlitmus.kernel.fs.proc import task_mmu
from mmlitmus.kernel.fs.proc.clear_refs import clear_refs_write
from mmlitmus.kernel.mm.fork import dup_mmap
from mmlitmus.kernel.mm.gup import Locked, Pages, put_pages, unpin_user_pages
from mmlitmus.kernel.mm.gup_fast import (
    get_user_pages,
    get_user_pages_fast,
    get_user_pages_fast_only,
    get_user_pages_remote,
    get_user_pages_unlocked,
    pin_user_pages,
    pin_user_pages_fast,
    pin_user_pages_remote,
    pin_user_pages_unlocked,
)
from mmlitmus.kernel.mm.gup_users import access_process_vm, direct_io, mem_rw, process_vm_rw, vmsplice_to_pipe
from mmlitmus.kernel.mm.huge_memory import shown_leaf
from mmlitmus.kernel.mm.madvise import sys_madvise
from mmlitmus.kernel.mm.mincore import sys_mincore
from mmlitmus.kernel.mm.mlock import mm_populate, sys_mlock, sys_mlockall, sys_munlockall
from mmlitmus.kernel.mm.mm_types import VM_LOCKED, File, MmStruct
from mmlitmus.kernel.mm.mmap import (
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    anonymous_file,
    do_mmap,
    mmput,
    vm_munmap,
)
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from mmlitmus.kernel.mm.mprotect import sys_mprotect
from mmlitmus.kernel.mm.mremap import MREMAP_FIXED, MREMAP_MAYMOVE, sys_mremap
from mmlitmus.kernel.mm.msync import sys_msync

PIN_FUNCTIONS = {
    "slow": pin_user_pages,
    "remote": pin_user_pages_remote,
    "fast": pin_user_pages_fast,
    "unlocked": pin_user_pages_unlocked,
}
GET_FUNCTIONS = {
    "slow": get_user_pages,
    "remote": get_user_pages_remote,
    "fast": get_user_pages_fast,
    "fast_only": get_user_pages_fast_only,
    "unlocked": get_user_pages_unlocked,
}

#: of a disk, in bytes
BLOCK = 512


class Process:
    """A process: what its threads may ask of the kernel. Runs on the CPU of whichever task calls."""

    def __init__(self, machine: Any, mm: MmStruct) -> None:
        self.machine = machine
        self.mm = mm
        self.name = mm.name

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        """A system call that is declared to be absent may be asked for; the task ends there. AttributeError for what
        no kernel has either.
        """
        if name not in ABSENT:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

        def absent(*args: Any, **kwargs: Any) -> NoReturn:
            not_modelled(name)

        return absent

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
        locked = flags & MAP_LOCKED or self.mm.def_flags & VM_LOCKED
        mmap_write_unlock(self.mm)
        if result >= 0 and (locked or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE):
            mm_populate(self.mm, address, address + (pages << PAGE_SHIFT))
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

    def mlock(self, address: int, pages: int, flags: int = 0) -> int:
        """mlock(2), or mlock2(2) with MLOCK_ONFAULT: 0 or an errno."""
        return sys_mlock(self.mm, address, pages << PAGE_SHIFT, True, flags)

    def munlock(self, address: int, pages: int) -> int:
        """munlock(2): 0 or an errno."""
        return sys_mlock(self.mm, address, pages << PAGE_SHIFT, False)

    def mlockall(self, flags: int) -> int:
        """mlockall(2): 0 or an errno."""
        return sys_mlockall(self.mm, flags)

    def munlockall(self) -> int:
        """munlockall(2): 0."""
        return sys_munlockall(self.mm)

    def msync(self, address: int, pages: int, flags: int) -> int:
        """msync(2): 0 or an errno."""
        return sys_msync(self.mm, address, pages << PAGE_SHIFT, flags)

    def mincore(self, address: int, pages: int) -> tuple[int, list[bool]]:
        """mincore(2): (0 or an errno, which of the pages before the hole are in memory)."""
        return sys_mincore(self.mm, address, pages << PAGE_SHIFT)

    # -- processes -----------------------------------------------------------------------------------------------
    def fork(self, name: str) -> Process | int:
        """fork(2): the child, or -ENOMEM. The child runs on the calling task's CPU."""
        mm = self.machine.new_mm(name)
        if current().index >= 0:
            mm.cpus.append(self.machine.this_cpu())
        mm.lock_limit = self.mm.lock_limit
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
        """What VFIO type1 does to pin MMIO that a device may write to: fault the page in on the process's behalf. 0 or
        an errno.
        """
        mmap_read_lock(self.mm)
        result = fixup_user_fault(self.mm, address, True, Unlocked())
        mmap_read_unlock(self.mm)
        return result

    # -- memory of its own, and others who use it ------------------------------------------------------------------
    def mmap_anon(
        self, pages: int, *, at: str | int = "a", prot: int = PROT_READ | PROT_WRITE, flags: int = MAP_PRIVATE
    ) -> int:
        """mmap of ``pages`` pages of anonymous memory, untouched: the address, or an errno."""
        self.machine.zero_page()
        return self.mmap(anonymous_file(self.machine), pages, at=at, prot=prot, flags=flags)

    def pin(
        self, address: int, pages: int, flags: int = 0, *, how: str = "slow", holder: str = "", may_drop: bool = False
    ) -> tuple[int, Pages]:
        """pin_user_pages of this process's memory, as a driver makes it: (how many or an errno, the array).

        ``how``: *slow* under mmap_lock, *remote* the same for another's mm, *fast*, *unlocked*, which takes mmap_lock.
        ``may_drop``: a remote one may drop mmap_lock. ``holder``: the ledger's name.
        """
        return self._gup(PIN_FUNCTIONS, address, pages, flags, how, holder, may_drop)

    def get(
        self, address: int, pages: int, flags: int = 0, *, how: str = "slow", holder: str = "", may_drop: bool = False
    ) -> tuple[int, Pages]:
        """get_user_pages of it, in the same ways, and *fast_only*."""
        return self._gup(GET_FUNCTIONS, address, pages, flags, how, holder, may_drop)

    def _gup(
        self,
        functions: dict[str, Any],
        address: int,
        nr_pages: int,
        flags: int,
        how: str,
        holder: str,
        may_drop: bool,
    ) -> tuple[int, Pages]:
        pages = Pages(holder or current().name)
        if how.startswith("fast") or how == "unlocked":
            return functions[how](self.mm, address, nr_pages, flags, pages), pages
        mmap_read_lock(self.mm)
        if not may_drop:
            got = functions[how](self.mm, address, nr_pages, flags, pages)
            mmap_read_unlock(self.mm)
            return got, pages
        locked = Locked(True)
        got = functions[how](self.mm, address, nr_pages, flags, pages, locked)
        if locked.held:
            mmap_read_unlock(self.mm)
        return got, pages

    def unpin(self, pages: Pages) -> None:
        """Give back what ``pin`` got."""
        unpin_user_pages(pages)

    def put(self, pages: Pages) -> None:
        """Give back what ``get`` or ``vmsplice`` got."""
        put_pages(pages)

    def process_vm_readv(self, address: int, pages: int) -> int:
        """Another reads this process's memory: bytes, or -EFAULT."""
        return process_vm_rw(self.mm, address, pages, False)

    def process_vm_writev(self, address: int, pages: int) -> int:
        """Another writes to it."""
        return process_vm_rw(self.mm, address, pages, True)

    def ptrace_peek(self, address: int) -> int:
        """A debugger reads PAGE_SIZE bytes: PAGE_SIZE, or -EIO."""
        return access_process_vm(self.mm, address, False)

    def ptrace_poke(self, address: int) -> int:
        """A debugger writes so many, to memory that need not be writable."""
        return access_process_vm(self.mm, address, True)

    def proc_mem_read(self, address: int) -> int:
        """Another reads PAGE_SIZE bytes through /proc/PID/mem: how many he gets, or -EIO."""
        return mem_rw(self.mm, address, False)

    def proc_mem_write(self, address: int) -> int:
        """Another writes so many through /proc/PID/mem."""
        return mem_rw(self.mm, address, True)

    def direct_io(self, address: int, pages: int, write: bool, during: Callable[[], None] | None = None) -> int:
        """O_DIRECT I/O; ``write``: of the device to memory, so read(2). How many pages, or an errno."""
        return direct_io(self.mm, address, pages, write, during)

    def vmsplice(self, address: int, nr_pages: int) -> tuple[int, Pages]:
        """vmsplice(2): the pipe has the pages until ``put``."""
        pages = Pages(f"a pipe of {self.name}")
        return vmsplice_to_pipe(self.mm, address, nr_pages, pages), pages

    def write_pipe(self, address: int, nr_pages: int) -> int:
        """write(2) of so many pages into a pipe, which the kernel copies them into: bytes, or -EFAULT."""
        for n in range(nr_pages):
            if isinstance(self.read(address + n * PAGE_SIZE), str):
                return n * PAGE_SIZE or -EFAULT
        return nr_pages * PAGE_SIZE

    def o_direct(self, address: int, pages: int, write: bool, size: int | None = None) -> int:
        """read(2) (``write``: of the device to memory) or write(2) of so many pages, or of ``size`` bytes of them from
        ``address`` on, of a block device that is open with O_DIRECT: bytes, -EINVAL for a part of a block (512 bytes),
        or the errno of getting the first page. Where no more pages can be had the rest is copied through the page
        cache, which may come further.
        """
        size = pages * PAGE_SIZE if size is None else size
        within = address & PAGE_SIZE - 1
        if (address | size) & BLOCK - 1:
            return -EINVAL
        pages = within + size + PAGE_SIZE - 1 >> PAGE_SHIFT
        first = address - within
        done = self.direct_io(first, pages, write)
        if done < 0:
            return done
        access = self.write if write else self.read
        while done < pages and not isinstance(access(first + done * PAGE_SIZE), str):
            done += 1
        return max(min(size, done * PAGE_SIZE - within), 0)

    def clear_refs(self, kind: int) -> int:
        """A write of a number to /proc/self/clear_refs (``fs.proc.clear_refs``): 0."""
        return clear_refs_write(self.mm, kind)

    def limit_locked(self, pages: int) -> None:
        """setrlimit(RLIMIT_MEMLOCK), in pages, and CAP_IPC_LOCK is given up: for this process and its children."""
        self.mm.lock_limit = pages

    # -- observation ---------------------------------------------------------------------------------------------
    def pte(self, address: int) -> int:
        """The raw leaf entry (what the probe module reads); no event."""
        entry: int = self.machine.translation(self.mm, address)
        if not self.machine.is_leaf(self.mm, address):
            return entry
        shown: int = self.machine.kernel.chosen(shown_leaf)(entry)
        return shown

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
