"""From a program to the agent's words, and from the agent's answers to observations."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.conform.live import LiveError, header_of, hear, slots_of, text_of, words_of
from mmlitmus.conform.schema import (
    Dma,
    Exit,
    Fork,
    Map,
    Pin,
    Program,
    Remap,
    Switch,
    Touch,
    Translation,
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
        {"name": "vga", "pci": "1234:1111", "bars": [{"bar": 0, "pages": 4096}, {"bar": 2, "pages": 1}]},
    ],
    "config": {"cpu": "QEMU", "cpus": 2, "thp": "[always] madvise never"},
    "problems": [],
}
IDENTITY = {
    "kernel": "6.12.117+deb12-amd64",
    "packages": "linux-image=6.12.117-1",
    "config": "2" * 64,
    "memory_mb": "2048",
    "qemu": "QEMU 7.2",
    "cpu": "max",
    "probe": "0" * 64,
    "agent": "1" * 64,
}
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
    assert header.key.lab.extra == {"agent": "1" * 64}
    assert [r.name for r in header.regions] == ["bar"]
    assert [d.name for d in header.devices] == ["edu", "ivshmem"], "a device is one with one BAR to map"


def test_the_key_has_everything_that_an_answer_may_depend_on() -> None:
    settings = {"thp": "always", "ksm": "0", "swap": "0 kB", "fault_around": "65536", "numa_nodes": "0", "zswap": None}
    ready = {**READY, "config": {"cpu": "QEMU", "cpus": 2, **settings}, "zero_pfn": "0x2c40"}
    header = header_of(ready, IDENTITY, "q35")
    kernel, lab = header.key.kernel, header.key.lab
    assert (kernel.release, kernel.command_line) == ("6.12.117+deb12-amd64", "console=ttyS0")
    assert (kernel.package_version, kernel.config_sha256) == ("linux-image=6.12.117-1", "2" * 64)
    assert (lab.module, lab.module_sha256, lab.emulator) == ("mmlitmus_probe", "0" * 64, "QEMU 7.2")
    assert (lab.machine, lab.cpu, lab.cpu_model, lab.cpus, lab.memory_mib) == ("q35", "QEMU", "max", 2, 2048)
    assert lab.settings == settings
    assert header.zero_pfn == 0x2C40
    with pytest.raises(LiveError, match=r"zero_pfn: up to 64 bits"):
        header_of({**READY, "zero_pfn": 7}, IDENTITY)


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
    assert lines[0] == "program p want=pagemap,locked,frames,events"
    assert text_of(program, ()).splitlines()[0] == "program p"
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


# -- what is asked for besides ----------------------------------------------------------------------------------------
def counted(*runs: tuple[int, int, int, int]) -> list[dict[str, Any]]:
    return [{"pfn": hex(pfn), "pages": pages, "refs": refs, "maps": maps} for pfn, pages, refs, maps in runs]


def frame(pfn: int, refs: int, maps: int) -> dict[str, Any]:
    return {"pfn": hex(pfn), "refs": refs, "maps": maps}


def test_pagemap_and_locked_are_kept_as_they_are() -> None:
    seen = {"pagemap": {"0:a0": "0x80000000000000", "0:a1": None}, "locked": {"0": 5}}
    heard = hear(PROGRAM, [BEGIN, step(0, {"ok": True}, **seen), GOOD[2], END], "ended", "", header_of(READY, IDENTITY))
    first, second = (s.observed for s in heard.program.steps)
    assert first.pagemap == {"0:a0": 1 << 55, "0:a1": None}
    assert first.locked == {"0": 5}
    assert (second.pagemap, second.locked, second.frames, second.events) == ({}, None, None, None)


def test_counts_of_a_regions_frames_are_what_they_are_more_than_before() -> None:
    begin = {**BEGIN, "frames": counted((0xFD000, 2, 1, 0), (0xFD002, 8, 0, 0))}
    places = {"0:a0": frame(0xFD001, 3, 1), "0:a1": frame(0xFD002, 0, 0), "0:a2": frame(0x77777, 2, 1)}
    heard = hear(
        PROGRAM, [begin, step(0, {"ok": True}, frames=places), GOOD[2], END], "ended", "", header_of(READY, IDENTITY)
    )
    found = heard.program.steps[0].observed.frames
    assert found is not None
    assert {place: (f.pfn, f.refs, f.maps) for place, f in found.items()} == {
        "0:a0": (0xFD001, 2, 1),
        "0:a1": (0xFD002, 0, 0),
        "0:a2": (0x77777, 2, 1),  # of RAM: the count itself
    }
    assert heard.program.held is None, "nobody counted at the end"


def test_a_frame_that_nobody_counted_before_is_no_difference_to_anything() -> None:
    said = [BEGIN, step(0, {"ok": True}, frames={"0:a0": frame(0xFD001, 3, 1)}), GOOD[2], END]
    heard = hear(PROGRAM, said, "ended", "", header_of(READY, IDENTITY))
    assert heard.program.steps[0].observed.frames is None


def test_what_is_still_held_at_the_end() -> None:
    begin = {**BEGIN, "frames": counted((0xFD000, 8, 1, 0))}
    for after, held in (
        (counted((0xFD000, 8, 1, 0)), []),
        (counted((0xFD000, 2, 1, 0), (0xFD002, 1, 2, 1), (0xFD003, 5, 1, 0)), [(0xFD002, 1, 1)]),
    ):
        heard = hear(PROGRAM, [begin, *GOOD[1:3], {**END, "frames": after}], "ended", "", header_of(READY, IDENTITY))
        assert [(f.pfn, f.refs, f.maps) for f in heard.program.held or ()] == held
        assert heard.program.held is not None
    died = [begin, step(0, {"died": "hang"}), {**END, "frames": counted((0xFD000, 8, 2, 0))}]
    assert hear(PROGRAM, died, "ended", "", header_of(READY, IDENTITY)).program.held is None


def test_notifier_events_are_of_slots() -> None:
    events = [
        {"event": "unmap", "end": False, "first": "0x7f0001002000", "last": "0x7f0001006000"},
        {"event": "unmap", "end": True, "first": "0x7f0000ffe000", "last": "0x7f0001006800"},
        {"event": "clear", "end": False, "first": "0x0", "last": "0xffffffffffffffff"},
        {"lost": 4},
    ]
    said = [BEGIN, step(0, {"ok": True}, events={"0": events}), GOOD[2], END]
    heard = hear(PROGRAM, said, "ended", "", header_of(READY, IDENTITY))
    assert heard.program.steps[0].observed.events == {
        "0": (
            "start unmap b2-b6",
            "end unmap a4094-0x7f0001006800",
            "start clear 0x0-0xffffffffffffffff",
            "lost 4",
        )
    }


def test_without_the_module_nobody_sees_frames_and_events() -> None:
    """The agent says that there are none: it did not look."""
    header = header_of({**READY, "module": None}, IDENTITY)
    said = [BEGIN, step(0, {"ok": True}, frames={}, events={}, locked={"0": 0}), GOOD[2], END]
    observed = hear(PROGRAM, said, "ended", "", header).program.steps[0].observed
    assert (observed.frames, observed.events, observed.locked) == (None, None, {"0": 0})


PINS = Program(id="p", steps=(Pin(slot="a", pages=3, variant="pin_user_pages", flags=("write", "longterm")),))


def test_the_words_of_a_pin() -> None:
    assert words_of(PINS.steps[0]) == "pin slot=a pages=3 variant=pin_user_pages flags=write,longterm"
    assert words_of(Dma(action="unmap", iova=1, pages=4)) == "dma action=unmap iova=1 pages=4"


def test_what_a_pin_got_slot_by_slot() -> None:
    """One that the kernel did not fill, one of a region as what it is more than before, one of RAM."""
    begin = {**BEGIN, "frames": counted((0xFD000, 8, 1, 0))}
    pins = [None, frame(0xFD001, 1025, 1), frame(0x77777, 1025, 1)]
    said = [begin, step(0, {"ok": True, "count": 3}, pins=pins), END]
    heard = hear(PINS, said, "ended", "", header_of(READY, IDENTITY), "gup")
    observed = heard.program.steps[0].observed
    assert observed.result is not None
    assert (observed.result.outcome, observed.result.count) == ("ok", 3)
    assert observed.pins is not None
    assert [f and (f.pfn, f.refs, f.maps) for f in observed.pins] == [None, (0xFD001, 1024, 1), (0x77777, 1025, 1)]
    uncounted = hear(PINS, [BEGIN, *said[1:]], "ended", "", header_of(READY, IDENTITY), "gup")
    assert uncounted.program.steps[0].observed.pins is None, "nobody counted before"


def test_where_iovas_are() -> None:
    program = Program(id="p", steps=(Dma(action="map", slot="a", pages=3),))
    begin = {**BEGIN, "frames": counted((0xFD000, 8, 1, 0))}
    iovas = {"0+0": {"pfn": "0xfea00"}, "0+1": None, "0+2": frame(0xFD001, 1025, 1)}
    said = [begin, step(0, {"ok": True}, iovas=iovas), END]
    heard = hear(program, said, "ended", "", header_of(READY, IDENTITY), "gup")
    assert heard.program.steps[0].observed.iovas == {
        "0+0": Translation(pfn=0xFEA00),
        "0+1": None,
        "0+2": Translation(pfn=0xFD001, refs=1024, maps=1),
    }
    bare = hear(program, said, "ended", "", header_of({**READY, "module": None}, IDENTITY), "gup")
    assert bare.program.steps[0].observed.iovas is None


def test_programs_about_mappings_have_no_pins() -> None:
    with pytest.raises(LiveError, match="no generated program may have"):
        hear(PINS, [BEGIN, step(0, {"ok": True, "count": 3}), END], "ended", "", header_of(READY, IDENTITY))


def test_a_hang_that_ends_by_a_signal_is_told_from_one_that_does_not() -> None:
    for killed in (True, False):
        died = {"died": "hang", **({"killed": True} if killed else {})}
        said = [BEGIN, step(0, died), {**END, "stopped": "at step 0"}]
        heard = hear(PINS, said, "ended", "", header_of(READY, IDENTITY), "gup")
        result = heard.program.steps[0].observed.result
        assert result is not None
        assert (heard.died, result.outcome, result.killed) == ("hang", "died: hang", killed)


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
