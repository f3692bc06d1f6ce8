"""Expectations, and how kernels are spelt."""

import pytest

from mmlitmus.checker.case import Expectation, always, canonical, na, never, path_id, sometimes
from mmlitmus.checker.load import matches, may_hold
from mmlitmus.checker.row import Row, Violation


def test_texts():
    assert never.text == "never"
    assert sometimes("b", "a").text == "sometimes a, b"
    assert (sometimes("b") & always("a")).text == "always a, sometimes b"
    assert na("because").text == "n/a"


def test_what_cannot_be_expected():
    for bad in (lambda: sometimes(), lambda: always(""), lambda: na(""), lambda: never & never):
        with pytest.raises(TypeError):
            bad()


def test_specs():
    assert canonical("v6.12 lockdep +b +a") == canonical("v6.12 +a +b lockdep") == ("v6.12", ("a", "b"), ("lockdep",))


def test_ids():
    from pathlib import Path

    assert path_id(Path("vfio/fault_vs_disable.py")) == "vfio/fault-vs-disable"
    assert matches("vfio/a", "vfio")
    assert matches("vfio/a", "vfio/")
    assert matches("vfio/a", "*/a")
    assert not matches("vfio2/a", "vfio")
    assert may_hold("vfio/a", "vfio/a/b")
    assert not may_hold("vfio/a", "vfio/b")


def judged(expectation, *modes, search="exhaustive", **more):
    row = Row("c", "v1", [], [], search=search, **{"traces": 1, **more})
    row.violations = [Violation("BUG", name, "", mode) for mode, name in modes]
    row.judge(expectation)
    return row.result, row.ok, row.status


@pytest.mark.parametrize(
    ("expectation", "modes", "search", "wanted"),
    [
        (None, [], "exhaustive", ("never", True, "ok")),
        (None, [("sometimes", "a")], "exhaustive", ("sometimes", False, "found")),
        (None, [("seen", "a")], "bounded(1)", ("seen", False, "found")),
        (None, [], "bounded(1)", ("not-seen", False, "unfinished")),
        (never, [], "bounded(1)", ("not-seen", False, "unfinished")),
        (never, [("seen", "a")], "bounded(1)", ("seen", False, "SURPRISE")),
        (never, [("sometimes", "a")], "exhaustive", ("sometimes", False, "SURPRISE")),
        (sometimes("a"), [("sometimes", "a")], "exhaustive", ("sometimes", True, "ok (expected)")),
        (sometimes("a"), [("always", "a")], "exhaustive", ("always", False, "SURPRISE")),
        (sometimes("a"), [], "exhaustive", ("never", False, "SURPRISE")),
        (sometimes("a"), [("seen", "a")], "bounded(1)", ("seen", False, "unfinished")),
        (sometimes("a"), [("sometimes", "a"), ("sometimes", "b")], "exhaustive", ("sometimes", False, "SURPRISE")),
        (always("a") & sometimes("b"), [("always", "a"), ("sometimes", "b")], "exhaustive",
         ("always", True, "ok (expected)")),
        (na("x"), [], "exhaustive", ("never", False, "SURPRISE")),
    ],
)  # fmt: skip
def test_verdicts(expectation: Expectation | None, modes, search, wanted):
    assert judged(expectation, *modes, search=search) == wanted


def test_nothing_that_came_to_its_end_is_no_answer():
    """An endless loop, say: nothing was seen, because there was nothing to see."""
    assert judged(None, search="bounded(5000 events in one execution)", traces=0) == ("not-seen", False, "unfinished")
    assert judged(None, traces=0) == ("never", False, "unfinished")
    assert judged(never, traces=0) == ("never", False, "unfinished")


def test_of_an_inversion_it_does_not_count_how_often():
    name = "inversion a -> b -> a"
    assert judged(sometimes(name), ("always", name)) == ("always", True, "ok (expected)")
    assert judged(always(name), ("sometimes", name)) == ("sometimes", True, "ok (expected)")
    assert judged(sometimes(name), ("always", "inversion a -> a")) == ("always", False, "SURPRISE")


def test_not_applicable():
    assert judged(na("x"), result="n/a") == ("n/a", True, "ok")
    assert judged(None, result="n/a") == ("n/a", True, "ok")
    assert judged(never, result="n/a") == ("n/a", False, "SURPRISE")


def declared(**words):
    """A case of this module's, taken out of the list of its cases again."""
    from mmlitmus.checker.case import REGISTRY, case

    try:
        return case("toy/one", **words)(lambda m: None)
    finally:
        globals().pop(REGISTRY, None)


@pytest.mark.parametrize("control", ["", "toy/two", "Nobody can break it, for it asks nothing."])
def test_a_control_is_an_id_or_a_sentence(control):
    made = declared(control=control, expect={"v6.12": never, "v6.1": na("no such thing")})
    assert not made.fails
    assert made.uncontrolled == (control if " " in control else "")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"control": "because it is so"}, "ends with a period"),
        ({"control": "toy/two\ntoy/three"}, "ends with a period"),
        ({"control": 1}, "is a string"),
        ({"control": "toy/one"}, "is this case"),
        ({"control": "No patch does it.", "expect": {"v6.12 +a": sometimes("use-after-free VmArea")}}, "where it does"),
    ],
)
def test_what_is_no_control(words, complaint):
    with pytest.raises(TypeError, match=complaint):
        declared(**words)


def test_a_case_that_fails_somewhere_is_its_own_control():
    assert declared(expect={"v6.12": never, "v6.12 +a": always("use-after-free VmArea")}).fails
