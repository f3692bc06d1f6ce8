"""Programs for real kernels, from a seed: well-typed by construction, wrong on purpose at a set rate.

A program is steps of ``schema`` in a small world: processes 0 and 1, four slots of eight pages, a few frames of every
region of the probe module's, so that mappings of the same frames meet. What is left out is left out by a rule with a
name: it would end the guest (``KILLS``), or the model says nothing about it (``UNMODELLED``). Everything else may come,
errors included: which errno a wrong call gets is half of what is compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .schema import (
    ADVICE,
    CACHES,
    INSERTS,
    Advise,
    Dev,
    Exit,
    Fork,
    Map,
    Probe,
    Program,
    Protect,
    Remap,
    Step,
    Switch,
    Touch,
    Unmap,
)

SLOTS = "abcd"
PAGES = 8
#: of a region, in pages: few, so that mappings meet
FRAMES = 12
#: how many calls of a hundred are wrong on purpose
WRONG = 20
PROTECTIONS = ("", "r", "w", "rw", "rx", "wx", "rwx")
REGIONS = ("bar", "bar", "bar", "reserved", "reserved", "hole", "hole", "ram")
#: what the emulated edu device can do: it has no power management, and its function cannot be reset
ACTIONS = ("memory_off", "memory_off", "memory_on", "memory_on", "read")
#: madvise and mlock of anonymous memory that do nothing to pages or answer by what pages there are
PLAIN_ADVICE = (
    "normal", "random", "sequential", "willneed", "dontneed", "dontfork", "dofork", "dontdump", "dodump",
)  # fmt: skip

Place = tuple[int, str, int]


@dataclass(frozen=True)
class Kind:
    """What a page may be mapped by."""

    backing: str
    insert: str = ""
    region: str = ""


@dataclass
class World:
    """What may be mapped where after some steps. A call may fail, so a page may be several things, or nothing.

    ``likely``: what is there if every call went as it was meant to.
    """

    maybe: dict[Place, set[Kind]] = field(default_factory=dict)
    likely: dict[Place, Kind] = field(default_factory=dict)
    used: set[tuple[int, str]] = field(default_factory=set)
    live: list[int] = field(default_factory=lambda: [0])
    born: list[int] = field(default_factory=lambda: [0])
    current: int = 0

    def kinds(self, slot: str, page: int, pages: int, process: int | None = None) -> set[Kind]:
        """What may be mapped in a range of pages."""
        who = self.current if process is None else process
        found: set[Kind] = set()
        for at in range(page, page + pages):
            found |= self.maybe.get((who, slot, at), set())
        return found

    def anonymous(self, slot: str, page: int, pages: int) -> bool:
        """May there be anonymous memory in the range?"""
        return any(kind.backing == "anonymous" for kind in self.kinds(slot, page, pages))

    def everywhere(self) -> set[Kind]:
        """What may be mapped anywhere."""
        return set().union(*self.maybe.values())

    def runs(self) -> list[tuple[str, int, int]]:
        """The likely mappings of the current process: slot, first page, pages."""
        found: list[tuple[str, int, int]] = []
        for slot in SLOTS:
            page = 0
            while page < PAGES:
                first, kind = page, self.likely.get((self.current, slot, page))
                while page < PAGES and self.likely.get((self.current, slot, page)) == kind:
                    page += 1
                if kind is not None:
                    found.append((slot, first, page - first))
        return found

    # -- what a step does to it ----------------------------------------------------------------------------------
    def after(self, step: Step) -> None:
        """Take a step."""
        if isinstance(step, Map):
            self._map(step)
        elif isinstance(step, Unmap):
            for page in range(step.page, step.page + step.pages):
                self.maybe.pop((self.current, step.slot, page), None)
                self.likely.pop((self.current, step.slot, page), None)
        elif isinstance(step, Remap):
            self._remap(step)
        elif isinstance(step, Fork):
            self.born.append(step.child)
            self.live.append(step.child)
            for (process, slot, page), kinds in [*self.maybe.items()]:
                if process == self.current:
                    self.maybe[step.child, slot, page] = set(kinds)
            for (process, slot, page), kind in [*self.likely.items()]:
                if process == self.current:
                    self.likely[step.child, slot, page] = kind
            self.used |= {(step.child, slot) for process, slot in self.used if process == self.current}
        elif isinstance(step, Switch):
            self.current = step.process
        elif isinstance(step, Exit):
            self.live.remove(self.current)
            for held in (self.maybe, self.likely):
                for place in [p for p in held if p[0] == self.current]:
                    del held[place]

    def _map(self, step: Map) -> None:
        kind = kind_of(step)
        self.used.add((self.current, step.slot))
        for page in range(step.page, step.page + step.pages):
            place = (self.current, step.slot, page)
            self.maybe.setdefault(place, set()).add(kind)
            if "fixed_noreplace" not in step.flags or place not in self.likely:
                self.likely[place] = kind

    def _remap(self, step: Remap) -> None:
        moved = self.kinds(step.slot, step.page, max(step.pages, 1))
        if step.to is None:
            for page in range(step.page + step.new_pages, step.page + step.pages):
                self.likely.pop((self.current, step.slot, page), None)
            return
        self.used.add((self.current, step.to))
        for page in range(step.new_pages):
            place = (self.current, step.to, page)
            self.maybe.setdefault(place, set()).update(moved)
            kind = self.likely.pop((self.current, step.slot, step.page + page), None)
            if kind is not None:
                self.likely[place] = kind


def kind_of(step: Map) -> Kind:
    """What a page of the mapping is mapped by."""
    return Kind(step.backing, step.insert, step.region) if step.backing == "pfnmap" else Kind(step.backing)


# -- what is left out -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rule:
    """Why a step is never generated: ``applies(world, step)`` where the world is as it is before the step."""

    name: str
    why: str
    applies: Callable[[World, Step], bool]


def _over_entries(world: World, step: Step) -> bool:
    """A fault that maps a whole mapping again may come after part of it was zapped."""
    filled = {kind.insert for kind in world.everywhere()}
    if isinstance(step, Probe):
        return "remap_fault" in filled
    return isinstance(step, Map) and step.insert == "remap_fault" and step.backing == "pfnmap" and bool(filled)


def _touches_anonymous(world: World, step: Step) -> bool:
    if isinstance(step, Touch):
        return world.anonymous(step.slot, step.page, 1)
    if isinstance(step, Protect):
        return world.anonymous(step.slot, step.page, step.pages)
    if isinstance(step, Advise):
        return step.advice not in (*PLAIN_ADVICE, "unlock") and world.anonymous(step.slot, step.page, step.pages)
    return isinstance(step, Map) and step.backing == "anonymous" and "locked" in step.flags


def _populates_mixed(world: World, step: Step) -> bool:
    if isinstance(step, Map):
        return step.insert == "mixed" and "locked" in step.flags
    if not isinstance(step, Advise) or step.advice not in ("lock", "populate_read", "populate_write"):
        return False
    return any(kind.insert == "mixed" for kind in world.kinds(step.slot, step.page, step.pages))


def _grows(world: World, step: Step) -> bool:
    if not isinstance(step, Remap):
        return False
    return world.anonymous(step.slot, step.page, max(step.pages, 1))


def _expands_mixed(world: World, step: Step) -> bool:
    if not isinstance(step, Remap) or (step.to is not None and "dontunmap" not in step.flags):
        return False
    grows = step.new_pages > step.pages or "dontunmap" in step.flags
    return grows and any(kind.insert == "mixed" for kind in world.kinds(step.slot, step.page, max(step.pages, 1)))


def _hint(world: World, step: Step) -> bool:
    if not isinstance(step, Map) or {"fixed", "fixed_noreplace"} & set(step.flags):
        return False
    return (world.current, step.slot) in world.used


def _nowhere(world: World, step: Step) -> bool:
    if not isinstance(step, Remap):
        return False
    if "dontunmap" in step.flags and step.to is None:
        return True
    return ("fixed" in step.flags) != (step.to is not None)


KILLS = (
    Rule(
        "remap-over-entries",
        "remap_pfn_range over an entry that is there is a BUG: a mapping that ->fault fills whole (remap_fault) is the "
        "only one of its program, and no part of it is zapped",
        _over_entries,
    ),
)

UNMODELLED = (
    Rule(
        "anonymous-pages",
        "anonymous memory is an address range in the model: it is never touched, locked, populated or given another "
        "protection (which changes what is accounted)",
        _touches_anonymous,
    ),
    Rule(
        "anonymous-moves",
        "mremap of anonymous memory depends on which mappings have been merged, and may grow it: not modelled",
        _grows,
    ),
    Rule(
        "address-of-the-kernels-choice",
        "where a mapping goes that may not go where it was asked for is the kernel's choice: later mappings of a slot "
        "are fixed or fixed_noreplace",
        _hint,
    ),
    Rule(
        "mixed-expanded",
        "a VM_MIXEDMAP may grow where it is, and stay mapped while it is moved (MREMAP_DONTUNMAP): not modelled",
        _expands_mixed,
    ),
    Rule(
        "registers-of-the-device",
        "what is read from where the device has no register is the device's own business: only its first page is read",
        lambda world, step: isinstance(step, Dev) and step.action == "read" and step.page > 0,
    ),
    Rule("mremap-names-a-slot", "an mremap that moves names the slot it moves to, and no other does", _nowhere),
    Rule(
        "execute-only",
        "a protection of x alone takes a protection key, and the model has none",
        lambda world, step: isinstance(step, Map | Protect) and step.prot == "x",
    ),
    Rule(
        "mixed-counted-pages",
        "vmf_insert_mixed of a frame that has a struct page counts the page: not modelled",
        lambda world, step: isinstance(step, Map) and step.insert == "mixed" and step.region in ("reserved", "ram"),
    ),
    Rule(
        "mixed-populated",
        "mlock and MADV_POPULATE of a VM_MIXEDMAP fault its pages in by get_user_pages: not modelled",
        _populates_mixed,
    ),
)

RULES = (*KILLS, *UNMODELLED)


def why_not(world: World, step: Step) -> Rule | None:
    """The rule that keeps a step out of a program; None if it may come."""
    return next((rule for rule in RULES if rule.applies(world, step)), None)


def sensible(steps: Sequence[Step]) -> tuple[Step, ...] | None:
    """The steps without those that have become impossible (of a process that is not there); None if a rule forbids
    one of the rest.
    """
    world = World()
    kept: list[Step] = []
    for step in steps:
        if isinstance(step, Switch):
            if step.process not in world.live or step.process == world.current:
                continue
        elif world.current not in world.live:
            continue
        if isinstance(step, Fork) and step.child in world.born:
            continue
        if why_not(world, step) is not None:
            return None
        world.after(step)
        kept.append(step)
    return tuple(kept)


# -- generating -------------------------------------------------------------------------------------------------------
def generate(seed: int, number: int, *, machine: str = "pc", wrong: int = WRONG) -> Program:
    """The ``number``-th program of a seed, for a machine: pc (the probe module's mappings) or q35 (a device's BAR).

    The same arguments give the same program. ``wrong``: how many calls of a hundred are wrong on purpose.
    """
    source = Source(random.Random(f"mmlitmus/{machine}/{seed}/{number}"), machine, wrong)
    return Program(id=f"{machine}-{seed}-{number}", seed=seed, steps=tuple(source.steps()))


def programs(seed: int, count: int, machine: str = "pc", first: int = 0) -> Iterator[Program]:
    """``count`` programs of a seed from the ``first``-th on."""
    return (generate(seed, n, machine=machine) for n in range(first, first + count))


class Source:
    """Where one program's steps come from."""

    def __init__(self, chance: random.Random, machine: str, wrong: int) -> None:
        self.chance = chance
        self.machine = machine
        self.wrong = wrong
        self.world = World()

    def steps(self) -> Iterator[Step]:
        """All of them: a mapping first, then anything."""
        for n in range(self.chance.randint(6, 16)):
            for _ in range(50):
                step = self.map() if n == 0 else self.step()
                if step is not None and why_not(self.world, step) is None:
                    self.world.after(step)
                    yield step
                    break
            if self.world.current not in self.world.live:
                left = self.world.live
                if not left:
                    return
                switch = Switch(process=self.chance.choice(left))
                self.world.after(switch)
                yield switch

    def step(self) -> Step | None:
        """One step; None where there is nothing to do it to."""
        other = (16, self.dev) if self.machine == "q35" else (8, self.probe)
        does = [
            (22 if self.world.runs() else 120, self.map), (24, self.touch), (10, self.unmap), (10, self.remap),
            (10, self.protect), (10, self.advise), (6, self.fork), (9, self.switch), (2, self.exit), other,
        ]  # fmt: skip
        (make,) = self.chance.choices([make for _, make in does], [weight for weight, _ in does])
        return make()

    def is_wrong(self) -> bool:
        """Is this one wrong on purpose?"""
        return self.chance.randrange(100) < self.wrong

    def range(self) -> tuple[str, int, int]:
        """Pages to do something to: a mapping or a part of it; when wrong, any."""
        runs = self.world.runs()
        if self.is_wrong() or not runs:
            page = self.chance.randrange(PAGES)
            return self.chance.choice(SLOTS), page, self.chance.randint(1, PAGES + 2 - page)
        slot, first, pages = self.chance.choice(runs)
        if self.chance.random() < 0.35:
            return slot, first, pages
        skip = self.chance.randrange(pages)
        return slot, first + skip, self.chance.randint(1, pages - skip)

    def map(self) -> Step:
        """mmap."""
        chance = self.chance
        slot, page = chance.choice(SLOTS), chance.choice((0, 0, 0, 0, 2, 4))
        pages = chance.choice((1, 2, 3, 4, 4, 4, PAGES - page))
        flags: list[str] = []
        if (self.world.current, slot) in self.world.used:
            flags.append(chance.choice(("fixed", "fixed", "fixed_noreplace")))
        if chance.random() < 0.06:
            flags.append("locked")
        sharing = "private" if chance.random() < 0.25 else "shared"
        prot = "rw" if chance.random() < 0.7 else chance.choice(PROTECTIONS)
        where = {"slot": slot, "page": page, "pages": pages, "prot": prot, "sharing": sharing, "flags": tuple(flags)}
        if chance.random() < 0.1:
            return Map(backing="anonymous", **where)  # type: ignore[arg-type]
        if self.machine == "q35" and chance.random() < 0.8:
            past = self.is_wrong()
            return Map(backing="bar", offset=chance.choice((250, 254, 256) if past else (0, 0, 1, 2, 4)), **where)  # type: ignore[arg-type]
        frame = chance.choice((0, 0, 0, 2, 4))
        return Map(
            backing="pfnmap",
            region=chance.choice(REGIONS),
            frame=frame,
            insert=chance.choice(("remap", "remap", "remap", *INSERTS)),
            cache=chance.choice(("", "", "wc", "wc", *CACHES)),
            opened="r" if chance.random() < 0.1 else "rw",
            offset=chance.choice((frame, 0, 1)),
            **where,  # type: ignore[arg-type]
        )

    def unmap(self) -> Step:
        """munmap."""
        slot, page, pages = self.range()
        return Unmap(slot=slot, page=page, pages=pages)

    def remap(self) -> Step:
        """mremap: a move, a smaller one, and what device memory may not do: grow, leave the old one mapped."""
        chance = self.chance
        slot, page, pages = self.range()
        if chance.random() < 0.3:
            new = chance.randint(0, pages) if not self.is_wrong() else chance.randint(pages, pages + 2)
            flags: tuple[str, ...] = ("maymove",) if chance.random() < 0.5 else ()
            return Remap(slot=slot, page=page, pages=pages, new_pages=new, flags=flags)
        new = pages if chance.random() < 0.75 else chance.randint(1, pages)
        flags = ("maymove", "fixed")
        if self.is_wrong():
            new = chance.choice((new, new, pages + 1, 0))
            pages = chance.choice((pages, pages, 0))
            flags = chance.choice((flags, ("fixed",), ("maymove", "fixed", "dontunmap")))
        return Remap(slot=slot, page=page, pages=pages, new_pages=new, to=chance.choice(SLOTS), flags=flags)

    def protect(self) -> Step:
        """mprotect."""
        slot, page, pages = self.range()
        return Protect(slot=slot, page=page, pages=pages, prot=self.chance.choice(("r", "r", "rw", "rw", *PROTECTIONS)))

    def advise(self) -> Step:
        """madvise, mlock, munlock."""
        slot, page, pages = self.range()
        advice = self.chance.choice((*ADVICE, "lock", "lock", "unlock", "dontfork", "dofork", "dontneed"))
        return Advise(slot=slot, page=page, pages=pages, advice=advice)

    def touch(self) -> Step:
        """A load or a store."""
        slot, page, pages = self.range()
        at = page + self.chance.randrange(pages)
        return Touch(slot=slot, page=at, access=self.chance.choice(("read", "write")))

    def fork(self) -> Step | None:
        """fork, once."""
        return Fork(child=1) if 1 not in self.world.born else None

    def switch(self) -> Step | None:
        """The other process goes on."""
        others = [p for p in self.world.live if p != self.world.current]
        return Switch(process=others[0]) if others else None

    def exit(self) -> Step | None:
        """The current process ends, if there is another."""
        return Exit() if len(self.world.live) > 1 else None

    def probe(self) -> Step:
        """unmap_mapping_range."""
        return Probe(
            call="unmap_mapping_range", offset=self.chance.randrange(6), pages=self.chance.choice((1, 1, 2, 4, 16))
        )

    def dev(self) -> Step:
        """Something done to the device."""
        return Dev(action=self.chance.choice(ACTIONS))
