"""A mapping is unmapped in three parts, the middle first: is all of it given back?

Up to 6.15 neither the middle nor the head of an entry can be given back: two complaints in the log. The tail can, and
what is in front of it stays reserved. From 6.16 on nothing of the kind.
"""

from mmlitmus.api import PAGE_SIZE, Machine, always, case, memtypes_at_rest, never, releases
from mmlitmus.kernel.drivers.misc.probe import open_probe

LEAK = always("freeing-invalid-memtype", "memtype-leak")


@case(
    "pat/split-middle",
    scenario="S-PAT-13",
    thread="000",
    claims=("N7",),
    reach=("all is unmapped",),
    expect={
        **releases("v5.10", "deb-6.12.117", LEAK),
        **releases("v6.16", "deb-7.3.4", never),
        **releases("v5.10", "deb-6.12.117", LEAK, "+untrack-in-unmap-vmas"),
        **releases("v5.10", "deb-6.12.117", never, "+pfnmap-track-ctx"),
    },
    evidence=dict.fromkeys(("deb-5.10.262", "deb-6.1.192", "deb-6.12.117", "deb-7.3.4"), "recorded"),
)
def split_middle(m: Machine) -> None:
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        app.munmap(a + PAGE_SIZE, 1)
        app.munmap(a, 1)
        app.munmap(a + 2 * PAGE_SIZE, 2)
        m.reached("all is unmapped")


@case(
    "pat/split-middle/exit",
    scenario="S-PAT-13",
    thread="000",
    claims=("N7",),
    reach=("gone",),
    expect={
        **releases("v5.10", "deb-6.12.117", LEAK),
        **releases("v6.16", "deb-7.3.4", never),
        "v6.12 +untrack-in-unmap-vmas": LEAK,
        "v6.12 +pfnmap-track-ctx": never,
    },
    evidence=dict.fromkeys(("deb-6.1.192", "deb-6.12.117"), "source"),
)
def split_and_exit(m: Machine) -> None:
    """... and if the process makes a hole and exits?"""
    probe = open_probe(m, pages=4)
    app = m.process("app")
    a = app.mmap(probe.file("remap", "wc"), 4)
    m.check(lambda: memtypes_at_rest(m))

    @m.task
    def task() -> None:
        app.munmap(a + PAGE_SIZE, 2)
        app.exit()
        m.reached("gone")
