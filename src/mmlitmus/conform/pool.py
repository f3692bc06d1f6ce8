"""Several guests side by side: a campaign's programs are answered ahead of it, in its own order.

Guests run in threads (an emulator is a process of its own); the model runs where the campaign does. A program is handed
to the campaign once its answer is among those that are kept, so what is counted and printed does not depend on how many
guests there are, nor on which was faster.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from . import batch
from .batch import LONGEST, BatchAnswers
from .campaign import PROGRAM, Guest, Kernel, Outcome
from .live import text_of
from .schema import Program

T = TypeVar("T")
#: programs of the first batch; each is run on a fresh kernel too
FIRST = 5


class Running(Protocol):
    """A kernel that runs programs one after the other (``lab.Running``)."""

    def run(self, program: str, timeout: float = ...) -> Outcome:
        """Run one."""

    def close(self) -> None:
        """End it."""


class Guests(Guest, Protocol):
    """Something that starts kernels in the same state as often as one likes (``lab.Session``)."""

    def start(self) -> Running:
        """A fresh kernel."""

    def abort(self) -> None:
        """End every one that runs."""


class Pool:
    """``jobs`` guests of one kernel, in batches if its answers are ``BatchAnswers``. Close it.

    ``guests``: what ``kernel`` is run by. ``say``: gets a line when a batch is found not to answer as fresh kernels do.
    """

    def __init__(self, kernel: Kernel, guests: Guests, jobs: int, say: Callable[[str], None] = lambda text: None):
        self.kernel = kernel
        self.guests = guests
        self.jobs = jobs
        self.say = say
        self.in_batches = isinstance(kernel.answers, BatchAnswers)
        #: how many programs were answered in a batch, and on a fresh kernel
        self.batched = 0
        self.fresh = 0
        self._waiting: deque[Program] = deque()
        self._known: set[str] = set()
        self._wrong: dict[str, Exception] = {}
        self._changed = threading.Condition()
        self.over = False
        self._threads: list[threading.Thread] = []
        self._checked = False

    # -- the campaign's side ------------------------------------------------------------------------------------------
    def programs(self, programs: Iterable[Program]) -> Iterator[Program]:
        """The programs in their order, each once it is answered. Raises what kept a guest from running it."""
        wanted = [*programs]
        texts = {text_of(program): program for program in wanted}
        unknown = [program for text, program in texts.items() if self.kernel.answers.get(text) is None]
        asked = {text_of(program) for program in unknown}
        self._waiting.extend(unknown)
        for _ in range(min(self.jobs, len(unknown))):
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()
        for program in wanted:
            text = text_of(program)
            if text in asked:
                self._wait(text)
            yield program

    def _wait(self, text: str) -> None:
        with self._changed:
            while text not in self._known:
                if text in self._wrong:
                    raise self._wrong[text]
                self._changed.wait()

    def close(self) -> None:
        """End the guests. What they have answered by now is kept."""
        with self._changed:
            self.over = True
            self._waiting.clear()
        self.guests.abort()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- a guest's side -----------------------------------------------------------------------------------------------
    def _work(self) -> None:
        while (program := self.take()) is not None:
            taken = [program]
            try:
                if self.batchable(program):
                    Batch(self, taken).run()
                else:
                    self.run_fresh(program)
            except Exception as e:  # the campaign's thread raises it, where the program's turn has come
                with self._changed:
                    self._wrong.update((text_of(one), e) for one in taken)
                    self._changed.notify_all()

    def take(self) -> Program | None:
        """The next program that nobody has taken; None if there is none, or it is all over."""
        with self._changed:
            return self._waiting.popleft() if self._waiting and not self.over else None

    def knows(self, program: Program) -> bool:
        """Is a program answered?"""
        with self._changed:
            return text_of(program) in self._known

    def batchable(self, program: Program) -> bool:
        """May a program run in a batch?"""
        return self.in_batches and batch.why_not(program) is None

    def how_long(self) -> tuple[int, bool]:
        """How many programs the next batch may have, and whether all of them are compared with a fresh kernel's."""
        with self._changed:
            first, self._checked = not self._checked, True
        return (FIRST if first else LONGEST), first

    def start(self) -> Running:
        """A fresh kernel, at the second try if need be."""
        return self._twice(self.guests.start)

    def run_fresh(self, program: Program) -> Outcome:
        """Run a program on a fresh kernel, and keep its answer."""
        text = text_of(program)
        outcome = self._twice(lambda: self.guests.run(text, PROGRAM))
        if outcome.kind != "ended" and not self.over:
            # an emulator on a busy host may fail where the kernel does not: what it comes to has to come again
            outcome = self._twice(lambda: self.guests.run(text, PROGRAM))
        self.keep(program, outcome)
        return outcome

    def _twice(self, what: Callable[[], T]) -> T:
        try:
            return what()
        except Exception:
            if self.over:
                raise
            return what()

    def keep(self, program: Program, outcome: Outcome) -> None:
        """Keep a fresh kernel's answer."""
        text = text_of(program)
        with self._changed:
            if self.over and outcome.kind != "ended":
                return  # it was this pool that ended it
            self.kernel.answers.put(text, outcome, self.kernel.ready)
            self.fresh += 1
            self._known.add(text)
            self._changed.notify_all()

    def keep_batch(self, answers: Iterable[tuple[Program, Outcome]]) -> None:
        """Keep the answers of a batch, but of programs that a fresh kernel has answered."""
        kept = self.kernel.answers
        assert isinstance(kept, BatchAnswers), "there are no batches without a place for their answers"
        with self._changed:
            for program, outcome in answers:
                text = text_of(program)
                if text not in self._known:
                    kept.put_of_batch(text, outcome, batch.ready_of(self.kernel.ready, outcome))
                    self.batched += 1
                self._known.add(text)
            self._changed.notify_all()

    def no_more_batches(self, why: str) -> None:
        """A batch did not answer as fresh kernels do."""
        with self._changed:
            said, self.in_batches = self.in_batches, False
        if said:
            self.say(f"batched mode is not used from here on: {why}")


class Batch:
    """A boot's worth of programs, of which the first is a fresh kernel's answer. ``taken``: gets each that is taken."""

    def __init__(self, pool: Pool, taken: list[Program]) -> None:
        self.pool = pool
        self.taken = taken
        self.answers: list[tuple[Program, Outcome]] = []
        self.longest, self.all = pool.how_long()

    def run(self) -> None:
        """Run them, and keep the answers if they are a fresh kernel's; run the others on fresh kernels."""
        left = self._boot()
        why = ""
        for program, outcome in self.answers if self.all else self.answers[-1:]:
            why = why or self._differs(program, outcome)
        if self.pool.over:
            return
        if why:
            self.pool.no_more_batches(why)
            left = [*(program for program, _ in self.answers), *left]
        else:
            self.pool.keep_batch(self.answers)
        for program in left:
            if not self.pool.over and not self.pool.knows(program):
                self.pool.run_fresh(program)

    def _differs(self, program: Program, outcome: Outcome) -> str:
        """Run a program on a fresh kernel too: how that answers otherwise, empty if it does not."""
        if self.pool.over:
            return ""
        kernel = self.pool.kernel
        fresh = self.pool.run_fresh(program)
        why = batch.differs(kernel, program, fresh, outcome, batch.ready_of(kernel.ready, outcome))
        return f"{program.id}: {why}" if why else ""

    def _boot(self) -> list[Program]:
        """Run programs in one boot, from the first taken on; those that have to be run on a fresh kernel instead."""
        pool = self.pool
        left: list[Program] = []
        beginning: str | None = None
        program: Program | None = self.taken[0]
        number = 0
        running = pool.start()
        try:
            while program is not None:
                if not pool.batchable(program):
                    left.append(program)
                else:
                    outcome = running.run(batch.moved(number, program) + text_of(program), PROGRAM)
                    begun = batch.beginning(pool.kernel.ready, outcome)
                    if outcome.kind != "ended" or begun is None or begun != (beginning or begun):
                        return [*left, program]
                    if number:
                        self.answers.append((program, outcome))
                    else:
                        beginning = begun
                        pool.keep(program, outcome)
                    number += 1
                    if number == self.longest or batch.leaves_behind(outcome):
                        break
                program = pool.take()
                if program is not None:
                    self.taken.append(program)
        finally:
            running.close()
        return left
