"""The loop that was posted in place of VFIO's fault handler, whole: does it do what it is for?

vfio/remap-on-enable asks which of its choices matter, one at a time and beside repaired ones. Here they are together,
as in the mail: mm structs held by mmgrab, one for each VMA and dropped once; page 0 standing for the whole VMA where
one is picked, and no look at all where they are remapped; remap_pfn_range under i_mmap_rwsem; no second look at
memory; again, until every VMA is populated.
"""

from mmlitmus.api import Machine, always, case, memtypes_at_rest, never, releases, sometimes, stale_translations
from mmlitmus.kernel.drivers.vfio.pci import VfioPciCoreDevice, open_device
from mmlitmus.kernel.uapi import Process

PATCH = "+remap-on-enable-as-posted"
REPAIRED = {"v6.12 +remap-on-enable": never}
#: its page tables are allocated under the lock that reclaim takes
INVERSION = "inversion fs_reclaim -> i_mmap_rwsem -> fs_reclaim"


def scene(m: Machine, pages: int = 1) -> tuple[VfioPciCoreDevice, Process]:
    """A device that is off, and a process to map it."""
    dev = open_device(m, pages=pages)
    m.check(lambda: stale_translations(m))
    dev.write_command(memory=False)
    return dev, m.process("qemu")


@case(
    "vfio/remap-on-enable-as-posted",
    thread="004",
    claims=("C004-12", "C004-15"),
    reach=("enable_and_touch got through", "a VMA was filled on enable"),
    expect={**releases("v6.10", "deb-7.3.4", sometimes(INVERSION), PATCH), **REPAIRED},
    engine="auto",
)
def remap_on_enable_as_posted(m: Machine) -> None:
    """One mapping of a device that is off, and nobody else: does it work once the enable has returned?"""
    dev, qemu = scene(m)
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def enable_and_touch() -> None:
        dev.write_command(memory=True)
        got = qemu.read(bar)
        m.saw(got)
        m.require(got != "SIGBUS", "sigbus-while-enabled", "memory is enabled, and a touch got SIGBUS")


@case(
    "vfio/remap-on-enable-as-posted/two",
    thread="004",
    claims=("C004-15",),
    reach=("a VMA was filled on enable",),
    expect={**releases("v6.10", "deb-7.3.4", sometimes(INVERSION) & always("mm-struct-leak"), PATCH), **REPAIRED},
    engine="auto",
)
def two_mappings(m: Machine) -> None:
    """... and two mappings, of which neither is populated?"""
    dev, qemu = scene(m)
    for slot in ("a", "b"):
        qemu.mmap(dev.file, 1, at=slot)

    @m.task
    def enable() -> None:
        dev.write_command(memory=True)


@case(
    "vfio/remap-on-enable-as-posted/beside-mmap",
    thread="004",
    claims=("C004-15",),
    reach=("a VMA was filled on enable",),
    expect={
        **releases("v6.10", "deb-7.3.4", sometimes(INVERSION, "mm-struct-leak", "remap-over-populated"), PATCH),
        **REPAIRED,
    },
    engine="auto",
)
def beside_mmap(m: Machine) -> None:
    """... and if somebody maps the device once more meanwhile?"""
    dev, qemu = scene(m)
    qemu.mmap(dev.file, 1)

    @m.task
    def enable() -> None:
        dev.write_command(memory=True)

    @m.task
    def map_another() -> None:
        qemu.mmap(dev.file, 1, at="b")


@case(
    "vfio/remap-on-enable-as-posted/disable",
    thread="004",
    claims=("C004-13", "C004-15"),
    reach=("a VMA was filled on enable", "dev is off"),
    expect={
        f"v6.10 {PATCH}": sometimes(INVERSION, "mmap_assert_locked", "stale-translation", "untrack-walk-failed"),
        f"v6.12 {PATCH}": sometimes(INVERSION, "stale-translation", "untrack-walk-failed"),
        **REPAIRED,
    },
    engine="auto",
)
def beside_disable(m: Machine) -> None:
    """... and if somebody disables memory meanwhile?

    From 6.16 on the loop does not end, either: a VMA that was remapped once is refused the next time, and is never
    populated.
    """
    dev, qemu = scene(m)
    qemu.mmap(dev.file, 1)

    @m.task
    def enable() -> None:
        dev.write_command(memory=True)

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)


@case(
    "vfio/remap-on-enable-as-posted/exit",
    thread="004",
    claims=("C004-15",),
    reach=("a VMA was filled on enable",),
    expect={
        **releases("v6.10", "v6.12", sometimes(INVERSION, "memtype-leak", "populated-table-freed"), PATCH),
        **REPAIRED,
    },
    engine="auto",
)
def beside_exit(m: Machine) -> None:
    """... and if the process exits meanwhile?"""
    m.check(lambda: memtypes_at_rest(m))
    dev = open_device(m, pages=1)
    vmm, qemu = m.process("vmm"), m.process("qemu")
    dev.write_command(memory=False)
    qemu.mmap(dev.file, 1)

    @m.task(process=vmm)
    def enable() -> None:
        dev.write_command(memory=True)

    @m.task(process=qemu)
    def exit_() -> None:
        qemu.exit()


@case(
    "vfio/remap-on-enable-as-posted/partial",
    thread="004",
    claims=("C004-17",),
    reach=("enable_twice got through",),
    expect={
        f"v6.10 {PATCH}": sometimes(INVERSION, "sigbus-while-enabled"),
        f"v6.12 {PATCH}": sometimes(INVERSION, "untrack-walk-failed"),
        **releases("v6.16", "deb-7.3.4", sometimes(INVERSION), PATCH),
        **REPAIRED,
    },
    engine="auto",
)
def partial(m: Machine) -> None:
    """... and if a walk runs out of memory half way, with page 0 to tell the next one?"""
    m.failures = 1
    dev, qemu = scene(m, pages=2)
    bar = qemu.mmap(dev.file, 2, at=m.slot("a") + 511 * 4096)

    @m.task
    def enable_twice() -> None:
        dev.write_command(memory=True)
        dev.write_command(memory=True)
        got = [qemu.read(bar), qemu.read(bar + 4096)]
        m.saw(got[1])
        m.require("SIGBUS" not in got, "sigbus-while-enabled", "two enables have returned, and a page is not there")


@case(
    "vfio/remap-on-enable-as-posted/touch",
    thread="004",
    claims=("C004-20",),
    reach=("touch got SIGBUS", "touch got through"),
    expect={**releases("v6.10", "deb-7.3.4", sometimes(INVERSION), PATCH), **REPAIRED},
    engine="auto",
)
def beside_touch(m: Machine) -> None:
    """... and what does who touches it meanwhile get: SIGBUS, or the device, and never one that is off?"""
    dev, qemu = scene(m)
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def enable() -> None:
        dev.write_command(memory=True)

    @m.task
    def touch() -> None:
        m.saw(qemu.read(bar))
