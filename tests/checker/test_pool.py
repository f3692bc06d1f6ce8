"""Results come in the order of the jobs, whoever did them."""

import subprocess
import sys
import textwrap

from mmlitmus.checker.pool import in_order


def test_here():
    done = []
    assert list(in_order([3, 1, 2], str, 1, died=lambda *a: None, each=lambda: done.append(1))) == [
        (0, "3"), (1, "1"), (2, "2")
    ]  # fmt: skip
    assert len(done) == 3


def test_elsewhere():
    code = """
    import os, sys, time
    from mmlitmus.checker.pool import in_order
    told = []
    def work(n):
        time.sleep(0.05 * (n % 3))
        if n == 4:
            os._exit(3)
        return n * n, os.getpid() != boss
    boss = os.getpid()
    def died(job, code, again):
        told.append((job, code, again))
        return None if again else ("dead", True)
    results = list(in_order(range(9), work, 3, died=died))
    assert [n for n, _ in results] == list(range(9)), results
    assert [r[0] for _, r in results] == [0, 1, 4, 9, "dead", 25, 36, 49, 64], results
    assert all(r[1] for _, r in results)
    assert told == [(4, 3, True), (4, 3, False)], told
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
