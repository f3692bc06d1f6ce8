"""What changed, and who changed it: an execution as the history of one thing that the machine watches.

For one question at a time ("what becomes of this memtype entry?"), where the lanes tell too much.
"""

from __future__ import annotations

from mmlitmus.checker.case import Case
from mmlitmus.explore.replay import Replay, Step

from .lanes import again, hidden
from .text import MAIL, titled, wrap


def history(case: Case, spec: str, engine: Replay, note: str, text: str) -> list[str]:
    """A page: the question, the kernel, each change of what has ``text`` in its name, the findings, how to see more."""
    head = [f"{case.id} on {spec}", case.question, note]
    out = [part for line in head if line for part in wrap(line, MAIL, "  ")]
    out += [f"before: {key}: {value}" for key, value in engine.watched.items() if text in key]
    out.append("")
    for step in engine.steps:
        out += _step(step, text)
        for f in step.findings:
            out += wrap(f">>> {titled(f.kind, f.name)}: {f.message}", MAIL, "    ")
    for f in engine.late:
        out += wrap(f">>> {titled(f.kind, f.name)}: {f.message}", MAIL, "    ")
    if not any(text in change.key for step in engine.steps for change in step.changes):
        out.append(f"(nothing called {text!r} changed)")
    return [*out, "", *again(case, spec, engine)]


def _step(step: Step, text: str) -> list[str]:
    """A line for the way to the change or finding, one for each change."""
    changes = [change for change in step.changes if text in change.key]
    if not changes and not step.findings:
        return []
    calls = [frame.function for frame in step.frames if not hidden(frame)]
    way = calls if len(calls) < 5 else [*calls[:3], "...", calls[-1]]
    out = wrap(f"{step.task}: {' > '.join(way[1:] or way)}", MAIL, "    ")
    for change in changes:
        old, new = ("none" if v is None else v for v in (change.old, change.new))
        out += wrap(f"  * {change.key}: {old} -> {new}", MAIL, "      ")
    return out
