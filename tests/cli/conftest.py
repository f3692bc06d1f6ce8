"""The toy kernel and a few cases on it, for every test of the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOY = Path(__file__).resolve().parent.parent / "checker"
sys.path.insert(0, str(TOY))

import toy  # noqa: E402 - found through the line above

from mmlitmus.checker import kernels, load  # noqa: E402

FAULT = '''"""Can a fault put the translation back after the device went off?

Prose.
"""
import toy
from mmlitmus.api import always, case, na, never, sometimes


@case(
    scenario="S-01", thread="004", claims=("C-1",), reach=("fault got SIGBUS", "fault populated"),
    expect={
        "v1": sometimes("stale-translation"), "v2": never, "v3": never,
        "v3 +check-early": sometimes("stale-translation"), "v1 +check-early": na("there is no lock"),
    },
    evidence={"v2": "recorded", "v3": "source"}, bounds={"pages": 1},
)
def fault_vs_disable(m):
    @m.task
    def fault():
        toy.vfio_fault(m)

    @m.task
    def disable():
        toy.vfio_disable(m)
'''

LOCKS = '''"""Do the two locks nest one way only?"""
import toy
from mmlitmus.api import case, never, sometimes


@case(expect={"v2": never, "v2 +nested": sometimes("deadlock memory_lock / other_lock")},
      ignores=("inversion memory_lock -> other_lock -> memory_lock",))
def locks(m):
    @m.task
    def fault():
        toy.vfio_fault(m)

    @m.task
    def disable():
        toy.vfio_disable(m)
'''


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy kernels, and two shipped cases on them; the working directory is an empty one."""
    root = tmp_path / "cases"
    (root / "vfio").mkdir(parents=True)
    (root / "vfio" / "fault_vs_disable.py").write_text(FAULT)
    (root / "vfio" / "nested_locks.py").write_text(LOCKS)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(load, "ROOT", root)
    monkeypatch.setattr(sys, "path", list(sys.path))
    toy.install()
    yield root
    kernels.use(None)


@pytest.fixture
def run(shipped, capsys):
    """Run a command line here: (exit status, standard output, standard error)."""
    from mmlitmus.cli.main import main

    def go(*args: str) -> tuple[int, str, str]:
        code = main(list(args))
        done = capsys.readouterr()
        return code, done.out, done.err

    return go


@pytest.fixture
def process(shipped):
    """Start a command line in a process of its own."""

    def go(*args: str, seed: str = "0", **how) -> subprocess.Popen:
        source = Path(load.__file__).resolve().parents[2]
        path = os.pathsep.join((str(source), str(TOY)))
        env = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed, "TOY_ROOT": str(shipped)}
        command = [sys.executable, str(TOY / "toy.py"), *args]
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return subprocess.Popen(command, text=True, env=env, **how)

    return go


@pytest.fixture
def write(shipped):
    """Write a stranger's file into the working directory; the api is imported already."""

    def go(name: str, text: str, head: str = "from mmlitmus.api import *\nimport toy\n") -> str:
        Path(name).write_text(head + text)
        return name

    return go
