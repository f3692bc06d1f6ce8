"""The index of kernel sources: made of a small tree by ctags, written, read, refused when damaged."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from .kernels import PLACE, kernels, tool

TREE = {
    "mm/small.c": """
#define SMALL_MACRO(x) ((x) + 1)
enum small_state { SMALL_ON, SMALL_OFF };
struct small { int member; };
static int small_count;
static __always_inline int small_add(struct small *s, int by) { int local = by; return s->member + local; }
SYSCALL_DEFINE2(small, int, a, int, b) { return a + b; }
int small_declared(int a);
""",
    "net/core/other.c": "int other(void) { return 0; }\n",
    "include/linux/small.h": "static inline void small_inline(void) { }\n",
}
needs_ctags = pytest.mark.skipif(shutil.which("ctags") is None, reason="the package universal-ctags is not installed")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "linux-source-1.0"
    for path, text in TREE.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@needs_ctags
def test_the_names_of_a_tree(tree: Path) -> None:
    index = tool().index_tree(tree, "linux-source-1.0", "1.0-1")
    assert list(index.files) == ["include/linux/small.h", "mm/small.c"]
    assert index.files["mm/small.c"] == {
        "e": ["SMALL_OFF", "SMALL_ON"],
        "f": ["small_add", "sys_small"],
        "m": ["SMALL_MACRO"],
        "t": ["small", "small_state"],
        "v": ["small_count"],
    }
    assert index.has("mm/small.c", "small_add", "f")
    assert not index.has("mm/small.c", "small_declared")
    assert not index.has("mm/nowhere.c", "small_add")


@needs_ctags
@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not there")
def test_a_package(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "deb"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "usr/src").mkdir(parents=True)
    control = (
        "Package: linux-source-1.0\nVersion: 1.0-1~x+1\nArchitecture: all\nMaintainer: nobody\nDescription: test\n"
    )
    (root / "DEBIAN/control").write_text(control)
    with tarfile.open(root / "usr/src/linux-source-1.0.tar.xz", "w:xz") as tar:
        tar.add(tree, "linux-source-1.0")
    deb = tmp_path / "source.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, deb], check=True, capture_output=True)
    assert tool().main(["--deb", str(deb), "--out", str(tmp_path / "out")]) == 0
    written = tmp_path / "out" / "linux-source-1.0.txt.xz"
    first = written.read_bytes()
    index = tool().read(written)
    assert (index.package, index.version) == ("linux-source-1.0", "1.0-1~x+1")
    assert index.parser.startswith("universal-ctags ")
    assert list(index.files) == ["include/linux/small.h", "mm/small.c"]
    assert tool().main(["--deb", str(deb), "--out", str(tmp_path / "out")]) == 0
    assert written.read_bytes() == first


def test_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "linux-source-1.0.txt.xz"
    for content in (
        b"no xz",
        lzma.compress(b"another text\n\n\n"),
        (PLACE / "linux-source-6.1.txt.xz").read_bytes()[:999],
    ):
        path.write_bytes(content)
        assert tool().main(["--list", "1.0", "mm/memory.c", "--out", str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith("source_index: ")
    assert tool().main(["--deb", str(path), "--out", str(tmp_path)]) == 2


def test_an_index_is_written_as_it_was_read(tmp_path: Path) -> None:
    index = kernels()[0].index
    assert tool().parse(index.text()) == index
    assert tool().read(tool().write(index, tmp_path)) == index


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool().main(["--list", "6.12", "mm/mremap.c"]) == 0
    assert "move_page_tables" in capsys.readouterr().out


def test_the_indices_are_small() -> None:
    sizes = [path.stat().st_size for path in PLACE.glob("*.xz")]
    assert max(sizes) < 400_000
    assert sum(sizes) < 1_500_000
