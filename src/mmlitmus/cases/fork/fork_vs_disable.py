"""Can a child be born with a translation that a concurrent disable has missed?

fork copies the translations of device mappings eagerly. The child's VMA must be in the reverse map before they are
copied, and behind its parent's: then unmap_mapping_range either finds the parent's translation before it is copied, or
comes to the child after.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "fork/fork-vs-disable",
    scenario="S-FORK-01",
    thread="004",
    asks=("stale-translation", "access-after-disable"),
    reach=("dev is off", "forked"),
    expect={
        **releases("v6.10", "deb-7.3.4", never),
        "v6.1 +unmap-mapping-range": never,
        "deb-6.1.192 +unmap-mapping-range": never,
        "v6.12 +fork-link-after-copy": sometimes("stale-translation"),
        "v6.12 +fork-link-before-parent": sometimes("stale-translation"),
    },
)
def fork_vs_disable(m: Machine) -> None:
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)
    qemu.read(bar)

    @m.task
    def fork() -> None:
        qemu.fork("child")
        m.reached("forked")

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
