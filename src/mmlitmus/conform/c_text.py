"""What C programs are made of: the parts of ``reproducer.c``, what one is about, and how values are written in C."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .schema import Header

SOURCE = Path(__file__).with_name("reproducer.c")
#: columns of a line of C, a tab taken for eight
WIDTH = 110
#: advice that is a system call of its own
LOCKS = {"lock": "mlock({})", "unlock": "munlock({})", "lock_onfault": "mlock2({}, MLOCK_ONFAULT)"}
#: younger than some C libraries
YOUNG = {
    "MAP_FIXED_NOREPLACE": "0x100000",
    "MREMAP_DONTUNMAP": "4",
    "MADV_COLD": "20",
    "MADV_PAGEOUT": "21",
    "MADV_POPULATE_READ": "22",
    "MADV_POPULATE_WRITE": "23",
    "MADV_DONTNEED_LOCKED": "24",
    "MADV_COLLAPSE": "25",
    "MADV_GUARD_INSTALL": "102",
    "MADV_GUARD_REMOVE": "103",
    "MCL_ONFAULT": "4",
}
CACHE_NAMES = {"": "DEFAULT", "uc-": "UC_MINUS"}
#: what a device does: the parts that it takes, what to print, the call
ACTIONS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "memory_off": (("memory",), "memory decode off", "set_memory({fd}, false)"),
    "memory_on": (("memory",), "memory decode on", "set_memory({fd}, true)"),
    "d3hot": (("power",), "D3hot", "set_power({fd}, 3)"),
    "d0": (("power",), "D0", "set_power({fd}, 0)"),
    "low_power_enter": (("feature",), "low power", "set_feature({fd}, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY)"),
    "low_power_exit": (("feature",), "full power", "set_feature({fd}, VFIO_DEVICE_FEATURE_LOW_POWER_EXIT)"),
    "reset": (("vfio",), "VFIO_DEVICE_RESET", "ioctl({fd}, VFIO_DEVICE_RESET)"),
    "read": (("register",), "pread", "read_register({fd}, {page})"),
}
#: PCI functions by number, where a program's header does not say: those of the lab's machine
DEVICES = ("1234:11e8", "1af4:1110")
REGIONS = {"reserved": "resv", "hole": "hole", "bar": "bar"}
#: where the lab keeps memory back at boot, for regions whose place is not known
PLACES = {"reserved": 0x10000000, "hole": 0x20000000, "bar": 0xFD000000}
KEPT_BACK = {"reserved": "16M", "hole": "128M"}


class ReproduceError(ValueError):
    """There is no C for this program, or no such program; one line that says why."""


@dataclass(frozen=True)
class Look:
    """Something to see at the last step: ``name`` and ``place`` as in ``compare.Field``; what the real ``kernel``
    showed and what the ``model`` expects, in the words that the C program prints.
    """

    name: str
    place: str
    kernel: str
    model: str


@dataclass(frozen=True)
class About:
    """What a reproducer shows: the real kernel's name, the model's, and what to look at when the program has ended."""

    kernel: str = ""
    model: str = ""
    looks: tuple[Look, ...] = ()
    #: how many more there are to look at
    more: int = 0
    #: what differs and cannot be looked at, if that is all
    unseen: str = ""


def outcome(text: str) -> str:
    """How an operation ended (``schema.Result.outcome``), as a C program prints it."""
    if text == "ok":
        return "0"
    return f"-1 {text[1:]}" if text.startswith("-") else text


# -- the parts --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Part:
    """A part of ``reproducer.c``: the parts and headers that it needs, and its text."""

    name: str
    needs: tuple[str, ...]
    headers: tuple[str, ...]
    text: str


@cache
def parts() -> dict[str, Part]:
    """The parts by name, in the order in which they follow each other."""
    found = {}
    for block in re.split(r"^//@ ", SOURCE.read_text(), flags=re.M)[1:]:
        first, *lines = block.rstrip("\n").split("\n")
        name, _, needs = first.partition(":")
        headers = tuple(line[4:] for line in lines if line.startswith("//# "))
        text = "\n".join(line for line in lines if not line.startswith("//# "))
        found[name] = Part(name, tuple(needs.split()), headers, text)
    return found


# -- text --------------------------------------------------------------------------------------------------------------
def wrap_at(line: str) -> int | None:
    """Where to wrap a line: at a comma that is in no string, and rather between a call's arguments than within one."""
    best: dict[bool, int] = {}
    depth, inside = 0, False
    for n, c in enumerate(line):
        if len(line[:n].expandtabs()) >= WIDTH:
            break
        if c == '"' and line[n - 1] != "\\":
            inside = not inside
        elif not inside:
            depth += (c in "([{") - (c in ")]}")
            if line.startswith(", ", n) and n > 20:
                best[depth <= 2] = n
    return best.get(True, best.get(False))


def at(slot: str, page: int) -> str:
    """An address."""
    return f"AT('{slot}', {page})"


def pages(count: int) -> str:
    """A length."""
    return {0: "0", 1: "PAGE"}.get(count, f"{count} * PAGE")


def prot(letters: str) -> str:
    """A protection."""
    return " | ".join({"r": "PROT_READ", "w": "PROT_WRITE", "x": "PROT_EXEC"}[c] for c in letters) or "PROT_NONE"


def quoted(text: str) -> str:
    """A string of C."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def file_name(program: str) -> str:
    """The file that a program's C goes into."""
    return "".join(c if c.isalnum() or c in ".-_" else "_" for c in program) + ".c"


def vfio_lines(devices: Collection[int], header: Header | None) -> list[str]:
    """How to come by the devices of a program, for its head."""
    lines = []
    for n in sorted(devices):
        pci = header.devices[n].pci if header is not None and n < len(header.devices) else None
        pci = pci or (DEVICES[n] if n < len(DEVICES) else None)
        number = "" if len(devices) == 1 else str(n)
        which = f"ADDRESS{number} is a PCI function in an IOMMU group of its own"
        lines.append(f"{which}; here {pci} of QEMU's q35:" if pci else f"{which}:")
        if pci:
            new = f"echo {pci.replace(':', ' ')} > /sys/bus/pci/drivers/vfio-pci/new_id"
            lines.append(f"\tmodprobe vfio-pci; {new}")
    return lines
