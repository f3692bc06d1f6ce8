"""What is compiled for the guest: the probe module, for each kernel with headers; the agent, once, static."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .apt import SAY, Apt
from .errors import LabError, MissingError
from .fetch import Fetched, swap, unpack
from .host import program, run
from .place import Place, read_json, write_json

PROBE = "mmlitmus_probe"
AGENT = "agent"
AGENT_FLAGS = ("-std=gnu11", "-O2", "-g0", "-Wall", "-static", "-pthread")
#: the packages of a tool chain root, besides the compiler: what kbuild runs, and the libraries of the headers' programs
TOOLCHAIN = (
    *("make", "libc6-dev", "libelf1t64", "libssl3t64", "zlib1g", "bash", "coreutils", "sed", "grep", "gawk"),
    *("findutils", "perl-base", "mawk", "dash"),
)


@dataclass(frozen=True)
class Sources:
    """A folder with ``mmlitmus_probe.c`` and ``agent.c``; what else is in it belongs to both, by its name."""

    folder: Path

    def _files(self, probe: bool) -> list[Path]:
        """C files of the one or the other, and every header: a name that begins with the module's is the module's."""
        if not self.folder.is_dir():
            raise LabError(f"the guest's sources are not here: {self.folder}")
        files = sorted(p for p in self.folder.iterdir() if p.suffix in (".c", ".h") or p.name == "Kbuild")
        return [p for p in files if p.suffix == ".h" or (p.name.startswith(PROBE) or p.name == "Kbuild") == probe]

    @property
    def probe(self) -> list[Path]:
        """The files of the probe module."""
        return self._files(True)

    @property
    def agent(self) -> list[Path]:
        """The files of the agent."""
        return self._files(False)

    @staticmethod
    def hash(files: Sequence[Path], *more: str) -> str:
        """What names a build: the sources' bytes and names, and whatever else went into it."""
        digest = hashlib.sha256("\0".join(more).encode())
        for path in files:
            digest.update(f"\0{path.name}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


#: the sources that come with the package
GUEST = Sources(Path(__file__).resolve().parent.parent / "guest")


def agent(place: Place, sources: Sources = GUEST) -> Path:
    """The agent, compiled if its sources changed. LabError with the compiler's words if that fails."""
    files = sources.agent
    if not any(path.name == f"{AGENT}.c" for path in files):
        raise LabError(f"the agent's source is not here: {sources.folder / AGENT}.c")
    done = place.agents / sources.hash(files) / AGENT
    if done.is_file():
        return done
    gcc = program("gcc", "compile the agent")
    if "/" not in run([gcc, "-print-file-name=libc.a"], "looking for the C library"):
        raise MissingError("libc.a is not here, and is needed to link the agent: apt-get install libc6-dev")
    done.parent.mkdir(parents=True, exist_ok=True)
    new = done.with_name(f"{AGENT}.{os.getpid()}")
    run([gcc, *AGENT_FLAGS, "-o", new, *(p for p in files if p.suffix == ".c")], "compiling the agent")
    new.replace(done)
    return done


def probe(place: Place, kernel: Fetched, say: SAY, sources: Sources = GUEST) -> Path | None:
    """The probe module for a kernel, compiled if its sources changed; None for a kernel without headers.

    LabError with the compiler's words if that fails.
    """
    if kernel.headers is None:
        return None
    done = _built(place, kernel, sources)
    if done.is_file():
        return done
    say(f"{kernel.name}: building the probe module for {kernel.release}")
    work = done.parent.with_name(f"{done.parent.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for path in sources.probe:
        shutil.copy(path, work)
    if not (work / "Kbuild").is_file():
        (work / "Kbuild").write_text(f"obj-m := {PROBE}.o\n")
    try:
        if _runs_here(kernel.headers):
            _make_here(kernel, work)
        else:
            _make_in_root(toolchain(place, kernel, say), kernel, work)
        module = work / f"{PROBE}.ko"
        if not module.is_file():
            raise LabError(f"{kernel.name}: kbuild made no {module.name}")
        done.parent.mkdir(parents=True, exist_ok=True)
        module.replace(done)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return done


def is_built(place: Place, kernel: Fetched, sources: Sources = GUEST) -> bool:
    """Whether the probe module of these sources is there."""
    try:
        return kernel.headers is not None and _built(place, kernel, sources).is_file()
    except LabError:
        return False


def _built(place: Place, kernel: Fetched, sources: Sources) -> Path:
    files = sources.probe
    if not any(path.name == f"{PROBE}.c" for path in files):
        raise LabError(f"the probe module's source is not here: {sources.folder / PROBE}.c")
    home = kernel.home or place.kernel("own")
    versions = [f"{name}={version}" for name, version in kernel.packages] or [str(kernel.headers), kernel.release]
    return home / "probe" / sources.hash(files, *versions) / f"{PROBE}.ko"


def _runs_here(headers: Path) -> bool:
    """Whether the headers' own programs run on this host: they want a C library as new as their own."""
    # some releases start them through a script that hides what they say; modpost.real-lsb-64 is the one it would start
    programs = [headers / "scripts/mod" / name for name in ("modpost.real-lsb-64", "modpost")]
    programs += [headers / "tools/objtool" / name for name in ("objtool.real-x86", "objtool")]
    for path in programs:
        if not path.is_file():
            continue
        try:
            done = subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        except OSError:
            return False
        if done.returncode == 127 or "GLIBC" in done.stderr or "shared libraries" in done.stderr:
            return False
    return True


def _start(headers: Path) -> list[str]:
    """make's options for headers that are not where they were packaged for: Debian's have absolute paths."""
    text = (headers / "Makefile").read_text()
    found = re.search(r"^include (\S+/([^/\s]+)/Makefile)\s*$", text, re.M)
    if found is None or Path(found.group(1)).is_file():
        return ["-C", str(headers)]  # a tree, or what was built from one with O=
    output = [f"KBUILD_OUTPUT={headers}"] if re.search(r"^KBUILD_OUTPUT\s*=", text, re.M) else []
    return ["-C", str(headers), "-f", str(headers.parent / found.group(2) / "Makefile"), *output]


def _goals() -> list[str]:
    # the module's type information wants pahole and the whole vmlinux, and nobody reads it
    return ["-s", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]


def _make_here(kernel: Fetched, work: Path) -> None:
    assert kernel.headers is not None
    make = program("make", "build the probe module")
    try:
        compiler = program(kernel.compiler, "build the probe module")
    except MissingError:
        compiler = program("gcc", "build the probe module")
    argv = [make, *_start(kernel.headers), f"M={work}", f"CC={compiler}", *_goals()]
    run(argv, f"{kernel.name}: building the probe module")


# -- another release's tool chain ------------------------------------------------------------------------------------
def toolchain(place: Place, kernel: Fetched, say: SAY) -> Path:
    """The root of the tool chain that builds modules for a kernel, fetched and unpacked if it is not there."""
    if kernel.root is None or not kernel.toolchain:
        raise LabError(
            f"{kernel.name}: the programs that came with its headers do not run here (they want a newer C library); "
            "build the module where the kernel was built"
        )
    root = place.tools / kernel.toolchain
    with place.alone("toolchain", say):
        if not _has_toolchain(place, kernel, root):
            _fetch_toolchain(place, kernel, root, say)
    return root


def _has_toolchain(place: Place, kernel: Fetched, root: Path) -> bool:
    facts = read_json(place.tools / f"{kernel.toolchain}.json")
    asked = [kernel.compiler, *TOOLCHAIN]
    return facts is not None and facts.get("asked") == asked and (root / "usr/bin" / kernel.compiler).exists()


def _fetch_toolchain(place: Place, kernel: Fetched, root: Path, say: SAY) -> None:
    wanted = [kernel.compiler, *TOOLCHAIN]
    say(f"{kernel.name}: its headers want a newer C library than this host's; fetching {kernel.toolchain}'s compiler")
    apt = Apt(place.apt(f"toolchain-{kernel.toolchain}"), [kernel.toolchain])
    apt.update()
    packages = apt.closure(wanted)
    debs = apt.download(packages, place.downloads(f"toolchain-{kernel.toolchain}"), say)
    say(f"unpacking {len(debs)} packages of {kernel.toolchain}")
    new = root.with_name(f"{root.name}.new")
    unpack(debs, new)
    _settle(new, kernel.compiler)
    swap(new, root, lambda: (place.tools / f"{kernel.toolchain}.json").unlink(missing_ok=True))
    write_json(
        place.tools / f"{kernel.toolchain}.json",
        {"asked": wanted, "packages": [[one.name, one.version] for one in packages]},
    )
    shutil.rmtree(place.downloads(f"toolchain-{kernel.toolchain}"), ignore_errors=True)


def _settle(root: Path, compiler: str) -> None:
    """What the packages' scripts would have done, as far as a compiler needs it: links, and places to mount on."""
    for name, target in (("sh", "dash"), ("awk", "gawk"), ("gcc", compiler)):
        link = root / "usr/bin" / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    for name in ("bin", "sbin", "lib", "lib64"):
        # base-files makes these links; packages may have brought folders of the same names instead
        if not (root / name).exists() and (root / "usr" / name).is_dir():
            (root / name).symlink_to(f"usr/{name}")
    for folder in ("proc", "dev", "tmp", "build", "usr/src"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "dev/null").touch()


def _make_in_root(root: Path, kernel: Fetched, work: Path) -> None:
    assert kernel.headers is not None and kernel.root is not None
    unshare = program("unshare", "enter the tool chain's root")
    binds = [
        (Path("/dev/null"), root / "dev/null"),
        (kernel.root / "usr/src", root / "usr/src"),
        (work, root / "build"),
    ]
    for kbuild in sorted((kernel.root / "usr/lib").glob("linux-kbuild-*")):
        target = root / "usr/lib" / kbuild.name
        target.mkdir(exist_ok=True)
        binds.append((kbuild, target))
    inside = ["/usr/bin/make", "-C", f"/usr/src/{kernel.headers.name}", "M=/build", f"CC={kernel.compiler}", *_goals()]
    script = [
        "set -e",
        *(f"mount --bind {shlex.quote(str(what))} {shlex.quote(str(where))}" for what, where in binds),
        f"mount -t proc proc {shlex.quote(str(root / 'proc'))}",  # objtool looks itself up there
        f"exec chroot {shlex.quote(str(root))} /usr/bin/env -i PATH=/usr/bin:/bin LC_ALL=C {shlex.join(inside)}",
    ]
    # the mounts are in a namespace of their own: they are gone when the last process is, however it ends
    spaces = ["--mount", "--pid", "--fork", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    run([unshare, *spaces, "sh", "-c", "\n".join(script)], f"{kernel.name}: building the probe module")
