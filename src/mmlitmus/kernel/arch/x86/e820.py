"""What the physical address space holds, by page frame: System RAM, reserved memory, devices, nothing.

A machine of QEMU's kind: RAM from 0 up to ``top`` except for the legacy ISA hole, devices above it. Whoever puts device
memory or a reserved range elsewhere says so while the machine is set up; nothing changes once tasks run.

Two questions that sound alike are not: is a frame System RAM (``page_is_ram``: the iomem resources), and has it a
struct page (``pfn_valid``)? Memory kept back with memmap=SIZE$START is no RAM, but has struct pages where its section
of 128M holds RAM too. Recorded on 5.10 to 7.3: memmap=16M$0x10000000 valid, memmap=128M$0x20000000 and a BAR not.

Source: arch/x86/kernel/e820.c; kernel/resource.c walk_system_ram_range, iomem_map_sanity_check, page_is_ram;
include/linux/mmzone.h pfn_valid. Of the model's own: E820.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
ISA_START_ADDRESS = 0xA0000
ISA_END_ADDRESS = 0x100000
ISA_START_PFN = ISA_START_ADDRESS >> PAGE_SHIFT
ISA_END_PFN = ISA_END_ADDRESS >> PAGE_SHIFT
SECTION_PAGES = 1 << 27 - PAGE_SHIFT
#: where RAM ends by default: 2 GiB, as in the machines that the recordings come from
TOP_PFN = 0x80000


def is_isa_range(start: int, end: int) -> bool:
    """is_ISA_range(): do all of [start, end) bytes lie in the legacy ISA hole?

    Source: arch/x86/include/asm/e820/api.h is_ISA_range.
    """
    return start >= ISA_START_ADDRESS and end <= ISA_END_ADDRESS


class Resource(NamedTuple):
    """A device's or a reserved range: frames [pfn, end_pfn)."""

    name: str
    pfn: int
    end_pfn: int


class E820:
    """The memory map. Frames and counts of frames throughout, except where bytes are said."""

    __slots__ = ("ram", "resources", "top")

    def __init__(self, top: int = TOP_PFN) -> None:
        self.top = top  # high_memory: the first frame behind RAM, and behind the kernel's direct map
        self.ram: tuple[tuple[int, int], ...] = ((0, ISA_START_PFN), (ISA_END_PFN, top))
        self.resources: tuple[Resource, ...] = ()

    def add_device(self, name: str, pfn: int, pages: int) -> None:
        """A device decodes ``pages`` frames from ``pfn`` on; if there was RAM, it is RAM no more."""
        self.resources = (*self.resources, Resource(name, pfn, pfn + pages))
        self.reserve(pfn, pages)

    def reserve(self, pfn: int, pages: int) -> None:
        """Keep ``pages`` frames from ``pfn`` on back from being RAM: memmap=SIZE$START."""
        end = pfn + pages
        kept = [part for a, b in self.ram for part in ((a, min(b, pfn)), (max(a, end), b))]
        self.ram = tuple(part for part in kept if part[0] < part[1])

    def system_ram(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of frames [start, end) that are System RAM, in order (walk_system_ram_range)."""
        for a, b in self.ram:
            if a < end and b > start:
                yield max(a, start), min(b, end)

    def page_is_ram(self, pfn: int) -> bool:
        """Is the frame System RAM?"""
        return any(a <= pfn < b for a, b in self.ram)

    def pfn_valid(self, pfn: int) -> bool:
        """Has the frame a struct page? By sections of 128M: all of a section's frames have one if any is RAM."""
        section = pfn & -SECTION_PAGES
        return any(True for _ in self.system_ram(section, section + SECTION_PAGES))

    def page_reserved(self, pfn: int) -> bool:
        """Is the frame, which has a struct page, PageReserved? All of the first megabyte is, from 5.13 on."""
        return pfn < ISA_END_PFN or not self.page_is_ram(pfn)

    def spans_resources(self, start: int, size: int) -> bool:
        """Do ``size`` bytes from ``start`` on lie partly in and partly outside a device? (iomem_map_sanity_check)"""
        first, last = start >> PAGE_SHIFT, start + size - 1 >> PAGE_SHIFT
        return any(
            r.pfn <= last and r.end_pfn > first and not (r.pfn <= first and last < r.end_pfn) for r in self.resources
        )
