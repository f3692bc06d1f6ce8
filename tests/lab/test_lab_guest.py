"""The guest's file system and command line, and what a session makes of what a guest says. No QEMU: a script is it."""

import gzip
import lzma
import stat
import sys
import time
from pathlib import Path

import pytest

from mmlitmus.conform.lab import LabError, Machine, MissingError, host, pciconfig
from mmlitmus.conform.lab.build import Sources
from mmlitmus.conform.lab.guest import Guest
from mmlitmus.conform.lab.initramfs import closure, cpio, needs
from mmlitmus.conform.lab.machine import PAGE, disk
from mmlitmus.conform.lab.session import _converse


# -- the file system --------------------------------------------------------------------------------------------------
def uncpio(data: bytes) -> list[tuple[str, int, bytes]]:
    found, at = [], 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at = (at + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found.append((name, fields[1], data[at : at + fields[6]]))
        at = (at + fields[6] + 3) & ~3


def test_an_archive_holds_what_was_put_in():
    entries = [
        ("bin", stat.S_IFDIR | 0o755, b""),
        ("bin/busybox", stat.S_IFREG | 0o755, b"12345"),
        ("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
    ]
    assert uncpio(cpio(entries)) == entries
    assert cpio(entries) == cpio(entries)


def module(*depends: str) -> bytes:
    return b"\x7fELF..\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"


def test_what_a_module_needs():
    assert needs(module("vfio", "irqbypass")) == ["vfio", "irqbypass"]
    assert needs(module()) == []


def test_modules_come_after_those_they_need(tmp_path):
    folder = tmp_path / "kernel/drivers"
    folder.mkdir(parents=True)
    (folder / "vfio-pci.ko.xz").write_bytes(lzma.compress(module("vfio", "core")))
    (folder / "core.ko").write_bytes(module("vfio"))
    (folder / "vfio.ko.gz").write_bytes(gzip.compress(module()))
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    assert [name for name, _ in closure(tmp_path, ["virtio_pci", "vfio-pci"])] == ["vfio", "core", "vfio_pci"]
    with pytest.raises(LabError, match="have no nosuch"):
        closure(tmp_path, ["nosuch"])


def test_a_damaged_module_is_told(tmp_path):
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/a.ko.xz").write_bytes(lzma.compress(module())[:-20])
    with pytest.raises(LabError, match=r"a\.ko\.xz is damaged"):
        closure(tmp_path, ["a"])


def test_a_busybox_with_shared_libraries_is_refused(program):
    path = program("busybox", "")
    elf = bytearray(200)
    elf[:6] = b"\x7fELF\x02\x01"
    elf[32:40] = (64).to_bytes(8, "little")
    elf[54:56], elf[56:58] = (56).to_bytes(2, "little"), (1).to_bytes(2, "little")
    elf[64:68] = (3).to_bytes(4, "little")  # PT_INTERP
    path.write_bytes(elf)
    with pytest.raises(MissingError, match="apt-get install busybox-static"):
        host.static_busybox()
    elf[64:68] = (1).to_bytes(4, "little")  # PT_LOAD
    path.write_bytes(elf)
    assert host.static_busybox() == path


def test_the_sources_are_told_apart_by_name_and_hashed_by_content(tmp_path):
    for name in ("mmlitmus_probe.c", "mmlitmus_probe.h", "agent.c", "words.c", "Kbuild", "notes.txt"):
        (tmp_path / name).write_text(name)
    sources = Sources(tmp_path)
    assert [p.name for p in sources.probe] == ["Kbuild", "mmlitmus_probe.c", "mmlitmus_probe.h"]
    assert [p.name for p in sources.agent] == ["agent.c", "mmlitmus_probe.h", "words.c"]
    before = sources.hash(sources.agent)
    (tmp_path / "words.c").write_text("other")
    assert sources.hash(sources.agent) != before
    with pytest.raises(LabError, match="are not here"):
        _ = Sources(tmp_path / "nowhere").agent


def test_a_page_of_the_disk_holds_its_number(tmp_path):
    data = disk(tmp_path / "run/disk.img").read_bytes()
    assert data[3 * PAGE : 4 * PAGE] == bytes([3]) * PAGE


# -- the machine ------------------------------------------------------------------------------------------------------
def test_a_guest_is_emulated_and_alone(program, tmp_path):
    program("qemu-system-x86_64", "#!/bin/sh\n")
    argv = Machine("q35", options=("-s",)).argv("/ram", True, tmp_path / "d,isk", ["-S"])
    text = " ".join(argv)
    assert "kvm" not in text
    for words in ("-accel tcg", "-nic none", "-display none", "-device intel-iommu -device edu", "snapshot=on"):
        assert words in text
    assert "d,,isk" in text
    assert argv[-2:] == ["-S", "-s"]


def test_the_command_line_says_what_was_asked():
    assert "nokaslr" in Machine().command_line().split()
    words = Machine("q35", kaslr=True, words=("one", "two")).command_line(shell=True).split()
    assert "nokaslr" not in words
    assert {"intel_iommu=on", "lab.shell", "oops=panic"} < set(words)
    assert words[-2:] == ["one", "two"]


@pytest.mark.parametrize("wrong", [{"kind": "microvm"}, {"memory_mb": 512}])
def test_a_machine_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="one of pc, q35|at least 1024"):
        Machine(**wrong)


class Bus:
    """Ports with a PCI bus behind them: 32-bit registers by configuration address."""

    def __init__(self, registers: dict[int, int]) -> None:
        self.registers = registers
        self.address = 0x1234
        self.written: list[int] = []

    def port_in(self, port: int) -> int:
        return self.address if port == pciconfig.ADDRESS else self.registers.get(self.address, 0xFFFF_FFFF)

    def port_out(self, port: int, value: int) -> None:
        if port == pciconfig.ADDRESS:
            self.address = value
        else:
            self.written.append(self.address)
            self.registers[self.address] = value


def test_a_device_that_qemu_does_not_save_gets_its_registers_back():
    at = 0x8000_0000 | 2 << 11
    before = {at: pciconfig.EDU, at | 4: 0x0010_0103, at | 0x10: 0xFEA0_0000, 0x8000_0800: 0x1111_1234}
    saved = pciconfig.take(Bus(dict(before)))
    assert [one.slot for one in saved] == [2]
    after = Bus({at: pciconfig.EDU, at | 4: 0x0010_0000, at | 0x10: 0})
    pciconfig.put(after, saved)
    assert after.registers[at | 0x10] == 0xFEA0_0000
    assert after.registers[at | 4] == 0x0103  # status bits are cleared by writing ones: none is written
    assert after.written[-1] == at | 4  # an address first, then decode
    assert after.address == 0x1234  # the guest may be between its two accesses


# -- what becomes of a program: a script in QEMU's place ---------------------------------------------------------------
QEMU = """
import re, socket, sys, time
chardevs = map(re.compile(r"socket,id=(\\w+),fd=(\\d+)").match, sys.argv)
line = {m[1]: socket.socket(fileno=int(m[2])) for m in chardevs if m}
agent, console = line["agent"], line["console"]
say = lambda where, text: where.sendall(text.encode())
heard = b""
while b"end\\n" not in heard:
    heard += agent.recv(4096)
"""


@pytest.fixture
def guest(tmp_path: Path):
    """A guest that runs these lines of Python once it has heard a program."""
    started = []

    def start(lines: str) -> Guest:
        path = tmp_path / "qemu.py"
        path.write_text(QEMU + lines)
        started.append(Guest([sys.executable, str(path)]))
        return started[-1]

    yield start
    for one in started:
        one.close()


PROGRAM = "program p\nstep\nend"


def test_a_program_that_ends(guest):
    text = r"""
say(agent, 'noise\n@mm {"step": 0}\n')
say(console, "[    1.0] hello\n")
time.sleep(0.1)
say(agent, '@mm {"end": "p"}\n')
time.sleep(9)
"""
    outcome = _converse(guest(text), PROGRAM, 5)
    assert (outcome.kind, outcome.ended, outcome.why) == ("ended", True, "")
    assert outcome.objects() == [{"step": 0}, {"end": "p"}]
    assert outcome.console == ("[    1.0] hello",)
    assert outcome.seconds < 5


@pytest.mark.parametrize(
    ("console", "kind", "why"),
    [
        (
            "[ 2.0] BUG: kernel NULL pointer dereference, address: 0\n[ 2.1] Kernel panic - not syncing: x",
            "oops",
            "BUG: ker",
        ),
        ("[ 2.1] Kernel panic - not syncing: x\n[ 2.2] Call Trace:", "panic", "Kernel panic - not syncing: x"),
        ("[ 2.0] nothing of note", "died", "QEMU ended (status 3)"),
    ],
)
def test_a_guest_that_ends(guest, console, kind, why):
    text = f"say(agent, '@mm {{\"step\": 0}}\\n')\nsay(console, {console!r})\nsys.exit(3)"
    outcome = _converse(guest(text), PROGRAM, 5)
    assert outcome.kind == kind
    assert outcome.why.startswith(why)
    assert outcome.lines == ('{"step": 0}',)
    assert outcome.console[-1] in console


def test_an_agent_that_ends_says_so_through_init(guest):
    outcome = _converse(
        guest('say(agent, \'@mm {"lab": "the agent ended with status 7"}\\n\')\ntime.sleep(9)'), PROGRAM, 5
    )
    assert (outcome.kind, outcome.why) == ("died", "the agent ended with status 7")


def test_a_guest_that_hangs(guest):
    started = time.monotonic()
    text = """
monitor = line["monitor"]
monitor.sendall(b'{"QMP": {}}\\n')
while True:
    got = monitor.recv(4096)
    if not got:
        break
    if b"send-break" in got:
        say(console, "sysrq: Show backtrace of all active CPUs\\n")
    monitor.sendall(b'{"event": "X"}\\n{"return": {}}\\n')
"""
    outcome = _converse(guest(text), PROGRAM, 0.5)
    assert (outcome.kind, outcome.why) == ("hang", "no end after 0.5 s")
    assert outcome.console[0].startswith("sysrq: Show backtrace")
    assert time.monotonic() - started < 5


def test_what_is_no_json_is_told(guest):
    outcome = _converse(guest("say(agent, '@mm oops\\n@mm {\"end\": 1}\\n')\ntime.sleep(9)"), PROGRAM, 5)
    assert outcome.ended
    with pytest.raises(LabError, match="not a JSON object: oops"):
        outcome.objects()


def test_closing_a_guest_ends_its_process(guest):
    one = guest("time.sleep(99)")
    one.close()
    assert one.killed
