"""A mapping is moved whole by mremap and then unmapped: is it given back, once?

Up to 6.15 the copy has VM_PAT from the original, and mremap takes it from the original, before that is unmapped. From
6.16 on both refer to one reservation.
"""

from mmlitmus.api import Machine, case, memtypes_at_rest, never, pat_memtype_list, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe


@case(
    "pat/mremap-move",
    control="pat/mremap-part",
    scenario="S-PAT-13",
    thread="000",
    reach=("moved", "all is unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def mremap_move(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, at="a")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        b = app.mremap(a, 4, 4, to="b")
        if b > 0 and len(pat_memtype_list(m)) == 2:
            m.reached("moved")
        app.munmap(b, 4)
        if len(pat_memtype_list(m)) == 1:
            m.reached("all is unmapped")
