"""Time real kernels under emulation: ``python bench/lab.py [--json] [--kernel NAME]... [--programs N] [--repeat N]``.

Of each kernel that is fetched (``mmlitmus lab fetch``) and has headers: medians of --repeat runs, and the load of the
machine meanwhile. What is timed is the kernel's side alone, of generated programs with everything observed; the model
is not run.

============================ ==================================================================================
boot                         seconds from QEMU's start to the agent's ``ready``
first                        ... and on to the end of the first program, from a saved state that was restored
snapshots, 1 job             programs a second, each on a fresh kernel
snapshots, 2 jobs            ... two guests side by side
batches, 1 job               programs a second, many in one boot, with the checks that batched mode makes
batches, 2 jobs              ... two guests side by side
batched                      how many of the programs were answered in a batch, in per cent
============================ ==================================================================================
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from mmlitmus.conform.batch import BatchAnswers  # noqa: E402
from mmlitmus.conform.campaign import Answers, Kernel  # noqa: E402
from mmlitmus.conform.generate import programs  # noqa: E402
from mmlitmus.conform.lab import Lab, LabError, Machine, Session  # noqa: E402
from mmlitmus.conform.live import text_of  # noqa: E402
from mmlitmus.conform.pool import Pool  # noqa: E402

SEED = 1
MACHINE = "pc"
JOBS = (1, 2)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser("bench/lab.py", description="Time real kernels under emulation.")
    parser.add_argument("--kernel", action="append", metavar="NAME", help="default: each that is fetched")
    parser.add_argument("--programs", type=int, default=60, metavar="N", help="in one run of a mode (default 60)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    lab = Lab(say=lambda text: print(text, file=sys.stderr))
    names = options.kernel or [row.name for row in lab.rows() if row.release and row.headers]
    if not names:
        print("bench/lab.py: no kernel is fetched: mmlitmus lab fetch 6.12", file=sys.stderr)
        return 2
    found: dict[str, dict[str, float]] = {}
    for name in names:
        try:
            found[name] = bench(lab, name, options.programs, options.repeat)
        except LabError as e:
            print(f"bench/lab.py: {e}", file=sys.stderr)
            return 2
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    rows = [("", *names)]
    rows += [(what, *(f"{found[name][what]:.2f}" for name in names)) for what in found[names[0]]]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{word:{'<' if n == 0 else '>'}{widths[n]}}" for n, word in enumerate(row)))
    return 0


def bench(lab: Lab, name: str, count: int, repeat: int) -> dict[str, float]:
    """Everything of one kernel. LabError if it cannot be run."""
    samples: dict[str, list[float]] = {}
    loads = []
    for n in range(repeat):
        with lab.session(name, Machine(MACHINE)) as session:
            for what, value in once(session, count, n).items():
                samples.setdefault(what, []).append(value)
        loads.append(os.getloadavg()[0])
    samples["load"] = loads
    return {what: statistics.median(values) for what, values in samples.items()}


def once(session: Session, count: int, number: int) -> dict[str, float]:
    """One run of every mode; each has programs of its own."""
    found = {"boot": session.booted.seconds}
    (program,) = programs(SEED, 1, MACHINE)
    started = time.monotonic()
    session.run(text_of(program))
    found["first"] = session.booted.seconds + time.monotonic() - started
    done = [*programs(SEED, count, MACHINE, first=1 + number * count)]
    for jobs in JOBS:
        found[f"snapshots, {_jobs(jobs)}"] = _rate(session, done, jobs, False)[0]
    for jobs in JOBS:
        found[f"batches, {_jobs(jobs)}"], found["batched"] = _rate(session, done, jobs, True)
    return found


def _jobs(jobs: int) -> str:
    return f"{jobs} job" + ("s" if jobs > 1 else "")


def _rate(session: Session, done: list, jobs: int, batched: bool) -> tuple[float, float]:
    """Programs a second, and how many of a hundred were answered in a batch."""
    answers = BatchAnswers(Answers(None)) if batched else Answers(None)
    kernel = Kernel(session, session.ready, session.identity, MACHINE, "", answers)
    started = time.monotonic()
    with Pool(kernel, session, jobs, lambda text: print(text, file=sys.stderr)) as pool:
        for _ in pool.programs(done):
            pass
    return len(done) / (time.monotonic() - started), 100 * pool.batched / len(done)


if __name__ == "__main__":
    sys.exit(main())
