"""As whom apt runs, which indices it takes, and that QEMU does not outlive who started it. No network."""

import os
import pwd
import signal
import subprocess
import sys
import time

import pytest

from mmlitmus.conform.lab import apt, guest
from mmlitmus.conform.lab.apt import Apt, Mirror
from mmlitmus.conform.lab.catalogue import KERNELS
from waiting import WAIT

MIRROR = Mirror("http://mirror.example/debian", "http://mirror.example/debian-security", "/keys/debian.gpg")


def test_only_what_nobody_signs_afresh_may_be_old():
    for suite in {suite for kernel in KERNELS for suite in kernel.suites}:
        assert ("check-valid-until=no" in MIRROR.line(suite)) == suite.startswith("bullseye"), suite
    assert MIRROR.line("bullseye-security").startswith(
        "deb [arch=amd64 signed-by=/keys/debian.gpg check-valid-until=no] http://mirror.example/debian-security "
    )


def test_nothing_is_said_of_age_for_all(tmp_path):
    options = " ".join(Apt(tmp_path, []).options())
    assert "Check-Valid-Until" not in options
    assert "Check-Date" not in options


@pytest.fixture
def root(monkeypatch):
    """We are root, and apt has a user of its own."""
    monkeypatch.setattr(apt.os, "geteuid", lambda: 0)
    monkeypatch.setattr(apt.pwd, "getpwnam", lambda name: pwd.struct_passwd((name, "x", 42, 42, "", "/", "/bin/false")))


def sandbox(home):
    return [option for option in Apt(home, []).options() if "Sandbox" in option]


def opened(folder):
    for one in (folder, *folder.parents):
        if os.stat(one).st_uid == os.getuid() and not os.stat(one).st_mode & 1:
            one.chmod(one.stat().st_mode | 0o11)
    return folder


def test_root_downloads_as_apts_own_user(root, tmp_path):
    assert sandbox(opened(tmp_path)) == ["-oAPT::Sandbox::User=_apt"]


def test_where_that_one_may_not_come_root_does(root, tmp_path):
    home = opened(tmp_path) / "own"
    home.mkdir(mode=0o700)
    assert sandbox(home) == ["-oAPT::Sandbox::User=root"]


def test_anybody_else_downloads_as_himself(tmp_path, monkeypatch):
    monkeypatch.setattr(apt.os, "geteuid", lambda: 1000)
    assert sandbox(tmp_path) == []


@pytest.mark.parametrize("setpriv", [True, False])
def test_what_is_tied_goes_with_its_parent(monkeypatch, setpriv):
    if setpriv and guest.shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv here")
    script = (
        "import subprocess, sys, time\n"
        "from mmlitmus.conform.lab import guest\n"
        f"guest.shutil.which = {'guest.shutil.which' if setpriv else 'lambda name: None'}\n"
        "child = subprocess.Popen([*guest.tied(), 'sleep', '600'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    deadline = time.monotonic() + WAIT
    while command(pid) != "sleep" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert command(pid) == "sleep"
    parent.kill()
    parent.wait()
    while command(pid) == "sleep" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert command(pid) != "sleep"
    assert signal.SIGKILL == 9


def command(pid):
    """What a process runs; empty for one that is gone, or waits to be waited for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(")")
    except OSError:
        return ""
    return "" if rest.split()[0] == "Z" else name
