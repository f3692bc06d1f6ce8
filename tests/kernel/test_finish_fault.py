"""Two faults on one page of a driver that answers with pages: who comes second looks whether somebody was faster."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.invariants.folios import folios_at_rest
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.mm import memory_pages
from mmlitmus.kernel.mm.mm_types import VM_FAULT_RETRY
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, MAP_SHARED

from .world import World, found, run, search


@pytest.mark.parametrize(("flags", "store"), [(MAP_SHARED, False), (MAP_PRIVATE, True)], ids=["load", "copy"])
def test_two_faults_map_one_page(flags: int, store: bool) -> None:
    def build(w: World) -> None:
        probe = open_probe(w.m)
        a = w.p.mmap(probe.file("fault_page", region="ram"), 1, flags=flags)
        w.m.faults = 1
        w.m.check(lambda: folios_at_rest(w.m, ["the driver"]))
        for name in ("one", "two"):
            w.m.task(lambda: w.p.write(a) if store else w.p.read(a), process=w.p, name=name)

    assert found(search(build, "deb-6.12.117")) == set()


def test_who_does_not_look_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = memory_pages.ptep_get
    monkeypatch.setattr(memory_pages, "ptep_get", lambda table, address: real(table, address) * 0)

    def build(w: World) -> None:
        probe = open_probe(w.m)
        a = w.p.mmap(probe.file("fault_page", region="ram"), 1, flags=MAP_SHARED)
        w.m.faults = 1
        w.m.check(lambda: folios_at_rest(w.m, ["the driver"]))
        for name in ("one", "two"):
            w.m.task(lambda: w.p.read(a), process=w.p, name=name)

    assert "mapcount-imbalance" in found(search(build, "deb-6.12.117"))


def test_a_fault_on_behalf_says_that_it_has_tried() -> None:
    """FAULT_FLAG_TRIED: a handler that has dropped mmap_lock once does not do so again."""
    from mmlitmus.kernel.mm.mmap_lock import mmap_read_unlock

    seen: list[bool] = []

    def body(w: World) -> Any:
        def fault(vmf: Any) -> int:
            seen.append(bool(vmf.flags & 0x20))
            if len(seen) == 1:
                mmap_read_unlock(w.p.mm)
                return VM_FAULT_RETRY
            return 0x2

        w.char.on_fault = fault
        w.p.mmap(w.char.file, 1)
        return w.p.pin_mmio(w(0))

    run(body, "deb-6.12.117")
    assert seen == [False, True]
