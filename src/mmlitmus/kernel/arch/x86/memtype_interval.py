"""The reservations of memory types outside RAM: a multiset of [start, end) with a type, and the rules over it.

Entries may overlap and may be equal; overlapping ones have equal types, because that is what the insertion sees to.
Addresses are bytes, ends exclusive. Everything here is an immutable value: an operation gives a new tree and leaves the
old one as it was, so that a tree can be a field of shared state that changes in one event. No events here.

The tree is an AVL tree by (start, order of insertion) in which every node knows the largest end below it: inserting,
removing and finding the first overlap cost O(log n), walking k overlaps O(k log n).

Source: arch/x86/mm/pat/memtype_interval.c, 6.1, 6.12 (equal), functions of the same name. Of the model's own:
IntervalTree, memtype_lookup_end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmlitmus.kernel.errno import EBUSY, EINVAL
from mmlitmus.kernel.policy import Seam

from .e820 import PAGE_SIZE

memtype_match = Seam("memtype_match", "which entry a free takes: one with its bounds, or one that ends where it ends")


class Interval(NamedTuple):
    """[start, end) bytes with a type. ``owner`` is told in messages only; ``seq`` orders equal starts."""

    start: int
    end: int
    type: Any
    owner: Any
    seq: int


#: (left, right, height, largest end in this subtree, interval)
Node = tuple[Any, Any, int, int, Interval]


class IntervalTree(NamedTuple):
    """A multiset of intervals. Make one from ``EMPTY``."""

    root: Node | None
    size: int
    seq: int  # of the next interval to be inserted

    def insert(self, start: int, end: int, type: Any, owner: Any = None) -> IntervalTree:
        """With [start, end) added, behind those with the same start. ``start < end``."""
        item = Interval(start, end, type, owner, self.seq)
        return IntervalTree(_insert(self.root, item), self.size + 1, self.seq + 1)

    def remove(self, item: Interval) -> IntervalTree:
        """Without ``item``, which must be there."""
        return IntervalTree(_remove(self.root, item.start, item.seq), self.size - 1, self.seq)

    def first(self, start: int, end: int) -> Interval | None:
        """The first interval, in the tree's order, that overlaps [start, end)."""
        node = self.root
        if node is None or node[3] <= start:
            return None
        while True:
            left = node[0]
            if left is not None and left[3] > start:
                node = left
                continue
            item = node[4]
            if item.start >= end:
                return None
            if item.end > start:
                return item
            node = node[1]
            if node is None or node[3] <= start:
                return None

    def overlaps(self, start: int, end: int) -> Iterator[Interval]:
        """Every interval that overlaps [start, end), in the tree's order: by start, then by insertion."""
        node = self.root
        stack: list[Node] = []
        while True:
            while node is not None and node[3] > start:
                stack.append(node)
                node = node[0]
            if not stack:
                return
            node = stack.pop()
            item = node[4]
            if item.start >= end:
                return
            if item.end > start:
                yield item
            node = node[1]

    def intervals(self) -> Iterator[Interval]:
        """All of them, in the tree's order."""
        node = self.root
        stack: list[Node] = []
        while stack or node is not None:
            while node is not None:
                stack.append(node)
                node = node[0]
            node = stack.pop()
            yield node[4]
            node = node[1]


EMPTY = IntervalTree(None, 0, 0)


class Insertion(NamedTuple):
    """What an insertion came to: the tree, 0 or -EBUSY, the type adopted, and the entry in its way if there is one."""

    tree: IntervalTree
    error: int
    type: Any
    conflict: Interval | None


class Erasure(NamedTuple):
    """What an erasure came to: the tree, 0 or -EINVAL, the entry it went by (as it was), and was it only shrunk?"""

    tree: IntervalTree
    error: int
    entry: Interval | None
    shrunk: bool


def memtype_check_conflict(
    tree: IntervalTree, start: int, end: int, type: Any, want_new: bool
) -> tuple[Any, Interval | None]:
    """(type that an entry for [start, end) would get, the entry that forbids it).

    The first overlapping entry decides the type, which is an error if the caller insists on his (``want_new`` false)
    and wants another. All later overlapping ones must agree with it.
    """
    found = tree.overlaps(start, end)
    first = next(found, None)
    if first is None:
        return type, None
    if first.type != type and not want_new:
        return type, first
    return first.type, next((entry for entry in found if entry.type != first.type), None)


def memtype_check_insert(
    tree: IntervalTree, start: int, end: int, type: Any, want_new: bool, owner: Any = None
) -> Insertion:
    """Insert [start, end) with ``type``, or with the type that is there already, or fail with -EBUSY."""
    adopted, conflict = memtype_check_conflict(tree, start, end, type, want_new)
    if conflict is not None:
        return Insertion(tree, -EBUSY, adopted, conflict)
    return Insertion(tree.insert(start, end, adopted, owner), 0, adopted, None)


def memtype_erase(tree: IntervalTree, start: int, end: int) -> Erasure:
    """Take [start, end) out: an entry with exactly these bounds, else the tail of an entry that ends there.

    Whose entry it is plays no part: of several equal ones the first goes. There is no way to give back the head or the
    middle of an entry; such a free is -EINVAL, and so is one of a range that spans entries.
    """
    entry = next((e for e in tree.overlaps(start, end) if e.start == start and e.end == end), None)
    if entry is not None:
        return Erasure(tree.remove(entry), 0, entry, False)
    entry = next((e for e in tree.overlaps(start, end) if e.start < start and e.end == end), None)
    if entry is None:
        return Erasure(tree, -EINVAL, None, False)
    return Erasure(tree.remove(entry).insert(entry.start, start, entry.type, entry.owner), 0, entry, True)


@memtype_match.alternative(
    "exact-or-tail",
    source="arch/x86/mm/pat/memtype_interval.c memtype_match, memtype_erase (to 6.12)",
    releases="<= v6.15",
)
def free_exact_or_tail(tree: IntervalTree, start: int, end: int) -> Erasure:
    """``memtype_erase``: a tail can be given back, for the sake of mremap."""
    return memtype_erase(tree, start, end)


@memtype_match.alternative(
    "exact", source="arch/x86/mm/pat/memtype_interval.c memtype_erase (7.3)", releases=">= v6.16"
)
def free_exact(tree: IntervalTree, start: int, end: int) -> Erasure:
    """An entry with exactly these bounds, or -EINVAL."""
    entry = next((e for e in tree.overlaps(start, end) if e.start == start and e.end == end), None)
    return Erasure(tree, -EINVAL, None, False) if entry is None else Erasure(tree.remove(entry), 0, entry, False)


def memtype_lookup(tree: IntervalTree, address: int, size: int) -> Any:
    """The type of the first entry that overlaps [address, address + size); None if there is none."""
    entry = tree.first(address, address + size)
    return None if entry is None else entry.type


def memtype_lookup_end(tree: IntervalTree, address: int, end: int) -> int:
    """How far the answer for the page at ``address`` holds: the first page up to ``end`` that has another first entry.

    An entry that is the first at one page is so up to its end, for what would come before it begins before it; where
    there is none, none is there up to the next one's beginning.
    """
    entry = tree.first(address, address + PAGE_SIZE)
    if entry is not None:
        return min(end, entry.end + PAGE_SIZE - 1 & -PAGE_SIZE)
    after = tree.first(address + PAGE_SIZE, end)
    return end if after is None else after.start & -PAGE_SIZE


# -- the AVL tree -----------------------------------------------------------------------------------------------------
def _node(left: Node | None, item: Interval, right: Node | None) -> Node:
    height, end = 1, item.end
    if left is not None:
        height = left[2] + 1
        if left[3] > end:
            end = left[3]
    if right is not None:
        if right[2] >= height:
            height = right[2] + 1
        if right[3] > end:
            end = right[3]
    return (left, right, height, end, item)


def _balanced(left: Node | None, item: Interval, right: Node | None) -> Node:
    """A node over subtrees whose heights differ by two at most."""
    lh = 0 if left is None else left[2]
    rh = 0 if right is None else right[2]
    if left is not None and lh > rh + 1:
        ll, lr = left[0], left[1]
        if lr is not None and (ll is None or ll[2] < lr[2]):
            return _node(_node(ll, left[4], lr[0]), lr[4], _node(lr[1], item, right))
        return _node(ll, left[4], _node(lr, item, right))
    if right is not None and rh > lh + 1:
        rl, rr = right[0], right[1]
        if rl is not None and (rr is None or rr[2] < rl[2]):
            return _node(_node(left, item, rl[0]), rl[4], _node(rl[1], right[4], rr))
        return _node(_node(left, item, rl), right[4], rr)
    return _node(left, item, right)


def _insert(node: Node | None, item: Interval) -> Node:
    if node is None:
        return (None, None, 1, item.end, item)
    if item.start < node[4].start:  # the newest is the last of those with its start
        return _balanced(_insert(node[0], item), node[4], node[1])
    return _balanced(node[0], node[4], _insert(node[1], item))


def _remove(node: Node | None, start: int, seq: int) -> Node | None:
    assert node is not None, "the interval is not in the tree"
    left, right, _, _, item = node
    if (start, seq) < (item.start, item.seq):
        return _balanced(_remove(left, start, seq), item, right)
    if (start, seq) > (item.start, item.seq):
        return _balanced(left, item, _remove(right, start, seq))
    if left is None:
        return right
    if right is None:
        return left
    least, rest = _take_first(right)
    return _balanced(left, least, rest)


def _take_first(node: Node) -> tuple[Interval, Node | None]:
    if node[0] is None:
        return node[4], node[1]
    least, rest = _take_first(node[0])
    return least, _balanced(rest, node[4], node[1])
