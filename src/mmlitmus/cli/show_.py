"""``mmlitmus show``: one execution of a case, in lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from .common import (
    AS_EXPECTED,
    SURPRISE,
    NotShown,
    Stop,
    debug_option,
    kernel_options,
    one_case,
    one_kernel,
    search_options,
)

if TYPE_CHECKING:
    from mmlitmus.checker.case import Case
    from mmlitmus.checker.run import Builder, How
    from mmlitmus.explore.findings import Finding
    from mmlitmus.explore.replay import Replay


class View(NamedTuple):
    """How an execution is printed."""

    labels: bool
    full: bool
    watch: str | None


@click.command("show", short_help="Show one execution of a case, side by side.")
@click.argument("what", metavar="CASE|FILE.py")
@kernel_options(several=False)
@click.option("--schedule", metavar="TEXT", help="Run this schedule (or replay token) instead of searching.")
@click.option("--finding", metavar="NAME", help="Show this finding.")
@search_options
@click.option("--labels", is_flag=True, help="Name events as schedules do.")
@click.option("--full", is_flag=True, help="Fold nothing.")
@click.option("--watch", metavar="TEXT", help="Only how that changes which has TEXT in its name: memtype, pte[a0].")
@debug_option
def command(
    what: str,
    kernels: tuple[str, ...],
    patches: tuple[str, ...],
    schedule: str | None,
    finding: str | None,
    engine: str,
    max_executions: int | None,
    labels: bool,
    full: bool,
    watch: str | None,
    debug: bool,
) -> int:
    """Show one execution of a case: the smallest that shows a violation, or the one of a --schedule.

    A schedule is text such as `fault > memory_lock.read; disable; fault`: run `fault` up to its event
    `memory_lock.read`, then `disable` until it ends or blocks, then `fault` likewise. --labels prints events' names.
    """
    from mmlitmus.checker.case import CaseError
    from mmlitmus.checker.kernels import provider
    from mmlitmus.checker.run import MAX_EXECUTIONS, Builder, How, how_for
    from mmlitmus.explore.schedule import ScheduleError

    case = one_case(what)
    spec = one_kernel(case, kernels, patches)
    how = how_for(case, How(engine, max_executions or MAX_EXECUTIONS))
    view = View(labels, full, watch)
    try:
        builder = Builder(case, spec)
        if schedule is not None:
            return _scheduled(case, builder, schedule, finding, view)
        return _searched(case, builder, how, finding, view)
    except provider().not_applicable as e:
        click.echo(f"{case.id} on {spec}: n/a ({e})")
        return AS_EXPECTED
    except ScheduleError as e:
        raise Stop(f"schedule of {case.source} on {spec}: {e}") from e
    except CaseError as e:
        raise Stop(str(e)) from e


def _scheduled(case: Case, builder: Builder, schedule: str, finding: str | None, view: View) -> int:
    from mmlitmus.checker.run import replay, shown_by

    engine = replay(builder, schedule)
    seen = shown_by(engine)
    names = [f.name for f in seen]
    found = ", ".join(names) if names else "nothing found"
    note = f"{engine.status}; {found}"
    _print(case, builder, engine, note, view)
    if engine.changed:
        click.echo(engine.changed)
    return SURPRISE if finding is not None and finding not in names else AS_EXPECTED


def _searched(case: Case, builder: Builder, how: How, finding: str | None, view: View) -> int:
    from mmlitmus.checker.run import Smallest, is_asked, search
    from mmlitmus.explore.verdict import completeness, mode
    from mmlitmus.report.text import many

    results = search(builder, how)
    found = sorted(results.found.values(), key=lambda one: _rank(case, one.finding))
    if finding is not None:
        chosen = [one for one in found if one.finding.name == finding]
        if not chosen:
            names = ", ".join(one.finding.name for one in found) or "nothing"
            raise NotShown(f"{case.id} on {builder.spec} does not show {finding!r}; it shows {names}")
    else:
        chosen = [one for one in found if is_asked(case, one.finding)]
    extent = completeness(results)
    if not chosen:
        from mmlitmus.checker.run import replay

        verdict = "never" if results.exhausted else "not seen"
        traces = many(results.counts.complete, "trace")
        note = f"{verdict} a violation in {traces} ({extent}); this is the plain first one"
        _print(case, builder, replay(builder, ""), note, view)
        return AS_EXPECTED
    one = chosen[0]
    small = Smallest(one, builder)
    fewest = "the fewest" if small.minimal else "locally minimal"
    price = "one turn" if small.preemptions is None else f"{many(small.preemptions, 'preemption')}, {fewest}"
    traces = many(results.counts.complete, "trace")
    note = f"{mode(one, results)} {one.finding.name} ({extent}, {traces}); {price}"
    others = [other.finding.name for other in found if other is not one]
    if others:
        note += f"; --finding shows another: {', '.join(others)}"
    _print(case, builder, small.engine, note, view)
    if one.finding.kind == "inversion":
        from mmlitmus.report.splat import splat

        click.echo("\n".join(["", *splat(one.finding, builder.spec)]))
    return AS_EXPECTED


def _rank(case: Case, finding: Finding) -> tuple[bool, int, str]:
    """What to show first: what was asked about, then the graver."""
    from mmlitmus.checker.row import NO_ANSWER
    from mmlitmus.checker.run import is_asked
    from mmlitmus.explore.findings import KINDS

    if finding.kind == NO_ANSWER:
        return False, -1, finding.name
    grave = KINDS.index(finding.kind) if finding.kind in KINDS else len(KINDS)
    return not is_asked(case, finding), grave, finding.name


def _print(case: Case, builder: Builder, engine: Replay, note: str, view: View) -> None:
    from mmlitmus.report.changes import history
    from mmlitmus.report.lanes import page

    if view.watch is not None:
        lines = history(case, builder.spec, engine, note, view.watch)
    else:
        lines = page(case, builder.spec, engine, note, labels=view.labels, full=view.full)
    click.echo("\n".join(lines))
