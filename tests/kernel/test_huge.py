"""2M leaves: who gets one, what it looks like, and that nothing but the whole of it can be changed."""

from __future__ import annotations

import pytest

from mmlitmus.kernel.arch.x86.pgtable import SOFT_DIRTY
from mmlitmus.kernel.mm import madvise
from mmlitmus.kernel.mm.huge_memory import vmf_insert_pfn_pmd
from mmlitmus.kernel.mm.memory import pmd_offset
from mmlitmus.kernel.mm.memory_zap import unmap_mapping_range, zap_vma_ptes
from mmlitmus.kernel.mm.mm_types import VM_FAULT_NOPAGE, VM_FAULT_SIGBUS, VM_IO, VM_MIXEDMAP, VM_PFNMAP, VmOperations
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, PROT_NONE, PROT_READ
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock

from .world import HUGE, PAGE, World, found, run, search

LEAF = 0x80000000FEA002B7


def huge(w: World, pages: int = 512, at: str | int = "a") -> int:
    """The BAR mapped and touched: a leaf for each whole 2M."""
    bar = w.p.mmap(w.dev.file, pages, at=at)
    for n in range(0, pages, 512):
        w.p.read(bar + n * PAGE)
    return bar


@pytest.mark.parametrize(("kernel", "leaf"), [("v6.10", False), ("v6.12", True), ("v6.16", True)])
def test_a_leaf(kernel: str, leaf: bool) -> None:
    def body(w: World) -> None:
        bar = huge(w)
        assert w.p.pte(bar) == (LEAF if leaf else 0x80000000FEA00237)
        assert w.p.read(bar + 5 * PAGE) == 0
        w.p.write(bar + 7 * PAGE)
        assert w.p.pte(bar) == (LEAF | 0x40 if leaf else 0x80000000FEA00237)

    run(body, kernel, pages=512)


@pytest.mark.parametrize(
    ("at", "pages", "offset"), [(0, 511, 0), (0x1000, 512, 0), (0, 512, 1)], ids=["short", "unaligned", "frame"]
)
def test_what_does_not_fit_gets_pages(at: int, pages: int, offset: int) -> None:
    def body(w: World) -> None:
        bar = w.p.mmap(w.dev.file, pages, at=w(0) + at, offset=offset)
        w.p.read(bar)
        assert w.p.pte(bar) & 0xFFF == 0x237
        assert w.p.pte(bar) >> 12 & 0xFFFFF == w.frame(offset)

    run(body, pages=520)


def test_a_table_that_is_there_stays() -> None:
    """Once a 2M slot has a PTE table, its faults are small."""

    def body(w: World) -> None:
        bar = w.p.mmap(w.dev.file, 512)
        w.p.madvise(bar, 512, madvise.MADV_NOHUGEPAGE)
        w.p.read(bar)
        assert w.p.pte(bar) & 0xFFF == 0x237
        w.p.madvise(bar, 512, madvise.MADV_HUGEPAGE)
        w.dev.write_command(memory=False)
        w.dev.write_command(memory=True)
        w.p.read(bar)
        assert w.p.pte(bar) & 0xFFF == 0x237

    run(body, pages=512)


def test_a_leaf_comes_back_as_a_leaf() -> None:
    def body(w: World) -> None:
        bar = huge(w)
        w.dev.write_command(memory=False)
        assert w.populated() == ""
        assert w.p.read(bar) == "SIGBUS"
        w.dev.write_command(memory=True)
        w.p.read(bar)
        assert w.p.pte(bar) == LEAF

    run(body, pages=512)


def test_a_leaf_moves_whole() -> None:
    def body(w: World) -> None:
        bar = huge(w)
        w.p.mremap(bar, 512, 512, to="b")
        assert w.p.pte(w(0, "b")) == LEAF | SOFT_DIRTY
        assert w.p.pte(bar) == 0

    run(body, pages=512)


def test_a_leaf_that_cannot_move_whole_goes() -> None:
    def body(w: World) -> None:
        bar = huge(w)
        w.p.mremap(bar, 512, 512, to=w(1, "b"))
        assert w.populated() == ""
        assert w.p.read(w(1, "b")) == 0x010000ED

    run(body, pages=512)


def test_a_leaf_goes_with_its_unmapping() -> None:
    def body(w: World) -> None:
        bar = huge(w, 1024)
        assert w.populated() == "a0 a512"
        w.p.munmap(bar, 512)
        assert w.populated() == "a512"
        w.p.munmap(w(600), 1)  # in its middle: all of it goes, and is faulted again in pages
        assert w.populated() == ""
        assert w.p.read(w(600)) == "SIGSEGV"
        w.p.read(w(599))
        assert w.p.pte(w(599)) & 0xFFF == 0x237

    run(body, pages=1024)


@pytest.mark.parametrize("how", ["madvise", "mprotect"])
def test_a_leaf_does_not_lie_across_two_vmas(how: str) -> None:
    """A split clears it, and flushes at once: a part that is DONTFORK cannot be reached by the child."""

    def body(w: World) -> None:
        bar = huge(w)
        if how == "madvise":
            w.p.madvise(w(256), 256, madvise.MADV_DONTFORK)
        else:
            w.p.mprotect(w(256), 256, PROT_READ)
        assert w.layout() == "a0-a256@0 a256-a512@256"
        assert w.populated() == ""
        child = w.p.fork("child")
        assert w.populated(child) == ""
        w.p.read(bar)
        assert w.populated() == "a0"

    run(body, pages=512)


def test_a_split_at_its_edge_spares_a_leaf() -> None:
    def body(w: World) -> None:
        huge(w, 1024)
        w.p.madvise(w(512), 512, madvise.MADV_DONTFORK)
        assert w.populated() == "a0 a512"
        assert w.populated(w.p.fork("child")) == "a0"

    run(body, pages=1024)


def test_mprotect_of_a_whole_leaf_changes_it() -> None:
    def body(w: World) -> None:
        bar = huge(w)
        w.p.mprotect(bar, 512, PROT_READ)
        assert w.p.pte(bar) == 0x80000000FEA002B5
        assert w.p.write(bar) == "SIGSEGV"
        w.p.mprotect(bar, 512, PROT_NONE)
        assert w.p.pte(bar) & 0xFFF == 0x3B0
        assert w.p.read(bar) == "SIGSEGV"
        w.p.mprotect(bar, 512, PROT_READ | 2)
        assert w.p.pte(bar) == LEAF

    run(body, pages=512)


def test_zapping_a_part_takes_the_leaf() -> None:
    def body(w: World) -> None:
        bar = huge(w)
        mmap_read_lock(w.p.mm)
        zap_vma_ptes(w.vma(bar), w(3), PAGE)
        mmap_read_unlock(w.p.mm)
        assert w.populated() == ""
        w.p.read(bar)
        assert w.p.pte(bar) == LEAF
        unmap_mapping_range(w.dev.mapping, 5 * PAGE, PAGE)
        assert w.populated() == ""

    run(body, pages=512)


def insert(w: World, address: int, pfn: int) -> int:
    mmap_read_lock(w.p.mm)
    result = vmf_insert_pfn_pmd(w.vma(w(0)), pmd_offset(w.p.mm, address), address, pfn)
    mmap_read_unlock(w.p.mm)
    return result


@pytest.mark.parametrize(
    ("flags", "how", "bug"),
    [
        (VM_IO, {}, "insert-pfn-vma-type"),
        (VM_PFNMAP | VM_MIXEDMAP, {}, "insert-pfn-vma-type"),
        (VM_PFNMAP, {"flags": MAP_PRIVATE}, "insert-pfn-cow"),
    ],
)
def test_insert_bugs(flags: int, how: dict[str, int], bug: str) -> None:
    def body(w: World) -> None:
        w.char.flags = flags
        w.p.mmap(w.char.file, 512, **how)  # type: ignore[arg-type]
        insert(w, w(0), 0x200)

    run(body, finds=[bug])


def test_insert_is_idempotent() -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 512)
        assert insert(w, w(3), 0xFD000) == VM_FAULT_NOPAGE
        first = w.p.pte(w(0))
        assert insert(w, w(0), 0xFD200) == VM_FAULT_NOPAGE
        assert w.p.pte(w(0)) == first == 0x80000000FD0002B7
        assert insert(w, w(512), 0xFD400) == VM_FAULT_SIGBUS

    run(body)


def test_two_threads_fault_the_same_leaf() -> None:
    def build(w: World) -> None:
        bar = w.p.mmap(w.dev.file, 512)

        @w.m.task
        def one() -> None:
            w.m.require(w.p.read(bar) == 0x010000ED, "read", "")

        @w.m.task
        def two() -> None:
            w.m.require(w.p.read(bar + PAGE) == 0, "read", "")

        w.m.check(lambda: w.m.require(w.p.pte(bar) == LEAF, "leaf", "") or [])

    assert found(search(build, pages=512)) == set()


def test_leaf_against_disable() -> None:
    def build(w: World) -> None:
        bar = w.p.mmap(w.dev.file, 512)

        @w.m.task
        def touch() -> None:
            w.m.saw(w.p.read(bar))

        @w.m.task
        def disable() -> None:
            w.dev.write_command(memory=False)

    results = search(build, pages=512)
    assert found(results) == set()
    assert {"touch got SIGBUS", "touch got through", "huge leaf inserted"} <= results.reached


def test_a_driver_without_huge_fault_has_no_leaves() -> None:
    assert VmOperations.huge_fault is None
    assert HUGE == 512 * PAGE
