"""What a task knows, without reading its frames: scoped histories, and values that compare across executions.

Between two events a task computes from what it has seen, and from nothing else. So its local state is a function of its
*history*: what each of its events let it see, what it read without an event (Guarded fields, ``peek``), and the values
of its choices. A history is *scoped*: entering a function of the model starts a chain, what is seen is appended to it,
and returning takes it away and appends what the caller gets: the result, and what can be reached of the arguments and
may have changed (``Values.canonical``). What cannot be compared (an iterator, say) keeps the callee's chain instead.
That is always right, only finer. ``loop_point`` replaces the chain of the function that it is called in by the values
that are live there.

Functions are entered and left through a trampoline that takes the place of their code while E2 searches (``Scopes``).
Whatever refers to a function (an import, a class, a seam's alternatives) refers to the same function object, so all
callers come through it, and nothing is slower when another engine runs.

Chains, stacks of chains and states are numbered by looking them up in dicts: no hash value is ever kept, so nothing
depends on PYTHONHASHSEED and no two histories are taken for one by accident.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

from . import runtime as rt
from .primitives import folio_lock, irq, mutex, rcu, rwsem, task, wait
from .primitives.base import Primitive
from .state import Guarded, GuardedList, Model
from .values import Item


class Histories:
    """Stacks of chains, as numbers. The code of the function that a chain belongs to goes with it."""

    def __init__(self) -> None:
        self.chains: dict[Item, int] = {}
        self.stacks: dict[tuple[int, int, CodeType | None], int] = {}
        self.nodes: list[tuple[int, int, CodeType | None]] = []

    def stack(self, chain: int, below: int, code: CodeType | None) -> int:
        """The stack with ``chain`` on top of the stack ``below`` (-1: the task's own function)."""
        node = (chain, below, code)
        n = self.stacks.get(node)
        if n is None:
            n = self.stacks[node] = len(self.nodes)
            self.nodes.append(node)
        return n

    def chain(self, *items: Item) -> int:
        """The number of a chain: of (the chain before, what was seen), or of anything else."""
        chain: int = self.chains.setdefault(items, len(self.chains))
        return chain

    def append(self, stack: int, item: Item) -> int:
        """The stack after its function has seen ``item``."""
        chain, below, code = self.nodes[stack]
        return self.stack(self.chain(chain, item), below, code)

    def enter(self, stack: int, code: CodeType) -> int:
        """The stack within a function that is called."""
        return self.stack(-1, stack, code)

    def leave(self, stack: int, item: Item) -> int:
        """The stack after the function has returned; ``item`` is what its caller gets."""
        return self.append(self.nodes[stack][1], item)

    def replace(self, stack: int, item: Item) -> int:
        """The stack with nothing of its function's chain left but ``item``."""
        _, below, code = self.nodes[stack]
        return self.stack(self.chain(item), below, code)


# -- functions entered and left ---------------------------------------------------------------------------------------
#: what an event may be called
_PRIMITIVES = (Primitive, mutex.Mutex, folio_lock.FolioLock, rwsem.RwSem, wait.WaitQueue, irq.Cpu, rcu.Rcu, task.Thread)
_NOT_EVENTS = frozenset(("enabled", "waits_for", "object_name", "release", "held", "in_read_section"))
_EVENTS = frozenset(
    {n for cls in _PRIMITIVES for n in vars(cls) if not n.startswith("_")} - _NOT_EVENTS
    | {"point", "look", "touch", "choose", "may_fail", "spawn", "xchg", "cmpxchg", "add_return", "add", "store", "free"}
)
#: ... and those that tell nothing to whoever calls them
_SILENT = frozenset(
    (
        "lock", "unlock", "down_read", "up_read", "down_write", "up_write", "downgrade_write", "prepare_to_wait",
        "schedule", "finish_wait", "wake_up", "read_lock", "read_unlock", "local_irq_disable", "local_irq_enable",
        "join",
    )
)  # fmt: skip


def names_in(code: CodeType) -> set[str]:
    """Every global and attribute that the code names, comprehensions and inner functions included."""
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            names |= names_in(const)
    return names


def modules_of(modules: Iterable[str]) -> list[str]:
    """Which modules there are among these and (of packages) below them, in order."""
    wanted = tuple(modules)
    return [
        name
        for name in sorted(sys.modules)
        if sys.modules[name] is not None and any(name == w or name.startswith(w + ".") for w in wanted)
    ]


def functions_of(modules: Iterable[str]) -> list[FunctionType]:
    """The functions and methods that the modules (and what is below them, of packages) define, in order."""
    found: dict[int, FunctionType] = {}
    for name in modules_of(modules):
        module = sys.modules[name]
        todo: list[Any] = list(vars(module).values())
        while todo:
            value = todo.pop(0)
            if isinstance(value, type) and value.__module__ == name:
                todo += vars(value).values()
            elif isinstance(value, FunctionType) and value.__module__ == name:
                found.setdefault(id(value), value)
    return list(found.values())


def _scoped(functions: list[FunctionType]) -> list[FunctionType]:
    """Those that may see something, or forget it (``loop_point``). For the others, and for those left out, their
    callers' chains serve."""
    sights = {*(_EVENTS - _SILENT), "peek", "loop_point"}
    for cls in _models(Model):
        sights.update(name for name, field in cls.fields.items() if field.events or isinstance(field, Guarded))
    names = {f: names_in(f.__code__) for f in functions}
    left = list(functions)
    while True:
        more = [f for f in left if names[f] & sights]
        if not more:
            break
        sights.update(f.__name__ for f in more)
        left = [f for f in left if f not in more]
    generator = 0x20 | 0x80 | 0x200
    return [
        f
        for f in functions
        if f not in left
        and not f.__code__.co_freevars
        and not f.__code__.co_flags & generator
        and not (f.__name__.startswith("__") and f.__name__.endswith("__"))
        and f.__code__.co_name != "<lambda>"
        and f.__name__ not in ("object_name", "object_value")  # the engine's own questions, asked while it looks
    ]


def _models(cls: type[Model]) -> Iterator[type[Model]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _models(sub)


class Scope:
    """A function whose entry and return E2 sees: its body, and what stands in its place meanwhile."""

    __slots__ = ("body", "code", "trampoline")

    def __init__(self, f: FunctionType, n: int) -> None:
        self.code = code = f.__code__
        self.body = FunctionType(code, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
        self.body.__kwdefaults__ = f.__kwdefaults__
        space: dict[str, Any] = {}
        exec(f"def f(*args, **kwargs):\n    return {_CALL}({n}, args, kwargs)", space)
        self.trampoline = space["f"].__code__.replace(
            co_name=code.co_name, co_filename=code.co_filename, co_firstlineno=code.co_firstlineno
        )


_CALL = "__mmlitmus_scope__"
#: every function that has ever been given a scope; its place in the list is what its trampoline calls it by
_numbers: dict[FunctionType, int] = {}
_scopes: list[Scope] = []
#: by (modules asked for, modules there are, classes of declared objects): what _scoped says
_answers: dict[tuple[tuple[str, ...], tuple[str, ...], int], list[FunctionType]] = {}


def _scope(f: FunctionType) -> Scope:
    n = _numbers.get(f)
    if n is None or _scopes[n].code is not f.__code__:
        n = _numbers[f] = len(_scopes)
        _scopes.append(Scope(f, n))
    return _scopes[n]


class Scopes:
    """The functions whose entry and return E2 sees. ``with scopes.installed(engine)`` around a search."""

    def __init__(self, modules: Iterable[str]) -> None:
        wanted = tuple(modules)
        there = tuple(modules_of(wanted))
        asked = (wanted, there, sum(1 for _ in _models(Model)))
        if asked not in _answers:
            _answers[asked] = _scoped(functions_of(wanted))
        self.functions = _answers[asked]

    @contextmanager
    def installed(self, engine: Any) -> Iterator[None]:
        """Put the trampolines in place; take them away again."""
        scopes = [(f, _scope(f)) for f in self.functions]
        spaces = {id(f.__globals__): f.__globals__ for f in self.functions}

        def call(n: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            scope = _scopes[n]
            me = engine.cur
            current: Any = rt.engine
            if me < 0 or current is not engine:
                return scope.body(*args, **kwargs)
            if engine.recording:
                engine.entered(me, scope.code)
            try:
                result = scope.body(*args, **kwargs) if kwargs else scope.body(*args)
            except Exception:
                engine.left(me, (), "raised", keep=True)
                raise
            if engine.recording:
                engine.left(me, (*args, *kwargs.values()) if kwargs else args, result)
            return result

        try:
            for space in spaces.values():
                space[_CALL] = call
            for f, scope in scopes:
                f.__code__ = scope.trampoline
            yield
        finally:
            for f, scope in scopes:
                f.__code__ = scope.code
            for space in spaces.values():
                space.pop(_CALL, None)


@contextmanager
def observed(engine: Any) -> Iterator[None]:
    """While the engine searches: tell it what tasks read without an event."""
    model: Any = Model
    guarded: Any = GuardedList
    peek, check, init = model.peek, guarded._check, guarded.__init__

    def observed_peek(obj: Model, field: str) -> Any:
        value = peek(obj, field)
        if engine.recording and engine.cur >= 0:
            engine.peeked(obj, value)
        return value

    def observed_check(items: GuardedList, modes: tuple[str, ...], what: str) -> None:
        check(items, modes, what)
        if engine.recording and engine.cur >= 0:
            engine.saw_list(items)

    def observed_init(items: GuardedList, *args: Any, **kwargs: Any) -> None:
        init(items, *args, **kwargs)
        running: Any = rt.engine
        if running is engine:
            engine.list_made(items)

    model.peek, guarded._check, guarded.__init__ = observed_peek, observed_check, observed_init
    current: Any = rt.current
    code = current.__code__
    current.__code__ = rt.current_observed.__code__
    try:
        yield
    finally:
        current.__code__ = code
        model.peek, guarded._check, guarded.__init__ = peek, check, init
