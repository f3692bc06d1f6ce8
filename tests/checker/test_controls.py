"""Every case that is shipped has been seen to fail, or another one that asks the same has, or it says why not."""

import pytest

from mmlitmus.checker.load import select

CASES = {case.id: case for case in select([]).cases}
NEVER = {id: case for id, case in CASES.items() if not case.fails}


def faults(case, cases):
    """What is wrong with a case's control, one line each."""
    other = cases.get(case.control)
    if case.fails:
        return []
    if not case.control:
        return ["it fails nowhere, and has no control"]
    if case.uncontrolled:
        return [] if len(case.control.split()) >= 8 else ["the reason says nothing"]
    if other is None:
        return [f"there is no case {case.control}"]
    if not other.fails:
        return [f"{other.id} fails nowhere either"]
    found = {name for answer in other.expect.values() for name in answer.names}
    if case.asks and not found & set(case.asks):
        return [f"{other.id} finds {', '.join(sorted(found))}, and {case.id} asks about none of these"]
    return []


@pytest.mark.parametrize("id", CASES)
def test_a_case_that_never_fails_has_a_control_that_does(id):
    assert faults(CASES[id], CASES) == []


def test_controls_speak_of_most_cases_that_never_fail():
    """A sentence is for what cannot be broken: if most were sentences, nothing would be shown."""
    assert len(NEVER) > 50
    assert sum(bool(case.uncontrolled) for case in NEVER.values()) < len(NEVER) / 10


@pytest.mark.parametrize(
    ("control", "asks", "complaint"),
    [
        ("", (), "no control"),
        ("It is so.", (), "says nothing"),
        ("vfio/nothing", (), "no case"),
        ("gup/fork", (), "fails nowhere either"),
        ("gup/fork/get", ("use-after-free VmArea",), "asks about none"),
    ],
)
def test_what_the_rule_finds(control, asks, complaint):
    from dataclasses import replace

    (fault,) = faults(replace(CASES["gup/fork"], control=control, asks=asks), CASES)
    assert complaint in fault
