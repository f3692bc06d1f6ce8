"""Native code is run from where nobody else can have put it, and from nowhere else."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

from mmlitmus.explore import compiled


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A user's cache with a build in it, that is none: a library that says that it was run."""
    root = tmp_path / "home" / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    monkeypatch.delenv("MMLITMUS_PURE", raising=False)
    monkeypatch.setattr(compiled, "homes", lambda: [root / "mmlitmus" / "explore-0"])
    where = root / "mmlitmus" / "explore-0" / compiled.name()
    where.mkdir(parents=True)
    for folder in (where, *where.parents):
        if folder.is_relative_to(tmp_path):
            folder.chmod(0o755)
    library = where / (compiled.LIBRARY + compiled.SUFFIX)
    library.write_bytes(b"not a library")
    library.chmod(0o644)
    return where


def used(monkeypatch, capsys):
    """Was the library loaded? And what was said."""
    loaded = []
    monkeypatch.setattr(
        compiled.importlib.util,
        "spec_from_file_location",
        lambda name, path: loaded.append(path) or pytest.skip("loaded"),
    )
    with contextlib.suppress(pytest.skip.Exception):
        compiled.use([])
    return bool(loaded), capsys.readouterr().err


def test_what_is_the_users_own_is_run(cache, monkeypatch, capsys):
    assert compiled.foreign(cache) == ""
    assert used(monkeypatch, capsys) == (True, "")


@pytest.mark.parametrize("above", range(5), ids=["library", "folder", "home", "mmlitmus", ".cache"])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_what_others_may_write_is_not(cache, monkeypatch, capsys, above, mode):
    library = cache / (compiled.LIBRARY + compiled.SUFFIX)
    path = [library, *library.parents][above]
    path.chmod(mode)
    loaded, err = used(monkeypatch, capsys)
    assert not loaded
    why = f"{path} can be written by others (mode {mode:o})"
    assert err == f"mmlitmus: {why}: the compiled explorer is not used\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
@pytest.mark.parametrize("above", range(5), ids=["library", "folder", "home", "mmlitmus", ".cache"])
def test_what_belongs_to_another_is_not(cache, monkeypatch, capsys, above):
    library = cache / (compiled.LIBRARY + compiled.SUFFIX)
    path = [library, *library.parents][above]
    os.chown(path, 12345, -1)
    loaded, err = used(monkeypatch, capsys)
    assert (loaded, err) == (
        False, f"mmlitmus: {path} belongs to another user (12345): the compiled explorer is not used\n"
    )  # fmt: skip


def test_a_stranger_of_any_uid(cache, monkeypatch):
    """... as anybody: who we are is not who the files belong to."""
    monkeypatch.setattr(compiled.os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in compiled.foreign(cache)


def test_links_are_not_followed(cache):
    library = cache / (compiled.LIBRARY + compiled.SUFFIX)
    library.rename(cache.parent / "elsewhere")
    library.symlink_to(cache.parent / "elsewhere")
    assert compiled.foreign(cache) == f"{library} is a link"


def test_a_sticky_folder_above_does(cache, tmp_path):
    (tmp_path / "home").chmod(0o1777)
    assert compiled.foreign(cache) == ""


def test_beside_the_sources_the_sources_owner_decides(tmp_path, monkeypatch):
    where = tmp_path / "explore" / "_compiled" / "build"
    where.mkdir(parents=True)
    library = where / (compiled.LIBRARY + compiled.SUFFIX)
    library.write_bytes(b"")
    monkeypatch.setattr(compiled, "HERE", tmp_path / "explore")
    (tmp_path / "explore").chmod(0o777)
    for path in (library, where, where.parent):
        path.chmod(0o755)
    assert compiled.foreign(where) == ""
    where.parent.chmod(0o775)
    assert "can be written by others" in compiled.foreign(where)
    assert Path(sys.executable).exists()
