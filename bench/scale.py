"""Time whole machines against their size: ``python bench/scale.py [--json] [--repeat N] [--largest SIZE]``.

Needs numpy. Each run in a process of its own, so that its memory is its own; seconds are of CPU, the least of --repeat.

=============== =============================================================================================
guest 4K        VFIO type1 maps a guest's memory, untouched, which faults it in and pins it (v6.12)
guest 2M        ... with huge pages
bar 4K, 2M, 1G  a BAR is mapped and each page of it touched (deb-6.12.117)
unmap           ... and all that was mapped is unmapped and freed
=============== =============================================================================================

``ratio``: how many times longer mapping takes than writing the bytes that it must touch: 8 for each entry of a page
table and 4 for each folio's state. How fast bytes are written is measured in the same process, on as many bytes (at
least 64 MiB, at most 1 GiB): in memory that nobody has touched yet, as that of the machine is (``fresh``), and in
memory that is there (``warm``). The ratio is to ``warm``, and in brackets to ``fresh``. ``growth``: the factor for a
machine four times as large. ``MB``: the most memory that the process had.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

GIB = 1 << 30
SIZES = (1, 4, 16, 64, 256, 1024)
KINDS = ("guest 4K", "guest 2M", "bar 4K", "bar 2M", "bar 1G")
LEAF = {"4K": "4K", "2M": "PMD", "1G": "PUD"}


def bandwidth(size: int) -> tuple[float, float]:
    """Bytes a second that can be written to memory that is fresh, and to memory that is there."""
    import numpy as np

    words = min(max(size, 64 << 20), GIB) // 8
    fresh = warm = 0.0
    for _ in range(3):
        memory = np.empty(words, dtype=np.uint64)
        for again in range(2):
            start = time.process_time()
            memory.fill(again)
            speed = memory.nbytes / max(time.process_time() - start, 1e-9)
            fresh, warm = (fresh, max(warm, speed)) if again else (max(fresh, speed), warm)
        del memory
    return fresh, warm


def one(kind: str, gib: int) -> dict[str, Any]:
    """One run, in this process."""
    from mmlitmus.scale.run import bar, guest

    what, leaf = kind.split()
    size = gib * GIB
    done = guest("v6.12", size, huge=leaf == "2M") if what == "guest" else bar("deb-6.12.117", size, LEAF[leaf])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    mapped = done.steps[0].counts
    entries = mapped["ptes_set"] + mapped["pmd_leaves_set"] + mapped["pud_leaves_set"]
    must = 8 * entries + 4 * mapped["folios_allocated"]
    fresh, warm = bandwidth(must)
    return {
        "kind": kind, "gib": gib, "map": done.steps[0].seconds, "unmap": sum(s.seconds for s in done.steps[1:]),
        "bytes": must, "mb": most, "fresh": fresh, "warm": warm,
    }  # fmt: skip


def least(kind: str, gib: int, repeat: int) -> dict[str, Any]:
    """The least of some runs, each in a process of its own."""
    runs = []
    for _ in range(repeat):
        got = subprocess.run([sys.executable, __file__, "--one", kind, str(gib)], capture_output=True, check=True)
        runs.append(json.loads(got.stdout))
    best = min(runs, key=lambda run: run["map"])
    for speed in ("fresh", "warm"):
        best[speed] = max(run[speed] for run in runs)
        best[f"ratio_{speed}"] = best["map"] / (best["bytes"] / best[speed])
    return best


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON list")
    parser.add_argument("--repeat", type=int, default=3, help="the least of so many")
    parser.add_argument("--largest", type=int, default=1024, metavar="GIB", help="leave larger machines out")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "GIB"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], int(args.one[1]))))
        return
    if args.repeat < 1:
        parser.error("--repeat must be at least 1")
    rows = []
    if not args.json:
        print(f"{'':10}{'GiB':>6}{'map, s':>10}{'growth':>8}{'unmap, s':>10}{'MB':>7}{'bytes':>14}  ratio")
    for kind in KINDS:
        before = None
        for gib in (size for size in SIZES if size <= args.largest):
            row = least(kind, gib, args.repeat)
            row["growth"] = None if before is None else round(row["map"] / before, 2)
            before = row["map"]
            rows.append(row)
            if not args.json:
                ratio = f"{row['ratio_warm']:.1f} ({row['ratio_fresh']:.1f})"
                print(
                    f"{kind:10}{gib:>6}{row['map']:>10.4f}{row['growth'] or '':>8}{row['unmap']:>10.4f}{row['mb']:>7}"
                    f"{row['bytes']:>14,}  {ratio}",
                    flush=True,
                )
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
