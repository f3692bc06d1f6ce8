"""How far model and recordings agree, by kernel and operation: kept in a file, part by part, so that a test can hold a
part to it and a table needs no replay.

``python -m mmlitmus.conform.agreement`` prints the table of ``docs/conformance.md``; ``--write`` replays everything
first, and writes the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mmlitmus.kernel import eras

from .campaign import Campaign, Compared
from .compare import AGREED, EXCLUDED, UNOBSERVED, Field, compare_program
from .execute import execute, model_of
from .layout import Layout
from .live import Heard
from .schema import VERBS, Recording
from .store import RECORDINGS, header_of, packaged, part_of

#: programs of a part
PART = 100
AGREEMENT = RECORDINGS / "agreement.json"
#: what is counted of an operation
VERDICTS = ("operations", AGREED, "explained", EXCLUDED, UNOBSERVED, "unexplained")
#: by operation
Counts = dict[str, list[int]]


def parts() -> list[tuple[Path, int]]:
    """Every part of the packaged recordings: a file, and the first program. Only headers are read."""
    found = []
    for path in packaged():
        programs = header_of(path).programs
        assert programs is not None, f"{path.name} does not say how many programs it has"
        found += [(path, first) for first in range(0, programs, PART)]
    return found


def replay(recording: Recording, campaign: Campaign) -> list[Field]:
    """Count a recording's programs in ``campaign``; the unexplained fields."""
    header, layout = recording.header, Layout(recording.header)
    left = []
    for program in recording.programs:
        execution = execute(program, header, campaign.model)
        fields = tuple(compare_program(program, execution, layout))
        left += campaign.add(Compared(program, header, (), Heard(program), execution, fields))
    return left


def counts_of(campaign: Campaign) -> Counts:
    """What was counted, by operation."""
    tallies = campaign.operations
    ops = [op for op in VERBS if op in tallies]
    return {op: [tallies[op].operations, *(tallies[op].fields[v] for v in VERDICTS[1:])] for op in ops}


def model_for(path: Path) -> str:
    """The model's name for the kernel of a recording."""
    return model_of(header_of(path).key.kernel)


def _counted(part: tuple[Path, int]) -> tuple[str, Counts]:
    path, first = part
    model = model_for(path)
    campaign = Campaign(model, model)
    replay(part_of(path, first, PART), campaign)
    return key_of(path), counts_of(campaign)


def key_of(path: Path) -> str:
    """What a recording is called in the file."""
    return path.relative_to(RECORDINGS).as_posix()


def derive(jobs: int) -> dict[str, list[Counts]]:
    """The counts of every part of every packaged recording, replayed on ``jobs`` processes."""
    found: dict[str, list[Counts]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for name, counts in pool.map(_counted, parts()):
            found.setdefault(name, []).append(counts)
    return found


def load(path: Path = AGREEMENT) -> dict[str, list[Counts]]:
    """What was counted. OSError, ValueError if it cannot be read."""
    found: dict[str, list[Counts]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def dump(found: Mapping[str, Sequence[Counts]], path: Path = AGREEMENT) -> None:
    """Write it: a line a part."""
    files = []
    for name, counts in found.items():
        rows = ",\n  ".join(json.dumps(one) for one in counts)
        files.append(f" {json.dumps(name)}: [\n  {rows}\n ]")
    path.write_text("{\n" + ",\n".join(files) + "\n}\n", encoding="utf-8")


def table(found: Mapping[str, Sequence[Counts]], models: Mapping[str, str], programs: Mapping[str, int]) -> list[str]:
    """A Markdown table: one row a kernel. ``models``: whose a recording is; ``programs``: how many it has."""
    lines = [
        "| kernel | programs | operations | fields | agreed | explained | excluded | unobserved | unexplained |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for model in _kernels(found, models):
        names = [name for name in found if models[name] == model]
        total = _sum(one[op] for name in names for one in found[name] for op in one)
        numbers = [sum(programs[name] for name in names), total[0], sum(total[1:]), *total[1:]]
        lines.append(f"| {model} | " + " | ".join(f"{n:,}" for n in numbers) + " |")
    return lines


def by_operation(found: Mapping[str, Sequence[Counts]], models: Mapping[str, str]) -> list[str]:
    """A Markdown table: the fields compared (agreed or not) of each operation, and in brackets the operations."""
    kernels = _kernels(found, models)
    lines = ["| operation | " + " | ".join(kernels) + " |", "|---|" + "---:|" * len(kernels)]
    for op in VERBS:
        cells = []
        for model in kernels:
            rows = [one[op] for name in found if models[name] == model for one in found[name] if op in one]
            done, agreed, _, _, _, wrong = _sum(rows)
            cells.append(f"{agreed:,} of {agreed + wrong:,} ({done:,})" if rows else "")
        if any(cells):
            lines.append(f"| {op} | " + " | ".join(cells) + " |")
    return lines


def _kernels(found: Iterable[str], models: Mapping[str, str]) -> list[str]:
    there = {models[name] for name in found}
    return [release for release in eras.RELEASES if release in there]


def _sum(rows: Iterable[Sequence[int]]) -> list[int]:
    total = [0] * len(VERDICTS)
    for row in rows:
        total = [a + b for a, b in zip(total, row, strict=True)]
    return total


def document(found: Mapping[str, Sequence[Counts]]) -> str:
    """Both tables."""
    paths = {key_of(path): path for path in packaged()}
    models = {name: model_for(paths[name]) for name in found}
    programs = {name: header_of(paths[name]).programs or 0 for name in found}
    return "\n".join([*table(found, models, programs), "", *by_operation(found, models)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 1 if something is unexplained."""
    parser = argparse.ArgumentParser("python -m mmlitmus.conform.agreement", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--write", action="store_true", help="replay all recordings, and write what was counted")
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: CPUs)")
    options = parser.parse_args(arguments)
    if options.write:
        dump(derive(options.j))
    found = load()
    sys.stdout.write(document(found))
    return int(any(row[-1] for counts in found.values() for one in counts for row in one.values()))


if __name__ == "__main__":
    sys.exit(main())
