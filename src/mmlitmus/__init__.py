"""An executable model of Linux memory management for device memory, and a search over its interleavings."""

TYPE_CHECKING = False

__version__: str

if not TYPE_CHECKING:

    def __getattr__(name):
        # importlib.metadata costs more than everything else that `import mmlitmus` does; few ever ask.
        if name == "__version__":
            from importlib.metadata import version

            return version("mmlitmus")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
