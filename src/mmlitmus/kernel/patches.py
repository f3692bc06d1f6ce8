"""Every patch and proposal: what it changes at which seam, and what it applies to.

A patch names the choices it replaces; it applies where the kernel's own choice at that seam is one of ``over``.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """A change of choices. ``over``: by seam, the choices it can replace."""

    name: str
    subject: str
    choices: dict[str, str]
    over: dict[str, tuple[str, ...]]
    fate: str = "proposal"

    def refuses(self, release: str, choices: dict[str, str], config: AbstractSet[str]) -> str | None:
        """Why the patch does not apply to a kernel with these choices; None when it does."""
        for seam, possible in self.over.items():
            if self.choices.get(seam) == choices[seam]:
                return f"{seam} is {choices[seam]} there already"
            if choices[seam] not in possible:
                return f"it changes {seam} from {' or '.join(possible)}, and there it is {choices[seam]}"
        return None


LISTED = ("v5.8", "v5.14", "v6.9")  # designs with VFIO's list of VMAs
BY_MAPPING = ("v6.10", "v6.12", "v6.13", "v6.15")  # designs that revoke through the address_space


def _vfio(name: str, subject: str, over: tuple[str, ...], fate: str = "proposal") -> Patch:
    return Patch(name, subject, {"vfio_pci": name}, {"vfio_pci": over}, fate)


_ALL = (
    _vfio("write-lock-in-fault", "vfio/pci: take mmap write lock for io_remap_pfn_range", LISTED, "rejected, 2023"),
    _vfio("write-lock-in-fault-revalidate", "the same, looking the VMA up again", LISTED, "not proposed"),
    _vfio("insert-loop", "populate with a vmf_insert_pfn loop in the handler", LISTED, "became d71a989cf5d9"),
    _vfio("populate-in-mmap", "populate in ->mmap if memory is enabled", BY_MAPPING, "test branch, not merged"),
    _vfio("populate-in-mmap-listed", "populate in ->mmap, and list the VMA there", LISTED, "not proposed"),
    _vfio("cond-remap", "remap in ->mmap if memory is enabled, else flags only", BY_MAPPING, "test branch, not merged"),
    _vfio("manual-track", "the same, reserving the frames in ->mmap where it does not map", BY_MAPPING),
    _vfio("write-combining", "WC mappings of BARs through VFIO", BY_MAPPING, "planned in 2024"),
    _vfio("populate-after-link", "a file operation after vma_link_file populates", BY_MAPPING, "not used by VFIO"),
    _vfio("populate-after-link-check-early", "the same, memory looked at in ->mmap", BY_MAPPING, "negative control"),
    _vfio("remap-on-enable", "no fault handler: walk the VMAs and remap on re-enable", BY_MAPPING, "not pursued"),
    _vfio("remap-on-enable-as-posted", "the loop of that mail, every choice as posted", BY_MAPPING, "as posted"),
    _vfio("remap-then-zap", "remap in ->mmap to reserve, and unmap at once", BY_MAPPING, "not pursued"),
    _vfio("remap-on-enable-mmgrab", "... with mmgrab instead of mmget", BY_MAPPING, "sub-choice"),
    _vfio("remap-on-enable-mmgrab-remap", "... with mmgrab, and filled with remap_pfn_range", BY_MAPPING, "sub-choice"),
    _vfio("remap-on-enable-hold-memory-lock", "... under memory_lock W", BY_MAPPING, "sub-choice"),
    _vfio("remap-on-enable-no-revalidate", "... without looking at memory again", BY_MAPPING, "sub-choice"),
    _vfio("remap-on-enable-under-i_mmap", "... filling under i_mmap_rwsem", BY_MAPPING, "sub-choice"),
    _vfio("remap-on-enable-page0", "... taking page 0 for the whole VMA", BY_MAPPING, "sub-choice"),
    _vfio("remap-on-enable-no-check", "... filling what is filled already", BY_MAPPING, "sub-choice"),
    _vfio("copy-user-under-memory-lock", "copy_to_user under memory_lock", BY_MAPPING, "negative control"),
    _vfio("blocking-hot-reset", "hot reset waits for each device", BY_MAPPING, "negative control"),
    _vfio("blocking-hot-reset-vma-list", "hot reset waits, on the list of VMAs", LISTED, "negative control"),
    _vfio("zap-first-bar", "the zap of the BARs ends with BAR 0", BY_MAPPING, "negative control"),
    Patch(
        "unmap-mapping-range",
        "vfio/pci: Use unmap_mapping_range(); Insert full vma on mmap'd MMIO fault (aac6db75a9fc, d71a989cf5d9)",
        {"vfio_pci": "v6.10"},
        {"vfio_pci": LISTED},
        "merged in 6.10",
    ),
    Patch(
        "revert-unmap-mapping-range",
        "VFIO's list of VMAs and remap in the fault handler, as before aac6db75a9fc (the state of 6.10-rc3)",
        {"vfio_pci": "v6.9"},
        {"vfio_pci": BY_MAPPING},
        "what 6.10 would have shipped",
    ),
    Patch(
        "fault-under-vma-lock",
        "call ->fault under the VMA lock alone",
        {"fault_lock": "vma_lock-throughout"},
        {"fault_lock": ("vma_lock",)},
        "negative control",
    ),
    Patch(
        "fork-defer-link",
        "fork: defer linking file vma until vma is fully initialized (35e351780fa9)",
        {"dup_mmap": "open-before-copy"},
        {"dup_mmap": ("open-after-copy",)},
        "merged in 6.9, backported",
    ),
    Patch(
        "fork-link-after-copy",
        "link the child's VMA after its page tables are copied",
        {"dup_mmap": "link-after-copy"},
        {"dup_mmap": ("open-after-copy", "open-before-copy")},
        "negative control",
    ),
    Patch(
        "fork-link-before-parent",
        "link the child's VMA in front of its parent's",
        {"dup_mmap": "link-before-parent"},
        {"dup_mmap": ("open-after-copy", "open-before-copy")},
        "negative control",
    ),
    Patch(
        "no-pfnmap-flush",
        "no forced flush for PFNMAP VMAs before they are unlinked",
        {"pfnmap_flush": "none"},
        {"pfnmap_flush": ("end_vma", "before_unlink")},
        "as it was before 5.19",
    ),
    Patch(
        "pfnmap-flush-end-vma",
        "mmu_gather: force a flush at the end of each PFNMAP VMA",
        {"pfnmap_flush": "end_vma"},
        {"pfnmap_flush": ("none",)},
        "merged in 5.19, backported",
    ),
    Patch(
        "untrack-in-unmap-vmas",
        "mm/x86/pat: Only untrack the pfn range if unmap region",
        {"untrack_site": "unmap_vmas"},
        {"untrack_site": ("unmap_single_vma",), "pfnmap_track": ("vm_pat",)},
        "posted July 2024, not merged",
    ),
    Patch(
        "untrack-under-mmap-lock",
        "mm: Fix mmap_assert_locked() in follow_pte(): mmap_lock around the untrack walk",
        {"get_pat_info": "walk-under-mmap-lock"},
        {"get_pat_info": ("walk-not-anon",), "pfnmap_track": ("vm_pat",)},
        "posted July 2024, dropped",
    ),
    Patch(
        "mremap-back-unlocked",
        "a move that fails is taken back without i_mmap_rwsem",
        {"move_vma": "unlocked"},
        {"move_vma": ("locked",)},
        "negative control",
    ),
    Patch(
        "mremap-back-tracked",
        "the copy of a move that fails keeps VM_PAT",
        {"move_vma": "still-tracked"},
        {"move_vma": ("locked",), "pfnmap_track": ("vm_pat",)},
        "negative control",
    ),
    Patch(
        "untrack-asserts",
        "untrack_pfn clears VM_PAT as every other writer of vm_flags",
        {"untrack_clear": "asserting"},
        {"untrack_clear": ("by-lock",), "pfnmap_track": ("vm_pat",)},
        "negative control",
    ),
    Patch(
        "pfnmap-track-ctx",
        "mm: rewrite pfnmap tracking and remove VM_PAT",
        {"pfnmap_track": "ctx"},
        {"pfnmap_track": ("vm_pat",)},
        "merged in 6.16",
    ),
    Patch(
        "cow-walk-fix",
        "x86/mm/pat: fix VM_PAT handling in COW mappings",
        {"get_pat_info": "walk-not-anon"},
        {"get_pat_info": ("walk",), "pfnmap_track": ("vm_pat",)},
        "merged in 6.9, backported",
    ),
    Patch(
        "fork-clear-pat",
        "x86/mm/pat: Fix VM_PAT handling when fork() fails in copy_page_range()",
        {"track_pfn_copy": "clear-then-set"},
        {"track_pfn_copy": ("inherit",), "pfnmap_track": ("vm_pat",)},
        "merged in 6.15, backported",
    ),
    Patch(
        "remap-error-zap",
        "mm: avoid leaving partial pfn mappings around in error case",
        {"remap_error": "zap"},
        {"remap_error": ("leave",)},
        "merged in 6.11, backported",
    ),
    Patch(
        "follow-pte-accepts-i_mmap",
        "mm: new follow_pfnmap API: i_mmap_rwsem will do where mmap_lock is not held",
        {"follow_pte_assert": "mmap_lock-or-i_mmap"},
        {"follow_pte_assert": ("mmap_lock",)},
        "merged in 6.12",
    ),
    Patch(
        "pat-large-shift",
        "mm/x86/pat: the PAT bit of a huge leaf is bit 12",
        {"huge_pgprot": "shifted"},
        {"huge_pgprot": ("as-4k",)},
        "RFC, 2024, not merged",
    ),
    Patch(
        "pud-insert-lookup",
        "mm/huge_memory: don't ignore queried cachemode in vmf_insert_pfn_pud() (ce147c7e9508)",
        {"pud_insert_prot": "lookup"},
        {"pud_insert_prot": ("vma",)},
        "merged in 6.17",
    ),
    Patch(
        "vfio-align-pfn",
        "vfio/pci: Fallback huge faults for unaligned pfn (09dfc8a5f2ce)",
        {"vfio_pci": "v6.13"},
        {"vfio_pci": ("v6.12",)},
        "merged in 6.13, backported",
    ),
    Patch(
        "vfio-align-to-order",
        "vfio/pci: Align huge faults to order (c1d9dac0db16)",
        {"vfio_pci": "v6.15"},
        {"vfio_pci": ("v6.12", "v6.13")},
        "merged in 6.15, backported",
    ),
    Patch(
        "split-pud-leaf",
        "vma_adjust_trans_huge: a 1G leaf is split before a 2M leaf is looked for",
        {"vma_adjust_trans_huge": "pud-too"},
        {"vma_adjust_trans_huge": ("pmd-only",)},
        "not proposed yet",
    ),
    Patch(
        "pte-under-leaf",
        "who wants a PTE table where a huge leaf is gets one under it",
        {"pte_offset_map_lock": "unseen"},
        {"pte_offset_map_lock": ("through-leaf", "none")},
        "negative control",
    ),
    Patch(
        "copy-huge-pmd-locked",
        "fork copies a 2M leaf of device memory as it is under its lock",
        {"copy_huge_pmd": "locked"},
        {"copy_huge_pmd": ("special",)},
        "not proposed yet",
    ),
    Patch(
        "longterm-isolation-errno",
        "a long-term pin fails with -EINVAL if a page could not be isolated",
        {"__gup_longterm_locked": "errno"},
        {"__gup_longterm_locked": ("repeat", "eagain")},
        "proposed in June 2022, not merged",
    ),
    Patch(
        "longterm-list-empty",
        "mm: gup: fix infinite loop within __get_longterm_locked (1aaf8c122918)",
        {"__gup_longterm_locked": "list-empty"},
        {"__gup_longterm_locked": ("eagain",)},
        "merged in 6.14, backported, reverted in 2025 (517f496e1e61)",
    ),
    Patch(
        "zero-page-not-excepted",
        "no movable page is pinned for long, the zero page no exception: within the series of 5.13",
        {"is_longterm_pinnable": "zero-too"},
        {"is_longterm_pinnable": ("or-zero",)},
        "never released",
    ),
    Patch(
        "zero-page-negated",
        "the zero page in the negation, as in 6.0-rc1 (f25cbb7a95a2)",
        {"is_longterm_pinnable": "zero-negated-again"},
        {"is_longterm_pinnable": ("in-steps",)},
        "fixed within 6.0 (fcab34b433e2)",
    ),
    Patch(
        "pinnable-in-stages",
        "which pages may stay, said one after the other, and in the end only the zero page",
        {"is_longterm_pinnable": "only-zero"},
        {"is_longterm_pinnable": ("zero-negated-again", "in-steps")},
        "posted as a sketch in 2022, not merged",
    ),
    Patch(
        "unshare-anon-only",
        "a pin asks for the zero page to be unshared, and the fault handler does not do it",
        {"fault_unshare": "anon"},
        {"fault_unshare": ("any",), "gup_must_unshare": ("or-longterm",)},
        "negative control",
    ),
    Patch(
        "fork-unseen-by-gup",
        "fork without write_protect_seq, as before 57efa1fe5957",
        {"write_protect_seq": "unseen"},
        {"write_protect_seq": ("seqcount",)},
        "as it was before 5.11",
    ),
    Patch(
        "handle-concurrent-faults",
        "vfio/pci: Handle concurrent vma faults (6a45ece4c9af)",
        {"vfio_pci": "v5.14"},
        {"vfio_pci": ("v5.8",)},
        "merged in 5.14, backported",
    ),
)

PATCHES: dict[str, Patch] = {p.name: p for p in _ALL}
