"""Is a 2M leaf, inserted under the VMA lock alone, taken away as surely as a page?

From 6.12 a fault in a BAR of 2M or more inserts a PMD leaf, and does so under the VMA's own read lock, without
mmap_lock. memory_lock is what it shares with a disable; the VMA's write lock is what it shares with a munmap.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes, stale_translations
from mmlitmus.kernel.drivers.vfio.designs import VfioPci612
from mmlitmus.kernel.drivers.vfio.pci import VfioPciCoreDevice, open_device

PMD_PAGES = 512


@case(
    "vfio/huge-fault",
    control="vfio/huge-fault/not-zapped",
    scenario="S-VFIO-01",
    thread="004",
    claims=("C004-11",),
    asks=("stale-translation", "access-after-disable"),
    reach=("huge leaf inserted", "dev is off", "touch got through", "touch got SIGBUS"),
    expect={**releases("v6.12", "deb-7.3.4", never)},
)
def huge_fault_vs_disable(m: Machine) -> None:
    touch_beside_disable(m, open_device(m, pages=PMD_PAGES))


class Forgets(VfioPci612):
    """VFIO, with a disable that leaves the translations where they are."""

    def zap_bars(self) -> None:
        """Nothing."""


@case(
    "vfio/huge-fault/not-zapped",
    scenario="S-VFIO-01",
    thread="004",
    asks=("stale-translation", "access-after-disable"),
    reach=("huge leaf inserted", "dev is off", "touch got through", "touch got SIGBUS"),
    expect=releases("v6.12", "deb-7.3.4", sometimes("stale-translation", "access-after-disable")),
)
def huge_fault_vs_disable_without_a_zap(m: Machine) -> None:
    """... and if the disable zaps nothing?"""
    m.check(lambda: stale_translations(m))
    touch_beside_disable(m, Forgets(m, PMD_PAGES, "dev"))


def touch_beside_disable(m: Machine, dev: VfioPciCoreDevice) -> None:
    """A touch of a BAR that a huge leaf fits, beside a disable."""
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, PMD_PAGES)

    @m.task
    def touch() -> None:
        m.saw(qemu.read(bar))

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)


@case(
    "vfio/huge-fault/munmap",
    control="vfio/write-lock-in-fault",
    scenario="S-VFIO-01",
    thread="004",
    asks=("use-after-free VmArea", "populated-table-freed", "access-to-nowhere", "stale-translation"),
    reach=("huge leaf inserted", "touch got SIGSEGV", "touch got through"),
    expect={**releases("v6.12", "deb-7.3.4", never)},
)
def huge_fault_vs_munmap(m: Machine) -> None:
    """... and may the VMA go while the leaf is being inserted?"""
    m.faults = 1
    dev = open_device(m, pages=PMD_PAGES)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, PMD_PAGES)

    @m.task
    def touch() -> None:
        m.saw(qemu.read(bar))

    @m.task
    def munmap() -> None:
        qemu.munmap(bar, PMD_PAGES)
