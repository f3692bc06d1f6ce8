"""The multiset of reserved ranges: against a plain list, and its rules by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlitmus.kernel.arch.x86.memtype_interval import (
    EMPTY,
    IntervalTree,
    memtype_check_insert,
    memtype_erase,
    memtype_lookup,
)
from mmlitmus.kernel.errno import EBUSY, EINVAL

Entry = tuple[int, int, str]


def tree(*entries: Entry) -> IntervalTree:
    """Entries as given, without asking whether they agree."""
    t = EMPTY
    for start, end, type in entries:
        t = t.insert(start, end, type)
    return t


def listed(t: IntervalTree) -> list[Entry]:
    return [(e.start, e.end, e.type) for e in t.intervals()]


def sound(t: IntervalTree) -> None:
    """Is it an AVL tree with right heights and largest ends, in order, of the size it claims?"""

    def check(node: Any) -> tuple[int, int]:
        if node is None:
            return 0, -1
        left, right, height, end, item = node
        (lh, le), (rh, re) = check(left), check(right)
        assert abs(lh - rh) <= 1
        assert height == 1 + max(lh, rh)
        assert end == max(item.end, le, re)
        return height, end

    check(t.root)
    keys = [(e.start, e.seq) for e in t.intervals()]
    assert keys == sorted(keys)
    assert len(keys) == t.size == len(set(keys))


# -- against a list ---------------------------------------------------------------------------------------------------
class Naive:
    """The same rules over a list kept in order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def put(self, entry: Entry) -> None:
        at = sum(1 for e in self.entries if e[0] <= entry[0])
        self.entries.insert(at, entry)

    def over(self, start: int, end: int) -> list[Entry]:
        return [e for e in self.entries if e[0] < end and e[1] > start]

    def reserve(self, start: int, end: int, type: str, want_new: bool) -> tuple[int, str]:
        there = self.over(start, end)
        adopted = there[0][2] if there and (want_new or there[0][2] == type) else type
        if any(e[2] != adopted for e in there):
            return -EBUSY, adopted
        self.put((start, end, adopted))
        return 0, adopted

    def erase(self, start: int, end: int) -> tuple[int, Entry | None]:
        for e in self.entries:
            if e[:2] == (start, end):
                self.entries.remove(e)
                return 0, e
        for e in self.entries:
            if e[0] < start and e[1] == end:
                self.entries.remove(e)
                self.put((e[0], start, e[2]))
                return 0, e
        return -EINVAL, None

    def lookup(self, page: int) -> str | None:
        return next((e[2] for e in self.over(page, page + 1)), None)


def step(t: IntervalTree, naive: Naive, a: int, b: int) -> IntervalTree:
    """One operation, chosen by two bytes, on both; their answers are equal."""
    op, type, want_new = a % 5, "WUT"[a // 5 % 3], bool(a & 128)
    start = b % 16
    end = start + 1 + (b >> 4) % 6
    if op < 2:
        done = memtype_check_insert(t, start, end, type, want_new)
        assert (done.error, done.type) == naive.reserve(start, end, type, want_new)
        assert (done.conflict is None) == (done.error == 0)
        t = done.tree
    elif op < 4:
        erased = memtype_erase(t, start, end)
        error, entry = naive.erase(start, end)
        assert erased.error == error
        assert entry == (None if erased.entry is None else erased.entry[:3])
        assert erased.shrunk == (entry is not None and entry[0] < start)
        t = erased.tree
    assert memtype_lookup(t, start, 1) == naive.lookup(start)
    assert [e[:3] for e in t.overlaps(start, end)] == naive.over(start, end)
    return t


@settings(max_examples=1500)
@given(st.binary(max_size=60))
def test_it_is_a_list_of_tuples_with_these_rules(data: bytes) -> None:
    t, naive = EMPTY, Naive()
    for a, b in zip(data[::2], data[1::2], strict=False):
        before = listed(t)
        new = step(t, naive, a, b)
        assert listed(t) == before  # values: the old tree is as it was
        t = new
    assert listed(t) == naive.entries
    sound(t)


@pytest.mark.parametrize("seed", range(4))
def test_long_histories(seed: int) -> None:
    """Mostly insertions, so that there are rotations of every kind on the way up and down."""
    rng = random.Random(seed)
    t, naive = EMPTY, Naive()
    for n in range(1200):
        a, b = rng.randrange(256), rng.randrange(256)
        t = step(t, naive, a if n % 3 else a - a % 5, b)
    assert listed(t) == naive.entries
    sound(t)


def test_overlapping_entries_agree() -> None:
    """Whatever is reserved and freed, entries that overlap have one type."""
    rng = random.Random(7)
    t = EMPTY
    for _ in range(800):
        start, length = rng.randrange(40), rng.randrange(1, 9)
        if rng.random() < 0.6:
            t = memtype_check_insert(t, start, start + length, rng.choice("WUT"), rng.random() < 0.7).tree
        else:
            t = memtype_erase(t, start, start + length).tree
        for page in range(50):
            assert len({e.type for e in t.overlaps(page, page + 1)}) <= 1


def test_depth_is_logarithmic() -> None:
    t = EMPTY
    for n in range(5000):
        t = t.insert(n, n + 2, "W")
    assert t.root is not None
    assert t.root[2] <= 17  # 1.44 log2 5000
    sound(t)


# -- the rules by hand ------------------------------------------------------------------------------------------------
def test_order_is_by_start_then_insertion() -> None:
    t = tree((2, 4, "x"), (0, 9, "y"), (2, 3, "z"), (0, 1, "w"), (2, 4, "v"))
    assert listed(t) == [(0, 9, "y"), (0, 1, "w"), (2, 4, "x"), (2, 3, "z"), (2, 4, "v")]


def test_touching_is_not_overlapping() -> None:
    t = tree((2, 4, "W"))
    assert list(t.overlaps(0, 2)) == []
    assert t.first(4, 9) is None
    assert memtype_lookup(t, 3, 1) == "W"
    assert memtype_lookup(t, 4, 1) is None
    assert memtype_lookup(EMPTY, 0, 1) is None


@pytest.mark.parametrize(
    ("start", "end", "left"),
    [
        (0, 4, []),  # exact
        (2, 4, [(0, 2, "W")]),  # the tail
        (3, 4, [(0, 3, "W")]),
        (0, 2, None),  # the head
        (1, 3, None),  # the middle
        (0, 5, None),  # more than there is
        (2, 5, None),
        (4, 8, None),  # beside it
        (2, 2, None),  # nothing
    ],
)
def test_erase(start: int, end: int, left: list[Entry] | None) -> None:
    t = tree((0, 4, "W"))
    erased = memtype_erase(t, start, end)
    assert erased.error == (-EINVAL if left is None else 0)
    assert listed(erased.tree) == ([(0, 4, "W")] if left is None else left)


def test_exact_before_end() -> None:
    """Even where the entry that only ends there comes first."""
    erased = memtype_erase(tree((0, 4, "W"), (2, 4, "W")), 2, 4)
    assert listed(erased.tree) == [(0, 4, "W")]
    assert not erased.shrunk


def test_the_first_of_equal_entries_goes() -> None:
    t = EMPTY.insert(0, 4, "W", "first").insert(0, 4, "W", "second")
    erased = memtype_erase(t, 0, 4)
    assert erased.entry is not None
    assert erased.entry.owner == "first"
    assert [e.owner for e in erased.tree.intervals()] == ["second"]


def test_a_shrunk_entry_goes_behind_its_equals() -> None:
    """It is taken out and put in again, and keeps its owner."""
    t = EMPTY.insert(0, 4, "W", "first").insert(0, 8, "W", "second")
    erased = memtype_erase(t, 2, 4)
    assert erased.shrunk
    assert [(e.end, e.owner) for e in erased.tree.intervals()] == [(8, "second"), (2, "first")]


def test_split_frees() -> None:
    """Tail, then head: clean. Head, then tail: the head stays for ever. Middle first: everything but the tail stays."""
    t = tree((0, 4, "W"))
    assert listed(memtype_erase(memtype_erase(t, 2, 4).tree, 0, 2).tree) == []
    assert listed(memtype_erase(memtype_erase(t, 0, 2).tree, 2, 4).tree) == [(0, 2, "W")]
    middle = memtype_erase(t, 1, 3).tree
    assert listed(memtype_erase(memtype_erase(middle, 3, 4).tree, 0, 1).tree) == [(0, 3, "W")]


def test_the_first_overlap_decides() -> None:
    t = tree((0, 2, "W"), (4, 6, "U"))
    assert memtype_check_insert(t, 1, 3, "T", True)[1:3] == (0, "W")
    assert memtype_check_insert(t, 3, 5, "T", True)[1:3] == (0, "U")
    assert memtype_check_insert(t, 2, 4, "T", False)[1:3] == (0, "T")
    both = memtype_check_insert(t, 1, 5, "U", True)
    assert (both.error, both.type) == (-EBUSY, "W")
    assert both.conflict is not None
    assert both.conflict[:3] == (4, 6, "U")
    insisting = memtype_check_insert(t, 1, 3, "T", False)
    assert (insisting.error, insisting.type) == (-EBUSY, "T")
    assert insisting.conflict is not None
    assert insisting.conflict[:3] == (0, 2, "W")
    assert listed(both.tree) == listed(insisting.tree) == listed(t)


def test_insisting_does_not_excuse_later_overlaps() -> None:
    t = tree((0, 2, "W"), (4, 6, "U"))
    assert memtype_check_insert(t, 1, 5, "W", False).error == -EBUSY
