"""What a build switches on, apart from what its release has.

A distribution's build is configured as its package says (``stock.py``). A release of kernel.org has no configuration;
what one is built with here, its row in ``eras.py`` says: Kconfig's own default on x86-64, but for DEVICE_PRIVATE, which
is on, for else there would be nothing to ask of make_device_exclusive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """A config option: what it changes in the model.

    ``symbols``: what Kconfig calls it, one name for each time that it had another; ``inverted``: the option is on where
    that is off. Without a symbol it is a property of the release.
    """

    name: str
    about: str
    selectable: bool = True  # may be named on a kernel spec; otherwise it comes with the release
    symbols: tuple[str, ...] = ()
    inverted: bool = False

    def on(self, config: Mapping[str, str]) -> bool:
        """Is it on in a build with these symbols?"""
        return any(config.get(symbol, "n") != "n" for symbol in self.symbols) != self.inverted


OPTIONS = {
    o.name: o
    for o in (
        Option(
            "lockdep",
            "PROVE_LOCKING: what only lockdep asserts is checked (inversions are always reported)",
            symbols=("PROVE_LOCKING",),
        ),
        Option(
            "CMA",
            "CONFIG_CMA: memory areas that have to be emptied on demand; no page stays there for long",
            symbols=("CMA",),
        ),
        Option(
            "DEVICE_PRIVATE",
            "CONFIG_DEVICE_PRIVATE: make_device_exclusive is built; a device's own memory is not modelled",
            symbols=("DEVICE_PRIVATE",),
        ),
        Option(
            "NO_GUP_FAST",
            "an architecture without HAVE_GUP_FAST, such as arc: pages are had with mmap_lock only",
            symbols=("HAVE_GUP_FAST", "HAVE_FAST_GUP"),
            inverted=True,
        ),
        Option(
            "NO_PTE_SPECIAL",
            "one without ARCH_HAS_PTE_SPECIAL, such as arm without LPAE: VMAs say what is a page, and there is no fast "
            "GUP; as far as get_user_pages and vmf_insert_mixed go",
            symbols=("ARCH_HAS_PTE_SPECIAL",),
            inverted=True,
        ),
        Option(
            "PER_VMA_LOCK",
            "user faults try the VMA's own lock first; freed VMAs wait for RCU",
            selectable=False,
            symbols=("PER_VMA_LOCK",),
        ),
        Option(
            "PT_RECLAIM",
            "MADV_DONTNEED frees a page table that it has emptied: not modelled, and said so where it would happen",
            selectable=False,
            symbols=("PT_RECLAIM",),
        ),
        Option("ANON_INODE_NOEXEC", "anonymous inodes are noexec: no VM_MAYEXEC on their mappings", selectable=False),
    )
}

#: symbols that choose an alternative: (symbol, value) -> (seam, alternative)
CHOICES = {
    ("PROC_MEM_ALWAYS_FORCE", "y"): ("proc_mem_foll_force", "always"),
    ("PROC_MEM_FORCE_PTRACE", "y"): ("proc_mem_foll_force", "ptrace"),
}

#: symbols that the model takes for granted, where the kernel has them: what they are, and why
ASSUMED = {
    "SMP": ("y", "every task has a CPU of its own"),
    "X86_PAT": ("y", "memory types are the PAT's"),
    "MTRR": ("y", "and what the firmware's MTRRs say of them"),
    "MMU_NOTIFIER": ("y", "who maps for a device is told"),
    "MEM_SOFT_DIRTY": ("y", "entries and VMAs carry the soft-dirty bit"),
    "MIGRATION": ("y", "pages are moved"),
    "SWAP": ("y", "where a case has a swap device"),
    "TRANSPARENT_HUGEPAGE": ("y", "huge leaves of devices, and of memory where a case switches them on"),
    "ARCH_SUPPORTS_PMD_PFNMAP": ("y", "2M leaves of device memory"),
    "ARCH_SUPPORTS_PUD_PFNMAP": ("y", "1G leaves of device memory"),
    "VFIO_PCI": ("m", "VFIO is there"),
    "VFIO_IOMMU_TYPE1": ("m", "and its type1 backend"),
    "SECRETMEM": ("y", "fast GUP asks for a folio's mapping on its account"),
    "X86_USER_SHADOW_STACK": ("y", "a write-protected entry keeps dirty in another bit"),
    "DEBUG_VM": ("n", "assertions that only it has are not reported"),
    "DEBUG_ATOMIC_SLEEP": ("n", "might_sleep() tells nobody"),
}

#: symbols that are on in builds and that the model has nothing of: what, and which way it errs
NOT_MODELLED = {
    "TRANSPARENT_HUGEPAGE_ALWAYS": "untouched memory gets huge pages unasked; here a case asks for it",
    "CMA_SIZE_MBYTES": "a case says what lies in a CMA area; with 0 there is none unless the command line says cma=",
    "STRICT_DEVMEM": "there is no /dev/mem",
    "IO_STRICT_DEVMEM": "there is no /dev/mem",
    "KSM": "no page is merged with another's",
    "NUMA": "memory is one node; no NUMA hinting faults",
    "USERFAULTFD": "nobody registers a range",
    "MEMORY_FAILURE": "no page is poisoned",
    "MEMORY_HOTREMOVE": "memory does not go; what lies in ZONE_MOVABLE stays",
    "ZONE_DEVICE": "memory of devices that has pages is there as far as its type's rules for pinning go",
}


@dataclass(frozen=True)
class Build:
    """A distribution's build: the package whose configuration was read, its version, and the symbols that the model
    knows, with their values; one that is not there, the kernel has not."""

    package: str
    version: str
    config: Mapping[str, str]


def symbols() -> list[str]:
    """Every symbol that is read."""
    options = [symbol for option in OPTIONS.values() for symbol in option.symbols]
    return sorted({*options, *(symbol for symbol, _ in CHOICES), *ASSUMED, *NOT_MODELLED})
