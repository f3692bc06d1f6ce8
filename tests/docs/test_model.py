"""docs/model.md names every seam and every alternative that a release can have; docs/findings.md says what happens."""

import re
from importlib import import_module

import pytest
from transcripts import ROOT

from mmlitmus.kernel import absent, policy
from mmlitmus.kernel.mm import hooks

MODEL = (ROOT / "docs" / "model.md").read_text()


@pytest.mark.parametrize("name", policy.HOMES)
def test_seam_is_described(name):
    import_module(policy.HOMES[name])
    named = {*re.findall(r"`([^`]+)`", MODEL)}
    for one in policy.SEAMS[name].alternatives.values():
        assert one.releases == "proposal" or one.name in named, f"{one.name} at {name}"
    assert name in named


def test_modules_that_it_names_exist():
    cells = re.findall(r"^\| [^|]+ \| (`[^|]+) \| [^|]+ \| [^|]+ \|$", MODEL, re.MULTILINE)
    assert len(cells) > 10
    for path in re.findall(r"`([^`]+)`", " ".join(cells)):
        places = [ROOT / "src" / "mmlitmus" / "kernel" / path, ROOT / "src" / "mmlitmus" / path]
        assert any(place.exists() for place in places), path


def test_the_list_of_hooks():
    """``python -c "from mmlitmus.kernel.mm import hooks; print(*hooks.table(), sep=chr(10))"`` writes it anew."""
    assert MODEL.partition("<!-- hooks -->\n")[2].partition("<!-- end hooks -->")[0].splitlines() == hooks.table()


def test_the_list_of_what_is_absent():
    """``python -c "from mmlitmus.kernel import absent; print(*absent.table(), sep=chr(10))"`` writes it anew."""
    assert MODEL.partition("<!-- absent -->\n")[2].partition("<!-- end -->")[0].splitlines() == absent.table()
