"""/proc/PID/smaps, /proc/PID/pagemap and VmLck of /proc/PID/status, in the kernel's text.

Source: fs/proc/task_mmu.c show_smap_vma_flags (bit order; a set bit without a mnemonic prints ??), pagemap_pte_hole,
pte_to_pagemap_entry, task_mem; mm/pagewalk.c walk_page_test. The numbers of smaps are in ``smaps``. Both walks skip
PFNMAP VMAs: Rss is 0, and pagemap never shows a page of one as present, populated or not, not even a private copy. A
MIXEDMAP is walked. Recorded on 5.10.262, 6.1.192, 6.12.117 and 7.3.4. Of the model's own: find, letters.
"""

from __future__ import annotations

from functools import cache

from mmlitmus.kernel.arch.x86.pgtable import NONE, PAGE_SHIFT, SOFT_DIRTY, pte_pfn, pte_present
from mmlitmus.kernel.fs.proc.smaps import lines as smap_lines
from mmlitmus.kernel.mm.memory_pages import vm_normal_page
from mmlitmus.kernel.mm.mm_types import (
    VM_EXEC,
    VM_LOCKONFAULT,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_READ,
    VM_SOFTDIRTY,
    VM_WRITE,
    MmStruct,
    VmArea,
)
from mmlitmus.kernel.mm.swapops import SWP_SOFT_DIRTY, TYPE_BITS, TYPE_SHIFT, swp_offset
from mmlitmus.kernel.policy import Seam

name_of_lock_on_fault = Seam("show_smap_vma_flags", "what smaps calls VM_LOCKONFAULT")

#: two-letter names by bit, include/linux/mm.h order
MNEMONICS = {
    0: "rd", 1: "wr", 2: "ex", 3: "sh", 4: "mr", 5: "mw", 6: "me", 7: "ms", 8: "gd", 10: "pf", 13: "lo", 14: "io",
    15: "sr", 16: "rr", 17: "dc", 18: "de", 20: "ac", 21: "nr", 22: "ht", 23: "sf", 24: "ar", 25: "wf",
    26: "dd", 27: "sd", 28: "mm", 29: "hg", 30: "nh", 31: "mg",
}  # fmt: skip

NAMELESS = "??"

PM_FRAME = (1 << 55) - 1
PM_SOFT_DIRTY, PM_MMAP_EXCLUSIVE, PM_UFFD_WP, PM_GUARD_REGION = 1 << 55, 1 << 56, 1 << 57, 1 << 58
PM_FILE, PM_SWAP, PM_PRESENT = 1 << 61, 1 << 62, 1 << 63
NAME_COLUMN = 73  # where a maps line's file name begins, when the line is not longer already


def find(mm: MmStruct, address: int) -> VmArea | None:
    """The VMA at ``address``, for an observer outside the machine."""
    for vma in mm.peek("mm_mt"):
        if vma.peek("vm_start") <= address < vma.peek("vm_end"):
            found: VmArea = vma
            return found
    return None


def vm_flags_letters(mm: MmStruct, address: int) -> str:
    """``rd wr sh mr mw me ms pf io de dd sd``: the VmFlags of the VMA at ``address``; empty where there is none.

    Source: fs/proc/task_mmu.c show_smap_vma_flags.
    """
    vma = find(mm, address)
    if vma is None:
        return ""
    flags = vma.peek("vm_flags")
    return letters(flags, name_of_lock_on_fault() if flags & VM_LOCKONFAULT else NAMELESS)


@cache
def letters(vm_flags: int, lock_on_fault: str) -> str:
    """The mnemonics of a VMA's flags; ``??`` for a bit that has none. ``lock_on_fault``: VM_LOCKONFAULT's."""
    names = {**MNEMONICS, VM_LOCKONFAULT.bit_length() - 1: lock_on_fault}
    return " ".join(names.get(bit, NAMELESS) for bit in range(64) if vm_flags >> bit & 1)


@name_of_lock_on_fault.alternative(
    "nameless", source="fs/proc/task_mmu.c show_smap_vma_flags, 5.10.262, 6.1.192", releases="<= v6.1"
)
def lock_on_fault_has_no_name() -> str:
    """As any bit that nobody has given a name."""
    return NAMELESS


@name_of_lock_on_fault.alternative(
    "lf", source="8614d6c5eda0 (6.2); fs/proc/task_mmu.c show_smap_vma_flags, 6.12.117", releases=">= v6.2"
)
def lock_on_fault_has_one() -> str:
    """It has one."""
    return "lf"


def smaps(mm: MmStruct) -> str:
    """One entry a VMA: the maps line, then the fields that the model knows.

    Source: fs/proc/task_mmu.c show_smap.
    """
    lines = []
    for vma in mm.peek("mm_mt"):
        flags, start, end = vma.peek("vm_flags"), vma.peek("vm_start"), vma.peek("vm_end")
        perms = "".join(c if flags & bit else "-" for c, bit in (("r", VM_READ), ("w", VM_WRITE), ("x", VM_EXEC)))
        perms += "s" if flags & VM_MAYSHARE else "p"
        offset = 0 if vma.peek("vm_ops").anonymous else vma.peek("vm_pgoff") << PAGE_SHIFT
        lines += [
            f"{start:08x}-{end:08x} {perms} {offset:08x} 00:0e 0 ".ljust(NAME_COLUMN) + vma.vm_file.name,
            f"Size:           {end - start >> 10:8d} kB",
            *smap_lines(vma),
            f"VmFlags: {vm_flags_letters(mm, start)} ",
        ]
    return "\n".join(lines) + ("\n" if lines else "")


def pagemap(mm: MmStruct, address: int) -> int:
    """The pagemap word, as a privileged reader has it. Of a PFNMAP only the VMA's soft-dirty bit, if any.

    Elsewhere an entry is shown: its frame, whether it is soft-dirty (as all of a soft-dirty VMA is), and for a counted
    page, such as a private copy, whether nobody else maps it, and whether it is anonymous. Of an entry that is neither
    none nor present: that it is in swap, be it so or not, its type and its slot or frame.

    Source: fs/proc/task_mmu.c pagemap_pte_hole, pte_to_pagemap_entry.
    """
    vma = find(mm, address)
    if vma is None:
        return 0
    flags = vma.peek("vm_flags")
    word = PM_SOFT_DIRTY if flags & VM_SOFTDIRTY else 0
    entry = mm.machine.translation(mm, address)
    if flags & VM_PFNMAP or entry == NONE:
        return word
    if not pte_present(entry):
        word |= PM_SOFT_DIRTY if entry & SWP_SOFT_DIRTY else 0
        return word | PM_SWAP | entry >> TYPE_SHIFT | swp_offset(entry) << TYPE_BITS
    page = vm_normal_page(vma, address, entry)
    word |= PM_SOFT_DIRTY if entry & SOFT_DIRTY else 0
    word |= PM_FILE if page is not None and not page.anon else 0
    word |= PM_MMAP_EXCLUSIVE if page is not None and page.peek("mapcount") == 1 else 0
    return word | PM_PRESENT | pte_pfn(entry)


def locked(mm: MmStruct) -> int:
    """VmLck, in pages.

    Source: fs/proc/task_mmu.c task_mem.
    """
    pages: int = mm.peek("locked_vm")
    return pages
