"""Where the lab keeps things: one cache folder, and nothing outside it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LabError

#: a file in the cache folder that says whose it is; without it the folder is never removed
MARK = "mmlitmus-lab"


def default() -> Path:
    """The cache folder: $MMLITMUS_LAB, or mmlitmus/lab below $XDG_CACHE_HOME (below ~/.cache where that is not set)."""
    asked = os.environ.get("MMLITMUS_LAB")
    if asked:
        return Path(asked).absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache").absolute() / "mmlitmus" / "lab"


@dataclass(frozen=True)
class Place:
    """The cache folder and what is where in it."""

    root: Path

    @property
    def tools(self) -> Path:
        """The tool chain root: another release's compiler, unpacked, entered by chroot."""
        return self.root / "toolchain"

    @property
    def agents(self) -> Path:
        """Agents, each below the hash of its sources."""
        return self.root / "agent"

    def apt(self, name: str) -> Path:
        """A private apt state."""
        return self.root / "apt" / name

    def kernel(self, name: str) -> Path:
        """A kernel: ``kernel.json``, its unpacked packages in ``root``, probe modules in ``probe``."""
        return self.root / "kernels" / name

    def downloads(self, name: str) -> Path:
        """Packages on their way; what a cut connection leaves here is carried on with."""
        return self.root / "downloads" / name

    def make(self) -> None:
        """Create the folder and its mark. LabError if it cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / MARK).touch()
        except OSError as e:
            raise LabError(
                f"the lab's folder {self.root} cannot be written: {e.strerror} (MMLITMUS_LAB names another)"
            ) from e

    @contextmanager
    def alone(self, what: str, say: Callable[[str], None]) -> Iterator[None]:
        """Keep other processes from doing the same; wait for one that does. The lock dies with its process."""
        with (self.root / f"{what}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another mmlitmus is at it ({what}); waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def size(self) -> int:
        """Bytes in it."""
        return sum(p.lstat().st_size for p in self.root.rglob("*") if not p.is_dir())

    def remove(self) -> None:
        """Remove the folder and everything in it. LabError if it is not the lab's."""
        if not (self.root / MARK).is_file():
            raise LabError(f"{self.root} does not look like a folder of the lab's, and is left alone")
        shutil.rmtree(self.root)


def write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(content)
    new.replace(path)


def write_json(path: Path, what: Any) -> None:
    """Write an object to a file that is there whole or not at all."""
    write(path, json.dumps(what, indent=1, sort_keys=True).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no such file or it is damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
