"""VFIO remaps in ->mmap if memory is enabled, and sets flags only if not: who reserves in the latter case?

Nobody, then or later: the fault handler inserts, which looks up. What it finds is UC-, from VFIO's own pci_iomap of the
BAR, and UC- is what VFIO asks for. So nothing is wrong with the types, for UC- and for nothing else. (What is wrong
with that branch is vfio/populate-in-mmap.)
"""

from mmlitmus.api import (
    CacheMode,
    Machine,
    always,
    case,
    memtypes_at_rest,
    memtypes_now,
    never,
    pat_memtype_list,
    pte_cachemode,
    releases,
    sometimes,
    stale_translations,
)
from mmlitmus.kernel.drivers.vfio.pci import open_device

ASKS = (
    "freeing-invalid-memtype",
    "memtype-alias",
    "memtype-leak",
    "memtype-steal",
    "untrack-walk-failed",
    "untracked-live",
    "wrong-type",
    "not-reserved",
    "reserved-twice",
)


def reserved_by_pci_iomap_alone(m: Machine) -> None:
    """What the list of memtypes has of the BAR is one entry, VFIO's own."""
    n = len(pat_memtype_list(m)) - 1  # its first line is a heading
    m.require(n > 0, "not-reserved", "the list has no entry of the BAR, and pci_iomap has mapped it")
    m.require(n < 2, "reserved-twice", f"the list has {n} entries: somebody has reserved it for the VMA, too")


@case(
    "pat/cond-remap",
    scenario="S-PAT-12",
    thread="000",
    claims=("C000-25",),
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        # to 6.9 the fault handler itself remaps, and so reserves
        **releases("v5.10", "v6.9", always("reserved-twice")),
        **releases("v6.10", "deb-7.3.4", never),
        **releases("v6.10", "deb-7.3.4", never, "+cond-remap"),
        **releases("v6.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas +cond-remap"),
        "v6.12 +manual-track": always("reserved-twice"),
    },
)
def cond_remap(m: Machine) -> None:
    dev = open_device(m, pages=2)
    dev.write_command(memory=False)
    qemu = m.process("qemu")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        bar = qemu.mmap(dev.file, 2)
        reserved_by_pci_iomap_alone(m)
        dev.write_command(memory=True)
        m.saw(qemu.read(bar))
        reserved_by_pci_iomap_alone(m)
        memtypes_now(m)
        mode = pte_cachemode(qemu.pte(bar))
        m.require(mode == CacheMode.UC_MINUS, "wrong-type", f"the page is {mode.name}")
        if qemu.munmap(bar, 2) == 0:
            m.reached("unmapped")


@case(
    "pat/cond-remap/enabled",
    scenario="S-PAT-12",
    thread="000",
    claims=("C000-24", "C000-32"),
    asks=ASKS,
    reach=("unmapped",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v6.10", "deb-7.3.4", never, "+cond-remap"),
        "v6.10 +cond-remap": always("mmap_assert_locked"),
        **releases(
            "v6.10",
            "deb-6.12.117",
            always("memtype-leak", "untrack-walk-failed"),
            "+untrack-in-unmap-vmas +cond-remap",
        ),
    },
)
def cond_remap_enabled(m: Machine) -> None:
    """... and if memory is enabled at mmap and disabled before munmap?"""
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        bar = qemu.mmap(dev.file, 2)
        dev.write_command(memory=False)
        memtypes_now(m)
        if qemu.munmap(bar, 2) == 0:
            m.reached("unmapped")


@case(
    "pat/cond-remap/disable",
    thread="000",
    claims=("C000-24",),
    reach=("unmapped",),
    expect={
        "v6.10 +cond-remap": sometimes(
            "lost-flags-update", "memtype-double-free", "memtype-steal", "mmap_assert_locked", "untrack-walk-failed"
        ),
        **releases(
            "v6.12",
            "deb-6.12.117",
            sometimes("lost-flags-update", "memtype-double-free", "memtype-steal", "untrack-walk-failed"),
            "+cond-remap",
        ),
        **releases("v6.16", "deb-7.3.4", never, "+cond-remap"),
        **releases("v6.10", "deb-7.3.4", never),
    },
)
def cond_remap_vs_disable(m: Machine) -> None:
    """... and if memory is disabled by somebody else, between mmap and munmap?

    The zap of the disable untracks what ->mmap has reserved, with only i_mmap_rwsem; munmap does it once more, and then
    takes the entry of VFIO's own pci_iomap. From 6.16 on a zap gives nothing back.
    """
    m.faults = 0
    m.check(lambda: memtypes_at_rest(m))
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")

    @m.task
    def mmap() -> None:
        bar = qemu.mmap(dev.file, 1)
        if qemu.munmap(bar, 1) == 0:
            m.reached("unmapped")

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)


@case(
    "pat/cond-remap/window",
    thread="000",
    claims=("C000-24",),
    asks=("access-after-disable", "stale-translation"),
    reach=("dev is off",),
    expect={
        "v6.10 +cond-remap": sometimes("mmap_assert_locked", "stale-translation"),
        **releases("v6.12", "deb-7.3.4", sometimes("stale-translation"), "+cond-remap"),
        **releases("v6.10", "deb-7.3.4", never),
    },
)
def cond_remap_window(m: Machine) -> None:
    """... and do translations outlive a disable that comes before the VMA is linked?"""
    m.check(lambda: stale_translations(m))
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")

    @m.task
    def mmap() -> None:
        qemu.mmap(dev.file, 1)

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
