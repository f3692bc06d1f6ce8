"""Can one mapping have pages of two types?

A page of a BAR is faulted in while nobody has reserved it: UC-. Then the same four pages are mapped WC; nothing speaks
against it, for the tree is empty. The next page that is faulted into the first mapping is WC. So that one has both
types, and its first frame is mapped with both: vmf_insert_pfn leaves no trace that a reservation could run into. All
releases agree, 6.16 and later too: a driver that faults its pages in has to reserve the frames itself.
"""

from mmlitmus.api import PAGE_SIZE, CacheMode, Machine, always, case, memtypes_at_rest, pte_cachemode, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe


@case(
    "pat/mixed-types",
    scenario="S-PAT-04",
    thread="000",
    claims=("C000-35",),
    reach=("UC- and WC in one mapping",),
    expect={
        **releases("v5.10", "deb-7.3.4", always("memtype-alias")),
        "v6.12 +untrack-in-unmap-vmas": always("memtype-alias"),
        "v6.12 +pfnmap-track-ctx": always("memtype-alias"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def mixed_types(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    b = app.mmap(probe.file("fault_pfn"), 4, at="b")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def fault_map_fault() -> None:
        app.write(b)
        a = app.mmap(probe.file("remap", "wc"), 4, at="a")
        app.write(b + PAGE_SIZE)
        modes = [pte_cachemode(app.pte(at)) for at in (b, b + PAGE_SIZE)]
        if modes == [CacheMode.UC_MINUS, CacheMode.WC]:
            m.reached("UC- and WC in one mapping")
        mode = pte_cachemode(app.pte(a))
        m.require(mode == CacheMode.WC, "wrong-type", f"the second mapping is {mode.name}")
