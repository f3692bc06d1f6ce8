"""Random small concurrent programs, one family per kind of primitive, and the machine that runs them.

A program is data: a list of instruction lists. Every instruction makes sense wherever it stands (an unlock without its
lock does nothing), so taking instructions out of a program leaves a program. That is what makes shrinking simple.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.contexts import might_sleep
from mmlitmus.explore.findings import Finding, bug
from mmlitmus.explore.ops import READ_ONCE, WRITE_ONCE
from mmlitmus.explore.primitives.choice import choose, may_fail
from mmlitmus.explore.primitives.folio_lock import FolioLock
from mmlitmus.explore.primitives.irq import Cpu
from mmlitmus.explore.primitives.mutex import Mutex, Spinlock
from mmlitmus.explore.primitives.rcu import Rcu
from mmlitmus.explore.primitives.rwsem import RwSem
from mmlitmus.explore.primitives.task import Thread, spawn
from mmlitmus.explore.primitives.wait import WaitQueue
from mmlitmus.explore.runtime import loop_point
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Atomic, Cells, Const, Counter, Ghost, Guarded, Model, Once, Plain, look, touch

Code = tuple[tuple[Any, ...], ...]

#: tasks that a program may create
SPAWNS = 2


@dataclass(frozen=True)
class Program:
    """What each task does. ``family`` and ``seed`` say where it comes from."""

    family: str
    seed: int
    tasks: tuple[Code, ...]

    def __str__(self) -> str:
        lines = [f"{self.family} seed {self.seed}"]
        for t, code in enumerate(self.tasks):
            lines.append(f"  t{t}: " + "; ".join(" ".join(map(str, ins)) for ins in code))
        return "\n".join(lines)


class Data(Model):
    """The plain data that every family may use."""

    __slots__ = ()
    o0 = Once()
    o1 = Once()
    p0 = Plain()
    a0 = Atomic()
    g0 = Ghost()
    ptr = Once()
    c0 = Counter()


class Thing(Model):
    """An object that can be freed."""

    __slots__ = ()
    once = Once()
    plain = Plain()
    mutex = Const()
    guarded = Guarded("mutex")


class TlbCpu(Cpu):
    """A CPU that remembers what it has read, as a TLB does: a primitive that owns data besides its own state."""

    __slots__ = ("tlb", "tlb_id")
    declared_as = {"tlb": "tlb_id"}

    def __init__(self, name: str, task: int) -> None:
        super().__init__(name, task)
        self.tlb_id = rt.engine.allocate(1, self)
        self.tlb: int | None = None

    def object_name(self, offset: int) -> str:
        return self.name


class Machine:
    """One of everything that the program may use."""

    def __init__(self, program: Program, used: set[str], logged: bool = True) -> None:
        self.logged = logged
        self.data = Data("d", o0=0, o1=0, p0=0, a0=0, g0=0, ptr=None, c0=0)
        self.things: list[Thing] = []
        if used & {"lock", "trylock", "unlock", "steal", "peeklock"}:
            kind = {"spinlock": Spinlock, "folio": FolioLock}.get(program.family, Mutex)
            self.locks = [kind("l0"), kind("l1")]
        if used & {"dr", "dw", "tr", "tw", "up", "downgrade", "peeksem", "badup", "baddowngrade"}:
            self.sems = [RwSem("s0"), RwSem("s1")]
        if "folio" in used:
            self.folios = [FolioLock("f0"), FolioLock("f1")]
        if used & {"spin", "unspin"}:
            self.spins = [Spinlock("sp0"), Spinlock("sp1")]
        if used & {"prepare", "schedule", "finish", "wake", "wait"}:
            self.queue = WaitQueue("q")
        if used & {"rl", "ru", "sync", "call", "badru"}:
            self.rcu = Rcu(len(program.tasks) + SPAWNS)
        if used & {"cli", "sti", "ipi", "badsti", "load", "shoot"}:
            cpu = TlbCpu if used & {"load", "shoot"} else Cpu
            self.cpus = [cpu(f"cpu{t}", t) for t in range(len(program.tasks))]
        if used & {"look", "touch", "ipi", "fill"}:
            self.cells = Cells("c", [0, 0, 0])
        if used & {"free", "get", "put", "lockthing", "unlockthing", "guarded"}:
            self.things = [
                Thing(f"thing{n}", once=0, plain=0, mutex=Mutex(f"thing{n}.mutex", "thing"), guarded=0)
                for n in range(2)
            ]

    def outcome(self) -> Any:
        """Everything that could differ: what each task saw, and what is there at the end."""
        data = self.data
        ptr = data.peek("ptr")
        return (
            tuple(sorted((task.name, tuple(task.data)) for task in rt.engine.tasks if task.data is not None)),
            tuple(data.peek(f) for f in ("o0", "o1", "p0", "a0", "g0", "c0")),
            ptr and (ptr.name, ptr.freed, ptr.peek("once")),
            tuple((t.freed, t.peek("once"), t.peek("plain"), t.peek("guarded")) for t in self.things),
            tuple(self.cells.values) if hasattr(self, "cells") else (),
        )

    def check(self) -> Iterator[Finding]:
        """An invariant that some programs break."""
        if self.data.peek("o0") == 2:
            yield Finding("invariant", "o0 is 2")


class Runner:
    """One task at work: its registers, what it holds, and the instructions as methods."""

    def __init__(self, machine: Machine, code: Code, name: str) -> None:
        self.m = machine
        self.code = code
        self.last: Any = 0
        self.held: list[tuple[str, int]] = []
        self.depth = 0  # of RCU sections
        self.irq = 0  # how often this task has disabled interrupts
        self.keeps = False  # what it holds at its end
        self.children: list[Thread] = []
        self.own: Thing | None = None
        self.log: list[Any] = []
        self.name = name

    def __call__(self) -> None:
        self.run()

    def run(self) -> None:
        if self.m.logged:
            rt.current().data = self.log
        skip = 0
        code = self.code
        own = self.name.startswith("t")  # not a task that another one creates: those run within a function of `spawn`
        for n, ins in enumerate(code):
            if own and not self.m.logged:
                loop_point(self, skip, code, own, n, ins)
            if skip:
                skip -= 1
            elif ins[0] == "skip":
                skip = ins[2] if self.last == ins[1] else 0
            else:
                getattr(self, "do_" + ins[0])(*ins[1:])
        while self.held and not self.keeps:
            self.release(*self.held[-1])
        while self.irq and not self.keeps:
            self.do_sti()
        while self.depth and not self.keeps:
            self.do_ru()

    def see(self, value: Any) -> None:
        self.last = value
        if self.m.logged:
            self.log.append(value)

    # -- data
    def do_r(self, f: str) -> None:
        self.see(getattr(self.m.data, f))

    def do_w(self, f: str, v: int) -> None:
        setattr(self.m.data, f, v)

    def do_marked(self, f: str, v: int) -> None:
        """READ_ONCE (``v`` is 0) or WRITE_ONCE of a field whatever it is declared as."""
        data = self.m.data
        rt.point((WRITE_ONCE if v else READ_ONCE, data.oid(f), ()))
        if v:
            data._values[data.fields[f].at] = v
        else:
            self.see(data.peek(f))

    def do_inc(self, f: str) -> None:
        setattr(self.m.data, f, getattr(self.m.data, f) + 1)

    def do_xchg(self, f: str, v: int) -> None:
        self.see(self.m.data.xchg(f, v))

    def do_cas(self, f: str, old: int, new: int) -> None:
        self.see(self.m.data.cmpxchg(f, old, new))

    def do_add(self, f: str, v: int) -> None:
        self.see(self.m.data.add_return(f, v))

    def do_count(self, v: int) -> None:
        self.m.data.add("c0", v)

    def do_counted(self) -> None:
        self.see(self.m.data.c0)

    def do_lookcount(self) -> None:
        look([self.m.data.oid("g0"), self.m.data.oid("c0")])
        self.see(self.m.data.peek("c0"))

    def do_bugif(self, v: int) -> None:
        if self.last == v:
            bug("oops", "the program says so")

    # -- locks
    def do_lock(self, n: int) -> None:
        self.m.locks[n].lock()
        self.held.append(("lock", n))

    def do_trylock(self, n: int) -> None:
        got = self.m.locks[n].trylock()
        self.see(got)
        if got:
            self.held.append(("lock", n))

    def do_unlock(self, n: int) -> None:
        if ("lock", n) in self.held:
            self.release("lock", n)

    def do_steal(self, n: int) -> None:
        """Unlock what may be somebody else's: a bad unlock balance."""
        self.m.locks[n].unlock()
        if ("lock", n) in self.held:
            self.held.remove(("lock", n))

    def release(self, mode: str, n: int) -> None:
        self.held.remove((mode, n))
        if mode == "lock":
            self.m.locks[n].unlock()
        elif mode == "spin":
            self.m.spins[n].unlock()
        elif mode == "thing":
            self.m.things[n].mutex.unlock()
        elif mode == "read":
            self.m.sems[n].up_read()
        else:
            self.m.sems[n].up_write()

    def do_dr(self, n: int) -> None:
        self.m.sems[n].down_read()
        self.held.append(("read", n))

    def do_dw(self, n: int) -> None:
        self.m.sems[n].down_write()
        self.held.append(("write", n))

    def do_tr(self, n: int) -> None:
        got = self.m.sems[n].down_read_trylock()
        self.see(got)
        if got:
            self.held.append(("read", n))

    def do_tw(self, n: int) -> None:
        got = self.m.sems[n].down_write_trylock()
        self.see(got)
        if got:
            self.held.append(("write", n))

    def do_up(self, n: int) -> None:
        for mode, k in reversed(self.held):
            if mode in ("read", "write") and k == n:
                self.release(mode, n)
                return

    def do_downgrade(self, n: int) -> None:
        if ("write", n) in self.held:
            self.held.remove(("write", n))
            self.m.sems[n].downgrade_write()
            self.held.append(("read", n))

    def do_badup(self, mode: str, n: int) -> None:
        """Release a semaphore that may be somebody else's, or nobody's."""
        sem = self.m.sems[n]
        sem.up_read() if mode == "read" else sem.up_write()
        if (mode, n) in self.held:
            self.held.remove((mode, n))

    def do_baddowngrade(self, n: int) -> None:
        had = ("write", n) in self.held
        self.m.sems[n].downgrade_write()
        if had:
            self.held.remove(("write", n))
            self.held.append(("read", n))

    def do_spin(self, n: int) -> None:
        self.m.spins[n].lock()
        self.held.append(("spin", n))

    def do_folio(self, n: int) -> None:
        self.m.folios[n].lock()
        self.m.folios[n].unlock()

    def do_alloced(self) -> None:
        """An allocation that may sleep."""
        might_sleep("kmalloc")

    def do_unspin(self, n: int) -> None:
        if ("spin", n) in self.held:
            self.release("spin", n)

    def do_keep(self) -> None:
        self.keeps = True

    def do_peeklock(self, n: int) -> None:
        look([self.m.locks[n].id])
        self.see(self.m.locks[n].state is None)

    def do_peeksem(self, n: int) -> None:
        look([self.m.sems[n].id, self.m.sems[n].id + 1])
        self.see(self.m.sems[n].state)

    # -- sleeping
    def do_prepare(self) -> None:
        self.m.queue.prepare_to_wait()

    def do_schedule(self) -> None:
        self.m.queue.schedule()

    def do_finish(self) -> None:
        self.m.queue.finish_wait()

    def do_wake(self) -> None:
        self.m.queue.wake_up()

    def do_wait(self, f: str, v: int) -> None:
        self.m.queue.wait_event(lambda: getattr(self.m.data, f) == v)

    # -- RCU
    def do_rl(self) -> None:
        self.m.rcu.read_lock()
        self.depth += 1

    def do_ru(self) -> None:
        if self.depth:
            self.depth -= 1
            self.m.rcu.read_unlock()

    def do_badru(self) -> None:
        """Leave a section that the task may not be in."""
        self.depth -= self.depth > 0
        self.m.rcu.read_unlock()

    def do_sync(self) -> None:
        self.m.rcu.synchronize()

    def do_call(self, code: Code) -> None:
        self.m.rcu.call("cb", Runner(self.m, code, "cb"))

    # -- interrupts: task t runs on cpu t
    def do_cli(self) -> None:
        if rt.engine.cur < len(self.m.cpus):
            self.m.cpus[rt.engine.cur].local_irq_disable()
            self.irq += 1

    def do_sti(self) -> None:
        if self.irq:
            self.irq -= 1
            self.m.cpus[rt.engine.cur].local_irq_enable()

    def do_badsti(self) -> None:
        """Turn interrupts on, whether the task has turned them off or not."""
        if rt.engine.cur < len(self.m.cpus):
            self.irq -= self.irq > 0
            self.m.cpus[rt.engine.cur].local_irq_enable()

    def do_ipi(self, cpu: int, cell: int, v: int) -> None:
        cells = self.m.cells

        def handler() -> None:
            cells.values[cell] = cells.values[cell] * 4 + v

        cpu %= len(self.m.cpus)
        self.m.cpus[cpu].ipi(handler, (cells.id + cell,))

    def do_load(self) -> None:
        """Read a field through what this CPU remembers of it."""
        cpu = self.m.cpus[rt.engine.cur]
        data = self.m.data
        touch(cpu.tlb_id, reads=[data.oid("g0")])
        if cpu.tlb is None:
            cpu.tlb = data.g0
        self.see(cpu.tlb)

    def do_shoot(self, v: int) -> None:
        """Change the field, and have every CPU forget it: the other ones one after the other, by interrupts."""
        touch(self.m.data.oid("g0"))
        self.m.data.g0 = v
        for t, cpu in enumerate(self.m.cpus):
            if t == rt.engine.cur:
                touch(cpu.tlb_id)
                cpu.tlb = None
            else:
                cpu.ipi(lambda cpu=cpu: setattr(cpu, "tlb", None), (cpu.tlb_id,))

    def do_fill(self, cell: int, v: int) -> None:
        touch(self.m.cells.id + cell)
        self.see(self.m.cells.values[cell])
        self.m.cells.values[cell] = v

    # -- choices
    def do_choose(self, n: int) -> None:
        self.see(int(choose("pick", tuple(map(str, range(n))))))

    def do_alloc(self, budget: int) -> None:
        self.see(may_fail("alloc", budget))

    # -- several objects in one event
    def do_look(self, cells: tuple[int, ...]) -> None:
        base = self.m.cells.id
        look(base + c for c in cells)
        self.see(tuple(self.m.cells.values[c] for c in cells))

    def do_touch(self, own: int, writes: tuple[int, ...], reads: tuple[int, ...]) -> None:
        base = self.m.cells.id
        ghost = self.m.data.oid("g0")
        touch(base + own, [base + w for w in writes] + [ghost], [base + r for r in reads])
        values = self.m.cells.values
        values[own] = 1 + sum(values[r] for r in reads) + values[own]
        for w in writes:
            values[w] = values[own] + 1
        self.m.data.g0 += 1

    # -- life and death
    def do_free(self, n: int) -> None:
        self.m.things[n].free()

    def do_get(self, n: int, f: str) -> None:
        self.see(getattr(self.m.things[n], f))

    def do_put(self, n: int, f: str, v: int) -> None:
        setattr(self.m.things[n], f, v)

    def do_lockthing(self, n: int) -> None:
        if ("thing", n) not in self.held:
            self.m.things[n].mutex.lock()
            self.held.append(("thing", n))

    def do_unlockthing(self, n: int) -> None:
        if ("thing", n) in self.held:
            self.release("thing", n)

    def do_guarded(self, n: int, v: int) -> None:
        thing = self.m.things[n]
        if ("thing", n) not in self.held:
            assert thing.guarded >= 0  # a finding, and the search owes us no more than that
        elif v:
            thing.guarded = v
        else:
            self.see(thing.guarded)

    def do_new(self) -> None:
        task = rt.current()
        self.own = Thing(f"{task.name}.{task.count('thing')}", once=0, plain=0, guarded=0)

    def do_publish(self) -> None:
        self.m.data.ptr = self.own

    def do_follow(self, v: int) -> None:
        thing = self.m.data.ptr
        self.see(thing and thing.name)
        if thing is not None:
            if v:
                thing.once = v
            else:
                self.see(thing.once)

    def do_freeptr(self) -> None:
        thing = self.m.data.xchg("ptr", None)
        if thing is not None:
            thing.free()

    # -- tasks
    def do_spawn(self, code: Code) -> None:
        self.children.append(spawn("child", Runner(self.m, code, "child")))

    def do_join(self) -> None:
        if self.children:
            self.children.pop(0).join()


def instructions(code: Code) -> Iterator[tuple[Any, ...]]:
    """The code's instructions and those of the tasks that it creates."""
    for ins in code:
        yield ins
        if ins[0] in ("spawn", "call"):
            yield from instructions(ins[1])


def runner(machine: Machine, code: Code) -> Callable[[], None]:
    """A task that nothing tells apart from another one with the same code."""
    return lambda: Runner(machine, code, "t").run()


def build(program: Program, *, logged: bool = True, alike: bool = False) -> Callable[[], Setup]:
    """The program as something an explorer can run. ``logged``: each task's outcome is all that it has seen; else what
    it has seen is forgotten but for the last, so that many ways lead to the same state. ``alike``: tasks of the same
    code are alike (only where they are not logged).
    """
    spawns = sum(ins[0] in ("spawn", "call") for code in program.tasks for ins in code)
    used = {ins[0] for code in program.tasks for ins in instructions(code)}

    def setup() -> Setup:
        m = Machine(program, used, logged)
        tasks: dict[str, Callable[[], Any]] = {
            f"t{t}": runner(m, code) if alike else Runner(m, code, f"t{t}") for t, code in enumerate(program.tasks)
        }
        return Setup(dict(tasks), checks=[m.check], outcome=m.outcome, spawn_slots=spawns, context=m)

    return setup


# -- the families -------------------------------------------------------------------------------------------------
Menu = list[tuple[int, Callable[[random.Random], tuple[Any, ...]]]]

_ONCE = ("o0", "o1")


def _data(fields: tuple[str, ...] = _ONCE) -> Menu:
    return [
        (4, lambda r: ("r", r.choice(fields))),
        (4, lambda r: ("w", r.choice(fields), r.randrange(1, 3))),
        (1, lambda r: ("inc", r.choice(fields))),
    ]


_FLOW: Menu = [
    (1, lambda r: ("skip", r.randrange(3), r.randrange(1, 3))),
]
_ATOMIC: Menu = [
    (2, lambda r: ("cas", r.choice(("o0", "a0")), r.randrange(2), r.randrange(1, 3))),
    (1, lambda r: ("xchg", r.choice(("o0", "a0")), r.randrange(1, 3))),
    (1, lambda r: ("add", r.choice(("o0", "a0")), 1)),
]
_MARKED: Menu = [
    (2, lambda r: ("marked", "p0", r.randrange(2))),
    (1, lambda r: ("xchg", "p0", 1)),
]
_COUNT: Menu = [
    (3, lambda r: ("count", r.randrange(1, 3))),
    (2, lambda r: ("counted",)),
    (1, lambda r: ("lookcount",)),
]
_LOCK: Menu = [
    (5, lambda r: ("lock", r.randrange(2))),
    (3, lambda r: ("trylock", r.randrange(2))),
    (5, lambda r: ("unlock", r.randrange(2))),
]
_RWSEM: Menu = [
    (4, lambda r: ("dr", r.choice((0, 0, 1)))),
    (3, lambda r: ("dw", r.choice((0, 0, 1)))),
    (2, lambda r: ("tr", r.choice((0, 0, 1)))),
    (2, lambda r: ("tw", r.choice((0, 0, 1)))),
    (5, lambda r: ("up", r.choice((0, 0, 1)))),
    (2, lambda r: ("downgrade", r.choice((0, 0, 1)))),
]
_BALANCE: Menu = [
    (1, lambda r: ("badup", r.choice(("read", "write")), 0)),
    (1, lambda r: ("baddowngrade", 0)),
]
_CONTEXT: Menu = [
    (3, lambda r: ("spin", r.randrange(2))),
    (2, lambda r: ("unspin", r.randrange(2))),
    (2, lambda r: ("rl",)),
    (1, lambda r: ("ru",)),
    (1, lambda r: ("badru",)),
    (2, lambda r: ("cli",)),
    (1, lambda r: ("sti",)),
    (1, lambda r: ("badsti",)),
    (2, lambda r: ("prepare",)),
    (1, lambda r: ("finish",)),
    (1, lambda r: ("wake",)),
    (1, lambda r: ("schedule",)),
    (2, lambda r: ("lock", 0)),
    (1, lambda r: ("unlock", 0)),
    (1, lambda r: (r.choice(("dr", "dw")), 0)),
    (1, lambda r: ("up", 0)),
    (1, lambda r: (r.choice(("sync", "alloced")),)),
    (1, lambda r: ("folio", 0)),
    (1, lambda r: ("wait", "o0", 1)),
    (1, lambda r: ("ipi", r.randrange(2), 0, 1)),
    (2, lambda r: ("keep",)),
]
_WAIT: Menu = [
    (3, lambda r: ("prepare",)),
    (3, lambda r: ("schedule",)),
    (1, lambda r: ("finish",)),
    (3, lambda r: ("wake",)),
    (2, lambda r: ("wait", "o0", 1)),
    (2, lambda r: ("w", "o0", 1)),
]
_RCU: Menu = [
    (3, lambda r: ("rl",)),
    (3, lambda r: ("ru",)),
    (3, lambda r: ("sync",)),
    (1, lambda r: ("call", _sub(r, [*_data(), (1, lambda r: ("free", 0))]))),
    (1, lambda r: ("get", 0, "once")),
]
_IRQ: Menu = [
    (4, lambda r: ("cli",)),
    (3, lambda r: ("sti",)),
    (4, lambda r: ("ipi", r.randrange(3), r.randrange(2), r.randrange(1, 3))),
    (3, lambda r: ("fill", r.randrange(2), r.randrange(1, 3))),
]
_TLB: Menu = [
    (4, lambda r: ("load",)),
    (3, lambda r: ("shoot", r.randrange(1, 4))),
    (3, lambda r: ("cli",)),
    (3, lambda r: ("sti",)),
]
_CHOICE: Menu = [
    (3, lambda r: ("choose", r.randrange(2, 4))),
    (2, lambda r: ("alloc", r.randrange(1, 3))),
]
_GHOST: Menu = [
    (4, lambda r: ("look", tuple(r.sample(range(3), r.randrange(1, 4))))),
    (4, lambda r: _touch(r)),
    (1, lambda r: ("fill", r.randrange(3), r.randrange(1, 3))),
]
_PEEK: Menu = [
    (1, lambda r: ("peeklock", r.randrange(2))),
    (1, lambda r: ("peeksem", r.randrange(2))),
    *[(1, item[1]) for item in (*_LOCK, *_RWSEM)],
]
_LIFE: Menu = [
    (2, lambda r: ("free", r.randrange(2))),
    (3, lambda r: ("get", r.randrange(2), r.choice(("once", "plain")))),
    (3, lambda r: ("put", r.randrange(2), r.choice(("once", "plain")), r.randrange(1, 3))),
    (2, lambda r: ("new",)),
    (2, lambda r: ("publish",)),
    (3, lambda r: ("follow", r.randrange(2))),
    (1, lambda r: ("freeptr",)),
    (2, lambda r: ("lockthing", r.randrange(2))),
    (1, lambda r: ("unlockthing", r.randrange(2))),
    (2, lambda r: ("guarded", r.randrange(2), r.randrange(2))),
]
_SPAWN: Menu = [
    (3, lambda r: ("spawn", _sub(r, [*_data(), *_ATOMIC]))),
    (3, lambda r: ("join",)),
]
_BUG: Menu = [(1, lambda r: ("bugif", r.randrange(3)))]


def _touch(r: random.Random) -> tuple[Any, ...]:
    cells = r.sample(range(3), 3)
    cut = r.randrange(3)
    return ("touch", cells[0], tuple(cells[1 : 1 + cut]), tuple(cells[1 + cut :]) if r.random() < 0.5 else ())


def _sub(r: random.Random, menu: Menu) -> Code:
    return tuple(_draw(r, menu) for _ in range(r.randrange(1, 3)))


def _draw(r: random.Random, menu: Menu) -> tuple[Any, ...]:
    at = r.randrange(sum(w for w, _ in menu))
    for weight, make in menu:
        at -= weight
        if at < 0:
            return make(r)
    raise AssertionError("the weights do not add up")


FAMILIES: dict[str, Menu] = {
    "data": [*_data(("o0", "o1", "p0", "a0")), *_ATOMIC, *_MARKED, *_COUNT, *_FLOW, *_BUG],
    "spinlock": [*_data(), *_LOCK, *_FLOW, *_BUG],
    "mutex": [*_data(), *_LOCK, (1, lambda r: ("steal", r.randrange(2))), *_FLOW],
    "folio": [*_data(), *_LOCK, (2, lambda r: ("steal", r.randrange(2))), *_FLOW, *_BUG],
    "rwsem": [*_data(("o0",)), *_RWSEM, *_BUG],
    "wait": [(2, lambda r: ("r", "o0")), *_WAIT, *_FLOW],
    "rcu": [*_data(("o0",)), *_RCU],
    "irq": [*_data(("o0",)), *_IRQ],
    "choice": [*_data(), *_CHOICE, *_FLOW, *_FLOW, *_BUG],
    "ghost": [*_GHOST, (1, lambda r: ("r", "o0")), (1, lambda r: ("w", "o0", 1)), *_PEEK],
    "lifetime": [*_LIFE],
    "spawn": [*_data(), *_SPAWN],
    "tlb": [*_data(("o0",)), *_TLB],
    "balance": [*_data(("o0",)), *_RWSEM, *_BALANCE],
    "context": [(2, lambda r: ("r", "o0")), (2, lambda r: ("w", "o0", 1)), *_CONTEXT],
}

MIXED = "mixed"  # parts of two or three families; of those that can be put together
_PARTS = sorted(set(FAMILIES) - {"tlb", "balance", "context"})

#: tasks -> instructions in all, so that the naive explorer can finish
_SIZES = {2: (5, 10), 3: (4, 8), 4: (4, 7)}
#: ... or sleep sets alone
_LARGE = {2: (8, 15), 3: (7, 13), 4: (6, 11)}


def generate(family: str, seed: int, *, large: bool = False) -> Program:
    """The program of a family with this seed."""
    r = random.Random(f"{family}/{seed}")
    if family == MIXED:
        menu = [item for part in r.sample(_PARTS, r.choice((2, 2, 3))) for item in FAMILIES[part]]
    else:
        menu = FAMILIES[family]
    if r.random() < 0.5:  # half of the programs use part of the menu only, and so use it more
        menu = [*menu[:2], *r.sample(menu, max(2, len(menu) // 2))]
    n = r.choice((2, 3, 3, 3, 4))
    tasks: list[list[tuple[Any, ...]]] = [[] for _ in range(n)]
    budget = r.randrange(*(_LARGE if large else _SIZES)[n])
    spawns = 0
    for k in range(budget):
        ins = _draw(r, menu)
        if ins[0] in ("spawn", "call"):
            spawns += 1
            budget -= 2  # what it creates counts as well
            if spawns > SPAWNS:
                continue
        budget -= n * (ins[0] == "shoot")  # an interrupt for every CPU
        if k < max(budget, n):
            tasks[k if k < n else r.randrange(n)].append(ins)
    return Program(family, seed, tuple(map(tuple, tasks)))


def generate_alike(family: str, seed: int) -> Program:
    """A program in which two or three tasks have the same code."""
    r = random.Random(f"{family}/{seed}/alike")
    program = generate(family, seed)
    first, *others = sorted(program.tasks, key=len, reverse=True)
    return Program(family, seed, (*[first[:4]] * r.choice((2, 2, 3)), *[code[:2] for code in others[: r.randrange(2)]]))


def smaller(program: Program) -> Iterator[Program]:
    """Programs with one thing less, for shrinking."""
    tasks = program.tasks
    for t in range(len(tasks)):
        if len(tasks) > 1:
            yield Program(program.family, program.seed, tasks[:t] + tasks[t + 1 :])
    for t, code in enumerate(tasks):
        for shorter in _shorter(code):
            yield Program(program.family, program.seed, (*tasks[:t], shorter, *tasks[t + 1 :]))


def _shorter(code: Code) -> Iterator[Code]:
    for n, ins in enumerate(code):
        yield code[:n] + code[n + 1 :]
        if ins[0] in ("spawn", "call"):
            for inner in _shorter(ins[1]):
                yield (*code[:n], (ins[0], inner), *code[n + 1 :])
