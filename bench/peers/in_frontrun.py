"""The smallest scenarios in frontrun: ``frontrun python in_frontrun.py SCENARIO F N MOST``; prints one JSON object.

``MOST`` bounds the executions. Loops are written out: frontrun takes their counters for shared state. ``orders`` is
``ptl`` with a note of who took the lock in which order, and counts the orders that the executions came to.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import frontrun


class Number:
    """One shared number."""

    def __init__(self) -> None:
        self.v = 0

    def increment_1(self) -> None:
        """One task."""
        seen = self.v
        self.v = seen + 1

    def increment_2(self) -> None:
        """One task."""
        seen = self.v
        self.v = seen + 1
        seen = self.v
        self.v = seen + 1

    def increment_3(self) -> None:
        """One task."""
        seen = self.v
        self.v = seen + 1
        seen = self.v
        self.v = seen + 1
        seen = self.v
        self.v = seen + 1


class Bar:
    """Two page-table entries and their lock."""

    def __init__(self) -> None:
        self.ptl = threading.Lock()
        self.pte0 = 0
        self.pte1 = 0

    def fault(self) -> None:
        """A fault on both pages."""
        self.ptl.acquire()
        if not self.pte0:
            self.pte0 = 1
        self.ptl.release()
        self.ptl.acquire()
        if not self.pte1:
            self.pte1 = 1
        self.ptl.release()

    def zap(self) -> None:
        """Clears both."""
        self.ptl.acquire()
        if self.pte0:
            self.pte0 = 0
        if self.pte1:
            self.pte1 = 0
        self.ptl.release()


class Order:
    """The lock alone, and who took it."""

    def __init__(self) -> None:
        self.ptl = threading.Lock()
        self.taken: tuple[int, ...] = ()

    def fault_0(self) -> None:
        """Takes it twice."""
        self.ptl.acquire()
        self.taken = (*self.taken, 0)
        self.ptl.release()
        self.ptl.acquire()
        self.taken = (*self.taken, 0)
        self.ptl.release()

    def fault_1(self) -> None:
        """Takes it twice."""
        self.ptl.acquire()
        self.taken = (*self.taken, 1)
        self.ptl.release()
        self.ptl.acquire()
        self.taken = (*self.taken, 1)
        self.ptl.release()

    def zap(self) -> None:
        """Takes it once."""
        self.ptl.acquire()
        self.taken = (*self.taken, 2)
        self.ptl.release()


def program(name: str, faults: int, pages: int) -> tuple[Any, list[Any]]:
    """What is built for each execution, and the tasks; KeyError for sizes that are not written out here."""
    if name == "increments":
        return Number, [{1: Number.increment_1, 2: Number.increment_2, 3: Number.increment_3}[pages]] * faults
    if name == "ptl":
        return Bar, {2: [Bar.fault] * faults}[pages] + [Bar.zap]
    return {("orders", 2, 2): (Order, [Order.fault_0, Order.fault_1, Order.zap])}[name, faults, pages]


def main() -> None:
    """Explore once, after a first exploration of one execution that is not timed."""
    name, faults, pages, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    state, tasks = program(name, faults, pages)
    orders = set()

    def look(at: Any) -> bool:
        if name == "orders":
            orders.add(at.taken)
        return True

    def explore(executions: int) -> Any:
        return frontrun.explore(
            setup=state, workers=tasks, invariant=look, max_executions=executions, preemption_bound=None,
            stop_on_first=False, detect_io=False, reproduce_on_failure=0,
        )  # fmt: skip

    explore(1)
    orders.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    result = explore(most)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"executions": result.num_explored, "cpu": cpu, "wall": wall, "orders": len(orders)}))


if __name__ == "__main__":
    main()
