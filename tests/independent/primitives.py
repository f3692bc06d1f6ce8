"""What locks, waiting and interrupts do, written from the kernel's sources a second time.

A task is a generator. It yields before each of its events: a condition under which the event can happen, with what is
to be said if it never can (``Wait``), or how many values a choice has (an int). What comes behind the yield is the
event and whatever follows, up to the next one. Everything that tasks share is in ``World.s``, whose values are
immutable.

Locks are not those of the engines: a semaphore and a mutex have one queue of all that wait, in order of arrival, and
are handed over by who releases them (kernel/locking/rwsem.c rwsem_mark_wake; kernel/locking/mutex.c,
MUTEX_FLAG_HANDOFF); a task that is woken takes one more event to notice. A wait queue's entry goes with the wake-up,
and sleeping is a state of the task (kernel/sched/wait.c autoremove_wake_function). RCU counts sections.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

Event = Generator[Any, Any, Any]


@dataclass
class Wait:
    """An event that has to wait until ``ready``: for ``on``, a class of locks, which the tasks ``by()`` keep."""

    ready: Callable[[], bool]
    on: str
    by: Callable[[], list[int]]


class Died(Exception):
    """A BUG: the task ends where it is."""


@dataclass
class Task:
    """What is one task's own."""

    number: int
    name: str
    held: list[tuple[str, str]] = field(default_factory=list)  # (lock, mode), as lockdep has it
    spins: list[str] = field(default_factory=list)
    rcu: int = 0
    irqs_off: int = 0
    prepared: bool = False
    log: list[Any] | None = None
    history: list[Any] = field(default_factory=list)  # all that it has seen
    counts: dict[str, int] = field(default_factory=dict)
    dead: bool = False


class World:
    """Shared state, tasks, and what has been said so far."""

    def __init__(self) -> None:
        self.s: dict[Any, Any] = {}
        self.tasks: list[Task] = []
        self.running: list[Event | None] = []
        self.pending: list[Any] = []  # None: has ended
        self.said: set[tuple[str, str]] = set()
        self.edges: set[tuple[str, str]] = set()
        self.classes: dict[str, str] = {}

    # -- tasks
    def start(self, name: str, body: Callable[[Task], Event]) -> Task:
        """A new task, run up to its first event."""
        me = Task(len(self.tasks), name)
        self.tasks.append(me)
        self.running.append(body(me))
        self.pending.append(None)
        self._advance(me, None)
        return me

    def _advance(self, me: Task, value: Any) -> None:
        run = self.running[me.number]
        assert run is not None
        try:
            self.pending[me.number] = run.send(value)
            return
        except StopIteration:
            self.leaves(me)
        except Died:
            me.dead = True
        self.pending[me.number] = self.running[me.number] = None

    def moves(self) -> list[tuple[int, int]]:
        """Every (task, value) that can happen next."""
        out: list[tuple[int, int]] = []
        for t, run in enumerate(self.running):
            if run is not None:
                wants = self.pending[t]
                if isinstance(wants, int):
                    out += [(t, v) for v in range(wants)]
                elif wants is None or wants.ready():
                    out.append((t, 0))
        return out

    def do(self, move: tuple[int, int]) -> None:
        """Let a task go on."""
        t, value = move
        me = self.tasks[t]
        me.history.append(("step", value))
        self._advance(me, value)

    def key(self) -> Any:
        """The state: what is shared, and what each task has seen, which decides where it is."""
        return frozenset(self.s.items()), tuple(tuple(t.history) for t in self.tasks)

    def stuck(self) -> tuple[tuple[str, ...], str] | None:
        """Nobody can go on: who is in the deadlock, and what it is called. None if nobody waits who might have got in.

        Behind a task that died one waits in vain, and that is the BUG's doing.
        """
        waiting = [t for t, run in enumerate(self.running) if run is not None]
        lost = {t.number for t in self.tasks if t.dead}
        if lost:
            lost |= {t for t in waiting if not self.pending[t].by()}
        while True:
            more = {t for t in waiting if t not in lost and lost & set(self.pending[t].by())}
            if not more:
                break
            lost |= more
        left = [t for t in waiting if t not in lost]
        if not left:
            return None
        on = sorted({self.pending[t].on for t in left})
        return tuple(sorted(self.tasks[t].name for t in left)), "deadlock " + " / ".join(on)

    def see(self, me: Task, value: Any) -> Any:
        """The task has seen something."""
        me.history.append(value)
        return value

    # -- what it may do where it is (kernel/sched/core.c, kernel/locking/lockdep.c)
    def say(self, kind: str, name: str) -> None:
        self.said.add((kind, name))

    def might_sleep(self, me: Task) -> None:
        if me.prepared:
            self.say("sleep-in-atomic", "do not call blocking ops when !TASK_RUNNING")
        if me.spins or me.rcu > 0 or me.irqs_off > 0:
            self.say("sleep-in-atomic", "sleeping function called from invalid context")

    def leaves(self, me: Task) -> None:
        if me.held or me.rcu > 0:
            self.say("held-at-end", "lock held when returning to user space")
        if me.irqs_off > 0:
            self.say("held-at-end", "syscall left IRQs disabled")

    def asks(self, me: Task, lock: str) -> None:
        """lockdep: the order of classes."""
        for other, _ in me.held:
            self.edges.add((self.cls(other), self.cls(lock)))

    def cls(self, lock: str) -> str:
        return self.classes.get(lock, lock)

    def gives_back(self, me: Task, lock: str, mode: str) -> bool:
        """Was it held so?"""
        for n in range(len(me.held) - 1, -1, -1):
            if me.held[n] == (lock, mode):
                del me.held[n]
                return True
        self.say("BUG", "bad unlock balance")
        return False

    # -- spinlocks: a word that is set and cleared; lib: include/asm-generic/qspinlock.h
    def spin_lock(self, me: Task, lock: str) -> Event:
        self.asks(me, lock)
        yield Wait(lambda: self.s[lock] is None, self.cls(lock), lambda: self._owner(lock))
        self.s[lock] = me.number
        me.spins.append(lock)
        me.held.append((lock, "lock"))

    def spin_trylock(self, me: Task, lock: str) -> Event:
        yield None
        if self.s[lock] is not None:
            return self.see(me, False)
        self.s[lock] = me.number
        me.spins.append(lock)
        me.held.append((lock, "lock"))
        return self.see(me, True)

    def spin_unlock(self, me: Task, lock: str) -> Event:
        yield None
        self.s[lock] = None
        if self.gives_back(me, lock, "lock"):
            me.spins.remove(lock)

    def _owner(self, lock: str) -> list[int]:
        return [] if self.s[lock] is None else [self.s[lock]]

    # -- mutexes: (owner, who waits in order of arrival); handed over
    def mutex_lock(self, me: Task, lock: str) -> Event:
        self.might_sleep(me)
        self.asks(me, lock)
        yield None
        owner, queue = self.s[lock]
        if owner is None:
            self.s[lock] = (me.number, ())
        else:
            self.s[lock] = (owner, (*queue, me.number))
            granted = ("granted", lock, me.number)
            yield Wait(lambda: granted in self.s, self.cls(lock), lambda: self._before(lock, me))
            del self.s[granted]
        me.held.append((lock, "lock"))

    def _before(self, lock: str, me: Task) -> list[int]:
        owner, queue = self.s[lock]
        return [owner, *queue[: queue.index(me.number)]]

    def mutex_trylock(self, me: Task, lock: str) -> Event:
        yield None
        if self.s[lock][0] is not None:
            return self.see(me, False)
        self.s[lock] = (me.number, ())
        me.held.append((lock, "lock"))
        return self.see(me, True)

    def mutex_unlock(self, me: Task, lock: str) -> Event:
        """Whoever calls it: the word is cleared, or handed to the next."""
        yield None
        _, queue = self.s[lock]
        self.s[lock] = (queue[0], queue[1:]) if queue else (None, ())
        if queue:
            self.s["granted", lock, queue[0]] = True
        self.gives_back(me, lock, "lock")

    # -- the folio lock: a bit of nobody's (mm/filemap.c)
    def folio_lock(self, me: Task, lock: str) -> Event:
        self.might_sleep(me)
        yield Wait(lambda: self.s[lock] is None, self.cls(lock), lambda: self._owner(lock))
        self.s[lock] = me.number

    def folio_trylock(self, me: Task, lock: str) -> Event:
        yield None
        free = self.s[lock] is None
        if free:
            self.s[lock] = me.number
        return self.see(me, free)

    def folio_unlock(self, me: Task, lock: str) -> Event:
        yield None
        if self.s[lock] is None:
            self.say("BUG", "folio not locked")
        self.s[lock] = None

    # -- semaphores: (writer, readers, who waits: (task, writes) in order of arrival); handed over
    def down(self, me: Task, sem: str, writes: bool) -> Event:
        self.might_sleep(me)
        self.asks(me, sem)
        yield None
        writer, readers, queue = self.s[sem]
        mine = (me.number, writes)
        if writer is None and not queue and not (writes and readers):
            self.s[sem] = (me.number, readers, queue) if writes else (writer, self._with(readers, me.number), queue)
        else:
            self.s[sem] = (writer, readers, (*queue, mine))
            granted = ("granted", sem, me.number)
            yield Wait(lambda: granted in self.s, self.cls(sem), lambda: self._ahead(sem, mine))
            del self.s[granted]
        me.held.append((sem, "write" if writes else "read"))

    def _with(self, readers: tuple[int, ...], one: int) -> tuple[int, ...]:
        return tuple(sorted((*readers, one)))

    def _ahead(self, sem: str, mine: tuple[int, bool]) -> list[int]:
        writer, readers, queue = self.s[sem]
        return [*readers, *([] if writer is None else [writer]), *[t for t, _ in queue[: queue.index(mine)]]]

    def _hand_over(self, sem: str) -> None:
        """The lock goes to who has waited longest; with a reader, to all readers that wait right behind him."""
        writer, readers, queue = self.s[sem]
        if writer is not None:
            return
        if queue and queue[0][1]:
            if not readers:
                self.s[sem] = (queue[0][0], (), queue[1:])
                self.s["granted", sem, queue[0][0]] = True
            return
        while queue and not queue[0][1]:
            readers = self._with(readers, queue[0][0])
            self.s["granted", sem, queue[0][0]] = True
            queue = queue[1:]
        self.s[sem] = (None, readers, queue)

    def try_down(self, me: Task, sem: str, writes: bool) -> Event:
        yield None
        writer, readers, queue = self.s[sem]
        if writer is not None or queue or (writes and readers):
            return self.see(me, False)
        self.s[sem] = (me.number, (), ()) if writes else (None, self._with(readers, me.number), ())
        me.held.append((sem, "write" if writes else "read"))
        return self.see(me, True)

    def up(self, me: Task, sem: str, writes: bool) -> Event:
        yield None
        if self.gives_back(me, sem, "write" if writes else "read"):
            writer, readers, queue = self.s[sem]
            left = list(readers)
            if not writes:
                left.remove(me.number)
            self.s[sem] = (None if writes else writer, tuple(left), queue)
            self._hand_over(sem)

    def downgrade(self, me: Task, sem: str) -> Event:
        yield None
        if self.gives_back(me, sem, "write"):
            _, readers, queue = self.s[sem]
            self.s[sem] = (None, self._with(readers, me.number), queue)
            me.held.append((sem, "read"))
            self._hand_over(sem)

    # -- waiting to be woken: who is queued, and who sleeps
    def prepare_to_wait(self, me: Task) -> Event:
        yield None
        self.s["queue"] = tuple(sorted({*self.s["queue"], me.number}))
        self.s["asleep"] = tuple(sorted({*self.s["asleep"], me.number}))
        me.prepared = True

    def schedule(self, me: Task) -> Event:
        if me.spins:
            self.say("sleep-in-atomic", "scheduling while atomic")
        if me.rcu > 0:
            self.say("sleep-in-atomic", "Voluntary context switch within RCU read-side critical section")
        yield Wait(lambda: me.number not in self.s["asleep"], "q", list)
        me.prepared = False

    def finish_wait(self, me: Task) -> Event:
        yield None
        self.s["queue"] = tuple(t for t in self.s["queue"] if t != me.number)
        self.s["asleep"] = tuple(t for t in self.s["asleep"] if t != me.number)
        me.prepared = False

    def wake_up(self, me: Task) -> Event:
        yield None
        self.s["asleep"] = tuple(t for t in self.s["asleep"] if t not in self.s["queue"])
        self.s["queue"] = ()

    def wait_event(self, me: Task, condition: Callable[[], Event]) -> Event:
        """include/linux/wait.h: nothing of the queue is touched if the condition holds at once."""
        self.might_sleep(me)
        if (yield from condition()):
            return
        while True:
            yield from self.prepare_to_wait(me)
            if (yield from condition()):
                break
            yield from self.schedule(me)
        yield from self.finish_wait(me)

    # -- RCU: how many sections a task has begun, and how deep it is
    def rcu_read_lock(self, me: Task) -> Event:
        yield None
        begun, depth = self.s.get(("rcu", me.number), (0, 0))
        self.s["rcu", me.number] = (begun + (depth == 0), depth + 1)
        me.rcu += 1

    def rcu_read_unlock(self, me: Task) -> Event:
        yield None
        begun, depth = self.s.get(("rcu", me.number), (0, 0))
        if depth == 0:
            self.say("BUG", "bad unlock balance")
            return
        self.s["rcu", me.number] = (begun, depth - 1)
        me.rcu -= 1

    def grace_period(self, me: Task) -> Event:
        """One event: the sections that run now."""
        yield None
        running = [
            (t.number, self.s["rcu", t.number][0])
            for t in self.tasks
            if t is not me and self.s.get(("rcu", t.number), (0, 0))[1] > 0
        ]
        return self.see(me, tuple(running))

    def over(self, sections: tuple[tuple[int, int], ...]) -> Event:
        """Wait until these are over, one after the other."""
        for t, number in sections:
            yield Wait(lambda t=t, n=number: self._section(t) != n, "rcu", lambda t=t: [t])

    def _section(self, t: int) -> int:
        begun, depth = self.s["rcu", t]
        return begun if depth else 0

    # -- interrupts: how often each CPU has them off; task t runs on CPU t
    def local_irq_disable(self, me: Task) -> Event:
        yield None
        self.s["off", me.number] += 1
        me.irqs_off += 1

    def local_irq_enable(self, me: Task) -> Event:
        yield None
        if me.irqs_off == 0:
            self.say("WARN", "raw_local_irq_restore() called with IRQs enabled")
            return
        self.s["off", me.number] -= 1
        me.irqs_off -= 1

    def ipi(self, me: Task, cpu: int, handler: Callable[[], None]) -> Event:
        if me.irqs_off > 0:
            self.say("WARN", "IPI sent with IRQs disabled")
        yield Wait(lambda: self.s["off", cpu] == 0, "irq", lambda: [cpu])
        handler()
