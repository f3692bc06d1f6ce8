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
from mmlitmus.kernel.drivers.misc.probe import RAM, open_probe

START = RAM[0] << PAGE_SHIFT
END = START + PAGE_SIZE


@case(
    "pat/ram-is-exclusive",
    scenario="S-PAT-01",
    thread="000",
    claims=("C000-18",),
    ignores=("reserve-ram-failed", "ram-strong-uc"),
    reach=("refused the same type",),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.12 +pfnmap-track-ctx": never},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def ram_is_exclusive(m: Machine) -> None:
    open_probe(m)
    owner = MemtypeOwner("owner")

    @m.task
    def reserve() -> None:
        for asked, got in (
            (CacheMode.WC, CacheMode.WC),
            (CacheMode.WT, CacheMode.WT),
            (CacheMode.UC, CacheMode.UC_MINUS),
        ):
            first = memtype_reserve(m, START, END, asked, True, owner)
            m.require(first == (0, got), "wrong-type", f"{asked.name} of a free page is {first}")
            second = memtype_reserve(m, START, END, asked, True, owner)
            m.require(second == (-EBUSY, got), "wrong-errno", f"{asked.name} once more is {second}")
            if second[0]:
                m.reached("refused the same type")
            memtype_free(m, START, END, owner)
            m.require(lookup_memtype(m, START) == CacheMode.WB, "wrong-type", "a page given back is not WB")
        wp, _ = memtype_reserve(m, START, END, CacheMode.WP, True, owner)
        m.require(wp == -EINVAL, "wrong-errno", f"WP is {wp}")
        m.require(len(pat_memtype_list(m)) == 1, "wrong-count", f"the tree has {pat_memtype_list(m)}")


@case(
    "pat/ram-is-exclusive/remap",
    scenario="S-PAT-01",
    thread="000",
    ignores=("ram-type-changed",),
    reach=("mapped twice",),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.12 +pfnmap-track-ctx": never},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def remap_of_ram(m: Machine) -> None:
    """... and may it be mapped twice with remap_pfn_range?"""
    probe = open_probe(m)
    app = m.process("app")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def remap() -> None:
        a = app.mmap(probe.file("remap", "wc", "ram"), 1, at="a")
        b = app.mmap(probe.file("remap", "wt", "ram"), 1, at="b")
        if a > 0 and b > 0:
            m.reached("mapped twice")
            for at in (a, b):
                mode = pte_cachemode(app.pte(at))
                m.require(mode == CacheMode.WB, "wrong-type", f"{m.page_label(at)} is {mode.name}")
