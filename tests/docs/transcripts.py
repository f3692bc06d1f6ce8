"""The transcripts in the documentation: finding them, running them again, putting in what comes out.

A transcript is a fenced block marked ``console``: lines that begin with ``$ `` are commands (a line that ends in a
backslash goes on), the lines up to the next one are what they print. ``$ echo $?`` prints the last exit status.

``python tests/docs/transcripts.py FILE.md ...`` writes the blocks anew.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: a row of a table that says what a case answers on a kernel
ANSWER = re.compile(r"^\| (?P<asked>[^|]+) \| `(?P<case>[^`|]+)` \| `(?P<kernel>[^`|]+)` \| (?P<answer>[^|]+) \|$")
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: what such a search may say of itself: everything was searched, in the bounds of the case
SEARCHED = ("exhaustive", "exhaustive, gave up")
PROMPT = "$ "


@dataclass
class Command:
    """One command of a transcript, as it stands there, and what stands below it."""

    lines: list[str]
    output: list[str]

    @property
    def words(self) -> list[str]:
        """The command as a shell takes it apart."""
        return shlex.split("\n".join(self.lines).removeprefix(PROMPT))


def commands(block: str) -> list[Command]:
    """The commands of one block."""
    found: list[Command] = []
    goes_on = False
    for line in block.splitlines():
        if goes_on:
            found[-1].lines.append(line)
        elif line.startswith(PROMPT):
            found.append(Command([line], []))
        else:
            found[-1].output.append(line)
        goes_on = (goes_on or line.startswith(PROMPT)) and line.endswith("\\")
    return found


def blocks(path: Path) -> list[str]:
    """The transcripts of a page."""
    return BLOCK.findall(path.read_text())


def answers(path: Path) -> list[dict[str, str]]:
    """The rows of a page's tables that say what a case answers on a kernel."""
    return [m.groupdict() for line in path.read_text().splitlines() if (m := ANSWER.match(line))]


def wrong_answer(row: dict[str, str]) -> str:
    """Ask again: what is wrong with such a row; "" when nothing is. It must be an answer that `make check` checks."""
    from mmlitmus.checker.load import select
    from mmlitmus.checker.run import run as ask

    case = next(c for c in select([row["case"]]).cases if c.id == row["case"])
    if case.expected(row["kernel"]) is None:
        return f"{case.id} expects nothing of {row['kernel']}"
    answer = ask(case, row["kernel"])
    got = (answer.text, answer.search, answer.ok)
    return "" if got in [(row["answer"].strip(), search, True) for search in SEARCHED] else f"{got}"


def run(words: list[str]) -> tuple[int, list[str]]:
    """Exit status and output of one ``mmlitmus`` command line, standard error at the end. Runs in this process."""
    from mmlitmus.cli.main import main

    assert words[0] == "mmlitmus", f"a transcript runs mmlitmus, and not {words[0]}"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(ROOT):
        code = main(words[1:])
    return code, (out.getvalue() + err.getvalue()).splitlines()


def rerun(block: str) -> str:
    """The block with its output made anew."""
    lines: list[str] = []
    code = 0
    for command in commands(block):
        if command.words == ["echo", "$?"]:
            output = [str(code)]
        else:
            code, output = run(command.words)
            assert code != 2, "\n".join([*command.lines, *output])  # wrong use documents nothing
        lines += [*command.lines, *output]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name)
        text = page.read_text()
        page.write_text(BLOCK.sub(lambda m: f"```console\n{rerun(m[1])}```", text))
