"""Time the search engine: ``python bench/engine.py [--json] [--repeat N]``. Medians; times in microseconds.

The explorer is timed as it runs here, and beside it interpreted where it is compiled. The three times by the event are
CPU time, taken in turns in one process, so that a loaded machine says about the same.

============================ ==================================================================================
round_trip_us                main -> greenlet -> main, nothing else: the yardstick of this machine
replay_us_per_event          one replayed event of a long task that goes on running, engine and model together
search_us_per_event          one new event: what the search adds to a replay of the same executions, plus that replay
replay_round_trips           replay_us_per_event in round trips; the median of the ratios
search_round_trips           search_us_per_event, likewise
executions_per_trace         over every shipped case on every kernel it speaks of; 1 is optimal (the same in both)
traces                       unlocked increments, tasks x times: complete executions (4, 34, 328, 36, 7134 are right)
executions_per_s             whole executions, machine built anew each time; "vfio" is a fault, a disable and a munmap
                             of a BAR of two pages on the model of v6.12
start_to_verdict_s           ``mmlitmus check vfio/fault-vs-disable --kernel v6.12`` from the shell; null if it fails
============================ ==================================================================================
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from greenlet import getcurrent, greenlet

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from tests.explore.semantics import INCREMENTS, increments, sections  # noqa: E402

from mmlitmus import explore  # noqa: E402
from mmlitmus.explore.dpor import Dpor  # noqa: E402
from mmlitmus.explore.scheduler import Scheduler, Setup  # noqa: E402
from mmlitmus.explore.state import Model, Once  # noqa: E402
from mmlitmus.kernel import eras  # noqa: E402
from mmlitmus.kernel.drivers.vfio.pci import open_device  # noqa: E402
from mmlitmus.kernel.machine import Machine  # noqa: E402

Build = Callable[[], Setup]
KERNEL = eras.kernel("v6.12")
CHECK = ["check", "vfio/fault-vs-disable", "--kernel", "v6.12"]


class Word(Model):
    """One shared word."""

    __slots__ = ()
    x = Once()


class Recorder(Dpor):
    """E1 that writes down what it executed."""

    def _ended(self, setup: Setup) -> None:
        self.__dict__.setdefault("log", []).append((self.choice[:], self.value[:]))
        super()._ended(setup)


class Player(Scheduler):
    """Executes a list of recorded executions and does nothing else."""

    log: list[tuple[list[int], list[int]]]

    def _run(self) -> None:
        for choice, value in self.log:
            self.choice, self.value, self.k = choice, value, len(choice)
            self.execute()

    def _pick(self) -> int:
        self.status = "complete"
        return -1


def seconds(f: Callable[[], Any]) -> float:
    """How long ``f`` takes."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def cpu_seconds(f: Callable[[], Any]) -> float:
    """How much of this thread's time ``f`` takes."""
    start = time.thread_time()
    f()
    return time.thread_time() - start


def round_trip(n: int = 20_000) -> float:
    """One switch to a greenlet and back, in microseconds."""
    main = getcurrent()

    def bounce() -> None:
        while True:
            main.switch()

    g = greenlet(bounce)
    g.switch()

    def run() -> None:
        for _ in range(n):
            g.switch()

    return cpu_seconds(run) / n * 1e6


def straight(n: int) -> Build:
    """One task that reads a word n times."""

    def setup() -> Setup:
        word = Word("w", x=0)

        def read() -> None:
            for _ in range(n):
                word.x  # noqa: B018

        return Setup({"t": read})

    return setup


def played(build: Build, log: list[tuple[list[int], list[int]]]) -> float:
    """Seconds that it takes to execute these executions again."""
    player = Player(build)
    player.log = log
    return cpu_seconds(player.run)


def replay_per_event(n: int = 2000) -> float:
    """One replayed event, in microseconds: the difference between a long and a short execution."""
    times = [played(straight(k), [([0] * k, [0] * k)]) for k in (n, n * 2)]
    return (times[1] - times[0]) / n * 1e6


def search_per_event(build: Build) -> float:
    """One new event, in microseconds."""
    recorder = Recorder(build)
    recorder.run()
    log: list[tuple[list[int], list[int]]] = recorder.__dict__["log"]
    engine = Dpor(build)
    search = cpu_seconds(engine.run)
    replay = played(build, log)
    events = sum(len(choice) for choice, _ in log)
    # The player's share of an event includes its part of building the machine: leave that out of the second term.
    empty = played(build, [([], [])] * len(log))
    return ((search - replay) / engine.results.counts.events + (replay - empty) / events) * 1e6


def start_to_verdict() -> float | None:
    """Seconds from the shell to the verdict on one case; None if there is no verdict."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "mmlitmus", *CHECK], cwd=ROOT / "src", capture_output=True)
    said_something = done.returncode in (0, 1) and done.stdout
    return time.perf_counter() - start if said_something else None


def executions_per_trace() -> float | None:
    """Over the case suite; None if it does not run."""
    done = subprocess.run([sys.executable, "-m", "mmlitmus", "check", "--json"], cwd=ROOT / "src", capture_output=True)
    rows = json.loads(done.stdout) if done.returncode == 0 else []
    traces = sum(row["traces"] for row in rows)
    return round(sum(row["executions"] for row in rows) / traces, 4) if traces else None


def fault_disable_munmap() -> Setup:
    """Three tasks on the real model."""
    m = Machine(KERNEL)
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2)
    m.task(lambda: qemu.read(bar), name="fault")
    m.task(lambda: dev.write_command(memory=False), name="disable")
    m.task(lambda: qemu.munmap(bar, 2), name="munmap")
    return m.setup()


def measure(repeat: int, suite: bool) -> dict[str, Any]:
    """Everything; without ``suite``, not what runs every case."""

    def middle(values: Iterable[float]) -> float:
        return round(statistics.median(values), 3)

    def median(f: Callable[[], float]) -> float:
        return middle(f() for _ in range(repeat))

    programs = {**{f"{a}x{b}": increments(a, b) for a, b in INCREMENTS}, "F2N3": sections(2, 3), "F2N4": sections(2, 4)}
    programs["vfio"] = fault_disable_munmap
    counts = {name: Dpor(build).run().counts for name, build in programs.items()}

    def rate(name: str) -> float:
        return round(counts[name].executions / median(lambda: seconds(Dpor(programs[name]).run)))

    turns = []
    for _ in range(repeat * 3):
        trip = (round_trip(), replay_per_event(), search_per_event(programs["F2N4"]), round_trip())
        turns.append((*trip[:3], (trip[0] + trip[3]) / 2))
    verdicts = [start_to_verdict() for _ in range(min(repeat, 3))]
    return {
        "explorer": "compiled" if explore.COMPILED else "interpreted",
        "round_trip_us": middle(turn[3] for turn in turns),
        "replay_us_per_event": middle(turn[1] for turn in turns),
        "search_us_per_event": middle(turn[2] for turn in turns),
        "replay_round_trips": middle(turn[1] / turn[3] for turn in turns),
        "search_round_trips": middle(turn[2] / turn[3] for turn in turns),
        "executions_per_trace": executions_per_trace() if suite else None,
        "traces": {f"{a}x{b}": counts[f"{a}x{b}"].complete for a, b in INCREMENTS},
        "executions_per_s": {name: rate(name) for name in ("2x3", "3x2", "F2N4", "vfio")},
        "start_to_verdict_s": None if None in verdicts else round(statistics.median(map(float, verdicts)), 3),
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--repeat", type=int, default=7, help="medians of so many")
    parser.add_argument("--no-suite", action="store_true", help="leave out executions_per_trace")
    args = parser.parse_args()
    builds = [measure(args.repeat, not args.no_suite)]
    if explore.COMPILED:
        again = [sys.executable, __file__, "--json", "--no-suite", "--repeat", str(args.repeat)]
        pure = {**os.environ, "MMLITMUS_PURE": "1"}
        builds += json.loads(subprocess.run(again, env=pure, stdout=subprocess.PIPE, text=True, check=True).stdout)
    if args.json:
        print(json.dumps(builds))
        return
    for key in builds[0]:
        print(f"{key:22} {'   '.join(str(got[key]) for got in builds)}")


if __name__ == "__main__":
    main()
