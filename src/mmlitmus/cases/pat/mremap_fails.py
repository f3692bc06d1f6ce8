"""A mapping is to be moved, and there is no page table to move it to: does it keep its reservation?

Up to 6.15 the copy has been made with VM_PAT, as the source has it, and loses it before it is unmapped. From 6.16 on
both refer to one reservation.
"""

from mmlitmus.api import Machine, case, memtypes_at_rest, never, pat_memtype_list, releases, sometimes
from mmlitmus.kernel.drivers.misc.probe import open_probe


@case(
    "pat/mremap-fails",
    reach=("the move failed", "all is unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", sometimes("untrack-walk-failed"), "+mremap-back-tracked"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source"),
)
def mremap_fails(m: Machine) -> None:
    m.failures = 1
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, at="a")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        b = app.mremap(a, 4, 4, to="b")
        if b < 0 and len(pat_memtype_list(m)) == 2:
            m.reached("the move failed")
        app.munmap(a if b < 0 else b, 4)
        if len(pat_memtype_list(m)) == 1:
            m.reached("all is unmapped")
