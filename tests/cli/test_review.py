"""review: which verdicts a patch changes, on which kernels; exit status; the same bytes for any -j."""

import json
import signal
import time
from pathlib import Path

import pytest
from test_check import TWO_TASKS, valid

from mmlitmus.report.reviewjson import SCHEMA
from waiting import WAIT


def test_table(run):
    code, out, err = run("review", "check-early")
    assert (code, err) == (0, "")
    assert out == """\
  kernel  before  after
vfio/fault-vs-disable
  v2, v3  never   sometimes stale-translation  broken
vfio/nested-locks
  v2      never   sometimes stale-translation  broken

mmlitmus show vfio/fault-vs-disable --kernel 'v2 +check-early'

+check-early does not apply to v1: check-early needs the lock of v2

2 cases x 2 kernels: 0 fixed, 3 broken, 0 changed, 0 unchanged
"""


def test_several_patches(run):
    code, out, err = run("review", "check-early", "+nested", "--cases", "vfio/nested-locks")
    assert (code, err) == (0, "")
    assert out == """\
vfio/nested-locks on v2
  without       never
  +check-early  sometimes stale-translation                                     broken
  +nested       sometimes deadlock memory_lock / other_lock                     broken
  both          sometimes deadlock memory_lock / other_lock, stale-translation  broken

mmlitmus show vfio/nested-locks --kernel 'v2 +check-early'

+check-early does not apply to v1: check-early needs the lock of v2
+nested does not apply to v1: nested needs the lock of v2

+check-early: 1 case x 1 kernel: 0 fixed, 1 broken, 0 changed, 0 unchanged
+nested: 1 case x 1 kernel: 0 fixed, 1 broken, 0 changed, 0 unchanged
both: 1 case x 1 kernel: 0 fixed, 1 broken, 0 changed, 0 unchanged
"""


def test_kernels_and_cases(run):
    code, out, _ = run("review", "nested", "--kernel", "v3", "--cases", "vfio/fault-vs-disable", "--cases", "vfio/n*")
    assert code == 0
    assert "\n  v3      never   " in out
    assert "nested-locks" not in out  # it says nothing of v3
    assert "v2" not in out


def test_on_a_patched_kernel(run):
    code, out, _ = run("review", "nested", "--kernel", "v2 +check-early", "--cases", "vfio/nested-locks")
    assert code == 0
    assert "  v2 +check-early  sometimes stale-translation  sometimes deadlock memory_lock" in out
    assert "changed" in out


def test_all(run):
    _, out, _ = run("review", "--from", "v2", "--to", "v3", "--all")
    assert "vfio/fault-vs-disable  never  never  same\n" in out


def test_two_releases(run):
    code, out, err = run("review", "--from", "v1", "--to", "v2")
    assert (code, err) == (0, "")
    assert out == """\
case                   v1                           v2
vfio/fault-vs-disable  sometimes stale-translation  never  fixed
vfio/nested-locks      sometimes stale-translation  never  fixed

2 cases: 2 fixed, 0 broken, 0 changed, 0 unchanged
"""


def test_nothing_changes(run):
    code, out, _ = run("review", "--from", "v2", "--to", "v3")
    assert (code, out) == (0, "2 cases: 0 fixed, 0 broken, 0 changed, 2 unchanged\n")


# ---------------------------------------------------------------- expectations


def test_contradicted(run, write):
    file = write("mine.py", f'@case(expect={{"v2": never, "v2 +check-early": never}})\ndef mine(m):{TWO_TASKS}')
    code, out, err = run("review", "check-early", "--cases", file)
    assert code == 1
    assert err == (
        "mmlitmus: mine on v2 +check-early: the case expects never, and the result is sometimes stale-translation\n"
    )
    assert "  v2      never   sometimes stale-translation  broken\n" in out


def test_expectations_choose_rows_and_nothing_else(run, write):
    file = write("mine.py", f'@case(expect={{"v2": never, "v1": na("no")}})\ndef mine(m):{TWO_TASKS}')
    code, out, err = run("review", "check-early", "--cases", file)
    assert (code, err) == (0, "")
    assert "1 case x 1 kernel: 0 fixed, 1 broken" in out


def test_without_expectations(run, write):
    file = write("mine.py", f"@case()\ndef mine(m):{TWO_TASKS}")
    code, out, _ = run("review", "check-early", "--cases", file)
    assert code == 0
    assert "1 case x 2 kernels: 0 fixed, 2 broken, 0 changed, 0 unchanged\n" in out


def test_unfinished(run):
    args = ("--cases", "vfio/fault-vs-disable", "--kernel", "v3", "--max-executions", "1", "--all")
    code, out, err = run("review", "check-early", *args)
    assert (code, err) == (0, "")
    assert "  v3      not-seen  not-seen  same\n" in out


def test_the_other_engine(run):
    assert run("review", "check-early") == run("review", "check-early", "--engine", "naive")


# ---------------------------------------------------------------- machines read it


@pytest.mark.parametrize(
    "args", [("check-early",), ("check-early", "nested", "--all"), ("--from", "v1", "--to", "v3")]
)
def test_json_follows_its_schema(run, args):
    code, out, err = run("review", *args, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)
    valid(json.loads(out), SCHEMA)
    for spoilt in ({"change": "better"}, {"more": 1}, {"patches": "nested"}, {"after": None}):
        with pytest.raises(AssertionError):
            valid([{**json.loads(out)[0], **spoilt}], SCHEMA)


def test_json_object(run):
    made = json.loads(run("review", "check-early", "nested", "--json", "--cases", "vfio/nested-locks")[1])
    assert [(one["patches"], one["to"], one["change"]) for one in made] == [
        (["check-early"], "v2 +check-early", "broken"),
        (["nested"], "v2 +nested", "broken"),
        (["check-early", "nested"], "v2 +check-early +nested", "broken"),
    ]
    assert made[1] == {
        "case": "vfio/nested-locks", "kernel": "v2", "patches": ["nested"], "to": "v2 +nested", "before": "never",
        "after": "sometimes deadlock memory_lock / other_lock", "change": "broken",
        "expected": "sometimes deadlock memory_lock / other_lock",
    }  # fmt: skip
    assert made[0]["expected"] is None
    same = json.loads(run("review", "--from", "v2", "--to", "v3", "--json")[1])
    assert same == []
    assert [one["change"] for one in json.loads(run("review", "--from", "v2", "--to", "v3", "--json", "--all")[1])] == [
        "same", "same"
    ]  # fmt: skip


@pytest.mark.parametrize("form", [(), ("--json",), ("--all",)])
def test_same_bytes(process, form):
    args = ("review", "check-early", "nested", *form)
    runs = [process(*args, "-j", j, seed=seed) for j, seed in (("1", "0"), ("1", "1"), ("3", "2"), ("2", "3"))]
    outs = {(p.communicate(timeout=WAIT), p.returncode) for p in runs}
    assert len(outs) == 1
    ((out, err), code) = outs.pop()
    assert out, err
    assert (err, code) == ("", 0)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["early"], "no patch 'early'; did you mean check-early?"),
        (["check-erly"], "no patch 'check-erly'; did you mean check-early?"),
        (["slow"], "no patch 'slow'; `mmlitmus kernels` lists them"),
        ([""], "no patch ''; `mmlitmus kernels` lists them"),
        (["nested", "--kernel", "v1"], "+nested does not apply to v1: nested needs the lock of v2"),
        (["nested", "--kernel", "v9"], "there is no release 'v9': they are v1, v2, v3"),
        (["nested", "--kernel", "v1 +check-early"], "check-early needs the lock of v2"),
        (["nested", "--cases", "zzzzzz"], "no case matches 'zzzzzz'; `mmlitmus list` shows them all"),
        (["nested", "--kernel", "v3", "--cases", "vfio/nested-locks"], "no case asks anything of these kernels"),
        (["--from", "v1", "--to", "v9"], "there is no release 'v9': they are v1, v2, v3"),
        (["--from", "v2", "--to", "v2"], "--from and --to name one kernel each, and not the same"),
        (["--from", "all", "--to", "v2"], "--from and --to name one kernel each, and not the same"),
        (["--from", "v1", "--to", "v1 +nested"], "nested needs the lock of v2"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_bad_words(run, args, message):
    assert run("review", *args) == (2, "", f"mmlitmus: {message}\n")


@pytest.mark.parametrize(
    "args", [[], ["--from", "v1"], ["nested", "--from", "v1", "--to", "v2"], ["nested", "-j", "0"],
             ["--from", "v1", "--to", "v2", "--kernel", "v1"]],
)  # fmt: skip
def test_wrong_use(run, args):
    code, out, err = run("review", *args)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: mmlitmus review")


def test_the_good_kernels_are_reviewed(run):
    code, out, err = run("review", "nested", "--kernel", "v9,v2", "--cases", "vfio/nested-locks")
    assert (code, err) == (2, "mmlitmus: there is no release 'v9': they are v1, v2, v3\n")
    assert "1 case x 1 kernel: 0 fixed, 1 broken" in out


def test_a_case_that_cannot_be_run(run, write):
    bad = write("bad.py", '@case()\ndef bad(m):\n    if "nested" in m.kernel[1]:\n        raise KeyError("x")'
                + TWO_TASKS)  # fmt: skip
    code, out, err = run("review", "nested", "--kernel", "v2", "--cases", bad, "--cases", "vfio/nested-locks")
    assert code == 2
    assert err == "mmlitmus: bad.py:6: building the machine: KeyError: 'x' (on v2 +nested)\n"
    assert out.endswith("1 case x 1 kernel: 0 fixed, 1 broken, 0 changed, 0 unchanged\n1 could not be run\n")


@pytest.mark.parametrize("j", ["1", "2"])
def test_ctrl_c(process, write, j):
    file = write("long.py", """
from pathlib import Path

@case(expect={"v2": never})
def endless(m):
    Path("started").touch()
    for n in range(5):
        def t():
            for _ in range(5):
                m.dev.on = True
        t.__name__ = f"t{n}"
        m.task(t)
""")
    p = process(
        "review", "nested", "--cases", "vfio/nested-locks", "--cases", file, "-j", j,
        "--max-executions", "1000000000", start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    for _ in range(400):
        if Path("started").exists():
            break
        time.sleep(0.05)
    time.sleep(0.5)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=WAIT)
    assert p.returncode == 130
    assert out.endswith("1 case x 1 kernel: 0 fixed, 1 broken, 0 changed, 0 unchanged\n2 not run\n")
    assert err == "mmlitmus: interrupted: 2 of 4 rows were not run\n"


# ---------------------------------------------------------------- the model's own kernels

FORK = "fork/fork-then-disable"
HOLE = "always access-after-disable, stale-translation"
WARNS = f"{HOLE}, untrack-walk-failed"  # the copy of the flag is untracked before there are entries


@pytest.fixture
def real(capsys):
    """Review on the modelled kernels, as JSON."""
    from mmlitmus.cli.main import main

    def go(*args: str):
        code = main(["review", *args, "--json", "--all"])
        done = capsys.readouterr()
        assert (code, done.err) == (0, "")
        return json.loads(done.out)

    return go


def test_a_backport_without_its_other_half(real):
    found = {one["kernel"]: one["change"] for one in real("fork-defer-link", "--cases", FORK)}
    assert found["v6.1"] == found["v6.6"] == "broken"
    assert "v6.12" not in found  # it has it


def test_both_halves(real):
    made = real("fork-defer-link", "unmap-mapping-range", "--cases", FORK, "--kernel", "v6.1")
    assert [(one["patches"], one["after"]) for one in made] == [
        (["fork-defer-link"], WARNS),
        (["unmap-mapping-range"], "never"),
        (["fork-defer-link", "unmap-mapping-range"], "never"),
    ]


def test_the_half_that_is_there(capsys):
    from mmlitmus.cli.main import main

    code = main(["review", "fork-defer-link", "unmap-mapping-range", "--cases", FORK, "--kernel", "deb-6.1.192"])
    assert code == 0
    assert capsys.readouterr().out == f"""\
{FORK} on deb-6.1.192
  without               {HOLE}
  +fork-defer-link      (in it already)
  +unmap-mapping-range  never                                           fixed

+fork-defer-link does not apply to deb-6.1.192: dup_mmap is open-before-copy there already

+unmap-mapping-range: 1 case x 1 kernel: 1 fixed, 0 broken, 0 changed, 0 unchanged
"""


def test_what_the_distribution_changed(real):
    made = real("--from", "v6.1", "--to", "deb-6.1.192", "--cases", "fork")
    assert [(one["case"], one["before"], one["after"], one["change"]) for one in made if one["change"] != "same"] == [
        (FORK, "never", HOLE, "broken")
    ]
    assert len(made) > 1
