"""The schemas of claims, kills, coverage and conform say no to what is not theirs, and are in docs/json.md."""

from pathlib import Path

import pytest

from mmlitmus.report.conform import as_json
from mmlitmus.report.schemas import SCHEMAS, section
from schema_check import valid

GOOD = {
    "kills": [{"kernel": "k", "seam": "s", "alternative": "a", "verdict": "killed", "killer": "p", "how": None,
               "why": None, "asked": 3}],
    "coverage": {"k": {"programs": 1, "classes": {"map": 2}, "rare": {}, "unnamed": ["map -EPERM"]}},
}  # fmt: skip


@pytest.mark.parametrize("verb", GOOD)
def test_it_refuses(verb):
    good = GOOD[verb]
    valid(good, SCHEMAS[verb])
    one = good[0] if isinstance(good, list) else good["k"]

    def whole(changed):
        return [changed] if isinstance(good, list) else {"k": changed}

    for name, value in one.items():
        with pytest.raises(AssertionError):
            valid(whole({other: v for other, v in one.items() if other != name}), SCHEMAS[verb])
        with pytest.raises(AssertionError):
            valid(whole({**one, name: [value] if not isinstance(value, (list, dict)) else 3}), SCHEMAS[verb])
    with pytest.raises(AssertionError):
        valid(whole({**one, "more": 1}), SCHEMAS[verb])


def test_nothing_run_is_an_empty_object():
    assert as_json([], {}) == "{}"


def test_they_are_documented():
    text = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text()
    assert "\n".join(section()) in text
