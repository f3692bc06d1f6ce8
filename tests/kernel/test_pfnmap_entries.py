"""Entries of device memory: the bits that real kernels showed, private copies, first stores, huge leaves, MIXEDMAPs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mmlitmus.kernel.arch.x86.pat import CacheMode, memtype_reserve, pmd_cachemode
from mmlitmus.kernel.arch.x86.pgtable import PUD_SIZE, pmd_offset, pte_pfn, pud_offset
from mmlitmus.kernel.drivers.misc.probe import BAR_PFN, RESERVED, ProbeMkwrite, open_probe
from mmlitmus.kernel.fs.proc.clear_refs import CLEAR_REFS_ALL
from mmlitmus.kernel.mm.huge_memory import vmf_insert_pfn_pmd, vmf_insert_pfn_pud
from mmlitmus.kernel.mm.madvise import MADV_HUGEPAGE
from mmlitmus.kernel.mm.memory import vmf_insert_mixed, vmf_insert_pfn
from mmlitmus.kernel.mm.mm_types import VM_FAULT_FALLBACK, VM_FAULT_NOPAGE, VM_FAULT_SIGBUS, VM_MIXEDMAP, VM_PFNMAP
from mmlitmus.kernel.mm.mmap import MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from mmlitmus.kernel.mm.mmap_lock import mmap_read_lock, mmap_read_unlock

from .board import BY_NAME
from .world import ERAS, HUGE, NEW, OLD, PAGE, World, run

both = pytest.mark.parametrize("kernel", [OLD, NEW])
everywhere = pytest.mark.parametrize("kernel", ERAS)

# -- as recorded ------------------------------------------------------------------------------------------------------
#: smaps' VmFlags when mapped, the first page's entry when read and when written, VmFlags after the reverse map has
#: zapped the first page (and madvise(MADV_HUGEPAGE), hence hg). Copied from the recordings; the entry is L4:upper bits/
#: what the frame is/lower bits. The module has ->pfn_mkwrite.
LAB = """
## REMAP_RESV SHARED
[5.10,6.1,6.12]  vmflags: rd wr sh mr mw me ms pf io de ar dd sd
[7.3]  vmflags: rd wr sh mr mw me ms pf io de dd sd
[all]  read=ok pte=L4:8000/resv/227 write=ok pte=L4:8000/resv/267
[all]  vmflags3: rd wr sh mr mw me ms pf io de dd sd hg
## REMAP_RESV PRIVATE
[5.10,6.1,6.12]  vmflags: rd wr mr mw me pf io de ac ar dd sd
[7.3]  vmflags: rd wr mr mw me pf io de ac dd sd
[all]  read=ok pte=L4:8000/resv/225 write=ok pte=L4:8000/RAM/867
[5.10,6.1,6.12]  vmflags3: rd wr mr mw me pf io de ac ar dd sd hg
[7.3]  vmflags3: rd wr mr mw me pf io de ac dd sd hg
## REMAP_RESV_WC SHARED
[5.10,6.1,6.12]  vmflags: rd wr sh mr mw me ms pf io de ar dd sd
[7.3]  vmflags: rd wr sh mr mw me ms pf io de dd sd
[all]  read=ok pte=L4:8000/resv/22f write=ok pte=L4:8000/resv/26f
[all]  vmflags3: rd wr sh mr mw me ms pf io de dd sd hg
## REMAP_RESV_WC PRIVATE
[5.10,6.1,6.12]  vmflags: rd wr mr mw me pf io de ac ar dd sd
[7.3]  vmflags: rd wr mr mw me pf io de ac dd sd
[all]  read=ok pte=L4:8000/resv/22d write=ok pte=L4:8000/RAM/86f
## REMAP_RAM SHARED
[5.10,6.1,6.12]  vmflags: rd wr sh mr mw me ms pf io de ar dd sd
[7.3]  vmflags: rd wr sh mr mw me ms pf io de dd sd
[all]  read=ok pte=L4:8000/RAM/227 write=ok pte=L4:8000/RAM/267
[all]  vmflags3: rd wr sh mr mw me ms pf io de dd sd hg
## REMAP_HOLE SHARED
[5.10,6.1,6.12]  vmflags: rd wr sh mr mw me ms pf io de ar dd sd
[7.3]  vmflags: rd wr sh mr mw me ms pf io de dd sd
[all]  read=ok pte=L4:8000/hole/227 write=ok pte=L4:8000/hole/267
## REMAP_BAR SHARED
[5.10,6.1,6.12]  vmflags: rd wr sh mr mw me ms pf io de ar dd sd
[7.3]  vmflags: rd wr sh mr mw me ms pf io de dd sd
[all]  read=ok pte=L4:8000/bar/237 write=ok pte=L4:8000/bar/277
[all]  vmflags3: rd wr sh mr mw me ms pf io de dd sd hg
## REMAP_BAR PRIVATE
[5.10,6.1,6.12]  vmflags: rd wr mr mw me pf io de ac ar dd sd
[7.3]  vmflags: rd wr mr mw me pf io de ac dd sd
[all]  read=ok pte=L4:8000/bar/235 write=ok pte=L4:8000/RAM/867
[5.10,6.1,6.12]  vmflags3: rd wr mr mw me pf io de ac ar dd sd hg
[7.3]  vmflags3: rd wr mr mw me pf io de ac dd sd hg
## REMAP_BAR_WC SHARED
[5.10,6.1,6.12]  vmflags: rd wr sh mr mw me ms pf io de ar dd sd
[7.3]  vmflags: rd wr sh mr mw me ms pf io de dd sd
[all]  read=ok pte=L4:8000/bar/22f write=ok pte=L4:8000/bar/26f
[all]  vmflags3: rd wr sh mr mw me ms pf io de dd sd hg
## REMAP_BAR_PARTIAL_WC SHARED
[all]  vmflags: rd wr sh mr mw me ms pf io de dd sd
[all]  read=ok pte=L4:8000/bar/237 write=ok pte=L4:8000/bar/277
## FAULT_PFN_RESV SHARED
[all]  vmflags: rd wr sh mr mw me ms pf io de dd sd
[all]  read=ok pte=L4:8000/resv/235 write=ok pte=L4:8000/resv/a77
[all]  vmflags3: rd wr sh mr mw me ms pf io de dd sd hg
## FAULT_PFN_BAR_WC SHARED
[all]  vmflags: rd wr sh mr mw me ms pf io de dd sd
[all]  read=ok pte=L4:8000/bar/235 write=ok pte=L4:8000/bar/a77
## MIXED_RESV SHARED
[all]  vmflags: rd wr sh mr mw me ms sd mm
[all]  read=ok pte=L4:8000/resv/235 write=ok pte=L4:8000/resv/a77
## MIXED_RESV PRIVATE
[all]  vmflags: rd wr mr mw me ac sd mm
[all]  read=ok pte=L4:8000/resv/235 write=ok pte=L4:8000/RAM/867
"""
KERNELS = {"5.10": "deb-5.10.262", "6.1": "deb-6.1.192", "6.12": "deb-6.12.117", "7.3": "deb-7.3.4"}
MODES = {
    "REMAP_RESV": ("remap", "", "reserved"),
    "REMAP_RESV_WC": ("remap", "wc", "reserved"),
    "REMAP_RAM": ("remap", "", "ram"),
    "REMAP_HOLE": ("remap", "", "hole"),
    "REMAP_BAR": ("remap", "", "bar"),
    "REMAP_BAR_WC": ("remap", "wc", "bar"),
    "REMAP_BAR_PARTIAL_WC": ("remap_partial", "wc", "bar"),
    "FAULT_PFN_RESV": ("fault_pfn", "", "reserved"),
    "FAULT_PFN_BAR_WC": ("fault_pfn", "wc", "bar"),
    "MIXED_RESV": ("mixed", "", "reserved"),
}


def recorded() -> list[tuple[str, str, str, dict[str, str]]]:
    """(mode, shared or private, kernel, what it answered)."""
    answers: dict[tuple[str, str, str], dict[str, str]] = {}
    for line in LAB.strip().splitlines():
        if line.startswith("## "):
            mode, kind = line[3:].split()
            continue
        on, rest = re.fullmatch(r"\[(.*)\]  (.*)", line).groups()  # type: ignore[union-attr]
        found = re.fullmatch(r"(vmflags3?): (.*)", rest)
        for short in KERNELS if on == "all" else on.split(","):
            answer = answers.setdefault((mode, kind, short), {})
            if found:
                answer[found[1]] = found[2]
            else:
                answer["entries"] = " ".join(re.findall(r"pte=L4:(\S+)", rest))
    return [(mode, kind, KERNELS[short], answer) for (mode, kind, short), answer in answers.items()]


def lab_entry(w: World, entry: int) -> str:
    pfn = pte_pfn(entry)
    regions = {"bar": (BAR_PFN, 4), "resv": RESERVED, "hole": w.probe.regions["hole"]}
    where = next((name for name, (first, n) in regions.items() if first <= pfn < first + n), "RAM")
    return f"{entry >> 48:04x}/{where}/{entry & 0xFFF:03x}"


@pytest.mark.parametrize(("mode", "kind", "kernel", "answer"), recorded(), ids=lambda x: str(x)[:30])
def test_what_the_lab_saw(mode: str, kind: str, kernel: str, answer: dict[str, str]) -> None:
    def before(w: World) -> None:
        w.probe = open_probe(w.m, mkwrite=True)

    def body(w: World) -> None:
        a = w.p.mmap(w.probe.file(*MODES[mode]), 4, flags=MAP_SHARED if kind == "SHARED" else MAP_PRIVATE)
        assert w.p.vm_flags(a) == answer["vmflags"]
        w.p.read(a)
        seen = [lab_entry(w, w.p.pte(a))]
        assert w.p.write(a) == 0
        assert [*seen, lab_entry(w, w.p.pte(a))] == answer["entries"].split()
        if "vmflags3" in answer:
            w.p.madvise(a, 4, MADV_HUGEPAGE)
            w.probe.unmap_mapping_range(0, 1)
            assert w.p.vm_flags(a) == answer["vmflags3"]

    run(body, kernel, before=before)


# -- private copies ---------------------------------------------------------------------------------------------------
@everywhere
def test_a_private_copy(kernel: str) -> None:
    """The copy is a frame of RAM with the VMA's protection, not special; the other pages stay the device's."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        a = w.p.mmap(w.probe.file("remap", "wc"), 2, flags=MAP_PRIVATE)
        assert [w.p.pte(a), w.p.pte(a + PAGE)] == [0x80000000FD00022D, 0x80000000FD00122D]
        assert w.vma(a).peek("vm_pgoff") == BAR_PFN
        assert w.p.write(a) == 0
        copy = w.p.pte(a)
        assert copy & 0xFFF == 0x86F
        assert w.m.e820.page_is_ram(pte_pfn(copy))
        assert w.m.pages[pte_pfn(copy)].peek("anon_exclusive")
        assert w.p.pte(a + PAGE) == 0x80000000FD00122D
        assert w.p.write(a) == 0
        assert w.p.pte(a) == copy
        w.probe.unmap_mapping_range(0, 2)  # misses it: vm_pgoff is the frame's number
        assert w.p.pte(a) == copy

    run(body, kernel)


@both
def test_a_private_copy_without_memory(kernel: str) -> None:
    def before(w: World) -> None:
        w.probe = open_probe(w.m)
        w.p.mmap(w.probe.file("remap", "", "reserved"), 1, flags=MAP_PRIVATE)

    def body(w: World) -> None:
        assert w.p.write(w(0)) == 0  # the fault is VM_FAULT_OOM, and tried again
        assert w.p.pte(w(0)) & 0xFFF == 0x867

    ran = run(body, kernel, before=before, once=False, failures=1, finds=["oom-leaked"])
    assert ran.results.counts.complete == 2


def test_two_stores_to_a_private_page_copy_it_once() -> None:
    from .world import found, search

    def build(w: World) -> None:
        w.probe = open_probe(w.m)
        a = w.p.mmap(w.probe.file("remap", "", "reserved"), 1, flags=MAP_PRIVATE)

        @w.m.task
        def one() -> None:
            w.m.saw(w.p.write(a))

        @w.m.task
        def two() -> None:
            w.m.saw(w.p.write(a))

        w.m.check(lambda: w.m.require(w.p.pte(a) & 0xFFF == 0x867, "copied", hex(w.p.pte(a))) or [])

    results = search(build)
    assert found(results) == set()
    assert {"one got through", "two got through", "a private page was copied"} <= results.reached


@pytest.mark.parametrize(
    ("kernel", "read_only", "writable"),
    [("v5.10", 0x865, 0x865), ("v6.1", 0x865, 0x867), ("v6.12", 0x825 | 1 << 58, 0x867)],
)
def test_mprotect_of_a_private_copy(kernel: str, read_only: int, writable: int) -> None:
    """Recorded on 5.10, 6.1 and 6.12: from 5.19 on a page that nobody else maps is writable again at once."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        a = w.p.mmap(w.probe.file("remap", "", "reserved"), 1, flags=MAP_PRIVATE)
        w.p.write(a)
        w.p.mprotect(a, 1, PROT_READ)
        assert w.p.pte(a) & (0xFFF | 1 << 58) == read_only
        w.p.mprotect(a, 1, PROT_READ | PROT_WRITE)
        assert w.p.pte(a) & (0xFFF | 1 << 58) == writable
        assert w.p.write(a) == 0
        assert w.p.pte(a) & 0xFFF == 0x867

    run(body, kernel)


# -- the first store --------------------------------------------------------------------------------------------------
@everywhere
def test_the_first_store_asks_the_driver(kernel: str) -> None:
    """Once a page, under mmap_lock R; never for a private mapping."""
    asked: list[tuple[int, Any, Any]] = []

    def body(w: World) -> None:
        w.probe = open_probe(w.m, mkwrite=True)

        def pfn_mkwrite(vmf: Any) -> int:
            vma = vmf.vma
            asked.append((vmf.pgoff, vma.vm_mm.mmap_lock.held(), vma.vm_lock.held()))
            return 0

        file = w.probe.file("fault_pfn")
        file.f_op.pfn_mkwrite = pfn_mkwrite
        a = w.p.mmap(file, 2)
        w.p.read(a)
        assert w.p.pte(a) & 0xFFF == 0x235
        assert asked == []
        for _ in range(2):
            assert w.p.write(a) == 0
            assert w.p.write(a + PAGE) == 0
        assert w.p.pte(a) & 0xFFF == w.p.pte(a + PAGE) & 0xFFF == 0xA77
        assert asked == [(0, "read", None), (1, "read", None)]
        assert isinstance(file.f_op, ProbeMkwrite)

    run(body, kernel)


@both
@pytest.mark.parametrize(("says", "result"), [(VM_FAULT_SIGBUS, "SIGBUS"), (VM_FAULT_NOPAGE, "gave up")])
def test_a_driver_may_object_to_a_store(kernel: str, says: int, result: str) -> None:
    def body(w: World) -> None:
        w.probe = open_probe(w.m, mkwrite=True)
        file = w.probe.file("fault_pfn")
        file.f_op.pfn_mkwrite = lambda vmf: says
        a = w.p.mmap(file, 1)
        assert w.p.write(a) == result
        assert w.p.pte(a) & 0xFFF == 0x235

    run(body, kernel)


# -- vmf_insert_mixed, and frames that have a page --------------------------------------------------------------------
def insert(w: World, how: Any, address: int, pfn: int) -> int:
    mmap_read_lock(w.p.mm)
    result: int = how(w.vma(w(0)), address, pfn)
    mmap_read_unlock(w.p.mm)
    return result


@everywhere
def test_insert_mixed(kernel: str) -> None:
    def body(w: World) -> None:
        w.char.flags = VM_MIXEDMAP
        w.p.mmap(w.char.file, 3)
        memtype_reserve(w.m, BAR_PFN * PAGE, (BAR_PFN + 1) * PAGE, CacheMode.WC, True)
        assert insert(w, vmf_insert_mixed, w(0), BAR_PFN) == VM_FAULT_NOPAGE
        assert insert(w, vmf_insert_mixed, w(1), BAR_PFN + 1) == VM_FAULT_NOPAGE
        assert insert(w, vmf_insert_mixed, w(2), 0x100) == VM_FAULT_NOPAGE
        expected = [0x80000000FD00022F, 0x80000000FD001237, 0x8000000000100227]
        assert [w.p.pte(w(n)) for n in range(3)] == expected
        assert insert(w, vmf_insert_mixed, w(0), 0x100) == VM_FAULT_NOPAGE  # in use: left as it is
        assert insert(w, vmf_insert_mixed, w(3), 0x100) == VM_FAULT_SIGBUS
        assert [w.p.pte(w(n)) for n in range(3)] == expected

    run(body, kernel)


@everywhere
def test_insert_mixed_into_a_pfnmap(kernel: str) -> None:
    """A BUG up to 6.10, SIGBUS from 6.11 on."""
    bug = ERAS.index(kernel) <= ERAS.index("v6.10")

    def body(w: World) -> None:
        w.p.mmap(w.char.file, 1)
        assert insert(w, vmf_insert_mixed, w(0), BAR_PFN) == VM_FAULT_SIGBUS
        assert w.populated() == ""

    ran = run(body, kernel, finds=["insert-mixed-vma-type"] if bug else [])
    assert [f.kind for f in ran.findings] == (["BUG"] if bug else [])


@both
@pytest.mark.parametrize(("pfn", "bug"), [(0x100, True), (RESERVED[0], True), (BAR_PFN, False)])
def test_insert_pfn_of_a_frame_with_a_page(kernel: str, pfn: int, bug: bool) -> None:
    """Into a MIXEDMAP such a frame must go with its page; reserved RAM has one, a BAR has none."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        w.char.flags = VM_MIXEDMAP
        w.p.mmap(w.char.file, 1)
        assert insert(w, vmf_insert_pfn, w(0), pfn) == VM_FAULT_NOPAGE

    ran = run(body, kernel, finds=["insert-pfn-valid-mixed"] if bug else [])
    assert [f.kind for f in ran.findings] == (["BUG"] if bug else [])


# -- huge leaves ------------------------------------------------------------------------------------------------------
#: what is reserved, the leaf's lower 13 bits and the type they mean: bit 7 is PSE in a leaf, and PAT is bit 12
AS_4K = """
WB  02a7 WB
WC  02af WC
UC- 02b7 UC-
UC  02bf UC
WT  02bf UC
WP  02af WC
"""
SHIFTED = """
WB  02a7 WB
WC  02af WC
UC- 02b7 UC-
UC  02bf UC
WT  12bf WT
WP  12af WP
"""
LEAVES = [
    (kernel, *line.split())
    for kernel, table in (("v6.12", AS_4K), ("v6.18", AS_4K), ("v6.12 +pat-large-shift", SHIFTED))
    for line in table.strip().splitlines()
]


@pytest.mark.parametrize(("kernel", "reserved", "bits", "means"), LEAVES)
def test_the_type_of_a_2m_leaf(kernel: str, reserved: str, bits: str, means: str) -> None:
    start = RESERVED[0]

    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        memtype_reserve(w.m, start * PAGE, start * PAGE + HUGE, BY_NAME[reserved], True)
        w.p.mmap(w.char.file, 512)
        mmap_read_lock(w.p.mm)
        got = vmf_insert_pfn_pmd(w.vma(w(0)), pmd_offset(w.p.mm, w(0)), w(0), start)
        mmap_read_unlock(w.p.mm)
        assert got == VM_FAULT_NOPAGE
        entry = w.p.pte(w(0))
        assert f"{entry & 0x1FFF:04x}" == bits
        assert pmd_cachemode(entry) == BY_NAME[means]
        assert entry >> 13 & 0xFFFFFFFF == start >> 1

    run(body, kernel)


def test_the_first_frame_decides_for_a_leaf() -> None:
    def body(w: World) -> None:
        w.probe = open_probe(w.m)
        first = RESERVED[0]
        memtype_reserve(w.m, first * PAGE, (first + 1) * PAGE, CacheMode.WC, True)
        w.p.mmap(w.char.file, 512)
        mmap_read_lock(w.p.mm)
        vmf_insert_pfn_pmd(w.vma(w(0)), pmd_offset(w.p.mm, w(0)), w(7), first)
        mmap_read_unlock(w.p.mm)
        assert pmd_cachemode(w.p.pte(w(0))) == CacheMode.WC

    run(body)


GIANT = PUD_SIZE // PAGE
GIANT_AT = 0x7F80_0000_0000


@pytest.mark.parametrize(
    ("kernel", "bits"),
    [("v6.12", 0x2AF), ("v6.16", 0x2AF), ("v6.18", 0x2B7), ("v6.12 +pud-insert-lookup", 0x2B7)],
)
def test_the_type_of_a_1g_leaf(kernel: str, bits: int) -> None:
    """A WC mapping of frames that nobody has reserved: UC- by look-up, WC where the look-up is forgotten."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m, pages=GIANT, pfn=4 * GIANT)
        a = w.p.mmap(w.probe.file("huge", "wc"), GIANT, at=GIANT_AT)
        assert a == GIANT_AT
        w.p.read(a + 5 * HUGE)
        assert w.p.pte(a) & 0xFFF == bits
        assert w.p.pte(a) >> 12 & 0xFFFFFFF == 4 * GIANT
        child = w.p.fork("child")
        assert child.pte(a) & 0xFFF == bits & ~0x20
        w.p.mprotect(a, GIANT, PROT_READ)
        assert w.p.pte(a) & 0xFFF == bits & ~2
        w.probe.unmap_mapping_range(7, 1)  # a part of it: all of it goes
        assert w.p.pte(a) == child.pte(a) == 0

    run(body, kernel)


def test_insert_of_a_1g_leaf_is_idempotent() -> None:
    def body(w: World) -> None:
        w.p.mmap(w.char.file, GIANT, at=GIANT_AT)
        vma = w.vma(GIANT_AT)
        pud = pud_offset(w.p.mm, GIANT_AT)
        assert pud is not None
        mmap_read_lock(w.p.mm)
        for pfn in (4 * GIANT, 8 * GIANT):
            assert vmf_insert_pfn_pud(vma, pud, GIANT_AT + PAGE, pfn) == VM_FAULT_NOPAGE
        mmap_read_unlock(w.p.mm)
        assert pte_pfn(w.p.pte(GIANT_AT)) == 4 * GIANT

    run(body)


@pytest.mark.parametrize("kernel", ["v5.10", "v6.1", "v6.12", "v7.3"])
@pytest.mark.parametrize(("flags", "left"), [(VM_MIXEDMAP, 0), (VM_PFNMAP, 4 * GIANT)])
def test_clear_refs_drops_a_1g_leaf(kernel: str, flags: int, left: int) -> None:
    """The walk looks for smaller entries, so it splits the leaf, which clears it. A PFNMAP is left out of the walk."""

    def body(w: World) -> None:
        w.char.flags = flags
        w.p.mmap(w.char.file, GIANT, at=GIANT_AT)
        pud = pud_offset(w.p.mm, GIANT_AT)
        assert pud is not None
        mmap_read_lock(w.p.mm)
        assert vmf_insert_pfn_pud(w.vma(GIANT_AT), pud, GIANT_AT, 4 * GIANT) == VM_FAULT_NOPAGE
        mmap_read_unlock(w.p.mm)
        w.p.clear_refs(CLEAR_REFS_ALL)
        assert pte_pfn(w.p.pte(GIANT_AT)) == left

    run(body, kernel)


def test_a_vma_that_covers_no_whole_block_has_no_1g_leaf() -> None:
    def body(w: World) -> None:
        w.probe = open_probe(w.m, pages=GIANT, pfn=4 * GIANT)
        a = w.p.mmap(w.probe.file("huge"), GIANT, at=GIANT_AT + HUGE)
        w.p.read(a)
        assert pud_offset(w.p.mm, a) is None
        assert w.p.pte(a) & 0xFFF == 0x2B7  # 2M

    run(body)


# -- the first store to a huge leaf -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", ["v6.12", "v7.3"])
def test_the_first_store_to_a_2m_leaf(kernel: str) -> None:
    """As recorded with the lab's module on 6.12.117 and 7.3.4 (HUGE_PFN_RESV): read 2b5, written af7, one leaf."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m, mkwrite=True)
        a = w.p.mmap(w.probe.file("huge", "", "reserved"), 512)
        w.p.read(a)
        assert w.p.pte(a) & 0xFFF == 0x2B5
        assert w.p.write(a + 3 * PAGE) == 0
        assert w.p.pte(a) & 0xFFF == 0xAF7

    run(body, kernel)


def test_the_first_store_to_a_1g_leaf() -> None:
    def body(w: World) -> None:
        w.probe = open_probe(w.m, pages=GIANT, pfn=4 * GIANT, mkwrite=True)
        a = w.p.mmap(w.probe.file("huge"), GIANT, at=GIANT_AT)
        w.p.read(a)
        assert w.p.pte(a) & 2 == 0
        assert w.p.write(a + HUGE) == 0
        assert w.p.pte(a) & 0xFFF == 0xAF7

    run(body, "v6.18")


def test_a_leaf_that_the_driver_will_not_have_written_goes() -> None:
    """->huge_fault falls back: the leaf is cleared, and the store goes to a page."""

    def body(w: World) -> None:
        w.probe = open_probe(w.m, mkwrite=True)
        file = w.probe.file("huge", "", "reserved")
        a = w.p.mmap(file, 512)
        w.p.read(a)
        file.f_op.huge_fault = lambda vmf, order: VM_FAULT_FALLBACK
        assert w.p.write(a + 3 * PAGE) == 0
        assert w.p.pte(a) == 0
        assert w.p.pte(a + 3 * PAGE) & 0xFFF == 0xA77

    run(body, "v6.12", faults=4)


def test_another_leaf_is_no_place_to_write_to() -> None:
    def body(w: World) -> Any:
        w.probe = open_probe(w.m, mkwrite=True)
        a = w.p.mmap(w.probe.file("huge", "", "reserved"), 512)
        w.p.read(a)
        w.probe.move(512)
        w.p.write(a)
        return w.p.pte(a)

    ran = run(body, "v6.12", finds=["insert-other-leaf"])
    assert ran.result & 0xFFF == 0x2B5


def test_the_copy_of_a_private_page_reaches_every_cpu() -> None:
    """Another thread that has read the device's page must not go on reading it (ptep_clear_flush)."""

    def before(w: World) -> None:
        w.probe = open_probe(w.m)
        w.a = w.p.mmap(w.probe.file("remap", "", "reserved"), 4, flags=MAP_PRIVATE)
        w.p.read(w.a)
        w.m.task(lambda: None, process=w.p, name="idle", warm=(w.a, w.a + PAGE))

    def body(w: World) -> list[int]:
        assert len(w.m.cpus["idle"].tlb) == 2
        w.p.write(w.a)
        return [page << 12 for _, page in w.m.cpus["idle"].tlb]

    ran = run(body, "v6.12", before=before)
    assert ran.result == [ran.world.a + PAGE]
