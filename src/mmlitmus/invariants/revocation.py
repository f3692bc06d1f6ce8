"""Revocation: a device that is off is reached by nobody.

Three forms. ``access-after-disable`` is an access that arrives while the device is off (reported by the device, in the
event of the access). ``stale-translation`` is a translation that is still there when everything has come to rest with
the device off: the next access would go through. ``revoked_now`` asks for the latter at a point, when a disable has
returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmlitmus.explore.findings import Finding, report
from mmlitmus.explore.state import look
from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, PRESENT, pte_pfn


def stale_translations(machine: Any) -> Iterator[Finding]:
    """At quiescence: every PTE and TLB entry that maps a BAR of a device that is off."""
    for device in machine.devices:
        if device.responds:
            continue
        off = f"{device.name} is off ({', '.join(device.off)})"
        for mm in machine.mms:
            for address, entry in machine.translations(mm):
                bar = device.bar_of(pte_pfn(entry))
                if entry & PRESENT and bar is not None:
                    where = f"{mm.name}:pte[{machine.page_label(address)}]"
                    yield Finding("invariant", "stale-translation", f"{where} = {entry:#x} maps {bar.name}, and {off}")
        for name, cpu in machine.cpus.items():
            for (mm_name, page), entry in sorted(cpu.tlb.items()):
                bar = device.bar_of(pte_pfn(entry))
                if bar is not None:
                    what = f"{mm_name}:{machine.page_label(page << PAGE_SHIFT)}"
                    yield Finding(
                        "invariant", "stale-translation", f"{name}'s TLB maps {what} to {bar.name}, and {off}"
                    )


def revoked_now(machine: Any, device: Any) -> None:
    """At a point: report every translation of ``device`` that exists now, in one event that reads all it looks at.

    It conflicts with whatever changes a translation, or a process's set of VMAs.
    """
    look([device.oid("off"), *machine.translation_ids()])
    for finding in stale_translations(machine):
        report(finding.kind, finding.name, finding.message)
