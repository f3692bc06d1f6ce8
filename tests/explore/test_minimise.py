"""Minimising: how small the counterexample is, against the enumeration of everything, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.explore import minimise as module
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.findings import Finding, bug
from mmlitmus.explore.minimise import Minimal, Minimiser, minimise
from mmlitmus.explore.naive import Naive
from mmlitmus.explore.primitives.choice import choose
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.replay import Replay, replay
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Const, Guarded, Model, Once

from .machines import abba, counters, family, revoke, walk
from .programs import FAMILIES, build, generate

STALE = Finding("invariant", "stale-translation")
PER_FAMILY = 25


def price(r: Replay) -> tuple[int, int, int, int]:
    """Preemptions, switches, choices not the ordinary ones, events."""
    switches = sum(a.task != b.task for a, b in zip(r.steps, r.steps[1:], strict=False))
    return sum(s.preempted for s in r.steps), switches, sum(not s.ordinary for s in r.steps), len(r.steps)


def smallest(program: Any, finding: Finding, start: list[tuple[str, int]] | None = None) -> tuple[Replay, Minimal]:
    """Minimise (what a search found, unless told) and replay."""
    m = minimise(program, finding, start or Dpor(program).run().found[finding].choices)
    r = replay(program, m.choices)
    assert finding in r.results.found
    assert price(r)[0] == m.preemptions
    assert r.choices() == m.choices
    return r, m


class Prices(Naive):
    """The enumeration, which remembers the lowest and the highest price of each finding."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.able: list[int] = []
        self.best: dict[Finding, tuple[int, int, int, int]] = {}
        self.worst: dict[Finding, tuple[tuple[int, int, int, int], list[tuple[str, int]]]] = {}

    def _pick(self) -> int:
        self.able = [*self.able[: self.i], self.enabled()]
        return super()._pick()

    def _collect(self, judged: bool) -> None:
        super()._collect(judged)
        switched = [e >> a & 1 for a, b, e in zip(self.choice, self.choice[1:], self.able[1:], strict=False) if a != b]
        mine = (sum(switched), len(switched), sum(v > 0 for v in self.value), len(self.choice))
        for f in self.findings:
            self.best[f] = min(mine, self.best.get(f, mine))
            if f not in self.worst or mine > self.worst[f][0]:
                self.worst[f] = mine, self.choices()


# -- against the enumeration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_nothing_smaller_exists(family: str):
    compared = 0
    for seed in range(PER_FAMILY):
        program = build(generate(family, seed))
        reference = Prices(program, max_executions=1500)
        if not reference.run().exhausted:
            continue
        for finding, want in reference.best.items():
            r, m = smallest(program, finding, reference.worst[finding][1])
            assert m.proved, (seed, finding)
            got = price(r)
            if r.text:  # the plain first schedule is taken as it is
                assert got == want, (seed, finding, r.text)
            else:
                assert got[0] == want[0] == 0
            compared += 1
    assert compared or family == "ghost"


@pytest.mark.fuzz
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_nothing_is_pruned_that_is_smaller(family: str, request: pytest.FixtureRequest, monkeypatch: Any):
    """Larger programs, with and without the pruning."""

    class Unpruned(Minimiser):
        def _met(self, feet: Any, here: int) -> bool:
            return True

        def _seen(self, running: int) -> bool:
            return False

    monkeypatch.setattr(module, "POLISH", 10**9)
    monkeypatch.setattr(module, "POLISH_EQUALS", 10**9)
    for seed in range(request.config.getoption("--fuzz-runs") // 100):
        program = build(generate(family, 1_000_000 + seed))
        for finding, found in Dpor(program, max_executions=100).run().found.items():
            if finding.kind == "inversion":
                continue
            reference = Unpruned(program, finding, 3000)
            want = reference.minimise(found.choices)
            if want.proved:
                pruned = Minimiser(program, finding, module.BUDGET)
                got = pruned.minimise(found.choices)
                assert got.proved
                assert got.preemptions == want.preemptions, (seed, finding)
                if pruned.best is not None and reference.best is not None:
                    assert pruned.best[:2] == reference.best[:2], (seed, finding)


class Pair(Model):
    __slots__ = ()
    x = Once()
    y = Once()


def test_a_preemption_before_a_write_that_another_reads():
    def program() -> Setup:
        pair = Pair("pair", x=0, y=0)

        def writer() -> None:
            pair.x = 1
            pair.x = 0

        def reader() -> None:
            if pair.x == 1:
                bug("between", "")

        return Setup({"writer": writer, "reader": reader})

    r, m = smallest(program, Finding("BUG", "between"))
    assert (r.text, m.preemptions, m.proved) == ("writer > pair.x.write; reader", 1, True)


def test_who_is_running_matters():
    """After equivalent beginnings, going on with either task costs what the running one makes it cost."""

    def program() -> Setup:
        pair = Pair("pair", x=0, y=0)

        def first() -> None:
            pair.y = 1
            if pair.x == 1:
                bug("between", "")

        def second() -> None:
            pair.x = 1
            pair.x = 2

        return Setup({"first": first, "second": second})

    start = [("first", 0), ("second", 0), ("first", 0), ("second", 0)]
    r, m = smallest(program, Finding("BUG", "between"), start)
    assert (r.text, m.preemptions, m.proved) == ("second > pair.x.write", 1, True)  # then first, as ever


@pytest.mark.parametrize("chosen", [False, True])
def test_a_preemption_before_an_access_that_is_no_event(chosen: bool):
    """What a task does to a Guarded field belongs to the event before it, and shows only then."""

    class Thing(Model):
        __slots__ = ()
        lock = Const()
        count = Guarded("lock")

    def program() -> Setup:
        lock = Mutex("lock")
        thing = Thing("thing", lock=lock, count=0)
        gate, mine, others = (Pair(name, x=0, y=0) for name in ("gate", "mine", "others"))

        def user() -> None:
            lock.lock()
            if gate.x == 0:
                if chosen:
                    if choose("use", ("no", "yes")) == "yes":
                        _ = thing.count
                else:
                    mine.x = 1
                    _ = thing.count
            lock.unlock()

        def owner() -> None:
            gate.x = 1
            thing.free()

        def other() -> None:
            others.x = 1
            others.x = 2
            others.x = 3

        return Setup({"user": user, "owner": owner, "other": other})

    start = [*[("other", 0), ("user", 0)] * 2, *[("owner", 0)] * 2, ("other", 0), ("user", int(chosen))]
    r, m = smallest(program, Finding("use-after-free", "use-after-free Thing"), start)
    assert r.text == ("user > gate.x.read; owner" + ("; user(use=yes)" if chosen else ""))
    assert (m.preemptions, m.proved) == (1, True)


# -- what a person sees -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [1, 2, 5])
def test_revoke(pages: int):
    r, m = smallest(revoke(pages), STALE)
    assert r.text == "fault > memory_lock.up_read; disable"
    assert (m.preemptions, m.proved) == (1, True)


def test_from_wherever_it_starts():
    program = revoke(2)
    want = smallest(program, STALE)[1]
    starts = [c for c in (walk(program, seed, 0.8) for seed in range(60)) if STALE in replay(program, c).results.found]
    assert len(starts) > 3
    assert all(minimise(program, STALE, start) == want for start in starts)


def test_deadlock():
    r, m = smallest(abba(), Finding("deadlock", "deadlock a / b"))
    assert r.text == "t0 > a.lock; t1"
    assert (m.preemptions, m.proved) == (1, True)


def test_a_created_task():
    r, m = smallest(family, Finding("BUG", "child-first"))
    assert r.text == "parent > free@parent.1.spawn; free@parent.1"
    assert (m.preemptions, m.proved) == (1, True)


def test_a_choice_only_where_it_is_needed():
    def program() -> Setup:
        def task() -> None:
            choose("a", ("ok", "fail"))
            if choose("b", ("ok", "fail")) == "fail":
                bug("failed", "")

        return Setup({"t": task})

    r, m = smallest(program, Finding("BUG", "failed"))
    assert (r.text, m.preemptions, m.proved) == ("t(b=fail)", 0, True)


def test_what_every_execution_shows_is_shown_by_the_plain_first_one():
    program = lambda: Setup({"a": lambda: None, "b": lambda: 1 / 0})  # noqa: E731
    r, m = smallest(program, Finding("raised", "raised ZeroDivisionError"))
    assert (r.text, m.preemptions, m.proved) == ("", 0, True)


# -- inversions -------------------------------------------------------------------------------------------------------


def test_inversion_of_the_plain_first_schedule():
    finding = Finding("inversion", "inversion a -> b -> a")
    r, m = smallest(abba(), finding)
    assert (r.text, m.preemptions, m.proved) == ("", 0, True)


def test_inversion_that_takes_several_executions():
    def program() -> Setup:
        a, b = Mutex("a"), Mutex("b")

        def task() -> None:
            first, second = (a, b) if choose("order", ("ab", "ba")) == "ab" else (b, a)
            first.lock()
            second.lock()
            second.unlock()
            first.unlock()

        return Setup({"t": task})

    found = Dpor(program).run().found
    ((finding, f),) = found.items()
    m = minimise(program, finding, f.choices)
    assert not m.proved
    assert replay(program, m.choices).text == "t(order=ba)"


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_budget_too_small_gives_a_local_minimum():
    program = counters(3, 3)
    alternated = Finding("invariant", "alternated")
    start = [(f"t{t}", 0) for _ in range(3) for t in range(3) for _ in range(2)]
    assert alternated in replay(program, start).results.found
    engine = Minimiser(program, alternated, 5)
    m = engine.minimise(start)
    assert not m.proved
    assert engine.results.counts.executions <= 5 + module.SHRINK + 2
    assert alternated in replay(program, m.choices).results.found
    full = minimise(program, alternated, start)
    assert full.proved
    assert full.preemptions <= m.preemptions


def test_shrinking_takes_out_what_is_not_needed():
    program = revoke(2)
    starts = [c for c in (walk(program, seed, 0.9) for seed in range(80)) if STALE in replay(program, c).results.found]
    for start in starts:
        before = price(replay(program, start))
        m = minimise(program, STALE, start, budget=0)
        r = replay(program, m.choices)
        assert STALE in r.results.found
        assert not m.proved or m.preemptions == 0
        assert price(r) <= before
        assert m.preemptions <= 2


def test_an_execution_that_does_not_show_it():
    with pytest.raises(ValueError, match="the execution does not show no-such"):
        minimise(revoke(1), Finding("invariant", "no-such"), walk(revoke(1), 1))


@pytest.mark.parametrize("start", [[("nobody", 0)], [("other", 0), ("other", 0)], [("fault", 1)]])
def test_an_execution_of_another_program(start: list[tuple[str, int]]):
    with pytest.raises(ValueError, match="cannot go on as it did in the given execution"):
        minimise(revoke(1), Finding("invariant", "no-such"), start)


def test_what_never_ends_is_left_as_it_is():
    """Every execution that shows it takes seconds, so it is run once. (Here it does not: a stand-in.)"""

    def check():
        yield Finding("never-ends", "never-ends")

    program = lambda: Setup({"a": lambda: None}, checks=[check])  # noqa: E731
    assert minimise(program, Finding("never-ends", "never-ends"), []) == Minimal([], 0, False)


def test_executions_that_spin_are_not_proved():
    class Flags(Model):
        __slots__ = ()
        go = Once()
        seen = Once()

    def program() -> Setup:
        flags = Flags("flags", go=0, seen=0)

        def spin() -> None:
            while not flags.go:
                flags.seen = 1

        def go() -> None:
            if flags.seen:
                flags.go = 2
            flags.go = flags.go or 1

        def check():
            if flags.peek("go") == 2:
                yield Finding("invariant", "seen")

        return Setup({"spin": spin, "go": go}, checks=[check])

    start = [("spin", 0), ("spin", 0), ("go", 0)]
    m = minimise(program, Finding("invariant", "seen"), start)
    assert (m.preemptions, m.proved) == (1, False)
    assert replay(program, m.choices).text == "spin > flags.seen.write; go"


def test_the_result_depends_on_the_arguments_only():
    for seed in range(40):
        program = build(generate("rwsem", seed))
        for finding, found in Dpor(program).run().found.items():
            assert minimise(program, finding, found.choices) == minimise(program, finding, found.choices)


@pytest.mark.parametrize("pages", [5, 10])
def test_few_executions_do(pages: int):
    """Eighty events, three tasks, one preemption: some tens of milliseconds."""
    program = revoke(pages)
    start = replay(program, "other; fault > ptl.unlock; disable; fault > ptl.lock").choices()
    engine = Minimiser(program, STALE, module.BUDGET)
    assert engine.minimise(start).proved
    assert engine.results.counts.executions <= 150
