"""Large searches: divided, cut, killed and gone on with, they say what an undisturbed one says, to the byte."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from waiting import WAIT

LARGE = """
@case(expect={"v1": sometimes("up")})
def large(m):
    for n in range(3):
        def t(n=n):
            for _ in range(2):
                m.dev.on = not m.dev.on
            if n == 2 and m.dev.on:
                report("invariant", "up", "it is on in the end")
        t.__name__ = f"t{n}"
        m.task(t)

@case(expect={"v1": never})
def small(m):
    @m.task
    def t():
        m.dev.on
"""
EXECUTIONS = "9000"
DPOR = ("--engine", "dpor")


@pytest.fixture
def large(write):
    return write("large.py", LARGE)


@pytest.fixture
def undivided(run, large):
    """What one process says without a break."""
    code, out, _ = run("check", large, *DPOR, "--json", "--max-executions", EXECUTIONS)
    assert json.loads(out)[0]["executions"] == int(EXECUTIONS)
    return code, out


def workers_of(pid):
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(what, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        got = what()
        if got:
            return got
        time.sleep(0.02)
    pytest.fail("nothing came of it")


def test_divided_it_says_the_same(process, large, undivided):
    for j, seed in (("2", "1"), ("3", "2")):
        p = process("check", large, *DPOR, "--json", "--max-executions", EXECUTIONS, "-j", j, seed=seed)
        out, err = p.communicate(timeout=WAIT)
        assert (p.returncode, out, err) == (*undivided, "")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the workers")
def test_a_worker_is_killed_in_the_middle(process, large, undivided):
    p = process("check", large, *DPOR, "--json", "--max-executions", EXECUTIONS, "-j", "2")
    first = wait_for(lambda: workers_of(p.pid))
    os.kill(first[0], signal.SIGKILL)
    out, err = p.communicate(timeout=WAIT)
    assert (p.returncode, out) == undivided
    told = r"mmlitmus: large\.py:\d+: large/(large|small): its worker died \(signal 9\); "
    assert re.fullmatch(told + r"(running it|doing its part) again\n", err), err


def test_killed_and_gone_on_with(process, large, undivided):
    args = ("check", large, *DPOR, "--json", "--max-executions", EXECUTIONS)
    p = process(*args, "--checkpoint", "where", "--checkpoint-every", "0")
    wait_for(lambda: os.path.exists("where") and json.loads(Path("where").read_text())["rows"])
    p.kill()
    p.communicate(timeout=WAIT)
    assert p.returncode == -signal.SIGKILL
    before = json.loads(Path("where").read_text())["rows"]["large/large on v1"]["search"]["results"]["counts"]
    assert 0 < before["executions"] < int(EXECUTIONS)
    p = process(*args, "--resume", "where", "-j", "2")
    out, err = p.communicate(timeout=WAIT)
    assert (p.returncode, out) == undivided
    assert err == (
        f"mmlitmus: large/large on v1: bounded({EXECUTIONS} executions) after {EXECUTIONS} executions; to go on: "
        "mmlitmus check large.py::large/large --kernel v1 --engine dpor --resume where\n"
    )


def test_ctrl_c_leaves_a_checkpoint(process, large, undivided):
    args = ("check", large, *DPOR, "--json", "--max-executions", EXECUTIONS)
    p = process(
        *args, "--checkpoint", "where", "--checkpoint-every", "0", start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    wait_for(lambda: os.path.exists("where") and json.loads(Path("where").read_text())["rows"])
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=WAIT)
    assert p.returncode == 130
    assert "what was searched is in where: the same command with --resume where goes on" in err
    p = process(*args, "--resume", "where")
    out, _ = p.communicate(timeout=WAIT)
    assert (p.returncode, out) == undivided


def test_time_and_memory_only_bound(run, large):
    code, out, err = run("check", f"{large}::large/large", *DPOR, "--max-seconds", "0.3", "--checkpoint", "where")
    assert code == 3
    assert re.search(r"large/large  v1 +(seen up|not-seen)  bounded\(0\.3 s\) +\d+  unfinished\n", out)
    way_on = r"to go on: mmlitmus check \S+ --kernel v1 --engine dpor --resume where"
    assert re.search(r"bounded\(0\.3 s\) after \d+ executions; " + way_on, err)
    code, out, err = run("check", f"{large}::large/large", *DPOR, "--max-memory", "1M")
    assert "bounded(1M of memory)" in out
    assert err.endswith("allow it more, or with --checkpoint FILE it can be gone on with\n")
    (row,) = json.loads(run("check", f"{large}::large/large", "--max-memory", "1M", "--engine", "naive", "--json")[1])
    assert row["search"] == "bounded(1M of memory)"


def test_limits_that_are_not_met_change_nothing(run, large):
    some = ("check", "--json", "vfio", large, "--max-executions", "600")
    assert run(*some) == run(*some, "--max-seconds", "1000", "--max-memory", "100G")


def test_finished_rows_are_gone_on_with_too(run, shipped):
    all_of_them = ("check", *DPOR, "--json")
    plain = run(*all_of_them)
    assert run(*all_of_them, "--checkpoint", "where") == plain
    assert run(*all_of_them, "--resume", "where") == plain
    assert run(*all_of_them, "--resume", "where", "-j", "2") == plain


def test_walks_are_gone_on_with(run, large):
    how = ("check", f"{large}::large/large", "--json", "--engine", "sample", "--seed", "3")
    plain = run(*how, "--walks", "700")
    assert run(*how, "--walks", "300", "--checkpoint", "where")[1] != plain[1]
    assert run(*how, "--walks", "700", "--resume", "where")[1] != ""
    assert run(*how, "--walks", "700", "-j", "2") == plain


def test_sample(run, large):
    code, out, err = run("check", f"{large}::large/large", "--engine", "sample", "--walks", "64", "--depth", "2")
    assert (code, err) == (3, "")
    assert "seen up  sampled(64)" in out
    words = " ".join(out.split())
    worth = r"PCT, seed 0: a bug of depth 2 within \d+ events shows in a walk with a probability of at least 0\.0"
    assert re.search(worth, words), out
    (row,) = json.loads(
        run("check", f"{large}::large/large", "--engine", "sample", "--walks", "64", "--strategy", "pos", "--json")[1]
    )
    assert row["search"] == "sampled(64 walks, seed 0)"
    assert row["sample"]["distinct"] == row["traces"] > 50
    assert set(row["sample"]) == {"strategy", "walks", "seed", "distinct", "unseen"}


def sealed(data):
    """Write a checkpoint by hand, with the checksum that it has to have."""
    from mmlitmus.checker import checkpoint

    data.pop("checksum")
    text = json.dumps(data, separators=(",", ":"))[:-1]
    Path("where").write_text(f'{text},"checksum":"{checkpoint._checksum(text.encode())}"}}\n')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not json", "where: not a checkpoint"),
        ("[]", "where: not a checkpoint"),
        ({"version": 9}, "where: a checkpoint of version 9; this one reads 2"),
        ({"sources": "x"}, "where: made by other sources of mmlitmus, whose searches these cannot go on with"),
        ({"rows": {}}, "where: holds nothing of what is to be run; it has no row"),
        ("the case", "where: large/large has changed since (large.py)"),
        ("the engine", "where: large/large on v1 was searched with dpor, and not sample pct depth 3 seed 0"),
        ("the path", "where: large/large on v1 cannot be read (KeyError)"),
        ("gone", "where: No such file or directory"),
    ],
)
def test_a_checkpoint_that_does_not_fit(run, large, change, message):
    how = ["check", f"{large}::large/large", *DPOR, "--max-executions", "50"]
    run(*how, "--checkpoint", "where")
    data = json.loads(Path("where").read_text())
    if change == "the case":
        Path(large).write_text(Path(large).read_text() + "# another\n")
        from mmlitmus.checker import checkpoint

        checkpoint._case_hash.cache_clear()
    elif change == "the engine":
        how[2:4] = ["--engine", "sample"]
    elif change == "the path":
        del data["rows"]["large/large on v1"]["search"]["path"]
        sealed(data)
    elif change == "gone":
        Path("where").unlink()
    elif isinstance(change, str):
        Path("where").write_text(change)
    else:
        sealed({**data, **change})
    assert run(*how, "--resume", "where") == (2, "", f"mmlitmus: {message}\n")


def test_no_change_of_one_character_gets_through(run, large):
    how = ["check", f"{large}::large/large", *DPOR, "--max-executions", "50"]
    run(*how, "--checkpoint", "where")
    good = Path("where").read_text()
    messages = set()
    for at in range(0, len(good), max(1, len(good) // 150)):
        other = "1" if good[at] != "1" else "2"
        Path("where").write_text(good[:at] + other + good[at + 1 :])
        code, out, err = run(*how, "--resume", "where")
        assert (code, out, err.count("\n")) == (2, "", 1), (at, good[at])
        messages.add(err)
    assert "mmlitmus: where: damaged or changed: its checksum is not that of what it holds\n" in messages
    for bad in (good[:-1], good + " ", good.replace('"walks"', '"walks" ', 1), good.replace(",", ", ", 1)):
        if bad != good:
            Path("where").write_text(bad)
            assert run(*how, "--resume", "where")[:2] == (2, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_table_is_printed_where_the_checkpoint_cannot_be_written(run, large, monkeypatch, processes):
    from mmlitmus.checker import checkpoint

    how = ["check", large, *DPOR, "--max-executions", "50", "-j", processes]
    plain = run(*how)
    real = Path.write_bytes

    def full(path, data):
        if not path.name.startswith("where."):
            return real(path, data)
        if not Path("where").exists():
            return real(path, data)
        with path.open("wb") as part:
            part.write(data[:10])
        with open("/dev/full", "wb", buffering=0) as file:
            return file.write(data)

    monkeypatch.setattr(checkpoint.Path, "write_bytes", full)
    code, out, err = run(*how, "--checkpoint", "where", "--checkpoint-every", "0")
    assert out == plain[1]
    assert code == 2
    said = "mmlitmus: where: No space left on device: how far the searches have come is not written down\n"
    assert err.endswith(said)
    assert [path.name for path in Path().glob("where*")] == ["where"]
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--checkpoint", "a", "--resume", "b"], "--checkpoint or --resume, not both"),
        (["--engine", "naive", "--checkpoint", "a"], "a search by naive cannot be written down"),
        ([*DPOR, "--walks", "5"], "--walks is for --engine sample"),
        ([*DPOR, "--seed", "0"], "--seed is for --engine sample"),
        (["--max-memory", "much"], "'much' is no size: write 800M, 2G or a number of bytes"),
        (["--max-seconds", "0"], "0"),
        (["--cluster", "tcp://x:1", "-j", "2"], "-j or --cluster, not both"),
    ],
)
def test_wrong_use(run, args, message):
    code, out, err = run("check", "vfio/nested-locks", *args)
    assert (code, out) == (2, "")
    assert message in err


def test_a_checkpoint_is_not_written_over_anything(run, shipped):
    Path("there").write_text("a letter")
    assert run("check", *DPOR, "--checkpoint", "there") == (
        2, "", "mmlitmus: there is there already; --resume there goes on with it\n"
    )  # fmt: skip
    assert Path("there").read_text() == "a letter"
    code, _, err = run("check", *DPOR, "--checkpoint", "no/such/folder")
    assert (code, err) == (2, "mmlitmus: no/such/folder: No such file or directory\n")
