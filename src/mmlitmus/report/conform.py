"""What ``mmlitmus conform`` prints: agreement by operation and kernel, differences with both sides; KTAP and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmlitmus.conform.campaign import Campaign, Compared
from mmlitmus.conform.compare import AGREED, EXCLUDED, SECOND_BOOT, UNOBSERVED, Field
from mmlitmus.conform.explained import EXPLAINED
from mmlitmus.conform.live import words_of
from mmlitmus.conform.schema import VERBS

from .text import many

#: differing fields that are shown of one difference
SHOWN = 8
VERDICTS = (AGREED, "explained", EXCLUDED, UNOBSERVED, "unexplained")


@dataclass(frozen=True)
class Difference:
    """A difference to show: a program, shrunk if that was done, the fields that differ in it, how many programs of
    the campaign showed the like, and the C file that shows it, if one was written.
    """

    one: Compared
    fields: tuple[Field, ...]
    programs: int = 1
    shrunk: bool = False
    reproducer: str = ""


def table(campaigns: Sequence[Campaign]) -> list[str]:
    """One line a kernel and operation, then one for all of a kernel."""
    rows: list[tuple[str, ...]] = [("kernel", "operation", "done", "fields", *VERDICTS)]
    for campaign in campaigns:
        for op in VERBS:
            tally = campaign.operations.get(op)
            if tally is not None:
                rows.append((campaign.kernel, op, *_numbers(tally.operations, tally.fields)))
        counts = campaign.counts
        all_of_it = Counter({verdict: counts[verdict] for verdict in VERDICTS})
        rows.append((campaign.kernel, many(campaign.programs, "program"), *_numbers(counts["operations"], all_of_it)))
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    words = [f"{{:{'<' if n < 2 else '>'}{width}}}" for n, width in enumerate(widths)]
    return ["  ".join(words).format(*row) for row in rows]


def _numbers(operations: int, fields: Counter[str]) -> tuple[str, ...]:
    return tuple(map(str, (operations, fields.total(), *(fields[verdict] for verdict in VERDICTS))))


def notes(campaign: Campaign) -> list[str]:
    """What else is to say: deaths, explanations, programs that could not be compared."""
    lines = []
    for kind, count in sorted(campaign.died.items()):
        lines.append(f"{campaign.kernel}: {many(count, 'program')} ended the guest ({kind})")
    if campaign.unstable:
        lines.append(
            f"{campaign.kernel}: {many(len(campaign.unstable), 'program')} answered otherwise in a second boot"
        )
    over = campaign.over_cap()
    for one in EXPLAINED:
        covered = campaign.explained.get(one.name)
        if covered:
            more = f", more than {one.cap} %" if one in over else ""
            by = f"{many(len(covered), 'program')} explained by {one.name}{more}"
            lines.append(f"{campaign.kernel}: {by}: {one.reason}")
    lines += [f"{campaign.kernel}: {c.program.id} could not be compared: {c.refused}" for c in campaign.refused]
    return lines


def difference(kernel: str, model: str, shown: Difference) -> list[str]:
    """A difference: the program, and both sides of every step that differs."""
    heard, execution = shown.one.heard, shown.one.execution
    assert heard is not None, "it was compared"
    how = "" if shown.shrunk else ", not shrunk"
    more = f", and {shown.programs - 1} more like it" if shown.programs > 1 else ""
    lines = [f"{kernel} and {model} differ: {shown.one.program.id}{how}{more}"]
    width = len(str(len(heard.program.steps) - 1))
    for n, step in enumerate(heard.program.steps):
        lines.append(f"    {n:{width}}  {words_of(step)}")
        fields = [f for f in shown.fields if f.index == n]
        for f in fields[:SHOWN]:
            what = f"{f.name} {f.place}".rstrip()
            one, other = ("first ", "second") if f.name.endswith(SECOND_BOOT) else ("kernel", "model ")
            lines += [f"        {what}: {one} {f.recorded or 'nothing'}"]
            lines += [f"        {' ' * len(what)}  {other} {f.model or 'nothing'}"]
        if len(fields) > SHOWN:
            lines.append(f"        and {many(len(fields) - SHOWN, 'field')} more")
    if execution is not None and execution.stopped:
        lines.append(f"    the model stopped at {execution.stopped}")
    if heard.died:
        lines.append(f"    the guest: {heard.died}: {heard.why}")
    if shown.reproducer:
        lines.append(f"    as a C program: {shown.reproducer}")
    return lines


def as_json(campaigns: Sequence[Campaign], differences: dict[str, list[Difference]]) -> str:
    """An object a kernel."""
    return json.dumps({c.kernel: _object(c, differences.get(c.kernel, [])) for c in campaigns}, indent=2)


def _object(campaign: Campaign, differences: Sequence[Difference]) -> dict[str, Any]:
    return {
        "model": campaign.model,
        **campaign.counts,
        "by_operation": {
            op: {"operations": t.operations, **{v: t.fields[v] for v in VERDICTS}}
            for op, t in sorted(campaign.operations.items())
        },
        "explained_by": {name: sorted(ids) for name, ids in sorted(campaign.explained.items())},
        "died": dict(sorted(campaign.died.items())),
        "not_compared": {c.program.id: c.refused for c in campaign.refused},
        "differences": [
            {
                "program": d.one.program.id,
                "programs": d.programs,
                "shrunk": d.shrunk,
                **({"reproducer": d.reproducer} if d.reproducer else {}),
                "steps": [words_of(s) for s in d.one.heard.program.steps] if d.one.heard else [],
                "fields": [
                    {"step": f.index, "field": f.name, "place": f.place, "kernel": f.recorded, "model": f.model}
                    for f in d.fields
                ],
            }
            for d in differences
        ],
    }


def ktap(campaigns: Sequence[Campaign], differences: dict[str, list[Difference]]) -> list[str]:
    """KTAP version 1: one top-level test a kernel, one subtest an operation."""
    lines = ["KTAP version 1", f"1..{len(campaigns)}"]
    for number, campaign in enumerate(campaigns, 1):
        ops = [op for op in VERBS if op in campaign.operations]
        lines += ["  KTAP version 1", f"  # Subtest: {campaign.kernel}", f"  1..{len(ops)}"]
        for n, op in enumerate(ops, 1):
            tally = campaign.operations[op]
            good = not tally.fields["unexplained"]
            lines.append(f"  # {tally.fields[AGREED]} of {tally.fields.total()} fields agree")
            lines.append(f"  {'ok' if good else 'not ok'} {n} {op}")
        for shown in differences.get(campaign.kernel, []):
            lines += [f"# {line}" for line in difference(campaign.kernel, campaign.model, shown)]
        lines += [f"# {note}" for note in notes(campaign)]
        lines.append(f"{'ok' if campaign.good else 'not ok'} {number} {campaign.kernel}")
    return lines
