"""Who uses get_user_pages on behalf of a process: process_vm_readv, ptrace, O_DIRECT, vmsplice.

What is copied is not modelled; that the pages are held meanwhile is. Source: mm/process_vm_access.c
process_vm_rw_single_vec; mm/memory.c __access_remote_vm; fs/splice.c.
Of the model's own: process_vm_rw, access_process_vm, direct_io, vmsplice_to_pipe. They take fewer arguments than the
kernel's.
"""

from __future__ import annotations

from collections.abc import Callable

from mmlitmus.explore.runtime import current
from mmlitmus.kernel.arch.x86.pgtable import PAGE_SIZE
from mmlitmus.kernel.errno import EFAULT, EIO
from mmlitmus.kernel.mm.gup import (
    FOLL_FORCE,
    FOLL_GET,
    FOLL_PIN,
    FOLL_WRITE,
    Locked,
    Pages,
    put_pages,
    release,
    unpin_user_pages,
)
from mmlitmus.kernel.mm.gup_fast import (
    get_user_pages_fast,
    get_user_pages_remote,
    pin_user_pages_fast,
    pin_user_pages_remote,
)
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.policy import Seam

extract_pages = Seam("iov_iter_extract_pages", "does direct I/O pin the pages, or only hold them")


def process_vm_rw(mm: MmStruct, address: int, nr_pages: int, write: bool) -> int:
    """process_vm_readv and process_vm_writev of whole pages: bytes, or -EFAULT whatever went wrong."""
    pages = Pages(f"process_vm_rw by {current().name}")
    locked = Locked(True)
    mmap_read_lock(mm)
    got = pin_user_pages_remote(mm, address, nr_pages, FOLL_WRITE if write else 0, pages, locked)
    if locked.held:
        mmap_read_unlock(mm)
    if got <= 0:
        return -EFAULT
    unpin_user_pages(pages)
    return got * PAGE_SIZE


def access_process_vm(mm: MmStruct, address: int, write: bool) -> int:
    """A debugger's access to one page: PAGE_SIZE, or -EIO. Permissions of the mapping do not stop it. (A driver's
    ->access, which is asked where there is no page, is not modelled.)
    """
    pages = Pages(f"ptrace by {current().name}")
    mmap_read_lock(mm)
    got = get_user_pages_remote(mm, address, 1, FOLL_FORCE | (FOLL_WRITE if write else 0), pages)
    mmap_read_unlock(mm)
    if got <= 0:
        return -EIO
    put_pages(pages)
    return PAGE_SIZE


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
