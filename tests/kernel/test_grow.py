"""mremap that makes a mapping longer: where it is, by moving, and what is left of it behind."""

from __future__ import annotations

import pytest

from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.errno import EAGAIN, EFAULT, EINVAL, ENOMEM
from mmlitmus.kernel.mm.mm_types import VM_MIXEDMAP
from mmlitmus.kernel.mm.mmap import MAP_LOCKED, MAP_PRIVATE
from mmlitmus.kernel.mm.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE

from .world import ERAS, NEW, OLD, PAGE, World, run

both = pytest.mark.parametrize("kernel", [OLD, NEW])
everywhere = pytest.mark.parametrize("kernel", ERAS)
#: nothing that is special grows where it is; recorded: 5.10.262 grows it, 6.12.117 and 7.3.4 are -ENOMEM
GROWS = tuple(k for k in ERAS if k in ("v5.10", "deb-5.10.262"))
CLOSES = (*GROWS, "deb-6.1.192")


@everywhere
def test_anonymous_memory_grows_where_it_is(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        w.p.write(a + PAGE)
        assert w.p.mremap(a, 2, 4) == a
        assert w.layout() == "a0-a4@0"
        assert w.p.mm.peek("total_vm") == 4
        assert w.p.write(w(3)) == 0
        assert w.p.mremap(w(1), 3, 5) == w(1)  # from a page within
        assert w.layout() == "a0-a6@0"

    run(body, kernel)


@everywhere
def test_it_moves_where_there_is_no_room(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        frame = w.p.pte(a) >> 12
        w.bar(1, at=w(1))
        assert w.p.mremap(a, 1, 2) == -ENOMEM
        there = w.p.mremap(a, 1, 2, flags=MREMAP_MAYMOVE)
        assert there == w(0, "z")  # the model's own choice: the last slot that is free
        assert w.p.pte(there) >> 12 == frame
        assert w.p.write(there + PAGE) == 0
        assert w.p.write(a) == "SIGSEGV"
        assert w.p.mremap(there, 2, 3, to="b") == w(0, "b")
        assert w.p.pte(w(0, "b")) >> 12 == frame

    run(body, kernel)


@both
def test_what_is_in_the_middle_moves(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(3)
        assert w.p.mremap(a, 1, 2) == -ENOMEM  # its own next page is in the way
        assert w.p.mremap(a, 1, 2, flags=MREMAP_MAYMOVE) == w(0, "z")
        assert w.p.mremap(w(1), 3, 4) == -EFAULT  # reaches beyond the mapping

    run(body, kernel)


@everywhere
def test_a_mixed_map(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap(open_probe(w.m).file("mixed"), 1, at="a")
        there = w.p.mremap(a, 1, 2)
        assert there == (a if kernel in GROWS else -ENOMEM)
        if there < 0:
            assert w.p.mremap(a, 1, 2, flags=MREMAP_MAYMOVE) == -ENOMEM
        assert w.p.mremap(a, 1, 2, to="b") == w(0, "b")
        assert w.p.write(w(1, "b")) == 0

    run(body, kernel)


@everywhere
def test_a_mixed_map_whose_driver_has_close(kernel: str) -> None:
    def body(w: World) -> None:
        w.char.flags = VM_MIXEDMAP
        a = w.p.mmap(w.char.file, 1, at="a")
        assert w.p.mremap(a, 1, 2) == (a if kernel in CLOSES else -ENOMEM)

    run(body, kernel)


@everywhere
def test_a_mapping_that_fault_fills(kernel: str) -> None:
    def body(w: World) -> None:
        w.char.flags = 0
        a = w.p.mmap(w.char.file, 1, at="a", offset=3)
        assert w.p.mremap(a, 1, 2) == a
        assert w.layout() == "a0-a2@3"
        assert w.p.mremap(w(1), 1, 2, to="b") == w(0, "b")
        assert w.layout() == "a0-a1@3 b0-b2@4"

    run(body, kernel)


@everywhere
def test_locked_memory(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1, flags=MAP_PRIVATE | MAP_LOCKED)
        assert w.p.mremap(a, 1, 3) == a
        assert w.p.locked() == 3
        assert w.populated() == "a0 a1 a2"
        assert w.p.mremap(a, 3, 4, to="b") == w(0, "b")
        assert w.p.locked() == 4
        assert w.populated() == "b0 b1 b2 b3"
        w.p.limit_locked(5)
        assert w.p.mremap(w(0, "b"), 4, 6) == -EAGAIN
        assert w.p.mremap(w(0, "b"), 4, 5) == w(0, "b")

    run(body, kernel)


@everywhere
def test_lengths_that_wrap(kernel: str) -> None:
    wraps = (1 << 52) - 1  # pages: a page less than all bytes
    fixed = MREMAP_MAYMOVE | MREMAP_FIXED

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        assert w.p.mremap(a, 1, wraps + 1) == -EINVAL
        assert w.p.mremap(a, 1, wraps + 1, to="b") == -EINVAL
        assert w.p.mremap(a, 1, 1 << 40, to="b", flags=fixed) == -EINVAL
        assert w.p.mremap(a, 1, 1, to=1 << 47, flags=fixed) == -EINVAL
        assert w.p.mlock(a, wraps) == -EINVAL
        assert w.p.munlock(a, wraps) == -EINVAL
        assert w.p.madvise(a, wraps, 4) == -EINVAL
        assert w.p.mmap_anon(wraps, at="b") == -ENOMEM
        assert w.layout() == "a0-a1@0"

    run(body, kernel)


@everywhere
def test_dontunmap(kernel: str) -> None:
    left = MREMAP_MAYMOVE | MREMAP_DONTUNMAP

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        there = w.p.mremap(a, 1, 1, flags=left)
        assert there == w(0, "z")
        assert w.populated() == "z0"
        assert w.p.write(a) == 0  # a new page
        assert w.p.mremap(a, 1, 1, to="b", flags=left) == w(0, "b")
        assert w.p.mremap(a, 1, 1, to=w(0, "b"), flags=left) == w(0, "y")  # no room there: elsewhere
        w.char.flags = 0
        c = w.p.mmap(w.char.file, 1, at="c")
        assert w.p.mremap(c, 1, 1, to="d", flags=left) == (-EINVAL if kernel in GROWS else w(0, "d"))

    run(body, kernel)
