"""Who insists on a type: is he refused where another one is reserved?

fork is the one who insists: what a child maps has to be what its parent maps. So does a caller of memtype_reserve who
has no use for another type. Either is refused unless the types are equal, and leaves nothing behind.
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
    cachemode2protval,
    case,
    memtype_free,
    memtype_reserve,
    never,
    pat_memtype_list,
    releases,
)
from mmlitmus.kernel.arch.x86.pat import reserve_pfn_range
from mmlitmus.kernel.drivers.misc.probe import RESERVED, open_probe


@case(
    "pat/strict-reserve",
    control="pat/strict-reserve/lenient",
    scenario="S-PAT-01",
    thread="000",
    claims=("C000-28",),
    ignores=("conflicting-memory-types", "expected-mapping-type"),
    reach=("refused", "let in"),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.12 +pfnmap-track-ctx": never},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def strict_reserve(m: Machine) -> None:
    every_pair(m, lenient=False)


@case(
    "pat/strict-reserve/lenient",
    scenario="S-PAT-01",
    thread="000",
    ignores=("conflicting-memory-types", "expected-mapping-type"),
    reach=("refused", "let in"),
    expect=releases("v5.10", "deb-7.3.4", always("wrong-errno")),
)
def lenient_reserve(m: Machine) -> None:
    """... and who does not insist? (He is let in: the control.)"""
    every_pair(m, lenient=True)


def every_pair(m: Machine, lenient: bool) -> None:
    """Every pair of types; ``lenient``: the second takes what he gets."""
    open_probe(m)
    first, second = MemtypeOwner("first"), MemtypeOwner("second")
    start = RESERVED[0] << PAGE_SHIFT
    end = start + PAGE_SIZE

    @m.task
    def reserve() -> None:
        for held in CacheMode:
            memtype_reserve(m, start, end, held, True, first)
            for asked in CacheMode:
                what = f"{asked.name} where {held.name} is held"
                error, _ = memtype_reserve(m, start, end, asked, lenient, second)
                m.require(error == (0 if asked == held else -EBUSY), "wrong-errno", f"memtype_reserve: {what}: {error}")
                if not error:
                    memtype_free(m, start, end, second)
                error, _ = reserve_pfn_range(m, start, PAGE_SIZE, cachemode2protval(asked), True, second)
                m.require(error == (0 if asked == held else -EINVAL), "wrong-errno", f"fork: {what}: {error}")
                if not error:
                    memtype_free(m, start, end, second)
                m.reached("refused" if error else "let in")
                m.require(len(pat_memtype_list(m)) == 2, "wrong-count", f"{what}: {pat_memtype_list(m)}")
            memtype_free(m, start, end, first)
