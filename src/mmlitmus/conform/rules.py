"""What generated programs leave out, each by a rule with a name: it would end the guest (``KILLS``), or the model says
nothing about it (``UNMODELLED``, ``OF_PAGES``). Everything else may come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .schema import (
    HUGE_INSERTS,
    MORE_ADVICE,
    PAGE_INSERTS,
    Advise,
    Clear,
    Dev,
    Dma,
    Fork,
    Limit,
    Lockall,
    Map,
    Pin,
    Probe,
    Protect,
    Remap,
    Step,
    Switch,
    Touch,
    Transfer,
    Unlockall,
    Unpin,
)
from .world import BLOCK, HUGE_PAGES, PAGES, World

#: madvise and mlock of anonymous memory that do nothing to pages or answer by what pages there are
PLAIN_ADVICE = (
    "normal", "random", "sequential", "willneed", "dontneed", "dontfork", "dofork", "dontdump", "dodump",
)  # fmt: skip
#: advice about pages that the kernel counts, which does something to them in its own time
RECLAIMS = ("free", "cold", "pageout", "mergeable", "hugepage", "wipeonfork")


@dataclass(frozen=True)
class Rule:
    """Why a step is never generated: ``applies(world, step)`` where the world is as it is before the step."""

    name: str
    why: str
    applies: Callable[[World, Step], bool]


def _over_entries(world: World, step: Step) -> bool:
    """A fault that maps a whole mapping again may come after part of it was zapped."""
    filled = {kind.insert for kind in world.everywhere()}
    if isinstance(step, Probe):
        return "remap_fault" in filled
    return isinstance(step, Map) and step.insert == "remap_fault" and step.backing == "pfnmap" and bool(filled)


def _touches_anonymous(world: World, step: Step) -> bool:
    if isinstance(step, Touch):
        return world.anonymous(step.slot, step.page, 1)
    if isinstance(step, Advise):
        return step.advice not in (*PLAIN_ADVICE, "unlock") and world.anonymous(step.slot, step.page, step.pages)
    return isinstance(step, Map) and step.backing == "anonymous" and "locked" in step.flags


def _populates_mixed(world: World, step: Step) -> bool:
    if isinstance(step, Map):
        return step.insert == "mixed" and "locked" in step.flags
    if not isinstance(step, Advise) or step.advice not in ("lock", "populate_read", "populate_write"):
        return False
    return any(kind.insert == "mixed" for kind in world.kinds(step.slot, step.page, step.pages))


def _grows(world: World, step: Step) -> bool:
    if not isinstance(step, Remap):
        return False
    return world.anonymous(step.slot, step.page, max(step.pages, 1))


def _expands_mixed(world: World, step: Step) -> bool:
    if not isinstance(step, Remap) or (step.to is not None and "dontunmap" not in step.flags):
        return False
    grows = step.new_pages > step.pages or "dontunmap" in step.flags
    return grows and any(
        kind.insert in ("mixed", *PAGE_INSERTS) for kind in world.kinds(step.slot, step.page, max(step.pages, 1))
    )


def _hint(world: World, step: Step) -> bool:
    if not isinstance(step, Map) or {"fixed", "fixed_noreplace"} & set(step.flags):
        return False
    return (world.current, step.slot) in world.used


def _nowhere(world: World, step: Step) -> bool:
    if not isinstance(step, Remap):
        return False
    if "dontunmap" in step.flags and step.to is None:
        return True
    return ("fixed" in step.flags) != (step.to is not None)


def _fills_no_slot(world: World, step: Step) -> bool:
    if isinstance(step, Transfer) and not step.kind.startswith("process_vm"):
        return False
    if not isinstance(step, Transfer | Dma) or step.slot is None:
        return False
    process = step.process if isinstance(step, Transfer) else None
    return any(kind.insert == "mixed" for kind in world.kinds(step.slot, step.page, step.pages, process))


def _beyond_mappings(world: World, step: Step) -> bool:
    if isinstance(step, Map):
        return step.backing not in ("bar", "anonymous", "pfnmap") or step.insert in PAGE_INSERTS
    return isinstance(step, Pin | Unpin | Transfer | Dma | Clear | Limit)


def _beyond_plain(world: World, step: Step) -> bool:
    if isinstance(step, Map):
        return step.insert in HUGE_INSERTS or "populate" in step.flags
    if isinstance(step, Advise):
        return step.advice in MORE_ADVICE or step.advice == "lock_onfault"
    return isinstance(step, Lockall | Unlockall) or (isinstance(step, Probe) and step.call != "unmap_mapping_range")


def _gets_a_leaf(world: World, step: Step) -> bool:
    if isinstance(step, Pin | Transfer):
        process = step.process
    elif isinstance(step, Dma) and step.slot is not None:
        process = None
    else:
        return False
    assert step.slot is not None
    return any(kind.insert in HUGE_INSERTS for kind in world.kinds(step.slot, step.page, step.pages, process))


def _huge_memory(world: World, step: Step) -> bool:
    if isinstance(step, Map):
        if step.backing != "anonymous":
            return False
        first, end = step.page, step.page + step.pages
    elif isinstance(step, Remap) and world.anonymous(step.slot, step.page, max(step.pages, 1)):
        first = step.page if step.to is None else 0
        end = first + step.new_pages
    else:
        return False
    return -(-first // BLOCK) < end // BLOCK


def _joins(world: World, step: Step) -> bool:
    if not isinstance(step, Map) or step.backing != "anonymous":
        return False
    return any(world.anonymous(step.slot, page, 1) for page in (step.page - 1, step.page + step.pages))


def _of_a_file(step: Map) -> bool:
    if step.backing == "anonymous":
        return step.sharing == "shared"
    return step.backing not in ("bar", "pfnmap")


KILLS = (
    Rule(
        "remap-over-entries",
        "remap_pfn_range over an entry that is there is a BUG: a mapping that ->fault fills whole (remap_fault) is the "
        "only one of its program, and no part of it is zapped",
        _over_entries,
    ),
    Rule(
        "unfilled-slots",
        "5.10's pin_user_pages says of a special entry of a VM_MIXEDMAP that it has got the page, and has not: whoever "
        "believes it (process_vm_readv, process_vm_writev, MAP_DMA) uses a struct page that there is not",
        _fills_no_slot,
    ),
    Rule(
        "pages-of-a-plain-leaf",
        "until 6.11 a leaf of vmf_insert_pfn_pmd is not marked special, and get_user_pages_fast takes its frames for "
        "pages (mm/gup.c, gup_huge_pmd, 5.10 and 6.1): of frames without a struct page that is an oops",
        _gets_a_leaf,
    ),
)

UNMODELLED = (
    Rule(
        "anonymous-pages",
        "anonymous memory is an address range in the model: it is never touched, locked or populated",
        _touches_anonymous,
    ),
    Rule(
        "anonymous-moves",
        "mremap of anonymous memory comes in the younger languages (huge, calls); here a number of a seed stays the "
        "program that was recorded",
        _grows,
    ),
    Rule(
        "address-of-the-kernels-choice",
        "where a mapping goes that may not go where it was asked for is the kernel's choice: later mappings of a slot "
        "are fixed or fixed_noreplace",
        _hint,
    ),
    Rule(
        "mixed-expanded",
        "a VM_MIXEDMAP may grow where it is, and stay mapped while it is moved (MREMAP_DONTUNMAP), and so may what is "
        "filled with counted pages: it comes in the younger languages, and a seed's programs stay as recorded",
        _expands_mixed,
    ),
    Rule(
        "registers-of-the-device",
        "what is read from where the device has no register is the device's own business: only its first page is read",
        lambda world, step: isinstance(step, Dev) and step.action == "read" and step.page > 0,
    ),
    Rule("mremap-names-a-slot", "an mremap that moves names the slot it moves to, and no other does", _nowhere),
    Rule(
        "execute-only",
        "a protection of x alone takes a protection key, and the model has none",
        lambda world, step: isinstance(step, Map | Protect) and step.prot == "x",
    ),
    Rule(
        "mixed-counted-pages",
        "vmf_insert_mixed of a frame that has a struct page counts the page: not modelled",
        lambda world, step: isinstance(step, Map) and step.insert == "mixed" and step.region in ("reserved", "ram"),
    ),
    Rule(
        "mixed-populated",
        "mlock and MADV_POPULATE of a VM_MIXEDMAP fault its pages in by get_user_pages: not modelled",
        _populates_mixed,
    ),
    Rule(
        "pinned-pages",
        "get_user_pages, what uses it, and the pages that it counts have a language of their own",
        _beyond_mappings,
    ),
)

#: what programs of the first two languages do not have, so that a number of a seed is the program that was recorded
LATER = Rule(
    "later-words",
    "huge leaves, mlockall, MAP_POPULATE and the younger advice have languages of their own (huge, calls)",
    _beyond_plain,
)
RULES = (*KILLS, *UNMODELLED, LATER)
#: rules that do not hold for programs about pinned pages
LIFTED = ("anonymous-pages", "mixed-counted-pages", "mixed-populated", "pinned-pages")
#: and those that hold for them only
OF_PAGES = (
    Rule(
        "memory-of-files",
        "files, buffers of udmabuf and of DMA heaps, and shared anonymous memory, which is a file's too, are in the "
        "page cache, and the model has none",
        lambda world, step: isinstance(step, Map) and _of_a_file(step),
    ),
    Rule(
        "merged-mappings",
        "neighbouring mappings of anonymous memory become one, and share what is kept of a mapping (its anon_vma, "
        "VM_SOFTDIRTY): a seed's programs stay as recorded, from before the model had that",
        _joins,
    ),
    Rule(
        "reclaim",
        "what MADV_COLD, MADV_PAGEOUT, MADV_FREE, KSM and huge pages make of pages that are counted comes in the "
        "younger languages; here a seed's programs stay as recorded",
        lambda world, step: (
            isinstance(step, Advise) and step.advice in RECLAIMS and world.counted(step.slot, step.page, step.pages)
        ),
    ),
)
#: rules of programs about huge leaves, and about calls: what the model has not says so when the program runs
OF_LEAVES = (
    Rule(
        "grown-wherever",
        "where an mremap goes that may move and cannot stay is the kernel's choice",
        lambda world, step: (
            isinstance(step, Remap) and step.to is None and "maymove" in step.flags and step.new_pages > step.pages
        ),
    ),
    Rule(
        "all-of-a-process-with-a-limit",
        "mlockall counts what the process itself is, its code and stack, and the model's processes are what they map",
        lambda world, step: (
            (isinstance(step, Lockall) and world.limited) or (isinstance(step, Limit) and world.locked_all)
        ),
    ),
    Rule(
        "huge-pages-of-memory",
        "anonymous memory that covers a whole block of 2 MiB gets huge pages as the kernel finds them, and khugepaged "
        "makes them in its own time",
        _huge_memory,
    ),
)
#: ... on kernels that do not mark a leaf of frames as special, 5.10 and 6.1
OF_PLAIN_LEAVES = (
    Rule(
        "pte-into-a-leaf",
        "until 6.4 insert_pfn and remap_pte_range (mm/memory.c, pte_alloc_map_lock) do not look whether the PMD is a "
        "leaf: they take its frame for a table, and write there",
        lambda world, step: isinstance(step, Probe) and step.call != "unmap_mapping_range",
    ),
    Rule(
        "split-of-frames-without-pages",
        "5.10.262's __split_huge_pmd (mm/huge_memory.c) asks PageAnon of the leaf's frame: without a struct page that "
        "is an oops, at every munmap, mprotect, madvise and mmap of a part",
        lambda world, step: (
            isinstance(step, Map) and step.insert in HUGE_INSERTS and step.region not in ("reserved", "ram")
        ),
    ),
)
KEPT = (
    "address-of-the-kernels-choice", "registers-of-the-device", "mremap-names-a-slot", "merged-mappings",
    "memory-of-files",
)  # fmt: skip
#: what programs may be about: mappings of device memory, or get_user_pages too, of memory that it can have; mappings
#: with leaves of 2 MiB; every call of the language with every protection
LANGUAGES = {
    "mapping": RULES,
    "gup": (*(rule for rule in RULES if rule.name not in LIFTED), *OF_PAGES),
    "huge": (*KILLS, *(rule for rule in (*UNMODELLED, *OF_PAGES) if rule.name in KEPT), *OF_LEAVES),
    "calls": (*KILLS, *(rule for rule in (*UNMODELLED, *OF_PAGES) if rule.name in KEPT), *OF_LEAVES),
}
#: what "huge" is on kernels that do not mark a leaf of frames as special
LANGUAGES["huge-plain"] = (*LANGUAGES["huge"], *OF_PLAIN_LEAVES)
#: pages of a slot
EXTENT = {"huge": HUGE_PAGES, "huge-plain": HUGE_PAGES}


def language_of(name: str) -> str:
    """What a generated program of this name is about."""
    found = [language for language in LANGUAGES if f"-{language}-" in name]
    return max(found, key=len, default="mapping")


def world_of(language: str) -> World:
    """The world before a program's first step."""
    return World(pages=EXTENT.get(language, PAGES))


def why_not(world: World, step: Step, language: str = "mapping") -> Rule | None:
    """The rule that keeps a step out of a program; None if it may come."""
    return next((rule for rule in LANGUAGES[language] if rule.applies(world, step)), None)


def sensible(steps: Sequence[Step], language: str = "mapping") -> tuple[Step, ...] | None:
    """The steps without those that have become impossible (of a process that is not there); None if a rule of the
    language forbids one of the rest.
    """
    world = world_of(language)
    kept: list[Step] = []
    for step in steps:
        if isinstance(step, Switch):
            if step.process not in world.live or step.process == world.current:
                continue
        elif world.current not in world.live:
            continue
        if isinstance(step, Fork) and step.child in world.born:
            continue
        if isinstance(step, Pin | Transfer) and step.process is not None and step.process not in world.live:
            continue
        if why_not(world, step, language) is not None:
            return None
        world.after(step)
        kept.append(step)
    return tuple(kept)
