"""The compiled explorer and the interpreted one: the same bytes, the same errors; and where none is built."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mmlitmus.explore import build, compiled
from waiting import WAIT

ROOT = Path(__file__).resolve().parents[2]
BUILDS = {"compiled": "", "interpreted": "1"}


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    """A build of these sources; made now if need be."""
    lacking = "" if compiled.built() else build.missing()
    if lacking:
        pytest.skip(lacking)
    build.build()


def start(how: str, *args: str, **env: str) -> subprocess.Popen[str]:
    """Python in one of the builds."""
    return subprocess.Popen(
        [sys.executable, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "0", **env, "MMLITMUS_PURE": BUILDS[how]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def say(how: str, *args: str, status: int | None = 0, **env: str) -> str:
    """What it prints."""
    process = start(how, *args, **env)
    out, err = process.communicate(timeout=WAIT)
    assert status is None or process.returncode == status, err
    return out + (err if status is None else "")


@pytest.mark.parametrize("how", BUILDS)
def test_which_one_runs_is_said(how: str) -> None:
    assert say(how, "-m", "mmlitmus", "--version").endswith(f"(explorer {how})\n")


def test_they_say_the_same_of_programs() -> None:
    said = [say(how, "-m", "tests.explore.told") for how in BUILDS]
    assert len(said[0]) > 100_000
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "args",
    [
        ("check", "vfio/", "--kernel", "v6.12", "--json"),
        ("check", "pat", "--kernel", "v6.12", "--json"),
        ("check", "vfio/fault-vs-disable", "--kernel", "v6.12", "--json", "--engine", "stateful"),
        ("check", "vfio/fault-vs-disable", "--kernel", "v6.12", "--json", "--engine", "sample", "--walks", "50"),
        ("check", "vfio/fault-vs-disable", "--kernel", "v6.12", "--json", "-j", "2"),
        ("show", "vfio/fault-vs-disable", "--kernel", "v6.12"),
    ],
    ids=" ".join,
)
def test_they_say_the_same_of_cases(args: tuple[str, ...]) -> None:
    said = [say(how, "-m", "mmlitmus", *args, status=None) for how in BUILDS]
    assert len(said[0]) > 500
    assert said[0] == said[1]


#: the engine's tests, and those of them that take a minute
QUICK = ("test_engine.py", "test_replay.py")
LONG = tuple(f"test_{name}.py" for name in ("split", "minimise", "stateful", "reductions", "sample", "livelock"))


@pytest.mark.parametrize("files", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)], ids=["quick", "long"])
@pytest.mark.parametrize("how", BUILDS)
def test_both_pass_the_tests_of_the_engine(how: str, files: tuple[str, ...]) -> None:
    if (how == "compiled") == compiled_here():
        pytest.skip("the tests run in this build anyway")
    say(how, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/explore/{name}" for name in files))


def compiled_here() -> bool:
    """Does this process run compiled?"""
    from mmlitmus import explore

    return explore.COMPILED


BROKEN = """
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Model, Once

class V(Model):
    __slots__ = ()
    x = Once()

class Wrong(Dpor):
    def enabled(self):
        raise TypeError("ours")

def setup():
    v = V("v", x=0)
    def t(): v.x = 1
    return Setup({"a": t, "b": t})
Wrong(setup).run()
"""


@pytest.mark.parametrize("how", BUILDS)
def test_a_traceback_names_the_source(how: str) -> None:
    """An error of the engine itself: every frame's file is there, and its line too."""
    said = say(how, "-c", BROKEN, status=None)
    assert "TypeError: ours" in said
    frames = [line.split('"')[1] for line in said.splitlines() if line.startswith("  File ")]
    own = [Path(name) for name in frames if name.endswith(("scheduler.py", "dpor.py"))]
    assert own
    assert all(path.parent == ROOT / "src/mmlitmus/explore" for path in own)
    assert "self._run()" in said


@pytest.mark.parametrize("how", BUILDS)
def test_an_interrupt_ends_a_search(how: str) -> None:
    code = """
        from mmlitmus.explore.dpor import Dpor
        from tests.explore.semantics import increments
        print("go", flush=True)
        Dpor(increments(4, 4)).run()
    """
    process = start(how, "-c", textwrap.dedent(code))
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert "KeyboardInterrupt" in err
    assert process.returncode in (1, 130, -signal.SIGINT)


# -- where nothing is built ---------------------------------------------------------------------------------------
@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The package somewhere else, not built."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("_compiled", "__pycache__"))
    return tmp_path / "src"


def elsewhere(tree: Path, *args: str, **env: str) -> str:
    """What the package there says."""
    cache = {"XDG_CACHE_HOME": str(tree.parent / "cache")}
    return say("compiled", "-P", *args, PYTHONPATH=str(tree), **cache, **env).strip()


def test_without_a_build_it_runs_interpreted(tree: Path) -> None:
    assert elsewhere(tree, "-m", "mmlitmus", "--version").endswith("(explorer interpreted)")


def test_a_changed_source_is_not_run_as_it_was_before(tree: Path) -> None:
    where = compiled.built()
    assert where is not None
    shutil.copytree(where, tree / "mmlitmus/explore/_compiled" / where.name)
    assert elsewhere(tree, "-m", "mmlitmus", "--version").endswith("(explorer compiled)")
    with (tree / "mmlitmus/explore/dpor.py").open("a") as f:
        f.write("# changed\n")
    assert elsewhere(tree, "-m", "mmlitmus", "--version").endswith("(explorer interpreted)")


def test_without_a_compiler_one_line_says_so(tree: Path) -> None:
    said = elsewhere(tree, "-m", "mmlitmus.explore.build", CC="no-such-compiler")
    assert said.startswith("compile: the explorer stays interpreted: there is no C compiler no-such-compiler")
    assert "\n" not in said


@pytest.mark.slow
def test_what_the_compiler_refuses_is_no_error(tree: Path) -> None:
    said = elsewhere(tree, "-m", "mmlitmus.explore.build", CC="false")
    assert said.startswith("compile: the explorer stays interpreted: the compiler says: ")
    assert "\n" not in said
    assert elsewhere(tree, "-m", "mmlitmus", "--version").endswith("(explorer interpreted)")


def test_a_library_that_does_not_load_is_left_alone(tree: Path) -> None:
    where = compiled.built()
    assert where is not None
    there = tree / "mmlitmus/explore/_compiled" / where.name
    shutil.copytree(where, there)
    (there / (compiled.LIBRARY + compiled.SUFFIX)).write_bytes(b"no library")
    assert elsewhere(tree, "-m", "mmlitmus", "--version").endswith("(explorer interpreted)")


def test_beside_a_package_that_cannot_be_written_the_cache_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = compiled.built()
    assert where is not None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    beside, cache = compiled.homes()
    assert beside == compiled.HERE / "_compiled"
    assert cache.parent == tmp_path / "mmlitmus"
    monkeypatch.setattr(compiled, "homes", lambda: [tmp_path / "nothing", cache])
    assert compiled.built() is None
    shutil.copytree(where, cache / where.name)
    assert compiled.built() == cache / where.name
