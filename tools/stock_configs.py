#!/usr/bin/env python3
"""What Debian's builds are configured with: the symbols that the model knows, read from the kernels' own packages.

    python tools/stock_configs.py            read the packages that the lab has fetched, and write kernel/stock.py
    python tools/stock_configs.py --check    say what is different, and write nothing
    python tools/stock_configs.py --deb FILE ...     from such packages (linux-image-*, linux-headers-*, linux-config-*)

The lab is $MMLITMUS_LAB, or where `mmlitmus lab fetch` puts things. A build that is not there keeps its row. Which
symbols are read, src/mmlitmus/kernel/config.py says; which builds, the rows `deb-...` of kernel/eras.py do.
"""

from __future__ import annotations

import argparse
import lzma
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from mmlitmus.conform.lab import Place  # noqa: E402
from mmlitmus.conform.lab.catalogue import KERNELS  # noqa: E402
from mmlitmus.conform.lab.fetch import fetched  # noqa: E402
from mmlitmus.conform.lab.place import default  # noqa: E402
from mmlitmus.kernel.config import Build, symbols  # noqa: E402
from mmlitmus.kernel.eras import RELEASES  # noqa: E402

STOCK = ROOT / "src" / "mmlitmus" / "kernel" / "stock.py"
HEAD = '''"""What Debian's builds are configured with, as far as the model knows it. Written by tools/stock_configs.py.

Source: /boot/config-* of the package, or the .config of the build's headers.
"""

from mmlitmus.kernel.config import Build


def _build(package: str, version: str, config: str) -> Build:
    return Build(package, version, dict(word.split("=", 1) for word in config.split()))


BUILDS = {
'''
WIDTH = 100


class StockError(Exception):
    """A configuration that cannot be read. Its text is one line."""


def read_config(text: str) -> dict[str, str]:
    """The symbols of a .config that the model knows, and their values: one that is off is n."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set", line)
        if match:
            found[match[1] or match[3]] = match[2] if match[1] else "n"
    if not found:
        raise StockError("not a kernel's configuration")
    return {symbol: found[symbol] for symbol in symbols() if symbol in found}


def release_of(version: str) -> str | None:
    """The row of eras.py that a package's version is of: 6.12.117-1~deb12u1 is deb-6.12.117's."""
    name = f"deb-{version.partition('-')[0]}"
    return name if name in RELEASES else None


def from_lab(place: Place) -> Iterator[tuple[str, Build]]:
    """What the lab has fetched."""
    for known in KERNELS:
        kernel = fetched(place, known)
        if kernel is None or kernel.root is None:
            continue
        tries = [kernel.root / "boot" / f"config-{kernel.release}"]
        tries += [kernel.headers / ".config"] if kernel.headers is not None else []
        path = next((path for path in tries if path.is_file()), None)
        if path is None:
            continue
        wanted = "linux-headers-" if path.name == ".config" else "linux-image-"
        name, version = next(pair for pair in kernel.packages if pair[0].startswith(wanted))
        release = release_of(version)
        if release is not None:
            yield release, Build(name, version, read_config(path.read_text()))


def from_deb(deb: Path) -> tuple[str, Build]:
    """What one package has. StockError if it has no configuration, or is of no release that the model knows."""

    def field(name: str) -> str:
        return subprocess.run(
            ["dpkg-deb", "--field", deb, name], check=True, capture_output=True, text=True
        ).stdout.strip()

    package, version = field("Package"), field("Version")
    release = release_of(version)
    if release is None:
        raise StockError(f"{deb}: there is no row deb-{version.partition('-')[0]} in kernel/eras.py")
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as tar,
    ):
        for member in tar:
            name = member.name.rpartition("/")[2]
            if member.isfile() and re.fullmatch(r"\.config|config-[\w.+-]+|config\.amd64_none_amd64(\.xz)?", name):
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                process.kill()
                plain = lzma.decompress(data) if name.endswith(".xz") else data
                return release, Build(package, version, read_config(plain.decode()))
    raise StockError(f"{deb}: no configuration in it")


def text(builds: Mapping[str, Build]) -> str:
    """stock.py with these builds, in the order of eras.py."""
    lines = [HEAD]
    for name in (name for name in RELEASES if name in builds):
        build = builds[name]
        lines.append(f'    "{name}": _build(\n        "{build.package}",\n        "{build.version}",\n')
        row = ""
        for word in (f"{symbol}={value}" for symbol, value in sorted(build.config.items())):
            if len(row) + len(word) > WIDTH:
                lines.append(f'        "{row}"\n')
                row = ""
            row += f"{word} "
        lines.append(f'        "{row.rstrip()}",\n    ),\n')
    return "".join([*lines, "}\n"])


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's own words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 where something is different"
    )
    parser.add_argument("--deb", nargs="+", type=Path, help="read these packages, and not the lab's")
    options = parser.parse_args(argv)
    try:
        from mmlitmus.kernel.stock import BUILDS
    except ImportError:
        BUILDS = {}
    try:
        found = dict(map(from_deb, options.deb) if options.deb else from_lab(Place(default())))
    except (StockError, subprocess.CalledProcessError, OSError) as e:
        print(f"stock_configs: {e}", file=sys.stderr)
        return 2
    new = {**BUILDS, **found}
    for name, build in found.items():
        same = BUILDS.get(name) == build
        print(f"{name}: {build.package} {build.version}: {'as written down' if same else 'different'}")
    missing = [name for name in RELEASES if name.startswith("deb-") and name not in found]
    for name in missing:
        print(f"{name}: not read; {'as it was' if name in BUILDS else 'nothing is known of it'}")
    if options.check:
        return 1 if new != BUILDS else 0
    STOCK.write_text(text(new))
    return 0


if __name__ == "__main__":
    sys.exit(main())
