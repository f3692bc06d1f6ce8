"""The explorer's hot modules, compiled: the same sources through mypyc, found by their hash.

``python -m mmlitmus.explore.build`` (``make compile``) builds them where mypyc and a C compiler are; without either
nothing changes but the speed. A build lies in a folder named after the sources that it was built from and after the
interpreter, so a changed source is never run as what it was before: it runs interpreted until it is built anew.
``MMLITMUS_PURE=1`` in the environment leaves what was built alone.

The folder is ``_compiled`` beside the sources or, where that cannot be written, one in the user's cache.
"""

from __future__ import annotations

import importlib.util
import os
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


def use(path: list[str]) -> bool:
    """Have the package whose ``__path__`` is given import the compiled modules; False if there are none for it."""
    if os.environ.get("MMLITMUS_PURE"):
        return False
    where = built()
    if where is None:
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
