"""mm_struct, vm_area_struct, address_space, file: what they hold and which lock protects each field.

Source: include/linux/mm_types.h vm_area_struct, mm_struct, include/linux/fs.h address_space, include/linux/mm.h,
functions of the same name; the locking of VMA fields is that of
Documentation/mm/process_addrs.rst (vm_start, vm_end, vm_pgoff change under mmap_lock W + VMA write lock + rmap lock W,
and may be read under any of the three). Of the model's own: VmArea.has, VmArea.retire.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.primitives.rwsem import RwSem
from mmlitmus.explore.state import Atomic, Const, Counter, Ghost, Guarded, GuardedList, Model, Once, Plain, touch
from mmlitmus.kernel.arch.x86 import pgtable
from mmlitmus.kernel.mm.hooks import check_hook, check_hooks, own_methods

# vm_flags bits (include/linux/mm.h)
VM_READ, VM_WRITE, VM_EXEC, VM_SHARED = 1 << 0, 1 << 1, 1 << 2, 1 << 3
VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC, VM_MAYSHARE = 1 << 4, 1 << 5, 1 << 6, 1 << 7
VM_PFNMAP = 1 << 10
VM_LOCKED, VM_IO, VM_SEQ_READ, VM_RAND_READ = 1 << 13, 1 << 14, 1 << 15, 1 << 16
VM_DONTCOPY, VM_DONTEXPAND, VM_LOCKONFAULT, VM_ACCOUNT = 1 << 17, 1 << 18, 1 << 19, 1 << 20
VM_NORESERVE = 1 << 21
VM_PAT = 1 << 24  # VM_ARCH_1 on x86, until 6.16
VM_WIPEONFORK, VM_DONTDUMP, VM_SOFTDIRTY, VM_MIXEDMAP = 1 << 25, 1 << 26, 1 << 27, 1 << 28
VM_HUGEPAGE, VM_NOHUGEPAGE, VM_MERGEABLE = 1 << 29, 1 << 30, 1 << 31
VM_ALLOW_ANY_UNCACHED = 1 << 39
VM_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP

VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_WRITE, VM_FAULT_SIGSEGV = 0x1, 0x2, 0x8, 0x40
VM_FAULT_NOPAGE, VM_FAULT_LOCKED, VM_FAULT_RETRY, VM_FAULT_FALLBACK = 0x100, 0x200, 0x400, 0x800
VM_FAULT_ERROR = VM_FAULT_OOM | VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV

FAULT_FLAG_WRITE, FAULT_FLAG_MKWRITE, FAULT_FLAG_ALLOW_RETRY, FAULT_FLAG_TRIED = 0x1, 0x2, 0x4, 0x20
FAULT_FLAG_REMOTE, FAULT_FLAG_UNSHARE, FAULT_FLAG_VMA_LOCK = 0x80, 0x400, 0x1000

#: what a VMA is, from the moment that others can reach it until it is freed: no writer changes these bits
VM_LASTING = VM_SHARED | VM_MAYWRITE | VM_IO | VM_PFNMAP | VM_MIXEDMAP


def _vma_field(*locks: str) -> Guarded:
    """A VMA field that needs all of ``locks`` W to be written and any of them to be read.

    A holder of the VMA's own read lock may read it too: ``vma_start_write`` waits for such readers, and they find the
    VMA write-locked afterwards, so they are excluded although the writer does not keep holding ``vm_lock``.
    """
    return Guarded(*locks, write=locks, or_under=("vm_lock",), unless="private")


class AddressSpace(Model):
    """A file's page-cache identity: which VMAs map it, for the reverse map.

    ``i_mmap`` is ordered by page offset, equal offsets in order of insertion (lib/interval_tree.c, mm/interval_tree.c).
    """

    __slots__ = ("i_mmap", "i_mmap_rwsem")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.i_mmap_rwsem = RwSem(f"{name}:i_mmap_rwsem", "i_mmap_rwsem")
        self.i_mmap = GuardedList(f"{name}:i_mmap", self.i_mmap_rwsem)


class File(Model):
    """An open file: what mmap() of it calls, and its address_space. ``writable``: FMODE_WRITE; all can be read.

    ``f_op`` may have no hook that nobody calls (``hooks``): HookError.
    """

    __slots__ = ()
    f_op = Const()
    f_mapping = Const()
    private_data = Const()
    writable = Const()

    def __init__(
        self, name: str, f_op: Any, f_mapping: AddressSpace, private_data: Any = None, writable: bool = True
    ) -> None:
        check_hooks(type(f_op), object)
        super().__init__(name, f_op=f_op, f_mapping=f_mapping, private_data=private_data, writable=writable)


class MmStruct(Model):
    """A process's address space. ``mm_users`` counts users; at zero it is torn down (``exit_mmap``).

    ``mm_mt`` is the VMA tree as a tuple ordered by address: an event to whoever walks it under RCU only, and no event
    to holders of mmap_lock, whom its writers exclude. ``mm_lock_seq`` changes when mmap_lock W is given up: a VMA
    whose ``vm_lock_seq`` equals it is write-locked; whoever finds it changed comes after what was done under the lock.
    ``cpus`` is mm_cpumask: the CPUs whose tasks run on this mm.
    """

    __slots__ = (
        "cpus", "lock_limit", "machine", "mmap_lock", "notifier_subscriptions", "pgd", "pmd_pages", "puds",
    )  # fmt: skip
    mm_users = Atomic()
    mm_mt = Once()
    mm_lock_seq = Atomic()
    tlb_flush_pending = Counter()
    has_pinned = Once()  # MMF_HAS_PINNED: somebody has pinned pages of this mm; never cleared
    write_protect_seq = Atomic()  # odd while fork write-protects; what it orders is fast GUP
    total_vm = Guarded("mmap_lock")  # pages
    def_flags = Guarded("mmap_lock")  # of every new VMA: mlockall's
    locked_vm = Guarded("mmap_lock")  # pages of VM_LOCKED mappings, and those accounted for pins

    def __init__(self, name: str, machine: Any) -> None:
        super().__init__(
            name, mm_users=1, mm_mt=(), mm_lock_seq=1, tlb_flush_pending=0, total_vm=0, locked_vm=0, has_pinned=False,
            write_protect_seq=0, def_flags=0,
        )  # fmt: skip
        self.machine = machine
        self.mmap_lock = RwSem(f"{name}:mmap_lock", "mmap_lock")
        self.pgd: dict[int, pgtable.PteTable] = {}  # PMD number -> the slot of that PMD entry
        self.puds: dict[int, pgtable.PudEntry] = {}  # PUD number -> entry, for blocks that a VMA covers whole
        self.pmd_pages: dict[int, pgtable.PmdPage] = {}  # PUD number -> PMD table, where notifiers are listened to
        self.cpus: list[Any] = []
        self.notifier_subscriptions: tuple[Any, ...] = ()
        self.lock_limit: int | None = None  # RLIMIT_MEMLOCK, pages; None: CAP_IPC_LOCK


class VmArea(Model):
    """A VMA. ``private``: nobody else can reach it yet (not in the tree), so its fields need no lock.

    ``vm_ops`` is the driver's operations object; ``rmap_lock`` its file's i_mmap_rwsem. ``pfnmap_track_ctx`` is what
    6.16's tracking of reserved frames keeps (``pfnmap_track``); ``memtype_owner`` is a ghost: who reserves frames for
    this VMA and whatever is split off or moved from it. ``anon_vma``: empty until a page of a process's own is put
    into the VMA; then the names of the anon_vma and of those that it came from by fork (include/linux/mm_types.h
    anon_vma, anon_vma_chain).
    """

    __slots__ = ("rmap_lock", "vm_lock")
    vm_mm = Const()
    vm_file = Const()
    vm_start = _vma_field("vm_mm.mmap_lock", "rmap_lock")
    vm_end = _vma_field("vm_mm.mmap_lock", "rmap_lock")
    vm_pgoff = _vma_field("vm_mm.mmap_lock", "rmap_lock")
    vm_page_prot = _vma_field("vm_mm.mmap_lock")
    vm_ops = _vma_field("vm_mm.mmap_lock")
    vm_private_data = _vma_field("vm_mm.mmap_lock")
    pfnmap_track_ctx = _vma_field("vm_mm.mmap_lock")
    memtype_owner = Const()
    vm_flags = Plain()
    vm_lock_seq = Once()
    detached = Once()
    anon_vma = Once()
    private = Ghost()
    late = Ghost()

    def __init__(self, name: str, mm: MmStruct, file: File, start: int, end: int, pgoff: int, **values: Any) -> None:
        super().__init__(
            name, vm_mm=mm, vm_file=file, vm_start=start, vm_end=end, vm_pgoff=pgoff,
            vm_lock_seq=0, detached=True, private=True, late=False, pfnmap_track_ctx=None,
            **{"anon_vma": (), **values},
        )  # fmt: skip
        self.vm_lock = RwSem(f"{name}:vm_lock", "vm_lock")
        self.rmap_lock = file.f_mapping.i_mmap_rwsem

    def has(self, bits: int) -> int:
        """Those of ``bits``, all of them VM_LASTING, that are set. No event: it commutes with every writer.

        ``vma_flags`` reports a writer who changes one of them in a VMA that others can reach. Only of one whose driver
        has not said what it is when it is linked (``late``) it may be found out later: there it is an ordinary read.
        """
        if self._freed:
            self._used_after_free("vm_flags")
        flags: int = self.vm_flags if self.peek("late") and not self.peek("private") else self.peek("vm_flags")
        return flags & bits & VM_LASTING

    def attach(self) -> None:
        """Others can reach the VMA from now on.

        Source: include/linux/mm.h vma_mark_detached (6.12), include/linux/mmap_lock.h vma_mark_attached (7.3); none (to
        6.1).
        """
        touch(self.oid("detached"), (self.oid("private"), self.oid("late")))
        self._values[self.fields["detached"].at] = False
        self.private = False
        self.late = not self.vm_ops.anonymous and not self.peek("vm_flags") & (VM_IO | VM_PFNMAP | VM_MIXEDMAP)

    def retire(self) -> None:
        """Nobody else can reach the VMA any more: no tree and no reverse map has it, and who had locked it is gone."""
        touch(self.oid("private"))
        self.private = True


class VmOperations:
    """vm_operations_struct: what the mm calls a driver for. A driver overrides what it has.

    ``fault(vmf)`` provides the page at ``vmf.address`` and returns VM_FAULT_* bits: it maps it (NOPAGE), or answers
    with it (``vmf.page``, with a reference for the page tables; 0). ``huge_fault(vmf, order)`` provides a leaf of that
    order. Either is None for a driver without it. ``pfn_mkwrite(vmf)`` is asked before a shared frame without a page is
    written for the first time. ``mapped`` is called once the VMA is linked everywhere (the hook that came with
    ``.mmap_prepare``). ``may_split(vma, addr)``, ``mremap(new_vma)`` and ``mprotect(vma, start, end, newflags)`` are
    asked where a VMA is to be split, has been moved, or is to get other permissions, and return 0 or an errno, which is
    what the system call says. ``access(vma, address, length, write)`` copies for a debugger what has no page, and
    returns how many bytes, or an errno. A hook that the model never calls is refused (``hooks``): HookError.
    """

    #: of the model's own: methods with the name of a hook, or nearly so, that are a driver's own
    not_hooks: tuple[str, ...] = ()
    fault: Any = None
    huge_fault: Any = None
    #: of the model's own: do ``fault`` and ``huge_fault`` heed ``vmf.nr``? Others are called page by page
    batches = False
    pfn_mkwrite: Any = None
    page_mkwrite: Any = None
    mapped: Any = None
    may_split: Any = None
    mremap: Any = None
    mprotect: Any = None
    access: Any = None
    #: of the model's own: the kernel's anonymous VMAs have no operations at all (vma_is_anonymous)
    anonymous = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_hooks(cls, VmOperations)

    def __setattr__(self, name: str, value: Any) -> None:
        if callable(value):
            check_hook(type(self).__name__, name, value, own_methods(type(self)))
        super().__setattr__(name, value)

    def open(self, vma: VmArea) -> None:
        """A VMA was copied: by a split, by mremap, by fork.

        Source: include/linux/mm.h vm_operations_struct.
        """

    def close(self, vma: VmArea) -> None:
        """A VMA is about to be freed.

        Source: include/linux/mm.h vm_operations_struct.
        """


class VmFault:
    """vm_fault: one fault in progress. ``address`` is page aligned; ``pgoff`` is in pages of the file. ``page``: what
    ->fault has found, if it leaves the mapping to the caller.

    ``nr``: outside of a search, how many pages from ``address`` on are touched one after the other; whoever serves the
    fault lowers it to those that he has served like the first. ``faults``: how many faults that is.
    """

    __slots__ = ("address", "faults", "flags", "nr", "page", "pgoff", "vma")

    def __init__(self, vma: VmArea, address: int, flags: int, nr: int = 1) -> None:
        self.vma = vma
        self.nr = nr
        self.faults = 0
        self.page: Any = None
        self.address = address & ~(pgtable.PAGE_SIZE - 1)
        self.flags = flags
        self.pgoff = vma.vm_pgoff + (self.address - vma.vm_start >> pgtable.PAGE_SHIFT)


def is_cow_mapping(flags: int) -> bool:
    """Private and possibly writable.

    Source: mm/internal.h is_cow_mapping (5.10), include/linux/mm.h is_cow_mapping (6.1 - 6.12),
    vma_flags_is_cow_mapping (7.3).
    """
    return flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE


def vma_pages(vma: VmArea) -> int:
    """The VMA's length in pages."""
    pages: int = (vma.vm_end - vma.vm_start) >> pgtable.PAGE_SHIFT
    return pages
