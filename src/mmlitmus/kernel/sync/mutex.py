"""Mutexes under the kernel's names. Semantics: explore/primitives/mutex.py.

Source: kernel/locking/mutex.c, functions of the same name.
"""

from __future__ import annotations

from mmlitmus.explore.primitives.mutex import Mutex


def mutex_lock(lock: Mutex) -> None:
    """Wait for the mutex and take it."""
    lock.lock()


def mutex_trylock(lock: Mutex) -> bool:
    """Take the mutex if it is free."""
    return lock.trylock()


def mutex_unlock(lock: Mutex) -> None:
    """Give the mutex back."""
    lock.unlock()
