"""Tasks that nothing tells apart: of the states that differ by exchanging them, E2 goes on from one.

Two tasks of the set-up are *alike* if they run the same code over the same things: the same function, with the very
same objects in its closure, and both or neither of them may be left waiting at the end. Exchanging them in a state then
gives a state from which the same goes on, with their parts exchanged (E. A. Emerson, A. P. Sistla, "Symmetry and Model
Checking", Formal Methods in System Design 9, 1996).

A state speaks of tasks by their number: who holds a lock, who waits in which order, which access came before what.
Those are renumbered with them. Where a number or a name could be anywhere, symmetry is off and the search begins
again: a task that is alike asks who it is (``runtime.current``), makes a task, has its own part in RCU or of
interrupts, or somebody looks at who holds a lock. What is checked at the end, and what a case wants reached, must not
ask for one of them by its name; it could only by such a sign, or from outside the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import permutations, product
from math import factorial, prod
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from .ops import GP_START, GP_WAIT, LOCAL_IRQ_DISABLE, LOCAL_IRQ_ENABLE, RCU_READ_LOCK, RCU_READ_UNLOCK, SPAWN
from .primitives.base import Primitive
from .primitives.mutex import Mutex
from .primitives.rwsem import RwSem
from .primitives.wait import WaitQueue

if TYPE_CHECKING:
    from .scheduler import Setup

#: so many ways of exchanging tasks in the same local state are tried; where there are more, only one
WAYS = 120
#: events in which a task is more than a number in a lock's state
NAMED = frozenset((RCU_READ_LOCK, RCU_READ_UNLOCK, GP_START, GP_WAIT, LOCAL_IRQ_DISABLE, LOCAL_IRQ_ENABLE, SPAWN))


def same(a: Any, b: Any) -> bool:
    """Does running the one do exactly what running the other does?"""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, FunctionType):
        return a.__code__ == b.__code__ and a.__globals__ is b.__globals__ and same(_inside(a), _inside(b))
    if isinstance(a, MethodType):
        return a.__func__ is b.__func__ and same(a.__self__, b.__self__)
    if isinstance(a, partial):
        return same((a.func, a.args, tuple(a.keywords.items())), (b.func, b.args, tuple(b.keywords.items())))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, (int, str, bytes, float)) and bool(a == b)


def _inside(f: FunctionType) -> tuple[Any, ...]:
    try:
        cells = tuple(cell.cell_contents for cell in f.__closure__ or ())
    except ValueError:  # one that is not assigned yet: like nothing else
        cells = (object(),)
    return (*cells, f.__defaults__, tuple((f.__kwdefaults__ or {}).items()))


def alike(setup: Setup) -> list[list[int]]:
    """The numbers of the set-up's tasks that are alike, two or more in each list."""
    groups: list[tuple[Callable[[], Any], bool, list[int]]] = []
    for t, (name, fn) in enumerate(setup.tasks.items()):
        daemon = name in setup.daemons
        for other, was, members in groups:
            if was == daemon and same(fn, other):
                members.append(t)
                break
        else:
            groups.append((fn, daemon, [t]))
    return [members for _, _, members in groups if len(members) > 1]


def places(groups: Iterable[list[int]], states: Sequence[int]) -> Iterator[list[int]]:
    """Ways of renumbering the tasks, by place: all that order each group by its members' local states. What they give
    is the same for states that differ by an exchange, as a set.
    """
    ties = []  # of each group: the tasks in one local state, and where they go
    for members in groups:
        ordered = sorted(members, key=lambda t: states[t])
        at = 0
        while at < len(ordered):
            to = at
            while to < len(ordered) and states[ordered[to]] == states[ordered[at]]:
                to += 1
            ties.append((ordered[at:to], members[at:to]))
            at = to
    many = prod(factorial(len(tasks)) for tasks, _ in ties) > WAYS
    for way in product(*[[where] if many else permutations(where) for _, where in ties]):
        place = list(range(len(states)))
        for (tasks, _), where in zip(ties, way, strict=True):
            for t, p in zip(tasks, where, strict=True):
                place[t] = p
        yield place


def renumbered(prim: Primitive, state: Any, place: Sequence[int]) -> Any:
    """A state of the primitive with the tasks renumbered."""
    if isinstance(prim, Mutex):
        return state if state is None or state < 0 else place[state]
    if isinstance(prim, RwSem):
        queue, readers = state
        return tuple(place[t] for t in queue), tuple(sorted(place[t] for t in readers))
    if isinstance(prim, WaitQueue):
        return tuple((place[t], woken) for t, woken in state)
    return state


def shows_tasks(prim: Any) -> bool:
    """Would who looks at the primitive's state see the numbers of tasks?"""
    return isinstance(prim, (Mutex, RwSem, WaitQueue))
