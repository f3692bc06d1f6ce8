"""The ledgers themselves: complete, at one with each other and with the cases, and carried by what is run today."""

import re

import pytest

from mmlitmus.api import always, na, never, sometimes
from mmlitmus.checker.case import canonical
from mmlitmus.checker.load import select as select_cases
from mmlitmus.claims import ledger
from mmlitmus.claims.claim import Claim, Support, says
from mmlitmus.claims.run import Plan, find

CLAIMS = ledger.every()
IDS = [one.id for one in CLAIMS]
SUPPORTS = [(claim.id, one) for claim in CLAIMS for one in claim.rows]


@pytest.fixture(scope="module")
def outcomes():
    """Every claim's outcome, from one run."""
    plan = Plan(CLAIMS)
    return {one.claim.id: one for one in plan.judge(plan.run())}


@pytest.mark.parametrize("id", [one.id for one in CLAIMS if one.settled_by])
def test_the_results_carry_the_verdict(outcomes, id):
    assert [f"{s.support.case} on {s.support.kernel}: {s.result}" for s in outcomes[id].said if not s.ok] == []
    assert outcomes[id].supported is True


@pytest.mark.parametrize("id", [one.id for one in CLAIMS if not one.settled_by])
def test_no_case_for_a_stated_reason(outcomes, id):
    assert outcomes[id].supported is None
    assert outcomes[id].claim.no_case


def test_ids_are_complete_and_in_order():
    last = {"000": 43, "001": 25, "004": 24}
    threads = [[f"C{thread}-{n:02}" for n in range(1, count + 1)] for thread, count in last.items()]
    wanted = [id for ids in (*threads, (f"N{n}" for n in range(1, 10))) for id in ids]
    assert wanted == IDS


def test_threads():
    told = {"C000": "000", "C001": "001", "C004": "004"}
    assert all(one.thread == told.get(one.id.split("-")[0], "own") for one in CLAIMS)
    assert {one.thread for one in CLAIMS} == set(ledger.THREADS)


def test_every_verdict_is_given():
    assert {one.verdict for one in CLAIMS} == {"holds", "fails", "depends", "proposal", "undecided"}


def test_no_two_claims_rest_on_different_answers():
    told = {}
    for id, one in SUPPORTS:
        key = (one.case, canonical(one.kernel))
        assert told.setdefault(key, one.answer) == one.answer, f"{id}: {one.case} on {one.kernel}"


def test_a_claim_is_settled_by_the_design_that_it_names():
    """(That each result is of one that is named, and that each is met, the row itself looks after.)"""
    silent = [
        f"{claim.id}: {one.kernel}"
        for claim in CLAIMS
        for one in claim.settled_by
        if "+" in one.kernel and not claim.design and claim.thread != "own"
    ]
    assert silent == []


def test_claims_that_cases_name_exist():
    cases = select_cases([])
    assert not cases.errors
    assert [f"{case.id}: {id}" for case in cases.cases for id in case.claims if id not in IDS] == []


def test_a_never_is_one_that_the_case_asks_for():
    """``reach`` is looked at on kernels of which the case expects something: elsewhere never may be an empty never."""
    free = []
    for id, one in SUPPORTS:
        case = find(one.case)
        if not one.answer.answers and not isinstance(case, str) and case.reach and case.expected(one.kernel) is None:
            free.append(f"{id}: {one.case} on {one.kernel}")
    assert free == []


def test_sources_are_dates_or_say_that_there_is_none():
    for one in CLAIMS:
        assert re.match(r"20\d\d\b|same thread, date not known$|derived from source$", one.source), one.id


def test_a_claim_that_another_is_referred_to_exists():
    for one in CLAIMS:
        text = " ".join((one.claim, one.because, one.correction, one.detail, one.reason))
        assert {*re.findall(r"\b(?:C00\d-\d\d|N\d)\b", text)} <= set(IDS), one.id


# ---------------------------------------------------------------- a row that does not say what it must


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reason": ""}, "it takes the results that settle it, or else the reason"),
        ({"settled_by": says("a", never, "v1"), "reason": "history"}, "it takes the results that settle it, or else"),
        ({"settled_by": says("a", never, "v1", "v1")}, "names a on v1 twice"),
        ({"settled_by": says("a", never, "v1 +x"), "design": ("y",)}, "a on v1 +x is of another design than y"),
        ({"settled_by": says("a", never, "v1 +x"), "design": ("x", "y")}, "no result is of y"),
        ({"settled_by": says("a", never, "v1"), "beside": says("a", never, "v2")}, "something stands beside a design"),
        ({"verdict": "true"}, "the verdict is 'true'; it is one of holds, fails, depends, proposal, undecided"),
        ({"verdict": "depends"}, "'on' goes with the verdict 'depends'"),
        ({"verdict": "proposal"}, "'fate' goes with the verdict 'proposal'"),
        ({"verdict": "undecided"}, "'why' goes with the verdict 'undecided'"),
        ({"on": "the release"}, "'on' goes with the verdict 'depends', and only with it"),
        ({"because": ""}, "no because"),
        ({"source": ""}, "no source"),
        ({"claim": ""}, "no claim"),
    ],
    ids=lambda x: x[:30] if isinstance(x, str) else "",
)
def test_bad_rows(make, fields, message):
    with pytest.raises(ValueError, match=f"'T-1': {re.escape(message)}"):
        make(**fields)


def test_good_rows(make):
    assert make().no_case == "history"
    assert make(settled_by=says("a", sometimes("x"), "v1", "v2")).no_case == ""
    assert make(verdict="depends", on="the release").detail == "the release"
    undecided = make(verdict="undecided", why="it is a matter of taste")
    assert undecided.detail == undecided.no_case == "it is a matter of taste"


@pytest.mark.parametrize("answer", [na("no path"), "never", None])
def test_an_answer_is_never_sometimes_or_always(answer):
    with pytest.raises(TypeError, match="a on v1: an answer is never"):
        Support("a", "v1", answer)


def test_says_takes_a_kernel():
    assert [one.kernel for one in says("a", always("x"), "v1", "v2")] == ["v1", "v2"]
    with pytest.raises(TypeError, match="a: on which kernel"):
        says("a", never)


def test_select():
    assert [one.id for one in ledger.select(["c000-02", "N1", "C000-01", "C000-02"])] == ["C000-01", "C000-02", "N1"]
    assert [one.thread for one in ledger.select(["own", "N3"])] == ["own"] * 9
    assert ledger.select([]) == list(CLAIMS)
    with pytest.raises(ledger.UnknownClaim, match="there is no thread or claim 'C000'"):
        ledger.select(["000", "C000"])


def test_claims_are_data():
    assert all(isinstance(one, Claim) for one in CLAIMS)
    with pytest.raises(AttributeError):
        CLAIMS[0].verdict = "fails"
