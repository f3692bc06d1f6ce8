"""A small machine running one kernel: CPUs, processes, devices, and the tasks that a case puts on them.

Addresses come in slots far apart, one letter each: page 3 of slot b prints as ``b3``. Every task has a CPU of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from string import ascii_lowercase
from typing import Any

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.findings import Finding, reached, report
from mmlitmus.explore.primitives.rcu import Rcu
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Model, Once, look
from mmlitmus.kernel.arch.x86.e820 import E820
from mmlitmus.kernel.arch.x86.fault import ACCESS_GAVE_UP
from mmlitmus.kernel.arch.x86.mtrr import Mtrr
from mmlitmus.kernel.arch.x86.pat import MemtypeDatabase, cattr_name
from mmlitmus.kernel.arch.x86.pgtable import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PRESENT,
    PUD_SHIFT,
    PteTable,
    PudEntry,
    describe,
    pmd_leaf,
    pmd_offset,
    pte_pfn,
    pud_leaf,
    small_page,
)
from mmlitmus.kernel.arch.x86.tlb import CpuState
from mmlitmus.kernel.mm.mm_types import File, MmStruct
from mmlitmus.kernel.mm.page_alloc import (
    FIRST_LARGE,
    MIGRATE_MOVABLE,
    MIGRATE_UNMOVABLE,
    ZERO_PFN,
    ZONE_NORMAL,
    Folio,
    Frames,
    make_zero_page,
)
from mmlitmus.kernel.mm.swap import LruBatch
from mmlitmus.kernel.mm.swapfile import SwapInfo
from mmlitmus.kernel.mm.swapfile import swapon as make_swap_device
from mmlitmus.kernel.pci import PciDevice
from mmlitmus.kernel.policy import Kernel, run_on
from mmlitmus.kernel.sync.might import fs_reclaim
from mmlitmus.kernel.uapi import Process

SLOT_BASE = 0x7F00_0000_0000
SLOT_SIZE = 0x0100_0000  # 16 MiB: room for 8 small pages or a few 2M ones, and a guard gap
FIRST_PFN = 0xFEA00  # where QEMU puts the edu device's BAR0
BAR_ROOM = 0x800  # pages from one BAR to the next
FIRST_LARGE_PFN = 0x100000  # 4G, where BARs go that are longer
SPAWN_SLOTS = 3

#: what real kernels do and live with: reported as a note, unless a case asks about it by name
TOLERATED = {
    "race on vm_flags": (
        "mmap_region sets VM_SOFTDIRTY after vma_link_file, while a reverse-map zap may look for VM_PAT, and clear it "
        "(mm/mmap.c, untrack_pfn, 6.12)"
    ),
}


class TaskSignals(Model):
    """What is pending for a task that somebody may kill."""

    __slots__ = ()
    sigkill = Once()


class Machine:
    """Built afresh for every execution. A case adds processes, devices and tasks, then the tasks run."""

    #: what page tables are kept in; whole machines have others (``mmlitmus.scale``)
    pte_table: Callable[..., PteTable] = PteTable
    pud_entry: Callable[..., PudEntry] = PudEntry

    def __init__(self, kernel: Kernel) -> None:
        run_on(kernel)
        self.kernel = kernel
        self.faults = 2  # faults that one access takes before its thread is left alone
        self.failures = 0  # allocations that may fail, a task
        self.batch = 1  # pages a leaf loop handles at once
        self.spawn_slots = SPAWN_SLOTS if kernel.has("PER_VMA_LOCK") else 0
        self.rcu = Rcu(10)
        self.fs_reclaim = fs_reclaim()
        self.e820 = E820()
        self.mtrr = Mtrr()
        self.memtypes = MemtypeDatabase()
        self.pages = Frames()  # what has a counted page, by frame
        self.first_large = FIRST_LARGE  # where folios of more than a page begin, in frames
        self.thp = False  # do untouched 2M blocks of a process's own memory get huge pages?
        self.lru_batches = False  # does a CPU keep new pages back for the LRU lists?
        self.lru_batch: dict[str, LruBatch] = {}
        self.swap: SwapInfo | None = None  # the swap device, if a case asks for one (``swapon``)
        self.user_zone, self.user_migratetype = ZONE_NORMAL, MIGRATE_MOVABLE  # of what a process's own pages come from
        self.zero_zone, self.zero_migratetype = ZONE_NORMAL, MIGRATE_UNMOVABLE  # of the zero page: as it was booted
        self.boot_counters: dict[str, int] = {}
        self.signals: dict[str, TaskSignals] = {}
        self.boot_cpu = CpuState("boot-cpu")
        self.cpus: dict[str, CpuState] = {}
        self.mms: list[MmStruct] = []
        self.devices: list[PciDevice] = []
        self.device_reads: tuple[int, ...] = ()
        self.tasks: dict[str, Callable[[], Any]] = {}
        self.daemons: set[str] = set()
        self.checks: list[Callable[[], Iterable[Finding]]] = []
        self.warm: list[tuple[CpuState, MmStruct, int]] = []
        self.tolerated = TOLERATED
        self.told = {ACCESS_GAVE_UP: "gave up"}  # what a row says if it was reached in any execution
        self._names: dict[str, int] = {}

    # -- what a case calls -----------------------------------------------------------------------------------
    def process(self, name: str) -> Process:
        """A process with an empty address space."""
        return Process(self, self.new_mm(name))

    def task(
        self,
        fn: Callable[[], Any] | None = None,
        *,
        process: Process | None = None,
        name: str | None = None,
        warm: Iterable[int] = (),
        daemon: bool = False,
    ) -> Any:
        """Run ``fn`` as a task on a CPU of its own. ``process``: whose mm that CPU runs (default: the first process).

        ``warm``: addresses whose translations the CPU has cached before the tasks start.
        """
        if fn is None:
            return lambda f: self.task(f, process=process, name=name, warm=warm, daemon=daemon)
        task_name = name or fn.__name__
        if task_name in self.tasks:
            raise ValueError(f"two tasks are called {task_name}")
        cpu = self.cpus[task_name] = CpuState(f"cpu{len(self.cpus)}")
        mm = process.mm if process is not None else self.mms[0] if self.mms else None
        if mm is not None:
            mm.cpus.append(cpu)
            self.warm += [(cpu, mm, address) for address in warm]
        self.tasks[task_name] = fn
        if daemon:
            self.daemons.add(task_name)
        return fn

    def check(self, fn: Callable[[], Iterable[Finding]]) -> Callable[[], Iterable[Finding]]:
        """Ask ``fn`` for findings when every task has ended."""
        self.checks.append(fn)
        return fn

    def require(self, ok: bool, name: str, message: str) -> None:
        """Report the invariant ``name`` broken unless ``ok``; for the case's own expectations."""
        if not ok:
            report("invariant", name, message)

    def reached(self, what: str) -> None:
        """Say that the execution got somewhere that the case's ``reach`` names."""
        reached(what)

    def saw(self, result: Any) -> Any:
        """Note how an access by the running task came out, for ``reach``; returns it."""
        how = f"got {result}" if isinstance(result, str) and result.startswith("SIG") else f"{result}"
        reached(f"{rt.current().name} {'got through' if not isinstance(result, str) else how}")
        return result

    def slot(self, letter: str) -> int:
        """The first address of a slot, in bytes."""
        return SLOT_BASE + (ord(letter) - ord("a")) * SLOT_SIZE

    def slots(self) -> Iterable[tuple[int, int]]:
        """(first address, bytes) of every slot, from the top down: where an address may be of the kernel's choice."""
        return ((self.slot(letter), SLOT_SIZE) for letter in reversed(ascii_lowercase))

    # -- what the kernel calls -------------------------------------------------------------------------------
    def new_mm(self, name: str) -> MmStruct:
        """A new address space, known to the machine."""
        mm = MmStruct(name, self)
        self.mms.append(mm)
        return mm

    def this_cpu(self) -> CpuState:
        """The CPU of the running task."""
        return self.cpus.get(rt.current().name, self.boot_cpu)

    def own_name(self, what: str) -> str:
        """A name for something that the running task makes."""
        task = rt.current()
        return f"{what}#{task.name}.{task.count(what)}" if task.index >= 0 else self.boot_name(what)

    def boot_name(self, what: str) -> str:
        """A name for something made during set-up."""
        return f"{what}#{self._count(what)}"

    def _count(self, what: str) -> int:
        n = self._names[what] = self._names.get(what, 0) + 1
        return n

    def add_device(self, device: PciDevice) -> None:
        """Put a device on the bus."""
        self.devices.append(device)
        for bar in device.bars:
            self.e820.add_device(bar.name, bar.pfn, bar.pages)
            self.mtrr.add_device(bar.pfn, bar.pages)
        self.device_reads = tuple(d.oid("off") << 1 for d in self.devices)

    def pci_device(self, name: str, pages: int, more: Mapping[int, int] | None = None) -> PciDevice:
        """A device with a BAR 0 of ``pages`` pages, on the bus and answering. ``more``: the pages of other BARs, by
        number.
        """
        device = PciDevice(name, self.free_pfn(pages), pages, more)
        self.add_device(device)
        return device

    def free_pfn(self, pages: int = 1) -> int:
        """Where the next device's BARs go: 8M behind those of the one before, or more if they are larger. If the first
        is longer than that: behind 4G and all others, aligned as it is long.
        """
        ends = [bar.pfn + bar.pages for device in self.devices for bar in device.bars]
        if pages > BAR_ROOM:
            size = 1 << (pages - 1).bit_length()
            return max([FIRST_LARGE_PFN, *ends]) + size - 1 & -size
        end = max((bar.pfn + bar.pages for device in self.devices for bar in device.bars[1:]), default=0)
        return max(FIRST_PFN + len(self.devices) * BAR_ROOM, end + BAR_ROOM - 1 & -BAR_ROOM)

    def zero_page(self) -> Folio:
        """The zero page, made when it is asked for first: while the machine is set up, or anonymous memory mapped."""
        folio = self.pages.get(ZERO_PFN)
        return folio if folio is not None else make_zero_page(self)

    def swapon(self) -> None:
        """Give the machine a swap device, so that MADV_PAGEOUT can page out. For the set-up only."""
        make_swap_device(self)

    def killable(self, task: str) -> Callable[[], None]:
        """Who calls what this returns sends SIGKILL to the task of that name. For the set-up only."""
        signals = self.signals[task] = TaskSignals(f"{task}'s signals", sigkill=False)

        def kill() -> None:
            signals.sigkill = True

        return kill

    def fatal_signal_pending(self) -> bool:
        """Has the running task been killed? No event for a task that nobody can kill."""
        signals = self.signals.get(rt.current().name)
        return signals is not None and bool(signals.sigkill)

    def bus_access(self, entry: int, address: int, write: bool) -> Any:
        """A CPU's access leaves for the frame that ``entry`` maps."""
        pfn = pte_pfn(entry)
        for device in self.devices:
            if device.bar_of(pfn) is not None:
                return device.access(pfn, address & PAGE_SIZE - 1, write)
        if pfn < self.e820.top:
            return 0  # memory
        report("invariant", "access-to-nowhere", f"{rt.current().name} reaches frame {pfn:#x}, which nobody decodes")
        return 0

    def look_at_device(self, device: PciDevice) -> None:
        """One event: the kernel itself reads a register; whether the device answers is part of it."""
        look([device.oid("off")])

    def count(self, item: str, delta: int) -> None:
        """Something happened ``delta`` times that whoever runs a whole machine wants to know; a search does not."""

    def get_file(self, file: File) -> None:
        """A VMA holds a reference to its file. Files outlive the machine here, so nothing is counted."""

    def fput(self, file: File) -> None:
        """Undo ``get_file``."""

    def may_exec(self, file: File) -> bool:
        """May the file be mapped executable? From 6.16 on anonymous inodes are noexec."""
        return not (self.kernel.has("ANON_INODE_NOEXEC") and file.name.startswith("anon_inode:"))

    def page_label(self, address: int) -> str:
        """``b3`` for page 3 of slot b."""
        n, offset = divmod(address - SLOT_BASE, SLOT_SIZE)
        return f"{chr(ord('a') + n)}{offset >> PAGE_SHIFT}" if 0 <= n < 26 else f"{address:#x}"

    def bounds(self) -> dict[str, int | str]:
        """How big this machine is: what "exhaustive" is relative to."""
        pages = sum(bar.pages for device in self.devices for bar in device.bars)
        return {
            "tasks": len(self.tasks),
            "devices": len(self.devices),
            "pages": pages,
            "faults": self.faults,
            "failures": self.failures,
            **({"lru_batches": len(self.lru_batch)} if self.lru_batches else {}),
        }

    # -- for the search --------------------------------------------------------------------------------------
    def setup(self) -> Setup:
        """Hand the machine to the search."""
        self.boot_cpu.tlb.clear()
        if self.lru_batches:
            for cpu in (self.boot_cpu, *self.cpus.values()):
                self.lru_batch.setdefault(cpu.name, LruBatch(f"{cpu.name}'s LRU batch"))
        for cpu, mm, address in self.warm:
            entry = self.translation(mm, address)
            if entry & PRESENT:
                shift = next(shift for at, _, shift in self.leaves(mm) if at <= address < at + (1 << shift))
                cpu.tlb[mm.name, address >> PAGE_SHIFT] = small_page(entry, shift, address)
        return Setup(
            tasks=self.tasks,
            checks=self.checks,
            daemons=frozenset(self.daemons),
            spawn_slots=self.spawn_slots,
            watch=self.watch,
            modules=("mmlitmus.kernel",),
            context=self,
        )

    def translation(self, mm: MmStruct, address: int) -> int:
        """The raw leaf entry for ``address`` (0: none), without an event."""
        upper = mm.puds.get(address >> PUD_SHIFT)
        if upper is not None and pud_leaf(upper.peek("entry")):
            entry: int = upper.peek("entry")
            return entry
        table = mm.pgd.get(address >> PMD_SHIFT)
        if table is None:
            return 0
        entry = table.peek("entry")
        return entry if pmd_leaf(entry) else table.peek_pte(address) if entry else 0

    def is_leaf(self, mm: MmStruct, address: int) -> bool:
        """Is it a huge leaf, of 2M or 1G, that maps ``address``? No event."""
        upper = mm.puds.get(address >> PUD_SHIFT)
        if upper is not None and pud_leaf(upper.peek("entry")):
            return True
        table = mm.pgd.get(address >> PMD_SHIFT)
        return table is not None and pmd_leaf(table.peek("entry"))

    def leaves(self, mm: MmStruct) -> Iterable[tuple[int, int, int]]:
        """Every (address, raw leaf entry, shift of its size) of an mm, without events: 1G leaves first, then by
        address.
        """
        for n in sorted(mm.puds):
            if pud_leaf(mm.puds[n].peek("entry")):
                yield mm.puds[n].address, mm.puds[n].peek("entry"), PUD_SHIFT
        for n in sorted(mm.pgd):
            table = mm.pgd[n]
            pmd = table.peek("entry")
            if pmd_leaf(pmd):
                yield table.address, pmd, PMD_SHIFT
            elif pmd:
                for page in sorted(table.values):
                    yield table.address + (page << PAGE_SHIFT), table.values[page], PAGE_SHIFT

    def translation_ids(self) -> list[int]:
        """The footprint of looking at every translation there is: sets of VMAs, entries, TLBs.

        Of the entries, those of the VMAs in the tree and all that have been used: a VMA that is being unmapped is in
        the tree no more.
        """
        return [cpu.tlb_id for cpu in self.cpus.values()] + self.entry_ids()

    def entry_ids(self) -> list[int]:
        """... without what the CPUs have cached."""
        ids = []
        for mm in self.mms:
            ids.append(mm.oid("mm_mt"))
            for vma in mm.peek("mm_mt"):
                for address in range(vma.peek("vm_start"), vma.peek("vm_end"), PAGE_SIZE):
                    pmd_offset(mm, address).cell(address)
            ids += [mm.puds[n].oid("entry") for n in sorted(mm.puds)]
            for n in sorted(mm.pgd):
                ids += [mm.pgd[n].oid("entry"), *(mm.pgd[n].cells[page] for page in sorted(mm.pgd[n].cells))]
        return ids

    def translations(self, mm: MmStruct) -> Iterable[tuple[int, int]]:
        """Every (address, entry) of an mm, without events; a huge leaf as that of its first 4K page."""
        for address, entry, shift in self.leaves(mm):
            yield address, small_page(entry, shift, address)

    def watch(self) -> dict[str, str]:
        """What ``show`` prints as it changes: entries, TLBs, VMAs, devices."""
        seen: dict[str, str] = {}
        for mm in self.mms:
            for address, entry, _ in self.leaves(mm):
                seen[f"{mm.name}:pte[{self.page_label(address)}]"] = describe(entry)
            for vma in mm.peek("mm_mt"):
                start, end = vma.peek("vm_start"), vma.peek("vm_end")
                seen[f"{mm.name}:{vma.name}"] = (
                    f"[{self.page_label(start)},{self.page_label(end)}) flags {vma.peek('vm_flags'):#x}"
                )
        for name, cpu in self.cpus.items():
            for (mm_name, page), entry in sorted(cpu.tlb.items()):
                seen[f"{name}'s tlb[{mm_name}:{self.page_label(page << PAGE_SHIFT)}]"] = describe(entry)
        reserved: dict[str, list[str]] = {}
        for item in self.memtypes.entries():
            reserved.setdefault(f"memtype [mem {item.start:#x}-{item.end:#x}]", []).append(cattr_name(item.type))
        for where, names in reserved.items():
            seen[where] = names[0] + (f" x{len(names)}" if len(names) > 1 else "")
        for device in self.devices:
            seen[device.name] = "on" if not device.peek("off") else f"off ({', '.join(device.peek('off'))})"
        return seen
