"""``mmlitmus list``: the cases and their questions."""

from __future__ import annotations

import click

from .common import AS_EXPECTED, WRONG_USE, complain, debug_option, width


@click.command("list", short_help="List the cases.")
@click.argument("what", nargs=-1, metavar="[PATTERN|FILE.py]...")
@debug_option
def command(what: tuple[str, ...], debug: bool) -> int:
    """List the cases: id, scenario, thread and question."""
    from mmlitmus.checker.load import select
    from mmlitmus.report.table import listing

    chosen = select(what)
    if debug and chosen.errors:
        raise chosen.errors[0]
    lines = listing(chosen.cases, width())
    if lines:
        click.echo("\n".join(lines))
    for e in chosen.errors:
        complain(str(e))
    return WRONG_USE if chosen.errors else AS_EXPECTED
