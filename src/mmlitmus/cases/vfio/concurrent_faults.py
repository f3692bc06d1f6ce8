"""Can two threads fault the same BAR mapping at once?

remap_pfn_range finds a PTE that is not none and BUGs. 5.8's handler has nothing between two faults; 5.14 holds vma_lock
across the population and looks at the list first; vmf_insert_pfn leaves a populated slot alone.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "vfio/concurrent-faults",
    scenario="S-VFIO-04",
    thread="004",
    claims=("C000-15",),
    fix="6a45ece4c9af",
    asks=("remap-over-populated",),
    reach=("memory found enabled", "first got through"),
    expect={
        "v5.10": sometimes("remap-over-populated"),
        "v5.10 +handle-concurrent-faults": never,
        **releases("deb-5.10.262", "deb-7.3.4", never),
    },
)
def concurrent_faults(m: Machine) -> None:
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2)

    @m.task
    def first() -> None:
        m.saw(qemu.read(bar))

    @m.task
    def second() -> None:
        m.saw(qemu.read(bar))
