"""Campaigns: what a guest answers is kept, compared, counted, shrunk and shown. The guest here is the model itself."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mmlitmus.conform import campaign as campaigns
from mmlitmus.conform import compare, explained
from mmlitmus.conform.batch import BatchAnswers
from mmlitmus.conform.campaign import (
    Answers,
    Campaign,
    Compared,
    Kernel,
    Twice,
    answers_at,
    recordings,
    run,
)
from mmlitmus.conform.codec import encode
from mmlitmus.conform.compare import SECOND_BOOT, Field, boots_differ
from mmlitmus.conform.execute import Seen, execute
from mmlitmus.conform.explained import Explained
from mmlitmus.conform.generate import language_of, programs
from mmlitmus.conform.layout import FRAME, MODEL_RAM, SLOT_BASE, SLOT_SIZE, Layout, Names, message_of
from mmlitmus.conform.live import LiveError, header_of, text_of
from mmlitmus.conform.schema import (
    MESSAGES,
    Advise,
    Entry,
    Exit,
    Fork,
    Map,
    Message,
    Observed,
    Program,
    Protect,
    Step,
    Switch,
    Touch,
    read_step,
)
from mmlitmus.conform.shrink import shrink, signature
from mmlitmus.conform.store import RECORDINGS, dump, load
from mmlitmus.kernel.arch.x86.pgtable import invert_frame, pte_pfn, pte_present
from mmlitmus.kernel.fs.proc.task_mmu import PM_FRAME, PM_PRESENT
from mmlitmus.report import conform as report

from .test_live import IDENTITY, READY

MODEL = "deb-6.12.117"
REGIONS = [
    {"name": "bar", "pfn": "0xfd000", "pages": 4096, "valid": False},
    {"name": "reserved", "pfn": "0x10000", "pages": 4096, "valid": True, "reserved": True},
    {"name": "hole", "pfn": "0x20000", "pages": 32768, "valid": False},
    {"name": "ram", "pfn": "0x5600", "pages": 512, "valid": True, "reserved": False},
]
MACHINE = {**READY, "regions": REGIONS, "devices": [], "version": "Debian 6.12.117-1"}


@dataclass(frozen=True)
class Ran:
    kind: str
    lines: tuple[str, ...]
    console: tuple[str, ...] = ()
    why: str = ""


@dataclass
class Echo:
    """A guest that answers what the model of ``spec`` says, changed by ``lies`` (step, observed as JSON).

    ``machine``: what its agent says of itself; ``ram``: by how many pages its RAM frames are not the model's.
    """

    spec: str = MODEL
    lies: Callable[[Step, dict[str, Any]], None] = lambda step, seen: None
    dies: Callable[[Step], str] = lambda step: ""
    texts: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=lambda: MACHINE)
    ram: int = 0
    held: tuple[int, ...] = ()

    def run(self, program: str, timeout: float = 0) -> Ran:
        self.texts.append(program)
        ident, steps = parsed(program)
        header = header_of(self.machine, IDENTITY)
        execution = execute(Program(id=ident, steps=steps, held=()), header, self.spec)
        said: list[dict[str, Any]] = [{"begin": ident, "memtypes": [], "frames": self.counted()}]
        live, current = {0}, 0
        for n, (step, seen) in enumerate(zip(steps, execution.steps, strict=False)):
            current = step.process if isinstance(step, Switch) else current
            if current not in live:
                said.append({"step": n, "skipped": "there is no such process", "observed": {}})
                continue
            if isinstance(step, Fork) and seen.outcome == "ok":
                live.add(step.child)
            if isinstance(step, Exit):
                live.remove(current)
            if self.dies(step):
                return Ran(self.dies(step), tuple(map(json.dumps, said)), ("[1] BUG: dead",), "BUG: dead")
            observed = answer(step, seen, self.frame)
            self.lies(step, observed)
            said.append({"step": n, "observed": observed})
        if execution.died:
            kind = self.dies(steps[len(execution.steps)]) or "panic"
            return Ran(kind, tuple(map(json.dumps, said)), ("[1] BUG: dead",), "BUG: dead")
        log = [line if isinstance(line, str) else printed(line) for line in execution.log]
        log += ["WARNING: CPU: 0 PID: 1 at here.c:1 here+0x1/0x2"] if execution.warned else []
        said.append({"end": ident, "log": log, "stopped": None, "clean": True, "frames": self.counted(*self.held)})
        return Ran("ended", tuple(map(json.dumps, said)))

    def frame(self, pfn: int) -> int:
        """Where this guest has one of the model's RAM frames; others are where its header says."""
        return pfn - MODEL_RAM + self.ram if pfn >= MODEL_RAM else pfn

    def counted(self, *held: int) -> list[dict[str, Any]]:
        """The counts of the regions' frames, one each: as if the module held them; ``held`` are held once more."""
        first = {r["name"]: int(r["pfn"], 16) for r in self.machine["regions"]}
        frames = [first[name] + n for name in ("reserved", "ram") for n in range(64)]
        return [{"pfn": hex(pfn), "pages": 1, "refs": 1 + (pfn in held), "maps": 0} for pfn in frames]


def parsed(text: str) -> tuple[str, tuple[Step, ...]]:
    """The agent's reading of a program, places included."""
    ident = ""
    steps: list[Step] = []
    for line in text.splitlines():
        word, *fields = line.split(" ")
        if word == "program":
            ident = fields[0]
        elif line.startswith("places="):
            places = line.removeprefix("places=").split(",")
            looked = dict.fromkeys(places)
            seen = Observed(
                entries=looked, vm_flags=looked, memtypes=(), pagemap=looked, locked={}, frames={}, events={}
            )
            steps[-1] = replace(steps[-1], observed=seen)
        elif word != "end":
            given: dict[str, Any] = {"op": word}
            for name, _, value in (f.partition("=") for f in fields):
                given[name] = [f for f in value.split(",") if f] if name == "flags" else value
                if re.fullmatch(r"\d+", value):
                    given[name] = int(value)
            steps.append(read_step(given))
    return ident, tuple(steps)


def printed(message: Message) -> str:
    """The line that the kernel prints."""
    at = f"[mem {message.start:#x}-{message.end - 1:#x}]"
    return {
        "freeing-invalid-memtype": f"x86/PAT: process:9 freeing invalid memtype {at}",
        "expected-mapping-type": f"x86/PAT: process:9 map pfn expected mapping type write-back for {at}, got uncached",
        "ram-range-type": f"x86/PAT: process:9 map pfn RAM range req uncached for {at}, got write-back",
        "conflicting-types": f"x86/PAT: process:9 conflicting memory types {message.start:x}-{message.end:x} a<->b",
        "reserve-failed": f"x86/PAT: memtype_reserve failed {at}, track uncached, req write-back",
        "ram-reserve-failed": f"x86/PAT: reserve_ram_pages_type failed {at}, track 0x3, req 0x1",
    }[message.message]


@pytest.mark.parametrize("name", MESSAGES)
def test_a_line_of_the_kernels_is_the_message_that_it_was(name: str) -> None:
    message = Message(message=name, start=0xFD000000, end=0xFD003000)
    assert message_of(printed(message)) == message


def told(event: str) -> dict[str, Any]:
    """What the agent says of a notifier's call that a recording has as ``start unmap a0-a2``."""
    when, kind, first, last = re.fullmatch(r"(start|end) (\S+) (\w+)-(\w+)", event).groups()  # type: ignore[union-attr]
    return {"event": kind, "end": when == "end", "first": hex(address_of(first)), "last": hex(address_of(last))}


def address_of(said: str) -> int:
    """The address that ``slot_address`` has made words of."""
    if said.startswith("0x"):
        return int(said, 16)
    return SLOT_BASE + (ord(said[0]) - ord("a")) * SLOT_SIZE + int(said[1:]) * 4096


def answer(step: Step, seen: Seen, frame: Callable[[int], int]) -> dict[str, Any]:
    """What an agent would say of what the model did, with its frames where the guest has them."""
    observed: dict[str, Any] = {
        "entries": {},
        "vm_flags": dict(seen.vm_flags),
        "memtypes": [encode(m) for m in seen.memtypes or ()],
        "pagemap": {},
        "frames": {},
        "locked": dict(seen.locked or {}),
        "events": {process: [told(e) for e in events] for process, events in (seen.events or {}).items()},
    }
    for place, e in seen.entries.items():
        pfn = frame(pte_pfn(e.bits)) if pte_present(e.bits) else 0
        bits = e.bits & ~FRAME | invert_frame(pfn << 12, e.bits) if pfn else e.bits
        observed["entries"][place] = f"{e.level}:{bits:#x}"
    for place, word in seen.pagemap.items():
        present = word & PM_PRESENT
        observed["pagemap"][place] = hex(word & ~PM_FRAME | frame(word & PM_FRAME)) if present else hex(word)
    for place, f in (seen.frames or {}).items():
        ram = f.pfn >= MODEL_RAM  # of a region's frame the agent says the count, and the module holds it once
        observed["frames"][place] = {"pfn": hex(frame(f.pfn)), "refs": f.refs + (not ram), "maps": f.maps}
    if step.has_result and seen.outcome is not None:
        how = "ok" if seen.outcome == "ok" else "errno" if seen.outcome.startswith("-") else "signal"
        observed["result"] = {how: True if how == "ok" else seen.outcome.lstrip("-")}
        if how == "signal" and seen.code is not None:
            observed["result"]["code"] = seen.code
    return observed


def kernel_of(guest: Any, answers: Answers | None = None, model: str = MODEL) -> Kernel:
    return Kernel(guest, guest.machine, IDENTITY, "pc", model, answers or Answers(None))


def no_unmap(step: Step, seen: dict[str, Any]) -> None:
    """A kernel whose munmap fails."""
    if step.op == "unmap":
        seen["result"] = {"errno": "EPERM"}


def test_a_kernel_that_does_what_the_model_does_agrees() -> None:
    campaign = run(kernel_of(Echo()), programs(11, 8), Campaign("6.12", MODEL))
    counts = campaign.counts
    assert campaign.refused == []
    assert counts["programs"] == 8
    assert counts["unexplained"] == counts["explained"] == 0
    assert counts["fields"] == counts["agreed"] + counts["excluded"] + counts["unobserved"]
    assert counts["agreed"] > 10_000
    assert campaign.good


def test_a_kernel_of_another_age_does_not_agree() -> None:
    campaign = run(kernel_of(Echo("deb-5.10.262")), programs(1, 12), Campaign("5.10", MODEL))
    assert campaign.unexplained
    assert not campaign.good


def test_a_difference_is_counted_at_its_operation_and_shrunk_to_it() -> None:
    kernel = kernel_of(Echo(lies=no_unmap))
    campaign = Campaign("6.12", MODEL)
    found: list[tuple[Compared, Field]] = []
    run(kernel, programs(11, 8), campaign, lambda one, left: found.extend((one, f) for f in left[:1]))
    assert campaign.operations["unmap"].fields["unexplained"] > 0
    assert sum(t.fields["unexplained"] for op, t in campaign.operations.items() if op != "unmap") == 0
    one, difference = found[0]
    assert len(one.program.steps) > 3
    smallest = shrink(one.program, signature(difference), kernel.compare, lambda c: c.different)
    assert smallest is not None
    assert [s.op for s in smallest[0].program.steps] == ["unmap"]
    assert (smallest[1].recorded, smallest[1].model) == ("-EPERM", "ok")
    lines = report.difference("6.12", MODEL, report.Difference(smallest[0], (smallest[1],), 3, True))
    text = "\n".join(lines)
    assert "and 2 more like it" in lines[0]
    assert "outcome: kernel -EPERM" in text
    assert "         model  ok" in text


def test_a_difference_that_does_not_come_again_is_not_shrunk() -> None:
    (program,) = programs(11, 1)
    kernel = kernel_of(Echo())
    assert shrink(program, ("unmap", "outcome", "-EPERM", "ok"), kernel.compare, lambda c: c.different) is None


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    guest = Echo()
    for _ in range(2):
        campaign = run(
            kernel_of(guest, answers_at(tmp_path, "6.12", IDENTITY)), programs(5, 6), Campaign("6.12", MODEL)
        )
        assert campaign.counts["programs"] == 6
        assert campaign.good
    assert len(guest.texts) == 6
    other = answers_at(tmp_path, "6.12", {**IDENTITY, "agent": "2" * 64})
    assert other.known == {}, "another agent is asked afresh"


# -- everything that the agent can see counts --------------------------------------------------------------------------
#: a private copy, one in each of two processes, a MIXEDMAP, a mapping that is locked in vain
SEES = Program(
    id="sees",
    steps=(
        Map(slot="a", pages=3, backing="pfnmap", region="reserved", sharing="private"),
        Touch(slot="a", page=1, access="write"),
        Touch(slot="a", page=2, access="write"),
        Fork(child=1),
        Touch(slot="a", page=1, access="write"),
        Protect(slot="a", pages=3, prot="r"),
        Protect(slot="a", pages=3, prot="rw"),
        Touch(slot="a", page=1, access="write"),
        Map(slot="b", pages=2, backing="pfnmap", region="bar", insert="mixed"),
        Touch(slot="b", page=1, access="write"),
        Advise(slot="a", pages=3, advice="lock"),
    ),
)


def compared(lies: Callable[[Step, dict[str, Any]], None] = lambda step, seen: None, **more: Any) -> Compared:
    one = kernel_of(Echo(lies=lies, **more)).compare(SEES)
    assert not one.refused
    assert one.execution is not None
    assert not one.execution.stopped
    return one


def test_what_the_model_sees_of_it() -> None:
    one = compared(ram=0x4444)
    assert one.different == []
    said = {(f.index, f.name, f.place): f.recorded for f in one.fields}
    assert said[1, "entry", "0:a1"] == said[2, "entry", "0:a1"] == "pte:ram1+0x8000000000000867"
    assert str(said[3, "entry", "1:a1"]).startswith("pte:ram1+0x")
    assert said[3, "frame", "0:a1"] == said[3, "frame", "1:a1"] == "ram1 refs 2 maps 2"
    assert said[4, "frame", "0:a1"] == "ram3 refs 1 maps 1"
    assert said[4, "frame", "1:a1"] == "ram1 refs 1 maps 1"
    assert said[7, "frame", "0:a1"] == "ram3 refs 1 maps 1", "nobody else maps it: it is written in place"
    assert said[1, "frame", "0:a0"] == "reserved[0x0] refs 0 maps 0", "a PFNMAP counts nothing"
    assert said[2, "pagemap", "0:a1"] == "soft-dirty", "not even a private copy is shown"
    assert said[9, "pagemap", "0:b1"] == "present soft-dirty bar[0x1]"
    assert said[10, "locked", "0"] == "0"
    assert said[10, "held", ""] == "none"


def spoil(name: str, key: str, change: Callable[[Any], Any]) -> Callable[[Step, dict[str, Any]], None]:
    """A kernel that answers one thing otherwise, after the last step."""

    def lie(step: Step, seen: dict[str, Any]) -> None:
        if isinstance(step, Advise):
            seen[name][key] = change(seen[name].get(key))

    return lie


LIES: dict[str, tuple[str, str, str, Callable[[Any], Any]]] = {
    **{
        f"pagemap bit {bit}": ("pagemap", "pagemap", "0:b1", lambda word, bit=bit: hex(int(word, 16) ^ 1 << bit))
        for bit in (0, 20, *range(55, 64))
    },
    "pagemap of a PFNMAP": ("pagemap", "pagemap", "0:a0", lambda word: hex(int(word, 16) | 1 << 63)),
    "pagemap of nothing": ("pagemap", "pagemap", "0:b5", lambda word: hex(1 << 55)),
    "locked": ("locked", "locked", "0", lambda pages: pages + 2),
    "held once more": ("frame", "frames", "0:a0", lambda f: {**f, "refs": f["refs"] + 1}),
    "mapped once more": ("frame", "frames", "0:a0", lambda f: {**f, "maps": f["maps"] + 1}),
    "another frame": ("frame", "frames", "0:a1", lambda f: {**f, "pfn": "0x77777"}),
}


@pytest.mark.parametrize("lie", LIES)
def test_each_of_it_is_compared(lie: str) -> None:
    field, name, key, change = LIES[lie]
    one = compared(spoil(name, key, change))
    assert [(f.index, f.name, f.place) for f in one.different] == [(10, field, key)]


def test_a_frame_that_is_not_counted_where_the_model_counts_it() -> None:
    one = compared(lambda step, seen: seen["frames"].clear() if isinstance(step, Advise) else None)
    assert {(f.index, f.name) for f in one.different} == {(10, "frame")}
    assert {f.recorded for f in one.different} == {"none"}


def test_a_frame_that_is_held_when_all_is_over() -> None:
    one = compared(held=(0x10001,))
    assert [(f.index, f.name, f.recorded, f.model) for f in one.different] == [
        (10, "held", "reserved[0x1] refs 1 maps 0", "none")
    ]


def test_a_copy_that_is_copied_again_is_another_frame() -> None:
    """Which frame it is says nothing; that it is another than before, where the model keeps it, does."""

    def copies_again(step: Step, seen: dict[str, Any]) -> None:
        copies_again.after |= isinstance(step, Protect) and step.prot == "rw"  # type: ignore[attr-defined]
        bits = int(seen["entries"]["0:a1"].partition(":")[2], 16)
        if copies_again.after and pte_pfn(bits) == int(seen["frames"]["0:a1"]["pfn"], 16):  # type: ignore[attr-defined]
            seen["entries"]["0:a1"] = f"pte:{bits + (0x5000 << 12):#x}"
            seen["frames"]["0:a1"]["pfn"] = hex(pte_pfn(bits) + 0x5000)

    copies_again.after = False  # type: ignore[attr-defined]
    assert {(f.name, f.place) for f in compared(copies_again).different} == {("entry", "0:a1"), ("frame", "0:a1")}


def test_two_pages_that_are_one_frame() -> None:
    def merged(step: Step, seen: dict[str, Any]) -> None:
        seen["entries"]["0:a2"] = seen["entries"]["0:a1"]

    assert any(f.name == "entry" and f.place == "0:a2" for f in compared(merged).different)


def test_what_a_notifier_hears_is_compared() -> None:
    def heard(step: Step, seen: dict[str, Any]) -> None:
        seen["events"] = {"0": [{"event": "unmap", "end": False, "first": "0x7f0000000000", "last": "0x7f0000002000"}]}

    one = compared(heard)
    events = [f for f in one.fields if f.name == "events"]
    assert {f.recorded for f in events} == {"start unmap a0-a2"}
    assert one.different == events


def test_no_rule_excludes_what_the_model_can_say() -> None:
    """A rule is for a value that means nothing on one side. One that excludes a whole field of what the model sees at a
    step would hide every fault of it: it goes as soon as the model can say the field.
    """
    step = read_step({"op": "touch", "slot": "a"})
    can_say = [f.name for f in dataclasses.fields(Seen) if f.name not in ("off", "dead", "unmodelled")]
    names = [{"outcome": "outcome", "entries": "entry", "code": "si_code", "frames": "frame", "pins": "pin",
              "iovas": "iova"}.get(name, name) for name in can_say]  # fmt: skip
    for name in [*names, "log", "warned", "held"]:
        field = compare.Field("p", 0, step, name, "", "one", "another", Seen(outcome="ok"))
        assert field.rule is None, name
        assert field.verdict == compare.DISAGREED, name


def test_the_zero_page_is_no_page_of_ram() -> None:
    machine = {**MACHINE, "zero_pfn": "0x5555"}
    entry = Entry("pte", 0x8000000005555025)
    layout = Layout(header_of(machine, IDENTITY))
    assert layout.entry(entry, Names()) == "pte:zero+0x8000000000000025"
    assert Layout(header_of(MACHINE, IDENTITY)).entry(entry, Names()) == "pte:ram+0x8000000000000025"
    assert layout.pagemap(1 << 63 | 0x5555, Names()) == "present zero"


def test_huge_frames_are_their_first_frame_and_bits() -> None:
    layout = Layout(header_of(MACHINE, IDENTITY))
    assert layout.entry(Entry("pmd", 0x80000000FD2001E7), Names()) == "pmd:bar[0x200]+0x80000000000001e7"
    assert layout.entry(Entry("pmd", 0x80000000FD2011E7), Names()) == "pmd:bar[0x200]+0x80000000000011e7", "PAT"


# -- two boots --------------------------------------------------------------------------------------------------------
def in_second_boot(one: Compared) -> list[Field]:
    return [f for f in one.fields if f.name.endswith(SECOND_BOOT)]


SECOND = {
    **MACHINE,
    "regions": [{**r, "pfn": hex(int(r["pfn"], 16) + (0x1800 if r["name"] == "ram" else 0))} for r in REGIONS],
    "zero_pfn": "0x99",
}


def twice(lies: Callable[[Step, dict[str, Any]], None] = lambda step, seen: None, **identity: str) -> Twice:
    other = Echo(lies=lies, machine=SECOND, ram=0x9000)
    second = Kernel(other, SECOND, {**IDENTITY, "memory_mb": "3072", **identity}, "pc", MODEL)
    return Twice(kernel_of(Echo()), second)


def test_two_boots_that_have_everything_elsewhere_agree() -> None:
    campaign = run(twice(), [*programs(11, 3), SEES], Campaign("6.12", MODEL))
    assert campaign.good
    assert campaign.unstable == set()
    assert campaign.counts["programs"] == 4


def test_what_only_one_boot_says_is_unexplained_and_named() -> None:
    pair = twice(spoil("locked", "0", lambda pages: pages + 1))
    one = pair.compare(SEES)
    differ = in_second_boot(one)
    assert [(f.index, f.name, f.place, f.recorded, f.model) for f in differ] == [
        (10, "locked, second boot", "0", "0", "1 in the second boot")
    ]
    campaign = Campaign("6.12", MODEL)
    assert campaign.add(one) == differ
    assert campaign.unstable == {"sees"}
    assert report.notes(campaign) == ["6.12: 1 program answered otherwise in a second boot"]
    lines = report.difference("6.12", MODEL, report.Difference(one, tuple(differ)))
    assert "        locked, second boot 0: first  0" in lines
    assert "                               second 1 in the second boot" in lines
    assert campaign.counts["unexplained"] == 1
    assert not campaign.good
    assert one.boots[0].lab.memory_mib == 3072


def test_a_step_that_only_one_boot_survives() -> None:
    pair = twice()
    pair.second.guest.dies = lambda step: "oops" if isinstance(step, Advise) else ""  # type: ignore[union-attr]
    differ = in_second_boot(pair.compare(SEES))
    assert ("outcome, second boot", "ok", "died in the second boot") in [(f.name, f.recorded, f.model) for f in differ]
    assert ("held, second boot", "none", "nothing in the second boot") in [
        (f.name, f.recorded, f.model) for f in differ
    ]


def test_what_cannot_be_used_of_the_second_boot() -> None:
    def refuses(step: Step, seen: dict[str, Any]) -> None:
        seen["result"] = {"ok": True, "errno": "EIO"}

    assert twice(refuses).compare(SEES).refused.startswith("in the second boot: step 0")


def field_of(name: str, recorded: str, extra: dict[str, Any], *, off: bool = False) -> Field:
    step = replace(SEES.steps[1], observed=Observed(extra=extra))
    return Field("p", 1, step, name, "", recorded, None, Seen("ok", off=off))


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ("bus-dependent-value", lambda value: field_of("value", value, {}, off=True)),
        ("unknown-field", lambda value: field_of("colour", value, {"colour": value})),
    ],
)
def test_what_may_differ_between_boots_has_a_rule(
    rule: str, field: Callable[[str], Field], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert boots_differ([field("0x0")], [field("0xffffffff")]) == []
    monkeypatch.setattr(compare, "RULES", tuple(r for r in compare.RULES if r.name != rule))
    assert [f.model for f in boots_differ([field("0x0")], [field("0xffffffff")])] == ["0xffffffff in the second boot"]
    assert boots_differ([field("0x0")], [field("0x0")]) == []


def test_no_other_rule_covers_a_difference_between_boots() -> None:
    assert {r.name for r in compare.RULES if r.boots} == {"bus-dependent-value", "unknown-field"}
    pair = twice(lambda step, seen: seen["events"].update({"0": [{"lost": 1}]}))
    differ = in_second_boot(pair.compare(SEES))
    assert {f.name for f in differ} == {"events, second boot"}


def test_boots_that_are_not_independent() -> None:
    for identity, machine, said in (
        ({"memory_mb": "2048"}, SECOND, "the same memory"),
        ({}, {**SECOND, "command_line": "console=ttyS0 nokaslr"}, "nokaslr"),
        ({"config": "9" * 64}, SECOND, "not of one kernel"),
        ({"probe": "9" * 64}, SECOND, "not of one kernel"),
    ):
        pair = {**IDENTITY, "memory_mb": "3072", **identity}
        with pytest.raises(LiveError, match=said):
            Twice(kernel_of(Echo()), Kernel(None, machine, pair, "pc", MODEL))


def test_a_second_boot_that_answers_otherwise_in_a_batch_is_asked_again() -> None:
    pair = twice()
    program = next(programs(11, 1))
    text = text_of(program)
    answers = BatchAnswers(Answers(None))
    liar = Echo(lies=lambda step, seen: seen.update(result={"errno": "EPERM"}), machine=SECOND, ram=0x9000)
    answers.put_of_batch(text, liar.run(text), SECOND)
    honest = Twice(pair.first, replace(pair.second, answers=answers))
    assert not honest.compare(program).different, "it was the batch that answered otherwise"
    kept = BatchAnswers(Answers(None))
    kept.put(text, liar.run(text), SECOND)
    assert Twice(pair.first, replace(pair.second, answers=kept)).compare(program).different, "a fresh kernel's counts"


def test_recordings_of_two_boots_are_read_again_and_agree(tmp_path: Path) -> None:
    done: list[Compared] = []
    run(twice(), [SEES, *programs(11, 2)], Campaign("6.12", MODEL), lambda one, left: done.append(one))
    # a campaign that was broken off goes on in another boot: what it had is of the boot that answered
    later = Twice(
        kernel_of(Echo(machine=SECOND)), Kernel(Echo(), MACHINE, {**IDENTITY, "memory_mb": "4096"}, "pc", MODEL)
    )
    run(later, programs(12, 1), Campaign("6.12", MODEL), lambda one, left: done.append(one))
    made = recordings(done)
    assert [len(r.programs) for r in made] == [3, 1]
    lies = twice(spoil("locked", "0", lambda pages: pages + 1)).compare(SEES)
    assert recordings([lies]) == [], "what two boots do not agree on is no answer of both"
    assert [[k.lab.memory_mib for k in r.header.boots] for r in made] == [[3072], [4096]]
    assert [r.header.zero_pfn for r in made] == [None, 0x99]
    for n, recording in enumerate(made):
        dump(recording, tmp_path / f"{n}.jsonl.gz", new=True)
        again = load(tmp_path / f"{n}.jsonl.gz")
        assert again.programs == recording.programs
        assert compare.compare(again).disagreements == []


def test_a_broken_off_write_loses_nothing_but_itself(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "answers")
    for text in ("one", "two"):
        answers.put(text, Ran("ended", ("{}",)), MACHINE)
    raw = (tmp_path / "answers").read_bytes()
    (tmp_path / "answers").write_bytes(raw[:-3])
    again = Answers(tmp_path / "answers")
    assert again.get("one") is not None
    assert again.get("two") is None
    again.put("two", Ran("ended", ("{}",)), MACHINE)
    assert Answers(tmp_path / "answers").get("two") is not None


def test_an_answer_that_is_damaged_takes_no_other_with_it(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "answers")
    for text in ("one", "two"):
        answers.put(text, Ran("ended", ("{}",)), MACHINE)
    raw = bytearray((tmp_path / "answers").read_bytes())
    raw[20] ^= 0xFF
    (tmp_path / "answers").write_bytes(bytes(raw))
    again = Answers(tmp_path / "answers")
    assert again.get("one") is None
    assert again.get("two") is not None
    again.put("one", Ran("ended", ("{}",)), MACHINE)
    assert len(Answers(tmp_path / "answers").known) == 2


def test_ctrl_c_keeps_what_was_counted(tmp_path: Path) -> None:
    class Stops(Echo):
        def run(self, program: str, timeout: float = 0) -> Ran:
            if len(self.texts) == 3:
                raise KeyboardInterrupt
            return super().run(program, timeout)

    campaign = Campaign("6.12", MODEL)
    with pytest.raises(KeyboardInterrupt):
        run(kernel_of(Stops(), Answers(tmp_path / "a")), programs(5, 6), campaign)
    assert campaign.counts["programs"] == 3
    assert len(Answers(tmp_path / "a").known) == 3


def test_a_guest_that_dies_is_a_difference_and_the_rest_goes_on() -> None:
    guest = Echo(dies=lambda step: "oops" if step.op == "unmap" else "")
    campaign = run(kernel_of(guest), programs(5, 8), Campaign("6.12", MODEL))
    assert campaign.counts["programs"] == 8
    assert 0 < campaign.died["oops"] < 8
    assert len(campaign.unexplained) == campaign.died["oops"]
    assert "ended the guest (oops)" in "\n".join(report.notes(campaign))


#: a remap_pfn_range of half a page fails, where the zap that follows runs past its end
KILLS = Program(
    id="kills",
    steps=(
        Map(slot="a", pages=4, backing="pfnmap", region="reserved"),
        Map(
            slot="a", page=1, pages=3, backing="pfnmap", region="bar", insert="remap_partial", sharing="private",
            flags=("fixed",),
        ),
        Touch(slot="a"),
    ),
)  # fmt: skip


@pytest.mark.parametrize("how", ["oops", "panic", "died", "hang"])
def test_a_guest_that_dies_where_the_model_has_a_bug_agrees(how: str) -> None:
    """In which way it notices is chance. That it hangs is another thing."""
    one = kernel_of(Echo(dies=lambda step: how if "fixed" in getattr(step, "flags", ()) else "")).compare(KILLS)
    assert [(f.name, f.recorded, f.model) for f in one.different] == (
        [] if how != "hang" else [("outcome", "died: hang", "died")]
    )
    (recording,) = recordings([one])
    assert [step.observed.result.outcome for step in recording.programs[0].steps if step.observed.result] == [
        "ok", f"died: {how}",
    ]  # fmt: skip
    assert [f.name for f in compare.compare(recording).disagreements] == [f.name for f in one.different]


def test_a_model_that_stops_otherwise_agrees_with_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    one = kernel_of(Echo(dies=lambda step: "oops" if "fixed" in getattr(step, "flags", ()) else "")).compare(KILLS)
    assert one.execution is not None
    assert one.header is not None
    raised = replace(one.execution, findings=tuple(replace(f, kind="raised") for f in one.execution.findings))
    assert raised.stopped
    fields = compare.compare_program(one.heard.program, raised, Layout(one.header))  # type: ignore[union-attr]
    assert [(f.name, f.recorded, f.model) for f in fields if f.verdict == "disagreed"] == [("outcome", "died", None)]


def test_a_death_that_does_not_come_again_is_the_emulators() -> None:
    class Trips(Echo):
        def run(self, program: str, timeout: float = 0) -> Ran:
            again = program in self.texts
            ran = super().run(program, timeout)
            return ran if again else Ran("died", (), (), "QEMU ended")

    campaign = run(kernel_of(Trips()), programs(5, 3), Campaign("6.12", MODEL))
    assert campaign.good
    assert not campaign.died


def test_what_cannot_be_compared_is_said_and_is_not_good() -> None:
    def refuses(step: Step, seen: dict[str, Any]) -> None:
        seen["result"] = {"ok": True, "errno": "EIO"}

    campaign = run(kernel_of(Echo(lies=refuses)), programs(5, 2), Campaign("6.12", MODEL))
    assert len(campaign.refused) == 2
    assert campaign.counts["programs"] == 0
    assert not campaign.good
    assert "could not be compared" in report.notes(campaign)[0]


def test_an_explanation_covers_its_fields_up_to_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Explained("no-unmap", "munmap fails", 100, lambda kernel, f: f.step.op == "unmap")
    for cap, good in ((100.0, True), (1.0, False)):
        entries = (replace(one, cap=cap),)
        monkeypatch.setattr(explained, "EXPLAINED", entries)
        monkeypatch.setattr(campaigns, "EXPLAINED", entries)
        monkeypatch.setattr(report, "EXPLAINED", entries)
        campaign = run(kernel_of(Echo(lies=no_unmap)), programs(11, 8), Campaign("6.12", MODEL))
        assert campaign.counts["unexplained"] == 0
        assert campaign.counts["explained"] > 0
        assert campaign.good == good
        assert ("more than" in "\n".join(report.notes(campaign))) == (not good)


def test_a_boot_that_survives_what_the_model_does_not_is_explained() -> None:
    """By chance: and only that bug, and only from there on."""
    pair = twice()
    pair.second.guest.spec = f"{MODEL} remap_error=zap-pages"  # type: ignore[union-attr]
    one = pair.compare(KILLS)
    campaign = Campaign("6.12", MODEL)
    assert in_second_boot(one)
    assert campaign.add(one) == []
    assert campaign.explained == {"ran-over-memory": {"kills"}}
    assert recordings([one]) == [], "what two boots do not agree on is no answer of both"
    for f in one.different:
        assert explained.explain(MODEL, replace(f, seen=Seen())) is None
        assert explained.explain(MODEL, replace(f, seen=Seen(dead="another-bug"))) is None


def test_every_explanation_has_a_reason_and_a_small_cap() -> None:
    for one in explained.EXPLAINED:
        assert one.reason
        assert 0 < one.cap <= 2


# -- the report -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def differing() -> tuple[Campaign, dict[str, list[report.Difference]]]:
    campaign = Campaign("6.12", MODEL)
    shown: list[report.Difference] = []
    kernel = kernel_of(Echo(lies=no_unmap))
    run(
        kernel,
        programs(11, 6),
        campaign,
        lambda one, left: shown.append(report.Difference(one, tuple(left))) if left else None,
    )
    return campaign, {"6.12": shown}


def test_the_table_adds_up(differing: tuple[Campaign, dict[str, list[report.Difference]]]) -> None:
    campaign, _ = differing
    head, *rows = report.table([campaign])
    assert head.split() == ["kernel", "operation", "done", "fields", *report.VERDICTS]
    numbers = [[int(n) for n in row.split()[-7:]] for row in rows]
    for column in range(len(numbers[0])):
        assert sum(row[column] for row in numbers[:-1]) == numbers[-1][column]


def test_json(differing: tuple[Campaign, dict[str, list[report.Difference]]]) -> None:
    campaign, differences = differing
    said = json.loads(report.as_json([campaign], differences))["6.12"]
    for name in ("programs", "operations", "fields", "agreed", "explained", "unexplained"):
        assert said[name] == campaign.counts[name]
    assert said["differences"][0]["fields"][0]["kernel"] == "-EPERM"
    assert said["differences"][0]["steps"]


def test_ktap(differing: tuple[Campaign, dict[str, list[report.Difference]]]) -> None:
    campaign, differences = differing
    lines = report.ktap([campaign], differences)
    assert lines[:2] == ["KTAP version 1", "1..1"]
    assert lines[-1] == "not ok 1 6.12"
    results = [line for line in lines if re.match(r"  (not )?ok ", line)]
    assert [line for line in results if line.startswith("  not ok")] == [r for r in results if r.endswith(" unmap")]
    assert f"  1..{len(results)}" in lines


# -- the command ------------------------------------------------------------------------------------------------------
def mmlitmus(*words: str, **env: str) -> Any:
    from mmlitmus.cli.conform_ import command

    return CliRunner().invoke(command, list(words), env=env, standalone_mode=False)


def test_without_qemu_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mmlitmus.conform.lab import Lab

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Lab, "kernel", lambda *a: None)
    result = mmlitmus("--kernel", "6.12", MMLITMUS_LAB=str(tmp_path))
    assert result.exception is not None
    assert result.exception.exit_code == 2
    assert "qemu-system-x86" in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_kernel_that_is_not_fetched_or_not_known(tmp_path: Path) -> None:
    for name, said in (("6.12", "mmlitmus lab fetch 6.12"), ("2.4", "knows no kernel '2.4'")):
        result = mmlitmus("--kernel", name, MMLITMUS_LAB=str(tmp_path))
        assert result.exception.exit_code == 2
        assert said in str(result.exception)


def test_recorded_needs_no_guest(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmlitmus.conform.__main__.packaged", lambda: [])
    assert mmlitmus("--recorded").return_value == 0
    assert mmlitmus("--recorded", "--kernel", "6.12").exception is not None


def test_a_recording_that_cannot_be_used_is_named_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = RECORDINGS / "vfiorev" / "vfiorev-6.12.jsonl"
    text = good.read_text()
    packed = bytearray(gzip.compress(text.encode()))
    packed[200] ^= 0xFF
    damaged = {
        "cut.jsonl": (text[:-50].encode(), "this is not JSON"),
        "short.jsonl": ("".join(text.splitlines(keepends=True)[:-1]).encode(), "cut short?"),
        "packed.jsonl.gz": (bytes(packed), "the compressed file is damaged"),
        "later.jsonl": (text.replace('"version": 1', '"version": 7', 1).encode(), "format version 7"),
        "kernel.jsonl": (text.replace("6.12.117", "6.99.1").encode(), "the model has no kernel 6.99.1"),
        "none.jsonl": (None, "No such file"),
    }
    for name, (raw, _) in damaged.items():
        if raw is not None:
            (tmp_path / name).write_bytes(raw)
    monkeypatch.setattr("mmlitmus.conform.__main__.packaged", lambda: [*map(tmp_path.joinpath, damaged), good])
    result = mmlitmus("--recorded")
    assert result.return_value == 2
    assert "vfiorev-6.12" in result.stdout, "the rest is compared"
    lines = result.stderr.splitlines()
    assert len(lines) == len(damaged), "one clear message each"
    for line, (name, (_, said)) in zip(lines, damaged.items(), strict=True):
        assert line.startswith(str(tmp_path / name)), line
        assert said in line


def test_programs_of_a_run() -> None:
    from mmlitmus.cli.conform_ import SEED, Choice

    header = header_of(MACHINE, IDENTITY)
    both = Choice(60, None, None)
    assert [both.many(m) for m in ("pc", "q35")] == [50, 10]
    assert len(both.of("pc", header)) == 50
    assert both.unseen is not None
    assert {p.seed for p in both.of("pc", header)} == {SEED, both.unseen}
    one = Choice(60, 9, None)
    assert one.unseen is None
    assert {p.seed for p in one.of("pc", header)} == {9}
    said = Counter(language_of(p.id) for p in one.of("pc", header))
    assert said == {"mapping": 22, "gup": 12, "huge": 8, "calls": 8}
    for language in said:
        asked = Choice(30, None, "pc", language).of("pc", header)
        assert {language_of(p.id) for p in asked} == {language}
        assert len(asked) == 30
    only = Choice(20, 9, "q35")
    assert [only.many(m) for m in ("pc", "q35")] == [0, 20]
    bare = replace(header, regions=())
    steps = [str(step) for p in only.of("q35", bare) for step in p.steps]
    assert not any("pfnmap" in step for step in steps), "no module, no mapping of its"


PROGRAMS = 3


def machine_of(kaslr: bool) -> dict[str, Any]:
    return {**MACHINE, "command_line": "console=ttyS0" if kaslr else "console=ttyS0 nokaslr"}


@pytest.fixture(scope="module")
def answered() -> dict[tuple[int, str], Ran]:
    """What the guests of each memory answer: the model cannot run in the threads that guests are asked from."""
    found: dict[tuple[int, str], Ran] = {}
    for memory in (2048, 3072):
        guest = Echo(machine=machine_of(True), ram=memory)
        found.update(((memory, text), guest.run(text)) for text in map(text_of, programs(11, PROGRAMS)))
    return found


class Session:
    """A session of the lab, with the model as its kernel. ``left``: the programs that it is still good for."""

    def __init__(self, memory_mb: int, kaslr: bool, left: list[int], answered: dict[tuple[int, str], Ran]) -> None:
        self.memory_mb = memory_mb
        self.ready = machine_of(kaslr)
        self.identity = {**IDENTITY, "memory_mb": str(memory_mb)}
        self.left = left
        self.answered = answered

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass

    def start(self) -> Session:
        return self

    def run(self, program: str, timeout: float = 0) -> Ran:
        if program.startswith("regions"):
            return Ran("died", ())  # no batches here: each program is asked of a fresh kernel then
        if not self.left[0]:
            raise OSError("the host has gone")
        self.left[0] -= 1
        return self.answered[self.memory_mb, program]


@pytest.fixture
def lab(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answered: dict[tuple[int, str], Ran]
) -> tuple[list[int], Callable[..., Any]]:
    """How many programs the guests are good for, and the command run on them."""
    from mmlitmus.conform.lab import Lab, host

    left = [1000]
    monkeypatch.setattr(Lab, "kernel", lambda *a: None)
    monkeypatch.setattr(host, "program", lambda *a: "qemu")
    monkeypatch.setattr(Lab, "session", lambda self, name, m, *a: Session(m.memory_mb, m.kaslr, left, answered))
    which = ("--machine", "pc", "--seed", "11", "--language", "mapping", "--programs", str(PROGRAMS))
    words = ("--kernel", "6.12", *which, "--jobs", "1")
    return left, lambda *more: mmlitmus(*words, *more, MMLITMUS_LAB=str(tmp_path / "lab"))


def test_recording_takes_two_boots(lab: tuple[list[int], Callable[..., Any]], tmp_path: Path) -> None:
    left, conform = lab
    assert conform("--record", str(tmp_path / "out")).return_value == 0
    assert left == [1000 - 2 * PROGRAMS], "each program runs in both boots"
    recording = load(tmp_path / "out" / "live-6.12-pc.jsonl.gz")
    assert len(recording.programs) == PROGRAMS
    assert recording.header.key.lab.memory_mib == 2048
    assert [key.lab.memory_mib for key in recording.header.boots] == [3072]
    for key in (recording.header.key, *recording.header.boots):
        assert "nokaslr" not in str(key.kernel.command_line)
    assert compare.compare(recording).disagreements == []


def test_a_recording_is_never_written_over(lab: tuple[list[int], Callable[..., Any]], tmp_path: Path) -> None:
    left, conform = lab
    path = tmp_path / "out" / "live-6.12-pc.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(b"somebody's")
    result = conform("--record", str(tmp_path / "out"))
    assert result.return_value == 2
    assert "is there already" in result.stderr
    assert path.read_bytes() == b"somebody's"
    path.unlink()
    left[0] = 0
    assert conform("--record", str(tmp_path / "out")).return_value == 0, "what was run is kept, and not run again"
    assert len(load(path).programs) == PROGRAMS


def test_a_recording_that_is_broken_off_goes_on(lab: tuple[list[int], Callable[..., Any]], tmp_path: Path) -> None:
    left, conform = lab
    left[0] = PROGRAMS
    result = conform("--record", str(tmp_path / "out"))
    assert result.return_value == 2
    assert "the host has gone" in result.stderr
    assert not (tmp_path / "out").exists()
    left[0] = PROGRAMS
    assert conform("--record", str(tmp_path / "out")).return_value == 0
    assert left == [0], "only what was missing"


def test_one_boot_is_enough_to_look(lab: tuple[list[int], Callable[..., Any]]) -> None:
    left, conform = lab
    assert conform().return_value == 0
    assert left == [1000 - PROGRAMS]
    assert conform("--boots", "2").return_value == 0
    assert left == [1000 - 2 * PROGRAMS]


# -- a real kernel ----------------------------------------------------------------------------------------------------
def why_no_lab() -> str:
    """Why no kernel can be booted here; empty if one can."""
    if shutil.which("qemu-system-x86_64") is None:
        return "there is no qemu-system-x86_64"
    from mmlitmus.conform.lab import Lab, LabError

    try:
        Lab().kernel("6.12")
    except LabError as e:
        return str(e)
    return ""


@pytest.mark.slow
def test_six_twelve_agrees_with_the_model() -> None:
    why = why_no_lab()
    if why:
        pytest.skip(why)
    result = mmlitmus("--kernel", "6.12", "--programs", "24", "--seed", "2", "--json", **os.environ)
    said = json.loads(result.stdout)["6.12"]
    assert said["programs"] == 24
    assert said["unexplained"] == 0
    assert said["not_compared"] == {}
    assert result.return_value == 0


@pytest.mark.slow
def test_two_boots_of_six_twelve_agree() -> None:
    why = why_no_lab()
    if why:
        pytest.skip(why)
    result = mmlitmus("--kernel", "6.12", "--programs", "12", "--seed", "4", "--boots", "2", "--json", **os.environ)
    said = json.loads(result.stdout)["6.12"]
    assert said["programs"] == 12
    assert said["unexplained"] == 0
    assert result.return_value == 0
