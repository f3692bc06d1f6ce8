"""The kill matrix: would a recording notice if the model chose otherwise at a seam?

Each flip is a recorded kernel with another alternative at one seam. A program that was recorded on the kernel kills it
when something disagrees on the flipped model that agrees on the kernel's own. What survives is said with the reason:
nobody asked the seam; a rule says that one task cannot see it, or that no program can bring it about; or whoever asked
saw the same.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mmlitmus.explore.once import Once
from mmlitmus.kernel import eras
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.patches import LISTED
from mmlitmus.kernel.policy import HOMES

from .compare import DISAGREED, compare_program
from .execute import EVENTS_A_STEP, Execution, Run, execute, model_of
from .layout import Layout
from .schema import Header, Program
from .store import RECORDINGS, header_of, load, packaged, programs_of

KILLED = "killed"
NEVER, OTHERS, UNREACHABLE, SAME = (
    "never consulted", "needs another task", "cannot be brought about", "same answers",
)  # fmt: skip
REASONS = (NEVER, OTHERS, UNREACHABLE, SAME)

#: the program that kills each flip, as the last whole derivation found it
KILLERS = RECORDINGS / "killers.json"
#: how the line of a program begins that ``store.dump`` wrote


# -- the flips --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, order=True)
class Flip:
    """A recorded kernel with another alternative at one seam."""

    kernel: str
    seam: str
    alternative: str

    @property
    def spec(self) -> str:
        """The flipped kernel."""
        return f"{self.kernel} {self.seam}={self.alternative}"


def flips(kernel: str) -> list[Flip]:
    """Every flip of a kernel, seam by seam."""
    own = eras.kernel(kernel).choices
    return [Flip(kernel, seam, name) for seam in HOMES for name in eras.alternatives(seam) if name != own[seam]]


@dataclass(frozen=True)
class Recorded:
    """A recorded program, and where it is from: the recording's path below the package's."""

    file: str
    program: Program
    header: Header

    @property
    def name(self) -> str:
        """One word that names it."""
        return f"{self.file}:{self.program.id}"

    @cached_property
    def layout(self) -> Layout:
        """The recorded machine's memory."""
        return Layout(self.header)


def files() -> dict[str, list[Path]]:
    """The packaged recordings by the model's name for their kernel, oldest first, generated programs first.

    Only headers are read.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(packaged(), key=lambda p: (p.parent.name != "live", p)):
        kernel = model_of(header_of(path).key.kernel)
        found.setdefault(kernel, []).append(path)
    order = [*eras.RELEASES]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def recorded(kernel: str) -> list[Recorded]:
    """Every packaged program of a kernel, the generated ones first. KeyError if nothing was recorded on it."""
    found = []
    for path in files()[kernel]:
        recording = load(path)
        found += [Recorded(path.relative_to(RECORDINGS).as_posix(), p, recording.header) for p in recording.programs]
    return found


def named(names: Iterable[str]) -> dict[str, Recorded]:
    """The packaged programs of these names, as far as there are any; nothing else is decoded."""
    wanted: dict[str, set[str]] = {}
    for name in names:
        file, _, ident = name.rpartition(":")
        wanted.setdefault(file, set()).add(ident)
    found = {}
    for file in sorted(wanted):
        path = RECORDINGS / file
        if path.exists():
            recording = programs_of(path, wanted[file])
            for program in recording.programs:
                one = Recorded(file, program, recording.header)
                found[one.name] = one
    return found


# -- one program ------------------------------------------------------------------------------------------------------
class Asked(dict[str, Any]):
    """A kernel's resolved choices; remembers for which seams somebody has asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seams: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.seams.add(key)
        return super().get(key, default)


def consulted(one: Recorded, kernel: str) -> frozenset[str]:
    """The seams that a program asks on a kernel."""
    running = eras.kernel(kernel)
    asked = running.resolved = Asked()
    run = Run(one.program, one.header)

    def build() -> Any:
        machine = Machine(running)
        asked.seams.clear()  # choices that are looked up in advance
        return run.build(machine)

    engine = Once(build)
    engine.max_events = EVENTS_A_STEP * (len(one.program.steps) + 1)
    engine.run()
    return frozenset(asked.seams)


def disagreements(one: Recorded, execution: Execution) -> set[str]:
    """What differs between a recorded program and what the model did."""
    fields = compare_program(one.program, execution, one.layout)
    return {f"step {f.index}: {f.name} {f.place}".rstrip() for f in fields if f.verdict == DISAGREED}


def seen(execution: Execution) -> str:
    """A hash of all that a recording might tell one execution from another by."""
    ran = (execution.stopped, execution.died, execution.warned)
    said = (execution.steps, execution.log, execution.held, *ran)
    return hashlib.sha256(repr(said).encode()).hexdigest()


def kills(one: Recorded, flip: Flip, own: str = "") -> str:
    """What disagrees on the flipped kernel and agrees on its own; empty if nothing does.

    ``own``: what is ``seen`` on its own, where that is known.
    """
    flipped = execute(one.program, one.header, flip.spec)
    if own == seen(flipped):
        return ""
    known = disagreements(one, execute(one.program, one.header, flip.kernel))
    return min(disagreements(one, flipped) - known, default="")


# -- what survives ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rule:
    """Why no program of one task can kill a flip: the ``reason`` (OTHERS or UNREACHABLE), and ``why`` in words.

    ``applies``: (the flip, the recorded kernel's choices, whether its recordings have the probe module).
    """

    name: str
    reason: str
    why: str
    applies: Callable[[Flip, Mapping[str, str], bool], bool]


def _between(seam: str, *names: str) -> Callable[[Flip, Mapping[str, str], bool], bool]:
    """A flip of ``seam`` from one of these alternatives to another."""
    return lambda flip, own, probe: flip.seam == seam and {flip.alternative, own[seam]} <= set(names)


def _seam(*seams: str) -> Callable[[Flip, Mapping[str, str], bool], bool]:
    return lambda flip, own, probe: flip.seam in seams


#: the designs with a list of VMAs, which differ in how they lock it
_LISTS = {"v5.8", "v5.14"}
#: VFIO designs that differ from a merged one in what they lock, or in what they do when two come at once
_LOCKS = (
    "write-lock-in-fault", "write-lock-in-fault-revalidate", "blocking-hot-reset", "blocking-hot-reset-vma-list",
    "copy-user-under-memory-lock",
)  # fmt: skip

RULES = (
    Rule("late-flush", OTHERS, "a flush that comes late shows only to another CPU", _seam("pfnmap_flush")),
    Rule(
        "fault-lock",
        OTHERS,
        "under which lock a fault is served shows only to whom it keeps waiting, or lets in",
        _seam("fault_lock"),
    ),
    Rule(
        "fork-order",
        OTHERS,
        "when fork links a VMA shows to who zaps meanwhile; when it calls ->open, to a driver whose ->open looks at "
        "page tables, as VFIO's with a list of VMAs does",
        lambda flip, own, probe: (
            flip.seam == "dup_mmap" and (flip.alternative.startswith("link-") or own["vfio_pci"] not in LISTED)
        ),
    ),
    Rule(
        "failing-move",
        UNREACHABLE,
        "a move is taken back only where there is no memory for page tables, or a driver refuses it",
        _seam("move_vma"),
    ),
    Rule("lookup-locks", UNREACHABLE, "every look for a VMA holds mmap_lock", _seam("find_vma", "vma_lookup")),
    Rule(
        "advice-locks",
        OTHERS,
        "what MADV_DONTNEED locks, and when it flushes, shows only to who comes meanwhile",
        _seam("madvise_lock"),
    ),
    Rule(
        "which-half-is-new",
        UNREACHABLE,
        "only a driver's ->open tells the halves of a split apart, and no driver of this kernel's has one",
        lambda flip, own, probe: flip.seam == "split_for_munmap" and own["vfio_pci"] not in LISTED,
    ),
    Rule(
        "lockdep-build",
        OTHERS,
        "the assertion is one of lockdep builds, and the VMA's write lock keeps others out",
        _between("vma_flags_write", "unchecked", "lockdep"),
    ),
    Rule(
        "nothing-asserted",
        UNREACHABLE,
        "this kernel's writers of vm_flags assert nothing, and what asserts like them does not either",
        lambda flip, own, probe: flip.seam == "untrack_clear" and own["vma_flags_write"] != "always",
    ),
    Rule(
        "either-lock-is-held",
        UNREACHABLE,
        "every walk holds mmap_lock or i_mmap_rwsem: an assertion of either never fails",
        _between("follow_pte_assert", "none", "mmap_lock-or-i_mmap"),
    ),
    Rule(
        "unmarked-mixed",
        UNREACHABLE,
        "it takes a driver that inserts with vmf_insert_mixed into what it has not marked VM_MIXEDMAP",
        _seam("vm_mixed_ok"),
    ),
    Rule(
        "nothing-held-by-a-vma",
        UNREACHABLE,
        "with VM_PAT a reservation goes with the entries: nothing hangs on a VMA that is closed and not yet freed",
        lambda flip, own, probe: flip.seam == "mmap_replace" and own["pfnmap_track"] == "vm_pat",
    ),
    Rule(
        "no-leaf-of-1g",
        UNREACHABLE,
        "slots are of 16 MiB at most: no leaf of 1 GiB fits",
        _seam("pud_insert_prot", "copy_huge_pud", "vma_adjust_trans_huge"),
    ),
    Rule(
        "leaf-gone-while-copied",
        OTHERS,
        "a leaf goes while fork copies it by a zap of somebody else's only",
        _between("copy_huge_pmd", "special", "locked"),
    ),
    Rule(
        "nothing-to-ask-a-driver",
        UNREACHABLE,
        "neither VFIO nor the probe has a ->may_split or a ->mprotect",
        _seam("prep_move_vma", "do_mprotect_pkey"),
    ),
    Rule(
        "vfio-locks",
        OTHERS,
        "the designs differ in what they lock, and in what becomes of two faults at once",
        lambda flip, own, probe: (
            flip.seam == "vfio_pci" and (flip.alternative in _LOCKS or {flip.alternative, own["vfio_pci"]} == _LISTS)
        ),
    ),
    Rule(
        "vfio-write-combining",
        UNREACHABLE,
        "write-combining has to be asked for, and no released kernel can be asked",
        lambda flip, own, probe: flip.seam == "vfio_pci" and flip.alternative == "write-combining",
    ),
    Rule(
        "exact-frees",
        UNREACHABLE,
        "what a VMA's tracking object reserved it gives back with the same bounds: no free is of a tail",
        lambda flip, own, probe: flip.seam == "memtype_match" and own["pfnmap_track"] == "ctx",
    ),
    Rule(
        "no-probe-module",
        UNREACHABLE,
        "there is no probe module for this kernel: nothing is reserved, and of a PFNMAP nobody sees an entry",
        lambda flip, own, probe: (
            not probe and flip.seam in ("pfnmap_track", "vma_flags_write", "saved_dirty", "pgprot_combine", "vfio_pci")
        ),
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What became of a flip: ``reason`` is KILLED or one of REASONS.

    ``killer``: the program, and ``how``: what disagreed first; or ``why`` it survives. ``asked``: programs that ask the
    seam.
    """

    flip: Flip
    reason: str
    killer: str = ""
    how: str = ""
    why: str = ""
    asked: int = 0


def survivor(flip: Flip, asked: int, probe: bool) -> Verdict:
    """The verdict on a flip that no program kills."""
    own = eras.kernel(flip.kernel).choices
    rule = next((r for r in RULES if r.applies(flip, own, probe)), None)
    if not asked:
        why = rule.why if rule is not None else "no recorded program comes there on this kernel"
        return Verdict(flip, NEVER, why=why)
    if rule is not None:
        return Verdict(flip, rule.reason, why=rule.why, asked=asked)
    return Verdict(flip, SAME, why="whoever asked saw the same", asked=asked)


def some_of(programs: Sequence[Recorded], most: int) -> list[Recorded]:
    """At most so many of each recording, from all over it, in the order given."""
    files: dict[str, list[Recorded]] = {}
    for one in programs:
        files.setdefault(one.file, []).append(one)
    return [one for whole in files.values() for one in whole[:: max(1, -(-len(whole) // most))]]


def derive(kernel: str, programs: Sequence[Recorded], known: Killers | None = None) -> list[Verdict]:
    """The verdict on every flip of a kernel, from its recorded programs.

    With what is ``known``, a flip is asked of them only where its killer kills no more, or where it survived with no
    rule to say why.
    """
    seams = [consulted(one, kernel) for one in programs]
    count = Counter(seam for asked in seams for seam in asked)
    probe = any(one.header.regions for one in programs)
    own: dict[int, str] = {}
    verdicts = []
    killers = {} if known is None else named(name for flip, name in known.killed.items() if flip.kernel == kernel)
    for flip in flips(kernel):
        before = None if known is None else killers.get(known.killed.get(flip, ""))
        if before is not None and (how := kills(before, flip)):
            verdicts.append(Verdict(flip, KILLED, before.name, how, asked=max(1, count[flip.seam])))
            continue
        said = survivor(flip, count[flip.seam], probe)
        if known is not None and known.survived.get(flip) == said.reason in (OTHERS, UNREACHABLE):
            verdicts.append(said)
            continue
        found = None
        for n, one in enumerate(programs):
            if flip.seam not in seams[n]:
                continue
            if n not in own:
                own[n] = seen(execute(one.program, one.header, kernel))
            how = kills(one, flip, own[n])
            if how:
                found = Verdict(flip, KILLED, one.name, how, asked=count[flip.seam])
                break
        verdicts.append(found or said)
    return verdicts


def _derive(kernel: str, most: int | None = None, known: Killers | None = None) -> list[Verdict]:
    programs = recorded(kernel)
    return derive(kernel, programs if most is None else some_of(programs, most), known)


def matrix(
    kernels: Sequence[str], jobs: int = 1, most: int | None = None, known: Killers | None = None
) -> list[Verdict]:
    """The verdicts of several recorded kernels, on ``jobs`` processes.

    ``most``: programs of each recording that are asked (None: all). ``known``: as in ``derive``.
    """
    one = partial(_derive, most=most, known=known)
    if jobs == 1 or len(kernels) == 1:
        return [verdict for kernel in kernels for verdict in one(kernel)]
    with ProcessPoolExecutor(jobs) as pool:
        return [verdict for verdicts in pool.map(one, kernels) for verdict in verdicts]


# -- the killers in a file --------------------------------------------------------------------------------------------
@dataclass
class Killers:
    """What a whole derivation found: the program that kills each flip, and the reason for which others survive."""

    killed: dict[Flip, str] = field(default_factory=dict)
    survived: dict[Flip, str] = field(default_factory=dict)

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Killers:
        """Those of a matrix."""
        found = cls()
        for v in verdicts:
            (found.killed if v.reason == KILLED else found.survived)[v.flip] = v.killer or v.reason
        return found

    @classmethod
    def load(cls, path: Path = KILLERS) -> Killers:
        """Those in a file. ValueError if it is damaged, OSError if it cannot be read."""
        value = json.loads(path.read_text(encoding="utf-8"))
        found = cls()
        for name, table in (("killed", found.killed), ("survived", found.survived)):
            for kernel, seams in value[name].items():
                for seam, alternatives in seams.items():
                    table.update({Flip(kernel, seam, one): said for one, said in alternatives.items()})
        return found

    def dump(self, path: Path = KILLERS) -> None:
        """Write them; the same matrix gives the same bytes."""
        value: dict[str, Any] = {}
        for name, table in (("killed", self.killed), ("survived", self.survived)):
            for flip in sorted(table):
                value.setdefault(name, {}).setdefault(flip.kernel, {}).setdefault(flip.seam, {})[flip.alternative] = (
                    table[flip]
                )
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
