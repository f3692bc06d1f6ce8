"""Real guests: slow, and skipped where QEMU or kernel 6.12 (``mmlitmus lab fetch 6.12``) is not there."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from mmlitmus.conform.lab import Lab, LabError, Machine, MissingError, Place, Session, host
from mmlitmus.conform.lab.build import Sources
from mmlitmus.conform.lab.catalogue import known
from mmlitmus.conform.lab.fetch import fetched
from mmlitmus.conform.lab.machine import QEMU
from mmlitmus.conform.lab.place import default

pytestmark = pytest.mark.slow
GUEST = Path(__file__).parent / "guest"
KERNEL = "6.12"
#: taken before a test's own environment can change it
PLACE = default()


@pytest.fixture(scope="module")
def lab() -> Lab:
    """The user's lab, with the tests' own agent and probe module."""
    if fetched(Place(PLACE), known(KERNEL)) is None:
        pytest.skip(f"kernel {KERNEL} is not in {PLACE}: mmlitmus lab fetch {KERNEL}")
    try:
        host.program(QEMU, "test")
        host.static_busybox()
    except MissingError as e:
        pytest.skip(str(e))
    return Lab(Place(PLACE), sources=Sources(GUEST))


@pytest.fixture(scope="module")
def session(lab: Lab):
    """A kernel that is booted once for all tests."""
    with lab.session(KERNEL) as one:
        yield one


def program(*commands: str) -> str:
    return "\n".join(["program p", *commands, "end\n"])


def said(session: Session, *commands: str, timeout: float = 20) -> list[str]:
    outcome = session.run(program(*commands), timeout)
    assert outcome.ended, outcome
    return [found["said"].strip() for found in outcome.objects() if "said" in found]


def test_the_first_program_comes_soon(session):
    assert session.ready == {"agent": "test"}
    # ten seconds on a machine with nothing else to do; this one may have
    assert session.booted.seconds < 30


def test_the_guest_is_what_was_asked_for(session):
    release, reserved, bar = said(
        session,
        "uname -r",
        "head -c 4096 /proc/iomem | grep -c -E '10000000-10ffffff : Reserved|20000000-27ffffff : Reserved'",
        "printf %x $(cat /sys/module/mmlitmus_probe/parameters/bar)",
    )
    assert release == session.identity["kernel"]
    assert reserved == "2"
    assert bar == "fd000000"
    assert set(session.identity) >= {"agent", "command_line", "config", "cpu", "image", "machine", "probe", "qemu"}


def test_the_guest_has_no_network(session):
    assert said(session, "ls /sys/class/net") == ["lo"]


def test_every_program_starts_afresh(session):
    for _ in range(2):
        assert said(session, "cat /tmp/x 2>/dev/null; echo 1 > /tmp/x; cat /tmp/x") == ["1"]
    written = "dd if=/dev/vda bs=4096 skip=3 count=1 2>/dev/null | od -A n -t x1 -N 2; echo hello > /dev/vda; sync"
    for _ in range(2):
        assert said(session, written, "head -c 5 /dev/vda") == ["03 03", "hello"]


def test_several_programs_in_one_boot_see_each_other(session):
    one, two = session.run_many([program("echo 1 > /tmp/x"), program("cat /tmp/x")])
    assert one.ended
    assert two.objects()[0]["said"] == "1\n"


def test_an_oops_is_an_outcome_and_the_rest_starts_afresh(session):
    oops = program("echo step", "echo 1 > /sys/module/mmlitmus_probe/parameters/oops")
    outcomes = session.run_many([program("echo 1 > /tmp/x"), oops, program("cat /tmp/x || echo fresh")])
    assert [one.kind for one in outcomes] == ["ended", "oops", "ended"]
    assert outcomes[1].why.startswith("BUG: kernel NULL pointer dereference, address: 0000000000000008")
    assert any("oops_set" in line for line in outcomes[1].console)
    assert outcomes[1].objects() == [{"step": 0, "said": "step\n"}]
    assert outcomes[2].objects()[0]["said"] == "fresh\n"


def test_a_panic_is_an_outcome(session):
    outcome = session.run(program("echo c > /proc/sysrq-trigger"))
    assert (outcome.kind, outcome.why) == ("panic", "Kernel panic - not syncing: sysrq triggered crash")
    assert any("sysrq_handle_crash" in line for line in outcome.console)


def test_a_hang_is_an_outcome_that_says_where(session):
    started = time.monotonic()
    outcome = session.run(program("sleep 1000"), timeout=2)
    assert outcome.kind == "hang"
    assert any("sysrq: Show" in line for line in outcome.console)
    assert time.monotonic() - started < 20


def test_an_agent_that_ends_is_an_outcome(session):
    outcome = session.run("program p\nexit\n")
    assert (outcome.kind, outcome.why) == ("died", "the agent ended with status 7")


def test_a_guest_that_is_switched_off_is_an_outcome(session):
    assert session.run(program("poweroff -f; sleep 100")).kind == "died"


def test_programs_may_run_side_by_side(session):
    found: dict[int, list[str]] = {}

    def one(n: int) -> None:
        found[n] = said(session, f"echo {n}", timeout=60)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [str(n)] for n in range(3)}


def test_programs_are_fast(session):
    count = 10
    started = time.monotonic()
    for _ in range(count):
        said(session, "true")
    # three a second are wanted of a machine with nothing else to do
    assert time.monotonic() - started < count * 1.0


def test_a_virtual_iommu_and_the_devices_behind_it(lab):
    edu = "for d in /sys/bus/pci/devices/*; do grep -q 0x11e8 $d/device && break; done; "
    address = "$(head -n 1 $d/resource | cut -d ' ' -f 1)"
    with lab.session(KERNEL, Machine("q35")) as session:
        for _ in range(2):
            # its state is not in what QEMU saves: without its registers put back this reads zeroes
            answers = said(
                session, edu + f"echo 1 > $d/enable; devmem {address}", "ls /sys/kernel/iommu_groups | wc -l"
            )
            assert answers[0] == "0x010000ED"
            assert int(answers[1]) > 3


def test_kaslr_and_memory_differ_between_boots(lab):
    where = "grep ' T schedule$' /proc/kallsyms", "grep MemTotal /proc/meminfo"
    found = []
    for machine in (Machine(kaslr=True, memory_mb=1024), Machine(kaslr=True, memory_mb=1536)):
        with lab.session(KERNEL, machine) as session:
            found.append(said(session, *where))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_a_module_that_does_not_load_is_told_with_the_consoles_words(lab, tmp_path):
    for path in GUEST.iterdir():
        shutil.copy(path, tmp_path)
    source = tmp_path / "mmlitmus_probe.c"
    source.write_text(source.read_text().replace("return bar ?", 'pr_err("no, thanks\\n"); return !bar ?'))
    with pytest.raises(LabError, match="(?s)the probe module did not load.*no, thanks"):
        Lab(lab.place, sources=Sources(tmp_path)).boot(KERNEL)


def test_a_module_that_does_not_compile_is_told_with_the_compilers_words(lab, tmp_path):
    (tmp_path / "mmlitmus_probe.c").write_text("#error not this one\n")
    (tmp_path / "agent.c").write_text("int main(void) { return 0; }\n")
    with pytest.raises(LabError, match="(?s)building the probe module failed.*not this one"):
        Lab(lab.place, sources=Sources(tmp_path)).boot(KERNEL)


def test_a_kernel_that_does_not_boot_is_told_with_the_consoles_words(lab):
    with pytest.raises(LabError, match="(?s)did not boot: Kernel panic.*last lines of the console"):
        lab.boot(KERNEL, Machine(words=("rdinit=/nothing",)))
    with pytest.raises(LabError, match=r"did not boot in 1 s"):
        lab.boot(KERNEL, seconds=1)
    with pytest.raises(LabError, match="QEMU ended .*nosuch"):
        lab.boot(KERNEL, Machine(options=("-nosuch",)))


def test_a_kernel_by_path_boots_with_its_modules_and_without(lab):
    kernel = lab.kernel(KERNEL)
    booted = lab.boot(kernel.image, modules=kernel.modules)
    assert booted.ready == {"agent": "test"}
    assert lab.boot(kernel.image).ready == {"agent": "test"}
