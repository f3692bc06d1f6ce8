"""Thread 000: "mm/x86/pat: Only untrack the pfn range if unmap region", July 2024.

The patch takes the untracking of a PFNMAP out of unmap_single_vma, which may be asked to zap a single page, and puts it
back into unmap_vmas. It was not merged; 6.16 rewrote the tracking instead. Here it is ``+untrack-in-unmap-vmas``.
"""

from __future__ import annotations

from mmlitmus.api import always, never, sometimes

from .claim import Claim, says

# The messages, by the time in their headers.
PATCH = "2024-07-12 10:42 -0400"
REPLY_1 = "2024-07-15 15:08 +0800"
ANSWER_1 = "2024-07-15 22:29 +0800"
REPLY_2 = "2024-07-16 17:13 +0800"
ANSWER_2 = "2024-07-16 15:01 -0400"
REPLY_3 = "2024-07-17"
LATER = "same thread, date not known"

PATCHED = "v6.12 +untrack-in-unmap-vmas"

# What several claims rest on.
ONE_PAGE = says("pat/zap-one-page", always("untracked-live"), "v6.12")
ONE_PAGE_KEPT = says("pat/zap-one-page", never, PATCHED, "v6.16")
EMPTY_AT_MUNMAP = says("pat/zap-then-unmap", always("memtype-leak", "untrack-walk-failed"), PATCHED)
OTHER_PFN = says("pat/refault-other-pfn", always("freeing-invalid-memtype", "memtype-leak"), PATCHED)
LOOKED_UP = says("pat/insert-ignores-prot", never, "v6.12", "v6.16")
VFIO_NOW = says("pat/vfio-cycles", never, "v6.12", "v6.16")
OLD_HANDLER = "v6.10 +revert-unmap-mapping-range"
ASSERTED = says("vfio/remap-in-fault", always("flags-without-lock"), "v6.6 lockdep", OLD_HANDLER)

THREAD_000 = (
    Claim(
        "C000-01", "000",
        "The tracking of a PFNMAP begins when a driver's ->mmap maps it, and ends at munmap.",
        PATCH, "depends",
        on="the driver and the release",
        because="A driver that remaps the whole VMA in ->mmap begins there; up to 6.15 it ends at the first zap of any "
        "page. VFIO up to 6.9 began at each fault and ended at each zap; from 6.10 it tracks nothing.",
        settled_by=(
            *says("pat/split-tail-first", never, "v6.12"),
            *ONE_PAGE,
            *says("pat/vfio-cycles", never, "v6.1"),
        ),
    ),
    Claim(
        "C000-02", "000",
        "The untracking sits in unmap_single_vma, which may be asked to zap no more than one page.",
        PATCH, "holds",
        "The zap of one page of four ends the tracking of all four; where the call sits in unmap_vmas it does not.",
        (*ONE_PAGE, *says("pat/zap-one-page", always("untracked-live"), "v5.10"), *ONE_PAGE_KEPT),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-03", "000",
        "To untrack the whole VMA when one page of it is zapped could simply be wrong.",
        PATCH, "holds",
        "The memtype is given back while three translations live on, and the next owner may have another type: "
        "two types for one page.",
        (
            *ONE_PAGE,
            *says("pat/zap-then-remap", always("memtype-alias"), "v6.12"),
            *says("pat/zap-then-remap", never, PATCHED, "v6.16"),
            *ONE_PAGE_KEPT,
        ),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-04", "000",
        "MADV_DONTNEED cannot show it: it is refused for a PFNMAP.",
        PATCH, "holds",
        "madvise gives -EINVAL before it comes near a page table.",
        says("pfn/madvise", never, "v5.10", "v6.12", "v7.3"),
    ),
    Claim(
        "C000-05", "000",
        "It can be reached by unmapping a range of the mapped file.",
        PATCH, "holds",
        "The zap comes through unmap_mapping_range, for one page of the file.",
        (*ONE_PAGE, *ONE_PAGE_KEPT),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-06", "000",
        "VFIO now takes MMIO translations away before munmap; the tracking should then be kept, since the same VMA may "
        "get them back.",
        PATCH, "depends",
        on="the driver: a need where the whole VMA was remapped in ->mmap, nothing to keep in VFIO from 6.10",
        because="Translations that come back after a zap find no reservation up to 6.15. VFIO does take them away, "
        "everywhere; but it has no tracking of its own that could be lost.",
        settled_by=(
            *says("vfio/disable-everywhere", never, "v6.10", "v6.12"),
            *says("pat/zap-refault-unmap", always("untracked-live"), "v6.12"),
            *says("pat/zap-refault-unmap", never, PATCHED, "v6.16"),
            *VFIO_NOW,
        ),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-07", "000",
        "For VFIO this is no problem yet, because it uses UC-.",
        PATCH, "holds",
        "UC- is what a lookup gives for a BAR anyway: its pci_iomap holds UC- for as long as the device is open. A VMA "
        "that asked for WC would get UC- too.",
        (*LOOKED_UP, *VFIO_NOW),
    ),
    Claim(
        "C000-08", "000",
        "It was overlooked when zap_page_range_single came; until then the function served munmap only.",
        PATCH, "depends",
        on="which half: f5cc4eef9987 did move the call into unmap_single_vma, but zaps that are no munmap were there "
        "already",
        because="zap_page_range and unmap_mapping_range called it then as now.",
        reason="history: that commit is older than every kernel here",
    ),
    Claim(
        "C000-09", "000",
        "To untrack in unmap_vmas again makes it right.",
        PATCH, "depends",
        on="whether the first page of the VMA is mapped at munmap, and to the pfn that was reserved",
        because="A zap of one page untracks no more. But unmap_vmas reads the pfn from the first entry: if that is "
        "gone, it warns and leaks; if it maps another pfn, the wrong range is freed.",
        settled_by=(
            *ONE_PAGE_KEPT[:1],
            *says("pat/zap-refault-unmap", never, PATCHED),
            *EMPTY_AT_MUNMAP,
            *OTHER_PFN,
        ),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-10", "000",
        "The reports could not be reproduced with the reproducer that came with them.",
        PATCH, "undecided",
        "One attempt that fails shows nothing either way. The path itself is seen at C000-02.",
        why="it tells of attempts on one machine, and not of the kernel",
    ),
    Claim(
        "C000-11", "000",
        "For VFIO the patch changes nothing: remap_pfn_range is called neither in ->mmap nor in the fault handler, so "
        "VM_PAT is never set.",
        REPLY_1, "depends",
        on="the release: from 6.10 on; up to 6.9 every fault remaps, and sets VM_PAT",
        because="On 6.12 the patch makes no difference to VFIO. On 6.1 it leaks a reservation with every cycle of "
        "fault and disable.",
        settled_by=(
            *VFIO_NOW[:1],
            *says("pat/vfio-cycles", never, PATCHED),
            *says("pat/vfio-cycles", always("memtype-leak"), "v6.1 +untrack-in-unmap-vmas"),
        ),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-12", "000",
        "VFIO should perhaps have VM_PAT.",
        ANSWER_1, "proposal",
        fate="not done: VFIO from 6.10 on tracks nothing",
        because="As long as the pfn is read from the page table, a VMA that was never faulted leaks its reservation; "
        "with the tracking object of 6.16 it does not.",
        settled_by=(
            *says("pat/manual-track", always("memtype-leak", "untrack-walk-failed"), "v6.12 +manual-track"),
            *says("pat/manual-track", never, "v6.16 +manual-track"),
        ),
        design=("manual-track",),
    ),
    Claim(
        "C000-13", "000",
        "VFIO cannot call io_remap_pfn_range in its fault handler: vm_flags_set wants mmap_lock for writing, and a "
        "fault holds it for reading.",
        REPLY_2, "holds",
        "The first touch warns, with lockdep from 6.3 and in every build from 6.10; under the VMA's own lock it waits "
        "for itself. Before 6.3 nobody looked.",
        (
            *ASSERTED,
            *says(
                "vfio/remap-in-fault/vma-lock",
                always("deadlock vm_lock")
                & sometimes(
                    "inversion memory_lock -> vm_lock -> memory_lock", "inversion vm_lock -> vm_lock",
                    "inversion vm_lock -> vma_lock -> vm_lock",
                ),
                "v6.6 +fault-under-vma-lock",
            ),
            *says("vfio/remap-in-fault", never, "v6.1", "v6.12"),
        ),
        design=("fault-under-vma-lock", "revert-unmap-mapping-range"),
    ),
    Claim(
        "C000-14", "000",
        "So VFIO leaves it to ioremap and iounmap to reserve and release the memtype.",
        REPLY_2, "holds",
        "pci_iomap of the whole BAR reserves UC-; what a fault inserts is looked up there, and no VMA owns anything.",
        (*VFIO_NOW, *LOOKED_UP),
    ),
    Claim(
        "C000-15", "000",
        "Neither vm_flags_set nor io_remap_pfn_range may be called in a fault handler, in ->mmap only.",
        ANSWER_2, "holds",
        "The flags are one reason. Another: remap_pfn_range BUGs on an entry that is there already, and two threads "
        "may fault at once.",
        (
            *ASSERTED,
            *says("vfio/concurrent-faults", sometimes("remap-over-populated"), "v5.10"),
            *says("vfio/concurrent-faults", never, "v6.12"),
        ),
        design=("revert-unmap-mapping-range",),
    ),
    Claim(
        "C000-16", "000",
        "ioremap in VFIO is for the VGA device only, and not in the fault handler.",
        ANSWER_2, "depends",
        on="what counts as ioremap: by that name only the VGA window is mapped, but pci_iomap of a BAR is the same",
        because="The VGA window lies in the hole that is not tracked at all, so that ioremap reserves nothing. The one "
        "that reserves is pci_iomap, in ->mmap.",
        settled_by=says("pat/vga-hole", never, "v6.12", "v6.16"),
    ),
    Claim(
        "C000-17", "000",
        "It is pci_iomap, another form of ioremap, that VFIO calls in its fault handler.",
        REPLY_3, "fails",
        "What it does is told right; the handler does not call it.",
        correction="a later message of the thread has it in ->mmap, at the first mapping of a BAR",
        reason="which function holds a call is read in source; nothing would come out differently",
    ),
    Claim(
        "C000-18", "000",
        "A range has a single owner: memtype_reserve fails if it is reserved already.",
        ANSWER_1, "fails",
        "Outside RAM a second owner is let in: with the same type, or coerced to the first one's. Only pages of RAM "
        "are exclusive.",
        (
            *says("pat/second-owner", never, "v5.10", "v6.12", "v6.16"),
            *says("pat/ram-is-exclusive", never, "v6.12"),
        ),
    ),
    Claim(
        "C000-19", "000",
        "On the first reservation the type is synchronised to the kernel's identity map, too.",
        ANSWER_1, "depends",
        on="what lies there: RAM is in the identity map, a BAR is not, and nothing is done for it",
        because="memtype_kernel_map_sync is called at every reservation that succeeds, not at the first only; outside "
        "the direct map it returns at once.",
        reason="the model has no identity map: device memory is in none",
    ),
    Claim(
        "C000-20", "000",
        "While MMIO is disabled VFIO should reserve all the same, so that the type is held for an empty page table.",
        ANSWER_1, "proposal",
        fate="not done in VFIO; 6.16 holds a reservation apart from page tables for those who remap a whole VMA",
        because="pci_iomap holds the type already. A reservation of the VMA's own leaks if munmap comes before the "
        "first fault, unless its pfn is kept beside the VMA.",
        settled_by=(
            *VFIO_NOW,
            *says("pat/manual-track", always("memtype-leak", "untrack-walk-failed"), "v6.12 +manual-track"),
            *says("pat/manual-track", never, "v6.16 +manual-track"),
        ),
        design=("manual-track",),
    ),
    Claim(
        "C000-21", "000",
        "Else the kernel's identity mapping may not match what the VMA maps when MMIO comes back.",
        ANSWER_1, "fails",
        "A BAR has no identity mapping. What a fault inserts has the type that is tracked then, whatever vm_page_prot "
        "says.",
        (*LOOKED_UP, *VFIO_NOW),
    ),
    Claim(
        "C000-22", "000",
        "pci_iomap has reserved the MMIO pfns as UC-, so that VFIO's VMAs need no VM_PAT.",
        REPLY_2, "holds",
        "The entry lives until the device is closed, and a VMA holds the file open: it outlives every mapping.",
        (*VFIO_NOW, *LOOKED_UP),
    ),
    Claim(
        "C000-23", "000",
        "remap_pfn_range in ->mmap is in the way of faulting: even if it is unmapped at once, a window remains.",
        REPLY_2, "holds",
        "What was remapped is there until it is unmapped: another thread reaches the device, memory being off. And the "
        "type is not reserved afterwards; from 6.16 on it is.",
        (
            *says(
                "pat/remap-then-zap/window", sometimes("access-after-disable"),
                "v6.10 +remap-then-zap", "v6.12 +remap-then-zap", "v6.16 +remap-then-zap",
            ),
            *says("pat/remap-then-zap/window", never, "v6.12"),
            *says("pat/remap-then-zap", always("not-reserved"), "v6.10 +remap-then-zap", "v6.12 +remap-then-zap"),
            *says("pat/remap-then-zap", never, "v6.16 +remap-then-zap"),
        ),
        design=("remap-then-zap",),
    ),
    Claim(
        "C000-24", "000",
        "->mmap may remap on the condition that memory is enabled, as a test branch does.",
        ANSWER_2, "fails",
        "The condition is looked at before the VMA is linked: a disable in between leaves the translations behind. And "
        "a disable beside munmap untracks a second time, which frees the entry of VFIO's own pci_iomap (to 6.15).",
        (
            *says(
                "pat/cond-remap/window", sometimes("stale-translation"), "v6.12 +cond-remap", "v6.16 +cond-remap",
            ),
            *says(
                "pat/cond-remap/disable",
                sometimes("lost-flags-update", "memtype-double-free", "memtype-steal", "untrack-walk-failed"),
                "v6.12 +cond-remap",
            ),
            *says("pat/cond-remap/disable", never, "v6.16 +cond-remap"),
        ),
        design=("cond-remap",),
        beside=says(
            "vfio/populate-in-mmap", sometimes("stale-translation"),
            "v6.10 +populate-in-mmap", "v6.12 +populate-in-mmap",
        ),
        correction="in thread 004 the branch's author grants that the gap would have been missed",
    ),
    Claim(
        "C000-25", "000",
        "In that branch, if memory is disabled at mmap, nothing reserves the memtype later.",
        REPLY_3, "holds",
        "That arm of it sets flags only, and the faults look up. They get UC-, from pci_iomap's entry: right for UC- "
        "and for nothing else.",
        says("pat/cond-remap", never, "v6.12 +cond-remap"),
        design=("cond-remap",),
        beside=says("pat/cond-remap", always("reserved-twice"), "v6.6", "v6.12 +manual-track"),
    ),
    Claim(
        "C000-26", "000",
        "One remap_pfn_range cannot reserve for all the ranges of a driver that switches what lies behind a mapping, "
        "as cxl_mmap_fault does.",
        REPLY_2, "holds",
        "A VMA has one range, reserved when it was remapped; what it maps later is reserved by nobody.",
        says("pat/dynamic-backend", always("untracked-live"), "v6.12", "v6.16"),
    ),
    Claim(
        "C000-27", "000",
        "There may be a way for a driver to reserve a memtype and set VM_PAT in its fault handler.",
        REPLY_2, "fails",
        "There is none: the flag needs mmap_lock for writing. From 6.16 there is no flag, but remapping the same VMA "
        "again is refused.",
        (
            *ASSERTED[:1],
            *says("pat/vfio-cycles", always("spurious-sigbus"), "v6.1 +pfnmap-track-ctx"),
        ),
        design=("pfnmap-track-ctx",),
    ),
    Claim(
        "C000-28", "000",
        "Whoever reserves, by ioremap, pci_iomap or track_pfn_remap, must ask for the same type, or is refused.",
        ANSWER_2, "depends",
        on="the two types, and who asks",
        because="Mostly one is given the type that is there: UC- over WC becomes WC, WC over UC- becomes UC-. Refused "
        "are UC-, WC and WT over WB, WT over WC; and fork, which insists.",
        settled_by=(
            *says("pat/second-owner", never, "v5.10", "v6.12", "v6.16"),
            *says("pat/strict-reserve", never, "v6.12"),
        ),
    ),
    Claim(
        "C000-29", "000",
        "ioremap and pci_iomap make a kernel mapping as well, which is there when they return.",
        ANSWER_2, "holds",
        "That is what they are for; the memtype is reserved on the way.",
        reason="the model has no kernel mappings of devices, only the memtype that they reserve",
    ),
    Claim(
        "C000-30", "000",
        "VFIO's ->mmap should call track_pfn_remap by itself: that says the VMA maps something special, and "
        "translations may come later.",
        ANSWER_2, "proposal",
        fate="not done; 6.16's tracking object is this design, without a call for drivers",
        because="It works if no zap untracks and if untracking does not read the page table. The patch of this thread "
        "gives the first, not the second.",
        settled_by=(
            *says(
                "pat/manual-track", always("memtype-leak", "untrack-walk-failed"),
                "v6.12 +manual-track", "v6.12 +untrack-in-unmap-vmas +manual-track",
            ),
            *says("pat/manual-track", never, "v6.16 +manual-track"),
        ),
        design=("manual-track",),
    ),
    Claim(
        "C000-31", "000",
        "The pfns to be mapped later may be others than those reserved in ->mmap.",
        REPLY_3, "holds",
        "The reservation of the VMA does not cover them then, and what untracks by the page table finds them instead.",
        (*says("pat/dynamic-backend", always("untracked-live"), "v6.12"), *OTHER_PFN),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-32", "000",
        "With this patch, what ->mmap tracked is untracked by itself when the VMA is unmapped.",
        ANSWER_2, "fails",
        "Only if the VMA's first page is mapped then. A VMA that was zapped, or never faulted, leaks.",
        (
            *EMPTY_AT_MUNMAP,
            *says(
                "pat/manual-track", always("memtype-leak", "untrack-walk-failed"),
                "v6.12 +untrack-in-unmap-vmas +manual-track",
            ),
            *says("pat/zap-refault-unmap", never, PATCHED),
        ),
        design=("manual-track", "untrack-in-unmap-vmas"),
    ),
    Claim(
        "C000-33", "000",
        "remap_pfn_range reserves pfn1; a zap keeps that, with the patch; a fault inserts pfn2; then munmap finds pfn2 "
        "and not pfn1.",
        REPLY_3, "holds",
        "pfn1 stays reserved for ever; for pfn2 something is freed that this VMA never had, or that is another's.",
        (*OTHER_PFN, *says("pat/refault-other-pfn", never, "v6.16")),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-34", "000",
        "While PFNMAPs can be faulted, PAT cannot rely on the page table to know the pfn at munmap.",
        ANSWER_2, "holds",
        "Read there, the pfn is missing after a zap and another one after a refault. 6.16 keeps pfn and size in an "
        "object beside the VMA.",
        (*EMPTY_AT_MUNMAP, *OTHER_PFN, *says("pat/zap-then-unmap", never, "v6.16")),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-35", "000",
        "The other pfns can be inserted with vmf_insert_pfn, which only looks the type up.",
        LATER, "holds",
        "It changes and reserves nothing. For a pfn that nobody reserved the lookup says UC-, without a word.",
        (*LOOKED_UP, *says("pat/dynamic-backend", always("untracked-live"), "v6.12")),
    ),
    Claim(
        "C000-36", "000",
        "munmap does not mind entries that are missing.",
        LATER, "holds",
        "The zap does not; a VMA whose pages were all zapped before is unmapped without a finding. (The untracking "
        "does mind, once it comes at munmap.)",
        says("pat/zap-then-unmap", never, "v6.12", "v6.16"),
    ),
    Claim(
        "C000-37", "000",
        "A VMA that was remapped to one set of pfns and then faulted to another has no way to reserve the second, nor "
        "to untrack both.",
        LATER, "holds",
        "One VMA, one range, in 6.16 as before.",
        (*says("pat/dynamic-backend", always("untracked-live"), "v6.12", "v6.16"), *OTHER_PFN),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-38", "000",
        "remap_pfn_range reserves only if it covers the whole VMA.",
        LATER, "holds",
        "Less than that reserves nothing, and takes the type that a lookup gives.",
        says("pfn/partial-remap", never, "v5.10", "v6.12", "v6.16"),
    ),
    Claim(
        "C000-39", "000",
        "mmap and tracking should become one: a VMA belongs to a fixed range of pfns, faulted as needed.",
        LATER, "proposal",
        fate="near to what 6.16 did for those who remap a whole VMA",
        because="With the reservation kept beside the VMA, no order of zap, fault and munmap leaks or loses it.",
        settled_by=(
            *says("pat/zap-refault-unmap", never, "v6.16", "v6.12 +pfnmap-track-ctx"),
            *says("pat/zap-then-unmap", never, "v6.16", "v6.12 +pfnmap-track-ctx"),
        ),
        design=("pfnmap-track-ctx",),
        beside=says("pat/manual-track", never, "v6.16 +manual-track"),
    ),
    Claim(
        "C000-40", "000",
        "Tearing a PFNMAP down by way of its file looks wrong, and might be forbidden.",
        LATER, "proposal",
        fate="not done: it is how VFIO revokes a BAR",
        because="Without a zap through the file a disable would leave translations in every mm.",
        settled_by=(
            *says("vfio/disable-everywhere", never, "v6.10", "v6.12"),
            *says("vfio/fault-vs-disable", never, "v6.12"),
        ),
    ),
    Claim(
        "C000-41", "000",
        "The report is about untracking without mmap_lock held; the patch only moves the assertion out of the way.",
        LATER, "depends",
        on="what the lock is for: the VMA, which i_mmap_rwsem keeps alive, or vm_flags, which it does not guard",
        because="6.10 asserts mmap_lock; 6.12 takes i_mmap_rwsem for enough, rightly as to the VMA's life. But the "
        "flag is cleared beside a writer who holds mmap_lock, and one write is lost; the patch ends that too.",
        correction="it was accepted in the thread that the lock of the reverse map keeps the VMA",
        settled_by=(
            *says("locks/untrack-walk", always("mmap_assert_locked"), "v6.10"),
            *says("locks/untrack-walk", never, "v6.10 +untrack-in-unmap-vmas", "v6.12"),
            *says("locks/rmap-zap-vs-munmap", never, "v6.10", "v6.12"),
            *says("locks/lost-flags-update", sometimes("lost-flags-update"), "v6.12"),
            *says("locks/lost-flags-update", never, PATCHED),
        ),
        design=("untrack-in-unmap-vmas",),
    ),
    Claim(
        "C000-42", "000",
        "unmap_vmas always runs with mmap_lock held for writing.",
        "2024-07-22", "fails",
        "exit_mmap holds it for reading, and so does munmap once it has downgraded: clearing VM_PAT there with the "
        "form that asserts warns.",
        (
            *says("locks/unmap-without-write-lock", always("flags-without-lock"), "v6.12 +untrack-asserts"),
            *says("locks/unmap-without-write-lock", never, "v6.12"),
        ),
        design=("untrack-asserts",),
    ),
    Claim(
        "C000-43", "000",
        "The report is fixed by taking mmap_lock round the untracking walk.",
        "2024-07-10, Message-ID 20240710-bug12-v1-1-0e5440f9b8d3 (domain not known)", "fails",
        "The walk comes under i_mmap_rwsem, which mmap and munmap take inside mmap_lock: a deadlock. From munmap it "
        "waits for itself. The fix was dropped.",
        says(
            "locks/untrack-takes-mmap-lock",
            sometimes("deadlock i_mmap_rwsem / mmap_lock", "inversion i_mmap_rwsem -> mmap_lock -> i_mmap_rwsem"),
            "v6.10 +untrack-under-mmap-lock",
        ),
        design=("untrack-under-mmap-lock",),
    ),
)  # fmt: skip
