"""``mmlitmus review``: which verdicts a patch changes, and on which kernels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .check_ import Progress
from .common import (
    AS_EXPECTED,
    INTERRUPTED,
    MOST,
    SURPRISE,
    WRONG_USE,
    Stop,
    complain,
    debug_option,
    search_options,
    split,
    width,
)

if TYPE_CHECKING:
    from mmlitmus.checker.case import Case
    from mmlitmus.checker.review import Change, Plan


@click.command("review", short_help="Say which verdicts a patch changes, and on which kernels.")
@click.argument("patches", nargs=-1, metavar="[PATCH]...")
@click.option("--cases", "words", multiple=True, metavar="PATTERN|FILE.py", help="Only these cases; repeatable.")
@click.option("--kernel", "kernels", multiple=True, metavar="SPEC", help="Only these kernels, by comma or repeated.")
@click.option("--from", "first", metavar="SPEC", help="Compare this kernel (no PATCH) ...")
@click.option("--to", "second", metavar="SPEC", help="... with this one.")
@click.option("--all", "everything", is_flag=True, help="Print the verdicts that are the same, too.")
@search_options
@click.option("--json", "as_json", is_flag=True, help="Print the comparisons as JSON (docs/json.md).")
@click.option("-j", "processes", type=click.IntRange(1, MOST), default=1, metavar="N", help="Run on N processes.")
@debug_option
def command(
    patches: tuple[str, ...],
    words: tuple[str, ...],
    kernels: tuple[str, ...],
    first: str | None,
    second: str | None,
    everything: bool,
    engine: str,
    max_executions: int | None,
    as_json: bool,
    processes: int,
    debug: bool,
) -> int:
    """Say which verdicts a patch changes, and on which kernels.

    Every case runs without and with PATCH on every kernel that it speaks of and the patch applies to. Several patches:
    each alone, then all together. --from and --to compare two kernels instead. Exit status: 0 reviewed; 1 a result
    contradicts an expectation; 2 wrong use, or something that could not be run.
    """
    if (first is None) != (second is None):
        raise click.UsageError("--from and --to go together")
    if bool(patches) == (first is not None):
        raise click.UsageError("name a PATCH, or two kernels with --from and --to")
    if first is not None and kernels:
        raise click.UsageError("--kernel goes with a PATCH, not with --from and --to")
    from mmlitmus.checker import review
    from mmlitmus.checker.load import select
    from mmlitmus.checker.many import messages, run_all
    from mmlitmus.checker.run import MAX_EXECUTIONS, How

    started = time.perf_counter()
    chosen = select(words)
    if debug and chosen.errors:
        raise chosen.errors[0]
    wrong = [str(e) for e in chosen.errors]
    try:
        plan, bad = _plan(chosen.cases, patches, kernels, first, second)
    except review.ReviewError as e:
        raise Stop(str(e)) from e
    wrong += bad
    jobs = review.jobs_of(plan, How(engine, max_executions or MAX_EXECUTIONS, "never"))
    if not jobs and not wrong:
        wrong.append("no case asks anything of these kernels")
    progress = Progress(len(jobs), started)
    try:
        report = run_all(jobs, processes, debug=debug, each=progress.step)
    finally:
        progress.stop()
    for message in report.remarks:
        complain(message)
    made = review.changes(plan, jobs, report)
    if as_json:
        from mmlitmus.report.reviewjson import dump

        click.echo(dump(made, everything=everything))
    elif jobs:
        _print(plan, made, first, second, everything, len(report.errors), len(report.not_run))
    contradicted = review.surprises(report.rows)
    wrong += messages(report)
    for message in [*contradicted, *wrong]:
        complain(message)
    if report.interrupted:
        complain(f"interrupted: {len(report.not_run)} of {len(jobs)} rows were not run")
        return INTERRUPTED
    if wrong:
        return WRONG_USE
    return SURPRISE if contradicted else AS_EXPECTED


def _plan(
    cases: Sequence[Case], patches: Sequence[str], kernels: Sequence[str], first: str | None, second: str | None
) -> tuple[Plan, list[str]]:
    """What to compare, and what is wrong with the kernels that were named. ReviewError when nothing can be."""
    from mmlitmus.checker import review
    from mmlitmus.checker.kernels import asked_for

    if first is not None and second is not None:
        specs, wrong = asked_for([first, second], [])
        good, more = review.checked(specs)
        if wrong or more:
            raise review.ReviewError([*wrong, *more][0])
        if len(good) != 2:
            raise review.ReviewError("--from and --to name one kernel each, and not the same")
        return review.of_releases(cases, *good), []
    names = review.known_patches(patches)
    specs, wrong = asked_for(split(kernels), [])
    good, more = review.checked(specs)
    wrong += more
    if wrong and not good:
        return review.Plan(names), wrong
    return review.of_patches(cases, names, good), wrong


def _print(
    plan: Plan,
    made: Sequence[Change],
    first: str | None,
    second: str | None,
    everything: bool,
    errors: int,
    not_run: int,
) -> None:
    from mmlitmus.checker.kernels import provider
    from mmlitmus.report.review import between, review, totals

    if first is not None and second is not None:
        lines = between(first, second, made, width=width(), everything=everything)
    else:
        lines = review(plan, made, provider().releases(), width=width(), everything=everything)
    click.echo("\n".join([*lines, *([""] if lines else []), *totals(plan, made, errors, not_run)]))
