"""Can a fault put a BAR's translation back after memory decode went off?

A guest touches a BAR page while its VMM clears COMMAND.MEMORY and sets it again. Whoever finds memory enabled must
have its translation taken away before decode goes off; whoever comes later gets SIGBUS. What makes it safe is
memory_lock: the handler holds it for reading across check and insertion, the disable holds it for writing across zap
and register write.

5.8's handler puts the VMA on the list and drops vma_lock before it populates: the zapper finds nothing to zap, and its
down_write then waits for a population that nobody will take away again. 5.14 closed that (6a45ece4c9af).
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "vfio/fault-vs-disable",
    scenario="S-VFIO-01",
    thread="004",
    claims=("C004-07", "C004-20"),
    fix="6a45ece4c9af",
    asks=("stale-translation", "access-after-disable"),
    reach=("memory found enabled", "memory found disabled", "dev is off", "fault got SIGBUS", "fault got through"),
    expect={
        "v5.10": sometimes("stale-translation", "access-after-disable", "untrack-walk-failed"),
        "v5.10 +handle-concurrent-faults": never,
        **releases("deb-5.10.262", "deb-7.3.4", never),
        "v6.6 +insert-loop": never,
    },
)
def fault_vs_disable(m: Machine) -> None:
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def fault() -> None:
        m.saw(qemu.read(bar))

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)


@case(
    "vfio/fault-vs-disable/enable",
    scenario="S-VFIO-01",
    thread="004",
    claims=("C004-07", "C004-20"),
    asks=("stale-translation", "access-after-disable"),
    reach=("fault got SIGBUS", "fault got through"),
    expect={
        "v5.10": sometimes("stale-translation", "access-after-disable", "untrack-walk-failed"),
        **releases("deb-5.10.262", "deb-7.3.4", never),
        "v6.12 +remap-on-enable-no-revalidate": sometimes("stale-translation", "access-after-disable"),
    },
)
def fault_vs_disable_vs_enable(m: Machine) -> None:
    """... and with somebody else switching decode on again?"""
    m.faults = 1
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def fault() -> None:
        m.saw(qemu.read(bar))

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)

    @m.task
    def enable() -> None:
        dev.write_command(memory=True)
