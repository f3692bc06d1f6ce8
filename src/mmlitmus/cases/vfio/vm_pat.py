"""Does VFIO ever set VM_PAT?

Up to 6.9 its fault handler maps the whole VMA with remap_pfn_range, which reserves the frames' memtype for it: a VMA
has VM_PAT ("ar" among smaps' VmFlags) from its first fault on, and loses it when it is zapped. From 6.10 on nothing
calls remap_pfn_range: what a fault inserts has the type that is looked up, and the only reservation is that of the
BAR's own mapping in the kernel, made when a BAR is first mapped.
"""

from mmlitmus.api import Machine, always, case, memtypes_at_rest, never, pat_memtype_list, releases
from mmlitmus.kernel.drivers.vfio.pci import open_device

SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


@case(
    "vfio/vm-pat",
    scenario="S-VFIO-01",
    thread="000",
    claims=("C000-01", "C000-11"),
    asks=("vm-pat-set", "vm-pat-in-mmap"),
    reach=("touch got through",),
    expect={
        **releases("v5.10", "v6.9", always("vm-pat-set")),
        **releases("v6.10", "deb-7.3.4", never),
        "v6.6 +insert-loop": never,
        "v6.6 +unmap-mapping-range": never,
        "v6.6 +pfnmap-track-ctx": never,
        "v6.12 +untrack-in-unmap-vmas": never,
    },
    evidence=SOURCE,
)
def vm_pat(m: Machine) -> None:
    """Has a VMA of VFIO's VM_PAT when it has been touched?"""
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2)

    @m.task
    def touch() -> None:
        m.require("ar" not in qemu.vm_flags(bar).split(), "vm-pat-in-mmap", "VFIO's mmap has set VM_PAT")
        m.saw(qemu.read(bar))
        m.require("ar" not in qemu.vm_flags(bar).split(), "vm-pat-set", "VFIO's fault handler has set VM_PAT")


@case(
    "vfio/vm-pat/disabled",
    scenario="S-VFIO-01",
    thread="000",
    claims=("C000-01", "C000-11", "C004-09"),
    reach=("touch_and_disable got through", "dev is off"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "v6.9", always("vm-pat-kept"), "+untrack-in-unmap-vmas"),
        "v6.12 +untrack-in-unmap-vmas": never,
    },
    evidence=SOURCE,
)
def vm_pat_when_disabled(m: Machine) -> None:
    """... and when memory was disabled since?"""
    m.check(lambda: memtypes_at_rest(m))
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    bar = qemu.mmap(dev.file, 2)

    @m.task
    def touch_and_disable() -> None:
        m.saw(qemu.read(bar))
        dev.write_command(memory=False)
        m.require("ar" not in qemu.vm_flags(bar).split(), "vm-pat-kept", "the BAR was zapped, and VM_PAT is still set")


@case(
    "vfio/vm-pat/barmap",
    scenario="S-VFIO-01",
    thread="000",
    claims=("C000-14", "C000-22"),
    reach=("touch got through", "the kernel has it reserved"),
    expect={
        **releases("v5.10", "v6.9", always("reserved-twice")),
        **releases("v6.10", "deb-7.3.4", never),
    },
    evidence=SOURCE,
)
def barmap_holds_the_type(m: Machine) -> None:
    """How often are a BAR's frames reserved: by the kernel's own mapping alone, or by the VMA too?"""
    m.check(lambda: memtypes_at_rest(m))
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")

    @m.task
    def touch() -> None:
        bar = qemu.mmap(dev.file, 2)
        if len(pat_memtype_list(m)) == 2:
            m.reached("the kernel has it reserved")
        m.saw(qemu.read(bar))
        reserved = len(pat_memtype_list(m)) - 1
        m.require(reserved == 1, "reserved-twice", f"the BAR is reserved {reserved} times")
        qemu.munmap(bar, 2)
