"""mremap of device memory: what may move, shrink and grow, and what a move does to the entries."""

from __future__ import annotations

import pytest

from mmlitmus.kernel.arch.x86.pgtable import SOFT_DIRTY
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.errno import EFAULT, EINVAL, ENOMEM
from mmlitmus.kernel.mm.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE

from .world import (
    ERAS,
    INVALID_FREE,
    NEW,
    OLD,
    PAGE,
    REMAP_IN_FAULT,
    SURVIVORS_ARE_ZAPPED,
    WALK_FAILED,
    World,
    only,
    run,
)

both = pytest.mark.parametrize("kernel", [OLD, NEW])
everywhere = pytest.mark.parametrize("kernel", ERAS)


@both
@pytest.mark.parametrize("flags", [0, MREMAP_MAYMOVE])
def test_a_bar_never_grows(kernel: str, flags: int) -> None:
    def body(w: World) -> None:
        bar = w.bar(2)
        assert w.p.mremap(bar, 2, 3, flags=flags) == -EFAULT
        assert w.p.mremap(bar, 0, 2, flags=flags) == -EFAULT
        assert w.p.mremap(bar, 3, 4, flags=flags) == -EFAULT
        assert w.layout() == "a0-a2@0"

    run(body, kernel)


@both
def test_errors(kernel: str) -> None:
    fixed = MREMAP_MAYMOVE | MREMAP_FIXED

    def body(w: World) -> None:
        bar = w.bar(4)
        assert w.p.mremap(bar, 4, 4, to="b", flags=MREMAP_MAYMOVE | MREMAP_DONTUNMAP) == -EINVAL
        assert w.p.mremap(bar, 4, 2, flags=MREMAP_MAYMOVE | MREMAP_DONTUNMAP) == -EINVAL
        assert w.p.mremap(bar, 4, 4, to="b", flags=MREMAP_FIXED) == -EINVAL
        assert w.p.mremap(bar, 4, 4, to="b", flags=MREMAP_DONTUNMAP) == -EINVAL
        assert w.p.mremap(bar, 4, 4, flags=8) == -EINVAL
        assert w.p.mremap(bar + 1, 4, 4) == -EINVAL
        assert w.p.mremap(bar, 4, 0) == -EINVAL
        assert w.p.mremap(bar, 4, 4, to=w(0, "b") + 1) == -EINVAL
        assert w.p.mremap(bar, 4, 4, to=w(2)) == -EINVAL  # overlaps itself
        assert w.p.mremap(w(8), 1, 1, to="b") == -EFAULT
        assert w.p.mremap(w(8), 1, 1) == -EFAULT
        assert w.p.mremap(w(2), 4, 4, to="b", flags=fixed) == -EFAULT  # reaches beyond the VMA
        assert w.layout() == "a0-a4@0"

    run(body, kernel)


@both
def test_the_target_is_gone_before_the_source_is_looked_at(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(2)
        w.p.mmap(w.char.file, 4, at="b")
        assert w.p.mremap(bar, 2, 3, to="b") == -EFAULT
        assert w.layout() == "a0-a2@0 b3-b4@3"

    run(body, kernel)


@everywhere
def test_the_same_size_is_no_change(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(2, touch=True)
        assert w.p.mremap(bar, 2, 2) == bar
        assert w.populated() == "a0 a1"

    run(body, kernel)


@everywhere
def test_shrinking(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(4, touch=True)
        assert w.p.mremap(bar, 4, 1) == bar
        assert w.layout() == "a0-a1@0"
        assert w.p.read(w(1)) == "SIGSEGV"

    run(body, kernel, finds=only(kernel, SURVIVORS_ARE_ZAPPED, INVALID_FREE))


def test_shrinking_without_memory() -> None:
    """The split for the tail fails: ENOMEM, and the mapping is whole."""

    def body(w: World) -> None:
        got = w.p.mremap(w(0), 4, 1)
        assert got in (w(0), -ENOMEM)
        assert w.layout() == ("a0-a1@0" if got > 0 else "a0-a4@0")

    run(body, before=lambda w: w.bar(4), once=False, failures=1)


@everywhere
def test_moving(kernel: str) -> None:
    """The translations move with it, marked soft-dirty, and the old place is empty.

    Up to 6.9 VFIO's ->open zaps the copy before anything is in it: recorded as a WARNING in untrack_pfn.
    """

    def body(w: World) -> None:
        bar = w.bar(2, touch=True)
        before = [w.p.pte(w(n)) for n in range(2)]
        assert w.p.mremap(bar, 2, 2, to="b") == w(0, "b")
        assert w.layout() == "b0-b2@0"
        assert [w.p.pte(w(n, "b")) for n in range(2)] == [e | SOFT_DIRTY for e in before]
        assert w.p.read(w(0)) == "SIGSEGV"
        assert w.p.read(w(0, "b")) == 0x010000ED
        assert w.p.mm.peek("total_vm") == 2

    run(body, kernel, finds=only(kernel, REMAP_IN_FAULT, WALK_FAILED))


def test_a_moved_entry_on_a_real_kernel() -> None:
    def body(w: World) -> None:
        bar = w.bar(1, touch=True)
        assert w.p.pte(bar) == 0x80000000FEA00237
        w.p.mremap(bar, 1, 1, to="b")
        assert w.p.pte(w(0, "b")) == 0x80000000FEA00A37
        w.p.write(w(0, "b"))
        assert w.p.pte(w(0, "b")) == 0x80000000FEA00A77

    run(body)


@both
def test_moving_and_shrinking(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(4, touch=True)
        assert w.p.mremap(bar, 4, 2, to="b") == w(0, "b")
        assert w.layout() == "b0-b2@0"

    run(body, kernel, finds=only(kernel, REMAP_IN_FAULT, WALK_FAILED))


@everywhere
@pytest.mark.parametrize(
    ("first", "pages", "left"),
    [(0, 1, "a1-a4@1 b0-b1@0"), (3, 1, "a0-a3@0 b0-b1@3"), (1, 2, "a0-a1@0 a3-a4@3 b0-b2@1")],
)
def test_moving_a_part(kernel: str, first: int, pages: int, left: str) -> None:
    def body(w: World) -> None:
        w.bar(4, touch=True)
        assert w.p.mremap(w(first), pages, pages, to="b") == w(0, "b")
        assert w.layout() == left
        for n in range(pages):
            assert w.p.pte(w(n, "b")) >> 12 & 0xFFFFF == w.frame(first + n)
        for n in set(range(4)) - set(range(first, first + pages)):
            assert w.p.read(w(n)) == (0x010000ED if n == 0 else 0)
            assert w.p.pte(w(n)) >> 12 & 0xFFFFF == w.frame(n)

    run(body, kernel, finds=only(kernel, REMAP_IN_FAULT, WALK_FAILED))


@both
def test_moving_within_the_same_table(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(2, touch=True)
        assert w.p.mremap(w(0), 2, 2, to=w(4)) == w(4)
        assert w.populated() == "a4 a5"

    run(body, kernel, finds=only(kernel, REMAP_IN_FAULT, WALK_FAILED))


@both
def test_who_is_told(kernel: str) -> None:
    """The copy is opened while it is empty, the source is closed."""

    def body(w: World) -> None:
        w.p.mmap(w.char.file, 2)
        del w.char.calls[:]
        w.p.mremap(w(0), 2, 2, to="b")
        assert w.char.calls == [("open", "b0-b2"), ("close", "a0-a2")]

    run(body, kernel)


def test_moving_without_memory() -> None:
    """No table for the target: everything is moved back."""

    def before(w: World) -> None:
        w.bar(2, at=w(511), touch=True)

    def body(w: World) -> None:
        got = w.p.mremap(w(511), 2, 2, to=w(511, "b"))
        if got == -ENOMEM:
            assert w.layout() == "a511-a513@0"
            assert len(list(w.m.translations(w.p.mm))) == 2
        else:
            assert w.layout() == "b511-b513@0"
        assert len(w.p.mm.pgd) <= 4
        assert w.p.read(w(512) if got < 0 else w(512, "b")) == 0

    run(body, before=before, once=False, failures=1)


def test_six_point_one_loses_a_moved_vma() -> None:
    """The moved VMA is used and not on VFIO's list: a disable misses it (found here, then on 6.1.192)."""

    def body(w: World) -> None:
        bar = w.bar(1, touch=True)
        w.p.mremap(bar, 1, 1, to="b")
        assert w.dev.vma_list.items == []  # type: ignore[attr-defined]
        w.dev.write_command(memory=False)
        assert w.populated() == "b0"

    run(body, OLD, finds=["stale-translation", WALK_FAILED])


def test_order_in_the_reverse_map() -> None:
    """By page offset; a moved VMA of the same offset comes behind those that are there."""

    def body(w: World) -> None:
        w.bar(2, at="a")
        w.bar(1, at="b")
        w.p.mmap(w.dev.file, 1, at="c", offset=1)
        assert [v.peek("vm_start") for v in w.dev.mapping.i_mmap.items] == [w(0, "a"), w(0, "b"), w(0, "c")]
        w.p.mremap(w(0, "a"), 2, 2, to="d")
        assert [v.peek("vm_start") for v in w.dev.mapping.i_mmap.items] == [w(0, "b"), w(0, "d"), w(0, "c")]
        w.p.munmap(w(0, "d"), 1)
        assert [v.peek("vm_start") for v in w.dev.mapping.i_mmap.items] == [w(0, "b"), w(0, "c"), w(1, "d")]

    run(body)
    assert PAGE == 4096


@pytest.mark.parametrize(("kernel", "answer"), [("v5.10", -EINVAL), ("v6.1", 0), ("deb-6.12.117", 0), ("v7.3", 0)])
def test_a_mixed_map_that_is_moved_and_stays(kernel: str, answer: int) -> None:
    """Recorded on 5.10.262, 6.1.192, 6.12.117 and 7.3.4: both mappings are there, and faults fill the old one again."""

    def body(w: World) -> None:
        probe = open_probe(w.m)
        a = w.p.mmap(probe.file("mixed", "", "hole"), 2)
        w.p.read(a)
        to = w(0, "b")
        flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
        moved = w.p.mremap(a, 2, 2, to="b", flags=flags)
        assert moved == (answer or to)
        assert bool(w.p.pte(a)) == bool(answer)
        assert w.p.vm_flags(a)
        assert w.p.vm_flags(to) == ("" if answer else w.p.vm_flags(a))
        if not answer:
            assert w.p.pte(to)
            w.p.read(a)
            assert w.p.pte(a)

    run(body, kernel)
