"""The names that a case speaks of: findings in ``asks``, ``ignores`` and ``expect``, marks in ``reach``.

A name is known if the package declares it (``mmlitmus.kernel.findings``), if the case does (``names=``), or if the case
itself says it: a string in a function of its file, or of a module that it imports (a driver's), as in
``m.require(ok, "pages-swapped", ...)`` and ``m.reached("the page is back")``. Anything else is a slip of the pen, and a
question that can never be answered; it is refused when the file is loaded.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from mmlitmus.kernel import findings

#: whose arguments are no names that a case makes, but names that it speaks of
_SPEAKERS = ("case", "sometimes", "always", "na", "releases")


@dataclass
class Own:
    """What a file says by itself: strings of its functions (``{}`` for what is filled in), and names of functions."""

    strings: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    readable: bool = True

    def says(self, word: str) -> bool:
        """Does the file make this name?"""
        return word in self.strings or any("{}" in s and _fits(s, word) for s in sorted(self.strings))


def _fits(made: str, word: str) -> bool:
    """A string that is filled in has to say something of its own; ``f"{a} {b}"`` would be everything."""
    return len(made.replace("{}", "").strip()) > 2 and findings.pattern(made).fullmatch(word) is not None


def known_finding(word: str, declared: Sequence[str], own: Own) -> bool:
    """Is there such a finding?"""
    return word in declared or findings.known(word) is not None or own.says(word)


def known_mark(word: str, declared: Sequence[str], own: Own) -> bool:
    """Is there such a mark? A task's name in it is a function of the case's, or said by it."""
    if word in declared or own.says(word):
        return True
    for mark in findings.MARKS:
        if word == mark:
            return True
        if "{" in mark and findings.pattern(mark).fullmatch(word):
            who = word.removesuffix(mark.partition("}")[2])
            return not mark.startswith("{task}") or who in own.functions or own.says(who) or not own.readable
    return False


def unknown(
    file: str,
    declared: Sequence[str],
    spoken: Iterable[tuple[str, str]],
    marks: Iterable[str],
) -> Iterator[str]:
    """What is wrong with the names of a case in ``file``: ``spoken`` are (where, finding)."""
    own = Own(readable=False)
    looked = False
    for where, word in [*spoken, *(("reach", mark) for mark in marks)]:
        if not looked and not (word in declared or (where != "reach" and findings.known(word) is not None)):
            own, looked = says(file), True
        good = known_mark(word, declared, own) if where == "reach" else known_finding(word, declared, own)
        if good or not own.readable:
            continue
        what = "is reached" if where == "reach" else "is found"
        yield f"{where} names {word!r}, and nothing of that name {what}; {_nearest(word, where, declared, own)}"


def _nearest(word: str, where: str, declared: Sequence[str], own: Own) -> str:
    there = [*findings.MARKS] if where == "reach" else [one.name for one in findings.FINDINGS]
    near = get_close_matches(word, [*declared, *sorted(own.strings), *there], n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "docs/names.md lists what there is"
    return f"{hint} (a case's own names are what its functions say, or names=)"


@cache
def says(file: str) -> Own:
    """What a case's file says, and what it imports."""
    found = Own()
    todo, seen = [Path(file)], set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            found.readable = found.readable and path != Path(file)
            continue
        _read(tree, found, _constants(tree))
        todo += _imported(tree, path)
    return found


def _imported(tree: ast.Module, path: Path) -> list[Path]:
    """The files of the modules that it imports: those beside it, and any that are neither Python's nor the model's."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    files = []
    for name in dict.fromkeys(filter(None, names)):
        beside = path.parent / f"{name.rpartition('.')[2]}.py"
        module = sys.modules.get(name)
        if beside.is_file():
            files.append(beside)
        elif name.split(".")[0] not in (*sys.stdlib_module_names, "mmlitmus") and module is not None:
            files += [Path(file)] if (file := getattr(module, "__file__", None) or "").endswith(".py") else []
    return files


def _constants(tree: ast.Module) -> dict[str, str]:
    """The strings that a module calls by a name. Functions that use the name say the string."""
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _read(tree: ast.Module, found: Own, constants: dict[str, str]) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.functions.add(node.name)
            for statement in node.body:
                _strings(statement, found, constants)
            for default in [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]:
                _strings(default, found, constants)
        elif isinstance(node, ast.Lambda):
            _strings(node.body, found, constants)


def _called(node: ast.Call) -> str:
    of = node.func
    return of.id if isinstance(of, ast.Name) else of.attr if isinstance(of, ast.Attribute) else ""


def _strings(node: ast.AST, found: Own, constants: dict[str, str]) -> None:
    if isinstance(node, ast.Name) and node.id in constants:
        found.strings.add(constants[node.id])
        return
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            found.strings.add(node.value)
        return
    if isinstance(node, ast.JoinedStr):
        found.strings.add("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                _strings(part.value, found, constants)
        return
    if isinstance(node, ast.Call) and _called(node) in _SPEAKERS:
        return
    for child in ast.iter_child_nodes(node):
        _strings(child, found, constants)
