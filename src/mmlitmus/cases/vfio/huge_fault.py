"""Is a 2M leaf, inserted under the VMA lock alone, taken away as surely as a page?

From 6.12 a fault in a BAR of 2M or more inserts a PMD leaf, and does so under the VMA's own read lock, without
mmap_lock. memory_lock is what it shares with a disable; the VMA's write lock is what it shares with a munmap.
"""

from mmlitmus.api import Machine, case, never, releases
from mmlitmus.kernel.drivers.vfio.pci import open_device

PMD_PAGES = 512


@case(
    "vfio/huge-fault",
    scenario="S-VFIO-01",
    thread="004",
    claims=("C004-11",),
    asks=("stale-translation", "access-after-disable"),
    reach=("huge leaf inserted", "dev is off", "touch got through", "touch got SIGBUS"),
    expect={**releases("v6.12", "deb-7.3.4", never)},
)
def huge_fault_vs_disable(m: Machine) -> None:
    dev = open_device(m, pages=PMD_PAGES)
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
