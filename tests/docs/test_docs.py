"""The other pages: transcripts run again, example files verbatim, links that lead somewhere."""

import re

import pytest
from transcripts import ROOT, blocks, rerun

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TRANSCRIPTS = [(page, block) for page in PAGES if page.name != "README.md" for block in blocks(page)]
NAMES = [f"{page.name}: {block.splitlines()[0][2:]}" for page, block in TRANSCRIPTS]

#: a fenced block under a line that names the file it shows
FILE = re.compile(r"^`(examples/\S+\.py)`:\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(#[^)]*)?\)")

#: pages that come with another part of the project
ELSEWHERE = {"docs/recordings.md", "docs/lock-order.md", "docs/json.md"}


@pytest.mark.parametrize(("page", "block"), TRANSCRIPTS, ids=NAMES)
def test_transcript(page, block):
    assert rerun(block) == block


@pytest.mark.parametrize("name", ["my_driver", "my_driver_racy", "my_case"])
def test_examples_are_shown_as_they_are(name):
    shown = {path: text for page in PAGES for path, text in FILE.findall(page.read_text())}
    path = f"examples/{name}.py"
    assert shown[path] == (ROOT / path).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    for target, _ in LINK.findall(page.read_text()):
        path = (page.parent / target).resolve()
        assert path.exists() or path.relative_to(ROOT).as_posix() in ELSEWHERE, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_word_of_one_machine(page):
    assert not re.search(r"(?<![\w./])/(home|root|tmp|work|Users)/", page.read_text())
