"""A move that fails: what is taken back, and what it leaves of what the process counts as its own."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.invariants.folios import folios_at_rest
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.mm.mm_types import VM_LOCKED
from mmlitmus.kernel.mm.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE

from .world import ERAS, World, found, run, search

everywhere = pytest.mark.parametrize("kernel", ERAS)


def counted(w: World) -> tuple[int, int]:
    return w.p.mm.peek("total_vm"), w.p.locked()


@everywhere
def test_what_the_process_counts_is_as_before(kernel: str) -> None:
    """The copy is counted, and locked if its source is, until it is unmapped: VmSize and VmLck come out even."""
    failed: list[bool] = []

    def before(w: World) -> None:
        w.p.mmap_anon(2, at=w(511))
        w.p.mlock(w(511), 2)

    def body(w: World) -> None:
        assert counted(w) == (2, 2)
        moved = w.p.mremap(w(511), 2, 2, to=w(511, "b"))
        failed.append(moved == -ENOMEM)
        assert counted(w) == (2, 2)
        w.p.munmap(w(511), 2)
        w.p.munmap(w(511, "b"), 2)
        assert counted(w) == (0, 0)

    run(body, kernel, before=before, once=False, failures=1)
    assert sorted(set(failed)) == [False, True]


@pytest.mark.parametrize("kernel", [k for k in ERAS if "5.10" not in k])
def test_what_stays_where_it_was_is_not_locked_twice(kernel: str) -> None:
    """MREMAP_DONTUNMAP: the copy has the lock from its source, and the count with it."""

    def body(w: World) -> None:
        w.p.mmap_anon(2)
        w.p.mlock(w(0), 2)
        flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
        assert w.p.mremap(w(0), 2, 2, to="b", flags=flags) == w(0, "b")
        assert not w.vma(w(0)).vm_flags & VM_LOCKED
        assert w.vma(w(0, "b")).vm_flags & VM_LOCKED
        assert counted(w) == (4, 2)
        w.p.munmap(w(0), 2)
        assert counted(w) == (2, 2)
        w.p.munmap(w(0, "b"), 2)
        assert counted(w) == (0, 0)

    run(body, kernel)


@pytest.mark.parametrize(
    ("kernel", "left", "layout"),
    [("v6.12", 2, "a0-a3@0 b0-b1@0"), ("deb-6.12.117", 0, "a0-a1@0 a1-a2@0 a2-a3@0 b0-b1@0")],
)
def test_a_part_of_locked_memory_moves_and_stays(kernel: str, left: int, layout: str) -> None:
    """Where the source is not split, all of it is unlocked, and what has not moved is counted for ever."""

    def body(w: World) -> None:
        w.p.mmap_anon(3)
        w.p.mlock(w(0), 3)
        flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
        assert w.p.mremap(w(1), 1, 1, to="b", flags=flags) == w(0, "b")
        assert w.p.locked() == 3
        assert w.layout() == layout
        assert [bool(w.vma(w(n)).vm_flags & VM_LOCKED) for n in range(3)] == [not left, False, not left]
        w.p.munmap(w(0), 3)
        w.p.munmap(w(0, "b"), 1)
        assert w.p.locked() == left

    run(body, kernel)


@pytest.mark.parametrize("kernel", ["v6.1", "v6.12", "v7.3"])
def test_nobody_fills_the_copy_while_it_is_filled(kernel: str) -> None:
    """A store to where memory is being moved to waits for the move: the copy is write-locked before it can be found."""

    def build(w: World) -> None:
        w.p.mmap_anon(1)
        w.p.write(w(0))

        def move() -> Any:
            return w.p.mremap(w(0), 1, 1, to="b")

        w.m.task(move, process=w.p)
        w.m.task(lambda: w.p.write(w(0, "b")), process=w.p, name="store")
        w.m.check(lambda: folios_at_rest(w.m))

    assert not found(search(build, kernel))
