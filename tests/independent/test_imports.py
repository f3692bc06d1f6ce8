"""The second opinion shares nothing with the first: not a line of mmlitmus is imported here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED_NOTHING = sorted(p for p in HERE.glob("*.py") if not p.name.startswith("test_"))
#: all that they may import, besides each other
ALLOWED = {"__future__", "collections", "collections.abc", "dataclasses", "typing"}


def imported(path: Path) -> set[str]:
    """The modules that the file names in import statements, wherever they stand."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Name) and node.id in ("__import__", "importlib", "exec", "eval"):
            names.add(node.id)
    return names


@pytest.mark.parametrize("path", SHARED_NOTHING, ids=lambda p: p.name)
def test_what_the_files_import(path: Path) -> None:
    own = {f".{p.stem}" for p in SHARED_NOTHING}
    assert imported(path) <= ALLOWED | own


def test_what_is_loaded_when_a_program_runs() -> None:
    """In a process of its own, where nobody else has imported anything."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tests.independent.enumerator import enumerate_all; "
        "a = enumerate_all('rwsem', ((('dw', 0), ('dw', 0)), (('tr', 0), ('r', 'o0')))); print(sorted(a.deadlocks)); "
        "print([m for m in sorted(sys.modules) if m.startswith(('mmlitmus', 'greenlet', 'tests.explore'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(HERE.parents[1])], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[('t0',)]", "[]"]
