"""Is the search over this model sound? Three questions, asked of the shipped cases.

Is what tasks share declared (the audit)? Does E1 see what random walks see, which know nothing of footprints? Does it
see what sleep sets alone see, which know nothing of races?
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

import pytest

from mmlitmus.checker.load import select
from mmlitmus.explore import runtime as rt
from mmlitmus.explore.audit import Audit
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.ops import CHOOSE, writes
from mmlitmus.explore.scheduler import Results, Scheduler, Setup
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.pgtable import NONE, PteTable
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.policy import NotApplicable

CASES = {case.id: case for case in select([]).cases}

#: page tables make their slots and the names of their entries on first use; ``test_entries_change_within_their_events``
#: asks of the entries what the audit cannot. The machine's lists of processes, of anonymous pages and of slots of swap
#: grow: each task adds its own, and nobody reaches a new one but by an entry or a VMA that was made in an event
LAZY = re.compile(
    r"(\.(pgd(\.values|\.cells)?|pmd_pages)|context\.(mms|pages|swap\.slots)) changes but is not declared$"
)
#: writing vm_flags under mmap_lock R is what VFIO's list of VMAs does, and racy (case vfio/remap-in-fault)
RACY = {"race on vm_flags"}


def specs(case: Any, every: bool) -> list[str]:
    """The kernels of a case that differ in their choices: all of them, or the first and the last."""
    chosen: dict[Hashable, str] = {}
    for spec, expected in case.expect.items():
        if expected.reason is None:
            try:
                kernel = eras.kernel(spec)
            except NotApplicable:
                continue
            chosen.setdefault((tuple(sorted(kernel.choices.items())), kernel.config), spec)
    names = list(chosen.values())
    return names if every or len(names) < 3 else [names[0], names[-1]]


def programs(every: bool) -> list[tuple[str, str]]:
    return [(id, spec) for id, case in CASES.items() for spec in specs(case, every)]


def builder(id: str, spec: str) -> Callable[[], Setup]:
    """The case's machine, with everything that can be seen at the end as its outcome."""
    kernel = eras.kernel(spec)

    def build() -> Setup:
        machine = Machine(kernel)
        CASES[id].build(machine)
        setup: Setup = machine.setup()
        setup.outcome = lambda: outcome(machine)
        return setup

    return build


def outcome(machine: Machine) -> Hashable:
    """Entries, TLBs, VMAs, devices, and the order of the reverse maps; and what the tasks said they reached."""
    mappings = {vma.vm_file.name: vma.vm_file.f_mapping for mm in machine.mms for vma in mm.peek("mm_mt")}
    orders = [(name, [vma.name for vma in m.i_mmap.items]) for name, m in sorted(mappings.items())]
    return (str(sorted(machine.watch().items())), str(orders), tuple(sorted(rt.engine.reached)))


# -- the audit --------------------------------------------------------------------------------------------------------
@cache
def alone(id: str, spec: str) -> bool:
    """Is the case a single task, with nobody to share anything with?"""
    engine = Dpor(builder(id, spec), max_executions=1)
    engine.run()
    return len(engine.setup.tasks) == 1


def audit(id: str, spec: str, executions: int, events: int | None = None) -> set[str]:
    """The undeclared and the racy of some executions, of ``events`` events at most (an audited event is a slow one)."""
    auditor = Audit(builder(id, spec), max_executions=executions)
    auditor.max_events = events or auditor.max_events
    found = auditor.run().found
    names = {f.name for f in found if f.kind in ("undeclared", "race")}
    return {name for name in names if not LAZY.search(name)} - RACY


#: by default every other case; `make slow` has them all, on every kernel
@pytest.mark.parametrize("id", [*CASES][::2])
def test_what_is_shared_is_declared(id: str) -> None:
    spec = specs(CASES[id], False)[-1]
    assert audit(id, spec, 1, 30 if alone(id, spec) else 150) == set()


@pytest.mark.slow
@pytest.mark.parametrize(("id", "spec"), programs(True))
def test_what_is_shared_is_declared_everywhere(id: str, spec: str) -> None:
    assert audit(id, spec, 12) == set()


@pytest.mark.parametrize(
    "id", ["vfio/fault-vs-disable", "fork/fork-vs-disable", "vfio/huge-fault", "vfio/mremap-then-disable", "pat/fork"]
)
def test_entries_change_within_their_events(id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PTE is stored only within an event that names it as written (freeing a table only forgets what is none)."""
    stored = []
    put = PteTable.put

    def checked(self: PteTable, address: int, entry: int) -> None:
        engine: Any = rt.engine
        if engine.cur >= 0:
            assert writes(engine.events[engine.i - 1].op, self.cell(address)), engine.object_name(self.cell(address))
            stored.append(entry != NONE)
        put(self, address, entry)

    monkeypatch.setattr(PteTable, "put", checked)
    for spec in specs(CASES[id], False):
        results = Dpor(builder(id, spec), max_executions=30).run()
        assert not [f for f in results.found if f.kind == "raised"]
    assert True in stored or id == "vfio/huge-fault"


# -- random walks -----------------------------------------------------------------------------------------------------
class Walk(Scheduler):
    """Executions in which each step is any enabled task's, at random."""

    def __init__(self, build: Callable[[], Setup], walks: int, seed: int) -> None:
        super().__init__(build)
        self.walks = walks
        self.random = random.Random(seed)

    def _run(self) -> None:
        for _ in range(self.walks):
            self.choice.clear()
            self.value.clear()
            self.k = 0
            # a task that is preferred for a while makes long stretches without preemption as likely as short ones
            self.favour = self.random.random()
            self.last = -1
            self.execute()

    def _pick(self) -> int:
        enabled = self.enabled()
        if not enabled or self.i >= self.max_events:
            self.status = self._ending() if not enabled else "truncated"
            return -1
        tasks = [t for t in range(self.n) if enabled >> t & 1]
        task = self.last if self.last in tasks and self.random.random() < self.favour else self.random.choice(tasks)
        self.last = task
        op = self.pending[task]
        self.choice.append(task)
        self.value.append(self.random.randrange(op[3]) if op[0] == CHOOSE else 0)
        self.i += 1
        return task


@cache
def exhausted(id: str, spec: str) -> Results:
    """What E1 finds."""
    results = Dpor(builder(id, spec), max_executions=20_000).run()
    assert results.exhausted
    return results


def kinds(results: Results) -> set[tuple[str, str]]:
    """Findings of single executions: an inversion and a race belong to the search, or need its clocks."""
    return {(f.kind, f.name) for f in results.found if f.kind not in ("inversion", "race")}


def walk(id: str, spec: str, walks: int, seed: int) -> None:
    want = exhausted(id, spec)
    got = Walk(builder(id, spec), walks, seed).run()
    assert kinds(got) <= kinds(want)
    lost = got.outcomes - want.outcomes
    assert not lost, f"{len(lost)} outcomes that E1 has not: {sorted(lost)[:1]}"
    assert got.deadlocks <= want.deadlocks


#: those that E1 comes to an end of: a case asks for another search if a loop need not end
ENDS = [id for id in CASES if not CASES[id].engine]


@pytest.mark.parametrize("id", [*ENDS][::2])
def test_e1_sees_what_random_walks_see(id: str) -> None:
    spec = specs(CASES[id], False)[-1]
    walk(id, spec, 3 if alone(id, spec) else 60, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("id", "spec"), programs(True))
def test_e1_sees_what_many_random_walks_see(id: str, spec: str) -> None:
    walk(id, spec, 3_000, 7)


# -- sleep sets -------------------------------------------------------------------------------------------------------
class SleepSets(Dpor):
    """Every trace once, by sleep sets alone: every enabled task is tried at every state."""

    def _pick(self) -> int:
        p = super()._pick()
        if p >= 0:
            self.events[-1].backtrack = self.events[-1].enabled
        return p

    def _races(self, start: int) -> None:
        if self.status in ("complete", "deadlock"):
            self.results.traces.add(self.trace())


SMALL = [
    ("vfio/copy-under-memory-lock", "v6.12"),
    ("vfio/populate-in-mmap", "v6.12 +populate-in-mmap"),
    ("vfio/fault-vs-disable", "v6.12"),
    ("vfio/remap-in-fault", "v6.6 lockdep"),
    ("fork/fork-then-disable", "deb-6.1.192"),
    ("locks/lost-flags-update", "v6.12"),
    ("pat/unmap-vs-remap", "v6.12"),
    ("pat/zap-vs-munmap", "v6.12"),
    ("pfn/remap-fails/frames-freed", "v6.12"),
]


def against_sleep_sets(id: str, spec: str, limit: int) -> None:
    reference = SleepSets(builder(id, spec), keep_traces=True, max_executions=limit).run()
    if not reference.exhausted:
        pytest.skip(f"too large: {reference.stopped}")
    engine = Dpor(builder(id, spec), keep_traces=True).run()
    assert engine.outcomes == reference.outcomes
    assert engine.traces == reference.traces
    assert kinds(engine) == kinds(reference)
    assert engine.deadlocks == reference.deadlocks


@pytest.mark.parametrize(("id", "spec"), SMALL)
def test_e1_sees_what_sleep_sets_see(id: str, spec: str) -> None:
    against_sleep_sets(id, spec, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize(("id", "spec"), programs(False))
def test_e1_sees_what_sleep_sets_see_everywhere(id: str, spec: str) -> None:
    against_sleep_sets(id, spec, 100_000)
