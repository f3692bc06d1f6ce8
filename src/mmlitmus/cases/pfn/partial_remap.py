"""Does remap_pfn_range of a part of a VMA reserve the frames' memtype?

No: only a mapping of the whole VMA does. For less, the type is looked up, page by page, and all pages must agree; the
cache type that the driver asked for is lost, for nobody has reserved it. There is no VM_PAT then, and in 6.16 no
tracking object: nothing is held for as long as the mapping lives.
"""

from mmlitmus.api import (
    EINVAL,
    CacheMode,
    Machine,
    always,
    case,
    memtypes_at_rest,
    never,
    pat_memtype_list,
    pte_cachemode,
    releases,
)
from mmlitmus.kernel.drivers.misc.probe import open_probe

RECORDED = ("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4")


@case(
    "pfn/partial-remap",
    control="pfn/partial-remap/whole",
    scenario="S-PFN-02",
    thread="000",
    claims=("C000-38",),
    reach=("touch got through", "beyond got SIGBUS"),
    expect={
        **releases("v5.10", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(RECORDED, "recorded"),
)
def partial_remap(m: Machine) -> None:
    """Does remap_pfn_range of half a VMA reserve anything, or give the type that was asked for?"""
    look(m, "remap_partial")


@case(
    "pfn/partial-remap/whole",
    scenario="S-PFN-02",
    thread="000",
    reach=("touch got through",),
    expect={
        **releases("v5.10", "deb-6.12.117", always("reserved", "vm-pat-set", "wrong-type")),
        **releases("v6.16", "deb-7.3.4", always("reserved", "wrong-type")),
    },
)
def whole_remap(m: Machine) -> None:
    """... and of all of it? (It does: the control.)"""
    look(m, "remap")


def look(m: Machine, insert: str) -> None:
    """Map four pages, and see what they are."""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def touch() -> None:
        a = app.mmap(probe.file(insert, "wc"), 4)
        m.require("ar" not in app.vm_flags(a).split(), "vm-pat-set", "half a VMA was mapped, and it has VM_PAT")
        m.require(len(pat_memtype_list(m)) == 1, "reserved", "half a VMA was mapped, and something is reserved")
        m.require(pte_cachemode(app.pte(a)) == CacheMode.UC_MINUS, "wrong-type", "the page's type was not looked up")
        m.saw(app.read(a))
        m.require(app.write(a) == 0, "wrong-result", "half a VMA was mapped, and a store does not get through")
        if app.read(a + 0x2000) == "SIGBUS":
            m.reached("beyond got SIGBUS")


@case(
    "pfn/partial-remap/owned",
    control="pfn/partial-remap/owned/whole",
    scenario="S-PFN-02",
    thread="000",
    claims=("C000-38",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def partial_remap_of_reserved_frames(m: Machine) -> None:
    """... and where another mapping has reserved the frames?"""
    map_both(m, "remap_partial")


@case(
    "pfn/partial-remap/owned/whole",
    scenario="S-PFN-02",
    thread="000",
    expect=releases("v5.10", "deb-7.3.4", always("reserved")),
)
def whole_remap_of_reserved_frames(m: Machine) -> None:
    """... and if the second mapping is a whole one? (It reserves, too: the control.)"""
    map_both(m, "remap")


def map_both(m: Machine, insert: str) -> None:
    """A whole mapping, and another one."""
    m.check(lambda: memtypes_at_rest(m))
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def mmap() -> None:
        app.mmap(probe.file("remap", "wc"), 4)
        b = app.mmap(probe.file(insert), 4, at="b")
        m.require(pte_cachemode(app.pte(b)) == CacheMode.WC, "wrong-type", "the frame is WC, and is mapped otherwise")
        m.require(len(pat_memtype_list(m)) == 2, "reserved", "the second mapping has reserved, too")
        app.munmap(b, 4)


@case(
    "pfn/partial-remap/mixed-types",
    control="pfn/partial-remap/mixed-types/whole",
    scenario="S-PFN-02",
    thread="000",
    claims=("C000-38",),
    reach=("the whole was coerced",),
    expect={**releases("v5.10", "deb-7.3.4", never)},
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def partial_remap_of_mixed_types(m: Machine) -> None:
    """... and where the frames have two types? (A mapping of the whole VMA is coerced, and not refused.)"""
    map_over_two_types(m, "remap_partial")


@case(
    "pfn/partial-remap/mixed-types/whole",
    scenario="S-PFN-02",
    thread="000",
    reach=("the whole was coerced",),
    expect=releases("v5.10", "deb-7.3.4", always("wrong-errno")),
)
def whole_remap_of_mixed_types(m: Machine) -> None:
    """... and if it is a whole one? (The control.)"""
    map_over_two_types(m, "remap", "uc-")


def map_over_two_types(m: Machine, insert: str, cache: str = "") -> None:
    """Page 0 is WC, the others nobody has reserved."""
    probe = open_probe(m, pages=4)
    app = m.process("app")
    app.mmap(probe.file("remap", "wc"), 1)

    @m.task
    def mmap() -> None:
        got = app.mmap(probe.file(insert, cache), 4, at="b")
        m.require(got == -EINVAL, "wrong-errno", f"page 0 is WC, page 1 is not, and remap_pfn_range gives {got}")
        c = app.mmap(probe.file("remap", "uc-"), 2, at="c")
        if c > 0 and pte_cachemode(app.pte(c + 0x1000)) == CacheMode.WC:
            m.reached("the whole was coerced")
