"""May ->mmap populate a BAR mapping, if memory is enabled?

mmap_region calls ->mmap before vma_link_file. In between the VMA has translations, and unmap_mapping_range does not
see it: a disable that falls there leaves them behind, in every release. A hook that runs after the link is safe, if it
looks at memory and fills under one memory_lock section; looking earlier, in ->mmap, is not. Relying on the fault
handler is.

The list of VMAs that VFIO had up to 6.9 would not have had this gap: its zapper takes the mm's mmap_lock, and so comes
before ->mmap or after the link.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "vfio/populate-in-mmap",
    scenario="S-VFIO-06",
    thread="004",
    claims=("C000-23", "C000-24", "C004-18", "C004-19"),
    asks=("stale-translation", "access-after-disable"),
    reach=("dev is off", "mapped"),
    expect={
        **releases("v6.10", "deb-7.3.4", never),
        **releases("v6.10", "deb-7.3.4", sometimes("stale-translation"), "+populate-in-mmap"),
        **releases("v6.10", "deb-7.3.4", never, "+populate-after-link"),
        **releases("v6.10", "deb-7.3.4", sometimes("stale-translation"), "+populate-after-link-check-early"),
        **releases("v6.1", "v6.9", never, "+populate-in-mmap-listed"),
    },
)
def populate_in_mmap(m: Machine) -> None:
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")

    @m.task
    def mmap() -> None:
        if qemu.mmap(dev.file, 2) > 0:
            m.reached("mapped")

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
