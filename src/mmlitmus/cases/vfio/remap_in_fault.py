"""May VFIO's fault handler call io_remap_pfn_range?

It writes vm_flags, which belong to mmap_lock W, and a fault holds R. Before 6.3 nobody looked. From 6.3 the write goes
through vm_flags_set, which asserts the lock: a lockdep build warns on the first touch, and from 6.10 (ba168b52bf8e)
every build would, which is how it was seen without lockdep in May 2024. Called under the VMA's own read lock, as huge
faults are, the same write would wait for itself.

The handler runs on the guest's behalf too: pinning the BAR for DMA faults it in through fixup_user_fault.
"""

from mmlitmus.api import Machine, always, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device

KERNELS = {
    **releases("v5.10", "deb-6.1.192", never),
    "v6.6": never,
    "v6.6 lockdep": always("flags-without-lock"),
    "v6.9": never,
    "v6.9 lockdep": always("flags-without-lock"),
    "v6.10 +revert-unmap-mapping-range": always("flags-without-lock"),
    **releases("v6.10", "deb-7.3.4", never),
    "v6.12 lockdep": never,
}


@case(
    "vfio/remap-in-fault",
    scenario="S-VFIO-03",
    thread="004",
    claims=("C000-13", "C000-15", "C000-27", "C004-03", "C004-04", "C004-16", "C004-23"),
    fix="d71a989cf5d9",
    reach=("memory found enabled", "touch got through"),
    expect=KERNELS,
)
def remap_in_fault(m: Machine) -> None:
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2)

    @m.task
    def touch() -> None:
        m.saw(qemu.read(bar))


@case(
    "vfio/remap-in-fault/pin",
    scenario="S-VFIO-03",
    thread="004",
    claims=("C004-01",),
    reach=("memory found enabled", "pinned"),
    expect=KERNELS,
)
def remap_when_pinning(m: Machine) -> None:
    """... and when VFIO type1 faults the BAR in to pin it?"""
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2)

    @m.task
    def pin() -> None:
        if qemu.pin_mmio(bar) == 0:
            m.reached("pinned")


@case(
    "vfio/remap-in-fault/vma-lock",
    scenario="S-VFIO-03",
    thread="004",
    claims=("C000-13",),
    asks=("deadlock vm_lock",),
    reach=("memory found enabled",),
    expect={
        "v6.6 +fault-under-vma-lock": always("deadlock vm_lock")
        & sometimes(
            "inversion memory_lock -> vm_lock -> memory_lock",
            "inversion vm_lock -> vm_lock",
            "inversion vm_lock -> vma_lock -> vm_lock",
        ),
        "v6.12 +fault-under-vma-lock": never,
    },
)
def remap_under_the_vma_lock(m: Machine) -> None:
    """... and under the VMA lock alone?"""
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2)

    @m.task
    def touch() -> None:
        m.saw(qemu.read(bar))
