"""The fair reader-writer semaphore, with downgrade and trylocks.

``down_write`` is two events: it joins the queue (always possible, in conflict with ``down_read``), and it acquires once
it is at the head and the readers are gone. From the moment a writer has queued, new readers wait: this is what makes
recursive read locking a deadlock. Who holds the lock for writing and asks again, in either way, waits for himself. A
reader that waits has no place in the queue of its own: it gets in once no writer holds or waits, which covers every
arrival order because a later arrival of the writer is another interleaving.
An unlock or downgrade by who does not hold the lock is a finding and changes nothing: what the kernel's count is then
depends on the release, and nobody can rely on it.
Not modelled: optimistic spinning, and reader stealing past a queued writer.

Source: kernel/locking/rwsem.c (handoff and RWSEM_READ_FAILED_MASK: a try fails while anybody waits).
"""

from __future__ import annotations

from .. import runtime as rt
from ..contexts import might_sleep
from ..ops import (
    DOWN_READ,
    DOWN_READ_TRYLOCK,
    DOWN_WRITE,
    DOWN_WRITE_ACQUIRE,
    DOWN_WRITE_TRYLOCK,
    DOWNGRADE_WRITE,
    UP_READ,
    UP_WRITE,
)
from ..runtime import Op
from .base import Primitive, ask

State = tuple[tuple[int, ...], tuple[int, ...]]


class RwSem(Primitive):
    """``state`` = (writers in the queue, the holder first; readers).

    Objects: the queue (``id``) and the count of readers (``id + 1``).
    """

    __slots__ = ()
    parts = ("", ".count")

    def __init__(self, name: str, lock_class: str | None = None) -> None:
        super().__init__(name, lock_class)
        self.state: State = ((), ())

    def enabled(self, state: State, op: Op, task: int) -> bool:
        queue, readers = state
        if op[0] == DOWN_READ:
            return not queue
        return queue[:1] == (task,) and task not in queue[1:] and not readers

    def waits_for(self, op: Op, task: int) -> list[int]:
        queue, readers = self.state
        if op[0] == DOWN_READ:
            return list(queue)
        return list(queue[: last(queue, task)]) + list(readers)

    def down_read(self, subclass: int = 0) -> None:
        """Wait until no writer holds or waits, then share."""
        might_sleep("down_read")
        cls = ask(self, "read", subclass)
        rt.point((DOWN_READ, self.id, ()))
        self._share(cls)

    def down_read_trylock(self) -> bool:
        """Share if no writer holds or waits; never waits."""
        rt.point((DOWN_READ_TRYLOCK, self.id, ()))
        if self.state[0]:
            return False
        self._share(self.lock_class)
        return True

    def _share(self, cls: str) -> None:
        engine = rt.engine
        queue, readers = self.state
        self.state = (queue, tuple(sorted((*readers, engine.cur))))
        engine.tasks[engine.cur].held.append((self, "read", cls))

    def up_read(self) -> None:
        """Stop sharing."""
        rt.point((UP_READ, self.id + 1, ()))
        queue, readers = self.state
        me = rt.engine.cur
        if me in readers:
            at = readers.index(me)
            self.state = (queue, readers[:at] + readers[at + 1 :])
        self.release("read")

    def down_write(self, subclass: int = 0) -> None:
        """Queue for, and wait for, exclusive ownership."""
        might_sleep("down_write")
        cls = ask(self, "write", subclass)
        engine = rt.engine
        me = engine.cur
        rt.point((DOWN_WRITE, self.id, ()))
        queue, readers = self.state
        self.state = ((*queue, me), readers)
        rt.point((DOWN_WRITE_ACQUIRE, self.id + 1, ()))
        engine.tasks[me].held.append((self, "write", cls))

    def down_write_trylock(self) -> bool:
        """Take exclusive ownership if nobody holds or waits; never waits."""
        rt.point((DOWN_WRITE_TRYLOCK, self.id, (self.id + 1 << 1 | 1,)))
        if self.state != ((), ()):
            return False
        self.state = ((rt.engine.cur,), ())
        rt.current().held.append((self, "write", self.lock_class))
        return True

    def up_write(self) -> None:
        """Give up exclusive ownership."""
        rt.point((UP_WRITE, self.id, (self.id + 1 << 1 | 1,)))
        self._leave()
        self.release("write")

    def downgrade_write(self) -> None:
        """Turn exclusive ownership into sharing, without letting anybody in between."""
        rt.point((DOWNGRADE_WRITE, self.id, (self.id + 1 << 1 | 1,)))
        cls = next((c for p, m, c in rt.current().held if p is self and m == "write"), None)
        self._leave()
        self.release("write")
        if cls is not None:
            self._share(cls)

    def _leave(self) -> None:
        """Out of the queue, if it is the running task that has the lock."""
        queue, readers = self.state
        if queue[:1] == (rt.engine.cur,):
            self.state = (queue[1:], readers)


def last(queue: tuple[int, ...], task: int) -> int:
    """The last place of ``task`` in the queue: it may hold the lock and wait for it as well."""
    return len(queue) - 1 - queue[::-1].index(task)
