"""Memory types: what is reserved is what is mapped, and whoever has reserved gives back, once.

At rest (``memtypes_at_rest``): no reservation that nobody will give back (``memtype-leak``), no mapping whose
reservation is gone (``untracked-live``), no live translation with another type than the one reserved, nor two
translations of a frame with different types (``memtype-alias``). ``memtypes_now`` asks for the latter two at a point.
A free that takes somebody else's entry, or that comes twice, is reported where it happens (``arch.x86.pat``):
``memtype-steal``, ``memtype-double-free``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmlitmus.explore.findings import Finding, report
from mmlitmus.explore.state import look
from mmlitmus.kernel.arch.x86.pat import CacheMode, cattr_name, memtype_lookup, pmd_cachemode, pte_cachemode
from mmlitmus.kernel.arch.x86.pgtable import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PUD_SHIFT,
    SPECIAL,
    leaf_pfn,
    pte_pfn,
    pte_present,
)
from mmlitmus.kernel.mm.vma import VmaLineage

LEVEL = {PAGE_SHIFT: "pte", PMD_SHIFT: "pmd", PUD_SHIFT: "pud"}


class Translation(NamedTuple):
    """A live translation of device memory: where, its first frame, how many, their type, the VMA if there is one."""

    where: str
    pfn: int
    pages: int
    mode: CacheMode
    vma: Any


def memtypes_at_rest(machine: Any) -> Iterator[Finding]:
    """At quiescence: every leak, every mapping whose reservation is gone, every alias."""
    yield from leaks(machine)
    yield from live_findings(machine)


def memtypes_now(machine: Any) -> None:
    """At a point: report untracked mappings and aliases, in one event that reads all it looks at.

    It conflicts with whatever changes a translation, or a process's set of VMAs.
    """
    db = machine.memtypes
    look([db.oid("tree"), db.oid("claims"), db.oid("ioremaps"), *machine.translation_ids()])
    for finding in live_findings(machine):
        report(finding.kind, finding.name, finding.message)


def leaks(machine: Any) -> Iterator[Finding]:
    """Entries that more cover a page than there are living owners who will give them back.

    An owner lives as long as one of the VMAs does for which he has reserved, or (an ioremap, a driver's own
    reservation) until he frees.
    """
    db = machine.memtypes
    gone = [claim for claim in db.peek("claims").intervals() if not lives(machine, claim.owner)]
    for claim in gone:
        yield Finding(
            "invariant",
            "memtype-leak",
            f"[mem {claim.start:#x}-{claim.end:#x}] {cattr_name(claim.type)} is still reserved for {claim.owner.name}, "
            "which is gone",
        )
    for start, end in db.unclaimed():
        yield Finding(
            "invariant", "memtype-leak", f"an entry is left for [mem {start:#x}-{end:#x}], and nobody will free it"
        )


def lives(machine: Any, owner: Any) -> bool:
    """Is there still somebody to free what ``owner`` has reserved? Only VMAs can go without having done so."""
    vmas = [v for mm in machine.mms for v in mm.peek("mm_mt") if v.peek("memtype_owner") is owner]
    if not isinstance(owner, VmaLineage) or vmas:
        return True
    return any(ctx.owner is owner and not ctx.freed for ctx in contexts(machine))


def contexts(machine: Any) -> Iterator[Any]:
    """The pfnmap_track_ctx of every VMA that has one (6.16 on)."""
    for mm in machine.mms:
        for vma in mm.peek("mm_mt"):
            if vma.peek("pfnmap_track_ctx") is not None:
                yield vma.peek("pfnmap_track_ctx")


def live_findings(machine: Any) -> Iterator[Finding]:
    """Untracked mappings and aliases among the live translations."""
    db = machine.memtypes
    live = list(translations(machine))
    for t in live:
        where = f"{t.where} maps frame {t.pfn:#x}"
        if t.vma is not None and db.ever_claimed(t.vma.memtype_owner, t.pfn) and not db.covers(t.pfn):
            yield Finding("invariant", "untracked-live", f"{where}, and the reservation that it was made with is gone")
        entry = memtype_lookup(db.peek("tree"), t.pfn << PAGE_SHIFT, PAGE_SIZE)
        tracked = CacheMode.UC_MINUS if entry is None else entry
        if machine.e820.page_is_ram(t.pfn) or t.mode == tracked:
            continue
        yield Finding(
            "invariant",
            "memtype-alias",
            f"{where} {cattr_name(t.mode)}, and the type of the frame is {cattr_name(tracked)}"
            + ("" if entry is not None else " (nothing is reserved)"),
        )
    yield from pairs(live)


def pairs(live: list[Translation]) -> Iterator[Finding]:
    """Two translations that map one frame with different types."""
    for n, a in enumerate(live):
        for b in live[n + 1 :]:
            if a.mode != b.mode and a.pfn < b.pfn + b.pages and b.pfn < a.pfn + a.pages:
                frame = max(a.pfn, b.pfn)
                yield Finding(
                    "invariant",
                    "memtype-alias",
                    f"frame {frame:#x} is {cattr_name(a.mode)} by {a.where} and {cattr_name(b.mode)} by {b.where}",
                )


def translations(machine: Any) -> Iterator[Translation]:
    """Every page-table entry, TLB entry and kernel mapping of device memory, without events.

    Copied pages of private mappings are none: their entries are not special.
    """
    pat = machine.memtypes.pat
    for mm in machine.mms:
        for address, entry, shift in machine.leaves(mm):
            if pte_present(entry) and entry & SPECIAL:
                mode = pte_cachemode(entry, pat) if shift == PAGE_SHIFT else pmd_cachemode(entry, pat)
                where = f"{mm.name}:{LEVEL[shift]}[{machine.page_label(address)}]"
                vma = next((v for v in mm.peek("mm_mt") if v.peek("vm_start") <= address < v.peek("vm_end")), None)
                yield Translation(where, leaf_pfn(entry, shift), 1 << shift - PAGE_SHIFT, mode, vma)
    for name, cpu in machine.cpus.items():
        for (mm_name, page), entry in sorted(cpu.tlb.items()):
            if entry & SPECIAL:
                where = f"{name}'s TLB, {mm_name}:{machine.page_label(page << PAGE_SHIFT)},"
                yield Translation(where, pte_pfn(entry), 1, pte_cachemode(entry, pat), None)
    for mapping in machine.memtypes.peek("ioremaps"):
        pages = mapping.end - mapping.start >> PAGE_SHIFT
        kind = mapping.translation_type(pat)
        yield Translation(mapping.name, mapping.start >> PAGE_SHIFT, pages, kind, None)
