"""Can a disable miss a translation that munmap has cleared but not flushed yet?

munmap clears the PTEs, takes the VMA out of the reverse map, and used to flush only then. A disable that comes in
between finds no VMA to flush for, while another thread's CPU still has the translation. From 5.19 a PFNMAP VMA is
flushed as soon as it has been cleared; from 6.16 everything is, at the head of free_pgtables.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "tlb/munmap-vs-disable",
    scenario="S-TLB-01",
    thread="004",
    asks=("stale-translation", "access-after-disable"),
    reach=("dev is off", "read got through"),
    expect={
        **releases("v6.10", "deb-7.3.4", never),
        "v6.12 +no-pfnmap-flush": sometimes("access-after-disable"),
        "v6.16 +no-pfnmap-flush": sometimes("access-after-disable"),
        "v5.10 +unmap-mapping-range": sometimes("access-after-disable"),
        "deb-5.10.262 +unmap-mapping-range": never,
        "deb-6.1.192 +unmap-mapping-range": never,
    },
)
def munmap_vs_disable(m: Machine) -> None:
    m.faults = 0
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)
    qemu.read(bar)

    @m.task
    def munmap() -> None:
        qemu.munmap(bar, 1)

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)

    @m.task(warm=(bar,))
    def read() -> None:
        m.saw(qemu.read(bar))
