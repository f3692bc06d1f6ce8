"""remap_pfn_range, vmf_insert_pfn, and the ways back: zap_vma_ptes, unmap_mapping_range."""

from __future__ import annotations

import pytest

from mmlitmus.kernel.errno import EINVAL, ENOMEM
from mmlitmus.kernel.mm.memory import remap_pfn_range, vmf_insert_pfn
from mmlitmus.kernel.mm.memory_zap import unmap_mapping_range, zap_vma_ptes
from mmlitmus.kernel.mm.mm_types import (
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
)
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, PROT_READ
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock

from .world import ERAS, NEW, OLD, PAGE, World, run

#: a frame of device memory that nobody has reserved; 0x100 is RAM, which is neither reserved nor uncached
DEVICE = 0xFD000

both = pytest.mark.parametrize("kernel", [OLD, NEW])
everywhere = pytest.mark.parametrize("kernel", ERAS)


def remap(w: World, address: int, size: int, pfn: int = 0x100) -> int:
    vma = w.vma(w(0))
    mmap_write_lock(w.p.mm)
    result = remap_pfn_range(vma, address, pfn, size, vma.vm_page_prot)
    mmap_write_unlock(w.p.mm)
    return result


def insert(w: World, address: int, pfn: int = DEVICE) -> int:
    mmap_read_lock(w.p.mm)
    result = vmf_insert_pfn(w.vma(w(0)), address, pfn)
    mmap_read_unlock(w.p.mm)
    return result


# -- remap_pfn_range --------------------------------------------------------------------------------------------------
@everywhere
def test_remap(kernel: str) -> None:
    def body(w: World) -> None:
        w.char.flags = 0
        w.char.on_mmap = lambda vma: remap_pfn_range(vma, w(0), 0x100, 2 * PAGE + 1, vma.vm_page_prot)
        assert w.p.mmap(w.char.file, 3, offset=7) == w(0)
        assert [w.p.pte(w(n)) for n in range(3)] == [0x8000000000100227 + (n << 12) for n in range(3)]
        vma = w.vma(w(0))
        flags = VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP
        assert vma.peek("vm_flags") & flags == flags
        assert vma.peek("vm_pgoff") == 7  # a shared mapping's offset is left alone

    run(body, kernel)


@both
def test_remap_across_two_tables(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 1024)
        assert remap(w, w(510), 4 * PAGE) == 0
        assert [w.p.pte(w(n)) >> 12 & 0xFFF for n in range(510, 514)] == [0x100, 0x101, 0x102, 0x103]

    run(body, kernel)


@both
def test_remap_at_no_pages_beginning(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 2)
        assert remap(w, w(0) + 1, PAGE) == -EINVAL
        assert w.populated() == ""

    run(body, kernel, finds=["remap-unaligned"])


@both
def test_remap_of_nothing(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 2)
        remap(w, w(0), 0)

    run(body, kernel, finds=["remap-empty-range"])


@everywhere
def test_remap_over_populated(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 3)
        remap(w, w(1), PAGE)
        remap(w, w(0), 3 * PAGE)

    ran = run(body, kernel, finds=["remap-over-populated"])
    assert ran.findings[0].kind == "BUG"


@both
def test_remap_again_after_a_zap(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 2)
        remap(w, w(0), 2 * PAGE)
        mmap_read_lock(w.p.mm)
        zap_vma_ptes(w.vma(w(0)), w(0), 2 * PAGE)
        mmap_read_unlock(w.p.mm)
        assert remap(w, w(0), 2 * PAGE, 0x200) == 0

    run(body, kernel)


@both
def test_remap_of_a_cow_mapping(kernel: str) -> None:
    """All of it or nothing, and its offset becomes the frame's number."""

    def body(w: World) -> None:
        w.char.flags = 0
        w.p.mmap(w.char.file, 2, flags=MAP_PRIVATE)
        assert remap(w, w(0), PAGE) == -EINVAL
        assert remap(w, w(1), PAGE) == -EINVAL
        assert w.vma(w(0)).peek("vm_pgoff") == 0
        assert w.vma(w(0)).peek("vm_flags") & VM_PFNMAP == 0

    run(body, kernel)

    def whole(w: World) -> None:
        def populate(vma: object) -> int:
            return remap_pfn_range(vma, w(0), 0x100, 2 * PAGE, vma.vm_page_prot)  # type: ignore[attr-defined, arg-type]

        w.char.flags, w.char.on_mmap = 0, populate
        assert w.p.mmap(w.char.file, 2, flags=MAP_PRIVATE) == w(0)
        assert w.vma(w(0)).peek("vm_pgoff") == 0x100
        assert w.p.pte(w(0)) == 0x8000000000100225

    run(whole, kernel)


def test_remap_of_a_linked_cow_mapping_is_a_finding() -> None:
    """vm_pgoff of a VMA that is in the reverse map belongs to i_mmap_rwsem too: remap in ->mmap, not later."""

    def body(w: World) -> None:
        w.p.mmap(w.char.file, 1, flags=MAP_PRIVATE)
        remap(w, w(0), PAGE)

    run(body, finds=["vm_pgoff written without *"])


def test_remap_without_memory() -> None:
    """The second table cannot be had: ENOMEM, and what was filled stays (until the release that zaps it)."""

    def body(w: World) -> None:
        got = remap(w, w(511), 2 * PAGE)
        assert got in (0, -ENOMEM)
        assert w.populated() in ("", "a511", "a511 a512")

    run(body, before=lambda w: w.p.mmap(w.char.file, 1024), once=False, failures=1)


# -- vmf_insert_pfn ---------------------------------------------------------------------------------------------------
@everywhere
def test_insert(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 2)
        before = w.p.vm_flags(w(0))
        assert insert(w, w(1)) == VM_FAULT_NOPAGE
        assert w.p.pte(w(1)) == 0x80000000FD000237  # UC- by look-up, whatever the VMA's protection says
        assert w.p.vm_flags(w(0)) == before
        assert insert(w, w(1), DEVICE + 9) == VM_FAULT_NOPAGE
        assert w.p.pte(w(1)) == 0x80000000FD000237
        assert insert(w, w(2)) == VM_FAULT_SIGBUS
        assert insert(w, w(0) - PAGE) == VM_FAULT_SIGBUS

    run(body, kernel)


@both
@pytest.mark.parametrize(
    ("flags", "how", "bug"),
    [
        (VM_IO, {}, "insert-pfn-vma-type"),
        (VM_PFNMAP | VM_MIXEDMAP, {}, "insert-pfn-vma-type"),
        (VM_PFNMAP, {"flags": MAP_PRIVATE}, "insert-pfn-cow"),
    ],
)
def test_insert_bugs(kernel: str, flags: int, how: dict[str, int], bug: str) -> None:
    def body(w: World) -> None:
        w.char.flags = flags
        w.p.mmap(w.char.file, 1, **how)  # type: ignore[arg-type]
        insert(w, w(0))

    ran = run(body, kernel, finds=[bug])
    assert ran.findings[0].kind == "BUG"


@both
def test_insert_into_what_is_allowed(kernel: str) -> None:
    def body(w: World) -> None:
        w.char.flags = VM_MIXEDMAP
        w.p.mmap(w.char.file, 1, flags=MAP_PRIVATE)
        assert insert(w, w(0)) == VM_FAULT_NOPAGE

    run(body, kernel)


def test_insert_without_memory() -> None:
    def body(w: World) -> None:
        assert insert(w, w(0)) in (VM_FAULT_NOPAGE, VM_FAULT_OOM)

    run(body, before=lambda w: w.p.mmap(w.char.file, 1), once=False, failures=1)


# -- zap_vma_ptes, unmap_mapping_range --------------------------------------------------------------------------------
@both
def test_zap_vma_ptes_does_nothing_where_it_may_not(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 2)
        remap(w, w(0), 2 * PAGE)
        vma = w.vma(w(0))
        mmap_read_lock(w.p.mm)
        zap_vma_ptes(vma, w(0) - PAGE, 2 * PAGE)
        zap_vma_ptes(vma, w(1), 2 * PAGE)
        assert w.populated() == "a0 a1"
        zap_vma_ptes(vma, w(1), PAGE)
        assert w.populated() == "a0"
        mmap_read_unlock(w.p.mm)

    run(body, kernel)


def test_zap_vma_ptes_is_for_pfnmaps() -> None:
    def body(w: World) -> None:
        w.char.flags = VM_MIXEDMAP
        w.p.mmap(w.char.file, 1)
        insert(w, w(0))
        mmap_read_lock(w.p.mm)
        zap_vma_ptes(w.vma(w(0)), w(0), PAGE)
        mmap_read_unlock(w.p.mm)
        assert w.populated() == "a0"

    run(body)


RANGES = [
    (0, 6, ""),
    (0, 0, ""),
    (2, 0, "a0 a1"),
    (2, 1, "a0 a1 a3 b1 b2"),
    (3, 2, "a0 a1 a2 b0"),
    (5, 9, "a0 a1 a2 a3 b0 b1 b2"),
]


@both
@pytest.mark.parametrize(("first", "pages", "left"), RANGES)
def test_unmap_mapping_range(kernel: str, first: int, pages: int, left: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 4, at="a", offset=0)
        w.p.mmap(w.char.file, 3, at="b", offset=2)
        for address in (*(w(n) for n in range(4)), *(w(n, "b") for n in range(3))):
            mmap_read_lock(w.p.mm)
            vmf_insert_pfn(w.vma(address), address, 0x100)
            mmap_read_unlock(w.p.mm)
        assert w.populated() == "a0 a1 a2 a3 b0 b1 b2"
        unmap_mapping_range(w.char.mapping, first * PAGE, pages * PAGE)
        assert w.populated() == left

    run(body, kernel)


def test_a_part_of_a_page_takes_the_page() -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 2)
        remap(w, w(0), 2 * PAGE)
        unmap_mapping_range(w.char.mapping, PAGE, 1)
        assert w.populated() == "a0"

    run(body)


def test_the_order_is_that_of_the_offsets() -> None:
    """Equal offsets: in the order in which they were linked, a child directly behind its parent."""

    def body(w: World) -> None:
        from mmlitmus.kernel.mm import memory_zap as memory

        other = w.m.process("other")
        w.p.mmap(w.char.file, 1, at="a", offset=1)
        other.mmap(w.char.file, 2, at="b", offset=0)
        w.p.mmap(w.char.file, 1, at="c", offset=0)
        w.p.fork("child")
        order = []
        real = memory.zap_page_range_single

        def zap(vma: object, address: int, size: int, **how: bool) -> None:
            order.append(f"{vma.vm_mm.name}:{w.m.page_label(address)}")  # type: ignore[attr-defined]
            real(vma, address, size, **how)  # type: ignore[arg-type]

        memory.zap_page_range_single = zap  # type: ignore[assignment]
        unmap_mapping_range(w.char.mapping, 0, 2 * PAGE)
        memory.zap_page_range_single = real
        assert order == ["other:b0", "p:c0", "child:c0", "p:a0", "child:a0"]

    run(body)


def test_a_read_only_private_mapping_is_no_cow_mapping_only_without_maywrite() -> None:
    """VM_MAYWRITE is what counts, not VM_WRITE."""

    def body(w: World) -> None:
        w.p.mmap(w.char.file, 1, flags=MAP_PRIVATE, prot=PROT_READ)
        insert(w, w(0))

    run(body, finds=["insert-pfn-cow"])


@pytest.mark.parametrize("kernel", ["deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "v6.16"])
def test_half_a_page_that_is_refused(kernel: str) -> None:
    """A failing remap zaps by the caller's size, whole pages or not; until 6.16 the zap then misses its own end."""

    def body(w: World) -> None:
        w.char.on_mmap = lambda vma: remap_pfn_range(vma, vma.vm_start, DEVICE, PAGE // 2, vma.vm_page_prot)
        assert w.p.mmap(w.char.file, 2, at="b", flags=MAP_PRIVATE) == -EINVAL, "there is no page table to run over"
        w.char.on_mmap = lambda vma: remap_pfn_range(vma, vma.vm_start, DEVICE, 3 * PAGE, vma.vm_page_prot)
        assert w.p.mmap(w.char.file, 3) == w(0)
        w.char.on_mmap = lambda vma: remap_pfn_range(vma, vma.vm_start, DEVICE, PAGE // 2, vma.vm_page_prot)
        assert w.p.mmap(w.char.file, 2, at=w(3), flags=MAP_PRIVATE) == -EINVAL

    run(body, kernel, finds=[] if kernel == "v6.16" else ["zap-past-the-end"])
