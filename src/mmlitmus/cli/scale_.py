"""``mmlitmus scale``: whole machines, by the same functions as small ones."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from .common import AS_EXPECTED, SURPRISE, Stop, debug_option

if TYPE_CHECKING:
    from mmlitmus.scale.run import Run

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of bytes: 4096, 64K, 512M, 64G, 1T (GiB and TiB, whether an i is written or not)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,18})([KMGT]?)(i?B)?", value, re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is no size: write 4096, 512M, 64G or 1T")
        return int(found[1]) * UNITS[found[2].upper()]


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/json.md).")
timing_option = click.option("--timing", is_flag=True, help="Also tell the CPU time of each step.")
kernel_option = click.option(
    "--kernel", default="deb-6.12.117", show_default=True, metavar="SPEC", help="The kernel to run."
)


@click.group()
def command() -> None:
    """Run a whole machine through the functions that a search runs, and count what happens.

    One task, so nothing is said of who may come in between. Needs numpy: pip install 'mmlitmus[scale]'.
    """


@command.command()
@kernel_option
@click.option("--memory", type=Size(), default="64G", show_default=True, help="The guest's memory.")
@click.option("--huge", is_flag=True, help="Untouched blocks of 2M get huge pages (THP).")
@click.option("--touched", is_flag=True, help="The guest has written to all of it before.")
@click.option("--memlock", type=click.IntRange(0), metavar="PAGES", help="RLIMIT_MEMLOCK, in pages.")
@json_option
@timing_option
@debug_option
def guest(
    kernel: str, memory: int, huge: bool, touched: bool, memlock: int | None, as_json: bool, timing: bool, debug: bool
) -> int:
    """VFIO type1 maps a guest's memory for a device, which pins it; and unmaps it."""
    return _run("guest", as_json, timing, kernel, memory, huge=huge, touched=touched, limit=memlock)


@command.command()
@kernel_option
@click.option("--size", type=Size(), default="16G", show_default=True, help="The BAR's size.")
@click.option("--leaf", type=click.Choice(["4K", "PMD", "PUD"]), default="PUD", show_default=True, help="Mapped by.")
@json_option
@timing_option
@debug_option
def bar(kernel: str, size: int, leaf: str, as_json: bool, timing: bool, debug: bool) -> int:
    """A process maps a BAR through VFIO and touches it all; it is revoked, touched again, and unmapped."""
    return _run("bar", as_json, timing, kernel, size, leaf)


def _run(what: str, as_json: bool, timing: bool, *args: Any, **options: Any) -> int:
    from mmlitmus.kernel.policy import KernelSpecError, NotApplicable

    try:
        import numpy  # noqa: F401
    except ImportError as e:
        raise Stop("whole machines need numpy: pip install numpy") from e
    from mmlitmus.scale import run

    try:
        done: Run = getattr(run, what)(*args, **options)
    except (run.ScaleError, KernelSpecError, NotApplicable) as e:
        raise Stop(str(e)) from e
    except MemoryError as e:
        raise Stop(f"not enough memory for a machine of this size: {e}") from e
    click.echo(json.dumps(done.as_json(timing), indent=2) if as_json else "\n".join(_text(done, timing)))
    return SURPRISE if done.findings else AS_EXPECTED


def _text(done: Run, timing: bool) -> list[str]:
    """For people: each step, and what happened in it."""
    size = f"{done.size >> 20:,} MiB"
    options = ", ".join(k if v is True else f"{k} {v}" for k, v in done.options.items() if v not in (False, None))
    mapped = ", ".join(f"{n:,} x {leaf}" for leaf, n in done.translations.items() if n) or "nothing"
    lines = [
        f"{done.what} of {size} on {done.kernel}{f' ({options})' if options else ''}",
        f"translations: {mapped}" + (f"; locked: {done.locked_vm:,} pages" if done.what == "guest" else ""),
    ]
    for step in done.steps:
        time = f"  {step.seconds:.3f} s" if timing else ""
        result = f"{step.result:,}" if isinstance(step.result, int) else step.result
        lines += ["", f"{step.name}: {result}{time}"]
        lines += [f"  {name:20}{n:>18,}" for name, n in step.counts.items() if n]
    if done.findings:
        lines += ["", "found: " + ", ".join(done.findings)]
    return lines
