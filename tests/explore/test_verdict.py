"""The words of a verdict."""

from mmlitmus.explore.dpor import Dpor
from mmlitmus.explore.findings import report
from mmlitmus.explore.primitives.mutex import Mutex
from mmlitmus.explore.scheduler import Setup
from mmlitmus.explore.state import Model, Once
from mmlitmus.explore.verdict import completeness, mode


class Flag(Model):
    __slots__ = ()
    up = Once()


def racy() -> Setup:
    flag = Flag("flag", up=False)

    def raise_it() -> None:
        flag.up = True

    def look() -> None:
        if flag.up:
            report("invariant", "seen up", "the flag is up")
        report("invariant", "looked", "somebody looked")

    return Setup({"raise_it": raise_it, "look": look})


def modes(**how: int) -> tuple[dict[str, str], str]:
    results = Dpor(racy, **how).run()
    return {f.name: mode(found, results) for f, found in results.found.items()}, completeness(results)


def test_always_and_sometimes() -> None:
    assert modes() == ({"looked": "always", "seen up": "sometimes"}, "exhaustive")


def test_a_cut_search_only_says_what_it_saw() -> None:
    words, how = modes(max_executions=1)
    assert set(words.values()) == {"seen"}
    assert how == "bounded(1 executions)"


def test_an_inversion_is_of_the_whole_search() -> None:
    def build() -> Setup:
        a, b = Mutex("a"), Mutex("b")

        def ab() -> None:
            a.lock()
            b.lock()
            b.unlock()
            a.unlock()

        def ba() -> None:
            b.lock()
            a.lock()
            a.unlock()
            b.unlock()

        return Setup({"ab": ab, "ba": ba})

    results = Dpor(build).run()
    assert {mode(f, results) for f in results.found.values()} == {"sometimes"}
    assert sorted(f.kind for f in results.found) == ["deadlock", "inversion"]
