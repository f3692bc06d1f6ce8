"""What can go wrong in the lab, each with one message for the person who asked."""

from __future__ import annotations

from collections.abc import Sequence


class LabError(Exception):
    """The lab cannot do what was asked. ``console``: the last lines of the guest's console, where there was a guest."""

    def __init__(self, message: str, console: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.console = tuple(console)

    def __str__(self) -> str:
        message = super().__str__()
        if not self.console:
            return message
        return "\n".join([f"{message}; the last lines of the console:", *(f"  | {line}" for line in self.console)])


class BootError(LabError):
    """A kernel stopped or came to a halt on its way to the agent. It may have been the emulator: try once more."""


class MissingError(LabError):
    """A program or file of the host is not there; the message names the Debian package that has it."""
