"""One execution as text that pastes into a mail: a lane a task, as mm's own commit messages have it.

Two tasks stand side by side (``CPU0``, ``CPU1``); more of them get a letter each at the beginning of the line. A task's
lines nest as its functions do. Whoever takes a second lock, or is preempted with locks held, is shown with all of them;
whatever the machine watches is printed where it changes. Accesses that no other task interferes with are left out, and
the functions in which nothing else happens with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mmlitmus.checker.case import Case
from mmlitmus.explore import ops
from mmlitmus.explore.replay import Frame, Replay, Step

from .text import MAIL, many, shell, titled, wrap

#: frames that carry out what their caller's line says
PLUMBING = ("/mmlitmus/explore/", "/mmlitmus/kernel/policy.py", "/mmlitmus/checker/")
#: functions that are one event under its kernel name: the event is printed by that name
NAMED_AFTER = ("/mmlitmus/kernel/sync/", "/kernel/arch/x86/pgtable.py", "/kernel/arch/x86/tlb.py")
#: wrappers of a lock event are printed as that event
MODEL = "/mmlitmus/kernel/"
#: that many uneventful lines in a row are folded
FOLD = 4

_LOCKS = frozenset(range(ops.LOCK, ops.DOWNGRADE_WRITE + 1))
_GUTTER = 3


@dataclass
class Line:
    """One thing that a task did. ``boring`` lines may be folded away."""

    task: str
    depth: int
    text: str
    boring: bool = False
    wide: bool = False  # across all lanes


@dataclass
class _Lane:
    """Where in its functions a task's lane stands, and which locks its reader knows of."""

    stack: list[Frame] = field(default_factory=list)
    held: tuple[tuple[str, str], ...] = ()
    told: tuple[tuple[str, str], ...] = ()


def page(case: Case, spec: str, engine: Replay, note: str, *, labels: bool = False, full: bool = False) -> list[str]:
    """A whole mail: the question, the kernel, what was found, the lanes, and how to see it again."""
    head = [f"{case.id} on {spec}", case.question, note]
    out = [part for line in head if line for part in wrap(line, MAIL, "  ")]
    if engine.watched:
        out += wrap("before: " + "; ".join(f"{key}: {value}" for key, value in engine.watched.items()), MAIL, "  ")
    return [*out, "", *lanes(engine, labels=labels, full=full), "", *again(case, spec, engine)]


def again(case: Case, spec: str, engine: Replay) -> list[str]:
    """The command that replays the execution."""
    return shell(["mmlitmus", "replay", engine.token, case.source or case.id, "--kernel", spec], MAIL)


def lanes(engine: Replay, *, labels: bool = False, full: bool = False) -> list[str]:
    """The lines that show an execution. ``labels``: events as a schedule names them; ``full``: every event."""
    tasks = list(dict.fromkeys([*engine.setup.tasks, *(step.task for step in engine.steps)]))
    steps = engine.steps if full or labels else _telling(engine.steps)
    lines = _Teller(engine, steps, labels).lines()
    if not full:
        lines = _folded(lines)
    out = _side_by_side(lines, tasks) if len(tasks) <= 2 else _prefixed(lines, tasks)
    left_out = len(engine.steps) - len(steps)
    if left_out:
        out += ["", f"({many(left_out, 'event')} left out that no other task interferes with; --full has all)"]
    return out


# -- what is worth telling ---------------------------------------------------------------------------------------------
def _telling(steps: Sequence[Step]) -> list[Step]:
    """The steps that a reader needs: locks, changes, and what two tasks do to one object."""
    shared = _shared(steps)
    kept: list[Step] = []
    for step in steps:
        before = kept[-1] if kept else None
        if (
            step.op[0] == ops.DOWN_WRITE_ACQUIRE
            and before is not None
            and (before.task, before.index, before.op[0]) == (step.task, step.index - 1, ops.DOWN_WRITE)
        ):  # no waiting in between: one thing
            kept[-1] = replace(
                step, op=before.op, label=before.label, frames=before.frames,
                findings=before.findings + step.findings, changes=before.changes + step.changes,
            )  # fmt: skip
        elif _tells(step) or step.index in shared:
            kept.append(step)
    return kept


def _tells(step: Step) -> bool:
    eventful = step.changes or step.findings or step.waits or step.ended or step.preempted or step.value
    return bool(eventful) or step.op[0] in _LOCKS or step.op[0] in (ops.IPI, ops.SPAWN, ops.JOIN)


def _shared(steps: Sequence[Step]) -> set[int]:
    """The steps that do not commute with some other task's."""
    readers: dict[int, set[str]] = {}
    writers: dict[int, set[str]] = {}
    for step in steps:
        for o, written in ops.footprint(step.op):
            (writers if written else readers).setdefault(o, set()).add(step.task)
    found = set()
    for step in steps:
        for o, written in ops.footprint(step.op):
            others = writers.get(o, set()) | (readers.get(o, set()) if written else set())
            if others - {step.task}:
                found.add(step.index)
    return found


class _Names:
    """Names without the prefix that tells them from others, where there are none: ``pte[a0]`` for ``p:pte[a0]``."""

    def __init__(self, engine: Replay) -> None:
        full = {_what(step.label) for step in engine.steps} | set(engine.watched)
        full |= {lock for step in engine.steps for lock, _ in step.held}
        full |= {change.key for step in engine.steps for change in step.changes}
        self.short: dict[str, str] = {}
        of: dict[str, list[str]] = {}
        for name in sorted(full):
            of.setdefault(_bare(name), []).append(name)
        for bare, names in of.items():
            if len(names) == 1:
                self.short[names[0]] = bare

    def __call__(self, name: str) -> str:
        return self.short.get(name, name)


def _bare(name: str) -> str:
    """What stands behind the last colon outside brackets."""
    return name if " " in name else name.rpartition(":")[2] if "[" not in name else _before_bracket(name)


def _before_bracket(name: str) -> str:
    head, bracket, rest = name.partition("[")
    return head.rpartition(":")[2] + bracket + rest


# -- what is said -----------------------------------------------------------------------------------------------------
class _Teller:
    """Turns steps into lines."""

    def __init__(self, engine: Replay, steps: Sequence[Step], labels: bool) -> None:
        self.engine = engine
        self.steps = steps
        self.labels = labels
        self.name = _Names(engine)
        self.at = {task: _Lane() for task in (*engine.setup.tasks, *(step.task for step in engine.steps))}
        self.following: Mapping[int, Step] = _following(steps)

    def lines(self) -> list[Line]:
        """All of them."""
        lines = [_finding(f.kind, f.name, f.message) for f in self.engine.early]
        for n, step in enumerate(self.steps):
            lines += self._step(step, self.steps[n + 1] if n + 1 < len(self.steps) else None)
        return lines + [_finding(f.kind, f.name, f.message) for f in self.engine.late]

    def _step(self, step: Step, following: Step | None) -> Iterable[Line]:
        lane = self.at[step.task]
        yield from self._event(step, lane)
        depth = len(lane.stack)
        for change in step.changes:
            old, new = ("none" if v is None else v for v in (change.old, change.new))
            yield Line(step.task, depth, f"* {self.name(change.key)}: {old} -> {new}")
        for f in step.findings:
            yield _finding(f.kind, f.name, f.message)
        if step.ended:
            holding = f", holding {self._held(step.held)}" if step.held else ""
            yield Line(step.task, 0, f"(ends{holding})")
            lane.stack = []
        elif step.waits and (following is None or following.task != step.task):
            by = f", which {' and '.join(step.holders)} holds" if step.holders else ""
            yield Line(step.task, depth, f"... waits for {self.name(_what(step.waits))}{by}")
            lane.told = step.held
        elif step.preempted and step.held and lane.told != step.held:
            yield Line(step.task, depth, f"(holds {self._held(step.held)})")
            lane.told = step.held

    def _event(self, step: Step, lane: _Lane) -> Iterable[Line]:
        """The functions that the task entered for this event, and the event."""
        frames = [f for f in step.frames if not hidden(f)]
        named = ""
        while frames and any(part in frames[-1].file for part in NAMED_AFTER):
            named = frames.pop().function  # the outermost of such functions names the event
        kept = _still_in(lane.stack, frames)
        leaf = len(frames) > kept and _only_event(frames, self.following.get(step.index))
        lock = step.op[0] in _LOCKS
        if leaf and lock and MODEL in frames[-1].file and not self.labels:
            named, leaf = frames.pop().function, False
            kept = min(kept, len(frames))
        elif named:
            leaf = False
        for depth in range(kept, len(frames) - leaf):
            yield Line(step.task, depth, f"{frames[depth].function}()")
        lane.stack = frames
        text = f"{step.label}{'=' + step.value if step.value else ''}" if self.labels else self._words(step, named)
        if leaf:
            text = f"{frames[-1].function}(): {text}"
        if len(step.held) > max(1, len(lane.held)):
            text += f"  [{self._held(step.held)}]"
            lane.told = step.held
        lane.held = step.held
        boring = not lock and not _tells(step)
        yield Line(step.task, len(frames) - leaf, text, boring)

    def _held(self, held: Sequence[tuple[str, str]]) -> str:
        """The locks a task holds: ``mmap_lock:r memory_lock:w ptl``."""
        letter = {"read": ":r", "write": ":w"}
        return " ".join(f"{self.name(lock)}{letter.get(mode, '')}" for lock, mode in held)

    def _words(self, step: Step, named: str) -> str:
        """The event in the kernel's words; ``named``: under the name of the function that it is."""
        kind, what = step.op[0], self.name(_what(step.label))
        if kind == ops.CHOOSE:
            return f"choose {step.label} = {step.value}"
        if kind == ops.DOWN_WRITE_ACQUIRE:
            return f"has {what}"
        if named:
            return f"{named}({what})"
        if "." not in step.label:
            return f"{step.label}()"
        if len(step.op) > 3 and isinstance(step.op[3], str):
            return f"{step.op[3]}({what})"
        data = kind < ops.FIRST_SYNC and not step.kind.isupper()
        return f"{step.kind} {what}" if data else f"{step.kind}({what})"


def _following(steps: Sequence[Step]) -> dict[int, Step]:
    """For each step, by its index: the next one of the same task."""
    after: dict[int, Step] = {}
    last: dict[str, int] = {}
    for step in steps:
        if step.task in last:
            after[last[step.task]] = step
        last[step.task] = step.index
    return after


def _finding(kind: str, name: str, message: str) -> Line:
    what = titled(kind, name)
    return Line("", 0, f">>> {what}: {message}" if message else f">>> {what}", wide=True)


def hidden(frame: Frame) -> bool:
    """Is the function of no interest to a reader: the search itself, a helper, a nameless one?"""
    plumbing = any(part in frame.file for part in PLUMBING)
    private = frame.function.startswith("_") and not frame.function.startswith("__")
    return plumbing or private or frame.function.startswith("<")


def _still_in(old: Sequence[Frame], new: Sequence[Frame]) -> int:
    """How many of the outer functions the task has not left since: a caller's line moves only between calls."""
    for n, (a, b) in enumerate(zip(old, new, strict=False)):
        if a[:2] != b[:2]:
            return n
        if a.line != b.line:
            return n + 1
    return min(len(old), len(new))


def _only_event(frames: Sequence[Frame], following: Step | None) -> bool:
    """Is the innermost function left again before the task's next event?"""
    if following is None:
        return True
    then = [f for f in following.frames if not hidden(f)]
    return _still_in(frames, then) < len(frames)


def _what(label: str) -> str:
    """The object of an event's label."""
    return label.rpartition(".")[0] or label


def _folded(lines: Sequence[Line]) -> list[Line]:
    """Runs of uneventful lines of one task, but for the first and the last of each."""
    out: list[Line] = []
    n = 0
    while n < len(lines):
        end = n
        while end < len(lines) and lines[end].boring and lines[end].task == lines[n].task:
            end += 1
        if end - n >= FOLD:
            out += [lines[n], Line(lines[n].task, lines[n].depth, f"... {end - n - 2} more"), lines[end - 1]]
            n = end
        else:
            out += lines[n : max(end, n + 1)]
            n = max(end, n + 1)
    return out


# -- how it is laid out -----------------------------------------------------------------------------------------------
def _side_by_side(lines: Sequence[Line], tasks: Sequence[str]) -> list[str]:
    """One or two lanes."""
    width = (MAIL - _GUTTER) // len(tasks) if len(tasks) > 1 else MAIL
    offset = {task: n * (width + _GUTTER) for n, task in enumerate(tasks)}
    heads = [f"CPU{n} ({task})" for n, task in enumerate(tasks)]
    out = [(" " * _GUTTER).join(h.ljust(width) for h in heads).rstrip()]
    out.append((" " * _GUTTER).join(("-" * len(h[:width])).ljust(width) for h in heads).rstrip())
    for line in lines:
        if line.wide:
            out += wrap(line.text, MAIL, "    ")
            continue
        out += [" " * offset[line.task] + part for part in _indented(line, width)]
    return out


def _prefixed(lines: Sequence[Line], tasks: Sequence[str]) -> list[str]:
    """A letter a task."""
    letters = {task: _letter(n) for n, task in enumerate(tasks)}
    out = ["   ".join(f"{letters[task]} = {task}" for task in tasks), ""]
    out = [part for line in out for part in wrap(line, MAIL, "")]
    for line in lines:
        if line.wide:
            out += wrap(line.text, MAIL, "    ")
            continue
        prefix = f"{letters[line.task]}: "
        out += [prefix + part for part in _indented(line, MAIL - len(prefix))]
    return out


def _letter(n: int) -> str:
    return chr(ord("A") + n) if n < 26 else f"T{n}"


def _indented(line: Line, width: int) -> list[str]:
    """The line's text at its depth, wrapped; deep lines do not creep past the middle of their lane."""
    indent = " " * min(line.depth, width // 3)
    return [indent + part for part in wrap(line.text, width - len(indent), "    ")]
