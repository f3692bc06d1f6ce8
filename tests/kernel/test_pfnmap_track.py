"""Who has reserved which frames for a VMA, release by release: mapped, split, moved, zapped, forked, failed.

Expectations are from the real kernels' answers where there are some (5.10, 6.1, 6.12, 7.3: two mappings of one BAR, and
a module that maps in every way), else from the source of 6.1 and 6.12 and, for 6.16, from the series that removed
VM_PAT. An entry is written ``0-4 WC``: pages of the probe's BAR, end exclusive, and the type.
"""

from __future__ import annotations

from typing import Any

import pytest

from mmlitmus.kernel import eras
from mmlitmus.kernel.arch.x86.ioremap import iounmap, pci_iomap
from mmlitmus.kernel.arch.x86.pat import CacheMode, MemtypeOwner, memtype_free, memtype_reserve, pat_memtype_list
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN
from mmlitmus.kernel.errno import EINVAL, ENOMEM
from mmlitmus.kernel.mm.memory import remap_pfn_range
from mmlitmus.kernel.mm.memory_zap import zap_vma_ptes
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, PROT_READ
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock

from .board import BY_NAME
from .probed import (
    BAR,
    CTX,
    PATCHED,
    VM_PAT,
    designs,
    entries,
    everywhere,
    has_vm_pat,
    probe_map,
    run,
    warned,
    with_vm_pat,
    zap,
)
from .world import INVALID_FREE, PAGE, REMAP_IN_FAULT, WALK_FAILED, World


# -- remap_pfn_range --------------------------------------------------------------------------------------------------
@designs
def test_the_whole_vma_is_reserved(kernel: str, ctx: bool) -> None:
    def body(w: World) -> None:
        a = probe_map(w)
        assert entries(w) == ["0-4 WC"]
        assert has_vm_pat(w, a) != ctx
        assert (w.vma(a).peek("pfnmap_track_ctx") is not None) == ctx
        assert w.p.pte(a) == 0x80000000FD00022F
        assert w.p.munmap(a, 4) == 0
        assert entries(w) == []

    run(body, kernel)


@designs
@pytest.mark.parametrize("mapped", ["half", "all but the first", "rounded up"])
def test_a_part_is_looked_up_and_not_reserved(kernel: str, ctx: bool, mapped: str) -> None:
    """Nothing is reserved, and the type asked for is forgotten: recorded, WC asked and UC- mapped."""
    first, size = {"half": (0, 2 * PAGE), "all but the first": (1, 3 * PAGE), "rounded up": (0, 3 * PAGE + 1)}[mapped]

    def body(w: World) -> None:
        def populate(vma: Any) -> int:
            return remap_pfn_range(vma, vma.vm_start + first * PAGE, BAR_PFN, size, vma.vm_page_prot | 1 << 3)

        w.char.flags, w.char.on_mmap = 0, populate
        a = w.p.mmap(w.char.file, 4)
        whole = mapped == "rounded up"  # to all four
        assert entries(w) == (["0-4 WC"] if whole else [])
        assert has_vm_pat(w, a) == (whole and not ctx)
        assert w.p.pte(a + first * PAGE) == 0x80000000FD000237 - (8 if whole else 0)
        w.p.munmap(a, 4)

    run(body, kernel)


@everywhere
def test_a_part_has_the_type_that_is_reserved_if_it_is_one(kernel: str) -> None:
    def body(w: World) -> None:
        owner = MemtypeOwner("driver")
        memtype_reserve(w.m, BAR, BAR + PAGE, CacheMode.WC, True, owner)
        assert probe_map(w, 2, insert="remap_partial", cache="") == w(0)
        assert w.p.pte(w(0)) == 0x80000000FD00022F
        assert probe_map(w, 4, at="b", insert="remap_partial", cache="") == -EINVAL  # of two pages, one WC, one UC-
        assert entries(w) == ["0-1 WC"]
        w.p.munmap(w(0), 2)
        memtype_free(w.m, BAR, BAR + PAGE, owner)

    run(body, kernel)


@everywhere
@pytest.mark.parametrize(
    ("there", "asks", "gets"),
    [("UC-", "wc", "UC-"), ("WC", "", "WC"), ("WC", "uc-", "WC"), ("UC", "wt", "UC"), ("WT", "wc", "WT")],
)
def test_the_first_owner_decides(kernel: str, there: str, asks: str, gets: str) -> None:
    """Recorded: WC first, then a second mapping without a type is WC too; the tree has two entries."""

    def body(w: World) -> None:
        owner = MemtypeOwner("driver")
        memtype_reserve(w.m, BAR, BAR + 4 * PAGE, BY_NAME[there], True, owner)
        a = probe_map(w, cache=asks)
        assert entries(w) == [f"0-4 {gets}"] * 2
        assert w.p.pte(a) & 0x98 == {"UC-": 0x10, "WC": 8, "UC": 0x18, "WT": 0x98}[gets]
        w.p.munmap(a, 4)
        assert entries(w) == [f"0-4 {gets}"]
        memtype_free(w.m, BAR, BAR + 4 * PAGE, owner)

    run(body, kernel)


@everywhere
def test_what_is_not_allowed_is_einval(kernel: str) -> None:
    """WC where WB is reserved: recorded as "map pfn expected mapping type write-combining for ..., got write-back"."""
    resv = 0x10000 * PAGE

    def body(w: World) -> None:
        owner = MemtypeOwner("driver")
        memtype_reserve(w.m, resv, resv + 4 * PAGE, CacheMode.WB, True, owner)
        assert w.p.mmap(w.probe.file("remap", "wc", "reserved"), 4) == -EINVAL
        assert entries(w, resv) == ["0-4 WB"]
        assert w.layout() == ""
        memtype_free(w.m, resv, resv + 4 * PAGE, owner)
        line = "x86/PAT: task:0 map pfn expected mapping type write-combining for [mem 0x10000000-0x10003fff]"
        assert w.m.memtypes.peek("log") == (f"{line}, got write-back",)

    run(body, kernel, finds=["expected-mapping-type"])


@everywhere
def test_several_types_in_the_way_are_einval(kernel: str) -> None:
    def body(w: World) -> None:
        owner = MemtypeOwner("driver")
        memtype_reserve(w.m, BAR, BAR + PAGE, CacheMode.WC, True, owner)
        memtype_reserve(w.m, BAR + PAGE, BAR + 2 * PAGE, CacheMode.UC_MINUS, True, owner)
        assert probe_map(w) == -EINVAL  # memtype_reserve's EBUSY
        assert entries(w) == ["0-1 WC", "1-2 UC-"]
        memtype_free(w.m, BAR, BAR + PAGE, owner)
        memtype_free(w.m, BAR + PAGE, BAR + 2 * PAGE, owner)

    run(body, kernel, finds=["conflicting-memory-types"])


@designs
def test_ram_is_never_reserved_and_has_vm_pat_all_the_same(kernel: str, ctx: bool) -> None:
    """Recorded: ``ar`` and no entry. 6.16 keeps an object for it too."""

    def body(w: World) -> None:
        a = w.p.mmap(w.probe.file("remap", "", "ram"), 2)
        assert entries(w) == []
        assert has_vm_pat(w, a) != ctx
        assert w.p.pte(a) & 0xFFF == 0x227
        zap(w, 0, 1)
        assert not has_vm_pat(w, a)
        w.p.munmap(a, 2)

    run(body, kernel, finds=() if ctx else warned(kernel))


@designs
def test_a_second_remap_of_a_vma(kernel: str, ctx: bool) -> None:
    """After a zap mm has nothing against it up to 6.15; from 6.16 on the VMA is tracked already: -EINVAL."""

    def body(w: World) -> None:
        a = probe_map(w)
        vma = w.vma(a)
        zap(w, 0, 4)
        mmap_write_lock(w.p.mm)
        got = remap_pfn_range(vma, a, BAR_PFN + 4, 4 * PAGE, vma.vm_page_prot)
        mmap_write_unlock(w.p.mm)
        assert got == (-EINVAL if ctx else 0)
        assert entries(w) == (["0-4 WC"] if ctx else ["4-8 WC"])
        assert bool(w.populated()) != ctx
        w.p.munmap(a, 4)
        assert entries(w) == []

    run(body, kernel, finds=() if ctx else warned(kernel))


# -- splits -----------------------------------------------------------------------------------------------------------
#: what is done to a mapping of four pages (a), what is then reserved with VM_PAT, and what is found
Step = tuple[Any, ...]
SPLITS: dict[str, tuple[list[tuple[Step, list[str]]], list[str]]] = {
    "tail first": (
        [(("munmap", 2, 2), ["0-2 WC"]), (("munmap", 0, 2), [])],
        [],
    ),
    "head first": (
        [(("munmap", 0, 2), ["0-4 WC"]), (("munmap", 2, 2), ["0-2 WC"])],
        [INVALID_FREE, "memtype-leak"],
    ),
    "head first, recorded": (
        [(("munmap", 0, 1), ["0-4 WC"]), (("munmap", 1, 3), ["0-1 WC"])],
        [INVALID_FREE, "memtype-leak"],
    ),
    "middle, tail, head": (
        [(("munmap", 1, 2), ["0-4 WC"]), (("munmap", 3, 1), ["0-3 WC"]), (("munmap", 0, 1), ["0-3 WC"])],
        [INVALID_FREE, "memtype-leak"],
    ),
    "middle, head, tail, recorded": (
        [(("munmap", 1, 1), ["0-4 WC"]), (("munmap", 0, 1), ["0-4 WC"]), (("munmap", 2, 2), ["0-2 WC"])],
        [INVALID_FREE, "memtype-leak"],
    ),
    "page by page from the end": (
        [(("munmap", n, 1), [f"0-{n} WC"] if n else []) for n in (3, 2, 1, 0)],
        [],
    ),
    "mremap shrinks": (
        [(("mremap", 0, 4, 2, None), ["0-2 WC"]), (("munmap", 0, 2), [])],
        [],
    ),
    "mremap moves": (
        [(("mremap", 0, 4, 4, "b"), ["0-4 WC"]), (("munmap b", 0, 4), [])],
        [],
    ),
    "mremap moves and shrinks": (
        [(("mremap", 0, 4, 3, "b"), ["0-3 WC"]), (("munmap b", 0, 3), [])],
        [],
    ),
    "mremap moves the tail": (
        [(("mremap", 3, 1, 1, "b"), ["0-4 WC"]), (("munmap b", 0, 1), ["0-3 WC"]), (("munmap", 0, 3), ["0-3 WC"])],
        ["memtype-leak"],
    ),
    "mremap moves the head": (
        [(("mremap", 0, 1, 1, "b"), ["0-4 WC"]), (("munmap b", 0, 1), ["0-4 WC"]), (("munmap", 1, 3), ["0-4 WC"])],
        [INVALID_FREE, "memtype-leak"],
    ),
    "mprotect splits, munmap takes all": (
        [(("mprotect", 1, 1), ["0-4 WC"]), (("munmap", 0, 4), ["0-2 WC"])],
        [INVALID_FREE, "memtype-leak"],
    ),
    "mprotect splits, exit": (
        [(("mprotect", 3, 1), ["0-4 WC"]), (("exit",), ["0-3 WC"])],
        [INVALID_FREE, "memtype-leak"],
    ),
}


def act(w: World, what: str, *args: Any) -> None:
    if what == "munmap":
        assert w.p.munmap(w(args[0]), args[1]) == 0
    elif what == "munmap b":
        assert w.p.munmap(w(args[0], "b"), args[1]) == 0
    elif what == "mprotect":
        assert w.p.mprotect(w(args[0]), args[1], PROT_READ) == 0
    elif what == "mremap":
        page, old, new, to = args
        assert w.p.mremap(w(page), old, new, to=to) == (w(page) if to is None else w(0, to))
    else:
        w.p.exit()


@designs
@pytest.mark.parametrize("how", SPLITS)
def test_splits(kernel: str, ctx: bool, how: str) -> None:
    """VM_PAT: a free is of what the VMA is now, and matches an entry whole or by its end. 6.16: all until the last."""
    steps, finds = SPLITS[how]

    def body(w: World) -> None:
        probe_map(w)
        for n, (step, reserved) in enumerate(steps):
            act(w, *step)
            assert entries(w) == (reserved if not ctx else ["0-4 WC"] if n < len(steps) - 1 else []), step

    run(body, kernel, finds=() if ctx else finds)


@pytest.mark.parametrize("kernel", VM_PAT)
def test_the_message_of_a_bad_free(kernel: str) -> None:
    """Recorded on 6.1: "x86/PAT: labtest:98 freeing invalid memtype [mem 0xfd310000-0xfd310fff]"."""

    def body(w: World) -> None:
        probe_map(w)
        w.p.munmap(w(0), 1)
        assert not has_vm_pat(w, w(0))
        assert has_vm_pat(w, w(1))
        line = "x86/PAT: task:0 freeing invalid memtype [mem 0xfd000000-0xfd000fff]"
        assert w.m.memtypes.peek("log") == (line,)
        w.p.munmap(w(1), 3)

    run(body, kernel, finds=[INVALID_FREE, "memtype-leak"])


@with_vm_pat
def test_a_moved_vma_takes_vm_pat_with_it(kernel: str) -> None:
    def body(w: World) -> None:
        probe_map(w)
        w.p.mremap(w(0), 4, 4, to="b")
        assert has_vm_pat(w, w(0, "b"))
        w.p.mremap(w(0, "b"), 1, 1, to="c")
        assert not has_vm_pat(w, w(1, "b"))  # all of the old VMA loses it, with the pages that stay
        assert has_vm_pat(w, w(0, "c"))

    run(body, kernel)


@pytest.mark.parametrize("kernel", CTX)
def test_who_holds_a_reference(kernel: str) -> None:
    def body(w: World) -> None:
        probe_map(w)
        ctx = w.vma(w(0)).peek("pfnmap_track_ctx")
        counts = [ctx.peek("kref")]
        for step in [("mprotect", 1, 1), ("mremap", 3, 1, 1, "b"), ("munmap", 1, 1)]:
            act(w, *step)
            counts.append(ctx.peek("kref"))
        child = w.p.fork("child")
        counts.append(ctx.peek("kref"))
        assert counts == [1, 3, 4, 3, 6]
        assert {v.peek("pfnmap_track_ctx") for v in child.mm.peek("mm_mt")} == {ctx}
        w.p.exit()
        assert ctx.peek("kref") == 3
        assert entries(w) == ["0-4 WC"]
        child.exit()
        assert ctx.freed
        assert entries(w) == []

    run(body, kernel)


# -- zaps -------------------------------------------------------------------------------------------------------------
@designs
@pytest.mark.parametrize("page", [0, 2])
def test_a_zap_of_one_page(kernel: str, ctx: bool, page: int) -> None:
    """Recorded: one page zapped, and the entry for four is gone up to 6.15, while three are live."""

    def body(w: World) -> None:
        a = probe_map(w)
        zap(w, page, 1)
        assert entries(w) == (["0-4 WC"] if ctx else [])
        assert not has_vm_pat(w, a)
        assert w.populated() == " ".join(f"a{n}" for n in range(4) if n != page)

    run(body, kernel, finds=() if ctx else ["untracked-live", "memtype-alias", *warned(kernel)])


@designs
def test_after_a_zap_munmap_gives_nothing_back(kernel: str, ctx: bool) -> None:
    def body(w: World) -> None:
        a = probe_map(w)
        zap(w, 0, 4)
        w.p.munmap(a, 4)
        assert entries(w) == []

    run(body, kernel, finds=() if ctx else warned(kernel))


@pytest.mark.parametrize("kernel", PATCHED)
@pytest.mark.parametrize(("page", "finds"), [(0, [WALK_FAILED, "memtype-leak"]), (2, [])])
def test_untracked_in_unmap_vmas_by_the_first_page(kernel: str, page: int, finds: list[str]) -> None:
    """The patch of July 2024 keeps the reservation across the zap; munmap then finds it by page 0, if that is there."""

    def body(w: World) -> None:
        a = probe_map(w)
        zap(w, page, 1)
        assert entries(w) == ["0-4 WC"]
        assert has_vm_pat(w, a)
        w.p.munmap(a, 4)
        assert entries(w) == (["0-4 WC"] if page == 0 else [])

    run(body, kernel, finds=finds)


@pytest.mark.parametrize("kernel", PATCHED)
def test_a_private_mapping_is_found_by_its_offset(kernel: str) -> None:
    """... where the walk does not take copied pages: vm_pgoff is the first frame's number there."""
    by_offset = kernel.startswith("v6.12")

    def body(w: World) -> None:
        a = probe_map(w, flags=MAP_PRIVATE)
        mmap_read_lock(w.p.mm)
        zap_vma_ptes(w.vma(a), a, 4 * PAGE)
        mmap_read_unlock(w.p.mm)
        w.p.munmap(a, 4)
        assert entries(w) == ([] if by_offset else ["0-4 WC"])

    ran = run(body, kernel, finds=[] if by_offset else [WALK_FAILED, "memtype-leak"])
    assert ("the frames were found by vm_pgoff" in ran.results.reached) == by_offset


@pytest.mark.parametrize("kernel", PATCHED)
@pytest.mark.parametrize("owned", [False, True])
def test_a_refault_of_another_frame(kernel: str, owned: bool) -> None:
    """What munmap gives back is where page 0 leads now: nobody's range, or somebody else's."""

    def body(w: World) -> None:
        a = probe_map(w, insert="remap_refill")
        owner = MemtypeOwner("driver")
        if owned:
            memtype_reserve(w.m, BAR + 8 * PAGE, BAR + 12 * PAGE, CacheMode.WC, True, owner)
        zap(w, 0, 4)
        w.probe.move(8)
        w.p.read(a)
        assert w.p.pte(a) >> 12 & 0xFFFFF == BAR_PFN + 8
        w.p.munmap(a, 4)
        assert entries(w) == ["0-4 WC"]

    steals = ["memtype-double-free", "memtype-steal", "memtype-leak"]
    run(body, kernel, finds=steals if owned else [INVALID_FREE, "memtype-double-free", "memtype-leak"])


@with_vm_pat
def test_the_wrong_owner_s_entry_may_go(kernel: str) -> None:
    """pci_iomap of the same range: the entries are equal, so that only their number matters."""

    def body(w: World) -> None:
        barmap = pci_iomap(w.m, w.probe.pdev)
        a = probe_map(w, 16, cache="uc-")
        assert entries(w) == ["0-16 UC-"] * 2
        w.p.munmap(a, 16)
        assert entries(w) == ["0-16 UC-"]
        iounmap(w.m, barmap)
        assert entries(w) == []

    run(body, kernel)


# -- failures ---------------------------------------------------------------------------------------------------------
@everywhere
def test_a_remap_that_runs_out_of_memory(kernel: str) -> None:
    """Of two pages in two tables, with every allocation failing once: what is there when remap_pfn_range returns.

    Up to 6.10 (without backports) what was mapped stays; else it is zapped, and that zap untracks first.
    """
    choices = eras.choices_of(kernel)
    vm_pat = choices["pfnmap_track"] == "vm_pat"
    seen: set[tuple[int, str, tuple[str, ...]]] = set()

    def body(w: World) -> None:
        def populate(vma: Any) -> int:
            error = remap_pfn_range(vma, vma.vm_start, BAR_PFN, 2 * PAGE, vma.vm_page_prot)
            seen.add((error, w.populated(), tuple(entries(w))))
            assert vma.peek("pfnmap_track_ctx") is None or not error
            return error

        w.char.flags, w.char.on_mmap = 0, populate
        got = w.p.mmap(w.char.file, 2, at=w(511))
        assert got in (w(511), -EINVAL, -ENOMEM)
        if got > 0:
            w.p.munmap(got, 2)
        assert entries(w) == []
        assert w.populated() == ""

    zaps = choices["remap_error"] != "leave"
    run(body, kernel, once=False, failures=1, finds=[WALK_FAILED] if zaps and vm_pat else [])
    assert seen == {
        (0, "a511 a512", ("0-2 UC-",)),
        (-EINVAL, "", ()),  # the memtype: any failure to track is -EINVAL
        (-ENOMEM, "", ()),  # the first table, or 6.16's context
        *([] if zaps else [(-ENOMEM, "a511", ())]),
    }


# -- a driver that reserves, and maps later ---------------------------------------------------------------------------
@designs
@pytest.mark.parametrize("touched", [False, True])
def test_track_pfn_remap_by_hand(kernel: str, ctx: bool, touched: bool) -> None:
    """Proposed for VFIO in July 2024. An untouched VMA is unmapped with a warning and a leak, unless 6.16 tracks."""

    def body(w: World) -> None:
        a = probe_map(w, insert="track")
        assert entries(w) == ["0-4 WC"]
        assert w.populated() == ""
        if touched:
            w.p.read(a)
            assert w.p.pte(a) & 0xFFF == 0x22F
        w.p.munmap(a, 4)
        assert entries(w) == ([] if ctx or touched else ["0-4 WC"])

    run(body, kernel, finds=[] if ctx or touched else [WALK_FAILED, "memtype-leak"])


# -- VFIO -------------------------------------------------------------------------------------------------------------
@everywhere
def test_the_life_of_a_barmap(kernel: str) -> None:
    """pci_iomap's entry: from the first mmap until the device is closed, once. Up to 6.9 a touched VMA has its own."""
    remaps = kernel in REMAP_IN_FAULT

    def body(w: World) -> None:
        base = w.frame() * PAGE
        assert entries(w, base) == []
        a = w.bar(4)
        assert entries(w, base) == ["0-8 UC-"]
        w.bar(2, at="b")
        assert entries(w, base) == ["0-8 UC-"]
        w.p.read(a)
        assert entries(w, base) == (["0-8 UC-", "0-4 UC-"] if remaps else ["0-8 UC-"])
        assert w.p.pte(a) & 0xFFF == 0x237
        w.dev.write_command(memory=False)
        assert entries(w, base) == ["0-8 UC-"]
        w.dev.write_command(memory=True)
        w.p.read(a)
        w.p.munmap(a, 4)
        w.p.munmap(w(0, "b"), 2)
        assert entries(w, base) == ["0-8 UC-"]
        w.dev.close_device()
        assert entries(w, base) == []
        assert w.bar(1) == w(0)
        assert entries(w, base) == ["0-8 UC-"]

    run(body, kernel)


@everywhere
def test_the_vga_hole_has_no_entries(kernel: str) -> None:
    """VFIO maps legacy VGA memory for each access, in the range that nothing is kept about."""

    def body(w: World) -> None:
        assert w.dev.vga_read(w.p) == 0
        assert pat_memtype_list(w.m) == ["PAT memtype list:"]

    run(body, kernel)
