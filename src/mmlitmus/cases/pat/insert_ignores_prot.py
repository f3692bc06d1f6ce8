"""Which type does a fault give a page of a WC mapping, if nobody has reserved the frame?

UC-. vmf_insert_pfn reserves nothing and does not look at the type that the VMA asks for: it looks up what is reserved,
and for device memory that nobody has reserved the answer is UC-. So it is where the driver has mapped the BAR for
itself (pci_iomap reserves UC-); only where somebody has reserved WC is the page WC. All releases agree.
"""

from mmlitmus.api import (
    PAGE_SHIFT,
    PAGE_SIZE,
    CacheMode,
    Machine,
    always,
    arch_io_free_memtype_wc,
    arch_io_reserve_memtype_wc,
    case,
    iounmap,
    memtypes_at_rest,
    never,
    pat_memtype_list,
    pci_iomap,
    pte_cachemode,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, open_probe
from mmlitmus.kernel.drivers.vfio.pci import open_device
from mmlitmus.kernel.uapi import Process

SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


def touch(m: Machine, app: Process, address: int, expected: CacheMode) -> None:
    """Touch a page, and say what type it has."""
    m.saw(app.read(address))
    mode = pte_cachemode(app.pte(address))
    m.require(mode == expected, "wrong-type", f"{m.page_label(address)} is {mode.name} and not {expected.name}")


@case(
    "pat/insert-ignores-prot",
    control="pat/insert-ignores-prot/vfio",
    scenario="S-PAT-04",
    thread="000",
    claims=("C000-07", "C000-14", "C000-21", "C000-22", "C000-35"),
    reach=("fault got through",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": never,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,
)
def insert_ignores_prot(m: Machine) -> None:
    probe = open_probe(m, pages=2)
    app = m.process("app")
    a = app.mmap(probe.file("fault_pfn", "wc"), 2)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def fault() -> None:
        touch(m, app, a, CacheMode.UC_MINUS)
        barmap = pci_iomap(m, probe.pdev)
        m.require(len(pat_memtype_list(m)) == 2, "not-reserved", "pci_iomap has mapped the BAR, and reserved nothing")
        touch(m, app, a + PAGE_SIZE, CacheMode.UC_MINUS)
        iounmap(m, barmap)


@case(
    "pat/insert-ignores-prot/reserved",
    control="pat/insert-ignores-prot/vfio",
    scenario="S-PAT-04",
    thread="000",
    claims=("C000-35",),
    reach=("fault got through",),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.12 +pfnmap-track-ctx": never},
    evidence=SOURCE,
)
def insert_looks_up(m: Machine) -> None:
    """... and if the driver has reserved it WC, and the VMA asks for nothing?"""
    probe = open_probe(m, pages=1)
    app = m.process("app")
    a = app.mmap(probe.file("fault_pfn"), 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def fault() -> None:
        arch_io_reserve_memtype_wc(m, BAR_PFN << PAGE_SHIFT, PAGE_SIZE)
        touch(m, app, a, CacheMode.WC)
        app.munmap(a, 1)
        arch_io_free_memtype_wc(m, BAR_PFN << PAGE_SHIFT, PAGE_SIZE)


@case(
    "pat/insert-ignores-prot/vfio",
    scenario="S-PAT-04",
    thread="000",
    claims=("C000-07", "C000-22"),
    asks=("wrong-type", "memtype-alias"),
    reach=("touch_bar got through",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v6.10", "deb-7.3.4", always("wrong-type"), "+write-combining"),
    },
    evidence=SOURCE,
)
def write_combining_vfio(m: Machine) -> None:
    """... and would a WC mapping of a BAR by VFIO be WC?

    Not while VFIO itself has the BAR mapped UC-. For the UC- mappings that it has today all is well.
    """
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def touch_bar() -> None:
        touch(m, qemu, bar, pte_cachemode(qemu.mm.peek("mm_mt")[0].peek("vm_page_prot")))
