"""Who gives a BAR's memtype back, and when?

A BAR of two pages, mapped through VFIO: touched, switched off and on, touched again, unmapped page by page; then the
device is closed.
"""

from mmlitmus.api import PAGE_SIZE, Machine, case, memtypes_at_rest
from mmlitmus.kernel.drivers.vfio.pci import open_device


@case("examples/vfio-memtype-life")
def vfio_memtype_life(m: Machine) -> None:
    dev = open_device(m, pages=2)
    qemu = m.process("qemu")
    a = m.slot("a")
    m.check(lambda: memtypes_at_rest(m))

    def map_the_bar() -> None:
        qemu.mmap(dev.file, 2)

    def touch() -> None:
        m.require(qemu.read(a) != "SIGBUS", "spurious-sigbus", "memory is on, and the page cannot be had")

    def switch_off_and_on() -> None:
        dev.write_command(memory=False)
        dev.write_command(memory=True)

    def touch_again() -> None:
        touch()

    def unmap_page_0() -> None:
        qemu.munmap(a, 1)

    def unmap_page_1() -> None:
        qemu.munmap(a + PAGE_SIZE, 1)

    def close() -> None:
        dev.close_device()

    @m.task
    def life() -> None:
        map_the_bar()
        touch()
        switch_off_and_on()
        touch_again()
        unmap_page_0()
        unmap_page_1()
        close()
