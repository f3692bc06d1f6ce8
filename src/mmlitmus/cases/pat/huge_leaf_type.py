"""Does a 2M leaf of WP memory have the type that is reserved?

The protection of a leaf is put together as a page's is, where PAT is bit 7. In a leaf bit 7 says that it is one, and
PAT is bit 12; nobody moves it (an RFC of 2024 did, and was not merged). Only WT and WP use the bit. WP without it is
WC: the wrong type. WT without it is UC, which is slow and does no harm; WT has its slot in the table for that reason.
"""

from mmlitmus.api import (
    PAGE_SHIFT,
    PMD_ORDER,
    PMD_SIZE,
    CacheMode,
    File,
    Machine,
    MemtypeOwner,
    always,
    case,
    memtype_free,
    memtype_reserve,
    never,
    pmd_cachemode,
    pte_cachemode,
    releases,
)
from mmlitmus.kernel.arch.x86.pgtable import pmd_leaf
from mmlitmus.kernel.drivers.misc.probe import RESERVED, open_probe
from mmlitmus.kernel.uapi import Process

START = RESERVED[0] << PAGE_SHIFT
FITS = {CacheMode.WT: (CacheMode.WT, CacheMode.UC)}


def map_as(m: Machine, app: Process, file: File, mode: CacheMode) -> None:
    """Reserve the frames with a type, map them, fault a leaf in, see what it is, and undo all of it."""
    driver = MemtypeOwner("driver")
    memtype_reserve(m, START, START + PMD_SIZE, mode, True, driver)
    address = app.mmap(file, 1 << PMD_ORDER)
    app.read(address)
    entry = app.pte(address)
    if pmd_leaf(entry):
        m.reached(f"a leaf of {mode.name}")
    got = pmd_cachemode(entry)
    m.require(got in FITS.get(mode, (mode,)), "wrong-type", f"reserved is {mode.name}, the leaf is {got.name}")
    app.munmap(address, 1 << PMD_ORDER)
    memtype_free(m, START, START + PMD_SIZE, driver)


@case(
    "pat/huge-leaf-type",
    scenario="S-PAT-11",
    thread="004",
    claims=("C004-11",),
    reach=("a leaf of WP",),
    expect={
        **releases("v6.12", "deb-7.3.4", always("wrong-type")),
        **releases("v6.12", "deb-7.3.4", never, "+pat-large-shift"),
        "v6.12 +pfnmap-track-ctx": always("wrong-type"),
    },
    evidence={"deb-6.12.117": "source"},
)
def huge_leaf_of_wp(m: Machine) -> None:
    probe = open_probe(m)
    app = m.process("app")

    @m.task
    def fault() -> None:
        map_as(m, app, probe.file("huge", "", "reserved"), CacheMode.WP)


@case(
    "pat/huge-leaf-type/others",
    control="pat/huge-leaf-type",
    scenario="S-PAT-11",
    thread="004",
    claims=("C004-11",),
    reach=("a leaf of WB", "a leaf of WC", "a leaf of UC_MINUS", "a leaf of UC", "a leaf of WT"),
    expect={**releases("v6.12", "deb-7.3.4", never), **releases("v6.12", "deb-7.3.4", never, "+pat-large-shift")},
    evidence={"deb-6.12.117": "source"},
)
def huge_leaves_of_other_types(m: Machine) -> None:
    """... and a leaf of any other memory, if UC is good enough for WT?"""
    probe = open_probe(m)
    app = m.process("app")

    @m.task
    def fault() -> None:
        for mode in CacheMode:
            if mode != CacheMode.WP:
                map_as(m, app, probe.file("huge", "", "reserved"), mode)


@case(
    "pat/huge-leaf-type/pages",
    control="pat/huge-leaf-type",
    scenario="S-PAT-11",
    thread="004",
    claims=("C004-11",),
    reach=("a page of WP", "a page of WT"),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.12 +pfnmap-track-ctx": never},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def pages_of_all_types(m: Machine) -> None:
    """... and a page, of any memory?"""
    probe = open_probe(m)
    app = m.process("app")

    @m.task
    def fault() -> None:
        for mode in CacheMode:
            driver = MemtypeOwner("driver")
            memtype_reserve(m, START, START + PMD_SIZE, mode, True, driver)
            a = app.mmap(probe.file("fault_pfn", "", "reserved"), 1)
            app.read(a)
            got = pte_cachemode(app.pte(a))
            m.reached(f"a page of {got.name}")
            m.require(got == mode, "wrong-type", f"reserved is {mode.name}, the page is {got.name}")
            app.munmap(a, 1)
            memtype_free(m, START, START + PMD_SIZE, driver)
