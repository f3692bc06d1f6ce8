"""Random calls on mappings of a BAR: what is reserved, and who has VM_PAT, against the rules told in another way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.scheduler import Setup
from mmlitmus.invariants.memtype import memtypes_at_rest, memtypes_now
from mmlitmus.kernel import eras
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, open_probe
from mmlitmus.kernel.errno import EINVAL, ENOMEM
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm.madvise import MADV_RANDOM
from mmlitmus.kernel.mm.memory_zap import zap_vma_ptes
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, MAP_SHARED
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.uapi import Process

from .probed import NAMES
from .reference_pat import PatReference, Rules, Vma
from .world import PAGE, World

FRAMES = 8
PAGES = 10

page = st.integers(0, PAGES - 1)
count = st.integers(1, 5)
which = st.integers(0, 1)
kind = st.tuples(st.sampled_from(("wc", "wc", "")), st.sampled_from((False, False, True)))
MAP = st.tuples(st.just("map"), which, page, st.integers(1, 6), st.integers(0, 3), kind)
CALLS = st.one_of(
    MAP,
    st.tuples(st.just("munmap"), which, page, count),
    st.tuples(st.just("munmap"), which, page, count),
    st.tuples(st.just("mremap"), which, page, count, count, st.none() | st.integers(0, 2 * PAGES)),
    st.tuples(st.just("zap"), which, page, count),
    st.tuples(st.just("advise"), which, page, count),
    st.tuples(st.just("write"), which, page),
    st.tuples(st.just("fork"), which),
    st.tuples(st.just("exit"), which),
)
BEGINNING = st.tuples(st.just("map"), st.just(0), st.integers(0, 4), st.integers(3, 6), st.integers(0, 2), kind)
PROGRAMS = st.builds(lambda first, rest: [first, *rest], BEGINNING, st.lists(CALLS, min_size=1, max_size=10))
LONG_PROGRAMS = st.builds(lambda first, rest: [first, *rest], BEGINNING, st.lists(CALLS, min_size=5, max_size=30))

#: what any program may see; VM_PAT's own troubles; what the printed type of a range has to do with
ASKED_FOR = {"conflicting-memory-types", "expected-mapping-type"}
TROUBLES = {
    "freeing-invalid-memtype", "untrack-walk-failed", "memtype-leak", "memtype-steal", "memtype-double-free",
    "memtype-alias", "untracked-live", "ram-type-changed",
}  # fmt: skip

VM_PAT = {
    "v5.10": Rules(any_page=True, inherit=True),
    "deb-5.10.262": Rules(inherit=True),
    "deb-6.1.192": Rules(),
    "v6.12": Rules(inherit=True),
    "v6.1 +untrack-in-unmap-vmas": Rules(any_page=True, inherit=True, zap_untracks=False),
    "v6.12 +untrack-in-unmap-vmas": Rules(inherit=True, zap_untracks=False),
}
CTX = {"v6.16": Rules(ctx=True), "v6.12 +pfnmap-track-ctx": Rules(ctx=True)}


class Pair:
    """The model and the reference, called alike and compared after each call."""

    def __init__(self, w: World, rules: Rules) -> None:
        self.w = w
        self.ref = PatReference(rules)
        self.processes: list[tuple[Process, list[Vma]]] = [(w.p, self.ref.spaces[0])]
        self.forks = 0

    def at(self, n: int) -> int:
        return self.w(n)

    def call(self, what: str, who: int, *args: Any) -> None:
        process, space = self.processes[who % len(self.processes)]
        getattr(self, what)(process, space, *args)

    def map(self, p: Process, s: list[Vma], at: int, n: int, frame: int, how: tuple[str, bool]) -> None:
        n = min(n, FRAMES - frame)
        cache, private = how
        flags = MAP_PRIVATE if private else MAP_SHARED
        got = p.mmap(self.w.probe.file("remap", cache), n, at=self.at(at), offset=frame, flags=flags)
        ok = self.ref.map(s, at, n, frame, "WC" if cache else "UC-", private)
        assert got == (self.at(at) if ok else -EINVAL)

    def munmap(self, p: Process, s: list[Vma], at: int, n: int) -> None:
        assert p.munmap(self.at(at), n) == 0
        self.ref.munmap(s, at, n)

    def mremap(self, p: Process, s: list[Vma], at: int, old: int, new: int, to: int | None) -> None:
        v = self.ref.at(s, at)
        if v is None:
            return
        old = min(old, v.end - at)
        new = min(new, old)
        if to is None and new == old or to is not None and at < to + new and to < at + old:
            return
        got = p.mremap(self.at(at), old, new, to=None if to is None else self.at(to))
        assert got == self.at(at if to is None else to)
        self.ref.mremap(s, at, old, new, to)

    def zap(self, p: Process, s: list[Vma], at: int, n: int) -> None:
        if self.ref.at(s, at) is None:
            return
        mmap_read_lock(p.mm)
        zap_vma_ptes(self.w.vma(self.at(at), p), self.at(at), n * PAGE)
        mmap_read_unlock(p.mm)
        self.ref.zap(s, at, n)

    def advise(self, p: Process, s: list[Vma], at: int, n: int) -> None:
        p.madvise(self.at(at), n, MADV_RANDOM)
        self.ref.advise(s, at, n)

    def write(self, p: Process, s: list[Vma], at: int) -> None:
        ok = self.ref.write(s, at)
        assert (p.write(self.at(at)) == 0) == ok

    def fork(self, p: Process, s: list[Vma]) -> None:
        if len(self.processes) == 2:
            return
        self.forks += 1
        child = p.fork(f"child{self.forks}")
        space = self.ref.fork(s)
        assert (child == -ENOMEM) == (space is None)
        if isinstance(child, Process) and space is not None:
            self.processes.append((child, space))

    def exit(self, p: Process, s: list[Vma]) -> None:
        if len(self.processes) == 2:
            self.leave(p, s)

    def leave(self, p: Process, s: list[Vma]) -> None:
        p.exit()
        self.ref.exit(s)
        self.processes.remove((p, s))

    def compare(self) -> None:
        base = BAR_PFN * PAGE
        got = [((e.start - base) // PAGE, (e.end - base) // PAGE, NAMES[e.type]) for e in self.w.m.memtypes.entries()]
        assert sorted(got) == self.ref.entries()
        for process, space in self.processes:
            layout = []
            filled = [address for address, _ in self.w.m.translations(process.mm)]
            for vma in process.mm.peek("mm_mt"):
                start, end = vma.peek("vm_start"), vma.peek("vm_end")
                pages = sum(start <= address < end for address in filled)
                pat = "ar" in process.vm_flags(start).split()
                layout.append(((start - self.at(0)) // PAGE, (end - self.at(0)) // PAGE, pat, pages))
            assert layout == self.ref.layout(space)


def play(program: list[tuple[Any, ...]], kernel: str, rules: Rules) -> None:
    """One program on one kernel, compared after each call; at the end everybody exits."""

    def build() -> Setup:
        machine = Machine(eras.kernel(kernel))
        w = World(machine, 1)
        w.probe = open_probe(machine, FRAMES)
        machine.check(lambda: memtypes_at_rest(machine))

        def body() -> None:
            pair = Pair(w, rules)
            for call in program:
                pair.call(*call)
                pair.compare()
                memtypes_now(machine)
            while pair.processes:
                pair.leave(*pair.processes[-1])
            pair.compare()
            if rules.ctx:
                assert machine.memtypes.entries() == []

        machine.task(body, process=w.p, name="task")
        return machine.setup()

    engine = Dpor(build)
    results = engine.run()
    if engine.last_exception is not None:
        raise engine.last_exception
    assert results.exhausted
    assert results.counts.executions == 1
    allowed = ASKED_FOR | (set() if rules.ctx else TROUBLES)
    unexpected = [f for f in results.found if f.name not in allowed]
    assert not unexpected, unexpected


@pytest.mark.parametrize("kernel", VM_PAT)
@settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
@given(program=PROGRAMS)
def test_vm_pat_against_the_rules(kernel: str, program: list[tuple[Any, ...]]) -> None:
    play(program, kernel, VM_PAT[kernel])


@pytest.mark.parametrize("kernel", CTX)
@settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
@given(program=PROGRAMS)
def test_a_shared_reservation_is_given_back_once(kernel: str, program: list[tuple[Any, ...]]) -> None:
    """Nothing is left, nothing is freed twice or under a live mapping, whatever is split, moved, zapped and forked."""
    play(program, kernel, CTX[kernel])


@pytest.mark.fuzz
@settings(max_examples=1200, suppress_health_check=list(HealthCheck))
@given(program=LONG_PROGRAMS, kernel=st.sampled_from(sorted(VM_PAT | CTX)))
def test_more_calls_against_the_rules(kernel: str, program: list[tuple[Any, ...]]) -> None:
    play(program, kernel, (VM_PAT | CTX)[kernel])


# -- does the comparison notice? --------------------------------------------------------------------------------------
NOTICED: list[tuple[Any, ...]] = [
    ("map", 0, 0, 6, 0, ("wc", False)), ("fork", 0), ("munmap", 0, 4, 2), ("munmap", 0, 0, 1), ("zap", 1, 2, 1),
    ("map", 0, 6, 3, 1, ("", True)), ("write", 0, 6), ("fork", 1), ("mremap", 0, 1, 3, 2, 12), ("munmap", 0, 6, 2),
    ("advise", 0, 12, 1), ("exit", 1), ("map", 0, 3, 2, 0, ("wc", True)), ("write", 0, 3), ("fork", 0),
    ("munmap", 0, 12, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("v5.10", Rules(inherit=True)),
        ("v6.12", Rules()),
        ("v6.12", Rules(inherit=True, zap_untracks=False)),
        ("v6.12 +untrack-in-unmap-vmas", Rules(inherit=True)),
        ("v6.16", Rules(inherit=True)),
    ],
)
def test_other_rules_are_noticed(right: str, wrong: Rules) -> None:
    play(NOTICED, right, (VM_PAT | CTX)[right])
    with pytest.raises((AssertionError, AttributeError)):
        play(NOTICED, right, wrong)
