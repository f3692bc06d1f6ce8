"""As much of JSON Schema as the schemas here use; AssertionError where a value is not as its schema says."""

from __future__ import annotations

from typing import Any

KNOWN = {"$schema", "title", "description", "type", "enum", "minimum", "items", "properties", "required",
         "additionalProperties"}  # fmt: skip
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "array": list,
         "object": dict}  # fmt: skip


def valid(value: Any, schema: dict[str, Any], at: str = "$") -> None:
    """Hold a value to a schema."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "type" in schema:
        kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        right = [k for k in kinds if isinstance(value, TYPES[k]) and not (k == "integer" and isinstance(value, bool))]
        assert right, (at, value, kinds)
    if "enum" in schema:
        assert value in schema["enum"], (at, value)
    if "minimum" in schema:
        assert value >= schema["minimum"], (at, value)
    if isinstance(value, list):
        for n, one in enumerate(value):
            valid(one, schema.get("items", {}), f"{at}[{n}]")
    if isinstance(value, dict):
        missing = set(schema.get("required", ())) - set(value)
        assert not missing, (at, missing)
        for name, one in value.items():
            more = schema.get("additionalProperties", {})
            known = schema.get("properties", {})
            assert name in known or more is not False, (at, name)
            valid(one, known.get(name, more), f"{at}.{name}")
