"""Programs of the oracle's language (tests/explore/programs.py), run by the primitives of this folder.

A program is a family's name and a tuple of tasks, each a tuple of instructions. ``enumerate_all`` goes through every
order of events and every choice, but for states that it has come to before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .primitives import Died, Event, Task, Wait, World

Code = tuple[tuple[Any, ...], ...]
FIELDS = ("o0", "o1", "p0", "a0", "g0", "c0")


@dataclass
class Answer:
    """What a program can come to."""

    outcomes: set[Any] = field(default_factory=set)
    deadlocks: set[tuple[str, ...]] = field(default_factory=set)
    findings: set[tuple[str, str]] = field(default_factory=set)
    edges: set[tuple[str, str]] = field(default_factory=set)
    states: int = 0
    executions: int = 0


def instructions(code: Code) -> Iterator[tuple[Any, ...]]:
    """All instructions, those of created tasks too."""
    for ins in code:
        yield ins
        if ins[0] in ("spawn", "call"):
            yield from instructions(ins[1])


class Machine(World):
    """The world of one program."""

    def __init__(self, family: str, program: tuple[Code, ...]) -> None:
        super().__init__()
        self.family = family
        self.cpus = len(program)
        used = {ins[0] for code in program for ins in instructions(code)}
        s = self.s
        s.update(dict.fromkeys(FIELDS, 0), ptr=None, queue=(), asleep=())
        for n in range(2):
            s[f"l{n}"] = None if family in ("spinlock", "folio") else (None, ())
            s[f"s{n}"] = (None, (), ())
            s[f"sp{n}"] = s[f"f{n}"] = None
        self.has_cells = bool(used & {"look", "touch", "ipi", "fill"})
        self.has_things = bool(used & {"free", "get", "put", "lockthing", "unlockthing", "guarded"})
        for n in range(3):
            s["cell", n] = 0
        for n in range(2):
            s[f"thing{n}.mutex"] = (None, ())
            self.classes[f"thing{n}.mutex"] = "thing"
            self._thing(f"thing{n}")
        for t in range(len(program)):
            s["off", t] = 0
            s["tlb", t] = None
        for t, code in enumerate(program):
            self.start(f"t{t}", lambda me, code=code: Runner(self, me, code).run())

    def _thing(self, name: str) -> None:
        self.s[name, "freed"] = False
        for f in ("once", "plain", "guarded"):
            self.s[name, f] = 0

    def outcome(self) -> Any:
        """What is to be compared at the end."""
        s = self.s
        ptr = s["ptr"]
        return (
            tuple(sorted((t.name, tuple(t.log)) for t in self.tasks if t.log is not None)),
            tuple(s[f] for f in FIELDS),
            ptr and (ptr, s[ptr, "freed"], s[ptr, "once"]),
            tuple(
                (s[f"thing{n}", "freed"], s[f"thing{n}", "once"], s[f"thing{n}", "plain"], s[f"thing{n}", "guarded"])
                for n in range(2)
            )
            if self.has_things
            else (),
            tuple(s["cell", n] for n in range(3)) if self.has_cells else (),
        )

    def end(self, answer: Answer) -> None:
        """Nobody can go on."""
        answer.executions += 1
        deadlock = self.stuck()
        if deadlock is not None:
            answer.deadlocks.add(deadlock[0])
            self.say("deadlock", deadlock[1])
        if self.s["o0"] == 2:
            self.say("invariant", "o0 is 2")
        answer.outcomes.add(self.outcome())


class Runner:
    """One task's code."""

    def __init__(self, w: Machine, me: Task, code: Code) -> None:
        self.w, self.me, self.code = w, me, code
        self.last: Any = 0
        self.mine: list[tuple[str, int]] = []
        self.irq = self.depth = 0
        self.keeps = False
        self.children: list[str] = []
        self.own: str | None = None

    def run(self) -> Event:
        self.me.log = []
        skip = 0
        for ins in self.code:
            if skip:
                skip -= 1
            elif ins[0] == "skip":
                skip = ins[2] if self.last == ins[1] else 0
            elif ins[0] in ("new", "keep", "bugif", "guarded"):  # without an event
                getattr(self, "do_" + ins[0])(*ins[1:])
            else:
                yield from getattr(self, "do_" + ins[0])(*ins[1:])
        if not self.keeps:
            while self.mine:
                yield from self.release(*self.mine[-1])
            while self.irq:
                yield from self.do_sti()
            while self.depth:
                yield from self.do_ru()

    def see(self, value: Any) -> None:
        self.last = value
        assert self.me.log is not None
        self.me.log.append(value)
        self.w.see(self.me, value)

    # -- data
    def get(self, key: Any) -> Event:
        yield None
        return self.w.see(self.me, self.w.s[key])

    def set(self, key: Any, value: Any) -> Event:
        yield None
        self.w.s[key] = value

    def do_r(self, f: str) -> Event:
        self.see((yield from self.get(f)))

    def do_w(self, f: str, v: int) -> Event:
        yield from self.set(f, v)

    def do_marked(self, f: str, v: int) -> Event:
        yield from self.set(f, v) if v else self.do_r(f)

    def do_inc(self, f: str) -> Event:
        yield from self.set(f, (yield from self.get(f)) + 1)

    def change(self, key: Any, new: Any) -> Event:
        """Read and written in one event; returns what was there."""
        yield None
        old = self.w.see(self.me, self.w.s[key])
        self.w.s[key] = new(old)
        return old

    def do_xchg(self, f: str, v: int) -> Event:
        self.see((yield from self.change(f, lambda old: v)))

    def do_cas(self, f: str, old: int, new: int) -> Event:
        self.see((yield from self.change(f, lambda was: new if was == old else was)))

    def do_add(self, f: str, v: int) -> Event:
        self.see((yield from self.change(f, lambda old: old + v)) + v)

    def do_count(self, v: int) -> Event:
        yield None
        self.w.s["c0"] += v

    def do_counted(self) -> Event:
        yield from self.do_r("c0")

    do_lookcount = do_counted

    def do_bugif(self, v: int) -> None:
        if self.last == v:
            self.w.say("BUG", "oops")
            raise Died

    def do_keep(self) -> None:
        self.keeps = True

    # -- locks: what "lock" is depends on the family
    def kind(self) -> str:
        return {"spinlock": "spin", "folio": "folio"}.get(self.w.family, "mutex")

    def do_lock(self, n: int) -> Event:
        yield from getattr(self.w, self.kind() + "_lock")(self.me, f"l{n}")
        self.mine.append(("lock", n))

    def do_trylock(self, n: int) -> Event:
        got = yield from getattr(self.w, self.kind() + "_trylock")(self.me, f"l{n}")
        self.see(got)
        if got:
            self.mine.append(("lock", n))

    def do_unlock(self, n: int) -> Event:
        if ("lock", n) in self.mine:
            yield from self.release("lock", n)

    def do_steal(self, n: int) -> Event:
        yield from getattr(self.w, self.kind() + "_unlock")(self.me, f"l{n}")
        if ("lock", n) in self.mine:
            self.mine.remove(("lock", n))

    def release(self, mode: str, n: int) -> Event:
        self.mine.remove((mode, n))
        w, me = self.w, self.me
        if mode == "lock":
            yield from getattr(w, self.kind() + "_unlock")(me, f"l{n}")
        elif mode == "spin":
            yield from w.spin_unlock(me, f"sp{n}")
        elif mode == "thing":
            yield from w.mutex_unlock(me, f"thing{n}.mutex")
        else:
            yield from w.up(me, f"s{n}", mode == "write")

    def do_peeklock(self, n: int) -> Event:
        state = yield from self.get(f"l{n}")
        self.see((state[0] if self.kind() == "mutex" else state) is None)

    def do_spin(self, n: int) -> Event:
        yield from self.w.spin_lock(self.me, f"sp{n}")
        self.mine.append(("spin", n))

    def do_unspin(self, n: int) -> Event:
        if ("spin", n) in self.mine:
            yield from self.release("spin", n)

    def do_folio(self, n: int) -> Event:
        yield from self.w.folio_lock(self.me, f"f{n}")
        yield from self.w.folio_unlock(self.me, f"f{n}")

    def do_alloced(self) -> Event:
        self.w.might_sleep(self.me)
        yield from ()

    def do_dr(self, n: int) -> Event:
        yield from self.w.down(self.me, f"s{n}", False)
        self.mine.append(("read", n))

    def do_dw(self, n: int) -> Event:
        yield from self.w.down(self.me, f"s{n}", True)
        self.mine.append(("write", n))

    def do_tr(self, n: int) -> Event:
        yield from self.attempt(n, "read")

    def do_tw(self, n: int) -> Event:
        yield from self.attempt(n, "write")

    def attempt(self, n: int, mode: str) -> Event:
        got = yield from self.w.try_down(self.me, f"s{n}", mode == "write")
        self.see(got)
        if got:
            self.mine.append((mode, n))

    def do_up(self, n: int) -> Event:
        for mode, k in reversed(self.mine):
            if mode in ("read", "write") and k == n:
                yield from self.release(mode, n)
                return

    def do_downgrade(self, n: int) -> Event:
        if ("write", n) in self.mine:
            yield from self.do_baddowngrade(n)

    def do_baddowngrade(self, n: int) -> Event:
        yield from self.w.downgrade(self.me, f"s{n}")
        if ("write", n) in self.mine:
            self.mine.remove(("write", n))
            self.mine.append(("read", n))

    def do_badup(self, mode: str, n: int) -> Event:
        yield from self.w.up(self.me, f"s{n}", mode == "write")
        if (mode, n) in self.mine:
            self.mine.remove((mode, n))

    # -- waiting
    def do_prepare(self) -> Event:
        yield from self.w.prepare_to_wait(self.me)

    def do_schedule(self) -> Event:
        yield from self.w.schedule(self.me)

    def do_finish(self) -> Event:
        yield from self.w.finish_wait(self.me)

    def do_wake(self) -> Event:
        yield from self.w.wake_up(self.me)

    def do_wait(self, f: str, v: int) -> Event:
        def condition() -> Event:
            return (yield from self.get(f)) == v

        yield from self.w.wait_event(self.me, condition)

    # -- RCU
    def do_rl(self) -> Event:
        yield from self.w.rcu_read_lock(self.me)
        self.depth += 1

    def do_ru(self) -> Event:
        if self.depth:
            self.depth -= 1
            yield from self.w.rcu_read_unlock(self.me)

    def do_badru(self) -> Event:
        self.depth -= self.depth > 0
        yield from self.w.rcu_read_unlock(self.me)

    def do_sync(self) -> Event:
        self.w.might_sleep(self.me)
        yield from self.w.over((yield from self.w.grace_period(self.me)))

    def do_call(self, code: Code) -> Event:
        sections = yield from self.w.grace_period(self.me)
        yield from self.create("cb", code, sections)

    # -- interrupts
    def do_cli(self) -> Event:
        if self.me.number < self.w.cpus:
            yield from self.w.local_irq_disable(self.me)
            self.irq += 1

    def do_sti(self) -> Event:
        if self.irq:
            self.irq -= 1
            yield from self.w.local_irq_enable(self.me)

    def do_badsti(self) -> Event:
        if self.me.number < self.w.cpus:
            self.irq -= self.irq > 0
            yield from self.w.local_irq_enable(self.me)

    def do_ipi(self, cpu: int, cell: int, v: int) -> Event:
        def handler() -> None:
            self.w.s["cell", cell] = self.w.s["cell", cell] * 4 + v

        yield from self.w.ipi(self.me, cpu % self.w.cpus, handler)

    def do_load(self) -> Event:
        yield None
        s, tlb = self.w.s, ("tlb", self.me.number)
        if s[tlb] is None:
            s[tlb] = s["g0"]
        self.see(s[tlb])

    def do_shoot(self, v: int) -> Event:
        yield from self.set("g0", v)
        for cpu in range(self.w.cpus):
            forget = lambda cpu=cpu: self.w.s.update({("tlb", cpu): None})  # noqa: E731
            if cpu == self.me.number:
                yield None
                forget()
            else:
                yield from self.w.ipi(self.me, cpu, forget)

    # -- choices
    def do_choose(self, n: int) -> Event:
        self.see((yield n))

    def do_alloc(self, budget: int) -> Event:
        counts = self.me.counts
        failed = counts.get("failures", 0) < budget and (yield 2) == 1
        counts["failures"] = counts.get("failures", 0) + failed
        self.see(failed)

    # -- several objects in one event
    def do_fill(self, cell: int, v: int) -> Event:
        self.see((yield from self.change(("cell", cell), lambda old: v)))

    def do_look(self, cells: tuple[int, ...]) -> Event:
        yield None
        self.see(tuple(self.w.s["cell", c] for c in cells))

    def do_touch(self, own: int, writes: tuple[int, ...], reads: tuple[int, ...]) -> Event:
        yield None
        s = self.w.s
        s["cell", own] += 1 + sum(s["cell", c] for c in reads)
        for c in writes:
            s["cell", c] = s["cell", own] + 1
        s["g0"] += 1

    # -- life and death
    def used(self, thing: str) -> None:
        if self.w.s[thing, "freed"]:
            self.w.say("use-after-free", "use-after-free Thing")

    def kill(self, thing: str) -> Event:
        yield None
        if self.w.s[thing, "freed"]:
            self.w.say("use-after-free", "double free")
        self.w.s[thing, "freed"] = True

    def do_free(self, n: int) -> Event:
        yield from self.kill(f"thing{n}")

    def do_get(self, n: int, f: str) -> Event:
        yield from self.read_of(f"thing{n}", f)

    def read_of(self, thing: str, f: str) -> Event:
        value = yield from self.get((thing, f))
        self.used(thing)
        self.see(value)

    def do_put(self, n: int, f: str, v: int) -> Event:
        yield from self.write_of(f"thing{n}", f, v)

    def write_of(self, thing: str, f: str, v: int) -> Event:
        yield from self.set((thing, f), v)
        self.used(thing)

    def do_lockthing(self, n: int) -> Event:
        if ("thing", n) not in self.mine:
            yield from self.w.mutex_lock(self.me, f"thing{n}.mutex")
            self.mine.append(("thing", n))

    def do_unlockthing(self, n: int) -> Event:
        if ("thing", n) in self.mine:
            yield from self.release("thing", n)

    def do_guarded(self, n: int, v: int) -> None:
        thing = f"thing{n}"
        self.used(thing)
        if ("thing", n) not in self.mine:
            self.w.say("precondition", "guarded read without mutex")
        elif v:
            self.w.s[thing, "guarded"] = v
        else:
            self.see(self.w.s[thing, "guarded"])

    def do_new(self) -> None:
        counts = self.me.counts
        counts["thing"] = counts.get("thing", 0) + 1
        self.own = f"{self.me.name}.{counts['thing']}"
        self.w._thing(self.own)

    def do_publish(self) -> Event:
        yield from self.set("ptr", self.own)

    def do_follow(self, v: int) -> Event:
        thing = yield from self.get("ptr")
        self.see(thing)
        if thing is not None:
            yield from self.write_of(thing, "once", v) if v else self.read_of(thing, "once")

    def do_freeptr(self) -> Event:
        thing = yield from self.change("ptr", lambda old: None)
        if thing is not None:
            yield from self.kill(thing)

    # -- tasks
    def create(self, what: str, code: Code, sections: tuple[tuple[int, int], ...] = ()) -> Event:
        counts = self.me.counts
        counts[what] = counts.get(what, 0) + 1
        name = f"{what}@{self.me.name}.{counts[what]}"
        yield None
        w = self.w
        w.s["ended", name] = False

        def body(me: Task) -> Event:
            yield None
            yield from w.over(sections)
            yield from Runner(w, me, code).run()
            yield None
            w.s["ended", name] = True

        w.s["number", name] = len(w.tasks)
        w.start(name, body)
        return name

    def do_spawn(self, code: Code) -> Event:
        self.children.append((yield from self.create("child", code)))

    def do_join(self) -> Event:
        if self.children:
            name = self.children.pop(0)
            self.w.might_sleep(self.me)
            s = self.w.s
            yield Wait(lambda: s["ended", name], name, lambda: [s["number", name]])


def enumerate_all(family: str, program: tuple[Code, ...], *, limit: int = 4000, merge: bool = True) -> Answer | None:
    """What the program can come to; None if that takes more than ``limit`` states (``merge=False``: executions)."""
    answer = Answer()
    seen: set[Any] = set()
    todo: list[tuple[tuple[int, int], ...]] = [()]
    while todo:
        path = todo.pop()
        machine = Machine(family, program)
        for move in path:
            machine.do(move)
        while True:
            key = machine.key() if merge else None
            if merge and key in seen:
                break
            seen.add(key)
            moves = machine.moves()
            if not moves:
                machine.end(answer)
                break
            todo += [(*path, move) for move in moves[1:]]
            path = (*path, moves[0])
            machine.do(moves[0])
        answer.findings |= machine.said
        answer.edges |= machine.edges
        if max(len(seen), answer.executions) > limit:
            return None
    answer.states = len(seen)
    return answer
