"""What a patch changes: every case without and with it, on every kernel to which it applies.

The verdicts are what execution gives. Expectations choose the rows (a case is run where it says that its question makes
sense), and a result that contradicts one is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .case import Case, canonical
from .kernels import Provider, provider, spell, with_patches
from .many import Job, Report
from .row import Row
from .run import How, how_for

FIXED, BROKEN, CHANGED, SAME = "fixed", "broken", "changed", "same"
#: what may become of a verdict, in the order in which totals count them
CHANGES = (FIXED, BROKEN, CHANGED, SAME)

APPLIES, PRESENT, REFUSED = "applies", "present", "refused"


class ReviewError(ValueError):
    """Nothing can be reviewed as asked; the text is one sentence."""


@dataclass(frozen=True)
class Standing:
    """How a kernel takes a patch: it applies, it is there already, or it is refused; and why it does not apply."""

    state: str
    why: str = ""


@dataclass(frozen=True)
class Pair:
    """Two rows to compare: ``case`` on ``base`` and on ``to``, which is ``base`` with ``patches``."""

    case: Case
    base: str
    patches: tuple[str, ...]
    to: str


@dataclass
class Plan:
    """What is to be compared. ``kernels``: those asked for, or every release. ``standing``: how each of them, and each
    variant of them that a case names, takes each patch. ``apart``: the kernels on which patches that apply one by one
    do not go together, and why."""

    patches: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    pairs: list[Pair] = field(default_factory=list)
    standing: dict[str, dict[str, Standing]] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One comparison, made."""

    pair: Pair
    before: Row
    after: Row

    @property
    def change(self) -> str:
        """``fixed``: findings before, never after; ``broken``: the other way round; ``changed``: anything else that
        is not the same in words; ``same``."""
        if self.before.text == self.after.text:
            return SAME
        if self.before.violations and self.after.result == "never":
            return FIXED
        if self.after.violations and self.before.result == "never":
            return BROKEN
        return CHANGED


def known_patches(words: Iterable[str]) -> tuple[str, ...]:
    """The patches that a command line names, each once. ReviewError for one that there is not."""
    from difflib import get_close_matches

    patches = provider().patches()
    names = tuple(dict.fromkeys(word.strip().removeprefix("+") for word in words))
    for name in names:
        if name in patches:
            continue
        within = [one for one in patches if name and name in one]
        near = (within or get_close_matches(name, list(patches), n=3, cutoff=0.5))[:3]
        raise ReviewError(
            f"no patch {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else "`mmlitmus kernels` lists them")
        )
    return names


def of_patches(cases: Sequence[Case], patches: tuple[str, ...], kernels: Sequence[str]) -> Plan:
    """Each patch alone, and all of them together, on ``kernels`` (none: every release, with the config options that a
    case names). ReviewError when a patch neither applies to one of them nor is in one, or when nothing applies."""
    known = provider()
    plan = Plan(patches, tuple(kernels or known.releases()))
    for base in plan.kernels:
        plan.standing[base] = {name: standing(known, base, name) for name in patches}
    _none_is_idle(plan)
    for case in cases:
        for base in bases(case, patches, kernels):
            if base not in plan.standing:
                plan.standing[base] = {name: standing(known, base, name) for name in patches}
            for some, to in _patched(known, plan, base):
                plan.pairs.append(Pair(case, base, some, to))
    return plan


def of_releases(cases: Sequence[Case], first: str, second: str) -> Plan:
    """One kernel against another: every case that speaks of either of them, and is not n/a on one."""
    plan = Plan()
    for case in cases:
        told = [case.expected(spec) for spec in (first, second)]
        if any(one is not None and one.reason is not None for one in told):
            continue
        if _speaks(case, first, ()) or _speaks(case, second, ()):
            plan.pairs.append(Pair(case, first, (), second))
    return plan


def bases(case: Case, patches: Sequence[str], kernels: Sequence[str]) -> list[str]:
    """The kernels on which the case is asked, the patches left out: of ``kernels``, those whose release the case names
    (with some of the patches, or without); without ``kernels``, all that it names so. One that expects nothing is asked
    everywhere."""
    if kernels:
        return [spec for spec in kernels if _speaks(case, spec, patches)]
    releases = list(provider().releases())
    if not case.expect:
        return releases
    found = []
    for spec in _named(case):
        release, own, config = canonical(spec)
        if set(own) <= set(patches):
            found.append((releases.index(release) if release in releases else len(releases), config, release))
    return [" ".join((release, *config)) for _, config, release in sorted(dict.fromkeys(found))]


def _speaks(case: Case, spec: str, patches: Sequence[str]) -> bool:
    release, own, _ = canonical(spec)
    there = {*own, *patches}
    named = (canonical(one) for one in _named(case))
    return not case.expect or any(one[0] == release and set(one[1]) <= there for one in named)


def _named(case: Case) -> list[str]:
    return [spec for spec, answer in case.expect.items() if answer.reason is None]


def standing(known: Provider, base: str, name: str) -> Standing:
    """How the kernel ``base`` takes the patch."""
    release, own, _ = canonical(base)
    if name in own:
        return Standing(PRESENT, "the kernel asked for has it")
    try:
        known.kernel(spell(with_patches(base, [name])))
    except known.not_applicable as e:
        why = str(e).removeprefix(f"+{name} does not apply to {release}: ")
        patch = known.patches()[name]
        wanted: dict[str, str] | None = getattr(patch, "choices", None)
        if wanted is None:  # the patch does not say what it chooses
            return Standing(PRESENT if why.endswith(" already") else REFUSED, why)
        has = known.kernel(base).choices
        needs = {seam: possible for seam, possible in getattr(patch, "over", {}).items() if seam not in wanted}
        made = all(has.get(seam) == choice for seam, choice in wanted.items())
        if made and all(has.get(seam) in possible for seam, possible in needs.items()):
            chosen = " and ".join(f"{seam} is {choice}" for seam, choice in wanted.items())
            return Standing(PRESENT, f"{chosen} there already")
        return Standing(REFUSED, why)  # it may have a part of it, or not have what the patch is about
    except known.spec_error as e:  # a patch of the kernel asked for changes the same
        return Standing(REFUSED, str(e))
    return Standing(APPLIES)


def _none_is_idle(plan: Plan) -> None:
    """ReviewError for a patch that no kernel takes or has, and when no kernel takes any."""
    nothing = all(one.state != APPLIES for here in plan.standing.values() for one in here.values())
    for name in plan.patches:
        if nothing or all(here[name].state == REFUSED for here in plan.standing.values()):
            base, here = next(iter(plan.standing.items()))
            which = f"to {base}" if len(plan.standing) == 1 else "to any kernel asked for"
            why = here[name].why if len(plan.standing) == 1 else f"on {base}, {here[name].why}"
            raise ReviewError(f"+{name} does not apply {which}: {why}")


def _patched(known: Provider, plan: Plan, base: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The patches to put on ``base``, and what that kernel is called: each alone, then all that it does not have."""
    here = plan.standing[base]
    alone = [name for name in plan.patches if here[name].state == APPLIES]
    for name in alone:
        yield (name,), spell(with_patches(base, [name]))
    missing = tuple(name for name in plan.patches if here[name].state != PRESENT)
    if len(missing) < 2:
        return
    whole = spell(with_patches(base, missing))
    try:
        known.kernel(whole)
    except (known.not_applicable, known.spec_error) as e:
        if len(alone) == len(missing):  # else it is told already which one does not apply
            plan.apart[base] = str(e)
        return
    yield missing, whole


def jobs_of(plan: Plan, how: How) -> list[Job]:
    """The rows to be made, each once."""
    found: dict[tuple[str, str, str], Job] = {}
    for pair in plan.pairs:
        for spec in (pair.base, pair.to):
            found.setdefault(_key(pair.case, spec), Job(pair.case, spec, how_for(pair.case, how)))
    return list(found.values())


def _key(case: Case, spec: str) -> tuple[str, str, str]:
    return case.file, case.id, spec


def changes(plan: Plan, jobs: Sequence[Job], report: Report) -> list[Change]:
    """The comparisons of which both rows were made."""
    rows = {
        _key(job.case, job.spec): outcome
        for job, outcome in zip(jobs, report.outcomes, strict=False)  # shorter after Ctrl-C
        if isinstance(outcome, Row)
    }
    made = []
    for pair in plan.pairs:
        before, after = rows.get(_key(pair.case, pair.base)), rows.get(_key(pair.case, pair.to))
        if before is not None and after is not None:
            made.append(Change(pair, before, after))
    return made


def surprises(rows: Iterable[Row]) -> list[str]:
    """The results that contradict an expectation, and the model's own faults, one line each."""
    lines = []
    for row in rows:
        if row.status != "SURPRISE":
            continue
        where = f"{row.case} on {row.spec}"
        if row.unreached:
            lines.append(f"{where}: never reached: {', '.join(row.unreached)}")
        elif row.expected is None:
            lines.append(f"{where}: {row.text}: {row.violations[0].message}")
        else:
            lines.append(f"{where}: the case expects {row.expected}, and the result is {row.text}")
    return lines


def checked(specs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The kernels of these that there are, and why there are not the others."""
    known = provider()
    good, wrong = [], []
    for spec in specs:
        try:
            known.kernel(spec)
        except (known.not_applicable, known.spec_error) as e:
            wrong.append(str(e))
        else:
            good.append(spec)
    return good, wrong
