"""Where cases come from: the files shipped in ``mmlitmus/cases``, and strangers' files.

A shipped case's id begins with its file's path (``vfio/fault_vs_disable.py`` holds ``vfio/fault-vs-disable``, or
several ``vfio/fault-vs-disable/...``), so that a pattern imports only the files it may match.
"""

from __future__ import annotations

import os
import stat
import sys
import traceback
import zlib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from .case import REGISTRY, Case, CaseError, path_id
from .guard import Guard, NeverEnds

#: the package, and the shipped cases
HOME = Path(__file__).resolve().parent.parent
ROOT = HOME / "cases"
PACKAGE = "mmlitmus.cases"


def shown(path: str | Path) -> str:
    """A path as messages print it: relative to the working directory when it lies inside."""
    absolute = Path(path).resolve()
    here = Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.as_posix()


def shipped(root: Path | None = None) -> list[tuple[str, Path]]:
    """Every shipped case file with the id that its path gives, in order. Imports nothing."""
    base = root or ROOT
    found = [
        (path_id(path.relative_to(base)), path)
        for path in base.rglob("*.py")
        if not any(part.startswith(("_", ".")) for part in path.relative_to(base).parts)
    ]
    return sorted(found)


def is_shipped(file: str) -> bool:
    """Is it a file of the package's own cases?"""
    return Path(file).resolve().is_relative_to(ROOT)


def matches(id: str, pattern: str) -> bool:
    """Does ``pattern`` (an id, a folder of ids, or a shell pattern) name the case ``id``?"""
    pattern = pattern.rstrip("/")
    return id == pattern or id.startswith(pattern + "/") or fnmatchcase(id, pattern)


def may_hold(stem: str, pattern: str) -> bool:
    """May the file with this path id hold a case that ``pattern`` names?"""
    pattern = pattern.rstrip("/")
    return matches(stem, pattern) or pattern.startswith(stem + "/") or any(c in pattern for c in "*?[")


class Selection:
    """The cases that some words of a command line name, and what was wrong with the words."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self.errors: list[CaseError] = []

    def add(self, cases: Iterable[Case]) -> None:
        """Add cases, each once."""
        for one in cases:
            if not any(one is other for other in self.cases):
                self.cases.append(one)


def select(words: Sequence[str], root: Path | None = None) -> Selection:
    """The cases named by ``words``: patterns over the shipped ones, or files. No words: every shipped case."""
    chosen = Selection()
    for word in words or ["*"]:
        if not word.strip():
            chosen.errors.append(CaseError(f"{word!r} names no case; without a word it is all of them"))
            continue
        if is_file_word(word, root):
            try:
                chosen.add(from_file(word))
            except CaseError as e:
                chosen.errors.append(e)
            continue
        found, errors = _shipped_matching(word, root)
        chosen.add(found)
        chosen.errors += [e for e in errors if str(e) not in map(str, chosen.errors)]
        if not found and not errors:
            chosen.errors.append(CaseError(_nothing(word, root)))
    return chosen


def is_file_word(word: str, root: Path | None = None) -> bool:
    """Does the word name a file (or ``FILE.py::case-id``), and not shipped cases?

    A file that is called as shipped cases are (``pat``) does not hide them: it has to be written ``./pat``.
    """
    if word.endswith(".py") or ".py::" in word:
        return True
    return os.path.isfile(word) and ("./" in word or not any(matches(id, word) for id, _ in shipped(root)))


def _short(name: str) -> str:
    """A name that a line has room for."""
    return name if len(name) <= 120 else f"{name[:60]}...{name[-40:]}"


def from_file(word: str) -> list[Case]:
    """The cases of ``FILE.py``, or the one that ``FILE.py::case-id`` names."""
    file, _, id = word.partition("::")
    cases = load_file(Path(file))
    if not id:
        return cases
    chosen = [one for one in cases if one.id == id]
    if not chosen:
        raise CaseError(f"no case {id!r} in this file; it has {', '.join(one.id for one in cases)}", shown(file))
    return chosen


def _shipped_matching(word: str, root: Path | None) -> tuple[list[Case], list[CaseError]]:
    cases: list[Case] = []
    errors: list[CaseError] = []
    files = shipped(root)
    likely = [file for file in files if may_hold(file[0], word)]
    for id, path in likely:
        try:
            cases += [c for c in load_shipped(id, path, root) if matches(c.id, word)]
        except CaseError as e:
            errors.append(e)
    if not likely:  # no id begins so: it may be a scenario, a thread or a claim
        for id, path in files:
            try:
                cases += [c for c in load_shipped(id, path, root) if word in (c.scenario, c.thread, *c.claims)]
            except CaseError as e:
                errors.append(e)
        if not cases:
            errors = []
    return cases, errors


def _nothing(word: str, root: Path | None) -> str:
    from difflib import get_close_matches

    ids = [id for id, _ in shipped(root)]
    areas = sorted({id.split("/")[0] for id in ids})
    near = get_close_matches(word, [*ids, *areas], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "; `mmlitmus list` shows them all" if ids else ""
    return f"no case matches {_short(word)!r}{hint}"


def load_shipped(id: str, path: Path, root: Path | None = None) -> list[Case]:
    """The cases of one shipped file, their ids checked against the path."""
    base = root or ROOT
    name = ".".join((PACKAGE, *path.relative_to(base).with_suffix("").parts)) if base == ROOT else _module_name(path)
    cases = _named(_load(name, path), id)
    for one in cases:
        if one.id != id and not one.id.startswith(id + "/"):
            raise CaseError(f"the id {one.id!r} must be {id!r} or begin with '{id}/'", shown(path), one.line)
        object.__setattr__(one, "source", one.id)
    return cases


def load_file(path: Path) -> list[Case]:
    """The cases of a stranger's file."""
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError) as e:  # a name may be too long, or have a zero in it
        missing = isinstance(e, (FileNotFoundError, NotADirectoryError))
        what = "no such file" if missing else getattr(e, "strerror", None) or str(e)
        raise CaseError(what, _short(str(path))) from e
    if stat.S_ISDIR(kind):
        raise CaseError("is a folder, not a case file", shown(path))
    if not stat.S_ISREG(kind):
        raise CaseError("is no regular file", shown(path))
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # at the end: a driver beside the case can be imported, and shadows nothing
        sys.path.append(folder)
    if path.resolve().is_relative_to(ROOT):
        return load_shipped(path_id(path.resolve().relative_to(ROOT)), path.resolve())
    cases = _named(_load(_module_name(path), path), path_id(Path(path.name)))
    for one in cases:
        if not one.source:
            object.__setattr__(one, "source", shown(path) if len(cases) == 1 else f"{shown(path)}::{one.id}")
    return cases


def _module_name(path: Path) -> str:
    return f"_mmlitmus_case_{zlib.crc32(str(path.resolve()).encode()):08x}"


def _named(cases: list[Case], stem: str) -> list[Case]:
    """Give the cases without an id one: the file's, or the file's and the function's when there are several."""
    named = []
    for one in cases:
        if not one.id:
            function = one.build.__name__.replace("_", "-")
            object.__setattr__(one, "id", stem if len(cases) == 1 else f"{stem}/{function}")
        named.append(one)
    for n, one in enumerate(named):
        if any(other.id == one.id for other in named[:n]):
            raise CaseError(f"a second case with the id {one.id!r}", shown(one.file), one.line)
    return named


def _load(name: str, path: Path) -> list[Case]:
    module = sys.modules.get(name)
    if module is None or Path(module.__file__ or "") != path.absolute():
        spec = spec_from_file_location(name, path)
        if spec is None:
            raise CaseError("not a Python file (its name does not end in .py)", shown(path))
        _execute(name, spec, path)
        module = sys.modules[name]
    cases: list[Case] = list(vars(module).get(REGISTRY, ()))
    if not cases:
        raise CaseError("no case in this file: nothing is decorated with @case(...)", shown(path), 1)
    return cases


def _execute(name: str, spec: ModuleSpec, path: Path) -> None:
    """Import the file; whatever it does instead becomes a CaseError that names the line."""
    module = module_from_spec(spec)
    sys.modules[name] = module
    assert spec.loader is not None
    try:
        with Guard(lambda: name, "importing this file"):
            spec.loader.exec_module(module)
    except SyntaxError as e:
        del sys.modules[name]
        file, line = (e.filename, e.lineno or 1) if e.filename else (str(path), e.lineno or 1)
        raise CaseError(f"{type(e).__name__}: {e.msg}", shown(file), line) from e
    except CaseError:
        del sys.modules[name]
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # sys.exit, too
        del sys.modules[name]
        raise located(e, path) from e


def located(e: BaseException, path: str | Path, doing: str = "") -> CaseError:
    """A CaseError for an exception, placed at the innermost line of the case's own folder."""
    file, line = innermost(e, path)
    at = getattr(e, "at", None)  # it may know better than its traceback
    if at is not None and _beside(Path(at[0]).resolve(), Path(path).resolve()):
        file, line = at
    text = str(e).strip().splitlines()
    what = f"{type(e).__name__}: {text[0]}" if text else type(e).__name__
    if isinstance(e, NeverEnds):
        what = str(e)
    return CaseError(f"{doing}{what}", shown(file), line)


def innermost(e: BaseException, path: str | Path) -> tuple[str, int]:
    """File and line of the innermost frame that lies in the case's folder; else the innermost of all."""
    case = Path(path).resolve()
    frames = [(f.filename, f.lineno or 1) for f in traceback.extract_tb(e.__traceback__)]
    own = [f for f in frames if _beside(Path(f[0]).resolve(), case)]
    return (own or frames or [(str(path), 1)])[-1]


def _beside(file: Path, case: Path) -> bool:
    """Is the file the case, or something that its author keeps beside it?"""
    if file == case:
        return True
    ours = file.is_relative_to(HOME) or "site-packages" in file.parts or "dist-packages" in file.parts
    return file.is_relative_to(case.parent) and not ours
