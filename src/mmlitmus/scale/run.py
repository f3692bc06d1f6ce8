"""What a user asks of a whole machine: a guest's memory that VFIO pins, a BAR that is mapped, touched and revoked.

Each is a list of steps; a step has what the kernel answered, and how often what happened (``counts.COUNTS``). The same
arguments give the same answers, whatever is kept in arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmlitmus.explore.once import Once, Unscheduled
from mmlitmus.explore.scheduler import Setup
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.fault import do_user_addr_fault
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY,
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PMD_SIZE,
    PRESENT,
    PUD_SHIFT,
    RW,
)
from mmlitmus.kernel.drivers.vfio.pci import open_device
from mmlitmus.kernel.drivers.vfio.type1 import IOMMU_READ, IOMMU_WRITE, VfioIommu, vfio_dma_do_map
from mmlitmus.kernel.drivers.vfio.type1_unmap import vfio_dma_do_unmap
from mmlitmus.kernel.mm.mm_types import FAULT_FLAG_WRITE
from mmlitmus.kernel.mm.pgalloc import Touched, batch_at
from mmlitmus.kernel.policy import Kernel
from mmlitmus.kernel.uapi import Process

from .counts import COUNTS
from .machine import WholeMachine

#: where memory is mapped: a block of 1G, below 128 TiB
BASE = 0x1000 << PUD_SHIFT
#: leaf -> how far from a block of 1G a BAR's mapping begins, so that nothing larger fits
LEAVES = {"4K": PAGE_SIZE, "PMD": PMD_SIZE, "PUD": 0}
SHIFTS = {"4K": PAGE_SHIFT, "PMD": PMD_SHIFT, "PUD": PUD_SHIFT}
#: what an IOMMU can address here, in bytes
LARGEST = 1 << 46


class ScaleError(ValueError):
    """What was asked for cannot be run; the text says why."""


@dataclass
class Step:
    """``result``: 0, or how many bytes, as the kernel says; or a negative errno; or a signal's name. ``seconds`` are of
    CPU.
    """

    name: str
    result: int | str
    counts: dict[str, int]
    seconds: float

    def as_json(self, timing: bool) -> dict[str, Any]:
        """For ``--json``; what did not happen is left out."""
        counts = {name: n for name, n in self.counts.items() if n}
        return {
            "step": self.name, "result": self.result, "counts": counts,
            **({"seconds": round(self.seconds, 4)} if timing else {}),
        }  # fmt: skip


@dataclass
class Run:
    """One machine, and what became of it. Sizes are bytes, ``locked_vm`` pages."""

    what: str
    kernel: str
    size: int
    options: dict[str, Any]
    steps: list[Step] = field(default_factory=list)
    locked_vm: int = 0  # after the memory was mapped
    translations: dict[str, int] = field(default_factory=dict)  # leaves by size, when there were most of them
    table_bytes: int = 0  # of PTE arrays and of frames' states, then
    frame_bytes: int = 0
    findings: list[str] = field(default_factory=list)

    def as_json(self, timing: bool = False) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "what": self.what, "kernel": self.kernel, "size": self.size, **self.options,
            "locked_vm": self.locked_vm, "translations": self.translations,
            "steps": [step.as_json(timing) for step in self.steps], "findings": self.findings,
        }  # fmt: skip


class CountedIommu(VfioIommu):
    """A container whose calls of the IOMMU are counted."""

    __slots__ = ("counts",)

    def __init__(self, machine: WholeMachine, name: str = "iommu", limit: int | None = None) -> None:
        super().__init__(machine, name, limit)
        self.counts = machine.counts

    def iommu_map(self, first: int, pfn: int, nr: int) -> None:
        """Map, and count."""
        self.counts["iommu_maps"] += 1
        super().iommu_map(first, pfn, nr)

    def iommu_unmap(self, first: int, nr: int) -> list[tuple[int, int]]:
        """Unmap, and count."""
        gone = super().iommu_unmap(first, nr)
        self.counts["iommu_unmaps"] += len(gone)
        return gone


class Steps:
    """Runs steps on a machine, and keeps what each counted."""

    def __init__(self, machine: WholeMachine, run: Run) -> None:
        self.machine = machine
        self.run = run

    def __call__(self, name: str, do: Callable[[], Any]) -> Any:
        before = dict(self.machine.counts)
        start = time.process_time()
        result = do()
        seconds = time.process_time() - start
        counts = {item: self.machine.counts[item] - before[item] for item in COUNTS}
        self.run.steps.append(Step(name, result, counts, seconds))
        return result


def on_machine(
    kernel: Kernel, pages: int, work: Callable[[WholeMachine], Any], *, arrays: bool = True, huge: bool = False
) -> tuple[Any, list[str]]:
    """Run ``work`` as the only task of a machine: what it returns, and the names of what was found.

    ``arrays`` False: on what a search keeps, page by page, with every event: for small sizes, to compare.
    """
    got: list[Any] = []

    def build() -> Setup:
        machine = WholeMachine(kernel, pages, arrays=arrays, huge=huge)
        machine.task(lambda: got.append(work(machine)), name="task")
        return machine.setup()

    engine = Unscheduled(build) if arrays else Once(build)
    engine.max_events = 1 << 62
    results = engine.run()
    if engine.last_exception is not None:
        raise engine.last_exception
    names = sorted({finding.name for finding in results.found})
    if not got:
        raise ScaleError(f"the kernel stopped: {', '.join(names)}")
    return got[0], names


def new_process(machine: WholeMachine, name: str) -> Process:
    """A process that runs on the CPU of the one task."""
    process = machine.process(name)
    process.mm.cpus.append(machine.this_cpu())
    return process


def touch(process: Process, address: int, pages: int, write: bool = False) -> int | str:
    """Touch each of ``pages`` pages once, in order: 0, or the signal that ends it.

    What a CPU can use as it is, it uses; what is not there faults, batch by batch; all else (an entry that the CPU
    itself changes as it uses it) goes page by page.
    """
    machine, mm = process.machine, process.mm
    wanted = PRESENT | ACCESSED | (RW | DIRTY if write else 0)
    at, end = address, address + (pages << PAGE_SHIFT)
    faulted = -1
    while at < end:
        left = end - at >> PAGE_SHIFT
        entry, nr, _ = machine.run_at(mm, at, left) if machine.arrays else (NONE, 1, PAGE_SHIFT)
        if entry & wanted == wanted:
            at += nr << PAGE_SHIFT
        elif machine.arrays and entry == NONE and faulted != at:
            faulted = at
            signal = do_user_addr_fault(mm, at, FAULT_FLAG_WRITE if write else 0, Touched(batch_at(mm, at, left)))
            if signal is not None:
                return signal
        else:
            result = process.write(at) if write else process.read(at)
            if isinstance(result, str):
                return result
            at += PAGE_SIZE
    return 0


def translations(machine: WholeMachine, process: Process) -> dict[str, int]:
    """How many leaves of each size map something now."""
    counts = machine.counts
    return {
        "4K": counts["ptes_set"] - counts["ptes_cleared"],
        "2M": counts["pmd_leaves_set"] - counts["pmd_leaves_cleared"],
        "1G": counts["pud_leaves_set"] - counts["pud_leaves_cleared"],
    }


def _most(machine: WholeMachine, process: Process, run: Run) -> None:
    run.translations = translations(machine, process)
    if machine.arrays:
        run.table_bytes = process.mm.pgd.used()  # type: ignore[attr-defined]
        run.frame_bytes = machine.pages.used()  # type: ignore[attr-defined]


def _size(what: str, size: int, unit: int) -> None:
    if size <= 0 or size % unit or size > LARGEST:
        raise ScaleError(f"{what} has to be a multiple of {unit} bytes, and at most 64 TiB: {size}")


def guest(
    kernel: str = "deb-6.12.117",
    memory: int = 64 << 30,
    *,
    huge: bool = False,
    touched: bool = False,
    limit: int | None = None,
    arrays: bool = True,
) -> Run:
    """A guest's memory, anonymous and private, is mapped for a device by VFIO type1, which pins it; and taken away.

    ``memory`` in bytes. ``huge``: untouched blocks of 2M get huge pages. ``touched``: the guest has written to all of
    it before. ``limit``: RLIMIT_MEMLOCK in pages. Raises ScaleError, and what ``eras.kernel`` raises.
    """
    _size("memory", memory, PAGE_SIZE)
    pages = memory >> PAGE_SHIFT
    found = eras.kernel(kernel)
    run = Run("guest", found.spec, memory, {"huge": huge, "touched": touched, "limit": limit})

    def work(machine: WholeMachine) -> None:
        step = Steps(machine, run)
        process = new_process(machine, "guest")
        iommu = CountedIommu(machine, limit=limit)
        address = process.mmap_anon(pages, at=BASE)
        if touched:
            step("touch", lambda: touch(process, address, pages, write=True))
        prot = IOMMU_READ | IOMMU_WRITE
        step("map_dma", lambda: vfio_dma_do_map(iommu, process, 0, address, memory, prot))
        run.locked_vm = process.locked()
        _most(machine, process, run)
        step("unmap_dma", lambda: vfio_dma_do_unmap(iommu, 0, memory))
        step("munmap", lambda: process.munmap(address, pages))

    _, run.findings = on_machine(found, pages, work, arrays=arrays, huge=huge)
    return run


def bar(kernel: str = "deb-6.12.117", size: int = 16 << 30, leaf: str = "PUD", *, arrays: bool = True) -> Run:
    """A BAR of a VFIO device is mapped, touched page by page, revoked (memory decode off and on), touched again, and
    unmapped.

    ``size`` in bytes. ``leaf``: 4K, PMD or PUD: the mapping lies in the address space so that nothing larger fits
    (but v6.12 as released does not ask whether the frames do, and makes leaves of some that do not: *unaligned-leaf*).
    Raises ScaleError, and what ``eras.kernel`` raises.
    """
    _size("size", size, 1 << SHIFTS[leaf])
    pages = size >> PAGE_SHIFT
    found = eras.kernel(kernel)
    run = Run("bar", found.spec, size, {"leaf": leaf})

    def work(machine: WholeMachine) -> None:
        step = Steps(machine, run)
        process = new_process(machine, "vmm")
        device = open_device(machine, pages)
        if leaf != "4K" and device.huge_fault is None:
            raise ScaleError(f"n/a: VFIO of {found.spec} maps BARs by 4K only (huge_fault came with 6.12)")
        address = process.mmap(device.file, pages, at=BASE + LEAVES[leaf])
        if address < 0:
            raise ScaleError(f"mmap of the BAR: {address}")
        step("touch", lambda: touch(process, address, pages))
        _most(machine, process, run)
        step("disable", lambda: device.write_command(memory=False))
        step("enable", lambda: device.write_command(memory=True))
        step("touch_again", lambda: touch(process, address, pages))
        step("munmap", lambda: process.munmap(address, pages))

    _, run.findings = on_machine(found, 0, work, arrays=arrays)
    return run


__all__ = ["LEAVES", "Run", "ScaleError", "Step", "bar", "guest", "on_machine", "touch"]
