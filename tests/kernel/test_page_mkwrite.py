"""->page_mkwrite: who is asked, with what, and what becomes of the page (mm/memory.c, 5.10.262 to 7.3.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.kernel.arch.x86.fault import GAVE_UP
from mmlitmus.kernel.arch.x86.pgtable import DIRTY, RW
from mmlitmus.kernel.errno import EFAULT
from mmlitmus.kernel.mm.gup import FOLL_LONGTERM, FOLL_WRITE
from mmlitmus.kernel.mm.memory_pages import vm_insert_page
from mmlitmus.kernel.mm.mm_types import (
    FAULT_FLAG_MKWRITE,
    FAULT_FLAG_WRITE,
    VM_FAULT_LOCKED,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_MIXEDMAP,
    VmFault,
)
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, PROT_READ, PROT_WRITE
from mmlitmus.kernel.mm.page_alloc import DRIVER, folio_get, new_folio, page_tables
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_trylock, folio_unlock

from .world import ERAS, CharDev, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)


class Fb(CharDev):
    """One page, inserted or answered by ->fault; ``says`` is what ->page_mkwrite does with the fault."""

    def __init__(self, w: World, mapping: bool = True, answers: bool = False) -> None:
        super().__init__(w.m, "fb")
        self.folio = new_folio(w.m, DRIVER, "the driver")
        self.flags = VM_MIXEDMAP
        self.gives = mapping
        self.on_mmap = self.prepare
        self.on_fault = self.answer if answers else self.insert
        self.asked: list[tuple[int, bool]] = []
        self.says: Callable[[VmFault], int] = lambda vmf: 0

    def prepare(self, vma: Any) -> int:
        if self.gives:
            self.folio.mapping = self.mapping
        return 0

    def insert(self, vmf: Any) -> int:
        vm_insert_page(vmf.vma, vmf.address, self.folio)
        return VM_FAULT_NOPAGE

    def answer(self, vmf: Any) -> int:
        folio_get(self.folio, page_tables(vmf.vma.vm_mm))
        vmf.page = self.folio
        return 0

    def page_mkwrite(self, vmf: VmFault) -> int:
        self.asked.append((vmf.flags, vmf.page is self.folio))
        return self.says(vmf)

    def pfn_mkwrite(self, vmf: VmFault) -> int:
        raise AssertionError("->pfn_mkwrite is for frames without a page")

    def lock(self, vmf: VmFault) -> int:
        folio_lock(vmf.page.lock)
        return VM_FAULT_LOCKED


def at_rest(fb: Fb) -> bool:
    """Is the page unlocked, and held by nobody but the driver and page tables?"""
    free = folio_trylock(fb.folio.lock)
    if free:
        folio_unlock(fb.folio.lock)
    return free and fb.folio.refcount == 1 + fb.folio.mapcount


def check(
    kernel: str, body: Callable[[World, Fb, int], object], read: bool = True, finds: tuple[str, ...] = (), **how: bool
) -> None:
    """``body`` with the page mapped at a0, and read."""

    def whole(w: World) -> None:
        fb = Fb(w, **how)
        a = w.p.mmap(fb.file, 1)
        if read:
            assert w.p.read(a) == 0
            assert not w.p.pte(a) & RW, "the first store is to be heard of"
        body(w, fb, a)
        assert at_rest(fb)

    run(whole, kernel, faults=3, finds=finds)


@everywhere
@pytest.mark.parametrize("locks", [False, True])
@pytest.mark.parametrize("mapping", [False, True])
def test_asked_once(kernel: str, locks: bool, mapping: bool) -> None:
    """Unlocked and without a mapping it is asked for ever; else once, and the page is dirty."""

    def body(w: World, fb: Fb, a: int) -> None:
        if locks:
            fb.says = fb.lock
        got = w.p.write(a)
        asked = (FAULT_FLAG_WRITE | FAULT_FLAG_MKWRITE, True)
        if not locks and not mapping:
            assert got == GAVE_UP
            assert fb.asked == [asked] * 3
            assert not fb.folio.dirty
            return
        assert got == 0
        assert fb.asked == [asked]
        assert fb.folio.dirty
        assert w.p.pte(a) & (RW | DIRTY) == RW | DIRTY
        assert w.p.write(a) == 0
        assert len(fb.asked) == 1
        w.p.munmap(a, 1)
        w.p.mmap(fb.file, 1)
        w.p.read(a)
        w.p.write(a)
        assert len(fb.asked) == 2

    check(kernel, body, mapping=mapping)


@everywhere
@pytest.mark.parametrize("result", [VM_FAULT_SIGBUS, VM_FAULT_OOM, VM_FAULT_NOPAGE])
@pytest.mark.parametrize("answers", [False, True])
def test_says_no(kernel: str, result: int, answers: bool) -> None:
    """SIGBUS; out of memory and NOPAGE come again. Nothing has changed, nothing is held."""

    def body(w: World, fb: Fb, a: int) -> None:
        says = [result]
        fb.says = lambda vmf: says.pop(0) if says else fb.lock(vmf)
        before = w.p.pte(a)
        got = w.p.write(a)
        assert got == ("SIGBUS" if result == VM_FAULT_SIGBUS else 0)
        if result == VM_FAULT_SIGBUS:
            assert w.p.pte(a) == before
            assert not fb.folio.dirty
        assert len(fb.asked) == (1 if result == VM_FAULT_SIGBUS else 2)

    finds = ("oom-leaked",) if result == VM_FAULT_OOM else ()
    check(kernel, body, finds=finds, answers=answers)
    check(kernel, body, finds=finds, read=False, answers=True)


@everywhere
def test_a_page_that_fault_answers_with_is_asked_about_at_once(kernel: str) -> None:
    """A store to what is not mapped: ->fault, then ->page_mkwrite, then it is mapped writable (do_shared_fault)."""

    def body(w: World, fb: Fb, a: int) -> None:
        fb.says = fb.lock
        assert w.p.write(a) == 0
        assert len(fb.asked) == 1
        assert w.p.pte(a) & (RW | DIRTY) == RW | DIRTY
        assert fb.folio.dirty
        assert fb.folio.refcount == 2

    check(kernel, body, read=False, answers=True)


@everywhere
def test_fault_may_answer_with_a_page_that_it_has_locked(kernel: str) -> None:
    def body(w: World) -> None:
        fb = Fb(w, answers=True)
        fb.says = fb.lock

        def locked(vmf: Any) -> int:
            fb.answer(vmf)
            folio_lock(fb.folio.lock)
            return VM_FAULT_LOCKED

        fb.on_fault = locked
        a = w.p.mmap(fb.file, 1)
        assert w.p.read(a) == 0
        assert at_rest(fb)
        assert w.p.write(w.p.mmap(fb.file, 1, at="b")) == 0
        assert at_rest(fb)
        assert w.p.write(w.p.mmap(fb.file, 1, at="c", flags=MAP_PRIVATE)) == 0
        assert at_rest(fb)

    run(body, kernel)


@everywhere
def test_private_mappings_do_not_ask(kernel: str) -> None:
    def body(w: World) -> None:
        fb = Fb(w, answers=True)
        a = w.p.mmap(fb.file, 1, flags=MAP_PRIVATE)
        w.p.read(a)
        assert w.p.write(a) == 0
        assert fb.asked == []
        assert not fb.folio.dirty

    run(body, kernel)


@everywhere
def test_the_entry_changes_while_it_is_asked(kernel: str) -> None:
    """It is left as it is; the store faults again, and the page has been unlocked and given back."""

    def whole(w: World) -> None:
        fb = Fb(w)
        a = w.p.mmap(fb.file, 1)
        w.p.read(a)
        changed: list[int] = []

        def says(vmf: VmFault) -> int:
            if not changed:
                changed.append(1)
                table = vmf.vma.vm_mm.pgd[a >> 21]
                table.put(a, table.peek_pte(a) | DIRTY)
            return fb.lock(vmf)

        fb.says = says
        assert w.p.write(a) == 0
        assert len(fb.asked) == 2
        assert w.p.pte(a) & RW
        assert at_rest(fb)

    run(whole, kernel, faults=4)


@everywhere
def test_mprotect_leaves_the_first_store_to_be_heard_of(kernel: str) -> None:
    def body(w: World, fb: Fb, a: int) -> None:
        fb.says = fb.lock
        assert w.p.mprotect(a, 1, PROT_READ) == 0
        assert w.p.mprotect(a, 1, PROT_READ | PROT_WRITE) == 0
        assert not w.p.pte(a) & RW
        assert w.p.write(a) == 0
        assert len(fb.asked) == 1
        assert w.p.mprotect(a, 1, PROT_READ) == 0
        assert w.p.mprotect(a, 1, PROT_READ | PROT_WRITE) == 0
        assert w.p.write(a) == 0
        assert len(fb.asked) == 1, "it knows of this page"

    check(kernel, body)


@everywhere
def test_pins_for_long(kernel: str) -> None:
    """Not to write to: the driver would not hear of it (6.6, writable_file_mapping_allowed). Others ask."""
    refused = kernel not in ("v5.10", "deb-5.10.262", "v6.1", "deb-6.1.192")

    def body(w: World, fb: Fb, a: int) -> None:
        fb.says = fb.lock
        got, pages = w.p.pin(a, 1, FOLL_LONGTERM | FOLL_WRITE)
        assert got == (-EFAULT if refused else 1)
        assert len(fb.asked) == (0 if refused else 1)
        w.p.unpin(pages)
        got, pages = w.p.get(a, 1, FOLL_WRITE)
        assert got == 1
        assert len(fb.asked) == 1
        w.p.put(pages)

    check(kernel, body)


@everywhere
def test_who_asks_for_pages_may_be_without_mmap_lock_for_it(kernel: str) -> None:
    """A page with a mapping makes the fault give mmap_lock back, where that may be."""

    def body(w: World, fb: Fb, a: int) -> None:
        fb.says = fb.lock
        got, pages = w.p.get(a, 1, FOLL_WRITE, how="remote", may_drop=True)
        assert got == 1
        w.p.put(pages)
        assert len(fb.asked) == 1

    check(kernel, body)
    check(kernel, body, mapping=False)


@pytest.mark.parametrize(("kernel", "taken"), [("v6.9", True), ("v6.12", False), ("v6.18", False), ("v7.3", True)])
def test_the_fast_path_and_pages_that_have_a_mapping(kernel: str, taken: bool) -> None:
    """From 6.10 to 6.18 it takes no page without one; one with it it does (gup_fast_folio_allowed)."""

    def ask(mapping: bool) -> int:
        def body(w: World) -> int:
            fb = Fb(w, mapping=mapping)
            a = w.p.mmap(fb.file, 1)
            w.p.read(a)
            got, pages = w.p.get(a, 1, how="fast_only")
            w.p.put(pages)
            return got

        return int(run(body, kernel).result)

    assert ask(True) == 1
    assert ask(False) == (1 if taken else 0)
