"""Every choice is worth making: flip it, and a verdict or an observation changes. And every row and patch is sound.

``WITNESS`` says for each alternative of each seam what shows the difference between it and another one: a shipped case,
or an observation below. An alternative without a witness, or whose witness shows no difference, fails (and goes).
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest

import mmlitmus.kernel
from mmlitmus.checker.load import select
from mmlitmus.checker.run import is_asked, make_engine
from mmlitmus.explore import runtime
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.scheduler import Setup
from mmlitmus.kernel import eras, policy
from mmlitmus.kernel.arch.x86.pat import (
    CacheMode,
    memtype_free,
    memtype_reserve,
    pat_memtype_list,
    pgprot2cachemode,
    pgprot_noncached,
    pgprot_writecombine,
)
from mmlitmus.kernel.arch.x86.pgtable import pte_pfn
from mmlitmus.kernel.drivers.misc.probe import Fill, open_probe
from mmlitmus.kernel.drivers.vfio import type1
from mmlitmus.kernel.drivers.vfio.type1 import IOMMU_READ, IOMMU_WRITE, VfioIommu, vfio_dma_do_map
from mmlitmus.kernel.drivers.vfio.type1_unmap import vfio_dma_do_unmap
from mmlitmus.kernel.machine import Machine
from mmlitmus.kernel.mm import gup_longterm, madvise, mmu_gather, vma
from mmlitmus.kernel.mm.gates import Gate, listen
from mmlitmus.kernel.mm.gup import FOLL_FORCE, FOLL_LONGTERM, FOLL_WRITE, Locked, Pages
from mmlitmus.kernel.mm.gup_fast import pin_user_pages_remote
from mmlitmus.kernel.mm.memory import remap_pfn_range, vmf_insert_mixed, vmf_insert_pfn
from mmlitmus.kernel.mm.memory_pages import vm_insert_page
from mmlitmus.kernel.mm.mlock import MLOCK_ONFAULT
from mmlitmus.kernel.mm.mm_types import VM_ACCOUNT, VM_MIXEDMAP, AddressSpace, File, VmFault, VmOperations
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, PROT_READ, PROT_WRITE
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.mmu_notifier import MmuNotifierRange, mmu_notifier_register
from mmlitmus.kernel.mm.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE
from mmlitmus.kernel.mm.page_alloc import (
    ANON,
    COHERENT,
    DRIVER,
    GUP_PIN_COUNTING_BIAS,
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    ZERO,
    ZONE_MOVABLE,
    ZONE_NORMAL,
    new_folio,
)
from mmlitmus.kernel.mm.rmap_exclusive import give_back, make_device_exclusive
from mmlitmus.kernel.mm.swapops import SWP_MIGRATION_WRITE, make_migration_entry
from mmlitmus.kernel.policy import Kernel, KernelSpecError, NotApplicable

from .world import ERAS, PAGE, World

for home in policy.HOMES.values():
    import_module(home)

CASES = {case.id: case for case in select([]).cases}
#: those that are known in part, too
EVERY = list(eras.RELEASES)
MODEL = Path(mmlitmus.kernel.__file__).parent


# -- observations: what one task sees ---------------------------------------------------------------------------------
def observe(kernel: Kernel, body: Callable[[World], Any], pages: int = 4) -> Any:
    seen: list[Any] = []

    def build() -> Setup:
        machine = Machine(kernel)
        w = World(machine, pages)
        machine.task(lambda: seen.append(body(w)), process=w.p, name="task")
        return machine.setup()

    engine = Dpor(build, max_executions=1)
    results = engine.run()
    if engine.last_exception is not None:
        raise engine.last_exception
    return seen, sorted(f.name for f in results.found)


def opened_by_munmap(w: World) -> Any:
    w.p.mmap(w.char.file, 4)
    w.p.munmap(w(1), 1)
    return w.char.calls


def dirty_and_read_only(w: World) -> Any:
    bar = w.bar(1)
    w.p.write(bar)
    w.p.mprotect(bar, 1, 1)
    return w.p.pte(bar)


def flushes(w: World) -> Any:
    """How often munmap of two VMAs flushes, and when: before or after each is unlinked."""
    order: list[str] = []
    w.bar(1, at=w(0), touch=True)
    w.bar(1, at=w(1), touch=True)
    flush, unlink = mmu_gather.flush_tlb_range, vma.unlink_file_vma

    def flushing(mm: Any, start: int, end: int) -> None:
        order.append("flush")
        flush(mm, start, end)

    def unlinking(one: Any) -> None:
        order.append("unlink")
        unlink(one)

    mmu_gather.flush_tlb_range, vma.unlink_file_vma = flushing, unlinking
    w.p.munmap(w(0), 2)
    mmu_gather.flush_tlb_range, vma.unlink_file_vma = flush, unlink
    return order


def found_without_a_lock(w: World) -> Any:
    return vma.find_vma(w.p.mm, w(0))


def looked_up_without_a_lock(w: World) -> Any:
    return vma.vma_lookup(w.p.mm, w(0))


def pages_looked_up(w: World) -> Any:
    """How often VFIO pins, of a device's page and one of memory behind it."""
    asked: list[int] = []
    look = type1.vaddr_get_pfns

    def asking(iommu: VfioIommu, dma: Any, vaddr: int, npages: int) -> Any:
        asked.append(vaddr)
        return look(iommu, dma, vaddr, npages)

    type1.vaddr_get_pfns = asking
    w.bar(1, touch=True)
    w.p.write(w.p.mmap_anon(1, at=w(1)))
    vfio_dma_do_map(VfioIommu(w.m), w.p, 0, w(0), 2 * PAGE, IOMMU_READ)
    type1.vaddr_get_pfns = look
    return asked


def locked_part_moved(w: World) -> Any:
    w.p.mmap_anon(2)
    w.p.mlock(w(0), 2)
    w.p.mremap(w(0), 1, 1, to="b", flags=MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)
    return w.p.smaps()


def flushed_by_advice(w: World) -> Any:
    """How often MADV_DONTNEED of two mappings flushes."""
    flushed: list[tuple[int, int]] = []
    for slot in range(2):
        at = w.p.mmap_anon(1, at=w(2 * slot))
        w.p.write(at)
    flush = mmu_gather.flush_tlb_range

    def flushing(mm: Any, start: int, end: int) -> None:
        flushed.append((start, end))
        flush(mm, start, end)

    mmu_gather.flush_tlb_range = flushing
    w.p.madvise(w(0), 3, madvise.MADV_DONTNEED)
    mmu_gather.flush_tlb_range = flush
    return flushed


def lock_of_a_huge_fault(w: World) -> Any:
    held: list[Any] = []

    def huge_fault(vmf: Any, order: int) -> int:
        held.append((vmf.vma.vm_mm.mmap_lock.held(), vmf.vma.vm_lock.held()))
        return 0x2  # VM_FAULT_SIGBUS

    w.char.huge_fault = huge_fault
    w.p.mmap(w.char.file, 512)
    w.p.read(w(0))
    return held


def lock_of_a_fault(w: World) -> Any:
    held: list[Any] = []

    def fault(vmf: Any) -> int:
        held.append((vmf.vma.vm_mm.mmap_lock.held(), vmf.vma.vm_lock.held()))
        return 0x2

    w.char.on_fault = fault
    w.p.mmap(w.char.file, 1)
    w.p.read(w(0))
    return held


def letters_of_a_bar(w: World) -> Any:
    return w.p.vm_flags(w.bar(1))


def filled_by_mmap(w: World) -> Any:
    w.bar(2)
    return w.populated()


def listed_twice(w: World) -> Any:
    """How often a VMA is listed, and what is found, when its fault is served a second time (vfio/concurrent-faults)."""
    bar = w.bar(2, touch=True)
    mmap_read_lock(w.p.mm)
    w.dev.fault(VmFault(w.vma(bar), bar, 0))
    mmap_read_unlock(w.p.mm)
    return len(w.dev.vma_list.items)  # type: ignore[attr-defined]


def zapped(w: World) -> Any:
    """What is reserved for a mapping of two pages, and its letters, after the reverse map has zapped the second."""
    probe = open_probe(w.m)
    a = w.p.mmap(probe.file(), 2)
    probe.unmap_mapping_range(1, 1)
    return pat_memtype_list(w.m), w.p.vm_flags(a)


def private_copy(w: World) -> int:
    """A private mapping of two frames, of which the first was written: a copy has taken its place."""
    probe = open_probe(w.m)
    a = w.p.mmap(probe.file("remap", "", "reserved"), 2, flags=MAP_PRIVATE)
    w.p.write(a)
    return a


def copied_and_unmapped(w: World) -> Any:
    w.p.munmap(private_copy(w), 2)
    return pat_memtype_list(w.m)


def failed_fork(w: World) -> Any:
    """What the parent of a child that could not be made has reserved."""
    private_copy(w)
    return w.p.fork("child"), pat_memtype_list(w.m)


def copied_and_protected(w: World) -> Any:
    a = private_copy(w)
    w.p.mprotect(a, 1, PROT_READ)
    w.p.mprotect(a, 1, PROT_READ | PROT_WRITE)
    return w.p.pte(a)


def populated_behind_a_hole(w: World) -> Any:
    a = w.p.mmap(w.char.file, 2)
    return w.p.munmap(a, 1), w.p.madvise(a, 2, madvise.MADV_POPULATE_READ)


def smaps_of_lock_on_fault(w: World) -> str:
    """VmFlags of what is locked as it is touched."""
    a = w.p.mmap_anon(1)
    w.p.mlock(a, 1, MLOCK_ONFAULT)
    return w.p.vm_flags(a)


def populated_in_a_hole(w: World) -> int:
    return w.p.madvise(w.m.slot("a"), 1, madvise.MADV_POPULATE_READ)


def inherited_again(w: World) -> int:
    """MADV_DOFORK of a VM_MIXEDMAP."""
    return w.p.madvise(w.p.mmap(open_probe(w.m).file("mixed", "", "hole"), 1), 1, madvise.MADV_DOFORK)


def left_and_forked(w: World) -> Any:
    """What a child has of the zero page, where the parent's own page has moved away and left its mapping."""
    a = w.p.mmap_anon(1)
    w.p.write(a)
    w.p.mremap(a, 1, 1, to="b", flags=MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)
    w.p.read(a)
    child = w.p.fork("child")
    assert not isinstance(child, int)
    return child.pte(a)


def moved_and_left(w: World) -> Any:
    """A VM_MIXEDMAP is moved with MREMAP_DONTUNMAP."""
    a = w.p.mmap(open_probe(w.m).file("mixed", "", "hole"), 2)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
    return w.p.mremap(a, 2, 2, to="b", flags=flags), w.p.vm_flags(a)


def grown_where_it_is(w: World) -> Any:
    """A VM_MIXEDMAP is to become longer, one whose driver has no ->close and one whose driver has."""
    w.char.flags = VM_MIXEDMAP
    a, b = w.p.mmap(open_probe(w.m).file("mixed"), 1), w.p.mmap(w.char.file, 1, at="b")
    return w.p.mremap(a, 1, 2), w.p.mremap(b, 1, 2)


def in_memory(w: World) -> Any:
    """What mincore says of a BAR that is mapped."""
    a = w.p.mmap(w.dev.file, 1)
    w.p.read(a)
    return w.p.mincore(a, 1)


def paged_out_and_young(w: World) -> Any:
    """The entry of a page after MADV_PAGEOUT without swap."""
    a = w.p.mmap_anon(1)
    w.p.write(a)
    w.p.madvise(a, 1, madvise.MADV_PAGEOUT)
    return w.p.pte(a)


def left_mapped(w: World) -> Any:
    """A page that a driver has inserted, when private copies are to stay."""
    probe = open_probe(w.m)
    a = w.p.mmap(probe.file("insert_page", "", "ram"), 1)
    probe.unmap_mapping_range(0, 1, even_cows=False)
    return w.p.pte(a)


def joined_from_below(w: World) -> Any:
    """A mapping without pages, and behind it one with a page that becomes like it: how long is the first?"""
    a = w.p.mmap_anon(1)
    b = w.p.mmap_anon(1, at=a + PAGE, prot=PROT_READ | PROT_WRITE | 4)
    w.p.write(b)
    w.p.mprotect(b, 1, PROT_READ | PROT_WRITE)
    return w.layout()


def between_two(w: World) -> Any:
    """A mapping between two that have pages of different anon_vmas."""
    a = w.p.mmap_anon(1)
    w.p.write(a)
    w.p.write(w.p.mmap_anon(1, at=a + 2 * PAGE))
    w.p.mmap_anon(1, at=a + PAGE)
    return w.layout()


def guards_of_a_device(w: World) -> Any:
    """What is said of a guard region where a length is none: 0 where there are guard regions."""
    return w.p.madvise(w.p.mmap(w.dev.file, 1), 0, madvise.MADV_GUARD_REMOVE)


def tail_given_back(w: World) -> Any:
    """What is reserved when the second page of two has been given back."""
    start = open_probe(w.m).pfn(Fill("none", "", "hole", 0)) * PAGE
    memtype_reserve(w.m, start, start + 2 * PAGE, CacheMode.WC, True)
    return memtype_free(w.m, start + PAGE, start + 2 * PAGE), pat_memtype_list(w.m)


def write_combining_over_noncached(w: World) -> CacheMode:
    return pgprot2cachemode(pgprot_writecombine(pgprot_noncached(0)))


def moved_from_nowhere(w: World) -> Any:
    """What is left of a move's target when there is nothing to move."""
    a = w.p.mmap(w.char.file, 2)
    return w.p.mremap(w.m.slot("b"), 1, 1, to="a"), w.p.vm_flags(a)


def moved_onto_itself_from_nowhere(w: World) -> Any:
    return w.p.mremap(w.m.slot("b"), 1, 1, to="b"), moved_from_nowhere(w)


def replaced_with_another_type(w: World) -> Any:
    probe = open_probe(w.m)
    w.p.mmap(probe.file("remap", "", "hole"), 2)
    return w.p.mmap(probe.file("remap", "wc", "hole"), 2) < 0, pat_memtype_list(w.m)


def replaced_and_looked_at(w: World) -> bool:
    """Has the VMA that is replaced been freed when the driver hears of the new one?"""
    old = w.vma(w.p.mmap(w.char.file, 1))
    seen = []

    def on_mmap(vma: Any) -> int:
        seen.append(old.freed)
        return 0

    w.char.on_mmap = on_mmap
    w.p.mmap(w.char.file, 1)
    return bool(seen[0])


def mixed_into_pfnmap(w: World) -> Any:
    w.char.on_fault = lambda vmf: vmf_insert_mixed(vmf.vma, vmf.address, 0xFD000)
    return w.p.read(w.p.mmap(w.char.file, 1))


def half_a_page_that_fails(w: World) -> Any:
    """A private mapping of which half a page is remapped: the kernel may not survive that it is refused."""
    w.char.on_mmap = lambda vma: remap_pfn_range(vma, vma.vm_start, 0xFD000, 3 * PAGE, vma.vm_page_prot)
    w.p.mmap(w.char.file, 3)
    w.char.on_mmap = lambda vma: remap_pfn_range(vma, vma.vm_start, 0xFD000, PAGE // 2, vma.vm_page_prot)
    return w.p.mmap(w.char.file, 2, at=w(3), flags=MAP_PRIVATE)


class Untouched(VmOperations):
    anonymous = True

    def mmap(self, file: Any, vma: Any) -> int:
        vma.vm_ops = self
        return 0


def accounted_when_read_only(w: World) -> Any:
    ops = Untouched()
    at = w.p.mmap(File("anonymous", ops, AddressSpace("anonymous")), 1, flags=MAP_PRIVATE)
    w.p.mprotect(at, 1, PROT_READ)
    return bool(w.vma(at).vm_flags & VM_ACCOUNT)


def forced_into_read_only(w: World) -> Any:
    """A debugger writes to a page of a read-only private mapping that has been read."""
    a = w.p.mmap_anon(1, prot=PROT_READ)
    w.p.read(a)
    return w.p.ptrace_poke(a), w.p.pte(a)


def counted(w: World) -> list[Any]:
    return [folio for folio in w.m.pages.values() if not folio.freed]


def forced_into_a_held_page(w: World) -> Any:
    """A debugger writes to a page of a mapping that has become read-only: in how many events?"""
    a = w.p.mmap_anon(1)
    w.p.write(a)
    w.p.mprotect(a, 1, PROT_READ)
    before = runtime.engine.i
    return w.p.ptrace_poke(a), runtime.engine.i - before


def written_while_held(w: World) -> Any:
    a = w.p.mmap_anon(1)
    w.p.write(a)
    before = w.p.pte(a)
    w.p.mprotect(a, 1, PROT_READ)
    w.p.get(a, 1, holder="somebody")
    w.p.mprotect(a, 1, PROT_READ | PROT_WRITE)
    w.p.write(a)
    return w.p.pte(a) >> 12 == before >> 12


def shared_got_and_forked(w: World) -> Any:
    """A page that a child shares is held so often that it looks pinned; then there is a fork."""
    a = w.p.mmap_anon(1)
    w.p.write(a)
    w.p.fork("first")
    w.p.mm.has_pinned = True
    counted(w)[-1].ref_add("somebody", GUP_PIN_COUNTING_BIAS)
    second = w.p.fork("second")
    return not isinstance(second, int) and second.pte(a) >> 12 == w.p.pte(a) >> 12


def pinned_while_shared(w: World) -> Any:
    """Is what is pinned for reading the page that a child shares?"""
    a = w.p.mmap_anon(1)
    w.p.write(a)
    w.p.fork("child")
    before = w.p.pte(a)
    w.p.pin(a, 1)
    return w.p.pte(a) >> 12 == before >> 12


def pinned_in_zone_movable(w: World) -> Any:
    """Where a page comes from that a long-term pin faults in, with ZONE_MOVABLE for the pages of processes."""
    w.m.user_zone = ZONE_MOVABLE
    a = w.p.mmap_anon(1)
    _, pages = w.p.pin(a, 1, FOLL_LONGTERM | FOLL_WRITE)
    return [folio and folio.zone for folio in pages.folios]


def pinnable(w: World) -> Any:
    """Which kinds of page in which zone and block may be pinned for long."""
    return [
        bool(gup_longterm.is_longterm_pinnable(new_folio(w.m, kind, "somebody", zone=zone, migratetype=block)))
        for kind in (ANON, ZERO, COHERENT)
        for zone in (ZONE_NORMAL, ZONE_MOVABLE)
        for block in (MIGRATE_MOVABLE, MIGRATE_CMA, MIGRATE_ISOLATE)
    ]


def pinned_with_mkwrite(w: World) -> Any:
    """A page that a driver with ->pfn_mkwrite has inserted is pinned for writing, for long."""
    folio = new_folio(w.m, "driver", "the driver")
    w.char.flags = 0
    w.char.on_mmap = lambda vma: vm_insert_page(vma, vma.vm_start, folio)
    w.char.pfn_mkwrite = lambda vmf: 0
    return w.p.pin(w.p.mmap(w.char.file, 1), 1, FOLL_LONGTERM | FOLL_WRITE)[0]


def wrapped_round(w: World) -> int:
    return w.p.pin((1 << 64) - 4096, 2, how="fast")[0]


def pinned_for_long_unlocked(w: World) -> int:
    """A long-term pin of another's memory, by somebody who can do without mmap_lock."""
    a = w.p.mmap_anon(1)
    locked = Locked(True)
    mmap_read_lock(w.p.mm)
    got = pin_user_pages_remote(w.p.mm, a, 1, FOLL_LONGTERM, Pages("test"), locked)
    if locked.held:
        mmap_read_unlock(w.p.mm)
    return got


def huge_leaf_by_fast_path(w: World) -> int:
    a = w.p.mmap(open_probe(w.m, 512, pfn=0x100000).file("huge"), 512)
    w.p.write(a)
    return w.p.get(a, 1, FOLL_WRITE, how="fast_only")[0]


def driver_page_by_fast_path(w: World) -> Any:
    """What the fast path alone says of a page that a driver has mapped; and what a long-term pin for writing counts
    before the slow path has it.
    """
    folio = new_folio(w.m, DRIVER, "the driver")
    w.char.flags = 0
    w.char.on_mmap = lambda vma: vm_insert_page(vma, vma.vm_start, folio)
    a = w.p.mmap(w.char.file, 1)
    heard: list[tuple[Gate, str]] = []
    listen(heard)
    short = w.p.get(a, 1, how="fast_only")[0]
    w.p.pin(a, 1, FOLL_LONGTERM | FOLL_WRITE, how="fast")
    listen(None)
    return short, [what for gate, what in heard if gate == Gate.FAST]


def forced_and_protected(w: World) -> int:
    """The entry of a page that somebody has forced a store to, when the process may write to it at last."""
    a = w.p.mmap_anon(1, prot=PROT_READ)
    w.p.pin(a, 1, FOLL_WRITE | FOLL_FORCE)
    w.p.mprotect(a, 1, PROT_READ | PROT_WRITE)
    return w.p.pte(a)


def huge_leaf(w: World, *more: Any) -> Any:
    """A mapping of one leaf by the probe's driver, after a store."""
    a = w.p.mmap(open_probe(w.m, 512, pfn=0x100000, mkwrite=True).file("huge"), 512)
    w.p.write(a)
    return a


def shown_of_a_leaf(w: World) -> Any:
    return w.p.pte(huge_leaf(w))


def protected_leaf(w: World) -> Any:
    a = huge_leaf(w)
    w.p.mprotect(a, 512, PROT_READ)
    w.p.mprotect(a, 512, PROT_READ | PROT_WRITE)
    return w.p.pte(a)


def inserted_beside_a_leaf(w: World) -> Any:
    """What vmf_insert_pfn says of a page that a huge leaf maps already."""
    a = w.p.mmap(open_probe(w.m, 512, pfn=0x100000).file("huge"), 512)
    w.p.read(a)
    mmap_read_lock(w.p.mm)
    said = vmf_insert_pfn(w.vma(a), a + PAGE, 0x100001)
    mmap_read_unlock(w.p.mm)
    return said


def longterm_reference(w: World) -> int:
    """What the function that never sleeps says of a reference for long."""
    a = w.p.mmap_anon(1)
    w.p.write(a)
    return w.p.get(a, 1, FOLL_LONGTERM, how="fast_only")[0]


def touched_by_a_longterm_pin(w: World) -> Any:
    """The entry of device memory in a VM_MIXEDMAP after the fast functions have failed to pin it for long."""
    a = w.p.mmap(open_probe(w.m).file("mixed", region="hole"), 1)
    w.p.read(a)
    return w.p.pin(a, 1, FOLL_LONGTERM | FOLL_WRITE, how="fast")[0], w.p.pte(a)


def read_when_dirty(w: World) -> int:
    """The entry of a page that has been stored to by way of an entry that has gone, after a load."""
    file = open_probe(w.m).file("fault_page", region="ram")
    a = w.p.mmap(file, 1)
    w.p.write(a)
    w.p.munmap(a, 1)
    w.p.mmap(file, 1)
    w.p.read(a)
    return w.p.pte(a)


def smaps_of_what_migrates(w: World) -> str:
    """smaps of a page that is under migration."""
    a = w.p.mmap_anon(1)
    w.p.write(a)
    table = w.p.mm.pgd[a >> 21]
    table.put(a, make_migration_entry(pte_pfn(w.p.pte(a)), SWP_MIGRATION_WRITE, w.p.pte(a)))
    return w.p.smaps()


def read_by_another(w: World) -> int:
    """What /proc/PID/mem says of memory that the process itself may not read."""
    return w.p.proc_mem_read(w.p.mmap_anon(1, prot=0))


def held_by_direct_io(w: World) -> Any:
    a = w.p.mmap_anon(1)
    w.p.write(a)
    seen: list[Any] = []
    w.p.direct_io(a, 1, True, during=lambda: seen.extend(folio.peek("holders") for folio in counted(w)))
    return seen


def zero_page_left(w: World) -> int:
    """References to the zero page that are left when a mapping of it has come and gone."""
    iommu = VfioIommu(w.m)
    vfio_dma_do_map(iommu, w.p, 0, w.p.mmap_anon(3), 3 * PAGE, IOMMU_READ)
    vfio_dma_do_unmap(iommu, 0, 3 * PAGE)
    count: int = w.m.zero_page().refcount
    return count


def read_only_bar_for_writing(w: World) -> int:
    """A mapping of a BAR that may only be read, and has been, is mapped for a device that may write."""
    bar = w.p.mmap(w.dev.file, 1, prot=PROT_READ)
    w.p.read(bar)
    return vfio_dma_do_map(VfioIommu(w.m), w.p, 0, bar, PAGE, IOMMU_READ | IOMMU_WRITE)


def own_page(w: World) -> int:
    """A page of its own, on a machine with swap."""
    w.m.swapon()
    a = w.p.mmap_anon(1)
    w.p.write(a)
    return a


def paged_out_and_read(w: World) -> int:
    """The entry of a page that has come back from swap for a load."""
    a = own_page(w)
    w.p.madvise(a, 1, madvise.MADV_PAGEOUT)
    w.p.read(a)
    return w.p.pte(a)


def paged_out_and_copied(w: World) -> Any:
    """What is left in the swap cache of a page that was read, held by somebody, written, and let go."""
    a = own_page(w)
    w.p.madvise(a, 1, madvise.MADV_PAGEOUT)
    w.p.read(a)
    w.p.write(a)
    return [slot.peek("cache") is not None for slot in w.m.swap.slots.values()]


def held_and_paged_out(w: World) -> bool:
    """Does a store find the page that somebody holds?"""
    a = own_page(w)
    before = w.p.pte(a)
    w.p.get(a, 1, holder="somebody")
    w.p.madvise(a, 1, madvise.MADV_PAGEOUT)
    w.p.write(a)
    return w.p.pte(a) >> 12 == before >> 12


def devices_page(w: World) -> int:
    """A page of its own that a device has for itself."""
    a = w.p.mmap_anon(1)
    w.p.write(a)
    pages = Pages("device")
    mmap_read_lock(w.p.mm)
    make_device_exclusive(w.p.mm, a, 1, pages, w)
    mmap_read_unlock(w.p.mm)
    for folio in pages.folios:
        if folio is not None:
            give_back(folio, "references of device")
    return a


def given_to_a_device(w: World) -> int:
    return w.p.pte(devices_page(w))


def driver_page_for_a_device(w: World) -> Any:
    """What a device is told that wants a page for itself that another driver has allocated."""
    folio = new_folio(w.m, DRIVER, "the driver")
    w.char.flags = 0
    w.char.on_mmap = lambda vma: vm_insert_page(vma, vma.vm_start, folio)
    a = w.p.mmap(w.char.file, 1)
    pages = Pages("device")
    mmap_read_lock(w.p.mm)
    got = make_device_exclusive(w.p.mm, a, 1, pages, w)
    mmap_read_unlock(w.p.mm)
    return got, pages.folios


def given_to_a_device_protected_and_read(w: World) -> int:
    """The entry of a page that a device had, and that was read-only for a moment, after a load."""
    a = devices_page(w)
    w.p.mprotect(a, 1, PROT_READ)
    w.p.mprotect(a, 1, PROT_READ | PROT_WRITE)
    w.p.read(a)
    return w.p.pte(a)


def heard_by_a_device(w: World) -> Any:
    """What a device hears when its page is wanted back."""
    heard: list[tuple[int, bool]] = []

    class Listener:
        def invalidate_range_start(self, range: MmuNotifierRange) -> None:
            heard.append((range.event, range.owner is w))

        def invalidate_range_end(self, range: MmuNotifierRange) -> None:
            pass

    a = devices_page(w)
    mmu_notifier_register(Listener(), w.p.mm)
    w.p.write(a)
    return heard


def heard_of_mprotect(w: World) -> Any:
    """What is told of mprotect of memory that nobody has touched, beside memory that has been."""
    heard: list[tuple[str, int, int, int]] = []

    class Listener:
        def invalidate_range_start(self, range: MmuNotifierRange) -> None:
            heard.append(("start", range.event, range.start, range.end))

        def invalidate_range_end(self, range: MmuNotifierRange) -> None:
            heard.append(("end", range.event, range.start, range.end))

    mmu_notifier_register(Listener(), w.p.mm)
    w.p.write(w.p.mmap_anon(1))
    w.p.mprotect(w.p.mmap_anon(2, at="b"), 1, PROT_READ)
    return heard


# -- witnesses --------------------------------------------------------------------------------------------------------
#: a kernel that it is shown on, the alternative to flip to, a case's id or an observation
Witness = tuple[str, str, Any]

WITNESS: dict[tuple[str, str], Witness] = {
    ("change_notify", "by-pmd"): ("v6.1", "by-pud", heard_of_mprotect),
    ("change_notify", "by-pud"): ("v6.12", "by-pmd", heard_of_mprotect),
    ("saved_dirty", "dirty-stays"): ("v6.1", "saved", dirty_and_read_only),
    ("saved_dirty", "saved"): ("v6.12", "dirty-stays", dirty_and_read_only),
    ("vma_flags_write", "unchecked"): ("v6.1 lockdep", "lockdep", "vfio/remap-in-fault"),
    ("vma_flags_write", "lockdep"): ("v6.9", "always", "vfio/remap-in-fault"),
    ("vma_flags_write", "always"): ("v6.10 +revert-unmap-mapping-range", "lockdep", "vfio/remap-in-fault"),
    ("pfnmap_flush", "none"): ("v6.12 +no-pfnmap-flush", "end_vma", "tlb/munmap-vs-disable"),
    ("pfnmap_flush", "end_vma"): ("v6.12", "before_unlink", flushes),
    ("pfnmap_flush", "before_unlink"): ("v6.16", "none", "tlb/munmap-vs-disable"),
    ("fault_lock", "mmap_lock"): ("v5.10", "vma_lock", lock_of_a_huge_fault),
    ("fault_lock", "vma_lock"): ("v6.6", "vma_lock-throughout", "vfio/remap-in-fault/vma-lock"),
    ("fault_lock", "vma_lock-throughout"): ("v6.12 +fault-under-vma-lock", "vma_lock", lock_of_a_fault),
    ("split_for_munmap", "removed-is-new"): ("v6.1", "survivors-are-new", opened_by_munmap),
    ("split_for_munmap", "survivors-are-new"): ("v6.12", "removed-is-new", opened_by_munmap),
    ("dup_mmap", "open-after-copy"): ("v6.1", "open-before-copy", "fork/fork-then-disable"),
    ("dup_mmap", "open-before-copy"): ("deb-6.1.192", "open-after-copy", "fork/fork-then-disable"),
    ("dup_mmap", "link-after-copy"): ("v6.12 +fork-link-after-copy", "open-before-copy", "fork/fork-vs-disable"),
    ("dup_mmap", "link-before-parent"): ("v6.12 +fork-link-before-parent", "open-before-copy", "fork/fork-vs-disable"),
    ("shown_leaf", "unmarked"): ("v5.10", "special", shown_of_a_leaf),
    ("shown_leaf", "special"): ("v6.12", "unmarked", shown_of_a_leaf),
    ("thp_of_special", "any"): ("v6.12", "not-special", shown_of_a_leaf),
    ("thp_of_special", "not-special"): ("v6.1", "any", shown_of_a_leaf),
    ("can_change_pmd_writable", "never"): ("v5.10", "shared-and-dirty", protected_leaf),
    ("can_change_pmd_writable", "shared-and-dirty"): ("v6.12", "never", protected_leaf),
    ("pte_offset_map_lock", "through-leaf"): ("v5.10", "none", inserted_beside_a_leaf),
    ("pte_offset_map_lock", "none"): ("v6.12", "through-leaf", inserted_beside_a_leaf),
    ("pte_offset_map_lock", "unseen"): ("v6.12 +pte-under-leaf", "none", "vfio/huge-handlers/pin-beside-touch"),
    ("vma_adjust_trans_huge", "pmd-only"): ("v6.12", "pud-too", "vfio/split-1g"),
    ("vma_adjust_trans_huge", "pud-too"): ("v6.12 +split-pud-leaf", "pmd-only", "vfio/split-1g"),
    ("copy_huge_pmd", "refilled"): ("v5.10", "special", "fork/huge-leaf"),
    ("copy_huge_pmd", "special"): ("v6.12", "locked", "fork/huge-leaf/vs-disable"),
    ("copy_huge_pmd", "locked"): ("v6.12 +copy-huge-pmd-locked", "special", "fork/huge-leaf/vs-disable"),
    ("copy_huge_pud", "read-only"): ("v5.10", "as-it-is", "fork/huge-leaf/1g"),
    ("copy_huge_pud", "as-it-is"): ("v6.12", "read-only", "fork/huge-leaf/1g"),
    ("can_change_pte_writable", "shared"): ("v5.10", "or-exclusive", copied_and_protected),
    ("can_change_pte_writable", "or-exclusive-and-dirty"): ("v6.1", "or-exclusive", forced_and_protected),
    ("can_change_pte_writable", "or-exclusive"): ("v6.12", "shared", copied_and_protected),
    ("pfnmap_track", "vm_pat"): ("v6.12", "ctx", zapped),
    ("pfnmap_track", "ctx"): ("v6.16", "vm_pat", zapped),
    ("untrack_site", "unmap_single_vma"): ("v6.12", "unmap_vmas", zapped),
    ("untrack_site", "unmap_vmas"): ("v6.12 +untrack-in-unmap-vmas", "unmap_single_vma", zapped),
    ("untrack_clear", "by-lock"): ("v6.12", "asserting", zapped),
    ("untrack_clear", "asserting"): ("v6.12 +untrack-asserts", "by-lock", zapped),
    ("get_pat_info", "walk"): ("v6.1", "walk-not-anon", copied_and_unmapped),
    ("get_pat_info", "walk-not-anon"): ("v6.12", "walk", copied_and_unmapped),
    ("get_pat_info", "walk-under-mmap-lock"): ("v6.10 +untrack-under-mmap-lock", "walk-not-anon", zapped),
    ("follow_pte_assert", "none"): ("v6.9", "mmap_lock", zapped),
    ("follow_pte_assert", "mmap_lock"): ("v6.10", "none", zapped),
    ("follow_pte_assert", "mmap_lock-or-i_mmap"): ("v6.12", "mmap_lock", zapped),
    ("track_pfn_copy", "inherit"): ("deb-5.10.262", "clear-then-set", failed_fork),
    ("track_pfn_copy", "clear-then-set"): ("deb-6.12.117", "inherit", failed_fork),
    ("remap_error", "leave"): ("v6.10", "zap", "pfn/remap-fails/frames-freed"),
    ("remap_error", "zap"): ("v6.12", "leave", "pfn/remap-fails/frames-freed"),
    ("remap_error", "zap-pages"): ("v6.16", "zap", half_a_page_that_fails),
    ("mprotect_account", "kept"): ("v6.1", "given-back", accounted_when_read_only),
    ("mprotect_account", "given-back"): ("v6.12", "kept", accounted_when_read_only),
    ("remap_flags", "with-entries"): ("v6.18", "first", "locks/flags-writers/fault"),
    ("remap_flags", "first"): ("v7.3", "with-entries", "locks/flags-writers/fault"),
    ("madvise_behavior_valid", "to-pageout"): ("v5.10", "to-collapse", populated_in_a_hole),
    ("madvise_behavior_valid", "to-collapse"): ("v6.12", "to-pageout", populated_in_a_hole),
    ("madvise_lock", "mmap_lock"): ("v6.12", "mmap_lock-one-flush", flushed_by_advice),
    ("madvise_lock", "mmap_lock-one-flush"): ("v6.16", "mmap_lock", flushed_by_advice),
    ("madvise_lock", "vma_lock"): ("v6.18", "mmap_lock-one-flush", "locks/dontneed-notifier"),
    ("madvise_behavior_valid", "to-guard"): ("v6.16", "to-collapse", guards_of_a_device),
    ("madvise_pageout_young", "cleared"): ("v6.6", "kept", paged_out_and_young),
    ("madvise_pageout_young", "kept"): ("v6.12", "cleared", paged_out_and_young),
    ("should_zap_folio", "other-mapping"): ("v5.10", "anon", left_mapped),
    ("should_zap_folio", "anon"): ("v6.12", "other-mapping", left_mapped),
    ("mmap_expands", "previous"): ("v6.12", "next", between_two),
    ("mmap_expands", "next"): ("v6.6", "previous", between_two),
    ("is_mergeable_anon_vma", "singular"): ("v6.12", "not-forked", joined_from_below),
    ("is_mergeable_anon_vma", "not-forked"): ("v6.16", "singular", joined_from_below),
    ("mincore_walk", "not-pfnmap"): ("v6.12", "any", in_memory),
    ("mincore_walk", "any"): ("v7.3", "not-pfnmap", in_memory),
    ("expand_in_place", "adjust"): ("v5.10", "merge-or-adjust", grown_where_it_is),
    ("expand_in_place", "merge-or-adjust"): ("deb-6.1.192", "merge", grown_where_it_is),
    ("expand_in_place", "merge"): ("v6.12", "merge-or-adjust", grown_where_it_is),
    ("madvise_populate", "by-vma"): ("v6.1", "from-start", populated_behind_a_hole),
    ("madvise_populate", "from-start"): ("v6.12", "by-vma", populated_behind_a_hole),
    ("find_vma", "unasserted"): ("v5.10", "always", found_without_a_lock),
    ("find_vma", "lockdep"): ("v6.1 lockdep", "unasserted", found_without_a_lock),
    ("find_vma", "always"): ("v6.10", "lockdep", found_without_a_lock),
    ("vma_lookup", "find_vma"): ("v5.19 lockdep", "mtree_load", looked_up_without_a_lock),
    ("vma_lookup", "mtree_load"): ("v6.12", "find_vma", looked_up_without_a_lock),
    ("mremap_dontunmap_locked", "whole"): ("v6.12", "moved-part", locked_part_moved),
    ("mremap_dontunmap_locked", "moved-part"): ("deb-6.12.117", "whole", locked_part_moved),
    ("move_vma", "locked"): ("v6.12", "unlocked", "vfio/mremap-back"),
    ("move_vma", "unlocked"): ("v6.12 +mremap-back-unlocked", "locked", "vfio/mremap-back"),
    ("move_vma", "still-tracked"): ("v6.12 +mremap-back-tracked", "locked", "pat/mremap-fails"),
    ("do_mremap", "target-first"): ("v5.10", "address-first", moved_from_nowhere),
    ("do_mremap", "address-first"): ("v6.12", "target-first", moved_from_nowhere),
    ("do_mremap", "all-first"): ("v6.18", "address-first", moved_onto_itself_from_nowhere),
    ("mremap_dontunmap_anon_vma", "kept"): ("v5.10", "unlinked", left_and_forked),
    ("mremap_dontunmap_anon_vma", "unlinked"): ("v6.1", "kept", left_and_forked),
    ("mremap_dontunmap", "anonymous"): ("v5.10", "not-pfnmap", moved_and_left),
    ("mremap_dontunmap", "not-pfnmap"): ("v6.1", "anonymous", moved_and_left),
    ("madvise_dofork", "not-io"): ("v6.12", "not-special", inherited_again),
    ("madvise_dofork", "not-special"): ("v7.3", "not-io", inherited_again),
    ("memtype_match", "exact-or-tail"): ("v6.12", "exact", tail_given_back),
    ("memtype_match", "exact"): ("v6.16", "exact-or-tail", tail_given_back),
    ("pgprot_combine", "or"): ("v6.12", "replace", write_combining_over_noncached),
    ("pgprot_combine", "replace"): ("v6.16", "or", write_combining_over_noncached),
    ("mmap_replace", "freed-first"): ("v6.1", "freed-last", replaced_and_looked_at),
    ("mmap_replace", "freed-last"): ("v6.16", "freed-first", replaced_with_another_type),
    ("vm_mixed_ok", "bug"): ("v6.1", "sigbus", mixed_into_pfnmap),
    ("vm_mixed_ok", "sigbus"): ("v6.12", "bug", mixed_into_pfnmap),
    ("huge_pgprot", "as-4k"): ("v6.12", "shifted", "pat/huge-leaf-type"),
    ("huge_pgprot", "shifted"): ("v6.12 +pat-large-shift", "as-4k", "pat/huge-leaf-type"),
    ("pud_insert_prot", "vma"): ("v6.12", "lookup", "pat/pud-insert"),
    ("pud_insert_prot", "lookup"): ("v6.18", "vma", "pat/pud-insert"),
    ("copy_present_page", "pinned"): ("v5.10", "exclusive-and-pinned", shared_got_and_forked),
    ("copy_present_page", "exclusive-and-pinned"): ("v6.12", "pinned", shared_got_and_forked),
    ("write_protect_seq", "unseen"): ("v5.10", "seqcount", "gup/fork/fast"),
    ("write_protect_seq", "seqcount"): ("v6.12", "unseen", "gup/fork/fast"),
    ("wp_can_reuse_anon_folio", "sole-reference"): ("v5.10", "exclusive", written_while_held),
    ("wp_can_reuse_anon_folio", "exclusive"): ("v6.12", "sole-reference", "gup/pin-then-write"),
    ("fault_unshare", "anon"): ("v6.12 +unshare-anon-only", "any", "gup/unshare"),
    ("fault_unshare", "any"): ("v6.12", "anon", "gup/unshare"),
    ("wp_page_copy", "left"): ("v5.10", "freed", paged_out_and_copied),
    ("wp_page_copy", "freed"): ("v5.14", "left", paged_out_and_copied),
    ("do_swap_page", "reuse_swap_page"): ("v5.10", "exclusive", held_and_paged_out),
    ("do_swap_page", "exclusive"): ("v6.1", "exclusive-writable", paged_out_and_read),
    ("do_swap_page", "exclusive-writable"): ("v6.12", "exclusive", paged_out_and_read),
    ("shrink_folio_list", "any"): ("v5.10", "not-pinned", "gup/swapped/pinned"),
    ("shrink_folio_list", "not-pinned"): ("v5.14", "any", "gup/swapped/pinned"),
    ("folio_try_share_anon_rmap_pte", "unmarked"): ("v5.14", "exclusive", "gup/swapped/beside"),
    ("folio_try_share_anon_rmap_pte", "exclusive"): ("v6.12", "unmarked", "gup/swapped/beside"),
    ("make_device_exclusive", "absent"): ("v5.10", "range", driver_page_for_a_device),
    ("make_device_exclusive", "range"): ("v6.12", "single", driver_page_for_a_device),
    ("make_device_exclusive", "single"): ("v6.16", "range", "gup/device-exclusive/replaced"),
    ("make_device_exclusive_entry", "two-types"): ("v6.12", "one-type", given_to_a_device),
    ("make_device_exclusive_entry", "one-type"): ("v6.16", "two-types", given_to_a_device),
    ("remove_device_exclusive_entry", "unreferenced"): ("v6.1", "referenced", "gup/device-exclusive/fault-vs-zap"),
    ("remove_device_exclusive_entry", "referenced"): ("v6.12", "unreferenced", "gup/device-exclusive/fault-vs-zap"),
    ("remove_device_exclusive_entry", "referenced-clear"): ("v7.3", "referenced", heard_by_a_device),
    ("restore_exclusive_pte", "by-type"): ("v6.12", "by-vma", given_to_a_device_protected_and_read),
    ("restore_exclusive_pte", "by-vma"): ("v6.16", "by-type", given_to_a_device_protected_and_read),
    ("memalloc_pin_save", "no-cma"): ("v5.10", "unmovable", pinned_in_zone_movable),
    ("memalloc_pin_save", "unmovable"): ("v6.1", "no-cma", pinned_in_zone_movable),
    ("writable_file_mapping_allowed", "any"): ("v6.1", "untracked", pinned_with_mkwrite),
    ("writable_file_mapping_allowed", "untracked"): ("v6.12", "any", pinned_with_mkwrite),
    ("gup_must_unshare", "never"): ("v5.10", "anon", pinned_while_shared),
    ("gup_must_unshare", "anon"): ("v6.1", "never", "gup/pin-then-write/shared"),
    ("gup_must_unshare", "or-longterm"): ("v6.12", "anon", "gup/pin-then-write"),
    ("can_follow_write_pte", "foll-cow"): ("v5.10", "exclusive", forced_into_a_held_page),
    ("can_follow_write_pte", "exclusive"): ("v6.1", "foll-cow", forced_into_a_held_page),
    ("follow_pfn_pte", "slot-left"): ("v5.10", "eexist", "gup/special-entry/process-vm-readv"),
    ("follow_pfn_pte", "eexist"): ("v6.1", "slot-left", "gup/special-entry/process-vm-readv"),
    ("try_grab_folio", "counted"): ("v6.1", "not-counted", "gup/zero-page/short"),
    ("try_grab_folio", "not-counted"): ("deb-6.1.192", "counted", "gup/zero-page/short"),
    ("__gup_longterm_locked", "best-effort"): ("v5.10 CMA", "until-isolated", "gup/isolated-page/driver"),
    ("__gup_longterm_locked", "until-isolated"): ("deb-5.10.262 CMA", "repeat", "gup/isolated-page/driver-killed"),
    ("__gup_longterm_locked", "repeat"): ("v6.0 CMA", "errno", "gup/isolated-page/driver"),
    ("__gup_longterm_locked", "errno"): ("v6.0 +longterm-isolation-errno CMA", "repeat", "gup/isolated-page"),
    ("__gup_longterm_locked", "eagain"): ("v6.12 CMA", "list-empty", "gup/isolated-page/driver"),
    ("__gup_longterm_locked", "list-empty"): ("v6.14 CMA", "eagain", "gup/isolated-page"),
    ("is_longterm_pinnable", "not-cma"): ("v5.10 CMA", "zero-too", pinnable),
    ("is_longterm_pinnable", "zero-too"): ("v5.14 +zero-page-not-excepted", "or-zero", "gup/zero-page/movable"),
    ("is_longterm_pinnable", "or-zero"): ("v5.14 CMA", "zero-again", pinnable),
    ("is_longterm_pinnable", "zero-negated"): ("v5.19-rc1", "zero-again", "gup/zero-page"),
    ("is_longterm_pinnable", "zero-again"): ("v5.19", "zero-negated", "gup/zero-page"),
    ("is_longterm_pinnable", "zero-negated-again"): ("v6.0-rc1", "in-steps", "gup/zero-page"),
    ("is_longterm_pinnable", "in-steps"): ("v6.1", "zero-again", pinnable),
    ("is_longterm_pinnable", "only-zero"): ("v6.0 +pinnable-in-stages", "in-steps", "gup/pinnable"),
    ("get_user_pages_fast_only", "never-negative"): ("v6.1", "errno", longterm_reference),
    ("get_user_pages_fast_only", "errno"): ("v6.12", "never-negative", longterm_reference),
    ("__gup_longterm_unlocked", "not-longterm"): ("v6.1", "always", touched_by_a_longterm_pin),
    ("__gup_longterm_unlocked", "always"): ("v6.12", "not-longterm", touched_by_a_longterm_pin),
    ("set_pte_range", "clean"): ("v6.12", "as-the-page", read_when_dirty),
    ("set_pte_range", "as-the-page"): ("v7.3", "clean", read_when_dirty),
    ("proc_mem_foll_force", "always"): ("v7.3", "ptrace", read_by_another),
    ("proc_mem_foll_force", "ptrace"): ("deb-7.3.4", "always", read_by_another),
    ("gup_fast_fallback", "nothing"): ("v6.1", "eoverflow", wrapped_round),
    ("gup_fast_fallback", "eoverflow"): ("v6.12", "nothing", wrapped_round),
    ("longterm_unlockable", "refused"): ("v6.1", "allowed", pinned_for_long_unlocked),
    ("longterm_unlockable", "allowed"): ("v6.12", "refused", pinned_for_long_unlocked),
    ("gup_fast_pmd_leaf", "taken"): ("v5.10", "special", huge_leaf_by_fast_path),
    ("gup_fast_pmd_leaf", "special"): ("v6.12", "taken", huge_leaf_by_fast_path),
    ("gup_fast_folio_allowed", "any"): ("v6.1", "of-a-mapping-longterm", driver_page_by_fast_path),
    ("gup_fast_folio_allowed", "of-a-mapping"): ("v6.12", "any", driver_page_by_fast_path),
    ("gup_fast_folio_allowed", "of-a-mapping-longterm"): ("v6.6", "of-a-mapping", driver_page_by_fast_path),
    ("iov_iter_extract_pages", "get"): ("v6.1", "pin", held_by_direct_io),
    ("iov_iter_extract_pages", "pin"): ("v6.6", "get", held_by_direct_io),
    ("vaddr_get_pfns", "kept"): ("v5.10", "given-back", zero_page_left),
    ("vaddr_get_pfns", "given-back"): ("v6.1", "kept", zero_page_left),
    ("vfio_pin_pages_remote", "one-by-one"): ("v5.10", "batches", zero_page_left),
    ("vfio_pin_pages_remote", "batches"): ("v5.14", "one-by-one", zero_page_left),
    ("vfio_pin_pages_remote", "batches-kept"): ("v6.16", "batches", pages_looked_up),
    ("follow_fault_pfn", "any"): ("v5.10", "writable", read_only_bar_for_writing),
    ("follow_fault_pfn", "writable"): ("v6.12", "any", read_only_bar_for_writing),
    ("vfio_find_dma", "exclusive-end"): ("v6.12", "last-byte", "vfio/type1-unmap/top"),
    ("vfio_find_dma", "last-byte"): ("v6.18", "exclusive-end", "vfio/type1-unmap/up-to-the-top"),
    ("vfio_iommu_type1_unmap_dma", "dirty-bitmap"): ("v5.10", "all-and-vaddr", "vfio/type1-unmap/all"),
    ("vfio_iommu_type1_unmap_dma", "all-and-vaddr"): ("v6.1", "dirty-bitmap", "vfio/type1-unmap/all"),
    ("vfio_dma_do_unmap", "who-mapped"): ("v5.10", "anybody", "vfio/type1-unmap/another-process"),
    ("vfio_dma_do_unmap", "anybody"): ("v6.1", "who-mapped", "vfio/type1-unmap/another-process"),
    ("prep_move_vma", "not-asked"): ("v5.10", "may_split", "pfn/driver-hooks/may-split"),
    ("prep_move_vma", "may_split"): ("v6.1", "not-asked", "pfn/driver-hooks/may-split"),
    ("do_mprotect_pkey", "not-asked"): ("v5.10", "asked", "pfn/driver-hooks/mprotect"),
    ("do_mprotect_pkey", "asked"): ("v6.1", "not-asked", "pfn/driver-hooks/mprotect"),
    ("generic_access_phys", "unlocked"): ("v5.10", "looked-at-again", "pfn/debugger"),
    ("generic_access_phys", "looked-at-again"): ("v6.1", "unlocked", "pfn/debugger"),
    ("generic_access_phys", "one-page"): ("v7.3", "looked-at-again", "pfn/debugger/next-frame"),
    ("show_smap_vma_flags", "nameless"): ("v6.1", "lf", smaps_of_lock_on_fault),
    ("show_smap_vma_flags", "lf"): ("v6.6", "nameless", smaps_of_lock_on_fault),
    ("smaps_account", "as-mapped"): ("v6.1", "maybe-shared", smaps_of_what_migrates),
    ("smaps_account", "maybe-shared"): ("v6.12", "as-mapped", smaps_of_what_migrates),
    ("vfio_pci", "v5.8"): ("v5.10", "v5.14", listed_twice),
    ("vfio_pci", "v5.14"): ("v6.1", "v5.8", listed_twice),
    ("vfio_pci", "v6.9"): ("v6.9", "v5.14", letters_of_a_bar),
    ("vfio_pci", "v6.10"): ("v6.10", "v6.9", "vfio/remap-in-fault"),
    ("vfio_pci", "v6.12"): ("v6.12", "v6.13", "vfio/huge-handlers"),
    ("vfio_pci", "v6.13"): ("v6.14", "v6.15", "vfio/huge-handlers/pin-beside-touch"),
    ("vfio_pci", "v6.15"): ("deb-6.12.117", "v6.13", "vfio/huge-handlers/pin-beside-touch"),
    ("vfio_pci", "write-lock-in-fault"): (
        "v6.1 +write-lock-in-fault", "write-lock-in-fault-revalidate", "vfio/write-lock-in-fault",
    ),
    ("vfio_pci", "write-lock-in-fault-revalidate"): (
        "v6.1 +write-lock-in-fault-revalidate", "write-lock-in-fault", "vfio/write-lock-in-fault",
    ),
    ("vfio_pci", "insert-loop"): ("v6.6 +insert-loop lockdep", "v5.14", "vfio/remap-in-fault"),
    ("vfio_pci", "populate-in-mmap"): ("v6.12 +populate-in-mmap", "v6.12", "vfio/populate-in-mmap"),
    ("vfio_pci", "cond-remap"): ("v6.12 +cond-remap", "v6.12", filled_by_mmap),
    ("vfio_pci", "manual-track"): ("v6.12 +manual-track", "cond-remap", "pat/manual-track"),
    ("vfio_pci", "write-combining"): ("v6.12 +write-combining", "v6.12", "pat/insert-ignores-prot/vfio"),
    ("vfio_pci", "remap-on-enable-as-posted"): (
        "v6.12 +remap-on-enable-as-posted", "remap-on-enable", "vfio/remap-on-enable-as-posted/beside-mmap",
    ),
    ("vfio_pci", "remap-then-zap"): ("v6.12 +remap-then-zap", "v6.12", "pat/remap-then-zap/window"),
    ("vfio_pci", "remap-on-enable-mmgrab-remap"): (
        "v6.12 +remap-on-enable-mmgrab-remap", "remap-on-enable-mmgrab", "vfio/remap-on-enable/exit",
    ),
    ("vfio_pci", "populate-in-mmap-listed"): ("v6.6 +populate-in-mmap-listed", "v5.14", filled_by_mmap),
    ("vfio_pci", "populate-after-link"): (
        "v6.12 +populate-after-link", "populate-after-link-check-early", "vfio/populate-in-mmap",
    ),
    ("vfio_pci", "populate-after-link-check-early"): (
        "v6.12 +populate-after-link-check-early", "populate-after-link", "vfio/populate-in-mmap",
    ),
    ("vfio_pci", "remap-on-enable"): (
        "v6.12 +remap-on-enable", "remap-on-enable-no-revalidate", "vfio/remap-on-enable/disable",
    ),
    ("vfio_pci", "remap-on-enable-mmgrab"): (
        "v6.12 +remap-on-enable-mmgrab", "remap-on-enable", "vfio/remap-on-enable/exit",
    ),
    ("vfio_pci", "remap-on-enable-hold-memory-lock"): (
        "v6.12 +remap-on-enable-hold-memory-lock", "remap-on-enable", "vfio/remap-on-enable/lock-order",
    ),
    ("vfio_pci", "remap-on-enable-no-revalidate"): (
        "v6.12 +remap-on-enable-no-revalidate", "remap-on-enable", "vfio/remap-on-enable/disable",
    ),
    ("vfio_pci", "remap-on-enable-under-i_mmap"): (
        "v6.12 +remap-on-enable-under-i_mmap", "remap-on-enable", "vfio/remap-on-enable/exit",
    ),
    ("vfio_pci", "remap-on-enable-page0"): (
        "v6.10 +remap-on-enable-page0", "remap-on-enable", "vfio/remap-on-enable/partial",
    ),
    ("vfio_pci", "remap-on-enable-no-check"): (
        "v6.12 +remap-on-enable-no-check", "remap-on-enable", "vfio/remap-on-enable/partial",
    ),
    ("vfio_pci", "copy-user-under-memory-lock"): (
        "v6.12 +copy-user-under-memory-lock", "v6.12", "vfio/copy-under-memory-lock",
    ),
    ("vfio_pci", "blocking-hot-reset"): ("v6.12 +blocking-hot-reset", "v6.12", "vfio/hot-reset/blocking"),
    ("vfio_pci", "zap-first-bar"): ("v6.12 +zap-first-bar", "v6.12", "vfio/second-bar"),
    ("vfio_pci", "blocking-hot-reset-vma-list"): (
        "v6.1 +blocking-hot-reset-vma-list", "v5.14", "vfio/hot-reset/busy/blocking",
    ),
}  # fmt: skip


def flipped(kernel: Kernel, seam: str, choice: str) -> Kernel:
    """The same kernel with another choice at one seam, whether or not any release or patch has it so."""
    return replace(kernel, choices={**kernel.choices, seam: choice}, resolved={})


def answer(case: Any, kernel: Kernel) -> frozenset[tuple[str, str]]:
    """What a case finds on a kernel: (always or sometimes, name), of what it asks about."""
    contexts: list[Machine] = []

    def build() -> Setup:
        machine = Machine(kernel)
        contexts[:] = [machine]
        case.build(machine)
        return machine.setup()

    results = make_engine(case.engine or "dpor", build, 5_000).run()
    tolerated = getattr(contexts[0], "tolerated", ())
    return frozenset(
        ("always" if found.executions == results.counts.complete else "sometimes", found.finding.name)
        for found in results.found.values()
        if is_asked(case, found.finding, tolerated)
    )


def test_every_alternative_has_a_witness() -> None:
    everything = {(seam.name, name) for seam in policy.SEAMS.values() for name in seam.alternatives}
    assert everything == set(WITNESS), "survivors: " + ", ".join(map("/".join, sorted(everything ^ set(WITNESS))))


@pytest.mark.parametrize("what", WITNESS, ids="/".join)
def test_every_alternative_matters(what: tuple[str, str]) -> None:
    seam, name = what
    spec, other, shown_by = WITNESS[what]
    kernel = eras.kernel(spec)
    assert kernel.choices[seam] in (name, *policy.SEAMS[seam].alternatives)
    with_it, without = flipped(kernel, seam, name), flipped(kernel, seam, other)
    if isinstance(shown_by, str):
        case = CASES[shown_by]
        assert answer(case, with_it) != answer(case, without)
    else:
        pages = 512 if shown_by is lock_of_a_huge_fault else 4
        assert observe(with_it, shown_by, pages) != observe(without, shown_by, pages)


@pytest.mark.parametrize("what", WITNESS, ids="/".join)
def test_the_witness_is_a_kernel_that_has_it(what: tuple[str, str]) -> None:
    """The difference is shown on a kernel that makes the choice, not on one that could."""
    seam, name = what
    assert eras.kernel(WITNESS[what][0]).choices[seam] == name


# -- configuration ----------------------------------------------------------------------------------------------------
def without(option: str, spec: str) -> Kernel:
    kernel = eras.kernel(spec)
    return replace(kernel, config=kernel.config - {option}, resolved={})


def test_every_option_matters() -> None:
    from mmlitmus.kernel.config import OPTIONS

    def executable(w: World) -> Any:
        return w.p.mmap(w.dev.file, 1, prot=5)

    def vma_is_locked(w: World) -> Any:
        w.bar(1)
        w.p.mprotect(w(0), 1, 1)
        return w.vma(w(0)).peek("vm_lock_seq")

    def by_the_fast_path_alone(w: World) -> int:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        return w.p.get(a, 1, how="fast_only")[0]

    def of_a_mixedmap(w: World) -> int:
        folio = new_folio(w.m, DRIVER, "the driver")
        w.char.flags = VM_MIXEDMAP
        w.char.on_fault = lambda vmf: vmf_insert_mixed(vmf.vma, vmf.address, folio.pfn)
        return w.p.get(w.p.mmap(w.char.file, 1), 1)[0]

    def empty_table_goes(w: World) -> int:
        a = w.p.mmap_anon(512)
        w.p.write(a)
        w.p.madvise(a, 512, madvise.MADV_DONTNEED)
        return w.p.munmap(a, 512)

    without_special = observe(eras.kernel("v6.12 NO_PTE_SPECIAL"), by_the_fast_path_alone)
    assert without_special == observe(eras.kernel("v6.12 NO_GUP_FAST"), by_the_fast_path_alone)
    shown = {
        "CMA": answer(CASES["gup/isolated-page/driver"], eras.kernel("v6.12 CMA"))
        != answer(CASES["gup/isolated-page/driver"], eras.kernel("v6.12")),
        "lockdep": answer(CASES["vfio/remap-in-fault"], eras.kernel("v6.6 lockdep"))
        != answer(CASES["vfio/remap-in-fault"], eras.kernel("v6.6")),
        "DEVICE_PRIVATE": observe(eras.kernel("deb-6.12.117 DEVICE_PRIVATE"), given_to_a_device)
        != observe(eras.kernel("deb-6.12.117"), given_to_a_device),
        "PT_RECLAIM": observe(eras.kernel("v6.16"), empty_table_goes)
        != observe(without("PT_RECLAIM", "v6.16"), empty_table_goes),
        "PER_VMA_LOCK": observe(eras.kernel("v6.12"), vma_is_locked)
        != observe(without("PER_VMA_LOCK", "v6.12"), vma_is_locked),
        "ANON_INODE_NOEXEC": observe(eras.kernel("v6.16"), executable)
        != observe(without("ANON_INODE_NOEXEC", "v6.16"), executable),
        "NO_GUP_FAST": observe(eras.kernel("v6.12 NO_GUP_FAST"), by_the_fast_path_alone)
        != observe(eras.kernel("v6.12"), by_the_fast_path_alone),
        "NO_PTE_SPECIAL": observe(eras.kernel("v6.12 NO_PTE_SPECIAL"), of_a_mixedmap)
        != observe(eras.kernel("v6.12"), of_a_mixedmap),
    }
    assert shown == dict.fromkeys(OPTIONS, True)


def test_the_tests_eras_are_all_there_are() -> None:
    """``world.ERAS`` has one release for each combination of choices and config."""
    first: dict[Any, str] = {}
    for release in eras.releases():
        kernel = eras.kernel(release)
        first.setdefault((tuple(sorted(kernel.choices.items())), kernel.config), release)
    assert list(ERAS) == list(first.values())


# -- rows and patches -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("release", EVERY)
def test_a_release_resolves_every_seam(release: str) -> None:
    kernel = eras.kernel(release)
    assert set(kernel.choices) == set(policy.SEAMS) == set(policy.HOMES)
    for name, seam in policy.SEAMS.items():
        assert kernel.choices[name] in seam.alternatives
        assert callable(kernel.chosen(seam))
    row = eras.RELEASES[release]
    assert row.evidence in ("recorded", "source", "dossier")
    assert row.why
    assert row.based_on is None or EVERY.index(row.based_on) < EVERY.index(release)


@pytest.mark.parametrize("name", eras.PATCHES)
def test_a_patch_applies_here_and_not_there(name: str) -> None:
    """It makes its choices where it applies; elsewhere the text says why not."""
    patch = eras.PATCHES[name]
    assert patch.subject
    assert patch.fate
    applies, refused = [], []
    for release in EVERY:
        try:
            kernel = eras.kernel(f"{release} +{name}")
        except NotApplicable as e:
            refused.append((f"+{name} does not apply to {release}", str(e)))
            continue
        applies.append(release)
        assert kernel.choices == {**eras.choices_of(release), **patch.choices}
        assert kernel.choices != eras.choices_of(release)
        assert kernel.spec == f"{release} +{name}"
    assert applies
    for what, text in refused:
        assert text.startswith(what + ": ")
        assert len(text) > len(what) + 20
    if set(patch.over) == {"vfio_pci"}:
        assert refused


def test_two_patches_at_one_seam() -> None:
    with pytest.raises(KernelSpecError, match="choose one"):
        eras.kernel("v6.12 +populate-in-mmap +remap-on-enable")
    both = eras.kernel("v6.1 +fork-defer-link +unmap-mapping-range")
    assert both.choices["dup_mmap"] == "open-before-copy"
    assert both.choices["vfio_pci"] == "v6.10"


@pytest.mark.parametrize("spec", ["", "v6.11", "v6.12 +nothing", "v6.12 PER_VMA_LOCK", "v6.12 kasan"])
def test_no_such_kernel(spec: str) -> None:
    with pytest.raises(KernelSpecError):
        eras.kernel(spec)


def test_every_alternative_says_where_it_was_read() -> None:
    for seam in policy.SEAMS.values():
        assert seam.about
        for alternative in seam.alternatives.values():
            assert alternative.source, alternative.name
            assert alternative.releases, alternative.name
            assert alternative.does.__doc__, f"{seam.name}/{alternative.name} has no docstring"
        assert inspect.getmodule(next(iter(seam.alternatives.values())).does) is not None


def test_a_proposal_is_no_release_and_a_release_no_proposal() -> None:
    """What an alternative says about releases agrees with the rows."""
    shipped = {(s, c) for r in EVERY for s, c in eras.choices_of(r).items()}
    for seam in policy.SEAMS.values():
        for alternative in seam.alternatives.values():
            never = alternative.releases in ("never", "proposal")
            assert never != ((seam.name, alternative.name) in shipped), f"{seam.name}/{alternative.name}"


# -- the source -------------------------------------------------------------------------------------------------------
def modules() -> list[str]:
    return [m.name for m in walk_packages([str(MODEL)], "mmlitmus.kernel.")]


@pytest.mark.parametrize("module", modules())
def test_every_public_function_says_what_it_does(module: str) -> None:
    tree = ast.parse(Path(import_module(module).__file__ or "").read_text())
    missing = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef) and (node.name in INHERITED or nested(tree, node)):
            continue
        if ast.get_docstring(node) is None:
            missing.append(f"{node.name}:{node.lineno}")
    assert not missing
    assert ast.get_docstring(tree)


#: operations whose meaning their base class documents
INHERITED = {
    "fault", "open", "close", "mmap", "object_name", "down_write_memory_lock", "populate", "read_register",
    "hot_reset_zap", "hot_reset_lock", "hot_reset_unlock", "bar_page_prot", "mmap_disabled", "fits",
}  # fmt: skip


def nested(tree: ast.Module, node: ast.FunctionDef) -> bool:
    """Is the function defined inside another one?"""
    return any(
        node in ast.walk(outer) and node is not outer for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef)
    )


@pytest.mark.parametrize("module", modules())
def test_kernel_code_reads_like_kernel_code(module: str) -> None:
    """No try, no with, no yield but in iterators, no raise of an errno; no version test outside eras and patches."""
    path = Path(import_module(module).__file__ or "")
    text = path.read_text()
    if path.stem in ("eras", "patches", "policy", "machine", "config", "errno"):
        return
    tree = ast.parse(text)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    loops = [n for n in functions if n.returns and "Iterator[" in ast.unparse(n.returns)]
    loop_lines = {line for n in loops for line in range(n.lineno, (n.end_lineno or 0) + 1)}
    bad = [
        f"{type(node).__name__}:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, (ast.Try, ast.With, ast.Yield, ast.YieldFrom, ast.AsyncFunctionDef))
        and not (isinstance(node, (ast.Yield, ast.YieldFrom)) and node.lineno in loop_lines)
    ]
    assert not bad
    assert not re.search(r"\.release\b", text)
    assert len(text.splitlines()) < 600


# -- findings ---------------------------------------------------------------------------------------------------------
def asked_names() -> set[str]:
    return {name for case in CASES.values() for name in case.asks} | expected_somewhere()


def expected_somewhere() -> set[str]:
    return {name for case in CASES.values() for e in case.expect.values() for name in e.names}


def free_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmlitmus.kernel.mm import mmap

    real = mmap.remove_vma

    def remove_vma(vma: Any, unreachable: bool) -> None:
        real(vma, unreachable=True)
        vma.free()

    monkeypatch.setattr(mmap, "remove_vma", remove_vma)


def nobody_is_asked(hook: str, ops: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Of the operations of a case's driver, one that is not heeded."""

    def ignore(monkeypatch: pytest.MonkeyPatch) -> None:
        from mmlitmus.cases.pfn import driver_hooks

        monkeypatch.setattr(getattr(driver_hooks, ops), hook, None)

    return ignore


def first_stores_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmlitmus.kernel.mm import memory_mkwrite

    def do_page_mkwrite(vmf: Any, folio: Any) -> int:
        memory_mkwrite.folio_lock(folio.lock)
        return int(memory_mkwrite.VM_FAULT_LOCKED)

    monkeypatch.setattr(memory_mkwrite, "do_page_mkwrite", do_page_mkwrite)


def access_without_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmlitmus.cases.pfn import debugger

    monkeypatch.setattr(debugger, "generic_access_phys", lambda vma, address, length, write: length)


def remap_in_mmap(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmlitmus.kernel.drivers.vfio.pci import VfioPciCoreDevice
    from mmlitmus.kernel.mm.memory import remap_pfn_range

    real = VfioPciCoreDevice.mmap

    def mmap(self: Any, file: Any, one: Any) -> int:
        size = one.vm_end - one.vm_start
        return real(self, file, one) or remap_pfn_range(one, one.vm_start, self.vma_to_pfn(one), size, one.vm_page_prot)

    monkeypatch.setattr(VfioPciCoreDevice, "mmap", mmap)


def put_the_context_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmlitmus.kernel.mm import pfnmap_track

    real = pfnmap_track.TrackCtx.area_free

    def area_free(one: Any) -> None:
        real(one)
        real(one)

    monkeypatch.setattr(pfnmap_track.TrackCtx, "area_free", staticmethod(area_free))


#: names that no kernel of the cases' own trips: a case, a kernel, and how that kernel is broken
BROKEN: dict[str, tuple[str, str, Callable[[pytest.MonkeyPatch], None]]] = {
    "double free": ("locks/rmap-zap-vs-munmap", "v6.12", free_twice),
    "not-heard": ("pfn/page-mkwrite", "v6.12", first_stores_unheard),
    "split-allowed": ("pfn/driver-hooks/may-split", "v6.12", nobody_is_asked("may_split", "OnePiece")),
    "moved": ("pfn/driver-hooks/mremap", "v6.12", nobody_is_asked("mremap", "Unmoved")),
    "read-although-revoked": ("pfn/debugger", "v6.12", access_without_an_entry),
    "vm-pat-in-mmap": ("vfio/vm-pat", "v6.12", remap_in_mmap),
    "use-after-free PfnmapTrackCtx": ("locks/untrack-walk/munmap", "v6.16", put_the_context_twice),
}


def test_every_name_that_a_case_asks_about_is_tripped_somewhere() -> None:
    assert asked_names() - expected_somewhere() == set(BROKEN)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_trips_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    id, spec, break_it = BROKEN[name]
    assert name not in {n for _, n in answer(CASES[id], eras.kernel(spec))}
    break_it(monkeypatch)
    assert name in {n for _, n in answer(CASES[id], eras.kernel(spec))}


def reported_names() -> set[str]:
    """The names that kernel/ and invariants/ give to their own findings."""
    names = set()
    for path in [*MODEL.rglob("*.py"), *(MODEL.parent / "invariants").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = {"report": 1, "bug": 0, "Finding": 1}.get(node.func.id)
                if at is not None and len(node.args) > at and isinstance(node.args[at], ast.Constant):
                    names.add(node.args[at].value)
    return names


def test_every_finding_of_the_model_is_tripped_in_some_test() -> None:
    here = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    silent = [n for n in sorted(reported_names()) if n not in expected_somewhere() and f'"{n}"' not in here]
    assert not silent
    assert PAGE == 4096
