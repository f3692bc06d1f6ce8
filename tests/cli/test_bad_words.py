"""Whatever a user hands to whichever verb: one message, exit status 2, and never a bug of mmlitmus."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmlitmus.conform import store
from waiting import WAIT

LONG = "x" * 5000
LONE = "\udcff"  # a byte that is no text, as Python hands it over
DIGITS = "9" * 6000
CASE = "vfio/fault-vs-disable"
ON = ("--kernel", "v6.12")

#: files, by name: what is in them
FILES = {
    "latin.py": b"x = '\xe9'\n", "nul.py": b"x = 1\0\n", "deep.py": b"x = " + b"(" * 5000 + b")" * 5000 + b"\n",
    "digits.py": b"x = " + b"9" * 10000 + b"\n", "plain": b"hello\n",
    "deep.json": b"[" * 100_000, "digits.json": b"9" * 10_000, "latin.json": b"\xff\xfe{", "list.json": b"[]",
    "inf.json": b'{"format":"mmlitmus checkpoint","version":1e999,"rows":{}}',
    "inside.json": b'{"format":"mmlitmus checkpoint","version":2,"rows":' + b"[" * 100_000,
    "unsealed.json": b'{"format":"mmlitmus checkpoint","version":2,"rows":{}}',
    "deep.jsonl": b"[" * 100_000 + b"\n", "latin.jsonl": b"\xff\n", "cut.jsonl.gz": gzip.compress(b"{}\n" * 1000)[:-9],
    "no.jsonl.gz": b"hello",
}  # fmt: skip

NO_CASES = (
    "", " ", "/", "..", "folder", "latin.py", "nul.py", "deep.py", "digits.py", LONG, f"{LONG}.py", "a/" * 3000,
    LONE, f"{LONE}.py", "x\0y", "x\0y.py", "[", "::", ".py::x", "latin.py::e", "/dev/null", "plain", "pipe", "pipe.py",
)  # fmt: skip
NO_KERNELS = ("", " ", ",", LONG, LONE, "v6.12 =", "v6.12 a=", "v6.12 +", "+", "v6.12\0")
NO_FILES = ("", LONG, LONE, "folder", "no/such", "pipe")
NO_SECONDS = ("nan", "inf", "-inf", "-1", "0", "1e400", "", LONE, "1e10")
NO_NUMBERS = ("nan", "-1", "1.5", "0x10", "", LONE, DIGITS)

ROWS = [
    *(["check", word] for word in NO_CASES),
    *(["show", word] for word in NO_CASES),
    *(["list", word] for word in NO_CASES),
    *(["replay", "fault", word] for word in NO_CASES),
    *(["review", "fork-unseen-by-gup", "--cases", word] for word in NO_CASES),
    *(["check", CASE, "--kernel", spec] for spec in NO_KERNELS),
    *(["check", CASE, "--with", spec] for spec in ("", " ", LONG, LONE)),
    *(["show", CASE, "--kernel", spec] for spec in NO_KERNELS),
    *(["replay", "fault", CASE, "--kernel", spec] for spec in NO_KERNELS),
    *(["review", "fork-unseen-by-gup", "--kernel", spec] for spec in NO_KERNELS),
    *(["review", "--from", spec, "--to", "v6.12"] for spec in NO_KERNELS),
    *(["review", spec] for spec in NO_KERNELS),
    *(["kernels", spec] for spec in NO_KERNELS),
    *(["gup-table", "--kernel", spec] for spec in NO_KERNELS),
    *(["scale", "guest", "--memory", "1M", "--kernel", spec] for spec in NO_KERNELS),
    *(["kills", "--kernel", spec] for spec in NO_KERNELS),
    *(["coverage", "--kernel", spec] for spec in NO_KERNELS),
    *(["conform", "--kernel", spec] for spec in NO_KERNELS),
    *(["conform", "--recorded", "--model", spec] for spec in NO_KERNELS),
    *(["claims", spec] for spec in ("", " ", LONG, LONE)),
    *(["lab", "fetch", spec] for spec in NO_KERNELS),
    *(["lab", "boot", spec] for spec in NO_KERNELS),
    *(["check", CASE, *ON, "--max-seconds", n] for n in NO_SECONDS),
    *(["check", CASE, *ON, "--checkpoint-every", n] for n in NO_SECONDS if n != "0"),
    *(["lab", "boot", "6.12", "--timeout", n] for n in NO_SECONDS),
    *(["check", CASE, *ON, "--max-memory", n] for n in (*NO_SECONDS[:-1], "1e30")),
    *(["check", CASE, *ON, option, n] for option in ("--max-executions", "-j") for n in NO_NUMBERS),
    *(["check", CASE, *ON, "--engine", "sample", option, n] for option in ("--walks", "--depth") for n in NO_NUMBERS),
    ["check", CASE, *ON, "-j", "1000000"],
    *(["conform", option, n] for option in ("--programs", "--seed", "--jobs", "--boots") for n in NO_NUMBERS),
    *(["coverage", "--against", n] for n in NO_NUMBERS),
    *(["claims", "-j", n] for n in NO_NUMBERS),
    *(["scale", "guest", "--memory", n] for n in ("nan", "-1", "", LONE, DIGITS, "0", "7", "999999999T")),
    *(["scale", "bar", "--size", n] for n in ("nan", "-1", "", LONE, DIGITS, "0", "1")),
    *(["lab", "boot", "6.12", "--memory", n] for n in NO_NUMBERS),
    *(["show", CASE, *ON, "--schedule", text] for text in (">", "a > ", LONG, LONE, f"fault > x#{DIGITS}", "\0")),
    *(["replay", text, CASE, *ON] for text in (">", "a > ", LONG, LONE, f"fault > x#{DIGITS}", "\0")),
    *(["check", CASE, *ON, "--resume", name] for name in (*NO_FILES, *FILES, "/dev/null")),
    *(["check", CASE, *ON, "--checkpoint", name] for name in (*NO_FILES, "plain") if name != LONE),
    *(["conform", "--reproduce", name] for name in (*NO_FILES[:-1], *FILES, "a:b:c:d", f"pc-1-{DIGITS}")),
    *(["conform", "--reproduce", f"{name}:x"] for name in (*FILES, "live:a", f"deep.jsonl:a:{DIGITS}")),
    *(["conform", "--kernel", f"./{name}"] for name in (*NO_FILES, "plain")),
    *(["lab", "boot", "--kernel", name] for name in (*NO_FILES, "plain")),
    *(["lab", "boot", "6.12", "--program", name] for name in (*NO_FILES, "latin.json")),
    *(["gup-table", "--mapping", "anon-zero", "--path", "fast", "--output", name] for name in ("folder", "no/such")),
    *(["gup-table", option, word] for option in ("--arch", "--path", "--mapping") for word in ("", LONE, LONG)),
    *([word] for word in ("", "-", LONE, LONG)),
    *(["lab", word] for word in ("", LONE)),
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """A folder with all of the files, and an empty lab."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMLITMUS_LAB", str(tmp_path / "lab"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    Path("folder").mkdir()
    for name in ("pipe", "pipe.py"):
        os.mkfifo(name)
    return tmp_path


def spelt(args):
    """An id in plain letters."""
    return " ".join(ascii(word[:24])[1:-1] for word in args)


@pytest.mark.parametrize("args", ROWS, ids=spelt)
def test_bad_words(here, capsys, args):
    from mmlitmus.cli.main import main

    code = main(args)
    out, err = capsys.readouterr()
    assert "bug of mmlitmus" not in err
    assert "Traceback" not in err
    assert code == 2, (code, out[:200], err[:200])
    assert err.startswith(("Usage: ", "mmlitmus: "))
    if err.startswith("mmlitmus: "):
        assert err.count("mmlitmus: ") == 1
    assert len(err) < 12_000


def test_a_folder_of_cases_is_not_hidden_by_a_file(run, shipped):
    Path("vfio").write_text("x")
    assert run("list", "vfio")[0] == 0
    code, _, err = run("check", "./vfio")
    assert (code, err) == (2, "mmlitmus: vfio: not a Python file (its name does not end in .py)\n")


def test_a_recording_that_unpacks_to_more_than_any_has(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LARGEST", 1 << 20)
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(bytes(64 << 20)))
    with pytest.raises(store.RecordingError, match=r"bomb\.jsonl\.gz:1: more than 1 MB, and no recording is as long"):
        store.load(bomb)


# -- where it prints to -----------------------------------------------------------------------------------------------
SOURCE = Path(store.__file__).resolve().parents[2]


def command(*args, shell="", **how):
    """The command in a process of its own, below a shell's redirection."""
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    script = f'exec "$@" {shell}'
    argv = ["sh", "-c", script, "sh", sys.executable, "-m", "mmlitmus", *args]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=WAIT, **how)


@pytest.mark.parametrize("args", [["list"], ["kernels"], ["--version"], ["check", CASE, "--kernel", "v6.12", "--json"]])
@pytest.mark.parametrize(
    ("shell", "message"),
    [(">/dev/full", "output: No space left on device"), (">&-", "standard output is closed")],
    ids=["full", "closed"],
)
def test_nowhere_to_print_to(args, shell, message):
    done = command(*args, shell=shell)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"mmlitmus: {message}\n")


def test_a_reader_that_goes_away_is_told_nothing():
    done = command("kernels", shell="| true")
    assert done.stderr == ""


def test_a_name_that_the_terminal_cannot_spell():
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "ascii"}
    argv = [sys.executable, "-m", "mmlitmus", "list", "\u00fc"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 2
    assert done.stderr.startswith("mmlitmus: no case matches ")


def test_the_version_of_what_is_not_installed():
    """Run from its sources, without the package's metadata."""
    code = "import importlib.metadata as m, sys\ndef none(name): raise m.PackageNotFoundError(name)\nm.version = none\n"
    code += "from mmlitmus.cli.main import main\nsys.exit(main(['--version']))"
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=WAIT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mmlitmus 0.1.0, not installed (explorer ")
