"""What does get_user_pages say of memory that has no page?

A VMA that is VM_IO or VM_PFNMAP is refused before anything is looked at. In another a driver may have put a frame
number by vmf_insert_mixed; the entry is special, and the fast path stops at it. The slow path says -EEXIST since
5.18. Before, it refused who wants a reference, and told who wants a pin that he has it: the slot of his array was
never written, and giving it back takes whatever is in it for a page. On a real 5.10 process_vm_readv of such a
mapping oopses.
"""

from mmlitmus.api import (
    EEXIST,
    EFAULT,
    FOLL_FORCE,
    FOLL_LONGTERM,
    FOLL_WRITE,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    AddressSpace,
    File,
    Machine,
    VmArea,
    VmFault,
    VmOperations,
    always,
    case,
    never,
    releases,
    vm_flags_set,
    vmf_insert_mixed,
    vmf_insert_pfn,
)
from mmlitmus.kernel.mm.page_alloc import ZERO_PFN

RECORDED = dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded")
HOW = ("slow", "remote", "fast")


class Device(VmOperations):
    """A driver that gives its mappings some flags, and inserts a frame number when they are touched."""

    def __init__(self, m: Machine, flags: int) -> None:
        self.flags = flags
        self.insert = vmf_insert_mixed if flags & VM_MIXEDMAP else vmf_insert_pfn
        self.bar = m.pci_device("card", 1).bars[0]
        self.file = File("/dev/card", self, AddressSpace("card:mapping"))

    def mmap(self, file: File, vma: VmArea) -> int:
        vm_flags_set(vma, self.flags)
        vma.vm_ops = self
        return 0

    def fault(self, vmf: VmFault) -> int:
        return self.insert(vmf.vma, vmf.address, self.bar.pfn)


def ask(m: Machine, flags: int, get: tuple[int, ...], pin: tuple[int, ...]) -> None:
    """One thread asks for a page of the driver's in every way; ``get``, ``pin``: the answers that will do."""
    app = m.process("app")
    a = app.mmap(Device(m, flags).file, 1)

    @m.task
    def task() -> None:
        app.read(a)
        for foll in (0, FOLL_WRITE, FOLL_WRITE | FOLL_FORCE):
            for how in HOW:
                got, _ = app.get(a, 1, foll, how=how)
                m.require(got in get, "wrong-errno", f"get_user_pages {how} gives {got}")
                for more in (0, FOLL_LONGTERM):
                    got, pages = app.pin(a, 1, foll | more, how=how)
                    m.require(got in pin, "wrong-errno", f"pin_user_pages {how} gives {got}")
                    m.require(got <= 0 or None not in pages.folios, "slot-unfilled", "a pin without a page")
            got, _ = app.get(a, 1, foll & FOLL_WRITE, how="fast_only")
            m.require(got == 0, "wrong-errno", f"the fast path alone gets {got}")
        m.reached("everything was asked")


@case(
    "gup/special-entry",
    control="gup/special-entry/mixed",
    scenario="Z9",
    thread="001",
    reach=("everything was asked",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=RECORDED,
)
def pfnmap(m: Machine) -> None:
    """May device memory be pinned that is mapped as VM_PFNMAP?"""
    ask(m, VM_PFNMAP, (-EFAULT,), (-EFAULT,))


@case(
    "gup/special-entry/io",
    control="gup/special-entry/mixed",
    scenario="Z10",
    reach=("everything was asked",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=RECORDED,
)
def io(m: Machine) -> None:
    """... as VM_IO and VM_MIXEDMAP?"""
    ask(m, VM_IO | VM_MIXEDMAP, (-EFAULT,), (-EFAULT,))


@case(
    "gup/special-entry/mixed",
    scenario="Z10",
    reach=("everything was asked",),
    expect={
        **releases("v5.10", "deb-5.10.262", always("slot-unfilled")),
        "v5.14": always("slot-unfilled"),
        "v5.19": never,
        **releases("v6.1", "deb-7.3.4", never),
    },
    evidence=RECORDED,
)
def mixed(m: Machine) -> None:
    """... as VM_MIXEDMAP alone?"""
    old = m.kernel.choices["follow_pfn_pte"] == "slot-left"
    ask(m, VM_MIXEDMAP, (-EFAULT,) if old else (-EEXIST,), (1,) if old else (-EEXIST,))


@case(
    "gup/special-entry/process-vm-readv",
    scenario="Z10",
    reach=("somebody asked",),
    expect={
        **releases("v5.10", "deb-5.10.262", always("unfilled-slot")),
        "v5.14": always("unfilled-slot"),
        "v5.19": never,
        **releases("v6.1", "deb-7.3.4", never),
    },
    evidence=RECORDED,
)
def readv(m: Machine) -> None:
    """... and read by process_vm_readv?"""
    app = m.process("app")
    a = app.mmap(Device(m, VM_MIXEDMAP).file, 1)

    @m.task
    def process_vm_readv() -> None:
        m.reached("somebody asked")
        got = app.process_vm_readv(a, 1)
        m.require(got == -EFAULT or got > 0, "wrong-errno", f"process_vm_readv gives {got}")


class ZeroPage(VmOperations):
    """A driver that maps the zero page where it has nothing yet, as a file system does in a hole."""

    def __init__(self, m: Machine) -> None:
        m.zero_page()
        self.file = File("/dev/holes", self, AddressSpace("holes:mapping"))

    def mmap(self, file: File, vma: VmArea) -> int:
        vm_flags_set(vma, VM_MIXEDMAP)
        vma.vm_ops = self
        return 0

    def fault(self, vmf: VmFault) -> int:
        return vmf_insert_mixed(vmf.vma, vmf.address, ZERO_PFN)

    def pfn_mkwrite(self, vmf: VmFault) -> int:
        return 0


@case(
    "gup/special-entry/zero-page",
    scenario="Z1",
    thread="001",
    reach=("somebody asked",),
    expect={
        **releases("v5.10", "v6.10", always("zero-page-pinned")),
        **dict.fromkeys(("v5.14", "v5.19", "v6.0"), always("zero-page-pinned")),
        **releases("v6.12", "deb-7.3.4", never),
    },
    evidence=dict.fromkeys(("deb-6.12.117", "deb-7.3.4"), "source"),
)
def zero_page(m: Machine) -> None:
    """May a driver map the zero page into a shared mapping, and is it pinned there for long? (From 6.11: SIGBUS.)"""
    app = m.process("app")
    a = app.mmap(ZeroPage(m).file, 1)

    @m.task
    def pin() -> None:
        got, pages = app.pin(a, 1, FOLL_LONGTERM)
        m.require(
            ZERO_PFN not in pages.pfns, "zero-page-pinned", "what is pinned is the zero page, in a shared mapping"
        )
        m.require(got in (1, -EFAULT), "wrong-errno", f"the pin gives {got}")
        m.reached("somebody asked")
