"""Recorded programs on the model: one after the other step, on the kernel that was recorded.

A program runs as one task of one execution, so that locks, preconditions, findings and deferred frees are live; nothing
is searched. What the model finds on the way (an access after the disable, on kernels that allow one) is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mmlitmus.explore.findings import Finding
from mmlitmus.explore.naive import Naive
from mmlitmus.explore.scheduler import Setup, SetupError
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.pgtable import NONE, PAGE_SIZE, PRESENT, pmd_leaf, pte_pfn
from mmlitmus.kernel.drivers.vfio.pci import D0, D3HOT, VfioPciCoreDevice, open_device
from mmlitmus.kernel.errno import errno_name
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm import madvise, mmap, mremap
from mmlitmus.kernel.mm.mm_types import AddressSpace, File, VmArea, VmOperations
from mmlitmus.kernel.uapi import Process

from .schema import (
    Advise,
    Dev,
    DeviceKey,
    Entry,
    Exit,
    Fork,
    KernelKey,
    Map,
    Observe,
    Program,
    Protect,
    Recording,
    Remap,
    Step,
    Switch,
    Touch,
    Unmap,
)

MAP_FLAGS = {"fixed": mmap.MAP_FIXED, "fixed_noreplace": mmap.MAP_FIXED_NOREPLACE, "locked": mmap.MAP_LOCKED}
SHARING = {"shared": mmap.MAP_SHARED, "private": mmap.MAP_PRIVATE}
PROT = {"r": mmap.PROT_READ, "w": mmap.PROT_WRITE, "x": mmap.PROT_EXEC}
REMAP_FLAGS = {
    "maymove": mremap.MREMAP_MAYMOVE,
    "fixed": mremap.MREMAP_FIXED,
    "dontunmap": mremap.MREMAP_DONTUNMAP,
}

#: events that one step may take before the program is cut off
EVENTS_A_STEP = 5_000
#: VMAs that one step may free behind a grace period, each by a task of its own
FREES_A_STEP = 4


class NotModelledError(Exception):
    """A recording, or a step of one, that the model cannot run: not a difference, but nothing to compare either."""


@dataclass(frozen=True)
class Seen:
    """What the model did at a step: its outcome in the words of ``schema.Result.outcome``, None if it has none.

    ``value``: what a read returned. ``code``: a signal's si_code. ``off``: the access arrived at a device that does
    not answer. ``entries`` and ``vm_flags``: at the places that the recording names.
    """

    outcome: str | None = None
    value: int | None = None
    code: int | None = None
    off: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    vm_flags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Execution:
    """A program on the model: one Seen a step, fewer if it stopped early (``stopped`` says why), and what was found."""

    steps: tuple[Seen, ...]
    findings: tuple[Finding, ...]
    stopped: str = ""


def model_of(key: KernelKey) -> str:
    """The kernel spec of the model for a recorded kernel. NotModelledError when there is none."""
    prefix = {"debian": "deb-", None: "v"}.get(key.distribution)
    spec = f"{prefix}{key.version}"
    if prefix is None or spec not in eras.RELEASES:
        raise NotModelledError(f"the model has no kernel {key.release} ({spec}); it has {', '.join(eras.RELEASES)}")
    return spec


def execute(program: Program, devices: Iterable[DeviceKey], spec: str) -> Execution:
    """Run a program on the kernel ``spec``.

    Raises NotModelledError for a step outside the model, KernelSpecError or NotApplicable for a bad ``spec``.
    """
    kernel = eras.kernel(spec)
    run = Run(program, tuple(devices))
    engine = Naive(lambda: run.build(Machine(kernel)), max_executions=1)
    engine.max_events = EVENTS_A_STEP * (len(program.steps) + 1)
    try:
        results = engine.run()
    except SetupError as e:
        raise NotModelledError(f"program {program.id}: {e}") from e
    if isinstance(engine.last_exception, NotModelledError):
        raise engine.last_exception
    stopped = ""
    if len(run.seen) < len(program.steps):
        why = [f.message or f.name for f in results.found if f.kind in ("BUG", "deadlock", "never-ends", "raised")]
        stopped = f"step {len(run.seen)} ({program.steps[len(run.seen)]}): {'; '.join(why) or engine.status}"
    return Execution(tuple(run.seen), tuple(results.found), stopped)


def execute_all(recording: Recording, spec: str | None = None) -> dict[str, Execution]:
    """Every program of a recording by id, on the kernel recorded or on ``spec``."""
    spec = spec or model_of(recording.header.key.kernel)
    return {p.id: execute(p, recording.header.devices, spec) for p in recording.programs}


class Anonymous(VmOperations):
    """Anonymous memory as far as reserving an address range goes: it can be mapped and unmapped, not touched."""

    def __init__(self) -> None:
        self.file = File("anonymous", self, AddressSpace("anonymous:mapping"))

    def mmap(self, file: File, vma: VmArea) -> int:
        """Nothing to set up."""
        vma.vm_ops = self
        return 0

    def fault(self, vmf: Any) -> int:
        raise NotModelledError("anonymous memory is not modelled beyond its address range")


class Run:
    """One program on one machine: symbolic places and numbers become addresses, processes and devices."""

    def __init__(self, program: Program, devices: tuple[DeviceKey, ...]) -> None:
        self.program = program
        self.keys = devices
        self.seen: list[Seen] = []

    def build(self, machine: Machine) -> Setup:
        """The machine that every program starts from, with the program as its only task."""
        self.machine = machine
        machine.spawn_slots = FREES_A_STEP * len(self.program.steps) if machine.spawn_slots else 0
        self.devices = [self._device(n, key) for n, key in enumerate(self.keys)]
        self.anonymous = Anonymous()
        self.processes = {0: machine.process("process0")}
        self.current = 0
        machine.task(self.run, process=self.processes[0], name="program")
        return machine.setup()

    def _device(self, n: int, key: DeviceKey) -> VfioPciCoreDevice:
        if [bar.bar for bar in key.bars] != [0]:
            raise NotModelledError(f"device {n} ({key.name}): the model's devices have one BAR, BAR 0")
        return open_device(self.machine, key.bars[0].pages, f"dev{n}")

    def run(self) -> None:
        """The task."""
        self.seen.clear()
        for step in self.program.steps:
            self.seen.append(self._look(step, self._do(step)))

    # -- one step ------------------------------------------------------------------------------------------------
    def _do(self, step: Step) -> Seen:
        process = self.processes.get(self.current)
        if process is None and not isinstance(step, Switch):
            raise NotModelledError(f"program {self.program.id}: process {self.current} does not exist ({step})")
        seen: Seen = DOES[type(step)](self, step, process)
        return seen

    def address(self, slot: str, page: int) -> int:
        """The address of a page of a slot, in bytes."""
        return self.machine.slot(slot) + page * PAGE_SIZE

    def map(self, step: Map, process: Process) -> Seen:
        """mmap."""
        if step.bar:
            raise NotModelledError(f"program {self.program.id}: the model's devices have only BAR 0 ({step})")
        file = self.devices[step.device].file if step.backing == "bar" else self.anonymous.file
        flags = SHARING[step.sharing] | sum(MAP_FLAGS[f] for f in step.flags)
        at = self.address(step.slot, step.page)
        return result(process.mmap(file, step.pages, at=at, offset=step.offset, prot=prot_of(step.prot), flags=flags))

    def unmap(self, step: Unmap, process: Process) -> Seen:
        """munmap."""
        return result(process.munmap(self.address(step.slot, step.page), step.pages))

    def remap(self, step: Remap, process: Process) -> Seen:
        """mremap."""
        flags = sum(REMAP_FLAGS[f] for f in step.flags)
        at = self.address(step.slot, step.page)
        return result(process.mremap(at, step.pages, step.new_pages, to=step.to, flags=flags))

    def protect(self, step: Protect, process: Process) -> Seen:
        """mprotect."""
        return result(process.mprotect(self.address(step.slot, step.page), step.pages, prot_of(step.prot)))

    def advise(self, step: Advise, process: Process) -> Seen:
        """madvise, mlock, munlock."""
        at = self.address(step.slot, step.page)
        if step.advice == "lock":
            return result(process.mlock(at, step.pages))
        if step.advice == "unlock":
            return result(process.munlock(at, step.pages))
        return result(process.madvise(at, step.pages, getattr(madvise, f"MADV_{step.advice.upper()}")))

    def touch(self, step: Touch, process: Process) -> Seen:
        """A load or a store."""
        address = self.address(step.slot, step.page)
        if step.access == "write":
            return result(process.write(address))
        got = process.read(address)
        if isinstance(got, str):
            return Seen(got, code=getattr(got, "si_code", None))
        return Seen("ok", got, off=self._off(process, address))

    def _off(self, process: Process, address: int) -> bool:
        entry = process.pte(address)
        pfn = pte_pfn(entry)
        reached = [d.pdev for d in self.devices if entry & PRESENT and d.pdev.bar_of(pfn) is not None]
        return any(pdev.peek("off") for pdev in reached)

    def fork(self, step: Fork, process: Process) -> Seen:
        """fork."""
        child = process.fork(f"process{step.child}")
        if isinstance(child, int):
            return result(child)
        self.processes[step.child] = child
        return Seen("ok")

    def switch(self, step: Switch, process: Process) -> Seen:
        """Another process goes on."""
        self.current = step.process
        return Seen()

    def exit(self, step: Exit, process: Process) -> Seen:
        """The current process ends."""
        process.exit()
        del self.processes[self.current]
        return Seen()

    def dev(self, step: Dev, process: Process) -> Seen:
        """An action on a device."""
        device = self.devices[step.device]
        if step.action == "read":
            got = device.read_register(process, step.page)
            return result(got) if got < 0 else Seen("ok", got)
        return result(ACTIONS[step.action](device))

    def observe(self, step: Observe, process: Process) -> Seen:
        """Nothing is done."""
        return Seen()

    # -- looking afterwards --------------------------------------------------------------------------------------
    def _look(self, step: Step, seen: Seen) -> Seen:
        for place in step.observed.entries:
            where = self._place(place)
            if where is not None:
                seen.entries[place] = self.entry(*where)
        for place in step.observed.vm_flags:
            where = self._place(place)
            if where is not None:
                seen.vm_flags[place] = where[0].vm_flags(where[1])
        return seen

    def _place(self, place: str) -> tuple[Process, int] | None:
        number, slot, page = re.fullmatch(r"(\d+):([a-z])(\d+)", place).groups()  # type: ignore[union-attr]
        process = self.processes.get(int(number))
        return None if process is None else (process, self.address(slot, int(page)))

    def entry(self, process: Process, address: int) -> Entry:
        """The raw entry, no event. The model has no tables above the PMD, so a walk ends there at the earliest.

        Frames are moved to where the recorded machine had the BAR, if that is known.
        """
        table = process.mm.pgd.get(address >> 21)
        pmd = table.peek("entry") if table is not None else NONE
        level = "pmd" if pmd == NONE or pmd_leaf(pmd) else "pte"
        bits = process.pte(address)
        for device, key in zip(self.devices, self.keys, strict=True):
            bar = device.pdev.bar_of(pte_pfn(bits))
            if bits & PRESENT and bar is not None and key.bars[0].pfn is not None:
                return Entry(level, bits + (key.bars[0].pfn - bar.pfn) * PAGE_SIZE)
        return Entry(level, bits)


DOES: dict[type[Step], Any] = {
    Map: Run.map,
    Unmap: Run.unmap,
    Remap: Run.remap,
    Protect: Run.protect,
    Advise: Run.advise,
    Touch: Run.touch,
    Fork: Run.fork,
    Switch: Run.switch,
    Exit: Run.exit,
    Dev: Run.dev,
    Observe: Run.observe,
}

ACTIONS: dict[str, Callable[[VfioPciCoreDevice], int]] = {
    "memory_off": lambda d: d.write_command(memory=False),
    "memory_on": lambda d: d.write_command(memory=True),
    "d3hot": lambda d: d.write_pm_state(D3HOT),
    "d0": lambda d: d.write_pm_state(D0),
    "low_power_enter": lambda d: d.low_power_entry(engage=True),
    "low_power_exit": lambda d: d.low_power_entry(engage=False),
    "reset": lambda d: d.reset(),
}


def prot_of(letters: str) -> int:
    """PROT_* bits for letters of ``rwx``."""
    return sum(PROT[c] for c in letters)


def result(value: int | str) -> Seen:
    """What a uapi operation returned, as a Seen: an errno (negative), a signal's name, or success."""
    if isinstance(value, str):
        return Seen(value, code=getattr(value, "si_code", None))
    return Seen(errno_name(value) if value < 0 else "ok")
