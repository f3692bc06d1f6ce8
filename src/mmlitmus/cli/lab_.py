"""``mmlitmus lab``: real kernels under emulation, to hold the model to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from .common import AS_EXPECTED, SURPRISE, Seconds, Stop, debug_option

if TYPE_CHECKING:
    from mmlitmus.conform.lab import Lab, Machine

F = TypeVar("F", bound=Callable[..., Any])


class Which(NamedTuple):
    """The kernel that a guest is booted with, and its modules' folder where it is a user's own."""

    name: str
    modules: Path | None


@click.group("lab", short_help="Fetch real kernels and boot them under emulation.")
def command() -> None:
    """Real kernels under emulation, to hold the model to: Debian's stock builds, fetched by the system's apt into a
    folder of the lab's ($MMLITMUS_LAB, or mmlitmus/lab in the user's cache folder) and installed nowhere; or a bzImage
    of your own. Guests have no network."""


def _lab() -> Lab:
    from mmlitmus.conform.lab import Lab

    return Lab(say=lambda text: click.echo(text, err=True))


@contextmanager
def _plainly(debug: bool) -> Iterator[None]:
    """What the lab cannot do, as one message."""
    from mmlitmus.conform.lab import LabError

    try:
        yield
    except LabError as e:
        raise Stop(str(e)) from e
    except OSError as e:
        if debug:
            raise
        raise Stop(f"{e.filename or 'the lab'}: {e.strerror or e}") from e


def _text(path: Path) -> str:
    """A file's text. Stop if it is none."""
    if path.is_fifo() and path.parts[:2] != ("/", "dev"):
        raise Stop(f"{path}: no regular file")  # it would be waited for
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise Stop(f"{path}: not UTF-8") from e


def _guest_options(f: F) -> F:
    """Which kernel to boot, and on what."""
    f = click.argument("words", metavar="[KERNEL] [-- QEMU-OPTION...]", nargs=-1, type=click.UNPROCESSED)(f)
    f = click.option(
        "--kernel", "image", type=click.Path(path_type=Path), metavar="PATH", help="Boot this bzImage instead."
    )(f)
    f = click.option(
        "--modules", type=click.Path(path_type=Path), metavar="PATH", help="Its modules (lib/modules/RELEASE)."
    )(f)
    f = click.option("--machine", type=click.Choice(["pc", "q35"]), default="pc", help="q35 has an IOMMU, for VFIO.")(f)
    f = click.option("--memory", type=int, default=2048, metavar="MB", help="The guest's memory.")(f)
    f = click.option("--kaslr", is_flag=True, help="Let the kernel choose where it is at random.")(f)
    return click.option("--append", default="", metavar="WORDS", help="More words for the kernel's command line.")(f)


def _which(words: tuple[str, ...], image: Path | None, modules: Path | None) -> tuple[Which, tuple[str, ...]]:
    """The kernel, and the options for QEMU."""
    if image is not None:
        return Which(str(image.absolute()), modules), words
    if modules is not None:
        raise Stop("--modules goes with --kernel PATH")
    if not words or words[0].startswith("-"):
        raise Stop("which kernel? `mmlitmus lab list` has their names, and --kernel takes the path of a bzImage")
    return Which(words[0], None), words[1:]


def _machine(kind: str, memory: int, kaslr: bool, append: str, options: tuple[str, ...]) -> Machine:
    from mmlitmus.conform.lab import Machine

    try:
        return Machine(kind, memory, kaslr, tuple(append.split()), options)
    except ValueError as e:
        raise Stop(str(e)) from e


@command.command("list")
@debug_option
def list_(debug: bool) -> int:
    """List the kernels that the lab knows, which are fetched, and which have their probe module built."""
    with _plainly(debug):
        lab = _lab()
        rows = [("KERNEL", "BUILD", "HEADERS", "COMPILER", "FETCHED", "PROBE")]
        for row in lab.rows():
            probe = "built" if row.probe else "not built" if row.headers else "-"
            have = "yes" if row.release else "no"
            rows.append(
                (row.name, row.release or row.tried, "yes" if row.headers else "no", row.compiler or "-", have, probe)
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for line in rows:
            click.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
        click.echo(f"in {lab.place.root}")
    return AS_EXPECTED


@command.command()
@click.argument("kernels", nargs=-1, required=True, metavar="KERNEL...")
@debug_option
def fetch(kernels: tuple[str, ...], debug: bool) -> int:
    """Fetch kernels and build their probe module; `all`: each that the lab knows."""
    from mmlitmus.conform.lab.catalogue import KERNELS

    with _plainly(debug):
        names = [one.name for one in KERNELS] if "all" in kernels else list(dict.fromkeys(kernels))
        for done in _lab().fetch(names):
            probe = "with the probe module" if done.headers else "no headers, no probe module"
            click.echo(f"{done.name}: {done.release}, {probe}")
    return AS_EXPECTED


@command.command()
@_guest_options
@click.option(
    "--program", "programs", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="Run this program."
)
@click.option("--timeout", type=Seconds(), default=20.0, metavar="S", help="Seconds that a program may take.")
@debug_option
def boot(
    words: tuple[str, ...],
    image: Path | None,
    modules: Path | None,
    machine: str,
    memory: int,
    kaslr: bool,
    append: str,
    programs: tuple[Path, ...],
    timeout: float,
    debug: bool,
) -> int:
    """Boot a kernel to the agent, and say what it says; with --program, run a program of the agent's on it."""
    import json

    which, options = _which(words, image, modules)
    with _plainly(debug):
        texts = [_text(path) for path in programs]
        with _lab().session(which.name, _machine(machine, memory, kaslr, append, options), which.modules) as session:
            click.echo(json.dumps({"ready": session.ready}))
            click.echo(f"booted in {session.booted.seconds:.1f} s", err=True)
            good = True
            for path, text in zip(programs, texts, strict=True):
                outcome = session.run(text, timeout)
                for line in outcome.lines:
                    click.echo(line)
                good = good and outcome.ended
                if not outcome.ended:
                    console = "".join(f"\n  | {line}" for line in outcome.console)
                    click.echo(f"{path}: {outcome.kind}: {outcome.why}{console}", err=True)
                click.echo(f"{path}: {outcome.kind} in {outcome.seconds:.2f} s", err=True)
    return AS_EXPECTED if good else SURPRISE


@command.command()
@_guest_options
@debug_option
def shell(
    words: tuple[str, ...],
    image: Path | None,
    modules: Path | None,
    machine: str,
    memory: int,
    kaslr: bool,
    append: str,
    debug: bool,
) -> int:
    """A shell in a guest, on this terminal. `exit` ends it, and Ctrl-A X whatever it does."""
    which, options = _which(words, image, modules)
    built = _machine(machine, memory, kaslr, append, options)
    with _plainly(debug), _lab().shell(which.name, built, which.modules) as guest:
        done = subprocess.run(guest.argv, env={**os.environ, **guest.env})
    return AS_EXPECTED if done.returncode == 0 else SURPRISE


@command.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@debug_option
def clean(yes: bool, debug: bool) -> int:
    """Remove the lab's folder: every kernel fetched and everything built."""
    with _plainly(debug):
        place = _lab().place
        if not place.root.exists():
            click.echo(f"{place.root} is not there; nothing to remove")
            return AS_EXPECTED
        if not yes:
            if not sys.stdin.isatty():
                raise Stop(f"{place.root} would be removed; say --yes, there is no terminal to ask on")
            if not click.confirm(f"Remove {place.root} ({place.size() >> 20} MB)?"):
                return AS_EXPECTED
        place.remove()
        click.echo(f"removed {place.root}")
    return AS_EXPECTED
