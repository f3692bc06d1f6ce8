"""``mmlitmus``: what runs when. A verb's module is imported when the verb is used."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from io import TextIOWrapper

import click

from .common import INTERRUPTED, SURPRISE, WRONG_USE, Stop, complain

VERBS = {
    "check": "Run cases and say which answers are as expected.",
    "show": "Show one execution of a case, side by side.",
    "replay": "Run a schedule again and say what it shows.",
    "review": "Say which verdicts a patch changes, and on which kernels.",
    "claims": "Say what was claimed in the threads, and what execution says of it.",
    "list": "List the cases.",
    "gup-table": "Say what get_user_pages gives of which mapping, and why.",
    "kernels": "List releases, patches and config options.",
    "conform": "Compare the model with real kernels.",
    "kills": "Flip each choice of a recorded kernel, and say what notices.",
    "coverage": "Say what the recordings reach, and what they do not.",
    "scale": "Run a guest of 64 GiB or a BAR of 16 GiB, and count what happens.",
    "lab": "Fetch real kernels and boot them under emulation.",
}


class Verbs(click.Group):
    """The verbs, each in a module of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The verb, imported now."""
        if name not in VERBS:
            return None
        command: click.Command = import_module(f"mmlitmus.cli.{name.replace('-', '_')}_").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs for --help, without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        import mmlitmus
        from mmlitmus import explore

        how = "compiled" if explore.COMPILED else "interpreted"
        click.echo(f"mmlitmus {mmlitmus.__version__} (explorer {how})")
        ctx.exit()


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Say which it is.")
def cli() -> None:
    """Questions about races in Linux memory management for device memory, answered by running every interleaving of a
    small model of it. Statements are about the model, under sequential consistency."""


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    debug = "--debug" in (sys.argv[1:] if args is None else args)
    try:
        if sys.stdout is None:
            raise Stop("standard output is closed")
        if isinstance(sys.stdout, TextIOWrapper):  # a name that it cannot spell is no reason to say nothing
            sys.stdout.reconfigure(errors="backslashreplace")
        result = cli.main(args=args, prog_name="mmlitmus", standalone_mode=False)
        sys.stdout.flush()  # a full disk is to be noticed while there is somebody to say so
        return result if isinstance(result, int) else 0
    except click.Abort:
        complain("interrupted")
        return INTERRUPTED
    except click.ClickException as e:
        if debug and e.__cause__ is not None:
            raise
        e.show()
        return e.exit_code
    except BrokenPipeError:
        _give_up_output()  # the reader went away, and knows
        return SURPRISE
    except OSError as e:
        if debug:
            raise
        _give_up_output()
        complain(f"{e.filename if e.filename is not None else 'output'}: {e.strerror or e}")
        return WRONG_USE
    except MemoryError:
        if debug:
            raise
        complain("there is not enough memory for that")
        return WRONG_USE
    except Exception as e:
        if debug:
            raise
        complain(f"{type(e).__name__}: {e} (this is a bug of mmlitmus; --debug shows where)")
        return WRONG_USE


def _give_up_output() -> None:
    """What is still to be printed has nowhere to go; Python would try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)


if __name__ == "__main__":
    sys.exit(main())
