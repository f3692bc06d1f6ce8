"""What a recording says: a header, then programs; a program is steps of ``kernel.uapi``, each with what was observed.

The format is described in docs/recordings.md. Everything here is data; reading and writing files is in ``store``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .codec import BITS, BadValueError, Kind, extra, many, mapping, nested, number, of, optional, text
from .observed import COUNT, FLAG, INDEX, SHA256, WORD
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
from .steps import ACTIONS as ACTIONS
from .steps import ADVICE as ADVICE
from .steps import ANY_PROCESS as ANY_PROCESS
from .steps import BACKINGS as BACKINGS
from .steps import CACHES as CACHES
from .steps import CALLS as CALLS
from .steps import CLEARED as CLEARED
from .steps import FEW as FEW
from .steps import HUGE_INSERTS as HUGE_INSERTS
from .steps import INSERTS as INSERTS
from .steps import LOCKS as LOCKS
from .steps import MORE_ADVICE as MORE_ADVICE
from .steps import OF_ANOTHER as OF_ANOTHER
from .steps import PAGE_INSERTS as PAGE_INSERTS
from .steps import PIN_FLAGS as PIN_FLAGS
from .steps import REMOTE as REMOTE
from .steps import TRANSFERS as TRANSFERS
from .steps import VARIANTS as VARIANTS
from .steps import VERBS as VERBS
from .steps import Advise as Advise
from .steps import Clear as Clear
from .steps import Dev as Dev
from .steps import Dma as Dma
from .steps import Exit as Exit
from .steps import Fork as Fork
from .steps import Limit as Limit
from .steps import Lockall as Lockall
from .steps import Map as Map
from .steps import Observe as Observe
from .steps import Pin as Pin
from .steps import Probe as Probe
from .steps import Protect as Protect
from .steps import Remap as Remap
from .steps import Step as Step
from .steps import Switch as Switch
from .steps import Touch as Touch
from .steps import Transfer as Transfer
from .steps import Unlockall as Unlockall
from .steps import Unmap as Unmap
from .steps import Unpin as Unpin
from .steps import read_step as read_step
from .steps import write_step as write_step

FORMAT = "mmlitmus-recording"
#: raised when an older reader would misread a file; a new optional field is no reason
FORMAT_VERSION = 1


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
    """The first line. ``isolation``: each program on a ``fresh`` kernel, or one after the other in one boot: of a
    ``batch`` each found what a fresh kernel shows it, of a ``sequence`` nobody looked.

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
    isolation: str = of(text(one_of=("fresh", "batch", "sequence")))
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
            if isinstance(step, Probe) and (step.slot is None) != (step.call == "unmap_mapping_range"):
                raise BadValueError(path, f"{step.call} is of a slot, and unmap_mapping_range is not")
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
