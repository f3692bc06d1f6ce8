"""Do D3hot, reset and low power take a BAR away as a cleared COMMAND.MEMORY does?

Whatever makes the device deaf goes through the same gate: memory_lock for writing, every translation gone, then the
change. A reset leaves the command bits alone, so the next fault finds memory enabled again.
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import D3HOT, open_device


@case(
    "vfio/power-state",
    scenario="S-VFIO-01",
    thread="004",
    asks=("stale-translation", "access-after-disable"),
    reach=("dev is off", "touch got SIGBUS", "touch got through"),
    expect={
        "v5.10": sometimes("stale-translation", "access-after-disable", "untrack-walk-failed"),
        **releases("deb-5.10.262", "deb-7.3.4", never),
    },
)
def d3hot(m: Machine) -> None:
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def touch() -> None:
        m.saw(qemu.read(bar))

    @m.task
    def sleep() -> None:
        dev.write_pm_state(D3HOT)


@case(
    "vfio/power-state/reset",
    scenario="S-VFIO-01",
    thread="004",
    asks=("stale-translation", "access-after-disable", "sigbus-while-enabled"),
    reach=("dev is off", "dev answers", "touch got through"),
    expect={
        **releases("deb-5.10.262", "deb-7.3.4", never),
        "v6.12 +remap-on-enable": sometimes("sigbus-while-enabled"),  # the reset zaps, and nobody fills again
    },
)
def function_reset(m: Machine) -> None:
    """... and may a touch beside a reset go wrong in any way?"""
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def touch() -> None:
        got = m.saw(qemu.read(bar))
        m.require(got != "SIGBUS", "sigbus-while-enabled", "memory was never disabled, and a touch got SIGBUS")

    @m.task
    def reset() -> None:
        dev.reset()
