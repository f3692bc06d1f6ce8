"""Read-write semaphores under the kernel's names. Semantics: explore/primitives/rwsem.py.

Source: kernel/locking/rwsem.c, functions of the same name.
"""

from __future__ import annotations

from mmlitmus.explore.primitives.rwsem import RwSem


def down_read(sem: RwSem) -> None:
    """Wait until no writer holds or waits, then share."""
    sem.down_read()


def down_read_trylock(sem: RwSem) -> bool:
    """Share if no writer holds or waits."""
    return sem.down_read_trylock()


def up_read(sem: RwSem) -> None:
    """Stop sharing."""
    sem.up_read()


def down_write(sem: RwSem) -> None:
    """Queue for exclusive ownership and wait for it."""
    sem.down_write()


def down_write_nested(sem: RwSem, subclass: int) -> None:
    """``down_write`` of a second lock of the same class, in an order that lockdep is told of."""
    sem.down_write(subclass)


def down_write_trylock(sem: RwSem) -> bool:
    """Take exclusive ownership if nobody holds or waits."""
    return sem.down_write_trylock()


def up_write(sem: RwSem) -> None:
    """Give up exclusive ownership."""
    sem.up_write()


def downgrade_write(sem: RwSem) -> None:
    """Exclusive to shared, with nobody in between."""
    sem.downgrade_write()
