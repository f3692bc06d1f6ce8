"""Running one case on one kernel: search, judge, and make the schedules small."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmlitmus.explore.findings import Finding
from mmlitmus.explore.scheduler import Found, Results, Scheduler, Setup
from mmlitmus.explore.verdict import completeness, mode

from .case import Case, CaseError, Expectation, canonical
from .guard import Guard, NeverEnds
from .kernels import provider
from .load import innermost, located, shown
from .row import ALWAYS_ASKED, Note, Row, Violation

if TYPE_CHECKING:
    from mmlitmus.explore.replay import Replay
    from mmlitmus.explore.schedule import Schedule

#: a search that has not ended after this many executions stops, and its row says so
MAX_EXECUTIONS = 100_000
#: how many executions minimising one schedule may take
MINIMISE_EXECUTIONS = 2_000


@dataclass(frozen=True)
class How:
    """How rows are made: what a command line sets."""

    engine: str = "dpor"
    max_executions: int = MAX_EXECUTIONS
    schedules: str = "failing"  # for which rows schedules are made small: never, failing, always
    timing: bool = False


class Builder:
    """Builds a case's machine again and again; a failure to build names the case's file and line."""

    def __init__(self, case: Case, spec: str) -> None:
        self.case = case
        self.spec = spec
        kernels = provider()
        try:
            self.kernel = kernels.kernel(spec)
        except kernels.spec_error as e:
            raise CaseError(str(e), *self.blame()) from e
        self.not_applicable = kernels.not_applicable
        self.machine = kernels.machine
        self.count = 0
        self.context: Any = None

    def blame(self) -> tuple[str, int]:
        """The file and line to name when a kernel of the case's own expectations is no good."""
        own = self.case.expected(self.spec) is not None
        return (shown(self.case.file), self.case.line) if own else ("", 0)

    def __call__(self) -> Setup:
        self.count += 1
        machine = self.machine(self.kernel)
        try:
            self.case.build(machine)
            setup: Setup = machine.setup()
        except self.not_applicable:
            raise
        except Exception as e:
            raise located(e, self.case.file, "building the machine: ") from e
        if not setup.tasks:
            raise CaseError(f"{self.case.id} puts no task on the machine", shown(self.case.file), self.case.line)
        self.context = setup.context
        return setup


def run(case: Case, spec: str, how: How | None = None) -> Row:
    """The answer of one kernel to one case. CaseError when it cannot be asked."""
    how = how or How()
    started = time.perf_counter()
    release, patches, config = canonical(spec)
    row = Row(case.id, release, list(patches), list(config), source=case.source)
    expectation = case.expected(spec)
    row.evidence = None if expectation is None else case.evidence_for(spec)
    row.bounds = dict(case.bounds)
    try:
        builder = Builder(case, spec)
        if expectation is not None and expectation.reason is not None:
            _not_applicable(row, expectation.reason)
        else:
            _search(row, case, builder, how, expectation)
    except provider().not_applicable as e:
        _not_applicable(row, str(e))
    row.judge(expectation)
    if how.timing:
        row.seconds = round(time.perf_counter() - started, 4)
    return row


def _not_applicable(row: Row, reason: str) -> None:
    row.result, row.reason = "n/a", reason


def make_engine(name: str, build: Callable[[], Setup], max_executions: int | None) -> Scheduler:
    """The explorer called ``name``."""
    if name == "naive":
        from mmlitmus.explore.naive import Naive

        return Naive(build, max_executions=max_executions, keep_traces=True)
    from mmlitmus.explore.dpor import Dpor

    return Dpor(build, max_executions=max_executions)


def watched(engine: Scheduler, builder: Builder) -> Results:
    """``engine.run()``; what the case's own code raises, or never ends, becomes a CaseError."""

    def progress() -> object:
        return None if engine.cur >= 0 else (builder.count, engine.results.counts.executions)

    case = builder.case
    try:
        with Guard(progress, case.id):
            return engine.run()
    except NeverEnds as e:
        file, line = innermost(e, case.file)
        raise CaseError(str(e), shown(file), line) from e


def _search(row: Row, case: Case, builder: Builder, how: How, expectation: Expectation | None) -> None:
    engine = make_engine(how.engine, builder, how.max_executions)
    try:
        results = watched(engine, builder)
    except (CaseError, builder.not_applicable):
        raise
    except Exception as e:  # a check of the case's, or of the machine's
        raise located(e, case.file, f"checking {case.id}: ") from e
    counts = results.counts
    row.search = completeness(results)
    row.executions, row.events = counts.executions, counts.events
    row.traces = len(results.traces) if how.engine == "naive" else counts.complete
    tolerated = getattr(builder.context, "tolerated", {})
    bounds = getattr(builder.context, "bounds", None)
    if bounds is not None:  # the machine knows better than the case what it was
        row.bounds.update(bounds())
    asked = []
    for found in results.found.values():
        f = found.finding
        if is_asked(case, f, tolerated):
            row.violations.append(Violation(f.kind, f.name, f.message, mode(found, results)))
            asked.append(found)
        else:
            row.notes.append(Note(f.kind, f.name, f.message))
    order = sorted(range(len(asked)), key=lambda n: (row.violations[n].name, row.violations[n].kind))
    row.violations = [row.violations[n] for n in order]
    asked = [asked[n] for n in order]
    row.notes.sort(key=lambda note: (note.name, note.kind))
    if results.exhausted and (expectation is not None or not case.expect):
        row.unreached = [what for what in case.reach if what not in results.reached]
    row.judge(expectation)
    if how.schedules == "always" or (how.schedules == "failing" and not row.ok):
        for violation, found in zip(row.violations, asked, strict=True):
            shrink(violation, found, builder)


def is_asked(case: Case, finding: Finding, tolerated: Container[str] = ()) -> bool:
    """Does the finding answer the case's question?

    ``tolerated``: what the kernel is known to do and to live with; it counts only where a case asks about it by name.
    """
    if finding.kind in ALWAYS_ASKED:
        return True
    if case.asks:
        return finding.name in case.asks
    return finding.name not in case.ignores and finding.name not in tolerated


class Smallest:
    """The smallest schedule that shows what a search found, and its execution."""

    def __init__(self, found: Found, builder: Builder) -> None:
        from mmlitmus.explore.minimise import minimise

        case = builder.case
        try:
            small = minimise(builder, found.finding, found.choices, MINIMISE_EXECUTIONS)
            self.engine = replay(builder, small.choices)
        except (ValueError, StopIteration) as e:
            why = f"{case.id} does not do the same twice (does it draw random numbers, or keep state?)"
            raise CaseError(why, shown(case.file), case.line) from e
        self.preemptions = small.preemptions
        self.minimal = small.proved


def shrink(violation: Violation, found: Found, builder: Builder) -> None:
    """Give the violation the smallest schedule that shows it."""
    small = Smallest(found, builder)
    violation.schedule = small.engine.token
    violation.preemptions, violation.minimal = small.preemptions, small.minimal


def replay(builder: Builder, schedule: str | Schedule | list[tuple[str, int]]) -> Replay:
    """One execution of the case under a schedule; ScheduleError when it cannot be followed."""
    from mmlitmus.explore.replay import Replay

    engine = Replay(builder, schedule)
    watched(engine, builder)
    return engine


def shown_by(engine: Replay) -> list[Finding]:
    """What that execution found, in the order in which it came up."""
    return [*engine.early, *(f for step in engine.steps for f in step.findings), *engine.late]


def search(builder: Builder, how: How) -> Results:
    """The whole search, for those who want a violation to show."""
    return watched(make_engine(how.engine, builder, how.max_executions), builder)
