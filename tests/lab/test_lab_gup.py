"""Pinned pages on real kernels: slow, and skipped where QEMU or a kernel is not there.

What is expected of each release was recorded by other programs, with a module of their own.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from mmlitmus.conform.generate import programs
from mmlitmus.conform.lab import Lab, Machine, MissingError, Place, host
from mmlitmus.conform.lab.catalogue import known
from mmlitmus.conform.lab.fetch import fetched
from mmlitmus.conform.lab.machine import QEMU
from mmlitmus.conform.lab.place import default
from mmlitmus.conform.live import header_of, hear, text_of
from mmlitmus.conform.schema import (
    Clear,
    Dev,
    Dma,
    Fork,
    Limit,
    Map,
    Observed,
    Pin,
    Program,
    Result,
    Step,
    Switch,
    Touch,
    Transfer,
    Unmap,
    Unpin,
)
from waiting import WAIT

pytestmark = pytest.mark.slow
KERNELS = ("5.10", "6.1", "6.12", "7.3")
#: taken before a test's own environment can change it
PLACE = default()


class Guest:
    """A kernel, booted, that runs programs each from a fresh state."""

    def __init__(self, session: Any, name: str, machine: str) -> None:
        self.session = session
        self.name = name
        self.header = header_of(session.ready, session.identity, machine)
        self.zero = self.header.zero_pfn
        #: is it before 6.2, whose long-term pins to read leave the page of zeros where it is?
        self.old = name in ("5.10", "6.1")

    def answers(self, program: Program) -> Program:
        """A program with what was observed."""
        outcome = self.session.run(text_of(program), timeout=WAIT)
        objects = [json.loads(line) for line in outcome.lines]
        return hear(program, objects, outcome.kind, outcome.why, self.header, "gup").program

    def run(self, *steps: Step) -> list[Observed]:
        """What was observed after each step."""
        return [step.observed for step in self.answers(Program(id="p", steps=steps)).steps]

    def ends(self, *steps: Step) -> list[Any]:
        """How each step ended: its count, if it has one."""
        return [word(seen.result) for seen in self.run(*steps)]


def word(result: Result | None) -> Any:
    """How a step ended, or what it counted."""
    return result and (result.outcome if result.count is None else result.count)


def boot(name: str, machine: str, *words: str) -> Generator[Guest]:
    """A guest of a kernel that is fetched."""
    if fetched(Place(PLACE), known(name)) is None:
        pytest.skip(f"kernel {name} is not in {PLACE}: mmlitmus lab fetch {name}")
    try:
        host.program(QEMU, "test")
        host.static_busybox()
    except MissingError as e:
        pytest.skip(str(e))
    with Lab(Place(PLACE)).session(name, Machine(machine, words=words)) as session:
        yield Guest(session, name, machine)


@pytest.fixture(scope="module", params=KERNELS)
def pc(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The machine with the probe module's regions."""
    yield from boot(request.param, "pc")


@pytest.fixture(scope="module", params=KERNELS)
def q35(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The machine with devices behind VFIO."""
    yield from boot(request.param, "q35")


@pytest.fixture(scope="module", params=KERNELS)
def movable(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The machine whose region ram is in ZONE_MOVABLE, and on no LRU list."""
    yield from boot(request.param, "pc", "movablecore=512M")


ANON = Map(slot="a", pages=4, backing="anonymous", sharing="private")
WRITE = Touch(slot="a", access="write")


def pin(variant: str, *flags: str, pages: int = 1, **more: Any) -> Pin:
    """A pin from page 0 of slot a on."""
    return Pin(slot="a", pages=pages, variant=variant, flags=flags, **more)


# -- pins -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("insert", ["remap", "fault_pfn"])
def test_device_mappings_are_pinned_by_nobody(pc: Guest, insert: str) -> None:
    here = Map(slot="a", pages=4, backing="pfnmap", region="bar", insert=insert)
    names = ("get_user_pages", "get_user_pages_fast", "pin_user_pages", "pin_user_pages_fast", "pin_user_pages_remote")
    ends = pc.ends(here, WRITE, *(pin(v, *flags) for v in names for flags in ((), ("write",), ("write", "force"))))
    assert ends == ["ok", "ok", *["-EFAULT"] * 15]
    assert pc.ends(here, WRITE, pin("get_user_pages_fast_only"))[2] == 0


def test_a_special_entry_of_a_mixedmap(pc: Guest) -> None:
    """5.10 says that it has got the page, and has not."""
    here = Map(slot="a", pages=4, backing="pfnmap", region="bar", insert="mixed")
    *_, one, four, gone = pc.run(here, WRITE, pin("pin_user_pages"), pin("pin_user_pages", pages=4), Unpin())
    if pc.name == "5.10":
        assert (word(one.result), one.pins) == (1, (None,))
        assert (word(four.result), four.pins) == (4, (None,) * 4)
    else:
        assert (word(one.result), word(four.result)) == ("-EEXIST", "-EEXIST")
        assert one.pins is None
    assert word(gone.result) == 0, "there is nothing to let go of"


def test_pages_that_are_counted_are_pinned_and_come_back(pc: Guest) -> None:
    for insert in ("insert_page", "fault_page"):
        here = Map(slot="a", pages=4, backing="pfnmap", region="ram", insert=insert)
        program = Program(
            id=insert,
            steps=(
                here, WRITE, pin("pin_user_pages", "write", "longterm", pages=4), pin("get_user_pages", hold=1),
                Unpin(), Unmap(slot="a", pages=4),
            ),
        )  # fmt: skip
        done = pc.answers(program)
        seen = [step.observed for step in done.steps]
        assert word(seen[2].result) == 4
        assert seen[2].pins is not None
        assert [f and (f.refs, f.maps) for f in seen[2].pins] == [(1025, 1)] * 4, "mapped once, pinned once"
        assert seen[3].pins is not None
        assert seen[3].pins[0] is not None
        assert seen[3].pins[0].refs == 1026
        assert (word(seen[4].result), word(seen[5].result)) == (4, "ok")
        assert done.held == (), "what the program did not let go of, the agent did"


def test_the_page_of_zeros(pc: Guest) -> None:
    """A pin to read takes it; a long-term one does before 6.2, and after that a page of the process's own."""
    read = Touch(slot="a")
    for variant, flags in (("pin_user_pages", ()), ("pin_user_pages_fast", ()), ("get_user_pages", ())):
        *_, seen = pc.run(ANON, read, pin(variant, *flags))
        assert seen.pins is not None
        assert [f and f.pfn for f in seen.pins] == [pc.zero]
    *_, seen, written = pc.run(ANON, read, pin("pin_user_pages", "longterm", pages=2), WRITE)
    assert seen.pins is not None
    assert [f is not None and f.pfn == pc.zero for f in seen.pins] == [pc.old] * 2
    assert written.frames is not None
    assert seen.pins[0] is not None
    assert (written.frames["0:a0"].pfn == seen.pins[0].pfn) == (not pc.old), "does who holds it see the store?"
    counted = {"5.10": 2049, "6.1": 1}.get(pc.name, 1025)
    assert seen.pins[0].refs == counted


def test_short_counts_and_nothing_mapped(pc: Guest) -> None:
    ends = pc.ends(
        ANON,
        Unmap(slot="a", page=2, pages=1),
        pin("pin_user_pages", pages=4),
        pin("get_user_pages_fast", "write", pages=24),
        pin("pin_user_pages_fast", pages=1, page=2),
        Pin(slot="b", pages=1, variant="get_user_pages"),
        Unpin(),
    )
    assert ends == ["ok", "ok", 2, 2, "-EFAULT", "-EFAULT", 4]


def test_a_pin_before_fork_keeps_the_page_of_the_parents(pc: Guest) -> None:
    for how, stays in ((pin("pin_user_pages", "write"), True), (pin("get_user_pages", "write"), False)):
        seen = pc.run(ANON, WRITE, how, Fork(child=1), WRITE)
        assert seen[1].frames is not None
        assert seen[4].frames is not None
        assert (seen[1].frames["0:a0"].pfn == seen[4].frames["0:a0"].pfn) == stays


def test_the_memory_of_another(pc: Guest) -> None:
    seen = pc.run(
        ANON, WRITE, Fork(child=1), Switch(process=1), pin("pin_user_pages_remote", "write", process=0),
        Transfer(kind="process_vm_readv", slot="a", pages=4, process=0),
        Transfer(kind="ptrace_peek", slot="a", pages=2, process=0),
    )  # fmt: skip
    assert [word(s.result) for s in seen[4:]] == [1, 4 * 4096, 16]
    assert seen[4].frames is not None
    assert seen[4].pins is not None
    assert seen[4].pins[0] == seen[4].frames["0:a0"]


def test_a_long_term_pin_that_never_returns_ends_by_a_signal(movable: Guest) -> None:
    """A page that has to be migrated first, and that nobody can isolate. 5.10 looks at no zone."""
    here = Map(slot="a", pages=1, backing="pfnmap", region="ram", insert="fault_page")
    program = Program(
        id="livelock",
        steps=(here, WRITE, pin("pin_user_pages", "write"), Unpin(), pin("pin_user_pages", "write", "longterm"), WRITE),
    )
    for _ in range(2):
        done = movable.answers(program)
        result = done.steps[4].observed.result
        assert result is not None
        if movable.name == "5.10":
            assert result.count == 1
            assert len(done.steps) == 6
        else:
            assert (result.outcome, result.killed) == ("died: hang", True)
            assert len(done.steps) == 5


# -- transfers --------------------------------------------------------------------------------------------------------
def test_transfers_of_anonymous_memory_and_of_a_device(pc: Guest) -> None:
    kinds = ("process_vm_readv", "vmsplice", "write_pipe", "o_direct_read", "o_direct_write", "proc_mem_read")
    moved = pc.ends(ANON, *(Transfer(kind=kind, slot="a", pages=4) for kind in kinds))
    assert moved == ["ok", *[4 * 4096] * 6]
    device = Map(slot="a", pages=4, backing="pfnmap", region="bar")
    ends = pc.ends(device, *(Transfer(kind=kind, slot="a", pages=4) for kind in kinds))
    assert ends == ["ok", "-EFAULT", "-EFAULT", 4 * 4096, "-EFAULT", "-EFAULT", "-EIO"]
    assert pc.ends(device, Transfer(kind="ptrace_peek", slot="a"))[1] == "-EIO"


def test_what_is_written_is_dirty_again(pc: Guest) -> None:
    seen = pc.run(ANON, WRITE, Clear(), Touch(slot="a"), WRITE)
    assert [bool((s.pagemap["0:a0"] or 0) >> 55 & 1) for s in seen] == [True, True, False, False, True]


def test_buffers_are_there_where_the_kernel_has_them(pc: Guest) -> None:
    for backing in ("udmabuf", "dma_heap"):
        outcome = pc.session.run(f"program b\nmap slot=a pages=4 backing={backing}\ntouch slot=a\nend\n")
        (mapped, _) = (json.loads(line) for line in outcome.lines if '"step"' in line)
        assert ("error" in mapped) == pc.old


# -- DMA --------------------------------------------------------------------------------------------------------------
def dma(action: str, **more: Any) -> Dma:
    """Of four pages, unless it says otherwise."""
    where = {"slot": "a"} if action == "map" else {}
    return Dma(**{"action": action, "pages": 4, **where, **more})


def locked(seen: Observed) -> int:
    """VmLck of the first process."""
    assert seen.locked is not None
    return seen.locked["0"]


def test_memory_for_a_device_is_locked_and_let_go_of(q35: Guest) -> None:
    *_, written, mapped, gone, unmapped = q35.run(ANON, WRITE, dma("map"), Unmap(slot="a", pages=4), dma("unmap"))
    assert [locked(s) for s in (written, mapped, gone, unmapped)] == [0, 4, 4, 0]
    assert mapped.iovas is not None
    assert mapped.frames is not None
    assert gone.iovas is not None
    assert unmapped.iovas == {f"0+{n}": None for n in range(4)}
    one, same = mapped.iovas["0+0"], gone.iovas["0+0"]
    assert one is not None
    assert same is not None
    assert one.pfn == mapped.frames["0:a0"].pfn == same.pfn, "munmap does not take it away from the device"
    assert (one.refs, same.refs) == (1025, 1024)
    assert word(unmapped.result) == 4


def test_a_device_that_reads_zeros(q35: Guest) -> None:
    """To 6.1 it goes on reading the page of zeros when the process has stored to its own."""
    *_, mapped, written = q35.run(ANON, Touch(slot="a"), dma("map", prot="r"), WRITE)
    assert locked(mapped) == (0 if q35.old else 4)
    assert written.iovas is not None
    assert written.frames is not None
    at = written.iovas["0+0"]
    assert at is not None
    assert (at.pfn == q35.zero) == q35.old
    assert (at.pfn == written.frames["0:a0"].pfn) == (not q35.old)


def test_a_bar_for_a_device_is_there_when_decode_is_off(q35: Guest) -> None:
    bar = Map(slot="a", pages=4)
    *_, mapped, off, gone = q35.run(bar, dma("map"), Dev(action="memory_off"), Unmap(slot="a", pages=4))
    assert locked(mapped) == 0
    assert off.entries["0:a0"] is not None
    assert off.entries["0:a0"].bits == 0
    assert mapped.iovas == off.iovas == gone.iovas
    assert mapped.iovas is not None
    first = q35.header.devices[0].bars[0].pfn
    assert first is not None
    assert [at and (at.pfn, at.refs) for at in mapped.iovas.values()] == [(first + n, None) for n in range(4)]


def test_wrong_maps_for_a_device(q35: Guest) -> None:
    ends = q35.ends(
        ANON, WRITE, dma("map"), dma("map", pages=1), dma("map", pages=1, iova=1, prot=""),
        Dma(action="map", pages=1, iova=1, slot="b"), dma("unmap", pages=1), dma("unmap", iova=2), dma("unmap"),
    )  # fmt: skip
    assert ends[2:5] == ["ok", "-EEXIST", "-EINVAL"]
    assert ends[5:7] == ["-EFAULT", "-EINVAL"]
    assert ends[8] == 4


def test_what_may_be_locked(q35: Guest) -> None:
    seen = q35.run(ANON, WRITE, Limit(locked=2), dma("map"), dma("map", pages=2), dma("map", pages=1, iova=1))
    assert [word(s.result) for s in seen[3:]] == ["-ENOMEM", "ok", "-ENOMEM"]
    assert [locked(s) for s in seen[3:]] == [0, 2, 2]


# -- generated --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_generated_programs_run_to_their_end(machine: str) -> None:
    guests = boot("6.12", machine)
    guest = next(guests)
    for program in programs(9, 30, machine, language="gup"):
        done = guest.answers(program)
        results = [step.observed.result for step in done.steps]
        assert all(result is None or result.died is None for result in results)
        assert done.held is not None
    guests.close()
