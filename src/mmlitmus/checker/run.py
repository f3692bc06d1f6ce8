"""Running one case on one kernel: search, judge, and make the schedules small."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from mmlitmus.explore import runtime
from mmlitmus.explore.findings import LIVELOCK, NO_DEFECT, Abandon, Finding, Oops
from mmlitmus.explore.scheduler import Found, Results, Scheduler, Setup
from mmlitmus.explore.verdict import completeness, mode
from mmlitmus.kernel.findings import complains, never_ignored

from .case import Case, CaseError, Expectation, canonical
from .guard import Guard, NeverEnds
from .kernels import provider
from .load import innermost, located, shown
from .row import NO_ANSWER, OWN_FAULT, Note, Row, Violation

if TYPE_CHECKING:
    from mmlitmus.explore.limits import Limits
    from mmlitmus.explore.replay import Replay
    from mmlitmus.explore.sample import Order, Walked, Walks
    from mmlitmus.explore.schedule import Schedule
    from mmlitmus.explore.split import Search, Searched, Slice

    Parts = Search | Walks

T = TypeVar("T")

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
    walks: int = 1000  # of the engine `sample`, and how it walks
    strategy: str = "pct"
    depth: int = 3
    seed: int = 0
    max_seconds: float | None = None  # of one search
    max_memory: int | None = None  # of one process, in bytes
    reduce: bool = True  # may the engine by states leave out what its reductions allow?


def how_for(case: Case, how: How) -> How:
    """How a row of this case is made: by the search that the case needs, unless another than the ordinary was asked."""
    return replace(how, engine=case.engine) if case.engine and how.engine == How.engine else how


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
        except (self.not_applicable, KeyboardInterrupt, Oops, Abandon):  # the last two are the engine's
            raise
        except BaseException as e:
            raise located(e, self.case.file, "building the machine: ") from e
        if not setup.tasks:
            raise CaseError(f"{self.case.id} puts no task on the machine", shown(self.case.file), self.case.line)
        self.context = setup.context
        return setup


def run(case: Case, spec: str, how: How | None = None) -> Row:
    """The answer of one kernel to one case. CaseError when it cannot be asked."""
    how = how or How()
    in_parts = how.engine == "sample" or how.max_seconds is not None or how.max_memory is not None
    from mmlitmus.explore.limits import resident

    limits = limits_of(how)

    def go_on(parts: Parts) -> bool:
        why = limits.exceeded(resident()) if limits is not None else ""
        if why:
            parts.stop(why)
        return True

    return ask(case, spec, how, parts_for(how) if in_parts else None, go_on)  # type: ignore[return-value]


def ask(case: Case, spec: str, how: How, parts: Parts | None, go_on: Callable[[Parts], bool]) -> Row | Parts:
    """The same by a search in ``parts``, as far as it has come (None: in one). After each part, ``go_on`` is asked; if
    it says no, the parts are returned."""
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
            if parts is None:
                _search(row, case, builder, how, expectation)
            elif not _go_on(parts, builder, go_on):
                return parts
            else:
                _once(builder)
                _judge(row, case, builder, how, expectation, parts.results())
                _walked(row, parts)
    except provider().not_applicable as e:
        _not_applicable(row, str(e))
    row.judge(expectation)
    if how.timing:
        row.seconds = round(time.perf_counter() - started, 4)
    return row


def _once(builder: Builder) -> None:
    """Build the machine, if nobody has here, for what it knows of its bounds."""
    if builder.count == 0:
        from mmlitmus.explore.split import Slice

        part(builder, Slice([], 0, 1, 0.0))


def _walked(row: Row, parts: Parts) -> None:
    """What a row says of random walks."""
    from mmlitmus.explore.sample import Walks

    if isinstance(parts, Walks):
        row.sample = parts.told()
        row.traces = len(parts.traces)
        how_far = f"{parts.done} walks" if not parts.stopped else f"{parts.done} of {parts.plan.walks} walks"
        cut = f", {parts.stopped}" if parts.stopped else ""
        row.search = f"sampled({how_far}, seed {parts.plan.seed}{cut})"


def parts_for(how: How) -> Parts | None:
    """A search that can be stopped, written down and divided; None where the engine has none."""
    if how.engine == "sample":
        from mmlitmus.explore.sample import Plan, Walks

        return Walks(Plan(how.walks, how.strategy, how.depth, how.seed))
    if how.engine == "dpor":
        from mmlitmus.explore.split import Search

        return Search(max_executions=how.max_executions)
    return None


def _go_on(parts: Parts, builder: Builder, go_on: Callable[[Parts], bool]) -> bool:
    """Search on until it is over (True) or ``go_on`` has had enough."""
    while True:
        given = parts.order(alone=True)
        if given is None:
            return True
        tag, order = given
        parts.take(tag, part(builder, order))  # type: ignore[arg-type]
        if not parts.over and not go_on(parts):
            return False


def part(builder: Builder, order: Slice | Order) -> Searched | Walked:
    """One part of a search, in whichever process."""
    case = builder.case
    try:
        return guarded(lambda: order.run(builder), builder)
    except (CaseError, builder.not_applicable):
        raise
    except Exception as e:  # a check of the case's, or of the machine's
        raise located(e, case.file, f"checking {case.id}: ") from e


def _not_applicable(row: Row, reason: str) -> None:
    row.result, row.reason = "n/a", reason


def make_engine(name: str, build: Callable[[], Setup], max_executions: int | None, *, reduce: bool = True) -> Scheduler:
    """The explorer called ``name``."""
    if name == "naive":
        from mmlitmus.explore.naive import Naive

        return Naive(build, max_executions=max_executions, keep_traces=True)
    if name == "stateful":
        from mmlitmus.explore.movers import REDUCTIONS
        from mmlitmus.explore.stateful import Stateful

        return Stateful(build, max_executions=max_executions, reduce=REDUCTIONS if reduce else ())
    if name == "auto":
        from mmlitmus.explore.handover import Auto
        from mmlitmus.explore.movers import REDUCTIONS

        return Auto(build, max_executions=max_executions, reduce=REDUCTIONS if reduce else ())
    from mmlitmus.explore.dpor import Dpor

    return Dpor(build, max_executions=max_executions)


def watched(engine: Scheduler, builder: Builder) -> Results:
    """``engine.run()``; what the case's own code raises, or never ends, becomes a CaseError."""

    def progress() -> object:
        return None if engine.cur >= 0 else (builder.count, engine.results.counts.executions)

    return _guarded(engine.run, builder, progress)


def guarded(do: Callable[[], T], builder: Builder) -> T:
    """The same for any piece of work that runs its own engine."""

    def progress() -> object:
        engine = runtime.engine
        return None if engine is not None and engine.cur >= 0 else builder.count

    return _guarded(do, builder, progress)


def _guarded(do: Callable[[], T], builder: Builder, progress: Callable[[], object]) -> T:
    case = builder.case
    try:
        with Guard(progress, case.id):
            return do()
    except NeverEnds as e:
        file, line = innermost(e, case.file)
        raise CaseError(str(e), shown(file), line) from e
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as e:  # sys.exit, and whatever else would end the whole command
        raise located(e, case.file, f"checking {case.id}: ") from e


def _search(row: Row, case: Case, builder: Builder, how: How, expectation: Expectation | None) -> None:
    engine = make_engine(how.engine, builder, how.max_executions, reduce=how.reduce)
    engine.limits = limits_of(how)
    try:
        results = watched(engine, builder)
    except (CaseError, builder.not_applicable):
        raise
    except Exception as e:  # a check of the case's, or of the machine's
        raise located(e, case.file, f"checking {case.id}: ") from e
    _judge(row, case, builder, how, expectation, results)


def limits_of(how: How) -> Limits | None:
    """What a search may take, from now on."""
    if how.max_seconds is None and how.max_memory is None:
        return None
    from mmlitmus.explore.limits import Limits

    return Limits(how.max_seconds, how.max_memory)


def _judge(row: Row, case: Case, builder: Builder, how: How, expectation: Expectation | None, results: Results) -> None:
    counts = results.counts
    row.search = completeness(results)
    row.executions, row.events = counts.executions, counts.events
    row.traces = len(results.traces) if how.engine == "naive" else counts.complete
    if results.states:
        row.stateful = {
            "states": results.states,
            "handed_over": results.handed_over or None,
            "livelocks": [live.told() for live in results.livelocks],
        }
    tolerated = getattr(builder.context, "tolerated", {})
    bounds = getattr(builder.context, "bounds", None)
    if bounds is not None:  # the machine knows better than the case what it was
        row.bounds.update(bounds())
    asked = []
    answered = all(finding.kind != NO_ANSWER for finding in results.found)
    for found in results.found.values():
        f = found.finding
        if not all(isinstance(text, str) for text in (f.kind, f.name, f.message)):
            text = f"{case.id} finds {f.name!r} ({f.message!r}); kind, name and message of a finding are strings"
            raise CaseError(text, shown(case.file), case.line)
        why = passed_over(case, f, tolerated)
        if not answered and f.kind not in (NO_ANSWER, *OWN_FAULT):
            why = "not-modelled"
        if why:
            row.notes.append(Note(f.kind, f.name, f.message, why))
        else:
            row.violations.append(Violation(f.kind, f.name, f.message, _mode(found, results)))
            asked.append(found)
    if results.exhausted:
        told = getattr(builder.context, "told", {})
        row.search += "".join(f", {word}" for what, word in told.items() if what in results.reached)
    order = sorted(range(len(asked)), key=lambda n: (row.violations[n].name, row.violations[n].kind))
    row.violations = [row.violations[n] for n in order]
    asked = [asked[n] for n in order]
    row.notes.sort(key=lambda note: (note.name, note.kind))
    if answered and results.exhausted and (expectation is not None or not case.expect):
        row.unreached = [what for what in case.reach if what not in results.reached]
    row.judge(expectation)
    if how.schedules == "always" or (how.schedules == "failing" and not row.ok):
        for violation, found in zip(row.violations, asked, strict=True):
            shrink(violation, found, builder)


def _mode(found: Found, results: Results) -> str:
    """``mode``; but where there is one trace, it is *always* what is found."""
    one = results.exhausted and not results.states and results.counts.complete == 1
    return "always" if one and found.finding.kind == "inversion" else mode(found, results)


def is_asked(case: Case, finding: Finding, tolerated: Container[str] = ()) -> bool:
    """Does the finding count? What a kernel complains of by itself does, whatever the case asks about; only a case that
    says that it ignores this very name does without (and its row says so).

    ``tolerated``: what the kernel is known to do and to live with; it counts only where a case asks about it by name.
    """
    return not passed_over(case, finding, tolerated)


def passed_over(case: Case, finding: Finding, tolerated: Container[str] = ()) -> str:
    """Why a finding does not count (``Note.why``); nothing if it does."""
    if finding.name in case.asks or finding.kind in OWN_FAULT or never_ignored(finding.name):
        return ""
    if finding.name in case.ignores:
        return "ignored"
    if finding.kind == NO_DEFECT:
        return "no-defect"
    if finding.name in tolerated:
        return "tolerated"
    return "not-asked" if case.asks and not complains(finding.kind) else ""


class Smallest:
    """The smallest schedule that shows what a search found, and its execution."""

    def __init__(self, found: Found, builder: Builder) -> None:
        from mmlitmus.explore.minimise import minimise

        case = builder.case
        if found.finding.kind in (LIVELOCK, NO_DEFECT):  # only the search knows it; its way round is short already
            self.engine = replay(builder, found.choices)
            self.preemptions: int | None = None
            self.minimal: bool | None = None
            return
        try:
            small = minimise(builder, found.finding, found.choices, MINIMISE_EXECUTIONS)
            self.engine = replay(builder, small.choices)
        except (ValueError, StopIteration) as e:
            why = f"{case.id} does not do the same twice (does it draw random numbers, or keep state?)"
            raise CaseError(why, shown(case.file), case.line) from e
        self.preemptions = small.preemptions
        self.minimal = small.proved


def shrink(violation: Violation, found: Found, builder: Builder) -> None:
    """Give the violation the smallest schedule that shows it. A livelock has none: a schedule ends, it does not."""
    if violation.kind in (LIVELOCK, NO_DEFECT):
        return
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
    parts = parts_for(how) if how.engine == "sample" else None
    if parts is not None:
        _go_on(parts, builder, lambda parts: True)
        return parts.results()
    return watched(make_engine(how.engine, builder, how.max_executions, reduce=how.reduce), builder)
