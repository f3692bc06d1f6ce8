"""The kernels that the lab knows: Debian's stock builds for amd64, by the name of their series."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import LabError


@dataclass(frozen=True)
class Known:
    """A series that Debian packages.

    ``abi``: what its builds are called (the end of the package's name, and ``uname -r``); ``tried``: the build that the
    recordings were made with, taken where the archive still has it. ``images``: the packages with the kernel and its
    modules, {abi} filled in. ``suites``: where they are. ``headers``: whether the archive has the headers, without
    which there is no probe module. ``compiler``: the compiler that Debian built the kernel with; ``toolchain``: the
    suite of a tool chain that runs the headers' own programs where the host's C library is too old for them.
    """

    name: str
    abi: str
    tried: str
    images: tuple[str, ...]
    suites: tuple[str, ...]
    headers: bool
    compiler: str = ""
    toolchain: str = ""

    def builds(self, names: list[str]) -> list[str]:
        """The builds among an archive's package names, the one to take first: the one tried, then the newest."""
        first = self.images[0].split("{abi}")
        pattern = re.compile(re.escape(first[0]) + f"({self.abi})" + re.escape(first[1]))
        have = set(names)
        found = sorted({m.group(1) for m in map(pattern.fullmatch, names) if m}, key=_numbers, reverse=True)
        whole = [abi for abi in found if all(image.format(abi=abi) in have for image in self.images)]
        return sorted(whole, key=lambda abi: abi != self.tried)


def _numbers(abi: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", abi)]


SIGNED = ("linux-image-{abi}",)
UNSIGNED = ("linux-image-{abi}-unsigned",)
#: from 6.19 on the kernel and its modules are packages of their own
SPLIT = ("linux-binary-unsigned-{abi}", "linux-modules-{abi}")

KERNELS = (
    Known(
        "5.10", r"5\.10\.0-\d+-amd64", "5.10.0-46-amd64", UNSIGNED, ("bullseye", "bullseye-security"), True, "gcc-10"
    ),
    Known("6.1", r"6\.1\.0-\d+-amd64", "6.1.0-56-amd64", UNSIGNED, ("bookworm", "bookworm-security"), True, "gcc-12"),
    Known(
        "6.12",
        r"6\.12\.\d+\+deb12-amd64",
        "6.12.117+deb12-amd64",
        UNSIGNED,
        ("bookworm", "bookworm-security"),
        True,
        "gcc-12",
    ),
    Known("6.16", r"6\.16\.\d+\+deb13-amd64", "6.16.12+deb13-amd64", SIGNED, ("trixie-backports",), False),
    Known("6.18", r"6\.18\.\d+\+deb13-amd64", "6.18.15+deb13-amd64", SIGNED, ("trixie-backports",), False),
    Known(
        "7.3",
        r"7\.3\.\d+\+deb13-amd64",
        "7.3.4+deb13-amd64",
        SPLIT,
        ("trixie-backports",),
        True,
        "gcc-14",
        "trixie",
    ),
)


def known(name: str) -> Known:
    """The series of a name. LabError with the names there are."""
    for one in KERNELS:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in KERNELS)
    raise LabError(f"the lab knows no kernel {name!r}; it knows {names}, and --kernel takes the path of a bzImage")
