"""``mmlitmus claims``: what it runs, what it says, and when it does not believe the ledger."""

import json
import signal

import pytest

from mmlitmus.api import always, never, sometimes
from mmlitmus.checker.row import Row
from mmlitmus.claims import run as running
from mmlitmus.claims.claim import says
from mmlitmus.claims.run import Plan
from mmlitmus.report.claims import FIELDS, WIDTH
from mmlitmus.report.schemas import SCHEMAS
from schema_check import valid

RACE = "vfio/fault-vs-disable"
STALE = sometimes("stale-translation")


def judged(*claims):
    plan = Plan(claims)
    return plan.judge(plan.run())


def test_supported(toys, put, make, run):
    """By what the case says, and not by what it expects: v1's expectation is wrong."""
    put(make(settled_by=(*says(RACE, STALE, "v1", "v3 +check-early"), *says(RACE, never, "v2"))))
    code, out, err = run("claims")
    assert (code, err) == (0, "")
    assert out == """\
Thread toy: a thread of toys

T-1  holds  (2024-01-01)
    It races.
    Because: It does.
    - vfio/fault-vs-disable on v1: sometimes stale-translation
    - vfio/fault-vs-disable on v3 +check-early: sometimes stale-translation
    - vfio/fault-vs-disable on v2: never

1 claim: 1 holds; 1 supported, 0 not supported, 0 without a case
"""


def test_everything_that_a_row_may_say(toys, put, make, run):
    put(
        make(
            id="T-1", verdict="depends", on="the lock", correction="it was taken back",
            settled_by=says(RACE, never, "v2"),
        ),
        make(id="T-2", verdict="proposal", fate="not merged"),
        make(id="T-3", verdict="undecided", why="a matter of taste"),
        make(id="T-4", verdict="fails", settled_by=says(RACE, never, "v2")),
    )  # fmt: skip
    code, out, _ = run("claims", "toy")
    assert code == 0
    assert out == """\
Thread toy: a thread of toys

T-1  depends  (2024-01-01)
    It races.
    Corrected: it was taken back
    Depends on: the lock
    Because: It does.
    - vfio/fault-vs-disable on v2: never

T-2  proposal  (2024-01-01)
    It races.
    Fate: not merged
    Because: It does.
    No case: history

T-3  undecided  (2024-01-01)
    It races.
    Undecided: a matter of taste
    Because: It does.

T-4  fails  (2024-01-01)
    It races.
    Because: It does.
    - vfio/fault-vs-disable on v2: never

4 claims: 1 fails, 1 depends, 1 proposal, 1 undecided; 2 supported, 0 not
  supported, 2 without a case
"""


@pytest.mark.parametrize(
    ("support", "result"),
    [
        (says(RACE, never, "v1"), "sometimes stale-translation"),
        (says(RACE, always("stale-translation"), "v1"), "sometimes stale-translation"),
        (says(RACE, sometimes("stale-translation", "another"), "v1"), "sometimes stale-translation"),
        (says(RACE, STALE, "v2"), "never"),
        (says(RACE, never, "v3"), "n/a (nobody asks there)"),
        (says(RACE, never, "v1 +check-early"), "n/a (check-early needs the lock of v2)"),
        (says(RACE, never, "v9"), "no such kernel: there is no release 'v9': they are v1, v2, v3"),
        (says(RACE + "/nobody", never, "v2"), "never, never reached: the moon"),
        (says("vfio/gone", never, "v2"), "case missing"),
        (says(RACE + "/gone", never, "v2"), "case missing"),
        (says("vfio", never, "v2"), "case missing"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_not_supported(toys, put, make, run, support, result):
    """A wrong answer, an unusable one or none: the claim is marked, and the exit status is 1."""
    put(make(settled_by=(*says(RACE, never, "v2 slow"), *support)))
    code, out, _ = run("claims")
    assert code == 1
    assert "T-1  holds  NOT SUPPORTED  (2024-01-01)\n" in out
    text = " ".join(out.split())
    said = f"! {support[0].case} on {support[0].kernel}: {result}; the ledger says {support[0].answer.text}"
    assert said in text
    assert "0 supported, 1 not supported" in text
    (row,) = json.loads(run("claims", "--json")[1])
    assert row["supported"] is False
    assert [one["ok"] for one in row["cases"]] == [True, False]


def test_a_case_that_raises(toys, make):
    (outcome,) = judged(make(settled_by=says(RACE + "/raises", always("raised AttributeError"), "v2")))
    assert outcome.supported is False


def test_a_file_that_does_not_import(toys, make):
    (outcome,) = judged(make(settled_by=says("vfio/broken", never, "v2")))
    assert outcome.supported is False
    assert "broken.py:1: SyntaxError" in outcome.said[0].result


def test_a_case_that_does_not_build(toys, make):
    (toys / "vfio" / "unbuilt.py").write_text("from mmlitmus.api import case\n@case()\ndef a(m):\n    1 / 0\n")
    (outcome,) = judged(make(settled_by=says("vfio/unbuilt", never, "v2")))
    assert outcome.supported is False
    assert "could not be run: " in outcome.said[0].result


def test_a_search_that_did_not_finish_settles_nothing(make):
    support = says("a", never, "v1")[0]
    row = Row("a", "v1", [], [], result="never", search="bounded(100 executions)")
    assert not running._judge(support, row).ok
    assert running._judge(support, Row("a", "v1", [], [], result="never", search="exhaustive")).ok


def test_shared_rows_are_run_once(toys, make):
    one = make(id="T-1", settled_by=says(RACE, STALE, "v3 +check-early slow", "v1"))
    two = make(id="T-2", settled_by=(*says(RACE, STALE, "v3 slow +check-early"), *says(RACE, never, "v2")))
    plan = Plan([one, two])
    assert [job.spec for job in plan.jobs] == ["v3 +check-early slow", "v1", "v2"]
    assert [o.supported for o in plan.judge(plan.run())] == [True, True]


def test_processes_make_no_difference(toys, put, make, run):
    put(make(settled_by=(*says(RACE, STALE, "v1"), *says(RACE, never, "v2"))), make(id="T-2"))
    assert run("claims") == run("claims", "-j", "2")


def test_interrupted(toys, put, make, run, monkeypatch):
    put(make(settled_by=says(RACE, never, "v2")))
    monkeypatch.setattr("mmlitmus.checker.many.run", lambda *a: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    answer = run("claims")
    signal.signal(signal.SIGINT, before)
    assert answer == (130, "", "mmlitmus: interrupted: 1 of 1 results were not run\n")


def test_json(toys, put, make, run):
    put(
        make(verdict="depends", on="the lock", correction="no", settled_by=says(RACE, STALE, "v1")),
        make(id="T-2"),
        make(id="T-3", verdict="undecided", why="a matter of taste"),
    )
    code, out, err = run("claims", "--json")
    assert (code, err) == (0, "")
    valid(json.loads(out), SCHEMAS["claims"])
    one, two, three = json.loads(out)
    assert one == {
        "id": "T-1", "thread": "toy", "claim": "It races.", "source": "2024-01-01", "correction": "no",
        "verdict": "depends", "detail": "the lock", "because": "It does.",
        "design": [],
        "cases": [
            {
                "case": RACE, "kernel": "v1", "expected": "sometimes stale-translation",
                "result": "sometimes stale-translation", "ok": True, "settles": True,
            }
        ],
        "reason": None, "supported": True,
    }  # fmt: skip
    assert list(one) == list(FIELDS)
    assert (two["cases"], two["reason"], two["supported"], two["detail"]) == ([], "history", None, None)
    assert (three["reason"], three["detail"]) == ("a matter of taste", "a matter of taste")


def test_by_case(toys, put, make, run):
    put(
        make(id="T-1", settled_by=(*says(RACE, STALE, "v1"), *says("vfio/another", never, "v1"))),
        make(id="T-2", settled_by=(*says(RACE, STALE, "v1"), *says(RACE, never, "v2"))),
    )
    assert run("claims", "--cases") == (0, """\
vfio/another
  v1: never (T-1)
vfio/fault-vs-disable
  v1: sometimes stale-translation (T-1, T-2)
  v2: never (T-2)
""", "")  # fmt: skip


@pytest.mark.parametrize(
    "args", [["claims", "--json", "--cases"], ["claims", "-j", "0"], ["claims", "--nonsense"]], ids=" ".join
)
def test_wrong_use(run, args):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: mmlitmus claims")


@pytest.mark.parametrize("word", ["C000-99", "005", "vfio"])
def test_unknown(run, word):
    runs = (
        "the threads are 000 (C000-01 to C000-43), 001 (C001-01 to C001-25), 004 (C004-01 to C004-24), own (N1 to N9)"
    )
    assert run("claims", "004", word) == (2, "", f"mmlitmus: there is no thread or claim {word!r}: {runs}\n")


def test_lines_fit_a_terminal(run):
    for args in ([], ["--cases"]):
        _, out, _ = run("claims", *args)
        assert max(len(line) for line in out.splitlines()) <= WIDTH == 80
