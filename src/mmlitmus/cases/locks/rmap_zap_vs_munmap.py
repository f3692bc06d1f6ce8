"""May unmap_mapping_range use a VMA without holding its mmap_lock?

It holds i_mmap_rwsem for reading, and a VMA is freed only after it was taken out of i_mmap under that lock for writing:
the VMA stays alive. (What such a zap may do to vm_flags, or to the memtype, is another question.)
"""

from mmlitmus.api import Machine, case, never, releases
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "locks/rmap-zap-vs-munmap",
    scenario="S-LOCK-02",
    thread="000",
    claims=("C000-41",),
    asks=("use-after-free VmArea", "double free", "stale-translation"),
    reach=("dev is off", "unmapped"),
    expect={**releases("v6.10", "deb-7.3.4", never), "v6.1 +unmap-mapping-range": never},
)
def rmap_zap_vs_munmap(m: Machine) -> None:
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)
    qemu.read(bar)

    @m.task
    def munmap() -> None:
        if qemu.munmap(bar, 1) == 0:
            m.reached("unmapped")

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
