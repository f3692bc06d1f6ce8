#!/usr/bin/env python3
"""How many small changes of the model and of the search does something notice?

    python tools/mutants.py                    a sample of both, with the fixed seed
    python tools/mutants.py kernel --sample 40
    python tools/mutants.py --list             what would be run
    python tools/mutants.py --report           what is known so far, and run nothing

A mutant is one change of one statement or expression: a call left out, a condition turned round, a comparison or a sum
by one off, a constant replaced. It is made in a copy of the tree and never in the tree itself. What has to notice it
are the commands of ``NOTICE``, the quickest first, all of which have to pass without it; it is killed by the first that
fails, and survives if none does. Results are kept as they come, by the bytes of the sources: a run that was interrupted
goes on where it was.

Mutants are taken by a random order with a fixed seed, the same on every machine; the sample is a beginning of it, so a
larger one contains the smaller. The score's interval is Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/mmlitmus")
ROOMS = ("kernel", "explore")
LEFT_OUT = (".git", ".venv", "_compiled", ".mutants", "__pycache__", ".hypothesis", ".pytest_cache", ".mypy_cache")
SEED = 20261201
#: seconds for one command. A mutant that makes something run for ever is noticed, too
PATIENCE = 1800

PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
CHECK = (sys.executable, "-m", "mmlitmus", "check")
#: what looks at a room, the quickest first
NOTICE: dict[str, tuple[tuple[str, ...], ...]] = {
    "kernel": (
        (*CHECK, "--kernel", "v5.10,deb-6.12.117"),
        (*PYTEST, "tests/kernel"),
        (*PYTEST, "tests/conform/test_recordings.py", "tests/conform/test_pat_recordings.py"),
        (*CHECK,),
        (*PYTEST, "tests/claims/test_ledgers.py", "tests/conform", "tests/guptable", "tests/scale"),
    ),
    "explore": (
        (*PYTEST, "tests/independent", "tests/explore/test_engine.py", "tests/explore/test_oracle.py"),
        (*PYTEST, "tests/explore", "--deselect", "tests/explore/test_builds.py"),
        (*CHECK, "--kernel", "v5.10,deb-6.12.117"),
        (*CHECK, "--kernel", "v6.12", "--engine", "stateful"),
        (*PYTEST, "tests/checker", "tests/cli", "tests/report"),
    ),
}

#: comparisons by one off, or turned round
OTHER: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: of the ``n``-th node of ``file`` (of those that a walk comes by), in words."""

    file: str
    n: int
    line: int
    what: str

    @property
    def key(self) -> str:
        """What its result is kept under."""
        return f"{self.file}:{self.n}:{self.what}"


def changes(node: ast.AST) -> list[str]:
    """What can be changed at a node, in words."""
    found: list[str] = []
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        found.append(f"{ast.unparse(node.value.func)}() left out")
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        found.append("condition turned round")
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OTHER:
        found.append("comparison changed")
    if isinstance(node, ast.BoolOp):
        found.append("and for or")
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        found.append("operator changed")
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        found.append("True for False")
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        found.append("constant by one off")
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)):
        found.append("assignment left out")
    if isinstance(node, ast.Return) and isinstance(node.value, ast.UnaryOp) and isinstance(node.value.op, ast.USub):
        found.append("0 for the errno")
    return found


def splice(node: ast.AST, what: str) -> tuple[ast.AST, str]:
    """What of the source is replaced, and by what."""
    if what.endswith("left out"):
        return node, "pass"
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        return node.test, f"(not ({ast.unparse(node.test)}))"
    if isinstance(node, ast.Return):
        assert node.value is not None
        return node.value, "0"
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare):
        new.ops = [OTHER[type(new.ops[0])]()]
    elif isinstance(new, ast.BoolOp):
        new.op = ast.And() if isinstance(new.op, ast.Or) else ast.Or()
    elif isinstance(new, ast.BinOp):
        new.op = ARITHMETIC[type(new.op)]()
    elif isinstance(new, ast.Constant):
        new.value = not new.value if isinstance(new.value, bool) else new.value + 1
    return node, f"({ast.unparse(new)})"


def code_only(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes in the bodies of functions, in the order of a walk: no annotations, decorators or messages."""
    skipped: set[int] = set()
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for statement in node.body:
                inside |= {id(below) for below in ast.walk(statement)}
            for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults, node.returns, node.args):
                skipped |= {id(below) for below in ast.walk(part)} if part is not None else set()
        elif isinstance(node, ast.AnnAssign):
            skipped |= {id(below) for below in ast.walk(node.annotation)}
        elif isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and _says(node)):
            skipped |= {id(below) for below in ast.walk(node) if below is not node}
    for node in ast.walk(tree):
        if id(node) in inside and id(node) not in skipped:
            yield node


def _says(call: ast.Call) -> bool:
    """Is it a message or a mark, whose words no rule is about?"""
    return isinstance(call.func, ast.Name) and call.func.id in ("reached", "report", "bug", "printk", "loop_point")


def mutants(root: Path, room: str) -> list[Mutant]:
    """Every mutant of a room, in the order of the sample."""
    found: list[Mutant] = []
    for path in sorted((root / PACKAGE / room).rglob("*.py")):
        if "_compiled" in path.parts:
            continue
        nodes = list(code_only(ast.parse(path.read_text())))
        file = str(path.relative_to(root))
        found += [
            Mutant(file, n, getattr(node, "lineno", 0), what)
            for n, node in enumerate(nodes)
            for what in changes(node)
            if not what.startswith(("reached()", "loop_point()"))  # marks decide nothing
        ]
    random.Random(SEED).shuffle(found)
    return found


def mutated(text: str, mutant: Mutant) -> str:
    """The source with the change, and otherwise as it is: every other line stays what it was."""
    tree = ast.parse(text)
    place, instead = splice(list(code_only(tree))[mutant.n], mutant.what)
    lines = text.encode().splitlines(keepends=True)  # ast counts bytes
    first, last = place.lineno - 1, place.end_lineno - 1  # type: ignore[attr-defined]
    head, tail = lines[first][: place.col_offset], lines[last][place.end_col_offset :]  # type: ignore[attr-defined]
    return b"".join([*lines[:first], head, instead.encode(), tail, *lines[last + 1 :]]).decode()


def noticed(copy_of: Path, mutant: Mutant, room: str) -> str:
    """Which command notices it, in short; empty if none does."""
    path = copy_of / mutant.file
    before = path.read_text()
    path.write_text(mutated(before, mutant))
    try:
        for n, command in enumerate(NOTICE[room]):
            if _fails(copy_of, command):
                return f"{n}: {' '.join(command[1:])}"
        return ""
    finally:
        path.write_text(before)


def _fails(tree: Path, command: Sequence[str]) -> bool:
    env = {**os.environ, "PYTHONPATH": str(tree / "src"), "MMLITMUS_PURE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=env, timeout=PATIENCE, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def version(root: Path) -> str:
    """What results are kept by: the bytes of what is changed and of what has to notice it."""
    digest = hashlib.sha256()
    for folder in ("src", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            if "_compiled" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def wilson(killed: int, of: int) -> tuple[float, float]:
    """The interval of the share, 95 %."""
    z, p = 1.96, killed / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def told(room: str, results: Sequence[tuple[Mutant, str]]) -> list[str]:
    """The score, and the survivors."""
    if not results:
        return [f"{room}: nothing is known yet"]
    killed = sum(bool(by) for _, by in results)
    low, high = wilson(killed, len(results))
    lines = [f"{room}: {killed} of {len(results)} noticed, {killed / len(results):.0%} (95 %: {low:.0%} to {high:.0%})"]
    lines += [f"  {one.file}:{one.line}: {one.what}" for one, by in results if not by]
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status: 0; 1 if the tree is not green as it is; 2 for wrong use."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rooms", nargs="*", help=f"of {' and '.join(ROOMS)}; without, both")
    parser.add_argument("--sample", type=int, default=60, help="how many of each room (default: 60)")
    parser.add_argument("--state", type=Path, default=ROOT / ".mutants", help="where results are kept")
    parser.add_argument("--list", action="store_true", help="print the sample, and run nothing")
    parser.add_argument("--report", action="store_true", help="print what is known, and run nothing")
    asked = parser.parse_args(argv)
    wrong = [room for room in asked.rooms if room not in ROOMS]
    if wrong or asked.sample < 1:
        parser.error(f"{wrong[0]!r} is no room; there are {', '.join(ROOMS)}" if wrong else "--sample is 1 or more")
    asked.state.mkdir(parents=True, exist_ok=True)
    kept = asked.state / f"{version(ROOT)}.jsonl"
    known = {}
    if kept.exists():
        known = {row["key"]: row["by"] for row in map(json.loads, kept.read_text().splitlines())}
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        tree = Path(name) / "tree"
        for room in asked.rooms or ROOMS:
            sample = mutants(ROOT, room)[: asked.sample]
            if asked.list:
                print(*(f"{one.file}:{one.line}: {one.what}" for one in sample), sep="\n")
                continue
            green = f"as it is: {room}"
            for one in sample:
                if one.key in known or asked.report:
                    continue
                if not tree.exists():
                    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
                if green not in known:
                    red = [" ".join(command) for command in NOTICE[room] if _fails(tree, command)]
                    if red:
                        print(f"mutants: this fails without a change, and so says nothing: {red[0]}", file=sys.stderr)
                        return 1
                    known[green] = "passes"
                    with kept.open("a") as file:
                        file.write(json.dumps({"key": green, "by": "passes"}) + "\n")
                known[one.key] = noticed(tree, one, room)
                with kept.open("a") as file:
                    file.write(json.dumps({"key": one.key, "by": known[one.key], **asdict(one)}) + "\n")
                print(f"{one.file}:{one.line}: {one.what}: {known[one.key] or 'SURVIVES'}", flush=True)
            print(*told(room, [(one, known[one.key]) for one in sample if one.key in known]), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
