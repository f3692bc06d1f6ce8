"""Can a zap through the reverse map undo a change of vm_flags, or the change undo the zap's?

Up to 6.15 such a zap clears VM_PAT: it reads vm_flags and writes them back, with i_mmap_rwsem held and without
mmap_lock. mprotect and madvise do the same under mmap_lock for writing, which keeps everybody else out who needs it.
Between the two there is no lock. One change is lost: the process's, whose VMA then is not what mprotect has said; or
the zap's, and VM_PAT comes back for a reservation that is gone. The next zap or munmap frees it again.

The untracking in unmap_vmas ends it, for no zap untracks then. So does 6.16, which has no VM_PAT. (VFIO from 6.10 on
has none either; before, it held mmap_lock for reading when it zapped.)
"""

from mmlitmus.api import (
    MADV_DONTFORK,
    PROT_READ,
    Finding,
    Machine,
    always,
    case,
    never,
    pat_memtype_list,
    pci_iomap,
    releases,
    sometimes,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.drivers.vfio.pci import open_device

LOST = "lost-flags-update"
#: v6.10's follow_pte asserts mmap_lock, which a zap through the reverse map does not hold (locks/untrack-walk)
ASSERTED = always("mmap_assert_locked")
SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")
EXPECT = {
    **releases("v5.10", "deb-6.12.117", sometimes(LOST)),
    "v6.10": sometimes(LOST) & ASSERTED,
    **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
    **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    **releases("v6.16", "deb-7.3.4", never),
}


@case(
    "locks/lost-flags-update",
    scenario="S-LOCK-05",
    thread="000",
    claims=("C000-41", "N3"),
    asks=(LOST,),
    reach=("protected", "zapped"),
    expect=EXPECT,
    evidence=SOURCE,
)
def mprotect(m: Machine) -> None:
    """Can a zap through the reverse map undo an mprotect, or an mprotect the zap's clearing of VM_PAT?"""
    probe = open_probe(m, pages=1)
    app, driver = m.process("app"), m.process("driver")
    a = app.mmap(probe.file("remap"), 1)

    @m.task
    def protect() -> None:
        if app.mprotect(a, 1, PROT_READ) == 0:
            m.reached("protected")

    @m.task(process=driver)
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zapped")


@case(
    "locks/lost-flags-update/madvise",
    scenario="S-LOCK-05",
    thread="000",
    claims=("C000-41", "N3"),
    asks=(LOST,),
    reach=("advised", "zapped"),
    expect=EXPECT,
    evidence=SOURCE,
)
def madvise(m: Machine) -> None:
    """... or a madvise?"""
    probe = open_probe(m, pages=1)
    app, driver = m.process("app"), m.process("driver")
    a = app.mmap(probe.file("remap"), 1)

    @m.task
    def advise() -> None:
        if app.madvise(a, 1, MADV_DONTFORK) == 0:
            m.reached("advised")

    @m.task(process=driver)
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zapped")


@case(
    "locks/lost-flags-update/mlock",
    scenario="S-LOCK-05",
    thread="000",
    claims=("C000-41", "N3"),
    asks=(LOST,),
    reach=("locked", "zapped"),
    expect={**releases("v5.10", "deb-7.3.4", never), "v6.10": ASSERTED},
    evidence=SOURCE,
)
def mlock(m: Machine) -> None:
    """... or an mlock? (It leaves a special mapping's flags alone, and says 0.)"""
    probe = open_probe(m, pages=1)
    app, driver = m.process("app"), m.process("driver")
    a = app.mmap(probe.file("remap"), 1)

    @m.task
    def lock() -> None:
        if app.mlock(a, 1) == 0:
            m.reached("locked")

    @m.task(process=driver)
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)
        m.reached("zapped")


@case(
    "locks/lost-flags-update/what-is-lost",
    scenario="S-LOCK-05",
    thread="000",
    claims=("C000-41", "N3"),
    asks=("advice-lost", "vm-pat-back"),
    expect={
        **releases("v5.10", "deb-6.12.117", sometimes("advice-lost", "vm-pat-back")),
        "v6.10": sometimes("advice-lost", "vm-pat-back") & ASSERTED,
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v6.16", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def what_is_lost(m: Machine) -> None:
    """... and whose change is it that is lost? Either's."""
    probe = open_probe(m, pages=1)
    app, driver = m.process("app"), m.process("driver")
    a = app.mmap(probe.file("remap"), 1)

    @m.task
    def advise() -> None:
        app.madvise(a, 1, MADV_DONTFORK)

    @m.task(process=driver)
    def zap() -> None:
        probe.unmap_mapping_range(0, 1)

    @m.check
    def flags() -> list[Finding]:
        letters = app.vm_flags(a).split()
        found = []
        if "dc" not in letters:
            found.append(Finding("invariant", "advice-lost", "MADV_DONTFORK has returned, and fork will copy the VMA"))
        if "ar" in letters and len(pat_memtype_list(m)) == 1:
            found.append(Finding("invariant", "vm-pat-back", "the VMA was untracked, and has VM_PAT again"))
        return found


@case(
    "locks/lost-flags-update/freed-again",
    scenario="S-LOCK-05",
    thread="000",
    claims=("C000-41", "N3"),
    asks=("memtype-double-free", "memtype-steal"),
    reach=("advised", "unmapped"),
    expect={
        **releases("v5.10", "deb-6.12.117", sometimes("memtype-double-free", "memtype-steal")),
        "v6.10": sometimes("memtype-double-free", "memtype-steal") & ASSERTED,
        **releases("v5.10", "deb-6.12.117", never, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
        **releases("v6.16", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def freed_again(m: Machine) -> None:
    """... and is another owner's reservation freed for it? The driver has an ioremap of its BAR.

    The zap takes page 1 away, so that munmap, which comes after it, finds the frames by page 0.
    """
    probe = open_probe(m, pages=2)
    pci_iomap(m, probe.pdev)
    app = m.process("app")
    a = app.mmap(probe.file("remap"), 2)

    @m.task
    def advise() -> None:
        if app.madvise(a, 2, MADV_DONTFORK) == 0:
            m.reached("advised")

    @m.task
    def zap_and_unmap() -> None:
        probe.unmap_mapping_range(1, 1)
        if app.munmap(a, 2) == 0:
            m.reached("unmapped")


@case(
    "locks/lost-flags-update/vfio",
    control="locks/lost-flags-update",
    scenario="S-LOCK-05",
    thread="000",
    claims=("C000-11",),
    asks=(LOST,),
    reach=("protected", "dev is off"),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=SOURCE,
)
def vfio(m: Machine) -> None:
    """... and VFIO's revocation of a BAR?"""
    dev = open_device(m, pages=1)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 1)
    qemu.read(bar)

    @m.task
    def protect() -> None:
        if qemu.mprotect(bar, 1, PROT_READ) == 0:
            m.reached("protected")

    @m.task
    def disable() -> None:
        dev.write_command(memory=False)
