"""Cache modes, and the bits that stand for them in protections and entries, under each way to program the PAT.

Source: arch/x86/mm/init.c, arch/x86/mm/pat/memtype.c, arch/x86/mm/pat/memtype.h, arch/x86/include/asm/pgtable.h,
arch/x86/include/asm/pgtable_types.h, functions of the same name; 5.10.262, 6.1.192, 6.12.117 and 7.3.4, which agree but
for ``pgprot_combine``. What the CPU makes of it: the SDM, volume 3. Of the model's own: pat_configuration,
pte_cachemode, pmd_cachemode, effective_type.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from mmlitmus.kernel.policy import Seam

from .mtrr import MtrrType
from .pgtable import CACHE_MASK, PAT, PAT_LARGE, PCD, PWT

pgprot_combine = Seam("pgprot_combine", "what pgprot_writecombine makes of a protection that has a cache type already")


class CacheMode(IntEnum):
    """enum page_cache_mode. UC- is uncached unless an MTRR says write-combining; UC is uncached whatever MTRRs say."""

    WB = 0
    WC = 1
    UC_MINUS = 2
    UC = 3
    WT = 4
    WP = 5


_PAGE_CACHE_MODE_WB = CacheMode.WB
_PAGE_CACHE_MODE_WC = CacheMode.WC
_PAGE_CACHE_MODE_UC_MINUS = CacheMode.UC_MINUS
_PAGE_CACHE_MODE_UC = CacheMode.UC
_PAGE_CACHE_MODE_WT = CacheMode.WT
_PAGE_CACHE_MODE_WP = CacheMode.WP

_CATTR = ("write-back", "write-combining", "uncached-minus", "uncached", "write-through", "write-protected")


def cattr_name(mode: int) -> str:
    """The mode as the kernel prints it: ``write-combining``."""
    return _CATTR[mode]


class PatTable(NamedTuple):
    """What a kernel makes of the PAT: the types in the MSR's slots, and the protection bits of each cache mode."""

    name: str
    slots: tuple[CacheMode, ...]  # by PAT << 2 | PCD << 1 | PWT
    protval: tuple[int, ...]  # by cache mode


def _table(name: str, *slots: CacheMode) -> PatTable:
    """Of several slots with a type the lowest counts; a type without one is UC- (init_cache_modes)."""
    protval = [0, PCD, PCD, PCD | PWT, PCD, PCD]
    for slot in range(7, -1, -1):
        protval[slots[slot]] = _slot_bits(slot)
    return PatTable(name, slots, tuple(protval))


def _slot_bits(slot: int) -> int:
    return (slot & 3) << 3 | (slot & 4) << 5


_WB, _WC, _UCM, _UC, _WT, _WP = CacheMode
#: WT sits in slot 7, so that a CPU that drops the PAT bit gets UC
FULL = _table("full", _WB, _WC, _UCM, _UC, _WB, _WP, _UCM, _WT)
#: Intel CPUs of family 6 up to model 0xd and family 15 up to model 6, whose upper four slots cannot be relied on
ERRATA = _table("errata", _WB, _WC, _UCM, _UC, _WB, _WC, _UCM, _UC)
#: nopat: the layout at power-on, which has PWT and PCD mean what they meant before there was a PAT
OFF = _table("off", _WB, _WT, _UCM, _UC, _WB, _WT, _UCM, _UC)
PAT_TABLES = {table.name: table for table in (FULL, ERRATA, OFF)}


def pat_configuration(table: PatTable) -> str:
    """The line that the kernel prints about the table when it boots."""
    names = ("WB", "WC", "UC-", "UC", "WT", "WP")
    return "x86/PAT: Configuration [0-7]: " + "".join(f"{names[mode]:4}" for mode in table.slots)


def cachemode2protval(mode: int, table: PatTable = FULL) -> int:
    """The protection bits (of a 4K entry) that ask for a cache mode."""
    return table.protval[mode]


def pgprot2cachemode(prot: int, table: PatTable = FULL) -> CacheMode:
    """The cache mode that protection bits (of a 4K entry) ask for."""
    return table.slots[prot >> 3 & 3 | prot >> 5 & 4]


def pte_cachemode(entry: int, table: PatTable = FULL) -> CacheMode:
    """The type that the CPU gives a 4K page: the PAT bit is bit 7."""
    return table.slots[entry >> 3 & 3 | entry >> 5 & 4]


def pmd_cachemode(entry: int, table: PatTable = FULL) -> CacheMode:
    """The type that the CPU gives a 2M or 1G page: the PAT bit is bit 12, and bit 7 only says that this is a leaf."""
    return table.slots[entry >> 3 & 3 | entry >> 10 & 4]


def pgprot_4k_2_large(prot: int) -> int:
    """Protection bits of a 4K entry as a large leaf needs them: the PAT bit moves from 7 to 12."""
    return prot & ~(PAT | PAT_LARGE) | (prot & PAT) << 5


def pgprot_large_2_4k(prot: int) -> int:
    """Protection bits of a large leaf as a 4K entry needs them: the PAT bit moves from 12 to 7."""
    return prot & ~(PAT | PAT_LARGE) | (prot & PAT_LARGE) >> 5


def pgprot_noncached(prot: int) -> int:
    """OR in UC- (it does not replace: noncached over write-combining is UC)."""
    return prot | PCD


def pgprot_writecombine(prot: int, table: PatTable = FULL) -> int:
    """Ask for WC."""
    result: int = pgprot_combine(prot, table.protval[_WC])
    return result


def pgprot_writethrough(prot: int, table: PatTable = FULL) -> int:
    """Ask for WT."""
    result: int = pgprot_combine(prot, table.protval[_WT])
    return result


@pgprot_combine.alternative(
    "or", source="arch/x86/mm/pat/memtype.c pgprot_writecombine, pgprot_writethrough, 6.12.117", releases="<= v6.15"
)
def add_bits(prot: int, bits: int) -> int:
    """The bits are ORed in: WC over noncached is UC, and WT over noncached stays WT."""
    return prot | bits


@pgprot_combine.alternative(
    "replace", source="arch/x86/mm/pat/memtype.c pgprot_set_cachemode, pgprot_writecombine (7.3)", releases=">= v6.16"
)
def replace_bits(prot: int, bits: int) -> int:
    """The type that was there goes: WC over noncached is WC."""
    return prot & ~CACHE_MASK | bits


#: by MTRR type, the effective type of PAT = WB, WC, UC-, UC, WT, WP
_EFFECTIVE = {
    MtrrType.UNCACHABLE: (_UC, _WC, _UC, _UC, _UC, _UC),
    MtrrType.WRCOMB: (_WC, _WC, _WC, _UC, _UC, _UC),
    MtrrType.WRTHROUGH: (_WT, _WC, _UC, _UC, _WT, _WP),
    MtrrType.WRPROT: (_WP, _WC, _WC, _UC, _WT, _WP),
    MtrrType.WRBACK: (_WB, _WC, _UC, _UC, _WT, _WP),
}


def effective_type(pat_mode: int, mtrr_type: MtrrType) -> CacheMode:
    """The type that an access has when the entry says the one and the MTRR the other; never UC-, which is a request.

    All of it is the SDM's table "Effective Page-Level Memory Types" (volume 3, chapter on memory cache control). Its
    older editions left five combinations undefined: WT and WP over WC, WP over WT, UC- and WT over WP.
    """
    return _EFFECTIVE[mtrr_type][pat_mode]
