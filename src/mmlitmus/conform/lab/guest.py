"""A running guest: a QEMU process, its console, its agent's line, its monitor."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import LabError

#: what every line of the agent's begins with
MARKER = "@mm "
CHUNK = 1 << 16
LINES = ("console", "agent", "port", "monitor", "qtest")
#: where the agent may talk: a virtio port, or the second serial line
TALKING = ("port", "agent")


class Guest:
    """A QEMU process with its serial lines, its virtio port and its monitor as sockets of this one. Close it.

    ``argv``: QEMU and its options, without these. ``fds``: descriptors that it inherits. ``talks``: where the agent is
    spoken to, until it is heard somewhere else.
    """

    def __init__(
        self,
        argv: Sequence[str],
        fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        talks: str = "agent",
    ) -> None:
        self.talks = talks
        self._selector = selectors.DefaultSelector()
        self._text: dict[str, bytearray] = {name: bytearray() for name in ("console", *TALKING)}
        self._taken = dict.fromkeys(TALKING, 0)  # bytes of the agent's that were given out as lines
        self._monitor_ready = False
        self._buffer = b""  # of the monitor's, what is not yet a whole line
        pairs = {name: socket.socketpair() for name in LINES}
        self._sockets = {name: ours for name, (ours, _) in pairs.items()}
        theirs = {name: socket_ for name, (_, socket_) in pairs.items()}
        self.started = time.monotonic()
        command = [*argv]
        for name in LINES:
            command += ["-chardev", f"socket,id={name},fd={theirs[name].fileno()}"]
        command += ["-serial", "chardev:console", "-serial", "chardev:agent"]
        command += ["-mon", "chardev=monitor,mode=control"]
        command += ["-qtest", "chardev:qtest", "-qtest-log", "none"]
        command = [*tied(), *command]
        with contextlib.ExitStack() as undo:
            undo.callback(self._hang_up)
            with contextlib.ExitStack() as handed_over:
                for one in theirs.values():
                    handed_over.callback(one.close)
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[*fds, *(s.fileno() for s in theirs.values())],
                    env={**os.environ, **(env or {})},
                    start_new_session=True,  # Ctrl-C is this process's to hear
                )
            undo.pop_all()
        for name in self._text:
            self._sockets[name].setblocking(False)
            self._selector.register(self._sockets[name], selectors.EVENT_READ, name)

    # -- life ---------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """End QEMU, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._hang_up()

    def _hang_up(self) -> None:
        self._selector.close()
        for one in self._sockets.values():
            one.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def seconds(self) -> float:
        """Since QEMU was started."""
        return time.monotonic() - self.started

    def wait(self, seconds: float) -> str:
        """Let QEMU end by itself, or end it; what QEMU itself said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        if self.process.poll() is None:
            self.process.kill()
        out = self.process.stdout.read() if self.process.stdout is not None else b""
        text: str = out.decode("utf-8", "replace")
        return text.strip()

    @property
    def killed(self) -> bool:
        """Whether a signal ended QEMU."""
        code = self.process.poll()
        return code is not None and code < 0

    # -- the serial lines ---------------------------------------------------------------------------------------------
    def pump(self, seconds: float) -> bool:
        """Read what the guest says, waiting for at most so long; False once all lines are at their end."""
        if not self._selector.get_map():
            return False
        for key, _ in self._selector.select(max(seconds, 0)):
            try:
                data = key.fileobj.recv(CHUNK)  # type: ignore[union-attr]
            except BlockingIOError:
                continue
            except ConnectionError:
                data = b""
            if data:
                self._text[key.data] += data
            else:
                self._selector.unregister(key.fileobj)
        return bool(self._selector.get_map())

    def lines(self) -> list[str]:
        """The agent's whole lines since the last call, without their marker; other text there is dropped."""
        found: list[str] = []
        for name in TALKING:
            text = self._text[name]
            end = text.rfind(b"\n") + 1
            if end <= self._taken[name]:
                continue
            new = text[self._taken[name] : end].decode("utf-8", "replace").replace("\r", "")
            self._taken[name] = end
            lines = [line.removeprefix(MARKER) for line in new.split("\n") if line.startswith(MARKER)]
            if lines:
                self.talks = name
            found += lines
        return found

    def console(self) -> list[str]:
        """The console's lines up to now."""
        text = self._text["console"].decode("utf-8", "replace").replace("\r", "")
        return [line for line in text.split("\n") if line.strip()]

    def say(self, text: str, deadline: float) -> bool:
        """Send text to the agent; False if the guest does not take it before ``deadline`` (of time.monotonic)."""
        data = memoryview(text.encode())
        line = self._sockets[self.talks]
        while data:
            try:
                data = data[line.send(data) :]
            except BlockingIOError:
                if time.monotonic() > deadline or not self.pump(0.02):
                    return False
            except OSError:
                return False
        return True

    # -- the monitor --------------------------------------------------------------------------------------------------
    def ask(self, command: str, fds: Sequence[int] = (), **arguments: Any) -> Any:
        """Give QEMU's monitor a command (QMP), with descriptors; what it returned. LabError if it will not."""
        monitor = self._sockets["monitor"]
        if not self._monitor_ready:
            monitor.settimeout(20)
            self._answer()
            self._monitor_ready = True
            self.ask("qmp_capabilities")
        what: dict[str, Any] = {"execute": command}
        if arguments:
            what["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            text = json.dumps(what).encode() + b"\n"
            if fds:
                socket.send_fds(monitor, [text], list(fds))
            else:
                monitor.sendall(text)
        except OSError as e:
            raise LabError(f"QEMU's monitor is gone ({e.strerror})", self.console()[-10:]) from e
        while True:
            answer = self._answer()
            if "error" in answer:
                raise LabError(f"QEMU refuses {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def _answer(self) -> dict[str, Any]:
        monitor = self._sockets["monitor"]
        while b"\n" not in self._buffer:
            try:
                data = monitor.recv(CHUNK)
            except OSError as e:
                raise LabError(f"QEMU's monitor does not answer ({e})") from e
            if not data:
                raise LabError(f"QEMU ended: {self.wait(1)}", self.console()[-10:])
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def port_in(self, port: int) -> int:
        """Read an I/O port of the machine's, 32 bits. LabError if QEMU does not answer."""
        return int(self._qtest(f"inl {port:#x}").split()[1], 0)

    def port_out(self, port: int, value: int) -> None:
        """Write an I/O port of the machine's, 32 bits. LabError if QEMU does not answer."""
        self._qtest(f"outl {port:#x} {value:#x}")

    def _qtest(self, command: str) -> str:
        line = self._sockets["qtest"]
        line.settimeout(20)
        answer = b""
        try:
            line.sendall(command.encode() + b"\n")
            while not answer.endswith(b"\n"):
                data = line.recv(CHUNK)
                if not data:
                    raise ConnectionError("closed")
                answer += data
        except OSError as e:
            raise LabError(f"QEMU does not answer ({e})", self.console()[-10:]) from e
        text = answer.decode()
        if not text.startswith("OK"):
            raise LabError(f"QEMU refuses {command}: {text.strip()}")
        return text

    def where(self) -> None:
        """Ask a guest that hangs what its CPUs do and which tasks wait (SysRq l, w); the console has the answer."""
        with contextlib.suppress(LabError):
            for key in "lw":
                self.ask("chardev-send-break", id="console")
                with contextlib.suppress(OSError):
                    self._sockets["console"].send(key.encode())
                deadline = time.monotonic() + 0.4
                while time.monotonic() < deadline and self.pump(0.1):
                    pass


#: what Python runs where there is no setpriv: asks the kernel for the signal, looks whether it is too late, and becomes
#: the program
TIED = """\
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def tied() -> list[str]:
    """What to put before a command, so that it goes when this process does, however it goes."""
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        return [setpriv, "--pdeathsig", "KILL"]
    return [sys.executable, "-I", "-c", TIED, str(os.getpid())]


def ended_by(guest: Guest) -> str:
    """How QEMU ended, in words."""
    code = guest.process.poll()
    if code is None:
        return "it still runs"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
