"""What the guest programs of the first lab print, in common: words for entries and touches, memtype lists, messages.

The programs (vfiorev.c, aliastest.c, labtest.c) did one thing after the other in one boot and printed as they went.
What their output does not say (package, command line, QEMU) is from the report of the session that ran them.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from .codec import BadValueError
from .layout import message_of
from .schema import (
    FORMAT,
    FORMAT_VERSION,
    LEVELS,
    MEMTYPES,
    Entry,
    Header,
    KernelKey,
    Key,
    LabKey,
    Map,
    Memtype,
    Message,
    Observed,
    Program,
    Recording,
    RegionKey,
    Result,
    Source,
)
from .store import dump

EMULATOR = "QEMU 7.2+deb12u18, tcg"
#: runlab.sh, runalias.sh
COMMAND_LINE = "console=ttyS0 panic=-1 quiet nokaslr memmap=16M$0x10000000 memmap=128M$0x20000000"

#: by uname -r: (upstream version, package, package's version), from the report's list of packages
KERNELS = {
    "5.10.0-46-amd64": ("5.10.262", "linux-image-5.10.0-46-amd64-unsigned", "5.10.262-1"),
    "6.1.0-56-amd64": ("6.1.192", "linux-image-6.1.0-56-amd64-unsigned", "6.1.192-2"),
    "6.12.117+deb12-amd64": ("6.12.117", "linux-image-6.12.117+deb12-amd64-unsigned", "6.12.117-1~deb12u1"),
    "6.16.12+deb13-amd64": ("6.16.12", "linux-image-6.16.12+deb13-amd64", None),
    "6.18.15+deb13-amd64": ("6.18.15", "linux-image-6.18.15+deb13-amd64", None),
    "7.3.4+deb13-amd64": ("7.3.4", "linux-binary-unsigned-7.3.4+deb13-amd64", None),
}

STAMP = re.compile(r"^ *[0-9]+\.[0-9]{2} ", re.M)  # tsrun.py puts the host's seconds in front of each line
#: the console is also where the programs print, so a message may come in the middle of their line
CONSOLE = re.compile(r"\[ *[0-9]+\.[0-9]{6}\] x86/PAT: [^\n]*\n")
LOGGED = re.compile(r"^\[ *[0-9.]+\] (.*)$", re.M)
#: how many lines of the log init.lab lets through (head -30)
LOG_LIMIT = 30
LISTED = re.compile(r" \{PAT: \[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\] ([a-z-]+)\}")
INFO = re.compile(
    r"^INFO resv=(?P<resv>\w+) valid=(?P<valid_resv>[01]) PageReserved=(?P<reserved>[01]) bar=(?P<bar>\w+) "
    r"valid=(?P<valid_bar>[01]) hole=(?P<hole>\w+) valid=(?P<valid_hole>[01]) ram_pfn=(?P<ram>\w+) ",
    re.M,
)

OK = Observed(result=Result(ok=True))


# -- text -------------------------------------------------------------------------------------------------------------
def text_of(raw: bytes) -> str:
    """The output as text: one sort of line end, no time stamps."""
    output = raw.decode("utf-8", "replace").replace("\r", "")
    return STAMP.sub("", output) if STAMP.match(output) else output


def found(pattern: str, output: str) -> re.Match[str]:
    """The first match; BadValueError when there is none."""
    match = re.search(pattern, output)
    if match is None:
        raise BadValueError("", f"nothing in the output matches {pattern}")
    return match


class Cursor:
    """Reads a text from its start to its end, piece by piece."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def take(self, pattern: str) -> tuple[str, ...]:
        """The groups of ``pattern``, which has to match right here. BadValueError when it does not."""
        match = re.compile(pattern).match(self.text, self.at)
        if match is None:
            line = self.text[self.at :].partition("\n")[0]
            raise BadValueError("", f"{line or 'the end'!r} where {pattern!r} was to come")
        self.at = match.end()
        return match.groups()

    def end(self) -> None:
        """Nothing may be left. BadValueError when something is."""
        if self.at < len(self.text):
            line = self.text[self.at :].partition("\n")[0]
            raise BadValueError("", f"{line!r} where nothing more was to come")


# -- words ------------------------------------------------------------------------------------------------------------
def touch_result(word: str) -> Result:
    """``ok``, ``ok:10000ed`` (what was read) or ``BUS/2`` (signal and si_code)."""
    if word == "ok":
        return Result(ok=True)
    if word.startswith("ok:"):
        return Result(ok=True, value=int(word[3:], 16))
    signal, _, code = word.partition("/")
    if signal not in ("BUS", "SEGV"):
        raise BadValueError("", f"no touch prints {word!r}")
    return Result(signal=f"SIG{signal}", code=int(code))


def call_result(word: str) -> Result:
    """``ok``, ``0`` or ``-EINVAL``."""
    if word in ("ok", "0"):
        return Result(ok=True)
    if not word.startswith("-E"):
        raise BadValueError("", f"no call prints {word!r}")
    return Result(errno=word[1:])


def walk_result(word: str) -> Entry | None:
    """``L4:80000000fea00237`` (level, entry there); ``-`` when the probe module was not loaded."""
    if word == "-":
        return None
    level, _, bits = word.partition(":")
    return Entry(LEVELS[int(level[1:])], int(bits, 16))


def touched(word: str, **entries: str) -> Observed:
    """What a touch printed, and walks that followed by place (a0 for 0:a0)."""
    return Observed(result=touch_result(word), entries=walks(0, **entries))


def called(word: str, **entries: str) -> Observed:
    """What a call printed, and walks that followed by place."""
    return Observed(result=call_result(word), entries=walks(0, **entries))


def walks(process: int, /, **entries: str) -> dict[str, Entry | None]:
    """Walks of a process by place."""
    return {f"{process}:{place}": walk_result(word) for place, word in entries.items()}


# -- the memtype list -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Window:
    """The physical addresses that a program maps, [``start``, ``end``) in bytes.

    A program's share of a list is what is in its window. The lists of one boot go on: what earlier programs leaked
    stays in them, but no two windows have a page in common unless they are the same.
    """

    start: int
    end: int

    def holds(self, start: int, end: int) -> bool:
        """Is [start, end) inside? BadValueError when it is half inside."""
        if start < self.end and self.start < end and not (self.start <= start and end <= self.end):
            raise BadValueError("", f"{start:#x} to {end:#x} is only partly what {self.start:#x} to {self.end:#x} maps")
        return self.start <= start and end <= self.end


class Lists:
    """The memtype lists that a program saw, one after the other, each as far as it is the program's own."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.others: Counter[tuple[int, int, str]] | None = None

    def read(self, line: str) -> tuple[Memtype, ...]:
        """The entries in the window. BadValueError when others have changed since the last list."""
        got = LISTED.findall(line)
        if LISTED.sub("", line).strip() or any(what not in MEMTYPES for _, _, what in got):
            raise BadValueError("", f"no memtype list prints {line!r}")
        entries = [(int(start, 16), int(end, 16), what) for start, end, what in got]
        others = Counter(e for e in entries if not self.window.holds(*e[:2]))
        if self.others is not None and self.others != others:
            raise BadValueError("", "the memtype list has changed outside of what the program maps")
        self.others = others
        return tuple(Memtype(start=s, end=e, type=t) for s, e, t in entries if self.window.holds(s, e))


# -- the kernel log ---------------------------------------------------------------------------------------------------
def logged(output: str) -> list[str] | None:
    """The lines of the log that init.lab printed at the end; None when it may have cut some off."""
    lines = LOGGED.findall(output[found(r"\nDONE\n", output).end() :])
    return lines if len(lines) < LOG_LIMIT else None


def messages(lines: Iterable[str]) -> list[Message]:
    """What was printed about memtypes. BadValueError for what nobody knows."""
    out = []
    for line in lines:
        if not line.startswith("x86/PAT: ") or line.startswith("x86/PAT: Configuration"):
            continue
        message = message_of(line)
        if message is None:
            raise BadValueError("", f"an unknown message: {line}")
        out.append(message)
    return out


def with_logs(programs: list[tuple[Program, Window]], lines: list[str] | None) -> tuple[Program, ...]:
    """The programs, each with the messages about what it maps; without when it cannot be said whose they are.

    The log has no line that says where a program begins, and on the console what programs print may come late. An
    address says whose a message is; expected-mapping-type is printed by a mmap that fails.
    """
    if lines is None:
        return tuple(p for p, _ in programs)
    logs: list[list[Message] | None] = [[] for _ in programs]
    for message in messages(lines):
        owners = [
            n
            for n, (program, window) in enumerate(programs)
            if window.holds(message.start, message.end)
            and (message.message != "expected-mapping-type" or any(map(failed_map, program.steps)))
        ]
        for n in owners:
            log = logs[n]
            logs[n] = None if log is None or len(owners) > 1 else [*log, message]
    return tuple(
        replace(p, log=None if log is None else tuple(log)) for (p, _), log in zip(programs, logs, strict=True)
    )


def failed_map(step: object) -> bool:
    """Is it a mmap that was seen to fail?"""
    result = step.observed.result if isinstance(step, Map) else None
    return result is not None and not result.ok


# -- the header -------------------------------------------------------------------------------------------------------
def kernel_key(output: str, command_line: str) -> KernelKey:
    """Which kernel it was, by uname -r. BadValueError for one that the report does not list."""
    release = found(r"INIT (\S+)", output)[1]
    if release not in KERNELS:
        raise BadValueError("", f"no kernel {release} is known")
    upstream, package, package_version = KERNELS[release]
    return KernelKey(
        version=upstream,
        release=release,
        distribution="debian",
        package=package,
        package_version=package_version,
        command_line=command_line,
    )


def regions(output: str) -> tuple[RegionKey, ...]:
    """What the probe module maps, from the INFO line. Lengths are those of the command line, the VGA's BAR 0, and the
    module's own allocation (order 9).
    """
    info = INFO.search(output)
    if info is None:
        raise BadValueError("", "there is no INFO line")

    def region(name: str, field: str, pages: int, reserved: bool | None = None) -> RegionKey:
        valid = info[f"valid_{field}"] == "1"
        return RegionKey(name=name, pfn=int(info[field], 16) >> 12, pages=pages, valid=valid, reserved=reserved)

    return (
        region("reserved", "resv", 16 << 8, reserved=info["reserved"] == "1"),
        region("bar", "bar", 16 << 8),
        region("hole", "hole", 128 << 8),
        RegionKey(name="ram", pfn=int(info["ram"], 16), pages=1 << 9),
    )


def lab_header(output: str, raw: bytes, name: str, program: str) -> Header:
    """The header of a recording that was made with the probe module on QEMU's PC."""
    return Header(
        format=FORMAT,
        version=FORMAT_VERSION,
        key=Key(
            kernel=kernel_key(output, COMMAND_LINE),
            lab=LabKey(module="pfnlab", emulator=EMULATOR, machine="pc, std VGA", cpu="max", cpus=2, memory_mib=2048),
        ),
        devices=(),
        regions=regions(output),
        placement="packed",
        isolation="sequence",
        source=Source(file=name, sha256=hashlib.sha256(raw).hexdigest(), program=program),
        kernel_log=tuple(line for line in logged(output) or () if line.startswith(("WARNING: ", "x86/PAT: "))),
    )


# -- the command ------------------------------------------------------------------------------------------------------
def main(convert: Callable[[bytes, str], Recording], module: str, pattern: str) -> None:
    """Convert every file of one folder that ``pattern`` matches into the other."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: python -m mmlitmus.conform.{module} RAW_FOLDER OUT_FOLDER")
    raw_folder, out_folder = map(Path, sys.argv[1:])
    for path in sorted(raw_folder.glob(pattern)):
        try:
            recording = convert(path.read_bytes(), path.name)
        except BadValueError as e:
            sys.exit(f"{path}: {e}")
        dump(recording, out_folder / f"{path.stem}.jsonl")
