"""Seams: where kernels differ, and which side this kernel is on.

A seam has a kernel name and several alternatives; each alternative is a whole function (or, for a redesigned driver, a
class) with its source and the releases it is valid for. A ``Kernel`` says which alternative of every seam it has. The
only places that know releases are ``eras.py`` and ``patches.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Alternative:
    """One side of a seam: what it does, where it was read, which releases have it."""

    name: str
    does: Any
    source: str
    releases: str


@dataclass
class Seam:
    """A place where kernels differ. Calling it runs the running kernel's alternative."""

    name: str
    about: str
    alternatives: dict[str, Alternative] = field(default_factory=dict)

    def __post_init__(self) -> None:
        SEAMS[self.name] = self

    def alternative(self, name: str, *, source: str, releases: str) -> Callable[[Any], Any]:
        """Register the decorated function or class as one alternative."""

        def register(does: Any) -> Any:
            self.alternatives[name] = Alternative(name, does, source, releases)
            return does

        return register

    def __call__(self, *args: Any) -> Any:
        return running().chosen(self)(*args)


SEAMS: dict[str, Seam] = {}

#: the module that holds each seam's alternatives, so that a kernel can be described without loading all of it
HOMES = {
    "vma_flags_write": "mmlitmus.kernel.mm.vma_flags",
    "find_vma": "mmlitmus.kernel.mm.vma",
    "vma_lookup": "mmlitmus.kernel.mm.vma",
    "fault_lock": "mmlitmus.kernel.arch.x86.fault",
    "split_for_munmap": "mmlitmus.kernel.mm.mmap",
    "dup_mmap": "mmlitmus.kernel.mm.fork",
    "pfnmap_flush": "mmlitmus.kernel.mm.mmu_gather",
    "saved_dirty": "mmlitmus.kernel.arch.x86.pgtable",
    "pfnmap_track": "mmlitmus.kernel.mm.pfnmap_track",
    "untrack_site": "mmlitmus.kernel.mm.pfnmap_track",
    "untrack_clear": "mmlitmus.kernel.mm.pfnmap_track",
    "get_pat_info": "mmlitmus.kernel.mm.pfnmap_track",
    "follow_pte_assert": "mmlitmus.kernel.mm.pfnmap_track",
    "track_pfn_copy": "mmlitmus.kernel.mm.pfnmap_track",
    "remap_error": "mmlitmus.kernel.mm.memory",
    "remap_flags": "mmlitmus.kernel.mm.memory",
    "vm_mixed_ok": "mmlitmus.kernel.mm.memory",
    "can_change_pte_writable": "mmlitmus.kernel.mm.writable",
    "do_mprotect_pkey": "mmlitmus.kernel.mm.mprotect",
    "prep_move_vma": "mmlitmus.kernel.mm.mremap",
    "mprotect_account": "mmlitmus.kernel.mm.mprotect",
    "change_notify": "mmlitmus.kernel.mm.mprotect",
    "madvise_behavior_valid": "mmlitmus.kernel.mm.madvise",
    "madvise_lock": "mmlitmus.kernel.mm.madvise",
    "madvise_populate": "mmlitmus.kernel.mm.madvise",
    "mmap_replace": "mmlitmus.kernel.mm.mmap",
    "mremap_dontunmap_locked": "mmlitmus.kernel.mm.mremap",
    "mremap_dontunmap_anon_vma": "mmlitmus.kernel.mm.mremap",
    "move_vma": "mmlitmus.kernel.mm.mremap",
    "do_mremap": "mmlitmus.kernel.mm.mremap",
    "mremap_dontunmap": "mmlitmus.kernel.mm.mremap",
    "madvise_pageout_young": "mmlitmus.kernel.mm.madvise",
    "should_zap_folio": "mmlitmus.kernel.mm.memory_zap",
    "mmap_expands": "mmlitmus.kernel.mm.vma_merge",
    "is_mergeable_anon_vma": "mmlitmus.kernel.mm.vma_merge",
    "mincore_walk": "mmlitmus.kernel.mm.mincore",
    "expand_in_place": "mmlitmus.kernel.mm.mremap",
    "madvise_dofork": "mmlitmus.kernel.mm.madvise",
    "memtype_match": "mmlitmus.kernel.arch.x86.memtype_interval",
    "pgprot_combine": "mmlitmus.kernel.arch.x86.cachemode",
    "huge_pgprot": "mmlitmus.kernel.mm.huge_memory",
    "pud_insert_prot": "mmlitmus.kernel.mm.huge_memory",
    "shown_leaf": "mmlitmus.kernel.mm.huge_memory",
    "thp_of_special": "mmlitmus.kernel.mm.memory",
    "can_change_pmd_writable": "mmlitmus.kernel.mm.huge_memory",
    "copy_huge_pmd": "mmlitmus.kernel.mm.huge_memory",
    "copy_huge_pud": "mmlitmus.kernel.mm.huge_memory",
    "pte_offset_map_lock": "mmlitmus.kernel.mm.pgalloc",
    "vma_adjust_trans_huge": "mmlitmus.kernel.mm.vma",
    "copy_present_page": "mmlitmus.kernel.mm.fork",
    "write_protect_seq": "mmlitmus.kernel.mm.fork",
    "wp_can_reuse_anon_folio": "mmlitmus.kernel.mm.memory_pages",
    "fault_unshare": "mmlitmus.kernel.mm.memory_pages",
    "wp_page_copy": "mmlitmus.kernel.mm.memory_pages",
    "do_swap_page": "mmlitmus.kernel.mm.memory_swap",
    "make_device_exclusive": "mmlitmus.kernel.mm.rmap_exclusive",
    "make_device_exclusive_entry": "mmlitmus.kernel.mm.device_exclusive",
    "remove_device_exclusive_entry": "mmlitmus.kernel.mm.memory_swap",
    "restore_exclusive_pte": "mmlitmus.kernel.mm.memory_swap",
    "shrink_folio_list": "mmlitmus.kernel.mm.vmscan",
    "folio_try_share_anon_rmap_pte": "mmlitmus.kernel.mm.rmap",
    "memalloc_pin_save": "mmlitmus.kernel.mm.page_alloc",
    "writable_file_mapping_allowed": "mmlitmus.kernel.mm.gup",
    "gup_must_unshare": "mmlitmus.kernel.mm.gup",
    "can_follow_write_pte": "mmlitmus.kernel.mm.gup",
    "follow_pfn_pte": "mmlitmus.kernel.mm.gup",
    "try_grab_folio": "mmlitmus.kernel.mm.gup",
    "__gup_longterm_locked": "mmlitmus.kernel.mm.gup_longterm",
    "is_longterm_pinnable": "mmlitmus.kernel.mm.gup_longterm",
    "longterm_unlockable": "mmlitmus.kernel.mm.gup_fast",
    "gup_fast_fallback": "mmlitmus.kernel.mm.gup_fast",
    "__gup_longterm_unlocked": "mmlitmus.kernel.mm.gup_fast",
    "get_user_pages_fast_only": "mmlitmus.kernel.mm.gup_fast",
    "gup_fast_folio_allowed": "mmlitmus.kernel.mm.gup_fast",
    "gup_fast_pmd_leaf": "mmlitmus.kernel.mm.gup_fast",
    "set_pte_range": "mmlitmus.kernel.mm.memory_pages",
    "generic_access_phys": "mmlitmus.kernel.mm.memory_access",
    "smaps_account": "mmlitmus.kernel.fs.proc.smaps",
    "show_smap_vma_flags": "mmlitmus.kernel.fs.proc.task_mmu",
    "proc_mem_foll_force": "mmlitmus.kernel.mm.gup_users",
    "iov_iter_extract_pages": "mmlitmus.kernel.mm.gup_users",
    "vaddr_get_pfns": "mmlitmus.kernel.drivers.vfio.type1",
    "vfio_pin_pages_remote": "mmlitmus.kernel.drivers.vfio.type1",
    "follow_fault_pfn": "mmlitmus.kernel.drivers.vfio.type1",
    "vfio_find_dma": "mmlitmus.kernel.drivers.vfio.type1",
    "vfio_iommu_type1_unmap_dma": "mmlitmus.kernel.drivers.vfio.type1_unmap",
    "vfio_dma_do_unmap": "mmlitmus.kernel.drivers.vfio.type1_unmap",
    "vfio_pci": "mmlitmus.kernel.drivers.vfio.posted",
}


class KernelSpecError(ValueError):
    """A kernel that does not exist or cannot be built: an unknown name, an illegal combination."""


class NotApplicable(Exception):
    """The patch does not apply to this release; the text says why."""


@dataclass
class Kernel:
    """A kernel to run: a release's choices, changed by patches, with a build's config."""

    spec: str
    release: str
    patches: tuple[str, ...]
    config: frozenset[str]
    choices: dict[str, str]
    resolved: dict[str, Any] = field(default_factory=dict)

    def chosen(self, seam: Seam) -> Any:
        """This kernel's alternative of ``seam``."""
        does = self.resolved.get(seam.name)
        if does is None:
            does = self.resolved[seam.name] = seam.alternatives[self.choices[seam.name]].does
        return does

    def driver(self, seam: str) -> Any:
        """The driver class that this kernel has at a driver's seam; loads the module that holds it."""
        import_module(HOMES[seam])
        return self.chosen(SEAMS[seam])

    def has(self, option: str) -> bool:
        """Is the config option on?"""
        return option in self.config


_running: list[Kernel] = []


def run_on(kernel: Kernel) -> None:
    """Make ``kernel`` the one whose policies the model follows."""
    _running[:] = [kernel]
    if len(kernel.resolved) < len(SEAMS):  # now, so that nothing changes while tasks run
        for seam in SEAMS.values():
            if kernel.choices[seam.name] in seam.alternatives:
                kernel.chosen(seam)


def running() -> Kernel:
    """The kernel that the model follows now."""
    return _running[0]
