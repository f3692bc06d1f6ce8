"""Does a zap of one page give the reservation of the whole mapping back?

A driver maps four pages of a BAR with remap_pfn_range in ->mmap, and unmap_mapping_range then takes one of them away.
Up to 6.15 the untracking sits in unmap_single_vma, which is asked for one page and untracks the VMA: its reservation is
gone, VM_PAT is cleared, and three pages stay mapped. The next owner of the frames may have another type. With the
untracking in unmap_vmas, as the patch of July 2024 has it, or tied to the VMA, as 6.16 has it, a zap untracks nothing.

In 6.10 and 6.11 such a zap also warns, for it walks page tables without mmap_lock: that is locks/untrack-walk.
"""

from mmlitmus.api import PAGE_SIZE, Machine, always, case, memtypes_at_rest, never, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe


@case(
    "pat/zap-one-page",
    scenario="S-PAT-02",
    thread="000",
    claims=("C000-01", "C000-02", "C000-03", "C000-05", "C000-09", "C004-09"),
    ignores=("mmap_assert_locked",),
    reach=("page 2 is gone", "page 3 is there"),
    expect={
        **releases("v5.10", "deb-6.12.117", always("untracked-live")),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def zap_one_page(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap"), 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap() -> None:
        probe.unmap_mapping_range(2, 1)
        if not app.pte(a + 2 * PAGE_SIZE):
            m.reached("page 2 is gone")
        if app.pte(a + 3 * PAGE_SIZE):
            m.reached("page 3 is there")


@case(
    "pat/zap-one-page/write-combining",
    scenario="S-PAT-02",
    thread="000",
    claims=("C000-03",),
    ignores=("mmap_assert_locked",),
    reach=("page 0 is gone",),
    expect={
        **releases("v5.10", "deb-6.12.117", always("memtype-alias", "untracked-live")),
        **releases("v6.16", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": never,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def zap_one_page_of_wc(m: Machine) -> None:
    """... and of the first page of a WC mapping, after somebody else has mapped it for a while?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, at="a")
    b = app.mmap(probe.file("remap"), 4, at="b")
    app.munmap(b, 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        if not app.pte(a):
            m.reached("page 0 is gone")
