"""What does the next owner of the frames get, after a zap of one page of a WC mapping?

Three pages of the first mapping are still there, and WC. Where the zap has given the whole reservation back (up to
6.15) the second mapping is the first to reserve, gets the UC- that it asks for, and three frames have two types. Where
the reservation is kept it is given WC.
"""

from mmlitmus.api import PAGE_SIZE, Machine, always, case, memtypes_at_rest, never, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe


@case(
    "pat/zap-then-remap",
    scenario="S-PAT-03",
    thread="000",
    claims=("C000-03",),
    ignores=("mmap_assert_locked",),
    reach=("page 1 is there twice",),
    expect={
        **releases("v5.10", "deb-6.12.117", always("memtype-alias")),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def zap_then_remap(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, at="a")
    b = app.mmap(probe.file("remap"), 4, at="b")
    app.munmap(b, 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap_and_map() -> None:
        probe.unmap_mapping_range(0, 1)
        again = app.mmap(probe.file("remap"), 4, at="b")
        if again > 0 and app.pte(a + PAGE_SIZE):
            m.reached("page 1 is there twice")
