"""The guest's C sources: they speak the language of the schema, compile without a warning, and hold a conversation.

No virtual machine: the agent runs here, on whatever kernel this is, and does nothing but map anonymous memory.
"""

import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmlitmus.conform
from mmlitmus.conform import schema
from mmlitmus.conform.codec import EXTRA, BadValueError, decode
from mmlitmus.kernel import machine
from mmlitmus.kernel.drivers.misc import probe
from waiting import WAIT

GUEST = Path(mmlitmus.conform.__file__).parent / "guest"
WORDS = (GUEST / "words.c").read_text()
MARKER = "@mm "


# -- the tables in words.c --------------------------------------------------------------------------------------------
def table(name: str) -> str:
    """The lines between the braces of a table."""
    found = re.search(rf"{name}\[\] = \{{\n(.*?)\n\}};", WORDS, re.S)
    assert found, f"words.c has no table {name}"
    return found[1]


def words(name: str) -> tuple[str, ...]:
    """What a table of words has."""
    return tuple(re.findall(r'\{ "([^"]*)",', table(rf"struct word {name}")))


def fields(verb: str) -> dict[str, tuple[str | None, str]]:
    """A verb's fields: what each is when it is left out (None: it may not be), and the table of its words."""
    row = re.compile(r'\{ "(\w+)", \w+, AT\(\w+\), (NULL|"[^"]*")(?:, (\w+))? \}')
    lines = [line for line in table(rf"struct field {verb}_fields").splitlines() if "{ NULL }" not in line]
    found = [row.search(line) for line in lines]
    assert all(found), f"a line of {verb}_fields is not understood"
    return {f[1]: (None if f[2] == "NULL" else f[2][1:-1], f[3] or "") for f in found if f}


def verbs() -> dict[str, bool]:
    """The verbs, and whether each has a result."""
    rows = re.findall(r'\{ "(\w+)", (\w+)_fields, (?:\w+_step|NULL), (true|false) \}', table("struct verb verbs"))
    assert all(verb == of for verb, of, _ in rows)
    return {verb: result == "true" for verb, _, result in rows}


def default(field: dataclasses.Field[Any]) -> str | None:
    """What a field of a step is when it is left out, in the words of the protocol."""
    if field.default is dataclasses.MISSING:
        return None
    value = "" if field.default is None else field.default
    return ",".join(value) if isinstance(value, tuple) else str(value)


def test_the_agent_has_the_verbs_of_the_schema_and_no_others() -> None:
    assert verbs() == {name: step.has_result for name, step in schema.VERBS.items()}


@pytest.mark.parametrize("verb", schema.VERBS)
def test_a_verb_has_the_fields_and_defaults_of_the_schema_and_no_others(verb: str) -> None:
    known = [f for f in dataclasses.fields(schema.VERBS[verb]) if f.name not in ("observed", EXTRA)]
    assert {name: missing for name, (missing, _) in fields(verb).items()} == {f.name: default(f) for f in known}


def test_words_that_the_schema_has_in_lists_are_those_of_the_agent() -> None:
    assert words("backings") == schema.BACKINGS
    assert words("advice") == (*schema.ADVICE, *schema.MORE_ADVICE, *schema.LOCKS)
    assert words("actions") == schema.ACTIONS
    assert words("calls") == schema.CALLS
    assert words("variants") == schema.VARIANTS
    assert words("pin_flags") == schema.PIN_FLAGS
    assert words("transfers") == schema.TRANSFERS
    assert words("cleared") == schema.CLEARED
    assert {*schema.INSERTS, *schema.PAGE_INSERTS, *schema.HUGE_INSERTS} <= set(words("inserts"))
    assert set(schema.CACHES) <= set(words("caches"))


def test_every_word_of_an_agents_table_that_the_schema_lists_is_one_it_reads(
    step_of: Callable[..., schema.Step],
) -> None:
    """The lists that have no name in the schema: flags, sharing, opened, access."""
    for verb, field in (
        ("map", "flags"),
        ("remap", "flags"),
        ("map", "sharing"),
        ("map", "opened"),
        ("touch", "access"),
        ("pin", "flags"),
        ("unpin", "flags"),
        ("lockall", "flags"),
        ("transfer", "kind"),
        ("dma", "action"),
        ("dma", "prot"),
    ):
        mine = words(fields(verb)[field][1])
        for word in mine:
            step_of(verb, **{field: [word] if field == "flags" else word})
        with pytest.raises(BadValueError) as wrong:
            step_of(verb, **{field: ["?"] if field == "flags" else "?"})
        assert str(wrong.value).partition("none of ")[2] == ", ".join(mine)


@pytest.fixture
def step_of() -> Callable[..., schema.Step]:
    """A step of a verb with all that it must have, and some more."""
    must = {"slot": "a", "pages": 1, "new_pages": 1, "variant": "pin_user_pages", "action": "map", "kind": "vmsplice"}

    def make(verb: str, **more: Any) -> schema.Step:
        given = {name: must[name] for name, (missing, _) in fields(verb).items() if missing is None}
        return schema.read_step({"op": verb, **given, **more})

    return make


def test_the_module_maps_what_its_twin_in_the_model_maps() -> None:
    """All but "track": the kernel does not let modules reserve a memory type without mapping something."""
    assert list(words("inserts")) == [i for i in probe.INSERTS if i != "track"]
    assert words("caches") == tuple(probe.CACHES)


def test_slots_are_where_the_model_has_them() -> None:
    header = (GUEST / "agent.h").read_text()
    numbers = {name: int(value, 16) for name, value in re.findall(r"#define (SLOT_\w+) (0x[0-9a-f]+)UL", header)}
    assert numbers == {"SLOT_BASE": machine.SLOT_BASE, "SLOT_SIZE": machine.SLOT_SIZE}


def test_versions_of_the_kernel_are_told_apart_in_one_place_only() -> None:
    text = {p.name: p.read_text() for p in GUEST.iterdir() if p.suffix in (".c", ".h")}
    assert [name for name in sorted(text) if "LINUX_VERSION_CODE" in text[name]] == ["compat.h"]
    assert "SINCE(" not in text["mmlitmus_probe.c"]


@pytest.mark.parametrize("path", sorted(p.name for p in GUEST.iterdir() if p.is_file()))
def test_a_source_says_under_which_licence_it_is(path: str) -> None:
    assert "SPDX-License-Identifier: GPL-2.0-only" in (GUEST / path).read_text().splitlines()[0]


# -- the agent, compiled ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent, compiled with every warning an error."""
    gcc = shutil.which("gcc")
    if gcc is None or platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("a gcc for x86-64 Linux is not here")
    if "/" not in subprocess.run([gcc, "-print-file-name=libc.a"], capture_output=True, text=True).stdout:
        pytest.skip("there is no static C library")
    to = tmp_path_factory.mktemp("agent") / "agent"
    sources = sorted(p for p in GUEST.glob("*.c") if not p.name.startswith("mmlitmus_probe"))
    flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror", "-static"]
    done = subprocess.run([gcc, *flags, "-o", to, *sources], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return to


class Talk:
    """An agent on standard input and output."""

    def __init__(self, path: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [path, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.ready = self.answer()["ready"]

    def send(self, text: str) -> None:
        """Send lines."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip():
                assert line.decode().startswith(MARKER)
                got: dict[str, Any] = json.loads(line.decode().removeprefix(MARKER))
                return got
        raise AssertionError("the agent has gone")

    def run(self, *lines: str, name: str = "p") -> list[dict[str, Any]]:
        """A program's answers, from ``begin`` to ``end``."""
        self.send("\n".join([f"program {name}", *lines, "end\n"]))
        answers = [self.answer()]
        while "end" not in answers[-1]:
            answers.append(self.answer())
        return answers

    def close(self) -> int:
        """What the agent returns when nobody speaks any more."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=WAIT)


@pytest.fixture
def talk(agent: Path) -> Iterator[Callable[..., Talk]]:
    """Start an agent with options."""
    talks: list[Talk] = []

    def start(*options: str) -> Talk:
        talks.append(Talk(agent, *options))
        return talks[-1]

    yield start
    for t in talks:
        t.process.kill()
        t.process.wait()
        for stream in (t.process.stdin, t.process.stdout, t.process.stderr):
            assert stream is not None
            stream.close()


def results(answers: list[dict[str, Any]]) -> list[Any]:
    """What became of each step, in one word."""

    def word(answer: dict[str, Any]) -> Any:
        if "observed" not in answer:
            return answer["error"]
        observed = decode(schema.Observed, answer["observed"])
        return observed.result and observed.result.outcome

    return [word(a) for a in answers if "step" in a]


ANONYMOUS = "map slot=a pages=4 backing=anonymous sharing=private flags=fixed_noreplace"


def test_a_program_is_answered_in_the_words_of_the_schema(talk: Callable[..., Talk]) -> None:
    answers = talk().run(
        f"{ANONYMOUS} places=0:a0,0:b0",
        "touch slot=a access=write",
        "places=0:a0",
        "touch slot=a",
        "unmap slot=a page=1 pages=1",
        "touch slot=a page=1",
        "protect slot=a pages=1 prot=r",
        "touch slot=a access=write",
        "remap slot=a pages=1 new_pages=1 to=b flags=maymove,fixed places=0:a0,0:b0",
        "advise slot=b pages=1 advice=dontneed",
        "advise slot=c pages=1 advice=dontneed",
        ANONYMOUS,
        name="two words",
    )
    assert answers[0] == {"begin": "two words", "memtypes": None}
    outcomes = ["ok", "ok", "ok", "ok", "SIGSEGV", "ok", "SIGSEGV", "ok", "ok", "-ENOMEM", "-EEXIST"]
    assert results(answers) == outcomes
    for answer in answers[1:-1]:
        observed = decode(schema.Observed, answer["observed"])
        assert observed.extra == {}
        assert observed.memtypes is None, "there is no probe module here"
        assert all(entry is None for entry in observed.entries.values())
    read, protected = (answers[1 + n]["observed"]["result"] for n in (2, 6))
    assert read == {"ok": True, "value": "0x5a"}
    assert protected == {"signal": "SIGSEGV", "code": 2}
    first, moved = (answers[1 + n]["observed"]["vm_flags"] for n in (0, 7))
    assert first["0:a0"].startswith("rd wr mr")
    assert moved["0:b0"].startswith("rd mr")
    assert first["0:b0"] == moved["0:a0"] == ""
    end: dict[str, Any] = {"end": "two words", "log": [], "stopped": None, "after": [], "clean": True}
    assert answers[-1] | {"log": [], "after": []} == end  # what this kernel happens to print is its own business


def test_processes_fork_switch_and_exit(talk: Callable[..., Talk]) -> None:
    answers = talk().run(
        ANONYMOUS,
        "fork child=1 places=0:a0,1:a0",
        "fork child=1",
        "unmap slot=a pages=4",
        "switch process=1",
        "touch slot=a",
        "fork child=2",
        "exit",
        "touch slot=a places=2:a0",
        "switch process=2",
        "touch slot=a access=write",
        "exit",
        "switch process=0",
        "touch slot=a",
    )
    got = results(answers)
    assert "there can be no process 1" in got[2]
    assert [*got[:2], *got[3:]] == ["ok", "ok", "ok", None, "ok", "ok", None, None, None, "ok", None, None, "SIGSEGV"]
    assert set(answers[2]["observed"]["vm_flags"]) == {"0:a0", "1:a0"}
    assert answers[9] == {"step": 8, "skipped": "there is no such process", "observed": {}}
    assert answers[-1]["clean"]


def test_more_is_seen_when_it_is_wanted(talk: Callable[..., Talk]) -> None:
    want = "p want=pagemap,locked,frames,events"
    answers = talk().run(ANONYMOUS, "advise slot=a pages=2 advice=lock places=0:a0", name=want)
    observed = decode(schema.Observed, answers[2]["observed"])
    assert observed.extra == {}, "there is nothing that the schema does not know"
    assert observed.locked == {"0": 2}
    assert (observed.pagemap["0:a0"] or 0) >> 63 == 1, "a page that is locked is present"
    assert observed.frames == observed.events == {}, "nobody sees them without the probe module"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("frob slot=a", "there is no operation frob"),
        ("unmap slot=a", "unmap: the field pages is missing"),
        ("unmap slot=a pages=0", "unmap: pages=0 is not known here"),
        ("unmap slot=a pages=99999999999999999999", "unmap: pages=99999999999999999999 is not known here"),
        ("unmap slot=A pages=1", "unmap: slot=A is not known here"),
        ("unmap slot=a pages=4097", "unmap: a slot has 4096 pages"),
        ("unmap slot=a page=4096 pages=1", "unmap: a slot has 4096 pages"),
        ("unmap slot=a pages=1 colour=red", "unmap has no field colour"),
        ("unmap slot", "unmap: slot is no field=value"),
        ("observe places=0:a0,a1", "a1 is no place such as 0:a2"),
        ("observe places=99:a0", "99:a0 is no place such as 0:a2"),
        ("map slot=a pages=1 backing=cheese", "map: backing=cheese is not known here"),
        ("map slot=a pages=1 flags=fixed,shiny", "map: flags=fixed,shiny is not known here"),
        ("map slot=a pages=1 backing=pfnmap region=bar", "map: region=bar is not known here"),
        ("map slot=a pages=1", "there is no device 0 with a BAR 0 to map"),
        ("map slot=a pages=1 offset=9223372036854775807", "map: offset or frame is past every file"),
        ("remap slot=a pages=1 new_pages=1 flags=maymove,fixed", "remap: fixed wants a slot to go to"),
        ("dev action=reset", "there is no device 0"),
        ("probe call=unmap_mapping_range pages=1", "there is no probe module"),
        ("pin slot=a pages=1 variant=pin_user_pages", "there is no probe module"),
        ("pin slot=a pages=25 variant=pin_user_pages", "pin: pages=25 is not known here"),
        ("pin slot=a pages=1", "pin: the field variant is missing"),
        ("unpin", "there is no probe module"),
        ("transfer kind=vmsplice slot=a process=0", "transfer: this kind is of the process's own memory"),
        ("dma action=map slot=a pages=1", "there is no device behind VFIO"),
        ("dma action=map slot=a pages=1 iova=16", "dma: there are 16 slots of IOVAs, of 256 pages"),
        ("dma action=unmap pages=2 offset=255", "dma: there are 16 slots of IOVAs, of 256 pages"),
        ("limit locked=9223372036854775807", "limit: a number is too large"),
        ("=", "there is no operation ="),
    ],
)
def test_a_step_that_makes_no_sense_is_answered_and_the_rest_goes_on(
    talk: Callable[..., Talk], line: str, why: str
) -> None:
    got = results(talk().run(line, ANONYMOUS))
    assert got[1] == "ok"
    assert why == got[0]


def test_nonsense_around_programs_is_answered_too(talk: Callable[..., Talk]) -> None:
    agent = talk()
    agent.send("hello\nend\n")
    assert "hello" in agent.answer()["error"]
    assert "end" in agent.answer()["error"]
    assert agent.run(ANONYMOUS, name="p want=cheese") == [{"end": "p", "error": "want=cheese is not known here"}]
    held = "p hold=untrack_pfn"
    assert agent.run(ANONYMOUS, name=held) == [{"end": held, "error": f"{held}: only want= is known here"}]
    agent.send("x" * 20_000 + "\n")
    assert "too long" in agent.answer()["error"]
    assert "1024 steps" in results(agent.run(*["observe"] * 2000))[-1]
    assert results(agent.run(ANONYMOUS)) == ["ok"]
    assert agent.close() == 0


def test_options_that_it_does_not_have_are_refused(agent: Path) -> None:
    for options in (["--fast"], ["--limit", "0"], ["--device"]):
        done = subprocess.run([agent, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: agent")


def child(pid: int, name: str) -> int:
    """The child of a process that has that name, as soon as it has."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{number}/comm").read_text().strip() == name:
                return int(number)
    raise AssertionError(f"there is no {name}")


#: more than a pipe holds of answers, so that the agent is in the middle of them until somebody reads
LONG = [ANONYMOUS, *["touch slot=a places=0:a0,0:a1,0:a2,0:a3,0:b0"] * 900]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc")
def test_a_step_that_does_not_come_back_ends_its_program_only(talk: Callable[..., Talk]) -> None:
    agent = talk("--limit", "0.5")
    agent.send("\n".join(["program p", *LONG, "end\n"]))
    agent.answer()
    os.kill(child(agent.process.pid, "process"), signal.SIGSTOP)
    answers = [agent.answer()]
    while "end" not in answers[-1]:
        answers.append(agent.answer())
    hung = answers[-2]
    assert hung["observed"] == {"result": {"died": "hang", "killed": True}}
    assert answers[-1]["stopped"] == f"at step {hung['step']}"
    assert answers[-1]["clean"], "a process that was stopped can be killed"
    assert results(agent.run(ANONYMOUS)) == ["ok"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc")
def test_an_agent_that_does_not_come_back_is_reported_by_its_watchdog(talk: Callable[..., Talk]) -> None:
    agent = talk("--limit", "0.3")
    agent.send("\n".join(["program p", *LONG, "end\n"]))
    agent.answer()
    agent.process.send_signal(signal.SIGSTOP)
    done = -1
    answer = agent.answer()
    while "stuck" not in answer:
        done = answer["step"]
        answer = agent.answer()
    assert answer["program"] == "p"
    assert answer["stuck"] in (done, done + 1)


def counts(answers: list[dict[str, Any]]) -> list[Any]:
    """What each step counted; how it ended where it counted nothing."""
    found = []
    for answer in answers:
        if "step" in answer:
            result = decode(schema.Observed, answer["observed"]).result
            found.append(result and (result.outcome if result.count is None else result.count))
    return found


def test_system_calls_move_what_is_mapped_and_no_more(talk: Callable[..., Talk]) -> None:
    kinds = [kind for kind in schema.TRANSFERS if not kind.startswith(("o_direct", "ptrace"))]
    for kind in kinds:
        answers = talk().run(
            ANONYMOUS,
            f"transfer kind={kind} slot=a pages=4",
            f"transfer kind={kind} slot=a page=2 pages=4",
            f"transfer kind={kind} slot=b pages=1",
        )
        nothing = "-EIO" if kind.startswith("proc_mem") else "-EFAULT"
        assert counts(answers) == ["ok", 4 * 4096, 2 * 4096, nothing], kind


def test_a_process_reaches_another_ones_memory(talk: Callable[..., Talk]) -> None:
    answers = talk().run(
        "fork child=1",
        "transfer kind=process_vm_readv slot=a process=1",
        "switch process=1",
        ANONYMOUS,
        "touch slot=a access=write",
        "switch process=0",
        "transfer kind=process_vm_readv slot=a pages=4 process=1",
        "transfer kind=proc_mem_read slot=a pages=1 process=1",
        "touch slot=a",
        "transfer kind=process_vm_readv slot=a process=2",
    )
    assert counts(answers) == ["ok", "-EFAULT", None, "ok", "ok", None, 16384, 4096, "SIGSEGV", None]
    assert answers[10]["skipped"] == "there is no such process"


def test_a_word_of_each_page_by_tracing(talk: Callable[..., Talk]) -> None:
    answers = talk().run(
        ANONYMOUS,
        "transfer kind=ptrace_poke slot=a pages=4",
        "transfer kind=ptrace_peek slot=a pages=6",
        "touch slot=a page=3",
        "fork child=1",
        "switch process=1",
        "transfer kind=ptrace_peek slot=a pages=2 process=0",
        "switch process=0",
        "touch slot=a",
    )
    got = counts(answers)
    if got[1] == "-EPERM":
        pytest.skip("nobody may trace here")
    assert got == ["ok", 32, 32, "ok", "ok", None, 16, None, "ok"]
    assert answers[4]["observed"]["result"]["value"] == "0x5a", "what was poked is there"


def test_a_file_is_one_of_all_processes_and_of_one_program(talk: Callable[..., Talk]) -> None:
    agent = talk()
    file = "map slot=a pages=4 backing=file offset=14 flags=fixed_noreplace"
    answers = agent.run(
        file, "touch slot=a access=write", "fork child=1", "switch process=1", "touch slot=a", "touch slot=a page=2"
    )
    assert counts(answers) == ["ok", "ok", "ok", None, "ok", "SIGBUS"], "it has 16 pages"
    assert answers[5]["observed"]["result"]["value"] == "0x5a"
    again = agent.run(file, "touch slot=a")
    assert again[2]["observed"]["result"]["value"] == "0x0"


def test_a_limit_holds_and_is_inherited(talk: Callable[..., Talk]) -> None:
    answers = talk().run(
        ANONYMOUS,
        "limit locked=2",
        "advise slot=a pages=3 advice=lock",
        "advise slot=a pages=2 advice=lock",
        "fork child=1",
        "switch process=1",
        "advise slot=a pages=3 advice=lock",
        "clear",
    )
    assert counts(answers) == ["ok", "ok", "-ENOMEM", "ok", "ok", None, "-ENOMEM", "ok"]
