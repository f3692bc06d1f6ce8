"""What a CPU does with an address, and what the kernel does with the fault.

Source: arch/x86/mm/fault.c, mm/gup.c, functions of the same name. Of the model's own: Unlocked, user_access, walk,
walk_leaf and may_take_huge_leaf.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.findings import bug, reached, report
from mmlitmus.explore.ops import LOOK, TOUCH
from mmlitmus.explore.scheduler import SetupError
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    DIRTY,
    NONE,
    PAGE_SHIFT,
    PAT_LARGE,
    PFN_MASK,
    PMD_SIZE,
    PRESENT,
    RW,
    pmd_leaf,
    pmd_offset,
    pud_leaf,
    pud_offset,
    small_page,
)
from mmlitmus.kernel.errno import EFAULT, EINTR, ENOMEM
from mmlitmus.kernel.mm.memory import handle_mm_fault
from mmlitmus.kernel.mm.mm_types import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_REMOTE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_VMA_LOCK,
    FAULT_FLAG_WRITE,
    VM_EXEC,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV,
    VM_READ,
    VM_WRITE,
    MmStruct,
    VmArea,
)
from mmlitmus.kernel.mm.mmap_lock import lock_vma_under_rcu, mmap_read_lock, mmap_read_unlock, vma_end_read
from mmlitmus.kernel.mm.pgalloc import Touched
from mmlitmus.kernel.mm.vma import vma_lookup
from mmlitmus.kernel.policy import Seam


class Signal(str):
    """What user space gets instead of its access: the signal's name, and its si_code."""

    si_code: int

    def __new__(cls, name: str, si_code: int) -> Signal:
        signal = super().__new__(cls, name)
        signal.si_code = si_code
        return signal


BUS_ADRERR, SEGV_MAPERR, SEGV_ACCERR = 2, 1, 2
SIGBUS = Signal("SIGBUS", BUS_ADRERR)
SIGSEGV = Signal("SIGSEGV", SEGV_MAPERR)
GAVE_UP = "gave up"
#: what is reached then, in every case: the row says so
ACCESS_GAVE_UP = "an access gave up"
#: with VM_FAULT_SIGSEGV: the VMA is there, and forbids the access
ACCERR = 1 << 16

SETUP_FAULTS = 4  # nobody zaps beside a set-up

fault_lock = Seam("fault_lock", "what a user fault is served under first: the VMA's own lock, or mmap_lock")


def user_access(mm: MmStruct, cpu: Any, address: int, write: bool) -> Any:
    """One load or store by user space: what the device gave, or the signal (``"SIGBUS"``, ``"SIGSEGV"``).

    The TLB look-up and the access it allows are one event: a flush of this CPU waits for the instruction to retire. A
    store by a translation that was filled clean walks again, to set dirty.
    The walk's last step (read the PTE, set accessed and dirty, fill the TLB, access) is one event too. After
    ``machine.faults`` faults the thread is not run any more (``"gave up"``): with a zapper beside it, it could go on
    for ever.
    """
    machine = mm.machine
    if rt.engine.cur >= 0 and cpu not in mm.cpus:
        raise SetupError(f"{rt.current().name} runs on {cpu.name}, which does not run {mm.name}: m.task(process=...)")
    limit = machine.faults if rt.engine.cur >= 0 else SETUP_FAULTS
    for faults in range(limit + 1):
        rt.loop_point(mm, cpu, address, write, machine, limit, faults)
        rt.point((LOOK, cpu.tlb_id, machine.device_reads, "lookup"))
        entry = cpu.tlb.get((mm.name, address >> PAGE_SHIFT), NONE)
        if entry & PRESENT and (not write or entry & (RW | DIRTY) == RW | DIRTY):
            return machine.bus_access(entry, address, write)
        entry = walk(mm, cpu, address, write)
        if entry != NONE:
            return machine.bus_access(entry, address, write)
        if faults == limit:
            break
        signal = do_user_addr_fault(mm, address, FAULT_FLAG_WRITE if write else 0)
        if signal:
            return signal
    reached(ACCESS_GAVE_UP)
    return GAVE_UP


def walk(mm: MmStruct, cpu: Any, address: int, write: bool) -> int:
    """The CPU's page walk: the entry, now in the TLB, or NONE for a fault. The access itself is part of the last event.

    The CPU writes the entry only if accessed (or, for a store, dirty) is not set yet.
    """
    pud = pud_offset(mm, address)
    if pud is not None:
        upper = pud.entry
        if pud_leaf(upper):
            return walk_leaf(mm, cpu, pud, pud.oid("entry"), address, write)
        if upper == NONE:
            return NONE
    table = pmd_offset(mm, address)
    pmd = table.entry
    if pmd == NONE:
        return NONE
    return walk_leaf(mm, cpu, table, table.oid("entry") if pmd_leaf(pmd) else table.cell(address), address, write)


def walk_leaf(mm: MmStruct, cpu: Any, table: Any, cell: int, address: int, write: bool) -> int:
    """The last step, at the entry whose footprint id is ``cell``: of ``table`` itself, or of the PTE in it."""
    leaf = cell == table.oid("entry")
    fills = (cpu.tlb_id << 1 | 1, *mm.machine.device_reads)
    wanted = PRESENT | ACCESSED | (RW | DIRTY if write else 0)
    kind = LOOK
    while True:
        rt.point((kind, cell, fills, "walk"))
        entry = table.peek("entry") if leaf else table.peek_pte(address)
        if not entry & PRESENT or (leaf and not pmd_leaf(entry)) or (write and not entry & RW):
            return NONE
        if leaf and entry & (1 << table.leaf_shift) - 1 & PFN_MASK & ~PAT_LARGE:
            pgtable_bad(mm, address, entry)
        if entry & wanted == wanted:
            break
        if kind == TOUCH:
            entry |= wanted
            if leaf:
                table.set_entry(entry)
            else:
                table.put(address, entry)
            break
        kind = TOUCH
    if leaf:
        entry = small_page(entry, table.leaf_shift, address)
    cpu.tlb[mm.name, address >> PAGE_SHIFT] = entry
    return entry


def pgtable_bad(mm: MmStruct, address: int, entry: int) -> None:
    """The CPU refuses a leaf that has bits of a frame within it (they are reserved; all but the lowest, which is the
    leaf's PAT bit), and the kernel the fault.
    """
    where = mm.machine.page_label(address)
    bug("corrupted-page-table", f"{rt.current().name}: Corrupted page table at {where}: the leaf {entry:#x}")


def access_error(vma: VmArea, flags: int) -> bool:
    """Does the VMA forbid this access? Whatever is accessible at all can be read."""
    forbidden: bool = not vma.vm_flags & (VM_WRITE if flags & FAULT_FLAG_WRITE else VM_READ | VM_WRITE | VM_EXEC)
    return forbidden


def do_user_addr_fault(mm: MmStruct, address: int, flags: int, touched: Touched | None = None) -> Signal | None:
    """Serve a user fault: None when the instruction is to be run again, else the signal.

    ``touched``: outside of a search, the pages that are touched from here on, if they are more than one.
    """
    result = fault_lock(mm, address, flags, touched)
    if result is None or result & VM_FAULT_RETRY:
        result = fault_under_mmap_lock(mm, address, flags, touched)
    if result & VM_FAULT_SIGSEGV:
        return Signal("SIGSEGV", SEGV_ACCERR) if result & ACCERR else SIGSEGV
    if result & VM_FAULT_SIGBUS:
        return SIGBUS
    if result & VM_FAULT_OOM:
        pagefault_out_of_memory()
    return None


def pagefault_out_of_memory() -> None:
    """A fault says that memory was short, and the instruction is run again: whoever would have been killed for it has
    been already. All that is seen of it is a line in the log, whether memory was short or not.

    Source: mm/oom_kill.c pagefault_out_of_memory.
    """
    report("printk", "oom-leaked", f"{rt.current().name}: Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF")


def fault_under_mmap_lock(mm: MmStruct, address: int, flags: int, touched: Touched | None) -> int:
    """Serve the fault under mmap_lock R; returns VM_FAULT_* bits. A handler that says RETRY has dropped the lock.

    Source: arch/x86/mm/fault.c do_user_addr_fault.
    """
    while True:
        mmap_read_lock(mm)
        vma = vma_lookup(mm, address)
        if vma is None or access_error(vma, flags):
            mmap_read_unlock(mm)
            return VM_FAULT_SIGSEGV | (0 if vma is None else ACCERR)
        result = handle_mm_fault(vma, address, flags | FAULT_FLAG_ALLOW_RETRY, touched)
        if not result & VM_FAULT_RETRY:
            mmap_read_unlock(mm)
            return result
        flags |= FAULT_FLAG_TRIED


@fault_lock.alternative("mmap_lock", source="arch/x86/mm/fault.c do_user_addr_fault, v6.1", releases="<= v6.3")
def fault_with_mmap_lock_only(mm: MmStruct, address: int, flags: int, touched: Touched | None) -> int | None:
    """There is no other way."""
    return None


@fault_lock.alternative(
    "vma_lock",
    source="arch/x86/mm/fault.c do_user_addr_fault; mm/memory.c lock_vma_under_rcu (6.12); "
    "mm/mmap_lock.c lock_vma_under_rcu (7.3)",
    releases=">= v6.4",
)
def fault_with_vma_lock_first(mm: MmStruct, address: int, flags: int, touched: Touched | None) -> int | None:
    """Try under the VMA's read lock; None, or RETRY, when mmap_lock is needed after all."""
    if not may_take_huge_leaf(mm, address):
        return None
    vma = lock_vma_under_rcu(mm, address)
    if vma is None:
        return None
    if access_error(vma, flags):
        vma_end_read(vma)
        return VM_FAULT_SIGSEGV | ACCERR
    result = handle_mm_fault(vma, address, flags | FAULT_FLAG_VMA_LOCK, touched)
    if not result & VM_FAULT_RETRY:
        vma_end_read(vma)
    return result


@fault_lock.alternative("vma_lock-throughout", source="negative control, dossier S-VFIO-03", releases="never")
def fault_with_vma_lock_throughout(mm: MmStruct, address: int, flags: int, touched: Touched | None) -> int | None:
    """Serve everything under the VMA's read lock: the driver's ->fault is not spared."""
    vma = lock_vma_under_rcu(mm, address)
    if vma is None:
        return None
    if access_error(vma, flags):
        vma_end_read(vma)
        return VM_FAULT_SIGSEGV | ACCERR
    result = handle_mm_fault(vma, address, flags, touched)
    vma_end_read(vma)
    return result


def may_take_huge_leaf(mm: MmStruct, address: int) -> bool:
    """Is the attempt under the VMA lock worth modelling here?

    In memory of the process's own, yes. Elsewhere, without a 2M leaf to insert, it always ends in a retry under
    mmap_lock, having touched nothing (``do_fault``).
    """
    vma = next((v for v in mm.peek("mm_mt") if v.peek("vm_start") <= address < v.peek("vm_end")), None)
    if vma is not None and vma.peek("vm_ops").anonymous:
        return True
    if vma is None or vma.peek("vm_ops").huge_fault is None:
        return False
    start = address & ~(PMD_SIZE - 1)
    inside: bool = vma.peek("vm_start") <= start and start + PMD_SIZE <= vma.peek("vm_end")
    return inside  # so it is wherever a 1G leaf can be


def vma_permits_fault(vma: VmArea, flags: int) -> bool:
    """May the kernel fault on a process's behalf? For a load the VMA has to say that it may be read: what can only be
    written or run is read by the CPU (``access_error``), and not for somebody else.
    """
    return bool(vma.vm_flags & (VM_WRITE if flags & FAULT_FLAG_WRITE else VM_READ))


class Unlocked:
    """``bool *unlocked``: has mmap_lock been given up meanwhile?"""

    __slots__ = ("happened",)

    def __init__(self) -> None:
        self.happened = False


def fixup_user_fault(mm: MmStruct, address: int, write: bool, unlocked: Unlocked | None = None) -> int:
    """Fault on a user's behalf (VFIO type1 pinning MMIO): 0 or an errno. Holds mmap_lock R; who gives ``unlocked`` can
    do without it for a while, and without an answer when he is killed.
    """
    flags = FAULT_FLAG_REMOTE | (FAULT_FLAG_WRITE if write else 0)
    flags |= FAULT_FLAG_ALLOW_RETRY if unlocked is not None else 0
    while True:
        rt.loop_point(mm, address, write, unlocked, flags)
        vma = vma_lookup(mm, address)
        if vma is None or not vma_permits_fault(vma, flags):
            return -EFAULT
        if unlocked is not None and mm.machine.fatal_signal_pending():
            return -EINTR
        result = handle_mm_fault(vma, address, flags)
        if result & VM_FAULT_OOM:
            return -ENOMEM
        if result & (VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV):
            return -EFAULT
        if not result & VM_FAULT_RETRY or unlocked is None:
            return 0
        unlocked.happened = True
        flags |= FAULT_FLAG_TRIED
        mmap_read_lock(mm)
