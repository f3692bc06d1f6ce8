"""Predictions that no mail makes: derived from the source, and written down before they were run."""

from __future__ import annotations

from mmlitmus.api import always, never, sometimes

from .claim import Claim, says

DERIVED = "derived from source"

PREDICTIONS = (
    Claim(
        "N1", "own",
        "Up to 6.15 the memtype is given back before the translations are cleared; in between another may reserve "
        "another type.",
        DERIVED, "holds",
        "munmap of one type beside remap of another: the old translation meets the new type. The 2024 patch does not "
        "change that; from 6.16 on the memtype goes last.",
        (
            *says("pat/unmap-vs-remap", sometimes("memtype-alias"), "v6.12", "v6.12 +untrack-in-unmap-vmas"),
            *says("pat/unmap-vs-remap", never, "v6.16"),
        ),
    ),
    Claim(
        "N2", "own",
        "Up to 6.15 two zaps through the reverse map, or one beside a munmap, may untrack twice, and free the entry of "
        "another owner.",
        DERIVED, "holds",
        "Both see VM_PAT before either clears it. Entries have no owner: the second free takes the next one of the "
        "same range.",
        (
            *says("pat/two-zaps", sometimes("memtype-steal", "untrack-walk-failed"), "v6.12"),
            *says("pat/two-zaps", never, "v6.12 +untrack-in-unmap-vmas", "v6.16"),
            *says("pat/zap-vs-munmap", sometimes("memtype-steal", "untrack-walk-failed"), "v6.12"),
            *says("pat/zap-vs-munmap", never, "v6.16"),
        ),
    ),
    Claim(
        "N3", "own",
        "Clearing VM_PAT without mmap_lock may undo, or be undone by, a change of vm_flags under mmap_lock.",
        DERIVED, "holds",
        "Two writers read, change and write the same word, and one change is lost. Without a zap that untracks there "
        "is one writer.",
        (
            *says("locks/lost-flags-update", sometimes("lost-flags-update"), "v6.12"),
            *says("locks/lost-flags-update", never, "v6.12 +untrack-in-unmap-vmas", "v6.16"),
        ),
    ),
    Claim(
        "N4", "own",
        "From 5.8 to 5.13 VFIO's zapper may pass a fault that has listed its VMA and not yet filled it: the device is "
        "off, and translations live that no list names.",
        DERIVED, "holds",
        "The handler drops vma_lock before it fills. 6a45ece4c9af holds it across both.",
        (
            *says(
                "vfio/unlisted-translation",
                sometimes("access-after-disable", "stale-translation", "untrack-walk-failed"), "v5.10",
            ),
            *says("vfio/unlisted-translation", never, "v5.10 +handle-concurrent-faults", "v6.1"),
        ),
    ),
    Claim(
        "N5", "own",
        "With the patch of July 2024 on a VFIO that remaps in its fault handler, every cycle of fault and disable "
        "leaks a reservation.",
        DERIVED, "holds",
        "Each fault reserves again, and munmap frees one entry at most.",
        (
            *says("pat/vfio-cycles", always("memtype-leak"), "v6.1 +untrack-in-unmap-vmas"),
            *says("pat/vfio-cycles", never, "v6.1"),
        ),
    ),
    Claim(
        "N6", "own",
        "With 6.16's tracking on a VFIO that remaps in its fault handler, the second fault of a VMA gets SIGBUS though "
        "memory is enabled.",
        DERIVED, "holds",
        "The VMA keeps its tracking object over the zap, and remap_pfn_range refuses to track it again.",
        says("pat/vfio-cycles", always("spurious-sigbus"), "v6.1 +pfnmap-track-ctx"),
    ),
    Claim(
        "N7", "own",
        "Up to 6.15 unmapping the head of a tracked VMA before its tail leaks part of the reservation.",
        DERIVED, "holds",
        "The database finds an entry by its exact range, or by its end: a tail shrinks it, a head is no entry at all.",
        (
            *says("pat/split-head-first", always("freeing-invalid-memtype", "memtype-leak"), "v5.10", "v6.12"),
            *says("pat/split-tail-first", never, "v5.10", "v6.12"),
            *says("pat/split-head-first", never, "v6.16"),
        ),
    ),
    Claim(
        "N8", "own",
        "A walk that remaps on re-enable must not hold memory_lock: it deadlocks with an mmap or a fault.",
        DERIVED, "holds",
        "The walk takes mmap_lock inside memory_lock, a fault memory_lock inside mmap_lock.",
        (
            *says(
                "vfio/remap-on-enable/lock-order",
                sometimes("deadlock memory_lock / mmap_lock", "inversion memory_lock -> mmap_lock -> memory_lock"),
                "v6.12 +remap-on-enable-hold-memory-lock",
            ),
            *says("vfio/remap-on-enable/lock-order", never, "v6.12 +remap-on-enable"),
        ),
    ),
    Claim(
        "N9", "own",
        "Debian's 6.1.192 has fork's deferred link and not VFIO's move to unmap_mapping_range: a child keeps its BAR "
        "mapping when the parent disables memory.",
        DERIVED, "holds",
        "It does in the model, and did on that kernel.",
        (
            *says("fork/fork-then-disable", always("access-after-disable", "stale-translation"), "deb-6.1.192"),
            *says("fork/fork-then-disable", never, "v6.1", "deb-6.1.192 +unmap-mapping-range"),
        ),
    ),
)  # fmt: skip
