"""The tables of ``mmlitmus review``: what became of each verdict, where patches do not apply, and the totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from mmlitmus.checker.review import APPLIES, CHANGES, PRESENT, SAME, Change, Plan

from .table import NARROWEST, WIDEST
from .text import many, shell, wrap

_GAP = 2
#: no column of text is made narrower: it holds `access-after-disable,`
_FLOOR = 22


def review(
    plan: Plan, made: Sequence[Change], releases: Sequence[str], *, width: int = WIDEST, everything: bool = False
) -> list[str]:
    """The lines of the review of some patches. ``everything``: with the verdicts that are the same."""
    width = max(NARROWEST, min(width, WIDEST))
    if len(plan.patches) == 1:
        lines = _one_patch(made, releases, width, everything)
    else:
        lines = _patches(plan, made, releases, width, everything)
    return [*lines, *_example(made, width), *_not_applied(plan, releases, width)]


def between(
    first: str, second: str, made: Sequence[Change], *, width: int = WIDEST, everything: bool = False
) -> list[str]:
    """The lines of one kernel against another."""
    width = max(NARROWEST, min(width, WIDEST))
    told = [one for one in made if everything or one.change != SAME]
    rows = [(one.pair.case.id, one.before.text, one.after.text, one.change) for one in told]
    header = ("case", first, second, "")
    return [*(_columns(rows, width, header) if rows else []), *_example(made, width)]


def _one_patch(made: Sequence[Change], releases: Sequence[str], width: int, everything: bool) -> list[str]:
    """Under each case a line for each change, with the kernels that it is made on."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for one in made:
        if everything or one.change != SAME:
            key = (one.pair.case.id, one.before.text, one.after.text, one.change)
            groups.setdefault(key, []).append(one.pair.base)
    rows: list[tuple[str, ...]] = []
    above = ""
    for (case, before, after, change), bases in groups.items():
        if case != above:
            above = case
            rows.append((above,))
        rows.append(("  " + runs(bases, releases), before, after, change))
    return _columns(rows, width, ("  kernel", "before", "after", "")) if rows else []


def _patches(plan: Plan, made: Sequence[Change], releases: Sequence[str], width: int, everything: bool) -> list[str]:
    """Under each case and kernel, one line for each patch alone, then one for all together. Kernels on which all these
    are equal share them."""
    groups: dict[tuple[str, str, str], list[Change]] = {}
    for one in made:
        groups.setdefault((one.pair.case.file, one.pair.case.id, one.pair.base), []).append(one)
    alike: dict[tuple[str, str, tuple[tuple[str, ...], ...]], list[str]] = {}
    for (file, case, base), group in groups.items():
        if everything or any(one.change != SAME for one in group):
            alike.setdefault((file, case, tuple(_block(plan, base, group))), []).append(base)
    rows: list[tuple[str, ...]] = []
    for (_, case, block), bases in alike.items():
        rows += [(f"{case} on {runs(bases, releases)}",), *block]
    return _columns(rows, width) if rows else []


def _block(plan: Plan, base: str, group: Sequence[Change]) -> Iterator[tuple[str, ...]]:
    """The lines of one case on one kernel."""
    yield "  without", group[0].before.text, ""
    alone = {one.pair.patches[0]: one for one in group if len(one.pair.patches) == 1}
    for name in plan.patches:
        if name in alone:
            yield f"  +{name}", alone[name].after.text, alone[name].change
        else:
            there = plan.standing[base][name].state == PRESENT
            yield f"  +{name}", "(in it already)" if there else "(does not apply)", ""
    for one in group:
        if len(one.pair.patches) > 1:
            yield f"  {_together(one.pair.patches)}", one.after.text, one.change


def _together(patches: Sequence[str]) -> str:
    return "both" if len(patches) == 2 else f"all {len(patches)}"


def _example(made: Sequence[Change], width: int) -> list[str]:
    """The command that shows the first of the findings that are new."""
    for one in made:
        if one.change != SAME and one.after.violations:
            words = ["mmlitmus", "show", one.after.source or one.after.case, "--kernel", one.after.spec]
            return ["", *shell(words, width)]
    return []


def _not_applied(plan: Plan, releases: Sequence[str], width: int) -> list[str]:
    """Where each patch does not apply, and why; kernels with the same reason on one line."""
    lines: list[str] = []
    for name in plan.patches:
        where: dict[str, list[str]] = {}
        for base in plan.kernels:
            here = plan.standing[base][name]
            if here.state != APPLIES:
                where.setdefault(here.why, []).append(base)
        for why, specs in where.items():
            lines += wrap(f"+{name} does not apply to {runs(specs, releases)}: {why}", width)
    where = {}
    for base, why in plan.apart.items():
        where.setdefault(why, []).append(base)
    for why, specs in where.items():
        lines += wrap(f"not together on {runs(specs, releases)}: {why}", width)
    return ["", *lines] if lines else []


def runs(specs: Sequence[str], releases: Sequence[str]) -> str:
    """Kernels in few words: three releases or more that follow each other are ``first .. last``."""
    place = {name: n for n, name in enumerate(releases)}
    groups: list[list[str]] = []
    for spec in specs:
        if groups and place.get(spec, -1) == place.get(groups[-1][-1], -9) + 1:
            groups[-1].append(spec)
        else:
            groups.append([spec])
    return ", ".join(f"{group[0]} .. {group[-1]}" if len(group) > 2 else ", ".join(group) for group in groups)


def totals(plan: Plan, made: Sequence[Change], errors: int = 0, not_run: int = 0) -> list[str]:
    """``12 cases x 5 kernels: 0 fixed, 4 broken, 0 changed, 39 unchanged``; with several patches a line for each."""
    sets: dict[str, Callable[[Change], bool]] = {"": lambda one: True}
    if len(plan.patches) > 1:
        sets = {f"+{name}: ": _only(name) for name in plan.patches}
        sets[f"{_together(plan.patches)}: "] = lambda one: len(one.pair.patches) > 1
    lines = []
    for label, belongs in sets.items():
        own = [one for one in made if belongs(one)]
        count = Counter(one.change for one in own)
        cases = len({(one.pair.case.file, one.pair.case.id) for one in own})
        kernels = len({one.pair.base for one in own})
        told = ", ".join(f"{count[word]} {'unchanged' if word == SAME else word}" for word in CHANGES)
        if own or not label:
            where = f" x {many(kernels, 'kernel')}" if plan.patches else ""
            lines.append(f"{label}{many(cases, 'case')}{where}: {told}")
    if errors:
        lines.append(f"{errors} could not be run")
    if not_run:
        lines.append(f"{not_run} not run")
    return lines


def _only(name: str) -> Callable[[Change], bool]:
    return lambda one: one.pair.patches == (name,)


def _columns(rows: Sequence[Sequence[str]], width: int, header: Sequence[str] = ()) -> list[str]:
    """Rows of cells, each column as wide as it needs to be, or narrower where the line would be too long. A row of one
    cell is a line of its own. The last column is never broken."""
    full = [row for row in (header, *rows) if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    room = width - _GAP * (len(widths) - 1) - widths[-1]
    while sum(widths[:-1]) > room:
        widest = max(range(len(widths) - 1), key=lambda n: widths[n])
        if widths[widest] <= _FLOOR:
            break
        widths[widest] -= 1
    lines: list[str] = []
    for row in (header, *rows) if header else rows:
        lines += wrap(row[0], width) if len(row) == 1 else _line(row, widths)
    return lines


def _line(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [_cell(text, w) for text, w in zip(row[:-1], widths, strict=False)]
    lines = []
    for n in range(max(map(len, cells))):
        parts = [(cell[n] if n < len(cell) else "").ljust(w) for cell, w in zip(cells, widths, strict=False)]
        lines.append((" " * _GAP).join([*parts, row[-1] if n == 0 else ""]).rstrip())
    return lines


def _cell(text: str, width: int) -> list[str]:
    lead = " " * (len(text) - len(text.lstrip()))
    return [lead + line for line in wrap(text.strip(), width - len(lead))]
