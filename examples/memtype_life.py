"""Who gives a memtype back, and when?

Two mappings of a driver that maps all of a VMA in ->mmap and lets faults put pages back. The first is forked, zapped
page by page, touched again at its second page, and unmapped. The second is unmapped head first.
"""

from mmlitmus.api import PAGE_SIZE, Machine, case, memtypes_at_rest, memtypes_now
from mmlitmus.kernel.drivers.misc.probe import open_probe


@case("examples/memtype-life")
def memtype_life(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    file = probe.file("remap_refill", "wc")
    a, b = m.slot("a"), m.slot("b")
    m.check(lambda: memtypes_at_rest(m))

    def map_pages_0_and_1() -> None:
        app.mmap(file, 2, at="a")

    def fork() -> None:
        child = app.fork("child")
        if not isinstance(child, int):
            child.exit()

    def zap_page_0() -> None:
        probe.unmap_mapping_range(0, 1)
        memtypes_now(m)

    def zap_page_1() -> None:
        probe.unmap_mapping_range(1, 1)

    def touch_page_1_again() -> None:
        app.read(a + PAGE_SIZE)

    def unmap_both() -> None:
        app.munmap(a, 2)

    def map_pages_2_and_3() -> None:
        app.mmap(file, 2, at="b", offset=2)

    def unmap_page_2() -> None:
        app.munmap(b, 1)

    def unmap_page_3() -> None:
        app.munmap(b + PAGE_SIZE, 1)

    @m.task
    def life() -> None:
        map_pages_0_and_1()
        fork()
        zap_page_0()
        zap_page_1()
        touch_page_1_again()
        unmap_both()
        map_pages_2_and_3()
        unmap_page_2()
        unmap_page_3()
