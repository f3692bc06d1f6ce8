"""What a recording says: a header, then programs; a program is steps of ``kernel.uapi``, each with what was observed.

The format is described in docs/recordings.md. Everything here is data; reading and writing files is in ``store``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from .codec import BITS, BadValueError, Kind, decode, encode, extra, many, mapping, nested, number, of, optional, text

FORMAT = "mmlitmus-recording"
#: raised when an older reader would misread a file; a new optional field is no reason
FORMAT_VERSION = 1

ERRNO = text(matching=re.compile(r"E[A-Z0-9]+"), called="an errno's name")
SIGNAL = text(matching=re.compile(r"SIG[A-Z0-9]+"), called="a signal's name")
SLOT = text(matching=re.compile(r"[a-z]"), called="a slot (one letter, a to z)")
PLACE = text(matching=re.compile(r"[0-9]+:[a-z][0-9]+"), called="a place (process:slot page, such as 0:a2)")
PROCESS = text(matching=re.compile(r"[0-9]+"), called="a process's number")
SHA256 = text(matching=re.compile(r"[0-9a-f]{64}"), called="a SHA-256 in hex")
WORD = text()
FLAG = Kind(lambda value, path: _read_bool(value, path), lambda value: value)
COUNT = number(1)
INDEX = number(0)
CHANGE = number(-(1 << 31), 1 << 31)
LEVELS = ("pgd", "p4d", "pud", "pmd", "pte")
#: cache types in the words of /sys/kernel/debug/x86/pat_memtype_list (arch/x86/mm/pat/memtype.c, cattr_name)
MEMTYPES = ("write-back", "write-combining", "uncached-minus", "uncached", "write-through", "write-protected")
#: what the kernel may print about a memtype, by what it says
MESSAGES = (
    "freeing-invalid-memtype", "expected-mapping-type", "ram-range-type", "conflicting-types", "reserve-failed",
    "ram-reserve-failed",
)  # fmt: skip


def _read_bool(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise BadValueError(path, f"true or false is wanted, not {value!r}")
    return value


def _read_prot(value: Any, path: str) -> str:
    if value not in ("", "r", "w", "x", "rw", "rx", "wx", "rwx"):
        raise BadValueError(path, f'a protection is "" or letters of "rwx" in that order, not {value!r}')
    return str(value)


PROT = Kind(_read_prot, str)


def flags(*names: str) -> Kind:
    """A list of flag names, each at most once."""
    kind = many(text(one_of=names))

    def read(value: Any, path: str) -> tuple[str, ...]:
        got: tuple[str, ...] = kind.read(value, path)
        if len(set(got)) < len(got):
            raise BadValueError(path, "a flag is named twice")
        return got

    return Kind(read, kind.write)


# -- observations -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Entry:
    """A page-table entry as the probe read it: at which level its walk ended, and the raw bits there."""

    level: str
    bits: int

    def __str__(self) -> str:
        return f"{self.level}:{self.bits:#x}"


def _read_entry(value: Any, path: str) -> Entry:
    level, _, bits = value.partition(":") if isinstance(value, str) else ("", "", "")
    if level not in LEVELS:
        raise BadValueError(path, f'an entry is "LEVEL:0x..." with a level of {", ".join(LEVELS)}, not {value!r}')
    return Entry(level, BITS.read(bits, path))


ENTRY = Kind(_read_entry, str)


@dataclass(frozen=True, kw_only=True)
class Result:
    """How an operation ended: exactly one of ok, errno, signal, died.

    ``value``: what a read returned. ``code``: si_code of the signal. ``died``: what became of the guest (oops, hang).
    """

    ok: bool = of(FLAG, default=False)
    errno: str | None = of(ERRNO, default=None)
    signal: str | None = of(SIGNAL, default=None)
    died: str | None = of(WORD, default=None)
    value: int | None = of(BITS, default=None)
    code: int | None = of(number(-128, 1 << 30), default=None)
    extra: dict[str, Any] = extra()

    @property
    def outcome(self) -> str:
        """One word: ``ok``, ``-EFAULT``, ``SIGBUS``, ``died: oops``."""
        if self.died is not None:
            return f"died: {self.died}"
        return f"-{self.errno}" if self.errno else self.signal or "ok"


def _read_result(value: Any, path: str) -> Result:
    result = decode(Result, value, path)
    given = [result.ok, *(x is not None for x in (result.errno, result.signal, result.died))]
    if sum(given) != 1:
        raise BadValueError(path, "a result is exactly one of ok (true), errno, signal, died")
    if result.value is not None and not result.ok:
        raise BadValueError(path, "only a result that is ok has a value")
    if result.code is not None and result.signal is None:
        raise BadValueError(path, "only a signal has a code")
    return result


@dataclass(frozen=True, kw_only=True)
class Memtype:
    """An entry of the memtype tree: physical addresses [``start``, ``end``) in bytes, and the cache ``type``."""

    start: int = of(BITS)
    end: int = of(BITS)
    type: str = of(text(one_of=MEMTYPES))
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class Message:
    """What the kernel printed about the physical addresses [``start``, ``end``), in bytes."""

    message: str = of(text(one_of=MESSAGES))
    start: int = of(BITS)
    end: int = of(BITS)
    extra: dict[str, Any] = extra()


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How often the kernel counts a frame as held (``refs``) and mapped (``maps``), this CPU's LRU batches empty.

    Of a frame of a region it is how much more than before the program; of any other frame of RAM, the count itself.
    """

    pfn: int = of(BITS)
    refs: int = of(CHANGE)
    maps: int = of(CHANGE)
    extra: dict[str, Any] = extra()


ADDRESS = r"(?:[a-z][0-9]+|0x[0-9a-f]{1,16})"
#: ``start unmap a0-a4``: an MMU notifier's call, of a range without its last page
EVENT = text(
    matching=re.compile(rf"(?:start|end) [a-z-]+ {ADDRESS}-{ADDRESS}|lost [0-9]+"),
    called="a notifier event (such as start unmap a0-a4)",
)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was seen after a step. What is absent, or null, was not observed.

    ``memtypes``: the memtype tree's entries in the probe's regions that were not there when the program started.
    ``pagemap``: the raw word of /proc/PID/pagemap, by place. ``locked``: VmLck by process, in pages. ``frames``: by
    place, of those whose entry maps a frame with a struct page. ``events``: what an MMU notifier of each process heard.
    """

    result: Result | None = of(optional(Kind(_read_result, encode)), default=None)
    entries: dict[str, Entry | None] = of(mapping(PLACE, optional(ENTRY)), default_factory=dict)
    vm_flags: dict[str, str | None] = of(mapping(PLACE, optional(WORD)), default_factory=dict)
    memtypes: tuple[Memtype, ...] | None = of(optional(many(nested(Memtype))), default=None)
    pagemap: dict[str, int | None] = of(mapping(PLACE, optional(BITS)), default_factory=dict)
    locked: dict[str, int] | None = of(optional(mapping(PROCESS, INDEX)), default=None)
    frames: dict[str, Frame] | None = of(optional(mapping(PLACE, nested(Frame))), default=None)
    events: dict[str, tuple[str, ...]] | None = of(optional(mapping(PROCESS, many(EVENT))), default=None)
    extra: dict[str, Any] = extra()

    @property
    def places(self) -> list[str]:
        """Every place that something is said about."""
        return list(dict.fromkeys([*self.entries, *self.vm_flags, *self.pagemap, *(self.frames or ())]))


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


BACKINGS = ("bar", "anonymous", "pfnmap")
INSERTS = ("remap", "remap_partial", "fault_pfn", "fault_pfn_prot", "remap_refill", "remap_fault", "mixed")
CACHES = ("", "wc", "uc-", "uc", "wt", "wp")


@dataclass(frozen=True, kw_only=True)
class Map(Step):
    """mmap ``pages`` pages at page ``page`` of ``slot``: of a device's BAR from page ``offset``, of anonymous memory,
    or (pfnmap) of frames of a region of the probe module's, from page ``offset`` of its file.

    For a pfnmap, ``frame`` is the region's page that the mapping begins with. ``insert`` is how the module fills it:
    remap_pfn_range of all of it, or of its first half, in ->mmap; vmf_insert_pfn, or vmf_insert_pfn_prot, in ->fault;
    remap_refill is remap, and ->fault puts back what was zapped; remap_fault, all of it by the first fault; mixed,
    vmf_insert_mixed in ->fault.
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
    insert: str = of(text(one_of=INSERTS), default="remap")
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


@dataclass(frozen=True, kw_only=True)
class Observe(Step):
    """Nothing is done; only looked."""

    has_result: ClassVar[bool] = False


def read_step(value: Any, path: str) -> Step:
    """A step from its JSON object, by its ``op``."""
    op = value.get("op") if isinstance(value, dict) else None
    if op not in VERBS:
        raise BadValueError(path, f"no operation {op!r}; known: {', '.join(VERBS)}")
    return decode(VERBS[op], {k: v for k, v in value.items() if k != "op"}, path)


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

    def check_backing(self, step: Map | Dev | Probe, path: str) -> None:
        """Is there what a step names? BadValueError when not."""
        if isinstance(step, Probe):
            if not self.regions:
                raise BadValueError(path, "the header lists no regions of a probe module")
            return
        if isinstance(step, Map) and step.backing != "bar":
            region = self.region(step.region)
            if step.backing == "pfnmap" and region is None:
                names = ", ".join(r.name for r in self.regions) or "none"
                raise BadValueError(path, f"there is no region {step.region!r}; the header lists {names}")
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
            elif isinstance(step, Map | Dev | Probe):
                header.check_backing(step, path)
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
