"""Where frames are on a recorded machine, and the words in which entries, memtypes and messages are compared.

Frames of a BAR or of a region of the probe module's are compared exactly. Which frame of RAM the kernel takes for a
page is its own business: of those it counts only that it is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from mmlitmus.kernel.arch.x86.pgtable import pte_pfn, pte_present

from .schema import Entry, Header, Memtype, Message

FRAME = (1 << 52) - (1 << 12)  # the bits of an entry that hold a frame's address

_RANGE = r"\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]"
#: message -> the line that the kernel prints (arch/x86/mm/pat/memtype.c)
LINES = {
    "freeing-invalid-memtype": re.compile(rf"x86/PAT: \S+ freeing invalid memtype {_RANGE}"),
    "expected-mapping-type": re.compile(rf"x86/PAT: \S+ map pfn expected mapping type \S+ for {_RANGE}, got \S+"),
    "ram-range-type": re.compile(rf"x86/PAT: \S+ map pfn RAM range req \S+ for {_RANGE}, got \S+"),
}


def message_of(line: str) -> Message | None:
    """What a line of the kernel log says about memtypes; None for a line that the schema has no name for."""
    for name, pattern in LINES.items():
        match = pattern.fullmatch(line)
        if match is not None:
            return Message(message=name, start=int(match[1], 16), end=int(match[2], 16) + 1)
    return None


class Layout:
    """The memory of a recorded machine, as far as the header says."""

    def __init__(self, header: Header) -> None:
        self.packed = header.placement == "packed"
        bars = [bar for device in header.devices for bar in device.bars]
        self.known = all(bar.pfn is not None for bar in bars)
        self.ranges = [(bar.pfn, bar.pages) for bar in bars if bar.pfn is not None]
        self.ranges += [(region.pfn, region.pages) for region in header.regions]
        self.regions = header.regions

    def is_ram(self, entry: Entry) -> bool:
        """Does a recorded entry map a frame that is in no BAR and no region? Never if not all places are known."""
        pfn = pte_pfn(entry.bits)
        return self.known and pte_present(entry.bits) and not any(at <= pfn < at + n for at, n in self.ranges)

    def entry(self, entry: Entry | None) -> str | None:
        """An entry as text.

        The model's tables begin at the PMD, and a walk that found nothing further up ends there. Where mappings share
        page tables with others, which tables are there does not depend on the program.
        """
        if entry is None:
            return None
        if entry.bits == 0 and self.packed:
            return "none"
        if entry.bits == 0 and entry.level in ("pgd", "p4d", "pud"):
            return "pmd:0x0"
        if not entry.ram and self.is_ram(entry):
            entry = replace(entry, bits=entry.bits & ~FRAME, ram=True)
        return str(entry)

    def memtypes(self, entries: Iterable[Memtype] | None) -> str | None:
        """Memtype entries as text, in the order of their addresses."""
        if entries is None:
            return None
        return ", ".join(f"{self._range(m)} {m.type}" for m in sorted(entries, key=_order)) or "none"

    def log(self, messages: Iterable[Message | str] | None) -> str | None:
        """Messages as text, in the order of their addresses, then other lines: which came first is not compared."""
        if messages is None:
            return None
        said = [*messages]
        known = sorted((m for m in said if isinstance(m, Message)), key=_order)
        others = sorted(m for m in said if isinstance(m, str))
        return ", ".join([*(f"{m.message} {self._range(m)}" for m in known), *others]) or "none"

    def _range(self, what: Memtype | Message) -> str:
        for region in self.regions:
            first, end = what.start // 4096 - region.pfn, what.end // 4096 - region.pfn
            if 0 <= first < region.pages:
                return f"{region.name}[{first:#x}-{end:#x})"
        return f"[{what.start:#x}-{what.end:#x})"


def _order(what: Memtype | Message) -> tuple[int, int, str]:
    return what.start, what.end, what.type if isinstance(what, Memtype) else what.message
