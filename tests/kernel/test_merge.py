"""Neighbouring mappings of a process's own memory become one, and what can be told of it."""

from __future__ import annotations

import pytest

from mmlitmus.kernel.errno import EFAULT
from mmlitmus.kernel.mm import madvise
from mmlitmus.kernel.mm.mmap import MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE

from .world import ERAS, PAGE, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)
#: a new mapping between two that do not go together joins the second (so 6.1.192; 5.10.262 and 6.12.117 the first)
BEHIND = ERAS[ERAS.index("v6.1") : ERAS.index("v6.12")]
#: a mapping without pages takes one with pages in
EITHER = ERAS[ERAS.index("v6.16") :]


@everywhere
def test_new_mappings(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap_anon(1, at=w(1))
        w.p.mmap_anon(1, at=w(3))
        assert w.layout() == "a1-a2@0 a3-a4@0"
        w.p.mmap_anon(1, at=w(2))
        assert w.layout() == "a1-a4@0"
        w.p.mmap_anon(1, at=w(0))
        assert w.layout() == "a0-a4@0"
        w.p.mmap_anon(1, at=w(4), prot=PROT_READ)
        assert w.layout() == "a0-a4@0 a4-a5@0"
        assert w.p.mm.peek("total_vm") == 5
        assert w.p.mremap(w(1), 3, 3, to="b") == w(0, "b")  # across what were three mappings
        assert w.p.mremap(w(0), 5, 6, to="c") == -EFAULT
        assert w.p.munmap(w(0, "b"), 3) == 0
        assert w.layout() == "a0-a1@0 a4-a5@0"

    run(body, kernel)


@everywhere
def test_mappings_with_pages(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        w.p.mmap_anon(1, at=w(1))
        assert w.layout() == "a0-a2@0"
        w.p.mmap_anon(1, at=w(3))
        w.p.write(w(3))
        w.p.mmap_anon(1, at=w(2))  # between the pages of two anon_vmas: one of them
        assert w.layout() == ("a0-a2@0 a2-a4@0" if kernel in BEHIND else "a0-a3@0 a3-a4@0")
        assert w.populated() == "a0 a3"
        assert w.p.write(w(2)) == 0
        assert w.p.munmap(a, 4) == 0

    run(body, kernel)


@everywhere
def test_what_was_split_joins_again(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(3)
        w.p.write(w(1))
        w.p.mprotect(w(1), 1, PROT_READ)
        assert w.layout() == "a0-a1@0 a1-a2@0 a2-a3@0"
        w.p.mprotect(w(1), 1, PROT_READ | PROT_WRITE)
        assert w.layout() == "a0-a3@0"
        assert w.p.write(w(1)) == 0
        w.p.mlock(a, 2)
        assert w.layout() == "a0-a2@0 a2-a3@0"
        w.p.mlock(w(2), 1)
        assert w.layout() == "a0-a3@0"
        assert w.p.locked() == 3
        w.p.munlock(w(1), 1)
        assert w.layout() == "a0-a1@0 a1-a2@0 a2-a3@0"
        w.p.munlock(a, 3)
        assert w.layout() == "a0-a3@0"
        assert w.p.locked() == 0
        w.p.madvise(a, 1, madvise.MADV_DONTFORK)
        w.p.madvise(w(2), 1, madvise.MADV_DONTFORK)
        assert w.layout() == "a0-a1@0 a1-a2@0 a2-a3@0"
        w.p.madvise(w(1), 1, madvise.MADV_DONTFORK)
        assert w.layout() == "a0-a3@0"

    run(body, kernel, spawn_slots=12)


@everywhere
def test_a_part_goes_to_the_neighbour(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap_anon(2)
        w.p.mmap_anon(2, at=w(2), prot=PROT_READ)
        assert w.layout() == "a0-a2@0 a2-a4@0"
        w.p.mprotect(w(2), 1, PROT_READ | PROT_WRITE)
        assert w.layout() == ("a0-a3@0 a3-a4@0" if accounted(w) else "a0-a2@0 a2-a3@0 a3-a4@0")
        assert w.p.write(w(2)) == 0
        assert w.p.write(w(3)) == "SIGSEGV"

    def accounted(w: World) -> bool:
        return w.p.vm_flags(w(0)).split() == w.p.vm_flags(w(2)).split()

    run(body, kernel)


@everywhere
def test_one_with_pages_and_one_without(kernel: str) -> None:
    """mprotect makes two mappings alike, and only the second has pages."""

    def body(w: World) -> None:
        w.p.mmap_anon(1)
        w.p.mmap_anon(1, at=w(1), prot=PROT_READ | PROT_WRITE | 4)
        w.p.write(w(1))
        w.p.mprotect(w(1), 1, PROT_READ | PROT_WRITE)
        assert w.layout() == ("a0-a2@0" if kernel in EITHER else "a0-a1@0 a1-a2@0")

    run(body, kernel)


@everywhere
def test_a_child_shares_no_more(kernel: str) -> None:
    """What came by fork takes nothing in: its pages may be the parent's."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        child = w.p.fork("child")
        assert not isinstance(child, int)
        child.mmap_anon(1, at=w(1))
        assert w.layout(child) == "a0-a1@0 a1-a2@0"
        w.p.mmap_anon(1, at=w(1))
        assert w.layout() == "a0-a2@0"
        child.exit()

    run(body, kernel)


@everywhere
def test_moved_memory(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        assert w.p.mremap(a, 1, 1, to="b") == w(0, "b")
        assert w.p.mremap(w(1), 1, 1, to=w(1, "b")) == w(1, "b")
        assert w.layout() == "b0-b2@0"  # nothing was in them
        w.p.write(w(0, "b"))
        assert w.p.mremap(w(0, "b"), 2, 2, to="c") == w(0, "c")
        w.p.mmap_anon(1, at=w(2, "c"))
        assert w.layout() == "c0-c2@0 c2-c3@0"  # where they were first they would go on elsewhere
        assert w.p.mremap(w(0, "c"), 2, 2, to="b") == w(0, "b")
        w.p.mmap_anon(1, at=w(2, "b"))
        assert w.layout() == "b0-b3@0 c2-c3@0"

    run(body, kernel, spawn_slots=12)


@everywhere
def test_growth_up_to_a_neighbour(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.mmap_anon(1, at=w(2))
        assert w.p.mremap(a, 1, 2) == a
        assert w.layout() == ("a0-a2@0 a2-a3@0" if kernel in ("v5.10", "deb-5.10.262") else "a0-a3@0")

    run(body, kernel)


@everywhere
def test_soft_dirty(kernel: str) -> None:
    """A new neighbour makes the whole of it soft-dirty again."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.read(a)
        w.p.clear_refs(4)
        assert "sd" not in w.p.vm_flags(a).split()
        assert not w.p.pagemap(a) >> 55 & 1
        w.p.mmap_anon(1, at=w(1))
        assert w.layout() == "a0-a2@0"
        assert "sd" in w.p.vm_flags(a).split()
        assert w.p.pagemap(a) >> 55 & 1

    run(body, kernel)


@everywhere
def test_replaced(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(3)
        w.p.write(w(1))
        w.p.mmap_anon(1, at=w(1), flags=MAP_PRIVATE | MAP_FIXED)
        assert w.layout() == "a0-a3@0"
        assert w.populated() == ""
        assert w.p.munmap(a, 3) == 0

    run(body, kernel, spawn_slots=12)
    assert PAGE
