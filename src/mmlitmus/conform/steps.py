"""What a program of a recording may ask of a kernel: its steps, each with what was observed after it.

The format is described in docs/recordings.md. ``schema`` has the rest of it, and everything here by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .codec import BadValueError, decode, encode, extra, nested, number, of, optional, text
from .observed import COUNT, INDEX, PROT, SLOT, WORD, Observed, flags

VERBS: dict[str, type[Step]] = {}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation of the current process, and what was observed after it."""

    op: ClassVar[str] = ""
    has_result: ClassVar[bool] = True

    observed: Observed = of(nested(Observed), default_factory=Observed)
    extra: dict[str, Any] = extra()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.op = cls.__name__.lower()
        VERBS[cls.op] = cls

    def __str__(self) -> str:
        words = encode(self)
        words.pop("observed", None)
        return " ".join([self.op, *(f"{k}={v}" for k, v in words.items())])


BACKINGS = ("bar", "anonymous", "pfnmap", "file", "udmabuf", "dma_heap")
INSERTS = ("remap", "remap_partial", "fault_pfn", "fault_pfn_prot", "remap_refill", "remap_fault", "mixed")
#: and vmf_insert_pfn_pmd where a leaf of 2 MiB fits, else as fault_pfn
HUGE_INSERTS = ("huge",)
#: and with pages of the region ``ram`` that the kernel counts
PAGE_INSERTS = ("insert_page", "fault_page")
CACHES = ("", "wc", "uc-", "uc", "wt", "wp")


@dataclass(frozen=True, kw_only=True)
class Map(Step):
    """mmap ``pages`` pages at page ``page`` of ``slot``: of a device's BAR from page ``offset``, of anonymous memory,
    of a file in memory (memfd) or a buffer of udmabuf or the system's DMA heap, 16 pages, one of each a program, or
    (pfnmap) of frames of a region of the probe module's, from page ``offset`` of its file.

    For a pfnmap, ``frame`` is the region's page that the mapping begins with. ``insert`` is how the module fills it:
    remap_pfn_range of all of it, or of its first half, in ->mmap; vmf_insert_pfn, or vmf_insert_pfn_prot, in ->fault;
    remap_refill is remap, and ->fault puts back what was zapped; remap_fault, all of it by the first fault; mixed,
    vmf_insert_mixed in ->fault; huge, vmf_insert_pfn_pmd in ->huge_fault where a leaf fits, else as fault_pfn; of the
    region ram only: insert_page, vm_insert_page in ->mmap, and fault_page, ->fault answers with the page.
    ``cache``: which cache type the module asks for; empty is what mmap gave. ``opened``: how the file was opened.
    """

    slot: str = of(SLOT)
    page: int = of(INDEX, default=0)
    pages: int = of(COUNT)
    backing: str = of(text(one_of=BACKINGS), default="bar")
    device: int = of(INDEX, default=0)
    bar: int = of(number(0, 5), default=0)
    region: str = of(WORD, default="")
    frame: int = of(INDEX, default=0)
    insert: str = of(text(one_of=(*INSERTS, *PAGE_INSERTS, *HUGE_INSERTS)), default="remap")
    cache: str = of(text(one_of=CACHES), default="")
    opened: str = of(text(one_of=("rw", "r")), default="rw")
    offset: int = of(INDEX, default=0)
    prot: str = of(PROT, default="rw")
    sharing: str = of(text(one_of=("shared", "private")), default="shared")
    flags: tuple[str, ...] = of(flags("fixed", "fixed_noreplace", "locked", "populate"), default=())


@dataclass(frozen=True, kw_only=True)
class Unmap(Step):
    """munmap."""

    slot: str = of(SLOT)
    page: int = of(INDEX, default=0)
    pages: int = of(COUNT)


@dataclass(frozen=True, kw_only=True)
class Remap(Step):
    """mremap ``pages`` pages to ``new_pages``, and to the start of slot ``to`` when there is one (flag fixed)."""

    slot: str = of(SLOT)
    page: int = of(INDEX, default=0)
    pages: int = of(INDEX)
    new_pages: int = of(INDEX)
    to: str | None = of(SLOT, default=None)
    flags: tuple[str, ...] = of(flags("maymove", "fixed", "dontunmap"), default=())


@dataclass(frozen=True, kw_only=True)
class Protect(Step):
    """mprotect."""

    slot: str = of(SLOT)
    page: int = of(INDEX, default=0)
    pages: int = of(COUNT)
    prot: str = of(PROT)


ADVICE = (
    "normal", "random", "sequential", "willneed", "dontneed", "free", "dontfork", "dofork", "dontdump", "dodump",
    "wipeonfork", "cold", "pageout", "populate_read", "populate_write", "dontneed_locked", "mergeable", "hugepage",
)  # fmt: skip
#: of madvise too, in programs about calls and about huge leaves
MORE_ADVICE = ("nohugepage", "unmergeable", "keeponfork", "remove", "collapse", "guard_install", "guard_remove")
#: no madvise: mlock, munlock, mlock2 with MLOCK_ONFAULT
LOCKS = ("lock", "unlock", "lock_onfault")


@dataclass(frozen=True, kw_only=True)
class Advise(Step):
    """madvise; ``lock`` and ``unlock`` are mlock and munlock, ``lock_onfault`` is mlock2."""

    slot: str = of(SLOT)
    page: int = of(INDEX, default=0)
    pages: int = of(COUNT)
    advice: str = of(text(one_of=(*ADVICE, *MORE_ADVICE, *LOCKS)))


@dataclass(frozen=True, kw_only=True)
class Touch(Step):
    """A 32-bit load or store at the start of a page by user space."""

    slot: str = of(SLOT)
    page: int = of(INDEX, default=0)
    access: str = of(text(one_of=("read", "write")), default="read")


@dataclass(frozen=True, kw_only=True)
class Fork(Step):
    """fork; the child becomes process ``child``, and the parent stays current."""

    child: int = of(COUNT)


@dataclass(frozen=True, kw_only=True)
class Switch(Step):
    """From here on steps are ``process``'s. No system call: it has no result."""

    has_result: ClassVar[bool] = False
    process: int = of(INDEX)


@dataclass(frozen=True, kw_only=True)
class Exit(Step):
    """The current process ends; a switch has to follow. It has no result."""

    has_result: ClassVar[bool] = False


ACTIONS = ("memory_off", "memory_on", "d3hot", "d0", "low_power_enter", "low_power_exit", "reset", "read")


@dataclass(frozen=True, kw_only=True)
class Dev(Step):
    """Something done to a device through its VFIO file.

    memory_off / memory_on: read COMMAND in config space, write it back with the memory bit changed. d3hot / d0: the PM
    register. low_power_*: VFIO_DEVICE_FEATURE. reset: VFIO_DEVICE_RESET. read: read(2) at ``page`` of BAR 0.
    """

    action: str = of(text(one_of=ACTIONS))
    device: int = of(INDEX, default=0)
    page: int = of(INDEX, default=0)


CALLS = ("unmap_mapping_range", "insert_pfn", "remap_pfn_range")


@dataclass(frozen=True, kw_only=True)
class Probe(Step):
    """The probe module calls a kernel function. unmap_mapping_range: of ``pages`` pages from page ``offset`` of its
    file, copies made on write included. insert_pfn: vmf_insert_pfn of page ``page`` of ``slot``; remap_pfn_range, of
    ``pages`` pages from there: in a mapping that is filled by huge leaves, of the frames that belong there, whatever is
    mapped there already.
    """

    call: str = of(text(one_of=CALLS))
    offset: int = of(INDEX, default=0)
    pages: int = of(COUNT)
    slot: str | None = of(optional(SLOT), default=None)
    page: int = of(INDEX, default=0)


#: pages that one step gets or moves at most
FEW = number(1, 24)
ANY_PROCESS = optional(INDEX)
VARIANTS = (
    "get_user_pages", "get_user_pages_fast", "get_user_pages_fast_only", "get_user_pages_remote",
    "get_user_pages_unlocked", "pin_user_pages", "pin_user_pages_fast", "pin_user_pages_remote",
    "pin_user_pages_unlocked",
)  # fmt: skip
#: variants that are given a process
REMOTE = ("get_user_pages_remote", "pin_user_pages_remote")
PIN_FLAGS = ("write", "force", "longterm", "nowait", "nofault", "dump", "locked")


@dataclass(frozen=True, kw_only=True)
class Pin(Step):
    """The probe module gets ``pages`` pages by the kernel function ``variant``, in the current process, and keeps them
    under the number ``hold`` until an unpin of it or the program's end.

    ``flags``: FOLL_* in lower case; ``locked`` is none: the remote functions get their argument of that name, by which
    they may drop the mmap lock. ``process``: whose pages, for the remote functions; absent is the current one's.
    """

    slot: str = of(SLOT)
    page: int = of(INDEX, default=0)
    pages: int = of(FEW)
    variant: str = of(text(one_of=VARIANTS))
    flags: tuple[str, ...] = of(flags(*PIN_FLAGS), default=())
    process: int | None = of(ANY_PROCESS, default=None)
    hold: int = of(INDEX, default=0)


@dataclass(frozen=True, kw_only=True)
class Unpin(Step):
    """The probe module lets go of all that is kept under ``hold``: put_page, or unpin_user_page for what pin_user_pages
    got. ``dirty``: the pages are marked as written to.
    """

    hold: int = of(INDEX, default=0)
    flags: tuple[str, ...] = of(flags("dirty"), default=())


TRANSFERS = (
    "process_vm_readv", "process_vm_writev", "proc_mem_read", "proc_mem_write", "ptrace_peek", "ptrace_poke",
    "vmsplice", "o_direct_read", "o_direct_write", "write_pipe",
)  # fmt: skip
#: kinds that may be of another process's memory
OF_ANOTHER = TRANSFERS[:6]


@dataclass(frozen=True, kw_only=True)
class Transfer(Step):
    """A system call that moves what is in ``pages`` pages: process_vm_readv, process_vm_writev; read or write of
    /proc/PID/mem; ptrace, one word of each page; vmsplice or write into a pipe, without waiting; o_direct_read, from
    the disk into the pages, and o_direct_write.

    ``process``: whose pages, for the first six; absent is the current one's.
    """

    kind: str = of(text(one_of=TRANSFERS))
    slot: str = of(SLOT)
    page: int = of(INDEX, default=0)
    pages: int = of(FEW, default=1)
    process: int | None = of(ANY_PROCESS, default=None)


@dataclass(frozen=True, kw_only=True)
class Dma(Step):
    """VFIO_IOMMU_MAP_DMA or VFIO_IOMMU_UNMAP_DMA of ``pages`` pages from page ``offset`` of the slot ``iova`` of IOVAs
    on, in the container that all devices are in. Slots of IOVAs have 256 pages and lie one behind the other. What a map
    maps is from page ``page`` of ``slot`` on.
    """

    action: str = of(text(one_of=("map", "unmap")))
    iova: int = of(number(0, 15), default=0)
    offset: int = of(INDEX, default=0)
    pages: int = of(number(1, 256))
    slot: str | None = of(SLOT, default=None)
    page: int = of(INDEX, default=0)
    prot: str = of(text(one_of=("", "r", "w", "rw")), default="rw")


CLEARED = ("referenced", "referenced_anonymous", "referenced_mapped", "soft_dirty")


@dataclass(frozen=True, kw_only=True)
class Clear(Step):
    """A write to /proc/self/clear_refs: what to forget of all pages of the current process's."""

    what: str = of(text(one_of=CLEARED), default="soft_dirty")


@dataclass(frozen=True, kw_only=True)
class Limit(Step):
    """setrlimit(RLIMIT_MEMLOCK) to ``locked`` pages, and the current process gives up CAP_IPC_LOCK, which excuses from
    it. Its children inherit both.
    """

    locked: int = of(INDEX)


@dataclass(frozen=True, kw_only=True)
class Lockall(Step):
    """mlockall."""

    flags: tuple[str, ...] = of(flags("current", "future", "onfault"), default=())


@dataclass(frozen=True, kw_only=True)
class Unlockall(Step):
    """munlockall."""


@dataclass(frozen=True, kw_only=True)
class Observe(Step):
    """Nothing is done; only looked."""

    has_result: ClassVar[bool] = False


def read_step(value: Any) -> Step:
    """A step from its JSON object, by its ``op``."""
    op = value.get("op") if isinstance(value, dict) else None
    if op not in VERBS:
        raise BadValueError("", f"no operation {op!r}; known: {', '.join(VERBS)}")
    return decode(VERBS[op], {k: v for k, v in value.items() if k != "op"})


def write_step(step: Step) -> dict[str, Any]:
    """The JSON object of a step: what it is first, what was observed last."""
    words = encode(step)
    observed = words.pop("observed", None)
    return {"op": step.op, **words, **({"observed": observed} if observed else {})}
