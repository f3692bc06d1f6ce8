"""A mapping is unmapped in two parts, the tail first: is all of it given back?

Up to 6.15 a free of the tail makes the entry shorter, and the rest is then exactly what is left of it. (That there is a
free for the tail of an entry is for mremap's sake; for the head there is none.) From 6.16 on the whole range stays
reserved until the last part is gone.
"""

from mmlitmus.api import PAGE_SIZE, Machine, case, memtypes_at_rest, never, pat_memtype_list, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe


@case(
    "pat/split-tail-first",
    control="pat/split-head-first",
    scenario="S-PAT-13",
    thread="000",
    claims=("C000-01", "N7"),
    reach=("the tail is unmapped", "all is unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def split_tail_first(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        app.munmap(a + 3 * PAGE_SIZE, 1)
        m.reached("the tail is unmapped")
        app.munmap(a, 3)
        if len(pat_memtype_list(m)) == 1:
            m.reached("all is unmapped")
