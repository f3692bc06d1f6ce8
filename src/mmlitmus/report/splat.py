"""A lock inversion in the layout of lockdep's report, for people who read those. The first line says whose it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from mmlitmus.explore.findings import Finding

from .text import not_a_log

_EDGE = re.compile(r"(?P<task>.+?) takes (?P<new>\S+) \((?P<mode>\w+)\) while holding (?P<old>\S+)")
_RULE = 54


class Edge(NamedTuple):
    """``task`` asked for ``new`` (of class ``new_class``) while it held ``old``."""

    task: str
    old: str
    new: str
    mode: str
    old_class: str
    new_class: str


def edges(finding: Finding) -> list[Edge]:
    """The lock-order edges of an ``inversion``, one after the other around the ring; empty for anything else."""
    if finding.kind != "inversion":
        return []
    ring = finding.name.removeprefix("inversion ").split(" -> ")
    told = [_EDGE.fullmatch(part.strip()) for part in finding.message.split("; ")]
    if len(told) != len(ring) - 1 or None in told:
        return []
    return [
        Edge(m["task"], m["old"], m["new"], m["mode"], a, b)
        for m, a, b in zip(told, ring, ring[1:], strict=False)
        if m is not None
    ]


def splat(finding: Finding, kernel: str) -> list[str]:
    """The report; empty when the finding is no inversion."""
    ring = edges(finding)
    if not ring:
        return []
    recursive = len(ring) == 1
    now = ring[-1]
    what = "possible recursive locking" if recursive else "possible circular locking dependency"
    lines = [
        not_a_log(kernel),
        "=" * _RULE,
        f"WARNING: {what} detected",
        "-" * _RULE,
        f"{now.task} is trying to acquire lock:",
        f" ({now.new_class}), at: {now.new} ({now.mode})",
        "",
        "but task is already holding lock:",
        f" ({now.old_class}), at: {now.old}",
        "",
    ]
    if not recursive:
        lines += ["which lock already depends on the new lock.", "", ""]
        lines += ["the existing dependency chain (in reverse order) is:", ""]
        for n, edge in enumerate(ring):
            at = len(ring) - 1 - n
            lines += [f"-> #{at} ({edge.new_class}):", f"       {edge.task} takes {edge.new} ({edge.mode})"]
            lines += [f"       while holding {edge.old}", ""]
    lines += ["other info that might help us debug this:", ""]
    if len(ring) > 2:
        lines += ["Chain exists of:", "  " + " --> ".join([now.new_class, *(e.new_class for e in ring[:-1])]), ""]
    lines += [" Possible unsafe locking scenario:", "", *_scenario(ring), "", " *** DEADLOCK ***"]
    if recursive:
        lines += ["", " May be due to missing lock nesting notation"]
    return lines


def _scenario(ring: Sequence[Edge]) -> list[str]:
    lane = " " * 24
    now = ring[-1]
    first, last = f"  lock({now.old_class});", f"  lock({now.new_class});"
    if len(ring) == 1:
        return ["       CPU0", "       ----", first, last]
    before = ring[-2]
    lines = ["       CPU0                    CPU1", "       ----                    ----", first]
    lines += [f"  {lane}     lock({before.old_class});", f"  {lane}     lock({before.new_class});"]
    return [*lines, last]
