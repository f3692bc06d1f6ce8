"""Migration: what is moved, what comes back as it was, and what others see meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.scheduler import Setup
from mmlitmus.invariants.folios import folios_at_rest
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.pgtable import RW, pte_pfn
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm import swapops
from mmlitmus.kernel.mm.madvise import MADV_DONTNEED
from mmlitmus.kernel.mm.migrate import migrate_pages, putback_movable_pages
from mmlitmus.kernel.mm.mmap import PROT_READ
from mmlitmus.kernel.mm.page_alloc import Folio
from mmlitmus.kernel.mm.swap import folio_isolate_lru

from .world import ERAS, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)


def isolated(w: World, a: int) -> Folio:
    folio: Folio = w.m.pages[pte_pfn(w.p.pte(a))]
    assert folio_isolate_lru(folio)
    return folio


@pytest.mark.parametrize("kind", [24, 25, 26])
def test_entries(kind: int) -> None:
    entry = swapops.make_migration_entry(0x12345, kind, 0x867)
    assert swapops.is_migration_entry(entry)
    assert not entry & 1
    assert (swapops.migration_pfn(entry), swapops.migration_type(entry)) == (0x12345, kind)
    assert not swapops.is_migration_entry(0)
    assert not swapops.is_migration_entry(0x8000000001101867)


@everywhere
@pytest.mark.parametrize("shared", [False, True])
def test_a_page_is_moved(kernel: str, shared: bool) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        child = w.p.fork("child") if shared else None
        old = isolated(w, a)
        before = w.p.pte(a)
        assert migrate_pages(w.m, [old]) == []
        new = w.m.pages[pte_pfn(w.p.pte(a))]
        assert old.freed
        assert new is not old
        assert (new.refcount, new.mapcount) == ((2, 2) if shared else (1, 1))
        assert bool(new.anon_exclusive) is not shared
        assert bool(w.p.pte(a) & RW) is bool(before & RW) is not shared
        if child is not None:
            assert pte_pfn(child.pte(a)) == new.pfn
        assert not list(folios_at_rest(w.m))

    run(body, kernel)


@everywhere
def test_a_page_that_somebody_holds_comes_back(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        _, held = w.p.get(a, 1)
        folio = isolated(w, a)
        before = w.p.pte(a)
        left = migrate_pages(w.m, [folio])
        assert left == [folio]
        putback_movable_pages(w.m, left)
        assert w.p.pte(a) & ~0x60 == before & ~0x60, "accessed and dirty aside"
        assert (folio.refcount, folio.mapcount, bool(folio.anon_exclusive)) == (2, 1, True)
        w.p.put(held)
        assert not list(folios_at_rest(w.m))

    run(body, kernel)


def test_a_page_that_nobody_maps_any_more_is_freed() -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        folio = isolated(w, a)
        w.p.munmap(a, 1)
        assert not folio.freed
        assert migrate_pages(w.m, [folio]) == []
        assert folio.freed

    run(body, "v6.12")


#: what another thread, or the child that shares the page, may do meanwhile
BESIDE: dict[str, Any] = {
    "write": lambda p, c, a: p.write(a),
    "child-writes": lambda p, c, a: c.write(a),
    "zap": lambda p, c, a: p.madvise(a, 1, MADV_DONTNEED),
    "unmap": lambda p, c, a: c.munmap(a, 1),
    "mprotect": lambda p, c, a: p.mprotect(a, 1, PROT_READ),
    "mremap": lambda p, c, a: p.mremap(a, 1, 1, to="c"),
    "fork": lambda p, c, a: c.fork("grandchild"),
    "pin": lambda p, c, a: p.unpin(p.pin(a, 1, how="fast")[1]),
    "exit": lambda p, c, a: c.exit(),
}


@pytest.mark.parametrize("kernel", ["v5.10", "v6.12"])
@pytest.mark.parametrize("what", BESIDE)
def test_beside_others(kernel: str, what: str) -> None:
    """Whatever comes in between, everything is counted in the end, and nothing is touched that is free."""
    machines: list[Machine] = []

    def build() -> Setup:
        m = Machine(eras.kernel(kernel))
        machines[:] = [m]
        p = m.process("app")
        a = p.mmap_anon(1)
        p.write(a)
        c = p.fork("child")
        assert not isinstance(c, int)
        m.faults = 1
        folio = m.pages[pte_pfn(p.pte(a))]

        @m.task
        def migrate() -> None:
            if folio_isolate_lru(folio):
                putback_movable_pages(m, migrate_pages(m, [folio]))

        m.task(lambda: BESIDE[what](p, c, a), process=c if what in ("child-writes", "exit") else p, name="beside")
        m.check(lambda: folios_at_rest(m))
        return m.setup()

    engine = Dpor(build, max_executions=100)
    results = engine.run()
    if engine.last_exception is not None:
        raise engine.last_exception
    assert [f.name for f in results.found] == []
    assert results.counts.complete > 2
