"""Random calls on one device: the model's VMAs and page tables against a reference that knows only pages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.findings import Finding
from mmlitmus.explore.scheduler import Setup
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.pgtable import NONE, RW, SOFT_DIRTY, pte_pfn, pte_present
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm.madvise import MADV_DONTFORK, MADV_NORMAL, MADV_RANDOM
from mmlitmus.kernel.uapi import Process

from .reference import Reference, Space
from .world import ERAS, PAGE, World

BAR = 8
FIRST = 506  # so that a 2M boundary lies in the middle
PAGES = 12
ADVICE = {"rr": MADV_RANDOM, "dc": MADV_DONTFORK, "normal": MADV_NORMAL}

page = st.integers(0, PAGES - 1)
count = st.integers(1, 6)
prots = st.sampled_from((3, 3, 1, 0, 2))
which = st.integers(0, 2)
CALLS = st.one_of(
    st.tuples(st.just("mmap"), which, page, count, st.integers(0, BAR), prots),
    st.tuples(st.just("mmap"), which, page, st.integers(3, 6), st.just(0), st.just(3)),
    st.tuples(st.just("munmap"), which, page, count),
    st.tuples(st.just("mprotect"), which, page, count, prots),
    st.tuples(st.just("madvise"), which, page, count, st.sampled_from(sorted(ADVICE))),
    st.tuples(st.just("mlock"), which, page, count),
    st.tuples(st.just("mremap"), which, page, count, count, st.none() | page),
    st.tuples(st.just("mremap"), which, page, st.just(2), st.just(2), st.integers(12, 18)),
    st.tuples(st.just("touch"), which, page, st.booleans()),
    st.tuples(st.just("touch"), which, page, st.booleans()),
    st.tuples(st.just("fork"), which),
    st.tuples(st.just("exit"), which),
    st.tuples(st.just("power"), st.booleans()),
)
#: a program begins with something that is mapped and touched: left to themselves hardly any touch what they have mapped
BEGINNING = st.tuples(
    st.tuples(st.just("mmap"), st.just(0), st.integers(0, 4), st.integers(3, 6), st.integers(0, 2), st.just(3)),
    st.tuples(st.just("touch"), st.just(0), st.just(4), st.booleans()),
)
PROGRAMS = st.builds(lambda begin, calls: [*begin, *calls], BEGINNING, st.lists(CALLS, min_size=1, max_size=12))
LONG_PROGRAMS = st.builds(lambda begin, calls: [*begin, *calls], BEGINNING, st.lists(CALLS, min_size=5, max_size=40))

#: the list of VMAs misses what was moved or forked: dossier S-FORK-02, mremap-then-disable
KNOWN = {"stale-translation", "access-after-disable"}
#: ->open zaps a copy that has inherited VM_PAT: what it untracks is nothing, or not the reservation that was made
COPIED = {"untrack-walk-failed", "freeing-invalid-memtype"}


class Pair:
    """The model and the reference, called alike and compared after each call."""

    def __init__(self, w: World) -> None:
        self.w = w
        design = w.m.kernel.choices["vfio_pci"]
        self.exact = design in ("v6.10", "v6.12")  # with VFIO's list, ->open makes population another matter
        self.ref = Reference(BAR, whole=design != "v6.12", looks=w.m.kernel.choices["do_mremap"])
        self.processes: list[tuple[Process, Space]] = [(w.p, self.ref.spaces[0])]
        self.forks = 0
        self.touched = False  # VFIO has mapped something, with remap_pfn_range up to 6.9
        self.copied = False  # ... and afterwards a VMA was split, moved or forked

    def at(self, n: int) -> int:
        return self.w(FIRST + n)

    def call(self, what: str, *args: Any) -> None:
        if what == "power":
            self.w.dev.write_command(memory=args[0])
            self.ref.power(args[0])
            return
        process, space = self.processes[args[0] % len(self.processes)]
        self.copied |= self.touched and what not in ("touch", "mlock", "exit")
        getattr(self, what)(process, space, *args[1:])

    def same(self, got: int, wanted: int) -> None:
        assert got == (wanted if wanted < 0 else self.at(wanted))

    def mmap(self, p: Process, s: Space, at: int, n: int, offset: int, prot: int) -> None:
        got = p.mmap(self.w.dev.file, n, at=self.at(at), offset=offset, prot=prot)
        self.same(got, self.ref.mmap(s, at, n, offset, prot))

    def munmap(self, p: Process, s: Space, at: int, n: int) -> None:
        assert p.munmap(self.at(at), n) == self.ref.munmap(s, at, n)

    def mprotect(self, p: Process, s: Space, at: int, n: int, prot: int) -> None:
        assert p.mprotect(self.at(at), n, prot) == self.ref.mprotect(s, at, n, prot)

    def madvise(self, p: Process, s: Space, at: int, n: int, advice: str) -> None:
        assert p.madvise(self.at(at), n, ADVICE[advice]) == self.ref.madvise(s, at, n, advice)

    def mlock(self, p: Process, s: Space, at: int, n: int) -> None:
        assert p.mlock(self.at(at), n) == self.ref.mlock(s, at, n)

    def mremap(self, p: Process, s: Space, at: int, old: int, new: int, to: int | None) -> None:
        got = p.mremap(self.at(at), old, new, to=None if to is None else self.at(to))
        self.same(got, self.ref.mremap(s, at, old, new, to))

    def touch(self, p: Process, s: Space, at: int, write: bool) -> None:
        got = p.write(self.at(at)) if write else p.read(self.at(at))
        wanted = self.ref.touch(s, at, write)
        if wanted != "ok":
            assert got == wanted or (wanted == "SIGBUS" and not self.exact)
            return
        assert not isinstance(got, str)
        self.touched = True
        entry = p.pte(self.at(at))
        assert pte_pfn(entry) == self.w.frame(s.pages[at].offset)

    def fork(self, p: Process, s: Space) -> None:
        if len(self.processes) < 3:
            self.forks += 1
            child = p.fork(f"child{self.forks}")
            assert isinstance(child, Process)
            self.processes.append((child, self.ref.fork(s)))

    def exit(self, p: Process, s: Space) -> None:
        if len(self.processes) > 1:
            self.leave(p, s)

    def leave(self, p: Process, s: Space) -> None:
        p.exit()
        self.ref.exit(s)
        self.processes.remove((p, s))
        assert list(self.w.m.translations(p.mm)) == []
        assert p.mm.peek("mm_mt") == ()

    # -- comparing ------------------------------------------------------------------------------------------------
    def compare(self) -> None:
        for process, space in self.processes:
            self.compare_vmas(process, space)
            self.compare_entries(process, space)
        self.compare_reverse_map()

    def compare_vmas(self, process: Process, space: Space) -> None:
        got = []
        for vma in process.mm.peek("mm_mt"):
            start, end, flags = vma.peek("vm_start"), vma.peek("vm_end"), vma.peek("vm_flags")
            pgoff = vma.peek("vm_pgoff") - (self.w.frame() if self.w.dev.pgoff_is_pfn else 0)
            letters = process.vm_flags(start).split()
            advice = "".join(sorted(x for x in letters if x in ("rr", "dc")))
            got.append(((start - self.at(0)) // PAGE, (end - self.at(0)) // PAGE, pgoff, flags & 7, advice))
            assert {"sh", "mr", "mw", "ms", "pf", "io", "de", "dd", "sd"} <= set(letters)
            assert not vma.peek("detached")
            assert not vma.peek("private")
            assert not vma.freed
        assert got == space.layout()
        assert process.mm.peek("total_vm") == len(space.pages)

    def compare_entries(self, process: Process, space: Space) -> None:
        filled = {}
        for address, entry in self.w.m.translations(process.mm):
            n = (address - self.at(0)) // PAGE
            assert n in space.pages, f"page {n} has a translation and no VMA"
            p = space.pages[n]
            assert pte_pfn(entry) == self.w.frame(p.offset)
            assert pte_present(entry)
            assert bool(entry & 1) == bool(p.prot)
            assert bool(entry & RW) == bool(p.prot & 2)
            filled[n] = bool(entry & SOFT_DIRTY)
        if self.exact:
            assert filled == {n: p.soft_dirty for n, p in space.pages.items() if p.filled}
        for n, table in process.mm.pgd.items():
            if table.peek("entry") != NONE:
                blocks = {self.at(k) >> 21 for k in space.pages}
                assert n in blocks, "a table that no VMA needs was not freed"

    def compare_reverse_map(self) -> None:
        linked = self.w.dev.mapping.i_mmap.items
        alive = [vma for process, _ in self.processes for vma in process.mm.peek("mm_mt")]
        assert len(linked) == len(alive)
        assert all(any(vma is other for other in alive) for vma in linked)
        offsets = [vma.peek("vm_pgoff") for vma in linked]
        assert offsets == sorted(offsets)

    def end(self) -> None:
        """Everybody exits: nothing is left."""
        while self.processes:
            self.leave(*self.processes[-1])
        assert self.w.dev.mapping.i_mmap.items == []
        assert getattr(self.w.dev, "vma_list", self.w.dev.mapping.i_mmap).items == []
        for mm in self.w.m.mms:
            assert list(self.w.m.translations(mm)) == []
            assert all(table.peek("entry") == NONE for table in mm.pgd.values())
            assert mm.peek("mm_users") == 0
            assert mm.peek("tlb_flush_pending") == 0


def play(program: list[tuple[Any, ...]], kernel: str) -> None:
    """One program on one kernel, with the comparison after each call."""
    pairs: list[Pair] = []

    def build() -> Setup:
        machine = Machine(eras.kernel(kernel))
        w = World(machine, BAR)

        def body() -> None:
            pair = Pair(w)
            pairs.append(pair)
            for call in program:
                pair.call(*call)
                pair.compare()
            pair.end()

        machine.task(body, process=w.p, name="task")
        return machine.setup()

    engine = Dpor(build)
    results = engine.run()
    if engine.last_exception is not None:
        raise engine.last_exception
    assert results.exhausted
    assert results.counts.executions == 1
    design = eras.kernel(kernel).choices["vfio_pci"]
    allowed = set() if design in ("v6.10", "v6.12") else KNOWN | COPIED if pairs[-1].copied else KNOWN
    if kernel.endswith("lockdep") and design not in ("v6.10", "v6.12"):
        allowed |= {"flags-without-lock"}
    unexpected: list[Finding] = [f for f in results.found if f.name not in allowed]
    assert not unexpected, unexpected


@pytest.mark.parametrize("kernel", [*ERAS, "v6.12 lockdep", "deb-6.1.192 +unmap-mapping-range"])
@settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(program=PROGRAMS)
def test_calls_against_the_reference(kernel: str, program: list[tuple[Any, ...]]) -> None:
    play(program, kernel)


@pytest.mark.fuzz
@settings(max_examples=600, suppress_health_check=list(HealthCheck))
@given(program=LONG_PROGRAMS, kernel=st.sampled_from(ERAS))
def test_more_calls_against_the_reference(kernel: str, program: list[tuple[Any, ...]]) -> None:
    play(program, kernel)


# -- does the comparison notice? --------------------------------------------------------------------------------------
def no_pgoff(module: Any, real: Any) -> Any:
    """A split that forgets the new half's offset."""

    def split(vma: Any, addr: int, new_below: bool) -> Any:
        offset = vma.vm_pgoff
        error, new = real(vma, addr, new_below)
        if new is not None:
            (vma if new_below else new)._values[type(vma).fields["vm_pgoff"].at] = offset
        return error, new

    return split


def keep_tables(module: Any, real: Any) -> Any:
    return lambda tlb, vma, others: None


def unordered(module: Any, real: Any) -> Any:
    return lambda vma: vma.vm_file.f_mapping.i_mmap.insert(0, vma)


def zap_half(module: Any, real: Any) -> Any:
    return lambda tlb, vma, table, addr, end: real(tlb, vma, table, addr, end - PAGE) if end - addr > PAGE else None


def copy_nothing(module: Any, real: Any) -> Any:
    return lambda dst, src: 0


def one_flag_for_all(module: Any, real: Any) -> Any:
    return lambda vma, start, end: 0


MUTANTS: list[tuple[str, str, Any]] = [
    ("mm.mmap", "split_vma", no_pgoff),
    ("mm.vma", "free_pgd_range", keep_tables),
    ("mm.vma", "vma_interval_tree_insert", unordered),
    ("mm.memory_zap", "zap_pte_range", zap_half),
    ("mm.fork", "copy_page_range", copy_nothing),
    ("mm.vma_merge", "isolate_range", one_flag_for_all),
]
NOTICED: list[tuple[Any, ...]] = [
    ("mmap", 0, 0, 6, 0, 3), ("mmap", 0, 8, 2, 0, 3), ("touch", 0, 1, True), ("touch", 0, 2, False),
    ("touch", 0, 8, False), ("fork", 0), ("mprotect", 0, 1, 2, 1), ("mprotect", 0, 1, 2, 3), ("mmap", 0, 10, 1, 3, 3),
    ("touch", 0, 1, True), ("munmap", 0, 1, 2), ("munmap", 0, 4, 1), ("power", False), ("munmap", 0, 8, 2),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "mutant"), MUTANTS)
def test_a_broken_model_is_noticed(module: str, name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    play(NOTICED, "v6.12")
    home = import_module(f"mmlitmus.kernel.{module}")
    monkeypatch.setattr(home, name, mutant(home, getattr(home, name)))
    with pytest.raises(AssertionError):
        play(NOTICED, "v6.12")
