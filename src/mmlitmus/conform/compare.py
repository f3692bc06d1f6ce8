"""Field by field: what a real kernel did, and what the model does.

A field that was not observed is neither agreed nor disagreed. A field that cannot mean anything is excluded by a named
rule, never by naming a row. Everything else is equal or a disagreement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .execute import Execution, Seen, execute_all, model_of
from .layout import Layout, Pairs
from .schema import Observed, Pin, Program, Recording, Result, Step, Unpin

AGREED, DISAGREED, EXCLUDED, UNOBSERVED = "agreed", "disagreed", "excluded", "unobserved"
VERDICTS = (AGREED, EXCLUDED, UNOBSERVED, DISAGREED)


@dataclass(frozen=True)
class Field:
    """One thing to compare: at ``step`` of ``program``, what was ``recorded`` (None: not observed) and the ``model``'s.

    ``name``: outcome, value, count, si_code, entry, vm_flags, memtypes, pagemap, locked, frame, pin, iova, events; log,
    warned and held (of the whole program: at its last step); or the name of a field that this version does not know.
    """

    program: str
    index: int
    step: Step
    name: str
    place: str
    recorded: str | None
    model: str | None
    seen: Seen

    @property
    def rule(self) -> str | None:
        """The first rule that excludes the field, by name."""
        for rule in RULES:
            if rule.excludes(self):
                return rule.name
        return None

    @property
    def verdict(self) -> str:
        """agreed, disagreed, excluded or unobserved."""
        if self.recorded is None:
            return UNOBSERVED
        if self.rule is not None:
            return EXCLUDED
        return AGREED if self.recorded == self.model else DISAGREED

    def __str__(self) -> str:
        what = f"{self.name} {self.place}".rstrip()
        return (
            f"program {self.program}, step {self.index} ({self.step}): {what}: "
            f"recorded {self.recorded or 'nothing'}, model {self.model or 'nothing'}"
        )


@dataclass(frozen=True)
class Rule:
    """Why a field is not compared with the model's; ``boots``: nor with what the same kernel said in another boot."""

    name: str
    why: str
    excludes: Callable[[Field], bool]
    boots: bool = False


RULES = (
    Rule(
        "bus-dependent-value",
        "what a read returns from a device that does not answer is the bus's doing: QEMU gives 0, a PC all ones",
        lambda f: f.name == "value" and f.seen.off,
        boots=True,
    ),
    Rule(
        "outcomes-differ",
        "the value of a read that the model did not complete: the outcome field says so already",
        lambda f: f.name == "value" and f.seen.outcome != "ok",
    ),
    Rule(
        "not-modelled",
        "the program has a step that the model has not: nothing of it, or of what follows, is the model's answer",
        lambda f: bool(f.seen.unmodelled),
    ),
    Rule(
        "unknown-field",
        "recorded by a newer lab; this version has nothing to compare it with",
        lambda f: (
            f.name in f.step.observed.extra
            or (f.step.observed.result is not None and f.name in f.step.observed.result.extra)
        ),
        boots=True,
    ),
)
#: what the name of a field ends with that is not the same in two boots; ``Field.model`` is the second one's answer then
SECOND_BOOT = ", second boot"


def boots_differ(first: Iterable[Field], second: Iterable[Field]) -> list[Field]:
    """The fields of one program that two boots of a kernel answer differently, in the words that are compared.

    Words are each machine's own places for frames, so that it does not matter where a boot has them. What else may
    differ has a rule that says so.
    """
    other = {(f.index, f.name, f.place): f for f in second}
    found = []
    for field in first:
        same = other.pop((field.index, field.name, field.place), None)
        found += _second_boot(field, field.recorded, None if same is None else same.recorded)
    for field in other.values():
        found += _second_boot(field, None, field.recorded)
    return found


def _second_boot(field: Field, first: str | None, second: str | None) -> list[Field]:
    if first == second or any(r.boots and r.excludes(field) for r in RULES):
        return []
    said = f"{second or 'nothing'} in the second boot"  # whoever reads the field alone would take it for the model's
    return [replace(field, name=field.name + SECOND_BOOT, recorded=first or "nothing", model=said)]


#: how a guest ends that has noticed that its kernel ran over its own memory, or would: in which way is chance
CRASHES = frozenset({"oops", "panic", "died"})


def _outcome(result: Result | None) -> str | None:
    if result is not None and result.died in CRASHES:
        return "died"
    return None if result is None else result.outcome


class Kept:
    """The frames of RAM that are held without being mapped anywhere, by names of what holds them, on either side."""

    def __init__(self) -> None:
        self.recorded: dict[str, int] = {}
        self.model: dict[str, int] = {}
        self.pinned = 0

    def step(self, step: Step, seen: Seen) -> None:
        """A step is over."""
        if isinstance(step, Unpin):
            mine = f"pin {step.hold} "
            self.recorded, self.model = (_without(side, mine) for side in (self.recorded, self.model))
        if isinstance(step, Pin):
            self.pinned += 1
            for side, pins in ((self.recorded, step.observed.pins), (self.model, seen.pins)):
                for n, frame in enumerate(pins or ()):
                    if frame is not None:
                        side[f"pin {step.hold} {self.pinned:04} {n:02}"] = frame.pfn
        for side, iovas in ((self.recorded, step.observed.iovas), (self.model, seen.iovas)):
            if iovas is None:
                continue
            for name in [name for name in side if name.startswith("iova ")]:
                del side[name]
            side.update({f"iova {name}": at.pfn for name, at in iovas.items() if at is not None})


def _without(names: dict[str, int], start: str) -> dict[str, int]:
    return {name: pfn for name, pfn in names.items() if not name.startswith(start)}


def fields_of(
    step: Step, seen: Seen, layout: Layout, names: Pairs, kept: Kept
) -> Iterator[tuple[str, str, str | None, str | None]]:
    """(name, place, recorded, model) of everything to compare at a step. ``names``: of RAM frames, on each side, those
    that are ``kept`` among them.
    """
    observed: Observed = step.observed
    result = observed.result
    kept.step(step, seen)
    if observed.entries or observed.pins or observed.iovas:
        recorded = layout.ram_frames(observed.entries) | layout.ram_only(kept.recorded)
        # where nobody could look the model's frames have no names either
        looked = {place: entry for place, entry in seen.entries.items() if observed.entries.get(place) is not None}
        names.step(recorded, layout.ram_frames(looked) | layout.ram_only(kept.model))
    if step.has_result:
        yield "outcome", "", _outcome(result), seen.outcome
    if result is not None:
        if result.value is not None:
            yield "value", "", hex(result.value), None if seen.value is None else hex(seen.value)
        if result.count is not None:
            yield "count", "", str(result.count), None if seen.count is None else str(seen.count)
        if result.code is not None:
            yield "si_code", "", str(result.code), None if seen.code is None else str(seen.code)
        yield from ((name, "", repr(value), None) for name, value in result.extra.items())
    for place, entry in observed.entries.items():
        yield "entry", place, layout.entry(entry, names.recorded), layout.entry(seen.entries.get(place), names.model)
    for place, letters in observed.vm_flags.items():
        yield "vm_flags", place, letters, seen.vm_flags.get(place)
    if observed.memtypes is not None:
        yield "memtypes", "", layout.memtypes(observed.memtypes), layout.memtypes(seen.memtypes)
    for place, word in observed.pagemap.items():
        said = layout.pagemap(word, names.recorded)
        yield "pagemap", place, said, layout.pagemap(seen.pagemap.get(place), names.model)
    for process, pages in (observed.locked or {}).items():
        yield "locked", process, str(pages), str((seen.locked or {}).get(process))
    if observed.frames is not None:
        model = seen.frames or {}
        for place in dict.fromkeys([*observed.frames, *model]):
            counts = layout.frame(observed.frames.get(place), names.recorded)
            yield "frame", place, counts, layout.frame(model.get(place), names.model)
    if observed.pins is not None:
        got = seen.pins or ()
        for n in range(max(len(observed.pins), len(got))):
            said = layout.slot(observed.pins, n, names.recorded)
            yield "pin", str(n), said, layout.slot(got, n, names.model)
    for iova, at in (observed.iovas or {}).items():
        said = layout.translation(at, names.recorded)
        yield "iova", iova, said, layout.translation((seen.iovas or {}).get(iova), names.model)
    for process, events in (observed.events or {}).items():
        heard = (seen.events or {}).get(process)
        lost = any(event.startswith("lost ") for event in events)  # mlockall's, of the process's own memory
        said = None if lost else ", ".join(events) or "none"
        yield "events", process, said, None if heard is None else ", ".join(heard) or "none"
    yield from ((name, "", repr(value), None) for name, value in observed.extra.items())


def compare_program(program: Program, execution: Execution, layout: Layout) -> list[Field]:
    """Every field of one program. Steps that the model did not get to have nothing on its side.

    At the step that a BUG of the model's ended it has died, as a guest that crashes has.
    """
    fields = []
    names, kept = Pairs(), Kept()
    after = Seen(dead=execution.died, unmodelled=execution.unmodelled)
    for n, step in enumerate(program.steps):
        seen = execution.steps[n] if n < len(execution.steps) else after
        if n == len(execution.steps) and execution.died:
            seen = replace(after, outcome="died")
        fields += [Field(program.id, n, step, *f, seen) for f in fields_of(step, seen, layout, names, kept)]
    last = len(program.steps) - 1
    whole: list[tuple[str, str | None, str | None]] = []
    if program.log is not None and program.steps:
        ran = not (execution.stopped or execution.unmodelled)
        whole.append(("log", layout.log(program.log), layout.log(execution.log) if ran else None))
        if layout.whole_log:
            whole.append(("warned", _yes(program.warned), _yes(execution.warned) if ran else None))
    if program.held is not None and program.steps:
        whole.append(("held", layout.held(program.held), layout.held(execution.held)))
    for name, said, model in whole:
        fields.append(Field(program.id, last, program.steps[last], name, "", said, model, after))
    return fields


def _yes(it: bool) -> str:
    return "yes" if it else "no"


@dataclass(frozen=True)
class Comparison:
    """A recording beside the model: every field, and the executions they are from."""

    spec: str
    programs: tuple[Program, ...]
    executions: Mapping[str, Execution]
    fields: tuple[Field, ...]

    @property
    def operations(self) -> int:
        """Steps that do something (all but observe and switch)."""
        return sum(step.op not in ("observe", "switch") for p in self.programs for step in p.steps)

    @property
    def counts(self) -> dict[str, int]:
        """programs, operations, fields, and fields by verdict."""
        verdicts = Counter(f.verdict for f in self.fields)
        return {
            "programs": len(self.programs),
            "operations": self.operations,
            "fields": len(self.fields),
            **{v: verdicts[v] for v in VERDICTS},
        }

    @property
    def disagreements(self) -> list[Field]:
        """The fields that differ."""
        return [f for f in self.fields if f.verdict == DISAGREED]

    @property
    def stopped(self) -> dict[str, str]:
        """The programs that the model did not run to their end, and why."""
        return {p: e.stopped for p, e in self.executions.items() if e.stopped}

    @property
    def unmodelled(self) -> dict[str, str]:
        """The programs with a step that the model has not, and what that is."""
        return {p: e.unmodelled for p, e in self.executions.items() if e.unmodelled}

    def found_in(self, name: str) -> list[str]:
        """The programs in which the model reports the finding ``name``."""
        return [p for p, e in self.executions.items() if any(f.name == name for f in e.findings)]

    def rules(self) -> Counter[str]:
        """How many fields each rule excluded."""
        return Counter(f.rule or "" for f in self.fields if f.verdict == EXCLUDED)


def compare(recording: Recording, spec: str | None = None) -> Comparison:
    """Run a recording's programs on the kernel recorded (or on ``spec``), and compare. Raises what ``execute`` does."""
    spec = spec or model_of(recording.header.key.kernel)
    executions = execute_all(recording, spec)
    layout = Layout(recording.header)
    fields: Iterable[Field] = (f for p in recording.programs for f in compare_program(p, executions[p.id], layout))
    return Comparison(spec, recording.programs, executions, tuple(fields))
