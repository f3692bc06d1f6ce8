"""Can 5.8's list of VMAs miss one that is just being filled?

The handler lists the VMA, drops vma_lock, and only then populates, under memory_lock R. A zapper in between takes the
VMA off the list, waits for memory_lock, and turns decode off over translations that no list names any more.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "vfio/unlisted-translation",
    scenario="S-VFIO-04b",
    thread="004",
    fix="6a45ece4c9af",
    asks=("stale-translation", "access-after-disable"),
    reach=("memory found enabled", "dev is off"),
    expect={
        "v5.10": sometimes("stale-translation", "access-after-disable", "untrack-walk-failed"),
        "v5.10 +handle-concurrent-faults": never,
        **releases("deb-5.10.262", "deb-6.1.192", never),
    },
)
def unlisted_translation(m: Machine) -> None:
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2)

    @m.task
    def fault() -> None:
        m.saw(qemu.read(bar))

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
