"""What every test may use."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-runs", type=int, default=10_000, metavar="N", help="random programs a fuzz test runs")


@pytest.fixture(scope="session")
def fuzz_runs(request: pytest.FixtureRequest) -> int:
    """How many random programs a test marked `fuzz` runs."""
    return request.config.getoption("--fuzz-runs")
