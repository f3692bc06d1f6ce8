"""show, replay, list, kernels."""

import re

import pytest

from mmlitmus.report.text import shell

THREE = '''
@case()
def three(m):
    """Three tasks?"""
    @m.task
    def fault():
        toy.vfio_fault(m)

    @m.task
    def disable():
        toy.vfio_disable(m)

    @m.task
    def another():
        if choose("alloc", ("ok", "fail")) == "fail":
            bug("no-memory", "the allocation failed")
'''


def test_two_lanes(run):
    code, out, err = run("show", "vfio/fault-vs-disable")
    assert (code, err) == (0, "")
    assert out == """\
vfio/fault-vs-disable on v1
Can a fault put the translation back after the device went off?
sometimes stale-translation (exhaustive, 3 traces); 1 preemption, the
  fewest
before: pte[0]: none; dev: on

CPU0 (fault)                           CPU1 (disable)
------------                           --------------
fault()
 vfio_fault()
  READ_ONCE(dev.on)
                                       disable()
                                        vfio_disable()
                                         WRITE_ONCE(dev.on)
                                         * dev: on -> off
                                         get_pte(): READ_ONCE(pte[0])
                                       (ends)
  set_pte(): WRITE_ONCE(pte[0])
   * pte[0]: none ->
       0x80000000fea00237
(ends)
>>> invariant stale-translation: the PTE still maps the device, which is
    off

mmlitmus replay 'fault > dev.on.read; disable !e0c6394b' \\
    vfio/fault-vs-disable --kernel v1
"""


def test_locks_and_waiting(run):
    _, out, _ = run("show", "vfio/nested-locks")
    assert "\n  down_read(memory_lock)\n" in out
    assert "\n   (holds memory_lock:r)\n" in out
    assert "\n                                         lock(other_lock)\n" in out
    assert "... waits for memory_lock, which\n" in out
    assert ">>> deadlock memory_lock / other_lock: fault waits in" in out


def test_letters_above_two_tasks(run, write):
    code, out, _ = run("show", write("three.py", THREE), "--finding", "no-memory")
    assert code == 0
    assert "A = fault   B = disable   C = another\n" in out
    assert "C:  choose alloc = fail\n" in out or "C: another(): choose alloc = fail\n" in out
    assert ">>> BUG no-memory: the allocation failed\n" in out
    assert "another(alloc=fail)" in out


def test_it_pastes_into_a_mail(run, write):
    for args in (["vfio/fault-vs-disable"], ["vfio/nested-locks"], [write("three.py", THREE), "--kernel", "v1 slow"],
                 [write("three.py", THREE), "--labels", "--full"]):  # fmt: skip
        _, out, _ = run("show", *args)
        assert max(map(len, out.splitlines())) <= 75


def test_folding(run, write):
    args = ("show", write("three.py", THREE), "--kernel", "v2 slow", "--schedule", "")
    folded, full = run(*args)[1], run(*args, "--full")[1]
    assert re.search(r"^A:   \.\.\. \d+ more$", folded, re.M)
    assert len(full.splitlines()) > len(folded.splitlines())
    assert "more" not in full
    for line in folded.splitlines():
        assert "... " in line or "left out" in line or line in full.splitlines()


def test_labels(run):
    _, out, _ = run("show", "vfio/fault-vs-disable", "--labels")
    assert "dev.on.read" in out
    assert "READ_ONCE" not in out


def test_a_schedule_of_ones_own(run):
    code, out, _ = run("show", "vfio/fault-vs-disable", "--schedule", "disable; fault")
    assert code == 0
    assert "complete; nothing found\n" in out
    code, out, _ = run("show", "vfio/fault-vs-disable", "--schedule", "fault > dev.on; disable; fault")
    assert "complete; stale-translation\n" in out


def test_watch(run):
    code, out, err = run("show", "vfio/fault-vs-disable", "--watch", "pte")
    assert (code, err) == (0, "")
    assert out == """\
vfio/fault-vs-disable on v1
Can a fault put the translation back after the device went off?
sometimes stale-translation (exhaustive, 3 traces); 1 preemption, the
  fewest
before: pte[0]: none

fault: vfio_fault > set_pte
  * pte[0]: none -> 0x80000000fea00237
>>> invariant stale-translation: the PTE still maps the device, which is
    off

mmlitmus replay 'fault > dev.on.read; disable !e0c6394b' \\
    vfio/fault-vs-disable --kernel v1
"""


def test_watch_tells_what_the_lanes_tell(run):
    def changes(out: str) -> list[str]:
        return [line.split("* ")[1] for line in re.sub(r" ->\n +", " -> ", out).splitlines() if "* " in line]

    lanes, all_of_it = (run("show", "vfio/fault-vs-disable", *more)[1] for more in ((), ("--watch", "")))
    assert changes(all_of_it) == ["dev: on -> off", "pte[0]: none -> 0x80000000fea00237"]
    assert changes(lanes) == changes(all_of_it)
    assert changes(run("show", "vfio/fault-vs-disable", "--watch", "dev")[1]) == ["dev: on -> off"]


def test_watch_a_schedule_of_ones_own(run):
    code, out, _ = run("show", "vfio/fault-vs-disable", "--schedule", "disable; fault", "--watch", "dev")
    assert code == 0
    assert "\ncomplete; nothing found\nbefore: dev: on\n\ndisable: vfio_disable\n  * dev: on -> off\n\n" in out
    assert ">>>" not in out


def test_watch_nothing_that_changes(run):
    for args in (("--watch", "memtype"), ("--watch", "pte", "--schedule", "disable; fault")):
        code, out, _ = run("show", "vfio/fault-vs-disable", *args)
        assert code == 0
        assert f"(nothing called '{args[1]}' changed)\n" in out
        assert "  * " not in out


def test_watch_keeps_every_finding(run):
    _, out, _ = run("show", "vfio/nested-locks", "--watch", "lock")
    assert ">>> deadlock memory_lock / other_lock: fault waits in" in out
    assert ">>> inversion memory_lock -> other_lock -> memory_lock: " in out
    assert max(map(len, out.splitlines())) <= 75


def test_no_violation(run):
    code, out, _ = run("show", "vfio/fault-vs-disable", "--kernel", "v2")
    assert code == 0
    assert "never a violation in 2 traces (exhaustive); this is the plain first one\n" in out
    code, _, err = run("show", "vfio/fault-vs-disable", "--finding", "zz")
    assert (code, err) == (1, "mmlitmus: vfio/fault-vs-disable on v1 does not show 'zz'; it shows stale-translation\n")


def test_splat(run):
    _, out, _ = run(
        "show", "vfio/nested-locks", "--finding", "inversion memory_lock -> other_lock -> memory_lock"
    )
    splat = out[out.index("[mmlitmus model") :]
    assert splat == """\
[mmlitmus model v2 +nested, not a kernel log]
======================================================
WARNING: possible circular locking dependency detected
------------------------------------------------------
disable is trying to acquire lock:
 (memory_lock), at: memory_lock (write)

but task is already holding lock:
 (other_lock), at: other_lock

which lock already depends on the new lock.


the existing dependency chain (in reverse order) is:

-> #1 (other_lock):
       fault takes other_lock (lock)
       while holding memory_lock

-> #0 (memory_lock):
       disable takes memory_lock (write)
       while holding other_lock

other info that might help us debug this:

 Possible unsafe locking scenario:

       CPU0                    CPU1
       ----                    ----
  lock(other_lock);
                               lock(memory_lock);
                               lock(other_lock);
  lock(memory_lock);

 *** DEADLOCK ***
"""


def test_replay(run):
    token = "fault > dev.on.read; disable !e0c6394b"
    code, out, _ = run("replay", token, "vfio/fault-vs-disable", "--finding", "stale-translation")
    assert code == 0
    assert out == """\
vfio/fault-vs-disable on v1: complete, 4 events
invariant stale-translation: the PTE still maps the device, which is off
token: fault > dev.on.read; disable  !e0c6394b
"""
    code, out, _ = run("replay", token.replace("4b", "4c"), "vfio/fault-vs-disable")
    assert code == 1
    assert "the model changed since" in out
    code, out, _ = run("replay", "disable; fault", "vfio/fault-vs-disable", "--finding", "stale-translation")
    assert code == 1
    assert "nothing found\ndoes not show stale-translation\n" in out


def test_every_violation_of_json_replays(run):
    import json

    rows = json.loads(run("check", "--json")[1])
    tokens = [(r, v) for r in rows for v in r["violations"]]
    assert len(tokens) == 3
    for row, violation in tokens:
        spec = " ".join([row["kernel"], *("+" + p for p in row["patches"]), *row["config"]])
        args = ("replay", violation["schedule"], row["case"], "--kernel", spec, "--finding", violation["name"])
        assert run(*args)[0] == 0


def test_list(run):
    code, out, err = run("list")
    assert (code, err) == (0, "")
    assert out == """\
vfio/fault-vs-disable  S-01 thread 004  Can a fault put the translation back after the device went
                                        off?
vfio/nested-locks                       Do the two locks nest one way only?
"""


def test_list_imports_only_what_it_must(run, shipped):
    (shipped / "broken").mkdir()
    (shipped / "broken" / "case.py").write_text("1 / 0\n")
    assert run("list", "vfio")[0] == 0
    assert run("check", "vfio/nested-locks")[0] == 0
    code, out, err = run("list")
    assert code == 2
    assert "vfio/nested-locks" in out
    assert err.endswith("case.py:1: ZeroDivisionError: division by zero\n")


def test_kernels(run):
    assert run("kernels")[1] == """\
releases:
  v1  takes no lock
  v2  takes memory_lock
  v3  takes memory_lock

patches:
  check-early  look before locking
  nested       a second lock, both ways round

config options:
  slow  a few more reads
"""
    configured = "  configured with nothing that the model knows (a toy)\n"
    assert run("kernels", "v3")[1] == f"v3\n  takes memory_lock\n{configured}  memory_lock  taken: toy.c vfio_fault\n"
    assert run("kernels", "+nested")[1] == "nested: patch\n  about  a second lock, both ways round\n"


def test_help(run):
    code, out, _ = run("--help")
    assert code == 0
    for verb in ("check", "show", "replay", "list", "kernels"):
        assert re.search(rf"^  {verb} ", out, re.M)
        assert run(verb, "--help")[0] == 0


@pytest.mark.parametrize("width", [30, 40, 75])
def test_shell_lines_survive_the_shell(width, tmp_path):
    import subprocess

    words = ["printf", "%s|", "a > b.read; c; d(x=y)  !12345678", "some/case", "--kernel", "v6.12 +patch lockdep"]
    done = subprocess.run(["sh", "-c", "\n".join(shell(words, width))], capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.split()) == "a > b.read; c; d(x=y) !12345678|some/case|--kernel|v6.12 +patch lockdep|"


def test_locks_held(run):
    name = "inversion memory_lock -> other_lock -> memory_lock"
    _, out, _ = run("show", "vfio/nested-locks", "--finding", name)
    assert "  lock(other_lock)  [memory_lock:r\n      other_lock]\n" in out
    assert "\n  unlock(other_lock)\n  up_read(memory_lock)\n(ends)\n" in out


def test_what_is_left_out_is_said(run, write):
    alone = "@case()\ndef alone(m):\n    @m.task\n    def t():\n        m.dev.on\n        m.memory_lock.down_read()\n"
    file = write("alone.py", alone)
    short, full = run("show", file)[1], run("show", file, "--full")[1]
    assert "READ_ONCE" not in short
    assert "(1 event left out that no other task interferes with; --full has all)\n" in short
    assert "t()\n READ_ONCE(dev.on)\n down_read(memory_lock)\n>>> held-at-end lock held" in full
    assert "t ends holding\n    memory_lock (read)\n(ends, holding memory_lock:r)\n" in full
    assert "left out" not in full


def test_names_are_short_where_that_is_clear(run, write):
    file = write("names.py", """
@case()
def names(m):
    one, two, other = RwSem("a:lock"), RwSem("b:lock"), RwSem("b:other")
    @m.task
    def t():
        for lock in (one, two, other):
            lock.down_read()
""")
    _, out, _ = run("show", file)
    assert " down_read(a:lock)\n down_read(b:lock)  [a:lock:r b:lock:r]\n" in out
    assert " down_read(other)  [a:lock:r b:lock:r other:r]\n" in out
