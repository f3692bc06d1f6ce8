"""Does VFIO's access to legacy VGA memory reserve a memtype?

No. A read or write of that region maps it with ioremap for the time of the access; but of [0xa0000,0x100000) nothing
is kept, and a request for UC- there is answered with WB. (The fixed MTRRs make it uncached all the same.) What VFIO
does reserve is the BAR, by pci_iomap when it is first mapped, and gives back when the device is closed.
"""

from mmlitmus.api import (
    PAGE_SHIFT,
    PAGE_SIZE,
    CacheMode,
    Machine,
    always,
    case,
    ioremap,
    ioremap_wc,
    iounmap,
    memtypes_at_rest,
    never,
    pat_memtype_list,
    releases,
)
from mmlitmus.kernel.drivers.vfio.pci import open_device

VGA, VGA_SIZE = 0xA0000, 0x20000


@case(
    "pat/vga-hole",
    control="pat/vga-hole/bar",
    scenario="S-PAT-04",
    thread="000",
    claims=("C000-16",),
    reach=("two mappings of the hole", "closed"),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.12 +pfnmap-track-ctx": never},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def vga_hole(m: Machine) -> None:
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def access() -> None:
        dev.vga_read(qemu)
        two_mappings(m, VGA, VGA_SIZE)
        bar = qemu.mmap(dev.file, 1)
        m.require(len(pat_memtype_list(m)) == 2, "wrong-count", f"the BAR: {pat_memtype_list(m)}")
        qemu.munmap(bar, 1)
        dev.close_device()
        m.require(len(pat_memtype_list(m)) == 1, "wrong-count", f"in the end: {pat_memtype_list(m)}")
        m.reached("closed")


def two_mappings(m: Machine, start: int, size: int) -> None:
    """Map physical memory twice, for the time of this call: is anything reserved?"""
    first, second = ioremap(m, start, size), ioremap_wc(m, start, size)
    if first is not None and second is not None:
        m.reached("two mappings of the hole" if start == VGA else "two mappings")
        m.require(first.type == second.type == CacheMode.WB, "wrong-type", f"{first.type!r}, {second.type!r}")
    m.require(len(pat_memtype_list(m)) == 1, "wrong-count", f"while it is mapped: {pat_memtype_list(m)}")
    iounmap(m, first)
    iounmap(m, second)


@case(
    "pat/vga-hole/bar",
    scenario="S-PAT-04",
    thread="000",
    reach=("two mappings",),
    expect=releases("v5.10", "deb-7.3.4", always("wrong-count", "wrong-type")),
)
def bar(m: Machine) -> None:
    """... and does ioremap of a BAR, from outside the hole? (It does: the control.)"""
    dev = open_device(m, pages=1)
    m.process("qemu")
    m.check(lambda: memtypes_at_rest(m))
    m.task(lambda: two_mappings(m, dev.pdev.bars[0].pfn << PAGE_SHIFT, PAGE_SIZE), name="access")
