"""fork runs out of memory while it copies a tracked mapping: is what was reserved for the child given back?

Up to 6.14 a child has VM_PAT from the start, because flags are copied. When fork fails the child is torn down, and its
untracking reads the frames from its first page: nothing was copied yet, so it warns and frees nothing, neither what was
reserved for the child nor what was not. 6.15, 6.1.192 and 6.12.117 give VM_PAT to a child that has a reservation, and
undo both where they were made. From 6.16 on nothing is reserved for a child.
"""

from mmlitmus.api import (
    MAP_PRIVATE,
    PAGE_SIZE,
    PMD_SIZE,
    Machine,
    Process,
    case,
    memtypes_at_rest,
    never,
    releases,
    sometimes,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe

SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")
LEAK = sometimes("memtype-leak", "untrack-walk-failed")
STEAL = sometimes("memtype-alias", "memtype-double-free", "memtype-steal", "untracked-live")


def fork_and_wait(m: Machine, app: Process) -> None:
    """Fork; the child exits."""
    child = app.fork("child")
    m.reached("forked" if isinstance(child, Process) else "fork failed")
    if isinstance(child, Process):
        child.exit()


@case(
    "pat/fork-copy-fails",
    scenario="S-PAT-14",
    thread="000",
    reach=("forked", "fork failed"),
    expect={
        **releases("v5.10", "v6.1", LEAK),
        "deb-6.1.192": never,
        **releases("v6.6", "v6.12", LEAK),
        **releases("deb-6.12.117", "deb-7.3.4", never),
        "v5.10 +fork-clear-pat": never,
        "v6.12 +fork-clear-pat": never,
        "v6.12 +untrack-in-unmap-vmas": LEAK,
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def fork_copy_fails(m: Machine) -> None:
    probe = open_probe(m, pages=1)
    app = m.process("app")
    app.mmap(probe.file("remap", "wc"), 1)
    m.failures = 1
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        fork_and_wait(m, app)


@case(
    "pat/fork-copy-fails/private",
    scenario="S-PAT-14",
    thread="000",
    reach=("forked", "fork failed"),
    expect={
        "v5.10": LEAK,
        "deb-5.10.262": STEAL,
        "v6.1": LEAK,
        "deb-6.1.192": never,
        "v6.6": LEAK,
        **releases("v6.9", "v6.12", STEAL),
        **releases("deb-6.12.117", "deb-7.3.4", never),
        "v6.6 +cow-walk-fix": STEAL,
        "v6.12 +fork-clear-pat": never,
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def private_copy_fails(m: Machine) -> None:
    """... and of a private mapping?

    Where untracking resorts to vm_pgoff (6.9 on, 5.10.262) it does find the frames: then what was reserved for the
    child is freed, and if nothing was, what was reserved for the parent.
    """
    probe = open_probe(m, pages=1)
    app = m.process("app")
    app.mmap(probe.file("remap", "wc"), 1, flags=MAP_PRIVATE)
    m.failures = 1
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        fork_and_wait(m, app)


@case(
    "pat/fork-copy-fails/two-tables",
    scenario="S-PAT-14",
    thread="000",
    asks=("memtype-double-free", "memtype-steal"),
    reach=("forked", "fork failed"),
    expect={
        **releases("v5.10", "v6.12", sometimes("untrack-walk-failed")),
        "deb-6.1.192": never,
        **releases("deb-6.12.117", "deb-7.3.4", never),
        "v6.12 +fork-clear-pat": never,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,
)
def second_table_fails(m: Machine) -> None:
    """... and of two tables, if only one was copied: is the parent's freed then?

    Not that of a shared mapping: a child that has its first page has a reservation, too.
    """
    probe = open_probe(m, pages=2)
    app = m.process("app")
    app.mmap(probe.file("remap", "wc"), 2, at=m.slot("a") + PMD_SIZE - PAGE_SIZE)
    m.failures = 1
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        fork_and_wait(m, app)
