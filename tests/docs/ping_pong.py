"""How often can a fault be in vain beside one reset?

The case behind docs/findings.md: a thread touches a BAR page, another resets the device once.
"""

from mmlitmus.api import GAVE_UP, Machine, case, never, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device

ALWAYS_POSSIBLE = {"v6.1": sometimes("in-vain"), "v6.12": sometimes("in-vain")}
ON_THE_LIST_ONLY = {"v6.1": sometimes("in-vain"), "v6.12": never}


def touch_beside_reset(m: Machine, faults: int) -> None:
    m.faults = faults
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def touch() -> None:
        m.require(qemu.read(bar) != GAVE_UP, "in-vain", f"{faults} faults were served, and none of them was enough")

    @m.task
    def reset() -> None:
        dev.reset()


@case("faults/1", expect=ALWAYS_POSSIBLE)
def one(m: Machine) -> None:
    touch_beside_reset(m, 1)


@case("faults/2", expect=ON_THE_LIST_ONLY)
def two(m: Machine) -> None:
    touch_beside_reset(m, 2)


@case("faults/3", expect=ON_THE_LIST_ONLY)
def three(m: Machine) -> None:
    touch_beside_reset(m, 3)


@case("faults/4", expect=ON_THE_LIST_ONLY)
def four(m: Machine) -> None:
    touch_beside_reset(m, 4)
