"""The columns: every way to a page that the model has, as one question about the page at an address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmlitmus.api import (
    FOLL_FORCE,
    FOLL_LONGTERM,
    FOLL_WRITE,
    PAGE_SIZE,
    Machine,
    Pages,
    Process,
    mmap_read_lock,
    mmap_read_unlock,
    pin_user_pages_remote,
)
from mmlitmus.kernel.drivers.vfio.type1 import IOMMU_READ, IOMMU_WRITE, VfioIommu, vfio_dma_do_map
from mmlitmus.kernel.errno import errno_name
from mmlitmus.kernel.mm.gup import Locked
from mmlitmus.kernel.mm.page_alloc import is_zero_pfn

#: what a cell may answer, and the letter that a table has for it; an errno goes by its name
LETTERS = {
    "page": "P",
    "moved": "P",
    "mapped": "P",
    "zero page": "Z",
    "slot left": "H",
    "none": "N",
    "-EFAULT": "F",
    "-EEXIST": "X",
    "-EINVAL": "V",
    "-EIO": "I",
    "-ENOMEM": "M",
    "-EINTR": "K",
    "oops": "O",
    "never returns": "L",
    "not made": "-",
    "not modelled": ".",
}
MEANING = {
    "P": "it is had: a page, its bytes, or a mapping of it",
    "Z": "the zero page is had",
    "H": "success, and the slot of the array is left unfilled",
    "N": "no page, and no error",
    "F": "-EFAULT",
    "X": "-EEXIST",
    "V": "-EINVAL",
    "I": "-EIO",
    "M": "-ENOMEM",
    "K": "-EINTR",
    "O": "oops",
    "L": "never returns",
    "-": "this kernel refuses to make the mapping",
    ".": "not in the model",
}

Ask = Callable[[Machine, Process, int], str]


@dataclass(frozen=True)
class Path:
    """A column: ``ask`` runs in a task of its own."""

    id: str
    about: str
    ask: Ask


def error(result: int) -> str:
    """An errno by its name."""
    return errno_name(result)


def of_pages(result: int, pages: Pages) -> str:
    """What a number of pages comes to, when one was asked for."""
    if result < 0:
        return error(result)
    if not result:
        return "none"
    (pfn,) = pages.pfns
    if pfn is None:
        return "slot left"
    return "zero page" if is_zero_pfn(pfn) else "page"


def gup(what: str, how: str, flags: int) -> Ask:
    """One of the functions of ``uapi``."""

    def ask(m: Machine, app: Process, address: int) -> str:
        return of_pages(*(app.get if what == "get" else app.pin)(address, 1, flags, how=how))

    return ask


def remote_locked(m: Machine, app: Process, address: int) -> str:
    """For long, letting mmap_lock be dropped."""
    pages = Pages("remote")
    locked = Locked(True)
    mmap_read_lock(app.mm)
    got = pin_user_pages_remote(app.mm, address, 1, FOLL_LONGTERM | FOLL_WRITE, pages, locked)
    if locked.held:
        mmap_read_unlock(app.mm)
    return of_pages(got, pages)


def moves(what: Callable[[Process, int], int]) -> Ask:
    """A system call that moves bytes."""

    def ask(m: Machine, app: Process, address: int) -> str:
        result = what(app, address)
        return error(result) if result < 0 else "moved"

    return ask


def type1(prot: int) -> Ask:
    """VFIO_IOMMU_MAP_DMA of a page. A device gets frame 0 where a slot was left unfilled."""

    def ask(m: Machine, app: Process, address: int) -> str:
        iommu = VfioIommu(m)
        result = vfio_dma_do_map(iommu, app, 0, address, PAGE_SIZE, prot)
        return error(result) if result < 0 else "mapped" if iommu.iova_to_phys(0) else "slot left"

    return ask


def vmsplice(app: Process, address: int) -> int:
    """What vmsplice(2) returns."""
    return app.vmsplice(address, 1)[0]


W, LT, FORCE = FOLL_WRITE, FOLL_LONGTERM, FOLL_FORCE
PATHS: dict[str, Path] = {
    path.id: path
    for path in (
        Path("get", "get_user_pages", gup("get", "slow", 0)),
        Path("get-w", "get_user_pages, WRITE", gup("get", "slow", W)),
        Path("get-fw", "get_user_pages, FORCE|WRITE", gup("get", "slow", FORCE | W)),
        Path("pin", "pin_user_pages", gup("pin", "slow", 0)),
        Path("pin-w", "pin_user_pages, WRITE", gup("pin", "slow", W)),
        Path("pin-fw", "pin_user_pages, FORCE|WRITE", gup("pin", "slow", FORCE | W)),
        Path("pin-l", "pin_user_pages, LONGTERM", gup("pin", "slow", LT)),
        Path("pin-lw", "pin_user_pages, LONGTERM|WRITE", gup("pin", "slow", LT | W)),
        Path("get-remote", "get_user_pages_remote", gup("get", "remote", 0)),
        Path("pin-remote", "pin_user_pages_remote, LONGTERM|WRITE", gup("pin", "remote", LT | W)),
        Path("pin-remote-locked", "the same, with locked: mmap_lock may be dropped", remote_locked),
        Path("fast-only", "get_user_pages_fast_only", gup("get", "fast_only", 0)),
        Path("fast-only-w", "get_user_pages_fast_only, WRITE", gup("get", "fast_only", W)),
        Path("get-fast", "get_user_pages_fast", gup("get", "fast", 0)),
        Path("get-fast-w", "get_user_pages_fast, WRITE", gup("get", "fast", W)),
        Path("pin-fast", "pin_user_pages_fast", gup("pin", "fast", 0)),
        Path("pin-fast-w", "pin_user_pages_fast, WRITE", gup("pin", "fast", W)),
        Path("pin-fast-l", "pin_user_pages_fast, LONGTERM", gup("pin", "fast", LT)),
        Path("pin-fast-lw", "pin_user_pages_fast, LONGTERM|WRITE", gup("pin", "fast", LT | W)),
        Path("readv", "process_vm_readv", moves(lambda app, a: app.process_vm_readv(a, 1))),
        Path("writev", "process_vm_writev", moves(lambda app, a: app.process_vm_writev(a, 1))),
        Path("peek", "ptrace, /proc/PID/mem: a load", moves(lambda app, a: app.ptrace_peek(a))),
        Path("poke", "ptrace, /proc/PID/mem: a store", moves(lambda app, a: app.ptrace_poke(a))),
        Path("direct-read", "read(2) with O_DIRECT: a device stores", moves(lambda app, a: app.direct_io(a, 1, True))),
        Path("direct-write", "write(2) with O_DIRECT: a device loads",
             moves(lambda app, a: app.direct_io(a, 1, False))),
        Path("vmsplice", "vmsplice", moves(vmsplice)),
        Path("dma-r", "VFIO type1 MAP_DMA, for loads", type1(IOMMU_READ)),
        Path("dma-rw", "VFIO type1 MAP_DMA, for loads and stores", type1(IOMMU_READ | IOMMU_WRITE)),
    )
}  # fmt: skip
