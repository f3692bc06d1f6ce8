"""The emulated machine: QEMU's options and the kernel's command line. Emulation only; no network, no display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .host import program
from .place import write

QEMU = "qemu-system-x86_64"
KINDS = ("pc", "q35")
#: physical memory that the kernel is told to leave alone, for the probe: RAM (resv) and, past 512 MiB, RAM too (hole)
RESERVED = (("16M", 0x10000000), ("128M", 0x20000000))
#: less would not hold the reservations and the kernel
LEAST_MB = 1024
DISK_PAGES = 256
PAGE = 4096
#: the modules of the kernel's own that each machine's devices want
MODULES = {"pc": ("virtio_pci", "virtio_blk"), "q35": ("virtio_pci", "virtio_blk", "vfio_iommu_type1", "vfio_pci")}
#: and one that it may do without: the agent then talks on a serial line, which is slow
OPTIONAL = ("virtio_console",)
#: what the guest calls the port that the agent talks on
PORT = "mmlitmus.agent"


@dataclass(frozen=True)
class Machine:
    """A machine to boot: its ``kind``, ``memory_mb`` of RAM, whether the kernel is placed at random (``kaslr``).

    ``words``: more words for the kernel's command line; ``options``: more options for QEMU.
    """

    kind: str = "pc"
    memory_mb: int = 2048
    kaslr: bool = False
    words: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a machine is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.memory_mb < LEAST_MB:
            raise ValueError(f"a guest gets at least {LEAST_MB} MB, not {self.memory_mb}")

    def command_line(self, shell: bool = False) -> str:
        """What the kernel is told. An oops ends the guest, so that it cannot be overlooked."""
        words = ["console=ttyS0", "oops=panic", "panic=-1", "sysrq_always_enabled"]
        # a protection of x alone would take a protection key, which is in the entry's bits: the model has none
        words += ["nopku"]
        words += [f"memmap={size}${start:#x}" for size, start in RESERVED]
        words += [] if self.kaslr else ["nokaslr"]
        words += ["intel_iommu=on"] if self.kind == "q35" else []
        words += ["lab.shell"] if shell else ["quiet"]
        return " ".join([*words, *self.words])

    def devices(self, disk: Path) -> list[str]:
        """The devices, the same for every boot of this machine."""
        found = ["-vga", "std"]
        if self.kind == "q35":
            found += ["-device", "intel-iommu", "-device", "edu"]
            found += ["-object", "memory-backend-ram,id=shared,size=4M"]
            # a peer of others cannot be saved, the master of the shared memory can
            found += ["-device", "ivshmem-plain,memdev=shared,master=on"]
        # what a guest writes to the disk is dropped when it ends
        name = str(disk).replace(",", ",,")
        found += ["-drive", f"if=none,id=disk,format=raw,snapshot=on,file={name}"]
        found += ["-device", "virtio-blk-pci,drive=disk"]
        # a serial line traps for every byte; this takes a whole answer at once
        return [*found, "-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=port,name={PORT}"]

    def argv(self, memory: str, shared: bool, disk: Path, rest: Sequence[str]) -> list[str]:
        """QEMU with this machine; ``memory``: the file that is the guest's RAM; ``shared``: whether it writes there."""
        ram = f"memory-backend-file,id=ram,size={self.memory_mb}M,mem-path={memory},share={'on' if shared else 'off'}"
        return [
            program(QEMU, "run a kernel"),
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
            *("-object", ram, "-machine", f"{self.kind},memory-backend=ram", "-m", str(self.memory_mb)),
            # a guest's clock stands still while it is not running, and shows the same date every time
            *("-rtc", "base=2024-01-01,clock=vm"),
            *("-nic", "none", "-display", "none"),
            *self.devices(disk),
            *rest,
            *self.options,
        ]


def disk(path: Path) -> Path:
    """The disk's image, written if it is not there: page n holds its number in every byte."""
    if not path.is_file():
        write(path, b"".join(bytes([n % 256]) * PAGE for n in range(DISK_PAGES)))
    return path
