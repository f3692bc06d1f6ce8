"""What is seen after a step on the model, at the recorded machine's addresses: what the guest's agent looks at."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache

from mmlitmus.kernel.arch.x86.pat import cattr_name
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PRESENT,
    invert_frame,
    leaf_pfn,
    pmd_leaf,
    pte_pfn,
    pte_present,
)
from mmlitmus.kernel.drivers.misc.probe import Probe as ProbeModule
from mmlitmus.kernel.drivers.vfio.pci import VfioPciCoreDevice
from mmlitmus.kernel.fs.proc import page
from mmlitmus.kernel.fs.proc.task_mmu import PM_FRAME, PM_PRESENT
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.mmu_notifier import EVENTS as NOTIFIED
from mmlitmus.kernel.mm.mmu_notifier import MmuNotifierRange, mmu_notifier_register
from mmlitmus.kernel.mm.page_alloc import THE_DRIVER, ZERO_PFN
from mmlitmus.kernel.mm.swap import lru_add_drain
from mmlitmus.kernel.uapi import Process

from .execute_gup import Held
from .layout import FRAME, MODEL_RAM, Layout, message_of, slot_address
from .schema import Entry, Frame, Header, Memtype, Message, Step, Translation
from .seen import Seen


@cache
def _parsed(place: str) -> tuple[int, str, int]:
    number, slot, page = re.fullmatch(r"(\d+):([a-z])(\d+)", place).groups()  # type: ignore[union-attr]
    return int(number), slot, int(page)


class Ears:
    """Whoever hears of a process's MMU notifiers: what there was since the last step, in the words of ``EVENT``."""

    def __init__(self, mm: MmStruct) -> None:
        self.heard: list[str] = []
        mmu_notifier_register(self, mm)

    def invalidate_range_start(self, range: MmuNotifierRange) -> None:
        """It is about to change."""
        self._note("start", range)

    def invalidate_range_end(self, range: MmuNotifierRange) -> None:
        """It has changed."""
        self._note("end", range)

    def _note(self, when: str, range: MmuNotifierRange) -> None:
        first, last = slot_address(range.start), slot_address(range.end)
        self.heard.append(f"{when} {NOTIFIED[range.event]} {first}-{last}")

    def since(self) -> tuple[str, ...]:
        """What has been heard since this was last asked."""
        heard = tuple(self.heard)
        self.heard.clear()
        return heard


class Look:
    """One program's machine, as far as it is looked at."""

    machine: Machine
    devices: list[VfioPciCoreDevice]
    probe: ProbeModule | None
    places: list[tuple[int, int, int]]
    kept: Held
    processes: dict[int, Process]
    ears: dict[int, Ears]
    before: Counter[tuple[int, int, str]]

    def __init__(self, header: Header) -> None:
        self.there: dict[str, tuple[int, int]] = {}  # the process and the address of a place
        self.header = header
        self.layout = Layout(header)

    def address(self, slot: str, page: int) -> int:
        """The address of a page of a slot, in bytes."""
        return self.machine.slot(slot) + page * PAGE_SIZE

    def _look(self, step: Step, seen: Seen) -> Seen:
        lru_add_drain(self.machine)  # as the agent does before it looks
        for place in step.observed.entries:
            where = self._place(place)
            if where is not None:
                seen.entries[place] = self.entry(*where)
        for place in step.observed.vm_flags:
            where = self._place(place)
            if where is not None:
                seen.vm_flags[place] = where[0].vm_flags(where[1])
        for place in step.observed.pagemap:
            where = self._place(place)
            if where is not None:
                seen.pagemap[place] = self.pagemap(*where)
        if step.observed.locked is not None:
            seen = replace(seen, locked={str(n): p.locked() for n, p in self.processes.items()})
        heard = {str(n): ears.since() for n, ears in self.ears.items()}
        if step.observed.events is not None:
            seen = replace(seen, events=heard)
        if step.observed.frames is not None:
            seen = replace(seen, frames=self.frames([*step.observed.entries, *step.observed.frames]))
        if step.observed.iovas is not None:
            seen = replace(seen, iovas={name: self.translation(name) for name in step.observed.iovas})
        return seen if step.observed.memtypes is None else replace(seen, memtypes=self.memtypes())

    def _place(self, place: str) -> tuple[Process, int] | None:
        there = self.there.get(place)
        if there is None:
            number, slot, page = _parsed(place)
            there = self.there[place] = (number, self.address(slot, page))
        process = self.processes.get(there[0])
        return None if process is None else (process, there[1])

    def entry(self, process: Process, address: int) -> Entry:
        """The raw entry, no event. The model has no tables above the PMD, so a walk ends there at the earliest.

        Frames are moved to where the recorded machine had them, if that is known.
        """
        table = process.mm.pgd.get(address >> PMD_SHIFT)
        pmd = table.peek("entry") if table is not None else NONE
        level = "pmd" if pmd == NONE or pmd_leaf(pmd) else "pte"
        bits = process.pte(address)
        if not pte_present(bits):
            return Entry(level, bits)
        there = self._there(pte_pfn(bits))
        return Entry(level, bits & ~FRAME | invert_frame(there * PAGE_SIZE, bits))

    def pagemap(self, process: Process, address: int) -> int:
        """The pagemap word, its frame moved likewise."""
        word = process.pagemap(address)
        return word & ~PM_FRAME | self._there(word & PM_FRAME) if word & PM_PRESENT else word

    def frames(self, places: list[str]) -> dict[str, Frame]:
        """What is counted of the frames that places map, if they have struct pages."""
        found = {}
        for place in places:
            where = self._place(place)
            entry = NONE if where is None else where[0].pte(where[1])
            pfn = pte_pfn(entry)
            if where is not None and self._is_leaf(*where):
                pfn = leaf_pfn(entry, PMD_SHIFT) + (where[1] >> PAGE_SHIFT & (1 << PMD_SHIFT - PAGE_SHIFT) - 1)
            if entry & PRESENT and self.has_page(pfn):
                found[place] = self.frame(pfn)
        return found

    def _is_leaf(self, process: Process, address: int) -> bool:
        table = process.mm.pgd.get(address >> PMD_SHIFT)
        return table is not None and pmd_leaf(table.peek("entry"))

    def has_page(self, pfn: int) -> bool:
        """Has a frame of the model's a struct page?"""
        return pfn in self.machine.pages or self.machine.e820.pfn_valid(pfn)

    def frame(self, pfn: int) -> Frame:
        """What is counted of a frame; of a driver's, beyond what the driver itself has."""
        refs, maps = page.counts(self.machine, pfn)
        folio = self.machine.pages.get(pfn)
        own = 0 if folio is None or folio.freed else folio.held_by(THE_DRIVER)
        return Frame(pfn=self._there(pfn), refs=refs - own, maps=maps)

    def translation(self, iova: str) -> Translation | None:
        """The frame at an IOVA, and what is counted of it."""
        pfn = self.kept.iova(iova)
        if pfn is None:
            return None
        if not self.has_page(pfn):
            return Translation(pfn=self._there(pfn))
        frame = self.frame(pfn)
        return Translation(pfn=frame.pfn, refs=frame.refs, maps=frame.maps)

    def _held(self) -> tuple[Frame, ...]:
        """The frames of regions that somebody counts, each with how often."""
        found = []
        for pfn in sorted(self.machine.pages):
            frame = self.frame(pfn)
            if pfn != ZERO_PFN and self._recorded(pfn) is not None and (frame.refs or frame.maps):
                found.append(frame)
        return tuple(found)

    def _places(self) -> list[tuple[int, int, int]]:
        """(the model's first frame, pages, the recorded machine's first frame) of what is known of both."""
        devices = zip(self.devices, self.header.devices, strict=True)
        bars = [pair for d, k in devices for pair in zip(d.pdev.bars, k.bars, strict=True)]
        places = [(bar.pfn, key.pages, key.pfn) for bar, key in bars if key.pfn is not None]
        regions = self.probe.regions if self.probe is not None else {}
        if self.header.zero_pfn is not None:
            places.append((ZERO_PFN, 1, self.header.zero_pfn))
        return places + [(regions[k.name][0], k.pages, k.pfn) for k in self.header.regions]

    def _recorded(self, pfn: int) -> int | None:
        """Where the recorded machine had one of the model's frames; None for RAM, and where nobody knows."""
        return next((there + pfn - here for here, pages, there in self.places if here <= pfn < here + pages), None)

    def _there(self, pfn: int) -> int:
        """Where one of the model's frames is on the recorded machine: RAM has numbers of its own."""
        there = self._recorded(pfn)
        return pfn + (MODEL_RAM if self.layout.known else 0) if there is None else there

    # -- memtypes ------------------------------------------------------------------------------------------------
    def _memtypes(self) -> list[tuple[int, int, str]]:
        """What the memtype tree has in the probe's regions, at the recorded machine's addresses."""
        out = []
        regions = self.probe.regions if self.probe is not None else {}
        for entry in self.machine.memtypes.entries():
            for key in self.header.regions:
                here = regions[key.name][0] * PAGE_SIZE
                if here <= entry.start and entry.end <= here + key.pages * PAGE_SIZE:
                    by = key.pfn * PAGE_SIZE - here
                    out.append((entry.start + by, entry.end + by, cattr_name(entry.type)))
        return out

    def memtypes(self) -> tuple[Memtype, ...]:
        """The entries that were not there when the program started."""
        new = Counter(self._memtypes()) - self.before
        return tuple(Memtype(start=start, end=end, type=name) for start, end, name in new.elements())

    def log(self) -> list[Message | str]:
        """What the kernel has printed about memtypes, at the recorded machine's addresses where they are known."""
        return [self._moved(line) for line in self.machine.memtypes.peek("log")]

    def _moved(self, line: str) -> Message | str:
        message = message_of(line)
        if message is None:
            return line
        here = message.start // PAGE_SIZE
        there = self._recorded(here)
        by = 0 if there is None else (there - here) * PAGE_SIZE
        return replace(message, start=message.start + by, end=message.end + by)
