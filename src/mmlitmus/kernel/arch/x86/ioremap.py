"""ioremap and its relatives: the kernel's own mappings of device memory, and reservations without a mapping.

A mapping is there from the moment that its entries are written until they are removed; the live ones are a ghost of the
database (``machine.memtypes.ioremaps``), so that an invariant can compare their types with those of other mappings.
Sizes and addresses are bytes. Where the kernel returns NULL, these functions return None.

Left out: huge mappings, the encrypted and early variants, mmiotrace, and the addresses themselves. iounmap of nothing
does nothing; that it is a WARN in 6.12 but not in 6.1 is not modelled.

Source: arch/x86/mm/ioremap.c, arch/x86/mm/pat/memtype.c, lib/pci_iomap.c (to 6.1), drivers/pci/iomap.c (from 6.12),
functions of the same name; 6.1.192 and 6.12.117. Of the model's own: IoMapping.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mmlitmus.explore.findings import bug, report
from mmlitmus.explore.primitives.choice import may_fail
from mmlitmus.explore.runtime import current
from mmlitmus.explore.state import look, touch
from mmlitmus.kernel.errno import EBUSY
from mmlitmus.kernel.sync.might import might_alloc

from .cachemode import CacheMode, PatTable, pgprot2cachemode
from .e820 import PAGE_SHIFT, PAGE_SIZE
from .pat import (
    PHYSICAL_MASK,
    MemtypeOwner,
    is_new_memtype_allowed,
    memtype_free,
    memtype_kernel_map_sync,
    memtype_reserve,
    printk,
)

_U64 = (1 << 64) - 1


class IoMapping(NamedTuple):
    """A live mapping of [start, end), whole pages; ``offset`` is where in it the caller's address was.

    ``type`` is what was reserved, ``prot`` the cache bits of its entries (as those of 4K pages).
    """

    name: str
    start: int
    end: int
    offset: int
    type: CacheMode
    prot: int
    owner: MemtypeOwner

    def translation_type(self, pat: PatTable) -> CacheMode:
        """What the entries' bits mean to the CPU."""
        return pgprot2cachemode(self.prot, pat)


def ioremap(machine: Any, phys_addr: int, size: int, owner: MemtypeOwner | None = None) -> IoMapping | None:
    """Map device memory UC-, or with what it is reserved with already."""
    return _ioremap_caller(machine, phys_addr, size, CacheMode.UC_MINUS, owner)


def ioremap_uc(machine: Any, phys_addr: int, size: int, owner: MemtypeOwner | None = None) -> IoMapping | None:
    """Map device memory strongly uncached, if nobody has reserved it otherwise."""
    return _ioremap_caller(machine, phys_addr, size, CacheMode.UC, owner)


def ioremap_wc(machine: Any, phys_addr: int, size: int, owner: MemtypeOwner | None = None) -> IoMapping | None:
    """Map device memory write-combining, or uncached where it is reserved so; not over write-back."""
    return _ioremap_caller(machine, phys_addr, size, CacheMode.WC, owner)


def ioremap_wt(machine: Any, phys_addr: int, size: int, owner: MemtypeOwner | None = None) -> IoMapping | None:
    """Map device memory write-through, or uncached where it is reserved so."""
    return _ioremap_caller(machine, phys_addr, size, CacheMode.WT, owner)


def ioremap_cache(machine: Any, phys_addr: int, size: int, owner: MemtypeOwner | None = None) -> IoMapping | None:
    """Map device memory write-back where MTRRs and earlier reservations let it."""
    return _ioremap_caller(machine, phys_addr, size, CacheMode.WB, owner)


def ioremap_prot(
    machine: Any, phys_addr: int, size: int, prot: int, owner: MemtypeOwner | None = None
) -> IoMapping | None:
    """Map memory with the type that an entry has, or a protection."""
    return _ioremap_caller(machine, phys_addr, size, pgprot2cachemode(prot, machine.memtypes.pat), owner)


def _ioremap_caller(
    machine: Any, phys_addr: int, size: int, mode: CacheMode, owner: MemtypeOwner | None
) -> IoMapping | None:
    """Refuse RAM; reserve; check the type; keep the direct map in step; map. Each step is undone if a later one fails.

    None: nothing to map, RAM (a WARN), a reservation or an allocation that failed, a type that is not allowed.
    """
    phys_addr &= _U64
    last = phys_addr + size - 1 & _U64
    if size <= 0 or last < phys_addr:
        return None
    if phys_addr > PHYSICAL_MASK:
        printk(machine, "ioremap-invalid-address", f"ioremap: invalid physical address {phys_addr:x}")
        report("WARN", "ioremap-invalid-address", f"{current().name} maps {phys_addr:#x}, which no bus has")
        return None
    if _is_used_ram(machine, phys_addr, last + 1):
        report("WARN", "ioremap-on-ram", f"ioremap on RAM at {phys_addr:#018x} - {last:#018x}")
        return None
    start = phys_addr & -PAGE_SIZE & PHYSICAL_MASK
    length = (last + PAGE_SIZE & -PAGE_SIZE) - (phys_addr & -PAGE_SIZE)
    end = start + length
    owner = owner or MemtypeOwner(_new_name())
    error, got = memtype_reserve(machine, start, end, mode, True, owner)
    if error:
        printk(machine, "ioremap-reserve-failed", f"ioremap memtype_reserve failed {error}")
        return None
    assert got is not None
    if got != mode and not is_new_memtype_allowed(start, length, mode, got):
        what = f"for {start:#x}-{end:#x}, requested {mode:#x}, got {got:#x}"
        printk(machine, "ioremap-wrong-type", f"ioremap error {what}")
        memtype_free(machine, start, end, owner)
        return None
    might_alloc(machine)
    if may_fail("get_vm_area", machine.failures):
        memtype_free(machine, start, end, owner)
        return None
    if memtype_kernel_map_sync(machine, start, length, got):
        memtype_free(machine, start, end, owner)
        return None
    if may_fail("ioremap_page_range", machine.failures):
        memtype_free(machine, start, end, owner)
        return None
    db = machine.memtypes
    bits = CacheMode.UC if got == CacheMode.WP else got
    mapping = IoMapping(owner.name, start, end, phys_addr - start, got, db.pat.protval[bits], owner)
    touch(db.oid("ioremaps"))
    db.ioremaps = (*db.ioremaps, mapping)
    if machine.e820.spans_resources(phys_addr, size):
        printk(machine, "ioremap-multiple-bars", f"caller {current().name} mapping multiple BARs")
    return mapping


def _new_name() -> str:
    task = current()
    return f"ioremap#{task.name}.{task.count('ioremap')}"


def _is_used_ram(machine: Any, start: int, end: int) -> bool:
    """Is some whole page of it System RAM that is not PageReserved?"""
    e820 = machine.e820
    for first, last in e820.system_ram(start + PAGE_SIZE - 1 >> PAGE_SHIFT, end >> PAGE_SHIFT):
        if any(not e820.page_reserved(pfn) for pfn in range(first, last)):
            return True
    return False


def iounmap(machine: Any, mapping: IoMapping | None) -> None:
    """Give the reservation back, then unmap: in between, the type is free and the mapping still there."""
    if mapping is None:
        return
    db = machine.memtypes
    look((db.oid("ioremaps"),))
    if not any(m is mapping for m in db.ioremaps):
        printk(machine, "iounmap-bad-address", f"iounmap: bad address {mapping.name}")
        return
    memtype_free(machine, mapping.start, mapping.end, mapping.owner)
    touch(db.oid("ioremaps"))
    if not any(m is mapping for m in db.ioremaps):
        bug("iounmap-twice", f"{current().name} removes {mapping.name}, which somebody else has removed meanwhile")
    db.ioremaps = tuple(m for m in db.ioremaps if m is not mapping)


def pci_iomap(
    machine: Any, device: Any, bar: int = 0, maxlen: int = 0, owner: MemtypeOwner | None = None
) -> IoMapping | None:
    """Map a BAR, or its first ``maxlen`` bytes, UC-; None if there is no such BAR."""
    return _pci_iomap(machine, device, bar, maxlen, CacheMode.UC_MINUS, owner)


def pci_iomap_wc(
    machine: Any, device: Any, bar: int = 0, maxlen: int = 0, owner: MemtypeOwner | None = None
) -> IoMapping | None:
    """Map a BAR, or its first ``maxlen`` bytes, write-combining; None if there is no such BAR."""
    return _pci_iomap(machine, device, bar, maxlen, CacheMode.WC, owner)


def _pci_iomap(
    machine: Any, device: Any, bar: int, maxlen: int, mode: CacheMode, owner: MemtypeOwner | None
) -> IoMapping | None:
    resource = next((b for b in device.bars if b.index == bar), None)
    if resource is None or not resource.pages:
        return None
    length = resource.pages << PAGE_SHIFT
    if maxlen and length > maxlen:
        length = maxlen
    return _ioremap_caller(machine, resource.pfn << PAGE_SHIFT, length, mode, owner)


# -- reservations without a mapping -----------------------------------------------------------------------------------
def memtype_reserve_io(
    machine: Any, start: int, end: int, type: CacheMode, owner: MemtypeOwner | None = None
) -> tuple[int, CacheMode]:
    """Reserve [start, end) for mappings to come (io_mapping): (0 or an errno, the type to map with).

    -EBUSY: the type there is not allowed instead, or the direct map cannot follow; and what memtype_reserve says.
    """
    if end > start and machine.e820.spans_resources(start, end - start):
        report("WARN", "io-spans-resources", f"{current().name} reserves {start:#x}-{end:#x}, more than one BAR")
    error, got = memtype_reserve(machine, start, end, type, True, owner)
    if error:
        return error, type
    assert got is not None
    if not is_new_memtype_allowed(start, end - start, type, got) or (
        memtype_kernel_map_sync(machine, start, end - start, got) < 0
    ):
        memtype_free(machine, start, end, owner)
        return -EBUSY, type
    return 0, got


def memtype_free_io(machine: Any, start: int, end: int, owner: MemtypeOwner | None = None) -> None:
    """Undo ``memtype_reserve_io``."""
    memtype_free(machine, start, end, owner)


def arch_io_reserve_memtype_wc(machine: Any, start: int, size: int, owner: MemtypeOwner | None = None) -> int:
    """A graphics driver reserves its aperture write-combining: 0 or an errno. UC- is as good, if it is there."""
    error, _ = memtype_reserve_io(machine, start, start + size, CacheMode.WC, owner)
    return error


def arch_io_free_memtype_wc(machine: Any, start: int, size: int, owner: MemtypeOwner | None = None) -> None:
    """Undo ``arch_io_reserve_memtype_wc``."""
    memtype_free_io(machine, start, start + size, owner)
