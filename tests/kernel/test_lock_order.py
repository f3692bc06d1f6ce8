"""The model's lock order against the documented one, and against docs/lock-order.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmlitmus.kernel import eras
from mmlitmus.kernel.sync.lockdep import RULES, contradictions, cycle, documented, reduced, tree, undocumented

from .lock_order import edges_of, page, same_choices, tour

DOCS = Path(__file__).parents[2] / "docs" / "lock-order.md"


@pytest.mark.parametrize("release", same_choices(tuple(eras.releases())))
def test_nothing_is_taken_against_the_documentation(release: str) -> None:
    choices = eras.kernel(release).choices
    edges = edges_of(release)
    assert contradictions(edges, choices) == []
    assert undocumented(edges, choices) == []
    assert cycle([*edges, *documented(choices)]) == []


@pytest.mark.parametrize(
    ("spec", "backwards"),
    [
        ("v6.12 +remap-on-enable-hold-memory-lock", ("memory_lock", "mmap_lock")),
        ("v6.12 +copy-user-under-memory-lock", ("memory_lock", "mmap_lock")),
    ],
)
def test_a_broken_kernel_is_noticed(spec: str, backwards: tuple[str, str]) -> None:
    kernel = eras.kernel(spec)
    edges = tour(kernel)
    assert backwards in contradictions(edges, kernel.choices | {"vfio_pci": "v6.12"})
    assert cycle([*edges, *documented(kernel.choices | {"vfio_pci": "v6.12"})])


def test_the_documents_have_no_cycle() -> None:
    for release in eras.releases():
        assert cycle(documented(eras.kernel(release).choices)) == []


def test_every_rule_is_used() -> None:
    """A rule that nothing in the model follows, in no release, is not checked by anything."""
    seen = {edge for release in same_choices(tuple(eras.releases())) for edge in edges_of(release)}
    for rule in RULES:
        outer, inner = set(rule.chain[:-1]), set(rule.chain[1:])
        assert any(a in outer and b in inner for a, b in seen) or rule.chain[0] == "dev_set.lock", rule.chain


def test_the_page_is_up_to_date() -> None:
    """Made by: PYTHONPATH=src python -m tests.kernel.lock_order > docs/lock-order.md"""
    assert DOCS.read_text() == page()


def test_order_helpers() -> None:
    chain = [("a", "b"), ("b", "c"), ("a", "c")]
    assert reduced(chain) == {("a", "b"), ("b", "c")}
    assert tree(chain) == ["a", "  b", "    c"]
    assert tree([("a", "c"), ("b", "c"), ("c", "d")]) == ["a", "  c", "    d", "b", "  c ..."]
    assert tree([("a", "a/1"), ("a/1", "b"), ("a", "b")]) == ["a (twice)", "  b"]
    assert cycle(chain) == []
    assert sorted(cycle([*chain, ("c", "a")])) == ["a", "b", "c"]
