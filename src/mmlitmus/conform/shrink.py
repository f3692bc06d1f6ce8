"""The fewest steps that still show a difference: delta debugging, each try run on both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .campaign import Compared
from .compare import Field
from .generate import language_of, sensible
from .schema import Observed, Program, Step

#: programs that one difference may cost; what is left then is shown, however long
TRIES = 150

#: what makes two differences the same one: the operation, the field, and both answers where they are outcomes
Signature = tuple[str, str, str, str]


def signature(field: Field) -> Signature:
    """Of a difference. Bits and letters change when steps go, so only outcomes are held to their values."""
    outcome = field.name in ("outcome", "si_code")
    return field.step.op, field.name, str(field.recorded) if outcome else "", str(field.model) if outcome else ""


def shrink(
    program: Program,
    wanted: Signature,
    compare: Callable[[Program], Compared],
    left: Callable[[Compared], Sequence[Field]],
    tries: int = TRIES,
) -> tuple[Compared, Field] | None:
    """The smallest program found with such a difference, and the difference; None if it does not come again.

    ``compare`` runs a program on both sides; ``left``: its fields that differ unexplained. Steps are left out in ever
    smaller runs until none can be (ddmin), or ``tries`` programs have run.
    """
    spent = 0
    seen: dict[tuple[str, ...], tuple[Compared, Field] | None] = {}

    def attempt(steps: Sequence[Step]) -> tuple[Compared, Field] | None:
        nonlocal spent
        kept = sensible([replace(step, observed=Observed()) for step in steps], language_of(program.id))
        if not kept:
            return None
        key = tuple(map(str, kept))
        if key not in seen and spent < tries:
            spent += 1
            one = compare(replace(program, id=f"{program.id}-shrunk", steps=kept, log=None, extra={}))
            found = next((f for f in left(one) if signature(f) == wanted), None)
            seen[key] = None if found is None else (one, found)
        return seen.get(key)

    best = attempt(program.steps)
    if best is None:
        return None
    best = _better(best, attempt(best[0].program.steps[: best[1].index + 1]))
    size = max(1, len(best[0].program.steps) // 2)
    while spent < tries:
        steps = best[0].program.steps
        cuts = [(*steps[:at], *steps[at + size :]) for at in range(0, len(steps), size)]
        found = next((f for f in (attempt(cut) for cut in reversed(cuts) if cut) if f is not None), None)
        if found is not None and len(found[0].program.steps) < len(steps):
            best = found
            size = min(size, max(1, len(best[0].program.steps) // 2))
        elif size == 1:
            break
        else:
            size //= 2
    return best


def _better(one: tuple[Compared, Field], other: tuple[Compared, Field] | None) -> tuple[Compared, Field]:
    return one if other is None or len(other[0].program.steps) > len(one[0].program.steps) else other
