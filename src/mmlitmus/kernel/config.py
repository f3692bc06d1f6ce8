"""What a build switches on, apart from what its release has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """A config option: what it changes in the model."""

    name: str
    about: str
    selectable: bool = True  # may be named on a kernel spec; otherwise it comes with the release


OPTIONS = {
    o.name: o
    for o in (
        Option("lockdep", "PROVE_LOCKING: what only lockdep asserts is checked (inversions are always reported)"),
        Option("CMA", "CONFIG_CMA: memory areas that have to be emptied on demand; no page stays there for long"),
        Option("NO_GUP_FAST", "an architecture without HAVE_GUP_FAST, such as arc: pages are had with mmap_lock only"),
        Option(
            "NO_PTE_SPECIAL",
            "one without ARCH_HAS_PTE_SPECIAL, such as arm without LPAE: VMAs say what is a page, and there is no fast "
            "GUP; as far as get_user_pages and vmf_insert_mixed go",
        ),
        Option("PER_VMA_LOCK", "user faults try the VMA's own lock first; freed VMAs wait for RCU", selectable=False),
        Option("ANON_INODE_NOEXEC", "anonymous inodes are noexec: no VM_MAYEXEC on their mappings", selectable=False),
    )
}
