"""What a search says about one finding: the word, and how sure it is.

*Always* and *sometimes* (and *never*, which is the absence of every finding) are said of an exhaustive search only; of
another, only that a finding was *seen*.
"""

from __future__ import annotations

from .findings import LIVELOCK
from .scheduler import Found, Results


def mode(found: Found, results: Results) -> str:
    """``always`` when every complete execution shows the finding, ``sometimes``, or ``seen`` if the search is not over.

    A livelock is found *always* when no execution comes to its end.

    An inversion belongs to the search as a whole and to no execution of it, so it is found *sometimes*.
    """
    if not results.exhausted:
        return "seen"
    if found.finding.kind == LIVELOCK and not results.counts.complete:
        return "always"
    return "always" if found.executions == results.counts.complete > 0 else "sometimes"


def completeness(results: Results) -> str:
    """How the search went: ``exhaustive``, ``exhaustive(states)`` if it went by states, ``bounded(why it stopped)``."""
    if results.exhausted:
        return "exhaustive(states)" if results.states else "exhaustive"
    return f"bounded({results.stopped or 'not finished'})"
