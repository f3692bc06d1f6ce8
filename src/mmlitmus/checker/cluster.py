"""A campaign's workers on other machines: an existing scheduler of dask.distributed (the extra ``cluster``).

Every task stands for itself and always gives the same (``campaign``), and what comes of it is taken once, by its
future. So when a machine goes away, the scheduler has what it was at, and what it had not handed over yet, done anew
elsewhere; nothing is lost, and nothing is counted twice.

Every machine needs mmlitmus in the same version, from the same sources, and a stranger's case file at the same path.
There a task runs in a thread, where no watchdog can break a task of a case that computes for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .case import CaseError
from .checkpoint import sources

#: tasks under way per thread of the cluster: one is being done, one waits there
AHEAD = 2

_one_at_a_time = threading.Lock()  # a process explores one machine at a time


class ClusterError(Exception):
    """A cluster that cannot be used. Its text is one line."""


def remote(ours: str, work: Callable[[Any], Any], task: Any) -> Any:
    """Do a task on a machine of the cluster."""
    if sources() != ours:
        return CaseError("a worker of the cluster has other sources of mmlitmus than this machine")
    with _one_at_a_time:
        return work(task)


class Cluster:
    """The workers of the scheduler at ``address``."""

    def __init__(self, address: str, work: Callable[[Any], Any], told: Callable[[str], None], seconds: float = 10):
        try:
            import dask
            from distributed import Client, as_completed
        except ImportError as e:
            raise ClusterError("--cluster needs dask.distributed: pip install 'mmlitmus[cluster]'") from e
        self.settings = dask.config.set({"distributed.comm.timeouts.connect": f"{seconds:g}s"})
        try:
            self.client: Any = Client(address, timeout=seconds, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as e:
            raise ClusterError(f"no dask scheduler answers at {address}") from e
        self.work = work
        self.told = told
        self.done: Any = as_completed(loop=self.client.loop)
        self.tags: dict[Any, int] = {}
        self.known: dict[str, int] = {}
        self._look()
        if not self.known:
            self.client.close()
            raise ClusterError(f"the scheduler at {address} has no workers")

    def _look(self) -> None:
        """Who is there, and who is not there any more."""
        now = {
            address: int(about.get("nthreads", 1))
            for address, about in self.client.scheduler_info(n_workers=-1)["workers"].items()
        }
        for gone in sorted(set(self.known) - set(now)):
            self.told(f"cluster: the worker at {gone} is gone; what it was at is done again")
        self.known = now

    @property
    def free(self) -> int:
        """How many more tasks can be under way."""
        return AHEAD * max(1, sum(self.known.values())) - len(self.tags)

    def give(self, tag: int, task: Any) -> None:
        """Have the task done."""
        future = self.client.submit(remote, sources(), self.work, task, pure=False, key=f"mmlitmus-{id(self)}-{tag}")
        self.tags[future.key] = tag
        self.done.add(future)

    def wait(self) -> list[tuple[int, Any]]:
        """Some (tag, what came of it)."""
        from distributed.scheduler import KilledWorker

        from .pool import Death

        future = next(self.done)
        tag = self.tags.pop(future.key)
        self._look()
        try:
            return [(tag, future.result())]
        except KilledWorker:
            return [(tag, Death(1))]

    def stop(self) -> None:
        """No more tasks."""
        self.done.clear()
        self.client.close()
