"""While a UC- mapping is being unmapped, can the same frames be mapped WC?

Up to 6.15 munmap gives the reservation back before it clears the entries, and before TLBs are flushed: somebody who
maps the frames in between gets what he asks for. The patch of July 2024 leaves that order as it is. From 6.16 on the
reservation goes with the VMA, after the flush: whoever comes earlier is given UC-.
"""

from mmlitmus.api import (
    PAGE_SHIFT,
    PAGE_SIZE,
    CacheMode,
    Machine,
    always,
    case,
    ioremap_wc,
    iounmap,
    memtypes_at_rest,
    memtypes_now,
    never,
    pte_cachemode,
    releases,
    sometimes,
)
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, Probe, open_probe
from mmlitmus.kernel.uapi import Process


def map_wc(m: Machine, probe: Probe, other: Process) -> None:
    """Map the frame WC, and look at every mapping that there is now."""
    b = other.mmap(probe.file("remap", "wc"), 1)
    if b > 0:
        wc = pte_cachemode(other.pte(b)) == CacheMode.WC
        m.reached("mapped WC" if wc else "mapped UC-")
        memtypes_now(m)


@case(
    "pat/unmap-vs-remap",
    scenario="S-PAT-03",
    thread="000",
    claims=("N1",),
    asks=("memtype-alias", "memtype-leak", "memtype-steal"),
    reach=("unmapped", "mapped WC", "mapped UC-"),
    expect={
        **releases("v5.10", "deb-6.12.117", sometimes("memtype-alias")),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", sometimes("memtype-alias"), "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def unmap_vs_remap(m: Machine) -> None:
    probe = open_probe(m, pages=1)
    app, other = m.process("app"), m.process("other")
    a = app.mmap(probe.file("remap", "uc-"), 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def munmap() -> None:
        if app.munmap(a, 1) == 0:
            m.reached("unmapped")

    @m.task(process=other)
    def remap() -> None:
        map_wc(m, probe, other)


@case(
    "pat/unmap-vs-remap/zap",
    scenario="S-PAT-03",
    thread="000",
    claims=("N1",),
    asks=("memtype-alias", "memtype-leak", "memtype-steal"),
    reach=("zapped", "mapped UC-"),
    expect={
        **releases("v5.10", "deb-6.12.117", sometimes("memtype-alias")),
        "v6.10": sometimes("memtype-alias") & always("mmap_assert_locked"),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def zap_vs_ioremap(m: Machine) -> None:
    """... and while it is being zapped, can a driver?

    The driver uses ioremap_wc. A mapping of the same file would have to wait for i_mmap_rwsem until the zap is over.
    """
    probe = open_probe(m, pages=1)
    app = m.process("app")
    app.mmap(probe.file("remap", "uc-"), 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zapped")

    @m.task
    def driver() -> None:
        mapping = ioremap_wc(m, BAR_PFN << PAGE_SHIFT, PAGE_SIZE)
        if mapping is not None:
            m.reached("mapped WC" if mapping.type == CacheMode.WC else "mapped UC-")
            memtypes_now(m)
            iounmap(m, mapping)
