"""The table of ``mmlitmus check``: one line a question and kernel, then the totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mmlitmus.checker.case import Case
from mmlitmus.checker.row import Row

from .fold import Folded, fold, unfolded
from .text import many, shell, titled, wrap

#: no table is wider, however wide the terminal
WIDEST = 100
NARROWEST = 60
_FLOOR = 16

_RESULT = len("sometimes stale-translation")  # a longer result may take several lines
_KERNEL = 24
_GAP = 2


def table(
    rows: Sequence[Row],
    *,
    width: int = WIDEST,
    timing: bool = False,
    details: bool = False,
    releases: Sequence[str] = (),
) -> list[str]:
    """The lines of the table, header included, without the totals. ``details`` adds bounds, evidence and notes.

    One line a row, where that fits; else each case stands above the rows of its kernels. ``releases``: join rows that
    say the same of releases that follow each other in this order (``fold``).
    """
    if not rows:
        return []
    joined = fold(rows, releases) if releases else unfolded(rows)
    width = max(NARROWEST, min(width, WIDEST))
    header = ["case", "kernel", "result", "search", "traces", *(["time"] if timing else [])]
    cells = [_cells(one, timing) for one in joined]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    room = width - sum(widths[3:]) - _GAP * len(widths) - max(len(row.status) for row in rows)
    flat = room - widths[0] - widths[1] >= min(widths[2], _RESULT)
    if not flat:
        header = ["  kernel", *header[2:]]
        cells = [["  " + cell[1], *cell[2:]] for cell in cells]
        widths = [max(widths[1] + 2, len(header[0])), *widths[2:]]
        room += _GAP
    names = 2 if flat else 1
    if not flat:  # a long kernel may take several lines before the result has to
        widths[0] = min(widths[0], max(room - min(widths[1], _RESULT), _KERNEL))
    widths[names] = min(widths[names], max(room - sum(widths[:names]), _FLOOR))
    if not flat:
        widths[0] = min(widths[0], room - widths[1])
    lines = _line([*header, ""], widths, names + 1)
    above = ""
    for row, line in zip((one.row for one in joined), cells, strict=True):
        if not flat and row.case != above:
            lines += wrap(row.case, width)
            above = row.case
        lines += _line([*line, row.status], widths, names + 1)
        lines += _below(row, width, details)
    return lines


def _cells(one: Folded, timing: bool) -> list[str]:
    row = one.row
    done = row.result != "n/a"
    cells = [row.case, one.kernel, row.text, _search(row.search), one.traces if done else ""]
    return [*cells, duration(row.seconds) if done and row.seconds is not None else ""] if timing else cells


def _search(search: str | None) -> str:
    """``bounded(100 executions)`` is shortened: the column has a number only. So is ``sampled(100 walks, seed 1)``."""
    short = (search or "").replace(" executions)", ")").replace(" events in one execution)", " events)")
    return short.split(" walks, ")[0] + ")" if short.startswith("sampled(") else short


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _line(cells: Sequence[str], widths: Sequence[int], words: int) -> list[str]:
    """One row; its first ``words`` columns may take several lines. Traces and time stand to the right."""
    wrapped = [wrap(cell.strip(), w - _lead(cell)) for cell, w in zip(cells[:words], widths, strict=False)]
    lines = []
    for n in range(max(map(len, wrapped))):
        parts = [column[n] if n < len(column) else "" for column in wrapped]
        parts = [" " * _lead(cell) + part for cell, part in zip(cells, parts, strict=False)]
        rest = list(cells[words:]) if n == 0 else [""] * (len(cells) - words)
        text = [part.ljust(w) for part, w in zip(parts, widths, strict=False)]
        text += [rest[0].ljust(widths[words])]
        text += [part.rjust(w) for part, w in zip(rest[1:-1], widths[words + 1 :], strict=True)]
        lines.append((" " * _GAP).join([*text, rest[-1]]).rstrip())
    return lines


def _lead(cell: str) -> int:
    return len(cell) - len(cell.lstrip())


#: why a note is one, in words
_NOT_COUNTED = {
    "not-asked": "not asked about",
    "ignored": "ignored",
    "tolerated": "kernels live with",
    "no-defect": "no defect",
    "not-modelled": "besides what is not modelled",
}


def _below(row: Row, width: int, details: bool) -> list[str]:
    """What stands under a row that is not as expected, or under every row when asked for."""
    lines: list[str] = []
    bad = row.status in ("SURPRISE", "found", "no answer")

    def say(text: str) -> None:
        lines.extend(wrap("    " + text, width, "      "))

    if row.status in ("SURPRISE", "unfinished", "no answer") and row.expected is not None:
        say(f"expected: {row.expected}")
    for what in row.unreached:
        say(f"never reached: {what}")
    if row.sample is not None:
        say(walked(row.sample))
    if row.stateful is not None and row.stateful["handed_over"]:
        states = many(row.stateful["states"], "state")
        say(f"handed over to the stateful search: {row.stateful['handed_over']}; {states}")
    for live in row.stateful["livelocks"] if row.stateful is not None else ():
        if details or (bad and live["how"] != "unfair-only"):
            say(f"a turn of the {live['how']} loop of {live['task']}:")
            lines += ["      " + step for step in turn_of(live["turn"])]
    for v in row.violations:
        if bad or details:
            say(f"{titled(v.kind, v.name)}: {v.message}")
        if bad and v.schedule is not None:
            lines += show_command(row, v.schedule, width)
    if details:
        if row.bounds:
            say("bounds: " + ", ".join(f"{name} {value}" for name, value in row.bounds.items()))
        if row.evidence:
            say(f"evidence: {row.evidence}")
        for note in row.notes:
            say(f"{_NOT_COUNTED[note.why]}: {titled(note.kind, note.name)}: {note.message}")
    return lines


#: of a long turn, so many events at its beginning and at its end are printed
TURN = 12


def turn_of(steps: Sequence[str]) -> list[str]:
    """The events of a livelock's turn, of a long one the first and the last."""
    if len(steps) <= 2 * TURN:
        return list(steps)
    return [*steps[:TURN], f"... {len(steps) - 2 * TURN} more ...", *steps[-TURN:]]


def walked(sample: Mapping[str, int | float | str]) -> str:
    """What random walks are worth, in words."""
    n, seed, rare = int(sample["walks"]), sample["seed"], float(sample["unseen"])
    text = f"{str(sample['strategy']).upper()}, seed {seed}: "
    if "bound" in sample:
        each = float(sample["bound"])
        text += (
            f"a bug of depth {sample['depth']} within {sample['events']} events shows in a walk with a probability of "
            f"at least {each:.2g}, in {many(n, 'walk')} of at least {1 - (1 - each) ** n:.2g}"
        )
        if int(sample["longest"]) > int(sample["events"]):
            text += f" (the longest walk had {sample['longest']} events)"
        text += "; "
    return text + (
        f"{many(int(sample['distinct']), 'distinct trace')}; one more walk would show another with an estimated chance "
        f"of {rare:.2g}"
    )


def show_command(row: Row, schedule: str, width: int) -> list[str]:
    """The command that shows a violation of the row."""
    words = ["mmlitmus", "show", row.source or row.case, "--kernel", row.spec, "--schedule", schedule]
    return ["    " + line for line in shell(words, width - 4)]


def totals(rows: Sequence[Row], errors: int = 0, not_run: int = 0, seconds: float | None = None) -> str:
    """``41 cases x 11 kernels: 287 as expected, 0 surprises``."""
    status = Counter(row.status for row in rows)
    cases = len({row.case for row in rows})
    kernels = len({row.spec for row in rows})
    with_expectation = sum(row.expected is not None for row in rows)
    as_expected = sum(row.ok and row.expected is not None for row in rows)
    parts = []
    if with_expectation:
        parts.append(f"{as_expected} as expected")
    if with_expectation or status["SURPRISE"]:
        parts.append(many(status["SURPRISE"], "surprise"))
    if status["unfinished"]:
        parts.append(f"{status['unfinished']} unfinished")
    if status["no answer"]:
        parts.append(f"{status['no answer']} not modelled")
    free = len(rows) - with_expectation
    if free:
        clean = sum(row.ok and row.expected is None for row in rows)
        parts.append(f"{free} without expectation ({clean} clean, {status['found']} with findings)")
    if errors:
        parts.append(f"{errors} could not be run")
    if not_run:
        parts.append(f"{not_run} not run")
    if seconds is not None:
        parts.append(duration(seconds))
    return f"{many(cases, 'case')} x {many(kernels, 'kernel')}: {', '.join(parts) or 'nothing was run'}"


def listing(cases: Sequence[Case], width: int) -> list[str]:
    """Cases by id, with scenario, thread and question."""
    if not cases:
        return []
    ids = max(len(one.id) for one in cases)
    about = [" ".join(filter(None, (one.scenario, one.thread and f"thread {one.thread}"))) for one in cases]
    room = max(map(len, about))
    lines = []
    for one, what in zip(cases, about, strict=True):
        head = f"{one.id:{ids}}  " + (f"{what:{room}}  " if room else "")
        if width - len(head) >= 30:
            lines += wrap(head + one.question, max(width, NARROWEST), " " * len(head))
        else:
            lines += [head.rstrip(), *wrap("    " + one.question, max(width, NARROWEST), "    ")]
    return lines
