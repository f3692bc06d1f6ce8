"""Does the reservation of a mapping cover what its driver maps there tomorrow?

cxl_mmap_fault asks which area of the adapter is in use now. remap_pfn_range in ->mmap reserves the one that was in use
then; when the context is given another, faults insert frames that nobody has reserved. No release can do better: a VMA
has one range, in 6.16 as before.
"""

from mmlitmus.api import (
    PAGE_SHIFT,
    CacheMode,
    Machine,
    always,
    arch_io_free_memtype_wc,
    arch_io_reserve_memtype_wc,
    case,
    memtypes_at_rest,
    memtypes_now,
    never,
    pte_cachemode,
    releases,
    unmap_mapping_range,
)
from mmlitmus.kernel.drivers.misc.cxl import Cxl, open_cxl


def reserved(m: Machine, dev: Cxl, area: int) -> None:
    """Has anybody reserved the area, now that it is mapped?"""
    pfn = dev.bar(area).pfn
    m.require(m.memtypes.covers(pfn) > 0, "untracked-live", f"area {area} (frame {pfn:#x}) is mapped, and not reserved")


@case(
    "pat/dynamic-backend",
    scenario="S-PAT-10",
    thread="000",
    claims=("C000-26", "C000-31", "C000-35", "C000-37"),
    ignores=("mmap_assert_locked",),
    reach=("task got through",),
    expect={
        **releases("v5.10", "deb-7.3.4", always("untracked-live")),
        **releases("v5.10", "deb-6.12.117", always("untracked-live"), "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", always("untracked-live"), "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def dynamic_backend(m: Machine) -> None:
    dev = open_cxl(m, remap=True)
    app = m.process("app")
    a = app.mmap(dev.file, 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        reserved(m, dev, 0)
        dev.use(1)
        unmap_mapping_range(dev.mapping, 0, 1 << PAGE_SHIFT)
        m.saw(app.read(a))
        reserved(m, dev, 1)


@case(
    "pat/dynamic-backend/driver-reserves",
    control="pat/dynamic-backend",
    scenario="S-PAT-10",
    thread="000",
    claims=("C000-26", "C000-35", "C000-37"),
    reach=("task got through",),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.12 +untrack-in-unmap-vmas": never},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def driver_reserves_both(m: Machine) -> None:
    """... and if the driver itself reserves each area for as long as it has it?"""
    dev = open_cxl(m)
    app = m.process("app")
    a = app.mmap(dev.file, 1)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        for area in (0, 1):
            arch_io_reserve_memtype_wc(m, *dev.bytes_of(area))
        for area in (0, 1):
            dev.use(area)
            unmap_mapping_range(dev.mapping, 0, 1 << PAGE_SHIFT)
            m.saw(app.read(a))
            reserved(m, dev, area)
            memtypes_now(m)
            mode = pte_cachemode(app.pte(a))
            m.require(mode == CacheMode.WC, "wrong-type", f"a page of area {area} is {mode.name}")
        app.munmap(a, 1)
        for area in (0, 1):
            arch_io_free_memtype_wc(m, *dev.bytes_of(area))
