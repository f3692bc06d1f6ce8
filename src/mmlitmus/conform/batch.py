"""Several programs in one boot: what keeps a program out, what ends a boot, and whether the answers are a snapshot's.

A program of a batch has to find what a fresh kernel would show it. It maps frames that no program before it has mapped
(the regions of device memory begin one ``WINDOW`` further on), its memtype list and its frames' counts at the start
have to be those of the fresh kernel, and whatever a program may leave behind that cannot be looked at ends the boot.
The first program of a boot finds the kernel fresh, whatever it is. The last one of a batch is run on a fresh kernel too
(all of the first batch are): if it answers otherwise in any field, no answer of the batch is used, and no more batches
are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmlitmus.kernel.arch.x86.pgtable import PRESENT

from .campaign import Answers, Kernel, Outcome
from .compare import EXCLUDED, compare_program
from .execute import Execution
from .generate import language_of
from .layout import FRAME, Layout, message_of
from .live import LiveError, hear
from .schema import Dev, Map, Program, Remap, Step

#: pages that the regions move on for each program of a batch; the agent counts so many frames of each
WINDOW = 64
#: programs of a batch, at most: the smallest region that moves has 4096 pages
LONGEST = 60
#: how far from a mapping's first frame a program may come: a slot's pages, and those that a wrong call names beyond
REACH = 24


# -- which programs ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rule:
    """Why a program is run on a fresh kernel even in batched mode: ``applies`` to one of its steps."""

    name: str
    why: str
    applies: Callable[[Step], bool]


RULES = (
    Rule(
        "power-and-reset",
        "what a device's power state, or a reset, leaves in the device and its driver cannot be seen: the agent turns "
        "it on again, and that is all",
        lambda step: isinstance(step, Dev) and step.action not in ("memory_off", "memory_on", "read"),
    ),
    Rule(
        "huge-pages",
        "huge pages of memory come in khugepaged's own time",
        lambda step: isinstance(step, Map) and step.backing == "anonymous" and step.pages >= 512,
    ),
    Rule(
        "out-of-the-window",
        "a mapping of frames beyond the program's own window meets those of the next program",
        lambda step: (
            (isinstance(step, Map) and step.backing == "pfnmap" and step.pages < REACH and _last(step) > WINDOW)
            or (isinstance(step, Remap) and step.new_pages > REACH)
        ),
    ),
)


def _last(step: Map) -> int:
    return step.frame + step.pages + REACH


def why_not(program: Program) -> Rule | None:
    """The rule that keeps a program out of batches; None if it may be in one."""
    rules = [rule for rule in RULES if moves(program) or rule.name != "out-of-the-window"]
    return next((rule for rule in rules for step in program.steps if rule.applies(step)), None)


def moves(program: Program) -> bool:
    """Does a program map frames of its own? Not where leaves want the first ones of a region, or an answer may be kept
    as a recording: then all that keeps programs apart is that each has to find what the first one found.
    """
    return language_of(program.id) in ("mapping", "gup")


# -- a boot's state ---------------------------------------------------------------------------------------------------
def moved(number: int, program: Program) -> str:
    """What to say to the agent before a program, the ``number``-th of a boot."""
    return f"regions first={number * WINDOW if moves(program) else 0}\n" if number else ""


def ready_of(ready: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """What the agent's ``ready`` would be where this program ran: the regions are where it says they have moved to."""
    found = dict(ready)
    for said in _objects(outcome):
        if "begin" in said:
            break
        if "regions" in said:
            found["regions"] = said["regions"]
    return found


def beginning(ready: Mapping[str, Any], outcome: Outcome) -> str | None:
    """What the agent saw before a program's first step, wherever the regions are; None if it did not get that far."""
    for said in _objects(outcome):
        if "error" in said:
            return None
        if "begin" in said:
            seen = {name: value for name, value in said.items() if name != "begin"}
            return _in_place(json.dumps(seen, sort_keys=True), _shifts(ready, ready_of(ready, outcome)))
    return None


#: warnings that the kernel gives as often as there is reason to (WARN_ON), by where they are given
REPEATED = (
    # mmap_assert_write_locked() on the way from a ->fault that maps the whole VMA; include/linux/rwsem.h,
    # rwsem_assert_held_write_nolockdep
    re.compile(r"WARNING: .* at include/linux/rwsem\.h:\d+ (track_pfn_remap|remap_pfn_range_\w+)\+.*"),
)
#: what a slow host makes a kernel say, once in a boot; it changes nothing
SLOW = re.compile(r"hrtimer: interrupt took \d+ ns")


def _unknown(lines: list[str]) -> list[str]:
    """Lines of the log that the schema has no name for, without the warnings of REPEATED, and SLOW."""
    found: list[str] = []
    inside: list[str] | None = None
    for line in lines:
        if "[ cut here ]" in line:
            found += inside or []
            inside = []
        elif inside is None:
            found += [] if message_of(line) or SLOW.fullmatch(line) else [line]
        elif "end trace" in line:
            found += [] if any(one.fullmatch(said) for one in REPEATED for said in inside) else [line]
            inside = None
        else:
            inside.append(line)
    return found + (inside or [])


def leaves_behind(outcome: Outcome) -> bool:
    """May a program have left something behind that is not seen when the next one begins?

    It did not come to its end, a process of its could not be killed, or the kernel said what it may say only once.
    """
    end = next((said for said in _objects(outcome) if "end" in said), None)
    if outcome.kind != "ended" or end is None or end.get("stopped") or not end.get("clean"):
        return True
    return bool(_unknown([*(end.get("log") or ()), *(end.get("after") or ())]))


def _objects(outcome: Outcome) -> list[dict[str, Any]]:
    found = []
    for line in outcome.lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            found.append(said)
    return found


# -- equal answers ----------------------------------------------------------------------------------------------------
#: what a field of one region is moved by: first and last frame of where it is, and the pages back to where it was
Shift = tuple[int, int, int]


def _shifts(fresh: Mapping[str, Any], here: Mapping[str, Any]) -> list[Shift]:
    was = {region["name"]: int(region["pfn"], 16) for region in fresh.get("regions") or ()}
    found = []
    for region in here.get("regions") or ():
        pfn = int(region["pfn"], 16)
        found.append((pfn, pfn + region["pages"], pfn - was.get(region["name"], pfn)))
    return found


def _in_place(text: str, shifts: list[Shift]) -> str:
    """Text with every frame of a region's in it, and every entry, address or word of pagemap with one, as if nothing
    had moved.
    """
    if not any(by for _, _, by in shifts):
        return text

    def back(match: re.Match[str]) -> str:
        value = int(match[0], 16)
        # so the frame of an entry is stored that the CPU must not follow (arch/x86/include/asm/pgtable-invert.h)
        inverted = not value & PRESENT and value >> 51 & 1
        pfn = ((~value if inverted else value) & FRAME) >> 12
        for first, last, by in shifts:
            if first <= value & PAGEMAP_FRAME < last:
                return hex(value - by)
            if first <= pfn < last:
                return hex(value + (by << 12) if inverted else value - (by << 12))
        return match[0]

    return re.sub(r"0x[0-9a-f]+", back, text)


#: the bits of a word of /proc/PID/pagemap that hold a frame's number
PAGEMAP_FRAME = (1 << 55) - 1
#: nothing on the model's side
NOTHING = Execution((), (), "nobody asked")


def words_of_answer(kernel: Kernel, program: Program, outcome: Outcome, ready: Mapping[str, Any]) -> list[str]:
    """Everything that is compared of an answer, a line a field, with the regions where they are at first."""
    header = kernel.header(ready)
    try:
        heard = hear(program, _objects(outcome), outcome.kind, outcome.why, header, language_of(program.id))
    except LiveError as e:
        return [f"not to be compared: {e}"]
    shifts = _shifts(kernel.ready, ready)
    lines = [f"{len(heard.program.steps)} steps, {heard.died or 'to the end'}"]
    for field in compare_program(heard.program, NOTHING, Layout(header)):
        if field.verdict != EXCLUDED:
            said = _in_place(str(field.recorded), shifts)
            lines.append(f"step {field.index} ({field.step.op}): {field.name} {field.place}: {said}")
    # of other lines of the log, addresses and process numbers are each boot's own
    lines += [re.sub(r"[0-9a-f]{2,}|\d+", "_", line) for line in _told(heard.program)]
    return lines


def _told(program: Program) -> list[str]:
    # the registers and the code of a warning are not of its place
    return [line for line in program.extra.get("kernel_log", ()) if line.startswith(("WARNING:", "BUG:", "x86/PAT:"))]


def differs(kernel: Kernel, program: Program, fresh: Outcome, outcome: Outcome, ready: Mapping[str, Any]) -> str:
    """How an answer in a batch differs from the fresh kernel's: its first such field; empty if in none."""
    one = words_of_answer(kernel, program, fresh, kernel.ready)
    other = words_of_answer(kernel, program, outcome, ready)
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            return f"{mine} on a fresh kernel, {theirs.rpartition(': ')[2]} in a batch"
    return "" if len(one) == len(other) else "more is answered on the one than on the other"


# -- what was answered ------------------------------------------------------------------------------------------------
class BatchAnswers(Answers):
    """The answers of batches, apart from those of fresh kernels, which are taken first and are what ``put`` writes."""

    def __init__(self, fresh: Answers) -> None:
        path = fresh.path
        super().__init__(path.with_name(f"{path.name}-batch") if path is not None else None)
        self.fresh = fresh

    def get(self, text: str) -> dict[str, Any] | None:
        """What was answered to a program's text."""
        return self.fresh.get(text) or super().get(text)

    def of_fresh(self, text: str) -> dict[str, Any] | None:
        """What a fresh kernel answered."""
        return self.fresh.get(text)

    def put(self, text: str, outcome: Outcome, ready: Mapping[str, Any], batch: bool = False) -> dict[str, Any]:
        """Keep an answer of a fresh kernel."""
        return self.fresh.put(text, outcome, ready, batch)

    def put_of_batch(self, text: str, outcome: Outcome, ready: Mapping[str, Any]) -> dict[str, Any]:
        """Keep an answer of a batch."""
        return super().put(text, outcome, ready, True)
