"""Rows that say the same of releases that follow each other, as one row: ``v5.10 .. v6.12 (9)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmlitmus.checker.row import Row

#: so many alike stay rows of their own
FEW = 2
#: what needs a row of its own
ALONE = ("SURPRISE", "found", "unfinished", "no answer")


@dataclass(frozen=True)
class Folded:
    """A row of the table: one that was run, and those after it that it stands for too."""

    row: Row
    others: tuple[Row, ...] = ()

    @property
    def kernel(self) -> str:
        """The kernel column."""
        if not self.others:
            return self.row.spec
        suffix = self.row.spec.removeprefix(self.row.kernel)
        return f"{self.row.kernel} .. {self.others[-1].kernel}{suffix} ({len(self.others) + 1})"

    @property
    def traces(self) -> str:
        """The traces column: the least and the most."""
        counts = [row.traces for row in (self.row, *self.others)]
        low, high = min(counts), max(counts)
        return str(low) if low == high else f"{low}-{high}"


def unfolded(rows: Sequence[Row]) -> list[Folded]:
    """Every row for itself."""
    return [Folded(row) for row in rows]


def fold(rows: Sequence[Row], releases: Sequence[str]) -> list[Folded]:
    """Join what is alike: the case, the result, how it was found, patches and config, in ``releases``' order.

    Only releases without a gap between them are joined, so that a range leaves none out in silence.
    """
    at = {name: n for n, name in enumerate(releases)}
    groups: list[list[Row]] = []
    for row in rows:
        group = groups[-1] if groups else None
        if group and _alike(group[-1], row) and at.get(row.kernel, -9) == at.get(group[-1].kernel, -1) + 1:
            group.append(row)
        else:
            groups.append([row])
    out: list[Folded] = []
    for group in groups:
        out += [Folded(group[0], tuple(group[1:]))] if len(group) > FEW else unfolded(group)
    return out


def _alike(a: Row, b: Row) -> bool:
    if a.status in ALONE or b.status in ALONE or a.unreached or b.unreached:
        return False
    return _what(a) == _what(b)


def _what(row: Row) -> tuple[object, ...]:
    return row.case, row.text, row.search, row.status, row.expected is None, row.patches, row.config
