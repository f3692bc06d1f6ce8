"""What the default suite asks of the engine: exact results, the programs that once went wrong, and random ones."""

from __future__ import annotations

from collections.abc import Iterator

from .oracle import Summary, compare, sweep
from .pinned import PROGRAMS
from .programs import FAMILIES, MIXED
from .semantics import CHECKS

#: random programs a family in the default suite
PROGRAMS_A_FAMILY = 30


def semantics(name: str) -> None:
    """Run one check; AssertionError if it fails."""
    CHECKS[name]()


def pinned(name: str) -> list[str]:
    """The problems with one pinned program."""
    return compare(PROGRAMS[name]).problems


def family(name: str) -> Summary:
    """The default suite's random programs of one family."""
    return sweep(name, range(PROGRAMS_A_FAMILY), stop_after=1)


def problems() -> Iterator[str]:
    """Everything wrong with the engine, the cheap questions first."""
    for name in CHECKS:
        try:
            semantics(name)
        except Exception as e:
            yield f"{name}: {type(e).__name__} {e}"
    for name in PROGRAMS:
        try:
            yield from (f"{name}: {p}" for p in pinned(name))
        except Exception as e:
            yield f"{name}: {type(e).__name__} {e}"
    for name in [*FAMILIES, MIXED]:
        try:
            yield from (f"{program}: {found}" for program, found in family(name).mismatches)
        except Exception as e:
            yield f"{name}: {type(e).__name__} {e}"


def first_problem() -> str | None:
    """One thing wrong with the engine, or None."""
    return next(problems(), None)
