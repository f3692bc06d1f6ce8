"""One cell: a machine with one mapping, one task that asks for its page, and what it was told where it was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mmlitmus.explore.findings import LIVELOCK
from mmlitmus.explore.handover import Auto
from mmlitmus.explore.once import Once
from mmlitmus.explore.scheduler import Results, Setup
from mmlitmus.kernel import eras
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm.gates import Gate, listen
from mmlitmus.kernel.policy import Kernel

from .arch import ARCHITECTURES
from .mappings import MAPPINGS, Mapping
from .paths import LETTERS, PATHS, Path
from .recorded import Recorded, recorded

#: how long one question may take before somebody looks whether it ever ends; the longest that ends takes a tenth
EVENTS = 4000

NOT_MODELLED, NOT_MADE, NEVER_RETURNS, OOPS = "not modelled", "not made", "never returns", "oops"
#: why, where nothing was said at any gate
UNHINDERED = "nothing is in the way"


@dataclass(frozen=True)
class Cell:
    """What the model answers (a word of ``paths.LETTERS``); the gates that the question has come to, in order, each
    once; and what a real kernel answered.
    """

    kernel: str
    arch: str
    mapping: str
    path: str
    answer: str
    gates: tuple[tuple[str, str], ...]
    recorded: Recorded | None

    @property
    def why(self) -> str:
        """The gates in one line."""
        if self.answer == NOT_MODELLED and not self.gates:
            return MAPPINGS[self.mapping].about.partition(": ")[2]
        return "; ".join(f"{gate}: {what}" for gate, what in self.gates) or UNHINDERED

    @property
    def letter(self) -> str:
        """For a table: small where nobody has asked a real kernel."""
        letter = LETTERS[self.answer]
        return letter if self.recorded is not None else letter.lower()

    @property
    def agrees(self) -> bool | None:
        """Has a real kernel answered the same? None where nobody asked, or the model has no answer."""
        if self.recorded is None or self.answer == NOT_MODELLED:
            return None
        return self.recorded.answer == self.answer


class Question:
    """One mapping and one path: builds the machine, and hears what is said while it runs."""

    def __init__(self, kernel: Kernel, mapping: Mapping, path: Path) -> None:
        self.kernel = kernel
        self.mapping = mapping
        self.path = path
        self.made = True
        self.answer = ""
        self.heard: list[tuple[Gate, str]] = []

    def build(self) -> Setup:
        """The machine."""
        machine = Machine(self.kernel)
        app = machine.process("app")
        assert self.mapping.build is not None, "asked of what the model has only"
        address = self.mapping.build(machine, app)
        self.made = address is not None

        @machine.task(name=self.path.id)
        def ask() -> None:
            self.heard.clear()
            if address is not None:
                self.answer = self.path.ask(machine, app, address)

        return machine.setup()

    def ask(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The answer and the gates."""
        listen(self.heard)
        engine = Once(self.build)
        engine.max_events = EVENTS
        results = engine.run()
        listen(None)
        if not self.made:
            return NOT_MADE, (("mmap", "its driver refuses"),)
        lacking = [one.name for one in results.found if one.kind == "not-modelled"]
        if lacking:
            return NOT_MODELLED, (*self.gates(), ("not-modelled", ", ".join(lacking)))
        if any(one.kind == "BUG" for one in results.found):
            return OOPS, (*self.gates(), *((one.kind, one.name) for one in results.found if one.kind == "BUG"))
        if not self.answer:
            return NEVER_RETURNS, (*self.gates(), ("loop", self.never_returns()))
        return self.answer, self.gates()

    def gates(self) -> tuple[tuple[str, str], ...]:
        """What was heard, each thing once."""
        return tuple(dict.fromkeys((gate.value, what) for gate, what in self.heard))

    def never_returns(self) -> str:
        """How the search by states calls a loop that did not end by itself. RuntimeError if it ends after all."""
        results: Results = Auto(self.build).run()
        names = [one.name for one in results.found if one.kind == LIVELOCK]
        if not names:
            raise RuntimeError(
                f"{self.path.id} of {self.mapping.id} on {self.kernel.spec} takes more than {EVENTS} events, and ends"
            )
        return names[0]


def spec_of(kernel: str, arch: str) -> str:
    """The kernel's spec with what makes the architecture."""
    return " ".join((kernel, *ARCHITECTURES[arch].words))


def outside(kernel: Kernel, mapping: Mapping, path: Path) -> tuple[str, str] | None:
    """What the model lacks for a question about a mapping that it has, as a gate; None for nothing."""
    if mapping.id.startswith("mixed-reserved") and kernel.has("NO_PTE_SPECIAL"):
        return Gate.COUNT.value, "the model does not count reserved RAM"
    if mapping.id == "pfn-huge" and path.id.startswith("dma") and kernel.choices["gup_fast_pmd_leaf"] == "taken":
        return Gate.FRAME.value, "the model's huge leaves are those of 6.12, which follow_pte did not know before"
    return None


def cell(kernel: str, arch: str, mapping: Mapping, path: Path) -> Cell:
    """Run one cell. KernelSpecError or NotApplicable for a kernel that there is not."""
    heard = recorded(kernel, mapping.id, path.id) if not ARCHITECTURES[arch].words else None
    made = eras.kernel(spec_of(kernel, arch))
    lacking = None if mapping.build is None else outside(made, mapping, path)
    if mapping.build is None or lacking is not None:
        return Cell(kernel, arch, mapping.id, path.id, NOT_MODELLED, () if lacking is None else (lacking,), heard)
    answer, gates = Question(made, mapping, path).ask()
    return Cell(kernel, arch, mapping.id, path.id, answer, gates, heard)


def table(
    kernels: Iterable[str], archs: Iterable[str], mappings: Iterable[str], paths: Iterable[str]
) -> Iterator[Cell]:
    """Cells by kernel, architecture, mapping, path."""
    mappings, paths, archs = list(mappings), list(paths), list(archs)
    for kernel in kernels:
        for arch in archs:
            for mapping in mappings:
                for path in paths:
                    yield cell(kernel, arch, MAPPINGS[mapping], PATHS[path])
