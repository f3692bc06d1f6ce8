"""The numbers of smaps: what is counted, whose it is, what of it is locked (fs/proc/task_mmu.c, 5.10.262 to 7.3.4)."""

from __future__ import annotations

import re
from errno import ENOMEM

import pytest

from mmlitmus.kernel.arch.x86.pgtable import pte_pfn
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.mm.madvise import MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE
from mmlitmus.kernel.mm.memory import remap_pfn_range
from mmlitmus.kernel.mm.memory_pages import vm_insert_page
from mmlitmus.kernel.mm.mm_types import VM_MIXEDMAP
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, MAP_SHARED, PROT_READ
from mmlitmus.kernel.mm.page_alloc import DRIVER, new_folio
from mmlitmus.kernel.mm.swapops import SWP_MIGRATION_READ, make_migration_entry
from mmlitmus.kernel.uapi import Process

from .world import ERAS, PAGE, CharDev, World, run

everywhere = pytest.mark.parametrize("kernel", ERAS)
AS_MAPPED = ("v5.10", "deb-5.10.262", "v6.1", "deb-6.1.192", "v6.6", "v6.9", "v6.10")


def numbers(p: Process, n: int = 0) -> dict[str, int]:
    """The fields of the nth mapping that are not 0, in kB; without its size."""
    entries = re.split(r"^(?=[0-9a-f]+-)", p.smaps(), flags=re.M)[1:]
    found = re.findall(r"^(\w+): +(\d+) kB$", entries[n], re.M)
    assert [name for name, _ in found][:3] == ["Size", "Rss", "Pss"]
    return {name: int(kb) for name, kb in found if int(kb) and name != "Size"}


@everywhere
def test_a_process_own_pages(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(4)
        assert numbers(w.p) == {}
        w.p.read(a)
        assert numbers(w.p) == {}, "the zero page counts nothing"
        w.p.write(a)
        w.p.write(a + PAGE)
        assert numbers(w.p) == {"Rss": 8, "Pss": 8, "Private_Dirty": 8, "Anonymous": 8}
        w.p.mlock(a + PAGE, 1)
        assert numbers(w.p) == {"Rss": 4, "Pss": 4, "Private_Dirty": 4, "Anonymous": 4}
        assert numbers(w.p, 1) == {"Rss": 4, "Pss": 4, "Private_Dirty": 4, "Anonymous": 4, "Locked": 4}

    run(body, kernel)


@everywhere
def test_shared_by_fork(kernel: str) -> None:
    """Each has his share of it; who holds it besides does not count; a store makes it two."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        child = w.p.fork("child")
        assert isinstance(child, Process)
        for one in (w.p, child):
            assert numbers(one) == {"Rss": 4, "Pss": 2, "Shared_Dirty": 4, "Anonymous": 4}
        third = w.p.fork("third")
        assert numbers(w.p) == {"Rss": 4, "Pss": 1, "Shared_Dirty": 4, "Anonymous": 4}
        assert isinstance(third, Process)
        third.exit()
        got, pages = child.get(a, 1)
        assert got == 1
        assert numbers(child) == {"Rss": 4, "Pss": 2, "Shared_Dirty": 4, "Anonymous": 4}
        child.put(pages)
        w.p.write(a)
        for one in (w.p, child):
            assert numbers(one) == {"Rss": 4, "Pss": 4, "Private_Dirty": 4, "Anonymous": 4}
        got, pages = w.p.get(a, 1)
        assert numbers(w.p) == {"Rss": 4, "Pss": 4, "Private_Dirty": 4, "Anonymous": 4}
        w.p.put(pages)

    run(body, kernel)


@everywhere
def test_a_drivers_pages(kernel: str) -> None:
    """Of a file: not anonymous; dirty when the page is, or the entry."""

    def body(w: World) -> None:
        folio = new_folio(w.m, DRIVER, "the driver")
        w.char.flags = VM_MIXEDMAP
        w.char.on_mmap = lambda vma: vm_insert_page(vma, vma.vm_start, folio)
        a = w.p.mmap(w.char.file, 1)
        assert numbers(w.p) == {"Rss": 4, "Pss": 4, "Private_Clean": 4}
        w.p.write(a)
        assert numbers(w.p) == {"Rss": 4, "Pss": 4, "Private_Dirty": 4}
        w.p.mmap(w.char.file, 1, at="b")
        assert numbers(w.p)["Pss"] == numbers(w.p, 1)["Pss"] == 2
        assert numbers(w.p)["Shared_Dirty"] == 4
        w.p.munmap(a, 1)
        assert numbers(w.p) == {"Rss": 4, "Pss": 4, "Private_Dirty": 4}, "by the page, whose entry has gone"

    run(body, kernel)


@pytest.mark.parametrize("kernel", [k for k in ERAS if k not in ("v5.10", "deb-5.10.262")])
def test_who_touches_to_write_makes_it_dirty(kernel: str) -> None:
    """MADV_POPULATE_WRITE stores nothing where the entry is writable already: it is the page that becomes dirty
    (mm/gup.c follow_page_pte), with nobody wanting the page. The entry stays clean.
    """

    def body(w: World) -> None:
        folio = new_folio(w.m, DRIVER, "the driver")
        w.char.flags = VM_MIXEDMAP
        w.char.on_mmap = lambda vma: vm_insert_page(vma, vma.vm_start, folio)
        a = w.p.mmap(w.char.file, 1)
        before = w.p.pte(a)
        assert w.p.madvise(a, 1, MADV_POPULATE_READ) == 0
        assert numbers(w.p) == {"Rss": 4, "Pss": 4, "Private_Clean": 4}
        assert w.p.madvise(a, 1, MADV_POPULATE_WRITE) == 0
        assert numbers(w.p) == {"Rss": 4, "Pss": 4, "Private_Dirty": 4}
        assert w.p.pte(a) == before

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("flags", [MAP_SHARED, MAP_PRIVATE])
def test_nothing_of_device_memory(kernel: str, flags: int) -> None:
    """A VM_PFNMAP is not walked, a private copy in it included; in a VM_MIXEDMAP a copy is counted, a frame is not."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        char = CharDev(w.m, "remap", pfn=w.frame())
        char.on_mmap = lambda vma: remap_pfn_range(vma, vma.vm_start, w.frame(), PAGE, vma.vm_page_prot)
        a = w.p.mmap(char.file, 1, flags=flags)
        w.p.read(a)
        assert numbers(w.p) == {}
        w.p.write(a)
        assert numbers(w.p) == {}
        w.p.munmap(a, 1)
        a = w.p.mmap(w.probe.file("mixed", "", "hole"), 1, flags=flags)
        w.p.read(a)
        assert numbers(w.p) == {}
        w.p.write(a)
        copied = {"Rss": 4, "Pss": 4, "Private_Dirty": 4, "Anonymous": 4}
        assert numbers(w.p) == (copied if flags == MAP_PRIVATE else {})

    run(body, kernel)


@everywhere
def test_what_migrates(kernel: str) -> None:
    """Up to 6.10 it is private; from 6.11 shared, and all of it everybody's."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        w.p.mlock(a, 1)
        child = w.p.fork("child")
        assert isinstance(child, Process)
        entry = make_migration_entry(pte_pfn(w.p.pte(a)), SWP_MIGRATION_READ, w.p.pte(a))
        w.p.mm.pgd[a >> 21].put(a, entry)
        kind = "Private_Dirty" if kernel in AS_MAPPED else "Shared_Dirty"
        assert numbers(w.p) == {"Rss": 4, "Pss": 4, kind: 4, "Anonymous": 4, "Locked": 4}

    run(body, kernel)


@everywhere
def test_what_is_in_swap(kernel: str) -> None:
    def body(w: World) -> None:
        w.m.swapon()
        a = w.p.mmap_anon(2)
        w.p.write(a)
        assert w.p.madvise(a, 1, MADV_PAGEOUT) == 0
        assert numbers(w.p) == {"Swap": 4, "SwapPss": 4}
        child = w.p.fork("child")
        assert isinstance(child, Process)
        assert numbers(child) == {"Swap": 4, "SwapPss": 2}
        child.exit()
        w.p.read(a)
        assert numbers(w.p)["Rss"] == 4
        assert "Swap" not in numbers(w.p)

    run(body, kernel)


@pytest.mark.parametrize("kernel", ["v6.12", "deb-7.3.4"])
def test_a_huge_page_of_its_own(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(512)
        w.p.write(a)
        assert numbers(w.p) == {"Rss": 2048, "Pss": 2048, "Private_Dirty": 2048, "Anonymous": 2048}

    run(body, kernel, thp=True)


def test_not_writable() -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        w.p.mprotect(a, 1, PROT_READ)
        assert numbers(w.p) == {"Rss": 4, "Pss": 4, "Private_Dirty": 4, "Anonymous": 4}

    run(body)


@pytest.mark.parametrize("kernel", [k for k in ERAS if k not in ("v5.10", "deb-5.10.262")])
def test_what_is_populated_around_a_hole(kernel: str) -> None:
    """Up to 6.8 what is behind the hole, too (6.12.117 and 7.3.4: recorded)."""

    def body(w: World) -> None:
        a = w.p.mmap_anon(3)
        w.p.munmap(a + PAGE, 1)
        assert w.p.madvise(a, 3, MADV_POPULATE_WRITE) == -ENOMEM
        assert w.p.pte(a)
        assert bool(w.p.pte(a + 2 * PAGE)) == (kernel in ERAS[: ERAS.index("v6.9")])

    run(body, kernel)
