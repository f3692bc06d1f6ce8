"""May the untracking walk take mmap_lock?

It was proposed in July 2024, to quiet 6.10's assertion (locks/untrack-walk), and dropped. The walk comes from the
reverse map with i_mmap_rwsem held, and mmap, munmap and fork take i_mmap_rwsem inside mmap_lock: a deadlock. It also
comes from munmap, which holds mmap_lock for reading by then: a second down_read of it waits behind any writer who has
queued in between, and he waits for the first.
"""

from mmlitmus.api import Machine, always, case, never, releases, sometimes
from mmlitmus.kernel.drivers.misc.probe import open_probe

#: kernels that the proposal applies to
PROPOSED = ("deb-5.10.262", "deb-6.1.192", "v6.9", "v6.10", "v6.12", "deb-6.12.117")
SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")
ABBA = "deadlock i_mmap_rwsem / mmap_lock"
INVERSION = "inversion i_mmap_rwsem -> mmap_lock -> i_mmap_rwsem"


@case(
    "locks/untrack-takes-mmap-lock",
    scenario="S-LOCK-04",
    thread="000",
    claims=("C000-43",),
    asks=(ABBA, "deadlock mmap_lock"),
    reach=("mapped", "zapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.10": always("mmap_assert_locked"),
        **{f"{k} +untrack-under-mmap-lock": sometimes(ABBA, INVERSION) for k in PROPOSED},
    },
    evidence=SOURCE,
)
def zap_vs_mmap(m: Machine) -> None:
    """May the untracking walk take mmap_lock, when a zap comes through the reverse map while somebody mmaps?"""
    probe = open_probe(m, pages=2)
    app, driver = m.process("app"), m.process("driver")
    file = probe.file("remap")
    app.mmap(file, 1)

    @m.task
    def mmap() -> None:
        app.mmap(file, 1, at="b", offset=1)
        m.reached("mapped")

    @m.task(process=driver)
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zapped")


@case(
    "locks/untrack-takes-mmap-lock/lock-order",
    scenario="S-LOCK-04",
    thread="000",
    claims=("C000-43",),
    asks=(ABBA, INVERSION),
    reach=("zapped",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.10": always("mmap_assert_locked"),
        **{f"{k} +untrack-under-mmap-lock": sometimes(INVERSION) for k in PROPOSED},
    },
    evidence=SOURCE,
)
def lock_order(m: Machine) -> None:
    """... and would lockdep say so without a deadlock, from one mmap and one zap, one after the other?"""
    probe = open_probe(m, pages=1)
    app, driver = m.process("app"), m.process("driver")
    app.mmap(probe.file("remap"), 1)

    @m.task(process=driver)
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zapped")


@case(
    "locks/untrack-takes-mmap-lock/munmap",
    scenario="S-LOCK-04",
    thread="000",
    claims=("C000-43",),
    asks=("deadlock mmap_lock", "inversion mmap_lock -> mmap_lock"),
    reach=("mapped", "unmapped"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **{
            f"{k} +untrack-under-mmap-lock": sometimes("deadlock mmap_lock", "inversion mmap_lock -> mmap_lock")
            for k in PROPOSED
        },
    },
    evidence=SOURCE,
)
def munmap_vs_mmap(m: Machine) -> None:
    """... or when it comes from munmap, while another thread mmaps?"""
    probe = open_probe(m, pages=2)
    app = m.process("app")
    file = probe.file("remap")
    a = app.mmap(file, 1)

    @m.task
    def munmap() -> None:
        app.munmap(a, 1)
        m.reached("unmapped")

    @m.task
    def mmap() -> None:
        app.mmap(file, 1, at="b", offset=1)
        m.reached("mapped")


@case(
    "locks/untrack-takes-mmap-lock/fork",
    control="locks/untrack-takes-mmap-lock/munmap",
    scenario="S-LOCK-04",
    thread="000",
    claims=("C000-43",),
    asks=("deadlock mmap_lock",),
    reach=("forked",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **{f"{k} +untrack-under-mmap-lock": never for k in PROPOSED},
    },
    evidence=SOURCE,
)
def fork(m: Machine) -> None:
    """... and fork, whose walk is for tracking the child, under mmap_lock held for writing?"""
    probe = open_probe(m, pages=1)
    app = m.process("app")
    app.mmap(probe.file("remap"), 1)

    @m.task
    def forks() -> None:
        app.fork("child")
        m.reached("forked")
