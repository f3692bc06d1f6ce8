"""A case: one question, asked of a small machine, with the answer that is expected of each kernel.

A case file is Python. Its ``@case`` functions build the machine; the decorator turns each into a ``Case`` and registers
it in the module being loaded (``load.py`` reads it from there).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmlitmus.kernel import findings

#: where a case's list of cases is kept in its module
REGISTRY = "__mmlitmus_cases__"

#: what may stand behind an expectation, the strongest first
EVIDENCE = ("recorded", "source", "dossier")

#: the searches that a case may ask for
ENGINES = ("stateful", "auto")

#: the release of a kernel spec that means every release, or the newest one
ALL = "all"


class CaseError(Exception):
    """A case that cannot be run. Its text is one line that names file and line."""

    def __init__(self, message: str, file: str = "", line: int = 0) -> None:
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(where + message)
        self.file = file
        self.line = line


@dataclass(frozen=True)
class Expectation:
    """What should come out: a set of (mode, finding name), empty for never; or n/a with its reason."""

    answers: tuple[tuple[str, str], ...] = ()
    reason: str | None = None

    def __and__(self, other: Expectation) -> Expectation:
        if self.reason is not None or other.reason is not None or not self.answers or not other.answers:
            raise TypeError("only sometimes(...) and always(...) can be joined with &")
        return Expectation(tuple(sorted({*self.answers, *other.answers})))

    @property
    def text(self) -> str:
        """The expectation as the table prints it."""
        return "n/a" if self.reason is not None else answers_text(self.answers)

    @property
    def names(self) -> frozenset[str]:
        """The findings that it speaks of."""
        return frozenset(name for _, name in self.answers)


def answers_text(answers: Sequence[tuple[str, str]]) -> str:
    """``always a, sometimes b``; ``never`` for none."""
    parts = []
    for mode in ("always", "sometimes", "seen"):
        names = sorted(name for m, name in answers if m == mode)
        if names:
            parts.append(f"{mode} {', '.join(names)}")
    return ", ".join(parts) or "never"


def same_answers(a: Iterable[tuple[str, str]], b: Iterable[tuple[str, str]]) -> bool:
    """Are these the same findings, found as often? An inversion is a fact about the search as a whole, so of it only
    the name counts; *always* is said of it where there is one trace."""
    return {_told(*one) for one in a} == {_told(*one) for one in b}


def _told(mode: str, name: str) -> tuple[str, str]:
    return ("" if name.startswith("inversion ") else mode), name


#: no execution shows a violation
never = Expectation()


def sometimes(*names: str) -> Expectation:
    """Some executions show each of these findings, others do not."""
    return _answers("sometimes", names)


def always(*names: str) -> Expectation:
    """Every complete execution shows each of these findings."""
    return _answers("always", names)


def _answers(mode: str, names: tuple[str, ...]) -> Expectation:
    if not names or not all(isinstance(n, str) and n for n in names):
        raise TypeError(f"{mode}(...) takes the names of one or more findings")
    return Expectation(tuple(sorted((mode, n) for n in names)))


def na(reason: str) -> Expectation:
    """The question makes no sense on this kernel; the case is not run there."""
    if not isinstance(reason, str) or not reason:
        raise TypeError("na(...) takes the reason")
    return Expectation(reason=reason)


@dataclass(frozen=True)
class Case:
    """One question. Calling it with a machine puts the case's tasks on that machine."""

    id: str
    build: Callable[[Any], object]
    question: str
    file: str
    line: int
    scenario: str = ""
    thread: str = ""
    claims: tuple[str, ...] = ()
    fix: str = ""
    asks: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    reach: tuple[str, ...] = ()
    expect: Mapping[str, Expectation] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, int | str] = field(default_factory=dict)
    engine: str = ""  # the search that it needs, where the ordinary one would not come to an end
    control: str = ""  # the id of a case that shows that it can fail, or a sentence why there is none
    names: tuple[str, ...] = ()  # findings and marks that it makes, where its file does not say them literally
    source: str = ""  # what a command line calls it: the id of a shipped case, else its file; the loader says

    def __call__(self, machine: Any) -> object:
        return self.build(machine)

    @property
    def fails(self) -> bool:
        """Does it expect a violation anywhere? Then that row shows that it can fail."""
        return any(answer.answers for answer in self.expect.values())

    @property
    def uncontrolled(self) -> str:
        """The sentence that says why nothing shows that it can fail."""
        return self.control if " " in self.control else ""

    def expected(self, spec: str) -> Expectation | None:
        """The expectation for a kernel, however its spec is spelt."""
        found: Expectation | None = _for(self.expect, spec)
        return found

    def evidence_for(self, spec: str) -> str:
        """What the expectation for that kernel rests on."""
        return _for(self.evidence, spec) or "dossier"


def canonical(spec: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """A kernel spec taken apart: the release, its patches, its config options; order does not matter."""
    words = spec.split()
    patches = sorted({w[1:] for w in words[1:] if w.startswith("+")})
    config = sorted({w for w in words[1:] if not w.startswith("+")})
    return (words[0] if words else ""), tuple(patches), tuple(config)


def _for(table: Mapping[str, Any], spec: str) -> Any:
    found = table.get(spec)
    if found is None:
        wanted = canonical(spec)
        found = next((value for key, value in table.items() if canonical(key) == wanted), None)
    return found


def case(
    id: str = "",
    *,
    scenario: str = "",
    thread: str = "",
    claims: Sequence[str] = (),
    fix: str = "",
    asks: Sequence[str] = (),
    ignores: Sequence[str] = (),
    reach: Sequence[str] = (),
    expect: Mapping[str, Expectation] | None = None,
    evidence: Mapping[str, str] | None = None,
    bounds: Mapping[str, int | str] | None = None,
    engine: str = "",
    control: str = "",
    names: Sequence[str] | Mapping[str, str] = (),
) -> Callable[[Callable[[Any], object]], Case]:
    """Declare the decorated function a case; see docs/writing-a-case.md for what the arguments mean."""
    if callable(id):
        raise TypeError("write @case(), with parentheses")
    words = {"id": id, "scenario": scenario, "thread": thread, "fix": fix, "engine": engine, "control": control}
    for what, text in words.items():
        if not isinstance(text, str):
            raise TypeError(f"{what} is {text!r}; it is a string")
    for table, texts in (("expect", expect), ("evidence", evidence), ("bounds", bounds)):
        if not all(isinstance(key, str) for key in texts or ()):
            raise TypeError(f"{table} has a key that is no string")

    def register(build: Callable[[Any], object]) -> Case:
        code = build.__code__
        line = code.co_firstlineno
        made = Case(
            id=id,
            build=build,
            question=_first_line(build.__doc__) or _first_line(build.__globals__.get("__doc__")),
            file=code.co_filename,
            line=line,
            scenario=scenario,
            thread=thread,
            claims=_strings("claims", claims),
            fix=fix,
            asks=_strings("asks", asks),
            ignores=_strings("ignores", ignores),
            reach=_strings("reach", reach),
            expect=dict(expect or {}),
            evidence=dict(evidence or {}),
            bounds=dict(bounds or {}),
            engine=engine,
            control=control,
            names=tuple(names) if isinstance(names, Mapping) else _strings("names", names),
        )
        if engine and engine not in ENGINES:
            raise TypeError(f"engine={engine!r}; it is one of {', '.join(ENGINES)}")
        for spec, answer in made.expect.items():
            if not isinstance(answer, Expectation):
                raise TypeError(f"expect[{spec!r}] is {answer!r}; write never, sometimes(...), always(...) or na(...)")
        for spec, what in made.evidence.items():
            if what not in EVIDENCE:
                raise TypeError(f"evidence[{spec!r}] is {what!r}; it is one of {', '.join(EVIDENCE)}")
            if made.expected(spec) is None:
                raise TypeError(f"evidence[{spec!r}] speaks of a kernel that is not in expect")
        _check_control(made)
        _check_names(made)
        vars(sys.modules[build.__module__]).setdefault(REGISTRY, []).append(made)
        return made

    return register


def _check_control(made: Case) -> None:
    """TypeError for a control that is neither a case's id nor a sentence, and for an excuse that none is needed for."""
    if any(c.isspace() for c in made.control) and not (made.uncontrolled and made.control.endswith(".")):
        raise TypeError(f"control={made.control!r}; it is the id of a case, or one sentence that ends with a period")
    if made.uncontrolled and made.fails:
        raise TypeError("control says why nothing shows that this can fail, and expect names a kernel where it does")
    if made.control and made.control == made.id:
        raise TypeError(f"control={made.control!r} is this case")


def _check_names(made: Case) -> None:
    """CaseError for a name that nothing makes, and for an expectation of what would not count."""
    from .load import shown
    from .names import unknown

    spoken = [("asks", name) for name in made.asks] + [("ignores", name) for name in made.ignores]
    spoken += [(f"expect[{spec!r}]", name) for spec, answer in made.expect.items() for name in sorted(answer.names)]
    for wrong in unknown(made.file, made.names, spoken, made.reach):
        raise CaseError(wrong, shown(made.file), made.line)
    for name in made.ignores:
        if findings.never_ignored(name):
            raise TypeError(f"ignores names {name!r}, which counts always: nothing is known of what comes after it")
    for where, name in spoken[len(made.asks) + len(made.ignores) :]:
        found = findings.known(name)
        narrowed = made.asks and name not in made.asks and (found is None or not findings.complains(found.kind))
        if name in made.ignores or (narrowed and found is not None):
            raise TypeError(f"{where} speaks of {name!r}, which the case does not ask about")


def _strings(what: str, values: Sequence[str]) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(v, str) for v in values):
        raise TypeError(f"{what} takes a tuple of strings")
    return tuple(values)


def _first_line(doc: str | None) -> str:
    lines = (doc or "").strip().splitlines()
    return lines[0].strip() if lines else ""


def path_id(path: Path) -> str:
    """The id that a case file's path gives: ``vfio/fault_vs_disable.py`` is ``vfio/fault-vs-disable``."""
    return path.with_suffix("").as_posix().replace("_", "-")
