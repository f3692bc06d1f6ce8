"""Does mremap make a mapping of a driver's longer?

What maps frame numbers never grows: VM_PFNMAP and VM_DONTEXPAND are asked for, and the answer is -EFAULT. A
VM_MIXEDMAP, which vmf_insert_mixed or vm_insert_page fills, may grow by moving on every kernel. Where it is it grows
on 5.10 only: from 6.0 on the mapping is merged with what it is to grow by, and nothing special merges. Then mremap is
-ENOMEM, with MREMAP_MAYMOVE too, and only because there is room behind the mapping: one with a neighbour moves.

So a driver whose users grow its mappings sees an error that depends on what lies behind them.
"""

from mmlitmus.api import EFAULT, ENOMEM, Machine, always, case, never, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe
from mmlitmus.kernel.mm.mremap import MREMAP_MAYMOVE

STAYS = "a mapping with room behind it cannot grow"


@case(
    "pfn/grow",
    scenario="S-PFN-21",
    reach=("a neighbour was in the way", "a PFNMAP was refused"),
    expect={
        "v5.10": never,
        "deb-5.10.262": never,
        **releases("v6.1", "deb-7.3.4", always(STAYS)),
    },
    evidence={
        "deb-5.10.262": "recorded",
        "deb-6.1.192": "recorded",
        "deb-6.12.117": "recorded",
        "deb-7.3.4": "recorded",
    },
)
def grow(m: Machine) -> None:
    """Does mremap grow a VM_MIXEDMAP that has room behind it, as it moves one that has none?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")

    @m.task
    def task() -> None:
        frames = app.mmap(probe.file("remap"), 1, at="a")
        if app.mremap(frames, 1, 2, flags=MREMAP_MAYMOVE) == -EFAULT:
            m.reached("a PFNMAP was refused")
        crowded = app.mmap(probe.file("mixed"), 1, at="b")
        app.mmap(probe.file("mixed"), 1, at=crowded + 0x1000)
        if app.mremap(crowded, 1, 2) == -ENOMEM and app.mremap(crowded, 1, 2, flags=MREMAP_MAYMOVE) > 0:
            m.reached("a neighbour was in the way")
        free = app.mmap(probe.file("mixed"), 1, at="d")
        got = app.mremap(free, 1, 2, flags=MREMAP_MAYMOVE)
        m.require(got > 0, STAYS, f"mremap of a VM_MIXEDMAP with nothing behind it is {got}")
