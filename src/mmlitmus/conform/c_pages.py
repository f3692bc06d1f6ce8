"""The C of steps that have the kernel get at a process's pages: pins, transfers, DMA, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .c_text import at, pages
from .schema import CLEARED, Clear, Dma, Limit, Lockall, Pin, Step, Transfer, Unlockall, Unpin

if TYPE_CHECKING:
    from .c_program import Writer

#: the parts that each kind of transfer takes, and its call
TRANSFERS = {
    "process_vm_readv": (("vm-move",), "vm_move({pid}, {at}, {size}, false)"),
    "process_vm_writev": (("vm-move",), "vm_move({pid}, {at}, {size}, true)"),
    "proc_mem_read": (("memory-file",), "memory_file({pid}, {at}, {size}, false)"),
    "proc_mem_write": (("memory-file",), "memory_file({pid}, {at}, {size}, true)"),
    "ptrace_peek": (("trace",), "trace({pid}, {at}, {count}, false)"),
    "ptrace_poke": (("trace",), "trace({pid}, {at}, {count}, true)"),
    "vmsplice": (("pipe-in",), "pipe_in({at}, {size}, true)"),
    "write_pipe": (("pipe-in",), "pipe_in({at}, {size}, false)"),
    "o_direct_read": (("direct",), "direct({at}, {size}, false)"),
    "o_direct_write": (("direct",), "direct({at}, {size}, true)"),
}


def _say(writer: Writer, n: int, step: Step, name: str, call: str) -> None:
    """A call that returns how many, or -1."""
    result = step.observed.result
    wanted = -1 if result is None or result.count is None else result.count
    writer.need("say-count")
    writer.put(f'say_count({n}, "{name}", {call}, {wanted});')


def _pid(writer: Writer, process: int | None) -> str:
    """The process that a step is about; 0 is the current one."""
    if process is None:
        return "0"
    return f"now.pid[{process}]" if writer.forks else "getpid()"


def pin(writer: Writer, n: int, step: Pin) -> None:
    """The probe module gets pages and keeps them."""
    writer.need("pin")
    flags = " | ".join(f"PIN_{flag.upper()}" for flag in step.flags) or "0"
    where = f"{at(step.slot, step.page)}, {step.pages}, {step.variant.upper()}, {flags}"
    _say(writer, n, step, step.variant, f"pin({n}, {where}, {_pid(writer, step.process)}, {step.hold})")


def unpin(writer: Writer, n: int, step: Unpin) -> None:
    """It lets go of them."""
    writer.need("unpin")
    _say(writer, n, step, "unpin", f"unpin({step.hold}, {'true' if 'dirty' in step.flags else 'false'})")


def transfer(writer: Writer, n: int, step: Transfer) -> None:
    """A system call that moves what is in pages."""
    parts, call = TRANSFERS[step.kind]
    writer.need(*parts)
    writer.headers.add("<stdbool.h>")
    words = {"pid": _pid(writer, step.process), "at": at(step.slot, step.page), "size": pages(step.pages)}
    _say(writer, n, step, step.kind, call.format(count=step.pages, **words))


def dma(writer: Writer, n: int, step: Dma) -> None:
    """MAP_DMA, UNMAP_DMA."""
    writer.devices.add(0)
    writer.need("dma")
    where = f"IOVA({step.iova}, {step.offset}), {pages(step.pages)}"
    if step.action == "unmap":
        _say(writer, n, step, "VFIO_IOMMU_UNMAP_DMA", f"unmap_dma({where})")
        return
    names = {"r": "VFIO_DMA_MAP_FLAG_READ", "w": "VFIO_DMA_MAP_FLAG_WRITE"}
    flags = " | ".join(names[letter] for letter in step.prot) or "0"
    memory = "NULL" if step.slot is None else at(step.slot, step.page)
    writer.say(n, "VFIO_IOMMU_MAP_DMA", f"map_dma({where}, {memory}, {flags})")


def clear(writer: Writer, n: int, step: Clear) -> None:
    """clear_refs."""
    writer.need("clear")
    writer.say(n, f"clear {step.what}", f"clear_refs({CLEARED.index(step.what) + 1})")


def limit(writer: Writer, n: int, step: Limit) -> None:
    """RLIMIT_MEMLOCK."""
    writer.need("limit")
    writer.say(n, "setrlimit", f"limit_locked({pages(step.locked)})")


def lockall(writer: Writer, n: int, step: Lockall) -> None:
    """mlockall."""
    flags = writer.one_of([f"MCL_{flag.upper()}" for flag in step.flags])
    writer.say(n, "mlockall", f"mlockall({flags})")


def unlockall(writer: Writer, n: int, step: Unlockall) -> None:
    """munlockall."""
    writer.say(n, "munlockall", "munlockall()")


EMIT: dict[type[Step], Callable[..., None]] = {
    Pin: pin,
    Unpin: unpin,
    Transfer: transfer,
    Dma: dma,
    Clear: clear,
    Limit: limit,
    Lockall: lockall,
    Unlockall: unlockall,
}
