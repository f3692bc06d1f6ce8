"""May a notifier's subscriber take mmap_lock when MADV_DONTNEED takes pages away?

Up to 6.16 it deadlocks with a writer that has queued in between, for MADV_DONTNEED has mmap_lock itself. From 6.17 on
MADV_DONTNEED of a range in one VMA has that VMA's lock instead, and a writer that has no business with the VMA is no
obstacle. One that has would be, which lockdep says.
"""

from typing import Any

from mmlitmus.api import (
    MADV_DONTFORK,
    MADV_DONTNEED,
    Machine,
    Process,
    case,
    mmap_read_lock,
    mmap_read_unlock,
    mmu_notifier_register,
    releases,
    sometimes,
)

RECURSIVE = sometimes("deadlock mmap_lock", "inversion mmap_lock -> mmap_lock")
CROSSED = sometimes("inversion mmap_lock -> vm_lock -> mmap_lock")


class Subscriber:
    """Takes mmap_lock whenever translations of the process go."""

    def __init__(self, app: Process) -> None:
        self.mm = app.mm

    def invalidate_range_start(self, *told: Any) -> None:
        mmap_read_lock(self.mm)
        mmap_read_unlock(self.mm)

    def invalidate_range_end(self, *told: Any) -> None:
        pass


@case(
    "locks/dontneed-notifier",
    expect={
        **releases("v5.10", "deb-6.16.12", RECURSIVE),
        **releases("v6.18", "deb-7.3.4", CROSSED),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source"),
)
def dontneed_notifier(m: Machine) -> None:
    app = m.process("app")
    at = app.mmap_anon(1)
    other = app.mmap_anon(1, at="b")
    app.write(at)
    mmu_notifier_register(Subscriber(app), app.mm)

    @m.task
    def dontneed() -> None:
        app.madvise(at, 1, MADV_DONTNEED)

    @m.task
    def writer() -> None:
        app.madvise(other, 1, MADV_DONTFORK)
