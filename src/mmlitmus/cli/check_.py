"""``mmlitmus check``: cases in, a table out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .common import (
    INTERRUPTED,
    MOST,
    WRONG_USE,
    complain,
    debug_option,
    kernel_options,
    search_options,
    split,
    status_of,
    width,
)
from .parts import checkpoint_for, cluster_at, part_options, walking

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from mmlitmus.checker.many import Job, Report


@click.command("check", short_help="Run cases and say which answers are as expected.")
@click.argument("what", nargs=-1, metavar="[PATTERN|FILE.py]...")
@kernel_options(several=True)
@search_options
@click.option("--no-reduce", is_flag=True, help="Search by states without reductions (docs/soundness.md).")
@part_options
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON (docs/json.md).")
@click.option("--ktap", "as_ktap", is_flag=True, help="Print KTAP, as the kernel's selftests do.")
@click.option("--timing", is_flag=True, help="Say how long each row took.")
@click.option("--rows", is_flag=True, help="Print every row, also where releases in a row say the same.")
@click.option("-v", "--verbose", is_flag=True, help="Print bounds, evidence and every finding under each row.")
@click.option("-j", "processes", type=click.IntRange(1, MOST), default=1, metavar="N", help="Run on N processes.")
@debug_option
def command(
    what: tuple[str, ...],
    kernels: tuple[str, ...],
    patches: tuple[str, ...],
    engine: str,
    max_executions: int | None,
    no_reduce: bool,
    walks: int | None,
    strategy: str | None,
    depth: int | None,
    seed: int | None,
    max_seconds: float | None,
    max_memory: int | None,
    checkpoint: str | None,
    resume: str | None,
    checkpoint_every: float | None,
    cluster: str | None,
    as_json: bool,
    as_ktap: bool,
    timing: bool,
    rows: bool,
    verbose: bool,
    processes: int,
    debug: bool,
) -> int:
    """Run cases and say which answers are as expected.

    PATTERN names shipped cases by id, folder or shell pattern (or by scenario, thread or claim); FILE.py is your own.
    Without --kernel a case runs on every kernel that it expects something of. Exit status: 0 as expected; 1 a surprise,
    or a finding where nothing was expected; 2 wrong use, or something that could not be run; 3 nothing of that, but not
    everything was searched; 4 nothing of that, but a case asks for what the model has not got.
    """
    if as_json and as_ktap:
        raise click.UsageError("--json or --ktap, not both")
    from mmlitmus.checker.kernels import asked_for
    from mmlitmus.checker.load import select
    from mmlitmus.checker.many import jobs_for, messages, run_all
    from mmlitmus.checker.run import MAX_EXECUTIONS, How

    if no_reduce and engine not in ("stateful", "auto"):
        raise click.UsageError("--no-reduce is for --engine stateful or auto")
    started = time.perf_counter()
    chosen = select(what)
    if debug and chosen.errors:
        raise chosen.errors[0]
    wrong = [str(e) for e in chosen.errors]
    specs, bad = asked_for(split(kernels), split(patches))
    wrong += bad
    how = How(
        engine,
        max_executions or MAX_EXECUTIONS,
        "always" if as_json else "failing",
        timing,
        max_seconds=max_seconds,
        max_memory=max_memory,
        reduce=not no_reduce,
        **walking(engine, walks=walks, strategy=strategy, depth=depth, seed=seed),
    )
    jobs: list[Job] = [] if bad and not specs else jobs_for(chosen.cases, specs, how)
    if not jobs and not wrong:
        wrong.append("there are no cases to run")
    kept = checkpoint_for(jobs, engine, checkpoint, resume, checkpoint_every)
    workers = cluster_at(cluster, processes, complain)
    progress = Progress(len(jobs), started)
    try:
        report = run_all(jobs, processes, debug=debug, each=progress.step, checkpoint=kept, cluster=workers)
    finally:
        progress.stop()
    for message in report.remarks:
        complain(message)
    every = rows or timing or verbose
    _print(report, as_json, as_ktap, timing, verbose, every, time.perf_counter() - started)
    wrong += messages(report)
    if kept is not None and kept.failed:
        wrong.append(f"{kept.failed}: how far the searches have come is not written down")
    for message in wrong:
        complain(message)
    if report.interrupted:
        complain(f"interrupted: {len(report.not_run)} of {len(jobs)} rows were not run: {_some(report.not_run)}")
        if kept is not None and not kept.failed:
            complain(f"what was searched is in {kept.path}: the same command with --resume {kept.path} goes on")
        return INTERRUPTED
    if wrong:
        return WRONG_USE
    return status_of(row.status for row in report.rows)


def _print(
    report: Report, as_json: bool, as_ktap: bool, timing: bool, verbose: bool, every: bool, seconds: float
) -> None:
    if as_json:
        from mmlitmus.report.jsonout import dump

        click.echo(dump(report.rows, timing=timing))
    elif as_ktap:
        from mmlitmus.report.ktap import ktap

        lines = ktap([o if not isinstance(o, tuple) else (o[0].case.id, o[0].spec, str(o[1])) for o in report.outcomes])
        lines += [f"# not run: {job.case.id} on {job.spec}" for job in report.not_run]
        click.echo("\n".join(lines))
    elif report.outcomes or report.not_run:
        from mmlitmus.checker.kernels import provider
        from mmlitmus.report.table import table, totals

        releases = () if every else provider().releases()
        lines = table(report.rows, width=width(), timing=timing, details=verbose, releases=releases)
        last = totals(report.rows, len(report.errors), len(report.not_run), seconds if timing else None)
        click.echo("\n".join([*lines, last]))


def _some(jobs: Sequence[Job]) -> str:
    """The first few of them."""
    names = [f"{job.case.id} on {job.spec}" for job in jobs[:5]]
    return ", ".join(names) + (" ..." if len(jobs) > 5 else "")


class Progress:
    """A progress bar, once a run has taken a second on a terminal; otherwise nothing."""

    def __init__(self, total: int, started: float) -> None:
        self.total = total
        self.started = started
        self.done = 0
        self.bar: RichProgress | None = None
        self.wanted = sys.stderr.isatty()

    def step(self) -> None:
        """One more row is done."""
        self.done += 1
        if not self.wanted or self.done == self.total or time.perf_counter() - self.started < 1:
            return
        if self.bar is None:
            from rich import progress
            from rich.console import Console

            columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeElapsedColumn())
            # no thread of its own: workers may still be forked
            bar = progress.Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
            bar.add_task("rows", total=self.total)
            bar.start()
            self.bar = bar
        self.bar.update(self.bar.task_ids[0], completed=self.done)
        self.bar.refresh()

    def stop(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
