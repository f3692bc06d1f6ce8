"""A mapping is made shorter by mremap and then unmapped: is all of it given back?

It is: what goes is the tail, and the tail of an entry can be given back. Up to 6.15 the reservation shrinks with the
mapping; from 6.16 on it stays as it was until the mapping is gone.
"""

from mmlitmus.api import Machine, case, memtypes_at_rest, never, pat_memtype_list, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe


@case(
    "pat/mremap-shrink",
    control="pat/split-head-first",
    scenario="S-PAT-13",
    thread="000",
    claims=("N7",),
    reach=("shrunk", "all is unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def mremap_shrink(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        if app.mremap(a, 4, 2) == a:
            m.reached("shrunk")
        app.munmap(a, 2)
        if len(pat_memtype_list(m)) == 1:
            m.reached("all is unmapped")
