"""Running many cases on many kernels: the jobs, their order, what went wrong with which."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmlitmus.explore.scheduler import collecting_rarely

from .case import Case, CaseError
from .kernels import specs_for
from .load import is_shipped, located
from .pool import Crew
from .row import Row
from .run import How, ask, how_for, limits_of, parts_for, run

if TYPE_CHECKING:
    from .campaign import Workers
    from .checkpoint import Checkpoint
    from .run import Parts


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


def failed(job: Job, e: BaseException) -> CaseError:
    """What is said of a row that raised something."""
    return CaseError(str(located(e, job.case.file, f"{job.case.id}: ")))


def jobs_for(cases: Sequence[Case], kernels: Sequence[str], how: How) -> list[Job]:
    """Every case on every kernel asked for (or on its own kernels), in the order of the table."""
    return [Job(case, spec, how_for(case, how)) for case in cases for spec in (kernels or specs_for(case))]


def messages(report: Report) -> list[str]:
    """What went wrong, each thing once, with the kernels on which it did."""
    where: dict[str, list[str]] = {}
    for job, e in report.errors:
        where.setdefault(str(e), []).append(job.spec)
    return [
        f"{text} (on {specs[0]}{f' and {len(specs) - 1} more' if len(specs) > 1 else ''})"
        for text, specs in where.items()
    ]


def run_all(
    jobs: Sequence[Job],
    processes: int = 1,
    *,
    debug: bool = False,
    each: Callable[[], None] = lambda: None,
    checkpoint: Checkpoint | None = None,
    cluster: Workers | None = None,
) -> Report:
    """Run the jobs; after Ctrl-C the report says what was not run.

    Rows of strangers' files are made in processes of their own also where one process was asked for: a case that ends
    its process ends one row, and what it keeps in a module no other row sees. With ``debug``, or where searches are
    written down by one process, they are made in this one.
    """
    report = Report()
    outcomes: Iterator[Row | CaseError]
    alone = cluster is None and processes <= 1
    if debug or (alone and (checkpoint is not None or all(is_shipped(job.case.file) for job in jobs))):
        outcomes = _here(jobs, debug, each, checkpoint)
    else:
        outcomes = _there(jobs, processes, each, checkpoint, cluster, report)
    done = 0
    try:
        with collecting_rarely():
            for outcome in outcomes:
                job = jobs[done]
                done += 1
                if isinstance(outcome, Row):
                    report.rows.append(outcome)
                    report.outcomes.append(outcome)
                    _way_on(report, job, outcome, checkpoint)
                else:
                    report.errors.append((job, outcome))
                    report.outcomes.append((job, outcome))
    except KeyboardInterrupt:
        report.interrupted = True
        report.not_run = list(jobs[done:])
    finally:
        if checkpoint is not None:
            checkpoint.save()
    return report


def _here(
    jobs: Sequence[Job], debug: bool, each: Callable[[], None], checkpoint: Checkpoint | None
) -> Iterator[Row | CaseError]:
    for job in jobs:
        outcome: Row | CaseError
        try:
            outcome = _one(job, checkpoint)
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # whatever it is, it costs this row and no other
            if debug:
                raise
            outcome = e if isinstance(e, CaseError) else failed(job, e)
        each()
        yield outcome


def _one(job: Job, checkpoint: Checkpoint | None) -> Row:
    parts = None
    if checkpoint is not None:
        parts = checkpoint.resumed(job) or parts_for(job.how)
    if checkpoint is None or parts is None:
        return run(job.case, job.spec, job.how)
    from mmlitmus.explore.limits import resident

    limits = limits_of(job.how)

    def go_on(parts: Parts) -> bool:
        why = limits.exceeded(resident()) if limits is not None else ""
        if why:
            parts.stop(why)
        checkpoint.keep(job, parts, False)
        return True

    row = ask(job.case, job.spec, job.how, parts, go_on)
    assert isinstance(row, Row)
    checkpoint.keep(job, parts, True)
    return row


def _there(
    jobs: Sequence[Job],
    processes: int,
    each: Callable[[], None],
    checkpoint: Checkpoint | None,
    cluster: Workers | None,
    report: Report,
) -> Iterator[Row | CaseError]:
    from . import campaign

    workers = cluster or Crew(campaign.work, processes)
    whole = campaign.Campaign(jobs, workers, report.remarks.append, each)
    if checkpoint is not None:
        whole.kept, whole.resumed = checkpoint.keep, checkpoint.resumed
    try:
        for row in range(len(jobs)):
            yield whole.run_until(row)
    finally:
        workers.stop()


def _way_on(report: Report, job: Job, row: Row, checkpoint: Checkpoint | None) -> None:
    """Say how to go on with a search that was cut for time or memory, or (if it was written down) for its length."""
    if row.finished or row.search is None:
        return
    limited = row.search.endswith((" s)", " of memory)"))
    if not limited and (checkpoint is None or job.how.engine == "sample"):
        return  # it went as far as it was told to
    words = ["mmlitmus", "check", row.source or row.case, "--kernel", row.spec, "--engine", job.how.engine]
    far = f"{job.case.id} on {job.spec}: {row.search} after {row.executions} executions"
    if checkpoint is not None and parts_for(job.how) is not None:
        report.remarks.append(f"{far}; to go on: {shlex.join([*words, '--resume', checkpoint.path])}")
    else:
        report.remarks.append(f"{far}; allow it more, or with --checkpoint FILE it can be gone on with")
