"""Two zaps of one mapping at once: is its reservation given back twice?

The driver has the same range mapped for itself, so there are two equal entries. Up to 6.15 each zap looks at VM_PAT,
frees, and then clears VM_PAT. Both hold i_mmap_rwsem for reading only, which lets both find it set; the second one to
free takes the driver's entry. With the untracking in unmap_vmas, or tied to the VMA, no zap untracks.
"""

from mmlitmus.api import Machine, always, case, memtypes_at_rest, never, pci_iomap, releases, sometimes
from mmlitmus.kernel.drivers.misc.probe import open_probe

TWICE = sometimes("freeing-invalid-memtype", "memtype-double-free", "untrack-walk-failed")
SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


@case(
    "pat/two-zaps",
    scenario="S-PAT-08",
    thread="000",
    claims=("N2",),
    asks=("memtype-steal", "memtype-leak"),
    reach=("zap_1 done", "zap_2 done"),
    expect={
        **releases("v5.10", "deb-6.12.117", sometimes("memtype-steal", "untrack-walk-failed")),
        "v6.10": sometimes("memtype-steal", "untrack-walk-failed") & always("mmap_assert_locked"),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def two_zaps(m: Machine) -> None:
    probe = open_probe(m, pages=1)
    pci_iomap(m, probe.pdev)
    app = m.process("app")
    app.mmap(probe.file("remap"), 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap_1() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zap_1 done")

    @m.task
    def zap_2() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zap_2 done")


@case(
    "pat/two-zaps/alone",
    scenario="S-PAT-08",
    thread="000",
    claims=("N2",),
    asks=("freeing-invalid-memtype", "memtype-double-free", "memtype-leak"),
    reach=("zap_1 done", "zap_2 done"),
    expect={
        "v5.10": TWICE,
        "deb-6.1.192": TWICE,
        "deb-6.12.117": TWICE,
        **releases("v6.16", "deb-7.3.4", never),
        "deb-6.12.117 +untrack-in-unmap-vmas": never,
        "deb-6.12.117 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,
)
def two_zaps_alone(m: Machine) -> None:
    """... and if nobody else has reserved the range?"""
    probe = open_probe(m, pages=1)
    app = m.process("app")
    app.mmap(probe.file("remap"), 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap_1() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zap_1 done")

    @m.task
    def zap_2() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zap_2 done")
