"""Reclaim: a page that is not needed now goes to swap.

What reclaims on its own, and how it chooses, is not modelled: ``madvise(MADV_PAGEOUT)`` hands its pages to
``reclaim_pages``. A page that somebody else holds is unmapped all the same, where it does not look pinned, and stays in
the swap cache: the next fault finds it there.

Source: mm/vmscan.c, functions of the same name.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import reached
from mmlitmus.explore.state import touch
from mmlitmus.kernel.mm.page_alloc import ISOLATION, Folio, folio_maybe_dma_pinned, free_folio
from mmlitmus.kernel.mm.rmap import try_to_unmap
from mmlitmus.kernel.mm.swap import folio_putback_lru
from mmlitmus.kernel.mm.swapfile import SWAP_CACHE, SwapSlot, add_to_swap
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.folio_lock import folio_trylock, folio_unlock

may_add_to_swap = Seam("shrink_folio_list", "which pages reclaim gives a slot of swap")


def reclaim_pages(machine: Any, folios: list[Folio]) -> None:
    """Reclaim isolated pages; those that cannot be are put back."""
    for folio in folios:
        if not shrink_folio(machine, folio):
            folio_putback_lru(machine, folio)


def shrink_folio(machine: Any, folio: Folio) -> bool:
    """Reclaim one page: False if it has to be put back.

    Source: mm/vmscan.c shrink_page_list (5.10), shrink_folio_list (from 6.1).
    """
    if not folio_trylock(folio.lock):
        return False
    if folio.swap is None:
        if not may_add_to_swap(folio):
            folio_unlock(folio.lock)
            reached("reclaim left a pinned page")
            return False
        add_to_swap(machine, folio)
    if folio.mapcount:
        try_to_unmap(machine, folio)
        if folio.mapcount:
            folio_unlock(folio.lock)
            reached("reclaim could not unmap a page")
            return False
    gone = remove_mapping(folio)
    folio_unlock(folio.lock)
    if gone:
        reached("a page was paged out")
        free_folio(folio)
    else:
        reached("a page stayed in the swap cache")
    return gone


def remove_mapping(folio: Folio) -> bool:
    """Take the page out of the swap cache, if nobody else holds it: it is not to be had from then on. One event, for
    who finds the page without a reference in the kernel's meantime looks again until it is over.

    Source: mm/vmscan.c __remove_mapping.
    """
    slot: SwapSlot = folio.swap
    touch(folio.oid("refcount"), (folio.oid("holders"), folio.oid("swap"), slot.oid("cache")))
    if folio.peek("refcount") != 2:
        return False
    folio.count(SWAP_CACHE, -1)
    folio.count(ISOLATION, -1)
    folio.set_swap(None)
    slot.set_cache(None)
    return True


@may_add_to_swap.alternative("any", source="mm/vmscan.c shrink_page_list, v5.10", releases="<= v5.10")
def swap_any(folio: Folio) -> bool:
    """Any: one that is pinned is unmapped, too."""
    return True


@may_add_to_swap.alternative(
    "not-pinned",
    source="feb889fb40fa 'mm: don't put pinned pages into the swap cache'; mm/vmscan.c shrink_page_list (5.10), "
    "shrink_folio_list (from 6.1)",
    releases=">= v5.11, deb-5.10.262",
)
def swap_what_is_not_pinned(folio: Folio) -> bool:
    """What does not look pinned. A pin that comes after this look is not seen by it."""
    return not folio_maybe_dma_pinned(folio)
