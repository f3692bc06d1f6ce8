"""The same scenarios beside other tools: ``python bench/peers.py [--json] [--repeat N] [--quick]``.

Each scenario is written once for each tool, in the folder beside this file. Every measurement is a process of its own.
Times are CPU seconds, medians: "all" is from the shell to the answer, compiling included, "run" is the search alone.

================== ================================================================================================
ptl F N            F faults on N pages, one page-table lock taken once a page, and a zap that takes it once
vfio F N           F faults on N pages, a task that turns the memory off, one that unmaps (``vfio-``: without that one)
increments F N     F tasks increment a number N times each, without a lock
================== ================================================================================================

E1 and E2 are ours. SPIN's states are without those of the monitor (``Scenario.monitor``), so that they have to be E2's;
the traces have to be Nidhugg's, and those of ``ptl`` (FN+1)! / (N!)^F. Exit code 1 when they are not, or when a tool
fails. What does not end within the budget (``--seconds``) is "over", and larger sizes are not tried.

Peers: SPIN (Debian: spin, gcc), frontrun (PyPI: frontrun; beside this Python, on the PATH or named with --frontrun),
Nidhugg (nidhuggc on the PATH or named with --nidhuggc). A peer that is not there is a dash.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import factorial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "peers"
E2_IS_THERE = importlib.util.find_spec("mmlitmus") is None or importlib.util.find_spec("mmlitmus.explore.stateful")
#: a scenario with more traces than this is not given to tools that walk each of them
MANY = 20_000
#: the executions that frontrun is given
FRONTRUN_MOST = 1_000
#: faults x pages from which on SPIN has its default hash table, and the logarithm of that one and of a smaller one:
#: to zero 128 MB takes longer than most of these searches
LARGE, SLOTS, SLOTS_SMALL = 100, 24, 20
#: seconds after which a measurement is not made again
LONG = 5.0
OVER = "over"


@dataclass(frozen=True)
class Scenario:
    """One program: ``faults`` tasks (of increments: all tasks) on ``pages`` pages (of increments: times)."""

    name: str
    faults: int
    pages: int
    frontrun: bool = False

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return self.faults + {"ptl": 1, "vfio": 2, "vfio-": 1, "increments": 0}[self.name]

    @property
    def monitor(self) -> int:
        """The states that are SPIN's alone: the monitor's one step, and the end of each process, the monitor's too."""
        return 1 + self.tasks + 1

    @property
    def traces(self) -> int | None:
        """The traces in closed form, where there is one."""
        if self.name != "ptl":
            return None
        return factorial(self.faults * self.pages + 1) // factorial(self.pages) ** self.faults

    def __str__(self) -> str:
        return f"{self.name} {self.faults} {self.pages}"


PAGES = (2, 4, 8, 16, 32, 64)
#: growth: in each list the sizes rise, so that what is over its budget once stays so
GROUPS: dict[str, list[Scenario]] = {
    "increments": [Scenario("increments", 2, 3, True), Scenario("increments", 3, 2, True)],
    "pages, ptl": [Scenario("ptl", 2, n, n == 2) for n in sorted({*PAGES, 6})],  # 6: the most traces below MANY
    "pages, vfio": [Scenario("vfio", 1, n) for n in PAGES],
    "tasks, ptl": [Scenario("ptl", f, 2, f == 3) for f in range(1, 6)],
    "tasks, vfio": [Scenario("vfio-", 1, 2), *(Scenario("vfio", f, 2) for f in range(1, 5))],
}
QUICK: dict[str, list[Scenario]] = {
    "increments": [Scenario("increments", 2, 2, True)],
    "ptl": [Scenario("ptl", 2, 2, True), Scenario("ptl", 2, 4)],
    "vfio": [Scenario("vfio-", 1, 2), Scenario("vfio", 1, 2)],
}


class PeerError(Exception):
    """A tool did not say what it should have said; the text is for the user."""


# -- one process --------------------------------------------------------------------------------------------------
@dataclass
class Ran:
    """A process that has ended: CPU seconds with those of its children, what it printed, and its exit code."""

    cpu: float
    output: str
    code: int


def run(command: Sequence[str], where: Path, seconds: int) -> Ran | None:
    """Run a command; None when it did not end within so many CPU seconds. PeerError when it cannot be started."""

    with tempfile.TemporaryFile("w+", errors="replace") as out:
        try:
            child = subprocess.Popen(command, cwd=where, stdout=out, stderr=subprocess.STDOUT)
        except OSError as e:
            raise PeerError(f"{command[0]}: {e.strerror}") from e
        with suppress(ProcessLookupError):  # it may have ended already
            resource.prlimit(child.pid, resource.RLIMIT_CPU, (seconds, seconds + 1))
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        cpu = usage.ru_utime + usage.ru_stime
        if child.returncode == -signal.SIGXCPU or (child.returncode and cpu >= seconds * 0.8):
            return None  # it, or what it had started
        return Ran(cpu, out.read(), child.returncode)


def succeed(command: Sequence[str], where: Path, seconds: int) -> Ran | None:
    """``run``, and PeerError when the command fails."""
    ran = run(command, where, seconds)
    if ran is not None and ran.code:
        last = ran.output.strip().splitlines()[-1:] or ["it printed nothing"]
        raise PeerError(f"{Path(command[0]).name} ended with {ran.code}: {last[0]}")
    return ran


# -- what the tools print -------------------------------------------------------------------------------------------
def parse_spin(output: str) -> dict[str, int]:
    """States, transitions and errors that SPIN's verifier reports; PeerError unless the search was complete."""
    found = {
        "states": re.search(r"^\s*(\d+) states, stored", output, re.MULTILINE),  # from 10**8 on it rounds
        "transitions": re.search(r"^\s*(\d+) transitions", output, re.MULTILINE),
        "errors": re.search(r"\berrors: (\d+)", output),
    }
    if "Search not completed" in output or "max search depth too small" in output:
        raise PeerError("SPIN did not complete its search")
    said = {}
    for what, m in found.items():
        if m is None:
            raise PeerError(f"SPIN reports no number of {what}")
        said[what] = int(m[1])
    return said


def parse_nidhugg(output: str) -> dict[str, int]:
    """Complete traces and those cut by a sleep set, as Nidhugg reports them; PeerError if it found an error."""
    m = re.search(r"^Trace count: (\d+)", output, re.MULTILINE)
    if m is None:
        raise PeerError("Nidhugg reports no trace count")
    if "No errors were detected" not in output:
        raise PeerError("Nidhugg found an error in a program without one")
    cut = re.search(r"^Sleepset-blocked trace count: (\d+)", output, re.MULTILINE)
    return {"traces": int(m[1]), "blocked": int(cut[1]) if cut else 0}


def parse_json(output: str, tool: str) -> dict[str, Any]:
    """The one JSON object in what a script of ours printed; PeerError if there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            said: dict[str, Any] = json.loads(line)
            return said
    raise PeerError(f"{tool} did not print its result")


# -- the tools --------------------------------------------------------------------------------------------------------
@dataclass
class Bench:
    """How the tools are called, and how long each call may take."""

    repeat: int
    seconds: int
    frontrun: str | None
    nidhuggc: str | None
    spin: bool = field(default_factory=lambda: bool(shutil.which("spin") and shutil.which("gcc")))

    def missing(self) -> list[str]:
        """One line for each peer that is not there."""
        lines = []
        if not E2_IS_THERE:
            lines.append("E2: mmlitmus.explore.stateful is not there")
        if not self.spin:
            lines.append("SPIN: not there; Debian's packages spin and gcc bring it")
        if self.frontrun is None:
            lines.append("frontrun: not there; PyPI's package frontrun brings it (or name the command with --frontrun)")
        if self.nidhuggc is None:
            lines.append("Nidhugg: not built here; it wants LLVM, clang and Boost (name the command with --nidhuggc)")
        return lines

    def versions(self) -> dict[str, str]:
        """What was measured."""
        said = {"python": platform.python_version()}
        if self.spin:
            said["spin"] = first_line(["spin", "-V"]).removeprefix("Spin Version ").split(" --")[0]
            said["gcc"] = first_line(["gcc", "-dumpfullversion"])
        if self.frontrun is not None:
            code = "from importlib.metadata import version; print(version('frontrun'))"
            said["frontrun"] = first_line([str(Path(self.frontrun).with_name("python")), "-c", code])
        if self.nidhuggc is not None:
            said["nidhugg"] = first_line([self.nidhuggc, "--version"])
        return said

    def medians(self, once: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | str:
        """``once`` again and again: the counts, and the medians of all times; OVER as soon as it is over once."""
        said: list[dict[str, Any]] = []
        while len(said) < self.repeat:
            got = once()
            if got is None:
                return OVER
            if said and any(said[0][k] != v for k, v in got.items() if not isinstance(v, float)):
                raise PeerError(f"two runs differ: {said[0]} and {got}")
            said.append(got)
            if got["all"] > LONG:
                break
        return {
            k: round(statistics.median(s[k] for s in said), 6) if isinstance(v, float) else v
            for k, v in said[0].items()
        }

    def ours(self, engine: str, s: Scenario) -> dict[str, Any] | str:
        """E1 or E2: ``run`` and ``all`` in seconds, executions, and traces or states."""

        def once() -> dict[str, Any] | None:
            command = [sys.executable, str(HERE / "ours.py"), engine, s.name, str(s.faults), str(s.pages)]
            ran = succeed(command, HERE, self.seconds)
            if ran is None:
                return None
            said = parse_json(ran.output, "ours.py")
            if said.pop("found") or not said.pop("exhausted"):
                raise PeerError(f"{engine} of {s}: {ran.output.strip()}")
            again = said.pop("again")
            return {**said, "all": ran.cpu - again}

        return self.medians(once)

    def spins(self, s: Scenario) -> dict[str, Any] | str:
        """SPIN: ``run`` (of a verifier built with -O2) and ``all`` (with -O0 or -O2, whichever is less) in seconds,
        states with the monitor's, transitions."""
        source = HERE / f"{s.name.removesuffix('-')}.pml"
        defines = [f"-DF={s.faults}", f"-DN={s.pages}", f"-DM={int(s.name != 'vfio-')}"]
        slots = SLOTS if s.faults * s.pages >= LARGE else SLOTS_SMALL

        def once() -> dict[str, Any] | None:
            with tempfile.TemporaryDirectory() as name:
                where = Path(name)
                made = succeed(["spin", *defines, "-a", str(source)], where, self.seconds)
                if made is None:
                    return None
                took: dict[str, tuple[float, float]] = {}
                for level in ("-O0", "-O2"):
                    build = ["gcc", level, "-w", "-DSAFETY", "-DMEMLIM=4096", "-o", "pan", "pan.c"]
                    compiled = succeed(build, where, self.seconds)
                    ran = succeed(["./pan", f"-w{slots}"], where, self.seconds) if compiled is not None else None
                    if compiled is None or ran is None:
                        return None
                    took[level] = (ran.cpu, made.cpu + compiled.cpu + ran.cpu)
                    said = parse_spin(ran.output)
                    if said.pop("errors"):
                        raise PeerError(f"SPIN finds an error in {s}")
                return {**said, "run": took["-O2"][0], "all": min(everything for _, everything in took.values())}

        return self.medians(once)

    def frontruns(self, s: Scenario) -> dict[str, Any] | str:
        """frontrun: ``run`` and ``all`` in CPU seconds, ``wall`` of the search, executions (medians all)."""
        assert self.frontrun is not None
        python = str(Path(self.frontrun).with_name("python"))
        script = [str(HERE / "in_frontrun.py"), s.name, str(s.faults), str(s.pages), str(FRONTRUN_MOST)]

        def once() -> dict[str, Any] | None:
            ran = succeed([self.frontrun or "", python, *script], HERE, self.seconds)
            if ran is None:
                return None
            said = parse_json(ran.output, "in_frontrun.py")
            executions = float(said["executions"])  # not the same number each time: a median, like the times
            return {"executions": executions, "run": said["cpu"], "wall": said["wall"], "all": ran.cpu}

        return self.medians(once)

    def nidhuggs(self, s: Scenario) -> dict[str, Any] | str:
        """Nidhugg with source sets: ``all`` in seconds, traces."""
        defines = [f"-DF={s.faults}", f"-DN={s.pages}"]
        source = HERE / f"{s.name}.c"

        def once() -> dict[str, Any] | None:
            ran = succeed([self.nidhuggc or "", *defines, "--", "--sc", "--source", str(source)], HERE, self.seconds)
            return None if ran is None else {**parse_nidhugg(ran.output), "all": ran.cpu}

        return self.medians(once)

    def row(self, s: Scenario, over: set[str]) -> dict[str, Any]:
        """Everything about one scenario; ``over`` are the tools that were over their budget at a smaller size."""
        row: dict[str, Any] = {"scenario": str(s), "tasks": s.tasks, "monitor": s.monitor, "closed_form": s.traces}
        many = s.traces is not None and s.traces > MANY
        tools: dict[str, tuple[bool, Callable[[], dict[str, Any] | str]]] = {
            "e1": (not many, lambda: self.ours("e1", s)),
            "e2": (bool(E2_IS_THERE), lambda: self.ours("e2", s)),
            "e2r": (bool(E2_IS_THERE), lambda: self.ours("e2r", s)),
            "spin": (self.spin, lambda: self.spins(s)),
            "frontrun": (self.frontrun is not None and s.frontrun, lambda: self.frontruns(s)),
            "nidhugg": (
                self.nidhuggc is not None and not many and (HERE / f"{s.name}.c").exists(),
                lambda: self.nidhuggs(s),
            ),
        }
        failed = []
        for tool, (applies, measured) in tools.items():
            row[tool] = None
            if applies:
                try:
                    row[tool] = OVER if tool in over else measured()
                except PeerError as e:
                    failed.append(str(e))
                if row[tool] == OVER:
                    over.add(tool)
        row["wrong"] = failed + wrong(row)
        row["ratios"] = ratios(row)
        return row


def first_line(command: Sequence[str]) -> str:
    """The first line that the command prints, or nothing."""
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout.strip().splitlines() or [""])[0].strip()


def of(row: dict[str, Any], tool: str, what: str) -> Any:
    """A figure of a row; None where there is none."""
    return row[tool].get(what) if isinstance(row.get(tool), dict) else None


def wrong(row: dict[str, Any]) -> list[str]:
    """Which counts are not what they have to be."""
    said = []
    traces, states = of(row, "e1", "traces"), of(row, "e2", "states")
    if None not in (traces, row["closed_form"]) and traces != row["closed_form"]:
        said.append(f"E1 has {traces} traces instead of {row['closed_form']}")
    nidhugg = of(row, "nidhugg", "traces")
    if None not in (traces, nidhugg) and traces != nidhugg:
        said.append(f"E1 has {traces} traces, Nidhugg {nidhugg}")
    spin = of(row, "spin", "states")
    if None not in (states, spin) and states != spin - row["monitor"]:
        said.append(f"E2 has {states} states, SPIN {spin - row['monitor']}")
    return said


#: E1, E2 and E2 with its reductions
OURS = ("e1", "e2", "e2r")


def ratios(row: dict[str, Any]) -> dict[str, float | None]:
    """By what factor the peer takes longer than the better of our engines; below 1 we lose."""

    def ratio(a: float | None, b: float | None) -> float | None:
        return None if a is None or not b else a / b

    def best(what: str) -> float | None:
        times = [t for t in (of(row, tool, what) for tool in OURS) if t is not None]
        return min(times, default=None)

    def rate(tool: str) -> float | None:
        return ratio(of(row, tool, "executions"), of(row, tool, "run"))

    return {
        "spin_all": ratio(of(row, "spin", "all"), best("all")),
        "spin_run": ratio(of(row, "spin", "run"), best("run")),
        "frontrun_rate": ratio(rate("e1"), rate("frontrun")),
        "nidhugg_all": ratio(of(row, "nidhugg", "all"), of(row, "e1", "all")),
    }


# -- the table --------------------------------------------------------------------------------------------------------
def cell(row: dict[str, Any], tool: str, what: str) -> str:
    """A figure as the table has it."""
    if row[tool] == OVER:
        return OVER
    value = of(row, tool, what)
    if value is None:
        return "-"
    if tool == "spin" and what == "states":
        value -= row["monitor"]
    return f"{value:.{4 if what == 'run' else 2}f}" if isinstance(value, float) else str(value)


def rate_text(row: dict[str, Any], tool: str) -> str:
    """Executions a CPU second."""
    executions, run = of(row, tool, "executions"), of(row, tool, "run")
    return f"{executions / run:.0f}" if executions and run else cell(row, tool, "run")


def traces_text(row: dict[str, Any]) -> str:
    """The traces: counted, else in closed form."""
    counted = of(row, "e1", "traces")
    if counted is not None:
        return str(counted)
    closed = row["closed_form"]
    if closed is None:
        return cell(row, "e1", "traces")
    return f"({closed})" if closed < 10**7 else f"({closed:.1e})"


def factor(row: dict[str, Any], which: str) -> str:
    """A ratio as the table has it; where all that we have is over its budget, that is what it says."""
    value = row["ratios"][which]
    if value is None:
        alone = which.startswith("spin") and row["spin"] is not None and OVER in (row[tool] for tool in OURS)
        return OVER if alone else "-"
    return f"{value:.0f}x" if value >= 100 else f"{value:.2g}x"


COLUMNS: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("scenario", lambda r: str(r["scenario"])),
    ("traces", traces_text),
    ("E1 run", lambda r: cell(r, "e1", "run")),
    ("all", lambda r: cell(r, "e1", "all")),
    ("states", lambda r: cell(r, "e2", "states")),
    ("E2 run", lambda r: cell(r, "e2", "run")),
    ("all", lambda r: cell(r, "e2", "all")),
    ("reduced to", lambda r: cell(r, "e2r", "states")),
    ("run", lambda r: cell(r, "e2r", "run")),
    ("all", lambda r: cell(r, "e2r", "all")),
    ("SPIN states", lambda r: cell(r, "spin", "states")),
    ("run", lambda r: cell(r, "spin", "run")),
    ("all", lambda r: cell(r, "spin", "all")),
    ("Nidhugg traces", lambda r: cell(r, "nidhugg", "traces")),
    ("all", lambda r: cell(r, "nidhugg", "all")),
    ("frontrun exec/s", lambda r: rate_text(r, "frontrun")),
    ("E1 exec/s", lambda r: rate_text(r, "e1") if isinstance(r["frontrun"], dict) else "-"),
]
RATIOS: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("scenario", lambda r: str(r["scenario"])),
    ("SPIN all / ours all", lambda r: factor(r, "spin_all")),
    ("SPIN run / ours run", lambda r: factor(r, "spin_run")),
    ("E1 exec/s / frontrun exec/s", lambda r: factor(r, "frontrun_rate")),
    ("Nidhugg all / E1 all", lambda r: factor(r, "nidhugg_all")),
]


def table(rows: list[dict[str, Any]], columns: list[tuple[str, Callable[[dict[str, Any]], str]]]) -> list[str]:
    """The rows as lines, columns aligned."""
    text = [[title for title, _ in columns], *([show(r) for _, show in columns] for r in rows)]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in text
    ]


def measure(bench: Bench, groups: dict[str, list[Scenario]], tell: Callable[[str], None]) -> dict[str, Any]:
    """The whole run."""
    load = [round(x, 2) for x in os.getloadavg()]
    result: dict[str, Any] = {"versions": bench.versions(), "missing": bench.missing(), "groups": {}}
    for title, scenarios in groups.items():
        over: set[str] = set()
        rows = result["groups"][title] = []
        for s in scenarios:
            tell(str(s))
            rows.append(bench.row(s, over))
    result["orders"] = None
    if bench.frontrun is not None:
        tell("orders 2 2")
        with suppress(PeerError):  # if frontrun fails, its rows say so
            result["orders"] = orders(bench)
    after = [round(x, 2) for x in os.getloadavg()]
    result["machine"] = {"cpus": os.cpu_count(), "load_before": load, "load_after": after}
    return result


def orders(bench: Bench) -> dict[str, int] | None:
    """Of the orders in which the tasks of ptl 2 2 can take the lock: those that frontrun's executions come to."""
    assert bench.frontrun is not None
    command = [bench.frontrun, str(Path(bench.frontrun).with_name("python")), str(HERE / "in_frontrun.py")]
    ran = succeed([*command, "orders", "2", "2", str(FRONTRUN_MOST)], HERE, bench.seconds)
    if ran is None:
        return None
    said = parse_json(ran.output, "in_frontrun.py")
    return {"orders": Scenario("ptl", 2, 2).traces or 0, "seen": said["orders"], "executions": said["executions"]}


def report(result: dict[str, Any]) -> list[str]:
    """The run as text."""
    lines = []
    for columns in (COLUMNS, RATIOS):
        for title, rows in result["groups"].items():
            lines += [f"-- {title}", *table(rows, columns), ""]
    seen = result["orders"]
    if seen:
        said = f"comes to {seen['seen']} of the {seen['orders']} orders in which the lock can be taken"
        lines.append(f"frontrun, ptl 2 2: {seen['executions']} executions, {said}")
    lines += [f"-: {m}" for m in result["missing"]]
    everything = [row for rows in result["groups"].values() for row in rows]
    lines += [f"WRONG {row['scenario']}: {w}" for row in everything for w in row["wrong"]]
    machine = result["machine"]
    lines.append(
        f"{machine['cpus']} CPUs, load {machine['load_before'][0]} before, {machine['load_after'][0]} after; "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    )
    return lines


def command_or_none(parser: argparse.ArgumentParser, named: str | None, name: str) -> str | None:
    """The command: as named, or beside this Python, or on the PATH."""
    if named is not None:
        found = shutil.which(named)
        if found is None:
            parser.error(f"there is no command {named}")
        return found
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def main() -> int:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quick", action="store_true", help="a few small sizes, once each")
    parser.add_argument("--repeat", type=int, help="medians of so many (default 5, quick 1)")
    parser.add_argument("--seconds", type=int, help="CPU seconds that one call may take (default 60, quick 10)")
    parser.add_argument("--frontrun", metavar="COMMAND", help="frontrun's command; its Python is taken from beside it")
    parser.add_argument("--nidhuggc", metavar="COMMAND", help="Nidhugg's compiler wrapper")
    args = parser.parse_args()
    for name in ("repeat", "seconds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    bench = Bench(
        args.repeat or (1 if args.quick else 5),
        args.seconds or (10 if args.quick else 60),
        command_or_none(parser, args.frontrun, "frontrun"),
        command_or_none(parser, args.nidhuggc, "nidhuggc"),
    )
    tell = (lambda line: print(line, file=sys.stderr, flush=True)) if sys.stderr.isatty() else (lambda line: None)
    result = measure(bench, QUICK if args.quick else GROUPS, tell)
    print(json.dumps(result) if args.json else "\n".join(report(result)))
    return int(any(row["wrong"] for rows in result["groups"].values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
