"""What may be mapped where after some steps: what a generator knows of a program that it has not run."""

from __future__ import annotations

from dataclasses import dataclass, field

from .schema import PAGE_INSERTS, Exit, Fork, Limit, Lockall, Map, Remap, Step, Switch, Unmap

#: the places of the language: slots, and pages in each
SLOTS = "abcd"
PAGES = 8
#: of programs about huge leaves: three blocks of 2 MiB and a half, in pages
BLOCK = 512
HUGE_PAGES = 3 * BLOCK + BLOCK // 2

Place = tuple[int, str, int]


@dataclass(frozen=True)
class Kind:
    """What a page may be mapped by."""

    backing: str
    insert: str = ""
    region: str = ""


@dataclass
class World:
    """What may be mapped where after some steps. A call may fail, so a page may be several things, or nothing.

    ``likely``: what is there if every call went as it was meant to.
    """

    maybe: dict[Place, set[Kind]] = field(default_factory=dict)
    likely: dict[Place, Kind] = field(default_factory=dict)
    used: set[tuple[int, str]] = field(default_factory=set)
    live: list[int] = field(default_factory=lambda: [0])
    born: list[int] = field(default_factory=lambda: [0])
    current: int = 0
    pages: int = PAGES  # of a slot
    limited: bool = False  # RLIMIT_MEMLOCK, in any process
    locked_all: bool = False  # by mlockall, in any process

    def kinds(self, slot: str, page: int, pages: int, process: int | None = None) -> set[Kind]:
        """What may be mapped in a range of pages."""
        who = self.current if process is None else process
        found: set[Kind] = set()
        for at in range(page, page + pages):
            found |= self.maybe.get((who, slot, at), set())
        return found

    def anonymous(self, slot: str, page: int, pages: int) -> bool:
        """May there be anonymous memory in the range?"""
        return any(kind.backing == "anonymous" for kind in self.kinds(slot, page, pages))

    def counted(self, slot: str, page: int, pages: int) -> bool:
        """May there be pages in the range that the kernel counts and may reclaim?"""
        kinds = self.kinds(slot, page, pages)
        return any(kind.backing == "anonymous" or kind.insert in (*PAGE_INSERTS, "mixed") for kind in kinds)

    def everywhere(self) -> set[Kind]:
        """What may be mapped anywhere."""
        return set().union(*self.maybe.values())

    def runs(self) -> list[tuple[str, int, int]]:
        """The likely mappings of the current process: slot, first page, pages."""
        found: list[tuple[str, int, int]] = []
        for slot in SLOTS:
            page = 0
            while page < self.pages:
                first, kind = page, self.likely.get((self.current, slot, page))
                while page < self.pages and self.likely.get((self.current, slot, page)) == kind:
                    page += 1
                if kind is not None:
                    found.append((slot, first, page - first))
        return found

    # -- what a step does to it ----------------------------------------------------------------------------------
    def after(self, step: Step) -> None:
        """Take a step."""
        if isinstance(step, Map):
            self._map(step)
        elif isinstance(step, Unmap):
            for page in range(step.page, step.page + step.pages):
                self.maybe.pop((self.current, step.slot, page), None)
                self.likely.pop((self.current, step.slot, page), None)
        elif isinstance(step, Remap):
            self._remap(step)
        elif isinstance(step, Fork):
            self.born.append(step.child)
            self.live.append(step.child)
            for (process, slot, page), kinds in [*self.maybe.items()]:
                if process == self.current:
                    self.maybe[step.child, slot, page] = set(kinds)
            for (process, slot, page), kind in [*self.likely.items()]:
                if process == self.current:
                    self.likely[step.child, slot, page] = kind
            self.used |= {(step.child, slot) for process, slot in self.used if process == self.current}
        elif isinstance(step, Switch):
            self.current = step.process
        elif isinstance(step, Limit):
            self.limited = True
        elif isinstance(step, Lockall):
            self.locked_all = True
        elif isinstance(step, Exit):
            self.live.remove(self.current)
            for held in (self.maybe, self.likely):
                for place in [p for p in held if p[0] == self.current]:
                    del held[place]

    def _map(self, step: Map) -> None:
        kind = kind_of(step)
        self.used.add((self.current, step.slot))
        for page in range(step.page, step.page + step.pages):
            place = (self.current, step.slot, page)
            self.maybe.setdefault(place, set()).add(kind)
            if "fixed_noreplace" not in step.flags or place not in self.likely:
                self.likely[place] = kind

    def _remap(self, step: Remap) -> None:
        moved = self.kinds(step.slot, step.page, max(step.pages, 1))
        if step.to is None:
            for page in range(step.page + step.new_pages, step.page + step.pages):
                self.likely.pop((self.current, step.slot, page), None)
            return
        self.used.add((self.current, step.to))
        went = [self.likely.get((self.current, step.slot, step.page + page)) for page in range(step.new_pages)]
        for page in range(step.pages):  # of no length at all is a copy: what is there stays
            self.likely.pop((self.current, step.slot, step.page + page), None)
        for page, kind in enumerate(went):
            place = (self.current, step.to, page)
            self.maybe.setdefault(place, set()).update(moved)
            if kind is not None:
                self.likely[place] = kind


def kind_of(step: Map) -> Kind:
    """What a page of the mapping is mapped by."""
    return Kind(step.backing, step.insert, step.region) if step.backing == "pfnmap" else Kind(step.backing)
