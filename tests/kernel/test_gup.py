"""get_user_pages: what each path says of each mapping, what is held afterwards, and that nothing is left over."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.invariants.folios import folios_at_rest
from mmlitmus.kernel.arch.x86.pgtable import RW, pte_pfn
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.errno import EBUSY, EFAULT, EINTR, EINVAL, EIO
from mmlitmus.kernel.mm import gup, gup_fast
from mmlitmus.kernel.mm.gup import (
    FOLL_ANON,
    FOLL_DUMP,
    FOLL_FORCE,
    FOLL_GET,
    FOLL_LONGTERM,
    FOLL_NOFAULT,
    FOLL_PIN,
    FOLL_WRITE,
    Locked,
    Pages,
)
from mmlitmus.kernel.mm.memory_pages import vm_insert_page
from mmlitmus.kernel.mm.mm_types import VM_PFNMAP
from mmlitmus.kernel.mm.mmap import MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.page_alloc import DRIVER, MIGRATE_CMA, ZONE_MOVABLE, new_folio

from .world import ERAS, PAGE, World, run, search

everywhere = pytest.mark.parametrize("kernel", ERAS)
PATHS = ("slow", "remote", "fast")
RW_PROT = PROT_READ | PROT_WRITE


def balanced(w: World) -> bool:
    return not list(folios_at_rest(w.m))


@everywhere
@pytest.mark.parametrize("how", PATHS)
def test_a_pin_counts_1024_and_a_get_1(kernel: str, how: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        w.p.write(a)
        folio = w.m.pages[pte_pfn(w.p.pte(a))]
        got, pins = w.p.pin(a, 1, FOLL_WRITE, how=how)
        assert (got, folio.refcount) == (1, 1025)
        got, refs = w.p.get(a, 1, how=how)
        assert (got, folio.refcount) == (1, 1026)
        w.p.munmap(a, 2)
        assert not folio.freed, "the pin keeps it"
        w.p.unpin(pins)
        w.p.put(refs)
        assert folio.freed
        assert balanced(w)

    run(body, kernel)


@everywhere
def test_a_large_folio_is_pinned_exactly(kernel: str) -> None:
    def body(w: World) -> None:
        folio = new_folio(w.m, DRIVER, "the driver", order=2)
        pages = Pages("somebody")
        assert gup.try_grab_folio(folio, FOLL_PIN, "somebody")
        pages.add(folio, folio.pfn)
        assert (folio.refcount, folio.pincount) == (2, 1)
        gup.unpin_user_pages(pages)
        assert (folio.refcount, folio.pincount) == (1, 0)

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("how", PATHS)
def test_what_the_vma_forbids(kernel: str, how: str) -> None:
    def body(w: World) -> None:
        readable = w.p.mmap_anon(1, at="a", prot=PROT_READ)
        nothing = w.p.mmap_anon(1, at="b", prot=PROT_NONE)
        hole = w.m.slot("c")
        for flags in (0, FOLL_LONGTERM):
            assert w.p.pin(readable, 1, flags | FOLL_WRITE, how=how)[0] == -EFAULT
            assert w.p.pin(nothing, 1, flags, how=how)[0] == -EFAULT
            assert w.p.pin(hole, 1, flags, how=how)[0] == -EFAULT
            assert w.p.pin(w.bar(1, at=w.m.slot("d")), 1, flags, how=how)[0] == -EFAULT
        got, pages = w.p.pin(readable, 1, FOLL_WRITE | FOLL_FORCE, how=how)
        assert got == 1, "a debugger may write to what could be written"
        assert not w.p.pte(readable) & RW
        w.p.unpin(pages)
        got, pages = w.p.pin(nothing, 1, FOLL_FORCE, how=how)
        assert got == 1
        w.p.unpin(pages)
        assert balanced(w)

    run(body, kernel)


def test_force_does_not_write_to_a_shared_mapping() -> None:
    def body(w: World) -> None:
        folio = new_folio(w.m, DRIVER, "the driver")
        w.char.flags = 0
        w.char.on_mmap = lambda vma: vm_insert_page(vma, vma.vm_start, folio)
        a = w.p.mmap(w.char.file, 1, prot=PROT_READ, flags=MAP_SHARED)
        assert w.p.pin(a, 1, FOLL_WRITE | FOLL_FORCE)[0] == -EFAULT
        assert w.p.pin(a, 1)[0] == 1
        assert w.p.pin(a, 1, FOLL_ANON)[0] == -EFAULT

    run(body, "v6.12")


def test_vm_insert_page_refuses() -> None:
    """A PFNMAP is a BUG; a page of a process, a slot in use, an address outside are errnos."""

    def body(w: World) -> None:
        folio = new_folio(w.m, DRIVER, "the driver")
        a = w.p.mmap_anon(1, at="b")
        w.p.write(a)
        own = w.m.pages[pte_pfn(w.p.pte(a))]
        seen: list[int] = []

        def on_mmap(vma: Any) -> int:
            seen.extend(vm_insert_page(vma, at, what) for at, what in (
                (vma.vm_end, folio), (vma.vm_start, own), (vma.vm_start, folio), (vma.vm_start, folio),
            ))  # fmt: skip
            return 0

        w.char.flags = 0
        w.char.on_mmap = on_mmap
        w.p.mmap(w.char.file, 1)
        assert seen == [-EFAULT, -EINVAL, 0, -EBUSY]
        w.char.flags = VM_PFNMAP
        w.char.on_mmap = lambda vma: vm_insert_page(vma, vma.vm_start, folio)
        w.p.mmap(w.char.file, 1, at=w.m.slot("c"))

    run(body, "v6.12", finds=("insert-page-pfnmap",))


@everywhere
def test_ranges(kernel: str) -> None:
    """Empty, crossing a hole, into what is forbidden: how many were had, and nothing is held of what was not."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(4)
        assert w.p.pin(a, 0)[0] == 0
        assert w.p.pin(a, 0, FOLL_LONGTERM)[0] == 0
        w.p.munmap(a + 2 * PAGE, 1)
        for how in PATHS:
            got, pages = w.p.pin(a, 4, FOLL_WRITE, how=how)
            assert got == len(pages) == 2
            assert None not in pages.folios
            w.p.unpin(pages)
        assert w.p.pin(a + 2 * PAGE, 2)[0] == -EFAULT
        w.p.mprotect(a + PAGE, 1, PROT_READ)
        got, pages = w.p.pin(a + 8, 2, FOLL_WRITE | FOLL_LONGTERM, how="remote")
        assert got == 1, "an unaligned address is its page's"
        w.p.unpin(pages)
        assert w.p.pin((1 << 47) - PAGE, 2, how="fast")[0] == -EFAULT
        assert balanced(w)

    run(body, kernel)


@everywhere
def test_flags_that_exclude_each_other(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        assert w.p.pin(a, 1, FOLL_GET)[0] == -EINVAL
        assert w.p.get(a, 1, FOLL_LONGTERM)[0] == -EINVAL
        assert w.p.get(a, 1, FOLL_LONGTERM, how="fast")[0] == -EINVAL
        assert w.p.pin(a, 1, FOLL_ANON, how="fast")[0] == -EINVAL
        assert balanced(w)

    run(body, kernel, finds=("gup-flags",))


@everywhere
def test_without_faulting(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        assert w.p.get(a, 1, FOLL_NOFAULT)[0] == -EFAULT
        assert w.p.get(a, 1, how="fast_only")[0] == 0
        assert w.p.get(a, 1, FOLL_DUMP)[0] == -EFAULT, "a core dump leaves holes out"
        w.p.read(a)
        assert w.p.get(a, 1, FOLL_DUMP)[0] == -EFAULT, "and the zero page"
        assert w.p.get(a, 1, how="fast_only")[0] == 0, "a special entry stops the fast path"
        w.p.write(a)
        got, pages = w.p.get(a, 2, how="fast_only")
        assert got == 1
        w.p.put(pages)
        assert balanced(w)

    run(body, kernel)


@everywhere
def test_the_fast_path_falls_back_for_the_rest(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(3)
        w.p.write(a)
        got, pages = w.p.pin(a, 3, FOLL_WRITE, how="fast")
        assert got == 3
        assert [pte_pfn(w.p.pte(a + n * PAGE)) for n in range(3)] == pages.pfns
        w.p.unpin(pages)
        assert balanced(w)

    run(body, kernel)


def test_sigkill_ends_it() -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.m.killable("task")()
        assert w.p.pin(a, 1)[0] == -EINTR
        assert w.p.pin(a, 1, FOLL_LONGTERM, how="fast")[0] == -EINTR
        assert balanced(w)

    run(body, "v6.12")


def test_the_lock_is_taken_for_who_does_not_hold_it() -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        locked, pages = Locked(False), Pages("somebody")
        assert gup.__dict__["__get_user_pages_locked"](w.p.mm, a, 1, FOLL_GET, pages, locked) == 1
        assert not locked.held
        assert w.p.mm.mmap_lock.held() is None
        gup.put_pages(pages)
        locked = Locked(True)
        mmap_read_lock(w.p.mm)
        assert gup_fast.pin_user_pages_remote(w.p.mm, a, 1, 0, pages, locked) == 1
        assert locked.held
        mmap_read_unlock(w.p.mm)

    run(body, "v6.12")


@everywhere
def test_a_fault_that_drops_the_lock_is_gone_on_with(kernel: str) -> None:
    """A driver that says RETRY the first time, and gives its page the second."""

    def body(w: World) -> None:
        folio = new_folio(w.m, DRIVER, "the driver")
        w.char.flags = 0
        calls: list[bool] = []

        def fault(vmf: Any) -> int:
            may = bool(vmf.flags & 0x4)  # FAULT_FLAG_ALLOW_RETRY
            calls.append(may)
            if may and len(calls) == 1:
                mmap_read_unlock(vmf.vma.vm_mm)
                return 0x400  # VM_FAULT_RETRY
            return 0x100 if not vm_insert_page(vmf.vma, vmf.address, folio) else 0x2

        def on_mmap(vma: Any) -> int:
            vma.vm_flags = vma.vm_flags | 1 << 28  # VM_MIXEDMAP, so that the fault need not set it
            return 0

        w.char.on_fault, w.char.on_mmap = fault, on_mmap
        a = w.p.mmap(w.char.file, 1)
        assert w.p.process_vm_readv(a, 1) == PAGE
        assert calls == [True, True]
        assert balanced(w)

    run(body, kernel)


@everywhere
def test_its_users(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2, at="a", prot=PROT_READ)
        assert w.p.process_vm_readv(a, 2) == 2 * PAGE
        assert w.p.process_vm_writev(a, 2) == -EFAULT
        assert w.p.process_vm_readv(w.m.slot("e"), 1) == -EFAULT
        assert w.p.ptrace_peek(a) == PAGE
        assert w.p.ptrace_poke(a) == PAGE, "permissions do not stop a debugger"
        assert not w.p.pte(a) & RW
        assert w.p.ptrace_peek(w.bar(1, at=w.m.slot("d"))) == -EIO
        b = w.p.mmap_anon(2, at="b")
        assert w.p.direct_io(b, 2, True) == 2
        assert w.p.direct_io(a, 1, True) == -EFAULT
        got, pipe = w.p.vmsplice(b, 2)
        assert got == 2
        assert w.m.pages[pte_pfn(w.p.pte(b))].refcount == 2
        w.p.put(pipe)
        assert balanced(w)

    run(body, kernel)


@everywhere
def test_force_writes_to_the_process_s_own_page(kernel: str) -> None:
    """Whatever was mapped, after a forced write the page is the process's own; the other sharer keeps the old one."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        child = w.p.fork("child")
        w.p.mprotect(a, 1, PROT_READ)
        shared = pte_pfn(child.pte(a))
        assert w.p.ptrace_poke(a) == PAGE
        assert pte_pfn(w.p.pte(a)) != shared
        assert pte_pfn(child.pte(a)) == shared
        assert w.p.read(a) == 0
        assert w.p.write(a) == "SIGSEGV"
        child.exit()
        assert balanced(w)

    run(body, kernel)


# -- for long ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kernel", "entry", "refs"),
    [
        ("deb-5.10.262", 0x225, 1025),
        ("deb-6.1.192", 0x225, 1),
        ("deb-6.12.117", 0x025, 1025),
        ("deb-7.3.4", 0x025, 1025),
    ],
)
def test_the_zero_page_as_recorded(kernel: str, entry: int, refs: int) -> None:
    """A long-term pin for reading of a page that was only read."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.read(a)
        got, pages = w.p.pin(a, 1, FOLL_LONGTERM)
        assert got == 1
        assert w.p.pte(a) & 0xFFF == entry
        assert w.m.pages[pages.pfns[0] or 0].refcount == refs
        w.p.unpin(pages)
        assert balanced(w)

    run(body, kernel)


@pytest.mark.parametrize("kernel", ["v5.10", "v5.14", "v6.1", "v6.12", "v7.3"])
@pytest.mark.parametrize("where", ["CMA", "MOVABLE"])
@pytest.mark.parametrize("how", PATHS)
def test_what_may_not_stay_is_moved(kernel: str, where: str, how: str) -> None:
    stays = kernel == "v5.10" and where == "MOVABLE"

    def body(w: World) -> None:
        if where == "CMA":
            w.m.user_migratetype = MIGRATE_CMA
        else:
            w.m.user_zone = ZONE_MOVABLE
        a = w.p.mmap_anon(2)
        w.p.write(a)
        w.p.write(a + PAGE)
        before = [pte_pfn(w.p.pte(a + n * PAGE)) for n in range(2)]
        got, pages = w.p.pin(a, 2, FOLL_LONGTERM | FOLL_WRITE, how=how)
        assert got == 2
        assert (pages.pfns == before) is stays
        for folio in pages.folios:
            assert folio is not None
            assert stays or (folio.zone, folio.migratetype) != (ZONE_MOVABLE, MIGRATE_CMA)
            assert folio.refcount == 1025
        if not stays:
            assert all(w.m.pages[pfn].freed for pfn in before)
        w.p.write(a)
        assert pte_pfn(w.p.pte(a)) == pages.pfns[0]
        w.p.unpin(pages)
        assert balanced(w)

    run(body, f"{kernel} CMA")


@pytest.mark.parametrize("kernel", ["deb-5.10.262 CMA", "v6.1 CMA", "v6.12 CMA"])
def test_no_memory_to_move_it_to(kernel: str) -> None:
    """-ENOMEM, and nothing is left pinned or isolated."""
    seen: set[int] = set()

    def body(w: World) -> None:
        w.m.user_migratetype = MIGRATE_CMA
        a = w.p.mmap_anon(1)
        w.p.write(a)
        w.m.failures = 2

        @w.m.task
        def pin() -> None:
            got, pages = w.p.pin(a, 1, FOLL_LONGTERM | FOLL_WRITE)
            seen.add(got)
            w.p.unpin(pages)
            w.m.require(balanced(w), "unbalanced", "something is left")

    results = search(body, kernel)
    assert seen == {1, -12}
    assert not results.found


@pytest.mark.parametrize(("kernel", "finds"), [("v5.10", ("fast-gup-no-page",)), ("v6.12", ())])
def test_a_huge_leaf_of_a_device_has_no_page_for_the_fast_path(kernel: str, finds: tuple[str, ...]) -> None:
    """Nothing marked it special while there was one before 6.12: the fast path takes the frame for a page."""

    def body(w: World) -> None:
        a = w.p.mmap(open_probe(w.m, 512, pfn=0x100000).file("huge"), 512)
        w.p.write(a)
        assert w.p.get(a, 1, FOLL_WRITE, how="fast_only")[0] == 0

    run(body, kernel, finds=finds)
