"""Does a 1G leaf have the type that is reserved, as a page does?

6.12 can insert one for device memory. vmf_insert_pfn_pud looks the type up and then makes the leaf from the VMA's
protection all the same: in a WC mapping of frames that are UC- it is WC. A page and a 2M leaf of the same mapping are
UC-. ce147c7e9508 (6.17) uses what was looked up.
"""

from mmlitmus.api import (
    PMD_ORDER,
    PUD_ORDER,
    PUD_SIZE,
    CacheMode,
    Machine,
    always,
    case,
    memtypes_at_rest,
    never,
    pmd_cachemode,
    releases,
)
from mmlitmus.kernel.arch.x86.pgtable import pmd_leaf, pud_leaf
from mmlitmus.kernel.drivers.misc.probe import open_probe

PAGES = 1 << PUD_ORDER
FIRST_PFN = 4 * PAGES  # 4G, where no RAM is
ADDRESS = 0x7F80_0000_0000


@case(
    "pat/pud-insert",
    scenario="S-PAT-04",
    thread="000",
    fix="ce147c7e9508",
    reach=("1G leaf",),
    expect={
        **releases("v6.12", "deb-6.16.12", always("memtype-alias", "wrong-type")),
        **releases("v6.18", "deb-7.3.4", never),
        **releases("v6.12", "deb-6.16.12", never, "+pud-insert-lookup"),
        "v6.12 +pfnmap-track-ctx": always("memtype-alias", "wrong-type"),
    },
    evidence={"deb-6.12.117": "source"},
)
def pud_insert(m: Machine) -> None:
    probe = open_probe(m, pages=PAGES, pfn=FIRST_PFN)
    app = m.process("app")
    a = app.mmap(probe.file("huge", "wc"), PAGES, at=ADDRESS)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def fault() -> None:
        m.saw(app.read(a))
        if pud_leaf(app.mm.puds[a // PUD_SIZE].peek("entry")):
            m.reached("1G leaf")
        mode = pmd_cachemode(app.pte(a))
        m.require(mode == CacheMode.UC_MINUS, "wrong-type", f"the leaf is {mode.name}, and nobody has reserved that")


@case(
    "pat/pud-insert/pmd",
    control="pat/pud-insert",
    scenario="S-PAT-04",
    thread="000",
    reach=("2M leaf",),
    expect={**releases("v6.12", "deb-7.3.4", never), "v6.12 +pfnmap-track-ctx": never},
    evidence={"deb-6.12.117": "source"},
)
def pmd_insert(m: Machine) -> None:
    """... and a 2M leaf?"""
    pages = 1 << PMD_ORDER
    probe = open_probe(m, pages=pages, pfn=FIRST_PFN)
    app = m.process("app")
    a = app.mmap(probe.file("huge", "wc"), pages)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def fault() -> None:
        m.saw(app.read(a))
        if pmd_leaf(app.pte(a)):
            m.reached("2M leaf")
        mode = pmd_cachemode(app.pte(a))
        m.require(mode == CacheMode.UC_MINUS, "wrong-type", f"the leaf is {mode.name}, and nobody has reserved that")
