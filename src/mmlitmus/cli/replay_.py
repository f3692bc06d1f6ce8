"""``mmlitmus replay``: does a schedule still do what it did?"""

from __future__ import annotations

import click

from .common import AS_EXPECTED, SURPRISE, Stop, debug_option, kernel_options, one_case, one_kernel


@click.command("replay", short_help="Run a schedule again and say what it shows.")
@click.argument("schedule", metavar="TOKEN|TEXT")
@click.argument("what", metavar="CASE|FILE.py")
@kernel_options(several=False)
@click.option("--finding", metavar="NAME", help="The finding that it should show.")
@debug_option
def command(
    schedule: str,
    what: str,
    kernels: tuple[str, ...],
    patches: tuple[str, ...],
    finding: str | None,
    debug: bool,
) -> int:
    """Run a schedule, or a replay token, and say what it shows.

    Exit status: 0 when it executes what it did when the token was made (and shows --finding); 1 when not; 2 when the
    model cannot follow it any more.
    """
    from mmlitmus.checker.case import CaseError
    from mmlitmus.checker.kernels import provider
    from mmlitmus.checker.run import Builder, replay, shown_by
    from mmlitmus.explore.schedule import ScheduleError
    from mmlitmus.report.text import titled

    case = one_case(what)
    spec = one_kernel(case, kernels, patches)
    try:
        engine = replay(Builder(case, spec), schedule)
    except provider().not_applicable as e:
        raise Stop(f"{case.id} on {spec}: n/a ({e})") from e
    except ScheduleError as e:
        raise Stop(f"schedule of {case.source} on {spec}: {e}") from e
    except CaseError as e:
        raise Stop(str(e)) from e
    seen = shown_by(engine)
    click.echo(f"{case.id} on {spec}: {engine.status}, {len(engine.steps)} events")
    for f in seen:
        click.echo(f"{titled(f.kind, f.name)}: {f.message}")
    if not seen:
        click.echo("nothing found")
    code = AS_EXPECTED
    if engine.changed:
        click.echo(engine.changed)
        code = SURPRISE
    if finding is not None and finding not in [f.name for f in seen]:
        click.echo(f"does not show {finding}")
        code = SURPRISE
    click.echo(f"token: {engine.token}")
    return code
