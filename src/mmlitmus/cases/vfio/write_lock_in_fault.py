"""What if the fault handler drops mmap_lock R and takes it for writing?

So that io_remap_pfn_range may write vm_flags: "vfio/pci: take mmap write lock for io_remap_pfn_range", May 2023. In the
gap another thread may unmap the VMA that the handler goes on to use. Looking it up again would do.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "vfio/write-lock-in-fault",
    scenario="S-VFIO-05",
    thread="004",
    claims=("C004-02",),
    asks=("use-after-free VmArea", "flags-without-lock", "stale-translation", "access-after-disable"),
    reach=("memory found enabled",),
    expect={
        "v6.6 +write-lock-in-fault lockdep": sometimes("use-after-free VmArea"),
        **releases("v5.10", "v6.9", sometimes("use-after-free VmArea"), "+write-lock-in-fault"),
        "v6.6 +write-lock-in-fault-revalidate lockdep": never,
        **releases("v5.10", "v6.9", never, "+write-lock-in-fault-revalidate"),
    },
)
def write_lock_in_fault(m: Machine) -> None:
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def fault() -> None:
        qemu.read(bar)

    @m.task
    def munmap() -> None:
        qemu.munmap(bar, 1)
