"""Makes ``recorded.json`` of recordings of the lab's programs: ``python -m mmlitmus.guptable.import_recordings FILES``.

Rows and columns are found by what the programs do: which mapping they make, what they have done to it, which question
comes next. What the table has no row or column for is left out; two answers to one question that differ are an error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from mmlitmus.conform import store
from mmlitmus.conform.execute import model_of
from mmlitmus.conform.schema import (
    Dev,
    Dma,
    Fork,
    Header,
    Limit,
    Map,
    Observed,
    Pin,
    Program,
    Recording,
    Remap,
    Step,
    Touch,
    Transfer,
    Unmap,
)

from .paths import PATHS
from .recorded import FILE, FORMAT, VERSION

#: the probe module's ways of filling, and the beginnings of the rows that they make
INSERTS = {"remap": "remap-{}", "fault_pfn": "pfn-{}", "mixed": "mixed-{}", "insert_page": "page"}
AT_ONCE = ("remap", "insert_page")  # in ->mmap, so that a private mapping need not be touched
BACKINGS = {"udmabuf": "udmabuf", "dma_heap": "dma-heap"}
#: how the names of rows end that no question changes
SETTLED = ("shared", "readonly", "written", "copied", "udmabuf", "dma-heap", "fault-page", "vfio-bar")
VARIANTS = {
    "get_user_pages": "get",
    "pin_user_pages": "pin",
    "get_user_pages_fast": "get-fast",
    "pin_user_pages_fast": "pin-fast",
    "get_user_pages_fast_only": "fast-only",
    "get_user_pages_remote": "get-remote",
}
FLAGS = {(): "", ("write",): "-w", ("force", "write"): "-fw", ("longterm",): "-l", ("longterm", "write"): "-lw"}
TRANSFERS = {
    "process_vm_readv": "readv",
    "process_vm_writev": "writev",
    "ptrace_peek": "peek",
    "ptrace_poke": "poke",
    "o_direct_read": "direct-read",
    "o_direct_write": "direct-write",
    "vmsplice": "vmsplice",
}


class Conflict(Exception):
    """Two answers to one question differ."""


def state(made: Map, done: str) -> str:
    """The row's state for what has been done to a mapping: the letters of its accesses, in any number; ``?``: by what
    may have filled it, or made a copy.
    """
    if "?" in done and "w" not in done:
        return ""
    if made.sharing == "private":
        filled = done or made.insert in AT_ONCE
        return "copied" if "w" in done else "private" if filled and made.prot == "rw" else ""
    if made.prot == "r":
        return "readonly" if "r" in done else ""
    return "shared" if "w" in done else "" if done else "untouched"


def row(made: Map, done: str) -> str:
    """The row, or nothing."""
    if "?" in done and "w" not in done:
        return ""
    if made.backing == "anonymous":
        if made.sharing != "private":
            return ""
        if made.prot != "rw":
            return {"": "anon-none", "r": "anon-readonly"}.get(made.prot, "") if not done else ""
        if "f" in done:
            return "anon-forked" if done.startswith("w") else ""
        return "anon-written" if "w" in done else "anon-zero" if done else "anon-untouched"
    if made.backing == "file":
        private = made.sharing == "private"
        return "file-private" if private and done == "r" else "file-shared" if not private and not done else ""
    if made.backing in BACKINGS:
        return BACKINGS[made.backing] if done == "r" else ""
    if made.backing == "bar":
        found = {("rw", "r"): "vfio-bar", ("rw", ""): "vfio-bar-untouched", ("r", ""): "vfio-bar-readonly"}
        return found.get((made.prot, done), "")
    if made.insert == "fault_page":
        return {"shared": "fault-page", "copied": "fault-page-copied"}.get(state(made, done), "")
    if made.insert not in INSERTS or made.cache or not state(made, done):
        return ""
    return f"{INSERTS[made.insert].format(made.region)}-{state(made, done)}"


def column(step: Step) -> str:
    """The path, or nothing."""
    if isinstance(step, Transfer):
        return TRANSFERS.get(step.kind, "")
    if isinstance(step, Dma):
        return {"r": "dma-r", "rw": "dma-rw"}.get(step.prot, "") if step.action == "map" else ""
    if not isinstance(step, Pin) or step.pages != 1:
        return ""
    flags = tuple(sorted(step.flags))
    if step.variant == "pin_user_pages_remote":
        long = {("longterm", "write"): "pin-remote", ("locked", "longterm", "write"): "pin-remote-locked"}
        return long.get(flags, "")
    if step.variant not in VARIANTS or flags not in FLAGS:
        return ""
    found = VARIANTS[step.variant] + FLAGS[flags]
    return found if found in PATHS else ""


def answer(step: Step, header: Header) -> str:
    """What came of it, in the table's words."""
    observed: Observed = step.observed
    result = observed.result
    assert result is not None, "whoever asks has looked"
    if result.died:
        return "oops"
    if result.killed:
        return "never returns"
    if result.errno:
        return f"-{result.errno}"
    if isinstance(step, Pin):
        if not result.count:
            return "none"
        (first, *_) = observed.pins or (None,)
        if first is None:
            return "slot left"
        return "zero page" if first.pfn == header.zero_pfn else "page"
    return "mapped" if isinstance(step, Dma) else "moved"


def questions(program: Program, header: Header) -> Iterator[tuple[str, str, str]]:
    """(row, column, answer) of one program. What a question does to a mapping counts: a store makes it written."""
    maps: dict[str, tuple[Map, str]] = {}
    for step in program.steps:
        if isinstance(step, Map):
            maps[step.slot] = step, ""
        elif isinstance(step, Fork):
            maps = {slot: (made, done + "f") for slot, (made, done) in maps.items()}
        elif isinstance(step, Touch | Pin | Transfer | Dma) and step.slot in maps:
            made, done = maps[step.slot]
            if made.observed.result is None or made.observed.result.errno:
                continue
            if isinstance(step, Touch):
                if step.page == made.page:
                    maps[step.slot] = made, done + step.access[0]
                continue
            where, how = row(made, done), column(step)
            if where and how and step.page == made.page and step.observed.result is not None:
                yield where, how, answer(step, header)
            if not where.endswith(SETTLED) or where.startswith("anon-readonly"):
                maps[step.slot] = made, done + "?"
        elif isinstance(step, Remap | Unmap | Limit | Dev):
            return  # another place, another limit, another state of the device: no rows of the table


def answers(recording: Recording) -> dict[str, dict[str, str]]:
    """Row -> column -> answer. Conflict if two programs disagree."""
    found: dict[str, dict[str, str]] = {}
    for program in recording.programs:
        for where, how, what in questions(program, recording.header):
            was = found.setdefault(where, {}).setdefault(how, what)
            if was != what:
                raise Conflict(f"{how} of {where}: {was}, and {what} in program {program.id}")
    return found


def combine(paths: list[Path]) -> str:
    """The file's text."""
    kernels: dict[str, dict[str, object]] = {}
    for path in paths:
        recording = store.load(path)
        key = recording.header.key.kernel
        one = kernels.setdefault(
            model_of(key), {"kernel": model_of(key), "version": key.version, "package": key.package_version,
                            "config_sha256": key.config_sha256, "answers": {}},
        )  # fmt: skip
        into = one["answers"]
        assert isinstance(into, dict)
        for where, row_ in answers(recording).items():
            for how, what in row_.items():
                if into.setdefault(where, {}).setdefault(how, what) != what:
                    raise Conflict(f"{path}: {how} of {where}: {into[where][how]}, and {what}")
    ordered = sorted(kernels.values(), key=lambda one: [int(n) for n in str(one["version"]).split(".")])
    for one in ordered:
        into = one["answers"]
        assert isinstance(into, dict)
        one["answers"] = {where: dict(sorted(into[where].items())) for where in sorted(into)}
    return json.dumps({"format": FORMAT, "version": VERSION, "kernels": ordered}, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(combine([Path(name) for name in sys.argv[1:]]))
