"""The configuration space of devices whose state QEMU does not save, carried over from the one guest to the next.

QEMU's ``edu`` says nothing of how it is saved: restored, it has no address and its memory decode is off, while the
guest believes otherwise. The host puts its registers back before the guest runs on, by the ports a guest would use.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

#: vendor and device, as the register at offset 0 has them
EDU = 0x11E8_1234
UNSAVED = (EDU,)
ADDRESS, DATA = 0xCF8, 0xCFC
#: the header, and the capabilities that edu has there (MSI), in bytes
SIZE = 0x60
COMMAND = 0x04
SLOTS = 32


class Ports(Protocol):
    """The machine's I/O ports, 32 bits at a time."""

    def port_in(self, port: int) -> int:
        """Read a port."""

    def port_out(self, port: int, value: int) -> None:
        """Write a port."""


class Config(NamedTuple):
    """A device's registers: ``slot`` on bus 0, and 32-bit words from offset 0 on."""

    slot: int
    words: tuple[int, ...]


def _at(slot: int, offset: int) -> int:
    return 0x8000_0000 | slot << 11 | offset


def _read(ports: Ports, slot: int, offset: int) -> int:
    ports.port_out(ADDRESS, _at(slot, offset))
    return ports.port_in(DATA)


def take(ports: Ports) -> list[Config]:
    """The registers of every device on bus 0 whose state QEMU does not save."""
    latched = ports.port_in(ADDRESS)
    found = []
    for slot in range(SLOTS):
        if _read(ports, slot, 0) in UNSAVED:
            found.append(Config(slot, tuple(_read(ports, slot, offset) for offset in range(0, SIZE, 4))))
    ports.port_out(ADDRESS, latched)
    return found


def put(ports: Ports, configs: list[Config]) -> None:
    """Give devices their registers back; the command register, with memory decode in it, last."""
    latched = ports.port_in(ADDRESS)
    for slot, words in configs:
        for offset in [*(o for o in range(0, SIZE, 4) if o != COMMAND), COMMAND]:
            value = words[offset // 4]
            if offset == COMMAND:
                value &= 0xFFFF  # the status bits above are cleared by writing ones
            ports.port_out(ADDRESS, _at(slot, offset))
            ports.port_out(DATA, value)
    ports.port_out(ADDRESS, latched)
