"""Folios: what is counted, who holds it, when it is freed; anonymous memory, the zero page, batches, isolation."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.invariants.folios import folios_at_rest
from mmlitmus.kernel.arch.x86.pgtable import NX, SPECIAL, pte_pfn
from mmlitmus.kernel.mm.madvise import MADV_DONTNEED
from mmlitmus.kernel.mm.mmap import PROT_READ
from mmlitmus.kernel.mm.page_alloc import (
    GUP_PIN_COUNTING_BIAS,
    LRU_BATCH,
    LRU_ISOLATED,
    LRU_NEVER,
    LRU_ON,
    ZERO_PFN,
    Folio,
    folio_get,
    folio_maybe_dma_pinned,
    folio_put,
    new_folio,
    page_tables,
    try_get_folio,
)
from mmlitmus.kernel.mm.swap import folio_isolate_lru, folio_putback_lru, lru_add_drain, lru_add_drain_all

from .world import ERAS, PAGE, World, found, run, search

everywhere = pytest.mark.parametrize("kernel", ERAS)
LOW = 0xFFF


def of(w: World, address: int, process: Any = None) -> Folio:
    folio: Folio = w.m.pages[pte_pfn((process or w.p).pte(address))]
    return folio


def balanced(w: World) -> bool:
    return not list(folios_at_rest(w.m))


# -- anonymous memory -------------------------------------------------------------------------------------------------
@everywhere
def test_a_read_maps_the_zero_page_by_a_special_entry(kernel: str) -> None:
    """Recorded: ...225, on 5.10 to 7.3; and nothing is counted."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        assert w.p.read(a) == 0
        assert w.p.read(a + PAGE) == 0
        for page in (a, a + PAGE):
            assert w.p.pte(page) & LOW == 0x225
            assert w.p.pte(page) & NX
            assert pte_pfn(w.p.pte(page)) == ZERO_PFN
        zero = w.m.zero_page()
        assert (zero.refcount, zero.mapcount, zero.lru, zero.reserved) == (1, 0, LRU_NEVER, True)
        assert w.p.munmap(a, 2) == 0
        assert not zero.freed
        assert balanced(w)

    run(body, kernel)


@everywhere
def test_a_write_maps_a_page_of_its_own_and_unmapping_frees_it(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        assert w.p.write(a) == 0
        assert w.p.pte(a) & LOW == 0x867
        folio = of(w, a)
        assert (folio.refcount, folio.mapcount, folio.lru) == (1, 1, LRU_ON)
        assert folio.anon
        assert folio.anon_exclusive
        assert folio.held_by(page_tables(w.p.mm)) == 1
        assert balanced(w)
        assert w.p.madvise(a, 2, MADV_DONTNEED) == 0
        assert folio.freed
        assert w.p.pte(a) == 0
        assert balanced(w)

    run(body, kernel)


@everywhere
def test_a_store_after_a_load_takes_the_zero_page_away(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.read(a)
        assert w.p.write(a) == 0
        assert not w.p.pte(a) & SPECIAL
        assert of(w, a).refcount == 1
        assert w.m.zero_page().refcount == 1

    run(body, kernel)


@everywhere
def test_fork_shares_pages_and_leaves_what_was_only_read_to_faults(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        w.p.read(a)
        only_read = w.p.fork("first")
        assert only_read.pte(a) == 0, "no page of its own in the VMA: its page tables are not copied"
        w.p.write(a + PAGE)
        folio = of(w, a + PAGE)
        child = w.p.fork("second")
        assert child.pte(a) == w.p.pte(a) & ~0x20, "the zero page's entry, old"
        assert of(w, a + PAGE, child) is folio
        assert (folio.refcount, folio.mapcount, folio.anon_exclusive) == (2, 2, False)
        assert balanced(w)
        assert child.write(a + PAGE) == 0
        assert (folio.refcount, folio.mapcount) == (1, 1)
        assert w.p.write(a + PAGE) == 0
        assert of(w, a + PAGE) is folio, "nobody else holds it any more"
        only_read.exit()
        child.exit()
        w.p.exit()
        assert folio.freed
        assert balanced(w)

    run(body, kernel)


@everywhere
def test_no_memory(kernel: str) -> None:
    """Every allocation of faults, copies and of fork's copies may fail; nothing is left over."""
    seen: set[str] = set()

    def body(w: World) -> None:
        w.m.failures = w.m.faults = 1

        @w.m.task
        def task() -> None:
            a = w.p.mmap_anon(1)
            if a < 0:
                seen.add("no VMA")
                return
            seen.add(str(w.p.write(a)))
            child = w.p.fork("child")
            if isinstance(child, int):
                seen.add(f"fork {child}")
            else:
                seen.add(f"copy {w.p.write(a)}")
                child.exit()
            w.p.munmap(a, 1)
            w.m.require(balanced(w), "unbalanced", "something is left")

    results = search(body, kernel)
    assert found(results) == {"oom-leaked"}
    assert {"0", "gave up", "no VMA", "fork -12", "copy 0", "copy gave up"} <= seen


def test_a_private_mapping_that_may_not_be_written() -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1, prot=PROT_READ)
        assert w.p.write(a) == "SIGSEGV"
        assert w.p.read(a) == 0

    run(body, "v6.12")


# -- counting ---------------------------------------------------------------------------------------------------------
def test_the_ledger_and_the_end() -> None:
    def body(w: World) -> None:
        folio = new_folio(w.m, "driver", "the driver")
        folio_get(folio, "a friend")
        assert folio.peek("holders") == (("a friend", 1), ("the driver", 1))
        folio_put(folio, "the driver")
        assert not folio.freed
        folio_put(folio, "a friend")
        assert folio.freed
        assert not try_get_folio(folio, "late"), "there is a struct page still, and it says that nobody holds the page"

    run(body, "v6.12")


def test_a_reference_is_given_back_by_who_does_not_have_it() -> None:
    def body(w: World) -> None:
        folio_put(new_folio(w.m, "driver", "the driver"), "a thief")

    run(body, "v6.12", finds=("reference-stolen",))


def test_a_freed_page_is_touched() -> None:
    def body(w: World) -> None:
        folio = new_folio(w.m, "driver", "the driver")
        folio_put(folio, "the driver")
        folio_get(folio, "too late")

    run(body, "v6.12", finds=("use-after-free Folio", "reference-to-a-free-page"))


def test_a_page_is_freed_while_it_is_mapped() -> None:
    def body(w: World) -> None:
        folio = new_folio(w.m, "driver", "the driver")
        folio.add_return("mapcount", 1)
        folio_put(folio, "the driver")

    run(body, "v6.12", finds=("page-freed-mapped",))


def test_what_looks_pinned() -> None:
    def body(w: World) -> None:
        small, large = new_folio(w.m, "driver", "d"), new_folio(w.m, "driver", "d", order=2)
        assert large.pfn % 4 == 0
        assert [w.m.pages[large.pfn + n] for n in range(4)] == [large] * 4
        for folio in (small, large):
            assert not folio_maybe_dma_pinned(folio)
            folio.ref_add("many", GUP_PIN_COUNTING_BIAS)
        assert folio_maybe_dma_pinned(small), "so many references look like a pin"
        assert not folio_maybe_dma_pinned(large)
        large.add_return("pincount", 1)
        assert folio_maybe_dma_pinned(large)

    run(body, "v6.12")


# -- LRU --------------------------------------------------------------------------------------------------------------
def test_a_batch_holds_a_page_until_it_is_emptied() -> None:
    def body(w: World) -> None:
        w.m.lru_batches = True
        a = w.p.mmap_anon(1)
        w.p.write(a)
        folio = of(w, a)
        assert (folio.refcount, folio.lru) == (2, LRU_BATCH)
        assert not folio_isolate_lru(folio)
        lru_add_drain(w.m)
        assert (folio.refcount, folio.lru) == (1, LRU_ON)
        assert folio_isolate_lru(folio)
        assert (folio.refcount, folio.lru) == (2, LRU_ISOLATED)
        assert not folio_isolate_lru(folio)
        assert [f.name for f in folios_at_rest(w.m)] == ["isolated-for-ever"]
        folio_putback_lru(w.m, folio)
        lru_add_drain_all(w.m)
        assert (folio.refcount, folio.lru) == (1, LRU_ON)
        assert balanced(w)

    run(body, "v6.12")


@pytest.mark.parametrize(("kernel", "in_place"), [("v5.10", False), ("v6.1", True), ("v6.12", True)])
def test_a_batch_makes_5_10_copy_a_page_that_nobody_else_has(kernel: str, in_place: bool) -> None:
    def body(w: World) -> None:
        w.m.lru_batches = True
        a = w.p.mmap_anon(1)
        w.p.write(a)
        child = w.p.fork("child")
        child.exit()
        before = pte_pfn(w.p.pte(a))
        w.p.write(a)
        assert (pte_pfn(w.p.pte(a)) == before) is in_place

    run(body, kernel)


# -- the invariants find what is wrong --------------------------------------------------------------------------------
def names(w: World, held: tuple[Any, ...] = ()) -> list[str]:
    return sorted({f.name for f in folios_at_rest(w.m, held)})


def test_the_invariants_trip() -> None:
    """On kernels that are broken on purpose."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        folio = of(w, a)
        assert names(w) == []
        folio.add_return("refcount", 1)  # a reference past the ledger
        assert names(w) == ["refcount-imbalance"]
        folio.add_return("refcount", -1)
        folio.add_return("mapcount", 1)  # an unmapping that forgets the mapcount
        assert names(w) == ["mapcount-imbalance"]
        folio.add_return("mapcount", -1)
        folio_get(folio, page_tables(w.p.mm))  # a zap that forgets the reference
        assert names(w) == ["page-table-reference-leak"]
        folio_put(folio, page_tables(w.p.mm))
        _, pages = w.p.pin(a, 1)
        assert names(w) == ["pin-leak"]
        assert names(w, (pages,)) == [], "who still has it was named"
        w.p.unpin(pages)
        assert names(w) == []

    run(body, "v6.12")
