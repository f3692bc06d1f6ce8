"""Pages that a device has for itself: what they are given for, who gets them back, what is counted."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.scheduler import Setup
from mmlitmus.invariants.exclusive import device_has_its_pages
from mmlitmus.invariants.folios import folios_at_rest
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.pgtable import ACCESSED, DIRTY, RW, SOFT_DIRTY, pte_pfn, pte_present
from mmlitmus.kernel.fs.proc.task_mmu import PM_FRAME, PM_SWAP
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm import swapops
from mmlitmus.kernel.mm.gup import FOLL_LONGTERM, FOLL_NOFAULT, FOLL_WRITE, Pages
from mmlitmus.kernel.mm.madvise import MADV_DONTNEED, MADV_PAGEOUT
from mmlitmus.kernel.mm.migrate import migrate_pages, putback_movable_pages
from mmlitmus.kernel.mm.mmap import PROT_READ, PROT_WRITE
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_CLEAR,
    MMU_NOTIFY_EXCLUSIVE,
    MMU_NOTIFY_PROTECTION_PAGE,
    MMU_NOTIFY_PROTECTION_VMA,
    MMU_NOTIFY_UNMAP,
    MmuNotifierRange,
    mmu_notifier_register,
)
from mmlitmus.kernel.mm.page_alloc import Folio
from mmlitmus.kernel.mm.rmap_exclusive import give_back, make_device_exclusive
from mmlitmus.kernel.mm.swap import folio_isolate_lru
from mmlitmus.kernel.mm.vmscan import reclaim_pages
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_unlock

from .world import ERAS, World, run

#: Debian builds these two without CONFIG_DEVICE_PRIVATE
WITHOUT = ("deb-6.1.192", "deb-6.12.117")
SINCE = tuple(f"{k} DEVICE_PRIVATE" if k in WITHOUT else k for k in ERAS if k not in ("v5.10", "deb-5.10.262"))
everywhere = pytest.mark.parametrize("kernel", SINCE)


def counted(kernel: str) -> bool:
    """Does the entry count as a mapping?"""
    return eras.kernel(kernel).choices["make_device_exclusive_entry"] == "one-type"


class Listener:
    """Whoever subscribes to a process's notifier, and writes down what he hears."""

    def __init__(self, w: World) -> None:
        self.heard: list[tuple[int | str, bool]] = []
        self.open = 0
        mmu_notifier_register(self, w.p.mm)

    def invalidate_range_start(self, range: MmuNotifierRange) -> None:
        self.heard.append((range.event, range.owner is not None))
        self.open += 1

    def invalidate_range_end(self, range: MmuNotifierRange) -> None:
        self.open -= 1

    def release(self, mm: Any) -> None:
        self.heard.append(("release", False))


def make(p: Any, a: int, pages: int = 1) -> tuple[int, Pages]:
    """Ask for pages for a device: they are locked."""
    got = Pages("device")
    mmap_read_lock(p.mm)
    n = make_device_exclusive(p.mm, a, pages, got, p.mm)
    mmap_read_unlock(p.mm)
    return n, got


def take(p: Any, a: int, pages: int = 1) -> bool:
    """... and let them go again: were they had?"""
    _, got = make(p, a, pages)
    had = [folio for folio in got.folios if folio is not None]
    for folio in had:
        give_back(folio, "references of device")
    return len(had) == pages


def given(w: World, pages: int = 1) -> tuple[int, Folio]:
    """Pages of its own that a device has for itself."""
    a = w.p.mmap_anon(pages)
    for n in range(pages):
        w.p.write(a + n * 4096)
    folio: Folio = w.m.pages[pte_pfn(w.p.pte(a))]
    assert take(w.p, a, pages)
    entry = w.p.pte(a)
    assert swapops.is_device_exclusive_entry(entry)
    assert swapops.swp_offset(entry) == folio.pfn
    assert entry & swapops.SWP_SOFT_DIRTY
    return a, folio


def settled(w: World) -> None:
    found = list(folios_at_rest(w.m))
    assert not found, found


@pytest.mark.parametrize("kernel", ["v5.10", "deb-5.10.262", *WITHOUT])
def test_there_was_a_time_without(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        assert make(w.p, a)[0] == -95

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("write", [False, True])
def test_there_and_back(kernel: str, write: bool) -> None:
    def body(w: World) -> None:
        listener = Listener(w)
        a, folio = given(w)
        assert w.p.pte(a) >> 59 == (30 if counted(kernel) else 29)
        assert (folio.refcount, folio.mapcount) == (1, 1 if counted(kernel) else 0)
        assert w.p.pagemap(a) & PM_SWAP
        assert (w.p.pagemap(a) & PM_FRAME) >> 5 == folio.pfn
        settled(w)
        assert listener.heard == [(MMU_NOTIFY_EXCLUSIVE, True)]
        (w.p.write if write else w.p.read)(a)
        assert listener.heard[1:] == [(MMU_NOTIFY_CLEAR if "7.3" in kernel else MMU_NOTIFY_EXCLUSIVE, False)]
        assert listener.open == 0
        entry = w.p.pte(a)
        assert pte_pfn(entry) == folio.pfn
        assert entry & (RW | DIRTY | SOFT_DIRTY) == RW | DIRTY | SOFT_DIRTY
        assert entry & ACCESSED, "old when it is restored, young by the access"
        assert (folio.refcount, folio.mapcount, bool(folio.anon_exclusive)) == (1, 1, True)
        settled(w)

    run(body, kernel)


@everywhere
def test_who_asks_for_pages(kernel: str) -> None:
    def body(w: World) -> None:
        a, folio = given(w)
        assert w.p.get(a, 1, how="fast_only")[0] == 0
        assert w.p.pin(a, 1, FOLL_NOFAULT)[0] == -14
        assert swapops.is_device_exclusive_entry(w.p.pte(a))
        got, pages = w.p.pin(a, 1, FOLL_LONGTERM | FOLL_WRITE, how="fast")
        assert (got, pages.pfns) == (1, [folio.pfn])
        assert take(w.p, a), "pinned or not"
        w.p.unpin(pages)
        assert w.p.process_vm_readv(a, 1) == 4096
        settled(w)

    run(body, kernel)


@everywhere
def test_again_what_a_device_has(kernel: str) -> None:
    def body(w: World) -> None:
        a, folio = given(w)
        listener = Listener(w)
        assert take(w.p, a)
        assert [owned for _, owned in listener.heard] == [False, True], "restored first"
        assert swapops.swp_offset(w.p.pte(a)) == folio.pfn
        settled(w)

    run(body, kernel)


@everywhere
def test_some_of_a_range(kernel: str) -> None:
    """A page that somebody has locked: up to 6.14 it is left out, from 6.15 on it is waited for."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        w.p.write(a)
        w.p.write(a + 4096)
        folio_lock(w.m.pages[pte_pfn(w.p.pte(a))].lock)
        got, pages = make(w.p, a, 2)
        assert got == 2
        assert [folio is None for folio in pages.folios] == [True, False]

    def beyond(w: World) -> None:
        a = w.p.mmap_anon(1)
        got, pages = make(w.p, a, 2)
        assert (got, len(pages.folios)) == (1, 1)

    def nowhere(w: World) -> None:
        assert make(w.p, w.m.slot("c"))[0] == -14

    if not counted(kernel):
        run(body, kernel)
    run(beyond, kernel)
    run(nowhere, kernel)


@everywhere
def test_protection(kernel: str) -> None:
    def body(w: World) -> None:
        a, folio = given(w)
        listener = Listener(w)
        before = w.p.pte(a)
        w.p.mprotect(a, 1, PROT_READ)
        assert listener.heard == [(MMU_NOTIFY_PROTECTION_VMA, False)]
        assert w.p.pte(a) == (before if counted(kernel) else before + (1 << 59))
        assert w.p.write(a) == "SIGSEGV"
        assert not take(w.p, a), "what may not be written is not had"
        w.p.mprotect(a, 1, PROT_READ | PROT_WRITE)
        w.p.read(a)
        assert pte_pfn(w.p.pte(a)) == folio.pfn
        settled(w)

    run(body, kernel)


@everywhere
def test_place(kernel: str) -> None:
    def body(w: World) -> None:
        a, folio = given(w)
        listener = Listener(w)
        before = w.p.pte(a)
        b = w.p.mremap(a, 1, 1, to="c")
        assert (MMU_NOTIFY_UNMAP, False) in listener.heard
        assert w.p.pte(b) == before
        w.p.write(b)
        assert pte_pfn(w.p.pte(b)) == folio.pfn
        settled(w)

    run(body, kernel)


@everywhere
def test_fork(kernel: str) -> None:
    def body(w: World) -> None:
        a, folio = given(w)
        listener = Listener(w)
        child = w.p.fork("child")
        assert not isinstance(child, int)
        assert listener.heard == [(MMU_NOTIFY_PROTECTION_PAGE, False)]
        assert pte_pfn(child.pte(a)) == pte_pfn(w.p.pte(a)) == folio.pfn
        assert not (child.pte(a) | w.p.pte(a)) & RW
        assert not folio.anon_exclusive
        settled(w)
        w.p.write(a)
        assert pte_pfn(child.pte(a)) != pte_pfn(w.p.pte(a))
        settled(w)

    run(body, kernel)


@everywhere
def test_fork_does_not_wait(kernel: str) -> None:
    def body(w: World) -> None:
        a, folio = given(w)
        folio_lock(folio.lock)
        assert w.p.fork("child") == -12
        assert swapops.is_device_exclusive_entry(w.p.pte(a))
        folio_unlock(folio.lock)
        settled(w)

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("how", ["unmap", "zap", "exit"])
def test_gone(kernel: str, how: str) -> None:
    def body(w: World) -> None:
        a, folio = given(w)
        listener = Listener(w)
        {"unmap": lambda: w.p.munmap(a, 1), "zap": lambda: w.p.madvise(a, 1, MADV_DONTNEED), "exit": w.p.exit}[how]()
        heard = {"unmap": (MMU_NOTIFY_UNMAP, False), "zap": (MMU_NOTIFY_CLEAR, False), "exit": ("release", False)}
        assert listener.heard == [heard[how]]  # exit tells that the mm goes, and of no unmapping
        assert folio.freed
        settled(w)

    run(body, kernel)


@everywhere
def test_moved(kernel: str) -> None:
    """Up to 6.14 the entry's reference is in the way; from 6.15 on the page is moved, and the device told."""

    def body(w: World) -> None:
        a, folio = given(w)
        listener = Listener(w)
        assert folio_isolate_lru(folio)
        left = migrate_pages(w.m, [folio])
        putback_movable_pages(w.m, left)
        assert left == ([] if counted(kernel) else [folio])
        if counted(kernel):
            assert listener.heard == [(MMU_NOTIFY_CLEAR, False)]
            entry = w.p.pte(a)
            assert pte_present(entry)
            assert not entry & RW
            assert entry & SOFT_DIRTY
            assert w.m.pages[pte_pfn(entry)].anon_exclusive
        else:
            assert swapops.is_device_exclusive_entry(w.p.pte(a))
        w.p.write(a)
        settled(w)

    run(body, kernel)


@everywhere
def test_paged_out(kernel: str) -> None:
    """MADV_PAGEOUT does not look at such entries; reclaim that has the page already does, where it can find them."""

    def body(w: World) -> None:
        w.m.swapon()
        a, folio = given(w)
        w.p.madvise(a, 1, MADV_PAGEOUT)
        assert swapops.is_device_exclusive_entry(w.p.pte(a))
        assert folio_isolate_lru(folio)
        listener = Listener(w)
        reclaim_pages(w.m, [folio])
        assert folio.freed is counted(kernel)
        assert swapops.is_swap_entry(w.p.pte(a)) is counted(kernel)
        if counted(kernel):
            assert listener.heard == [(MMU_NOTIFY_CLEAR, False)]
            assert w.p.pte(a) & (swapops.SWP_EXCLUSIVE | swapops.SWP_SOFT_DIRTY) == 10
        w.p.write(a)
        settled(w)

    run(body, kernel)


def test_a_device_that_does_not_listen_is_found() -> None:
    def body(w: World) -> None:
        a, folio = given(w)
        had = [(a, folio.pfn)]
        assert not list(device_has_its_pages(w.m, w.p.mm, had))
        w.p.write(a)
        assert [f.name for f in device_has_its_pages(w.m, w.p.mm, had)] == ["cpu-and-device"]
        w.p.madvise(a, 1, MADV_DONTNEED)
        assert [f.name for f in device_has_its_pages(w.m, w.p.mm, had)] == ["stale-device-mapping"]

    run(body)


#: what another thread may do meanwhile
BESIDE: dict[str, Any] = {
    "read": lambda p, a: p.read(a),
    "write": lambda p, a: p.write(a),
    "zap": lambda p, a: p.madvise(a, 1, MADV_DONTNEED),
    "pageout": lambda p, a: p.madvise(a, 1, MADV_PAGEOUT),
    "mprotect": lambda p, a: p.mprotect(a, 1, PROT_READ),
    "mremap": lambda p, a: p.mremap(a, 1, 1, to="c"),
    "fork": lambda p, a: p.fork("child"),
    "pin": lambda p, a: p.unpin(p.pin(a, 1, how="fast")[1]),
    "take": lambda p, a: take(p, a),
}
FIRST: dict[str, Any] = {"take": lambda p, a: take(p, a), "write": lambda p, a: p.write(a)}


@pytest.mark.parametrize("kernel", ["deb-6.1.192 DEVICE_PRIVATE", "v6.12", "v6.16"])
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("what", BESIDE)
def test_beside_others(kernel: str, first: str, what: str) -> None:
    """Whatever comes in between, everything is counted in the end, and nothing is touched that is free."""

    def build() -> Setup:
        m = Machine(eras.kernel(kernel))
        m.swapon()
        p = m.process("app")
        a = p.mmap_anon(1)
        p.write(a)
        if first == "write":
            assert take(p, a)
        m.faults = 1
        m.task(lambda: FIRST[first](p, a), process=p, name="first")
        m.task(lambda: BESIDE[what](p, a), process=p, name="beside")
        m.check(lambda: folios_at_rest(m))
        return m.setup()

    engine = Dpor(build, max_executions=60)
    results = engine.run()
    if engine.last_exception is not None:
        raise engine.last_exception
    assert [f.message for f in results.found] == []
    assert results.counts.complete > 1
