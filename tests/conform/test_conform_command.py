"""``mmlitmus conform``: several guests at once, a kernel of a user's own, broken off. The kernel is the model."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mmlitmus.conform.generate import programs
from mmlitmus.conform.lab import BootError, Lab, LabError
from mmlitmus.conform.live import text_of
from mmlitmus.report.schemas import SCHEMAS
from schema_check import valid

from .test_campaign import MACHINE, MODEL, Echo, Ran, no_unmap
from .test_live import IDENTITY

SEED, COUNT = 11, 8
#: by what changes the answers
ANSWERED: dict[Any, dict[str, Ran]] = {}
OPTIONS = ("--seed", str(SEED), "--machine", "pc", "--language", "mapping")


class Session:
    """What the lab's is: starts kernels that are the model.

    The model runs in one thread. What the threads of a pool ask for was answered before they were there.
    """

    def __init__(self, lies: Any = None, ready: dict[str, Any] | None = None, machine: str = "pc") -> None:
        self.ready = MACHINE if ready is None else ready
        self.identity = {**IDENTITY, "machine": machine}
        self.echo = Echo(lies=lies) if lies else Echo()
        self.texts: list[str] = []
        self.known = ANSWERED.setdefault(lies, {})
        if not self.known:
            self.known.update((text_of(one), self.echo.run(text_of(one))) for one in programs(SEED, COUNT))

    def run(self, program: str, timeout: float = 0) -> Ran:
        self.texts.append(program)
        if threading.current_thread() is threading.main_thread():
            return self.echo.run(program, timeout)
        return self.known[program]

    def start(self) -> Session:
        return self

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@pytest.fixture
def conform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command in a lab of its own. ``session``: what a boot gives, or raises."""

    def go(*words: str, session: Any = None, folder: str = "lab") -> Any:
        from mmlitmus.cli.conform_ import command

        def boot(self: Lab, name: str, machine: Any, modules: Path | None = None) -> Any:
            found = session if session is not None else Session(machine=machine.kind)
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(Lab, "session", boot)
        monkeypatch.setattr(Lab, "kernel", lambda *a: None)
        monkeypatch.setattr("mmlitmus.conform.lab.host.program", lambda name, why: name)
        env = {"MMLITMUS_LAB": str(tmp_path / folder)}
        return CliRunner().invoke(command, list(words), env=env, standalone_mode=False)

    return go


def test_the_report_is_the_same_however_many_guests_there_are(conform: Any) -> None:
    said = []
    for jobs in ("1", "2", "5"):
        words = ("--programs", str(COUNT), *OPTIONS, "--no-shrink", "--jobs", jobs)
        result = conform(*words, session=Session(no_unmap), folder=jobs)
        assert result.exception is None
        assert result.return_value == 1
        said.append(result.stdout)
    assert said[0] == said[1] == said[2]
    assert "-EPERM" in said[0]


def test_breaking_off_keeps_the_answers_and_shrinks_nothing(conform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmlitmus.conform.campaign import Campaign

    monkeypatch.setattr("mmlitmus.conform.shrink.shrink", lambda *a: pytest.fail("nobody waits for this"))
    add = Campaign.add

    def interrupted(self: Campaign, one: Any) -> Any:
        if self.programs == 3:
            raise KeyboardInterrupt
        return add(self, one)

    monkeypatch.setattr(Campaign, "add", interrupted)
    words = ("--programs", str(COUNT), *OPTIONS, "--jobs", "2")
    result = conform(*words, session=Session(no_unmap))
    assert result.return_value == 130
    assert "3 programs" in result.stdout
    monkeypatch.setattr(Campaign, "add", add)
    again = Session()
    result = conform(*words, "--no-shrink", session=again)
    assert result.return_value == 1, "the first programs' answers are those that were given before"
    assert len(again.texts) <= COUNT - 3


def test_the_model_of_a_users_own_kernel_is_named_with_an_option(conform: Any) -> None:
    ready = {**MACHINE, "version": "#1 SMP", "release": "6.12.0-mine"}
    words = ("--kernel", "./bzImage", "--programs", "2", *OPTIONS)
    result = conform(*words, session=Session(ready=ready))
    assert result.return_value == 2
    assert "the model has no kernel 6.12.0-mine" in result.stderr
    assert "; --model names the one to compare with" in result.stderr
    result = conform(*words, "--model", MODEL, "--json", session=Session(ready=ready))
    assert result.return_value == 0
    valid(json.loads(result.stdout), SCHEMAS["conform"])
    assert json.loads(result.stdout)["./bzImage"]["model"] == MODEL


def test_a_model_that_there_is_not_is_said_before_anything_is_booted(conform: Any) -> None:
    result = conform("--model", "v2.4", session=RuntimeError("booted"))
    assert result.exception.exit_code == 2
    assert str(result.exception).startswith("--model v2.4: no kernel 'v2.4'; known: ")


def test_modules_are_a_users_own_kernels(conform: Any) -> None:
    result = conform("--kernel", "6.12", "--modules", "x")
    assert "--modules goes with --kernel PATH" in str(result.exception)


@pytest.mark.parametrize("language", [(), ("--language", "gup"), ("--language", "mapping")])
def test_batches_are_recorded_of_the_languages_only_that_do_not_move_regions(
    conform: Any, tmp_path: Path, language: tuple[str, ...]
) -> None:
    result = conform("--batch", "--record", str(tmp_path / "recordings"), *language)
    assert "is for --language huge or calls" in str(result.exception)


def test_without_a_probe_module_only_programs_of_devices_run(conform: Any) -> None:
    bare = {**MACHINE, "module": None, "regions": []}
    session = Session(ready=bare)
    result = conform("--programs", "4", *OPTIONS, session=session)
    assert result.return_value == 2
    assert "there is no probe module for this kernel" in result.stderr
    assert session.texts == []


@pytest.mark.parametrize("error", [LabError("QEMU ended: no memory"), BootError("it did not boot", ("last words",))])
def test_one_kernel_that_cannot_be_run_does_not_keep_the_others_from_it(conform: Any, error: Exception) -> None:
    class Second(Session):
        def __enter__(self) -> Session:
            booted.append(self)
            if len(booted) == 1:
                raise error
            return self

    booted: list[Session] = []
    words = ("--kernel", "6.1,6.12", "--programs", "3", *OPTIONS, "--model", MODEL, "--json")
    result = conform(*words, session=Second())
    assert result.return_value == 2
    assert str(error).splitlines()[0] in result.stderr
    assert json.loads(result.stdout)["6.12"]["programs"] == 3
