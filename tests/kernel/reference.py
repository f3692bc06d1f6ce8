"""What a process's address space looks like after a sequence of calls, told page by page, without VMAs.

Written from mmap(2), munmap(2), mprotect(2), mremap(2), fork(2) and the rules for PFNMAP mappings, not from the model:
a page is what it maps, how it may be used, whether a VMA begins with it, and whether it has a translation. Numbers are
pages; errors are what the model's calls return.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from errno import EACCES, EFAULT, EINVAL, ENOMEM

R, W = 1, 2


@dataclass(frozen=True)
class Page:
    offset: int  # of the file
    prot: int
    advice: str = ""  # rr, dc
    first: bool = False  # does a VMA begin here?
    filled: bool = False
    soft_dirty: bool = False


class Space:
    """One process."""

    def __init__(self) -> None:
        self.pages: dict[int, Page] = {}

    def has(self, at: int) -> bool:
        return at in self.pages

    def cut(self, at: int) -> None:
        """A VMA boundary in front of ``at``, where a VMA goes on."""
        if at in self.pages:
            self.pages[at] = replace(self.pages[at], first=True)

    def vma_end(self, at: int) -> int:
        """The end of the VMA that contains ``at``."""
        at += 1
        while at in self.pages and not self.pages[at].first:
            at += 1
        return at

    def vma_start(self, at: int) -> int:
        while not self.pages[at].first:
            at -= 1
        return at

    def parts(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The pieces of VMAs in a range, as they are now."""
        at = start
        while at < end:
            if at in self.pages:
                stop = min(end, self.vma_end(at))
                yield at, stop
                at = stop
            else:
                at += 1

    def layout(self) -> list[tuple[int, int, int, int, str]]:
        """(start, end, offset, prot, advice) of every VMA."""
        starts = sorted(at for at, p in self.pages.items() if p.first)
        return [
            (s, self.vma_end(s), self.pages[s].offset, self.pages[s].prot, self.pages[s].advice) for s in starts
        ]


class Reference:
    """Processes that map one device. ``whole``: a fault fills the whole VMA; ``looks``: what mremap looks at first."""

    def __init__(self, bar: int, whole: bool, looks: str = "address-first") -> None:
        self.bar = bar
        self.looks = looks
        self.whole = whole
        self.on = True
        self.spaces = [Space()]

    # -- calls: what each returns ---------------------------------------------------------------------------------
    def mmap(self, who: Space, at: int, n: int, offset: int, prot: int) -> int:
        self.munmap(who, at, n)  # before the driver is asked
        if offset + n > self.bar:
            return -EINVAL
        for k in range(n):
            who.pages[at + k] = Page(offset + k, prot, first=k == 0)
        return at

    def munmap(self, who: Space, at: int, n: int) -> int:
        who.cut(at)
        who.cut(at + n)
        for k in range(at, at + n):
            who.pages.pop(k, None)
        return 0

    def change(self, who: Space, start: int, end: int, **what: object) -> None:
        who.cut(start)
        who.cut(end)
        for k in range(start, end):
            who.pages[k] = replace(who.pages[k], **what)  # type: ignore[arg-type]

    def mprotect(self, who: Space, at: int, n: int, prot: int) -> int:
        for start, stop in list(who.parts(at, at + n)):
            if start > at and not who.has(start - 1):
                break
            if prot & 4:
                return -EACCES
            if who.pages[start].prot != prot:
                self.change(who, start, stop, prot=prot)
        return 0 if all(who.has(k) for k in range(at, at + n)) else -ENOMEM

    def madvise(self, who: Space, at: int, n: int, advice: str) -> int:
        for start, stop in list(who.parts(at, at + n)):
            old = who.pages[start].advice
            if advice == "normal":
                new = old.replace("rr", "")
            else:
                new = old if advice in old else "".join(sorted([old, advice]))
            if new != old:
                self.change(who, start, stop, advice=new)
        return 0 if all(who.has(k) for k in range(at, at + n)) else -ENOMEM

    def mlock(self, who: Space, at: int, n: int) -> int:
        return 0 if all(who.has(k) for k in range(at, at + n)) else -ENOMEM

    def mremap(self, who: Space, at: int, old: int, new: int, to: int | None) -> int:
        """``mremap``: a kernel looks at nothing, at the address, or at everything before it unmaps the target."""
        if to is not None and self.looks == "all-first" and at < to + new and to < at + old:
            return -EINVAL
        if to is not None and self.looks == "all-first" and old == new:
            return self.move_all(who, at, old, to)
        if not who.has(at) and self.looks != "target-first":
            return -EFAULT
        if to is None:
            if old > new:
                self.munmap(who, at + new, old - new)
            return at if old >= new else -EFAULT
        if at < to + new and to < at + old:
            return -EINVAL
        if self.looks == "all-first" and (new > old or new > who.vma_end(at) - at):
            return -EFAULT
        self.munmap(who, to, new)
        if old > new:
            self.munmap(who, at + new, old - new)
            old = new
        if not who.has(at) or old > who.vma_end(at) - at or new > old:
            return -EFAULT
        self.move(who, at, new, to)
        return to

    def move(self, who: Space, at: int, n: int, to: int) -> None:
        for k in range(n):
            page = who.pages[at + k]
            who.pages[to + k] = replace(page, first=k == 0, soft_dirty=page.soft_dirty or page.filled)
        self.munmap(who, at, n)

    def move_all(self, who: Space, at: int, n: int, to: int) -> int:
        """Every mapping in the range, holes and what is mapped behind them at the target left as they are."""
        if not who.has(at):
            return -EFAULT
        for start, stop in list(who.parts(at, at + n)):
            self.munmap(who, to + start - at, stop - start)
            self.move(who, start, stop - start, to + start - at)
        return to

    def touch(self, who: Space, at: int, write: bool) -> str:
        page = who.pages.get(at)
        if page is None or not page.prot or (write and not page.prot & W):
            return "SIGSEGV"
        if not page.filled:
            if not self.on:
                return "SIGBUS"
            span = range(who.vma_start(at), who.vma_end(at)) if self.whole else [at]
            for k in span:
                if not who.pages[k].filled:
                    who.pages[k] = replace(who.pages[k], filled=True, soft_dirty=False)
        return "ok"

    def fork(self, who: Space) -> Space:
        child = Space()
        child.pages = {at: p for at, p in who.pages.items() if "dc" not in p.advice}
        self.spaces.append(child)
        return child

    def exit(self, who: Space) -> None:
        who.pages.clear()
        self.spaces.remove(who)

    def power(self, on: bool) -> None:
        self.on = on
        if not on:
            for space in self.spaces:
                for at, page in space.pages.items():
                    space.pages[at] = replace(page, filled=False, soft_dirty=False)
