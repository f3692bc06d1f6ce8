"""Bad input of any kind: one message that names file and line, exit status 2, and the other cases still run."""

import pytest

from mmlitmus.checker import guard
from waiting import WAIT

GOOD = '\n\n@case()\ndef good(m):\n    @m.task\n    def t():\n        m.dev.on\n'

TASK = "@case()\ndef a(m):\n    @m.task\n    def t():\n        m.dev.on\n"

FILES = [
    ("x = (\n", "bad.py:3: SyntaxError: '(' was never closed"),
    ("import nowhere_at_all\n", "bad.py:3: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ("", "bad.py:1: no case in this file: nothing is decorated with @case(...)"),
    ("import sys\nsys.exit(3)\n", "bad.py:4: SystemExit: 3"),
    ("1 / 0\n", "bad.py:3: ZeroDivisionError: division by zero"),
    ('@case(expect={"v1": "never"})\ndef a(m): ...\n',
     "bad.py:3: TypeError: expect['v1'] is 'never'; write never, sometimes(...), always(...) or na(...)"),
    ('@case(expect={"v1": sometimes("memtype-leak")}, ignores=("memtype-leak",))\ndef a(m): ...\n',
     "bad.py:3: TypeError: expect['v1'] speaks of 'memtype-leak', which the case does not ask about"),
    ('@case(evidence={"v1": "source"})\ndef a(m): ...\n',
     "bad.py:3: TypeError: evidence['v1'] speaks of a kernel that is not in expect"),
    ('@case(reach="fault")\ndef a(m): ...\n', "bad.py:3: TypeError: reach takes a tuple of strings"),
    ("@case\ndef a(m): ...\n", "bad.py:3: TypeError: write @case(), with parentheses"),
    ('@case("x")\ndef a(m): ...\n@case("x")\ndef b(m): ...\n', "bad.py:5: a second case with the id 'x'"),
    ('@case(expect={"v9": never})\ndef a(m): ...\n',
     "bad.py:3: there is no release 'v9': they are v1, v2, v3 (on v9)"),
    ("@case()\ndef a(m): ...\n", "bad.py:3: bad puts no task on the machine (on v3)"),
    ('@case()\ndef a(m):\n    raise KeyError("x")\n', "bad.py:5: building the machine: KeyError: 'x' (on v3)"),
    ("import helper\n\n@case()\ndef a(m):\n    helper.f()\n",
     "helper.py:2: building the machine: KeyError: 'y' (on v3)"),
    (TASK + "    @m.check\n    def c():\n        1 / 0\n        yield\n",
     "bad.py:10: checking bad: ZeroDivisionError: division by zero (on v3)"),
    ("runs = []\n" + TASK + "        runs.append(1)\n        if len(runs) == 1:\n            bug('x', 'y')\n",
     "bad.py:4: bad does not do the same twice (does it draw random numbers, or keep state?) (on v3)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), FILES, ids=[m.split(": ", 1)[1][:40] for _, m in FILES])
def test_bad_file(run, write, text, message):
    write("helper.py", "def f():\n    raise KeyError('y')\n", head="")
    bad, good = write("bad.py", text), write("good.py", GOOD)
    code, out, err = run("check", bad, good)
    assert err == f"mmlitmus: {message}\n"
    assert code == 2
    assert "good  v3      never   exhaustive       1  ok\n" in out


def test_missing_file(run):
    assert run("check", "missing.py") == (2, "", "mmlitmus: missing.py: no such file\n")


def test_one_message_for_many_kernels(run, write):
    code, _, err = run("check", write("bad.py", "@case()\ndef a(m):\n    1 / 0\n"), "--kernel", "all")
    assert code == 2
    assert err == "mmlitmus: bad.py:5: building the machine: ZeroDivisionError: division by zero (on v1 and 2 more)\n"


def test_a_task_that_raises_is_a_finding(run, write):
    code, out, err = run("check", write("bad.py", TASK + "        m.dev.nosuch\n"))
    assert (code, err) == (1, "")
    assert "always raised AttributeError" in out
    assert "SURPRISE" in out
    assert "bad.py:8 in t" in "".join(line.strip() + " " for line in out.splitlines())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("while True:\n    pass\n", "bad.py:3: importing this file does not end: 2 s of CPU without progress\n"),
        ("@case()\ndef a(m):\n    while True:\n        pass\n",
         "bad.py:5: building the machine: bad does not end: 2 s of CPU without progress (on v3)\n"),
    ],
)  # fmt: skip
def test_never_ends(run, write, monkeypatch, text, message):
    monkeypatch.setattr(guard, "PATIENCE", 2)
    monkeypatch.setattr(guard, "TICK", 0.1)
    code, _, err = run("check", write("bad.py", text.replace("    pass", "    x = 1")))
    assert code == 2
    told, wanted = err.removeprefix("mmlitmus: bad.py:"), message.removeprefix("bad.py:")
    assert told.split(":", 1)[1] == wanted.split(":", 1)[1]
    assert abs(int(told.split(":")[0]) - int(wanted.split(":")[0])) <= 1  # either line of the loop


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["check", "--kernel", "v9"], "there is no release 'v9': they are v1, v2, v3"),
        (["check", "--with", "zz"], "there is no patch 'zz': they are check-early, nested"),
        (["check", "--kernel", "v1 fast"], "there is no config option 'fast': they are slow"),
        (["check", "vfoi"], "no case matches 'vfoi'; did you mean vfio?"),
        (["check", "zzzzzz"], "no case matches 'zzzzzz'; `mmlitmus list` shows them all"),
        (["list", "zzzzzz"], "no case matches 'zzzzzz'; `mmlitmus list` shows them all"),
        (["show", "vfio"], "'vfio' names 2 cases; say which: vfio/fault-vs-disable, vfio/nested-locks"),
        (["show", "vfio/fault-vs-disable", "--kernel", "v1,v2"], "one kernel at a time, and not v1, v2"),
        (["show", "vfio/fault-vs-disable", "--schedule", "zz"],
         "schedule of vfio/fault-vs-disable on v1: there is no task 'zz': the tasks are fault, disable"),
        (["show", "vfio/fault-vs-disable", "--schedule", "fault >>"],
         "schedule of vfio/fault-vs-disable on v1: cannot read 'fault >>': a segment is TASK, or TASK > EVENT"),
        (["replay", "disable; disable", "vfio/fault-vs-disable"],
         "schedule of vfio/fault-vs-disable on v1: disable: disable cannot go on there: it has ended"),
        (["replay", "fault", "vfio/fault-vs-disable", "--kernel", "v1 +nested"],
         "nested needs the lock of v2"),
        (["kernels", "nope"], "there is no release 'nope': they are v1, v2, v3"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_bad_words(run, args, message):
    assert run(*args) == (2, "", f"mmlitmus: {message}\n")


def test_an_event_that_no_longer_exists(run):
    code, out, err = run("show", "vfio/fault-vs-disable", "--schedule", "fault > pte[7].set; disable")
    assert (code, out) == (2, "")
    start = "mmlitmus: schedule of vfio/fault-vs-disable on v1: fault > pte[7].set: fault does no pte[7].set there"
    assert err.startswith(start)
    assert err.count("\n") == 1


def test_the_good_kernels_are_run(run):
    code, out, err = run("check", "vfio/nested-locks", "--kernel", "v9,v2")
    assert (code, err) == (2, "mmlitmus: there is no release 'v9': they are v1, v2, v3\n")
    assert "vfio/nested-locks  v2      never" in out


@pytest.mark.parametrize("args", [["check", "--bogus"], ["bogus"], ["check", "-j", "0"], ["check", "--json", "--ktap"]])
def test_wrong_use(run, args):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: mmlitmus")


def test_debug_shows_the_traceback(process, write):
    p = process("check", write("bad.py", "1 / 0\n"), "--debug")
    _, err = p.communicate(timeout=WAIT)
    assert p.returncode == 1  # Python's own
    assert "Traceback" in err
    assert "ZeroDivisionError" in err


def test_a_shipped_id_follows_its_path(run, shipped):
    file = shipped / "vfio" / "nested_locks.py"
    file.write_text(file.read_text().replace("@case(", '@case("vfio/another", '))
    code, out, err = run("check", "vfio", "--kernel", "v2")
    assert code == 2
    assert "the id 'vfio/another' must be 'vfio/nested-locks' or begin with 'vfio/nested-locks/'" in err
    assert "vfio/fault-vs-disable" in out
