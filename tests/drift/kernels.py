"""The indexed kernels, and the check of what the model says about its sources against them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import mmlitmus.kernel
from mmlitmus.kernel import eras, policy

from .references import Module, Reference, Release, Thing, clauses, collect, release

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(mmlitmus.kernel.__file__).parent
PLACE = ROOT / "tests" / "data" / "source-index"
#: the folders of the model that stand for folders of the kernel's tree
ROOMS = ("mm", "arch", "fs", "sync", "drivers")


@cache
def tool() -> ModuleType:
    """tools/source_index.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("source_index", ROOT / "tools" / "source_index.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Kernel:
    """An indexed kernel: its series as a number, what ``eras`` calls it, its names."""

    series: Release
    release: str
    index: Any

    def __str__(self) -> str:
        return self.release


@cache
def kernels() -> tuple[Kernel, ...]:
    """All of them, oldest first."""
    found = []
    for path in PLACE.glob("*.txt.xz"):
        index = tool().read(path)
        found.append(Kernel(release(index.version.partition("-")[0]), "deb-" + index.version.partition("-")[0], index))
    return tuple(sorted(found, key=lambda one: one.series))


def modules() -> list[str]:
    """The modules of the model that have to name their sources, as paths in it."""
    paths = sorted(path for room in ROOMS for path in (MODEL / room).rglob("*.py"))
    return [str(path.relative_to(MODEL)) for path in paths if path.name != "__init__.py"]


def module(where: str) -> Module:
    """A module's things."""
    return collect(MODEL / where, where)


def module_references(where: str) -> tuple[Reference, ...]:
    """What a module's own docstring refers to."""
    return collect(MODEL / where, where).references


def wrong(references: Iterable[Reference], kernel: Kernel) -> Iterator[str]:
    """What the references claim of this kernel and is not so: files and names that it has not."""
    for one in references:
        if one.file and kernel.series in one.range:
            known = tool().wanted(one.file)
            if known and one.file not in kernel.index.files:
                yield f"{kernel} has no {one.file}"
            for name in one.names if not known or one.file in kernel.index.files else ():
                if not known:
                    yield f"{one.file} is not indexed (tools/source_index.py, PARTS)"
                elif not kernel.index.has(one.file, name):
                    yield f"{kernel} has no {name} in {one.file}"


def complaints(thing: Thing, on: Iterable[Kernel]) -> list[str]:
    """What is wrong with a thing's sources in the kernels that run it: nothing named, or a name that is not there."""
    found: list[str] = []
    for kernel in on:
        if thing.references:
            found += wrong(thing.references, kernel)
            if not any(kernel.series in one.range and (one.names or not one.file) for one in thing.references):
                found.append(f"no kernel file and function for {kernel}")
            continue
        files = [one.file for one in thing.files if one.file and one.same_name and kernel.series in one.range]
        for name in thing.wanted:
            if not any(kernel.index.has(file, name) for file in files):
                named = " and ".join(files) or "no file (the module's docstring names none)"
                found.append(f"{kernel} has no {name} in {named}: name the source in the docstring")
    return list(dict.fromkeys(found))


# -- alternatives of seams -------------------------------------------------------------------------------------------
@cache
def alternatives() -> Mapping[tuple[str, str], policy.Alternative]:
    """Every alternative of every seam, by (seam, name)."""
    for home in policy.HOMES.values():
        import_module(home)
    return {(s.name, a.name): a for s in policy.SEAMS.values() for a in s.alternatives.values()}


def chosen_by(seam: str, name: str) -> list[str]:
    """The releases that make this choice."""
    return [one for one in eras.releases() if eras.choices_of(one)[seam] == name]


def unindexed(seam: str, name: str) -> str | None:
    """Why no index can tell whether an alternative's source is right; None where one can."""
    by = chosen_by(seam, name)
    if any(kernel.release in by for kernel in kernels()):
        return None
    return "chosen by " + ", ".join(by) if by else alternatives()[seam, name].releases


def alternative_complaints(seam: str, name: str) -> list[str]:
    """What is wrong with an alternative's source in the indexed kernels that choose it."""
    alternative = alternatives()[seam, name]
    by = chosen_by(seam, name)
    thing = Thing(policy.HOMES[seam], f"{seam}/{name}", tuple(clauses(alternative.source)))
    return complaints(thing, [kernel for kernel in kernels() if kernel.release in by])


def neighbours(seam: str, name: str) -> list[Kernel]:
    """The indexed kernels next to the releases that choose an alternative, older and newer."""
    order = eras.releases()
    at = [order.index(one) for one in chosen_by(seam, name)]
    if not at:
        return []
    older = [kernel for kernel in kernels() if order.index(kernel.release) < min(at)]
    newer = [kernel for kernel in kernels() if order.index(kernel.release) > max(at)]
    return older[-1:] + newer[:1]
