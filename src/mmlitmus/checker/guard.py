"""Breaks code of a stranger's file that never ends where the engine's own watchdog does not look.

The engine breaks a *task* that computes for ever. A module body, a case's set-up or a check can do so too: nothing is
scheduled then. The time counted is CPU time, so a loaded machine changes nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

#: CPU seconds without progress
PATIENCE = 10
TICK = 1.0


class NeverEnds(Exception):
    """Raised into the code that does not end, so that its traceback says where."""


class Guard:
    """While it is entered, ``PATIENCE`` CPU seconds in which ``progress()`` stays the same raise ``NeverEnds``.

    ``progress`` may return None to say that somebody else is watching now.
    """

    def __init__(self, progress: Callable[[], object], what: str) -> None:
        self.progress = progress
        self.what = what
        self.seen: object = None
        self.ticks = 0
        self.armed = hasattr(signal, "SIGPROF") and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Guard:
        if self.armed:
            self.old = signal.signal(signal.SIGPROF, self._tick)
            signal.setitimer(signal.ITIMER_PROF, TICK, TICK)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.armed:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, self.old)

    def _tick(self, signum: int, frame: FrameType | Any) -> None:
        now = self.progress()
        self.ticks = self.ticks + 1 if now is not None and now == self.seen else 0
        self.seen = now
        if self.ticks >= PATIENCE:
            self.ticks = 0
            raise NeverEnds(f"{self.what} does not end: {PATIENCE} s of CPU without progress")
