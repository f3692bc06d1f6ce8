"""Every release the model knows: what it chose at each seam, and how that is known.

A row says only what is different from the row it is based on. Upstream releases start with v; a distribution's build
has its name, because it carries backports (6.1.192 has fork's deferred link, but not VFIO's move to
unmap_mapping_range). Evidence: ``recorded`` (a real kernel answered), ``source`` (read in that kernel's source),
``dossier`` (stated in facts).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module

from mmlitmus.kernel.config import OPTIONS, Option
from mmlitmus.kernel.patches import PATCHES, Patch
from mmlitmus.kernel.policy import HOMES, SEAMS, Kernel, KernelSpecError, NotApplicable
from mmlitmus.kernel.stock import BUILDS


@dataclass(frozen=True)
class Release:
    """One row: choices by seam, config that comes with it, and the evidence for each choice that it changes."""

    name: str
    based_on: str | None
    choices: dict[str, str]
    evidence: str
    why: str
    config: frozenset[str] = field(default_factory=frozenset)
    apart: bool = False  # known for a few seams only, and no part of a run of releases: a case has to name it


_ROWS = (
    Release(
        "v5.10",
        None,
        {
            "vfio_pci": "v5.8",
            "vma_flags_write": "unchecked",
            "find_vma": "unasserted",
            "vma_lookup": "find_vma",
            "fault_lock": "mmap_lock",
            "split_for_munmap": "removed-is-new",
            "dup_mmap": "open-after-copy",
            "pfnmap_flush": "none",
            "saved_dirty": "dirty-stays",
            "pfnmap_track": "vm_pat",
            "untrack_site": "unmap_single_vma",
            "untrack_clear": "by-lock",
            "get_pat_info": "walk",
            "follow_pte_assert": "none",
            "track_pfn_copy": "inherit",
            "remap_error": "leave",
            "remap_flags": "with-entries",
            "vm_mixed_ok": "bug",
            "can_change_pte_writable": "shared",
            "mprotect_account": "kept",
            "change_notify": "by-pmd",
            "madvise_behavior_valid": "to-pageout",
            "madvise_lock": "mmap_lock",
            "madvise_populate": "by-vma",
            "mremap_dontunmap_locked": "whole",
            "move_vma": "locked",
            "do_mremap": "target-first",
            "mremap_dontunmap": "anonymous",
            "expand_in_place": "adjust",
            "mincore_walk": "not-pfnmap",
            "is_mergeable_anon_vma": "singular",
            "mmap_expands": "previous",
            "should_zap_folio": "other-mapping",
            "madvise_pageout_young": "cleared",
            "madvise_dofork": "not-io",
            "memtype_match": "exact-or-tail",
            "pgprot_combine": "or",
            "mmap_replace": "freed-first",
            "huge_pgprot": "as-4k",
            "pud_insert_prot": "lookup",
            "shown_leaf": "unmarked",
            "thp_of_special": "any",
            "can_change_pmd_writable": "never",
            "copy_huge_pmd": "refilled",
            "copy_huge_pud": "read-only",
            "pte_offset_map_lock": "through-leaf",
            "vma_adjust_trans_huge": "pmd-only",
            "copy_present_page": "pinned",
            "write_protect_seq": "unseen",
            "wp_can_reuse_anon_folio": "sole-reference",
            "fault_unshare": "anon",
            "wp_page_copy": "left",
            "make_device_exclusive": "absent",
            "make_device_exclusive_entry": "two-types",
            "remove_device_exclusive_entry": "unreferenced",
            "restore_exclusive_pte": "by-type",
            "do_swap_page": "reuse_swap_page",
            "shrink_folio_list": "any",
            "folio_try_share_anon_rmap_pte": "unmarked",
            "memalloc_pin_save": "no-cma",
            "writable_file_mapping_allowed": "any",
            "gup_must_unshare": "never",
            "can_follow_write_pte": "foll-cow",
            "follow_pfn_pte": "slot-left",
            "try_grab_folio": "counted",
            "longterm_unlockable": "refused",
            "__gup_longterm_unlocked": "not-longterm",
            "get_user_pages_fast_only": "never-negative",
            "gup_fast_folio_allowed": "any",
            "gup_fast_pmd_leaf": "taken",
            "__gup_longterm_locked": "best-effort",
            "is_longterm_pinnable": "not-cma",
            "gup_fast_fallback": "nothing",
            "vaddr_get_pfns": "kept",
            "vfio_pin_pages_remote": "one-by-one",
            "follow_fault_pfn": "any",
            "iov_iter_extract_pages": "get",
            "set_pte_range": "clean",
            "proc_mem_foll_force": "always",
            "vfio_find_dma": "exclusive-end",
            "vfio_iommu_type1_unmap_dma": "dirty-bitmap",
            "vfio_dma_do_unmap": "who-mapped",
            "mremap_dontunmap_anon_vma": "kept",
            "prep_move_vma": "not-asked",
            "do_mprotect_pkey": "not-asked",
            "generic_access_phys": "unlocked",
            "smaps_account": "as-mapped",
            "show_smap_vma_flags": "nameless",
        },
        "dossier",
        "abafbc551fdd (5.8) VFIO memory_lock and vma_list; fork opens after the copy; no PFNMAP flush at VMA end yet; "
        "VM_PAT, its frames read from the first page whatever that is",
        frozenset({"DEVICE_PRIVATE"}),
    ),
    Release(
        "deb-5.10.262",
        "v5.10",
        {
            "vfio_pci": "v5.14",
            "pfnmap_flush": "end_vma",
            "get_pat_info": "walk-not-anon",
            "remap_error": "zap",
            "write_protect_seq": "seqcount",
            "shrink_folio_list": "not-pinned",
            "__gup_longterm_locked": "until-isolated",
            "vaddr_get_pfns": "given-back",
            "follow_fault_pfn": "writable",
        },
        "recorded",
        "stable backports of 6a45ece4c9af (concurrent faults), of the forced PFNMAP flush, of the walk that takes no "
        "anonymous page (recorded: fork fails after a copy) but not of fork's cleared VM_PAT (recorded: the parent's "
        "reservation goes); BAR revocation recorded",
    ),
    Release(
        "v5.14",
        "v5.10",
        {
            "vfio_pci": "v5.14",
            "do_mremap": "address-first",
            "mremap_dontunmap": "not-pfnmap",
            "write_protect_seq": "seqcount",
            "wp_page_copy": "freed",
            "make_device_exclusive": "range",
            "shrink_folio_list": "not-pinned",
            "memalloc_pin_save": "unmovable",
            "__gup_longterm_locked": "repeat",
            "is_longterm_pinnable": "or-zero",
            "vfio_pin_pages_remote": "batches",
            "follow_fault_pfn": "writable",
            "vfio_iommu_type1_unmap_dma": "all-and-vaddr",
            "mremap_dontunmap_anon_vma": "unlinked",
            "prep_move_vma": "may_split",
            "do_mprotect_pkey": "asked",
            "generic_access_phys": "looked-at-again",
        },
        "dossier",
        "5.14 to 5.18 as far as pins go: nothing movable is pinned for long, but the zero page is (5.13)",
        apart=True,
    ),
    Release(
        "v5.19-rc1",
        "v5.14",
        {
            "find_vma": "lockdep",
            "pfnmap_flush": "end_vma",
            "can_change_pte_writable": "or-exclusive-and-dirty",
            "copy_present_page": "exclusive-and-pinned",
            "wp_can_reuse_anon_folio": "exclusive",
            "do_swap_page": "exclusive",
            "folio_try_share_anon_rmap_pte": "exclusive",
            "gup_must_unshare": "anon",
            "follow_pfn_pte": "eexist",
            "is_longterm_pinnable": "zero-negated",
        },
        "dossier",
        "1c563432588d: a condition rearranged, and the zero page cannot be pinned for long; PG_anon_exclusive (5.19)",
        apart=True,
    ),
    Release(
        "v5.19",
        "v5.19-rc1",
        {"is_longterm_pinnable": "zero-again"},
        "dossier",
        "'mm: Re-allow pinning of zero pfns'",
        apart=True,
    ),
    Release(
        "v6.0-rc1",
        "v5.19",
        {"is_longterm_pinnable": "zero-negated-again", "can_follow_write_pte": "exclusive"},
        "dossier",
        "f25cbb7a95a2: memory of coherent devices, and the same slip again; FOLL_COW gone",
        apart=True,
    ),
    Release(
        "v6.0",
        "v6.0-rc1",
        {
            "is_longterm_pinnable": "in-steps",
            "vaddr_get_pfns": "given-back",
            "vfio_dma_do_unmap": "anybody",
            "thp_of_special": "not-special",
        },
        "dossier",
        "fcab34b433e2: 'mm: re-allow pinning of zero pfns (again)'",
        apart=True,
    ),
    Release(
        "v6.1",
        "v5.10",
        {
            "vfio_pci": "v5.14",
            "find_vma": "lockdep",
            "vma_lookup": "mtree_load",
            "pfnmap_flush": "end_vma",
            "can_change_pte_writable": "or-exclusive-and-dirty",
            "madvise_behavior_valid": "to-collapse",
            "do_mremap": "address-first",
            "mremap_dontunmap_anon_vma": "unlinked",
            "mremap_dontunmap": "not-pfnmap",
            "expand_in_place": "merge",
            "mmap_expands": "next",
            "should_zap_folio": "anon",
            "copy_present_page": "exclusive-and-pinned",
            "write_protect_seq": "seqcount",
            "wp_can_reuse_anon_folio": "exclusive",
            "wp_page_copy": "freed",
            "make_device_exclusive": "range",
            "do_swap_page": "exclusive",
            "shrink_folio_list": "not-pinned",
            "folio_try_share_anon_rmap_pte": "exclusive",
            "memalloc_pin_save": "unmovable",
            "gup_must_unshare": "anon",
            "can_follow_write_pte": "exclusive",
            "follow_pfn_pte": "eexist",
            "__gup_longterm_locked": "eagain",
            "is_longterm_pinnable": "in-steps",
            "vaddr_get_pfns": "given-back",
            "vfio_pin_pages_remote": "batches",
            "follow_fault_pfn": "writable",
            "vfio_iommu_type1_unmap_dma": "all-and-vaddr",
            "vfio_dma_do_unmap": "anybody",
            "prep_move_vma": "may_split",
            "do_mprotect_pkey": "asked",
            "generic_access_phys": "looked-at-again",
            "thp_of_special": "not-special",
        },
        "source",
        "6a45ece4c9af (5.14), forced PFNMAP flush (5.19); mprotect spares exclusive pages a fault; upstream fork still "
        "opens after the copy",
    ),
    Release(
        "deb-6.1.192",
        "v6.1",
        {
            "mremap_dontunmap_locked": "moved-part",
            "expand_in_place": "merge-or-adjust",
            "dup_mmap": "open-before-copy",
            "get_pat_info": "walk-not-anon",
            "track_pfn_copy": "clear-then-set",
            "remap_error": "zap",
            "try_grab_folio": "not-counted",
            "remove_device_exclusive_entry": "referenced",
        },
        "recorded",
        "35e351780fa9 backported to fork without VFIO's aac6db75a9fc; BAR revocation and memtypes recorded, "
        "kernel/fork.c, mm/memory.c and arch/x86/mm/pat/memtype.c read",
    ),
    Release(
        "v6.6",
        "v6.1",
        {
            "vma_flags_write": "lockdep",
            "fault_lock": "vma_lock",
            "split_for_munmap": "survivors-are-new",
            "saved_dirty": "saved",
            "pud_insert_prot": "vma",
            "show_smap_vma_flags": "lf",
            "pte_offset_map_lock": "none",
            "fault_unshare": "any",
            "can_change_pte_writable": "or-exclusive",
            "can_change_pmd_writable": "shared-and-dirty",
            "writable_file_mapping_allowed": "untracked",
            "gup_must_unshare": "or-longterm",
            "try_grab_folio": "not-counted",
            "remove_device_exclusive_entry": "referenced",
            "longterm_unlockable": "allowed",
            "__gup_longterm_unlocked": "always",
            "get_user_pages_fast_only": "errno",
            "gup_fast_folio_allowed": "of-a-mapping-longterm",
            "iov_iter_extract_pages": "pin",
        },
        "dossier",
        "vm_flags wrappers (6.3), per-VMA locks (6.4), munmap's splits turned round with the maple-tree munmap (6.3), "
        "a 1G leaf's type no longer looked up (between 6.1 and 6.12), who locks a PTE table asks whether there is one "
        "(6.5), shadow stacks (6.6); VM_LOCKONFAULT has a name in smaps (8614d6c5eda0, 6.2)",
        frozenset({"PER_VMA_LOCK"}),
    ),
    Release(
        "v6.9",
        "v6.6",
        {
            "madvise_pageout_young": "kept",
            "dup_mmap": "open-before-copy",
            "vfio_pci": "v6.9",
            "get_pat_info": "walk-not-anon",
            "madvise_populate": "from-start",
        },
        "dossier",
        "35e351780fa9 defers linking in fork; BAR mappings get VM_ALLOW_ANY_UNCACHED; untrack takes no anonymous page; "
        "631426ba1d45: MADV_POPULATE goes by pages",
    ),
    Release(
        "v6.10",
        "v6.9",
        {
            "vma_flags_write": "always",
            "find_vma": "always",
            "vfio_pci": "v6.10",
            "follow_pte_assert": "mmap_lock",
            "gup_fast_folio_allowed": "of-a-mapping",
        },
        "dossier",
        "ba168b52bf8e asserts mmap_lock in every build, follow_pte too; b7c5e64fecfa, aac6db75a9fc, d71a989cf5d9: VFIO",
    ),
    Release(
        "v6.12",
        "v6.10",
        {
            "mmap_expands": "previous",
            "vfio_pci": "v6.12",
            "copy_huge_pmd": "special",
            "shown_leaf": "special",
            "thp_of_special": "any",
            "copy_huge_pud": "as-it-is",
            "follow_pte_assert": "mmap_lock-or-i_mmap",
            "remap_error": "zap",
            "vm_mixed_ok": "sigbus",
            "do_swap_page": "exclusive-writable",
            "mprotect_account": "given-back",
            "change_notify": "by-pud",
            "mmap_replace": "freed-last",
            "gup_fast_fallback": "eoverflow",
            "gup_fast_pmd_leaf": "special",
            "smaps_account": "maybe-shared",
        },
        "source",
        "f9e54c3a2f5b: huge_fault, the faulting leaf only; follow_pfnmap_start; a failing remap zaps (6.11)",
    ),
    Release(
        "deb-6.12.117",
        "v6.12",
        {"mremap_dontunmap_locked": "moved-part", "track_pfn_copy": "clear-then-set", "vfio_pci": "v6.15"},
        "recorded",
        "fork's cleared VM_PAT and VFIO's faults aligned to the leaf's order (both of 6.15) backported; BAR revocation "
        "and memtypes recorded, source read",
    ),
    Release(
        "v6.14",
        "v6.12",
        {"madvise_behavior_valid": "to-guard", "__gup_longterm_locked": "list-empty", "vfio_pci": "v6.13"},
        "dossier",
        "1aaf8c122918, until June 2025, and in stable: a long-term pin is done when nothing can be isolated",
        frozenset({"PT_RECLAIM"}),
        apart=True,
    ),
    Release(
        "v6.16",
        "v6.12",
        {
            "vfio_pci": "v6.15",
            "is_mergeable_anon_vma": "not-forked",
            "madvise_behavior_valid": "to-guard",
            "pfnmap_flush": "before_unlink",
            "madvise_lock": "mmap_lock-one-flush",
            "vfio_pin_pages_remote": "batches-kept",
            "pfnmap_track": "ctx",
            "track_pfn_copy": "clear-then-set",
            "memtype_match": "exact",
            "make_device_exclusive": "single",
            "make_device_exclusive_entry": "one-type",
            "restore_exclusive_pte": "by-vma",
            "remap_error": "zap-pages",
            "pgprot_combine": "replace",
        },
        "dossier",
        "tlb_free_vmas at the head of free_pgtables; anonymous inodes noexec; VM_PAT gone, pfnmap_track_ctx instead, "
        "and with it the free of an entry's tail",
        frozenset({"ANON_INODE_NOEXEC", "PT_RECLAIM"}),
    ),
    Release("deb-6.16.12", "v6.16", {}, "recorded", "as v6.16 at these seams; BAR revocation recorded"),
    Release(
        "v6.18",
        "v6.16",
        {
            "pud_insert_prot": "lookup",
            "do_mremap": "all-first",
            "vfio_find_dma": "last-byte",
            "madvise_lock": "vma_lock",
        },
        "dossier",
        "ce147c7e9508 (6.17): a 1G leaf's type is looked up; mremap checks first, and moves several VMAs (6.17); "
        "MADV_DONTNEED under the VMA's lock (6.17)",
    ),
    Release("deb-6.18.15", "v6.18", {}, "recorded", "as v6.18 at these seams; BAR revocation recorded"),
    Release(
        "v7.3",
        "v6.18",
        {
            "mremap_dontunmap_locked": "moved-part",
            "mincore_walk": "any",
            "madvise_dofork": "not-special",
            "remap_flags": "first",
            "gup_fast_folio_allowed": "of-a-mapping-longterm",
            "set_pte_range": "as-the-page",
            "remove_device_exclusive_entry": "referenced-clear",
            "generic_access_phys": "one-page",
        },
        "source",
        "as v6.18 at the other seams; MADV_DOFORK refuses every VM_SPECIAL, remap_pfn_range writes flags first and "
        "unchecked (both after 6.12; unknown for 6.16 and 6.18)",
    ),
    Release(
        "deb-7.3.4",
        "v7.3",
        {"proc_mem_foll_force": "ptrace"},
        "recorded",
        "as v7.3 at these seams, but for /proc/PID/mem, by its configuration; BAR revocation and memtypes recorded",
    ),
)

RELEASES: dict[str, Release] = {r.name: r for r in _ROWS}


def releases() -> list[str]:
    """The releases that are known at every seam, oldest first (a distribution's build after the one it is based on)."""
    return [name for name, row in RELEASES.items() if not row.apart]


def apart() -> list[str]:
    """The releases and candidates that are known for a few seams only, and are as their base at the others."""
    return [name for name, row in RELEASES.items() if row.apart]


def patches() -> dict[str, Patch]:
    """Every patch by name."""
    return PATCHES


def configs() -> dict[str, Option]:
    """Every config option that a spec may name."""
    return {name: o for name, o in OPTIONS.items() if o.selectable}


def choices_of(release: str) -> dict[str, str]:
    """A release's choice at every seam."""
    row = RELEASES[release]
    base = choices_of(row.based_on) if row.based_on else {}
    return {**base, **row.choices}


def config_of(release: str) -> frozenset[str]:
    """The config that comes with a release: its build's own where there is one, else what its row says."""
    row = RELEASES[release]
    own = row.config | (config_of(row.based_on) if row.based_on else frozenset())
    build = BUILDS.get(release)
    if build is None:
        return own
    return frozenset(o.name for o in OPTIONS.values() if (o.on(build.config) if o.symbols else o.name in own))


def kernel(spec: str) -> Kernel:
    """The kernel that ``spec`` names: a release, then ``+patch``, config words and flips (``v6.6 lockdep``).

    A flip is ``seam=alternative``: the kernel with another choice at one seam, be there such a kernel or not. It comes
    after the patches, and nothing is checked but that both exist.

    Raises KernelSpecError for an unknown name or an illegal combination, NotApplicable when a patch does not apply.
    """
    words = spec.split()
    if not words:
        raise KernelSpecError("no kernel named")
    release, *rest = words
    if release not in RELEASES:
        raise KernelSpecError(f"no kernel {release!r}; known: {', '.join(RELEASES)}")
    choices = choices_of(release)
    config = set(config_of(release))
    names = sorted(w[1:] for w in rest if w.startswith("+"))
    changed: dict[str, str] = {}
    for name in names:
        patch = PATCHES.get(name)
        if patch is None:
            raise KernelSpecError(f"no patch {name!r}; known: {', '.join(PATCHES)}")
        for seam in patch.choices:
            if seam in changed:
                raise KernelSpecError(f"+{changed[seam]} and +{name} both change {seam}: choose one")
            changed[seam] = name
        why_not = patch.refuses(release, choices, config)
        if why_not:
            raise NotApplicable(f"+{name} does not apply to {release}: {why_not}")
        choices.update(patch.choices)
    flips: dict[str, str] = {}
    for word in rest:
        if word.startswith("+"):
            continue
        if "=" in word:
            seam, _, name = word.partition("=")
            if seam in flips:
                raise KernelSpecError(f"{seam} is given twice")
            if name not in alternatives(seam):
                raise KernelSpecError(f"{seam} has no alternative {name!r}; it has {', '.join(alternatives(seam))}")
            flips[seam] = name
            continue
        if word not in OPTIONS or not OPTIONS[word].selectable:
            raise KernelSpecError(f"no config option {word!r}; known: {', '.join(configs())}")
        config.add(word)
    choices.update(flips)
    options = sorted(w for w in rest if not w.startswith("+") and "=" not in w)
    canonical = " ".join([release, *(f"+{n}" for n in names), *(f"{k}={flips[k]}" for k in sorted(flips)), *options])
    return Kernel(canonical, release, tuple(names), frozenset(config), choices)


def alternatives(seam: str) -> list[str]:
    """The alternatives of a seam by name. KernelSpecError if there is no such seam."""
    if seam not in HOMES:
        raise KernelSpecError(f"no seam {seam!r}; known: {', '.join(HOMES)}")
    import_module(HOMES[seam])
    return list(SEAMS[seam].alternatives)


def between(first: str, last: str) -> list[str]:
    """The releases from ``first`` to ``last``, both included, in this file's order; those apart are left out."""
    names = releases()
    return names[names.index(first) : names.index(last) + 1]
