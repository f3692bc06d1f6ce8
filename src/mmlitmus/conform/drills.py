"""Short scenes that bring about what chance rarely does: each way to end of each call, on each kind of mapping.

A scene is given a kind of mapping and yields steps; it is asked for the next one only when the world knows of the last.
The rules of ``generate`` hold for scenes too: a step that one forbids is left out, and the scene goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .schema import ADVICE, INSERTS, Advise, Dev, Exit, Fork, Map, Probe, Protect, Remap, Step, Switch, Touch, Unmap

if TYPE_CHECKING:
    from .generate import Source

Scene = Callable[["Source", str], Iterator[Step]]

BAR, ANONYMOUS = "bar", "anonymous"
#: kinds that the probe module fills, and of them those that may be private
MODULE = INSERTS
MAY_BE_PRIVATE = ("remap", "remap_partial", "mixed")
#: regions whose frames have no struct page
UNCOUNTED = ("bar", "hole")
CONFLICTS = (("wc", ""), ("wc", "wp"), ("uc", "wc"), ("wt", "uc"), ("", "wc"), ("wc", "uc-"), ("uc-", "wc"))


@dataclass(frozen=True)
class Drill:
    """A scene, the kinds of mapping that it is for, and how often it has its turn when others have theirs once."""

    name: str
    scene: Scene
    kinds: tuple[str, ...]
    weight: int = 1


DRILLS: list[Drill] = []


def drill(*kinds: str, weight: int = 1) -> Callable[[Scene], Scene]:
    """Register a scene for kinds of mapping."""

    def register(scene: Scene) -> Scene:
        DRILLS.append(Drill(scene.__name__, scene, kinds, weight))
        return scene

    return register


def lessons(kinds: tuple[str, ...], scenes: Sequence[Drill] = DRILLS) -> list[tuple[str, Drill]]:
    """Every scene with every kind that it is for, of those in ``kinds``."""
    return [(kind, one) for one in scenes for kind in kinds if kind in one.kinds for _ in range(one.weight)]


# -- loads and stores -------------------------------------------------------------------------------------------------
@drill(BAR, *MODULE)
def touch_both(source: Source, kind: str) -> Iterator[Step]:
    """Its first page and its last."""
    here = source.fresh(kind, prot="rw", cache=source.chance.choice(("", "wc")))
    yield here
    for page in (here.page, here.page + here.pages - 1):
        for access in source.chance.sample(("read", "write"), 2):
            yield Touch(slot=here.slot, page=page, access=access)


@drill(BAR, *MODULE)
def touch_forbidden(source: Source, kind: str) -> Iterator[Step]:
    """A mapping without access, and one that can only be read."""
    here = source.fresh(kind, prot=source.chance.choice(("", "r")))
    yield here
    yield Touch(slot=here.slot, page=here.page, access="read")
    yield Protect(slot=here.slot, page=here.page, pages=here.pages, prot=source.chance.choice(("", "r")))
    for access in source.chance.sample(("read", "write"), 2):
        yield Touch(slot=here.slot, page=here.page, access=access)


@drill(BAR, *MODULE)
def touch_behind(source: Source, kind: str) -> Iterator[Step]:
    """The page behind it."""
    here = source.fresh(kind, pages=source.chance.choice((2, 3)))
    yield here
    yield Unmap(slot=here.slot, page=here.page + here.pages - 1, pages=1)
    access = source.chance.choice(("read", "write"))
    yield Touch(slot=here.slot, page=here.page + here.pages - 1, access=access)


@drill(*MODULE)
def touch_taken_away(source: Source, kind: str) -> Iterator[Step]:
    """After unmap_mapping_range of a part."""
    here = source.fresh(kind, prot="rw", offset=source.chance.choice((0, 1)))
    yield here
    yield Touch(slot=here.slot, page=here.page, access=source.chance.choice(("read", "write")))
    yield Probe(call="unmap_mapping_range", offset=here.offset, pages=source.chance.choice((1, 2)))
    for access in source.chance.sample(("read", "write"), 2):
        yield Touch(slot=here.slot, page=here.page, access=access)


@drill(BAR)
def touch_disabled(source: Source, kind: str) -> Iterator[Step]:
    """With memory decode off, and on again."""
    here = source.fresh(kind, prot="rw")
    yield here
    yield Touch(slot=here.slot, page=here.page, access=source.chance.choice(("read", "write")))
    yield Dev(action="memory_off", device=here.device)
    for access in source.chance.sample(("read", "write"), 2):
        yield Touch(slot=here.slot, page=here.page, access=access)
    if here.device == 0:
        yield Dev(action="read")
    yield Dev(action="memory_on", device=here.device)
    yield Touch(slot=here.slot, page=here.page, access=source.chance.choice(("read", "write")))


@drill(*MAY_BE_PRIVATE)
def touch_private(source: Source, kind: str) -> Iterator[Step]:
    """A store copies the page; what was copied is changed, moved and taken away."""
    here = source.fresh(kind, prot="rw", sharing="private")
    yield here
    page = here.page + source.chance.choice((0, 0, here.pages - 1))
    for access in ("read", "write"):
        yield Touch(slot=here.slot, page=page, access=access)
    yield from source.chance.choice((_protect_back, _move, _take_away))(source, here)
    yield Touch(slot=here.slot, page=page, access="read")


def _protect_back(source: Source, here: Map) -> Iterator[Step]:
    for prot in (source.chance.choice(("r", "")), "rw"):
        yield Protect(slot=here.slot, page=here.page, pages=here.pages, prot=prot)


def _move(source: Source, here: Map) -> Iterator[Step]:
    yield Remap(
        slot=here.slot, page=here.page, pages=here.pages, new_pages=here.pages, to=source.other(here.slot),
        flags=("maymove", "fixed"),
    )  # fmt: skip


def _take_away(source: Source, here: Map) -> Iterator[Step]:
    yield Probe(call="unmap_mapping_range", offset=here.offset, pages=1)


# -- munmap and mprotect ----------------------------------------------------------------------------------------------
@drill(BAR, ANONYMOUS, *MODULE)
def unmap_parts(source: Source, kind: str) -> Iterator[Step]:
    """An end, the middle, all with holes, and what is gone already."""
    here = source.fresh(kind, pages=4)
    yield here
    yield Touch(slot=here.slot, page=here.page)
    for page, pages in source.chance.sample(((0, 1), (1, 2), (3, 1), (0, 4)), 3):
        yield Unmap(slot=here.slot, page=here.page + page, pages=pages)


@drill(BAR, *MODULE)
def protect_parts(source: Source, kind: str) -> Iterator[Step]:
    """A part, after a load and a store, and back."""
    here = source.fresh(kind, prot="rw", pages=4)
    yield here
    for access in source.chance.sample(("read", "write"), 2):
        yield Touch(slot=here.slot, page=here.page, access=access)
    at, pages = source.chance.choice(((0, 1), (1, 2), (0, 4), (2, 2)))
    for prot in (source.chance.choice(("r", "", "rx")), "rw"):
        yield Protect(slot=here.slot, page=here.page + at, pages=pages, prot=prot)
        yield Touch(slot=here.slot, page=here.page + at, access=source.chance.choice(("read", "write")))


@drill(BAR, *MODULE, weight=2)
def protect_over_a_hole(source: Source, kind: str) -> Iterator[Step]:
    """A range with a hole in it: what comes before the hole is changed."""
    here = source.fresh(kind, pages=4)
    yield here
    at = source.chance.choice((1, 2, 3))
    yield Unmap(slot=here.slot, page=here.page + at, pages=1)
    yield Protect(slot=here.slot, page=here.page, pages=4, prot=source.chance.choice(("r", "rw")))
    yield Protect(slot=here.slot, page=here.page + at, pages=1, prot="r")


@drill(*MODULE, weight=2)
def protect_denied(source: Source, kind: str) -> Iterator[Step]:
    """A file that was opened for reading, mapped shared."""
    here = source.fresh(kind, prot="r", sharing="shared", opened="r")
    yield here
    yield Protect(slot=here.slot, page=here.page, pages=here.pages, prot=source.chance.choice(("rw", "wx", "w")))
    yield Protect(slot=here.slot, page=here.page, pages=1, prot=source.chance.choice(("", "rx")))


@drill(BAR, ANONYMOUS)
def execute(source: Source, kind: str) -> Iterator[Step]:
    """What some kernels do not let anybody execute."""
    here = source.fresh(kind, prot=source.chance.choice(("rx", "rwx", "wx")))
    yield here
    here = source.fresh(kind, prot="rw")
    yield here
    yield Protect(slot=here.slot, page=here.page, pages=here.pages, prot=source.chance.choice(("rx", "rwx")))


# -- mmap -------------------------------------------------------------------------------------------------------------
@drill(BAR, ANONYMOUS, *MODULE, weight=2)
def map_where_something_is(source: Source, kind: str) -> Iterator[Step]:
    """With MAP_FIXED_NOREPLACE, then with MAP_FIXED."""
    here = source.fresh(kind)
    yield here
    for flag in ("fixed_noreplace", "fixed"):
        for sharing in source.chance.sample(("private", "shared"), 2):
            yield replace(source.fresh(kind, slot=here.slot, sharing=sharing), page=here.page, flags=(flag,))


@drill(*MODULE)
def map_denied(source: Source, kind: str) -> Iterator[Step]:
    """For writing, shared, of a file that was opened for reading."""
    yield source.fresh(kind, prot=source.chance.choice(("rw", "w", "wx")), sharing="shared", opened="r")
    yield source.fresh(kind, prot="rw", sharing="private", opened="r")


@drill(BAR, *MODULE, weight=2)
def map_private(source: Source, kind: str) -> Iterator[Step]:
    """What most drivers refuse; the half of one page that remap_partial fills is all of it, and may be."""
    for pages in (4, 1):
        yield source.fresh(kind, prot=source.chance.choice(("rw", "r")), sharing="private", pages=pages)


@drill(BAR)
def map_past_the_end(source: Source, kind: str) -> Iterator[Step]:
    """Of a BAR."""
    here = source.fresh(kind, pages=4)
    yield replace(here, offset=source.end(here.device) - source.chance.choice((0, 1, 3, 4)))


@drill(BAR, *MODULE)
def map_locked(source: Source, kind: str) -> Iterator[Step]:
    """With MAP_LOCKED."""
    yield replace(here := source.fresh(kind), flags=(*here.flags, "locked"))


@drill("remap", "remap_partial", "remap_refill", "remap_fault", "fault_pfn", "mixed", weight=8)
def map_with_another_type(source: Source, kind: str) -> Iterator[Step]:
    """Frames that have a cache type already: beside the mapping that gave it to them, then over it, then alone."""
    chance = source.chance
    first, second = chance.choice(CONFLICTS)
    region, frame = chance.choice(("bar", "reserved", "hole", "ram")), chance.choice((0, 2))
    # who reserves first counts, and only some kinds do; remap_fault has to be the first of its program
    one, other = (kind, "remap") if kind == "remap_fault" else ("remap", kind)
    here = source.fresh(one, cache=first, prot="rw", pages=4, region=region, frame=frame)
    yield here
    yield Touch(slot=here.slot, page=here.page)
    if other == "mixed" and region not in UNCOUNTED:
        other = "remap"
    there = source.fresh(
        other, cache=second, prot="rw", pages=4, region=region, frame=frame + chance.choice((0, 2, 3, 3)),
        slot=source.other(here.slot),
        sharing=chance.choice(("shared", "private")) if other in MAY_BE_PRIVATE else "shared",
    )  # fmt: skip
    yield there
    yield Touch(slot=there.slot, page=there.page)
    yield replace(there, slot=here.slot, page=here.page, flags=("fixed",))
    yield Touch(slot=here.slot, page=here.page)


@drill("remap", "remap_refill")
def map_over_its_own_frames(source: Source, kind: str) -> Iterator[Step]:
    """With another cache type, nobody else having them: is the old type still in the way?"""
    first, second = source.chance.choice(CONFLICTS)
    region = source.chance.choice(("bar", "reserved", "hole"))
    here = source.fresh(kind, cache=first, prot="rw", pages=4, region=region, frame=0, offset=0)
    yield here
    yield replace(here, cache=second, flags=("fixed",))
    yield Touch(slot=here.slot, page=here.page, access="write")


# -- mremap -----------------------------------------------------------------------------------------------------------
@drill(BAR, *MODULE)
def remap_moves(source: Source, kind: str) -> Iterator[Step]:
    """All of it, or a part; to where something is or not; and back."""
    chance = source.chance
    here = source.fresh(kind, prot="rw", pages=4)
    yield here
    yield Touch(slot=here.slot, page=here.page, access=chance.choice(("read", "write")))
    to = source.other(here.slot)
    at, pages, new = chance.choice(((0, 4, 4), (1, 2, 2), (0, 4, 2), (3, 1, 1)))
    yield Remap(
        slot=here.slot, page=here.page + at, pages=pages, new_pages=new, to=to, flags=("maymove", "fixed")
    )  # fmt: skip
    for slot, page in ((to, 0), (here.slot, here.page + at)):
        yield Touch(slot=slot, page=page, access=chance.choice(("read", "write")))


@drill(BAR, *MODULE)
def remap_in_place(source: Source, kind: str) -> Iterator[Step]:
    """Shorter, as it is, and longer."""
    chance = source.chance
    here = source.fresh(kind, pages=4)
    yield here
    flags: tuple[str, ...] = chance.choice(((), ("maymove",)))
    for pages, new in chance.sample(((4, 4), (4, 5), (2, 3), (4, 2)), 3):
        yield Remap(slot=here.slot, page=here.page, pages=pages, new_pages=new, flags=flags)


@drill(BAR, *MODULE)
def remap_refused(source: Source, kind: str) -> Iterator[Step]:
    """Lengths, flags and places that no mremap takes."""
    chance = source.chance
    here = source.fresh(kind, pages=4)
    yield here
    to = source.other(here.slot)
    both = ("maymove", "fixed")
    wrong: list[Remap] = [
        Remap(slot=here.slot, page=here.page, pages=4, new_pages=0, to=to, flags=both),
        Remap(slot=here.slot, page=here.page, pages=4, new_pages=4, to=to, flags=("fixed",)),
        Remap(slot=here.slot, page=here.page, pages=4, new_pages=4, to=here.slot, flags=both),
        Remap(slot=here.slot, page=here.page, pages=4, new_pages=4, to=to, flags=(*both, "dontunmap")),
        Remap(slot=here.slot, page=here.page, pages=4, new_pages=5, to=to, flags=both),
        Remap(slot=here.slot, page=here.page, pages=0, new_pages=4, to=to, flags=both),
    ]
    yield from chance.sample(wrong, 3)


@drill(BAR, *MODULE, weight=4)
def remap_with_a_hole(source: Source, kind: str) -> Iterator[Step]:
    """A range that is not all mapped, from its beginning and from the hole on."""
    here = source.fresh(kind, pages=4)
    yield here
    at = source.chance.choice((0, 1, 2, 3))
    yield Unmap(slot=here.slot, page=here.page + at, pages=1)
    to = source.other(here.slot)
    page, pages = source.chance.choice(((0, 4), (0, 4), (at, 1), (at, 2)))
    yield Remap(
        slot=here.slot, page=here.page + page, pages=pages, new_pages=pages, to=to, flags=("maymove", "fixed")
    )  # fmt: skip
    yield Remap(slot=here.slot, page=here.page + at, pages=2, new_pages=source.chance.choice((1, 2, 3)))


# -- madvise, mlock, munlock ------------------------------------------------------------------------------------------
ALL_ADVICE = (*ADVICE, "lock", "unlock")


@drill(BAR, ANONYMOUS, *MODULE, weight=3)
def advise(source: Source, kind: str) -> Iterator[Step]:
    """Most advice, each for all of it or a part."""
    here = source.fresh(kind, pages=4)
    yield here
    yield Touch(slot=here.slot, page=here.page)
    for advice in source.chance.sample(ALL_ADVICE, 12):
        page, pages = source.chance.choice(((0, 4), (0, 2), (0, 1), (2, 2)))
        yield Advise(slot=here.slot, page=here.page + page, pages=pages, advice=advice)


@drill(BAR, ANONYMOUS, *MODULE, weight=4)
def advise_over_a_hole(source: Source, kind: str) -> Iterator[Step]:
    """Most advice, with a hole behind, in the middle or in front."""
    here = source.fresh(kind, pages=4)
    yield here
    yield Unmap(slot=here.slot, page=here.page + source.chance.choice((1, 2, 3, 3, 0)), pages=1)
    for advice in source.chance.sample(ALL_ADVICE, 15):
        yield Advise(slot=here.slot, page=here.page, pages=4, advice=advice)


@drill(BAR, *MODULE)
def lock_and_unlock(source: Source, kind: str) -> Iterator[Step]:
    """All of it, and a part, and past its end."""
    here = source.fresh(kind, pages=3)
    yield here
    for advice in source.chance.sample(("lock", "unlock"), 2):
        for page, pages in ((0, 3), (1, 1)):
            yield Advise(slot=here.slot, page=here.page + page, pages=pages, advice=advice)


# -- fork -------------------------------------------------------------------------------------------------------------
@drill(BAR, *MODULE)
def fork_and_both_touch(source: Source, kind: str) -> Iterator[Step]:
    """The child, then the parent, then one of them alone."""
    chance = source.chance
    here = source.fresh(kind, prot="rw")
    yield here
    yield Touch(slot=here.slot, page=here.page, access=chance.choice(("read", "write")))
    if chance.random() < 0.3:
        yield Advise(slot=here.slot, page=here.page, pages=here.pages, advice=chance.choice(("dontfork", "dofork")))
    yield Fork(child=1)
    yield Switch(process=1)
    for access in chance.sample(("read", "write"), 2):
        yield Touch(slot=here.slot, page=here.page, access=access)
    yield from chance.choice((_protect_back, _unmap, _exit))(source, here)
    yield Switch(process=0)
    yield Touch(slot=here.slot, page=here.page, access=chance.choice(("read", "write")))


def _unmap(source: Source, here: Map) -> Iterator[Step]:
    yield Unmap(slot=here.slot, page=here.page, pages=source.chance.randint(1, here.pages))


def _exit(source: Source, here: Map) -> Iterator[Step]:
    yield Exit()


@drill("remap", "remap_partial", "mixed")
def fork_of_a_copy(source: Source, kind: str) -> Iterator[Step]:
    """A private mapping whose first page, or another, was copied before."""
    chance = source.chance
    here = source.fresh(kind, prot="rw", sharing="private", cache=chance.choice(("", "wc")))
    yield here
    yield Touch(slot=here.slot, page=here.page + chance.choice((0, 0, 1)) % here.pages, access="write")
    yield Fork(child=1)
    yield Switch(process=1)
    yield Touch(slot=here.slot, page=here.page, access=chance.choice(("read", "write")))
    yield Exit()
    yield Switch(process=0)
    yield Touch(slot=here.slot, page=here.page, access="write")


@drill("remap")
def fork_after_it_was_taken_away(source: Source, kind: str) -> Iterator[Step]:
    """A tracked mapping whose first page is not there any more."""
    here = source.fresh(kind, prot="rw", cache=source.chance.choice(("", "wc", "uc")), offset=0)
    yield here
    yield Probe(call="unmap_mapping_range", offset=0, pages=1)
    yield Fork(child=1)
    yield Switch(process=1)
    yield Unmap(slot=here.slot, page=here.page, pages=here.pages)
    yield Exit()
