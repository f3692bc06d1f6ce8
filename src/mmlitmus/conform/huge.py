"""Scenes of huge leaves: mappings of whole blocks of 2 MiB, and what splits, moves, shares and takes away a leaf.

Programs have them only when asked to (``generate.programs(..., language="huge")``). A slot has three blocks and a half;
what is looked at of it is its pages at the edges of blocks, and those that the program's steps name (``looked_at``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .drills import ANONYMOUS, BAR, Drill, Scene
from .schema import (
    ADVICE,
    CACHES,
    LOCKS,
    MORE_ADVICE,
    Advise,
    Clear,
    Dev,
    Exit,
    Fork,
    Lockall,
    Map,
    Probe,
    Protect,
    Remap,
    Step,
    Switch,
    Touch,
    Unlockall,
    Unmap,
)
from .world import BLOCK, HUGE_PAGES

if TYPE_CHECKING:
    from .generate import Parts, Source

HUGE = "huge"
#: the languages that these scenes are for
LANGUAGES = ("huge", "huge-plain")
#: regions that are mapped where leaves are not marked special: those with struct pages
PLAIN = ("reserved", "reserved", "reserved", "ram")
#: the slots of these programs
SLOTS = "abc"
#: region of the probe module's -> pages that programs map of it
REGIONS = {"bar": 2048, "reserved": 2048, "hole": 2048, "ram": BLOCK}
#: where a mapping begins, and how long it is: blocks, and what does not fit them
STARTS = (0, 0, 0, 0, BLOCK, BLOCK // 2, 1)
LENGTHS = (BLOCK, BLOCK, 2 * BLOCK, 2 * BLOCK, 2 * BLOCK, 3 * BLOCK, BLOCK + 1, 768, 2 * BLOCK - 1, 4)
#: the first frame of a region, or page of a BAR, that a mapping has: at a multiple of a leaf's size, or not
FRAMES = (0, 0, 0, BLOCK, BLOCK, 1, BLOCK // 2)
#: pages of a slot that are always looked at
EDGES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK)
#: other ways to fill a mapping that is as large, or lies in the middle of one
OTHERS = ("fault_pfn", "remap", "remap_refill", "fault_pfn_prot")
ALL_ADVICE = (*ADVICE, *MORE_ADVICE, *LOCKS)
SCENES: list[Drill] = []


def kinds(has: Parts) -> tuple[str, ...]:
    """The kinds of mapping that scenes are played with: a BAR, of the last device, or the module's."""
    return (BAR,) if has.devices else (HUGE,) if has.probe else ()


def scene(*of: str, weight: int = 1) -> Any:
    """Register a scene for kinds of mapping."""

    def register(one: Scene) -> Scene:
        SCENES.append(Drill(one.__name__, one, of or (BAR, HUGE), weight))
        return one

    return register


def looked_at(steps: Sequence[Step], slot: str) -> list[int]:
    """The pages of a slot that are looked at after every step."""
    found = set(EDGES)
    for step in steps:
        if getattr(step, "slot", None) == slot:
            page, pages = getattr(step, "page", 0), getattr(step, "pages", 1)
            found |= {page, page + pages - 1, page + pages}
        if isinstance(step, Remap) and step.to == slot:
            found |= {0, step.new_pages - 1}
    return sorted(page for page in found if 0 <= page <= HUGE_PAGES)


# -- what scenes are made of ------------------------------------------------------------------------------------------
def large(source: Source, kind: str, **asked: Any) -> Map:
    """A mapping that leaves may fill; over what is there, if anything may be."""
    chance = source.chance
    where: dict[str, Any] = {
        "slot": asked.pop("slot", None) or chance.choice(SLOTS),
        "page": chance.choice(STARTS),
        "pages": chance.choice(LENGTHS),
        "prot": chance.choice(("rw", "rw", "rw", "r", "w", "x", "rx", "")),
        "sharing": "private" if chance.random() < 0.05 else "shared",
    }
    if (source.world.current, where["slot"]) in source.world.used:
        where["flags"] = ("fixed",)
    where |= asked
    frame = chance.choice(FRAMES)
    if kind == BAR:
        device = source.has.devices - 1
        end = source.end(device)
        offset = asked.get("offset", frame if frame < end else 0)
        where |= {"backing": BAR, "offset": offset, "pages": min(where["pages"], end - offset), **source.bar(device)}
    else:
        region = asked.get("region") or chance.choice(regions(source))
        frame = 0 if region == "ram" else asked.get("frame", frame)
        where |= {"backing": "pfnmap", "insert": kind, "region": region, "frame": frame}
        where["offset"] = chance.choice((0, frame))
        where["cache"] = asked.get("cache", chance.choice(("", "", "", "wc", "uc-", *CACHES)))
        where["pages"] = min(where["pages"], REGIONS[region] - frame)
    where["pages"] = min(where["pages"], HUGE_PAGES - where["page"])
    return Map(**where)


def regions(source: Source) -> tuple[str, ...]:
    """The regions that leaves may be of; some more often."""
    return PLAIN if source.language == "huge-plain" else (*REGIONS, "bar", "bar")


def whole(source: Source, kind: str, **asked: Any) -> Map:
    """Two blocks that leaves do fill."""
    asked = {"page": 0, "pages": 2 * BLOCK, "prot": "rw", "sharing": "shared", **asked}
    if kind == BAR:
        return large(source, kind, offset=0, **asked)
    region = source.chance.choice([one for one in regions(source) if one != "ram"])
    return large(source, kind, **{"region": region, "frame": source.chance.choice((0, BLOCK)), **asked})


def point(source: Source, here: Map) -> int:
    """A page of a mapping, near the edges of blocks more often than not."""
    edges = [page for n in range(4) for page in (n * BLOCK - 1, n * BLOCK, n * BLOCK + 1, n * BLOCK + BLOCK // 2)]
    inside = [page for page in edges if here.page <= page < here.page + here.pages]
    return source.chance.choice((*inside, here.page, here.page + here.pages - 1))


def touches(source: Source, here: Map, most: int = 3) -> Iterator[Step]:
    """A load or a store of a few pages."""
    for _ in range(source.chance.randint(1, most)):
        access = source.chance.choice(("read", "write"))
        yield Touch(slot=here.slot, page=point(source, here), access=access)


def part(source: Source, here: Map) -> tuple[int, int]:
    """A part of a mapping: page and pages. Blocks, what begins or ends in the middle of one, single pages; or all."""
    chance = source.chance
    if chance.random() < 0.15:
        return here.page, here.pages
    first = point(source, here)
    last = point(source, here)
    if chance.random() < 0.35:
        return first, 1
    if chance.random() < 0.3:
        first = max(here.page, first // BLOCK * BLOCK)
        return first, min(BLOCK, here.page + here.pages - first)
    first, last = min(first, last), max(first, last)
    return first, last - first + 1


# -- scenes -----------------------------------------------------------------------------------------------------------
@scene(weight=2)
def leaf_or_not(source: Source, kind: str) -> Iterator[Step]:
    """Any place, length, frame and protection: does a leaf come?"""
    here = large(source, kind)
    yield here
    yield from touches(source, here, 4)


@scene(weight=2)
def leaf_unmapped_in_part(source: Source, kind: str) -> Iterator[Step]:
    """A part goes by munmap; what is left is touched."""
    here = whole(source, kind)
    yield here
    yield from touches(source, here)
    for _ in range(2):
        page, pages = part(source, here)
        yield Unmap(slot=here.slot, page=page, pages=pages)
        yield from touches(source, here, 2)


@scene(weight=3)
def leaf_protected_in_part(source: Source, kind: str) -> Iterator[Step]:
    """A part becomes something else, and what it was again."""
    here = whole(source, kind)
    yield here
    yield from touches(source, here)
    page, pages = part(source, here)
    for prot in (source.chance.choice(("r", "w", "x", "", "rx")), "rw"):
        yield Protect(slot=here.slot, page=page, pages=pages, prot=prot)
        yield Touch(slot=here.slot, page=page, access=source.chance.choice(("read", "write")))
        yield from touches(source, here, 1)


@scene(weight=3)
def leaf_advised_in_part(source: Source, kind: str) -> Iterator[Step]:
    """Any advice for a part."""
    here = whole(source, kind)
    yield here
    yield from touches(source, here)
    for advice in source.chance.sample(ALL_ADVICE, 4):
        page, pages = part(source, here)
        yield Advise(slot=here.slot, page=page, pages=pages, advice=advice)
        yield from touches(source, here, 1)


@scene(weight=3)
def leaf_moved(source: Source, kind: str) -> Iterator[Step]:
    """All of it, a block, or what is in the middle of one, goes to another slot; and back."""
    here = whole(source, kind)
    yield here
    yield from touches(source, here)
    page, pages = part(source, here)
    new = source.chance.choice((pages, pages, pages, max(1, pages // 2)))
    to = source.chance.choice([s for s in SLOTS if s != here.slot])
    yield Remap(slot=here.slot, page=page, pages=pages, new_pages=new, to=to, flags=("maymove", "fixed"))
    for _ in range(2):
        yield Touch(slot=to, page=source.chance.choice((0, new - 1, min(new - 1, BLOCK))), access="write")
    yield Touch(slot=here.slot, page=page)
    yield from touches(source, here, 1)


@scene()
def leaf_resized(source: Source, kind: str) -> Iterator[Step]:
    """Shorter, by a part of a block; longer; where it is, or wherever."""
    here = whole(source, kind)
    yield here
    yield from touches(source, here)
    for new in source.chance.sample((BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK + 1, 1, 3 * BLOCK), 2):
        flags: tuple[str, ...] = source.chance.choice(((), ("maymove",)))
        yield Remap(slot=here.slot, page=here.page, pages=here.pages, new_pages=new, flags=flags)
        yield from touches(source, here, 2)


@scene(weight=3)
def leaf_forked(source: Source, kind: str) -> Iterator[Step]:
    """With what the child does not get, and what each does to it."""
    chance = source.chance
    here = whole(source, kind, prot=chance.choice(("rw", "rw", "r")))
    yield here
    yield from touches(source, here)
    if chance.random() < 0.6:
        page, pages = part(source, here)
        advice = chance.choice(("dontfork", "dontfork", "wipeonfork"))
        yield Advise(slot=here.slot, page=page, pages=pages, advice=advice)
        yield from touches(source, here, 1)
    yield Fork(child=1)
    yield Switch(process=1)
    yield from touches(source, here)
    page, pages = part(source, here)
    yield chance.choice((
        Unmap(slot=here.slot, page=page, pages=pages), Protect(slot=here.slot, page=page, pages=pages, prot="r"),
        Exit(),
    ))  # fmt: skip
    yield Switch(process=0)
    yield from touches(source, here, 2)


@scene(HUGE, weight=3)
def leaf_taken_away(source: Source, kind: str) -> Iterator[Step]:
    """unmap_mapping_range of a part of the file."""
    here = whole(source, kind)
    yield here
    yield from touches(source, here)
    for _ in range(2):
        page, pages = part(source, here)
        yield Probe(call="unmap_mapping_range", offset=here.offset + page - here.page, pages=pages)
        yield from touches(source, here, 2)


@scene(BAR, weight=4)
def leaf_disabled(source: Source, kind: str) -> Iterator[Step]:
    """Memory decode goes off and on, with one mapping or two."""
    here = large(source, kind, prot="rw")
    yield here
    yield from touches(source, here)
    if source.chance.random() < 0.5:
        there = large(source, kind, prot="rw", slot=source.chance.choice([s for s in SLOTS if s != here.slot]))
        yield there
        yield from touches(source, there, 1)
    yield Dev(action="memory_off", device=here.device)
    yield from touches(source, here, 1)
    yield Dev(action="memory_on", device=here.device)
    yield from touches(source, here)


@scene(weight=2)
def leaf_with_a_hole(source: Source, kind: str) -> Iterator[Step]:
    """A part is mapped over by something else, and by the same again."""
    chance = source.chance
    here = whole(source, kind)
    yield here
    yield from touches(source, here)
    page, _ = part(source, here)
    over: dict[str, Any] = {"slot": here.slot, "page": page, "flags": ("fixed",)}
    over["pages"] = chance.choice((1, 4, BLOCK // 4))
    if kind == HUGE and chance.random() < 0.6:
        yield large(
            source, chance.choice((HUGE, *OTHERS)), prot="rw", sharing="shared", region=regions(source)[2], **over
        )
    else:
        yield Map(backing=ANONYMOUS, sharing="private", **over)
    yield Touch(slot=here.slot, page=page, access="write")
    yield from touches(source, here)


@scene(HUGE, weight=2)
def leaf_forgotten(source: Source, kind: str) -> Iterator[Step]:
    """A write to clear_refs, and what a store brings back."""
    here = whole(source, kind)
    yield here
    yield from touches(source, here)
    yield Clear(what=source.chance.choice(("soft_dirty", "soft_dirty", "referenced", "referenced_mapped")))
    yield from touches(source, here)


@scene(weight=2)
def leaf_locked(source: Source, kind: str) -> Iterator[Step]:
    """mlock of a part, mlockall, and what becomes of it."""
    chance = source.chance
    here = whole(source, kind)
    yield here
    yield from touches(source, here)
    page, pages = part(source, here)
    yield Advise(slot=here.slot, page=page, pages=pages, advice=chance.choice(LOCKS))
    yield chance.choice((
        Protect(slot=here.slot, page=page, pages=pages, prot="r"),
        Lockall(flags=("current",)), Lockall(flags=("current", "future")), Unlockall(),
        Unmap(slot=here.slot, page=page, pages=pages),
    ))  # fmt: skip
    yield from touches(source, here)


@scene(HUGE, weight=4)
def entry_beside_a_leaf(source: Source, kind: str) -> Iterator[Step]:
    """The module puts in an entry, or a range of them, where a leaf is, or where one would be."""
    chance = source.chance
    here = whole(source, kind)
    yield here
    if chance.random() < 0.6:
        yield from touches(source, here)
    for _ in range(2):
        page, pages = point(source, here), chance.choice((1, 1, 2, BLOCK))
        call = chance.choice(("insert_pfn", "insert_pfn", "remap_pfn_range"))
        yield Probe(call=call, slot=here.slot, page=page, pages=1 if call == "insert_pfn" else pages)
        yield from touches(source, here, 2)


# -- anything ---------------------------------------------------------------------------------------------------------
def _range(source: Source) -> tuple[str, int, int]:
    """A likely mapping, or a part; when wrong, any place."""
    runs = source.world.runs()
    chance = source.chance
    if source.is_wrong() or not runs:
        page = chance.choice((0, 1, BLOCK // 2, BLOCK - 1, BLOCK, 2 * BLOCK))
        return chance.choice(SLOTS), page, chance.choice((1, 2, BLOCK, BLOCK + 1))
    slot, first, pages = chance.choice(runs)
    return (slot, *part(source, Map(slot=slot, page=first, pages=pages)))


def anything(source: Source, first: bool) -> Step | None:
    """One step; None where there is nothing to do it to."""
    chance = source.chance
    kind = chance.choice(kinds(source.has))
    if first or not source.world.runs():
        return large(source, kind)
    slot, page, pages = _range(source)
    at: dict[str, Any] = {"slot": slot, "page": page}
    name = chance.choices(
        ("map", "touch", "unmap", "protect", "advise", "remap", "fork", "switch", "exit", "clear", "call", "lockall"),
        (12, 34, 9, 10, 9, 9, 6, 9, 1, 2, 9, 1),
    )[0]
    if name == "map":
        if chance.random() < 0.3 and source.has.probe and not source.has.devices:
            return large(source, chance.choice(OTHERS))
        return large(source, kind)
    if name == "touch":
        return Touch(access=chance.choice(("read", "write")), **at)
    if name == "unmap":
        return Unmap(pages=pages, **at)
    if name == "protect":
        return Protect(pages=pages, prot=chance.choice(("r", "rw", "rw", "", "w", "x", "rx", "wx", "rwx")), **at)
    if name == "advise":
        return Advise(pages=pages, advice=chance.choice((*ALL_ADVICE, "dontfork", "dofork", "nohugepage")), **at)
    if name == "remap":
        new = chance.choice((pages, pages, max(1, pages // 2), pages + 1))
        if chance.random() < 0.25:
            return Remap(pages=pages, new_pages=new, flags=chance.choice(((), ("maymove",))), **at)
        flags = ("maymove", "fixed") if chance.random() < 0.9 else ("maymove", "fixed", "dontunmap")
        return Remap(pages=pages, new_pages=new, to=chance.choice(SLOTS), flags=flags, **at)
    if name == "clear":
        return Clear(what=chance.choice(("soft_dirty", "referenced")))
    if name == "lockall":
        return chance.choice((Lockall(flags=("current",)), Lockall(flags=("future",)), Unlockall()))
    if name == "call":
        return _call(source, at, pages)
    makes = {"fork": source.fork, "switch": source.switch, "exit": source.exit}
    return makes[name]()


def _call(source: Source, at: dict[str, Any], pages: int) -> Step:
    chance = source.chance
    if source.has.devices:
        return Dev(action=chance.choice(("memory_off", "memory_on", "memory_on")), device=source.has.devices - 1)
    if chance.random() < 0.5:
        offset = chance.choice((0, 1, BLOCK, BLOCK // 2))
        return Probe(call="unmap_mapping_range", offset=offset, pages=min(pages, 2 * BLOCK))
    call = chance.choice(("insert_pfn", "remap_pfn_range"))
    return Probe(call=call, pages=1 if call == "insert_pfn" else min(pages, BLOCK), **at)
