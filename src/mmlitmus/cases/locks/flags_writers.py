"""Who writes vm_flags, and with which lock?

The word belongs to mmap_lock held for writing. Every system call that changes a mapping holds it: mmap with what its
driver does, mprotect, madvise, mlock, mremap, fork, the splits of all of them. Two writers do not. A driver that calls
remap_pfn_range in its fault handler writes VM_PAT and the remap flags under mmap_lock for reading; from 6.3 that is
asserted, from 6.10 in every build. And untracking clears VM_PAT in a zap that comes through the reverse map, with
i_mmap_rwsem only, or in munmap and exit with the read lock (locks/unmap-without-write-lock); the kernel knows, and
stores without asking. What that costs is locks/lost-flags-update.
"""

from mmlitmus.api import (
    MADV_DONTFORK,
    MADV_NORMAL,
    PROT_READ,
    PROT_WRITE,
    Machine,
    always,
    case,
    never,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe

ASSERTED = always("flags-without-lock")
OBJECT = "pfnmap_track_ctx written without mmap_lock"
SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


@case(
    "locks/flags-writers",
    scenario="S-LOCK-01",
    thread="000",
    claims=("C000-15", "C000-42"),
    asks=("flags-without-lock",),
    reach=("all calls succeeded",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.6 lockdep": never,
        "v6.9 lockdep": never,
        "v6.12 lockdep": never,
        **releases("v6.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v6.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
        "v6.12 +untrack-asserts": ASSERTED,
    },
    evidence=SOURCE,
)
def system_calls(m: Machine) -> None:
    """Do the system calls that change a mapping hold mmap_lock for writing when they write vm_flags?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def calls() -> None:
        a = app.mmap(probe.file("remap"), 4)
        page = 0x1000
        results = [
            app.mprotect(a, 4, PROT_READ),
            app.mprotect(a + page, 1, PROT_READ | PROT_WRITE),
            app.madvise(a, 1, MADV_DONTFORK),
            app.madvise(a, 1, MADV_NORMAL),
            app.mlock(a, 4),
            app.mremap(a + 3 * page, 1, 1, to="b") - m.slot("b"),
            app.munmap(a + page, 1),
        ]
        child = app.fork("child")
        if not any(results) and not isinstance(child, int):
            m.reached("all calls succeeded")
            child.exit()
        app.exit()


@case(
    "locks/flags-writers/fault",
    scenario="S-LOCK-01",
    thread="000",
    claims=("C000-13", "C000-15", "C000-27", "C004-16"),
    asks=("flags-without-lock", OBJECT),
    reach=("touch got through",),
    expect={
        **releases("v5.10", "v6.9", never),
        "v6.6 lockdep": ASSERTED,
        "v6.9 lockdep": ASSERTED,
        **releases("v6.10", "deb-6.12.117", ASSERTED),
        "v6.12 lockdep": ASSERTED,
        **releases("v6.16", "deb-6.18.15", always("flags-without-lock", OBJECT)),
        **releases("v7.3", "deb-7.3.4", always(OBJECT)),
        "v6.10 +pfnmap-track-ctx": always("flags-without-lock", OBJECT),
    },
    evidence=SOURCE | {"v7.3": "source", "deb-7.3.4": "recorded"},
)
def fault(m: Machine) -> None:
    """... and a fault handler that calls remap_pfn_range?

    From 6.16 on it also hangs the tracking object into the VMA under the read lock, where two faults may do so at once.
    7.3 writes the flags by a helper that asks nobody (vma_set_flags_mask): the same store, and no warning any more.
    """
    probe = open_probe(m, pages=1)
    app = m.process("app")
    a = app.mmap(probe.file("remap_fault"), 1)

    @m.task
    def touch() -> None:
        m.saw(app.read(a))


@case(
    "locks/flags-writers/insert",
    control="locks/flags-writers/fault",
    scenario="S-LOCK-01",
    thread="004",
    claims=("C004-06",),
    asks=("flags-without-lock",),
    reach=("touch got through",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        "v6.6 lockdep": never,
        "v6.9 lockdep": never,
        "v6.12 lockdep": never,
    },
    evidence=SOURCE,
)
def insert(m: Machine) -> None:
    """... and one that calls vmf_insert_pfn?"""
    probe = open_probe(m, pages=1)
    app = m.process("app")
    a = app.mmap(probe.file("fault_pfn"), 1)

    @m.task
    def touch() -> None:
        m.saw(app.read(a))


@case(
    "locks/flags-writers/zap",
    scenario="S-LOCK-01",
    thread="000",
    claims=("C000-41",),
    asks=("flags-without-lock", "vm-pat-cleared"),
    reach=("zapped",),
    expect={
        **releases("v5.10", "deb-6.12.117", always("vm-pat-cleared")),
        "v6.10": always("mmap_assert_locked", "vm-pat-cleared"),
        "v6.6 lockdep": always("vm-pat-cleared"),
        "v6.12 lockdep": always("vm-pat-cleared"),
        "v6.6 +untrack-asserts": always("vm-pat-cleared"),
        "v6.6 +untrack-asserts lockdep": always("flags-without-lock", "vm-pat-cleared"),
        **releases("v6.10", "deb-6.12.117", always("flags-without-lock", "vm-pat-cleared"), "+untrack-asserts"),
        "v6.10 +untrack-asserts": always("flags-without-lock", "mmap_assert_locked", "vm-pat-cleared"),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v6.16", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def zap(m: Machine) -> None:
    """... and a zap through the reverse map? Does it write at all, and does anybody notice?"""
    probe = open_probe(m, pages=2)
    app, driver = m.process("app"), m.process("driver")
    a = app.mmap(probe.file("remap"), 2)
    before = app.vm_flags(a)

    @m.task(process=driver)
    def zap() -> None:
        probe.unmap_mapping_range(1, 1)
        m.require(app.vm_flags(a) == before, "vm-pat-cleared", "vm_flags have changed, without mmap_lock")
        m.reached("zapped")
