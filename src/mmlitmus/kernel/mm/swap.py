"""The LRU lists, as far as they hold references: batches, draining, isolating, putting back.

A new page is not on its list at once: the CPU that has faulted it in keeps it in a batch, which holds a reference, and
as long as it is there it cannot be isolated. ``lru_add_drain`` empties this CPU's batch, ``lru_add_drain_all`` every
CPU's. A machine has batches only if its case asks for them (``lru_batches``); else every batch is emptied at once, as
the lab's agent does before it looks.

Source: mm/swap.c (to 6.12), mm/folio.c (7.3), mm/vmscan.c, functions of the same name. Of the model's own: LruBatch,
batch_of.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.explore.state import Model, Once, touch
from mmlitmus.kernel.mm.page_alloc import ISOLATION, LRU_BATCH, LRU_ISOLATED, LRU_ON, Folio, folio_put
from mmlitmus.kernel.sync.might import might_sleep

#: how many folios a batch has when it is emptied (31 from 6.9 on; only up to 5.18 does anybody see it who counts)
PAGEVEC_SIZE = 15


class LruBatch(Model):
    """A CPU's pages on their way to the LRU lists. Others' CPUs empty it only by asking that CPU to."""

    __slots__ = ()
    folios = Once()

    def __init__(self, name: str) -> None:
        super().__init__(name, folios=())

    @property
    def holder(self) -> str:
        """The name under which it holds references."""
        return self.name


def batch_of(machine: Any) -> LruBatch:
    """The batch of the CPU that the task runs on."""
    cpu = machine.this_cpu().name
    batch: LruBatch | None = machine.lru_batch.get(cpu)
    if batch is None:
        batch = machine.lru_batch[cpu] = LruBatch(f"{cpu}'s LRU batch")
    return batch


def folio_add_lru(machine: Any, folio: Folio) -> None:
    """Put a page on its LRU list, by way of this CPU's batch.

    Source: mm/swap.c lru_cache_add (5.10), folio_add_lru (6.1 - 6.12), mm/folio.c folio_add_lru (7.3).
    """
    if not machine.lru_batches:
        folio.lru = LRU_ON
        return
    batch = batch_of(machine)
    folio.ref_add(batch.holder, 1)
    folio.lru = LRU_BATCH
    batch.folios = (*batch.folios, folio)
    if len(batch.peek("folios")) == PAGEVEC_SIZE:
        drain_batch(batch)


def lru_add_drain(machine: Any) -> None:
    """Empty this CPU's batch."""
    if machine.lru_batches:
        drain_batch(batch_of(machine))


def lru_add_drain_all(machine: Any) -> None:
    """Empty every CPU's batch: each CPU does its own, and the caller waits for them, asleep."""
    might_sleep("lru_add_drain_all")
    for cpu in sorted(machine.lru_batch):
        drain_batch(machine.lru_batch[cpu])


def drain_batch(batch: LruBatch) -> None:
    """One CPU empties its batch: a page is on its list, and then the batch's reference goes.

    Source: mm/swap.c __pagevec_lru_add (5.10), folio_batch_move_lru (6.1 - 6.12), mm/folio.c folio_batch_move_lru
    (7.3).
    """
    touch(batch.oid("folios"))
    folios = batch.peek("folios")
    if not folios:
        return
    batch.folios = ()
    for folio in folios:
        folio.lru = LRU_ON
        folio_put(folio, batch.holder)


def folio_isolate_lru(folio: Folio) -> bool:
    """Take a page off its LRU list; False if it is not on one (never, not yet, or somebody else has it).

    Source: mm/vmscan.c isolate_lru_page (5.10), folio_isolate_lru (from 6.1).
    """
    if folio.cmpxchg("lru", LRU_ON, LRU_ISOLATED) != LRU_ON:
        return False
    folio.ref_add(ISOLATION, 1)
    return True


def folio_putback_lru(machine: Any, folio: Folio) -> None:
    """Give back what ``folio_isolate_lru`` took.

    Source: mm/vmscan.c putback_lru_page (5.10), folio_putback_lru (from 6.1).
    """
    folio_add_lru(machine, folio)
    folio_put(folio, ISOLATION)
