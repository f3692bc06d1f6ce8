"""Loops that need not end: of which kind, what a turn is, what it leaves; and loop_points that name too little."""

from __future__ import annotations

import ast
import importlib.util
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmlitmus.checker.load import select
from mmlitmus.checker.run import How, run
from mmlitmus.explore.handover import Auto
from mmlitmus.explore.livelock import FAIR, HARD, UNFAIR, Livelock
from mmlitmus.explore.looppoints import missing
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.runtime import loop_point
from mmlitmus.explore.scheduler import Results, Setup
from mmlitmus.explore.state import Atomic, Model, Once
from mmlitmus.explore.stateful import Stateful
from mmlitmus.explore.verdict import completeness, mode

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "livelock.py"


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("livelock_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


example = _example()


def search(machine: Callable[[], dict[str, Callable[[], Any]]], **more: Any) -> Results:
    def build() -> Setup:
        return Setup(machine(), **more)

    return Stateful(build, checked=True).run()


def only(results: Results) -> Livelock:
    (live,) = results.livelocks
    return live


# -- the four of the design -------------------------------------------------------------------------------------------
def test_a_pin_that_never_succeeds_is_hard() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        folios = example.folios_of(32)
        return {"gup": lambda: example.pin_user_pages_longterm(folios, False)}

    results = search(machine)
    live = only(results)
    assert results.exhausted
    assert (live.how, live.task, live.drift) == (HARD, "gup", ())
    assert len(live.turn) == 65  # 32 references taken, a look, 32 dropped
    assert live.steps[0] == "gup: folio#0.refs.add"
    assert sorted(live.steps).count("gup: folio#0.stays.read") == 1
    (found,) = results.found.values()
    assert mode(found, results) == "always"


def test_the_fixed_form_ends() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        folios = example.folios_of(32)
        return {"gup": lambda: example.pin_user_pages_longterm(folios, True)}

    results = search(machine)
    assert results.exhausted
    assert results.livelocks == []
    assert results.counts.complete == 1


def test_a_spin_is_unfair_only() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        (folio,) = example.folios_of(1)

        def mover() -> None:
            folio.stays = True

        return {"waiter": lambda: example.wait_until_it_may_stay(folio), "mover": mover}

    results = search(machine)
    live = only(results)
    assert (live.how, live.waiting) == (UNFAIR, ("mover",))
    assert live.steps == ["waiter: folio#0.stays.read"]
    assert [f.kind for f in results.found] == ["unfair-loop"]


def test_a_trylock_ping_pong_is_fair() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        a, b = Mutex("a"), Mutex("b")
        return {"ab": lambda: example.take_both(a, b), "ba": lambda: example.take_both(b, a)}

    results = search(machine)
    assert [(live.how, live.task) for live in results.livelocks] == [(FAIR, "ab"), (FAIR, "ba")]
    for live in results.livelocks:
        assert sorted(live.steps) == sorted(
            ["ab: a.lock", "ab: b.trylock", "ab: a.unlock", "ba: b.lock", "ba: a.trylock", "ba: b.unlock"]
        )
    assert {mode(found, results) for found in results.found.values()} == {"sometimes"}


# -- drift ------------------------------------------------------------------------------------------------------------
def test_leaked_references_are_a_drift_and_bound_the_search() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        folios = example.folios_of(2)
        return {"gup": lambda: example.pin_and_leak(folios)}

    results = search(machine)
    live = only(results)
    assert (live.how, live.drift) == (HARD, (("folio#0.refs", 1), ("folio#1.refs", 1)))
    assert completeness(results) == "bounded(folio#0.refs, folio#1.refs grows for ever)"
    (found,) = results.found.values()
    assert mode(found, results) == "seen"


class Tries(Model):
    """Attempts that are left."""

    __slots__ = ()
    left = Atomic()


def try_a_few_times(tries: Tries) -> None:
    while True:
        loop_point(tries)
        if tries.add_return("left", -1) <= 0:
            break


def test_a_loop_that_counts_its_tries_ends_before_it_is_taken_for_a_drift() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        tries = Tries("tries", left=2)
        return {"t": lambda: try_a_few_times(tries)}

    results = search(machine)
    assert (results.exhausted, results.livelocks, results.counts.complete) == (True, [], 1)


# -- nobody is blamed who is not going round --------------------------------------------------------------------------
class Word(Model):
    """One shared word."""

    __slots__ = ()
    x = Once()


def spin(word: Word) -> None:
    while not word.x:
        loop_point(word)


def test_who_waits_for_a_lock_that_a_livelock_holds_is_named() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        word, lock = Word("w", x=0), Mutex("l")

        def holder() -> None:
            lock.lock()
            spin(word)

        return {"holder": holder, "waiter": lambda: lock.lock()}

    results = search(machine)
    hard = [live for live in results.livelocks if live.how == HARD]
    assert [(live.task, live.waiting) for live in hard] == [("holder", ("waiter",))]


def test_a_daemon_may_go_round() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        word = Word("w", x=0)
        return {"daemon": lambda: spin(word)}

    assert search(machine, daemons=frozenset({"daemon"})).livelocks == []


# -- the hand-over ----------------------------------------------------------------------------------------------------
def _build(machine: Callable[[], dict[str, Callable[[], Any]]]) -> Callable[[], Setup]:
    return lambda: Setup(machine())


def _increments(tasks: int, times: int) -> Callable[[], dict[str, Callable[[], Any]]]:
    def machine() -> dict[str, Callable[[], Any]]:
        word = Word("w", x=0)

        def body() -> None:
            for _ in range(times):
                word.x = word.x + 1

        return {f"t{t}": body for t in range(tasks)}

    return machine


def test_too_many_traces_are_handed_over() -> None:
    engine = Auto(_build(_increments(2, 3)), traces=100)
    results = engine.run()
    assert results.exhausted
    assert results.handed_over == "100 executions of dpor did not do"
    assert completeness(results) == "exhaustive(states)"


def test_few_are_not() -> None:
    results = Auto(_build(_increments(2, 2))).run()
    assert (results.exhausted, results.handed_over, results.states) == (True, "", 0)
    assert completeness(results) == "exhaustive"


def test_a_bound_that_was_asked_for_is_kept() -> None:
    results = Auto(_build(_increments(2, 3)), max_executions=50).run()
    assert (results.exhausted, results.stopped, results.handed_over) == (False, "50 executions", "")


def test_a_loop_that_comes_round_again_and_again_is_handed_over_at_once() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        word = Word("w", x=0)
        return {"t": lambda: spin(word)}

    engine = Auto(_build(machine))
    results = engine.run()
    assert results.handed_over == "t came by the loop in spin 17 times"
    assert only(results).how == HARD


# -- a whole row ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "text", "search"),
    [
        ("pin-never-succeeds", "always hard livelock of gup", "exhaustive(states)"),
        ("pin-migrates", "never", "exhaustive"),
        ("trylock-ping-pong", "sometimes fair livelock of ab, fair livelock of ba", "exhaustive(states)"),
        ("spin", "never", "exhaustive(states)"),
    ],
)
def test_the_example(name: str, text: str, search: str) -> None:
    (case,) = [c for c in select([str(EXAMPLE)]).cases if c.id == f"examples/{name}"]
    row = run(case, "v6.12", How("auto", schedules="never"))
    assert (row.text, row.search) == (text, search)
    assert (row.stateful is None) == (search == "exhaustive")
    if name == "spin":
        assert [note.kind for note in row.notes] == ["unfair-loop"]


# -- loop_points ------------------------------------------------------------------------------------------------------
def _wrong(body: str) -> list[str]:
    tree = ast.parse("def f(a, b):\n" + textwrap.indent(textwrap.dedent(body), "    "))
    return [text for _, text in missing(tree)]


@pytest.mark.parametrize(
    "body",
    [
        "while True:\n    loop_point(a)\n    if a.x: break",
        "n = 0\nwhile n < b:\n    loop_point(a, b, n)\n    n += a.x",
        "n = a.x\nwhile True:\n    loop_point(a)\n    n = a.x\n    if n: return n",  # set before it is used
        "for n, x in enumerate(b):\n    loop_point(b, n, x)\n    x.y = 1",
        "for p in range(a, b):\n    loop_point(a, b, p)\n    g(p)",
        "while True:\n    loop_point(a)\n    if a.x:\n        c = 1\n    else:\n        c = 2\n    a.y = c",
        "while a.x:\n    while a.y:\n        loop_point(a)\n        a.z()",
    ],
)
def test_complete(body: str) -> None:
    assert _wrong(body) == []


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("while True:\n    loop_point()\n    if a.x: break", "a"),
        ("while True:\n    loop_point(a)\n    if a.x: break\nb.y = 1", "b"),  # used behind the loop
        ("n = 0\nwhile n < 3:\n    loop_point(a)\n    n += a.x", "n"),
        ("c = a.x\nwhile True:\n    loop_point(a)\n    if a.y: c = 2\n    a.y = c", "c"),  # set on some ways only
        ("for p in range(a, b):\n    loop_point(a, p)\n    g(p)", "b"),
        ("for p in range(a, b):\n    loop_point(a, b)\n    a.x()", "p"),  # the position counts
        ("c = a.x\nwhile a.y:\n    while a.z:\n        loop_point(a)\n    a.w = c", "c"),  # of the loop around it
        ("c = a.x\nwhile True:\n    loop_point(a)\n    g(lambda: c)\n    if a.y: break", "c"),
        ("try:\n    c = a.x\nexcept E:\n    c = 0\nwhile a.y:\n    loop_point(a)\nreturn c", "c"),
    ],
)
def test_a_name_is_missing(body: str, left: str) -> None:
    assert _wrong(body) == [f"loop_point in f does not name {left}"]


def test_what_is_walked_over_must_stay_the_same() -> None:
    assert _wrong("for x in a.xs:\n    loop_point(a, x)\n    x.y()") == [
        "loop_point in a loop over a.xs: give it a name first"
    ]
    assert _wrong("for x in b:\n    loop_point(b, x)\n    x.y()") == ["loop_point in a loop over b: use enumerate(b)"]


def forgets(word: Word) -> None:
    n = 0
    while n < 3:
        loop_point(word)
        n += word.x


def test_the_engine_refuses_a_loop_point_that_names_too_little() -> None:
    def machine() -> dict[str, Callable[[], Any]]:
        word = Word("w", x=1)
        return {"t": lambda: forgets(word)}

    with pytest.raises(Exception, match=r"test_livelock\.py:\d+: loop_point in forgets does not name n"):
        search(machine)


def test_every_loop_point_in_the_package_names_what_is_live() -> None:
    files = [p for p in sorted((ROOT / "src" / "mmlitmus").rglob("*.py")) if "loop_point(" in p.read_text("utf-8")]
    wrong = {p.name: list(missing(ast.parse(p.read_text("utf-8")))) for p in files}
    assert {"memory_zap.py", "fault.py"} <= wrong.keys()
    assert not any(wrong.values()), wrong
