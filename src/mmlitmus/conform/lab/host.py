"""Programs of the host: found, or named with the Debian package that has them; run, or reported with what they said."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import LabError, MissingError

#: the Debian package of each program that the lab runs
PACKAGES = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "busybox": "busybox-static",
    "chroot": "coreutils",
    "dpkg-deb": "dpkg",
    "gcc": "gcc",
    "make": "make",
    "qemu-system-x86_64": "qemu-system-x86",
    "unshare": "util-linux",
    "zstd": "zstd",
}
#: where system programs are, for users whose PATH leaves them out
SYSTEM = ("/usr/sbin", "/sbin")
#: how much of a failed program's output a message shows, in lines
SHOWN = 8


def program(name: str, why: str) -> str:
    """The path of a program. MissingError with its package if it is not there."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM])
    found = shutil.which(name, path=path)
    if found is None:
        package = PACKAGES.get(name, name)
        raise MissingError(f"{name} is not here, and is needed to {why}: apt-get install {package}")
    return found


def static_busybox() -> Path:
    """The host's busybox. MissingError if there is none that runs without shared libraries."""
    path = Path(program("busybox", "fill the guest's file system"))
    if _interpreter(path.read_bytes()):
        raise MissingError(f"{path} wants shared libraries, and the guest has none: apt-get install busybox-static")
    return path


def _interpreter(elf: bytes) -> bool:
    """Whether a 64-bit little-endian ELF file asks for a dynamic loader (PT_INTERP)."""
    if elf[:6] != b"\x7fELF\x02\x01":
        return False
    start = int.from_bytes(elf[32:40], "little")
    size, number = int.from_bytes(elf[54:56], "little"), int.from_bytes(elf[56:58], "little")
    headers = (elf[start + i * size : start + i * size + 4] for i in range(number))
    return any(int.from_bytes(header, "little") == 3 for header in headers)


def run(
    argv: Sequence[str | os.PathLike[str]], what: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a program; what it printed to standard output. LabError with its last lines if it fails."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as e:
        raise LabError(f"{what}: {argv[0]}: {e.strerror}") from e
    if done.returncode:
        said = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        lines = "\n".join(f"  | {line}" for line in said[-SHOWN:])
        raise LabError(f"{what} failed ({os.path.basename(argv[0])} ended with {done.returncode})\n{lines}".rstrip())
    return done.stdout
