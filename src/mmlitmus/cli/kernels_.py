"""``mmlitmus kernels``: which kernels there are, and where one differs from the others."""

from __future__ import annotations

import click

from .common import AS_EXPECTED, Stop, debug_option, width


@click.command("kernels", short_help="List releases, patches and config options.")
@click.argument("name", required=False)
@debug_option
def command(name: str | None, debug: bool) -> int:
    """List releases, patches and config options; with NAME (a release, a kernel SPEC, a patch, an option), that one."""
    from mmlitmus.checker.kernels import provider
    from mmlitmus.report.kernels import overview, portrait

    known = provider()
    try:
        lines = overview(known, width()) if name is None else portrait(known, name, width())
    except known.not_applicable as e:
        raise Stop(f"{name}: n/a ({e})") from e
    except known.spec_error as e:
        raise Stop(str(e)) from e
    click.echo("\n".join(lines))
    return AS_EXPECTED
