"""Model.store: a store of a word of flags that was worked out from an earlier read, and whose update it undoes."""

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.naive import Naive
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.scheduler import Results, Setup
from mmlitmus.explore.state import Model, Once, Plain

A, B, C = 1, 2, 4
Change = Callable[[int], int]


class Vma(Model):
    __slots__ = ()
    vm_flags = Plain()
    gate = Once()


def setting(bits: int) -> Change:
    return lambda flags: flags | bits


def clearing(bits: int) -> Change:
    return lambda flags: flags & ~bits


def program(start: int, *changes: Change, lock: bool = False) -> Callable[[], Setup]:
    """Tasks t0, t1, ... that each read the word, work the new one out, and store it."""

    def build() -> Setup:
        vma, mutex = Vma("vma", vm_flags=start, gate=0), Mutex("lock", "lock")

        def task(change: Change) -> Callable[[], None]:
            def run() -> None:
                if lock:
                    mutex.lock()
                seen = vma.vm_flags
                vma.store("vm_flags", change(seen), seen)
                if lock:
                    mutex.unlock()

            return run

        tasks: dict[str, Callable[[], Any]] = {f"t{n}": task(change) for n, change in enumerate(changes)}
        return Setup(tasks, outcome=lambda: vma.peek("vm_flags"))

    return build


def lost(results: Results) -> bool:
    assert results.exhausted
    return "lost-update" in {f.name for f in results.found}


@pytest.mark.parametrize(
    ("start", "changes", "is_lost", "outcomes"),
    [
        (0, (setting(A), setting(B)), True, {A, B, A | B}),
        (A, (setting(B), clearing(A)), True, {B, A | B, 0}),
        (A | B, (clearing(A), clearing(B)), True, {0, A, B}),
        (0, (setting(A), setting(A)), False, {A}),  # the same update twice
        (0, (setting(A), setting(A | B)), True, {A, A | B}),
        (A, (setting(A), clearing(A)), True, {0, A}),
        (A, (setting(0), setting(A)), False, {A}),  # nothing changes
        (0, (setting(A), setting(B), setting(C)), True, {A, B, C, A | B, A | C, B | C, A | B | C}),
    ],
)
def test_two_unlocked_writers(start: int, changes: tuple[Change, ...], is_lost: bool, outcomes: set[int]) -> None:
    results = Dpor(program(start, *changes)).run()
    assert lost(results) == is_lost
    assert results.outcomes == outcomes
    reference = Naive(program(start, *changes)).run()
    assert reference.outcomes == outcomes
    assert lost(reference) == is_lost


def test_the_lost_bits_are_named() -> None:
    results = Dpor(program(B, setting(A), clearing(B))).run()
    finding = next(f for f in results.found if f.name == "lost-update")
    assert finding.kind == "invariant"
    messages = {"t0": "bits 0x2 go back to 0x2", "t1": "bits 0x1 go back to 0x0"}
    writer = finding.message.split()[0]
    assert finding.message == (
        f"{writer} writes vma.vm_flags from a value read before another task changed it: {messages[writer]}"
    )


def test_under_a_lock_nothing_is_lost() -> None:
    results = Dpor(program(0, setting(A), setting(B), lock=True)).run()
    assert list(results.found) == []
    assert results.outcomes == {A | B}


def test_without_one_it_is_a_race_too() -> None:
    results = Dpor(program(0, setting(A), setting(B))).run()
    assert "race on vm_flags" in {f.name for f in results.found}


def test_the_prefix_of_a_field_is_not_part_of_the_name() -> None:
    def build() -> Setup:
        vma = Vma("vma", vm_flags=0, gate=A)
        return Setup({"t": lambda: vma.store("gate", 0, B)})

    assert {f.name for f in Dpor(build).run().found} == {"lost-update"}


@pytest.mark.parametrize(("other", "executions"), [("vm_flags", 2), ("gate", 1)])
def test_a_store_is_one_event_on_its_field(other: str, executions: int) -> None:
    """It conflicts with a read of the field, and with none of another field."""

    def build() -> Setup:
        vma = Vma("vma", vm_flags=0, gate=0)
        return Setup({"store": lambda: vma.store("vm_flags", A, 0), "read": lambda: getattr(vma, other)})

    results = Dpor(build).run()
    assert results.counts.complete == executions
    assert results.counts.events == 2 * executions


def test_a_store_into_what_was_freed() -> None:
    def build() -> Setup:
        vma = Vma("vma", vm_flags=0, gate=0)

        def task() -> None:
            vma.free()
            vma.store("vm_flags", A, 0)

        return Setup({"t": task})

    assert {f.name for f in Dpor(build).run().found} == {"use-after-free Vma"}
