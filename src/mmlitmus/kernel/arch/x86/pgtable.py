"""x86-64 page-table entries with the real bits, and the operations on them with the kernel's names and atomicity.

Addresses are bytes; a pfn is an address >> PAGE_SHIFT. An entry is an int, laid out as the hardware has it. Source:
arch/x86/include/asm/pgtable.h, arch/x86/include/asm/pgtable_types.h, arch/x86/include/asm/pgtable_64.h,
arch/x86/include/asm/pgtable-invert.h, include/linux/pgtable.h, include/linux/mm.h, functions of the same name;
pte_special is _PAGE_BIT_SOFTW1. Of the model's own: LeafSlot, PteTable, bits, describe, leaf_pfn, small_page,
pte_run, pud_inherit.
Recorded: a VFIO BAR page on 6.1.192 reads 0x80000000fea00237 (present, rw, user, PCD, accessed, special, NX).

What takes ``nr`` works on a batch: that many entries of one page table, none of them or of consecutive frames with the
same bits. Within a search a batch is one entry, and so one event; larger ones are for whole machines
(``mmlitmus.scale``), where nobody is scheduled and there are no events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmlitmus.explore import runtime as rt
from mmlitmus.explore.ops import READ_ONCE, TOUCH, WRITE_ONCE
from mmlitmus.explore.primitives.mutex import Spinlock
from mmlitmus.explore.state import Model, Once
from mmlitmus.kernel.policy import Seam

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PMD_SHIFT = 21
PMD_SIZE = 1 << PMD_SHIFT
PUD_SHIFT = 30
PUD_SIZE = 1 << PUD_SHIFT
PTRS_PER_PTE = 512

PRESENT = 1 << 0
RW = 1 << 1
USER = 1 << 2
PWT = 1 << 3
PCD = 1 << 4
ACCESSED = 1 << 5
DIRTY = 1 << 6
PSE = 1 << 7  # in a PMD entry: a 2M leaf
PAT = 1 << 7  # in a PTE
PROTNONE = 1 << 8  # with PRESENT clear; the same bit is global when PRESENT is set
PAT_LARGE = 1 << 12  # in a PMD leaf
SPECIAL = 1 << 9
SOFT_DIRTY = 1 << 11
SAVED_DIRTY = 1 << 58  # dirty, of an entry that is not writable
NX = 1 << 63
DIRTY_BITS = DIRTY | SAVED_DIRTY
PFN_MASK = 0x000F_FFFF_FFFF_F000
CACHE_MASK = PWT | PCD | PAT
#: what a change of protection keeps (_PAGE_CHG_MASK; in a PMD entry PSE and PAT_LARGE too)
CHG_MASK = PFN_MASK | CACHE_MASK | SPECIAL | ACCESSED | DIRTY_BITS | SOFT_DIRTY

saved_dirty = Seam("saved_dirty", "where a dirty entry keeps its dirty bit when it stops being writable")

NONE = 0
#: a PMD entry that points to a PTE table: present, rw, user, accessed, dirty (_PAGE_TABLE); the table's pfn is not
#: modelled
TABLE = PRESENT | RW | USER | ACCESSED | DIRTY


def mk_pte(pfn: int, prot: int) -> int:
    """pfn_pte(): an entry for page frame ``pfn`` with protection bits ``prot``."""
    return invert_frame(pfn << PAGE_SHIFT, prot) | prot


def pte_pfn(entry: int) -> int:
    """The page frame that a present entry maps."""
    return invert_frame(entry & PFN_MASK, entry) >> PAGE_SHIFT


def leaf_pfn(entry: int, shift: int) -> int:
    """The first frame of a leaf of 1 << ``shift`` bytes (bit 12 of a huge one is its PAT bit)."""
    return pte_pfn(entry) & ~((1 << shift - PAGE_SHIFT) - 1)


def small_page(entry: int, shift: int, address: int) -> int:
    """What a huge leaf says of the 4K page at ``address``, in the layout of a 4K entry."""
    if shift == PAGE_SHIFT:
        return entry
    frame = leaf_pfn(entry, shift) + ((address & (1 << shift) - 1) >> PAGE_SHIFT)
    return mk_pte(frame, entry & ~(PFN_MASK | PSE) | (PAT if entry & PAT_LARGE else 0))


def invert_frame(frame: int, entry: int) -> int:
    """The frame bits of an entry are stored inverted where the CPU must not follow them (pgtable-invert.h, L1TF).

    Source: arch/x86/include/asm/pgtable-invert.h flip_protnone_guard, protnone_mask (L1TF).
    """
    return frame ^ PFN_MASK if entry and not entry & PRESENT else frame


def pte_present(entry: int) -> bool:
    """Does the kernel count the entry as mapping a frame? So it does for PROT_NONE, which the CPU does not use."""
    return bool(entry & (PRESENT | PROTNONE))


def pmd_leaf(entry: int) -> bool:
    """Is the PMD entry a 2M page (PROT_NONE or not)?"""
    return bool(entry & PSE)


def pte_modify(entry: int, prot: int) -> int:
    """The entry with another protection; frame, cache type, special, accessed, dirty and soft-dirty stay."""
    new = invert_frame(pte_pfn(entry) << PAGE_SHIFT, prot) | entry & CHG_MASK & ~PFN_MASK | prot & ~CHG_MASK
    return stop_writing(new) if entry & RW and not new & RW else may_write(new)


def pmd_modify(entry: int, prot: int, shift: int) -> int:
    """The same of a huge leaf of 1 << ``shift`` bytes: where its frame is stored inverted, what is below the leaf's
    size, the PAT bit among it, is not.

    Source: arch/x86/include/asm/pgtable.h pmd_modify; recorded: 5.10.262, 6.12.117, 7.3.4.
    """
    small = mk_pte(leaf_pfn(entry, shift), entry & ~(PFN_MASK | PSE))
    new = pte_modify(small, prot) | PSE
    inverted = 0 if new & PRESENT else PFN_MASK & (1 << shift) - 1
    return new ^ inverted | entry & PAT_LARGE


def stop_writing(entry: int) -> int:
    """The entry without its write bit (pte_wrprotect).

    Source: arch/x86/include/asm/pgtable.h pte_wrprotect.
    """
    result: int = saved_dirty(entry & ~RW)
    return result


def may_write(entry: int) -> int:
    """Undo what ``saved_dirty`` did, for an entry that is writable again (pte_clear_saveddirty).

    Source: arch/x86/include/asm/pgtable.h pte_clear_saveddirty (from 6.12); none (to 6.1).
    """
    if entry & RW and entry & SAVED_DIRTY:
        return entry & ~SAVED_DIRTY | DIRTY
    return entry


@saved_dirty.alternative("dirty-stays", source="arch/x86/include/asm/pgtable.h pte_wrprotect, 6.1", releases="<= v6.5")
def dirty_stays(entry: int) -> int:
    """A read-only entry may be dirty."""
    return entry


@saved_dirty.alternative(
    "saved", source="arch/x86/include/asm/pgtable.h pte_mksaveddirty, 6.12 (with shadow stacks)", releases=">= v6.6"
)
def save_dirty(entry: int) -> int:
    """A read-only dirty entry would be a shadow stack's: dirty moves to a software bit."""
    return entry & ~DIRTY | SAVED_DIRTY if entry & DIRTY else entry


def describe(entry: int) -> str:
    """``none``, ``table``, or the entry's bits in hex."""
    return "none" if entry == NONE else "table" if entry == TABLE else f"{entry:#x}"


def bits(entry: int) -> str:
    """The flags of an entry in words, for people: ``P RW US PCD A SPECIAL NX``."""
    named = (
        (PRESENT, "P"), (RW, "RW"), (USER, "US"), (PWT, "PWT"), (PCD, "PCD"), (ACCESSED, "A"), (DIRTY, "D"),
        (PAT, "PAT"), (PROTNONE, "PROTNONE"), (SPECIAL, "SPECIAL"), (SOFT_DIRTY, "SD"), (SAVED_DIRTY, "SAVED_DIRTY"),
        (NX, "NX"),
    )  # fmt: skip
    return " ".join(name for bit, name in named if entry & bit)


class LeafSlot(Model):
    """An entry above the PTEs, which can hold a huge leaf, and the lock over it."""

    __slots__ = ("address", "leaf_lock")
    leaf_shift = 0
    leaves = 1  # how many slots in a row this one stands for: more only outside of a search
    entry = Once()

    def __init__(self, level: str, mm_name: str, address: int, label: str) -> None:
        super().__init__(f"{mm_name}:{level}[{label}]", entry=NONE)
        self.address = address
        self.leaf_lock = Spinlock(f"{mm_name}:{level}_lock[{label}]", f"{level}_lock")

    def set_entry(self, entry: int) -> None:
        """Change the entry; the caller has announced the event."""
        self._values[self.fields["entry"].at] = entry


class PteTable(LeafSlot):
    """One page of PTEs under one PMD entry, and the lock over it (split page-table lock).

    ``entry`` is the PMD entry itself. PTEs get their footprint object on first use, named after their address.
    """

    __slots__ = ("cells", "label", "mm_name", "ptl", "values")
    leaf_shift = PMD_SHIFT
    made_on_first_use = True

    def __init__(self, mm_name: str, address: int, label: Callable[[int], str]) -> None:
        super().__init__("pmd", mm_name, address, label(address))
        self.mm_name = mm_name
        self.label = label
        self.ptl = Spinlock(f"{mm_name}:ptl[{label(address)}]", "ptl")
        self.cells: dict[int, int] = {}  # PTE number -> footprint id
        self.values: dict[int, int] = {}  # PTE number -> entry

    @property
    def pmd_lock(self) -> Spinlock:
        """The lock over ``entry``."""
        return self.leaf_lock

    def cell(self, address: int) -> int:
        """The footprint id of the PTE for ``address``."""
        n = address >> PAGE_SHIFT & PTRS_PER_PTE - 1
        cell = self.cells.get(n)
        if cell is None:
            cell = self.cells[n] = rt.engine.allocate(1, _PteName(self, n))
        return cell

    def peek_pte(self, address: int) -> int:
        """The entry without an event: for printers and checks."""
        return self.values.get(address >> PAGE_SHIFT & PTRS_PER_PTE - 1, NONE)

    def run(self, address: int, nr: int) -> tuple[int, int]:
        """The entry at ``address``, and how many go on with it (``pte_run``), without an event."""
        entry = self.peek_pte(address)
        n = 1
        while n < nr and self.peek_pte(address + n * PAGE_SIZE) == (entry + n * PAGE_SIZE if entry else NONE):
            n += 1
        return entry, n

    def put_run(self, address: int, entry: int, nr: int) -> None:
        """Change ``nr`` entries: to none, or to one of consecutive frames each; the caller has announced the event."""
        for n in range(nr):
            self.put(address + n * PAGE_SIZE, entry + n * PAGE_SIZE if entry else NONE)

    def pages_from(self, address: int) -> int:
        """How many of its pages begin at ``address`` or behind it."""
        return PTRS_PER_PTE - (address >> PAGE_SHIFT & PTRS_PER_PTE - 1)

    def populated(self) -> int:
        """How many entries map something; no event."""
        return len(self.values)

    def put(self, address: int, entry: int) -> None:
        """Change the entry; the caller has announced the event."""
        n = address >> PAGE_SHIFT & PTRS_PER_PTE - 1
        if entry == NONE:
            self.values.pop(n, None)
        else:
            self.values[n] = entry


class PudEntry(LeafSlot):
    """A PUD entry that can hold a 1G leaf.

    Only blocks that some VMA covers whole have one; everywhere else the upper levels are always there.
    """

    __slots__ = ()
    leaf_shift = PUD_SHIFT

    def __init__(self, mm_name: str, address: int, label: Callable[[int], str]) -> None:
        super().__init__("pud", mm_name, address, label(address))

    @property
    def pud_lock(self) -> Spinlock:
        """The lock over ``entry``."""
        return self.leaf_lock


class PmdPage(Model):
    """The page of PMD entries under one PUD entry: is it there? Only who tells MMU notifiers of mprotect asks."""

    __slots__ = ()
    made_on_first_use = True
    there = Once()

    def __init__(self, name: str) -> None:
        super().__init__(name, there=False)


class _PteName:
    __slots__ = ("n", "table")

    def __init__(self, table: PteTable, n: int) -> None:
        self.table = table
        self.n = n

    def object_name(self, offset: int) -> str:
        t = self.table
        return f"{t.mm_name}:pte[{t.label(t.address + (self.n << PAGE_SHIFT))}]"

    def object_value(self, offset: int) -> int | None:
        """The entry; none is the same as never used."""
        return self.table.values.get(self.n)


def pmd_offset(mm: Any, address: int, nr: int = 1) -> PteTable:
    """The slot of the PMD entry for ``address``. The levels above it are always there in this model.

    ``nr``: of a batch of so many pages. Where batches are larger than a table, what comes back stands for all the
    tables that they lie in, which are in the same state.
    """
    if nr > 1 and mm.machine.batch > 1:
        batched: PteTable = mm.machine.pmd_slots(mm, address, nr)
        return batched
    n = address >> PMD_SHIFT
    table = mm.pgd.get(n)
    if table is None:
        table = mm.pgd[n] = mm.machine.pte_table(mm.name, n << PMD_SHIFT, mm.machine.page_label)
    found: PteTable = table
    return found


def pud_offset(mm: Any, address: int) -> PudEntry | None:
    """The PUD entry for ``address``, where a VMA covers its whole block of 1G; else None (``pud_populate``)."""
    found: PudEntry | None = mm.puds.get(address >> PUD_SHIFT)
    return found


def pud_populate(mm: Any, start: int, end: int) -> None:
    """Give [start, end) bytes the PUD entries that its whole blocks need. Under mmap_lock W, before anybody walks.

    Source: arch/x86/include/asm/pgalloc.h pud_populate (which a walk calls when it comes there first).
    """
    for n in range(start + PUD_SIZE - 1 >> PUD_SHIFT, end >> PUD_SHIFT):
        if n not in mm.puds:
            mm.puds[n] = mm.machine.pud_entry(mm.name, n << PUD_SHIFT, mm.machine.page_label)


def pud_inherit(mm: Any, oldmm: Any) -> None:
    """Give a new mm the PUD entries that the one has that it is a copy of: a leaf may have stayed where no VMA covers
    its block whole any more.
    """
    for n in sorted(oldmm.puds):
        mm.puds[n] = mm.machine.pud_entry(mm.name, n << PUD_SHIFT, mm.machine.page_label)


def pud_leaf(entry: int) -> bool:
    """Is the PUD entry a 1G page?"""
    return bool(entry & PSE)


def ptep_get(table: PteTable, address: int) -> int:
    """Read one PTE (READ_ONCE)."""
    rt.point((READ_ONCE, table.cell(address), (), "get"))
    return table.peek_pte(address)


def ptep_walked(table: PteTable, address: int) -> None:
    """The CPU comes by the PTE and marks it accessed, if it is present.

    Of the CPU's own: the SDM, volume 3, 4.8. Source: none.
    """
    rt.point((TOUCH, table.cell(address), (), "walk"))
    entry = table.peek_pte(address)
    if entry & PRESENT:
        table.put(address, entry | ACCESSED)


def pte_run(table: PteTable, address: int, nr: int) -> tuple[int, int]:
    """Read the PTE, and as many of the ``nr`` from it on as go on with it: (entry, how many).

    None goes on with none; an entry with the same bits over the next frame.
    """
    rt.point((READ_ONCE, table.cell(address), (), "get"))
    return (table.peek_pte(address), 1) if nr == 1 else table.run(address, nr)


def pte_range_none(table: PteTable, address: int, nr: int) -> bool:
    """Are ``nr`` PTEs none?

    Source: mm/memory.c do_anonymous_page (to 6.1), pte_range_none (from 6.12).
    """
    return pte_run(table, address, nr) == (NONE, nr)


def set_pte_at(table: PteTable, address: int, entry: int) -> None:
    """Store one PTE (WRITE_ONCE). The PTL is held."""
    rt.point((WRITE_ONCE, table.cell(address), (), "set"))
    table.put(address, entry)


def set_ptes(table: PteTable, address: int, entry: int, nr: int) -> None:
    """Store ``nr`` PTEs for consecutive pages and consecutive frames, one after the other.

    Source: arch/x86/include/asm/pgtable.h set_pte_at (to 6.1), include/linux/pgtable.h set_ptes (from 6.12).
    """
    rt.point((WRITE_ONCE, table.cell(address), (), "set"))
    if nr == 1:
        table.put(address, entry)
    else:
        table.put_run(address, entry, nr)


def ptep_get_and_clear(table: PteTable, address: int) -> int:
    """Atomically exchange the PTE with none; returns what was there, the CPU's accessed and dirty bits included."""
    rt.point((TOUCH, table.cell(address), (), "get_and_clear"))
    old = table.peek_pte(address)
    table.put(address, NONE)
    return old


def get_and_clear_full_ptes(table: PteTable, address: int, nr: int) -> int:
    """``ptep_get_and_clear`` of a batch: the first of the entries that were there.

    Source: include/linux/pgtable.h ptep_get_and_clear_full (to 6.1), get_and_clear_full_ptes (from 6.12).
    """
    if nr == 1:
        return ptep_get_and_clear(table, address)
    old = table.peek_pte(address)
    table.put_run(address, NONE, nr)
    return old


def ptep_modify_prot_start(table: PteTable, address: int) -> int:
    """Begin changing a PTE: it is none until the commit, so that the CPU cannot set bits that would be lost."""
    return ptep_get_and_clear(table, address)


def ptep_modify_prot_commit(table: PteTable, address: int, entry: int) -> None:
    """End what ``ptep_modify_prot_start`` began."""
    set_pte_at(table, address, entry)


def ptep_set_wrprotect(table: PteTable, address: int) -> None:
    """Atomically clear the write bit; other bits may change under it."""
    rt.point((TOUCH, table.cell(address), (), "wrprotect"))
    table.put(address, stop_writing(table.peek_pte(address)))


def pmdp_huge_get_and_clear(slot: LeafSlot) -> int:
    """Atomically exchange the entry with none; returns what was there. For 1G leaves too (pudp_huge_get_and_clear)."""
    old: int = slot.xchg("entry", NONE)
    return old


def pte_offset_map_lock(table: PteTable) -> Any:
    """Take the lock over the PTE table; returns it.

    Source: include/linux/mm.h pte_offset_map_lock (to 6.12), mm/pgtable-generic.c pte_offset_map_lock (7.3).
    """
    table.ptl.lock()
    return table.ptl


def pte_unmap_unlock(ptl: Any) -> None:
    """Undo ``pte_offset_map_lock``."""
    ptl.unlock()
