"""A driver has a BAR mapped for itself while a process maps all of it: does each give back what he has reserved?

There are two equal entries then, and neither says whose it is: whoever frees takes one of the two. That is enough, as
long as each frees once. The type of the later one is that of the earlier.
"""

from mmlitmus.api import (
    PAGE_SIZE,
    CacheMode,
    Machine,
    always,
    case,
    iounmap,
    memtypes_at_rest,
    never,
    pci_iomap,
    pci_iomap_wc,
    pte_cachemode,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe

SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


@case(
    "pat/ioremap-same-range",
    control="pat/ioremap-same-range/zapped",
    scenario="S-PAT-13",
    thread="000",
    claims=("C000-18", "C000-28"),
    reach=("unmapped", "iounmap done"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": never,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,
)
def ioremap_same_range(m: Machine) -> None:
    probe = open_probe(m, pages=2)
    app = m.process("app")
    barmap = pci_iomap(m, probe.pdev)
    a = app.mmap(probe.file("remap", "wc"), 2)
    mode = pte_cachemode(app.pte(a))
    m.require(mode == CacheMode.UC_MINUS, "wrong-type", f"WC after pci_iomap is {mode.name}")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def munmap() -> None:
        app.munmap(a, 2)
        m.reached("unmapped")

    @m.task
    def driver() -> None:
        iounmap(m, barmap)
        m.reached("iounmap done")


@case(
    "pat/ioremap-same-range/zapped",
    scenario="S-PAT-13",
    thread="000",
    claims=("C000-03",),
    ignores=("mmap_assert_locked",),
    reach=("the driver's is WC", "page 1 is there"),
    expect={
        **releases("v5.10", "deb-6.12.117", always("memtype-alias", "untracked-live")),
        **releases("v6.16", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": never,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,
)
def ioremap_hides_it(m: Machine) -> None:
    """... and if a page of the process's is zapped before the driver goes?

    As long as the driver's entry is there, the frames keep their type. When it is gone, so is the type of what is left
    of the process's mapping.
    """
    probe = open_probe(m, pages=2)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 2)
    barmap = pci_iomap_wc(m, probe.pdev)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap_then_iounmap() -> None:
        if barmap is not None and barmap.type == CacheMode.WC:
            m.reached("the driver's is WC")
        probe.unmap_mapping_range(0, 1)
        if app.pte(a + PAGE_SIZE):
            m.reached("page 1 is there")
        iounmap(m, barmap)
