"""check: tables, JSON, KTAP, exit status, and that nothing but the arguments decides the bytes."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

from mmlitmus.report.jsonout import SCHEMA, document
from waiting import WAIT

TWO_TASKS = '''
    @m.task
    def fault():
        toy.vfio_fault(m)

    @m.task
    def disable():
        toy.vfio_disable(m)
'''


def test_table(run):
    code, out, err = run("check")
    assert (code, err) == (0, "")
    assert out == """\
  kernel           result                                       search      traces
vfio/fault-vs-disable
  v1               sometimes stale-translation                  exhaustive       3  ok (expected)
  v2               never                                        exhaustive       2  ok
  v3               never                                        exhaustive       2  ok
  v3 +check-early  sometimes stale-translation                  exhaustive       3  ok (expected)
  v1 +check-early  n/a (check-early needs the lock of v2)                           ok
vfio/nested-locks
  v2               never                                        exhaustive       2  ok
  v2 +nested       sometimes deadlock memory_lock / other_lock  exhaustive       3  ok (expected)
2 cases x 6 kernels: 7 as expected, 0 surprises
"""


def test_table_on_one_line_where_it_fits(run):
    code, out, _ = run("check", "--kernel", "v3,v1", "vfio/fault-vs-disable")
    assert code == 0
    assert out == """\
case                   kernel  result                       search      traces
vfio/fault-vs-disable  v3      never                        exhaustive       2  ok
vfio/fault-vs-disable  v1      sometimes stale-translation  exhaustive       3  ok (expected)
1 case x 2 kernels: 2 as expected, 0 surprises
"""


def test_surprise(run, write):
    file = write("mine.py", f'@case(expect={{"v1": never}})\ndef mine(m):\n    "Mine?"{TWO_TASKS}')
    code, out, err = run("check", file)
    assert (code, err) == (1, "")
    assert out == """\
case  kernel  result                       search      traces
mine  v1      sometimes stale-translation  exhaustive       3  SURPRISE
    expected: never
    invariant stale-translation: the PTE still maps the device, which is off
    mmlitmus show mine.py --kernel v1 --schedule 'fault > dev.on.read; disable !e0c6394b'
1 case x 1 kernel: 0 as expected, 1 surprise
"""


def test_without_expectations(run, write):
    file = write("mine.py", f"@case()\ndef mine(m):{TWO_TASKS}")
    code, out, err = run("check", file, "--kernel", "all")
    assert (code, err) == (1, "")
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("mine ")] == ["found", "ok", "ok"]
    assert out.endswith("1 case x 3 kernels: 3 without expectation (2 clean, 1 with findings)\n")
    code, out, _ = run("check", file)  # the newest only
    assert code == 0
    assert "mine  v3      never   exhaustive       2  ok\n" in out


@pytest.mark.parametrize(
    ("expect", "status"),
    [
        ('never', "SURPRISE"), ('always("stale-translation")', "SURPRISE"), ('sometimes("memtype-leak")', "SURPRISE"),
        ('na("no path")', "ok"), ('sometimes("stale-translation")', "ok (expected)"),
        ('sometimes("stale-translation") & sometimes("memtype-leak")', "SURPRISE"),
    ],
)  # fmt: skip
def test_expectations(run, write, expect, status):
    code, out, _ = run("check", write("mine.py", f'@case(expect={{"v1": {expect}}})\ndef mine(m):{TWO_TASKS}'))
    assert code == (status == "SURPRISE")
    assert next(line for line in out.splitlines() if line.startswith("mine ")).endswith("  " + status)


def test_always(run, write):
    body = '    @m.task\n    def t():\n        m.dev.on\n        report("WARN", "w", "it warns")\n'
    code, out, _ = run("check", write("mine.py", f'@case(expect={{"v1": always("w")}})\ndef mine(m):\n{body}'))
    assert code == 0
    assert "always w" in out


def test_unreached_is_a_surprise(run, write):
    head = '@case(reach=("the moon",), names=("the moon",))'
    code, out, _ = run("check", write("mine.py", f"{head}\ndef mine(m):{TWO_TASKS}"))
    assert code == 1
    assert "    never reached: the moon\n" in out


def test_unfinished(run, write):
    file = write("mine.py", f'@case(expect={{"v1": sometimes("stale-translation")}})\ndef mine(m):{TWO_TASKS}')
    code, out, _ = run("check", file, "--max-executions", "1")
    assert code == 3
    assert "not-seen  bounded(1)       1  unfinished\n" in out
    assert "1 unfinished" in out
    code, out, _ = run("check", file, "--max-executions", "2")
    assert "seen stale-translation" in out
    (row,) = json.loads(run("check", file, "--max-executions", "2", "--json")[1])
    assert row["result"] == "seen"
    assert row["search"] == "bounded(2 executions)"


def test_asks_and_ignores(run, write):
    rows = json.loads(run("check", "vfio/nested-locks", "--json")[1])
    assert [note["name"] for note in rows[1]["notes"]] == ["inversion memory_lock -> other_lock -> memory_lock"]
    file = write("mine.py", f'@case(asks=("memtype-leak",))\ndef mine(m):{TWO_TASKS}')
    code, out, _ = run("check", file, "--kernel", "v1", "--verbose")
    assert code == 0
    assert "not asked about: invariant stale-translation" in out


def test_verbose_has_bounds_and_evidence(run):
    _, out, _ = run("check", "-v", "vfio/fault-vs-disable", "--kernel", "v2")
    assert "    bounds: pages 1\n    evidence: recorded\n" in out


def test_engines_agree(run):
    assert run("check")[1] == run("check", "--engine", "naive")[1]


@pytest.mark.parametrize("word", ["vfio", "vfio/fault*", "S-01", "004", "C-1", "vfio/fault-vs-disable"])
def test_patterns(run, word):
    _, out, _ = run("check", word, "--kernel", "v2")
    assert "vfio/fault-vs-disable  v2" in out


def test_with(run):
    code, out, _ = run("check", "vfio/fault-vs-disable", "--with", "check-early", "--with", "slow")
    assert code == 1  # found, and nothing was expected of that one
    assert "v3 +check-early slow" in out
    _, out, _ = run("check", "vfio/fault-vs-disable", "--with", "check-early", "--kernel", "v1,v3")
    assert "n/a" in out  # on v1; it applies to v3


def test_timing(run):
    _, out, _ = run("check", "vfio/nested-locks", "--timing")
    assert re.search(r"traces +time\n", out)
    assert re.search(r"exhaustive +2 +\d+ ms  ok\n", out)
    (row, _) = json.loads(run("check", "vfio/nested-locks", "--timing", "--json")[1])
    assert row["seconds"] >= 0


# ---------------------------------------------------------------- machines read it


def valid(data, schema, at="$"):
    """The part of JSON Schema that the schema uses."""
    if "enum" in schema:
        assert data in schema["enum"], at
    if "type" in schema:
        names = {"string": str, "array": list, "object": dict, "boolean": bool, "null": type(None),
                 "integer": int, "number": (int, float)}  # fmt: skip
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(isinstance(data, names[k]) and (k == "boolean" or data is not True) for k in kinds), at
    if isinstance(data, list):
        for n, item in enumerate(data):
            valid(item, schema.get("items", {}), f"{at}[{n}]")
    if isinstance(data, dict):
        assert set(schema.get("required", ())) <= set(data), at
        for key, value in data.items():
            more = schema.get("additionalProperties", {})
            assert key in schema.get("properties", {}) or more is not False, f"{at}.{key}"
            valid(value, schema.get("properties", {}).get(key, more), f"{at}.{key}")


@pytest.mark.parametrize("args", [(), ("--timing",), ("--max-executions", "1"), ("--kernel", "all")])
def test_json_follows_its_schema(run, args):
    rows = json.loads(run("check", "--json", *args)[1])
    assert rows
    valid(rows, SCHEMA)


def test_the_schema_check_can_fail(run):
    rows = json.loads(run("check", "--json")[1])
    for spoilt in ({"ok": 1}, {"result": "maybe"}, {"more": 1}, {"traces": "3"}):
        with pytest.raises(AssertionError):
            valid([{**rows[0], **spoilt}], SCHEMA)
    del rows[0]["ok"]
    with pytest.raises(AssertionError):
        valid(rows, SCHEMA)


def test_json_row(run):
    rows = json.loads(run("check", "--json")[1])
    assert rows[3] == {
        "case": "vfio/fault-vs-disable", "kernel": "v3", "patches": ["check-early"], "config": [],
        "result": "sometimes", "ok": True, "expected": "sometimes stale-translation", "evidence": "dossier",
        "search": "exhaustive", "traces": 3, "executions": 3, "events": rows[3]["events"], "bounds": {"pages": 1},
        "violations": [{
            "kind": "invariant", "name": "stale-translation", "mode": "sometimes", "preemptions": 1, "minimal": True,
            "message": "the PTE still maps the device, which is off",
            "schedule": rows[3]["violations"][0]["schedule"],
        }],
        "notes": [], "unreached": [], "reason": None,
    }  # fmt: skip
    assert rows[3]["violations"][0]["schedule"].startswith("fault > ")
    assert rows[4]["result"] == "n/a"
    assert rows[4]["reason"] == "check-early needs the lock of v2"


def test_docs_have_the_schema():
    docs = Path(__file__).resolve().parents[2] / "docs" / "json.md"
    assert docs.read_text() == document(), "run python -m mmlitmus.report.jsonout > docs/json.md"


def read_ktap(lines, indent=""):
    """The results of a KTAP document, checked for its grammar: {name: ok or {...}}."""
    assert lines.pop(0) == indent + "KTAP version 1"
    while lines[0].startswith(indent + "# "):
        lines.pop(0)
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", lines.pop(0))
    results = {}
    for n in range(1, int(plan[1]) + 1):
        inner = None
        while not (m := re.fullmatch(rf"{indent}(ok|not ok) {n} ([^#]+?)( # SKIP .*)?", lines[0])):
            if lines[0] == indent + "  KTAP version 1":
                inner = read_ktap(lines, indent + "  ")
            else:
                assert lines.pop(0).startswith(indent + "# ")
        lines.pop(0)
        assert m[2] not in results
        results[m[2]] = (m[1] == "ok", inner) if inner is not None else m[1] == "ok"
    return results


def test_ktap(run, write):
    file = write("mine.py", f'@case(expect={{"v1": never, "v2": never}})\ndef mine(m):{TWO_TASKS}')
    bad = write("bad.py", '@case()\ndef bad(m):\n    raise KeyError("x")\n')
    code, out, _ = run("check", "vfio/fault-vs-disable", file, bad, "--ktap")
    assert code == 2
    lines = out.splitlines()
    assert read_ktap(lines) == {
        "vfio/fault-vs-disable": (True, dict.fromkeys(["v1", "v2", "v3", "v3 +check-early", "v1 +check-early"], True)),
        "mine": (False, {"v1": False, "v2": True}),
        "bad": (False, {"v3": False}),
    }
    assert lines == []


# ---------------------------------------------------------------- the same bytes


@pytest.mark.parametrize("form", [(), ("--json",), ("--ktap",), ("-v",)])
def test_same_bytes(process, form):
    args = ("check", "--kernel", "v1,v2,v3 +check-early,v2 +nested", *form)
    runs = [process(*args, "-j", j, seed=seed) for j, seed in (("1", "0"), ("1", "1"), ("3", "2"), ("2", "3"))]
    outs = {(p.communicate(timeout=WAIT), p.returncode) for p in runs}
    assert len(outs) == 1
    ((out, err), code) = outs.pop()
    assert out, err
    assert (err, code) == ("", 1)


# ---------------------------------------------------------------- accidents


def test_a_worker_dies(process, write):
    file = write("dies.py", """
import os
from pathlib import Path

@case(expect={"v1": never, "v2": never})
def before(m):
    m.task(lambda: m.dev.on)

@case()
def dies(m):
    @m.task
    def t():
        os._exit(7)

@case()
def once(m):
    if not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), 9)
    @m.task
    def t():
        m.dev.on

@case()
def after(m):
    @m.task
    def t():
        m.dev.on
""".replace("m.task(lambda: m.dev.on)", "@m.task\n    def t():\n        m.dev.on"))
    p = process("check", file, "-j", "2")
    out, err = p.communicate(timeout=WAIT)
    assert p.returncode == 2
    assert [line.split()[:2] for line in out.splitlines()[1:-1]] == [
        ["dies/before", "v1"], ["dies/before", "v2"], ["dies/once", "v3"], ["dies/after", "v3"]
    ]  # fmt: skip
    assert "1 could not be run" in out
    told = err.splitlines()
    assert [line for line in told if "dies/once" in line] == [
        "mmlitmus: dies.py:19: dies/once: its worker died (signal 9); running it again"
    ]
    assert [line for line in told if "dies/dies" in line] == [
        "mmlitmus: dies.py:13: dies/dies: its worker died (exit code 7); running it again",
        "mmlitmus: dies.py:13: dies/dies: its worker died twice (exit code 7) (on v3)",
    ]


@pytest.mark.parametrize("j", ["1", "2"])
def test_ctrl_c(process, write, j):
    file = write("long.py", """
from pathlib import Path

@case(expect={"v1": never})
def quick(m):
    @m.task
    def t():
        m.dev.on

@case(expect={"v1": never, "v2": never})
def endless(m):
    Path("started").touch()
    for n in range(5):
        def t():
            for _ in range(5):
                m.dev.on = True
        t.__name__ = f"t{n}"
        m.task(t)
""")
    # A shell that starts the tests in the background has made them, and what they start, deaf to SIGINT.
    p = process(
        "check", file, "-j", j, "--max-executions", "1000000000", start_new_session=True,
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
    assert re.search(r"long/quick +v1 +never", out)
    assert out.endswith("1 case x 1 kernel: 1 as expected, 0 surprises, 2 not run\n")
    assert err == "mmlitmus: interrupted: 2 of 3 rows were not run: long/endless on v1, long/endless on v2\n"


def test_reductions_can_be_turned_off(run, write):
    file = write(
        "two.py",
        "@case()\ndef two(m):\n    @m.task\n    def a():\n        m.dev.on\n        m.dev.on\n\n"
        "    @m.task\n    def b():\n        m.dev.on\n        m.dev.on\n",
    )

    def states(*more):
        code, out, _ = run("check", file, "--kernel", "v3", "--engine", "stateful", "--json", *more)
        (row,) = json.loads(out)
        assert (code, row["result"], row["search"]) == (0, "never", "exhaustive(states)")
        return row["stateful"]["states"]

    assert states() < states("--no-reduce")
    code, _, err = run("check", file, "--no-reduce")
    assert code == 2
    assert "--no-reduce is for --engine stateful or auto" in err
