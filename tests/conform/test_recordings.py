"""The model does what real kernels did, in every row of every recording; the comparison can tell when it does not."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from mmlitmus.conform import agreement, store
from mmlitmus.conform.__main__ import main
from mmlitmus.conform.campaign import Campaign
from mmlitmus.conform.compare import AGREED, DISAGREED, EXCLUDED, UNOBSERVED, compare
from mmlitmus.conform.execute import (
    DOES,
    NotModelledError,
    execute_all,
    model_of,
)
from mmlitmus.conform.import_vfiorev import convert
from mmlitmus.conform.layout import message_of
from mmlitmus.conform.schema import Entry, KernelKey, Recording, Result, read_step
from mmlitmus.conform.store import dumps, loads, packaged
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.policy import KernelSpecError
from mmlitmus.kernel.uapi import Process

from .conftest import VFIOREV

#: recording -> the kernel of the model, fields agreed, fields unobserved (entries need the probe module)
VFIOREV_ROWS = {
    "vfiorev-5.10": ("deb-5.10.262", 64, 37),
    "vfiorev-6.1": ("deb-6.1.192", 61, 37),
    "vfiorev-6.12": ("deb-6.12.117", 65, 37),
    "vfiorev-6.16": ("deb-6.16.12", 48, 54),
    "vfiorev-6.18": ("deb-6.18.15", 48, 54),
    "vfiorev-7.3": ("deb-7.3.4", 65, 37),
    "vfiorevNOLAB-6.1": ("deb-6.1.192", 44, 54),
}

#: in which programs a translation outlives the disable, by what the real kernel was seen to do
SURVIVES = {
    "vfiorev-5.10": {"B"},
    "vfiorev-6.1": {"B", "E0", "E1", "E2"},
    "vfiorevNOLAB-6.1": {"B", "E0", "E1", "E2"},
}

ALL = {"A", "B", "C", "C2", "D", "E0", "E1", "E2", "F"}


# -- agreement --------------------------------------------------------------------------------------------------------
def test_these_are_the_recordings():
    assert {p.name.removesuffix(".jsonl") for p in packaged() if p.parent == VFIOREV} == set(VFIOREV_ROWS)


#: of the generated programs, one part in so many is replayed by default
SOME = 9
PARTS = [
    pytest.param(path, first, marks=[] if path.parent.name != "live" or n % SOME == 0 else pytest.mark.slow)
    for n, (path, first) in enumerate(agreement.parts())
]


@pytest.mark.parametrize(("path", "first"), PARTS, ids=lambda x: x.name if isinstance(x, Path) else str(x))
def test_every_field_of_every_recording_agrees(path, first):
    """Part by part, on several processes; ``.ci/run`` replays them all. The table of docs/conformance.md is of these
    counts. What is decoded is first written again.
    """
    model = agreement.model_for(path)
    campaign = Campaign(model, model)
    part = store.part_of(path, first, agreement.PART)
    wanted = [*islice(store.lines_of(path), 1 + first, 1 + first + agreement.PART)]
    assert store.dumps(part).splitlines(keepends=True)[1:] == wanted
    assert [str(f) for f in agreement.replay(part, campaign)] == []
    assert campaign.counts[AGREED] > 0
    kept = agreement.load()[agreement.key_of(path)][first // agreement.PART]
    assert agreement.counts_of(campaign) == kept, "python -m mmlitmus.conform.agreement --write"


def test_the_parts_are_all():
    found = agreement.load()
    assert [*found] == [agreement.key_of(path) for path in packaged()]
    for path in packaged():
        sizes = [first for p, first in agreement.parts() if p == path]
        lines = sum(1 for _ in store.lines_of(path)) - 1
        assert len(found[agreement.key_of(path)]) == len(sizes) == -(-lines // agreement.PART)


def test_few_are_explained():
    for path, _ in agreement.parts():
        for counts in agreement.load()[agreement.key_of(path)]:
            fields = sum(sum(row[1:]) for row in counts.values())
            assert sum(row[agreement.VERDICTS.index("explained")] for row in counts.values()) <= fields / 50


def test_the_documents_tables_are_generated():
    text = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert agreement.document(agreement.load()) in text, "python -m mmlitmus.conform.agreement"


@pytest.mark.parametrize("name", VFIOREV_ROWS)
def test_how_much_was_compared(name, recorded):
    spec, agreed, unobserved = VFIOREV_ROWS[name]
    comparison = compare(recorded(name))
    assert comparison.spec == spec
    assert comparison.counts == {
        "programs": 9,
        "operations": 76,
        "fields": 102,
        AGREED: agreed,
        EXCLUDED: 102 - agreed - unobserved,
        UNOBSERVED: unobserved,
        DISAGREED: 0,
    }


@pytest.mark.parametrize("name", VFIOREV_ROWS)
def test_what_survives_the_disable(name, recorded):
    """A moved mapping on 5.10.262 and 6.1.192, a forked child's on 6.1.192 only, nothing from 6.12 on."""
    recording = recorded(name)
    assert {p.id for p in recording.programs} == ALL
    comparison = compare(recording)
    really = {p.id for p in recording.programs for s in p.steps if s.observed.result == Result(ok=True, value=0)}
    assert really == SURVIVES.get(name, set())
    assert set(comparison.found_in("access-after-disable")) == really
    assert {f.name for e in comparison.executions.values() for f in e.findings} <= {"access-after-disable", *COMPLAINTS}


#: until 6.1, VFIO's mappings were tracked: a VMA whose first page is gone cannot say what it has reserved, and what is
#: not the tail of a reservation cannot be given back
COMPLAINTS = {"untrack-walk-failed": ["B"], "freeing-invalid-memtype": ["D"]}


@pytest.mark.parametrize("name", VFIOREV_ROWS)
def test_the_model_complains_of_what_the_kernel_complained_of(name, recorded):
    recording = recorded(name)
    complained = recording.header.kernel_log
    comparison = compare(recording)
    found = {c: comparison.found_in(c) for c in COMPLAINTS if comparison.found_in(c)}
    assert found == (COMPLAINTS if complained else {})
    assert bool(complained) == (name in SURVIVES)
    warnings = [line for line in complained if line.startswith("WARNING: ")]
    assert all("arch/x86/mm/pat/memtype.c" in line for line in warnings)
    assert len(warnings) == len(found.get("untrack-walk-failed", ()))
    said = [m for e in comparison.executions.values() for m in e.log]
    assert said == [m for m in map(message_of, complained) if m is not None]


@pytest.mark.parametrize("name", [n for n, (_, _, unobserved) in VFIOREV_ROWS.items() if unobserved == 37])
def test_raw_entries_are_compared(name, recorded):
    """The probe saw 17 entries, and each is the same in all 64 bits."""
    entries = [f for f in compare(recorded(name)).fields if f.name == "entry"]
    assert [f.verdict for f in entries] == [AGREED] * 17
    survivors = {f.model for f in entries if f.program in SURVIVES.get(name, ()) and f.model != "pte:0x0"}
    expected = {
        "vfiorev-5.10": {"pte:dev0[0x0]+0x8000000000000a37"},
        "vfiorev-6.1": {f"pte:dev0[0x0]+0x8000000000000{bits}" for bits in ("a37", "217", "237")},
    }
    assert survivors == expected.get(name, set())


# -- the comparison can fail ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "model", "differ"),
    [
        ("vfiorev-6.1", "v6.12", {"B", "E0", "E1", "E2"}),
        ("vfiorev-6.1", "v6.1", {"E0", "E1", "E2"}),  # upstream's fork copies before ->open
        ("vfiorev-6.1", "deb-5.10.262", {"E0", "E1", "E2"}),
        ("vfiorevNOLAB-6.1", "v6.12", {"B", "E0", "E1", "E2"}),
        ("vfiorev-5.10", "deb-6.1.192", {"E0", "E1", "E2"}),
        ("vfiorev-5.10", "v6.12", {"B", "E0", "E1", "E2"}),
        ("vfiorev-6.12", "deb-6.1.192", {"B", "E0", "E1", "E2"}),
        ("vfiorev-7.3", "v6.1", {"B", "E0", "E1", "E2"}),
        ("vfiorev-6.18", "v5.10", {"B"}),
    ],
)
def test_the_wrong_kernel_disagrees(name, model, differ, recorded):
    comparison = compare(recorded(name), model)
    assert {f.program for f in comparison.disagreements} == differ
    assert comparison.spec == model


def test_the_wrong_kernel_disagrees_in_words(recorded):
    words = [str(f) for f in compare(recorded("vfiorev-6.1"), "v6.12").disagreements]
    assert words[:2] == [
        "program B, step 5 (dev action=memory_off): entry 0:b0: "
        "recorded pte:dev0[0x0]+0x8000000000000a37, model pte:0x0",
        "program B, step 6 (touch slot=b): outcome: recorded ok, model SIGBUS",
    ]


def change(recording: Recording, program: int, step: int, **observed) -> Recording:
    """The recording with something else observed at one step."""
    p = recording.programs[program]
    s = p.steps[step]
    steps = (*p.steps[:step], replace(s, observed=replace(s.observed, **observed)), *p.steps[step + 1 :])
    programs = list(recording.programs)
    programs[program] = replace(p, steps=steps)
    return replace(recording, programs=tuple(programs))


def test_every_observation_counts(recorded):
    """Whatever was compared and agreed disagrees when it is changed."""
    recording = recorded("vfiorev-6.1")
    changed = 0
    for n, program in enumerate(recording.programs):
        for m, step in enumerate(program.steps):
            result = step.observed.result
            others = []
            if result is not None:
                others.append({"result": Result(errno="EINTR")})
            for place, entry in step.observed.entries.items():
                others += [
                    {"entries": {**step.observed.entries, place: Entry(entry.level, entry.bits ^ 1 << bit)}}
                    for bit in (0, 5, 12, 63)
                ]
            for other in others:
                differ = compare(change(recording, n, m, **other)).disagreements
                assert [(f.program, f.index) for f in differ] == [(program.id, m)]
                changed += 1
    assert changed == 35 + 17 * 4


def test_a_value_that_a_device_gave_is_compared(recorded):
    """E1's child reads the edu's identification while memory is still on."""
    recording = recorded("vfiorev-6.1")
    assert recording.programs[6].steps[4].observed.result == Result(ok=True, value=0x10000ED)
    (field,) = compare(change(recording, 6, 4, result=Result(ok=True, value=0x10000EE))).disagreements
    assert (field.name, field.recorded, field.model) == ("value", "0x10000ee", "0x10000ed")


def test_a_value_from_a_device_that_is_off_is_not(recorded):
    """QEMU answers 0; a PC would answer all ones, and the kernel be as right."""
    recording = recorded("vfiorev-6.1")
    assert recording.programs[1].steps[6].observed.result == Result(ok=True, value=0)
    comparison = compare(change(recording, 1, 6, result=Result(ok=True, value=0xFFFFFFFF)))
    assert comparison.disagreements == []
    assert comparison.rules() == {"bus-dependent-value": 4}


def test_unobserved_is_not_agreed(recorded):
    recording = recorded("vfiorev-6.1")
    before = compare(recording).counts
    after = compare(change(recording, 0, 2, entries={"0:a0": None})).counts
    assert after[AGREED] == before[AGREED] - 1
    assert after[UNOBSERVED] == before[UNOBSERVED] + 1
    assert after["fields"] == before["fields"]


def test_a_kernel_that_stops_in_the_middle_disagrees(recorded, monkeypatch):
    """The model breaking down is no agreement, whatever it had done by then."""

    def broken(self, address, pages, prot):
        raise RuntimeError("a bug in the model")

    monkeypatch.setattr(Process, "mprotect", broken)
    comparison = compare(recorded("vfiorev-6.1"))
    assert {f.program for f in comparison.disagreements} == {"D"}
    assert all(f.model is None for f in comparison.disagreements)
    assert list(comparison.stopped) == ["D"]
    where = "step 3 (protect slot=a page=2 pages=1 prot=r)"
    assert comparison.stopped["D"].startswith(f"{where}: RuntimeError: a bug in the model at")


def test_a_child_that_the_model_does_not_have_disagrees(recorded, monkeypatch):
    """What was seen of it is agreed by nobody, and the parent goes on."""
    monkeypatch.setattr(Process, "fork", lambda self, name: -ENOMEM)
    comparison = compare(recorded("vfiorev-6.1"))
    assert comparison.stopped == {}
    differ = comparison.disagreements
    assert {f.program for f in differ} == {"E0", "E1", "E2"}
    for program in ("E0", "E1", "E2"):
        fork, *rest = [f for f in differ if f.program == program]
        assert (fork.recorded, fork.model) == ("ok", "-ENOMEM")
        assert rest
        assert all(f.model is None for f in rest)


# -- running programs -------------------------------------------------------------------------------------------------
def step(op, **words):
    observed = {k: words.pop(k) for k in ("result", "entries", "vm_flags", "memtypes") if k in words}
    return {"op": op, **words, **({"observed": observed} if observed else {})}


def test_every_verb_runs(recording_of, header):
    """A program with each operation, its results written down by hand from the kernel's source."""
    header["regions"] = [{"name": "hole", "pfn": "0x20000", "pages": 4096}]
    hole = {"slot": "d", "pages": 4, "backing": "pfnmap", "region": "hole", "frame": 2, "offset": 7}
    memtypes = [{"start": "0x20002000", "end": "0x20006000", "type": "write-back"}]
    ok, bus = {"ok": True}, {"signal": "SIGBUS"}
    recording = recording_of(
        step("observe", entries={"0:a0": "pgd:0x0"}, vm_flags={"0:a0": ""}),
        step("map", slot="a", pages=4, result=ok, vm_flags={"0:a0": "rd wr sh mr mw me ms pf io de dd sd"}),
        step("map", slot="b", pages=4, sharing="private", result={"errno": "EINVAL"}),
        step("map", slot="b", pages=1, offset=256, result={"errno": "EINVAL"}),
        step("map", slot="a", page=2, pages=1, flags=["fixed_noreplace"], result={"errno": "EEXIST"}),
        step("touch", slot="a", result={"ok": True, "value": "0x10000ed"}),
        step("touch", slot="a", page=1, access="write", result=ok, entries={"0:a1": "pte:0x80000000fea01277"}),
        step("touch", slot="c", result={"signal": "SIGSEGV", "code": 1}),
        step("advise", slot="a", pages=4, advice="dontneed", result={"errno": "EINVAL"}),
        step("advise", slot="a", pages=4, advice="dontdump", result=ok),
        step("advise", slot="a", pages=4, advice="lock", result=ok),
        step("advise", slot="a", pages=4, advice="unlock", result=ok),
        step("protect", slot="a", page=3, pages=1, prot="r", result=ok),
        step("touch", slot="a", page=3, access="write", result={"signal": "SIGSEGV", "code": 2}),
        step("protect", slot="c", pages=1, prot="r", result={"errno": "ENOMEM"}),
        step("dev", action="read", result={"ok": True, "value": "0x10000ed"}),
        step("dev", action="d3hot", result=ok, entries={"0:a0": "pte:0x0"}),
        step("touch", slot="a", result=bus),
        step("dev", action="read", result={"errno": "EIO"}),
        step("dev", action="d0", result=ok),
        step("dev", action="low_power_enter", result=ok),
        step("dev", action="low_power_enter", result={"errno": "EINVAL"}),
        step("touch", slot="a", result=bus),
        step("dev", action="low_power_exit", result=ok),
        step("touch", slot="a", result=ok),
        step("dev", action="reset", result=ok, entries={"0:a0": "pte:0x0"}),
        step("remap", slot="a", pages=1, new_pages=2, flags=["maymove"], result={"errno": "EFAULT"}),
        step("remap", slot="a", pages=2, new_pages=1, result=ok),
        step("fork", child=1, result=ok),
        step("switch", process=1),
        step("touch", slot="a", page=1, result={"signal": "SIGSEGV"}),
        step("unmap", slot="a", pages=4, result=ok, vm_flags={"1:a0": ""}),
        step("exit"),
        step("switch", process=0),
        step("unmap", slot="a", pages=4, result=ok),
        step("map", **hole, result=ok, entries={"0:d1": "pte:0x8000000020003227"}, memtypes=memtypes),
        step("probe", call="unmap_mapping_range", offset=9, pages=1, entries={"0:d2": "pte:0x0"}, memtypes=[]),
        step("touch", slot="d", page=2, result=bus),
        step("unmap", slot="d", pages=4, result=ok, memtypes=[]),
        step("map", slot="e", pages=2, backing="anonymous", sharing="private", result=ok),
        step("pin", slot="e", pages=3, variant="pin_user_pages", flags=["write"], result={"ok": True, "count": 2}),
        step("unpin", flags=["dirty"], result={"ok": True, "count": 2}),
        step("unpin", result={"ok": True, "count": 0}),
        step("transfer", kind="process_vm_readv", slot="e", pages=3, result={"ok": True, "count": 8192}),
        step("limit", locked=1, result=ok),
        step("dma", action="map", slot="e", pages=2, result={"errno": "ENOMEM"}),
        step("dma", action="map", slot="e", pages=1, offset=3, result=ok),
        step("dma", action="unmap", pages=4, result={"ok": True, "count": 1}),
        step("clear", result=ok, vm_flags={"0:e0": "rd wr mr mw me ac"}, entries={"0:e5": "pte:0x0"}),
        step("limit", locked=64, result=ok),
        step("lockall", flags=["current"], result=ok, vm_flags={"0:e0": "rd wr mr mw me lo ac"}),
        step("unlockall", result=ok, vm_flags={"0:e0": "rd wr mr mw me ac"}),
    )
    comparison = compare(recording)
    assert comparison.stopped == {}
    assert [str(f) for f in comparison.disagreements] == []
    assert {type(s) for s in recording.programs[0].steps} == set(DOES)


@pytest.mark.parametrize("backing", ["file", "udmabuf", "dma_heap"])
def test_what_is_not_modelled_ends_a_program_and_is_no_difference(backing, recording_of):
    """Fields before it count; those from there on are nobody's answer, and are counted as such."""
    comparison = compare(
        recording_of(
            step("map", slot="a", pages=1, result={"errno": "EPERM"}),
            step("map", slot="d", pages=1, backing=backing, result={"errno": "EPERM"}),
            step("touch", slot="d", result={"errno": "EPERM"}),
        )
    )
    assert [(f.name, f.verdict) for f in comparison.fields] == [
        ("outcome", DISAGREED),
        ("outcome", EXCLUDED),
        ("outcome", EXCLUDED),
    ]
    assert comparison.rules() == {"not-modelled": 2}
    (why,) = comparison.unmodelled.values()
    assert "not modelled: memory of a file" in why
    assert f"backing={backing}" in why
    assert comparison.stopped == {}


PINNED = {"pfn": "0x1234", "refs": 1025, "maps": 1}


def pinned(recording_of, header, **more):
    """A page of anonymous memory, stored to and pinned, with what was seen of it."""
    header["devices"][0]["bars"][0]["pfn"] = "0xfea00"
    header["regions"] = [{"name": "ram", "pfn": "0x5800", "pages": 64}]
    seen = {"result": {"ok": True, "count": 1}, "pins": [PINNED], "frames": {"0:a0": PINNED}, **more}
    return recording_of(
        step("map", slot="a", pages=2, backing="anonymous", sharing="private"),
        step("touch", slot="a", access="write", entries={"0:a0": "pte:0x8000000001234867"}),
        {"op": "pin", "slot": "a", "pages": 1, "variant": "pin_user_pages",
         "observed": {"entries": {"0:a0": "pte:0x8000000001234867"}, **seen}},
        {"op": "unpin", "observed": {"result": {"ok": True, "count": 1}}},
    )  # fmt: skip


def test_pinned_pages_are_compared(recording_of, header):
    comparison = compare(pinned(recording_of, header))
    assert comparison.disagreements == []
    names = Counter(f.name for f in comparison.fields if f.verdict == AGREED)
    assert names == {"outcome": 2, "entry": 2, "count": 2, "pin": 1, "frame": 1}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"result": {"ok": True, "count": 2}}, ("count", "2", "1")),
        ({"pins": [None]}, ("pin", "unfilled", "ram1 refs 1025 maps 1")),
        ({"pins": [{**PINNED, "refs": 2}]}, ("pin", "ram1 refs 2 maps 1", "ram1 refs 1025 maps 1")),
        ({"pins": [{**PINNED, "pfn": "0x1235"}]}, ("pin", "ram2 refs 1025 maps 1", "ram1 refs 1025 maps 1")),
        ({"pins": []}, ("pin", "none", "ram1 refs 1025 maps 1")),
    ],
)
def test_each_thing_seen_of_a_pin_counts(more, said, recording_of, header):
    (field,) = compare(pinned(recording_of, header, **more)).disagreements
    assert (field.name, field.recorded, field.model) == said


def test_what_nobody_saw_of_a_pin_is_neither_agreed_nor_explained(recording_of, header):
    comparison = compare(pinned(recording_of, header, pins=None, frames=None, result={"ok": True}))
    assert not [f for f in comparison.fields if f.name in ("pin", "frame") or (f.name, f.index) == ("count", 2)]


def test_a_page_that_only_a_pin_holds_keeps_its_name(recording_of, header):
    """The process lets go of it, and is given another one: which of the two is pinned is still known."""
    old, new = "pte:0x8000000001234867", "pte:0x8000000004321867"

    def after(second):
        recording = pinned(recording_of, header)
        (program,) = recording.programs
        more = [
            step("advise", slot="a", pages=1, advice="dontneed", entries={"0:a0": "pte:0x0"}),
            step("touch", slot="a", access="write", entries={"0:a0": second}),
        ]
        steps = (*program.steps[:3], *(read_step(one) for one in more))
        return compare(replace(recording, programs=(replace(program, steps=steps),))).disagreements

    assert after(new) == []
    (field,) = after(old)
    assert (field.name, field.index, field.recorded) == ("entry", 4, "pte:ram1+0x8000000000000867")


def test_where_an_iova_is_is_compared(recording_of, header):
    header["devices"][0]["bars"][0]["pfn"] = "0xfea00"
    for pfn, agreed in (("0xfea01", True), ("0xfea02", False)):
        comparison = compare(
            recording_of(
                step("map", slot="a", pages=2),
                {"op": "dma", "action": "map", "slot": "a", "page": 1, "pages": 1, "offset": 3,
                 "observed": {"result": {"ok": True}, "iovas": {"0+3": {"pfn": pfn}}}},
                {"op": "dma", "action": "unmap", "pages": 4,
                 "observed": {"result": {"ok": True, "count": 1}, "iovas": {"0+3": None}}},
            )
        )  # fmt: skip
        assert [f.name for f in comparison.disagreements] == ([] if agreed else ["iova"])


def test_slots_that_nobody_has_filled_are_a_crash_to_who_believes_it(recording_of, header):
    """5.10 says that it has got pages of a VM_MIXEDMAP: process_vm_readv gives back what is not there."""
    header["key"]["kernel"].update(version="5.10.262", release="5.10.0-46-amd64")
    header["regions"] = [{"name": "hole", "pfn": "0x20000", "pages": 64}]
    recording = recording_of(
        step("map", slot="a", pages=1, backing="pfnmap", insert="mixed", region="hole"),
        {"op": "pin", "slot": "a", "pages": 1, "variant": "pin_user_pages",
         "observed": {"result": {"ok": True, "count": 1}, "pins": [None]}},
        {"op": "unpin", "observed": {"result": {"ok": True, "count": 0}}},
        {"op": "transfer", "kind": "process_vm_readv", "slot": "a", "observed": {"result": {"died": "oops"}}},
    )  # fmt: skip
    comparison = compare(recording)
    assert comparison.disagreements == []
    (execution,) = comparison.executions.values()
    assert execution.died == "unfilled-slot"
    assert compare(recording, "v6.1").disagreements != []


def test_frames_are_those_of_the_recorded_machine(recording_of, header):
    """Another memory layout puts the BAR elsewhere; offsets into it are what counts."""
    steps = (
        step("map", slot="a", pages=2, offset=3),
        step("touch", slot="a", page=1, entries={"0:a1": "pte:0x80000000c0004237"}),
    )
    header["devices"][0]["bars"][0]["pfn"] = "0xc0000"
    assert compare(recording_of(*steps)).disagreements == []
    header["devices"][0]["bars"][0]["pfn"] = "0xc0001"
    (field,) = compare(recording_of(*steps)).disagreements
    assert (field.recorded, field.model) == tuple(f"pte:dev0[{n}]+0x8000000000000237" for n in ("0x3", "0x4"))


def test_two_devices(recording_of, header):
    header["devices"].append({"name": "ivshmem", "bars": [{"bar": 0, "pages": 16, "pfn": "0xfeb00"}]})
    header["devices"][0]["bars"][0]["pfn"] = "0xfea00"
    recording = recording_of(
        step("map", slot="a", pages=2),
        step("map", slot="b", pages=2, device=1),
        step("touch", slot="a"),
        step("touch", slot="b", page=1),
        step("dev", action="memory_off", device=1, entries={"0:a0": "pte:0x80000000fea00237", "0:b1": "pte:0x0"}),
        step("touch", slot="a", result={"ok": True, "value": "0x10000ed"}),
        step("touch", slot="b", result={"signal": "SIGBUS"}),
    )
    assert compare(recording).disagreements == []


def test_unknown_observations_are_counted_not_dropped(recording_of):
    observed = {"result": {"ok": True, "short": 3}, "colour": {"0:a0": "0x0"}}
    recording = recording_of({"op": "map", "slot": "a", "pages": 1, "observed": observed})
    comparison = compare(recording)
    assert [(f.name, f.verdict) for f in comparison.fields] == [
        ("outcome", AGREED),
        ("short", EXCLUDED),
        ("colour", EXCLUDED),
    ]
    assert comparison.rules() == {"unknown-field": 2}


def test_walks_that_end_further_up_fold_into_the_pmd(recording_of):
    for level in ("pgd", "p4d", "pud", "pmd"):
        (field,) = compare(recording_of(step("observe", entries={"0:a0": f"{level}:0x0"}))).fields
        assert field.verdict == AGREED
    (field,) = compare(recording_of(step("observe", entries={"0:a0": "pte:0x0"}))).fields
    assert field.verdict == DISAGREED


def test_what_is_not_modelled(recording_of, header):
    (execution,) = execute_all(recording_of(step("map", slot="a", pages=1, bar=2))).values()
    assert "has no BAR 2 to map" in execution.unmodelled
    assert execution.steps == ()
    header["devices"][0]["bars"] = []
    with pytest.raises(NotModelledError, match=r"device 0 \(edu\) has no BAR"):
        execute_all(recording_of(step("observe")))


@pytest.mark.parametrize("numbers", [(0, 2), (1, 4)])
def test_a_device_with_two_bars(recording_of, header, numbers):
    """Each is mapped from its own frames, and both go when memory decode does; a third there is not."""
    first, second = numbers
    header["devices"][0]["bars"] = [
        {"bar": first, "pages": 256, "pfn": "0xfea00"},
        {"bar": second, "pages": 16, "pfn": "0xfeb40"},
    ]
    recording = recording_of(
        step("map", slot="a", pages=2, bar=first),
        step("map", slot="b", pages=2, bar=second, offset=3),
        step("map", slot="c", pages=2, bar=second, offset=15, result={"ok": False, "errno": "EINVAL"}),
        step("touch", slot="a"),
        step("touch", slot="b", page=1, entries={"0:b1": "pte:0x80000000feb44237"}),
        step("dev", action="memory_off", entries={"0:a0": "pte:0x0", "0:b1": "pte:0x0"}),
        step("touch", slot="b", result={"signal": "SIGBUS"}),
        step("dev", action="memory_on"),
        step("touch", slot="b", entries={"0:b0": "pte:0x80000000feb43237"}),
    )
    comparison = compare(recording)
    assert comparison.disagreements == []
    assert sum(f.verdict == AGREED for f in comparison.fields) == 6
    (execution,) = execute_all(recording_of(step("map", slot="a", pages=1, bar=3))).values()
    assert "has no BAR 3 to map" in execution.unmodelled


def test_which_kernel_of_the_model():
    key = KernelKey(version="6.1.192", release="6.1.0-56-amd64", distribution="debian")
    assert model_of(key) == "deb-6.1.192"
    assert model_of(KernelKey(version="6.12", release="6.12.0")) == "v6.12"
    with pytest.raises(NotModelledError, match=r"the model has no kernel 6\.1\.99 \(v6\.1\.99\)"):
        model_of(KernelKey(version="6.1.99", release="6.1.99"))
    with pytest.raises(NotModelledError, match="the model has no kernel"):
        model_of(KernelKey(version="6.1.192", release="6.1.192", distribution="other"))


def test_an_unknown_model(recorded):
    with pytest.raises(KernelSpecError, match=r"v9\.9"):
        compare(recorded("vfiorev-6.1"), "v9.9")


def test_the_same_twice(recorded):
    first, second = (compare(recorded("vfiorev-6.1")) for _ in range(2))
    assert first == second


# -- where the recordings come from -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", VFIOREV_ROWS)
def test_the_converter_makes_exactly_these_files(name):
    raw = (VFIOREV / "raw" / f"{name}.txt").read_bytes()
    assert dumps(convert(raw, f"{name}.txt")) == (VFIOREV / f"{name}.jsonl").read_text()


def test_the_converter_refuses_other_output():
    raw = (VFIOREV / "raw" / "vfiorev-6.1.txt").read_text()
    for old, new, message in (
        ("VDONE\n", "", "VDONE"),
        ("mremap=ok", "mremap=FAIL", "mremap failed"),
        ("  F child", "cmdwrite: Input/output error\n  F child", "write of COMMAND failed"),
        ("  C2 touched", "  XX touched", "scenarios"),
        ("touch=BUS/2\n", "touch=BUS/2 touch=BUS/2\n", "more than expected"),
        ("pte=L4:0 touch=BUS/2\n", "touch=BUS/2\n", "touch=BUS/2 where pte was to come"),
        ("touch=BUS/2", "touch=ILL/2", "no touch prints"),
        ("touch0=-", "touch0=ok:1", "do not fit"),
    ):
        assert old in raw
        with pytest.raises(ValueError, match=message):
            convert(raw.replace(old, new, 1).encode(), "x.txt")


# -- the command ------------------------------------------------------------------------------------------------------
def test_the_table(capsys):
    assert main([str(VFIOREV / f"{name}.jsonl") for name in VFIOREV_ROWS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "recording", "kernel", "model", "programs", "operations", "fields",
        "agreed", "excluded", "unobserved", "disagreed",
    ]  # fmt: skip
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    for name, (spec, agreed, unobserved) in VFIOREV_ROWS.items():
        fields = [agreed, 102 - agreed - unobserved, unobserved, 0]
        assert rows[name][1:] == [spec, "9", "76", "102", *map(str, fields)]
    assert "excluded, 9 x bus-dependent-value" in "\n".join(lines)


def test_the_command_says_what_disagrees(capsys):
    assert main(["--model", "v6.12", str(VFIOREV / "vfiorev-5.10.jsonl")]) == 1
    out = capsys.readouterr().out
    assert "vfiorev-5.10: program B, step 6 (touch slot=b): outcome: recorded ok, model SIGBUS\n" in out


def test_the_command_goes_on_after_a_bad_file(tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{\n")
    assert main([str(bad), str(tmp_path / "none.jsonl"), str(VFIOREV / "vfiorev-7.3.jsonl")]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"{bad}:1: this is not JSON")
    assert "none.jsonl" in err
    assert "deb-7.3.4" in out
    assert main(["--model", "v9.9", str(VFIOREV / "vfiorev-7.3.jsonl")]) == 2
    assert "no kernel 'v9.9'" in capsys.readouterr().err


def test_a_recording_of_a_guest_that_died(recording_of):
    """That the guest died is an outcome like any other; the model did not die of it, so they differ."""
    recording = recording_of(
        step("map", slot="a", pages=1, result={"died": "oops"}), {"op": "touch", "slot": "a"}, {"op": "exit"}
    )
    (field,) = compare(recording).disagreements
    assert (field.recorded, field.model) == ("died", "ok")


def test_raw_output_is_what_the_header_says(recorded):
    for name in VFIOREV_ROWS:
        header = json.loads((VFIOREV / f"{name}.jsonl").read_text().splitlines()[0])
        assert header["source"]["file"] == f"{name}.txt"
        assert loads(dumps(recorded(name)).splitlines()) == recorded(name)


# -- huge leaves ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", ["6.12", "7.3"])
def test_a_store_that_faults_for_ever_is_a_hang_on_both_sides(kernel):
    """clear_refs, then a store to an unmapped block of a BAR: vfio-pci's leaf is read-only, again and again."""
    name = "q35-2-huge-1-27"
    found = [store.programs_of(p, (name,)) for p in packaged() if p.name.startswith(f"live-{kernel}-q35-huge")]
    (part,) = [one for one in found if one.programs]
    last = part.programs[0].steps[-1].observed.result
    assert (last.died, last.killed) == ("hang", True)
    comparison = compare(part)
    assert comparison.executions[name].steps[-1].outcome == "died: hang"
    assert comparison.disagreements == []
