"""Where frames are on a recorded machine, and the words in which what was seen is compared.

Frames of a BAR or of a region of the probe module's are compared exactly, and so is the page of zeros. Which frame of
RAM the kernel takes for a page is its own business: of those it counts which are the same one, up to a bijection of
those alive at once (``Pairs``). That a frame which was free in between is used again, or is not, proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, PMD_SHIFT, PUD_SHIFT, leaf_pfn, pmd_leaf, pte_pfn, pte_present
from mmlitmus.kernel.fs.proc.task_mmu import (
    PM_FILE,
    PM_FRAME,
    PM_GUARD_REGION,
    PM_MMAP_EXCLUSIVE,
    PM_PRESENT,
    PM_SOFT_DIRTY,
    PM_SWAP,
    PM_UFFD_WP,
)
from mmlitmus.kernel.machine import SLOT_BASE, SLOT_SIZE

from .schema import Entry, Frame, Header, Memtype, Message, Translation

FRAME = (1 << 52) - (1 << 12)  # the bits of an entry that hold a frame's address
#: levels that may hold a huge leaf, and the shift of its size
HUGE = {"pmd": PMD_SHIFT, "pud": PUD_SHIFT}
#: the model's RAM frames are moved to where no machine has anything
MODEL_RAM = 1 << 39

_RANGE = r"\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]"
#: message -> the line that the kernel prints (arch/x86/mm/pat/memtype.c, memtype_interval.c)
LINES = {
    "freeing-invalid-memtype": re.compile(rf"x86/PAT: \S+ freeing invalid memtype {_RANGE}"),
    "expected-mapping-type": re.compile(rf"x86/PAT: \S+ map pfn expected mapping type \S+ for {_RANGE}, got \S+"),
    "ram-range-type": re.compile(rf"x86/PAT: \S+ map pfn RAM range req \S+ for {_RANGE}, got \S+"),
    "conflicting-types": re.compile(r"x86/PAT: \S+ conflicting memory types ([0-9a-f]+)-([0-9a-f]+) \S+<->\S+"),
    "reserve-failed": re.compile(rf"x86/PAT: memtype_reserve failed {_RANGE}, track \S+, req \S+"),
    "ram-reserve-failed": re.compile(rf"x86/PAT: reserve_ram_pages_type failed {_RANGE}, track \S+, req \S+"),
}
#: messages that give a range without its end, the others give its last address
WITHOUT_END = ("conflicting-types",)


def message_of(line: str) -> Message | None:
    """What a line of the kernel log says about memtypes; None for a line that the schema has no name for."""
    for name, pattern in LINES.items():
        match = pattern.fullmatch(line)
        if match is not None:
            end = int(match[2], 16) + (name not in WITHOUT_END)
            return Message(message=name, start=int(match[1], 16), end=end)
    return None


#: pagemap's bits by name, the highest first (fs/proc/task_mmu.c)
PAGEMAP = (
    (PM_PRESENT, "present"), (PM_SWAP, "swap"), (PM_FILE, "file"), (1 << 60, "bit60"), (1 << 59, "bit59"),
    (PM_GUARD_REGION, "guard"), (PM_UFFD_WP, "uffd-wp"), (PM_MMAP_EXCLUSIVE, "exclusive"),
    (PM_SOFT_DIRTY, "soft-dirty"),
)  # fmt: skip


def slot_address(address: int) -> str:
    """An address as slot and page (``a4``); in hex where it is in no slot. The end of a slot is still that slot's."""
    slot, offset = divmod(address - SLOT_BASE, SLOT_SIZE)
    if 0 <= slot < 26 and not offset & 0xFFF:
        return f"{chr(ord('a') + slot)}{offset >> 12}"
    return f"{address:#x}"


class Names:
    """Names of the RAM frames of one side, of those that places map now."""

    def __init__(self) -> None:
        self.alive: dict[int, str] = {}

    def of(self, pfn: int) -> str:
        """The name of a frame; ``ram`` of one that no place maps."""
        return self.alive.get(pfn, "ram")


class Pairs:
    """Names of RAM frames on both sides within one program: two frames have the same name if one stands for the other.

    Frames that come to be mapped at the same place at once are paired, and stay so for as long as some place maps them.
    A frame that comes alone, or where the other side has one that was there before, has a name of its own.
    """

    def __init__(self) -> None:
        self.recorded = Names()
        self.model = Names()
        self.given = 0

    def step(self, recorded: Mapping[str, int], model: Mapping[str, int]) -> None:
        """A step is over: which RAM frame each place maps. Frames that are mapped no more are forgotten."""
        mine: dict[int, str] = {}
        theirs: dict[int, str] = {}
        for place in sorted({*recorded, *model}):
            one, other = recorded.get(place), model.get(place)
            name = None if one is None else mine.get(one) or self.recorded.alive.get(one)
            other_name = None if other is None else theirs.get(other) or self.model.alive.get(other)
            if one is not None and other is not None and name is None and other_name is None:
                name = other_name = self._new()
            if one is not None:
                mine[one] = name or self._new()
            if other is not None:
                theirs[other] = other_name or self._new()
        self.recorded.alive, self.model.alive = mine, theirs

    def _new(self) -> str:
        self.given += 1
        return f"ram{self.given}"


class Layout:
    """The memory of a recorded machine, as far as the header says.

    ``whole_log``: were all lines kept that the kernel printed? Of programs run one after the other, those of memtypes.
    """

    def __init__(self, header: Header) -> None:
        self.whole_log = header.isolation != "sequence"
        self.packed = header.placement == "packed"
        bars = [bar for device in header.devices for bar in device.bars]
        self.known = all(bar.pfn is not None for bar in bars)
        self.ranges = [(bar.pfn, bar.pages) for bar in bars if bar.pfn is not None]
        self.ranges += [(region.pfn, region.pages) for region in header.regions]
        self.places = [(region.name, region.pfn, region.pages) for region in header.regions]
        devices = enumerate(header.devices)
        for n, device in devices:
            several = len(device.bars) > 1
            for bar in device.bars:
                if bar.pfn is not None:
                    self.places.append((f"dev{n}.{bar.bar}" if several else f"dev{n}", bar.pfn, bar.pages))
        self.zero_pfn = header.zero_pfn

    def is_ram(self, entry: Entry) -> bool:
        """Does a recorded entry map a frame that is in no BAR and no region? Never if not all places are known."""
        return self.known and pte_present(entry.bits) and self.is_ram_frame(pte_pfn(entry.bits))

    def is_ram_frame(self, pfn: int) -> bool:
        """Is a recorded machine's frame in no BAR and no region, and not the page of zeros?"""
        return pfn != self.zero_pfn and not any(at <= pfn < at + n for at, n in self.ranges)

    def ram_frames(self, entries: Mapping[str, Entry | None]) -> dict[str, int]:
        """The RAM frames that entries map, by place."""
        found = ((place, entry) for place, entry in entries.items() if entry is not None and entry.level == "pte")
        return {place: pte_pfn(entry.bits) for place, entry in found if self.is_ram(entry)}

    def ram_only(self, frames: Mapping[str, int]) -> dict[str, int]:
        """Those of the frames that are RAM."""
        if not self.known:
            return {}
        return {name: pfn for name, pfn in frames.items() if self.is_ram_frame(pfn)}

    def frame_name(self, pfn: int, names: Names) -> str:
        """A recorded machine's frame as text: a region or device and the page of it, the zero page, or RAM by name."""
        for name, first, pages in self.places:
            if first <= pfn < first + pages:
                return f"{name}[{pfn - first:#x}]"
        if pfn == self.zero_pfn:
            return "zero"
        return names.of(pfn) if self.known else f"{pfn:#x}"

    def pagemap(self, word: int | None, names: Names) -> str | None:
        """A pagemap word, bit by bit; the frame of a page that is present last."""
        if word is None:
            return None
        bits = [name for bit, name in PAGEMAP if word & bit]
        frame = word & PM_FRAME
        bits += [self.frame_name(frame, names)] if word & PM_PRESENT else [f"{frame:#x}"] if frame else []
        return " ".join(bits) or "none"

    def frame(self, frame: Frame | None, names: Names) -> str:
        """A frame's counts as text."""
        if frame is None:
            return "none"
        return f"{self.frame_name(frame.pfn, names)} refs {frame.refs} maps {frame.maps}"

    def slot(self, pins: Sequence[Frame | None], n: int, names: Names) -> str:
        """What is in a slot of what a pin got, as text."""
        if n >= len(pins):
            return "none"
        frame = pins[n]
        return "unfilled" if frame is None else self.frame(frame, names)

    def translation(self, at: Translation | None, names: Names) -> str:
        """Where an IOVA is, as text; with what is counted of the frame if it has a page."""
        if at is None:
            return "none"
        if at.refs is None or at.maps is None:
            return self.frame_name(at.pfn, names)
        return f"{self.frame_name(at.pfn, names)} refs {at.refs} maps {at.maps}"

    def held(self, frames: Iterable[Frame] | None) -> str | None:
        """The frames that are still held when a program's processes have gone, as text."""
        if frames is None:
            return None
        return ", ".join(self.frame(frame, Names()) for frame in sorted(frames, key=lambda f: f.pfn)) or "none"

    def entry(self, entry: Entry | None, names: Names) -> str | None:
        """An entry as text: its level, its frame (of a huge leaf the first one) by name, and its other bits.

        The model's tables begin at the PMD, and a walk that found nothing further up ends there. Where mappings share
        page tables with others, which tables are there does not depend on the program.
        """
        if entry is None:
            return None
        if entry.bits == 0 and self.packed:
            return "none"
        if entry.bits == 0 and entry.level in ("pgd", "p4d", "pud"):
            return "pmd:0x0"
        if not pte_present(entry.bits):
            return str(entry)
        pfn, bits = pte_pfn(entry.bits), entry.bits & ~FRAME
        if entry.level in HUGE and pmd_leaf(entry.bits):
            bits |= entry.bits & 1 << PAGE_SHIFT  # the leaf's PAT bit
            pfn = leaf_pfn(entry.bits, HUGE[entry.level])
        name = self.frame_name(pfn, names)
        return str(entry) if name.startswith("0x") else f"{entry.level}:{name}+{bits:#x}"

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
        for name, pfn, pages in self.places:
            first, end = what.start // 4096 - pfn, what.end // 4096 - pfn
            if 0 <= first < pages:
                return f"{name}[{first:#x}-{end:#x})"
        return f"[{what.start:#x}-{what.end:#x})"


def _order(what: Memtype | Message) -> tuple[int, int, str]:
    return what.start, what.end, what.type if isinstance(what, Memtype) else what.message
