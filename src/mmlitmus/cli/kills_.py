"""``mmlitmus kills``: would the recordings notice if the model chose otherwise?"""

from __future__ import annotations

import click

from .common import AS_EXPECTED, MOST, SURPRISE, WRONG_USE, Stop, complain, debug_option, split


@click.command("kills", short_help="Flip each choice of a recorded kernel, and say what notices.")
@click.option("--kernel", "kernels", multiple=True, metavar="KERNEL", help="Recorded kernels (default: all).")
@click.option("--all", "everything", is_flag=True, help="Also list the flips that are killed, with the program.")
@click.option("--write", is_flag=True, help="Keep the programs that kill beside the recordings, for the tests.")
@click.option(
    "--some",
    type=click.IntRange(1, MOST),
    metavar="N",
    help="Believe the kept killers that still kill, and ask of the rest N programs of each recording.",
)
@click.option("-j", "--jobs", type=click.IntRange(1, MOST), default=1, metavar="N", help="Run on N processes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(
    kernels: tuple[str, ...],
    everything: bool,
    write: bool,
    some: int | None,
    jobs: int,
    as_json: bool,
    debug: bool,
) -> int:
    """Flip every choice of each recorded kernel, and replay the recordings on the flipped model.

    A flip that no program notices survives, with the reason. Exit status: 0: every flip that one task can see is
    noticed; 1: one is not; 2: wrong use.
    """
    from mmlitmus.conform.kill import SAME, Killers, files, matrix
    from mmlitmus.report import kills as report

    known = list(files())
    chosen = split(kernels) or known
    for name in chosen:
        if name not in known:
            raise Stop(f"nothing was recorded on {name!r}; there are recordings of {', '.join(known)}")
    if write and chosen != known:
        raise click.UsageError("--write is of all kernels")
    try:
        verdicts = matrix(chosen, jobs=jobs, most=some, known=None if some is None else Killers.load())
    except (OSError, ValueError, KeyError) as e:
        raise Stop(f"the kept killers cannot be read: {e}") from None
    if write:
        try:
            Killers.of(verdicts).dump()
        except OSError as e:
            complain(f"the killers could not be written: {e}")
            return WRONG_USE
    if as_json:
        click.echo(report.as_json(verdicts))
    else:
        lines = [*report.table(verdicts), "", *report.survivors(verdicts)]
        click.echo("\n".join([*lines, "", *report.killers(verdicts)] if everything else lines))
    return SURPRISE if any(v.reason == SAME for v in verdicts) else AS_EXPECTED
