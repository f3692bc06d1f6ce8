"""The guest's file system: busybox, init, the probe module, the agent, the kernel's own modules that are asked for."""

from __future__ import annotations

import lzma
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import LabError
from .host import program, run, static_busybox

INIT = Path(__file__).with_name("init")
FOLDERS = ("bin", "dev", "lab", "lab/modules", "proc", "root", "sys", "tmp")
#: how a module's file may end
ENDINGS = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An archive in the format of Documentation/driver-api/early-userspace/buffer-format.rst ("newc").

    ``entries``: name, mode with the file's type, and content (of a symbolic link, its target).
    """
    out = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        out += bytes(-len(out) % 4)
        out += content
        out += bytes(-len(out) % 4)
    return bytes(out)


def closure(folder: Path, wanted: Iterable[str], optional: Iterable[str] = ()) -> list[tuple[str, bytes]]:
    """The modules of these names below a kernel's modules' folder, and those that they need, in the order to load them.

    A name that is built into the kernel is left out, and one of ``optional`` that is not there. LabError if one of
    ``wanted`` is neither there nor built in; where the folder does not say what is built in (its ``modules.builtin`` is
    in another package), what is not there is taken so.
    """
    paths: dict[str, Path] = {}
    for path in sorted((folder / "kernel").rglob("*.ko*")):
        if path.name.endswith(ENDINGS):
            paths[_name(path)] = path
    builtin = _builtin(folder)
    found: dict[str, bytes] = {}

    def add(name: str, user: str) -> None:
        name = name.replace("-", "_")
        if name in found or (builtin is not None and name in builtin):
            return
        if name not in paths:
            if builtin is None:
                return
            raise LabError(f"the kernel's modules have no {name}{user}; looked in {folder}")
        content = _content(paths[name])
        for needed in needs(content):
            add(needed, f", which {name} needs")
        found[name] = content

    for name in wanted:
        add(name, "")
    for name in optional:
        if name in paths:
            add(name, "")
    return list(found.items())


def needs(module: bytes) -> list[str]:
    """The modules that a module names as those it depends on (``depends=`` in its .modinfo section)."""
    match = re.search(rb"\0depends=([\w,-]+)\0", module)
    return match.group(1).decode().split(",") if match else []


def _name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _builtin(folder: Path) -> set[str] | None:
    try:
        lines = (folder / "modules.builtin").read_text().splitlines()
    except OSError:
        return None
    return {_name(Path(line)) for line in lines}


def _content(path: Path) -> bytes:
    try:
        if path.suffix == ".xz":
            return lzma.decompress(path.read_bytes())
        if path.suffix == ".gz":
            import gzip

            return gzip.decompress(path.read_bytes())
        if path.suffix == ".zst":
            unpacked = path.with_suffix("")
            if not unpacked.is_file():
                run(
                    [program("zstd", "unpack the kernel's modules"), "-dqf", path, "-o", unpacked], "unpacking a module"
                )
            return unpacked.read_bytes()
        return path.read_bytes()
    except (OSError, EOFError, lzma.LZMAError) as e:
        raise LabError(f"{path} is damaged ({e}); `mmlitmus lab clean`, and fetch the kernel again") from e


def initramfs(files: Mapping[str, Path], modules: Iterable[tuple[str, bytes]]) -> bytes:
    """The archive that the guest boots to. ``files``: what to put below /lab, by name."""
    busybox = static_busybox()
    applets = run([busybox, "--list"], "asking busybox what it does").split()
    entries = [(folder, stat.S_IFDIR | 0o755, b"") for folder in FOLDERS]
    entries.append(("init", stat.S_IFREG | 0o755, INIT.read_bytes()))
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()))
    entries += [(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox") for name in sorted(applets) if name != "busybox"]
    entries += [(f"lab/{name}", stat.S_IFREG | 0o755, path.read_bytes()) for name, path in sorted(files.items())]
    for number, (name, content) in enumerate(modules):
        entries.append((f"lab/modules/{number:03d}-{name}.ko", stat.S_IFREG | 0o644, content))
    return cpio(entries)
