"""``mmlitmus review --json``: a list of comparisons, and what each field of one means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmlitmus.checker.review import CHANGES, SAME, Change

_COMPARISON: dict[str, dict[str, Any]] = {
    "case": {"description": "the case's id", "type": "string"},
    "kernel": {"description": "the kernel without the patches, as tables print it", "type": "string"},
    "patches": {
        "description": "the patches that `to` has more, by name; empty with `--from` and `--to`",
        "type": "array",
        "items": {"type": "string"},
    },
    "to": {"description": "the kernel with the patches; with `--to`, that one", "type": "string"},
    "before": {"description": "the result on `kernel`, in the table's words", "type": "string"},
    "after": {"description": "the result on `to`, in the table's words", "type": "string"},
    "change": {
        "description": "`fixed`: findings before, `never` after; `broken`: the other way round; `changed`: different "
        "in another way; `same`: with `--all` only",
        "type": "string",
        "enum": list(CHANGES),
    },
    "expected": {
        "description": "what the case expects of `to`; null when it expects nothing",
        "type": ["string", "null"],
    },
}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "mmlitmus review --json",
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": list(_COMPARISON),
        "properties": _COMPARISON,
    },
}


def dump(made: Sequence[Change], *, everything: bool = False) -> str:
    """The comparisons as JSON, indented for people. ``everything``: with those that are the same."""
    return json.dumps([_as_json(one) for one in made if everything or one.change != SAME], indent=2, ensure_ascii=False)


def _as_json(one: Change) -> dict[str, Any]:
    return {
        "case": one.pair.case.id,
        "kernel": one.pair.base,
        "patches": list(one.pair.patches),
        "to": one.pair.to,
        "before": one.before.text,
        "after": one.after.text,
        "change": one.change,
        "expected": one.after.expected,
    }


def section() -> list[str]:
    """What docs/json.md says of it."""
    rows = []
    for name, told in _COMPARISON.items():
        kind = "array of strings" if told["type"] == "array" else told["type"]
        rows.append(f"| `{name}` | {kind if isinstance(kind, str) else ' or '.join(kind)} | {told['description']} |")
    return [
        "",
        "## `mmlitmus review --json`",
        "",
        "A list of objects, one a case, kernel and set of patches: each patch alone and, where there are several, all",
        "that the kernel does not have. In the order of the table, with the same bytes whatever `-j`. Where a patch",
        "does not apply there is no object. A result that contradicts an expectation is a line on standard error, and",
        "the exit status is 1.",
        "",
        "| field | type | meaning |",
        "|---|---|---|",
        *rows,
    ]
