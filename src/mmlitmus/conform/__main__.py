"""``python -m mmlitmus.conform [--model KERNEL] [RECORDING ...]``: how far model and recordings agree, as a table.

Without files, the recordings that come with the package. Exit status 0: no disagreement, 1: some, 2: a recording or a
kernel that cannot be used (the others are still compared).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmlitmus.kernel.policy import KernelSpecError, NotApplicable

from .compare import RULES, VERDICTS, Comparison, compare
from .execute import NotModelledError
from .store import RecordingError, load, packaged

HEADINGS = ("recording", "kernel", "model", "programs", "operations", "fields", *VERDICTS)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m mmlitmus.conform", description="Compare recordings with the model.")
    parser.add_argument("recording", nargs="*", type=Path, help="a .jsonl or .jsonl.gz file (default: the package's)")
    parser.add_argument("--model", metavar="KERNEL", help="run this kernel of the model instead of the one recorded")
    options = parser.parse_args(arguments)
    rows: list[tuple[str, ...]] = []
    compared: list[tuple[str, Comparison]] = []
    unusable = 0
    for path in options.recording or packaged():
        try:
            recording = load(path)
            comparison = compare(recording, options.model)
        except (RecordingError, NotModelledError, KernelSpecError, NotApplicable, OSError) as e:
            text = str(e)
            print(text if text.startswith(str(path)) else f"{path}: {text}", file=sys.stderr)
            unusable += 1
            continue
        name = path.name.partition(".jsonl")[0]
        compared.append((name, comparison))
        counts = [str(n) for n in comparison.counts.values()]
        rows.append((name, recording.header.key.kernel.release, comparison.spec, *counts))
    if rows:
        print("\n".join(table(rows)))
    for name, comparison in compared:
        for what in comparison.disagreements:
            print(f"{name}: {what}")
        for program, why in comparison.stopped.items():
            print(f"{name}: program {program} stopped at {why}")
    excluded = sum((c.rules() for _, c in compared), start=type(compared[0][1].rules())()) if compared else {}
    for rule in RULES:
        if excluded.get(rule.name):
            print(f"excluded, {excluded[rule.name]} x {rule.name}: {rule.why}")
    return 2 if unusable else 1 if any(c.disagreements or c.stopped for _, c in compared) else 0


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table with headings; numbers to the right."""
    lines = [HEADINGS, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEADINGS))]
    formats = [f"{{:{'<' if n < 3 else '>'}{width}}}" for n, width in enumerate(widths)]
    return ["  ".join(formats).format(*line) for line in lines]


if __name__ == "__main__":
    sys.exit(main())
