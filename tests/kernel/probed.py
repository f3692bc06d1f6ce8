"""The world with a probe: mappings of its BAR, what is reserved of it in words, and the kernels by how they track.

An entry is written ``0-4 WC``: pages of the probe's BAR, end exclusive, and the type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.invariants.memtype import memtypes_at_rest
from mmlitmus.kernel import eras
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, open_probe

from .board import BY_NAME
from .world import ERAS, PAGE, Ran, World, only
from .world import run as run_world

VM_PAT = tuple(k for k in ERAS if eras.choices_of(k)["pfnmap_track"] == "vm_pat")
CTX = tuple(k for k in ERAS if k not in VM_PAT)
#: VM_PAT on the left, "mm: rewrite pfnmap tracking" on the right; once also as a backport
DESIGNS = [(k, False) for k in VM_PAT] + [(k, True) for k in (*CTX, "v6.12 +pfnmap-track-ctx")]
#: the base is whatever the first entry holds, or is not taken from a copied page
ANY_PAGE = tuple(k for k in VM_PAT if eras.choices_of(k)["get_pat_info"] == "walk")
INHERITS = tuple(k for k in VM_PAT if eras.choices_of(k)["track_pfn_copy"] == "inherit")
#: the patch of July 2024 on a release whose walk takes copied pages, and on one whose walk does not
PATCHED = ("v6.1 +untrack-in-unmap-vmas", "v6.12 +untrack-in-unmap-vmas")

NAMES = {mode: name for name, mode in BY_NAME.items()}
BAR = BAR_PFN * PAGE

everywhere = pytest.mark.parametrize("kernel", ERAS)
with_vm_pat = pytest.mark.parametrize("kernel", VM_PAT)
designs = pytest.mark.parametrize(("kernel", "ctx"), DESIGNS)


def run(body: Callable[[World], Any], kernel: str, **how: Any) -> Ran:
    """As ``world.run``, with the probe at ``w.probe`` and the question of memory types at the end."""

    def before(w: World) -> None:
        w.probe = open_probe(w.m, pages=16)
        w.m.check(lambda: memtypes_at_rest(w.m))

    return run_world(body, kernel, before=before, **how)


def entries(w: World, base: int = BAR) -> list[str]:
    """What is reserved, in the tree's order; VFIO's own BAR is not mapped in these tests unless they say so."""
    return [f"{(e.start - base) // PAGE}-{(e.end - base) // PAGE} {NAMES[e.type]}" for e in w.m.memtypes.entries()]


def has_vm_pat(w: World, address: int, process: Any = None) -> bool:
    return "ar" in (process or w.p).vm_flags(address).split()


def probe_map(w: World, pages: int = 4, at: Any = "a", insert: str = "remap", cache: str = "wc", **how: Any) -> int:
    """A mapping of the probe's first pages."""
    result: int = w.p.mmap(w.probe.file(insert, cache), pages, at=at, **how)
    return result


def zap(w: World, page: int, pages: int) -> None:
    """By the reverse map, as a driver or a truncation does."""
    w.probe.unmap_mapping_range(page, pages)


def warned(kernel: str) -> tuple[str, ...]:
    """What a zap through the reverse map says where it walks: 6.10 asserts mmap_lock, 6.12 takes i_mmap_rwsem too."""
    return only(kernel, ("v6.10",), "mmap_assert_locked")
