"""The explorer's hot modules, compiled: the same sources through mypyc, found by their hash.

``python -m mmlitmus.explore.build`` (``make compile``) builds them where mypyc and a C compiler are; without either
nothing changes but the speed. A build lies in a folder named after the sources that it was built from and after the
interpreter, so a changed source is never run as what it was before: it runs interpreted until it is built anew.
``MMLITMUS_PURE=1`` in the environment leaves what was built alone.

The folder is ``_compiled`` beside the sources or, where that cannot be written, one in the user's cache. Native code is
run only from where nobody else could have put it: from a cache whose folders are the user's own (or, further up,
root's) and writable by nobody else, as ssh asks it of its keys; from beside the sources, if it belongs to whom they
belong to. Otherwise everything runs interpreted, after a line of warning.
"""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

#: what is compiled, together: calls between these are C calls
MODULES = (
    "ops", "scheduler", "dpor", "steps", "values", "objects", "clocks", "movers", "sights", "stategraph", "stateful",
)  # fmt: skip
#: the library that the compiled modules share
LIBRARY = "mmlitmus_explore__mypyc"
SUFFIX = EXTENSION_SUFFIXES[0]
HERE = Path(__file__).parent


def homes() -> list[Path]:
    """Where builds may lie, the first choice first. The cache has a folder for every place of a package."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if os.path.isabs(cache) else Path(os.path.expanduser("~")) / ".cache"
    place = importlib.util.source_hash(os.fsencode(HERE)).hex()
    return [HERE / "_compiled", root / "mmlitmus" / f"explore-{place}"]


def name() -> str:
    """What a build of the sources as they are now, for this interpreter, is called. OSError if they cannot be read."""
    sources = b"".join((HERE / f"{module}.py").read_bytes() for module in MODULES)
    return f"{SUFFIX.removeprefix('.').split('.')[0]}-{importlib.util.source_hash(sources).hex()}"


def built() -> Path | None:
    """The folder with the build of these sources, if there is one."""
    try:
        called = name()
        return next((home / called for home in homes() if (home / called / (LIBRARY + SUFFIX)).exists()), None)
    except OSError:  # the sources are not in files, or we may not look
        return None


def foreign(where: Path) -> str:
    """Who else could have put a build there, in a sentence; empty if nobody.

    Looked at: the libraries, their folder, its own, and, in a cache, each folder above. They have to belong to the user
    (above the cache's own folders: or to root), and nobody else may write there; in a folder with the sticky bit, as
    /tmp, nobody can replace what is not his. Who could write beside the sources could change the sources.
    """
    beside = where.is_relative_to(HERE)
    try:
        mine = {os.geteuid(), *((0, HERE.stat().st_uid) if beside else ())}
        for path in (*sorted(where.iterdir()), where, where.parent):
            if why := _others(path, path.lstat(), mine):
                return why
        for path in () if beside else where.parent.resolve().parents:
            status = path.stat()
            if status.st_mode & stat.S_ISVTX == 0 or status.st_uid not in (0, os.geteuid()):
                if why := _others(path, status, {0, os.geteuid()}):
                    return why
    except OSError as e:
        return f"{e.filename}: {e.strerror}"
    return ""


def _others(path: Path, status: os.stat_result, mine: set[int]) -> str:
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a link"
    if status.st_uid not in mine:
        return f"{path} belongs to another user ({status.st_uid})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def use(path: list[str]) -> bool:
    """Have the package whose ``__path__`` is given import the compiled modules; False if there are none for it."""
    if os.environ.get("MMLITMUS_PURE"):
        return False
    where = built()
    if where is None:
        return False
    why_not = foreign(where)
    if why_not:
        print(f"mmlitmus: {why_not}: the compiled explorer is not used", file=sys.stderr)
        return False
    spec = importlib.util.spec_from_file_location(LIBRARY, where / (LIBRARY + SUFFIX))
    assert spec is not None and spec.loader is not None, "a library has a loader"
    try:
        module = importlib.util.module_from_spec(spec)
        sys.modules[LIBRARY] = module
        spec.loader.exec_module(module)
    except ImportError:  # built for another C library, say
        sys.modules.pop(LIBRARY, None)
        return False
    path.insert(0, str(where))
    return True
