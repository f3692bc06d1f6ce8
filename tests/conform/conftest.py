"""What the tests of recordings share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlitmus.conform.schema import Recording
from mmlitmus.conform.store import RECORDINGS, load, loads

VFIOREV = RECORDINGS / "vfiorev"


@pytest.fixture
def recorded() -> Callable[[str], Recording]:
    """A packaged recording by name, such as ``vfiorev-6.1``."""
    return lambda name: load(VFIOREV / f"{name}.jsonl")


@pytest.fixture
def header() -> dict[str, Any]:
    """The JSON of a small valid header: one edu device, Debian's 6.1.192."""
    return {
        "format": "mmlitmus-recording",
        "version": 1,
        "key": {
            "kernel": {"version": "6.1.192", "release": "6.1.0-56-amd64", "distribution": "debian"},
            "lab": {"module": None},
        },
        "devices": [{"name": "edu", "bars": [{"bar": 0, "pages": 256}]}],
        "isolation": "fresh",
    }


@pytest.fixture
def recording_of(header: dict[str, Any]) -> Callable[..., Recording]:
    """A recording with one program, of the given steps (as JSON)."""

    def make(*steps: dict[str, Any]) -> Recording:
        return loads([json.dumps(header), json.dumps({"id": "1", "steps": list(steps)})], Path("made.jsonl"))

    return make
