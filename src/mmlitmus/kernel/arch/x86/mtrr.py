"""Memory type range registers: the type that the firmware gave to physical ranges.

The layout that QEMU's firmware leaves: write-back by default, uncacheable from 3G to 4G, and fixed ranges that make the
ISA hole uncacheable. Nothing changes it at run time. Source: arch/x86/kernel/cpu/mtrr/generic.c mtrr_type_lookup; the
merging of overlapping ranges as in the SDM, volume 3, "MTRR precedences". Of the model's own: Mtrr.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from .e820 import ISA_END_ADDRESS, ISA_START_ADDRESS, PAGE_SHIFT


class MtrrType(IntEnum):
    """As the registers have it."""

    UNCACHABLE = 0
    WRCOMB = 1
    WRTHROUGH = 4
    WRPROT = 5
    WRBACK = 6


class Mtrr:
    """Ranges of bytes with a type, over a default. A later one goes where earlier ones are, and merges with them."""

    __slots__ = ("default", "fixed", "ranges")

    def __init__(self) -> None:
        self.default = MtrrType.WRBACK
        self.ranges: tuple[tuple[int, int, MtrrType], ...] = ((0xC000_0000, 1 << 32, MtrrType.UNCACHABLE),)
        self.fixed: tuple[tuple[int, int, MtrrType], ...] = (
            (0, ISA_START_ADDRESS, MtrrType.WRBACK),
            (ISA_START_ADDRESS, ISA_END_ADDRESS, MtrrType.UNCACHABLE),
        )

    def add(self, start: int, end: int, type: MtrrType) -> None:
        """A variable range over [start, end) bytes, while the machine is set up (mtrr_add)."""
        self.ranges = (*self.ranges, (start, end, type))

    def add_device(self, pfn: int, pages: int) -> None:
        """The firmware marks a device's frames uncacheable, where it has not done so."""
        start, end = pfn << PAGE_SHIFT, pfn + pages << PAGE_SHIFT
        if self.lookup(start, end) != (MtrrType.UNCACHABLE, True):
            self.add(start, end, MtrrType.UNCACHABLE)

    def at(self, address: int) -> MtrrType:
        """The type of one address."""
        if address < ISA_END_ADDRESS:
            return next(t for start, end, t in self.fixed if start <= address < end)
        type = None
        for start, end, new in self.ranges:
            if start <= address < end:
                type = new if type is None else merge(type, new)
        return self.default if type is None else type

    def lookup(self, start: int, end: int) -> tuple[MtrrType, bool]:
        """The type of [start, end) bytes and whether it is the same throughout; where it is not, the merged type."""
        edges = {x for s, e, _ in (*self.fixed, *self.ranges) for x in (s, e) if start < x < end}
        types = [self.at(x) for x in (start, *sorted(edges))]
        type = types[0]
        for other in types[1:]:
            type = merge(type, other)
        return type, len(set(types)) == 1


def merge(a: MtrrType, b: MtrrType) -> MtrrType:
    """Where two ranges overlap: equal ones stay, write-through wins over write-back, all else is uncacheable.

    Source: arch/x86/kernel/cpu/mtrr/generic.c check_type_overlap (to 6.1), type_merge (from 6.12).
    """
    if a == b:
        return a
    if {a, b} == {MtrrType.WRBACK, MtrrType.WRTHROUGH}:
        return MtrrType.WRTHROUGH
    return MtrrType.UNCACHABLE


def mtrr_type_lookup(machine: Any, start: int, end: int) -> tuple[MtrrType, bool]:
    """(type, uniform) of [start, end) bytes. Source: arch/x86/kernel/cpu/mtrr/generic.c mtrr_type_lookup."""
    found: tuple[MtrrType, bool] = machine.mtrr.lookup(start, end)
    return found
