"""``--json``: a list of rows, and what each field of a row means.

The schema is data here; docs/json.md is made of it (``python -m mmlitmus.report.jsonout``) and a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmlitmus.checker.row import Row

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}


def _told(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, **schema}


_VIOLATION: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["kind", "name", "message", "mode", "schedule", "preemptions", "minimal"],
    "properties": {
        "kind": _told(
            "`BUG`, `WARN`, `sleep-in-atomic`, `held-at-end`, `printk`, `invariant`, `use-after-free`, "
            "`precondition`, `deadlock`, `livelock`, `unfair-loop`, `inversion`, `race`, `never-ends`, `raised` or "
            "`not-modelled`",
            type="string",
        ),
        "name": _told("the slug that expectations speak of, such as `stale-translation`", type="string"),
        "message": _told("the same in words, of the first execution that showed it", type="string"),
        "mode": _told(
            "`always`: in every execution; `sometimes`: in some; `seen`: the search did not finish",
            enum=["always", "sometimes", "seen"],
        ),
        "schedule": _told("a small schedule that shows it, as `mmlitmus replay` takes it", type=["string", "null"]),
        "preemptions": _told("the preemptions in that schedule", type=["integer", "null"], minimum=0),
        "minimal": _told(
            "`true`: no schedule with fewer preemptions shows it; `false`: locally minimal", type=["boolean", "null"]
        ),
    },
}

_NOTE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["kind", "name", "message", "why"],
    "properties": {
        "kind": _told("as in `violations`", type="string"),
        "name": _told("as in `violations`", type="string"),
        "message": _told("as in `violations`", type="string"),
        "why": _told(
            "`not-asked`: the case asks about something else (never of what a kernel complains of by itself); "
            "`ignored`: the case names it under `ignores`; `tolerated`: kernels live with it; "
            "`no-defect`: an unfair loop; `not-modelled`: nothing else is told where something is not modelled",
            enum=["not-asked", "ignored", "tolerated", "no-defect", "not-modelled"],
        ),
    },
}

_SAMPLE: dict[str, dict[str, Any]] = {
    "strategy": _told("`pct` or `pos`", enum=["pct", "pos"]),
    "walks": _told("walks that were run, each one execution", **_COUNT),
    "seed": _told("the seed: the same one gives the same walks", type="integer"),
    "depth": _told("PCT's depth", **_COUNT),
    "tasks": _told("n of PCT's bound: the tasks there may be", **_COUNT),
    "events": _told("k of PCT's bound: the events of the longest of the first, uncounted walks", **_COUNT),
    "longest": _told("the events of the longest walk; to bugs past `events` the bound does not apply", **_COUNT),
    "bound": _told(
        "the least probability that one walk shows a bug of that depth within `events`: 1/(n k^(depth-1)), half of it "
        "where there are choices, and then only for bugs without an extraordinary one",
        type="number",
    ),
    "distinct": _told("inequivalent interleavings that the walks showed", **_COUNT),
    "unseen": _told(
        "an estimate (Good-Turing), not a bound: the chance that one more walk shows an interleaving not met so far",
        type="number",
    ),
}

_STATEFUL: dict[str, dict[str, Any]] = {
    "states": _told("states that were visited", **_COUNT),
    "handed_over": _told("why `--engine auto` left dpor; null if nobody did", type=["string", "null"]),
    "livelocks": _told(
        "loops that a task may stay in: `how` (`hard`, `fair`, `unfair-only`), `task`, `loop`, the events of one "
        "`turn`, by how much counters `drift` in it, and who is `kept_out`",
        type="array",
        items={"type": "object"},
    ),
}

_ROW: dict[str, dict[str, Any]] = {
    "case": _told("the case's id", type="string"),
    "kernel": _told("the release", type="string"),
    "patches": _told("the patches on it, by name", type="array", items=_TEXT),
    "config": _told("the config options switched on, by name", type="array", items=_TEXT),
    "result": _told(
        "`never`, `sometimes`, `always`: the search was exhaustive; `seen`, `not-seen`: it was not; "
        "`not-modelled`: the model has not got what `violations` names, and says nothing else; `n/a`: see `reason`",
        enum=["never", "sometimes", "always", "seen", "not-seen", "not-modelled", "n/a"],
    ),
    "violations": _told("the findings that answer the question, by name", type="array", items=_VIOLATION),
    "notes": _told("findings that do not count, by name, and why", type="array", items=_NOTE),
    "search": _told(
        "`exhaustive`, or `exhaustive(states)` if the stateful engine had the last word; `bounded(...)` with what "
        "stopped it; `sampled(...)` with how many random walks there were, and their seed; null for `n/a`",
        type=["string", "null"],
    ),
    "bounds": _told(
        "the size of the machine that was searched: pages, failing allocations, ... as the case states them",
        type="object",
        additionalProperties={"type": ["integer", "string"]},
    ),
    "evidence": _told(
        "what the expectation rests on: `recorded` on a real kernel, read in `source`, `dossier` only; "
        "null without an expectation",
        enum=["recorded", "source", "dossier", None],
    ),
    "traces": _told("inequivalent interleavings seen to their end", **_COUNT),
    "executions": _told("executions run, those cut short included", **_COUNT),
    "events": _told("events executed, without replayed beginnings", **_COUNT),
    "expected": _told("what the case expects of this kernel, in the table's words", type=["string", "null"]),
    "ok": _told("as expected; without an expectation: everything was searched, and nothing found", type="boolean"),
    "unreached": _told("what the case says must be reached and was not; makes `ok` false", type="array", items=_TEXT),
    "reason": _told("why the question does not apply to this kernel; null unless `result` is `n/a`",
                    type=["string", "null"]),
    "stateful": _told(
        "what a search by states was like; where the stateful engine has the last word only",
        type="object",
        additionalProperties=False,
        required=list(_STATEFUL),
        properties=_STATEFUL,
    ),
    "sample": _told(
        "what the random walks are worth; with `--engine sample` only",
        type="object",
        additionalProperties=False,
        required=["strategy", "walks", "seed", "distinct", "unseen"],
        properties=_SAMPLE,
    ),
    "seconds": _told("wall time; with `--timing` only", type="number", minimum=0),
}  # fmt: skip

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "mmlitmus check --json",
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in _ROW if name not in ("stateful", "sample", "seconds")],
        "properties": _ROW,
    },
}


def dump(rows: Sequence[Row], *, timing: bool = False) -> str:
    """The rows as JSON, one object after the other, indented for people."""
    return json.dumps([row.as_json(timing) for row in rows], indent=2, ensure_ascii=False)


def document() -> str:
    """docs/json.md."""
    from . import guptable, reviewjson, scalejson, schemas

    lines = [
        "<!-- made by `python -m mmlitmus.report.jsonout`; a test compares -->",
        "# `mmlitmus check --json`",
        "",
        "A list of objects, one a case and kernel, in the order of the table. The same command gives the same bytes,",
        "whatever `-j`, unless `--timing` is given. A row that could not be made (a file that does not import, an",
        "unknown kernel) is not in the list: it is a line on standard error, and the exit status is 2.",
        "",
        "Exit status: 0 every row is `ok`; 1 a surprise, or a finding where nothing was expected; 2 wrong use, or a",
        "row that could not be made; 3 nothing of that, but a search did not see everything, or no execution came to",
        "its end; 4 nothing of that, but a row is `not-modelled`.",
        "",
        *_fields(_ROW),
        "",
        "## `violations`",
        "",
        *_fields(_VIOLATION["properties"]),
        "",
        "## `notes`",
        "",
        *_fields(_NOTE["properties"]),
        "",
        "## `stateful`",
        "",
        *_fields(_STATEFUL),
        "",
        "## `sample`",
        "",
        "`depth`, `tasks`, `events`, `longest` and `bound` are PCT's.",
        "",
        *_fields(_SAMPLE),
        "",
        "## As JSON Schema",
        "",
        "```json",
        json.dumps(SCHEMA, indent=1),
        "```",
        *reviewjson.section(),
        *guptable.section(),
        *scalejson.section(),
        *schemas.section(),
    ]
    return "\n".join(lines) + "\n"


def _fields(properties: dict[str, Any]) -> list[str]:
    rows = [f"| `{name}` | {_type(told)} | {told['description']} |" for name, told in properties.items()]
    return ["| field | type | meaning |", "|---|---|---|", *rows]


def _type(told: dict[str, Any]) -> str:
    if "enum" in told:
        return "string or null" if None in told["enum"] else "string"
    kind = told["type"]
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if text == "array":
        text += f" of {told['items']['type']}s"
    return text


if __name__ == "__main__":
    print(document(), end="")
