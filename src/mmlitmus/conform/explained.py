"""Differences that are known, each with a reason: what the model leaves out, never what it gets wrong.

An entry is a predicate on kernel, operation and field, and says how many programs of a hundred may have such a field; a
campaign in which more do is a surprise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .compare import Field


@dataclass(frozen=True)
class Explained:
    """A known limit of the model. ``cap``: the programs of a hundred that may show it at most.

    ``applies``: (the model's kernel, the field that differs) is such a case.
    """

    name: str
    reason: str
    cap: float
    applies: Callable[[str, Field], bool]


EXPLAINED: tuple[Explained, ...] = (
    Explained(
        "ran-over-memory",
        "from where the kernel reads or writes past a table's end, it depends on what is there in memory whether it "
        "notices: one boot in a few lives on",
        0.5,
        lambda kernel, field: field.seen.dead == "zap-past-the-end",
    ),
)


def explain(kernel: str, field: Field) -> Explained | None:
    """The entry that covers a field that differs; None if nothing does."""
    return next((one for one in EXPLAINED if one.applies(kernel, field)), None)
