"""bench/peers.py: what the other tools print is understood, and the scenarios are the same in each of them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmlitmus.explore.dpor import Dpor

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench" / "peers.py"
SPIN = shutil.which("spin") and shutil.which("gcc")
NIDHUGGC = shutil.which("nidhuggc")


def load(name: str, path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


peers = load("bench_peers", BENCH)
ours = load("bench_peers_ours", ROOT / "bench" / "peers" / "ours.py")

#: (scenario, faults, pages) -> states; those of the increments are counted below by other means
STATES = {
    ("ptl", 1, 1): 16,
    ("ptl", 2, 2): 171,
    ("ptl", 3, 3): 2574,
    ("increments", 2, 3): 195,
    ("increments", 3, 2): 904,
    ("vfio-", 1, 2): 86,
    ("vfio-", 2, 3): 859,
    ("vfio", 1, 2): 382,
    ("vfio", 2, 2): 1822,
}

SPIN_SAYS = """
(Spin Version 6.5.2 -- 6 December 2019)
	+ Partial Order Reduction

Full statespace search for:
	never claim         	- (none specified)
	assertion violations	+

State-vector 44 byte, depth reached 26, errors: 0
      176 states, stored
       22 states, matched
      198 transitions (= stored+matched)
        5 atomic steps
hash conflicts:         0 (resolved)

Stats on memory usage (in Megabytes):
    0.013	equivalent memory usage for states (stored*(State-vector + overhead))
"""
NIDHUGG_SAYS = "Trace count: 7134\nSleepset-blocked trace count: 74\nNo errors were detected.\n"


# -- parsing --------------------------------------------------------------------------------------------------------
def test_spin_says() -> None:
    assert peers.parse_spin(SPIN_SAYS) == {"states": 176, "transitions": 198, "errors": 0}
    assert peers.parse_spin(SPIN_SAYS.replace("errors: 0", "errors: 2"))["errors"] == 2


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "no number of states"),
        (SPIN_SAYS.replace("176 states, stored", "1.2345678e+08 states, stored"), "no number of states"),
        (SPIN_SAYS.replace("198 transitions", ""), "no number of transitions"),
        ("error: max search depth too small\n" + SPIN_SAYS, "did not complete"),
        ("Warning: Search not completed\n" + SPIN_SAYS, "did not complete"),
    ],
)
def test_spin_says_something_else(output: str, message: str) -> None:
    with pytest.raises(peers.PeerError, match=message):
        peers.parse_spin(output)


def test_nidhugg_says() -> None:
    assert peers.parse_nidhugg(NIDHUGG_SAYS) == {"traces": 7134, "blocked": 74}
    assert peers.parse_nidhugg("Trace count: 30\nNo errors were detected.\n") == {"traces": 30, "blocked": 0}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("Exception: Command returned an error", "no trace count"),
        ("Trace count: 1\n\n Error detected:\n  (<0>,1)\n", "found an error"),
    ],
)
def test_nidhugg_says_something_else(output: str, message: str) -> None:
    with pytest.raises(peers.PeerError, match=message):
        peers.parse_nidhugg(output)


def test_a_script_says() -> None:
    assert peers.parse_json('frontrun: using a library\n{"executions": 3}\nbye\n', "x") == {"executions": 3}
    with pytest.raises(peers.PeerError, match="x did not print its result"):
        peers.parse_json("Traceback\n", "x")


# -- what has to come out -------------------------------------------------------------------------------------------
def orders(times: tuple[int, ...]) -> int:
    """In how many orders tasks that take a lock so often each can take it, counted one by one."""
    if not any(times):
        return 1
    return sum(orders((*times[:n], left - 1, *times[n + 1 :])) for n, left in enumerate(times) if left)


@pytest.mark.parametrize(("faults", "pages"), [(1, 1), (1, 4), (2, 2), (2, 4), (3, 2), (4, 1)])
def test_the_closed_form_counts_the_orders_of_the_lock(faults: int, pages: int) -> None:
    assert peers.Scenario("ptl", faults, pages).traces == orders((pages,) * faults + (1,))


def test_the_closed_form_at_the_sizes_that_are_known() -> None:
    known = {(2, 2): 30, (2, 3): 140, (2, 4): 630, (2, 5): 2772, (2, 6): 12012, (3, 2): 630}
    assert {size: peers.Scenario("ptl", *size).traces for size in known} == known
    assert peers.Scenario("vfio", 2, 2).traces is None


@pytest.mark.parametrize(
    ("name", "faults", "pages", "traces"),
    [("ptl", 2, 2, 30), ("ptl", 1, 3, 4), ("ptl", 3, 1, 24), ("increments", 2, 2, 34), ("increments", 2, 3, 328)],
)
def test_e1_has_these_traces(name: str, faults: int, pages: int, traces: int) -> None:
    results = Dpor(ours.build(name, faults, pages)).run()
    assert (results.counts.complete, results.exhausted, dict(results.found)) == (traces, True, {})


def states_of_increments(tasks: int, times: int) -> int:
    """States of the increments, enumerated: the number, and of each task how often it wrote and what it has read."""
    first = (0, ((0, None),) * tasks)
    seen: set[Any] = {first}
    todo: list[Any] = [first]
    while todo:
        v, each = todo.pop()
        for t, (wrote, read) in enumerate(each):
            if wrote == times:
                continue
            now, mine = (v, (wrote, v)) if read is None else (read + 1, (wrote + 1, None))
            state = (now, (*each[:t], mine, *each[t + 1 :]))
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return len(seen)


def test_the_states_of_the_increments() -> None:
    for (name, tasks, times), states in STATES.items():
        if name == "increments":
            assert states_of_increments(tasks, times) == states


@pytest.mark.skipif(not SPIN, reason="spin and gcc are not installed (Debian: spin, gcc)")
@pytest.mark.parametrize(
    "size",
    [size if n % 2 == 0 else pytest.param(size, marks=pytest.mark.slow) for n, size in enumerate(STATES)],
    ids=lambda size: " ".join(map(str, size)),
)
def test_spin_has_these_states_and_the_monitors(size: tuple[str, int, int]) -> None:
    scenario = peers.Scenario(*size)
    said = peers.Bench(1, 60, None, None).spins(scenario)
    assert said["states"] - scenario.monitor == STATES[size]


@pytest.mark.parametrize("size", STATES, ids=lambda size: " ".join(map(str, size)))
def test_e2_has_these_states(size: tuple[str, int, int]) -> None:
    pytest.importorskip("mmlitmus.explore.stateful", reason="there is no E2 here")
    results = ours.search("e2", ours.build(*size))
    assert (results.states, results.exhausted, dict(results.found)) == (STATES[size], True, {})


@pytest.mark.skipif(not SPIN, reason="spin and gcc are not installed (Debian: spin, gcc)")
def test_the_promela_can_fail(tmp_path: Path) -> None:
    """Without the zap an entry stays behind, and SPIN says so."""
    model = (ROOT / "bench" / "peers" / "vfio.pml").read_text()
    broken = model.replace(":: linked -> zap()", ":: linked")
    assert broken != model
    (tmp_path / "broken.pml").write_text(broken)
    for command in (["spin", "-DM=0", "-a", "broken.pml"], ["gcc", "-w", "-DSAFETY", "-o", "pan", "pan.c"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(["./pan", "-w18"], cwd=tmp_path, capture_output=True, text=True)
    assert "assertion violated" in done.stdout
    assert "errors: 1" in done.stdout


def test_ours_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """... and so do we."""
    monkeypatch.setattr(ours, "zap_if_linked", lambda bar, pages: None)
    results = Dpor(ours.build("vfio-", 1, 2)).run()
    assert {f.name for f in results.found} == {"stale-pte"}


@pytest.mark.skipif(not NIDHUGGC, reason="nidhuggc is not installed")
@pytest.mark.parametrize(("name", "traces"), [("ptl", 30), ("increments", 34)])
def test_nidhugg_has_these_traces(name: str, traces: int) -> None:
    said = peers.Bench(1, 60, None, NIDHUGGC).nidhuggs(peers.Scenario(name, 2, 2))
    assert said["traces"] == traces


# -- the table --------------------------------------------------------------------------------------------------------
def row(**tools: Any) -> dict[str, Any]:
    """A row as Bench.row makes it."""
    made: dict[str, Any] = {"scenario": "ptl 2 2", "tasks": 3, "monitor": 5, "closed_form": 30}
    made |= dict.fromkeys(("e1", "e2", "e2r", "spin", "frontrun", "nidhugg"))
    made |= tools
    return {**made, "wrong": peers.wrong(made), "ratios": peers.ratios(made)}


E1 = {"traces": 30, "executions": 30, "run": 0.005, "all": 0.1}
E2 = {"states": 171, "executions": 20, "run": 0.02, "all": 0.2}
SPIN_ROW = {"states": 176, "transitions": 198, "run": 0.01, "all": 0.4}


def test_counts_that_agree() -> None:
    got = row(e1=E1, e2=E2, spin=SPIN_ROW, nidhugg={"traces": 30, "blocked": 0, "all": 0.3})
    assert got["wrong"] == []
    assert got["ratios"] == pytest.approx({"spin_all": 4, "spin_run": 2, "frontrun_rate": None, "nidhugg_all": 3})


def test_counts_that_do_not_agree() -> None:
    got = row(e1=E1 | {"traces": 29}, e2=E2, spin=SPIN_ROW | {"states": 177}, nidhugg={"traces": 30, "all": 0.3})
    assert got["wrong"] == [
        "E1 has 29 traces instead of 30",
        "E1 has 29 traces, Nidhugg 30",
        "E2 has 171 states, SPIN 172",
    ]


def test_a_peer_that_is_not_there_is_a_dash() -> None:
    head, line = peers.table([row(e1=E1, spin=peers.OVER)], peers.COLUMNS)
    assert line.split() == ["ptl", "2", "2", "30", "0.0050", "0.10", *"------", *["over"] * 3, *"----"]
    assert head.split()[:4] == ["scenario", "traces", "E1", "run"]
    bench = peers.Bench(1, 1, None, None, spin=False)
    assert [m.split(":")[0] for m in bench.missing()][-3:] == ["SPIN", "frontrun", "Nidhugg"]
    assert all(package in " ".join(bench.missing()) for package in ("spin and gcc", "package frontrun", "LLVM"))


def test_ratios_as_the_table_has_them() -> None:
    rows = [row(e1=E1, spin=SPIN_ROW | {"all": 12.0}), row(e2=peers.OVER, spin=SPIN_ROW), row(e1=E1)]
    lines = peers.table(rows, peers.RATIOS)
    assert [line.split()[3:] for line in lines[1:]] == [["120x", "2x", "-", "-"], ["over", "over", "-", "-"], ["-"] * 4]


def test_what_is_over_its_budget_is_not_tried_at_larger_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = peers.Bench(1, 1, None, None, spin=False)
    tried = []

    def over(engine: str, s: Any) -> str:
        tried.append((engine, str(s)))
        return peers.OVER

    monkeypatch.setattr(bench, "ours", over)
    monkeypatch.setattr(peers, "E2_IS_THERE", False)
    known: set[str] = set()
    rows = [bench.row(peers.Scenario("vfio", 1, n), known) for n in (2, 4)]
    assert ([r["e1"] for r in rows], tried) == (["over", "over"], [("e1", "vfio 1 2")])


def test_a_tool_that_fails_is_named_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = peers.Bench(1, 1, None, None, spin=True)

    def failing(s: Any) -> None:
        raise peers.PeerError("spin ended with 1")

    monkeypatch.setattr(bench, "ours", lambda engine, s: E1 if engine == "e1" else E2)
    monkeypatch.setattr(bench, "spins", failing)
    got = bench.row(peers.Scenario("ptl", 2, 2), set())
    assert (got["e1"], got["spin"], got["wrong"]) == (E1, None, ["spin ended with 1"])


def test_a_call_that_takes_too_long_and_one_that_fails(tmp_path: Path) -> None:
    assert peers.run([sys.executable, "-c", "while True: pass"], tmp_path, 1) is None
    with pytest.raises(peers.PeerError, match="ended with 3: so it goes"):
        peers.succeed([sys.executable, "-c", "print('so it goes'); raise SystemExit(3)"], tmp_path, 5)
    with pytest.raises(peers.PeerError, match="no-such-command: No such file"):
        peers.run(["no-such-command"], tmp_path, 1)


def test_frontruns_executions_may_differ_from_run_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([20, 22, 21])

    def succeed(*_: Any) -> Any:
        text = {"executions": next(said), "cpu": 0.1, "wall": 0.3, "orders": 0}
        return peers.Ran(0.5, json.dumps(text) + "\n", 0)

    monkeypatch.setattr(peers, "succeed", succeed)
    got = peers.Bench(3, 1, "frontrun", None).frontruns(peers.Scenario("ptl", 2, 2))
    assert got == {"executions": 21, "run": 0.1, "wall": 0.3, "all": 0.5}
    assert peers.rate_text(row(frontrun=got), "frontrun") == "210"


def test_two_runs_that_differ() -> None:
    said = iter([{"states": 1, "all": 0.1}, {"states": 2, "all": 0.1}])
    with pytest.raises(peers.PeerError, match="two runs differ"):
        peers.Bench(3, 1, None, None).medians(lambda: next(said))


def test_times_are_medians() -> None:
    said = iter([{"states": 1, "all": t} for t in (0.3, 0.1, 0.2)])
    assert peers.Bench(3, 1, None, None).medians(lambda: next(said)) == {"states": 1, "all": 0.2}


# -- the command ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--repeat", "0"], "--repeat must be at least 1"),
        (["--seconds", "-1"], "--seconds must be at least 1"),
        (["--frontrun", "/nowhere/frontrun"], "there is no command /nowhere/frontrun"),
    ],
)
def test_bad_options(args: list[str], message: str) -> None:
    done = subprocess.run([sys.executable, BENCH, *args], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.slow
def test_a_quick_run() -> None:
    done = subprocess.run([sys.executable, BENCH, "--quick", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [r for group in json.loads(done.stdout)["groups"].values() for r in group]
    assert [r["e1"]["traces"] for r in rows][:3] == [34, 30, 630]
    assert [r["wrong"] for r in rows] == [[]] * len(rows)
