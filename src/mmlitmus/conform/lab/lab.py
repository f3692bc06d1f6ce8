"""The lab: kernels by name or by path, booted to an agent that runs programs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from . import build
from .catalogue import KERNELS, known
from .errors import LabError
from .fetch import Fetched, archive, fetch, fetched, own
from .host import program, run
from .initramfs import closure, initramfs
from .machine import MODULES, OPTIONAL, QEMU, Machine, disk
from .place import Place, default, write
from .session import BOOT, Booted, Memory, Session, Setup, boot, quiet


@dataclass(frozen=True)
class Row:
    """A kernel of the catalogue and how far it is: ``release`` once fetched; ``probe`` once built."""

    name: str
    tried: str
    headers: bool
    compiler: str
    release: str | None
    probe: bool


class Shell(NamedTuple):
    """A command that gives a shell in a guest, and what its environment has besides."""

    argv: list[str]
    env: dict[str, str]


@dataclass
class Lab:
    """The lab in its cache folder. ``say``: gets a line whenever something long begins; ``sources``: the guest's."""

    place: Place = field(default_factory=lambda: Place(default()))
    say: Callable[[str], None] = quiet
    sources: build.Sources = build.GUEST

    # -- kernels ------------------------------------------------------------------------------------------------------
    def rows(self) -> list[Row]:
        """The catalogue."""
        found = []
        for one in KERNELS:
            have = fetched(self.place, one)
            probe = have is not None and build.is_built(self.place, have, self.sources)
            release = have.release if have else None
            found.append(Row(one.name, one.tried, one.headers, one.compiler, release, probe))
        return found

    def fetch(self, names: Sequence[str]) -> list[Fetched]:
        """Bring kernels into the cache, and build the probe module and the agent. One that fails stops no other.

        LabError at the end, with each failure, if there was one.
        """
        wanted = [known(name) for name in names]
        program("dpkg-deb", "unpack packages")
        self.place.make()
        done: list[Fetched] = []
        wrong: list[LabError] = []
        with self.place.alone("fetch", self.say):
            apt = archive(self.place, wanted, self.say)
            for one in wanted:
                try:
                    done.append(fetch(self.place, apt, one, self.say))
                except LabError as e:
                    wrong.append(e)
        for kernel in done:
            try:
                build.probe(self.place, kernel, self.say, self.sources)
            except LabError as e:
                wrong.append(e)
        if wrong:
            raise wrong[0] if len(wrong) == 1 else LabError("\n".join(str(e) for e in wrong))
        build.agent(self.place, self.sources)
        return done

    def kernel(self, name: str | Path, modules: Path | None = None) -> Fetched:
        """A kernel by its name in the catalogue, or by the path of a bzImage. LabError if it is not there."""
        if isinstance(name, Path) or "/" in name:
            return own(Path(name).absolute(), modules.absolute() if modules is not None else None)
        have = fetched(self.place, known(name))
        if have is None:
            raise LabError(f"kernel {name} is not fetched: mmlitmus lab fetch {name}")
        return have

    # -- guests -------------------------------------------------------------------------------------------------------
    def setup(self, name: str | Path, machine: Machine | None = None, modules: Path | None = None) -> Setup:
        """Everything that a boot needs, built where it is missing."""
        machine = machine or Machine()
        program(QEMU, "run a kernel")
        kernel = self.kernel(name, modules)
        self.place.make()
        return self._setup(kernel, machine)[0]

    def _setup(self, kernel: Fetched, machine: Machine) -> tuple[Setup, dict[str, str]]:
        files = {"agent": build.agent(self.place, self.sources)}
        probe = build.probe(self.place, kernel, self.say, self.sources)
        if probe is not None:
            files[f"{build.PROBE}.ko"] = probe
        wanted = closure(kernel.modules, MODULES[machine.kind], OPTIONAL) if kernel.modules is not None else []
        content = initramfs(files, wanted)
        name = hashlib.sha256(content).hexdigest()[:16]
        initrd = self.place.root / "initramfs" / f"{name}.cpio"
        if not initrd.is_file():
            write(initrd, content)
        image = disk(self.place.root / "disk.img")
        setup = Setup(machine, kernel.image, initrd, image, self.place.root / "run", f"kernel {kernel.name}")
        identity = {
            "kernel": kernel.release,
            "packages": " ".join("=".join(pair) for pair in kernel.packages),
            "image": _sha256(kernel.image),
            "probe": _sha256(probe) if probe is not None else "",
            "agent": _sha256(files["agent"]),
            "machine": machine.kind,
            "memory_mb": str(machine.memory_mb),
            "command_line": machine.command_line(),
            "devices": hashlib.sha256(
                " ".join([*machine.devices(Path("disk")), *machine.options]).encode()
            ).hexdigest(),
            "cpu": "max",
            "qemu": qemu_version(),
        }
        config = _config(kernel)
        if config is not None:
            identity["config"] = _sha256(config)
        return setup, identity

    def boot(
        self, name: str | Path, machine: Machine | None = None, modules: Path | None = None, seconds: float = BOOT
    ) -> Booted:
        """Boot to the agent, and end the guest. LabError with the console's last lines if it does not boot."""
        memory = Memory()
        try:
            guest, booted = boot(self.setup(name, machine, modules), memory, seconds, self.say)
            guest.close()
            return booted
        finally:
            memory.close()

    def session(
        self, name: str | Path, machine: Machine | None = None, modules: Path | None = None, seconds: float = BOOT
    ) -> Session:
        """A kernel booted and saved, for programs. LabError with the console's last lines if it does not boot."""
        program(QEMU, "run a kernel")
        kernel = self.kernel(name, modules)
        self.place.make()
        return Session(*self._setup(kernel, machine or Machine()), seconds, self.say)

    @contextmanager
    def shell(self, name: str | Path, machine: Machine | None = None, modules: Path | None = None) -> Iterator[Shell]:
        """What to run for a shell in a guest, on the terminal that it is run from; good inside the ``with``."""
        setup = self.setup(name, machine, modules)
        memory = Memory()
        rest = [*setup.kernel(shell=True), "-serial", "mon:stdio", "-serial", "null"]
        try:
            path = f"/proc/{os.getpid()}/fd/{memory.fd}"
            yield Shell(setup.machine.argv(path, False, setup.disk, rest), setup.env)
        finally:
            memory.close()


def qemu_version() -> str:
    """QEMU's version, in its own words."""
    return run([program(QEMU, "run a kernel"), "--version"], "asking QEMU for its version").splitlines()[0]


def _config(kernel: Fetched) -> Path | None:
    folders = [kernel.image.parent, *([kernel.modules] if kernel.modules is not None else [])]
    if kernel.root is not None:
        folders.append(kernel.root / "boot")
    if kernel.headers is not None:
        folders.append(kernel.headers)
    tries = [folder / name for folder in folders for name in (f"config-{kernel.release}", "config", ".config")]
    return next((path for path in tries if path.is_file()), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
