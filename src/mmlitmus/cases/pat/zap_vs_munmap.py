"""A zap while the mapping is being unmapped: is its reservation given back twice, or not at all?

The driver has the same range mapped for itself. Up to 6.15 both untrack: munmap under mmap_lock, the zap under
i_mmap_rwsem, and nothing keeps them apart between the look at VM_PAT and its clearing. One of them can take the
driver's entry. With the untracking in unmap_vmas only munmap untracks; but if the zap has cleared the first entry
before munmap reads the frames from it, nobody does. Tied to the VMA it is given back once.
"""

from mmlitmus.api import Machine, case, memtypes_at_rest, never, pci_iomap, releases, sometimes
from mmlitmus.kernel.drivers.misc.probe import open_probe


@case(
    "pat/zap-vs-munmap",
    scenario="S-PAT-08",
    thread="000",
    claims=("N2", "C000-09"),
    asks=("memtype-steal", "memtype-leak"),
    reach=("zapped", "unmapped"),
    expect={
        **releases("v5.10", "deb-6.12.117", sometimes("memtype-steal", "untrack-walk-failed")),
        "v6.10": sometimes("memtype-steal", "mmap_assert_locked", "untrack-walk-failed"),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", sometimes("memtype-leak", "untrack-walk-failed"), "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def zap_vs_munmap(m: Machine) -> None:
    probe = open_probe(m, pages=1)
    pci_iomap(m, probe.pdev)
    app = m.process("app")
    a = app.mmap(probe.file("remap"), 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zapped")

    @m.task
    def munmap() -> None:
        if app.munmap(a, 1) == 0:
            m.reached("unmapped")
