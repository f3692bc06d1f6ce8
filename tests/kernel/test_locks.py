"""Which lock guards what, and what the model says when it is not held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore.findings import report
from mmlitmus.explore.runtime import current
from mmlitmus.kernel.mm.memory import remap_pfn_range
from mmlitmus.kernel.mm.memory_zap import unmap_mapping_range
from mmlitmus.kernel.mm.mm_types import VM_LOCKED, VM_MIXEDMAP, VM_PFNMAP, vma_pages
from mmlitmus.kernel.mm.mmap import mmput
from mmlitmus.kernel.mm.mmap_lock import (
    lock_vma_under_rcu,
    mmap_read_lock,
    mmap_read_trylock,
    mmap_read_unlock,
    mmap_write_downgrade,
    mmap_write_lock,
    mmap_write_unlock,
    vma_end_read,
    vma_start_read,
    vma_start_write,
)
from mmlitmus.kernel.mm.rmap import i_mmap_lock_read, i_mmap_lock_write, i_mmap_unlock_read, i_mmap_unlock_write
from mmlitmus.kernel.mm.vma import find_vma, vma_lookup
from mmlitmus.kernel.mm.vma_flags import vm_flags_clear, vm_flags_reset, vm_flags_set

from .world import ERAS, OLD, PAGE, World, found, run, search

everywhere = pytest.mark.parametrize("kernel", ERAS)


# -- fields -----------------------------------------------------------------------------------------------------------
FIELDS = ("vm_start", "vm_end", "vm_pgoff")


@pytest.mark.parametrize("field", FIELDS)
def test_an_address_field_without_a_lock(field: str) -> None:
    def body(w: World) -> None:
        w.bar(1)
        getattr(w.vma(w(0)), field)

    run(body, finds=[f"{field} read without *"])


Step = Callable[[World], None]


def under(lock: Step, unlock: Step, field: str, write: bool) -> Step:
    def body(w: World) -> None:
        w.bar(2)
        vma = w.vma(w(0))
        lock(w)
        value = getattr(vma, field)
        if write:
            setattr(vma, field, value)
        unlock(w)

    return body


LOCKS: dict[str, tuple[Callable[[World], None], Callable[[World], None]]] = {
    "mmap R": (lambda w: mmap_read_lock(w.p.mm), lambda w: mmap_read_unlock(w.p.mm)),
    "mmap W": (lambda w: mmap_write_lock(w.p.mm), lambda w: mmap_write_unlock(w.p.mm)),
    "rmap R": (lambda w: i_mmap_lock_read(w.dev.mapping), lambda w: i_mmap_unlock_read(w.dev.mapping)),
    "rmap W": (lambda w: i_mmap_lock_write(w.dev.mapping), lambda w: i_mmap_unlock_write(w.dev.mapping)),
    "vma R": (lambda w: start_read(w), lambda w: vma_end_read(w.vma(w(0)))),
}


def start_read(w: World) -> None:
    assert vma_start_read(w.vma(w(0)))


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("field", FIELDS)
def test_any_of_three_locks_allows_reading(lock: str, field: str) -> None:
    run(under(*LOCKS[lock], field, False))


@pytest.mark.parametrize(
    ("lock", "missing"),
    [
        ("mmap R", "vm_mm.mmap_lock and rmap_lock"),
        ("mmap W", "rmap_lock"),
        ("rmap R", "vm_mm.mmap_lock and rmap_lock"),
        ("rmap W", "vm_mm.mmap_lock"),
        ("vma R", "vm_mm.mmap_lock and rmap_lock"),
    ],
)
def test_writing_needs_both(lock: str, missing: str) -> None:
    ran = run(under(*LOCKS[lock], "vm_start", True), finds=["vm_start written without *"])
    assert ran.findings[0].kind == "precondition"
    assert ran.findings[0].message.endswith(f"written without {missing}")


def test_a_vma_that_nobody_can_reach_needs_no_lock() -> None:
    def body(w: World) -> None:
        seen = []
        w.char.on_mmap = lambda vma: seen.append(vma_pages(vma)) or 0  # type: ignore[func-returns-value]
        w.p.mmap(w.char.file, 3)
        assert seen == [3]

    run(body)


def test_the_reverse_map_needs_its_lock() -> None:
    def body(w: World) -> None:
        w.bar(1)
        list(w.dev.mapping.i_mmap)

    run(body, finds=["*i_mmap walked *"])


@pytest.mark.parametrize(
    ("kernel", "find", "lookup"),
    [("v5.10", False, False), ("v5.10 lockdep", False, False), ("v5.14 lockdep", False, False), ("v5.19", False, False),
     ("v5.19 lockdep", True, True), ("v6.1", False, False), ("v6.1 lockdep", True, False), ("v6.9", False, False),
     ("v6.10", True, False), ("v7.3 lockdep", True, False)],
)  # fmt: skip
def test_lookup_needs_mmap_lock(kernel: str, find: bool, lookup: bool) -> None:
    """Nobody looks up to 5.14, lockdep up to 6.9, every build since; vma_lookup asks nobody from 6.1 on. It is wrong
    everywhere.
    """
    for one, warns in ((find_vma, find), (vma_lookup, lookup)):

        def body(w: World, one: Any = one) -> None:
            one(w.p.mm, w(0))

        wrong = "mm_mt read without mmap_lock"
        ran = run(body, kernel, finds=[wrong, "mmap_assert_locked"] if warns else [wrong])
        assert {f.kind for f in ran.findings} == ({"precondition", "WARN"} if warns else {"precondition"})


def test_a_lookup_without_the_lock_meets_what_others_do() -> None:
    """The VMA that it finds is freed while it is looked at."""

    def build(w: World) -> None:
        bar = w.bar(1)

        def look() -> None:
            vma = vma_lookup(w.p.mm, bar)
            if vma is None or not vma.vm_flags:
                w.m.reached("there was none")

        w.m.task(look, process=w.p)
        w.m.task(lambda: w.p.munmap(bar, 1), process=w.p, name="munmap")

    results = search(build, OLD)
    assert {"mm_mt read without mmap_lock", "use-after-free VmArea"} <= found(results)
    assert "there was none" in results.reached


def test_the_gate_needs_memory_lock() -> None:
    def body(w: World) -> None:
        w.dev.memory_enabled()

    run(body, finds=["current_state read *", "pm_runtime_engaged read *", "vconfig_memory read *"])


def test_a_freed_vma() -> None:
    def body(w: World) -> None:
        w.bar(1)
        vma = w.vma(w(0))
        w.p.munmap(w(0), 1)
        mmap_read_lock(w.p.mm)
        vma_pages(vma)
        mmap_read_unlock(w.p.mm)

    run(body, finds=["use-after-free VmArea"])


# -- vm_flags ---------------------------------------------------------------------------------------------------------
def flags_under(mode: str) -> Callable[[World], None]:
    def body(w: World) -> None:
        w.char.flags = 0
        w.p.mmap(w.char.file, 1)
        vma = w.vma(w(0))
        if mode == "read":
            mmap_read_lock(w.p.mm)
        elif mode == "write":
            mmap_write_lock(w.p.mm)
        vm_flags_set(vma, VM_LOCKED)
        assert vma.vm_flags & VM_LOCKED
        vm_flags_clear(vma, VM_LOCKED)
        assert not vma.vm_flags & VM_LOCKED
        flags = vma.vm_flags
        vm_flags_reset(vma, flags, flags)
        if mode == "read":
            mmap_read_unlock(w.p.mm)
        elif mode == "write":
            mmap_write_unlock(w.p.mm)

    return body


@pytest.mark.parametrize("mode", ["nothing", "read", "write"])
@pytest.mark.parametrize(
    ("kernel", "asserts"),
    [("v6.1", False), ("v6.1 lockdep", False), ("v6.6", False), ("v6.6 lockdep", True), ("v6.9", False),
     ("v6.10", True), ("v6.12", True), ("v6.12 lockdep", True)],
)  # fmt: skip
def test_who_looks_at_a_vm_flags_write(kernel: str, asserts: bool, mode: str) -> None:
    """Up to 6.2 nobody; 6.3 to 6.9 a lockdep build; from 6.10 on every build."""
    run(flags_under(mode), kernel, finds=["flags-without-lock"] if asserts and mode != "write" else [])


@pytest.mark.parametrize("kernel", [OLD, "v6.12"])
@pytest.mark.parametrize(
    ("flags", "write", "wrong"),
    [(VM_MIXEDMAP, True, True), (0, False, True), (0, True, False)],
    ids=["what it is changes", "under the read lock", "it is made one"],
)
def test_what_a_linked_vma_is_does_not_change(kernel: str, flags: int, write: bool, wrong: bool) -> None:
    """The model reads PFNMAP and its like without an event, which is sound only if nobody changes them late. Whose
    driver has said nothing of it may still be made one, by a holder of mmap_lock W.
    """

    def body(w: World) -> None:
        w.char.flags = flags
        w.p.mmap(w.char.file, 1)
        (mmap_write_lock if write else mmap_read_lock)(w.p.mm)
        vm_flags_set(w.vma(w(0)), VM_PFNMAP)
        (mmap_write_unlock if write else mmap_read_unlock)(w.p.mm)

    asserts = not write and kernel == "v6.12"
    names = (["lasting flag changed"] if wrong else []) + (["flags-without-lock"] if asserts else [])
    ran = run(body, kernel, finds=names)
    assert all(f.kind == "precondition" for f in ran.findings if f.name == "lasting flag changed")


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v6.12", "v7.3"])
def test_filling_a_linked_vma_later(kernel: str) -> None:
    """An ioctl remaps into a VMA that is linked: a zap beside it finds it filled, or not yet. What is wrong is that it
    reads the flags meanwhile, and that VM_PAT is there before the entries are.
    """

    def build(w: World) -> None:
        w.char.flags = 0
        at = w.p.mmap(w.char.file, 1)

        def fill() -> None:
            mmap_write_lock(w.p.mm)
            vma = vma_lookup(w.p.mm, at)
            assert vma is not None
            assert remap_pfn_range(vma, at, w.frame(), PAGE, vma.vm_page_prot) == 0
            mmap_write_unlock(w.p.mm)

        w.m.task(fill, process=w.p)
        w.m.task(lambda: unmap_mapping_range(w.char.mapping, 0, 0), process=w.p, name="zap")
        w.m.check(lambda: w.m.reached(f"mapped: {w.populated() or 'nothing'}") or [])

    results = search(build, kernel)
    assert found(results) == ({"race on vm_flags"} if kernel == "v7.3" else {"race on vm_flags", "untrack-walk-failed"})
    assert {"mapped: a0", "mapped: nothing"} <= results.reached


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v6.12", "v7.3"])
def test_close_may_change_what_the_driver_keeps_in_a_vma(kernel: str) -> None:
    """->close comes when nobody else can reach the VMA: munmap has only shared mmap_lock by then."""

    def body(w: World) -> None:
        held: list[Any] = []

        def close(vma: Any) -> None:
            held.append(w.p.mm.mmap_lock.held())
            vma.vm_private_data = "closed"

        w.char.close = close  # type: ignore[method-assign]
        w.p.mmap(w.char.file, 3)
        w.p.munmap(w(0), 1)
        w.p.mmap(w.char.file, 1, at=w(1))
        w.p.exit()
        assert held[:2] == ["read", "write"]
        assert len(held) == 4

    run(body, kernel)


def test_a_write_under_the_read_lock_locks_the_faults_out() -> None:
    """The VMA looks write-locked to whoever tries its lock, until the next writer of mmap_lock has come and gone."""

    def body(w: World) -> None:
        w.char.flags = 0
        w.p.mmap(w.char.file, 1)
        vma = w.vma(w(0))
        assert lock_vma_under_rcu(w.p.mm, w(0)) is vma
        vma_end_read(vma)
        mmap_read_lock(w.p.mm)
        vm_flags_set(vma, VM_LOCKED)
        mmap_read_unlock(w.p.mm)
        assert lock_vma_under_rcu(w.p.mm, w(0)) is None
        mmap_write_lock(w.p.mm)
        mmap_write_unlock(w.p.mm)
        assert lock_vma_under_rcu(w.p.mm, w(0)) is vma
        vma_end_read(vma)

    run(body, "v6.6")


def test_two_unlocked_writers_lose_an_update() -> None:
    def build(w: World) -> None:
        w.char.flags = 0
        w.p.mmap(w.char.file, 1)
        vma = w.vma(w(0))

        @w.m.task
        def lock() -> None:
            vm_flags_set(vma, VM_LOCKED)

        @w.m.task
        def seq() -> None:
            vm_flags_set(vma, 1 << 15)

        def check() -> Any:
            if vma.peek("vm_flags") & (VM_LOCKED | 1 << 15) != VM_LOCKED | 1 << 15:
                report("invariant", "lost", "")
            return []

        w.m.check(check)

    assert "lost" in found(search(build, "v6.1"))


# -- the VMA lock -----------------------------------------------------------------------------------------------------
def test_the_vma_lock_by_hand() -> None:
    def body(w: World) -> None:
        w.bar(1)
        mm, vma = w.p.mm, w.vma(w(0))
        assert vma_start_read(vma)
        vma_end_read(vma)
        mmap_write_lock(mm)
        assert vma_start_read(vma)  # W alone does not keep the readers of a VMA out
        vma_end_read(vma)
        vma_start_write(vma)
        assert not vma_start_read(vma)
        vma_start_write(vma)  # a second time is nothing
        mmap_write_downgrade(mm)
        assert vma_start_read(vma)
        vma_end_read(vma)
        mmap_read_unlock(mm)

    run(body)


def test_there_is_no_vma_lock_before_64() -> None:
    def body(w: World) -> None:
        w.bar(1)
        mmap_write_lock(w.p.mm)
        before = w.p.mm.peek("mm_lock_seq"), w.vma(w(0)).peek("vm_lock_seq")
        vma_start_write(w.vma(w(0)))
        mmap_write_unlock(w.p.mm)
        assert (w.p.mm.peek("mm_lock_seq"), w.vma(w(0)).peek("vm_lock_seq")) == before

    run(body, OLD)


def test_a_writer_waits_for_the_readers() -> None:
    """Nobody is inside the VMA once vma_start_write has returned, and nobody gets in until mmap_lock W is given up."""

    def build(w: World) -> None:
        w.bar(1)
        vma = w.vma(w(0))
        inside: list[str] = []

        @w.m.task
        def reader() -> None:
            if vma_start_read(vma):
                inside.append(current().name)
                w.m.reached("the reader got in")
                vma.vm_lock_seq  # noqa: B018 - an event: something that takes time
                inside.remove(current().name)
                vma_end_read(vma)
            else:
                w.m.reached("the reader was sent away")

        @w.m.task
        def writer() -> None:
            mmap_write_lock(w.p.mm)
            vma_start_write(vma)
            w.m.require(not inside, "somebody is inside", "")
            vma.vm_lock_seq  # noqa: B018
            w.m.require(not inside, "somebody is inside", "")
            mmap_write_unlock(w.p.mm)

    results = search(build)
    assert found(results) == set()
    assert {"the reader got in", "the reader was sent away"} <= results.reached


@pytest.mark.parametrize("change", ["munmap", "mprotect", "mremap"])
def test_looking_a_vma_up_against_a_change(change: str) -> None:
    """Who has read-locked a VMA has one that is alive and contains the address."""

    def build(w: World) -> None:
        w.bar(2)

        @w.m.task
        def look_up() -> None:
            vma = lock_vma_under_rcu(w.p.mm, w(1))
            if vma is None:
                w.m.reached("not found")
                return
            w.m.reached("found")
            w.m.require(vma.vm_start <= w(1) < vma.vm_end, "elsewhere", "")
            w.m.require(not vma.freed, "freed", "")
            vma_end_read(vma)

        @w.m.task
        def changes() -> None:
            if change == "munmap":
                w.p.munmap(w(1), 1)
            elif change == "mprotect":
                w.p.mprotect(w(1), 1, 1)
            else:
                w.p.mremap(w(1), 1, 1, to="b")

    results = search(build)
    assert found(results) == set()
    assert {"found", "not found"} <= results.reached


def test_a_freed_vma_waits_for_rcu() -> None:
    """Somebody who has found it under RCU may still look at its lock."""

    def build(w: World) -> None:
        w.bar(1)

        @w.m.task
        def look_up() -> None:
            vma = lock_vma_under_rcu(w.p.mm, w(0))
            if vma is not None:
                vma_end_read(vma)

        @w.m.task
        def munmap() -> None:
            w.p.munmap(w(0), 1)

    assert found(search(build)) == set()


# -- mmap_lock --------------------------------------------------------------------------------------------------------
def test_trylock_and_downgrade() -> None:
    def body(w: World) -> None:
        mm = w.p.mm
        mmap_write_lock(mm)
        assert not mmap_read_trylock(mm)
        mmap_write_downgrade(mm)
        assert mm.mmap_lock.held() == "read"
        mmap_read_unlock(mm)
        assert mmap_read_trylock(mm)
        mmap_read_unlock(mm)

    run(body)


def test_unlocking_what_is_not_held() -> None:
    def body(w: World) -> None:
        mmap_read_unlock(w.p.mm)

    run(body, finds=["bad unlock balance"])


@everywhere
def test_every_lock_is_given_back(kernel: str) -> None:
    """Every call of the syscall surface, and every operation of the device, returns holding nothing."""

    def body(w: World) -> None:
        def nothing_held() -> None:
            assert current().held == []

        calls: list[Callable[[], Any]] = [
            lambda: w.bar(4, touch=True),
            lambda: w.p.mmap(w.dev.file, 9),
            lambda: w.p.mprotect(w(1), 1, 1),
            lambda: w.p.mprotect(w(1), 9, 1),
            lambda: w.p.mprotect(w(9), 1, 1),
            lambda: w.p.madvise(w(1), 1, 10),
            lambda: w.p.madvise(w(1), 1, 4),
            lambda: w.p.madvise(w(9), 1, 0),
            lambda: w.p.mlock(w(0), 1),
            lambda: w.p.mlock(w(9), 1),
            lambda: w.p.mremap(w(0), 1, 1, to="b"),
            lambda: w.p.mremap(w(2), 1, 2),
            lambda: w.p.mremap(w(2), 2, 1),
            lambda: w.p.mremap(w(9), 1, 1),
            lambda: w.p.mremap(w(2), 2, 2, to="c"),
            lambda: w.p.read(w(2)),
            lambda: w.p.read(w(9)),
            lambda: w.p.pin_mmio(w(2)),
            lambda: w.p.pin_mmio(w(9)),
            lambda: w.dev.write_command(memory=False),
            lambda: w.p.read(w(2)),
            lambda: w.dev.read_register(w.p, 0),
            lambda: w.dev.write_command(memory=True),
            lambda: w.dev.reset(),
            lambda: w.dev.hot_reset(),
            lambda: w.dev.low_power_entry(engage=True),
            lambda: w.dev.low_power_entry(engage=True),
            lambda: w.dev.low_power_entry(engage=False),
            lambda: w.p.fork("child").exit(),  # type: ignore[union-attr]
            lambda: w.p.munmap(w(0), 1),
            lambda: w.p.munmap(w(2), 1),
            lambda: mmput(w.p.mm),
        ]
        for call in calls:
            call()
            nothing_held()

    run(body, kernel)
