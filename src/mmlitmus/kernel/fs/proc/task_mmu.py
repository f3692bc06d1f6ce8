"""/proc/PID/smaps and /proc/PID/pagemap, in the kernel's text.

Source: fs/proc/task_mmu.c show_smap_vma_flags (bit order; a set bit without a mnemonic prints ??), pagemap_pte_hole.
Both walks skip PFNMAP VMAs: Rss is 0, and pagemap never shows a BAR page as present, populated or not.
"""

from __future__ import annotations

from mmlitmus.kernel.arch.x86.pgtable import PAGE_SHIFT
from mmlitmus.kernel.mm.mm_types import VM_EXEC, VM_MAYSHARE, VM_READ, VM_SOFTDIRTY, VM_WRITE, MmStruct, VmArea

#: two-letter names by bit, include/linux/mm.h order
MNEMONICS = {
    0: "rd", 1: "wr", 2: "ex", 3: "sh", 4: "mr", 5: "mw", 6: "me", 7: "ms", 8: "gd", 10: "pf", 13: "lo", 14: "io",
    15: "sr", 16: "rr", 17: "dc", 18: "de", 19: "lf", 20: "ac", 21: "nr", 22: "ht", 23: "sf", 24: "ar", 25: "wf",
    26: "dd", 27: "sd", 28: "mm", 29: "hg", 30: "nh", 31: "mg",
}  # fmt: skip

PM_SOFT_DIRTY = 1 << 55
NAME_COLUMN = 73  # where a maps line's file name begins, when the line is not longer already


def find(mm: MmStruct, address: int) -> VmArea | None:
    """The VMA at ``address``, for an observer outside the machine."""
    return next((v for v in mm.peek("mm_mt") if v.peek("vm_start") <= address < v.peek("vm_end")), None)


def vm_flags_letters(mm: MmStruct, address: int) -> str:
    """``rd wr sh mr mw me ms pf io de dd sd``: the VmFlags of the VMA at ``address``; empty where there is none."""
    vma = find(mm, address)
    if vma is None:
        return ""
    flags = vma.peek("vm_flags")
    return " ".join(MNEMONICS.get(bit, "??") for bit in range(64) if flags >> bit & 1)


def smaps(mm: MmStruct) -> str:
    """One entry a VMA: the maps line, then the fields that the model knows."""
    lines = []
    for vma in mm.peek("mm_mt"):
        flags, start, end = vma.peek("vm_flags"), vma.peek("vm_start"), vma.peek("vm_end")
        perms = "".join(c if flags & bit else "-" for c, bit in (("r", VM_READ), ("w", VM_WRITE), ("x", VM_EXEC)))
        perms += "s" if flags & VM_MAYSHARE else "p"
        offset = vma.peek("vm_pgoff") << PAGE_SHIFT
        lines += [
            f"{start:08x}-{end:08x} {perms} {offset:08x} 00:0e 0 ".ljust(NAME_COLUMN) + vma.vm_file.name,
            f"Size:           {end - start >> 10:8d} kB",
            "Rss:                   0 kB",
            f"VmFlags: {vm_flags_letters(mm, start)} ",
        ]
    return "\n".join(lines) + ("\n" if lines else "")


def pagemap(mm: MmStruct, address: int) -> int:
    """The pagemap entry: for a PFNMAP only the VMA's soft-dirty bit, if any."""
    vma = find(mm, address)
    return PM_SOFT_DIRTY if vma is not None and vma.peek("vm_flags") & VM_SOFTDIRTY else 0
