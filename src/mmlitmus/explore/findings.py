"""What an execution can find: one record a finding, and how model code reports it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any, NoReturn

from . import runtime as rt

#: a task sleeps, or may, where it must not; it comes to its end with something that it had to give back (``contexts``)
SLEEP_IN_ATOMIC, HELD_AT_END = "sleep-in-atomic", "held-at-end"

#: every kind of finding, in the order in which a report lists them
KINDS = (
    "BUG",
    "WARN",
    SLEEP_IN_ATOMIC,
    HELD_AT_END,
    "printk",
    "invariant",
    "use-after-free",
    "precondition",
    "deadlock",
    "livelock",
    "unfair-loop",
    "inversion",
    "race",
    "never-ends",
    "raised",
    "not-modelled",
)

#: the kinds of loops that need not end; of those that only an unfair scheduler stays in, which are no defect
LIVELOCK, NO_DEFECT = "livelock", "unfair-loop"


#: what the names of findings of the kind *not-modelled* begin with
NOT_MODELLED = "not modelled: "


@dataclass(frozen=True)
class Finding:
    """Something wrong that one execution showed.

    ``name`` is a short slug that cases expect and reports print (``stale-translation``); ``message`` says it in words.
    Two findings are the same finding iff kind and name are equal.
    """

    kind: str
    name: str
    message: str = field(compare=False, default="")


class Abandon(BaseException):
    """Unwinds a task of an execution that the explorer has given up. Model code must never swallow it."""


class Oops(BaseException):
    """Unwinds a task that hit a BUG: it ends there, its locks stay held."""


def report(kind: str, name: str, message: str) -> None:
    """Record a finding of the running execution. The execution goes on."""
    rt.engine.found(Finding(kind, name, message))


def bug(name: str, message: str) -> NoReturn:
    """A BUG(): record it and stop the task where it stands, with its locks held."""
    report("BUG", name, message)
    raise Oops(name)


def not_modelled(what: str) -> NoReturn:
    """The task asks for something the model has nothing for: record it and stop the task where it stands.

    ``what`` names the call, flag, hook or memory in a kernel developer's words. Such a row says *not-modelled*, and
    nothing else about its question: what the kernel would have done next is not known.
    """
    report("not-modelled", f"{NOT_MODELLED}{what}", f"the model has no {what}; what comes after it is not known")
    raise Oops(what)


def reached(what: str) -> None:
    """Say that the execution got somewhere a case cares about (see ``reach`` of a case)."""
    rt.engine.reached.add(what)


def describe(value: Any) -> str:
    """A deterministic one-word rendering of a value for messages (never an address)."""
    return getattr(value, "name", None) or str(value)


def where_raised(e: BaseException) -> str:
    """The exception in one line: what, and the innermost file and line outside the engine."""
    frames = traceback.extract_tb(e.__traceback__)
    own = [f for f in frames if "/mmlitmus/explore/" not in f.filename] or frames
    last = own[-1]
    return f"{type(e).__name__}: {e} at {last.filename}:{last.lineno} in {last.name}"
