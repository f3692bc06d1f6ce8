"""What the model's docstrings say about its sources, read by one grammar (CONTRIBUTING.md, "Name the source").

    Source: FILE NAME, NAME (RANGE), FILE NAME; none (RANGE); prose.

up to the end of the sentence or paragraph. A clause that begins with a kernel's file is made of references: each file
with the names that are in it, in the kernels of the range (all of them, if there is none). A clause ``none (RANGE)``
says that kernels of the range have nothing of the kind; any other clause is prose. Among the names may stand releases
in which it was read, and the words "functions of the same name"; other words in parentheses are a note, unless there is
a release among them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

FILE = re.compile(r"(?:[\w-]+/)+[\w.-]+\.(?:c|h|rst|S)")
NAME = re.compile(r"[A-Za-z_]\w*")
RELEASE = re.compile(r"(?:v|deb-)?(\d+\.\d+)(?:\.\d+)?")
SPAN = re.compile(r"(?:(?P<to>to|from) )?(?P<a>\d+\.\d+)(?: - (?P<b>\d+\.\d+))?")
SAME_NAME = "functions of the same name"
LEADING = re.compile(r"((?:\w+\(\), )*\w+\(\)):")
OWN = re.compile(r"Of the model's own: ([^:]*?)\.(?:\s|$)")
SOURCE = re.compile(r"\bSource:\s+(.*?)(?:\.(?=\s|$)|$)", re.DOTALL)

Release = tuple[int, int]


class ReferenceSyntaxError(ValueError):
    """A source that the grammar does not know; the message shows it."""


def release(text: str) -> Release:
    """6.12 of ``6.12``, ``v6.12``, ``6.12.117`` or ``deb-6.12.117``."""
    found = RELEASE.fullmatch(text)
    if found is None:
        raise ReferenceSyntaxError(f"{text!r} is no release")
    major, minor = found.group(1).split(".")
    return int(major), int(minor)


@dataclass(frozen=True)
class Range:
    """Releases, as (first, last) pairs, both included; None is open. No pair: all of them."""

    spans: tuple[tuple[Release | None, Release | None], ...] = ()

    def __contains__(self, one: Release) -> bool:
        return not self.spans or any((a is None or a <= one) and (b is None or one <= b) for a, b in self.spans)


def parse_range(text: str) -> Range | None:
    """The range in parentheses; None if these are some other words."""
    spans: list[tuple[Release | None, Release | None]] = []
    for part in text.split(", "):
        found = SPAN.fullmatch(part.strip())
        if found is None or (found["to"] and found["b"]):
            return None
        a = release(found["a"])
        if found["to"]:
            spans.append((None, a) if found["to"] == "to" else (a, None))
        else:
            spans.append((a, release(found["b"]) if found["b"] else a))
    return Range(tuple(spans))


@dataclass(frozen=True)
class Reference:
    """One clause: a file and names in it, in the kernels of a range. ``file`` "": there is nothing there then."""

    file: str
    names: tuple[str, ...]
    range: Range = Range()
    same_name: bool = False


def clauses(text: str) -> list[Reference]:
    """The references in a text; none are in its clauses of prose.

    ReferenceSyntaxError where a clause begins as a reference and goes on otherwise.
    """
    parts = re.split(r";(?![^()]*\))", " ".join(text.split()))
    return [one for part in parts for one in _clause(part.strip())]


TOKEN = re.compile(rf"(?P<file>{FILE.pattern})|(?P<same>{SAME_NAME})|\((?P<range>[^()]*)\)|(?P<word>[\w.]+(?:\(\))?)")
BETWEEN = re.compile(r"(?:,| |- |and )*")


def _clause(text: str) -> list[Reference]:
    """One clause: FILE NAME, NAME (RANGE), FILE NAME ..., or ``none (RANGE)``."""
    none = re.fullmatch(r"none(?: \(([^()]*)\))?", text)
    if none is not None:
        return [Reference("", (), _range(none.group(1), text) if none.group(1) else Range())]
    if FILE.match(text) is None:
        return []
    found: list[Reference] = []
    at = 0
    apart = True  # may a name come now?
    while at < len(text):
        token = TOKEN.match(text, at)
        if token is None or (token["word"] and not apart):
            raise ReferenceSyntaxError(f"{text[at:]!r} in {text!r}: a source is FILE NAME, NAME (RANGE)")
        if token["file"]:
            found.append(Reference(token["file"], ()))
        elif token["same"]:
            # all the files of the clause so far
            found = [replace(one, same_name=True) for one in found]
        elif token["range"] is not None:
            if re.search(r"\d\.\d", token["range"]):
                found[-1] = replace(found[-1], range=_range(token["range"], text))
        elif RELEASE.fullmatch(token["word"]) is None:
            name = token["word"].removesuffix("()")
            if NAME.fullmatch(name) is None:
                raise ReferenceSyntaxError(f"{name!r} in {text!r} is no name; a source is FILE NAME, NAME (RANGE)")
            if found[-1].range.spans:
                # FILE NAME (RANGE), NAME (RANGE): the same file again
                found.append(Reference(found[-1].file, ()))
            found[-1] = replace(found[-1], names=(*found[-1].names, name))
        between = BETWEEN.match(text, token.end())
        assert between is not None
        apart = bool(token["file"]) or bool(between.group().strip())
        at = between.end()
    return found


def _range(words: str, text: str) -> Range:
    given = parse_range(words)
    if given is None:
        raise ReferenceSyntaxError(f"({words}) in {text!r} is no range: (6.1), (to 5.14), (from 6.16), (5.10 - 6.1)")
    return given


def sources(docstring: str) -> list[Reference]:
    """The references of every ``Source:`` in a docstring."""
    found = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        for match in SOURCE.finditer(paragraph):
            found += clauses(match.group(1))
    return found


def leading(docstring: str) -> tuple[str, ...]:
    """The kernel functions that a docstring begins with: ``untrack_pfn_clear(): ...``."""
    found = LEADING.match(docstring)
    return tuple(name.removesuffix("()") for name in found.group(1).split(", ")) if found else ()


def own(docstring: str) -> tuple[str, ...]:
    """What a module's docstring calls the model's own: helpers that stand for no function of the kernel."""
    found = OWN.search(" ".join(docstring.split()))
    return tuple(found.group(1).replace(" and ", ", ").split(", ")) if found else ()


@dataclass(frozen=True)
class Thing:
    """A public function or method of the model, or an alternative of a seam, and where it says it was read."""

    where: str
    name: str
    references: tuple[Reference, ...] = ()
    #: names that are looked for in whatever files the module names, and the files that the class names
    wanted: tuple[str, ...] = ()
    files: tuple[Reference, ...] = ()
    alternative: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.where}:{self.name}"


@dataclass
class Module:
    """A module's things, what its own docstring refers to, and what it calls the model's own but has not."""

    references: tuple[Reference, ...] = ()
    things: list[Thing] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)


def collect(path: Path, where: str) -> Module:
    """Everything in a module that has to name a source."""
    tree = ast.parse(path.read_text())
    text = ast.get_docstring(tree) or ""
    files = tuple(sources(text))
    helpers = own(text)
    module = Module(files)
    seen: set[str] = set()
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        seen.add(node.name)
        alternative = _alternative(node)
        references: tuple[Reference, ...] = tuple(sources(ast.get_docstring(node) or ""))
        if alternative is not None:
            seam, name, source = alternative
            references = (*clauses(source), *references)
            module.things.append(Thing(where, node.name, references, alternative=(seam, name)))
        if isinstance(node, ast.ClassDef):
            private = node.name.startswith("_")
            things = [] if private else list(_methods(node, where, files, references, alternative is not None))
            seen.update(thing.name for thing in things)
            module.things += [t for t in things if t.name not in helpers and node.name not in helpers]
        elif alternative is None and not node.name.startswith("_") and node.name not in helpers:
            module.things.append(_thing(where, node.name, node, files, references))
    module.stale = [name for name in helpers if name not in seen]
    return module


def _methods(
    cls: ast.ClassDef, where: str, files: tuple[Reference, ...], class_: tuple[Reference, ...], skip: bool
) -> Iterator[Thing]:
    """The public methods with a docstring; those of an alternative only where they name something themselves."""
    for node in cls.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        text = ast.get_docstring(node) or ""
        references = tuple(sources(text))
        if not text or (any(r.names for r in class_) and not references):
            continue
        if skip and not references and not leading(text):
            continue
        yield _thing(where, f"{cls.name}.{node.name}", node, (*class_, *files), references)


def _thing(
    where: str, name: str, node: ast.FunctionDef, files: tuple[Reference, ...], references: tuple[Reference, ...]
) -> Thing:
    """A function's references; without any, the names that it begins with; without those, its own."""
    if references:
        return Thing(where, name, references)
    return Thing(where, name, (), leading(ast.get_docstring(node) or "") or (node.name,), files)


def _alternative(node: ast.FunctionDef | ast.ClassDef) -> tuple[str, str, str] | None:
    """(seam, name, source) of a decorator ``@seam.alternative(name, source=..., releases=...)``."""
    for one in node.decorator_list:
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr == "alternative":
            assert isinstance(one.func.value, ast.Name)
            name = ast.literal_eval(one.args[0])
            source = next(ast.literal_eval(k.value) for k in one.keywords if k.arg == "source")
            return one.func.value.id, name, source
    return None
