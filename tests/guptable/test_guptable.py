"""The table: what the model answers agrees with what was recorded, and says where it was stopped."""

import json
import re
from pathlib import Path

import pytest

from mmlitmus.guptable import recorded as recordings
from mmlitmus.guptable.arch import ARCHITECTURES, DEFAULT
from mmlitmus.guptable.import_recordings import Conflict, answers, questions
from mmlitmus.guptable.mappings import MAPPINGS
from mmlitmus.guptable.paths import LETTERS, MEANING, PATHS
from mmlitmus.guptable.run import EVENTS, Question, cell, table
from mmlitmus.kernel import eras
from mmlitmus.kernel.mm.gates import Gate

ROOT = Path(__file__).resolve().parents[2]

#: cells where the model answers otherwise than a real kernel, and why: {(kernel, mapping, path): reason}
EXPLAINED: dict[tuple[str, str, str], str] = {}


def one(mapping, path, kernel="deb-6.12.117", arch=DEFAULT):
    return cell(kernel, arch, MAPPINGS[mapping], PATHS[path])


@pytest.mark.parametrize("kernel", recordings.kernels())
def test_what_was_recorded_is_what_the_model_says(kernel):
    cells = list(table([kernel], [DEFAULT], MAPPINGS, PATHS))
    other = {(c.kernel, c.mapping, c.path) for c in cells if c.agrees is False}
    explained = {key for key in EXPLAINED if key[0] == kernel}
    assert other == explained, [
        f"{c.mapping} {c.path}: {c.answer}, recorded {c.recorded}" for c in cells if c.agrees is False
    ]
    assert sum(c.agrees is True for c in cells) > 480
    assert all(c.answer in LETTERS for c in cells)


@pytest.mark.parametrize("kernel", recordings.kernels())
def test_every_recorded_answer_has_its_cell(kernel):
    """No row or column of the file is one that the table does not have."""
    _, found = recordings._answers()[kernel]
    assert set(found) <= set(MAPPINGS)
    assert {path for row in found.values() for path in row} <= set(PATHS)
    assert {answer for row in found.values() for answer in row.values()} <= set(LETTERS)


def test_recordings_are_of_exact_kernels():
    assert recordings.kernels() == ["deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"]
    data = json.loads(recordings.FILE.read_text())
    for kernel in data["kernels"]:
        assert kernel["kernel"] == f"deb-{kernel['version']}"
        assert kernel["version"] in kernel["package"]
        assert re.fullmatch("[0-9a-f]{64}", kernel["config_sha256"])


def test_a_recording_is_of_that_kernel_and_no_other():
    """Neither a patch nor an option nor another architecture borrows it."""
    assert one("remap-ram-shared", "get").recorded.version == "6.12.117"
    assert one("remap-ram-shared", "get", "v6.12").recorded is None
    assert one("remap-ram-shared", "get", "deb-6.12.117 CMA").recorded is None
    assert one("remap-ram-shared", "get", arch="arm").recorded is None


WHY = [
    ("remap-ram-shared", "pin-lw", "-EFAULT", "the VMA: it is VM_PFNMAP"),
    ("remap-ram-copied", "get", "-EFAULT", "the VMA: it is VM_PFNMAP"),
    ("remap-ram-copied", "get-fast", "page", "the fast path: takes it"),
    ("remap-ram-untouched", "dma-rw", "-EFAULT",
     "the VMA: it is VM_PFNMAP; the frame: it has a page, which nobody would count"),
    ("remap-reserved-untouched", "dma-rw", "mapped",
     "the VMA: it is VM_PFNMAP; the frame: mapped by its number, and nothing held"),
    ("pfn-reserved-untouched", "dma-rw", "-EFAULT",
     "the VMA: it is VM_PFNMAP; the frame: its entry is read-only, and the device may write"),
    ("mixed-io", "pin", "-EFAULT", "the VMA: it is VM_IO"),
    ("mixed-ram-shared", "readv", "-EFAULT", "special: a frame and no page"),
    ("mixed-ram-shared", "pin-fast", "-EEXIST",
     "the fast path: stops: special; special: a frame and no page"),
    ("mixed-ram-shared", "pin-lw", "-EFAULT", "the VMA: its driver hears of first stores"),
    ("mixed-quiet", "pin-lw", "-EEXIST", "special: a frame and no page"),
    ("anon-written", "get", "page", "nothing is in the way"),
    ("anon-zero", "get", "zero page", "special: the zero page is a page after all"),
    ("anon-zero", "pin-l", "page",
     "special: the zero page is a page after all; unshare: not its own, so copied first"),
    ("anon-untouched", "fast-only", "none", "the fast path: stops: no table"),
    ("anon-none", "get", "-EFAULT", "the VMA: no VM_READ"),
    ("anon-readonly", "pin-lw", "-EFAULT", "the VMA: no VM_WRITE"),
    ("anon-unmapped", "peek", "-EIO", "the VMA: there is none"),
    ("page-shared", "fast-only", "none", "the fast path: stops: a page without a mapping"),
    ("pfn-huge", "fast-only", "none", "the fast path: stops: a huge leaf"),
]  # fmt: skip


@pytest.mark.parametrize(("mapping", "path", "answer", "why"), WHY)
def test_why(mapping, path, answer, why):
    found = one(mapping, path)
    assert (found.answer, found.why) == (answer, why)


ELSEWHERE = [
    ("deb-5.10.262", "mixed-ram-shared", "get", "-EFAULT"),
    ("deb-5.10.262", "mixed-ram-shared", "pin", "slot left"),
    ("deb-5.10.262", "mixed-ram-shared", "readv", "oops"),
    ("deb-5.10.262", "mixed-ram-shared", "dma-rw", "slot left"),
    ("deb-6.1.192", "mixed-ram-shared", "pin-lw", "-EEXIST"),
    ("deb-6.1.192", "page-shared", "fast-only", "page"),
    ("deb-5.10.262", "pfn-huge", "fast-only-w", "oops"),
    ("deb-6.1.192", "pfn-huge", "fast-only-w", "none"),  # PTEs: from 6.0 to 6.11 the driver is not asked for a leaf
    ("v6.12", "pfn-huge", "fast-only-w", "none"),
    ("deb-6.1.192", "pfn-huge", "get", "-EFAULT"),
    ("deb-6.1.192", "pfn-huge", "dma-rw", "not modelled"),
    ("v6.12", "pfn-huge", "dma-rw", "mapped"),
    ("deb-6.1.192", "anon-zero", "pin-l", "zero page"),
    ("deb-6.1.192", "anon-written", "pin-remote-locked", "-EINVAL"),
    ("v5.19-rc1", "anon-zero", "pin-l", "never returns"),
    ("v5.19-rc1", "anon-untouched", "pin-l", "never returns"),
    ("v5.19-rc1", "anon-zero", "pin", "zero page"),
    ("v6.12 CMA", "page-cma", "pin-lw", "never returns"),
    ("v6.14 CMA", "page-cma", "pin-lw", "page"),
]


@pytest.mark.parametrize(("kernel", "mapping", "path", "answer"), ELSEWHERE)
def test_on_other_kernels(kernel, mapping, path, answer):
    assert one(mapping, path, kernel).answer == answer


#: dossier C.5, the overrides for architectures without special entries, and what has no fast path
ARCHS = [
    ("arm", "mixed-ram-shared", "get", "page"),  # K3: counted, as by vm_insert_page
    ("arm", "mixed-bar-shared", "get", "-EEXIST"),  # K5
    ("arm", "mixed-io", "get", "-EFAULT"),  # K3io
    ("arm", "mixed-io", "get-fast", "-EFAULT"),
    ("arm", "pfn-ram-shared", "get", "-EFAULT"),  # K2
    ("arm", "anon-zero", "get", "zero page"),
    ("arm", "anon-written", "fast-only", "none"),
    ("arm", "mixed-reserved-shared", "get", "not modelled"),
    ("arc", "mixed-ram-shared", "get", "-EEXIST"),
    ("arc", "anon-written", "fast-only", "none"),
    ("arc", "remap-ram-copied", "get-fast", "-EFAULT"),
    ("arc", "anon-written", "get-fast", "page"),
]


@pytest.mark.parametrize(("arch", "mapping", "path", "answer"), ARCHS)
def test_on_other_architectures(arch, mapping, path, answer):
    assert one(mapping, path, "v6.12", arch).answer == answer


@pytest.mark.parametrize("word", ["NO_GUP_FAST", "NO_PTE_SPECIAL"])
def test_each_architecture_word_matters(word):
    assert any(word in arch.words for arch in ARCHITECTURES.values())
    with_it = Question(eras.kernel(f"v6.12 {word}"), MAPPINGS["anon-written"], PATHS["fast-only"]).ask()
    assert with_it == ("none", (("the fast path", "none on this architecture"),))


def test_a_reason_is_heard_from_the_run_alone():
    """Nothing is left of one question when the next is asked, and nobody listens afterwards."""
    first = one("remap-ram-shared", "get")
    assert one("anon-written", "get").gates == ()
    assert one("remap-ram-shared", "get") == first
    from mmlitmus.kernel.mm import gates

    assert gates._listening == []


def test_what_takes_long_and_ends_is_no_livelock(monkeypatch):
    """The search by states has the last word, and not the bound."""
    monkeypatch.setattr("mmlitmus.guptable.run.EVENTS", 3)
    with pytest.raises(RuntimeError, match="pin of anon-written on v6.12 takes more than 3 events, and ends"):
        Question(eras.kernel("v6.12"), MAPPINGS["anon-written"], PATHS["pin"]).ask()
    assert EVENTS > 1000


def test_every_gate_is_described():
    """By the name that docs/gup.md has for it."""
    page = (ROOT / "docs" / "gup.md").read_text()
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    assert [gate.value for gate in Gate if gate.value not in rows] == []


def test_every_letter_has_a_meaning():
    assert set(MEANING) == set(LETTERS.values())


def test_what_the_model_has_not_says_so():
    lacking = [mapping for mapping in MAPPINGS.values() if mapping.build is None]
    assert lacking
    for mapping in lacking:
        assert ": " in mapping.about
        found = cell("deb-6.12.117", DEFAULT, mapping, PATHS["get"])
        assert (found.answer, found.agrees) == ("not modelled", None)
        assert found.why == mapping.about.partition(": ")[2]


# -- importing --------------------------------------------------------------------------------------------------------
def program(*steps):
    from mmlitmus.conform.schema import Program

    return Program(id="p", steps=tuple(steps))


def did(step, errno="", count=None, pins=()):
    from dataclasses import replace

    from mmlitmus.conform.observed import Observed, Result

    return replace(
        step, observed=Observed(result=Result(ok=not errno, errno=errno or None, count=count), pins=tuple(pins))
    )


class Header:
    zero_pfn = 7


def test_state_is_what_was_done_before():
    from mmlitmus.conform.observed import Frame
    from mmlitmus.conform.schema import Map, Pin, Touch

    here = did(Map(slot="a", pages=1, backing="anonymous", sharing="private"))
    pin = Pin(slot="a", pages=1, variant="pin_user_pages")
    steps = (
        here,
        did(pin, count=1, pins=(Frame(pfn=7, refs=1, maps=1),)),
        did(pin, count=1, pins=(Frame(pfn=9, refs=1, maps=1),)),
    )
    assert list(questions(program(*steps), Header)) == [("anon-untouched", "pin", "zero page")]
    steps = (here, did(Touch(slot="a", access="write")), did(pin, count=1, pins=(Frame(pfn=9, refs=1, maps=1),)))
    assert list(questions(program(*steps), Header)) == [("anon-written", "pin", "page")]


def test_a_mapping_that_was_not_made_has_no_answers():
    from mmlitmus.conform.schema import Map, Pin

    here = did(Map(slot="a", pages=1, backing="anonymous", sharing="private"), errno="EINVAL")
    pin = did(Pin(slot="a", pages=1, variant="pin_user_pages"), errno="EFAULT")
    assert list(questions(program(here, pin), Header)) == []


def test_programs_that_disagree():
    from types import SimpleNamespace

    from mmlitmus.conform.schema import Map, Pin

    here = did(Map(slot="a", pages=1, backing="anonymous", sharing="private"))
    pin = Pin(slot="a", pages=1, variant="pin_user_pages")
    both = SimpleNamespace(
        programs=(program(here, did(pin, errno="EFAULT")), program(here, did(pin, errno="EIO"))), header=Header
    )
    with pytest.raises(Conflict, match="pin of anon-untouched: -EFAULT, and -EIO in program p"):
        answers(both)
