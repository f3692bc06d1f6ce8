"""Every row in its own guard: what one row does costs that row, and no other row can tell that it was run."""

import json

import pytest

GOOD = '''
@case("{0}/good")
def good_{0}(m):
    @m.task
    def t():
        m.dev.on = False
'''
ENDS = {
    "sys.exit(0) in a check": ("m.check(lambda: sys.exit(0))", "SystemExit: 0"),
    "sys.exit(0) in a task": ("m.task(lambda: sys.exit(0))", "SystemExit: 0"),
    "sys.exit(0) in the set-up": ("sys.exit(0)", "building the machine: SystemExit: 0"),
    "BaseException": ("m.check(lambda: (_ for _ in ()).throw(BaseException('x')))", "BaseException: x"),
    "no Finding": ("m.check(lambda: [7])", "AttributeError"),
    "no string": ("m.task(lambda: report('BUG', 7, 'x'))", "finds 7 ('x'); kind, name and message of a finding are"),
    "os._exit(0)": ("m.check(lambda: os._exit(0))", "its worker died twice (exit code 0)"),
    "a signal": ("m.check(lambda: os.kill(os.getpid(), 9))", "its worker died twice (signal 9)"),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_row_that_ends_badly_costs_that_row_only(run, write, how):
    text, message = ENDS[how]
    bad = f"""
@case("bad")
def bad(m):
    m.task(lambda: setattr(m.dev, "on", True)) if "task" not in {text!r} else None
    {text}
"""
    file = write("rows.py", "import os\nimport sys\n" + GOOD.format("a") + bad + GOOD.format("b"))
    one, two = (run("check", file, "--kernel", "v3", "-j", n) for n in ("1", "2"))
    assert one[:2] == two[:2]
    assert sorted(one[2].splitlines()) == sorted(two[2].splitlines())
    code, out, err = one
    assert code == 2
    assert message in err
    assert [word for word in ("a/good", "b/good") if word in out] == ["a/good", "b/good"]
    assert "1 could not be run" in out


def test_a_check_that_exits_leaves_the_table_and_no_exit_status_0(run, write):
    text = "import sys\n@case()\ndef mine(m):\n    m.task(lambda: 0)\n    m.check(lambda: sys.exit(0))\n"
    code, out, _ = run("check", write("mine.py", text))
    assert code == 2
    assert "1 could not be run" in out


STATE = '''
COUNT = []

@case("one")
def one(m):
    COUNT.append(1)
    @m.task
    def t():
        m.dev.on = False

@case("two", names=("one was here",))
def two(m):
    n = len(COUNT)
    @m.task
    def t():
        if n:
            report("invariant", "one was here", "...")
'''


def test_what_a_module_keeps_is_not_seen_by_the_next_row(run, write):
    file = write("state.py", STATE)
    told = []
    for words in ([file], [f"{file}::two", f"{file}::one"], [file, "-j", "2"], [f"{file}::two"]):
        _, out, err = run("check", "--kernel", "v3", "--json", *words)
        assert err == ""
        told.append({row["case"]: row for row in json.loads(out)})
    assert all(rows["two"]["result"] == "never" for rows in told)
    assert told[0] == told[1] == told[2]
    assert told[3]["two"] == told[0]["two"]


def test_a_patch_that_applies_nowhere_is_wrong_use(run):
    code, out, err = run("check", "vfio/fault-vs-disable", "--kernel", "v1", "--with", "check-early")
    assert (code, out) == (2, "")
    assert err == "mmlitmus: check-early needs the lock of v2\n"
    assert run("check", "vfio/fault-vs-disable", "--kernel", "v1 +check-early") == (code, out, err)
    code, out, _ = run("check", "vfio/fault-vs-disable", "--kernel", "v1,v3", "--with", "check-early")
    assert code == 0  # v3 has the lock; v1's row says why not
    assert "n/a" in out


def test_what_was_not_searched_has_an_exit_status_of_its_own(run, write):
    text = "@case()\ndef mine(m):\n    @m.task\n    def t():\n        while True:\n            m.dev.on = False\n"
    code, out, _ = run("check", write("mine.py", text), "--kernel", "v3")
    assert code == 3
    assert "unfinished" in out
    assert "(0 clean, 0 with findings)" in out


def test_sometimes_is_not_said_of_one_trace(run, write):
    text = """@case()
def mine(m):
    @m.task
    def t():
        m.memory_lock.down_read(); m.other_lock.lock(); m.other_lock.unlock(); m.memory_lock.up_read()
        m.other_lock.lock(); m.memory_lock.down_read(); m.memory_lock.up_read(); m.other_lock.unlock()
"""
    _, out, _ = run("check", write("mine.py", text), "--kernel", "v3", "--json")
    (row,) = json.loads(out)
    assert (row["traces"], row["result"]) == (1, "always")
