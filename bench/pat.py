"""Time memory types against the number of reservations: ``python bench/pat.py [--json] [--repeat N]``. Microseconds.

Model code only: it runs where nobody is scheduled, so that no event is searched or replayed (``bench/engine.py`` times
those), and without Python's garbage collector (a search hardly runs it). Medians of --repeat batches.

============================ ==================================================================================
round_trip                   main -> greenlet -> main, nothing else: the yardstick of this machine
lookup                       lookup_memtype of a frame, n one-page reservations side by side
lookup_unreserved            ... of a frame that nobody has reserved
reserve_free                 memtype_reserve and memtype_free of one more page, same n
insert                       vmf_insert_pfn into an empty page of a BAR's mapping (v6.12), look-up and all, same n
reserve_free_shared          memtype_reserve and memtype_free of a range that n others have reserved too
============================ ==================================================================================

``growth`` is the factor by which a cost grows when n grows tenfold, on average over the sizes: near 1 is what a search
tree has, 10 is linear. The kernel walks every entry that overlaps a reservation, and so does the model: that the shared
one is linear is right. ``against`` is the cost at the largest size in round trips.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenlet import getcurrent, greenlet

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from mmlitmus.explore.scheduler import Scheduler, Setup  # noqa: E402
from mmlitmus.kernel import eras  # noqa: E402
from mmlitmus.kernel.arch.x86.pat import (  # noqa: E402
    CacheMode,
    MemtypeDatabase,
    MemtypeOwner,
    lookup_memtype,
    memtype_free,
    memtype_reserve,
)
from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, PAGE_SIZE  # noqa: E402
from mmlitmus.kernel.drivers.vfio.pci import open_device  # noqa: E402
from mmlitmus.kernel.fs.proc.task_mmu import find  # noqa: E402
from mmlitmus.kernel.machine import Machine  # noqa: E402
from mmlitmus.kernel.mm.memory import VM_FAULT_NOPAGE, vmf_insert_pfn  # noqa: E402
from mmlitmus.kernel.mm.memory_zap import zap_vma_ptes  # noqa: E402
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock  # noqa: E402

SIZES = (10, 100, 1_000, 10_000, 100_000)
#: reservations of one range by everybody; each further one is compared with all of them
SHARED = (10, 100, 1_000, 10_000)
BASE = 0xC000_0000
STRIDE = 2 * PAGE_SIZE  # so that there are frames in between that nobody has reserved
SHARED_BASE = 0xB000_0000
CALLS = 200
BAR_PAGES = 64

Batch = Callable[[], int]  # does something several times; how often


class Aside(Scheduler):
    """Runs a function where a machine can be built and nobody is scheduled."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(self._build)
        self.work = work
        self.got: Any = None

    def _build(self) -> Setup:
        self.got = self.work()
        return Setup({})

    def _run(self) -> None:
        self.execute()

    def _pick(self) -> int:
        self.status = "complete"
        return -1


def per_call(batch: Batch, repeat: int) -> float:
    """Microseconds, median of ``repeat`` batches. One batch beforehand does not count."""
    batch()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        calls = batch()
        times.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.median(times)


def round_trip() -> Batch:
    """Switches to a greenlet and back."""
    main = getcurrent()

    def bounce() -> None:
        while True:
            main.switch()

    g = greenlet(bounce)
    g.switch()

    def batch() -> int:
        for _ in range(20_000):
            g.switch()
        return 20_000

    return batch


def spread(n: int, calls: int = CALLS) -> list[int]:
    """``calls`` numbers below n, the same every time, all over the place."""
    return [k * 7919 % n for k in range(calls)]


def side_by_side(n: int) -> Machine:
    """A machine with n reservations of one page each, every other frame, each by an owner of its own."""
    machine = Machine(eras.kernel("v6.12"))
    for k in range(n):
        at = BASE + k * STRIDE
        error, _ = memtype_reserve(machine, at, at + PAGE_SIZE, CacheMode.WC, True, MemtypeOwner(f"o{k}"))
        assert error == 0
    return machine


def lookups(machine: Machine, n: int, beside: int) -> Batch:
    """Look-ups of reserved frames, or of the ones behind them."""
    addresses = [BASE + k * STRIDE + beside for k in spread(n)]

    def batch() -> int:
        for address in addresses:
            lookup_memtype(machine, address)
        return len(addresses)

    return batch


def reservations(machine: Machine, addresses: list[int]) -> Batch:
    """One page more is reserved and freed, as often as there are addresses."""
    owner = MemtypeOwner("bench")

    def batch() -> int:
        for at in addresses:
            memtype_reserve(machine, at, at + PAGE_SIZE, CacheMode.WC, True, owner)
            memtype_free(machine, at, at + PAGE_SIZE, owner)
        return len(addresses)

    return batch


def timed_inserts(machine: Machine, repeat: int) -> float:
    """Microseconds an insertion: every page of a BAR's mapping. Zapping it between the batches is not counted."""
    dev = open_device(machine, pages=BAR_PAGES)
    p = machine.process("p")
    bar = p.mmap(dev.file, BAR_PAGES)
    vma = find(p.mm, bar)
    assert vma is not None
    frame = dev.pdev.bars[0].pfn
    mmap_read_lock(p.mm)
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        for k in range(BAR_PAGES):
            assert vmf_insert_pfn(vma, bar + (k << PAGE_SHIFT), frame + k) == VM_FAULT_NOPAGE
        times.append((time.perf_counter() - start) / BAR_PAGES * 1e6)
        zap_vma_ptes(vma, bar, BAR_PAGES * PAGE_SIZE)
    mmap_read_unlock(p.mm)
    return statistics.median(times[1:])


def shared(n: int) -> tuple[Machine, list[int]]:
    """A machine on which n owners have reserved one page, put there directly: reserving them all would take n * n."""
    machine = Machine(eras.kernel("v6.12"))
    tree, claims = machine.memtypes.peek("tree"), machine.memtypes.peek("claims")
    for k in range(n):
        owner = MemtypeOwner(f"o{k}")
        tree = tree.insert(SHARED_BASE, SHARED_BASE + PAGE_SIZE, CacheMode.WC, owner)
        claims = claims.insert(SHARED_BASE, SHARED_BASE + PAGE_SIZE, CacheMode.WC, owner)
    machine.memtypes = MemtypeDatabase()
    machine.memtypes.tree, machine.memtypes.claims = tree, claims
    return machine, [SHARED_BASE] * max(1, min(CALLS, 20_000 // n))


def growth(costs: dict[int, float]) -> float:
    """The factor a tenfold n costs, on average: the slope of a straight line through the logarithms."""
    sizes = sorted(costs)
    return (costs[sizes[-1]] / costs[sizes[0]]) ** (1 / (len(sizes) - 1))


def measure(repeat: int) -> dict[str, Any]:
    """Everything."""
    names = ("lookup", "lookup_unreserved", "reserve_free", "insert", "reserve_free_shared")
    costs: dict[str, dict[int, float]] = {name: {} for name in names}
    trip = per_call(round_trip(), repeat)
    for n in SIZES:
        machine = side_by_side(n)
        costs["lookup"][n] = per_call(lookups(machine, n, 0), repeat)
        costs["lookup_unreserved"][n] = per_call(lookups(machine, n, PAGE_SIZE), repeat)
        between = [BASE + k * STRIDE + PAGE_SIZE for k in spread(n)]
        costs["reserve_free"][n] = per_call(reservations(machine, between), repeat)
        costs["insert"][n] = timed_inserts(machine, repeat)
    for n in SHARED:
        costs["reserve_free_shared"][n] = per_call(reservations(*shared(n)), min(repeat, 3))
    return {
        "round_trip": round(trip, 3),
        **{name: {n: round(us, 3) for n, us in by.items()} for name, by in costs.items()},
        "growth": {name: round(growth(by), 2) for name, by in costs.items()},
        "against": {name: round(by[max(by)] / trip, 1) for name, by in costs.items()},
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--repeat", type=int, default=7, help="medians of so many")
    args = parser.parse_args()
    if args.repeat < 1:
        parser.error("--repeat must be at least 1")
    aside = Aside(lambda: measure(args.repeat))
    gc.disable()
    aside.run()
    gc.enable()
    got = aside.got
    if args.json:
        print(json.dumps(got))
        return
    print(f"{'round_trip':20} {got['round_trip']}")
    print(f"{'entries':20}" + "".join(f"{n:>10}" for n in SIZES) + f"{'growth':>10}{'against':>10}")
    for name in got["growth"]:
        cells = "".join(f"{got[name].get(n, ''):>10}" for n in SIZES)
        print(f"{name:20}{cells}{got['growth'][name]:>10}{got['against'][name]:>10}")


if __name__ == "__main__":
    main()
