"""tools/mutants.py: what it changes, that it changes nothing else, and what it says of what it found."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("mutants", ROOT / "tools" / "mutants.py")
assert spec is not None
assert spec.loader is not None
mutants = importlib.util.module_from_spec(spec)
sys.modules["mutants"] = mutants
spec.loader.exec_module(mutants)

SOURCE = '''"""A module."""
LIMIT = 3


def f(a: int = 1, *, b: bool = True) -> int:
    """What it does."""
    lock(a)
    if a < LIMIT and b:  # a comment
        a.field = 2
        return -EINVAL
    report("kind", "name", f"{a + 1} words")
    reached("here")
    return a + 1
'''


def every(text: str) -> dict[str, str]:
    """Each change of a text, in words, and what becomes of the text."""
    found = {}
    for n, node in enumerate(mutants.code_only(ast.parse(text))):
        for what in mutants.changes(node):
            one = mutants.Mutant("f.py", n, node.lineno, what)
            found[f"{node.lineno}: {what}"] = mutants.mutated(text, one)
    return found


def test_what_is_changed() -> None:
    assert {key: difference(SOURCE, text) for key, text in every(SOURCE).items()} == {
        "7: lock() left out": ["    pass"],
        "8: condition turned round": ["    if (not (a < LIMIT and b)):  # a comment"],
        "8: and for or": ["    if (a < LIMIT or b):  # a comment"],
        "8: comparison changed": ["    if (a <= LIMIT) and b:  # a comment"],
        "9: assignment left out": ["        pass"],
        "9: constant by one off": ["        a.field = (3)"],
        "10: 0 for the errno": ["        return 0"],
        "11: report() left out": ["    pass"],
        "12: reached() left out": ["    pass"],
        "13: operator changed": ["    return (a - 1)"],
        "13: constant by one off": ["    return a + (2)"],
    }


def difference(before: str, after: str) -> list[str]:
    """The lines that are others."""
    return [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]


@pytest.mark.parametrize("room", mutants.ROOMS)
def test_every_mutant_of_a_sample_is_a_program_and_another(room: str) -> None:
    for one in mutants.mutants(ROOT, room)[:300]:
        text = (ROOT / one.file).read_text()
        changed = mutants.mutated(text, one)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)), one


def test_a_larger_sample_contains_the_smaller() -> None:
    assert mutants.mutants(ROOT, "kernel") == mutants.mutants(ROOT, "kernel")


def test_a_mutant_is_noticed_by_the_first_that_fails_and_the_file_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.py").write_text(SOURCE)
    passes = (sys.executable, "-c", "pass")
    fails = (sys.executable, "-c", "import sys; sys.exit('pass' in open('f.py').read())")
    (left_out,) = [
        mutants.Mutant("f.py", n, 7, what)
        for n, node in enumerate(mutants.code_only(ast.parse(SOURCE)))
        for what in mutants.changes(node)
        if what == "lock() left out"
    ]
    monkeypatch.setitem(mutants.NOTICE, "kernel", (passes, fails, passes))
    assert mutants.noticed(tmp_path, left_out, "kernel").startswith("1: ")
    assert (tmp_path / "f.py").read_text() == SOURCE
    monkeypatch.setitem(mutants.NOTICE, "kernel", (passes,))
    assert mutants.noticed(tmp_path, left_out, "kernel") == ""


def test_the_score() -> None:
    one = mutants.Mutant("a.py", 0, 3, "condition turned round")
    assert mutants.told("kernel", [(one, "0: check")] * 9 + [(one, "")]) == [
        "kernel: 9 of 10 noticed, 90% (95 %: 60% to 98%)",
        "  a.py:3: condition turned round",
    ]


def test_a_tree_that_is_not_green_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(mutants.NOTICE, "kernel", ((sys.executable, "-c", "raise SystemExit(1)"),))
    assert mutants.main(["kernel", "--sample", "1", "--state", str(tmp_path)]) == 1
    assert "this fails without a change" in capsys.readouterr().err
