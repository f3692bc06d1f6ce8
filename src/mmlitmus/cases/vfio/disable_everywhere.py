"""Does a disable take the BAR away from every process that maps it?

Two processes have the device file (one passed it on) and map it; both touch their mapping while decode goes off. When
the write of COMMAND has returned, no page table and no TLB of either may lead to the BAR.
"""

from mmlitmus.api import Machine, case, never, releases, revoked_now
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "vfio/disable-everywhere",
    scenario="S-VFIO-02",
    thread="004",
    claims=("C000-06", "C004-07"),
    asks=("stale-translation", "access-after-disable"),
    reach=("touch got through", "touch got SIGBUS", "dev is off"),
    expect={**releases("deb-5.10.262", "deb-7.3.4", never)},
)
def disable_everywhere(m: Machine) -> None:
    m.faults = 1
    dev = open_device(m, pages=1)
    qemu, helper = m.process("qemu"), m.process("helper")
    mapped = qemu.mmap(dev.file, 1)
    also = helper.mmap(dev.file, 1)
    helper.read(also)

    @m.task(process=qemu)
    def touch() -> None:
        m.saw(qemu.read(mapped))

    @m.task(process=helper, warm=(also,))
    def again() -> None:
        helper.read(also)

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
        revoked_now(m, dev.pdev)
