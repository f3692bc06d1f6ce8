"""Generated programs: the same from the same seed, well-typed, varied, and without what the rules leave out."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from mmlitmus.conform import pins
from mmlitmus.conform.codec import encode
from mmlitmus.conform.drills import DRILLS, lessons
from mmlitmus.conform.generate import (
    DRILLED,
    KILLS,
    LANGUAGES,
    LIFTED,
    MACHINES,
    PAGES,
    RULES,
    SCENES,
    SLOTS,
    UNMODELLED,
    Parts,
    World,
    generate,
    kinds_of,
    language_of,
    programs,
    sensible,
    why_not,
    world_of,
)
from mmlitmus.conform.live import text_of
from mmlitmus.conform.schema import (
    ADVICE,
    CACHES,
    INSERTS,
    LOCKS,
    MORE_ADVICE,
    PAGE_INSERTS,
    PIN_FLAGS,
    TRANSFERS,
    VARIANTS,
    Advise,
    Clear,
    Dev,
    Dma,
    Exit,
    Fork,
    Limit,
    Lockall,
    Map,
    Pin,
    Probe,
    Program,
    Protect,
    Remap,
    Step,
    Switch,
    Touch,
    Transfer,
    Unlockall,
    Unmap,
    Unpin,
)

MANY = 400


def made(machine: str, count: int = MANY) -> list[Program]:
    return [*programs(7, count, machine)]


def test_the_same_seed_gives_the_same_bytes_in_another_interpreter() -> None:
    script = (
        "import json; from mmlitmus.conform.codec import encode; from mmlitmus.conform.generate import programs\n"
        "print(json.dumps([encode(p) for m in ('pc', 'q35') for p in programs(3, 40, m)]))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }  # fmt: skip
    assert len(said) == 1


def test_another_seed_number_or_machine_gives_another_program() -> None:
    texts = [str(encode(generate(s, n, machine=m))["steps"]) for s in (1, 2) for n in (0, 1) for m in ("pc", "q35")]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_programs_keep_to_the_rules_and_make_sense(machine: str) -> None:
    for program in made(machine):
        assert sensible(program.steps) == program.steps, program.id
        for step in program.steps:
            assert (getattr(step, "slot", None) or "a") in SLOTS
            assert 0 <= getattr(step, "page", 0) <= PAGES + 1


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_a_program_ends_in_a_process_that_is_there(machine: str) -> None:
    for program in made(machine):
        live, current = {0}, 0
        for step in program.steps:
            assert current in live or isinstance(step, Switch), program.id
            if isinstance(step, Fork):
                live.add(step.child)
            elif isinstance(step, Exit):
                live.discard(current)
            elif isinstance(step, Switch):
                assert step.process in live
                current = step.process


def test_everything_comes_up() -> None:
    """Each operation, each way to map with each cache type, each kind of region, shared and private."""
    steps = [step for machine in ("pc", "q35") for program in made(machine) for step in program.steps]
    ops = Counter(type(step) for step in steps)
    assert set(ops) == {Map, Unmap, Remap, Protect, Advise, Touch, Fork, Switch, Exit, Dev, Probe}
    assert min(ops.values()) >= 20, ops
    maps = [s for s in steps if isinstance(s, Map) and s.backing == "pfnmap"]
    assert {(s.insert, s.cache) for s in maps} == {(i, c) for i in INSERTS for c in CACHES}
    assert {(s.region, s.sharing) for s in maps} == {
        (r, s) for r in ("bar", "reserved", "hole", "ram") for s in ("shared", "private")
    }
    assert {s.opened for s in maps} == {"r", "rw"}
    assert {s.backing for s in steps if isinstance(s, Map)} == {"pfnmap", "anonymous", "bar"}


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_every_scene_is_played_five_times_in_a_corpus_of_a_thousand(machine: str) -> None:
    has = MACHINES[machine]
    plays = 1000 // 6 // DRILLED * SCENES if machine == "q35" else 830 // DRILLED * SCENES
    assert plays >= 5 * len([kind for kind, _ in lessons(has.kinds) if kind != "remap_fault"])


def test_scenes_have_names_of_their_own_and_kinds() -> None:
    assert len({one.name for one in DRILLS}) == len(DRILLS)
    assert all(one.kinds for one in DRILLS)
    assert all(one.scene.__doc__ for one in DRILLS)


def test_without_a_probe_module_nothing_of_its_is_mapped() -> None:
    bare = [*programs(7, 60, has=Parts("q35", False, 1))]
    steps = [step for program in bare for step in program.steps]
    assert {s.backing for s in steps if isinstance(s, Map)} == {"bar", "anonymous"}
    assert not any(isinstance(s, Probe) for s in steps)
    assert {p.id.rpartition("-")[0] for p in bare} == {"q35-bare-7"}


def test_two_devices_are_both_used_each_by_its_own_bar() -> None:
    steps = [step for program in programs(7, 40, has=Parts("q35", True, 2)) for step in program.steps]
    assert {(s.device, s.bar) for s in steps if isinstance(s, Map) and s.backing == "bar"} == {(0, 0), (1, 2)}
    assert {s.device for s in steps if isinstance(s, Dev)} == {0, 1}
    assert {s.device for s in steps if isinstance(s, Dev) and s.action == "read"} == {0}


def mapped(**more: object) -> Map:
    return Map(**{"slot": "a", "pages": 4, "backing": "pfnmap", "region": "bar", **more})  # type: ignore[arg-type]


#: a rule -> steps of which the last is what it forbids
FORBIDDEN: dict[str, list[Step]] = {
    "remap-over-entries": [mapped(insert="remap_fault"), Probe(call="unmap_mapping_range", pages=1)],
    "anonymous-pages": [Map(slot="a", pages=2, backing="anonymous"), Touch(slot="a", page=1)],
    "anonymous-moves": [
        Map(slot="a", pages=2, backing="anonymous"),
        Remap(slot="a", page=1, pages=1, new_pages=1, to="b", flags=("maymove", "fixed")),
    ],
    "address-of-the-kernels-choice": [mapped(), mapped()],
    "mremap-names-a-slot": [mapped(), Remap(slot="a", pages=1, new_pages=1, to="b", flags=("maymove",))],
    "registers-of-the-device": [Dev(action="read", page=1)],
    "execute-only": [mapped(), Protect(slot="a", pages=1, prot="x")],
    "mixed-counted-pages": [mapped(insert="mixed", region="ram")],
    "mixed-populated": [mapped(insert="mixed"), Advise(slot="a", page=3, pages=1, advice="lock")],
    "unfilled-slots": [mapped(insert="mixed"), Transfer(kind="process_vm_readv", slot="a", page=3)],
    "pinned-pages": [mapped(), Pin(slot="a", pages=1, variant="pin_user_pages")],
    "mixed-expanded": [mapped(insert="mixed"), Remap(slot="a", pages=2, new_pages=3, flags=("maymove",))],
    "later-words": [mapped(), Advise(slot="a", pages=1, advice="guard_install")],
    "pages-of-a-plain-leaf": [],
}
#: what the first two languages have no words to come to: a rule -> language and steps
ELSEWHERE: dict[str, tuple[str, list[Step]]] = {
    "pages-of-a-plain-leaf": (
        "huge",
        [mapped(insert="huge", pages=512), Pin(slot="a", page=511, pages=1, variant="get_user_pages_fast")],
    ),
    "huge-pages-of-memory": (
        "huge",
        [mapped(), Map(slot="b", page=4, pages=1100, backing="anonymous", sharing="private")],
    ),
    "grown-wherever": ("calls", [mapped(), Remap(slot="a", pages=2, new_pages=3, flags=("maymove",))]),
    "all-of-a-process-with-a-limit": ("calls", [Limit(locked=2), Lockall(flags=("current",))]),
    "pte-into-a-leaf": (
        "huge-plain",
        [mapped(insert="huge", region="reserved"), Probe(call="insert_pfn", slot="a", pages=1)],
    ),
    "split-of-frames-without-pages": ("huge-plain", [mapped(region="hole"), mapped(insert="huge", slot="b")]),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_rule_of_a_younger_language_forbids_what_it_says(name: str) -> None:
    language, (*before, last) = ELSEWHERE[name]
    world = world_of(language)
    for step in before:
        assert why_not(world, step, language) is None
        world.after(step)
    rule = why_not(world, last, language)
    assert rule is not None
    assert (rule.name, bool(rule.why)) == (name, True)
    assert sensible([*before, last], language) is None


def test_every_rule_of_the_younger_languages_is_tried() -> None:
    younger = {rule.name for language in ("huge", "calls", "huge-plain") for rule in LANGUAGES[language]}
    assert set(ELSEWHERE) == younger - set(FORBIDDEN) - set(FORBIDDEN_OF_PAGES) | {"pages-of-a-plain-leaf"}


def test_every_rule_is_tried_below() -> None:
    assert set(FORBIDDEN) == {rule.name for rule in RULES}
    assert not {rule.name for rule in KILLS} & {rule.name for rule in UNMODELLED}
    assert all(rule.why for rule in RULES)


@pytest.mark.parametrize("name", [name for name, steps in FORBIDDEN.items() if steps])
def test_a_rule_forbids_what_it_says_and_not_what_is_before_it(name: str) -> None:
    *before, last = FORBIDDEN[name]
    world = World()
    for step in before:
        assert why_not(world, step) is None
        world.after(step)
    rule = why_not(world, last)
    assert rule is not None
    assert rule.name == name
    assert sensible(FORBIDDEN[name]) is None
    assert sensible(before) == tuple(before)


def test_what_may_be_mapped_follows_a_move_a_fork_and_an_exit() -> None:
    world = World()
    for step in (
        Map(slot="a", pages=2, backing="anonymous"),
        Fork(child=1),
        Unmap(slot="a", pages=2),
        mapped(slot="b"),
        Remap(slot="b", pages=4, new_pages=4, to="c", flags=("maymove", "fixed")),
    ):
        world.after(step)
    assert not world.anonymous("a", 0, 2)
    assert world.runs() == [("c", 0, 4)]
    world.after(Switch(process=1))
    assert world.anonymous("a", 1, 1)
    world.after(Exit())
    assert world.live == [0]


def test_a_move_takes_all_of_its_source_and_a_copy_none() -> None:
    world = World()
    world.after(mapped(slot="a"))
    world.after(Remap(slot="a", pages=4, new_pages=2, to="b", flags=("maymove", "fixed")))
    assert world.runs() == [("b", 0, 2)]
    world.after(Remap(slot="b", pages=0, new_pages=2, to="c", flags=("maymove", "fixed")))
    assert world.runs() == [("b", 0, 2), ("c", 0, 2)]


def test_steps_of_a_process_that_is_not_there_are_left_out() -> None:
    steps = [mapped(), Switch(process=1), Touch(slot="a"), Fork(child=1), Fork(child=1), Exit(), Touch(slot="a")]
    assert sensible(steps) == (mapped(), Touch(slot="a"), Fork(child=1), Exit())


# -- pinned pages -----------------------------------------------------------------------------------------------------
def test_programs_are_about_pinned_pages_only_when_asked_for() -> None:
    beyond = (Pin, Unpin, Transfer, Dma, Clear, Limit)
    for machine in ("pc", "q35"):
        plain = [step for program in programs(3, 30, machine) for step in program.steps]
        assert not any(isinstance(step, beyond) for step in plain)
        asked = [step for program in programs(3, 30, machine, language="gup") for step in program.steps]
        assert any(isinstance(step, Pin) for step in asked)
        assert any(isinstance(step, Dma) for step in asked) == (machine == "q35")


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_programs_about_pinned_pages_keep_to_their_rules_and_make_sense(machine: str) -> None:
    for program in programs(3, 60, machine, language="gup"):
        assert program.id.startswith(f"{machine}-gup-3-")
        assert sensible(program.steps, "gup") == program.steps
        current, live = 0, {0}
        for step in program.steps:
            if isinstance(step, Switch):
                current = step.process
            elif isinstance(step, Fork):
                live.add(step.child)
            elif isinstance(step, Exit):
                live.discard(current)
            elif isinstance(step, Pin | Transfer):
                assert step.process is None or step.process in live
    again = [*programs(3, 3, machine, language="gup")]
    assert again == [*programs(3, 3, machine, language="gup")]
    assert again != [*programs(3, 3, machine)]


def test_everything_about_pinned_pages_comes_up() -> None:
    found = [s for m in ("pc", "q35") for program in programs(3, 120, m, language="gup") for s in program.steps]
    pinned = [s for s in found if isinstance(s, Pin)]
    assert {s.variant for s in pinned} == set(VARIANTS)
    assert {flag for s in pinned for flag in s.flags} == set(PIN_FLAGS) - {"nofault"}, "5.10 has no FOLL_NOFAULT"
    assert {s.kind for s in found if isinstance(s, Transfer)} == set(TRANSFERS)
    assert {(s.action, s.prot) for s in found if isinstance(s, Dma) and s.action == "map"} >= {
        ("map", prot) for prot in ("", "r", "w", "rw")
    }
    assert {s.backing for s in found if isinstance(s, Map)} == {"bar", "anonymous", "pfnmap"}
    assert {s.insert for s in found if isinstance(s, Map)} >= {*PAGE_INSERTS, "mixed", "remap", "fault_pfn"}


def test_scenes_of_pinned_pages_have_names_kinds_and_words() -> None:
    scenes = [*pins.SCENES, *pins.DMA_SCENES]
    assert len({one.name for one in (*scenes, *DRILLS)}) == len(scenes) + len(DRILLS)
    kinds = {kind for has in MACHINES.values() for kind in kinds_of(has, "gup")}
    for one in scenes:
        assert one.scene.__doc__
        assert one.kinds
        assert set(one.kinds) <= kinds


def test_a_language_lifts_rules_about_the_model_and_none_about_the_guest() -> None:
    assert set(LIFTED) <= {rule.name for rule in UNMODELLED}
    assert {rule.name for rule in RULES} - {rule.name for rule in LANGUAGES["gup"]} == set(LIFTED)
    assert {rule.name for rule in LANGUAGES["gup"]} - {rule.name for rule in RULES} == set(FORBIDDEN_OF_PAGES)
    kills = {rule.name for rule in KILLS}
    assert all(kills <= {rule.name for rule in rules} for rules in LANGUAGES.values())


#: a rule of programs about pinned pages only -> steps of which the last is what it forbids
FORBIDDEN_OF_PAGES: dict[str, list[Step]] = {
    "memory-of-files": [mapped(), Map(slot="b", pages=1, backing="anonymous", sharing="shared")],
    "merged-mappings": [
        Map(slot="a", pages=2, backing="anonymous", sharing="private"),
        Map(slot="a", page=2, pages=1, backing="anonymous", sharing="private", flags=("fixed",)),
    ],
    "reclaim": [mapped(region="ram", insert="fault_page"), Advise(slot="a", page=3, pages=1, advice="pageout")],
}


@pytest.mark.parametrize("name", FORBIDDEN_OF_PAGES)
def test_a_rule_of_pinned_pages_forbids_what_it_says_and_not_what_is_before_it(name: str) -> None:
    *before, last = FORBIDDEN_OF_PAGES[name]
    world = World()
    for step in before:
        assert why_not(world, step, "gup") is None
        world.after(step)
    rule = why_not(world, last, "gup")
    assert rule is not None
    assert (rule.name, bool(rule.why)) == (name, True)
    assert sensible(before, "gup") == tuple(before)


def test_a_generated_programs_language_is_in_its_name() -> None:
    for language in LANGUAGES:
        for machine in MACHINES:
            assert language_of(generate(3, 0, machine=machine, language=language).id + "-shrunk") == language
    assert language_of(generate(3, 0, has=Parts(plain_leaves=True), language="huge").id) == "huge-plain"


# -- huge leaves and calls --------------------------------------------------------------------------------------------
YOUNGER = [
    (language, has)
    for language in ("huge", "calls")
    for has in (Parts("pc"), Parts("q35", devices=2), Parts("q35", False, 2), Parts("pc", plain_leaves=True))
    if has.probe or has.devices
]


@pytest.mark.parametrize(("language", "has"), YOUNGER, ids=str)
def test_programs_of_a_younger_language_keep_to_their_rules_and_make_sense(language: str, has: Parts) -> None:
    made = [*programs(3, 40, has.machine, has=has, language=language)]
    assert made == [*programs(3, 40, has.machine, has=has, language=language)]
    for program in made:
        assert sensible(program.steps, language_of(program.id)) == program.steps, program.id
        looked = text_of(program).splitlines()
        assert all(len(line) < 1 << 16 for line in looked)
        assert sum(line.count(":") for line in looked if line.startswith("places=")) < 4096, "the agent has no room"


def test_every_call_of_the_language_comes_up() -> None:
    found = [s for m in ("pc", "q35") for program in programs(3, 150, m, language="calls") for s in program.steps]
    assert {s.advice for s in found if isinstance(s, Advise)} == {*ADVICE, *MORE_ADVICE, *LOCKS}
    maps = [s for s in found if isinstance(s, Map)]
    assert {s.prot for s in maps} == {"", "r", "w", "x", "rw", "rx", "wx", "rwx"}
    assert {s.insert for s in maps if s.backing == "pfnmap"} == {*INSERTS, *PAGE_INSERTS}
    assert {flag for s in maps for flag in s.flags} == {"fixed", "fixed_noreplace", "locked", "populate"}
    assert any(s.new_pages > s.pages for s in found if isinstance(s, Remap))
    assert {flag for s in found if isinstance(s, Lockall) for flag in s.flags} == {"current", "future", "onfault"}
    assert {type(s) for s in found} >= {Unlockall, Limit, Pin, Transfer, Dma, Clear}
    pinned = [s for s in found if isinstance(s, Pin)]
    assert {flag for s in pinned for flag in s.flags} == set(PIN_FLAGS) - {"nofault"}


def test_leaves_are_split_in_every_way() -> None:
    for has in (Parts("pc"), Parts("q35", devices=2)):
        found = [s for p in programs(3, 150, has.machine, has=has, language="huge") for s in p.steps]
        large = [s for s in found if isinstance(s, Map) and s.pages >= 512 and s.page % 512 == 0]
        assert len(large) > 200
        assert {s.advice for s in found if isinstance(s, Advise)} == {*ADVICE, *MORE_ADVICE, *LOCKS}
        for kind in (Unmap, Protect, Advise, Remap):
            cut = {s.page % 512 for s in found if isinstance(s, kind)}
            assert {0, 1, 511} <= cut, f"{kind.__name__}: at a leaf's edge and within it"
        kinds = {(s.backing, s.insert if s.backing == "pfnmap" else "") for s in large}
        assert kinds >= ({("bar", "")} if has.devices else {("pfnmap", "huge"), ("pfnmap", "remap")})
        calls = {s.call for s in found if isinstance(s, Probe)}
        assert calls == (set() if has.devices else {"unmap_mapping_range", "insert_pfn", "remap_pfn_range"})


def test_where_leaves_are_plain_none_is_of_frames_without_pages() -> None:
    found = [s for p in programs(3, 80, has=Parts(plain_leaves=True), language="huge") for s in p.steps]
    assert {s.region for s in found if isinstance(s, Map) and s.insert == "huge"} == {"reserved", "ram"}
    assert {s.call for s in found if isinstance(s, Probe)} == {"unmap_mapping_range"}
