"""Rows that say the same become one row, and nothing else does."""

from dataclasses import replace

import pytest

from mmlitmus.checker.row import Row, Violation
from mmlitmus.report.fold import fold
from mmlitmus.report.table import table, totals

RELEASES = ("v1", "v2", "deb-2.5", "v3", "v4")


def row(kernel: str, traces: int = 3, **values: object) -> Row:
    return replace(Row("a/case", kernel, [], [], search="exhaustive", traces=traces, expected="never"), **values)


def kernels(rows: list[Row]) -> list[str]:
    return [one.kernel for one in fold(rows, RELEASES)]


def test_releases_that_follow_each_other() -> None:
    folded = fold([row("v1", 3), row("v2", 9), row("deb-2.5", 4), row("v3", 5)], RELEASES)
    assert [(one.kernel, one.traces) for one in folded] == [("v1 .. v3 (4)", "3-9")]


def test_equal_counts_are_one_number() -> None:
    assert [one.traces for one in fold([row(name) for name in RELEASES], RELEASES)] == ["3"]


def test_two_are_not_worth_it() -> None:
    assert kernels([row("v1"), row("v2")]) == ["v1", "v2"]


def test_a_gap_is_not_bridged() -> None:
    assert kernels([row("v1"), row("v2"), row("v3"), row("v4")]) == ["v1", "v2", "v3", "v4"]
    assert kernels([row("v1"), row("v2"), row("deb-2.5"), row("v4")]) == ["v1 .. deb-2.5 (3)", "v4"]


def test_the_order_is_that_of_the_releases() -> None:
    assert kernels([row("deb-2.5"), row("v2"), row("v1")]) == ["deb-2.5", "v2", "v1"]


@pytest.mark.parametrize(
    "values",
    [
        {"case": "another/case"},
        {"patches": ["a-patch"]},
        {"config": ["lockdep"]},
        {"search": "bounded(5 executions)"},
        {"result": "not-seen"},
        {"ok": False},
        {"expected": None},
        {"unreached": ["a place"]},
        {"result": "always", "violations": [Violation("invariant", "bad", "", "always", None)]},
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_is_different_stands_alone(values: dict[str, object]) -> None:
    rows = [row("v1"), row("v2"), row("deb-2.5"), row("v3", **values), row("v4")]
    different = rows[3].spec
    assert kernels(rows) == ["v1 .. deb-2.5 (3)", different, "v4"]


def test_surprises_are_never_joined() -> None:
    rows = [row(name, result="always", ok=False, agrees=False) for name in RELEASES]
    assert kernels(rows) == list(RELEASES)


def test_patches_stand_behind_the_range() -> None:
    rows = [row(name, patches=["a-patch"], config=["lockdep"]) for name in RELEASES[:3]]
    assert kernels(rows) == ["v1 .. deb-2.5 +a-patch lockdep (3)"]


def test_the_table_has_a_line_a_group_and_counts_every_row() -> None:
    rows = [row(name) for name in RELEASES]
    lines = table(rows, width=80, releases=RELEASES)
    assert [line.split() for line in lines[1:]] == [
        ["a/case", "v1", "..", "v4", "(5)", "never", "exhaustive", "3", "ok"]
    ]
    assert len(table(rows, width=80)) == 6
    assert totals(rows) == "1 case x 5 kernels: 5 as expected, 0 surprises"


def test_a_long_kernel_takes_several_lines_before_the_result_does() -> None:
    rows = [
        row(
            name,
            patches=["a-patch-with-a-rather-long-name", "and-another-one"],
            result="sometimes",
            violations=[Violation("invariant", "stale-translation", "", "sometimes", None)],
            expected="sometimes stale-translation",
        )
        for name in RELEASES
    ]
    lines = table(rows, width=100, releases=RELEASES)
    assert max(map(len, lines)) <= 100
    assert any("sometimes stale-translation" in line for line in lines)
