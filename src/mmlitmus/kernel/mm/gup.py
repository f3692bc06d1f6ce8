"""get_user_pages and pin_user_pages, the slow path: what a VMA allows, what an entry is worth, faulting in, releasing.

GET takes a reference to each page, PIN a pin. Addresses are bytes, counts are pages. A negative errno, or how many
pages were had; with an error after some pages it is their number. mmap_lock R is held. ``gup_fast`` is the lockless
path, ``gup_longterm`` what FOLL_LONGTERM adds.

Source: mm/gup.c, functions of the same name. Of the model's own: Pages, Locked, page_of, release, refused_flags,
first_normal_page, take_pages, touch_pfn_pte.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import bug, reached, report
from mmlitmus.explore.runtime import current, loop_point
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY,
    DIRTY_BITS,
    NONE,
    PAGE_SHIFT,
    PFN_MASK,
    PRESENT,
    PSE,
    RW,
    SOFT_DIRTY,
    SPECIAL,
    TABLE,
    PteTable,
    mk_pte,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pte_pfn,
    pte_present,
    pte_run,
    pte_unmap_unlock,
    pud_leaf,
    pud_offset,
    set_pte_at,
)
from mmlitmus.kernel.errno import EBUSY, EEXIST, EFAULT, EINTR, EMLINK, ENOMEM
from mmlitmus.kernel.mm.gates import Gate, at_gate, stopped
from mmlitmus.kernel.mm.memory import handle_mm_fault
from mmlitmus.kernel.mm.memory_pages import vm_normal_page
from mmlitmus.kernel.mm.mm_types import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_REMOTE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    VM_FAULT_ERROR,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_WRITE,
    VM_IO,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    MmStruct,
    VmArea,
    is_cow_mapping,
)
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.page_alloc import GUP_PIN_COUNTING_BIAS, ZERO, Folio, folio_mark_dirty, folio_put, is_zero_pfn
from mmlitmus.kernel.mm.pgalloc import Touched, batch_at, fault_batch
from mmlitmus.kernel.mm.vma import vma_lookup
from mmlitmus.kernel.policy import Seam, running
from mmlitmus.kernel.sync.spinlock import spin_lock, spin_unlock

# The kernel's names; the bits differ from release to release, and these are the model's own.
FOLL_WRITE, FOLL_GET, FOLL_DUMP, FOLL_FORCE, FOLL_NOWAIT = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
FOLL_NOFAULT, FOLL_ANON, FOLL_LONGTERM, FOLL_TRIED, FOLL_REMOTE = 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9
FOLL_PIN, FOLL_FAST_ONLY, FOLL_COW, FOLL_TOUCH = 1 << 10, 1 << 11, 1 << 12, 1 << 13

#: what following an entry comes to, besides an errno
NEEDS_FAULT, GOT, SKIPPED = 0, 1, 2

writable_file_mapping_allowed = Seam(
    "writable_file_mapping_allowed", "may a mapping whose driver hears of first stores be pinned for writing, for long"
)
gup_must_unshare = Seam("gup_must_unshare", "which read-only pages a pin for reading has made the process's own first")
can_follow_write_pte = Seam("can_follow_write_pte", "how a forced write knows that it may write to a read-only entry")
follow_pfn_pte = Seam("follow_pfn_pte", "what becomes of an entry that maps a frame and no page")
zero_page_pin = Seam("try_grab_folio", "is a pin of the zero page counted")


class Pages:
    """An array of pages that somebody has got or pinned. ``holder`` is the ledger's name for him; a slot that was not
    filled is None. ``pfns`` are the pages' frames. In a search a slot is a page (``numbers`` are all 1); a batch's is a
    run of pages, of the frames that follow.
    """

    __slots__ = ("folios", "holder", "numbers", "pfns")

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.folios: list[Folio | None] = []
        self.pfns: list[int | None] = []
        self.numbers: list[int] = []

    def add(self, folio: Folio | None, pfn: int | None, nr: int = 1) -> None:
        """One more slot."""
        self.folios.append(folio)
        self.pfns.append(pfn)
        self.numbers.append(nr)

    def cut(self, nr: int) -> None:
        """Leave ``nr`` slots."""
        del self.folios[nr:], self.pfns[nr:], self.numbers[nr:]

    def __len__(self) -> int:
        return len(self.folios)


class Locked:
    """``int *locked``: does the caller still hold mmap_lock?"""

    __slots__ = ("held",)

    def __init__(self, held: bool) -> None:
        self.held = held


# -- what the VMA allows ----------------------------------------------------------------------------------------------
def check_vma_flags(vma: VmArea, flags: int) -> int:
    """0, or the errno with which a VMA is refused: asked once a VMA, in this order. (DAX, secretmem, huge pages and
    files with a page cache are not modelled.)
    """
    vm_flags = vma.vm_flags
    if vm_flags & (VM_IO | VM_PFNMAP):
        return stopped(-EFAULT, Gate.VMA, "it is VM_PFNMAP" if vm_flags & VM_PFNMAP else "it is VM_IO")
    if flags & FOLL_ANON and not vma.vm_ops.anonymous:
        return stopped(-EFAULT, Gate.VMA, "it is not anonymous")
    if flags & FOLL_WRITE:
        if not writable_file_mapping_allowed(vma, flags):
            return stopped(-EFAULT, Gate.VMA, "its driver hears of first stores")
        if not vm_flags & VM_WRITE and not (flags & FOLL_FORCE and is_cow_mapping(vm_flags)):
            return stopped(-EFAULT, Gate.VMA, "no VM_WRITE")
    elif not vm_flags & VM_READ and not (flags & FOLL_FORCE and vm_flags & VM_MAYREAD):
        return stopped(-EFAULT, Gate.VMA, "no VM_READ")
    return 0


@writable_file_mapping_allowed.alternative("any", source="mm/gup.c check_vma_flags, 6.1.192", releases="<= v6.4")
def any_mapping(vma: VmArea, flags: int) -> bool:
    """Yes."""
    return True


@writable_file_mapping_allowed.alternative(
    "untracked",
    source="mm/gup.c writable_file_mapping_allowed (from 6.12), mm/vma.c vma_needs_dirty_tracking (from 6.12)",
    releases=">= v6.5",
)
def mappings_without_dirty_tracking(vma: VmArea, flags: int) -> bool:
    """Not a shared one whose driver has ->page_mkwrite or ->pfn_mkwrite: it would not hear of the device's stores."""
    if flags & (FOLL_PIN | FOLL_LONGTERM) != FOLL_PIN | FOLL_LONGTERM:
        return True
    hears = vma.vm_ops.page_mkwrite is not None or vma.vm_ops.pfn_mkwrite is not None
    return not (hears and vma.has(VM_SHARED | VM_MAYWRITE) == VM_SHARED | VM_MAYWRITE)


# -- what an entry is worth -------------------------------------------------------------------------------------------
def no_page_table(vma: VmArea, flags: int) -> int:
    """Nothing is there: a fault will tell; a core dump does not ask for it where there is nobody to fill it."""
    if flags & FOLL_DUMP and vma.vm_ops.fault is None:
        return stopped(-EFAULT, Gate.ENTRY, "none, and nobody to fill it")
    return stopped(NEEDS_FAULT, Gate.ENTRY, "none, so faulted in")


def follow_page_mask(vma: VmArea, address: int, nr: int, flags: int, pages: Pages | None) -> tuple[int, int]:
    """Take the page that ``address`` maps: (GOT, SKIPPED, NEEDS_FAULT, or an errno; of how many pages, ``nr`` at most,
    it is the answer). Huge leaves of device memory have no pages: -EFAULT.
    """
    pud = pud_offset(vma.vm_mm, address)
    entry = TABLE if pud is None else pud.entry
    if entry == NONE:
        return no_page_table(vma, flags), nr
    table = pmd_offset(vma.vm_mm, address, nr)
    if nr > 1:
        nr = min(nr, table.pages_from(address))
    pmd = table.entry
    if pmd_leaf(pmd) and not pmd & SPECIAL:
        return follow_trans_huge_pmd(vma, table, address, nr, flags, pages)
    if pud_leaf(entry) or pmd_leaf(pmd):
        return stopped(-EFAULT, Gate.ENTRY, "a huge leaf of device memory"), nr
    return (no_page_table(vma, flags), nr) if pmd == NONE else follow_page_pte(vma, table, address, nr, flags, pages)


def follow_page_pte(
    vma: VmArea, table: Any, address: int, nr: int, flags: int, pages: Pages | None
) -> tuple[int, int]:
    """... by its PTE, under the page-table lock. -EMLINK: the page has to be unshared first."""
    ptl = pte_offset_map_lock(table)
    pte, nr = pte_run(table, address, nr)
    if not pte_present(pte) or (not pte & PRESENT and not flags & FOLL_FORCE):
        pte_unmap_unlock(ptl)
        if pte == NONE:
            return no_page_table(vma, flags), nr
        return stopped(NEEDS_FAULT, Gate.ENTRY, "not present, so faulted in"), nr
    folio, nr = first_normal_page(vma, address, pte, nr)
    if flags & FOLL_WRITE and not can_follow_write_pte(vma, pte, folio, flags):
        pte_unmap_unlock(ptl)
        return stopped(NEEDS_FAULT, Gate.ENTRY, "read-only, so faulted in for a store"), nr
    result = GOT
    if folio is None:
        result, folio = follow_zero_or_pfn(vma, table, address, flags)
    result = take_pages(vma, pte, folio, nr, result, flags, pages)
    pte_unmap_unlock(ptl)
    return result, nr


def follow_trans_huge_pmd(
    vma: VmArea, table: Any, address: int, nr: int, flags: int, pages: Pages | None
) -> tuple[int, int]:
    """... of a huge page of the process's own, by its PMD entry, under that one's lock.

    Source: mm/huge_memory.c follow_trans_huge_pmd (to 6.1), mm/gup.c follow_huge_pmd (from 6.12).
    """
    spin_lock(table.pmd_lock)
    pmd = table.entry
    if not pmd_leaf(pmd) or not pmd & PRESENT:
        spin_unlock(table.pmd_lock)
        return stopped(NEEDS_FAULT, Gate.ENTRY, "not present, so faulted in"), nr
    entry = mk_pte(pte_pfn(pmd & ~PSE) + (address - table.address >> PAGE_SHIFT), pmd & ~(PFN_MASK | PSE))
    folio, nr = first_normal_page(vma, address, entry, nr)
    if flags & FOLL_WRITE and not can_follow_write_pte(vma, entry, folio, flags):
        spin_unlock(table.pmd_lock)
        return stopped(NEEDS_FAULT, Gate.ENTRY, "read-only, so faulted in for a store"), nr
    result = take_pages(vma, entry, folio, nr, GOT, flags, pages)
    spin_unlock(table.pmd_lock)
    return result, nr


def first_normal_page(vma: VmArea, address: int, entry: int, nr: int) -> tuple[Folio | None, int]:
    """``page_of``, and how many of ``nr`` entries that go on with this one it stands for. What counts no page is looked
    at one by one.
    """
    folio = page_of(vma, address, entry)
    return (folio, 1) if nr == 1 or folio is None else vma.vm_mm.machine.pages.first(pte_pfn(entry), nr)


def take_pages(
    vma: VmArea, entry: int, folio: Folio | None, nr: int, result: int, flags: int, pages: Pages | None
) -> int:
    """Grab what an entry maps, if somebody wants it, and fill the slot: what ``follow_page_mask`` says. Who touches it
    to write makes the page dirty, whether he wants it or not.

    Source: mm/gup.c follow_page_pte.
    """
    if folio is not None and not entry & RW and gup_must_unshare(vma, flags, folio):
        return stopped(-EMLINK, Gate.UNSHARE, "not its own, so copied first")
    if folio is not None and pages is not None:
        if not try_grab_folio(folio, flags, pages.holder, nr):
            return stopped(-ENOMEM, Gate.COUNT, "the page is free already")
        pages.add(folio, pte_pfn(entry), nr)
    if folio is not None and flags & FOLL_TOUCH and flags & FOLL_WRITE and not entry & DIRTY_BITS:
        folio_mark_dirty(folio)
    if folio is None and result == SKIPPED and pages is not None:
        pages.add(None, None)
    return result


def page_of(vma: VmArea, address: int, pte: int) -> Folio | None:
    """The page that a present entry maps; None for a frame without one, and for the zero page.

    An architecture without special entries cannot ask the entry (the model's bit stands for what is counted, and is not
    looked at here): in a VM_MIXEDMAP it is a page if there is one to the frame, elsewhere unless it is the zero page.
    VM_PFNMAPs have not come here.

    Source: mm/memory.c vm_normal_page.
    """
    if not running().has("NO_PTE_SPECIAL"):
        return vm_normal_page(vma, address, pte)
    folio: Folio | None = vma.vm_mm.machine.pages.get(pte_pfn(pte))
    return None if is_zero_pfn(pte_pfn(pte)) else folio


def follow_zero_or_pfn(vma: VmArea, table: PteTable, address: int, flags: int) -> tuple[int, Folio | None]:
    """A special entry: the zero page is a page after all; anything else is a frame without one.

    Source: mm/gup.c follow_page_pte.
    """
    if flags & FOLL_DUMP:
        return stopped(-EFAULT, Gate.SPECIAL, "not for a core dump"), None
    if is_zero_pfn(pte_pfn(table.peek_pte(address))):
        return stopped(GOT, Gate.SPECIAL, "the zero page is a page after all"), vma.vm_mm.machine.zero_page()
    result: int = follow_pfn_pte(table, address, flags)
    return result, None


def touch_pfn_pte(table: PteTable, address: int, flags: int) -> None:
    """Who touches what he gets has the entry young, and dirty if he is to write to it: whether he gets anything or not.
    The page-table lock is held.

    Source: mm/gup.c follow_pfn_pte.
    """
    if not flags & FOLL_TOUCH:
        return
    entry = table.peek_pte(address)
    touched = entry | ACCESSED | (DIRTY | SOFT_DIRTY if flags & FOLL_WRITE else 0)
    if touched != entry:
        set_pte_at(table, address, touched)


@follow_pfn_pte.alternative("slot-left", source="mm/gup.c follow_pfn_pte, __get_user_pages, v5.10", releases="<= v5.16")
def leave_the_slot(table: PteTable, address: int, flags: int) -> int:
    """Who wants a reference is refused. A pin is counted as done, and its slot of the array is not written."""
    if flags & FOLL_GET:
        return stopped(-EFAULT, Gate.SPECIAL, "a frame and no page")
    touch_pfn_pte(table, address, flags)
    reached("a slot was left unfilled")
    return stopped(SKIPPED, Gate.SPECIAL, "a frame and no page: counted, and its slot left")


@follow_pfn_pte.alternative("eexist", source="mm/gup.c follow_pfn_pte, __get_user_pages, 6.1.192", releases=">= v5.18")
def refuse_with_eexist(table: PteTable, address: int, flags: int) -> int:
    """-EEXIST for who wants pages; who only wants the range filled goes on."""
    touch_pfn_pte(table, address, flags)
    return stopped(-EEXIST if flags & (FOLL_GET | FOLL_PIN) else SKIPPED, Gate.SPECIAL, "a frame and no page")


@can_follow_write_pte.alternative("foll-cow", source="mm/gup.c can_follow_write_pte, v5.10", releases="<= v5.19")
def if_the_fault_broke_cow(vma: VmArea, pte: int, folio: Folio | None, flags: int) -> bool:
    """The last fault has said that it broke COW, and the entry is dirty."""
    return bool(pte & RW) or bool(flags & FOLL_FORCE and flags & FOLL_COW and pte & DIRTY_BITS)


@can_follow_write_pte.alternative(
    "exclusive", source="mm/gup.c can_follow_write_pte (6.1 - 6.12), can_follow_write_common (7.3)", releases=">= v6.0"
)
def if_the_page_is_exclusive(vma: VmArea, pte: int, folio: Folio | None, flags: int) -> bool:
    """The page is the process's own: anonymous, exclusive, in a private mapping that could be written. One that may be
    written has to fault first, as by a store of the process's own.
    """
    if pte & RW:
        return True
    if not flags & FOLL_FORCE or vma.has(VM_SHARED | VM_MAYWRITE) != VM_MAYWRITE or vma.vm_flags & VM_WRITE:
        return False
    return folio is not None and folio.anon and bool(folio.anon_exclusive)


@gup_must_unshare.alternative("never", source="mm/gup.c follow_page_pte, v5.10", releases="<= v5.18")
def never_unshare(vma: VmArea | None, flags: int, folio: Folio) -> bool:
    """Nothing: what is pinned for reading may go its own way at the next store."""
    return False


@gup_must_unshare.alternative("anon", source="include/linux/mm.h gup_must_unshare, 6.1.192", releases="v5.19 - v6.1")
def unshare_shared_anon(vma: VmArea | None, flags: int, folio: Folio) -> bool:
    """A page of a process's own that is not exclusive."""
    if flags & (FOLL_WRITE | FOLL_PIN) != FOLL_PIN or not folio.anon:
        return False
    return not folio.anon_exclusive


@gup_must_unshare.alternative("or-longterm", source="mm/internal.h gup_must_unshare, 6.12.117", releases=">= v6.2")
def unshare_for_longterm(vma: VmArea | None, flags: int, folio: Folio) -> bool:
    """And for a long-term pin in a private mapping whatever is no page of a process's own, the zero page among it.
    ``vma`` is None in the fast path, which does not know.
    """
    if flags & (FOLL_WRITE | FOLL_PIN) != FOLL_PIN:
        return False
    if folio.anon:
        return not folio.anon_exclusive
    return bool(flags & FOLL_LONGTERM) and (vma is None or is_cow_mapping(vma.has(VM_SHARED | VM_MAYWRITE)))


# -- taking and giving back -------------------------------------------------------------------------------------------
def try_grab_folio(folio: Folio, flags: int, holder: str, nr: int = 1) -> bool:
    """One reference or one pin; ``nr`` of them, of as many pages. False: it is free already.

    Source: mm/gup.c try_grab_page (to 6.1), try_grab_folio (from 6.1).
    """
    each = nr if nr == 1 else nr // folio.alike
    if flags & FOLL_GET:
        return folio.ref_add_unless_zero(f"references of {holder}", each)
    if flags & FOLL_PIN:
        if zero_page_pin(folio):
            return True
        if folio.order:
            folio.add_return("pincount", each)
            return folio.ref_add_unless_zero(f"pins of {holder}", each)
        return folio.ref_add_unless_zero(f"pins of {holder}", each * GUP_PIN_COUNTING_BIAS)
    return True


def gup_put_folio(folio: Folio, flags: int, holder: str, nr: int = 1) -> None:
    """Undo ``try_grab_folio``.

    Source: mm/gup.c put_compound_head, unpin_user_page (5.10), gup_put_folio (from 6.1).
    """
    each = nr if nr == 1 else nr // folio.alike
    if flags & FOLL_GET:
        folio_put(folio, f"references of {holder}", each)
    elif not zero_page_pin(folio):
        if folio.order:
            folio.add_return("pincount", -each)
        folio_put(folio, f"pins of {holder}", each if folio.order else each * GUP_PIN_COUNTING_BIAS)


@zero_page_pin.alternative("counted", source="mm/gup.c try_grab_page, v5.10", releases="<= v6.4")
def counts_the_zero_page(folio: Folio) -> bool:
    """Like any other page's."""
    return False


@zero_page_pin.alternative(
    "not-counted", source="mm/gup.c try_grab_folio, gup_put_folio, 6.1.192, 6.12.117", releases=">= v6.5, deb-6.1.192"
)
def spares_the_zero_page(folio: Folio) -> bool:
    """No: it is not going anywhere."""
    return bool(folio.kind == ZERO)


def unpin_user_pages(pages: Pages) -> None:
    """Give all pins back."""
    release(pages, FOLL_PIN)


def set_pages_dirty(pages: Pages) -> None:
    """Who gives pages back says that they have been written to.

    Source: mm/page-writeback.c set_page_dirty_lock (to 6.12), folio_mark_dirty_lock (7.3); mm/gup.c
    unpin_user_pages_dirty_lock.
    """
    for folio in pages.folios:
        if folio is not None:
            folio_mark_dirty(folio)


def put_pages(pages: Pages) -> None:
    """Give all references back.

    Source: mm/swap.c release_pages (to 6.12), mm/folio.c release_pages (7.3).
    """
    release(pages, FOLL_GET)


def release(pages: Pages, flags: int) -> None:
    """Give back what the array holds; it is empty afterwards. A slot that was never filled is not looked for: what is
    in it is taken for a page.
    """
    for folio, nr in zip(pages.folios, pages.numbers, strict=True):
        if folio is None:
            bug("unfilled-slot", f"{current().name} gives back a page from a slot that nobody has filled")
        else:
            for part in folio.parts():
                gup_put_folio(part, flags, pages.holder, nr // folio.alike * part.alike)
    pages.cut(0)


# -- faulting in ------------------------------------------------------------------------------------------------------
def faultin_page(
    vma: VmArea, address: int, flags: int, unshare: bool, locked: Locked | None, nr: int = 1
) -> tuple[int, int]:
    """Fault in what the walk did not find: (0 or an errno, the flags to go on with). -EBUSY: mmap_lock was dropped.
    ``nr``: of a batch, so many pages that are to be faulted in.
    """
    if flags & FOLL_NOFAULT:
        return stopped(-EFAULT, Gate.ENTRY, "and no fault is wanted"), flags
    fault = FAULT_FLAG_WRITE if flags & FOLL_WRITE else 0
    fault |= FAULT_FLAG_REMOTE if flags & FOLL_REMOTE else 0
    fault |= FAULT_FLAG_ALLOW_RETRY if locked is not None else 0
    fault |= FAULT_FLAG_TRIED if flags & FOLL_TRIED else 0
    fault |= FAULT_FLAG_UNSHARE if unshare else 0
    result = handle_mm_fault(vma, address, fault, None if nr == 1 else Touched(nr))
    if result & VM_FAULT_ERROR:
        error = -ENOMEM if result & VM_FAULT_OOM else -EFAULT
        return stopped(error, Gate.ENTRY, "its fault fails"), flags
    if result & VM_FAULT_RETRY:
        if locked is not None:
            locked.held = False
        return -EBUSY, flags
    if result & VM_FAULT_WRITE:
        flags |= FOLL_COW
    return 0, flags


def __get_user_pages(
    mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages | None, locked: Locked | None
) -> int:
    """Pages one by one: look, fault, look again. Nothing but SIGKILL ends that for a page that cannot be had."""
    vma: VmArea | None = None
    done, error = 0, 0
    foll_flags = flags
    while done < nr_pages:
        loop_point(mm, start, nr_pages, flags, pages, locked, vma, done, error, foll_flags)
        if vma is None or start >= vma.vm_end:
            vma = vma_lookup(mm, start)
            if vma is None:
                error = stopped(-EFAULT, Gate.VMA, "there is none")
                break
            error = check_vma_flags(vma, flags)
            if error:
                break
        if mm.machine.fatal_signal_pending():
            error = -EINTR
            break
        nr = 1 if mm.machine.batch == 1 else fault_batch(vma, start, batch_at(mm, start, nr_pages - done))
        result, nr = follow_page_mask(vma, start, nr, foll_flags, pages)
        if result in (NEEDS_FAULT, -EMLINK):
            error, foll_flags = faultin_page(vma, start, foll_flags, result == -EMLINK, locked, nr)
            if error:
                error = 0 if error == -EBUSY else error
                break
            continue
        if result < 0:
            error = result
            break
        done += nr
        start += nr << PAGE_SHIFT
        foll_flags = flags
    return done or error


def __get_user_pages_locked(
    mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages | None, locked: Locked | None
) -> int:
    """``__get_user_pages``, and again where a fault has dropped mmap_lock, if the caller can do without it
    (``locked``): the page whose fault that was is tried alone until it is there, told that it has been tried; the pages
    behind it are not. mmap_lock is taken here if he does not hold it.
    """
    if nr_pages <= 0:
        return 0
    must_unlock = tried = False
    if locked is not None and not locked.held:
        mmap_read_lock(mm)
        locked.held = must_unlock = True
    if flags & FOLL_PIN and not mm.has_pinned:
        mm.has_pinned = True
    done = 0
    while done < nr_pages:
        loop_point(mm, start, nr_pages, flags, pages, locked, must_unlock, tried, done)
        if tried and locked is not None:
            if mm.machine.fatal_signal_pending():
                done = done or -EINTR
                break
            mmap_read_lock(mm)
            locked.held = True
        nr, foll_flags = (1, flags | FOLL_TRIED) if tried else (nr_pages - done, flags)
        got = __get_user_pages(mm, start, nr, foll_flags, pages, locked)
        if got > 0:
            done += got
            start += got << PAGE_SHIFT
        if locked is not None and not locked.held:
            must_unlock = tried = True
            continue
        if got <= 0:
            done = done or got
            break
        if not tried:
            break
        tried = False
    if must_unlock and locked is not None and locked.held:
        mmap_read_unlock(mm)
        locked.held = False
    return done


def is_valid_gup_args(flags: int, pages: Pages | None) -> bool:
    """GET and PIN exclude each other, and who wants to keep pages for long has to pin them.

    Source: mm/gup.c is_valid_gup_flags (to 6.1), is_valid_gup_args (from 6.12).
    """
    both = flags & (FOLL_GET | FOLL_PIN) == FOLL_GET | FOLL_PIN
    if both or (flags & FOLL_LONGTERM and not flags & FOLL_PIN) or (flags & (FOLL_GET | FOLL_PIN) and pages is None):
        refused_flags("flags that exclude each other")
        return False
    return True


def refused_flags(what: str) -> None:
    """Who asks like this gets a warning, and no page."""
    at_gate(Gate.FLAGS, what)
    report("WARN", "gup-flags", f"{current().name} asks for pages with {what}")
