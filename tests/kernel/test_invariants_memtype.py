"""What must hold of memory types: each invariant is broken by a kernel that is, and silent on one that is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmlitmus.explore.findings import Finding
from mmlitmus.explore.state import touch
from mmlitmus.invariants.memtype import leaks, live_findings, memtypes_at_rest, memtypes_now, translations
from mmlitmus.kernel.arch.x86.ioremap import ioremap, ioremap_wc, iounmap
from mmlitmus.kernel.arch.x86.pat import CacheMode, MemtypeOwner, memtype_free, memtype_reserve
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, open_probe
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE
from mmlitmus.kernel.mm.pfnmap_track import TrackCtx, VmPat, untrack_pfn

from .probed import BAR, probe_map, run, zap
from .world import INVALID_FREE, PAGE, WALK_FAILED, World, found, search

PATCHED = "v6.12 +untrack-in-unmap-vmas"
#: reservations that are shared by VMAs and given back by the last
SOUND = ("v6.16", "v6.18", "v6.12 +pfnmap-track-ctx")


# -- what is done -----------------------------------------------------------------------------------------------------
def zap_and_unmap(w: World) -> None:
    a = probe_map(w)
    zap(w, 0, 4)
    w.p.munmap(a, 4)


def zap_one(w: World) -> None:
    probe_map(w)
    zap(w, 0, 1)


def cut_the_head(w: World) -> None:
    probe_map(w)
    w.p.munmap(w(0), 1)
    w.p.munmap(w(1), 3)


def owned_elsewhere(w: World) -> None:
    """Somebody else has reserved the frames that page 0 leads to after a refault."""
    memtype_reserve(w.m, BAR + 8 * PAGE, BAR + 12 * PAGE, CacheMode.WC, True, MemtypeOwner("driver"))
    a = probe_map(w, insert="remap_refill")
    zap(w, 0, 4)
    w.probe.move(8)
    w.p.read(a)
    w.p.munmap(a, 4)


def fork_after_a_copy(w: World) -> None:
    w.p.write(probe_map(w, flags=MAP_PRIVATE))
    w.p.fork("child")


def remap_meanwhile(w: World) -> None:
    """Page 0 of a WC mapping is zapped, and another mapping asks for the same frames without a type."""
    probe_map(w)
    zap(w, 0, 1)
    probe_map(w, at="b", cache="")


def just_unmap(w: World) -> None:
    w.p.munmap(probe_map(w), 4)


Broken = tuple[str, Callable[[World], None], list[str]]
#: a kernel as it was or was proposed, what is done on it, and all that is found
REAL: dict[str, list[Broken]] = {
    "memtype-leak": [
        (PATCHED, zap_and_unmap, [WALK_FAILED, "memtype-leak"]),
        ("v6.12", cut_the_head, [INVALID_FREE, "memtype-leak"]),
    ],
    "memtype-steal": [
        (PATCHED, owned_elsewhere, ["memtype-steal", "memtype-double-free", "memtype-leak"]),
        ("v6.12", fork_after_a_copy, ["memtype-steal", "memtype-double-free", "untracked-live", "memtype-alias"]),
    ],
    "memtype-double-free": [
        (PATCHED, owned_elsewhere, ["memtype-steal", "memtype-double-free", "memtype-leak"]),
    ],
    "untracked-live": [
        ("v6.1", zap_one, ["untracked-live", "memtype-alias"]),
        ("v6.12", zap_one, ["untracked-live", "memtype-alias"]),
    ],
    "memtype-alias": [
        ("v6.12", remap_meanwhile, ["memtype-alias"]),
        ("v6.12", zap_one, ["untracked-live", "memtype-alias"]),
    ],
}
CASES = [(name, *broken) for name, all_of_it in REAL.items() for broken in all_of_it]


@pytest.mark.parametrize(("name", "kernel", "body", "finds"), CASES)
def test_a_broken_kernel_trips_it(name: str, kernel: str, body: Callable[[World], None], finds: list[str]) -> None:
    ran = run(body, kernel, finds=finds)
    assert name in ran.names
    assert {f.kind for f in ran.findings if f.name == name} == {"invariant"}


@pytest.mark.parametrize("kernel", SOUND)
@pytest.mark.parametrize("body", sorted({c[2] for c in CASES}, key=lambda f: f.__name__))
def test_a_sound_kernel_is_silent(kernel: str, body: Callable[[World], None]) -> None:
    assert run(body, kernel).findings == []


# -- kernels that nobody ever had -------------------------------------------------------------------------------------
def never_untrack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VmPat, "unmapping", staticmethod(lambda vma, site, locked: None))


def untrack_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmlitmus.kernel.arch.x86 import pat

    def unmapping(vma: Any, site: str, locked: bool) -> None:
        if site == "unmap_single_vma":
            size = vma.vm_end - vma.vm_start
            pat.free_pfn_range(vma.vm_mm.machine, BAR, size, vma.memtype_owner)
            untrack_pfn(vma, 0, 0, locked)

    monkeypatch.setattr(VmPat, "unmapping", staticmethod(unmapping))


def never_put(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrackCtx, "area_free", staticmethod(lambda vma: None))


def dup_without_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def dup(orig: Any, new: Any) -> int:
        new.pfnmap_track_ctx = orig.pfnmap_track_ctx
        return 0

    monkeypatch.setattr(TrackCtx, "dup", staticmethod(dup))


def split_and_unmap_half(w: World) -> None:
    probe_map(w)
    w.p.munmap(w(0), 2)


@pytest.mark.parametrize(
    ("kernel", "break_it", "body", "finds"),
    [
        ("v6.12", never_untrack, just_unmap, ["memtype-leak"]),
        ("v6.12", untrack_twice, just_unmap, ["memtype-double-free", INVALID_FREE]),
        ("v6.16", never_put, just_unmap, ["memtype-leak"]),
        ("v6.16", dup_without_a_reference, split_and_unmap_half, ["untracked-live", "memtype-alias"]),
    ],
)
def test_a_made_up_kernel_trips_it(
    kernel: str, break_it: Any, body: Any, finds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(body, kernel).findings == []
    break_it(monkeypatch)
    run(body, kernel, finds=finds)


# -- at a point, and at rest ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kernel", "finds"), [("v6.12", ["untracked-live", "memtype-alias"]), ("v6.16", [])])
def test_at_a_point(kernel: str, finds: list[str]) -> None:
    """What is over when everything has come to rest is seen only by who asks in between."""

    def quiet(w: World) -> None:
        a = probe_map(w)
        zap(w, 0, 1)
        w.p.munmap(a, 4)

    def asking(w: World) -> None:
        a = probe_map(w)
        memtypes_now(w.m)
        zap(w, 0, 1)
        memtypes_now(w.m)
        w.p.munmap(a, 4)
        memtypes_now(w.m)

    run(quiet, kernel)
    run(asking, kernel, finds=finds)


def test_at_a_point_under_the_search() -> None:
    """The question conflicts with what it looks at: every place of it in a zap is tried."""

    def build(w: World) -> None:
        w.probe = open_probe(w.m)
        a = w.p.mmap(w.probe.file("remap", "wc"), 2)
        w.m.process("q")

        @w.m.task
        def unmap() -> None:
            w.p.munmap(a, 2)

        @w.m.task
        def ask() -> None:
            memtypes_now(w.m)

    assert found(search(build, "v6.12")) == {"memtype-alias"}  # the reservation goes before the entries do
    assert found(search(build, "v6.16")) == set()


@pytest.mark.parametrize("kernel", ["v6.12", "v6.16"])
def test_what_is_not_reserved_need_not_be(kernel: str) -> None:
    """Inserted pages, RAM, private copies: no findings."""

    def body(w: World) -> None:
        w.p.read(probe_map(w, insert="fault_pfn"))
        w.p.mmap(w.probe.file("remap", "", "ram"), 2, at="b")
        c = w.p.mmap(w.probe.file("remap", "", "reserved"), 2, at="c", flags=MAP_PRIVATE)
        w.p.write(c)
        memtypes_now(w.m)

    run(body, kernel)


# -- what is looked at ------------------------------------------------------------------------------------------------
def names(findings: Any) -> list[str]:
    listed: list[Finding] = list(findings)
    return sorted(f.name for f in listed)


def test_a_kernel_mapping_and_a_user_one() -> None:
    """The kernel's own mapping counts: a driver that frees under it, and somebody who maps anew with another type."""

    def body(w: World) -> None:
        barmap = ioremap_wc(w.m, BAR, 4 * PAGE)
        assert barmap is not None
        memtypes_now(w.m)
        memtype_free(w.m, BAR, BAR + 4 * PAGE, barmap.owner)
        probe_map(w, cache="")
        assert names(live_findings(w.m)) == ["memtype-alias"] * 5  # against the tree, and against each page
        assert [t.pages for t in translations(w.m)] == [1, 1, 1, 1, 4]

    run(body, "v6.16", finds=["memtype-alias"])


def test_a_translation_that_only_a_cpu_has() -> None:
    """Zapped without a flush, reserved anew with another type: the TLB still says WC."""

    def body(w: World) -> None:
        w.p.read(probe_map(w, 1, insert="fault_pfn", cache="wc"))
        table = next(iter(w.p.mm.pgd.values()))
        table.put(w(0), 0)
        assert [t.where for t in translations(w.m)] == ["task's TLB, p:a0,"]
        memtypes_now(w.m)
        memtype_reserve(w.m, BAR, BAR + PAGE, CacheMode.WC, True, MemtypeOwner("driver"))
        memtypes_now(w.m)

    run(body, "v6.16", finds=["memtype-alias"])


def test_a_1g_leaf_of_the_wrong_type() -> None:
    giant = 1 << 18

    def build(w: World) -> None:
        w.probe = open_probe(w.m, pages=giant, pfn=4 * giant)
        a = w.p.mmap(w.probe.file("huge", "wc"), giant, at=0x7F80_0000_0000)

        @w.m.task
        def touch() -> None:
            w.p.read(a)

        w.m.check(lambda: memtypes_at_rest(w.m))

    assert found(search(build, "v6.16")) == {"memtype-alias"}
    assert found(search(build, "v6.18")) == set()


def test_leaks_count() -> None:
    """Two owners and three entries: one too many; an owner who lives and one who is gone."""

    def body(w: World) -> None:
        one, two = ioremap(w.m, BAR, 2 * PAGE), ioremap(w.m, BAR + PAGE, 2 * PAGE)
        assert one is not None
        assert two is not None
        db = w.m.memtypes
        assert names(leaks(w.m)) == []
        tree = db.peek("tree")
        touch(db.oid("tree"))
        db.tree = tree.insert(BAR, BAR + PAGE, CacheMode.UC_MINUS)
        assert db.unclaimed() == [(BAR, BAR + PAGE)]
        assert names(leaks(w.m)) == ["memtype-leak"]
        touch(db.oid("tree"))
        db.tree = tree
        iounmap(w.m, one)
        iounmap(w.m, two)
        assert db.entries() == []
        a = probe_map(w)
        lineage = w.vma(a).peek("memtype_owner")
        assert db.claims_of(lineage)
        assert names(leaks(w.m)) == []
        w.p.munmap(a, 4)
        assert db.ever_claimed(lineage, BAR_PFN)
        assert not db.claims_of(lineage)

    run(body, "v6.16")


# -- lost updates of vm_flags -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kernel", "lost"),
    [("v6.1", True), ("v6.12", True), ("v6.12 +untrack-in-unmap-vmas", False), ("v6.16", False)],
)
@pytest.mark.parametrize("writer", ["mprotect", "mlock", "madvise"])
def test_a_zap_against_a_writer_of_vm_flags(kernel: str, lost: bool, writer: str) -> None:
    """A zap through the reverse map clears VM_PAT without mmap_lock: one of the two updates may be lost.

    mlock does nothing to a VMA of this kind, and loses nothing.
    """

    def build(w: World) -> None:
        w.probe = open_probe(w.m)
        a = w.p.mmap(w.probe.file("remap"), 1)

        @w.m.task
        def write() -> None:
            if writer == "mprotect":
                w.p.mprotect(a, 1, 1)
            elif writer == "mlock":
                w.p.mlock(a, 1)
            else:
                w.p.madvise(a, 1, 1)

        @w.m.task
        def zap_page() -> None:
            w.probe.unmap_mapping_range(0, 1)

    names = found(search(build, kernel))
    assert ("lost-flags-update" in names) == (lost and writer != "mlock")
