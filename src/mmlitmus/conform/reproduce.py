"""A program as one C file that needs neither lab nor agent: what a kernel developer can read, compile and run.

Its steps are plain system calls, in order. Where it maps the probe module's memory, or looks into page tables, it needs
the module, and says how to load it; where it uses a device, that vfio-pci drives it. At the step that it is about it
prints what differs. The C is put together from the parts of ``reproducer.c``, which holds only what a program needs.

Exit status of the C program: 0 if it sees what the real kernel showed, 1 if it sees what the model expects, 2 otherwise
(an earlier step that went another way, something that could not be opened, an answer of neither). Of a program that is
not about a difference: 0 if every step ended as it was recorded, or if nothing was recorded; 2 otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from .c_program import LOOKERS, reproducer
from .c_text import About, Look, ReproduceError, outcome
from .c_text import file_name as file_name
from .codec import BadValueError
from .compare import AGREED, DISAGREED, Field, compare_program
from .execute import execute, model_of
from .generate import generate
from .layout import Layout
from .schema import VERBS, Entry, Header, Program, Recording, Step, read_step
from .store import load, packaged

#: what is looked at of one step at most
LOOKS = 8


# -- what it is about -------------------------------------------------------------------------------------------------
def about(kernel: str, model: str, differ: Sequence[Field]) -> tuple[int, About]:
    """The first step of those that ``differ`` are of, and what to look at there. ``differ`` may not be empty.

    What differs may be nothing that a program can look at (what is held when it has gone): then there are no looks.
    """
    last = min(f.index for f in differ)
    here = [f for f in differ if f.index == last]
    outcomes = any(f.name == "outcome" for f in here)
    looks = [
        Look(f.name, f.place, _words(f.name, f.recorded), _words(f.name, f.model))
        for f in here
        if f.name in LOOKERS and not (outcomes and f.name in ("si_code", "value"))
    ]
    # which frame of RAM it is, a program cannot say
    other = {(f.name, f.place) for f in here if f.recorded != f.model}
    looks = [look for look in looks if look.kernel != look.model or (look.name, look.place) not in other]
    looks = [look for look in looks if not _goes_on(look, looks)]
    unseen = "" if looks else ", ".join(dict.fromkeys(f"{f.name} {f.place}".rstrip() for f in here))
    return last, About(kernel, model, tuple(looks[:LOOKS]), max(0, len(looks) - LOOKS), unseen)


def _goes_on(look: Look, looks: Sequence[Look]) -> bool:
    """Are these the flags of a mapping that the page before is one of, too?"""
    place = re.fullmatch(r"(\d+:[a-z])(\d+)", look.place)
    if look.name != "vm_flags" or place is None:
        return False
    return replace(look, place=f"{place[1]}{int(place[2]) - 1}") in looks


def _words(name: str, text: str | None) -> str:
    """A field's text in the words of the C program."""
    if text is None:
        return "nothing"
    if name == "outcome":
        return outcome(text)
    if name == "vm_flags":
        return text or "not mapped"
    if name == "entry":
        return _entry(text)
    if name == "pagemap":
        # the frame comes last
        words = text.split(" ")
        framed = words[0] == "present" or words[-1].startswith("0x")
        return " ".join(words[:-1] if framed else words) or "none"
    if name == "frame":
        return text[text.find("refs ") :] if "refs " in text else text
    if name in ("memtypes", "log"):
        return re.sub(
            r"(\w*)\[(0x[0-9a-f]+)-(0x[0-9a-f]+)\)",
            lambda m: f"{m[1]}+{_hex(int(m[2], 16))} for {int(m[3], 16) - int(m[2], 16)} pages",
            text,
        )
    return text


def _hex(number: int) -> str:
    """As C's ``%#x`` has it."""
    return hex(number) if number else "0"


def _entry(text: str) -> str:
    level, _, rest = text.partition(":")
    if not rest:
        return "pmd 0"
    name, _, bits = rest.rpartition("+")
    number = _hex(int(bits, 16))
    region = re.fullmatch(r"(\w+)\[(0x[0-9a-f]+)\]", name)
    if region is not None:
        place = region[1].replace("dev", "device", 1) if region[1].startswith("dev") else region[1]
        return f"{level} {number} {place}+{_hex(int(region[2], 16))}"
    return f"{level} {number} {'zero' if name == 'zero' else 'RAM'}" if name else f"{level} {number}"


# -- programs as text ------------------------------------------------------------------------------------------------
def program_of(text: str) -> Program:
    """A program as ``live.text_of`` writes it and the agent reads it: "program ID", a line a step, "end".

    Empty lines, and places to look at, are passed over. ReproduceError that names the line where it does not fit.
    """
    id, steps = "", []
    for number, line in enumerate(text.splitlines(), 1):
        verb, _, rest = line.strip().partition(" ")
        if verb == "program" and not id:
            id = rest.split(" want=")[0]
        elif verb in VERBS and id:
            try:
                steps.append(_step(VERBS[verb], rest.split()))
            except (BadValueError, ValueError) as e:
                raise ReproduceError(f"line {number}: {line.strip()}: {e}") from e
        elif verb == "end" and id:
            return Program(id=id, steps=tuple(steps))
        elif verb and not verb.startswith("places="):
            raise ReproduceError(f"line {number}: {line.strip()}: this is no step of a program")
    raise ReproduceError('a program is a line "program ID", steps, and a line "end"')


def _step(verb: type[Step], words: Sequence[str]) -> Step:
    kinds = {f.name: str(f.type) for f in fields(verb)}
    value: dict[str, Any] = {"op": verb.op}
    for word in words:
        name, equals, text = word.partition("=")
        if name == "places":
            continue
        if not equals or name not in kinds:
            raise ValueError(f"{word!r} is no field of {verb.op}")
        if kinds[name] == "int":
            value[name] = int(text)
        elif kinds[name].startswith("tuple"):
            value[name] = [one for one in text.split(",") if one]
        else:
            value[name] = text or None if "None" in kinds[name] else text
    return read_step(value)


# -- where programs come from -----------------------------------------------------------------------------------------
def of_difference(
    program: Program, header: Header | None, kernel: str, model: str, differ: Sequence[Field], note: str = ""
) -> str:
    """The C of a program that was run on both sides, up to the first step that differs."""
    last, what = about(kernel, model, differ)
    whole = any(f.name in ("log", "held") for f in differ if f.index == last)
    steps = program.steps if whole else program.steps[: last + 1]
    return reproducer(replace(program, steps=steps), header, what, note)


def of_recorded(recording: Recording, id: str, step: int | None = None) -> str:
    """The C of a recorded program. With ``step`` it ends there, and shows what that step changed.

    ReproduceError if there is no such program or step; what ``execute`` raises where the model is asked.
    """
    program = next((p for p in recording.programs if p.id == id), None)
    if program is None:
        raise ReproduceError(f"the recording has no program {id!r}")
    header = recording.header
    kernel = header.key.kernel.release
    if step is None:
        return reproducer(program, header, About(kernel), program.name)
    if not 0 <= step < len(program.steps):
        raise ReproduceError(f"program {id} has steps 0 to {len(program.steps) - 1}, and no {step}")
    model = model_of(header.key.kernel)
    found = compare_program(program, execute(program, header, model), Layout(header))
    here = [f for f in found if f.index == step and f.verdict in (AGREED, DISAGREED) and f.name != "log"]
    old = {(f.name, f.place): f.recorded for f in found if f.index == step - 1}
    new = [f for f in here if f.verdict == DISAGREED or f.recorded != old.get((f.name, f.place), _NOTHING.get(f.name))]
    new = [f for f in new if f.name in LOOKERS and not (_nothing(f) and f.verdict == AGREED)]
    if not new:
        return reproducer(replace(program, steps=program.steps[: step + 1]), header, About(kernel), program.name)
    last, what = about(kernel, model, new)
    return reproducer(replace(program, steps=program.steps[: last + 1]), header, what, program.name)


def _nothing(field: Field) -> bool:
    """Is it an entry that is none? Which table it is in changes with its neighbours."""
    return field.name == "entry" and str(field.recorded).endswith(":0x0")


#: what there is of a place, or of the machine, before a program has done anything
_NOTHING = {"entry": str(Entry("pmd", 0)), "vm_flags": "", "memtypes": "none", "outcome": "ok"}


def named(name: str) -> str:
    """The C of a program by its name: RECORDING:PROGRAM[:STEP], where a recording is one of the package's or a file; or
    MACHINE-SEED-NUMBER, a generated program, as ``mmlitmus conform`` prints them; or a file with a program's text.

    ReproduceError if there is none; RecordingError if the file is damaged; OSError if it cannot be read.
    """
    generated = re.fullmatch(r"(pc|q35)-([0-9]{1,18})-([0-9]{1,18})", name)
    if generated is not None:
        return reproducer(generate(int(generated[2]), int(generated[3]), machine=generated[1]))
    if name.endswith(".program") or (Path(name).is_file() and ".jsonl" not in name):
        return reproducer(program_of(Path(name).read_text(encoding="utf-8")))
    words = re.fullmatch(r"(.+?\.jsonl(?:\.gz)?|[^:]+):(.+?)(?::([0-9]{1,9}))?", name)
    if words is None:
        raise ReproduceError(
            f"{name!r} names no program: RECORDING:PROGRAM[:STEP], such as live-6.12-pc:pc-1-17:3, a generated "
            "program, such as pc-1-17, or a file"
        )
    known = {path.name.split(".jsonl")[0]: path for path in packaged()}
    path = known.get(words[1], Path(words[1]))
    if words[1] not in known and not path.is_file():
        raise ReproduceError(f"there is no recording {words[1]}; the package has {', '.join(sorted(known))}")
    return of_recorded(load(path), words[2], int(words[3]) if words[3] else None)
