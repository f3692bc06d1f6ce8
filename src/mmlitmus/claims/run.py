"""Running the results that claims rest on, each once, and saying whether they still are what the ledger says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmlitmus.checker.case import Case, CaseError, same_answers
from mmlitmus.checker.kernels import provider, spell
from mmlitmus.checker.load import load_shipped, shipped
from mmlitmus.checker.many import Job, Report, run_all
from mmlitmus.checker.row import OWN_FAULT, Row
from mmlitmus.checker.run import How, how_for

from .claim import Claim, Support

CASE_MISSING = "case missing"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Said:
    """What came of one support: the result in words, and whether it is the one that the ledger states."""

    support: Support
    result: str
    ok: bool


@dataclass(frozen=True)
class Outcome:
    """A claim, and what its supports said."""

    claim: Claim
    said: tuple[Said, ...]

    @property
    def supported(self) -> bool | None:
        """Does every result carry the verdict? None when no case is named."""
        return all(one.ok for one in self.said) if self.said else None


@dataclass
class Plan:
    """The rows that some claims rest on. A row that several claims share is run once."""

    claims: Sequence[Claim]
    jobs: list[Job] = field(default_factory=list)
    problems: dict[tuple[str, str], str] = field(default_factory=dict)  # rows that cannot be run, and why

    def __post_init__(self) -> None:
        rows = [_row_of(support) for claim in self.claims for support in claim.rows]
        found: dict[str, Case | str] = {}
        for id, spec in dict.fromkeys(rows):
            if id not in found:
                found[id] = find(id)
            case = found[id]
            problem = case if isinstance(case, str) else _kernel_problem(spec)
            if problem:
                self.problems[id, spec] = problem
            elif isinstance(case, Case):
                self.jobs.append(Job(case, spec, how_for(case, How(schedules="never"))))

    def run(self, processes: int = 1, *, debug: bool = False, each: Callable[[], None] = lambda: None) -> Report:
        """Run the rows; after Ctrl-C the report says which were not run."""
        return run_all(self.jobs, processes, debug=debug, each=each)

    def judge(self, report: Report) -> list[Outcome]:
        """What the report says of each claim."""
        results: dict[tuple[str, str], Row | str] = dict(self.problems)
        results.update({(row.case, row.spec): row for row in report.rows})
        results.update({(job.case.id, job.spec): f"could not be run: {e}" for job, e in report.errors})
        results.update({(job.case.id, job.spec): NOT_RUN for job in report.not_run})
        return [
            Outcome(claim, tuple(_judge(support, results[_row_of(support)]) for support in claim.rows))
            for claim in self.claims
        ]


def find(id: str) -> Case | str:
    """The shipped case with exactly this id; else what is wrong, in words. Loads the file that may hold it only."""
    for stem, path in shipped():
        if id == stem or id.startswith(stem + "/"):
            try:
                for case in load_shipped(stem, path):
                    if case.id == id:
                        return case
            except CaseError as e:
                return f"could not be run: {e}"
    return CASE_MISSING


def _kernel_problem(spec: str) -> str:
    known = provider()
    try:
        known.kernel(spec)
    except known.not_applicable:
        return ""  # a row of its own says why
    except known.spec_error as e:
        return f"no such kernel: {str(e).split(';')[0]}"
    return ""


def _row_of(support: Support) -> tuple[str, str]:
    return support.case, spell(support.kernel)


def _judge(support: Support, row: Row | str) -> Said:
    if isinstance(row, str):
        return Said(support, row, False)
    faulty = any(violation.kind in OWN_FAULT for violation in row.violations)
    same = row.result != "n/a" and same_answers(row.answers, support.answer.answers)
    result = row.text
    if not row.finished:
        result += f", {row.search}"
    if row.unreached:
        result += f", never reached: {', '.join(row.unreached)}"
    return Said(support, result, same and row.finished and not row.unreached and not faulty)
