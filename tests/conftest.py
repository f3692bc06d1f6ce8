"""What every test may use."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from mmlitmus import explore

# No property is judged by the time that it takes: a busy machine fails no test.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

#: what became of the tests marked ``pure``: file -> test -> what it said, nothing if it passed
PURE: dict[str, dict[str, str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-runs", type=int, default=10_000, metavar="N", help="random programs a fuzz test runs")


@pytest.fixture(scope="session")
def fuzz_runs(request: pytest.FixtureRequest) -> int:
    """How many random programs a test marked `fuzz` runs."""
    return request.config.getoption("--fuzz-runs")


def _run_pure(session: pytest.Session, path: str) -> dict[str, str]:
    """What became of the file's tests marked ``pure``, all of them run in one interpreted process."""
    wanted = [item.nodeid for item in session.items if item.get_closest_marker("pure") and item.nodeid.startswith(path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-m", "pure", "-p", "no:cacheprovider", *wanted],
        cwd=session.config.rootpath, env={**os.environ, "MMLITMUS_PURE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    passed = {line.removeprefix("PASSED ") for line in done.stdout.splitlines() if line.startswith("PASSED ")}
    return {one: "" if one in passed else done.stdout + done.stderr for one in wanted}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test marked ``pure`` changes Python code that a compiled explorer does not have: another process runs it."""
    if pyfuncitem.get_closest_marker("pure") is None or not explore.COMPILED:
        return None
    path = pyfuncitem.nodeid.partition("::")[0] + "::"
    if path not in PURE:
        PURE[path] = _run_pure(pyfuncitem.session, path)
    failed = PURE[path][pyfuncitem.nodeid]
    if failed:
        pytest.fail(failed, pytrace=False)
    return True


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """A thread left behind would have later tests' workers spawned instead of forked, without what the test patched."""
    yield
    left = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    assert not left, f"left behind: {left}"
