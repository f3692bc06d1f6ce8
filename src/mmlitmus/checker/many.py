"""Running many cases on many kernels: the jobs, their order, what went wrong with which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mmlitmus.explore.scheduler import collecting_rarely

from .case import Case, CaseError
from .kernels import specs_for
from .load import shown
from .pool import in_order
from .row import Row
from .run import How, run


@dataclass(frozen=True)
class Job:
    """One row to be made."""

    case: Case
    spec: str
    how: How

    def __reduce__(self) -> tuple[Callable[..., Job], tuple[str, str, str, How]]:
        return _again, (self.case.file, self.case.id, self.spec, self.how)


def _again(file: str, id: str, spec: str, how: How) -> Job:
    """The job in another process: its case is loaded from its file there."""
    from pathlib import Path

    from .load import load_file

    return Job(next(one for one in load_file(Path(file)) if one.id == id), spec, how)


@dataclass
class Report:
    """What came of the jobs: rows and errors in the order of the jobs."""

    rows: list[Row] = field(default_factory=list)
    errors: list[tuple[Job, CaseError]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    not_run: list[Job] = field(default_factory=list)
    interrupted: bool = False
    outcomes: list[Row | tuple[Job, CaseError]] = field(default_factory=list)


def jobs_for(cases: Sequence[Case], kernels: Sequence[str], how: How) -> list[Job]:
    """Every case on every kernel asked for (or on its own kernels), in the order of the table."""
    return [Job(case, spec, how) for case in cases for spec in (kernels or specs_for(case))]


def messages(report: Report) -> list[str]:
    """What went wrong, each thing once, with the kernels on which it did."""
    where: dict[str, list[str]] = {}
    for job, e in report.errors:
        where.setdefault(str(e), []).append(job.spec)
    return [
        f"{text} (on {specs[0]}{f' and {len(specs) - 1} more' if len(specs) > 1 else ''})"
        for text, specs in where.items()
    ]


def work(job: Job) -> Row | CaseError:
    """One job, in whichever process."""
    try:
        return run(job.case, job.spec, job.how)
    except CaseError as e:
        return CaseError(str(e))  # without its traceback's frames, which cannot be sent


def work_debug(job: Job) -> Row | CaseError:
    """The same for --debug: exceptions keep their tracebacks."""
    return run(job.case, job.spec, job.how)


def run_all(
    jobs: Sequence[Job],
    processes: int = 1,
    *,
    debug: bool = False,
    each: Callable[[], None] = lambda: None,
) -> Report:
    """Run the jobs; after Ctrl-C the report says what was not run."""
    report = Report()

    def died(job: Job, code: int, again: bool) -> CaseError | None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        file, line = shown(job.case.file), job.case.line
        if again:
            report.remarks.append(f"{file}:{line}: {job.case.id}: its worker died ({how}); running it again")
            return None
        return CaseError(f"{job.case.id}: its worker died twice ({how})", file, line)

    done = 0
    outcomes: Iterator[tuple[int, Row | CaseError]] = in_order(
        jobs, work_debug if debug else work, 1 if debug else processes, died=died, each=each
    )
    try:
        with collecting_rarely():
            for n, outcome in outcomes:
                done = n + 1
                if isinstance(outcome, Row):
                    report.rows.append(outcome)
                    report.outcomes.append(outcome)
                else:
                    report.errors.append((jobs[n], outcome))
                    report.outcomes.append((jobs[n], outcome))
    except KeyboardInterrupt:
        report.interrupted = True
        report.not_run = list(jobs[done:])
    return report
