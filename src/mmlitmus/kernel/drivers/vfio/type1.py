"""VFIO's type1 IOMMU: a process maps its memory for a device, which pins it.

MAP_DMA pins the range in runs of consecutive frames, and maps each run. What cannot be pinned is looked up, if its VMA
is a VM_PFNMAP: device memory is mapped by its frame number, without a reference; nobody tells the IOMMU when the CPU's
mapping goes. Reserved frames, the zero page's among them, are neither accounted nor unpinned.

``type1_unmap`` is UNMAP_DMA. Sizes and addresses are bytes, limits are pages. Source: drivers/vfio/vfio_iommu_type1.c,
functions of the same name. Of the model's own: VfioIommu, VfioDma, fill_run, limit_of, charge, whole_rounds, continues,
pinned_run.
"""

from __future__ import annotations

from mmlitmus.api import (
    EAGAIN,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOMEM,
    ENOSPC,
    EOVERFLOW,
    FOLL_LONGTERM,
    FOLL_WRITE,
    PAGE_SHIFT,
    PAGE_SIZE,
    VM_PFNMAP,
    Const,
    Folio,
    Guarded,
    Machine,
    MmStruct,
    Model,
    Mutex,
    Pages,
    Process,
    Seam,
    Unlocked,
    VmArea,
    batch_at,
    fixup_user_fault,
    follow_pte,
    is_zero_pfn,
    loop_point,
    mmap_read_lock,
    mmap_read_unlock,
    mmap_write_lock,
    mmap_write_unlock,
    mutex_lock,
    mutex_unlock,
    not_modelled,
    pin_user_pages_remote,
    reached,
    unpin_user_pages,
    vma_lookup,
)
from mmlitmus.kernel.mm.gates import Gate, at_gate, stopped

IOMMU_READ, IOMMU_WRITE = 1, 2

U64_MAX = (1 << 64) - 1

#: frames: (first, how many) each time. In a search what has been pinned is in runs of one
Runs = list[tuple[int, int]]

#: how many mappings a container may have (the module's parameter dma_entry_limit)
DMA_ENTRY_LIMIT = 65535

#: how many pages are pinned at once: one page full of pointers to pages
BATCH = PAGE_SIZE // 8

zero_pins = Seam("vaddr_get_pfns", "what becomes of pins of the zero page, which are not given back later")
pin_pages = Seam("vfio_pin_pages_remote", "how many pages are pinned at a time")
dma_ranges = Seam("vfio_find_dma", "what a range of IOVAs ends with, and what is said of one that wraps round")
follow_fault_writable = Seam("follow_fault_pfn", "may a read-only entry of device memory be mapped for writing")


class VfioDma(Model):
    """One mapping: [iova, iova + size) bytes of the device at ``vaddr`` of ``mm``."""

    __slots__ = ("lock",)
    iova = Const()
    vaddr = Const()
    prot = Const()
    mm = Const()
    size = Guarded("lock")
    locked_vm = Guarded("lock")

    def __init__(self, iommu: VfioIommu, iova: int, vaddr: int, prot: int, mm: MmStruct) -> None:
        super().__init__(f"dma[{iova:#x}]", iova=iova, vaddr=vaddr, prot=prot, mm=mm, size=0, locked_vm=0)
        self.lock = iommu.lock


class VfioIommu(Model):
    """A container: its mappings, and the IOMMU's page table. ``limit``: RLIMIT_MEMLOCK in pages; None for who may lock
    as much as he likes.

    The page table is a tuple of runs (first iova page, first frame, pages) by iova; runs that go on with each other are
    one.
    """

    __slots__ = ("holder", "limit", "lock", "machine")
    dma_list = Guarded("lock")
    domain = Guarded("lock")
    dma_avail = Guarded("lock")

    def __init__(self, machine: Machine, name: str = "iommu", limit: int | None = None) -> None:
        super().__init__(name, dma_list=(), domain=(), dma_avail=DMA_ENTRY_LIMIT)
        self.machine = machine
        self.limit = limit
        self.holder = f"VFIO {name}"
        self.lock = Mutex(f"{name}:lock", "vfio_iommu_lock")

    def iova_to_phys(self, iova: int) -> int | None:
        """The frame that the device reaches at ``iova``; no event.

        Source: drivers/iommu/iommu.c iommu_iova_to_phys.
        """
        page = iova >> PAGE_SHIFT
        for first, pfn, nr in self.peek("domain"):
            if first <= page < first + nr:
                return int(pfn + page - first)
        return None

    def iommu_map(self, first: int, pfn: int, nr: int) -> None:
        """Map ``nr`` iova pages, which are free, to as many frames. Holds the lock.

        Source: drivers/iommu/iommu.c iommu_map.
        """
        runs: list[tuple[int, int, int]] = []
        for run in sorted((*self.domain, (first, pfn, nr))):
            before = runs[-1] if runs else (0, 0, 0)
            if runs and (before[0] + before[2], before[1] + before[2]) == run[:2]:
                runs[-1] = (before[0], before[1], before[2] + run[2])
            else:
                runs.append(run)
        self.domain = tuple(runs)

    def iommu_unmap(self, first: int, nr: int) -> list[tuple[int, int]]:
        """Unmap ``nr`` iova pages: what they were mapped to, as runs (first frame, pages). Holds the lock.

        Source: drivers/iommu/iommu.c iommu_unmap.
        """
        kept: list[tuple[int, int, int]] = []
        gone: list[tuple[int, int]] = []
        last = first + nr
        for at, pfn, pages in self.domain:
            low, high = max(at, first), min(at + pages, last)
            if low >= high:
                kept.append((at, pfn, pages))
                continue
            gone.append((pfn + low - at, high - low))
            if at < low:
                kept.append((at, pfn, low - at))
            if high < at + pages:
                kept.append((high, pfn + high - at, at + pages - high))
        self.domain = tuple(kept)
        return gone

    def unpin(self, pfn: int, nr: int = 1) -> None:
        """Give one pin back; of ``nr`` frames that one folio stands for, one each.

        Source: mm/gup.c unpin_user_page.
        """
        pages = Pages(self.holder)
        pages.add(self.machine.pages.first(pfn, nr)[0], pfn, nr)
        unpin_user_pages(pages)

    def held(self) -> Pages:
        """The pages that its mappings hold, for ``folios_at_rest``; no event."""
        pages = Pages(self.holder)
        for _, first, nr in self.peek("domain"):
            for pfn, alike, folio in self.machine.pages.runs(first, nr):
                if folio is not None and not folio.reserved:
                    pages.add(folio, pfn, alike)
        return pages


def is_invalid_reserved_pfn(machine: Machine, pfn: int) -> bool:
    """A frame that nobody counts: it has no page, or a reserved one."""
    folio: Folio | None = machine.pages.get(pfn)
    if folio is not None:
        return bool(folio.reserved)
    return not machine.e820.pfn_valid(pfn) or machine.e820.page_reserved(pfn)


def put_pfn(iommu: VfioIommu, pfn: int, nr: int = 1) -> int:
    """Unpin a frame: 1, or 0 of one that nobody counts. ``nr`` frames: how many of them were unpinned."""
    done = 0
    for first, alike, _ in iommu.machine.pages.runs(pfn, nr):
        if not is_invalid_reserved_pfn(iommu.machine, first):
            iommu.unpin(first, alike)
            done += alike
    return done


# -- pinning ----------------------------------------------------------------------------------------------------------
def follow_fault_pfn(vma: VmArea, mm: MmStruct, vaddr: int, prot: int) -> tuple[int, int]:
    """The frame that device memory is mapped to at ``vaddr``, faulted in if it has to be: (0 or an errno, frame).
    -EAGAIN: mmap_lock was given up meanwhile, and the VMA may be another.

    Nothing is held: the frame is what was there when somebody looked.
    """
    error, pfn, writable = follow_pte(vma, vaddr)
    if error:
        unlocked = Unlocked()
        error = fixup_user_fault(mm, vaddr, bool(prot & IOMMU_WRITE), unlocked)
        if unlocked.happened:
            return -EAGAIN, 0
        if error:
            return error, 0
        error, pfn, writable = follow_pte(vma, vaddr)
        if error:
            return error, 0
    if prot & IOMMU_WRITE and not writable and follow_fault_writable():
        return stopped(-EFAULT, Gate.FRAME, "its entry is read-only, and the device may write"), 0
    return 0, pfn


@follow_fault_writable.alternative(
    "any", source="drivers/vfio/vfio_iommu_type1.c follow_fault_pfn, v5.10; dossier C.3", releases="<= v5.11"
)
def takes_any_entry() -> bool:
    """Nobody looks: the device may write to what the process may not."""
    return False


@follow_fault_writable.alternative(
    "writable",
    source="drivers/vfio/vfio_iommu_type1.c follow_fault_pfn, 5.10.262, 6.1.192",
    releases=">= v5.12, deb-5.10.262",
)
def takes_writable_entries() -> bool:
    """-EFAULT."""
    return True


def vaddr_get_pfns(iommu: VfioIommu, dma: VfioDma, vaddr: int, npages: int) -> tuple[int, Runs]:
    """Pin up to ``npages`` pages, or look one frame of device memory up: (how many or an errno, their frames).

    Source: drivers/vfio/vfio_iommu_type1.c vaddr_get_pfns.
    """
    mm = dma.mm
    pages = Pages(iommu.holder)
    flags = FOLL_LONGTERM | (FOLL_WRITE if dma.prot & IOMMU_WRITE else 0)
    mmap_read_lock(mm)
    got = pin_user_pages_remote(mm, vaddr, npages, flags, pages)
    if got > 0:
        pfns = [(pfn or 0, nr) for pfn, nr in zip(pages.pfns, pages.numbers, strict=True)]
        zero_pins(iommu, pfns)
        mmap_read_unlock(mm)
        return got, pfns
    error = -EAGAIN
    while error == -EAGAIN:
        loop_point(iommu, dma, vaddr, npages, mm, pages, flags, got, error)
        vma = vma_lookup(mm, vaddr)
        if vma is None or not vma.has(VM_PFNMAP):
            mmap_read_unlock(mm)
            return got or -EFAULT, []
        error, pfn = follow_fault_pfn(vma, mm, vaddr, dma.prot)
    mmap_read_unlock(mm)
    if error:
        return error, []
    if not is_invalid_reserved_pfn(iommu.machine, pfn):
        return stopped(-EFAULT, Gate.FRAME, "it has a page, which nobody would count"), []
    reached("device memory was mapped by its frame number")
    at_gate(Gate.FRAME, "mapped by its number, and nothing held")
    return 1, [(pfn, 1)]


@zero_pins.alternative(
    "kept", source="drivers/vfio/vfio_iommu_type1.c vaddr_get_pfns, v5.10; dossier C.4", releases="<= v6.0-rc1"
)
def keeps_zero_pins(iommu: VfioIommu, pfns: Runs) -> None:
    """They stay: put_pfn does not unpin reserved pages, and the zero page is one. Nobody gives these pins back."""


@zero_pins.alternative(
    "given-back",
    source="873aefb376bb 'vfio/type1: Unpin zero pages'; drivers/vfio/vfio_iommu_type1.c vaddr_get_pfns, 6.1.192",
    releases=">= v6.0, deb-5.10.262",
)
def gives_zero_pins_back(iommu: VfioIommu, pfns: Runs) -> None:
    """At once. (6.12 has no such loop: pins of the zero page count nothing any more.)"""
    for pfn, _ in pfns:
        if is_zero_pfn(pfn):
            iommu.unpin(pfn)


def limit_of(iommu: VfioIommu, dma: VfioDma) -> int | None:
    """How many pages the process may lock; None: as many as it likes.

    Source: drivers/vfio/vfio_iommu_type1.c vfio_pin_pages_remote, vfio_lock_acct.
    """
    own: int | None = dma.mm.lock_limit
    return iommu.limit if iommu.limit is not None else own


def charge(iommu: VfioIommu, dma: VfioDma, acct: int, nr: int = 1) -> int:
    """How many of ``nr`` pages may be locked besides ``acct`` and those that are? They are asked for one by one.

    Source: drivers/vfio/vfio_iommu_type1.c vfio_pin_pages_remote.
    """
    mmap_read_lock(dma.mm)
    locked: int = dma.mm.locked_vm
    mmap_read_unlock(dma.mm)
    limit = limit_of(iommu, dma)
    return nr if limit is None else max(0, min(nr, limit - locked - acct))


@pin_pages.alternative(
    "one-by-one",
    source="drivers/vfio/vfio_iommu_type1.c vfio_pin_pages_remote, v5.10, 5.10.262",
    releases="<= v5.11, deb-5.10.262",
)
def one_by_one(iommu: VfioIommu, dma: VfioDma, vaddr: int, npage: int, batch: Runs) -> tuple[int, int]:
    """Page by page. The first that does not continue the run has been pinned already; it is put, and pinned again."""
    got, pfns = vaddr_get_pfns(iommu, dma, vaddr, 1)
    if got < 0:
        return got, 0
    base = pfns[0][0]
    rsvd = is_invalid_reserved_pfn(iommu.machine, base)
    acct = 0 if rsvd else 1
    if acct > charge(iommu, dma, 0, acct):
        put_pfn(iommu, base)
        return -ENOMEM, 0
    pinned, error = 1, 0
    while pinned < npage:
        at = vaddr + pinned * PAGE_SIZE
        ask = batch_at(dma.mm, at, npage - pinned)
        if ask > 1 and not rsvd:
            ask = min(ask, charge(iommu, dma, acct, ask) + 1)
        got, pfns = vaddr_get_pfns(iommu, dma, at, ask)
        if got < 0:
            break
        while pfns:
            n, stop, error = continues(iommu, dma, pfns, base + pinned, rsvd, acct)
            acct += 0 if rsvd else n
            pinned += n
            if stop:
                break
        if pfns:
            for pfn, nr in pfns:
                put_pfn(iommu, pfn, nr)
            break
    return pinned_run(iommu, dma, base, pinned, acct, error)


@pin_pages.alternative(
    "batches", source="drivers/vfio/vfio_iommu_type1.c vfio_pin_pages_remote (6.1 - 6.12)", releases="v5.12 - v6.14"
)
def by_batches(iommu: VfioIommu, dma: VfioDma, vaddr: int, npage: int, batch: Runs) -> tuple[int, int]:
    """Up to 512 pages at once. What does not continue the run is left in ``batch`` for the next; but a single page
    might be device memory, which cannot be kept there: it is put, and pinned again.
    """
    result, fresh = fill_run(iommu, dma, vaddr, npage, batch)
    if fresh and sum(nr for _, nr in batch) == 1:
        put_pfn(iommu, batch.pop()[0])
    return result


@pin_pages.alternative(
    "batches-kept",
    source="'vfio/type1: Use vfio_batch for vaddr_get_pfns()' (6.15); drivers/vfio/vfio_iommu_type1.c "
    "vfio_pin_pages_remote (7.3)",
    releases=">= v6.15",
)
def by_batches_that_know(iommu: VfioIommu, dma: VfioDma, vaddr: int, npage: int, batch: Runs) -> tuple[int, int]:
    """... and the batch knows: device memory is looked up again, a page is kept."""
    result, fresh = fill_run(iommu, dma, vaddr, npage, batch)
    if fresh and is_invalid_reserved_pfn(iommu.machine, batch[0][0]):
        batch.clear()
    return result


def fill_run(iommu: VfioIommu, dma: VfioDma, vaddr: int, npage: int, batch: Runs) -> tuple[tuple[int, int], bool]:
    """Pin up to the end of a run: (what ``pinned_run`` says of it; is what is left in ``batch`` what was pinned last,
    and nothing of it was used).

    Source: drivers/vfio/vfio_iommu_type1.c vfio_pin_pages_remote.
    """
    pinned = acct = error = base = 0
    rsvd = fresh = False
    while pinned < npage:
        if not batch:
            at = vaddr + pinned * PAGE_SIZE
            got, pfns = vaddr_get_pfns(iommu, dma, at, min(npage - pinned, whole_rounds(iommu, dma, at, npage, acct)))
            fresh = got > 0
            if got < 0:
                error = got
                break
            batch.extend(pfns)
        if not pinned:
            base = batch[0][0]
            rsvd = is_invalid_reserved_pfn(iommu.machine, base)
        n, stop, error = continues(iommu, dma, batch, base + pinned, rsvd, acct)
        acct += 0 if rsvd else n
        pinned += n
        fresh = fresh and not n
        if stop:
            break
    return pinned_run(iommu, dma, base, pinned, acct, error), fresh


def whole_rounds(iommu: VfioIommu, dma: VfioDma, vaddr: int, npage: int, acct: int) -> int:
    """How many pages to pin before anything else is looked at: 512; where batches are larger, as many times 512 as will
    be pinned before the limit is seen to be reached.
    """
    pages = batch_at(dma.mm, vaddr, npage) // BATCH * BATCH
    if pages <= BATCH:
        return BATCH
    return min(pages, charge(iommu, dma, acct, pages) // BATCH * BATCH + BATCH)


def continues(
    iommu: VfioIommu, dma: VfioDma, batch: Runs, expected: int, rsvd: bool, acct: int
) -> tuple[int, bool, int]:
    """Do the first pages of ``batch`` go on with a run whose next frame is ``expected``? They are taken off: (how many,
    is that the end of the run, 0 or -ENOMEM).
    """
    pfn, nr = batch[0]
    if pfn != expected or rsvd != is_invalid_reserved_pfn(iommu.machine, pfn):
        return 0, True, 0
    may = nr if rsvd else charge(iommu, dma, acct, nr)
    batch[:1] = [(pfn + may, nr - may)] if may < nr else []
    return may, may < nr, -ENOMEM if may < nr else 0


def pinned_run(iommu: VfioIommu, dma: VfioDma, base: int, pinned: int, acct: int, error: int) -> tuple[int, int]:
    """Account for a run, or undo it: (pages or an errno, the first frame)."""
    error = error or vfio_lock_acct(iommu, dma, acct)
    if error:
        put_pfn(iommu, base, pinned)
        return error, 0
    return pinned, base


def vfio_lock_acct(iommu: VfioIommu, dma: VfioDma, npage: int) -> int:
    """Account ``npage`` pages (less than 0: give back) to the process: 0, or -ENOMEM. Takes mmap_lock W."""
    if not npage:
        return 0
    error = 0
    mmap_write_lock(dma.mm)
    limit = limit_of(iommu, dma)
    if npage > 0 and limit is not None and dma.mm.locked_vm + npage > limit:
        error = -ENOMEM
    else:
        dma.mm.locked_vm = dma.mm.locked_vm + npage
        dma.locked_vm = dma.locked_vm + npage
    mmap_write_unlock(dma.mm)
    return error


# -- MAP_DMA ----------------------------------------------------------------------------------------------------------
@dma_ranges.alternative(
    "exclusive-end",
    source="drivers/vfio/vfio_iommu_type1.c vfio_find_dma, vfio_dma_do_map, vfio_dma_do_unmap (5.10), "
    "vfio_find_dma_first_node (6.1 - 6.12)",
    releases="<= v6.16",
)
class ExclusiveEnd:
    """The end is the first byte behind, which is 0 for a range that ends where the address space does: such a mapping
    is never found, neither to be unmapped nor to be in the way, and such a request finds none.
    """

    wrapped = EINVAL

    def overlap(self, dma: VfioDma, iova: int, size: int) -> bool:
        """Does the search come to the mapping, for [iova, iova + size)?"""
        return iova < dma.iova + dma.size & U64_MAX and dma.iova < (iova + size & U64_MAX)

    def may_be_mapped_twice(self, dma: VfioDma, iova: int, size: int) -> bool:
        """Does it pass over a mapping that lies there?"""
        return bool(dma.iova < iova + size and iova < dma.iova + dma.size and not self.overlap(dma, iova, size))


@dma_ranges.alternative(
    "last-byte",
    source="'vfio/type1: handle DMA map/unmap up to the addressable limit'; drivers/vfio/vfio_iommu_type1.c "
    "vfio_find_dma_first_node, vfio_dma_do_map, vfio_dma_do_unmap (7.3)",
    releases=">= v6.18",
)
class LastByte:
    """The end is the last byte; what wraps round is told from what is no range at all."""

    wrapped = EOVERFLOW

    def overlap(self, dma: VfioDma, iova: int, size: int) -> bool:
        """Do they overlap?"""
        return bool(iova < dma.iova + dma.size and dma.iova < iova + size)

    def may_be_mapped_twice(self, dma: VfioDma, iova: int, size: int) -> bool:
        """Nothing is passed over."""
        return False


def vfio_dma_do_map(iommu: VfioIommu, process: Process, iova: int, vaddr: int, size: int, prot: int) -> int:
    """VFIO_IOMMU_MAP_DMA: 0 or an errno; then nothing of it is left."""
    ranges = dma_ranges()
    wraps = size and max(iova, vaddr) + size - 1 > U64_MAX
    if wraps and ranges.wrapped != EINVAL:
        return -int(ranges.wrapped)
    if wraps or not size or not prot or (size | iova | vaddr) & PAGE_SIZE - 1:
        return -EINVAL
    mutex_lock(iommu.lock)
    error = 0
    if any(ranges.overlap(one, iova, size) for one in iommu.dma_list):
        error = -EEXIST
    elif not iommu.dma_avail:
        error = -ENOSPC
    elif any(ranges.may_be_mapped_twice(one, iova, size) for one in iommu.dma_list):
        not_modelled("an IOMMU that is told to map what it maps already")
    else:
        iommu.dma_avail = iommu.dma_avail - 1
        dma = VfioDma(iommu, iova, vaddr, prot, process.mm)
        iommu.dma_list = (*iommu.dma_list, dma)
        error = vfio_pin_map_dma(iommu, dma, size)
    mutex_unlock(iommu.lock)
    return error


def vfio_pin_map_dma(iommu: VfioIommu, dma: VfioDma, map_size: int) -> int:
    """Pin and map run by run: 0, or the errno of the run that failed, with all of them undone."""
    batch: Runs = []
    while dma.size < map_size:
        left = map_size - dma.size >> PAGE_SHIFT
        npage, pfn = pin_pages(iommu, dma, dma.vaddr + dma.size, left, batch)
        if npage < 0:
            for one, nr in batch:
                put_pfn(iommu, one, nr)
            vfio_remove_dma(iommu, dma)
            return int(npage)
        iommu.iommu_map(dma.iova + dma.size >> PAGE_SHIFT, pfn, npage)
        dma.size = dma.size + (npage << PAGE_SHIFT)
    return 0


def vfio_remove_dma(iommu: VfioIommu, dma: VfioDma) -> None:
    """Take a mapping away: out of the IOMMU first, then unpinned and no longer accounted for."""
    gone = iommu.iommu_unmap(dma.iova >> PAGE_SHIFT, dma.size >> PAGE_SHIFT)
    unlocked = sum(put_pfn(iommu, pfn, nr) for pfn, nr in gone)
    vfio_lock_acct(iommu, dma, -unlocked)
    iommu.dma_list = tuple(one for one in iommu.dma_list if one is not dma)
    iommu.dma_avail = iommu.dma_avail + 1
