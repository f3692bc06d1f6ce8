"""The answer to one question on one kernel."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mmlitmus.explore.findings import NOT_MODELLED

from .case import Expectation, answers_text, same_answers

#: kinds of finding that are the case's or the model's own fault: never expected, never a mere note
OWN_FAULT = ("raised",)
#: the kind that is no answer, but says that there is none
NO_ANSWER = "not-modelled"


@dataclass
class Violation:
    """A finding that answers the question: how often, and the smallest schedule that shows it."""

    kind: str
    name: str
    message: str
    mode: str  # sometimes, always, seen
    schedule: str | None = None  # the replay token; None when nobody asked for it
    preemptions: int | None = None
    minimal: bool | None = None  # no schedule with fewer preemptions shows it


@dataclass
class Note:
    """A finding that does not count here. ``why``: the case does not ask about it (``not-asked``) or says that it does
    not count (``ignored``); kernels live with it (``tolerated``); it is no defect (``no-defect``); the row says that
    something is not modelled, and nothing else (``not-modelled``)."""

    kind: str
    name: str
    message: str
    why: str = "not-asked"


@dataclass
class Row:
    """One line of the table, and one object of --json. ``kernel`` is the release."""

    case: str
    kernel: str
    patches: list[str]
    config: list[str]
    result: str = "never"  # never, sometimes, always, seen, not-seen, not-modelled, n/a
    violations: list[Violation] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    search: str | None = None
    bounds: dict[str, int | str] = field(default_factory=dict)
    evidence: str | None = None
    traces: int = 0
    executions: int = 0
    events: int = 0
    expected: str | None = None
    ok: bool = True
    unreached: list[str] = field(default_factory=list)
    reason: str | None = None
    sample: dict[str, int | float | str] | None = None  # what random walks are worth
    stateful: dict[str, Any] | None = None  # what a search by states was like
    seconds: float | None = None
    source: str = ""  # what a command line calls the case; not in --json
    agrees: bool = True  # nothing seen contradicts the expectation; not in --json

    @property
    def spec(self) -> str:
        """The kernel as tables print it."""
        return " ".join((self.kernel, *("+" + p for p in self.patches), *self.config))

    @property
    def answers(self) -> list[tuple[str, str]]:
        """(mode, name) of every violation."""
        return sorted({(v.mode, v.name) for v in self.violations})

    @property
    def finished(self) -> bool:
        """Did the search see everything there is?"""
        return self.search is None or self.search.startswith("exhaustive")

    @property
    def text(self) -> str:
        """The result in words."""
        if self.result == "n/a":
            return f"n/a ({self.reason})"
        if self.result == NO_ANSWER:
            return f"{NOT_MODELLED}{', '.join(name.removeprefix(NOT_MODELLED) for _, name in self.answers)}"
        return answers_text(self.answers) if self.violations else self.result

    @property
    def vacuous(self) -> bool:
        """Did no execution come to its end, and nothing say why?"""
        return self.result != "n/a" and self.search is not None and not self.traces and not self.violations

    @property
    def status(self) -> str:
        """``ok``, ``ok (expected)``; ``no answer``: the question went where the model has nothing; ``found`` (nothing
        was expected); ``unfinished``: nothing is wrong with what was seen, and that is not all there is; ``SURPRISE``.
        """
        if self.ok:
            return "ok (expected)" if self.violations else "ok"
        if self.result == NO_ANSWER:
            return "no answer"
        faulty = self.unreached or any(v.kind in OWN_FAULT for v in self.violations)
        if self.agrees and (not self.finished or self.vacuous) and not faulty:
            return "unfinished"
        return "found" if self.expected is None and not faulty else "SURPRISE"

    def judge(self, expectation: Expectation | None) -> None:
        """Set ``result``, ``ok`` and what was expected, from the violations and the search."""
        self.expected = None if expectation is None else expectation.text
        if self.result != "n/a":
            modes = {v.mode for v in self.violations}
            if any(v.kind == NO_ANSWER for v in self.violations):
                self.result = NO_ANSWER
            elif not self.finished:
                self.result = "seen" if modes else "not-seen"
            else:
                self.result = next((m for m in ("always", "sometimes") if m in modes), "never")
        self.ok = self._as_expected(expectation)

    def _as_expected(self, expectation: Expectation | None) -> bool:
        if self.result == "n/a":
            self.agrees = expectation is None or expectation.reason is not None
            return self.agrees
        if self.unreached or any(v.kind in OWN_FAULT for v in self.violations):
            return False
        if expectation is None:
            self.agrees = not self.violations
        elif expectation.reason is not None:
            self.agrees = False
        elif self.finished:
            self.agrees = same_answers(self.answers, expectation.answers)
        else:
            self.agrees = {name for _, name in self.answers} <= expectation.names
        return self.agrees and self.finished and not self.vacuous

    def as_json(self, timing: bool = False) -> dict[str, Any]:
        """The row as --json prints it; docs/json.md says what each field means."""
        data = asdict(self)
        del data["source"], data["agrees"]
        if self.sample is None:
            del data["sample"]
        if self.stateful is None:
            del data["stateful"]
        if not timing:
            del data["seconds"]
        return data
