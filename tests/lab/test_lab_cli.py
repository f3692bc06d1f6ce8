"""``mmlitmus lab`` on a command line. No network, no QEMU."""

import pytest

from mmlitmus.cli.main import main
from mmlitmus.conform.lab import Place
from mmlitmus.conform.lab.catalogue import KERNELS


@pytest.fixture
def run(place: Place, capsys):
    def go(*args: str) -> tuple[int, str, str]:
        code = main(["lab", *args])
        done = capsys.readouterr()
        return code, done.out, done.err

    return go


def test_list_in_an_empty_lab(run, place: Place):
    code, out, err = run("list")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert [row[0] for row in rows[1:-1]] == [kernel.name for kernel in KERNELS]
    assert all(row[4] == "no" for row in rows[1:-1])
    assert out.endswith(f"in {place.root}\n")
    assert not place.root.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fetch", "6.2"), "the lab knows no kernel '6.2'"),
        (("boot", "6.12"), "kernel 6.12 is not fetched: mmlitmus lab fetch 6.12"),
        (("boot",), "which kernel?"),
        (("boot", "--", "-s"), "which kernel?"),
        (("boot", "6.12", "--modules", "x"), "--modules goes with --kernel PATH"),
        (("boot", "6.12", "--memory", "64"), "a guest gets at least 1024 MB, not 64"),
        (("boot", "--kernel", "nowhere"), "nowhere: No such file or directory"),
        (("boot", "6.12", "--program", "nowhere"), "nowhere: No such file or directory"),
        (("shell", "6.12"), "kernel 6.12 is not fetched"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, program, words, message):
    program("qemu-system-x86_64", "#!/bin/sh\n")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_without_qemu_the_package_is_named(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("mmlitmus.conform.lab.host.SYSTEM", ())
    code, _, err = run("boot", "6.12")
    assert code == 2
    assert err == (
        "mmlitmus: qemu-system-x86_64 is not here, and is needed to run a kernel: apt-get install qemu-system-x86\n"
    )


def test_clean_asks_and_removes(run, place: Place):
    assert run("clean") == (0, f"{place.root} is not there; nothing to remove\n", "")
    place.make()
    code, _, err = run("clean")
    assert code == 2
    assert "say --yes" in err
    assert place.root.is_dir()
    assert run("clean", "--yes") == (0, f"removed {place.root}\n", "")
    assert not place.root.exists()


def test_clean_leaves_anothers_folder_alone(run, place: Place):
    place.root.mkdir()
    (place.root / "letters").write_text("dear")
    code, _, err = run("clean", "--yes")
    assert code == 2
    assert "left alone" in err
    assert (place.root / "letters").is_file()
