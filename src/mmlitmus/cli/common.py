"""What the verbs share: options, messages, exit codes."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from mmlitmus.checker.case import Case

AS_EXPECTED, SURPRISE, WRONG_USE, UNFINISHED, NO_ANSWER, INTERRUPTED = 0, 1, 2, 3, 4, 130

#: seconds that an option may ask for at most: 30 years
LONGEST = 1_000_000_000
#: characters of a message
SAID = 8000
#: processes that an option may ask for at most
MOST = 1024

F = TypeVar("F", bound=Callable[..., Any])


class Stop(click.ClickException):
    """Ends the command with one message: it was not used right, or something cannot be run."""

    exit_code = WRONG_USE

    def show(self, file: Any = None) -> None:
        """Print the message."""
        complain(self.message)


class NotShown(Stop):
    """Ends the command because what was looked for is not there."""

    exit_code = SURPRISE


def status_of(statuses: Iterable[str]) -> int:
    """The exit status for rows of these statuses: a contradiction first, then what is not known."""
    there = set(statuses)
    if there & {"SURPRISE", "found"}:
        return SURPRISE
    if "no answer" in there:
        return NO_ANSWER
    return UNFINISHED if "unfinished" in there else AS_EXPECTED


def complain(message: str) -> None:
    """One message, to standard error."""
    spelt = message.encode("utf-8", "backslashreplace").decode()  # a file's name may be no text
    if len(spelt) > SAID:  # a word that was given may be as long as a file
        spelt = f"{spelt[: SAID // 2]} ... {spelt[-SAID // 2 :]}"
    click.echo(f"mmlitmus: {spelt}", err=True)


def kernel_options(several: bool) -> Callable[[F], F]:
    """--kernel and --with."""

    def add(f: F) -> F:
        f = click.option(
            "--with", "patches", multiple=True, metavar="PATCH", help="Also apply this patch (or switch an option on)."
        )(f)
        text = "Kernels to run on, by comma or repeated; `all`: every release." if several else "The kernel to run on."
        return click.option("--kernel", "kernels", multiple=True, metavar="SPEC", help=text)(f)

    return add


def search_options(f: F) -> F:
    """--engine and --max-executions."""
    f = click.option(
        "--max-executions", type=click.IntRange(1), metavar="N", help="Stop a search after so many executions."
    )(f)
    engines = click.Choice(["dpor", "stateful", "auto", "naive", "sample"])
    return click.option("--engine", type=engines, default="dpor", help="The explorer.")(f)


debug_option = click.option("--debug", is_flag=True, help="Show tracebacks.")


class Seconds(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A length of time: a number, neither infinite nor nothing. ``zero``: none is a length, too."""

    name = "seconds"

    def __init__(self, zero: bool = False) -> None:
        self.zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (seconds > 0 or (self.zero and seconds == 0)) or seconds > LONGEST:
            self.fail(f"{value!r} is no length of time: write a number of seconds up to {LONGEST}", param, ctx)
        return seconds


def split(values: Sequence[str]) -> list[str]:
    """The parts of comma-separated, repeated options. UsageError if one names nothing: that is not to mean all."""
    parts = [[part.strip() for part in value.split(",") if part.strip()] for value in values]
    for value, found in zip(values, parts, strict=True):
        if not found:
            raise click.UsageError(f"an option was given {value!r}, which names nothing")
    return [part for found in parts for part in found]


def width() -> int:
    """The width for tables: the terminal's, or 100 where there is none, so that a pipe always gets the same bytes."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def one_case(word: str) -> Case:
    """The single case that a word names."""
    from mmlitmus.checker.load import select

    chosen = select([word])
    if chosen.errors:
        raise Stop(str(chosen.errors[0])) from chosen.errors[0]
    exact = [case for case in chosen.cases if word in (case.id, case.source)]
    if len(exact) == 1:
        return exact[0]
    if len(chosen.cases) > 1:
        ids = [one.source for one in chosen.cases]
        more = f" and {len(ids) - 6} more" if len(ids) > 6 else ""
        raise Stop(f"{word!r} names {len(ids)} cases; say which: {', '.join(ids[:6])}{more}")
    return chosen.cases[0]


def one_kernel(case: Case, kernels: Sequence[str], patches: Sequence[str]) -> str:
    """The single kernel to run a case on; by default the first on which it expects a violation."""
    from mmlitmus.checker.kernels import asked_for, specs_for

    asked = split(kernels)
    good, wrong = asked_for(asked, split(patches))
    if wrong:
        raise Stop(wrong[0])
    if len(good) > 1:
        raise Stop(f"one kernel at a time, and not {', '.join(good)}")
    if good:
        return good[0]
    specs = specs_for(case)
    telling = (spec for spec in specs if (case.expected(spec) is not None and case.expected(spec).answers))  # type: ignore[union-attr]
    return next(telling, specs[-1])
