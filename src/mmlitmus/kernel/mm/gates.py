"""Where somebody who wants pages is stopped, said by the functions that do it.

Nothing in the model looks at this, and no event comes of it: ``mmlitmus gup-table`` listens, and prints what it hears.
docs/gup.md has the gates in their order.

Of the model's own: Gate, at_gate, stopped, listen.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class Gate(Enum):
    """A gate, as docs/gup.md calls it. ``FAST`` is all that the fast path says: the slow one goes on where it stops."""

    FLAGS = "flags"
    RANGE = "the range"
    FAST = "the fast path"
    VMA = "the VMA"
    ENTRY = "the entry"
    SPECIAL = "special"
    UNSHARE = "unshare"
    COUNT = "the count"
    FORK = "fork"
    LONG = "for long"
    FRAME = "the frame"


_listening: list[list[tuple[Gate, str]]] = []


def at_gate(gate: Gate, what: str) -> None:
    """Say that somebody has come to a gate, and what was there. No event."""
    for heard in _listening:
        heard.append((gate, what))


def stopped(result: T, gate: Gate, what: str) -> T:
    """... and has been stopped: ``result``, for the caller to return."""
    at_gate(gate, what)
    return result


def listen(heard: list[tuple[Gate, str]] | None) -> None:
    """From now on put what is said into ``heard``, in order; None: into nothing."""
    _listening[:] = [] if heard is None else [heard]
