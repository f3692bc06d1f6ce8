"""fork of a VMA that has reserved its frames, release by release."""

from __future__ import annotations

import pytest

from mmlitmus.invariants.memtype import memtypes_at_rest
from mmlitmus.kernel.arch.x86.pat import CacheMode, MemtypeOwner, memtype_free, memtype_reserve
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE

from .probed import ANY_PAGE, INHERITS, VM_PAT, designs, entries, everywhere, has_vm_pat, probe_map, run, warned, zap
from .world import INVALID_FREE, PAGE, WALK_FAILED, World, only
from .world import run as run_world


@designs
@pytest.mark.parametrize("first", ["child", "parent"])
def test_fork_of_a_shared_mapping(kernel: str, ctx: bool, first: str) -> None:
    """Up to 6.15 the child reserves for itself; from 6.16 on it shares."""

    def body(w: World) -> None:
        a = probe_map(w)
        child = w.p.fork("child")
        assert entries(w) == ["0-4 WC"] * (1 if ctx else 2)
        assert has_vm_pat(w, a, child) != ctx
        assert child.pte(a) == 0x80000000FD00020F
        order = [child, w.p] if first == "child" else [w.p, child]
        order[0].exit()
        assert entries(w) == ["0-4 WC"]
        order[1].exit()
        assert entries(w) == []

    run(body, kernel)


@designs
def test_fork_after_a_zap(kernel: str, ctx: bool) -> None:
    """Nothing to reserve again: VM_PAT is gone. Recorded: the child has the entries that are left."""

    def body(w: World) -> None:
        a = probe_map(w)
        zap(w, 0, 1)
        child = w.p.fork("child")
        assert entries(w) == (["0-4 WC"] if ctx else [])
        assert (child.pte(a), child.pte(a + PAGE)) == (0, 0x80000000FD00120F)

    run(body, kernel, finds=() if ctx else ["untracked-live", "memtype-alias", *warned(kernel)])


@designs
def test_fork_after_a_private_copy(kernel: str, ctx: bool) -> None:
    """Recorded on 5.10, 6.1, 6.12: ENOMEM, and on 5.10 (which inherits) the parent's entry is gone; 7.3 forks.

    Where the walk takes any page (no distribution's kernel) the child reserves nothing, for the copy is RAM, and
    whoever goes gives back nothing either.
    """
    release = kernel.split()[0]
    fails = not ctx and release not in ANY_PAGE

    def body(w: World) -> None:
        a = probe_map(w, flags=MAP_PRIVATE)
        assert w.p.write(a) == 0
        child = w.p.fork("child")
        assert (child == -ENOMEM) == fails
        lost = fails and release in INHERITS
        assert entries(w) == ([] if lost else ["0-4 WC"])
        if not fails:
            child.exit()
        w.p.exit()
        assert entries(w) == (["0-4 WC"] if release in ANY_PAGE and not ctx else [])

    if ctx:
        finds: list[str] = []
    elif not fails:
        finds = ["memtype-leak", "ram-type-changed"]
    elif release in INHERITS:
        finds = ["memtype-double-free", "memtype-steal", INVALID_FREE]
    else:
        finds = []
    run(body, kernel, finds=finds)


@designs
def test_fork_is_strict(kernel: str, ctx: bool) -> None:
    """The child wants the type that the first entry has, and no other: somebody who has freed and reserved anew makes
    fork fail. (From 6.16 on nobody asks.)
    """
    inherits = kernel in INHERITS
    resv = 0x10000 * PAGE

    def body(w: World) -> None:
        a = w.p.mmap(w.probe.file("remap", "", "reserved"), 2)
        assert entries(w, resv) == ["0-2 WB"]
        memtype_free(w.m, resv, resv + 2 * PAGE, w.vma(a).peek("memtype_owner"))
        owner = MemtypeOwner("driver")
        memtype_reserve(w.m, resv, resv + 2 * PAGE, CacheMode.WC, True, owner)
        child = w.p.fork("child")
        assert (child == -ENOMEM) != ctx
        assert entries(w, resv) == ["0-2 WC"]

    finds = ["memtype-alias"] if ctx else ["memtype-alias", "expected-mapping-type"]
    run(body, kernel, finds=[*finds, *(["untrack-walk-failed"] if inherits else [])])


@everywhere
def test_fork_without_memory_keeps_the_parents_reservation(kernel: str) -> None:
    """Two tables, every allocation failing once.

    A child that inherits VM_PAT, has reserved and of whose pages none was copied looks for its frames in vain: its
    reservation stays behind.
    """
    left: set[tuple[str, ...]] = set()

    def body(w: World) -> None:
        child = w.p.fork("child")
        if isinstance(child, int):
            assert child == -ENOMEM
        else:
            child.exit()
            assert entries(w) == ["0-2 WC"]
        w.p.exit()
        left.add(tuple(entries(w)))

    def before(w: World) -> None:
        w.probe = open_probe(w.m)
        w.m.check(lambda: memtypes_at_rest(w.m))
        probe_map(w, 2, at=w(511))

    finds = only(kernel, INHERITS, WALK_FAILED, "memtype-leak")
    run_world(body, kernel, before=before, once=False, failures=1, finds=finds)
    assert left == ({(), ("0-2 WC",)} if kernel in INHERITS else {()})


@pytest.mark.parametrize("kernel", [k for k in VM_PAT if k not in ANY_PAGE])
def test_a_child_that_inherits_may_give_the_parents_reservation_back(kernel: str) -> None:
    """A private mapping of which nothing was copied: no memory for the child's own reservation, and then it untracks
    by vm_pgoff. Fixed by clearing VM_PAT first (6.15 and LTS).
    """
    lost: set[bool] = set()

    def body(w: World) -> None:
        if w.p.fork("child") == -ENOMEM:
            lost.add(entries(w) == [])

    def before(w: World) -> None:
        w.probe = open_probe(w.m)
        probe_map(w, 2, flags=MAP_PRIVATE)

    inherits = kernel in INHERITS
    run_world(
        body, kernel, before=before, once=False, failures=1,
        finds=["memtype-double-free", "memtype-steal"] if inherits else [],
    )  # fmt: skip
    assert lost == ({True, False} if inherits else {False})
