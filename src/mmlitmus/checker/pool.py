"""A few processes that do tasks. One that dies takes one task with it, and is replaced.

Each is handed one task at a time, so that a death can be laid at one task's door.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # multiprocessing costs more to import than a small case to run
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

#: how often a job is tried when its worker dies
TRIES = 2


@dataclass(frozen=True)
class Death:
    """What comes back for a task whose worker died."""

    code: int

    @property
    def text(self) -> str:
        """How it died."""
        return f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


class Crew:
    """A few processes of this machine, each of which does one task at a time."""

    def __init__(self, work: Callable[[Any], Any], processes: int) -> None:
        import multiprocessing

        self.work = work
        self.processes = processes
        # A forked worker has everything imported already. With threads about, or without fork, start afresh.
        self.forked = "fork" in multiprocessing.get_all_start_methods() and threading.active_count() == 1
        self.context: Any = multiprocessing.get_context("fork" if self.forked else "spawn")
        self.workers: dict[Connection, BaseProcess] = {}
        self.busy: dict[Connection, int] = {}
        self.spent: set[Connection] = set()  # have their only task

    @property
    def free(self) -> int:
        """How many more tasks can be under way."""
        return self.processes - len(self.busy)

    def give(self, tag: int, task: Any) -> None:
        """Have the task done; ``wait`` will say so by its tag."""
        alone = getattr(task, "alone", False)  # in a process that has done nothing before, and does nothing after
        idle = None if alone else next((one for one in self.workers if one not in self.busy), None)
        to = idle or self._hire()
        try:
            to.send((tag, task))
        except BrokenPipeError:  # died while it had nothing to do
            self._bury(to)
            to = self._hire()
            to.send((tag, task))
        self.busy[to] = tag
        if alone:
            self.spent.add(to)

    def wait(self) -> list[tuple[int, Any]]:
        """Some (tag, what came of it), as soon as there are any; ``Death`` where the worker died."""
        from multiprocessing.connection import wait

        done: list[tuple[int, Any]] = []
        for ready in wait(list(self.busy)):
            one: Connection = ready  # type: ignore[assignment]
            tag = self.busy.pop(one)
            try:
                done.append((tag, one.recv()))
            except (EOFError, OSError):
                done.append((tag, Death(self._bury(one))))
            else:
                if one in self.spent:
                    self.workers[one].terminate()
                    self._bury(one)
        return done

    def _hire(self) -> Connection:
        mine, its = self.context.Pipe()
        others = [mine, *self.workers] if self.forked else []  # a fork inherits them; they would outlive us there
        worker = self.context.Process(target=_serve, args=(its, self.work, others), daemon=True)
        worker.start()
        its.close()
        self.workers[mine] = worker
        hired: Connection = mine
        return hired

    def _bury(self, one: Connection) -> int:
        worker = self.workers.pop(one)
        self.spent.discard(one)
        one.close()
        worker.join()
        return worker.exitcode or 0

    def stop(self) -> None:
        """End the workers, also those that are still at it."""
        for worker in self.workers.values():
            worker.terminate()
        for one, worker in self.workers.items():
            worker.join()
            one.close()
        self.workers.clear()
        self.busy.clear()


def _serve(pipe: Connection, work: Callable[[Any], Any], others: list[Connection]) -> None:
    """A worker's life. The terminal's Ctrl-C reaches it too: the parent decides what that means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in others:
        other.close()
    while True:
        try:
            _, task = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(work(task))
        except BrokenPipeError:  # nobody waits any more
            return
