"""Kernels into the cache: which packages, downloaded, unpacked, never installed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .apt import SAY, Apt, Package, satisfies
from .catalogue import Known
from .errors import LabError
from .host import program, run
from .place import Place, read_json, write_json


@dataclass(frozen=True)
class Fetched:
    """A kernel that can be booted.

    ``image``: the bzImage; ``modules``: its modules' folder (None: it needs none); ``headers``: what its probe module
    is built against (None: no probe); ``packages``: name and version of what it came in.
    """

    name: str
    release: str
    image: Path
    modules: Path | None
    headers: Path | None
    packages: tuple[tuple[str, str], ...] = ()
    compiler: str = ""
    toolchain: str = ""
    root: Path | None = None
    home: Path | None = None


def fetched(place: Place, known: Known) -> Fetched | None:
    """The kernel as it is in the cache; None if it is not, or not whole."""
    home = place.kernel(known.name)
    facts = read_json(home / "kernel.json")
    if facts is None:
        return None
    try:
        release, packages = str(facts["release"]), tuple((str(n), str(v)) for n, v in facts["packages"])
    except (KeyError, TypeError, ValueError):
        return None
    root = home / "root"
    image = _image(root, release)
    modules = next(
        (m for m in (root / "usr/lib/modules" / release, root / "lib/modules" / release) if m.is_dir()), None
    )
    if image is None or modules is None:
        return None
    headers = root / "usr/src" / f"linux-headers-{release}"
    return Fetched(
        known.name,
        release,
        image,
        modules,
        headers if headers.is_dir() else None,
        packages,
        known.compiler,
        known.toolchain,
        root,
        home,
    )


def _image(root: Path, release: str) -> Path | None:
    boot, lib = root / "boot", root / "usr/lib/modules" / release
    tries = (boot / f"vmlinuz-{release}", lib / "vmlinuz", lib / "vmlinuz.unsigned")
    return next((path for path in tries if path.is_file()), None)


def archive(place: Place, kernels: Sequence[Known], say: SAY) -> Apt:
    """The state of apt that sees these kernels' suites, its indices just read."""
    suites = sorted({suite for one in kernels for suite in one.suites})
    apt = Apt(place.apt("kernels"), suites)
    say(f"reading the indices of {', '.join(suites)}")
    apt.update()
    return apt


def choose(apt: Apt, known: Known) -> tuple[str, list[Package]]:
    """The build to fetch, and its packages, which fit each other. LabError if the archive has none of the series.

    An archive drops and renews packages one by one: of the builds that are there the first whose packages are whole
    is taken, and if no build's headers are, the first without them.
    """
    prefix = known.images[0].split("{abi}")[0] + known.name
    builds = known.builds(sorted({*apt.names(prefix), *apt.names("linux-")}))
    bare: tuple[str, list[Package]] | None = None
    wrong: LabError | None = None
    for abi in builds:
        try:
            first = apt.show(known.images[0].format(abi=abi))
            packages = [first, *(apt.show(image.format(abi=abi), first.version) for image in known.images[1:])]
        except LabError as e:
            wrong = wrong or e
            continue
        if not known.headers:
            return abi, packages
        bare = bare or (abi, packages)
        try:
            return abi, packages + _headers(apt, abi, first.version)
        except LabError as e:
            wrong = wrong or e
    if bare is None:
        raise wrong or LabError(f"the archive no longer has a kernel {known.name} ({', '.join(known.suites)})")
    return bare


def _headers(apt: Apt, abi: str, version: str) -> list[Package]:
    """A build's headers, and what of the kernel's they depend on. LabError if the archive has not all of it.

    What several builds share is in the archive at its newest version only; the dependency says whether that will do.
    """
    headers = apt.show(f"linux-headers-{abi}", version)
    wanted = re.findall(r"(linux-(?:headers|kbuild)-[^\s,|(]+)(?:\s*\(\s*([<>=]+)\s*([^\s)]+)\s*\))?", headers.depends)
    found = [headers]
    for name, relation, bound in dict.fromkeys(wanted):
        try:
            one = apt.show(name, bound if relation == "=" else version)
        except LabError:
            if relation == "=":
                raise
            one = apt.show(name)
        if relation and not satisfies(one.version, relation, bound):
            raise LabError(f"linux-headers-{abi} wants {name} ({relation} {bound}), and the archive has {one.version}")
        found.append(one)
    return found


def fetch(place: Place, apt: Apt, known: Known, say: SAY) -> Fetched:
    """Download and unpack a kernel. What is in the cache already stays until the new one is whole."""
    abi, packages = choose(apt, known)
    if abi != known.tried:
        say(f"{known.name}: {known.tried} is no longer in the archive, or not all of it; taking {abi}")
    if known.headers and not any(one.name == f"linux-headers-{abi}" for one in packages):
        say(f"{known.name}: the archive has not all of its headers: there will be no probe module")
    versions = [[one.name, one.version] for one in packages]
    have = fetched(place, known)
    if have is not None and [list(pair) for pair in have.packages] == versions:
        return have
    debs = apt.download(packages, place.downloads(known.name), lambda text: say(f"{known.name}: {text}"))
    say(f"{known.name}: unpacking {abi}")
    home = place.kernel(known.name)
    new = home / "root.new"
    unpack(debs, new)
    swap(new, home / "root", lambda: (home / "kernel.json").unlink(missing_ok=True))
    write_json(home / "kernel.json", {"release": abi, "packages": versions})
    shutil.rmtree(place.downloads(known.name), ignore_errors=True)
    done = fetched(place, known)
    if done is None:
        raise LabError(
            f"{known.name}: the packages have no kernel where one is expected: {', '.join(n for n, _ in versions)}"
        )
    return done


def unpack(debs: Sequence[Path], into: Path) -> None:
    """Unpack packages into an empty folder; their scripts are not run."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    dpkg = program("dpkg-deb", "unpack packages")
    for deb in debs:
        run([dpkg, "--extract", deb, into], f"unpacking {deb.name}")


def swap(new: Path, old: Path, before: Callable[[], object]) -> None:
    """Put a whole folder in the place of another."""
    before()
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)


def own(image: Path, modules: Path | None) -> Fetched:
    """A kernel of the user's own, as a file. LabError if it is none.

    ``modules``: the folder that ``make modules_install INSTALL_MOD_PATH=...`` wrote, its ``lib/modules``, or the one
    of the release itself; a ``build`` link in it leads to the tree that the probe module is built against.
    """
    release = bzimage_release(image)
    if modules is None:
        return Fetched(str(image), release, image, None, None)
    tries = [modules, modules / release, modules / "lib/modules" / release, modules / "usr/lib/modules" / release]
    folder = next((t for t in tries if (t / "kernel").is_dir() or (t / "modules.builtin").is_file()), None)
    if folder is None:
        raise LabError(f"{modules} has no modules of {release} (looked for lib/modules/{release} in it)")
    build = (folder / "build").resolve()
    headers = build if (build / "Makefile").is_file() else None
    return Fetched(str(image), release, image, folder, headers, compiler="gcc")


def bzimage_release(image: Path) -> str:
    """What ``uname -r`` will say, from the header of a bzImage (Documentation/arch/x86/boot.rst, kernel_version).

    LabError if the file is not a bzImage, or not all of one.
    """
    try:
        if image.exists() and not image.is_file():
            raise LabError(f"{image}: no regular file")
        with image.open("rb") as file:
            head = file.read(0x8000)
            size = file.seek(0, 2)
    except OSError as e:
        raise LabError(f"{image}: {e.strerror}") from e
    if head[0x202:0x206] != b"HdrS":
        raise LabError(f"{image} is not a bzImage (no boot header); `make bzImage` writes arch/x86/boot/bzImage")
    # setup_sects, and syssize in units of 16 bytes
    whole = ((head[0x1F1] or 4) + 1) * 512 + int.from_bytes(head[0x1F4:0x1F8], "little") * 16
    if size < whole:
        raise LabError(f"{image} is cut short: {size} bytes of {whole}")
    at = int.from_bytes(head[0x20E:0x210], "little") + 0x200
    return head[at : at + 200].split(b"\0")[0].decode("utf-8", "replace").split(" ")[0] if at > 0x200 else "unknown"
