"""2M leaves: who gets one, what it looks like, and that nothing but the whole of it can be changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore.scheduler import Results
from mmlitmus.invariants.leaves import leaves_are_sound
from mmlitmus.kernel.arch.x86.pgtable import SOFT_DIRTY, pud_leaf
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.mm import madvise
from mmlitmus.kernel.mm.huge_memory import vmf_insert_pfn_pmd
from mmlitmus.kernel.mm.memory import pmd_offset, remap_pfn_range, vmf_insert_mixed, vmf_insert_pfn
from mmlitmus.kernel.mm.memory_pages import vm_insert_page
from mmlitmus.kernel.mm.memory_zap import unmap_mapping_range, zap_vma_ptes
from mmlitmus.kernel.mm.mm_types import (
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VmOperations,
)
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, PROT_NONE, PROT_READ
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from mmlitmus.kernel.mm.page_alloc import DRIVER, new_folio

from .world import HUGE, PAGE, Ran, World, found
from .world import run as run_on
from .world import search as search_on

#: a kernel whose VFIO inserts a leaf wherever one fits
KERNEL = "deb-6.12.117"
LEAF = 0x80000000FEA002B7


def run(body: Callable[[World], Any], kernel: str = KERNEL, **how: Any) -> Ran:
    return run_on(body, kernel, **how)


def search(build: Callable[[World], Any], kernel: str = KERNEL, **how: Any) -> Results:
    return search_on(build, kernel, **how)


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


GIB = 1 << 30
BIG = 0x7F80_0000_0000


def test_leaves_of_2m_in_a_mapping_of_1g_are_inherited_and_moved() -> None:
    """Whoever makes a lower level makes the upper one: the child and the new place have their own PUD entries."""

    def body(w: World) -> None:
        a = w.p.mmap(w.dev.file, GIB // PAGE, at=BIG, offset=512)  # frames that 1G does not fit
        w.p.read(a + 3 * PAGE)
        assert w.p.pte(a) & 0x80
        assert w.m.translation(w.p.mm, a + HUGE) == 0
        child = w.p.fork("child")
        assert not isinstance(child, int)
        assert child.pte(a) & 0x80
        assert child.read(a + 5 * PAGE) == 0
        assert w.p.mremap(a, GIB // PAGE, GIB // PAGE, to=BIG + 2 * GIB) == BIG + 2 * GIB
        assert w.p.pte(BIG + 2 * GIB) & 0x80
        assert w.p.read(BIG + 2 * GIB + PAGE) == 0

    run(body, pages=GIB // PAGE + 512)


@pytest.mark.parametrize("kernel", ["v6.1", "v6.12", "deb-7.3.4"])
@pytest.mark.parametrize("how", ["insert_pfn", "remap", "insert_page", "insert_mixed"])
def test_what_finds_a_leaf_where_a_table_should_be(kernel: str, how: str) -> None:
    """-ENOMEM or VM_FAULT_OOM with memory to spare; up to 6.4 the leaf is taken for a table."""
    errors = {"insert_pfn": VM_FAULT_OOM, "remap": -ENOMEM, "insert_page": -ENOMEM, "insert_mixed": VM_FAULT_OOM}

    def body(w: World) -> Any:
        mixed = how in ("insert_page", "insert_mixed")
        w.char.flags = VM_MIXEDMAP if mixed else VM_PFNMAP | VM_IO
        w.p.mmap(w.char.file, 512)
        assert insert(w, w(0), 0xFD000) == VM_FAULT_NOPAGE
        vma = w.vma(w(0))
        lock, unlock = (mmap_write_lock, mmap_write_unlock) if how == "remap" else (mmap_read_lock, mmap_read_unlock)
        folio = new_folio(w.m, DRIVER, "the driver")
        lock(w.p.mm)
        if how == "insert_pfn":
            result = vmf_insert_pfn(vma, w(3), 0xFD003)
        elif how == "insert_mixed":
            result = vmf_insert_mixed(vma, w(3), 0xFD003)
        elif how == "insert_page":
            result = vm_insert_page(vma, w(3), folio)
        else:
            result = remap_pfn_range(vma, w(3), 0xFD003, PAGE, vma.vm_page_prot)
        unlock(w.p.mm)
        assert list(leaves_are_sound(w.m)) == []
        return result

    through = kernel == "v6.1"
    ran = run(body, kernel, finds=["walk-through-leaf"] if through else [])
    assert through or ran.result == errors[how]


@pytest.mark.parametrize("how", ["insert_pfn", "remap"])
def test_what_finds_a_leaf_of_1g_where_a_table_should_be(how: str) -> None:
    """No release looks whether the PUD entry is a leaf."""

    def body(w: World) -> None:
        w.p.read(w.p.mmap(w.dev.file, GIB // PAGE, at=BIG))
        assert pud_leaf(w.p.mm.puds[BIG // GIB].peek("entry"))
        vma = w.vma(BIG)
        if how == "remap":
            mmap_write_lock(w.p.mm)
            remap_pfn_range(vma, BIG, 0x100000, PAGE, vma.vm_page_prot)
        else:
            mmap_read_lock(w.p.mm)
            vmf_insert_pfn(vma, BIG, 0x100000)

    run(body, "deb-7.3.4", pages=GIB // PAGE, finds=["walk-through-leaf"])


def test_entries_under_a_leaf_are_noticed() -> None:
    def body(w: World) -> list[str]:
        w.p.mmap(w.char.file, 512)
        insert(w, w(0), 0xFD000)
        mmap_read_lock(w.p.mm)
        assert vmf_insert_pfn(w.vma(w(0)), w(3), 0xFD003) == VM_FAULT_NOPAGE
        mmap_read_unlock(w.p.mm)
        return [f.name for f in leaves_are_sound(w.m)]

    assert run(body, "v6.12 +pte-under-leaf").result == ["entry-under-leaf"]
    assert run(body, "v6.1 +pte-under-leaf").result == ["entry-under-leaf"]


def test_a_leaf_is_counted_once() -> None:
    """A huge page of a process's own is mapped once by its leaf, and not at all when that is gone."""

    def body(w: World) -> None:
        w.m.thp = True
        a = w.p.mmap_anon(512)
        w.p.write(a)
        folio = w.m.pages[w.p.pte(a) >> 12 & 0xFFFFFFE00]
        assert folio.peek("mapcount") == 1
        w.p.munmap(a, 512)
        assert folio.peek("mapcount") == 0
        assert folio.freed

    run(body)
