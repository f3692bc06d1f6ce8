"""What every test may use."""

import threading
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-runs", type=int, default=10_000, metavar="N", help="random programs a fuzz test runs")


@pytest.fixture(scope="session")
def fuzz_runs(request: pytest.FixtureRequest) -> int:
    """How many random programs a test marked `fuzz` runs."""
    return request.config.getoption("--fuzz-runs")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """A thread left behind would have later tests' workers spawned instead of forked, without what the test patched."""
    yield
    left = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    assert not left, f"left behind: {left}"
