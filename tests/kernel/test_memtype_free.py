"""Giving memory types back: split frees, equal entries, double frees, thefts; and several tasks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore.audit import audit
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.scheduler import Setup
from mmlitmus.kernel.arch.x86.pat import (
    CacheMode,
    free_pfn_range,
    lookup_memtype,
    memtype_free,
    memtype_reserve,
    pat_log,
    reserve_pfn_range,
)
from mmlitmus.kernel.errno import EBUSY, EINVAL

from .board import BAR, PAGE, RAM, Board, found, program, run, search

WB, WC, UCM, UC, WT, WP = CacheMode
PWT = 1 << 3


# -- freeing ----------------------------------------------------------------------------------------------------------
def pages(first: int, end: int) -> tuple[int, int]:
    return BAR + first * PAGE, BAR + end * PAGE


FREES = [
    ("whole", [(0, 4)], [], 0),
    ("tail first", [(2, 4), (0, 2)], [], 0),
    ("page by page from the end", [(3, 4), (2, 3), (1, 2), (0, 1)], [], 0),
    ("head first", [(0, 1), (1, 4)], ["0-1 write-combining"], 1),
    ("middle first", [(1, 3), (3, 4), (0, 1)], ["0-3 write-combining"], 2),
]


@pytest.mark.parametrize(("frees", "left", "invalid"), [f[1:] for f in FREES], ids=[f[0] for f in FREES])
def test_split_frees(frees: list[tuple[int, int]], left: list[str], invalid: int) -> None:
    """One owner gives back in pieces what he has reserved whole. What stays, nobody will free."""

    def body(b: Board) -> None:
        memtype_reserve(b, *pages(0, 4), WC, True, b.a)
        errors = [memtype_free(b, *pages(*piece), b.a) for piece in frees]
        assert sum(e == -EINVAL for e in errors) == invalid == len(pat_log(b))
        assert b.types() == left
        assert b.memtypes.claims_of(b.a) == []
        assert bool(b.memtypes.unclaimed()) == bool(left)

    run(body, finds=["freeing-invalid-memtype"] if invalid else [])


def test_equal_entries_are_counted() -> None:
    def body(b: Board) -> None:
        for owner in (b.a, b.b, b.c):
            memtype_reserve(b, *pages(0, 4), UCM, True, owner)
        assert b.memtypes.covers(BAR >> 12) == 3
        for owner in (b.b, b.c, b.a):
            assert memtype_free(b, *pages(0, 4), owner) == 0
        assert b.memtypes.covers(BAR >> 12) == 0

    run(body)


def test_an_owner_may_reserve_again() -> None:
    def body(b: Board) -> None:
        for _ in range(2):
            memtype_reserve(b, *pages(0, 4), UCM, True, b.a)
        assert b.memtypes.claims_on(BAR >> 12) == [b.a, b.a]
        memtype_free(b, *pages(2, 4), b.a)
        memtype_free(b, *pages(0, 4), b.a)
        assert [(c.start, c.end) for c in b.memtypes.claims_of(b.a)] == [pages(0, 2)]
        memtype_free(b, *pages(0, 2), b.a)
        assert b.types() == []

    run(body)


def test_what_stays_claimed() -> None:
    """A free takes each page off one claim, an equal one if there is one; claims that it does not need stay whole."""

    def body(b: Board) -> None:
        def claims(owner: Any) -> list[tuple[int, int]]:
            return [((c.start - BAR) // PAGE, (c.end - BAR) // PAGE) for c in b.memtypes.claims_of(owner)]

        memtype_reserve(b, *pages(0, 2), UCM, True, b.a)
        memtype_reserve(b, *pages(0, 4), UCM, True, b.a)
        memtype_free(b, *pages(0, 1), b.a)
        assert claims(b.a) == [(0, 4), (1, 2)]
        for piece in ((0, 4), (1, 2), (3, 5)):
            memtype_reserve(b, *pages(*piece), UCM, True, b.b)
        memtype_free(b, *pages(0, 5), b.b)
        assert claims(b.b) == [(1, 2), (3, 4)]

    run(body, finds=["freeing-invalid-memtype"])


def test_double_free() -> None:
    def body(b: Board) -> None:
        memtype_reserve(b, *pages(0, 4), WC, True, b.a)
        memtype_free(b, *pages(0, 4), b.a)
        memtype_free(b, *pages(0, 4), b.a)

    ran = run(body, finds=["freeing-invalid-memtype", "memtype-double-free"])
    assert ran.message("memtype-double-free") == (
        "labtest frees [mem 0xfd300000-0xfd303fff] for a, which has not reserved it or has given it back"
    )


def test_double_free_of_a_part() -> None:
    """The pages that were given back already are named, and only they."""

    def body(b: Board) -> None:
        memtype_reserve(b, *pages(0, 2), WC, True, b.a)
        memtype_reserve(b, *pages(3, 4), WC, True, b.a)
        memtype_free(b, *pages(0, 5), b.a)
        assert b.memtypes.claims_of(b.a) == []

    ran = run(body, finds=["freeing-invalid-memtype", "memtype-double-free"])
    assert "[mem 0xfd302000-0xfd302fff], [mem 0xfd304000-0xfd304fff]" in ran.message("memtype-double-free")


def test_somebody_else_s_entry() -> None:
    """A free of what was given back takes an equal entry that another owner relies on."""

    def body(b: Board) -> None:
        memtype_reserve(b, *pages(0, 4), UCM, True, b.a)
        memtype_reserve(b, *pages(0, 4), UCM, True, b.b)
        memtype_free(b, *pages(0, 4), b.a)
        memtype_free(b, *pages(0, 4), b.a)
        assert lookup_memtype(b, BAR) == UCM  # by luck: nothing is there any more

    ran = run(body, finds=["memtype-double-free", "memtype-steal"])
    assert ran.message("memtype-steal") == (
        "labtest frees [mem 0xfd300000-0xfd303fff] for a, and with it an entry of b: "
        "1 claim [mem 0xfd300000-0xfd303fff], 0 cover it"
    )


def test_a_tail_of_somebody_else_s_entry() -> None:
    def body(b: Board) -> None:
        memtype_reserve(b, *pages(0, 4), UCM, True, b.a)
        memtype_free(b, *pages(3, 4), None)

    ran = run(body, finds=["memtype-double-free", "memtype-steal"])
    assert "for somebody" in ran.message("memtype-double-free")
    assert "1 claim [mem 0xfd303000-0xfd303fff], 0 cover it" in ran.message("memtype-steal")


def test_what_is_taken_from_whom_is_a_matter_of_numbers() -> None:
    """The tail of a's entry is given back as b's whole one, and the other way round; every page stays covered."""

    def body(b: Board) -> None:
        memtype_reserve(b, *pages(0, 4), UCM, True, b.a)
        memtype_reserve(b, *pages(2, 4), UCM, True, b.b)
        memtype_free(b, *pages(2, 4), b.a)
        assert b.types() == ["0-4 uncached-minus"]
        memtype_free(b, *pages(2, 4), b.b)
        assert b.types() == ["0-2 uncached-minus"]
        memtype_free(b, *pages(0, 2), b.a)

    run(body)


def test_who_has_ever_claimed() -> None:
    def body(b: Board) -> None:
        def ever(owner: Any) -> list[int]:
            return [n for n in range(6) if b.memtypes.ever_claimed(owner, (BAR >> 12) + n)]

        memtype_reserve(b, *pages(0, 4), UCM, True, b.a)
        assert ever(b.a) == [0, 1, 2, 3]
        memtype_free(b, *pages(2, 4), b.a)
        memtype_free(b, *pages(0, 2), b.a)
        assert ever(b.a) == [0, 1, 2, 3]
        assert ever(b.b) == []
        memtype_reserve(b, *pages(4, 5), UCM, True, b.b)
        memtype_free(b, *pages(4, 6), b.b)
        assert ever(b.b) == [4]

    run(body, finds=["freeing-invalid-memtype", "memtype-double-free"])


def test_anonymous_owners() -> None:
    def body(b: Board) -> None:
        memtype_reserve(b, *pages(0, 4), UCM, True, None)
        memtype_reserve(b, *pages(0, 4), UCM, True, None)
        memtype_free(b, *pages(0, 4), None)
        memtype_free(b, *pages(0, 4), None)

    run(body)


def test_the_owner_plays_no_part() -> None:
    """The kernel does not know who frees: an unrelated free of the right range succeeds, and the ghosts see it."""

    def body(b: Board) -> None:
        memtype_reserve(b, *pages(0, 4), UCM, True, b.a)
        assert memtype_free(b, *pages(0, 4), b.b) == 0
        assert b.memtypes.claims_on(BAR >> 12) == [b.a]
        assert memtype_reserve(b, *pages(0, 4), WC, True, b.c) == (0, WC)

    run(body, finds=["memtype-double-free", "memtype-steal"])


# -- several tasks ----------------------------------------------------------------------------------------------------
def reserving(mode: CacheMode, owner: str = "a") -> Callable[[Board], Any]:
    return lambda b: memtype_reserve(b, BAR, BAR + PAGE, mode, True, getattr(b, owner))


def test_the_first_of_two_decides() -> None:
    results = search(reserving(WC, "a"), reserving(UCM, "b"))
    assert results.counts.complete == 2
    assert results.outcomes == {
        ((0, WC), (0, WC), "0-1 write-combining", "0-1 write-combining"),
        ((0, UCM), (0, UCM), "0-1 uncached-minus", "0-1 uncached-minus"),
    }
    assert not results.found


def test_look_ups_commute() -> None:
    def look(b: Board) -> CacheMode:
        return lookup_memtype(b, BAR)

    assert search(look, look, look).counts.complete == 1
    results = search(look, reserving(WC), look)
    assert results.counts.complete == 4  # each before or after the reservation


def test_look_ups_of_ram_and_of_the_hole_touch_no_tree() -> None:
    def others(b: Board) -> tuple[CacheMode, CacheMode]:
        return lookup_memtype(b, RAM), lookup_memtype(b, 0xB8000)

    assert search(others, reserving(WC)).counts.complete == 1


def test_two_reservations_of_one_ram_page() -> None:
    """memtype_lock does not cover page flags: both may find the page free, and then both have it."""

    def reserve(mode: CacheMode) -> Callable[[Board], Any]:
        return lambda b: (*memtype_reserve(b, RAM, RAM + PAGE, mode, True), lookup_memtype(b, RAM))

    results = search(reserve(WC), reserve(UCM))
    errors = {(a[0], b[0]) for a, b in results.outcomes}
    assert errors == {(0, -EBUSY), (-EBUSY, 0), (0, 0)}
    assert ((0, WC, WC), (0, UCM, UCM)) in results.outcomes


def test_the_second_of_two_frees_steals() -> None:
    """a gives back twice, b holds the same range: only where b is there already, it is his entry that goes."""

    def free(b: Board) -> int:
        return memtype_free(b, BAR, BAR + PAGE, b.a)

    def first(b: Board) -> int:
        memtype_reserve(b, BAR, BAR + PAGE, UCM, True, b.a)
        free(b)
        return free(b)

    results = search(first, reserving(UCM, "b"))
    assert found(results) == {"memtype-double-free", "memtype-steal", "freeing-invalid-memtype"}
    assert {(r[0], len(r) - 2) for r in results.outcomes} == {(0, 0), (-EINVAL, 1)}


def test_a_free_and_a_reservation_of_another_type() -> None:
    """Whether the new type is had depends on who comes first; nobody sees anything half done."""

    def body(b: Board) -> None:
        memtype_reserve(b, BAR, BAR + PAGE, UCM, True, b.a)
        memtype_free(b, BAR, BAR + PAGE, b.a)

    results = search(body, reserving(WC, "b"))
    assert {r[1] for r in results.outcomes} == {(0, WC), (0, UCM)}
    assert not results.found


def busy(b: Board) -> None:
    """A bit of everything."""
    reserve_pfn_range(b, BAR, 2 * PAGE, PWT, False, b.a)
    lookup_memtype(b, BAR)
    memtype_reserve(b, RAM, RAM + PAGE, WC, True)
    lookup_memtype(b, RAM)
    reserve_pfn_range(b, RAM, PAGE, 0, False)
    memtype_free(b, RAM, RAM + PAGE)
    free_pfn_range(b, BAR, PAGE, b.a)
    free_pfn_range(b, BAR + PAGE, PAGE, b.a)
    reserve_pfn_range(b, 0x9000, PAGE, PWT, False, b.a)


def test_the_database_is_declared() -> None:
    """The audit has nothing to say; and it does look, for what changes behind its back is found."""

    def build(*bodies: Callable[[Board], Any]) -> Callable[[], Setup]:
        def setup() -> Setup:
            board = Board()
            return Setup({f"t{n}": (lambda f=f: f(board)) for n, f in enumerate(bodies)}, context=board)

        return setup

    assert audit(build(busy, busy), max_executions=60) == []

    def sneaky(b: Board) -> None:
        lookup_memtype(b, BAR)
        b.memtypes.claims = b.memtypes.peek("tree").insert(BAR, BAR + PAGE, WC)
        lookup_memtype(b, BAR)

    assert "MemtypeDatabase.claims written outside events that name it" in {
        f.name for f in audit(build(sneaky, busy), max_executions=5)
    }


def test_same_search_twice() -> None:
    """Equal outcomes and messages, execution by execution."""

    def told() -> list[str]:
        results = Dpor(program(busy, busy), max_executions=40).run()
        return [f"{f.finding.kind} {f.finding.name} {f.finding.message} {f.executions}" for f in results.found.values()]

    assert told() == told()
    assert told()
