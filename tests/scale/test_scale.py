"""Whole machines: arrays answer what the storage of a search answers, count for count and entry for entry."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlitmus.cli.main import main
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT, PAGE_SIZE, PMD_SIZE
from mmlitmus.kernel.drivers.vfio.pci import open_device
from mmlitmus.kernel.drivers.vfio.type1 import IOMMU_READ, IOMMU_WRITE, vfio_dma_do_map
from mmlitmus.kernel.drivers.vfio.type1_unmap import vfio_dma_do_unmap
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, PROT_READ
from mmlitmus.report.scalejson import SCHEMA
from mmlitmus.scale.counts import COUNTS
from mmlitmus.scale.machine import WholeMachine
from mmlitmus.scale.run import (
    BASE,
    LEAVES,
    CountedIommu,
    Run,
    ScaleError,
    bar,
    guest,
    new_process,
    on_machine,
    touch,
)

pytest.importorskip("numpy", reason="whole machines need numpy, of the extra `scale`")

PAGES = PMD_SIZE // PAGE_SIZE
#: one of each design of pinning and of filling BARs
KERNELS = ("v5.10", "v6.1", "v6.10", "v6.12", "v7.3")
RW = IOMMU_READ | IOMMU_WRITE


def everything(machine: WholeMachine, iommus: list[CountedIommu]) -> dict[str, Any]:
    """What there is: entries, folios, what is mapped for devices, memory types, counts."""
    folios = {}
    for folio in machine.pages.values():
        fields = ("refcount", "pincount", "mapcount", "lru", "anon_exclusive", "holders", "order", "kind", "zone")
        folios[folio.pfn] = (*(folio.peek(name) for name in fields), folio.freed)
    return {
        "entries": [sorted(machine.leaves(mm)) for mm in machine.mms],
        "folios": dict(sorted(folios.items())),
        "locked": [mm.peek("locked_vm") for mm in machine.mms],
        "mapped": [iommu.peek("domain") for iommu in iommus],
        "memtypes": [tuple(entry)[:3] for entry in machine.memtypes.entries()],
        "counts": dict(machine.counts),
    }


def valid(told: Any, schema: dict[str, Any], at: str = "$") -> None:
    """Only what the schema knows of is told, and all that it requires."""
    for name in schema.get("required", ()):
        assert name in told, f"{at} has no {name}"
    known = schema.get("properties", {})
    for name, value in told.items():
        assert name in known, f"{at} has {name}"
        if isinstance(value, dict) and "properties" in known[name]:
            valid(value, known[name], f"{at}.{name}")
        if isinstance(value, list) and "properties" in known[name]["items"]:
            for one in value:
                valid(one, known[name]["items"], f"{at}.{name}[]")


def both(kernel: str, run: Any) -> None:
    """The same run on arrays and on what a search keeps."""
    arrays, objects = run(True), run(False)
    assert arrays == objects


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pages", [1, 511, 513])
def test_a_guest_of_small_pages(kernel: str, pages: int) -> None:
    touched = pages == 511

    def run(arrays: bool) -> dict[str, Any]:
        return guest(kernel, pages * PAGE_SIZE, touched=touched, arrays=arrays).as_json()

    both(kernel, run)


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_a_guest_of_huge_pages(kernel: str) -> None:
    def run(arrays: bool) -> dict[str, Any]:
        return guest(kernel, 2 * PMD_SIZE + 3 * PAGE_SIZE, huge=True, arrays=arrays).as_json()

    both(kernel, run)


def test_what_a_guest_is_told() -> None:
    """The numbers themselves: 3 tables, a pin each, one run of frames; and nothing is left."""
    run = guest("v6.12", 2 * PMD_SIZE + PAGE_SIZE)
    pages = 2 * PAGES + 1
    mapped, unmapped, gone = (step.counts for step in run.steps)
    assert [step.result for step in run.steps] == [0, pages * PAGE_SIZE, 0]
    assert run.locked_vm == mapped["pages_pinned"] == mapped["faults"] == mapped["ptes_set"] == pages
    assert mapped["references_taken"] == pages * 1025
    assert (mapped["pte_tables"], mapped["iommu_maps"], mapped["memtype_lookups"]) == (3, 1, 0)
    assert (unmapped["pages_unpinned"], gone["ptes_cleared"], gone["notifier_calls"]) == (pages, pages, 1)
    taken, dropped = (sum(s.counts[f"references_{how}"] for s in run.steps) for how in ("taken", "dropped"))
    assert taken == dropped
    assert run.findings == []


def test_huge_pages_are_pinned_page_by_page_and_counted_exactly() -> None:
    mapped = guest("v6.12", 3 * PMD_SIZE, huge=True).steps[0].counts
    assert (mapped["faults"], mapped["pmd_leaves_set"], mapped["folios_allocated"]) == (3, 3, 3)
    assert mapped["pages_pinned"] == 3 * PAGES
    assert mapped["references_taken"] == 3 + 3 * PAGES


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("huge", [False, True])
def test_the_limit_stops_it_and_nothing_is_left(kernel: str, huge: bool) -> None:
    def run(arrays: bool) -> dict[str, Any]:
        if huge and kernel == "v5.10":
            pytest.skip("a batch there pins what it has to give back, where memory does not go on")
        done = guest(kernel, 2 * PMD_SIZE + 9 * PAGE_SIZE, huge=huge, limit=317, arrays=arrays)
        assert (done.steps[0].result, done.locked_vm) == (-ENOMEM, 0)
        return done.as_json()

    both(kernel, run)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("leaf", ["4K", "PMD"])
def test_a_bar(kernel: str, leaf: str) -> None:
    def run(arrays: bool) -> dict[str, Any]:
        return bar(kernel, PMD_SIZE, leaf, arrays=arrays).as_json()

    if leaf == "PMD" and kernel < "v6.12":
        with pytest.raises(ScaleError, match="4K only"):
            run(True)
    else:
        both(kernel, run)


@pytest.mark.slow
def test_a_bar_by_1g_leaves() -> None:
    both("v6.12", lambda arrays: bar("v6.12", 1 << 30, "PUD", arrays=arrays).as_json())


def test_what_a_bar_is_told() -> None:
    """One look-up a leaf, and one a page; a page's fault comes twice, for the first is under the VMA lock alone."""
    for leaf, leaves, faults in (("4K", 1 << 18, None), ("PMD", 512, 512), ("PUD", 1, 1)):
        run = bar("deb-6.12.117", 1 << 30, leaf)
        first = run.steps[0].counts
        assert first["memtype_lookups"] == leaves
        assert [n for n in run.translations.values() if n] == [leaves]
        if faults is not None:
            assert first["faults"] == faults
        assert run.steps[1].counts["notifier_calls"] == 1
        assert run.steps[3].counts == {**first, "pte_tables": 0, "pmd_tables": 0}
        assert not run.findings


def test_what_6_12_looked_at() -> None:
    """As released it asks where the address is, and not the frame: of 512 blocks one is in two halves."""
    run = bar("v6.12", 1 << 30, "4K")
    assert run.steps[0].counts["pmd_leaves_set"] == 511
    assert run.findings == ["unaligned-leaf"]


# -- any shape --------------------------------------------------------------------------------------------------------
ACTIONS = st.one_of(
    st.tuples(st.just("touch"), st.integers(0, 1500), st.integers(1, 700), st.booleans()),
    st.tuples(st.just("map"), st.integers(0, 1500), st.integers(1, 700), st.sampled_from([RW, IOMMU_READ])),
    st.tuples(st.just("unmap"), st.integers(0, 1500), st.integers(1, 1500), st.booleans()),
    st.tuples(st.just("munmap"), st.integers(0, 1500), st.integers(1, 700), st.booleans()),
    st.tuples(st.just("dontneed"), st.integers(0, 1500), st.integers(1, 700), st.booleans()),
    st.tuples(st.just("protect"), st.integers(0, 1500), st.integers(1, 300), st.booleans()),
)


@settings(max_examples=12, derandomize=True)
@given(st.sampled_from(["v6.1", "v6.12"]), st.lists(ACTIONS, min_size=1, max_size=5))
def test_any_shape(kernel: str, actions: list[tuple[str, int, int, Any]]) -> None:
    """Parts of a mapping are touched, mapped for a device, unmapped and protected, in whatever order."""

    def work(machine: WholeMachine) -> tuple[list[Any], dict[str, Any]]:
        process = new_process(machine, "p")
        iommu = CountedIommu(machine, limit=1800)
        start = process.mmap_anon(1600, at=BASE + 100 * PAGE_SIZE)
        told: list[Any] = []
        for what, first, pages, how in actions:
            address = start + first * PAGE_SIZE
            if what == "touch":
                told.append(touch(process, address, min(pages, 40 if not how else pages), write=how))
            elif what == "map":
                told.append(vfio_dma_do_map(iommu, process, first << PAGE_SHIFT, address, pages << PAGE_SHIFT, how))
            elif what == "unmap":
                told.append(vfio_dma_do_unmap(iommu, first << PAGE_SHIFT, pages << PAGE_SHIFT))
            elif what == "munmap":
                told.append(process.munmap(address, pages))
            elif what == "dontneed":
                told.append(process.madvise(address, pages, 4))
            else:
                told.append(process.mprotect(address, pages, PROT_READ))
        return told, everything(machine, [iommu])

    both(kernel, lambda arrays: on_machine(eras.kernel(kernel), 8000, work, arrays=arrays))


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_processes_and_a_bar_entry_for_entry(kernel: str) -> None:
    """What is left behind, and not only what is counted: raw entries, folios with their holders, memory types."""

    def work(machine: WholeMachine) -> Any:
        one, two = new_process(machine, "one"), new_process(machine, "two")
        device = open_device(machine, 600)
        bars = [p.mmap(device.file, 600, at=BASE + LEAVES["4K"]) for p in (one, two)]
        a = one.mmap_anon(700, at=BASE + (1 << 30))
        b = two.mmap_anon(64, at=BASE + (1 << 30), prot=PROT_READ, flags=MAP_PRIVATE)
        told = [touch(one, bars[0], 600), touch(two, bars[1], 10), touch(one, a, 700, write=True), touch(two, b, 64)]
        iommus = [CountedIommu(machine, "x"), CountedIommu(machine, "y")]
        told += [vfio_dma_do_map(i, one, 0, a + 8 * PAGE_SIZE, 600 * PAGE_SIZE, RW) for i in iommus]
        told += [vfio_dma_do_unmap(iommus[0], 0, 1 << 40), one.munmap(a, 300), two.munmap(bars[1], 600)]
        return told, everything(machine, iommus)

    both(kernel, lambda arrays: on_machine(eras.kernel(kernel), 8000, work, arrays=arrays))


# -- the command ------------------------------------------------------------------------------------------------------
def test_the_command_says_the_same_as_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", "guest", "--memory", "4M", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(guest("deb-6.12.117", 4 << 20).as_json()))
    valid(told, SCHEMA)
    assert main(["scale", "bar", "--size", "2M", "--leaf", "PMD", "--timing", "--json"]) == 0
    valid(json.loads(capsys.readouterr().out), SCHEMA)
    assert main(["scale", "bar", "--size", "2M", "--leaf", "PMD", "--timing"]) == 0
    assert "pmd_leaves_set" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["guest", "--memory", "1000"], "multiple of 4096 bytes"),
        (["guest", "--memory", "lots"], "is no size"),
        (["guest", "--kernel", "v1.0"], "v1.0"),
        (["bar", "--size", "3M", "--leaf", "PMD"], "multiple of 2097152 bytes"),
        (["bar", "--kernel", "v6.1", "--leaf", "PUD"], "4K only"),
    ],
)
def test_wrong_use(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", *args]) == 2
    assert message in capsys.readouterr().err


def test_without_numpy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert main(["scale", "guest", "--memory", "4M"]) == 2
    assert capsys.readouterr().err == "mmlitmus: whole machines need numpy: pip install numpy\n"


def test_every_count_is_said_what_it_is() -> None:
    run: Run = guest("v6.12", PAGE_SIZE)
    assert all(list(step.counts) == list(COUNTS) for step in run.steps)
