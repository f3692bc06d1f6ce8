"""A program for the agent in a guest, and what the agent said of it as a program with observations.

Everything is observed after every step that can be: every page of every slot that the program names, in every process
that is there; the memtype list as what it has more than when the program started.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .codec import BadValueError, decode, encode
from .generate import PAGES, sensible
from .layout import message_of
from .schema import (
    FORMAT,
    FORMAT_VERSION,
    BarKey,
    DeviceKey,
    Exit,
    Fork,
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
)

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


def text_of(program: Program) -> str:
    """A program as the agent reads it, with every place to look at."""
    slots = slots_of(program.steps)
    live, current = [0], 0
    lines = [f"program {program.id}"]
    for step in program.steps:
        if isinstance(step, Fork):
            live.append(step.child)
        elif isinstance(step, Switch):
            current = step.process
        elif isinstance(step, Exit):
            live.remove(current)
        lines.append(words_of(step))
        places = [f"{process}:{slot}{page}" for process in live for slot in slots for page in range(PAGES)]
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
    known = ("kernel", "config", "probe", "machine", "memory_mb", "command_line", "qemu")
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
                    cpus=config.get("cpus"),
                    memory_mib=int(memory) if memory else None,
                    extra={
                        "settings": {k: v for k, v in config.items() if k not in ("cpu", "cpus")},
                        **{k: v for k, v in identity.items() if k not in (*known, "packages", "cpu")},
                    },
                ),
            ),
            devices=tuple(d for d in map(_device, ready.get("devices") or ()) if d is not None),
            regions=tuple(decode(RegionKey, r, "ready.regions") for r in ready.get("regions") or ()),
            isolation="fresh",
        )
    except (BadValueError, TypeError) as e:
        raise LiveError(f"what the agent says of its machine cannot be used: {e}") from e


def _device(said: dict[str, Any]) -> DeviceKey | None:
    """A device that the model can have: one with a BAR 0 to map and no other."""
    bars = tuple(decode(BarKey, bar, "ready.devices.bars") for bar in said.get("bars") or ())
    return DeviceKey(name=said["name"], pci=said.get("pci"), bars=bars) if [b.bar for b in bars] == [0] else None


# -- from the agent ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Heard:
    """A program as it ran: the steps that were performed, each with what was observed.

    ``died``: what became of the guest (oops, panic, hang, died), empty if it came to the end; ``why``: in its words.
    """

    program: Program
    died: str = ""
    why: str = ""


def hear(program: Program, objects: Sequence[Mapping[str, Any]], kind: str, why: str, header: Header) -> Heard:
    """What the agent's objects say of a program. ``kind``: of the outcome, ``ended`` or one of DEATHS.

    A step that the guest did not survive is the last one. Steps of a process that is not there because its fork failed
    are left out. LiveError if the agent could not do what it was asked.
    """
    before: Counter[tuple[int, int, str]] | None = None
    steps: list[Step] = []
    log: list[Message] = []
    others: list[str] = []
    stopped = ""
    for said in objects:
        if "begin" in said:
            before = _memtypes(said.get("memtypes"))
        elif "step" in said:
            step = _step(program, said, before)
            if step is not None:
                steps.append(step)
                result = step.observed.result
                stopped = result.died if result is not None and result.died else stopped
        elif "end" in said:
            if said.get("error"):
                raise LiveError(str(said["error"]))
            for line in said.get("log") or ():
                message = message_of(line)
                if message is None:
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
    ran = sensible(steps) or ()
    done = replace(
        program,
        steps=ran,
        log=tuple(log) if not stopped else None,
        extra={"kernel_log": others} if others else {},
    )
    try:
        done.check(header)
    except BadValueError as e:
        raise LiveError(f"what the agent saw makes no sense: {e}") from e
    return Heard(done, stopped, why)


def _step(program: Program, said: Mapping[str, Any], before: Counter[tuple[int, int, str]] | None) -> Step | None:
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
    try:
        observed = decode(Observed, seen, "observed")
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
    return replace(step, observed=observed)


def _memtypes(said: Any) -> Counter[tuple[int, int, str]] | None:
    if said is None:
        return None
    return Counter((int(m["start"], 16), int(m["end"], 16), str(m["type"])) for m in said)
