"""How much time and memory a search may take. Neither changes what it finds, only how far it comes."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field

#: memory is looked at every so many questions
SELDOM = 64


@dataclass
class Limits:
    """``seconds`` of wall time since ``begin``; ``memory`` in bytes, of this process."""

    seconds: float | None = None
    memory: int | None = None
    began: float = field(default_factory=time.monotonic)
    asked: int = 0

    def begin(self) -> None:
        """The time runs from now on."""
        self.began = time.monotonic()

    def exceeded(self, memory: int | None = None) -> str:
        """What has run out, as a verdict says it; empty while nothing has. ``memory``: as another process told it."""
        if self.seconds is not None and time.monotonic() - self.began >= self.seconds:
            return f"{self.seconds:g} s"
        if self.memory is None:
            return ""
        if memory is None:
            self.asked += 1
            if self.asked % SELDOM != 1:
                return ""
            memory = resident()
        return f"{size_text(self.memory)} of memory" if memory > self.memory else ""


def resident() -> int:
    """The memory of this process, in bytes; where the system does not say, the most that it ever had."""
    try:
        with open("/proc/self/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


_UNITS = "KMGT"


def size(text: str) -> int:
    """Bytes from ``800M``, ``2G`` or a plain number; ValueError when it is none."""
    word = text.strip().upper().removesuffix("B").removesuffix("I")
    power = _UNITS.find(word[-1:]) + 1 if word else 0
    value = float(word[:-1] if power else word) * 1024**power
    if not 0 < value < 2**60:
        raise ValueError(text)
    return int(value)


def size_text(n: int) -> str:
    """``2G`` for bytes."""
    for power in range(len(_UNITS), 0, -1):
        if n % 1024**power == 0:
            return f"{n // 1024**power}{_UNITS[power - 1]}"
    return f"{n} bytes"
