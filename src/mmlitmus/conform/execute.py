"""Recorded programs on the model: one after the other step, on the kernel that was recorded.

A program runs as one task of one execution, so that locks, preconditions, findings and deferred frees are live; nothing
is searched. What the model finds on the way (an access after the disable, on kernels that allow one) is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mmlitmus.explore.findings import Finding
from mmlitmus.explore.once import Once
from mmlitmus.explore.scheduler import Results, Setup, SetupError
from mmlitmus.kernel import eras
from mmlitmus.kernel.absent import not_modelled
from mmlitmus.kernel.arch.x86.fault import GAVE_UP
from mmlitmus.kernel.arch.x86.pgtable import PRESENT, pte_pfn
from mmlitmus.kernel.drivers.misc.probe import Probe as ProbeModule
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.drivers.vfio.pci import D0, D3HOT, VfioPciCoreDevice, open_device, vfio_pci_index_to_offset
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm import madvise, mlock, mmap, mremap
from mmlitmus.kernel.mm.mm_types import File
from mmlitmus.kernel.mm.swap import lru_add_drain
from mmlitmus.kernel.uapi import Process

from .execute_gup import Held, clear, limit, transfer
from .execute_look import Ears, Look
from .schema import (
    Advise,
    Clear,
    Dev,
    DeviceKey,
    Dma,
    Exit,
    Fork,
    Frame,
    Header,
    KernelKey,
    Limit,
    Lockall,
    Map,
    Message,
    Observe,
    Pin,
    Probe,
    Program,
    Protect,
    Recording,
    Remap,
    Step,
    Switch,
    Touch,
    Transfer,
    Unlockall,
    Unmap,
    Unpin,
)
from .seen import NotModelledError as NotModelledError
from .seen import Seen as Seen
from .seen import result

MAP_FLAGS = {
    "fixed": mmap.MAP_FIXED,
    "fixed_noreplace": mmap.MAP_FIXED_NOREPLACE,
    "locked": mmap.MAP_LOCKED,
    "populate": mmap.MAP_POPULATE,
}
LOCKALL = {"current": mlock.MCL_CURRENT, "future": mlock.MCL_FUTURE, "onfault": mlock.MCL_ONFAULT}
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
#: and the ends of all processes: two of four slots of eight pages
FREES_AT_THE_END = 64


@dataclass(frozen=True)
class Execution:
    """A program on the model: one Seen a step, fewer if it stopped early (``stopped`` says why), and what was found.

    ``log``: what the kernel printed about memtypes, lines that the schema has no name for as they are. ``held``: the
    regions' frames that are counted more often than before when all processes have gone. ``unmodelled``: what of the
    step behind the last one seen the model has not; the program was not run further.
    """

    steps: tuple[Seen, ...]
    findings: tuple[Finding, ...]
    stopped: str = ""
    log: tuple[Message | str, ...] = ()
    held: tuple[Frame, ...] | None = None
    unmodelled: str = ""

    @property
    def died(self) -> str:
        """The BUG that stopped it; empty if none did."""
        return next((f.name for f in self.findings if f.kind == "BUG"), "") if self.stopped else ""

    @property
    def warned(self) -> bool:
        """Did the kernel print a WARNING?"""
        return any(f.kind == "WARN" for f in self.findings)


def model_of(key: KernelKey) -> str:
    """The kernel spec of the model for a recorded kernel. NotModelledError when there is none."""
    prefix = {"debian": "deb-", None: "v"}.get(key.distribution)
    spec = f"{prefix}{key.version}"
    if prefix is None or spec not in eras.RELEASES:
        raise NotModelledError(f"the model has no kernel {key.release} ({spec}); it has {', '.join(eras.RELEASES)}")
    return spec


def execute(program: Program, header: Header, spec: str) -> Execution:
    """Run a program on the kernel ``spec``, on what the header says that there was.

    A step outside the model ends it there (``Execution.unmodelled``). Raises NotModelledError for a machine outside the
    model, KernelSpecError or NotApplicable for a bad ``spec``.
    """
    kernel = eras.kernel(spec)
    run = Run(program, header)
    engine = Once(lambda: run.build(Machine(kernel)))
    engine.max_events = EVENTS_A_STEP * (len(program.steps) + 1)
    try:
        results = engine.run()
    except SetupError as e:
        raise NotModelledError(f"program {program.id}: {e}") from e
    raised = engine.last_exception
    lacking = str(raised) if isinstance(raised, NotModelledError) else run.lacking(results)
    if lacking:
        if not run.began:
            raise NotModelledError(lacking)
        return Execution(tuple(run.seen), tuple(results.found), unmodelled=lacking)
    stopped = ""
    if len(run.seen) < len(program.steps):
        why = [f.message or f.name for f in results.found if f.kind in ("BUG", "deadlock", "never-ends", "raised")]
        stopped = f"step {len(run.seen)} ({program.steps[len(run.seen)]}): {'; '.join(why) or engine.status}"
    log = run.log() if run.held is None else run.printed  # what the end of its processes prints is none of a program's
    return Execution(tuple(run.seen), tuple(results.found), stopped, tuple(log), run.held)


def execute_all(recording: Recording, spec: str | None = None) -> dict[str, Execution]:
    """Every program of a recording by id, on the kernel recorded or on ``spec``."""
    spec = spec or model_of(recording.header.key.kernel)
    return {p.id: execute(p, recording.header, spec) for p in recording.programs}


class Run(Look):
    """One program on one machine: symbolic places and numbers become addresses, processes and devices."""

    def __init__(self, program: Program, header: Header) -> None:
        super().__init__(header)
        self.program = program
        self.seen: list[Seen] = []
        self.printed: tuple[Message | str, ...] = ()
        self.held: tuple[Frame, ...] | None = None
        self.began = False

    def build(self, machine: Machine) -> Setup:
        """The machine that every program starts from, with the program as its only task."""
        self.machine = machine
        frees = FREES_A_STEP * len(self.program.steps) + (0 if self.program.held is None else FREES_AT_THE_END)
        machine.spawn_slots = frees if machine.spawn_slots else 0
        machine.lru_batches = True
        self.devices = [self._device(n, key) for n, key in enumerate(self.header.devices)]
        self.probe = self._load_probe() if self.header.regions else None
        self.places = self._places()
        self.kept = Held(self.machine, self.address)
        self.processes = {0: machine.process("process0")}
        self.ears = {0: Ears(self.processes[0].mm)}
        self.current = 0
        machine.task(self.run, process=self.processes[0], name="program")
        return machine.setup()

    def lacking(self, results: Results) -> str:
        """What the surface says that it has not, at the step that has asked for it; empty if it has all."""
        said = next((f.name for f in results.found if f.kind == "not-modelled"), "")
        at = len(self.seen)
        where = f" ({self.program.steps[at]})" if said and at < len(self.program.steps) else ""
        return f"program {self.program.id}: {said}{where}" if said else ""

    def _device(self, n: int, key: DeviceKey) -> VfioPciCoreDevice:
        if not key.bars:
            raise NotModelledError(f"device {n} ({key.name}) has no BAR: the model's devices have one at least")
        first, *others = key.bars  # the first is the model's BAR 0, whatever its number
        return open_device(self.machine, first.pages, f"dev{n}", {bar.bar: bar.pages for bar in others})

    def _load_probe(self) -> ProbeModule:
        bar = self.header.region("bar")
        probe = open_probe(self.machine, *((bar.pages,) if bar else ()), mkwrite=True)
        for key in self.header.regions:
            pages = probe.regions[key.name][1] if key.name in probe.regions else 0
            if key.pages > pages:
                raise NotModelledError(f"region {key.name}: {key.pages} pages, where the model's has {pages}")
        return probe

    def run(self) -> None:
        """The task."""
        self.seen.clear()
        self.began = True
        self.before = Counter(self._memtypes())
        for step in self.program.steps:
            self.seen.append(self._look(step, self._do(step)))
        if self.program.held is not None:
            self.printed = tuple(self.log())
            for process in self.processes.values():
                process.exit()
            self.kept.let_go_of_all()
            self.held = self._held()

    # -- one step ------------------------------------------------------------------------------------------------
    def _do(self, step: Step) -> Seen:
        process = self.processes.get(self.current)
        if process is None and not isinstance(step, Switch):
            return Seen()  # a fork that worked, as recorded, failed here: what was seen of the child is seen of nobody
        if type(step) not in DOES:
            raise NotModelledError(f"program {self.program.id}: {step.op} is not modelled ({step})")
        seen: Seen = DOES[type(step)](self, step, process)
        return seen

    def map(self, step: Map, process: Process) -> Seen:
        """mmap."""
        offset = step.offset
        if step.backing == "bar":
            numbers = [bar.bar for bar in self.header.devices[step.device].bars]
            if step.bar not in numbers:
                raise NotModelledError(f"program {self.program.id}: the device has no BAR {step.bar} to map ({step})")
            offset = vfio_pci_index_to_offset(0 if step.bar == numbers[0] else step.bar, step.offset)
        flags = SHARING[step.sharing] | sum(MAP_FLAGS[f] for f in step.flags)
        at = self.address(step.slot, step.page)
        if step.backing == "anonymous":
            return result(process.mmap_anon(step.pages, at=at, prot=prot_of(step.prot), flags=flags))
        file = self._file(step)
        return result(process.mmap(file, step.pages, at=at, offset=offset, prot=prot_of(step.prot), flags=flags))

    def _file(self, step: Map) -> File:
        if step.backing == "bar":
            return self.devices[step.device].file
        if step.backing != "pfnmap":
            not_modelled("memory of a file")
        assert self.probe is not None, "checked when the recording was read"
        frame = step.frame - step.offset  # that of the file's page 0
        try:
            return self.probe.file(step.insert, step.cache, step.region, frame, writable=step.opened == "rw")
        except ValueError as e:
            raise NotModelledError(f"program {self.program.id}: {e} ({step})") from e

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
        if step.advice == "lock_onfault":
            return result(process.mlock(at, step.pages, mlock.MLOCK_ONFAULT))
        return result(process.madvise(at, step.pages, getattr(madvise, f"MADV_{step.advice.upper()}")))

    def lockall(self, step: Lockall, process: Process) -> Seen:
        """mlockall."""
        return result(process.mlockall(sum(LOCKALL[f] for f in step.flags)))

    def unlockall(self, step: Unlockall, process: Process) -> Seen:
        """munlockall."""
        return result(process.munlockall())

    def pin(self, step: Pin, process: Process) -> Seen:
        """The module gets pages, and keeps them."""
        whose = process if step.process is None else self.processes.get(step.process)
        if whose is None:
            return Seen()
        seen, pages = self.kept.pin(step, whose)
        if step.observed.pins is None:
            return seen
        lru_add_drain(self.machine)
        pfns = [] if pages is None else pages.pfns
        return replace(seen, pins=tuple(None if pfn is None else self.frame(pfn) for pfn in pfns))

    def unpin(self, step: Unpin, process: Process) -> Seen:
        """It lets go of them."""
        return self.kept.unpin(step)

    def transfer(self, step: Transfer, process: Process) -> Seen:
        """A system call moves what is in pages."""
        whose = process if step.process is None else self.processes.get(step.process)
        return Seen() if whose is None else transfer(step, whose, self.address(step.slot, step.page))

    def dma(self, step: Dma, process: Process) -> Seen:
        """Memory is mapped for the devices, or is not any more."""
        return self.kept.dma(step, process)

    def clear(self, step: Clear, process: Process) -> Seen:
        """A write to clear_refs."""
        return clear(step, process)

    def limit(self, step: Limit, process: Process) -> Seen:
        """RLIMIT_MEMLOCK."""
        return limit(step, process)

    def touch(self, step: Touch, process: Process) -> Seen:
        """A load or a store."""
        address = self.address(step.slot, step.page)
        got = process.write(address) if step.access == "write" else process.read(address)
        if got == GAVE_UP:  # it faults for ever, until somebody kills it
            return Seen("died: hang")
        if step.access == "write":
            return result(got)
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
        self.ears[step.child] = Ears(child.mm)
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

    def probe_call(self, step: Probe, process: Process) -> Seen:
        """The probe module calls a kernel function."""
        assert self.probe is not None, "checked when the recording was read"
        if step.call == "unmap_mapping_range":
            return result(self.probe.unmap_mapping_range(step.offset, step.pages))
        assert step.slot is not None, "checked when the recording was read"
        at = self.address(step.slot, step.page)
        return result(self.probe.put(process.mm, at, step.pages, remap=step.call == "remap_pfn_range"))

    def observe(self, step: Observe, process: Process) -> Seen:
        """Nothing is done."""
        return Seen()


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
    Probe: Run.probe_call,
    Observe: Run.observe,
    Pin: Run.pin,
    Unpin: Run.unpin,
    Transfer: Run.transfer,
    Dma: Run.dma,
    Clear: Run.clear,
    Limit: Run.limit,
    Lockall: Run.lockall,
    Unlockall: Run.unlockall,
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
