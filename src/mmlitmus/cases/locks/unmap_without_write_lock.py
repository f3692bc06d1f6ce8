"""Is mmap_lock always held for writing where a VMA is torn down?

No. munmap gives the write lock up for the read lock once the VMAs are out of the tree, and unmaps then; exit_mmap
unmaps under the read lock. So untracking cannot clear VM_PAT as every other writer changes vm_flags: it is told whether
the write lock is held (mm_wr_locked), and stores without asking if it is not. ``+untrack-asserts`` does ask.

Nobody can be in the way there: the VMAs are detached, or the mm has no users. The reverse map still finds them, though.
"""

from mmlitmus.api import Machine, always, case, memtypes_at_rest, never, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe

ASSERTED = always("flags-without-lock")
#: +untrack-asserts, by kernel: who looks
ASSERTING = {
    **releases("v5.10", "deb-6.1.192", never, "+untrack-asserts"),
    "v6.6 +untrack-asserts": never,
    "v6.6 +untrack-asserts lockdep": ASSERTED,
    "v6.9 +untrack-asserts lockdep": ASSERTED,
    **releases("v6.10", "deb-6.12.117", ASSERTED, "+untrack-asserts"),
    **releases("v6.10", "deb-6.12.117", ASSERTED, "+untrack-asserts +untrack-in-unmap-vmas"),
}
AS_IT_IS = {
    **releases("v5.10", "deb-7.3.4", never),
    "v6.6 lockdep": never,
    "v6.12 lockdep": never,
    **releases("v6.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
}
SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


@case(
    "locks/unmap-without-write-lock",
    scenario="S-LOCK-03",
    thread="000",
    claims=("C000-42",),
    reach=("unmapped",),
    expect={**AS_IT_IS, **ASSERTING},
    evidence=SOURCE,
)
def munmap(m: Machine) -> None:
    """Does munmap hold mmap_lock for writing when it clears VM_PAT?"""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=1)
    app = m.process("app")
    a = app.mmap(probe.file("remap"), 1)

    @m.task
    def unmap() -> None:
        if app.munmap(a, 1) == 0:
            m.reached("unmapped")


@case(
    "locks/unmap-without-write-lock/exit",
    scenario="S-LOCK-03",
    thread="000",
    claims=("C000-42",),
    reach=("exited",),
    expect={**AS_IT_IS, **ASSERTING},
    evidence=SOURCE,
)
def exit_mmap(m: Machine) -> None:
    """... and exit?"""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=1)
    app = m.process("app")
    app.mmap(probe.file("remap"), 1)

    @m.task
    def exit_() -> None:
        app.exit()
        m.reached("exited")


@case(
    "locks/unmap-without-write-lock/map-over",
    control="locks/unmap-without-write-lock",
    scenario="S-LOCK-03",
    thread="000",
    claims=("C000-42",),
    reach=("mapped over",),
    expect={**AS_IT_IS, **dict.fromkeys(ASSERTING, never)},
    evidence=SOURCE,
)
def map_over(m: Machine) -> None:
    """... and an mmap over it? (Yes: there is no downgrade.)"""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=1)
    app = m.process("app")
    a = app.mmap(probe.file("remap"), 1)

    @m.task
    def mmap() -> None:
        if app.mmap(probe.file("fault_pfn"), 1) == a:
            m.reached("mapped over")
