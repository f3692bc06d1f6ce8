"""What the model has not got and says so: one list, which docs/model.md prints and ``not_modelled`` takes names from.

A call, flag, hook, advice or memory of this list ends the task that asks for it, and its row says *not-modelled*. What
a kernel refuses it refuses here with its own errno, and what is left out without being noticed is told in
docs/model.md's other lists.
"""

from __future__ import annotations

from typing import NoReturn

from mmlitmus.explore import findings

#: by what is asked for, in a kernel developer's words: what a kernel does there
ABSENT: dict[str, str] = {
    # -- memory
    "shared anonymous memory": "`MAP_SHARED \\| MAP_ANONYMOUS`: pages of shmem, shared by fork",
    "memory of a file": "the page cache, memfd, tmpfs, memfd_secret, udmabuf, DMA heaps, vgem, hugetlbfs",
    "MAP_HUGETLB": "huge pages of hugetlbfs",
    "a huge page of a process's own that is split": "a table of its 512 pages replaces the leaf (`__split_huge_pmd`)",
    "a store to a huge page of a process's own that is read-only": "it is reused or split (`do_huge_pmd_wp_page`)",
    "fork of a process that has huge pages of its own": "the leaf is shared, read-only (`copy_huge_pmd`)",
    # -- mmap
    "MAP_GROWSDOWN": "a mapping that faults below it extend (`expand_stack`)",
    "MAP_STACK": "from 6.7: VM_NOHUGEPAGE; nothing before",
    "MAP_DROPPABLE": "from 6.11: memory that reclaim throws away; -EINVAL before",
    # -- madvise
    "MADV_COLLAPSE": "a huge page is made of what is mapped, at once (`madvise_collapse`)",
    "MADV_DONTNEED of all that a page table has, with CONFIG_PT_RECLAIM": "from 6.14: the empty table goes, too",
    # -- VFIO
    "VFIO_DMA_UNMAP_FLAG_VADDR": "from 5.12: mappings stay, and their addresses are given anew",
    "an IOMMU that is told to map what it maps already": "a second mapping at the end of the address space, up to 6.17",
    "guard regions": "from 6.13: pages whose every touch is SIGSEGV (MADV_GUARD_INSTALL, MADV_GUARD_REMOVE)",
    "MADV_FREE beside swap": "slots are given back, and reclaim throws pages away instead of writing them out",
    "advice about a huge page of a process's own": "MADV_FREE, COLD, PAGEOUT: it is aged, split or given up whole",
    # -- calls
    "mincore of what is not present": "a page in swap is there while the swap cache has it, one under way always",
    "move_pages": "pages go to another node; a driver's own are -ENOENT or -EFAULT",
    "mbind": "a memory policy is set, and pages may move",
    "set_mempolicy": "a memory policy is set",
    "migrate_pages": "a process's pages go to other nodes",
    "process_madvise": "advice for another process's memory",
    "userfaultfd": "faults are handed to user space",
    "memfd_create": "a file of shmem",
    "memfd_secret": "memory that the direct map has not",
    "remap_file_pages": "emulated by mmap of the same file",
    "mseal": "from 6.10: mappings that may not change",
    "pkey_mprotect": "a protection key beside the protection",
    "shmat": "System V shared memory",
}


def not_modelled(what: str) -> NoReturn:
    """End the running task: it asks for ``what``, which is of the list above."""
    if what not in ABSENT:
        raise KeyError(f"{what!r} is not among what the model declares to be absent (kernel/absent.py)")
    findings.not_modelled(what)


def table() -> list[str]:
    """The list as docs/model.md prints it."""
    return ["| asked for | a kernel |", "|---|---|", *(f"| {what} | {kernel} |" for what, kernel in ABSENT.items())]
