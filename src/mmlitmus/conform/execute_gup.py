"""The steps about pinned pages on the model: what a module keeps, what system calls move, what a device may reach."""

from __future__ import annotations

from collections.abc import Callable

from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmlitmus.kernel.drivers.vfio.type1 import IOMMU_READ, IOMMU_WRITE, VfioIommu, vfio_dma_do_map
from mmlitmus.kernel.drivers.vfio.type1_unmap import vfio_dma_do_unmap
from mmlitmus.kernel.fs.proc import clear_refs
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm import gup
from mmlitmus.kernel.mm.gup import Pages
from mmlitmus.kernel.uapi import Process

from .schema import Clear, Dma, Limit, Pin, Transfer, Unpin
from .seen import Seen, counted, result

FOLL = {
    "write": gup.FOLL_WRITE, "force": gup.FOLL_FORCE, "longterm": gup.FOLL_LONGTERM, "nowait": gup.FOLL_NOWAIT,
    "nofault": gup.FOLL_NOFAULT, "dump": gup.FOLL_DUMP,
}  # fmt: skip
#: what the variants' names end with, in the words of ``Process.pin``
HOW = {"_remote": "remote", "_fast": "fast", "_fast_only": "fast_only", "_unlocked": "unlocked", "": "slow"}
IOMMU = {"r": IOMMU_READ, "w": IOMMU_WRITE}
CLEARS = {
    "referenced": clear_refs.CLEAR_REFS_ALL,
    "referenced_anonymous": clear_refs.CLEAR_REFS_ANON,
    "referenced_mapped": clear_refs.CLEAR_REFS_MAPPED,
    "soft_dirty": clear_refs.CLEAR_REFS_SOFT_DIRTY,
}
#: pages of a slot of IOVAs; slot n begins at (n + 1) MiB
IOVA_PAGES = 256
#: pages that vmsplice gets at once (fs/splice.c iter_to_pipe)
SPLICED = 16
#: bytes of a word that a debugger moves
WORD = 8


class Held:
    """What one program's module and devices hold of the model's pages."""

    def __init__(self, machine: Machine, address: Callable[[str, int], int]) -> None:
        self.machine = machine
        self.address = address
        self.holds: list[tuple[int, bool, Pages]] = []
        self.iommu: VfioIommu | None = None
        self.mapped: list[str] = []
        self.asked = 0

    # -- the module ----------------------------------------------------------------------------------------------
    def pin(self, step: Pin, process: Process) -> tuple[Seen, Pages | None]:
        """Pages are got, and kept. The second is what was got, if anything."""
        pinned = step.variant.startswith("pin_")
        how = HOW[step.variant.removeprefix("pin_user_pages" if pinned else "get_user_pages")]
        flags = sum(FOLL[name] for name in step.flags if name != "locked")
        at = self.address(step.slot, step.page)
        self.asked += 1
        does = process.pin if pinned else process.get
        holder = f"hold {step.hold}, {self.asked}"
        got, pages = does(at, step.pages, flags, how=how, holder=holder, may_drop="locked" in step.flags)
        if got <= 0:
            return counted(got), None
        self.holds.append((step.hold, pinned, pages))
        return counted(got), pages

    def unpin(self, step: Unpin) -> Seen:
        """All that is kept under a number is let go of."""
        mine = [one for one in self.holds if one[0] == step.hold]
        self.holds = [one for one in self.holds if one[0] != step.hold]
        dirty = "dirty" in step.flags
        return counted(sum(self._let_go(pinned, pages, dirty) for _, pinned, pages in mine))

    def _let_go(self, pinned: bool, pages: Pages, dirty: bool = False) -> int:
        """What was filled: the module looks for slots that were not, as no other caller does."""
        filled = Pages(pages.holder)
        for folio, pfn in zip(pages.folios, pages.pfns, strict=True):
            if folio is not None:
                filled.add(folio, pfn)
        count = len(filled)
        if dirty:
            gup.set_pages_dirty(filled)
        gup.release(filled, gup.FOLL_PIN if pinned else gup.FOLL_GET)
        return count

    def let_go_of_all(self) -> None:
        """A program's processes have gone: what it has not let go of, the agent does."""
        for _, pinned, pages in self.holds:
            self._let_go(pinned, pages)
        self.holds = []
        if self.iommu is not None:
            for dma in list(self.iommu.peek("dma_list")):
                vfio_dma_do_unmap(self.iommu, dma.iova, dma.peek("size"))

    # -- devices -------------------------------------------------------------------------------------------------
    def dma(self, step: Dma, process: Process) -> Seen:
        """MAP_DMA, UNMAP_DMA."""
        if self.iommu is None:
            self.iommu = VfioIommu(self.machine, "container")
        iova = (step.iova + 1) * IOVA_PAGES + step.offset << PAGE_SHIFT
        if step.action == "unmap":
            got = vfio_dma_do_unmap(self.iommu, iova, step.pages << PAGE_SHIFT)
            return counted(got if got < 0 else got >> PAGE_SHIFT)
        assert step.slot is not None, "checked when the recording was read"
        prot = sum(IOMMU[letter] for letter in step.prot)
        vaddr = self.address(step.slot, step.page)
        seen = result(vfio_dma_do_map(self.iommu, process, iova, vaddr, step.pages << PAGE_SHIFT, prot))
        return seen

    def iova(self, name: str) -> int | None:
        """The frame that a device reaches at an IOVA (``2+5``)."""
        slot, _, page = name.partition("+")
        if self.iommu is None:
            return None
        return self.iommu.iova_to_phys((int(slot) + 1) * IOVA_PAGES + int(page) << PAGE_SHIFT)


# -- what system calls move -------------------------------------------------------------------------------------------
def page_by_page(one: Callable[[int], int], at: int, pages: int, size: int) -> int:
    """``size`` bytes of each page, until one cannot be had: bytes, or the first one's errno."""
    for n in range(pages):
        got = one(at + n * PAGE_SIZE)
        if got < 0:
            return n * size or got
    return pages * size


def splice(process: Process, at: int, pages: int) -> int:
    """vmsplice, and the pipe goes: bytes or an errno."""
    done = 0
    while done < pages:
        got, held = process.vmsplice(at + done * PAGE_SIZE, min(pages - done, SPLICED))
        if got <= 0:
            return done * PAGE_SIZE or got
        process.put(held)
        done += got
    return done * PAGE_SIZE


MOVES: dict[str, Callable[[Process, int, int], int]] = {
    "process_vm_readv": lambda p, at, pages: p.process_vm_readv(at, pages),
    "process_vm_writev": lambda p, at, pages: p.process_vm_writev(at, pages),
    "proc_mem_read": lambda p, at, pages: page_by_page(p.proc_mem_read, at, pages, PAGE_SIZE),
    "proc_mem_write": lambda p, at, pages: page_by_page(p.proc_mem_write, at, pages, PAGE_SIZE),
    "ptrace_peek": lambda p, at, pages: page_by_page(p.ptrace_peek, at, pages, WORD),
    "ptrace_poke": lambda p, at, pages: page_by_page(p.ptrace_poke, at, pages, WORD),
    "vmsplice": splice,
    "write_pipe": lambda p, at, pages: p.write_pipe(at, pages),
    "o_direct_read": lambda p, at, pages: p.o_direct(at, pages, True),
    "o_direct_write": lambda p, at, pages: p.o_direct(at, pages, False),
}


def transfer(step: Transfer, process: Process, at: int) -> Seen:
    """A system call that moves what is in pages."""
    return counted(MOVES[step.kind](process, at, step.pages))


def clear(step: Clear, process: Process) -> Seen:
    """A write to clear_refs; what the CPU has cached goes when the next process runs on it."""
    seen = result(process.clear_refs(CLEARS[step.what]))
    process.machine.this_cpu().tlb.clear()
    return seen


def limit(step: Limit, process: Process) -> Seen:
    """RLIMIT_MEMLOCK."""
    process.limit_locked(step.locked)
    return Seen("ok")
