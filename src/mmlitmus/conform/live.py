"""A program for the agent in a guest, and what the agent said of it as a program with observations.

Everything is observed after every step that can be: every page of every slot that the program names, in every process
that is there; the memtype list and the counts of regions' frames as what they have more than when the program started.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .codec import BITS, BadValueError, encode, many, nested, optional
from .generate import PAGES, language_of, sensible
from .huge import LANGUAGES, looked_at
from .layout import message_of, slot_address
from .schema import (
    FORMAT,
    FORMAT_VERSION,
    BarKey,
    DeviceKey,
    Exit,
    Fork,
    Frame,
    Header,
    KernelKey,
    Key,
    LabKey,
    Memtype,
    Message,
    Observed,
    Program,
    RegionKey,
    Remap,
    Result,
    Step,
    Switch,
    Touch,
    Translation,
)

#: what the agent is asked to look at beyond entries, flags and memtypes. ``events`` registers an MMU notifier with each
#: process; no field of a program has been seen to depend on that, on 5.10.262, 6.1.192, 6.12.117 and 7.3.4
WANT = ("pagemap", "locked", "frames", "events")
#: and that more frames of each region are counted before the program, in those about huge leaves
WIDE = ("wide",)
#: kinds of outcome in which the guest did not get to the program's end
DEATHS = ("oops", "panic", "hang", "died")


class LiveError(Exception):
    """What the agent said of a program cannot be used; no difference between model and kernel."""


# -- to the agent -----------------------------------------------------------------------------------------------------
def slots_of(steps: Sequence[Step]) -> list[str]:
    """The slots that steps name."""
    named = {getattr(step, "slot", None) for step in steps} | {s.to for s in steps if isinstance(s, Remap)}
    return sorted(slot for slot in named if slot)


def words_of(step: Step) -> str:
    """A step as the agent reads it: ``map slot=a pages=4 flags=fixed,locked``."""
    fields = encode(step)
    fields.pop("observed", None)
    parts = [f"{name}={','.join(v) if isinstance(v, list) else v}" for name, v in fields.items()]
    return " ".join([step.op, *parts])


def text_of(program: Program, want: Sequence[str] = WANT) -> str:
    """A program as the agent reads it, with every place to look at. ``want``: what to see beyond the rest.

    Every page of every slot that the program names; of slots with huge leaves some.
    """
    slots = slots_of(program.steps)
    pages: dict[str, Sequence[int]] = {slot: range(PAGES) for slot in slots}
    if language_of(program.id) in LANGUAGES:
        pages = {slot: looked_at(program.steps, slot) for slot in slots}
        want = (*want, *WIDE) if want else want
    live, current = [0], 0
    lines = [f"program {program.id}" + (f" want={','.join(want)}" if want else "")]
    for step in program.steps:
        if isinstance(step, Fork):
            live.append(step.child)
        elif isinstance(step, Switch):
            current = step.process
        elif isinstance(step, Exit):
            live.remove(current)
        lines.append(words_of(step))
        places = [f"{process}:{slot}{page}" for process in live for slot in slots for page in pages[slot]]
        if places:
            lines.append(f"places={','.join(places)}")
    return "\n".join([*lines, "end", ""])


# -- the machine ------------------------------------------------------------------------------------------------------
def header_of(ready: Mapping[str, Any], identity: Mapping[str, str], machine: str = "pc") -> Header:
    """The header of what is recorded on a kernel: what its agent said when it was ready, what the lab knows of it.

    LiveError if it does not say which kernel it is.
    """
    said = f"{ready.get('version', '')} {ready.get('release', '')}"
    version = re.search(r"Debian (\d+\.\d+(?:\.\d+)?)", said) or re.search(r"(\d+\.\d+(?:\.\d+)?(?:-rc\d+)?)", said)
    if version is None:
        raise LiveError(f"the kernel does not say its version: {said.strip() or 'nothing'}")
    memory = identity.get("memory_mb")
    config = ready.get("config") or {}
    known = ("kernel", "config", "probe", "machine", "memory_mb", "command_line", "qemu", "packages", "cpu")
    try:
        return Header(
            format=FORMAT,
            version=FORMAT_VERSION,
            key=Key(
                kernel=KernelKey(
                    version=version[1],
                    release=str(ready.get("release") or "unknown"),
                    distribution="debian" if "Debian" in said else None,
                    package_version=identity.get("packages"),
                    config_sha256=identity.get("config"),
                    command_line=ready.get("command_line"),
                ),
                lab=LabKey(
                    module=ready.get("module"),
                    module_sha256=identity.get("probe") or None,
                    emulator=identity.get("qemu"),
                    machine=machine,
                    cpu=config.get("cpu"),
                    cpu_model=identity.get("cpu"),
                    cpus=config.get("cpus"),
                    memory_mib=int(memory) if memory else None,
                    settings={k: v for k, v in config.items() if k not in ("cpu", "cpus")},
                    extra={k: v for k, v in identity.items() if k not in known},
                ),
            ),
            devices=tuple(d for d in map(_device, ready.get("devices") or ()) if d is not None),
            regions=many(nested(RegionKey)).read_at(ready.get("regions") or [], "ready.regions"),
            isolation="fresh",
            zero_pfn=optional(BITS).read_at(ready.get("zero_pfn"), "ready.zero_pfn"),
        )
    except (BadValueError, TypeError) as e:
        raise LiveError(f"what the agent says of its machine cannot be used: {e}") from e


def _device(said: dict[str, Any]) -> DeviceKey | None:
    """A device of the generated programs: one with one BAR to map."""
    bars = many(nested(BarKey)).read_at(said.get("bars") or [], "ready.devices.bars")
    return DeviceKey(name=said["name"], pci=said.get("pci"), bars=bars) if len(bars) == 1 else None


# -- from the agent ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Heard:
    """A program as it ran: the steps that were performed, each with what was observed.

    ``died``: what became of the guest (oops, panic, hang, died), empty if it came to the end; ``why``: in its words.
    """

    program: Program
    died: str = ""
    why: str = ""


def hear(
    program: Program,
    objects: Sequence[Mapping[str, Any]],
    kind: str,
    why: str,
    header: Header,
    language: str = "mapping",
) -> Heard:
    """What the agent's objects say of a program. ``kind``: of the outcome, ``ended`` or one of DEATHS.

    A step that the guest did not survive is the last one. Steps of a process that is not there because its fork failed
    are left out. LiveError if the agent could not do what it was asked. ``language``: of the program.
    """
    before: Counter[tuple[int, int, str]] | None = None
    counted: dict[int, tuple[int, int]] | None = None
    held: tuple[Frame, ...] | None = None
    steps: list[Step] = []
    log: list[Message] = []
    others: list[str] = []
    stopped = ""
    for said in objects:
        if "begin" in said:
            before = _memtypes(said.get("memtypes"))
            counted = _counts(said.get("frames"))
        elif "step" in said:
            step = _step(program, said, before, counted, header)
            if step is not None:
                steps.append(step)
                result = step.observed.result
                stopped = result.died if result is not None and result.died else stopped
        elif "end" in said:
            if said.get("error"):
                raise LiveError(str(said["error"]))
            held = _held(counted, _counts(said.get("frames")))
            for line in said.get("log") or ():
                message = message_of(line)
                if message is None or not _of_a_place(message, header):
                    others.append(line)
                else:
                    log.append(message)
        elif "error" in said:
            raise LiveError(str(said["error"]))
    if kind != "ended" and not stopped:
        number = sum("step" in said for said in objects)
        if not any("begin" in said for said in objects) or number >= len(program.steps):
            raise LiveError(f"the guest did not survive ({kind}: {why}), and no step was under way")
        steps.append(replace(program.steps[number], observed=Observed(result=Result(died=kind))))
        stopped = kind
    ran = sensible(steps, language)
    if ran is None:
        raise LiveError(f"program {program.id} has a step that no generated program may have")
    done = replace(
        program,
        steps=ran,
        log=tuple(log) if not stopped else None,
        held=held if not stopped else None,
        extra={"kernel_log": others} if others else {},
    )
    try:
        done.check(header)
    except BadValueError as e:
        raise LiveError(f"what the agent saw makes no sense: {e}") from e
    return Heard(done, stopped, why)


def _of_a_place(message: Message, header: Header) -> bool:
    """Is a message about what programs map, and not about something else that the kernel does?"""
    try:
        header.check_addresses((message,), "log")
    except BadValueError:
        return False
    return True


def _step(
    program: Program,
    said: Mapping[str, Any],
    before: Counter[tuple[int, int, str]] | None,
    counted: Mapping[int, tuple[int, int]] | None,
    header: Header,
) -> Step | None:
    number = said["step"]
    if not isinstance(number, int) or not 0 <= number < len(program.steps):
        raise LiveError(f"the agent answers a step {number} that it was not given")
    step = program.steps[number]
    if "error" in said:
        raise LiveError(f"step {number} ({step}): {said['error']}")
    if "skipped" in said:
        return None
    seen = dict(said.get("observed") or {})
    found = _memtypes(seen.pop("memtypes", None))
    if "events" in seen:
        seen["events"] = {process: [_event(e) for e in events] for process, events in (seen["events"] or {}).items()}
    if header.key.lab.module is None:
        for name in ("frames", "events", "iovas"):  # without the module the agent looks at nothing
            seen.pop(name, None)
    try:
        observed = nested(Observed).read_at(seen, "observed")
    except BadValueError as e:
        raise LiveError(f"step {number} ({step}): {e}") from e
    result = observed.result
    if result is not None and "at" in result.extra:
        raise LiveError(f"step {number} ({step}): the kernel mapped it at {result.extra['at']}")
    if result is not None and isinstance(step, Touch):
        # what is in memory that a load reads is not modelled; only a device's registers are, by ``dev read``
        observed = replace(observed, result=replace(result, value=None))
    if found is not None and before is not None:
        new = sorted((found - before).elements())
        memtypes = tuple(Memtype(start=start, end=end, type=name) for start, end, name in new)
        observed = replace(observed, memtypes=memtypes)
    if observed.frames is not None:
        observed = replace(observed, frames=_since(observed.frames, counted, header))
    if observed.pins is not None:
        got = {str(n): frame for n, frame in enumerate(observed.pins) if frame is not None}
        since = _since(got, counted, header)
        slots = range(len(observed.pins))
        observed = replace(observed, pins=None if since is None else tuple(since.get(str(n)) for n in slots))
    if observed.iovas is not None:
        observed = replace(observed, iovas=_translations(observed.iovas, counted, header))
    return replace(step, observed=observed)


def _memtypes(said: Any) -> Counter[tuple[int, int, str]] | None:
    if said is None:
        return None
    return Counter((int(m["start"], 16), int(m["end"], 16), str(m["type"])) for m in said)


# -- counts -----------------------------------------------------------------------------------------------------------
def _counts(said: Any) -> dict[int, tuple[int, int]] | None:
    """(refs, maps) by frame, from the agent's runs of frames that have the same ones."""
    if said is None:
        return None
    return {int(run["pfn"], 16) + n: (run["refs"], run["maps"]) for run in said for n in range(run["pages"])}


def _since(
    frames: Mapping[str, Frame], counted: Mapping[int, tuple[int, int]] | None, header: Header
) -> dict[str, Frame] | None:
    """The counts of regions' frames as what they are more than before. None where one had not been counted."""
    found = {}
    for place, frame in frames.items():
        if not any(r.pfn <= frame.pfn < r.pfn + r.pages for r in header.regions):
            found[place] = frame
            continue
        before = (counted or {}).get(frame.pfn)
        if before is None:
            return None
        found[place] = replace(frame, refs=frame.refs - before[0], maps=frame.maps - before[1])
    return found


def _translations(
    iovas: Mapping[str, Translation | None], counted: Mapping[int, tuple[int, int]] | None, header: Header
) -> dict[str, Translation | None]:
    """The counts of regions' frames likewise; without counts where one had not been counted."""
    found = {}
    for iova, at in iovas.items():
        found[iova] = at
        if at is not None and at.refs is not None and at.maps is not None:
            since = _since({iova: Frame(pfn=at.pfn, refs=at.refs, maps=at.maps)}, counted, header)
            frame = since[iova] if since is not None else None
            found[iova] = replace(at, refs=frame.refs if frame else None, maps=frame.maps if frame else None)
    return found


def _held(
    before: Mapping[int, tuple[int, int]] | None, after: Mapping[int, tuple[int, int]] | None
) -> tuple[Frame, ...] | None:
    """The frames whose counts differ, with the difference."""
    if before is None or after is None:
        return None
    changes = ((pfn, after[pfn][0] - n[0], after[pfn][1] - n[1]) for pfn, n in sorted(before.items()) if pfn in after)
    return tuple(Frame(pfn=pfn, refs=refs, maps=maps) for pfn, refs, maps in changes if refs or maps)


# -- notifier events --------------------------------------------------------------------------------------------------
def _event(said: Mapping[str, Any]) -> str:
    """An event in the words of ``schema.EVENT``."""
    if "lost" in said:
        return f"lost {said['lost']}"
    first, last = (slot_address(int(said[name], 16)) for name in ("first", "last"))
    return f"{'end' if said['end'] else 'start'} {said['event']} {first}-{last}"
