"""May VFIO copy to user space under memory_lock?

A copy may fault, a fault takes mmap_lock, and a fault on a BAR takes memory_lock inside mmap_lock. No deadlock has to
be reached for lockdep to say so.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device

CYCLE = "inversion memory_lock -> mmap_lock -> memory_lock"


@case(
    "vfio/copy-under-memory-lock",
    scenario="S-VFIO-13",
    thread="004",
    asks=(CYCLE,),
    reach=("memory found enabled",),
    expect={
        **releases("v6.10", "deb-7.3.4", never),
        "v6.12 +copy-user-under-memory-lock": sometimes(CYCLE),
    },
)
def copy_under_memory_lock(m: Machine) -> None:
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def read_register() -> None:
        dev.read_register(qemu, 0)

    @m.task
    def fault() -> None:
        qemu.read(bar)
