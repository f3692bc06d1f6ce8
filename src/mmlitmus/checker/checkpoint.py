"""A run's searches, written down so that another run can go on with them.

The file is JSON. For each row it holds how far its search has come: the path to where it stands, what it counted and
found, and the lock classes it saw. It fits only the same case on the same kernel by the same engine, and the same
sources of model and search, for the path is one of their executions; a hash of each says whether it does. The options
that say how far a search may go (executions, seconds, memory, walks) may differ: that is how to go on with one that was
cut.

A search that went on from a wrong count or a wrong place would answer wrongly without a word, so the file ends with a
checksum of all that comes before.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlitmus.explore.findings import Finding
from mmlitmus.explore.sample import Size, Walks
from mmlitmus.explore.scheduler import Counts, Found, Results
from mmlitmus.explore.split import Node

from .load import HOME, ROOT, shown
from .run import parts_for

if TYPE_CHECKING:
    from .many import Job
    from .run import Parts

LAYOUT = 2
FORMAT = "mmlitmus checkpoint"
#: seconds between two writings of the file
EVERY = 30.0
#: bytes of a file that is read: more is no checkpoint
LARGEST = 1 << 30
#: the end of the file
SEAL = re.compile(rb',"checksum":"([0-9a-f]{32})"\}\n$')
#: what has no part in a search: a change there leaves a checkpoint valid
_APART = ("cases", "claims", "cli", "conform", "report")


class CheckpointError(Exception):
    """A checkpoint that cannot be read, or that does not fit. Its text is one line."""


class Checkpoint:
    """The searches of one run. ``write`` puts them into the file, whole or not at all."""

    def __init__(self, path: str, every: float = EVERY) -> None:
        self.path = path
        self.every = every
        self.rows: dict[str, dict[str, Any]] = {}
        self.live: dict[str, tuple[Job, Parts]] = {}  # searches that came further since the last writing
        self.written = time.monotonic()
        #: why the file could not be written the last time; empty if it could
        self.failed = ""

    @classmethod
    def create(cls, path: str, every: float = EVERY) -> Checkpoint:
        """A new one; CheckpointError when it could not be written there."""
        made = cls(path, every)
        made.write()
        return made

    @classmethod
    def read(cls, path: str, jobs: Sequence[Job], every: float = EVERY) -> Checkpoint:
        """The one in that file; CheckpointError when it does not fit these jobs."""
        try:
            raw = _content(path)
            data = json.loads(raw)
        except OSError as e:
            raise CheckpointError(f"{path}: {e.strerror or e}") from e
        except (ValueError, RecursionError) as e:
            raise CheckpointError(f"{path}: not a checkpoint") from e
        if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("rows"), dict):
            raise CheckpointError(f"{path}: not a checkpoint")
        written = data.get("version")
        if written != LAYOUT:
            raise CheckpointError(f"{path}: a checkpoint of version {written}; this one reads {LAYOUT}")
        seal = SEAL.search(raw)
        if seal is None or seal[1].decode() != _checksum(raw[: seal.start()]):
            raise CheckpointError(f"{path}: damaged or changed: its checksum is not that of what it holds")
        if data.get("sources") != sources():
            raise CheckpointError(f"{path}: made by other sources of mmlitmus, whose searches these cannot go on with")
        made = cls(path, every)
        made.rows = data["rows"]
        fit = False
        for job in jobs:
            row = made.rows.get(_name(job))
            if row is None:
                continue
            fit = True
            if row["case"] != _case_hash(job.case.file):
                raise CheckpointError(f"{path}: {job.case.id} has changed since ({shown(job.case.file)})")
            if row["how"] != _how(job):
                raise CheckpointError(f"{path}: {_name(job)} was searched with {row['how']}, and not {_how(job)}")
            made.resumed(job)
        if jobs and not fit:
            raise CheckpointError(f"{path}: holds nothing of what is to be run; it has {_some(list(made.rows))}")
        return made

    def keep(self, job: Job, parts: Parts, done: bool) -> None:
        """The search has come further. Now and then the file is written; that it cannot be is no reason to stop."""
        self.live[_name(job)] = (job, parts)
        if done:
            self._put(job, parts)
            del self.live[_name(job)]
        if time.monotonic() - self.written >= self.every:
            self.save()

    def save(self) -> None:
        """Write the file; if that cannot be done, ``failed`` says why, and what was there before stays."""
        try:
            self.write()
            self.failed = ""
        except CheckpointError as e:
            self.failed = str(e)
            self.written = time.monotonic()

    def _put(self, job: Job, parts: Parts) -> None:
        self.rows[_name(job)] = {"case": _case_hash(job.case.file), "how": _how(job), "search": dumped(parts)}

    def resumed(self, job: Job) -> Parts | None:
        """The search as it was written down; None when it was not."""
        row = self.rows.get(_name(job))
        parts = parts_for(job.how)
        if row is None or parts is None:
            return None
        try:
            loaded(parts, row["search"])
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"{self.path}: {_name(job)} cannot be read ({type(e).__name__})") from e
        return parts

    def write(self) -> None:
        """Write the file. It is replaced at once: a run that is killed meanwhile leaves the last one."""
        for job, parts in self.live.values():
            self._put(job, parts)
        data = {"format": FORMAT, "version": LAYOUT, "sources": sources(), "rows": self.rows}
        text = json.dumps(data, separators=(",", ":")).encode().removesuffix(b"}")
        beside = f"{self.path}.{os.getpid()}.new"
        try:
            try:
                Path(beside).write_bytes(text + f',"checksum":"{_checksum(text)}"}}\n'.encode())
                os.replace(beside, self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise
        except (OSError, ValueError) as e:  # ValueError: a name with a zero in it
            raise CheckpointError(f"{self.path}: {getattr(e, 'strerror', None) or e}") from e
        self.written = time.monotonic()


def _content(path: str) -> bytes:
    """A file's bytes. OSError if it cannot be read, or is no regular file: a pipe would be waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("no regular file")
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise OSError(f"more than {LARGEST >> 20} MB, and no checkpoint is as long")
    return raw


def _checksum(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _name(job: Job) -> str:
    return f"{job.case.id} on {job.spec}"


def _how(job: Job) -> str:
    how = job.how
    return how.engine if how.engine != "sample" else f"sample {how.strategy} depth {how.depth} seed {how.seed}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "no row"


@lru_cache(maxsize=1)
def sources() -> str:
    """A hash of model and search."""
    files = [f for f in sorted(HOME.rglob("*.py")) if f.relative_to(HOME).parts[0] not in _APART]
    return _hash(files, HOME)


@lru_cache(maxsize=64)
def _case_hash(file: str) -> str:
    """A hash of a case's file and of what its author keeps beside it."""
    path = Path(file).resolve()
    beside = path.parent.glob("_*.py") if path.is_relative_to(ROOT) else path.parent.glob("*.py")
    return _hash(sorted({path, *beside}), path.parent)


def _hash(files: Sequence[Path], base: Path) -> str:
    h = blake2b(digest_size=12)
    for file in files:
        text = file.read_bytes()
        h.update(f"{file.relative_to(base).as_posix()} {len(text)}\n".encode() + text)
    return h.hexdigest()


# -- searches as JSON -------------------------------------------------------------------------------------------------
def dumped(parts: Parts) -> dict[str, Any]:
    """How far a search has come."""
    if isinstance(parts, Walks):
        return {
            "walks": parts.done,
            "results": _results(parts.whole),
            "edges": _edges(parts.edges),
            "traces": {digest.hex(): times for digest, times in parts.traces.items()},
            "size": None if parts.size is None else asdict(parts.size),
            "longest": parts.longest,
        }
    root = parts.root
    return {
        "done": root.done,
        "path": [
            [n.task, n.value, n.op, n.enabled, n.backtrack, n.sleep, list(n.asleep), n.extra, n.below]
            for n in root.path
        ],
        "results": _results(root.results),
        "edges": _edges(root.edges),
    }


def loaded(parts: Parts, data: dict[str, Any]) -> None:
    """Bring a new search as far as that."""
    edges = {(a, b): (why, _choices(choices)) for a, b, why, choices in data["edges"]}
    if isinstance(parts, Walks):
        parts.done = data["walks"]
        parts.whole = _loaded_results(data["results"])
        parts.edges = edges
        parts.traces = {bytes.fromhex(digest): times for digest, times in data["traces"].items()}
        parts.size = None if data["size"] is None else Size(**data["size"])
        parts.longest = data["longest"]
        return
    root = parts.root
    root.done = data["done"]
    root.results = _loaded_results(data["results"])
    root.edges = edges
    root.path = [
        Node(task, value, _tuple(op), enabled, backtrack, sleep, [(b, _tuple(o)) for b, o in asleep], _tuple(extra), n)
        for task, value, op, enabled, backtrack, sleep, asleep, extra, n in data["path"]
    ]


def _results(results: Results) -> dict[str, Any]:
    return {
        "counts": asdict(results.counts),
        "found": [[f.kind, f.name, f.message, found.choices, found.executions] for f, found in results.found.items()],
        "outcomes": sorted(map(_written, results.outcomes), key=json.dumps),
        "deadlocks": sorted(map(_written, results.deadlocks), key=json.dumps),
        "reached": sorted(results.reached),
    }


def _loaded_results(data: dict[str, Any]) -> Results:
    results = Results(Counts(**data["counts"]))
    for kind, name, message, choices, executions in data["found"]:
        f = Finding(kind, name, message)
        results.found[f] = Found(f, _choices(choices), executions)
    results.outcomes = set(map(_read, data["outcomes"]))
    results.deadlocks = set(map(_read, data["deadlocks"]))
    results.reached = set(data["reached"])
    return results


def _edges(edges: dict[tuple[str, str], tuple[str, list[tuple[str, int]]]]) -> list[list[Any]]:
    return [[a, b, why, choices] for (a, b), (why, choices) in edges.items()]


def _choices(data: list[list[Any]]) -> list[tuple[str, int]]:
    return [(task, value) for task, value in data]


def _tuple(data: Any) -> Any:
    """Lists as the tuples that they were."""
    return tuple(map(_tuple, data)) if isinstance(data, list) else data


def _written(value: Any) -> Any:
    """An outcome for JSON: tuples and sets are marked."""
    if isinstance(value, tuple):
        return {"tuple": [_written(x) for x in value]}
    if isinstance(value, frozenset):
        return {"set": sorted((_written(x) for x in value), key=json.dumps)}
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"an outcome that cannot be written down: {type(value).__name__}")


def _read(data: Any) -> Any:
    if isinstance(data, dict):
        ((how, values),) = data.items()
        return (tuple if how == "tuple" else frozenset)(map(_read, values))
    return data
