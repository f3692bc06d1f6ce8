"""What does a remap_pfn_range leave behind that runs out of memory half way?

The VMA lies across two page-table pages, and the allocation of one of them may fail. Up to 6.10 the entries that are
written already stay until the mmap that has called the driver takes its VMA down; a driver that frees its frames as
soon as remap_pfn_range returns the error frees them under a live translation, for a CPU walks page tables without any
lock. From 6.11 on, and in the stable releases, remap_pfn_range zaps before it returns (79a61cc3fc04).

That zap untracks too, in the releases that untrack in every zap. Whoever comes second finds VM_PAT cleared: the
reservation is given back once, either way. But where not even the first page was mapped the zap's walk fails, with a
warning that means nothing.
"""

from mmlitmus.api import (
    EINVAL,
    ENOMEM,
    PAGE_SIZE,
    AddressSpace,
    File,
    Machine,
    VmArea,
    VmOperations,
    case,
    memtypes_at_rest,
    never,
    pat_memtype_list,
    releases,
    remap_pfn_range,
    sometimes,
)


class Remaps(VmOperations):
    """A driver that maps its BAR in ->mmap, and frees it (it answers no more) where that fails, if ``frees``."""

    def __init__(self, machine: Machine, frees: bool) -> None:
        self.pdev = machine.pci_device("dev", pages=2)
        self.frees = frees
        self.file = File("/dev/remaps", self, AddressSpace("remaps:mapping"))

    def mmap(self, file: File, vma: VmArea) -> int:
        vma.vm_ops = self
        size = vma.vm_end - vma.vm_start
        error = remap_pfn_range(vma, vma.vm_start, self.pdev.bars[0].pfn, size, vma.vm_page_prot)
        if error and self.frees:
            self.pdev.power("freed", False)
        return error


#: releases in which a failing remap_pfn_range leaves its entries
LEAVE = ("v5.10", "v6.1", "v6.6", "v6.9", "v6.10")
#: releases that zap, and untrack in every zap
ZAP = ("deb-5.10.262", "deb-6.1.192", "v6.12", "deb-6.12.117")


@case(
    "pfn/remap-fails",
    scenario="S-PFN-04",
    reach=("mmap returned", "ENOMEM", "EINVAL"),
    expect={
        **dict.fromkeys(LEAVE, never),
        **dict.fromkeys((f"{k} +remap-error-zap" for k in LEAVE), sometimes("untrack-walk-failed")),
        **dict.fromkeys(ZAP, sometimes("untrack-walk-failed")),
        **dict.fromkeys((f"{k} +untrack-in-unmap-vmas" for k in ZAP), never),
        **dict.fromkeys((f"{k} +pfnmap-track-ctx" for k in (*LEAVE, *ZAP)), never),
        **releases("v6.16", "deb-7.3.4", never),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def remap_fails(m: Machine) -> None:
    """Is the reservation given back, once, when remap_pfn_range runs out of memory?

    (Without memory for the reservation itself it gives -EINVAL; for page tables, or 6.16's tracking object, -ENOMEM.)
    """
    m.failures = 1
    m.check(lambda: memtypes_at_rest(m))
    dev = Remaps(m, frees=False)
    app = m.process("app")

    @m.task
    def mmap() -> None:
        got = app.mmap(dev.file, 2, at=m.slot("a") + 511 * PAGE_SIZE)
        m.reached({-ENOMEM: "ENOMEM", -EINVAL: "EINVAL"}.get(got, "mmap returned"))
        reserved = len(pat_memtype_list(m)) - 1
        m.require(reserved == (got > 0), "wrong-count", f"mmap gives {got}, and {reserved} ranges are reserved")


@case(
    "pfn/remap-fails/frames-freed",
    scenario="S-PFN-04",
    fix="79a61cc3fc04",
    asks=("access-after-disable",),
    reach=("dev is off", "read got through", "read got SIGSEGV"),
    expect={
        **dict.fromkeys(LEAVE, sometimes("access-after-disable")),
        **dict.fromkeys((f"{k} +remap-error-zap" for k in LEAVE), sometimes("untrack-walk-failed")),
        **dict.fromkeys(ZAP, sometimes("untrack-walk-failed")),
        **releases("v6.16", "deb-7.3.4", never),
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def frames_freed(m: Machine) -> None:
    """... and may a driver free its frames as soon as remap_pfn_range has failed?"""
    m.failures = 1
    m.faults = 1
    dev = Remaps(m, frees=True)
    app = m.process("app")

    @m.task
    def mmap() -> None:
        app.mmap(dev.file, 2, at=m.slot("a") + 511 * PAGE_SIZE)

    @m.task
    def read() -> None:
        m.saw(app.read(m.slot("a") + 511 * PAGE_SIZE))
