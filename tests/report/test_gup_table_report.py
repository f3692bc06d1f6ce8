"""The table as JSON and HTML: what the schema says, and a page that needs nothing else."""

import re
from html.parser import HTMLParser

import pytest

from mmlitmus.guptable.mappings import MAPPINGS
from mmlitmus.guptable.paths import PATHS
from mmlitmus.guptable.run import table
from mmlitmus.report import guptable as report
from mmlitmus.report.guptable import SCHEMA

VOID = {"meta", "br"}


@pytest.fixture(scope="module")
def cells():
    rows = ["anon-zero", "mixed-ram-shared", "mixed-reserved-shared", "page-cma", "fault-page", "file-shared"]
    few = list(table(["deb-5.10.262", "v6.12 CMA"], ["x86-64", "arm"], rows, PATHS))
    assert {one.answer for one in few} >= {"zero page", "slot left", "oops", "never returns", "not modelled"}
    return few


def valid(value, schema):
    """As much of JSON Schema as this one uses."""
    kinds = {"string": str, "array": list, "object": dict, "boolean": bool, "null": type(None)}
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert set(schema) <= {"$schema", "title", "description", "type", "enum", "items", "additionalProperties",
                           "required", "properties"}  # fmt: skip
    assert isinstance(value, tuple(kinds[name] for name in names)), (value, names)
    assert "enum" not in schema or value in schema["enum"]
    if isinstance(value, list):
        for one in value:
            valid(one, schema["items"])
    if isinstance(value, dict):
        assert set(value) == set(schema["required"]) == set(schema["properties"])
        for name, one in value.items():
            valid(one, schema["properties"][name])


def test_json_is_as_the_schema_says(cells):
    import json

    objects = json.loads(report.dump(cells))
    valid(objects, SCHEMA)
    assert len(objects) == len(cells)
    assert any(one["recorded"] and one["answer"] == "not modelled" and one["agrees"] is None for one in objects)


def test_the_schema_refuses():
    import json

    (one,) = json.loads(report.dump(list(table(["v6.12"], ["x86-64"], ["anon-zero"], ["get"]))))
    for name, value in {"answer": "perhaps", "gates": [{"gate": "x"}], "agrees": 1, "recorded": {}}.items():
        with pytest.raises(AssertionError):
            valid([{**one, name: value}], SCHEMA)


class Page(HTMLParser):
    """Are tags closed in order? Which classes, titles and cells are there?"""

    def __init__(self):
        super().__init__()
        self.open, self.classes, self.titles, self.style = [], set(), [], ""
        self.cells, self.head = 0, 0

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert not {"src", "href"} & set(attributes), "the page needs something else"
        if tag not in VOID:
            self.open.append(tag)
        self.classes |= set(attributes.get("class", "").split())
        self.cells += tag == "td"
        if tag == "td":
            self.titles.append(attributes["title"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data


def test_html(cells):
    text = report.html(cells)
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.cells == len(cells)
    assert "<script" not in text
    assert "url(" not in page.style
    assert "@import" not in page.style
    known = set(re.findall(r"\.([A-Za-z]+)", page.style))
    assert page.classes <= known, "a class that has no style"
    for one, title in zip(cells, page.titles, strict=True):
        assert title.startswith(f"{one.mapping}, {one.path}: {one.answer} ({one.why})")
    for path in PATHS:
        assert f"<span>{path}</span>" in text


def test_columns_have_letters():
    assert len(PATHS) <= len(report.KEYS)
    assert len(set(PATHS)) == len(PATHS)
    assert max(map(len, MAPPINGS)) + 2 * len(PATHS) <= report.WIDTH
