"""Many programs on a real kernel and on the model, compared field by field.

What a kernel answered is kept as it comes, in the lab's folder, by the hash of everything that the answer depends on:
a campaign that is broken off goes on where it stopped, and one that is run again on another model boots nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from .codec import encode
from .compare import AGREED, DISAGREED, EXCLUDED, SECOND_BOOT, UNOBSERVED, Field, boots_differ, compare_program
from .execute import Execution, execute
from .explained import EXPLAINED, Explained, explain
from .generate import language_of
from .layout import Layout
from .live import Heard, LiveError, header_of, hear, text_of
from .schema import Header, Key, Program, Recording

#: seconds that a program may take in a guest
PROGRAM = 30.0


class Outcome(Protocol):
    """What became of a program (``lab.Outcome``)."""

    @property
    def kind(self) -> str:
        """ended, oops, panic, hang or died."""

    @property
    def lines(self) -> tuple[str, ...]:
        """What the agent said."""

    @property
    def console(self) -> tuple[str, ...]:
        """What the kernel printed."""

    @property
    def why(self) -> str:
        """What ended it."""


class Guest(Protocol):
    """Something that runs programs (``lab.Session``)."""

    def run(self, program: str, timeout: float = ...) -> Outcome:
        """Run one on a fresh kernel."""


# -- what kernels answered --------------------------------------------------------------------------------------------
class Answers:
    """A kernel's answers in a file: one compressed JSON object a program, written as they come.

    With each is what the agent said of the machine that it came from (``ready``): where the probe module's RAM is may
    differ from boot to boot. ``path`` None keeps them in memory. What a broken-off write left at the file's end is
    cut off.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            self._load(path)

    def _load(self, path: Path) -> None:
        raw = path.read_bytes()
        at = 0
        while at + 4 <= len(raw):
            size = int.from_bytes(raw[at : at + 4], "little")
            if at + 4 + size > len(raw):
                break
            # one that is damaged is asked again; those behind it are still there
            with contextlib.suppress(zlib.error, ValueError, KeyError, TypeError, RecursionError):
                entry = json.loads(zlib.decompress(raw[at + 4 : at + 4 + size]))
                self.known[entry["text"]] = entry
            at += 4 + size
        if at < len(raw):
            with path.open("r+b") as file:
                file.truncate(at)

    def get(self, text: str) -> dict[str, Any] | None:
        """What was answered to a program's text."""
        return self.known.get(_hash(text))

    def of_fresh(self, text: str) -> dict[str, Any] | None:
        """What a fresh kernel answered to a program's text, where others may have answered too."""
        return self.get(text)

    def put(self, text: str, outcome: Outcome, ready: Mapping[str, Any], batch: bool = False) -> dict[str, Any]:
        """Keep an answer; ``batch``: of one that was not alone in its boot."""
        entry: dict[str, Any] = {
            "text": _hash(text),
            "ready": dict(ready),
            "kind": outcome.kind,
            "lines": [*outcome.lines],
            "console": [*outcome.console],
            "why": outcome.why,
            **({"batch": True} if batch else {}),
        }
        self.known[entry["text"]] = entry
        if self.path is not None:
            data = zlib.compress(json.dumps(entry).encode())
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(len(data).to_bytes(4, "little") + data)
        return entry


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def answers_at(folder: Path, kernel: str, identity: Mapping[str, str]) -> Answers:
    """The answers of a kernel in a folder: a file for every ``identity``."""
    name = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]
    plain = "".join(c if c.isalnum() or c in ".-" else "_" for c in kernel)[-40:]
    return Answers(folder / f"{plain}-{identity.get('machine', '')}-{name}")


# -- one program ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Compared:
    """A program on both sides. ``refused``: why it could not be compared, if it could not.

    ``header``: of the boot that answered; ``boots``: the keys of the others that did.
    """

    program: Program
    header: Header | None = None
    boots: tuple[Key, ...] = ()
    heard: Heard | None = None
    execution: Execution | None = None
    fields: tuple[Field, ...] = ()
    console: tuple[str, ...] = ()
    refused: str = ""

    @property
    def different(self) -> list[Field]:
        """The fields that differ."""
        return [f for f in self.fields if f.verdict == DISAGREED]


@dataclass
class Kernel:
    """A kernel to ask: a guest that runs it (None: only what is known already), what was said of it, the model beside.

    ``ready``: by the agent; ``identity``: by the lab; ``machine``: pc or q35.
    """

    guest: Guest | None
    ready: Mapping[str, Any]
    identity: Mapping[str, str]
    machine: str
    model: str
    answers: Answers = field(default_factory=lambda: Answers(None))

    def header(self, ready: Mapping[str, Any] | None = None) -> Header:
        """The header of what this kernel answers, in this boot or in the one that said ``ready``."""
        return header_of(self.ready if ready is None else ready, self.identity, self.machine)

    def compare(self, program: Program, *, fresh: bool = False) -> Compared:
        """Run a program on both, and compare. What the guest comes to is part of it; LabError if QEMU does not run.

        ``fresh``: an answer out of a batch is not enough.
        """
        text = text_of(program)
        said = self.answers.of_fresh(text) if fresh else self.answers.get(text)
        if said is None:
            if self.guest is None:
                return Compared(program, refused="never run")
            outcome = self.guest.run(text, PROGRAM)
            if outcome.kind != "ended":
                # an emulator on a busy host may fail where the kernel does not: what it comes to has to come again
                outcome = self.guest.run(text, PROGRAM)
            said = self.answers.put(text, outcome, self.ready)
        try:
            objects = [json.loads(line) for line in said["lines"]]
            header = self.header(said["ready"])
            header = replace(header, isolation="batch") if said.get("batch") else header
            heard = hear(program, objects, said["kind"], said["why"], header, language_of(program.id))
        except (LiveError, ValueError) as e:
            return Compared(program, console=tuple(said["console"]), refused=str(e))
        execution = execute(heard.program, header, self.model)
        fields = tuple(compare_program(heard.program, execution, Layout(header)))
        return Compared(program, header, (), heard, execution, fields, tuple(said["console"]))


@dataclass
class Twice:
    """A kernel in two boots that have nothing in common but the kernel: an answer counts if both give it.

    LiveError if the boots are not independent: a kernel that is not placed at random, the same memory, another kernel.
    """

    first: Kernel
    second: Kernel

    def __post_init__(self) -> None:
        one, other = self.first.header().key, self.second.header().key
        for key in (one, other):
            if "nokaslr" in (key.kernel.command_line or "").split():
                raise LiveError(f"{key.kernel.release}: two boots are to be independent, and one has nokaslr")
        if one.lab.memory_mib == other.lab.memory_mib:
            raise LiveError(f"{one.kernel.release}: two boots are to be independent, and both have the same memory")
        if (one.kernel, one.lab.module_sha256) != (other.kernel, other.lab.module_sha256):
            raise LiveError(f"the two boots are not of one kernel: {one.kernel.release}, {other.kernel.release}")

    @property
    def model(self) -> str:
        """The model's kernel."""
        return self.first.model

    def compare(self, program: Program) -> Compared:
        """Run a program in both boots and on the model. What the boots do not agree on is a difference, too.

        The second boot may answer in batches: it is asked again on a fresh kernel before a difference counts.
        """
        one = self.first.compare(program)
        if one.refused:
            return one
        other = self.second.compare(program)
        if other.refused or boots_differ(one.fields, other.fields):
            other = self.second.compare(program, fresh=True)
        if other.refused or other.header is None:
            return replace(one, refused=f"in the second boot: {other.refused}")
        differ = tuple(boots_differ(one.fields, other.fields))
        return replace(one, boots=(other.header.key,), fields=one.fields + differ)


def recordings(done: Iterable[Compared]) -> list[Recording]:
    """What was answered, as recordings: one for every boot whose answers they are.

    Those that a second boot answered otherwise are left out. One that the guest did not survive ends there.
    """
    headers: dict[str, Header] = {}
    keys: dict[str, dict[str, Key]] = {}
    kept: dict[str, list[Program]] = {}
    for one in done:
        if one.header is None or one.heard is None or one.refused:
            continue
        if any(f.name.endswith(SECOND_BOOT) for f in one.fields):
            continue
        name = json.dumps(encode(one.header), sort_keys=True)
        headers.setdefault(name, one.header)
        keys.setdefault(name, {}).update((json.dumps(encode(key), sort_keys=True), key) for key in one.boots)
        kept.setdefault(name, []).append(one.heard.program)
    return [
        Recording(header=replace(header, boots=tuple(keys[name].values())), programs=tuple(kept[name]))
        for name, header in headers.items()
    ]


# -- many -------------------------------------------------------------------------------------------------------------
@dataclass
class Tally:
    """How many fields of a kind of step there were, by verdict."""

    operations: int = 0
    fields: Counter[str] = field(default_factory=Counter)


@dataclass
class Campaign:
    """What came of the programs of one kernel. ``unstable``: those that two boots of it do not answer alike."""

    kernel: str
    model: str
    seconds: float = 0.0
    programs: int = 0
    operations: dict[str, Tally] = field(default_factory=dict)
    explained: dict[str, set[str]] = field(default_factory=dict)
    unexplained: list[Compared] = field(default_factory=list)
    refused: list[Compared] = field(default_factory=list)
    died: Counter[str] = field(default_factory=Counter)
    unstable: set[str] = field(default_factory=set)

    def add(self, one: Compared) -> list[Field]:
        """Count a program; its unexplained fields."""
        if one.refused:
            self.refused.append(one)
            return []
        assert one.heard is not None, "it was compared"
        self.programs += 1
        if one.heard.died:
            self.died[one.heard.died] += 1
        for step in one.heard.program.steps:
            if step.op not in ("observe", "switch"):
                self._tally(step.op).operations += 1
        left = []
        for each in one.fields:
            verdict = each.verdict
            if each.name.endswith(SECOND_BOOT):
                self.unstable.add(one.program.id)
            if verdict == DISAGREED:
                reason = explain(self.model, each)
                verdict = "unexplained" if reason is None else "explained"
                if reason is None:
                    left.append(each)
                else:
                    self.explained.setdefault(reason.name, set()).add(one.program.id)
            self._tally(each.step.op).fields[verdict] += 1
        if left:
            self.unexplained.append(one)
        return left

    def _tally(self, op: str) -> Tally:
        tally = self.operations.get(op)
        if tally is None:
            tally = self.operations[op] = Tally()
        return tally

    @property
    def counts(self) -> dict[str, int]:
        """programs, operations, fields, and fields by verdict."""
        total: Counter[str] = Counter()
        for tally in self.operations.values():
            total.update(tally.fields)
        return {
            "programs": self.programs,
            "operations": sum(t.operations for t in self.operations.values()),
            "fields": total.total(),
            "agreed": total[AGREED],
            "explained": total["explained"],
            "excluded": total[EXCLUDED],
            "unobserved": total[UNOBSERVED],
            "unexplained": total["unexplained"],
        }

    def over_cap(self) -> list[Explained]:
        """The explanations that cover more programs than they may: one is always allowed."""
        most = {one.name: max(1, one.cap * self.programs / 100) for one in EXPLAINED}
        return [one for one in EXPLAINED if len(self.explained.get(one.name, ())) > most[one.name]]

    @property
    def good(self) -> bool:
        """Nothing unexplained, nothing refused, no explanation that explains too much."""
        return not (self.unexplained or self.refused or self.over_cap())


class Asked(Protocol):
    """Something that compares programs: a ``Kernel``, or ``Twice``."""

    def compare(self, program: Program) -> Compared:
        """Run a program on both sides."""


def run(
    kernel: Asked,
    programs: Iterable[Program],
    campaign: Campaign,
    each: Callable[[Compared, Sequence[Field]], None] = lambda one, left: None,
) -> Campaign:
    """Run programs one after the other, and count. What was counted when it is broken off is in ``campaign``."""
    started = time.monotonic()
    try:
        for one in _compared(kernel, programs):
            each(one, campaign.add(one))
    finally:
        campaign.seconds += time.monotonic() - started
    return campaign


def _compared(kernel: Asked, programs: Iterable[Program]) -> Iterator[Compared]:
    for program in programs:
        yield kernel.compare(program)
