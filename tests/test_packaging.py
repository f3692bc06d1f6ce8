"""The rules of the house that no linter knows, and for each a proof that its checker can fail.

A checker takes a file's text and returns `(line, message)` pairs. `sweep` walks a tree with one. Every checker meets
bad and good samples below, and once more a bad file in a scratch tree, by way of the same `sweep` that the real tree
gets.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version as installed_version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

Finding = tuple[int, str]
Checker = Callable[[str], list[Finding]]

MAX_LINES = 600

# Files that a rule does not apply to, relative to the package.
MAY_CATCH_BASE_EXCEPTION = frozenset({
    "explore/scheduler.py",  # the one place that may see why a task died
    # around an import, a set-up or a whole search, never within a task: sys.exit in a case costs its row and no other
    "checker/load.py", "checker/run.py", "checker/many.py", "checker/campaign.py",
})  # fmt: skip
MAY_USE_BLOCKS_IN_KERNEL: frozenset[str] = frozenset()  # would be: a function that uses guard() in that kernel
# time-outs that are what is tested, of programs in a guest
MAY_WAIT_AS_LONG_AS_IT_TESTS = frozenset({"tests/lab/test_lab_boot.py"})
MAY_TEST_VERSIONS = frozenset({
    "kernel/eras.py",
    "conform/generate.py",  # of a guest's kernel, which may be one that the model has not got
})  # fmt: skip

# ---------------------------------------------------------------- walking


def package(root: Path) -> Path:
    return root / "src" / "mmlitmus"


def modules(root: Path) -> Iterator[Path]:
    """Every Python module of the package."""
    yield from sorted(package(root).rglob("*.py"))


def tracked_files(root: Path) -> list[Path]:
    """What git tracks or would track on `git add .`; without git, every file outside the obvious caches."""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            listed = {root / name for name in done.stdout.decode().split("\0") if name}
            return sorted(path for path in listed if path.is_file() and not path.is_symlink())
    skipped = {".git", ".venv", ".hypothesis", "build", "dist", "__pycache__"}
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and not any(part in skipped or part.endswith(("_cache", ".egg-info")) for part in path.relative_to(root).parts)
    )


def read_text(path: Path) -> str | None:
    """The file's text, or None if it is not text."""
    raw = path.read_bytes()
    return None if b"\0" in raw else raw.decode("utf-8", "replace")


def sweep(files: Iterable[Path], base: Path, checker: Checker, allowed: frozenset[str] = frozenset()) -> list[str]:
    """Run `checker` over `files`; one `path:line: message` a finding."""
    found = []
    for path in files:
        name = path.relative_to(base).as_posix()
        text = read_text(path)
        if name in allowed or text is None:
            continue
        found += [f"{name}:{line}: {message}" for line, message in checker(text)]
    return found


# ---------------------------------------------------------------- the checkers


def too_long(text: str) -> list[Finding]:
    lines = text.count("\n") + (not text.endswith("\n") and text != "")
    return [(lines, f"{lines} lines; a module stays under {MAX_LINES}")] if lines >= MAX_LINES else []


def names_base_exception(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Tuple):
        return any(names_base_exception(one) for one in node.elts)
    return last_name(node) in {"BaseException", "BaseExceptionGroup"}


def bare_excepts(text: str) -> list[Finding]:
    return [
        (node.lineno, "bare except: it swallows the abort of an abandoned execution")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def base_exceptions(text: str) -> list[Finding]:
    message = "BaseException caught: it swallows the abort of an abandoned execution"
    found = []
    for node in ast.walk(ast.parse(text)):
        caught = isinstance(node, ast.ExceptHandler) and names_base_exception(node.type)
        suppressed = (
            isinstance(node, ast.Call)
            and last_name(node.func) == "suppress"
            and any(names_base_exception(one) for one in node.args)
        )
        if caught or suppressed:
            found.append((node.lineno, message))
    return found


def unwinding_blocks(text: str) -> list[Finding]:
    kinds = {ast.Try: "try", ast.TryStar: "try", ast.With: "with", ast.AsyncWith: "with"}
    return [
        (node.lineno, f"`{kinds[type(node)]}` in the model: it would run while a BUG unwinds")
        for node in ast.walk(ast.parse(text))
        if type(node) in kinds
    ]


# Written so that this file does not match itself. A path inside an address (example.org/home/) or a relative one
# (./work/) is none of a machine.
MACHINE_PATH = re.compile(r"(?<![\w.)}~-])/(?:work|home|root|Users)/")


def machine_paths(text: str) -> list[Finding]:
    return [
        (number, f"a path of one machine: {line.strip()[:80]}")
        for number, line in enumerate(text.split("\n"), 1)
        if MACHINE_PATH.search(line)
    ]


ORDERING = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
EQUALITY = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
VERSION_WORDS = frozenset({"version", "kver"})  # as a word of any name: kernel_version, LINUX_VERSION_CODE
ORDERED_NAMES = frozenset({"era", "release", "kernel"})  # as a whole name, and only where an order is asked for
OTHER_VERSIONS = frozenset({"python", "sys", "schema", "format", "protocol", "package"})  # not a kernel's
VERSION_STRING = re.compile(r"v?\d+\.\d+(\.\d+)?(-rc\d+)?")
VERSION_METHODS = frozenset(
    {"startswith", "at_least", "at_most", "since", "before", "after", "newer_than", "older_than"}
)


def last_name(node: ast.AST | None) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def words(node: ast.AST) -> set[str]:
    """The words of every name in an expression: `self.kernel_version` gives self, kernel, version."""
    found: set[str] = set()
    for one in ast.walk(node):
        name = last_name(one)
        if isinstance(one, ast.Subscript) and isinstance(one.slice, ast.Constant):
            name = str(one.slice.value)
        found.update(name.lower().split("_"))
    return found


def is_version_string(node: ast.AST) -> bool:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(is_version_string(one) for one in node.elts)
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(VERSION_STRING.fullmatch(node.value))


def is_version(node: ast.AST) -> bool:
    seen = words(node)
    return bool(seen & VERSION_WORDS) and not seen & OTHER_VERSIONS


def is_version_test(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        ordered = any(isinstance(op, ORDERING) for op in node.ops)
        equal = any(isinstance(op, EQUALITY) for op in node.ops)
        if ordered and any(last_name(one) in ORDERED_NAMES for one in operands):
            return True
        return (ordered or equal) and any(is_version(one) or is_version_string(one) for one in operands)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERSION_METHODS:
        return is_version(node.func.value) or any(is_version_string(one) for one in node.args)
    if isinstance(node, ast.Match):
        return is_version(node.subject)
    return isinstance(node, ast.MatchValue) and is_version_string(node.value)


def version_tests(text: str) -> list[Finding]:
    return [
        (node.lineno, f"a version test outside eras.py: {ast.unparse(node).splitlines()[0][:80]}")
        for node in ast.walk(ast.parse(text))
        if is_version_test(node)
    ]


# ---------------------------------------------------------------- the tree


def waits(text: str) -> list[Finding]:
    """Time-outs that are numbers: of started commands there is one, ``waiting.WAIT``, which no busy machine exceeds."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    given = [word.value for call in calls for word in call.keywords if word.arg == "timeout"]
    numbers = [value for value in given if isinstance(value, ast.Constant)]
    return [(value.lineno, "a time-out of its own: use waiting.WAIT") for value in numbers]


@pytest.fixture(scope="module")
def package_modules() -> list[Path]:
    found = list(modules(ROOT))
    assert package(ROOT) / "__init__.py" in found, "the walk found no package: every rule would hold of nothing"
    return found


def test_modules_are_short(package_modules):
    assert sweep(package_modules, package(ROOT), too_long) == []


def test_no_bare_except(package_modules):
    assert sweep(package_modules, package(ROOT), bare_excepts) == []


def test_no_base_exception(package_modules):
    assert sweep(package_modules, package(ROOT), base_exceptions, MAY_CATCH_BASE_EXCEPTION) == []


def test_no_unwinding_in_the_model(package_modules):
    kernel = package(ROOT) / "kernel"
    inside = [path for path in package_modules if path.is_relative_to(kernel)]
    if not inside:
        pytest.skip("there is no kernel/ yet")
    assert sweep(inside, package(ROOT), unwinding_blocks, MAY_USE_BLOCKS_IN_KERNEL) == []


def test_no_version_tests(package_modules):
    assert sweep(package_modules, package(ROOT), version_tests, MAY_TEST_VERSIONS) == []


def test_no_test_has_its_own_patience():
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert sweep(files, ROOT, waits, MAY_WAIT_AS_LONG_AS_IT_TESTS) == []


def test_no_machine_paths():
    files = tracked_files(ROOT)
    assert Path(__file__).resolve() in files
    assert ROOT / "pyproject.toml" in files
    assert sweep(files, ROOT, machine_paths) == []


def test_every_folder_with_modules_is_a_package(package_modules):
    """A folder without __init__.py would be invisible to import-linter."""
    assert [path for path in {path.parent for path in package_modules} if not (path / "__init__.py").exists()] == []


def test_version_is_that_of_pyproject():
    import mmlitmus

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert mmlitmus.__version__ == installed_version("mmlitmus") == declared
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mmlitmus.no_such_name


def test_import_is_lazy():
    """Start-up time counts: a bare `import mmlitmus` looks up no version."""
    code = "import sys, mmlitmus; print('importlib.metadata' in sys.modules); mmlitmus.__version__; "
    code += "print('importlib.metadata' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


# ---------------------------------------------------------------- the checkers can fail

LONG = "x = 1\n" * MAX_LINES
SHORT = "x = 1\n" * (MAX_LINES - 1)
SLASH = "/"

BAD = [
    (too_long, LONG),
    (too_long, LONG.removesuffix("\n")),
    (waits, "p.communicate(timeout=60)\n"),
    (waits, "subprocess.run(\n    argv,\n    timeout=0.5)\n"),
    (bare_excepts, "try:\n    f()\nexcept:\n    pass\n"),
    (bare_excepts, "def f():\n    while True:\n        try:\n            g()\n        except:\n            raise\n"),
    (base_exceptions, "try:\n    f()\nexcept BaseException:\n    pass\n"),
    (base_exceptions, "try:\n    f()\nexcept (KeyError, BaseException) as e:\n    pass\n"),
    (base_exceptions, "import builtins\ntry:\n    f()\nexcept builtins.BaseException:\n    pass\n"),
    (base_exceptions, "try:\n    f()\nexcept* BaseException:\n    pass\n"),
    (base_exceptions, "with contextlib.suppress(BaseException):\n    f()\n"),
    (unwinding_blocks, "def f():\n    try:\n        g()\n    finally:\n        h()\n"),
    (unwinding_blocks, "try:\n    f()\nexcept KeyError:\n    pass\n"),
    (unwinding_blocks, "try:\n    f()\nexcept* KeyError:\n    pass\n"),
    (unwinding_blocks, "def f(lock):\n    with lock:\n        g()\n"),
    (unwinding_blocks, "async def f(lock):\n    async with lock:\n        g()\n"),
    (machine_paths, f"see {SLASH}home/someone/notes"),
    (machine_paths, f"a\nb\nPATH=x:{SLASH}root/bin"),
    (machine_paths, f"'{SLASH}work/tree/file.py'"),
    (machine_paths, f"file:{SLASH}{SLASH}{SLASH}home/someone/notes"),
    (version_tests, "if version >= (6, 6):\n    f()\n"),
    (version_tests, "x = 1 if self.kernel.version < V6_6 else 2\n"),
    (version_tests, "if (6, 1) <= kernel_version <= (6, 6):\n    f()\n"),
    (version_tests, "if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0):\n    f()\n"),
    (version_tests, "if version.major == 6:\n    f()\n"),
    (version_tests, "if machine['version'] == x:\n    f()\n"),
    (version_tests, "if tuple(map(int, version.split('.'))) > (6, 6):\n    f()\n"),
    (version_tests, "while self.release >= limit:\n    f()\n"),
    (version_tests, "if era > V6_6:\n    f()\n"),
    (version_tests, "if kernel.name == 'v6.12':\n    f()\n"),
    (version_tests, "if name in ('v6.1', 'v6.6'):\n    f()\n"),
    (version_tests, "if not name >= '6.12.3':\n    f()\n"),
    (version_tests, "if version.startswith('v6'):\n    f()\n"),
    (version_tests, "if kernel.since('v6.12'):\n    f()\n"),
    (version_tests, "match kernel.version:\n    case x:\n        f()\n"),
    (version_tests, "match kernel.name:\n    case 'v6.12-rc1':\n        f()\n"),
]

GOOD = [
    (too_long, SHORT),
    (too_long, ""),
    (waits, "p.communicate(timeout=WAIT)\nsession.run(text)\n"),
    (bare_excepts, "try:\n    f()\nexcept Exception:\n    pass\n"),
    (base_exceptions, "try:\n    f()\nexcept (KeyError, Exception):\n    raise BaseException('x')\n"),
    (base_exceptions, "class Abort(BaseException): ...\nwith contextlib.suppress(KeyError):\n    f()\n"),
    (unwinding_blocks, '"""try: with this, and finally that"""\ndef try_(with_):\n    return with_\n'),
    (machine_paths, f"https://example.org{SLASH}home{SLASH}x  .{SLASH}work/x  $(TOP){SLASH}work/x  a{SLASH}root/b"),
    (machine_paths, f"{SLASH}usr/bin/env  {SLASH}dev/mem  {SLASH}sys/kernel  {SLASH}proc/self/root"),
    (version_tests, '"""if version >= v6.6"""\n# version >= v6.6\nkernels = ["v6.6", "v6.12"]\n'),
    (version_tests, "if sys.version_info >= (3, 12):\n    f()\n"),
    (version_tests, "if record['schema_version'] != 1:\n    f()\n"),
    (version_tests, "if kernel.mm.pages >= 3 and ops.release is None and mode == 'release':\n    f()\n"),
    (version_tests, "x = policies[kernel.name]\nif name.startswith('vfio'):\n    f()\n"),
    (version_tests, "if len(versions) > 2 and size == 6.12 and kernel == other:\n    f()\n"),
]


def sample_id(value: object) -> str:
    return value.__name__ if callable(value) else ""


@pytest.mark.parametrize(("checker", "text"), BAD, ids=sample_id)
def test_checker_catches(checker, text, tmp_path):
    lines = [line for line, _ in checker(text)]
    assert lines, "the checker let it pass"
    assert all(1 <= line <= text.count("\n") + 1 for line in lines)

    bad = tmp_path / "src" / "mmlitmus" / "kernel" / "mm" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text(text)
    (tmp_path / "src" / "mmlitmus" / "__init__.py").touch()
    for files in (modules(tmp_path), tracked_files(tmp_path)):
        found = sweep(files, tmp_path, checker)
        assert found
        assert all(line.startswith("src/mmlitmus/kernel/mm/bad.py:") for line in found)


@pytest.mark.parametrize(("checker", "text"), GOOD, ids=sample_id)
def test_checker_lets_pass(checker, text):
    assert checker(text) == []


def test_every_checker_has_a_bad_and_a_good_sample():
    checkers = {too_long, waits, bare_excepts, base_exceptions, unwinding_blocks, machine_paths, version_tests}
    assert {checker for checker, _ in BAD} == {checker for checker, _ in GOOD} == checkers


def test_allow_list_spares_only_what_it_names(tmp_path):
    base = tmp_path / "src" / "mmlitmus"
    for name in ("explore/scheduler.py", "explore/dpor.py"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("try:\n    f()\nexcept BaseException:\n    pass\n")
    found = sweep(modules(tmp_path), base, base_exceptions, MAY_CATCH_BASE_EXCEPTION)
    assert [line.partition(":")[0] for line in found] == ["explore/dpor.py"]


def test_tracked_files_asks_git(tmp_path):
    """Tracked and not yet added files count; ignored ones and binary ones do not."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    bad = f"{SLASH}home/someone\n"
    (tmp_path / ".gitignore").write_text("ignored.txt\n")
    for name in ("tracked.txt", "new.txt", "ignored.txt"):
        (tmp_path / name).write_text(bad)
    (tmp_path / "image.bin").write_bytes(b"\0" + bad.encode())
    subprocess.run(["git", "-C", str(tmp_path), "add", "tracked.txt"], check=True)
    found = sweep(tracked_files(tmp_path), tmp_path, machine_paths)
    assert [line.partition(":")[0] for line in found] == ["new.txt", "tracked.txt"]
