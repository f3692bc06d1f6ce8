"""Programs on a real kernel: boot once, keep the machine's state, and start every program from it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import pciconfig
from .apt import SAY
from .errors import BootError, LabError
from .guest import Guest, ended_by
from .machine import Machine

#: seconds that a boot may take: emulation on a busy host is slow
BOOT = 120.0
#: seconds that saving may take
SAVE = 60.0
#: how many of the console's lines a message shows
SHOWN = 20
#: memory that QEMU writes to a file of this process's is not part of what is saved
RAM_APART = [{"capability": "x-ignore-shared", "state": True}]
OOPS = re.compile(r"\bBUG: |\bOops\b|general protection fault|kernel BUG at|divide error:|invalid opcode:|stack guard")
PANIC = re.compile(r"Kernel panic - not syncing: (.*?)(?: \]---)?$", re.M)


@dataclass(frozen=True)
class Outcome:
    """What became of a program on a kernel.

    ``kind``: ``ended`` (the agent said all it had to say), ``oops`` (the kernel did, and stopped), ``panic`` (it
    stopped for another reason), ``hang`` (no end in the time it had), ``died`` (the agent or QEMU ended).
    ``lines``: the agent's lines, JSON objects, up to there. ``console``: what the kernel printed meanwhile.
    ``why``: one line on what ended it; empty where it ended as it should. ``seconds``: of the host's.
    """

    kind: str
    lines: tuple[str, ...]
    console: tuple[str, ...] = ()
    why: str = ""
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether the program ran to its end."""
        return self.kind == "ended"

    def objects(self) -> list[dict[str, Any]]:
        """The agent's lines, decoded. LabError if one is not a JSON object."""
        return [_decoded(line) for line in self.lines]


@dataclass(frozen=True)
class Booted:
    """What a boot said. ``ready``: the agent's first line; ``seconds``: from QEMU's start to it; ``console``."""

    ready: dict[str, Any]
    seconds: float
    console: tuple[str, ...]


@dataclass(frozen=True)
class Setup:
    """What to boot: a machine, a kernel's image, the guest's file system, the disk's image, a folder for QEMU's own."""

    machine: Machine
    image: Path
    initrd: Path
    disk: Path
    scratch: Path
    name: str = ""

    def kernel(self, shell: bool = False) -> list[str]:
        """The options that name the kernel."""
        words = self.machine.command_line(shell)
        return ["-kernel", str(self.image), "-initrd", str(self.initrd), "-append", words]

    @property
    def env(self) -> dict[str, str]:
        """QEMU's environment: its temporary files go where the lab's are."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        return {"TMPDIR": str(self.scratch)}


class Memory:
    """A guest's RAM as a file that nobody else sees; it is gone with this process."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("mmlitmus-lab")

    @property
    def path(self) -> str:
        """What QEMU opens, given that it inherits the descriptor."""
        return f"/proc/self/fd/{self.fd}"

    def close(self) -> None:
        """Give the memory back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def quiet(text: str) -> None:
    """Say nothing."""


def boot(setup: Setup, memory: Memory, seconds: float = BOOT, say: SAY = quiet) -> tuple[Guest, Booted]:
    """Boot to the agent's ``ready``, at the second try if need be. LabError with the console's last lines if it does
    not come.

    A kernel that patches its own code while it boots may trip over an emulator of two processors. What it comes to
    twice is the kernel's own.
    """
    try:
        return _boot(setup, memory, seconds)
    except BootError:
        say(f"{setup.name} did not boot; trying once more")
        return _boot(setup, memory, seconds)


def _boot(setup: Setup, memory: Memory, seconds: float) -> tuple[Guest, Booted]:
    argv = setup.machine.argv(memory.path, True, setup.disk, setup.kernel())
    guest = Guest(argv, [memory.fd], setup.env)
    with contextlib.ExitStack() as undo:
        undo.callback(guest.close)
        booted = _await_ready(setup, guest, seconds)
        undo.pop_all()
        return guest, booted


def _await_ready(setup: Setup, guest: Guest, seconds: float) -> Booted:
    deadline = time.monotonic() + seconds
    while True:
        running = guest.pump(deadline - time.monotonic())
        for line in guest.lines():
            found = _decoded(line)
            if "lab" in found:
                raise LabError(f"{setup.name}: {found['lab']}", guest.console()[-SHOWN:])
            if "ready" in found:
                ready = found["ready"]
                return Booted(ready if isinstance(ready, dict) else {}, guest.seconds, (*guest.console(),))
        if not running:
            said = guest.wait(2)
            if not guest.console():
                # QEMU refused its options, or the image
                said = said or "the machine was reset before the kernel said anything"
                raise LabError(f"{setup.name}: QEMU ended ({ended_by(guest)}): {said}")
            raise BootError(f"{setup.name} did not boot: {_last_words(guest)}", guest.console()[-SHOWN:])
        if time.monotonic() > deadline:
            silent = not guest.console()
            guest.where()
            what = f"{setup.name} did not boot in {seconds:g} s"
            if silent:
                what += " and printed nothing: the image is damaged, or has no console on a serial line"
            raise (LabError if silent else BootError)(what, guest.console()[-SHOWN:])


class Session:
    """A kernel, booted to the agent and saved there; every program starts from that state. Close it.

    Several threads may run programs at once. LabError on creation if the kernel does not boot.
    """

    def __init__(
        self, setup: Setup, identity: dict[str, str] | None = None, seconds: float = BOOT, say: SAY = quiet
    ) -> None:
        self.setup = setup
        #: what a recording's key holds: versions and hashes of everything that the answers depend on
        self.identity = dict(identity or {})
        self._memory = Memory()
        self._running: list[Running] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self._memory.close)
            guest, self.booted = boot(setup, self._memory, seconds, say)
            with guest:
                self._config = pciconfig.take(guest)
                self._talks = guest.talks
                self._state = _save(guest)
            undo.pop_all()

    @property
    def ready(self) -> dict[str, Any]:
        """The agent's ``ready``."""
        return self.booted.ready

    def close(self) -> None:
        """Give the saved state back."""
        self._memory.close()
        self._state = b""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, program: str, timeout: float = 20.0) -> Outcome:
        """Run a program on a fresh kernel. What the guest comes to is an outcome; LabError if QEMU does not run it.

        ``timeout``: seconds from the restored state to the program's end.
        """
        with self.start() as running:
            return running.run(program, timeout)

    def start(self) -> Running:
        """A fresh kernel, for programs one after the other. Close it. LabError if QEMU does not run it."""
        return Running(self._restore(), self._running)

    def abort(self) -> None:
        """End every guest that runs now, whichever thread waits for it: its program has died."""
        for running in [*self._running]:
            running.kill()

    def run_many(self, programs: Sequence[str], timeout: float = 20.0) -> list[Outcome]:
        """Run programs one after the other in one boot; after one that does not end, the rest starts afresh.

        A program then finds what those before it left behind; ``timeout`` is each one's.
        """
        done: list[Outcome] = []
        while len(done) < len(programs):
            with self.start() as running:
                for program in programs[len(done) :]:
                    outcome = running.run(program, timeout)
                    done.append(outcome)
                    if not outcome.ended:
                        break
        return done

    def _restore(self) -> Guest:
        if not self._state:
            raise LabError("the session is closed")
        reader, writer = os.pipe()
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, reader)
            # from here on the thread closes its end
            threading.Thread(target=_pour, args=(self._state, writer), daemon=True).start()
            argv = self.setup.machine.argv(self._memory.path, False, self.setup.disk, [*self.setup.kernel()])
            guest = Guest([*argv, "-incoming", "defer", "-S"], [self._memory.fd, reader], self.setup.env, self._talks)
        with contextlib.ExitStack() as undo:
            undo.callback(guest.close)
            guest.ask("migrate-set-capabilities", capabilities=RAM_APART)
            guest.ask("migrate-incoming", uri=f"fd:{reader}")
            # a serial line that is not yet restored would take the program's first byte and forget it
            while guest.ask("query-status")["status"] == "inmigrate":
                time.sleep(0.001)
            pciconfig.put(guest, self._config)
            guest.ask("cont")
            undo.pop_all()
        return guest


class Running:
    """A restored kernel. Its first program finds it fresh; a later one, with what those before it left behind."""

    def __init__(self, guest: Guest, among: list[Running]) -> None:
        self._guest = guest
        self._among = among
        among.append(self)

    def run(self, program: str, timeout: float = 20.0) -> Outcome:
        """Run a program. After one that does not end there is nothing to run another on.

        ``timeout``: seconds until it has to have ended.
        """
        return _converse(self._guest, program, timeout)

    def kill(self) -> None:
        """End QEMU, from any thread."""
        with contextlib.suppress(ProcessLookupError):
            self._guest.process.kill()

    def close(self) -> None:
        """End the guest."""
        if self in self._among:
            self._among.remove(self)
        self._guest.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _pour(state: bytes, writer: int) -> None:
    with contextlib.suppress(OSError), os.fdopen(writer, "wb", buffering=0) as pipe:
        left = memoryview(state)
        while left:
            left = left[pipe.write(left) :]


def _save(guest: Guest) -> bytes:
    """Take a guest's state, all but its RAM, which is in a file already; the guest is stopped then."""
    # it runs until QEMU itself stops it: a guest that was stopped before would be restored as one that is stopped
    reader, writer = os.pipe()
    parts: list[bytes] = []

    def drain() -> None:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while chunk := pipe.read(1 << 20):
                parts.append(chunk)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        guest.ask("getfd", [writer], fdname="state")
    finally:
        os.close(writer)
    guest.ask("migrate-set-capabilities", capabilities=RAM_APART)
    guest.ask("migrate-set-parameters", max_bandwidth=1 << 40)
    guest.ask("migrate", uri="fd:state")
    deadline = time.monotonic() + SAVE
    while (status := guest.ask("query-migrate").get("status")) not in ("completed", "failed", "cancelled"):
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if status != "completed":
        raise LabError(f"the guest's state cannot be saved: QEMU says {status!r}", guest.console()[-SHOWN:])
    guest.close()
    thread.join(SAVE)
    return b"".join(parts)


def _converse(guest: Guest, program: str, timeout: float) -> Outcome:
    """Send a program to a guest that is ready for one, and listen until it ended or cannot any more."""
    started = time.monotonic()
    deadline = started + timeout
    heard = len(guest.console())
    lines: list[str] = []

    def outcome(kind: str, why: str = "") -> Outcome:
        return Outcome(kind, (*lines,), (*guest.console()[heard:],), why, time.monotonic() - started)

    taken = guest.say(program if program.endswith("\n") else program + "\n", deadline)
    running = taken
    while True:
        for line in guest.lines():
            lines.append(line)
            found = _decoded(line, strict=False)
            if "lab" in found:
                return outcome("died", str(found["lab"]))
            if "end" in found:
                return outcome("ended")
        if not running or time.monotonic() > deadline:
            break
        running = guest.pump(deadline - time.monotonic())
    if running and guest.process.poll() is None:
        guest.where()
        return replace(outcome("hang", f"no end after {timeout:g} s"))
    said = guest.wait(2)
    words = _last_words(guest)
    text = "\n".join(guest.console()[heard:])
    if OOPS.search(text):
        return outcome("oops", words)
    if PANIC.search(text):
        return outcome("panic", words)
    return outcome("died", f"QEMU ended ({ended_by(guest)})" + (f": {said}" if said else ""))


def _last_words(guest: Guest) -> str:
    """The line of the console that says best why the kernel stopped."""
    lines = [re.sub(r"^\[[^]]*\]\s*", "", line) for line in guest.console()]
    for line in lines:
        if OOPS.search(line):
            return line
    for line in lines:
        if PANIC.search(line):
            return line
    return f"QEMU ended ({ended_by(guest)})"


def _decoded(line: str, strict: bool = True) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    if strict:
        raise LabError(f"the agent said what is not a JSON object: {line[:200]}")
    return {}
