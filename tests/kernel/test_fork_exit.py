"""fork: what the child gets, in what order, and what is left when somebody exits."""

from __future__ import annotations

import pytest

from mmlitmus.kernel.arch.x86.pgtable import NONE, pmd_offset
from mmlitmus.kernel.errno import ENOMEM
from mmlitmus.kernel.mm.madvise import MADV_DONTFORK
from mmlitmus.kernel.mm.memory import remap_pfn_range
from mmlitmus.kernel.mm.mm_types import VM_LOCKED
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, mmget_not_zero, mmput
from mmlitmus.kernel.mm.vma_flags import vm_flags_set

from .world import ERAS, NEW, OLD, PAGE, REMAP_IN_FAULT, WALK_FAILED, World, found, only, run, search

both = pytest.mark.parametrize("kernel", [OLD, NEW])
everywhere = pytest.mark.parametrize("kernel", ERAS)

#: ->open zaps the child's VMA while it is empty and has inherited VM_PAT
ZAPS_AN_EMPTY_CHILD = ("v6.9",)
#: 5.8's ->open empties the copy after it was made; where it comes before, or does nothing, the child keeps it
CHILD_KEEPS = {"deb-6.1.192", *ERAS[ERAS.index("v6.9") :]}


@everywhere
def test_the_childs_entries(kernel: str) -> None:
    """237 -> 217: the child's copy is old and clean, the parent's stays."""

    def body(w: World) -> None:
        bar = w.bar(2)
        w.p.read(bar)
        w.p.write(bar + PAGE)
        parent = [w.p.pte(w(n)) for n in range(2)]
        assert parent == [0x80000000FEA00237, 0x80000000FEA01277]
        child = w.p.fork("child")
        assert [w.p.pte(w(n)) for n in range(2)] == parent
        copy = [child.pte(w(n)) for n in range(2)]
        assert copy == ([0x80000000FEA00217, 0x80000000FEA01217] if kernel in CHILD_KEEPS else [0, 0])
        assert child.read(bar) == 0x010000ED
        assert child.pte(bar) == 0x80000000FEA00237

    run(body, kernel, finds=only(kernel, ZAPS_AN_EMPTY_CHILD, WALK_FAILED))


@both
def test_soft_dirty_and_read_only_are_inherited(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 1)
        vma = w.vma(w(0))
        mm_write(w)
        assert remap_pfn_range(vma, w(0), 0x100, PAGE, vma.vm_page_prot) == 0
        mm_unlock(w)
        w.p.mremap(w(0), 1, 1, to="b")
        assert w.p.pte(w(0, "b")) & 0xFFF == 0xA27
        child = w.p.fork("child")
        assert child.pte(w(0, "b")) & 0xFFF == 0xA07
        w.p.mprotect(w(0, "b"), 1, 1)
        assert w.p.fork("second").pte(w(0, "b")) & 0xFFF == 0xA05

    run(body, kernel)


def mm_write(w: World) -> None:
    from mmlitmus.kernel.mm.mmap_lock import mmap_write_lock

    mmap_write_lock(w.p.mm)


def mm_unlock(w: World) -> None:
    from mmlitmus.kernel.mm.mmap_lock import mmap_write_unlock

    mmap_write_unlock(w.p.mm)


@pytest.mark.parametrize(("kernel", "dirty"), [("v6.1", 0x40), ("v6.12", 1 << 58)])
def test_a_private_mapping_is_write_protected_on_both_sides(kernel: str, dirty: int) -> None:
    """Dirty stays with a private entry (in the software bit, from 6.6 on)."""

    def body(w: World) -> None:
        def populate(vma: object) -> int:
            return remap_pfn_range(vma, w(0), w.frame(), PAGE, vma.vm_page_prot | 2 | 0x40)  # type: ignore[attr-defined, arg-type]

        w.char.on_mmap = populate
        assert w.p.mmap(w.char.file, 1, flags=MAP_PRIVATE) == w(0)
        assert w.p.pte(w(0)) & 0xFFF == 0x277  # UC-: the BAR is no RAM, and what MTRRs make of write-back there
        child = w.p.fork("child")
        assert w.p.pte(w(0)) & (0xFFF | 1 << 58) == 0x235 | dirty
        assert child.pte(w(0)) & (0xFFF | 1 << 58) == 0x215 | dirty

    run(body, kernel)


@everywhere
def test_absent_pages_stay_absent(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 4)
        vma = w.vma(w(0))
        mm_write(w)
        remap_pfn_range(vma, w(1), 0x100, PAGE, vma.vm_page_prot)
        mm_unlock(w)
        child = w.p.fork("child")
        assert w.populated(child) == "a1"
        assert w.layout(child) == "a0-a4@0"

    run(body, kernel)


@everywhere
def test_what_faults_can_fill_gets_no_page_table(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.dev.file, 1)  # its page table is there for what follows, too
        w.p.read(w(0))
        assert not w.p.madvise(w(0), 1, MADV_DONTFORK)
        w.char.flags = 0
        w.p.mmap(w.char.file, 2, at=w(1))
        child = w.p.fork("child")
        assert w.layout(child) == "a1-a3@0"
        assert pmd_offset(child.mm, w(1)).entry == NONE != pmd_offset(w.p.mm, w(1)).entry

    run(body, kernel)


@both
def test_a_locked_vma_is_not_locked_in_the_child(kernel: str) -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, 1)
        mm_write(w)
        vm_flags_set(w.vma(w(0)), VM_LOCKED)
        mm_unlock(w)
        child = w.p.fork("child")
        assert not w.vma(w(0), child).peek("vm_flags") & VM_LOCKED
        assert w.vma(w(0)).peek("vm_flags") & VM_LOCKED

    run(body, kernel)


@everywhere
def test_order_of_open_link_and_copy(kernel: str) -> None:
    """Up to 6.8 ->open sees the copied entries in a linked VMA; from 6.9 on neither."""

    def body(w: World) -> None:
        w.p.mmap(w.char.file, 1)
        vma = w.vma(w(0))
        mm_write(w)
        remap_pfn_range(vma, w(0), 0x100, PAGE, vma.vm_page_prot)
        mm_unlock(w)
        seen = []

        def opened(child: object) -> None:
            entry = w.m.translation(child.vm_mm, w(0))  # type: ignore[attr-defined]
            seen.append((bool(entry), child in w.char.mapping.i_mmap.items, child in child.vm_mm.peek("mm_mt")))  # type: ignore[attr-defined]

        w.char.open = opened  # type: ignore[method-assign, assignment]
        child = w.p.fork("child")
        late = w.m.kernel.choices["dup_mmap"] == "open-after-copy"
        assert seen == [(late, late, True)]
        assert [v.vm_mm.name for v in w.char.mapping.i_mmap.items] == ["p", "child"]
        assert w.populated(child) == "a0"

    run(body, kernel)


def test_the_child_is_linked_behind_its_parent() -> None:
    """Directly behind, and not behind every VMA of the same offset."""

    def body(w: World) -> None:
        w.bar(1, at="a")
        w.bar(1, at="b")
        child = w.p.fork("child")
        order = [(v.vm_mm.name, w.m.page_label(v.peek("vm_start"))) for v in w.dev.mapping.i_mmap.items]
        assert order == [("p", "a0"), ("child", "a0"), ("p", "b0"), ("child", "b0")]
        child.exit()
        assert len(w.dev.mapping.i_mmap.items) == 2

    run(body)


@everywhere
def test_fork_without_memory(kernel: str) -> None:
    """ENOMEM, and nothing of the child is left.

    Where VM_PAT is inherited, the child of a failed copy untracks by a first page that was never copied.
    """

    def body(w: World) -> None:
        child = w.p.fork("child")
        if isinstance(child, int):
            assert child == -ENOMEM
            assert len(w.dev.mapping.i_mmap.items) == 2
            assert list(w.m.translations(w.m.mms[-1])) == []
            assert w.m.mms[-1].peek("mm_mt") == ()
        assert w.populated() == "a0 b0"

    def before(w: World) -> None:
        w.bar(1, at="a", touch=True)
        w.bar(1, at="b", touch=True)

    inherits = [k for k in REMAP_IN_FAULT if k != "deb-6.1.192"]
    run(body, kernel, before=before, once=False, failures=1, finds=only(kernel, inherits, WALK_FAILED))


@everywhere
def test_exit_of_the_child_leaves_the_parent(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(2, touch=True)
        child = w.p.fork("child")
        child.read(w(0))
        child.exit()
        assert w.populated(child) == ""
        assert w.populated() == "a0 a1"
        w.dev.write_command(memory=False)
        assert w.populated() == ""

    run(body, kernel, finds=only(kernel, ZAPS_AN_EMPTY_CHILD, WALK_FAILED))


@both
def test_the_last_user_tears_the_mm_down(kernel: str) -> None:
    def body(w: World) -> None:
        w.bar(1, touch=True)
        assert mmget_not_zero(w.p.mm)
        w.p.exit()
        assert w.layout() == "a0-a1@0"
        mmput(w.p.mm)
        assert w.layout() == ""
        assert not mmget_not_zero(w.p.mm)

    run(body, kernel)


def test_mmget_against_exit() -> None:
    """Whoever got a reference keeps the mm; whoever came late gets none."""

    def build(w: World) -> None:
        w.bar(1, touch=True)

        @w.m.task
        def leave() -> None:
            w.p.exit()

        @w.m.task
        def use() -> None:
            if mmget_not_zero(w.p.mm):
                w.m.reached("got it")
                w.m.require(bool(w.p.mm.peek("mm_mt")), "torn-down", "")
                mmput(w.p.mm)
            else:
                w.m.reached("too late")


    results = search(build)
    assert found(results) == set()
    assert {"got it", "too late"} <= results.reached


def test_a_2m_leaf_is_copied_old_and_stays_dirty() -> None:
    def body(w: World) -> None:
        bar = w.p.mmap(w.dev.file, 512)
        w.p.write(bar)
        assert w.p.pte(bar) == 0x80000000FEA002F7
        child = w.p.fork("child")
        assert child.pte(bar) == 0x80000000FEA002D7
        assert w.p.pte(bar) == 0x80000000FEA002F7

    run(body, pages=512)
