"""What is compared with what, what became of a verdict, and the layout of the tables."""

from dataclasses import dataclass, field

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from mmlitmus.checker import kernels, review
from mmlitmus.checker.case import Case, na, never, sometimes
from mmlitmus.checker.review import Change, Pair, Plan, Standing
from mmlitmus.checker.row import Row, Violation
from mmlitmus.report.review import between, runs, totals
from mmlitmus.report.review import review as table


def a_case(**expect):
    return Case("c", lambda m: None, "?", "c.py", 1, expect={k.replace("_", " "): v for k, v in expect.items()})


def a_row(text, spec="v1", case="c"):
    """A row whose result reads so: `never`, `sometimes x`, `seen x`, `not-seen`, `n/a (why)`."""
    word, _, names = text.partition(" ")
    row = Row(case, spec, [], [], result=word, reason=names.strip("()") if word == "n/a" else None)
    row.search = "bounded(3 executions)" if "seen" in word else "exhaustive"
    if word not in ("n/a", "never", "not-seen"):
        row.violations = [Violation("BUG", name, "it happens", word) for name in names.split(", ")]
    assert row.text == text
    return row


# ---------------------------------------------------------------- what became of it


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("never", "never", "same"),
        ("sometimes x", "sometimes x", "same"),
        ("n/a (no path)", "n/a (no path)", "same"),
        ("sometimes x", "never", "fixed"),
        ("seen x", "never", "fixed"),
        ("never", "always x", "broken"),
        ("never", "seen x", "broken"),
        ("sometimes x", "always x", "changed"),
        ("sometimes x", "sometimes y", "changed"),
        ("sometimes x", "not-seen", "changed"),
        ("not-seen", "sometimes x", "changed"),
        ("not-seen", "never", "changed"),
        ("never", "not-seen", "changed"),
        ("n/a (no path)", "never", "changed"),
    ],
)
def test_change(before, after, change):
    assert Change(Pair(a_case(), "v1", ("p",), "v1 +p"), a_row(before), a_row(after)).change == change


# ---------------------------------------------------------------- what is compared


@dataclass
class APatch:
    """A patch that says what it chooses, as those of the model do."""

    choices: dict
    over: dict = field(default_factory=dict)


@dataclass
class AKernel:
    choices: dict = field(default_factory=dict)


class Known:
    """Three releases, the second with the choice of patch `a`; `c` changes the same as `b`, `part` half as `a`."""

    spec_error = toy.ToySpecError
    not_applicable = toy.ToyNotApplicable
    base = {"v1": {"s": "old", "t": "old"}, "v2": {"s": "new", "t": "old"}, "v3": {"s": "newer", "t": "old"}}

    def releases(self):
        return list(self.base)

    def patches(self):
        return {
            "a": APatch({"s": "new"}), "b": APatch({"t": "new"}), "c": APatch({"t": "other"}),
            "part": APatch({"s": "new", "t": "new"}), "told": "in words", "lost": "in words",
            "moot": APatch({"s": "new"}, {"s": ("old",), "t": ("new",)}),
        }  # fmt: skip

    def configs(self):
        return {"lockdep": "more checks"}

    def kernel(self, spec):
        release, patches, _ = kernels.canonical(spec)
        choices = dict(self.base[release])
        for name in patches:
            wanted = getattr(self.patches()[name], "choices", {})
            if "s" in wanted and choices["s"] != "old":
                raise self.not_applicable(f"+{name} does not apply to {release}: s is {choices['s']}")
            if name == "told" and release != "v1":
                raise self.not_applicable("the lock is taken already")
            if name == "lost":
                raise self.not_applicable("there is nothing to change")
            choices.update(wanted)
        if {"b", "c"} <= set(patches):
            raise self.spec_error("+b and +c both change t: choose one")
        return AKernel(choices)


@pytest.fixture(autouse=True)
def known():
    kernels.use(Known())
    yield
    kernels.use(None)


@pytest.mark.parametrize(
    ("base", "name", "stands"),
    [
        ("v1", "a", Standing("applies")),
        ("v1 lockdep", "a", Standing("applies")),
        ("v2", "a", Standing("present", "s is new there already")),
        ("v3", "a", Standing("refused", "s is newer")),
        ("v2", "part", Standing("refused", "s is new")),  # the other half is missing: not there already
        ("v2", "moot", Standing("refused", "s is new")),  # t is not what it is about
        ("v1", "told", Standing("applies")),
        ("v2", "told", Standing("present", "the lock is taken already")),
        ("v2", "lost", Standing("refused", "there is nothing to change")),
        ("v1 +a", "a", Standing("present", "the kernel asked for has it")),
        ("v1 +b", "c", Standing("refused", "+b and +c both change t: choose one")),
    ],
)
def test_standing(base, name, stands):
    assert review.standing(kernels.provider(), base, name) == stands


@pytest.mark.parametrize(
    ("expect", "patches", "asked", "found"),
    [
        ({"v1": never, "v3": never}, ("a",), (), ["v1", "v3"]),
        ({"v3": never, "v1": never}, ("a",), (), ["v1", "v3"]),  # in the order of releases
        ({"v1": never, "v2": na("no path")}, ("a",), (), ["v1"]),
        ({"v1_+a": never}, ("a",), (), ["v1"]),  # named with the patch only
        ({"v1_+a": never}, ("b",), (), []),
        ({"v1_+a_+b": never}, ("b", "a"), (), ["v1"]),
        ({"v1_lockdep": never, "v2": never, "v1": never}, ("a",), (), ["v1", "v1 lockdep", "v2"]),
        ({}, ("a",), (), ["v1", "v2", "v3"]),  # it expects nothing: everywhere
        ({"v1": never, "v3": never}, ("a",), ("v2", "v1"), ["v1"]),
        ({"v1": never}, ("a",), ("v1 +b", "v1 lockdep"), ["v1 +b", "v1 lockdep"]),
        ({"v1_+b": never}, ("a",), ("v1 +b", "v1"), ["v1 +b"]),
        ({}, ("a",), ("v2",), ["v2"]),
    ],
)
def test_bases(expect, patches, asked, found):
    assert review.bases(a_case(**expect), patches, asked) == found


def test_each_alone_and_all_together():
    plan = review.of_patches([a_case(v1=never, v2=never, v3=never)], ("b", "a"), ())
    assert [(p.base, p.patches, p.to) for p in plan.pairs] == [
        ("v1", ("b",), "v1 +b"), ("v1", ("a",), "v1 +a"), ("v1", ("b", "a"), "v1 +a +b"),
        ("v2", ("b",), "v2 +b"),  # it has a
        ("v3", ("b",), "v3 +b"),  # it does not take a
    ]  # fmt: skip
    assert plan.apart == {}


def test_patches_that_exclude_each_other_are_compared_alone():
    plan = review.of_patches([a_case(v1=never)], ("b", "c"), ("v1",))
    assert [p.to for p in plan.pairs] == ["v1 +b", "v1 +c"]
    assert plan.apart == {"v1": "+b and +c both change t: choose one"}


def test_a_row_is_made_once():
    plan = review.of_patches([a_case(v1=never)], ("a", "b"), ("v1",))
    assert [job.spec for job in review.jobs_of(plan, None)] == ["v1", "v1 +a", "v1 +b", "v1 +a +b"]


@pytest.mark.parametrize(
    ("patches", "asked", "message"),
    [
        (("a",), ("v2",), "+a does not apply to v2: s is new there already"),
        (("a",), ("v3", "v2"), "+a does not apply to any kernel asked for: on v3, s is newer"),
        (("b", "lost"), (), "+lost does not apply to any kernel asked for: on v1, there is nothing to change"),
    ],
)
def test_applies_nowhere(patches, asked, message):
    with pytest.raises(review.ReviewError) as e:
        review.of_patches([a_case(v1=never)], patches, asked)
    assert str(e.value) == message


@pytest.mark.parametrize(
    ("first", "second", "expect", "compared"),
    [
        ("v1", "v2", {"v1": never, "v2": never}, True),
        ("v1", "v2", {"v2": never}, True),
        ("v1", "v2", {"v3": never}, False),
        ("v1", "v2", {"v1": na("no path"), "v2": never}, False),
        ("v1", "v2", {}, True),
        ("v1", "v1 +a", {"v1_+a": sometimes("x")}, True),
    ],
)
def test_of_releases(first, second, expect, compared):
    plan = review.of_releases([a_case(**expect)], first, second)
    assert [(p.base, p.patches, p.to) for p in plan.pairs] == [(first, (), second)] * compared


def test_surprises():
    good, wrong, unfinished, lost = (a_row(text) for text in ("never", "always x", "not-seen", "never"))
    good.judge(never)
    wrong.judge(never)
    unfinished.judge(sometimes("x"))
    lost.unreached = ["the moon"]
    lost.judge(never)
    assert review.surprises([good, wrong, unfinished, lost]) == [
        "c on v1: the case expects never, and the result is always x", "c on v1: never reached: the moon"
    ]  # fmt: skip


# ---------------------------------------------------------------- the tables


@pytest.mark.parametrize(
    ("specs", "text"),
    [
        (["v1"], "v1"), (["v1", "v2"], "v1, v2"), (["v1", "v2", "v3"], "v1 .. v3"),
        (["v1", "v3", "v4", "v5"], "v1, v3 .. v5"), (["v1", "v2 lockdep", "v3"], "v1, v2 lockdep, v3"),
        (["v3", "v2", "v1"], "v3, v2, v1"), (["x +a", "x +b"], "x +a, x +b"),
    ],
)  # fmt: skip
def test_runs(specs, text):
    assert runs(specs, ["v1", "v2", "v3", "v4", "v5"]) == text


NAME = st.text("abc-/", min_size=1, max_size=24).filter(lambda w: w.strip("-/"))
RESULT = st.one_of(
    st.sampled_from(["never", "not-seen"]),
    st.builds("{} {}".format, st.sampled_from(["always", "sometimes", "seen"]),
              st.lists(NAME, min_size=1, max_size=3, unique=True).map(lambda names: ", ".join(sorted(names)))),
)  # fmt: skip


@st.composite
def reviews(draw):
    patches = tuple(draw(st.lists(NAME, min_size=1, max_size=3, unique=True)))
    plan = Plan(patches, ("v1", "v2"))
    made = []
    for base in plan.kernels:
        stands = [Standing("applies"), Standing("present", "p"), Standing("refused", "r" * 120)]
        plan.standing[base] = {name: draw(st.sampled_from(stands)) for name in patches}
    for case in draw(st.lists(NAME, max_size=2, unique=True)):
        one = Case(case, lambda m: None, "?", "c.py", 1)
        for base in plan.kernels:
            before = a_row(draw(RESULT), base, case)
            takes = [name for name in patches if plan.standing[base][name].state == "applies"]
            for some in [(name,) for name in takes] + ([tuple(takes)] if len(takes) > 1 else []):
                pair = Pair(one, base, some, " +".join((base, *some)))
                made.append(Change(pair, before, a_row(draw(RESULT), base, case)))
    return plan, made


@given(reviews(), st.sampled_from([80, 100]), st.booleans())
def test_fits(drawn, width, everything):
    plan, made = drawn
    lines = table(plan, made, ["v1", "v2"], width=width, everything=everything)
    assert all(len(line) <= width for line in lines), lines
    assert all(line == line.rstrip() for line in lines)
    squeezed = "".join("".join(lines).split())
    for one in made:
        if everything or one.change != "same":
            assert one.pair.case.id in squeezed
            assert one.change in squeezed


@given(reviews())
def test_totals_add_up(drawn):
    plan, made = drawn
    numbers = [int(w) for line in totals(plan, made) for w in line.split(": ")[-1].split() if w.isdigit()]
    assert sum(numbers) == len(made)


def a_change(before, after, patches=(), base="v1", case="c"):
    pair = Pair(Case(case, lambda m: None, "?", "c.py", 1), base, patches, "to")
    return Change(pair, a_row(before, base, case), a_row(after, base, case))


def test_long_results_are_wrapped():
    words = "sometimes deadlock memory_lock / mmap_lock, inversion memory_lock -> mmap_lock"
    plan = Plan(("p",), ("v1",), standing={"v1": {"p": Standing("applies")}})
    lines = table(plan, [a_change(words, "never", ("p",))], ["v1"], width=60)
    assert lines == [
        "  kernel  before                                after",
        "c",
        "  v1      sometimes deadlock memory_lock /      never  fixed",
        "            mmap_lock, inversion memory_lock",
        "            -> mmap_lock",
    ]


def test_between():
    made = [a_change("never", "always x"), a_change("never", "never", case="d")]
    assert between("v1", "v2", made) == [
        "case  v1     v2", "c     never  always x  broken", "", "mmlitmus show c --kernel v1"
    ]  # fmt: skip
    assert "d     never  never     same" in between("v1", "v2", made, everything=True)
    assert totals(Plan(), made, errors=1, not_run=2) == [
        "2 cases: 0 fixed, 1 broken, 0 changed, 1 unchanged", "1 could not be run", "2 not run"
    ]  # fmt: skip
