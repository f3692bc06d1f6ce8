"""``mmlitmus claims``: the ledger as text and as JSON, and the cases with the claims that rest on them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmlitmus.claims.claim import VERDICTS, Claim
from mmlitmus.claims.run import Outcome, Said

from .text import many, wrap

#: no line is longer
WIDTH = 80
_IN = "    "

_DETAIL = {"depends": "Depends on", "proposal": "Fate", "undecided": "Undecided"}
_PLURAL = {"holds": "hold", "fails": "fail", "depends": "depend", "proposal": "proposals", "undecided": "undecided"}


def text(outcomes: Sequence[Outcome], threads: Mapping[str, str]) -> list[str]:
    """The lines of the ledger, grouped by thread, and the totals."""
    lines: list[str] = []
    thread = ""
    for outcome in outcomes:
        claim = outcome.claim
        if claim.thread != thread:
            thread = claim.thread
            lines += [*wrap(f"Thread {thread}: {threads[thread]}", WIDTH, _IN), ""]
        lines += [*_claim(outcome), ""]
    return [*lines, *wrap(totals(outcomes), WIDTH)]


def _claim(outcome: Outcome) -> list[str]:
    claim = outcome.claim
    mark = "  NOT SUPPORTED" if outcome.supported is False else ""
    lines = wrap(f"{claim.id}  {claim.verdict}{mark}  ({claim.source})", WIDTH, _IN)

    def say(words: str, hang: str = _IN) -> None:
        lines.extend(wrap(_IN + words, WIDTH, hang))

    say(claim.claim)
    if claim.correction:
        say(f"Corrected: {claim.correction}")
    if claim.detail:
        say(f"{_DETAIL[claim.verdict]}: {claim.detail}")
    say(f"Because: {claim.because}")
    for n, one in enumerate(outcome.said):
        if n == len(claim.settled_by):
            say("Beside it, of other designs:")
        say(_said(one), _IN + "  ")
    if not claim.settled_by and claim.no_case != claim.detail:
        say(f"No case: {claim.no_case}")
    return lines


def _said(one: Said) -> str:
    line = f"{one.support.case} on {one.support.kernel}: {one.result}"
    return f"- {line}" if one.ok else f"! {line}; the ledger says {one.support.answer.text}"


def totals(outcomes: Sequence[Outcome]) -> str:
    """``43 claims: 12 hold, 9 fail, ...; 39 supported, 0 not supported, 4 without a case``."""
    verdicts = Counter(one.claim.verdict for one in outcomes)
    said = [f"{verdicts[v]} {v if verdicts[v] == 1 else _PLURAL[v]}" for v in VERDICTS if verdicts[v]]
    supported = Counter(one.supported for one in outcomes)
    carried = f"{supported[True]} supported, {supported[False]} not supported, {supported[None]} without a case"
    return f"{many(len(outcomes), 'claim')}: {', '.join(said)}; {carried}"


def by_case(claims: Sequence[Claim]) -> list[str]:
    """Every case that the claims name, with what it must say on which kernel, and the claims that rest on that."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for claim in claims:
        for one in claim.rows:
            rows.setdefault((one.case, one.kernel, one.answer.text), []).append(claim.id)
    lines: list[str] = []
    above = ""
    for (case, kernel, answer), ids in sorted(rows.items(), key=lambda row: row[0][0]):  # kernels as the ledgers have
        if case != above:
            lines += wrap(case, WIDTH)
            above = case
        lines += wrap(f"  {kernel}: {answer} ({', '.join(ids)})", WIDTH, _IN)
    return lines


#: the fields of one object of --json, and what they mean; docs/claims.md has the same table
FIELDS = {
    "id": "the claim's id",
    "thread": "`000`, `001`, `004`, or `own` for a prediction that no mail makes",
    "claim": "the statement, in our words",
    "source": "a Message-ID, or a date where none is known",
    "correction": "what became of it later in its thread; null for nothing",
    "verdict": "`holds`, `fails`, `depends`, `proposal` or `undecided`: of the statement as made",
    "detail": "on what it depends, the proposal's fate, or why it is undecided; null for `holds` and `fails`",
    "because": "what the execution shows",
    "design": "the patches that the statement speaks of; empty where it is of kernels as they are",
    "cases": "the results: `case`, `kernel`, `expected`, `result`, `ok`, and `settles`: false of another design's",
    "reason": "why there is no case; null when there is one",
    "supported": "every result is as stated, and its search exhaustive; null without a case",
}


def dump(outcomes: Sequence[Outcome]) -> str:
    """The claims as JSON, a list of objects, indented for people."""
    return json.dumps([as_json(one) for one in outcomes], indent=2, ensure_ascii=False)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """One object; ``FIELDS`` says what each field means."""
    claim = outcome.claim
    return {
        "id": claim.id,
        "thread": claim.thread,
        "claim": claim.claim,
        "source": claim.source,
        "correction": claim.correction or None,
        "verdict": claim.verdict,
        "detail": claim.detail or None,
        "because": claim.because,
        "design": list(claim.design),
        "cases": [
            {
                "case": one.support.case,
                "kernel": one.support.kernel,
                "expected": one.support.answer.text,
                "result": one.result,
                "ok": one.ok,
                "settles": n < len(claim.settled_by),
            }
            for n, one in enumerate(outcome.said)
        ],
        "reason": claim.no_case or None,
        "supported": outcome.supported,
    }
