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
    pte_cachemode,
    releases,
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
)


@case(
    "pat/cond-remap",
    scenario="S-PAT-12",
    thread="000",
    claims=("C000-25",),
    asks=ASKS,
    reach=("task got through", "unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v6.10", "deb-7.3.4", never, "+cond-remap"),
        **releases("v6.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas +cond-remap"),
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
        dev.write_command(memory=True)
        m.saw(qemu.read(bar))
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
