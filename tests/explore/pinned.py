"""Programs on which a past engine, or a mutant of this one, differed from the reference."""

from __future__ import annotations

from .programs import Code, Program
from .semantics import code


def _program(*tasks: str | Code) -> Program:
    return Program("pinned", 0, tuple(code(t) if isinstance(t, str) else t for t in tasks))


PROGRAMS: dict[str, Program] = {
    "a lock waited for at a deadlock": _program("lock 1; lock 1", "lock 1"),
    "an rwsem waited for where the sleep set cuts": _program("w o1 2", "dr 0", "tw 0; tw 1; dr 1", "dr 0; w o1 2"),
    "a lock waited for where the sleep set cuts": _program(
        "w o0 2", "lock 1; w o0 1", "lock 1; lock 0; lock 0", "lock 0; w o0 1"
    ),
    "the first to run is not one of the racing pair": _program(
        (("touch", 1, (), ()), ("follow", 0)), "ipi 1 0 1; publish", (("touch", 0, (1, 2), ()),)
    ),
    "two events that meet in their extra objects only": _program((("look", (0, 1, 2)),), "ipi 1 1 1"),
    "an access without an event against a free": _program("w o1 1; guarded 1 1", "free 1"),
    "a choice that leads to an access without an event": _program(
        "lockthing 0; choose 2; skip 0 1; guarded 0 0", "free 0"
    ),
    "a trylock against a lock": _program("trylock 1", "lock 1"),
    "an interrupt beside what the CPU remembers": _program("r o0; shoot 2", "cli; w o0 2"),
    "a trylock against a trylock": _program("trylock 1; w o0 1", "trylock 1; w o0 2"),
}
