"""The first recordings: what the guest program vfiorev printed, turned into the schema.

``python -m mmlitmus.conform.import_vfiorev RAW_FOLDER OUT_FOLDER``. The same text gives the same bytes. vfiorev.c ran
nine scenarios one after the other in one process: map 4 pages of an edu device's BAR 0, do something to the mapping,
switch memory decode off, look at entries and touch. Each scenario below is its C code, step by step; a probe or touch
whose result was not printed is not observed. What the text does not say (package, command line, QEMU) is from the
report of the session that ran it.
"""

from __future__ import annotations

import hashlib
import re

from .codec import BadValueError
from .lab_output import EMULATOR, OK, found, kernel_key, main, text_of, touch_result, walk_result
from .schema import (
    FORMAT,
    FORMAT_VERSION,
    BarKey,
    Dev,
    DeviceKey,
    Exit,
    Fork,
    Header,
    Key,
    LabKey,
    Map,
    Observed,
    Program,
    Protect,
    Recording,
    Remap,
    Source,
    Step,
    Switch,
    Touch,
    Unmap,
)

PAGES = 4  # of every mapping: vfiorev's L, 16384 bytes
PRESENT, PFN_SHIFT, PFN_BITS = 1, 12, 40

COMMAND_LINE = (
    "console=ttyS0 panic=-1 quiet nokaslr intel_iommu=on memmap=16M$0x10000000 memmap=128M$0x20000000"  # runvfiorev.sh
)

SCENARIO = re.compile(r"^  (A|B|C2?|D|E[012]|F) ([^:\n]+): (.*)$", re.M)
TOKEN = re.compile(r"(pte|touch|pte_at_fork|touch0|mremap)=(\S+)")
COMPLAINT = re.compile(r"^\[ *[0-9.]+\] (WARNING: .*|x86/PAT: .*)$", re.M)


# -- what was printed -------------------------------------------------------------------------------------------------
class Words:
    """The values of one scenario's line, in the order of printing."""

    def __init__(self, line: str) -> None:
        self.left = TOKEN.findall(line)

    def next(self, *names: str) -> str:
        """The next value, which has to be called one of ``names``."""
        if not self.left or self.left[0][0] not in names:
            found = "the end of the line" if not self.left else "=".join(self.left[0])
            raise BadValueError("", f"{found} where {' or '.join(names)} was to come")
        value: str = self.left.pop(0)[1]
        return value

    def pte(self, place: str, name: str = "pte") -> Observed:
        """What a walk printed, as seen at ``place``."""
        return Observed(entries={place: walk_result(self.next(name))})

    def touch(self) -> Observed:
        """What a touch printed."""
        return Observed(result=touch_result(self.next("touch")))


def also(observed: Observed, other: Observed) -> Observed:
    """Two observations of one step as one."""
    return Observed(result=observed.result or other.result, entries={**observed.entries, **other.entries})


# -- the scenarios ----------------------------------------------------------------------------------------------------
def mapped(*touched: int) -> list[Step]:
    """``b = MM()`` and a read of each page in ``touched``, results not printed."""
    return [Map(slot="a", pages=PAGES), *(Touch(slot="a", page=n) for n in touched)]


def decode_off(seen: Observed) -> Step:
    """``DIS()``, and the walk that follows. The program complains about a config write that fails; it never did."""
    return Dev(action="memory_off", observed=also(OK, seen))


def done(slot: str | None = "a") -> list[Step]:
    """``ENA(); munmap(b, L)``."""
    return [Dev(action="memory_on", observed=OK), *([Unmap(slot=slot, pages=PAGES)] if slot else [])]


def plain(w: Words) -> list[Step]:
    """A: touched, then revoked."""
    return [*mapped(0), decode_off(w.pte("0:a0")), Touch(slot="a", observed=w.touch()), *done()]


def moved(w: Words) -> list[Step]:
    """B: moved by mremap over a reservation made for it."""
    if w.next("mremap") != "ok":
        raise BadValueError("", "mremap failed, and the errno was not printed")
    return [
        *mapped(0, 2),
        Map(slot="b", pages=PAGES, backing="anonymous", prot="", sharing="private"),
        Remap(slot="a", pages=PAGES, new_pages=PAGES, to="b", flags=("maymove", "fixed"), observed=OK),
        decode_off(w.pte("0:b0")),
        Touch(slot="b", observed=w.touch()),
        *done("b"),
    ]


def two_parts(w: Words, steps: list[Step], first: int, second: int) -> list[Step]:
    """Revoke, then look at and touch page ``first``, then page ``second``."""
    off = decode_off(w.pte(f"0:a{first}"))
    touched = w.touch()
    one = Touch(slot="a", page=first, observed=also(touched, w.pte(f"0:a{second}")))
    return [*steps, off, one, Touch(slot="a", page=second, observed=w.touch()), *done()]


def holed(w: Words) -> list[Step]:
    """C: page 1 unmapped between the touches of pages 0 and 2."""
    return two_parts(w, [*mapped(0), Unmap(slot="a", page=1, pages=1), Touch(slot="a", page=2)], 0, 2)


def touched_then_holed(w: Words) -> list[Step]:
    """C2: page 1 unmapped after both touches."""
    return two_parts(w, [*mapped(0, 2), Unmap(slot="a", page=1, pages=1)], 2, 0)


def protected(w: Words) -> list[Step]:
    """D: page 2 made read-only."""
    return two_parts(w, [*mapped(0, 2), Protect(slot="a", page=2, pages=1, prot="r")], 0, 2)


def forked(w: Words, *, child_touches: bool, parent_unmaps: bool) -> list[Step]:
    """E0, E1, E2: the parent revokes, the child looks and touches. That the child reported at all says fork worked."""
    parent = w.next("pte")
    at_fork = w.pte("1:a0", name="pte_at_fork")
    touch0 = w.next("touch0")
    if child_touches == (touch0 == "-") or parent_unmaps != (parent == "unmapped"):
        raise BadValueError("", f"touch0={touch0} and parent pte={parent} do not fit the scenario")
    seen = Observed() if parent_unmaps else Observed(entries={"0:a0": walk_result(parent)})
    return [
        *mapped(0),
        Fork(child=1, observed=OK),
        Switch(process=1, observed=at_fork),
        *([Touch(slot="a", observed=Observed(result=touch_result(touch0)))] if child_touches else []),
        Switch(process=0),
        *([Unmap(slot="a", pages=PAGES)] if parent_unmaps else []),
        decode_off(seen),
        Switch(process=1, observed=w.pte("1:a0")),
        Touch(slot="a", observed=w.touch()),
        Exit(),
        Switch(process=0),
        *done(None if parent_unmaps else "a"),
    ]


def child_unmapped(w: Words) -> list[Step]:
    """F: the child unmaps and exits before the parent revokes."""
    return [
        *mapped(0),
        Fork(child=1),
        Switch(process=1),
        Unmap(slot="a", pages=PAGES),
        Exit(),
        Switch(process=0),
        decode_off(w.pte("0:a0")),
        Touch(slot="a", observed=w.touch()),
        *done(),
    ]


SCENARIOS = {
    "A": plain,
    "B": moved,
    "C": holed,
    "C2": touched_then_holed,
    "D": protected,
    "E0": lambda w: forked(w, child_touches=False, parent_unmaps=False),
    "E1": lambda w: forked(w, child_touches=True, parent_unmaps=False),
    "E2": lambda w: forked(w, child_touches=False, parent_unmaps=True),
    "F": child_unmapped,
}


# -- a whole output ---------------------------------------------------------------------------------------------------
def convert(raw: bytes, name: str) -> Recording:
    """The recording of one run of vfiorev. BadValueError when the output is not what the program prints."""
    output = text_of(raw)
    found(r"(?m)^VDONE$", output)
    if "cmdwrite" in output:
        raise BadValueError("", "a write of COMMAND failed; which one was not printed")
    programs = []
    for ident, title, line in SCENARIO.findall(output):
        words = Words(line)
        steps = SCENARIOS[ident](words)
        if words.left:
            raise BadValueError("", f"scenario {ident} prints more than expected: {words.left}")
        programs.append(Program(id=ident, name=title, steps=tuple(steps)))
    if [p.id for p in programs] != list(SCENARIOS):
        raise BadValueError("", f"scenarios {[p.id for p in programs]} instead of {list(SCENARIOS)}")
    return Recording(header=header(output, programs, name, hashlib.sha256(raw).hexdigest()), programs=tuple(programs))


def header(output: str, programs: list[Program], name: str, sha256: str) -> Header:
    """The key, from the output as far as it says."""
    address = found(r"## VFIO dev=(\S+)", output)[1]
    vendor, device = found(rf"{re.escape(address)} 0x(\S+) 0x(\S+)", output).groups()
    entries = [e for p in programs for s in p.steps for e in s.observed.entries.values()]
    return Header(
        format=FORMAT,
        version=FORMAT_VERSION,
        key=Key(
            kernel=kernel_key(output, COMMAND_LINE),
            lab=LabKey(
                module="pfnlab" if any(entries) else None,
                emulator=EMULATOR,
                machine="q35, intel-iommu",
                cpu="max",
                cpus=2,
                memory_mib=2048,
            ),
        ),
        devices=(
            DeviceKey(
                name="edu",
                pci=f"{vendor}:{device}",
                bars=(BarKey(bar=0, pages=int(found(r"BAR0 size=(\S+)", output)[1], 16) >> 12, pfn=bar_pfn(programs)),),
            ),
        ),
        isolation="sequence",
        programs=len(programs),
        source=Source(file=name, sha256=sha256, program="vfiorev.c"),
        kernel_log=tuple(COMPLAINT.findall(output)),
    )


def bar_pfn(programs: list[Program]) -> int | None:
    """BAR 0's first frame, by the first entry of a mapping's page 0 that was seen present; None if none was."""
    for program in programs:
        for step in program.steps:
            for place, entry in step.observed.entries.items():
                if entry is not None and entry.bits & PRESENT and place[3:] == "0":
                    return entry.bits >> PFN_SHIFT & (1 << PFN_BITS) - 1
    return None


if __name__ == "__main__":
    main(convert, "import_vfiorev", "vfiorev*.txt")
