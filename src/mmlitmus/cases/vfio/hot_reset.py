"""Can two hot resets that take the same devices in opposite order deadlock?

Hot reset takes each device's memory_lock with a trylock, and gives -EBUSY when one is held. Waiting instead would be an
ABBA. (In-tree two resets of one set are serialised by dev_set->lock, and no device is in two sets: the crossing here is
the dossier's thought experiment. What a hot reset really meets is a fault or a register access, ``hot-reset/busy``.)
"""

from mmlitmus.api import Machine, case, never, releases, sometimes
from mmlitmus.kernel.drivers.vfio.pci import open_device, share_dev_set, vfio_pci_dev_set_hot_reset


@case(
    "vfio/hot-reset",
    control="vfio/hot-reset/blocking",
    scenario="S-VFIO-12",
    thread="004",
    reach=("hot reset was busy", "hot reset went through"),
    expect={**releases("v6.10", "deb-7.3.4", never)},
)
def crossed_hot_resets(m: Machine) -> None:
    cross(m)


@case(
    "vfio/hot-reset/blocking",
    scenario="S-VFIO-12",
    thread="004",
    asks=("deadlock memory_lock", "inversion memory_lock -> memory_lock"),
    reach=("hot reset went through",),
    expect={
        "v6.12 +blocking-hot-reset": sometimes("deadlock memory_lock", "inversion memory_lock -> memory_lock"),
    },
)
def crossed_hot_resets_that_wait(m: Machine) -> None:
    """... and if hot reset waited for each device?"""
    cross(m)


def cross(m: Machine) -> None:
    one = open_device(m, pages=1, name="one")
    two = open_device(m, pages=1, name="two")
    forth, back = share_dev_set([one, two]), share_dev_set([two, one])
    m.process("vmm")

    @m.task
    def reset_forth() -> None:
        vfio_pci_dev_set_hot_reset(forth)

    @m.task
    def reset_back() -> None:
        vfio_pci_dev_set_hot_reset(back)


@case(
    "vfio/hot-reset/busy",
    control="vfio/hot-reset/busy/blocking",
    scenario="S-VFIO-12",
    thread="004",
    asks=("stale-translation", "access-after-disable", "deadlock mmap_lock / vma_lock"),
    reach=("hot reset was busy", "hot reset went through"),
    expect={"v6.1": never, "v6.6": never, "v6.10": never, "v6.12": never, "v6.16": never, "v7.3": never},
)
def hot_reset_vs_fault(m: Machine) -> None:
    """... and a hot reset against a fault, and a thread that wants mmap_lock for writing?"""
    meet_a_fault(m)


@case(
    "vfio/hot-reset/busy/blocking",
    scenario="S-VFIO-12",
    thread="004",
    asks=("stale-translation", "access-after-disable", "deadlock mmap_lock / vma_lock"),
    reach=("hot reset went through",),
    expect={
        "v6.1 +blocking-hot-reset-vma-list": sometimes(
            "deadlock mmap_lock / vma_lock",
            "inversion memory_lock -> memory_lock",
            "inversion mmap_lock -> vma_lock -> mmap_lock",
            "inversion vma_lock -> vma_lock",
        ),
        "v6.12 +blocking-hot-reset": sometimes("inversion memory_lock -> memory_lock"),
    },
)
def waiting_hot_reset_vs_fault(m: Machine) -> None:
    """... and the same if hot reset waited, on the list of VMAs?"""
    meet_a_fault(m)


def meet_a_fault(m: Machine) -> None:
    m.faults = 1
    one = open_device(m, pages=1, name="one")
    two = open_device(m, pages=1, name="two")
    both = share_dev_set([one, two])
    qemu = m.process("qemu")
    fresh = qemu.mmap(one.file, 1, at="a")
    used = qemu.mmap(two.file, 1, at="b")
    qemu.read(used)

    @m.task
    def reset() -> None:
        vfio_pci_dev_set_hot_reset(both)

    @m.task
    def fault() -> None:
        qemu.read(fresh)

    @m.task
    def mlock() -> None:
        qemu.mlock(used, 1)
