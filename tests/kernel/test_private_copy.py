"""Private copies of device pages: who maps one, when it is written in place, and what counts and files say of it."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.kernel.arch.x86.pgtable import pte_pfn
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, open_probe
from mmlitmus.kernel.fs.proc import page
from mmlitmus.kernel.fs.proc.task_mmu import PM_MMAP_EXCLUSIVE, PM_PRESENT, PM_SOFT_DIRTY
from mmlitmus.kernel.mm.mm_types import VM_FAULT_SIGBUS
from mmlitmus.kernel.mm.mmap import MAP_LOCKED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE

from .world import ERAS, PAGE, World, found, run, search

RW = PROT_READ | PROT_WRITE
everywhere = pytest.mark.parametrize("kernel", ERAS)


def copied(w: World, pages: int = 3) -> int:
    """A private mapping of reserved memory with a copy at page 1: forks fail where the first page is one."""
    w.probe = open_probe(w.m)
    a = w.p.mmap(w.probe.file("remap", "", "reserved"), pages, flags=MAP_PRIVATE)
    assert w.p.write(a + PAGE) == 0
    return a + PAGE


def frame(w: World, address: int, process: Any = None) -> int:
    return pte_pfn((process or w.p).pte(address))


def maps(w: World, pfn: int) -> int:
    refs, mapped = page.counts(w.m, pfn)
    assert refs == mapped
    return mapped


def entries_of(w: World, pfn: int) -> int:
    """How many entries map a frame, from the page tables."""
    return sum(
        pte_pfn(entry) == pfn for mm in w.m.mms for table in mm.pgd.values() for entry in table.values.values() if entry
    )


@everywhere
def test_a_copy_is_counted_by_what_maps_it(kernel: str) -> None:
    def body(w: World) -> None:
        a = copied(w)
        copy = frame(w, a)
        assert maps(w, copy) == entries_of(w, copy) == 1
        assert maps(w, frame(w, a + PAGE)) == 0, "a special entry counts nothing"
        child = w.p.fork("child")
        assert frame(w, a, child) == copy
        assert maps(w, copy) == entries_of(w, copy) == 2
        assert w.p.mremap(w(0), 3, 3, to="b") == w(0, "b")
        assert maps(w, copy) == entries_of(w, copy) == 2
        child.exit()
        assert maps(w, copy) == entries_of(w, copy) == 1
        w.p.munmap(w(0, "b"), 3)
        assert maps(w, copy) == entries_of(w, copy) == 0

    run(body, kernel)


@everywhere
def test_a_shared_copy_is_copied_once_and_then_written_in_place(kernel: str) -> None:
    def body(w: World) -> None:
        a = copied(w)
        copy = frame(w, a)
        child = w.p.fork("child")
        assert w.p.write(a) == 0
        mine = frame(w, a)
        assert mine != copy
        assert (maps(w, copy), maps(w, mine)) == (1, 1)
        assert child.write(a) == 0
        assert frame(w, a, child) == copy, "nobody else maps it any more"
        assert child.pte(a) & 0xFFF == 0x867
        w.p.mprotect(a, 1, PROT_READ)
        w.p.mprotect(a, 1, RW)
        assert w.p.write(a) == 0
        assert frame(w, a) == mine

    run(body, kernel)


def test_two_processes_that_write_a_shared_copy_at_once() -> None:
    """Whoever comes second finds it shared or not: nobody is left with the other's page, and no count is wrong."""

    def build(w: World) -> None:
        a = copied(w)
        copy = frame(w, a)
        child = w.p.fork("child")

        @w.m.task
        def one() -> None:
            w.m.saw(w.p.write(a))

        @w.m.task(process=child)
        def two() -> None:
            w.m.saw(child.write(a))

        def check() -> list[Any]:
            frames = [frame(w, a), frame(w, a, child)]
            w.m.require(frames[0] != frames[1], "shared-copy-written", f"{frames}")
            for pfn in (*frames, copy):
                w.m.require(maps(w, pfn) == entries_of(w, pfn), "miscounted", f"{pfn:#x}: {maps(w, pfn)}")
            return []

        w.m.check(check)

    results = search(build)
    assert found(results) == set()
    assert {"a private page was copied", "a private page was written in place"} <= results.reached


# -- pagemap ----------------------------------------------------------------------------------------------------------
@everywhere
def test_pagemap_of_a_pfnmap_hides_its_copies_too(kernel: str) -> None:
    def body(w: World) -> None:
        a = copied(w)
        assert [w.p.pagemap(a + n * PAGE) for n in (-1, 0, 1)] == [PM_SOFT_DIRTY] * 3
        assert w.p.pagemap(a + 2 * PAGE) == 0

    run(body, kernel)


@everywhere
def test_pagemap_of_a_mixedmap(kernel: str) -> None:
    """Recorded: a frame without a page is shown, and neither a file's nor anybody's own; a copy is its owner's."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        a = w.p.mmap(w.probe.file("mixed"), 2, flags=MAP_PRIVATE)
        assert w.p.pagemap(a) == PM_SOFT_DIRTY, "nothing is there yet"
        w.p.read(a)
        assert w.p.pagemap(a) == PM_PRESENT | PM_SOFT_DIRTY | BAR_PFN
        w.p.write(a)
        copy = frame(w, a)
        assert w.p.pagemap(a) == PM_PRESENT | PM_SOFT_DIRTY | PM_MMAP_EXCLUSIVE | copy
        child = w.p.fork("child")
        assert w.p.pagemap(a) == child.pagemap(a) == PM_PRESENT | PM_SOFT_DIRTY | copy
        w.p.mprotect(a, 1, 0)
        assert w.p.pagemap(a) == PM_PRESENT | PM_SOFT_DIRTY | copy, "PROT_NONE is present"

    run(body, kernel)


# -- VmLck ------------------------------------------------------------------------------------------------------------
@everywhere
def test_what_is_locked_is_counted(kernel: str) -> None:
    def body(w: World) -> None:
        w.char.flags = 0
        w.char.on_fault = lambda vmf: VM_FAULT_SIGBUS  # what cannot be faulted in is locked all the same
        a = w.p.mmap(w.char.file, 6, flags=MAP_SHARED | MAP_LOCKED)
        assert w.p.locked() == 6
        w.p.munmap(a, 1)
        assert w.p.locked() == 5
        w.p.munlock(a + PAGE, 2)
        w.p.munlock(a + PAGE, 2)
        assert w.p.locked() == 3
        w.p.mlock(a + 2 * PAGE, 2)
        assert w.p.locked() == 4
        assert w.p.mremap(a + 2 * PAGE, 1, 1, to="b") > 0
        assert w.p.locked() == 4
        child = w.p.fork("child")
        assert child.locked() == 0
        w.p.munmap(w(0, "b"), 1)
        assert w.p.locked() == 3
        assert w.p.munmap(a, 6) == 0
        assert w.p.locked() == 0

    run(body, kernel)


@everywhere
def test_a_special_mapping_is_never_locked(kernel: str) -> None:
    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        a = w.p.mmap(w.probe.file("remap"), 4, flags=MAP_SHARED | MAP_LOCKED)
        b = w.p.mmap(w.probe.file("mixed"), 4, at="b")
        assert w.p.mlock(a, 4) == w.p.mlock(b, 4) == 0
        assert w.p.locked() == 0
        assert w.p.munmap(a, 4) == w.p.munlock(b, 4) == 0
        assert w.p.locked() == 0

    run(body, kernel)
