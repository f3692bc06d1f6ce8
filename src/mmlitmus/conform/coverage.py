"""What programs reach: operation, kind of mapping, and how it ended, counted.

Which classes there are is not known by heart. Those that can be met are found by running many generated programs on the
model; which errnos an operation could return at all is read in the model's own source, and each that no program brings
about is named with the reason (``UNREACHABLE``).
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module

from mmlitmus.kernel import eras

from .execute import execute
from .generate import Parts, programs
from .schema import (
    Advise,
    Dma,
    Fork,
    Header,
    Map,
    Pin,
    Program,
    Protect,
    Remap,
    Step,
    Switch,
    Touch,
    Transfer,
    Unmap,
)
from .world import Kind, World


@dataclass(frozen=True, order=True)
class Reached:
    """A class of steps: ``operation``, the ``kind`` of what it was done to, its ``outcome`` (ok, an errno, a signal,
    or what became of the guest).
    """

    operation: str
    kind: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.operation} {self.kind} {self.outcome}"


def operation_of(step: Step) -> str:
    """The verb; with its advice, action or call where it has several."""
    names = ("advice", "action", "access", "variant", "kind", "what")
    word = next((getattr(step, name) for name in names if hasattr(step, name)), None)
    return f"{step.op} {word}" if word else step.op


def word_of(kind: Kind | None) -> str:
    """A kind of mapping in one word."""
    if kind is None:
        return "nothing"
    return kind.insert if kind.backing == "pfnmap" else kind.backing


class Place:
    """What is mapped where, as far as outcomes tell: ``unsure`` is where a call failed that may have changed it."""

    def __init__(self) -> None:
        self.world = World()
        self.unsure: set[tuple[int, str, int]] = set()
        self.kept: set[tuple[int, str, int]] = set()  # from children

    def kind(self, step: Step) -> str | None:
        """What a step is done to: what is mapped at its first page; of a map, what it maps. None if nobody knows."""
        if isinstance(step, Map):
            return f"{step.insert if step.backing == 'pfnmap' else step.backing} {step.sharing}"
        if not isinstance(step, Unmap | Remap | Protect | Advise | Touch | Pin | Transfer | Dma):
            return "-"
        if step.slot is None:
            return "-"
        at = (self.world.current, step.slot, step.page)
        if isinstance(step, Pin | Transfer) and step.process is not None:
            at = (step.process, step.slot, step.page)
        return None if at in self.unsure else word_of(self.world.likely.get(at))

    def after(self, step: Step, outcome: str | None) -> None:
        """Take a step that ended so."""
        world = self.world
        if outcome in ("ok", None):
            world.after(step)
            if isinstance(step, Map | Unmap):
                self.unsure -= set(pages_of(world.current, step.slot, step.page, step.pages))
                self.kept -= set(pages_of(world.current, step.slot, step.page, step.pages))
            elif isinstance(step, Advise) and step.advice in ("dontfork", "dofork"):
                change = self.kept.update if step.advice == "dontfork" else self.kept.difference_update
                change(pages_of(world.current, step.slot, step.page, step.pages))
            elif isinstance(step, Remap) and step.to is not None:
                self.unsure |= {p for p in pages_of(world.current, step.to, 0, step.new_pages) if p not in world.likely}
            elif isinstance(step, Fork):
                for place in [p for p in self.kept if p[0] == world.current]:
                    world.likely.pop((step.child, *place[1:]), None)
                inherited = [place for place in self.unsure if place[0] == world.current]
                self.unsure |= {(step.child, slot, page) for _, slot, page in inherited}
        elif isinstance(step, Map) and "fixed" in step.flags:
            self.unsure |= set(pages_of(world.current, step.slot, step.page, step.pages))
        elif isinstance(step, Remap):
            self.unsure |= set(pages_of(world.current, step.slot, step.page, step.pages))
            if step.to is not None:
                self.unsure |= set(pages_of(world.current, step.to, 0, step.new_pages))


def pages_of(process: int, slot: str, page: int, pages: int) -> list[tuple[int, str, int]]:
    """The places of a range."""
    return [(process, slot, at) for at in range(page, page + pages)]


def classes(steps: Iterable[tuple[Step, str | None]]) -> Iterator[Reached]:
    """The class of each step, given with its outcome (None: it has none, and no class)."""
    place = Place()
    world = place.world
    for step, outcome in steps:
        if isinstance(step, Switch):
            world.current = step.process
        if world.current not in world.live or isinstance(step, Switch):
            continue  # of a child whose fork failed
        kind = place.kind(step)
        if outcome is not None and kind is not None:
            yield Reached(operation_of(step), kind, outcome)
        place.after(step, outcome)


def count(programs: Iterable[Program]) -> Counter[Reached]:
    """How often each class was recorded."""
    return Counter(
        one
        for program in programs
        for one in classes((s, s.observed.result.outcome if s.observed.result else None) for s in program.steps)
    )


# -- which classes there are ------------------------------------------------------------------------------------------
#: hits that a class needs in a corpus
ENOUGH = 5
#: a corpus
CORPUS = 1_000


def modelled(
    spec: str, header: Header, has: Parts, seed: int, number: int, language: str = "mapping"
) -> Counter[Reached]:
    """The classes of ``number`` generated programs on the model alone."""
    found: Counter[Reached] = Counter()
    for program in programs(seed, number, has=has, language=language):
        execution = execute(program, header, spec)
        outcomes = [seen.outcome for seen in execution.steps]
        if execution.stopped:
            outcomes.append("died")
        found.update(classes(zip(program.steps, outcomes, strict=False)))
    return found


def rare(recorded: Mapping[Reached, int], known: Mapping[Reached, int], tried: int) -> list[tuple[Reached, int]]:
    """The classes that a corpus should have often enough and has not, with its hits.

    ``known``: classes of ``tried`` programs on the model. One that is met there less than once in a corpus is chance.
    """
    often = [one for one, hits in known.items() if hits * CORPUS >= tried]
    return sorted((one, recorded.get(one, 0)) for one in often if recorded.get(one, 0) < ENOUGH)


#: operation -> what of the model returns its errnos: a module, or a function of one
SOURCES = {
    "map": (
        "kernel.mm.mmap:do_mmap", "kernel.mm.mmap:map_new", "kernel.mm.memory:remap_pgoff",
        "kernel.mm.memory:remap_entries", "kernel.mm.memory:remap_pte_range", "kernel.drivers.misc.probe:ProbeOps.mmap",
        "kernel.drivers.vfio.pci:VfioPciCoreDevice.mmap", "kernel.drivers.vfio.pci:VfioPciCoreDevice.setup_barmap",
    ),
    "unmap": ("kernel.mm.mmap:do_munmap",),
    "remap": ("kernel.mm.mremap",),
    "protect": ("kernel.mm.mprotect",),
    "advise": ("kernel.mm.madvise", "kernel.mm.mlock"),
    "fork": ("kernel.uapi:Process.fork",),
    "dev": (
        "kernel.drivers.vfio.pci:VfioPciCoreDevice.read_register",
        "kernel.drivers.vfio.pci:VfioPciCoreDevice.low_power_entry",
    ),
}  # fmt: skip


def errnos() -> set[tuple[str, str]]:
    """Every (operation, errno) that the model's source returns."""
    found = set()
    for operation, places in SOURCES.items():
        for place in places:
            name, _, attribute = place.partition(":")
            thing = import_module(f"mmlitmus.{name}")
            for part in attribute.split(".") if attribute else ():
                thing = getattr(thing, part)
            for node in ast.walk(ast.parse(inspect.cleandoc("\n" + inspect.getsource(thing)))):
                if (
                    isinstance(node, ast.UnaryOp)
                    and isinstance(node.op, ast.USub)
                    and isinstance(node.operand, ast.Name)
                ):
                    if re.fullmatch(r"E[A-Z0-9]+", node.operand.id):
                        found.add((operation, f"-{node.operand.id}"))
    return found


@dataclass(frozen=True)
class Unreachable:
    """Why no program brings an outcome of an operation about. ``unless``: where one does: a config option, SEAM=CHOICE
    or, on any kernel, the probe module.
    """

    operation: str
    outcome: str
    why: str
    unless: str = ""

    def applies(self, spec: str, probe: bool = True) -> bool:
        """On this kernel? ``probe``: is the module loaded?"""
        if not self.unless:
            return True
        if self.unless == PROBE:
            return not probe
        seam, equals, choice = self.unless.partition("=")
        kernel = eras.kernel(spec)
        return kernel.choices[seam] != choice if equals else not kernel.has(seam)


PROBE = "the probe module"
_MEMORY = "memory is never short for a program that runs alone"
_PAGES = "a step's range is whole pages of a slot"
UNREACHABLE = (
    Unreachable("map", "-EOVERFLOW", "no step's offset is anywhere near the end of a file"),
    Unreachable("map", "-ENODEV", "every file of the language can be mapped"),
    Unreachable("map", "-ENOMEM", _MEMORY),
    Unreachable("map", "-EOPNOTSUPP", "no flag of the language wants MAP_SHARED_VALIDATE"),
    Unreachable("map", "-EAGAIN", "nothing is mapped locked once RLIMIT_MEMLOCK is lowered"),
    Unreachable("map", "-EBUSY", "another task would have to map the BAR for the first time, too"),
    Unreachable("map", "-EACCES", "a VFIO device is opened for reading and writing", PROBE),
    Unreachable("map", "-EPERM", "anonymous inodes may be executed here", "ANON_INODE_NOEXEC"),
    Unreachable("unmap", "-EINVAL", _PAGES),
    Unreachable("remap", "-ENOMEM", _MEMORY),
    Unreachable("protect", "-EINVAL", _PAGES),
    Unreachable("advise", "-EPERM", "poisoning memory is no advice of the language"),
    Unreachable("advise", "-EAGAIN", _MEMORY),
    Unreachable("advise", "-EFAULT", "mlock makes -ENOMEM of it"),
    Unreachable("advise", "-EACCES", "MADV_REMOVE is no advice of the language"),
    Unreachable("advise", "-ENODEV", "MADV_REMOVE is no advice of the language"),
    Unreachable("fork", "-ENOMEM", "nothing but memory is asked for", "pfnmap_track=vm_pat"),
    Unreachable("dev", "-EINVAL", "edu has no power management, and only its first page is read"),
)


def unnamed(reached: Iterable[Reached], spec: str, probe: bool = True) -> list[tuple[str, str]]:
    """Every (operation, errno) of the model's source that no program reached and no rule names."""
    met = {(one.operation.split(" ")[0], one.outcome) for one in reached}
    named = {(rule.operation, rule.outcome) for rule in UNREACHABLE if rule.applies(spec, probe)}
    return sorted(errnos() - met - named)
