"""Does a disable take the BAR away from every process that maps it?

Two processes have the device file (one passed it on) and map it. When the write of COMMAND has returned, no page table
and no TLB of either may lead to the BAR.
"""

from mmlitmus.api import Machine, case, never, releases, revoked_now, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device

ASKS = ("stale-translation", "access-after-disable")
#: 5.8's handler populates after it has let go of the list of VMAs (vfio/fault-vs-disable)
LATE = sometimes("access-after-disable", "stale-translation", "untrack-walk-failed")


@case(
    "vfio/disable-everywhere",
    scenario="S-VFIO-02",
    thread="004",
    claims=("C000-06", "C004-07"),
    asks=ASKS,
    reach=("touch got through", "touch got SIGBUS", "dev is off"),
    expect={"v5.10": LATE, **releases("deb-5.10.262", "deb-7.3.4", never)},
)
def disable_everywhere(m: Machine) -> None:
    """Does a disable take the BAR away from every process that maps it?

    One process faults its mapping in while decode goes off; the other has it in its tables and in the TLB of a CPU
    that does something else.
    """
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
    def idle() -> None:
        pass

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
        revoked_now(m, dev.pdev)


@case(
    "vfio/disable-everywhere/in-use",
    scenario="S-VFIO-02",
    thread="004",
    claims=("C000-06", "C004-07"),
    asks=ASKS,
    reach=("again got through", "again got SIGBUS", "dev is off"),
    expect={"v5.10": LATE, **releases("deb-5.10.262", "deb-7.3.4", never)},
)
def in_use(m: Machine) -> None:
    """... and if the other process uses its translation meanwhile?"""
    m.faults = 1
    dev = open_device(m, pages=1)
    qemu, helper = m.process("qemu"), m.process("helper")
    mapped = qemu.mmap(dev.file, 1)
    also = helper.mmap(dev.file, 1)
    qemu.read(mapped)
    helper.read(also)

    @m.task(process=helper, warm=(also,))
    def again() -> None:
        m.saw(helper.read(also))

    @m.task(process=qemu)
    def disable() -> None:
        dev.write_command(memory=False)
        revoked_now(m, dev.pdev)


@case(
    "vfio/disable-everywhere/all-at-once",
    control="vfio/disable-everywhere/in-use",
    scenario="S-VFIO-02",
    thread="004",
    claims=("C000-06", "C004-07"),
    asks=ASKS,
    reach=("touch got through", "touch got SIGBUS", "dev is off"),
    expect={**releases("v6.10", "deb-7.3.4", never)},
)
def all_at_once(m: Machine) -> None:
    """... and if both are at it, where the device's address_space says who maps it?"""
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
