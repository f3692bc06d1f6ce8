"""E1 against the enumeration of everything, on random programs."""

from __future__ import annotations

import os
import sys

import pytest

from . import suite
from .oracle import explain, sweep
from .pinned import PROGRAMS
from .programs import FAMILIES, MIXED

ALL = [*FAMILIES, MIXED]


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    assert suite.pinned(name) == []


@pytest.mark.parametrize("family", ALL)
def test_family(family: str) -> None:
    summary = suite.family(family)
    assert not summary.mismatches, explain(summary)
    assert summary.skipped == 0, summary


@pytest.mark.fuzz
@pytest.mark.parametrize("family", ALL)
def test_fuzz(family: str, fuzz_runs: int, capfd: pytest.CaptureFixture[str]) -> None:
    runs = int(os.environ.get("MMLITMUS_FUZZ_N", fuzz_runs))
    first = int(os.environ.get("MMLITMUS_FUZZ_SEED", 1_000_000))
    summary = sweep(family, range(first, first + runs))
    report = explain(summary)
    with capfd.disabled():
        print(f"\n{report}", file=sys.stderr, flush=True)
    assert not summary.mismatches, report
