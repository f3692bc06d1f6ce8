"""``claims``, ``kills``, ``coverage`` and ``conform --json``: what each of them prints, as JSON Schema."""

from __future__ import annotations

import json
from typing import Any

from mmlitmus.conform.kill import KILLED, REASONS

from .claims import FIELDS

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": "string"}
_MAYBE = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_FLAG = {"type": "boolean"}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _by_name(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values}


_CLAIM: dict[str, dict[str, Any]] = {
    "id": _TEXT, "thread": _TEXT, "claim": _TEXT, "source": _TEXT, "correction": _MAYBE,
    "verdict": {"type": "string", "enum": ["holds", "fails", "depends", "proposal", "undecided"]},
    "detail": _MAYBE, "because": _TEXT, "design": _list(_TEXT),
    "cases": _list(
        _object({"case": _TEXT, "kernel": _TEXT, "expected": _TEXT, "result": _TEXT, "ok": _FLAG, "settles": _FLAG})
    ),
    "reason": _MAYBE, "supported": {"type": ["boolean", "null"]},
}  # fmt: skip
_FLIP = {
    "kernel": _TEXT, "seam": _TEXT, "alternative": _TEXT, "verdict": {"type": "string", "enum": [KILLED, *REASONS]},
    "killer": _MAYBE, "how": _MAYBE, "why": _MAYBE, "asked": _COUNT,
}  # fmt: skip
_COVERED = {"programs": _COUNT, "classes": _by_name(_COUNT), "rare": _by_name(_COUNT), "unnamed": _list(_TEXT)}
_VERDICTS = dict.fromkeys(("agreed", "explained", "excluded", "unobserved", "unexplained"), _COUNT)
_DIFFERENCE = {
    "program": _TEXT, "programs": _COUNT, "shrunk": _FLAG, "reproducer": _TEXT, "steps": _list(_TEXT),
    "fields": _list(_object({"step": {"type": "integer"}, "field": _TEXT, "place": _TEXT, "kernel": {}, "model": {}})),
}  # fmt: skip
_CAMPAIGN = {
    "model": _TEXT, "programs": _COUNT, "operations": _COUNT, "fields": _COUNT, **_VERDICTS,
    "by_operation": _by_name(_object({"operations": _COUNT, **_VERDICTS})), "explained_by": _by_name(_list(_TEXT)),
    "died": _by_name(_COUNT), "not_compared": _by_name(_MAYBE),
    "differences": _list(_object(_DIFFERENCE, ("reproducer",))),
}  # fmt: skip

_BY_VERB: dict[str, dict[str, Any]] = {
    "claims": _list(_object({name: {"description": FIELDS[name], **kind} for name, kind in _CLAIM.items()})),
    "kills": _list(_object(_FLIP)),
    "coverage": _by_name(_object(_COVERED)),
    "conform": _by_name(_object(_CAMPAIGN)),
}
#: by verb
SCHEMAS = {verb: {"$schema": _DRAFT, "title": f"mmlitmus {verb} --json", **one} for verb, one in _BY_VERB.items()}
#: what an object of each is
_ABOUT = {
    "claims": "A list of objects, one a claim; docs/claims.md tells the fields.",
    "kills": "A list of objects, one a flip; `killer` is the program that notices it, `how` the field that differs.",
    "coverage": "An object by kernel: classes are operation, kind of mapping and outcome, with how often each came.",
    "conform": "An object by kernel: how many fields agree, what explains the others, and each kind of difference.",
}


def section() -> list[str]:
    """What docs/json.md says of them."""
    lines = []
    for verb, schema in SCHEMAS.items():
        text = json.dumps(schema, indent=1)
        lines += ["", f"## `mmlitmus {verb} --json`", "", _ABOUT[verb], "", "```json", text, "```"]
    return lines
