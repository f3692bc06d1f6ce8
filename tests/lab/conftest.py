"""A cache folder of the test's own, and programs that stand for the host's."""

import stat
from pathlib import Path

import pytest

from mmlitmus.conform.lab import Place

GUEST = Path(__file__).parent / "guest"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty lab."""
    monkeypatch.setenv("MMLITMUS_LAB", str(tmp_path / "lab"))
    return Place(tmp_path / "lab")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a script that is found before the host's program of that name."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def write(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return path

    return write
