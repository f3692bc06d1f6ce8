"""Thread 004: "vfio/pci: take mmap write lock for io_remap_pfn_range", May 2023, taken up again in May 2024.

What it was about was settled in 6.10: VFIO inserts page by page with vmf_insert_pfn, and revokes with
unmap_mapping_range.
"""

from __future__ import annotations

from mmlitmus.api import always, never, sometimes

from .claim import Claim, says

PATCH = "2023-05-08"
REPLY = "2023, a reply to the patch; date not known"
MAIL = "2024-05-22 14:31 EST"
QUOTED = "2024-05-22 11:50 -0600"
LATER = "same thread, date not known"

OLD_HANDLER = "v6.10 +revert-unmap-mapping-range"
ASSERTED = says("vfio/remap-in-fault", always("flags-without-lock"), "v6.6 lockdep", OLD_HANDLER)
POSTED = "+remap-on-enable-as-posted"
#: page tables are allocated under the lock that reclaim takes
INVERSION = "inversion fs_reclaim -> i_mmap_rwsem -> fs_reclaim"
AS_POSTED_DISABLE = (
    *says(
        "vfio/remap-on-enable-as-posted/disable",
        sometimes(INVERSION, "mmap_assert_locked", "stale-translation", "untrack-walk-failed"), "v6.10 " + POSTED,
    ),
    *says(
        "vfio/remap-on-enable-as-posted/disable", sometimes(INVERSION, "stale-translation", "untrack-walk-failed"),
        "v6.12 " + POSTED,
    ),
)
WALK = says("vfio/remap-on-enable", never, "v6.10 +remap-on-enable", "v6.12 +remap-on-enable")

THREAD_004 = (
    Claim(
        "C004-01", "004",
        "When VFIO type1 pins MMIO, it faults the page in through fixup_user_fault, and vm_flags_set is called with "
        "mmap_lock held for reading.",
        PATCH, "holds",
        "No touch from user space is needed: pinning warns as a touch does.",
        says(
            "vfio/remap-in-fault/pin", always("flags-without-lock"),
            "v6.6 lockdep", OLD_HANDLER,
        ),
        design=("revert-unmap-mapping-range",),
    ),
    Claim(
        "C004-02", "004",
        "It is fixed by exchanging mmap_lock for reading against mmap_lock for writing inside the handler.",
        PATCH, "fails",
        "In the gap another thread may unmap the VMA, and the handler goes on to use it. Looking it up again would do. "
        "The patch was rejected.",
        says("vfio/write-lock-in-fault", sometimes("use-after-free VmArea"), "v6.6 +write-lock-in-fault lockdep"),
        design=("write-lock-in-fault",),
        beside=says("vfio/write-lock-in-fault", never, "v6.6 +write-lock-in-fault-revalidate lockdep"),
    ),
    Claim(
        "C004-03", "004",
        "The flags could be set in advance, in ->mmap.",
        REPLY, "fails",
        "VFIO does that, and warns all the same: remap_pfn_range sets its flags whether they are set or not.",
        ASSERTED,
        design=("revert-unmap-mapping-range",),
    ),
    Claim(
        "C004-04", "004",
        "They are set in advance already; the problem is VM_PAT.",
        REPLY, "depends",
        on="which problem: VM_PAT cannot be set in advance, but the flags that can be are written again, and it is the "
        "write that asserts the lock",
        because="6.16 has no VM_PAT any more, and VFIO's old handler would warn there as well.",
        settled_by=(
            *ASSERTED,
            *says(
                "vfio/remap-in-fault",
                always("flags-without-lock", "pfnmap_track_ctx written without mmap_lock"),
                "v6.16 +revert-unmap-mapping-range",
            ),
        ),
        design=("revert-unmap-mapping-range",),
    ),
    Claim(
        "C004-05", "004",
        "vmf_insert_pfn for the faulting page works, at the price of more faults and of latency.",
        REPLY, "holds",
        "6.12 inserts no more than the faulting leaf, and every disable finds it. One fault a leaf follows; how long "
        "that takes, no model of interleavings says.",
        (*says("vfio/fault-vs-disable", never, "v6.12"), *says("vfio/remap-in-fault", never, "v6.12 lockdep")),
    ),
    Claim(
        "C004-06", "004",
        "A loop of vmf_insert_pfn over the whole VMA in the handler is a little slower, and lockdep does not mind it.",
        REPLY, "holds",
        "It writes no flags, leaves a filled entry alone, and is safe under mmap_lock for reading. It is the basis of "
        "6.10's handler. (Time is not modelled.)",
        (*says("vfio/fault-vs-disable", never, "v6.6 +insert-loop"), *says("vfio/remap-in-fault", never, "v6.10")),
        design=("insert-loop",),
    ),
    Claim(
        "C004-07", "004",
        "The fault handler came about because filling entries raced with zapping them.",
        REPLY, "holds",
        "It is memory_lock that settles the race: held for reading across check and insertion, for writing across zap "
        "and disable. 5.8's handler left a gap between its two locks.",
        (
            *says(
                "vfio/fault-vs-disable",
                sometimes("access-after-disable", "stale-translation", "untrack-walk-failed"), "v5.10",
            ),
            *says("vfio/fault-vs-disable", never, "v5.10 +handle-concurrent-faults", "v6.12"),
            *says("vfio/fault-vs-disable/enable", never, "v6.12"),
            *says("vfio/disable-everywhere", never, "v6.12"),
        ),
        design=("handle-concurrent-faults",),
    ),
    Claim(
        "C004-08", "004",
        "VFIO may have to live with the cost of vmf_insert_pfn until PMDs and PUDs can be PFNMAPs.",
        QUOTED, "proposal",
        fate="so it went: vmf_insert_pfn in 6.10, huge_fault in 6.12",
        because="Both handlers hold against a disable, pages and leaves.",
        settled_by=(
            *says("vfio/fault-vs-disable", never, "v6.10"),
            *says("vfio/huge-fault", never, "v6.12"),
            *says("vfio/huge-fault/munmap", never, "v6.12"),
        ),
    ),
    Claim(
        "C004-09", "004",
        "A zap takes VM_PAT and the memtype entry away; that looks wrong, for what would bring them back?",
        LATER, "depends",
        on="the driver: in VFIO up to 6.9 the next fault brings them back, elsewhere nothing does",
        because="VFIO's cycles of fault and disable were balanced. A VMA that was remapped in ->mmap loses its "
        "reservation for good.",
        settled_by=(
            *says("pat/vfio-cycles", never, "v6.1"),
            *says("pat/zap-one-page", always("untracked-live"), "v6.12"),
            *says("pat/zap-refault-unmap", always("untracked-live"), "v6.12"),
        ),
    ),
    Claim(
        "C004-10", "004",
        "VFIO's would be the first zap of a PFNMAP other than munmap.",
        LATER, "fails",
        "Drivers that call zap_vma_ptes, the revocation of /dev/mem and graphics drivers did so before.",
        reason="who calls a function is read in source; no execution counts callers",
    ),
    Claim(
        "C004-11", "004",
        "The PAT bit of a huge leaf is another than that of a page's entry.",
        LATER, "holds",
        "6.12 makes a leaf of a page's protection without moving the bit: WP becomes WC. WB, WC, UC- and UC do not use "
        "it, so VFIO's leaves are right.",
        (
            *says("pat/huge-leaf-type", always("wrong-type"), "v6.12"),
            *says("pat/huge-leaf-type", never, "v6.12 +pat-large-shift"),
            *says("vfio/huge-fault", never, "v6.12"),
        ),
        design=("pat-large-shift",),
    ),
    Claim(
        "C004-12", "004",
        "Ideally there is no fault handler: on enable VFIO walks the VMAs and remaps, on disable it calls "
        "unmap_mapping_range, and a fault is SIGBUS.",
        MAIL, "proposal",
        fate="not pursued; VFIO keeps its fault handler",
        because="It can be done: with a user of each mm, a second look at memory, and no memory_lock held while it "
        "waits. What the loop as posted does instead is at C004-15 and C004-17.",
        settled_by=(*WALK, *says("vfio/remap-on-enable/disable", never, "v6.12 +remap-on-enable")),
        design=("remap-on-enable",),
    ),
    Claim(
        "C004-13", "004",
        "All of this is synchronous.",
        MAIL, "depends",
        on="whether the walk looks at memory again, under memory_lock, before it fills a VMA",
        because="The loop as posted does not look again: a disable beside it leaves translations to a device that is "
        "off. Where it looks, an enable that has returned has filled every VMA, and a disable beside it is safe.",
        settled_by=AS_POSTED_DISABLE,
        design=("remap-on-enable-as-posted",),
        beside=(
            *WALK,
            *says("vfio/remap-on-enable/disable", never, "v6.12 +remap-on-enable"),
            *says(
                "vfio/remap-on-enable/disable", sometimes("stale-translation"), "v6.12 +remap-on-enable-no-revalidate"
            ),
        ),
    ),
    Claim(
        "C004-14", "004",
        "Taking away is easy, with unmap_mapping_range; for filling again there is no helper.",
        MAIL, "holds",
        "There was none, and there is none now.",
        reason="that a function does not exist is read in source, and not run",
    ),
    Claim(
        "C004-15", "004",
        "A loop does it: under i_mmap_rwsem pick a VMA that is not filled and mmgrab its mm; take mmap_lock for "
        "writing; under i_mmap_rwsem remap every VMA of that mm.",
        MAIL, "fails",
        "For one mapping and nobody else it does; even then remap allocates under i_mmap_rwsem, which reclaim takes. "
        "Every further VMA leaks a reference to the mm's struct, and one that is filled already is a BUG. mmgrab does "
        "not hold off exit_mmap: a dying mm is filled after it was emptied. A disable beside it leaves translations to "
        "a device that is off; from 6.16 on the loop does then not end, for a VMA that was remapped once is refused.",
        (
            *says("vfio/remap-on-enable-as-posted", sometimes(INVERSION), "v6.10 " + POSTED, "v6.12 " + POSTED),
            *says(
                "vfio/remap-on-enable-as-posted/two", sometimes(INVERSION) & always("mm-struct-leak"),
                "v6.10 " + POSTED, "v6.12 " + POSTED,
            ),
            *says(
                "vfio/remap-on-enable-as-posted/beside-mmap",
                sometimes(INVERSION, "mm-struct-leak", "remap-over-populated"), "v6.10 " + POSTED, "v6.12 " + POSTED,
            ),
            *AS_POSTED_DISABLE,
            *says(
                "vfio/remap-on-enable-as-posted/exit", sometimes(INVERSION, "memtype-leak", "populated-table-freed"),
                "v6.10 " + POSTED, "v6.12 " + POSTED,
            ),
        ),
        design=("remap-on-enable-as-posted",),
        beside=(
            *says("vfio/remap-on-enable/exit", sometimes("populated-table-freed"), "v6.12 +remap-on-enable-mmgrab"),
            *says("vfio/remap-on-enable/exit", sometimes(INVERSION), "v6.12 +remap-on-enable-under-i_mmap"),
            *says(
                "vfio/remap-on-enable/partial", sometimes("remap-over-populated", "untrack-walk-failed"),
                "v6.12 +remap-on-enable-no-check",
            ),
            *says("vfio/remap-on-enable/exit", never, "v6.12 +remap-on-enable"),
            *says("vfio/remap-on-enable/lock-order", never, "v6.12 +remap-on-enable"),
        ),
    ),
    Claim(
        "C004-16", "004",
        "remap_pfn_range needs mmap_lock held for writing.",
        MAIL, "holds",
        "It writes vm_flags. Before 6.3 the same write was wrong and nobody said so.",
        (*ASSERTED, *says("vfio/remap-in-fault", never, "v6.1")),
        design=("revert-unmap-mapping-range",),
    ),
    Claim(
        "C004-17", "004",
        "Whether a VMA is filled can be told from its page 0.",
        MAIL, "depends",
        on="whether a VMA is always filled as a whole: not before remap_pfn_range took back what it had mapped when it "
        "fails (6.11)",
        because="On the kernel of the mail a walk that runs out of memory half way has filled page 0 and not the rest. "
        "The next walk takes the VMA for filled, and a touch of the rest gets SIGBUS.",
        settled_by=(
            *says(
                "vfio/remap-on-enable-as-posted/partial", sometimes(INVERSION, "sigbus-while-enabled"),
                "v6.10 " + POSTED,
            ),
            *says(
                "vfio/remap-on-enable-as-posted/partial", sometimes(INVERSION, "untrack-walk-failed"), "v6.12 " + POSTED
            ),
        ),
        design=("remap-on-enable-as-posted",),
        beside=(
            *says("vfio/remap-on-enable/partial", sometimes("sigbus-while-enabled"), "v6.10 +remap-on-enable-page0"),
            *says("vfio/remap-on-enable/partial", sometimes("untrack-walk-failed"), "v6.12 +remap-on-enable-page0"),
            *says("vfio/remap-on-enable/partial", never, "v6.12 +remap-on-enable"),
        ),
    ),
    Claim(
        "C004-18", "004",
        "If ->mmap remaps there is a race: mmap_region calls it before vma_link_file, and in between "
        "unmap_mapping_range does not see the VMA.",
        MAIL, "holds",
        "A disable that falls there leaves the translations behind, on every release that revokes so.",
        says(
            "vfio/populate-in-mmap", sometimes("stale-translation"),
            "v6.10 +populate-in-mmap", "v6.12 +populate-in-mmap", "v6.16 +populate-in-mmap", "v7.3 +populate-in-mmap",
        ),
        design=("populate-in-mmap",),
    ),
    Claim(
        "C004-19", "004",
        "So either a file operation is called after vma_link_file to fill, or filling is left to the fault handler "
        "alone.",
        MAIL, "proposal",
        fate="VFIO relies on its fault handler; hooks that run after the link came in 6.18, and VFIO does not use them",
        because="Both are safe. The hook is so only if it looks at memory and fills in one memory_lock section; "
        "looking earlier, in ->mmap, is not enough.",
        settled_by=says("vfio/populate-in-mmap", never, "v6.12", "v6.12 +populate-after-link"),
        design=("populate-after-link",),
        beside=says(
            "vfio/populate-in-mmap", sometimes("stale-translation"), "v6.12 +populate-after-link-check-early"
        ),
    ),
    Claim(
        "C004-20", "004",
        "If user space races with this, the fault handler should give SIGBUS.",
        MAIL, "holds",
        "In that design every fault gets SIGBUS, and who touches a mapping meanwhile gets that or the device, never "
        "one that is off. So it is in the designs that fault: one that finds memory disabled gets SIGBUS.",
        says("vfio/remap-on-enable-as-posted/touch", sometimes(INVERSION), "v6.10 " + POSTED, "v6.12 " + POSTED),
        design=("remap-on-enable-as-posted",),
        beside=(
            *says("vfio/remap-on-enable-as-posted/touch", never, "v6.12 +remap-on-enable"),
            *says("vfio/fault-vs-disable", never, "v6.10", "v6.12"),
            *says("vfio/fault-vs-disable/enable", never, "v6.12"),
        ),
    ),
    Claim(
        "C004-21", "004",
        "To fault as needed is simpler; a walk must keep track of which VMAs are filled.",
        LATER, "undecided",
        "That a walk must know what is filled is seen at C004-15 and C004-17.",
        why="which of two designs is the simpler one, no execution says",
    ),
    Claim(
        "C004-22", "004",
        "The list of VMAs held those used since the last zap; a synchronous design must know of all of them, and take "
        "every mm's mmap_lock.",
        LATER, "holds",
        "The list missed a VMA that was used without a fault, as a moved one is. The walk finds all through the "
        "reverse map, and takes each mmap_lock.",
        (
            *says(
                "vfio/mremap-then-disable",
                always("access-after-disable", "stale-translation", "untrack-walk-failed"), "v6.1", "v6.9",
            ),
            *says("vfio/mremap-then-disable", never, "v6.10"),
            *WALK,
        ),
        design=("remap-on-enable",),
    ),
    Claim(
        "C004-23", "004",
        "By now the warning is seen without lockdep.",
        QUOTED, "holds",
        "From 6.10 (ba168b52bf8e) the assertion is in every build; up to 6.9 lockdep was needed.",
        (
            *says("vfio/remap-in-fault", always("flags-without-lock"), OLD_HANDLER),
            *says("vfio/remap-in-fault", always("flags-without-lock"), "v6.9 lockdep"),
            *says("vfio/remap-in-fault", never, "v6.9"),
        ),
        design=("revert-unmap-mapping-range",),
    ),
    Claim(
        "C004-24", "004",
        "The change that defers linking in fork broke VFIO: ->open zaps before the page tables are copied.",
        LATER, "holds",
        "The child has translations that no list names, and keeps them when memory is disabled. 6.10's revocation "
        "does not need the list.",
        (
            *says(
                "fork/fork-then-disable",
                always("access-after-disable", "stale-translation", "untrack-walk-failed"),
                "v6.1 +fork-defer-link", "v6.9",
            ),
            *says("fork/fork-then-disable", always("access-after-disable", "stale-translation"), "deb-6.1.192"),
            *says("fork/fork-then-disable", never, "v6.1", "v6.10", "deb-6.1.192 +unmap-mapping-range"),
        ),
        design=("fork-defer-link", "unmap-mapping-range"),
    ),
)  # fmt: skip
