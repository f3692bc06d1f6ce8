"""README says what the programs say: its transcripts are run again, its table of designs is asked again."""

import re

import pytest
from transcripts import ROOT, blocks, rerun

from mmlitmus.checker.load import select
from mmlitmus.checker.run import run

README = ROOT / "README.md"
DESIGN = re.compile(r"^\| (?P<design>[^|]+) \| `(?P<case>[^`|]+)` \| `(?P<kernel>[^`|]+)` \| (?P<answer>[^|]+) \|$")

TRANSCRIPTS = blocks(README)
DESIGNS = [m.groupdict() for line in README.read_text().splitlines() if (m := DESIGN.match(line))]


@pytest.mark.parametrize("block", TRANSCRIPTS, ids=[b.splitlines()[0][2:] for b in TRANSCRIPTS])
def test_transcript(block):
    assert rerun(block) == block


def test_there_is_a_check_and_a_show():
    first = [block.split()[2] for block in TRANSCRIPTS]
    assert {"check", "show"} <= set(first)


@pytest.mark.parametrize("row", DESIGNS, ids=[f"{r['case']} on {r['kernel']}" for r in DESIGNS])
def test_design(row):
    case = next(c for c in select([row["case"]]).cases if c.id == row["case"])
    assert case.expected(row["kernel"]) is not None, "a design's answer is one that `make check` checks too"
    answer = run(case, row["kernel"])
    assert answer.ok
    assert answer.text == row["answer"].strip()
    assert answer.search == "exhaustive"


def test_every_design_of_the_thread_is_there():
    assert len(DESIGNS) >= 10
