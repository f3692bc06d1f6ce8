"""Recordings as files: JSON lines, gzipped when the name ends in .gz."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from .codec import BadValueError, decode, encode
from .schema import FORMAT, FORMAT_VERSION, Header, Program, Recording

#: the recordings that come with the package
RECORDINGS = Path(__file__).parent / "recordings"
#: bytes that are read of one: what unpacks to more is no recording
LARGEST = 256 << 20
#: a program's name, at the beginning of a line as ``dumps`` writes it
ID = re.compile(r'\{"id": "([^"\\]*)"')


class RecordingError(ValueError):
    """A recording that cannot be used: ``file:line: what is wrong``."""

    def __init__(self, file: Path | str, line: int, message: str) -> None:
        super().__init__(f"{file}:{line}: {message}")


def packaged() -> list[Path]:
    """The recordings that come with the package, in a fixed order."""
    return sorted(p for p in RECORDINGS.rglob("*") if p.name.endswith((".jsonl", ".jsonl.gz")))


def load(path: Path) -> Recording:
    """Read a recording. RecordingError if it is damaged, cut short or of another version; OSError if unreadable."""
    if path.name.endswith(".gz"):
        try:
            with gzip.open(path, "rb") as file:
                raw = file.read(LARGEST + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as e:
            raise RecordingError(path, 1, f"the compressed file is damaged: {e}") from e
    else:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise RecordingError(path, 1, f"more than {LARGEST >> 20} MB, and no recording is as long")
    try:
        lines = raw.decode("utf-8").removesuffix("\n").split("\n") if raw else []
    except UnicodeDecodeError as e:
        raise RecordingError(path, raw.count(b"\n", 0, e.start) + 1, "this is not UTF-8") from e
    return loads(lines, path)


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a recording that is known to be whole, such as those of the package."""
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rt", encoding="utf-8", newline="\n") as file:
        yield from file


def header_of(path: Path) -> Header:
    """Its header; nothing else is read."""
    return read_header(json.loads(next(lines_of(path))))


def part_of(path: Path, first: int, programs: int) -> Recording:
    """So many ``programs`` of a recording that is known to be whole, from ``first`` on; no others are decoded."""
    return _some(path, islice(lines_of(path), 1 + first, 1 + first + programs))


def programs_of(path: Path, names: Container[str]) -> Recording:
    """The programs of these names, as far as a recording that is known to be whole has them; no others are decoded."""
    lines = islice(lines_of(path), 1, None)
    recording = _some(path, (line for line in lines if (name := ID.match(line)) is None or name[1] in names))
    return replace(recording, programs=tuple(p for p in recording.programs if p.id in names))


def _some(path: Path, lines: Iterable[str]) -> Recording:
    """A recording with its whole header, and some of its lines."""
    programs = [*lines]
    whole = json.loads(next(lines_of(path)))
    recording = loads([json.dumps({**whole, "programs": len(programs)}), *programs], path)
    return replace(recording, header=read_header(whole))


def loads(lines: Iterable[str], file: Path | str = "<recording>") -> Recording:
    """``load`` of lines that are already there; ``file`` names them in errors."""
    header: Header | None = None
    programs: list[Program] = []
    first: dict[str, int] = {}
    n = 0
    for n, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as e:
            raise RecordingError(file, n, f"this is not JSON: {e.msg} at column {e.colno}") from e
        except (ValueError, RecursionError) as e:  # a number of thousands of digits, brackets as many deep
            raise RecordingError(file, n, f"this JSON cannot be read: {e}") from e
        try:
            if header is None:
                header = read_header(value)
                continue
            program = decode(Program, value)
            program.check(header)
        except BadValueError as e:
            raise RecordingError(file, n, str(e)) from e
        if program.id in first:
            raise RecordingError(file, n, f"program {program.id!r} is on line {first[program.id]} already")
        first[program.id] = n
        programs.append(program)
    if header is None:
        raise RecordingError(file, 1, "the file is empty")
    if header.programs is not None and header.programs != len(programs):
        found = f"{len(programs)} programs where the header promises {header.programs}"
        raise RecordingError(file, n, f"{found}: cut short?")
    return Recording(header=header, programs=tuple(programs))


def read_header(value: Any) -> Header:
    """The header from its JSON object; what this version cannot read is refused before anything else is looked at."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BadValueError("", f'this is no recording: the first line has to be an object with "format": "{FORMAT}"')
    if value.get("version") != FORMAT_VERSION:
        raise BadValueError("version", f"format version {value.get('version')!r}; this program reads {FORMAT_VERSION}")
    return decode(Header, value)


def dumps(recording: Recording) -> str:
    """The text of a recording; the same recording gives the same text."""
    header = replace(recording.header, programs=len(recording.programs))
    return "".join(json.dumps(encode(x), ensure_ascii=False) + "\n" for x in (header, *recording.programs))


def dump(recording: Recording, path: Path, new: bool = False) -> None:
    """Write a recording; gzipped without a time stamp, so that the same recording gives the same bytes.

    ``new``: FileExistsError if there is such a file already. The file is there whole, or not at all.
    """
    raw = dumps(recording).encode()
    data = gzip.compress(raw, mtime=0) if path.name.endswith(".gz") else raw
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        if new:
            os.link(part, path)
        else:
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
