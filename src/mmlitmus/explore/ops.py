"""Events: their kinds and their footprints.

An op is a plain tuple ``(kind, object, extra, *argument)``: what a task announces at a scheduling point, and what
becomes an event when the scheduler lets it happen.

* ``object`` is the id of the shared object that the event is about, or ``NONE`` for an event that touches nothing
  shared (a choice).
* ``extra`` is a tuple of further ids, ``id << 1 | written``. Together they are the event's whole footprint.

Two events commute iff they share no object that one of them writes (``conflict``). On its own object an event is
*read-like* or not by its kind: read-like events of one object commute with each other (two ``up_read``, two
``READ_ONCE``), everything else on one object conflicts.

A kind is *blocking* when the event may have to wait. A blocking event waits on its own object only, never on one in
``extra``, so that whether it was enabled can be asked of that object's state alone (see ``dpor.Dpor._races_of``).
"""

from __future__ import annotations

from typing import Final

from .runtime import Op

NONE: Final = -1

_KINDS: list[tuple[str, bool, bool]] = []


def _kind(name: str, *, read_like: bool = False, blocks: bool = False) -> int:
    _KINDS.append((name, read_like, blocks))
    return len(_KINDS) - 1


# -- data -------------------------------------------------------------------------------------------------------
READ_ONCE: Final = _kind("READ_ONCE", read_like=True)
WRITE_ONCE: Final = _kind("WRITE_ONCE")
PLAIN_READ: Final = _kind("read", read_like=True)
PLAIN_WRITE: Final = _kind("write")
LOOK: Final = _kind("look", read_like=True)  # an event with a declared footprint that only reads its own object
TOUCH: Final = _kind("touch")  # ... or also writes it
FREE: Final = _kind("free")
CHOOSE: Final = _kind("choose", read_like=True)

# -- synchronisation: every kind from here on orders the tasks that meet on the object --------------------------
ATOMIC_READ: Final = _kind("atomic_read", read_like=True)
ATOMIC_RMW: Final = _kind("atomic_rmw")
COUNTER_ADD: Final = _kind("atomic_add", read_like=True)  # adds whose result nobody looks at commute ...
COUNTER_READ: Final = _kind("counter_read")  # ... with each other, and with no look at the sum
LOCK: Final = _kind("lock", blocks=True)
TRYLOCK: Final = _kind("trylock")
UNLOCK: Final = _kind("unlock")
DOWN_READ: Final = _kind("down_read", read_like=True, blocks=True)
DOWN_READ_TRYLOCK: Final = _kind("down_read_trylock", read_like=True)
UP_READ: Final = _kind("up_read", read_like=True)
DOWN_WRITE: Final = _kind("down_write")  # joins the queue; DOWN_WRITE_ACQUIRE is when the lock is had
DOWN_WRITE_ACQUIRE: Final = _kind("acquired", blocks=True)
DOWN_WRITE_TRYLOCK: Final = _kind("down_write_trylock")
UP_WRITE: Final = _kind("up_write")
DOWNGRADE_WRITE: Final = _kind("downgrade_write")
PREPARE_TO_WAIT: Final = _kind("prepare_to_wait")
SCHEDULE: Final = _kind("schedule", blocks=True)
FINISH_WAIT: Final = _kind("finish_wait")
WAKE_UP: Final = _kind("wake_up")
RCU_READ_LOCK: Final = _kind("rcu_read_lock")
RCU_READ_UNLOCK: Final = _kind("rcu_read_unlock")
GP_START: Final = _kind("grace_period_start", read_like=True)
GP_WAIT: Final = _kind("grace_period_wait", read_like=True, blocks=True)
LOCAL_IRQ_DISABLE: Final = _kind("local_irq_disable")
LOCAL_IRQ_ENABLE: Final = _kind("local_irq_enable")
IPI: Final = _kind("ipi", read_like=True, blocks=True)
SPAWN: Final = _kind("spawn")
TASK_START: Final = _kind("start", blocks=True)
JOIN: Final = _kind("join", blocks=True)

FIRST_SYNC: Final = ATOMIC_READ
NAME: Final = tuple(k[0] for k in _KINDS)
READ_LIKE: Final = tuple(k[1] for k in _KINDS)
WRITES: Final = tuple(not k[1] for k in _KINDS)
BLOCKS: Final = tuple(k[2] for k in _KINDS)
SYNC: Final = tuple(i >= FIRST_SYNC for i in range(len(_KINDS)))
PLAIN: Final = tuple(i in (PLAIN_READ, PLAIN_WRITE) for i in range(len(_KINDS)))

#: kinds of event that let their task see nothing of the primitive that they are about
SILENT: Final = frozenset(
    (
        LOCK, UNLOCK, DOWN_READ, UP_READ, DOWN_WRITE, DOWN_WRITE_ACQUIRE, UP_WRITE,
        DOWNGRADE_WRITE, PREPARE_TO_WAIT, SCHEDULE, FINISH_WAIT, WAKE_UP, RCU_READ_LOCK,
        RCU_READ_UNLOCK, LOCAL_IRQ_DISABLE, LOCAL_IRQ_ENABLE, SPAWN, TASK_START, JOIN,
        GP_WAIT, IPI,
    )
)  # fmt: skip
#: ... or of the word that they write, or of the object that they free
BLIND: Final = frozenset((WRITE_ONCE, PLAIN_WRITE, COUNTER_ADD, FREE))

#: what a task that has ended announces
DONE: Op = (-1, NONE, ())


def footprint(op: Op) -> list[tuple[int, bool]]:
    """Every (object, written) that the event touches."""
    own = [(op[1], not READ_LIKE[op[0]])] if op[1] >= 0 else []
    return own + [(x >> 1, bool(x & 1)) for x in op[2]]


def conflict(a: Op, b: Op) -> bool:
    """Do the two events, of different tasks, fail to commute?"""
    oa: int = a[1]
    ob: int = b[1]
    ea: tuple[int, ...] = a[2]
    eb: tuple[int, ...] = b[2]
    if oa == ob and oa >= 0 and not (READ_LIKE[a[0]] and READ_LIKE[b[0]]):
        return True
    if ea:
        own = ob << 1
        for x in ea:
            if x == own | 1 or (x == own and not READ_LIKE[b[0]]):
                return True
            for y in eb:
                if x >> 1 == y >> 1 and (x | y) & 1:
                    return True
    if eb:
        own = oa << 1
        for y in eb:
            if y == own | 1 or (y == own and not READ_LIKE[a[0]]):
                return True
    return False


def add_read(op: Op, o: int) -> Op:
    """The event with object ``o`` in its footprint, as read unless it was there already."""
    if op[1] == o or o << 1 in op[2] or o << 1 | 1 in op[2]:
        return op
    return (op[0], op[1], (*op[2], o << 1), *op[3:])


def writes(op: Op, o: int) -> bool:
    """Does the event write object ``o``?"""
    return (op[1] == o and not READ_LIKE[op[0]]) or (o << 1 | 1) in op[2]
