"""Page attribute tables: cache modes in entries, and the database of the memory types that ranges are reserved with.

What knows of no VMA. Addresses are physical, in bytes, ends exclusive, unless a pfn is said; ``machine`` carries
``memtypes`` (the ``MemtypeDatabase``), ``e820`` and ``mtrr``. Errors are negative errnos.

* **Encodings**: cache modes and bits of entries are in ``cachemode``; all its names are here too.
* **Reservations**: RAM pages carry their type in page flags, one owner at a time. Everything else is in a tree whose
  entries overlap and are shared: who asks for another type than is there is given that one, unless he insists.
* **Ghosts**: the kernel does not know who reserved what. The database does, and reports ``memtype-double-free`` and
  ``memtype-steal`` in the event of the free that is one.

Left out: set_memory_*() and its identity-map aliases, Xen, SEV and TDX address bits, debugpat.

Source: arch/x86/mm/pat/memtype.c, arch/x86/mm/init.c, arch/x86/include/asm/pgtable.h, functions of the same name;
5.10.262, 6.1.192 and 6.12.117, which agree in everything here. Of the model's own: MemtypeDatabase, printk, pat_log
and lookup_memtypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmlitmus.explore.findings import bug, report
from mmlitmus.explore.primitives.choice import may_fail
from mmlitmus.explore.runtime import current
from mmlitmus.explore.state import Const, Ghost, Model, look, touch
from mmlitmus.kernel.errno import EBUSY, EINVAL, ENOMEM
from mmlitmus.kernel.sync.might import might_alloc

from .cachemode import (  # noqa: F401 (for whoever looks for them here)
    _PAGE_CACHE_MODE_UC,
    _PAGE_CACHE_MODE_UC_MINUS,
    _PAGE_CACHE_MODE_WB,
    _PAGE_CACHE_MODE_WC,
    _PAGE_CACHE_MODE_WP,
    _PAGE_CACHE_MODE_WT,
    ERRATA,
    FULL,
    OFF,
    PAT_TABLES,
    CacheMode,
    PatTable,
    cachemode2protval,
    cattr_name,
    effective_type,
    pat_configuration,
    pgprot2cachemode,
    pgprot_4k_2_large,
    pgprot_large_2_4k,
    pgprot_noncached,
    pgprot_writecombine,
    pgprot_writethrough,
    pmd_cachemode,
    pte_cachemode,
)
from .e820 import ISA_END_PFN, PAGE_SHIFT, PAGE_SIZE, is_isa_range
from .memtype_interval import (
    EMPTY,
    Interval,
    IntervalTree,
    memtype_check_insert,
    memtype_lookup,
    memtype_lookup_end,
    memtype_match,
)
from .mtrr import MtrrType, mtrr_type_lookup
from .pgtable import CACHE_MASK

PHYSICAL_MASK = (1 << 52) - 1
_WB, _WC, _UCM, _UC, _WT, _WP = CacheMode


# -- the database -----------------------------------------------------------------------------------------------------
class MemtypeOwner:
    """Ghost: who reserves. A lineage of VMAs, a tracking context, an ioremap, a driver."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ANONYMOUS = MemtypeOwner("somebody")


class MemtypeDatabase(Model):
    """All reservations of a machine.

    ``tree`` is what memtype_lock guards. That spinlock is a leaf: nothing is locked, waited for or slept on while it is
    held, and the tree is touched nowhere else. Nobody can therefore see a critical section half done, and each is one
    event: a reserve or free writes ``tree``, a look-up reads it. The lock itself orders nothing more than these events
    do among themselves.

    ``ram`` holds the types in the page flags, by page, where they are not write-back. memtype_lock does not cover it:
    each page's check and each page's change is an event of its own, as in the kernel, so that two reservations of one
    RAM page may both find it free.

    Ghosts: ``claims`` is who has reserved what outside RAM and not given it back, ``released`` what was given back,
    ``ioremaps`` the kernel's live mappings of device memory, ``direct`` the pages of the kernel's direct map that are
    not write-back, ``log`` what was printed. Every value is immutable. All fields are declared Ghost, the kernel's own
    two too, because they are touched only within events that name them.
    """

    __slots__ = ()
    pat = Const()
    tree = Ghost()
    ram = Ghost()
    claims = Ghost()
    released = Ghost()
    ioremaps = Ghost()
    direct = Ghost()
    log = Ghost()

    def __init__(self, name: str = "memtypes", pat: PatTable = FULL) -> None:
        super().__init__(
            name, pat=pat, tree=EMPTY, ram=EMPTY, claims=EMPTY, released=EMPTY, ioremaps=(), direct=EMPTY, log=()
        )

    # -- without events: for checks when everything has come to rest, and printers
    def entries(self) -> list[Interval]:
        """The entries of the tree, in its order."""
        return list(self.peek("tree").intervals())

    def covers(self, pfn: int) -> int:
        """How many entries cover a frame?"""
        return sum(1 for _ in self.peek("tree").overlaps(pfn << PAGE_SHIFT, pfn + 1 << PAGE_SHIFT))

    def claims_on(self, pfn: int) -> list[MemtypeOwner]:
        """Who claims a frame, once a claim."""
        return [c.owner for c in self.peek("claims").overlaps(pfn << PAGE_SHIFT, pfn + 1 << PAGE_SHIFT)]

    def claims_of(self, owner: MemtypeOwner) -> list[Interval]:
        """What an owner claims."""
        return [c for c in self.peek("claims").intervals() if c.owner is owner]

    def ever_claimed(self, owner: MemtypeOwner, pfn: int) -> bool:
        """Has the owner reserved the frame, now or once?"""
        start, end = pfn << PAGE_SHIFT, pfn + 1 << PAGE_SHIFT
        return any(c.owner is owner for f in ("claims", "released") for c in self.peek(f).overlaps(start, end))

    def unclaimed(self) -> list[tuple[int, int]]:
        """The ranges that more entries cover than owners claim: what nobody will give back."""
        entries = self.entries()
        found = _compare(entries, self.peek("claims").intervals(), 0, PHYSICAL_MASK + 1)
        return [(start, end) for start, end, surplus in found if surplus > 0]


def _compare(entries: Sequence[Interval], claims: Any, start: int, end: int) -> list[tuple[int, int, int]]:
    """The pieces of [start, end) with entries less claims, where that is not 0. Equal neighbours are one piece."""
    steps: dict[int, int] = {}
    for items, sign in ((entries, 1), (claims, -1)):
        for item in items:
            a, b = max(item.start, start), min(item.end, end)
            if a < b:
                steps[a] = steps.get(a, 0) + sign
                steps[b] = steps.get(b, 0) - sign
    pieces: list[tuple[int, int, int]] = []
    level = at = 0
    for x in sorted(steps):
        if steps[x]:
            if level:
                pieces.append((at, x, level))
            level += steps[x]
            at = x
    return pieces


def _mem(start: int, end: int) -> str:
    """A range as the kernel prints it: the end is the last byte."""
    return f"[mem {start:#010x}-{end - 1:#010x}]"


def _comm() -> str:
    """COMM:PID of the running task; tasks have no pid here."""
    return f"{current().name}:0"


def _print(db: MemtypeDatabase, name: str, line: str) -> None:
    """The kernel prints a line. The event under way writes ``log``."""
    db.log = (*db.log, line)
    report("printk", name, line)


def printk(machine: Any, name: str, line: str) -> None:
    """The kernel prints a line: an event, a line of ``log``, and a finding ``name`` of kind printk."""
    db = machine.memtypes
    touch(db.oid("log"))
    _print(db, name, line)


# -- what a range is --------------------------------------------------------------------------------------------------
def pat_enabled(machine: Any) -> bool:
    """Does this kernel use the PAT?"""
    return machine.memtypes.pat is not OFF


def is_untracked_pat_range(start: int, end: int) -> bool:
    """Is nothing kept about the range? So it is for what lies wholly in the legacy ISA hole.

    Source: arch/x86/include/asm/e820/api.h is_ISA_range; x86_platform.is_untracked_pat_range is that function.
    """
    return is_isa_range(start, end)


def pat_pagerange_is_ram(machine: Any, start: int, end: int) -> int:
    """1: RAM, 0: no RAM, -1: something that is no RAM comes before some that is. Below 1M nothing counts as RAM.

    A range that begins with RAM and ends with something else is 1: what comes after the last RAM is not looked at.
    """
    at = start >> PAGE_SHIFT
    ram = False
    for first, end_pfn in machine.e820.system_ram(max(at, ISA_END_PFN), end + PAGE_SIZE - 1 >> PAGE_SHIFT):
        if first > at:
            return -1
        ram = True
        at = end_pfn
    return 1 if ram else 0


def pat_x_mtrr_type(machine: Any, start: int, end: int, req_type: CacheMode) -> CacheMode:
    """The type to ask for: where MTRRs are not write-back, a request for write-back is one for UC-."""
    if req_type == _WB and mtrr_type_lookup(machine, start, end)[0] != MtrrType.WRBACK:
        return _UCM
    return req_type


def is_new_memtype_allowed(start: int, size: int, want: int, got: int) -> bool:
    """May somebody who wanted one type use the range with the one that he got?

    Not if he would get caching that he did not ask for: UC-, WC, WT must not become WB, nor WT WC. Strong UC may
    become anything. In an untracked range everything goes.
    """
    if is_untracked_pat_range(start, start + size):
        return True
    if got == _WB:
        return want not in (_UCM, _WC, _WT)
    return not (want == _WT and got == _WC)


# -- reserve, free, look up -------------------------------------------------------------------------------------------
def memtype_reserve(
    machine: Any, start: int, end: int, req_type: CacheMode, want_new: bool, owner: MemtypeOwner | None = None
) -> tuple[int, CacheMode | None]:
    """Reserve [start, end) with a type: (0 or an errno, the type it has now).

    ``want_new`` false is the kernel's new_type == NULL: no other type than the requested one will do, and None is
    returned for it. Otherwise the type of the entries that are there already is adopted, and it is no error.

    -EINVAL: an empty range (and a WARN), one partly RAM, WP for RAM. -EBUSY: RAM that has a type already, whichever; an
    entry of another type where that matters; entries of different types. -ENOMEM.
    """
    db = machine.memtypes
    start &= PHYSICAL_MASK
    end = (end - 1 & PHYSICAL_MASK) + 1
    if start >= end:
        line = f"memtype_reserve failed: {_mem(start, end)}, req {cattr_name(req_type)}"
        report("WARN", "memtype-reserve-empty-range", line)
        return -EINVAL, None
    if not pat_enabled(machine):
        return 0, req_type if want_new else None
    if is_untracked_pat_range(start, end):
        return 0, _WB if want_new else None
    actual = pat_x_mtrr_type(machine, start, end, req_type)
    new = actual if want_new else None
    is_ram = pat_pagerange_is_ram(machine, start, end)
    if is_ram == 1:
        error, new_ram = _reserve_ram_pages_type(machine, start, end, req_type)
        return error, new_ram if want_new else None
    if is_ram < 0:
        return -EINVAL, new
    might_alloc(machine)
    if may_fail("memtype", machine.failures):
        return -ENOMEM, new
    touch(db.oid("tree"), (db.oid("claims"), db.oid("log")))
    done = memtype_check_insert(db.tree, start, end, actual, want_new, owner)
    if done.error:
        assert done.conflict is not None
        what = f"{start:x}-{end:x} {cattr_name(done.type)}<->{cattr_name(done.conflict.type)}"
        _print(db, "conflicting-memory-types", f"x86/PAT: {_comm()} conflicting memory types {what}")
        track = f"track {cattr_name(actual)}, req {cattr_name(req_type)}"
        _print(db, "conflicting-memory-types", f"x86/PAT: memtype_reserve failed {_mem(start, end)}, {track}")
        return done.error, new
    db.tree = done.tree
    db.claims = db.claims.insert(start, end, done.type, owner or ANONYMOUS)
    return 0, done.type if want_new else None


def memtype_free(machine: Any, start: int, end: int, owner: MemtypeOwner | None = None) -> int:
    """Give [start, end) back: 0, or -EINVAL where no entry matches (and a line in the log), or in mixed ranges.

    Which entry goes is a matter of bounds, not of ``owner``; what the owner claims goes in any case.
    """
    return _memtype_free(machine, start, end, owner, "", "")


def _memtype_free(machine: Any, start: int, end: int, owner: MemtypeOwner | None, name: str, line: str) -> int:
    """memtype_free, printing a further line in the same event."""
    db = machine.memtypes
    if not pat_enabled(machine):
        return 0
    start &= PHYSICAL_MASK
    end &= PHYSICAL_MASK
    if is_untracked_pat_range(start, end):
        return 0
    is_ram = pat_pagerange_is_ram(machine, start, end)
    if is_ram == 1:
        for address in range(start, end, PAGE_SIZE):
            _set_page_memtype(machine, address, _WB)
        return 0
    if is_ram < 0:
        return -EINVAL
    touch(db.oid("tree"), (db.oid("claims"), db.oid("released"), db.oid("log")))
    erased = memtype_match(db.tree, start, end)
    db.tree = erased.tree
    _release(db, start, end, owner or ANONYMOUS)
    if erased.error:
        _print(db, "freeing-invalid-memtype", f"x86/PAT: {_comm()} freeing invalid memtype {_mem(start, end)}")
    else:
        _check_steal(db, start, end, owner or ANONYMOUS)
    if line:
        _print(db, name, line)
    return erased.error


def lookup_memtype(machine: Any, paddr: int) -> CacheMode:
    """The type of the page at ``paddr``: its flags' if it is RAM, the first entry's, or UC- where nothing is reserved.

    PAT is on. Not an event in the untracked hole; else one.
    """
    db = machine.memtypes
    if is_untracked_pat_range(paddr, paddr + PAGE_SIZE):
        return _WB
    if pat_pagerange_is_ram(machine, paddr, paddr + PAGE_SIZE):
        return _get_page_memtype(machine, paddr)
    look((db.oid("tree"),))
    found: CacheMode | None = memtype_lookup(db.tree, paddr, PAGE_SIZE)
    return _UCM if found is None else found


def lookup_memtypes(machine: Any, paddr: int, nr: int, step: int = 1) -> tuple[CacheMode, int]:
    """``lookup_memtype`` of ``nr`` pages, every ``step``-th from ``paddr`` on: the first's type, and how many of them
    have it for the same reason. In a search ``nr`` is 1.
    """
    machine.count("memtype_lookup", 1)
    mode = lookup_memtype(machine, paddr)
    if nr == 1:
        return mode, 1
    end = paddr + nr * step * PAGE_SIZE
    if is_untracked_pat_range(paddr, paddr + PAGE_SIZE) or pat_pagerange_is_ram(machine, paddr, end):
        return mode, 1
    same = -(-(memtype_lookup_end(machine.memtypes.tree, paddr, end) - paddr) // (step * PAGE_SIZE))
    machine.count("memtype_lookup", same - 1)
    return mode, same


def _get_page_memtype(machine: Any, paddr: int) -> CacheMode:
    db = machine.memtypes
    _pfn_to_page(machine, paddr)
    look((db.oid("ram"),))
    found: CacheMode | None = memtype_lookup(db.ram, paddr, 1)
    return _WB if found is None else found


def _set_page_memtype(machine: Any, paddr: int, mode: CacheMode) -> None:
    """One event, as the kernel's cmpxchg of the page's flags."""
    db = machine.memtypes
    _pfn_to_page(machine, paddr)
    touch(db.oid("ram"))
    db.ram = _with_page(db.ram, paddr, mode)


def _with_page(pages: IntervalTree, paddr: int, mode: CacheMode) -> IntervalTree:
    """A map of pages to types with one page changed. Write-back is not kept."""
    old = pages.first(paddr, paddr + 1)
    if old is not None:
        pages = pages.remove(old)
    page = paddr & -PAGE_SIZE
    return pages if mode == _WB else pages.insert(page, page + PAGE_SIZE, mode)


def _pfn_to_page(machine: Any, paddr: int) -> None:
    """A frame without a struct page (behind RAM in the range that counted as RAM) has no flags to look at."""
    if not machine.e820.pfn_valid(paddr >> PAGE_SHIFT):
        bug("no-struct-page", f"{current().name} looks at the page flags of frame {paddr >> PAGE_SHIFT:#x}")


def _reserve_ram_pages_type(machine: Any, start: int, end: int, req_type: CacheMode) -> tuple[int, CacheMode]:
    """RAM has one owner at a time: any type but write-back means taken, even if it is the requested one."""
    if req_type == _WP:
        return -EINVAL, _UCM
    if req_type == _UC:
        report("WARN", "ram-strong-uc", f"{current().name} asks for strong UC for RAM {_mem(start, end)}; it gets UC-")
        req_type = _UCM
    pages = range(start & -PAGE_SIZE, end & -PAGE_SIZE, PAGE_SIZE)
    for address in pages:
        mode = _get_page_memtype(machine, address)
        if mode != _WB:
            what = f"{_mem(start, end)}, track {mode:#x}, req {req_type:#x}"
            printk(machine, "reserve-ram-failed", f"x86/PAT: reserve_ram_pages_type failed {what}")
            return -EBUSY, mode
    for address in pages:
        _set_page_memtype(machine, address, req_type)
    return 0, req_type


# -- ghosts: who claims what ------------------------------------------------------------------------------------------
def _release(db: MemtypeDatabase, start: int, end: int, owner: MemtypeOwner) -> None:
    """Take [start, end) off what the owner claims, once. What he does not claim (any more) is a double free."""
    claims: IntervalTree = db.claims
    own = [c for c in claims.overlaps(start, end) if c.owner is owner]
    same = next((c for c in own if c.start == start and c.end == end), None)
    if same is not None:
        db.claims = claims.remove(same)
        db.released = db.released.insert(start, end, same.type, owner)
        return
    released: IntervalTree = db.released
    missing: list[tuple[int, int]] = []
    at = start
    for claim in own:
        if claim.end <= at:
            continue
        if claim.start > at:
            missing.append((at, claim.start))
        low, high = max(claim.start, at), min(claim.end, end)
        released = released.insert(low, high, claim.type, owner)
        claims = claims.remove(claim)
        for a, b in ((claim.start, low), (high, claim.end)):
            if a < b:
                claims = claims.insert(a, b, claim.type, owner)
        at = high
        if at == end:
            break
    if at < end:
        missing.append((at, end))
    db.claims, db.released = claims, released
    if missing:
        what = ", ".join(_mem(a, b) for a, b in missing)
        report(
            "invariant",
            "memtype-double-free",
            f"{current().name} frees {what} for {owner.name}, which has not reserved it or has given it back",
        )


def _check_steal(db: MemtypeDatabase, start: int, end: int, owner: MemtypeOwner) -> None:
    """After an erasure of [start, end): is there a page that more owners claim than entries cover?"""
    claims = list(db.claims.overlaps(start, end))
    if not claims:
        return
    short = [p for p in _compare(list(db.tree.overlaps(start, end)), claims, start, end) if p[2] < 0]
    if not short:
        return
    first, last, _ = short[0]
    there = [c.owner for c in claims if c.start <= first < c.end]
    victim = next((o for o in there if o is not owner), there[0])
    report(
        "invariant",
        "memtype-steal",
        f"{current().name} frees {_mem(start, end)} for {owner.name}, and with it an entry of {victim.name}: "
        f"{len(there)} claim {_mem(first, last)}, {len(there) + short[0][2]} cover it",
    )


# -- mappings of whole ranges -----------------------------------------------------------------------------------------
def memtype_kernel_map_sync(machine: Any, base: int, size: int, mode: CacheMode) -> int:
    """Give the kernel's direct map of the range the same type: 0 or -EINVAL. Nothing where it maps no RAM (a BAR)."""
    e820 = machine.e820
    high_memory = e820.top << PAGE_SHIFT
    if base > high_memory - 1 or not e820.page_is_ram(base >> PAGE_SHIFT):
        return 0
    length = high_memory - base if high_memory - 1 <= base + size else size
    if may_fail("change_page_attr", machine.failures):
        what = f"ioremap_change_attr failed {cattr_name(mode)} for {_mem(base, base + size)}"
        printk(machine, "ioremap-change-attr-failed", f"x86/PAT: {_comm()} {what}")
        return -EINVAL
    db = machine.memtypes
    touch(db.oid("direct"))
    mode = mode if mode in (_WB, _WC, _WT) else _UCM
    pages = db.direct
    for address in range(base, base + (length & -PAGE_SIZE), PAGE_SIZE):
        pages = _with_page(pages, address, mode)
    db.direct = pages
    return 0


def reserve_pfn_range(
    machine: Any, paddr: int, size: int, prot: int, strict: bool, owner: MemtypeOwner | None = None
) -> tuple[int, int]:
    """Reserve for a mapping with protection ``prot``: (0 or an errno, the protection to map with).

    Not ``strict``: another type that is allowed instead of the wanted one goes into the protection. RAM is never
    reserved: its first page's type goes into the protection. -EINVAL, and what memtype_reserve says.
    """
    pat: PatTable = machine.memtypes.pat
    want = pgprot2cachemode(prot, pat)
    end = paddr + size
    if pat_pagerange_is_ram(machine, paddr, end):
        if not pat_enabled(machine):
            return 0, prot
        got = lookup_memtype(machine, paddr)
        if got != want:
            what = f"req {cattr_name(want)} for {_mem(paddr, end)}, got {cattr_name(got)}"
            printk(machine, "ram-type-changed", f"x86/PAT: {_comm()} map pfn RAM range {what}")
            prot = prot & ~CACHE_MASK | pat.protval[got]
        return 0, prot
    error, new = memtype_reserve(machine, paddr, end, want, True, owner)
    if error:
        return error, prot
    assert new is not None
    if new != want:
        if strict or not is_new_memtype_allowed(paddr, size, want, new):
            what = f"{cattr_name(want)} for {_mem(paddr, end)}, got {cattr_name(new)}"
            line = f"x86/PAT: {_comm()} map pfn expected mapping type {what}"
            _free_and_print(machine, paddr, end, owner, "expected-mapping-type", line)
            return -EINVAL, prot
        prot = prot & ~CACHE_MASK | pat.protval[new]
    if memtype_kernel_map_sync(machine, paddr, size, new) < 0:
        memtype_free(machine, paddr, end, owner)
        return -EINVAL, prot
    return 0, prot


def _free_and_print(machine: Any, start: int, end: int, owner: MemtypeOwner | None, name: str, line: str) -> None:
    """Free, and print; in one event where the free is one (nobody can tell)."""
    if is_untracked_pat_range(start, end) or not pat_enabled(machine):
        printk(machine, name, line)
    else:
        _memtype_free(machine, start, end, owner, name, line)


def free_pfn_range(machine: Any, paddr: int, size: int, owner: MemtypeOwner | None = None) -> None:
    """Undo ``reserve_pfn_range``; RAM was not reserved. That the free may fail is nobody's concern."""
    if pat_pagerange_is_ram(machine, paddr, paddr + size) == 0:
        memtype_free(machine, paddr, paddr + size, owner)


# -- printers ---------------------------------------------------------------------------------------------------------
def pat_memtype_list(machine: Any, mark: str = "") -> list[str]:
    """/sys/kernel/debug/x86/pat_memtype_list, line by line; [] without PAT, where there is no such file. No event.

    Ends are exclusive here, other than in the kernel's messages. ``mark``: a first line that says what this is. Source:
    arch/x86/mm/pat/memtype.c memtype_seq_show.
    """
    if not pat_enabled(machine):
        return []
    lines = [f"PAT: [mem {e.start:#018x}-{e.end:#018x}] {cattr_name(e.type)}" for e in machine.memtypes.entries()]
    return [*([mark] if mark else []), "PAT memtype list:", *lines]


def pat_log(machine: Any, mark: str = "") -> list[str]:
    """What the kernel printed about memory types so far, in order. No event. ``mark`` as above, if anything was."""
    lines = machine.memtypes.peek("log")
    return [*([mark] if mark and lines else []), *lines]
