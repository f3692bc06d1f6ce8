"""Whose is a pinned page after fork?

fork makes every private page read-only and shared, and the next store makes a copy: for whoever writes first, which
may be the parent. A device that has the parent's page pinned would go on with the old one. So fork copies a page that
looks pinned at once, for the child. It cannot see a pin that the fast path takes while fork goes by; from 5.11 on the
fast path sees the fork instead (write_protect_seq), and gives its pin back.
"""

from mmlitmus.api import (
    FOLL_WRITE,
    Machine,
    Process,
    always,
    case,
    folios_at_rest,
    never,
    pin_is_coherent,
    pte_pfn,
    releases,
    sometimes,
)

RECORDED = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded")
SOURCE = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "source")
APART = ("v5.14", "v5.19", "v6.0")


def written_page(m: Machine) -> tuple[Process, int]:
    """A process with a page of its own."""
    app = m.process("app")
    a = app.mmap_anon(1)
    app.write(a)
    return app, a


def fork_and_write(m: Machine, pinned: bool, release: bool) -> None:
    """One thread gets a page, forks and writes to it; then the child writes, and exits."""
    app, a = written_page(m)
    m.check(lambda: folios_at_rest(m, () if release else ("task",)))

    @m.task
    def task() -> None:
        _, pages = (app.pin if pinned else app.get)(a, 1, FOLL_WRITE)
        (pfn,) = pages.pfns
        if release:
            (app.unpin if pinned else app.put)(pages)
        child = app.fork("child")
        app.write(a)
        for finding in pin_is_coherent(m, app.mm, a, pfn):
            m.require(False, finding.name, finding.message)
        if isinstance(child, Process):
            m.require(pte_pfn(child.pte(a)) != pte_pfn(app.pte(a)), "shared-and-written", "the child sees the store")
            child.write(a)
            child.exit()
            m.reached("the child is gone")


@case(
    "gup/fork",
    control="gup/fork/get",
    scenario="F2",
    reach=("the child is gone", "fork copied a pinned page"),
    expect={**releases("v5.10", "deb-7.3.4", never), **dict.fromkeys(APART, never)},
    evidence=RECORDED,
)
def pin_then_fork(m: Machine) -> None:
    """A page is pinned, then the process forks and writes: does it keep the page that is pinned?"""
    fork_and_write(m, True, False)


@case(
    "gup/fork/get",
    scenario="F2",
    reach=("the child is gone",),
    expect={**releases("v5.10", "deb-7.3.4", always("pin-diverged")), **dict.fromkeys(APART, always("pin-diverged"))},
    evidence=RECORDED,
)
def get_then_fork(m: Machine) -> None:
    """... and if only a reference is held (get_user_pages)?"""
    fork_and_write(m, False, False)


@case(
    "gup/fork/unpinned",
    scenario="F2",
    reach=("the child is gone", "a private page was copied"),
    expect={**releases("v5.10", "deb-7.3.4", always("pin-diverged"))},
    evidence=SOURCE,
)
def unpin_then_fork(m: Machine) -> None:
    """... and if it was unpinned before? (Then nobody minds; the control: fork shares the page.)"""
    fork_and_write(m, True, True)


@case(
    "gup/fork/fast",
    scenario="F1",
    reach=("pinned", "forked"),
    expect={
        "v5.10": sometimes("pinned-page-shared"),
        **releases("deb-5.10.262", "deb-7.3.4", never),
        **dict.fromkeys(APART, never),
        **releases("deb-5.10.262", "deb-7.3.4", sometimes("pinned-page-shared"), "+fork-unseen-by-gup"),
    },
    evidence=SOURCE,
)
def fast_pin_beside_fork(m: Machine) -> None:
    """A page is pinned by the fast path while the process forks: may the child share it?"""
    app, a = written_page(m)
    m.check(lambda: folios_at_rest(m, ("pin",)))

    @m.task
    def pin() -> None:
        got, _ = app.pin(a, 1, FOLL_WRITE, how="fast")
        m.require(got == 1, "pin-failed", f"the pin gives {got}")
        m.reached("pinned")

    @m.task
    def fork() -> None:
        child = app.fork("child")
        if isinstance(child, Process):
            m.reached("forked")

    @m.check
    def shared():
        for mm in m.mms:
            folio = m.pages.get(pte_pfn(m.translation(mm, a)))
            shared = mm is not app.mm and folio is not None and folio.held_by("pins of pin")
            m.require(not shared, "pinned-page-shared", "the child maps the page that is pinned")
        return ()
