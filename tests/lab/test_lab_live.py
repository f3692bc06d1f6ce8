"""The project's own agent on real kernels: slow, and skipped where QEMU or a kernel is not there."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mmlitmus.conform import batch
from mmlitmus.conform.batch import BatchAnswers
from mmlitmus.conform.campaign import Answers, Kernel
from mmlitmus.conform.generate import programs
from mmlitmus.conform.lab import Lab, LabError, Machine, MissingError, Outcome, Place, host
from mmlitmus.conform.lab.catalogue import known
from mmlitmus.conform.lab.fetch import fetched
from mmlitmus.conform.lab.machine import QEMU
from mmlitmus.conform.lab.place import default
from mmlitmus.conform.live import text_of
from mmlitmus.conform.pool import Pool

pytestmark = pytest.mark.slow
#: taken before a test's own environment can change it
PLACE = default()
SEED = 4711


def lab_with(kernel: str) -> Lab:
    """The user's lab, if the kernel can be run in it."""
    if fetched(Place(PLACE), known(kernel)) is None:
        pytest.skip(f"kernel {kernel} is not in {PLACE}: mmlitmus lab fetch {kernel}")
    try:
        host.program(QEMU, "test")
        host.static_busybox()
    except MissingError as e:
        pytest.skip(str(e))
    return Lab(Place(PLACE))


def conform(*words: str) -> Any:
    from mmlitmus.cli.conform_ import command

    return CliRunner().invoke(command, list(words), env={**os.environ}, standalone_mode=False)


# -- two ways to run a program ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("name", ["5.10", "6.1", "6.12", "7.3"])
def test_batches_give_what_fresh_kernels_give(name: str, machine: str) -> None:
    lab = lab_with(name)
    wanted = [*programs(SEED, 44, machine)]
    said: list[str] = []
    with lab.session(name, Machine(machine)) as session:
        fresh = Kernel(session, session.ready, session.identity, machine, "", Answers(None))
        batched = Kernel(session, session.ready, session.identity, machine, "", BatchAnswers(Answers(None)))
        for kernel in (fresh, batched):
            with Pool(kernel, session, 2, said.append) as pool:
                assert len([*pool.programs(wanted)]) == len(wanted)
    assert said == []
    # before 6.12 a BAR is mapped by remap_pfn_range, and what is left of that in the memtype list stays in the way
    assert pool.batched > (0 if machine == "q35" and name in ("5.10", "6.1") else len(wanted) / 3)
    assert isinstance(batched.answers, BatchAnswers)
    for program in wanted:
        one, other = fresh.answers.get(text_of(program)), batched.answers.get(text_of(program))
        assert one is not None
        assert other is not None
        two = [Outcome(e["kind"], tuple(e["lines"]), tuple(e["console"]), e["why"]) for e in (one, other)]
        assert batch.differs(batched, program, *two, other["ready"]) == ""


def test_the_agent_says_where_its_regions_are_and_refuses_where_they_cannot_be() -> None:
    with lab_with("6.12").session("6.12") as session, session.start() as running:
        (program,) = programs(SEED, 1)
        text = text_of(program)
        fresh = running.run(text)
        moved = running.run(batch.moved(2) + text)
        regions = {r["name"]: int(r["pfn"], 16) for r in moved.objects()[0]["regions"]}
        for region in session.ready["regions"]:
            by = 0 if region["name"] == "ram" else 2 * batch.WINDOW
            assert regions[region["name"]] == int(region["pfn"], 16) + by
        assert batch.beginning(session.ready, fresh) == batch.beginning(session.ready, moved)
        refused = running.run("regions first=1000000\n" + text)
        assert refused.objects()[0]["error"].startswith("there are no regions from there on")
        assert batch.beginning(session.ready, refused) is None


# -- a user's own kernel ----------------------------------------------------------------------------------------------
@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path]:
    """A bzImage, and what ``make modules_install`` would have written, with its link to the tree; both are 6.12's."""
    kernel = lab_with("6.12").kernel("6.12")
    assert kernel.modules is not None
    folder = tmp_path / "out/lib/modules" / kernel.release
    folder.mkdir(parents=True)
    for path in kernel.modules.iterdir():
        if path.name not in ("build", "source"):
            (folder / path.name).symlink_to(path)
    if kernel.headers is not None:
        (folder / "build").symlink_to(kernel.headers)
    return kernel.image, tmp_path / "out"


def test_a_kernel_of_ones_own_is_compared(own: tuple[Path, Path]) -> None:
    image, modules = own
    words = ("--kernel", str(image), "--modules", str(modules), "--model", "deb-6.12.117", "--programs", "12")
    result = conform(*words, "--seed", "2", "--json")
    assert result.exception is None
    said = json.loads(result.stdout)[str(image)]
    assert (said["programs"], said["unexplained"], said["not_compared"]) == (12, 0, {})
    assert result.return_value == 0


def test_without_a_build_link_there_is_no_probe_module_and_devices_are_compared(own: tuple[Path, Path]) -> None:
    image, modules = own
    (next((modules / "lib/modules").iterdir()) / "build").unlink()
    result = conform("--kernel", str(image), "--modules", str(modules), "--programs", "12", "--seed", "2", "--json")
    assert "there is no probe module for this kernel" in result.stderr
    assert json.loads(result.stdout)[str(image)]["programs"] == 2


# -- what goes wrong --------------------------------------------------------------------------------------------------
def test_a_damaged_image_does_not_boot_and_is_said_to(tmp_path: Path) -> None:
    lab = lab_with("6.12")
    raw = bytearray(lab.kernel("6.12").image.read_bytes())
    half = len(raw) // 2
    raw[half : half + 4096] = bytes(4096)
    (tmp_path / "bzImage").write_bytes(raw)
    with pytest.raises(LabError, match=r"bzImage did not boot in 20 s and printed nothing: the image is damaged, or"):
        lab.boot(tmp_path / "bzImage", seconds=20)


def test_a_boot_that_fails_is_tried_once_more_and_no_more() -> None:
    said: list[str] = []
    lab = Lab(lab_with("6.12").place, say=said.append)
    with pytest.raises(LabError, match="did not boot: Kernel panic"):
        lab.boot("6.12", Machine(words=("rdinit=/nothing",)))
    assert said == ["kernel 6.12 did not boot; trying once more"]


def test_a_guest_that_is_killed_has_died_and_the_others_go_on() -> None:
    with lab_with("6.12").session("6.12") as session:
        texts = [text_of(program) for program in programs(SEED, 3)]
        killer = threading.Timer(0.1, session.abort)
        running = session.start()
        killer.start()
        started = time.monotonic()
        outcomes = [running.run(text) for text in texts * 20]
        running.close()
        assert time.monotonic() - started < 60
        assert outcomes[-1].kind == "died"
        assert "SIGKILL" in outcomes[-1].why
        assert session.run(texts[0], 60).ended
