"""What a device has for itself: no CPU maps it, and it is still the process's page.

Findings of ``device_has_its_pages``:

* ``cpu-and-device``: the process maps a page that the device has for itself; what both store meanwhile is lost;
* ``stale-device-mapping``: the process has another page there by now, or none, and the device goes on with the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mmlitmus.explore.findings import Finding
from mmlitmus.kernel.arch.x86.pgtable import pte_pfn, pte_present
from mmlitmus.kernel.mm.swapops import is_device_exclusive_entry, swp_offset


def device_has_its_pages(machine: Any, mm: Any, had: Iterable[tuple[int, int]]) -> Iterator[Finding]:
    """Is everything that a device believes to have, as (address, frame), for itself, so? No event."""
    for address, pfn in had:
        entry = machine.translation(mm, address)
        where = f"{mm.name}'s page {machine.page_label(address)}"
        if is_device_exclusive_entry(entry) and swp_offset(entry) == pfn:
            continue
        if pte_present(entry) and pte_pfn(entry) == pfn:
            yield Finding("invariant", "cpu-and-device", f"{where} is mapped, and the device has it for itself")
        else:
            yield Finding(
                "invariant", "stale-device-mapping", f"the device has frame {pfn:#x} for {where}, which is another"
            )
