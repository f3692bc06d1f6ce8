"""Can madvise take the translations of a mapping of frame numbers away?

No. Whatever would drop, age or fill its pages is refused with -EINVAL: nothing would bring them back, and none of them
is memory that can be reclaimed. So MADV_DONTNEED cannot show what a zap does to the reservation of the frames. What
is asked is the VMA's type: a VM_MIXEDMAP that maps the very same frames may be emptied.

tools/testing/selftests/mm/pfnmap.c (6.16) checks the same list.
"""

from mmlitmus.api import (
    EINVAL,
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTFORK,
    MADV_DONTNEED,
    Machine,
    always,
    case,
    memtypes_at_rest,
    never,
    pat_memtype_list,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.mm.madvise import (
    MADV_COLD,
    MADV_DONTNEED_LOCKED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_WIPEONFORK,
)

#: advice that is refused and pages that it is for; and advice that is taken, to no effect on page tables
REFUSED = (
    (MADV_DONTNEED, 1), (MADV_FREE, 1), (MADV_COLD, 1), (MADV_DOFORK, 4), (MADV_DODUMP, 4), (MADV_POPULATE_WRITE, 1),
)  # fmt: skip
TAKEN = ((MADV_MERGEABLE, 4), (MADV_HUGEPAGE, 4))
#: more that is refused
REFUSED_TOO = (MADV_DONTNEED_LOCKED, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_WIPEONFORK)


@case(
    "pfn/madvise",
    control="pfn/madvise/of-a-mixedmap",
    scenario="S-PFN-05",
    thread="000",
    claims=("C000-04",),
    reach=("all was refused",),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def madvise(m: Machine) -> None:
    """Can MADV_DONTNEED and its like take the translations away, and the reservation with them?"""
    advise_all(m, "remap")


@case(
    "pfn/madvise/of-a-mixedmap",
    scenario="S-PFN-05",
    thread="000",
    expect=releases("v5.10", "deb-7.3.4", always("changed")),
)
def madvise_of_a_mixedmap(m: Machine) -> None:
    """... and of a VM_MIXEDMAP that maps the same frames? (They do: the control.)"""
    advise_all(m, "mixed")


def advise_all(m: Machine, insert: str) -> None:
    """A mapping of four pages is read, and all advice is given."""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def advise() -> None:
        a = app.mmap(probe.file(insert), 4)
        app.read(a)
        before = [app.pte(a + n * 0x1000) for n in range(4)], pat_memtype_list(m)
        results = [app.madvise(a, pages, advice) for advice, pages in REFUSED]
        if results == [-EINVAL] * len(REFUSED):
            m.reached("all was refused")
        for advice, pages in TAKEN:
            got = app.madvise(a, pages, advice)
            m.require(got == 0, "wrong-errno", f"madvise({advice}) gives {got}")
        after = [app.pte(a + n * 0x1000) for n in range(4)], pat_memtype_list(m)
        m.require(before == after, "changed", "madvise has changed an entry or the reservation")


@case(
    "pfn/madvise/others",
    control="pfn/madvise/others/mixedmap",
    scenario="S-PFN-05",
    thread="000",
    claims=("C000-04",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def others(m: Machine) -> None:
    """... and MADV_DONTNEED_LOCKED, PAGEOUT, POPULATE_READ, WIPEONFORK?"""
    advise_others(m, "remap")


@case(
    "pfn/madvise/others/mixedmap",
    scenario="S-PFN-05",
    thread="000",
    expect=releases("v6.1", "deb-7.3.4", always("wrong-errno")),
)
def others_of_a_mixedmap(m: Machine) -> None:
    """... and those of a VM_MIXEDMAP that maps the same frames? (The control.)"""
    advise_others(m, "mixed")


def advise_others(m: Machine, insert: str) -> None:
    """A page is mapped and read, and the other advice is given."""
    probe = open_probe(m, pages=1)
    app = m.process("app")

    @m.task
    def advise() -> None:
        a = app.mmap(probe.file(insert), 1)
        app.read(a)
        before = app.pte(a)
        for advice in REFUSED_TOO:
            got = app.madvise(a, 1, advice)
            m.require(got == -EINVAL, "wrong-errno", f"madvise({advice}) gives {got}")
        m.require(app.pte(a) == before, "changed", "madvise has changed the entry")


@case(
    "pfn/madvise/mixedmap",
    control="pfn/madvise/mixedmap/pfnmap",
    scenario="S-PFN-05",
    reach=("the page is gone", "again got through"),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def mixedmap(m: Machine) -> None:
    """... and of a VM_MIXEDMAP that maps the same frames?"""
    empty_and_touch(m, "mixed")


@case(
    "pfn/madvise/mixedmap/pfnmap",
    scenario="S-PFN-05",
    reach=("again got through",),
    expect=releases("v5.10", "deb-7.3.4", always("wrong-errno")),
)
def emptied_pfnmap(m: Machine) -> None:
    """... and of a VM_PFNMAP whose faults would bring them back? (It is refused all the same: the control.)"""
    empty_and_touch(m, "fault_pfn")


def empty_and_touch(m: Machine, insert: str) -> None:
    """MADV_DONTNEED of a page, and another touch."""
    probe = open_probe(m, pages=1)
    app = m.process("app")

    @m.task
    def again() -> None:
        a = app.mmap(probe.file(insert), 1)
        app.read(a)
        got = app.madvise(a, 1, MADV_DONTNEED)
        m.require(got == 0, "wrong-errno", f"MADV_DONTNEED gives {got}")
        if not app.pte(a):
            m.reached("the page is gone")
        m.saw(app.read(a))


@case(
    "pfn/madvise/dontfork",
    control="pfn/madvise/dontfork/mixedmap",
    scenario="S-PFN-05",
    reach=("the child has no mapping",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def dontfork(m: Machine) -> None:
    """... and is MADV_DONTFORK taken, which MADV_DOFORK cannot take back?"""
    fork_without(m, "remap")


@case(
    "pfn/madvise/dontfork/mixedmap",
    scenario="S-PFN-05",
    expect={**releases("v5.10", "deb-6.18.15", always("wrong-errno")), **releases("v7.3", "deb-7.3.4", never)},
)
def dontfork_of_a_mixedmap(m: Machine) -> None:
    """... and of a VM_MIXEDMAP, which is no VM_IO? (It can, up to 6.18: the control.)"""
    fork_without(m, "mixed")


def fork_without(m: Machine, insert: str) -> None:
    """A mapping is not to be inherited, then it is, and the process forks."""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=1)
    app = m.process("app")

    @m.task
    def fork() -> None:
        a = app.mmap(probe.file(insert), 1)
        m.require(app.madvise(a, 1, MADV_DONTFORK) == 0, "wrong-errno", "MADV_DONTFORK is refused")
        m.require(app.madvise(a, 1, MADV_DOFORK) == -EINVAL, "wrong-errno", "MADV_DOFORK is taken")
        child = app.fork("child")
        if not isinstance(child, int) and not child.smaps():
            m.reached("the child has no mapping")
