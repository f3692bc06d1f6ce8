"""Does a disable reach a BAR mapping whose entries a failing mremap is moving back?

A move goes from VMA to copy, and the copy is behind its source in the reverse map, so that a walk meets each entry at
the one place or the other. Where the second of two page tables cannot be had, the first one's entries go back: against
the walk. The kernel locks the reverse map for that (need_rmap_locks), and for nothing else in such a move. On VFIO's
list of VMAs a mapping that has been opened by mremap is missing, moved or not; and ->open zaps the copy while it is
empty, which warns.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device

TWO_MIB = 2 << 20
MISSED = sometimes("stale-translation")


@case(
    "vfio/mremap-back",
    asks=("stale-translation", "access-after-disable"),
    reach=("the move failed", "dev is off"),
    expect={
        **releases("v5.10", "v6.9", sometimes("stale-translation", "untrack-walk-failed")),
        **releases("v6.10", "deb-7.3.4", never),
        **releases("v6.10", "deb-7.3.4", MISSED, "+mremap-back-unlocked"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source"),
)
def mremap_back(m: Machine) -> None:
    m.failures = 1
    m.faults = 0
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2, at=m.slot("a") + TWO_MIB - 4096)
    qemu.read(bar)
    qemu.read(bar + 4096)

    @m.task
    def move() -> None:
        if qemu.mremap(bar, 2, 2, to=m.slot("b") + TWO_MIB - 4096) < 0:
            m.reached("the move failed")

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
