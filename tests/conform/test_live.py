"""From a program to the agent's words, and from the agent's answers to observations."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.conform.live import LiveError, header_of, hear, slots_of, text_of, words_of
from mmlitmus.conform.schema import (
    Exit,
    Fork,
    Map,
    Program,
    Remap,
    Switch,
    Touch,
    Unmap,
)

READY: dict[str, Any] = {
    "release": "6.12.117+deb12-amd64",
    "version": "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1~deb12u1 (2026-11-14)",
    "command_line": "console=ttyS0",
    "module": "mmlitmus_probe",
    "regions": [{"name": "bar", "pfn": "0xfd000", "pages": 4096, "valid": False}],
    "devices": [
        {"name": "edu", "pci": "1234:11e8", "bars": [{"bar": 0, "pages": 256, "pfn": "0xfea00"}]},
        {"name": "ivshmem", "pci": "1af4:1110", "bars": [{"bar": 2, "pages": 1024, "pfn": "0xfe000"}]},
    ],
    "config": {"cpu": "QEMU", "cpus": 2, "thp": "[always] madvise never"},
    "problems": [],
}
IDENTITY = {"memory_mb": "2048", "qemu": "QEMU 7.2", "probe": "0" * 64, "agent": "1" * 64}
PROGRAM = Program(id="p", steps=(Map(slot="a", pages=1, backing="pfnmap", region="bar"), Touch(slot="a")))
ENTRY = {"start": "0xfd000000", "end": "0xfd001000", "type": "write-combining"}


def step(n: int, result: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"step": n, "observed": {**({"result": result} if result else {}), **more}}


BEGIN = {"begin": "p", "memtypes": [ENTRY]}
END = {"end": "p", "log": [], "stopped": None, "after": [], "clean": True}
GOOD = [BEGIN, step(0, {"ok": True}, memtypes=[ENTRY, ENTRY]), step(1, {"ok": True, "value": "0x5a"}), END]


def test_the_header_names_the_kernel_and_the_machine() -> None:
    header = header_of(READY, IDENTITY)
    assert header.key.kernel.version == "6.12.117"
    assert header.key.kernel.distribution == "debian"
    assert header.key.lab.memory_mib == 2048
    assert header.key.lab.extra["agent"] == "1" * 64
    assert [r.name for r in header.regions] == ["bar"]
    assert [d.name for d in header.devices] == ["edu"], "the model has no device without a BAR 0"


def test_a_kernel_that_is_not_debians() -> None:
    header = header_of({**READY, "version": "#1 SMP", "release": "7.4.0-rc2"}, IDENTITY)
    assert (header.key.kernel.version, header.key.kernel.distribution) == ("7.4.0-rc2", None)


def test_a_kernel_that_does_not_say_what_it_is() -> None:
    with pytest.raises(LiveError, match="does not say its version"):
        header_of({"release": "mine"}, IDENTITY)
    with pytest.raises(LiveError, match="cannot be used"):
        header_of({**READY, "regions": [{"name": "bar"}]}, IDENTITY)


def test_the_words_of_a_step() -> None:
    assert words_of(Map(slot="a", pages=2, flags=("fixed", "locked"))) == "map slot=a pages=2 flags=fixed,locked"
    assert words_of(Switch(process=1)) == "switch process=1"


def test_the_text_looks_at_every_page_of_every_slot_named_in_every_process_there_is() -> None:
    program = Program(
        id="p",
        steps=(
            Unmap(slot="b", pages=1),
            Fork(child=1),
            Remap(slot="b", pages=1, new_pages=1, to="d", flags=("maymove", "fixed")),
            Switch(process=1),
            Exit(),
            Switch(process=0),
        ),
    )
    assert slots_of(program.steps) == ["b", "d"]
    lines = text_of(program).splitlines()
    assert lines[0] == "program p"
    assert lines[-1] == "end"
    places = [line.removeprefix("places=").split(",") for line in lines if line.startswith("places=")]
    assert [len(p) for p in places] == [16, 32, 32, 32, 16, 16]
    assert places[0][0] == "0:b0"
    assert places[0][-1] == "0:d7"
    assert places[4][0] == "0:b0", "the child has exited"


def test_memtypes_are_what_there_is_more_than_at_the_start() -> None:
    heard = hear(PROGRAM, GOOD, "ended", "", header_of(READY, IDENTITY))
    (found,) = heard.program.steps[0].observed.memtypes or ()
    assert (found.start, found.end, found.type) == (0xFD000000, 0xFD001000, "write-combining")
    assert heard.program.steps[1].observed.memtypes is None, "nobody looked"
    assert heard.died == ""


def test_what_a_load_found_in_memory_is_not_kept() -> None:
    heard = hear(PROGRAM, GOOD, "ended", "", header_of(READY, IDENTITY))
    result = heard.program.steps[1].observed.result
    assert result is not None
    assert (result.outcome, result.value) == ("ok", None)


def test_the_log_is_messages_and_the_rest() -> None:
    said = "x86/PAT: process:9 freeing invalid memtype [mem 0xfd000000-0xfd000fff]"
    end = {**END, "log": [said, "something else"]}
    heard = hear(PROGRAM, [*GOOD[:-1], end], "ended", "", header_of(READY, IDENTITY))
    assert heard.program.log is not None
    assert [(m.message, m.start, m.end) for m in heard.program.log] == [
        ("freeing-invalid-memtype", 0xFD000000, 0xFD001000)
    ]
    assert heard.program.extra == {"kernel_log": ["something else"]}


@pytest.mark.parametrize("kind", ["oops", "panic", "hang", "died"])
def test_a_guest_that_does_not_survive_a_step(kind: str) -> None:
    heard = hear(PROGRAM, GOOD[:2], kind, "BUG: it is over", header_of(READY, IDENTITY))
    assert heard.died == kind
    assert len(heard.program.steps) == 2
    result = heard.program.steps[1].observed.result
    assert result is not None
    assert result.outcome == f"died: {kind}"


def test_a_process_that_hangs_ends_the_program() -> None:
    said = [BEGIN, step(0, {"died": "hang"}), {**END, "stopped": "at step 0"}]
    heard = hear(PROGRAM, said, "ended", "", header_of(READY, IDENTITY))
    assert heard.died == "hang"
    assert len(heard.program.steps) == 1


def test_steps_of_a_child_that_could_not_be_made_are_left_out() -> None:
    program = Program(id="p", steps=(Fork(child=1), Switch(process=1), Touch(slot="a"), Switch(process=0)))
    said = [
        BEGIN,
        step(0, {"errno": "ENOMEM"}),
        {"step": 1, "skipped": "there is no such process", "observed": {}},
        {"step": 2, "skipped": "there is no such process", "observed": {}},
        step(3),
        END,
    ]
    heard = hear(program, said, "ended", "", header_of(READY, IDENTITY))
    assert [s.op for s in heard.program.steps] == ["fork"]


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ([BEGIN, {"step": 0, "error": "there is no such region"}, END], "no such region"),
        ([BEGIN, step(0, {"ok": True, "at": "0x7f1234000000"}), END], "mapped it at 0x7f1234000000"),
        ([BEGIN, step(7, {"ok": True}), END], "a step 7 that it was not given"),
        ([BEGIN, step(0, {"ok": True, "errno": "EIO"}), END], "exactly one of"),
        ([{"end": "p", "error": "want=x is not known here"}], "not known here"),
        ([{"error": "a line is too long: map"}], "too long"),
    ],
)
def test_what_cannot_be_used_is_no_difference(said: list[dict[str, Any]], what: str) -> None:
    with pytest.raises(LiveError, match=what):
        hear(PROGRAM, said, "ended", "", header_of(READY, IDENTITY))


def test_a_guest_that_dies_before_it_does_anything() -> None:
    with pytest.raises(LiveError, match="no step was under way"):
        hear(PROGRAM, [], "died", "QEMU ended", header_of(READY, IDENTITY))
