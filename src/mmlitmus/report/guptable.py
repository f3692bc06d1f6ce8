"""``mmlitmus gup-table``: cells as text, as JSON and as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from string import ascii_letters
from typing import Any

from mmlitmus.guptable.arch import ARCHITECTURES
from mmlitmus.guptable.mappings import MAPPINGS
from mmlitmus.guptable.paths import LETTERS, MEANING, PATHS
from mmlitmus.guptable.run import NOT_MODELLED, Cell

from .text import many, wrap

#: no line is longer
WIDTH = 80
#: letters of columns; there are fewer paths
KEYS = ascii_letters

Rows = dict[str, list[Cell]]


def sheets(cells: Sequence[Cell]) -> Iterator[tuple[str, str, Rows]]:
    """(kernel, architecture, row -> its cells)."""
    for (kernel, arch), of_one in groupby(cells, key=lambda one: (one.kernel, one.arch)):
        yield kernel, arch, {mapping: list(row) for mapping, row in groupby(of_one, key=lambda one: one.mapping)}


# -- text -------------------------------------------------------------------------------------------------------------
def text(cells: Sequence[Cell]) -> list[str]:
    """A table a kernel and architecture, then why; and what the letters mean."""
    lines: list[str] = []
    for kernel, arch, rows in sheets(cells):
        lines += [*wrap(f"{kernel} on {arch} ({ARCHITECTURES[arch].about})", WIDTH), ""]
        lines += [*_grid(rows), "", *_reasons(rows)]
    return [*lines, *_legend(cells), "", *wrap(totals(cells), WIDTH)]


def _grid(rows: Rows) -> list[str]:
    paths = [one.path for one in next(iter(rows.values()))]
    left = max(map(len, rows))
    keys = [f"{KEYS[n]} {path}" for n, path in enumerate(paths)]
    lines = _columns(keys)
    lines.append(" " * left + "".join(f" {KEYS[n]}" for n in range(len(paths))))
    for mapping, row in rows.items():
        lines.append(f"{mapping:{left}}" + "".join(f" {'*' if one.agrees is False else one.letter}" for one in row))
    return lines


def _columns(words: Sequence[str]) -> list[str]:
    """Words in columns."""
    wide = max(map(len, words)) + 2
    across = max(1, (WIDTH + 2) // wide)
    down = -(-len(words) // across)
    return ["".join(f"{word:{wide}}" for word in words[n::down]).rstrip() for n in range(down)]


def _reasons(rows: Rows) -> list[str]:
    """Rows with the same cells are said together, and so are cells with the same answer and reason."""
    same: dict[tuple[object, ...], list[str]] = {}
    for mapping, row in rows.items():
        same.setdefault(tuple((one.path, one.answer, one.why, one.recorded) for one in row), []).append(mapping)
    lines: list[str] = []
    for mappings in same.values():
        for mapping in mappings:
            lines += wrap(f"{mapping}: {MAPPINGS[mapping].about}", WIDTH, "    ")
        for words, by in _groups(rows[mappings[0]]):
            lines += wrap(f"  {words}", WIDTH, "    ")
            for who, paths in by.items():
                lines += wrap(f"    {who}: {', '.join(paths)}", WIDTH, "      ")
        lines.append("")
    return lines


def _groups(row: Sequence[Cell]) -> list[tuple[str, dict[str, list[str]]]]:
    """What the model says and why, and the paths by what real kernels say to that."""
    groups: dict[str, dict[str, list[str]]] = {}
    for one in row:
        groups.setdefault(said(one), {}).setdefault(heard(one), []).append(one.path)
    return list(groups.items())


def said(cell: Cell) -> str:
    """The answer, and why."""
    return f"{cell.answer} ({cell.why})"


def heard(cell: Cell) -> str:
    """What a real kernel says to that."""
    if cell.recorded is None:
        return "nobody asked a real kernel" if cell.answer == NOT_MODELLED else "the model alone"
    if cell.agrees:
        return f"as recorded on {cell.recorded.version}"
    mark = "recorded" if cell.answer == NOT_MODELLED else "THE MODEL DIFFERS: recorded"
    return f"{mark} on {cell.recorded.version} as {cell.recorded.answer}"


def _legend(cells: Sequence[Cell]) -> list[str]:
    letters = {LETTERS[one.answer] for one in cells}
    lines = [f"{letter}  {MEANING[letter]}" for letter in MEANING if letter in letters]
    if any(one.agrees is False for one in cells):
        lines.append("*  a real kernel has answered otherwise")
    return [*lines, *wrap("Capitals: a real kernel has answered the same. Small: the model alone.", WIDTH)]


def totals(cells: Sequence[Cell]) -> str:
    """``700 cells: 540 as recorded, 160 of the model alone, 0 not as recorded; 28 not in the model``."""
    counts = {agrees: sum(one.agrees is agrees for one in cells) for agrees in (True, False, None)}
    without = sum(one.answer == NOT_MODELLED for one in cells)
    return (
        f"{many(len(cells), 'cell')}: {counts[True]} as recorded, {counts[None] - without} of the model alone, "
        f"{counts[False]} not as recorded; {without} not in the model"
    )


# -- JSON -------------------------------------------------------------------------------------------------------------
_CELL: dict[str, dict[str, Any]] = {
    "kernel": {"description": "the kernel's spec", "type": "string"},
    "arch": {"description": "the architecture", "type": "string", "enum": list(ARCHITECTURES)},
    "mapping": {"description": "the row, as `--mapping` takes it", "type": "string", "enum": list(MAPPINGS)},
    "path": {"description": "the column, as `--path` takes it", "type": "string", "enum": list(PATHS)},
    "answer": {
        "description": "what the model answers: `page`, `zero page`, `slot left` (success, and nobody fills the slot), "
        "`none`, `moved` (bytes), `mapped` (for a device), an errno by its name, `oops`, `never returns`; `not made`: "
        "this kernel refuses the mapping; `not modelled`",
        "type": "string",
        "enum": list(LETTERS),
    },
    "gates": {
        "description": "where the question came by, in order, each once: `gate`, as docs/gup.md calls it, and `what` "
        "was there; empty where nothing is in the way",
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["gate", "what"],
            "properties": {"gate": {"type": "string"}, "what": {"type": "string"}},
        },
    },
    "why": {"description": "the same in one line", "type": "string"},
    "recorded": {
        "description": "what a real kernel answered: its exact `version`, and `answer` in the same words; null where "
        "nobody asked",
        "type": ["object", "null"],
        "additionalProperties": False,
        "required": ["version", "answer"],
        "properties": {"version": {"type": "string"}, "answer": {"type": "string"}},
    },
    "agrees": {
        "description": "are both the same? null without a recording, or without an answer of the model's",
        "type": ["boolean", "null"],
    },
}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "mmlitmus gup-table --json",
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": list(_CELL),
        "properties": _CELL,
    },
}


def dump(cells: Sequence[Cell]) -> str:
    """The cells as JSON, indented for people."""
    return json.dumps([as_json(one) for one in cells], indent=2, ensure_ascii=False)


def as_json(cell: Cell) -> dict[str, Any]:
    """One object; ``SCHEMA`` says what each field means."""
    was = cell.recorded
    return {
        "kernel": cell.kernel,
        "arch": cell.arch,
        "mapping": cell.mapping,
        "path": cell.path,
        "answer": cell.answer,
        "gates": [{"gate": gate, "what": what} for gate, what in cell.gates],
        "why": cell.why,
        "recorded": None if was is None else {"version": was.version, "answer": was.answer},
        "agrees": cell.agrees,
    }


def section() -> list[str]:
    """What docs/json.md says of it."""
    rows = []
    for name, told in _CELL.items():
        kind = told["type"] if isinstance(told["type"], str) else " or ".join(told["type"])
        rows.append(f"| `{name}` | {'array of objects' if kind == 'array' else kind} | {told['description']} |")
    return [
        "",
        "## `mmlitmus gup-table --json`",
        "",
        "A list of objects, one a cell: by kernel, architecture, mapping and path, in the order of the table. The same",
        "command gives the same bytes.",
        "",
        "| field | type | meaning |",
        "|---|---|---|",
        *rows,
    ]


# -- HTML -------------------------------------------------------------------------------------------------------------
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 84em; padding: 0 1em; color: #1c1c1c;
  background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2.2em; }
table { border-collapse: collapse; font-size: 13px; }
thead th { height: 10.5em; vertical-align: bottom; padding: 0 2px 4px; }
thead th span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; font-weight: 500; }
tbody th { text-align: left; font-weight: 400; padding: 1px 10px 1px 0; white-space: nowrap; vertical-align: top; }
td { width: 2em; min-width: 2em; text-align: center; border: 1px solid #fff; }
td.c { font: 600 13px/1.7 ui-monospace, monospace; cursor: help; }
td.model { font-weight: 400; opacity: .62; }
td.wrong { outline: 3px solid #b00020; outline-offset: -3px; }
.P, .Z { background: #cfe8d3; } .Z { background: #d9ecb8; } .F, .X, .V, .I, .M, .K { background: #f3d6d0; }
.H, .O, .L { background: #d8332a; color: #fff; } .N { background: #e9e2c8; } .none { background: #eee; color: #777; }
details { font-size: 13px; } details p { margin: .25em 0 .25em 1.2em; max-width: 70em; }
summary { cursor: pointer; } .about { color: #555; } dl.key { columns: 3; font-size: 13px; }
dl.key div { break-inside: avoid; }
dt { display: inline-block; min-width: 1.9em; text-align: center; font: 600 13px/1.7 ui-monospace, monospace; }
dd { display: inline; margin: 0 0 0 .5em; } code { font-size: 13px; }
"""


def html(cells: Sequence[Cell]) -> str:
    """One page that needs nothing else: a table a kernel and architecture, a cell's reason where it is pointed at, and
    all of a row's under its name.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>What get_user_pages says</title>',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>What get_user_pages says, of which mapping, by which path</h1>",
        "<p>Each cell is a run of the mmlitmus model. Point at it for the reason, or open a row for all of them. "
        "Bold: a real kernel has answered the same. Pale: the model alone.</p>",
        _html_key(cells),
    ]
    for kernel, arch, rows in sheets(cells):
        parts.append(f"<h2>{escape(kernel)} on {escape(arch)}</h2>")
        parts.append(f'<p class="about">{escape(ARCHITECTURES[arch].about)}</p>')
        parts.append(_html_table(rows))
    return "\n".join([*parts, f"<p>{escape(totals(cells))}</p>", "</body></html>"]) + "\n"


def _css(letter: str) -> str:
    return letter if letter.isalpha() else "none"


def _html_key(cells: Sequence[Cell]) -> str:
    letters = {LETTERS[one.answer] for one in cells}
    pairs = [
        f'<div><dt class="{_css(letter)}">{letter}</dt><dd>{escape(MEANING[letter])}</dd></div>'
        for letter in MEANING
        if letter in letters
    ]
    if any(one.agrees is False for one in cells):
        pairs.append("<div><dt>*</dt><dd>a real kernel has answered otherwise</dd></div>")
    return f'<dl class="key">{"".join(pairs)}</dl>'


def _html_table(rows: Rows) -> str:
    paths = [one.path for one in next(iter(rows.values()))]
    head = "".join(
        f'<th scope="col" title="{escape(PATHS[path].about, quote=True)}"><span>{escape(path)}</span></th>'
        for path in paths
    )
    lines = [f"<table><thead><tr><th></th>{head}</tr></thead><tbody>"]
    for mapping, row in rows.items():
        reasons = "".join(
            f"<p><b>{escape(words)}</b>"
            + "".join(f"<br>{escape(who)}: {escape(', '.join(paths))}" for who, paths in by.items())
            + "</p>"
            for words, by in _groups(row)
        )
        about = f'<p class="about">{escape(MAPPINGS[mapping].about)}</p>'
        name = f"<details><summary><code>{escape(mapping)}</code></summary>{about}{reasons}</details>"
        lines.append(f'<tr><th scope="row">{name}</th>{"".join(map(_html_cell, row))}</tr>')
    return "\n".join([*lines, "</tbody></table>"])


def _html_cell(one: Cell) -> str:
    letter = LETTERS[one.answer]
    kind = ["c", _css(letter)]
    if one.agrees is None:
        kind.append("model")
    if one.agrees is False:
        kind.append("wrong")
    shown = letter + ("*" if one.agrees is False else "")
    title = f"{one.mapping}, {one.path}: {said(one)}; {heard(one)}"
    return f'<td class="{" ".join(kind)}" title="{escape(title, quote=True)}">{shown}</td>'
