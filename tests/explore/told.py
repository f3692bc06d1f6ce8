"""Everything that the explorers say of a few programs, as text: ``python -m tests.explore.told``.

For two builds of the explorer to be held to the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.naive import Naive
from mmlitmus.explore.sample import Plan, Walker
from mmlitmus.explore.scheduler import Results
from mmlitmus.explore.split import Slice
from mmlitmus.explore.stateful import Stateful

from .pinned import PROGRAMS
from .programs import FAMILIES, MIXED, Program, build, generate

#: random programs a family
PROGRAMS_A_FAMILY = 6
#: executions a search
BOUND = 400


def results(found: Results) -> Iterator[str]:
    """One search's results, in the order in which it came to them."""
    yield f"{found.counts} {found.exhausted} {found.stopped} {found.states}"
    for finding, seen in found.found.items():
        yield f"{finding} {finding.message} {seen.executions} {seen.choices}"
    yield f"{sorted(map(repr, found.outcomes))} {sorted(map(repr, found.deadlocks))} {sorted(found.reached)}"
    yield f"{sorted(sorted(map(_event, trace)) for trace in found.traces)}"  # type: ignore[call-overload]


def _event(event: tuple[str, int, frozenset[tuple[str, int]]]) -> str:
    task, value, clock = event
    return f"{task} {value} {sorted(clock)}"


def told(program: Program) -> Iterator[str]:
    """What each explorer says of the program."""
    for explorer in (Dpor, Naive):
        yield explorer.__name__
        yield from results(explorer(build(program), max_executions=BOUND, keep_traces=True).run())
    yield "Stateful"
    yield from results(Stateful(build(program), max_executions=BOUND).run())
    yield "Walker"
    walked = Walker(build(program), Plan(walks=20, strategy="pct")).walk(0, 20)
    yield f"{walked.size} {walked.longest} {walked.traces}"
    yield from results(walked.results)
    yield "Slice"
    searched = Slice([], 0, 5, 60.0).run(build(program))
    yield f"{searched.path} {searched.asked} {searched.edges}"
    yield from results(searched.results)


def main() -> None:
    """Print it."""
    programs = {**PROGRAMS}
    for family in [*FAMILIES, MIXED]:
        programs.update({f"{family} {seed}": generate(family, seed) for seed in range(PROGRAMS_A_FAMILY)})
    for name, program in programs.items():
        print(f"== {name}")
        for line in told(program):
            print(line)


if __name__ == "__main__":
    main()
