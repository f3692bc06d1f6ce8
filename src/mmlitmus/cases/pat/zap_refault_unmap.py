"""A mapping is zapped whole, its first page is faulted in again, then it is unmapped: is it tracked all along?

The driver remaps in ->mmap and has a fault handler, as one has that may take its mappings away and give them back. Up
to 6.15 the zap gives the reservation back, and nothing reserves again: what the fault inserts is untracked. munmap then
has nothing to do. With the untracking in unmap_vmas the reservation lasts until munmap, which finds the frames by the
first page, for that one is there. From 6.16 on it lasts as long as the VMA.
"""

from mmlitmus.api import (
    PAGE_SHIFT,
    Machine,
    always,
    case,
    memtypes_at_rest,
    memtypes_now,
    never,
    releases,
    unmap_mapping_range,
)
from mmlitmus.kernel.drivers.misc.cxl import open_cxl


@case(
    "pat/zap-refault-unmap",
    scenario="S-PAT-05",
    thread="000",
    claims=("C000-06", "C000-09", "C000-32", "C000-39", "C004-09"),
    ignores=("mmap_assert_locked",),
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-6.12.117", always("untracked-live")),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def zap_refault_unmap(m: Machine) -> None:
    dev = open_cxl(m, pages=2, remap=True)
    app = m.process("app")
    a = app.mmap(dev.file, 2)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        unmap_mapping_range(dev.mapping, 0, 2 << PAGE_SHIFT)
        m.saw(app.read(a))
        memtypes_now(m)
        if app.munmap(a, 2) == 0:
            m.reached("unmapped")
