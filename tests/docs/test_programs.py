"""The programs in docs/findings.md: run again on the model, and on real kernels where there are any."""

import pytest
from programs import HEADER, answers, findings, without_one

from mmlitmus.conform.live import text_of
from mmlitmus.conform.reproduce import program_of

FOUND = findings()
NAMES = [program.id for program, _ in FOUND]
ROWS = [(program, row) for program, rows in FOUND for row in rows]


def test_every_finding_of_real_kernels_has_its_program() -> None:
    assert NAMES == ["moved", "forked", "grown", "failed-fork", "zapped", "unfilled"]
    for program, rows in FOUND:
        # all kernels are told of, and they do not all answer the same
        assert len({row.kernel for row in rows}) == 6, program.id
        last = [row for row in rows if row.step == len(program.steps) - 1 and row.seen in ("outcome", "memtypes")]
        assert len({row.answer for row in last}) > 1, program.id


def test_the_machine_is_the_recordings_one(recorded_headers) -> None:
    for header in recorded_headers:
        for device in HEADER.devices if header.devices else ():
            assert device in header.devices
        for region in HEADER.regions:
            found = header.region(region.name)
            assert found is not None
            assert (found.pfn, found.pages) == (region.pfn, region.pages)


@pytest.fixture
def recorded_headers():
    """The headers of what the lab recorded on 6.12."""
    from mmlitmus.conform.store import RECORDINGS, header_of

    return [header_of(RECORDINGS / "live" / f"live-6.12-{machine}.jsonl.gz") for machine in ("pc", "q35")]


@pytest.mark.parametrize(("program", "row"), ROWS, ids=[f"{p.id} {r.kernel} {r.seen} {r.step}" for p, r in ROWS])
def test_the_model_answers_so(program, row) -> None:
    assert answers(program, row.kernel)[row.step, row.seen] == row.answer


@pytest.mark.parametrize(("program", "rows"), FOUND, ids=NAMES)
def test_no_step_can_be_left_out(program, rows) -> None:
    """Without any one step, the kernels no longer differ as they are said to, at the last step."""
    last = {(r.kernel, r.seen): r.answer for r in rows if r.step == len(program.steps) - 1 and " " not in r.seen}
    for shorter in without_one(program):
        at = len(shorter.steps) - 1
        same = all(answers(shorter, kernel).get((at, seen)) == text for (kernel, seen), text in last.items())
        assert not same, text_of(shorter)


@pytest.mark.parametrize(("program", "rows"), FOUND, ids=NAMES)
def test_it_is_what_the_agent_reads(program, rows) -> None:
    assert program_of(text_of(program)) == program
