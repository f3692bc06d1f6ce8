"""docs/pat.md: its tables are asked again, and every case that it names is there."""

import re

import pytest
from transcripts import ROOT, answers, wrong_answer

from mmlitmus.checker.load import select

PAGE = ROOT / "docs" / "pat.md"
ROWS = answers(PAGE)
CASES = {case.id for case in select([]).cases}


@pytest.mark.parametrize("row", ROWS, ids=[f"{r['case']} on {r['kernel']}" for r in ROWS])
def test_row(row):
    assert not wrong_answer(row)


def test_there_are_three_tables():
    assert len(ROWS) > 40


def test_every_case_that_it_names_is_there():
    named = re.findall(r"`((?:pat|pfn|locks|vfio)/[a-z0-9/_-]+)`", PAGE.read_text())
    assert len(named) > 60
    assert not sorted({*named} - CASES)


def test_every_message_of_the_database_is_in_the_table():
    source = (ROOT / "src" / "mmlitmus" / "kernel" / "arch" / "x86" / "pat.py").read_text()
    told = PAGE.read_text().split("## The rules")[0]
    messages = re.findall(r'f"x86/PAT: (?:\{_comm\(\)\} )?([a-z][A-Za-z_ ]+)', source)
    assert len(messages) >= 5
    for message in messages:
        assert message.strip() in told
