"""Swap: what goes out, what comes back and to whom, what is counted, and what others do meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.scheduler import Setup
from mmlitmus.invariants.folios import folios_at_rest
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.pgtable import DIRTY, RW, SOFT_DIRTY, pte_pfn, pte_present
from mmlitmus.kernel.fs.proc.clear_refs import CLEAR_REFS_SOFT_DIRTY
from mmlitmus.kernel.fs.proc.task_mmu import PM_SWAP
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm import swapops
from mmlitmus.kernel.mm.gup import FOLL_LONGTERM, FOLL_NOFAULT, FOLL_WRITE
from mmlitmus.kernel.mm.madvise import MADV_DONTNEED, MADV_PAGEOUT
from mmlitmus.kernel.mm.migrate import migrate_pages
from mmlitmus.kernel.mm.mmap import PROT_READ
from mmlitmus.kernel.mm.page_alloc import MIGRATE_CMA, Folio
from mmlitmus.kernel.mm.swap import folio_isolate_lru
from mmlitmus.kernel.mm.swapfile import swap_free

from .world import ERAS, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)
EXCLUSIVE = tuple(k for k in ERAS if k not in ("v5.10", "deb-5.10.262"))


def paged_out(w: World) -> tuple[int, Folio]:
    """A page of its own, in swap."""
    w.m.swapon()
    a = w.p.mmap_anon(1)
    w.p.write(a)
    folio: Folio = w.m.pages[pte_pfn(w.p.pte(a))]
    assert w.p.madvise(a, 1, MADV_PAGEOUT) == 0
    assert swapops.is_swap_entry(w.p.pte(a)), hex(w.p.pte(a))
    return a, folio


def settled(w: World) -> None:
    found = list(folios_at_rest(w.m))
    assert not found, found


def slots(w: World) -> list[tuple[int, bool]]:
    """(count, is it in the cache) of each slot."""
    return [(s.peek("count"), s.peek("cache") is not None) for s in w.m.swap.slots.values()]


@pytest.mark.parametrize(("slot", "bits"), [(1, 0), (0x101, swapops.SWP_EXCLUSIVE), (0x3FFFF, swapops.SWP_SOFT_DIRTY)])
def test_entries(slot: int, bits: int) -> None:
    entry = swapops.make_swap_entry(slot, bits)
    assert swapops.is_swap_entry(entry)
    assert not pte_present(entry)
    assert not swapops.is_migration_entry(entry)
    assert swapops.swp_offset(entry) == slot
    assert swapops.entry_pfn(entry) is None
    assert entry & 0xE == bits


def test_the_layout_is_the_kernels() -> None:
    """Type 0, offset 1: bits 9 to 58 are the offset's complement."""
    assert swapops.make_swap_entry(1, 0) == ((1 << 50) - 2) << 9


@everywhere
@pytest.mark.parametrize("write", [False, True])
def test_a_page_comes_back(kernel: str, write: bool) -> None:
    def body(w: World) -> None:
        a, old = paged_out(w)
        assert old.freed
        assert slots(w) == [(1, False)]
        assert bool(w.p.pte(a) & swapops.SWP_EXCLUSIVE) == (kernel in EXCLUSIVE)
        assert w.p.pte(a) & swapops.SWP_SOFT_DIRTY
        assert w.p.pagemap(a) & PM_SWAP
        settled(w)
        (w.p.write if write else w.p.read)(a)
        entry = w.p.pte(a)
        new = w.m.pages[pte_pfn(entry)]
        assert new is not old
        assert entry & SOFT_DIRTY
        assert bool(entry & DIRTY) == write
        assert bool(entry & RW) == (write or eras.kernel(kernel).choices["do_swap_page"] == "exclusive-writable")
        assert slots(w) == [(0, not write)], "a store takes it out of the cache"
        assert (new.refcount, new.mapcount) == (1 if write else 2, 1)
        settled(w)
        w.p.write(a)
        again = w.m.pages[pte_pfn(w.p.pte(a))]
        assert (again is new) == (write or kernel in EXCLUSIVE), "before 5.19 the cache's reference makes it a copy"
        w.p.exit()
        settled(w)
        assert again.freed
        assert all(count == 0 for count, _ in slots(w))

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("how", ["unmap", "zap", "exit"])
def test_a_slot_is_given_back(kernel: str, how: str) -> None:
    def body(w: World) -> None:
        a, _ = paged_out(w)
        {"unmap": lambda: w.p.munmap(a, 1), "zap": lambda: w.p.madvise(a, 1, MADV_DONTNEED), "exit": w.p.exit}[how]()
        assert slots(w) == [(0, False)]
        settled(w)

    run(body, kernel)


@everywhere
def test_fork_shares_a_slot(kernel: str) -> None:
    def body(w: World) -> None:
        a, _ = paged_out(w)
        child = w.p.fork("child")
        assert not isinstance(child, int)
        w.p.mm.cpus, child.mm.cpus = w.p.mm.cpus, list(w.p.mm.cpus)
        assert slots(w) == [(2, False)]
        assert child.pte(a) == w.p.pte(a)
        assert not w.p.pte(a) & swapops.SWP_EXCLUSIVE
        w.p.read(a)
        child.read(a)
        assert pte_pfn(child.pte(a)) == pte_pfn(w.p.pte(a)), "found in the cache"
        assert not w.p.pte(a) & RW
        assert slots(w) == [(0, True)]
        child.write(a)
        assert pte_pfn(child.pte(a)) != pte_pfn(w.p.pte(a))
        settled(w)
        child.exit()
        w.p.exit()
        settled(w)

    run(body, kernel)


@everywhere
def test_the_child_has_it_after_the_parent(kernel: str) -> None:
    def body(w: World) -> None:
        a, _ = paged_out(w)
        child = w.p.fork("child")
        assert not isinstance(child, int)
        w.p.write(a)
        assert slots(w)[0][0] == 1
        child.read(a)
        assert pte_pfn(child.pte(a)) != pte_pfn(w.p.pte(a))
        child.write(a)
        settled(w)

    run(body, kernel)


@everywhere
def test_protection_and_place(kernel: str) -> None:
    def body(w: World) -> None:
        a, _ = paged_out(w)
        before = w.p.pte(a)
        w.p.mprotect(a, 1, PROT_READ)
        assert w.p.pte(a) == before
        assert w.p.write(a) == "SIGSEGV"
        b = w.p.mremap(a, 1, 1, to="c")
        assert w.p.pte(b) == before
        w.p.clear_refs(CLEAR_REFS_SOFT_DIRTY)
        w.p.read(b)
        assert not w.p.pte(b) & (RW | SOFT_DIRTY)
        settled(w)

    run(body, kernel)


@everywhere
def test_who_asks_for_pages(kernel: str) -> None:
    def body(w: World) -> None:
        a, _ = paged_out(w)
        assert w.p.get(a, 1, how="fast_only")[0] == 0
        assert w.p.pin(a, 1, FOLL_NOFAULT)[0] == -14
        got, pages = w.p.pin(a, 1, FOLL_WRITE | FOLL_LONGTERM, how="fast")
        assert (got, pages.pfns) == (1, [pte_pfn(w.p.pte(a))])
        assert w.p.madvise(a, 1, MADV_PAGEOUT) == 0
        w.p.unpin(pages)
        settled(w)
        assert w.p.process_vm_readv(a, 1) == 4096

    run(body, kernel)


@pytest.mark.parametrize("kernel", ["v5.14", "v6.1", "v6.12", "v7.3"])
def test_a_page_that_is_held_stays_in_the_cache(kernel: str) -> None:
    """It is unmapped; whoever faults finds the same page."""

    def body(w: World) -> None:
        w.m.swapon()
        a = w.p.mmap_anon(1)
        w.p.write(a)
        pfn = pte_pfn(w.p.pte(a))
        _, held = w.p.get(a, 1)
        w.p.madvise(a, 1, MADV_PAGEOUT)
        assert swapops.is_swap_entry(w.p.pte(a))
        assert slots(w) == [(1, True)]
        w.p.put(held)
        settled(w)
        w.p.write(a)
        assert pte_pfn(w.p.pte(a)) == pfn
        assert slots(w) == [(0, False)]
        settled(w)

    run(body, kernel)


def test_a_page_in_the_cache_is_moved() -> None:
    def body(w: World) -> None:
        a, _ = paged_out(w)
        child = w.p.fork("child")
        assert not isinstance(child, int)
        w.p.read(a)
        folio = w.m.pages[pte_pfn(w.p.pte(a))]
        assert folio_isolate_lru(folio)
        assert migrate_pages(w.m, [folio]) == []
        assert folio.freed
        child.read(a)
        assert pte_pfn(child.pte(a)) == pte_pfn(w.p.pte(a)) != folio.pfn
        settled(w)

    run(body, "v6.12")


def test_for_long_it_is_not_left_in_a_cma_area() -> None:
    def body(w: World) -> None:
        w.m.user_migratetype = MIGRATE_CMA
        a, _ = paged_out(w)
        w.p.read(a)
        assert w.m.pages[pte_pfn(w.p.pte(a))].migratetype == MIGRATE_CMA
        _, pages = w.p.pin(a, 1, FOLL_WRITE | FOLL_LONGTERM)
        assert [folio and folio.migratetype for folio in pages.folios] == ["movable"]
        w.p.unpin(pages)
        settled(w)

    run(body, "v6.12 CMA")


def test_without_swap_nothing_goes_out() -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        before = w.p.pte(a)
        assert w.p.madvise(a, 1, MADV_PAGEOUT) == 0
        assert w.p.pte(a) == before

    run(body)


@pytest.mark.parametrize(
    ("what", "finds"),
    [
        ("an entry lost", ["swap-count-imbalance"]),
        ("a slot given back twice", ["unused-swap-slot", "swap-count-imbalance"]),
        ("the cache's page forgotten", ["swap-cache-imbalance"]),
    ],
)
def test_what_is_lost_is_found(what: str, finds: list[str]) -> None:
    def body(w: World) -> None:
        a, _ = paged_out(w)
        (slot,) = w.m.swap.slots.values()
        if what == "an entry lost":
            w.p.mm.pgd[a >> 21].put(a, 0)
        elif what == "a slot given back twice":
            swap_free(slot)
            swap_free(slot)
        else:
            w.p.read(a)
            slot.set_cache(None)
        for found in folios_at_rest(w.m):
            w.m.require(False, found.name, found.message)

    run(body, finds=finds)


#: what another thread, or the child, may do meanwhile
BESIDE: dict[str, Any] = {
    "read": lambda p, c, a: p.read(a),
    "write": lambda p, c, a: p.write(a),
    "child-writes": lambda p, c, a: c.write(a),
    "zap": lambda p, c, a: p.madvise(a, 1, MADV_DONTNEED),
    "pageout": lambda p, c, a: p.madvise(a, 1, MADV_PAGEOUT),
    "mprotect": lambda p, c, a: p.mprotect(a, 1, PROT_READ),
    "mremap": lambda p, c, a: p.mremap(a, 1, 1, to="c"),
    "fork": lambda p, c, a: p.fork("second"),
    "pin": lambda p, c, a: p.unpin(p.pin(a, 1, how="fast")[1]),
    "exit": lambda p, c, a: c.exit(),
}
FIRST: dict[str, Any] = {
    "read": lambda p, a: p.read(a),
    "write": lambda p, a: p.write(a),
    "pageout": lambda p, a: p.madvise(a, 1, MADV_PAGEOUT),
}


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v6.12"])
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
        if first != "pageout":
            p.madvise(a, 1, MADV_PAGEOUT)
        c = p.fork("child") if what in ("child-writes", "exit") else p
        assert not isinstance(c, int)
        m.faults = 1
        m.task(lambda: FIRST[first](p, a), process=p, name="first")
        m.task(lambda: BESIDE[what](p, c, a), process=c, name="beside")
        m.check(lambda: folios_at_rest(m))
        return m.setup()

    engine = Dpor(build, max_executions=60)
    results = engine.run()
    if engine.last_exception is not None:
        raise engine.last_exception
    assert [f.message for f in results.found] == []
    assert results.counts.complete > 1
