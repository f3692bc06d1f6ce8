"""What the mm asks a driver beside ->fault: may a VMA be split, moved, have other permissions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.kernel.errno import EACCES, EBUSY, EINVAL, EPERM
from mmlitmus.kernel.mm.madvise import MADV_DONTFORK
from mmlitmus.kernel.mm.memory import vmf_insert_pfn
from mmlitmus.kernel.mm.mm_types import VM_EXEC, VM_IO, VM_MIXEDMAP, VM_PFNMAP, VM_READ, VM_SHARED, VM_WRITE, VmArea
from mmlitmus.kernel.mm.mmap import PROT_NONE, PROT_READ, PROT_WRITE
from mmlitmus.kernel.mm.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE

from .world import ERAS, PAGE, CharDev, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)
FIRST = ("v5.10", "deb-5.10.262")


class Hooked(CharDev):
    """Has every hook; each says what ``answers`` has for it, and notes that it was asked, and with what."""

    def __init__(self, w: World) -> None:
        super().__init__(w.m, "hooked")
        self.answers: dict[str, int] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.w = w
        self.flags = VM_IO | VM_PFNMAP
        self.on_fault = lambda vmf: vmf_insert_pfn(vmf.vma, vmf.address, self.base + vmf.pgoff)

    def tell(self, hook: str, *what: Any) -> int:
        self.asked.append((hook, *what))
        return self.answers.get(hook, 0)

    def may_split(self, vma: VmArea, addr: int) -> int:
        return self.tell("may_split", self.label(vma.vm_start), self.label(addr))

    def mremap(self, vma: VmArea) -> int:
        there = [self.label(a) for a, _ in self.w.m.translations(vma.vm_mm)]
        return self.tell("mremap", self.label(vma.vm_start), self.label(vma.vm_end), " ".join(there))

    def mprotect(self, vma: VmArea, start: int, end: int, newflags: int) -> int:
        flags = newflags & (VM_READ | VM_WRITE | VM_EXEC | VM_SHARED)
        return self.tell("mprotect", self.label(start), self.label(end), flags)


def hooked(kernel: str, body: Callable[[World, Hooked, int], object], pages: int = 4) -> None:
    """``body`` on a mapping at a0, of which page 0 and the last have been touched."""

    def whole(w: World) -> None:
        d = Hooked(w)
        a = w.p.mmap(d.file, pages)
        for n in (0, pages - 1):
            assert w.p.write(a + n * PAGE) == 0
        d.asked.clear()
        body(w, d, a)

    run(whole, kernel)


@everywhere
def test_may_split_is_asked_by_every_split(kernel: str) -> None:
    """By munmap of each kind, mprotect, madvise, mlock of a part; of a whole mapping, and of none, nobody."""

    def body(w: World, d: Hooked, a: int) -> None:
        for ask, at in (
            (lambda: w.p.munmap(a, 1), ["a1"]),
            (lambda: w.p.munmap(a + 3 * PAGE, 1), ["a3"]),
            (lambda: w.p.munmap(a + PAGE, 1), ["a1"]),
            (lambda: w.p.mprotect(a, 2, PROT_READ), ["a2"]),
            (lambda: w.p.madvise(a + 2 * PAGE, 2, MADV_DONTFORK), ["a2"]),
            (lambda: w.p.mremap(a, 4, 2), ["a2"]),
        ):
            d.asked.clear()
            d.answers["may_split"] = -EBUSY
            assert ask() == -EBUSY
            assert [one for one in d.asked if one[0] == "may_split"] == [("may_split", "a0", one) for one in at]
            assert w.layout() == "a0-a4@0"
            assert w.populated() == "a0 a3"
        d.answers.clear()
        d.asked.clear()
        assert w.p.munmap(a + PAGE, 1) == 0
        middle = [one[1:] for one in d.asked]
        assert middle == [("a0", "a1"), ("a1", "a2")], middle
        d.asked.clear()
        assert w.p.munmap(a, 1) == 0
        assert w.p.mprotect(a + 2 * PAGE, 2, PROT_READ) == 0
        assert w.p.munmap(a + 2 * PAGE, 2) == 0
        assert [one for one in d.asked if one[0] == "may_split"] == []

    hooked(kernel, body)


@everywhere
def test_the_second_split_of_one_munmap_is_refused(kernel: str) -> None:
    """What is split already stays split, and nothing is unmapped (mm/mmap.c __do_munmap, mm/vma.c vms_gather_...)."""

    def body(w: World, d: Hooked, a: int) -> None:
        refuse = d.may_split

        def second(vma: VmArea, addr: int) -> int:
            refuse(vma, addr)
            return -EPERM if len(d.asked) == 2 else 0

        d.may_split = second  # type: ignore[method-assign]
        assert w.p.munmap(a + PAGE, 2) == -EPERM
        assert w.layout() == "a0-a1@0 a1-a4@1"
        assert w.populated() == "a0 a3"

    hooked(kernel, body)


@everywhere
def test_a_part_that_cannot_be_split_off_is_not_moved(kernel: str) -> None:
    """5.10 moves it all the same: then the source cannot be unmapped, and stays whole, its translations gone."""

    def body(w: World, d: Hooked, a: int) -> None:
        d.answers["may_split"] = -EBUSY
        got = w.p.mremap(a, 1, 1, to="b")
        if kernel in FIRST:
            assert got == w(0, "b")
            assert w.layout() == "a0-a4@0 b0-b1@0"
            assert w.populated() == "a3 b0"
            assert [one[0] for one in d.asked] == ["mremap", "may_split"]
        else:
            assert got == -EBUSY
            assert w.layout() == "a0-a4@0"
            assert w.populated() == "a0 a3"
            assert d.asked == [("may_split", "a0", "a1")]
        d.asked.clear()
        assert w.p.mremap(a + 3 * PAGE, 1, 1, to="c") == (w(0, "c") if kernel in FIRST else -EBUSY)
        d.asked.clear()
        d.answers.clear()
        assert w.p.mremap(a + PAGE, 2, 2, to="d") == w(0, "d")
        splits = [one[2] for one in d.asked if one[0] == "may_split"]
        assert splits == (["a1", "a3"] if kernel in FIRST else ["a1", "a3", "a1", "a3"])
        d.asked.clear()
        d.answers["may_split"] = -EBUSY
        assert w.p.mremap(w(0, "d"), 2, 2, to="e") == w(0, "e"), "all of a mapping needs no split"

    hooked(kernel, body)


@everywhere
def test_mremap_is_told_of_the_copy(kernel: str) -> None:
    """When the entries are at their new place, and the source is still mapped."""

    def body(w: World, d: Hooked, a: int) -> None:
        assert w.p.mremap(a, 4, 4, to="b") == w(0, "b")
        assert d.asked == [("mremap", "b0", "b4", "b0 b3")]
        assert w.layout() == "b0-b4@0"
        d.asked.clear()
        assert w.p.mremap(w(0, "b"), 4, 2) == w(0, "b")
        assert [one[0] for one in d.asked] == ["may_split"], "nothing has moved"

    hooked(kernel, body)


@pytest.mark.parametrize(
    ("kernel", "flags"),
    [(kernel, MREMAP_MAYMOVE | MREMAP_FIXED) for kernel in ERAS]
    + [(kernel, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) for kernel in ERAS if kernel not in FIRST],
)
def test_a_move_that_is_refused_is_undone(kernel: str, flags: int) -> None:
    """Its errno comes out, the entries are back, the copy has been opened and closed."""
    def body(w: World, d: Hooked, a: int) -> None:
        d.answers["mremap"] = -EINVAL
        d.calls.clear()
        assert w.p.mremap(a, 4, 4, to="b", flags=flags) == -EINVAL
        assert d.asked == [("mremap", "b0", "b4", "b0 b3")]
        assert d.calls == [("open", "b0-b4"), ("close", "b0-b4")]
        assert w.layout() == "a0-a4@0"
        assert w.populated() == "a0 a3"
        assert w.p.mm.peek("total_vm") == 4

    def whole(w: World) -> None:
        d = Hooked(w)
        d.flags = VM_MIXEDMAP
        d.on_fault = lambda vmf: vmf_insert_pfn(vmf.vma, vmf.address, 0xF0000 + vmf.pgoff)
        a = w.p.mmap(d.file, 4)
        for n in (0, 3):
            assert w.p.write(a + n * PAGE) == 0
        body(w, d, a)

    run(whole, kernel, finds=("access-to-nowhere",))


@everywhere
def test_mprotect_is_asked_of_each_mapping(kernel: str) -> None:
    """From 5.11 on: before anything of a mapping changes; what came before it stays changed."""

    def body(w: World, d: Hooked, a: int) -> None:
        shared = VM_SHARED | VM_READ
        assert w.p.mprotect(a + PAGE, 1, PROT_READ) == 0
        asked = [one for one in d.asked if one[0] == "mprotect"]
        if kernel in FIRST:
            assert asked == []
            return
        assert asked == [("mprotect", "a1", "a2", shared)]
        d.asked.clear()
        d.answers["mprotect"] = -EACCES
        assert w.p.mprotect(a, 4, PROT_NONE) == -EACCES
        assert d.asked == [("mprotect", "a0", "a1", VM_SHARED)], "it ends at the first that says no"
        assert w.p.read(a + 3 * PAGE) == 0
        d.asked.clear()
        d.answers.clear()
        assert w.p.mprotect(a, 4, PROT_READ | PROT_WRITE) == 0
        both = shared | VM_WRITE
        assert d.asked == [("mprotect", *part, both) for part in (("a0", "a1"), ("a1", "a2"), ("a2", "a4"))]

    hooked(kernel, body)


@everywhere
def test_mprotect_is_not_asked_for_what_may_not_be(kernel: str) -> None:
    """The VMA's own limits come first."""

    def body(w: World) -> None:
        d = Hooked(w)
        file = type(d.file)("/dev/read-only", d, d.mapping, writable=False)
        a = w.p.mmap(file, 1, prot=PROT_READ)
        assert w.p.mprotect(a, 1, PROT_WRITE) == -EACCES
        assert d.asked == []

    run(body, kernel)
