"""Every way to map frames, on real kernels: what the guest program labtest printed, turned into the schema.

``python -m mmlitmus.conform.import_labtest RAW_FOLDER OUT_FOLDER``. labtest.c takes one mode of the probe module after
the other, shared and private, and does the same to each mapping of 4 pages: touch, advise, zap a page, move, fork,
protect, unmap the head and then the rest, map again read-only. A mode is a program here.

Left out, by rule: modes that are no mappings of bare frames, page by page (``LEFT_OUT``); private mappings that the
module itself refuses; get_user_pages and what uses it, hmm, process_vm_readv, /proc/PID/mem, notifier events, pagemap,
Rss.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from .codec import BadValueError
from .lab_output import (
    CONSOLE,
    Cursor,
    Lists,
    Window,
    called,
    found,
    lab_header,
    logged,
    main,
    text_of,
    touched,
    walks,
    with_logs,
)
from .schema import (
    Advise,
    Exit,
    Fork,
    Header,
    Map,
    Memtype,
    Observed,
    Probe,
    Program,
    Protect,
    Recording,
    Remap,
    Step,
    Switch,
    Touch,
    Unmap,
)

PAGES = 4  # of every mapping that is imported

#: mode -> its number, which is bits 16 and up of the file's page (pfnlab_uapi.h), and what the module does
MODES: dict[str, tuple[int, dict[str, Any]]] = {
    "REMAP_RESV": (0, {"region": "reserved"}),
    "REMAP_RESV_WC": (1, {"region": "reserved", "cache": "wc"}),
    "REMAP_RESV_UC": (2, {"region": "reserved", "cache": "uc-"}),
    "REMAP_RAM": (3, {"region": "ram"}),
    "FAULT_PFN_RESV": (4, {"region": "reserved", "insert": "fault_pfn"}),
    "FAULT_PFN_RAM": (5, {"region": "ram", "insert": "fault_pfn"}),
    "FAULT_PFN_RESV_WC(prot)": (10, {"region": "reserved", "insert": "fault_pfn_prot", "cache": "wc"}),
    "REMAP_BAR_WC": (12, {"region": "bar", "cache": "wc"}),
    "REMAP_PARTIAL": (14, {"region": "reserved", "insert": "remap_partial"}),
    "REMAP_BAR": (15, {"region": "bar"}),
    "FAULT_PFN_BAR": (16, {"region": "bar", "insert": "fault_pfn"}),
    "REMAP_BAR_PARTIAL_WC": (18, {"region": "bar", "insert": "remap_partial", "cache": "wc"}),
    "FAULT_PFN_BAR_WC": (19, {"region": "bar", "insert": "fault_pfn", "cache": "wc"}),
    "FAULT_PFN_BAR_UC": (20, {"region": "bar", "insert": "fault_pfn", "cache": "uc-"}),
    "REMAP_HOLE": (21, {"region": "hole"}),
    "FAULT_PFN_HOLE": (22, {"region": "hole", "insert": "fault_pfn"}),
}

#: modes that are not imported, and why
LEFT_OUT = {
    "INSERT_PAGE": "pages with a reference count",
    "FAULT_PAGE": "pages with a reference count",
    "MIXED_RESV": "VM_MIXEDMAP",
    "MIXED_RAM": "VM_MIXEDMAP",
    "MIXED_BAR": "VM_MIXEDMAP",
    "HUGE_PFN_RESV": "a huge leaf",
    "IOMAP_BAR": "the module changes vm_pgoff behind the kernel's back",
}
#: lines that are not imported
OTHER_LINES = re.compile(r"^  (?:gup: |pin4=|ev\[)[^\n]*\n", re.M)

W = r"(L\d:[0-9a-f]+)"  # a walk
T = r"(ok|BUS/\d|SEGV/\d)"  # a touch
R = r"(0|-E[A-Z]+)"  # a call

#: madvise as it was called: (as it is printed, the advice, pages)
ADVICE = (
    ("DONTNEED", "dontneed", 1), ("FREE", "free", 1), ("COLD", "cold", 1), ("DOFORK", "dofork", PAGES),
    ("DODUMP", "dodump", PAGES), ("POPULATE_W", "populate_write", 1), ("MERGEABLE", "mergeable", PAGES),
    ("HUGEPAGE", "hugepage", PAGES),
)  # fmt: skip


class Mode:
    """One mode, shared or private: what was printed, in order."""

    def __init__(self, header: Header, text: str) -> None:
        self.cursor = Cursor(OTHER_LINES.sub("", text))
        self.take = self.cursor.take
        self.name, sharing, pages, offset, self.result = self.take(
            r"## (\S+) (SHARED|PRIVATE) n=(\d+) off=([0-9a-f]+) mmap=(\S+)\n"
        )
        if self.name not in MODES and self.name not in LEFT_OUT:
            raise BadValueError("", f"an unknown mode: {self.name}")
        self.sharing = sharing.lower()
        number, self.how = MODES.get(self.name, (0, {"region": "ram"}))
        self.frame = int(offset, 16) >> 12
        self.offset = number << 16 | self.frame
        key = header.region(self.how["region"])
        assert key is not None
        start = key.pfn + self.frame << 12
        self.window = Window(start, start + (int(pages) << 12))
        self.lists = Lists(self.window)

    @property
    def left_out(self) -> bool:
        """Is the mode not imported?"""
        module_refuses = self.how.get("insert", "").startswith("fault_pfn") and self.sharing == "private"
        return self.name in LEFT_OUT or module_refuses

    def pat(self, tag: str) -> tuple[Memtype, ...]:
        """``pat(tag)``: the mode's entries of the list that comes next."""
        (line,) = self.take(rf" *pat\[{tag}\]:(.*)\n")
        return self.lists.read(line)

    def vm_flags(self, slot: str, name: str) -> dict[str, str | None]:
        """``vmflags()``, as far as smaps prints letters."""
        (letters,) = self.take(rf" *{name}: ?([a-z ]*?) *\n")
        return {f"0:{slot}0": letters}

    def map(self, slot: str, seen: Observed, **how: Any) -> Map:
        """mmap."""
        return Map(
            slot=slot, pages=PAGES, backing="pfnmap", frame=self.frame, offset=self.offset, sharing=self.sharing,
            **self.how, **how, observed=seen,
        )  # fmt: skip

    def program(self) -> Program:
        """The steps of labtest's ``one()``. BadValueError when the output is not what it prints."""
        if self.result == "ok":
            steps = [*self.first(), *self.advised(), *self.zapped(), *self.moved(), *self.forked()]
            steps += [*self.protected(), *self.unmapped(), *self.read_only()]
        else:
            steps = [self.map("a", called(self.result))]
        self.cursor.end()
        return Program(id=f"{self.name} {self.sharing}", steps=tuple(steps))

    def first(self) -> list[Step]:
        """mmap, a load, a store; a load beyond the first half where only that was filled."""
        flags = self.vm_flags("a", "vmflags")
        listed = self.pat("mapped")
        mapped, r, r0, w, w0 = self.take(
            rf"  pte0={W} fastonly_before=\S+ read={T} pte={W} pm=\S+ write={T} pte={W} pm=\S+\n"
        )
        seen = Observed(result=called(self.result).result, vm_flags=flags, memtypes=listed, entries=walks(0, a0=mapped))
        self.take(r"  rssKB=\d+")
        stored = replace(touched(w, a0=w0), vm_flags=self.vm_flags("a", "vmflags2"))
        steps: list[Step] = [
            self.map("a", seen),
            Touch(slot="a", observed=touched(r, a0=r0)),
            Touch(slot="a", access="write", observed=stored),
        ]
        if self.how.get("insert") == "remap_partial":
            beyond, t = self.take(rf"  beyond: pte_after={W} touch={T}\n")
            steps.append(Touch(slot="a", page=PAGES // 2, observed=touched(t, a2=beyond)))
        return steps

    def advised(self) -> list[Step]:
        """mlock, madvise, mremap to twice the length."""
        (lock,) = self.take(rf"  pvm_readv=\S+ procmem_r=\S+ procmem_w=\S+ vmsplice=\S+ write\(2\)=\S+ mlock={R}")
        steps: list[Step] = [
            Advise(slot="a", pages=1, advice="lock", observed=called(lock)),
            Advise(slot="a", pages=1, advice="unlock"),
        ]
        for printed, advice, pages in ADVICE:
            (word,) = self.take(rf" {printed}={R}")
            steps.append(Advise(slot="a", pages=pages, advice=advice, observed=called(word)))
        (grown,) = self.take(r" mremap_grow=(-E[A-Z]+)\n")  # what it did when it worked is undone unseen
        grow = Remap(slot="a", pages=PAGES, new_pages=2 * PAGES, flags=("maymove",), observed=called(grown))
        return [*steps, grow]

    def zapped(self) -> list[Step]:
        """A store, unmap_mapping_range of page 0, a load, a store."""
        a0, a1 = self.take(rf"  unmap_mapping: pte={W} pte1={W}")
        seen = Observed(entries=walks(0, a0=a0, a1=a1), memtypes=self.pat("afterzap"))
        r, r0 = self.take(rf"  retouch={T} pte={W}\n")
        w, w0 = self.take(rf"  retouchW={T} pte={W}\n")
        return [
            Touch(slot="a", access="write"),
            Probe(call="unmap_mapping_range", offset=self.offset, pages=1, observed=seen),
            Touch(slot="a", observed=touched(r, a0=r0)),
            Touch(slot="a", access="write", observed=touched(w, a0=w0)),
        ]

    def moved(self) -> list[Step]:
        """mremap over a reservation made for it."""
        word, old, new, new1 = self.take(rf"  mremap_move=(\S+) old={W} new={W} new1={W}\n")
        seen = replace(called(word, a0=old, b0=new, b1=new1), memtypes=self.pat("moved"))
        return [
            Map(slot="b", pages=PAGES, backing="anonymous", prot="", sharing="private"),
            Remap(slot="a", pages=PAGES, new_pages=PAGES, to="b", flags=("maymove", "fixed"), observed=seen),
        ]

    def forked(self) -> list[Step]:
        """A store to page 1, fork; the child loads and stores it too. The parent looks when the child has ended."""
        store = Touch(slot="b", page=1, access="write")
        failed, child = self.take(r"(?:  FORK FAILED (-E[A-Z]+))?  fork: ([^|\n]*)\| ")
        (parent,) = self.take(rf"parent pte1={W}\n")
        if failed:
            return [store, Fork(child=1, observed=called(failed, b1=parent))]
        c = Cursor(child)
        b0, b1, r, w, after = c.take(rf"child pte0={W} pte1={W} t1r={T} t1w={T} pte1={W} ")
        c.end()
        return [
            store,
            Fork(child=1, observed=called("ok")),
            Switch(process=1, observed=Observed(entries=walks(1, b0=b0, b1=b1))),
            Touch(slot="b", page=1, observed=touched(r)),
            Touch(
                slot="b",
                page=1,
                access="write",
                observed=replace(touched(w), entries=walks(1, b1=after)),
            ),
            Exit(),
            Switch(process=0, observed=Observed(entries=walks(0, b1=parent))),
        ]

    def protected(self) -> list[Step]:
        """Page 0 made read-only and writable again, a store each time."""
        r, r0, fails = self.take(rf"  mprotR={R} pte={W} w={T}")
        rw, rw0, w, w0 = self.take(rf" mprotRW={R} pte={W} w={T} pte={W}\n")
        flags = self.vm_flags("b", "vmflags3")
        return [
            Protect(slot="b", pages=1, prot="r", observed=called(r, b0=r0)),
            Touch(slot="b", access="write", observed=touched(fails)),
            Protect(slot="b", pages=1, prot="rw", observed=called(rw, b0=rw0)),
            Touch(
                slot="b",
                access="write",
                observed=replace(touched(w, b0=w0), vm_flags=flags, memtypes=self.pat("split")),
            ),
        ]

    def unmapped(self) -> list[Step]:
        """The head, then the rest."""
        (head,) = self.take(rf"  munmap_head={R}")
        first = replace(called(head), memtypes=self.pat("head-unmapped"))
        (rest,) = self.take(rf"  munmap_rest={R}")
        second = replace(called(rest), memtypes=self.pat("unmapped"))
        return [
            Unmap(slot="b", pages=1, observed=first),
            Unmap(slot="b", page=1, pages=PAGES - 1, observed=second),
        ]

    def read_only(self) -> list[Step]:
        """The same pages again, by a file opened read-only. That a line was printed says that mmap worked."""
        letters, r, r0, w, rw = self.take(
            rf"  RO-map: fl=([a-z ]*?) *r={T} pte={W} w={T} pinLTW=\S+ pinLT=\S+ mprotRW={R}\n"
        )
        return [
            self.map("c", replace(called("ok"), vm_flags={"0:c0": letters}), prot="r", opened="r"),
            Touch(slot="c", observed=touched(r, c0=r0)),
            Touch(slot="c", access="write", observed=touched(w)),
            Protect(slot="c", pages=PAGES, prot="rw", observed=called(rw)),
            Unmap(slot="c", pages=PAGES),
        ]


def convert(raw: bytes, name: str) -> Recording:
    """The recording of one run of labtest. BadValueError when the output is not what the program prints."""
    output = text_of(raw)
    header = lab_header(output, raw, name, "labtest.c")
    body = CONSOLE.sub("", found(r"(?s)\n(## REMAP_.*?)\nDONE\n", output)[1] + "\n")
    modes = [Mode(header, text) for text in re.split(r"(?m)^(?=## )", body) if text]
    programs = [(m.program(), m.window) for m in modes if not m.left_out]
    return Recording(header=header, programs=with_logs(programs, logged(output)))


if __name__ == "__main__":
    main(convert, "import_labtest", "labtest-*.txt")
