"""VFIO type1: what MAP_DMA says of which mapping, what it accounts for, and that a failing one leaves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.invariants.folios import folios_at_rest
from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.fault import Unlocked, fixup_user_fault
from mmlitmus.kernel.arch.x86.pgtable import pte_pfn
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.drivers.vfio import type1
from mmlitmus.kernel.drivers.vfio.type1 import IOMMU_READ, IOMMU_WRITE, VfioIommu, vfio_dma_do_map
from mmlitmus.kernel.drivers.vfio.type1_unmap import VFIO_DMA_UNMAP_FLAG_ALL as ALL
from mmlitmus.kernel.drivers.vfio.type1_unmap import VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP as DIRTY
from mmlitmus.kernel.drivers.vfio.type1_unmap import VFIO_DMA_UNMAP_FLAG_VADDR as VADDR
from mmlitmus.kernel.drivers.vfio.type1_unmap import vfio_dma_do_unmap, vfio_iommu_type1_unmap_dma
from mmlitmus.kernel.errno import EEXIST, EFAULT, EINTR, EINVAL, ENOMEM, ENOSPC, EOVERFLOW
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.sync.mutex import mutex_lock, mutex_unlock

from .world import ERAS, PAGE, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)
RW = IOMMU_READ | IOMMU_WRITE


def at_rest(w: World, iommu: VfioIommu) -> bool:
    return not list(folios_at_rest(w.m, (iommu.held(),)))


@everywhere
def test_memory_as_recorded(kernel: str) -> None:
    """Results and VmLck of 5.10, 6.1, 6.12 and 7.3."""
    zero = kernel in ("v5.10", "deb-5.10.262", "v6.1", "deb-6.1.192")

    def body(w: World) -> None:
        iommu = VfioIommu(w.m)
        n = 0

        def ask(a: int, prot: int, pages: int = 4) -> tuple[int, int]:
            nonlocal n
            n += 1
            before = w.p.locked()
            result = vfio_dma_do_map(iommu, w.p, n << 20, a, pages * PAGE, prot)
            return result, w.p.locked() - before

        written = w.p.mmap_anon(4, at="a")
        for page in range(4):
            w.p.write(written + page * PAGE)
        assert ask(written, RW) == ask(written, IOMMU_READ) == (0, 4)
        assert ask(w.p.mmap_anon(4, at="b"), RW) == (0, 4)
        untouched = w.p.mmap_anon(4, at="c")
        assert ask(untouched, IOMMU_READ) == (0, 0 if zero else 4)
        read_only = w.p.mmap_anon(4, at="d", prot=PROT_READ)
        assert ask(read_only, RW) == (-EFAULT, 0)
        assert ask(w.p.mmap_anon(4, at="e", prot=PROT_NONE), RW) == (-EFAULT, 0)
        assert ask(w.bar(2, at=w.m.slot("f")), RW, 2) == (0, 0), "device memory is not accounted"
        assert ask(w.bar(2, at=w.m.slot("f")), IOMMU_READ, 2) == (0, 0)
        if kernel != "v5.10":  # where the zero page's pins leak
            assert at_rest(w, iommu)

    run(body, kernel)


@pytest.mark.parametrize(
    ("kernel", "pins"), [("v5.10", 63), ("deb-5.10.262", 0), ("v5.14", 32), ("v5.19", 32), ("v6.0", 0), ("v6.12", 0)]
)
def test_the_zero_page_leak_is_2n_minus_1_then_n_then_none(kernel: str, pins: int) -> None:
    def body(w: World) -> None:
        iommu = VfioIommu(w.m)
        a = w.p.mmap_anon(32)
        assert vfio_dma_do_map(iommu, w.p, 0, a, 32 * PAGE, IOMMU_READ) == 0
        assert vfio_dma_do_unmap(iommu, 0, 32 * PAGE) == 32 * PAGE
        assert w.m.zero_page().refcount == 1 + 1024 * pins

    run(body, kernel, pages=4)


@everywhere
def test_frames_of_the_probe_module_as_recorded(kernel: str) -> None:
    """Reserved memory and a hole yes, RAM no, private mappings no."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        iommu = VfioIommu(w.m)
        for n, (region, expected) in enumerate((("reserved", 0), ("hole", 0), ("ram", -EFAULT))):
            a = w.p.mmap(w.probe.file("remap", "", region), 2, at="a")
            assert vfio_dma_do_map(iommu, w.p, n << 20, a, 2 * PAGE, RW) == expected, region
        a = w.p.mmap(w.probe.file("remap", "", "reserved"), 2, at="b", flags=MAP_PRIVATE)
        w.p.read(a)
        if kernel != "v5.10":
            assert vfio_dma_do_map(iommu, w.p, 9 << 20, a, PAGE, RW) == -EFAULT
        w.p.write(a)
        assert vfio_dma_do_map(iommu, w.p, 9 << 20, a, PAGE, RW) == -EFAULT, "the copy is RAM, and the VMA a PFNMAP"

    run(body, kernel)


@everywhere
def test_what_the_iova_points_at(kernel: str) -> None:
    def body(w: World) -> None:
        iommu = VfioIommu(w.m)
        a = w.p.mmap_anon(3)
        assert vfio_dma_do_map(iommu, w.p, 0x10000, a, 3 * PAGE, RW) == 0
        frames = [pte_pfn(w.p.pte(a + n * PAGE)) for n in range(3)]
        assert [iommu.iova_to_phys(0x10000 + n * PAGE) for n in range(3)] == frames
        assert iommu.iova_to_phys(0x10000 + 3 * PAGE) is None
        w.p.munmap(a, 3)
        assert [iommu.iova_to_phys(0x10000 + n * PAGE) for n in range(3)] == frames, "it keeps them"
        assert w.m.pages[frames[0]].refcount == 1024
        assert at_rest(w, iommu)
        assert vfio_dma_do_unmap(iommu, 0, 1 << 30) == 3 * PAGE
        assert iommu.iova_to_phys(0x10000) is None
        assert all(w.m.pages[frame].freed for frame in frames)
        assert w.p.locked() == 0
        assert at_rest(w, iommu)

    run(body, kernel)


def wraps(kernel: str) -> int:
    """What a range says that is more than there is: drivers/vfio/vfio_iommu_type1.c, 6.12.117 and 7.3.4."""
    return -EOVERFLOW if kernel in ("v6.18", "v7.3", "deb-7.3.4") else -EINVAL


@everywhere
def test_unmap_of_everything(kernel: str) -> None:
    """drivers/vfio/vfio_iommu_type1.c vfio_iommu_type1_unmap_dma of 5.10.262, 6.1.192, 6.12.117, 7.3.4."""
    has_all = kernel not in ("v5.10", "deb-5.10.262")

    def body(w: World) -> None:
        iommu = VfioIommu(w.m)
        a = w.p.mmap_anon(3)
        for n, iova in enumerate((0, 5 << 20, 1 << 62)):
            assert vfio_dma_do_map(iommu, w.p, iova, a + n * PAGE, PAGE, RW) == 0
        unmap = vfio_iommu_type1_unmap_dma
        for flags in (ALL | DIRTY, 8, 8 | ALL):
            assert unmap(iommu, 0, 0, flags) == -EINVAL
        assert unmap(iommu, 0, PAGE, DIRTY) == -EINVAL, "nobody has started dirty tracking"
        for iova, size in ((0, PAGE), (PAGE, 0), (1, 0), (0, 1)):
            assert unmap(iommu, iova, size, ALL) == -EINVAL
        assert unmap(iommu, 0, 0) == -EINVAL
        assert unmap(iommu, 1 << 63, (1 << 63) + PAGE) == wraps(kernel)
        assert unmap(iommu, 1, 2 * PAGE) == -EINVAL
        assert w.p.locked() == 3
        assert unmap(iommu, 0, 0, ALL) == (3 * PAGE if has_all else -EINVAL)
        assert w.p.locked() == (0 if has_all else 3)
        assert unmap(iommu, 0, 0, ALL) == (0 if has_all else -EINVAL)
        assert at_rest(w, iommu)

    run(body, kernel)


@pytest.mark.parametrize("kernel", ["deb-6.1.192", "deb-7.3.4"])
def test_vaddr_is_not_modelled(kernel: str) -> None:
    run(
        lambda w: vfio_iommu_type1_unmap_dma(VfioIommu(w.m), 0, PAGE, VADDR),
        kernel,
        finds=("not modelled: VFIO_DMA_UNMAP_FLAG_VADDR",),
    )


@everywhere
def test_a_range_that_ends_with_the_address_space(kernel: str) -> None:
    """Up to 6.17 a mapping there is in nobody's way, and a request for what is before it is as before."""
    top = 1 << 64
    found = wraps(kernel) == -EOVERFLOW

    def body(w: World) -> None:
        iommu = VfioIommu(w.m)
        a = w.p.mmap_anon(4)
        assert vfio_dma_do_map(iommu, w.p, top - 2 * PAGE, a, 2 * PAGE, RW) == 0
        assert vfio_dma_do_map(iommu, w.p, 0x10000, a + 2 * PAGE, 2 * PAGE, RW) == 0
        assert iommu.iova_to_phys(top - PAGE) == pte_pfn(w.p.pte(a + PAGE))
        assert vfio_dma_do_unmap(iommu, top - PAGE, PAGE) == (-EINVAL if found else 0)
        assert vfio_dma_do_unmap(iommu, 0x10000 + PAGE, top - 0x10000 - PAGE) == -EINVAL, "it would cut one in two"
        if found:
            assert vfio_dma_do_map(iommu, w.p, top - PAGE, a, PAGE, RW) == -EEXIST
        assert vfio_dma_do_unmap(iommu, PAGE, top - PAGE) == (4 * PAGE if found else 0)
        if not found:
            assert vfio_dma_do_unmap(iommu, 0, 0x20000) == 2 * PAGE
        assert at_rest(w, iommu)

    run(body, kernel)


@everywhere
def test_another_process_unmaps(kernel: str) -> None:
    own_only = kernel in ("v5.10", "deb-5.10.262")

    def body(w: World) -> None:
        iommu = VfioIommu(w.m)
        other = w.m.process("other")
        assert vfio_dma_do_map(iommu, w.p, 0, w.p.mmap_anon(1), PAGE, RW) == 0
        assert vfio_dma_do_map(iommu, other, PAGE, other.mmap_anon(1), PAGE, RW) == 0
        assert vfio_dma_do_map(iommu, w.p, 2 * PAGE, w.p.mmap_anon(1, at="b"), PAGE, RW) == 0
        unmap = vfio_iommu_type1_unmap_dma
        assert unmap(iommu, 0, 3 * PAGE, process=other) == (0 if own_only else 3 * PAGE)
        if own_only:
            assert unmap(iommu, 0, 3 * PAGE, process=w.p) == PAGE, "up to the first that is another's"
            assert unmap(iommu, PAGE, 2 * PAGE, process=other) == PAGE
        assert w.p.locked() == (1 if own_only else 0)

    run(body, kernel)


@everywhere
def test_bad_input(kernel: str) -> None:
    def body(w: World) -> None:
        iommu = VfioIommu(w.m)
        a = w.p.mmap_anon(4)

        def ask(iova: int, vaddr: int, size: int, prot: int = RW) -> Any:
            return vfio_dma_do_map(iommu, w.p, iova, vaddr, size, prot)

        assert ask(0, a, 0) == ask(0, a, PAGE, 0) == ask(1, a, PAGE) == ask(0, a + 1, PAGE) == ask(0, a, 5) == -EINVAL
        assert ask((1 << 64) - PAGE, a, 2 * PAGE) == wraps(kernel)
        assert ask(0, (1 << 64) - PAGE, 2 * PAGE) == wraps(kernel)
        assert ask(1, (1 << 64) - PAGE, 2 * PAGE) == wraps(kernel), "before anything else is looked at"
        assert ask(0, (1 << 64) - PAGE, 2 * PAGE, 0) == wraps(kernel)
        assert ask(0, a, 2 * PAGE) == 0
        assert ask(PAGE, a, PAGE) == -EEXIST
        assert vfio_dma_do_unmap(iommu, 0, PAGE) == -EINVAL, "it would cut the mapping in two"
        assert vfio_dma_do_unmap(iommu, 0, 0) == vfio_dma_do_unmap(iommu, 1, PAGE) == -EINVAL
        assert vfio_dma_do_unmap(iommu, 1 << 40, PAGE) == 0
        assert ask(1 << 20, a + 2 * PAGE, 4 * PAGE) == -EFAULT, "two pages, and a hole behind them"
        assert iommu.iova_to_phys(1 << 20) is None
        assert w.p.locked() == 2
        assert at_rest(w, iommu)
        mutex_lock(iommu.lock)
        iommu.dma_avail = 0
        mutex_unlock(iommu.lock)
        assert ask(1 << 20, a, PAGE) == -ENOSPC

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("limit", range(5))
def test_a_limit_in_the_middle(kernel: str, limit: int) -> None:
    def body(w: World) -> None:
        iommu = VfioIommu(w.m, limit=limit)
        a = w.p.mmap_anon(4)
        for page in (2, 0, 3, 1):  # frames that are no run
            w.p.write(a + page * PAGE)
        result = vfio_dma_do_map(iommu, w.p, 0, a, 4 * PAGE, RW)
        assert result == (0 if limit == 4 else -ENOMEM)
        assert w.p.locked() == (4 if limit == 4 else 0)
        assert len(iommu.held()) == (4 if limit == 4 else 0)
        assert at_rest(w, iommu)

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("prot", [PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC])
@pytest.mark.parametrize("touched", [False, True])
def test_device_memory_that_may_not_be_read(kernel: str, prot: int, touched: bool) -> None:
    """What nobody has touched is faulted in, which asks for VM_READ; an entry that is there is taken as it is."""
    if prot == PROT_EXEC and eras_noexec(kernel):
        return

    def body(w: World) -> None:
        bar = w.p.mmap(w.dev.file, 1, prot=prot or PROT_READ)
        if touched:
            w.p.read(bar)
        w.p.mprotect(bar, 1, prot)
        got = vfio_dma_do_map(VfioIommu(w.m), w.p, 0, bar, PAGE, IOMMU_READ)
        assert got == (0 if touched or prot == PROT_READ else -EFAULT)

    run(body, kernel)


@pytest.mark.parametrize(("kernel", "looks"), [("v5.10", 3), ("v6.1", 3), ("v6.12", 3), ("v6.16", 2), ("v7.3", 2)])
@pytest.mark.parametrize("device_last", [False, True])
def test_what_is_left_over_for_the_next_run(
    kernel: str, looks: int, device_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of memory behind one of a device, and the other way round. What does not go on with a run has been looked
    up: a single page is put and pinned again, from 6.15 on only device memory is looked up again.
    """
    asked: list[int] = []
    look = type1.vaddr_get_pfns

    def asking(iommu: VfioIommu, dma: Any, vaddr: int, npages: int) -> Any:
        asked.append(vaddr)
        return look(iommu, dma, vaddr, npages)

    monkeypatch.setattr(type1, "vaddr_get_pfns", asking)

    def body(w: World) -> None:
        iommu = VfioIommu(w.m)
        w.bar(1, at=w(int(device_last)), touch=True)
        w.p.write(w.p.mmap_anon(1, at=w(int(not device_last))))
        assert vfio_dma_do_map(iommu, w.p, 0, w(0), 2 * PAGE, RW) == 0
        assert asked == [w(0), w(1), w(1)][: 3 if device_last else looks]
        assert at_rest(w, iommu)

    run(body, kernel)


def eras_noexec(kernel: str) -> bool:
    """Anonymous inodes, VFIO's among them, cannot be mapped executable."""
    return eras.kernel(kernel).has("ANON_INODE_NOEXEC")


def test_what_the_cpu_reads_and_nobody_for_it() -> None:
    """A CPU reads what may only be run or written; a fault on the process's behalf does not."""

    def body(w: World) -> None:
        mm = w.p.mm
        for slot, prot in (("a", PROT_WRITE), ("b", PROT_EXEC)):
            at = w.p.mmap_anon(1, at=slot, prot=prot)
            mmap_read_lock(mm)
            assert fixup_user_fault(mm, at, False) == -EFAULT
            assert fixup_user_fault(mm, at, True) == (0 if prot == PROT_WRITE else -EFAULT)
            mmap_read_unlock(mm)
            assert w.p.read(at) == 0

    run(body)


def test_who_is_killed_is_told_so() -> None:
    """-EINTR, where mmap_lock may be given up; who holds on to it waits."""

    def before(w: World) -> None:
        kill = w.m.killable("task")
        w.m.signals["task"].sigkill = True
        assert kill

    def body(w: World) -> None:
        bar = w.bar(1)
        mmap_read_lock(w.p.mm)
        assert fixup_user_fault(w.p.mm, bar, False, Unlocked()) == -EINTR
        assert fixup_user_fault(w.p.mm, bar, False) == 0
        mmap_read_unlock(w.p.mm)

    run(body, before=before)
