"""What real kernels answered: ``recorded.json``, made by ``import_recordings``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "recorded.json"
FORMAT, VERSION = "mmlitmus-gup-table", 1


@dataclass(frozen=True)
class Recorded:
    """An answer in the words of ``paths.LETTERS``, and the exact version of the kernel that gave it."""

    version: str
    answer: str


@cache
def _answers() -> dict[str, tuple[str, dict[str, dict[str, str]]]]:
    """By the model's name of a kernel: its exact version, and mapping -> path -> answer."""
    data = json.loads(FILE.read_text())
    if (data["format"], data["version"]) != (FORMAT, VERSION):
        raise ValueError(f"{FILE.name} is {data['format']} {data['version']}, and not {FORMAT} {VERSION}")
    return {one["kernel"]: (one["version"], one["answers"]) for one in data["kernels"]}


def kernels() -> list[str]:
    """The recorded kernels, by the model's names, oldest first."""
    return list(_answers())


def recorded(kernel: str, mapping: str, path: str) -> Recorded | None:
    """What the kernel of exactly this spec answered; None where nobody asked."""
    version, answers = _answers().get(kernel, ("", {}))
    answer = answers.get(mapping, {}).get(path)
    return None if answer is None else Recorded(version, answer)
