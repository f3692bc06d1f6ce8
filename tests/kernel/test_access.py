"""->access: what a debugger and /proc/PID/mem reach of memory that has no pages (mm/memory.c, 5.10.262 to 7.3.4)."""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.kernel.arch.x86.pat import CacheMode, pgprot_writecombine
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.errno import EINVAL, EIO
from mmlitmus.kernel.mm.huge_memory import vmf_insert_pfn_pmd
from mmlitmus.kernel.mm.memory import remap_pfn_range, vmf_insert_pfn
from mmlitmus.kernel.mm.memory_access import generic_access_phys
from mmlitmus.kernel.mm.mm_types import VM_FAULT_FALLBACK, VM_IO, VM_MIXEDMAP, VM_PFNMAP, VmArea
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, MAP_SHARED, PROT_READ
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock

from .world import ERAS, OLD, PAGE, CharDev, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)
FIRST = ("v5.10", "deb-5.10.262")
ONE_PAGE = ("v7.3", "deb-7.3.4")


class Uio(CharDev):
    """A device's BAR, with the kernel's own ->access; what it was asked is noted."""

    def __init__(self, w: World, pages: int = 4) -> None:
        super().__init__(w.m, "uio")
        self.pdev = w.m.pci_device("uio", pages)
        self.base = self.pdev.bars[0].pfn
        self.on_fault = lambda vmf: vmf_insert_pfn(vmf.vma, vmf.address, self.base + vmf.pgoff)
        self.asked: list[tuple[str, int, bool]] = []
        self.w = w
        self.seen: list[Any] = []

    def access(self, vma: VmArea, address: int, length: int, write: bool) -> int:
        self.asked.append((self.label(address), length, write))
        return generic_access_phys(vma, address, length, write)


def asks(p: Any, address: int) -> list[int]:
    """What the four ways to ask give."""
    return [p.ptrace_peek(address), p.ptrace_poke(address), p.proc_mem_read(address), p.proc_mem_write(address)]


@everywhere
def test_asked_for_what_has_no_page(kernel: str) -> None:
    def body(w: World) -> None:
        uio = Uio(w)
        a = w.p.mmap(uio.file, 2)
        assert asks(w.p, a) == [-EIO] * 4, "nothing is faulted in"
        w.p.write(a)
        uio.asked.clear()
        assert asks(w.p, a) == [PAGE] * 4
        assert uio.asked == [("a0", PAGE, False), ("a0", PAGE, True)] * 2
        assert w.populated() == "a0"
        assert [e for e in w.m.memtypes.entries() if e.start >> 12 == uio.base] == [], "its own mapping has gone"
        other = w.p.mmap_anon(1, at="b")
        uio.asked.clear()
        assert asks(w.p, other) == [PAGE] * 4
        assert uio.asked == [], "pages are for get_user_pages"
        assert asks(w.p, w(0, "c")) == [-EIO] * 4

    run(body, kernel)


@everywhere
def test_without_an_access(kernel: str) -> None:
    def body(w: World) -> None:
        assert asks(w.p, w.bar(1, touch=True)) == [-EIO] * 4, "VFIO has none"

    run(body, kernel)


@everywhere
def test_permissions_are_the_entrys(kernel: str) -> None:
    """Forced or not: an entry that cannot be written is not, whatever the VMA says."""

    def body(w: World) -> None:
        uio = Uio(w)
        a = w.p.mmap(uio.file, 1, prot=PROT_READ)
        w.p.read(a)
        assert asks(w.p, a) == [PAGE, -EIO, PAGE, -EIO]

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("flags", [VM_IO, VM_PFNMAP, VM_MIXEDMAP])
def test_which_mappings(kernel: str, flags: int) -> None:
    """VM_IO or VM_PFNMAP (follow_phys, generic_access_phys, follow_pfnmap_start)."""

    def body(w: World) -> int:
        uio = Uio(w)
        uio.flags = flags | (VM_MIXEDMAP if flags == VM_IO else 0)
        uio.on_fault = lambda vmf: vmf_insert_pfn(vmf.vma, vmf.address, uio.base)
        a = w.p.mmap(uio.file, 1)
        w.p.read(a)
        return w.p.proc_mem_read(a)

    assert run(body, kernel).result == (-EIO if flags == VM_MIXEDMAP else PAGE)


@everywhere
@pytest.mark.parametrize("mapping", ["ram", "copied"])
def test_ordinary_ram_is_not_read(kernel: str, mapping: str) -> None:
    """ioremap refuses it with a warning; 5.10 knows a copied page, and 7.3 any RAM before it comes to that."""
    quiet = kernel in ONE_PAGE or (mapping == "copied" and kernel in FIRST)

    def body(w: World) -> int:
        drv = Uio(w)
        if mapping == "ram":
            drv.base = w.probe.regions["ram"][0]
        else:
            drv.on_mmap = lambda vma: remap_pfn_range(vma, vma.vm_start, drv.base, PAGE, vma.vm_page_prot)
        a = w.p.mmap(drv.file, 1, flags=MAP_SHARED if mapping == "ram" else MAP_PRIVATE)
        w.p.read(a)
        if mapping == "copied":
            w.p.write(a)
        return w.p.proc_mem_read(a)

    finds = [] if quiet else ["ioremap-on-ram"]
    assert run(body, kernel, finds=finds, before=lambda w: setattr(w, "probe", open_probe(w.m))).result == -EIO


@everywhere
def test_it_maps_with_the_entrys_type(kernel: str) -> None:
    """And for as many frames as the bytes need: up to 6.12 the next one too, if they begin within a page."""

    def body(w: World) -> list[Any]:
        uio = Uio(w)
        real = w.m.look_at_device
        seen: list[Any] = []

        def look(device: Any) -> None:
            seen.append([(m.end - m.start >> 12, m.type) for m in w.m.memtypes.ioremaps])
            real(device)

        w.m.look_at_device = look  # type: ignore[method-assign]
        uio.on_mmap = lambda vma: setattr(vma, "vm_page_prot", pgprot_writecombine(vma.vm_page_prot)) or 0
        a = w.p.mmap(uio.file, 4)
        w.p.read(a)
        w.p.read(a + PAGE)
        assert w.p.proc_mem_read(a) == PAGE
        assert w.p.proc_mem_read(a + 0x800) == PAGE
        return seen

    seen = run(body, kernel).result
    kind = seen[0][0][1]
    assert kind in (CacheMode.WC, CacheMode.UC_MINUS)
    sizes = [1, 1, 1] if kernel in ONE_PAGE else [1, 2, 2]
    assert seen == [[(pages, kind)] for pages in sizes]


def test_an_access_of_a_part() -> None:
    """The rest is asked for again; who gets nothing more ends with what he has: /proc says how much, ptrace -EIO."""

    def body(w: World) -> None:
        uio = Uio(w)
        answers: list[int] = []
        uio.access = lambda vma, address, length, write: answers.pop(0) if answers else -EINVAL  # type: ignore[method-assign]
        a = w.p.mmap(uio.file, 1)
        answers[:] = [1000, 3000, 96]
        assert w.p.proc_mem_read(a) == PAGE
        answers[:] = [1000, 24]
        assert w.p.proc_mem_read(a) == 1024
        answers[:] = [1000, 24]
        assert w.p.ptrace_peek(a) == -EIO
        answers[:] = [0]
        assert w.p.proc_mem_read(a) == -EIO

    run(body, OLD)


@everywhere
def test_from_a_page_into_device_memory(kernel: str) -> None:
    """One request, the first half of it in a page of the process's own."""

    def body(w: World) -> None:
        uio = Uio(w)
        page = w.p.mmap_anon(1)
        a = w.p.mmap(uio.file, 1, at=page + PAGE)
        w.p.write(a)
        assert w.p.proc_mem_read(page + 0x800) == PAGE
        assert uio.asked == [("a1", 0x800, False)]
        assert w.p.proc_mem_read(page - 0x800) == -EIO

    run(body, kernel)


@pytest.mark.parametrize("kernel", [k for k in ERAS if k not in FIRST])
def test_revoked_while_it_maps(kernel: str) -> None:
    """It looks again when it has mapped: gone, or replaced by another frame, which is copied instead."""

    def body(w: World) -> None:
        uio = Uio(w)
        a = w.p.mmap(uio.file, 2)
        w.p.read(a)
        from mmlitmus.kernel.mm import memory_access

        real = memory_access.map_io
        meanwhile: list[Any] = []

        def map_io(vma: VmArea, entry: int, address: int, length: int) -> Any:
            mapping = real(vma, entry, address, length)
            if meanwhile:
                meanwhile.pop(0)(vma)
            return mapping

        def gone(vma: VmArea) -> None:
            table = vma.vm_mm.pgd[address >> 21] if (address := a) else None
            assert table is not None
            table.put(a, 0)

        def other(vma: VmArea) -> None:
            table = vma.vm_mm.pgd[a >> 21]
            table.put(a, table.peek_pte(a) + PAGE)

        memory_access.map_io = map_io
        try:
            meanwhile[:] = [other]
            before = w.p.pte(a)
            assert w.p.proc_mem_read(a) == PAGE
            assert w.p.pte(a) == before + PAGE
            meanwhile[:] = [gone]
            assert w.p.proc_mem_read(a) == -EIO
        finally:
            memory_access.map_io = real
        assert w.m.memtypes.ioremaps == ()

    run(body, kernel)


def test_a_huge_leaf() -> None:
    def body(w: World) -> None:
        uio = Uio(w, pages=512)
        uio.huge_fault = lambda vmf, order: (  # type: ignore[method-assign,assignment]
            vmf_insert_pfn_pmd(vmf.vma, w.p.mm.pgd[vmf.address >> 21], vmf.address & -(512 * PAGE), uio.base)
            if order == 9
            else VM_FAULT_FALLBACK
        )
        a = w.p.mmap(uio.file, 512)
        w.p.read(a)
        assert w.p.pte(a) & 0x80
        assert w.p.proc_mem_read(a + 7 * PAGE) == PAGE
        assert w.p.proc_mem_write(a + 511 * PAGE) == PAGE

    run(body, "v6.12")


@everywhere
def test_who_holds_mmap_lock_calls_it(kernel: str) -> None:
    def body(w: World) -> tuple[int, int]:
        uio = Uio(w)
        a = w.p.mmap(uio.file, 1)
        w.p.read(a)
        anon = w.p.mmap_anon(1, at="b")
        w.p.write(anon)
        mmap_read_lock(w.p.mm)
        got = generic_access_phys(w.vma(a), a, 4, False), generic_access_phys(w.vma(anon), anon, 4, False)
        mmap_read_unlock(w.p.mm)
        return got

    assert run(body, kernel).result == (4, -EINVAL)
