"""``mmlitmus gup-table``: what get_user_pages says of which mapping, by which path, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from .common import AS_EXPECTED, SURPRISE, Stop, debug_option, split

#: the kernel that nobody has to name: the newest recorded one of a long-term series
KERNEL = "deb-6.12.117"


@click.command("gup-table", short_help="Say what get_user_pages gives of which mapping, and why.")
@click.option(
    "--kernel", "kernels", multiple=True, metavar="SPEC", help=f"Kernels, by comma or repeated (default: {KERNEL})."
)
@click.option("--arch", "archs", multiple=True, metavar="ARCH", help="Architectures (default: x86-64); `all`.")
@click.option("--mapping", "mappings", multiple=True, metavar="WORD", help="Only mappings that begin so.")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only these paths.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/json.md).")
@click.option("--html", "as_html", is_flag=True, help="Print one HTML page.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to FILE instead.")
@debug_option
def command(
    kernels: tuple[str, ...],
    archs: tuple[str, ...],
    mappings: tuple[str, ...],
    paths: tuple[str, ...],
    as_json: bool,
    as_html: bool,
    output: Path | None,
    debug: bool,
) -> int:
    """Ask for a page of every kind of mapping, by every path, on a model of the kernel; say what comes of it, where it
    was stopped, and what a real kernel answered.

    WORD is a mapping (remap-ram-shared), or how some begin (remap, remap-ram). Exit status: 0: no recorded answer is
    another; 1: one is; 2: wrong use.
    """
    if as_json and as_html:
        raise click.UsageError("--json or --html, not both")
    from mmlitmus.checker.kernels import asked_for, provider
    from mmlitmus.guptable.arch import ARCHITECTURES, DEFAULT
    from mmlitmus.guptable.mappings import MAPPINGS
    from mmlitmus.guptable.paths import PATHS
    from mmlitmus.guptable.run import spec_of, table
    from mmlitmus.report import guptable as report

    good, wrong = asked_for(split(kernels) or [KERNEL], [])
    if wrong:
        raise Stop(wrong[0])
    everywhere = split(archs) == ["all"]
    chosen_archs = list(ARCHITECTURES) if everywhere else exactly(split(archs), ARCHITECTURES, "architecture")
    chosen_paths = exactly(split(paths), PATHS, "path")
    chosen = beginning(split(mappings), MAPPINGS)
    known = provider()
    for kernel in good:
        for arch in chosen_archs or [DEFAULT]:
            try:
                known.kernel(spec_of(kernel, arch))
            except known.not_applicable as e:
                raise Stop(f"{kernel}: n/a ({e})") from e
    cells = list(table(good, chosen_archs or [DEFAULT], chosen, chosen_paths or list(PATHS)))
    if as_json:
        told = report.dump(cells)
    else:
        told = report.html(cells).rstrip("\n") if as_html else "\n".join(report.text(cells))
    if output is None:
        click.echo(told)
    else:
        try:
            output.write_text(told + "\n", encoding="utf-8")
        except OSError as e:
            raise Stop(f"{output}: {e.strerror}") from e
    return SURPRISE if any(one.agrees is False for one in cells) else AS_EXPECTED


def exactly(words: Sequence[str], known: Iterable[str], what: str) -> list[str]:
    """What the words name, in the table's order."""
    names = list(known)
    for word in words:
        if word not in names:
            raise Stop(f"there is no {what} {word!r}: there are {', '.join(names)}")
    return [name for name in names if name in words]


def beginning(words: Sequence[str], known: Iterable[str]) -> list[str]:
    """The mappings that the words name, or that begin with one, in the table's order; all for no word."""
    names = list(known)
    for word in words:
        if not any(begins(name, word) for name in names):
            families = dict.fromkeys(name.partition("-")[0] for name in names)
            raise Stop(f"there is no mapping {word!r}; they begin with {', '.join(families)}")
    return [name for name in names if not words or any(begins(name, word) for word in words)]


def begins(name: str, word: str) -> bool:
    """Is it called so, or do its first parts?"""
    return name == word or name.startswith(word + "-")
