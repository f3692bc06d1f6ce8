"""C programs in real guests: what they see there is what was recorded, or what the real kernel's answer is.

Slow, and skipped where QEMU or kernel 6.12 (``mmlitmus lab fetch 6.12``) is not there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mmlitmus.conform.c_program import reproducer
from mmlitmus.conform.c_text import About, Look, outcome
from mmlitmus.conform.campaign import Compared, Kernel
from mmlitmus.conform.compare import Field
from mmlitmus.conform.lab import Lab, LabError, Machine, MissingError, Place, host
from mmlitmus.conform.lab.binary import Binaries, binaries
from mmlitmus.conform.lab.machine import QEMU
from mmlitmus.conform.lab.place import default
from mmlitmus.conform.live import header_of, text_of
from mmlitmus.conform.reproduce import of_difference, of_recorded, program_of
from mmlitmus.conform.schema import Exit, Fork, Program, Recording
from mmlitmus.conform.shrink import shrink, signature
from mmlitmus.conform.store import RECORDINGS, load

pytestmark = pytest.mark.slow
KERNEL = "6.12"
#: of each machine
PROGRAMS = 16
EDU = ("1234:11e8",)
#: taken before a test's own environment can change it
PLACE = default()


def lab_with(kernel: str) -> Lab:
    """The user's lab; skips where it cannot boot the kernel."""
    lab = Lab(Place(PLACE))
    try:
        lab.kernel(kernel)
        host.program(QEMU, "test")
        host.static_busybox()
        host.program("gcc", "test")
    except (LabError, MissingError) as e:
        pytest.skip(str(e))
    return lab


def build(texts: dict[str, str], folder: Path) -> dict[str, Path]:
    """Static executables of C texts, by name."""
    gcc = shutil.which("gcc")
    assert gcc is not None
    for name, text in texts.items():
        (folder / f"{name}.c").write_text(text)
        flags = ("-O1", "-Wall", "-Wextra", "-Werror", "-static", "-s")
        subprocess.run([gcc, *flags, "-o", folder / name, folder / f"{name}.c"], check=True)
    return {name: folder / name for name in texts}


def recorded(machine: str) -> tuple[Recording, list[tuple[Program, int]]]:
    """A recording, and programs with the step at which to look: one that forks and one that ends among them."""
    recording = load(RECORDINGS / "live" / f"live-{KERNEL}-{machine}.jsonl.gz")
    programs = [*recording.programs]
    wanted = programs[:PROGRAMS]
    wanted += [p for p in programs[PROGRAMS:] if any(isinstance(s, Exit) for s in p.steps)][:2]
    assert any(isinstance(s, Fork) for p in wanted for s in p.steps)
    # one after the other of a program's steps, from program to program
    return recording, [(p, n * 3 % len(p.steps)) for n, p in enumerate(wanted)]


def told(lines: tuple[str, ...]) -> dict[int, str]:
    """The outcomes that a program printed, by step."""
    found: dict[int, str] = {}
    for line in lines:
        match = re.fullmatch(r"step (\d+): (?!si_code|\w+ of |memtypes|value)[\w ]+: (.*)", line)
        if match is not None:
            found[int(match[1])] = match[2]
    return found


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_recorded_programs_see_again_what_was_recorded(machine: str, tmp_path: Path) -> None:
    lab = lab_with(KERNEL)
    recording, programs = recorded(machine)
    texts: dict[str, str] = {}
    for n, (program, step) in enumerate(programs):
        texts[f"p{n}"] = of_recorded(recording, program.id, step)
        texts[f"whole{n}"] = of_recorded(recording, program.id)
    with binaries(lab, KERNEL, build(texts, tmp_path), Machine(machine)) as guest:
        for n, (program, _) in enumerate(programs):
            for name in (f"p{n}", f"whole{n}"):
                ran = guest.run(name, EDU if "argc" in texts[name] else ())
                assert (ran.kind, ran.status) == ("ended", 0), (program.id, name, ran)
            results = {
                k: outcome(s.observed.result.outcome)
                for k, s in enumerate(program.steps)
                if s.has_result and s.observed.result is not None
            }
            assert told(ran.lines) == results, program.id


FLIPS = [
    # a call's answer; what nobody sees without the probe module
    ("pc-1-8", "deb-6.12.117 madvise_behavior_valid=to-pageout", "outcome"),
    ("pc-1-4", "deb-6.12.117 untrack_site=unmap_vmas", "vm_flags"),
]


def test_a_planted_difference_is_shrunk_and_its_program_says_who_is_right(tmp_path: Path) -> None:
    lab = lab_with(KERNEL)
    recording = load(RECORDINGS / "live" / f"live-{KERNEL}-pc.jsonl.gz")
    texts = {}
    with lab.session(KERNEL, Machine("pc")) as session:
        for n, (name, flipped, field) in enumerate(FLIPS):
            kernel = Kernel(session, session.ready, session.identity, "pc", flipped)
            program = next(p for p in recording.programs if p.id == name)

            def left(one: Compared) -> list[Field]:
                return one.different

            first = next(f for f in kernel.compare(program).different if f.name == field)
            found = shrink(program, signature(first), kernel.compare, left)
            assert found is not None
            one = found[0]
            assert one.heard is not None
            assert len(one.heard.program.steps) <= 2 < len(program.steps)
            release = header_of(session.ready, session.identity, "pc").key.kernel.release
            text = of_difference(one.heard.program, one.header, release, flipped, left(one))
            texts[f"right{n}"] = text
            # what the kernel answers, told as if the model expected it
            texts[f"wrong{n}"] = swapped(text)
    with binaries(lab, KERNEL, build(texts, tmp_path)) as guest:
        for n in range(len(FLIPS)):
            assert guest.run(f"right{n}").status == 0, texts[f"right{n}"]
            assert guest.run(f"wrong{n}").status == 1


def swapped(text: str) -> str:
    """The same program, where model and real kernel have changed places."""
    return text.replace("unlike_kernel ? now.unlike_model", "unlike_model ? now.unlike_kernel")


@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.12", "7.3"])
def test_the_programs_of_the_findings(kernel: str, tmp_path: Path) -> None:
    """Each says what docs/findings.md says of it."""
    lab = lab_with(kernel)
    texts: dict[str, str] = {}
    for program, rows in told_of():
        release = lab.kernel(kernel).release
        last = [r for r in rows if int(r["step"]) == len(program.steps) - 1]
        here = [r for r in last if r["kernel"].startswith(f"deb-{kernel}.")]
        assert here, (release, program.id)
        looks = [Look(r["seen"], "", words(r), "?") for r in here if r["seen"] in ("outcome", "memtypes")]
        texts[program.id] = reproducer(program, None, About(release, "the model", tuple(looks)))
    files = build(texts, tmp_path)
    for machine, names in (("q35", ["moved", "forked"]), ("pc", ["failed-fork", "zapped"])):
        with binaries(lab, kernel, files, Machine(machine)) as guest:
            for name in names:
                ran = guest.run(name, EDU if machine == "q35" else ())
                assert (ran.kind, ran.status) == ("ended", 0), ran


def words(row: dict[str, str]) -> str:
    """A row's answer as a C program has it."""
    if row["seen"] == "outcome":
        return outcome(row["answer"])
    match = re.fullmatch(r"hole\[0x0-0x(\d)\) (.*)", row["answer"])
    return f"hole+0 for {match[1]} pages {match[2]}" if match is not None else row["answer"]


def told_of() -> list[tuple[Program, list[dict[str, str]]]]:
    """The programs in docs/findings.md, and the rows of their tables, one a kernel."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "findings.md").read_text()
    found = []
    for text, table in re.findall(r"^```program\n(.*?)^```\n\n((?:\|[^\n]*\n)+)", page, re.M | re.S):
        rows = []
        for line in table.splitlines()[2:]:
            kernels, step, seen, answer = (cell.strip() for cell in line.strip("|").split("|"))
            for one in kernels.split(","):
                rows.append({"kernel": one.strip(" `"), "step": step, "seen": seen, "answer": answer.strip("`")})
        found.append((program_of(text), rows))
    return found


def test_what_becomes_of_a_program(tmp_path: Path) -> None:
    lab = lab_with(KERNEL)
    texts = {
        "says": '#include <stdio.h>\nint main(void) { puts("a \\"b\\"\\t\\\\"); return 7; }\n',
        "crashes": "#include <stdlib.h>\nint main(void) { abort(); }\n",
        "panics": '#include <stdlib.h>\nint main(void) { return system("echo c > /proc/sysrq-trigger"); }\n',
    }
    with binaries(lab, KERNEL, build(texts, tmp_path)) as guest:
        assert isinstance(guest, Binaries)
        said = guest.run("says")
        assert (said.kind, said.status, said.lines) == ("ended", 7, ('a "b" \\',))
        assert guest.run("crashes").status == 128 + 6
        panicked = guest.run("panics")
        assert (panicked.kind, panicked.status) == ("panic", None)
        assert "sysrq triggered crash" in panicked.why
        # the next one starts afresh
        assert guest.run("says").status == 7


def test_text_of_a_finding_is_what_the_agent_runs() -> None:
    lab = lab_with(KERNEL)
    program = next(p for p, _ in told_of() if p.id == "zapped")
    with lab.session(KERNEL) as session:
        outcome_ = session.run(text_of(program))
    assert outcome_.ended
    steps = [said["observed"] for said in outcome_.objects() if "step" in said]
    assert [len(step["memtypes"]) for step in steps] == [1, 0]
