"""The scenarios on our engine: ``python bench/peers/ours.py e1|e2|e2r SCENARIO F N``; prints one JSON object.

``e2`` is without reductions, so that its states are SPIN's; ``e2r`` with them.

What a helper has seen ends with it, and ``loop_point`` says what matters of a loop: E2 then forgets what the Promela
beside this file does not keep either.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.findings import Finding
from mmlitmus.explore.primitives.mutex import Spinlock
from mmlitmus.explore.primitives.rwsem import RwSem
from mmlitmus.explore.runtime import loop_point
from mmlitmus.explore.scheduler import Results, Setup
from mmlitmus.explore.state import Model, Once

Build = Callable[[], Setup]
#: seconds: searches that are shorter are made again, and the time is their mean
ENOUGH = 0.2


class Word(Model):
    """One shared number."""

    __slots__ = ()
    x = Once()


class Bar:
    """A mapping of device memory: its entries, flags and locks."""

    def __init__(self, pages: int) -> None:
        self.mmap_lock = RwSem("mmap_lock")
        self.memory_lock = RwSem("memory_lock")
        self.i_mmap = RwSem("i_mmap")
        self.ptl = Spinlock("ptl")
        self.enabled = Word("enabled", x=1)
        self.linked = Word("linked", x=1)
        self.ptes = tuple(Word(f"pte#{i}", x=0) for i in range(pages))


# -- the code of the tasks ------------------------------------------------------------------------------------------
def increment(v: Word, times: int) -> None:
    for i in range(times):
        loop_point(v, times, i)
        v.x = v.x + 1


def set_pte(pte: Word) -> None:
    if not pte.x:
        pte.x = 1


def clear_pte(pte: Word) -> None:
    if pte.x:
        pte.x = 0


def populate(bar: Bar, pages: int) -> None:
    for i in range(pages):
        loop_point(bar, pages, i)
        bar.ptl.lock()
        set_pte(bar.ptes[i])
        bar.ptl.unlock()


def zap(bar: Bar, pages: int) -> None:
    bar.ptl.lock()
    for i in range(pages):
        loop_point(bar, pages, i)
        clear_pte(bar.ptes[i])
    bar.ptl.unlock()


def driver_fault(bar: Bar, pages: int) -> None:
    bar.memory_lock.down_read()
    if bar.enabled.x:
        populate(bar, pages)
    bar.memory_lock.up_read()


def page_fault(bar: Bar, pages: int) -> None:
    bar.mmap_lock.down_read()
    if bar.linked.x:
        driver_fault(bar, pages)
    bar.mmap_lock.up_read()


def zap_if_linked(bar: Bar, pages: int) -> None:
    if bar.linked.x:
        zap(bar, pages)


def disable(bar: Bar, pages: int) -> None:
    bar.memory_lock.down_write()
    bar.enabled.x = 0
    bar.i_mmap.down_read()
    zap_if_linked(bar, pages)
    bar.i_mmap.up_read()
    bar.memory_lock.up_write()


def unmap(bar: Bar, pages: int) -> None:
    bar.mmap_lock.down_write()
    bar.i_mmap.down_write()
    bar.linked.x = 0
    bar.i_mmap.up_write()
    zap(bar, pages)
    bar.mmap_lock.up_write()


# -- the scenarios ----------------------------------------------------------------------------------------------------
def increments(tasks: int, times: int) -> Setup:
    """Unlocked increments."""
    v = Word("v", x=0)

    def check() -> Iterable[Finding]:
        if v.peek("x") > tasks * times:
            yield Finding("invariant", "too-many", "more than was added")

    return Setup({f"t{n}": lambda: increment(v, times) for n in range(tasks)}, [check])


def ptl(faults: int, pages: int) -> Setup:
    """Faults that take a page-table lock for each page, and a zap that takes it once."""
    bar = Bar(pages)

    def check() -> Iterable[Finding]:
        if bar.ptl.state is not None:
            yield Finding("invariant", "locked", "the lock is held at the end")

    tasks: dict[str, Callable[[], Any]] = {f"fault{n}": lambda: populate(bar, pages) for n in range(faults)}
    return Setup({**tasks, "zap": lambda: zap(bar, pages)}, [check])


def vfio(faults: int, pages: int, *, unmaps: bool = True) -> Setup:
    """Faults, a task that turns the memory off, and one that unmaps."""
    bar = Bar(pages)

    def check() -> Iterable[Finding]:
        if not bar.enabled.peek("x") and any(pte.peek("x") for pte in bar.ptes):
            yield Finding("invariant", "stale-pte", "an entry is left although the memory is off")

    tasks: dict[str, Callable[[], Any]] = {f"fault{n}": lambda: page_fault(bar, pages) for n in range(faults)}
    tasks["disable"] = lambda: disable(bar, pages)
    if unmaps:
        tasks["unmap"] = lambda: unmap(bar, pages)
    return Setup(tasks, [check])


def build(name: str, faults: int, pages: int) -> Build:
    """The scenario of that name."""
    if name == "vfio-":
        return lambda: vfio(faults, pages, unmaps=False)
    return lambda: {"increments": increments, "ptl": ptl, "vfio": vfio}[name](faults, pages)


def search(engine: str, program: Build) -> Results:
    """One search."""
    if engine == "e1":
        return Dpor(program).run()
    from mmlitmus.explore.movers import REDUCTIONS
    from mmlitmus.explore.stateful import Stateful

    return Stateful(program, reduce=() if engine == "e2" else REDUCTIONS).run()


def main() -> None:
    """Search, again and again while that is short, and tell the time of one search."""
    engine, name, faults, pages = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    program = build(name, faults, pages)
    start = time.process_time()
    results = search(engine, program)
    end = time.process_time()
    said: dict[str, Any] = {"executions": results.counts.executions, "exhausted": results.exhausted}
    said["found"] = sorted(f.name for f in results.found)
    said["traces" if engine == "e1" else "states"] = results.counts.complete if engine == "e1" else results.states
    times, first = 1, end
    while end - start < ENOUGH:
        search(engine, program)
        times += 1
        end = time.process_time()
    said["run"] = (end - start) / times
    said["again"] = end - first  # what the process would not have taken for one search
    print(json.dumps(said))


if __name__ == "__main__":
    main()
