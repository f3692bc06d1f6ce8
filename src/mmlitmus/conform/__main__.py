"""``python -m mmlitmus.conform [--model KERNEL] [RECORDING ...]``: how far model and recordings agree, as a table.

Without files, the recordings that come with the package. Exit status 0: no disagreement, 1: some, 2: a recording or a
kernel that cannot be used (the others are still compared).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmlitmus.kernel.policy import KernelSpecError, NotApplicable

from .compare import RULES, VERDICTS, compare
from .execute import NotModelledError
from .explained import explain
from .store import RecordingError, load, packaged

HEADINGS = ("recording", "kernel", "model", "programs", "operations", "fields", *VERDICTS)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m mmlitmus.conform", description="Compare recordings with the model.")
    parser.add_argument("recording", nargs="*", type=Path, help="a .jsonl or .jsonl.gz file (default: the package's)")
    parser.add_argument("--model", metavar="KERNEL", help="run this kernel of the model instead of the one recorded")
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: CPUs)")
    options = parser.parse_args(arguments)
    paths = options.recording or packaged()
    ask = partial(compared, model=options.model)
    if options.j > 1 and len(paths) > 1:
        with ProcessPoolExecutor(min(options.j, len(paths))) as pool:
            found = [*pool.map(ask, paths)]
    else:
        found = [*map(ask, paths)]
    good = [one for one in found if isinstance(one, Summary)]
    for one in found:
        if not isinstance(one, Summary):
            print(one, file=sys.stderr)
    if good:
        print("\n".join(table([one.row for one in good])))
    excluded: Counter[str] = Counter()
    for one in good:
        excluded.update(one.excluded)
        for what in (*one.differ, *one.explained):
            print(what)
    for rule in RULES:
        if excluded[rule.name]:
            print(f"excluded, {excluded[rule.name]} x {rule.name}: {rule.why}")
    return 2 if len(good) < len(found) else 1 if any(one.differ for one in good) else 0


@dataclass(frozen=True)
class Summary:
    """What is printed of a recording: its ``row``, what differs and is not explained, what is, what rules excluded."""

    row: tuple[str, ...]
    differ: tuple[str, ...]
    explained: tuple[str, ...]
    excluded: Counter[str]


def compared(path: Path, model: str | None) -> Summary | str:
    """A recording beside the model; why it cannot be used, where it cannot."""
    try:
        recording = load(path)
        found = compare(recording, model)
    except (RecordingError, NotModelledError, KernelSpecError, NotApplicable, OSError) as e:
        text = str(e)
        return text if text.startswith(str(path)) else f"{path}: {text}"
    name = path.name.partition(".jsonl")[0]
    differ: list[str] = []
    known: list[str] = []
    for what in found.disagreements:
        reason = explain(found.spec, what)
        (differ if reason is None else known).append(f"{name}: {what}" + (f" ({reason.name})" if reason else ""))
    died = {p for p, execution in found.executions.items() if execution.died}
    stopped = [f"{name}: program {p} stopped at {why}" for p, why in found.stopped.items() if p not in died]
    row = (name, recording.header.key.kernel.release, found.spec, *map(str, found.counts.values()))
    return Summary(row, (*differ, *stopped), tuple(known), found.rules())


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table with headings; numbers to the right."""
    lines = [HEADINGS, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEADINGS))]
    formats = [f"{{:{'<' if n < 3 else '>'}{width}}}" for n, width in enumerate(widths)]
    return ["  ".join(formats).format(*line) for line in lines]


if __name__ == "__main__":
    sys.exit(main())
