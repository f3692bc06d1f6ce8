"""Events that E2 lets happen at once, without trying what the other tasks could do first: *movers*.

Take a task that is about to do an event, and holds some locks. If nothing that the others can do before it conflicts
with it, then whatever they do before it they can as well do after it, and the same comes of it. So nothing is lost if
it happens now (the event alone is a persistent set; P. Godefroid, "Partial-Order Methods for the Verification of
Concurrent Systems", LNCS 1032, 1996).

What can the others do? All that is known are their *uses*: which task touches which object, writing it or not, and
what it holds then. A use by another task cannot come before the event if the two hold one lock, one of them
exclusively. An event that waits for a lock holds it, for this purpose: it does not happen while somebody else does.
From that follows, without a rule of its own, which releases are movers: an unlock is, unless somebody tries the lock
or looks at it, for a trylock comes at any time; ``up_write`` is, unless another writer queues, which is possible at any
time too; ``up_read`` is even then, for the queue is another object.

Uses are learnt while searching, from what tasks are *about* to do (an event that never gets its turn counts too). When
one turns up that an earlier decision did not reckon with, the search begins again, knowing it. A search that ends has
seen none; docs/soundness.md says why then there is none.

A task's code goes on after its event to its next one, and may on the way read Guarded fields, for which the objects
must not have been freed. Which, shows only then: it is learnt like the rest (``late``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .ops import DOWN_READ, DOWN_WRITE_ACQUIRE, DOWNGRADE_WRITE, JOIN, LOCK, SPAWN, UNLOCK, UP_READ, UP_WRITE, footprint
from .primitives.folio_lock import FolioLock
from .primitives.mutex import Mutex
from .primitives.rwsem import RwSem
from .runtime import Op

if TYPE_CHECKING:
    from .stateful import Stateful
    from .values import Item

#: the switches of E2's reductions: releases, and accesses under a lock, that do not branch; tasks that are alike
RELEASES, GUARDED, SYMMETRY = "releases", "guarded", "symmetry"
REDUCTIONS = (RELEASES, GUARDED, SYMMETRY)

RELEASE = frozenset((UNLOCK, UP_READ, UP_WRITE, DOWNGRADE_WRITE))
#: what does not happen while somebody else holds the object; True: or shares it
TAKES = {LOCK: True, DOWN_READ: False, DOWN_WRITE_ACQUIRE: True, SPAWN: True, JOIN: True}

#: locks by their ids, and whether exclusively
Held = tuple[tuple[int, bool], ...]
#: who, writing, what is held
Use = tuple[str, bool, Held]


def excluded(a: Held, b: Held) -> bool:
    """Can two tasks not hold the one and the other at the same time?"""
    return any(x == y and (alone or also) for x, alone in a for y, also in b)


class Movers:
    """What is known of the uses of objects; kept when the search begins again."""

    def __init__(self, engine: Stateful, switches: Iterable[str]) -> None:
        self.engine = engine
        self.releases = RELEASES in switches
        self.guarded = GUARDED in switches
        self.uses: dict[int, dict[Use, None]] = {}
        self.relied: dict[int, dict[Use, None]] = {}  # what decisions of this search took for undisturbed
        self.late: dict[Item, dict[int, None]] = {}  # by event: the objects whose life is read behind it
        self.broken: set[str] = set()  # classes of locks that somebody else than their holder releases
        self.verdicts: dict[tuple[int, Use], bool] = {}
        self.wrong = False  # has a decision turned out to be?

    def start_over(self) -> None:
        """A new search: nothing is decided yet."""
        self.relied = {}
        self.wrong = False

    # -- what tasks use ------------------------------------------------------------------------------------------
    def held(self, t: int) -> Held:
        """What the task holds."""
        engine, broken = self.engine, self.broken
        held = tuple((p.id, mode != "read") for p, mode, _ in engine.tasks[t].held if p.lock_class not in broken)
        thread = engine.threads.get(t)  # a created task is its thread's holder until it ends
        return held if thread is None else (*held, (thread, True))

    def holding(self, t: int, op: Op) -> Held:
        """What the task holds when ``op`` happens, the lock that it waits for included."""
        held = self.held(t)
        if op[0] in TAKES:
            held = (*held, (self.engine.prims[op[1]].id, TAKES[op[0]]))
        return held

    def announced(self, t: int, op: Op) -> None:
        """The task is about to do ``op``."""
        who = self.engine.called(t)
        held = self.holding(t, op)
        for o, written in footprint(op):
            self._use(o, (who, written, held))
        if op[0] in RELEASE:
            self._release(t, op)

    def _release(self, t: int, op: Op) -> None:
        """Is it somebody else's lock that the task gives back?"""
        prim = self.engine.prims[op[1]]
        if isinstance(prim, RwSem):
            ok = t in prim.state[1] if op[0] == UP_READ else prim.state[0][:1] == (t,)
        else:
            ok = not isinstance(prim, Mutex) or isinstance(prim, FolioLock) or prim.state == t
        if not ok and prim.lock_class not in self.broken:
            self.broken.add(prim.lock_class)
            self.uses.clear()
            self.verdicts.clear()
            self.wrong = True

    def _use(self, what: int, use: Use) -> None:
        uses = self.uses.setdefault(what, {})
        if use not in uses:
            uses[use] = None
            self.verdicts.clear()
            if any(self._clash(use, other) for other in self.relied.get(what, ())):
                self.wrong = True

    def read_behind(self, event: Item, oid: int, who: str, before: Held, holding: Held, mover: bool) -> None:
        """Behind ``event`` its task reads the life of the object, too."""
        self.late.setdefault(event, {})[oid] = None
        self._use(oid, (who, False, holding))
        if mover:
            self._rely(oid, (who, False, before))

    def rely_behind(self, t: int, behind: Iterable[int]) -> None:
        """The task goes on alone, and reads the life of these objects behind its event, as is known by now."""
        if behind:
            use = (self.engine.called(t), False, self.held(t))
            for what in behind:
                self._rely(what, use)

    def _rely(self, what: int, use: Use) -> None:
        relied = self.relied.setdefault(what, {})
        if use not in relied:
            relied[use] = None
            if not self._undisturbed(what, use):
                self.wrong = True

    # -- the decision --------------------------------------------------------------------------------------------
    def event(self, t: int, op: Op) -> Item:
        """What events are called whose tasks read the same things behind them, as far as one can know."""
        return (self.engine.called(t), op[0], op[1])

    def may_go(self, t: int, op: Op) -> bool:
        """Is the pending event of the task, which can happen, a mover?"""
        if not (self.releases if op[0] in RELEASE else self.guarded):
            return False
        who = self.engine.called(t)
        held = self.held(t)
        touched = footprint(op)
        touched += [(what, False) for what in self.late.get(self.event(t, op), ())]
        if not all(self._undisturbed(what, (who, written, held)) for what, written in touched):
            return False
        for what, written in touched:
            self._rely(what, (who, written, held))
        return True

    def _undisturbed(self, what: int, use: Use) -> bool:
        known = self.verdicts.get((what, use))
        if known is None:
            known = not any(self._clash(use, other) for other in self.uses.get(what, ()))
            self.verdicts[what, use] = known
        return known

    def _clash(self, a: Use, b: Use) -> bool:
        """Could the one come before the other, and does it matter?"""
        return (a[1] or b[1]) and (a[0] != b[0] or self.engine.several(a[0])) and not excluded(a[2], b[2])
