"""The sources that the model names are there, in each indexed kernel that the rule is said to hold for.

The indices are data (tools/source_index.py makes them), so that no kernel tree is needed. What they cannot tell is
listed in docs/conformance.md, by rule: alternatives that only a release without an index chooses, or none.
"""

from __future__ import annotations

import re

import pytest

from mmlitmus.kernel import eras

from .kernels import (
    MODEL,
    ROOT,
    alternative_complaints,
    alternatives,
    chosen_by,
    complaints,
    kernels,
    module,
    modules,
    neighbours,
    unindexed,
    wrong,
)
from .references import Reference, Thing, clauses, collect


def test_every_indexed_kernel_is_a_release_of_the_model() -> None:
    assert [kernel.release for kernel in kernels()] == ["deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"]
    assert {kernel.release for kernel in kernels()} <= set(eras.releases())


@pytest.mark.parametrize("where", modules())
def test_every_function_names_a_source_that_is_there(where: str) -> None:
    found = [f"{t.name}: {c}" for t in module(where).things if t.alternative is None for c in complaints(t, kernels())]
    assert not found


@pytest.mark.parametrize("where", modules())
def test_what_a_module_refers_to_is_there(where: str) -> None:
    found = [text for kernel in kernels() for text in wrong(module(where).references, kernel)]
    assert not found
    assert not module(where).stale, "called the model's own, but not there"


@pytest.mark.parametrize("what", alternatives(), ids="/".join)
def test_every_alternative_names_a_source_that_is_there(what: tuple[str, str]) -> None:
    assert not alternative_complaints(*what)


@pytest.mark.parametrize("what", [w for w in alternatives() if unindexed(*w) and chosen_by(*w)], ids="/".join)
def test_a_source_that_no_index_has_is_not_unlikely(what: tuple[str, str]) -> None:
    """Chosen only by releases without an index: a file and function all the same, known to a neighbour that has one."""
    references = [one for one in clauses(alternatives()[what].source) if one.names]
    assert references
    assert any(not list(wrong(references, kernel)) for kernel in neighbours(*what))


def test_what_no_index_can_tell_is_listed() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `([\w.-]+)` \| (.+) \|$", (ROOT / "docs" / "conformance.md").read_text(), re.M)
    expected = [(s, n, why) for (s, n) in alternatives() if (why := unindexed(s, n)) and chosen_by(s, n)]
    assert sorted(listed) == sorted(expected)
    never = {(s, n) for (s, n) in alternatives() if unindexed(s, n) and not chosen_by(s, n)}
    never -= {choice for release in eras.apart() for choice in eras.choices_of(release).items()}  # known in part
    assert {alternatives()[what].releases for what in never} <= {"proposal", "never"}


def test_there_is_something_to_check() -> None:
    things = [thing for where in modules() for thing in module(where).things]
    assert len(things) > 200
    assert sum(1 for what in alternatives() if not unindexed(*what)) > 25
    for kernel in kernels():
        assert len(kernel.index.files) > 1000
        assert kernel.index.has("mm/memory.c", "remap_pfn_range", "f")
        assert kernel.index.has("mm/mremap.c", "sys_mremap", "f")
        assert not kernel.index.has("mm/memory.c", "remap_pfn_rang")


# -- a wrong name is found --------------------------------------------------------------------------------------------
MODULE = '''"""Something. Source: mm/memory.c, functions of the same name."""


def zap_pte_range():
    """Right by its name."""


def {name}():
    """{text}"""
'''


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("zap_pte_rang", "A misspelt name.", "deb-6.12.117 has no zap_pte_rang in mm/memory.c"),
        ("zap", "Source: mm/memory.c zap_pte_rang.", "deb-6.1.192 has no zap_pte_rang in mm/memory.c"),
        ("zap", "Source: mm/memori.c zap_pte_range.", "deb-6.1.192 has no mm/memori.c"),
        ("zap", "Source: mm/memory.c zap_vma_ptes.", "deb-7.3.4 has no zap_vma_ptes in mm/memory.c"),
        ("zap", "Source: mm/memory.c zap_vma_ptes (to 6.12).", "no kernel file and function for deb-7.3.4"),
        ("zap", "zap_pte_rang(): a kernel function that it begins with.", "deb-5.10.262 has no zap_pte_rang"),
        ("zap", "Source: net/core/skbuff.c skb_put.", "net/core/skbuff.c is not indexed"),
        ("zap", "Nothing named.", "deb-5.10.262 has no zap in mm/memory.c: name the source in the docstring"),
    ],
)
def test_a_wrong_name_is_found(tmp_path, name: str, text: str, says: str) -> None:
    path = tmp_path / "planted.py"
    path.write_text(MODULE.format(name=name, text=text))
    right, planted = collect(path, "planted.py").things
    assert not complaints(right, kernels())
    assert any(found.startswith(says) for found in complaints(planted, kernels()))


def test_a_wrong_name_in_a_real_module_is_found(tmp_path) -> None:
    text = (MODEL / "mm" / "memory_zap.py").read_text()
    path = tmp_path / "memory_zap.py"
    path.write_text(text.replace("mm/memory.c zap_vma_ptes (to 6.12)", "mm/memory.c zap_vma_pte (to 6.12)"))
    functions = [thing for thing in collect(path, "memory_zap.py").things if not thing.alternative]
    found = [(thing.name, text) for thing in functions for text in complaints(thing, kernels())]
    assert {name for name, _ in found} == {"zap_vma_ptes"}
    assert {c for _, c in found} == {f"{k} has no zap_vma_pte in mm/memory.c" for k in kernels()[:3]}


def test_a_wrong_alternative_is_found() -> None:
    thing = Thing("mm", "a/b", (Reference("mm/vma.c", ("vms_gather_munmap_vmas",)),))
    assert [str(k) in c for k, c in zip(kernels(), complaints(thing, kernels()), strict=False)][:2] == [True, True]
    assert not complaints(thing, kernels()[2:])


def test_what_is_the_models_own_is_named_and_there(tmp_path) -> None:
    path = tmp_path / "planted.py"
    path.write_text('"""Of the model\'s own: helper, gone."""\n\n\ndef helper():\n    """Helps."""\n')
    assert not collect(path, "planted.py").things
    assert collect(path, "planted.py").stale == ["gone"]
