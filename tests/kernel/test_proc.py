"""smaps and pagemap, in each release's letters."""

from __future__ import annotations

import re

import pytest

from mmlitmus.kernel import eras
from mmlitmus.kernel.fs.proc.task_mmu import MNEMONICS
from mmlitmus.kernel.mm.mmap import PROT_READ

from .world import NEW, OLD, World, run

BEFORE_69 = "rd wr sh mr mw me ms pf io de dd sd"
FROM_69 = "rd wr sh mr mw me ms pf io de dd sd ??"
FROM_616 = "rd wr sh mr mw ms pf io de dd sd ??"

LETTERS = {
    **dict.fromkeys(eras.between("v5.10", "v6.6"), BEFORE_69),
    **dict.fromkeys(eras.between("v6.9", "deb-6.12.117"), FROM_69),
    **dict.fromkeys(eras.between("v6.16", eras.releases()[-1]), FROM_616),
}


@pytest.mark.parametrize("kernel", eras.releases())
def test_vmflags_of_a_bar(kernel: str) -> None:
    """``ar``, VM_PAT: from the first touch to the next disable, where the fault handler calls remap_pfn_range."""
    remaps = kernel in eras.between("v5.10", "v6.9")

    def body(w: World) -> None:
        bar = w.bar(2)
        assert w.p.vm_flags(bar) == LETTERS[kernel]
        w.p.read(bar)
        assert w.p.vm_flags(bar) == (LETTERS[kernel].replace("de ", "de ar ") if remaps else LETTERS[kernel])
        w.dev.write_command(memory=False)
        assert w.p.vm_flags(bar) == LETTERS[kernel]

    run(body, kernel)


def test_vmflags_of_a_read_only_bar() -> None:
    def body(w: World) -> None:
        w.p.mmap(w.dev.file, 1, prot=PROT_READ)
        assert w.p.vm_flags(w(0)) == "rd sh mr mw me ms pf io de dd sd"

    run(body, OLD)


def test_bits_print_in_order_and_unknown_ones_as_question_marks() -> None:
    assert list(MNEMONICS) == sorted(MNEMONICS)
    assert 39 not in MNEMONICS


@pytest.mark.parametrize(
    ("kernel", "offset"), [(OLD, 0xFEA01000), ("v6.9", 0xFEA01000), ("v6.10", 0x1000), (NEW, 0x1000)]
)
def test_the_maps_line(kernel: str, offset: int) -> None:
    """Up to 6.9 VFIO leaves the BAR's physical address in the offset column."""

    def body(w: World) -> None:
        w.p.mmap(w.dev.file, 2, offset=1)
        w.p.read(w(0))
        first, *rest = w.p.smaps().splitlines()
        assert first == (
            f"7f0000000000-7f0000002000 rw-s {offset:08x} 00:0e 0".ljust(73) + "anon_inode:[vfio-device dev]"
        )
        assert rest[0] == "Size:                  8 kB"
        assert rest[1] == "Rss:                   0 kB"
        assert re.fullmatch(r"VmFlags: ([a-z?]{2} )+", rest[-1])

    run(body, kernel)


def test_smaps_of_nothing() -> None:
    def body(w: World) -> None:
        assert w.p.smaps() == ""
        assert w.p.vm_flags(w(0)) == ""
        assert w.p.pagemap(w(0)) == 0

    run(body)


@pytest.mark.parametrize("kernel", [OLD, NEW])
def test_pagemap_shows_soft_dirty_and_nothing_else(kernel: str) -> None:
    """Population is not to be seen in pagemap, nor the frame."""

    def body(w: World) -> None:
        bar = w.bar(2)
        assert w.p.pagemap(bar) == 1 << 55
        w.p.write(bar)
        assert w.p.pagemap(bar) == 1 << 55

    run(body, kernel)


def test_fork_and_split_keep_the_flags() -> None:
    def body(w: World) -> None:
        w.bar(3)
        w.p.mprotect(w(1), 1, PROT_READ)
        child = w.p.fork("child")
        for process in (w.p, child):
            assert process.vm_flags(w(0)) == FROM_69
            assert process.vm_flags(w(1)) == FROM_69.replace("wr ", "")
            assert process.vm_flags(w(2)) == FROM_69

    run(body)
