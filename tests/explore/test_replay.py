"""Replay: following a schedule, what a step records, and what is said when the program cannot follow."""

from __future__ import annotations

import re

import pytest

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.findings import report
from mmlitmus.explore.ops import TOUCH
from mmlitmus.explore.primitives.choice import choose
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.replay import Change, Replay, replay
from mmlitmus.explore.schedule import ScheduleError
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Model, Once, Plain

from .machines import abba, family, revoke, walk
from .programs import build, generate

WINDOW = "fault > memory_lock.up_read; disable; fault"


def events(text: str, program=None) -> list[str]:
    return [f"{s.task} {s.label}" for s in replay(program or revoke(1), text).steps]


# -- following ----------------------------------------------------------------------------------------------------


def test_the_empty_schedule_runs_everybody_in_order():
    tasks = [s.task for s in replay(revoke()).steps]
    assert list(dict.fromkeys(tasks)) == ["fault", "disable", "other"]
    assert tasks == sorted(tasks, key=["fault", "disable", "other"].index)


def test_the_example_of_the_design():
    assert events("fault > memory_lock.read; disable; fault") == [
        "fault memory_lock.read",
        "disable memory_lock.write",  # and there it waits
        "fault vdev.decode.read",
        "fault memory_lock.up_read",
        "fault alloc_pte",
        "fault ptl.lock",
        "fault pte[0].set",
        "fault ptl.unlock",
        "disable memory_lock.acquired",
        "disable pte[0].set",
        "disable vdev.decode.write",
        "disable memory_lock.up_write",
        "other vdev.decode.read",
    ]


def test_an_exact_label_wins_over_what_begins_like_it():
    def program() -> Setup:
        a, ab = Mutex("l.lock"), Mutex("l")

        def task() -> None:
            a.trylock()
            ab.lock()

        return Setup({"t": task, "u": ab.trylock})

    assert [s.task for s in replay(program, "t > l.lock; u").steps] == ["t", "t", "u"]


def test_choices_and_their_numbers():
    def program() -> Setup:
        def task() -> None:
            for _ in range(3):
                choose("size", ("s", "m", "l"))

        return Setup({"t": task})

    r = replay(program, "t(size#2=l) > size#2; t(size=m)")
    assert [s.value for s in r.steps] == ["s", "l", "m"]
    assert r.text == "t(size#2=l, size#3=m)"


def test_created_tasks_are_named():
    r = replay(family, "parent > free@parent.1.spawn; free@parent.1; parent")
    assert [f.name for s in r.steps for f in s.findings] == ["child-first"]
    assert r.text == "parent > free@parent.1.spawn; free@parent.1"


def test_choices_replay_like_text():
    for seed in range(20):
        choices = walk(revoke(), seed)
        by_choices = replay(revoke(), choices)
        assert by_choices.choices() == choices
        assert replay(revoke(), by_choices.token).steps == by_choices.steps


def test_a_beginning_of_choices_goes_on_in_order():
    r = replay(revoke(1), [("fault", 0), ("disable", 0)])
    assert [s.task for s in r.steps] == [*["fault", "disable"], *["fault"] * 6, *["disable"] * 4, "other"]


def test_what_a_search_found_can_be_replayed():
    found = Dpor(revoke()).run().found
    ((finding, f),) = found.items()
    r = replay(revoke(), f.choices)
    assert finding in r.results.found
    assert r.late == (finding,)
    assert r.changed == ""


# -- what cannot be followed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("falt", "there is no task 'falt': the tasks are fault, disable, other"),
        ("fault > pte[9].set", "fault > pte[9].set: fault does no pte[9].set there; it does pte[0].set, "),
        ("fault > nonsense", "fault > nonsense: fault does no nonsense there; it does memory_lock.read, "),
        ("fault > ptl.lock#2", "fault > ptl.lock#2: fault does ptl.lock only 1 time there, and then it has ended"),
        ("fault > memory", "'memory' could be memory_lock.read or memory_lock.up_read"),
        ("fault; fault", "fault: fault cannot go on there: it has ended"),
        (
            "fault > memory_lock.read; disable > memory_lock.up_write",
            "disable > memory_lock.up_write: disable does no memory_lock.up_write there; it does memory_lock.write, "
            "and then it waits at memory_lock.acquired for fault",
        ),
        (
            "fault > memory_lock.read; disable; other; disable",
            "disable: disable cannot go on there: it waits at memory_lock.acquired for fault",
        ),
        ("fault(alloc_pte=maybe)", "fault(alloc_pte=maybe): alloc_pte is one of ok, fail, not maybe"),
        ("fault(alloc=fail)", "fault(alloc=fail): fault makes no choice alloc there; it does alloc_pte, "),
        (
            "fault(alloc_pte#2=fail)",
            "fault(alloc_pte#2=fail): fault makes no choice alloc_pte number 2 there; it does ",
        ),
        (
            "fault(alloc_pte=ok, alloc_pte=ok)",
            "fault(alloc_pte=ok, alloc_pte=ok): fault makes no choice alloc_pte there",
        ),
    ],
)
def test_errors(text: str, message: str):
    with pytest.raises(ScheduleError) as e:
        replay(revoke(1), text)
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([("nobody", 0)], "event 1: there is no task nobody: the tasks are fault, disable, other"),
        ([("other", 0), ("other", 0)], "event 2: other cannot go on: it has ended"),
        ([("fault", 0), ("fault", 1)], "event 2: fault has no choice number 1 at vdev.decode.read"),
    ],
)
def test_errors_of_choices(choices: list[tuple[str, int]], message: str):
    with pytest.raises(ScheduleError, match=re.escape(message)):
        replay(revoke(1), choices)


def test_a_schedule_that_never_gets_there():
    def program() -> Setup:
        class Flag(Model):
            __slots__ = ()
            on = Once()

        flag = Flag("flag", on=0)

        def spin() -> None:
            while not flag.on:
                pass

        return Setup({"spin": spin, "set": lambda: setattr(flag, "on", 1)})

    with pytest.raises(ScheduleError, match="spin > done: spin is still at it after 5000 events"):
        replay(program, "spin > done; set")
    assert replay(program).status == "truncated"
    assert replay(program, "spin > flag.on.read#7; set").status == "complete"


def test_nothing_is_left_running_after_an_error():
    for text in ("fault > nonsense", "fault > memory_lock.read; disable > memory_lock.up_write"):
        with pytest.raises(ScheduleError):
            replay(revoke(), text)
        assert replay(revoke()).status == "complete"


# -- tokens -------------------------------------------------------------------------------------------------------


def test_token():
    r = replay(revoke(), WINDOW)
    assert re.fullmatch(r"fault > memory_lock\.up_read; disable  ![0-9a-f]{8}", r.token)
    assert replay(revoke(), r.token).changed == ""


def test_token_is_stable():
    assert replay(revoke(1), WINDOW).token == "fault > memory_lock.up_read; disable  !107757a2"


def test_token_of_a_model_that_changed():
    old = replay(revoke(), WINDOW).token
    r = replay(revoke(extra_event=True), old)
    assert "the model changed since" in r.changed
    assert "\n" not in r.changed
    assert r.text == WINDOW.removesuffix("; fault")
    gone = replay(revoke(4), "fault > pte[3].set; disable").token
    with pytest.raises(ScheduleError, match=r"fault does no pte\[3\]\.set there; it does pte\[2\]\.set, pte"):
        replay(revoke(3), gone)


# -- what a step records ----------------------------------------------------------------------------------------------


def test_steps():
    r = replay(revoke(1), WINDOW)
    by_label = {(s.task, s.label): s for s in r.steps}
    assert [s.index for s in r.steps] == list(range(len(r.steps)))
    assert r.watched == {"decode": "1"}
    assert by_label["fault", "memory_lock.read"].held == (("memory_lock", "read"),)
    up = by_label["fault", "memory_lock.up_read"]
    assert up.held == ()
    assert up.preempted
    assert up.kind == "up_read"
    assert sum(s.preempted for s in r.steps) == 1
    stored = by_label["fault", "pte[0].set"]
    assert stored.stack == ("fault", "insert", "set_pte")
    assert re.fullmatch(r"machines\.py:[0-9]+", stored.where)
    assert stored.changes == (Change("pte[0]", None, "1"),)
    assert stored.held == (("ptl", "lock"),)
    off = by_label["disable", "vdev.decode.write"]
    assert off.changes == (Change("decode", "1", "0"),)
    assert by_label["disable", "pte[0].set"].changes == ()
    assert by_label["disable", "memory_lock.up_write"].ended
    assert [s.label for s in r.steps if s.changes] == ["vdev.decode.write", "pte[0].set"]
    assert [f.name for f in r.late] == ["stale-translation"]
    assert by_label["fault", "alloc_pte"].value == "ok"


def test_the_first_event_has_its_stack_whoever_does_it():
    stacks = {s.task: s.stack for s in reversed(replay(abba(3), "t2").steps)}
    assert stacks == {"t0": ("take",), "t1": ("take",), "t2": ("take",)}


def test_a_blocked_task_says_what_it_waits_for():
    r = replay(abba(), "t0 > a.lock; t1")
    assert r.status == "deadlock"
    queued = r.steps[1]
    assert (queued.task, queued.waits, queued.holders, queued.resumable) == ("t1", "a.lock", ("t0",), False)
    assert [f.name for f in r.late] == ["deadlock a / b"]


def test_findings_belong_to_the_step_that_shows_them():
    def program() -> Setup:
        lock = Mutex("l")

        def task() -> None:
            report("WARN", "early", "")
            lock.lock()
            report("WARN", "second", "")
            lock.unlock()
            lock.unlock()

        return Setup({"t": task})

    r = replay(program)
    assert [f.name for f in r.early] == ["early"]
    assert [[f.name for f in s.findings] for s in r.steps] == [["second"], [], ["bad unlock balance"]]
    assert r.late == ()


def test_an_inversion_belongs_to_the_step_after_which_it_is_asked_for():
    r = replay(abba())
    assert [(s.index, f.kind) for s in r.steps for f in s.findings] == [(4, "inversion")]
    assert [f.kind for f in r.results.found] == ["inversion"]


def test_races_come_at_the_end():
    class Thing(Model):
        __slots__ = ()
        x = Plain()

    def program() -> Setup:
        thing = Thing("thing", x=0)
        return Setup({"a": lambda: setattr(thing, "x", 1), "b": lambda: setattr(thing, "x", 2)})

    assert [f.name for f in replay(program).late] == ["race on x"]


def test_watching_changes_nothing():
    class Thing(Model):
        __slots__ = ()
        x = Once()

    def program(watched: bool) -> Setup:
        thing = Thing("thing", x=0)

        def task() -> None:
            rt.point((TOUCH, thing.id, ()))
            thing.free()

        def watch() -> dict[str, str]:
            report("WARN", "seen by the watcher", "")
            return {"x": str(thing.x), "freed": str(thing.freed)}  # a use after free, were it the model's

        return Setup({"t": task}, watch=watch if watched else None)

    r = replay(lambda: program(True))
    assert r.results.found == {}
    assert [s.changes for s in r.steps] == [(), (Change("freed", "False", "True"),)]
    assert replay(lambda: program(False)).token == r.token


def test_a_watcher_that_fails_is_not_a_finding():
    def watch() -> dict[str, str]:
        raise KeyError("the watcher's own")

    with pytest.raises(KeyError, match="the watcher's own"):
        replay(lambda: Setup({"t": Mutex("l").lock}, watch=watch))


def test_frames_can_be_left_out():
    r = Replay(revoke(), WINDOW, frames=False)
    r.run()
    assert {s.where for s in r.steps} == {""}
    assert r.token == replay(revoke(), WINDOW).token


def test_replaying_twice_records_the_same():
    for seed in range(30):
        program = build(generate("spawn" if seed % 2 else "rwsem", seed))
        choices = walk(program, seed)
        a, b = replay(program, choices), replay(program, choices)
        assert a.steps == b.steps
        assert a.late == b.late
        assert a.watched == b.watched
