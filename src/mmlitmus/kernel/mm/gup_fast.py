"""The functions that callers of get_user_pages use; and the lockless path, which looks at entries and nothing else.

The fast path runs with interrupts off, so that whoever has cleared an entry waits with his flush, and so with freeing
the page. It takes the page that the entry maps, looks at the entry once more, and stops at the first page that it
cannot have: everything else is left to the slow path, with mmap_lock. It does not see VMAs, and stops at every special
entry, the zero page's among them. So an architecture has it only if its entries can be special.

Source: mm/gup.c, functions of the same name. Of the model's own: unlocked.
"""

from __future__ import annotations

from mmlitmus.explore.findings import bug, reached
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PRESENT,
    PUD_SHIFT,
    RW,
    SPECIAL,
    USER,
    PteTable,
    pmd_leaf,
    pmd_offset,
    pte_pfn,
    ptep_get,
    pud_leaf,
    pud_offset,
    small_page,
)
from mmlitmus.kernel.errno import EFAULT, EINVAL, EOVERFLOW
from mmlitmus.kernel.mm.fork import write_protect
from mmlitmus.kernel.mm.gates import Gate, at_gate, stopped
from mmlitmus.kernel.mm.gup import (
    FOLL_FAST_ONLY,
    FOLL_FORCE,
    FOLL_GET,
    FOLL_LONGTERM,
    FOLL_NOFAULT,
    FOLL_PIN,
    FOLL_REMOTE,
    FOLL_TOUCH,
    FOLL_WRITE,
    Locked,
    Pages,
    gup_must_unshare,
    gup_put_folio,
    is_valid_gup_args,
    refused_flags,
    release,
)
from mmlitmus.kernel.mm.gup_longterm import gup_longterm_locked, is_longterm_pinnable
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.mmu_gather import TASK_SIZE
from mmlitmus.kernel.mm.page_alloc import GUP_PIN_COUNTING_BIAS, Folio, folio_put, try_get_folio
from mmlitmus.kernel.policy import Seam, running
from mmlitmus.kernel.sync.might import might_fault

#: flags that the fast functions take
FAST_FLAGS = FOLL_WRITE | FOLL_LONGTERM | FOLL_FORCE | FOLL_PIN | FOLL_GET | FOLL_FAST_ONLY | FOLL_NOFAULT

longterm_unlockable = Seam("longterm_unlockable", "may mmap_lock be dropped while pages are pinned for long")
gup_fast_rest = Seam("__gup_longterm_unlocked", "whether the fast functions' slow part touches what it finds")
gup_fast_only = Seam("get_user_pages_fast_only", "what the function that never sleeps says of wrong arguments")
gup_fast_folio_allowed = Seam("gup_fast_folio_allowed", "which pages the fast path takes")
gup_fast_leaf = Seam("gup_fast_pmd_leaf", "does the fast path tell a huge leaf of device memory from one of pages")
gup_fast_overflow = Seam("gup_fast_fallback", "what the fast functions say of a range that wraps round")


# -- with mmap_lock ---------------------------------------------------------------------------------------------------
def get_user_pages_remote(
    mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages, locked: Locked | None = None
) -> int:
    """References to ``nr_pages`` pages of any mm, from ``start``. Needs mmap_lock R, which faults may drop if
    ``locked`` is given.
    """
    flags |= FOLL_GET | FOLL_REMOTE | FOLL_TOUCH
    if not is_valid_gup_args(flags, pages):
        return -EINVAL
    return gup_longterm_locked(mm, start & ~(PAGE_SIZE - 1), nr_pages, flags, pages, locked)


def pin_user_pages_remote(
    mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages, locked: Locked | None = None
) -> int:
    """Pins of them."""
    flags |= FOLL_PIN | FOLL_REMOTE | FOLL_TOUCH
    if not is_valid_gup_args(flags, pages) or not (locked is None or longterm_unlockable(flags)):
        return -EINVAL
    return gup_longterm_locked(mm, start & ~(PAGE_SIZE - 1), nr_pages, flags, pages, locked)


def get_user_pages(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """References to pages of the caller's own mm. Needs mmap_lock R."""
    flags |= FOLL_GET | FOLL_TOUCH
    if not is_valid_gup_args(flags, pages):
        return -EINVAL
    return gup_longterm_locked(mm, start & ~(PAGE_SIZE - 1), nr_pages, flags, pages, None)


def pin_user_pages(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """Pins of pages of the caller's own mm. Needs mmap_lock R."""
    flags |= FOLL_PIN
    if not is_valid_gup_args(flags, pages):
        return -EINVAL
    return gup_longterm_locked(mm, start & ~(PAGE_SIZE - 1), nr_pages, flags, pages, None)


def get_user_pages_unlocked(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """References to pages of the caller's own mm; takes mmap_lock, and faults may drop it."""
    return unlocked(mm, start, nr_pages, flags | FOLL_GET, pages)


def pin_user_pages_unlocked(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """Pins of them."""
    return unlocked(mm, start, nr_pages, flags | FOLL_PIN, pages)


def unlocked(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """What both do.

    Source: mm/gup.c get_user_pages_unlocked, pin_user_pages_unlocked.
    """
    if not is_valid_gup_args(flags, pages) or not longterm_unlockable(flags):
        return -EINVAL
    return gup_longterm_locked(mm, start & ~(PAGE_SIZE - 1), nr_pages, flags | FOLL_TOUCH, pages, Locked(False))


@longterm_unlockable.alternative(
    "refused",
    source="mm/gup.c __get_user_pages_remote, get_user_pages_unlocked, v5.10, 6.1.192",
    releases="<= v6.1",
)
def refuses_longterm_unlockable(flags: int) -> bool:
    """No: mmap_lock has to be held throughout. A warning, and -EINVAL."""
    if not flags & FOLL_LONGTERM:
        return True
    refused_flags("FOLL_LONGTERM, and mmap_lock may be dropped")
    return False


@longterm_unlockable.alternative(
    "allowed", source="mm/gup.c pin_user_pages_remote, pin_user_pages_unlocked, 6.12.117", releases=">= v6.2"
)
def allows_longterm_unlockable(flags: int) -> bool:
    """Yes."""
    return True


# -- without ----------------------------------------------------------------------------------------------------------
def get_user_pages_fast(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """References, by the fast path as far as it goes."""
    flags |= FOLL_GET
    return gup_fast_fallback(mm, start, nr_pages, flags, pages) if is_valid_gup_args(flags, pages) else -EINVAL


def pin_user_pages_fast(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """Pins, by the fast path as far as it goes."""
    flags |= FOLL_PIN
    return gup_fast_fallback(mm, start, nr_pages, flags, pages) if is_valid_gup_args(flags, pages) else -EINVAL


def get_user_pages_fast_only(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """References to what the fast path gets."""
    result: int = gup_fast_only(mm, start, nr_pages, flags | FOLL_GET | FOLL_FAST_ONLY, pages)
    return result


def gup_fast_fallback(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """The fast path, then the slow one for the rest. If that fails, what was had before is the answer.

    The slow part holds mmap_lock throughout; from 6.2 on it gives it back between the rounds of a long-term pin.

    Source: mm/gup.c internal_get_user_pages_fast (to 6.1), gup_fast_fallback (from 6.12).
    """
    if flags & ~FAST_FLAGS:
        refused_flags("flags that the fast path does not know")
        return -EINVAL
    if flags & FOLL_PIN and not mm.has_pinned:
        mm.has_pinned = True
    if not flags & FOLL_FAST_ONLY:
        might_fault(mm)
    start &= ~(PAGE_SIZE - 1)
    end = start + (nr_pages << PAGE_SHIFT)
    if end >= 1 << 64:
        result: int = gup_fast_overflow()
        return stopped(result, Gate.RANGE, "it wraps round")
    if end > TASK_SIZE:
        return stopped(-EFAULT, Gate.RANGE, "beyond user space")
    done = gup_fast(mm, start, end, flags, pages)
    if done == nr_pages or flags & FOLL_FAST_ONLY:
        return done
    rest = Pages(pages.holder)
    mmap_read_lock(mm)
    got = gup_longterm_locked(mm, start + (done << PAGE_SHIFT), nr_pages - done, gup_fast_rest(flags), rest, None)
    mmap_read_unlock(mm)
    for folio, pfn, nr in zip(rest.folios, rest.pfns, rest.numbers, strict=True):
        pages.add(folio, pfn, nr)
    if got < 0:
        return done or got
    return done + got


@gup_fast_rest.alternative(
    "not-longterm", source="mm/gup.c __gup_longterm_unlocked, v5.10, 6.1.192", releases="<= v6.1"
)
def touches_unless_longterm(flags: int) -> int:
    """It does, but for long-term pins."""
    return flags if flags & FOLL_LONGTERM else flags | FOLL_TOUCH


@gup_fast_rest.alternative("always", source="mm/gup.c gup_fast_fallback, 6.12.117", releases=">= v6.2")
def touches(flags: int) -> int:
    """It does."""
    return flags | FOLL_TOUCH


@gup_fast_only.alternative(
    "never-negative", source="mm/gup.c get_user_pages_fast_only, v5.10, 6.1.192", releases="<= v6.1"
)
def fast_only_or_nothing(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """No errno, but 0. Whether FOLL_LONGTERM goes with references nobody asks."""
    return max(0, gup_fast_fallback(mm, start, nr_pages, flags, pages))


@gup_fast_only.alternative("errno", source="mm/gup.c get_user_pages_fast_only, 6.12.117", releases=">= v6.2")
def fast_only_or_errno(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages) -> int:
    """Whatever the other fast functions say."""
    return gup_fast_fallback(mm, start, nr_pages, flags, pages) if is_valid_gup_args(flags, pages) else -EINVAL


@gup_fast_folio_allowed.alternative(
    "any", source="mm/gup.c gup_pte_range, v5.10; page_is_secretmem, 6.1.192", releases="<= v6.4"
)
def any_folio(folio: Folio, flags: int) -> bool:
    """Every page. (Secret memory is not modelled.)"""
    return True


@gup_fast_folio_allowed.alternative(
    "of-a-mapping", source="mm/gup.c gup_fast_folio_allowed, 6.12.117", releases="v6.10 - v6.18"
)
def folios_of_a_mapping(folio: Folio, flags: int) -> bool:
    """Anonymous pages, and those of a file, but to write to them for long; a page that a driver has allocated is of
    none, if it has not given it a mapping, and might be one that has been taken from its file. (With CONFIG_SECRETMEM.)
    """
    wanted = FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE
    return bool(folio.anon) or (flags & wanted != wanted and folio.mapping is not None)


@gup_fast_folio_allowed.alternative(
    "of-a-mapping-longterm", source="mm/gup.c gup_fast_folio_allowed, 7.3.4", releases="v6.5 - v6.9, v7.3"
)
def folios_of_a_mapping_if_longterm(folio: Folio, flags: int) -> bool:
    """A page of no file, unless it is to be pinned for long and written to."""
    wanted = FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE
    return bool(folio.anon) or flags & wanted != wanted


@gup_fast_overflow.alternative(
    "nothing", source="mm/gup.c internal_get_user_pages_fast, v5.10, 6.1.192", releases="<= v6.1"
)
def wraps_to_nothing() -> int:
    """No page, and no error."""
    return 0


@gup_fast_overflow.alternative("eoverflow", source="mm/gup.c gup_fast_fallback, 6.12.117", releases=">= v6.12")
def wraps_to_eoverflow() -> int:
    """-EOVERFLOW."""
    return -EOVERFLOW


def gup_fast(mm: MmStruct, start: int, end: int, flags: int, pages: Pages) -> int:
    """How many pages from ``start`` bytes on the lockless path gets. A pin beside a fork is given back.

    None where the architecture has no such path (HAVE_GUP_FAST), or no special entries for it to stop at.

    Source: mm/gup.c lockless_pages_from_mm (to 6.1), gup_fast (from 6.12).
    """
    if running().has("NO_GUP_FAST") or running().has("NO_PTE_SPECIAL"):
        return stopped(0, Gate.FAST, "none on this architecture")
    protect = running().chosen(write_protect)
    seen = 0
    if flags & FOLL_PIN:
        seen = protect.read(mm)
        if seen & 1:
            return stopped(0, Gate.FORK, "one is going on")
    before = len(pages)
    cpu = mm.machine.this_cpu()
    cpu.local_irq_disable()
    at = start
    while at < end and gup_fast_pte(mm, at, flags, pages):
        at += PAGE_SIZE
    cpu.local_irq_enable()
    if flags & FOLL_PIN and protect.retry(mm, seen):
        reached("fast GUP gave its pins back")
        undone = Pages(pages.holder)
        for n in range(before, len(pages)):
            undone.add(pages.folios[n], pages.pfns[n])
        pages.cut(before)
        release(undone, FOLL_PIN)
        return stopped(0, Gate.FORK, "one went by: given back")
    return len(pages) - before


def gup_fast_pte(mm: MmStruct, address: int, flags: int, pages: Pages) -> bool:
    """One page: False where the fast path stops. So it does at a process's own huge pages. The kernel's takes them; the
    slow path has the same answer.

    Source: mm/gup.c gup_pte_range (to 6.1), gup_fast_pte_range (from 6.12).
    """
    pud = pud_offset(mm, address)
    if pud is not None:
        upper = pud.entry
        if upper == NONE:
            return stopped(False, Gate.FAST, "stops: no table")
        if pud_leaf(upper):
            return bool(gup_fast_leaf(mm, small_page(upper, PUD_SHIFT, address), flags))
    table: PteTable = pmd_offset(mm, address)
    pmd = table.entry
    if pmd == NONE:
        return stopped(False, Gate.FAST, "stops: no table")
    if pmd_leaf(pmd):
        return bool(gup_fast_leaf(mm, small_page(pmd, PMD_SHIFT, address), flags))
    pte = ptep_get(table, address)
    if not pte & PRESENT or not pte & USER:
        return stopped(False, Gate.FAST, "stops: no entry" if pte == NONE else "stops: not present")
    if flags & FOLL_WRITE and not pte & RW:
        return stopped(False, Gate.FAST, "stops: read-only, to be written")
    if pte & SPECIAL:
        return stopped(False, Gate.FAST, "stops: special")
    folio: Folio | None = mm.machine.pages.get(pte_pfn(pte))
    if folio is None or not try_grab_folio_fast(folio, flags, pages.holder):
        return False
    if table.entry != pmd or ptep_get(table, address) != pte:
        reached("fast GUP saw the entry change")
        gup_put_folio(folio, flags, pages.holder)
        return stopped(False, Gate.FAST, "stops: the entry has changed")
    if not gup_fast_folio_allowed(folio, flags):
        gup_put_folio(folio, flags, pages.holder)
        return stopped(False, Gate.FAST, "stops: a page without a mapping")
    if not pte & RW and gup_must_unshare(None, flags, folio):
        gup_put_folio(folio, flags, pages.holder)
        return stopped(False, Gate.FAST, "stops: to be unshared")
    pages.add(folio, pte_pfn(pte))
    at_gate(Gate.FAST, "takes it")
    return True


@gup_fast_leaf.alternative("taken", source="mm/gup.c gup_huge_pmd, gup_huge_pud, v5.10, 6.1.192", releases="<= v6.11")
def takes_any_leaf(mm: MmStruct, entry: int, flags: int) -> bool:
    """No: no such leaf is special. Where a frame has no page, it takes what is not there for one. (RAM in a huge leaf
    is not modelled: there it would have a reference.) ``entry``: the 4K page's part of the leaf.
    """
    if not entry & PRESENT or (flags & FOLL_WRITE and not entry & RW):
        return stopped(False, Gate.FAST, "stops: a huge leaf, absent or read-only")
    pfn = pte_pfn(entry)
    if mm.machine.e820.pfn_valid(pfn):
        return stopped(False, Gate.FAST, "stops: a huge leaf of RAM")
    at_gate(Gate.FAST, "takes a huge leaf for one of pages")
    bug("fast-gup-no-page", f"fast GUP looks for the page of frame {pfn:#x}, which has none")


@gup_fast_leaf.alternative(
    "special", source="mm/gup.c gup_fast_pmd_leaf, gup_fast_pud_leaf, 6.12.117", releases=">= v6.12"
)
def stops_at_special_leaves(mm: MmStruct, entry: int, flags: int) -> bool:
    """Yes: it is special."""
    return stopped(False, Gate.FAST, "stops: a huge leaf")


def try_grab_folio_fast(folio: Folio, flags: int, holder: str) -> bool:
    """A reference first, for the page may be free already; then the pin. False: it is free, or may not be pinned for
    long where it is.

    Source: mm/gup.c try_grab_compound_head (5.10), try_grab_folio (6.1), try_grab_folio_fast (from 6.12).
    """
    if flags & FOLL_GET:
        return try_get_folio(folio, f"references of {holder}") or stopped(False, Gate.FAST, "stops: a free page")
    name = f"pins of {holder}"
    if not try_get_folio(folio, name):
        return stopped(False, Gate.FAST, "stops: a free page")
    if flags & FOLL_LONGTERM and not is_longterm_pinnable(folio):
        folio_put(folio, name)
        return stopped(False, Gate.FAST, "stops: a page that may not stay")
    if folio.order:
        folio.add_return("pincount", 1)
    else:
        folio.ref_add(name, GUP_PIN_COUNTING_BIAS - 1)
    return True
