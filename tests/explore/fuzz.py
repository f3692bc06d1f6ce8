"""Run the oracle by hand: ``python -m tests.explore.fuzz --family rwsem --programs 10000 --seed 1``."""

from __future__ import annotations

import argparse
import time

from .oracle import explain, sweep
from .programs import FAMILIES, MIXED


def main() -> int:
    """Compare on as many programs as asked for; the number of mismatches is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", action="append", choices=[*FAMILIES, MIXED], help="default: all of them")
    parser.add_argument("--programs", type=int, default=1000, help="programs a family")
    parser.add_argument("--seed", type=int, default=1, help="the first program's seed")
    parser.add_argument("--large", action="store_true", help="larger programs, compared with sleep sets alone")
    args = parser.parse_args()
    mismatches = 0
    for family in args.family or [*FAMILIES, MIXED]:
        start = time.perf_counter()
        summary = sweep(family, range(args.seed, args.seed + args.programs), large=args.large)
        mismatches += len(summary.mismatches)
        print(explain(summary), f"[{time.perf_counter() - start:.1f} s]", flush=True)
    return min(mismatches, 100)


if __name__ == "__main__":
    raise SystemExit(main())
