"""The lock order that the kernel documents, as data, and what a search's own order says against it.

A class taken a second time inside itself has a subclass (``mmap_lock/1``: the child's, in fork). ``(outer, inner)``:
the inner one may be asked for while the outer one is held. Trylocks are no part of an order. Source: the head of
mm/rmap.c and of mm/filemap.c, Documentation/mm/process_addrs.rst, and for VFIO what its functions do (dossier D.5). Of
the model's own: Rule, documented, contradictions, undocumented, cycle, reduced and tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Edge = tuple[str, str]


@dataclass(frozen=True)
class Rule:
    """A documented order, outermost class first. ``needs``: it holds where the kernel has one of these at the seam."""

    chain: tuple[str, ...]
    source: str
    seam: str = ""
    needs: tuple[str, ...] = ()

    def applies(self, choices: Mapping[str, str]) -> bool:
        """Does it hold for a kernel with these choices?"""
        return not self.seam or choices[self.seam] in self.needs


LISTED = ("v5.8", "v5.14", "v6.9")
HUGE_FAULT = ("v6.12", "v6.13", "v6.15")
BY_MAPPING = ("v6.10", *HUGE_FAULT)

RULES = (
    Rule(("mmap_lock", "i_mmap_rwsem", "pmd_lock", "ptl"), "mm/rmap.c"),
    Rule(("mmap_lock", "vm_lock", "i_mmap_rwsem"), "mm/rmap.c: vma_start_write", "fault_lock", ("vma_lock",)),
    Rule(("mmap_lock", "mmap_lock/1", "i_mmap_rwsem"), "kernel/fork.c dup_mmap: the new mm inside the old one"),
    Rule(("mmap_lock/1", "vm_lock"), "kernel/fork.c dup_mmap, 6.12", "fault_lock", ("vma_lock",)),
    Rule(("ptl", "ptl/1"), "mm/memory.c copy_pte_range (source inside target); mm/mremap.c move_ptes (the reverse)"),
    Rule(("pmd_lock", "pmd_lock/1"), "mm/huge_memory.c copy_huge_pmd, move_huge_pmd"),
    Rule(("mmap_lock", "i_mmap_rwsem", "pud_lock"), "mm/rmap.c: page_table_lock, which pud_lock is"),
    Rule(("vm_lock", "fs_reclaim"), "mm/memory.c wp_page_copy under the VMA lock", "fault_lock", ("vma_lock",)),
    Rule(("vm_lock", "pud_lock"), "mm/huge_memory.c vmf_insert_pfn_pud", "fault_lock", ("vma_lock",)),
    Rule(("pud_lock", "pud_lock/1"), "mm/huge_memory.c copy_huge_pud"),
    Rule(("mmap_lock/1", "fs_reclaim"), "kernel/fork.c dup_mmap allocates"),
    Rule(("mmap_lock", "fs_reclaim", "i_mmap_rwsem"), "drivers/dma-buf/dma-resv.c dma_resv_lockdep, at boot"),
    Rule(("mmap_lock", "vma_lock", "memory_lock", "ptl"), "drivers/vfio/pci, to 6.9", "vfio_pci", LISTED),
    Rule(("memory_lock", "fs_reclaim"), "drivers/vfio/pci: a fault allocates page tables"),
    Rule(("mmap_lock", "memory_lock", "pmd_lock", "ptl"), "drivers/vfio/pci: a fault"),
    Rule(("memory_lock", "i_mmap_rwsem"), "drivers/vfio/pci, from 6.10: a zap", "vfio_pci", BY_MAPPING),
    Rule(("vm_lock", "memory_lock"), "drivers/vfio/pci, 6.12: huge_fault under the VMA lock", "vfio_pci", HUGE_FAULT),
    Rule(("mmap_lock", "status_mutex", "pmd_lock", "ptl"), "drivers/misc/cxl/context.c cxl_mmap_fault"),
    Rule(("status_mutex", "fs_reclaim"), "drivers/misc/cxl/context.c cxl_mmap_fault: vmf_insert_pfn allocates"),
    Rule(("vfio_iommu_lock", "mmap_lock", "ptl"), "drivers/vfio/vfio_iommu_type1.c vfio_dma_do_map: iommu->lock"),
    Rule(("dev_set.lock", "memory_lock"), "drivers/vfio/pci: a hot reset"),
    Rule(("dev_set.lock", "vma_lock"), "drivers/vfio/pci, to 6.9: a hot reset", "vfio_pci", LISTED),
)

#: what kernels do against or beside the documentation, and why it is known
DEVIATIONS: dict[Edge, str] = {
    ("memory_lock", "vm_lock"): "6.3 to 6.9: the fault handler writes vm_flags (case vfio/remap-in-fault)",
    ("vma_lock", "vm_lock"): "the same",
}


def documented(choices: Mapping[str, str]) -> dict[Edge, str]:
    """Every pair that a kernel with these choices documents, with where; ``follows`` from others, if nowhere."""
    pairs: dict[Edge, str] = {}
    for rule in RULES:
        if rule.applies(choices):
            for n, outer in enumerate(rule.chain):
                for inner in rule.chain[n + 1 :]:
                    pairs.setdefault((outer, inner), rule.source)
    grown = True
    while grown:
        grown = False
        for a, b in list(pairs):
            for c, d in list(pairs):
                if b == c and (a, d) not in pairs:
                    pairs[a, d] = "follows"
                    grown = True
    return pairs


def contradictions(edges: Iterable[Edge], choices: Mapping[str, str]) -> list[Edge]:
    """The edges of a search that are documented the other way round."""
    order = documented(choices)
    return sorted(e for e in edges if (e[1], e[0]) in order)


def undocumented(edges: Iterable[Edge], choices: Mapping[str, str]) -> list[Edge]:
    """The edges of a search about which the documentation is silent, known deviations left out."""
    order = documented(choices)
    return sorted(e for e in edges if e not in order and (e[1], e[0]) not in order and e not in DEVIATIONS)


def cycle(edges: Iterable[Edge]) -> list[str]:
    """Some cycle of classes, or nothing."""
    inner: dict[str, list[str]] = {}
    for a, b in sorted(edges):
        inner.setdefault(a, []).append(b)
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for other in inner.get(node, ()):
            found = visit(other, [*path, node])
            if found:
                return found
        done.add(node)
        return []

    return next((found for node in sorted(inner) if (found := visit(node, []))), [])


def reduced(edges: Iterable[Edge]) -> set[Edge]:
    """The edges that no other path implies. There is no cycle."""
    every = set(edges)

    def reaches(a: str, b: str) -> bool:
        return any(x == a and (y == b or reaches(y, b)) for x, y in every)

    return {(a, b) for a, b in every if not any(x == a and y != b and reaches(y, b) for x, y in every)}


def tree(edges: Iterable[Edge]) -> list[str]:
    """The order as lines: what is taken inside what, two spaces a level; what stands above already is cut with ``...``.

    Classes that are taken a second time inside themselves stand there once, marked ``twice``.
    """
    every = set(edges)
    twice = {b.partition("/")[0] for _, b in every if "/" in b}
    direct = reduced(e for e in every if "/" not in e[0] + e[1])
    inside = {b for _, b in direct}
    lines: list[str] = []
    seen: set[str] = set()

    def draw(node: str, depth: int) -> None:
        below = sorted(b for a, b in direct if a == node)
        again = node in seen and bool(below)
        lines.append("  " * depth + node + (" (twice)" if node in twice else "") + (" ..." if again else ""))
        if not again:
            seen.add(node)
            for other in below:
                draw(other, depth + 1)

    for root in sorted({a for a, _ in direct} - inside):
        draw(root, 0)
    return lines
