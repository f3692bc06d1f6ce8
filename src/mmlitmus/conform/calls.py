"""Scenes of calls: every protection, every advice, locked memory that changes, growth, and what is populated at once.

Programs have them only when asked to (``generate.programs(..., language="calls")``). Nothing is left out because the
model has not got it: a program ends, on the model's side, where that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import pins
from .drills import ANONYMOUS, BAR, MODULE, Drill, Scene
from .schema import (
    ADVICE,
    LOCKS,
    MORE_ADVICE,
    PAGE_INSERTS,
    TRANSFERS,
    Advise,
    Clear,
    Dma,
    Fork,
    Limit,
    Lockall,
    Map,
    Probe,
    Protect,
    Remap,
    Step,
    Switch,
    Touch,
    Transfer,
    Unlockall,
    Unmap,
    Unpin,
)

if TYPE_CHECKING:
    from .generate import Source

ALL_ADVICE = (*ADVICE, *MORE_ADVICE, *LOCKS)
#: of them, what does more than set a flag
ACTIVE = (
    "dontneed", "free", "wipeonfork", "populate_read", "populate_write", "dontneed_locked", "remove", "collapse",
    "guard_install", "guard_remove", "lock", "unlock", "lock_onfault", "willneed",
)  # fmt: skip
#: protections without a load, or without anything that a program can do
ODD = ("w", "x", "wx", "", "w", "x")
PROTECTIONS = (*ODD, "r", "rw", "rx", "rwx")
#: kinds whose pages are counted, by the process's own count or the module's
COUNTED = (ANONYMOUS, *PAGE_INSERTS)
EVERY = (BAR, ANONYMOUS, *MODULE, *PAGE_INSERTS)
SCENES: list[Drill] = []
#: scenes that take a device
DEVICE_SCENES: list[Drill] = []


def scene(*kinds: str, weight: int = 1, device: bool = False) -> Callable[[Scene], Scene]:
    """Register a scene for kinds of mapping."""

    def register(one: Scene) -> Scene:
        (DEVICE_SCENES if device else SCENES).append(Drill(one.__name__, one, kinds, weight))
        return one

    return register


def scenes(devices: int) -> Sequence[Drill]:
    """Those for a guest with so many devices."""
    return [*SCENES, *(DEVICE_SCENES if devices else ())]


def mapping(source: Source, kind: str, **asked: Any) -> Map:
    """A mapping of a kind; private where that is the usual thing, or by chance where it may be."""
    if kind not in COUNTED and "sharing" not in asked and kind in ("remap", "remap_partial", "mixed"):
        asked["sharing"] = source.chance.choice(("shared", "shared", "private"))
    if kind in PAGE_INSERTS and "sharing" not in asked:
        asked["sharing"] = source.chance.choice(("shared", "private"))
    return pins.mapping(source, kind, **asked)


def touches(source: Source, here: Map, most: int = 2) -> Iterator[Step]:
    """Loads and stores of some pages."""
    for _ in range(source.chance.randint(1, most)):
        page = here.page + source.chance.randrange(here.pages)
        yield Touch(slot=here.slot, page=page, access=source.chance.choice(("read", "write")))


def here_at(here: Map) -> dict[str, Any]:
    """Where a mapping begins."""
    return {"slot": here.slot, "page": here.page}


def some(source: Source, here: Map) -> dict[str, Any]:
    """All of a mapping, or a part of it."""
    page, pages = source.chance.choice(((0, here.pages), (0, here.pages), (0, 1), (1, 2), (here.pages - 1, 1)))
    return {"slot": here.slot, "page": here.page + page, "pages": pages}


# -- protections ------------------------------------------------------------------------------------------------------
@scene(*EVERY, weight=3)
def odd_protection(source: Source, kind: str) -> Iterator[Step]:
    """Only writable, only executable, nothing: touched, got at by others, made something else."""
    chance = source.chance
    here = mapping(source, kind, prot=chance.choice(ODD), pages=4)
    yield here
    yield from touches(source, here)
    yield pins.any_pin(source, here.slot, here.page, chance.choice((1, 2)), hold=0)
    yield Transfer(kind=chance.choice(TRANSFERS), slot=here.slot, page=here.page, pages=2)
    yield Protect(prot=chance.choice(PROTECTIONS), **some(source, here))
    yield from touches(source, here)
    yield pins.any_pin(source, here.slot, here.page, chance.choice((1, 3)), hold=0)
    yield Unpin()


@scene(BAR, ANONYMOUS, weight=8, device=True)
def odd_protection_for_dma(source: Source, kind: str) -> Iterator[Step]:
    """MAP_DMA of what a process may only write, or only execute."""
    chance = source.chance
    here = mapping(source, kind, prot=chance.choice((*ODD, "r")), pages=4)
    yield here
    yield from touches(source, here)
    for n, prot in enumerate(chance.sample(("r", "w", "rw"), 2)):
        yield Dma(action="map", iova=n, pages=chance.choice((1, 2, 4)), slot=here.slot, page=here.page, prot=prot)
    yield Protect(prot=chance.choice(PROTECTIONS), **some(source, here))
    yield Dma(action="map", iova=2, pages=2, slot=here.slot, page=here.page, prot=chance.choice(("r", "rw")))
    yield Dma(action="unmap", iova=0, pages=4)


# -- locked memory ----------------------------------------------------------------------------------------------------
@scene(*EVERY, weight=3)
def locked_and_protected(source: Source, kind: str) -> Iterator[Step]:
    """What is locked becomes writable, and something else."""
    chance = source.chance
    here = mapping(source, kind, prot=chance.choice(("r", "r", "", "rw", "w", "x")), pages=4)
    yield here
    if chance.random() < 0.6:
        yield from touches(source, here)
    yield chance.choice((
        Advise(advice="lock", **some(source, here)), Advise(advice="lock", **some(source, here)),
        Advise(advice="lock_onfault", **some(source, here)), Lockall(flags=("current",)),
        Lockall(flags=("current", "onfault")),
    ))  # fmt: skip
    for prot in (chance.choice(("rw", "rw", "w", "rwx")), chance.choice(PROTECTIONS), "rw"):
        yield Protect(prot=prot, **some(source, here))
        if chance.random() < 0.4:
            yield from touches(source, here, 1)


@scene(*EVERY, weight=2)
def all_locked(source: Source, kind: str) -> Iterator[Step]:
    """mlockall, and mappings that come later."""
    chance = source.chance
    if chance.random() < 0.5:
        yield mapping(source, kind, prot="rw")
    yield Lockall(flags=chance.choice((
        ("current",), ("future",), ("current", "future"), ("future", "onfault"), ("current", "onfault"), ("onfault",),
        (), ("current", "future", "onfault"),
    )))  # fmt: skip
    here = mapping(source, kind, prot=chance.choice(("rw", "rw", "r", "", "w")))
    yield here
    yield from touches(source, here)
    yield chance.choice((
        Unlockall(), Advise(advice="unlock", **some(source, here)), Unmap(**some(source, here)),
        Advise(advice="dontneed", **some(source, here)), Advise(advice="dontneed_locked", **some(source, here)),
    ))  # fmt: skip
    yield Fork(child=1)
    yield Switch(process=1)
    there = mapping(source, kind, prot="rw")
    yield there
    yield from touches(source, there, 1)
    yield Switch(process=0)
    yield Unlockall()
    yield from touches(source, here, 1)


@scene(*EVERY, weight=2)
def locked_and_moved(source: Source, kind: str) -> Iterator[Step]:
    """mremap of what is locked: moved, shorter, longer, left where it was."""
    chance = source.chance
    here = mapping(source, kind, prot=chance.choice(("rw", "rw", "r")), pages=4)
    yield here
    if chance.random() < 0.5:
        yield from touches(source, here)
    yield Advise(advice=chance.choice(("lock", "lock", "lock_onfault")), **some(source, here))
    at: dict[str, Any] = here_at(here)
    to, both = source.other(here.slot), ("maymove", "fixed")
    ways: tuple[Step, ...] = (
        Remap(pages=4, new_pages=4, to=to, flags=both, **at), Remap(pages=4, new_pages=2, **at),
        Remap(pages=4, new_pages=6, to=to, flags=both, **at), Remap(pages=4, new_pages=5, **at),
        Remap(pages=4, new_pages=4, to=to, flags=(*both, "dontunmap"), **at),
    )  # fmt: skip
    yield chance.choice(ways)
    yield from touches(source, here, 1)
    yield Touch(slot=to, page=chance.choice((0, 3)), access="write")
    yield Unmap(slot=to, pages=2)


@scene(*COUNTED, weight=3)
def little_may_be_locked(source: Source, kind: str) -> Iterator[Step]:
    """RLIMIT_MEMLOCK, and all that asks for more."""
    chance = source.chance
    here = mapping(source, kind, prot="rw", pages=4)
    yield here
    yield Limit(locked=chance.choice((0, 2, 4, 5)))
    at: dict[str, Any] = {"slot": here.slot, "page": here.page}
    there = mapping(source, kind, prot="rw", pages=4, slot=source.other(here.slot))
    flags = tuple(dict.fromkeys((*there.flags, "locked")))
    ways: list[Step] = [
        Advise(advice="lock", **some(source, here)), Advise(advice="lock_onfault", **some(source, here)),
        Lockall(flags=("current",)), Lockall(flags=("future",)), Remap(pages=4, new_pages=6, flags=("maymove",), **at),
        Map(**{**{name: getattr(there, name) for name in FIELDS}, "flags": flags}),
        Protect(prot="r", **some(source, here)),
    ]  # fmt: skip
    yield from chance.sample(ways, 4)
    yield from touches(source, here)


# -- growth -----------------------------------------------------------------------------------------------------------
@scene(*EVERY, weight=3)
def grown(source: Source, kind: str) -> Iterator[Step]:
    """Longer where it is, where there is room or not; longer elsewhere; a copy of what is shared; left where it was."""
    chance = source.chance
    here = mapping(source, kind, prot=chance.choice(("rw", "rw", "r")), pages=chance.choice((2, 3, 4)), page=0)
    yield here
    yield from touches(source, here)
    at: dict[str, Any] = {"slot": here.slot, "page": here.page, "pages": here.pages}
    to, both = source.other(here.slot), ("maymove", "fixed")
    ways: list[Step] = [
        Remap(new_pages=here.pages + 2, **at), Remap(new_pages=here.pages + 1, flags=("maymove",), **at),
        Remap(new_pages=here.pages + 2, to=to, flags=both, **at),
        Remap(new_pages=here.pages, to=to, flags=(*both, "dontunmap"), **at),
        Remap(slot=here.slot, page=here.page, pages=0, new_pages=here.pages, to=to, flags=both),
        Remap(slot=here.slot, page=here.page + 1, pages=here.pages - 1, new_pages=here.pages + 1),
    ]  # fmt: skip
    yield from chance.sample(ways, 2)
    for slot, page in ((here.slot, here.page), (here.slot, here.page + here.pages), (to, 0), (to, here.pages)):
        yield Touch(slot=slot, page=page, access=chance.choice(("read", "write")))


# -- madvise ----------------------------------------------------------------------------------------------------------
@scene(*EVERY, weight=4)
def any_advice(source: Source, kind: str) -> Iterator[Step]:
    """Of what is touched, locked or neither; and what the next access finds."""
    chance = source.chance
    here = mapping(source, kind, prot=chance.choice(("rw", "rw", "rw", "r", "w", "")), pages=4)
    yield here
    yield from touches(source, here)
    for advice in chance.sample((*ALL_ADVICE, *ACTIVE), 6):
        yield Advise(advice=advice, **some(source, here))
        if chance.random() < 0.5:
            yield from touches(source, here, 1)


@scene(*COUNTED, "remap", "mixed", weight=2)
def advice_for_a_child(source: Source, kind: str) -> Iterator[Step]:
    """What a child gets, and what it finds there."""
    chance = source.chance
    here = mapping(source, kind, prot="rw", pages=4)
    yield here
    yield from touches(source, here)
    for advice in chance.sample(("wipeonfork", "keeponfork", "dontfork", "dofork", "guard_install", "free", "lock"), 2):
        yield Advise(advice=advice, **some(source, here))
    yield Fork(child=1)
    yield Switch(process=chance.randrange(2))
    yield from touches(source, here, 3)


@scene(*COUNTED, "remap", "fault_pfn", weight=3)
def guarded(source: Source, kind: str) -> Iterator[Step]:
    """Guard regions, where the kernel has them: touched, got at, moved, forked, taken away."""
    chance = source.chance
    here = mapping(source, kind, prot="rw", pages=4)
    yield here
    if chance.random() < 0.7:
        yield from touches(source, here)
    guard = some(source, here)
    yield Advise(advice="guard_install", **guard)
    at: dict[str, Any] = {"slot": here.slot, "page": guard["page"]}
    ways: list[Step] = [
        Touch(access=chance.choice(("read", "write")), **at), pins.any_pin(source, here.slot, here.page, 2, hold=1),
        Protect(prot="r", **some(source, here)), Advise(advice="dontneed", **some(source, here)), Fork(child=1),
        Advise(advice="populate_write", **some(source, here)), Advise(advice="lock", **some(source, here)),
        Remap(pages=4, new_pages=4, to=source.other(here.slot), flags=("maymove", "fixed"), **here_at(here)),
        Advise(advice="guard_install", **some(source, here)), Clear(), Unmap(**some(source, here)),
    ]  # fmt: skip
    yield from chance.sample(ways, 4)
    yield Advise(advice="guard_remove", **some(source, here))
    yield from touches(source, here)


# -- populated at once ------------------------------------------------------------------------------------------------
@scene(*EVERY, weight=2)
def populated(source: Source, kind: str) -> Iterator[Step]:
    """MAP_POPULATE, MAP_LOCKED, MADV_POPULATE of what may be read, written, executed or nothing."""
    chance = source.chance
    here = mapping(source, kind, prot=chance.choice(PROTECTIONS), pages=4)
    more = chance.choice((("populate",), ("locked",), ("populate", "locked"), ()))
    yield Map(**{**{name: getattr(here, name) for name in FIELDS}, "flags": (*here.flags, *more)})
    for advice in chance.sample(("populate_read", "populate_write"), 2):
        yield Advise(advice=advice, **some(source, here))
    if kind in (*MODULE, *PAGE_INSERTS) and chance.random() < 0.5:
        yield Probe(call="unmap_mapping_range", offset=here.offset, pages=2)
    yield from touches(source, here)
    yield Clear(what=chance.choice(("soft_dirty", "referenced")))
    yield Advise(advice=chance.choice(("populate_read", "populate_write", "lock")), **some(source, here))


FIELDS = (
    "slot", "page", "pages", "backing", "device", "bar", "region", "frame", "insert", "cache", "opened", "offset",
    "prot", "sharing",
)  # fmt: skip


# -- anything ---------------------------------------------------------------------------------------------------------
def anything(source: Source) -> list[tuple[int, Callable[[Source], Step]]]:
    """What a program may do beside what those about pinned pages do, and how often."""
    chance = source.chance

    def advise(source: Source) -> Step:
        slot, page, pages = source.range()
        return Advise(slot=slot, page=page, pages=pages, advice=chance.choice((*ALL_ADVICE, *ACTIVE)))

    def protect(source: Source) -> Step:
        slot, page, pages = source.range()
        return Protect(slot=slot, page=page, pages=pages, prot=chance.choice(PROTECTIONS))

    def lockall(source: Source) -> Step:
        return chance.choice((Lockall(flags=("current",)), Lockall(flags=("current", "future")), Unlockall()))

    return [*pins.anything(source), (20, advise), (14, protect), (3, lockall)]
