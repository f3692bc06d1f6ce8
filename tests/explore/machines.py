"""Small machines that the tests of schedules, replay and minimising share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.findings import Finding, bug
from mmlitmus.explore.ops import CHOOSE, WRITE_ONCE
from mmlitmus.explore.primitives.choice import may_fail
from mmlitmus.explore.primitives.mutex import Mutex, Spinlock
from mmlitmus.explore.primitives.rwsem import RwSem
from mmlitmus.explore.primitives.task import spawn
from mmlitmus.explore.scheduler import Scheduler, Setup
from mmlitmus.explore.state import Cells, Model, Once


class Device(Model):
    __slots__ = ()
    decode = Once()


def revoke(pages: int = 3, *, locked: bool = False, extra_event: bool = False) -> Callable[[], Setup]:
    """A fault that maps pages after a look at the device, against its being switched off, and a bystander."""

    def build() -> Setup:
        memory_lock = RwSem("memory_lock")
        ptl = Spinlock("ptl")
        device = Device("vdev", decode=1)
        pte = Cells("pte", [0] * pages)

        def set_pte(n: int, entry: int) -> None:
            rt.point((WRITE_ONCE, pte.id + n, ()))
            pte.values[n] = entry

        def insert() -> None:
            for n in range(pages):
                ptl.lock()
                set_pte(n, 1)
                ptl.unlock()

        def fault() -> None:
            memory_lock.down_read()
            decode = device.decode
            if extra_event:
                decode = device.decode
            if not locked:
                memory_lock.up_read()
            if decode and not may_fail("alloc_pte", 1):
                insert()
            if locked:
                memory_lock.up_read()

        def disable() -> None:
            memory_lock.down_write()
            for n in range(pages):
                set_pte(n, 0)
            device.decode = 0
            memory_lock.up_write()

        def stale() -> Iterator[Finding]:
            if any(pte.values) and not device.decode:
                yield Finding("invariant", "stale-translation", "a page is mapped and the device is off")

        def other() -> None:
            _ = device.decode

        def watch() -> dict[str, str]:
            shown = {f"pte[{n}]": str(entry) for n, entry in enumerate(pte.values) if entry}
            return {"decode": str(device.decode), **shown}

        return Setup({"fault": fault, "disable": disable, "other": other}, checks=[stale], watch=watch)

    return build


def abba(tasks: int = 2) -> Callable[[], Setup]:
    """Two locks in both orders: an inversion always, a deadlock with one preemption."""

    def build() -> Setup:
        a, b = Mutex("a"), Mutex("b")

        def take(first: Mutex, second: Mutex) -> None:
            first.lock()
            second.lock()
            second.unlock()
            first.unlock()

        order = {f"t{t}": ((a, b) if t % 2 == 0 else (b, a)) for t in range(tasks)}
        return Setup({name: (lambda pair=pair: take(*pair)) for name, pair in order.items()})

    return build


def family() -> Setup:
    """A task that creates others."""
    device = Device("vdev", decode=1)

    def child() -> None:
        device.decode = 0

    def parent() -> None:
        thread = spawn("free", child)
        spawn("free", child)
        if device.decode == 0:
            bug("child-first", "the child was faster")
        thread.join()

    return Setup({"parent": parent}, spawn_slots=2)


def counters(tasks: int, events: int) -> Callable[[], Setup]:
    """Tasks that must alternate strictly for the finding: as many preemptions as there are turns."""

    def build() -> Setup:
        device = Device("vdev", decode=0)

        def work(me: int) -> None:
            for n in range(events):
                if device.decode == n * tasks + me:
                    device.decode = n * tasks + me + 1

        def check() -> Iterator[Finding]:
            if device.peek("decode") == tasks * events:
                yield Finding("invariant", "alternated", "")

        return Setup({f"t{t}": (lambda t=t: work(t)) for t in range(tasks)}, checks=[check])

    return build


class Walk(Scheduler):
    """One random execution."""

    def __init__(self, build: Callable[[], Setup], seed: int, switch: float = 0.5) -> None:
        super().__init__(build)
        self.random = random.Random(seed)
        self.switch = switch
        self.max_events = 300

    def _run(self) -> None:
        self.execute()

    def _pick(self) -> int:
        enabled = self.enabled()
        if not enabled:
            self.status = self._ending()
            return -1
        if self.i >= self.max_events:
            self.status = "truncated"
            return -1
        p = self.cur
        if not self.i or not enabled >> p & 1 or self.random.random() < self.switch:
            p = self.random.choice([t for t in range(self.n) if enabled >> t & 1])
        op = self.pending[p]
        self.choice.append(p)
        self.value.append(self.random.randrange(op[3]) if op[0] == CHOOSE else 0)
        self.i += 1
        return p


def walk(build: Callable[[], Setup], seed: int, switch: float = 0.5) -> list[tuple[str, int]]:
    """The choices of a random execution."""
    engine = Walk(build, seed, switch)
    engine.run()
    return engine.choices()
