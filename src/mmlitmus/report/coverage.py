"""What recordings reach, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmlitmus.conform.coverage import ENOUGH, UNREACHABLE, Reached


@dataclass(frozen=True)
class Covered:
    """A kernel's corpus: ``programs`` of them, the ``hits`` of each class, those that are ``rare`` (of classes known
    from the model), errnos that nobody reached and no rule names.
    """

    kernel: str
    programs: int
    hits: Mapping[Reached, int]
    rare: Sequence[tuple[Reached, int]]
    unnamed: Sequence[tuple[str, str]]

    @property
    def good(self) -> bool:
        """Often enough, and nothing without a name?"""
        return not (self.rare or self.unnamed)


def text(found: Sequence[Covered]) -> list[str]:
    """A line a kernel, then what is missing."""
    lines = []
    for one in found:
        often = sum(hits >= ENOUGH for hits in one.hits.values())
        lines.append(
            f"{one.kernel}: {one.programs} programs, {len(one.hits)} classes, {often} with {ENOUGH} hits or more"
        )
        lines += [f"  {reached}: {hits}" for reached, hits in one.rare]
        lines += [f"  {operation} {outcome}: never, and no rule says why" for operation, outcome in one.unnamed]
    lines += ["", "named unreachable:"]
    for rule in UNREACHABLE:
        where = f" (without {rule.unless})" if rule.unless else ""
        lines.append(f"  {rule.operation} {rule.outcome}{where}: {rule.why}")
    return lines


def as_json(found: Sequence[Covered]) -> str:
    """By kernel: every class with its hits, and what is missing."""
    value = {
        one.kernel: {
            "programs": one.programs,
            "classes": {str(reached): hits for reached, hits in sorted(one.hits.items())},
            "rare": {str(reached): hits for reached, hits in one.rare},
            "unnamed": [f"{operation} {outcome}" for operation, outcome in one.unnamed],
        }
        for one in found
    }
    return json.dumps(value, indent=1)
