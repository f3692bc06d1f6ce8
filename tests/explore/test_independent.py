"""The engines against an enumerator that shares no code with them (tests/independent).

Both get the same programs, of every family. Compared are all that tasks saw and left behind in every execution, the
deadlocks with who is in them, the findings, and the lock-class graph. Left out:

* data races and inversions: what orders two accesses, and what a cycle is called, are definitions, not behaviour of a
  primitive. (The edges that inversions are made of are compared.)
* ``peeksem``: it looks at a semaphore's queue, and the two have different ones. In the engines a reader that waits has
  no place in it; there the queue is of all that wait, in order of arrival. Everything else that can be seen must be
  the same all the same: a reader that waits behind a writer and in front of another one is, in the engines, the
  execution in which the second writer comes later.
"""

from __future__ import annotations

import os
import sys

import pytest
from tests.independent.enumerator import Answer, enumerate_all

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.naive import Naive
from mmlitmus.explore.scheduler import Results, Scheduler
from mmlitmus.explore.stateful import Stateful

from . import semantics
from .programs import FAMILIES, MIXED, Code, Program, build, generate, smaller

ALL = [*FAMILIES, MIXED]
#: programs a family in the default suite
EACH = 19
#: larger programs are left out: states there, executions of the naive engine
STATES, EXECUTIONS = 3000, 600

Found = tuple[set[object], set[tuple[str, ...]], set[tuple[str, str]], set[tuple[str, str]]]


def without(code: Code) -> Code:
    """The code without what the two see differently."""
    return tuple(
        (ins[0], without(ins[1])) if ins[0] in ("spawn", "call") else ins for ins in code if ins[0] != "peeksem"
    )


def program_of(family: str, seed: int) -> Program:
    program = generate(family, seed)
    return Program(family, seed, tuple(map(without, program.tasks)))


def by_engine(engine: Scheduler) -> Found:
    results = engine.run()
    assert results.exhausted, results.stopped
    return (
        results.outcomes,  # type: ignore[return-value]
        {tuple(sorted(names)) for names in results.deadlocks},  # type: ignore[call-overload]
        {(f.kind, f.name) for f in results.found if f.kind not in ("race", "inversion")},
        set(engine.lockdep.edges),
    )


def by_hand(answer: Answer) -> Found:
    return answer.outcomes, answer.deadlocks, answer.findings, answer.edges


def differences(program: Program, engines: tuple[type[Scheduler], ...] = (Dpor, Stateful)) -> list[str] | None:
    """How the engines differ from the enumerator; None if the program is too large."""
    answer = enumerate_all(program.family, program.tasks, limit=STATES)
    if answer is None:
        return None
    want = by_hand(answer)
    problems = []
    naive = Naive(build(program), max_executions=EXECUTIONS)
    if Naive not in engines or not naive.run().exhausted:
        engines = tuple(e for e in engines if e is not Naive)
    for engine in engines:
        got = by_engine(engine(build(program)))
        for what, a, b in zip(("outcomes", "deadlocks", "findings", "lock order"), want, got, strict=True):
            if a != b:
                lost, extra = sorted(map(str, a - b))[:2], sorted(map(str, b - a))[:2]
                problems.append(f"{engine.__name__}: {what}: lost {lost}, extra {extra}")
    return problems


def shrunk(program: Program) -> str:
    """The smallest program with a difference, and the difference."""
    problems = differences(program)
    again = True
    while again:
        again = False
        for candidate in smaller(program):
            found = differences(candidate)
            if found:
                program, problems, again = candidate, found, True
                break
    return f"{program}\n    " + "\n    ".join(problems or ())


def sweep(family: str, seeds: range) -> tuple[list[str], int]:
    """What differs in these programs, and how many were compared."""
    wrong, compared = [], 0
    for seed in seeds:
        program = program_of(family, seed)
        engines = (Naive, Dpor, Stateful) if seed % 4 == 0 else (Dpor, Stateful)
        problems = differences(program, engines)
        compared += problems is not None
        if problems:
            wrong.append(shrunk(program))
            break
    return wrong, compared


@pytest.mark.parametrize("family", ALL)
def test_family(family: str) -> None:
    wrong, compared = sweep(family, range(EACH))
    assert not wrong, wrong[0]
    assert compared >= EACH - 3


def told_by_the_semantics(patch: pytest.MonkeyPatch) -> list[Program]:
    """Every program that semantics.py states a result of: each rule of each primitive has one."""
    programs: dict[tuple[str, tuple[Code, ...]], Program] = {}
    original = semantics.explore

    def explore(*tasks: str | Code, family: str = "pinned") -> Results:
        codes = tuple(without(semantics.code(t) if isinstance(t, str) else t) for t in tasks)
        programs.setdefault((family, codes), Program(family, 0, codes))
        return original(*tasks, family=family)

    patch.setattr(semantics, "explore", explore)
    for check in semantics.CHECKS.values():
        check()
    return list(programs.values())


def test_what_the_semantics_say(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = told_by_the_semantics(monkeypatch)
    assert len(programs) > 200
    for program in programs:
        problems = differences(program, (Naive, Dpor, Stateful))
        assert not problems, f"{program}\n{problems}"


@pytest.mark.fuzz
@pytest.mark.parametrize("family", ALL)
def test_fuzz(family: str, fuzz_runs: int, capfd: pytest.CaptureFixture[str]) -> None:
    runs = int(os.environ.get("MMLITMUS_FUZZ_N", fuzz_runs)) // len(ALL) + 1
    first = int(os.environ.get("MMLITMUS_FUZZ_SEED", 1_000_000))
    wrong, compared = sweep(family, range(first, first + runs))
    with capfd.disabled():
        print(f"\nindependent: {family:9} {compared} of {runs} programs compared, {len(wrong)} differ", file=sys.stderr)
    assert not wrong, wrong[0]


@pytest.mark.parametrize("family", ["mutex", "rwsem", "wait", "rcu", "irq", "lifetime"])
def test_states_that_are_merged_are_the_same(family: str) -> None:
    """The enumerator itself: what it comes to does not depend on its leaving out states that it knows."""
    for seed in range(6):
        program = program_of(family, seed)
        every = enumerate_all(family, program.tasks, limit=800, merge=False)
        if every is not None:
            merged = enumerate_all(family, program.tasks)
            assert merged is not None
            assert by_hand(merged) == by_hand(every)
