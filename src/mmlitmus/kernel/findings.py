"""Every finding by name: its kind, and one sentence. And every mark that the model makes for a case's ``reach``.

A name that is not here is refused where a case asks for it (``checker/names.py``), and a test fails for a name that the
package can report and that is not here, or the other way round: **whoever adds a finding adds one line here.**

``{...}`` in a name stands for what varies. ``docs/names.md`` is made of this (``python -m mmlitmus.report.names``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Name:
    """A finding that can come up."""

    kind: str
    name: str
    says: str

    def matches(self, word: str) -> bool:
        """Is ``word`` this name, or one that it stands for?"""
        return word == self.name if "{" not in self.name else pattern(self.name).fullmatch(word) is not None


@cache
def pattern(name: str) -> re.Pattern[str]:
    """What a name with ``{...}`` stands for."""
    return re.compile(".+".join(map(re.escape, re.split(r"\{[^{}]*\}", name))), re.DOTALL)


#: what a kind is, and whether a kernel complains of it by itself. Of these a case can never be without: ``asks``
#: narrows the others only (docs/soundness.md).
KINDS: dict[str, tuple[str, bool]] = {
    "BUG": ("the kernel stops the task where it stands: BUG_ON, an oops, lockdep's bad unlock balance", True),
    "WARN": ("the kernel warns and goes on: WARN_ON and its relatives", True),
    "sleep-in-atomic": ("a task sleeps, or may, where it must not: might_sleep and schedule say so", True),
    "held-at-end": ("a task ends with a lock held or interrupts off: lockdep says so", True),
    "printk": ("a line of the kernel's log that is no warning", False),
    "invariant": ("something that must hold does not: the model's invariants, and what a case requires", False),
    "use-after-free": ("memory is touched, or freed again, after it was freed; KASAN says so", True),
    "precondition": ("a field is touched without the lock that its declaration names; no kernel says so", False),
    "deadlock": ("tasks wait for each other for ever", True),
    "livelock": ("a loop that need not end though every task gets its turns", True),
    "unfair-loop": (
        "a loop that only an unfair scheduler stays in: no defect, counts only where it is asked for",
        False,
    ),
    "inversion": ("locks are taken in orders that make a ring; lockdep says so, reached or not", True),
    "race": ("a data race, as KCSAN would find it", False),
    "never-ends": ("a task computes without an end and without a scheduling point", True),
    "raised": ("a task ends with a Python exception: a fault of the case or of the model", True),
    "not-modelled": ("a task asks for what the model has not got; nothing is known of what comes after it", True),
}

FINDINGS: tuple[Name, ...] = (
    # -- the search (explore/) ---------------------------------------------------------------------------------------
    Name("BUG", "bad unlock balance", "a lock is given back by who does not hold it"),
    Name("BUG", "folio not locked", "a folio is unlocked that is not locked"),
    Name("WARN", "IPI sent with IRQs disabled", "a CPU asks others to do something, and cannot answer itself"),
    Name("WARN", "raw_local_irq_restore() called with IRQs enabled", "interrupts are turned on that were not off"),
    Name(
        "sleep-in-atomic", "Voluntary context switch within RCU read-side critical section", "schedule in an RCU reader"
    ),
    Name("sleep-in-atomic", "do not call blocking ops when !TASK_RUNNING", "a task sleeps that is queued to wait"),
    Name("sleep-in-atomic", "scheduling while atomic", "schedule with a spinlock held or interrupts off"),
    Name("sleep-in-atomic", "sleeping function called from invalid context", "a call that may sleep in atomic context"),
    Name("held-at-end", "lock held when returning to user space", "a task ends with a lock held"),
    Name("held-at-end", "syscall left IRQs disabled", "a task ends with interrupts off"),
    Name("deadlock", "deadlock {lock classes}", "tasks wait for each other for ever, for locks of these classes"),
    Name("inversion", "inversion {lock classes}", "locks of these classes are taken in a ring"),
    Name("livelock", "hard livelock of {task}", "there is no way out of the loop"),
    Name("livelock", "fair livelock of {task}", "a fair scheduler may stay in the loop for ever"),
    Name("unfair-loop", "unfair-only loop of {task}", "only an unfair scheduler stays in the loop"),
    Name("never-ends", "never-ends", "a task computes without an end"),
    Name("raised", "raised {exception}", "a task ends with a Python exception"),
    Name("not-modelled", "not modelled: {what}", "the model has no such call, flag, hook or memory"),
    Name("race", "race on {field}", "two accesses that nothing orders, one of them a write and one plain"),
    Name("precondition", "{field} read without {lock}", "a field is read without the lock that guards it"),
    Name("precondition", "{field} written without {lock}", "a field is written without the lock that guards it"),
    Name("use-after-free", "double free", "an object is freed again"),
    Name("use-after-free", "use-after-free {class}", "an object is touched after it was freed"),
    # -- arch/x86/ ---------------------------------------------------------------------------------------------------
    Name("BUG", "iounmap-twice", "iounmap of a mapping that somebody else has removed meanwhile"),
    Name("BUG", "no-struct-page", "the page flags of a frame are looked at that has no struct page"),
    Name("WARN", "io-spans-resources", "a reservation of more than one BAR"),
    Name("WARN", "ioremap-invalid-address", "ioremap of an address that no bus has"),
    Name("WARN", "ioremap-on-ram", "ioremap of RAM"),
    Name("WARN", "memtype-reserve-empty-range", "memtype_reserve of an empty range"),
    Name("WARN", "ram-strong-uc", "strong UC is asked for RAM"),
    Name("printk", "conflicting-memory-types", "memtype_reserve refuses a type beside another"),
    Name("printk", "expected-mapping-type", "a mapping is refused because its frames have another type"),
    Name("printk", "freeing-invalid-memtype", "memtype_free finds no entry of these bounds"),
    Name("printk", "ioremap-change-attr-failed", "ioremap cannot change the direct map's type"),
    Name("printk", "ioremap-invalid-address", "ioremap of an address that no bus has"),
    Name("printk", "ioremap-multiple-bars", "ioremap of more than one BAR"),
    Name("printk", "ioremap-reserve-failed", "ioremap cannot reserve its range"),
    Name("printk", "ioremap-wrong-type", "ioremap gets a type that will not do"),
    Name("printk", "iounmap-bad-address", "iounmap of what is not mapped"),
    Name("printk", "ram-type-changed", "a mapping of RAM gets the type that the page has"),
    Name("printk", "reserve-ram-failed", "a page of RAM has another type already"),
    Name("invariant", "memtype-double-free", "a reservation is freed by who has none, or has given it back"),
    Name("invariant", "memtype-steal", "a free takes an entry of the memtype database that is another's"),
    # -- mm/ and the machine -----------------------------------------------------------------------------------------
    Name("BUG", "bad-page-map", "an entry is found that no entry of such a VMA can be: Bad page map"),
    Name("BUG", "corrupted-page-table", "the CPU meets a leaf with reserved bits set: Corrupted page table"),
    Name("BUG", "fault-without-page", "->fault says that it has a page, and has none"),
    Name("BUG", "insert-page-read-locked", "vm_insert_page would set VM_MIXEDMAP without mmap_lock for writing"),
    Name("BUG", "walk-through-leaf", "a huge leaf is taken for a table, and what it maps is read as entries"),
    Name("BUG", "fast-gup-no-page", "fast GUP looks for the struct page of a frame that has none"),
    Name("BUG", "insert-mixed-vma-type", "vmf_insert_mixed into a VMA that is no MIXEDMAP"),
    Name("BUG", "insert-page-pfnmap", "vm_insert_page into a PFNMAP"),
    Name("BUG", "insert-pfn-cow", "a frame is inserted into a private writable PFNMAP"),
    Name("BUG", "insert-pfn-valid-mixed", "vmf_insert_pfn of a frame with a page into a MIXEDMAP"),
    Name("BUG", "insert-pfn-vma-type", "a frame is inserted into a VMA that is not one of PFNMAP and MIXEDMAP"),
    Name("BUG", "page-freed-mapped", "a page is freed that entries still map"),
    Name("BUG", "remap-empty-range", "remap_pfn_range of an empty range"),
    Name("BUG", "remap-over-populated", "remap_pfn_range finds an entry that is populated"),
    Name("BUG", "unfilled-slot", "a page is given back from a slot that GUP never filled"),
    Name("BUG", "zap-past-the-end", "the zap of a remap_pfn_range that failed runs past its end"),
    Name("WARN", "flags-without-lock", "vm_flags are written without mmap_lock held for writing"),
    Name("WARN", "gup-flags", "pages are asked for with flags that do not go together"),
    Name("WARN", "insert-other-leaf", "a huge leaf is inserted where another frame's is"),
    Name("WARN", "mmap_assert_locked", "mmap_lock is not held where the kernel asserts that it is"),
    Name("WARN", "reference-to-a-free-page", "a first reference is taken to a page that is free"),
    Name("WARN", "remap-unaligned", "remap_pfn_range at an address that is no page's beginning"),
    Name("WARN", "untrack-walk-failed", "untrack_pfn looks for the frames by the first page, which is not mapped"),
    Name("invariant", "access-after-disable", "an access reaches a device that is off"),
    Name("invariant", "access-to-nowhere", "an access reaches a frame that nobody decodes"),
    Name("invariant", "unaligned-leaf", "a huge leaf maps frames that do not begin where a leaf can"),
    Name("printk", "bad-pud", "a 1G leaf is found where a table should be, and cleared"),
    Name("printk", "oom-leaked", "VM_FAULT_OOM comes back to a fault of a user's access"),
    Name("invariant", "lost-flags-update", "vm_flags are written from a value that another has changed since"),
    Name("invariant", "mm-struct-leak", "an mm_struct is held more often than it is given back"),
    Name("invariant", "populated-table-freed", "a PTE table is freed that still maps pages"),
    Name("invariant", "reference-stolen", "a reference to a page is given back by who has none"),
    Name("invariant", "unused-swap-slot", "a swap slot is given back that nobody uses"),
    Name("precondition", "lasting flag changed", "a bit of vm_flags is changed that others rely on by now"),
    Name("use-after-free", "free-page-locked", "a page is locked that is free"),
    # -- invariants/ -------------------------------------------------------------------------------------------------
    Name("invariant", "cpu-and-device", "a page is mapped that a device has for itself"),
    Name("invariant", "entry-under-leaf", "a table or an entry is left under a huge leaf"),
    Name("invariant", "isolated-for-ever", "a page is left off its LRU list"),
    Name("invariant", "locked-for-ever", "a page is left locked"),
    Name("invariant", "mapcount-imbalance", "a page's mapcount is not the number of entries that map it"),
    Name("invariant", "memtype-alias", "a frame is mapped with another memory type than it has, or with two"),
    Name("invariant", "memtype-leak", "a reservation is left that nobody will free"),
    Name("invariant", "page-table-reference-leak", "page tables hold a page more or less often than they map it"),
    Name("invariant", "pin-diverged", "a process sees another page than the one that is pinned for it"),
    Name("invariant", "pin-leak", "a page keeps references of a pin that has ended"),
    Name("invariant", "refcount-imbalance", "a page's count is not what its holders hold"),
    Name("invariant", "stale-device-mapping", "a device has a page for an address that maps another"),
    Name("invariant", "stale-translation", "a page table or a TLB leads to a device that is off"),
    Name("invariant", "swap-cache-imbalance", "the swap cache and a page do not agree about its slot"),
    Name("invariant", "swap-count-imbalance", "a swap slot's count is not the number of its entries"),
    Name("invariant", "untracked-live", "a frame is mapped, and the reservation that it was made with is gone"),
)

#: what the model says was reached
MARKS: tuple[str, ...] = (
    "{task} got through",
    "{task} gave up",
    "{task} got SIGBUS",
    "{task} got SIGSEGV",
    "{device} answers",
    "{device} is off",
    "->page_mkwrite was asked about a page without a mapping, and asked again",
    "a 1G leaf came in between",
    "a VMA was filled on enable",
    "a device has a page for itself",
    "a device's page was restored",
    "a fault waited for a migration",
    "a fault waited for a page's lock",
    "a page came back from swap",
    "a page could not be isolated",
    "a page had been replaced, and was looked for again",
    "a page stayed in the swap cache",
    "a page was freed",
    "a page was locked, and not given",
    "a page was migrated",
    "a page was not given",
    "a page was paged out",
    "a page was read from swap",
    "a page was unshared",
    "a private page was copied",
    "a private page was written in place",
    "a slot was left unfilled",
    "a frame was read before it was copied",
    "an access gave up",
    "device memory was copied",
    "device memory was mapped by its frame number",
    "fast GUP gave its pins back",
    "fast GUP saw the entry change",
    "fork copied a pinned page",
    "hot reset was busy",
    "hot reset went through",
    "huge leaf inserted",
    "memory found disabled",
    "memory found enabled",
    "no PTE table where a huge leaf is",
    "reclaim could not unmap a page",
    "reclaim left a pinned page",
    "reclaim met a pin",
    "the VMA was gone",
    "the VMA was on the list already",
    "the VMA was tracked already",
    "the fault was spurious",
    "the entry has changed while ->page_mkwrite was asked",
    "the first page was copied",
    "the frames were found by vm_pgoff",
    "the zero page was mapped",
    "unsharing did nothing",
    "vmf_insert_pfn found the PTE populated",
    "what was to be copied has gone",
)


def known(word: str) -> Name | None:
    """The declaration of a finding's name."""
    exact = next((one for one in FINDINGS if one.name == word), None)
    return exact or next((one for one in FINDINGS if one.matches(word)), None)


def never_ignored(word: str) -> bool:
    """Is it a finding after which nothing is known of the execution, so that no case can do without it?"""
    found = known(word)
    return found is not None and found.kind in ("never-ends", "raised", "not-modelled")


def complains(kind: str) -> bool:
    """Does a kernel complain of such a finding by itself? A kind that nobody has described here counts always."""
    return KINDS.get(kind, ("", True))[1]
