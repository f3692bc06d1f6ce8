"""What the environment decides: a choice, and an allocation that may fail."""

from __future__ import annotations

from .. import runtime as rt
from ..ops import CHOOSE, NONE


def choose(label: str, values: tuple[str, ...]) -> str:
    """One of ``values``, every one of which is explored. The first is the ordinary one."""
    engine = rt.engine
    if engine.cur < 0:
        return values[0]
    rt.point((CHOOSE, NONE, (), len(values), label, values))
    return values[engine.value[engine.i - 1]]


def may_fail(label: str, budget: int) -> bool:
    """Does this allocation fail? A choice, at most ``budget`` failures a task (the verdict's bound)."""
    task = rt.current()
    if task.counters.get("failures", 0) >= budget:
        return False
    if choose(label, ("ok", "fail")) == "ok":
        return False
    task.counters["failures"] = task.counters.get("failures", 0) + 1
    return True
