"""What the model did at a step, in the words of a recording."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmlitmus.kernel.errno import errno_name

from .schema import Entry, Frame, Memtype, Translation


class NotModelledError(Exception):
    """A recording, or a step of one, that the model cannot run: not a difference, but nothing to compare either."""


@dataclass(frozen=True)
class Seen:
    """What the model did at a step: its outcome in the words of ``schema.Result.outcome``, None if it has none.

    ``value``: what a read returned. ``count``: as in ``schema.Result``. ``code``: a signal's si_code. ``off``: the
    access arrived at a device that does not answer. ``dead``: the BUG that ended the model here, or before.
    ``unmodelled``: what of this step, or of one before it, the model has not, so that nothing here is its answer. The
    rest is ``schema.Observed``'s, at the places that the recording names and where it has them. RAM frames have numbers
    of the model's (``layout.MODEL_RAM``).
    """

    outcome: str | None = None
    value: int | None = None
    count: int | None = None
    code: int | None = None
    off: bool = False
    dead: str = ""
    unmodelled: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    vm_flags: dict[str, str] = field(default_factory=dict)
    memtypes: tuple[Memtype, ...] | None = None
    pagemap: dict[str, int] = field(default_factory=dict)
    locked: dict[str, int] | None = None
    events: dict[str, tuple[str, ...]] | None = None
    frames: dict[str, Frame] | None = None
    pins: tuple[Frame | None, ...] | None = None
    iovas: dict[str, Translation | None] | None = None


def result(value: int | str) -> Seen:
    """What a uapi operation returned, as a Seen: an errno (negative), a signal's name, or success."""
    if isinstance(value, str):
        return Seen(value, code=getattr(value, "si_code", None))
    return Seen(errno_name(value) if value < 0 else "ok")


def counted(value: int) -> Seen:
    """The same of an operation that says how much it did: an errno, or success and that number."""
    return Seen("ok", count=value) if value >= 0 else result(value)
