"""Can VFIO do without a fault handler: walk the VMAs and remap when memory comes back?

"Ideally we wouldn't use the fault handler": on disable unmap_mapping_range, on enable a walk over the address_space
that takes each mm's mmap_lock W and fills its VMAs; a fault is SIGBUS. The loop as posted has four choices open, and
three of them matter. As it stands in ``+remap-on-enable`` it holds: it becomes a user of each mm (mmget), looks at
memory again before it fills, fills outside i_mmap_rwsem, page by page, and holds no memory_lock while it waits for
mmap_lock.
"""

from mmlitmus.api import Machine, case, memtypes_at_rest, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "vfio/remap-on-enable",
    scenario="S-VFIO-07",
    thread="004",
    claims=("C004-12", "C004-13", "C004-22"),
    reach=("enable_and_touch got through", "a VMA was filled on enable"),
    expect={
        **releases("v6.10", "deb-7.3.4", never, "+remap-on-enable"),
        "v6.12 +remap-on-enable-no-check": sometimes("remap-over-populated"),
    },
)
def remap_on_enable(m: Machine) -> None:
    """Once the enable has returned, does every mapping work, old and new?"""
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    dev.write_command(memory=False)
    bar = qemu.mmap(dev.file, 2)

    @m.task
    def enable_and_touch() -> None:
        dev.write_command(memory=True)
        got = qemu.read(bar)
        m.saw(got)
        m.require(got != "SIGBUS", "sigbus-while-enabled", "memory is enabled, and a touch got SIGBUS")

    @m.task
    def map_another() -> None:
        qemu.mmap(dev.file, 1, at="b")


@case(
    "vfio/remap-on-enable/disable",
    scenario="S-VFIO-08",
    thread="004",
    claims=("C004-13",),
    asks=("stale-translation", "access-after-disable"),
    reach=("dev is off", "dev answers"),
    expect={
        "v6.12 +remap-on-enable": never,
        "v6.12 +remap-on-enable-no-revalidate": sometimes("stale-translation"),
        "v6.10 +remap-on-enable": never,
        "v6.10 +remap-on-enable-no-revalidate": sometimes("stale-translation"),
    },
)
def remap_on_enable_vs_disable(m: Machine) -> None:
    """... and if somebody disables memory while the walk is on its way?"""
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    dev.write_command(memory=False)
    qemu.mmap(dev.file, 2)

    @m.task
    def enable() -> None:
        dev.write_command(memory=True)

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)


@case(
    "vfio/remap-on-enable/exit",
    scenario="S-VFIO-09",
    thread="004",
    claims=("C004-15",),
    asks=(
        "populated-table-freed",
        "memtype-leak",
        "use-after-free VmArea",
        "inversion fs_reclaim -> i_mmap_rwsem -> fs_reclaim",
    ),
    reach=("dev answers",),
    expect={
        **releases("v6.10", "deb-7.3.4", never, "+remap-on-enable"),
        **releases("v6.10", "deb-7.3.4", sometimes("populated-table-freed"), "+remap-on-enable-mmgrab"),
        **releases(
            "v6.10", "deb-6.12.117", sometimes("memtype-leak", "populated-table-freed"), "+remap-on-enable-mmgrab-remap"
        ),
        **releases("v6.16", "deb-7.3.4", sometimes("populated-table-freed"), "+remap-on-enable-mmgrab-remap"),
        "v6.12 +remap-on-enable-mmgrab-remap +pfnmap-track-ctx": sometimes("populated-table-freed"),
        "v6.12 +remap-on-enable-under-i_mmap": sometimes("inversion fs_reclaim -> i_mmap_rwsem -> fs_reclaim"),
    },
)
def remap_on_enable_vs_exit(m: Machine) -> None:
    """... and if the process exits meanwhile?

    exit_mmap unmaps under mmap_lock for reading and frees under it for writing: mmgrab lets the walk in between. What
    it fills there nobody empties. With the loop's own remap_pfn_range it also reserves what nobody gives back, for the
    untracking is past; from 6.16 on the reservation goes with the VMA.
    """
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
    "vfio/remap-on-enable/partial",
    scenario="S-VFIO-10",
    thread="004",
    claims=("C004-17",),
    asks=("sigbus-while-enabled", "remap-over-populated"),
    reach=("enable_twice got through",),
    expect={
        "v6.12 +remap-on-enable": never,
        "v6.10 +remap-on-enable-page0": sometimes("sigbus-while-enabled"),
        "v6.12 +remap-on-enable-page0": sometimes("untrack-walk-failed"),
        "v6.12 +remap-on-enable-no-check": sometimes("remap-over-populated", "untrack-walk-failed"),
    },
)
def partial_population(m: Machine) -> None:
    """... and if a walk ran out of memory half way, does the next one mend it?

    The VMA lies across two page-table pages; the allocation of one of them may fail. Where a failing remap_pfn_range
    takes back what it has mapped (6.11 on), looking at page 0 is enough: all or nothing is there.
    """
    m.failures = 1
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    dev.write_command(memory=False)
    bar = qemu.mmap(dev.file, 2, at=m.slot("a") + 511 * 4096)

    @m.task
    def enable_twice() -> None:
        dev.write_command(memory=True)
        dev.write_command(memory=True)
        got = [qemu.read(bar), qemu.read(bar + 4096)]
        m.saw(got[1])
        m.require("SIGBUS" not in got, "sigbus-while-enabled", "two enables have returned, and a page is not there")


@case(
    "vfio/remap-on-enable/lock-order",
    scenario="S-VFIO-11",
    thread="004",
    claims=("C004-15",),
    reach=("dev answers",),
    expect={
        "v6.12 +remap-on-enable": never,
        "v6.12 +remap-on-enable-hold-memory-lock": sometimes(
            "deadlock memory_lock / mmap_lock", "inversion memory_lock -> mmap_lock -> memory_lock"
        ),
    },
)
def lock_order(m: Machine) -> None:
    """... and if the walk holds memory_lock, against an mmap?"""
    dev = open_device(m, pages=1)
    vmm, qemu = m.process("vmm"), m.process("qemu")
    dev.write_command(memory=False)
    qemu.mmap(dev.file, 1)

    @m.task(process=vmm)
    def enable() -> None:
        dev.write_command(memory=True)

    @m.task(process=qemu)
    def mmap() -> None:
        qemu.mmap(dev.file, 1, at="b")
