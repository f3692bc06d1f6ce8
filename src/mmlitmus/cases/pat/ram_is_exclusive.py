"""May a page of RAM be reserved twice?

No: the type is in two bits of the page's flags, which count nothing. Any type but WB means that the page is taken, even
for whoever asks for the same one: outside RAM it is the other way round. WP there is none, and strong UC becomes UC-.
remap_pfn_range of RAM reserves nothing: it takes the type of the first page.
"""

from mmlitmus.api import (
    EBUSY,
    EINVAL,
    PAGE_SHIFT,
    PAGE_SIZE,
    CacheMode,
    Machine,
    MemtypeOwner,
    always,
    case,
    lookup_memtype,
    memtype_free,
    memtype_reserve,
    memtypes_at_rest,
    never,
    pat_memtype_list,
    pte_cachemode,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import RAM, RESERVED, open_probe


@case(
    "pat/ram-is-exclusive",
    control="pat/ram-is-exclusive/not-ram",
    scenario="S-PAT-01",
    thread="000",
    claims=("C000-18",),
    ignores=("reserve-ram-failed", "ram-strong-uc"),
    reach=("refused the same type",),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.12 +pfnmap-track-ctx": never},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def ram_is_exclusive(m: Machine) -> None:
    reserve_twice(m, RAM[0])


@case(
    "pat/ram-is-exclusive/not-ram",
    scenario="S-PAT-01",
    thread="000",
    expect=releases("v5.10", "deb-7.3.4", always("wrong-count", "wrong-errno", "wrong-type")),
)
def memory_kept_back(m: Machine) -> None:
    """... and a page of memory that was kept back at boot? (It may: the control.)"""
    reserve_twice(m, RESERVED[0])


def reserve_twice(m: Machine, pfn: int) -> None:
    """Reserve a page twice with each type, and give it back once."""
    start = pfn << PAGE_SHIFT
    end = start + PAGE_SIZE
    open_probe(m)
    owner = MemtypeOwner("owner")

    @m.task
    def reserve() -> None:
        for asked, got in (
            (CacheMode.WC, CacheMode.WC),
            (CacheMode.WT, CacheMode.WT),
            (CacheMode.UC, CacheMode.UC_MINUS),
        ):
            first = memtype_reserve(m, start, end, asked, True, owner)
            m.require(first == (0, got), "wrong-type", f"{asked.name} of a free page is {first}")
            second = memtype_reserve(m, start, end, asked, True, owner)
            m.require(second == (-EBUSY, got), "wrong-errno", f"{asked.name} once more is {second}")
            if second[0]:
                m.reached("refused the same type")
            memtype_free(m, start, end, owner)
            m.require(lookup_memtype(m, start) == CacheMode.WB, "wrong-type", "a page given back is not WB")
        wp, _ = memtype_reserve(m, start, end, CacheMode.WP, True, owner)
        m.require(wp == -EINVAL, "wrong-errno", f"WP is {wp}")
        m.require(len(pat_memtype_list(m)) == 1, "wrong-count", f"the tree has {pat_memtype_list(m)}")


@case(
    "pat/ram-is-exclusive/remap",
    control="pat/ram-is-exclusive/remap/not-ram",
    scenario="S-PAT-01",
    thread="000",
    ignores=("ram-type-changed",),
    reach=("mapped twice",),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.12 +pfnmap-track-ctx": never},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def remap_of_ram(m: Machine) -> None:
    """... and may it be mapped twice with remap_pfn_range?"""
    remap_twice(m, "ram", "wt")


@case(
    "pat/ram-is-exclusive/remap/not-ram",
    scenario="S-PAT-01",
    thread="000",
    ignores=("expected-mapping-type",),
    reach=("mapped twice",),
    expect=releases("v5.10", "deb-7.3.4", always("wrong-type")),
)
def remap_of_memory_kept_back(m: Machine) -> None:
    """... and memory that was kept back at boot? (It is reserved, and WC then: the control.)"""
    remap_twice(m, "reserved", "uc-")


def remap_twice(m: Machine, region: str, other: str) -> None:
    """Two mappings of one page, for which two types are asked; both are to be WB."""
    probe = open_probe(m)
    app = m.process("app")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def remap() -> None:
        a = app.mmap(probe.file("remap", "wc", region), 1, at="a")
        b = app.mmap(probe.file("remap", other, region), 1, at="b")
        if a > 0 and b > 0:
            m.reached("mapped twice")
            for at in (a, b):
                mode = pte_cachemode(app.pte(at))
                m.require(mode == CacheMode.WB, "wrong-type", f"{m.page_label(at)} is {mode.name}")
