"""The toy kernels and a case on them, and ledgers of one's own."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "checker"))

import toy

from mmlitmus.checker import kernels, load
from mmlitmus.claims import ledger
from mmlitmus.claims.claim import Claim

FAULT = '''"""Can a fault put the translation back after the device went off?"""
import toy
from mmlitmus.api import case, na, never, sometimes


@case("vfio/fault-vs-disable", reach=("fault got SIGBUS",),
      expect={"v1": never, "v2": never, "v3": na("nobody asks there")})
def fault_vs_disable(m):
    @m.task
    def fault():
        toy.vfio_fault(m)

    @m.task
    def disable():
        toy.vfio_disable(m)


@case("vfio/fault-vs-disable/nobody", reach=("the moon",), names=("the moon",), expect={"v2": never})
def nobody(m):
    @m.task
    def fault():
        toy.vfio_fault(m)


@case("vfio/fault-vs-disable/raises", expect={"v2": never})
def raises(m):
    @m.task
    def fault():
        m.dev.nosuch
'''


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A shipped case on the toy kernels. What it expects of v1 is wrong."""
    root = tmp_path / "cases"
    (root / "vfio").mkdir(parents=True)
    (root / "vfio" / "fault_vs_disable.py").write_text(FAULT)
    (root / "vfio" / "broken.py").write_text("x = (\n")
    monkeypatch.setattr(load, "ROOT", root)
    toy.install()
    yield root
    kernels.use(None)


@pytest.fixture
def make():
    """A valid claim with some fields set otherwise."""

    def go(**fields) -> Claim:
        plain = {
            "id": "T-1", "thread": "toy", "claim": "It races.", "source": "2024-01-01", "verdict": "holds",
            "because": "It does.", "reason": "" if fields.get("settled_by") or fields.get("why") else "history",
        }  # fmt: skip
        return Claim(**{**plain, **fields})

    return go


@pytest.fixture
def put(monkeypatch):
    """Put other claims in place of the ledgers."""

    def go(*claims: Claim) -> None:
        monkeypatch.setattr(ledger, "_ALL", claims)
        monkeypatch.setitem(ledger.THREADS, "toy", "a thread of toys")

    return go


@pytest.fixture
def run(capsys):
    """Run a command line: (exit status, standard output, standard error)."""
    from mmlitmus.cli.main import main

    def go(*args: str) -> tuple[int, str, str]:
        code = main(list(args))
        done = capsys.readouterr()
        return code, done.out, done.err

    return go
