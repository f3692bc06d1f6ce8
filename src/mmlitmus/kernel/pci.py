"""A PCI device as the bus sees it: BARs at fixed frames, and whether it answers.

A device answers memory accesses while its COMMAND.MEMORY bit is set, it is in D0 and not in reset. ``off`` holds the
reasons why it does not; an access that arrives then is the machine check or all-ones read that revocation exists to
prevent, and is the finding ``access-after-disable``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmlitmus.explore.findings import reached, report
from mmlitmus.explore.runtime import current
from mmlitmus.explore.scheduler import SetupError
from mmlitmus.explore.state import Const, Ghost, Model, touch

#: BARs that a device can have
PCI_STD_NUM_BARS = 6
#: the least that a further BAR is put on a multiple of, in pages
MIN_BAR_PAGES = 16


class Bar(Model):
    """A base address register: ``pfn`` of its first frame, length in pages, what its registers read (by page)."""

    __slots__ = ()
    index = Const()
    pfn = Const()
    pages = Const()
    registers = Const()


class PciDevice(Model):
    """The hardware half of a device. ``off``: the reasons for which it does not answer, in order of appearance.

    ``pfn`` and ``pages``: its BAR 0; ``more``: the pages of other BARs by number (1 to 5), which lie behind it, each on
    a multiple of its size. They answer, or do not, together.
    """

    __slots__ = ()
    bars = Const()
    off = Ghost()

    def __init__(self, name: str, pfn: int, pages: int, more: Mapping[int, int] | None = None) -> None:
        bars = [Bar(f"{name}:BAR0", index=0, pfn=pfn, pages=pages, registers=(0x010000ED,))]
        for index, length in sorted((more or {}).items()):
            if not 0 < index < PCI_STD_NUM_BARS:
                raise SetupError(f"{name} has no BAR {index}: beside BAR 0 they are 1 to {PCI_STD_NUM_BARS - 1}")
            size = 1 << max(length - 1, MIN_BAR_PAGES - 1).bit_length()
            at = -(-(bars[-1].pfn + bars[-1].pages) // size) * size
            bars.append(Bar(f"{name}:BAR{index}", index=index, pfn=at, pages=length, registers=()))
        super().__init__(name, bars=tuple(bars), off=())

    @property
    def responds(self) -> bool:
        """Ghost: does the device answer memory accesses now?"""
        return not self.off

    def power(self, reason: str, on: bool) -> None:
        """One event: the hardware starts or stops answering, as far as ``reason`` goes."""
        touch(self.oid("off"))
        rest = tuple(r for r in self.off if r != reason)
        self.off = rest if on else (*rest, reason)
        reached(f"{self.name} {'answers' if not self.off else 'is off'}")

    def bar(self, index: int) -> Bar | None:
        """The BAR of that number."""
        return next((b for b in self.bars if b.index == index), None)

    def bar_of(self, pfn: int) -> Bar | None:
        """The BAR that contains frame ``pfn``."""
        return next((b for b in self.bars if b.pfn <= pfn < b.pfn + b.pages), None)

    def access(self, pfn: int, offset: int, write: bool) -> Any:
        """An access of frame ``pfn`` arrives (within an event that reads ``off``): what a read returns."""
        bar = self.bar_of(pfn)
        assert bar is not None
        if self.off:
            report(
                "invariant",
                "access-after-disable",
                f"{current().name} reaches page {pfn - bar.pfn} of {bar.name} while {self.name} is off "
                f"({', '.join(self.off)})",
            )
            return 0
        page = pfn - bar.pfn
        return bar.registers[page] if not offset and page < len(bar.registers) else 0
