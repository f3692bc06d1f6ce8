"""Compile the explorer: ``python -m mmlitmus.explore.build``. See ``compiled``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from .compiled import HERE, LIBRARY, MODULES, SUFFIX, built, foreign, homes, name

#: run in a scratch folder. The sources are named where they are, for that is where a traceback will look for them.
SETUP = """
from mypyc.build import mypycify
from setuptools import setup
options = ["--ignore-missing-imports", "--no-color-output", *{files!r}]
setup(name="explore", packages=[], ext_modules=mypycify(options, group_name={group!r}, target_dir="c"))
"""


class BuildError(Exception):
    """Nothing was built; its text says why in a sentence."""


def missing() -> str:
    """What a build lacks here; empty if nothing."""
    if importlib.util.find_spec("mypyc") is None or importlib.util.find_spec("setuptools") is None:
        return "mypy and setuptools are not installed (pip install 'mmlitmus[compile]')"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "there is no Python.h (Debian: python3-dev)"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if not compiler or shutil.which(compiler[0]) is None:
        return f"there is no C compiler {' '.join(compiler[:1])} (Debian: gcc)"
    return ""


def build() -> Path:
    """Compile the modules as they are now; returns the folder. BuildError when it cannot be done."""
    where = built()
    if where is not None and not foreign(where):
        return where
    lacking = missing()
    if lacking:
        raise BuildError(lacking)
    for home in homes():
        try:
            home.mkdir(mode=0o755, parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix="building-", dir=home)
        except OSError:
            continue
        with scratch as folder:
            done = _build(home, Path(folder))
        why_not = foreign(done)
        if why_not:
            raise BuildError(f"it would not be run from there: {why_not}")
        return done
    raise BuildError(f"neither {' nor '.join(map(str, homes()))} can be written")


def _build(home: Path, scratch: Path) -> Path:
    called = name()
    where = home / called
    files = [str(HERE / f"{module}.py") for module in MODULES]
    (scratch / "setup.py").write_text(SETUP.format(files=files, group=LIBRARY.removesuffix("__mypyc")))
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "out"],
        cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "MMLITMUS_PURE": "1"},
    )  # fmt: skip
    if done.returncode:
        raise BuildError("the compiler says: " + " | ".join(done.stdout.strip().splitlines()[-3:]))
    if name() != called:
        raise BuildError("the sources changed meanwhile")
    ready = scratch / "ready"
    ready.mkdir()
    for folder in (ready, home):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    for library in sorted((scratch / "out").rglob(f"*{SUFFIX}")):
        library.chmod(0o755)  # whatever the umask: what others may write is not run
        library.rename(ready / library.name)
    for old in sorted(home.glob(f"{called.rpartition('-')[0]}-*")):
        if old != where:
            shutil.rmtree(old, ignore_errors=True)
    if where.exists() and foreign(where):
        shutil.rmtree(where, ignore_errors=True)  # another's: not ours to run
    try:
        ready.rename(where)
    except OSError:  # somebody else was faster
        if not (where / (LIBRARY + SUFFIX)).exists():
            raise
    return where


def main() -> int:
    """Build, and say what came of it. Nothing built is no error: everything runs without."""
    try:
        print(f"compile: the explorer is compiled ({build().name})")
    except BuildError as e:
        print(f"compile: the explorer stays interpreted: {e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
