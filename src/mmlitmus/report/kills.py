"""The kill matrix as text and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from mmlitmus.conform.kill import KILLED, NEVER, REASONS, Verdict


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """A row a kernel: how many flips there are, were killed, and survive, by reason."""
    kernels = list(dict.fromkeys(v.flip.kernel for v in verdicts))
    heads = ["kernel", "flips", KILLED, *REASONS]
    rows = [heads]
    for kernel in kernels:
        count = Counter(v.reason for v in verdicts if v.flip.kernel == kernel)
        rows.append([kernel, str(count.total()), *(str(count[r]) for r in (KILLED, *REASONS))])
    widths = [max(len(row[n]) for row in rows) for n in range(len(heads))]
    return [_row(row, widths) for row in rows]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest])


def survivors(verdicts: Sequence[Verdict]) -> list[str]:
    """Those that survive, by kernel and name; those that no program asks about, last and in short."""
    lines: list[str] = []
    for v in verdicts:
        if v.reason not in (KILLED, NEVER):
            lines.append(f"{v.flip.spec}: {v.reason} (asked by {v.asked} programs): {v.why}")
    for v in verdicts:
        if v.reason == NEVER:
            lines.append(f"{v.flip.spec}: {v.reason}: {v.why}")
    return lines


def killers(verdicts: Sequence[Verdict]) -> list[str]:
    """Those that are killed, each with a program and what disagreed first."""
    return [f"{v.flip.spec}: {v.killer}: {v.how}" for v in verdicts if v.reason == KILLED]


def as_json(verdicts: Sequence[Verdict]) -> str:
    """One object a flip."""
    rows = [
        {
            "kernel": v.flip.kernel,
            "seam": v.flip.seam,
            "alternative": v.flip.alternative,
            "verdict": v.reason,
            "killer": v.killer or None,
            "how": v.how or None,
            "why": v.why or None,
            "asked": v.asked,
        }
        for v in verdicts
    ]
    return json.dumps(rows, indent=1)
