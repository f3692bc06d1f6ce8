"""What a recording says of a step: how it ended, and what was seen after it.

The format is described in docs/recordings.md. ``schema`` has the rest of it, and everything here by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .codec import (
    BITS,
    BadValueError,
    Kind,
    decode,
    encode,
    extra,
    many,
    mapping,
    nested,
    number,
    of,
    optional,
    remembered,
    text,
)

ERRNO = remembered(text(matching=re.compile(r"E[A-Z0-9]+"), called="an errno's name"))
SIGNAL = remembered(text(matching=re.compile(r"SIG[A-Z0-9]+"), called="a signal's name"))
SLOT = remembered(text(matching=re.compile(r"[a-z]"), called="a slot (one letter, a to z)"))
PLACE = remembered(text(matching=re.compile(r"[0-9]+:[a-z][0-9]+"), called="a place (process:slot page, such as 0:a2)"))
PROCESS = remembered(text(matching=re.compile(r"[0-9]+"), called="a process's number"))
SHA256 = text(matching=re.compile(r"[0-9a-f]{64}"), called="a SHA-256 in hex")
WORD = text()
FLAG = Kind(lambda value: _read_bool(value), lambda value: value)
COUNT = number(1)
INDEX = number(0)
CHANGE = number(-(1 << 31), 1 << 31)
LEVELS = ("pgd", "p4d", "pud", "pmd", "pte")
#: cache types in the words of /sys/kernel/debug/x86/pat_memtype_list (arch/x86/mm/pat/memtype.c, cattr_name)
MEMTYPES = ("write-back", "write-combining", "uncached-minus", "uncached", "write-through", "write-protected")
#: what the kernel may print about a memtype, by what it says
MESSAGES = (
    "freeing-invalid-memtype", "expected-mapping-type", "ram-range-type", "conflicting-types", "reserve-failed",
    "ram-reserve-failed",
)  # fmt: skip


def _read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadValueError("", f"true or false is wanted, not {value!r}")
    return value


def _read_prot(value: Any) -> str:
    if value not in ("", "r", "w", "x", "rw", "rx", "wx", "rwx"):
        raise BadValueError("", f'a protection is "" or letters of "rwx" in that order, not {value!r}')
    return str(value)


PROT = Kind(_read_prot, str)


def flags(*names: str) -> Kind:
    """A list of flag names, each at most once."""
    kind = many(text(one_of=names))

    def read(value: Any) -> tuple[str, ...]:
        got: tuple[str, ...] = kind.read(value)
        if len(set(got)) < len(got):
            raise BadValueError("", "a flag is named twice")
        return got

    return Kind(read, kind.write)


# -- observations -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Entry:
    """A page-table entry as the probe read it: at which level its walk ended, and the raw bits there."""

    level: str
    bits: int

    def __str__(self) -> str:
        return f"{self.level}:{self.bits:#x}"


def _read_entry(value: Any) -> Entry:
    level, _, bits = value.partition(":") if isinstance(value, str) else ("", "", "")
    if level not in LEVELS:
        raise BadValueError("", f'an entry is "LEVEL:0x..." with a level of {", ".join(LEVELS)}, not {value!r}')
    return Entry(level, BITS.read(bits))


ENTRY = remembered(Kind(_read_entry, str))


@dataclass(frozen=True, kw_only=True)
class Result:
    """How an operation ended: exactly one of ok, errno, signal, died.

    ``value``: what a read returned. ``count``: how many pages were got, let go or unmapped, how many bytes moved; less
    than was asked for is ok. ``code``: si_code of the signal. ``died``: what became of the guest (oops, hang);
    ``killed``: it hung, and SIGKILL ended the process: the guest itself was none the worse.
    """

    ok: bool = of(FLAG, default=False)
    errno: str | None = of(ERRNO, default=None)
    signal: str | None = of(SIGNAL, default=None)
    died: str | None = of(WORD, default=None)
    value: int | None = of(BITS, default=None)
    count: int | None = of(INDEX, default=None)
    code: int | None = of(number(-128, 1 << 30), default=None)
    killed: bool = of(FLAG, default=False)
    extra: dict[str, Any] = extra()

    @property
    def outcome(self) -> str:
        """One word: ``ok``, ``-EFAULT``, ``SIGBUS``, ``died: oops``."""
        if self.died is not None:
            return f"died: {self.died}"
        return f"-{self.errno}" if self.errno else self.signal or "ok"


def _read_result(value: Any) -> Result:
    result = decode(Result, value)
    given = [result.ok, *(x is not None for x in (result.errno, result.signal, result.died))]
    if sum(given) != 1:
        raise BadValueError("", "a result is exactly one of ok (true), errno, signal, died")
    if result.value is not None and not result.ok:
        raise BadValueError("", "only a result that is ok has a value")
    if result.count is not None and not result.ok:
        raise BadValueError("", "only a result that is ok has a count")
    if result.killed and result.died is None:
        raise BadValueError("", "only what died was killed")
    if result.code is not None and result.signal is None:
        raise BadValueError("", "only a signal has a code")
    return result


@dataclass(frozen=True, kw_only=True)
class Memtype:
    """An entry of the memtype tree: physical addresses [``start``, ``end``) in bytes, and the cache ``type``."""

    start: int = of(BITS)
    end: int = of(BITS)
    type: str = of(text(one_of=MEMTYPES))
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class Message:
    """What the kernel printed about the physical addresses [``start``, ``end``), in bytes."""

    message: str = of(text(one_of=MESSAGES))
    start: int = of(BITS)
    end: int = of(BITS)
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How often the kernel counts a frame as held (``refs``) and mapped (``maps``), this CPU's LRU batches empty.

    Of a frame of a region it is how much more than before the program; of any other frame of RAM, the count itself.
    """

    pfn: int = of(BITS)
    refs: int = of(CHANGE)
    maps: int = of(CHANGE)
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class Translation:
    """The frame that an IOVA is at, as the device's IOMMU domain has it; its counts where it has a struct page, as in
    ``Frame``.
    """

    pfn: int = of(BITS)
    refs: int | None = of(CHANGE, default=None)
    maps: int | None = of(CHANGE, default=None)
    extra: dict[str, Any] = extra()


#: ``2+5``: page 5 of slot 2 of IOVAs
IOVA = text(matching=re.compile(r"[0-9]+\+[0-9]+"), called="an IOVA (slot+page, such as 2+5)")
ADDRESS = r"(?:[a-z][0-9]+|0x[0-9a-f]{1,16})"
#: ``start unmap a0-a4``: an MMU notifier's call, of a range without its last page
EVENT = text(
    matching=re.compile(rf"(?:start|end) [a-z-]+ {ADDRESS}-{ADDRESS}|lost [0-9]+"),
    called="a notifier event (such as start unmap a0-a4)",
)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was seen after a step. What is absent, or null, was not observed.

    ``memtypes``: the memtype tree's entries in the probe's regions that were not there when the program started.
    ``pagemap``: the raw word of /proc/PID/pagemap, by place. ``locked``: VmLck by process, in pages. ``frames``: by
    place, of those whose entry maps a frame with a struct page. ``events``: what an MMU notifier of each process heard.
    ``pins``: what a pin got, one by one, None where the kernel said that it had filled the slot and had not.
    ``iovas``: where each page is that the program has mapped for DMA, None for nowhere.
    """

    result: Result | None = of(optional(Kind(_read_result, encode)), default=None)
    entries: dict[str, Entry | None] = of(mapping(PLACE, optional(ENTRY)), default_factory=dict)
    vm_flags: dict[str, str | None] = of(mapping(PLACE, optional(WORD)), default_factory=dict)
    memtypes: tuple[Memtype, ...] | None = of(optional(many(nested(Memtype))), default=None)
    pagemap: dict[str, int | None] = of(mapping(PLACE, optional(BITS)), default_factory=dict)
    locked: dict[str, int] | None = of(optional(mapping(PROCESS, INDEX)), default=None)
    frames: dict[str, Frame] | None = of(optional(mapping(PLACE, nested(Frame))), default=None)
    events: dict[str, tuple[str, ...]] | None = of(optional(mapping(PROCESS, many(EVENT))), default=None)
    pins: tuple[Frame | None, ...] | None = of(optional(many(optional(nested(Frame)))), default=None)
    iovas: dict[str, Translation | None] | None = of(
        optional(mapping(IOVA, optional(nested(Translation)))), default=None
    )
    extra: dict[str, Any] = extra()

    @property
    def places(self) -> list[str]:
        """Every place that something is said about."""
        return list(dict.fromkeys([*self.entries, *self.vm_flags, *self.pagemap, *(self.frames or ())]))
