"""Cache modes in entries, and reserving, freeing and looking up memory types, without VMAs."""

from __future__ import annotations

import pytest

from mmlitmus.kernel.arch.x86.mtrr import MtrrType
from mmlitmus.kernel.arch.x86.pat import (
    OFF,
    CacheMode,
    MemtypeOwner,
    cachemode2protval,
    free_pfn_range,
    lookup_memtype,
    memtype_free,
    memtype_kernel_map_sync,
    memtype_reserve,
    pat_log,
    pat_memtype_list,
    pat_pagerange_is_ram,
    pgprot2cachemode,
    reserve_pfn_range,
)
from mmlitmus.kernel.errno import EBUSY, EINVAL, ENOMEM
from mmlitmus.report.text import not_a_log

from .board import BAR, BY_NAME, PAGE, RAM, RESERVED, Board, rows, run

WB, WC, UCM, UC, WT, WP = CacheMode
PWT, PCD, PAT4K = 1 << 3, 1 << 4, 1 << 7


# -- the reserve matrix -----------------------------------------------------------------------------------------------
#: rows: what is there; columns: what a mapping asks for; cells: the type that it gets, or the errno
NONSTRICT = """
      WB     WC     UC-    UC  WT     WP
none  WB     WC     UC-    UC  WT     WP
WB    WB     EINVAL EINVAL WB  EINVAL WB
WC    WC     WC     WC     WC  EINVAL WC
UC-   UC-    UC-    UC-    UC- UC-    UC-
UC    UC     UC     UC     UC  UC     UC
WT    WT     WT     WT     WT  WT     WT
"""
STRICT = """
      WB     WC     UC-    UC     WT     WP
none  WB     WC     UC-    UC     WT     WP
WB    WB     EINVAL EINVAL EINVAL EINVAL EINVAL
WC    EINVAL WC     EINVAL EINVAL EINVAL EINVAL
UC-   EINVAL EINVAL UC-    EINVAL EINVAL EINVAL
UC    EINVAL EINVAL EINVAL UC     EINVAL EINVAL
WT    EINVAL EINVAL EINVAL EINVAL WT     EINVAL
"""
NO_NEW = """
      WB    WC    UC-   UC    WT    WP
none  WB    WC    UC-   UC    WT    WP
WB    WB    EBUSY EBUSY EBUSY EBUSY EBUSY
WC    EBUSY WC    EBUSY EBUSY EBUSY EBUSY
UC-   EBUSY EBUSY UC-   EBUSY EBUSY EBUSY
UC    EBUSY EBUSY EBUSY UC    EBUSY EBUSY
WT    EBUSY EBUSY EBUSY EBUSY WT    EBUSY
"""
HOW = {"nonstrict": NONSTRICT, "strict": STRICT, "no new": NO_NEW}
CELLS = [(how, *cell) for how, table in HOW.items() for cell in rows(table)]


@pytest.mark.parametrize(("how", "there", "req", "expected"), CELLS, ids=lambda x: str(x))
def test_reserve(how: str, there: str, req: str, expected: str) -> None:
    """Outside RAM, under a write-back MTRR. A failure leaves the database as it was."""
    start, end = RESERVED, RESERVED + 4 * PAGE

    def body(b: Board) -> None:
        if there != "none":
            assert memtype_reserve(b, start, end, BY_NAME[there], True, b.a) == (0, BY_NAME[there])
        before = pat_memtype_list(b)
        want = BY_NAME[req]
        if how == "no new":
            error, got = memtype_reserve(b, start, end, want, False, b.b)
            assert got is None
            got = lookup_memtype(b, start)
        else:
            prot = 0x8000_0000_0000_0027 | cachemode2protval(want)
            error, prot = reserve_pfn_range(b, start, end - start, prot, how == "strict", b.b)
            got = pgprot2cachemode(prot)
            assert prot & ~(PWT | PCD | PAT4K) == 0x8000_0000_0000_0027
        if expected in BY_NAME:
            assert (error, got) == (0, BY_NAME[expected])
            assert len(pat_memtype_list(b)) == len(before) + 1
            assert b.memtypes.entries()[-1].type == BY_NAME[expected]
            assert b.memtypes.claims_on(start >> 12)[-1] is b.b
        else:
            assert error == {"EINVAL": -EINVAL, "EBUSY": -EBUSY}[expected]
            assert pat_memtype_list(b) == before
            assert b.b not in b.memtypes.claims_on(start >> 12)
        assert b.memtypes.unclaimed() == []

    finds = {"EINVAL": ["expected-mapping-type"], "EBUSY": ["conflicting-memory-types"]}.get(expected, [])
    run(body, finds=finds)


def test_a_part_is_as_good_as_the_whole() -> None:
    """Overlapping is enough, whichever of the two is larger; touching is not."""

    def body(b: Board) -> None:
        memtype_reserve(b, BAR + 2 * PAGE, BAR + 4 * PAGE, WC, True, b.a)
        assert memtype_reserve(b, BAR, BAR + 8 * PAGE, UCM, True, b.b) == (0, WC)
        assert memtype_reserve(b, BAR + 3 * PAGE, BAR + 4 * PAGE, UC, True, b.b) == (0, WC)
        assert memtype_reserve(b, BAR + 8 * PAGE, BAR + 9 * PAGE, UC, True, b.b) == (0, UC)
        assert b.types() == ["0-8 write-combining", "2-4 write-combining", "3-4 write-combining", "8-9 uncached"]

    run(body)


def test_several_types_in_the_way() -> None:
    """The first decides, and then the others disagree: nobody gets anything, whatever he asks for."""

    def body(b: Board) -> None:
        memtype_reserve(b, BAR, BAR + PAGE, WC, True, b.a)
        memtype_reserve(b, BAR + PAGE, BAR + 2 * PAGE, UCM, True, b.a)
        for mode in (WB, WC, UCM, UC):
            for want_new in (True, False):
                error, _ = memtype_reserve(b, BAR, BAR + 2 * PAGE, mode, want_new, b.b)
                assert error == -EBUSY
            assert reserve_pfn_range(b, BAR, 2 * PAGE, cachemode2protval(mode), False, b.b)[0] == -EBUSY
        assert len(b.memtypes.entries()) == 2
        assert memtype_reserve(b, BAR, BAR + 2 * PAGE, WC, True, b.b) == (-EBUSY, WC)
        assert pat_log(b)[-2:] == [
            "x86/PAT: labtest:0 conflicting memory types fd300000-fd302000 write-combining<->uncached-minus",
            "x86/PAT: memtype_reserve failed [mem 0xfd300000-0xfd301fff], track write-combining, req write-combining",
        ]

    run(body, finds=["conflicting-memory-types"])


def test_write_back_over_an_uncacheable_mtrr() -> None:
    """A request for write-back becomes one for UC-; no other request changes."""

    def body(b: Board) -> None:
        assert memtype_reserve(b, BAR, BAR + PAGE, WB, True, b.a) == (0, UCM)
        assert memtype_reserve(b, BAR, BAR + PAGE, UCM, False, b.a) == (0, None)
        assert memtype_reserve(b, BAR + PAGE, BAR + 2 * PAGE, WT, True, b.a) == (0, WT)
        assert reserve_pfn_range(b, BAR, PAGE, 0x27, False, b.b) == (0, 0x27 | PCD)
        assert reserve_pfn_range(b, BAR, PAGE, 0x27, True, b.b) == (-EINVAL, 0x27)
        assert memtype_reserve(b, RESERVED, RESERVED + PAGE, WB, True, b.a) == (0, WB)

    run(body, finds=["expected-mapping-type"])


def test_nothing_is_a_warning() -> None:
    def body(b: Board) -> None:
        assert memtype_reserve(b, BAR, BAR, WC, True, b.a) == (-EINVAL, None)
        assert memtype_reserve(b, BAR + PAGE, BAR, WC, True, b.a) == (-EINVAL, None)
        assert reserve_pfn_range(b, BAR, 0, PWT, False, b.a) == (-EINVAL, PWT)
        assert b.memtypes.entries() == []

    ran = run(body, finds=["memtype-reserve-empty-range"])
    assert ran.findings[0].kind == "WARN"
    assert ran.findings[0].message == ("memtype_reserve failed: [mem 0xfd300000-0xfd2fffff], req write-combining")


def test_physical_addresses_have_52_bits() -> None:
    """Decoy addresses lose their upper bits."""

    def body(b: Board) -> None:
        assert memtype_reserve(b, 1 << 63 | BAR, (1 << 63 | BAR) + PAGE, WC, True, b.a) == (0, WC)
        assert lookup_memtype(b, BAR) == WC
        assert memtype_free(b, 1 << 63 | BAR, (1 << 63 | BAR) + PAGE, b.a) == 0
        assert memtype_reserve(b, (1 << 52) - PAGE, 1 << 52, WC, True, b.a) == (0, WC)

    run(body)


def test_without_memory() -> None:
    """Only where the kernel allocates: not for RAM, not in the hole."""
    seen = set()

    def body(b: Board) -> None:
        error, got = memtype_reserve(b, BAR, BAR + PAGE, WC, True, b.a)
        seen.add(error)
        assert got == WC
        assert len(b.memtypes.entries()) == (error == 0)
        assert b.memtypes.claims_on(BAR >> 12) == ([b.a] if not error else [])

    assert run(body, failures=1).results.counts.complete == 2
    assert seen == {0, -ENOMEM}

    def others(b: Board) -> None:
        assert memtype_reserve(b, RAM, RAM + PAGE, WC, True, b.a) == (0, WC)
        assert memtype_reserve(b, 0xB8000, 0xB9000, WC, True, b.a) == (0, WB)
        assert memtype_reserve(b, BAR, BAR, WC, True, b.a)[0] == -EINVAL

    assert run(others, failures=1, finds=["memtype-reserve-empty-range"]).results.counts.complete == 1


# -- RAM --------------------------------------------------------------------------------------------------------------
def test_ram_is_exclusive() -> None:
    """A second reservation of RAM fails even with the same type, other than outside RAM."""

    def body(b: Board) -> None:
        for mode in (WC, UCM, WT):
            assert memtype_reserve(b, RAM, RAM + 2 * PAGE, mode, True, b.a) == (0, mode)
            assert lookup_memtype(b, RAM + PAGE) == mode
            for again in (WB, WC, UCM, WT):
                assert memtype_reserve(b, RAM + PAGE, RAM + 3 * PAGE, again, True, b.b) == (-EBUSY, mode)
                assert memtype_reserve(b, RAM + PAGE, RAM + 3 * PAGE, again, False, b.b) == (-EBUSY, None)
            assert lookup_memtype(b, RAM + 2 * PAGE) == WB
            assert memtype_free(b, RAM, RAM + 2 * PAGE, b.a) == 0
            assert lookup_memtype(b, RAM) == lookup_memtype(b, RAM + PAGE) == WB
        assert b.memtypes.entries() == []
        assert pat_log(b)[0] == "x86/PAT: reserve_ram_pages_type failed [mem 0x00401000-0x00402fff], track 0x1, req 0x0"

    run(body, finds=["reserve-ram-failed"])


def test_ram_that_is_reserved_write_back_is_not_reserved() -> None:
    def body(b: Board) -> None:
        assert memtype_reserve(b, RAM, RAM + PAGE, WB, True, b.a) == (0, WB)
        assert memtype_reserve(b, RAM, RAM + PAGE, WC, True, b.b) == (0, WC)

    run(body)


def test_types_that_ram_cannot_have() -> None:
    def body(b: Board) -> None:
        assert memtype_reserve(b, RAM, RAM + PAGE, WP, True, b.a) == (-EINVAL, UCM)
        assert memtype_reserve(b, RAM, RAM + PAGE, WP, False, b.a) == (-EINVAL, None)
        assert lookup_memtype(b, RAM) == WB
        assert memtype_reserve(b, RAM, RAM + PAGE, UC, True, b.a) == (0, UCM)
        assert lookup_memtype(b, RAM) == UCM

    assert run(body, finds=["ram-strong-uc"]).findings[0].kind == "WARN"


def test_mtrrs_play_no_part_in_ram() -> None:
    def body(b: Board) -> None:
        b.mtrr.add(RAM, RAM + PAGE, MtrrType.UNCACHABLE)
        assert memtype_reserve(b, RAM, RAM + PAGE, WB, True, b.a) == (0, WB)
        assert memtype_reserve(b, RAM, RAM + PAGE, WC, True, b.a) == (0, WC)

    run(body)


def test_freeing_ram_twice_is_nothing() -> None:
    """The flags go back to write-back, whosever they are."""

    def body(b: Board) -> None:
        memtype_reserve(b, RAM, RAM + 2 * PAGE, WC, True, b.a)
        assert memtype_free(b, RAM, RAM + PAGE, b.b) == 0
        assert memtype_free(b, RAM, RAM + PAGE, b.b) == 0
        assert (lookup_memtype(b, RAM), lookup_memtype(b, RAM + PAGE)) == (WB, WC)

    run(body)


def test_mappings_of_ram_take_the_first_page_s_type() -> None:
    def body(b: Board) -> None:
        memtype_reserve(b, RAM, RAM + PAGE, WC, True, b.a)
        assert reserve_pfn_range(b, RAM, 4 * PAGE, 0x27 | PCD, False, b.b) == (0, 0x27 | PWT)
        assert reserve_pfn_range(b, RAM + PAGE, PAGE, 0x27 | PCD, True, b.b) == (0, 0x27)
        assert reserve_pfn_range(b, RAM + PAGE, PAGE, 0x27, True, b.b) == (0, 0x27)
        free_pfn_range(b, RAM, 4 * PAGE, b.b)
        assert lookup_memtype(b, RAM) == WC  # it was not the mapping's to free
        assert pat_log(b) == [
            "x86/PAT: labtest:0 map pfn RAM range req uncached-minus for [mem 0x00400000-0x00403fff], "
            "got write-combining",
            "x86/PAT: labtest:0 map pfn RAM range req uncached-minus for [mem 0x00401000-0x00401fff], got write-back",
        ]

    run(body, finds=["ram-type-changed"])


END = 0x8000_0000  # where RAM ends


@pytest.mark.parametrize(
    ("start", "end", "is_ram"),
    [
        (RAM, RAM + PAGE, 1),
        (RAM + 1, RAM + 2, 1),
        (BAR, BAR + PAGE, 0),
        (RESERVED, RESERVED + PAGE, 0),
        (0, 0xA0000, 0),  # the first megabyte is no RAM
        (0, 0x100000, 0),
        (0xFF000, 0x101000, -1),
        (0, END, -1),
        (0x100000, 0x101000, 1),
        (END - PAGE, END, 1),
        (END, END + PAGE, 0),
        (END - PAGE, END + PAGE, 1),  # what comes after the last RAM is not looked at
        (0x0FFFF000, 0x10001000, 1),
        (0x10FFF000, 0x11001000, -1),
        (0x0FFFF000, 0x11001000, -1),
        (BAR, BAR, 0),
    ],
)
def test_is_it_ram(start: int, end: int, is_ram: int) -> None:
    assert run(lambda b: pat_pagerange_is_ram(b, start, end)).result == is_ram


def test_mixed_ranges() -> None:
    def body(b: Board) -> None:
        assert memtype_reserve(b, 0xFF000, 0x101000, WC, True, b.a) == (-EINVAL, WC)
        assert memtype_free(b, 0xFF000, 0x101000, b.a) == -EINVAL
        assert reserve_pfn_range(b, 0x10FFF000, 2 * PAGE, PWT, False, b.a) == (0, 0x10)  # by its first page's type
        free_pfn_range(b, 0x10FFF000, 2 * PAGE, b.a)

    run(body, finds=["ram-type-changed"])


def test_ram_with_something_behind_it() -> None:
    """It counts as RAM: frames that have struct pages get a type, and without them there is nothing to give it to."""

    def in_the_section(b: Board) -> None:
        assert memtype_reserve(b, 0x0FFFF000, 0x10001000, WC, True, b.a) == (0, WC)
        assert memtype_free(b, 0x0FFFF000, 0x10001000, b.a) == 0

    run(in_the_section)
    ran = run(lambda b: memtype_reserve(b, END - PAGE, END + PAGE, WC, True, b.a), finds=["no-struct-page"])
    assert ran.findings[0].kind == "BUG"


def test_the_direct_map_follows() -> None:
    """Only for what it maps: here, RAM of the first megabyte."""

    def body(b: Board) -> None:
        assert reserve_pfn_range(b, 0x9000, 2 * PAGE, PWT, False, b.a) == (0, PWT)
        assert [(e.start, e.type) for e in b.memtypes.peek("direct").intervals()] == [(0x9000, WC), (0xA000, WC)]
        assert memtype_kernel_map_sync(b, 0x9000, PAGE, WB) == 0
        assert memtype_kernel_map_sync(b, 0xA000, PAGE, UC) == 0
        assert [(e.start, e.type) for e in b.memtypes.peek("direct").intervals()] == [(0xA000, UCM)]
        assert memtype_kernel_map_sync(b, END - PAGE, 2 * PAGE, WC) == 0
        assert [e.start for e in b.memtypes.peek("direct").intervals()] == [0xA000, END - PAGE]
        assert memtype_kernel_map_sync(b, END - PAGE, PAGE, WB) == 0
        assert memtype_kernel_map_sync(b, BAR, PAGE, WC) == 0
        assert memtype_kernel_map_sync(b, RESERVED, PAGE, WC) == 0
        assert [e.start for e in b.memtypes.peek("direct").intervals()] == [0xA000]

    run(body)


def test_the_direct_map_cannot_follow() -> None:
    def body(b: Board) -> int:
        b.failures = 1
        error, _ = reserve_pfn_range(b, 0x9000, PAGE, PWT, False, b.a)
        assert len(b.memtypes.entries()) == (error == 0) == len(b.memtypes.claims_on(9))
        return error

    ran = run(body, finds=["ioremap-change-attr-failed"])
    assert ran.results.counts.complete == 3  # all well, no memory for the entry, the direct map stays as it is
    assert ran.message("ioremap-change-attr-failed") == (
        "x86/PAT: labtest:0 ioremap_change_attr failed write-combining for [mem 0x00009000-0x00009fff]"
    )


# -- ranges about which nothing is kept -------------------------------------------------------------------------------
def test_the_isa_hole() -> None:
    def body(b: Board) -> None:
        for mode in CacheMode:
            assert memtype_reserve(b, 0xA0000, 0xC0000, mode, True, b.a) == (0, WB)
            assert memtype_reserve(b, 0xA0000, 0xC0000, mode, False, b.a) == (0, None)
            error, prot = reserve_pfn_range(b, 0xB8000, PAGE, 0x27 | cachemode2protval(mode), False, b.a)
            assert (error, prot) == (0, 0x27)
        assert lookup_memtype(b, 0xB8000) == WB
        assert memtype_free(b, 0xA0000, 0xC0000, b.a) == memtype_free(b, 0xA0000, 0xC0000, b.a) == 0
        assert b.memtypes.entries() == [] == pat_log(b)

    run(body)


def test_beside_the_isa_hole() -> None:
    """A range that only overlaps it is kept like any other; so is the rest of the first megabyte."""

    def body(b: Board) -> None:
        assert memtype_reserve(b, 0x9F000, 0xA1000, WC, True, b.a) == (0, WC)
        assert (lookup_memtype(b, 0x9F000), lookup_memtype(b, 0xA0000)) == (WC, WB)
        assert memtype_reserve(b, 0x1000, 0x2000, WB, True, b.a) == (0, WB)
        assert lookup_memtype(b, 0x3000) == UCM
        assert len(b.memtypes.entries()) == 2

    run(body)


def test_a_strict_mapping_of_the_hole() -> None:
    """A copy of a mapping that asked for UC- and got WB asks for WB; one that still asks for UC- would be refused."""

    def body(b: Board) -> None:
        assert reserve_pfn_range(b, 0xB8000, PAGE, 0x27, True, b.a) == (0, 0x27)
        assert reserve_pfn_range(b, 0xB8000, PAGE, 0x27 | PCD, True, b.a) == (-EINVAL, 0x27 | PCD)

    run(body, finds=["expected-mapping-type"])


def test_without_pat() -> None:
    def body(b: Board) -> None:
        assert memtype_reserve(b, BAR, BAR + PAGE, WC, True, b.a) == (0, WC)
        assert memtype_reserve(b, RAM, RAM + PAGE, WP, True, b.a) == (0, WP)
        assert memtype_reserve(b, BAR, BAR + PAGE, WC, False, b.a) == (0, None)
        assert memtype_free(b, BAR, BAR + PAGE, b.a) == memtype_free(b, BAR, BAR + PAGE, b.a) == 0
        assert reserve_pfn_range(b, RAM, PAGE, 0x27 | PCD, False, b.a) == (0, 0x27 | PCD)
        assert reserve_pfn_range(b, BAR, PAGE, 0x27 | PCD, True, b.a) == (0, 0x27 | PCD)
        free_pfn_range(b, BAR, PAGE, b.a)
        assert b.memtypes.entries() == []
        assert pat_memtype_list(b) == []
        assert memtype_reserve(b, BAR, BAR, WC, True, b.a) == (-EINVAL, None)

    run(body, pat=OFF, finds=["memtype-reserve-empty-range"])


# -- what a kernel printed --------------------------------------------------------------------------------------------
def listing(b: Board) -> str:
    """As the recordings have it: the lines after the first, in braces."""
    first, *lines = pat_memtype_list(b)
    assert first == "PAT memtype list:"
    return " ".join("{" + line + "}" for line in lines)


def test_a_recorded_session() -> None:
    """6.12.117 and 6.1.192: mappings of four pages of a BAR, and what was left after each step."""

    def body(b: Board) -> None:
        def remap(start: int, prot: int, owner: MemtypeOwner) -> tuple[int, int]:
            return reserve_pfn_range(b, start, 4 * PAGE, prot, False, owner)

        def unmap(start: int, first: int, n: int, owner: MemtypeOwner) -> None:
            free_pfn_range(b, start + first * PAGE, n * PAGE, owner)

        default, wc = 0x227, 0x227 | PWT
        assert remap(0xFD300000, wc, b.a) == (0, 0x22F)
        assert listing(b) == "{PAT: [mem 0x00000000fd300000-0x00000000fd304000] write-combining}"
        assert remap(0xFD300000, default, b.b) == (0, 0x22F)
        unmap(0xFD300000, 0, 4, b.b)
        assert listing(b) == "{PAT: [mem 0x00000000fd300000-0x00000000fd304000] write-combining}"
        unmap(0xFD300000, 0, 4, b.a)  # one page of it was zapped
        assert listing(b) == ""
        assert remap(0xFD300000, default, b.b) == (0, 0x237)
        assert listing(b) == "{PAT: [mem 0x00000000fd300000-0x00000000fd304000] uncached-minus}"
        unmap(0xFD300000, 0, 4, b.b)

        remap(0xFD310000, wc, b.a)
        assert reserve_pfn_range(b, 0xFD310000, 4 * PAGE, wc, True, b.c) == (0, 0x22F)
        unmap(0xFD310000, 0, 4, b.c)
        unmap(0xFD310000, 0, 1, b.a)
        unmap(0xFD310000, 1, 3, b.a)
        stale = "{PAT: [mem 0x00000000fd310000-0x00000000fd311000] write-combining}"
        assert listing(b) == stale

        remap(0xFD320000, wc, b.a)
        unmap(0xFD320000, 3, 1, b.a)
        assert listing(b) == stale + " {PAT: [mem 0x00000000fd320000-0x00000000fd323000] write-combining}"
        unmap(0xFD320000, 0, 3, b.a)
        assert listing(b) == stale

        remap(0xFD330000, wc, b.a)
        unmap(0xFD330000, 1, 1, b.a)
        assert listing(b) == stale + " {PAT: [mem 0x00000000fd330000-0x00000000fd334000] write-combining}"
        unmap(0xFD330000, 0, 1, b.a)
        unmap(0xFD330000, 2, 2, b.a)
        stale += " {PAT: [mem 0x00000000fd330000-0x00000000fd332000] write-combining}"
        assert listing(b) == stale

        assert remap(RESERVED, wc, b.a) == (0, 0x22F)
        assert remap(RESERVED, default, b.b) == (0, 0x22F)
        twice = "{PAT: [mem 0x0000000010800000-0x0000000010804000] write-combining}"
        assert listing(b) == f"{twice} {twice} {stale}"
        unmap(RESERVED, 0, 4, b.a)
        unmap(RESERVED, 0, 4, b.b)
        assert remap(RESERVED, default, b.b) == (0, 0x227)
        assert remap(RESERVED, wc, b.a) == (-EINVAL, 0x22F)
        assert listing(b) == "{PAT: [mem 0x0000000010800000-0x0000000010804000] write-back} " + stale
        assert [line.replace("labtest:0", "labtest:148") for line in pat_log(b)] == [
            "x86/PAT: labtest:148 freeing invalid memtype [mem 0xfd310000-0xfd310fff]",
            "x86/PAT: labtest:148 freeing invalid memtype [mem 0xfd331000-0xfd331fff]",
            "x86/PAT: labtest:148 freeing invalid memtype [mem 0xfd330000-0xfd330fff]",
            "x86/PAT: labtest:148 map pfn expected mapping type write-combining for [mem 0x10800000-0x10803fff], "
            "got write-back",
        ]

    ran = run(body, finds=["expected-mapping-type", "freeing-invalid-memtype"])
    assert {f.kind for f in ran.findings} == {"printk"}


def test_printed_things_can_say_what_they_are() -> None:
    def body(b: Board) -> None:
        mark = not_a_log("v6.12")
        assert pat_memtype_list(b, mark) == [mark, "PAT memtype list:"]
        assert pat_log(b, mark) == []
        memtype_free(b, BAR, BAR + PAGE, None)
        assert pat_log(b, mark)[0] == mark
        assert len(pat_log(b, mark)) == 2
        assert pat_log(b) == pat_log(b, mark)[1:]

    run(body, finds=["freeing-invalid-memtype", "memtype-double-free"])
