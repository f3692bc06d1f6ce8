"""kfree_rcu: what it protects, and that freeing without it does not."""

from collections.abc import Callable

import pytest

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.primitives.rcu import Rcu
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Model, Once


class Slot(Model):
    __slots__ = ()
    pointer = Once()


class Thing(Model):
    __slots__ = ()
    value = Once()


def program(free: Callable[[Rcu, Thing], None], *, lock: bool = True, readers: int = 1) -> Callable[[], Setup]:
    def build() -> Setup:
        rcu, thing = Rcu(), Thing("thing", value=7)
        slot = Slot("slot", pointer=thing)
        seen: list[int] = []

        def read() -> None:
            if lock:
                rcu.read_lock()
            found = slot.pointer
            if found is not None:
                seen.append(found.value)
            if lock:
                rcu.read_unlock()

        def drop() -> None:
            slot.pointer = None
            free(rcu, thing)

        return Setup(
            {**{f"read{n}": read for n in range(readers)}, "drop": drop},
            outcome=lambda: (tuple(seen), thing.freed),
            spawn_slots=1,
        )

    return build


def rcu_free(rcu: Rcu, thing: Thing) -> None:
    rcu.free("free_thing", thing)


@pytest.mark.parametrize("readers", [1, 2])
def test_a_reader_is_waited_for(readers: int) -> None:
    results = Dpor(program(rcu_free, readers=readers)).run()
    assert results.exhausted
    assert list(results.found) == []
    assert {freed for _, freed in results.outcomes} == {True}  # always freed in the end
    assert {len(seen) for seen, _ in results.outcomes} == set(range(readers + 1))  # before, after and between


def test_freed_at_once_it_is_used_after_free() -> None:
    results = Dpor(program(lambda rcu, thing: thing.free())).run()
    assert [f.name for f in results.found] == ["use-after-free Thing"]


def test_a_reader_without_a_section_is_not_waited_for() -> None:
    results = Dpor(program(rcu_free, lock=False)).run()
    assert [f.name for f in results.found] == ["use-after-free Thing"]
