"""Tasks are done by a few processes; who dies is told, and replaced."""

import subprocess
import sys
import textwrap

from waiting import WAIT


def test_crew():
    code = """
    import os, time
    from mmlitmus.checker.pool import Crew, Death
    boss = os.getpid()
    def work(n):
        time.sleep(0.05 * (n % 3))
        if n == 4:
            os._exit(3)
        if n == 5:
            os.kill(os.getpid(), 9)
        return n * n, os.getpid()
    crew, done, waiting, most = Crew(work, 3), {}, list(range(12)), 0
    while len(done) < 12:
        while waiting and crew.free:
            crew.give(waiting[0], waiting.pop(0))
        most = max(most, 3 - crew.free)
        for tag, result in crew.wait():
            assert tag not in done
            done[tag] = result
    assert most == 3
    assert [done[n].text for n in (4, 5)] == ["exit code 3", "signal 9"]
    good = {n: r for n, r in done.items() if not isinstance(r, Death)}
    assert {n: r[0] for n, r in good.items()} == {n: n * n for n in range(12) if n not in (4, 5)}
    pids = {r[1] for r in good.values()}
    assert boss not in pids and 3 <= len(pids) <= 5
    os.kill(next(w.pid for w in crew.workers.values()), 9)  # while it has nothing to do
    time.sleep(0.3)
    for n in (1, 2, 3):
        crew.give(n, n)
    again = {}
    while len(again) < 3:
        again.update(crew.wait())
    assert {n: r[0] for n, r in again.items()} == {1: 1, 2: 4, 3: 9}
    crew.stop()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=WAIT)
