"""A process with a tracked mapping forks, and the child unmaps it: is the parent's reservation still there?

Up to 6.15 fork reserves the frames again, for the child, and insists on the parent's type; either gives one of the two
entries back. From 6.16 on the child shares the parent's reservation.
"""

from mmlitmus.api import Machine, Process, case, memtypes_at_rest, never, pat_memtype_list, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe

RECORDED = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded")


@case(
    "pat/fork",
    control="pat/fork-copy-fails",
    scenario="S-PAT-14",
    thread="000",
    reach=("forked",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=RECORDED,
)
def fork(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        child = app.fork("child")
        m.require(isinstance(child, Process), "fork-failed", f"fork gives {child}")
        if isinstance(child, Process):
            m.reached("forked")
            child.munmap(a, 4)
            child.exit()
        m.require(len(pat_memtype_list(m)) == 2, "wrong-count", f"{pat_memtype_list(m)}")


@case(
    "pat/fork/parent-first",
    control="pat/fork-copy-fails",
    scenario="S-PAT-14",
    thread="000",
    reach=("the child has it",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": never,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def parent_first(m: Machine) -> None:
    """... and if the parent is the first to go?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        child = app.fork("child")
        app.munmap(a, 4)
        if isinstance(child, Process):
            if child.pte(a) and len(pat_memtype_list(m)) == 2:
                m.reached("the child has it")
            child.exit()
        m.require(len(pat_memtype_list(m)) == 1, "wrong-count", f"{pat_memtype_list(m)}")


@case(
    "pat/fork/both-exit",
    control="pat/fork-copy-fails",
    scenario="S-PAT-14",
    thread="000",
    asks=("freeing-invalid-memtype", "memtype-double-free", "memtype-leak", "memtype-steal", "untrack-walk-failed"),
    reach=("parent gone", "child gone"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": never,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def both_exit(m: Machine) -> None:
    """... and if both exit at once?"""
    probe = open_probe(m, pages=1)
    app = m.process("app")
    app.mmap(probe.file("remap", "wc"), 1)
    other = app.fork("child")
    assert isinstance(other, Process)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def parent() -> None:
        app.exit()
        m.reached("parent gone")

    @m.task(process=other)
    def child() -> None:
        other.exit()
        m.reached("child gone")
