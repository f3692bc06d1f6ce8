"""The programs in docs/findings.md: blocks marked ``program``, each followed by a table of what kernels answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from transcripts import ROOT

from mmlitmus.conform.compare import compare_program
from mmlitmus.conform.execute import execute
from mmlitmus.conform.generate import sensible
from mmlitmus.conform.layout import Layout
from mmlitmus.conform.reproduce import program_of
from mmlitmus.conform.schema import (
    FORMAT,
    FORMAT_VERSION,
    BarKey,
    DeviceKey,
    Entry,
    Header,
    KernelKey,
    Key,
    LabKey,
    Observed,
    Program,
    RegionKey,
    Result,
)

PAGE = ROOT / "docs" / "findings.md"
BLOCK = re.compile(r"^```program\n(.*?)^```\n\n((?:\|[^\n]*\n)+)", re.MULTILINE | re.DOTALL)

#: the lab's machine, as far as these programs need it
HEADER = Header(
    format=FORMAT,
    version=FORMAT_VERSION,
    key=Key(kernel=KernelKey(version="6.12", release="6.12"), lab=LabKey(module="mmlitmus_probe")),
    devices=(DeviceKey(name="edu", pci="1234:11e8", bars=(BarKey(bar=0, pages=256, pfn=0xFEA00),)),),
    regions=(RegionKey(name="hole", pfn=0x20000, pages=32768), RegionKey(name="bar", pfn=0xFD000, pages=4096)),
    isolation="fresh",
)


@dataclass(frozen=True)
class Row:
    """An answer: of a kernel at a step, what was seen (a field's name, and a place where it has one)."""

    kernel: str
    step: int
    seen: str
    answer: str


def findings() -> list[tuple[Program, list[Row]]]:
    """The programs, and what is said of them."""
    found = []
    for text, table in BLOCK.findall(PAGE.read_text()):
        rows = []
        for line in table.splitlines()[2:]:
            kernels, step, seen, answer = (cell.strip() for cell in line.strip("|").split("|"))
            rows += [Row(k.strip(" `"), int(step), seen, answer.strip("`")) for k in kernels.split(",")]
        found.append((program_of(text), rows))
    return found


def needs_devices(program: Program) -> bool:
    """Is it one for the machine with devices?"""
    return any(step.op == "dev" for step in program.steps)


def answers(program: Program, kernel: str) -> dict[tuple[int, str], str | None]:
    """What the model says to a program, by step and by what is seen."""
    asked = Observed(result=Result(ok=True), memtypes=(), entries={"0:a0": Entry("pte", 0)})
    looked = replace(program, steps=tuple(replace(s, observed=asked) for s in program.steps))
    fields = compare_program(looked, execute(looked, HEADER, kernel), Layout(HEADER))
    return {(f.index, f"{f.name} {f.place}".rstrip()): f.model for f in fields}


def without_one(program: Program) -> list[Program]:
    """The programs that are left when one step is left out, the last one aside."""
    found = []
    for n in range(len(program.steps) - 1):
        steps = sensible([*program.steps[:n], *program.steps[n + 1 :]])
        if steps:
            found.append(replace(program, steps=steps))
    return found
