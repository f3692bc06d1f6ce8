"""VFIO reserves in ->mmap while memory is disabled, and munmap comes before any touch: is it given back?

The proposal was to call track_pfn_remap where remap_pfn_range cannot be called yet: "this VMA maps something special",
and pages come later. As long as the frames are read from page tables, a mapping that was never touched has nothing to
say: a warning, and the entry stays. That is so with and without the patch that moves the untracking. From 6.16 on, or
with its tracking as a backport, the design works; but no kernel offers it to drivers.
"""

from mmlitmus.api import Machine, always, case, memtypes_at_rest, never, releases
from mmlitmus.kernel.drivers.vfio.pci import open_device

ASKS = (
    "freeing-invalid-memtype",
    "memtype-alias",
    "memtype-leak",
    "memtype-steal",
    "untrack-walk-failed",
    "untracked-live",
)
LEAK = always("memtype-leak", "untrack-walk-failed")


@case(
    "pat/manual-track",
    scenario="S-PAT-12",
    thread="000",
    claims=("C000-12", "C000-20", "C000-30", "C000-32", "C000-39"),
    asks=ASKS,
    reach=("unmapped",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v6.10", "deb-6.12.117", LEAK, "+manual-track"),
        **releases("v6.10", "deb-6.12.117", LEAK, "+untrack-in-unmap-vmas +manual-track"),
        **releases("v6.10", "deb-6.12.117", never, "+pfnmap-track-ctx +manual-track"),
        **releases("v6.16", "deb-7.3.4", never, "+manual-track"),
    },
)
def manual_track(m: Machine) -> None:
    dev = open_device(m, pages=2)
    dev.write_command(memory=False)
    qemu = m.process("qemu")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def map_and_unmap() -> None:
        bar = qemu.mmap(dev.file, 2)
        if bar > 0 and qemu.munmap(bar, 2) == 0:
            m.reached("unmapped")


@case(
    "pat/manual-track/touched",
    control="pat/manual-track",
    scenario="S-PAT-12",
    thread="000",
    claims=("C000-30",),
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v6.10", "deb-6.12.117", never, "+manual-track"),
        **releases("v6.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas +manual-track"),
        **releases("v6.16", "deb-7.3.4", never, "+manual-track"),
    },
)
def manual_track_touched(m: Machine) -> None:
    """... and if memory comes on, and somebody touches the first page?"""
    dev = open_device(m, pages=2)
    dev.write_command(memory=False)
    qemu = m.process("qemu")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        bar = qemu.mmap(dev.file, 2)
        dev.write_command(memory=True)
        m.saw(qemu.read(bar))
        if qemu.munmap(bar, 2) == 0:
            m.reached("unmapped")


@case(
    "pat/manual-track/disabled-again",
    scenario="S-PAT-12",
    thread="000",
    claims=("C000-30", "C000-32"),
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v6.10", "deb-6.12.117", never, "+manual-track"),
        "v6.10 +manual-track": always("mmap_assert_locked"),
        **releases("v6.10", "deb-6.12.117", LEAK, "+untrack-in-unmap-vmas +manual-track"),
        **releases("v6.16", "deb-7.3.4", never, "+manual-track"),
    },
)
def manual_track_disabled_again(m: Machine) -> None:
    """... and if memory goes off again before munmap?"""
    dev = open_device(m, pages=2)
    dev.write_command(memory=False)
    qemu = m.process("qemu")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        bar = qemu.mmap(dev.file, 2)
        dev.write_command(memory=True)
        m.saw(qemu.read(bar))
        dev.write_command(memory=False)
        if qemu.munmap(bar, 2) == 0:
            m.reached("unmapped")
