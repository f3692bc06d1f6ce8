"""Does fork work after the first page of a private mapping of device memory was written?

That page is a copy in RAM then. Before 6.9 fork takes its frame for the mapping's first, and reserves nothing, for it
is RAM. From 6.9 on, and in stable, it sees that the page is no device memory, and cannot say which type the mapping
has: fork fails. From 6.16 on it need not know.
"""

from mmlitmus.api import (
    MAP_PRIVATE,
    PAGE_SIZE,
    PROT_READ,
    PROT_WRITE,
    Machine,
    Process,
    always,
    case,
    memtypes_at_rest,
    never,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe

ASKS = (
    "freeing-invalid-memtype",
    "memtype-alias",
    "memtype-leak",
    "memtype-steal",
    "untrack-walk-failed",
    "untracked-live",
)
SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")
FAILED = always("fork-failed")
LEAK = always("memtype-leak")
HEAD_LEAK = always("freeing-invalid-memtype", "memtype-leak")
STEAL = always("freeing-invalid-memtype", "memtype-steal")


@case(
    "pat/fork-after-cow",
    scenario="S-PAT-14",
    thread="000",
    asks=("fork-failed",),
    reach=("a private page was copied",),
    expect={
        "v5.10": never,
        "deb-5.10.262": FAILED,
        "v6.1": never,
        "deb-6.1.192": FAILED,
        "v6.6": never,
        **releases("v6.9", "deb-6.12.117", FAILED),
        **releases("v6.16", "deb-7.3.4", never),
        "v5.10 +cow-walk-fix": FAILED,
        "v6.1 +cow-walk-fix": FAILED,
        "v6.12 +untrack-in-unmap-vmas": FAILED,
        "v6.12 +fork-clear-pat": FAILED,
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,  # the recorded program pins, advises and moves in between
)
def fork_after_cow(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap"), 4, flags=MAP_PRIVATE)

    @m.task
    def task() -> None:
        app.write(a)
        child = app.fork("child")
        m.require(isinstance(child, Process), "fork-failed", f"fork gives {child}")


@case(
    "pat/fork-after-cow/memtype",
    scenario="S-PAT-14",
    thread="000",
    asks=ASKS,
    reach=("a private page was copied", "all is unmapped"),
    expect={
        "v5.10": LEAK,
        "deb-5.10.262": STEAL,
        "v6.1": LEAK,
        "deb-6.1.192": never,
        "v6.6": LEAK,
        **releases("v6.9", "v6.12", STEAL),
        **releases("deb-6.12.117", "deb-7.3.4", never),
        "v5.10 +cow-walk-fix": STEAL,
        "v5.10 +fork-clear-pat": LEAK,
        "v5.10 +cow-walk-fix +fork-clear-pat": never,
        "v6.12 +fork-clear-pat": never,
        "v6.12 +untrack-in-unmap-vmas": STEAL,
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def memtype_after_cow(m: Machine) -> None:
    """... and is the parent's reservation still his, and given back when he unmaps?

    Before 6.9 munmap, too, takes the copy's frame for the mapping's first: RAM, so there is nothing to give back. From
    6.9 on it goes by vm_pgoff. So does the teardown of the child whose fork has failed: it has VM_PAT, for flags are
    copied, and no reservation; what it frees is the parent's. 6.15 clears the flag, as do 6.1.192 and 6.12.117.
    """
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, flags=MAP_PRIVATE)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        app.write(a)
        child = app.fork("child")
        if isinstance(child, Process):
            child.exit()
        app.munmap(a, 4)
        m.reached("all is unmapped")


@case(
    "pat/fork-after-cow/no-fork",
    scenario="S-PAT-14",
    thread="000",
    reach=("a private page was copied", "all is unmapped"),
    expect={
        "v5.10": LEAK,
        "deb-5.10.262": never,
        "v6.1": LEAK,
        "deb-6.1.192": never,
        "v6.6": LEAK,
        **releases("v6.9", "deb-7.3.4", never),
        "v5.10 +cow-walk-fix": never,
        "v6.6 +cow-walk-fix": never,
        "v6.12 +untrack-in-unmap-vmas": never,
        **releases("v5.10", "v6.6", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def unmap_after_cow(m: Machine) -> None:
    """... and is it given back if nobody forks at all?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, flags=MAP_PRIVATE)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        app.write(a)
        app.munmap(a, 4)
        m.reached("all is unmapped")


@case(
    "pat/fork-after-cow/split",
    scenario="S-PAT-14",
    thread="000",
    asks=ASKS,
    reach=("a private page was copied", "the tail is unmapped"),
    expect={
        "v5.10": LEAK,
        "deb-5.10.262": STEAL,
        "v6.1": LEAK,
        "deb-6.1.192": HEAD_LEAK,
        "v6.6": LEAK,
        **releases("v6.9", "v6.12", STEAL),
        "deb-6.12.117": HEAD_LEAK,
        **releases("v6.16", "deb-7.3.4", never),
        "v6.12 +fork-clear-pat": HEAD_LEAK,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,  # the recorded program pins and advises in between
)
def split_after_cow(m: Machine) -> None:
    """... and if the mapping is moved before, and split and unmapped in two parts afterwards?

    As recorded (pins and madvise in between are left out): on 5.10.262 both parts' frees find nothing, because the
    child has taken the entry; on 6.1.192 and 6.12.117 it is there, and its head is left over as in
    pat/split-head-first.
    """
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, at="a", flags=MAP_PRIVATE)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        app.write(a)
        probe.unmap_mapping_range(0, 1)  # misses: vm_pgoff is the frame number
        b = app.mremap(a, 4, 4, to="b")
        app.write(b + PAGE_SIZE)
        child = app.fork("child")
        if isinstance(child, Process):
            child.write(b + PAGE_SIZE)
            child.exit()
        app.mprotect(b, 1, PROT_READ)
        app.write(b)
        app.mprotect(b, 1, PROT_READ | PROT_WRITE)
        app.write(b)
        app.munmap(b, 1)
        app.munmap(b + PAGE_SIZE, 3)
        m.reached("the tail is unmapped")
