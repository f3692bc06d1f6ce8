"""Several guests side by side, and several programs in one boot.

The kernel here is a script: what it answers to a program depends on what it has run before where a test says so, and
nowhere else.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from mmlitmus.conform import batch
from mmlitmus.conform.batch import RULES, WINDOW, BatchAnswers, beginning, leaves_behind, moved, ready_of, why_not
from mmlitmus.conform.campaign import Answers, Kernel
from mmlitmus.conform.live import text_of
from mmlitmus.conform.pool import FIRST, Pool
from mmlitmus.conform.schema import Dev, Map, Program, Remap, Unmap

IDENTITY = {"memory_mb": "2048", "qemu": "QEMU 7.2", "probe": "0" * 64, "agent": "1" * 64}
PFN = 0x10000
REGION = {"name": "reserved", "pfn": hex(PFN), "pages": 4096, "valid": True, "reserved": True}
READY: dict[str, Any] = {
    "release": "6.12.117+deb12-amd64",
    "version": "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1~deb12u1 (2026-11-14)",
    "command_line": "console=ttyS0",
    "module": "mmlitmus_probe",
    "regions": [REGION],
    "devices": [],
    "config": {"cpu": "QEMU", "cpus": 2},
    "problems": [],
}


@dataclass(frozen=True)
class Said:
    kind: str
    lines: tuple[str, ...]
    console: tuple[str, ...] = ()
    why: str = ""


def of(number: int, **more: Any) -> Program:
    """A program of one step."""
    step = Map(slot="a", pages=1, backing="pfnmap", region="reserved", frame=number % 12, **more)
    return Program(id=f"p-{number}", steps=(step,))


@dataclass
class Machine:
    """Starts kernels. ``lies``: changes what is said of a program, by its name and how many ran before it."""

    lies: Callable[[str, int, dict[str, Any]], None] = lambda name, before, said: None
    seconds: Callable[[str], float] = lambda name: 0.0
    dies: Callable[[str, int], str] = lambda name, before: ""
    ran: list[tuple[str, int]] = field(default_factory=list)
    boots: int = 0
    most: int = 0
    aborted: threading.Event = field(default_factory=threading.Event)
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> Booted:
        with self._lock:
            self.boots += 1
        return Booted(self)

    def run(self, program: str, timeout: float = 0) -> Said:
        return self.start().run(program, timeout)

    def abort(self) -> None:
        self.aborted.set()

    def answer(self, text: str, before: int, first: int) -> Said:
        name = next(line for line in text.splitlines() if line.startswith("program ")).split()[1]
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.aborted.wait(self.seconds(name))
        with self._lock:
            self._now -= 1
            self.ran.append((name, before))
        frame = PFN + first + int(name.split("-")[1]) % 12
        said: dict[str, Any] = {
            "memtypes": [],
            "observed": {"result": {"ok": True}, "entries": {"0:a0": f"pte:{frame << 12 | 0x227:#x}"}},
            "log": [],
            "after": [],
            "clean": True,
        }
        self.lies(name, before, said)
        died = self.dies(name, before)
        lines: list[dict[str, Any]] = []
        if text.startswith("regions first="):
            moved_to = {**REGION, "pfn": hex(PFN + first), "pages": 4096 - first}
            lines.append({"regions": [moved_to]})
        lines.append({"begin": name, "memtypes": said["memtypes"]})
        if not died:
            lines.append({"step": 0, "observed": said["observed"]})
            lines.append({"end": name, "stopped": None, **{k: said[k] for k in ("log", "after", "clean")}})
        return Said(died or "ended", tuple(map(json.dumps, lines)), (), "why not" if died else "")


class Booted:
    """A kernel that counts what it has run."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.before = 0
        self.first = 0
        self.closed = False

    def run(self, program: str, timeout: float = 0) -> Said:
        assert not self.closed
        if program.startswith("regions first="):
            self.first = int(program.splitlines()[0].partition("=")[2])
        said = self.machine.answer(program, self.before, self.first)
        self.before += 1
        return said

    def close(self) -> None:
        self.closed = True


def kernel(batched: bool = False, path: Any = None) -> Kernel:
    answers = Answers(path)
    return Kernel(None, READY, IDENTITY, "pc", "", BatchAnswers(answers) if batched else answers)


def pooled(machine: Machine, wanted: list[Program], jobs: int = 1, batched: bool = False) -> tuple[Kernel, Pool]:
    asked = kernel(batched)
    with Pool(asked, machine, jobs, said.append) as pool:
        given = [*pool.programs(wanted)]
    assert [p.id for p in given] == [p.id for p in wanted]
    return asked, pool


said: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_said() -> None:
    said.clear()


# -- side by side -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_programs_come_in_their_order_however_many_guests_there_are_and_whichever_is_faster(jobs: int) -> None:
    machine = Machine(seconds=lambda name: 0.02 if int(name[2:]) % 3 == 0 else 0.0)
    asked, _ = pooled(machine, [of(n) for n in range(9)], jobs)
    answers = [asked.answers.get(text_of(of(n))) for n in range(9)]
    assert [json.loads(a["lines"][-1])["end"] for a in answers if a] == [f"p-{n}" for n in range(9)]
    assert machine.most <= jobs
    assert all(before == 0 for _, before in machine.ran), "each on a fresh kernel"


def test_guests_run_side_by_side() -> None:
    together = threading.Barrier(2)

    def meet(name: str, before: int, seen: dict[str, Any]) -> None:
        if name in ("p-0", "p-1"):
            together.wait(60)

    machine = Machine(seconds=lambda name: 0.0, lies=meet)
    pooled(machine, [of(n) for n in range(4)], 2)
    assert len(machine.ran) == 4


def test_what_is_known_is_not_asked_and_a_program_twice_is_asked_once() -> None:
    machine = Machine()
    asked = kernel()
    for _ in range(2):
        with Pool(asked, machine, 2) as pool:
            assert len([*pool.programs([of(1), of(2), of(1)])]) == 3
    assert sorted(machine.ran) == [("p-1", 0), ("p-2", 0)]


def test_a_death_has_to_come_again() -> None:
    machine = Machine(dies=lambda name, before: "died" if name == "p-1" and ("p-1", 0) not in machine.ran[:-1] else "")
    asked, _ = pooled(machine, [of(0), of(1), of(2)])
    answer = asked.answers.get(text_of(of(1)))
    assert answer is not None
    assert answer["kind"] == "ended"
    assert machine.ran.count(("p-1", 0)) == 2


def test_a_death_that_comes_again_is_kept_and_the_rest_goes_on() -> None:
    machine = Machine(dies=lambda name, before: "oops" if name == "p-1" else "")
    for batched in (False, True):
        asked, _ = pooled(machine, [of(n) for n in range(4)], 1, batched)
        kinds = [asked.answers.get(text_of(of(n))) for n in range(4)]
        assert [k and k["kind"] for k in kinds] == ["ended", "oops", "ended", "ended"]


def test_what_keeps_a_guest_from_running_is_raised_where_its_program_has_its_turn() -> None:
    def refuses(name: str, before: int, seen: dict[str, Any]) -> None:
        if name == "p-2":
            raise OSError("no more memory")

    for batched in (False, True):
        with Pool(kernel(batched), Machine(lies=refuses), 2) as pool:
            given = []
            with pytest.raises(OSError, match="no more memory"):
                given.extend(p.id for p in pool.programs([of(n) for n in range(5)]))


def test_breaking_off_keeps_what_was_answered_and_ends_the_guests(tmp_path: Any) -> None:
    machine = Machine(
        seconds=lambda name: 60.0 if int(name[2:]) >= 4 else 0.0,
        dies=lambda name, before: "died" if machine.aborted.is_set() else "",
    )
    started = time.monotonic()
    asked = kernel(path=tmp_path / "answers")
    with Pool(asked, machine, 2) as pool:
        given = pool.programs([of(n) for n in range(8)])
        assert [next(given).id for _ in range(4)] == ["p-0", "p-1", "p-2", "p-3"]
    assert time.monotonic() - started < 30
    assert len(Answers(tmp_path / "answers").known) == 4, "a guest that this ended has not died"


# -- in one boot ------------------------------------------------------------------------------------------------------
def test_programs_of_a_batch_share_a_boot_and_map_frames_of_their_own() -> None:
    machine = Machine()
    asked, pool = pooled(machine, [of(n) for n in range(40)], 1, True)
    assert said == []
    assert pool.batched == 40 - FIRST - 2, "the first boot's are run afresh too, and so are a boot's first and last"
    assert machine.boots < 12
    answer = asked.answers.get(text_of(of(20)))
    assert answer is not None
    assert json.loads(answer["lines"][0])["regions"][0]["pfn"] != REGION["pfn"]
    assert answer["ready"]["regions"] == json.loads(answer["lines"][0])["regions"]


def test_answers_of_batches_are_kept_apart_from_those_of_fresh_kernels(tmp_path: Any) -> None:
    asked = kernel(True, tmp_path / "answers")
    with Pool(asked, Machine(), 1) as pool:
        assert len([*pool.programs([of(n) for n in range(20)])]) == 20
    fresh = Answers(tmp_path / "answers").known
    batched = Answers(tmp_path / "answers-batch").known
    assert len(fresh) == pool.fresh
    assert len(batched) == pool.batched > 0
    assert not set(fresh) & set(batched)


def test_a_program_that_does_not_begin_as_on_a_fresh_kernel_runs_on_one() -> None:
    entry = {"start": "0x10000000", "end": "0x10001000", "type": "write-combining"}

    def leaks(name: str, before: int, seen: dict[str, Any]) -> None:
        if before and name == "p-9":
            seen["memtypes"].append(entry)
            seen["observed"]["result"] = {"errno": "EINVAL"}

    machine = Machine(lies=leaks)
    asked, _ = pooled(machine, [of(n) for n in range(14)], 1, True)
    answer = asked.answers.get(text_of(of(9)))
    assert answer is not None
    assert json.loads(answer["lines"][-2])["observed"]["result"] == {"ok": True}
    assert said == []


def test_a_batch_that_answers_otherwise_is_thrown_away_and_is_the_last_one() -> None:
    def forgets(name: str, before: int, seen: dict[str, Any]) -> None:
        if before >= 10:
            seen["observed"]["result"] = {"errno": "EINVAL"}

    machine = Machine(lies=forgets)
    asked, pool = pooled(machine, [of(n) for n in range(60)], 1, True)
    assert len(said) == 1
    assert "batched mode is not used from here on: p-" in said[0]
    assert "outcome : ok on a fresh kernel, -EINVAL in a batch" in said[0]
    assert pool.batched == 0
    for n in range(60):
        answer = asked.answers.get(text_of(of(n)))
        assert answer is not None
        assert json.loads(answer["lines"][-2])["observed"]["result"] == {"ok": True}


@pytest.mark.parametrize(
    "what",
    [
        {"clean": False},
        {"log": ["WARNING: CPU: 0 PID: 9 at mm/memory.c:1"]},
        {"after": ["BUG: Bad rss-counter state mm:1 type:MM_FILEPAGES val:1"]},
    ],
)
def test_what_may_be_left_behind_unseen_ends_the_boot(what: dict[str, Any]) -> None:
    machine = Machine(lies=lambda name, before, seen: seen.update(what) if name == "p-8" else None)
    pooled(machine, [of(n) for n in range(12)], 1, True)
    after = machine.ran.index(next(r for r in machine.ran if r[0] == "p-9"))
    assert machine.ran[after] == ("p-9", 0)


def end(log: list[str]) -> Said:
    return Said("ended", (json.dumps({"end": "p", "log": log, "stopped": None, "clean": True, "after": []}),))


def test_messages_that_the_kernel_repeats_do_not_end_the_boot() -> None:
    warning = "WARNING: CPU: 0 PID: 156 at include/linux/rwsem.h:85 track_pfn_remap+0x110/0x120"
    splat = ["------------[ cut here ]------------", warning, "RIP: 0010:x", "---[ end trace 0000000000000000 ]---"]
    told = "x86/PAT: process:156 freeing invalid memtype [mem 0x10000000-0x10000fff]"
    assert not leaves_behind(end([]))
    assert not leaves_behind(end([told, *splat, told]))
    again = [line.replace("track_pfn_remap", "remap_pfn_range_internal") for line in splat]
    assert not leaves_behind(end([*splat, *again, "hrtimer: interrupt took 227699483 ns"]))
    assert leaves_behind(end([*splat, "something else"]))
    assert leaves_behind(end(splat[:-1])), "cut short: who knows what was said"
    assert leaves_behind(end([line.replace("track_pfn_remap", "another") for line in splat]))
    assert leaves_behind(Said("hang", ()))


# -- the rules --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("step", "rule"),
    [
        (Dev(device=0, action="d3hot"), "power-and-reset"),
        (Dev(device=0, action="reset"), "power-and-reset"),
        (Map(slot="a", pages=512, backing="anonymous"), "huge-pages"),
        (Map(slot="a", pages=8, backing="pfnmap", region="bar", frame=60), "out-of-the-window"),
        (Remap(slot="a", pages=1, new_pages=100), "out-of-the-window"),
        (Dev(device=0, action="memory_off"), None),
        (Map(slot="a", pages=8, backing="pfnmap", region="bar", frame=11), None),
        (Unmap(slot="a", pages=8), None),
    ],
)
def test_what_is_kept_out_of_batches(step: Any, rule: str | None) -> None:
    found = why_not(Program(id="p", steps=(Unmap(slot="b", pages=1), step)))
    assert (found and found.name) == rule


def test_every_rule_has_a_reason() -> None:
    assert all(rule.why for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_a_program_that_is_kept_out_does_not_end_the_batch() -> None:
    machine = Machine()
    wanted = [of(n) for n in range(12)]
    apart = Program(id="p-99", steps=(Map(slot="a", pages=512, backing="anonymous"),))
    pooled(machine, [*wanted[:8], apart, *wanted[8:]], 1, True)
    assert ("p-99", 0) in machine.ran
    assert ("p-8", 3) in machine.ran


# -- what moved -------------------------------------------------------------------------------------------------------
def test_frames_are_compared_as_if_nothing_had_moved() -> None:
    shifts = [(PFN + WINDOW, PFN + 4096, WINDOW)]
    here = PFN + WINDOW + 3
    there = PFN + 3
    inverted = (~(here << 12) & ((1 << 52) - (1 << 12))) | 0x320
    back = (~(there << 12) & ((1 << 52) - (1 << 12))) | 0x320
    for mine, its in (
        (f"pte:{here << 12 | 0x227:#x}", f"pte:{there << 12 | 0x227:#x}"),
        (f"pte:{inverted:#x}", f"pte:{back:#x}"),
        (f"pfn {here:#x}", f"pfn {there:#x}"),
        (f"{1 << 63 | 1 << 55 | here:#x}", f"{1 << 63 | 1 << 55 | there:#x}"),
        ("pte:0x5a00225", "pte:0x5a00225"),
    ):
        assert batch._in_place(mine, shifts) == its


def test_where_a_program_begins_does_not_depend_on_where_its_regions_are() -> None:
    machine = Machine()
    fresh = machine.answer(text_of(of(1)), 0, 0)
    later = machine.answer(moved(3, of(1)) + text_of(of(1)), 3, 3 * WINDOW)
    assert beginning(READY, fresh) == beginning(READY, later) == '{"memtypes": []}'
    assert ready_of(READY, fresh) == READY
    assert ready_of(READY, later)["regions"][0]["pfn"] == hex(PFN + 3 * WINDOW)
    assert beginning(READY, Said("died", ())) is None
    refused = Said("ended", ('{"error": "there are no regions from there on: 9999"}', *fresh.lines))
    assert beginning(READY, refused) is None
