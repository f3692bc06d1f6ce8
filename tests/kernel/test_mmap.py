"""mmap and munmap: errors, what goes, and who is told of it."""

from __future__ import annotations

import pytest

from mmlitmus.kernel.errno import EBUSY, EEXIST, EINVAL, ENODEV, ENOMEM, EOVERFLOW, EPERM
from mmlitmus.kernel.mm.mm_types import AddressSpace, File, VmOperations
from mmlitmus.kernel.mm.mmap import (
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
    do_munmap,
    mmget_not_zero,
)
from mmlitmus.kernel.mm.mmap_lock import mmap_read_unlock, mmap_write_lock, mmap_write_unlock

from .world import (
    ERAS,
    INVALID_FREE,
    NEW,
    OLD,
    PAGE,
    REMAP_IN_FAULT,
    SURVIVORS_ARE_ZAPPED,
    World,
    only,
    run,
)

both = pytest.mark.parametrize("kernel", [OLD, NEW])
everywhere = pytest.mark.parametrize("kernel", ERAS)


@everywhere
def test_a_bar_is_mapped_where_asked(kernel: str) -> None:
    def body(w: World) -> None:
        assert w.p.mmap(w.dev.file, 2, offset=1) == w(0)
        assert w.layout() == "a0-a2@1"
        assert w.populated() == ""

    run(body, kernel)


@both
@pytest.mark.parametrize(
    ("how", "errno"),
    [
        ({"flags": MAP_PRIVATE}, EINVAL),
        ({"flags": 0}, EINVAL),
        ({"offset": 8}, EINVAL),
        ({"pages": 9}, EINVAL),
        ({"offset": 6, "pages": 3}, EINVAL),
        ({"pages": 0}, EINVAL),
        ({"at": 0x7F0000000800}, EINVAL),
        ({"at": (1 << 47) - PAGE, "pages": 2}, ENOMEM),
        ({"offset": (1 << 64) - 1, "pages": 2}, EOVERFLOW),
        ({"offset": 1 << 52}, EOVERFLOW),
    ],
)
def test_errors(kernel: str, how: dict[str, int], errno: int) -> None:
    def body(w: World) -> None:
        asked = {"pages": 1, **how}
        assert w.p.mmap(w.dev.file, asked.pop("pages"), **asked) == -errno  # type: ignore[arg-type]
        assert w.layout() == ""
        assert w.p.mm.peek("total_vm") == 0

    run(body, kernel)


def test_a_private_mapping_fails_in_the_driver() -> None:
    """EINVAL comes from VFIO's own check, after the area was cleared."""

    def body(w: World) -> None:
        w.bar(2, touch=True)
        assert w.p.mmap(w.dev.file, 2, flags=MAP_PRIVATE) == -EINVAL
        assert w.layout() == ""
        assert w.populated() == ""

    run(body)


def test_a_file_without_mmap() -> None:
    class NoMmap:
        pass

    def body(w: World) -> None:
        assert w.p.mmap(File("plain", NoMmap(), w.char.mapping), 1) == -ENODEV

    run(body)


@pytest.mark.parametrize(("kernel", "errno"), [("v6.12", 0), ("v6.16", EPERM)])
def test_prot_exec_of_an_anonymous_inode(kernel: str, errno: int) -> None:
    def body(w: World) -> None:
        got = w.p.mmap(w.dev.file, 1, prot=PROT_READ | PROT_EXEC)
        assert got == (-errno if errno else w(0))

    run(body, kernel)


@everywhere
def test_mapping_over_a_mapping_replaces_it(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(4, touch=True)
        assert w.p.mmap(w.char.file, 2, at=w(1)) == w(1)
        assert w.layout() == "a0-a1@0 a1-a3@0 a3-a4@3"
        assert w.vma(w(1)).vm_file is w.char.file
        assert w(1) not in dict(w.m.translations(w.p.mm))

    run(body, kernel, finds=only(kernel, SURVIVORS_ARE_ZAPPED, INVALID_FREE))


@both
def test_noreplace(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(2)
        over = MAP_SHARED | MAP_FIXED_NOREPLACE
        assert w.p.mmap(w.dev.file, 2, at=w(1), flags=over) == -EEXIST
        assert w.p.mmap(w.dev.file, 2, at=w(2), flags=over) == w(2)
        assert w.layout() == "a0-a2@0 a2-a4@0"

    run(body, kernel)


@both
def test_a_failing_driver_loses_the_old_mapping(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(3, touch=True)
        w.char.on_mmap = lambda vma: -EBUSY
        assert w.p.mmap(w.char.file, 1, at=w(1)) == -EBUSY
        assert w.layout() == "a0-a1@0 a2-a3@2"
        assert w.p.read(w(1)) == "SIGSEGV"
        assert ("close", "a1-a2") not in w.char.calls  # ->close is not for a VMA that never was
        assert w.p.mm.peek("total_vm") == 2

    run(body, kernel)


def test_a_failing_driver_may_have_populated() -> None:
    def body(w: World) -> None:
        def fail(vma: object) -> int:
            from mmlitmus.kernel.mm.memory import remap_pfn_range

            assert remap_pfn_range(vma, w(0), 0x100, 2 * PAGE, vma.vm_page_prot) == 0  # type: ignore[attr-defined, arg-type]
            return -EBUSY

        w.char.on_mmap = fail
        assert w.p.mmap(w.char.file, 2) == -EBUSY
        assert w.populated() == ""
        assert w.p.mm.pgd[w(0) >> 21].peek("entry") == 0  # the table went with it
        w.char.on_mmap = None
        assert w.p.mmap(w.dev.file, 2) == w(0)
        assert w.p.read(w(0)) == 0x010000ED

    run(body)


def test_a_driver_that_sets_no_operations() -> None:
    """The VMA gets operations without ->fault: SIGBUS."""

    class Bare(VmOperations):
        def mmap(self, file: File, vma: object) -> int:
            return 0

    def body(w: World) -> None:
        file = File("bare", Bare(), AddressSpace("bare:mapping"))
        assert w.p.mmap(file, 1) == w(0)
        assert w.p.read(w(0)) == "SIGBUS"
        assert w.p.munmap(w(0), 1) == 0

    run(body)


def test_map_locked_is_forgotten_for_a_special_vma() -> None:
    def body(w: World) -> None:
        assert w.p.mmap(w.dev.file, 1, flags=MAP_SHARED | MAP_LOCKED) == w(0)
        assert " lo" not in w.p.vm_flags(w(0))

    run(body)


def test_out_of_memory() -> None:
    def body(w: World) -> None:
        got = w.p.mmap(w.dev.file, 1)
        assert got in (-ENOMEM, w(0))
        assert w.layout() == ("" if got < 0 else "a0-a1@0")

    run(body, once=False, failures=1, finds=["ioremap-reserve-failed"])


# -- munmap -----------------------------------------------------------------------------------------------------------
CUTS = {
    "head": (0, 1, "a1-a4@1"),
    "tail": (3, 1, "a0-a3@0"),
    "middle": (1, 2, "a0-a1@0 a3-a4@3"),
    "all": (0, 4, ""),
    "more than all": (0, 6, ""),
    "beside": (5, 1, "a0-a4@0"),
}
#: where a part that ->open zaps begins with the reservation's first page and does not end with its last
BAD_CUTS = {
    "head": [k for k in REMAP_IN_FAULT if k not in SURVIVORS_ARE_ZAPPED],
    "tail": SURVIVORS_ARE_ZAPPED,
    "middle": SURVIVORS_ARE_ZAPPED,
}


@everywhere
@pytest.mark.parametrize("cut", CUTS)
def test_munmap(kernel: str, cut: str) -> None:
    start, pages, left = CUTS[cut]

    def body(w: World) -> None:
        w.bar(4, touch=True)
        assert w.p.munmap(w(start), pages) == 0
        assert w.layout() == left
        gone = set(range(start, start + pages))
        for n in range(4):
            if n in gone:
                assert w.p.pte(w(n)) == 0
                assert w.p.read(w(n)) == "SIGSEGV"
            else:
                assert w.p.read(w(n)) in (0, 0x010000ED)
        assert w.p.mm.peek("total_vm") == 4 - len(gone & set(range(4)))

    run(body, kernel, finds=only(kernel, BAD_CUTS.get(cut, ()), INVALID_FREE))


@both
def test_munmap_over_a_hole(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(2)
        w.bar(2, at=w(4))
        assert w.p.munmap(w(1), 4) == 0
        assert w.layout() == "a0-a1@0 a5-a6@1"

    run(body, kernel)


@both
def test_munmap_errors(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(2)
        assert w.p.munmap(w(0) + 1, 1) == -EINVAL
        assert w.p.munmap(w(0), 0) == -EINVAL
        assert w.p.munmap((1 << 47) - PAGE, 2) == -EINVAL
        assert w.p.munmap(w(6), 1) == 0
        assert w.layout() == "a0-a2@0"

    run(body, kernel)


OPENED = {
    # which part is the new VMA: up to 6.2 the one that goes (and what lies behind it), then those that stay
    "head": ([("open", "a0-a1"), ("close", "a0-a1")], [("open", "a1-a4"), ("close", "a0-a1")]),
    "tail": ([("open", "a3-a4"), ("close", "a3-a4")], [("open", "a0-a3"), ("close", "a3-a4")]),
    "middle": (
        [("open", "a1-a4"), ("open", "a1-a3"), ("close", "a1-a3")],
        [("open", "a0-a1"), ("open", "a3-a4"), ("close", "a1-a3")],
    ),
    "all": ([("close", "a0-a4")], [("close", "a0-a4")]),
}


@pytest.mark.parametrize(("kernel", "column"), [("v5.10", 0), ("deb-6.1.192", 0), ("v6.6", 1), ("v6.12", 1)])
@pytest.mark.parametrize("cut", OPENED)
def test_which_half_is_new(kernel: str, column: int, cut: str) -> None:
    start, pages, _ = CUTS[cut]

    def body(w: World) -> None:
        w.p.mmap(w.char.file, 4)
        original = w.vma(w(0))
        del w.char.calls[:]
        w.p.munmap(w(start), pages)
        assert w.char.calls == OPENED[cut][column]
        if cut != "all":
            survives = any(v is original for v in w.p.mm.peek("mm_mt"))
            assert survives == (column == 0)

    run(body, kernel)


def test_a_listed_vma_keeps_its_pages_or_refaults() -> None:
    """6.1: the upper survivor of a middle cut went through ->open, which empties it; the lower one keeps its pages."""

    def body(w: World) -> None:
        w.bar(4, touch=True)
        w.p.munmap(w(1), 1)
        assert w.populated() == "a0"
        assert w.p.read(w(3)) == 0
        assert w.populated() == "a0 a2 a3"

    run(body, OLD)


@everywhere
def test_munmap_downgrades(kernel: str) -> None:
    """munmap(2) unmaps under mmap_lock R, whoever else unmaps keeps W."""

    def body(w: World) -> None:
        modes = []
        w.char.close = lambda vma: modes.append(vma.vm_mm.mmap_lock.held())  # type: ignore[method-assign]
        w.p.mmap(w.char.file, 2)
        w.p.munmap(w(1), 1)
        w.p.mmap(w.char.file, 1)
        w.p.mmap(w.char.file, 2, at="b")
        w.p.mremap(w(0, "b"), 2, 1)
        w.p.mremap(w(0, "b"), 1, 1, to="c")
        assert modes == ["read", "write", "read", "write"]

    run(body, kernel)


@both
def test_a_split_that_fails_leaves_the_mapping(kernel: str) -> None:
    def body(w: World) -> None:
        mmap_write_lock(w.p.mm)
        got = do_munmap(w.p.mm, w(1), PAGE, downgrade=True)
        if got == 1:
            mmap_read_unlock(w.p.mm)
        else:
            assert got == -ENOMEM
            mmap_write_unlock(w.p.mm)
        assert w.layout() in ("a0-a1@0 a2-a4@2", "a0-a4@0", "a0-a1@0 a1-a4@1")
        assert (got == 1) == (w.layout() == "a0-a1@0 a2-a4@2")
        assert w.vma(w(0)).vm_file.f_mapping.i_mmap.items == list(w.p.mm.peek("mm_mt"))

    run(body, kernel, before=lambda w: w.bar(4), once=False, failures=1)


@everywhere
def test_exit(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(2, touch=True)
        w.p.mmap(w.char.file, 1, at="b")
        w.p.exit()
        assert w.layout() == ""
        assert w.populated() == ""
        assert w.dev.mapping.i_mmap.items == []
        assert w.char.calls[-1] == ("close", "b0-b1")
        assert not mmget_not_zero(w.p.mm)

    run(body, kernel)
