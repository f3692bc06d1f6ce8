"""The reverse map's lock under its kernel names. Source: include/linux/fs.h, functions of the same name.

The lock order that the kernel documents is at the head of mm/rmap.c.
"""

from __future__ import annotations

from mmlitmus.kernel.mm.mm_types import AddressSpace
from mmlitmus.kernel.sync.rwsem import down_read, down_write, up_read, up_write


def i_mmap_lock_read(mapping: AddressSpace) -> None:
    """Walk ``i_mmap``: what is linked stays linked, and its VMAs stay alive."""
    down_read(mapping.i_mmap_rwsem)


def i_mmap_unlock_read(mapping: AddressSpace) -> None:
    """Undo ``i_mmap_lock_read``."""
    up_read(mapping.i_mmap_rwsem)


def i_mmap_lock_write(mapping: AddressSpace) -> None:
    """Change ``i_mmap``."""
    down_write(mapping.i_mmap_rwsem)


def i_mmap_unlock_write(mapping: AddressSpace) -> None:
    """Undo ``i_mmap_lock_write``."""
    up_write(mapping.i_mmap_rwsem)
