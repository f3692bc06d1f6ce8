"""Random walks: what they say of themselves, and what they find in the case suite."""

from __future__ import annotations

from collections import Counter

import pytest

from mmlitmus.checker.case import Case
from mmlitmus.checker.kernels import specs_for
from mmlitmus.checker.load import select
from mmlitmus.checker.run import Builder
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.findings import report
from mmlitmus.explore.sample import STRATEGIES, Plan, Size, Walks, bound, sample, unseen
from mmlitmus.explore.scheduler import Results, Setup
from mmlitmus.explore.state import Model, Once

from .programs import FAMILIES, MIXED, build, generate
from .semantics import sections

#: within so many walks each known violation of the case suite is found (docs/soundness.md)
ENOUGH = 4096


def summary(walks: Walks) -> list[object]:
    r = walks.results()
    found = [(f, one.choices, one.executions) for f, one in r.found.items()]
    return [walks.told(), r.counts, found, sorted(map(str, r.outcomes))]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_seed_decides_and_nothing_else(strategy: str) -> None:
    program = build(generate("mixed", 3))
    one = sample(program, Plan(200, strategy, 3, 7))
    assert summary(one) == summary(sample(program, Plan(200, strategy, 3, 7)))
    assert one.traces != sample(program, Plan(200, strategy, 3, 8)).traces
    divided = Walks(Plan(200, strategy, 3, 7), chunk=16)
    flying, lost = [divided.order()], set()
    while flying:
        name, order = flying.pop()  # the latest first
        if name in (48, 96) and name not in lost:
            lost.add(name)
            divided.lost(name)
        else:
            divided.take(name, order.run(program))
        flying += [given for given in (divided.order(), divided.order()) if given]
    assert lost == {48, 96}
    assert summary(divided) == summary(one)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", [*FAMILIES, MIXED])
def test_walks_show_only_what_there_is(strategy: str, family: str) -> None:
    for seed in range(3):
        program = build(generate(family, seed))
        all_of_it = Dpor(program, keep_traces=True).run()
        walks = sample(program, Plan(60, strategy, 3, seed))
        got = walks.results()
        assert got.outcomes <= all_of_it.outcomes
        assert {f.name for f in got.found if f.kind != "inversion"} <= {f.name for f in all_of_it.found}
        assert len(walks.traces) <= len(all_of_it.traces)
        assert not got.exhausted
        assert got.stopped == "60 walks"


def test_every_trace_comes_up_in_the_end_and_once_is_counted_once() -> None:
    walks = sample(sections(2, 2), Plan(1200, "pos", 3, 0))
    assert len(walks.traces) == len(Dpor(sections(2, 2), keep_traces=True).run().traces) == 30
    assert walks.told()["unseen"] == unseen(walks.traces) < 0.02


def test_bound_and_estimate() -> None:
    assert bound(Size(2, 10, 0), 3) == 1 / 200
    assert bound(Size(2, 10, 1), 3) == 1 / 400
    assert bound(Size(4, 50, 0), 1) == 1 / 4
    assert unseen({}) == 1
    assert unseen({b"a": 1, b"b": 3}) == 0.25


class Word(Model):
    __slots__ = ()
    x = Once()


def test_pct_keeps_its_bound() -> None:
    """Two writes have to fall between two reads, depth 3: it happens more often than the bound says."""

    def program() -> Setup:
        word = Word("w", x=0)

        def reader() -> None:
            for _ in range(3):
                word.x  # noqa: B018
            if word.x == 0 and word.x == 2:
                report("invariant", "both", "two writes between two reads")

        def writer() -> None:
            word.x = 1
            word.x = 2

        return Setup({"reader": reader, "writer": writer})

    for seed in range(3):
        walks = sample(program, Plan(800, "pct", 3, seed))
        (found,) = walks.results().found.values()
        assert found.executions / 800 >= float(walks.told()["bound"])


def rows(every: int = 1) -> list[tuple[Case, str, frozenset[str]]]:
    """Every row of the case suite whose expected answer is a violation: case, kernel, findings."""
    found = []
    for case in select([]).cases:
        for spec in specs_for(case):
            expected = case.expected(spec)
            if expected is not None and expected.names:
                found.append((case, spec, expected.names))
    return found[::every]


def missed(strategy: str, chosen: list[tuple[Case, str, frozenset[str]]]) -> tuple[list[str], Counter[int]]:
    """What the walks did not find, and how many rows needed how many walks (by the power of two)."""
    left, needed = [], Counter[int]()
    for case, spec, names in chosen:

        def enough(r: Results, names: frozenset[str] = names) -> bool:
            return names <= {f.name for f in r.found}

        walks = sample(Builder(case, spec), Plan(ENOUGH, strategy, 3, 1), enough, chunk=64)
        lost = names - {f.name for f in walks.results().found}
        if lost:
            left.append(f"{case.id} on {spec}: {sorted(lost)} not in {walks.done} walks")
        else:
            needed[walks.done] += 1
    return left, needed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_known_violations_are_found(strategy: str) -> None:
    assert missed(strategy, rows(200))[0] == []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_known_violation_is_found(strategy: str, capfd: pytest.CaptureFixture[str]) -> None:
    chosen = rows()
    left, needed = missed(strategy, chosen)
    with capfd.disabled():
        print(f"\n{strategy}: {len(chosen)} rows, walks needed: {sorted(needed.items())}")
    assert left == []
