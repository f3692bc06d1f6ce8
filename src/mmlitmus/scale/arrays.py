"""Page tables and frames as arrays.

``FrameRun`` is a Folio, and ``TableRun`` a page table, with all their rules; they only keep their state elsewhere, and
stand for as many neighbours in the same state as there are. PTEs are 8 bytes each, as the hardware has them. A frame's
state (count, mappings, holders, list, ...) is one of few; each is kept once, and a frame has its number: 4 bytes.

A run is looked up, used, and let go: what it says holds as long as nobody else changes its frames. Who keeps one asks
for its ``parts`` first.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmlitmus.explore.primitives.folio_lock import FolioLock
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PMD_SHIFT,
    PMD_SIZE,
    PTRS_PER_PTE,
    PUD_SHIFT,
    PUD_SIZE,
    LeafSlot,
    PteTable,
    pmd_leaf,
)
from mmlitmus.kernel.mm.page_alloc import ByFrame, Folio

from .counts import PFN, Counts, Watched
from .objects import watch_slot

#: PMD entries under one PUD entry
PTRS_PER_PMD = 1 << PUD_SHIFT - PMD_SHIFT
#: entries for so many PTEs are asked for at a time: for large arrays, numpy asks the system for huge pages
SLAB = 1 << 22
#: how many entries are compared at a time, so that what is put down meanwhile stays in the CPU's cache
PIECE = 1 << 14

_RAMP = np.arange(1 << PUD_SHIFT - PAGE_SHIFT, dtype=np.uint64) << np.uint64(PAGE_SHIFT)
_LEVEL = np.empty(PIECE, dtype=np.uint64)
_OTHER = np.empty(1 << PUD_SHIFT - PAGE_SHIFT, dtype=np.bool_)


# -- frames -----------------------------------------------------------------------------------------------------------
class FrameRun(Folio):
    """Folios in a row that are in the same state."""

    __slots__ = ("alike", "area", "at")

    def __init__(self, area: Area, at: int, alike: int, state: tuple[Any, ...]) -> None:
        self.area, self.at, self.alike = area, at, alike
        pfn = area.base + (at << area.order)
        self.name = f"page[{pfn:#x}]"
        self.id = area.frames.id
        self._freed = state[-1]
        self._values = Watched(list(state[:-1]), self._changes)
        list.__setitem__(self._values, PFN, pfn)

    def _changes(self, values: Any, at: int, old: Any, new: Any) -> None:
        self.area.frames.opened(self)
        self.area.frames.counts.folio(values, self.alike, at, old, new)

    @property
    def lock(self) -> FolioLock:  # type: ignore[override]
        """The lock of the first of them; who locks looks at one."""
        return self.area.frames.lock_of(self.name)

    def parts(self) -> tuple[Folio, ...]:
        """Those that are in the same state now."""
        runs = self.area.frames.runs(self.area.base + (self.at << self.area.order), self.alike << self.area.order)
        return tuple(folio for _, _, folio in runs if folio is not None)

    def free(self) -> None:
        """The end of them."""
        self.area.frames.opened(self)
        super().free()


class Area:
    """The folios of one order, from frame ``base`` on: a number each of the state it is in; 0: never handed out."""

    def __init__(self, frames: ArrayFrames, base: int, order: int, folios: int) -> None:
        self.frames = frames
        self.base = base
        self.order = order
        self.states = np.zeros(folios, dtype=np.uint32)  # of zeros that the system gives when they are touched
        self.end = base + (folios << order)


class ArrayFrames(ByFrame):
    """What has a counted page, by frame: a number of the state that it is in."""

    def __init__(self, counts: Counts, first: int, pages: int, first_large: int, order: int) -> None:
        self.counts = counts
        self.id = 0
        self.areas = (Area(self, first, 0, pages), Area(self, first_large, order, (pages >> order) + 64))
        self.single: dict[int, Folio] = {}  # the zero page
        self.states: list[tuple[Any, ...]] = [()]
        self.numbers: dict[tuple[Any, ...], int] = {(): 0}
        self.locks: dict[str, FolioLock] = {}
        self.open: FrameRun | None = None  # whose changes are not in the array yet

    def lock_of(self, name: str) -> FolioLock:
        """A folio's lock, made when it is asked for."""
        lock = self.locks.get(name)
        if lock is None:
            lock = self.locks[name] = FolioLock(f"{name}:lock", "folio_lock")
        return lock

    def opened(self, run: FrameRun) -> None:
        """``run`` is about to change."""
        if self.open is not run:
            self.flush()
            self.open = run

    def flush(self) -> None:
        """Put what has changed into the array."""
        run = self.open
        if run is not None:
            self.open = None
            values = list(run._values)
            values[PFN] = 0
            run.area.states[run.at : run.at + run.alike] = self.number((*values, run._freed))

    def number(self, state: tuple[Any, ...]) -> int:
        """The number of a state."""
        number = self.numbers.get(state)
        if number is None:
            number = self.numbers[state] = len(self.states)
            self.states.append(state)
        return number

    def area_of(self, pfn: int) -> Area | None:
        """The area that a frame is in."""
        return next((area for area in self.areas if area.base <= pfn < area.end), None)

    def make(self, pfn: int, nr: int, holder: str, **values: Any) -> Folio:
        """``nr`` new folios in a row."""
        area = self.area_of(pfn)
        size = 1 << values["order"]
        if area is None or area.order != values["order"] or pfn + nr * size > area.end:
            raise MemoryError(f"{nr} times {size} pages from frame {pfn:#x} are more than this machine has")
        self.flush()
        given = {"dirty": False, "mapping": None, "swap": None, **values}
        given |= {"pfn": 0, "refcount": 1, "holders": ((holder, 1),)}
        at = pfn - area.base >> area.order
        run = FrameRun(area, at, nr, (*(given[name] for name in Folio.fields), False))
        self.open = run
        self.counts.made(nr, area.order)
        return run

    def first(self, pfn: int, nr: int) -> tuple[Folio | None, int]:
        """The run that begins with a frame, and how many of ``nr`` frames it is."""
        self.flush()
        area = self.area_of(pfn)
        if area is None:
            return self.single.get(pfn), 1
        at = pfn - area.base >> area.order
        number = int(area.states[at])
        if not number:
            return None, 1
        size = 1 << area.order
        within = pfn - area.base & size - 1
        if within or nr < size:
            return FrameRun(area, at, 1, self.states[number]), min(nr, size - within)
        alike = 1
        if nr > size:
            here = area.states[at : at + min(nr >> area.order, _OTHER.size)]
            others = np.not_equal(here, number, out=_OTHER[: here.size])
            alike = int(others.argmax()) or here.size
        return FrameRun(area, at, alike, self.states[number]), alike << area.order

    def get(self, pfn: int) -> Folio | None:
        """The folio of a frame."""
        return self.first(pfn, 1)[0]

    def __getitem__(self, pfn: int) -> Folio:
        folio = self.get(pfn)
        if folio is None:
            raise KeyError(pfn)
        return folio

    def __setitem__(self, pfn: int, folio: Folio) -> None:
        self.single[pfn] = folio

    def __contains__(self, pfn: int) -> bool:
        return self.get(pfn) is not None

    def values(self) -> Iterator[Folio]:
        """Every folio that was ever handed out, one by one."""
        self.flush()
        yield from self.single.values()
        for area in self.areas:
            for at in np.flatnonzero(area.states):
                yield FrameRun(area, int(at), 1, self.states[int(area.states[at])])

    def used(self) -> int:
        """The bytes of all states of frames that were ever handed out."""
        self.flush()
        return sum(int(np.count_nonzero(area.states)) * area.states.itemsize for area in self.areas)


# -- page tables ------------------------------------------------------------------------------------------------------
class TableRun(PteTable):
    """PMD entries in a row that are in the same state, from number ``first`` on, and the PTEs of their tables.

    Leaves in it map frames in a row, and ``entry`` is the first.
    """

    __slots__ = ("counts", "directory", "first", "leaves", "ptes")

    def __init__(self, mm: Any, first: int, leaves: int) -> None:
        LeafSlot.__init__(self, "pmd", mm.name, first << PMD_SHIFT, mm.machine.page_label(first << PMD_SHIFT))
        self.mm_name, self.label = mm.name, mm.machine.page_label
        self.ptl = type(self.leaf_lock)(f"{self.name}:ptl", "ptl")
        self.cells = {}
        self.first, self.leaves = first, leaves
        self.counts: Counts = mm.machine.counts
        self.directory: Directory = mm.pgd
        self.ptes: Any = None
        watch_slot(self, "pmd", self.counts)

    def cut(self, mm: Any, leaves: int) -> TableRun:
        """Keep the first ``leaves``; the rest is a run of its own."""
        rest = TableRun(mm, self.first + leaves, self.leaves - leaves)
        entry = self.peek("entry")
        list.__setitem__(rest._values, self.fields["entry"].at, entry + leaves * PMD_SIZE if pmd_leaf(entry) else entry)
        if self.ptes is not None:
            rest.ptes = self.ptes[leaves * PTRS_PER_PTE :]
            self.ptes = self.ptes[: leaves * PTRS_PER_PTE]
        self.leaves = leaves
        return rest

    def cell(self, address: int) -> int:
        """There are no events."""
        return self.id

    @property
    def values(self) -> dict[int, int]:  # type: ignore[override]
        """PTE number, counted through all its tables -> entry."""
        if self.ptes is None:
            return {}
        return {int(n): int(self.ptes[n]) for n in np.flatnonzero(self.ptes)}

    def _at(self, address: int) -> int:
        return address - self.address >> PAGE_SHIFT

    def pages_from(self, address: int) -> int:
        """How many of its pages begin at ``address`` or behind it."""
        return self.leaves * PTRS_PER_PTE - self._at(address)

    def peek_pte(self, address: int) -> int:
        """The entry."""
        return NONE if self.ptes is None else int(self.ptes[self._at(address)])

    def run(self, address: int, nr: int) -> tuple[int, int]:
        """The entry, and how many go on with it."""
        nr = min(nr, self.pages_from(address))
        if self.ptes is None:
            return NONE, nr
        at = self._at(address)
        here = self.ptes[at : at + nr]
        first = int(here[0])
        if first == NONE:
            return NONE, int((here != 0).argmax()) or nr if here.any() else nr
        for start in range(0, nr, PIECE):
            piece = here[start : start + PIECE]
            level = np.subtract(piece, _RAMP[start : start + piece.size], out=_LEVEL[: piece.size])
            same = level == here[0]
            if not same.all():
                return first, start + int(same.argmin())
        return first, nr

    def put_run(self, address: int, entry: int, nr: int) -> None:
        """Change ``nr`` entries."""
        if self.ptes is None:
            self.ptes = self.directory.zeros(self.leaves * PTRS_PER_PTE)
        at = self._at(address)
        here = self.ptes[at : at + nr]
        if entry == NONE:
            self.counts["ptes_cleared"] += int(np.count_nonzero(here))
            here[:] = 0
        else:
            self.counts["ptes_set"] += nr
            np.add(_RAMP[:nr], np.uint64(entry), out=here)

    def put(self, address: int, entry: int) -> None:
        """Change the entry."""
        self.put_run(address, entry, 1)

    def populated(self) -> int:
        """How many entries map something. An empty array is given back."""
        left = 0 if self.ptes is None else int(np.count_nonzero(self.ptes))
        if not left:
            self.ptes = None
        return left


class Directory:
    """An mm's PMD entries: number -> the run that it is in."""

    def __init__(self, mm: Any) -> None:
        self.mm = mm
        self.firsts: list[int] = []
        self.tables: dict[int, TableRun] = {}
        self.slab = np.zeros(0, dtype=np.uint64)  # what is left of it

    def zeros(self, n: int) -> Any:
        """An array for ``n`` PTEs, none of which is there."""
        if n > self.slab.size:
            self.slab = np.zeros(max(n, SLAB), dtype=np.uint64)
        array, self.slab = self.slab[:n], self.slab[n:]
        return array

    def find(self, n: int) -> TableRun | None:
        """The run that a PMD entry is in."""
        at = bisect_right(self.firsts, n)
        if not at:
            return None
        run = self.tables[self.firsts[at - 1]]
        return run if n < run.first + run.leaves else None

    def _add(self, run: TableRun) -> TableRun:
        insort(self.firsts, run.first)
        self.tables[run.first] = run
        return run

    def slots(self, n: int, count: int) -> TableRun:
        """A run of ``count`` entries from ``n`` on, or of fewer: cut out of the one that is there, or made."""
        run = self.find(n)
        if run is None:
            at = bisect_right(self.firsts, n)
            room = self.firsts[at] - n if at < len(self.firsts) else count
            return self._add(TableRun(self.mm, n, min(count, room, PTRS_PER_PMD - n % PTRS_PER_PMD)))
        if run.first < n:
            run = self._add(run.cut(self.mm, n - run.first))
        if run.leaves > count:
            self._add(run.cut(self.mm, count))
        return run

    def get(self, n: int) -> TableRun:
        """The one entry."""
        return self.slots(n, 1)

    def pieces(self, start: int, end: int, pages: int) -> list[tuple[int, int]]:
        """[start, end) bytes: a block in part alone, the others by runs, or where there are none by ``pages``."""
        found: list[tuple[int, int]] = []
        size = pages << PAGE_SHIFT
        at = start
        while at < end:
            block = at & -PMD_SIZE
            run = self.find(at >> PMD_SHIFT)
            if at != block or end < block + PMD_SIZE:
                stop = block + PMD_SIZE
            elif run is not None:
                stop = run.first + run.leaves << PMD_SHIFT
            else:
                n = bisect_right(self.firsts, at >> PMD_SHIFT)
                stop = min((at & -PUD_SIZE) + PUD_SIZE, (at & -size) + size)
                if n < len(self.firsts):
                    stop = min(stop, self.firsts[n] << PMD_SHIFT)
            whole = max(end & -PMD_SIZE, block + PMD_SIZE)
            stop = min(stop, end if end < block + PMD_SIZE else whole)
            found.append((at, stop))
            at = stop
        return found

    def __contains__(self, n: int) -> bool:
        return self.find(n) is not None

    def __iter__(self) -> Iterator[int]:
        return iter(list(self.firsts))

    def __len__(self) -> int:
        return len(self.firsts)

    def __getitem__(self, first: int) -> TableRun:
        return self.tables[first]

    def values(self) -> list[TableRun]:
        """The runs, by address."""
        return [self.tables[first] for first in self.firsts]

    def used(self) -> int:
        """The bytes of all PTEs that there are."""
        return sum(run.ptes.nbytes for run in self.tables.values() if run.ptes is not None)
