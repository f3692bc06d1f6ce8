"""Programs for real kernels, from a seed: well-typed by construction, wrong on purpose at a set rate.

A program is steps of ``schema`` in a small world: processes 0 and 1, four slots of eight pages, a few frames of every
region of the probe module's, so that mappings of the same frames meet. What is left out is left out by a rule with a
name: it would end the guest (``KILLS``), or the model says nothing about it (``UNMODELLED``). Everything else may come,
errors included: which errno a wrong call gets is half of what is compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from . import calls, huge, pins
from .drills import ANONYMOUS, BAR, DRILLS, MODULE, UNCOUNTED, Drill, lessons
from .rules import KILLS as KILLS
from .rules import LANGUAGES as LANGUAGES
from .rules import LIFTED as LIFTED
from .rules import OF_PAGES as OF_PAGES
from .rules import RULES as RULES
from .rules import UNMODELLED as UNMODELLED
from .rules import Rule as Rule
from .rules import language_of as language_of
from .rules import sensible as sensible
from .rules import why_not as why_not
from .rules import world_of as world_of
from .schema import (
    ADVICE,
    CACHES,
    INSERTS,
    PAGE_INSERTS,
    Advise,
    Dev,
    Exit,
    Fork,
    Header,
    Map,
    Pin,
    Probe,
    Program,
    Protect,
    Remap,
    Step,
    Switch,
    Touch,
    Transfer,
    Unmap,
    Unpin,
)
from .world import PAGES as PAGES
from .world import SLOTS as SLOTS
from .world import World as World

#: of a region, in pages: few, so that mappings meet
FRAMES = 12
#: how many calls of a hundred are wrong on purpose
WRONG = 20
#: how many mappings of one are of counted pages, in programs about pinned pages
COUNTED = 0.5
PROTECTIONS = ("", "r", "w", "rw", "rx", "wx", "rwx")
REGIONS = ("bar", "bar", "bar", "reserved", "reserved", "hole", "hole", "ram")
#: one program of so many is made of scenes, this many of them
DRILLED, SCENES = 2, 5
#: the BAR of each of the lab's devices (edu, ivshmem), and its length in pages
BARS, BAR_PAGES = (0, 2), (256, 1024)
#: what the emulated edu device can do: it has no power management, and its function cannot be reset
ACTIONS = ("memory_off", "memory_off", "memory_on", "memory_on", "read")


# -- generating -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Parts:
    """What a guest has that programs can be about.

    ``machine``: pc (no device) or q35 (``devices`` of them behind VFIO); ``probe``: the module, with its mappings.
    ``plain_leaves``: huge leaves of frames are not marked special (until 6.11).
    """

    machine: str = "pc"
    probe: bool = True
    devices: int = 0
    plain_leaves: bool = False

    @property
    def name(self) -> str:
        """What the programs' names begin with."""
        return self.machine + ("" if self.probe else "-bare") + (f"-{self.devices}" if self.devices > 1 else "")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of mapping that scenes are played with."""
        kinds = (BAR, ANONYMOUS) if self.devices else (ANONYMOUS,)
        return kinds if self.devices or not self.probe else (*kinds, *MODULE)


def kinds_of(has: Parts, language: str) -> tuple[str, ...]:
    """The kinds of mapping that scenes of a language are played with."""
    if language in huge.LANGUAGES:
        return huge.kinds(has)
    if language == "mapping" or has.devices or not has.probe:
        return has.kinds
    return (*has.kinds, *PAGE_INSERTS)


MACHINES = {"pc": Parts("pc"), "q35": Parts("q35", devices=1)}


def parts_of(header: Header) -> Parts:
    """The parts of a guest, by what its agent said."""
    machine = header.key.lab.machine or ("q35" if header.devices else "pc")
    version = tuple(int(number) for number in header.key.kernel.version.split("-")[0].split(".")[:2])
    return Parts(machine, bool(header.regions), len(header.devices), version < (6, 12))


def generate(
    seed: int,
    number: int,
    *,
    machine: str = "pc",
    wrong: int = WRONG,
    has: Parts | None = None,
    language: str = "mapping",
) -> Program:
    """The ``number``-th program of a seed, for a machine: pc (the probe module's mappings) or q35 (a device's BAR).

    The same arguments give the same program. ``wrong``: how many calls of a hundred are wrong on purpose. ``has``: what
    the guest has, if it is not what its machine has on a kernel with a probe module; without the module, no program has
    a mapping of its. ``language``: one of LANGUAGES.
    """
    has = has or MACHINES[machine]
    if language == "huge" and has.plain_leaves:
        language = "huge-plain"
    name = has.name if language == "mapping" else f"{has.name}-{language}"
    source = Source(random.Random(f"mmlitmus/{name}/{seed}/{number}"), has, wrong, number, language)
    return Program(id=f"{name}-{seed}-{number}", seed=seed, steps=tuple(source.steps()))


def programs(
    seed: int,
    count: int,
    machine: str = "pc",
    first: int = 0,
    *,
    has: Parts | None = None,
    language: str = "mapping",
) -> Iterator[Program]:
    """``count`` programs of a seed from the ``first``-th on, as ``generate`` makes them."""
    return (generate(seed, n, machine=machine, has=has, language=language) for n in range(first, first + count))


@cache
def _lessons(has: Parts, language: str) -> tuple[list[tuple[str, Drill]], list[tuple[str, Drill]]]:
    """The scenes that have to come first in a program, and all others, in an order in which none is near its like."""
    first: list[tuple[str, Drill]] = []
    later: list[tuple[str, Drill]] = []
    about_pins = [*pins.SCENES, *(pins.DMA_SCENES if has.devices else ())]
    scenes = {"mapping": DRILLS, "gup": about_pins, "calls": calls.scenes(has.devices)}.get(language, huge.SCENES)
    for kind, drill in lessons(kinds_of(has, language), scenes):
        (first if kind == "remap_fault" else later).append((kind, drill))
    for order in (first, later):
        random.Random(f"mmlitmus/{has.name}").shuffle(order)
    return first, later


class Source:
    """Where one program's steps come from."""

    def __init__(self, chance: random.Random, has: Parts, wrong: int, number: int, language: str = "mapping") -> None:
        self.chance = chance
        self.has = has
        self.wrong = wrong
        self.number = number
        self.language = language
        self.world = world_of(language)
        self.made: list[Map] = []

    def steps(self) -> Iterator[Step]:
        """All of them: scenes in one program of ``DRILLED``; otherwise a mapping first, then anything."""
        if self.number % DRILLED == 0:
            yield from self.drilled(self.number // DRILLED)
            return
        for n in range(self.chance.randint(6, 16)):
            for _ in range(50):
                step = self.anything(n == 0)
                if step is not None and why_not(self.world, step, self.language) is None:
                    yield self.taken(step)
                    break
            if self.world.current not in self.world.live:
                left = self.world.live
                if not left:
                    return
                yield self.taken(Switch(process=self.chance.choice(left)))

    def anything(self, first: bool) -> Step | None:
        """Any step, a mapping at first."""
        if self.language in huge.LANGUAGES:
            return huge.anything(self, first)
        return self.map() if first else self.step()

    def taken(self, step: Step) -> Step:
        """The step, after the world has been told of it."""
        self.world.after(step)
        if isinstance(step, Map):
            self.made.append(step)
        return step

    # -- scenes --------------------------------------------------------------------------------------------------
    def drilled(self, turn: int) -> Iterator[Step]:
        """A few scenes; each has its turn, whatever the seed."""
        first, later = _lessons(self.has, self.language)
        chosen = [later[(turn * SCENES + n) % len(later)] for n in range(SCENES)]
        if first:
            chosen.insert(0, first[turn % len(first)])
        for kind, drill in chosen:
            for step in drill.scene(self, kind):
                if self.may(step):
                    yield self.taken(step)
            if self.world.current != 0:
                yield self.taken(Switch(process=0))

    def may(self, step: Step) -> bool:
        """May a scene's step be taken? Not one of, or to, a process that is not there, and none that a rule forbids."""
        world = self.world
        if isinstance(step, Switch):
            return step.process in world.live and step.process != world.current
        if world.current not in world.live or (isinstance(step, Exit) and world.current == 0):
            return False
        if isinstance(step, Fork) and step.child in world.born:
            return False
        if isinstance(step, Pin | Transfer) and step.process is not None and step.process not in world.live:
            return False
        if isinstance(step, Pin | Unpin) and not self.has.probe:
            return False
        return why_not(world, step, self.language) is None

    def fresh(self, kind: str, **asked: Any) -> Map:
        """A mapping of a kind, as asked for and otherwise any; where something may be mapped already, over it."""
        chance = self.chance
        slot = asked.pop("slot", None) or chance.choice(SLOTS)
        page = chance.choice((0, 0, 2, 4))
        where: dict[str, Any] = {"slot": slot, "page": page, "pages": 4, "prot": "rw", "sharing": "shared"}
        if (self.world.current, slot) in self.world.used:
            where["flags"] = ("fixed",)
        if kind == ANONYMOUS:
            return Map(backing=ANONYMOUS, **where | {k: v for k, v in asked.items() if k in where})
        if kind == BAR:
            device = chance.randrange(self.has.devices)
            where["offset"] = 0
            return Map(backing=BAR, **where | self.bar(device) | {k: v for k, v in asked.items() if k in where})
        frame = chance.choice((0, 0, 2, 4))
        module = {
            "region": chance.choice(UNCOUNTED if kind == "mixed" else REGIONS),
            "frame": frame,
            "cache": chance.choice(("", "", "wc", *CACHES)),
            "offset": chance.choice((0, frame)),
        }
        return Map(backing="pfnmap", insert=kind, **where | module | asked)

    def bar(self, device: int) -> dict[str, int]:
        """The fields that name the BAR of a device."""
        return {"device": device, "bar": BARS[device]} if device else {}

    def end(self, device: int) -> int:
        """The pages of the BAR of a device."""
        return BAR_PAGES[device]

    def other(self, slot: str) -> str:
        """Another slot."""
        return self.chance.choice([s for s in SLOTS if s != slot])

    # -- anything ------------------------------------------------------------------------------------------------
    def step(self) -> Step | None:
        """One step; None where there is nothing to do it to."""
        does = [
            (22 if self.world.runs() else 120, self.map), (24, self.touch), (10, self.unmap), (10, self.remap),
            (10, self.protect), (10, self.advise), (6, self.fork), (9, self.switch), (2, self.exit),
        ]  # fmt: skip
        if self.has.devices:
            does.append((16, self.dev))
        elif self.has.probe:
            does.append((8, self.probe))
        if self.language == "calls":
            does += [(weight, partial(make, self)) for weight, make in calls.anything(self)]
        if self.language == "gup":
            does += [(weight, partial(make, self)) for weight, make in pins.anything(self)]
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
        made = [one for one in self.made if one.backing == "pfnmap" and one.slot == slot]
        if made and "fixed" in flags and chance.random() < 0.3:
            # the same frames over themselves, with what may be another cache type
            return replace(chance.choice(made), cache=chance.choice(CACHES), prot=prot, flags=tuple(flags))
        if self.language in ("gup", "calls") and chance.random() < COUNTED:
            return pins.map_anything(self, where)
        if chance.random() < 0.1 or not (self.has.devices or self.has.probe):
            return Map(backing="anonymous", **where)  # type: ignore[arg-type]
        if self.has.devices and (chance.random() < 0.8 or not self.has.probe):
            device = chance.randrange(self.has.devices)
            past = self.is_wrong()
            first = chance.choice((-6, -2, 0)) + BAR_PAGES[device] if past else chance.choice((0, 0, 1, 2, 4))
            return Map(backing="bar", offset=first, **self.bar(device), **where)  # type: ignore[arg-type]
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
        """Something done to a device."""
        action = self.chance.choice(ACTIONS)
        device = 0 if action == "read" else self.chance.randrange(self.has.devices)
        return Dev(action=action, device=device)
