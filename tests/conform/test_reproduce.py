"""C programs: they compile whatever they are of, say what they see, and those that need no lab are run here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mmlitmus.cli.conform_ import command
from mmlitmus.conform.c_program import LOOKERS, reproducer
from mmlitmus.conform.c_text import ACTIONS, About, Look, ReproduceError, parts
from mmlitmus.conform.generate import programs
from mmlitmus.conform.live import text_of
from mmlitmus.conform.reproduce import file_name, named, of_difference, of_recorded, program_of
from mmlitmus.conform.schema import ACTIONS as DEVICE_ACTIONS
from mmlitmus.conform.schema import (
    ADVICE,
    CACHES,
    CLEARED,
    INSERTS,
    OF_ANOTHER,
    PAGE_INSERTS,
    PIN_FLAGS,
    REMOTE,
    TRANSFERS,
    VARIANTS,
    VERBS,
    Advise,
    Clear,
    Dev,
    Dma,
    Exit,
    Fork,
    Limit,
    Lockall,
    Map,
    Observe,
    Observed,
    Pin,
    Probe,
    Program,
    Protect,
    Remap,
    Result,
    Step,
    Switch,
    Touch,
    Transfer,
    Unlockall,
    Unmap,
    Unpin,
)
from mmlitmus.conform.store import RECORDINGS, header_of, part_of, programs_of
from waiting import WAIT

FLAGS = ("-O1", "-Wall", "-Wextra", "-Werror")
LIVE = RECORDINGS / "live"

#: every verb with every word that it may have
ALL: dict[str, list[Step]] = {
    "map": [
        Map(slot="a", pages=1, backing="anonymous", flags=("fixed", "locked")),
        Map(slot="a", pages=2, offset=3, bar=2, device=1),
        *(Map(slot="b", pages=1, backing="pfnmap", region="hole", insert=i, flags=("fixed",)) for i in INSERTS),
        *(Map(slot="b", pages=1, backing="pfnmap", region="bar", cache=c, opened="r") for c in CACHES),
        *(Map(slot="c", pages=8, page=4, backing="pfnmap", region=r, frame=2, offset=4) for r in ("ram", "reserved")),
        Map(slot="a", pages=1, backing="anonymous", sharing="private", prot="", flags=("fixed_noreplace",)),
        Map(slot="a", pages=1, backing="anonymous", prot="rwx"),
        Map(slot="a", pages=1, backing="file", offset=3),
        *(Map(slot="a", pages=1, backing="pfnmap", region="ram", insert=i) for i in PAGE_INSERTS),
    ],
    "unmap": [Unmap(slot="a", page=2, pages=3)],
    "remap": [
        Remap(slot="a", pages=1, new_pages=0),
        Remap(slot="a", pages=1, new_pages=4, flags=("maymove",)),
        Remap(slot="a", pages=4, new_pages=4, to="d", flags=("maymove", "fixed", "dontunmap")),
        Remap(slot="a", pages=4, new_pages=4, flags=("maymove", "dontunmap")),
    ],
    "protect": [Protect(slot="a", pages=1, prot="r"), Protect(slot="a", pages=1, prot="")],
    "advise": [Advise(slot="a", pages=1, advice=a) for a in (*ADVICE, "lock", "unlock", "lock_onfault")],
    "lockall": [Lockall(flags=f) for f in ((), ("current",), ("current", "future", "onfault"))],
    "unlockall": [Unlockall()],
    "touch": [Touch(slot="a"), Touch(slot="a", page=3, access="write")],
    "fork": [Fork(child=1)],
    "switch": [Fork(child=1), Switch(process=1), Switch(process=0)],
    "exit": [Fork(child=1), Switch(process=1), Exit(), Switch(process=0)],
    "dev": [Dev(action=a) for a in DEVICE_ACTIONS],
    "probe": [Probe(call="unmap_mapping_range", offset=1, pages=2)],
    "pin": [
        Fork(child=1),
        *(Pin(slot="a", pages=2, variant=v, flags=("write", "longterm"), hold=1) for v in VARIANTS),
        *(Pin(slot="a", pages=24, page=3, variant=REMOTE[1], flags=(f,), process=1) for f in PIN_FLAGS),
    ],
    "unpin": [Unpin(), Unpin(hold=3, flags=("dirty",))],
    "transfer": [
        *(Transfer(kind=kind, slot="a", page=1, pages=24) for kind in TRANSFERS),
        *(Transfer(kind=kind, slot="a", process=0) for kind in OF_ANOTHER),
    ],
    "dma": [
        *(Dma(action="map", iova=2, offset=3, pages=4, slot="a", page=1, prot=p) for p in ("", "r", "w", "rw")),
        Dma(action="unmap", pages=256),
    ],
    "clear": [Clear(what=what) for what in CLEARED],
    "limit": [Limit(locked=0), Limit(locked=8)],
    "observe": [Observe()],
}
#: what may differ, as the C program words it: on the real kernel, in the model
TEXTS = {
    "outcome": ("-1 EINVAL", "0"),
    "si_code": ("2", "nothing"),
    "value": ("0x10000ed", "0x0"),
    "entry": ("pte 0x8000000000000237 bar+0", "pte 0x25 zero"),
    "vm_flags": ("rd wr sh", "not mapped"),
    "pagemap": ("present soft-dirty", "none"),
    "frame": ("refs 2 maps 1", "none"),
    "locked": ("4", "0"),
    "memtypes": ("hole+0 for 4 pages write-combining", "none"),
    "log": ("freeing-invalid-memtype hole+0 for 4 pages", "none"),
}


def program(*steps: Step, id: str = "p") -> Program:
    return Program(id=id, steps=steps)


def ended(step: Step, **how: object) -> Step:
    """A step that was seen to end so."""
    return replace(step, observed=Observed(result=Result(**how)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def gcc() -> str:
    found = shutil.which("gcc")
    if found is None:
        pytest.skip("there is no gcc to compile C with")
    return found


@pytest.fixture
def compiles(gcc: str, tmp_path: Path) -> Callable[..., None]:
    """Do these texts compile without a warning?"""

    def compiles(*texts: str) -> None:
        for n, text in enumerate(texts):
            (tmp_path / f"{n}.c").write_text(text)
        done = subprocess.run(
            [gcc, *FLAGS, "-c", *(f"{n}.c" for n in range(len(texts)))], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    return compiles


@pytest.fixture
def runs(gcc: str, tmp_path: Path) -> Callable[[str], tuple[int, list[str]]]:
    """Compile, run here; exit status and what was printed."""

    def run(text: str) -> tuple[int, list[str]]:
        source = tmp_path / "p.c"
        source.write_text(text)
        static = ["-static"] if "/" in subprocess.check_output([gcc, "-print-file-name=libc.a"], text=True) else []
        subprocess.run([gcc, *FLAGS, *static, "-o", tmp_path / "p", source], check=True)
        done = subprocess.run([tmp_path / "p"], capture_output=True, text=True, timeout=WAIT)
        return done.returncode, done.stdout.splitlines()

    return run


# -- everything compiles ----------------------------------------------------------------------------------------------
def test_every_verb_is_here() -> None:
    assert set(ALL) == set(VERBS)
    assert set(TEXTS) == set(LOOKERS)
    assert set(ACTIONS) == set(DEVICE_ACTIONS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_compiles(verb: str, compiles: Callable[..., None]) -> None:
    steps = ALL[verb]
    compiles(
        reproducer(program(*steps)), reproducer(program(*(ended(s, ok=True) if s.has_result else s for s in steps)))
    )


@pytest.mark.parametrize("name", LOOKERS)
def test_everything_to_see_compiles(name: str, compiles: Callable[..., None]) -> None:
    place = {"locked": "0", "vm_flags": "0:a1", "entry": "0:a1", "pagemap": "0:a1", "frame": "0:a1"}.get(name, "")
    about = About("6.12", "deb-6.12", (Look(name, place, *TEXTS[name]),))
    last: Step = Dev(action="read") if name == "value" else Touch(slot="a")
    alone = program(Map(slot="a", pages=2, backing="anonymous"), last)
    forked = program(Fork(child=1), Switch(process=1), last)
    device = program(Map(slot="a", pages=2), last)
    compiles(*(reproducer(one, None, about) for one in (alone, forked, device)))


def test_generated_programs_compile(compiles: Callable[..., None]) -> None:
    found = [*programs(11, 28, "pc"), *programs(11, 12, "q35")]
    texts = [reproducer(one) for one in found]
    compiles(*texts)
    assert texts == [reproducer(one) for one in found]
    assert max(len(line.expandtabs()) for text in texts for line in text.splitlines()) <= 120


def test_recorded_programs_compile_at_every_step_of_one(compiles: Callable[..., None]) -> None:
    recording = part_of(LIVE / "live-6.1-q35.jsonl.gz", 1, 1)
    (one,) = recording.programs
    compiles(*(of_recorded(recording, one.id, n) for n in range(len(one.steps))))


def test_no_part_is_left_over() -> None:
    known = parts()
    needed = {name for part in known.values() for name in part.needs}
    assert needed <= {*known, "outcome"}
    folder = Path(reproducer.__code__.co_filename)
    source = "".join(folder.with_name(name).read_text() for name in ("c_program.py", "c_pages.py"))
    needed |= {name for names, _, _ in ACTIONS.values() for name in names}
    for name in known:
        assert name in needed or f'"{name}"' in source or name in LOOKERS, name


# -- what it looks like -----------------------------------------------------------------------------------------------
def test_a_small_program_is_a_small_file() -> None:
    text = small()
    assert text == Path(__file__).with_name("small.c").read_text()
    assert len(text.splitlines()) < 120


def small() -> str:
    """Three steps, of which the last one differs."""
    steps = (
        ended(Map(slot="a", pages=4, backing="anonymous"), ok=True),
        ended(Unmap(slot="a", page=1, pages=2), ok=True),
        ended(Advise(slot="a", pages=4, advice="willneed"), errno="ENOMEM"),
    )
    return reproducer(
        program(*steps, id="small"), None, About("6.12.1", "v6.12", (Look("outcome", "", "-1 ENOMEM", "0"),))
    )


def test_it_says_how_to_load_the_module_and_which_memory_to_keep_back() -> None:
    text = reproducer(program(Map(slot="a", pages=1, backing="pfnmap", region="hole")))
    assert "insmod mmlitmus_probe.ko hole=0x20000000\n" in text
    assert "memmap=128M$0x20000000" in text
    text = reproducer(program(Map(slot="a", pages=1)))
    assert "insmod" not in text
    assert "1234:11e8 of QEMU's q35" in text


def test_no_lab_and_no_json() -> None:
    for text in (small(), *(reproducer(one) for one in programs(3, 5))):
        assert "@mm" not in text
        assert "agent" not in text


# -- run here ---------------------------------------------------------------------------------------------------------
def anonymous(*rest: Step, slot: str = "a") -> tuple[Step, ...]:
    return (Map(slot=slot, pages=4, backing="anonymous", flags=("fixed",)), *rest)


def test_steps_are_performed_and_told(runs: Callable[[str], tuple[int, list[str]]]) -> None:
    steps = anonymous(
        Touch(slot="a", access="write"), Unmap(slot="a", page=2, pages=1), Touch(slot="a", page=2),
        Protect(slot="a", page=1, pages=2, prot="r"),
        Remap(slot="a", pages=1, new_pages=1, to="b", flags=("maymove", "fixed")),
        Touch(slot="b"), Advise(slot="c", pages=1, advice="lock"),
    )  # fmt: skip
    status, lines = runs(reproducer(program(*steps)))
    assert status == 0
    assert lines == [
        "step 0: mmap: 0", "step 1: store: 0", "step 2: munmap: 0", "step 3: load: SIGSEGV", "step 3: si_code: 1",
        "step 4: mprotect: -1 ENOMEM", "step 5: mremap: 0", "step 6: load: 0", "step 7: mlock: -1 ENOMEM",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "model", "status"),
    [("SIGSEGV", "0", 0), ("0", "SIGSEGV", 1), ("0", "SIGBUS", 2), ("SIGSEGV", "SIGSEGV", 0)],
)
def test_the_exit_status_says_whose_answer_it_was(
    kernel: str, model: str, status: int, runs: Callable[[str], tuple[int, list[str]]]
) -> None:
    about = About("k", "m", (Look("outcome", "", kernel, model),))
    assert runs(reproducer(program(*anonymous(), Touch(slot="b")), None, about))[0] == status


def test_a_step_that_goes_another_way_before_is_neither(runs: Callable[[str], tuple[int, list[str]]]) -> None:
    steps = (ended(Unmap(slot="a", pages=1), errno="EINVAL"), ended(Touch(slot="a"), signal="SIGSEGV", code=1))
    status, lines = runs(reproducer(program(*steps), None, About("k", "m", (Look("outcome", "", "SIGSEGV", "0"),))))
    assert lines[0] == "step 0: munmap: 0, recorded -1 EINVAL"
    assert status == 2


def test_what_is_seen_in_proc(runs: Callable[[str], tuple[int, list[str]]]) -> None:
    looks = (
        Look("vm_flags", "0:a3", "not mapped", "?"), Look("locked", "0", "4", "0"),
        Look("pagemap", "0:b0", "none", "?"),
    )  # fmt: skip
    steps = (
        *anonymous(), Unmap(slot="a", pages=4), Map(slot="c", pages=4, backing="anonymous", flags=("fixed",)),
        Advise(slot="c", pages=4, advice="lock"),
    )  # fmt: skip
    status, lines = runs(reproducer(program(*steps), None, About("k", "m", looks)))
    said = [line for line in lines if " of " in line]
    assert said[0] == "step 3: vm_flags of 0:a3: not mapped"
    assert said[2] == "step 3: pagemap of 0:b0: none"
    if "step 3: mlock: 0" in lines:  # not everybody may lock
        assert said[1] == "step 3: locked of 0: 4"
        assert status == 0


SHARED = Map(slot="a", pages=1, backing="anonymous", flags=("fixed",))


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        # the parent's unmap is none of the child's
        ([Fork(child=1), Unmap(slot="a", pages=1), Switch(process=1), Touch(slot="a")], "0"),
        ([Fork(child=1), Switch(process=1), Unmap(slot="a", pages=1), Switch(process=0), Touch(slot="a")], "0"),
        ([Fork(child=1), Switch(process=1), Unmap(slot="a", pages=1), Touch(slot="a")], "SIGSEGV"),
        # who is left goes on, whichever of the two ends
        ([Fork(child=1), Exit(), Switch(process=1), Unmap(slot="a", pages=1), Touch(slot="a")], "SIGSEGV"),
        ([Fork(child=1), Switch(process=1), Exit(), Switch(process=0), Touch(slot="a")], "0"),
        (
            [Fork(child=1), Switch(process=1), Fork(child=2), Switch(process=2), Switch(process=0), Touch(slot="b")],
            "SIGSEGV",
        ),
    ],
)
def test_processes_take_turns(
    steps: list[Step], last: str, runs: Callable[[str], tuple[int, list[str]]], compiles: Callable[..., None]
) -> None:
    for kernel, model, status in ((last, "other", 0), ("other", last, 1)):
        text = reproducer(program(SHARED, *steps), None, About("k", "m", (Look("outcome", "", kernel, model),)))
        got, lines = runs(text)
        assert (got, lines[-1 if last == "0" else -2].split(": ")[-1]) == (status, last)
        numbers = [int(line.split(":")[0].removeprefix("step ")) for line in lines]
        assert numbers == sorted(numbers)


def test_the_last_step_is_an_exit(runs: Callable[[str], tuple[int, list[str]]]) -> None:
    look = Look("vm_flags", "1:a0", "x", "y")
    for steps in ([Fork(child=1), Exit()], [Fork(child=1), Switch(process=1), Exit()]):
        who = "1" if isinstance(steps[-2], Fork) else "0"
        about = About("k", "m", (replace(look, place=f"{who}:a0"),))
        status, lines = runs(reproducer(program(SHARED, *steps), None, about))
        assert status == 2
        assert lines[-1].startswith(f"step {len(steps)}: vm_flags of {who}:a0: rd wr sh mr mw me ms")


# -- where programs come from -----------------------------------------------------------------------------------------
def test_a_difference_is_shown_at_its_first_step() -> None:
    from mmlitmus.conform.compare import DISAGREED, compare_program
    from mmlitmus.conform.execute import execute
    from mmlitmus.conform.layout import Layout

    recording = programs_of(LIVE / "live-6.12-pc-2.jsonl.gz", ["pc-1-56"])
    header = recording.header
    (one,) = recording.programs
    flipped = "deb-6.12.117 madvise_behavior_valid=to-pageout"
    fields = compare_program(one, execute(one, header, flipped), Layout(header))
    differ = [f for f in fields if f.verdict == DISAGREED]
    assert differ
    text = of_difference(one, header, "6.12.117", flipped, differ)
    assert 'strcmp(seen, "-1 ENOMEM") != 0' in text
    assert 'now.unlike_model |= strcmp(seen, "-1 EINVAL") != 0' in text
    first = min(f.index for f in differ)
    assert f"At step {first} (outcome), 6.12.117 showed\n *\t-1 ENOMEM" in text
    assert f"({first + 1}, " not in text


def test_text_and_back() -> None:
    for one in (*programs(2, 30), *programs(2, 10, "q35")):
        assert program_of(text_of(one)).steps == one.steps


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a program is"),
        ("program x\nmap slot=a pages=1\n", "a program is"),
        ("program x\nmapp slot=a\nend", "line 2: mapp slot=a: this is no step"),
        ("program x\nmap slot=a pages=many\nend", "line 2"),
        ("program x\nunmap slot=a pages=1 bar=2\nend", "line 2: .*'bar=2' is no field of unmap"),
        ("program x\nunmap slot=9 pages=1\nend", "line 2: .*a slot"),
    ],
)
def test_text_that_does_not_fit(text: str, said: str) -> None:
    with pytest.raises(ReproduceError, match=said):
        program_of(text)


def test_a_file_with_a_program(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text("program p\nunmap slot=a pages=1\nend\n")
    assert "munmap(AT('a', 0), PAGE)" in named(str(path))


def test_names() -> None:
    assert file_name("pc-1-17 shrunk/x") == "pc-1-17_shrunk_x.c"


# -- the command ------------------------------------------------------------------------------------------------------
def mmlitmus(*words: str) -> tuple[object, str]:
    result = CliRunner().invoke(command, [*words], standalone_mode=False)
    return result.return_value if result.exception is None else str(result.exception), result.stdout


def test_the_command_prints_c() -> None:
    status, out = mmlitmus("--reproduce", "live-6.12-pc:pc-1-8:3")
    assert status == 0
    assert out == named("live-6.12-pc:pc-1-8:3")
    assert mmlitmus("--reproduce", "pc-1-8")[1].startswith("// SPDX")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nonsense", "names no program"),
        ("live-6.12:x", "there is no recording live-6.12; the package has"),
        ("live-6.12-pc:x", "no program 'x'"),
        ("live-6.12-pc:pc-1-8:99", "has steps 0 to"),
    ],
)
def test_what_the_command_does_not_know(name: str, said: str) -> None:
    message, out = mmlitmus("--reproduce", name)
    assert said in str(message)
    assert not out


def test_files_are_written_and_never_over_one(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from mmlitmus.cli.conform_ import _write_reproducers
    from mmlitmus.conform.campaign import Campaign, Compared
    from mmlitmus.conform.compare import Field
    from mmlitmus.conform.execute import Seen
    from mmlitmus.conform.live import Heard
    from mmlitmus.report.conform import Difference, difference

    header = header_of(LIVE / "live-6.12-pc.jsonl.gz")
    ran = program(ended(Unmap(slot="a", pages=1), ok=True), id="pc-1-1-shrunk")
    field = Field("p", 0, ran.steps[0], "outcome", "", "ok", "-EINVAL", Seen("-EINVAL"))
    one = Compared(ran, header=header, heard=Heard(ran), fields=(field,))
    run = SimpleNamespace(
        campaigns=[Campaign("6.12", "deb-6.12.117")], differences={"6.12": [Difference(one, (field,))]}, wrong=[]
    )
    _write_reproducers(run, tmp_path / "new")  # type: ignore[arg-type]
    path = tmp_path / "new" / "6.12-pc-1-1-shrunk.c"
    assert 'strcmp(seen, "0") != 0' in path.read_text()
    shown = run.differences["6.12"][0]
    assert f"    as a C program: {path}" in difference("6.12", "deb-6.12.117", shown)
    path.write_text("mine")
    _write_reproducers(run, tmp_path / "new")  # type: ignore[arg-type]
    assert path.read_text() == "mine"
    assert run.wrong == [f"{path} is there already, and is not written over"]
