"""Steps that E2 has seen: what comes of an event, without running it once more.

What a task does between two events is worked out from what it knows (its local state), from what its event shows it,
and from what it reads on the way to the next one. So if the same task stands at the same local state, and everything
that it looked at in an earlier execution has the same value now, then it does now what it did then: it comes to the
same local state, leaves the same values behind, and shows the same findings. That is the contract of events
(docs/soundness.md), and what a state's being enough rests on already; here it is used for one step at a time.

Which objects a step looks at can depend on what it finds in the first of them. So what is known of a local state is a
list of *views*, sets of objects that some execution has looked at, each with the results by their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .findings import Finding
    from .runtime import Op

#: in a view: the guarded lists, all together
LISTS: Final = -1


class Standing:
    """Where a task stands in a local state: what it is about to do, what it holds, and its history."""

    __slots__ = ("held", "name", "op", "stack", "thread")

    def __init__(
        self, op: Op, held: Sequence[tuple[object, str, str]], stack: int, name: str, thread: int | None
    ) -> None:
        self.op = op
        self.held = list(held)
        self.stack = stack
        self.name = name
        self.thread = thread  # the id of the object that stands for a task that was made on the way


class Step:
    """What a step comes to."""

    __slots__ = ("behind", "findings", "lists", "local", "looped", "values")

    def __init__(
        self,
        local: int,
        values: tuple[int, ...],
        lists: tuple[int, ...],
        findings: list[Finding],
        looped: str | None,
        behind: tuple[int, ...],
    ) -> None:
        self.local = local  # the task's local state
        self.values = values  # of the objects that it looked at
        self.lists = lists  # of the guarded lists, if it looked at any
        self.findings = findings
        self.looped = looped  # the loop that it has come round in
        self.behind = behind  # the objects whose life it reads on the way to its next event (see movers)

    def same(self, other: Step) -> bool:
        """Do the two say the same?"""
        return (self.local, self.values, self.lists, self.findings, self.looped) == (
            other.local, other.values, other.lists, other.findings, other.looped,
        )  # fmt: skip


View = tuple[int, ...]
Seen = tuple[tuple[int, ...], tuple[int, ...]]


class Steps:
    """All that is known of the program's steps; forgotten when a search begins again."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        #: by (task, local state, value of the choice)
        self.known: dict[tuple[int, int, int], dict[View, dict[Seen, Step]]] = {}

    def find(self, t: int, local: int, value: int, values: list[int], lists: list[int]) -> tuple[View, Step] | None:
        """The step that the task would take where objects have these values; None if it has not been seen."""
        views = self.known.get((t, local, value))
        if views is not None:
            for view, steps in views.items():
                step = steps.get(looked_at(view, values, lists))
                if step is not None:
                    return view, step
        return None

    def learn(self, t: int, local: int, value: int, view: View, seen: Seen, step: Step) -> Step:
        """Remember a step; returns the one that stands, which is an earlier one if there is one."""
        return self.known.setdefault((t, local, value), {}).setdefault(view, {}).setdefault(seen, step)


def looked_at(view: View, values: list[int], lists: list[int]) -> Seen:
    """What a step with this view finds."""
    if view and view[0] == LISTS:
        return tuple([values[at] for at in view[1:]]), tuple(lists)
    return tuple([values[at] for at in view]), ()
