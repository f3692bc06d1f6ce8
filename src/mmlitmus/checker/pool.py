"""Running many jobs on a few processes, results in the order of the jobs.

A worker that dies takes one job with it; that job is done once more in a new worker. Workers are handed one job at a
time, so that a death can be laid at one job's door.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # multiprocessing costs more to import than a small case to run
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

J = TypeVar("J")
R = TypeVar("R")

#: how often a job is tried when its worker dies
TRIES = 2


def in_order(
    jobs: Sequence[J],
    work: Callable[[J], R],
    processes: int,
    *,
    died: Callable[[J, int, bool], R | None],
    each: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, R]]:
    """Yield (job number, result) in the order of ``jobs``.

    ``died(job, exit code, again)`` is told of a death: ``again`` says that the job is tried once more; otherwise what
    it returns is the job's result. ``each`` is called whenever a job is done. One process means this one.
    """
    if processes <= 1 or len(jobs) <= 1:
        for n, job in enumerate(jobs):
            result = work(job)
            each()
            yield n, result
        return
    crew = _Crew(jobs, work, died, each)
    try:
        yield from crew.run(min(processes, len(jobs)))
    finally:
        crew.stop()


class _Crew(Generic[J, R]):
    def __init__(
        self,
        jobs: Sequence[J],
        work: Callable[[J], R],
        died: Callable[[J, int, bool], R | None],
        each: Callable[[], None],
    ) -> None:
        import multiprocessing

        self.jobs = jobs
        self.work = work
        self.died = died
        self.each = each
        # A forked worker has everything imported already. With threads about, or without fork, start afresh.
        self.forked = "fork" in multiprocessing.get_all_start_methods() and threading.active_count() == 1
        self.context: Any = multiprocessing.get_context("fork" if self.forked else "spawn")
        self.workers: dict[Connection, tuple[BaseProcess, int]] = {}
        self.waiting = list(reversed(range(len(jobs))))
        self.tries = [0] * len(jobs)
        self.done: dict[int, R | None] = {}

    def run(self, processes: int) -> Iterator[tuple[int, R]]:
        from multiprocessing.connection import wait

        for _ in range(processes):
            self._hire()
        for n in range(len(self.jobs)):
            while n not in self.done:
                for ready in wait(list(self.workers)):
                    self._answer(ready)  # type: ignore[arg-type]
            yield n, self.done.pop(n)  # type: ignore[misc]

    def _hire(self) -> None:
        mine, its = self.context.Pipe()
        others = [mine, *self.workers] if self.forked else []  # a fork inherits them; they would outlive us there
        worker = self.context.Process(target=_serve, args=(its, self.work, others), daemon=True)
        worker.start()
        its.close()
        self.workers[mine] = (worker, -1)
        self._give(mine)

    def _give(self, to: Connection) -> None:
        worker, _ = self.workers[to]
        n = self.waiting.pop() if self.waiting else -1
        self.workers[to] = (worker, n)
        to.send((n, self.jobs[n] if n >= 0 else None))
        if n < 0:
            del self.workers[to]
            to.close()

    def _answer(self, ready: Connection) -> None:
        worker, n = self.workers[ready]
        try:
            self.done[n] = ready.recv()
        except (EOFError, OSError):
            del self.workers[ready]
            ready.close()
            worker.join()
            self.tries[n] += 1
            again = self.tries[n] < TRIES
            result = self.died(self.jobs[n], worker.exitcode or 0, again)
            if again:
                self.waiting.append(n)
            else:
                self.done[n] = result
                self.each()
            if self.waiting:
                self._hire()
            return
        self.each()
        self._give(ready)

    def stop(self) -> None:
        """End the workers that are still at it."""
        for worker, _ in self.workers.values():
            worker.terminate()
        for worker, _ in self.workers.values():
            worker.join()


def _serve(pipe: Connection, work: Callable[[Any], Any], others: list[Connection]) -> None:
    """A worker's life. The terminal's Ctrl-C reaches it too: the parent decides what that means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in others:
        other.close()
    while True:
        try:
            n, job = pipe.recv()
        except EOFError:
            return
        if n < 0:
            return
        pipe.send(work(job))
