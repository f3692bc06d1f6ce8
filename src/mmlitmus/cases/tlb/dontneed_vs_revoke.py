"""Can a revoke miss a translation that MADV_DONTNEED has cleared and not flushed yet?

A driver maps its device in a VM_MIXEDMAP and takes it back through unmap_mapping_range. Whoever zaps beside an open
gather flushes for it; but a munmap that finds the page gone already has nothing to flush before it takes the VMA out of
the reverse map, and then a revoke finds nothing to zap. Up to 6.16 MADV_DONTNEED has mmap_lock until it has flushed, so
that no munmap can come. From 6.17 on it has the VMA's lock, and gives that up before it flushes. (5.10 as released
flushes too late in munmap itself: `tlb/munmap-vs-disable`.)
"""

from mmlitmus.api import (
    MADV_DONTNEED,
    VM_IO,
    VM_MIXEDMAP,
    AddressSpace,
    File,
    Machine,
    VmArea,
    VmFault,
    VmOperations,
    case,
    never,
    revoked_now,
    sometimes,
    unmap_mapping_range,
    vm_flags_set,
    vmf_insert_mixed,
)


class Mixed(VmOperations):
    """A device whose pages are mapped when they are touched, and taken away before it is switched off."""

    def __init__(self, m: Machine) -> None:
        self.pdev = m.pci_device("dev", 1)
        self.mapping = AddressSpace("dev:mapping")
        self.file = File("/dev/dev", self, self.mapping)

    def mmap(self, file: File, vma: VmArea) -> int:
        vm_flags_set(vma, VM_IO | VM_MIXEDMAP)
        vma.vm_ops = self
        return 0

    def fault(self, vmf: VmFault) -> int:
        result: int = vmf_insert_mixed(vmf.vma, vmf.address, self.pdev.bars[0].pfn)
        return result

    def revoke(self) -> None:
        unmap_mapping_range(self.mapping, 0, 0)
        self.pdev.power("revoked", False)


@case(
    "tlb/dontneed-vs-revoke",
    engine="stateful",
    asks=("stale-translation",),
    reach=("dev is off", "advised"),
    expect={
        "v5.10": sometimes("stale-translation"),
        "deb-5.10.262": never,
        "deb-6.12.117": never,
        "v6.16": never,
        "v6.18": sometimes("stale-translation"),
        "deb-7.3.4": sometimes("stale-translation"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.12.117", "deb-7.3.4"), "source"),
)
def dontneed_vs_revoke(m: Machine) -> None:
    dev = Mixed(m)
    app = m.process("app")
    at = app.mmap(dev.file, 1)
    app.read(at)

    @m.task(warm=(at,))
    def dontneed() -> None:
        if app.madvise(at, 1, MADV_DONTNEED) == 0:
            m.reached("advised")

    @m.task
    def munmap() -> None:
        app.munmap(at, 1)

    @m.task
    def revoke() -> None:
        dev.revoke()
        revoked_now(m, dev.pdev)
