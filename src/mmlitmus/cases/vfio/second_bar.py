"""Are all BARs of a device revoked when memory decode goes off, or only the one that was mapped first?

A guest has the registers (BAR 0) and the memory (BAR 2) of one device mapped, and touches either while its VMM clears
COMMAND.MEMORY, which switches both off. Up to 6.9 the device's list says which VMAs have been used, whatever BAR they
are of; from 6.10 on the zap is of every region of the device's file that is a BAR.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device, vfio_pci_index_to_offset


@case(
    "vfio/second-bar",
    asks=("stale-translation", "access-after-disable"),
    reach=("dev is off", "fault got SIGBUS", "fault got through"),
    expect={
        "v5.10": sometimes("stale-translation", "access-after-disable", "untrack-walk-failed"),
        **releases("deb-5.10.262", "deb-7.3.4", never),
        "v6.12 +zap-first-bar": sometimes("stale-translation", "access-after-disable"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source"),
)
def second_bar(m: Machine) -> None:
    m.faults = 1
    dev = open_device(m, pages=1, more={2: 1})
    qemu = m.process("qemu")
    registers = qemu.mmap(dev.file, 1)
    memory = qemu.mmap(dev.file, 1, at="b", offset=vfio_pci_index_to_offset(2))
    qemu.read(registers)

    @m.task
    def fault() -> None:
        m.saw(qemu.write(memory))

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
