"""Another's access to a process's memory: page by page where there are pages, by the driver's ->access where there are
none. The kernel's own ->access for device memory maps the frame for itself, and copies.

What is copied is not modelled; which frames are reached is. Source: mm/memory.c, functions of the same name. Of the
model's own: copy_if_it_stays, map_io.
"""

from __future__ import annotations

from mmlitmus.explore.findings import reached
from mmlitmus.explore.runtime import current, loop_point
from mmlitmus.kernel.arch.x86.ioremap import IoMapping, ioremap_prot, iounmap
from mmlitmus.kernel.arch.x86.pgtable import (
    NONE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PUD_SHIFT,
    RW,
    TABLE,
    mk_pte,
    pmd_leaf,
    pmd_offset,
    pte_offset_map_lock,
    pte_pfn,
    pte_present,
    ptep_get,
    pud_leaf,
    pud_offset,
    small_page,
)
from mmlitmus.kernel.errno import EINVAL, ENOMEM
from mmlitmus.kernel.mm.gup import FOLL_WRITE, Pages, put_pages, set_pages_dirty
from mmlitmus.kernel.mm.gup_fast import get_user_pages_remote
from mmlitmus.kernel.mm.memory_pages import vm_normal_page
from mmlitmus.kernel.mm.mm_types import VM_IO, VM_PFNMAP, MmStruct, VmArea
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock
from mmlitmus.kernel.mm.vma import vma_lookup
from mmlitmus.kernel.policy import Seam
from mmlitmus.kernel.sync.spinlock import Spinlock, spin_lock, spin_unlock

access_phys = Seam("generic_access_phys", "how the kernel copies device memory for another, and who it races with")


def __access_remote_vm(mm: MmStruct, address: int, length: int, flags: int) -> int:
    """Copy ``length`` bytes at ``address`` of another's memory, to it with FOLL_WRITE: how many could be copied.

    What get_user_pages does not have, the driver may: its ->access(vma, address, length, write) says how many bytes it
    has copied, which need not be all.
    """
    done = 0
    mmap_read_lock(mm)
    while done < length:
        loop_point(mm, address, length, flags, done)
        at = address + done
        pages = Pages(f"ptrace by {current().name}")
        got = get_user_pages_remote(mm, at, 1, flags, pages)
        if got > 0:
            if flags & FOLL_WRITE:
                set_pages_dirty(pages)
            put_pages(pages)
            done += min(length - done, PAGE_SIZE - (at & PAGE_SIZE - 1))
            continue
        vma = vma_lookup(mm, at)
        if vma is None or vma.vm_ops.access is None:
            break
        copied: int = vma.vm_ops.access(vma, at, length - done, bool(flags & FOLL_WRITE))
        if copied <= 0:
            break
        done += copied
    mmap_read_unlock(mm)
    return done


def follow_pfnmap_start(vma: VmArea, address: int) -> tuple[int, int, Spinlock | None]:
    """The entry for ``address``, as one of a 4K page, and its lock, which is held: (0, entry, lock), or (-EINVAL, 0,
    None) where nothing is mapped. The lock keeps whoever empties the entry waiting.

    Source: mm/memory.c follow_pte (to 6.1), follow_pfnmap_start (from 6.12).
    """
    pud = pud_offset(vma.vm_mm, address)
    upper = TABLE if pud is None else pud.entry
    if pud is not None and pud_leaf(upper):
        spin_lock(pud.pud_lock)
        if pud_leaf(pud.entry):
            return 0, small_page(pud.entry, PUD_SHIFT, address), pud.pud_lock
        spin_unlock(pud.pud_lock)
        return -EINVAL, 0, None
    table = pmd_offset(vma.vm_mm, address)
    pmd = table.entry if upper != NONE else NONE
    if pmd_leaf(pmd):
        spin_lock(table.pmd_lock)
        if pmd_leaf(table.entry):
            return 0, small_page(table.entry, PMD_SHIFT, address), table.pmd_lock
        spin_unlock(table.pmd_lock)
        return -EINVAL, 0, None
    if pmd == NONE:
        return -EINVAL, 0, None
    ptl = pte_offset_map_lock(table)
    entry = ptep_get(table, address) if table.entry != NONE else NONE
    if not pte_present(entry):
        spin_unlock(ptl)
        return -EINVAL, 0, None
    return 0, entry, ptl


def generic_access_phys(vma: VmArea, address: int, length: int, write: bool) -> int:
    """An ->access for device memory: how many of ``length`` bytes were copied, or an errno. Faults nothing in. Holds
    mmap_lock R.
    """
    if not vma.has(VM_IO | VM_PFNMAP):
        return -EINVAL
    copied: int = access_phys(vma, address, length, write)
    return copied


@access_phys.alternative(
    "unlocked", source="mm/memory.c generic_access_phys, follow_phys, 5.10.262", releases="<= v5.11"
)
def copies_whatever_becomes_of_the_entry(vma: VmArea, address: int, length: int, write: bool) -> int:
    """The frame is looked up once. Whoever takes the mapping away meanwhile does not keep the copy from it."""
    error, entry, lock = follow_pfnmap_start(vma, address)
    if lock is None:
        return error
    spin_unlock(lock)
    if vm_normal_page(vma, address, entry) is not None or (write and not entry & RW):
        return -EINVAL
    mapping = map_io(vma, entry, address, length)
    if mapping is None:
        return -ENOMEM
    copy_io(vma.vm_mm, entry, address, length, write)
    iounmap(vma.vm_mm.machine, mapping)
    return length


@access_phys.alternative(
    "looked-at-again",
    source="96667f8a4382 'mm: Close race in generic_access_phys'; mm/memory.c generic_access_phys, 6.1.192, 6.12.117",
    releases="v5.12 - v6.12; unknown after",
)
def copies_under_the_lock(vma: VmArea, address: int, length: int, write: bool) -> int:
    """When the frame has been mapped it is looked at again, and copied with the entry's lock held: whoever empties the
    entry waits. What is copied may run into the next frame, whatever is mapped behind.
    """
    return copy_if_it_stays(vma, address, length, write)


@access_phys.alternative(
    "one-page", source="mm/memory.c generic_access_phys, 7.3.4", releases="v7.3; unknown after v6.12"
)
def copies_one_page_and_no_ram(vma: VmArea, address: int, length: int, write: bool) -> int:
    """... of one page at most, and nothing that is ordinary RAM."""
    error, entry, lock = follow_pfnmap_start(vma, address)
    if lock is None:
        return error
    spin_unlock(lock)
    e820 = vma.vm_mm.machine.e820
    if e820.pfn_valid(pte_pfn(entry)) and not e820.page_reserved(pte_pfn(entry)):
        return -EINVAL
    return copy_if_it_stays(vma, address, min(length, PAGE_SIZE - (address & PAGE_SIZE - 1)), write)


def copy_if_it_stays(vma: VmArea, address: int, length: int, write: bool) -> int:
    """Look the frame up, map it, and copy if the entry is still the same; else all over again.

    Source: mm/memory.c generic_access_phys.
    """
    machine = vma.vm_mm.machine
    while True:
        loop_point(vma, address, length, write, machine)
        error, entry, lock = follow_pfnmap_start(vma, address)
        if lock is None:
            return error
        spin_unlock(lock)
        if write and not entry & RW:
            return -EINVAL
        mapping = map_io(vma, entry, address, length)
        if mapping is None:
            return -ENOMEM
        error, again, lock = follow_pfnmap_start(vma, address)
        if lock is None:
            iounmap(machine, mapping)
            reached("what was to be copied has gone")
            return error
        if again == entry:
            copy_io(vma.vm_mm, entry, address, length, write)
            spin_unlock(lock)
            iounmap(machine, mapping)
            return length
        spin_unlock(lock)
        iounmap(machine, mapping)


def map_io(vma: VmArea, entry: int, address: int, length: int) -> IoMapping | None:
    """Map the frames of ``length`` bytes at ``address``, of which ``entry`` maps the first, with the entry's type.

    Source: mm/memory.c generic_access_phys; arch/x86/mm/ioremap.c ioremap_prot.
    """
    size = (address & PAGE_SIZE - 1) + length + PAGE_SIZE - 1 & -PAGE_SIZE
    return ioremap_prot(vma.vm_mm.machine, pte_pfn(entry) << PAGE_SHIFT, size, entry)


def copy_io(mm: MmStruct, entry: int, address: int, length: int, write: bool) -> None:
    """The CPU reaches the frames, one event for each device that is there.

    Source: mm/memory.c generic_access_phys; by memcpy_toio or memcpy_fromio.
    """
    machine = mm.machine
    last = (address & PAGE_SIZE - 1) + length - 1 >> PAGE_SHIFT
    for n in range(last + 1):
        pfn = pte_pfn(entry) + n
        for device in machine.devices:
            if device.bar_of(pfn) is not None:
                machine.look_at_device(device)
        machine.bus_access(mk_pte(pfn, entry), address, write)
    reached("device memory was copied")
