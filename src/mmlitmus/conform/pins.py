"""Scenes of pinned pages: get_user_pages in every variant, its users among the system calls, DMA through VFIO.

Programs have them only when asked to (``generate.programs(..., language="gup")``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .drills import ANONYMOUS, BAR, MODULE, Drill, Scene
from .schema import (
    OF_ANOTHER,
    PAGE_INSERTS,
    REMOTE,
    TRANSFERS,
    VARIANTS,
    Advise,
    Clear,
    Dev,
    Dma,
    Exit,
    Fork,
    Limit,
    Map,
    Pin,
    Probe,
    Protect,
    Remap,
    Step,
    Switch,
    Touch,
    Transfer,
    Unmap,
    Unpin,
)

if TYPE_CHECKING:
    from .generate import Source

#: kinds whose pages are the kernel's own, and those that the probe module fills
PAGES = (ANONYMOUS,)
FILLED = (*MODULE, *PAGE_INSERTS)
#: flags that every kernel has, in sets that make sense, and some that do not
FLAGS: tuple[tuple[str, ...], ...] = (
    (), (), ("write",), ("write",), ("longterm",), ("longterm",), ("write", "longterm"), ("write", "longterm"),
    ("force",), ("write", "force"), ("nowait",), ("dump",), ("write", "force", "longterm"),
)  # fmt: skip
SCENES: list[Drill] = []
#: scenes that take a device
DMA_SCENES: list[Drill] = []


def scene(*kinds: str, weight: int = 1, dma: bool = False) -> Callable[[Scene], Scene]:
    """Register a scene for kinds of mapping."""

    def register(one: Scene) -> Scene:
        (DMA_SCENES if dma else SCENES).append(Drill(one.__name__, one, kinds, weight))
        return one

    return register


# -- what scenes are made of ------------------------------------------------------------------------------------------
def mapping(source: Source, kind: str, **asked: Any) -> Map:
    """A mapping of a kind: private where it is anonymous, as a driver has it otherwise."""
    if kind == ANONYMOUS:
        return source.fresh(kind, **{**asked, "sharing": "private"})
    if kind in PAGE_INSERTS:
        return source.fresh(kind, **{"region": "ram", "cache": "", **asked})
    return source.fresh(kind, **asked)


def any_pin(source: Source, slot: str, page: int, pages: int, **asked: Any) -> Pin:
    """A pin of a range, in any way that is not asked for."""
    chance = source.chance
    variant = asked.pop("variant", None) or chance.choice(VARIANTS)
    given: dict[str, Any] = {"flags": chance.choice(FLAGS), "hold": chance.randrange(3), **asked}
    if variant in REMOTE and chance.random() < 0.3:
        given["flags"] = (*given["flags"], "locked")
    return Pin(slot=slot, page=page, pages=pages, variant=variant, **given)


def some_of(source: Source, here: Map) -> tuple[int, int]:
    """All of a mapping, or a part, or past its end: page and pages."""
    return source.chance.choice(
        ((here.page, here.pages), (here.page, 1), (here.page + 1, 2), (here.page + here.pages - 1, 3))
    )


def touched(source: Source, here: Map) -> Iterator[Step]:
    """Nothing, a load or a store, of the first page or the last."""
    for _ in range(source.chance.randrange(3)):
        page = source.chance.choice((here.page, here.page + here.pages - 1))
        yield Touch(slot=here.slot, page=page, access=source.chance.choice(("read", "read", "write")))


# -- pins -------------------------------------------------------------------------------------------------------------
@scene(BAR, *PAGES, *FILLED, weight=3)
def pin_in_many_ways(source: Source, kind: str) -> Iterator[Step]:
    """One after the other, each let go of."""
    here = mapping(source, kind)
    yield here
    yield from touched(source, here)
    for _ in range(4):
        page, pages = some_of(source, here)
        yield any_pin(source, here.slot, page, pages, hold=0)
        yield Unpin(flags=source.chance.choice(((), (), ("dirty",))))


@scene(*PAGES, *PAGE_INSERTS, weight=2)
def pin_and_write(source: Source, kind: str) -> Iterator[Step]:
    """A pin to read of what may be the page of zeros, or another one's; then the process stores to it."""
    here = mapping(source, kind, prot="rw", sharing="private")
    yield here
    if source.chance.random() < 0.6:
        yield Touch(slot=here.slot, page=here.page)
    flags = source.chance.choice(((), ("longterm",), ("longterm",)))
    yield any_pin(source, here.slot, here.page, 2, flags=flags, hold=1)
    yield Touch(slot=here.slot, page=here.page, access="write")
    yield Unpin(hold=1)


@scene(BAR, *PAGES, *FILLED)
def pin_over_a_hole(source: Source, kind: str) -> Iterator[Step]:
    """Short counts: with nothing mapped in the middle, in front or behind."""
    here = mapping(source, kind, pages=4)
    yield here
    yield from touched(source, here)
    yield Unmap(slot=here.slot, page=here.page + source.chance.choice((0, 1, 2, 3)), pages=1)
    for _ in range(3):
        yield any_pin(source, here.slot, here.page, source.chance.choice((2, 4, 6)))


@scene(BAR, *PAGES, *FILLED)
def pin_what_is_forbidden(source: Source, kind: str) -> Iterator[Step]:
    """Without access, or with loads only, and by force."""
    here = mapping(source, kind, prot=source.chance.choice(("", "r", "r")))
    yield here
    for flags in source.chance.sample(((), ("write",), ("force",), ("write", "force"), ("write", "longterm")), 3):
        yield any_pin(source, here.slot, here.page, source.chance.choice((1, 2)), flags=flags)


@scene(*PAGES, *FILLED, weight=2)
def pin_then_fork(source: Source, kind: str) -> Iterator[Step]:
    """Parent and child store to it afterwards."""
    chance = source.chance
    here = mapping(source, kind, prot="rw", sharing=chance.choice(("private", "private", "shared")))
    yield here
    yield Touch(slot=here.slot, page=here.page, access=chance.choice(("read", "write")))
    yield any_pin(source, here.slot, here.page, 2, hold=2)
    yield Fork(child=1)
    order = chance.sample((0, 1), 2)
    for process in order:
        yield Switch(process=process)
        yield Touch(slot=here.slot, page=here.page, access="write")
    yield Unpin(hold=2)


@scene(*PAGES, *FILLED, weight=2)
def fork_then_pin(source: Source, kind: str) -> Iterator[Step]:
    """What parent and child share is pinned by one of them, or by one in the other's memory."""
    chance = source.chance
    here = mapping(source, kind, prot="rw", sharing=chance.choice(("private", "private", "shared")))
    yield here
    yield Touch(slot=here.slot, page=here.page, access=chance.choice(("read", "write")))
    yield Fork(child=1)
    if chance.random() < 0.5:
        yield Switch(process=1)
    yield any_pin(source, here.slot, here.page, 1, flags=chance.choice(((), ("longterm",), ("write",))))
    yield any_pin(source, here.slot, here.page, 2, variant=chance.choice(REMOTE), process=chance.randrange(2))
    yield Touch(slot=here.slot, page=here.page, access="write")
    if chance.random() < 0.3:
        yield Exit()


@scene(BAR, *PAGES, *FILLED)
def pin_and_take_away(source: Source, kind: str) -> Iterator[Step]:
    """What is held goes away from under it, and is let go of later, or never."""
    chance = source.chance
    here = mapping(source, kind, prot="rw")
    yield here
    yield Touch(slot=here.slot, page=here.page, access=chance.choice(("read", "write")))
    yield any_pin(source, here.slot, here.page, 2, hold=0)
    at: dict[str, Any] = {"slot": here.slot, "page": here.page}
    other = source.other(here.slot)
    ways: list[Step] = [
        Unmap(pages=1, **at),
        Advise(pages=2, advice=chance.choice(("dontneed", "free", "pageout", "cold")), **at),
        Protect(pages=here.pages, prot=chance.choice(("r", "")), **at),
        Remap(pages=here.pages, new_pages=here.pages, to=other, flags=("maymove", "fixed"), **at),
    ]
    if kind in FILLED:
        ways.append(Probe(call="unmap_mapping_range", offset=here.offset, pages=2))
    yield chance.choice(ways)
    yield Touch(slot=here.slot, page=here.page, access=chance.choice(("read", "write")))
    if chance.random() < 0.7:
        yield Unpin(flags=chance.choice(((), ("dirty",))))


# -- transfers --------------------------------------------------------------------------------------------------------
@scene(BAR, *PAGES, *FILLED, weight=2)
def transfer_in_many_ways(source: Source, kind: str) -> Iterator[Step]:
    """Most kinds, of all of it or past its end."""
    here = mapping(source, kind, prot=source.chance.choice(("rw", "rw", "r", "")))
    yield here
    yield from touched(source, here)
    for way in source.chance.sample(TRANSFERS, 6):
        page, pages = some_of(source, here)
        yield Transfer(kind=way, slot=here.slot, page=page, pages=pages)


@scene(*PAGES, *FILLED)
def transfer_of_another(source: Source, kind: str) -> Iterator[Step]:
    """The child's memory by the parent, or the parent's by the child."""
    chance = source.chance
    here = mapping(source, kind, prot="rw")
    yield here
    yield Touch(slot=here.slot, page=here.page, access="write")
    yield Fork(child=1)
    of = chance.randrange(2)
    if of == 0:
        yield Switch(process=1)
    for way in chance.sample(OF_ANOTHER, 3):
        yield Transfer(kind=way, slot=here.slot, page=here.page, pages=chance.choice((1, 4)), process=of)
    yield Touch(slot=here.slot, page=here.page, access="write")


# -- DMA --------------------------------------------------------------------------------------------------------------
def any_prot(source: Source) -> str:
    """What a device may do."""
    return source.chance.choice(("rw", "rw", "r", "r", "w"))


@scene(BAR, *PAGES, weight=4, dma=True)
def dma(source: Source, kind: str) -> Iterator[Step]:
    """Mapped for a device, stored to, unmapped in one order or the other."""
    chance = source.chance
    here = mapping(source, kind, prot=chance.choice(("rw", "rw", "rw", "r", "")))
    yield here
    yield from touched(source, here)
    page, pages = some_of(source, here)
    yield Dma(action="map", iova=0, pages=pages, slot=here.slot, page=page, prot=any_prot(source))
    yield Touch(slot=here.slot, page=here.page, access="write")
    last: list[Step] = [Dma(action="unmap", iova=0, pages=pages), Unmap(slot=here.slot, page=here.page, pages=2)]
    yield from chance.sample(last, 2)


@scene(BAR, *PAGES, weight=2, dma=True)
def dma_wrong(source: Source, kind: str) -> Iterator[Step]:
    """IOVAs that are taken, parts of a mapping, no access at all."""
    chance = source.chance
    here = mapping(source, kind, prot="rw")
    yield here
    yield Dma(action="map", iova=1, offset=1, pages=2, slot=here.slot, page=here.page)
    wrong = [
        Dma(action="map", iova=1, pages=2, slot=here.slot, page=here.page, prot="r"),
        Dma(action="map", iova=2, pages=1, slot=here.slot, page=here.page, prot=""),
        Dma(action="unmap", iova=1, offset=1, pages=1),
        Dma(action="unmap", iova=1, offset=2, pages=2),
        Dma(action="unmap", iova=3, pages=4),
        Dma(action="unmap", iova=1, pages=8),
    ]
    yield from chance.sample(wrong, 4)


@scene(*PAGES, weight=2, dma=True)
def dma_with_a_limit(source: Source, kind: str) -> Iterator[Step]:
    """As much as may be locked, and more; two that map the same pages."""
    chance = source.chance
    here = mapping(source, kind, prot="rw", pages=4)
    yield here
    yield from touched(source, here)
    yield Limit(locked=chance.choice((0, 2, 3)))
    yield Dma(action="map", iova=0, pages=2, slot=here.slot, page=here.page, prot=any_prot(source))
    yield Dma(action="map", iova=1, pages=chance.choice((2, 4)), slot=here.slot, page=here.page, prot=any_prot(source))
    yield Advise(slot=here.slot, page=here.page, pages=2, advice="lock")
    yield Dma(action="unmap", iova=0, pages=2)
    yield Dma(action="map", iova=2, pages=1, slot=here.slot, page=here.page, prot=any_prot(source))


@scene(BAR, weight=2, dma=True)
def dma_of_a_device_that_is_off(source: Source, kind: str) -> Iterator[Step]:
    """Memory decode goes off before a BAR is mapped for DMA, or after."""
    here = mapping(source, kind, prot="rw")
    yield here
    steps: list[Step] = [
        Dev(action="memory_off", device=here.device),
        Dma(action="map", iova=0, pages=2, slot=here.slot, page=here.page),
    ]
    yield from source.chance.sample(steps, 2)
    yield Touch(slot=here.slot, page=here.page)
    yield Dev(action="memory_on", device=here.device)
    yield Dma(action="map", iova=1, pages=2, slot=here.slot, page=here.page)
    yield Dma(action="unmap", iova=0, pages=2)


# -- soft-dirty -------------------------------------------------------------------------------------------------------
@scene(BAR, *PAGES, *FILLED)
def clear_and_write(source: Source, kind: str) -> Iterator[Step]:
    """What is forgotten, and what a store, or a pin, brings back."""
    here = mapping(source, kind, prot="rw")
    yield here
    yield Touch(slot=here.slot, page=here.page, access="write")
    yield Clear(what=source.chance.choice(("soft_dirty", "soft_dirty", "soft_dirty", "referenced")))
    if source.chance.random() < 0.4:
        yield any_pin(source, here.slot, here.page, 1)
    yield Touch(slot=here.slot, page=here.page, access=source.chance.choice(("read", "write")))


# -- anything ---------------------------------------------------------------------------------------------------------
def map_anything(source: Source, where: dict[str, Any]) -> Map:
    """A mapping whose pages are counted."""
    chance = source.chance
    if not source.has.probe or source.has.devices or chance.random() < 0.5:
        return Map(backing=ANONYMOUS, **{**where, "sharing": "private"})
    return Map(
        backing="pfnmap",
        region="ram",
        frame=chance.choice((0, 0, 2)),
        insert=chance.choice(PAGE_INSERTS),
        opened="r" if chance.random() < 0.1 else "rw",
        **where,
    )


def pin_anything(source: Source) -> Step:
    """A pin of any range."""
    slot, page, pages = source.range()
    return any_pin(source, slot, page, pages)


def unpin_anything(source: Source) -> Step:
    """Something is let go of."""
    return Unpin(hold=source.chance.randrange(3))


def transfer_anything(source: Source) -> Step:
    """A transfer of any range."""
    slot, page, pages = source.range()
    return Transfer(kind=source.chance.choice(TRANSFERS), slot=slot, page=page, pages=pages)


def dma_anything(source: Source) -> Step:
    """Something is mapped for DMA, or unmapped."""
    slot, page, pages = source.range()
    where: dict[str, Any] = {
        "iova": source.chance.randrange(2),
        "offset": source.chance.choice((0, 0, 0, 1, 4)),
        "pages": pages,
    }
    if source.chance.random() < 0.4:
        return Dma(action="unmap", **where)
    return Dma(action="map", slot=slot, page=page, prot=any_prot(source), **where)


def anything(source: Source) -> list[tuple[int, Callable[[Source], Step]]]:
    """What a program may do beside what those about mappings do, and how often."""
    does: list[tuple[int, Callable[[Source], Step]]] = [(12, transfer_anything)]
    does += [(24, pin_anything), (8, unpin_anything)] if source.has.probe else []
    return [*does, (12, dma_anything)] if source.has.devices else does
