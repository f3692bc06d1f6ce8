"""One execution, followed event by event.

``Replay`` runs a program under a schedule and records a ``Step`` an event. What an event does is done by its task after
``point`` has returned and before the task's next one, so a step is complete only at the next scheduling point of
anything; it is closed there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple, cast

from . import runtime as rt
from .findings import Finding
from .lockdep import Lockdep
from .ops import CHOOSE, DONE, NAME
from .races import plain_races
from .runtime import Op
from .schedule import (
    Schedule,
    ScheduleError,
    Segment,
    choice_name,
    digest,
    label,
    meant,
    nearby,
    parse,
    token,
    value_name,
    word,
    write,
)
from .scheduler import Results, Scheduler, Setup

_HERE = str(Path(__file__).parent)
_PACKAGE = Path(__file__).parent.parent


class Frame(NamedTuple):
    """A frame of model code: the function's name, its file, the line it is at."""

    function: str
    file: str
    line: int

    @property
    def where(self) -> str:
        """``file:line``; the file as the package calls it (``kernel/mm/memory.py``), or by its bare name outside."""
        path = PurePath(self.file)
        inside = path.is_relative_to(_PACKAGE)
        return f"{path.relative_to(_PACKAGE).as_posix() if inside else path.name}:{self.line}"


class Change(NamedTuple):
    """A watched value that an event changed; None where the key was not there."""

    key: str
    old: str | None
    new: str | None


@dataclass
class Step:
    """One event of an execution, and the machine after it."""

    index: int
    task: str
    label: str
    op: Op
    value: str = ""  # the name of the choice value; empty when the event is no choice
    ordinary: bool = True  # no choice, or its first value
    first: bool = False  # the task had the lowest index of those that could go on
    frames: tuple[Frame, ...] = ()  # model code only, outermost first
    held: tuple[tuple[str, str], ...] = ()  # the task's locks after the event, as (lock, mode)
    changes: tuple[Change, ...] = ()
    findings: tuple[Finding, ...] = ()
    resumable: bool = False  # the task could go straight on
    ended: bool = False
    waits: str = ""  # the label of the event that the task now has to wait for; empty when it can go on
    preempted: bool = False  # the task could have gone on, but the next event is another's
    holders: tuple[str, ...] = field(default=(), repr=False)  # whom the task waits for, by name

    @property
    def kind(self) -> str:
        """The name of the event's kind (see ``ops``)."""
        return NAME[self.op[0]]

    @property
    def stack(self) -> tuple[str, ...]:
        """The kernel functions that the task is in, outermost first."""
        return tuple(f.function for f in self.frames if not f.function.startswith("<"))

    @property
    def where(self) -> str:
        """The innermost model source line, as ``file:line``; empty when there is none."""
        return self.frames[-1].where if self.frames else ""


class Replay(Scheduler):
    """Runs one execution: by a schedule's text or token, or by the choices of an execution (or a beginning of one).

    Where the schedule ends, whoever can go on does, lowest index first and without preemption. ``run`` raises
    ScheduleError when the program cannot follow it. After ``run``:

    * ``steps`` holds the events; ``watched`` what ``Setup.watch`` showed before the first of them;
    * ``early`` are the findings of what ran before it, ``late`` those that only the end of the execution shows (checks,
      deadlocks, races);
    * ``status`` is ``complete``, ``deadlock`` or ``truncated``;
    * ``text`` and ``token`` are the schedule in canonical form;
    * ``changed`` says in one line that the model no longer does what it did when the token was made, else it is empty.
    """

    ops: list[Op]
    steps: list[Step]
    watched: dict[str, str]
    early: tuple[Finding, ...]
    late: tuple[Finding, ...]
    stacks: dict[int, tuple[Frame, ...]]  # of each task, where it announced its pending event
    shown: dict[str, str]  # what Setup.watch showed last
    failure: Exception | None
    again: bool
    labels: list[str]  # what the current segment has executed

    def __init__(
        self,
        build: Callable[[], Setup],
        schedule: str | Schedule | Sequence[tuple[str, int]] = "",
        *,
        frames: bool = True,
    ) -> None:
        super().__init__(build)
        self.schedule = parse(schedule) if isinstance(schedule, str) else schedule
        self.record_frames = frames
        self.meant: dict[int, tuple[str, int]] = {}  # segment -> the label that its text turned out to mean, and which
        self.text = self.token = self.changed = ""

    def _run(self) -> None:
        while True:
            self._restart()
            self.execute()
            if self.failure is not None:
                raise self.failure
            if not self.again:
                break
        self.late = tuple(self._new_findings())
        for s, after in zip(self.steps, self.steps[1:], strict=False):
            s.preempted = s.resumable and after.task != s.task
        self.text = write(self.steps)
        now = digest(self.steps)
        self.token = token(self.text, now)
        was = self.schedule.digest if isinstance(self.schedule, Schedule) else ""
        if was and was != now:
            self.changed = f"the model changed since: this schedule now executes other events (!{now}, it was !{was})"
        self.results.stopped = "one schedule"

    def _restart(self) -> None:
        self.results = Results()
        self.lockdep = Lockdep()
        self.choice.clear()
        self.value.clear()
        self.ops = []
        self.steps = []
        self.watched = self.shown = {}
        self.early = self.late = ()
        self.stacks = {}
        self.failure = None
        self.again = False
        self.findings_seen = self.inversions_seen = 0
        self.tail = -1
        self.segment = -1
        self._next_segment()

    # -- scheduling ------------------------------------------------------------------------------------------------
    def _launch_point(self, op: Op) -> None:
        self._remember_stack()
        super()._launch_point(op)

    def _pick(self) -> int:
        if self.i:
            self._remember_stack()
        try:
            enabled = self.enabled()
            self._close(enabled)
            chosen = self._choose(enabled)
        except Exception as e:  # must not unwind through the model code that called us
            self.failure = e
            chosen = None
        if chosen is None or self.again:
            self.status = "refused"
            return -1
        p, value = chosen
        if p < 0:
            return -1
        op = self.pending[p]
        self.steps.append(
            Step(
                index=self.i,
                task=self.tasks[p].name,
                label=label(self, op),
                op=op,
                value=value_name(op, value),
                ordinary=not value,
                first=p == _lowest(enabled),
                frames=self.stacks.pop(p, ()),
            )
        )
        self.choice.append(p)
        self.value.append(value)
        self.ops.append(op)
        self.i += 1
        return p

    def _choose(self, enabled: int) -> tuple[int, int] | None:
        """The next event's task and value, (-1, 0) at the end, None to run again with ``meant`` completed."""
        if enabled and self.i >= self.max_events:
            self._check_truncated()
            self.status = "truncated"
            return -1, 0
        if isinstance(self.schedule, Schedule):
            chosen = self._by_text(enabled, self.schedule.segments)
        else:
            chosen = self._by_choices(enabled, self.schedule)
        if chosen is None and not self.again:
            if not enabled:
                self.status = self._ending()
                return -1, 0
            if self.tail < 0 or not enabled >> self.tail & 1:
                self.tail = _lowest(enabled)
            chosen = self.tail, 0
        return chosen

    def _by_choices(self, enabled: int, choices: Sequence[tuple[str, int]]) -> tuple[int, int] | None:
        if self.i >= len(choices):
            return None
        name, value = choices[self.i]
        names = [task.name for task in self.tasks[: self.nlive]]
        if name not in names:
            raise ScheduleError(f"event {self.i + 1}: there is no task {name}: the tasks are {', '.join(names)}")
        t = names.index(name)
        if not enabled >> t & 1:
            raise ScheduleError(f"event {self.i + 1}: {name} cannot go on: {self._why_not(t)}")
        op = self.pending[t]
        if value and not (op[0] == CHOOSE and value < op[3]):
            raise ScheduleError(f"event {self.i + 1}: {name} has no choice number {value} at {label(self, op)}")
        return t, value

    # -- following the text ------------------------------------------------------------------------------------------
    def _next_segment(self) -> None:
        self.segment += 1
        self.at = -1  # the segment's task, once it is known
        self.labels = []
        self.made = 0  # how many of the segment's choices were taken
        self.reached_stop = False

    def _by_text(self, enabled: int, segments: Sequence[Segment]) -> tuple[int, int] | None:
        while self.segment < len(segments):
            seg = segments[self.segment]
            if self.at < 0:
                self.at = self._task(seg.task)
            t = self.at
            if enabled >> t & 1 and not self.reached_stop:
                value = self._value(seg, self.pending[t])
                self.labels.append(label(self, self.pending[t]))
                stop, nth = self.meant.get(self.segment, (seg.label, seg.nth))
                self.reached_stop = self.labels[-1] == stop and self.labels.count(stop) == nth
                return t, value
            self._check_segment(seg, t)
            if self.again:
                return None
            self._next_segment()
        return None

    def _task(self, text: str) -> int:
        names = [word(task.name) for task in self.tasks[: self.nlive]]
        name = meant(text, names)
        if name is None:
            raise ScheduleError(f"there is no task '{text}': the tasks are {', '.join(names)}")
        return names.index(name)

    def _value(self, seg: Segment, op: Op) -> int:
        if not seg.choices or op[0] != CHOOSE:
            return 0
        nth = self.labels.count(choice_name(op)) + 1
        for c in seg.choices:
            if c.name == choice_name(op) and c.nth == nth:
                self.made += 1
                values = [value_name(op, v) for v in range(op[3])]
                if c.value not in values:
                    raise ScheduleError(f"{seg}: {c.name} is one of {', '.join(values)}, not {c.value}")
                return values.index(c.value)
        return 0

    def _check_segment(self, seg: Segment, t: int) -> None:
        """The segment is over: is that how its text means it to be?"""
        if not self.labels:
            raise ScheduleError(f"{seg}: {seg.task} cannot go on there: {self._why_not(t)}")
        if seg.label and not self.reached_stop:
            self._find_label(seg, t)
        elif self.made < len(seg.choices):
            missing = next((c for c in seg.choices if self.labels.count(c.name) < c.nth), seg.choices[-1])
            which = missing.name if missing.nth == 1 else f"{missing.name} number {missing.nth}"
            done = nearby(missing.name, self.labels)
            raise ScheduleError(f"{seg}: {seg.task} makes no choice {which} there; it does {done}")

    def _check_truncated(self) -> None:
        if isinstance(self.schedule, Schedule) and self.segment < len(self.schedule.segments):
            seg = self.schedule.segments[self.segment]
            if self.segment + 1 < len(self.schedule.segments) or (seg.label and not self.reached_stop):
                raise ScheduleError(f"{seg}: {seg.task} is still at it after {self.i} events in all")

    def _find_label(self, seg: Segment, t: int) -> None:
        """No event was called exactly that: run again with the one that begins so, if it is the only one."""
        whole = f"{seg.label}#{seg.nth}"
        found: tuple[str | None, int] = meant(whole, self.labels) if seg.nth > 1 else None, 1
        if found[0] is None:
            found = meant(seg.label, self.labels), seg.nth
        name, nth = found
        if name is None:
            raise ScheduleError(
                f"{seg}: {seg.task} does no {seg.label} there; it does {nearby(seg.label, self.labels)}, "
                f"and then {self._why_not(t)}"
            )
        times = self.labels.count(name)
        if times < nth:
            raise ScheduleError(
                f"{seg}: {seg.task} does {name} only {times} time{'s' * (times > 1)} there, and then {self._why_not(t)}"
            )
        self.meant[self.segment] = name, nth
        self.again = True

    def _why_not(self, t: int) -> str:
        op = self.pending[t]
        if op is DONE:
            return "it has ended"
        by = ", ".join(word(name) for name in self._holders(t))
        return f"it waits at {label(self, op)}{' for ' + by if by else ''}"

    def _holders(self, t: int) -> tuple[str, ...]:
        op = self.pending[t]
        waits = self.prims[op[1]].waits_for(op, t)
        return tuple(dict.fromkeys(self.tasks[w].name for w in waits if w >= 0))

    # -- recording -----------------------------------------------------------------------------------------------
    def _remember_stack(self) -> None:
        if self.record_frames:
            self.stacks[self.cur] = _model_frames()

    def _close(self, enabled: int) -> None:
        """Complete the last step by what its task has done since."""
        findings = tuple(self._new_findings())
        now = self._watch_now()
        if not self.steps:
            self.early = findings
            self.watched = now
        else:
            s, t = self.steps[-1], self.choice[-1]
            op = self.pending[t]
            s.findings = findings
            s.held = tuple((prim.name, mode) for prim, mode, _ in self.tasks[t].held)
            s.resumable = bool(enabled >> t & 1)
            s.ended = op is DONE
            if not s.resumable and not s.ended:
                s.waits = label(self, op)
                s.holders = self._holders(t)
            s.changes = _changes(self.shown, now)
        self.shown = now

    def _new_findings(self) -> Iterable[Finding]:
        """The findings since the last call."""
        new = [*self.findings.values()][self.findings_seen :] + self.lockdep.findings[self.inversions_seen :]
        self.findings_seen = len(self.findings)
        self.inversions_seen = len(self.lockdep.findings)
        return new

    def _watch_now(self) -> dict[str, str]:
        """What ``Setup.watch`` shows. It looks on: it is no event of anybody's and finds nothing."""
        watch = self.setup.watch
        if watch is None:
            return {}
        point, cur, findings, reached = rt.point, self.cur, self.findings, self.reached
        rt.point, self.cur, self.findings, self.reached = rt.quiet, -1, {}, set()
        try:
            return dict(watch())
        finally:
            rt.point, self.cur, self.findings, self.reached = point, cur, findings, reached

    def _ended(self, setup: Setup) -> None:
        if self.failure is None and not self.again:
            for f in plain_races(cast(Any, self)):
                self.found(f)
        super()._ended(setup)


def replay(build: Callable[[], Setup], schedule: str | Schedule | Sequence[tuple[str, int]] = "") -> Replay:
    """Run one execution by a schedule; ScheduleError when the program cannot follow it."""
    engine = Replay(build, schedule)
    engine.run()
    return engine


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _changes(old: dict[str, str], new: dict[str, str]) -> tuple[Change, ...]:
    keys = dict.fromkeys([*old, *new])
    return tuple(Change(k, old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k))


def _model_frames() -> tuple[Frame, ...]:
    """The running task's frames, outermost first, without the engine's own."""
    frames = []
    f = sys._getframe(1)
    while f is not None:
        code = f.f_code
        if not code.co_filename.startswith(_HERE):
            frames.append(Frame(code.co_name, code.co_filename, f.f_lineno))
        f = cast(Any, f.f_back)
    return tuple(reversed(frames))
