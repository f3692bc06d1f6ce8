"""The options of ``check`` that say how far a search goes and where: walks, limits, checkpoints, a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .common import F, Seconds, Stop

if TYPE_CHECKING:
    from mmlitmus.checker.campaign import Workers
    from mmlitmus.checker.checkpoint import Checkpoint
    from mmlitmus.checker.many import Job

#: engines whose searches can be written down, and gone on with
IN_PARTS = ("dpor", "sample")


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes, as ``800M`` or ``2G``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        from mmlitmus.explore.limits import size

        try:
            return size(str(value))
        except ValueError:
            self.fail(f"{value!r} is no size: write 800M, 2G or a number of bytes", param, ctx)


def part_options(f: F) -> F:
    """--walks, --strategy, --depth, --seed, --max-seconds, --max-memory, --checkpoint, --resume, --cluster."""
    options = [
        click.option("--walks", type=click.IntRange(1), metavar="N", help="sample: random walks a row (1000)."),
        click.option("--strategy", type=click.Choice(["pct", "pos"]), help="sample: how to walk (pct)."),
        click.option("--depth", type=click.IntRange(1, 1000), metavar="D", help="sample: PCT's depth of bugs (3)."),
        click.option("--seed", type=int, metavar="S", help="sample: the same seed, the same walks (0)."),
        click.option("--max-seconds", type=Seconds(), metavar="N", help="Stop a search after so many seconds (none)."),
        click.option("--max-memory", type=Size(), metavar="SIZE", help="Stop a search when a process has more (none)."),
        click.option("--checkpoint", metavar="FILE", help="Write down how far the searches have come."),
        click.option("--resume", metavar="FILE", help="Go on from there, and keep it up to date."),
        click.option("--checkpoint-every", type=Seconds(zero=True), metavar="N", hidden=True),
        click.option("--cluster", metavar="ADDRESS", help="Run on this dask scheduler (the extra `cluster`)."),
    ]
    for option in reversed(options):
        f = option(f)
    return f


def walking(engine: str, **given: Any) -> dict[str, Any]:
    """The options of the engine `sample` that were given; they say nothing to another."""
    said = {name: value for name, value in given.items() if value is not None}
    if said and engine != "sample":
        raise click.UsageError(f"--{next(iter(said))} is for --engine sample")
    return said


def checkpoint_for(
    jobs: Sequence[Job], engine: str, new: str | None, old: str | None, every: float | None
) -> Checkpoint | None:
    """The checkpoint that the options ask for."""
    if new is None and old is None:
        return None
    if new is not None and old is not None:
        raise click.UsageError("--checkpoint or --resume, not both: --resume keeps its file up to date")
    if engine not in IN_PARTS:
        raise click.UsageError(f"a search by {engine} cannot be written down; those by {' and '.join(IN_PARTS)} can")
    import os.path

    from mmlitmus.checker.checkpoint import EVERY, Checkpoint, CheckpointError

    try:
        if old is not None:
            return Checkpoint.read(old, jobs, EVERY if every is None else every)
        assert new is not None
        if os.path.exists(new):
            raise Stop(f"{new} is there already; --resume {new} goes on with it")
        return Checkpoint.create(new, EVERY if every is None else every)
    except CheckpointError as e:
        raise Stop(str(e)) from e


def cluster_at(address: str | None, processes: int, told: Any) -> Workers | None:
    """The cluster that the options ask for."""
    if address is None:
        return None
    if processes > 1:
        raise click.UsageError("-j or --cluster, not both")
    from mmlitmus.checker.campaign import work
    from mmlitmus.checker.cluster import Cluster, ClusterError

    try:
        return Cluster(address, work, told)
    except ClusterError as e:
        raise Stop(str(e)) from e
