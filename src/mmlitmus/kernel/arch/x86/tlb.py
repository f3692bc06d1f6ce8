"""Per-CPU TLBs. Each CPU's TLB is one footprint object; a flush is one event a CPU.

A CPU caches (mm, page) -> entry when its access walks the tables, and goes on using it until flushed. Left out, by
name: speculative fills (a CPU fills its TLB only by an access of a modelled task), paging-structure caches, PCID reuse
across mms, lazy TLB mode, ranged flushes that spare other entries of the mm (a flush here drops the range it is asked
for). Source: arch/x86/mm/tlb.c flush_tlb_mm_range; arch/x86/include/asm/tlbflush.h, functions of the same name. Of the
model's own: CpuState.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.ops import TOUCH
from mmlitmus.explore.primitives.irq import Cpu

from .pgtable import PAGE_SHIFT


class CpuState(Cpu):
    """A CPU: its interrupt flag (the primitive) and its TLB, a footprint object of its own."""

    __slots__ = ("tlb", "tlb_id")
    declared_as = {"tlb": "tlb_id"}  # for the audit: the TLB changes only within events on tlb_id

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.tlb_id = rt.engine.allocate(1, self)
        self.tlb: dict[tuple[str, int], int] = {}  # (mm's name, page number) -> entry

    def object_name(self, offset: int) -> str:
        return self.name

    def drop(self, mm_name: str, start: int, end: int) -> None:
        """Forget the mm's translations in [start, end) bytes."""
        pages = range(start >> PAGE_SHIFT, (end - 1 >> PAGE_SHIFT) + 1)
        for key in [k for k in self.tlb if k[0] == mm_name and k[1] in pages]:
            del self.tlb[key]


def flush_tlb_range(mm: Any, start: int, end: int) -> None:
    """Flush [start, end) bytes of ``mm`` on every CPU that runs it; returns when each has done it."""
    me = mm.machine.this_cpu()
    for cpu in mm.cpus:
        if cpu is me or rt.engine.cur < 0:
            rt.point((TOUCH, cpu.tlb_id, (), "flush"))
            cpu.drop(mm.name, start, end)
        else:
            cpu.ipi(lambda cpu=cpu: cpu.drop(mm.name, start, end), (cpu.tlb_id,))
