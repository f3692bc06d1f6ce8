"""Which pages may be pinned for long where they are?

What lies in ZONE_MOVABLE or in a CMA area, and memory of a coherent device, has to be able to go, so it may not. The
zero page may, wherever it lies: nobody can move it. That is one condition, and it has been rearranged several times:
the thread of June 2022 is about one that let the zero page slip into a negation.
"""

from mmlitmus.api import (
    DRIVER,
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    ZONE_MOVABLE,
    Machine,
    always,
    case,
    never,
    new_folio,
    releases,
)
from mmlitmus.kernel.mm.gup_longterm import is_longterm_pinnable
from mmlitmus.kernel.mm.page_alloc import COHERENT, MIGRATE_UNMOVABLE, ZONE_NORMAL

SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")
CMA_SOURCE = {f"{kernel} CMA": "source" for kernel in SOURCE}
COHERENT_TAKEN = "coherent-page-taken"
ISOLATED = "isolated-zero-page-refused"
ISOLATED_TAKEN = "isolated-page-taken"


@case(
    scenario="Z3",
    thread="001",
    reach=("all were asked about",),
    expect={
        **releases("v5.10", "deb-5.10.262", always("movable-page-taken", COHERENT_TAKEN)),
        **releases("v5.10", "deb-5.10.262", always("movable-page-taken", COHERENT_TAKEN, ISOLATED_TAKEN), "CMA"),
        "v5.14": always(COHERENT_TAKEN),
        "v5.14 +zero-page-not-excepted": always(COHERENT_TAKEN, "movable-zero-page-refused"),
        "v5.14 CMA": always(COHERENT_TAKEN, ISOLATED_TAKEN),
        "v5.19-rc1": always(COHERENT_TAKEN, "zero-page-refused", "movable-zero-page-refused"),
        "v5.19-rc1 CMA": always(COHERENT_TAKEN, "zero-page-refused", "movable-zero-page-refused", ISOLATED),
        "v5.19": always(COHERENT_TAKEN),
        "v5.19 CMA": always(COHERENT_TAKEN, ISOLATED),
        "v6.0-rc1": always("zero-page-refused", "movable-zero-page-refused"),
        "v6.0": never,
        "v6.0 CMA": always(ISOLATED),
        "v6.0 +pinnable-in-stages": always("ordinary-page-refused", "movable-zero-page-refused"),
        **releases("v6.1", "v7.3", never),
        **releases("v6.1", "deb-7.3.4", always(ISOLATED), "CMA"),
        "deb-7.3.4": always(ISOLATED),
        "v6.1 +zero-page-negated": always("zero-page-refused", "movable-zero-page-refused"),
    },
    evidence={**SOURCE, **CMA_SOURCE},
)
def pinnable(m: Machine) -> None:
    """Which pages may be pinned for long where they are: ordinary ones, the zero page, what has to be able to go?"""
    cma = m.kernel.has("CMA")

    def may_stay(kind: str, zone: str = ZONE_NORMAL, block: str = MIGRATE_MOVABLE) -> bool:
        return bool(is_longterm_pinnable(new_folio(m, kind, "somebody", zone=zone, migratetype=block)))

    @m.task
    def ask() -> None:
        m.require(may_stay("anon"), "ordinary-page-refused", "an ordinary page may not stay")
        m.require(may_stay(DRIVER, block=MIGRATE_UNMOVABLE), "ordinary-page-refused", "a driver's page may not stay")
        m.require(not may_stay("anon", ZONE_MOVABLE), "movable-page-taken", "a page in ZONE_MOVABLE may stay")
        m.require(not may_stay(COHERENT), COHERENT_TAKEN, "a coherent device's page may stay")
        m.require(may_stay("zero"), "zero-page-refused", "the zero page may not stay")
        m.require(may_stay("zero", ZONE_MOVABLE), "movable-zero-page-refused", "... where it lies in ZONE_MOVABLE")
        if cma:
            m.require(not may_stay("anon", block=MIGRATE_CMA), "cma-page-taken", "a page in a CMA area may stay")
            m.require(
                not may_stay("anon", block=MIGRATE_ISOLATE), ISOLATED_TAKEN, "a page in an isolated block may stay"
            )
            m.require(may_stay("zero", block=MIGRATE_ISOLATE), ISOLATED, "... where its block is isolated")
        m.reached("all were asked about")
