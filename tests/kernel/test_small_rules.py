"""Rules that nothing else here notices: each is one line of the model, and a test that fails without it."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.runtime import current
from mmlitmus.invariants.folios import folios_at_rest
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.fault import Unlocked, fixup_user_fault
from mmlitmus.kernel.arch.x86.pgtable import pte_pfn
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.mm import gup_longterm, mmu_gather, vmscan
from mmlitmus.kernel.mm.gup import FOLL_LONGTERM
from mmlitmus.kernel.mm.madvise import MADV_DONTNEED, MADV_PAGEOUT
from mmlitmus.kernel.mm.memory_pages import vm_insert_page
from mmlitmus.kernel.mm.migrate import migrate_pages
from mmlitmus.kernel.mm.mm_types import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_REMOTE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_WRITE,
    VM_FAULT_NOPAGE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_MIXEDMAP,
)
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.page_alloc import (
    ANON,
    COHERENT,
    LRU_BATCH,
    LRU_ON,
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    ZERO,
    ZONE_MOVABLE,
    ZONE_NORMAL,
    Folio,
    driver_folio,
    new_folio,
)
from mmlitmus.kernel.mm.pfnmap_track import design as tracking
from mmlitmus.kernel.mm.swap import folio_isolate_lru
from mmlitmus.kernel.sync.mutex import mutex_lock, mutex_unlock

from .world import ERAS, PAGE, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)


def of(w: World, address: int) -> Folio:
    folio: Folio = w.m.pages[pte_pfn(w.p.pte(address))]
    return folio


# -- reclaim ----------------------------------------------------------------------------------------------------------
@everywhere
def test_a_page_that_reclaim_leaves_is_not_left_locked(kernel: str) -> None:
    """A pinned page: before 5.11 it is unmapped all the same, later it is left, or cannot be unmapped."""

    def body(w: World) -> None:
        w.m.swapon()
        a = w.p.mmap_anon(1)
        w.p.write(a)
        folio = of(w, a)
        got, pages = w.p.pin(a, 1, how="fast")
        assert got == 1
        w.p.madvise(a, 1, MADV_PAGEOUT)
        assert folio.lock.state is None
        assert not list(folios_at_rest(w.m, (pages,)))

    run(body, kernel)


@pytest.mark.parametrize("kernel", ["v6.1", "v6.12", "v7.3"])
def test_a_page_that_cannot_be_unmapped_is_not_left_locked(kernel: str) -> None:
    """It is in the cache already, so nobody asks for pins before it is unmapped."""

    def body(w: World) -> None:
        w.m.swapon()
        a = w.p.mmap_anon(1)
        w.p.write(a)
        w.p.madvise(a, 1, MADV_PAGEOUT)
        w.p.read(a)
        folio = of(w, a)
        assert folio.swap is not None
        got, pages = w.p.pin(a, 1)
        assert got == 1
        w.p.madvise(a, 1, MADV_PAGEOUT)
        assert of(w, a) is folio
        assert not list(folios_at_rest(w.m, (pages,)))

    ran = run(body, kernel)
    assert "reclaim could not unmap a page" in ran.results.reached


def test_one_that_is_left_locked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmscan, "folio_unlock", lambda lock: None)

    def body(w: World) -> None:
        w.m.swapon()
        a = w.p.mmap_anon(1)
        w.p.write(a)
        _, pages = w.p.pin(a, 1, how="fast")
        w.p.madvise(a, 1, MADV_PAGEOUT)
        assert [f.name for f in folios_at_rest(w.m, (pages,))] == ["locked-for-ever"]

    run(body, "v6.12")


@everywhere
def test_a_page_stays_in_the_cache_while_it_is_mapped(kernel: str) -> None:
    """Two processes have a page in swap. One reads it, the other gives its entry back: that was the slot's last, and
    the page is mapped still, so nobody takes it out of the cache.
    """

    def body(w: World) -> None:
        w.m.swapon()
        a = w.p.mmap_anon(1)
        w.p.write(a)
        w.p.madvise(a, 1, MADV_PAGEOUT)
        child = w.p.fork("child")
        w.p.read(a)
        folio = of(w, a)
        slot = folio.swap
        assert (slot.count, slot.peek("cache")) == (1, folio)
        child.madvise(a, 1, MADV_DONTNEED)
        assert (slot.count, slot.peek("cache"), folio.mapcount) == (0, folio, 1)
        assert not list(folios_at_rest(w.m))

    run(body, kernel)


# -- migration and long-term pins -------------------------------------------------------------------------------------
@everywhere
def test_a_page_that_was_moved_can_be_moved_again(kernel: str) -> None:
    """The new one is on an LRU list, as the old one was."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        for _ in range(2):
            folio = of(w, a)
            assert folio_isolate_lru(folio)
            assert migrate_pages(w.m, [folio]) == []
            assert of(w, a).lru == LRU_ON
        assert not list(folios_at_rest(w.m))

    run(body, kernel)


@pytest.mark.parametrize("kernel", ["v6.1", "v6.12", "v7.3"])
def test_a_long_term_pin_empties_every_batch(kernel: str) -> None:
    """A page that may not stay is in another CPU's batch: without emptying that one it could not be isolated."""

    def before(w: World) -> None:
        w.p.write(w.p.mmap_anon(1))

    def body(w: World) -> None:
        old = of(w, w(0))
        assert old.lru == LRU_BATCH
        got, pages = w.p.pin(w(0), 1, FOLL_LONGTERM)
        assert got == 1
        assert of(w, w(0)) is not old
        assert old.freed
        w.p.unpin(pages)

    run(body, kernel, before=before, lru_batches=True, user_zone=ZONE_MOVABLE)


PINNABLE = {
    "not-cma": "normal movable-zone zero zero-movable coherent isolated",
    "zero-too": "normal zero coherent isolated",
    "or-zero": "normal zero zero-movable coherent isolated",
    "zero-negated": "normal coherent",
    "zero-again": "normal zero zero-movable coherent",
    "zero-negated-again": "normal",
    "in-steps": "normal zero zero-movable",
    "only-zero": "zero",
}


@pytest.mark.parametrize("name", PINNABLE)
def test_which_pages_may_be_pinned_for_long(name: str) -> None:
    """Every candidate's condition, asked of every kind of page."""

    def body(w: World) -> None:
        folios = {
            "normal": (ANON, ZONE_NORMAL, MIGRATE_MOVABLE),
            "cma": (ANON, ZONE_NORMAL, MIGRATE_CMA),
            "movable-zone": (ANON, ZONE_MOVABLE, MIGRATE_MOVABLE),
            "zero": (ZERO, ZONE_NORMAL, MIGRATE_MOVABLE),
            "zero-movable": (ZERO, ZONE_MOVABLE, MIGRATE_MOVABLE),
            "coherent": (COHERENT, ZONE_NORMAL, MIGRATE_MOVABLE),
            "isolated": (ANON, ZONE_NORMAL, MIGRATE_ISOLATE),
        }
        may = []
        for what, (kind, zone, migratetype) in folios.items():
            folio = new_folio(w.m, kind, "test", zone=zone, migratetype=migratetype)
            if gup_longterm.is_longterm_pinnable(folio):
                may.append(what)
        assert " ".join(may) == PINNABLE[name]

    run(body, f"v6.12 is_longterm_pinnable={name} CMA")


def test_every_candidate_is_there() -> None:
    assert list(PINNABLE) == eras.alternatives("is_longterm_pinnable")


# -- faults and allocations -------------------------------------------------------------------------------------------
@everywhere
@pytest.mark.parametrize("remote", [False, True])
def test_a_fault_that_was_tried_says_so(kernel: str, remote: bool) -> None:
    """A handler that has dropped mmap_lock is asked again, and told that it has been before."""
    retry = FAULT_FLAG_ALLOW_RETRY | (FAULT_FLAG_REMOTE if remote else FAULT_FLAG_WRITE)

    def body(w: World) -> None:
        seen: list[int] = []

        def fault(vmf: Any) -> int:
            seen.append(vmf.flags)
            if vmf.flags & FAULT_FLAG_TRIED:
                return VM_FAULT_SIGBUS
            mmap_read_unlock(w.p.mm)
            return VM_FAULT_RETRY

        w.char.on_fault = fault
        at = w.p.mmap(w.char.file, 1)
        if remote:
            unlocked = Unlocked()
            mmap_read_lock(w.p.mm)
            assert fixup_user_fault(w.p.mm, at, False, unlocked) == -14
            mmap_read_unlock(w.p.mm)
            assert unlocked.happened
        else:
            assert w.p.write(at) == "SIGBUS"
        assert seen == [retry, retry | FAULT_FLAG_TRIED]

    run(body, kernel)


@pytest.mark.parametrize("kernel", ["v6.12", "v6.16", "v7.3"])
def test_the_object_that_tracks_frames_is_allocated(kernel: str) -> None:
    """From 6.16 on remap_pfn_range allocates it, which may enter reclaim; the memtype of RAM needs no memory."""

    def body(w: World) -> None:
        w.char.flags = 0
        at = w.p.mmap(w.char.file, 1)
        lock = Mutex("test", "test")
        mmap_read_lock(w.p.mm)
        vma = w.vma(at)
        mutex_lock(lock)
        error, _, ctx = tracking().remap(vma, vma.vm_page_prot, 0x100, at, PAGE)
        mutex_unlock(lock)
        tracking().remap_failed(vma, ctx, 0x100, PAGE)
        mmap_read_unlock(w.p.mm)
        assert not error

    found = ("flags-without-lock",) if kernel == "v6.12" else ()
    ran = run(body, kernel, finds=found)
    assert (("test", "fs_reclaim") in ran.edges) is (kernel != "v6.12")


@everywhere
def test_only_the_page_that_was_tried_is_told_so(kernel: str) -> None:
    """The first of three pages gives mmap_lock up; it is tried again, alone. The others are asked for as ever."""

    def body(w: World) -> None:
        folios = [driver_folio(w.m, 0x1000 + n) for n in range(3)]
        seen: list[tuple[int, bool]] = []

        def fault(vmf: Any) -> int:
            tried = bool(vmf.flags & FAULT_FLAG_TRIED)
            seen.append((vmf.pgoff, tried))
            if vmf.pgoff == 0 and not tried:
                mmap_read_unlock(w.p.mm)
                return VM_FAULT_RETRY
            return VM_FAULT_SIGBUS if vm_insert_page(vmf.vma, vmf.address, folios[vmf.pgoff]) else VM_FAULT_NOPAGE

        w.char.flags, w.char.on_fault = VM_MIXEDMAP, fault
        at = w.p.mmap(w.char.file, 3)
        got, pages = w.p.get(at, 3, how="remote", may_drop=True)
        assert got == 3
        assert seen == [(0, False), (0, True), (1, False), (2, False)]
        w.p.put(pages)

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("dirty", [False, True])
def test_a_dirty_page_of_a_driver_is_flushed_under_the_lock(
    kernel: str, dirty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cleans pages looks at entries under the page-table lock, and must not miss a store by a stale translation."""
    held: list[bool] = []
    flush = mmu_gather.flush_tlb_range

    def flushing(mm: Any, start: int, end: int) -> None:
        held.append(any("ptl" in lock.name for lock, _, _ in current().held))
        flush(mm, start, end)

    def body(w: World) -> None:
        probe = open_probe(w.m)
        at = w.p.mmap(probe.file("insert_page", "", "ram"), 1)
        (w.p.write if dirty else w.p.read)(at)
        monkeypatch.setattr(mmu_gather, "flush_tlb_range", flushing)
        w.p.munmap(at, 1)
        assert held[0] is dirty

    run(body, kernel)
