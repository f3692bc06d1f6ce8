"""The kernel's own mappings of device memory, and reservations without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore.audit import audit
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import look
from mmlitmus.kernel.arch.x86.ioremap import (
    arch_io_free_memtype_wc,
    arch_io_reserve_memtype_wc,
    ioremap,
    ioremap_cache,
    ioremap_uc,
    ioremap_wc,
    ioremap_wt,
    iounmap,
    memtype_free_io,
    memtype_reserve_io,
    pci_iomap,
    pci_iomap_wc,
)
from mmlitmus.kernel.arch.x86.mtrr import MtrrType
from mmlitmus.kernel.arch.x86.pat import (
    ERRATA,
    CacheMode,
    lookup_memtype,
    memtype_free,
    memtype_reserve,
    pat_log,
    reserve_pfn_range,
)
from mmlitmus.kernel.errno import EBUSY, EINVAL
from mmlitmus.kernel.pci import PciDevice

from .board import BAR, BY_NAME, PAGE, RAM, RESERVED, Board, found, rows, run, search
from .world import World
from .world import run as run_world

WB, WC, UCM, UC, WT, WP = CacheMode
MAPS = {"cache": ioremap_cache, "wc": ioremap_wc, "default": ioremap, "uc": ioremap_uc, "wt": ioremap_wt}

#: rows: what is reserved; columns: the variant; cells: the type of the mapping, or none
MATRIX = """
      cache wc   default uc  wt
none  WB    WC   UC-     UC  WT
WB    WB    none none    WB  none
WC    WC    WC   WC      WC  none
UC-   UC-   UC-  UC-     UC- UC-
UC    UC    UC   UC      UC  UC
WT    WT    WT   WT      WT  WT
WP    WP    WP   WP      WP  WP
"""


@pytest.mark.parametrize(("there", "variant", "expected"), list(rows(MATRIX)), ids=lambda x: str(x))
def test_types(there: str, variant: str, expected: str) -> None:
    """Under a write-back MTRR. What fails leaves nothing behind; what succeeds is undone by iounmap."""

    def body(b: Board) -> None:
        if there != "none":
            memtype_reserve(b, RESERVED, RESERVED + PAGE, BY_NAME[there], True, b.a)
        before = [e[:3] for e in b.memtypes.entries()]
        mapping = MAPS[variant](b, RESERVED, PAGE)
        if expected == "none":
            assert mapping is None
        else:
            assert mapping is not None
            assert mapping.type == lookup_memtype(b, RESERVED) == BY_NAME[expected]
            # no kernel mapping is write-protected by its cache bits: that one gets UC
            assert mapping.translation_type(b.memtypes.pat) == (UC if expected == "WP" else BY_NAME[expected])
            assert len(b.memtypes.entries()) == len(before) + 1
            assert b.memtypes.peek("ioremaps") == (mapping,)
            iounmap(b, mapping)
        assert [e[:3] for e in b.memtypes.entries()] == before
        assert b.memtypes.peek("ioremaps") == ()
        assert b.memtypes.unclaimed() == []

    run(body, finds=["ioremap-wrong-type"] if expected == "none" else [])


def test_message_of_a_type_that_is_not_allowed() -> None:
    def body(b: Board) -> None:
        memtype_reserve(b, RESERVED, RESERVED + PAGE, WB, True, b.a)
        assert ioremap(b, RESERVED, PAGE) is None

    ran = run(body, finds=["ioremap-wrong-type"])
    assert ran.message("ioremap-wrong-type") == ("ioremap error for 0x10800000-0x10801000, requested 0x2, got 0x0")


def test_a_write_back_mapping_of_a_bar_is_uncached() -> None:
    def body(b: Board) -> None:
        mapping = ioremap_cache(b, BAR, PAGE)
        assert mapping is not None
        assert mapping.type == UCM
        b.mtrr.add(RESERVED, RESERVED + PAGE, MtrrType.WRCOMB)
        other = ioremap_cache(b, RESERVED, PAGE)
        assert other is not None
        assert other.type == UCM

    run(body)


@pytest.mark.parametrize(
    ("address", "size", "first", "end", "offset"),
    [(0, PAGE, 0, 1, 0), (0x10, 4, 0, 1, 0x10), (0xFFC, 8, 0, 2, 0xFFC), (PAGE, PAGE + 1, 1, 3, 0), (1, PAGE, 0, 2, 1)],
)
def test_whole_pages_are_reserved(address: int, size: int, first: int, end: int, offset: int) -> None:
    def body(b: Board) -> None:
        mapping = ioremap(b, BAR + address, size)
        assert mapping is not None
        assert (mapping.start, mapping.end, mapping.offset) == (BAR + first * PAGE, BAR + end * PAGE, offset)
        assert [e[:2] for e in b.memtypes.entries()] == [(mapping.start, mapping.end)]
        iounmap(b, mapping)
        assert b.memtypes.entries() == []

    run(body)


@pytest.mark.parametrize(
    ("address", "size", "finds"),
    [
        (BAR, 0, []),
        (BAR, -1, []),
        (-PAGE, 2 * PAGE, []),
        ((1 << 64) - PAGE, 2 * PAGE, []),
        (1 << 52, PAGE, ["ioremap-invalid-address"]),
        (RAM, PAGE, ["ioremap-on-ram"]),
        (0x0FFFF000, 2 * PAGE, ["ioremap-on-ram"]),
        (0x10FFF000, 2 * PAGE, ["ioremap-on-ram"]),
    ],
)
def test_refused(address: int, size: int, finds: list[str]) -> None:
    def body(b: Board) -> None:
        assert ioremap(b, address, size) is None
        assert b.memtypes.entries() == []
        assert b.memtypes.peek("ioremaps") == ()

    ran = run(body, finds=finds)
    if finds:
        assert "WARN" in {f.kind for f in ran.results.found}


def test_ram_is_refused_by_whole_pages() -> None:
    """A mapping that only grazes RAM passes this test, and then the database refuses the mixed range."""

    def body(b: Board) -> None:
        assert ioremap(b, RESERVED & ~0xFFFFFF, PAGE) is not None
        assert ioremap(b, 0x11000000 - PAGE, PAGE + 8) is None
        assert pat_log(b) == [f"ioremap memtype_reserve failed -{EINVAL}"]

    run(body, finds=["ioremap-reserve-failed"])


def test_several_types_in_the_way() -> None:
    def body(b: Board) -> None:
        memtype_reserve(b, BAR, BAR + PAGE, WC, True, b.a)
        memtype_reserve(b, BAR + PAGE, BAR + 2 * PAGE, UCM, True, b.a)
        assert ioremap(b, BAR, 2 * PAGE) is None
        assert pat_log(b)[-1] == f"ioremap memtype_reserve failed -{EBUSY}"

    run(body, finds=["conflicting-memory-types", "ioremap-reserve-failed"])


def test_the_first_megabyte_may_be_mapped() -> None:
    """All of it is PageReserved. The direct map of RAM there follows; in the ISA hole nothing is kept."""

    def body(b: Board) -> None:
        low = ioremap(b, 0x1000, PAGE)
        assert low is not None
        assert low.type == UCM
        assert [e.type for e in b.memtypes.peek("direct").intervals()] == [UCM]
        vga = ioremap(b, 0xB8000, 2 * PAGE)
        assert vga is not None
        assert vga.type == WB
        assert len(b.memtypes.entries()) == 1
        iounmap(b, vga)
        iounmap(b, vga)

    assert run(body, finds=["iounmap-bad-address"]).message("iounmap-bad-address").endswith("ioremap#labtest.2")


def test_the_types_that_a_cpu_with_errata_has() -> None:
    def body(b: Board) -> None:
        mapping = ioremap_wt(b, BAR, PAGE)
        assert mapping is not None
        assert mapping.type == WT  # what is kept
        assert mapping.translation_type(b.memtypes.pat) == UCM  # what is had

    run(body, pat=ERRATA)


def test_the_same_range_twice() -> None:
    """Two mappings are two entries, and whichever goes first, the other is covered."""

    def body(b: Board) -> None:
        one, two = ioremap(b, BAR, PAGE), ioremap_wc(b, BAR, PAGE)
        assert one is not None
        assert two is not None
        assert two.type == UCM
        assert len(b.memtypes.entries()) == 2
        iounmap(b, one)
        assert b.memtypes.covers(BAR >> 12) == 1
        iounmap(b, two)
        assert b.memtypes.entries() == []

    run(body)


def test_one_owner_of_two_equal_mappings() -> None:
    def body(b: Board) -> None:
        one, two = ioremap(b, BAR, PAGE, b.a), ioremap(b, BAR, PAGE, b.a)
        iounmap(b, one)
        assert [m is two for m in b.memtypes.peek("ioremaps")] == [True]
        iounmap(b, two)

    run(body)


def test_an_owner_of_ones_own() -> None:
    def body(b: Board) -> None:
        mapping = ioremap(b, BAR, PAGE, b.a)
        other = ioremap(b, BAR + PAGE, PAGE)
        assert mapping is not None
        assert other is not None
        assert b.memtypes.claims_on(BAR >> 12) == [b.a]
        assert other.owner.name == other.name == "ioremap#labtest.1"

    run(body)


def test_unmapping_twice_and_nothing() -> None:
    def body(b: Board) -> None:
        mapping, other = ioremap(b, BAR, PAGE), ioremap(b, BAR, PAGE)
        iounmap(b, None)
        iounmap(b, mapping)
        iounmap(b, mapping)
        assert b.memtypes.peek("ioremaps") == (other,)
        assert b.memtypes.covers(BAR >> 12) == 1

    run(body, finds=["iounmap-bad-address"])


def test_without_memory() -> None:
    """Any of three allocations may fail: the entry's, the address range's, the page tables'."""
    seen = set()

    def body(b: Board) -> None:
        mapping = ioremap(b, BAR, PAGE)
        seen.add(mapping is not None)
        assert len(b.memtypes.entries()) == (mapping is not None) == len(b.memtypes.peek("ioremaps"))
        assert b.memtypes.unclaimed() == []

    ran = run(body, failures=1, finds=["ioremap-reserve-failed"])
    assert ran.results.counts.complete == 4
    assert seen == {True, False}


def test_two_bars_at_once() -> None:
    def body(b: Board) -> None:
        assert ioremap(b, BAR + 0xFF * PAGE, 2 * PAGE) is not None

    run(body, finds=["ioremap-multiple-bars"])


# -- BARs -------------------------------------------------------------------------------------------------------------
def test_pci_iomap() -> None:
    def body(b: Board) -> None:
        device = PciDevice("edu", 0xFEA00, 4)
        whole = pci_iomap(b, device)
        assert whole is not None
        assert (whole.start, whole.end, whole.type) == (0xFEA00000, 0xFEA04000, UCM)
        part = pci_iomap_wc(b, device, 0, 100)
        assert part is not None
        assert (part.start, part.end, part.type) == (0xFEA00000, 0xFEA01000, UCM)
        assert pci_iomap(b, device, 3) is None
        iounmap(b, whole)
        iounmap(b, part)
        wc = pci_iomap_wc(b, device)
        assert wc is not None
        assert wc.type == WC
        assert len(b.memtypes.entries()) == 1

    run(body)


def test_a_mapped_bar_decides_for_user_mappings() -> None:
    """The mapping of a whole BAR is UC-: a write-combining request for a part of it is given that."""

    def body(b: Board) -> None:
        kept = ioremap(b, BAR, 4 * PAGE)
        assert reserve_pfn_range(b, BAR + PAGE, PAGE, 0x227 | 8, False, b.a) == (0, 0x237)
        memtype_free(b, BAR + PAGE, BAR + 2 * PAGE, b.a)
        iounmap(b, kept)
        assert reserve_pfn_range(b, BAR + PAGE, PAGE, 0x227 | 8, False, b.a) == (0, 0x22F)

    run(body)


# -- reservations without a mapping -----------------------------------------------------------------------------------
def test_reserve_io() -> None:
    def body(b: Board) -> None:
        assert memtype_reserve_io(b, BAR, BAR + PAGE, WC, b.a) == (0, WC)
        assert memtype_reserve_io(b, BAR, BAR + PAGE, UCM, b.b) == (0, WC)
        memtype_free_io(b, BAR, BAR + PAGE, b.b)
        memtype_free_io(b, BAR, BAR + PAGE, b.a)
        assert memtype_reserve(b, RESERVED, RESERVED + PAGE, WB, True, b.a) == (0, WB)
        assert memtype_reserve_io(b, RESERVED, RESERVED + PAGE, WC, b.b) == (-EBUSY, WC)
        assert [e[:3] for e in b.memtypes.entries()] == [(RESERVED, RESERVED + PAGE, WB)]
        assert memtype_reserve_io(b, BAR, BAR, WC, b.b) == (-EINVAL, WC)

    run(body, finds=["memtype-reserve-empty-range"])


def test_reserve_io_beyond_a_bar_is_a_warning() -> None:
    def body(b: Board) -> None:
        assert memtype_reserve_io(b, BAR - PAGE, BAR + PAGE, WC, b.a) == (0, WC)

    assert run(body, finds=["io-spans-resources"]).findings[0].kind == "WARN"


def test_arch_io() -> None:
    """What an inserted frame is looked up as: WC from then on. An uncached owner is as good, a write-back one not."""

    def body(b: Board) -> None:
        assert lookup_memtype(b, BAR) == UCM
        assert arch_io_reserve_memtype_wc(b, BAR, 4 * PAGE, b.a) == 0
        assert lookup_memtype(b, BAR + 3 * PAGE) == WC
        arch_io_free_memtype_wc(b, BAR, 4 * PAGE, b.a)
        memtype_reserve(b, BAR, BAR + PAGE, UCM, True, b.b)
        assert arch_io_reserve_memtype_wc(b, BAR, 4 * PAGE, b.a) == 0
        assert lookup_memtype(b, BAR + 3 * PAGE) == UCM
        memtype_reserve(b, RESERVED, RESERVED + PAGE, WB, True, b.b)
        assert arch_io_reserve_memtype_wc(b, RESERVED, PAGE, b.a) == -EBUSY

    run(body)


# -- several tasks ----------------------------------------------------------------------------------------------------
def test_the_type_is_free_before_the_mapping_is_gone() -> None:
    """iounmap frees first: another owner can get another type while the old translation is still there."""
    seen: list[tuple[str, str]] = []

    def unmap(b: Board) -> None:
        iounmap(b, ioremap(b, BAR, PAGE))

    def reserve(b: Board) -> Any:
        error, got = memtype_reserve(b, BAR, BAR + PAGE, WC, True, b.b)
        assert got is not None
        look((b.memtypes.oid("ioremaps"),))
        seen.extend((m.type.name, got.name) for m in b.memtypes.peek("ioremaps"))
        return got

    results = search(unmap, reserve)
    assert {r[1] for r in results.outcomes} == {WC, UCM}
    assert ("UC_MINUS", "WC") in seen
    assert not found(results)


def test_one_mapping_unmapped_by_two() -> None:
    """Who comes second finds nothing, or, in the window, frees a type that is free already and trips over the rest."""
    handles: list[Any] = []

    def make(b: Board) -> None:
        handles[:] = [ioremap(b, BAR, PAGE)]

    def setup() -> Setup:
        board = Board()
        make(board)
        return Setup({n: (lambda: iounmap(board, handles[0])) for n in ("one", "two")})

    results = Dpor(setup).run()
    assert results.exhausted
    assert found(results) == {
        "iounmap-bad-address",
        "iounmap-twice",
        "memtype-double-free",
        "freeing-invalid-memtype",
    }


def test_mappings_are_declared() -> None:
    def body(b: Board) -> None:
        iounmap(b, ioremap(b, BAR, PAGE))
        iounmap(b, ioremap_wc(b, 0x1000, PAGE))
        iounmap(b, ioremap(b, 0xB8000, PAGE))
        arch_io_reserve_memtype_wc(b, BAR, PAGE)
        arch_io_free_memtype_wc(b, BAR, PAGE)

    def build() -> Setup:
        board = Board()
        tasks: dict[str, Callable[[], Any]] = {n: (lambda: body(board)) for n in ("one", "two")}
        return Setup(tasks, context=board)

    assert audit(build, max_executions=40) == []


def test_on_a_whole_machine() -> None:
    """The memory map, MTRRs and database that a machine has: a BAR is uncached, and its registered owner is named."""

    def body(w: World) -> None:
        device = PciDevice("other", w.m.free_pfn(), 4)
        w.m.add_device(device)
        assert lookup_memtype(w.m, device.bars[0].pfn << 12) == UCM
        mapping = ioremap_cache(w.m, device.bars[0].pfn << 12, 4 * PAGE)
        assert mapping is not None
        assert mapping.type == UCM
        assert [o.name for o in w.m.memtypes.claims_on(device.bars[0].pfn)] == ["ioremap#task.1"]
        iounmap(w.m, mapping)
        assert w.m.memtypes.covers(device.bars[0].pfn) == 0

    run_world(body)
