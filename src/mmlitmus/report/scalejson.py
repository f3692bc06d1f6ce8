"""``mmlitmus scale ... --json``: one object, and what each field of it means."""

from __future__ import annotations

from typing import Any

from mmlitmus.scale.counts import COUNTS

_COUNT = {"type": "integer", "minimum": 0}

_RUN: dict[str, dict[str, Any]] = {
    "what": {"description": "`guest` or `bar`", "type": "string", "enum": ["guest", "bar"]},
    "kernel": {"description": "the kernel, as `--kernel` had it", "type": "string"},
    "size": {"description": "the guest's memory, or the BAR: bytes", **_COUNT},
    "huge": {"description": "of a guest: do untouched blocks of 2M get huge pages?", "type": "boolean"},
    "touched": {"description": "of a guest: had it written to its memory before?", "type": "boolean"},
    "limit": {"description": "of a guest: RLIMIT_MEMLOCK in pages; null: none", "type": ["integer", "null"]},
    "leaf": {"description": "of a BAR: `4K`, `PMD` or `PUD`", "type": "string", "enum": ["4K", "PMD", "PUD"]},
    "locked_vm": {"description": "pages accounted to the process once its memory was mapped for the device", **_COUNT},
    "translations": {
        "description": "leaves of each size (`4K`, `2M`, `1G`) that were there when all was mapped",
        "type": "object",
        "additionalProperties": _COUNT,
    },
    "steps": {"description": "what was done, in order: see below", "type": "array", "items": {"type": "object"}},
    "findings": {
        "description": "what the kernel's functions found wrong, by name; then the exit status is 1",
        "type": "array",
        "items": {"type": "string"},
    },
}

_STEP: dict[str, dict[str, Any]] = {
    "step": {
        "description": "of a guest: `touch` (with `--touched`), `map_dma`, `unmap_dma`, `munmap`; of a BAR: `touch`, "
        "`disable`, `enable`, `touch_again`, `munmap`",
        "type": "string",
    },
    "result": {
        "description": "0, or bytes, as the kernel says; a negative errno; a signal's name",
        "type": ["integer", "string"],
    },
    "counts": {
        "description": "how often what happened in the step; what did not happen is left out",
        "type": "object",
        "additionalProperties": _COUNT,
    },
    "seconds": {"description": "CPU time; with `--timing` only", "type": "number", "minimum": 0},
}

_STEP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["step", "result", "counts"],
    "properties": {
        **_STEP,
        "counts": {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: {"description": about, **_COUNT} for name, about in COUNTS.items()},
        },
    },
}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "mmlitmus scale --json",
    "type": "object",
    "additionalProperties": False,
    "required": ["what", "kernel", "size", "locked_vm", "translations", "steps", "findings"],
    "properties": {**_RUN, "steps": {"type": "array", "items": _STEP_SCHEMA}},
}


def section() -> list[str]:
    """What docs/json.md says of it."""
    return [
        "",
        "## `mmlitmus scale --json`",
        "",
        "One object; the same command gives the same bytes, unless `--timing` is given.",
        "",
        *_table(_RUN),
        "",
        "Each of `steps`:",
        "",
        *_table(_STEP),
        "",
        "`counts`:",
        "",
        "| count | meaning |",
        "|---|---|",
        *(f"| `{name}` | {about} |" for name, about in COUNTS.items()),
    ]


def _table(fields: dict[str, dict[str, Any]]) -> list[str]:
    rows = []
    for name, told in fields.items():
        kind = told["type"] if isinstance(told["type"], str) else " or ".join(told["type"])
        rows.append(f"| `{name}` | {kind} | {told['description']} |")
    return ["| field | type | meaning |", "|---|---|---|", *rows]
