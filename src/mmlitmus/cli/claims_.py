"""``mmlitmus claims``: what was said in the threads, and what execution says of it."""

from __future__ import annotations

import time

import click

from .common import AS_EXPECTED, INTERRUPTED, MOST, SURPRISE, Stop, complain, debug_option


@click.command("claims", short_help="Say what was claimed, and what execution says of it.")
@click.argument("what", nargs=-1, metavar="[THREAD|ID]...")
@click.option("--json", "as_json", is_flag=True, help="Print claims as JSON (docs/claims.md).")
@click.option("--cases", "by_case", is_flag=True, help="List the cases that claims rest on, and run nothing.")
@click.option("-j", "processes", type=click.IntRange(1, MOST), default=1, metavar="N", help="Run on N processes.")
@debug_option
def command(what: tuple[str, ...], as_json: bool, by_case: bool, processes: int, debug: bool) -> int:
    """Say what was claimed in the threads, and what execution says of it.

    THREAD is 000, 001, 004 or own; ID is a claim such as C000-03; without either, every claim. The results that a
    verdict rests on are run anew. Exit status: 0 they carry every verdict; 1 a claim is not supported; 2 wrong use.
    """
    if as_json and by_case:
        raise click.UsageError("--json or --cases, not both")
    from mmlitmus.claims.ledger import THREADS, UnknownClaim, select
    from mmlitmus.claims.run import Plan
    from mmlitmus.report import claims as report

    from .check_ import Progress

    started = time.perf_counter()
    try:
        chosen = select(what)
    except UnknownClaim as e:
        raise Stop(str(e)) from e
    if by_case:
        click.echo("\n".join(report.by_case(chosen)))
        return AS_EXPECTED
    plan = Plan(chosen)
    progress = Progress(len(plan.jobs), started)
    try:
        done = plan.run(processes, debug=debug, each=progress.step)
    finally:
        progress.stop()
    for message in done.remarks:
        complain(message)
    if done.interrupted:
        complain(f"interrupted: {len(done.not_run)} of {len(plan.jobs)} results were not run")
        return INTERRUPTED
    outcomes = plan.judge(done)
    click.echo(report.dump(outcomes) if as_json else "\n".join(report.text(outcomes, THREADS)))
    return SURPRISE if any(one.supported is False for one in outcomes) else AS_EXPECTED
