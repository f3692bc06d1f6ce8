"""A schedule as text: what a person reads and types, and the token that replays an execution.

::

    schedule  ::=  [segment {";" segment}]  ["!" eight hex digits]
    segment   ::=  TASK ["(" choice {"," choice} ")"] [">" LABEL ["#" n]]
    choice    ::=  NAME ["#" n] "=" VALUE

``fault > memory_lock.read; disable; fault`` runs ``fault`` up to and including its next event ``memory_lock.read``,
then ``disable`` until it ends or blocks, then ``fault`` likewise. ``#n`` is the n-th such event (or choice) *of this
segment*. A choice that is not named takes its first, ordinary value. After the text, whoever can go on does, lowest
index first, without preemption; so short texts are complete, and the empty text is the plain first schedule.

The start of a label will do where the segment reaches only one that begins with it (or has a part, after ``.`` or
``:``, that does): ``memory_lock.r``, ``vm_flags``. So will the start of a task's name.

The eight digits are a hash over every executed (task, label, choice value). They do not steer: they tell whether the
model still does the same under the same schedule.

=========================================  ===========================================================
event                                      label
=========================================  ===========================================================
down_read, up_read, down_read_trylock      ``memory_lock.read`` ``.up_read`` ``.read_trylock``
down_write: joins the queue, has the lock  ``memory_lock.write`` ``.acquired``
up_write, down_write_trylock, downgrade    ``memory_lock.up_write`` ``.write_trylock`` ``.downgrade``
lock, trylock, unlock                      ``ptl.lock`` ``.trylock`` ``.unlock``
a field read, written, changed atomically  ``vma.vm_flags.read`` ``.write`` ``.rmw``
a counter read, added to                   ``mm.rss.read`` ``.add``
a cell read, written, changed atomically   ``pte[3].get`` ``.set`` ``.xchg``
an object freed; look, touch               ``folio#1.free`` ``pte[3].look`` ``.touch``
an event that brings its own verb          ``pte[3].VERB`` (the op's first argument, when it is a string)
a choice                                   its name: ``alloc_pte``
prepare_to_wait, schedule, finish_wait     ``waitqueue.prepare_to_wait`` ``.schedule`` ``.finish_wait``
wake_up                                    ``waitqueue.wake_up``
rcu_read_lock, rcu_read_unlock             ``rcu_read_lock`` ``rcu_read_unlock``
a grace period begins, waits for a reader  ``rcu_gp_start`` ``rcu_gp_wait``
local_irq_disable, local_irq_enable        ``local_irq_disable`` ``local_irq_enable``
an inter-processor interrupt               ``cpu1.ipi``
a task is created, joined                  ``free@unmap.1.spawn`` ``free@unmap.1.join``
a created task starts, ends                ``start`` ``exit``
=========================================  ===========================================================

A kind that is not in the table is labelled with its own name. White space and the signs of the grammar become ``_``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2s
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import ops
from .primitives.task import Thread
from .runtime import Op
from .state import Model

if TYPE_CHECKING:
    from .scheduler import Scheduler

_SUFFIX = {
    ops.READ_ONCE: "read",
    ops.PLAIN_READ: "read",
    ops.ATOMIC_READ: "read",
    ops.WRITE_ONCE: "write",
    ops.PLAIN_WRITE: "write",
    ops.ATOMIC_RMW: "rmw",
    ops.COUNTER_READ: "read",
    ops.COUNTER_ADD: "add",
    ops.LOOK: "look",
    ops.TOUCH: "touch",
    ops.FREE: "free",
    ops.LOCK: "lock",
    ops.TRYLOCK: "trylock",
    ops.UNLOCK: "unlock",
    ops.DOWN_READ: "read",
    ops.DOWN_READ_TRYLOCK: "read_trylock",
    ops.UP_READ: "up_read",
    ops.DOWN_WRITE: "write",
    ops.DOWN_WRITE_ACQUIRE: "acquired",
    ops.DOWN_WRITE_TRYLOCK: "write_trylock",
    ops.UP_WRITE: "up_write",
    ops.DOWNGRADE_WRITE: "downgrade",
    ops.PREPARE_TO_WAIT: "prepare_to_wait",
    ops.SCHEDULE: "schedule",
    ops.FINISH_WAIT: "finish_wait",
    ops.WAKE_UP: "wake_up",
    ops.IPI: "ipi",
    ops.SPAWN: "spawn",
    ops.JOIN: "join",
}
_CELL = {"read": "get", "write": "set", "rmw": "xchg"}
_ALONE = {  # these act on something of the task's own, or on nothing
    ops.RCU_READ_LOCK: "rcu_read_lock",
    ops.RCU_READ_UNLOCK: "rcu_read_unlock",
    ops.GP_START: "rcu_gp_start",
    ops.GP_WAIT: "rcu_gp_wait",
    ops.LOCAL_IRQ_DISABLE: "local_irq_disable",
    ops.LOCAL_IRQ_ENABLE: "local_irq_enable",
    ops.TASK_START: "start",
}

_SIGNS = re.compile(r"[\s;>()=,!]")
_COUNTED = re.compile(r"(.+)#([1-9][0-9]{0,17})")
_HASH = re.compile(r"!([0-9a-f]{8})\s*$")
_WORD = r"[^\s;>()=,!]+"
_SEGMENT = re.compile(rf"(?P<task>{_WORD})\s*(?:\((?P<choices>[^()]*)\))?\s*(?:>\s*(?P<label>{_WORD}))?")
_CHOICE = re.compile(rf"\s*(?P<name>{_WORD})\s*=\s*(?P<value>{_WORD})\s*")


class ScheduleError(ValueError):
    """A schedule that cannot be read, or that the program cannot follow. The message is one line."""


# -- labels -----------------------------------------------------------------------------------------------------------
def word(name: str) -> str:
    """``name`` as it is written in a schedule."""
    return _SIGNS.sub("_", name) or "_"


def label(engine: Scheduler, op: Op) -> str:
    """What a schedule calls the event ``op`` of the machine that ``engine`` runs (see the table above)."""
    return _countable(_label(engine, op))


def choice_name(op: Op) -> str:
    """What a schedule calls the choice that ``op`` makes; empty when it makes none."""
    return _countable(op[4]) if op[0] == ops.CHOOSE else ""


def value_name(op: Op, value: int) -> str:
    """What a schedule calls the ``value``-th value of the choice that ``op`` makes; empty when it makes none."""
    return word(str(op[5][value])) if op[0] == ops.CHOOSE else ""


def _label(engine: Scheduler, op: Op) -> str:
    kind, o = op[0], op[1]
    if kind == ops.CHOOSE:
        return str(op[4])
    if kind in _ALONE:
        return _ALONE[kind]
    own = len(op) > 3 and isinstance(op[3], str)
    suffix = op[3] if own else _SUFFIX.get(kind, ops.NAME[kind])
    if o < 0:
        return str(suffix)
    owner = _owner(engine, o)
    if kind == ops.UNLOCK and isinstance(owner, Thread):
        return "exit"
    if engine.prims[o] is not None:  # its several footprint objects are the engine's business
        return f"{owner.name}.{suffix}"
    if not own and not isinstance(owner, Model):
        suffix = _CELL.get(suffix, suffix)
    return f"{engine.object_name(o)}.{suffix}"


def _owner(engine: Scheduler, o: int) -> Any:
    return engine.owners[bisect_right(engine.owners, o, key=lambda x: x[0]) - 1][1]


def _countable(name: str) -> str:
    """``name`` as a word that cannot be taken for one with a count."""
    text = word(name)
    counted = _COUNTED.fullmatch(text)
    return f"{counted[1]}-{counted[2]}" if counted else text


# -- reading ----------------------------------------------------------------------------------------------------------
class Choice(NamedTuple):
    """``name#nth=value``."""

    name: str
    nth: int
    value: str


class Segment(NamedTuple):
    """Run ``task`` up to its ``nth`` event ``label`` from here; without a label, until it ends or blocks."""

    task: str
    choices: tuple[Choice, ...] = ()
    label: str = ""
    nth: int = 1

    def __str__(self) -> str:
        made = ", ".join(f"{_count(c.name, c.nth)}={c.value}" for c in self.choices)
        stop = f" > {_count(self.label, self.nth)}" if self.label else ""
        return f"{self.task}{f'({made})' if made else ''}{stop}"


@dataclass(frozen=True)
class Schedule:
    """A schedule that was read: its segments and, if it is a replay token, the hash of what it executed then."""

    segments: tuple[Segment, ...]
    digest: str = ""

    def __str__(self) -> str:
        text = "; ".join(map(str, self.segments))
        return token(text, self.digest) if self.digest else text


def parse(text: str) -> Schedule:
    """Read a schedule or a replay token. ScheduleError names the segment that cannot be read."""
    digest = _HASH.search(text)
    body = text[: digest.start()] if digest else text
    segments = tuple(_segment(part.strip()) for part in body.split(";") if part.strip())
    return Schedule(segments, digest[1] if digest else "")


def _segment(text: str) -> Segment:
    m = _SEGMENT.fullmatch(text)
    if m is None:
        raise ScheduleError(f"cannot read '{' '.join(text.split())}': a segment is TASK, or TASK > EVENT")
    made = []
    if m["choices"] is not None:
        for part in m["choices"].split(","):
            c = _CHOICE.fullmatch(part)
            if c is None:
                raise ScheduleError(f"cannot read '{part.strip()}' in '{text}': a choice is NAME=VALUE")
            made.append(Choice(*_counted(c["name"]), c["value"]))
    return Segment(m["task"], tuple(made), *_counted(m["label"] or ""))


def _counted(text: str) -> tuple[str, int]:
    m = _COUNTED.fullmatch(text)
    return (m[1], int(m[2])) if m else (text, 1)


def _count(name: str, nth: int) -> str:
    return name if nth == 1 else f"{name}#{nth}"


# -- writing ----------------------------------------------------------------------------------------------------------
class Happened(Protocol):
    """What writing a schedule asks of each event of an execution; a ``replay.Step`` has it."""

    @property
    def task(self) -> str:
        """The task's name."""

    @property
    def label(self) -> str:
        """The event's label."""

    @property
    def value(self) -> str:
        """The name of the choice value; empty when the event is no choice."""

    @property
    def ordinary(self) -> bool:
        """Is it no choice, or one that took its first value?"""

    @property
    def resumable(self) -> bool:
        """Could the task have gone straight on?"""

    @property
    def first(self) -> bool:
        """Was the task the one with the lowest index of those that could go on?"""


def write(steps: Iterable[Happened]) -> str:
    """The shortest text that reproduces the execution: no default order at the end, no label where a task stopped
    because it ended or blocked."""
    runs = [list(run) for _, run in groupby(steps, key=lambda s: s.task)]
    last = len(runs) - 1
    cut = [run[-1].resumable and r < last for r, run in enumerate(runs)]
    while runs and not cut[last] and runs[last][0].first and all(s.ordinary for s in runs[last]):
        last -= 1
        runs.pop()
    return "; ".join(str(_written(run, cut[r])) for r, run in enumerate(runs))


def _written(run: Sequence[Happened], cut: bool) -> Segment:
    names = [s.label for s in run]
    made = tuple(Choice(s.label, names[: i + 1].count(s.label), s.value) for i, s in enumerate(run) if not s.ordinary)
    return Segment(word(run[0].task), made, *((names[-1], names.count(names[-1])) if cut else ()))


def digest(steps: Iterable[Happened]) -> str:
    """Eight hex digits that stand for the executed (task, label, choice value)."""
    h = blake2s(digest_size=4)
    for s in steps:
        h.update(f"{word(s.task)} {s.label} {s.value}\n".encode())
    return h.hexdigest()


def token(text: str, digest: str) -> str:
    """The replay token of a schedule and of what it executed."""
    return f"{text}  !{digest}".strip()


# -- finding what was meant -------------------------------------------------------------------------------------------
def meant(name: str, known: Sequence[str]) -> str | None:
    """The one of ``known`` that is ``name``, or else begins with it, or else has a part that does; None if none does.

    ScheduleError when several do.
    """
    if name in known:
        return name
    distinct = list(dict.fromkeys(known))
    begin = [k for k in distinct if k.startswith(name)] or [k for k in distinct if f".{name}" in k or f":{name}" in k]
    if len(begin) > 1:
        raise ScheduleError(f"'{name}' could be {' or '.join(begin[:6])}{' or more' if len(begin) > 6 else ''}")
    return begin[0] if begin else None


def nearby(name: str, known: Sequence[str], most: int = 5) -> str:
    """Those of ``known`` that somebody who wrote ``name`` may have meant, for an error message."""
    distinct = list(dict.fromkeys(known))
    close = get_close_matches(name, distinct, most, 0.4)
    parts = [k for k in distinct if k not in close and any(p and p in k for p in name.split("."))]
    some = (close + parts)[:most] or distinct[:most]
    return ", ".join(some) + (", ..." if len(distinct) > len(some) else "")
