"""How often the kernel counts a frame: what /proc/kpagecount tells, and the reference count beside it.

Source: fs/proc/page.c kpagecount_read; mm/memory.c vm_normal_page (a special entry maps no page, and counts none).
"""

from __future__ import annotations

from typing import Any


def counts(machine: Any, pfn: int) -> tuple[int, int]:
    """(references, mappings) that processes have on a frame; pages that a CPU keeps back for the LRU not among them.

    A frame that is mapped by special entries only has no page to count: (0, 0), however often it is mapped.

    Source: fs/proc/page.c kpagecount_read; mm/memory.c vm_normal_page.
    """
    page = machine.pages.get(pfn)
    if page is None or page.freed:
        return 0, 0
    kept_back = sum(page.held_by(batch.holder) for batch in machine.lru_batch.values())
    return page.peek("refcount") - kept_back, page.peek("mapcount")
