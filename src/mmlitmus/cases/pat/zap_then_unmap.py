"""A mapping is zapped whole and then unmapped: is its reservation given back?

munmap does not mind entries that are missing, but whoever untracks does: up to 6.15 the frames are read from the
mapping's first entry. The zap itself untracks there, while the entry is still in place, so munmap has nothing left to
do. The patch of July 2024 moves the untracking to munmap: by then there is nothing to read the frames from. It warns,
gives up, and nobody frees the entry. From 6.16 on the VMA knows its frames.
"""

from mmlitmus.api import (
    MAP_PRIVATE,
    PAGE_SHIFT,
    PAGE_SIZE,
    Machine,
    always,
    case,
    memtypes_at_rest,
    never,
    releases,
    unmap_mapping_range,
)
from mmlitmus.kernel.drivers.misc.cxl import open_cxl
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, open_probe

SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")
LEAK = always("memtype-leak", "untrack-walk-failed")


@case(
    "pat/zap-then-unmap",
    scenario="S-PAT-06",
    thread="000",
    claims=("C000-09", "C000-32", "C000-34", "C000-36", "C000-39"),
    ignores=("mmap_assert_locked",),
    reach=("unmapped",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", LEAK, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def zap_then_unmap(m: Machine) -> None:
    probe = open_probe(m, pages=2)
    app = m.process("app")
    a = app.mmap(probe.file("remap"), 2)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap_and_unmap() -> None:
        probe.unmap_mapping_range(0, 2)
        if not app.pte(a) and app.munmap(a, 2) == 0:
            m.reached("unmapped")


@case(
    "pat/zap-then-unmap/exit",
    scenario="S-PAT-06",
    thread="000",
    claims=("C000-34",),
    ignores=("mmap_assert_locked",),
    reach=("gone",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.1 +untrack-in-unmap-vmas": LEAK,
        "v6.12 +untrack-in-unmap-vmas": LEAK,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,
)
def zap_then_exit(m: Machine) -> None:
    """... and if the process exits?"""
    probe = open_probe(m, pages=2)
    app = m.process("app")
    app.mmap(probe.file("remap"), 2)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap_and_exit() -> None:
        probe.unmap_mapping_range(0, 2)
        app.exit()
        m.reached("gone")


@case(
    "pat/zap-then-unmap/other-page",
    scenario="S-PAT-06",
    thread="000",
    claims=("C000-34",),
    ignores=("mmap_assert_locked",),
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", LEAK, "+untrack-in-unmap-vmas"),
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,
)
def zap_refault_another_page(m: Machine) -> None:
    """... and if a page other than the first is faulted in again?

    Only the first one would be looked at.
    """
    dev = open_cxl(m, pages=2, remap=True)
    app = m.process("app")
    a = app.mmap(dev.file, 2)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        unmap_mapping_range(dev.mapping, 0, 2 << PAGE_SHIFT)
        m.saw(app.read(a + PAGE_SIZE))
        if app.munmap(a, 2) == 0:
            m.reached("unmapped")


@case(
    "pat/zap-then-unmap/private",
    scenario="S-PAT-06",
    thread="000",
    claims=("C000-34",),
    ignores=("mmap_assert_locked",),
    reach=("unmapped",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v5.10 +untrack-in-unmap-vmas": LEAK,
        "deb-5.10.262 +untrack-in-unmap-vmas": never,
        "v6.1 +untrack-in-unmap-vmas": LEAK,
        "deb-6.1.192 +untrack-in-unmap-vmas": never,
        "v6.6 +untrack-in-unmap-vmas": LEAK,
        **releases("v6.9", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        "v6.6 +untrack-in-unmap-vmas +cow-walk-fix": never,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,
)
def zap_then_unmap_private(m: Machine) -> None:
    """... and if the mapping is private?

    Its vm_pgoff is the frame number then, and from 6.9 on (and in stable) untracking resorts to that. It also means
    that a zap by way of the file hits it only at the offset that equals the frame number.
    """
    probe = open_probe(m, pages=2)
    app = m.process("app")
    a = app.mmap(probe.file("remap"), 2, flags=MAP_PRIVATE)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def zap_and_unmap() -> None:
        probe.unmap_mapping_range(BAR_PFN, 2)
        if not app.pte(a) and app.munmap(a, 2) == 0:
            m.reached("unmapped")
