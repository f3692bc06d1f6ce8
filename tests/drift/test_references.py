"""The grammar of sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from .references import Range, Reference, ReferenceSyntaxError, clauses, collect, leading, own, parse_range, sources

OLD, NEW = (5, 10), (6, 12)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("6.12", [NEW], [OLD, (6, 1), (7, 3)]),
        ("to 6.1", [OLD, (6, 1)], [NEW]),
        ("from 6.2", [NEW, (7, 3)], [OLD, (6, 1)]),
        ("5.10 - 6.1", [OLD, (6, 1)], [NEW]),
        ("5.10, from 6.16", [OLD, (7, 3)], [NEW]),
    ],
)
def test_ranges(text: str, inside: list[tuple[int, int]], outside: list[tuple[int, int]]) -> None:
    found = parse_range(text)
    assert found is not None
    assert all(one in found for one in inside)
    assert not any(one in found for one in outside)


@pytest.mark.parametrize("text", ["to6.12", "until 6.12", "6", "to 6.1 - 6.12", "abafbc551fdd"])
def test_no_ranges(text: str) -> None:
    assert parse_range(text) is None


def reference(file: str, *names: str, range: str = "", same_name: bool = False) -> Reference:
    return Reference(file, names, parse_range(range) or Range() if range else Range(), same_name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mm/mremap.c sys_mremap, v5.10", [reference("mm/mremap.c", "sys_mremap")]),
        ("mm/a.c one, two and three()", [reference("mm/a.c", "one", "two", "three")]),
        ("mm/a.c one, mm/b.h two (6.1)", [reference("mm/a.c", "one"), reference("mm/b.h", "two", range="6.1")]),
        (
            "mm/a.c one (to 6.1), two (from 6.12)",
            [reference("mm/a.c", "one", range="to 6.1"), reference("mm/a.c", "two", range="from 6.12")],
        ),
        ("mm/a.c, 6.1.192, 6.12.117", [reference("mm/a.c")]),
        ("mm/a.c one, v5.10 - v6.8", [reference("mm/a.c", "one")]),
        ("mm/a.c one (bit order; see there)", [reference("mm/a.c", "one")]),
        (
            "mm/a.c, mm/b.c, functions of the same name",
            [reference("mm/a.c", same_name=True), reference("mm/b.c", same_name=True)],
        ),
        ("none (to 6.1); mm/a.c one", [reference("", range="to 6.1"), reference("mm/a.c", "one")]),
        ("none", [reference("")]),
        ("35e351780fa9 'fork: something'; recorded: 7.3.4", []),
        ("the mails of May 2024", []),
    ],
)
def test_clauses(text: str, expected: list[Reference]) -> None:
    assert clauses(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "mm/a.c one (to 6.1 or so)",
        "mm/a.c one which does it",
        "mm/a.c one.two",
        "mm/a.c {one,two}",
        "mm/a.c one (until 6.12)",
        "none (for 6.1)",
    ],
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(ReferenceSyntaxError):
        clauses(text)


def test_a_source_ends_with_its_sentence_or_paragraph() -> None:
    text = (
        "Does it.\n\nSource: mm/a.c one (6.1),\nmm/b.c two. And this is prose.\n\nMore. Source:\nmm/c.c three\n\nnone"
    )
    assert [(one.file, one.names) for one in sources(text)] == [
        ("mm/a.c", ("one",)),
        ("mm/b.c", ("two",)),
        ("mm/c.c", ("three",)),
    ]


def test_what_a_docstring_begins_with() -> None:
    assert leading("one(): does it.") == ("one",)
    assert leading("one(), two(): do it.") == ("one", "two")
    assert leading("mmap() of a file: the address.") == ()
    assert leading("Calls one(): no.") == ()


def test_the_models_own() -> None:
    assert own("Something. Of the model's own: one, Two.three and\nfour. More.") == ("one", "Two.three", "four")
    assert own("Something.") == ()


def test_what_has_to_name_a_source(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""Module. Source: mm/a.c, functions of the same name. Of the model\'s own: helper and Own."""\n'
        "def one():\n"
        '    """Its own name."""\n'
        "def helper():\n"
        '    """None."""\n'
        "def _private():\n"
        '    """None."""\n'
        '@seam.alternative("a", source="mm/b.c two", releases="all")\n'
        "def other():\n"
        '    """The decorator says it."""\n'
        "class Own:\n"
        "    def method(self):\n"
        '        """None."""\n'
        "class Device:\n"
        "    def method(self):\n"
        '        """three(): by what it begins with."""\n'
        "    def undocumented(self): ...\n"
    )
    found = collect(path, "module.py")
    assert [(t.name, t.wanted, t.alternative) for t in found.things] == [
        ("one", ("one",), None),
        ("other", (), ("seam", "a")),
        ("Device.method", ("three",), None),
    ]
    assert found.things[1].references == (reference("mm/b.c", "two"),)
    assert not found.stale
