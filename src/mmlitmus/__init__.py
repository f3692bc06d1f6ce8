"""An executable model of Linux memory management for device memory, and a search over its interleavings."""

TYPE_CHECKING = False

__version__: str


def _of_the_sources() -> str:
    """The version that pyproject.toml beside the sources says; where there is none, that nobody knows."""
    import re
    from pathlib import Path

    try:
        text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r'^name = "mmlitmus"\s+version = "([^"]+)"', text, re.M)
    return f"{found[1] if found else 'of an unknown version'}, not installed"


if not TYPE_CHECKING:

    def __getattr__(name):
        # importlib.metadata costs more than everything else that `import mmlitmus` does; few ever ask.
        if name == "__version__":
            from importlib.metadata import PackageNotFoundError, version

            try:
                return version("mmlitmus")
            except PackageNotFoundError:  # run from its sources
                return _of_the_sources()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
