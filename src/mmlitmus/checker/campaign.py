"""Many searches on several processes: small ones whole, large ones in parts (``explore/split.py``).

All that is known stands here, in the process that the user started; a worker gets a task, does it and forgets it. So it
does not matter where a worker runs, and when one dies its task is given to another: what it had found goes with it, and
is found again. A task is one of three: begin a row and bring it to its end if that is near; search one part; judge a
search that has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mmlitmus.explore.limits import Limits, resident

from .case import CaseError
from .load import is_shipped, shown
from .pool import TRIES, Death
from .row import Row
from .run import Builder, ask, limits_of, part, parts_for

if TYPE_CHECKING:
    from mmlitmus.explore.sample import Order
    from mmlitmus.explore.split import Slice

    from .many import Job
    from .run import Parts

#: a worker that begins a row brings it to its end if that takes no more seconds than this
PATIENCE = 0.25


class Workers(Protocol):
    """Those who do tasks: ``pool.Crew`` on this machine, ``cluster.Cluster`` on others."""

    @property
    def free(self) -> int:
        """How many more tasks can be under way."""
        ...

    def give(self, tag: int, task: Any) -> None:
        """Have the task done."""
        ...

    def wait(self) -> list[tuple[int, Any]]:
        """Some (tag, what came of it), as soon as there are any; ``pool.Death`` where the worker died."""
        ...

    def stop(self) -> None:
        """No more tasks."""
        ...


@dataclass
class Task:
    """What a worker does: one part (``order``), or a row from where its ``parts`` have come to."""

    job: Job
    order: Slice | Order | None = None
    parts: Parts | None = None

    @property
    def alone(self) -> bool:
        """Does it need a process in which nothing was run before? A stranger's case may keep state in a module, and
        what it says must not depend on which rows were run before it, and where."""
        return not is_shipped(self.job.case.file)


@dataclass
class Done:
    """What came of a part, and how much memory the worker has."""

    found: Any
    memory: int


_last: tuple[str, str, Builder] | None = None


def work(task: Task) -> Row | Parts | Done | CaseError:
    """Do a task, in whichever process. Whatever is raised costs this row and no other."""
    try:
        return _part(task, task.order) if task.order is not None else _row(task)
    except CaseError as e:
        return CaseError(str(e))  # without its traceback's frames, which cannot be sent
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        from .many import failed

        return failed(task.job, e)


def _part(task: Task, order: Slice | Order) -> Done:
    global _last
    job = task.job
    if _last is None or _last[:2] != (job.case.source + job.case.file, job.spec):
        _last = (job.case.source + job.case.file, job.spec, Builder(job.case, job.spec))
    return Done(part(_last[2], order), resident())


def _row(task: Task) -> Row | Parts:
    job = task.job
    parts = task.parts or parts_for(job.how)
    until = time.monotonic() + PATIENCE
    limits = limits_of(job.how)

    def go_on(parts: Parts) -> bool:
        return time.monotonic() < until and not (limits is not None and limits.exceeded(resident()))

    return ask(job.case, job.spec, job.how, parts, go_on)


@dataclass
class Search:
    """A row that takes longer."""

    parts: Parts
    limits: Limits | None
    judging: bool = False
    deaths: int = 0


@dataclass
class Campaign:
    """The rows of many jobs. ``told`` is called with remarks; ``kept`` whenever a search has come further."""

    jobs: Sequence[Job]
    workers: Workers
    told: Callable[[str], None]
    each: Callable[[], None]
    kept: Callable[[Job, Parts, bool], None] = lambda job, parts, done: None
    resumed: Callable[[Job], Parts | None] = lambda job: None
    results: dict[int, Row | CaseError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = list(reversed(range(len(self.jobs))))
        self.searches: dict[int, Search] = {}
        self.began: dict[int, float] = {}
        self.tries: dict[int, int] = {}
        self.given: dict[int, tuple[int, Any]] = {}  # tag -> (row, the search's own tag of the part; None: the row)
        self.tag = 0

    def run_until(self, row: int) -> Row | CaseError:
        """Work until that row is there."""
        while row not in self.results:
            while self.workers.free > 0 and self._give():
                pass
            for tag, outcome in self.workers.wait():
                self._take(tag, outcome)
        return self.results.pop(row)

    # -- handing out ---------------------------------------------------------------------------------------------
    def _give(self) -> bool:
        """Hand out the next task; False when there is none for now."""
        for row, search in sorted(self.searches.items()):
            if search.judging:
                continue
            if search.parts.over:
                search.judging = True
                self._hand(row, None, Task(self.jobs[row], parts=search.parts))
                return True
            if self.waiting and any(r == row and name is not None for r, name in self.given.values()):
                continue  # one part at a time, while there are whole rows to do
            given = search.parts.order(alone=bool(self.waiting))
            if given is not None:
                name, order = given
                self._hand(row, name, Task(self.jobs[row], order))
                return True
        if not self.waiting:
            return False
        row = self.waiting.pop()
        self.began.setdefault(row, time.monotonic())
        self._hand(row, None, Task(self.jobs[row], parts=self.resumed(self.jobs[row])))
        return True

    def _hand(self, row: int, name: Any, task: Task) -> None:
        self.tag += 1
        self.given[self.tag] = (row, name)
        self.workers.give(self.tag, task)

    # -- taking in -----------------------------------------------------------------------------------------------
    def _take(self, tag: int, outcome: Any) -> None:
        row, name = self.given.pop(tag)
        search = self.searches.get(row)
        if row in self.results or (name is not None and search is None):
            return  # came to an end without it
        if isinstance(outcome, Death):
            self._died(row, name, outcome)
        elif isinstance(outcome, Done) and search is not None:
            search.deaths = 0
            search.parts.take(name, outcome.found)
            self._kept(row, search, outcome.memory)
        elif isinstance(outcome, (Row, CaseError)):
            self._end(row, outcome)
        else:
            search = self.searches[row] = Search(outcome, limits_of(self.jobs[row].how))
            if search.limits is not None:
                search.limits.began = self.began[row]
            self._kept(row, search, None)

    def _kept(self, row: int, search: Search, memory: int | None) -> None:
        """The search has come further. Has it come too far?"""
        if search.limits is not None and not search.parts.over:
            why = search.limits.exceeded(memory) or search.limits.exceeded(resident())
            if why:
                search.parts.stop(why)
        self.kept(self.jobs[row], search.parts, False)

    def _died(self, row: int, name: Any, death: Death) -> None:
        job = self.jobs[row]
        file, line = shown(job.case.file), job.case.line
        search = self.searches.get(row)
        if search is not None:
            search.deaths += 1
            tries = search.deaths
        else:
            tries = self.tries[row] = self.tries.get(row, 0) + 1
        if tries >= TRIES:
            self._end(row, CaseError(f"{job.case.id}: its worker died twice ({death.text})", file, line))
            return
        what = "running it again" if name is None else "doing its part again"
        self.told(f"{file}:{line}: {job.case.id}: its worker died ({death.text}); {what}")
        if search is None:
            self.waiting.append(row)
        elif name is None:
            search.judging = False
        else:
            search.parts.lost(name)

    def _end(self, row: int, outcome: Row | CaseError) -> None:
        search = self.searches.pop(row, None)
        if isinstance(outcome, Row):
            if outcome.seconds is not None:
                outcome.seconds = round(time.monotonic() - self.began[row], 4)
            if search is not None:
                self.kept(self.jobs[row], search.parts, True)
        self.results[row] = outcome
        self.each()
