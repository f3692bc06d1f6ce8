"""A search in parts, handed out and taken back in any order, lost and done again, is the search in one."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable

import pytest

from mmlitmus.checker.checkpoint import dumped, loaded
from mmlitmus.explore import runtime
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.sample import Plan, sample
from mmlitmus.explore.scheduler import Results, Setup
from mmlitmus.explore.split import Branch, Search, Searched, run

from .pinned import PROGRAMS
from .programs import FAMILIES, MIXED, build, generate
from .semantics import increments, sections

ALL = [*FAMILIES, MIXED]
Build = Callable[[], Setup]


def shuffled(program: Build, search: Search, rng: random.Random, workers: int) -> Results:
    """The search by some workers that finish in any order; every tenth part is lost."""
    flying: list[tuple[Branch, Searched]] = []
    while not search.over:
        while len(flying) < workers and (given := search.order(alone=workers == 1)) is not None:
            branch, order = given
            flying.append((branch, order.run(program)))
        if not flying:
            break
        branch, done = flying.pop(rng.randrange(len(flying)))
        if rng.random() < 0.1:
            search.lost(branch)
        else:
            search.take(branch, done)
    return search.results()


def written_down(program: Build, search: Search, fresh: Callable[[], Search]) -> tuple[Search, Results]:
    """The search part by part, each time by another that read what the last wrote."""
    while (given := search.order(alone=True)) is not None:
        branch, order = given
        search.take(branch, order.run(program))
        text = json.dumps(dumped(search))
        search = fresh()
        loaded(search, json.loads(text))
    return search, search.results()


def everything(results: Results) -> list[object]:
    found = [(str(one), f.message, one.executions) for f, one in results.found.items()]
    sets = [results.outcomes, results.deadlocks, results.reached, results.exhausted, results.stopped]
    return [results.counts, found, *sets]


def compare(program: Build, seed: int, most: int | None = None) -> int:
    """Two ways to divide the search; AssertionError when the whole differs from Dpor in anything."""
    rng = random.Random(seed)
    engine = Dpor(program, keep_traces=True, max_executions=most)
    want = engine.run()
    how = {"max_executions": most, "executions": rng.choice([1, 2, 3, 7, 20]), "grain": rng.choice([0, 1, 2, 5])}
    search = Search(keep_traces=True, **how)
    got = shuffled(program, search, rng, rng.choice([1, 2, 3, 5]))
    assert everything(got) == everything(want)
    assert got.traces == want.traces
    assert list(search.lockdep().edges.items()) == list(engine.lockdep.edges.items())
    search, again = written_down(program, Search(**how), lambda: Search(**how))
    assert everything(again) == everything(want)
    assert list(search.lockdep().edges.items()) == list(engine.lockdep.edges.items())
    return want.counts.executions


def family(name: str, seeds: range) -> int:
    """The random programs of a family; how many executions they had."""
    total = 0
    for seed in seeds:
        program = build(generate(name, seed))
        n = compare(program, seed)
        if n > 3:  # and cut somewhere
            compare(program, seed + 1, 1 + seed % n)
        total += n
    return total


@pytest.mark.parametrize("name", ALL)
def test_random_programs(name: str) -> None:
    assert family(name, range(5)) > 4


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_once_went_wrong(name: str) -> None:
    for seed in range(3):
        compare(build(PROGRAMS[name]), seed)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ALL)
def test_fuzz(name: str, fuzz_runs: int, capfd: pytest.CaptureFixture[str]) -> None:
    executions = family(name, range(2_000_000, 2_000_000 + fuzz_runs))
    with capfd.disabled():
        print(f"\n{name:9} {fuzz_runs} programs in parts, {executions} executions, the same", file=sys.stderr)


@pytest.mark.parametrize(("program", "traces"), [(sections(2, 4), 630), (sections(3, 2), 630), (increments(2, 3), 328)])
def test_branches_are_used_and_count_nothing_twice(program: Build, traces: int) -> None:
    search = Search(executions=20, grain=5)
    adopted = 0
    append = search._append

    def counting(branch: Branch, start: int, done: Searched) -> None:
        nonlocal adopted
        adopted += done.results.counts.executions > 20  # more than a slice: it was searched early, as a branch
        append(branch, start, done)

    search._append = counting  # type: ignore[method-assign]
    results = shuffled(program, search, random.Random(1), 3)
    assert results.counts.complete == traces
    assert adopted


def test_one_after_the_other() -> None:
    want = Dpor(sections(2, 3)).run()
    assert everything(run(sections(2, 3), Search(executions=7))) == everything(want)


def test_a_loop_that_is_cut() -> None:
    from .test_engine import machine, write

    def spin(v: object) -> None:
        while v.x != 1:  # type: ignore[attr-defined]
            pass

    engine = Dpor(machine(spin, write), max_executions=50)
    engine.max_events = 20
    want = engine.run()
    for slices in (1, 3, 100):
        search = Search(max_executions=50, max_events=20, executions=slices, grain=0)
        assert everything(shuffled(machine(spin, write), search, random.Random(slices), 2)) == everything(want)


def test_a_program_that_does_not_do_the_same_twice_is_no_search() -> None:
    from mmlitmus.explore.scheduler import SetupError

    builds = 0

    def fickle() -> Setup:
        nonlocal builds
        builds += 1
        return (sections(2, 2) if builds < 4 else increments(3, 2))()

    with pytest.raises(SetupError, match="does not do the same twice"):
        run(fickle, Search(executions=2))


def test_what_lockdep_knows_before_anything_runs_counts_in_parts() -> None:
    def program() -> Setup:
        runtime.engine.lockdep.prime("b", "a", "known from the start")
        a, b = Mutex("a"), Mutex("b")

        def takes_both() -> None:
            a.lock()
            b.lock()
            b.unlock()
            a.unlock()

        return Setup({"t": takes_both})

    name = "inversion a -> b -> a"
    assert [f.name for f in Dpor(program).run().found] == [name]
    assert [f.name for f in run(program, Search()).found] == [name]
    assert [f.name for f in sample(program, Plan(4)).results().found] == [name]
