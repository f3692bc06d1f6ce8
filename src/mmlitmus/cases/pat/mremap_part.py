"""Part of a mapping is moved by mremap, then both are unmapped: is all of it given back?

Up to 6.15 mremap clears VM_PAT of the original, all of it, though it has moved only a part: what stays behind is
untracked from then on, and its reservation is given back by nobody. If the moved part is the tail, that much is freed;
if it is the head, not even that. From 6.16 on both parts hold the one reservation.
"""

from mmlitmus.api import PAGE_SIZE, Machine, always, case, memtypes_at_rest, never, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe

SOURCE = dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source")


@case(
    "pat/mremap-part",
    scenario="S-PAT-13",
    thread="000",
    claims=("N7",),
    reach=("moved", "all is unmapped"),
    expect={
        **releases("v5.10", "deb-6.12.117", always("memtype-leak")),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", always("memtype-leak"), "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=SOURCE,
)
def mremap_tail(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, at="a")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        b = app.mremap(a + 2 * PAGE_SIZE, 2, 2, to="b")
        if b > 0:
            m.reached("moved")
        app.munmap(b, 2)
        app.munmap(a, 2)
        m.reached("all is unmapped")


@case(
    "pat/mremap-part/head",
    scenario="S-PAT-13",
    thread="000",
    claims=("N7",),
    reach=("moved", "all is unmapped"),
    expect={
        **releases("v5.10", "deb-6.12.117", always("freeing-invalid-memtype", "memtype-leak")),
        **releases("v6.16", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": always("freeing-invalid-memtype", "memtype-leak"),
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=SOURCE,
)
def mremap_head(m: Machine) -> None:
    """... and if it is the head that is moved?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4, at="a")
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        b = app.mremap(a, 2, 2, to="b")
        if b > 0:
            m.reached("moved")
        app.munmap(b, 2)
        app.munmap(a + 2 * PAGE_SIZE, 2)
        m.reached("all is unmapped")
