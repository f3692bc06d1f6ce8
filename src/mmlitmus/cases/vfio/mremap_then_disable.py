"""Does a disable reach a BAR mapping that mremap has moved?

mremap opens the copy while its page tables are empty and moves the translations afterwards. VFIO's list of VMAs is
filled by faults only, and the moved VMA never faults: it is used, and not on the list. Seen on 5.10.262 and 6.1.192;
6.10 asks the address_space instead.
"""

from mmlitmus.api import Machine, always, case, never, releases
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "vfio/mremap-then-disable",
    scenario="S-VFIO-02",
    thread="004",
    claims=("C004-22",),
    fix="aac6db75a9fc",
    asks=("stale-translation", "access-after-disable"),
    reach=("moved", "dev is off"),
    expect={
        **releases("v5.10", "v6.9", always("access-after-disable", "stale-translation", "untrack-walk-failed")),
        **releases("v6.10", "deb-7.3.4", never),
        "deb-6.1.192 +unmap-mapping-range": never,
    },
    evidence=dict.fromkeys(
        ("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-6.16.12", "deb-6.18.15", "deb-7.3.4"), "recorded"
    ),
)
def mremap_then_disable(m: Machine) -> None:
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2)
    qemu.read(bar)

    @m.task
    def move_and_disable() -> None:
        moved = qemu.mremap(bar, 2, 2, to="b")
        if moved == m.slot("b"):
            m.reached("moved")
        dev.write_command(memory=False)
        qemu.read(moved)
