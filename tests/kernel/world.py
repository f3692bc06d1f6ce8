"""A small world for kernel tests: a machine, a VFIO device, a character device, a process, and one task.

``run(body, "v6.12")`` runs ``body(w)`` as the only task of a machine under the search, so that locks, preconditions and
findings are live; one execution, unless the body leaves something to chance. Whatever is found and was not named in
``finds`` (shell patterns) fails the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.findings import Finding
from mmlitmus.explore.scheduler import Results, Setup
from mmlitmus.kernel import eras
from mmlitmus.kernel.drivers.vfio.pci import VfioPciCoreDevice, open_device
from mmlitmus.kernel.fs.proc.task_mmu import find
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm.mm_types import (
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_IO,
    VM_PFNMAP,
    AddressSpace,
    File,
    VmArea,
    VmOperations,
)
from mmlitmus.kernel.mm.vma_flags import vm_flags_set
from mmlitmus.kernel.uapi import Process

PAGE = 4096
HUGE = 0x200000

#: one release for each combination of choices that the shipped rows have
ERAS = (
    "v5.10", "deb-5.10.262", "v6.1", "deb-6.1.192", "v6.6", "v6.9", "v6.10", "v6.12", "deb-6.12.117", "v6.16", "v6.18",
    "v7.3", "deb-7.3.4",
)  # fmt: skip
OLD, NEW = "deb-6.1.192", "v6.12"

#: up to 6.9 VFIO's fault handler maps with remap_pfn_range, so that a touched BAR mapping has VM_PAT
REMAP_IN_FAULT = ("v5.10", "deb-5.10.262", "v6.1", "deb-6.1.192", "v6.6", "v6.9")
#: those whose munmap makes the surviving parts the new VMAs, which ->open zaps and untracks
SURVIVORS_ARE_ZAPPED = ("v6.6", "v6.9")
#: what such a zap says: the VMA is empty (recorded on 6.1.192: "WARNING ... untrack_pfn"), or its part of the
#: reservation is no entry ("freeing invalid memtype [mem 0xfea00000-0xfea01fff]")
WALK_FAILED, INVALID_FREE = "untrack-walk-failed", "freeing-invalid-memtype"


class CharDev(VmOperations):
    """A driver as plain as can be: PFNMAP, and whatever the test hangs on it. Counts the calls of its operations."""

    def __init__(self, machine: Machine, name: str = "char", pfn: int = 0x100) -> None:
        self.mapping = AddressSpace(f"{name}:mapping")
        self.file = File(f"/dev/{name}", self, self.mapping, self)
        self.base = pfn
        self.calls: list[tuple[str, str]] = []
        self.label = machine.page_label
        self.on_mmap: Callable[[VmArea], int] | None = None
        self.on_fault: Callable[[Any], int] | None = None
        self.flags = VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP

    def mmap(self, file: File, vma: VmArea) -> int:
        self.note("mmap", vma)
        if self.flags:
            vm_flags_set(vma, self.flags)
        vma.vm_ops = self
        return self.on_mmap(vma) if self.on_mmap else 0

    def open(self, vma: VmArea) -> None:
        self.note("open", vma)

    def close(self, vma: VmArea) -> None:
        self.note("close", vma)

    def fault(self, vmf: Any) -> int:
        assert self.on_fault is not None
        return self.on_fault(vmf)

    def note(self, what: str, vma: VmArea) -> None:
        self.calls.append((what, f"{self.label(vma.vm_start)}-{self.label(vma.vm_end)}"))


class World:
    """What a test body works with. ``bar`` is nothing yet: the body maps ``dev.file`` or ``char.file`` itself."""

    def __init__(self, machine: Machine, pages: int) -> None:
        self.m = machine
        self.dev: VfioPciCoreDevice = open_device(machine, pages=pages)
        self.char = CharDev(machine)
        self.p: Process = machine.process("p")
        self.probe: Any = None  # the probe module's device, where a test has loaded it

    def __call__(self, page: int, slot: str = "a") -> int:
        """The address of a page of a slot."""
        return self.m.slot(slot) + page * PAGE

    def bar(self, pages: int = 4, at: str | int = "a", touch: bool = False) -> int:
        """The BAR mapped, and each page touched if asked."""
        address = self.p.mmap(self.dev.file, pages, at=at)
        assert address > 0, address
        if touch:
            for n in range(pages):
                assert not isinstance(self.p.read(address + n * PAGE), str)
        return address

    def vma(self, address: int, process: Process | None = None) -> VmArea:
        """The VMA at an address."""
        vma = find((process or self.p).mm, address)
        assert vma is not None, f"no VMA at {self.m.page_label(address)}"
        return vma

    def layout(self, process: Process | None = None) -> str:
        """The VMAs in words: ``a0-a2@0 b0-b1@2`` (pages, and the file's page that they begin with)."""
        label = self.m.page_label
        mm = (process or self.p).mm
        parts = []
        for vma in mm.peek("mm_mt"):
            pgoff = 0 if vma.peek("vm_ops").anonymous else vma.peek("vm_pgoff")
            if self.dev.pgoff_is_pfn and vma.vm_file is self.dev.file:
                pgoff -= self.dev.pdev.bars[0].pfn
            parts.append(f"{label(vma.peek('vm_start'))}-{label(vma.peek('vm_end'))}@{pgoff}")
        return " ".join(parts)

    def populated(self, process: Process | None = None) -> str:
        """The pages that have a translation."""
        return " ".join(self.m.page_label(a) for a, _ in self.m.translations((process or self.p).mm))

    def frame(self, n: int = 0) -> int:
        """The BAR's nth frame."""
        pfn: int = self.dev.pdev.bars[0].pfn
        return pfn + n


def only(kernel: str, kernels: Iterable[str], *names: str) -> tuple[str, ...]:
    """``names`` on one of ``kernels``, nothing on any other: what a test expects to be found."""
    return names if kernel in kernels else ()


@dataclass
class Ran:
    """What running a body gave."""

    result: Any
    results: Results
    findings: list[Finding]
    world: World
    edges: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the findings, sorted."""
        return sorted({f.name for f in self.findings})


def run(
    body: Callable[[World], Any],
    kernel: str = NEW,
    *,
    finds: Iterable[str] = (),
    pages: int = 8,
    before: Callable[[World], Any] | None = None,
    once: bool = True,
    **settings: Any,
) -> Ran:
    """Run ``body`` as the only task. ``before`` runs in the set-up; ``settings`` are attributes of the machine."""
    last: list[tuple[World, Any]] = []

    def build() -> Setup:
        machine = Machine(eras.kernel(kernel))
        for key, value in settings.items():
            setattr(machine, key, value)
        w = World(machine, pages)
        if before is not None:
            before(w)
        machine.task(lambda: last.append((w, body(w))), process=w.p, name="task")
        return machine.setup()

    engine = Dpor(build, max_executions=1 if once else None)
    results = engine.run()
    assert results.exhausted, f"not searched to the end: {results.stopped}"
    if any(f.kind == "raised" for f in results.found) and engine.last_exception is not None:
        raise engine.last_exception
    findings = [found.finding for found in results.found.values()]
    unexpected = [f for f in findings if not any(fnmatchcase(f.name, name) for name in finds)]
    assert not unexpected, unexpected
    missing = [name for name in finds if not any(fnmatchcase(f.name, name) for f in findings)]
    assert not missing, f"not found: {missing}"
    w, value = last[-1] if last else (None, None)
    return Ran(value, results, findings, w, dict(engine.lockdep.edges))  # type: ignore[arg-type]


def search(build: Callable[[World], Any], kernel: str = NEW, *, pages: int = 2, **settings: Any) -> Results:
    """Every interleaving of the tasks that ``build`` puts on the machine."""

    def setup() -> Setup:
        machine = Machine(eras.kernel(kernel))
        for key, value in settings.items():
            setattr(machine, key, value)
        build(World(machine, pages))
        return machine.setup()

    results = Dpor(setup, max_executions=20_000).run()
    assert results.exhausted, results.stopped
    return results


def found(results: Results) -> set[str]:
    """The names of what was found."""
    return {f.name for f in results.found}
