"""Who uses get_user_pages on behalf of a process: process_vm_readv, ptrace, O_DIRECT, vmsplice.

What is copied is not modelled; that the pages are held meanwhile is. Source: mm/process_vm_access.c
process_vm_rw_single_vec; fs/splice.c.
Of the model's own: process_vm_rw, access_process_vm, direct_io, vmsplice_to_pipe. They take fewer arguments than the
kernel's.
"""

from __future__ import annotations

from collections.abc import Callable

from mmlitmus.explore.runtime import current, loop_point
from mmlitmus.kernel.arch.x86.pgtable import PAGE_SIZE
from mmlitmus.kernel.errno import EFAULT, EIO
from mmlitmus.kernel.mm.gup import (
    FOLL_FORCE,
    FOLL_GET,
    FOLL_PIN,
    FOLL_WRITE,
    Locked,
    Pages,
    release,
    set_pages_dirty,
    unpin_user_pages,
)
from mmlitmus.kernel.mm.gup_fast import (
    get_user_pages_fast,
    pin_user_pages_fast,
    pin_user_pages_remote,
)
from mmlitmus.kernel.mm.memory_access import __access_remote_vm
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.policy import Seam

proc_mem_foll_force = Seam("proc_mem_foll_force", "whose access through /proc/PID/mem permissions do not stop")
extract_pages = Seam("iov_iter_extract_pages", "does direct I/O pin the pages, or only hold them")


def process_vm_rw(mm: MmStruct, address: int, nr_pages: int, write: bool) -> int:
    """process_vm_readv and process_vm_writev of whole pages: bytes, or -EFAULT whatever went wrong. After some pages
    that could be had it is tried again from there.
    """
    done = 0
    while done < nr_pages:
        loop_point(mm, address, nr_pages, write, done)
        pages = Pages(f"process_vm_rw by {current().name}")
        locked = Locked(True)
        mmap_read_lock(mm)
        flags = FOLL_WRITE if write else 0
        got = pin_user_pages_remote(mm, address + done * PAGE_SIZE, nr_pages - done, flags, pages, locked)
        if locked.held:
            mmap_read_unlock(mm)
        if got <= 0:
            return done * PAGE_SIZE or -EFAULT
        if write:
            set_pages_dirty(pages)
        unpin_user_pages(pages)
        done += got
    return done * PAGE_SIZE


def access_process_vm(mm: MmStruct, address: int, write: bool) -> int:
    """A debugger's access to PAGE_SIZE bytes: PAGE_SIZE, or -EIO. Permissions of the mapping do not stop it.

    Source: kernel/ptrace.c generic_ptrace_peekdata, generic_ptrace_pokedata.
    """
    flags = FOLL_FORCE | (FOLL_WRITE if write else 0)
    return PAGE_SIZE if __access_remote_vm(mm, address, PAGE_SIZE, flags) == PAGE_SIZE else -EIO


def mem_rw(mm: MmStruct, address: int, write: bool) -> int:
    """PAGE_SIZE bytes through /proc/PID/mem, by who does not trace the process: how many, or -EIO.

    Source: fs/proc/base.c mem_rw.
    """
    flags = (FOLL_FORCE if proc_mem_foll_force() else 0) | (FOLL_WRITE if write else 0)
    return __access_remote_vm(mm, address, PAGE_SIZE, flags) or -EIO


@proc_mem_foll_force.alternative(
    "always",
    source="fs/proc/base.c mem_rw, 5.10.262, 6.1.192, 6.12.117",
    releases="<= v6.18, CONFIG_PROC_MEM_ALWAYS_FORCE",
)
def always_forces() -> bool:
    """Permissions of the mapping never stop it."""
    return True


@proc_mem_foll_force.alternative(
    "ptrace",
    source="fs/proc/base.c proc_mem_foll_force, 7.3.4; recorded: 7.3.4",
    releases="deb-7.3.4, CONFIG_PROC_MEM_FORCE_PTRACE",
)
def forces_for_the_tracer() -> bool:
    """They stop everybody but the process's tracer."""
    return False


def direct_io(mm: MmStruct, address: int, nr_pages: int, write: bool, during: Callable[[], None] | None = None) -> int:
    """I/O straight to or from user pages: how many, or the errno of getting them. ``write``: the device writes to them.
    ``during``: what happens while the device works.
    """
    pages = Pages(f"I/O by {current().name}")
    flags = extract_pages()
    get = pin_user_pages_fast if flags == FOLL_PIN else get_user_pages_fast
    got = get(mm, address, nr_pages, FOLL_WRITE if write else 0, pages)
    if got > 0:
        if during is not None:
            during()
        if write:
            set_pages_dirty(pages)
        release(pages, flags)
    return got


@extract_pages.alternative(
    "get", source="iov_iter_get_pages, iov_iter_get_pages2 and their callers; dossier C.4", releases="<= v6.2"
)
def direct_io_holds() -> int:
    """It holds them: fork shares them all the same."""
    return FOLL_GET


@extract_pages.alternative("pin", source="iov_iter_extract_pages and its callers; dossier C.4", releases=">= v6.3")
def direct_io_pins() -> int:
    """It pins them."""
    return FOLL_PIN


def vmsplice_to_pipe(mm: MmStruct, address: int, nr_pages: int, pages: Pages) -> int:
    """vmsplice(2): the pipe holds the pages until they are read. How many, or an errno."""
    return get_user_pages_fast(mm, address, nr_pages, 0, pages)
