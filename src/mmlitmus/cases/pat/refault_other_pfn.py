"""remap_pfn_range of frame 1, a zap, a fault that inserts frame 2, munmap: what is given back?

The sequence that was put against the patch of July 2024. Up to 6.15 the zap gives frame 1 back, and frame 2, which
nobody has reserved, is nobody's to give back. With the patch the zap keeps the reservation, and munmap reads from the
first entry that it was for frame 2: that free is refused, or, where somebody else has reserved frame 2, takes his
entry; frame 1 stays reserved for ever. From 6.16 on the VMA knows that it was frame 1.
"""

from mmlitmus.api import (
    PAGE_SHIFT,
    Machine,
    always,
    case,
    ioremap,
    memtypes_at_rest,
    never,
    releases,
    unmap_mapping_range,
)
from mmlitmus.kernel.drivers.misc.cxl import Cxl, open_cxl
from mmlitmus.kernel.uapi import Process

ASKS = (
    "freeing-invalid-memtype",
    "memtype-alias",
    "memtype-leak",
    "memtype-steal",
    "untrack-walk-failed",
    "untracked-live",
)
SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


def zap_refault_unmap(m: Machine, dev: Cxl, app: Process, address: int) -> None:
    """Take the page away, put the other frame in its place, and unmap."""
    unmap_mapping_range(dev.mapping, 0, 1 << PAGE_SHIFT)
    dev.use(1)
    m.saw(app.read(address))
    if app.munmap(address, 1) == 0:
        m.reached("unmapped")


@case(
    "pat/refault-other-pfn",
    scenario="S-PAT-07",
    thread="000",
    claims=("C000-09", "C000-31", "C000-33", "C000-34", "C000-37"),
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.10": always("mmap_assert_locked"),
        **releases(
            "v5.10",
            "deb-6.12.117",
            always("freeing-invalid-memtype", "memtype-leak"),
            "+untrack-in-unmap-vmas",
        ),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def refault_other_pfn(m: Machine) -> None:
    dev = open_cxl(m, remap=True)
    app = m.process("app")
    a = app.mmap(dev.file, 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        zap_refault_unmap(m, dev, app, a)


@case(
    "pat/refault-other-pfn/owned",
    scenario="S-PAT-07",
    thread="000",
    claims=("C000-33",),
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.10": always("mmap_assert_locked"),
        **releases("v5.10", "deb-6.12.117", always("memtype-leak", "memtype-steal"), "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def refault_owned_pfn(m: Machine) -> None:
    """... and if the driver has frame 2 mapped for itself?"""
    dev = open_cxl(m, remap=True)
    ioremap(m, *dev.bytes_of(1))
    app = m.process("app")
    a = app.mmap(dev.file, 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        zap_refault_unmap(m, dev, app, a)
