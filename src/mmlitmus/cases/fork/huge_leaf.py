"""Does fork copy a huge leaf of device memory, and as it is?

Up to 5.19 a 2M leaf is left to the child's own faults, like everything else that a fault can bring back; a 1G leaf is
copied, and write-protected on both sides although the memory is shared. 6.12 copies both, and leaves shared ones
writable.

6.12 takes the 2M leaf as it was before its lock was held, for mmap_lock is held for writing. But a zap through the
reverse map (unmap_mapping_range) has no mmap_lock: it can clear the parent's leaf and find the child's empty before the
child's is written. From 6.0 to 6.11 no mapping of device memory has a leaf (mm/huge_memory.c hugepage_vma_check).
From 6.12 on a child can so be born with a leaf of a BAR that has been revoked; a 1G leaf, and a
page, are looked at under the lock. Found by execution; read in 6.12.117 and 7.3.4, not run on a real kernel.
"""

from mmlitmus.api import (
    PAGE_SIZE,
    PMD_SIZE,
    PUD_SIZE,
    Machine,
    always,
    case,
    leaves_are_sound,
    never,
    releases,
    sometimes,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.drivers.vfio.pci import open_device
from mmlitmus.kernel.uapi import Process

PSE = 1 << 7
RW = 1 << 1
ADDRESS = 0x7F80_0000_0000
SOURCE = dict.fromkeys(("deb-6.12.117", "deb-7.3.4"), "source")
SOURCE_ALL = {**SOURCE, **dict.fromkeys(("deb-5.10.262", "deb-6.1.192"), "source")}


@case(
    "fork/huge-leaf",
    reach=("touched",),
    expect={
        **releases("v5.10", "deb-5.10.262", never),
        "v5.14": never,
        **releases("v6.1", "v6.10", always("no-leaf")),
        **releases("v6.12", "deb-7.3.4", always("child-has-leaf")),
    },
    evidence=SOURCE_ALL,
)
def leaf_of_2m(m: Machine) -> None:
    """Has the child its parent's 2M leaf at once?"""
    probe = open_probe(m, pages=PMD_SIZE // PAGE_SIZE)
    app = m.process("app")
    a = app.mmap(probe.file("huge"), PMD_SIZE // PAGE_SIZE)

    @m.task
    def fork() -> None:
        app.read(a)
        m.reached("touched")
        m.require(bool(app.pte(a) & PSE), "no-leaf", f"the parent has {app.pte(a):#x}")
        child = app.fork("child")
        assert isinstance(child, Process)
        m.require(not child.pte(a) & PSE, "child-has-leaf", f"the child has {child.pte(a):#x}")
        m.require(not isinstance(child.read(a), str), "child-cannot-read", "the child's access fails")


@case(
    "fork/huge-leaf/1g",
    reach=("touched",),
    expect={
        **releases("v5.10", "deb-5.10.262", always("write-protected")),
        "v5.14": always("write-protected"),
        **releases("v6.1", "v6.10", always("no-leaf")),
        **releases("v6.12", "deb-7.3.4", never),
    },
    evidence=SOURCE_ALL,
)
def leaf_of_1g(m: Machine) -> None:
    """Is a shared 1G leaf that may be written still writable afterwards, for parent and child?"""
    pages = PUD_SIZE // PAGE_SIZE
    probe = open_probe(m, pages=pages, pfn=4 * pages)
    app = m.process("app")
    a = app.mmap(probe.file("huge"), pages, at=ADDRESS)

    @m.task
    def fork() -> None:
        app.write(a)
        m.reached("touched")
        entry = app.pte(a)
        m.require(bool(entry & PSE and entry & RW), "no-leaf", f"the parent has {entry:#x}")
        child = app.fork("child")
        assert isinstance(child, Process)
        for one in (app, child):
            entry = one.pte(a)
            m.require(bool(entry & RW), "write-protected", f"{one.name} has {entry:#x}")
            m.require(one.write(a) == 0, "cannot-write", f"{one.name} cannot write")


@case(
    "fork/huge-leaf/vs-disable",
    scenario="S-FORK-01",
    thread="004",
    asks=("stale-translation", "access-after-disable", "entry-under-leaf"),
    reach=("a leaf", "dev is off", "forked"),
    expect={
        **releases("v6.12", "deb-7.3.4", sometimes("stale-translation")),
        **releases("v6.12", "deb-7.3.4", never, "+copy-huge-pmd-locked"),
    },
    evidence=SOURCE,
)
def leaf_vs_disable(m: Machine) -> None:
    """Can a child be born with a 2M leaf that a disable of the device has missed?"""
    dev = open_device(m, pages=PMD_SIZE // PAGE_SIZE)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, PMD_SIZE // PAGE_SIZE)
    qemu.read(bar)
    m.check(lambda: leaves_are_sound(m))

    @m.task
    def fork() -> None:
        if qemu.pte(bar) & PSE:
            m.reached("a leaf")
        qemu.fork("child")
        m.reached("forked")

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)


@case(
    "fork/huge-leaf/1g-vs-disable",
    scenario="S-FORK-01",
    thread="004",
    asks=("stale-translation", "access-after-disable", "entry-under-leaf"),
    reach=("a leaf", "dev is off", "forked"),
    expect={
        **releases("v6.12", "deb-7.3.4", never),
        "v6.12 +fork-link-after-copy": sometimes("stale-translation"),
    },
    evidence=SOURCE,
)
def leaf_of_1g_vs_disable(m: Machine) -> None:
    """... and with a 1G leaf?"""
    pages = PUD_SIZE // PAGE_SIZE
    dev = open_device(m, pages=pages)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, pages, at=ADDRESS)
    qemu.read(bar)

    @m.task
    def fork() -> None:
        if qemu.pte(bar) & PSE:
            m.reached("a leaf")
        qemu.fork("child")
        m.reached("forked")

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
