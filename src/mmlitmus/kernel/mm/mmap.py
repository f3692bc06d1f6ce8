"""mmap, munmap and the teardown of a whole mm.

Source: mm/mmap.c, mm/vma.c (from 6.12), functions of the same name. Of the model's own: AnonymousMemory,
anonymous_file.
"""

from __future__ import annotations

from typing import Any

from mmlitmus.kernel.absent import not_modelled
from mmlitmus.kernel.arch.x86.pgtable import (
    ACCESSED,
    NX,
    PAGE_SHIFT,
    PAGE_SIZE,
    PRESENT,
    PROTNONE,
    RW,
    USER,
    pud_populate,
)
from mmlitmus.kernel.errno import EACCES, EAGAIN, EEXIST, EINVAL, ENODEV, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from mmlitmus.kernel.mm.memory_zap import unmap_vmas
from mmlitmus.kernel.mm.mm_types import (
    VM_ACCOUNT,
    VM_EXEC,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_SPECIAL,
    VM_WRITE,
    AddressSpace,
    File,
    MmStruct,
    VmArea,
    VmOperations,
    vma_pages,
)
from mmlitmus.kernel.mm.mmap_lock import (
    mmap_read_lock,
    mmap_read_unlock,
    mmap_write_downgrade,
    mmap_write_lock,
    mmap_write_unlock,
    vma_start_write,
)
from mmlitmus.kernel.mm.mmu_gather import (
    TASK_SIZE,
    ULONG_MAX,
    tlb_finish_mmu,
    tlb_gather_mmu,
    tlb_gather_mmu_fullmm,
)
from mmlitmus.kernel.mm.mmu_notifier import mmu_notifier_release
from mmlitmus.kernel.mm.vma import (
    close_vma,
    erase_from_tree,
    free_pgd_range,
    free_pgtables,
    release_vma,
    remove_vma,
    split_vma,
    store_in_tree,
    vm_area_alloc,
    vm_area_free_at_once,
    vma_link_file,
    vma_tree,
    vmas_in_range,
)
from mmlitmus.kernel.mm.vma_flags import vm_flags_clear, vm_flags_set
from mmlitmus.kernel.mm.vma_merge import vma_merge_new_range
from mmlitmus.kernel.policy import Seam

PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE, MAP_DROPPABLE, MAP_TYPE = 0x1, 0x2, 0x3, 0x8, 0xF
MAP_FIXED, MAP_ANONYMOUS, MAP_32BIT, MAP_GROWSDOWN, MAP_LOCKED = 0x10, 0x20, 0x40, 0x100, 0x2000
MAP_NORESERVE, MAP_POPULATE, MAP_NONBLOCK, MAP_STACK, MAP_HUGETLB = 0x4000, 0x8000, 0x10000, 0x20000, 0x40000
MAP_SYNC, MAP_FIXED_NOREPLACE = 0x80000, 0x100000
#: what MAP_SHARED_VALIDATE lets pass (include/linux/mman.h LEGACY_MAP_MASK); others may be given, and do nothing
LEGACY_MAP_MASK = 0x7C07_F9F3

#: what a VMA has whose driver has set nothing: no ->fault, so a touch of what is not there is SIGBUS
DUMMY_VM_OPS = VmOperations()

mmap_replace = Seam("mmap_replace", "when what a new mapping replaces is freed")
split_for_munmap = Seam("split_for_munmap", "which half of a split by munmap is the new VMA (and gets ->open)")


class AnonymousMemory(VmOperations):
    """Memory of the process's own: no driver, no file. The kernel's such VMAs have no operations at all."""

    anonymous = True

    def mmap(self, file: File, vma: VmArea) -> int:
        """Nothing is there until it is touched."""
        vma.vm_ops = self
        return 0


ANONYMOUS = AnonymousMemory()


def anonymous_file(machine: Any) -> File:
    """What stands for a file in an anonymous mapping. One a mapping, so that no two of them meet in a reverse map."""
    name = machine.own_name("anon")
    return File(name, ANONYMOUS, AddressSpace(f"{name}:mapping"))


def vm_get_page_prot(flags: int) -> int:
    """The PTE bits for a VMA's flags. PAGE_SHARED has the accessed bit already set.

    Source: mm/mmap.c vm_get_page_prot (5.10), arch/x86/mm/pgprot.c vm_get_page_prot (from 6.1).
    """
    if not flags & (VM_READ | VM_WRITE | VM_EXEC):
        return ACCESSED | PROTNONE
    prot = PRESENT | USER | ACCESSED
    if not flags & VM_EXEC:
        prot |= NX
    if flags & VM_WRITE and flags & VM_SHARED:
        prot |= RW
    return prot


def vma_set_page_prot(vma: VmArea) -> None:
    """Take the write permission out of a shared VMA's protection if its driver wants to hear of the first store.

    Source: mm/mmap.c vma_set_page_prot, vma_wants_writenotify (to 6.1), mm/vma.c vma_wants_writenotify (from 6.12);
    ->page_mkwrite and ->pfn_mkwrite. Stores to a VMA that is not soft-dirty are to be heard of too.
    """
    shared = vma.peek("vm_flags") & (VM_SHARED | VM_WRITE) == VM_SHARED | VM_WRITE
    hears = vma.vm_ops.page_mkwrite is not None or vma.vm_ops.pfn_mkwrite is not None
    if hears or (shared and not vma.peek("vm_flags") & VM_SOFTDIRTY):
        vma.vm_page_prot = vma.vm_page_prot & ~RW


def do_mmap(mm: MmStruct, file: File, addr: int, length: int, prot: int, flags: int, pgoff: int) -> int:
    """mmap() of a device file at ``addr`` (bytes; ``pgoff`` in pages): the address, or an errno. Needs mmap_lock W."""
    if length == 0:
        return -EINVAL
    length = length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1) & ULONG_MAX
    if not length:
        return -ENOMEM
    if pgoff + (length >> PAGE_SHIFT) > ULONG_MAX:
        return -EOVERFLOW
    if addr & PAGE_SIZE - 1:
        return -EINVAL
    if addr + length > TASK_SIZE:
        return -ENOMEM
    if pgoff + (length >> PAGE_SHIFT) > ULONG_MAX >> PAGE_SHIFT:
        return -EOVERFLOW
    if flags & MAP_FIXED_NOREPLACE and vmas_in_range(mm, addr, addr + length):
        return -EEXIST
    vm_flags = prot & 7 | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | mm.def_flags
    map_type = flags & MAP_TYPE
    own = file.f_op is ANONYMOUS
    if flags & MAP_STACK:
        not_modelled("MAP_STACK")
    if own and flags & MAP_HUGETLB:
        not_modelled("MAP_HUGETLB")
    if own and map_type == MAP_DROPPABLE:
        not_modelled("MAP_DROPPABLE")
    if flags & MAP_HUGETLB or (flags & MAP_GROWSDOWN and not (own and map_type == MAP_PRIVATE)):
        return -EINVAL
    if map_type == MAP_SHARED or (map_type == MAP_SHARED_VALIDATE and not own):
        if map_type == MAP_SHARED_VALIDATE and flags & ~LEGACY_MAP_MASK:
            return -EOPNOTSUPP
        if prot & PROT_WRITE and not file.writable:
            return -EACCES
        vm_flags |= VM_SHARED | VM_MAYSHARE
        if not file.writable:
            vm_flags &= ~(VM_SHARED | VM_MAYWRITE)
    elif map_type != MAP_PRIVATE:
        return -EINVAL
    elif flags & MAP_GROWSDOWN:
        not_modelled("MAP_GROWSDOWN")
    if own and map_type == MAP_PRIVATE:
        pgoff = addr >> PAGE_SHIFT
    if flags & MAP_NORESERVE:
        vm_flags |= VM_NORESERVE
    if flags & MAP_LOCKED:
        if mm.lock_limit == 0:
            return -EPERM
        vm_flags |= VM_LOCKED
    limit = mm.lock_limit if vm_flags & VM_LOCKED else None
    if limit is not None and mm.locked_vm + (length >> PAGE_SHIFT) > limit:
        return -EAGAIN
    if not mm.machine.may_exec(file):
        if vm_flags & VM_EXEC:
            return -EPERM
        vm_flags &= ~VM_MAYEXEC
    if not hasattr(file.f_op, "mmap"):
        return -ENODEV
    return mmap_region(mm, file, addr, length, vm_flags, pgoff)


def get_unmapped_area(mm: MmStruct, length: int, hint: int = 0) -> int:
    """An address for ``length`` bytes, of the kernel's choice: ``hint`` if there is room, else from the top down, here
    slot by slot. -ENOMEM where nothing is free.

    Source: mm/mmap.c get_unmapped_area (to 6.1), __get_unmapped_area (from 6.12).
    """
    if hint and hint + length <= TASK_SIZE and not vmas_in_range(mm, hint, hint + length):
        return hint
    for start, size in mm.machine.slots():
        if not vmas_in_range(mm, start, start + max(length, size)):
            return int(start)
    return -ENOMEM


def mmap_region(mm: MmStruct, file: File, addr: int, length: int, vm_flags: int, pgoff: int) -> int:
    """Unmap what is there, let the driver set the VMA up, then make it visible: first the tree, then the reverse map.

    Between the driver's ->mmap and ``vma_link_file`` a VMA that ->mmap has populated has translations that
    unmap_mapping_range cannot see.
    """
    end = addr + length
    replaced: list[VmArea] = []
    if vmas_in_range(mm, addr, end):
        error, replaced = mmap_replace(mm, addr, end)
        if error:
            return int(error)
    result = map_new(mm, file, addr, length, vm_flags, pgoff)
    for vma in replaced:
        release_vma(vma, unreachable=False)
    return result


def map_new(mm: MmStruct, file: File, addr: int, length: int, vm_flags: int, pgoff: int) -> int:
    """``mmap_region`` of a range that is free: the address, or an errno.

    Source: mm/mmap.c mmap_region (5.10), __mmap_region (6.1 - 6.12), mm/vma.c __mmap_region (7.3).
    """
    end = addr + length
    if vm_flags & (VM_SHARED | VM_WRITE | VM_NORESERVE) == VM_WRITE:
        vm_flags |= VM_ACCOUNT
    own = file.f_op is ANONYMOUS and not vm_flags & VM_SHARED
    merged = vma_merge_new_range(mm, addr, end, vm_flags, pgoff, new=True) if own else None
    if merged is not None:
        return mmap_complete(merged, addr, length)
    prot = vm_get_page_prot(vm_flags)
    pud_populate(mm, addr, end)
    vma = vm_area_alloc(
        mm, file, addr, end, pgoff, vm_flags=vm_flags, vm_page_prot=prot, vm_ops=DUMMY_VM_OPS, vm_private_data=None
    )
    if vma is None:
        return -ENOMEM
    mm.machine.get_file(file)
    error = file.f_op.mmap(file, vma)
    if error:
        mm.machine.fput(file)
        tlb = tlb_gather_mmu(mm)
        unmap_vmas(tlb, [vma], addr, end, True)
        free_pgd_range(tlb, vma, list(vma_tree(mm)))
        tlb_finish_mmu(tlb)
        vm_area_free_at_once(vma)
        result: int = error
        return result
    vma_start_write(vma)
    store_in_tree(vma)
    vma_link_file(vma)
    return mmap_complete(vma, addr, length)


def mmap_complete(vma: VmArea, addr: int, length: int) -> int:
    """What is mapped at ``addr`` is counted; the VMA, which may be longer, is soft-dirty: ``addr``.

    Source: mm/mmap.c mmap_region (5.10), __mmap_region (6.1 - 6.12), mm/vma.c __mmap_complete (7.3).
    """
    mm = vma.vm_mm
    mm.total_vm = mm.total_vm + (length >> PAGE_SHIFT)
    if vma.vm_flags & VM_LOCKED and vma.vm_flags & VM_SPECIAL:
        vm_flags_clear(vma, VM_LOCKED | VM_LOCKONFAULT)
    elif vma.vm_flags & VM_LOCKED:
        mm.locked_vm = mm.locked_vm + (length >> PAGE_SHIFT)
    vm_flags_set(vma, VM_SOFTDIRTY)
    vma_set_page_prot(vma)
    if vma.vm_ops.mapped is not None:
        vma.vm_ops.mapped(vma)
    return addr


@mmap_replace.alternative("freed-first", source="mm/mmap.c mmap_region, 6.1.192", releases="<= v6.11")
def free_what_is_there(mm: MmStruct, start: int, end: int) -> tuple[int, list[VmArea]]:
    """An munmap like any other."""
    return do_munmap(mm, start, end - start, downgrade=False), []


@mmap_replace.alternative(
    "freed-last",
    source="mm/mmap.c mmap_region (6.12), mm/vma.c vms_complete_munmap_vmas, 6.12.117, __mmap_region (7.3)",
    releases=">= v6.12",
)
def close_what_is_there(mm: MmStruct, start: int, end: int) -> tuple[int, list[VmArea]]:
    """Unmapped and closed, but not freed until the new mapping is there, or has failed: what a VMA holds as long as it
    exists (its reservation of memtypes, from 6.16 on) is in the way of the driver's ->mmap.
    """
    error, gone = unmap_range(mm, start, end, downgrade=False)
    for vma in gone:
        close_vma(vma)
    return error, gone


# -- munmap -----------------------------------------------------------------------------------------------------
def vm_munmap(mm: MmStruct, start: int, length: int) -> int:
    """munmap(2): 0 or an errno. Takes mmap_lock W and unmaps under R (the downgrade)."""
    mmap_write_lock(mm)
    result = do_munmap(mm, start, length, downgrade=True)
    if result == 1:
        mmap_read_unlock(mm)
        return 0
    mmap_write_unlock(mm)
    return result


def do_munmap(mm: MmStruct, start: int, length: int, downgrade: bool) -> int:
    """Unmap [start, start + length) bytes: 0, 1 when mmap_lock was downgraded to R, or an errno.

    Detach first (nobody finds the VMAs in the tree any more), then clear translations, unlink from the reverse map,
    flush, ->close, free.
    """
    length = length + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1)
    if start & PAGE_SIZE - 1 or length == 0 or start + length > TASK_SIZE:
        return -EINVAL
    end = start + length
    if not vmas_in_range(mm, start, end):
        return 0
    error, gone = unmap_range(mm, start, end, downgrade)
    if error:
        return error
    for vma in gone:
        remove_vma(vma, unreachable=False)
    return 1 if downgrade else 0


def unmap_range(mm: MmStruct, start: int, end: int, downgrade: bool) -> tuple[int, list[VmArea]]:
    """Detach what is mapped in [start, end) bytes and clear its translations: 0 or an errno, and the VMAs, which are
    still to be closed and freed.

    Source: mm/mmap.c __do_munmap (5.10), do_mas_align_munmap (6.1), mm/vma.c do_vmi_align_munmap (from 6.12).
    """
    error, gone = split_for_munmap(mm, vmas_in_range(mm, start, end), start, end)
    if error:
        return error, []
    for vma in gone:
        vma_start_write(vma)
        vma.detached = True
    erase_from_tree(mm, gone)
    mm.total_vm = mm.total_vm - sum(vma_pages(v) for v in gone)
    if mm.locked_vm:
        mm.locked_vm = mm.locked_vm - sum(vma_pages(v) for v in gone if v.vm_flags & VM_LOCKED)
    if downgrade:
        mmap_write_downgrade(mm)
    tlb = tlb_gather_mmu(mm)
    unmap_vmas(tlb, gone, start, end, not downgrade)
    free_pgtables(tlb, gone)
    tlb_finish_mmu(tlb)
    return 0, gone


@split_for_munmap.alternative(
    "removed-is-new", source="mm/mmap.c __do_munmap (5.10), do_mas_align_munmap (6.1)", releases="<= v6.2"
)
def removed_part_is_new(mm: MmStruct, vmas: list[VmArea], start: int, end: int) -> tuple[int, list[VmArea]]:
    """The part that goes is the new VMA: it gets ->open (and ->close); what stays keeps its identity, but for a
    middle.
    """
    if vmas[0].vm_start < start:
        error, new = split_vma(vmas[0], start, new_below=False)
        if new is None:
            return error, vmas
        vmas = [new, *vmas[1:]]
    if vmas[-1].vm_end > end:
        error, new = split_vma(vmas[-1], end, new_below=True)
        if new is None:
            return error, vmas
        vmas = [*vmas[:-1], new]
    return 0, vmas


@split_for_munmap.alternative("survivors-are-new", source="mm/vma.c vms_gather_munmap_vmas, 6.12", releases=">= v6.3")
def surviving_parts_are_new(mm: MmStruct, vmas: list[VmArea], start: int, end: int) -> tuple[int, list[VmArea]]:
    """What stays is new and gets ->open; the original VMA is the part that goes."""
    if vmas[0].vm_start < start:
        error, _ = split_vma(vmas[0], start, new_below=True)
        if error:
            return error, vmas
    if vmas[-1].vm_end > end:
        error, _ = split_vma(vmas[-1], end, new_below=False)
        if error:
            return error, vmas
    return 0, vmas


# -- the end of an mm -------------------------------------------------------------------------------------------
def mmput(mm: MmStruct) -> None:
    """Drop a user of the mm; the last one tears it down.

    Source: kernel/fork.c mmput.
    """
    if mm.add_return("mm_users", -1) == 0:
        exit_mmap(mm)


def mmget_not_zero(mm: MmStruct) -> bool:
    """Become a user of the mm, unless it is already being torn down.

    Source: include/linux/sched/mm.h mmget_not_zero.
    """
    users = mm.mm_users
    while users:
        if mm.cmpxchg("mm_users", users, users + 1) == users:
            return True
        users = mm.mm_users
    return False


def exit_mmap(mm: MmStruct) -> None:
    """Tear the whole mm down: unmap under mmap_lock R, then unlink and free under W.

    In between nobody may populate: there are no users left, and mmget_not_zero fails. The reverse map still finds the
    VMAs until they are unlinked.
    """
    mmu_notifier_release(mm)
    mmap_read_lock(mm)
    vmas = list(vma_tree(mm))
    tlb = tlb_gather_mmu_fullmm(mm)
    unmap_vmas(tlb, vmas, 0, TASK_SIZE, False)
    mmap_read_unlock(mm)
    mmap_write_lock(mm)
    free_pgtables(tlb, vmas)
    tlb_finish_mmu(tlb)
    for vma in vmas:
        remove_vma(vma, unreachable=True)
    erase_from_tree(mm, vmas)
    mmap_write_unlock(mm)
