"""A board for tests of memory types: memory map, MTRRs and database, with 6.12's choices and no more of a kernel.

``run(body)`` runs ``body(board)`` as the only task of a machine under the search; ``search(body, body)`` explores all
interleavings of several. Whatever is found and was not named in ``finds`` fails the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.findings import Finding
from mmlitmus.explore.scheduler import Results, Setup
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.e820 import E820
from mmlitmus.kernel.arch.x86.mtrr import Mtrr
from mmlitmus.kernel.arch.x86.pat import FULL, CacheMode, MemtypeDatabase, MemtypeOwner, PatTable, cattr_name
from mmlitmus.kernel.policy import run_on
from mmlitmus.kernel.sync.might import fs_reclaim

PAGE = 4096
BAR = 0xFD30_0000  # under an uncacheable MTRR, like every BAR
RESERVED = 0x1080_0000  # memmap=16M$0x10000000: no RAM, but under a write-back MTRR
RAM = 0x0040_0000
BY_NAME = dict(zip(("WB", "WC", "UC-", "UC", "WT", "WP"), CacheMode, strict=True))


def rows(table: str) -> Iterable[tuple[str, str, str]]:
    """(row, column, cell) of a table in words."""
    head, *lines = table.strip().splitlines()
    for line in lines:
        row, *cells = line.split()
        for column, cell in zip(head.split(), cells, strict=True):
            yield row, column, cell


class Board:
    """What the functions of ``pat`` and ``ioremap`` want of a machine."""

    def __init__(self, pat: PatTable = FULL, failures: int = 0) -> None:
        run_on(eras.kernel("v6.12"))
        self.failures = failures
        self.fs_reclaim = fs_reclaim()
        self.e820 = E820()
        self.e820.reserve(0x10000, 0x1000)
        self.e820.add_device("vga", BAR >> 12, 0x100)
        self.mtrr = Mtrr()
        self.memtypes = MemtypeDatabase(pat=pat)
        self.a, self.b, self.c = map(MemtypeOwner, "abc")
        self.outcome: list[Any] = []

    def types(self) -> list[str]:
        """The tree in words: pages from the BAR's start on, and the type."""
        return [
            f"{(e.start - BAR) // PAGE}-{(e.end - BAR) // PAGE} {cattr_name(e.type)}" for e in self.memtypes.entries()
        ]


class Ran(NamedTuple):
    """What running a body gave; of several executions, the last one's result and board."""

    result: Any
    board: Board
    findings: list[Finding]
    results: Results

    @property
    def names(self) -> list[str]:
        return sorted(f.name for f in self.findings)

    def message(self, name: str) -> str:
        return next(f.message for f in self.findings if f.name == name)


def run(body: Callable[[Board], Any], *, finds: Iterable[str] = (), pat: PatTable = FULL, failures: int = 0) -> Ran:
    """Run ``body`` as the only task; every choice it leaves to chance is taken."""
    last: list[tuple[Any, Board]] = []

    def build() -> Setup:
        board = Board(pat, failures)
        return Setup({"labtest": lambda: last.append((body(board), board))}, context=board)

    engine = Dpor(build)
    results = engine.run()
    assert results.exhausted
    if engine.last_exception is not None:
        raise engine.last_exception
    findings = [found.finding for found in results.found.values()]
    assert sorted({f.name for f in findings}) == sorted(finds), findings
    return Ran(*(last[-1] if last else (None, None)), findings, results)  # type: ignore[arg-type]


def program(*bodies: Callable[[Board], Any], failures: int = 0) -> Callable[[], Setup]:
    """The bodies as tasks t0, t1, ... of one board; what they return is the outcome, in order of tasks."""

    def build() -> Setup:
        board = Board(failures=failures)
        outcome: dict[int, Any] = {}
        tasks = {f"t{n}": (lambda n=n, f=f: outcome.update({n: f(board)})) for n, f in enumerate(bodies)}
        return Setup(tasks, outcome=lambda: (*(outcome.get(n) for n in range(len(bodies))), *board.types()))

    return build


def search(*bodies: Callable[[Board], Any], failures: int = 0) -> Results:
    """Every interleaving of the bodies."""
    results = Dpor(program(*bodies, failures=failures)).run()
    assert results.exhausted
    return results


def found(results: Results) -> set[str]:
    """The names of what was found."""
    return {f.name for f in results.found}
