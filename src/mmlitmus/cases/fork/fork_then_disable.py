"""Does a disable reach a child that was forked before it?

VFIO up to 6.9 keeps a list of the VMAs that have faulted; its ->open empties a copied VMA so that it has to fault to
be used. That holds only if ->open comes after the copy, as it did up to 6.8. 35e351780fa9 (6.9, and in stable) calls
->open first: the child's translations are copied after it was emptied, and nobody has it on a list. Recorded on
6.1.192, which has the fork change without VFIO's move to unmap_mapping_range; not on 5.10.262, which has neither, nor
from 6.12 on.
"""

from mmlitmus.api import Machine, always, case, never, releases
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "fork/fork-then-disable",
    scenario="S-FORK-02",
    thread="004",
    claims=("C004-24",),
    fix="aac6db75a9fc",
    asks=("stale-translation", "access-after-disable"),
    reach=("dev is off",),
    expect={
        **releases("v5.10", "v6.1", never),
        "deb-6.1.192": always("stale-translation", "access-after-disable"),
        "v6.1 +fork-defer-link": always("stale-translation", "access-after-disable", "untrack-walk-failed"),
        "v6.6": never,
        "v6.9": always("stale-translation", "access-after-disable", "untrack-walk-failed"),
        **releases("v6.10", "deb-7.3.4", never),
        "deb-6.1.192 +unmap-mapping-range": never,
    },
    evidence=dict.fromkeys(
        ("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-6.16.12", "deb-6.18.15", "deb-7.3.4"), "recorded"
    ),
)
def fork_then_disable(m: Machine) -> None:
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)
    qemu.read(bar)

    @m.task
    def fork_and_disable() -> None:
        child = qemu.fork("child")
        dev.write_command(memory=False)
        if not isinstance(child, int):
            child.read(bar)
