"""May a zap through the reverse map walk page tables to find out what a VMA has reserved?

Up to 6.15 a zap of a VM_PAT mapping looks its first frame up in the page table. unmap_mapping_range comes there with
i_mmap_rwsem and without mmap_lock. Through 6.9 nobody looked; follow_pte of 6.10 asserts mmap_lock, and warns in every
build; follow_pfnmap_start of 6.12 takes either lock for enough. As to the VMA's life it is right: a VMA is taken out of
i_mmap under that lock before it is freed (locks/rmap-zap-vs-munmap). As to vm_flags see locks/lost-flags-update.

VFIO has no VM_PAT from 6.10 on, and before it held mmap_lock when it zapped: it never gets there.

The model asks whether the running task holds the lock, as lockdep does. A build without lockdep asks whether anybody
does (rwsem_assert_held), so that it may miss one while another thread of the process is in a fault or an mmap.
"""

from mmlitmus.api import Machine, always, case, never, releases, sometimes
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case(
    "locks/untrack-walk",
    scenario="S-LOCK-02",
    thread="000",
    claims=("C000-05", "C000-41"),
    asks=("mmap_assert_locked", "use-after-free VmArea", "double free"),
    reach=("the page is gone",),
    expect={
        **releases("v5.10", "v6.9", never),
        "v6.10": always("mmap_assert_locked"),
        "v6.10 +follow-pte-accepts-i_mmap": never,
        "v6.10 +untrack-in-unmap-vmas": never,
        "v6.10 +untrack-under-mmap-lock": sometimes("inversion i_mmap_rwsem -> mmap_lock -> i_mmap_rwsem"),
        "v6.10 +pfnmap-track-ctx": never,
        **releases("v6.12", "deb-7.3.4", never),
        "v6.12 lockdep": never,
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def untrack_walk(m: Machine) -> None:
    probe = open_probe(m, pages=1)
    app, driver = m.process("app"), m.process("driver")
    a = app.mmap(probe.file("remap"), 1)

    @m.task(process=driver)
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        if not app.pte(a):
            m.reached("the page is gone")


@case(
    "locks/untrack-walk/munmap",
    scenario="S-LOCK-02",
    thread="000",
    claims=("C000-41",),
    asks=("use-after-free VmArea", "double free", "use-after-free PfnmapTrackCtx"),
    reach=("unmapped", "zapped"),
    expect={
        **releases("v5.10", "deb-6.12.117", sometimes("untrack-walk-failed")),
        "v6.10": sometimes("mmap_assert_locked", "untrack-walk-failed"),
        **releases("v6.16", "deb-7.3.4", never),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def untrack_walk_vs_munmap(m: Machine) -> None:
    """... and does the VMA live long enough for it, if somebody unmaps it?"""
    probe = open_probe(m, pages=1)
    app, driver = m.process("app"), m.process("driver")
    a = app.mmap(probe.file("remap"), 1)

    @m.task
    def munmap() -> None:
        if app.munmap(a, 1) == 0:
            m.reached("unmapped")

    @m.task(process=driver)
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zapped")


@case(
    "locks/untrack-walk/vfio",
    scenario="S-LOCK-02",
    thread="000",
    claims=("C000-11",),
    asks=("mmap_assert_locked",),
    reach=("touch_and_disable got through", "dev is off"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.10 +revert-unmap-mapping-range": always("flags-without-lock"),
        "v6.12 lockdep": never,
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def vfio(m: Machine) -> None:
    """... and VFIO's revocation of a BAR?"""
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)

    @m.task
    def touch_and_disable() -> None:
        m.saw(qemu.read(bar))
        dev.write_command(memory=False)
