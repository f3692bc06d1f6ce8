"""Interrupts: a CPU's interrupt-enable flag, and what another CPU makes it do.

An inter-processor interrupt is one event a CPU: the handler runs, and the sender has its acknowledgement, at one moment
at which that CPU has interrupts on. The sender addresses the CPUs one after the other.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import runtime as rt
from ..contexts import IPI_WITHOUT_IRQS, IRQS_ON
from ..findings import report
from ..ops import IPI, LOCAL_IRQ_DISABLE, LOCAL_IRQ_ENABLE
from ..runtime import Op
from .base import Primitive


class Cpu(Primitive):
    """One CPU. ``state`` is how deep interrupts are disabled; ``task`` is the task that runs on it."""

    __slots__ = ("task",)

    def __init__(self, name: str, task: int = -1) -> None:
        super().__init__(name, "irq")
        self.state = 0
        self.task = task

    def enabled(self, state: int, op: Op, task: int) -> bool:
        return state == 0

    def waits_for(self, op: Op, task: int) -> list[int]:
        return [self.task]

    def local_irq_disable(self) -> None:
        """No interrupt is taken on this CPU from now on; nests."""
        rt.point((LOCAL_IRQ_DISABLE, self.id, ()))
        self.state += 1
        self.task = rt.engine.cur
        rt.current().irqs_off += 1

    def local_irq_enable(self) -> None:
        """Undo one ``local_irq_disable``; a finding when there is none to undo."""
        rt.point((LOCAL_IRQ_ENABLE, self.id, ()))
        task = rt.current()
        if not task.irqs_off:
            report("WARN", IRQS_ON, f"{task.name} turns interrupts on that it has not turned off")
            return
        task.irqs_off -= 1
        self.state -= 1

    def ipi(self, handler: Callable[[], None], writes: tuple[int, ...]) -> None:
        """Run ``handler`` on this CPU as soon as it takes interrupts, and wait for it. ``writes``: ids it writes.

        A finding with interrupts off: two CPUs that send to each other so wait for ever.
        """
        task = rt.current()
        if task.irqs_off:
            report("WARN", IPI_WITHOUT_IRQS, f"{task.name} sends an IPI to {self.name} with interrupts off")
        rt.point((IPI, self.id, tuple(w << 1 | 1 for w in writes)))
        handler()
