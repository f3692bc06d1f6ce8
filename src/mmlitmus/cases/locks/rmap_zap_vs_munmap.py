"""May unmap_mapping_range use a VMA without holding its mmap_lock?

It holds i_mmap_rwsem for reading, and a VMA is freed only after it was taken out of i_mmap under that lock for writing:
the VMA stays alive. (What such a zap may do to vm_flags, or to the memtype, is another question.)
"""

from mmlitmus.api import File, Machine, VmArea, case, never, releases, sometimes, zap_vma_ptes
from mmlitmus.kernel.drivers.misc.probe import Fill, ProbeOps, open_probe
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "locks/rmap-zap-vs-munmap",
    control="locks/rmap-zap-vs-munmap/remembered",
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


class Remembers(ProbeOps):
    """A driver that keeps the VMA of its last ->mmap, and asks no lock whether it is still there."""

    vma: VmArea

    def mmap(self, file: File, vma: VmArea) -> int:
        self.vma = vma
        return super().mmap(file, vma)


@case(
    "locks/rmap-zap-vs-munmap/remembered",
    scenario="S-LOCK-02",
    thread="000",
    asks=("use-after-free VmArea", "double free", "stale-translation"),
    reach=("zapped", "unmapped"),
    expect=releases("v5.10", "deb-7.3.4", sometimes("use-after-free VmArea")),
)
def remembered_vma_vs_munmap(m: Machine) -> None:
    """... and a driver that remembers the VMA, and looks for it in no i_mmap?"""
    probe = open_probe(m, pages=1)
    ops = Remembers(probe, Fill("fault_pfn", "", "bar", 0))
    app = m.process("app")
    a = app.mmap(File("/dev/remembers", ops, probe.mapping), 1)
    app.read(a)

    @m.task
    def munmap() -> None:
        if app.munmap(a, 1) == 0:
            m.reached("unmapped")

    @m.task
    def zap() -> None:
        zap_vma_ptes(ops.vma, ops.vma.vm_start, ops.vma.vm_end - ops.vma.vm_start)
        m.reached("zapped")
