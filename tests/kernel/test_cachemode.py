"""Cache modes in entries under each way to program the PAT, the memory map, and the MTRRs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86 import pat
from mmlitmus.kernel.arch.x86.e820 import E820
from mmlitmus.kernel.arch.x86.mtrr import Mtrr, MtrrType, merge, mtrr_type_lookup
from mmlitmus.kernel.arch.x86.pat import (
    ERRATA,
    FULL,
    OFF,
    CacheMode,
    PatTable,
    cachemode2protval,
    cattr_name,
    effective_type,
    is_new_memtype_allowed,
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
from mmlitmus.kernel.policy import run_on

from .board import BAR, BY_NAME, PAGE, rows, run

WB, WC, UCM, UC, WT, WP = CacheMode
PWT, PCD, PAT4K, PATLARGE, PSE = 1 << 3, 1 << 4, 1 << 7, 1 << 12, 1 << 7


# -- encodings --------------------------------------------------------------------------------------------------------
SLOTS = {
    # PAT PCD PWT:  000  001  010  011  100  101  110  111
    "full": "WB WC UC- UC WB WP UC- WT",
    "errata": "WB WC UC- UC WB WC UC- UC",
    "off": "WB WT UC- UC WB WT UC- UC",
}
PROTVAL = {
    "full": {WB: 0, WC: PWT, UCM: PCD, UC: PCD | PWT, WT: PAT4K | PCD | PWT, WP: PAT4K | PWT},
    "errata": {WB: 0, WC: PWT, UCM: PCD, UC: PCD | PWT, WT: PCD, WP: PCD},
    "off": {WB: 0, WC: PCD, UCM: PCD, UC: PCD | PWT, WT: PWT, WP: PCD},
}


@pytest.mark.parametrize("table", [FULL, ERRATA, OFF], ids=lambda t: t.name)
def test_slots(table: PatTable) -> None:
    """What each combination of the three bits is to the CPU, in a 4K entry and in a large one."""
    for slot, name in enumerate(SLOTS[table.name].split()):
        low = (PWT if slot & 1 else 0) | (PCD if slot & 2 else 0)
        noise = 0x8000_0000_FD30_0067
        assert pte_cachemode(noise & ~PAT4K | low | (PAT4K if slot & 4 else 0), table) == BY_NAME[name]
        assert pgprot2cachemode(low | (PAT4K if slot & 4 else 0), table) == BY_NAME[name]
        assert pmd_cachemode(noise | PSE | low | (PATLARGE if slot & 4 else 0), table) == BY_NAME[name]


@pytest.mark.parametrize("table", [FULL, ERRATA, OFF], ids=lambda t: t.name)
def test_protection_bits(table: PatTable) -> None:
    for mode, bits in PROTVAL[table.name].items():
        assert cachemode2protval(mode, table) == bits


def test_the_full_table_is_the_default() -> None:
    for mode in CacheMode:
        assert cachemode2protval(mode) == PROTVAL["full"][mode]
        assert pgprot2cachemode(cachemode2protval(mode)) == mode


def test_configuration_as_a_kernel_prints_it() -> None:
    """Recorded on 5.10 to 7.3."""
    assert pat_configuration(FULL).rstrip() == "x86/PAT: Configuration [0-7]: WB  WC  UC- UC  WB  WP  UC- WT"


def test_names() -> None:
    assert [cattr_name(m) for m in CacheMode] == [
        "write-back",
        "write-combining",
        "uncached-minus",
        "uncached",
        "write-through",
        "write-protected",
    ]
    assert pat._PAGE_CACHE_MODE_UC_MINUS is UCM


@given(st.integers(0, (1 << 64) - 1))
def test_the_pat_bit_moves_between_entry_sizes(prot: int) -> None:
    large = pgprot_4k_2_large(prot)
    assert pmd_cachemode(large) == pgprot2cachemode(prot)
    assert not large & PSE  # whoever makes a leaf of it adds that
    assert pgprot_large_2_4k(large) == prot & ~PATLARGE
    small = pgprot_large_2_4k(prot)
    assert pgprot2cachemode(small) == pmd_cachemode(prot)
    assert pgprot_4k_2_large(small) == prot & ~PSE


@pytest.mark.parametrize(
    ("mode", "unshifted"), [(WB, WB), (WC, WC), (UCM, UCM), (UC, UC), (WT, UC), (WP, WC)], ids=lambda m: m.name
)
def test_a_4k_protection_in_a_large_leaf(mode: CacheMode, unshifted: CacheMode) -> None:
    """Bit 7 is PSE there. WT becomes UC, which is slow; WP becomes WC, which is wrong."""
    prot = cachemode2protval(mode)
    assert pmd_cachemode(prot | PSE) == unshifted
    assert pmd_cachemode(pgprot_4k_2_large(prot) | PSE) == mode


@pytest.mark.parametrize(("kernel", "over"), [("v6.12", UC), ("v6.16", WC)])
def test_pgprot_functions_or_before_6_16(kernel: str, over: CacheMode) -> None:
    run_on(eras.kernel(kernel))
    assert pgprot2cachemode(pgprot_noncached(0x27)) == UCM
    assert pgprot2cachemode(pgprot_writecombine(0x27)) == WC
    assert pgprot2cachemode(pgprot_writethrough(0x27)) == WT
    assert pgprot2cachemode(pgprot_noncached(pgprot_writecombine(0))) == UC
    assert pgprot2cachemode(pgprot_writecombine(pgprot_noncached(0))) == over
    assert pgprot2cachemode(pgprot_writethrough(pgprot_noncached(0))) == WT
    assert pgprot_writecombine(0, OFF) == PCD
    assert pgprot_writethrough(0, ERRATA) == PCD


#: the SDM's table by hand: rows the MTRR's type, columns the PAT's
EFFECTIVE = """
      UC  UC- WC  WT  WB  WP
UC    UC  UC  WC  UC  UC  UC
WC    UC  WC  WC  UC  WC  UC
WT    UC  UC  WC  WT  WT  WP
WB    UC  UC  WC  WT  WB  WP
WP    UC  WC  WC  WT  WP  WP
"""
MTRR = {
    "UC": MtrrType.UNCACHABLE,
    "WC": MtrrType.WRCOMB,
    "WT": MtrrType.WRTHROUGH,
    "WB": MtrrType.WRBACK,
    "WP": MtrrType.WRPROT,
}


def test_effective_type() -> None:
    for mtrr, mode, effective in rows(EFFECTIVE):
        assert effective_type(BY_NAME[mode], MTRR[mtrr]) == BY_NAME[effective], (mtrr, mode)


ALLOWED = """
      WB  WC  UC- UC  WT  WP
WB    yes yes yes yes yes yes
WC    no  yes yes yes yes yes
UC-   no  yes yes yes yes yes
UC    yes yes yes yes yes yes
WT    no  no  yes yes yes yes
WP    yes yes yes yes yes yes
"""


def test_is_new_memtype_allowed() -> None:
    """Rows: wanted; columns: got. In the ISA hole, everything."""
    for want, got, allowed in rows(ALLOWED):
        assert is_new_memtype_allowed(BAR, PAGE, BY_NAME[want], BY_NAME[got]) == (allowed == "yes"), (want, got)
        assert is_new_memtype_allowed(0xA0000, PAGE, BY_NAME[want], BY_NAME[got])


# -- the memory map and the MTRRs -------------------------------------------------------------------------------------
def test_memory_map() -> None:
    e820 = E820()
    assert e820.ram == ((0, 0xA0), (0x100, 0x80000))
    e820.reserve(0x10000, 0x1000)  # memmap=16M$0x10000000
    e820.reserve(0x20000, 0x8000)  # memmap=128M$0x20000000
    e820.add_device("vga", 0xFD000, 0x1000)
    assert e820.ram == ((0, 0xA0), (0x100, 0x10000), (0x11000, 0x20000), (0x28000, 0x80000))
    assert [e820.page_is_ram(pfn) for pfn in (0x9F, 0xA0, 0x100, 0x10000, 0x11000, 0x80000)] == [
        True, False, True, False, True, False,
    ]  # fmt: skip
    assert [e820.pfn_valid(pfn) for pfn in (0x10000, 0xA0, 0x20000, 0xFD000, 0x28000, 0x7FFFF)] == [
        True, True, False, False, True, True,
    ]  # fmt: skip
    assert list(e820.system_ram(0x90, 0x110)) == [(0x90, 0xA0), (0x100, 0x110)]
    assert [e820.page_reserved(pfn) for pfn in (0, 0x100, 0x10000)] == [True, False, True]


def test_devices_in_the_way() -> None:
    e820 = E820()
    e820.add_device("one", 0xFE000, 4)
    bar = 0xFE000 << 12
    assert not e820.spans_resources(bar, 4 * PAGE)
    assert not e820.spans_resources(bar + 12, 4)
    assert not e820.spans_resources(bar + 4 * PAGE, PAGE)
    assert e820.spans_resources(bar, 5 * PAGE)
    assert e820.spans_resources(bar - PAGE, 2 * PAGE)


@pytest.mark.parametrize(
    ("start", "end", "type", "uniform"),
    [
        (0x100000, 0x200000, MtrrType.WRBACK, True),
        (0xC0000000, 0x100000000, MtrrType.UNCACHABLE, True),
        (0xBFFFF000, 0xC0001000, MtrrType.UNCACHABLE, False),
        (0xFFFFF000, 0x100001000, MtrrType.UNCACHABLE, False),
        (0xA0000, 0xC0000, MtrrType.UNCACHABLE, True),
        (0, PAGE, MtrrType.WRBACK, True),
        (0x100000000, 0x200000000, MtrrType.WRBACK, True),
    ],
)
def test_mtrr_lookup(start: int, end: int, type: MtrrType, uniform: bool) -> None:
    assert run(lambda b: mtrr_type_lookup(b, start, end)).result == (type, uniform)


def test_mtrrs_merge() -> None:
    mtrr = Mtrr()
    mtrr.add(0xD0000000, 0xD0001000, MtrrType.WRCOMB)
    assert mtrr.at(0xD0000000) == MtrrType.UNCACHABLE
    mtrr.add(0x1000000, 0x1001000, MtrrType.WRTHROUGH)
    assert mtrr.lookup(0x1000000, 0x1002000) == (MtrrType.WRTHROUGH, False)
    assert merge(MtrrType.WRCOMB, MtrrType.WRBACK) == MtrrType.UNCACHABLE
    mtrr.add_device(0x2000, 1)
    assert mtrr.at(0x2000000) == MtrrType.UNCACHABLE
    before = mtrr.ranges
    mtrr.add_device(BAR >> 12, 4)
    assert mtrr.ranges == before
