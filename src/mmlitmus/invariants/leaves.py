"""Huge leaves and what is below them.

Findings of ``leaves_are_sound``, which asks when everything has ended:

* ``entry-under-leaf``: there are entries below a huge leaf, where no CPU comes. They are found again when the leaf
  goes, and nobody who takes translations away meanwhile sees them.

Reported where they happen, in every case: ``unaligned-leaf``, a huge leaf for frames that do not begin at a multiple of
its size (``vmf_insert_pfn_pmd``, ``vmf_insert_pfn_pud``: the CPU refuses it, or takes another frame);
``walk-through-leaf``, somebody who takes a leaf for a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmlitmus.explore.findings import Finding
from mmlitmus.kernel.arch.x86.pgtable import NONE, PMD_SHIFT, PUD_SHIFT, pmd_leaf, pud_leaf


def leaves_are_sound(machine: Any) -> Iterator[Finding]:
    """Every table that has something in it, and is under a leaf. No event."""
    for mm in machine.mms:
        for n in sorted(mm.pgd):
            table = mm.pgd[n]
            entry, left = table.peek("entry"), table.populated()
            where = f"{mm.name}'s page {machine.page_label(table.address)}"
            if pmd_leaf(entry) and left:
                yield Finding("invariant", "entry-under-leaf", f"{where} has {left} PTEs under the 2M leaf {entry:#x}")
            pud = mm.puds.get(n >> PUD_SHIFT - PMD_SHIFT)
            upper = NONE if pud is None else pud.peek("entry")
            if pud_leaf(upper) and (entry != NONE or left):
                yield Finding("invariant", "entry-under-leaf", f"{where} has a table under the 1G leaf {upper:#x}")
