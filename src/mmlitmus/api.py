"""The only import that an outside driver or case needs.

Three parts: what a case is made of; what declared state, locks and other primitives there are; and the kernel, area by
area under its own names. See docs/writing-a-case.md and docs/writing-a-driver.md.
"""

from __future__ import annotations

# A case: its question, its answers.
from mmlitmus.checker.case import Case, Expectation, always, case, na, never, sometimes

# Declared state, primitives, findings: what a driver's own state and its BUG_ONs are made of.
from mmlitmus.explore.findings import Finding, bug, not_modelled, reached, report
from mmlitmus.explore.primitives.choice import choose, may_fail
from mmlitmus.explore.primitives.folio_lock import FolioLock
from mmlitmus.explore.primitives.mutex import Mutex, Spinlock
from mmlitmus.explore.primitives.rcu import Rcu
from mmlitmus.explore.primitives.rwsem import RwSem
from mmlitmus.explore.primitives.task import Thread, spawn
from mmlitmus.explore.primitives.wait import WaitQueue
from mmlitmus.explore.runtime import current, loop_point
from mmlitmus.explore.state import (
    Atomic,
    Cells,
    Const,
    Counter,
    Ghost,
    Guarded,
    GuardedList,
    Model,
    Once,
    Plain,
    look,
    touch,
)

# What must hold: a case asks for it with machine.check.
from mmlitmus.invariants.exclusive import device_has_its_pages
from mmlitmus.invariants.folios import folios_at_rest, pin_is_coherent
from mmlitmus.invariants.leaves import leaves_are_sound
from mmlitmus.invariants.memtype import memtypes_at_rest, memtypes_now
from mmlitmus.invariants.revocation import revoked_now, stale_translations

# The kernel, arch/x86: signals, protections, page-table entries.
from mmlitmus.kernel.arch.x86.fault import GAVE_UP, SIGBUS, SIGSEGV, Unlocked, fixup_user_fault
from mmlitmus.kernel.arch.x86.ioremap import (
    IoMapping,
    arch_io_free_memtype_wc,
    arch_io_reserve_memtype_wc,
    ioremap,
    ioremap_cache,
    ioremap_prot,
    ioremap_uc,
    ioremap_wc,
    ioremap_wt,
    iounmap,
    pci_iomap,
    pci_iomap_wc,
)
from mmlitmus.kernel.arch.x86.pat import (
    CacheMode,
    MemtypeOwner,
    cachemode2protval,
    cattr_name,
    is_new_memtype_allowed,
    lookup_memtype,
    memtype_free,
    memtype_reserve,
    pat_log,
    pat_memtype_list,
    pgprot_noncached,
    pgprot_writecombine,
    pgprot_writethrough,
    pmd_cachemode,
    pte_cachemode,
)
from mmlitmus.kernel.arch.x86.pgtable import (
    CACHE_MASK,
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PMD_SIZE,
    PRESENT,
    PUD_SHIFT,
    PUD_SIZE,
    pmd_leaf,
    pmd_offset,
    pte_pfn,
    ptep_get,
    pud_offset,
)

# The kernel: releases, errors, and the machine that runs it.
from mmlitmus.kernel.eras import between
from mmlitmus.kernel.errno import (
    EACCES,
    EAGAIN,
    EBUSY,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    EIO,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOTTY,
    EOVERFLOW,
    EPERM,
)
from mmlitmus.kernel.machine import Machine

# The kernel, mm/: pages, who holds them, and how they are pinned.
from mmlitmus.kernel.mm.gup import (
    FOLL_ANON,
    FOLL_DUMP,
    FOLL_FORCE,
    FOLL_GET,
    FOLL_LONGTERM,
    FOLL_NOFAULT,
    FOLL_PIN,
    FOLL_WRITE,
    Pages,
    put_pages,
    unpin_user_pages,
)
from mmlitmus.kernel.mm.gup_fast import (
    get_user_pages,
    get_user_pages_fast,
    get_user_pages_remote,
    get_user_pages_unlocked,
    pin_user_pages,
    pin_user_pages_fast,
    pin_user_pages_remote,
    pin_user_pages_unlocked,
)

# The kernel, mm/: filling and emptying mappings, VMAs, mmap_lock, the reverse map; the constants of its calls.
from mmlitmus.kernel.mm.huge_memory import vmf_insert_pfn_pmd, vmf_insert_pfn_pud
from mmlitmus.kernel.mm.madvise import (
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_PAGEOUT,
)
from mmlitmus.kernel.mm.memory import (
    follow_pte,
    io_remap_pfn_range,
    remap_pfn_range,
    vmf_insert_mixed,
    vmf_insert_pfn,
    vmf_insert_pfn_prot,
)
from mmlitmus.kernel.mm.memory_access import generic_access_phys
from mmlitmus.kernel.mm.memory_pages import vm_insert_page
from mmlitmus.kernel.mm.memory_zap import unmap_mapping_range, zap_vma_ptes
from mmlitmus.kernel.mm.mm_types import (
    FAULT_FLAG_WRITE,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_FAULT_FALLBACK,
    VM_FAULT_LOCKED,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV,
    VM_IO,
    VM_LOCKED,
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_PAT,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    AddressSpace,
    File,
    MmStruct,
    VmArea,
    VmFault,
    VmOperations,
    is_cow_mapping,
    vma_pages,
)
from mmlitmus.kernel.mm.mmap import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_LOCKED,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    mmget_not_zero,
    mmput,
)
from mmlitmus.kernel.mm.mmap_lock import (
    mmap_read_lock,
    mmap_read_trylock,
    mmap_read_unlock,
    mmap_write_downgrade,
    mmap_write_lock,
    mmap_write_unlock,
)
from mmlitmus.kernel.mm.mmu_notifier import (
    MMU_NOTIFY_CLEAR,
    MMU_NOTIFY_EXCLUSIVE,
    MMU_NOTIFY_PROTECTION_PAGE,
    MMU_NOTIFY_PROTECTION_VMA,
    MMU_NOTIFY_SOFT_DIRTY,
    MMU_NOTIFY_UNMAP,
    MmuNotifierRange,
    mmu_notifier_register,
)
from mmlitmus.kernel.mm.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE
from mmlitmus.kernel.mm.page_alloc import (
    DRIVER,
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    ZONE_MOVABLE,
    ZONE_NORMAL,
    Folio,
    driver_folio,
    folio_get,
    folio_put,
    is_zero_pfn,
    new_folio,
    page_tables,
)
from mmlitmus.kernel.mm.pfnmap_track import track_pfn_remap
from mmlitmus.kernel.mm.pgalloc import batch_at, pte_batches
from mmlitmus.kernel.mm.rmap import i_mmap_lock_read, i_mmap_lock_write, i_mmap_unlock_read, i_mmap_unlock_write
from mmlitmus.kernel.mm.rmap_exclusive import give_back, make_device_exclusive
from mmlitmus.kernel.mm.swap import folio_isolate_lru, folio_putback_lru, lru_add_drain, lru_add_drain_all
from mmlitmus.kernel.mm.vma import find_vma, vma_lookup, vma_tree
from mmlitmus.kernel.mm.vma_flags import vm_flags_clear, vm_flags_set

# The kernel: devices on a bus, and which kernel is running.
from mmlitmus.kernel.pci import Bar, PciDevice
from mmlitmus.kernel.policy import Seam, running

# The kernel, sync/: locks under their kernel names.
from mmlitmus.kernel.sync.folio_lock import folio_lock, folio_trylock, folio_unlock
from mmlitmus.kernel.sync.might import might_alloc, might_fault, might_sleep
from mmlitmus.kernel.sync.mutex import mutex_lock, mutex_trylock, mutex_unlock
from mmlitmus.kernel.sync.rwsem import (
    down_read,
    down_read_trylock,
    down_write,
    down_write_nested,
    down_write_trylock,
    downgrade_write,
    up_read,
    up_write,
)
from mmlitmus.kernel.sync.spinlock import spin_lock, spin_lock_nested, spin_unlock

# The syscall surface.
from mmlitmus.kernel.uapi import Process

PMD_ORDER = PMD_SHIFT - PAGE_SHIFT
PUD_ORDER = PUD_SHIFT - PAGE_SHIFT


def releases(first: str, last: str, answer: Expectation, patch: str = "") -> dict[str, Expectation]:
    """The same answer for each release from ``first`` to ``last``, with ``patch`` (``"+name"``) on it if given."""
    return {f"{name} {patch}".strip(): answer for name in between(first, last)}


def BUG_ON(condition: object, name: str, message: str = "") -> None:
    """BUG_ON(): when ``condition`` holds, record the BUG and stop the task where it stands, its locks held."""
    if condition:
        bug(name, message or f"{current().name}: BUG_ON({name})")


def WARN_ON(condition: object, name: str, message: str = "") -> bool:
    """WARN_ON(): when ``condition`` holds, record the warning and go on. Returns whether it held."""
    if condition:
        report("WARN", name, message or f"{current().name}: WARN_ON({name})")
    return bool(condition)


__all__ = [
    "AddressSpace",
    "Atomic",
    "BUG_ON",
    "Bar",
    "CACHE_MASK",
    "CacheMode",
    "Case",
    "Cells",
    "Const",
    "Counter",
    "DRIVER",
    "EACCES",
    "EAGAIN",
    "EBUSY",
    "EEXIST",
    "EFAULT",
    "EINTR",
    "EINVAL",
    "EIO",
    "ENODEV",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "ENOTTY",
    "EOVERFLOW",
    "EPERM",
    "Expectation",
    "FAULT_FLAG_WRITE",
    "FOLL_ANON",
    "FOLL_DUMP",
    "FOLL_FORCE",
    "FOLL_GET",
    "FOLL_LONGTERM",
    "FOLL_NOFAULT",
    "FOLL_PIN",
    "FOLL_WRITE",
    "File",
    "Finding",
    "Folio",
    "FolioLock",
    "GAVE_UP",
    "Ghost",
    "Guarded",
    "GuardedList",
    "IoMapping",
    "MADV_DODUMP",
    "MADV_DOFORK",
    "MADV_DONTDUMP",
    "MADV_DONTFORK",
    "MADV_DONTNEED",
    "MADV_NOHUGEPAGE",
    "MADV_NORMAL",
    "MADV_PAGEOUT",
    "MAP_FIXED",
    "MAP_FIXED_NOREPLACE",
    "MAP_LOCKED",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "MIGRATE_CMA",
    "MIGRATE_ISOLATE",
    "MIGRATE_MOVABLE",
    "MMU_NOTIFY_CLEAR",
    "MMU_NOTIFY_EXCLUSIVE",
    "MMU_NOTIFY_PROTECTION_PAGE",
    "MMU_NOTIFY_PROTECTION_VMA",
    "MMU_NOTIFY_SOFT_DIRTY",
    "MMU_NOTIFY_UNMAP",
    "MREMAP_DONTUNMAP",
    "MREMAP_FIXED",
    "MREMAP_MAYMOVE",
    "Machine",
    "MemtypeOwner",
    "MmStruct",
    "MmuNotifierRange",
    "Model",
    "Mutex",
    "NONE",
    "Once",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "PMD_ORDER",
    "PMD_SHIFT",
    "PMD_SIZE",
    "PRESENT",
    "PROT_EXEC",
    "PROT_NONE",
    "PROT_READ",
    "PROT_WRITE",
    "PUD_ORDER",
    "PUD_SHIFT",
    "PUD_SIZE",
    "Pages",
    "PciDevice",
    "Plain",
    "Process",
    "Rcu",
    "RwSem",
    "SIGBUS",
    "SIGSEGV",
    "Seam",
    "Spinlock",
    "Thread",
    "Unlocked",
    "VM_DONTCOPY",
    "VM_DONTDUMP",
    "VM_DONTEXPAND",
    "VM_EXEC",
    "VM_FAULT_FALLBACK",
    "VM_FAULT_LOCKED",
    "VM_FAULT_NOPAGE",
    "VM_FAULT_OOM",
    "VM_FAULT_RETRY",
    "VM_FAULT_SIGBUS",
    "VM_FAULT_SIGSEGV",
    "VM_IO",
    "VM_LOCKED",
    "VM_MAYWRITE",
    "VM_MIXEDMAP",
    "VM_PAT",
    "VM_PFNMAP",
    "VM_READ",
    "VM_SHARED",
    "VM_WRITE",
    "VmArea",
    "VmFault",
    "VmOperations",
    "WARN_ON",
    "WaitQueue",
    "ZONE_MOVABLE",
    "ZONE_NORMAL",
    "always",
    "arch_io_free_memtype_wc",
    "arch_io_reserve_memtype_wc",
    "batch_at",
    "between",
    "bug",
    "cachemode2protval",
    "case",
    "cattr_name",
    "choose",
    "current",
    "device_has_its_pages",
    "down_read",
    "down_read_trylock",
    "down_write",
    "down_write_nested",
    "down_write_trylock",
    "downgrade_write",
    "driver_folio",
    "find_vma",
    "fixup_user_fault",
    "folio_get",
    "folio_isolate_lru",
    "folio_lock",
    "folio_put",
    "folio_putback_lru",
    "folio_trylock",
    "folio_unlock",
    "folios_at_rest",
    "follow_pte",
    "generic_access_phys",
    "get_user_pages",
    "get_user_pages_fast",
    "get_user_pages_remote",
    "get_user_pages_unlocked",
    "give_back",
    "i_mmap_lock_read",
    "i_mmap_lock_write",
    "i_mmap_unlock_read",
    "i_mmap_unlock_write",
    "io_remap_pfn_range",
    "ioremap",
    "ioremap_cache",
    "ioremap_prot",
    "ioremap_uc",
    "ioremap_wc",
    "ioremap_wt",
    "iounmap",
    "is_cow_mapping",
    "is_new_memtype_allowed",
    "is_zero_pfn",
    "look",
    "leaves_are_sound",
    "lookup_memtype",
    "loop_point",
    "lru_add_drain",
    "lru_add_drain_all",
    "make_device_exclusive",
    "may_fail",
    "memtype_free",
    "memtype_reserve",
    "memtypes_at_rest",
    "memtypes_now",
    "might_alloc",
    "might_fault",
    "might_sleep",
    "mmap_read_lock",
    "mmap_read_trylock",
    "mmap_read_unlock",
    "mmap_write_downgrade",
    "mmap_write_lock",
    "mmap_write_unlock",
    "mmget_not_zero",
    "mmput",
    "mmu_notifier_register",
    "mutex_lock",
    "mutex_trylock",
    "mutex_unlock",
    "na",
    "never",
    "new_folio",
    "not_modelled",
    "page_tables",
    "pat_log",
    "pat_memtype_list",
    "pci_iomap",
    "pci_iomap_wc",
    "pgprot_noncached",
    "pgprot_writecombine",
    "pgprot_writethrough",
    "pin_is_coherent",
    "pin_user_pages",
    "pin_user_pages_fast",
    "pin_user_pages_remote",
    "pin_user_pages_unlocked",
    "pmd_cachemode",
    "pmd_leaf",
    "pmd_offset",
    "pte_batches",
    "pte_cachemode",
    "pte_pfn",
    "ptep_get",
    "pud_offset",
    "put_pages",
    "reached",
    "releases",
    "remap_pfn_range",
    "report",
    "revoked_now",
    "running",
    "sometimes",
    "spawn",
    "spin_lock",
    "spin_lock_nested",
    "spin_unlock",
    "stale_translations",
    "touch",
    "track_pfn_remap",
    "unmap_mapping_range",
    "unpin_user_pages",
    "up_read",
    "up_write",
    "vm_flags_clear",
    "vm_flags_set",
    "vm_insert_page",
    "vma_lookup",
    "vma_pages",
    "vma_tree",
    "vmf_insert_mixed",
    "vmf_insert_pfn",
    "vmf_insert_pfn_pmd",
    "vmf_insert_pfn_prot",
    "vmf_insert_pfn_pud",
    "zap_vma_ptes",
]
