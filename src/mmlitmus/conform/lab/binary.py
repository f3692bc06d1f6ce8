"""Programs of a user's own in a guest: static executables, each run on a fresh kernel, and what they printed.

In the agent's place is a shell script that runs the commands it is sent. A guest's file system may be of several
archives, of which the last one wins: this one's follows the lab's.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .initramfs import cpio
from .lab import Lab
from .machine import Machine
from .session import Session

SCRIPT = r"""#!/bin/sh
# In the agent's place: runs what it is sent, and says what that prints, line by line.
export PATH=/bin
exec 3<>"$1"
[ -t 3 ] && stty raw -echo <&3
say() { echo "@mm {\"$1\": $2}" >&3; }

# give the PCI functions with these numbers (vendor:device) to vfio-pci; their addresses
bound() {
    for id; do
        for at in /sys/bus/pci/devices/*; do
            [ "$(cat "$at/vendor"):$(cat "$at/device")" = "0x${id%:*}:0x${id#*:}" ] || continue
            echo vfio-pci > "$at/driver_override"
            echo "${at##*/}" > /sys/bus/pci/drivers/vfio-pci/bind
            echo "${at##*/}"
        done
    done
}

say ready "{\"release\": \"$(uname -r)\"}"
while read -r line <&3; do
    case $line in
    "program "*) name=${line#program } ;;
    end) say end "\"$name\"" ;;
    *)
        { (eval "$line") 2>&1; echo $? > /tmp/status; } | while IFS= read -r text; do
            say said "\"$(printf %s "$text" | tr '\t' ' ' | sed 's/[\\"]/\\&/g')\""
        done
        say status "$(cat /tmp/status)"
        ;;
    esac
done
"""


@dataclass(frozen=True)
class Ran:
    """What became of a program: how its guest ended (``kind``: as of ``session.Outcome``), its exit ``status`` (None:
    it has none), the ``lines`` that it printed, and, if the guest did not end well, ``why`` and its ``console``.
    """

    kind: str
    status: int | None
    lines: tuple[str, ...]
    console: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Binaries:
    """A booted kernel with programs below /lab."""

    session: Session

    def run(self, name: str, devices: tuple[str, ...] = (), timeout: float = 60.0) -> Ran:
        """Run one on a fresh kernel. ``devices``: PCI functions, as vendor:device, that vfio-pci drives then, and whose
        addresses are the program's arguments. LabError if QEMU does not run it.
        """
        arguments = f" $(bound {' '.join(devices)})" if devices else ""
        outcome = self.session.run(f"program {name}\n/lab/{name}{arguments}\nend\n", timeout)
        objects = outcome.objects()
        status = next((int(said["status"]) for said in objects if "status" in said), None)
        lines = tuple(str(said["said"]) for said in objects if "said" in said)
        return Ran(outcome.kind, status, lines, outcome.console, outcome.why)


@contextmanager
def binaries(
    lab: Lab, kernel: str | Path, files: Mapping[str, Path], machine: Machine | None = None, modules: Path | None = None
) -> Iterator[Binaries]:
    """A kernel of the lab's, booted once, with these executables in it, by name. They have to be static.

    LabError as of ``Lab.session``.
    """
    setup = lab.setup(kernel, machine, modules)
    setup.scratch.mkdir(parents=True, exist_ok=True)
    entries = [("lab/agent", stat.S_IFREG | 0o755, SCRIPT.encode())]
    entries += [(f"lab/{name}", stat.S_IFREG | 0o755, path.read_bytes()) for name, path in sorted(files.items())]
    with tempfile.NamedTemporaryFile(dir=setup.scratch, suffix=".cpio") as file:
        file.write(setup.initrd.read_bytes() + cpio(entries))
        file.flush()
        with Session(replace(setup, initrd=Path(file.name))) as session:
            yield Binaries(session)
