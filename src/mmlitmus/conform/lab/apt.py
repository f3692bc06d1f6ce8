"""Debian packages through the system's own apt, in a state of the lab's: the machine's is read and never changed."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import stat
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LabError
from .host import program, run

#: the keys in a stanza of the archive's index that the lab reads
Stanza = dict[str, str]
SAY = Callable[[str], None]
SECURITY = "-security"
ARCHITECTURE = "amd64"
#: apt's own user, as which it downloads
SANDBOX = "_apt"
#: suites at the end of their life: nobody signs their indices afresh, so their age says nothing. An index of any other
#: that is older than it says it is good for is refused, for somebody may hold back what is newer.
ENDED = ("bullseye",)


def stanzas(text: str) -> list[Stanza]:
    """The stanzas of a deb822 text: their fields, a folded field on one line."""
    found: list[Stanza] = []
    for block in re.split(r"\n\s*\n", text):
        fields: Stanza = {}
        key = ""
        for line in block.splitlines():
            if line[:1].isspace():
                if key:
                    fields[key] += " " + line.strip()
            elif ":" in line:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        if fields:
            found.append(fields)
    return found


@dataclass(frozen=True)
class Mirror:
    """Where the system gets Debian from: the archive's URI and the security archive's, and the keyring asked for."""

    archive: str
    security: str
    keyring: str = ""

    def line(self, suite: str) -> str:
        """A line of sources.list for a suite."""
        options = f"arch={ARCHITECTURE}" + (f" signed-by={self.keyring}" if self.keyring else "")
        if suite.removesuffix(SECURITY) in ENDED:
            options += " check-valid-until=no"
        uri = self.security if suite.endswith(SECURITY) else self.archive
        return f"deb [{options}] {uri} {suite} main"


def mirror(targets: Iterable[Stanza]) -> Mirror:
    """The mirror that the system's own sources name (``apt-get indextargets``). LabError if they name no Debian."""
    archive = security = keyring = ""
    for target in targets:
        uri, suite = target.get("Repo-URI", ""), target.get("Release", "")
        if not uri or "main" not in target.get("Component", "main").split():
            continue
        origin = target.get("Origin")
        # before the first `apt-get update` apt does not know whose a source is; its path says so then
        path = urllib.parse.urlsplit(uri).path.strip("/").split("/")
        if origin not in (None, "", "Debian") or (not origin and not path[-1].startswith("debian")):
            continue
        if suite.endswith(SECURITY) or target.get("Label") == "Debian-Security":
            security = security or uri
        else:
            archive = archive or uri
        keyring = keyring or target.get("Signed-By", "")
    if not archive and not security:
        raise LabError(
            "the system's apt names no Debian archive, and the lab gets its kernels from one; "
            "`--kernel PATH` boots a kernel of your own"
        )
    # mirrors hold the two side by side
    archive = archive or re.sub(r"debian-security/?$", "debian", security)
    security = security or re.sub(r"debian/?$", "debian-security", archive)
    return Mirror(archive, security, keyring if keyring.startswith("/") else "")


@dataclass(frozen=True)
class Package:
    """A package of the archive, at one version."""

    name: str
    version: str
    architecture: str
    sha256: str
    depends: str
    size: int

    @property
    def file(self) -> str:
        """The name that apt-get gives the downloaded file."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def _order(version: str) -> tuple[Any, ...]:
    """What sorts as a version of Debian's does (deb-version(7)): epoch, upstream's version, Debian's revision."""
    epoch, _, rest = version.rpartition(":")
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch or 0), _part(upstream), _part(revision)


def _part(text: str) -> list[tuple[list[int], int]]:
    """Words and numbers by turns: `~` before the end of a word, letters before other signs."""
    found = re.findall(r"(\D*)(\d*)", text)
    return [
        ([-1 if c == "~" else ord(c) + (0 if c.isalpha() else 256) for c in word] + [0], int(n or 0))
        for word, n in found
    ]


def satisfies(version: str, relation: str, bound: str) -> bool:
    """Whether a version is as a dependency asks: ``<<``, ``<=``, ``=``, ``>=`` or ``>>`` the bound."""
    one, other = _order(version), _order(bound)
    if relation == "=":
        return one == other
    return (
        (one < other or (relation == "<=" and one == other))
        if "<" in relation
        else (one > other or (relation == ">=" and one == other))
    )


class Apt:
    """A private apt state in ``home`` that sees ``suites`` and believes that nothing is installed."""

    def __init__(self, home: Path, suites: Sequence[str]) -> None:
        self.home = home
        self.suites = tuple(suites)
        self._options: list[str] = []

    def options(self) -> list[str]:
        """The options that keep apt to the private state; those of the system's (a proxy, say) stay."""
        home = self.home
        return [
            f"-oDir::Etc::SourceList={home}/sources.list",
            "-oDir::Etc::SourceParts=/dev/null",
            "-oDir::Etc::Preferences=/dev/null",
            "-oDir::Etc::PreferencesParts=/dev/null",
            f"-oDir::State={home}/state",
            f"-oDir::State::Lists={home}/state/lists",
            f"-oDir::State::status={home}/status",
            f"-oDir::Cache={home}/cache",
            f"-oAPT::Architecture={ARCHITECTURE}",
            f"-oAPT::Architectures={ARCHITECTURE}",
            "-oAPT::Update::Post-Invoke-Success=",
            "-oAPT::Update::Post-Invoke=",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=2",
            *self._sandbox(),
            "-q",
        ]

    def _sandbox(self) -> list[str]:
        """Root's apt downloads as a user of its own, as it always does, where that one can come to the folder."""
        if os.geteuid() != 0:
            return []  # as who we are
        try:
            pwd.getpwnam(SANDBOX)
        except KeyError:
            return ["-oAPT::Sandbox::User=root"]
        above = [path for path in (self.home, *self.home.resolve().parents) if path.exists()]
        if all(path.stat().st_mode & stat.S_IXOTH for path in above):
            return [f"-oAPT::Sandbox::User={SANDBOX}"]
        return ["-oAPT::Sandbox::User=root"]  # below a folder of root's own, which nobody else may enter

    def update(self) -> None:
        """Read the archive's indices afresh. LabError with apt's words if that fails."""
        get = program("apt-get", "fetch kernels")
        found = mirror(stanzas(run([get, "indextargets", "Created-By: Packages"], "reading the system's apt sources")))
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        (self.home / "status").touch()
        (self.home / "sources.list").write_text("".join(found.line(suite) + "\n" for suite in self.suites))
        self._hand_over([self.home / "state/lists/partial", self.home / "cache/archives/partial"])
        run([get, *self.options(), "-oAPT::Update::Error-Mode=any", "update"], "reading the archive's indices")

    def _hand_over(self, folders: Sequence[Path]) -> None:
        """Give the folders that apt's own user writes to to it."""
        if f"-oAPT::Sandbox::User={SANDBOX}" in self._sandbox():
            for path in (path for folder in folders for path in (folder, *folder.iterdir())):
                os.chown(path, pwd.getpwnam(SANDBOX).pw_uid, -1, follow_symlinks=False)

    def names(self, prefix: str) -> list[str]:
        """The names of packages that begin so."""
        out = run([program("apt-cache", "fetch kernels"), *self.options(), "pkgnames", prefix], "reading the indices")
        return sorted(out.split())

    def show(self, name: str, version: str | None = None) -> Package:
        """A package: at ``version``, or the newest. LabError if the archive has none."""
        wanted = name if version is None else f"{name}={version}"
        cache = program("apt-cache", "fetch kernels")
        try:
            out = run([cache, *self.options(), "--no-all-versions", "show", wanted], f"looking up {wanted}")
        except LabError as e:
            raise LabError(f"the archive has no package {wanted} ({', '.join(self.suites)})") from e
        for one in stanzas(out):
            if one.get("Package") == name:
                return Package(
                    name,
                    one["Version"],
                    one["Architecture"],
                    one["SHA256"],
                    one.get("Depends", ""),
                    int(one.get("Size", "0")),
                )
        raise LabError(f"the archive has no package {wanted} ({', '.join(self.suites)})")

    def closure(self, names: Sequence[str]) -> list[Package]:
        """The packages, and all that they depend on, on a system that has none."""
        get = program("apt-get", "fetch a tool chain")
        argv = [get, *self.options(), "--simulate", "--yes", "--no-install-recommends", "install", *names]
        out = run(argv, "choosing the tool chain's packages")
        found = dict(re.findall(r"^Inst (\S+) \((\S+) ", out, re.M))
        return [self.show(name.partition(":")[0], version) for name, version in found.items()]

    def download(self, packages: Sequence[Package], into: Path, say: SAY) -> list[Path]:
        """Bring packages into a folder, carrying on with what is there in part; each file's hash is the archive's.

        LabError if a package cannot be had, or comes with another hash twice.
        """
        into.mkdir(parents=True, exist_ok=True)
        missing = [one for one in packages if not whole(into / one.file, one)]
        if missing:
            say(f"downloading {len(missing)} packages, {sum(one.size for one in missing) >> 20} MB")
            self._download(missing, into)
        # what is still wrong was so from the start (a full-sized file of other bytes), and cannot be carried on with
        wrong = [one for one in missing if not whole(into / one.file, one)]
        for one in wrong:
            say(f"{one.file} is damaged; downloading it again")
            (into / one.file).unlink(missing_ok=True)
        if wrong:
            self._download(wrong, into)
        for one in wrong:
            if not whole(into / one.file, one):
                raise LabError(f"{one.file} is damaged: its SHA-256 is not the archive's ({one.sha256}), twice over")
        return [into / one.file for one in packages]

    def _download(self, packages: Sequence[Package], into: Path) -> None:
        get = program("apt-get", "fetch kernels")
        wanted = [f"{one.name}={one.version}" for one in packages]
        names = " ".join(one.name for one in packages) if len(packages) < 4 else f"{len(packages)} packages"
        self._hand_over([into])
        run([get, *self.options(), "download", *wanted], f"downloading {names}", cwd=into)


def whole(path: Path, package: Package) -> bool:
    """Whether a downloaded file is the package, to the last byte."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == package.sha256
    except OSError:
        return False
