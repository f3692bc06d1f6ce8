"""Schedules as text: the grammar, the labels, and that what is written says what was done."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlitmus.explore import ops
from mmlitmus.explore import runtime as rt
from mmlitmus.explore.primitives.choice import choose
from mmlitmus.explore.primitives.irq import Cpu
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.primitives.rcu import Rcu
from mmlitmus.explore.primitives.rwsem import RwSem
from mmlitmus.explore.primitives.task import spawn
from mmlitmus.explore.primitives.wait import WaitQueue
from mmlitmus.explore.replay import Replay, replay
from mmlitmus.explore.schedule import (
    Choice,
    ScheduleError,
    Segment,
    label,
    meant,
    nearby,
    parse,
    token,
    word,
)
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Atomic, Cells, Model, Once, Plain, look, touch

from .machines import revoke, walk
from .programs import FAMILIES, build, generate

WORD = re.compile(r"[^\s;>()=,!]+")


class Vma(Model):
    __slots__ = ()
    flags = Once()
    pgoff = Plain()
    refs = Atomic()


def labels(task: Callable[[], None], slots: int = 0) -> list[str]:
    """What a single task does."""
    return [s.label for s in replay(lambda: Setup({"t": task}, spawn_slots=slots)).steps]


# -- labels -------------------------------------------------------------------------------------------------------


def test_labels_of_data():
    def task() -> None:
        vma, pte = Vma("vma", flags=0, pgoff=0, refs=0), Cells("pte", [0] * 4)
        vma.flags = vma.flags
        vma.pgoff = vma.pgoff
        vma.add_return("refs", vma.refs)
        look([pte.id])
        touch(pte.id + 3)
        rt.point((ops.READ_ONCE, pte.id + 3, ()))
        rt.point((ops.WRITE_ONCE, pte.id + 3, ()))
        rt.point((ops.ATOMIC_RMW, pte.id + 3, ()))
        rt.point((ops.TOUCH, pte.id + 3, (), "get_and_clear"))
        vma.free()

    assert labels(task) == [
        *("vma.flags.read", "vma.flags.write", "vma.pgoff.read", "vma.pgoff.write", "vma.refs.read", "vma.refs.rmw"),
        *("pte[0].look", "pte[3].touch", "pte[3].get", "pte[3].set", "pte[3].xchg", "pte[3].get_and_clear"),
        "vma.free",
    ]


def test_labels_of_locks():
    def task() -> None:
        sem, lock = RwSem("memory_lock"), Mutex("ptl#1")
        sem.down_read()
        sem.up_read()
        sem.down_write()
        sem.downgrade_write()
        sem.down_read_trylock()
        sem.up_read()
        sem.up_read()
        sem.down_write_trylock()
        sem.up_write()
        lock.lock()
        lock.trylock()
        lock.unlock()

    assert labels(task) == [
        *("memory_lock.read", "memory_lock.up_read", "memory_lock.write", "memory_lock.acquired"),
        *("memory_lock.downgrade", "memory_lock.read_trylock", "memory_lock.up_read", "memory_lock.up_read"),
        *("memory_lock.write_trylock", "memory_lock.up_write", "ptl#1.lock", "ptl#1.trylock", "ptl#1.unlock"),
    ]


def test_labels_of_the_rest():
    def task() -> None:
        rcu, queue, cpu = Rcu(2), WaitQueue("wq"), Cpu("cpu1")
        rcu.read_lock()
        rcu.read_unlock()
        rcu.synchronize()
        queue.prepare_to_wait()
        queue.wake_up()
        queue.schedule()
        queue.finish_wait()
        cpu.local_irq_disable()
        cpu.local_irq_enable()
        cpu.ipi(lambda: None, ())
        choose("alloc pte", ("ok", "fail"))
        choose("slot#2", ("a",))
        spawn("free", lambda: None).join()

    assert labels(task, slots=1) == [
        *("rcu_read_lock", "rcu_read_unlock", "rcu_gp_start"),
        *("wq.prepare_to_wait", "wq.wake_up", "wq.schedule", "wq.finish_wait"),
        *("local_irq_disable", "local_irq_enable", "cpu1.ipi", "alloc_pte", "slot-2"),
        *("free@t.1.spawn", "start", "exit", "free@t.1.join"),
    ]


def test_every_kind_has_a_label():
    engine = Replay(lambda: Setup({"t": lambda: None}))
    engine.run()
    for kind in range(len(ops.NAME)):
        argument = (2, "which", ("a", "b")) if kind == ops.CHOOSE else ()
        assert WORD.fullmatch(label(engine, (kind, ops.NONE, (), *argument)))


@given(st.text())
def test_any_name_is_a_word(name: str):
    assert WORD.fullmatch(word(name))


# -- the grammar ----------------------------------------------------------------------------------------------------


def test_parse():
    assert parse("fault > memory_lock.read; disable; fault").segments == (
        Segment("fault", (), "memory_lock.read"),
        Segment("disable"),
        Segment("fault"),
    )
    read = parse(" a ( x = y,z#2=w )>l#3 ;; b ;  !0123abcd \n")
    assert read.segments == (Segment("a", (Choice("x", 1, "y"), Choice("z", 2, "w")), "l", 3), Segment("b"))
    assert read.digest == "0123abcd"
    assert str(read) == "a(x=y, z#2=w) > l#3; b  !0123abcd"
    assert parse("").segments == ()
    assert parse("!0123abcd").digest == "0123abcd"


@pytest.mark.parametrize(
    "text", ["a >", "> b", "a b", "a > b c", "a > b > c", "a(x) > b", "a(x=)", "a()", "a (x=y", "!12"]
)
def test_parse_errors_are_one_line(text: str):
    with pytest.raises(ScheduleError, match="^cannot read [^\n]+$"):
        parse(text)


_words = st.from_regex(r"[a-z]([a-z_.\[\]:@-]|#[1-9][a-z])*", fullmatch=True)
_nth = st.integers(1, 30)
_made = st.lists(st.builds(Choice, _words, _nth, _words), max_size=2).map(tuple)
_segments = st.tuples(_words, _made).map(lambda s: Segment(*s))
_stopped = st.tuples(_words, _made, _words, _nth).map(lambda s: Segment(*s))


@given(st.lists(_segments | _stopped, max_size=4), st.sampled_from(["", "00112233"]))
def test_text_is_read_as_written(segments: list[Segment], digest: str):
    text = token("; ".join(map(str, segments)), digest) if digest else "; ".join(map(str, segments))
    read = parse(text)
    assert read.segments == tuple(segments)
    assert str(read) == text


def test_meant():
    known = ["a.read", "a.read_trylock", "a.up_read", "b.set", "b.set", "mm:pte[1].set"]
    assert meant("a.read", known) == "a.read"
    assert meant("a.u", known) == "a.up_read"
    assert meant("b", known) == "b.set"
    assert meant("up", known) == "a.up_read"
    assert meant("pte[1]", known) == "mm:pte[1].set"
    assert meant("c", known) is None
    with pytest.raises(ScheduleError, match=r"'a' could be a\.read or a\.read_trylock or a\.up_read"):
        meant("a", known)


def test_nearby():
    assert nearby("memory_lock.raed", ["x", "memory_lock.read", "y"]).startswith("memory_lock.read")
    assert nearby("q", []) == ""
    assert nearby("q", ["a", "b"]) == "a, b"


# -- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("fault; disable; other", ""),
        ("fault; disable", ""),
        ("fault; other; disable", "fault; other"),
        ("disable", "disable"),
        ("fault > memory_lock.up_read; disable; fault", "fault > memory_lock.up_read; disable"),
        ("fault > up_read; disable; other", "fault > memory_lock.up_read; disable; other"),
        ("fault > ptl.lock#2; disable", "fault > ptl.lock#2; disable"),
        ("fault > ptl.lock; fault > ptl.lock; disable", "fault > ptl.lock#2; disable"),
        ("fault(alloc_pte=ok)", ""),
        ("fault(alloc_pte=fail)", "fault(alloc_pte=fail)"),
        ("fault(alloc_pte=fail) > alloc", "fault(alloc_pte=fail)"),
        ("fault > vdev; disable; other", "fault > vdev.decode.read; disable; other"),
        # a task that blocks needs no label
        ("fault > memory_lock.read; disable; other", "fault > memory_lock.read; disable; other"),
        ("fault > memory_lock.read; disable; fault", "fault > memory_lock.read; disable"),
    ],
)
def test_canonical(text: str, canonical: str):
    assert replay(revoke(), text).text == canonical


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.sampled_from([0.1, 0.5, 1.0]),
)
def test_round_trip(family: str, seed: int, walk_seed: int, switch: float):
    """What is written of an execution reproduces it, is canonical, and has no segment too many."""
    program = build(generate(family, seed))
    first = replay(program, walk(program, walk_seed, switch))
    again = replay(program, first.token)
    assert again.choices() == first.choices()
    assert [s.label for s in again.steps] == [s.label for s in first.steps]
    assert again.token == first.token
    assert again.changed == ""
    segments = parse(first.text).segments
    if segments:
        shorter = "; ".join(map(str, segments[:-1]))
        assert replay(program, shorter).choices() != first.choices()


def test_names_that_look_like_the_grammar():
    def program() -> Setup:
        locks = [Mutex("ptl#1"), Mutex("ptl#2"), Mutex("a > b; c")]

        def task() -> None:
            for lock in locks:
                choose("x#2", ("a=b", "c, d"))
                lock.lock()
                lock.unlock()

        return Setup({"task (1)": task, "t!": task})

    for seed in range(20):
        first = replay(program, walk(program, seed))
        assert replay(program, first.token).choices() == first.choices()
    assert replay(program, "t_ > ptl#2.l; task").text == "t_ > ptl#2.lock"
