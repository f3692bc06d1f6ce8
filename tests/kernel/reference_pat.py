"""What is reserved after a sequence of calls, told from the rules alone: lists of VMAs, and a list of entries.

Written from the dossier (A.2, A.4, A.5, A.6), not from the model. Frames and addresses are numbers of pages; types are
``WC`` and ``UC-``, the two that a mapping of a BAR can ask for here. Entries are [start, end, type], with duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DEVICE, COPY = "device", "copy"


@dataclass
class Rules:
    """How a kernel tracks."""

    ctx: bool = False  # 6.16: reservations belong to an object that VMAs share
    any_page: bool = False  # the walk takes whatever the first page is, a private copy too
    inherit: bool = False  # a child has VM_PAT, whether or not it has a reservation
    zap_untracks: bool = True  # a zap of any part of a VMA gives all of its reservation back


@dataclass
class Shared:
    """A reservation that VMAs share (ctx)."""

    entry: list[object]
    users: int = 1


@dataclass
class Vma:
    start: int
    end: int
    frame: int  # of the first page, as mapped
    private: bool
    pat: bool = False
    advised: bool = False
    pages: dict[int, tuple[str, str]] = field(default_factory=dict)  # what each populated page is, and its type
    ctx: Shared | None = None


class PatReference:
    """Processes that map one BAR with remap_pfn_range."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.tree: list[list[object]] = []
        self.spaces: list[list[Vma]] = [[]]

    # -- the tree ---------------------------------------------------------------------------------------------------
    def reserve(self, start: int, end: int, want: str, strict: bool) -> str | None:
        """The type that the range gets, or None. Whoever comes second gets what is there; strict: or nothing."""
        there = [e for e in self.tree if e[0] < end and start < e[1]]  # type: ignore[operator]
        types = {e[2] for e in there}
        if len(types) > 1:
            return None
        got = str(there[0][2]) if there else want
        if strict and got != want:
            return None
        self.tree.append([start, end, got])
        return got

    def free(self, start: int, end: int) -> None:
        """An entry of exactly this range; else the end of the first that ends there; else nothing."""
        for e in self.tree:
            if e[:2] == [start, end]:
                self.tree.remove(e)
                return
        shorter = [e for e in self.tree if e[1] == end and e[0] < start]  # type: ignore[operator]
        if shorter:
            min(shorter)[1] = start  # type: ignore[type-var]

    def untrack(self, v: Vma) -> None:
        if not v.pat:
            return
        first = v.pages.get(v.start, ("", ""))[0]
        if first == COPY and self.rules.any_page:
            v.pat = False  # a frame of RAM, of which there is no entry
        elif first == DEVICE or (v.private and not self.rules.any_page):
            self.free(v.frame, v.frame + v.end - v.start)
            v.pat = False

    # -- VMAs -------------------------------------------------------------------------------------------------------
    def at(self, space: list[Vma], page: int) -> Vma | None:
        return next((v for v in space if v.start <= page < v.end), None)

    def part(self, v: Vma, start: int, end: int) -> Vma:
        """A VMA like ``v`` over a part of it."""
        pages = {n: p for n, p in v.pages.items() if start <= n < end}
        if v.ctx is not None:
            v.ctx.users += 1
        return Vma(start, end, v.frame + start - v.start, v.private, v.pat, v.advised, pages, v.ctx)

    def cut(self, space: list[Vma], page: int) -> None:
        """A boundary in front of ``page``, where a VMA goes on."""
        v = self.at(space, page)
        if v is None or v.start == page:
            return
        space.append(self.part(v, page, v.end))
        v.pages = {n: p for n, p in v.pages.items() if n < page}
        v.end = page
        space.sort(key=lambda x: x.start)

    def drop(self, space: list[Vma], v: Vma) -> None:
        """The end of a VMA."""
        space.remove(v)
        self.release(v)

    def release(self, v: Vma) -> None:
        """What a VMA holds goes with it."""
        if v.ctx is not None:
            v.ctx.users -= 1
            if not v.ctx.users:
                self.tree = [e for e in self.tree if e is not v.ctx.entry]

    # -- calls ------------------------------------------------------------------------------------------------------
    def map(self, space: list[Vma], page: int, n: int, frame: int, cache: str, private: bool) -> bool:
        """With ctx, what is replaced is freed last: its reservation is in the way."""
        replaced = self.munmap(space, page, n, free=not self.rules.ctx)
        done = self.map_new(space, page, n, frame, cache, private)
        for v in replaced:
            self.release(v)
        return done

    def map_new(self, space: list[Vma], page: int, n: int, frame: int, cache: str, private: bool) -> bool:
        got = self.reserve(frame, frame + n, cache, False)
        if got is None:
            return False
        v = Vma(page, page + n, frame, private, not self.rules.ctx)
        v.pages = dict.fromkeys(range(page, page + n), (DEVICE, got))
        if self.rules.ctx:
            v.ctx = Shared(self.tree[-1])
        space.append(v)
        space.sort(key=lambda x: x.start)
        return True

    def munmap(self, space: list[Vma], page: int, n: int, free: bool = True) -> list[Vma]:
        self.cut(space, page)
        self.cut(space, page + n)
        gone = [v for v in space if page <= v.start < page + n]
        for v in gone:
            self.untrack(v)
            space.remove(v)
            if free:
                self.release(v)
        return gone

    def advise(self, space: list[Vma], page: int, n: int) -> None:
        for v in [v for v in space if v.start < page + n and page < v.end and not v.advised]:
            start, end = max(page, v.start), min(page + n, v.end)
            self.cut(space, start)
            self.cut(space, end)
            middle = self.at(space, start)
            assert middle is not None
            middle.advised = True

    def zap(self, space: list[Vma], page: int, n: int) -> None:
        v = self.at(space, page)
        if v is None or page + n > v.end:
            return
        if self.rules.zap_untracks:
            self.untrack(v)
        v.pages = {k: p for k, p in v.pages.items() if not page <= k < page + n}

    def write(self, space: list[Vma], page: int) -> bool:
        v = self.at(space, page)
        if v is None or page not in v.pages:
            return False
        if v.private:
            v.pages[page] = (COPY, v.pages[page][1])
        return True

    def mremap(self, space: list[Vma], page: int, old: int, new: int, to: int | None) -> None:
        """Only what is allowed is asked for: to shrink, to move, or both."""
        if to is None:
            self.munmap(space, page + new, old - new)
            return
        self.munmap(space, to, new)
        self.munmap(space, page + new, old - new) if old > new else None
        v = self.at(space, page)
        assert v is not None
        moved = self.part(v, page, page + new)
        moved.pages = {k - page + to: p for k, p in moved.pages.items()}
        moved.start, moved.end = to, to + new
        v.pat = False
        v.pages = {k: p for k, p in v.pages.items() if not page <= k < page + new}
        self.munmap(space, page, new)
        space.append(moved)
        space.sort(key=lambda x: x.start)

    def fork(self, space: list[Vma]) -> list[Vma] | None:
        child: list[Vma] = []
        for v in space:
            copy = self.part(v, v.start, v.end)
            copy.pages = {}
            copy.pat = v.pat and self.rules.inherit
            child.append(copy)
            if v.pat and not self.reserve_again(v, copy):
                self.exit(child)
                return None
            copy.pages = dict(v.pages)
        self.spaces.append(child)
        return child

    def reserve_again(self, v: Vma, copy: Vma) -> bool:
        first, kind = v.pages.get(v.start, ("", ""))
        if first == DEVICE:
            if self.reserve(v.frame, v.frame + v.end - v.start, kind, True) is None:
                return False
        elif not (first == COPY and self.rules.any_page):
            return False
        copy.pat = True
        return True

    def exit(self, space: list[Vma]) -> None:
        for v in list(space):
            self.untrack(v)
            self.drop(space, v)

    # -- what can be seen -------------------------------------------------------------------------------------------
    def entries(self) -> list[tuple[object, ...]]:
        return sorted(tuple(e) for e in self.tree)  # type: ignore[type-var]

    def layout(self, space: list[Vma]) -> list[tuple[int, int, bool, int]]:
        return [(v.start, v.end, v.pat, len(v.pages)) for v in space]
