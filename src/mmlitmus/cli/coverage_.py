"""``mmlitmus coverage``: what the generated programs that were recorded reach."""

from __future__ import annotations

from collections import Counter

import click

from .common import AS_EXPECTED, SURPRISE, Stop, debug_option, split

#: a seed that no recording has
SEED = 40_961


@click.command("coverage", short_help="Say what the recordings reach, and what they do not.")
@click.option("--kernel", "kernels", multiple=True, metavar="KERNEL", help="Recorded kernels (default: all).")
@click.option("--against", type=click.IntRange(0), default=300, metavar="N", help="Learn the classes from N programs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(kernels: tuple[str, ...], against: int, as_json: bool, debug: bool) -> int:
    """Count operation, kind of mapping and outcome over the generated programs that were recorded.

    Which classes there are is learned from N other programs, run on the model alone. Exit status: 0: each was recorded
    often enough; 1: one was not; 2: wrong use.
    """
    from mmlitmus.conform.coverage import Reached, count, modelled, rare, unnamed
    from mmlitmus.conform.generate import parts_of
    from mmlitmus.conform.kill import files, recorded
    from mmlitmus.report import coverage as report

    known = [kernel for kernel, paths in files().items() if any(path.parent.name == "live" for path in paths)]
    chosen = split(kernels) or known
    found = []
    for kernel in chosen:
        if kernel not in known:
            raise Stop(f"no generated programs were recorded on {kernel!r}, but on {', '.join(known)}")
        programs = [one for one in recorded(kernel) if one.program.seed is not None]
        hits = count(one.program for one in programs)
        classes: Counter[Reached] = Counter()
        headers = {one.file: one.header for one in programs}
        for file, header in headers.items():
            share = sum(one.file == file for one in programs) * against // len(programs)
            classes += modelled(kernel, header, parts_of(header), SEED, share)
        lacking = rare(hits, classes, against) if against else []
        probe = any(header.key.lab.module for header in headers.values())
        found.append(report.Covered(kernel, len(programs), hits, lacking, unnamed(hits, kernel, probe)))
    click.echo(report.as_json(found) if as_json else "\n".join(report.text(found)))
    return AS_EXPECTED if all(one.good for one in found) else SURPRISE
