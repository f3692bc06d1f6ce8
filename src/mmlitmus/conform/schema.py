"""What a recording says: a header, then programs; a program is steps of ``kernel.uapi``, each with what was observed.

The format is described in docs/recordings.md. Everything here is data; reading and writing files is in ``store``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from .codec import BITS, BadValueError, Kind, decode, encode, extra, many, mapping, nested, number, of, optional, text
from .observed import COUNT, FLAG, INDEX, PROT, SHA256, SLOT, WORD, flags
from .observed import LEVELS as LEVELS
from .observed import MEMTYPES as MEMTYPES
from .observed import MESSAGES as MESSAGES
from .observed import Entry as Entry
from .observed import Frame as Frame
from .observed import Memtype as Memtype
from .observed import Message as Message
from .observed import Observed as Observed
from .observed import Result as Result
from .observed import Translation as Translation

FORMAT = "mmlitmus-recording"
#: raised when an older reader would misread a file; a new optional field is no reason
FORMAT_VERSION = 1

# -- steps ------------------------------------------------------------------------------------------------------------
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
    vmf_insert_mixed in ->fault; of the region ram only: insert_page, vm_insert_page in ->mmap, and fault_page, ->fault
    answers with the page.
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
    insert: str = of(text(one_of=(*INSERTS, *PAGE_INSERTS)), default="remap")
    cache: str = of(text(one_of=CACHES), default="")
    opened: str = of(text(one_of=("rw", "r")), default="rw")
    offset: int = of(INDEX, default=0)
    prot: str = of(PROT, default="rw")
    sharing: str = of(text(one_of=("shared", "private")), default="shared")
    flags: tuple[str, ...] = of(flags("fixed", "fixed_noreplace", "locked"), default=())


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


@dataclass(frozen=True, kw_only=True)
class Advise(Step):
    """madvise; ``lock`` and ``unlock`` are mlock and munlock."""

    slot: str = of(SLOT)
    page: int = of(INDEX, default=0)
    pages: int = of(COUNT)
    advice: str = of(text(one_of=(*ADVICE, "lock", "unlock")))


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


CALLS = ("unmap_mapping_range",)


@dataclass(frozen=True, kw_only=True)
class Probe(Step):
    """The probe module calls a kernel function. unmap_mapping_range: of ``pages`` pages from page ``offset`` of its
    file, copies made on write included.
    """

    call: str = of(text(one_of=CALLS))
    offset: int = of(INDEX, default=0)
    pages: int = of(COUNT)


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


# -- the header -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class KernelKey:
    """Which kernel answered. ``version`` is the upstream one, ``release`` what uname -r says; absent is unknown."""

    version: str = of(text(matching=re.compile(r"[0-9]+\.[0-9]+(\.[0-9]+)?(-rc[0-9]+)?"), called="a kernel version"))
    release: str = of(WORD)
    distribution: str | None = of(WORD, default=None)
    package: str | None = of(WORD, default=None)
    package_version: str | None = of(WORD, default=None)
    config_sha256: str | None = of(SHA256, default=None)
    command_line: str | None = of(WORD, default=None)
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class LabKey:
    """What the kernel ran on. ``module``: the probe module that was loaded, or null for none. ``cpu``: as the guest
    sees it; ``cpu_model``: as the emulator was told. ``settings``: of memory management (huge pages, KSM, swap, fault
    around, NUMA), each as its file has it, null where the kernel has no such file.
    """

    module: str | None = of(optional(WORD))
    module_sha256: str | None = of(SHA256, default=None)
    emulator: str | None = of(WORD, default=None)
    machine: str | None = of(WORD, default=None)
    cpu: str | None = of(WORD, default=None)
    cpu_model: str | None = of(WORD, default=None)
    cpus: int | None = of(COUNT, default=None)
    memory_mib: int | None = of(COUNT, default=None)
    settings: dict[str, str | None] = of(mapping(WORD, optional(WORD)), default_factory=dict)
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class Key:
    """Everything that a recorded answer may depend on."""

    kernel: KernelKey = of(nested(KernelKey))
    lab: LabKey = of(nested(LabKey))
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class BarKey:
    """A BAR: its length in pages, and its first frame where it is known."""

    bar: int = of(number(0, 5))
    pages: int = of(COUNT)
    pfn: int | None = of(BITS, default=None)
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class DeviceKey:
    """A device of the programs, numbered by its place in the header's list. ``pci``: vendor:device."""

    name: str = of(WORD)
    pci: str | None = of(WORD, default=None)
    bars: tuple[BarKey, ...] = of(many(nested(BarKey)))
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class RegionKey:
    """Frames that the probe module maps: ``pages`` from ``pfn``. ``valid``: pfn_valid(), ``reserved``: PageReserved()
    of the first one; absent where nobody asked.
    """

    name: str = of(WORD)
    pfn: int = of(BITS)
    pages: int = of(COUNT)
    valid: bool | None = of(optional(FLAG), default=None)
    reserved: bool | None = of(optional(FLAG), default=None)
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the recording comes from: the raw output (its hash), and the program that asked."""

    file: str = of(WORD)
    sha256: str = of(SHA256)
    program: str | None = of(WORD, default=None)
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first line. ``isolation``: each program on a fresh kernel, or one after the other in one.

    ``regions``: what the probe module maps. ``placement``: are the slots far ``apart``, or are they ``packed``, so that
    mappings share page tables with others? ``programs`` is their number, so that a file cut short is noticed;
    ``kernel_log`` what the kernel complained about, not attributed to a program. ``boots``: the keys of further boots
    that gave the same answers. ``zero_pfn``: the frame of the page of zeros.
    """

    format: str = of(text(one_of=(FORMAT,)))
    version: int = of(COUNT)
    key: Key = of(nested(Key))
    devices: tuple[DeviceKey, ...] = of(many(nested(DeviceKey)))
    regions: tuple[RegionKey, ...] = of(many(nested(RegionKey)), default=())
    placement: str = of(text(one_of=("apart", "packed")), default="apart")
    isolation: str = of(text(one_of=("fresh", "sequence")))
    programs: int | None = of(INDEX, default=None)
    source: Source | None = of(nested(Source), default=None)
    kernel_log: tuple[str, ...] = of(many(WORD), default=())
    boots: tuple[Key, ...] = of(many(nested(Key)), default=())
    zero_pfn: int | None = of(optional(BITS), default=None)
    extra: dict[str, Any] = extra()

    def region(self, name: str) -> RegionKey | None:
        """The region of that name."""
        return next((r for r in self.regions if r.name == name), None)

    def check_backing(self, step: Step, path: str) -> None:
        """Is there what a step names? BadValueError when not."""
        if isinstance(step, Dma):
            if not self.devices:
                raise BadValueError(path, "the header lists no devices")
            if step.action == "map" and step.slot is None:
                raise BadValueError(path, "a map for DMA wants a slot")
            if step.offset + step.pages > 256:
                raise BadValueError(path, "a slot of IOVAs has 256 pages")
            return
        if isinstance(step, Probe | Pin | Unpin):
            if not self.regions:
                raise BadValueError(path, "the header lists no regions of a probe module")
            remote = isinstance(step, Pin) and (step.process is not None or "locked" in step.flags)
            if remote and isinstance(step, Pin) and step.variant not in REMOTE:
                raise BadValueError(path, f"{step.variant} takes neither a process nor locked")
            return
        if isinstance(step, Transfer):
            if step.process is not None and step.kind not in OF_ANOTHER:
                raise BadValueError(path, f"{step.kind} is of the process's own memory")
            return
        if not isinstance(step, Map | Dev):
            return
        if isinstance(step, Map) and step.backing != "bar":
            region = self.region(step.region)
            if step.backing == "pfnmap" and region is None:
                names = ", ".join(r.name for r in self.regions) or "none"
                raise BadValueError(path, f"there is no region {step.region!r}; the header lists {names}")
            if step.backing == "pfnmap" and step.insert in PAGE_INSERTS and step.region != "ram":
                raise BadValueError(path, f"{step.insert} is of the region ram only")
            if region is not None and step.frame + step.pages > region.pages:
                raise BadValueError(path, f"region {region.name} has {region.pages} pages, too few")
            return
        if step.device >= len(self.devices):
            raise BadValueError(path, f"there is no device {step.device}; the header lists {len(self.devices)}")

    def check_addresses(self, ranges: tuple[Memtype | Message, ...], path: str) -> None:
        """Is each range within one region, or one BAR? BadValueError when not."""
        places = [(k.pfn, k.pages) for k in self.regions]
        places += [(bar.pfn, bar.pages) for device in self.devices for bar in device.bars if bar.pfn is not None]
        for n, r in enumerate(ranges):
            inside = any(pfn << 12 <= r.start < r.end <= pfn + pages << 12 for pfn, pages in places)
            if not inside or (r.start | r.end) & 0xFFF:
                message = f"{r.start:#x} to {r.end:#x} is no range of pages of one region, or of one BAR"
                raise BadValueError(f"{path}[{n}]", message)


# -- a file -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Program:
    """Steps, in order, on a machine where every device has memory decode on and process 0, current, maps nothing.

    ``log``: what the kernel printed while it ran; at which step is not said. ``held``: the frames of regions that are
    counted more, or less, often than before when all its processes have gone; null or absent: nobody looked.
    """

    id: str = of(WORD)
    name: str = of(WORD, default="")
    seed: int | None = of(INDEX, default=None)
    steps: tuple[Step, ...] = of(many(Kind(read_step, write_step)))
    log: tuple[Message, ...] | None = of(optional(many(nested(Message))), default=None)
    held: tuple[Frame, ...] | None = of(optional(many(nested(Frame))), default=None)
    extra: dict[str, Any] = extra()

    @property
    def warned(self) -> bool:
        """Is there a WARNING among the other lines that the kernel printed?"""
        return any("WARNING: " in line for line in self.extra.get("kernel_log", ()))

    def check(self, header: Header) -> None:
        """Does it make sense? Processes, devices and regions exist where they are named. Raises BadValueError."""
        live, born, current = {0}, {0}, 0
        for n, step in enumerate(self.steps):
            path = f"steps[{n}]"
            if current not in live and not isinstance(step, Switch):
                raise BadValueError(path, f"process {current} has exited: only a switch can follow")
            if isinstance(step, Fork):
                if step.child in born:
                    raise BadValueError(path, f"there is, or was, a process {step.child} already")
                if step.observed.result is None or step.observed.result.ok:
                    live.add(step.child)
                    born.add(step.child)
            elif isinstance(step, Switch):
                if step.process not in live:
                    raise BadValueError(path, f"there is no process {step.process}")
                current = step.process
            elif isinstance(step, Exit):
                live.discard(current)
            else:
                header.check_backing(step, path)
            if isinstance(step, Pin | Transfer) and step.process is not None and step.process not in live:
                raise BadValueError(path, f"there is no process {step.process}")
            for place in step.observed.places:
                if int(place.partition(":")[0]) not in live:
                    raise BadValueError(f"{path}.observed", f"{place} is of a process that is not there")
            for process in (*(step.observed.locked or ()), *(step.observed.events or ())):
                if int(process) not in live:
                    raise BadValueError(f"{path}.observed", f"process {process} is not there")
            header.check_addresses(step.observed.memtypes or (), f"{path}.observed.memtypes")
        header.check_addresses(self.log or (), "log")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A whole file."""

    header: Header
    programs: tuple[Program, ...]
