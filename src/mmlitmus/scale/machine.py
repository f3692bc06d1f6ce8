"""A machine of any size that runs one task: with arrays, or, for comparison, with what a search keeps."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from mmlitmus.explore.scheduler import Setup, SetupError
from mmlitmus.kernel.arch.x86.e820 import E820
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PMD_SHIFT,
    PUD_SHIFT,
    PteTable,
    pmd_leaf,
    pud_leaf,
)
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm.huge_memory import PMD_ORDER
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.mmu_notifier import MmuNotifierRange
from mmlitmus.kernel.mm.page_alloc import FIRST_FRAME
from mmlitmus.kernel.policy import Kernel

from .counts import Counts
from .objects import CountedFrames, CountedPudEntry, CountedTable

#: pages of 4K in a block of 1G
GIB_PAGES = 1 << PUD_SHIFT - PAGE_SHIFT


class Subscriber:
    """Somebody who hears of MMU notifiers, as KVM does of its guest's memory."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts

    def invalidate_range_start(self, range: MmuNotifierRange) -> None:
        """One call."""
        self.counts["notifier_calls"] += 1

    def invalidate_range_end(self, range: MmuNotifierRange) -> None:
        """Not counted: there is one for each start."""


class WholeMachine(Machine):
    """``pages``: how many of a process's own there may be. RAM goes from 0 up to where both small and huge pages find
    room, devices come behind it, at multiples of 1G. ``counts`` says what happened.
    """

    counts: Counts

    def __init__(self, kernel: Kernel, pages: int, *, arrays: bool = True, huge: bool = False) -> None:
        super().__init__(kernel)
        self.counts = Counts()
        self.thp = huge
        self.arrays = arrays
        self.pud_entry = partial(CountedPudEntry, self.counts)
        small = pages + 0x1000
        self.first_large = FIRST_FRAME + small + GIB_PAGES & -GIB_PAGES
        self.e820 = E820(self.first_large + pages + GIB_PAGES & -GIB_PAGES)
        if arrays:
            from .arrays import ArrayFrames

            self.batch = GIB_PAGES
            frames = ArrayFrames(self.counts, FIRST_FRAME, small, self.first_large, PMD_ORDER)
            frames.id = self.boot_cpu.tlb_id
            self.pages = frames  # type: ignore[assignment]
        else:
            self.pages = CountedFrames(self.counts)
            self.pte_table = partial(CountedTable, self.counts)

    def count(self, item: str, delta: int) -> None:
        """Keep what the kernel counts itself."""
        self.counts[{"pgfault": "faults", "memtype_lookup": "memtype_lookups"}[item]] += delta

    def free_pfn(self, pages: int = 1) -> int:
        """Devices begin at a block of 1G each, with 64 GiB and more in between."""
        return (self.e820.top + GIB_PAGES & -GIB_PAGES) + (len(self.devices) << 44 - PAGE_SHIFT)

    def new_mm(self, name: str) -> MmStruct:
        """A new address space, with somebody who hears of its notifiers."""
        mm = super().new_mm(name)
        mm.notifier_subscriptions = (Subscriber(self.counts),)
        if self.arrays:
            from .arrays import Directory

            mm.pgd = Directory(mm)  # type: ignore[assignment]
        return mm

    def setup(self) -> Setup:
        """With arrays there is nothing to search."""
        if self.arrays and len(self.tasks) != 1:
            raise SetupError("a machine of arrays runs one task")
        return super().setup()

    # -- what page tables there are, in batches --------------------------------------------------------------
    def pmd_slots(self, mm: Any, address: int, nr: int) -> PteTable:
        """What stands for the PMD entries of a batch (``pmd_offset``)."""
        n = address >> PMD_SHIFT
        found: PteTable = mm.pgd.slots(n, (address + (nr << PAGE_SHIFT) - 1 >> PMD_SHIFT) - n + 1)
        return found

    def pmd_batches(self, mm: Any, start: int, end: int) -> list[tuple[int, int]]:
        """A range by PMD entries in the same state (``pmd_batches``)."""
        found: list[tuple[int, int]] = mm.pgd.pieces(start, end, self.batch)
        return found

    # -- looking, without events -------------------------------------------------------------------------------
    def run_at(self, mm: Any, address: int, nr: int) -> tuple[int, int, int]:
        """(leaf entry, how many of ``nr`` pages go on with it, shift of its size) at an address; arrays only."""
        upper = mm.puds.get(address >> PUD_SHIFT)
        if upper is not None and pud_leaf(upper.peek("entry")):
            return upper.peek("entry"), min(nr, upper.address + (1 << PUD_SHIFT) - address >> PAGE_SHIFT), PUD_SHIFT
        table = mm.pgd.find(address >> PMD_SHIFT)
        if table is None:
            return NONE, 1, PAGE_SHIFT
        nr = min(nr, table.pages_from(address))
        entry = table.peek("entry")
        if not pmd_leaf(entry):
            return (*table.run(address, nr), PAGE_SHIFT) if entry else (NONE, nr, PAGE_SHIFT)
        return entry + (address - table.address & -1 << PMD_SHIFT), nr, PMD_SHIFT

    def translation(self, mm: Any, address: int) -> int:
        """The raw leaf entry for ``address`` (0: none), without an event."""
        return self.run_at(mm, address, 1)[0] if self.arrays else super().translation(mm, address)

    def leaves(self, mm: Any) -> Iterable[tuple[int, int, int]]:
        """Every (address, raw leaf entry, shift of its size) of an mm, one by one."""
        if not self.arrays:
            yield from super().leaves(mm)
            return
        for n in sorted(mm.puds):
            if pud_leaf(mm.puds[n].peek("entry")):
                yield mm.puds[n].address, mm.puds[n].peek("entry"), PUD_SHIFT
        for table in mm.pgd.values():
            entry = table.peek("entry")
            for k in range(table.leaves if pmd_leaf(entry) else 0):
                yield table.address + (k << PMD_SHIFT), entry + (k << PMD_SHIFT), PMD_SHIFT
            if entry and not pmd_leaf(entry):
                for page, pte in table.values.items():
                    yield table.address + (page << PAGE_SHIFT), pte, PAGE_SHIFT
