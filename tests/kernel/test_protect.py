"""mprotect, madvise and mlock on device memory."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.kernel.arch.x86.pgtable import DIRTY, SAVED_DIRTY, SOFT_DIRTY, pte_pfn
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.errno import EACCES, EAGAIN, EINVAL, ENODEV, ENOMEM, EPERM
from mmlitmus.kernel.mm import madvise
from mmlitmus.kernel.mm.mm_types import VM_FAULT_SIGBUS, VM_LOCKED
from mmlitmus.kernel.mm.mmap import PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE
from mmlitmus.kernel.mm.mmu_notifier import mmu_notifier_register
from mmlitmus.kernel.mm.page_alloc import is_zero_pfn

from .world import ERAS, INVALID_FREE, NEW, OLD, PAGE, WALK_FAILED, World, only, run

both = pytest.mark.parametrize("kernel", [OLD, NEW])
everywhere = pytest.mark.parametrize("kernel", ERAS)
RW = PROT_READ | PROT_WRITE


# -- mprotect ---------------------------------------------------------------------------------------------------------
@everywhere
def test_read_only_and_back(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(1, touch=True)
        assert w.p.pte(bar) == 0x80000000FEA00237
        assert w.p.mprotect(bar, 1, PROT_READ) == 0
        assert w.p.pte(bar) == 0x80000000FEA00235
        assert w.p.write(bar) == "SIGSEGV"
        assert w.p.read(bar) == 0x010000ED
        assert w.p.mprotect(bar, 1, RW) == 0
        assert w.p.pte(bar) == 0x80000000FEA00237
        assert w.p.write(bar) == 0

    run(body, kernel)


@pytest.mark.parametrize(("kernel", "dirty"), [("v6.1", DIRTY), ("v6.6", SAVED_DIRTY), ("v6.12", SAVED_DIRTY)])
def test_a_dirty_entry_stops_being_writable(kernel: str, dirty: int) -> None:
    """From 6.6 on a read-only entry is never dirty to the hardware; the bit waits in bit 58."""

    def body(w: World) -> None:
        bar = w.bar(1)
        w.p.write(bar)
        assert w.p.pte(bar) == 0x80000000FEA00277
        w.p.mprotect(bar, 1, PROT_READ)
        assert w.p.pte(bar) == 0x80000000FEA00235 | dirty
        w.p.mprotect(bar, 1, RW)
        assert w.p.pte(bar) == 0x80000000FEA00277

    run(body, kernel)


@everywhere
def test_prot_none(kernel: str) -> None:
    """Not present to the CPU, present to the kernel, and its frame bits are inverted."""

    def body(w: World) -> None:
        bar = w.bar(1, touch=True)
        assert w.p.mprotect(bar, 1, PROT_NONE) == 0
        entry = w.p.pte(bar)
        assert entry & 0xFFF == 0x330
        assert not entry >> 63
        assert entry >> 12 & 0xFFFFFFFFFF == ~0xFEA00 & 0xFFFFFFFFFF
        assert w.p.read(bar) == "SIGSEGV"
        assert w.p.mprotect(bar, 1, RW) == 0
        assert w.p.pte(bar) == 0x80000000FEA00237
        w.p.mprotect(bar, 1, PROT_NONE)
        w.dev.write_command(memory=False)
        assert w.p.pte(bar) == 0

    run(body, kernel)


@both
def test_prot_exec_clears_nx(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(1, touch=True)
        w.p.mprotect(bar, 1, PROT_READ | PROT_EXEC)
        assert w.p.pte(bar) == 0xFEA00235

    run(body, kernel)


@both
def test_a_write_only_mapping_can_be_read(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.p.mmap(w.dev.file, 1, prot=PROT_WRITE)
        assert w.p.read(bar) == 0x010000ED

    run(body, kernel)


@both
def test_soft_dirty_and_accessed_survive(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(1, touch=True)
        w.p.mremap(w(0), 1, 1, to="b")
        w.p.mprotect(w(0, "b"), 1, PROT_READ)
        assert w.p.pte(w(0, "b")) == 0x80000000FEA00235 | SOFT_DIRTY

    run(body, kernel, finds=only(kernel, [OLD], WALK_FAILED))  # ->open of the empty copy


@everywhere
@pytest.mark.parametrize(
    ("first", "pages", "layout", "opened"),
    [
        (0, 1, "a0-a1@0 a1-a4@1", ["a1-a4"]),
        (3, 1, "a0-a3@0 a3-a4@3", ["a0-a3"]),
        (1, 2, "a0-a1@0 a1-a3@1 a3-a4@3", ["a0-a1", "a3-a4"]),
        (0, 4, "a0-a4@0", []),
    ],
)
def test_the_outer_parts_are_new(kernel: str, first: int, pages: int, layout: str, opened: list[str]) -> None:
    """mprotect's splits open the parts that do not change, in every release."""

    def body(w: World) -> None:
        w.p.mmap(w.char.file, 4)
        original = w.vma(w(0))
        del w.char.calls[:]
        assert w.p.mprotect(w(first), pages, PROT_READ) == 0
        assert w.layout() == layout
        assert [at for what, at in w.char.calls if what == "open"] == opened
        assert w.vma(w(first)) is original
        for n in range(4):
            inside = first <= n < first + pages
            assert w.p.vm_flags(w(n)).startswith("rd sh" if inside else "rd wr sh")

    run(body, kernel)


@both
def test_mprotect_errors(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(2)
        w.bar(1, at=w(3))
        assert w.p.mprotect(w(0) + 1, 1, PROT_READ) == -EINVAL
        assert w.p.mprotect(w(0), 1, 16) == -EINVAL
        assert w.p.mprotect(w(0), 0, PROT_READ) == 0
        assert w.p.mprotect(w(5), 1, PROT_READ) == -ENOMEM
        assert w.p.mprotect(w(2), 2, PROT_READ) == -ENOMEM  # begins in a hole: nothing is changed
        assert "wr" in w.p.vm_flags(w(3))
        assert w.p.mprotect(w(0), 4, PROT_READ) == -ENOMEM  # the hole inside: what is before it is changed
        assert "wr" not in w.p.vm_flags(w(0))
        assert "wr" in w.p.vm_flags(w(3))

    run(body, kernel)


def test_what_may_not_be_may_not_become() -> None:
    def body(w: World) -> None:
        w.bar(1)
        assert w.p.mprotect(w(0), 1, RW | PROT_EXEC) == -EACCES
        assert w.p.vm_flags(w(0)).startswith("rd wr sh")

    run(body, "v6.16")
    with pytest.raises(AssertionError):
        run(body, "v6.12")


@both
def test_absent_entries_stay_absent_and_get_the_new_protection_later(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(1)
        w.p.mprotect(bar, 1, PROT_READ)
        assert w.populated() == ""
        w.p.read(bar)
        assert w.p.pte(bar) == 0x80000000FEA00235

    run(body, kernel)


# -- madvise ----------------------------------------------------------------------------------------------------------
REFUSED = {
    "MADV_DONTNEED": EINVAL, "MADV_DONTNEED_LOCKED": EINVAL, "MADV_FREE": EINVAL, "MADV_COLD": EINVAL,
    "MADV_PAGEOUT": EINVAL, "MADV_POPULATE_READ": EINVAL, "MADV_POPULATE_WRITE": EINVAL, "MADV_COLLAPSE": EINVAL,
    "MADV_REMOVE": ENODEV, "MADV_DOFORK": EINVAL, "MADV_WIPEONFORK": EINVAL, "MADV_DODUMP": EINVAL,
    "MADV_HWPOISON": EPERM, "MADV_SOFT_OFFLINE": EPERM, "MADV_GUARD_INSTALL": EINVAL, "MADV_GUARD_REMOVE": EINVAL,
}  # fmt: skip
ACCEPTED = {
    "MADV_NORMAL": "", "MADV_RANDOM": "rr", "MADV_SEQUENTIAL": "sr", "MADV_WILLNEED": "", "MADV_DONTFORK": "dc",
    "MADV_DONTDUMP": "", "MADV_KEEPONFORK": "", "MADV_MERGEABLE": "", "MADV_UNMERGEABLE": "", "MADV_HUGEPAGE": "hg",
    "MADV_NOHUGEPAGE": "nh",
}  # fmt: skip


@everywhere
@pytest.mark.parametrize("advice", REFUSED)
def test_refused_advice(kernel: str, advice: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(2, touch=True)
        before = w.p.vm_flags(bar)
        assert w.p.madvise(bar, 2, getattr(madvise, advice)) == -REFUSED[advice]
        assert w.p.vm_flags(bar) == before
        assert w.populated() == "a0 a1"

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("advice", ACCEPTED)
def test_accepted_advice(kernel: str, advice: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(2, touch=True)
        before = set(w.p.vm_flags(bar).split())
        assert w.p.madvise(bar, 2, getattr(madvise, advice)) == 0
        assert set(w.p.vm_flags(bar).split()) - before == set(ACCEPTED[advice].split())
        assert w.populated() == "a0 a1"

    run(body, kernel)


def test_every_advice_is_in_one_table() -> None:
    known = {name for name in dir(madvise) if name.startswith("MADV_")}
    assert known == {*REFUSED, *ACCEPTED}


@both
def test_random_and_sequential_exclude_each_other(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(1)
        w.p.madvise(bar, 1, madvise.MADV_RANDOM)
        w.p.madvise(bar, 1, madvise.MADV_SEQUENTIAL)
        assert {"sr"} == {"sr", "rr"} & set(w.p.vm_flags(bar).split())
        w.p.madvise(bar, 1, madvise.MADV_NORMAL)
        assert not {"sr", "rr"} & set(w.p.vm_flags(bar).split())

    run(body, kernel)


@both
def test_dontfork_cannot_be_undone(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(3, touch=True)
        assert w.p.madvise(w(1), 1, madvise.MADV_DONTFORK) == 0
        assert w.p.madvise(w(1), 1, madvise.MADV_DOFORK) == -EINVAL
        assert w.layout() == "a0-a1@0 a1-a2@1 a2-a3@2"
        child = w.p.fork("child")
        assert w.layout(child) == "a0-a1@0 a2-a3@2"
        assert child.read(w(1)) == "SIGSEGV"

    run(body, kernel, finds=only(kernel, [OLD], INVALID_FREE))  # ->open of the first part


@both
def test_madvise_errors(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(1)
        w.bar(1, at=w(2))
        assert w.p.madvise(w(0) + 1, 1, madvise.MADV_RANDOM) == -EINVAL
        assert w.p.madvise(w(0), 1, 99) == -EINVAL
        assert w.p.madvise(w(0), 0, madvise.MADV_DONTNEED) == 0
        assert w.p.madvise(w(0), 3, madvise.MADV_RANDOM) == -ENOMEM  # the hole; the rest is done
        assert "rr" in w.p.vm_flags(w(0))
        assert "rr" in w.p.vm_flags(w(2))
        assert w.p.madvise(w(0), 3, madvise.MADV_DONTNEED) == -EINVAL

    run(body, kernel)


@everywhere
def test_advice_to_a_mixed_map(kernel: str) -> None:
    """Recorded on 5.10.262, 6.1.192, 6.12.117 and 7.3.4, but for MADV_COLLAPSE, which was read there."""

    def body(w: World) -> None:
        a = w.p.mmap(open_probe(w.m).file("mixed", "", "hole"), 2)
        assert w.p.madvise(a, 1, madvise.MADV_FREE) == -EINVAL
        assert w.p.madvise(a, 1, madvise.MADV_COLLAPSE) == -EINVAL
        assert w.p.madvise(a, 1, madvise.MADV_COLD) == 0
        assert w.p.madvise(a, 1, madvise.MADV_PAGEOUT) == 0
        assert w.p.madvise(a, 1, madvise.MADV_DONTFORK) == 0
        assert w.p.madvise(a, 1, madvise.MADV_DOFORK) == (-EINVAL if kernel in ("v7.3", "deb-7.3.4") else 0)

    run(body, kernel)


@everywhere
def test_advice_to_a_locked_mapping(kernel: str) -> None:
    """A mapping whose driver sets no flag can be locked; what would take its pages is refused then."""

    def body(w: World) -> None:
        a = w.p.mmap(open_probe(w.m).file("none"), 1)
        assert w.p.mlock(a, 1) == -ENOMEM, "it is locked, and cannot be faulted in"
        for advice in (madvise.MADV_DONTNEED, madvise.MADV_COLD, madvise.MADV_PAGEOUT):
            assert w.p.madvise(a, 1, advice) == -EINVAL
        assert w.p.munlock(a, 1) == 0
        for advice in (madvise.MADV_DONTNEED, madvise.MADV_COLD, madvise.MADV_PAGEOUT):
            assert w.p.madvise(a, 1, advice) == 0

    run(body, kernel)


@everywhere
def test_poisoning_is_looked_at_last(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(1)
        assert w.p.madvise(w(0), 1, madvise.MADV_HWPOISON) == -EPERM
        assert w.p.madvise(w(0), 0, madvise.MADV_HWPOISON) == 0
        assert w.p.madvise(w(0) + 1, 1, madvise.MADV_HWPOISON) == -EINVAL

    run(body, kernel)


def test_dontneed_is_for_mixedmaps() -> None:
    """Only PFNMAP is refused: a MIXEDMAP VMA is emptied."""
    from mmlitmus.kernel.mm.memory import vmf_insert_pfn
    from mmlitmus.kernel.mm.mm_types import VM_FAULT_NOPAGE, VM_MIXEDMAP

    def fault(vmf: object) -> int:
        vmf_insert_pfn(vmf.vma, vmf.address, 0xFEA00)  # type: ignore[attr-defined]
        return VM_FAULT_NOPAGE

    def body(w: World) -> None:
        w.char.flags, w.char.on_fault = VM_MIXEDMAP, fault
        at = w.p.mmap(w.char.file, 1)
        w.p.read(at)
        assert w.populated() == "a0"
        assert w.p.madvise(at, 1, madvise.MADV_DONTNEED) == 0
        assert w.populated() == ""

    run(body)


def test_advice_without_memory_is_eagain() -> None:
    def body(w: World) -> None:
        assert w.p.madvise(w(0), 1, madvise.MADV_DONTFORK) in (0, -EAGAIN)

    run(body, before=lambda w: w.bar(2), once=False, failures=1)


@everywhere
@pytest.mark.parametrize("locked", [False, True])
def test_locked_memory_that_may_be_written_now(kernel: str, locked: bool) -> None:
    """Seen on 6.18: of locked memory each page becomes the process's own when mprotect allows stores to it, touched
    before or not. Other memory waits for the store.
    """

    def body(w: World) -> None:
        at = w.p.mmap_anon(3, prot=PROT_READ)
        w.p.read(at)
        if locked:
            assert w.p.mlock(at, 2) == 0
            assert is_zero_pfn(pte_pfn(w.p.pte(w(1))))
        assert w.p.mprotect(at, 3, RW) == 0
        own = [bool(w.p.pte(w(n))) and not is_zero_pfn(pte_pfn(w.p.pte(w(n)))) for n in range(3)]
        assert own == [locked, locked, False]
        assert w.p.mprotect(at, 1, PROT_READ) == 0
        before = w.p.pte(at)
        assert w.p.mprotect(at, 1, RW) == 0
        assert pte_pfn(w.p.pte(at)) == pte_pfn(before)

    run(body, kernel)


def test_locked_memory_and_no_page_for_it() -> None:
    """Nobody asks whether it could be populated: mprotect has succeeded."""

    def before(w: World) -> None:
        w.p.mmap_anon(1, prot=PROT_READ)
        w.p.mlock(w(0), 1)

    def body(w: World) -> None:
        assert w.p.mprotect(w(0), 1, RW) == 0

    run(body, before=before, once=False, failures=1)


# -- mlock ------------------------------------------------------------------------------------------------------------
@everywhere
def test_mlock_skips_special_vmas(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(4)
        before = w.p.vm_flags(w(0))
        assert w.p.mlock(w(1), 2) == 0
        assert w.layout() == "a0-a4@0"
        assert w.p.vm_flags(w(0)) == before
        assert w.p.munlock(w(1), 2) == 0
        assert w.p.mlock(w(1) + 1, 0) == 0
        assert w.p.mlock(w(3), 2) == -ENOMEM
        assert w.p.mlock(w(3) + 5, 1) == -ENOMEM  # the last byte lies in the next page

    run(body, kernel)


def test_mlock_of_an_ordinary_vma_splits_it() -> None:
    def body(w: World) -> None:
        w.char.flags = 0
        w.char.on_fault = lambda vmf: VM_FAULT_SIGBUS
        w.p.mmap(w.char.file, 3)
        assert w.p.mlock(w(1), 1) == -ENOMEM, "it is locked, and cannot be faulted in"
        assert w.layout() == "a0-a1@0 a1-a2@1 a2-a3@2"
        assert [w.vma(w(n)).peek("vm_flags") & VM_LOCKED for n in range(3)] == [0, VM_LOCKED, 0]
        assert w.p.munlock(w(0), 3) == 0
        assert PAGE
        assert not any(w.vma(w(n)).peek("vm_flags") & VM_LOCKED for n in range(3))

    run(body)


@pytest.mark.parametrize("kernel", ERAS)
def test_madv_free_is_for_anonymous_memory(kernel: str) -> None:
    """Seen on 6.12.117: a MIXEDMAP, which other advice of this kind may be given, refuses it."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        w.p.mmap(w.probe.file("mixed"), 2)
        assert w.p.madvise(w(0), 2, madvise.MADV_COLD) == 0
        assert w.p.madvise(w(0), 2, madvise.MADV_FREE) == -EINVAL

    run(body, kernel)


class Listener:
    """How mmap_lock is held by who takes pages away."""

    def __init__(self, mm: Any) -> None:
        self.mm = mm
        self.held: list[Any] = []

    def invalidate_range_start(self, told: Any) -> None:
        self.held.append(self.mm.mmap_lock.held())

    def invalidate_range_end(self, told: Any) -> None:
        pass


@pytest.mark.parametrize(("kernel", "one"), [("v6.12", "read"), ("v6.16", "read"), ("v6.18", None), ("v7.3", None)])
@pytest.mark.parametrize("advice", [madvise.MADV_DONTNEED, madvise.MADV_DONTNEED_LOCKED, madvise.MADV_FREE])
def test_what_is_locked_while_pages_go(kernel: str, one: str | None, advice: int) -> None:
    """From 6.17 on the VMA's lock alone, if it holds all of the range. Else mmap_lock."""

    def body(w: World) -> None:
        w.p.mmap_anon(2)
        w.p.mmap_anon(2, at=w(3))
        w.p.write(w(0))
        listener = Listener(w.p.mm)
        mmu_notifier_register(listener, w.p.mm)
        assert w.p.madvise(w(0), 2, advice) == 0
        assert w.p.madvise(w(0), 5, advice) == -ENOMEM
        assert listener.held == [one, "read", "read"]

    run(body, kernel)
