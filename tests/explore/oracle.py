"""E1 against the enumeration of everything: on one program, on many, and the smallest program on which they differ."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.movers import REDUCTIONS, SYMMETRY
from mmlitmus.explore.naive import Naive
from mmlitmus.explore.scheduler import Results, Scheduler
from mmlitmus.explore.stateful import Stateful
from mmlitmus.explore.verdict import mode

from .programs import Program, build, generate, generate_alike, instructions, smaller

#: programs that take the naive explorer more executions are compared with sleep sets alone
NAIVE_LIMIT = 1500


class Reference(Naive):
    """The reference also checks the footprints: equivalent executions must end alike."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.ends: dict[Hashable, Hashable] = {}
        self.unlike = 0

    def trace(self) -> Hashable:
        trace = super().trace()
        end = (self.setup.outcome(), self.status)  # type: ignore[misc]
        self.unlike += self.ends.setdefault(trace, end) != end
        return trace


class SleepSets(Dpor):
    """Every trace once, by sleep sets alone: the reference for programs that are too large for the naive explorer."""

    def _pick(self) -> int:
        p = super()._pick()
        if p >= 0:
            self.events[-1].backtrack = self.events[-1].enabled
        return p

    def _races(self, start: int) -> None:
        if self.status in ("complete", "deadlock"):
            self.results.traces.add(self.trace())


#: ... in which tasks are alike, and that take E2 without reductions more, are skipped
ALIKE_LIMIT = 4000

Compare = Callable[[Program], "Comparison"]


@dataclass
class Comparison:
    """What the two explorers did on one program, and how they differ."""

    skipped: bool = False
    large: bool = False  # compared with SleepSets
    traces: int = 0
    reference: int = 0  # executions
    executions: int = 0
    complete: int = 0
    problems: list[str] = field(default_factory=list)


def compare(program: Program, limit: int = NAIVE_LIMIT) -> Comparison:
    """Run E1 and the reference over the program; a limit of 0 leaves out the naive one."""
    reference: Scheduler = Reference(build(program), max_executions=limit, keep_traces=True)
    want = reference.run() if limit else reference.results
    large = not want.exhausted
    if large:
        limit = limit or NAIVE_LIMIT
        reference = SleepSets(build(program), max_executions=2 * limit, keep_traces=True)
        want = reference.run()
        if not want.exhausted:
            return Comparison(skipped=True)
    engine = Dpor(build(program), keep_traces=True, max_executions=2 * want.counts.executions + 100)
    got = engine.run()
    used = {ins[0] for code in program.tasks for ins in instructions(code)}
    once = not ("guarded" in used and used & {"choose", "alloc"})  # see the docstring of dpor
    problems = list(_differences(want, got, once=once))
    if _classes(reference) != _classes(engine):
        problems.append(f"lock order: {sorted(_classes(reference) ^ _classes(engine))}")
    if isinstance(reference, Reference) and reference.unlike:
        problems.append(f"footprints: {reference.unlike} executions equivalent to another end in another way")
    return Comparison(
        False, large, len(want.traces), want.counts.executions, got.counts.executions, got.counts.complete, problems
    )


def _differences(want: Results, got: Results, *, once: bool = False, traces: bool = True) -> Iterable[str]:
    if not got.exhausted:
        yield f"not exhausted: {got.stopped}"
    for what, a, b in (
        ("outcomes", want.outcomes, got.outcomes),
        ("deadlocks", want.deadlocks, got.deadlocks),
        ("findings", _names(want), _names(got)),
        ("traces", want.traces, got.traces),
    ):
        if a != b and (traces or what != "traces"):
            text = f"{what}: {len(a)} wanted, {len(a - b)} lost, {len(b - a)} that are none"
            if what != "traces":
                text += f" (lost {sorted(map(str, a - b))[:2]}, extra {sorted(map(str, b - a))[:2]})"
            yield text
    if got.counts.complete != len(got.traces) and once:
        yield f"duplicates: {got.counts.complete} complete executions, {len(got.traces)} traces"


#: E2 without reductions, with each, and with all
SWITCHES = ((), *[(one,) for one in REDUCTIONS], REDUCTIONS)


def compare_states(
    program: Program,
    limit: int = 300,
    switches: Iterable[tuple[str, ...]] = SWITCHES,
    *,
    checked: bool = True,
    logged: bool = False,
    alike: bool = False,
) -> Comparison:
    """Run E1 and E2 over the program, E2 with these reductions. E1 is what ``compare`` holds to the reference.

    ``checked``: E2 runs once more, without reductions, with every step run and every object looked at; the other times
    it takes the steps that it has seen as known.
    ``limit``: of E1's executions; a larger program is skipped. Mostly tasks keep no log: otherwise hardly two ways
    would ever lead to the same state. Executions are those of E2 with the last of the switches, states those with the
    first.
    """
    setup = build(program, logged=logged, alike=alike)
    reference = Dpor(setup, max_executions=limit)
    want = reference.run()
    if not want.exhausted:
        return Comparison(skipped=True)
    full: int | None = None
    problems = []
    runs = [(reduce, False) for reduce in switches]
    for reduce, all_run in ([((), True)] if checked else []) + runs:
        engine = Stateful(setup, checked=all_run, reduce=reduce, max_executions=ALIKE_LIMIT if alike else None)
        got = engine.run()
        if alike and got.stopped == f"{ALIKE_LIMIT} executions" and not reduce:
            return Comparison(skipped=True)
        found = list(state_differences(reference, engine))
        if full is None:
            full = got.states
        if got.states > full or (got.states < full and not reduce):
            found.append(f"{got.states} states instead of {full}")
        problems += [f"{'checked' if all_run else '+'.join(reduce) or 'none'}: {problem}" for problem in found]
    assert full is not None
    return Comparison(False, False, full, want.counts.executions, got.counts.executions, got.counts.complete, problems)


def compare_full(program: Program, *, checked: bool = True) -> Comparison:
    """``compare_states`` without reductions."""
    return compare_states(program, switches=((),), checked=checked)


def compare_logged(program: Program, *, checked: bool = True) -> Comparison:
    """``compare_states`` with all that each task has seen as its outcome, and without a loop_point."""
    return compare_states(program, 100, ((), REDUCTIONS[:2]), checked=checked, logged=True)


def compare_alike(program: Program, *, checked: bool = True) -> Comparison:
    """``compare_states`` where tasks of the same code are alike."""
    return compare_states(program, 600, ((), (SYMMETRY,), REDUCTIONS), checked=checked, alike=True)


def state_differences(reference: Dpor, engine: Stateful) -> Iterable[str]:
    """How E2's answer differs from E1's."""
    want, got = reference.results, engine.results
    if engine.groups:  # who of them is in a deadlock is nobody in particular
        group = {name: engine.group_of.get(t, name) for t, name in enumerate(engine.setup.tasks)}
        for results in (want, got):
            results.deadlocks = {tuple(sorted(group.get(name, name) for name in names)) for names in results.deadlocks}
    yield from _differences(want, got, traces=False)
    if _classes(reference) != _classes(engine):
        yield f"lock order: {sorted(_classes(reference) ^ _classes(engine))}"
    if _modes(want) != _modes(got):
        yield f"modes: {sorted(map(str, _modes(want) ^ _modes(got)))[:4]}"


def _modes(results: Results) -> set[Hashable]:
    return {(f.kind, f.name, mode(found, results)) for f, found in results.found.items() if f.kind != "inversion"}


def _names(results: Results) -> set[Hashable]:
    # Which cycle an inversion is named after depends on the edge that closes it, hence on the order of exploration.
    return {(f.kind, f.name if f.kind != "inversion" else "") for f in results.found}


def _classes(engine: Scheduler) -> set[tuple[str, str]]:
    return set(engine.lockdep.edges)


@dataclass
class Summary:
    """One family's programs."""

    family: str
    programs: int = 0
    large: int = 0
    skipped: int = 0
    traces: int = 0
    reference: int = 0
    executions: int = 0
    mismatches: list[tuple[Program, list[str]]] = field(default_factory=list)

    def __str__(self) -> str:
        redundant = 100 * (self.executions / self.traces - 1) if self.traces else 0
        return (
            f"{self.family:9} {self.programs:6} programs ({self.large} against sleep sets, {self.skipped} skipped), "
            f"{self.traces} traces, {self.executions} executions ({redundant:.2f} % redundant, reference "
            f"{self.reference}), "
            f"{len(self.mismatches)} mismatches"
        )


def sweep_states(
    family: str, seeds: Iterable[int], *, stop_after: int = 3, compare: Any = compare_states, checked_every: int = 1
) -> Summary:
    """Compare E1 with E2 on the programs with these seeds, every other one large; states are counted as traces.

    ``checked_every``: of so many programs one is also run with everything looked at, which takes as long as the rest.
    """
    s = Summary(family)
    for seed in seeds:
        large = seed % 2 == 1
        program = generate_alike(family, seed) if compare is compare_alike else generate(family, seed, large=large)
        c = compare(program, checked=seed // 2 % checked_every == 0)
        s.programs += 1
        s.skipped += c.skipped
        s.traces += c.traces
        s.reference += c.reference
        s.executions += c.executions
        if c.problems:
            s.mismatches.append((program, c.problems))
            if len(s.mismatches) >= stop_after:
                break
    return s


def sweep(family: str, seeds: Iterable[int], *, stop_after: int = 3, large: bool = False) -> Summary:
    """Compare on the programs with these seeds; on large ones with sleep sets only."""
    s = Summary(family)
    for seed in seeds:
        program = generate(family, seed, large=large)
        c = compare(program, 0 if large else NAIVE_LIMIT)
        s.programs += 1
        s.skipped += c.skipped
        s.large += c.large
        s.traces += c.traces
        s.reference += c.reference
        s.executions += c.executions
        if c.problems:
            s.mismatches.append((program, c.problems))
            if len(s.mismatches) >= stop_after:
                break
    return s


def shrink(program: Program, compare: Compare = compare) -> tuple[Program, list[str]]:
    """The program with everything taken out that the mismatch does not need, and what the mismatch is then."""
    problems = compare(program).problems
    again = True
    while again:
        again = False
        for candidate in smaller(program):
            found = compare(candidate).problems
            if found:
                program, problems, again = candidate, found, True
                break
    return program, problems


def explain(summary: Summary, compare: Compare = compare) -> str:
    """The summary line, and each mismatch shrunk."""
    text = [str(summary)]
    for program, _ in summary.mismatches:
        small, problems = shrink(program, compare)
        text.append(f"{small}\n    " + "\n    ".join(problems))
    return "\n".join(text)
