"""README says what the programs say: its transcripts are run again, its table of designs is asked again."""

import pytest
from transcripts import ROOT, answers, blocks, rerun, wrong_answer

from mmlitmus.checker.load import select

README = ROOT / "README.md"

TRANSCRIPTS = blocks(README)
DESIGNS = answers(README)


@pytest.mark.parametrize("block", TRANSCRIPTS, ids=[b.splitlines()[0][2:] for b in TRANSCRIPTS])
def test_transcript(block):
    assert rerun(block) == block


def test_there_is_a_check_and_a_show():
    first = [block.split()[2] for block in TRANSCRIPTS]
    assert {"check", "show"} <= set(first)


@pytest.mark.parametrize("row", DESIGNS, ids=[f"{r['case']} on {r['kernel']}" for r in DESIGNS])
def test_design(row):
    assert not wrong_answer(row)


def test_every_design_of_the_thread_is_there():
    assert len(DESIGNS) >= 10


def test_numbers():
    """How many cases, answers and recordings there are."""
    text = " ".join(README.read_text().split())
    cases = select([]).cases
    expected = sum(len(case.expect) for case in cases)
    assert f"There are {len(cases)} cases, with {expected:,} expected answers." in text
    recordings = [*(ROOT / "src" / "mmlitmus" / "conform" / "recordings").rglob("*.jsonl*")]
    assert f": {len(recordings)} recordings of six kernels" in text
