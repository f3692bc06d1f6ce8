#!/usr/bin/env python3
"""An index of kernel sources: which file has which functions, macros, types, constants and variables, by name.

    python tools/source_index.py 6.12 7.3        from Debian's linux-source packages, fetched as the lab fetches kernels
    python tools/source_index.py --deb FILE      from such a package that is there already
    python tools/source_index.py --list 6.12 mm/mremap.c

One file a kernel, in tests/data/source-index. The tests hold the sources that the model names to it
(tests/drift), so that they need no kernel tree. Needs universal-ctags (Debian's package of that name) and dpkg-deb;
nothing is installed, and the package is read as a stream. The same package and the same ctags give the same bytes.

The index is text, compressed with xz: a line ``package NAME VERSION``, a line ``parser NAME VERSION``, then for each
file a line ``file PATH`` and one line a kind with the names in order, the kind's letter first.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "tests" / "data" / "source-index"
FIRST_LINE = "mmlitmus source index 1"

#: what of a tree is indexed: files, folders (``/``: with all that is below them; ``/*``: with what is in them)
PARTS = (
    "mm/", "arch/x86/mm/", "arch/x86/include/asm/*", "arch/x86/include/asm/e820/", "arch/x86/kernel/cpu/mtrr/",
    "arch/x86/kernel/e820.c", "drivers/vfio/", "drivers/misc/cxl/", "drivers/char/mem.c", "drivers/pci/*",
    "drivers/gpu/drm/ttm/", "drivers/dma-buf/", "drivers/iommu/iommufd/", "include/linux/*", "include/linux/sched/",
    "include/asm-generic/*", "include/uapi/asm-generic/mman.h", "include/uapi/asm-generic/mman-common.h",
    "include/uapi/linux/mman.h", "include/uapi/linux/vfio.h", "include/uapi/linux/iommufd.h",
    "include/uapi/linux/udmabuf.h", "include/uapi/linux/dma-buf.h", "include/uapi/linux/dma-heap.h",
    "include/uapi/linux/userfaultfd.h", "include/uapi/linux/kvm.h", "include/uapi/linux/pci_regs.h", "kernel/fork.c",
    "kernel/exit.c", "kernel/resource.c", "kernel/locking/", "kernel/rcu/", "fs/proc/", "fs/anon_inodes.c",
    "virt/kvm/", "lib/interval_tree.c", "lib/iomap.c", "lib/pci_iomap.c", "lib/test_hmm.c", "lib/test_hmm_uapi.h",
)  # fmt: skip
#: large headers of subjects that no rule of the model can have to do with
LEFT_OUT = (
    "include/linux/pci_ids.h", "include/linux/ieee80211", "include/linux/nvme", "include/linux/ata",
    "include/linux/rtsx_", "include/linux/nfs", "include/linux/netdev", "include/linux/bpf", "include/linux/libata",
    "include/linux/skbuff", "include/linux/mlx", "include/linux/sunrpc", "include/linux/hid", "include/linux/phy",
    "include/linux/ethtool", "include/linux/ti_wilink", "include/linux/intel_rapl", "include/linux/filter.h",
    "include/linux/rndis", "include/linux/brcmphy", "include/linux/security", "arch/x86/include/asm/uv/",
    "arch/x86/include/asm/msr-index.h", "arch/x86/include/asm/inat",
)  # fmt: skip
FOLDERS = tuple(part for part in PARTS if part.endswith("/"))
#: ctags' kinds as the index has them: functions, macros, types (struct, union, enum, typedef), enumerators, variables
KINDS = {"function": "f", "macro": "m", "struct": "t", "union": "t", "enum": "t", "typedef": "t", "enumerator": "e",
         "variable": "v"}  # fmt: skip


class SourceIndexError(Exception):
    """The index cannot be made or read; the message says why."""


@dataclass
class Index:
    """A kernel's names. ``files``: by path, the names by kind's letter."""

    package: str
    version: str
    parser: str
    files: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def has(self, path: str, name: str, kinds: str = "fmtev") -> bool:
        """Is there such a name in the file?"""
        of = self.files.get(path, {})
        return any(name in of.get(kind, ()) for kind in kinds)

    def text(self) -> str:
        """The index as it is kept."""
        lines = [FIRST_LINE, f"package {self.package} {self.version}", f"parser {self.parser}"]
        for path in sorted(self.files):
            lines.append(f"file {path}")
            lines += [f"{kind} {' '.join(sorted(set(names)))}" for kind, names in sorted(self.files[path].items())]
        return "\n".join(lines) + "\n"


def parse(text: str) -> Index:
    """The index in a text. SourceIndexError if it is none."""
    lines = text.splitlines()
    if len(lines) < 3 or lines[0] != FIRST_LINE or not lines[1].startswith("package "):
        raise SourceIndexError("this is no index of kernel sources, or one of another format")
    _, package, version = lines[1].split(" ", 2)
    index = Index(package, version, lines[2].partition(" ")[2])
    for line in lines[3:]:
        word, _, rest = line.partition(" ")
        if word == "file":
            at = index.files[rest] = {}
        else:
            at[word] = rest.split(" ")
    return index


def read(path: Path) -> Index:
    """The index in a file. SourceIndexError if there is none, or it is damaged."""
    try:
        return parse(lzma.decompress(path.read_bytes()).decode())
    except (OSError, lzma.LZMAError, ValueError) as e:
        raise SourceIndexError(f"{path}: {e}") from e


def write(index: Index, folder: Path) -> Path:
    """Write the index where it belongs; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{index.package}.txt.xz"
    path.write_bytes(lzma.compress(index.text().encode(), preset=9 | lzma.PRESET_EXTREME))
    return path


# -- ctags -----------------------------------------------------------------------------------------------------------
def ctags() -> str:
    """The program. SourceIndexError without it."""
    found = shutil.which("ctags")
    if found is None or "Universal Ctags" not in _run([found, "--version"]):
        raise SourceIndexError("ctags is not there, or not the universal one: install the package universal-ctags")
    return found


def parser_version() -> str:
    """What the index says of its parser."""
    return "universal-ctags " + _run([ctags(), "--version"]).split(",")[0].split()[-1]


def tags(tree: Path, paths: Iterable[str]) -> Iterator[Mapping[str, str]]:
    """What ctags finds in the files, a tag at a time, all of them read as C."""
    argv = [
        ctags(), "--options=NONE", "--language-force=C", "--kinds-C=dfsuegtv", "--fields=NFzS", "--sort=no",
        "--output-format=json", "-f", "-", "-L", "-",
    ]  # fmt: skip
    out = _run(argv, cwd=tree, text="".join(path + "\n" for path in sorted(paths)))
    for line in out.splitlines():
        tag = json.loads(line)
        if tag.get("_type") == "tag":
            yield tag


def index_tree(tree: Path, package: str, version: str) -> Index:
    """The index of the files below a folder that ``wanted`` names. SourceIndexError if there are none."""
    paths = [str(p.relative_to(tree)) for p in sorted(tree.rglob("*.[ch]")) if p.is_file()]
    paths = [path for path in paths if wanted(path)]
    if not paths:
        raise SourceIndexError(f"{tree} has no kernel source in it")
    found: dict[str, dict[str, set[str]]] = {path: {} for path in paths}
    for tag in tags(tree, paths):
        kind, name = KINDS.get(tag.get("kind", "")), tag["name"]
        if kind is None or name.startswith("__anon"):
            continue
        if name.startswith(("SYSCALL_DEFINE", "COMPAT_SYSCALL_DEFINE")) and kind == "f":
            # SYSCALL_DEFINE5(mremap, ...) is where sys_mremap is
            name = "sys_" + tag.get("signature", "").strip("()").split(",")[0].strip()
        found[tag["path"]].setdefault(kind, set()).add(name)
    files = {path: {kind: sorted(names) for kind, names in kinds.items()} for path, kinds in found.items()}
    return Index(package, version, parser_version(), files)


def wanted(path: str) -> bool:
    """Is this file of a kernel tree indexed?"""
    folder = path.rpartition("/")[0] + "/"
    inside = path in PARTS or f"{folder}*" in PARTS or path.startswith(FOLDERS)
    return inside and path.endswith((".c", ".h")) and not path.startswith(LEFT_OUT)


# -- packages ---------------------------------------------------------------------------------------------------------
def index_deb(deb: Path) -> Index:
    """The index of a linux-source package. SourceIndexError if it is another package, or damaged."""
    package, version = (_run(["dpkg-deb", "--field", str(deb), key]).strip() for key in ("Package", "Version"))
    if not package.startswith("linux-source-"):
        raise SourceIndexError(f"{deb.name} is {package}, and no linux-source package")
    with tempfile.TemporaryDirectory(prefix="source-index-") as name:
        tree = Path(name)
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as dpkg:
            assert dpkg.stdout is not None
            try:
                unpack(dpkg.stdout, package, tree)
            except (tarfile.TarError, lzma.LZMAError, EOFError) as e:
                raise SourceIndexError(f"{deb.name} is damaged: {e}") from e
            finally:
                dpkg.stdout.read()
        if dpkg.returncode:
            raise SourceIndexError(f"{deb.name} is damaged")
        return index_tree(tree, package, version)


def unpack(stream: IO[bytes], package: str, into: Path) -> None:
    """Write the files that are indexed into a folder, from a package's tar with the kernel's tar.xz in it."""
    with tarfile.open(fileobj=stream, mode="r|") as outer:
        for member in outer:
            if not member.name.endswith(f"/{package}.tar.xz"):
                continue
            inner = outer.extractfile(member)
            assert inner is not None
            with tarfile.open(fileobj=inner, mode="r|xz") as tree:
                for file in tree:
                    path = file.name.partition("/")[2]
                    content = tree.extractfile(file) if file.isreg() and wanted(path) else None
                    if content is not None:
                        (into / path).parent.mkdir(parents=True, exist_ok=True)
                        (into / path).write_bytes(content.read())


def fetch(series: Sequence[str], home: Path) -> list[Path]:
    """The newest linux-source packages of these series, in the suites that the lab has their kernels from."""
    sys.path.insert(0, str(ROOT / "src"))
    from mmlitmus.conform.lab.apt import Apt
    from mmlitmus.conform.lab.catalogue import known
    from mmlitmus.conform.lab.errors import LabError

    try:
        apt = Apt(home / "apt", sorted({suite for name in series for suite in known(name).suites}))
        apt.update()
        packages = [apt.show(f"linux-source-{name}") for name in series]
        return apt.download(packages, home / "downloads", lambda text: print(text, file=sys.stderr))
    except LabError as e:
        raise SourceIndexError(str(e)) from e


def _run(argv: list[str], cwd: Path | None = None, text: str | None = None) -> str:
    try:
        done = subprocess.run(argv, cwd=cwd, input=text, capture_output=True, text=True, check=False)
    except OSError as e:
        raise SourceIndexError(f"{argv[0]}: {e.strerror}") from e
    if done.returncode:
        raise SourceIndexError(f"{Path(argv[0]).name}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status: 0, or 2 for what cannot be done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("series", nargs="*", help="6.12: fetch linux-source-6.12 and index it")
    parser.add_argument("--deb", type=Path, action="append", default=[], help="a package that is there already")
    parser.add_argument("--out", type=Path, default=PLACE, help="where the indices are")
    parser.add_argument("--cache", type=Path, help="where packages are kept (default: nowhere)")
    parser.add_argument("--list", nargs=2, metavar=("SERIES", "FILE"), help="print what an index has of a file")
    asked = parser.parse_args(argv)
    try:
        if asked.list:
            index = read(asked.out / f"linux-source-{asked.list[0]}.txt.xz")
            for kind, names in sorted(index.files.get(asked.list[1], {}).items()):
                print(kind, *names)
            return 0
        if not asked.series and not asked.deb:
            parser.error("name a series (6.12) or a package (--deb FILE)")
        with tempfile.TemporaryDirectory(prefix="source-index-") as name:
            debs = list(asked.deb)
            if asked.series:
                debs += fetch(asked.series, (asked.cache or Path(name)).absolute())
            for deb in debs:
                index = index_deb(deb)
                path = write(index, asked.out)
                names = sum(len(names) for kinds in index.files.values() for names in kinds.values())
                print(f"{path}: {index.version}, {len(index.files)} files, {names} names, {path.stat().st_size} bytes")
    except SourceIndexError as e:
        print(f"source_index: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
