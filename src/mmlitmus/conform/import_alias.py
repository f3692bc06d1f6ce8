"""Memtype sequences on real kernels: what the guest program aliastest printed, turned into the schema.

``python -m mmlitmus.conform.import_alias RAW_FOLDER OUT_FOLDER``. aliastest.c maps 4 pages of the VGA's BAR 0, or of
reserved memory, write-combining (A) and with the default protection (B), in one process, and prints the memtype list as
it goes. Each sequence below is its C code, step by step; A is slot a, B is slot b. Sequence 2 goes on where 1 ends, so
its program begins with 1's steps, unobserved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    walks,
    with_logs,
)
from .schema import (
    Exit,
    Fork,
    Header,
    Map,
    Memtype,
    Observed,
    Probe,
    Program,
    Recording,
    Remap,
    Step,
    Switch,
    Touch,
    Unmap,
)

PAGES = 4  # of every mapping
WALK = r"(L\d:[0-9a-f]+)"

#: the module's modes that are used (pfnlab_uapi.h): the number, which is bits 16 and up of the file's page, and what
#: the module does
MODES: dict[str, tuple[int, dict[str, Any]]] = {
    "resv": (0, {"region": "reserved"}),
    "resv-wc": (1, {"region": "reserved", "cache": "wc"}),
    "bar-wc": (12, {"region": "bar", "cache": "wc"}),
    "bar": (15, {"region": "bar"}),
    "bar-fault": (16, {"region": "bar", "insert": "fault_pfn"}),
}


class Sequence:
    """One sequence: what it maps, what was printed, in order."""

    def __init__(self, header: Header, cursor: Cursor, region: str, offset: int) -> None:
        key = header.region(region)
        assert key is not None
        self.frame = offset >> 12
        start = (key.pfn << 12) + offset
        self.window = Window(start, start + (PAGES << 12))
        self.lists = Lists(self.window)
        self.take = cursor.take

    def pat(self, tag: str) -> tuple[Memtype, ...]:
        """``pat(tag)``: the sequence's entries of the list that comes next."""
        (line,) = self.take(rf" *pat\[{tag}\]:(.*)\n")
        return self.lists.read(line)

    def map(self, slot: str, mode: str, seen: Observed | None = None) -> Map:
        """mmap of the sequence's pages in one of the modes."""
        number, how = MODES[mode]
        offset = number << 16 | self.frame
        return Map(
            slot=slot,
            pages=PAGES,
            backing="pfnmap",
            frame=self.frame,
            offset=offset,
            **how,
            observed=seen or Observed(),
        )

    def zap(self, mode: str, seen: Observed) -> Probe:
        """unmap_mapping_range of the first page of a mode's mappings."""
        return Probe(call="unmap_mapping_range", offset=MODES[mode][0] << 16 | self.frame, pages=1, observed=seen)


def unmap(slot: str, page: int = 0, pages: int = PAGES, memtypes: tuple[Memtype, ...] | None = None) -> Unmap:
    """munmap, whose result is not printed."""
    return Unmap(slot=slot, page=page, pages=pages, observed=Observed(memtypes=memtypes))


def second_owner(s: Sequence) -> list[Step]:
    """1: a second mapping of the same pages, of the default type."""
    first = s.map("a", "bar-wc", Observed(memtypes=s.pat("A=WC mapped")))
    result, a1, b1 = s.take(rf"  1 B\(default prot\) while A tracked: (\S+) A={WALK} B={WALK}\n")
    return [first, s.map("b", "bar", called(result, a1=a1, b1=b1)), unmap("b", memtypes=s.pat("B unmapped"))]


def zapped(s: Sequence) -> list[Step]:
    """2: the second mapping again, after a page of the first was zapped."""
    zap = s.zap("bar-wc", Observed(memtypes=s.pat("A page0 zapped")))
    result, a1, b1 = s.take(rf"  2 B after zap of A page0: (\S+) A1={WALK} B1={WALK}\n")
    seen = called(result, a1=a1, b1=b1)
    return [
        s.map("a", "bar-wc"),
        s.map("b", "bar"),
        unmap("b"),
        zap,
        s.map("b", "bar", Observed(result=seen.result, entries=seen.entries, memtypes=s.pat("both"))),
        unmap("b", memtypes=s.pat("B unmapped")),
        unmap("a", memtypes=s.pat("A unmapped")),
    ]


def head_first(s: Sequence) -> list[Step]:
    """3: a forked child unmaps all; then the head goes, a second mapping comes and goes, and the rest goes."""
    first = s.map("a", "bar-wc", Observed(memtypes=s.pat("A2=WC mapped")))
    back = Switch(process=0, observed=Observed(memtypes=s.pat("fork child unmapped")))
    head = unmap("a", 0, 1, memtypes=s.pat("A2 head unmapped"))
    result, a1, b1 = s.take(rf"  3 B after munmap of A head: (\S+) A1={WALK} B1={WALK}\n")
    return [
        first,
        Fork(child=1),
        Switch(process=1),
        unmap("a"),
        Exit(),
        back,
        head,
        s.map("b", "bar", called(result, a1=a1, b1=b1)),
        unmap("b"),
        unmap("a", 1, 3, memtypes=s.pat("all unmapped")),
    ]


def tail_first(s: Sequence) -> list[Step]:
    """A3: the tail goes, then the rest."""
    return [
        s.map("a", "bar-wc"),
        unmap("a", 3, 1, memtypes=s.pat("A3 tail unmapped")),
        unmap("a", 0, 3, memtypes=s.pat("A3 rest unmapped")),
    ]


def middle(s: Sequence) -> list[Step]:
    """A4: page 1 goes, then the head, then the rest."""
    return [
        s.map("a", "bar-wc"),
        unmap("a", 1, 1, memtypes=s.pat("A4 middle unmapped")),
        unmap("a", 0, 1, memtypes=s.pat("A4 head unm")),
        unmap("a", 2, 2, memtypes=s.pat("A4 rest unm")),
    ]


def moved(s: Sequence) -> list[Step]:
    """5: moved by mremap."""
    (word,) = s.take(r"  5 mremap (\S+) ")
    seen = Observed(result=called(word).result, memtypes=s.pat("moved"))
    return [
        s.map("a", "bar-wc"),
        Remap(slot="a", pages=PAGES, new_pages=PAGES, to="b", flags=("maymove", "fixed"), observed=seen),
        unmap("b", memtypes=s.pat("unm")),
    ]


def shrunk(s: Sequence) -> list[Step]:
    """6: made half as long by mremap."""
    (word,) = s.take(r"  6 mremap shrink (\S+) ")
    seen = Observed(result=called(word).result, memtypes=s.pat("shrunk"))
    return [
        s.map("a", "bar-wc"),
        Remap(slot="a", pages=PAGES, new_pages=2, observed=seen),
        unmap("a", 0, 2, memtypes=s.pat("unm")),
    ]


def inserted(s: Sequence) -> list[Step]:
    """7: a page inserted by ->fault before there is a reservation, another one after."""
    (before,) = s.take(rf"  7 vmf_insert_pfn\(no track\) B0={WALK}")
    result, a0, b0, b1 = s.take(rf" A\(WC\)=(\S+) A0={WALK} B0={WALK} B1\(after A\)={WALK}\n")
    return [
        s.map("b", "bar-fault"),
        Touch(slot="b", access="write", observed=Observed(entries=walks(0, b0=before))),
        s.map("a", "bar-wc", called(result)),
        Touch(slot="b", page=1, access="write", observed=Observed(entries=walks(0, a0=a0, b0=b0, b1=b1))),
        unmap("a"),
        unmap("b", memtypes=s.pat("end")),
    ]


def write_combining_first(s: Sequence) -> list[Step]:
    """8: reserved memory, mapped write-combining and then write-back."""
    first, second, a0, b0 = s.take(rf"  8 resv A=WC then B=WB: A=(\S+) B=(\S+) A0={WALK} B0={WALK}\n")
    both = called(second, a0=a0, b0=b0)
    return [
        s.map("a", "resv-wc", called(first)),
        s.map("b", "resv", Observed(result=both.result, entries=both.entries, memtypes=s.pat("8"))),
        unmap("b"),
        unmap("a"),
    ]


def write_back_first(s: Sequence) -> list[Step]:
    """9: reserved memory, mapped write-back and then write-combining, which fails."""
    first, second, b0 = s.take(rf"  9 resv B=WB then A=WC: B=(\S+) A=(-E\S+) B0={WALK} A0=\n")
    failed = called(second, b0=b0)
    return [
        s.map("b", "resv", called(first)),
        s.map("a", "resv-wc", Observed(result=failed.result, entries=failed.entries, memtypes=s.pat("9"))),
    ]


#: (program's id, its name, which region, at which offset in bytes, steps)
SEQUENCES: tuple[tuple[str, str, str, int, Callable[[Sequence], list[Step]]], ...] = (
    ("1", "default protection beside write-combining", "bar", 0x300000, second_owner),
    ("2", "default protection after a zap of one page", "bar", 0x300000, zapped),
    ("3", "unmapped head first", "bar", 0x310000, head_first),
    ("A3", "unmapped tail first", "bar", 0x320000, tail_first),
    ("A4", "unmapped middle first", "bar", 0x330000, middle),
    ("5", "mremap moves", "bar", 0x340000, moved),
    ("6", "mremap shrinks", "bar", 0x350000, shrunk),
    ("7", "vmf_insert_pfn looks the type up", "bar", 0x360000, inserted),
    ("8", "reserved memory: write-combining, then write-back", "reserved", 0x800000, write_combining_first),
    ("9", "reserved memory: write-back, then write-combining", "reserved", 0x800000, write_back_first),
)


def convert(raw: bytes, name: str) -> Recording:
    """The recording of one run of aliastest. BadValueError when the output is not what the program prints."""
    output = text_of(raw)
    header = lab_header(output, raw, name, "aliastest.c")
    body = found(r"(?s)\n## ALIAS\n(.*?)\nDONE\n", output)[1] + "\n"
    cursor = Cursor(CONSOLE.sub("", body))
    programs = []
    for ident, title, region, offset, steps in SEQUENCES:
        sequence = Sequence(header, cursor, region, offset)
        programs.append((Program(id=ident, name=title, steps=tuple(steps(sequence))), sequence.window))
    cursor.end()
    return Recording(header=header, programs=with_logs(programs, logged(output)))


if __name__ == "__main__":
    main(convert, "import_alias", "alias-*.txt")
