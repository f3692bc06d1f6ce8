"""A claim: what somebody said about the kernel, the verdict on it as said, and the results that carry the verdict.

The statement is in our own words; who said it is not recorded, and patches and designs go by their subject. The
results are stated here once more, and not taken from the case's own expectations: a case that changes its mind then
changes no verdict unseen.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmlitmus.checker.case import Expectation

#: the verdicts, and the field that each must explain itself in
VERDICTS = {"holds": "", "fails": "", "depends": "on", "proposal": "fate", "undecided": "why"}


@dataclass(frozen=True)
class Support:
    """One result: what ``case`` says on ``kernel`` (a spec such as ``v6.12 +a-patch lockdep``)."""

    case: str
    kernel: str
    answer: Expectation

    def __post_init__(self) -> None:
        if not isinstance(self.answer, Expectation) or self.answer.reason is not None:
            raise TypeError(f"{self.case} on {self.kernel}: an answer is never, sometimes(...) or always(...)")


def says(case: str, answer: Expectation, *kernels: str) -> tuple[Support, ...]:
    """The same answer of a case on one or more kernels."""
    if not kernels:
        raise TypeError(f"{case}: on which kernel?")
    return tuple(Support(case, kernel, answer) for kernel in kernels)


@dataclass(frozen=True)
class Claim:
    """One row of a ledger. ValueError when it does not say what a row must say.

    ``verdict`` is on the statement as it was made: ``holds``; ``fails``; ``depends`` (``on`` what); ``proposal`` (what
    should be done, and its ``fate``); ``undecided`` (``why`` it cannot be decided here). ``source`` is a Message-ID, or
    a date where none is known. ``correction`` is what became of the statement later in its own thread. ``because``
    says what the execution shows, and ``settled_by`` which results show it; or ``reason`` why there is no case.
    ``design``: the patches that the statement speaks of, where results are of a kernel with a patch. Only these may
    settle it; what another design does (repaired, or with one choice changed) stands in ``beside``, and is run as well.
    """

    id: str
    thread: str
    claim: str
    source: str
    verdict: str
    because: str
    settled_by: tuple[Support, ...] = ()
    design: tuple[str, ...] = ()
    beside: tuple[Support, ...] = ()
    correction: str = ""
    on: str = ""
    fate: str = ""
    why: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        wrong = self._wrong()
        if wrong:
            raise ValueError(f"{self.id or self.claim!r}: {wrong}")

    def _wrong(self) -> str:
        for name in ("id", "thread", "claim", "source", "because"):
            if not getattr(self, name):
                return f"no {name}"
        if self.verdict not in VERDICTS:
            return f"the verdict is {self.verdict!r}; it is one of {', '.join(VERDICTS)}"
        for verdict, field in VERDICTS.items():
            if field and (verdict == self.verdict) != bool(getattr(self, field)):
                return f"{field!r} goes with the verdict {verdict!r}, and only with it"
        if bool(self.settled_by) == bool(self.no_case):
            return "it takes the results that settle it, or else the reason why there are none"
        rows = [(one.case, one.kernel) for one in self.rows]
        twice = [row for n, row in enumerate(rows) if row in rows[:n]]
        if twice:
            return f"names {' on '.join(twice[0])} twice"
        return self._other_design()

    def _other_design(self) -> str:
        """Which result is of a design that the statement does not name."""
        if not self.design:
            return "something stands beside a design, and none is named" if self.beside else ""
        met = set()
        for one in self.settled_by:
            patches = {word[1:] for word in one.kernel.split() if word.startswith("+")}
            if patches and not patches & set(self.design):
                return f"{one.case} on {one.kernel} is of another design than {', '.join(self.design)}"
            met |= patches
        missing = [name for name in self.design if name not in met]
        return f"no result is of {missing[0]}" if missing else ""

    @property
    def rows(self) -> tuple[Support, ...]:
        """Every result that is run: those that settle it, and those beside them."""
        return (*self.settled_by, *self.beside)

    @property
    def detail(self) -> str:
        """On what it depends, what became of it, or why it is not decided; empty for ``holds`` and ``fails``."""
        field = VERDICTS[self.verdict]
        return str(getattr(self, field)) if field else ""

    @property
    def no_case(self) -> str:
        """Why no case settles it; empty when cases do."""
        return self.reason or self.why
