"""The table's layout, on rows of any shape."""

from hypothesis import given
from hypothesis import strategies as st

from mmlitmus.checker.case import never, sometimes
from mmlitmus.checker.row import Row, Violation
from mmlitmus.report.table import table, totals

WORD = st.text("abc-/_", min_size=1, max_size=30).filter(lambda w: w.strip("-/_"))


@st.composite
def rows(draw):
    row = Row(draw(WORD), draw(WORD), draw(st.lists(WORD, max_size=2)), draw(st.lists(WORD, max_size=2)))
    row.search = draw(st.sampled_from(["exhaustive", "bounded(100000 executions)"]))
    row.violations = [Violation("BUG", n, draw(WORD), "sometimes") for n in draw(st.lists(WORD, max_size=3))]
    row.traces = draw(st.integers(0, 10**6))
    row.seconds = draw(st.floats(0, 100))
    row.judge(draw(st.sampled_from([None, never, sometimes("a")])))
    return row


@given(st.lists(rows(), max_size=4), st.sampled_from([80, 100, 200]), st.booleans(), st.booleans())
def test_fits(some, width, timing, details):
    lines = table(some, width=width, timing=timing, details=details)
    assert all(len(line) <= min(width, 100) for line in lines), lines
    assert all(line == line.rstrip() for line in lines)
    squeezed = "".join("".join(lines).split())
    for row in some:
        if row.ok:
            assert row.status.replace(" ", "") in squeezed


@given(st.lists(rows(), max_size=4))
def test_totals_add_up(some):
    text = totals(some)
    assert text.startswith(f"{len({row.case for row in some})} case")


def test_totals():
    assert totals([]) == "0 cases x 0 kernels: nothing was run"
