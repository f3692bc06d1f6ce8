"""FOLL_LONGTERM: a page that is pinned for ever must not lie where pages have to be able to go.

So what was pinned is looked at (``is_longterm_pinnable``); what may not stay is unpinned, moved and pinned again. What
becomes of a page that can neither stay nor be moved has been answered in five ways, each at ``__gup_longterm_locked``.

Source: mm/gup.c, include/linux/mm.h, functions of the same name. Of the model's own: collect, unpin_and_migrate.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.findings import reached
from mmlitmus.explore.runtime import loop_point
from mmlitmus.kernel.errno import EAGAIN, EINVAL, ENOMEM
from mmlitmus.kernel.mm.gates import Gate, at_gate
from mmlitmus.kernel.mm.gup import FOLL_LONGTERM, Locked, Pages, __get_user_pages_locked, unpin_user_pages
from mmlitmus.kernel.mm.migrate import migrate_pages, putback_movable_pages
from mmlitmus.kernel.mm.mm_types import MmStruct
from mmlitmus.kernel.mm.page_alloc import (
    COHERENT,
    LRU_ON,
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    ZERO,
    ZONE_MOVABLE,
    Folio,
    in_pin_context,
)
from mmlitmus.kernel.mm.swap import folio_isolate_lru, lru_add_drain_all
from mmlitmus.kernel.policy import Seam, running

gup_longterm = Seam("__gup_longterm_locked", "what a long-term pin does about pages that may not stay where they are")
is_longterm_pinnable = Seam("is_longterm_pinnable", "which pages may be pinned for ever where they are")


def gup_longterm_locked(
    mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages, locked: Locked | None
) -> int:
    """Pages for as long as the caller likes, if FOLL_LONGTERM is among the flags; else for a while.

    Source: mm/gup.c __gup_longterm_locked.
    """
    if not flags & FOLL_LONGTERM:
        return __get_user_pages_locked(mm, start, nr_pages, flags, pages, locked)
    in_pin_context(True)
    result: int = gup_longterm(mm, start, nr_pages, flags, pages, locked)
    in_pin_context(False)
    return result


# -- which pages may stay ---------------------------------------------------------------------------------------------
def in_cma_or_isolated(folio: Folio) -> bool:
    """With CONFIG_CMA: is the page's block one that has to be emptied on demand, or is being emptied?

    Source: include/linux/mm.h is_longterm_pinnable_page (6.1), folio_is_longterm_pinnable (from 6.12); none (5.10).
    """
    return running().has("CMA") and folio.migratetype in (MIGRATE_CMA, MIGRATE_ISOLATE)


@is_longterm_pinnable.alternative("not-cma", source="mm/gup.c check_and_migrate_cma_pages, v5.10", releases="<= v5.12")
def unless_cma(folio: Folio) -> bool:
    """What is in no CMA area."""
    return not running().has("CMA") or bool(folio.migratetype != MIGRATE_CMA)


@is_longterm_pinnable.alternative("zero-too", source="dossier B.8, P0': within the 5.13 series", releases="never")
def unless_movable(folio: Folio) -> bool:
    """What is neither in a CMA area nor in ZONE_MOVABLE; the zero page may lie there, and cannot be moved."""
    return not (folio.zone == ZONE_MOVABLE or (running().has("CMA") and folio.migratetype == MIGRATE_CMA))


@is_longterm_pinnable.alternative("or-zero", source="dossier B.8, P1", releases="v5.13 - v5.18")
def unless_movable_or_zero(folio: Folio) -> bool:
    """... or is the zero page, wherever it lies."""
    return unless_movable(folio) or bool(folio.kind == ZERO)


@is_longterm_pinnable.alternative(
    "zero-negated",
    source="dossier B.8, P2: 1c563432588d 'mm: fix is_pinnable_page against a cma page'",
    releases="v5.19-rc",
)
def not_movable_nor_zero(folio: Folio) -> bool:
    """Not in a CMA area, not isolated; and neither movable nor the zero page, which slipped into the negation."""
    if in_cma_or_isolated(folio):
        return False
    return not (folio.zone == ZONE_MOVABLE or folio.kind == ZERO)


@is_longterm_pinnable.alternative(
    "zero-again", source="dossier B.8, P3: 'mm: Re-allow pinning of zero pfns'", releases="v5.19"
)
def zero_out_of_the_negation(folio: Folio) -> bool:
    """The same, with the zero page outside of the negation."""
    if in_cma_or_isolated(folio):
        return False
    return folio.zone != ZONE_MOVABLE or bool(folio.kind == ZERO)


@is_longterm_pinnable.alternative(
    "zero-negated-again",
    source="dossier B.8, P4: f25cbb7a95a2 'mm: add zone device coherent type memory support'",
    releases="v6.0-rc1",
)
def not_coherent_movable_nor_zero(folio: Folio) -> bool:
    """With memory of coherent devices, which has to be able to go; and the zero page in the negation again."""
    if in_cma_or_isolated(folio):
        return False
    return not (folio.kind in (COHERENT, ZERO) or folio.zone == ZONE_MOVABLE)


@is_longterm_pinnable.alternative(
    "in-steps",
    source="include/linux/mm.h is_longterm_pinnable_page (6.1), folio_is_longterm_pinnable (from 6.12)",
    releases=">= v6.0",
)
def in_steps(folio: Folio) -> bool:
    """One thing after the other: CMA or isolated no, the zero page yes, coherent no, movable no."""
    if in_cma_or_isolated(folio):
        return False
    if folio.kind == ZERO:
        return True
    return folio.kind != COHERENT and bool(folio.zone != ZONE_MOVABLE)


@is_longterm_pinnable.alternative(
    "only-zero", source="proposed in the thread of June 2022: dossier C001-24", releases="proposal"
)
def only_zero(folio: Folio) -> bool:
    """One thing after the other, and what is none of them is pinnable if it is the zero page."""
    if in_cma_or_isolated(folio) or folio.kind == COHERENT or folio.zone == ZONE_MOVABLE:
        return False
    return bool(folio.kind == ZERO)


# -- the parts that all have ------------------------------------------------------------------------------------------
def collect(machine: Any, pages: Pages) -> tuple[list[Folio], int, int]:
    """Isolate what may not stay: (what could be isolated, how many may not stay, how many could not be isolated).

    The CPUs' batches are emptied once, when a page is met that is on no list. Of equal neighbours one is looked at.

    Source: mm/gup.c check_and_migrate_cma_pages (5.10), collect_longterm_unpinnable_pages (6.1),
    collect_longterm_unpinnable_folios (from 6.12).
    """
    isolated: list[Folio] = []
    collected = failed = 0
    drained = False
    previous: Folio | None = None
    for folio in pages.folios:
        if folio is None or (previous is not None and folio.pfn == previous.pfn):
            continue
        previous = folio
        if is_longterm_pinnable(folio):
            continue
        collected += 1
        if not drained and folio.lru != LRU_ON:
            lru_add_drain_all(machine)
            drained = True
        if folio_isolate_lru(folio):
            isolated.append(folio)
            at_gate(Gate.LONG, "a page that may not stay is moved")
        else:
            reached("a page could not be isolated")
            at_gate(Gate.LONG, "a page that may not stay cannot be isolated")
            failed += 1
    return isolated, collected, failed


def unpin_and_migrate(machine: Any, pages: Pages, isolated: list[Folio]) -> int:
    """Unpin everything, and move what was isolated: 0, or -ENOMEM, and then it is back where it was.

    Source: mm/gup.c check_and_migrate_cma_pages (5.10), migrate_longterm_unpinnable_pages (6.1),
    migrate_longterm_unpinnable_folios (from 6.12).
    """
    unpin_user_pages(pages)
    left = migrate_pages(machine, isolated)
    putback_movable_pages(machine, left)
    return -ENOMEM if left else 0


# -- and what they make of it -----------------------------------------------------------------------------------------
@gup_longterm.alternative(
    "best-effort", source="mm/gup.c check_and_migrate_cma_pages, v5.10; dossier B.7, L0", releases="<= v5.12"
)
def best_effort(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages, locked: Locked | None) -> int:
    """What can be moved is moved; what cannot stays pinned where it is, and nobody is told."""
    got = __get_user_pages_locked(mm, start, nr_pages, flags, pages, locked)
    while got > 0:
        loop_point(mm, start, flags, pages, locked, got)
        isolated, _, _ = collect(mm.machine, pages)
        if not isolated:
            break
        failed = unpin_and_migrate(mm.machine, pages, isolated)
        got = __get_user_pages_locked(mm, start, got, flags, pages, locked)
        if failed:
            break
    return got


@gup_longterm.alternative(
    "until-isolated", source="mm/gup.c check_and_migrate_cma_pages, 5.10.262", releases="deb-5.10.262"
)
def until_isolated(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages, locked: Locked | None) -> int:
    """As long as something cannot be isolated, it is tried again at once, with everything pinned and nobody asking
    whether a signal is pending.
    """
    got = __get_user_pages_locked(mm, start, nr_pages, flags, pages, locked)
    while got > 0:
        loop_point(mm, start, flags, pages, locked, got)
        isolated, _, failed = collect(mm.machine, pages)
        if isolated:
            error = unpin_and_migrate(mm.machine, pages, isolated)
            if error:
                return error
            got = __get_user_pages_locked(mm, start, got, flags, pages, locked)
        elif not failed:
            break
    return got


@gup_longterm.alternative("repeat", source="dossier B.7, L1", releases="v5.13 - v6.0")
def repeat(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages, locked: Locked | None) -> int:
    """Unpin, move what can be moved, and begin anew: also if nothing could be moved."""
    while True:
        loop_point(mm, start, nr_pages, flags, pages, locked)
        got = __get_user_pages_locked(mm, start, nr_pages, flags, pages, locked)
        if got <= 0:
            return got
        isolated, _, failed = collect(mm.machine, pages)
        if not isolated and not failed:
            return got
        error = unpin_and_migrate(mm.machine, pages, isolated)
        if error:
            return error


@gup_longterm.alternative("errno", source="proposed in the thread of June 2022: dossier C001-20", releases="proposal")
def give_up(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages, locked: Locked | None) -> int:
    """-EINVAL if anything could not be isolated."""
    while True:
        loop_point(mm, start, nr_pages, flags, pages, locked)
        got = __get_user_pages_locked(mm, start, nr_pages, flags, pages, locked)
        if got <= 0:
            return got
        isolated, _, failed = collect(mm.machine, pages)
        if not isolated and not failed:
            return got
        error = unpin_and_migrate(mm.machine, pages, isolated)
        if error or failed:
            return error or -EINVAL


@gup_longterm.alternative(
    "eagain",
    source="mm/gup.c check_and_migrate_movable_pages (6.1), check_and_migrate_movable_pages_or_folios (from 6.12)",
    releases=">= v6.1",
)
def repeat_on_eagain(mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages, locked: Locked | None) -> int:
    """As ``repeat``: what may not stay is counted, isolated or not."""
    error = -EAGAIN
    got = 0
    while error == -EAGAIN:
        loop_point(mm, start, nr_pages, flags, pages, locked)
        got = __get_user_pages_locked(mm, start, nr_pages, flags, pages, locked)
        if got <= 0:
            return got
        isolated, collected, _ = collect(mm.machine, pages)
        error = (unpin_and_migrate(mm.machine, pages, isolated) or -EAGAIN) if collected else 0
    return error or got


@gup_longterm.alternative(
    "list-empty",
    source="1aaf8c122918 'mm: gup: fix infinite loop within __get_longterm_locked'; dossier B.7, L2'",
    releases="v6.14, LTS of 2025",
)
def enough_if_nothing_was_isolated(
    mm: MmStruct, start: int, nr_pages: int, flags: int, pages: Pages, locked: Locked | None
) -> int:
    """Done if nothing could be isolated: what can never be moved stays, and so does what somebody has isolated just
    now. (Reverted by 517f496e1e61.)
    """
    error = -EAGAIN
    got = 0
    while error == -EAGAIN:
        loop_point(mm, start, nr_pages, flags, pages, locked)
        got = __get_user_pages_locked(mm, start, nr_pages, flags, pages, locked)
        if got <= 0:
            return got
        isolated, _, _ = collect(mm.machine, pages)
        error = (unpin_and_migrate(mm.machine, pages, isolated) or -EAGAIN) if isolated else 0
    return error or got
