"""A vfio-pci device with several BARs: where they are in its file, what each mmap checks and maps, and that all of them
are revoked together.

Source: drivers/vfio/pci/vfio_pci.c vfio_pci_mmap (5.10), drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_mmap,
vfio_pci_zap_bars (from 6.1, 6.12).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mmlitmus.explore.scheduler import SetupError
from mmlitmus.kernel.arch.x86.pat import lookup_memtype
from mmlitmus.kernel.arch.x86.pgtable import pte_pfn
from mmlitmus.kernel.drivers.vfio.pci import (
    VfioPciCoreDevice,
    open_device,
    share_dev_set,
    vfio_pci_index_to_offset,
)
from mmlitmus.kernel.drivers.vfio.type1 import IOMMU_READ, IOMMU_WRITE, VfioIommu, vfio_dma_do_map
from mmlitmus.kernel.errno import EINVAL
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE

from .world import ERAS, HUGE, PAGE, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)
BAR2 = vfio_pci_index_to_offset(2)


def with_card(body: Callable[[World, VfioPciCoreDevice], object], kernel: str) -> None:
    """A second device, with BARs of 2, 4 and 3 pages."""
    cards: list[VfioPciCoreDevice] = []

    def before(w: World) -> None:
        cards[:] = [open_device(w.m, 2, "card", {5: 3, 2: 4})]

    run(lambda w: body(w, cards[0]), kernel, before=before)


def test_where_bars_are() -> None:
    """Each on a multiple of its size, as the bus wants it; the next device is behind all of them."""

    def body(w: World, card: VfioPciCoreDevice) -> None:
        bars = card.pdev.bars
        assert [(b.index, b.pages) for b in bars] == [(0, 2), (2, 4), (5, 3)]
        assert [b.pfn % 16 for b in bars] == [0, 0, 0]
        assert bars[0].pfn + 2 <= bars[1].pfn
        assert bars[1].pfn + 4 <= bars[2].pfn
        large = w.m.pci_device("large", 1, {1: 0x1000})
        assert large.bars[1].pfn % 0x1000 == 0
        assert w.m.pci_device("next", 1).bars[0].pfn >= large.bars[1].pfn + 0x1000
        for index in (0, 6, -1):
            with pytest.raises(SetupError, match=f"has no BAR {index}"):
                w.m.pci_device(f"bad{index}", 1, {index: 1})

    with_card(body, "v6.12")


@everywhere
def test_mmap_of_each(kernel: str) -> None:
    def body(w: World, card: VfioPciCoreDevice) -> None:
        frames = {bar.index: bar.pfn for bar in card.pdev.bars}
        for slot, (index, page) in zip("abc", ((0, 1), (2, 0), (5, 2)), strict=True):
            a = w.p.mmap(card.file, 1, at=slot, offset=vfio_pci_index_to_offset(index, page))
            assert a == w(0, slot)
            assert w.p.write(a) == 0
            assert pte_pfn(w.p.pte(a)) == frames[index] + page
        assert w.p.mmap(card.file, 4, at="d", offset=BAR2) == w(0, "d")
        for offset, pages in (
            (BAR2 + 1, 4), (BAR2 + 4, 1), (2, 1), (vfio_pci_index_to_offset(1), 1), (vfio_pci_index_to_offset(5, 3), 1),
            (vfio_pci_index_to_offset(6), 1), (vfio_pci_index_to_offset(9), 1), (vfio_pci_index_to_offset(1000), 1),
        ):  # fmt: skip
            assert w.p.mmap(card.file, pages, at="e", offset=offset) == -EINVAL, (offset, pages)
        assert w.p.mmap(card.file, 1, at="e", offset=BAR2, flags=MAP_PRIVATE) == -EINVAL

    with_card(body, kernel)


@everywhere
def test_each_is_reserved_when_it_is_mapped_first(kernel: str) -> None:
    def body(w: World, card: VfioPciCoreDevice) -> None:
        held = lambda: [bar.index for bar in card.pdev.bars if w.m.memtypes.covers(bar.pfn)]  # noqa: E731
        assert held() == []
        w.p.mmap(card.file, 1, offset=BAR2)
        assert held() == [2]
        w.p.mmap(card.file, 1, at="b")
        w.p.mmap(card.file, 1, at="c", offset=BAR2 + 1)
        assert held() == [0, 2]
        assert lookup_memtype(w.m, card.pdev.bars[1].pfn << 12) == lookup_memtype(w.m, card.pdev.bars[0].pfn << 12)
        w.p.munmap(w(0, "a"), 1)
        w.p.munmap(w(0, "b"), 1)
        w.p.munmap(w(0, "c"), 1)
        card.close_device()
        assert held() == []

    with_card(body, kernel)


@everywhere
@pytest.mark.parametrize("how", ["command", "power", "reset", "hot-reset"])
def test_all_are_revoked(kernel: str, how: str) -> None:
    def body(w: World, card: VfioPciCoreDevice) -> None:
        share_dev_set([w.dev, card])
        for slot, index in zip("abc", (0, 2, 5), strict=True):
            w.p.write(w.p.mmap(card.file, 1, at=slot, offset=vfio_pci_index_to_offset(index)))
        other = w.p.mmap(w.dev.file, 1, at="d")
        w.p.write(other)
        there = "a0 b0 c0 d0" if how != "hot-reset" else ""
        if how == "command":
            card.write_command(memory=False)
            assert w.populated() == "d0"
            assert [w.p.read(w(0, slot)) for slot in "abcd"] == ["SIGBUS"] * 3 + [0x010000ED]
            card.write_command(memory=True)
        elif how == "power":
            card.write_pm_state(3)
            assert w.populated() == "d0"
            card.write_pm_state(0)
        elif how == "reset":
            card.reset()
            assert w.populated() == "d0"
        else:
            assert card.hot_reset() == 0
            assert w.populated() == ""
        assert not any(isinstance(w.p.read(w(0, slot)), str) for slot in "abcd")
        assert there in w.populated()

    with_card(body, kernel)


def test_a_leaf_of_the_second_bar() -> None:
    cards: list[VfioPciCoreDevice] = []

    def body(w: World) -> None:
        card = cards[0]
        a = w.p.mmap(card.file, 512, offset=BAR2)
        w.p.read(a + 5 * PAGE)
        assert card.pdev.bars[1].pfn % 512 == 0
        assert w.p.pte(a) >> 21 << 9 & 0xFFFFFF == card.pdev.bars[1].pfn
        assert w.p.pte(a) & 0x80, "one leaf"
        assert a % HUGE == 0
        card.write_command(memory=False)
        assert w.populated() == ""

    run(body, "deb-6.12.117", before=lambda w: cards.append(open_device(w.m, 1, "card", {2: 512})))


@everywhere
def test_pinned_by_its_frame(kernel: str) -> None:
    def body(w: World, card: VfioPciCoreDevice) -> None:
        a = w.p.mmap(card.file, 2, offset=BAR2 + 1)
        iommu = VfioIommu(w.m)
        assert vfio_dma_do_map(iommu, w.p, 0, a, 2 * PAGE, IOMMU_READ | IOMMU_WRITE) == 0
        assert iommu.iova_to_phys(PAGE) == card.pdev.bars[1].pfn + 2

    with_card(body, kernel)


@everywhere
def test_two_bars_of_one_device_are_not_one_mapping(kernel: str) -> None:
    """A move and a split keep the BAR that was mapped."""

    def body(w: World, card: VfioPciCoreDevice) -> None:
        a = w.p.mmap(card.file, 4, offset=BAR2)
        w.p.munmap(a + PAGE, 1)
        assert w.p.mremap(a + 2 * PAGE, 2, 2, to="b") == w(0, "b")
        for address, page in ((a, 0), (w(0, "b"), 2), (w(1, "b"), 3)):
            w.p.read(address)
            assert pte_pfn(w.p.pte(address)) == card.pdev.bars[1].pfn + page

    with_card(body, kernel)
