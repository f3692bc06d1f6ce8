"""Spinlocks under the kernel's names, for nested acquisition above all.

Source: include/linux/spinlock.h, functions of the same name.
"""

from __future__ import annotations

from mmlitmus.explore.primitives.mutex import Spinlock

SINGLE_DEPTH_NESTING = 1


def spin_lock(lock: Spinlock) -> None:
    """Spin for the lock and take it."""
    lock.lock()


def spin_lock_nested(lock: Spinlock, subclass: int) -> None:
    """``spin_lock`` of a second lock of the same class, in an order that lockdep is told of."""
    lock.lock(subclass)


def spin_unlock(lock: Spinlock) -> None:
    """Give the lock back."""
    lock.unlock()
