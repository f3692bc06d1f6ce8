"""What a case may speak of, and what counts whatever it asks about."""

from textwrap import dedent

import pytest
import toy

from mmlitmus.checker import kernels
from mmlitmus.checker.case import Case, CaseError
from mmlitmus.checker.load import load_file
from mmlitmus.checker.run import How, run
from mmlitmus.cli.main import main

HEAD = """\
from mmlitmus.api import case, sometimes, never, always, Mutex, RwSem, report, bug, Finding, reached
from mmlitmus.kernel.sync.rwsem import *
"""


@pytest.fixture(autouse=True)
def provider():
    kernels.use(toy.Toy())
    yield
    kernels.use(None)


def write(tmp_path, text, name="own.py"):
    file = tmp_path / name
    file.write_text(HEAD + dedent(text))
    return file


def one(tmp_path, text) -> Case:
    (made,) = load_file(write(tmp_path, text))
    return made


@pytest.mark.parametrize(
    ("decorator", "word", "near"),
    [
        ("asks=('stale-translatoin',)", "stale-translatoin", "stale-translation"),
        ("ignores=('mmap_assert_lockd',)", "mmap_assert_lockd", "mmap_assert_locked"),
        ("expect={'v1': sometimes('acess-after-disable')}", "acess-after-disable", "access-after-disable"),
        ("reach=('fault got thruogh',)", "fault got thruogh", "fault got through"),
        ("reach=('falt got through',)", "falt got through", ""),
        ("reach=('the page is bakc',)", "the page is bakc", "the page is back"),
        ("asks=('pages-swaped',)", "pages-swaped", "pages-swapped"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known(tmp_path, capsys, decorator, word, near):
    file = write(
        tmp_path,
        f"""
        @case({decorator})
        def own(m):
            @m.task
            def fault():
                if False:
                    report("invariant", "pages-swapped", "they are not where they were")
                    reached("the page is back")
                    m.saw("fault got through")
        """,
    )
    assert main(["check", str(file)]) == 2
    out, err = capsys.readouterr()
    (line,) = err.strip().splitlines()
    assert not out
    assert all(part in line for part in (f"{file}:4: ", repr(word), near))


def test_a_case_declares_its_own_names_by_saying_them_or_by_names(tmp_path):
    (tmp_path / "beside.py").write_text("def swapped(m):\n    m.note('pages-lost')\n")
    made = one(
        tmp_path,
        """
        import beside
        WHAT = "pages-swapped"

        @case(
            asks=("pages-swapped", "pages-lost", "twice-2"), names={"pages-swapped": "they are not where they were"},
            reach=("turn 3", "fault got SIGBUS", "vmf_insert_pfn found the PTE populated"),
        )
        def own(m):
            @m.task
            def fault():
                for n in range(3):
                    reached(f"turn {n}")
                report("invariant", f"twice-{n}", "...")
        """,
    )
    assert made.names == ("pages-swapped",)


def test_every_case_that_is_shipped_speaks_of_known_names():
    from mmlitmus.checker.load import select

    chosen = select([])
    assert not chosen.errors
    assert len(chosen.cases) > 200


COMPLAINTS = {
    "bad unlock balance": "m.other_lock.unlock()",
    "deadlock other_lock": "m.other_lock.lock(); m.other_lock.lock()",
    "page-freed-mapped": "bug('page-freed-mapped', '...')",
    "untrack-walk-failed": "report('WARN', 'untrack-walk-failed', '...')",
    "use-after-free Device": "m.dev.free(); m.dev.on = False",
    "raised KeyError": "{}['x']",
    "sleeps-somewhere": "report('atomic', 'sleeps-somewhere', 'of a kind that nobody has described')",
}


@pytest.mark.parametrize("name", COMPLAINTS)
@pytest.mark.parametrize("asks", ["asks=('stale-translation',)", ""])
def test_what_a_kernel_complains_of_counts_whatever_is_asked(tmp_path, name, asks):
    made = one(
        tmp_path,
        f"""
        @case({asks})
        def own(m):
            @m.task
            def fault():
                {COMPLAINTS[name]}
        """,
    )
    row = run(made, "v3", How(schedules="never"))
    assert name in [v.name for v in row.violations]
    assert not row.ok


def test_an_inversion_counts_whatever_is_asked(tmp_path):
    made = one(
        tmp_path,
        """
        @case(asks=("stale-translation",))
        def own(m):
            @m.task
            def fault():
                m.memory_lock.down_read(); m.other_lock.lock(); m.other_lock.unlock(); m.memory_lock.up_read()
            @m.task
            def disable():
                m.other_lock.lock(); m.memory_lock.down_read(); m.memory_lock.up_read(); m.other_lock.unlock()
        """,
    )
    row = run(made, "v3", How(schedules="never"))
    assert [v.kind for v in row.violations] == ["inversion"]


def test_what_the_model_holds_to_be_wrong_is_narrowed_by_asks(tmp_path):
    made = one(
        tmp_path,
        """
        @case(asks=("stale-translation",))
        def own(m):
            @m.task
            def fault():
                report("invariant", "memtype-leak", "...")
                report("printk", "freeing-invalid-memtype", "...")
                report("precondition", "vm_start written without mmap_lock", "...")
        """,
    )
    row = run(made, "v3", How(schedules="never"))
    assert row.ok
    assert not row.violations
    assert [(note.name, note.why) for note in row.notes] == [
        ("freeing-invalid-memtype", "not-asked"),
        ("memtype-leak", "not-asked"),
        ("vm_start written without mmap_lock", "not-asked"),
    ]


@pytest.mark.parametrize("asks", ["asks=('stale-translation',), ", ""])
def test_a_complaint_is_ignored_by_name_only_and_the_row_says_so(tmp_path, asks):
    made = one(
        tmp_path,
        f"""
        @case({asks}ignores=("untrack-walk-failed",))
        def own(m):
            @m.task
            def fault():
                report("WARN", "untrack-walk-failed", "...")
                report("WARN", "mmap_assert_locked", "...")
        """,
    )
    row = run(made, "v3", How(schedules="never"))
    assert [v.name for v in row.violations] == ["mmap_assert_locked"]
    assert [(note.name, note.why) for note in row.notes] == [("untrack-walk-failed", "ignored")]


@pytest.mark.parametrize("name", ["raised KeyError", "never-ends", "not modelled: O_DIRECT"])
def test_what_leaves_nothing_known_cannot_be_ignored(tmp_path, name):
    text = f"@case(ignores=({name!r},))\ndef own(m): ...\n"
    with pytest.raises(CaseError, match=f"own.py:3: .*{name}.*counts always"):
        load_file(write(tmp_path, text))


def test_a_complaint_may_be_expected_without_being_asked_for(tmp_path):
    made = one(
        tmp_path,
        """
        @case(asks=("stale-translation",), expect={"v3": always("untrack-walk-failed")})
        def own(m):
            @m.task
            def fault():
                report("WARN", "untrack-walk-failed", "...")
        """,
    )
    assert run(made, "v3", How(schedules="never")).status == "ok (expected)"


def test_an_invariant_that_is_not_asked_for_cannot_be_expected(tmp_path):
    text = "@case(asks=('stale-translation',), expect={'v3': always('memtype-leak')})\ndef own(m): ...\n"
    with pytest.raises(CaseError, match="does not ask about"):
        load_file(write(tmp_path, text))
