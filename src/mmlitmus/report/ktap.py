"""KTAP version 1, what the kernel's own selftests print (Documentation/dev-tools/ktap.rst): a subtest list a case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmlitmus.checker.row import Row

from .text import many, titled

#: (case, kernel, message) of something that could not be run
Failure = tuple[str, str, str]


def ktap(outcomes: Sequence[Row | Failure]) -> list[str]:
    """The lines of the report: one top-level test a case, one subtest a kernel."""
    groups: dict[str, list[Row | Failure]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.case if isinstance(outcome, Row) else outcome[0], []).append(outcome)
    lines = ["KTAP version 1", f"1..{len(groups)}"]
    for number, (case, group) in enumerate(groups.items(), 1):
        lines += ["  KTAP version 1", f"  # Subtest: {case}", f"  1..{len(group)}"]
        for n, outcome in enumerate(group, 1):
            lines += ["  " + line for line in _test(n, outcome)]
        lines.append(f"{_verdict(all(map(_passed, group)))} {number} {_plain(case)}")
    return lines


def _passed(outcome: Row | Failure) -> bool:
    return isinstance(outcome, Row) and outcome.ok


def _test(n: int, outcome: Row | Failure) -> Iterable[str]:
    """The diagnostics of one test, then its result line."""
    if not isinstance(outcome, Row):
        case, kernel, message = outcome
        yield f"# {message}"
        yield f"not ok {n} {_plain(kernel)}"
        return
    row = outcome
    if row.result == "n/a" and row.ok:
        yield f"ok {n} {_plain(row.spec)} # SKIP {_plain(row.reason or '')}"
        return
    yield f"# {row.text}, {row.search}, {many(row.traces, 'trace')}"
    if not row.ok:
        if row.expected is not None:
            yield f"# expected: {row.expected}"
        yield from (f"# never reached: {what}" for what in row.unreached)
        for v in row.violations:
            yield f"# {titled(v.kind, v.name)}: {v.message}"
            if v.schedule is not None:
                yield f"# schedule: {v.schedule}"
    yield f"{_verdict(row.ok)} {n} {_plain(row.spec)}"


def _verdict(ok: bool) -> str:
    return "ok" if ok else "not ok"


def _plain(text: str) -> str:
    """One line, and no '#' that a parser could take for a directive's."""
    return " ".join(text.split()).replace("#", "_")
