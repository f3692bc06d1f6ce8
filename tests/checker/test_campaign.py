"""Rows by several workers, with parts that die at the worst moment, and on a cluster of which half goes away."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from waiting import WAIT

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"

CASE = """
from mmlitmus.api import *

@case(expect={"v1": never})
def large(m):
    for n in range(3):
        def t():
            for _ in range(2):
                m.dev.on = not m.dev.on
        t.__name__ = f"t{n}"
        m.task(t)
"""

COMMON = """
    import json, os, sys, time
    from pathlib import Path
    import toy
    toy.install()
    from mmlitmus.checker import campaign
    from mmlitmus.checker.load import load_file
    from mmlitmus.checker.many import Job, run_all
    from mmlitmus.checker.run import How

    how = How(max_executions=6000)
    def rows(*a, **k):
        (case,) = load_file(Path("large.py"))
        report = run_all([Job(case, "v1", how)], *a, **k)
        assert not report.errors, report.errors
        return [row.as_json() for row in report.rows], report.remarks
"""


def python(code: str, folder: Path, *args: str) -> subprocess.Popen[str]:
    (folder / "large.py").write_text(CASE)
    path = os.pathsep.join((str(SOURCE), str(HERE)))
    program = textwrap.dedent(COMMON) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program, *args], cwd=folder, env={**os.environ, "PYTHONPATH": path}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def done(p: subprocess.Popen[str]) -> str:
    out, err = p.communicate(timeout=WAIT)
    assert p.returncode == 0, err
    return out


@pytest.mark.parametrize("kind", ["begin", "part", "judge"])
def test_a_worker_dies(tmp_path: Path, kind: str) -> None:
    code = """
    real = campaign.work
    def work(task):
        kind = "part" if task.order is not None else "judge" if task.parts is not None else "begin"
        if kind == KIND and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), 9)
        return real(task)
    want, _ = rows()
    campaign.work = work
    campaign.PATIENCE = 0.05
    got, remarks = rows(2)
    assert Path("died").exists()
    assert got == want, (got, want)
    (remark,) = remarks
    again = "doing its part again" if KIND == "part" else "running it again"
    assert remark.endswith(f"large: its worker died (signal 9); {again}"), remark
    """
    done(python(code.replace("KIND", repr(kind)), tmp_path))


def test_a_worker_that_always_dies_is_an_error_of_its_row(tmp_path: Path) -> None:
    code = """
    real = campaign.work
    def work(task):
        if task.order is not None:
            os._exit(3)
        return real(task)
    campaign.work = work
    campaign.PATIENCE = 0.05
    (case,) = load_file(Path("large.py"))
    report = run_all([Job(case, "v1", how)], 2)
    ((_, error),) = report.errors
    assert str(error).endswith("large: its worker died twice (exit code 3)"), error
    """
    done(python(code, tmp_path))


def test_a_cluster_of_which_half_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed (the extra `cluster`)")
    install = tmp_path / "toy_kernels.py"  # the cluster's workers need the toy kernels as well
    # Small parts, however fast the machine is: they are cut where the search is begun, on a worker.
    install.write_text(
        f"import sys\nsys.path[:0] = {[str(SOURCE), str(HERE)]}\nimport toy\ntoy.install()\n"
        "from mmlitmus.checker import campaign\nfrom mmlitmus.explore.split import Search\n"
        "campaign.PATIENCE = 0.0\nSearch.__init__.__kwdefaults__['seconds'] = 0.02\n"
    )
    # In a process of its own: it leaves threads behind.
    theirs = python(
        """
    import distributed
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, preload=[sys.argv[1]]
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        print(next(iter(cluster.workers.values())).pid, flush=True)
        sys.stdin.readline()
    """,
        tmp_path,
        str(install),
    )
    assert theirs.stdout is not None
    code = """
    from mmlitmus.checker.cluster import Cluster
    want, _ = rows()
    told = []
    cluster = Cluster(sys.argv[1], campaign.work, told.append)
    taken = []
    take = campaign.Campaign._take
    def taking(self, tag, outcome):
        taken.append(tag)
        if len(taken) == 3:
            print("three", flush=True)
            sys.stdin.readline()
        take(self, tag, outcome)
    campaign.Campaign._take = taking
    got, remarks = rows(cluster=cluster)
    assert got == want, (got, want)
    assert remarks == []
    assert len(set(taken)) == len(taken) > 3, taken
    # whether the one that went had anything in hand is chance
    assert all(text.endswith("is gone; what it was at is done again") for text in told), told
    """
    p = python(code, tmp_path, address := theirs.stdout.readline().strip())
    assert p.stdout is not None
    assert address.startswith("tcp://")
    if p.stdout.readline() == "three\n":
        os.kill(int(theirs.stdout.readline()), signal.SIGKILL)
    _, err = p.communicate("\n", timeout=WAIT)
    theirs.communicate("\n", timeout=WAIT)
    assert p.returncode == 0, err


def test_without_the_extra_it_says_so(tmp_path: Path) -> None:
    code = """
    sys.modules["distributed"] = None
    from mmlitmus.cli.main import main
    sys.exit(main(["check", "large.py", "--cluster", "tcp://127.0.0.1:1"]))
    """
    p = python(code, tmp_path)
    _, err = p.communicate(timeout=WAIT)
    assert (p.returncode, err) == (2, "mmlitmus: --cluster needs dask.distributed: pip install 'mmlitmus[cluster]'\n")


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed (the extra `cluster`)")
    code = """
    from mmlitmus.checker.cluster import Cluster, ClusterError
    try:
        Cluster("tcp://127.0.0.1:1", campaign.work, print, seconds=1)
    except ClusterError as e:
        assert str(e) == "no dask scheduler answers at tcp://127.0.0.1:1", e
        sys.exit(0)
    sys.exit(1)
    """
    done(python(code, tmp_path))
