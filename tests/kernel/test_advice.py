"""madvise of memory of the process's own, mlock2, mlockall, msync and mincore."""

from __future__ import annotations

import pytest

from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.pgtable import ACCESSED, DIRTY, DIRTY_BITS, SOFT_DIRTY
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.errno import EACCES, EAGAIN, EBUSY, EINVAL, ENODEV, ENOMEM, EPERM
from mmlitmus.kernel.mm import madvise, mlock, mmap, msync

from .world import ERAS, NEW, OLD, PAGE, World, run

both = pytest.mark.parametrize("kernel", [OLD, NEW])
everywhere = pytest.mark.parametrize("kernel", ERAS)
#: advice that every kernel takes of memory of the process's own (asked of 5.10.262, 6.12.117 and 7.3.4)
TAKEN = [0, 1, 2, 3, 4, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]
AGES = tuple(k for k in ERAS if k in ("v5.10", "deb-5.10.262", "v6.1", "deb-6.1.192", "v6.6"))
GUARDS = ERAS[ERAS.index("v6.16") :]


@everywhere
def test_every_advice(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        assert [w.p.madvise(a, 1, one) for one in TAKEN] == [0] * len(TAKEN)
        assert w.p.madvise(a, 1, madvise.MADV_REMOVE) == -EINVAL
        assert w.p.madvise(a, 1, madvise.MADV_COLLAPSE) == -EINVAL
        assert w.p.madvise(a, 1, 99) == -EINVAL

    run(body, kernel)


@everywhere
def test_of_a_device(kernel: str) -> None:
    def body(w: World) -> None:
        bar = w.bar(1)
        for one in (madvise.MADV_FREE, madvise.MADV_COLD, madvise.MADV_PAGEOUT, madvise.MADV_WIPEONFORK):
            assert w.p.madvise(bar, 1, one) == -EINVAL
        for one in (madvise.MADV_GUARD_INSTALL, madvise.MADV_GUARD_REMOVE):
            assert w.p.madvise(bar, 1, one) == -EINVAL
        assert w.p.madvise(bar, 1, madvise.MADV_REMOVE) == -ENODEV
        assert w.p.madvise(bar, 1, madvise.MADV_MERGEABLE) == 0
        assert "mg" not in w.p.vm_flags(bar)
        private = w.p.mmap(open_probe(w.m).file("mixed"), 1, at="b", flags=mmap.MAP_PRIVATE)
        assert w.p.madvise(private, 1, madvise.MADV_REMOVE) == -EACCES

    run(body, kernel)


@everywhere
@pytest.mark.parametrize("advice", [madvise.MADV_FREE, madvise.MADV_COLD, madvise.MADV_PAGEOUT])
def test_entries(kernel: str, advice: int) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        w.p.write(a)
        w.p.read(w(1))
        before = w.p.pte(w(1))
        assert w.p.pte(a) & (ACCESSED | DIRTY) == ACCESSED | DIRTY
        assert w.p.madvise(a, 2, advice) == 0
        kept = {
            madvise.MADV_FREE: 0,
            madvise.MADV_COLD: DIRTY,
            madvise.MADV_PAGEOUT: DIRTY if kernel in AGES else ACCESSED | DIRTY,
        }[advice]
        assert w.p.pte(a) & (ACCESSED | DIRTY) == kept
        assert w.p.pte(a) & SOFT_DIRTY
        assert w.p.pte(w(1)) == before  # the zero page is nobody's
        assert w.p.write(a) == 0
        assert w.p.pte(a) & (ACCESSED | DIRTY) == ACCESSED | DIRTY  # the CPU had cached nothing of it

    run(body, kernel)


@everywhere
def test_shared_pages_stay_young(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        w.p.write(a)
        child = w.p.fork("child")
        assert not isinstance(child, int)
        assert w.p.madvise(a, 1, madvise.MADV_COLD) == 0
        assert w.p.pte(a) & ACCESSED
        assert w.p.madvise(a, 1, madvise.MADV_FREE) == 0
        assert not w.p.pte(a) & ACCESSED
        assert child.pte(a) & DIRTY_BITS

    run(body, kernel)


@everywhere
def test_wipe_on_fork(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        w.p.write(a)
        w.p.write(w(1))
        assert w.p.madvise(a, 1, madvise.MADV_WIPEONFORK) == 0
        assert "wf" in w.p.vm_flags(a)
        child = w.p.fork("child")
        assert not isinstance(child, int)
        assert w.populated(child) == "a1"
        assert child.write(a) == 0
        assert child.pte(a) >> 12 != w.p.pte(a) >> 12
        assert "wf" in child.vm_flags(a)
        assert w.p.madvise(a, 1, madvise.MADV_KEEPONFORK) == 0
        again = w.p.fork("again")
        assert not isinstance(again, int)
        assert w.populated(again) == "a0 a1"
        again.exit()
        child.exit()

    run(body, kernel)


@everywhere
def test_ksm_marks(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        assert w.p.madvise(a, 1, madvise.MADV_MERGEABLE) == 0
        assert "mg" in w.p.vm_flags(a).split()
        assert w.p.madvise(a, 1, madvise.MADV_UNMERGEABLE) == 0
        assert "mg" not in w.p.vm_flags(a).split()

    run(body, kernel)


@everywhere
def test_guard_regions_are_not_modelled(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1)
        assert w.p.madvise(a, 1, madvise.MADV_GUARD_INSTALL) == -EINVAL

    run(body, kernel, finds=["not modelled: guard regions"] if kernel in GUARDS else [])


def onfault_word(kernel: str) -> str:
    """What smaps says of VM_LOCKONFAULT: up to 6.1 it has no letters for it."""
    return "??" if eras.kernel(kernel).choices["show_smap_vma_flags"] == "nameless" else "lf"


@everywhere
def test_mlock2(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        assert w.p.mlock(a, 2, 2) == -EINVAL
        assert w.p.mlock(a, 2, mlock.MLOCK_ONFAULT) == 0
        assert "lo" in w.p.vm_flags(a).split()
        assert onfault_word(kernel) in w.p.vm_flags(a).split()
        assert w.p.locked() == 2
        assert w.populated() == ""
        assert w.p.mlock(a, 1) == 0
        assert w.p.locked() == 2  # once
        assert w.populated() == "a0"
        assert onfault_word(kernel) not in w.p.vm_flags(a).split()
        assert w.p.munlock(a, 2) == 0
        assert w.p.locked() == 0
        assert onfault_word(kernel) not in w.p.vm_flags(w(1)).split()

    run(body, kernel)


@everywhere
def test_mlockall(kernel: str) -> None:
    current, future, onfault = mlock.MCL_CURRENT, mlock.MCL_FUTURE, mlock.MCL_ONFAULT

    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        bar = w.bar(1, at="c")
        for bad in (0, onfault, 8):
            assert w.p.mlockall(bad) == -EINVAL
        assert w.p.mlockall(current) == 0
        assert w.populated() == "a0 a1"
        assert w.p.locked() == 2  # a device's is not locked
        assert "lo" not in w.p.vm_flags(bar).split()
        b = w.p.mmap_anon(1, at="b")
        assert "lo" not in w.p.vm_flags(b).split()
        assert w.p.mlockall(future) == 0
        d = w.p.mmap_anon(1, at="d")
        assert w.populated() == "a0 a1 d0"
        assert w.p.locked() == 3
        assert w.p.mlockall(current | future | onfault) == 0
        e = w.p.mmap_anon(1, at="e")
        assert onfault_word(kernel) in w.p.vm_flags(e).split()
        assert onfault_word(kernel) in w.p.vm_flags(a).split()
        assert w.populated() == "a0 a1 d0"
        assert w.p.locked() == 5
        w.p.limit_locked(5)
        assert w.p.mmap_anon(1, at="f") == -EAGAIN
        assert w.p.mlockall(current) == -ENOMEM  # six pages are mapped
        assert w.p.munlockall() == 0
        assert w.p.locked() == 0
        assert w.p.mmap_anon(1, at="f") > 0
        assert w.p.locked() == 0
        assert "lo" not in w.p.vm_flags(d).split()
        w.p.limit_locked(0)
        assert w.p.mlockall(current) == -EPERM

    run(body, kernel)


@both
def test_map_populate(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap_anon(2, flags=mmap.MAP_PRIVATE | mmap.MAP_POPULATE)
        w.p.mmap_anon(1, at="b", flags=mmap.MAP_PRIVATE | mmap.MAP_POPULATE | mmap.MAP_NONBLOCK)
        assert w.populated() == "a0 a1"

    run(body, kernel)


@both
def test_mmap_flags(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(1, flags=mmap.MAP_PRIVATE | mmap.MAP_NORESERVE)
        assert "nr" in w.p.vm_flags(a).split()
        assert "ac" not in w.p.vm_flags(a).split()
        grows, huge = mmap.MAP_SHARED | mmap.MAP_GROWSDOWN, mmap.MAP_SHARED | mmap.MAP_HUGETLB
        sync = mmap.MAP_SHARED_VALIDATE | mmap.MAP_SYNC
        assert w.p.mmap(w.dev.file, 1, at="b", flags=grows) == -EINVAL
        assert w.p.mmap(w.dev.file, 1, at="b", flags=huge) == -EINVAL
        assert w.p.mmap(w.dev.file, 1, at="b", flags=sync) == -95
        assert w.p.mmap(w.dev.file, 1, at="b", flags=mmap.MAP_SHARED | mmap.MAP_SYNC) == w(0, "b")
        assert w.p.mmap(w.dev.file, 1, at="c", flags=mmap.MAP_SHARED_VALIDATE) == w(0, "c")
        assert w.p.mmap_anon(1, at="d", flags=mmap.MAP_SHARED_VALIDATE) == -EINVAL
        assert w.p.mprotect(a, 1, mmap.PROT_READ | 8) == 0  # PROT_SEM
        assert w.p.mprotect(a, 1, 0x0100_0000) == -EINVAL
        assert w.p.clear_refs(5) == 0
        assert w.p.clear_refs(6) == -EINVAL

    run(body, kernel)


@everywhere
def test_msync(kernel: str) -> None:
    sync, now, gone = msync.MS_SYNC, msync.MS_ASYNC, msync.MS_INVALIDATE

    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        b = w.bar(1, at="b")
        assert w.p.msync(a, 2, sync) == 0
        assert w.p.msync(a, 3, sync) == -ENOMEM
        assert w.p.msync(a + 1, 1, sync) == -EINVAL
        assert w.p.msync(a, 1, sync | now) == -EINVAL
        assert w.p.msync(a, 1, 8) == -EINVAL
        assert w.p.msync(a, 0, sync) == 0
        assert w.p.msync(b, 1, sync) == -EINVAL  # the device file has no ->fsync
        assert w.p.msync(b, 1, now) == 0
        assert w.p.mlock(a, 1) == 0
        assert w.p.msync(a, 1, gone) == -EBUSY

    run(body, kernel)


@everywhere
def test_mincore(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(3)
        w.p.write(a)
        w.p.read(w(1))
        assert w.p.mincore(a, 3) == (0, [True, True, False])
        assert w.p.mincore(a, 4) == (-ENOMEM, [True, True, False])
        assert w.p.mincore(a + PAGE // 2, 1) == (-EINVAL, [])
        assert w.p.mincore(a, 1 << 40) == (-ENOMEM, [])
        b = w.bar(2, at="b")
        w.p.read(b)
        walked = kernel in ("v7.3", "deb-7.3.4")
        assert w.p.mincore(b, 2) == (0, [True, False] if walked and "b1" not in w.populated() else [walked] * 2)
        c = w.p.mmap(open_probe(w.m).file("mixed"), 2, at="c")
        w.p.read(c)
        assert w.p.mincore(c, 2) == (0, [True, False])

    run(body, kernel)


@everywhere
def test_copies_may_stay(kernel: str) -> None:
    """unmap_mapping_range without even_cows, as truncation of a file begins."""

    def body(w: World) -> None:
        probe = open_probe(w.m)
        a = w.p.mmap(probe.file("mixed"), 3, at="a", flags=mmap.MAP_PRIVATE)
        w.p.write(a)
        w.p.read(w(1))
        copy = w.p.pte(a)
        probe.unmap_mapping_range(0, 3, even_cows=False)
        assert w.populated() == "a0"
        assert w.p.pte(a) == copy
        probe.unmap_mapping_range(0, 3)
        assert w.populated() == ""

    run(body, kernel)


@everywhere
def test_direct_io_of_a_part(kernel: str) -> None:
    def body(w: World) -> None:
        a = w.p.mmap_anon(2)
        assert w.p.o_direct(a + 512, 1, True, 512) == 512
        assert w.populated() == "a0"
        assert w.p.o_direct(a + PAGE - 512, 1, True, 1024) == 1024
        assert w.populated() == "a0 a1"
        assert w.p.o_direct(w(1) + 512, 1, True, PAGE) == PAGE - 512  # the next page is not mapped
        assert w.p.o_direct(a, 1, True, 100) == -EINVAL
        assert w.p.o_direct(a, 2, True) == 2 * PAGE

    run(body, kernel)
